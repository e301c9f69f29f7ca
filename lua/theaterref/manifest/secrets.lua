--- Secrets by reference: `{ "$ref": reference }` in an initial state.
-- @module theaterref.manifest.secrets
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

-- The reference of an object that is nothing but one.
local function reference_of(members)
  if #members ~= 2 or members[1] ~= "$ref" then return nil end
  local ref = core.json_decode(members[2])
  return type(ref) == "string" and ref or nil
end

--- Replaces each such object by what its reference means, as a JSON string. All
-- other values come out as they went in. The nesting is as bounded as JSON's.
-- @tparam string state JSON text
-- @tparam function resolve `resolve(reference)` gives the text to put in its
-- place; nil to leave the object as it is; or nil and an error
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error
function M.fill_in(state, resolve)
  local kind, items = core.json_split(state)
  if kind ~= "object" and kind ~= "array" then return state end
  local ref = kind == "object" and reference_of(items)
  if ref then
    local text, err = resolve(ref)
    if err then return nil, err end
    if not text then return state end
    local quoted = core.json_quote(text)
    if quoted then return quoted end
    return nil, errors.new("syntax", "a secret must be text, and this is no UTF-8", errors.redact(ref))
  end
  local step, first = kind == "object" and 2 or 1, kind == "object" and 2 or 1
  local parts, changed = {}, false
  for i = first, #items, step do
    local value, err = M.fill_in(items[i], resolve)
    if not value then return nil, err end
    changed = changed or value ~= items[i]
    parts[#parts + 1] = (kind == "object" and core.json_quote(items[i - 1]) .. ":" or "") .. value
  end
  if not changed then return state end
  local text = table.concat(parts, ",")
  return kind == "object" and "{" .. text .. "}" or "[" .. text .. "]"
end

return M
