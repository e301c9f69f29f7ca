--- The names of public keys in requirements.
-- @module theaterref.keys
local errors = require "theaterref.error"

local M = {}

--- True for the text of a key, false for where it is: PEM, also on one line; JSON; or a long line of
-- base64, as DER and minisign's keys begin if it has a '/' in it.
-- @tparam string key
-- @treturn boolean
function M.is_text(key)
  if key:find("\n", 1, true) or key:find("-----", 1, true) or key:find "^%s*{" then return true end
  if #key < 56 or not key:find "^[%w+/=]+$" then return false end
  return not key:find("/", 1, true) or key:find "^M" ~= nil or key:find "^RW" ~= nil
end

-- True for what might be a text with a fault, such as base64 with a space in it.
local function may_be_text(key) return M.is_text(key) or #key >= 56 and key:find "^[%w+/=%s]+$" ~= nil end

--- Returns a key as it may be shown. A text is not: some are private by mistake.
-- @tparam string key
-- @treturn string
function M.shown(key) return may_be_text(key) and "(a text)" or errors.redact_reference(key) end

--- Returns a list of keys as it may be shown.
-- @tparam table keys
-- @treturn table
function M.all_shown(keys)
  local list = {}
  for i, key in ipairs(keys) do list[i] = type(key) == "string" and M.shown(key) or "(no text)" end
  return list
end

return M
