--- `theaterref explain`, `lock` and `policy`: what rules do.
-- @module theaterref.cli.policies
local core = require "theaterref.core"
local errors = require "theaterref.error"
local fetching = require "theaterref.cli.fetching"
local lockfiles = require "theaterref.policy.lockfile"
local output = require "theaterref.cli.output"
local policies = require "theaterref.policy"
local references = require "theaterref.reference"
local settings = require "theaterref.cli.settings"
local suggest = require "theaterref.suggest"

-- -------------------------------------------------------------------- lock

-- Returns what adds each thing that is resolved to 'lines', and puts it into the store, if
-- there is one. 'failed' is called with an error.
local function collector(resolver, lines, store, failed)
  local schemes = resolver.context.policy.schemes
  return function(step)
    local job, blob = step.resolved, step.blob
    if not job or job.ctx.purpose == "secret" then return end
    local fields = { sha256 = blob:digest "sha256", size = #blob }
    for _, candidate in ipairs(step.candidates) do
      local parsed = references.parse(candidate, schemes)
      if parsed then lines[parsed.text] = fields end
    end
    local hash, err = true, nil
    if store then hash, err = store:put(blob) end
    if not hash then failed(err) end
  end
end

-- Plans each manifest. Returns the line of everything that was resolved on the way.
local function collect_lines(args, store)
  local state, err = settings.state(args)
  if err then return nil, err end
  local lines, failure = {}, nil
  local resolver
  args.lockfile = false -- what is locked comes without the old lockfile
  resolver, err = settings.resolver(args)
  if not resolver then return nil, err end
  local collect = collector(resolver, lines, store, function(why) failure = failure or why end)
  for _, manifest in ipairs(args.manifests) do
    local plan, why = resolver:trace(manifest, { purpose = "manifest" }, collect, { initial_state = state })
    if not plan or failure then return nil, why or failure end
  end
  return lines
end

local function lock(args)
  local store, lines, text, ok, err
  if args.store then
    store, err = settings.store(args, args.store, { algorithm = "sha256" })
    if not store then return nil, err end
  end
  lines, err = collect_lines(args, store)
  if lines then text, err = lockfiles.text(lines, args.output) end
  if not text then return nil, err end
  local digests = {}
  for ref, fields in pairs(lines) do digests[references.redact(ref)] = fields.sha256 end
  local data = { lockfile = args.output, digests = digests, text = core.blob(text) }
  if args.output == "-" then return data end
  ok, err = data.text:write(args.output)
  return ok and data, err
end

-- ----------------------------------------------------------------- explain

local purposes = { direct = true, manifest = true, initial_state = true, package = true, secret = true }

-- Returns the purpose of a reference. Without --purpose, a name that ends as manifests do is one.
local function purpose_of(args)
  if args.purpose then return args.purpose end
  local path = args.reference:gsub("[?#].*$", "")
  return (path:find "%.toml$" or path:find "%.json$" or path:find "%.lua$") and "manifest" or "direct"
end

local function explain(args)
  local state, err = settings.state(args)
  if err then return nil, err end
  local purpose = purpose_of(args)
  if not purposes[purpose] then
    return nil, errors.new("policy", ("there is no purpose '%s'%s: direct, manifest, initial_state, package, secret")
      :format(purpose, suggest.closest(purpose, purposes)))
  end
  local resolver
  resolver, err = settings.resolver(args)
  if not resolver then return nil, err end
  local steps = output.array {}
  local result
  local function trace(step)
    if step.rule then steps[#steps + 1] = step end
  end
  result, err = resolver:trace(args.reference, { purpose = purpose, name = args.name }, trace, { initial_state = state })
  local data = { steps = steps }
  if err then
    data.error = tostring(err)
  elseif purpose == "manifest" then
    data.name, data.package_reference = result.name, references.redact(result.package_reference)
    data.bytes = #result.package
  else
    data.bytes = #result
  end
  return data, err
end

local function answer_text(answer)
  if type(answer) == "table" and answer[1] then return table.concat(answer, ", then ") end
  if type(answer) == "table" then return output.to_json(answer) end
  return tostring(answer)
end

local function step_text(step)
  local subject = step.reference and " " .. step.reference or ""
  if step.rule == "candidate" then return ("%-11s%s: failed: %s"):format(step.rule, subject, step.reason) end
  if not step.answer and step.reason then
    return ("%-11s%s: refused (%s)   [%s]"):format(step.rule, subject, step.reason, step.by)
  end
  local hosts = step.redirect_hosts
  local more = step.reason or hosts and "redirects: " .. (hosts == "any" and hosts or table.concat(hosts, ", "))
  return ("%-11s%s -> %s%s   [%s]"):format(step.rule, subject, answer_text(step.answer), more and " (" .. more .. ")" or "",
    step.by)
end

local function show_explanation(data)
  local lines = {}
  for i, step in ipairs(data.steps) do lines[i] = ("%2d. %s"):format(i, output.plain(step_text(step))) end
  if data.name then
    lines[#lines + 1] = ("=> %s: package %s, %d bytes"):format(output.plain(data.name), output.plain(data.package_reference),
      data.bytes)
  elseif data.bytes then
    lines[#lines + 1] = ("=> %d bytes"):format(data.bytes)
  end
  return table.concat(lines, "\n")
end

-- ------------------------------------------------------------------- check

local function check(args)
  local policy, err = policies.load(args.file, args.trusted)
  if not policy then return nil, err end
  local own = output.array {}
  for name in pairs(policy.own) do own[#own + 1] = name end
  for scheme in pairs(policy.schemes) do own[#own + 1] = "schemes." .. scheme end
  table.sort(own)
  return { file = args.file, rules = own }
end

return {
  { name = "explain", does = "Show what each rule makes of a reference or a manifest.", fetches = true,
    examples = { "theaterref explain manifest.toml --policy policy.lua" },
    arguments = { { "reference", "Of anything. One that ends in .toml, .json or .lua is planned as a manifest." } },
    options = { { "--purpose", "NAME", "The purpose that rules see: direct, manifest, initial_state, package or secret." },
      { "--name", "NAME", "The actor's name that rules see." }, fetching.state_option },
    run = explain, show = show_explanation },
  { name = "lock", does = "Write a lockfile with the digest of everything the manifests need.", fetches = true, locks = true,
    examples = { "theaterref lock manifest.toml -o theaterref.lock --store release",
      "theaterref plan manifest.toml --lockfile theaterref.lock --offline release" },
    arguments = { { "manifests", "Their references.", many = true } },
    options = { { "-o --output", "FILE", "The lockfile; - for standard output.", default = "theaterref.lock" },
      { "--store", "ID", "Put the bytes into this store too, for --offline." },
      fetching.state_option },
    run = lock, show = function(data) return data.lockfile == "-" and data.text or nil end },
  { name = "policy", does = "Work on policy scripts.", commands = {
    { name = "check", does = "Load a policy script and list the rules it has.",
      examples = { "theaterref policy check policy.lua" },
      arguments = { { "file", "The script." } },
      options = { { "--trusted", nil, "Run it without a sandbox." } },
      run = check, show = function(data)
        return output.plain(data.file) .. ": " .. (data.rules[1] and table.concat(data.rules, ", ") or "no rules of its own")
      end },
  } },
}
