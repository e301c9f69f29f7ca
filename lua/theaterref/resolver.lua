--- Resolvers: references to bytes, under a policy.
--
--     reference -> rewrite -> allow -> integrity -> scheme -> bytes
--
-- @classmod theaterref.resolver
local admit = require "theaterref.resolve.admit"
local caches = require "theaterref.cache"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local Future = require "theaterref.resolve.future"
local loader = require "theaterref.resolve.load"
local logs = require "theaterref.log"
local option_sets = require "theaterref.options"
local policies = require "theaterref.policy"

local Resolver = {}
Resolver.__index = Resolver

-- A policy with the rule 'integrity' of a lockfile on top.
local function with_lockfile(policy, options)
  local ok, rules = pcall(policies.lockfile, options.lockfile,
    { store = options.offline, offline = options.offline ~= nil })
  if not ok then return nil, errors.new("policy", tostring(rules)) end
  return policies.on_top(policy, rules)
end

-- A cache, or the options of one.
local function cache_of(cache, blame)
  if type(cache) ~= "table" then return cache end
  return caches.open(cache, blame + 1)
end

-- True if anything listens to frequent events. They are not made otherwise.
local function has_listeners(self) return self.policy.listens or self.on_event ~= nil or self.log.verbose end

--- Makes a resolver. It is cheap; make one for each policy.
-- @tparam[opt] table options see the topic "options"
-- @tparam[opt=2] integer blame whom to blame for wrong options, as for `error`
-- @treturn theaterref.resolver
-- @return[2] nil
-- @treturn[2] table an error, when the policy cannot be loaded or the cache opened
function Resolver.new(options, blame)
  blame = blame or 2
  options = options or {}
  option_sets.check(option_sets.resolver, options, blame)
  local log = logs.open(options.log, blame + 1)
  local policy, cache, err
  policy, err = policies.load(options.policy, options.trusted)
  if policy and options.lockfile then policy, err = with_lockfile(policy, options) end
  if not policy then return nil, err end
  cache, err = cache_of(options.cache, blame)
  if err then return nil, err end
  if options.max_connections or options.max_host_connections then
    core.configure_engine { max_connections = options.max_connections, max_host_connections = options.max_host_connections }
  end
  local request = {}
  for _, option in ipairs(option_sets.request) do request[option.name] = options[option.name] end
  local self = setmetatable({ policy = policy, cache = cache, home = options.home, helpers = options.helpers,
    request = request, log = log, on_event = options.on_event, respect_no_store = options.respect_no_store,
    resolve_timeout = options.resolve_timeout, plan_timeout = options.plan_timeout, stores = {}, background = {} }, Resolver)
  self.has_listeners = has_listeners(self)
  return self
end

-- ------------------------------------------------------------------ events

-- Emits an event to the policy, the log and the host. A rule or function that
-- fails here changes nothing. Only the host gets the fields of the second table.
function Resolver:emit(event, to_host)
  self.policy:emit(event)
  self.log:emit(event)
  if not self.on_event then return end
  for name, value in pairs(to_host or {}) do event[name] = value end
  pcall(self.on_event, event)
end

-- Reloads a policy script that has changed.
function Resolver:reload_policy()
  local policy, event = self.policy:current()
  if not event then return end
  self.policy = policy
  self.has_listeners = has_listeners(self)
  self:emit(event)
end

-- ----------------------------------------------------------------- resolving

local direct = { purpose = "direct" }

-- Starts to load one of a future's candidates into it.
local function start_target(self, future, options, target)
  local job = { ctx = options.ctx or direct, will_wait = options.will_wait, candidates = future.candidates, target = target,
    key = target, deadline = future.deadline }
  local admitted, err = admit.admit(self, job)
  if not admitted then return nil, err end
  return loader.start(self, job, future, options)
end

-- Failures that another candidate would share, or must not hide.
local final = { denied = true, policy = true, invalid_reference = true, cancelled = true }

-- Returns a function for a future to call when a candidate fails: it starts the
-- next one.
local function try_next(self, future, options, candidates)
  local current = 1
  return function(err)
    while current < #candidates and not final[err.kind] do
      current = current + 1
      future.hit, future.again, future.on_result = false, nil, nil
      self:emit { type = "fallback", reference = errors.redact(candidates[current]), message = tostring(err) }
      local started, why = start_target(self, future, options, candidates[current])
      if started then return true end
      err = why
    end
    return false, err
  end
end

-- The earlier of a deadline and so many seconds from now; nil: there is none.
local function deadline_of(deadline, seconds)
  if not seconds or seconds < 0 then return deadline end
  local moment = core.now() + seconds
  return deadline and deadline < moment and deadline or moment
end

--- Starts to resolve a reference, and returns at once.
-- @tparam string ref
-- @tparam[opt] table options `cached = true`: through the resolver's cache;
-- `cache`: through that one; `ttl` and `revalidate`: for this claim;
-- `disk = false`: not through the disk cache; `resolve_timeout`: seconds, instead
-- of the resolver's
-- @treturn theaterref.future
-- @return[2] nil
-- @treturn[2] table an error, when it is refused or no reference at all
function Resolver:start(ref, options)
  if type(ref) ~= "string" then error("a reference must be a string, not a " .. type(ref), 2) end
  options = options or {}
  loader.reap(self)
  local ctx = options.ctx or direct
  if ctx == direct then self:reload_policy() end
  local candidates, err = admit.candidates(self, ref, ctx)
  if not candidates then return nil, errors.about(err, ref) end
  local seconds = options.resolve_timeout or self.resolve_timeout
  local future = setmetatable({ reference = errors.redact(ref), candidates = candidates, target = candidates[1],
    deadline = deadline_of(options.deadline, seconds), hit = false,
    result = nil }, Future) -- a field to come, named here, costs no growing of the table later
  if #candidates > 1 then future.fallback = try_next(self, future, options, candidates) end
  local started
  started, err = start_target(self, future, options, candidates[1])
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
-- @tparam[opt] table options `resolve_timeout`: seconds, instead of the resolver's
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:resolve(ref, options)
  local future, err = self:start(ref, { will_wait = true, resolve_timeout = options and options.resolve_timeout })
  if not future then return nil, err end
  return future:wait()
end

--- Resolves a reference through the resolver's cache.
-- @tparam string ref
-- @tparam[opt] theaterref.cache cache instead of the resolver's own
-- @tparam[opt] table options as for `resolve`
-- @treturn theaterref.blob the same memory for everybody, on every hit
-- @treturn boolean whether it was there already
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:resolve_cached(ref, cache, options)
  cache = cache or self.cache
  if not cache then error("this resolver has no cache: make it with { cache = theaterref.resource_cache() }", 2) end
  local future, err = self:start(ref, { cache = cache, will_wait = true,
    resolve_timeout = options and options.resolve_timeout })
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
  -- The last one first: waiting drives the engine, and most of the others arrive
  -- while it drives for the one that began last.
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
-- manifest's own; `plan_timeout`: seconds, instead of the resolver's
-- @treturn table the plan
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:plan(manifest_reference, options)
  return require("theaterref.plan").make(self, manifest_reference, options or {})
end

--- The store of an id, in this resolver's home.
-- @tparam string id
-- @treturn theaterref.store
function Resolver:store(id) return loader.store(self, id) end

return Resolver
