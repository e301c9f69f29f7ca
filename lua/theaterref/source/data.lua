--- `data:[<media type>][;base64],<data>` (RFC 2397): its own bytes.
-- @module theaterref.source.data
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = { is_inline = true }

local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local values = {}
for at = 1, #letters do values[letters:byte(at)] = at - 1 end

-- Decodes base64 (RFC 4648); white space is allowed. Nil when it is malformed.
local function decode_base64(text)
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

local function decode_percent(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

function M.parse(reference)
  local header, data = reference:match "^%a+:([^,]*),(.*)$"
  if not data then
    return nil, errors.new("invalid_reference", "Invalid data URL: it has no comma in front of its text", reference)
  end
  local bytes = decode_percent(data)
  if header:lower():find "; *base64 *$" then bytes = decode_base64(bytes) end
  if not bytes then
    return nil, errors.new("invalid_reference", "Invalid data URL: its base64 is malformed", reference)
  end
  return { scheme = "data", text = reference, bytes = bytes }
end

function M.join(base, reference)
  return nil, errors.new("invalid_reference", ("Invalid reference: %s is relative, but its manifest is a data URL, which has "
    .. "no folder; give an absolute reference"):format(errors.redact_reference(reference)), base.text)
end

function M.key(parsed) return parsed.text end

function M.is_remote() return false end

function M.start(job) return { blob = core.blob(job.parsed.bytes) } end

return M
