-- The store, against bare C loops and npm's cacache.
local bare = require "bare"
local disk_caches = require "theaterref.store.disk_cache"
local helper = require "helper"
local measure = require "measure"
local theaterref = require "theaterref"

local M = {}

local SIZE = 64 << 10
local filler = ("theater"):rep(SIZE // 7 + 1):sub(1, SIZE - 8)

-- Contents that no store has yet.
local made = 0
local function contents(count)
  local list = {}
  for i = 1, count do
    made = made + 1
    list[i] = string.pack("<i8", made) .. filler
  end
  return list
end

local function us(seconds, count) return ("%.0f us"):format(seconds / count * 1e6) end

-- Runs 'use' on a folder that is gone afterwards.
local function in_folder(use)
  local result
  helper.with_folder(function(folder) result = use(folder) end)
  return result
end

local function put_all(durability, list)
  return in_folder(function(folder)
    local store = theaterref.content_store("bench", { base_path = folder, durability = durability })
    store:put "the first makes the folders"
    return measure.timed(function() for i = 1, #list do assert(store:put(list[i])) end end)
  end)
end

local function bench_put(work, durability, count, target)
  local ours, theirs, ratio = measure.compare(function() return put_all(durability, contents(count)) end, function()
    return in_folder(function(folder) return bare.put(folder, ("x"):rep(SIZE), count, durability == "full") end)
  end)
  measure.line(work, us(ours, count), us(theirs, count), ratio, target)
end

-- On a disk that takes 5 ms for each sync, as a hard disk does; the one here
-- may be a fast one.
local slow_disk = [[
  require("faults").slow(5)
  local store = require("theaterref").content_store("bench", { base_path = ... })
  local now = require("theaterref.core").now
  local function timed(work) local started = now() work() return now() - started end
  local function text(i) return ("%8d"):format(i):rep(8192) end
  io.write(timed(function()
    assert(store:batch(function(batch)
      for i = 1, 1000 do assert(batch:put(text(i))) end
      return true
    end))
  end), " ", timed(function() for i = 1001, 1200 do assert(store:put(text(i))) end end))
]]

local function bench_batch()
  in_folder(function(folder)
    local file = helper.write(folder .. "/script.lua", slow_disk)
    local out = helper.run_ok(("LD_PRELOAD=%s/build/spec/faults.so %s %s %s/store"):format(helper.root, helper.lua, file,
      folder))
    local batch, full = out:match "(%S+) (%S+)"
    measure.line("put in a batch of 1,000, against full, slow disk", us(batch, 1000), us(full, 200),
      batch / 1000 / (full / 200), "<= 0.1")
  end)
end

local function time_gets(store, hash, count)
  return measure.timed(function() for _ = 1, count do assert(store:get(hash)) end end)
end

local function bench_get(work, size, count, target)
  in_folder(function(folder)
    local store = theaterref.content_store("bench", { base_path = folder, durability = "none" })
    local hash = store:put(("x"):rep(size))
    assert(store:get(hash)) -- verified once
    local ours, theirs, ratio = measure.compare(function() return time_gets(store, hash, count) end,
      function() return bare.get(folder .. "/data/" .. hash, count, size > 1 << 20) end)
    measure.line(work, us(ours, count), us(theirs, count), ratio, target)
  end)
end

local function bench_crowd()
  in_folder(function(folder)
    local function crowded(name, count)
      local store = theaterref.content_store("bench", { base_path = folder .. "/" .. name, durability = "none" })
      local hash = store:put(("x"):rep(SIZE))
      bare.crowd(folder .. "/" .. name .. "/data", count)
      return function() return time_gets(store, hash, 5000) end
    end
    local ours, theirs, ratio = measure.compare(crowded("large", 1000000), crowded("small", 1000))
    measure.line("get of 64 KiB among 1,000,000, against 1,000", us(ours, 5000), us(theirs, 5000), ratio, "<= 1.5")
  end)
end

local function bench_disk_cache()
  in_folder(function(folder)
    local record = { etag = '"1234567890abcdef"', last_modified = "Mon, 01 Jan 2024 00:00:00 GMT", url = ("a"):rep(32) }
    local body = ("x"):rep(SIZE)
    local disk = disk_caches.open(folder, 0)
    local store = theaterref.content_store("bench", { base_path = folder .. "/store", durability = "none" })
    local hash = store:put(body)
    assert(disk:write("https://example.org/worker.wasm", body, record))
    local ours, theirs, ratio = measure.compare(function()
      return measure.timed(function()
        for _ = 1, 5000 do assert(disk:read "https://example.org/worker.wasm") end
      end)
    end, function() return time_gets(store, hash, 5000) end)
    measure.line("disk cache: read 64 KiB, against a store's get", us(ours, 5000), us(theirs, 5000), ratio, "<= 1.5")
    local written = 0
    local function crowded(name, count)
      local other = disk_caches.open(folder .. "/" .. name, 1 << 40)
      for i = 1, count do assert(other:write("r" .. i, "x", record)) end
      return function()
        return measure.timed(function()
          for i = 1, 500 do
            written = written + 1
            assert(other:write("r" .. i, "x" .. written, record))
          end
        end)
      end
    end
    ours, theirs, ratio = measure.compare(crowded("large", 10000), crowded("small", 500))
    measure.line("disk cache: write among 10,000, against 500", us(ours, 500), us(theirs, 500), ratio, "<= 1.5")
  end)
end

local script = [==[
const cacache = require('cacache'), fs = require('fs')
const [folder, count, size] = [process.argv[2], +process.argv[3], +process.argv[4]]
const bytes = i => { const b = Buffer.alloc(size, 'theater'); b.writeInt32LE(i); return b }
;(async () => {
  let started = process.hrtime.bigint()
  for (let i = 0; i < count; i++) await cacache.put(folder, 'k' + i, bytes(i), { algorithms: ['sha1'] })
  const put = process.hrtime.bigint() - started
  started = process.hrtime.bigint()
  for (let i = 0; i < count; i++) await cacache.get(folder, 'k' + i)
  console.log(Number(put) / 1e9, Number(process.hrtime.bigint() - started) / 1e9)
})()
]==]

local function bench_cacache()
  in_folder(function(folder)
    local _, why, status = helper.run(("cd %s && npm install --silent --no-audit --no-fund cacache"):format(folder))
    if status ~= 0 then return print("(cacache is not here to compare with: " .. why .. ")") end
    local count = 1000
    helper.write(folder .. "/bench.js", script)
    local list, put, got = contents(count), {}, {}
    for i = 1, 3 do
      local out = helper.run_ok(("cd %s && node bench.js cache%d %d %d"):format(folder, i, count, SIZE))
      local their_put, their_get = out:match "(%S+) (%S+)"
      local store = theaterref.content_store("bench", { base_path = folder .. "/ours" .. i, durability = "none" })
      put[i] = { measure.timed(function()
        for k = 1, count do assert(store:store_at_label("k" .. k, list[k])) end
      end), tonumber(their_put) }
      got[i] = { measure.timed(function()
        for k = 1, count do assert(store:get_content_by_label("k" .. k)) end
      end), tonumber(their_get) }
    end
    for name, runs in pairs { put = put, get = got } do
      table.sort(runs, function(a, b) return a[1] / a[2] < b[1] / b[2] end)
      measure.line(name .. " 64 KiB by name, against npm's cacache", us(runs[2][1], count), us(runs[2][2], count),
        runs[2][1] / runs[2][2], "< 1")
    end
  end)
end

--- Prints the table.
function M.run()
  measure.title "The content store; each time is of one operation"
  bench_put("put 64 KiB, durability none, against C", "none", 2000, "<= 1.3")
  bench_put("put 64 KiB, durability full, against C", "full", 300, "<= 1.2")
  bench_batch()
  bench_get("get 64 KiB, against open + read", SIZE, 20000, "<= 1.3")
  bench_get("get 8 MiB, against open + mmap", 8 << 20, 20000, "<= 1.3")
  bench_crowd()
  bench_disk_cache()
  bench_cacache()
end

return M
