--- One repository of a registry, as the distribution specification has it: documents, blobs,
-- uploads and tags.
--
-- A method that fails returns nil and an error. Methods wait only through `await`.
-- @module theaterref.registry.session
local artifacts = require "theaterref.registry.artifact"
local requests = require "theaterref.registry.requests"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local option_sets = require "theaterref.options"
local overlay = option_sets.overlay

local Session = {}
Session.__index = Session

local MAX_ANSWER_BYTES = 1 << 20
local CHUNK_BYTES = 8 << 20 -- where a registry insists on chunks
local MAX_PAGES = 1000
-- Before it answers an upload, a registry may be silent for this many times `stall_timeout`: some copy the blob at that
-- moment, from one place of an object store to another.
local COMMIT, STALL_SECONDS = 20, 15
local MAX_LIST_BYTES, MAX_ENTRIES = 16 << 20, 100000

--- Opens a session.
-- @tparam table parsed a reference
-- @tparam table fields `registries`, options by registry; `warn`, called with messages;
-- `defaults`, options of requests; `actions`, `pull` or
-- `pull,push`; `from`, a repository of the same registry to mount blobs from; `seconds_left`, a function;
-- `await(future, own)`, which cancels a future only if it is the session's own
-- @treturn table
function Session.open(parsed, fields)
  local self = setmetatable(overlay(fields), Session)
  self.endpoint = requests.endpoint(parsed, fields.registries, parsed.ns)
  self.endpoint.warn = fields.warn
  self.request = requests.request(self.endpoint, requests.of_host(self.endpoint, fields.defaults))
  self.known = { compiled = {} } -- what all its views share: credentials, and compiled options of requests
  return self
end

--- The same session for other work: its requests are awaited by another function.
-- @tparam function await
-- @treturn table
function Session:awaited_by(await) return setmetatable({ await = await }, { __index = self }) end

-- Compiles the options of requests, once for each kind. Another host, to which a registry sends
-- an upload, gets nothing that identifies the caller.
local function compile(self, accept, max_bytes, is_elsewhere, is_upload)
  local key = (is_elsewhere and "elsewhere " or "") .. (is_upload and "upload " or "") .. (accept or "") .. max_bytes
  if self.known.compiled[key] then return self.known.compiled[key] end
  local request = is_elsewhere and option_sets.anonymous(self.request) or self.request
  if is_upload then request = overlay(request, { stall_timeout = COMMIT * (request.stall_timeout or STALL_SECONDS) }) end
  local err
  if not self.known.credentials then
    self.known.credentials, err = requests.credentials(self.endpoint, self.await, self.request.timeout)
  end
  if not self.known.credentials then return nil, err end
  local compiled
  compiled, err = requests.compile(self.endpoint, request, self.actions, self.known.credentials, { accept = accept,
    max_bytes = max_bytes, from = self.from })
  self.known.compiled[key] = compiled
  return compiled, err
end

-- Returns what is wrong with the place to which a registry directs an upload, or nil.
local function place_fault(self, url)
  local endpoint, place = self.endpoint, core.parse_url(url)
  if not place or place.userinfo then return endpoint.registry .. " leads to no place" end
  if not endpoint.insecure and not place.url:find "^https:" then
    return ("%s leads from https to another scheme"):format(endpoint.registry)
  end
  if place.host == endpoint.host or core.request_allows(core.request_options { redirect_hosts = self.defaults.redirect_hosts },
    { hosts = { place.host } }) then return nil end
  return ("%s leads to %s; to allow it, add that host to redirect_hosts"):format(endpoint.registry, place.host)
end

-- Sends a request once. Returns its status, headers, body, and what else is known of the answer.
local function exchange(self, method, url, more, is_elsewhere)
  local compiled, err = compile(self, more.accept, more.max_bytes or MAX_ANSWER_BYTES, is_elsewhere, more.is_upload)
  if not compiled then return nil, err end
  local future
  future, err = core.send(url, compiled, { method = method, body = more.body, headers = more.headers or {} }, self.seconds_left())
  if not future then return nil, err end
  local body
  body, err = self.await(future, true)
  if not body then return nil, requests.worded(err, self.endpoint) end
  local info = future:info()
  return info.status, info.headers or {}, body, info
end

-- True if the refused credentials are from an earlier run of a helper. The next request runs it again.
local function has_renewed(self, status)
  if not requests.renew_credentials(self.endpoint, status) then return false end
  self.known.credentials, self.known.compiled = nil, {}
  return true
end

-- Sends a request, and once more if a helper has newer credentials. Returns what `exchange` does.
local function send(self, method, url, more)
  more = more or {}
  local origin = self.endpoint.origin
  local is_elsewhere = url:sub(1, #origin + 1):lower() ~= origin .. "/"
  local fault = is_elsewhere and place_fault(self, url)
  if fault then return nil, errors.new("denied", fault) end
  local status, headers, body, info = exchange(self, method, url, more, is_elsewhere)
  if not is_elsewhere and has_renewed(self, status or headers.status) then return exchange(self, method, url, more) end
  return status, headers, body, info
end

local MAX_CODES, MAX_CODE_BYTES = 4, 64 -- that are shown

-- The codes in a registry's answer, which say more than its status.
local function codes(body)
  local ok, document = pcall(core.json_decode, tostring(body))
  local list = {}
  for _, fault in ipairs(ok and type(document) == "table" and type(document.errors) == "table" and document.errors or {}) do
    local code = type(fault) == "table" and fault.code
    local is_code = type(code) == "string" and #code <= MAX_CODE_BYTES and code:find "^[%u%d_]+$"
    if is_code and #list < MAX_CODES then list[#list + 1] = code end
  end
  return #list > 0 and ": " .. table.concat(list, ", ") or ""
end

-- Returns the error for an unexpected answer.
local function refused(self, what, status, body)
  local endpoint, told = self.endpoint, body and codes(body) or ""
  local is_denied = status == 401 or status == 403
  local about = is_denied and "; log in with 'docker login', or configure 'registries'" .. requests.about_credentials(endpoint)
    or status == 400 and told == "" and requests.scheme_advice({ status = 400 }, endpoint) or ""
  local err = errors.new(is_denied and "denied" or "http_status",
    ("%s/%s: %s failed: status %d%s%s"):format(endpoint.registry, endpoint.repository, what, status, told, about))
  if status == 401 and endpoint.credentials and endpoint.credentials.from then
    err = requests.status_error(endpoint, what, status)
    err.kind = "denied"
  end
  err.status = status
  return err
end

local function missing(self, what, status) return requests.status_error(self.endpoint, what, status) end

-- Other algorithms of digests that a registry may prefer, and their hex digits.
local other_algorithms = { sha384 = 96, sha512 = 128 }

-- Checks the digest in a registry's answer, if there is one.
local function check_answered(self, headers, expected)
  local digest = headers["docker-content-digest"]
  if not digest or digest == "sha256:" .. expected then return true end
  local algorithm, hex = digest:match "^(%l[%l%d]*):(%x+)$"
  if algorithm and other_algorithms[algorithm] == #hex then return true end
  digest = digest:gsub("[^%w:+._-]", "?"):sub(1, 100)
  return nil, errors.new("digest_mismatch", ("%s/%s answered the digest %s for what has the sha256 %s"):format(
    self.endpoint.registry, self.endpoint.repository, digest, expected))
end

local function url(self, kind, name) return requests.url(self.endpoint, kind, name) end

-- ------------------------------------------------------------------ reading

--- Reads a document, and verifies its digest.
-- @tparam string name a tag, or `sha256:<hex>`
-- @tparam[opt] boolean optional nil without an error if there is none
-- @treturn theaterref.blob
-- @treturn string its digest, in hex
-- @treturn string its media type, as the registry calls it
function Session:document(name, optional)
  local status, headers, body, info = send(self, "GET", url(self, "manifests", name),
    { accept = requests.DOCUMENTS, max_bytes = requests.MAX_DOCUMENT_BYTES })
  if not status then return nil, headers end
  if status == 404 and optional then return nil end
  if status == 401 or status == 403 or status == 404 then
    return nil, missing(self, name:find "^sha256:" and "manifest" or ("tag '%s'"):format(name), status)
  end
  if status ~= 200 then return nil, refused(self, "reading a manifest", status, body) end
  local digest, expected = body:digest(), name:match "^sha256:(.*)$" or requests.told_digest(headers)
  if expected and expected ~= digest then
    return nil, errors.new("digest_mismatch", ("%s/%s: the manifest %s has the sha256 %s"):format(self.endpoint.registry,
      self.endpoint.repository, name, digest))
  end
  return body, digest, info.content_type or headers["content-type"]
end

--- Asks where a tag leads.
-- @tparam string tag
-- @treturn ?string a digest, in hex; nil: nowhere, or the registry does not tell
function Session:digest_of(tag)
  local status, headers = send(self, "HEAD", url(self, "manifests", tag), { accept = requests.DOCUMENTS })
  return status == 200 and requests.told_digest(headers) or nil
end

--- Reads a blob, and verifies its digest.
-- @tparam string digest in hex
-- @tparam integer size
-- @treturn theaterref.blob
function Session:blob(digest, size)
  local compiled, err = compile(self, nil, size)
  if not compiled then return nil, err end
  local future
  future, err = core.fetch(url(self, "blobs", "sha256:" .. digest), compiled, nil, digest, true, self.seconds_left())
  if not future then return nil, err end
  local blob
  blob, err = self.await(future, true)
  if blob and #blob == size then return blob end
  return nil, err and requests.worded(err, self.endpoint, "blob") or errors.new("corrupt",
    ("%s/%s: a blob has %d bytes, not the %d that its manifest says"):format(self.endpoint.registry, self.endpoint.repository,
    #blob, size))
end

-- True if there is a blob of this size; nil and an error if that is unknown, or the size differs.
local function is_there(self, digest, size)
  local status, headers, body = send(self, "HEAD", url(self, "blobs", "sha256:" .. digest))
  if not status then return nil, headers end
  local told = tonumber(headers["content-length"])
  if status == 200 and told and told ~= size then
    return nil, errors.new("corrupt", ("%s/%s has %.0f bytes under the sha256 %s, not %d"):format(self.endpoint.registry,
      self.endpoint.repository, told, digest, size))
  end
  if status == 200 then return check_answered(self, headers, digest) end
  if status == 404 then return false end
  return nil, refused(self, "looking for a blob", status, body)
end

-- Reads a list, page by page. 'take' gets the document of each, and returns how many entries there are by
-- now. Returns true; or nil, an error, and the status if that is what is wrong.
local function read_pages(self, at, what, accept, take)
  local received = 0
  for _ = 1, MAX_PAGES do
    local status, headers, body = send(self, "GET", at, { accept = accept, max_bytes = requests.MAX_DOCUMENT_BYTES })
    if not status then return nil, headers end
    if status ~= 200 then return nil, refused(self, "reading a " .. what, status, body), status end
    local document, err = artifacts.decode(body)
    if not document then return nil, err end
    received = received + #body
    if take(document) > MAX_ENTRIES or received > MAX_LIST_BYTES then
      return nil, errors.new("too_large", ("%s/%s: its %s is larger than %d entries or %s"):format(self.endpoint.registry,
        self.endpoint.repository, what, MAX_ENTRIES, errors.bytes(MAX_LIST_BYTES)))
    end
    at, err = requests.next_page(self.endpoint, at, headers)
    if not at then return not err, err end
  end
  return nil, errors.new("too_large", ("%s: its %s has no end"):format(self.endpoint.registry, what))
end

--- All tags of the repository.
-- @treturn table a list
function Session:tags()
  local list = {}
  local ok, err, status = read_pages(self, self.endpoint.url .. "tags/list?n=1000", "list of tags", nil, function(document)
    for _, tag in ipairs(type(document.tags) == "table" and document.tags or {}) do
      if type(tag) == "string" then list[#list + 1] = tag end
    end
    return #list
  end)
  if ok then return list end
  return nil, (status == 401 or status == 403 or status == 404) and missing(self, "repository", status) or err
end

--- The documents that refer to one, if the registry has the API for that.
-- @tparam string digest in hex
-- @treturn ?table an index, decoded, with the entries of all pages; nil: it has not
-- @return[2] nil
-- @treturn[2] table an error
function Session:referrers(digest)
  local index
  local ok, err, status = read_pages(self, requests.url(self.endpoint, "referrers", "sha256:" .. digest), "list of referrers",
    requests.DOCUMENTS, function(document)
      local entries = type(document.manifests) == "table" and document.manifests or {}
      if index then table.move(entries, 1, #entries, #index.manifests + 1, index.manifests) end
      index = index or overlay(document, { manifests = entries })
      return #index.manifests
    end)
  if ok then return index end
  if status and not index and requests.lacks_referrers(status) then return nil end
  return nil, err
end

-- ------------------------------------------------------------------- writing

-- True if the answer to the request that ends a write was lost, or may belong to its repetition: the
-- write may have succeeded.
local function is_lost(status) return not status or status == 404 or status >= 500 end

-- Begins an upload. Returns the URL to continue at; true if the registry has the blob now.
local function begin_upload(self, digest)
  local mount = self.from and ("?mount=sha256:%s&from=%s"):format(digest, self.from) or ""
  local at = self.endpoint.url .. "blobs/uploads/"
  local status, headers, body = send(self, "POST", at .. mount, { body = core.blob "" })
  if not status then return nil, headers end
  if status == 201 and mount ~= "" then
    local ok, err = check_answered(self, headers, digest)
    return ok, err
  end
  if status ~= 202 or not headers.location then return nil, refused(self, "beginning an upload", status, body) end
  return requests.join(at, headers.location), headers
end

local function with_digest(location, digest)
  return location .. (location:find("?", 1, true) and "&" or "?") .. "digest=sha256:" .. digest
end

local OCTETS = "application/octet-stream"

-- Sends a blob in chunks, each to the URL in the last answer. Returns the last URL.
local function send_chunks(self, location, headers, blob)
  local size, sent = math.max(CHUNK_BYTES, math.tointeger(tonumber(headers["oci-chunk-min-length"])) or 0), 0
  while sent < #blob do
    local last = math.min(sent + size, #blob)
    local range = ("%d-%d"):format(sent, last - 1)
    local status, answer, body = send(self, "PATCH", location, { is_upload = true,
      body = core.blob(blob:sub(sent + 1, last)), headers = { ["Content-Type"] = OCTETS, ["Content-Range"] = range } })
    if not status then return nil, answer end
    if status ~= 202 and status ~= 204 then return nil, refused(self, "sending a chunk", status, body) end
    if answer.location then location = requests.join(location, answer.location) end
    sent = last
  end
  return location
end

-- Statuses of registries that refuse a blob in one piece.
local insists = { [405] = true, [411] = true, [413] = true, [416] = true, [501] = true }

-- Ends an upload: with the whole blob, or with nothing if it was sent in chunks.
local function end_upload(self, location, digest, body)
  return send(self, "PUT", with_digest(location, digest), { is_upload = true, body = body,
    headers = { ["Content-Type"] = OCTETS } })
end

-- Gives up an upload that has begun. A registry would keep it open for days.
local function cancel_upload(self, location) send(self, "DELETE", location) end

-- Sends a blob to an upload's URL, in one piece, or in chunks if the registry insists on them.
-- Returns what `send` does; or nil and an error.
local function send_blob(self, location, digest, blob)
  local status, answer, body = end_upload(self, location, digest, blob)
  if not status or not insists[status] then return status, answer, body end
  cancel_upload(self, location)
  local at, headers = begin_upload(self, digest)
  if at == true then return 201, {} end
  if not at then return nil, headers end
  at, headers = send_chunks(self, at, headers, blob)
  if not at then return nil, headers end
  return end_upload(self, at, digest, core.blob "")
end

--- Uploads a blob, unless the repository has it, or gets it from the one to mount blobs from.
-- @tparam string digest in hex
-- @tparam integer size
-- @tparam function get returns the blob; or nil and an error
-- @treturn string the digest
-- @treturn boolean whether it was sent
-- @return[2] nil
-- @treturn[2] table an error
function Session:copy_blob(digest, size, get)
  local there, err = is_there(self, digest, size)
  if there == nil then return nil, err end
  if there then return digest, false end
  local location, headers = begin_upload(self, digest)
  if not location then return nil, headers end
  if location == true then return digest, false end
  local blob
  blob, err = get()
  if not blob then
    cancel_upload(self, location)
    return nil, err
  end
  local status, answer, body = send_blob(self, location, digest, blob)
  if is_lost(status) and is_there(self, digest, size) then return digest, true end
  if not status then return nil, answer end
  if status ~= 201 and status ~= 204 then
    cancel_upload(self, location)
    return nil, refused(self, "an upload", status, body)
  end
  local ok
  ok, err = check_answered(self, answer, digest)
  if not ok then return nil, err end
  return digest, true
end

--- The same for a blob that is at hand.
-- @tparam theaterref.blob blob
-- @tparam[opt] string digest in hex, if it is known
function Session:put_blob(blob, digest)
  return self:copy_blob(digest or blob:digest(), #blob, function() return blob end)
end

--- Writes a document. The repository already has everything that the document names.
-- @tparam string name a tag, or `sha256:<hex>`
-- @tparam theaterref.blob document
-- @tparam string media_type
-- @treturn string its digest, in hex
-- @treturn boolean whether the registry keeps a list of what refers to its subject
function Session:put_document(name, document, media_type)
  local status, headers, body = send(self, "PUT", url(self, "manifests", name), { body = document,
    headers = { ["Content-Type"] = media_type } })
  local digest = document:digest()
  if is_lost(status) then
    local code, answer = send(self, "HEAD", url(self, "manifests", name), { accept = requests.DOCUMENTS })
    if code == 200 and (requests.told_digest(answer) == digest or name == "sha256:" .. digest) then return digest, false end
  end
  if not status then return nil, headers end
  local what = name:find "^sha256:" and "writing a manifest" or ("writing the tag '%s'"):format(name)
  if status ~= 201 and status ~= 200 then return nil, refused(self, what, status, body) end
  local ok, err = check_answered(self, headers, digest)
  if not ok then return nil, err end
  return digest, headers["oci-subject"] ~= nil
end

return Session
