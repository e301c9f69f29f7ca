--- The default rule for what may be kept in a cache.
-- @module theaterref.policy.caching
local reference = require "theaterref.reference"

local M = {}

--- Keep bytes that cannot change: those with a SHA-256 that is checked, content of a store
-- by its hash, and packages that their manifest declares so, with `static_package = true`.
-- @tparam ?table manifest nil for manifests and initial states
-- @tparam table ctx `ctx.digest`: the SHA-256 that the bytes must have; `ctx.reference`:
-- what is to be kept
-- @treturn boolean
function M.static_or_digest(manifest, ctx)
  if ctx.digest or ctx.reference and reference.is_immutable(ctx.reference) then return true end
  if not manifest then return false end
  if manifest.static_package ~= nil then return manifest.static_package == true end
  return type(manifest.actor) == "table" and manifest.actor.static_package == true
end

return M
