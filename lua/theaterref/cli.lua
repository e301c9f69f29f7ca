--- The command `theaterref`.
--
-- Exit status: 0 when all went well, 1 when something failed (it is on stderr),
-- 2 when the command line was wrong.
-- @module theaterref.cli
local argparse = require "argparse"
local cjson = require "cjson"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local home = require "theaterref.home"
local manifests = require "theaterref.manifest"
local theaterref = require "theaterref"
local tiers = require "theaterref.tier"

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

-- Waits for a future; on a terminal, with a bar that goes when it is done.
local function wait_with_bar(future)
  if not core.is_terminal(2) then return future:wait() end
  local shown = false
  while true do
    local blob, err = future:wait(0.2)
    local received, total = future:progress()
    if future:done() and (blob or err.kind ~= "timeout") then
      if shown then io.stderr:write("\r\27[K") end
      return blob, err
    end
    local bar = total and ("%s %3d%%"):format(("#"):rep(30 * received // total) .. ("."):rep(30 - 30 * received // total),
      100 * received // total) or ""
    io.stderr:write(("\r\27[K%9.1f MiB  %s"):format(received / (1 << 20), bar))
    shown = true
  end
end

function commands.resolve(args)
  local r, err = resolver(args)
  local future, blob
  if r then future, err = r:start(args.reference) end
  if future then blob, err = wait_with_bar(future) end
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

-- ------------------------------------------------------------------- cache

local cache_commands = {}

local function age(seconds)
  for _, unit in ipairs { { 86400, "d" }, { 3600, "h" }, { 60, "min" } } do
    if seconds >= unit[1] then return seconds // unit[1] .. " " .. unit[2] end
  end
  return seconds .. " s"
end

function cache_commands.ls(tier, args)
  local list = tier:list()
  if args.json then return to_json(setmetatable(list, core.json_array)) end
  local lines, bytes = {}, 0
  for i = #list, 1, -1 do -- what was used last comes first
    local about = list[i]
    bytes = bytes + about.bytes
    lines[#lines + 1] = ("%12d bytes  %8s old  %s"):format(about.bytes, age(os.time() - about.stored),
      errors.redact(about.reference))
  end
  lines[#lines + 1] = ("%12d bytes  in %d entries"):format(bytes, #list)
  return table.concat(lines, "\n")
end

function cache_commands.rm(tier, args)
  if not tier:remove(args.reference) then return nil, "not in this cache: " .. args.reference end
  return ""
end

function cache_commands.clear(tier)
  tier:clear()
  return ""
end

function commands.cache(args)
  local folder, err = home.store_folder(args.id, args.home)
  if not folder then return fail(err) end
  local out
  out, err = cache_commands[args.cache_command](tiers.open(folder, 0), args)
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

  local cache = parser:command("cache", "Look into a cache's tier on disk, or empty it.",
    "Example: theaterref cache ls packages-cache")
  cache:require_command(true)
  cache:command_target("cache_command")
  for name, description in pairs { ls = "List what it has.", rm = "Forget one reference.", clear = "Forget everything." } do
    local command = common(cache:command(name, description))
    command:argument("id"):description("The id of the store that is the tier.")
    if name == "ls" then command:flag("--json", "Print JSON.") end
    if name == "rm" then command:argument("reference") end
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
