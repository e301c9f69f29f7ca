-- A thread of the soak test: steps of all workers, in random order, for some seconds.
local core = require "theaterref.core"
local workers = require "workers"

-- How often each worker has its turn, beside the others. Workers that are not listed: once.
local weights = { resolve = 8, mutable = 4, plan = 4, label = 3, store = 3, misbehaving = 2, follow = 4, derive = 2 }

return function(number, world, seconds)
  math.randomseed(world.seed, number)
  local names, steps, counts = {}, {}, {}
  for name in pairs(workers) do names[#names + 1] = name end
  table.sort(names)
  local turns = {}
  for _, name in ipairs(names) do
    steps[name] = workers[name](world, number)
    for _ = 1, weights[name] or 1 do turns[#turns + 1] = name end
  end
  return function()
    local till = core.now() + seconds
    while core.now() < till do
      local name = turns[math.random(#turns)]
      local started = core.now()
      local ok, failure = xpcall(steps[name], function(raised) return debug.traceback(tostring(raised)) end)
      local ms = name .. ", ms"
      counts[ms] = (counts[ms] or 0) + math.floor((core.now() - started) * 1000)
      if not ok then
        io.stderr:write(os.date "%H:%M:%S", " thread ", number, ", ", name, ": ", failure, "\n")
        error(name .. ": " .. failure, 0)
      end
      local key = name .. (failure and ": " .. failure or "")
      counts[key] = (counts[key] or 0) + 1
    end
    local lines = {}
    for key, count in pairs(counts) do lines[#lines + 1] = key .. "=" .. count end
    return table.concat(lines, "\n")
  end
end
