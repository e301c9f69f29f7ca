--- The policy's answers about one candidate: whether it is allowed, the digests its
-- bytes must have, whether they may be cached, and the options of its request.
-- @module theaterref.resolve.admit
local core = require "theaterref.core"
local errors = require "theaterref.error"
local option_sets = require "theaterref.options"
local policies = require "theaterref.policy"
local reference = require "theaterref.reference"

local M = {}

-- ------------------------------------------------------------------ digests

-- Adds a digest to those that a job's bytes must have. Returns an error if it is
-- another than one of the same kind.
local function expect(job, algorithm, hex, by)
  hex = hex:lower()
  if job[algorithm] and job[algorithm] ~= hex then
    return errors.new("digest_mismatch", ("%s must have the %s %s by %s, but %s by %s"):format(reference.redact(job.target),
      algorithm, job[algorithm], job.digests_by, hex, by), job.target)
  end
  job[algorithm], job.digests_by = hex, job.digests_by or by
end

-- Asks one rule for a job's digest. Returns an error.
local function ask_integrity(context, job, rule, by)
  local answer, why, err = policies.call("integrity", rule, context.trace, by, job.target, job.ctx)
  if err then return err end
  if answer == nil and why then
    local _, refusal = context:refuse("integrity", "Not allowed: " .. reference.redact(job.target), job.target,
      job.ctx.purpose, why)
    return refusal
  end
  if answer == nil then return nil end
  if type(answer) == "string" then answer = { [#answer == 40 and "sha1" or "sha256"] = answer } end
  for _, algorithm in ipairs { "sha256", "sha1" } do
    err = answer[algorithm] and expect(job, algorithm, answer[algorithm], by)
    if err then return err end
  end
  job.store, job.store_only = job.store or answer.store, job.store_only or answer.offline
  job.signatures = job.signatures or answer.signatures
  job.locked_version = answer.version or job.locked_version
  job.locked_size, job.locked_manifest = answer.size, answer.manifest and answer.manifest:lower() or job.locked_manifest
  if job.manifest and job.locked_manifest and job.manifest ~= job.locked_manifest then
    return errors.new("digest_mismatch", ("%s must have the manifest %s by %s"):format(reference.redact(job.target),
      job.locked_manifest, by), job.target)
  end
end

-- Adds the digests that a job's bytes must have by the reference that led to it, the
-- policy and the lockfile. Returns an error.
local function set_digests(context, job, expected)
  if job.sha256 or job.sha1 then job.digests_by = "its reference" end
  for algorithm, hex in pairs(expected or {}) do
    local err = expect(job, algorithm, hex, "the reference that led to it")
    if err then return err end
  end
  local policy = context.policy
  local err = ask_integrity(context, job, policy.rules.integrity, policy.own.integrity and policy.path or "default rule")
  if err then return err end
  return context.lockfile and ask_integrity(context, job, context.lockfile.integrity, context.lockfile.path)
end

--- Returns the digest of the manifest that a reference to a registry must have by the rule `integrity` and
-- the lockfile, for callers that do not read its bytes.
-- @tparam table context
-- @tparam table parsed
-- @treturn ?string in hex; nil: none is given
-- @return[2] nil
-- @treturn[2] table an error, also if they refuse the reference
function M.locked_manifest(context, parsed)
  local job = { target = parsed.text, ctx = { purpose = "direct" }, manifest = parsed.manifest }
  local err = set_digests(context, job)
  return not err and job.locked_manifest or nil, err
end

-- ----------------------------------------------------------------- requests

-- Compiles options for the core.
local function compile(request)
  local ok, compiled = errors.pcall(core.request_options, request)
  if not ok then return nil, errors.new("policy", "the options of the request are wrong: " .. tostring(compiled)) end
  local scope = core.request_scope(compiled)
  -- A scope without a name means nothing to another process, and holds credentials.
  return { compiled = compiled, scope = scope, revalidate = request.revalidate, options = request,
    may_be_on_disk = scope == "" or request.cache_scope ~= nil, max_bytes = request.max_bytes, timeout = request.timeout }
end

-- Makes the options of one request of those of all and of one of the listed hosts, if it
-- is to one, and compiles them.
local function request_with(all, host, redirect_hosts, job)
  local request = option_sets.for_host(all, host)
  if redirect_hosts ~= "any" then request.redirect_hosts = redirect_hosts end
  request.max_bytes = job.max_bytes or request.max_bytes
  if job.max_seconds then
    local limit = request.timeout
    request.timeout = limit and limit >= 0 and limit < job.max_seconds and limit or job.max_seconds
  end
  return compile(request)
end

-- Returns how a job's URL is to be fetched: the resolver's options, on top of them what
-- the rule `request` answers and the options of the URL's host, and where redirects may
-- lead. Without that rule they are few, and compiled once.
local function request_of(context, job)
  local given, redirect_hosts, parsed = context.defaults, job.redirect_hosts, job.parsed
  local asks = context.asks.request
  local answer, _, err
  if asks then
    answer, _, err = context:ask("request", job.target, job.ctx)
    if err then return nil, err end
  end
  local hosts, host = answer and answer.hosts or given.hosts, nil
  if hosts then
    local name_of_host, port = parsed.host, parsed.port
    if job.source.host then name_of_host, port = job.source.host(parsed, context) end
    host = name_of_host and core.match_host(hosts, name_of_host, port)
  end
  local name
  if not asks then
    name = redirect_hosts == "any" and "any" or "only " .. table.concat(redirect_hosts, " ")
    if host then name = name .. "\n" .. host end
    if job.max_bytes then name = name .. "\n" .. job.max_bytes .. (job.max_seconds and " timed" or "") end
    if context.requests[name] then return context.requests[name] end
  end
  local request
  request, err = request_with(option_sets.overlay(given, answer), host, redirect_hosts, job)
  if name and request then context:remember_request(name, request) end
  return request, err
end

-- ------------------------------------------------------------------ caching

-- Sets a job's key, and that of its content, in a scope, and with the version of local bytes.
local function set_keys(job, scope)
  job.key = core.cache_key(job.source.key(job.parsed), job.sha256 or job.sha1,
    job.version and (scope or "") .. "\nversion " .. job.version or scope)
  -- No reference has this form, nor may a policy's scheme have this name.
  if job.sha256 then job.content = core.cache_key("sha256://" .. job.sha256, nil, scope) end
end

-- The scope of a job's bytes in caches.
local function scope_of(context, job)
  local source, request = job.source, job.request
  return request and request.scope or source.scope and context[source.scope] or source.place and source.place(job.parsed)
end

-- True if a job's cache has its bytes, under its key or that of their content.
local function has_bytes(job)
  local request = job.request and job.request.compiled
  return job.cache:peek(job.key, request, true) or job.content and job.cache:peek(job.content, request, true)
end

-- Sets how a job that a follower checks goes through the cache of all followers: local bytes
-- by their version, which is looked up each time; remote ones if the last check is too old. Returns an error.
local function choose_follow_cache(context, job, follow)
  local source, parsed = job.source, job.parsed
  job.follow, job.no_disk, follow.places[job.target] = follow, true, true
  if source.watched then
    follow.watched[#follow.watched + 1], follow.is_local = source.watched(parsed, context), true
  end
  if source.probe then
    local more
    job.version, more = source.probe(job, context)
    if not job.version then
      return errors.is(more) and more.kind == "invalid_reference" and more or nil -- the load has any other error
    end
    if more then follow.unsettled, job.revalidate = true, true end
  end
  job.cache, job.ttl = follow.cache, -1
  set_keys(job, scope_of(context, job))
  if source.probe or not source.is_remote() then return end
  job.keep_failure = follow.keep_failure
  local is_fixed = job.sha256 or job.sha1 or source.is_immutable and source.is_immutable(parsed)
  if is_fixed and has_bytes(job) then return end
  job.max_age = follow.max_age -- of a failure, too
end

-- Sets the cache that a job goes through, if any, its key (normal form, digest and
-- scope), and the options of its claim. Returns an error.
local function choose_cache(context, job, wish)
  local options, ctx, request = wish.options, job.ctx, job.request
  if options.follow then return choose_follow_cache(context, job, options.follow) end
  if ctx.purpose == "secret" or job.parsed.fault then return nil end -- a cache may know what was there before
  local answer = options.cached
  if options.ask_cacheable and context.cache then
    local _, err
    ctx.digest, ctx.reference, job.asks_cacheable = job.sha256, job.target, true
    answer, _, err = context:ask("cacheable", ctx.manifest, ctx)
    if err then return err end
    if type(answer) == "table" then options = answer end
  end
  local cache = options.cache or answer and context.cache or nil
  local revalidate = options.revalidate
  if request and request.revalidate and (cache or context.cache) then cache, revalidate = cache or context.cache, true end
  if not cache then return nil end
  job.cache, job.ttl, job.revalidate = cache, options.ttl, revalidate
  job.no_disk = options.disk == false or request ~= nil and not request.may_be_on_disk
  set_keys(job, scope_of(context, job))
end

-- --------------------------------------------------------------- signatures

-- Purposes that lockfiles and the rule 'integrity' do not know.
local unlocked = { signature = true, key = true }

-- Sets the limits of a signature's job: how large it may be; that it must not be local if
-- the signed bytes are not; and that redirects lead to the same host, unless the policy or
-- an option names others. Returns an error.
local function limit_signature(context, job, wish)
  job.max_bytes, job.max_seconds, job.remote_only = wish.max_bytes, wish.max_seconds, wish.remote_only
  job.blob_redirect_hosts = wish.blob_redirect_hosts
  if wish.remote_only and not (job.source.is_remote() or job.source.is_inline) then
    local _, refusal = context:refuse("allow", "Not allowed: " .. reference.redact(job.target), job.target, job.ctx.purpose,
      "bytes from the network need a signature from the network")
    return refusal
  end
  if not context.policy:overrides "allow" then job.redirect_hosts = context.defaults.redirect_hosts or {} end
end

--- Returns the cache for what a reference led to that is immutable, such as the layer of a
-- manifest by its digest: the job's, or the one that the rule `cacheable` allows for it.
-- @tparam table context
-- @tparam table job
-- @tparam string target the immutable reference
-- @treturn ?theaterref.cache
function M.cache_of(context, job, target)
  if job.cache or not job.asks_cacheable then return job.cache end
  local ctx = job.ctx
  local before = ctx.reference
  ctx.reference = target
  local answer = context:ask("cacheable", ctx.manifest, ctx)
  ctx.reference = before
  return answer and context.cache or nil
end

-- -------------------------------------------------------------------- admit

--- Asks the rule `allow` about a reference.
-- @tparam table context
-- @tparam string target the reference in normal form
-- @tparam table ctx
-- @treturn table|string where redirects may lead, besides the same host
-- @return[2] nil
-- @treturn[2] table an error
function M.allow(context, target, ctx)
  local origin = ctx.origin or ctx.manifest_reference
  ctx.plain_http = origin and context:plain_places(target, origin) or context.plain_http
  local allowed, more, err = context:ask("allow", target, ctx)
  if err then return nil, err end
  if not allowed then
    return context:refuse("allow", "Not allowed: " .. reference.redact(target), target, ctx.purpose, more)
  end
  return type(more) == "table" and more.redirect_hosts or {}
end

--- Admits a candidate as a job.
-- @tparam table context
-- @tparam table wish what is to be resolved; see `theaterref.resolve.load`
-- @tparam string target the candidate
-- @tparam[opt] table expected digests by algorithm, of a reference that led to it
-- @treturn table a job: `ctx`; `source` and `parsed`; `target`, in normal form; `sha256`,
-- `sha1`, `digests_by`; `store` and `store_only`: where to look for the digest first, and
-- whether nowhere else; `redirect_hosts`; `request`: `compiled`, `scope`, `revalidate`, `may_be_on_disk`, `max_bytes`;
-- `cache`, or nil, and for it `key`, `content` (the key under which all references to the
-- same bytes share them), `ttl`, `revalidate`, `no_disk`, and for a follower `follow`, `max_age`,
-- `keep_failure`, and the `version` of local bytes; and, later, `lead`, the future of a
-- claim that it leads, `hit`, and `origin`
-- @return[2] nil
-- @treturn[2] table an error
function M.admit(context, wish, target, expected)
  local source, parsed = reference.source_of(target, context.policy.schemes)
  if not source then return nil, parsed end
  if source.within then source = source.within(parsed, context) end
  local err
  if source.manifest and wish.ctx.purpose == "manifest" then parsed = source.parse(source.manifest(parsed)) end
  if source.as_signature and wish.ctx.purpose == "signature" then parsed = source.as_signature(parsed) end
  -- Room for what most jobs need: a table that grows is slow.
  local job = { ctx = wish.ctx, source = source, parsed = parsed, target = parsed.text,
    redirect_hosts = "any", hit = false, request = nil, lead = nil, asked = wish.reference }
  if parsed.sha256 or parsed.sha1 then job.sha256, job.sha1 = parsed.sha256, parsed.sha1 end
  if parsed.manifest then job.manifest = parsed.manifest end
  if wish.wants_title then job.wants_title = true end
  job.ctx.digest, job.ctx.reference, job.ctx.path = nil, nil, nil -- of the candidate before
  if job.ctx.manifest_reference or context.asks.allow then
    if context.asks.allow and source.settle then job.ctx.path = source.settle(parsed) end
    job.redirect_hosts, err = M.allow(context, job.target, job.ctx)
    if err then return nil, err end
  end
  if wish.remote_only or wish.max_bytes then
    err = limit_signature(context, job, wish)
    if err then return nil, err end
  end
  if expected or (context.lockfile or context.asks.integrity) and not unlocked[job.ctx.purpose] then
    err = set_digests(context, job, expected)
    if err then return nil, err end
    job.manifest = job.locked_manifest or job.manifest
  end
  if job.source.fetches then
    job.request, err = request_of(context, job)
    if job.request and source.request then job.request, err = source.request(job, context, job.request) end
    if err then return nil, err end
  end
  err = choose_cache(context, job, wish)
  if err then return nil, err end
  return job
end

return M
