local helper = require "helper"
local theaterref = require "theaterref"
local core = require "theaterref.core"
local threads = require "threads"

describe("a resource cache", function()
  local folder, path

  setup(function()
    folder = helper.temporary_folder()
    path = helper.write(folder .. "/a.wasm", "some bytes")
  end)

  teardown(function() helper.remove(folder) end)

  it("hits on the second resolve", function()
    local cache = theaterref.resource_cache()
    assert.is_true(cache:is_empty())
    local first, hit = theaterref.resolve_reference_cached(path, cache)
    assert.equal("some bytes", tostring(first))
    assert.is_false(hit)
    local second
    second, hit = theaterref.resolve_reference_cached(path, cache)
    assert.is_true(hit)
    assert.is_true(first:same(second))
    assert.equal(1, #cache)
    assert.equal(1, cache:len())
    assert.is_false(cache:is_empty())
  end)

  it("goes on serving bytes whose file is gone", function()
    local cache = theaterref.resource_cache()
    local gone = helper.write(folder .. "/gone", "still here")
    assert(theaterref.resolve_reference_cached(gone, cache))
    os.remove(gone)
    assert.equal("still here", tostring((theaterref.resolve_reference_cached(gone, cache))))
    assert.equal("not_found", select(2, theaterref.resolve_reference(gone)).kind)
  end)

  it("is keyed by the reference as it is written", function()
    local cache = theaterref.resource_cache()
    assert(theaterref.resolve_reference_cached(path, cache))
    local dotted = folder .. "/./a.wasm"
    local _, hit = theaterref.resolve_reference_cached(dotted, cache)
    assert.is_false(hit)
    assert.equal(2, #cache)
    assert.is_truthy(cache:get(path))
    assert.is_nil(cache:get(folder .. "//a.wasm"))
  end)

  it("gives the very same memory on every hit, however long the reference", function()
    local cache = theaterref.resource_cache()
    for _, name in ipairs { "b", ("n"):rep(200) } do
      local long = helper.write(folder .. "/" .. name, "x")
      assert(theaterref.resolve_reference_cached(long, cache))
      local pointer = cache:get(long):pointer()
      collectgarbage()
      collectgarbage()
      assert.equal(pointer, (cache:get(long):pointer()))
    end
  end)

  it("is told from another that is asked by turns, and from one that is gone", function()
    local function holding(text)
      local cache = theaterref.resource_cache()
      local _, lead = cache:claim "key"
      lead:complete(core.blob(text))
      return cache
    end
    local one, other = holding "one", holding "other"
    for _ = 1, 3 do
      assert.equal("one", tostring(one:get "key"))
      assert.equal("other", tostring(other:get "key"))
    end
    local closed = holding "closed"
    do local closing <close> = closed; assert.truthy(closing:get "key") end
    assert.has_error(function() closed:get "key" end, "calling 'get' on bad self (cache is closed)")
    local get = one.get
    one, other = nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    for _ = 1, 100 do assert.is_nil(get(theaterref.resource_cache(), "key")) end
  end)

  it("does not keep failures", function()
    local cache = theaterref.resource_cache()
    local late = folder .. "/late"
    local _, err = theaterref.resolve_reference_cached(late, cache)
    assert.equal("not_found", err.kind)
    assert.equal(late, err.reference)
    assert.equal(0, #cache)
    helper.write(late, "now")
    assert.equal("now", tostring((theaterref.resolve_reference_cached(late, cache))))
  end)

  it("forgets one reference, or all", function()
    local cache = theaterref.resource_cache()
    local held = theaterref.resolve_reference_cached(path, cache)
    assert.is_true(cache:remove(path))
    assert.is_false(cache:remove(path))
    assert.is_nil(cache:get(path))
    assert.equal("some bytes", tostring(held))
    theaterref.resolve_reference_cached(path, cache)
    cache:clear()
    assert.is_nil(cache:get(path))
    assert.is_true(cache:is_empty())
  end)

  it("lets an entry expire after its ttl", function()
    local cache = theaterref.resource_cache { ttl = 0 }
    assert(theaterref.resolve_reference_cached(path, cache))
    assert.is_nil(cache:get(path))
    local _, hit = theaterref.resolve_reference_cached(path, cache)
    assert.is_false(hit)
  end)

  it("stays within its bounds, and spares what is asked for", function()
    local cache = theaterref.resource_cache { max_entries = 10 }
    local function load(name)
      local how, future = cache:claim(name)
      if how == "lead" then future:complete(core.blob(name)) end
      return how
    end
    load "hot"
    for i = 1, 100 do
      load("cold" .. i)
      assert.equal("hit", load "hot")
    end
    assert.equal(10, #cache)
    assert.equal(91, cache:stats().evictions)
    local small = theaterref.resource_cache { max_bytes = 4096 }
    local how, future = small:claim "big"
    assert.equal("lead", how)
    future:complete(core.blob(("x"):rep(5000)))
    assert.equal(5000, #future:wait())
    assert.equal(0, #small)
  end)

  it("shares one cache by name, and refuses other options for it", function()
    local name = "spec-" .. math.random(1 << 40)
    local one = theaterref.resource_cache { name = name, max_bytes = 1000000 }
    local other = theaterref.resource_cache { name = name, max_bytes = 1000000 }
    assert(theaterref.resolve_reference_cached(path, one))
    assert.is_true(one:get(path):same(other:get(path)))
    other:remove(path)
    assert.is_nil(one:get(path))
    local refused, err = theaterref.resource_cache { name = name, max_bytes = 7 }
    assert.is_nil(refused)
    assert.matches("max_bytes = 1000000", err.message)
    assert.matches("not 7;", err.message)
  end)

  it("counts hits, misses, loads and errors", function()
    local cache = theaterref.resource_cache()
    theaterref.resolve_reference_cached(folder .. "/nowhere", cache)
    for _ = 1, 5 do theaterref.resolve_reference_cached(path, cache) end
    local stats = cache:stats()
    assert.same({ hits = 4, misses = 2, loads = 1, errors = 1, coalesced = 0, stale = 0, evictions = 0,
      entries = 1, bytes = stats.bytes, by_consumer = {} }, stats)
  end)

  it("raises for a wrong type of argument", function()
    local cache = theaterref.resource_cache()
    assert.has_error(function() cache:get(1) end, "bad argument #1 to 'get' (string expected, got number)")
    assert.has_error(function() cache.get({}, "x") end, "bad argument #1 to 'get' (theaterref.cache expected, got table)")
    assert.has_error(function() cache.get(io.stdout, "x") end, "bad argument #1 to 'get' (theaterref.cache expected, got FILE*)")
    assert.has_error(function() theaterref.resource_cache { max_bytes = -1 } end,
      "the cache option 'max_bytes' must be a whole number, 0 or more, not -1")
    assert.has_error(function() theaterref.resource_cache { ttl = "x" } end,
      "the cache option 'ttl' must be a number of seconds, not a string")
  end)

  it("frees every blob when it goes", function()
    collectgarbage()
    collectgarbage()
    local before = core.live_blobs()
    do
      local cache = theaterref.resource_cache()
      for i = 1, 100 do
        local how, future = cache:claim("k" .. i)
        assert.equal("lead", how)
        future:complete(core.blob "x")
      end
      assert.equal(before + 100, core.live_blobs())
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, core.live_blobs())
  end)
end)

describe("a claim", function()
  it("has one leader; the others wait for his blob", function()
    local cache = theaterref.resource_cache()
    local how, lead = cache:claim "x"
    assert.equal("lead", how)
    local waiting
    how, waiting = cache:claim "x"
    assert.equal("wait", how)
    assert.is_false(waiting:done())
    local nothing, err, why = waiting:wait(0.001)
    assert.is_nil(nothing)
    assert.equal("timeout", err.kind)
    assert.equal("pending", why)
    assert.is_true(lead:complete(core.blob "bytes"))
    assert.is_false(lead:complete(core.blob "again"))
    assert.equal("bytes", tostring(waiting:wait(0)))
    assert.equal("hit", (cache:claim "x"))
  end)

  it("gives those who wait the leader's error, and the next one the lead", function()
    local cache = theaterref.resource_cache()
    local _, lead = cache:claim "x"
    local _, waiting = cache:claim "x"
    lead:fail("http_status", "HTTP request failed", 503)
    local _, err, why = waiting:wait(0)
    assert.equal("http_status", err.kind)
    assert.equal(503, err.status)
    assert.is_nil(why)
    assert.equal("lead", (cache:claim "x"))
  end)

  it("goes to the next when the leader cancels or is collected", function()
    local cache = theaterref.resource_cache()
    for _, give_up in ipairs { function(lead) lead:cancel() end, function() end } do
      local _, lead = cache:claim "x"
      local _, waiting = cache:claim "x"
      give_up(lead)
      lead = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      local _, err, why = waiting:wait(0)
      assert.equal("cancelled", err.kind)
      assert.equal("abandoned", why)
      local how, next_lead = cache:claim "x"
      assert.equal("lead", how)
      next_lead:cancel()
    end
  end)

  it("gives whoever waited for one that gave up what another has loaded meanwhile", function()
    local cache = theaterref.resource_cache()
    local _, lead = cache:claim "/x"
    local future = assert(theaterref.resolver { cache = cache }:start("/x", { cached = true }))
    lead:cancel()
    local _, next_lead = cache:claim "/x"
    next_lead:complete(core.blob "bytes")
    assert.equal("bytes", tostring(assert(future:wait(1))))
    assert.is_true(future.hit)
  end)

  it("lets the load finish that a removal overtook, but does not keep it", function()
    local cache = theaterref.resource_cache()
    local _, lead = cache:claim "x"
    local _, waiting = cache:claim "x"
    cache:remove "x"
    local how, newer = cache:claim "x"
    assert.equal("lead", how)
    lead:complete(core.blob "old")
    assert.equal("old", tostring(waiting:wait(0)))
    assert.is_nil(cache:get "x")
    newer:complete(core.blob "new")
    assert.equal("new", tostring(cache:get "x"))
  end)

  it("has no one waiting with coalesce = false: each loads, the last wins", function()
    local cache = theaterref.resource_cache { coalesce = false }
    local how, one = cache:claim "x"
    assert.equal("lead", how)
    local other
    how, other = cache:claim "x"
    assert.equal("lead", how)
    one:complete(core.blob "1")
    other:complete(core.blob "2")
    assert.equal("2", tostring(cache:get "x"))
    assert.equal(1, #cache)
  end)
end)

describe("Lua states on several threads", function()
  it("racing on one reference get the same bytes, and make one entry", function()
    helper.with_folder(function(folder)
      local path = helper.write(folder .. "/shared", ("theater"):rep(100000))
      local name = "race-" .. math.random(1 << 40)
      local results = threads.run(8, ([[
        local theaterref = require "theaterref"
        local cache = theaterref.resource_cache { name = %q }
        return function()
          local pointer
          for i = 1, 200 do
            local blob = assert(theaterref.resolve_reference_cached(%q, cache))
            assert(#blob == 700000)
            pointer = pointer or tostring((blob:pointer()))
            assert(pointer == tostring((blob:pointer())))
          end
          return pointer .. " " .. #cache
        end]]):format(name, path))
      for _, result in ipairs(results) do assert.equal(results[1], result) end
      assert.matches(" 1$", results[1])
      local stats = theaterref.resource_cache({ name = name }):stats()
      assert.equal(1, stats.loads)
      assert.equal(1600, stats.hits + stats.misses + stats.coalesced)
    end)
  end)

  -- Each blob says when its load began; that is what an answer is checked by.
  it("may do anything to a few keys at once, and no answer is one that cannot be", function()
    local name, seed, blobs = "model-" .. math.random(1 << 40), os.time(), core.live_blobs()
    local ok, why = pcall(threads.run, 8, ([[
      local number = ...
      local core = require "theaterref.core"
      local options = { name = %q, max_entries = 3, ttl = 0.02 }
      local cache = core.resource_cache(options)
      math.randomseed(%d, number)
      -- By key: when this thread last took it out, the newest load it was
      -- given from the cache, and until when what it completed may be served.
      local removed, newest, mine = {}, {}, {}
      local function began(key, blob)
        local name, moment = tostring(blob):match "^(%%S+) (%%S+)$"
        assert(name == key, "the bytes of another key")
        return tonumber(moment)
      end
      local function check_loaded(key, blob)
        local moment = began(key, blob)
        assert(moment >= (removed[key] or 0), "a load from before its removal")
        return moment
      end
      local function check_cached(key, blob, asked)
        local moment = check_loaded(key, blob)
        assert(moment >= (newest[key] or 0), "an older load than before")
        assert(asked < (mine[tostring(blob)] or math.huge), "served past its time")
        newest[key] = moment
      end
      local function lead(key, future)
        local fate, text = math.random(8), ("%%s %%.17g"):format(key, core.now())
        if fate == 1 then return future:cancel() end
        if fate == 2 then return future:fail("io", key) end
        if fate == 3 then return end -- collected, some time
        if fate == 4 and math.random(10) == 1 then collectgarbage "step" end
        future:complete(core.blob(text))
        mine[text] = core.now() + options.ttl
      end
      local function one_step()
        local key, dice, now = "k" .. math.random(6), math.random(40), core.now()
        if dice <= 2 then
          cache:remove(key)
          removed[key] = now
        elseif dice == 3 and math.random(20) == 1 then
          cache:clear()
          for i = 1, 6 do removed["k" .. i] = now end
        elseif dice == 4 then
          cache:refresh(key)
          removed[key] = now
        elseif dice == 5 then
          cache:keep(key, math.random(2) == 1)
        elseif dice < 20 then
          local blob = cache:get(key)
          if blob then check_cached(key, blob, now) end
        else
          local how, what = cache:claim(key)
          if how == "lead" then
            lead(key, what)
          elseif how == "wait" then
            local blob, err, why = what:wait(math.random() * 0.01)
            if blob then check_loaded(key, blob) else assert(why or err.message == key, tostring(err)) end
          else
            check_cached(key, what, now)
          end
        end
      end
      return function()
        local enough = core.now() + %g
        repeat
          mine = {}
          for _ = 1, 500 do one_step() end
          assert(#cache <= 3)
        until core.now() > enough
        cache:clear()
      end]]):format(name, seed, tonumber(os.getenv "MODEL") or 0.5))
    assert(ok, "seed " .. seed .. ": " .. tostring(why))
    helper.eventually(function()
      collectgarbage()
      return core.live_blobs() <= blobs
    end)
  end)
end)
