-- A fetch in a cqueues program: other coroutines go on while it is under way.
-- Usage: lua5.4 cqueues.lua URL
local cqueues = require "cqueues"
local theaterref = require "theaterref"

if not arg[1] then
  io.stderr:write "Usage: lua5.4 cqueues.lua URL\n"
  os.exit(2)
end

local loop = cqueues.new()
local fetching, ticks = true, 0

loop:wrap(function()
  local future = assert(theaterref.resolver():start(arg[1]))
  -- A future has what cqueues polls by. Each wake-up lets it go on, and may not be the last.
  while not future:done() do cqueues.poll(future) end
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
