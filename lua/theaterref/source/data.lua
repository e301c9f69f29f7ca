--- `data:[<media type>][;base64],<data>` (RFC 2397): its own bytes.
-- @module theaterref.source.data
local base64 = require "theaterref.base64"
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = { is_inline = true }

local function decode_percent(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

function M.parse(reference)
  local header, data = reference:match "^%a+:([^,]*),(.*)$"
  if not data then
    return nil, errors.new("invalid_reference", "Invalid data URL: it has no comma in front of its text", reference)
  end
  local bytes = decode_percent(data)
  if header:lower():find "; *base64 *$" then bytes = base64.decode(bytes) end
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
