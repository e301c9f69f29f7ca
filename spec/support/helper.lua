-- Shared by specs: temporary folders, files, commands, test data, servers.
local M = {}

local root = io.popen("pwd"):read("l")
M.root = root
M.build = os.getenv("BUILD") or "build"
--- The interpreter to run scripts with: under sanitizers, one with them.
M.lua = os.getenv("SPEC_LUA") or "lua5.4"
--- The compiler flags for the sanitizers of the tree under test.
local sanitizers = os.getenv "SAN" or ""
M.sanitizers = sanitizers ~= "" and "-fsanitize=" .. sanitizers or ""

--- True if an emulator runs the programs, as in 'make test-s390x'.
M.emulated = (os.getenv "EMULATED" or "") ~= ""

--- How much slower code may be here: under QEMU, ThreadSanitizer or AddressSanitizer.
M.slowness = M.emulated and 40 or M.sanitizers:find "thread" and 20 or M.sanitizers ~= "" and 5 or 1

-- ---------------------------------------------------------------- processes

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end
M.quote = quote

--- Runs a shell command; returns its output, its errors and its exit status.
function M.run(command)
  local errors = os.tmpname()
  local pipe = io.popen("timeout 120 sh -c " .. quote(command) .. " 2>" .. errors)
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

--- The beginning of a shell command that preloads spec/support/<name>.c. Not under
-- ThreadSanitizer, whose runtime calls what is preloaded before it is ready.
function M.preload(name)
  return ("ASAN_OPTIONS=verify_asan_link_order=0 LD_PRELOAD=%s/%s/spec/%s.so"):format(root, M.build, name)
end

M.can_preload = not M.build:find "thread"

local traceable

--- True if strace works: not where an emulator runs the programs.
function M.can_trace()
  if traceable == nil then traceable = select(3, M.run "strace -o /dev/null true") == 0 end
  return traceable
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

-- Returns a WebAssembly module with a text in a section of its own.
function M.module(text)
  local size, length = #text + 2, {}
  for i = 1, 5 do length[i] = string.char(size >> 7 * (i - 1) & 0x7F | (i < 5 and 0x80 or 0)) end
  return "\0asm\1\0\0\0\0" .. table.concat(length) .. "\1x" .. text
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

--- Puts the command into a folder, for PATH: with the interpreter of the specs.
function M.command(folder)
  M.run_ok("mkdir -p " .. quote(folder))
  M.write(folder .. "/theaterref", ("#!/bin/sh\nexec %s %s/lua/bin/theaterref \"$@\"\n"):format(M.lua, root))
  M.run_ok("chmod +x " .. quote(folder .. "/theaterref"))
end

--- A folder that is gone when the block ends.
function M.with_folder(use)
  local folder = M.temporary_folder()
  local ok, why = xpcall(use, debug.traceback, folder)
  M.remove(folder)
  if not ok then error(why, 0) end
end

--- theaterref as 'make install' puts it into a folder of the caller's, built
-- there: { folder, prefix, environment }, the last for a shell's 'export'.
function M.installation()
  local folder = M.temporary_folder()
  local prefix = folder .. "/prefix"
  M.run_ok(("cd %s && cp -r Makefile csrc lua examples rockspec *.md %s && make -s -C %s install PREFIX=%s BUILD=build"):format(
    quote(root), folder, folder, prefix))
  local environment = "PATH=%/bin:$PATH PKG_CONFIG_PATH=%/lib/pkgconfig LD_LIBRARY_PATH=%/lib "
    .. "LUA_PATH='%/share/lua/5.4/?.lua;%/share/lua/5.4/?/init.lua;;' LUA_CPATH='%/lib/lua/5.4/?.so;;'"
  return { folder = folder, prefix = prefix, environment = environment:gsub("%%", prefix) }
end

-- -------------------------------------------------------------------- cache

--- Claims a key that a cache does not have, and completes the claim with some bytes.
function M.load(cache, key, bytes, record, options)
  local how, lead = cache:claim(key, options)
  assert(how == "lead", how)
  assert(lead:complete(require("theaterref.core").blob(bytes), record))
  return lead
end

-- ---------------------------------------------------------------- test data

-- Compiles a host in C, spec/support/<name>.c, into a folder. Returns the program's path.
function M.host(name, folder)
  local library, program = M.root .. "/" .. M.build .. "/lib", folder .. "/" .. name
  M.run_ok(("%s -std=c11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Werror %s %s/spec/support/%s.c -I%s/csrc $(pkg-config --cflags lua5.4) "
    .. "-L%s -ltheaterref -llua5.4 -Wl,-rpath,%s -pthread -o %s"):format(os.getenv "CC" or "cc", M.sanitizers, M.root, name,
    M.root, library, library, program))
  return program
end

local data = os.getenv("THEATERREF_TEST_DATA") or "../shared/data"

--- The path of test data, or nil where this checkout has none: a spec then
-- says 'pending'. Of Theater's results, each checkout has a part.
function M.data(path)
  for _, folder in ipairs { data, "spec/support/theater" } do
    local full = folder .. "/" .. path
    if M.run("test -e " .. quote(full) .. " && echo yes") ~= "" then return full end
  end
end

-- ------------------------------------------------------------------ servers

local Server = {}
Server.__index = Server

function Server:stop()
  if self.tokens then self.tokens:stop() end
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
    location /dripping/ { alias %{folder}/www/; limit_rate 200; limit_rate_after 100; }
    location /token { return 200 '{"token":"headers:$http_x_key:$http_authorization:"}'; }
    location /gone { return 410; }
    location /odd { return 599; }
    location /packed { gzip on; gzip_types *; gzip_min_length 1; }
    location /empty { return 204; }
    location /bucket/ { dav_methods PUT; client_max_body_size 0; create_full_put_path on; }
  }
  server { listen unix:%{folder}/socket; }
  server { listen 127.0.0.1:%{expired} ssl; ssl_certificate %{folder}/expired.pem; ssl_certificate_key %{folder}/server.key; }
  server { listen 127.0.0.1:%{elsewhere} ssl; ssl_certificate %{folder}/elsewhere.pem; ssl_certificate_key %{folder}/elsewhere.key; }
  server { listen 127.0.0.1:%{selfsigned} ssl; ssl_certificate %{folder}/self.pem; ssl_certificate_key %{folder}/self.key; }
  server { listen 127.0.0.1:%{wants} ssl; ssl_certificate %{folder}/server.pem; ssl_certificate_key %{folder}/server.key;
    ssl_client_certificate %{folder}/ca.pem; ssl_verify_client on;
    location /who { return 200 "$ssl_client_s_dn"; } }
}
]]

local key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"

local authority = [[
[ca]
default_ca = spec
[spec]
new_certs_dir = .
database = index
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
]]

--- A certificate authority, and certificates of its: a good one for localhost,
-- one that is past its time, one for another host, one of a client; and one
-- that nobody signed.
function M.certificates(folder)
  local function certificate(name, subject, days, san)
    return ([[openssl req %s -subj /CN=%s -keyout %s.key -out %s.csr &&
      printf 'subjectAltName=%s\n' > ext &&
      openssl x509 -req -in %s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days %d -extfile ext -out %s.pem]])
      :format(key, subject, name, name, san, name, days, name)
  end
  M.run_ok("{ " .. table.concat({ "cd " .. quote(folder),
    "openssl req -x509 " .. key .. " -days 2 -subj /CN=spec-ca -keyout ca.key -out ca.pem",
    "openssl req -x509 " .. key .. " -days 2 -subj /CN=localhost -keyout self.key -out self.pem",
    certificate("server", "localhost", 2, "DNS:localhost,IP:127.0.0.1"),
    "touch index && printf %s " .. quote(authority) .. " > ca.conf",
    "openssl ca -batch -notext -config ca.conf -cert ca.pem -keyfile ca.key -startdate 20200101000000Z -enddate 20200102000000Z"
      .. " -extfile ext -in server.csr -out expired.pem", -- 'x509' takes no negative number of days since OpenSSL 3.4
    certificate("elsewhere", "elsewhere.example", 2, "DNS:elsewhere.example"),
    certificate("client", "client", 2, "DNS:client") }, " && ") .. "; } 2>/dev/null")
end

--- nginx on ports of its own, http and https (HTTP/1.1 and HTTP/2), serving
-- 'www' in its folder.
function M.nginx()
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  M.run_ok("chmod 755 " .. quote(self.folder) .. " && mkdir " .. quote(self.folder .. "/www"))
  M.certificates(self.folder)
  self.ca = self.folder .. "/ca.pem"
  local status, err
  for _ = 1, 50 do
    local port = math.random(10000, 59000)
    self.http_port, self.https_port = port, port + 1
    self.bad_ports = { expired = port + 2, elsewhere = port + 3, selfsigned = port + 4, wants = port + 5 }
    local values = { folder = self.folder, http = port, https = port + 1 }
    for name, number in pairs(self.bad_ports) do values[name] = number end
    M.write(self.folder .. "/nginx.conf", (config:gsub("%%{(%w+)}", values)))
    os.remove(self.folder .. "/socket") -- an nginx that found a port taken leaves its own
    local _
    _, err, status = M.run("nginx -c " .. quote(self.folder .. "/nginx.conf") .. " -e "
      .. quote(self.folder .. "/error.log"))
    if status == 0 then break end -- it has bound its ports when it returns
  end
  assert(status == 0, err)
  local pid_file = self.folder .. "/nginx.pid" -- which its child writes, after it returned
  local up = pcall(M.eventually, function() return M.exists(pid_file) and M.read(pid_file):find "%d\n" end)
  assert(up, "nginx did not come up: " .. M.run("cat " .. self.folder .. "/error.log; ls -la " .. self.folder))
  self.pid = M.read(pid_file):match("%d+")
  self.http = "http://127.0.0.1:" .. self.http_port
  self.https = "https://localhost:" .. self.https_port
  return self
end

-- A port that nobody listened to a moment ago.
local function free_port() return math.random(10000, 59000) end

-- Starts a server in the foreground, on a port that it prefers; 'command' makes its command
-- of a folder and a port, and 'answers' is asked until it is up.
local function start(command, answers)
  for _ = 1, 20 do
    local self = setmetatable({ folder = M.temporary_folder(), port = free_port() }, Server)
    self.pid = M.run_ok(("%s >%s/out 2>&1 & echo $!"):format(command(self.folder, self.port), self.folder)):match "%d+"
    local up = pcall(M.eventually, function()
      if M.run("kill -0 " .. self.pid .. " 2>/dev/null || echo gone") ~= "" then error "gone" end
      return answers(self)
    end)
    if up then return self end
    self:stop()
  end
  error "the server did not come up"
end

-- True if something listens to a port.
local function listens(self)
  return M.run(("(exec 3<>/dev/tcp/127.0.0.1/%d) 2>/dev/null && echo yes"):format(self.port):gsub("^", "bash -c '") .. "'") ~= ""
end

--- Caddy, with TLS and HTTP/2 at 'https', serving 'www' in its folder; nil where it is not.
function M.caddy()
  local program = M.root .. "/build/tools/usr/bin/caddy"
  if not M.exists(program) then return nil end
  local self = start(function(folder, port)
    M.run_ok("mkdir " .. folder .. "/www")
    M.certificates(folder)
    M.write(folder .. "/Caddyfile", ([[
      {
        admin off
        auto_https disable_redirects
        storage file_system %s/state
      }
      https://localhost:%d {
        tls %s/server.pem %s/server.key
        root * %s/www
        encode zstd gzip
        file_server
        log {
          output file %s/access.log
        }
      }]]):format(folder, port, folder, folder, folder, folder))
    return ("HOME=%s XDG_DATA_HOME=%s exec %s run --config %s/Caddyfile --adapter caddyfile"):format(folder, folder, program, folder)
  end, listens)
  self.ca, self.https = self.folder .. "/ca.pem", "https://localhost:" .. self.port
  return self
end

--- Tinyproxy, which asks for a user and a password.
function M.tinyproxy()
  local self = start(function(folder, port)
    M.write(folder .. "/conf", ([[
Port %d
Listen 127.0.0.1
Timeout 60
MaxClients 20
LogFile "%s/access.log"
LogLevel Connect
BasicAuth proxied s3cret
]]):format(port, folder))
    return ("exec tinyproxy -d -c %s/conf"):format(folder)
  end, listens)
  self.at = "127.0.0.1:" .. self.port
  return self
end

--- The server of spec/support/misbehave.lua; see there for its paths.
function M.misbehaving()
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  local out = self.folder .. "/out"
  self.pid = M.run_ok(("lua5.4 %s/spec/support/misbehave.lua >%s 2>&1 & echo $!"):format(M.root, out)):match("%d+")
  M.eventually(function() return M.exists(out) and M.read(out):find("\n") end)
  self.ports = {}
  for port in M.read(out):gmatch "%d+" do self.ports[#self.ports + 1] = port end
  self.port = assert(self.ports[8] and self.ports[1], M.read(out))
  self.http = "http://127.0.0.1:" .. self.port
  return self
end

--- The registry of spec/support/bad_registry.lua; see there for its repositories. 'log' gives
-- the requests since the last call.
function M.bad_registry()
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  local out = self.folder .. "/out"
  self.pid = M.run_ok(("%s %s/spec/support/bad_registry.lua >%s 2>&1 & echo $!"):format(M.lua, M.root, out)):match "%d+"
  M.eventually(function() return M.exists(out) and M.read(out):find "\n" end)
  self.at = "127.0.0.1:" .. assert(M.read(out):match "^(%d+)%s", M.read(out))
  function self.log(server) return M.run_ok("curl -s http://" .. server.at .. "/log") end
  return self
end

--- The server of spec/support/stub.lua; see there for its paths. 'ports' are its two.
function M.stub()
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  local out = self.folder .. "/out"
  self.pid = M.run_ok(("lua5.4 %s/spec/support/stub.lua >%s 2>&1 & echo $!"):format(M.root, out)):match "%d+"
  M.eventually(function() return M.exists(out) and M.read(out):find "\n" end)
  self.ports = { M.read(out):match "^(%d+) (%d+)\n" }
  self.at = "127.0.0.1:" .. assert(self.ports[1], M.read(out))
  self.http, self.elsewhere = "http://" .. self.at, "http://127.0.0.1:" .. self.ports[2]
  return self
end

--- The S3 server of spec/support/s3_stub.py, with a bucket "bucket" in us-east-1; see there
-- for its orders, which 'control' gives: it returns the server's objects. 'settings' are
-- those of a client that it knows.
function M.s3_stub()
  local json = require "cjson"
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  local out = self.folder .. "/out"
  self.pid = M.run_ok(("exec python3 %s/spec/support/s3_stub.py %s >%s 2>&1 & echo $!"):format(M.root, self.folder, out)):match "%d+"
  M.eventually(function() return M.exists(out) and M.read(out):find "\n" end)
  self.at = "127.0.0.1:" .. assert(M.read(out):match "^(%d+)\n", M.read(out))
  self.settings = { endpoint = "http://" .. self.at, region = "us-east-1", access_key_id = "AKIDEXAMPLE",
    secret_access_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" }
  function self.control(server, orders)
    local order = M.write(server.folder .. "/order", orders and json.encode(orders) or "{}")
    return json.decode(M.run_ok(("curl -sf --data-binary @%s http://%s/_control"):format(order, server.at))).objects
  end
  --- The lines of the log since the last call.
  function self.log(server)
    local lines, n = {}, 0
    for line in io.lines(server.folder .. "/access.log") do
      n = n + 1
      if n > (server.seen or 0) then lines[#lines + 1] = line end
    end
    server.seen = n
    return lines
  end
  --- How many requests the log has since the last call, by a pattern.
  function self.asked(server, pattern)
    local n = 0
    for _, line in ipairs(server:log()) do
      if line:find(pattern) then n = n + 1 end
    end
    return n
  end
  --- The objects below a folder of the bucket, by the rest of their keys.
  function self.below(server, prefix)
    local all = {}
    for name, object in pairs(server:control {} .bucket) do
      if name:sub(1, #prefix + 1) == prefix .. "/" then all[name:sub(#prefix + 2)] = object end
    end
    return all
  end
  return self
end

--- The services of spec/support/s3_credentials.py, which tell credentials that 's3_stub' knows.
function M.s3_credentials()
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  local out = self.folder .. "/out"
  self.pid = M.run_ok(("exec python3 %s/spec/support/s3_credentials.py %s >%s 2>&1 & echo $!"):format(M.root, self.folder, out))
    :match "%d+"
  M.eventually(function() return M.exists(out) and M.read(out):find "\n" end)
  self.at = "127.0.0.1:" .. assert(M.read(out):match "^(%d+)\n", M.read(out))
  function self.control(services, order)
    os.remove(services.folder .. "/slow")
    if order then M.write(services.folder .. "/" .. order, "") end
  end
  return self
end

--- Debian's docker-registry, in a folder of its own: "open", "htpasswd", or "token" with
-- spec/support/tokens.lua ('tokens', a server too), whose tokens live 'life' seconds. The
-- last two know alice with the password s3cret; with tokens, anonymous clients may pull.
function M.registry(mode, life)
  local tokens
  if mode == "token" then
    tokens = start(function(folder, port)
      M.run_ok(("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout %s/token.key -out %s/token.crt -subj /CN=tokens 2>/dev/null")
        :format(folder, folder))
      M.write(folder .. "/access.log", "")
      return ("exec lua5.4 %s/spec/support/tokens.lua %d %s %d"):format(M.root, port, folder, life or 60)
    end, listens)
    tokens.at = "127.0.0.1:" .. tokens.port
  end
  local self = start(function(folder, port)
    local auth = ""
    if mode == "htpasswd" then
      M.run_ok(("htpasswd -Bbn alice s3cret > %s/htpasswd"):format(folder))
      auth = ("auth:\n  htpasswd: {realm: here, path: %s/htpasswd}\n"):format(folder)
    elseif mode == "token" then
      auth = ('auth:\n  token: {realm: "http://%s/token", service: here, issuer: tokens, rootcertbundle: %s/token.crt}\n')
        :format(tokens.at, tokens.folder)
    end
    M.write(folder .. "/config.yml", ([[
version: 0.1
log: {level: warn, accesslog: {disabled: false}}
storage:
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: %s/data}
  delete: {enabled: true}
http: {addr: "127.0.0.1:%d"}
%s]]):format(folder, port, auth))
    return ("unset AWS_CA_BUNDLE; exec docker-registry serve %s/config.yml"):format(folder)
  end, listens)
  self.at, self.tokens = "127.0.0.1:" .. self.port, tokens
  self.http = "http://" .. self.at
  return self
end

--- A TCP relay (spec/support/relay.lua) to a port, whose first connections fail as
-- 'fault' says: "silent", "reset" or "endless"; or they go to another port.
function M.relay(port, fault, count)
  local self = setmetatable({ folder = M.temporary_folder() }, Server)
  local out = self.folder .. "/out"
  self.pid = M.run_ok(("lua5.4 %s/spec/support/relay.lua %d %s %d >%s 2>&1 & echo $!"):format(M.root, port, fault, count,
    out)):match "%d+"
  M.eventually(function() return M.exists(out) and M.read(out):find "\n" end)
  self.port = assert(M.read(out):match "^(%d+)\n", M.read(out))
  return self
end

--- The process id of this process.
function M.pid()
  local file = io.open("/proc/self/stat")
  local pid = file:read("n")
  file:close()
  return pid
end

--- How many files, threads and blobs this process has, without garbage. The library's own
-- threads, which it keeps for a while, do not count.
function M.holdings()
  collectgarbage()
  collectgarbage()
  local _, files = M.run_ok("ls /proc/" .. M.pid() .. "/fd"):gsub("\n", "\n")
  local threads = 0
  for name in M.run_ok("cat /proc/" .. M.pid() .. "/task/*/comm"):gmatch "[^\n]+" do
    if not name:find "^theaterref%-" then threads = threads + 1 end
  end
  return { files = files, threads = threads, blobs = require("theaterref.core").live_blobs() }
end

--- Waits until this process has no more of these than it had before.
function M.holds_no_more(before, ...)
  local names = { ... }
  M.eventually(function()
    local now = M.holdings()
    for _, name in ipairs(names) do
      if now[name] > before[name] then return false end
    end
    return true
  end)
end

function Server:put(name, text)
  M.write(self.folder .. "/www/" .. name, text)
  M.run_ok("chmod 644 " .. quote(self.folder .. "/www/" .. name))
end

return M
