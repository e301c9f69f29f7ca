--- `theaterref explain`, `lock` and `policy`: work with policies and lockfiles.
-- @module theaterref.cli.policies
local core = require "theaterref.core"
local errors = require "theaterref.error"
local fetching = require "theaterref.cli.fetching"
local lockfiles = require "theaterref.policy.lockfile"
local output = require "theaterref.cli.output"
local policies = require "theaterref.policy"
local references = require "theaterref.reference"
local rules = require "theaterref.policy.rules"
local settings = require "theaterref.cli.settings"
local suggest = require "theaterref.suggest"

-- -------------------------------------------------------------------- lock

-- Puts bytes into a store, under a label that keeps them from gc.
local function keep(store, blob, name)
  local hash, err = store:put(blob)
  if not hash then return nil, err end
  return store:label(("lock/%s/%s"):format(name, hash), hash)
end

-- Purposes of bytes that a lockfile has no line for.
local unlocked = { secret = true, signature = true, key = true }

-- Returns the digests of signatures for a line; nil for none.
local function digests_of(documents)
  local digests, seen = {}, {}
  for _, document in ipairs(documents or {}) do
    local digest = document:digest "sha256"
    if not seen[digest] then digests[#digests + 1] = digest end
    seen[digest] = true
  end
  return digests[1] and table.concat(digests, ",")
end

-- Returns what adds each thing that is resolved to 'lines', and puts it into the store, if
-- there is one, labelled with the lockfile's name. 'failed' is called with an error.
local function collector(resolver, lines, store, name, failed)
  local schemes = resolver.context.policy.schemes
  return function(step)
    local job, blob = step.resolved, step.blob
    if not job then return end
    if job.ctx.purpose == "key" and store then
      local kept, err = keep(store, blob, name)
      if not kept then failed(err) end
    end
    if unlocked[job.ctx.purpose] then return end
    local fields = { sha256 = blob:digest "sha256", size = #blob, manifest = job.manifest,
      version = job.version or job.parsed.version }
    fields.signatures = digests_of(job.signature_documents)
    for _, candidate in ipairs(step.candidates) do
      if job.ctx.purpose == "manifest" then candidate = references.for_manifest(candidate, schemes) end -- as plan asks for it
      local parsed = references.parse(candidate, schemes)
      if parsed then lines[parsed.text] = fields end
    end
    local kept, err = true, nil
    if store then kept, err = keep(store, blob, name) end
    for _, document in ipairs(kept and store and job.signature_documents or {}) do
      if kept then kept, err = keep(store, document, name) end
    end
    for _, manifest in ipairs(kept and store and job.signed_manifests or {}) do
      if kept then kept, err = keep(store, manifest.blob, name) end
    end
    if not kept then failed(err) end
  end
end

local MAX_AT_ONCE = 4

-- Plans the manifests, a few at a time. Returns true, or nil and the error of the first one that failed.
local function plan_all(resolver, manifests, collect, options)
  local futures = {}
  for i = 1, #manifests do
    for next_one = #futures + 1, math.min(i + MAX_AT_ONCE - 1, #manifests) do
      futures[next_one] = resolver:start_trace(manifests[next_one], collect, options)
    end
    local plan, err = futures[i]:wait()
    if not plan then
      for later = i + 1, #futures do futures[later]:cancel() end
      return nil, err
    end
    futures[i] = false -- no plan stays in memory
  end
  return true
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
  local name = args.output == "-" and "theaterref.lock" or args.output:match "[^/]*$"
  local collect = collector(resolver, lines, store, name, function(why) failure = failure or why end)
  local ok
  ok, err = plan_all(resolver, args.manifests, collect, { initial_state = state })
  err = err or failure
  return ok and not err and lines or nil, err
end

-- The lines of an existing lockfile, unless it is to be replaced.
local function read_old_lines(args)
  if args.output == "-" then return {} end
  local old, err, is_one = lockfiles.read(args.output)
  if not old and (err.kind == "not_found" or is_one and args.prune) then return {} end
  if old and args.prune then return {} end
  return old, err
end

-- Adds the lines of the existing lockfile to 'lines', except for references that have a line there.
local function add_old_lines(lines, args)
  local old, err = read_old_lines(args)
  if not old then return nil, err end
  local known = {}
  for ref in pairs(lines) do known[lockfiles.key(ref)] = true end
  for ref, fields in pairs(old) do
    if not known[ref] then lines[ref] = fields end
  end
  return true
end

local EACCES = 13

-- Keeps others from updating the lockfiles of a folder. Nil where there is no folder, or none
-- that this user may read.
local function lock_folder(path)
  path = lockfiles.file_of(path) or path -- which may be a link
  local lock, err = core.content_store(path:match "^(.*/)" or ".", {}):lock()
  if lock or err.kind == "not_found" or err.errno == EACCES then return lock end
  if err.kind ~= "timeout" then return nil, err end
  return nil, errors.new(err.kind, ("%s: another 'theaterref lock' is at work in its folder"):format(path))
end

-- Returns how 'lines' differ from those of the lockfile as it was, sorted by reference.
local function changes(old, lines)
  local fresh, list = {}, output.array {}
  for ref, fields in pairs(lines) do fresh[lockfiles.key(ref)] = fields.sha256 end
  local function add(change, ref, sha256, former)
    list[#list + 1] = { change = change, reference = core.redact_reference(ref), sha256 = sha256, former = former }
  end
  for ref, sha256 in pairs(fresh) do
    local former = old[ref] and old[ref].sha256
    if former ~= sha256 then add(former and "changed" or "added", ref, sha256, former) end
  end
  for ref, fields in pairs(old) do
    if not fresh[ref] then add("removed", ref, nil, fields.sha256) end
  end
  table.sort(list, function(a, b) return a.reference < b.reference end)
  return list
end

local function changes_text(list)
  local lines = {}
  for i, change in ipairs(list) do
    lines[i] = change.change .. " " .. output.plain(change.reference)
    if change.change == "changed" then
      lines[i] = ("%s %s… -> %s…"):format(lines[i], change.former:sub(1, 12), change.sha256:sub(1, 12))
    end
  end
  return lines[1] and not output.is_quiet() and table.concat(lines, "\n") or nil
end

-- Writes a lockfile with 'lines', and those that it has. Returns its text, and what changed.
local function update(args, lines)
  local locked <close>, err = lock_folder(args.output) -- luacheck: ignore 211
  local ok, text
  if err then return nil, err end
  local old = args.output ~= "-" and lockfiles.read(args.output) or {}
  ok, err = add_old_lines(lines, args)
  if ok then text, err = lockfiles.text(lines, args.output) end
  if not text then return nil, err end
  text = core.blob(text)
  if args.output ~= "-" then ok, err = text:write(args.output) end
  if not ok then return nil, err end
  return text, args.output ~= "-" and changes(old, lines) or nil
end

local function lock(args)
  local store, lines, text, ok, err, changed
  local config
  config, err = settings.config(args)
  if not config then return nil, err end
  args.output = args.output or config.lockfile or "theaterref.lock"
  if args.store then
    store, err = settings.store(args, args.store, { algorithm = "sha256" })
    if not store then return nil, err end
  end
  ok, err = read_old_lines(args) -- before anything is fetched
  if ok then lines, err = collect_lines(args, store) end
  if lines then text, changed = update(args, lines) end
  if not text then return nil, err or changed end
  local digests = {}
  for ref, fields in pairs(lines) do
    local scheme = references.scheme(ref)
    local may_have_secrets = scheme == "data" or scheme and ref:find("?", 1, true)
    digests[may_have_secrets and core.redact_reference(ref) or lockfiles.key(ref)] = fields.sha256
  end
  return { lockfile = args.output, digests = digests, changes = changed, text = text }
end

-- ----------------------------------------------------------------- explain

local purposes = { direct = true, manifest = true, initial_state = true, package = true, secret = true,
  signature = true, key = true }

-- Returns the purpose of a reference. Without --purpose, a name that ends as manifests do is one.
local function purpose_of(args)
  if args.purpose then return args.purpose end
  local path = args.reference:match "^oci:[^#]*#title=([^&]*)" or args.reference:gsub("[?#].*$", "")
  return (path:find "%.toml$" or path:find "%.json$" or path:find "%.lua$") and "manifest" or "direct"
end

local function explain(args)
  local state, err = settings.state(args)
  if err then return nil, err end
  local purpose = purpose_of(args)
  if not purposes[purpose] then
    return nil, output.usage_error(("there is no purpose '%s'%s: direct, manifest, initial_state, package, secret, signature, "
      .. "key"):format(purpose, suggest.closest(purpose, purposes)))
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
    data.name, data.package_reference = errors.redact(result.name), references.redact(result.package_reference)
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
    return ("%-11s%s: %s (%s)   [%s]"):format(step.rule, subject, step.failed and "failed" or "refused", step.reason, step.by)
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
    lines[#lines + 1] = ("=> %s: package %s, %s"):format(output.plain(data.name), output.plain(data.package_reference),
      errors.bytes(data.bytes))
  elseif data.bytes then
    lines[#lines + 1] = "=> " .. errors.bytes(data.bytes)
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

-- -------------------------------------------------------------------- test

-- True if an answer is what a case expects: tables by what is in them.
local function same(expected, answer)
  if type(expected) ~= "table" or type(answer) ~= "table" then return expected == answer end
  for key, value in pairs(expected) do
    if not same(value, answer[key]) then return false end
  end
  for key in pairs(answer) do
    if expected[key] == nil then return false end
  end
  return true
end

local case_fields = { rule = "string", given = "table", answer = "any", more = "any", fails = "string" }

local ctx_fields = { purpose = true, manifest_reference = true, origin = true, name = true, path = true, manifest = true,
  package = true, digest = true, reference = true, asked = true, plain_http = true }

-- Returns what is wrong with the ctx of a case, which no rule would get.
local function ctx_fault(ctx)
  if type(ctx) ~= "table" then return nil end
  for field in pairs(ctx) do
    if not ctx_fields[field] then return ("there is no ctx.%s%s"):format(tostring(field), suggest.closest(field, ctx_fields)) end
  end
  local purpose = ctx.purpose
  if purpose ~= nil and not purposes[purpose] then
    return ("there is no purpose '%s'%s"):format(tostring(purpose), suggest.closest(purpose, purposes))
  end
end

-- Returns what is wrong with a case, or nil.
local function case_fault(case)
  if type(case) ~= "table" then return "a table was expected, not a " .. type(case) end
  for field, value in pairs(case) do
    local expected = case_fields[field]
    if not expected then return ("there is no field '%s'%s"):format(tostring(field), suggest.closest(field, case_fields)) end
    if expected ~= "any" and type(value) ~= expected then
      return ("'%s' must be a %s, not a %s"):format(field, expected, type(value))
    end
  end
  if not rules.by_name[case.rule or ""] then
    return ("there is no rule '%s' to ask%s"):format(tostring(case.rule), suggest.closest(case.rule, rules.by_name))
  end
  if not case.given then return "'given' must list what the rule gets" end
  return ctx_fault(case.given[case.rule == "merge" and 3 or 2])
end

-- Asks a rule. Returns what was expected and what came instead, if that is not the same.
local function run_case(policy, case)
  local given = table.pack(table.unpack(case.given, 1, 3))
  if case.rule == "accept" then given[1] = core.blob(given[1]) end
  local answer, more, err = policy:ask(function() end, case.rule, table.unpack(given, 1, 3))
  local message = err and errors.redact(errors.message_of(err))
  if case.fails then
    if message and message:find(case.fails, 1, true) then return end
    return "an error with '" .. case.fails .. "'", message or output.to_json(answer)
  end
  if message then return output.to_json(case.answer), "the error '" .. message .. "'" end
  if not same(case.answer, answer) then
    return output.to_json(case.answer), output.to_json(answer) .. (type(more) == "string" and " (" .. more .. ")" or "")
  end
  if case.more ~= nil and not same(case.more, more) then
    return "as its second answer " .. output.to_json(case.more), output.to_json(more)
  end
end

-- The place of the first case that is missing: of a hole, or of one with a name. Nil: none.
local function missing_case(cases)
  local count = 0
  for _ in pairs(cases) do count = count + 1 end
  for i = 1, math.max(count, 1) do
    if cases[i] == nil then return i end
  end
end

-- The cases of a file.
local function read_cases(path)
  local source, err = core.read_file(path)
  if not source then return nil, err end
  local cases
  cases, err = core.sandbox():run(tostring(source), "@" .. path)
  if errors.is(err) then return nil, err end
  local missing = type(cases) == "table" and missing_case(cases)
  if missing and next(cases) then
    return nil, errors.new("policy", ("%s: case %d is missing: is a name in it misspelt?"):format(path, missing))
  end
  if type(cases) ~= "table" or missing then
    return nil, errors.new("policy", path .. ": a list of cases was expected; see 'theaterref policy test --help'")
  end
  return cases
end

local function test(args)
  local path = args.cases or args.file:gsub("%.lua$", "") .. ".test.lua"
  local cases, policy, err
  cases, err = read_cases(path)
  if not cases then return nil, err end
  policy, err = policies.load(args.file, args.trusted, function(text) output.log("info", text) end)
  if not policy then return nil, err end
  local failed = output.array {}
  for i, case in ipairs(cases) do
    local fault = case_fault(case)
    if fault then return nil, errors.new("policy", ("%s: case %d: %s"):format(path, i, fault)) end
    local expected, got = run_case(policy, case)
    if expected then
      failed[#failed + 1] = { case = i, rule = case.rule, subject = case.given[1], expected = expected, got = got }
    end
  end
  return { file = args.file, cases = path, passed = #cases - #failed, failed = failed },
    failed[1] and errors.new("policy", "the policy does not do what its cases expect") or nil
end

local function show_test(data)
  local lines = {}
  for _, case in ipairs(data.failed) do
    local subject = type(case.subject) == "string" and references.redact(case.subject) or output.to_json(case.subject)
    lines[#lines + 1] = output.plain(("case %d: %s %s: expected %s, got %s"):format(case.case, case.rule, subject, case.expected,
      case.got))
  end
  lines[#lines + 1] = ("%s: %d passed, %d failed"):format(output.plain(data.cases), data.passed, #data.failed)
  return table.concat(lines, "\n")
end

return {
  { name = "explain", does = "Show the result of each rule for a reference or a manifest.", fetches = true,
    examples = { "theaterref explain manifest.toml --policy policy.lua" },
    arguments = { { "reference", "Any reference. One that ends in .toml, .json or .lua is planned as a manifest." } },
    options = { { "--purpose", "NAME", "Purpose passed to the rules: direct, manifest, initial_state, package or secret." },
      { "--name", "NAME", "Actor's name passed to the rules." }, fetching.state_option },
    run = explain, show = show_explanation },
  { name = "lock", does = "Write a lockfile with the digest of everything the manifests need.", fetches = true, locks = true,
    examples = { "theaterref lock manifest.toml -o theaterref.lock --store release",
      "theaterref plan manifest.toml --lockfile theaterref.lock --offline release" },
    arguments = { { "manifests", "References of the manifests.", many = true } },
    options = { { "-o --output", "FILE", "Lockfile to update; - for standard output. "
        .. "Default: the configuration's, else theaterref.lock." },
      { "--prune", nil, "Drop the lines that these manifests do not need." },
      { "--store", "ID", "Also put the bytes into this store, labelled lock/<lockfile>/<hash>, for --offline. "
        .. "Lockfiles of the same name share these labels: give each project's lockfile its own name." },
      fetching.state_option },
    run = lock, show = function(data)
      return data.lockfile == "-" and data.text or data.changes and changes_text(data.changes)
    end },
  { name = "policy", does = "Work on policy scripts.", commands = {
    { name = "check", does = "Load a policy script and list its rules.",
      examples = { "theaterref policy check policy.lua" },
      arguments = { { "file", "The policy script." } },
      options = { { "--trusted", nil, "Run the policy script without a sandbox." } },
      run = check, show = function(data)
        return output.plain(data.file) .. ": " .. (data.rules[1] and table.concat(data.rules, ", ") or "no rules of its own")
      end },
    { name = "test", does = "Call a policy script's rules, and compare their answers with the expected ones.",
      examples = { "theaterref policy test policy.lua" },
      arguments = { { "file", "The policy script. Its cases are in a file beside it: policy.test.lua for policy.lua." } },
      options = { { "--cases", "FILE", "File with the cases, if it is elsewhere: a Lua file that returns a list of "
        .. '{ rule = "allow", given = { reference, ctx }, answer = … }.' },
        { "--trusted", nil, "Run the policy script without a sandbox." } },
      run = test, show = show_test },
  } },
}
