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

local function store_of(ref) return ref:match "^%a+://([^/]*)/" end

--- A manifest that came over the network may name neither local files nor stores, other than the
-- remote store that it came from, and one that came by https no plain http. A reference from the caller is allowed. Redirects
-- may lead to any host.
-- @tparam string ref after rewriting, in normal form
-- @tparam table ctx `ctx.origin`: where the manifest's bytes came from; `ctx.origin_is_remote`: that is over the network;
-- `ctx.plain_http`: the option of that name of registries that have it
-- @treturn boolean
-- @treturn string|table why not, and how to allow it; or, when it is allowed, where
-- redirects may lead
function M.no_local_from_network(ref, ctx)
  local origin = ctx.origin or ctx.manifest_reference
  if ctx.purpose == "direct" or ctx.purpose == "manifest" then return true, ANYWHERE end
  if not ctx.origin_is_remote and not reference.is_remote(origin or "") then return true, ANYWHERE end
  local from, to = reference.scheme(origin), reference.scheme(ref)
  if to == "https" or to == "data" or to == "http" and from == "http" then return true, ANYWHERE end
  local is_plain = is_plain_oci(ref, ctx.plain_http)
  if to == "oci" and (not is_plain or is_plain_oci(origin, ctx.plain_http) or from == "http") then return true, ANYWHERE end
  if to == "s3" then return true, ANYWHERE end -- its endpoint is the operator's choice
  local is_plain_http = to == "http" or is_plain
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
