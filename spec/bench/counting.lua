-- The cost of metrics: nothing on a hit of a cache, and elsewhere some nanoseconds a count.
local bare = require "bare"
local core = require "theaterref.core"
local measure = require "measure"
local ours = require "ours"
local theaterref = require "theaterref"
local threads = require "threads"

local M = {}

local TIMES = 5000000

local function ns(seconds) return ("%.1f ns"):format(seconds / TIMES * 1e9) end

-- Seconds of calling a function TIMES times.
local function time(call, ...)
  local started = core.now()
  for _ = 1, TIMES do call(...) end
  return core.now() - started
end

function M.run()
  measure.title("Metrics; a counter's target is 20 ns, as a ratio to that")
  local function line(work, seconds) measure.line(work, ns(seconds), "20.0 ns", seconds / TIMES / 20e-9, "< 1") end
  local cache, object = theaterref.resource_cache(), bare.object()
  select(2, cache:claim "key"):complete(core.blob "bytes")
  local get, nothing = cache.get, object.nothing
  local hit, empty, ratio = measure.compare(function() return time(get, cache, "key") end,
    function() return time(nothing, object) end)
  measure.line("a cached hit, which counts as before", ns(hit), ns(empty), ratio, "<= 2.2")
  line("a counter, one thread", ours.count(TIMES))
  line("a duration in a histogram, one thread", ours.count(TIMES, true))
  for _, timed in ipairs { false, true } do
    local _, seconds = threads.run(2, ("local ours = require 'ours' return function() ours.count(%d, %s) end"):format(TIMES, timed))
    line(timed and "a duration in a histogram, two threads" or "a counter, two threads", seconds)
  end
  local started = core.now()
  for _ = 1, 1000 do theaterref.metrics() end
  local text = (core.now() - started) / 1000
  measure.line("the text of all metrics", ("%.0f us"):format(text * 1e6), "1000 us", text / 1e-3, "< 1")
end

return M
