--- The names of public keys in requirements.
-- @module theaterref.keys
local errors = require "theaterref.error"

local M = {}

--- True for the text of a key, false for where it is: PEM, also on one line, or minisign's line
-- of base64.
-- @tparam string key
-- @treturn boolean
function M.is_text(key)
  return key:find("\n", 1, true) ~= nil or key:find("-----", 1, true) ~= nil or #key >= 56 and key:find "^%w[%w+/]+=*$" ~= nil
end

--- Returns a key as it may be shown. A text is not: some are private by mistake.
-- @tparam string key
-- @treturn string
function M.shown(key) return M.is_text(key) and "(a text)" or errors.redact_reference(key) end

--- Returns a list of keys as it may be shown.
-- @tparam table keys
-- @treturn table
function M.all_shown(keys)
  local list = {}
  for i, key in ipairs(keys) do list[i] = type(key) == "string" and M.shown(key) or "(no text)" end
  return list
end

return M
