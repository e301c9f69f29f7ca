--- The error object: what every function returns after nil.
--
-- A table with these fields, of which only `kind` and `message` are always
-- there:
--
-- * `kind`: one of `invalid_reference`, `not_found`, `denied`, `http_status`,
--   `network`, `tls`, `timeout`, `too_large`, `digest_mismatch`, `corrupt`,
--   `io`, `syntax`, `policy`, `cancelled`, `untrusted`, `rejected`, `unknown_outcome`
-- * `message`: what failed, and why
-- * `reference`: what was being resolved, redacted: without user, password and query
-- * `status`: the HTTP status
-- * `code`: the reason in an object store's words, such as `NoSuchBucket`
-- * `errno`: the system's error number
-- * `manifest_reference`: the manifest that names the reference, redacted
-- * `advice`: what to do
--
-- `unknown_outcome` is the kind of a write to a server that may have been applied, or not: read before you write again.
--
-- `tostring(err)` is one line for people.
-- @module theaterref.error
local core = require "theaterref.core"

local M = {}

local metatable = core.error_metatable -- errors made in C carry it already

-- A refusal, and a fault of a policy or a document, is no failure to resolve.
local is_no_failure = { denied = true, policy = true, syntax = true, untrusted = true, rejected = true }

function metatable:__tostring()
  local advice = self.advice and "; " .. self.advice or ""
  if not self.reference then return self.message .. advice end
  local text = ((is_no_failure[self.kind] or self.is_write) and "" or "Failed to resolve reference: ") .. self.message
  if not text:find(self.reference, 1, true) then
    text = text .. " (" .. self.reference .. ")"
  end
  if self.manifest_reference then text = text .. " (named by " .. self.manifest_reference .. ")" end
  return text .. advice
end

--- A new error. Its texts are redacted: also the reference, where the message names it.
-- @tparam string kind
-- @tparam string message
-- @tparam[opt] string reference
-- @treturn table
function M.new(kind, message, reference)
  return setmetatable({ kind = kind, message = M.redact(message, reference),
                        reference = reference and M.redact_reference(reference) }, metatable)
end

--- Puts the code that an object store gave for a failure on its error.
-- @tparam ?table err
-- @tparam theaterref.future future of the request
-- @treturn ?table the error
function M.with_code(err, future)
  local info = err and future:info()
  if info then err.code = info.code end
  return err
end

-- True while the interpreter `lua` waits for Ctrl-C: it does so while it runs a program, until the
-- first.
local waits_for_ctrl_c = core.catches_sigint()

-- What Ctrl-C raised, which passes several calls.
local interrupt

--- True for what Ctrl-C raises: the interpreter `lua` raises "interrupted!", after its place in
-- the source, and the command "interrupted". It is to end the program, not the work alone. A text
-- alone is no proof, since a manifest may bring it.
-- @param raised
-- @treturn boolean
function M.is_interrupt(raised)
  if type(raised) ~= "string" or not raised:find "interrupted!?$" then return false end
  if raised == interrupt or core.interrupted() then return true end
  if not waits_for_ctrl_c or core.catches_sigint() then return false end
  interrupt, waits_for_ctrl_c = raised, false
  return true
end

local function passed(ok, raised, ...)
  if not ok and M.is_interrupt(raised) then error(raised, 0) end
  return ok, raised, ...
end

--- Calls a function as Lua's `pcall` does, but lets Ctrl-C through.
-- @tparam function call
-- @param ... its arguments
-- @return as `pcall`
function M.pcall(call, ...) return passed(pcall(call, ...)) end

--- The text of whatever was raised; nil if that is nothing but its address.
-- @param value
-- @treturn ?string
function M.text_of(value)
  local ok, text = M.pcall(tostring, value)
  local address = ("%p"):format(value)
  return ok and text:sub(-#address) ~= address and text or nil
end

--- The same, or else what was raised.
-- @param value
-- @treturn string
function M.message_of(value)
  return M.text_of(value) or "a " .. type(value) .. " that has no message"
end

--- True if a value is an error of theaterref's.
function M.is(value)
  return getmetatable(value) == metatable
end

--- A text with every URL in it redacted: without user and password, and with
-- `?…` in place of its query; and with `…` in place of the data of data URLs.
-- @tparam string text
-- @tparam[opt] string reference that the text may name, as it was written: a path is no URL,
-- but may have a query
-- @treturn string
M.redact = core.redact

--- A text that is one reference, redacted to its end, and not longer than a line.
-- @tparam string reference
-- @treturn string
M.redact_reference = core.display_reference

-- Replaces what is not UTF-8.
local function with_valid_bytes(text, replace)
  local parts, from = {}, 1
  while true do
    local _, bad = utf8.len(text, from)
    if not bad then break end
    parts[#parts + 1], parts[#parts + 2] = text:sub(from, bad - 1), replace(text:byte(bad))
    from = bad + 1
  end
  return from == 1 and text or table.concat(parts) .. text:sub(from)
end

local function escape_byte(byte) return ("\\%d"):format(byte) end

-- The characters that change the direction of the text after them: U+061C, U+200E, U+200F, U+202A to U+202E,
-- U+2066 to U+2069.
local BIDI = { "\xD8\x9C", "\xE2\x80[\x8E\x8F\xAA-\xAE]", "\xE2\x81[\xA6-\xA9]" }

local function escape_character(text) return ("\\u{%X}"):format(utf8.codepoint(text)) end

--- A text as one line of UTF-8 that a terminal only shows: control characters, those of
-- two bytes too, those that change the direction of text, as `\u{202E}`, and bytes that are not UTF-8 are written as `\27`.
-- @tparam string text
-- @treturn string
function M.printable(text)
  text = with_valid_bytes(text, escape_byte):gsub("[\0-\31\127]", function(c) return escape_byte(c:byte()) end)
  text = text:gsub("\xC2([\x80-\x9F])", function(c) return escape_byte(c:byte()) end)
  for _, pattern in ipairs(BIDI) do text = text:gsub(pattern, escape_character) end
  return text
end

--- A text with U+FFFD in place of each byte that is not UTF-8.
-- @tparam string text
-- @treturn string
function M.valid_utf8(text)
  return with_valid_bytes(text, function() return "\u{FFFD}" end)
end

--- Seconds for messages: what is left of a limit has many digits.
-- @tparam number seconds
-- @treturn string such as "1 second" or "0.5 seconds"
function M.seconds(seconds)
  local text = seconds < 0.001 and ("%g"):format(seconds) or ("%.3f"):format(seconds)
  text = text:gsub(",", ".") -- whatever the locale
  if text:find("%.%d+$") then text = text:gsub("%.?0+$", "") end
  return text .. (text == "1" and " second" or " seconds")
end

--- A number of bytes for messages.
-- @tparam integer count
-- @treturn string such as "1 byte" or "8 bytes"
function M.bytes(count) return count .. (count == 1 and " byte" or " bytes") end

--- The line and the column of a byte in a text, for messages.
-- @tparam string text
-- @tparam integer at
-- @treturn string such as "line 2, column 5"; columns count bytes
function M.position(text, at)
  local line, start = 1, 1
  while true do
    local newline = text:find("\n", start, true)
    if not newline or newline >= at then break end
    line, start = line + 1, newline + 1
  end
  return ("line %d, column %d"):format(line, at - start + 1)
end

--- Redacts a reference wherever an error's message names it, as `new` does.
-- @tparam table err
-- @tparam string reference as it was written
-- @treturn table the same error
function M.hide(err, reference)
  if type(err.message) == "string" then err.message = M.redact(err.message, reference) end -- a rule may have changed it
  return err
end

--- Returns a copy of an error, which others may have as well, with the manifest that names
-- its reference.
-- @tparam table err
-- @tparam string manifest_reference
-- @treturn table
function M.named_by(err, manifest_reference)
  local copy = setmetatable({}, metatable)
  for field, value in pairs(err) do copy[field] = value end
  copy.manifest_reference = M.redact_reference(manifest_reference)
  return copy
end

--- Puts the reference on an error that does not have one yet.
-- @tparam table err
-- @tparam string reference
-- @treturn table the same error
function M.about(err, reference)
  err.reference = err.reference or M.redact_reference(reference)
  return err
end

--- The same, for an error of a write: nothing failed to resolve.
-- @tparam table err
-- @tparam string reference where it was to be written
-- @treturn table the same error
function M.of_write(err, reference)
  err.is_write = true
  return M.about(err, reference)
end

return M
