--- The errors of a bucket's answers.
-- @module theaterref.s3.refusal
local core = require "theaterref.core"
local errors = require "theaterref.error"
local xml = require "theaterref.s3.xml"

local M = {}

local MAX_CODE, MAX_MESSAGE = 64, 300
local LOOK_AHEAD = 64 -- characters behind the end of a message that is cut, in which a secret may go on

-- Advice for some codes.
local advice = {
  InvalidAccessKeyId = "the access key is unknown to this endpoint",
  SignatureDoesNotMatch = "the secret access key is wrong, or a proxy changed the request",
  ExpiredToken = "the session token has expired",
  InvalidObjectState = "the object is archived: restore it first",
  RequestTimeTooSkewed = "this machine's clock is wrong",
  NoSuchBucket = "there is no such bucket at this endpoint: create it, or correct its name",
  EntityTooLarge = "one request writes at most 5 GiB",
}

local kinds = { [401] = "denied", [403] = "denied", [404] = "not_found", [410] = "not_found", [412] = "conflict" }

-- The kind of error for a status and a code.
local function kind_of(status, code)
  if code == "InvalidObjectState" then return "http_status" end
  if status == 409 and (code == "ConditionalRequestConflict" or code == "OperationAborted" or not code) then return "conflict" end
  return kinds[status] or "http_status"
end

-- True if a text shows a secret of a request, which a server may repeat.
local function shows_secret(text, found)
  return core.shows_secret(text, found.secret_access_key or "") or core.shows_secret(text, found.session_token or "")
end

-- Returns a server's code and message, without secrets of the request.
local function told(code, message, found)
  local is_code = code and #code <= MAX_CODE and code:find "^[%w.]+$" and not shows_secret(code, found)
  message = message and message:sub(1, MAX_MESSAGE + LOOK_AHEAD)
  if message and shows_secret(message, found) then message = nil end
  return is_code and code or nil, message and message:sub(1, MAX_MESSAGE)
end

--- Reads an answer whose body may be an error.
-- @tparam integer status
-- @tparam string body
-- @tparam table found the credentials of the request
-- @treturn table `status`, `is_error` (the body is one), `code` and `message`
function M.read(status, body, found)
  local code, message = xml.error(body)
  local answer = { status = status, is_error = code ~= nil }
  answer.code, answer.message = told(code, message, found)
  return answer
end

--- Reads an element `Error`.
-- @tparam integer status
-- @tparam table element of `theaterref.s3.xml`
-- @tparam table found the credentials of the request
-- @treturn table as `read` returns it
function M.of_element(status, element, found)
  local answer = { status = status }
  answer.code, answer.message = told(xml.text(element, "Code"), xml.text(element, "Message"), found)
  return answer
end

--- Makes the error for an answer.
-- @tparam string what failed, on what
-- @tparam table answer as `read` returns it
-- @tparam ?table source of the credentials
-- @tparam[opt] boolean is_write the request would have changed something
-- @treturn table an error, with `status`, `code` and `unknown`
function M.error(what, answer, source, is_write)
  local status, code, message = answer.status, answer.code, answer.message
  local about = code and (": " .. code .. (message and message ~= "" and ": " .. message or "")) or ""
  local hint = code and advice[code] and "; " .. advice[code] or ""
  if status == 401 or status == 403 then
    hint = hint .. "; " .. (source and source.from and "the credentials are from " .. source.from or "there are no credentials")
  end
  local err = errors.new(kind_of(status, code), errors.printable(("%s failed: status %d%s%s"):format(what, status, about, hint)))
  err.status, err.code = status, code
  -- A server that failed may have done it before. Without a code, the answer is that of something in front of the server.
  local is_busy = code == "SlowDown" or status == 501 or (status == 408 or status == 429) and code
  local failed = status >= 500 or status == 408 or status == 429
  if is_write and (failed and not is_busy or status == 200) then err.unknown = true end
  return err
end

return M
