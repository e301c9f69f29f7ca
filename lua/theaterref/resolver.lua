--- Resolvers: references to bytes, under a policy.
--
--     reference -> rewrite -> allow -> integrity -> cache, disk cache, file, store or fetch -> bytes
--
-- @classmod theaterref.resolver
local caches = require "theaterref.cache"
local contexts = require "theaterref.resolve.context"
local core = require "theaterref.core"
local derivations = require "theaterref.resolve.derive"
local errors = require "theaterref.error"
local Follower = require "theaterref.resolve.follower"
local Future = require "theaterref.resolve.future"
local loads = require "theaterref.resolve.load"
local logs = require "theaterref.log"
local option_sets = require "theaterref.options"
local plans = require "theaterref.plan"
local policies = require "theaterref.policy"

local Resolver = {}
Resolver.__index = Resolver

-- The rule 'integrity' of the lockfile that the options name, if any.
local function lockfile_of(options)
  if not options.lockfile then return nil end
  -- First its version: a change after that is seen by the next look.
  local version, is_unsettled = core.file_version(options.lockfile)
  local ok, rules = errors.pcall(policies.lockfile, options.lockfile,
    { store = options.offline, offline = options.offline ~= nil })
  if not ok then return nil, errors.new("policy", tostring(rules)) end
  return { integrity = rules.integrity, path = options.lockfile, offline = options.offline,
    version = version, is_unsettled = is_unsettled }
end

-- A cache, or the options of one. Its disk cache lies in the resolver's home.
local function cache_of(options, blame)
  local given = options.cache
  if type(given) ~= "table" then return given end
  local disk = type(given.disk) == "string" and { store = given.disk } or given.disk
  if type(disk) ~= "table" or disk.home or disk.base_path then return caches.open(given, blame + 1) end
  return caches.open(option_sets.overlay(given, { disk = option_sets.overlay({ home = options.home }, disk) }), blame + 1)
end

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
  local policy, err = policies.load(options.policy, options.trusted, function(text) log:print(text) end)
  if not policy then return nil, err end
  local lockfile, cache
  lockfile, err = lockfile_of(options)
  if err then return nil, err end
  cache, err = cache_of(options, blame)
  if err then return nil, err end
  if options.max_connections or options.max_host_connections then
    core.configure_engine { max_connections = options.max_connections, max_host_connections = options.max_host_connections }
  end
  local defaults = {}
  for _, option in ipairs(option_sets.request) do defaults[option.name] = options[option.name] end
  local context = contexts.new { policy = policy, cache = cache, home = options.home, label_history = options.label_history,
    store_options = options.stores, s3 = options.s3, defaults = defaults, registries = options.registries, lockfile = lockfile,
    signatures = options.signatures, offline = options.offline ~= nil, respect_no_store = options.respect_no_store,
    helpers = options.helpers, log = log,
    on_event = options.on_event, max_manifest_bytes = options.max_manifest_bytes or 4 << 20,
    max_state_bytes = options.max_state_bytes or 64 << 20, strict_state = options.strict_state,
    stores = { by_id = {}, count = 0 }, background = {} }
  return setmetatable({ context = context, cache = cache, resolve_timeout = options.resolve_timeout,
    plan_timeout = options.plan_timeout,
    -- For messages, the name and the value of a call's time limit: hosts in C have a name of their own, and pass the time
    -- that their wait for a turn has left.
    call_limit = nil, call_seconds = nil }, Resolver)
end

-- The context for a call: with the policy script as it is now.
local function context_of(self)
  local context = self.context
  if context.background[1] then loads.reap(context) end
  if not context.policy.script then return context end
  local policy, event, fields = context.policy:current()
  if not event then return context end
  if policy ~= context.policy then
    context = context:with { policy = policy }
    self.context = context
  end
  context:emit(event, fields)
  return context
end

-- ----------------------------------------------------------------- resolving

-- The 'ctx' of a caller's own reference. Rules may change theirs, so a call that asks rules
-- has one of its own.
local direct = { purpose = "direct" }

local no_options = {}

local NO_CACHE = "this resolver has no cache: make it with { cache = theaterref.resource_cache() }"

-- Checks the options of a call, for whoever called the method.
local function check_call(self, options, name)
  option_sets.check(option_sets.call, options, 3, name)
  if options.cached and not options.cache and not self.cache then error(NO_CACHE, 3) end
end

-- Runs a resolve as a future's work. The future is the wish, too.
local function run(self, ref, options, blocking, will_wait)
  if type(ref) ~= "string" then error("a reference must be a string, not a " .. type(ref), 3) end
  local context, limit = context_of(self), options.resolve_timeout or self.resolve_timeout
  return Future.run({ reference = ref, ctx = context.has_rules and { purpose = "direct" } or direct, options = options,
    blocking = blocking, will_wait = will_wait, time_limit = limit,
    limit_option = options.resolve_timeout and self.call_limit, shown_limit = options.resolve_timeout and self.call_seconds,
    target = nil, hit = false, thread = nil, awaited = nil, fetched = nil, finished = false, result = nil },
    loads.resolve, context)
end

--- Starts to resolve a reference, and returns at once.
-- @tparam string ref
-- @tparam[opt] table options `cached = true`: through the resolver's cache;
-- `cache`: through that one; `ttl` and `revalidate`: for this call;
-- `disk = false`: not through the disk cache; `resolve_timeout`: seconds, instead
-- of the resolver's
-- @treturn theaterref.future
-- @return[2] nil
-- @treturn[2] table an error, when it is refused or no reference at all
function Resolver:start(ref, options)
  if options then check_call(self, options, "start") end
  local future = run(self, ref, options or no_options, false, false)
  if future.err then return nil, future.err end
  return future
end

--- Resolves a reference to its bytes, past any cache unless the options name one.
-- @tparam string ref a path, `store://…`, `http(s)://…` or `data:…,…`
-- @tparam[opt] table options as for `start`
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:resolve(ref, options)
  if options then check_call(self, options, "resolve") end
  return run(self, ref, options or no_options, true, true):wait()
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
  if not cache then error(NO_CACHE, 2) end
  if type(cache) ~= "userdata" then error("a cache was expected (theaterref.resource_cache()), not a " .. type(cache), 2) end
  if options then option_sets.check(option_sets.call, options, 2, "resolve_cached") end
  local future = run(self, ref, option_sets.overlay({ cache = cache }, options), true, true)
  if not future.result then return nil, future.err end
  return future.result, future.hit
end

-- Futures that are cancelled if waiting for them raises, as Ctrl-C does.
local unless_raised = { __close = function(futures, raised)
  for _, future in ipairs(raised ~= nil and futures or {}) do future:cancel() end
end }

--- Resolves many references at the same time, through the resolver's cache if it has one.
-- @tparam table refs
-- @treturn table blobs in the same order; false where one failed
-- @treturn table errors in the same order; false where none was
function Resolver:resolve_all(refs)
  if type(refs) ~= "table" then error("the references of resolve_all must be a table, not a " .. type(refs), 2) end
  local futures <close>, blobs, failures = setmetatable({}, unless_raised), {}, {}
  local options = { cached = self.cache ~= nil }
  for i, ref in ipairs(refs) do futures[i] = run(self, ref, options, false, true) end
  -- The last one first: waiting drives the engine, and most of the others arrive
  -- while it drives for the one that began last.
  for i = #refs, 1, -1 do
    local blob, err = futures[i]:wait()
    blobs[i], failures[i] = blob or false, err or false
  end
  return blobs, failures
end

-- Runs a plan as a future's work.
local function run_plan(self, manifest_reference, options, blocking, trace, stop)
  if type(manifest_reference) ~= "string" then
    error("a reference must be a string, not a " .. type(manifest_reference), 3)
  end
  if options then option_sets.check(option_sets.plan, options, 3) end
  options = options or no_options
  local context = context_of(self)
  if trace then context = context:with { trace = trace } end
  local limit = options.plan_timeout or self.plan_timeout
  return Future.run({ reference = manifest_reference, blocking = blocking, will_wait = blocking, has_steps = true,
    time_limit = limit, participle = "planned",
    limit_option = options.plan_timeout and self.call_limit or "plan_timeout",
    shown_limit = options.plan_timeout and self.call_seconds }, plans.make, context,
    options.initial_state and tostring(options.initial_state), stop)
end

--- Starts to plan a spawn, and returns at once; see `theaterref.plan`.
-- @tparam string manifest_reference
-- @tparam[opt] table options `initial_state`: JSON text, a string or a blob, that overrides the
-- manifest's own; `plan_timeout`: seconds, instead of the resolver's
-- @treturn theaterref.future whose result is the plan
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:start_plan(manifest_reference, options)
  local future = run_plan(self, manifest_reference, options, false)
  if future.err then return nil, future.err end
  return future
end

--- Everything a spawn needs; see `theaterref.plan`.
-- @tparam string manifest_reference
-- @tparam[opt] table options as for `start_plan`
-- @treturn table the plan
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:plan(manifest_reference, options)
  return run_plan(self, manifest_reference, options, true):wait()
end

--- Renders a manifest: the steps of a plan up to its variables.
-- @tparam string manifest_reference
-- @tparam[opt] table options as for `start_plan`
-- @treturn table `text`, and `format`: `toml`, `json` or `lua`
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:render(manifest_reference, options)
  return run_plan(self, manifest_reference, options, true, nil, "parse"):wait()
end

--- Plans or resolves, and traces it: for `theaterref explain` and `lock`.
-- @tparam string ref
-- @tparam table ctx what it is for; with the purpose `manifest`, it is planned
-- @tparam function trace called with each step: what a rule answered (`rule`, `by`,
-- `reference`, `answer`, `reason`), and what was resolved (`resolved`, a job, its `blob`, and all
-- `candidates`)
-- @tparam[opt] table options as for `start_plan`
-- @treturn table|theaterref.blob the plan or the bytes
-- @return[2] nil
-- @treturn[2] table an error
-- @local
function Resolver:trace(ref, ctx, trace, options)
  if ctx.purpose == "manifest" then return run_plan(self, ref, options, true, trace):wait() end
  local context = context_of(self):with { trace = trace }
  return Future.run({ reference = ref, ctx = ctx, options = { ask_cacheable = ctx.purpose ~= "direct" }, blocking = true,
    will_wait = true, time_limit = self.resolve_timeout },
    loads.resolve, context):wait()
end

--- Starts to plan and trace it, and returns at once: for `theaterref lock`.
-- @tparam string manifest_reference
-- @tparam function trace as for `trace`
-- @tparam[opt] table options as for `start_plan`
-- @treturn theaterref.future
-- @local
function Resolver:start_trace(manifest_reference, trace, options)
  return run_plan(self, manifest_reference, options, false, trace)
end

-- ---------------------------------------------------------------- following

-- The context for a follower's check: with the lockfile as it is now, for the resolver's other calls, too.
local function follow_context(self, follow)
  local context = context_of(self)
  local before = context.lockfile
  if not before then return context end
  follow.watched[1] = before.path
  local version, is_unsettled = core.file_version(before.path)
  follow.unsettled = is_unsettled
  if version == before.version and not before.is_unsettled then return context end
  local lockfile, err = lockfile_of { lockfile = before.path, offline = before.offline }
  if err then return nil, err end
  self.context = context:with { lockfile = lockfile }
  return self.context
end

-- A check of a follower, as a future's work.
local function check(task, self, follow)
  local context, err = follow_context(self, follow)
  if not context then return nil, err end
  return loads.resolve(task, context)
end

-- Seconds that a check is good for, unless the caller says: a bucket is asked for a label as often as for spawns.
local function default_interval(self, ref)
  local ttl = self.context:label_ttl(ref)
  return ttl and math.max(ttl, 1) or 60
end

-- The cache in which all followers of the process share their checks.
local FOLLOW_CACHE = "theaterref.follow"

--- Follows a reference: calls a function with its content, and again whenever that changes. The function is called by
-- `step` and `wait` of the follower that this returns, in order, and never twice in a row with the same bytes. All rules
-- of the policy apply to new content as to any; a failed check or rejected content leaves the last good content in place.
--
-- Files and labels are watched. Everything else is checked once in an interval, whatever the number of followers in all Lua
-- states of the process: URLs by conditional requests, tags in registries by HEAD. A check that fails is repeated after
-- twice as long each time, up to ten minutes.
-- @tparam string ref
-- @tparam function call called with the content, a blob, and the reference
-- @tparam[opt] table options `interval`: seconds, 60 by default, or the `label_ttl` of a remote store; `jitter`: 0 to 1;
-- `on_error`: a function; `resolve_timeout`: seconds for each check
-- @treturn theaterref.follower
function Resolver:follow(ref, call, options)
  if type(ref) ~= "string" then error("a reference must be a string, not a " .. type(ref), 2) end
  if type(call) ~= "function" then error("follow takes a function, not a " .. type(call), 2) end
  options = options or no_options
  option_sets.check(option_sets.follow, options, 2, "follow")
  local limit = options.resolve_timeout or self.resolve_timeout or 600
  local function start(follow)
    return Future.run({ reference = ref, ctx = { purpose = "direct" }, options = { follow = follow }, time_limit = limit,
      blocking = false, will_wait = false }, check, self, follow)
  end
  return Follower.new { reference = ref, call = call, on_error = options.on_error, start = start,
    interval = math.max(options.interval or default_interval(self, ref), 0.01), jitter = options.jitter or 0.1,
    cache = caches.open { name = FOLLOW_CACHE },
    renew = function(...) loads.renew(self.context, ...) end,
    emit = function(kind, event) self.context:emit(kind, event) end }
end

-- ----------------------------------------------------------------- deriving

-- Derives bytes as a future's work.
local function run_derive(self, name, blob, recipe, make, options, blocking)
  if not core.is_blob(blob) then error(("%s takes a blob, not a %s"):format(name, type(blob)), 3) end
  if type(recipe) ~= "string" then error("a recipe must be a string, not a " .. type(recipe), 3) end
  if type(make) ~= "function" then error(("%s takes a function, not a %s"):format(name, type(make)), 3) end
  option_sets.check(option_sets.derive, options or no_options, 3, name)
  options = options or no_options
  local cache = options.cache or self.cache
  if not cache then error(NO_CACHE, 3) end
  local key, err = core.derived_key(blob, recipe)
  if not key then return nil, err end
  return Future.run({ reference = key, blocking = blocking, time_limit = options.derive_timeout or 600,
    limit_option = "derive_timeout", participle = "derived" }, derivations.derive, context_of(self), cache, key, make, blob)
end

--- Returns the bytes that a function makes of a blob, such as the machine code of a package. They are computed once for each
-- SHA-256 and recipe: one caller computes, and the others wait, in all threads and Lua states that use the cache. The disk
-- cache, if there is one, keeps the bytes for other processes; its folder and files must belong to the effective user, and
-- nobody else may write to them. If the function fails, all waiting callers get its error, and the next call tries again. If
-- the computing state is closed or interrupted, one of the waiting callers takes over.
-- @tparam theaterref.blob blob
-- @tparam string recipe names everything else that the result depends on: the compiler, its version and options, the
-- machine; 1 to 1024 bytes
-- @tparam function make called with the blob; returns a string or a blob, or nil and a reason. It may derive other bytes,
-- but not what waits for this
-- @tparam[opt] table options `cache`: instead of the resolver's; `derive_timeout`: seconds, 600 by default
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:derive(blob, recipe, make, options)
  local future, err = run_derive(self, "derive", blob, recipe, make, options, true)
  if not future then return nil, err end
  return future:wait()
end

--- Starts to derive, and returns at once, unless this call is the one that computes.
-- @tparam theaterref.blob blob
-- @tparam string recipe
-- @tparam function make
-- @tparam[opt] table options as for `derive`
-- @treturn theaterref.future
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:start_derive(blob, recipe, make, options)
  local future, err = run_derive(self, "start_derive", blob, recipe, make, options, false)
  if not future or future.err then return nil, err or future.err end
  return future
end

-- ---------------------------------------------------------------- publishing

-- Runs one of the functions of `theaterref.publish` to its end.
local function run_publishing(self, name, ref, ...)
  if type(ref) ~= "string" then error("a reference must be a string, not a " .. type(ref), 3) end
  return Future.run({ reference = ref, blocking = true, will_wait = true, time_limit = self.plan_timeout,
    limit_option = "plan_timeout" }, require("theaterref.publish")[name], context_of(self), ...):wait()
end

--- Pushes a manifest to a registry: unchanged, with its package and its initial state as titled layers of the tag, and
-- the package alone as `<tag>.package`, for tools that want one layer. Pushing the same again changes nothing. The
-- rule `allow` is not asked about `target`.
-- @tparam string manifest_reference a manifest in TOML; what it names are paths below its folder
-- @tparam string target `oci://registry/repository:tag`
-- @tparam[opt] table options as for `start_plan`; an `initial_state` checks that the manifest renders, and may not choose
-- the package
-- @treturn table `reference` and `package_reference`: of what was pushed, with digests; `digest`, `package_digest`;
-- `moved_from`, the digest that the tag led to before, if that is another
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:push(manifest_reference, target, options)
  local steps = {}
  local plan, err = self:trace(manifest_reference, { purpose = "manifest" }, function(step)
    if step.resolved then steps[#steps + 1] = step end
  end, options)
  if not plan then return nil, err end
  local found = require("theaterref.publish").gather(plan, steps, (options or {}).initial_state ~= nil)
  return run_publishing(self, "push", target, found, target)
end

--- Copies the bytes of a reference, or a whole artifact, to another place. The policy judges `from`; the rule
-- `allow` is not asked about `to`.
-- @tparam string from any reference
-- @tparam string to a path, `store://<id>/<label>`, `oci://registry/repository:tag` or `s3://bucket/key`, where a
-- package becomes an artifact with one layer
-- @tparam[opt] table options `all = true`: from a registry to a registry, with all layers and signatures; no digest
-- changes. The package alone, in the tag `<tag>.package` that `push` writes, is copied with its artifact
-- @treturn table `reference` of what was written; `bytes` and `sha256`, or, of an artifact, `digest`, `documents` and `blobs`,
-- and `package_reference` if the package alone was copied; `moved_from` as for `push`
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:copy(from, to, options)
  if options then option_sets.check(option_sets.copy, options, 2) end
  if type(from) ~= "string" then error("a reference must be a string, not a " .. type(from), 2) end
  return run_publishing(self, options and options.all and "copy_all" or "copy", to, from, to)
end

--- Signs an artifact in a registry as cosign does, and pushes the signature beside it. It is of the manifest's digest,
-- which fixes all bytes of the artifact. Give a digest if the tag may move.
-- @tparam string ref `oci://registry/repository:tag`
-- @tparam string|theaterref.blob|function key the private key in PEM, also encrypted; or a function that signs a blob, and
-- returns the signature in base64, or nil and an error
-- @tparam[opt] string password of an encrypted key
-- @treturn table `reference` of the signatures; `digest`, of the manifest that was signed; `signature`, in base64
-- @return[2] nil
-- @treturn[2] table an error; its `password` is `needed` or `wrong` if the key is encrypted
function Resolver:sign(ref, key, password)
  local signer = key
  if type(key) == "string" or core.is_blob(key) then
    signer = function(payload) return core.sign(payload, key, password) end
  elseif type(key) ~= "function" then
    error("a key must be a string, a blob or a function, not a " .. type(key), 2)
  end
  return run_publishing(self, "sign", ref, ref, signer)
end

--- All tags of a repository in a registry.
-- @tparam string ref `oci://registry/repository`
-- @treturn table a list of strings
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:tags(ref) return run_publishing(self, "tags", ref, ref) end

--- Describes an artifact in a registry.
-- @tparam string ref `oci://registry/repository:tag`
-- @treturn table `reference`, with the digest; `digest`, `media_type`, `bytes`, `config`, `layers` or `manifests`,
-- `annotations`
-- @return[2] nil
-- @treturn[2] table an error
function Resolver:inspect(ref) return run_publishing(self, "inspect", ref, ref) end

--- The store of an id, in this resolver's home.
-- @tparam string id
-- @treturn theaterref.store
function Resolver:store(id) return self.context:store(id) end

return Resolver
