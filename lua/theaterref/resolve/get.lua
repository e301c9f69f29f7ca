--- Loads: how an admitted job gets its bytes, through its cache or from its source, and chains of jobs that lead
-- from one to the next.
-- @module theaterref.resolve.get
local admit = require "theaterref.resolve.admit"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local Future = require "theaterref.resolve.future"
local kept = require "theaterref.resolve.kept"
local reference = require "theaterref.reference"

local M = {}

local MAX_HOPS = 8
local MAX_PATIENCE = 5 -- seconds that a follower's check may take before another state checks, too

-- The metatable of the core's futures.
local core_future = getmetatable(core.future())

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
  if loaded then blob, err = kept.verify(job, loaded.blob) end
  if not lead then return blob, err end
  if job.follow then job.cache:drop(job.key, true) end -- older versions
  if blob then blob = lead:complete(blob) and lead:wait(0) or blob else lead:fail(err.kind, err.message, err.status) end
  kept.emit_cache(context, job, "miss") -- now: a function that it calls may ask for the same
  return blob, err
end

-- Reports what a fetch took, and keeps its bytes on disk.
local function after_fetch(context, task, job, future, blob)
  local attempts = future:attempts()
  if attempts > 1 then
    context:emit(blob and "retry" or "retries_failed", { reference = reference.redact(job.target), attempts = attempts })
  end
  local wanted = job.disk or job.is_link or job.follow or context.trace or job.ctx.purpose == "manifest"
  if not blob or not wanted then return end
  local record = future:freshness()
  kept.set_origin(job, record)
  if not job.disk or job.cache:changes() ~= job.changes then return end
  kept.keep_on_disk(context, task, job, blob, record)
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
  kept.emit_cache(context, job, "stale")
  job.hit = true
  kept.set_origin(job, known.record)
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
  if lead then kept.emit_cache(context, job, "miss") end
  local blob
  blob, err = task:await(started.future)
  task.fetched = started.future
  if not blob then errors.with_code(err, started.future) end
  after_fetch(context, task, job, started.future, blob)
  if not blob then blob, err = stale_from_disk(context, task, job, err) end
  if not blob then return nil, err end
  return kept.verify(job, blob, kept.key_digest(job))
end

--- Loads a job, as the leader of its claim.
function M.lead_claim(context, task, job, lead)
  job.changes = job.cache:changes()
  if job.follow then kept.note_failure(job) end
  if not job.source.fetches then return load_local(context, task, job, lead) end
  local known = job.known or job.follow and job.follow.known[job.key]
  if known and core.request_allows(job.request.compiled, known.record) then lead:know(known.blob, known.record) end
  return fetch(context, task, job, lead)
end

-- Failures that may be of the limits of whoever led the load, not of ours.
local own_limits = { timeout = true, too_large = true }

-- Gets a job's bytes through its cache: those of a load that is under way, or of one that
-- it leads.
local function through_cache(context, task, job)
  local options, tries, began = kept.claim_options(context, job, job.revalidate), 0, core.now()
  while true do
    local how, what, more = job.cache:claim(job.key, options)
    if how == "lead" then return M.lead_claim(context, task, job, what) end
    if how == "stale" then
      M.in_background(context, job, more) -- which `theaterref.resolve.load` adds
    elseif how == "hit" then
      job.age = more
    end
    kept.emit_cache(context, job, how)
    local blob, err, why = what, nil, nil
    if how == "wait" and job.follow then kept.note_failure(job, more) end
    if how == "wait" then blob, err, why = task:await(what) else job.hit = true end
    if blob and (job.ctx.purpose == "manifest" or job.is_link or job.follow) then
      kept.set_origin(job, how == "wait" and what:freshness() or core.record(blob))
    end
    if blob then return kept.verify(job, blob, kept.key_digest(job)) end
    errors.with_code(err, what)
    tries = tries + 1
    local timeout = job.request and job.request.timeout
    if why == "abandoned" and timeout and timeout >= 0 and core.now() - began >= timeout then
      return nil, errors.new("timeout", ("not done within %s (timeout)"):format(errors.seconds(timeout)))
    end
    -- Claim it again if whoever led gave up, or once if it may succeed under our limits.
    if why ~= "abandoned" and not (tries == 1 and own_limits[err.kind] and not task.over) then return nil, err end
  end
end

--- Returns a job's bytes if they are fresh in a cache, or local; nil if they are to be
-- fetched; or nil and an error.
function M.at_hand(context, task, job)
  local blob, err = kept.from_cache(context, job)
  if blob or err then return blob, err end
  blob, err = kept.from_integrity_store(context, task, job)
  if err then return nil, err end
  if blob and job.cache then blob = kept.put(context, job, blob) end
  if blob or job.source.is_remote() then return blob end
  if job.cache then return through_cache(context, task, job) end
  return load_local(context, task, job)
end

-- ------------------------------------------------------------------- chains

--- Has a job load bytes in the place of rejected ones, under a key of its own, which no reference
-- has, until somebody accepts them.
function M.load_again(job)
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
    return kept.verify(job, blob)
  end
  local blob = step.blob
  if step.future then
    blob, err = task:await(step.future, Future.is(step.future)) -- which may be somebody else's
    if not blob then return nil, err end
    if not core.is_blob(blob) then return nil, wrong_answer(job, blob) end -- such as a plan
  end
  blob, err = kept.verify(job, blob)
  if blob and job.cache then blob = kept.put(context, job, blob) end
  return blob, err
end

--- Returns what a source gets the links of its chain by; see `theaterref.source.oci`. A link is a
-- job that no rule sees: the reference that led to it was admitted.
-- @tparam table context
-- @tparam theaterref.future task
-- @tparam table job
-- @treturn table
function M.links_of(context, task, job)
  local links = { task = task }
  local function prepare(link)
    link.ctx, link.redirect_hosts, link.is_link, link.follow = job.ctx, job.redirect_hosts, true, job.follow
    if job.follow then kept.note_keys(link) end
    link.digests_by = link.sha256 and "the document that led to it" or "its registry"
    return link
  end
  function links.get(link)
    local before = task.fetched
    local blob, err = M.get(context, task, prepare(link))
    link.led = task.fetched ~= before
    if link.led then link.info = task.fetched:info() end
    return blob, err
  end
  function links.fresh(link) return kept.from_cache(context, prepare(link)) end
  function links.put(link, blob, record)
    kept.put(context, prepare(link), blob, record)
    if not link.disk then return end
    kept.keep_on_disk(context, task, link, blob,
      { hosts = record.hosts, private = record.private, open_ended = record.open_ended })
  end
  -- Gets a link of which all followers share one check: 'ask' returns its bytes and their record, or nil and an error.
  function links.check(link, ask)
    prepare(link)
    local patience = math.max(1, math.min(link.max_age or MAX_PATIENCE, MAX_PATIENCE))
    while true do
      local how, what, age = link.cache:claim(link.key, kept.claim_options(context, link))
      if how == "hit" then
        job.age = age
        kept.set_origin(link, core.record(what))
        return what
      elseif how == "lead" then
        local lead <close> = what -- others must not wait for a collection
        kept.note_failure(link)
        lead:limit(patience) -- nor for a state that is busy with other things
        local blob, more = ask()
        if blob then return lead:complete(blob, more) and lead:wait(0) or blob end
        lead:fail(more.kind, more.message, more.status)
        return nil, more
      end
      kept.note_failure(link, age)
      local blob, err, why = task:await(what)
      if blob then
        kept.set_origin(link, what:freshness())
        return blob
      elseif why ~= "abandoned" or task.over then
        return nil, err
      end
      patience = patience * 2 -- the server may be slow
    end
  end
  function links.cache(target) return admit.cache_of(context, job, target) end
  function links.await(future, own) return task:await(future, not own) end
  function links.seconds_left() return task:seconds_left() end
  function links.is_over() return task.over ~= nil or task:lateness() ~= nil end
  return links
end

-- Keeps what a source put together of several links, under the reference itself.
local function keep_gathered(context, task, job, blob)
  blob = kept.put(context, job, blob)
  if job.disk then kept.keep_on_disk(context, task, job, blob, {}) end
  return blob
end

-- Has a source drive a chain of links of its own. The reference becomes an alias of the
-- last one.
local function drive_links(context, task, job)
  task.has_steps = true
  local blob, link, record = job.source.drive(job, context, M.links_of(context, task, job))
  if not blob then return nil, link end
  local verified, err = kept.verify(job, blob, "sha256")
  if not verified or not job.cache then return verified, err end
  if link.is_gathered then return link.is_whole and keep_gathered(context, task, job, blob) or blob end
  job.content = link.content
  return kept.put(context, job, blob, { hosts = record.hosts, private = record.private, open_ended = record.open_ended,
    no_store = link.record and link.record.no_store, extra = { manifest = job.manifest } })
end

-- Prepares a job's source, and fetches its bytes.
local function prepare_and_fetch(context, task, job)
  if job.source.prepare and not context.offline then
    local ok, err = job.source.prepare(job, task)
    if not ok then return nil, err end
  end
  return (job.cache and through_cache or fetch)(context, task, job)
end

--- True if a job that failed may be loaded once more, since its source can get other credentials.
function M.renews(job, err) return job.source.renew and err and job.source.renew(job, err) end

--- Gets a remote job's bytes.
function M.get_remote(context, task, job)
  if job.source.drive then return drive_links(context, task, job) end
  if job.source.is_chain then return drive_chain(context, task, job) end
  local blob, err = prepare_and_fetch(context, task, job)
  if not blob and not task.over and M.renews(job, err) then return prepare_and_fetch(context, task, job) end
  return blob, err
end

--- Gets a job's bytes from wherever they are.
function M.get(context, task, job)
  local blob, err = M.at_hand(context, task, job)
  if blob or err then return blob, err end
  return M.get_remote(context, task, job)
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
    options = { cache = job.cache, ttl = job.ttl, revalidate = job.revalidate, disk = not job.no_disk, follow = job.follow } }
  local next_job, err = admit.admit(context, wish, step.reference, expected)
  err = err or task:lateness()
  if err then return nil, err end
  if job.usual_key then M.load_again(next_job) end
  next_job.hops, job.led_to = hops, next_job
  local blob
  blob, err = M.get(context, task, next_job)
  -- A data URL is no place: its bytes are those of whoever led to it.
  job.origin = next_job.origin or not next_job.source.is_inline and next_job.target or nil
  job.hit, job.age = next_job.hit, next_job.age
  return blob, err
end

return M
