--- `theaterref cache …`: what a cache keeps on disk.
-- @module theaterref.cli.cache
local errors = require "theaterref.error"
local home = require "theaterref.home"
local output = require "theaterref.cli.output"
local tiers = require "theaterref.tier"

local M = {}

local function age(seconds)
  for _, unit in ipairs { { 86400, "d" }, { 3600, "h" }, { 60, "min" } } do
    if seconds >= unit[1] then return seconds // unit[1] .. " " .. unit[2] end
  end
  return seconds .. " s"
end

function M.ls(tier, args)
  local list = tier:list()
  if args.json then return output.to_json(output.array(list)) end
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

function M.rm(tier, args)
  if not tier:remove(args.reference) then return nil, "not in this cache: " .. args.reference end
  return ""
end

function M.clear(tier)
  tier:clear()
  return ""
end

local function run(args)
  local folder, err = home.store_folder(args.id, args.home)
  local text
  if folder then text, err = M[args.cache_command](tiers.open(folder, 0), args) end
  return output.finish(text, err)
end

--- Adds the commands to a parser; returns what runs them.
function M.add(parser, common)
  local cache = parser:command("cache", "Look into a cache's tier on disk, or empty it.",
    "Example: theaterref cache ls packages-cache")
  cache:require_command(true)
  cache:command_target("cache_command")
  local function sub(name, description)
    local command = common(cache:command(name, description))
    command:argument("id"):description("The id of the store that is the tier.")
    return command
  end
  sub("ls", "List what it has."):flag("--json", "Print JSON.")
  sub("rm", "Forget one reference."):argument("reference")
  sub("clear", "Forget everything.")
  return run
end

return M
