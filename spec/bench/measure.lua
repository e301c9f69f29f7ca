-- How the benchmarks measure, and the tables they print.
local core = require "theaterref.core"

local M = {}

local RUNS = 5

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

-- Runs both by turns, so that a slow moment of the machine hits both.
function M.compare(ours, theirs)
  local a, b, c = {}, {}, {}
  for i = 1, RUNS do
    collectgarbage()
    a[i], b[i] = ours(), theirs()
    c[i] = a[i] / b[i]
  end
  return median(a), median(b), median(c)
end

function M.line(work, ours, theirs, ratio, target)
  print(("| %-44s | %12s | %12s | %8.2f | %10s |"):format(work, ours, theirs, ratio, target))
end

function M.title(text)
  print(("\n%s\n\n| %-44s | %12s | %12s | %8s | %10s |"):format(text, "work", "ours", "baseline", "ratio", "target"))
  print("|" .. ("-"):rep(46) .. "|" .. (("-"):rep(14) .. "|"):rep(2) .. ("-"):rep(10) .. "|" .. ("-"):rep(12) .. "|")
end

function M.timed(work)
  local started = core.now()
  work()
  return core.now() - started
end

function M.resident()
  for text in io.lines("/proc/self/status") do
    local kib = text:match("^VmRSS:%s*(%d+)")
    if kib then return tonumber(kib) * 1024 end
  end
end

return M
