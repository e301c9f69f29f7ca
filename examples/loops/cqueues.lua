-- A fetch in a cqueues program: other coroutines go on while it is under way.
-- Usage: lua5.4 cqueues.lua URL
local cqueues = require "cqueues"
local theaterref = require "theaterref"

local loop = cqueues.new()
local fetching, ticks = true, 0

loop:wrap(function()
  local future = assert(theaterref.resolver():start(arg[1]))
  cqueues.poll(future) -- a future has what cqueues polls by
  print(#assert(future:wait(0)) .. " bytes")
  fetching = false
end)

loop:wrap(function()
  while fetching do
    ticks = ticks + 1
    cqueues.sleep(0.005)
  end
end)

assert(loop:loop())
print(ticks .. " ticks meanwhile")
