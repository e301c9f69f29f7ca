--- One bucket of an S3-compatible object store.
--
-- A method that fails returns nil and an error: `kind` is `not_found`, `conflict` (a condition was not
-- met), `denied`, `http_status`, `network`, …; `status` and `code` are the server's. `unknown` is true
-- if a write failed but may have taken effect. Methods wait only through `await`.
-- @module theaterref.s3.client
local core = require "theaterref.core"
local credentials = require "theaterref.s3.credentials"
local errors = require "theaterref.error"
local option_sets = require "theaterref.options"
local places = require "theaterref.s3.place"
local refusal = require "theaterref.s3.refusal"
local text = require "theaterref.s3.text"
local xml = require "theaterref.s3.xml"

local Client = {}
Client.__index = Client

--- The most objects that one request deletes.
Client.MAX_DELETES = 1000

local overlay = option_sets.overlay

local MAX_OBJECT_BYTES = 5 << 30 -- of one PUT
local MAX_ANSWER_BYTES = 4 << 20 -- a list of 1,000 keys of 1,024 bytes, encoded, has 3.4 MB
local DELETION_SECONDS = 60 -- that a server may be silent while it deletes many objects
local LOOK_SECONDS = 1 -- between two looks at where credentials come from

--- Opens a bucket. Nothing is asked yet.
-- @tparam string bucket
-- @tparam table fields `settings`, the configuration's `s3`; `defaults`, options of requests; `await` and
-- `seconds_left`, functions
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error
function Client.open(bucket, fields)
  local self = setmetatable(overlay(fields), Client)
  local err
  self.place, err = places.find(fields.settings, bucket)
  if not self.place then return nil, err end
  self.source, err = credentials.find(self.place)
  if err then return nil, err end
  self.looked = core.now()
  self.bucket, self.compiled = bucket, {}
  self.request = Client.request_of(self.place, fields.defaults or {})
  return self
end

--- The options of requests to a bucket, without credentials.
-- @tparam table place of `theaterref.s3.place`
-- @tparam table defaults options of all requests
-- @treturn table
function Client.request_of(place, defaults)
  local host = defaults.hosts and core.match_host(defaults.hosts, place.host, place.port)
  return Client.with_settings(place, option_sets.for_host(defaults, host))
end

--- Options of requests to a bucket's host, with the settings of the bucket on top of them.
-- @tparam table place
-- @tparam table request
-- @treturn table
function Client.with_settings(place, request)
  local all, settings = overlay(request), place.settings
  for _, name in ipairs { "ca_file", "proxy", "cache_scope" } do
    if settings[name] ~= nil then all[name] = settings[name] end
  end
  return all
end

-- ----------------------------------------------------------------- requests

--- Compiles options of requests, with a signer.
-- @tparam table place
-- @tparam table request
-- @tparam table found credentials
-- @treturn userdata
-- @return[2] nil
-- @treturn[2] table an error
function Client.compile(place, request, found)
  local signer, err = core.signer { endpoint = place.endpoint, region = place.region, bucket = place.bucket,
    access_key_id = found.access_key_id, secret_access_key = found.secret_access_key, session_token = found.session_token }
  if not signer then return nil, err end
  local ok, compiled = pcall(core.request_options, overlay(request, { signer = signer }))
  if ok then return compiled end
  return nil, errors.new("policy", "the options of the request are wrong: " .. tostring(compiled))
end

-- Looks again for the bucket's place and the source of the credentials: a profile may have new ones. Both are taken at once: new
-- credentials must not go to an old endpoint.
local function look(self)
  if core.now() < self.looked + LOOK_SECONDS then return true end
  local place, source, err
  place, err = places.find(self.settings, self.bucket)
  if place then source, err = credentials.find(place) end
  if err then return nil, err end
  self.looked = core.now()
  if place.url ~= self.place.url or place.region ~= self.place.region then
    self.place, self.request, self.compiled = place, Client.request_of(place, self.defaults or {}), {}
  end
  if credentials.identity(source) ~= credentials.identity(self.source) then self.source = source end
  return true
end

-- Gets credentials. The option `timeout` limits the wait for them, too.
local function find_credentials(self, seconds)
  local ok, err = look(self)
  if not ok then return nil, err end
  local limit = self.request.timeout
  for _, other in ipairs { seconds or -1, self.seconds_left and self.seconds_left() or -1 } do
    if other >= 0 then limit = math.min(limit and limit >= 0 and limit or other, other) end
  end
  return credentials.get(self.source, self.await, limit)
end

--- Gets credentials for the next requests, if they have to be asked for.
-- @tparam[opt] number seconds to wait at most
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error, as that of `theaterref.s3.credentials.get`
function Client:prepare(seconds)
  local found, err = find_credentials(self, seconds)
  if found then return true end
  return nil, err
end

-- Changes to the caller's options, by the kind of request: limits on objects do not apply to lists. A deletion of many objects
-- may take long on some servers, and the engine must not repeat it.
local kinds_of_request = {
  fetch = function() return {} end,
  answer = function() return { max_bytes = MAX_ANSWER_BYTES } end,
  once = function() return { max_bytes = MAX_ANSWER_BYTES, retries = 0 } end,
  deletion = function(options)
    local stall = options.stall_timeout or DELETION_SECONDS
    return { max_bytes = MAX_ANSWER_BYTES, retries = 0, stall_timeout = stall < 0 and stall or math.max(stall, DELETION_SECONDS) }
  end,
}

-- Compiles the options of requests of a kind, once for these credentials. 'max_bytes' is for a single request. Returns them, and
-- the credentials.
local function compile(self, kind, max_bytes)
  local found, err = find_credentials(self)
  if not found then return nil, err end
  local compiled
  if self.found ~= found then self.found, self.compiled = found, {} end
  if max_bytes then
    local limit = self.request.max_bytes
    compiled, err = Client.compile(self.place,
      overlay(self.request, { max_bytes = math.min(max_bytes, limit or max_bytes) }), found)
  else
    compiled = self.compiled[kind]
    if not compiled then
      compiled, err = Client.compile(self.place, overlay(self.request, kinds_of_request[kind](self.request)), found)
    end
    self.compiled[kind] = compiled
  end
  if compiled then return compiled, found end
  return nil, err
end

--- Forgets the credentials of the last request, if a server refused it because of them.
-- @tparam table err its error
-- @treturn boolean whether the request may be sent once more, with others
function Client:renew(err) return credentials.renew(self.source, self.found, err) end

-- Returns a query of parameters that are set, in no order: the core sorts what it signs.
local function query(parameters)
  local parts = {}
  for name, value in pairs(parameters) do parts[#parts + 1] = text.encode(name) .. "=" .. text.encode(tostring(value)) end
  return #parts > 0 and "?" .. table.concat(parts, "&") or ""
end

local function key_fault(key)
  if key == "" or #key > text.MAX_KEY_BYTES or key:find("\0", 1, true) then
    return ("a key has 1 to %d bytes, none of them zero"):format(text.MAX_KEY_BYTES)
  end
  if ("/" .. key .. "/"):find("/%.%.?/") then return "a key with a segment '.' or '..' cannot be asked for by a URL" end
end

-- Returns the path of an object below its bucket.
local function path_of(self, key)
  local fault = key_fault(key)
  if fault then return nil, errors.new("invalid_reference", ("s3://%s/%s: %s"):format(self.bucket, key, fault)) end
  return text.encode_key(key)
end

-- Returns the error for an answer.
local function refused(self, what, answer, is_write)
  return refusal.error(("s3://%s: %s"):format(self.bucket, what), answer, self.source, is_write)
end

-- Waits for a future. An error has 'unknown' if a write may have been carried out.
local function wait(self, future, is_write)
  local blob, err = self.await(future)
  local info = future:info()
  if not blob and is_write and not (info and info.seconds.connected == nil) then err.unknown = true end
  return blob, err, info
end

-- Sends a request once. 'path' is below the bucket; nil: the endpoint's root. Returns the answer: as `refusal.read` if it may be
-- an error, with `headers`, `body` and `found`, the credentials of the request. A write's error may be 'unknown'.
local function send_once(self, method, path, message, is_write)
  local compiled, found = compile(self, message.kind or "answer")
  if not compiled then return nil, found end
  message.method = method
  local url = path and self.place.url .. path or self.place.endpoint .. "/"
  local future, err = core.send(url, compiled, message, self.seconds_left and self.seconds_left() or nil)
  if not future then return nil, err end
  local body, info
  body, err, info = wait(self, future, is_write)
  if not body then return nil, err end
  body = tostring(body)
  local answer = (is_write or info.status >= 300) and refusal.read(info.status, body, found) or { status = info.status }
  answer.headers, answer.body, answer.found = info.headers or {}, body, found
  local date = answer.headers.date and core.http_date(answer.headers.date)
  if date then self.told = { date = date, at = core.now() } end
  return answer
end

-- Sends a request; once more if its credentials were refused and there are others.
local function send(self, method, path, message, is_write)
  local answer, err = send_once(self, method, path, message, is_write)
  if answer and answer.status >= 400 and credentials.renew(self.source, answer.found, answer) then
    return send_once(self, method, path, message, is_write)
  end
  return answer, err
end

--- The server's time, as its last answer told it.
-- @treturn ?number seconds from 1970; nil: it told none
function Client:time() return self.told and self.told.date + core.now() - self.told.at end

-- An ETag as headers have it: some servers leave out the quotes.
local function quoted(etag)
  if not etag or etag == "" or etag:find '^"' or etag:find '^W/"' then return etag end
  return '"' .. etag .. '"'
end

-- Reads what headers tell about an object.
local function head_of(headers)
  local metadata = {}
  for name, value in pairs(headers) do
    local own = name:match "^x%-amz%-meta%-(.+)$"
    if own then metadata[own] = value end
  end
  return { etag = quoted(headers.etag), modified = headers["last-modified"] and core.http_date(headers["last-modified"]),
    date = headers.date and core.http_date(headers.date),
    size = math.tointeger(tonumber(headers["content-length"])), version_id = headers["x-amz-version-id"], metadata = metadata,
    content_type = headers["content-type"] }
end

local function named(what, key) return ("%s %s"):format(what, errors.printable(key)) end

-- ------------------------------------------------------------------ reading

--- The URL of an object, and options to fetch it with.
-- @tparam string key
-- @tparam[opt] integer max_bytes
-- @treturn string
-- @treturn userdata
-- @return[2] nil
-- @treturn[2] table an error
function Client:fetch_options(key, max_bytes)
  local path, err = path_of(self, key)
  if not path then return nil, err end
  local compiled, found = compile(self, "fetch", max_bytes)
  if not compiled then return nil, found end
  return self.place.url .. path, compiled
end

-- Reads an object, as 'get'.
local function get_once(self, key, options)
  local url, compiled = self:fetch_options(key, options.max_bytes)
  if not url then return nil, compiled end
  local future, err = core.fetch(url, compiled, nil, options.sha256, true, self.seconds_left and self.seconds_left() or nil)
  if not future then return nil, err end
  local blob, info
  blob, err, info = wait(self, future)
  if blob then
    local head = head_of(info and info.headers or {})
    head.size = #blob
    return blob, head
  end
  if err.kind ~= "http_status" then return nil, err end
  local code = info and info.code
  local start = code and select(2, err.message:find("(" .. code .. ": ", 1, true))
  return nil, refused(self, named("reading", key),
    { status = err.status, code = code, message = start and err.message:sub(start + 1, -2) }) -- the core leaves secrets out
end

--- Reads an object.
-- @tparam string key
-- @tparam[opt] table options `sha256`, its digest; `max_bytes`
-- @treturn theaterref.blob
-- @treturn table `etag`, `modified`, `date` (the server's time), `size`, `version_id`, `metadata`
-- @return[2] nil
-- @treturn[2] table an error
function Client:get(key, options)
  local blob, head = get_once(self, key, options or {})
  if not blob and self:renew(head) then return get_once(self, key, options or {}) end
  return blob, head
end

--- Asks about an object.
-- @tparam string key
-- @treturn table as `get` returns it
function Client:head(key)
  local path, err = path_of(self, key)
  if not path then return nil, err end
  local answer
  answer, err = send(self, "HEAD", path, {})
  if not answer then return nil, err end
  if answer.status == 200 then return head_of(answer.headers) end
  return nil, refused(self, named("asking about", key), answer)
end

-- Reads a page of a list.
local function read_page(document)
  local root, list, token = xml.parse(document), {}, nil
  if not root or root.name ~= "ListBucketResult" then return nil end
  local function decode(key) return key end
  if xml.text(root, "EncodingType") == "url" then decode = text.decode end -- some servers do not know it
  for _, element in ipairs(root) do
    if element.name == "Contents" and xml.text(element, "Key") then
      list[#list + 1] = { key = decode(xml.text(element, "Key")), size = math.tointeger(tonumber(xml.text(element, "Size"))),
        etag = quoted(xml.text(element, "ETag")), modified = text.seconds(xml.text(element, "LastModified") or "") }
    elseif element.name == "CommonPrefixes" and xml.text(element, "Prefix") then
      list[#list + 1] = { prefix = decode(xml.text(element, "Prefix")) }
    end
  end
  if xml.text(root, "IsTruncated") == "true" then
    token = xml.text(root, "NextContinuationToken")
    if not token or token == "" then return nil end
  end
  return list, token
end

--- Lists a page of the keys with a prefix, in order.
-- @tparam string prefix
-- @tparam[opt] table options `after`, a key; `delimiter`; `max`, at most 1,000; `token`, of the page before
-- @treturn table a list of `{ key =, size =, etag =, modified = }`, and with a delimiter of `{ prefix = }`
-- @treturn ?string the token of the next page; nil: this is the last
function Client:list(prefix, options)
  options = options or {}
  local path = query { ["list-type"] = "2", ["encoding-type"] = "url", prefix = prefix ~= "" and prefix or nil,
    ["start-after"] = not options.token and options.after or nil, delimiter = options.delimiter, ["max-keys"] = options.max,
    ["continuation-token"] = options.token }
  local answer, err = send(self, "GET", path, {})
  if not answer then return nil, err end
  if answer.status ~= 200 then return nil, refused(self, "listing keys", answer) end
  local list, token = read_page(answer.body)
  if list then return list, token end
  return nil, errors.new("syntax", ("s3://%s: the answer is no list of keys"):format(self.bucket))
end

--- Asks the endpoint, not a bucket, for the names of all buckets.
-- @treturn boolean true: it accepts the credentials
-- @return[2] nil
-- @treturn[2] table an error; its `code` is `AccessDenied` if they may not see that list
function Client:ask_endpoint()
  local answer, err = send(self, "GET", nil, {})
  if not answer then return nil, err end
  if answer.status == 200 then return true end
  return nil, refused(self, "listing buckets", answer)
end

--- Describes where credentials come from.
-- @tparam ?table source as `theaterref.s3.credentials` finds it
-- @treturn string
function Client.credentials_text(source)
  if not source then return "without credentials: none were found" end
  if source.kind == "anonymous" then return "without credentials: anonymous = true" end
  return "credentials from " .. source.from
end

-- ------------------------------------------------------------------ writing

-- Adds the headers of conditions. Returns true if there are any.
local function add_conditions(headers, options)
  headers["If-None-Match"], headers["If-Match"] = options.if_none_match, options.if_match
  return (options.if_none_match or options.if_match) ~= nil
end

local function add_metadata(headers, metadata)
  for name, value in pairs(metadata or {}) do headers["x-amz-meta-" .. name] = value end
end

--- Writes an object. A request with a condition is never repeated: the server would refuse the
-- repetition because the first one succeeded.
-- @tparam string key
-- @tparam theaterref.blob blob
-- @tparam[opt] table options `if_none_match`, `"*"`; `if_match`, an ETag; `metadata`, by name; `content_type`
-- @treturn table `etag`, `version_id`
function Client:put(key, blob, options)
  options = options or {}
  if #blob > MAX_OBJECT_BYTES then
    return nil, errors.new("too_large", ("s3://%s: %s has %d bytes; one request writes at most 5 GiB"):format(self.bucket,
      errors.printable(key), #blob))
  end
  local path, err = path_of(self, key)
  if not path then return nil, err end
  local headers = { ["Content-Type"] = options.content_type or "application/octet-stream" }
  add_metadata(headers, options.metadata)
  local answer
  answer, err = send(self, "PUT", path, { body = blob, conditional = add_conditions(headers, options), headers = headers }, true)
  if not answer then return nil, err end
  if answer.status // 100 ~= 2 or answer.is_error then return nil, refused(self, named("writing", key), answer, true) end
  local head = head_of(answer.headers)
  head.size, head.metadata = #blob, options.metadata or {}
  return head
end

--- Copies an object onto itself, which resets its age, or to another key.
-- @tparam string key
-- @tparam table head as `get` and `head` return it: the object must still have its ETag
-- @tparam[opt] string to the other key
-- @treturn table `etag`, `modified`
function Client:refresh(key, head, to)
  local path, err = path_of(self, to or key)
  if not path then return nil, err end
  local headers = { ["x-amz-copy-source"] = "/" .. text.encode(self.bucket) .. "/" .. text.encode_key(key),
    ["x-amz-copy-source-if-match"] = head.etag, ["x-amz-metadata-directive"] = "REPLACE",
    ["Content-Type"] = head.content_type or "application/octet-stream" }
  add_metadata(headers, head.metadata)
  local answer
  answer, err = send(self, "PUT", path, { headers = headers }, true)
  if not answer then return nil, err end
  local root = answer.status == 200 and xml.parse(answer.body)
  if root and root.name == "CopyObjectResult" then
    return { etag = quoted(xml.text(root, "ETag")), modified = text.seconds(xml.text(root, "LastModified") or ""),
      version_id = answer.headers["x-amz-version-id"], size = head.size, metadata = head.metadata }
  end
  return nil, refused(self, named(to and "copying" or "refreshing", key), answer, true)
end

--- Deletes an object. An absent object counts as deleted, unless the call has a condition.
-- @tparam string key
-- @tparam[opt] table options `if_match`, an ETag; `once`: the request is never repeated
-- @treturn boolean true
function Client:delete(key, options)
  options = options or {}
  local path, err = path_of(self, key)
  if not path then return nil, err end
  local headers = {}
  local message = { conditional = add_conditions(headers, options), headers = headers, kind = options.once and "once" or nil }
  local answer
  answer, err = send(self, "DELETE", path, message, true)
  if not answer then return nil, err end
  if answer.status == 204 or answer.status == 200 then return true end
  if answer.status == 404 and not options.if_match and answer.code == "NoSuchKey" then return true end
  return nil, refused(self, named("deleting", key), answer, true)
end

-- Deletes one object whose key XML cannot represent.
local function delete_alone(self, key, failures)
  local ok, err = self:delete(key)
  if not ok then failures[#failures + 1] = { key = key, err = err } end
end

--- Deletes up to 1,000 objects, with one request if XML can hold their keys.
-- @tparam table keys a list
-- @treturn table those that are still there: a list of `{ key =, err = }`
function Client:delete_many(keys)
  if #keys > Client.MAX_DELETES then return nil, errors.new("too_large", "one request deletes at most 1,000 objects") end
  local parts, failures = {}, {}
  for _, key in ipairs(keys) do
    if key:find "[%z\1-\8\11\12\14-\31]" or not utf8.len(key) then delete_alone(self, key, failures)
    else parts[#parts + 1] = "<Object><Key>" .. xml.escape(key) .. "</Key></Object>" end
  end
  if #parts == 0 then return failures end
  -- Never repeated: meanwhile, somebody may have made an object anew.
  local document = core.blob("<Delete><Quiet>true</Quiet>" .. table.concat(parts) .. "</Delete>")
  local answer, err = send(self, "POST", "?delete=", { body = document, kind = "deletion",
    headers = { ["Content-MD5"] = core.md5(document), ["Content-Type"] = "application/xml" } }, true)
  if not answer then return nil, err end
  local root = answer.status == 200 and xml.parse(answer.body)
  if not root or root.name ~= "DeleteResult" then return nil, refused(self, "deleting objects", answer, true) end
  for _, element in ipairs(root) do
    local key = element.name == "Error" and xml.text(element, "Key")
    if element.name == "Error" and not key then
      return nil, refused(self, "deleting objects", refusal.of_element(200, element, answer.found), true)
    elseif key then
      failures[#failures + 1] = { key = key,
        err = refused(self, named("deleting", key), refusal.of_element(409, element, answer.found), true) }
    end
  end
  return failures
end

return Client
