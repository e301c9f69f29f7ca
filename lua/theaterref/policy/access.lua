--- The default rule for what may be resolved at all.
-- @module theaterref.policy.access
local reference = require "theaterref.reference"

local M = {}

--- A manifest that came over the network may name neither local files nor
-- local stores, and one that came by https no plain http. A reference from
-- the caller is allowed.
-- @tparam string ref after rewriting
-- @tparam table ctx `ctx.manifest_reference`: where the manifest came from
-- @treturn boolean
-- @treturn ?string why not, and how to allow it
function M.no_local_from_network(ref, ctx)
  local from = ctx.manifest_reference and reference.scheme(ctx.manifest_reference)
  if ctx.purpose == "direct" or ctx.purpose == "manifest" or from ~= "http" and from ~= "https" then
    return true
  end
  local to = reference.scheme(ref)
  if to == "https" or to == "http" and from == "http" then return true end
  local what = to == "http" and "plain http" or to == "store" and "a local store" or to and to ~= "file" and "the scheme " .. to
    or "a local file"
  return false, ("a manifest that came by %s may not name %s; to allow it, give a policy with a rule 'allow'")
    :format(from, what)
end

return M
