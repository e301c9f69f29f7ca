--- `theaterref explain`, `lock` and `policy`: what rules do.
-- @module theaterref.cli.policies
local core = require "theaterref.core"
local errors = require "theaterref.error"
local fetching = require "theaterref.cli.fetching"
local lockfiles = require "theaterref.policy.lockfile"
local output = require "theaterref.cli.output"
local policies = require "theaterref.policy"
local settings = require "theaterref.cli.settings"

-- -------------------------------------------------------------------- lock

-- Plans each manifest. Returns the digest of everything resolved on the way, and
-- puts it into the store, if there is one.
local function collect_digests(args, store)
  local state, err = settings.state(args)
  if err then return nil, err end
  local digests, failure = {}, nil
  local resolver
  resolver, err = settings.resolver(args, function(event)
    if event.type ~= "resolved" or event.purpose == "secret" then return end
    local digest = event.blob:digest "sha256"
    for _, candidate in ipairs(event.candidates) do digests[candidate] = digest end
    if not store then return end
    local hash, why = store:put(event.blob)
    failure = failure or not hash and why
  end)
  if not resolver then return nil, err end
  for _, manifest in ipairs(args.manifests) do
    local plan, why = resolver:plan(manifest, { initial_state = state })
    if not plan or failure then return nil, why or failure end
  end
  return digests
end

local function lock(args)
  local store, digests, ok, err
  if args.store then
    store, err = settings.store(args, args.store, { algorithm = "sha256" })
    if not store then return nil, err end
  end
  digests, err = collect_digests(args, store)
  if not digests then return nil, err end
  local data = { lockfile = args.output, digests = digests, text = core.blob(lockfiles.text(digests, args.output)) }
  if args.output == "-" then return data end
  ok, err = data.text:write(args.output)
  return ok and data, err
end

-- ----------------------------------------------------------------- explain

-- True if a reference looks like a manifest, by its name or by its bytes.
local function looks_like_manifest(reference, blob)
  if reference:gsub("[?#].*$", ""):find "%.[tj][os][mo][ln]$" then return true end
  local text = #blob < 1 << 20 and tostring(blob) or ""
  return not text:find "^%z" and text:find "name%s*=" ~= nil and text:find "package%s*=" ~= nil
end

local function explain(args)
  local resolver, err = settings.resolver(args)
  if not resolver then return nil, err end
  local steps = output.array {}
  resolver.policy.tracer = function(step)
    if type(step.answer) == "table" and step.rule == "allow_spawn" then step.answer = "a narrowed manifest" end
    if step.rule == "request" and type(step.answer) == "table" then step.answer.headers, step.answer.hosts = nil, nil end
    steps[#steps + 1] = step
  end
  local blob, plan
  blob, err = resolver:resolve(args.reference)
  if blob and looks_like_manifest(args.reference, blob) then
    for i = 1, #steps do steps[i] = nil end
    plan, err = resolver:plan(args.reference)
  end
  local data = { steps = steps }
  if err then
    data.error = tostring(err)
  elseif plan then
    data.name, data.package_reference, data.bytes = plan.name, errors.redact(plan.package_reference), #plan.package
  else
    data.bytes = #blob
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
  if step.answer == nil and step.rule ~= "integrity" and step.rule ~= "request" then
    return ("%-11s%s: %s"):format(step.rule, subject, step.reason or "no answer")
  end
  return ("%-11s%s -> %s%s   [%s]"):format(step.rule, subject, answer_text(step.answer),
    step.reason and " (" .. tostring(step.reason) .. ")" or "", step.by)
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
    arguments = { { "reference", "Of anything; a manifest is planned." } },
    run = explain, show = show_explanation },
  { name = "lock", does = "Write a lockfile with the digest of everything the manifests need.", fetches = true,
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
        return data.file .. ": " .. (data.rules[1] and table.concat(data.rules, ", ") or "no rules of its own")
      end },
  } },
}
