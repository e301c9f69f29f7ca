--- The command `theaterref`.
--
-- Exit status: 0 when all went well, 1 when something failed (it is on stderr),
-- 2 when the command line was wrong.
-- @module theaterref.cli
local argparse = require "argparse"
local core = require "theaterref.core"
local manifests = require "theaterref.manifest"
local output = require "theaterref.cli.output"
local theaterref = require "theaterref"

local fail, print_line = output.fail, output.print_line

local M = {}

-- ---------------------------------------------------------------- commands

local function milliseconds(seconds) return ("%9.3f ms"):format(seconds * 1000) end

-- JSON text, or what the file behind '@' holds.
local function state_argument(text)
  if not text or text:sub(1, 1) ~= "@" then return text end
  local blob, err = core.read_file(text:sub(2))
  return blob and tostring(blob), err
end

local function resolver(args, event)
  if args.offline and not args.locked then return nil, "--offline takes what is locked from a store: give --locked too" end
  return theaterref.resolver { policy = args.policy, home = args.home, ca_file = args.ca_file, timeout = args.timeout,
    trusted = args.trusted, lock = args.locked, offline = args.offline, event = event, cache = theaterref.resource_cache() }
end

local commands = {}

function commands.resolve(args)
  local r, err = resolver(args)
  local future, blob
  if r then future, err = r:start(args.reference) end
  if future then blob, err = output.wait(future) end
  if not blob then return fail(err) end
  if args.output then
    local ok, why = blob:write(args.output)
    return ok and 0 or fail(why)
  end
  io.stdout:write(tostring(blob))
  return 0
end

-- Each phase's bar stands where it ran, as in a browser's network view.
local function print_waterfall(plan)
  local whole, before, width = 0, 0, 40
  for _, phase in ipairs(plan.phases) do whole = whole + phase.seconds end
  for _, phase in ipairs(plan.phases) do
    local from = math.floor(width * before / whole)
    local long = math.max(1, math.floor(width * phase.seconds / whole + 0.5))
    print_line(("  %-13s |%-41s| %s  %9d bytes"):format(phase.name, (" "):rep(math.min(from, width)) .. ("="):rep(math.min(long,
      width + 1 - math.min(from, width))), milliseconds(phase.seconds), phase.bytes))
    before = before + phase.seconds
  end
  print_line(("  %-13s  %-41s  %s"):format("in all", "", milliseconds(whole)))
end

local function print_plan(plan, timings)
  print_line("name           ", plan.name)
  print_line("package        ", plan.package_reference)
  print_line("               ", #plan.package, " bytes, sha256 ", plan.package:digest())
  print_line("cache          ", plan.used_cache and (plan.cache_hit and "hit" or "used") or "not used")
  print_line("initial state  ", plan.state_without_secrets or "none")
  print_line("phases")
  if timings then return print_waterfall(plan) end
  for _, phase in ipairs(plan.phases) do
    print_line(("  %-13s %s  %9d bytes"):format(phase.name, milliseconds(phase.seconds), phase.bytes))
  end
end

function commands.plan(args)
  local state, err = state_argument(args.state)
  if err then return fail(err) end
  local r, plan
  r, err = resolver(args)
  if r then plan, err = r:plan(args.manifest, { initial_state = state }) end
  if not plan then return fail(err) end
  if args.json then
    plan.initial_state, plan.state_without_secrets = plan.state_without_secrets, nil
    plan.package_bytes, plan.package_sha256, plan.package = #plan.package, plan.package:digest(), nil
    print_line(output.to_json(plan))
  else
    print_plan(plan, args.timings)
  end
  return 0
end

function commands.render(args)
  local override, err = state_argument(args.state)
  if err then return fail(err) end
  local r, blob, state, text
  r, err = resolver(args)
  if r then blob, err = r:resolve(args.manifest) end
  if not blob then return fail(err) end
  local format = manifests.format_of(tostring(blob), args.manifest)
  local configured = manifests.initial_state(tostring(blob), format, override)
  state, err = theaterref.merge_initial_states(configured, override)
  if err then return fail(err) end
  text, err = manifests.render(tostring(blob), format, state)
  if not text then return fail(err) end
  io.stdout:write(text)
  return 0
end

-- ------------------------------------------------------------- command line

local function common(command)
  command:option("--home", "Theater home; default $THEATER_HOME, else ~/.theater."):argname("DIR")
  command:flag("-q --quiet", "No progress bars."):action(output.be_quiet)
  return command
end

local function fetching(command)
  command:option("--policy", "A policy script."):argname("FILE")
  command:flag("--trusted", "Run the policy script without a sandbox.")
  command:option("--locked", "Refuse what is not in this lockfile, or not as it says."):argname("LOCKFILE")
  command:option("--offline", "Take what is locked from this store; fetch nothing."):argname("STORE")
  command:option("--ca-file", "PEM file of the certificate authorities to trust."):argname("FILE")
  command:option("--timeout", "Seconds for each fetch; default 30."):argname("SECONDS"):convert(tonumber)
  return common(command)
end

local function make_parser()
  local parser = argparse("theaterref", "Turns references into bytes, and manifests into spawn plans.",
    "References: a path, store://<id>/<label>, store://<id>/hash/<hash>, http://… or https://…")
  parser:require_command(true)
  parser:command_target("command")
  parser:add_help_command()
  parser:add_complete_command()
  parser:flag("--version", "Show the version and exit."):action(function()
    print_line("theaterref ", theaterref._VERSION)
    os.exit(0, true)
  end)
  local resolve = fetching(parser:command("resolve", "Print what a reference means.",
    "Example: theaterref resolve store://demo/greeting -o greeting.txt"))
  resolve:argument("reference")
  resolve:option("-o --output", "Write to this file instead."):argname("FILE")

  local plan = fetching(parser:command("plan", "Show all that a spawn of a manifest's actor needs.",
    "Example: theaterref plan manifest.toml --state '{\"port\":8081}'"))
  plan:argument("manifest"):description("Its reference.")
  plan:option("--state", "Initial state that overrides the manifest's."):argname("JSON|@FILE")
  plan:flag("--timings", "Draw the phases as a waterfall.")
  plan:flag("--json", "Print JSON.")

  local render = fetching(parser:command("render", "Print a manifest with its variables filled in.",
    "Example: theaterref render manifest.toml --state @state.json"))
  render:argument("manifest"):description("Its reference.")
  render:option("--state", "Initial state that overrides the manifest's."):argname("JSON|@FILE")

  for name, run in pairs(require("theaterref.cli.policies").add(parser, fetching)) do
    commands[name] = function(args) return run(args, resolver) end
  end
  commands.doctor = require("theaterref.cli.doctor").add(parser, fetching)
  for _, part in ipairs { "store", "cache" } do
    commands[part] = require("theaterref.cli." .. part).add(parser, common)
  end
  return parser
end

--- Runs the command.
-- @tparam table arguments as from `arg`
-- @treturn integer exit status
function M.main(arguments)
  local parser = make_parser()
  local ok, args = parser:pparse(arguments)
  if not ok then
    io.stderr:write(parser:get_usage(), "\n\ntheaterref: ", args, "\n")
    return 2
  end
  return commands[args.command](args)
end

return M
