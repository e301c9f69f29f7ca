--- The default rule for what may be resolved at all.
-- @module theaterref.policy.access
local reference = require "theaterref.reference"

local M = {}

local ANYWHERE = { redirect_hosts = "any" }

-- True if a reference is one to a registry that is asked by plain http: one of this machine, unless
-- the option `plain_http` says otherwise. 'options' has that, by registry.
local function is_plain_oci(ref, options)
  local parsed = reference.scheme(ref) == "oci" and reference.parse(ref)
  if not parsed then return false end
  local option = options and options[parsed.registry]
  if option ~= nil then return option end
  return require("theaterref.registry.requests").is_loopback(parsed.host)
end

-- True if a reference is one to a bucket, or to a remote store, whose endpoint speaks plain http.
local function is_plain_bucket(ref, options)
  local place = ref:match "^%a%w*://[^/]*"
  return place ~= nil and options ~= nil and options[place:lower()] == true
end

local function is_plain(ref, options)
  return reference.scheme(ref) == "http" or is_plain_oci(ref, options) or is_plain_bucket(ref, options)
end

local function store_of(ref) return ref:match "^%a+://([^/]*)/" end

--- A manifest that came over the network may name neither local files nor stores, other than the
-- remote store that it came from, and one that came by https no plain http. A reference from the caller is allowed. Redirects
-- may lead to any host.
-- @tparam string ref after rewriting, in normal form
-- @tparam table ctx `ctx.origin`: where the manifest's bytes came from; `ctx.origin_is_remote`: that is over the network;
-- `ctx.plain_http`: the option of that name of registries that have it, and true for `s3://<bucket>` and `store://<id>` whose
-- endpoint speaks plain http
-- @treturn boolean
-- @treturn string|table why not, and how to allow it; or, when it is allowed, where
-- redirects may lead
function M.no_local_from_network(ref, ctx)
  local origin = ctx.origin or ctx.manifest_reference
  if ctx.purpose == "direct" or ctx.purpose == "manifest" then return true, ANYWHERE end
  if not ctx.origin_is_remote and not reference.is_remote(origin or "") then return true, ANYWHERE end
  local from, to = reference.scheme(origin), reference.scheme(ref)
  if to == "https" or to == "data" or to == "http" and from == "http" then return true, ANYWHERE end
  local is_plain_http = is_plain(ref, ctx.plain_http)
  local is_registry_or_bucket = to == "oci" or to == "s3"
  if is_registry_or_bucket and (not is_plain_http or is_plain(origin, ctx.plain_http)) then return true, ANYWHERE end
  -- The scheme that the manifest came by, if that is no way to a place of this machine.
  if to and not is_plain_http and to == reference.scheme(ctx.manifest_reference or "") and reference.is_remote(ref) then
    return true, ANYWHERE
  end
  if to == "store" and from == "store" and store_of(ref) == store_of(origin) then return true, ANYWHERE end
  local what = is_plain_http and "plain http" or to == "store" and "a local store"
    or to and to ~= "file" and "the scheme " .. to or "a local file"
  return false, ("a manifest that came by %s may not name %s; to allow it, give a policy with a rule 'allow'")
    :format(from, what)
end

return M
