--- The default rule for how an http or https reference is fetched.
-- @module theaterref.policy.request
local M = {}

--- What the resolver was made with, and else the engine's defaults. A request
-- has these options, and so has a resolver:
--
-- * `timeout` (30), `connect_timeout` (10), `stall_timeout` (15, without a
--   byte): seconds; below 0 is no limit
-- * `max_bytes` (1 GiB): of the body, unpacked
-- * `max_redirects` (10); never to another scheme than http and https, nor from
--   https to http
-- * `retries` (2): after a failure that may pass: no connection, one that broke,
--   or status 408, 429, 500, 502, 503, 504. The first comes after about 0.2 s,
--   each further one after twice as long, or when the server's `Retry-After`
--   says; a body that broke off is resumed where the server can
-- * `headers`: names and values; `host_headers`: the same by host, or host and
--   port. Neither is sent on to another host by a redirect
-- * `ca_file`: PEM file of the authorities to trust; `client_cert`,
--   `client_key`: PEM files to identify with
-- * `netrc` (false): take user and password from `~/.netrc`
-- * `unix_socket`: path of the server's socket, whatever host the URL names
-- * `refuse_private` (false): not from a server at a private, loopback or
--   link-local address; that of the connected peer counts
-- * `user_agent`
-- * `max_host_connections` (32), `max_connections` (128): transfers at one time
--   to one host, and in all; of the whole process, from now on. Others wait their
--   turn
-- * `revalidate` (false): keep the body in the resolver's cache, but ask the
--   server each time whether it has changed
--
-- Proxies are taken from the environment, as curl does: `https_proxy`,
-- `http_proxy`, `no_proxy`.
-- @treturn table
function M.defaults()
  return {}
end

return M
