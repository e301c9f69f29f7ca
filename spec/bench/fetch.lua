-- Benchmarks of fetching. The bodies come from nginx on this machine.
local bare = require "bare"
local core = require "theaterref.core"
local helper = require "helper"
local measure = require "measure"
local ours = require "ours"
local theaterref = require "theaterref"

local compare, line, timed, title = measure.compare, measure.line, measure.timed, measure.title

local MIB = 1 << 20

local function rate(n, seconds) return ("%.0f /s"):format(n / seconds) end

-- A line from what both took for n fetches.
local function rates(work, n, mine, theirs, target)
  local a, b, ratio = compare(mine, theirs)
  line(work, rate(n, a), rate(n, b), 1 / ratio, target)
end

local function small_bodies(server, resolver)
  local url, n = server.https .. "/small", 8192
  title "HTTPS 1 KiB, requests per second; the baseline is a bare libcurl loop in C"

  local function easy() return bare.fetch(url, server.ca, n) end
  rates("one after another, C", n, function() return ours.fetch(url, server.ca, n, 1, true) end, easy, ">= 0.9")
  rates("one after another, Lua", n, function()
    return timed(function() for _ = 1, n do assert(resolver:resolve(url)) end end)
  end, easy, ">= 0.9")

  for _, at_once in ipairs { 16, 64 } do
    for _, sliding in ipairs { true, false } do
      rates(("%d at once, %s, C"):format(at_once, sliding and "a sliding window" or "in batches"), n,
        function() return ours.fetch(url, server.ca, n, at_once, sliding) end,
        function() return bare.multi(url, server.ca, n, at_once, sliding) end, ">= 0.85")
    end
    local refs = {}
    for i = 1, at_once do refs[i] = url end
    rates(("%d at once, resolve_all"):format(at_once), n, function()
      return timed(function()
        for _ = 1, n // at_once do
          local blobs = resolver:resolve_all(refs)
          for i = 1, at_once do assert(blobs[i]) end
        end
      end)
    end, function() return bare.multi(url, server.ca, n, at_once, false) end, ">= 0.75")
    rates(("%d at once, start"):format(at_once), n, function()
      local futures = {}
      return timed(function()
        for i = 0, n - 1 do
          local slot = i % at_once
          if futures[slot] then assert(futures[slot]:wait()) end
          futures[slot] = resolver:start(url)
        end
        for _, future in pairs(futures) do assert(future:wait()) end
      end)
    end, function() return bare.multi(url, server.ca, n, at_once, true) end, ">= 0.75")
  end
end

local function large_bodies(server, resolver)
  title "Large bodies, MB per second"
  local function megabytes(n, size, seconds) return ("%.0f MB/s"):format(n * size / seconds / 1e6) end
  for _, scheme in ipairs { "http", "https" } do
    local url, n, size = server[scheme] .. "/large", 40, 8 * MIB
    local a, b, ratio = compare(function()
      return timed(function() for _ = 1, n do assert(resolver:resolve(url)) end end)
    end, function() return bare.fetch(url, server.ca, n) end)
    line(("%s 8 MiB; a bare libcurl loop"):format(scheme:upper()), megabytes(n, size, a), megabytes(n, size, b),
      1 / ratio, scheme == "http" and ">= 0.95" or ">= 0.99")
  end

  local url, body = server.http .. "/digest", ("theater "):rep(8 * MIB)
  server:put("digest", body)
  local blob = core.blob(body)
  local digest = blob:digest "sha256"
  local a, b, ratio = compare(function() return ours.fetch(url, server.ca, 1, 1, false, digest) end, function()
    local copy = core.blob(body) -- a blob keeps its digest
    return math.max(bare.fetch(url, server.ca, 1), timed(function() copy:digest "sha256" end))
  end)
  line("HTTP 64 MiB with a digest; the slower part", megabytes(1, #body, a), megabytes(1, #body, b), ratio, "<= 1.1")
end

-- The time of each small fetch while bodies arrive, or of 'count'.
local function latencies(resolver, url, busy, count)
  local times = {}
  repeat
    local started = core.now()
    assert(resolver:resolve(url))
    times[#times + 1] = core.now() - started
  until count and #times >= count or busy and not busy()
  table.sort(times)
  return times[math.ceil(#times * 0.99)] * 1000, times[#times] * 1000
end

local function latency(server, resolver)
  title "A small fetch over HTTP while 8 bodies of 256 MiB with digests arrive, ms; the baseline is an idle engine"
  local url = server.http .. "/small"
  local path = server.folder .. "/www/huge"
  helper.run_ok("truncate -s 256M " .. helper.quote(path))
  local sum = helper.run_ok("sha256sum " .. helper.quote(path)):match "^%x+"
  local idle_99, idle_worst = latencies(resolver, url, nil, 2000)
  local futures = {}
  for i = 1, 8 do futures[i] = resolver:start(("%s/huge?%d#sha256=%s"):format(server.http, i, sum)) end
  local busy_99, busy_worst = latencies(resolver, url, function()
    for i = #futures, 1, -1 do
      if futures[i]:done() then
        assert(futures[i]:wait())
        table.remove(futures, i)
      end
    end
    return #futures > 0
  end)
  line("the slowest but 1 in 100", ("%.2f"):format(busy_99), ("%.2f"):format(idle_99), busy_99 / idle_99, "<= 20 ms")
  line("the slowest", ("%.2f"):format(busy_worst), ("%.2f"):format(idle_worst), busy_worst / idle_worst, "<= 100 ms")
end

-- Seconds of n small fetches while so many others wait for a server that says nothing.
local function while_waiting(resolver, url, silent, waiting)
  local futures = {}
  for i = 1, waiting do futures[i] = resolver:start(silent .. i) end
  for _ = 1, 100 do assert(resolver:resolve(url)) end
  local seconds = timed(function() for _ = 1, 4000 do assert(resolver:resolve(url)) end end)
  for i = 1, waiting do futures[i]:cancel() end
  return seconds
end

local function waiting(server, resolver)
  title "A small fetch over HTTP while others wait"
  local misbehaving = helper.misbehaving()
  local silent = misbehaving.http .. "/never?"
  local url = server.http .. "/small"
  local a, b, ratio = compare(function() return while_waiting(resolver, url, silent, 10000) end,
    function() return while_waiting(resolver, url, silent, 10) end)
  line("10,000 others against 10", ("%.1f us"):format(a / 4000 * 1e6), ("%.1f us"):format(b / 4000 * 1e6), ratio, "<= 1.1")
  misbehaving:stop()
end

local function memory(server, resolver)
  title "Memory"
  local before, refs = measure.resident(), {}
  for i = 1, 64 do refs[i] = server.http .. "/large?" .. i end
  local blobs = resolver:resolve_all(refs)
  local grown = measure.resident() - before
  line("64 bodies of 8 MiB", ("%d MiB"):format(grown // MIB), "512 MiB", grown / (512 * MIB), "<= 1.2")
  for i = 1, 64 do assert(#blobs[i] == 8 * MIB) end
  blobs = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  before = measure.resident()
  for _ = 1, 10000 do assert(resolver:resolve(server.http .. "/mib")) end
  grown = math.max(0, measure.resident() - before)
  line("growth over 10,000 fetches of 1 MiB", ("%d MiB"):format(grown // MIB), "64 MiB", grown / (64 * MIB), "< 1")
end

local M = {}

function M.run()
  local server = helper.nginx()
  server:put("small", ("x"):rep(1024))
  server:put("mib", ("x"):rep(MIB))
  server:put("large", ("x"):rep(8 * MIB))
  local resolver = theaterref.resolver { ca_file = server.ca, max_host_connections = 64, log = false }
  for _, part in ipairs { small_bodies, large_bodies, latency, waiting, memory } do part(server, resolver) end
  server:stop()
end

return M
