-- How the time to read a text grows with its size: for texts that mean harm to a parser.
local texts = require "hostile_texts"

local M = {}

local BYTES = 250000

-- Seconds of the processor: the best of three.
local function seconds(item, bytes)
  local _, make, read = table.unpack(item)
  local text, best = make(bytes), math.huge
  for _ = 1, 3 do
    collectgarbage()
    local started = os.clock()
    read(text)
    best = math.min(best, os.clock() - started)
  end
  return best
end

function M.run()
  print(("\nThe time for n, 2n and 4n bytes of text, n = %d; 4.0 is linear\n"):format(BYTES))
  print(("| %-58s | %10s | %10s | %10s | %6s |"):format("text", "n", "2n", "4n", "4n / n"))
  print("|" .. ("-"):rep(60) .. "|" .. (("-"):rep(12) .. "|"):rep(3) .. ("-"):rep(8) .. "|")
  for _, item in ipairs(texts.list) do
    local one, two, four = seconds(item, BYTES), seconds(item, 2 * BYTES), seconds(item, 4 * BYTES)
    print(("| %-58s | %7.1f ms | %7.1f ms | %7.1f ms | %6.1f |"):format(item[1], one * 1e3, two * 1e3, four * 1e3, four / one))
  end
end

return M
