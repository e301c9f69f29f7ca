--- Loading: how a target that was admitted becomes bytes.
--
-- A job is one target on its way, a table: `ctx` (what it is for), `target`,
-- `parsed`, `key` (in caches) and `pin` (see `theaterref.admission`), `cache`,
-- `terms` (of its claim), `no_tier`, `will_wait`, `request` (once asked for), `tier`,
-- `leads` (this state began the load), `led_to` (the job that a scheme went on
-- with) and `hops` (how many did). What begins to load a job completes its future
-- sooner or later, unless it returns nil and an error.
-- @module theaterref.loading
local admission = require "theaterref.admission"
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

-- What the policy has a store for. Nil without an error: it is not there.
local function from_pinned_store(resolver, pin)
  if not (pin and pin.store) then return nil end
  local store, err = M.store(resolver, pin.store)
  if not store then return nil, err end
  local blob
  blob, err = store:get(pin.digest)
  if blob then return blob end
  if not pin.offline and err.kind == "not_found" then return nil end
  if err.kind == "not_found" then
    err = errors.new("not_found", ("offline, and not in the store '%s': %s; put it there with 'theaterref lock --store %s'")
      :format(pin.store, pin.digest, pin.store))
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
  local next_job = { ctx = job.ctx, will_wait = job.will_wait, hops = hops, cache = job.cache, terms = job.terms,
    no_tier = job.no_tier, target = target, key = target }
  local admitted, err = admission.admit(resolver, next_job)
  if not admitted then return nil, err end
  next_job.pin, next_job.key = next_job.pin or job.pin, job.key
  job.led_to = next_job
  return begin(resolver, next_job, future)
end

-- What a scheme of the policy's gives: bytes, a future, or another reference.
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

local function as_pinned(job, blob)
  local digest = job.pin and job.pin.digest
  if not digest then return true end
  local actual = blob:digest(#digest == 40 and "sha1" or "sha256")
  if actual == digest then return true end
  return nil, errors.new("digest_mismatch", ("%s has the digest %s, but %s was pinned"):format(errors.redact(job.target),
    actual, digest))
end

-- What can be had at once, or a future that was given it. False: it is remote.
local function load_now(resolver, job, future)
  local blob, err = from_pinned_store(resolver, job.pin)
  if err or blob then return blob, err end
  if is_remote(job.parsed) then return false end
  if resolver.policy.schemes[job.parsed.scheme] then
    blob, err = from_scheme(resolver, job, future)
  else
    blob, err = loaders[job.parsed.scheme](resolver, job.parsed)
  end
  if core.is_blob(blob) then
    local ok
    ok, err = as_pinned(job, blob)
    blob = ok and blob
  end
  return blob or nil, err
end

-- ----------------------------------------------------------- what is remote

-- Takes what the tier has. Returns whether that was the answer.
local function from_tier(job, future)
  local blob, about = job.tier:read(job.key)
  if not blob then return false end
  local age, ttl = os.time() - about.stored, job.terms and job.terms.ttl or job.cache:ttl()
  local revalidate = job.terms and job.terms.revalidate
  if about.stored > 0 and not revalidate and (not ttl or age < ttl) then
    job.tier = nil -- which has it already
    return future:complete(blob, { age = math.max(0, age), etag = about.etag, last_modified = about.last_modified })
  end
  future:know(blob, { etag = about.etag, last_modified = about.last_modified })
  return false
end

local function begin_fetch(resolver, job, future)
  local err
  if not job.request then job.request, err = admission.request(resolver, job) end
  if err then return nil, err end
  job.request.will_wait = job.will_wait
  local ok, result, why = pcall(core.fetch, job.parsed.url, job.request, future)
  if ok then return result, why end
  return nil, errors.new("policy", "the options of the request are wrong: " .. tostring(result))
end

-- Begins to load a job, as the leader of a claim into that claim's future.
-- What is local is loaded by the time it returns.
function begin(resolver, job, future)
  job.leads = true
  local result, err = load_now(resolver, job, future)
  if result == false then
    job.tier = job.cache and not job.no_tier and caches.tier_of(job.cache)
    if job.tier and from_tier(job, future) then return future end
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

-- Tells that a job's bytes are here; and those of the target it led to.
local function tell_resolved(resolver, job, blob)
  resolver:tell({ type = "resolved", reference = errors.redact(job.target), purpose = job.ctx.purpose, bytes = #blob },
    { blob = blob, targets = job.targets or { job.target } })
  if job.led_to then tell_resolved(resolver, job.led_to, blob) end
end

-- A job's future has its result: 'blob', or nil when it failed.
local function on_result(resolver, job, loaded, blob)
  if job.leads then
    local attempts = loaded:attempts()
    if attempts > 1 then
      resolver:tell { type = "retry", reference = errors.redact(job.target), attempts = attempts,
        failed = not blob or nil }
    end
    local load = job
    while load.led_to do load = load.led_to end
    if blob and load.tier then
      local kept = load.cache:get(load.key)
      if kept and kept:same(blob) then load.tier:write(load.key, blob, loaded:freshness()) end
    end
  end
  if blob and resolver.heard then tell_resolved(resolver, job, blob) end
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
  job.will_wait = false
  if begin(resolver, job, future) then
    future:detach()
    resolver.background[#resolver.background + 1] = { core = future, job = job }
  end
end

-- Claims a job's target in its cache; sets the future's result, or returns what
-- it waits for.
local function claim(resolver, job, future)
  local how, what, refresh = job.cache:claim(job.key, job.terms)
  if resolver.heard then
    resolver:tell { type = "cache", outcome = how == "lead" and "miss" or how, reference = errors.redact(job.target),
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

-- What is here is the future's result at once; else it gets something to wait
-- for. Returns an error.
local function load_uncached(resolver, job, future)
  job.leads = true
  local result, err = load_now(resolver, job, nil)
  if result == false then
    result, err = begin_fetch(resolver, job, nil)
  end
  if core.is_blob(result) then future.result = result else future.core = result end
  return err
end

-- Whether, and on which terms, a job goes through a cache.
local function choose_cache(resolver, job, options)
  job.cache = options.cache or options.cached and resolver.cache or nil
  if options.ttl or options.revalidate then job.terms = { ttl = options.ttl, revalidate = options.revalidate } end
  if options.tier == false then job.no_tier = true end
  if not is_remote(job.parsed) then return true end
  local err
  if not job.cache then job.request, err = admission.request(resolver, job) end
  if err then return nil, err end
  if (job.request or resolver.request).revalidate and (job.cache or resolver.cache) then
    job.cache, job.terms = job.cache or resolver.cache, { ttl = options.ttl, revalidate = true }
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
    future.on_result = function(loaded, blob) on_result(resolver, job, loaded, blob) end
  elseif resolver.heard then
    tell_resolved(resolver, job, future.result)
  end
  return future
end

return M
