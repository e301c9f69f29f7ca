--- Random names, which no other process chooses.
-- @module theaterref.store.random
local core = require "theaterref.core"

local M = {}

--- Returns so many random bytes in hex. It needs neither a descriptor nor a device.
-- @tparam integer count at most 32
-- @treturn string
M.hex = core.random_hex

--- Returns a random UUID (version 4).
-- @treturn string
function M.uuid()
  local hex = M.hex(16)
  return ("%s-%s-4%s-%x%s-%s"):format(hex:sub(1, 8), hex:sub(9, 12), hex:sub(14, 16),
    tonumber(hex:sub(17, 17), 16) & 3 | 8, hex:sub(18, 20), hex:sub(21))
end

return M
