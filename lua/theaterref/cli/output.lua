--- What the command prints, and how: JSON, bars, failures.
-- @module theaterref.cli.output
local cjson = require "cjson"
local core = require "theaterref.core"

local M = {}

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

M.to_json = to_json

--- A list that is JSON's [] when it is empty.
function M.array(list) return setmetatable(list, core.json_array) end

function M.print_line(...)
  io.stdout:write(...)
  io.stdout:write("\n")
end

function M.fail(err)
  io.stderr:write("theaterref: ", tostring(err), "\n")
  return 1
end

--- Ends a command: prints its text, if any, and what failed, if anything.
-- @treturn integer exit status
function M.finish(text, err)
  if text and text ~= "" then M.print_line(text) end
  return err and M.fail(err) or 0
end

-- -------------------------------------------------------------------- bars

local quiet = false

--- No bars from now on.
function M.be_quiet() quiet = true end

local function with_bars() return not quiet and core.is_terminal(2) end

local function show(text, part, whole)
  local bar = ""
  if whole and whole > 0 then
    local filled = 30 * part // whole
    bar = ("%s%s %3d%%"):format(("#"):rep(filled), ("."):rep(30 - filled), 100 * part // whole)
  end
  io.stderr:write(("\r\27[K%s  %s"):format(text, bar))
end

local function clear() io.stderr:write("\r\27[K") end

--- Waits for a future; on a terminal, with a bar that goes when it is done.
function M.wait(future)
  if not with_bars() then return future:wait() end
  local shown = false
  while true do
    local blob, err = future:wait(0.2)
    local received, total = future:progress()
    if future:done() and (blob or err.kind ~= "timeout") then
      if shown then clear() end
      return blob, err
    end
    show(("%9.1f MiB"):format(received / (1 << 20)), received, total)
    shown = true
  end
end

--- Runs 'work' with a function to call with how far it is; on a terminal that
-- is a bar, drawn ten times a second.
function M.with_bar(what, work)
  if not with_bars() then return work(function() end) end
  local drawn = 0
  local function finish(...)
    if drawn > 0 then clear() end
    return ...
  end
  return finish(work(function(part, whole)
    local now = core.now()
    if now - drawn < 0.1 then return end
    drawn = now
    show(what, part, whole)
  end))
end

return M
