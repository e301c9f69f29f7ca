-- A server that reads bodies and asks for credentials, for the specs of sending and of
-- authentication. Run as a process of its own: prints its two ports, and serves until killed.
-- Both serve all paths; the second plays another origin. The first one is open at 127.0.0.1 to
-- 127.0.0.99, as so many registries of which no client remembers anything. GET /log gives one line for each
-- request since the last GET /log: number of the port, method, path, Authorization ("-":
-- none), and size of the body.
local uv = require "luv"

local log, counts, tokens, issued = {}, {}, {}, 0
local ports = {}
local body = ("0123456789abcdef"):rep(4096) -- 64 KiB
local known = "Basic YWxpY2U6czNjcmV0" -- alice:s3cret

local function decode(text) return (text:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)) end

local function respond(client, status, fields, text, is_head)
  text = text or ""
  client:write(("HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n"):format(status, #text, fields or "") .. (is_head and "" or text))
end

local function reset(client)
  client:close_reset()
end

local function moved(client, to, status) respond(client, (status or 307) .. " Moved", "Location: " .. to .. "\r\n") end

-- ------------------------------------------------------------- authentication

-- True if a request has credentials that are good now.
local function is_known(request)
  local token = request.authorization:match "^Bearer (%S+)$"
  if token then return tokens[token] ~= nil and tokens[token] > uv.hrtime() / 1e9 end
  return request.authorization == known and not request.query:lower():find "bearer"
end

local function challenge(client, text, host)
  local fields = {}
  for line in text:gsub("AT1", host):gsub("AT2", "127.0.0.1:" .. ports[2]):gmatch "[^\n]+" do
    fields[#fields + 1] = "WWW-Authenticate: " .. line .. "\r\n"
  end
  respond(client, "401 Unauthorized", table.concat(fields), '{"errors":[{"code":"UNAUTHORIZED"}]}')
end

local function issue(client, life, name)
  issued = issued + 1
  local token = ("secret.token-%d"):format(issued)
  tokens[token] = uv.hrtime() / 1e9 + (life or 60)
  respond(client, "200 OK", "Content-Type: application/json\r\n",
    ('{"ignored":{"token":"no"},"%s":"%s"%s}'):format(name or "token", token, life and ',"expires_in":' .. life or ""))
end

local paths = {}

-- /challenge?<WWW-Authenticate>: 401 with it, and "in" with credentials.
paths["/challenge"] = function(client, request)
  if is_known(request) then return respond(client, "200 OK", "", "in") end
  challenge(client, request.query, request.host)
end
-- The same after 0.2 s.
paths["/slow-challenge"] = function(client, request)
  if is_known(request) then return respond(client, "200 OK", "", "in") end
  local timer = uv.new_timer()
  timer:start(200, 0, function()
    timer:close()
    if not client:is_closing() then challenge(client, request.query, request.host) end
  end)
end
-- The same for a body that breaks off the first time, and whose token is gone then.
paths["/breaks"] = function(client, request, count)
  if not is_known(request) then return challenge(client, request.query, request.host) end
  local from = tonumber(request.text:match "[Rr]ange: bytes=(%d+)%-")
  if not from then
    if count < 4 then
      tokens = {}
      client:write(('HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n'):format(#body) .. body:sub(1, 30000),
        function() client:close() end)
    else
      respond(client, "200 OK", 'ETag: "1"\r\n', body)
    end
    return
  end
  respond(client, "206 Partial Content", ('ETag: "1"\r\nContent-Range: bytes %d-%d/%d\r\n'):format(from, #body - 1, #body),
    body:sub(from + 1))
end
-- A blob in another place, which refuses those that bring credentials.
paths["/blob"] = function(client, request)
  if not is_known(request) then return challenge(client, request.query, request.host) end
  moved(client, ("http://127.0.0.1:%d/store?X-Amz-Signature=s1gned"):format(ports[2]))
end
-- The same for a place that expires while its body is under way, and for its successor.
paths["/presigned"] = function(client, _, count)
  moved(client, ("http://127.0.0.1:%d/expiring?%d"):format(ports[2], math.min(count, 2)))
end
paths["/expiring"] = function(client, request, count)
  local from = tonumber(request.text:match "[Rr]ange: bytes=(%d+)%-")
  if request.query == "1" and count == 1 then
    client:write(('HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n'):format(#body) .. body:sub(1, 30000),
      function() client:close() end)
  elseif request.query == "1" or not from then
    respond(client, "403 Forbidden", "", "Request has expired")
  else
    respond(client, "206 Partial Content", ('ETag: "1"\r\nContent-Range: bytes %d-%d/%d\r\n'):format(from, #body - 1, #body),
      body:sub(from + 1))
  end
end
local first
paths["/there-and-back"] = function(client, request)
  first = request.host
  if not is_known(request) then return challenge(client, request.query, request.host) end
  moved(client, ("http://127.0.0.1:%d/back"):format(ports[2]))
end
paths["/back"] = function(client) moved(client, "http://" .. first .. "/store") end
paths["/store"] = function(client, request)
  if request.authorization ~= "-" then return respond(client, "400 Bad Request", "", "Only one auth mechanism allowed") end
  respond(client, "200 OK", "", "stored")
end
-- Nobody gets in here.
paths["/closed"] = function(client, request)
  if not is_known(request) then return challenge(client, request.query, request.host) end
  respond(client, "404 Not Found")
end
paths["/refuses"] = function(client, request) challenge(client, request.query, request.host) end
paths["/revoke"] = function(client)
  tokens = {}
  respond(client, "200 OK")
end

local function with_credentials(use)
  return function(client, request, count)
    if request.authorization ~= "-" and request.authorization ~= known then return respond(client, "401 Unauthorized") end
    if request.method == "POST" and not request.body:find("refresh_token=identity%2F1%2B2", 1, true) then
      return respond(client, "401 Unauthorized")
    end
    use(client, request, count)
  end
end
paths["/token"] = with_credentials(function(client) issue(client) end)
paths["/busy-token"] = function(client, request, count)
  if count == 1 then return respond(client, request.query:match "^%d+" .. " Busy") end
  issue(client)
end
paths["/access-token"] = with_credentials(function(client) issue(client, 60, "access_token") end)
-- The life is in the query: any JSON.
paths["/life-token"] = function(client, request)
  issued = issued + 1
  local token = ("secret.token-%d"):format(issued)
  tokens[token] = uv.hrtime() / 1e9 + 60
  respond(client, "200 OK", "", ('{"token":"%s","expires_in":%s}'):format(token, request.query:match "life=([^&]*)"))
end
paths["/short-token"] = with_credentials(function(client) issue(client, 0.5) end)
-- Only for repositories whose names begin with "open".
paths["/picky-token"] = with_credentials(function(client, request)
  if request.query:find "repository:open" then issue(client) else respond(client, "403 Forbidden") end
end)
paths["/slow-token"] = with_credentials(function(client, request)
  local timer = uv.new_timer()
  timer:start(tonumber(request.query:match "^ms=(%d+)") or 300, 0, function()
    timer:close()
    if not client:is_closing() then issue(client) end
  end)
end)
paths["/no-token"] = function(client) respond(client, "200 OK", "", "<html>") end
paths["/odd-token"] = function(client) respond(client, "200 OK", "", '{"token":"a\\r\\nX-Evil: 1"}') end
paths["/huge-token"] = function(client) respond(client, "200 OK", "", '{"token":"' .. ("x"):rep(1 << 20) .. '"}') end
paths["/moved-token"] = function(client) moved(client, ("http://127.0.0.1:%d/token"):format(ports[2]), 302) end
paths["/denied-token"] = function(client) respond(client, "403 Forbidden") end
paths["/never"] = function() end

-- -------------------------------------------------------------------- sending

paths["/sink"] = function(client, request)
  respond(client, "201 Created", ("Location: /sink/%d?state=a\r\nDocker-Upload-UUID: u\r\nX-Amz-Meta-Writer: w\r\nX-Other: o\r\n"
    .. "Link: </a>; rel=next\r\nLink: </b>\r\nETag: \"e\"\r\nDocker-Content-Digest: sha256:0\r\nRange: 0-9\r\n"):format(#request.body),
    request.method .. " " .. #request.body, request.method == "HEAD")
end
paths["/echo"] = function(client, request) respond(client, "200 OK", "", request.text) end
paths["/head"] = function(client)
  client:write "HTTP/1.1 200 OK\r\nContent-Length: 1234567890\r\nDocker-Content-Digest: sha256:1\r\n\r\n"
end
paths["/to-sink"] = function(client) moved(client, "/sink") end
paths["/reset-once"] = function(client, request, count)
  if count == 1 then return reset(client) end
  respond(client, "201 Created", "", "attempt " .. count .. ", " .. #request.body)
end
paths["/half-once"] = function(client, request, count)
  if count > 1 then return respond(client, "200 OK", 'ETag: "1"\r\n', request.text) end
  client:write(('HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n'):format(#body) .. body:sub(1, 30000),
    function() client:close() end)
end
paths["/busy-once"] = function(client, _, count)
  respond(client, count == 1 and "503 Service Unavailable" or "201 Created", count == 1 and "Retry-After: 0\r\n" or "", "attempt " .. count)
end
paths["/busy"] = function(client) respond(client, "503 Service Unavailable", "", "SlowDown") end
paths["/conflict"] = function(client) respond(client, "409 Conflict", "Content-Type: text/xml\r\n", "<Error/>") end
paths["/large"] = function(client, request) respond(client, "400 Bad Request", "", ("x"):rep(tonumber(request.query))) end
paths["/nothing"] = function(client) client:write "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: \"e\"\r\n\r\n" end

-- These get the head of a request: the body is read by nobody, or the connection ends.
local early = {
  ["/deaf"] = function(client) client:read_stop() end,
  ["/too-large"] = function(client)
    client:read_stop()
    respond(client, "413 Payload Too Large", "", "too large")
  end,
  ["/challenge-early"] = function(client, request)
    if request.authorization ~= "-" then return false end
    client:read_stop()
    respond(client, "401 Unauthorized", "WWW-Authenticate: Basic realm=x\r\n", "who are you?")
  end,
  ["/reset-amid-body"] = function(client, _, count)
    if count > 1 then return false end
    reset(client)
  end,
}
paths["/challenge-early"] = paths["/sink"]
paths["/reset-amid-body"] = paths["/reset-once"]

-- --------------------------------------------------------------------- server

local function parse(head)
  local method, target = head:match "^(%u+) (%S+)"
  local path, query = target:match "^([^?]*)%??(.*)$"
  return { method = method, path = path, target = target, query = decode(query), text = head, body = "",
    host = head:match "\r\n[Hh]ost: ([^\r]*)",
    authorization = head:match "\r\n[Aa]uthorization: ([^\r]*)" or "-",
    size = tonumber(head:match "\r\n[Cc]ontent%-[Ll]ength: (%d+)") or 0 }
end

local function answer(client, request, port)
  if request.path == "/log" then
    respond(client, "200 OK", "", table.concat(log))
    log = {}
    return
  end
  log[#log + 1] = ("%d %s %s %s %d\n"):format(port, request.method, request.target, request.authorization, #request.body)
  local handler = paths[request.path] or function() respond(client, "404 Not Found") end
  handler(client, request, request.count)
end

local function on_connection(listener, port)
  local client = uv.new_tcp()
  listener:accept(client)
  local buffer, request, parts, got = "", nil, nil, 0
  local function take(data)
    if not request then
      buffer = buffer .. data
      local stop = select(2, buffer:find("\r\n\r\n", 1, true))
      if not stop then return end
      request, parts, got = parse(buffer:sub(1, stop)), {}, 0
      data, buffer = buffer:sub(stop + 1), ""
      if request.path ~= "/log" then
        counts[request.target] = (counts[request.target] or 0) + 1
        request.count = counts[request.target]
      end
      if early[request.path] and early[request.path](client, request, request.count) ~= false then
        log[#log + 1] = ("%d %s %s %s early\n"):format(port, request.method, request.target, request.authorization)
        return
      end
    end
    parts[#parts + 1], got = data, got + #data
    if got < request.size then return end
    local whole = table.concat(parts)
    request.body = whole:sub(1, request.size)
    local done, rest = request, whole:sub(request.size + 1)
    request = nil
    answer(client, done, port)
    if #rest > 0 then take(rest) end
  end
  client:read_start(function(err, data)
    if err or not data then
      if not client:is_closing() then client:close() end
      return
    end
    take(data)
  end)
end

uv.new_signal():start "sigpipe"
local function listen(address, port, number)
  local listener = uv.new_tcp()
  assert(listener:bind(address, port))
  assert(listener:listen(512, function() on_connection(listener, number) end))
  return listener:getsockname().port
end
for i = 1, 2 do ports[i] = listen("127.0.0.1", 0, i) end
for i = 2, 99 do listen("127.0.0." .. i, ports[1], 1) end
io.stdout:write(table.concat(ports, " "), "\n")
io.stdout:flush()
uv.run()
