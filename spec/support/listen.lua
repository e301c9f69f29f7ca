-- The listening of servers that answer a request at a time, for processes of their own.
local uv = require "luv"

local M = {}

-- Reads requests off a connection. A body is as long as its Content-Length says.
local function serve(client, answer)
  local data = ""
  client:read_start(function(err, chunk)
    if err or not chunk then
      if not client:is_closing() then client:close() end
      return
    end
    data = data .. chunk
    local head, rest = data:match "^(.-\r\n\r\n)(.*)$"
    local length = head and tonumber(head:match "\r\n[Cc]ontent%-[Ll]ength: (%d+)") or 0
    if not head or #rest < length then return end
    data = ""
    answer(client, head, rest:sub(1, length))
  end)
end

--- Listens at a port of this machine; 0: any. Returns the port.
-- @tparam integer port
-- @tparam function answer gets the connection, the head of a request, and its body
-- @tparam[opt] function on_connection called for each
function M.on(port, answer, on_connection)
  local listener = uv.new_tcp()
  assert(listener:bind("127.0.0.1", port))
  assert(listener:listen(512, function()
    local client = uv.new_tcp()
    listener:accept(client)
    if on_connection then on_connection() end
    serve(client, answer)
  end))
  return listener:getsockname().port
end

--- Serves until the process is killed.
function M.run()
  uv.new_signal():start "sigpipe" -- clients hang up all the time
  uv.run()
end

return M
