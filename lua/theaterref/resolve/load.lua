--- Resolving: how a reference becomes bytes.
--
-- A wish is what is to be resolved, a table: `reference`; `ctx`, what it is for; `options`:
-- `cached`, through the context's cache, `cache`, through that one, or `ask_cacheable`, as
-- the rule `cacheable` says; and `ttl`, `revalidate` and `disk`, for the cache. The outcome
-- is put on the same table:
-- `target`, the candidate whose bytes they are; `origin`, where these finally came from;
-- `used_cache`, whether they went through a cache; `hit`, whether it had them; `manifest`, the digest
-- of the manifest in a registry that led to them; `title`, of their layer there, for one with
-- `wants_title`.
-- @module theaterref.resolve.load
local admit = require "theaterref.resolve.admit"
local caches = require "theaterref.cache"
local candidates = require "theaterref.resolve.candidates"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local Future = require "theaterref.resolve.future"
local reference = require "theaterref.reference"
local trust = require "theaterref.resolve.trust"

local M = {}

local MAX_HOPS = 8

-- The metatable of the core's futures.
local core_future = getmetatable(core.future())

-- ------------------------------------------------------------------ digests

local function check_digest(job, blob, algorithm)
  local expected = job[algorithm]
  local actual = blob:digest(algorithm)
  if actual == expected then return true end
  return nil, errors.new("digest_mismatch", ("%s has the %s %s, but %s was expected by %s"):format(
    reference.redact(job.target), algorithm, actual, expected, job.digests_by or "its reference"))
end

-- Checks the size and every digest that a job's bytes must have, but for one that 'verified'
-- names. Returns the blob.
local function verify(job, blob, verified)
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

-- Returns content with a job's digest from the store that the policy names for it, nil if
-- it is not there, or nil and an error.
local function from_integrity_store(context, task, job)
  -- A chain's links have rules, too, which only the chain itself can lead to.
  if not job.store or job.source.is_chain and (context.asks.allow or context.judges) then return nil end
  local store, err = context:store(job.store, task)
  if not store then return nil, err end
  local blob
  blob, err = store:get(job.sha256 or job.sha1, context:max_bytes(job))
  if blob then return verify(job, blob) end
  if err.kind ~= "not_found" then return nil, err end
  if not job.store_only then return nil end
  return nil, errors.new("not_found", ("offline, and not in the store '%s': %s; put it there with 'theaterref lock --store %s'")
    :format(job.store, job.sha256 or job.sha1, job.store))
end

local function emit_cache(context, job, outcome)
  if not context.has_listeners then return end
  context:emit("cache", { outcome = outcome, reference = reference.redact(job.target), purpose = job.ctx.purpose })
end

-- The digest that whatever lies under a job's key has been checked against.
local function key_digest(job) return job.sha256 and "sha256" or "sha1" end

-- The id of an object's version, if it has a form that lockfiles can hold: a server or a file gave it.
local function sound_version(version)
  return version and version ~= "null" and #version <= 1024 and version:find "^[%w._~+/=-]+$" and version or nil
end

-- Sets the record of a job's bytes; where they came from, if that is not its target; the manifest in
-- a registry that led to them; and their version in an object store.
local function set_origin(job, record)
  job.record = record
  local extra = record.extra
  job.origin = extra and extra.origin
  job.manifest = extra and extra.manifest or job.manifest
  job.version = sound_version(extra and extra.version)
end

-- The options of a job's claims.
local function claim_options(context, job, revalidate)
  return { ttl = job.ttl, request = job.request and job.request.compiled, content = job.content, revalidate = revalidate,
    respect_no_store = context.respect_no_store, provisional = trust.applies(context, job) }
end

-- Puts bytes that are there into a job's cache. Returns the blob that the cache has now.
local function put(context, job, blob, record)
  local how, what = job.cache:claim(job.key, claim_options(context, job, true))
  return how == "lead" and what:complete(blob, record) and what:wait(0) or blob
end

local record_types = { etag = "string", last_modified = "string", url = "string", unsigned_url = "string",
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
  if job.sha256 and record.sha256 ~= job.sha256 or job.sha1 and not verify(job, blob, "sha256") then return nil end
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
  blob = put(context, job, blob, record)
  emit_cache(context, job, "disk")
  return blob
end

-- Returns the bytes that a job's cache has under another reference with the same digest. A
-- chain is followed all the same: its links must be allowed.
local function from_content(context, job, request)
  local blob = job.content and not job.source.is_chain and job.cache:peek(job.content, request, trust.applies(context, job))
  if not blob then return nil end
  local record = core.record(blob)
  record.extra, job.record = nil, record -- 'extra' has the other reference's origin
  return put(context, job, blob, record)
end

-- Returns a job's bytes if they are fresh in a cache, or nil.
local function from_cache(context, job)
  if not job.cache then return nil end
  local request, blob = job.request and job.request.compiled, nil
  if not job.revalidate then
    blob = job.cache:peek(job.key, request, trust.applies(context, job))
    local asks = job.ctx.purpose == "manifest" or context.trace or job.is_link or context.judges and job.source.documents
    if blob and asks then set_origin(job, core.record(blob)) end
    blob = blob or from_content(context, job, request)
  end
  if blob then emit_cache(context, job, "hit") else blob = from_disk(context, job) end
  if not blob then return nil end
  job.hit = true
  return verify(job, blob, key_digest(job))
end

-- ------------------------------------------------------------- loads and claims

-- The error for an answer of a job's scheme that is none.
local function wrong_answer(job, answer)
  return errors.new("policy", ("the scheme '%s' returned a %s; bytes, a future of bytes or { reference = … } were expected")
    :format(job.parsed.scheme, type(answer)))
end

-- Starts a job. Returns its source's answer: a table with 'blob', 'future' or 'reference'; or
-- nil and an error.
local function start(context, task, job)
  local step, err = job.source.start(job, context, task)
  if not step then return nil, err end
  local future = step.future
  if context.trace and job.source.is_chain then
    local answer = step.reference and reference.redact(step.reference) or future and "a future" or "bytes"
    context.trace { rule = "schemes." .. job.parsed.scheme, by = context.policy.path, reference = reference.redact(job.target),
      answer = answer }
  end
  if future and (getmetatable(future) == core_future or Future.is(future)) or core.is_blob(step.blob)
    or type(step.reference) == "string" then
    return step
  end
  return nil, wrong_answer(job, future or step.blob)
end

-- Loads local bytes, into the future that leads a claim if there is one.
local function load_local(context, task, job, lead)
  local loaded, err = start(context, task, job)
  local blob = loaded
  if loaded then blob, err = verify(job, loaded.blob) end
  if not lead then return blob, err end
  if blob then blob = lead:complete(blob) and lead:wait(0) or blob else lead:fail(err.kind, err.message, err.status) end
  emit_cache(context, job, "miss") -- now: a function that it calls may ask for the same
  return blob, err
end

local function keep_on_disk(context, task, job, blob, record)
  record.origin, record.version, record.extra = job.origin, job.version, nil -- a record on disk has no tables within it
  record.content = nil
  local seconds = not task.blocking and 0 or task.deadline and math.max(0, math.min(1, task.deadline - core.now())) or nil
  local ok, err, warn = job.disk:write(job.disk_key or job.key, blob, record, seconds)
  job.wrote_disk = ok and not job.known -- else it was there before
  if not ok and warn then
    context:emit("disk_cache", { reference = reference.redact(job.target), message = tostring(err) })
  end
end

-- Reports what a fetch took, and keeps its bytes on disk.
local function after_fetch(context, task, job, future, blob)
  local attempts = future:attempts()
  if attempts > 1 then
    context:emit(blob and "retry" or "retries_failed", { reference = reference.redact(job.target), attempts = attempts })
  end
  if not blob or not (job.disk or job.is_link or context.trace or job.ctx.purpose == "manifest") then return end
  local record = future:freshness()
  set_origin(job, record)
  if not job.disk or job.cache:changes() ~= job.changes then return end
  keep_on_disk(context, task, job, blob, record)
  if job.cache:changes() ~= job.changes then job.disk:forget(job.disk_key or job.key) end -- it was removed meanwhile
end

-- Returns a fetch's error. The engine does not know who expects a digest, nor whose time
-- limit it was given.
local function fetch_error(task, job, err)
  if err.kind == "timeout" then return task:lateness() or err end
  if err.kind ~= "digest_mismatch" then return err end
  return errors.new(err.kind, err.message .. " by " .. (job.digests_by or "its reference"), err.reference)
end

-- Returns what the disk cache has past its ttl if a server failed and 'stale_if_error'
-- allows it; or the error.
local function stale_from_disk(context, task, job, err)
  local known = job.known
  if not known or not core.is_outage(err) or known.past_ttl >= job.cache:stale_if_error() then
    return nil, fetch_error(task, job, err)
  end
  emit_cache(context, job, "stale")
  job.hit = true
  set_origin(job, known.record)
  return known.blob
end

-- Fetches a job, into the future that leads its claim if there is one.
local function fetch(context, task, job, lead)
  if context.offline then
    if lead then lead:cancel() end -- others may be online
    return nil, errors.new("not_found", ("offline: %s is not here, and nothing is fetched"):format(reference.redact(job.target)))
  end
  job.lead = lead
  local started, err = start(context, task, job)
  if not started then
    if lead then lead:fail(err.kind, err.message, err.status) end
    return nil, err
  end
  if lead then emit_cache(context, job, "miss") end
  local blob
  blob, err = task:await(started.future)
  task.fetched = started.future
  after_fetch(context, task, job, started.future, blob)
  if not blob then blob, err = stale_from_disk(context, task, job, err) end
  if not blob then return nil, err end
  return verify(job, blob, key_digest(job))
end

-- Loads a job, as the leader of its claim.
local function lead_claim(context, task, job, lead)
  job.changes = job.cache:changes()
  if not job.source.fetches then return load_local(context, task, job, lead) end
  if job.known then lead:know(job.known.blob, job.known.record) end
  return fetch(context, task, job, lead)
end

local in_background

-- Failures that may be of the limits of whoever led the load, not of ours.
local own_limits = { timeout = true, too_large = true }

-- Gets a job's bytes through its cache: those of a load that is under way, or of one that
-- it leads.
local function through_cache(context, task, job)
  local options, tries, began = claim_options(context, job, job.revalidate), 0, core.now()
  while true do
    local how, what, refresh = job.cache:claim(job.key, options)
    if how == "lead" then return lead_claim(context, task, job, what) end
    if refresh then in_background(context, job, refresh) end
    emit_cache(context, job, how)
    local blob, err, why = what, nil, nil
    if how == "wait" then blob, err, why = task:await(what) else job.hit = true end
    if blob and (job.ctx.purpose == "manifest" or job.is_link) then
      set_origin(job, how == "wait" and what:freshness() or core.record(blob))
    end
    if blob then return verify(job, blob, key_digest(job)) end
    tries = tries + 1
    local timeout = job.request and job.request.timeout
    if why == "abandoned" and timeout and timeout >= 0 and core.now() - began >= timeout then
      return nil, errors.new("timeout", ("not done within %s (timeout)"):format(errors.seconds(timeout)))
    end
    -- Claim it again if whoever led gave up, or once if it may succeed under our limits.
    if why ~= "abandoned" and not (tries == 1 and own_limits[err.kind] and not task.over) then return nil, err end
  end
end

-- Returns a job's bytes if they are fresh in a cache, or local; nil if they are to be
-- fetched; or nil and an error.
local function at_hand(context, task, job)
  local blob, err = from_cache(context, job)
  if blob or err then return blob, err end
  blob, err = from_integrity_store(context, task, job)
  if err then return nil, err end
  if blob and job.cache then blob = put(context, job, blob) end
  if blob or job.source.is_remote() then return blob end
  if job.cache then return through_cache(context, task, job) end
  return load_local(context, task, job)
end

-- ------------------------------------------------------------------- chains

-- Has a job load bytes in the place of rejected ones, under a key of its own, which no reference
-- has, until somebody accepts them.
local function load_again(job)
  job.usual_key = { job.key, job.content, job.no_disk }
  job.key, job.content, job.no_disk = job.cache and job.key .. "\0again", nil, true
end

local follow

-- Drives a chain: a scheme that leads to bytes, or to another reference. That reference is
-- admitted each time, and has an entry of its own in the cache.
local function drive_chain(context, task, job)
  local step, err = start(context, task, job)
  if not step then return nil, err end
  if step.reference then
    local blob
    blob, err = follow(context, task, job, step)
    if not blob then return nil, err end
    return verify(job, blob)
  end
  local blob = step.blob
  if step.future then
    blob, err = task:await(step.future, Future.is(step.future)) -- which may be somebody else's
    if not blob then return nil, err end
    if not core.is_blob(blob) then return nil, wrong_answer(job, blob) end -- such as a plan
  end
  blob, err = verify(job, blob)
  if blob and job.cache then blob = put(context, job, blob) end
  return blob, err
end

local get

--- Returns what a source gets the links of its chain by; see `theaterref.source.oci`. A link is a
-- job that no rule sees: the reference that led to it was admitted.
-- @tparam table context
-- @tparam theaterref.future task
-- @tparam table job
-- @treturn table
function M.links_of(context, task, job)
  local links = { task = task }
  local function prepare(link)
    link.ctx, link.redirect_hosts, link.is_link = job.ctx, job.redirect_hosts, true
    link.digests_by = link.sha256 and "the document that led to it" or "its registry"
    return link
  end
  function links.get(link)
    local before = task.fetched
    local blob, err = get(context, task, prepare(link))
    link.led = task.fetched ~= before
    if link.led then link.info = task.fetched:info() end
    return blob, err
  end
  function links.fresh(link) return from_cache(context, prepare(link)) end
  function links.put(link, blob, record)
    put(context, prepare(link), blob, record)
    if link.disk then
      keep_on_disk(context, task, link, blob, { hosts = record.hosts, private = record.private, open_ended = record.open_ended })
    end
  end
  function links.cache(target) return admit.cache_of(context, job, target) end
  function links.await(future, own) return task:await(future, not own) end
  function links.seconds_left() return task.deadline and math.max(0, task.deadline - core.now()) or nil end
  function links.is_over() return task.over ~= nil or task:lateness() ~= nil end
  return links
end

-- Keeps what a source put together of several links, under the reference itself.
local function keep_gathered(context, task, job, blob)
  blob = put(context, job, blob)
  if job.disk then keep_on_disk(context, task, job, blob, {}) end
  return blob
end

-- Has a source drive a chain of links of its own. The reference becomes an alias of the
-- last one.
local function drive_links(context, task, job)
  local blob, link, record = job.source.drive(job, context, M.links_of(context, task, job))
  if not blob then return nil, link end
  local verified, err = verify(job, blob, "sha256")
  if not verified or not job.cache then return verified, err end
  if link.is_gathered then return link.is_whole and keep_gathered(context, task, job, blob) or blob end
  job.content = link.content
  return put(context, job, blob, { hosts = record.hosts, private = record.private, open_ended = record.open_ended,
    no_store = link.record and link.record.no_store, extra = { manifest = job.manifest } })
end

-- Gets a remote job's bytes.
local function get_remote(context, task, job)
  if job.source.drive then return drive_links(context, task, job) end
  if job.source.is_chain then return drive_chain(context, task, job) end
  return (job.cache and through_cache or fetch)(context, task, job)
end

-- Gets a job's bytes from wherever they are.
function get(context, task, job)
  local blob, err = at_hand(context, task, job)
  if blob or err then return blob, err end
  return get_remote(context, task, job)
end

-- Goes on with the reference that a chain's step led to.
function follow(context, task, job, step)
  local hops = (job.hops or 0) + 1
  if hops > MAX_HOPS then
    return nil, errors.new("policy", ("schemes led from one to the next more than %d times"):format(MAX_HOPS))
  end
  local expected = { sha256 = job.sha256, sha1 = job.sha1 }
  for algorithm, hex in pairs(step.expected or {}) do expected[algorithm] = hex end
  local wish = { ctx = job.ctx, max_bytes = job.max_bytes, max_seconds = job.max_seconds, remote_only = job.remote_only,
    options = { cache = job.cache, ttl = job.ttl, revalidate = job.revalidate, disk = not job.no_disk } }
  local next_job, err = admit.admit(context, wish, step.reference, expected, task)
  err = err or task:lateness()
  if err then return nil, err end
  if job.usual_key then load_again(next_job) end
  next_job.hops, job.led_to = hops, next_job
  local blob
  blob, err = get(context, task, next_job)
  -- A data URL is no place: its bytes are those of whoever led to it.
  job.origin = next_job.origin or not next_job.source.is_inline and next_job.target or nil
  job.hit = next_job.hit
  return blob, err
end

-- ----------------------------------------------------------------- resolving

-- Emits that bytes are there, of a job and of those it led to.
local function emit_resolved(context, job, blob, list)
  while job do
    if context.trace then context.trace { resolved = job, blob = blob, candidates = list or { job.target } } end
    if context.has_listeners then
      context:emit("resolved", { reference = reference.redact(job.target), purpose = job.ctx.purpose, bytes = #blob })
    end
    job, list = job.led_to, nil
  end
end

-- Tells the caches of a job, and of those it led to, what its consumer thinks of its bytes.
local function tell_caches(job, blob, accepted)
  while job do
    if job.cache and accepted then
      job.cache:accept(job.key)
    elseif job.cache and job.cache:reject(job.key, blob) and job.wrote_disk then
      job.disk:forget(job.key)
    end
    job = job.led_to
  end
end

-- Returns bytes as memory that nobody can write to, and has the caches of a job hold that.
local function owned(job, blob)
  local own = core.unmapped(blob)
  if rawequal(own, blob) then return blob end
  while job do
    if job.cache then job.cache:swap(job.key, blob, own) end
    job = job.led_to
  end
  return own
end

-- Loads a job's bytes again, for all who reject what a cache has. They wait for one load.
local function reload(context, task, job)
  load_again(job)
  job.hit, job.known, job.led_to, job.disk, job.revalidate = false, nil, nil, nil, false
  local blob, err = get(context, task, job)
  return blob and core.unmapped(blob), err
end

-- Ends a reload: bytes that were accepted go in the place of the old ones.
local function end_reload(context, task, job, blob, accepted)
  while job do
    local key = job.key
    if job.usual_key then job.key, job.content, job.no_disk = table.unpack(job.usual_key, 1, 3) end
    local kept = accepted and job.cache and job.cache:peek(key, job.request and job.request.compiled, true)
    if kept then
      local record = core.record(kept)
      put(context, job, blob, record)
      job.disk = job.source.fetches and not job.no_disk and caches.disk_cache_of(job.cache) or nil
      if job.disk then keep_on_disk(context, task, job, blob, record) end
    end
    if job.cache and blob then job.cache:reject(key, kept or blob) end
    job.usual_key, job = nil, job.led_to
  end
end

-- Returns bytes that another's reload has put in the place of rejected ones, if they are good.
local function newer_than(context, task, job, blob)
  local now = job.cache:peek(job.key, job.request and job.request.compiled, true)
  if not now or now == blob then return nil end
  set_origin(job, core.record(now))
  now = owned(job, now)
  return trust.judge(context, task, job, now, M) and now or nil
end

-- Judges a job's bytes for this consumer. If it does not take those of a cache, the source is
-- asked again, once for the same bytes. Returns the bytes that it takes.
local function judged(context, task, job, blob)
  if not trust.applies(context, job) then return blob end
  blob = owned(job, blob)
  local ok, err, what = trust.judge(context, task, job, blob, M)
  if ok then
    tell_caches(job, blob, true)
    return blob
  end
  if not what then return nil, err end
  tell_caches(job, blob, false)
  if not job.hit or not job.cache or job.sha256 or context.offline then return nil, err end
  what = what .. "\n" .. job.target
  if core.noted(blob, what) then
    local newer = newer_than(context, task, job, blob)
    if newer then return newer end
    return nil, err
  end
  local again = reload(context, task, job)
  local accepted = again and trust.judge(context, task, job, again, M) or false
  if again then core.noted(blob, what, true) end
  end_reload(context, task, job, again, accepted)
  if not accepted then return nil, err end
  tell_caches(job, again, true)
  return again
end

-- Puts the outcome of a wish on it.
local function succeed(context, wish, job, blob, list)
  wish.target, wish.hit, wish.signed_by = job.target, job.hit, job.signed_by
  if job.manifest then wish.manifest, wish.title = job.manifest, job.title end
  if wish.ctx.purpose ~= "direct" then wish.origin, wish.used_cache = job.origin or job.target, job.cache ~= nil end
  if context.has_listeners or context.trace then emit_resolved(context, job, blob, list) end
  return blob
end

-- Moves the jobs whose server failed a moment ago behind the others.
local function put_failing_last(jobs)
  local sound, failing = {}, {}
  for _, job in ipairs(jobs) do
    local url = job.source.fetches and (job.request.origin or job.parsed.url)
    table.insert(url and core.origin_fails(url) and failing or sound, job)
  end
  return table.move(failing, 1, #failing, #sound + 1, sound)
end

-- Returns a candidate's failure, and traces it.
local function failed(context, target, err)
  if context.trace then
    context.trace { rule = "candidate", by = "resolver", reference = reference.redact(target), reason = tostring(err) }
  end
  return { target = target, err = err }
end

-- Emits that a candidate is tried because the last one failed, if it did.
local function tell_fallback(context, job, failures)
  local last = failures[#failures]
  if not last then return end
  context:emit("fallback", { reference = reference.redact(job.target), message = tostring(last.err) })
end

-- Fetches jobs in order until one has bytes. Returns its bytes and the job.
local function first_of(context, task, jobs, failures)
  for _, job in ipairs(jobs) do
    tell_fallback(context, job, failures)
    local blob, err = get_remote(context, task, job)
    if blob then blob, err = judged(context, task, job, blob) end
    if blob then return blob, job end
    failures[#failures + 1] = failed(context, job.target, err)
    if candidates.is_final(err) or task.over then return nil end
  end
end

-- Resolves a wish whose reference has one candidate.
local function resolve_one(task, context, wish, target)
  local job, err = admit.admit(context, wish, target, nil, task)
  err = err or task:lateness()
  if err then return nil, err end
  local blob
  blob, err = get(context, task, job)
  if blob then blob, err = judged(context, task, job, blob) end
  if not blob then return nil, err end
  return succeed(context, wish, job, blob)
end

-- Resolves a wish whose reference has several: takes the first that is at hand, and
-- fetches only if none is.
local function resolve_list(task, context, wish, list)
  local remote, failures = {}, {}
  for _, target in ipairs(list) do
    local late = task:lateness()
    if late then return nil, late end
    local job, blob, err
    job, err = admit.admit(context, wish, target, nil, task)
    if job then
      if not job.source.is_remote() then tell_fallback(context, job, failures) end
      blob, err = at_hand(context, task, job)
    end
    if blob then blob, err = judged(context, task, job, blob) end
    if blob then return succeed(context, wish, job, blob, list) end
    if err then
      failures[#failures + 1] = failed(context, target, err)
      if candidates.is_final(err) then break end
    else
      remote[#remote + 1] = job
    end
  end
  remote = put_failing_last(remote)
  for i = 1, #remote do remote[i].others = remote end
  local blob, job = first_of(context, task, remote, failures)
  if blob then return succeed(context, wish, job, blob, list) end
  return nil, candidates.failure(failures)
end

--- Resolves a wish within a future's work.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam[opt] table wish the future itself, if it is nothing more
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function M.resolve(task, context, wish)
  wish = wish or task
  local list, err = candidates.list(context, wish.reference, wish.ctx)
  local blob
  if type(list) == "table" then
    blob, err = resolve_list(task, context, wish, list)
  elseif list then
    blob, err = resolve_one(task, context, wish, list)
  end
  if blob then return blob end
  return nil, errors.about(err, reference.redact(wish.reference))
end

--- Resolves a reference as it is: the rule `rewrite` is not asked.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam table wish gets `manifest`, the digest of the manifest in a registry that led to the bytes
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function M.resolve_as_is(task, context, wish) return resolve_one(task, context, wish, wish.reference) end

-- Loads a stale entry anew into the future that leads its claim; if that fails, the other
-- candidates, each for its own entry. Nobody waits for it: 'M.reap' moves it on.
function in_background(context, job, lead)
  lead:detach()
  local function work(task)
    local blob, err = lead_claim(context, task, job, lead)
    if blob then return blob end
    local failures, others = { { target = job.target, err = err } }, {}
    for _, other in ipairs(job.others or {}) do
      if other ~= job then others[#others + 1] = other end
    end
    if candidates.is_final(err) then return nil, err end
    return first_of(context, task, others, failures), err
  end
  table.insert(context.background, Future.run({ reference = job.target }, work))
end

local function reap_done(background)
  for i = #background, 1, -1 do
    if background[i]:done() then table.remove(background, i) end
  end
end

--- Moves on the background loads of a context.
-- @tparam table context
function M.reap(context)
  local background = context.background
  if background.reaping then return end -- a load's events may lead here
  background.reaping = true
  local ok, raised = pcall(reap_done, background) -- Ctrl-C may raise
  background.reaping = false
  if not ok then error(raised, 0) end
end

return M
