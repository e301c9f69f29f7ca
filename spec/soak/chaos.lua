-- The faults of the soak test: servers that are killed, stopped and restarted, connections that
-- break, and disks that fail. One thread injects them, and watches the memory.
local has_faults, faults = pcall(require, "faults")
local helper = require "helper"
local measure = require "measure"
local process = require "process"

local M = {}

local calls = { { "write file", "ENOSPC" }, { "write file", "EIO" }, { "write file", "SHORT" }, { "new file", "EROFS" },
  { "new file", "ENOSPC" }, { "fsync", "EIO" }, { "syncfs", "EIO" }, { "renameat", "EIO" }, { "openat", "EMFILE" }, { "open", "EMFILE" },
  { "flock", "ENOLCK" }, { "unlinkat", "EIO" }, { "mkdirat", "ENOSPC" }, { "mmap", "EINVAL" }, { "futimens", "EIO" },
  { "pread", "EIO" }, { "tmpfile", "EOPNOTSUPP" } }

-- A system call fails for some milliseconds.
function M.disk()
  local call = calls[math.random(#calls)]
  faults.fail(call[1], call[2], math.random(20))
  process.pause(math.random(5, 50) / 1000)
  faults.stop()
end

-- nginx loses its worker, or stands still, or is restarted.
function M.web(world)
  local dice = math.random(3)
  if dice == 1 then
    helper.run(("pkill -9 -P $(cat %s/nginx.pid)"):format(world.nginx))
  elseif dice == 2 then
    helper.run(("w=$(pgrep -P $(cat %s/nginx.pid)); kill -STOP $w; sleep 0.7; kill -CONT $w"):format(world.nginx))
  else
    helper.run(("kill $(cat %s/nginx.pid); while test -e %s/nginx.pid; do sleep 0.02; done; sleep 0.2; %s"):format(world.nginx,
      world.nginx, world.start_nginx))
  end
end

-- The registry is killed, and comes back.
function M.registry(world)
  helper.run(("kill -9 $(cat %s/pid); sleep 0.3; %s"):format(world.registry_folder, world.start_registry))
end

-- A new relay, whose first connections break.
function M.relay(world)
  local fault = ({ "reset", "silent", "endless" })[math.random(3)]
  helper.run(("test -e %s/relay.pid && kill $(cat %s/relay.pid); lua5.4 spec/support/relay.lua %s %s %d > %s/relay 2>/dev/null & echo $! > %s/relay.pid")
    :format(world.folder, world.folder, world.http:match "%d+$", fault, math.random(5), world.folder, world.folder))
end

--- Injects faults for some seconds. Raises if the process takes more memory than 'max_bytes'.
function M.run(world, seconds, max_bytes)
  local list = { M.web, M.registry, M.relay }
  if has_faults and world.preloaded then list[#list + 1], list[#list + 2], list[#list + 3] = M.disk, M.disk, M.disk end
  local till, count, most = os.time() + seconds, 0, 0
  M.relay(world)
  while os.time() < till do
    list[math.random(#list)](world)
    count = count + 1
    most = math.max(most, measure.resident())
    if most > max_bytes then error(("the process takes %d MiB"):format(most >> 20)) end
    process.pause(0.3)
  end
  return count, most
end

return M
