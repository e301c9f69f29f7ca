--- The default rule for how an actor's initial state comes together.
-- @module theaterref.policy.merge
local core = require "theaterref.core"

local M = {}

--- Theater's rule: the union of two JSON objects, the override winning key by
-- key at the top level; anything else than two objects gives the override.
-- Every value comes out exactly as it went in.
-- @tparam ?string config_state JSON text from the manifest
-- @tparam ?string override_state JSON text from the caller
-- @treturn ?string
function M.shallow(config_state, override_state)
  return core.merge_initial_states(config_state, override_state)
end

return M
