-- The benchmarks: each line is the median of several runs, as a ratio to a
-- baseline that ran between them. Usage: make bench [ONLY=fetch|cache|store|plan|start|derive|growth|metrics|fleet|s3]
local bare = require "bare"
local core = require "theaterref.core"
local helper = require "helper"
local measure = require "measure"
local theaterref = require "theaterref"
local threads = require "threads"

local compare, line, timed, title = measure.compare, measure.line, measure.timed, measure.title

-- ------------------------------------------------------------------- cache

local KEY = "https://packages.example.org/actors/worker/1.2.3/component-a.wasm"

local function filled(options, count)
  local cache, blob = theaterref.resource_cache(options), core.blob "bytes"
  local function put(key)
    local how, lead = cache:claim(key)
    if how == "lead" then lead:complete(blob) end
  end
  put(KEY)
  for i = 2, count do put(KEY .. i) end
  return cache
end

local HITS = 2000000

local function time_hits(cache)
  return timed(function() for _ = 1, HITS do cache:get(KEY) end end)
end

-- Seconds in which so many threads do HITS hits each on one key.
local function on_threads(count, name)
  local _, seconds = threads.run(count, ([[
    local cache = require("theaterref").resource_cache { name = %q }
    cache:get(%q)
    return function() for _ = 1, %d do cache:get(%q) end end]]):format(name, KEY, HITS, KEY))
  return seconds
end

local function ns(seconds, count) return ("%.1f ns"):format(seconds / (count or HITS) * 1e9) end

local function bench_cache()
  title "A cached hit, from Lua"
  local object, cache = bare.object(), filled({}, 1)
  local ours, theirs, ratio = compare(function() return time_hits(cache) end,
    function() return timed(function() for _ = 1, HITS do object:nothing() end end) end)
  line("against a method that does nothing", ns(ours), ns(theirs), ratio, "<= 2.2")

  local request = core.request_options { refuse_private = true }
  ours, theirs, ratio = compare(function()
    return timed(function() for _ = 1, HITS do cache:claim(KEY, request) end end)
  end, function() return time_hits(cache) end)
  line("a claim with a request, against 'get'", ns(ours), ns(theirs), ratio, "<= 1.6")
  local aliases = theaterref.resource_cache()
  select(2, aliases:claim(KEY)):complete(core.blob "bytes", { content = "sha256:x" })
  ours, theirs, ratio = compare(function() return time_hits(aliases) end, function() return time_hits(cache) end)
  line("an alias, against a blob", ns(ours), ns(theirs), ratio, "<= 1.1")

  local name = "bench"
  local held = filled({ name = name }, 1)
  ours, theirs, ratio = compare(function() return on_threads(2, name) / (2 * HITS) end,
    function() return on_threads(1, name) / HITS end)
  line("throughput of 2 threads against 1", ns(ours, 1), ns(theirs, 1), 1 / ratio, ">= 1.9")
  ours, theirs, ratio = compare(function() return on_threads(2, name) end, function() return bare.rwlock(2, HITS) end)
  line("2 threads, against C: rwlock, hash, counter", ns(ours, 2 * HITS), ns(theirs, 2 * HITS), ratio, "< 1")
  assert(#held == 1)

  local small, large = filled({ max_bytes = 0 }, 100), filled({ max_bytes = 0 }, 1000000)
  ours, theirs, ratio = compare(function() return time_hits(large) end, function() return time_hits(small) end)
  line("1,000,000 entries against 100", ns(ours), ns(theirs), ratio, "<= 2")
  large, small = nil, nil -- luacheck: ignore
  collectgarbage()

  local server = helper.nginx()
  server:put("mib", ("x"):rep(1 << 20))
  threads.run(64, ([[
    local theaterref = require "theaterref"
    local cache = theaterref.resource_cache { name = "storm" }
    return function() assert(#theaterref.resolve_reference_cached(%q, cache) == 1 << 20) end]])
    :format(server.http .. "/mib"))
  helper.eventually(function() return server:requests "/mib" > 0 end)
  line("requests when 64 states miss at once", server:requests "/mib", 1, server:requests "/mib", "1")

  server:put("package", ("x"):rep(8 << 20))
  for _, body in ipairs { "package", "mib" } do
    server:put(body .. ".toml", ('name = "worker"\npackage = "%s/%s"\nstatic_package = true\n'):format(server.http, body))
  end
  -- In a process of its own: this one has memory left over to reuse.
  local grown = tonumber(helper.run_ok(helper.lua .. " -e " .. helper.quote(([[
    local function resident() return io.open("/proc/self/statm"):read("n", "n") end
    local theaterref = require "theaterref"
    local resolver = theaterref.resolver { cache = theaterref.resource_cache() }
    assert(resolver:plan(%q)) -- what comes with the first plan is not the holders'
    local _, before = resident()
    local plans = {}
    for i = 1, 100 do plans[i] = assert(resolver:plan(%q)) end
    local _, after = resident()
    print((after - before) * 4096)]]):format(server.http .. "/mib.toml", server.http .. "/package.toml"))))
  line("memory of 100 holders of one 8 MiB package", ("%.1f MiB"):format(grown / (1 << 20)), "9 MiB", grown / (9 << 20),
    "<= 1")
  server:stop()
  require("eviction").run()
end

-- -------------------------------------------------------------------- plan

local PLANS = 20000

local function bench_plan()
  title "Planning a spawn from files, under the default policy"
  helper.with_folder(function(folder)
    local path, package = folder .. "/manifest.toml", helper.write(folder .. "/actor.wasm", "\0asm")
    helper.write(path, 'name = "worker"\npackage = "actor.wasm"\n[[handler]]\ntype = "tcp"\n')
    local resolver = theaterref.resolver()
    local ours, theirs = compare(function()
      return timed(function() for _ = 1, PLANS do assert(resolver:plan(path)) end end)
    end, function()
      return timed(function()
        for _ = 1, PLANS do
          assert(require("theaterref.manifest.toml").parse(tostring(assert(core.read_file(path)))))
          assert(core.read_file(package))
        end
      end)
    end)
    line("a plan, on top of reading and parsing", ("%.1f us"):format((ours - theirs) / PLANS * 1e6),
      ("%.1f us"):format(theirs / PLANS * 1e6), (ours - theirs) / PLANS / 15e-6, "<= 1")
    for _, size in ipairs { 10, 100 } do
      local handler = '[[handler]]\ntype = "tcp"\nlisten = "127.0.0.1:80"\nnames = ["a", "b"]\n'
      helper.write(path, 'name = "worker"\npackage = "actor.wasm"\n' .. handler:rep(size * 1024 // #handler))
      local times = 2000 // size
      local whole, part, ratio = compare(function()
        return timed(function() for _ = 1, times do assert(resolver:plan(path)) end end)
      end, function()
        return timed(function()
          for _ = 1, times do
            assert(require("theaterref.manifest.toml").parse(tostring(assert(core.read_file(path)))))
            assert(core.read_file(package))
          end
        end)
      end)
      line(("a plan from %d KiB of TOML, against reading and parsing"):format(size), ("%.2f ms"):format(whole / times * 1e3),
        ("%.2f ms"):format(part / times * 1e3), ratio, "<= 1.1")
    end
  end)
end

-- ------------------------------------------------------------------- start

-- Milliseconds of CPU that some code takes in an interpreter that is new.
local function at_start(code)
  local script = "local started = os.clock() " .. code .. " io.write((os.clock() - started) * 1000)"
  return tonumber(helper.run_ok("lua5.4 -e " .. helper.quote(script)))
end

local function bench_start()
  title "Starting, in ms of CPU; the baseline loads lua-cjson, LPeg and argparse, which are three small modules"
  local baseline = 'require "cjson" require "lpeg" require "argparse"'
  for _, row in ipairs {
    { 'require "theaterref"', 'require "theaterref"', "< 3 ms" },
    { "and a resolver", 'require("theaterref").resolver()', "" },
    { "and a plan", ('require("theaterref").resolver():plan(%q)'):format("examples/actor/manifest.toml"), "" },
    { "and a fetch that fails, which opens libcurl",
      'require("theaterref").resolver({ retries = 0, log = false }):resolve("http://127.0.0.1:1/")', "" },
  } do
    local ours, theirs, ratio = compare(function() return at_start(row[2]) end, function() return at_start(baseline) end)
    line(row[1], ("%.2f ms"):format(ours), ("%.2f ms"):format(theirs), ratio, row[3])
  end
end

local parts = { fetch = require("fetch").run, cache = bench_cache, store = require("store").run, plan = bench_plan, start = bench_start,
  derive = require("derive").run, growth = require("growth").run, metrics = require("counting").run, fleet = require("fleet").run,
  s3 = require("s3").run }
for _, name in ipairs { "fetch", "cache", "store", "plan", "start", "derive", "growth", "metrics", "fleet", "s3" } do
  if not arg[1] or arg[1] == name then parts[name]() end
end
