-- Which eviction? Hit ratios of SIEVE, which the cache uses, beside S3-FIFO,
-- LRU and FIFO on the same traces. SIEVE's are the cache's own, asked through
-- its API; the others are models of a few lines, here.
local theaterref = require "theaterref"
local core = require "theaterref.core"

local M = {}

-- ----------------------------------------------------------------- policies

-- A queue; items that went from its middle are skipped.
local function queue()
  local items, first, last = {}, 1, 0
  return {
    push = function(item) last = last + 1; items[last] = item end,
    pop = function()
      local item = items[first]
      items[first] = nil
      first = first + 1
      return item
    end,
    size = function() return last - first + 1 end,
  }
end

local function fifo(size)
  local order, held = queue(), {}
  return function(key)
    if held[key] then return true end
    if order.size() == size then held[order.pop()] = nil end
    held[key] = true
    order.push(key)
  end
end

local function lru(size)
  local order, stamp, count, now = queue(), {}, 0, 0
  return function(key)
    now = now + 1
    local hit = stamp[key]
    if not hit then
      if count == size then
        local oldest
        repeat oldest = order.pop() until stamp[oldest.key] == oldest.at
        stamp[oldest.key] = nil
      else
        count = count + 1
      end
    end
    stamp[key] = now
    order.push { key = key, at = now }
    return hit
  end
end

-- Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023:
-- a tenth for newcomers, and a ghost queue of those that were sent away.
local function s3_fifo(size)
  local small, main, ghost = queue(), queue(), queue()
  local uses, ghosts = {}, {}
  local small_size = math.max(1, size // 10)
  local function evict_main()
    while true do
      local key = main.pop()
      if uses[key] == 0 then uses[key] = nil return end
      uses[key] = uses[key] - 1
      main.push(key)
    end
  end
  local function evict()
    if small.size() < small_size and main.size() > 0 then return evict_main() end
    local key = small.pop()
    if uses[key] > 1 then
      main.push(key)
      uses[key] = 0
      if main.size() > size - small_size then evict_main() end
      return
    end
    uses[key] = nil
    ghost.push(key)
    ghosts[key] = (ghosts[key] or 0) + 1
    if ghost.size() > size - small_size then
      local old = ghost.pop()
      ghosts[old] = ghosts[old] > 1 and ghosts[old] - 1 or nil
    end
  end
  return function(key)
    if uses[key] then
      uses[key] = math.min(3, uses[key] + 1)
      return true
    end
    while small.size() + main.size() >= size do evict() end
    uses[key] = 0
    if ghosts[key] then main.push(key) else small.push(key) end
  end
end

local function sieve(size)
  local cache, blob = theaterref.resource_cache { max_entries = size, max_bytes = 0 }, core.blob "x"
  return function(key)
    local how, future = cache:claim(key)
    if how == "hit" then return true end
    future:complete(blob)
  end
end

-- ------------------------------------------------------------------- traces

-- Ranks 1 to n by Zipf's law with this exponent.
local function zipf(n, exponent)
  local sums, sum = {}, 0
  for i = 1, n do
    sum = sum + i ^ -exponent
    sums[i] = sum
  end
  return function()
    local wanted, low, high = math.random() * sum, 1, n
    while low < high do
      local middle = (low + high) // 2
      if sums[middle] < wanted then low = middle + 1 else high = middle end
    end
    return low
  end
end

local OBJECTS, REQUESTS = 10000, 200000

-- A list of keys; with 'scan', every fifth stretch of 1000 asks for what
-- nobody asks for again.
local function trace(exponent, scan)
  math.randomseed(20231023)
  local next_key, keys = zipf(OBJECTS, exponent), {}
  for i = 1, REQUESTS do
    local scanning = scan and i // 1000 % 5 == 4
    keys[i] = (scanning and "once" .. i) or "k" .. next_key()
  end
  return keys
end

local function hit_ratio(policy, size, keys)
  local request, hits = policy(size), 0
  for i = 1, #keys do
    if request(keys[i]) then hits = hits + 1 end
  end
  return hits / #keys
end

--- Prints the table.
function M.run()
  print(("\nEviction: hits of %d requests for %d objects, in percent\n"):format(REQUESTS, OBJECTS))
  print "| trace                       | entries |  SIEVE | S3-FIFO |    LRU |   FIFO |"
  print "|-----------------------------|---------|--------|---------|--------|--------|"
  for _, t in ipairs { { 0.7 }, { 1.0 }, { 1.2 }, { 1.0, true } } do
    local keys = trace(t[1], t[2])
    for _, size in ipairs { 100, 1000 } do
      local row = {}
      for i, policy in ipairs { sieve, s3_fifo, lru, fifo } do row[i] = 100 * hit_ratio(policy, size, keys) end
      print(("| Zipf %.1f%-19s | %7d | %6.1f | %7.1f | %6.1f | %6.1f |"):format(t[1],
        t[2] and ", a fifth scans" or "", size, table.unpack(row)))
    end
  end
end

return M
