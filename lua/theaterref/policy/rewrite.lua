--- The default rule for where a reference points.
-- @module theaterref.policy.rewrite
local reference = require "theaterref.reference"

local M = {}

--- A manifest's references are read relative to the manifest's own place: its
-- folder, URL or store. Those a caller gives stay as they are.
-- @tparam string ref as written
-- @tparam ?table ctx `ctx.manifest_reference`: what its references are relative to
-- @treturn string absolute path, URL or store reference
function M.relative_to_manifest(ref, ctx)
  if not ctx or ctx.purpose == "direct" or ctx.purpose == "manifest" then return ref end
  return reference.join(ctx.manifest_reference, ref)
end

return M
