--- `theaterref store …`: work on a content store.
-- @module theaterref.cli.store
local core = require "theaterref.core"
local output = require "theaterref.cli.output"
local theaterref = require "theaterref"

local array, to_json, with_bar = output.array, output.to_json, output.with_bar

-- Each gives the text to print, or nil and an error; or both.
local M = {}

function M.put(store, args)
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

function M.get(store, args)
  local blob, err
  if args.name:match("^%x+$") and (#args.name == 40 or #args.name == 64) then
    blob, err = store:get(args.name)
  else
    blob, err = store:get_content_by_label(args.name)
    if not blob and not err then err = "Label not found: " .. args.name end
  end
  if not blob then return nil, err end
  if not args.output then
    io.stdout:write(tostring(blob))
    return ""
  end
  local ok, why = blob:write(args.output)
  return ok and "", why
end

function M.label(store, args)
  local expect = args.expect
  if expect == "none" then expect = false end
  local ok, err = store:label(args.name, args.hash, { expect = expect })
  if ok == false then
    return nil, ("label %s is not at %s but at %s"):format(args.name, args.expect, store:get_by_label(args.name) or "none")
  end
  return ok and "", err
end

function M.unlabel(store, args)
  local removed, err = store:remove_label(args.name)
  if removed == false then err = "Label not found: " .. args.name end
  return removed and "", err
end

function M.labels(store, args)
  local labels, err = store:list_labels()
  if not labels then return nil, err end
  local lines, object = {}, {}
  for i, label in ipairs(labels) do
    local hash = store:get_by_label(label) or "-"
    lines[i], object[label] = hash .. "  " .. label, hash
  end
  return args.json and to_json(object) or table.concat(lines, "\n")
end

function M.ls(store, args)
  local hashes, err = store:list_all_content()
  if not hashes then return nil, err end
  return args.json and to_json(array(hashes)) or table.concat(hashes, "\n")
end

function M.usage(store, args)
  local usage, err = store:usage()
  if not usage then return nil, err end
  if args.json then
    array(usage.labels)
    return to_json(usage)
  end
  local lines = {}
  for _, use in ipairs(usage.labels) do
    lines[#lines + 1] = ("%12s bytes  %s"):format(use.bytes or "missing", use.label)
  end
  lines[#lines + 1] = ("%12d bytes  without a label"):format(usage.unlabelled)
  lines[#lines + 1] = ("%12d bytes  in all"):format(usage.bytes)
  return table.concat(lines, "\n")
end

local function report_lines(report, names)
  local lines = {}
  for _, name in ipairs(names) do
    for _, item in ipairs(report[name]) do lines[#lines + 1] = ("%-10s %s"):format(name:gsub("_", " "), item) end
  end
  return lines
end

function M.verify(store, args)
  local report, err = with_bar("checking", function(progress) return store:verify { progress = progress } end)
  if not report then return nil, err end
  local trouble = #report.corrupt + #report.dangling > 0 and "the store is damaged" or nil
  local names = { "corrupt", "missing", "dangling", "set_aside", "leftovers" }
  for _, name in ipairs(names) do array(report[name]) end
  if args.json then return to_json(report), trouble end
  local lines = report_lines(report, names)
  table.insert(lines, 1, report.checked .. " sound")
  return table.concat(lines, "\n"), trouble
end

function M.gc(store, args)
  local report, err = with_bar("collecting", function(progress)
    return store:gc { grace = args.grace, dry_run = args.dry_run, progress = progress }
  end)
  if not report then return nil, err end
  local names = { "deleted", "leftovers" }
  for _, name in ipairs(names) do array(report[name]) end
  return args.json and to_json(report) or table.concat(report_lines(report, names), "\n")
end

function M.export(store, args)
  local file = args.file == "-" and io.stdout or args.file
  local ok, err = with_bar("exporting", function(progress) return store:export(file, { progress = progress }) end)
  return ok and "", err
end

M["import"] = function(store, args)
  local file = args.file == "-" and io.stdin or args.file
  local count, err = with_bar("importing", function(progress) return store:import(file, { progress = progress }) end)
  return count and count .. " imported", err
end

local function run(args)
  local store, err = theaterref.content_store(args.id, { home = args.home })
  local text
  if store then text, err = M[args.store_command](store, args) end
  return output.finish(text, err)
end

--- Adds the commands to a parser; returns what runs them.
function M.add(parser, common)
  local store = parser:command("store", "Work on a content store.",
    "Example: theaterref store put demo actor.wasm --label actors/worker")
  store:require_command(true)
  store:command_target("store_command")
  local function sub(name, description, epilog)
    local command = common(store:command(name, description, epilog))
    command:argument("id"):description("The store's id.")
    return command
  end
  local function listing(name, description)
    local command = sub(name, description)
    command:flag("--json", "Print JSON.")
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
  label:option("--expect", "Only if it points at this hash; 'none': only if there is no such label."):argname("HASH")
  sub("unlabel", "Remove a label; its content stays until gc."):argument("name")
  listing("labels", "List labels with their hashes.")
  listing("ls", "List the hashes of all content.")
  listing("usage", "Show how many bytes each label holds.")
  listing("verify", "Check all content and labels.")
  local gc = listing("gc", "Delete content without a label, and what crashed writers left.")
  gc:option("--grace", "Spare what was put or labelled within so many seconds; default 3600."):argname("SECONDS")
    :convert(tonumber)
  gc:flag("-n --dry-run", "Only show what would be deleted.")
  sub("export", "Write everything to a tar file."):argument("file"):description("A path, or - for standard output.")
  sub("import", "Add what an export holds."):argument("file"):description("A path, or - for standard input.")
  return run
end

return M
