--- What the policy says of a reference: where it may be had, whether it may, which
-- digest it must have, and how it is asked for.
-- @module theaterref.admission
local errors = require "theaterref.error"
local options = require "theaterref.options"
local reference = require "theaterref.reference"

local M = {}

local MAX_PLACES = 16

--- Where a reference may be had: the rule `rewrite`.
-- @tparam theaterref.resolver resolver
-- @tparam string ref
-- @tparam table ctx
-- @treturn table a list of at least one reference, to try in order
-- @return[2] nil
-- @treturn[2] table an error
function M.places(resolver, ref, ctx)
  local answer, _, err = resolver.policy:ask("rewrite", ref, ctx)
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

local function refuse(resolver, target, ctx, why)
  resolver:tell { type = "refusal", reference = errors.redact(target), purpose = ctx.purpose, reason = why }
  return nil, errors.new("denied", ("Not allowed: %s: %s"):format(errors.redact(target),
    why or "the policy gives no reason"), target)
end

-- The digest that a target must have, if any: { digest = hex, store, offline }.
local function pin_of(resolver, target, parsed, ctx)
  local pin, _, err = resolver.policy:ask("pin", target, ctx)
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

--- Permits and pins a job's target: the rules `allow` and `pin`. Fills in `parsed`
-- and `pin`, and changes `key` where a pin asks for it.
-- @tparam theaterref.resolver resolver
-- @tparam table job see `theaterref.loading`
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
  if policy:overrides "pin" then
    job.pin, err = pin_of(resolver, target, parsed, job.ctx)
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

--- How a job's URL is to be fetched: what the resolver was made with, and on top
-- of that what the rule `request` answers.
-- @tparam theaterref.resolver resolver
-- @tparam table job
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error
function M.request(resolver, job)
  local answer, _, err = resolver.policy:ask("request", job.target, job.ctx)
  if err then return nil, err end
  local fault = answer and options.fault(options.request, answer)
  if fault then return nil, errors.new("policy", "the rule 'request' is wrong: " .. fault) end
  local request = {}
  for name, value in pairs(resolver.request) do request[name] = value end
  for name, value in pairs(answer or {}) do request[name] = value end
  if request.host_headers then
    request.headers = headers_for(job.parsed.url, request.headers, request.host_headers)
  end
  request.digest = job.parsed.digest or job.pin and job.pin.digest
  return request
end

return M
