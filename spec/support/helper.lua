-- What specs share: temporary folders, files, commands, test data, servers.
local M = {}

local root = io.popen("pwd"):read("l")
M.root = root
M.build = os.getenv("BUILD") or "build"
--- The interpreter to run scripts with: under sanitizers, one with them.
M.lua = os.getenv("SPEC_LUA") or "lua5.4"

-- ---------------------------------------------------------------- processes

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end
M.quote = quote

--- Runs a shell command; returns its output, its errors and its exit status.
function M.run(command)
  local errors = os.tmpname()
  local pipe = io.popen("( " .. command .. " ) 2>" .. errors)
  local out = pipe:read("a")
  local _, how, status = pipe:close()
  local file = io.open(errors)
  local err = file:read("a")
  file:close()
  os.remove(errors)
  return out, err, how == "exit" and status or -status
end

function M.run_ok(command)
  local out, err, status = M.run(command)
  assert(status == 0, command .. " failed with " .. status .. ":\n" .. out .. err)
  return out
end

--- Asks until the answer is yes, for ten seconds at most.
function M.eventually(condition)
  local patience = os.time() + 10
  while not condition() do assert(os.time() < patience, "it did not come true within 10 seconds") end
end

-- -------------------------------------------------------------------- files

function M.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
  return path
end

function M.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

function M.exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

--- A folder of the spec's own; give it to 'remove' in the end.
function M.temporary_folder()
  return M.run_ok("mktemp -d"):match("^[^\n]+")
end

function M.remove(folder)
  assert(folder:match("^/.+/"), "refusing to remove " .. folder)
  M.run_ok("rm -rf " .. quote(folder))
end

--- A folder that is gone when the block ends.
function M.with_folder(use)
  local folder = M.temporary_folder()
  local ok, why = xpcall(use, debug.traceback, folder)
  M.remove(folder)
  if not ok then error(why, 0) end
end

-- ---------------------------------------------------------------- test data

local data = os.getenv("THEATERREF_TEST_DATA") or "../shared/data"

--- The path of test data, or nil where this checkout has none: a spec then
-- says 'pending'.
function M.data(path)
  local full = data .. "/" .. path
  return M.run("test -e " .. quote(full) .. " && echo yes") ~= "" and full or nil
end

-- ------------------------------------------------------------------ servers

local Server = {}
Server.__index = Server

function Server:stop()
  M.run("kill " .. self.pid .. " 2>/dev/null; while kill -0 " .. self.pid .. " 2>/dev/null; do sleep 0.01; done")
  M.remove(self.folder)
end

--- The lines of the access log: how often what was asked for.
function Server:requests(pattern)
  local count = 0
  for line in io.lines(self.folder .. "/access.log") do
    if line:find(pattern, 1, true) then count = count + 1 end
  end
  return count
end

local config = [[
pid %{folder}/nginx.pid; error_log %{folder}/error.log; worker_processes 1;
events { worker_connections 1024; }
http {
  access_log %{folder}/access.log combined; root %{folder}/www;
  client_body_temp_path %{folder}/t; proxy_temp_path %{folder}/t; fastcgi_temp_path %{folder}/t;
  uwsgi_temp_path %{folder}/t; scgi_temp_path %{folder}/t;
  default_type application/octet-stream; keepalive_requests 1000000; etag on;
  server {
    listen 127.0.0.1:%{http};
    listen 127.0.0.1:%{https} ssl http2;
    ssl_certificate %{folder}/server.pem; ssl_certificate_key %{folder}/server.key;
    location /to/ { return 302 /moved/$request_uri; }
    location /here { return 302 /hello; }
    location /loop { return 302 /loop; }
    location /to-file { return 302 file:///etc/hostname; }
    location /to-http { return 302 http://127.0.0.1:%{http}/hello; }
    location /to-other { return 302 http://localhost:%{http}/header; }
    location /header { return 200 "[$http_x_secret]"; }
    location /slow { limit_rate 1; limit_rate_after 1; }
    location /gone { return 410; }
    location /odd { return 599; }
    location /packed { gzip on; gzip_types *; gzip_min_length 1; }
    location /empty { return 204; }
  }
}
]]

--- A certificate authority, and a certificate of its for localhost.
function M.certificates(folder)
  M.run_ok(([[cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=spec-ca \
      -keyout ca.key -out ca.pem 2>/dev/null &&
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr 2>/dev/null &&
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > ext &&
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem 2>/dev/null]])
    :format(quote(folder)))
end

--- nginx on ports of its own, http and https (HTTP/1.1 and HTTP/2), serving
-- 'www' in its folder.
function M.nginx()
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  M.run_ok("chmod 755 " .. quote(self.folder) .. " && mkdir " .. quote(self.folder .. "/www"))
  M.certificates(self.folder)
  self.ca = self.folder .. "/ca.pem"
  for _ = 1, 50 do
    self.http_port, self.https_port = math.random(20000, 39999), math.random(40000, 59999)
    M.write(self.folder .. "/nginx.conf", (config:gsub("%%{(%w+)}", {
      folder = self.folder, http = self.http_port, https = self.https_port })))
    local _, err, status = M.run("nginx -c " .. quote(self.folder .. "/nginx.conf") .. " -e "
      .. quote(self.folder .. "/error.log"))
    if status == 0 then break end -- it has bound its ports when it returns
    assert(err:find("Address already in use", 1, true) or M.read(self.folder .. "/error.log"):find("in use"), err)
  end
  self.pid = M.read(self.folder .. "/nginx.pid"):match("%d+")
  self.http = "http://127.0.0.1:" .. self.http_port
  self.https = "https://localhost:" .. self.https_port
  return self
end

function Server:put(name, text)
  M.write(self.folder .. "/www/" .. name, text)
  M.run_ok("chmod 644 " .. quote(self.folder .. "/www/" .. name))
end

return M
