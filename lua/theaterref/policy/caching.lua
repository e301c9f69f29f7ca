--- The default rule for which packages may be cached.
-- @module theaterref.policy.caching
local M = {}

--- Packages that the manifest declares unchanging, with `static_package = true`, and
-- those with a digest in their reference, which cannot change.
-- @tparam table manifest
-- @tparam table ctx `ctx.package`: the package's reference, as written
-- @treturn boolean
function M.static_or_digest(manifest, ctx)
  if ctx and ctx.package and ctx.package:find "#sha%d+=%x+$" then return true end
  if manifest.static_package ~= nil then return manifest.static_package == true end
  return type(manifest.actor) == "table" and manifest.actor.static_package == true
end

return M
