--- True if a host is this machine: its servers may be asked by plain http.
-- @module theaterref.loopback

return function(host)
  return host == "localhost" or host == "::1" or host:find "%.localhost$" ~= nil or host:find "^127%.%d+%.%d+%.%d+$" ~= nil
end
