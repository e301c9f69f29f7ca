--- Texts of the S3 protocol: URLs and times.
-- @module theaterref.s3.text
local M = {}

M.MAX_KEY_BYTES = 1024

local function escape(c) return ("%%%02X"):format(c:byte()) end

--- Encodes a key for the path of a URL: exactly the bytes that a signature encodes.
-- @tparam string key
-- @treturn string
function M.encode_key(key) return (key:gsub("[^%w/._~-]", escape)) end

--- Encodes a value for the query of a URL.
-- @tparam string value
-- @treturn string
function M.encode(value) return (value:gsub("[^%w._~-]", escape)) end

--- Decodes a key of a list with `encoding-type=url`.
-- @tparam string text
-- @treturn string
function M.decode(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

--- Removes blanks at both ends, in linear time: a pattern that ends in `%s*$` may take quadratic time.
-- @tparam string text
-- @treturn string
function M.trim(text)
  local first = text:find "%S"
  return first and text:match("^.*%S", first) or ""
end

-- Days from 1970-01-01 to a date of the Gregorian calendar.
local function days(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  return 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469
end

--- The seconds from 1970 to a time such as `2026-11-28T14:59:39.000Z`.
-- @tparam string text
-- @treturn ?integer nil: it has another form
function M.seconds(text)
  local year, month, day, hour, minute, second, zone =
    text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)%.?%d*([Z+-].*)$"
  if not year then return nil end
  local sign, hours, minutes = zone:match "^([+-])(%d%d):?(%d%d)$"
  if zone ~= "Z" and not sign then return nil end
  local offset = sign and (hours * 60 + minutes) * 60 * (sign == "+" and 1 or -1) or 0
  return math.tointeger(((days(math.tointeger(year), math.tointeger(month), math.tointeger(day)) * 24 + hour) * 60 + minute) * 60
    + second - offset)
end

return M
