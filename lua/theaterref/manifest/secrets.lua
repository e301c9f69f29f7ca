--- Secrets by reference: `{ "$ref": reference }` in an initial state.
-- @module theaterref.manifest.secrets
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

local MOST_AT_ONCE = 16 -- secrets on their way

--- Replaces each such object by what its reference means, as a JSON string. All
-- other bytes stay as they are. A text that is no JSON stays as it is.
-- @tparam string state JSON text
-- @tparam function resolve `resolve(reference)` gives the text to put in its
-- place; nil to leave the object as it is; or nil and an error
-- @tparam[opt] function fault_of `fault_of(bytes)` gives the error for a state that is so long
-- @tparam[opt] function finish `finish(started)` gives the text, or nil and an error: then `resolve` gives what it
-- takes, and is called for some references ahead
-- @tparam[opt=16] integer most how many, with that of the text
-- @treturn string
-- @treturn integer how many objects were replaced
-- @return[2] nil
-- @treturn[2] table an error
function M.fill_in(state, resolve, fault_of, finish, most)
  local found = core.json_references(state) or {}
  local parts, from, bytes, filled = {}, 1, #state, 0
  local started, next_one = {}, 1
  most = most or finish and MOST_AT_ONCE or 1
  for i = 1, #found, 3 do
    local text, err
    while next_one <= #found and next_one < i + 3 * most do
      started[next_one], err = resolve(found[next_one + 2])
      if err then return nil, err end
      next_one = next_one + 3
    end
    local first, last, ref = table.unpack(found, i, i + 2)
    text, started[i] = started[i], nil
    if text and finish then text, err = finish(text) end
    if err then return nil, err end
    if text then
      local quoted = core.json_quote(text)
      if not quoted then
        return nil, errors.new("syntax", "a secret must be valid UTF-8", errors.redact_reference(ref))
      end
      parts[#parts + 1], parts[#parts + 2], from = state:sub(from, first - 1), quoted, last + 1
      filled = filled + 1
      bytes = bytes + #quoted - (last + 1 - first)
      err = fault_of and fault_of(bytes)
      if err then return nil, err end
    end
  end
  if from == 1 then return state, 0 end
  parts[#parts + 1] = state:sub(from)
  return table.concat(parts), filled
end

--- How many such objects a state has.
-- @tparam string state JSON text
-- @treturn integer
function M.count(state) return #(core.json_references(state) or {}) // 3 end

--- A state with its references redacted, so that it may be shown.
-- @tparam string state JSON text
-- @treturn string
function M.shown(state)
  local found = core.json_references(state) or {}
  local parts, from = {}, 1
  for i = 1, #found, 3 do
    local first, last, ref = table.unpack(found, i, i + 2)
    parts[#parts + 1] = state:sub(from, first - 1)
    parts[#parts + 1] = '{"$ref":' .. (core.json_quote(core.redact_reference(ref)) or '"…"') .. "}"
    from = last + 1
  end
  return table.concat(parts) .. state:sub(from)
end

return M
