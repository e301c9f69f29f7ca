--- The default rule for how an http or https reference is fetched.
-- @module theaterref.policy.request
local M = {}

--- What the resolver was made with, and else the engine's defaults: 30 s in
-- all, 10 s to connect, 15 s without a byte, 1 GiB, 10 redirects.
-- @treturn table any of `timeout`, `connect_timeout`, `stall_timeout` (seconds),
-- `max_bytes`, `max_redirects`, `headers`, `ca_file`, `user_agent`
function M.defaults()
  return {}
end

return M
