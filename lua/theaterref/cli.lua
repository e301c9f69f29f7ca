--- The command `theaterref`.
--
-- Exit status: 0 when all went well, 1 when something failed (it is on stderr),
-- 2 when the command line was wrong.
-- @module theaterref.cli
local argparse = require "argparse"
local cjson = require "cjson"
local core = require "theaterref.core"
local manifests = require "theaterref.manifest"
local theaterref = require "theaterref"

local M = {}

-- ------------------------------------------------------------------ output

local function quote(text) return (cjson.encode(text):gsub("\\/", "/")) end

-- JSON with sorted keys and exact integers, which lua-cjson does not write.
local function to_json(value)
  if math.type(value) == "integer" then return tostring(value) end
  if math.type(value) == "float" then
    if value ~= value or value == math.huge or value == -math.huge then return '"' .. tostring(value) .. '"' end
    return ("%.17g"):format(value)
  end
  if type(value) == "table" and getmetatable(value) == core.json_array or type(value) == "table" and value[1] ~= nil then
    local parts = {}
    for i, item in ipairs(value) do parts[i] = to_json(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  if type(value) == "table" then
    local parts = {}
    for key, item in pairs(value) do parts[#parts + 1] = quote(tostring(key)) .. ":" .. to_json(item) end
    table.sort(parts)
    return "{" .. table.concat(parts, ",") .. "}"
  end
  if value == core.json_null or value == nil then return "null" end
  return type(value) == "string" and quote(value) or tostring(value)
end

local function print_line(...)
  io.stdout:write(...)
  io.stdout:write("\n")
end

local function fail(err)
  io.stderr:write("theaterref: ", tostring(err), "\n")
  return 1
end

local function milliseconds(seconds) return ("%9.3f ms"):format(seconds * 1000) end

-- ---------------------------------------------------------------- commands

-- JSON text, or what the file behind '@' holds.
local function state_argument(text)
  if not text or text:sub(1, 1) ~= "@" then return text end
  local blob, err = core.read_file(text:sub(2))
  return blob and tostring(blob), err
end

local function resolver(args)
  return theaterref.resolver { policy = args.policy, home = args.home, ca_file = args.ca_file, timeout = args.timeout,
    cache = theaterref.resource_cache() }
end

local commands = {}

function commands.resolve(args)
  local r, err = resolver(args)
  local blob
  if r then blob, err = r:resolve(args.reference) end
  if not blob then return fail(err) end
  if args.output then
    local ok, why = blob:write(args.output)
    return ok and 0 or fail(why)
  end
  io.stdout:write(tostring(blob))
  return 0
end

local function print_plan(plan)
  print_line("name           ", plan.name)
  print_line("package        ", plan.package_reference)
  print_line("               ", #plan.package, " bytes, sha256 ", plan.package:digest())
  print_line("cache          ", plan.used_cache and (plan.cache_hit and "hit" or "used") or "not used")
  print_line("initial state  ", plan.initial_state or "none")
  print_line("phases")
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
    plan.package_bytes, plan.package_sha256, plan.package = #plan.package, plan.package:digest(), nil
    print_line(to_json(plan))
  else
    print_plan(plan)
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

-- ------------------------------------------------------------------- store

local store_commands = {}

function store_commands.put(store, args)
  local blob, err = core.read_file(args.file == "-" and "/dev/stdin" or args.file)
  if not blob then return nil, err end
  local hash
  hash, err = store:put(blob)
  if hash and args.label then
    local ok
    ok, err = store:label(args.label, hash)
    if not ok then return nil, err end
  end
  return hash, err
end

function store_commands.get(store, args)
  local blob, err
  if args.name:match("^%x+$") and (#args.name == 40 or #args.name == 64) then
    blob, err = store:get(args.name)
  else
    blob, err = store:get_content_by_label(args.name)
    if not blob and not err then err = "Label not found: " .. args.name end
  end
  if not blob then return nil, err end
  if args.output then return blob:write(args.output) and "", nil end
  io.stdout:write(tostring(blob))
  return ""
end

function store_commands.label(store, args)
  local ok, err = store:label(args.name, args.hash)
  return ok and "", err
end

function store_commands.labels(store, args)
  local labels, err = store:list_labels()
  if not labels then return nil, err end
  local lines, object = {}, {}
  for i, label in ipairs(labels) do
    local hash = store:get_by_label(label) or "-"
    lines[i], object[label] = hash .. "  " .. label, hash
  end
  return args.json and to_json(object) or table.concat(lines, "\n")
end

function store_commands.ls(store, args)
  local hashes, err = store:list_all_content()
  if not hashes then return nil, err end
  return args.json and to_json(setmetatable(hashes, core.json_array)) or table.concat(hashes, "\n")
end

function store_commands.verify(store, args)
  local report, err = store:verify()
  if not report then return nil, err end
  local sound = #report.corrupt + #report.dangling == 0
  for _, list in ipairs { "corrupt", "dangling", "leftovers" } do setmetatable(report[list], core.json_array) end
  if args.json then return to_json(report), not sound and "the store is damaged" or nil end
  local lines = { report.checked .. " sound" }
  for _, hash in ipairs(report.corrupt) do lines[#lines + 1] = "corrupt   " .. hash end
  for _, label in ipairs(report.dangling) do lines[#lines + 1] = "dangling  " .. label end
  for _, name in ipairs(report.leftovers) do lines[#lines + 1] = "leftover  " .. name end
  return table.concat(lines, "\n"), not sound and "the store is damaged" or nil
end

function commands.store(args)
  local store, err = theaterref.content_store(args.id, { home = args.home })
  if not store then return fail(err) end
  local out
  out, err = store_commands[args.store_command](store, args)
  if out and out ~= "" then print_line(out) end
  return err and fail(err) or 0
end

-- ------------------------------------------------------------- command line

local function make_parser()
  local parser = argparse("theaterref", "Turns references into bytes, and manifests into spawn plans.",
    "References: a path, store://<id>/<label>, store://<id>/hash/<hash>, http://… or https://…")
  parser:require_command(true)
  parser:command_target("command")
  parser:add_help_command()
  parser:flag("--version", "Show the version and exit."):action(function()
    print_line("theaterref ", theaterref._VERSION)
    os.exit(0, true)
  end)
  local function common(command)
    command:option("--home", "Theater home; default $THEATER_HOME, else ~/.theater."):argname("DIR")
    return command
  end
  local function fetching(command)
    command:option("--policy", "A policy script."):argname("FILE")
    command:option("--ca-file", "PEM file of the certificate authorities to trust."):argname("FILE")
    command:option("--timeout", "Seconds for each fetch; default 30."):argname("SECONDS"):convert(tonumber)
    return common(command)
  end
  local resolve = fetching(parser:command("resolve", "Print what a reference means.",
    "Example: theaterref resolve store://demo/greeting -o greeting.txt"))
  resolve:argument("reference")
  resolve:option("-o --output", "Write to this file instead."):argname("FILE")

  local plan = fetching(parser:command("plan", "Show all that a spawn of a manifest's actor needs.",
    "Example: theaterref plan manifest.toml --state '{\"port\":8081}'"))
  plan:argument("manifest"):description("Its reference.")
  plan:option("--state", "Initial state that overrides the manifest's."):argname("JSON|@FILE")
  plan:flag("--json", "Print JSON.")

  local render = fetching(parser:command("render", "Print a manifest with its variables filled in."))
  render:argument("manifest"):description("Its reference.")
  render:option("--state", "Initial state that overrides the manifest's."):argname("JSON|@FILE")

  local store = parser:command("store", "Work on a content store.",
    "Example: theaterref store put demo actor.wasm --label actors/worker")
  store:require_command(true)
  store:command_target("store_command")
  local function sub(name, description)
    local command = common(store:command(name, description))
    command:argument("id"):description("The store's id.")
    return command
  end
  local put = sub("put", "Store a file; print its hash.")
  put:argument("file"):description("A path, or - for standard input.")
  put:option("--label", "Label it as well.")
  local get = sub("get", "Print content.")
  get:argument("name"):description("A hash or a label.")
  get:option("-o --output", "Write to this file instead."):argname("FILE")
  local label = sub("label", "Point a label at content.")
  label:argument("name")
  label:argument("hash")
  for name, description in pairs { labels = "List labels with their hashes.", ls = "List the hashes of all content.",
    verify = "Check all content and labels." } do
    sub(name, description):flag("--json", "Print JSON.")
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
