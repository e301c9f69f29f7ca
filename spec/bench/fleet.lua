-- A fleet that starts one release: how many requests per host reach the registry. Each host is a process with a home of
-- its own; all start at once.
local helper = require "helper"

local M = {}

local HOSTS = tonumber(os.getenv "HOSTS") or 20
local PACKAGE_BYTES = 4 << 20

-- Reads the requests to a registry since the last call: of documents, blobs by GET, blobs by HEAD, the API, and tokens.
local seen = {}
local function requests(registry)
  local counts = { documents = 0, blobs = 0, heads = 0, api = 0, tokens = 0 }
  for _, log in ipairs { registry.folder .. "/out", registry.tokens and registry.tokens.folder .. "/access.log" } do
    local number = 0
    for line in io.lines(log) do
      number = number + 1
      local method, path, status = line:match '"(%u+) (/v2/%S*) HTTP[^"]*" (%d+)'
      local kind = not method and log:find "access.log$" and "tokens" or not path and "" or path:find "/blobs/"
        and (method == "GET" and "blobs" or "heads") or path:find "/manifests/" and "documents" or "api"
      if number > (seen[log] or 0) and counts[kind] and (status ~= "401" or kind == "api") then counts[kind] = counts[kind] + 1
      elseif number > (seen[log] or 0) and status == "401" then counts.challenges = (counts.challenges or 0) + 1 end
    end
    seen[log] = number
  end
  return counts
end

-- Starts a plan on every host at once. Returns the seconds it took.
local function start_all(folder, ref, environment)
  local started = os.time()
  local config = helper.root .. "/examples/fleet/theaterref.conf.lua"
  helper.run_ok(("for i in $(seq %d); do %s THEATER_HOME=%s/host-$i theaterref plan %s --config %s >%s/out-$i 2>&1 & done; wait"):format(
    HOSTS, environment, folder, ref, config, folder))
  for i = 1, HOSTS do
    local out = helper.read(("%s/out-%d"):format(folder, i))
    assert(out:find("name           worker", 1, true), out)
  end
  return os.time() - started
end

local function per_host(count) return count == 0 and "0" or ("%.2f"):format(count / HOSTS) end

local function show(what, counts)
  print(("| %-47s | %9s | %8s | %8s | %6s | %10s | %6s |"):format(what, per_host(counts.documents), per_host(counts.blobs),
    per_host(counts.heads), per_host(counts.api), per_host(counts.challenges or 0), per_host(counts.tokens)))
end

local function measure_all(folder, origin, guarded)
  local port = math.random(10000, 59000)
  helper.run_ok("chmod 755 " .. folder)
  helper.run_ok(("examples/fleet/fleet.sh start %s/fleet %s %d %d"):format(folder, origin.http, port, port + 1))
  helper.write(folder .. "/manifest.toml", 'name = "worker"\npackage = "worker.wasm"\n')
  helper.write(folder .. "/worker.wasm", helper.module(("x"):rep(PACKAGE_BYTES)))
  local theaterref = require "theaterref"
  local known = { username = "alice", password = "s3cret", realm_hosts = { guarded.tokens.at } }
  local r = theaterref.resolver { log = false, registries = { [guarded.at] = known } }
  local ref, guarded_ref = ("oci://%s/team/worker:1"):format(origin.at), ("oci://%s/team/worker:1"):format(guarded.at)
  for _, target in ipairs { ref, guarded_ref } do assert(r:push(folder .. "/manifest.toml", target)) end
  local config = helper.write(folder .. "/lock.conf.lua", ("return { registries = { [%q] = { realm_hosts = { %q } } } }"):format(
    guarded.at, guarded.tokens.at))
  local push_config = helper.write(folder .. "/push.conf.lua", ("return { registries = { [%q] = { username = 'alice', "
    .. "password = 's3cret', realm_hosts = { %q } } } }"):format(guarded.at, guarded.tokens.at))
  for name, target in pairs { open = ref, guarded = guarded_ref } do
    helper.run_ok(("theaterref lock %s -o %s/%s.lock --config %s"):format(target, folder, name, config))
  end
  local via = ("FLEET_MIRROR=127.0.0.1:%d FLEET_REGISTRY=%s"):format(port, origin.at)
  local direct = ("FLEET_REGISTRY=%s FLEET_REALM=%s"):format(guarded.at, guarded.tokens.at)
  print(("\nA fleet of %d hosts starts one release of a manifest and a package: requests per host that reach the registry\n"):format(HOSTS))
  print("| start                                           | documents | blobs    | HEAD     | /v2/   | challenges | tokens |")
  print("|-------------------------------------------------|-----------|----------|----------|--------|------------|--------|")
  local function measure(what, registry, target, environment, keep)
    if not keep then helper.run_ok(("rm -rf %s/host-*"):format(folder)) end
    requests(registry)
    start_all(folder, target, environment)
    show(what, requests(registry))
  end
  measure("cold, from a registry with tokens", guarded, guarded_ref, direct)
  measure("warm, from a registry with tokens", guarded, guarded_ref, direct, true)
  measure("cold, locked, from a registry with tokens", guarded, guarded_ref, direct .. (" FLEET_LOCKFILE=%s/guarded.lock"):format(folder))
  measure("warm, locked, with a cache_scope", guarded, guarded_ref, direct .. (" FLEET_LOCKFILE=%s/guarded.lock"):format(folder), true)
  measure("cold, through the mirror and its cache of blobs", origin, ref, via)
  measure("the same again, on other hosts", origin, ref, via)
  measure("cold, locked, through the mirror", origin, ref, via .. (" FLEET_LOCKFILE=%s/open.lock"):format(folder))
  -- The mirror without nginx between it and the registry.
  helper.run_ok(("mkdir %s/bare && sed 's|FOLDER|%s/bare|; s|MIRROR|%d|; s|127.0.0.1:BLOBS|%s|' examples/fleet/mirror.yml > %s/bare.yml"):format(
    folder, folder, port + 2, origin.at, folder))
  local pid = helper.run_ok(("docker-registry serve %s/bare.yml >%s/bare.log 2>&1 & echo $!"):format(folder, folder)):match "%d+"
  local up = pcall(helper.eventually, function()
    return (select(3, helper.run(("curl -s http://127.0.0.1:%d/v2/"):format(port + 2)))) == 0
  end)
  assert(up, helper.read(folder .. "/bare.log"))
  helper.write(folder .. "/bare.pid", pid)
  measure("cold, through a bare pull-through registry", origin, ref, ("FLEET_MIRROR=127.0.0.1:%d FLEET_REGISTRY=%s"):format(port + 2,
    origin.at))
  -- A deploy is one process, not one for each host.
  for _, what in ipairs { "a release with a new package", "the same again" } do
    helper.write(folder .. "/worker.wasm", helper.module(("y"):rep(PACKAGE_BYTES)))
    requests(guarded)
    helper.run_ok(("theaterref push %s/manifest.toml %s --config %s"):format(folder, guarded_ref, push_config))
    local total = 0
    for _, count in pairs(requests(guarded)) do total = total + count end
    print(("\npush of %s: %d requests"):format(what, total))
  end
end

function M.run()
  local folder, origin, guarded = helper.temporary_folder(), helper.registry "open", helper.registry "token"
  local ok, why = xpcall(measure_all, debug.traceback, folder, origin, guarded)
  helper.run("examples/fleet/fleet.sh stop " .. folder .. "/fleet")
  helper.run(("kill $(cat %s/bare.pid)"):format(folder))
  origin:stop()
  guarded:stop()
  helper.remove(folder)
  assert(ok, why)
end


return M
