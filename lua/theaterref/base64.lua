--- Base64 (RFC 4648).
-- @module theaterref.base64
local M = {}

local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local values = {}
for at = 1, #letters do values[letters:byte(at)] = at - 1 end

--- Decodes base64; white space is allowed.
-- @tparam string text
-- @treturn ?string nil: it is malformed
function M.decode(text)
  text = text:gsub("%s", "")
  local padded = #text % 4 == 0 and text:find("=", 1, true)
  text = padded and text:gsub("==?$", "") or text
  if text:find "[^%w+/]" or #text % 4 == 1 then return nil end
  local out = {}
  for at = 1, #text, 4 do
    local a, b, c, d = text:byte(at, at + 3)
    local bits = values[a] << 18 | values[b] << 12 | (c and values[c] or 0) << 6 | (d and values[d] or 0)
    out[#out + 1] = string.char(bits >> 16, bits >> 8 & 255, bits & 255):sub(1, not c and 1 or not d and 2 or 3)
  end
  return table.concat(out)
end

return M
