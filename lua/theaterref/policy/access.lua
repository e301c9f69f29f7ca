--- The default rule for what may be resolved at all.
-- @module theaterref.policy.access
local reference = require "theaterref.reference"

local M = {}

local ANYWHERE = { redirect_hosts = "any" }

local local_schemes = { file = true, store = true, data = true }

--- True if bytes count as coming from the network: by any scheme but ours for what is
-- local.
-- @tparam ?string origin where they finally came from
-- @treturn boolean
function M.is_remote(origin)
  local scheme = origin and reference.scheme(origin)
  return scheme ~= nil and not local_schemes[scheme]
end

--- A manifest that came over the network may name neither local files nor stores, and
-- one that came by https no plain http. A reference from the caller is allowed. Redirects
-- may lead to any host.
-- @tparam string ref after rewriting, in normal form
-- @tparam table ctx `ctx.origin`: where the manifest's bytes came from
-- @treturn boolean
-- @treturn string|table why not, and how to allow it; or, when it is allowed, where
-- redirects may lead
function M.no_local_from_network(ref, ctx)
  local origin = ctx.origin or ctx.manifest_reference
  if ctx.purpose == "direct" or ctx.purpose == "manifest" or not M.is_remote(origin) then return true, ANYWHERE end
  local from, to = reference.scheme(origin), reference.scheme(ref)
  if to == "https" or to == "data" or to == "http" and from == "http" then return true, ANYWHERE end
  -- A policy's own scheme, which the manifest came by.
  local by = reference.scheme(ctx.manifest_reference or "")
  if to and to == by and not reference.is_own_scheme(to) then return true, ANYWHERE end
  local what = to == "http" and "plain http" or to == "store" and "a local store" or to and to ~= "file" and "the scheme " .. to
    or "a local file"
  return false, ("a manifest that came by %s may not name %s; to allow it, give a policy with a rule 'allow'")
    :format(from, what)
end

return M
