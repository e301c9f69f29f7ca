-- A relay between TCP connections: relay.lua PORT FAULT COUNT. The first COUNT
-- connections stay silent, are reset at the first byte, send TLS messages to ignore
-- without an end, or go to the port FAULT; the others go to PORT. It prints its own port, and serves until killed.
local uv = require "luv"

local target, fault, count = tonumber(arg[1]), arg[2], tonumber(arg[3])

local function close(handle) if not handle:is_closing() then handle:close() end end

-- HelloRequest messages, which a client must ignore in a handshake (RFC 5246, 7.4.1.1).
local hellos = ("\x16\x03\x03\0\4\0\0\0\0"):rep(10000)
local function pour(client)
  client:write(hellos, function(err) if err then close(client) else pour(client) end end)
end

local function pass(from, to)
  from:read_start(function(err, data)
    if err or not data then
      close(from)
      return close(to)
    end
    to:write(data)
  end)
end

uv.new_signal():start "sigpipe"
local listener = uv.new_tcp()
assert(listener:bind("127.0.0.1", 0))
assert(listener:listen(128, function()
  local client, server = uv.new_tcp(), uv.new_tcp()
  listener:accept(client)
  local to = count > 0 and tonumber(fault) or target
  count = count - 1
  if count >= 0 and to == target then
    if fault == "endless" then pour(client) end
    if fault == "reset" then client:read_start(function() client:close_reset() end) end
    return
  end
  server:connect("127.0.0.1", to, function(err)
    if err then return close(client) end
    pass(client, server)
    pass(server, client)
  end)
end))
io.stdout:write(listener:getsockname().port, "\n")
io.stdout:flush()
uv.run()
