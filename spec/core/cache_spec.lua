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
      entries = 1, bytes = stats.bytes, by = {} }, stats)
  end)

  it("raises for a wrong type of argument", function()
    local cache = theaterref.resource_cache()
    assert.has_error(function() cache:get(1) end)
    assert.has_error(function() cache.get({}, "x") end)
    assert.has_error(function() cache.get(io.stdout, "x") end)
    assert.has_error(function() theaterref.resource_cache { max_bytes = -1 } end)
    assert.has_error(function() theaterref.resource_cache { ttl = "x" } end)
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
    local nothing, err, abandoned = waiting:wait(0.001)
    assert.is_nil(nothing)
    assert.equal("timeout", err.kind)
    assert.is_false(abandoned)
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
    local _, err = waiting:wait(0)
    assert.equal("http_status", err.kind)
    assert.equal(503, err.status)
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
      local _, err, abandoned = waiting:wait(0)
      assert.equal("cancelled", err.kind)
      assert.is_true(abandoned)
      local how, next_lead = cache:claim "x"
      assert.equal("lead", how)
      next_lead:cancel()
    end
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

  it("may do anything to a few keys at once, and every answer is one", function()
    local name = "storm-" .. math.random(1 << 40)
    threads.run(8, ([[
      local seed = ...
      local core = require "theaterref.core"
      local cache = core.resource_cache { name = %q, max_entries = 3 }
      math.randomseed(seed)
      return function()
        local held = {}
        for i = 1, 3000 do
          local key = "k" .. math.random(6)
          local dice = math.random(20)
          if dice == 1 then
            cache:remove(key)
          elseif dice == 2 and i %% 50 == 0 then
            cache:clear()
          elseif dice < 8 then
            local blob = cache:get(key)
            assert(not blob or tostring(blob) == key)
          else
            local how, what = cache:claim(key)
            if how == "lead" then
              local fate = math.random(4)
              if fate == 1 then what:cancel() elseif fate == 2 then what:fail("io", key)
              else what:complete(core.blob(key)) end
            elseif how == "wait" then
              local blob, err, abandoned = what:wait(5)
              assert(blob and tostring(blob) == key or abandoned or err.message == key, tostring(err))
            else
              assert(tostring(what) == key)
            end
          end
        end
      end]]):format(name))
    assert.is_true(#theaterref.resource_cache { name = name, max_entries = 3 } <= 3)
  end)
end)
