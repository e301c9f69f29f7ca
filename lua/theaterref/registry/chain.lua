--- A chain of requests: a reference leads to a manifest, perhaps by way of an index, and that to a layer.
--
-- Each of them is a link with a key of its own in caches, its digest: references share what they
-- have in common, and whoever resolves one drives its own chain of links.
-- @module theaterref.registry.chain
local artifacts = require "theaterref.registry.artifact"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local overlay = require("theaterref.options").overlay
local references = require "theaterref.registry.reference"
local requests = require "theaterref.registry.requests"
local signatures = require "theaterref.registry.signatures"

-- A chain at work: `job`, `context` and `links`, and the endpoint that it asks.
local Chain = {}
Chain.__index = Chain

local MAX_DOCUMENTS = 3 -- an index, an index in it, a manifest

--- Makes a chain for one of a job's places.
-- @tparam table job
-- @tparam table context
-- @tparam table links what gets its links; see `theaterref.source.oci.drive`
-- @tparam table place `endpoint`, `options` of requests to it, and perhaps `document_options`, of those for documents
-- @treturn table
function Chain.new(job, context, links, place)
  return setmetatable({ job = job, context = context, links = links, place = place, endpoint = place.endpoint, cache = job.cache,
    record = { hosts = {} }, has_host = {} }, Chain)
end

-- ------------------------------------------------------------------- links

-- The source of links: bytes at a URL of the registry.
local link_source = { fetches = true, is_remote = function() return true end }

function link_source.start(link, _, task)
  local left = not link.lead and task.deadline and math.max(0, task.deadline - core.now()) or nil
  local future, err = core.fetch(link.parsed.url, link.compiled, link.lead, link.sha256, task.will_wait, left)
  return future and { future = future }, err
end

-- The options of a link's request. Signatures have a time limit for all of them; a blob, which
-- its digest fixes, may come from where those of the signed artifact may.
function Chain:options(kind)
  local job = self.job
  local all = kind == "manifests" and self.place.document_options or self.place.options
  if not self.deadline then return all end
  local options = overlay(all)
  options.timeout = math.max(0.001, self.deadline - core.now())
  if kind == "blobs" and job.blob_redirect_hosts then
    options.redirect_hosts = job.blob_redirect_hosts
    if options.redirect_hosts == "any" then options.redirect_hosts = self.context.defaults.redirect_hosts end
  end
  return options
end

-- Failures of one job's wait for a helper, which another job does not share.
local own_ends = { cancelled = true, timeout = true }

-- Compiles the options of a link's request. All requests of a job have the same credentials.
function Chain:compile(kind, more)
  local place = self.place
  if not place.credentials and not place.err then
    local found, err = requests.credentials(self.endpoint, self.links.await, place.options.timeout)
    if not found and own_ends[err.kind] then return nil, err end
    place.credentials, place.err = found, err
  end
  if not place.credentials then return nil, place.err end
  return requests.compile(self.endpoint, self:options(kind), "pull", place.credentials, more)
end

-- Adds what the record of a link has to that of the chain: where its redirects led.
function Chain:note_record(record)
  local all = self.record
  for _, host in ipairs(record and record.hosts or {}) do
    if not self.has_host[host] then self.has_host[host], all.hosts[#all.hosts + 1] = true, host end
  end
  all.private, all.open_ended = all.private or record and record.private, all.open_ended or record and record.open_ended
end

-- Makes a link, for 'links.get'. 'max_bytes' is a limit beside that of the job; the option is about layers.
function Chain:link(kind, name, what, max_bytes)
  local job, endpoint = self.job, self.endpoint
  local limit = math.min(max_bytes, kind == "blobs" and job.request.max_bytes or job.max_bytes or max_bytes)
  local options = { max_bytes = limit, accept = kind ~= "blobs" and requests.DOCUMENTS or nil }
  local request, sha256 = job.request, name:match "^sha256:(.*)$"
  -- Loads under way, failures and tags are those of one registry; bytes with a digest are
  -- everybody's under their content's key.
  local here = core.digest(request.scope .. "\n" .. (endpoint.mirror or endpoint.origin) .. "\n" .. (endpoint.ns or "")
    .. (self.place.renewals and "\n" .. self.place.renewals or "")) -- refused with other credentials
  local content = sha256 and core.cache_key("sha256://" .. sha256, nil, request.scope) or nil
  return { parsed = { scheme = "oci", url = requests.url(endpoint, kind, name) }, source = link_source, what = what,
    target = references.artifact(job.parsed) .. (sha256 and "@" or ":") .. name, sha256 = sha256,
    key = core.cache_key(sha256 and "sha256://" .. sha256 or references.document_key(job.parsed), nil, here), content = content,
    disk_key = content,
    request = { compiled = request.compiled, scope = request.scope, may_be_on_disk = request.may_be_on_disk, max_bytes = limit,
      timeout = request.timeout },
    compile = function() return self:compile(kind, options) end }
end

-- Gets a link's bytes. 'cache' is the one that it goes through, or nil.
function Chain:get(link, cache)
  link.cache, link.no_disk = cache, self.job.no_disk or not link.request.may_be_on_disk
  if link.sha256 then link.ttl = -1 end -- content never changes
  local blob, err
  if cache then
    blob, err = self.links.fresh(link)
    if blob then self:note_record(link.record) end
    if blob or err then return blob, err end
  end
  if not self.context.offline then
    link.compiled, err = link.compile()
    if not link.compiled then return nil, err end
  end
  blob, err = self.links.get(link)
  if not blob and err.status and link.sha256 and cache and not link.led then
    -- Another repository of this registry led that load, and may not have it.
    link.key = core.cache_key("sha256://" .. link.sha256, nil, core.digest(link.key .. self.endpoint.repository))
    blob, err = self.links.get(link)
  end
  if blob then
    self:note_record(link.record)
    return blob
  end
  return nil, requests.worded(err, self.endpoint, link.what)
end

-- -------------------------------------------------------------------- tags

-- The digests that tags led to a moment ago, by key: a HEAD tells whether they still do.
local last_digests, last_count = {}, 0

local function remember(key, digest)
  if not last_digests[key] then
    if last_count >= 1024 then last_digests, last_count = {}, 0 end
    last_count = last_count + 1
  end
  last_digests[key] = digest
end

-- Sends a link's request, past all caches. Returns the body and what is known about the
-- answer, whatever its status.
function Chain:send(link, method)
  local compiled, err = link.compile()
  local future, body
  if compiled then
    future, err = core.send(link.parsed.url, compiled, { method = method }, self.links.seconds_left())
  end
  if future then body, err = self.links.await(future, true) end
  if not body then return nil, err end
  return body, future:info()
end

-- Asks where a tag leads. Returns the digest; nil if the registry does not tell; or nil and an
-- error.
function Chain:head(link)
  if self.context.offline then return nil end
  local ok, info = self:send(link, "HEAD")
  if not ok then return nil, info end
  self:note_record(info)
  return info.status == 200 and requests.told_digest(info.headers) or nil
end

-- Puts a document that a tag led to under its digest, too.
function Chain:keep(digest, blob)
  local link = self:link("manifests", "sha256:" .. digest, "manifest", requests.MAX_DOCUMENT_BYTES)
  link.cache, link.ttl, link.no_disk = self.cache, -1, true
  if link.cache then self.links.put(link, blob, self.record) end
end

-- Notes a document that leads to the bytes: whoever judges them may need it.
function Chain:note(digest, blob)
  self.job.documents = self.job.documents or {}
  self.job.documents[digest] = blob
end

-- Notes the manifest that the reference leads to, and the cache for what is in it.
function Chain:set_manifest(manifest)
  self.job.manifest = manifest
  self.cache = self.links.cache(references.at_digest(self.job.parsed, manifest))
end

-- Gets a document, such as that of a tag, from its registry. Returns it, its digest and what is known
-- about the answer.
function Chain:fetch(link)
  if self.context.offline then
    return nil, errors.new("not_found", ("offline: %s is not here, and nothing is fetched"):format(link.target))
  end
  local blob, info = self:send(link, "GET")
  if not blob then return nil, requests.worded(info, self.endpoint, link.what) end
  self:note_record(info)
  if info.status ~= 200 then return nil, requests.status_error(self.endpoint, link.what, info.status) end
  local digest, told = blob:digest(), requests.told_digest(info.headers)
  if told and told ~= digest then
    return nil, errors.new("digest_mismatch", ("%s has the sha256 %s, but its registry said %s"):format(link.target, digest,
      told))
  end
  return blob, digest, info
end

--- Gets the document of a tag for a follower. One of all followers asks the registry where the tag leads, and gets a
-- document only if it leads elsewhere. Returns it and its digest.
function Chain:checked_tag(link)
  local job = self.job
  link.cache, link.no_disk, link.ttl = job.cache, true, -1
  link.max_age, link.keep_failure = job.max_age, job.keep_failure
  local before = link.cache:peek(link.key, link.request.compiled, true)
  local blob, err = self.links.check(link, function()
    local compiled, digest, err, found
    compiled, err = link.compile()
    if not compiled then return nil, err end
    if before then digest, err = self:head(link) end
    if err and core.is_outage(err) then return nil, requests.worded(err, self.endpoint, link.what) end
    if digest and digest == before:digest() then return before, core.record(before) end
    if digest then
      self:set_manifest(digest)
      found, err = self:read_digest(false, digest)
    else
      found, err = self:fetch(link)
    end
    return found, found and self.record or err
  end)
  if not blob then return nil, err end
  self:note_record(link.record)
  return blob, blob:digest()
end

--- Gets the document of a tag that may be cached: from the cache, after a question to the
-- registry if it is not fresh there, or from the registry. Returns it and its digest.
function Chain:cached_tag(link)
  local cache = self.job.cache
  if self.job.follow then return self:checked_tag(link) end
  link.cache, link.no_disk = cache, self.job.no_disk or not link.request.may_be_on_disk
  -- Bytes in the place of rejected ones are what the tag leads to now.
  link.ttl, link.revalidate = self.job.ttl, self.job.revalidate or self.job.usual_key ~= nil
  local blob, err = self.links.fresh(link)
  if blob then self:note_record(link.record) end
  if blob or err then return blob, blob and blob:digest() or err end
  local before = link.known and link.known.blob
  local last = before and before:digest() or last_digests[link.key]
  local digest = last and self:head(link)
  if not digest then
    blob, err = self:get(link, cache)
    return blob, blob and blob:digest() or err
  end
  blob = before and digest == last and before
  if blob then
    self:note_record(link.known.record)
  else
    self:set_manifest(digest)
    blob, err = self:read_digest(false, digest)
    if not blob then return nil, err end
  end
  self.links.put(link, blob, self.record)
  return blob, digest
end

-- Gets the document of a tag. Returns it, its digest, and its media type if that is known.
function Chain:read_tag()
  local tag = self.job.parsed.tag
  local link = self:link("manifests", tag, ("tag '%s'"):format(tag), requests.MAX_DOCUMENT_BYTES)
  local blob, digest, media_type
  if self.job.cache then
    blob, digest = self:cached_tag(link)
  elseif self.context.offline then
    blob, digest = self:get(link, nil)
    digest = blob and blob:digest() or digest
  else
    -- The document of the last pull may be in the cache, under its digest.
    digest = self.job.asks_cacheable and last_digests[link.key] and self:head(link)
    if digest then
      self:set_manifest(digest)
      blob, media_type = self:read_digest(false, digest), nil
    end
    if not blob then
      local info
      blob, digest, info = self:fetch(link)
      media_type = blob and info.content_type
    end
  end
  if not blob then return nil, digest end
  self:set_manifest(digest)
  self:note(digest, blob)
  self:keep(digest, blob)
  remember(link.key, digest)
  return blob, digest, media_type
end

-- -------------------------------------------------------- documents and layers

-- The title of a document's layer with a digest; nil if it has none.
local function title_in(document, digest)
  local decoded = artifacts.decode(document)
  for _, layer in ipairs(decoded and type(decoded.layers) == "table" and decoded.layers or {}) do
    local annotations = type(layer) == "table" and layer.digest == "sha256:" .. digest and layer.annotations
    local title = type(annotations) == "table" and annotations["org.opencontainers.image.title"]
    if type(title) == "string" then return title end
  end
end

-- Gets the layer that a document, and those it leads to, choose.
function Chain:read_layer(document, media_type)
  local job = self.job
  for _ = 1, MAX_DOCUMENTS do
    local kind, digest, size, of_type = core.oci_select(document, job.parsed.title, media_type)
    if not kind then return nil, digest end
    local is_layer = kind == "layer"
    if is_layer and job.wants_title then job.title = title_in(document, digest) end
    local limit = is_layer and self.context:max_bytes(job) or requests.MAX_DOCUMENT_BYTES
    if size > limit then
      return nil, errors.new("too_large", ("%s is larger than the limit of %d bytes%s"):format(
        errors.redact_reference(job.target), limit, is_layer and " (max_bytes)" or ""))
    end
    if is_layer and job.sha256 and job.sha256 ~= digest then
      return nil, errors.new("digest_mismatch", ("%s has the sha256 %s, but %s was expected by %s"):format(
        errors.redact_reference(job.target), digest, job.sha256, job.digests_by or "its reference"))
    end
    local blob, err = self:read_digest(is_layer, digest, size)
    if not blob or is_layer then return blob, err end
    document, media_type = blob, of_type
  end
  return nil, errors.new("syntax", "the index leads to an index that leads to another")
end

-- Gets a layer or a document by its digest. 'size' is nil if it is not known.
function Chain:read_digest(is_layer, digest, size)
  local link = self:link(is_layer and "blobs" or "manifests", "sha256:" .. digest, is_layer and "layer" or "manifest",
    size or is_layer and self.context:max_bytes(self.job) or requests.MAX_DOCUMENT_BYTES)
  if is_layer then self.layer = link end
  local blob, err = self:get(link, self.cache)
  if blob and not is_layer then self:note(digest, blob) end
  if not size or blob and #blob == size then return blob, err end
  if not blob and (err.kind ~= "too_large" or size > self.context:max_bytes(self.job)) then return nil, err end
  -- The limit of the request was this size: another 'max_bytes' would not help.
  local says = size == self.job.locked_size and (self.job.digests_by or "its reference") or "its manifest"
  return nil, errors.new("corrupt", ("%s has %s bytes, not the %d that %s says"):format(link.target,
    blob and #blob or "more", size, says))
end

-- Drives the chain at one endpoint.
function Chain:drive()
  local job = self.job
  local manifest = job.parsed.manifest or job.locked_manifest
  local document, digest, media_type
  if job.locked_manifest and job.sha256 then -- the lockfile knows where it leads
    job.manifest = manifest
    return self:read_digest(true, job.sha256, job.locked_size)
  end
  if manifest then
    self:set_manifest(manifest)
    document, digest = self:read_digest(false, manifest)
  else
    document, digest, media_type = self:read_tag()
  end
  if not document then return nil, digest end
  if self.context.trace then
    self.context.trace { rule = "registry", by = self.endpoint.registry, reference = errors.redact_reference(job.target),
      answer = "sha256:" .. job.manifest }
  end
  local last = job.follow and job.follow.known[job.key]
  if last and last.manifest == job.manifest then -- its bytes need not be in the cache any more
    self.layer = { content = last.content }
    return last.blob
  end
  local blob, err = self:read_layer(document, media_type)
  -- A tag is fresh only as long as it leads somewhere.
  if not blob and not manifest and job.cache and not core.is_outage(err) and err.kind ~= "cancelled" then
    job.cache:refresh(references.document_key(job.parsed))
  end
  return blob, err
end

-- Gets a document by its digest: one that was read for these bytes, one in the store that
-- a lockfile was read with, or any other.
function Chain:document(digest, store)
  local document = self.job.documents and self.job.documents[digest]
  if not document and store then document = store:get(digest, requests.MAX_DOCUMENT_BYTES) end
  if document and document:digest() == digest then return document end
  return self:read_digest(false, digest)
end

-- Gets the documents that lead to bytes with a SHA-256, the one that the reference leads to
-- first. Its digest is nil if it is not known.
function Chain:read_documents(digest, sha256, store)
  local job, list, document = self.job, {}, nil
  if digest then
    self:set_manifest(digest)
  else
    document, digest = self:read_tag()
    if not document then return nil, digest end
  end
  for i = 1, MAX_DOCUMENTS do
    local err, kind
    if not document then document, err = self:document(digest, store) end
    if not document then return nil, err end
    list[i] = { digest = digest, blob = document }
    kind, digest = core.oci_select(document, job.parsed.title)
    if not kind then return nil, digest end
    if kind == "layer" then
      if digest == sha256 then return list end
      break
    end
    document = nil
  end
  return nil, errors.new("digest_mismatch", ("the manifest sha256:%s does not lead to these bytes"):format(list[1].digest))
end

-- Gathers the signatures under a tag. Nothing is cached but the whole.
function Chain:gather()
  local job = self.job
  self.cache, self.deadline = nil, job.max_seconds and core.now() + job.max_seconds
  local blob, is_whole = signatures.gather(self, job.parsed.tag, job.max_bytes or requests.MAX_DOCUMENT_BYTES)
  if not blob then return nil, is_whole end
  return blob, { is_gathered = true, is_whole = is_whole }
end

return Chain
