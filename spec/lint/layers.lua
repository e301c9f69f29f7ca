-- Checks that Lua modules require each other downwards only, and in no circle. Usage:
-- layers.lua FOLDER, which holds theaterref/.
local folder = arg[1] or "lua"

-- The layers, the upper first. A module belongs to the first pattern that fits.
local layers = { "%.cli%f[%W]", "^theaterref$", "%.resolver$", "%.plan$", "%.publish", "%.resolve%.", "%.policy", "%.config$", "%.cache$",
  "^theaterref%.reference$", "%.source%.", "%.manifest%.", "%.home$", "%.store%.", "%.log$", "" }

local function layer_of(module)
  for i, pattern in ipairs(layers) do
    if module:find(pattern) then return i end
  end
end

-- The modules that each one requires, also those that it loads later.
local requires = {}
local pipe = assert(io.popen(("cd '%s' && find theaterref -name '*.lua'"):format(folder)))
for path in pipe:lines() do
  local module = path:gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
  local found = {}
  for line in io.lines(folder .. "/" .. path) do
    for other in line:gsub("^%s*%-%-.*", ""):gmatch 'require ?%(?"(theaterref[%w_.]*[%w_])"' do found[other] = true end
  end
  requires[module] = found
end
assert(pipe:close() and next(requires), "there are no modules in " .. folder)

local faults, state, path = 0, {}, {}

local function fault(format, ...)
  faults = faults + 1
  print(format:format(...))
end

local function visit(module)
  if state[module] == "visited" then return end
  if state[module] then return fault("a circle: %s -> %s", table.concat(path, " -> "), module) end
  state[module] = "open"
  path[#path + 1] = module
  for other in pairs(requires[module] or {}) do
    if layer_of(other) < layer_of(module) then fault("%s requires %s, which is above it", module, other) end
    visit(other)
  end
  path[#path] = nil
  state[module] = "visited"
end

for module in pairs(requires) do visit(module) end
print(("layers of %s: %s"):format(folder, faults == 0 and "no faults" or faults .. " faults"))
os.exit(faults == 0)
