-- How the heap grows: the memory in use after many fetches, plans and policy reloads, against
-- that after 1,000 of each.
local helper = require "helper"
local process = require "process"
local theaterref = require "theaterref"

local M = {}

local FIRST = 1000
local LIMIT = 4 << 20

-- The whole numbers of work: fetches, plans and reloads.
M.full = { fetches = 1000000, plans = 100000, reloads = 10000 }

local function in_use()
  collectgarbage()
  collectgarbage()
  return process.heap()
end

-- Fetches that many times, 16 at a time.
local function fetch(resolver, url, count)
  local refs = {}
  for i = 1, 16 do refs[i] = url end
  for _ = 1, count // #refs do
    local blobs, failures = resolver:resolve_all(refs)
    for i = 1, #refs do assert(blobs[i], failures[i]) end
  end
end

-- Changes the policy that many times, and has it answer.
local function reload(resolver, path, from, count)
  for i = from, from + count - 1 do
    -- A file that changes twice within a tick of the clock needs another size.
    helper.write(path, ("return { schemes = { version = function() return '%d' end } }"):format(i) .. (" "):rep(i % 20))
    assert(tostring(assert(resolver:resolve "version://now")) == tostring(i))
  end
end

--- Works 'share' of the whole numbers, but at least as much as the first time again. Raises if the heap grows by more
-- than 4 MiB.
function M.run(world, share)
  local numbers, done = {}, {}
  for name, whole in pairs(M.full) do numbers[name] = math.max(math.floor(whole * share), FIRST) end
  local policy, manifest = world.folder .. "/heap.lua", world.www .. "/manifest1.toml"
  helper.write(policy, "return {}")
  local fetcher, planner, scripted = theaterref.resolver { log = false }, theaterref.resolver { log = false },
    theaterref.resolver { log = false, policy = policy }
  local url = world.http .. "/" .. world.files[1].name
  local works = {
    fetches = function(count) fetch(fetcher, url, count) end,
    plans = function(count) for _ = 1, count do assert(planner:plan(manifest, { initial_state = '{"who":"1"}' })) end end,
    reloads = function(count) reload(scripted, policy, done.reloads or 0, count) end,
  }
  local function work(count_of)
    for _, name in ipairs { "fetches", "plans", "reloads" } do
      works[name](count_of(name))
      done[name] = (done[name] or 0) + count_of(name)
    end
    return in_use()
  end
  local before = work(function() return FIRST end)
  local after = work(function(name) return numbers[name] end)
  print(("heap: %.2f MiB after %d of each, %.2f MiB after %d fetches, %d plans and %d reloads more (limit: %d MiB more)"):format(
    before / (1 << 20), FIRST, after / (1 << 20), numbers.fetches, numbers.plans, numbers.reloads, LIMIT >> 20))
  assert(after - before <= LIMIT, "the heap has grown")
end

return M
