--- `theaterref lock`, `explain` and `policy`: what rules do.
-- @module theaterref.cli.policies
local core = require "theaterref.core"
local errors = require "theaterref.error"
local locks = require "theaterref.lock"
local output = require "theaterref.cli.output"
local policies = require "theaterref.policy"
local theaterref = require "theaterref"

local M = {}

local fail, print_line, to_json = output.fail, output.print_line, output.to_json

-- -------------------------------------------------------------------- lock

-- Plans each manifest; pins all that is resolved on the way, and stores it too.
local function collect_pins(args, make_resolver, store)
  local pins, failure = {}, nil
  local resolver, err = make_resolver(args, function(event)
    if event.type ~= "resolved" or event.purpose == "secret" then return end
    for _, target in ipairs(event.targets) do pins[target] = event.blob:digest "sha256" end
    if not store then return end
    local hash, why = store:put(event.blob)
    failure = failure or not hash and why
  end)
  if not resolver then return nil, err end
  for _, manifest in ipairs(args.manifests) do
    local plan, why = resolver:plan(manifest, { initial_state = args.state })
    if not plan or failure then return nil, why or failure end
  end
  return pins
end

function M.lock(args, make_resolver)
  local store, pins, err
  if args.store then
    store, err = theaterref.content_store(args.store, { home = args.home, algorithm = "sha256" })
    if not store then return fail(err) end
  end
  pins, err = collect_pins(args, make_resolver, store)
  if not pins then return fail(err) end
  local text = locks.text(pins, args.output)
  if args.output == "-" then
    io.stdout:write(text)
    return 0
  end
  local ok
  ok, err = core.blob(text):write(args.output)
  return ok and 0 or fail(err)
end

-- ----------------------------------------------------------------- explain

local function answer_text(answer)
  if type(answer) == "table" and answer[1] then return table.concat(answer, ", then ") end
  if type(answer) == "table" then return to_json(answer) end
  return tostring(answer)
end

local function step_text(step)
  local subject = step.reference and " " .. step.reference or ""
  if step.answer == nil and step.rule ~= "pin" and step.rule ~= "request" then
    return ("%-10s%s: %s"):format(step.rule, subject, step.reason or "no answer")
  end
  return ("%-10s%s -> %s%s   [%s]"):format(step.rule, subject, answer_text(step.answer),
    step.reason and " (" .. tostring(step.reason) .. ")" or "", step.by)
end

-- Whether a reference is a manifest: what it brings decides.
local function looks_like_manifest(reference, blob)
  if reference:gsub("[?#].*$", ""):find "%.[tj][os][mo][ln]$" then return true end
  local text = blob and #blob < 1 << 20 and tostring(blob) or ""
  return not text:find "^%z" and text:find "name%s*=" ~= nil and text:find "package%s*=" ~= nil
end

function M.explain(args, make_resolver)
  local resolver, err = make_resolver(args)
  if not resolver then return fail(err) end
  local steps = {}
  resolver.policy.tracer = function(step)
    if type(step.answer) == "table" and step.rule == "permit" then step.answer = "a narrowed manifest" end
    if step.rule == "request" and type(step.answer) == "table" then step.answer.headers, step.answer.host_headers = nil, nil end
    steps[#steps + 1] = step
  end
  local blob
  blob, err = resolver:resolve(args.reference)
  if blob and looks_like_manifest(args.reference, blob) then
    steps = {}
    blob, err = resolver:plan(args.reference)
  end
  if args.json then
    print_line(to_json { steps = output.array(steps), error = err and tostring(err) or nil })
  else
    for i, step in ipairs(steps) do print_line(("%2d. %s"):format(i, step_text(step))) end
  end
  if not blob then return fail(err) end
  if not args.json then
    print_line(core.is_blob(blob) and ("=> %d bytes"):format(#blob)
      or ("=> %s: package %s, %d bytes"):format(blob.name, errors.redact(blob.package_reference), #blob.package))
  end
  return 0
end

-- ------------------------------------------------------------------- check

function M.policy(args)
  local policy, err = policies.load(args.file, args.trusted)
  if not policy then return fail(err) end
  local own = {}
  for name in pairs(policy.own) do own[#own + 1] = name end
  for scheme in pairs(policy.schemes) do own[#own + 1] = "schemes." .. scheme end
  table.sort(own)
  print_line(args.file, ": ", #own == 0 and "no rules of its own" or table.concat(own, ", "))
  return 0
end

--- Adds the commands to a parser; returns what runs them, by name.
function M.add(parser, fetching)
  local lock = fetching(parser:command("lock", "Write a lockfile: which bytes all that manifests need is to have.",
    "Example: theaterref lock worker.toml api.toml -o theaterref.lock --store release"))
  lock:argument("manifests"):args("+")
  lock:option("-o --output", "The lockfile; - for standard output."):argname("FILE"):default("theaterref.lock")
  lock:option("--store", "Put the bytes into this store too, for --offline."):argname("ID")
  lock:option("--state", "Initial state that overrides the manifests'."):argname("JSON")
  local explain = fetching(parser:command("explain", "Show what each rule makes of a reference or a manifest.",
    "Example: theaterref explain worker.toml --policy policy.lua"))
  explain:argument("reference")
  explain:flag("--json", "Print JSON.")
  local policy = parser:command("policy", "Work on policy scripts.", "Example: theaterref policy check policy.lua")
  policy:require_command(true)
  policy:command_target("policy_command")
  local check = policy:command("check", "Load a policy script and list the rules it has.")
  check:argument("file")
  check:flag("--trusted", "Run it without a sandbox.")
  return { lock = M.lock, explain = M.explain, policy = M.policy }
end

return M
