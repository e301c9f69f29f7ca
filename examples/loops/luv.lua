-- A fetch in a luv program (libuv): timers go on while it is under way.
-- Usage: lua5.4 luv.lua URL
local uv = require "luv"
local theaterref = require "theaterref"

local future = assert(theaterref.resolver():start(arg[1]))
local watcher, ticker, ticks = uv.new_poll(future:pollfd()), uv.new_timer(), 0

ticker:start(0, 5, function() ticks = ticks + 1 end)

watcher:start("r", function()
  -- The descriptor is the future's: stop watching it before the future goes.
  watcher:close()
  ticker:close()
  print(#assert(future:wait(0)) .. " bytes")
  print(ticks .. " ticks meanwhile")
end)

uv.run()
