-- A host in Lua: plans the spawn of a manifest's actor and runs its package.
--
--     lua5.4 spawn.lua MANIFEST [STATE]
--
-- The configuration (theaterref.conf.lua), if there is one, says under which policy.
local theaterref = require "theaterref"

local manifest, state = arg[1], arg[2]
if not manifest then
  io.stderr:write("usage: spawn.lua MANIFEST [STATE]\n")
  os.exit(2)
end

-- This is where a real host calls its WebAssembly engine.
local function run(package)
  local file = os.tmpname()
  assert(package:write(file))
  local ok = os.execute("wasm-interp --run-all-exports " .. file)
  os.remove(file)
  return ok
end

local function spawn()
  local options, plan, resolver, err
  options, err = theaterref.config()
  if options then resolver, err = theaterref.resolver(options) end
  if resolver then plan, err = resolver:plan(manifest, { initial_state = state }) end
  if not plan then return nil, err end
  print(plan.name .. " from " .. plan.package_reference)
  return run(plan.package), "the actor failed"
end

local ok, err = spawn()
if not ok then
  io.stderr:write("spawn: ", tostring(err), "\n")
  os.exit(1)
end
