-- The soak test: eight threads do everything at once for some seconds, while networks, servers
-- and disks fail. It then checks that nothing is left. Usage: make soak T=3600
local process = require "process"
local preloaded = os.getenv "LD_PRELOAD" ~= nil
process.unset "LD_PRELOAD" -- the servers' calls must not fail
local core = require "theaterref.core"
local heap = require "heap"
local helper = require "helper"
local measure = require "measure"
local theaterref = require "theaterref"
local threads = require "threads"

local seconds = tonumber(arg[1]) or 120
local THREADS, WARM_UP = 8, 3
local FILES = 12

local function serialized(value)
  if type(value) ~= "table" then return ("%q"):format(value) end
  local fields = {}
  for name, field in pairs(value) do fields[#fields + 1] = ("[%q]=%s"):format(name, serialized(field)) end
  return "{" .. table.concat(fields, ",") .. "}"
end

-- Files, manifests and modules, which the workers know by their digests.
local function fill(world, web)
  world.files, world.modules = {}, {}
  helper.run_ok(("mkdir -p %s"):format(world.local_actors))
  for i = 1, FILES do
    local bytes = ("file %d "):format(i):rep(i == FILES and 200000 or i * i * 40)
    world.files[i] = { name = "file" .. i, size = #bytes, sha256 = core.digest(bytes) }
    web:put("file" .. i, bytes)
    web:put(("manifest%d.toml"):format(i), ('name = "actor-{{who}}"\npackage = "file%d"\nstatic_package = true\n'):format(i)
      .. 'init_state = "state.json"\n')
  end
  web:put("state.json", '{"port":80,"who":"nobody"}')
  for i = 1, 4 do
    local bytes = helper.module(("module %d "):format(i):rep(i * 1000))
    world.modules[i] = core.digest(bytes)
    helper.write(("%s/module%d.wasm"):format(world.local_actors, i), bytes)
    helper.write(("%s/manifest%d.toml"):format(world.local_actors, i), ('name = "pushed"\npackage = "module%d.wasm"\n'):format(i))
    web:put("mutable" .. i, ("%d 0 "):format(i))
  end
end

-- Everything that the workers and the chaos use: servers, folders and files.
local function make_world()
  local folder = helper.temporary_folder()
  local web, bad, registry = helper.nginx(), helper.misbehaving(), helper.registry "open"
  local world = { folder = folder, home = folder .. "/home", http = web.http, https = web.https, ca = web.ca, www = web.folder .. "/www",
    misbehaving = bad.http, registry = registry.at, nginx = web.folder, registry_folder = registry.folder,
    local_actors = folder .. "/actors", seed = os.time(), preloaded = preloaded }
  world.start_nginx = ("nginx -c %s/nginx.conf -e %s/error.log"):format(web.folder, web.folder)
  world.start_registry = ("{ docker-registry serve %s/config.yml >/dev/null 2>&1 & echo $! > %s/pid; }"):format(registry.folder,
    registry.folder)
  fill(world, web)
  -- Logs of hours would fill the disk.
  helper.run_ok(("sed -i 's,access_log [^;]*;,access_log off;,; s,error_log [^;]*;,error_log /dev/null crit;,' %s/nginx.conf"):format(web.folder))
  helper.run_ok(("sed -i 's/disabled: false/disabled: true/; s/level: warn/level: error/' %s/config.yml"):format(registry.folder))
  helper.run_ok(("kill $(cat %s/nginx.pid); while test -e %s/nginx.pid; do sleep 0.02; done; %s"):format(web.folder, web.folder,
    world.start_nginx))
  helper.run_ok(("kill %s; while kill -0 %s 2>/dev/null; do sleep 0.02; done; %s"):format(registry.pid, registry.pid,
    world.start_registry))
  local function stop()
    web.pid, registry.pid = helper.read(web.folder .. "/nginx.pid"):match "%d+", helper.read(registry.folder .. "/pid"):match "%d+"
    helper.run(("test -e %s/relay.pid && kill $(cat %s/relay.pid)"):format(folder, folder))
    for _, server in ipairs { web, bad, registry } do server:stop() end
    helper.remove(folder)
  end
  return world, setmetatable({}, { __close = stop })
end

-- Runs the workers, and with 'max_bytes' the chaos. Returns what was done, by worker.
local function run(world, time, max_bytes)
  local chunk = ([[
    local number = ...
    local world = %s
    if number <= %d then return require "thread"(number, world, %d) end
    return function()
      local faults, most = require("chaos").run(world, %d, %d)
      return ("faults=%%d\nresident=%%d"):format(faults, most >> 20)
    end]]):format(serialized(world), THREADS, time, time, max_bytes or 0)
  local counts = {}
  for _, result in ipairs((threads.run(max_bytes and THREADS + 1 or THREADS, chunk))) do
    for name, count in result:gmatch "([^\n]+)=(%d+)" do counts[name] = (counts[name] or 0) + tonumber(count) end
  end
  return counts
end

local function count_lines(command) return select(2, helper.run_ok(command):gsub("\n", "")) end

-- Returns the things that the process holds once everything has stopped.
local function holdings()
  for _, name in ipairs { "soak", "theaterref.follow" } do
    local cache = theaterref.resource_cache { name = name }
    cache:clear()
    cache:close()
  end
  collectgarbage()
  collectgarbage()
  process.shutdown(("%s/%s/lib/theaterref/core.so"):format(helper.root, helper.build))
  local held = {}
  -- Threads of look-ups and hashes end by themselves after some seconds.
  pcall(helper.eventually, function()
    held.threads = count_lines "ls /proc/$PPID/task"
    process.pause(0.1)
    return held.threads == 1
  end)
  held.descriptors = count_lines "ls /proc/$PPID/fd"
  held.blobs, held.heap = core.live_blobs(), process.heap()
  return held
end

-- Prints what was done: by worker, the steps that succeeded, those that failed by kind of error, and their seconds.
local function report(counts)
  local names = {}
  for name in pairs(require "workers") do names[#names + 1] = name end
  table.sort(names)
  print(("%-12s %9s %9s  %s"):format("worker", "steps", "seconds", "failed"))
  for _, name in ipairs(names) do
    local failed = {}
    for key, count in pairs(counts) do
      local worker, kind = key:match "^(.*): (.*)$"
      if worker == name then failed[#failed + 1] = count .. " " .. kind end
    end
    table.sort(failed)
    print(("%-12s %9d %9.0f  %s"):format(name, counts[name] or 0, (counts[name .. ", ms"] or 0) / 1000, table.concat(failed, ", ")))
  end
  print(("%d faults; at most %d MiB resident"):format(counts.faults, counts.resident))
  for _, name in ipairs(names) do assert(counts[name], name .. " never succeeded") end
end

local function main()
  local world <const>, servers <close> = make_world()
  if helper.sanitizers == "" then heap.run(world, math.min(1, seconds / 1800)) end
  run(world, WARM_UP)
  local before = holdings()
  local counts = run(world, seconds, (measure.resident() + (256 << 20)) * (helper.sanitizers ~= "" and 8 or 1))
  local after = holdings()
  report(counts)
  for _, name in ipairs { "threads", "descriptors", "blobs", "heap" } do
    print(("%-12s before %d, after %d"):format(name, before[name], after[name]))
  end
  for _, name in ipairs { "threads", "descriptors", "blobs" } do
    assert(after[name] <= before[name], name .. " are left")
  end
  assert(helper.sanitizers ~= "" or after.heap - before.heap <= 4 << 20, "the heap has grown")
  assert(servers)
end

main()
