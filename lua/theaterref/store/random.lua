--- Random names, which no other process chooses.
-- @module theaterref.store.random
local M = {}

--- Returns so many random bytes in hex.
-- @tparam integer count
-- @treturn string
function M.hex(count)
  local file <close> = assert(io.open("/dev/urandom", "rb"))
  file:setvbuf("full", 64) -- reads no more than that
  return (file:read(count):gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

--- Returns a random UUID (version 4).
-- @treturn string
function M.uuid()
  local hex = M.hex(16)
  return ("%s-%s-4%s-%x%s-%s"):format(hex:sub(1, 8), hex:sub(9, 12), hex:sub(14, 16),
    tonumber(hex:sub(17, 17), 16) & 3 | 8, hex:sub(18, 20), hex:sub(21))
end

return M
