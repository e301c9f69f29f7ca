--- The default rule for which packages may be cached.
-- @module theaterref.policy.caching
local M = {}

--- Only what the manifest declares unchanging, with `static_package = true`.
-- @tparam table manifest
-- @treturn boolean
function M.static_package(manifest)
  if manifest.static_package ~= nil then return manifest.static_package == true end
  return type(manifest.actor) == "table" and manifest.actor.static_package == true
end

return M
