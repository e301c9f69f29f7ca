-- A fetch, or a plan, in a luv program (libuv): timers go on while it is under way.
-- Usage: lua5.4 luv.lua URL, or luv.lua --plan MANIFEST
local uv = require "luv"
local theaterref = require "theaterref"

if not arg[1] or arg[1] == "--plan" and not arg[2] then
  io.stderr:write "Usage: lua5.4 luv.lua URL, or luv.lua --plan MANIFEST\n"
  os.exit(2)
end

local resolver = assert(theaterref.resolver())
local future
if arg[1] == "--plan" then
  future = assert(resolver:start_plan(arg[2], { plan_timeout = 10 })) -- seconds
else
  future = assert(resolver:start(arg[1], { resolve_timeout = 10 }))
end
local watcher, ticker, ticks = uv.new_poll(future:pollfd()), uv.new_timer(), 0
local interrupt = uv.new_signal()

ticker:start(0, 5, function() ticks = ticks + 1 end)

-- Ctrl-C abandons the future; its descriptor becomes readable, since it is done.
interrupt:start("sigint", function() future:cancel() end)

watcher:start("r", function()
  -- The descriptor is readable at the deadline, too, and whenever the work can go on.
  if not future:done() then return end
  -- The descriptor is the future's: stop watching it before the future goes.
  watcher:close()
  ticker:close()
  interrupt:close()
  local result, err = future:wait(0)
  if not result then
    io.stderr:write(tostring(err), "\n")
    os.exit(1, true)
  end
  local bytes = arg[1] == "--plan" and result.package or result
  print(#bytes .. " bytes")
  print(ticks .. " ticks meanwhile")
end)

uv.run()
