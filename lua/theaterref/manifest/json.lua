--- Manifests as JSON text, for hosts in C.
--
-- Nothing is lost: numbers of a JSON manifest are as it writes them, those of other
-- manifests have all their digits; empty arrays and empty tables stay apart, but in
-- Lua manifests, where `{}` is an object. JSON has no dates, infinities or NaN: they
-- are strings, spelled as in TOML. Keys are sorted.
-- @module theaterref.manifest.json
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

local MAX_DEPTH = 127 -- as deep as `core.json_decode` reads

local function fail(why) error(errors.new("syntax", "the manifest cannot be written as JSON: " .. why), 0) end

local function quote(text) return core.json_quote(text) or fail "a text in it is no valid UTF-8" end

-- A float with the fewest digits that read back the same.
local function float(value)
  if value ~= value then return '"nan"' end
  if value == math.huge or value == -math.huge then return value > 0 and '"inf"' or '"-inf"' end
  local text
  for digits = 15, 17 do
    text = ("%." .. digits .. "g"):format(value)
    if tonumber(text) == value then break end
  end
  text = text:gsub("[^%d+e-]+", ".") -- a program's locale may have another decimal point
  return text:find "[.e]" and text or text .. ".0"
end

-- True if a table is JSON's array: marked as one, or with the keys 1 to n alone.
local function is_array(value)
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  for i = 1, count do
    if value[i] == nil then return false end
  end
  return count > 0 or getmetatable(value) == core.json_array
end

local encode

local function encode_item(container, key, depth)
  local value = container[key]
  local text = type(value) == "number" and (core.json_written(container) or {})[key]
  if text and tonumber(text) == value then return text end -- else it was changed since
  return encode(value, depth, key)
end

local function encode_table(value, depth)
  if depth > MAX_DEPTH then fail("it is nested more than " .. MAX_DEPTH .. " deep") end
  local parts = {}
  if is_array(value) then
    for i = 1, #value do parts[i] = encode_item(value, i, depth) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local names = {}
  for key in pairs(value) do
    if type(key) ~= "string" and math.type(key) ~= "integer" then fail("it has a key that is a " .. type(key)) end
    names[#names + 1] = key
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for i, key in ipairs(names) do
    parts[i] = quote(tostring(key)) .. ":" .. encode_item(value, key, depth)
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

function encode(value, depth, name)
  local kind = type(value)
  if kind == "string" then return quote(value) end
  if kind == "boolean" then return tostring(value) end
  if kind == "number" then return math.type(value) == "integer" and ("%d"):format(value) or float(value) end
  if value == core.json_null then return "null" end
  if getmetatable(value) == core.toml_datetime then return quote(value.text) end
  if kind == "table" then return encode_table(value, depth + 1) end
  return fail(("'%s' is a %s"):format(name, kind))
end

--- Writes a manifest as JSON text.
-- @tparam table manifest
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error of kind `syntax`: something in it is no JSON, which
-- documents cannot have, but the answer of a policy
function M.encode(manifest)
  local ok, text = errors.pcall(encode, manifest, 0)
  if ok then return text end
  return nil, errors.is(text) and text or errors.new("syntax", tostring(text))
end

return M
