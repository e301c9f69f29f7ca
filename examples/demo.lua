-- Plans a spawn of the actor in examples/actor three ways: from its file, from
-- a content store, and over HTTPS from a local nginx; each twice, to show the
-- second plan hitting the cache. Then runs the package that came back.
local theaterref = require "theaterref"

local here = arg[0]:match("^(.*)/[^/]*$") or "."

local function shell(command)
  local ok, _, status = os.execute(command)
  assert(ok, command .. " failed with status " .. tostring(status))
end

local function capture(command)
  local pipe = assert(io.popen(command))
  local out = pipe:read("a")
  pipe:close()
  return out
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

local folder = capture("mktemp -d"):match("[^\n]+")
local nginx_pid

-- A web server with a certificate of a CA made for the occasion.
local function start_nginx()
  shell("chmod 755 " .. folder .. " && cp -r " .. here .. "/actor " .. folder .. "/www && chmod -R a+rX " .. folder .. "/www")
  shell(([[cd %s && {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=demo -keyout key.pem \
      -out cert.pem -addext subjectAltName=DNS:localhost; } 2>/dev/null]]):format(folder))
  for port = 42000 + os.time() % 5000, 48000 do
    write(folder .. "/nginx.conf", ([[pid %s/nginx.pid; error_log %s/error.log; events {}
      http { access_log off; server { listen 127.0.0.1:%d ssl http2; root %s/www;
        ssl_certificate %s/cert.pem; ssl_certificate_key %s/key.pem; } }]])
      :format(folder, folder, port, folder, folder, folder))
    if os.execute(("nginx -c %s/nginx.conf -e %s/error.log 2>/dev/null"):format(folder, folder)) then
      nginx_pid = capture("cat " .. folder .. "/nginx.pid"):match("%d+")
      return "https://localhost:" .. port
    end
  end
  error("no free port for nginx")
end

local function show(plan)
  print(("  actor      %s"):format(plan.name))
  print(("  package    %s (%d bytes)"):format(plan.package_reference, #plan.package))
  print(("  state      %s"):format(plan.initial_state))
  print(("  cache      %s"):format(plan.cache_hit and "hit" or plan.used_cache and "miss, kept from now on" or "not used"))
  for _, phase in ipairs(plan.phases) do
    print(("    %-9s %8.3f ms  %5d bytes"):format(phase.name, phase.seconds * 1000, phase.bytes))
  end
end

local function demo()
  local url = start_nginx()
  local home = folder .. "/theater"
  local store = assert(theaterref.content_store("demo", { home = home }))
  for _, name in ipairs { "greeter.wasm", "manifest.toml" } do
    assert(store:store_at_label("actors/" .. name, assert(theaterref.resolve_reference(here .. "/actor/" .. name))))
  end
  local resolver = assert(theaterref.resolver {
    policy = here .. "/actor/spawn_policy.lua",
    cache = theaterref.resource_cache { name = "packages", max_bytes = 256 << 20 },
    home = home,
    ca_file = folder .. "/cert.pem",
  })
  local package
  for _, way in ipairs {
    { "a file", here .. "/actor/manifest.toml" },
    { "a content store", "store://demo/actors/manifest.toml" },
    { "HTTPS", url .. "/manifest.toml" },
  } do
    for _, turn in ipairs { "first", "second" } do
      print(("\nFrom %s, the %s time: %s"):format(way[1], turn, way[2]))
      local plan = assert(resolver:plan(way[2], { initial_state = '{"port":9100}' }))
      assert(plan.cache_hit == (turn == "second"), "the cache did not do its part")
      show(plan)
      package = plan.package
    end
  end
  assert(package:write(folder .. "/actor.wasm"))
  print("\nwasm-interp, fed with the package:")
  io.stdout:write("  ", capture("wasm-interp --run-all-exports " .. folder .. "/actor.wasm"))
end

local ok, why = xpcall(demo, debug.traceback)
if nginx_pid then os.execute("kill " .. nginx_pid) end
shell("rm -rf " .. folder)
if not ok then
  io.stderr:write(tostring(why), "\n")
  os.exit(1)
end
