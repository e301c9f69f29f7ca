-- A token server as registries use it: GET /token?service=…&scope=repository:NAME:ACTIONS, and
-- POST /token with the same and a refresh token. Anonymous clients may pull; alice:s3cret and the
-- refresh token identity/1+2 may do all. Its tokens are JWTs, signed (RS256) by the openssl
-- command. Usage: tokens.lua PORT FOLDER [SECONDS], with token.key and token.crt in the folder;
-- each request is a line of access.log there.
package.path = arg[0]:gsub("[^/]*$", "?.lua;") .. package.path
local listen = require "listen"

local port, folder, life = tonumber(arg[1]), arg[2], tonumber(arg[3] or 60)
local known = "Basic YWxpY2U6czNjcmV0"

local function base64url(text)
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
  local out = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local bits = a << 16 | (b or 0) << 8 | (c or 0)
    for j = 0, c and 3 or b and 2 or 1 do
      local at = (bits >> (18 - 6 * j) & 63) + 1
      out[#out + 1] = alphabet:sub(at, at)
    end
  end
  return table.concat(out)
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local function sign(text)
  local file = assert(io.open(folder .. "/token.text", "wb"))
  file:write(text)
  file:close()
  local pipe = io.popen(("openssl dgst -sha256 -sign '%s/token.key' '%s/token.text'"):format(folder, folder))
  local signature = pipe:read "a"
  pipe:close()
  return signature
end

local certificate = read(folder .. "/token.crt"):gsub("%-+[^-\n]*%-+", ""):gsub("%s", "")
local header = base64url(('{"typ":"JWT","alg":"RS256","x5c":["%s"]}'):format(certificate))

local function token(query, may_push)
  local access, service, now = {}, "", os.time()
  for name, value in query:gmatch "([^&=]+)=([^&]*)" do
    value = value:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    if name == "service" then service = value end
    if name == "scope" then
      for kind, repository, actions in value:gmatch "(%w+):([^ ]+):([%w,]+)" do
        local granted = {}
        for action in actions:gmatch "%w+" do
          if may_push or action == "pull" then granted[#granted + 1] = '"' .. action .. '"' end
        end
        access[#access + 1] = ('{"type":"%s","name":"%s","actions":[%s]}'):format(kind, repository, table.concat(granted, ","))
      end
    end
  end
  local claims = ('{"iss":"tokens","sub":"","aud":"%s","exp":%d,"nbf":%d,"iat":%d,"jti":"%d","access":[%s]}'):format(service,
    now + life, now - 5, now, math.random(1 << 40), table.concat(access, ","))
  local text = header .. "." .. base64url(claims)
  return text .. "." .. base64url(sign(text))
end

local function answer(client, request, body)
  local method, path, query = request:match "^(%u+) ([^? ]+)%??(%S*)"
  local authorization = request:match "\r\n[Aa]uthorization: ([^\r]*)"
  local caller = method == "POST" and "identity" or authorization and "known" or "anonymous"
  local is_refused = authorization and authorization ~= known or method == "POST"
    and not (body:find "grant_type=refresh_token" and body:find("refresh_token=identity%2F1%2B2", 1, true))
  local status, text = "404 Not Found", "{}"
  if path == "/token" and is_refused then
    status = "401 Unauthorized"
  elseif path == "/token" then
    local name = method == "POST" and "access_token" or "token"
    status, text = "200 OK", ('{"%s":"%s","expires_in":%d}'):format(name, token(query .. "&" .. body, caller ~= "anonymous"), life)
  end
  local file <close> = io.open(folder .. "/access.log", "a")
  file:write(("%s %s?%s %s\n"):format(status:sub(1, 3), path, query, caller))
  client:write(("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"):format(status, #text, text))
end

listen.on(port, answer)
listen.run()
