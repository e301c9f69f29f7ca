--- Loading: how an admitted target becomes bytes.
--
-- A job is one target on its way, a table: `ctx` (what it is for), `target`,
-- `parsed`, `key` (in caches) and `integrity` (see `theaterref.resolve.admit`), `cache`,
-- `claim_options`, `deadline` (as `core.now`), `no_disk`, `will_wait`, `request` (once asked for), `disk`,
-- `leads` (this Lua state began the load), `led_to` (the job that a scheme went on
-- with) and `hops` (how many did). A function that begins to load a job completes
-- its future sooner or later, unless it returns nil and an error.
-- @module theaterref.resolve.load
local admit = require "theaterref.resolve.admit"
local caches = require "theaterref.cache"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local home = require "theaterref.home"

local M = {}

local MAX_HOPS = 8

local function is_remote(parsed) return parsed.scheme == "http" or parsed.scheme == "https" end

--- A store of the resolver's home, opened once.
-- @tparam theaterref.resolver resolver
-- @tparam string id
-- @treturn theaterref.store
-- @return[2] nil
-- @treturn[2] table an error
function M.store(resolver, id)
  local store, err = resolver.stores[id], nil
  if not store then
    store, err = home.content_store(id, { home = resolver.home })
    resolver.stores[id] = store
  end
  return store, err
end

-- ------------------------------------------------------------- what is here

local loaders = {}

function loaders.file(resolver, parsed)
  return core.read_file(parsed.path, resolver.request.max_bytes)
end

function loaders.store(resolver, parsed)
  local store, err = M.store(resolver, parsed.id)
  if not store then return nil, err end
  if parsed.hash then return store:get(parsed.hash) end
  local blob
  blob, err = store:get_content_by_label(parsed.label)
  if blob or err then return blob, err end
  return nil, errors.new("not_found", "Label not found: " .. parsed.label)
end

-- Content with a digest, from the store that the policy names for it. Nil without
-- an error: it is not there.
local function from_integrity_store(resolver, integrity)
  if not (integrity and integrity.store) then return nil end
  local store, err = M.store(resolver, integrity.store)
  if not store then return nil, err end
  local blob
  blob, err = store:get(integrity.digest)
  if blob then return blob end
  if not integrity.offline and err.kind == "not_found" then return nil end
  if err.kind == "not_found" then
    err = errors.new("not_found", ("offline, and not in the store '%s': %s; put it there with 'theaterref lock --store %s'")
      :format(integrity.store, integrity.digest, integrity.store))
  end
  return nil, err
end

local begin

-- Goes on with the reference that a scheme gave instead of bytes.
local function follow(resolver, job, target, future)
  local hops = (job.hops or 0) + 1
  if hops > MAX_HOPS then
    return nil, errors.new("policy", "schemes led from one to the next more than eight times")
  end
  local next_job = { ctx = job.ctx, will_wait = job.will_wait, hops = hops, cache = job.cache,
    claim_options = job.claim_options, deadline = job.deadline, no_disk = job.no_disk, target = target, key = target }
  local admitted, err = admit.admit(resolver, next_job)
  if not admitted then return nil, err end
  next_job.integrity, next_job.key = next_job.integrity or job.integrity, job.key
  job.led_to = next_job
  return begin(resolver, next_job, future)
end

-- Calls a scheme of the policy's: it answers bytes, a future, or another reference.
local function from_scheme(resolver, job, future)
  local scheme = job.parsed.scheme
  local ok, answer, err = pcall(resolver.policy.schemes[scheme], job.target, job.ctx)
  if not ok then
    if errors.is(answer) then return nil, answer end
    return nil, errors.new("policy", ("the scheme '%s' failed: %s"):format(scheme, tostring(answer)))
  end
  if type(answer) == "table" and type(answer.reference) == "string" then
    return follow(resolver, job, answer.reference, future)
  end
  if type(answer) == "table" and answer.wait or type(answer) == "userdata" and not core.is_blob(answer) then
    answer, err = answer:wait()
  end
  if answer == nil then
    return nil, errors.is(err) and err or errors.new("not_found", tostring(err or "nothing there"))
  end
  if type(answer) == "string" then answer = core.blob(answer) end
  if core.is_blob(answer) then return answer end
  return nil, errors.new("policy", ("the scheme '%s' returned a %s; bytes, a future or { reference = … } were expected")
    :format(scheme, type(answer)))
end

local function check_digest(job, blob)
  local digest = job.integrity and job.integrity.digest
  if not digest then return true end
  local actual = blob:digest(#digest == 40 and "sha1" or "sha256")
  if actual == digest then return true end
  return nil, errors.new("digest_mismatch", ("%s has the digest %s, but %s was expected"):format(errors.redact(job.target),
    actual, digest))
end

-- Loads what is local: bytes, or a future that has them. False: it is remote.
local function load_now(resolver, job, future)
  local blob, err = from_integrity_store(resolver, job.integrity)
  if err or blob then return blob, err end
  if is_remote(job.parsed) then return false end
  if resolver.policy.schemes[job.parsed.scheme] then
    blob, err = from_scheme(resolver, job, future)
  else
    blob, err = loaders[job.parsed.scheme](resolver, job.parsed)
  end
  if core.is_blob(blob) then
    local ok
    ok, err = check_digest(job, blob)
    blob = ok and blob
  end
  return blob or nil, err
end

-- ----------------------------------------------------------- what is remote

-- Looks in the disk cache. Returns whether it completed the future.
local function from_disk(job, future)
  local blob, about = job.disk:read(job.key)
  if not blob then return false end
  local age, ttl = os.time() - about.stored, job.claim_options and job.claim_options.ttl or job.cache:ttl()
  local revalidate = job.claim_options and job.claim_options.revalidate
  if about.stored > 0 and not revalidate and (not ttl or age < ttl) then
    job.disk = nil -- it has these bytes already
    about.age = math.max(0, age)
    return future:complete(blob, about)
  end
  future:know(blob, about)
  return false
end

local function begin_fetch(resolver, job, future)
  local request, err = job.request, nil
  if not request then request, err = admit.request(resolver, job) end
  if not request then return nil, err end
  local left = job.deadline and math.max(0, job.deadline - core.now())
  local digest = job.parsed.digest or job.integrity and job.integrity.digest
  return core.fetch(job.parsed.url, request, future, digest, job.will_wait, left)
end

-- Begins to load a job, as the leader of a claim into that claim's future.
-- Local bytes are loaded by the time it returns.
function begin(resolver, job, future)
  job.leads = true
  local result, err = load_now(resolver, job, future)
  if result == false then
    job.disk = job.cache and not job.no_disk and caches.disk_cache_of(job.cache)
    if job.disk and from_disk(job, future) then return future end
    result, err = begin_fetch(resolver, job, future)
    if not result and future then future:fail(err.kind, err.message, err.status) end
    return result, err
  end
  if result and not core.is_blob(result) then return result end -- a scheme led on to a fetch
  future = future or core.future()
  if result then future:complete(result) else future:fail(err.kind, err.message, err.status) end
  return future
end

-- ------------------------------------------------------------ what arrived

-- Emits that a job's bytes are here, and those of the target it led to.
local function emit_resolved(resolver, job, blob)
  resolver:emit({ type = "resolved", reference = errors.redact(job.target), purpose = job.ctx.purpose, bytes = #blob },
    { blob = blob, candidates = job.candidates or { job.target } })
  if job.led_to then emit_resolved(resolver, job.led_to, blob) end
end

-- Keeps what was fetched on disk, and as its server allows.
local function keep(resolver, job, loaded, blob)
  local freshness = loaded:freshness()
  if job.disk then
    local ok, err, first = job.disk:write(job.key, blob, freshness)
    if not ok and first then
      resolver:emit { type = "disk_cache", reference = errors.redact(job.target), message = tostring(err) }
    end
  end
  if job.cache and freshness.no_store and resolver.respect_no_store then job.cache:remove(job.key) end
end

-- A job's future has its result: 'blob', or nil when it failed.
local function on_result(resolver, job, loaded, blob)
  if job.leads then
    local attempts = loaded:attempts()
    if attempts > 1 then
      resolver:emit { type = "retry", reference = errors.redact(job.target), attempts = attempts,
        failed = not blob or nil }
    end
    local load = job
    while load.led_to do load = load.led_to end
    if blob then keep(resolver, load, loaded, blob) end
  end
  if blob and resolver.has_listeners then emit_resolved(resolver, job, blob) end
end

--- Sees to background loads that have arrived.
-- @tparam theaterref.resolver resolver
function M.reap(resolver)
  local background = resolver.background
  for i = #background, 1, -1 do
    local load = background[i]
    if load.core:done() then
      table.remove(background, i)
      on_result(resolver, load.job, load.core, (load.core:wait(0)))
    end
  end
end

-- ------------------------------------------------------------------ starting

local function begin_in_background(resolver, job, future)
  job.will_wait, job.deadline = false, nil
  if begin(resolver, job, future) then
    future:detach()
    resolver.background[#resolver.background + 1] = { core = future, job = job }
  end
end

-- Claims a job's target in its cache; sets the future's result, or returns what
-- it waits for.
local function claim(resolver, job, future)
  local how, what, refresh = job.cache:claim(job.key, job.claim_options)
  if resolver.has_listeners then
    resolver:emit { type = "cache", outcome = how == "lead" and "miss" or how, reference = errors.redact(job.target),
      purpose = job.ctx.purpose }
  end
  future.hit = how == "hit" or how == "stale"
  if how == "stale" then begin_in_background(resolver, job, refresh) end
  if future.hit then
    future.result = what
    return nil
  end
  if how == "wait" then return what end
  return begin(resolver, job, what)
end

-- Loads a job without a cache. Local bytes are the future's result at once; else it
-- gets a core future to wait for. Returns an error.
local function load_uncached(resolver, job, future)
  job.leads = true
  local result, err = load_now(resolver, job, nil)
  if result == false then
    result, err = begin_fetch(resolver, job, nil)
  end
  if core.is_blob(result) then future.result = result else future.core = result end
  return err
end

-- Sets the cache of a job, if it goes through one, and the options of its claim.
local function choose_cache(resolver, job, options)
  job.cache = options.cache or options.cached and resolver.cache or nil
  if options.ttl or options.revalidate then job.claim_options = { ttl = options.ttl, revalidate = options.revalidate } end
  if options.disk == false then job.no_disk = true end
  if not is_remote(job.parsed) then return true end
  local revalidate = resolver.request.revalidate
  if not job.cache or resolver.policy:overrides "request" then
    local request, wanted = admit.request(resolver, job)
    if not request then return nil, wanted end
    job.request, revalidate = request, wanted
  end
  if revalidate and (job.cache or resolver.cache) then
    job.cache, job.claim_options = job.cache or resolver.cache, { ttl = options.ttl, revalidate = true }
  end
  return true
end

--- Starts to load an admitted job into a future: sets its `result`, or its `core`.
-- @tparam theaterref.resolver resolver
-- @tparam table job
-- @tparam theaterref.future future
-- @tparam table options as for `theaterref.resolver:start`
-- @treturn theaterref.future
-- @return[2] nil
-- @treturn[2] table an error
function M.start(resolver, job, future, options)
  local ok, err = choose_cache(resolver, job, options)
  if not ok then return nil, err end
  future.target = job.target
  if job.cache then
    future.again = function() return claim(resolver, job, future) end
    future.core, err = future.again()
  else
    err = load_uncached(resolver, job, future)
  end
  if err then return nil, err end
  if not future.result then
    future.on_result = function(loaded, blob)
      future.loaded = loaded
      on_result(resolver, job, loaded, blob)
    end
  elseif resolver.has_listeners then
    emit_resolved(resolver, job, future.result)
  end
  return future
end

return M
