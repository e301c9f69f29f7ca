--- Resolvers: references to bytes, under a policy.
--
--     reference -> rewrite -> allow -> scheme -> bytes
--
-- @classmod theaterref.resolver
local core = require "theaterref.core"
local errors = require "theaterref.error"
local Future = require "theaterref.future"
local home = require "theaterref.home"
local plans = require "theaterref.plan"
local policies = require "theaterref.policy"
local reference = require "theaterref.reference"

local Resolver = {}
Resolver.__index = Resolver

-- What fetch requests take from the resolver, below what the policy answers.
local request_options = { "timeout", "connect_timeout", "stall_timeout", "max_bytes", "max_redirects", "headers",
  "ca_file", "user_agent" }
local other_options = { policy = true, cache = true, home = true, helpers = true }
local known = {}
for name in pairs(other_options) do known[name] = true end
for _, name in ipairs(request_options) do known[name] = true end

--- Makes a resolver. It is cheap; make one for each policy.
-- @tparam[opt] table options
-- @param options.policy a table of rules or the path of a policy script
-- @param options.cache from `theaterref.resource_cache`, for `resolve_cached`
-- @param options.home Theater home, where stores lie
-- @param options.helpers template helpers by name
-- @param options.timeout seconds for a whole fetch (30), as well as
-- `connect_timeout` (10), `stall_timeout` (15), `max_bytes` (1 GiB),
-- `max_redirects` (10), `headers`, `ca_file`, `user_agent`
-- @treturn theaterref.resolver
-- @return[2] nil
-- @treturn[2] table an error, when the policy cannot be loaded
function Resolver.new(options)
  options = options or {}
  for name in pairs(options) do
    if not known[name] then error("there is no resolver option '" .. tostring(name) .. "'", 3) end
  end
  local policy, err = policies.load(options.policy)
  if not policy then return nil, err end
  local request = {}
  for _, name in ipairs(request_options) do request[name] = options[name] end
  return setmetatable({ policy = policy, cache = options.cache, home = options.home, helpers = options.helpers,
    request = request, stores = {} }, Resolver)
end

-- ------------------------------------------------------------------- rules

local direct = { purpose = "direct" }

-- Rewrites and permits a reference; returns it, and what it is.
local function admit(self, ref, ctx)
  local target, _, err = self.policy:ask("rewrite", ref, ctx)
  if not target then return nil, nil, err end
  local parsed
  parsed, err = reference.parse(target)
  if not parsed then return nil, nil, err end
  local allowed, why
  allowed, why, err = self.policy:ask("allow", target, ctx)
  if err then return nil, nil, err end
  if not allowed then
    self.policy:tell { type = "refusal", reference = errors.redact(target), purpose = ctx.purpose, reason = why }
    return nil, nil, errors.new("denied", ("Not allowed: %s: %s"):format(errors.redact(target),
      why or "the policy gives no reason"), target)
  end
  return target, parsed
end

local function request_for(self, target, parsed, ctx)
  local answer, _, err = self.policy:ask("request", target, ctx)
  if err then return nil, err end
  local request = {}
  for name, value in pairs(self.request) do request[name] = value end
  for name, value in pairs(answer or {}) do request[name] = value end
  request.digest = parsed.digest
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

-- Begins to load what a reference means, into a core future of its own or, as
-- the leader of a claim, into that. Local references are loaded by the time it
-- returns.
local function begin(self, target, parsed, ctx, future, will_wait)
  local loader = loaders[parsed.scheme]
  if not loader then
    local request, err = request_for(self, target, parsed, ctx)
    if not request then
      if future then future:fail(err.kind, err.message) end
      return nil, err
    end
    request.will_wait = will_wait
    local ok, result, why = pcall(core.fetch, parsed.url, request, future)
    if ok then return result, why end
    err = errors.new("policy", "the options of the request are wrong: " .. tostring(result))
    if future then future:fail(err.kind, err.message) end
    return nil, err
  end
  local blob, err = loader(self, parsed)
  future = future or core.future()
  if blob then
    future:complete(blob)
  else
    future:fail(err.kind, err.message)
  end
  return future
end

-- ------------------------------------------------------------------ public

--- Starts to resolve a reference, and returns at once.
-- @tparam string ref
-- @tparam[opt] table options `cached = true`: through the resolver's cache;
-- `cache`: through that one
-- @treturn theaterref.future
-- @return[2] nil
-- @treturn[2] table an error, when it is refused or no reference at all
function Resolver:start(ref, options)
  if type(ref) ~= "string" then error("a reference must be a string, not a " .. type(ref), 2) end
  local ctx = options and options.ctx or direct
  local will_wait = options and options.will_wait
  local target, parsed, err = admit(self, ref, ctx)
  if not target then return nil, errors.about(err, ref) end
  local cache = options and (options.cache or options.cached and self.cache)
  local future = setmetatable({ reference = errors.redact(ref), target = target, hit = false }, Future)
  local function claim()
    local how, what = cache:claim(target)
    if how == "hit" then
      future.result, future.hit = what, true
      return nil
    end
    if how == "wait" then return what end
    return begin(self, target, parsed, ctx, what, will_wait)
  end
  if cache then
    future.again = claim
    future.core, err = claim()
  else
    future.core, err = begin(self, target, parsed, ctx, nil, will_wait)
  end
  if err then return nil, errors.about(err, ref) end
  return future
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
    futures[i], failures[i] = self:start(ref, { cached = self.cache ~= nil })
  end
  for i in ipairs(refs) do
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
