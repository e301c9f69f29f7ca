--- The places that may have a job's bytes already: caches in memory and on disk, and the store that the
-- policy names for a digest. Bytes from anywhere are checked here.
-- @module theaterref.resolve.kept
local caches = require "theaterref.cache"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local reference = require "theaterref.reference"
local trust = require "theaterref.resolve.trust"

local M = {}

-- ------------------------------------------------------------------ digests

local function check_digest(job, blob, algorithm)
  local expected = job[algorithm]
  local actual = blob:digest(algorithm)
  if actual == expected then return true end
  return nil, errors.new("digest_mismatch", ("%s has the %s %s, but %s was expected by %s"):format(
    reference.redact(job.target), algorithm, actual, expected, job.digests_by or "its reference"))
end

--- Checks the size and every digest that a job's bytes must have, but for one that 'verified'
-- names. Returns the blob.
function M.verify(job, blob, verified)
  local ok, err = true, nil
  local max_bytes = job.max_bytes or job.request and job.request.max_bytes
  if max_bytes and #blob > max_bytes then
    return nil, errors.new("too_large", ("%s is larger than the limit of %s (max_bytes)"):format(
      reference.redact(job.target), errors.bytes(max_bytes)))
  end
  if job.sha256 and verified ~= "sha256" then ok, err = check_digest(job, blob, "sha256") end
  if ok and job.sha1 and verified ~= "sha1" then ok, err = check_digest(job, blob, "sha1") end
  if not ok then return nil, err end
  return blob
end

-- ------------------------------------------------------------ what is at hand

--- Returns content with a job's digest from the store that the policy names for it, nil if
-- it is not there, or nil and an error.
function M.from_integrity_store(context, task, job)
  -- A chain's links have rules, too, which only the chain itself can lead to.
  if not job.store or job.source.is_chain and (context.asks.allow or context.judges) then return nil end
  local store, err = context:store(job.store, task)
  if not store then return nil, err end
  local blob
  blob, err = store:get(job.sha256 or job.sha1, context:max_bytes(job))
  if blob then return M.verify(job, blob) end
  if err.kind ~= "not_found" then return nil, err end
  if not job.store_only then return nil end
  return nil, errors.new("not_found", ("offline, and not in the store '%s': %s; put it there with 'theaterref lock --store %s'")
    :format(job.store, job.sha256 or job.sha1, job.store))
end

function M.emit_cache(context, job, outcome)
  if not context.has_listeners then return end
  context:emit("cache", { outcome = outcome, reference = reference.redact(job.target), purpose = job.ctx.purpose })
end

--- The digest that the bytes under a job's key have been checked against.
function M.key_digest(job) return job.sha256 and "sha256" or "sha1" end

-- The id of an object's version, if it has a form that lockfiles can hold: a server or a file gave it.
local function sound_version(version)
  return version and version ~= "null" and #version <= 1024 and version:find "^[%w._~+/=-]+$" and version or nil
end

--- Sets the record of a job's bytes; where they came from, if that is not its target; the manifest in
-- a registry that led to them; and their version in an object store.
function M.set_origin(job, record)
  job.record = record
  local extra = record.extra
  job.origin = extra and extra.origin
  job.manifest = extra and extra.manifest or job.manifest
  job.version = sound_version(extra and extra.version)
end

--- The options of a job's claims. Followers hold their content anyway, and share it whatever its server says.
function M.claim_options(context, job, revalidate)
  return { ttl = job.ttl, request = job.request and job.request.compiled, content = job.content, revalidate = revalidate,
    respect_no_store = context.respect_no_store and not job.follow, max_age = job.max_age, keep_failure = job.keep_failure,
    provisional = not job.follow and trust.applies(context, job) }
end

--- Records for a follower the age of the remembered failure that it got, or that its check sent a request.
-- @tparam table job
-- @tparam[opt] number age
function M.note_failure(job, age)
  local follow = job.follow
  if not age then follow.has_asked = true else follow.failed_at = math.max(follow.failed_at or 0, core.now() - age) end
end

--- Records the keys of a job for a follower, which removes their entries when there is other content. Bytes that appeared
-- after the look at their version have no key.
function M.note_keys(job)
  local keys = job.follow.keys
  if job.key then keys[job.key] = true end
  if job.content then keys[job.content] = true end
end

--- Puts available bytes into a job's cache. Returns the blob that the cache has now.
function M.put(context, job, blob, record)
  local how, what = job.cache:claim(job.key, M.claim_options(context, job, true))
  return how == "lead" and what:complete(blob, record) and what:wait(0) or blob
end

local record_types = { etag = "string", last_modified = "string", url = "string", unsigned_url = "string", unsettled = "boolean",
  private = "boolean", open_ended = "boolean", origin = "string", version = "string", stored = "number", sha256 = "string" }

-- Returns the fields of a record on disk that are as they should be: its file may have been
-- written by anybody. Nil: it is not to be believed.
local function sound_record(record)
  local sound = {}
  for name, expected in pairs(record_types) do
    if record[name] ~= nil and type(record[name]) ~= expected then return nil end
    sound[name] = record[name]
  end
  if record.hosts ~= nil and type(record.hosts) ~= "table" then return nil end
  sound.hosts = record.hosts
  return sound
end

-- Returns a job's bytes from its disk cache, if they are fresh there. Stale ones are good
-- for "has it changed?", or while the server fails.
local function from_disk(context, job)
  job.disk = job.source.fetches and (not job.source.drive or job.parsed.is_gathered) and not job.no_disk
    and caches.disk_cache_of(job.cache) or nil
  if not job.disk then return nil end
  local changes = job.cache:changes()
  local blob, record = job.disk:read(job.disk_key or job.key)
  record = blob and sound_record(record)
  if not record or not core.request_allows(job.request.compiled, record) then return nil end
  -- The file's digest was checked against its bytes, not against what the job asks for.
  if job.sha256 and record.sha256 ~= job.sha256 or job.sha1 and not M.verify(job, blob, "sha256") then return nil end
  local origin, version = record.origin, sound_version(record.version)
  record.extra, record.origin, record.version = { origin = origin, version = version }, nil, nil
  local ttl, age = job.ttl or job.cache:ttl(), os.time() - record.stored
  if ttl and ttl < 0 then ttl = nil end
  if job.revalidate or record.stored == 0 or age < 0 or ttl and age >= ttl then
    job.known = { blob = blob, record = record, past_ttl = age < 0 and math.huge or age - (ttl or 0) }
    return nil
  end
  if job.cache:changes() ~= changes then return nil end -- it was removed meanwhile
  job.origin, job.version, record.age, job.record = origin, version, age, record
  blob = M.put(context, job, blob, record)
  M.emit_cache(context, job, "disk")
  return blob
end

-- Returns the bytes that a job's cache has under another reference with the same digest. A
-- chain is followed all the same: its links must be allowed.
local function from_content(context, job, request)
  local blob = job.content and not job.source.is_chain and job.cache:peek(job.content, request, trust.applies(context, job))
  if not blob then return nil end
  local record = core.record(blob)
  record.extra, job.record = nil, record -- 'extra' has the other reference's origin
  return M.put(context, job, blob, record)
end

--- Returns a job's bytes if they are fresh in a cache, or nil.
function M.from_cache(context, job)
  if not job.cache then return nil end
  local request, blob = job.request and job.request.compiled, nil
  if not job.revalidate and not job.max_age then
    blob = job.cache:peek(job.key, request, trust.applies(context, job))
    local asks = job.ctx.purpose == "manifest" or context.trace or job.is_link or context.judges and job.source.documents
    if blob and asks then M.set_origin(job, core.record(blob)) end
    blob = blob or from_content(context, job, request)
  end
  if blob then M.emit_cache(context, job, "hit") else blob = from_disk(context, job) end
  if not blob then return nil end
  job.hit = true
  return M.verify(job, blob, M.key_digest(job))
end

function M.keep_on_disk(context, task, job, blob, record)
  record.origin, record.version, record.extra = job.origin, job.version, nil -- a record on disk has no tables within it
  record.content = nil
  local seconds = not task.blocking and 0 or task.deadline and math.max(0, math.min(1, task.deadline - core.now())) or nil
  local ok, err, warn = job.disk:write(job.disk_key or job.key, blob, record, seconds)
  job.wrote_disk = ok and not job.known -- else it was there before
  if not ok and warn then
    context:emit("disk_cache", { reference = reference.redact(job.target), message = tostring(err) })
  end
end

return M
