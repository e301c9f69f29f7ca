--- The default rule for how an http or https reference is fetched.
-- @module theaterref.policy.request
local M = {}

--- The resolver's own options, over the engine's defaults. The options are
-- those that the topic "options" lists.
--
-- Proxies are taken from the environment, as curl does: `https_proxy`,
-- `http_proxy`, `no_proxy`.
-- @treturn table
function M.defaults()
  return {}
end

return M
