-- Followers in a cqueues program: a coroutine for each reference prints a line whenever its content changes.
-- Usage: lua5.4 follow.lua REFERENCE…
local cqueues = require "cqueues"
local theaterref = require "theaterref"

if not arg[1] then
  io.stderr:write "Usage: lua5.4 follow.lua REFERENCE…\n"
  os.exit(2)
end

local loop = cqueues.new()
local resolver = assert(theaterref.resolver(assert(theaterref.config())))

local function follow(reference)
  local follower <close> = resolver:follow(reference, function(blob)
    print(reference, #blob .. " bytes", blob:digest())
    io.stdout:flush()
  end, { on_error = function(err) io.stderr:write(tostring(err), "\n") end })
  -- A follower has what cqueues polls by, and 'step' is false once it is closed.
  while follower:step() do cqueues.poll(follower) end
end

for _, reference in ipairs(arg) do
  loop:wrap(function() follow(reference) end)
end
assert(loop:loop())
