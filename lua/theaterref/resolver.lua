--- Resolvers: references to bytes, under a policy.
--
--     reference -> rewrite -> allow -> pin -> scheme -> bytes
--
-- @classmod theaterref.resolver
local core = require "theaterref.core"
local errors = require "theaterref.error"
local Future = require "theaterref.future"
local home = require "theaterref.home"
local names = require "theaterref.names"
local plans = require "theaterref.plan"
local policies = require "theaterref.policy"
local reference = require "theaterref.reference"
local tiers = require "theaterref.tier"

local Resolver = {}
Resolver.__index = Resolver

-- What fetch requests take from the resolver, below what the policy answers.
local request_options = names.set { "timeout", "connect_timeout", "stall_timeout", "max_bytes", "max_redirects",
  "retries", "headers", "host_headers", "ca_file", "client_cert", "client_key", "user_agent", "netrc", "unix_socket",
  "max_host_connections", "max_connections", "revalidate", "refuse_private" }
local known = names.set { "policy", "trusted", "lock", "offline", "cache", "home", "helpers" }
for name in pairs(request_options) do known[name] = true end

-- A policy under which all must be as the lockfile says.
local function with_lock(policy, options)
  local ok, rules = pcall(policies.locked, options.lock, { store = options.offline, offline = options.offline ~= nil })
  if not ok then return nil, errors.new("policy", tostring(rules)) end
  return policies.on_top(policy, rules)
end

--- Makes a resolver. It is cheap; make one for each policy.
-- @tparam[opt] table options
-- @param options.policy a table of rules or the path of a policy script
-- @param options.trusted true: the script is the host's own, and needs no sandbox
-- @param options.lock path of a lockfile that every reference must be in
-- @param options.offline id of a store that what is locked is taken from; nothing
-- is fetched
-- @param options.cache from `theaterref.resource_cache`, for `resolve_cached`
-- @param options.home Theater home, where stores lie
-- @param options.helpers template helpers by name
-- @param options.timeout seconds for a whole fetch (30), as well as every
-- other option of a request: see `theaterref.policy.request`
-- @treturn theaterref.resolver
-- @return[2] nil
-- @treturn[2] table an error, when the policy cannot be loaded
function Resolver.new(options)
  options = options or {}
  names.check(options, known, "resolver option", 3)
  local policy, err = policies.load(options.policy, options.trusted)
  if policy and options.lock then policy, err = with_lock(policy, options) end
  if not policy then return nil, err end
  local request = {}
  for name in pairs(request_options) do request[name] = options[name] end
  return setmetatable({ policy = policy, cache = options.cache, home = options.home, helpers = options.helpers,
    request = request, stores = {}, background = {} }, Resolver)
end

-- ------------------------------------------------------------------- rules

local direct = { purpose = "direct" }

local MAX_PLACES = 16

-- Where a reference may be had: a list of at least one.
local function rewrite(self, ref, ctx)
  local answer, _, err = self.policy:ask("rewrite", ref, ctx)
  if not answer then return nil, err end
  if type(answer) == "string" then return { answer } end
  for _, target in ipairs(answer) do
    if type(target) ~= "string" then err = "a list with a " .. type(target) .. " in it" end
  end
  if #answer == 0 then err = "an empty list" end
  if #answer > MAX_PLACES then err = ("a list of %d; %d are as many as are tried"):format(#answer, MAX_PLACES) end
  if err then return nil, errors.new("policy", "the rule 'rewrite' returned " .. err) end
  return answer
end

local function refuse(self, target, ctx, why)
  self.policy:tell { type = "refusal", reference = errors.redact(target), purpose = ctx.purpose, reason = why }
  return nil, errors.new("denied", ("Not allowed: %s: %s"):format(errors.redact(target),
    why or "the policy gives no reason"), target)
end

-- The digest that a target must have, if any: { sha256 = hex, store, offline }.
local function pin_of(self, target, parsed, ctx)
  local pin, _, err = self.policy:ask("pin", target, ctx)
  if err or not pin then return nil, err end
  if type(pin) == "string" then pin = { sha256 = pin } end
  local hex = pin.sha256 or pin.sha1
  if type(hex) ~= "string" or not hex:match "^%x+$" or #hex ~= 40 and #hex ~= 64 then
    return nil, errors.new("policy", "the rule 'pin' answered with no digest: 64 hex digits were expected")
  end
  hex = hex:lower()
  if parsed.digest and parsed.digest ~= hex then
    return nil, errors.new("digest_mismatch", ("%s is pinned to %s, but the policy pins it to %s"):format(
      errors.redact(target), parsed.digest, hex))
  end
  return { digest = hex, store = pin.store, offline = pin.offline }
end

-- Permits and pins a target; fills in the job. Returns nil and an error when it is refused.
local function admit(self, job, target)
  local parsed, err = reference.parse(target, self.policy.schemes)
  if not parsed then return nil, err end
  local allowed, why
  allowed, why, err = self.policy:ask("allow", target, job.ctx)
  if err then return nil, err end
  if not allowed then return refuse(self, target, job.ctx, why) end
  job.target, job.parsed, job.key = target, parsed, target
  if self.policy:overrides "pin" then
    job.pin, err = pin_of(self, target, parsed, job.ctx)
    if err then return nil, err end
    -- What was cached without the pin was not checked against it.
    if job.pin and not parsed.digest then job.key = target .. "#sha256=" .. job.pin.digest end
  end
  return job
end

-- The headers for a URL: those for its host, on top of those for all.
local function headers_for(url, headers, host_headers)
  local authority = url:match("^%a+://([^/?#]*)"):gsub("^.*@", "")
  local own = host_headers[authority] or host_headers[authority:gsub(":%d+$", "")]
  if not own then return headers end
  local all = {}
  for name, value in pairs(headers or {}) do all[name] = value end
  for name, value in pairs(own) do all[name] = value end
  return all
end

-- How a URL is to be fetched: what the resolver was made with, and on top of
-- that what the policy answers.
local function request_for(self, target, parsed, ctx, pin)
  local answer, _, err = self.policy:ask("request", target, ctx)
  if err then return nil, err end
  local request = {}
  for name, value in pairs(self.request) do request[name] = value end
  for name, value in pairs(answer or {}) do
    if not request_options[name] then
      return nil, errors.new("policy", ("the rule 'request' answered with an option '%s', which there is not%s")
        :format(tostring(name), names.suggestion(name, request_options)))
    end
    request[name] = value
  end
  if request.host_headers then request.headers = headers_for(parsed.url, request.headers, request.host_headers) end
  request.digest = parsed.digest or pin and pin.digest
  return request
end

-- ----------------------------------------------------------------- schemes

local function store_at(self, id)
  local store, err = self.stores[id], nil
  if not store then
    store, err = home.content_store(id, { home = self.home })
    self.stores[id] = store
  end
  return store, err
end

local loaders = {}

function loaders.file(self, parsed)
  return core.read_file(parsed.path, self.request.max_bytes)
end

function loaders.store(self, parsed)
  local store, err = store_at(self, parsed.id)
  if not store then return nil, err end
  if parsed.hash then return store:get(parsed.hash) end
  local blob
  blob, err = store:get_content_by_label(parsed.label)
  if blob or err then return blob, err end
  return nil, errors.new("not_found", "Label not found: " .. parsed.label)
end

local function is_remote(parsed) return parsed.scheme == "http" or parsed.scheme == "https" end

-- A job is one target on its way: { target, parsed, key (in caches), ctx, pin,
-- will_wait, request (once asked for), cache, tier }. What begins to load it completes 'future'
-- sooner or later, unless it returns nil and an error.

local function begin_fetch(self, job, future)
  local err
  if not job.request then job.request, err = request_for(self, job.target, job.parsed, job.ctx, job.pin) end
  if err then return nil, err end
  job.request.will_wait = job.will_wait
  local ok, result, why = pcall(core.fetch, job.parsed.url, job.request, future)
  if ok then return result, why end
  return nil, errors.new("policy", "the options of the request are wrong: " .. tostring(result))
end

-- Takes what the cache's tier has. Returns whether that was the answer.
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

-- What the policy has a store for. Nil without an error: it is not there.
local function from_store(self, pin)
  if not (pin and pin.store) then return nil end
  local store, err = store_at(self, pin.store)
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

-- What a scheme of the policy's gives: bytes, a future, or another reference.
local function from_scheme(self, job, future)
  local ok, answer, err = pcall(self.policy.schemes[job.parsed.scheme], job.target, job.ctx)
  if not ok then return nil, errors.is(answer) and answer or errors.new("policy",
    ("the scheme '%s' failed: %s"):format(job.parsed.scheme, tostring(answer))) end
  if type(answer) == "table" and type(answer.reference) == "string" then
    if (job.hops or 0) >= 8 then return nil, errors.new("policy", "schemes led from one to the next more than eight times") end
    local next_job = { ctx = job.ctx, will_wait = job.will_wait, hops = (job.hops or 0) + 1, cache = job.cache }
    local admitted, why = admit(self, next_job, answer.reference)
    if not admitted then return nil, why end
    next_job.pin, next_job.key = next_job.pin or job.pin, job.key
    return begin(self, next_job, future)
  end
  if type(answer) == "table" and answer.wait or type(answer) == "userdata" and not core.is_blob(answer) then
    answer, err = answer:wait()
  end
  if answer == nil then return nil, errors.is(err) and err or errors.new("not_found", tostring(err or "nothing there")) end
  if type(answer) == "string" then answer = core.blob(answer) end
  if core.is_blob(answer) then return answer end
  return nil, errors.new("policy", ("the scheme '%s' returned a %s; bytes, a future or { reference = … } were expected")
    :format(job.parsed.scheme, type(answer)))
end

local function as_pinned(job, blob)
  local digest = job.pin and job.pin.digest
  if not digest then return true end
  local actual = blob:digest(#digest == 40 and "sha1" or "sha256")
  if actual == digest then return true end
  return nil, errors.new("digest_mismatch", ("%s has the digest %s, but %s was pinned"):format(errors.redact(job.target),
    actual, digest))
end

-- What can be had at once, or a future that was given it.
local function load_now(self, job, future)
  local blob, err = from_store(self, job.pin)
  if err or blob then return blob, err end
  if is_remote(job.parsed) then return false end
  if self.policy.schemes[job.parsed.scheme] then
    blob, err = from_scheme(self, job, future)
  else
    blob, err = loaders[job.parsed.scheme](self, job.parsed)
  end
  if core.is_blob(blob) then
    local ok
    ok, err = as_pinned(job, blob)
    blob = ok and blob
  end
  return blob or nil, err
end

-- Begins to load a job, as the leader of a claim into that claim's future.
-- What is local is loaded by the time it returns.
function begin(self, job, future)
  local result, err = load_now(self, job, future)
  if result == false then
    job.tier = job.cache and not job.no_tier and tiers.of(job.cache)
    if job.tier and from_tier(job, future) then return future end
    result, err = begin_fetch(self, job, future)
    if not result and future then future:fail(err.kind, err.message, err.status) end
    return result, err
  end
  if result and not core.is_blob(result) then return result end -- a scheme led on to a fetch
  future = future or core.future()
  if result then future:complete(result) else future:fail(err.kind, err.message, err.status) end
  return future
end

-- A load that this state began has its result.
local function on_loaded(self, job, loaded, blob)
  local attempts = loaded:attempts()
  if attempts > 1 then
    self.policy:tell { type = "retry", reference = errors.redact(job.target), attempts = attempts }
  end
  if not (blob and job.tier) then return end
  local kept = job.cache:get(job.key)
  if kept and kept:same(blob) then job.tier:write(job.key, blob, loaded:freshness()) end
end

-- Sees to background loads that have arrived.
local function reap(self)
  for i = #self.background, 1, -1 do
    local load = self.background[i]
    if load.core:done() then
      table.remove(self.background, i)
      on_loaded(self, load.job, load.core, (load.core:wait(0)))
    end
  end
end

local function begin_in_background(self, job, future)
  job.will_wait = false
  if begin(self, job, future) then
    future:detach()
    self.background[#self.background + 1] = { core = future, job = job }
  end
end

-- Claims a job's target in its cache; sets the future's blob or its core.
local function claim(self, job, future)
  local how, what, refresh = job.cache:claim(job.key, job.terms)
  if self.policy.listens then
    self.policy:tell { type = "cache", outcome = how == "lead" and "miss" or how, reference = errors.redact(job.target),
      purpose = job.ctx.purpose }
  end
  future.hit = how == "hit" or how == "stale"
  if how == "stale" then begin_in_background(self, job, refresh) end
  if future.hit then
    future.result = what
    return nil
  end
  if how == "wait" then return what end
  local loading, err = begin(self, job, what)
  if loading then future.on_result = function(loaded, blob) on_loaded(self, job, loaded, blob) end end
  return loading, err
end

-- ------------------------------------------------------------------ public

-- What is here is the result at once; else the future gets its core. Returns an
-- error.
local function load_uncached(self, job, future)
  local result, err = load_now(self, job, nil)
  if result == false then
    result, err = begin_fetch(self, job, nil)
    future.on_result = function(loaded, blob) on_loaded(self, job, loaded, blob) end
  end
  if core.is_blob(result) then future.result = result else future.core = result end
  return err
end

-- Starts to load a target into a future: sets its core, or its result.
local function start_target(self, future, options, target)
  local job = { ctx = options.ctx or direct, will_wait = options.will_wait, no_tier = options.tier == false }
  local admitted, err = admit(self, job, target)
  if not admitted then return nil, err end
  job.cache = options.cache or options.cached and self.cache
  job.terms = (options.ttl or options.revalidate) and { ttl = options.ttl, revalidate = options.revalidate }
  if is_remote(job.parsed) then
    if not job.cache then job.request, err = request_for(self, job.target, job.parsed, job.ctx, job.pin) end
    if err then return nil, err end
    if (job.request or self.request).revalidate and (job.cache or self.cache) then
      job.cache, job.terms = job.cache or self.cache, { ttl = options.ttl, revalidate = true }
    end
  end
  future.target = job.target
  future.again, future.hit = nil, false
  if job.cache then
    future.again = function() return claim(self, job, future) end
    future.core, err = future.again()
  else
    err = load_uncached(self, job, future)
  end
  if err then return nil, err end
  return future
end

-- Failures that another place would not have, or must not hide.
local final = names.set { "denied", "policy", "invalid_reference", "cancelled" }

-- What a future does when a place fails: it goes on with the next.
local function try_next(self, future, options, targets)
  local place = 1
  return function(err)
    while place < #targets and not final[err.kind] do
      place = place + 1
      self.policy:tell { type = "fallback", reference = errors.redact(targets[place]), message = tostring(err) }
      local started, why = start_target(self, future, options, targets[place])
      if started then return true end
      err = why
    end
    return false, err
  end
end

--- Starts to resolve a reference, and returns at once.
-- @tparam string ref
-- @tparam[opt] table options `cached = true`: through the resolver's cache;
-- `cache`: through that one; `ttl` and `revalidate`: on terms of its own;
-- `tier = false`: not through the cache's tier on disk
-- @treturn theaterref.future
-- @return[2] nil
-- @treturn[2] table an error, when it is refused or no reference at all
function Resolver:start(ref, options)
  if type(ref) ~= "string" then error("a reference must be a string, not a " .. type(ref), 2) end
  options = options or {}
  reap(self)
  local ctx = options.ctx or direct
  if ctx == direct then self.policy = self.policy:current() end
  local targets, err = rewrite(self, ref, ctx)
  if not targets then return nil, errors.about(err, ref) end
  local future = setmetatable({ reference = errors.redact(ref), targets = targets, hit = false }, Future)
  if #targets > 1 then future.fallback = try_next(self, future, options, targets) end
  local started
  started, err = start_target(self, future, options, targets[1])
  if started then return future end
  if future.fallback then
    local going_on
    going_on, err = future.fallback(err)
    if going_on then return future end
  end
  return nil, errors.about(err, ref)
end

--- Resolves a reference to its bytes, past any cache.
-- @tparam string ref a path, `store://…` or `http(s)://…`
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:resolve(ref)
  local future, err = self:start(ref, { will_wait = true })
  if not future then return nil, err end
  return future:wait()
end

--- Resolves a reference through the resolver's cache.
-- @tparam string ref
-- @tparam[opt] theaterref.cache cache instead of the resolver's own
-- @treturn theaterref.blob the same memory for everybody, on every hit
-- @treturn boolean whether it was there already
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:resolve_cached(ref, cache)
  cache = cache or self.cache
  if not cache then error("this resolver has no cache: make it with { cache = theaterref.resource_cache() }", 2) end
  local future, err = self:start(ref, { cache = cache, will_wait = true })
  if not future then return nil, err end
  local blob
  blob, err = future:wait()
  if not blob then return nil, err end
  return blob, future.hit
end

--- Resolves many references at the same time.
-- @tparam table refs
-- @treturn table blobs in the same order; false where one failed
-- @treturn table errors in the same order; false where none was
function Resolver:resolve_all(refs)
  local futures, blobs, failures = {}, {}, {}
  for i, ref in ipairs(refs) do
    futures[i], failures[i] = self:start(ref, { cached = self.cache ~= nil, will_wait = true })
  end
  -- The last first: whoever waits drives the engine, and while he drives for the
  -- one that began last most others arrive.
  for i = #refs, 1, -1 do
    local blob, err = nil, failures[i]
    if futures[i] then blob, err = futures[i]:wait() end
    blobs[i], failures[i] = blob or false, err or false
  end
  return blobs, failures
end

--- Everything a spawn needs; see `theaterref.plan`.
-- @tparam string manifest_reference
-- @tparam[opt] table options `initial_state`: JSON text that overrides the
-- manifest's own
-- @treturn table the plan
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:plan(manifest_reference, options)
  return plans.make(self, manifest_reference, options or {})
end

--- The store of an id, in this resolver's home.
-- @tparam string id
-- @treturn theaterref.store
function Resolver:store(id) return store_at(self, id) end

return Resolver
