-- Keeps an actor running, and replaces it when its package changes: starts the new version, checks its health, and rolls
-- back to the last good version if that fails. It follows any reference: a file, a label, a URL, a tag in a registry.
--
--     lua5.4 supervisor.lua REFERENCE RUNTIME…
--
-- RUNTIME is the command that runs a package, such as 'wasm-interp'; the package's path is its last argument. An actor is
-- healthy once it has run for a second. One that ignores SIGTERM is killed. Deploy with:
--
--     theaterref store put STORE new.wasm --label LABEL
local uv = require "luv"
local theaterref = require "theaterref"

local HEALTHY_AFTER, KILL_AFTER, MAX_PAUSE = 1000, 2000, 30000 -- milliseconds

if not arg[2] then
  io.stderr:write "usage: supervisor.lua REFERENCE RUNTIME…\n"
  os.exit(2)
end

local follower, watcher
local good         -- the last package that was healthy
local actor        -- { package, handle, path, timer }: the one that runs
local starts = uv.new_timer()
local pause, stopping = 100, false

local function say(...) io.stderr:write(table.concat({ ... }, " "), "\n") end

local start

-- Ends an actor, and calls 'after' once its process is gone.
local function stop(old, after)
  if not old then return after() end
  if not old.after then
    old.handle:kill "sigterm"
    old.timer:start(KILL_AFTER, 0, function() old.handle:kill "sigkill" end)
  end
  old.after = after
end

-- Replaces whatever runs by a package.
local function replace(package)
  starts:stop()
  stop(actor, function() start(package) end)
end

-- An actor has ended: if nobody asked for that, starts it again, a little later each time; or, if it was never
-- healthy, the last good one.
local function ended(old, code)
  actor = nil
  os.remove(old.path)
  old.timer:close()
  old.handle:close()
  if old.after then return old.after() end
  if stopping then return end
  local next_package = old.package
  if not old.is_healthy and good and good ~= old.package then
    say("failed", old.package:digest(), "with status " .. code .. ", rolling back to", good:digest())
    next_package = good
  end
  starts:start(pause, 0, function() start(next_package) end)
  pause = math.min(pause * 2, MAX_PAUSE)
end

function start(package)
  local new = { package = package, path = os.tmpname(), timer = uv.new_timer() }
  assert(package:write(new.path))
  local arguments = table.move(arg, 3, #arg, 1, {})
  arguments[#arguments + 1] = new.path
  local pid
  new.handle, pid = uv.spawn(arg[2], { args = arguments, stdio = { nil, 1, 2 } }, function(code) ended(new, code) end)
  if not new.handle then
    say("cannot start", arg[2] .. ":", pid)
    os.remove(new.path)
    os.exit(1)
  end
  actor = new
  say("started", package:digest(), "as", pid)
  -- This is where a real host asks the actor whether it is well.
  new.timer:start(HEALTHY_AFTER, 0, function()
    new.is_healthy, good, pause = true, package, 100
    say("healthy", package:digest())
  end)
end

local function quit()
  stopping = true
  follower:close()
  watcher:close()
  starts:close()
  stop(actor, function() uv.stop() end)
end

local resolver = assert(theaterref.resolver(assert(theaterref.config())))
follower = assert(resolver:follow(arg[1], replace, { interval = 10 }))
watcher = uv.new_poll(follower:pollfd())
watcher:start("r", function() follower:step() end)
for _, signal in ipairs { "sigint", "sigterm" } do uv.new_signal():start(signal, quit) end
uv.run()
say "stopped"
