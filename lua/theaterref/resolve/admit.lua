--- The policy's answers about a reference: its candidates, whether it is allowed,
-- the digest its bytes must have, and the options of its request.
-- @module theaterref.resolve.admit
local core = require "theaterref.core"
local errors = require "theaterref.error"
local options = require "theaterref.options"
local reference = require "theaterref.reference"

local M = {}

local MAX_CANDIDATES = 16

--- The candidates of a reference: the rule `rewrite`.
-- @tparam theaterref.resolver resolver
-- @tparam string ref
-- @tparam table ctx
-- @treturn table a list of at least one reference, to try in order
-- @return[2] nil
-- @treturn[2] table an error
function M.candidates(resolver, ref, ctx)
  local answer, _, err = resolver.policy:ask("rewrite", ref, ctx)
  if not answer then return nil, err end
  if type(answer) == "string" then return { answer } end
  for _, target in ipairs(answer) do
    if type(target) ~= "string" then err = "a list with a " .. type(target) .. " in it" end
  end
  if #answer == 0 then err = "an empty list" end
  if #answer > MAX_CANDIDATES then err = ("a list of %d; %d are as many as are tried"):format(#answer, MAX_CANDIDATES) end
  if err then return nil, errors.new("policy", "the rule 'rewrite' returned " .. err) end
  return answer
end

local function refuse(resolver, target, ctx, why)
  resolver:emit { type = "refusal", reference = errors.redact(target), purpose = ctx.purpose, reason = why }
  return nil, errors.new("denied", ("Not allowed: %s: %s"):format(errors.redact(target),
    why or "the policy gives no reason"), target)
end

-- The digest that a target must have, if any: { digest = hex, store, offline }.
local function integrity_of(resolver, target, parsed, ctx)
  local answer, _, err = resolver.policy:ask("integrity", target, ctx)
  if err or not answer then return nil, err end
  if type(answer) == "string" then answer = { sha256 = answer } end
  local hex = answer.sha256 or answer.sha1
  if type(hex) ~= "string" or not hex:match "^%x+$" or #hex ~= 40 and #hex ~= 64 then
    return nil, errors.new("policy", "the rule 'integrity' answered without a digest: 64 hex digits of SHA-256, or 40 of "
      .. "SHA-1, were expected")
  end
  hex = hex:lower()
  if parsed.digest and parsed.digest ~= hex then
    return nil, errors.new("digest_mismatch", ("%s names the digest %s, but the policy requires %s"):format(
      errors.redact(target), parsed.digest, hex))
  end
  return { digest = hex, store = answer.store, offline = answer.offline }
end

--- Checks a job's target: the rules `allow` and `integrity`. Sets `parsed` and
-- `integrity`, and `key` if the policy requires a digest.
-- @tparam theaterref.resolver resolver
-- @tparam table job see `theaterref.resolve.load`
-- @treturn table the job
-- @return[2] nil
-- @treturn[2] table an error
function M.admit(resolver, job)
  local policy, target = resolver.policy, job.target
  local parsed, err = reference.parse(target, policy.schemes)
  if not parsed then return nil, err end
  local allowed, why
  allowed, why, err = policy:ask("allow", target, job.ctx)
  if err then return nil, err end
  if not allowed then return refuse(resolver, target, job.ctx, why) end
  job.parsed = parsed
  if policy:overrides "integrity" then
    job.integrity, err = integrity_of(resolver, target, parsed, job.ctx)
    if err then return nil, err end
    -- Bytes cached without the digest were not checked against it.
    if job.integrity and not parsed.digest then job.key = target .. "#sha256=" .. job.integrity.digest end
  end
  return job
end

-- The options of a URL's host: those of its port before those of all ports.
local function host_options(hosts, parsed)
  local with_port, found = parsed.host .. ":" .. parsed.port, nil
  for name, own in pairs(hosts) do
    name = name:lower()
    if name == with_port then return own end
    if name == parsed.host then found = own end
  end
  return found
end

-- Adds the options of a URL's host to a request.
local function add_host_options(request, parsed)
  local own = host_options(request.hosts, parsed)
  request.hosts = nil
  for name, value in pairs(own or {}) do
    if name == "headers" then
      local all = {}
      for header, text in pairs(request.headers or {}) do all[header] = text end
      for header, text in pairs(value) do all[header] = text end
      value = all
    end
    request[name] = value
  end
end

-- The options as the core takes them, and whether they say `revalidate`.
local function compile(request)
  local ok, compiled = pcall(core.request_options, request)
  if ok then return compiled, request.revalidate end
  return nil, errors.new("policy", "the options of the request are wrong: " .. tostring(compiled))
end

--- How a job's URL is to be fetched: what the resolver was made with, and on top
-- of that what the rule `request` answers.
-- @tparam theaterref.resolver resolver
-- @tparam table job
-- @treturn userdata options for `core.fetch`
-- @treturn ?boolean whether the options say `revalidate`
-- @return[2] nil
-- @treturn[2] table an error
function M.request(resolver, job)
  local given = resolver.request
  if not resolver.policy:overrides "request" and not given.hosts then
    if resolver.compiled then return resolver.compiled, given.revalidate end
    local compiled, more = compile(given)
    resolver.compiled = compiled
    return compiled, more
  end
  local answer, _, err = resolver.policy:ask("request", job.target, job.ctx)
  if err then return nil, err end
  local fault = answer and options.fault(options.request, answer)
  if fault then return nil, errors.new("policy", "the rule 'request' is wrong: " .. fault) end
  local request = {}
  for name, value in pairs(given) do request[name] = value end
  for name, value in pairs(answer or {}) do request[name] = value end
  if request.hosts then add_host_options(request, job.parsed) end
  return compile(request)
end

return M
