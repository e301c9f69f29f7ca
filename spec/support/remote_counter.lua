-- Adds to a counter behind a label of a remote store, with the environment's credentials: remote_counter.lua FOLDER REMOTE
-- ENDPOINT MOVES. It prints how many moves were acknowledged, and how many may have been applied.
local folder, remote, endpoint, moves = arg[1], arg[2], arg[3], tonumber(arg[4])
local store = require "theaterref".content_store("counter", { base_path = folder, remote = remote, label_ttl = 0,
  s3 = { endpoint = endpoint } })

-- Reads are repeated: it is writes that are counted.
local function patiently(read)
  for _ = 1, 20 do
    local value, err = read()
    if value or not err then return value end
  end
  return assert(read())
end

local done, unknown, tries = 0, 0, 0
while done + unknown < moves do
  tries = tries + 1
  assert(tries < 100 * moves, "no progress")
  local now = patiently(function() return store:get_by_label "count" end)
  local value = now and tonumber(tostring(patiently(function() return store:get(now) end))) or 0
  local hash = patiently(function() return store:put(tostring(value + 1)) end)
  local moved, err = store:label("count", hash, { expect = now or false })
  if moved then done = done + 1 end
  if err and err.kind == "unknown_outcome" then unknown = unknown + 1 end
  if err and err.kind ~= "unknown_outcome" and err.kind ~= "network" and err.kind ~= "timeout" then error(tostring(err)) end
end
print(done, unknown)
