local helper = require "helper"
local theaterref = require "theaterref"
local core = require "theaterref.core"

describe("a cache entry past its ttl", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  local function resolver(options)
    return theaterref.resolver { cache = theaterref.resource_cache(options), retries = 0 }
  end

  local function count(path) return tonumber(tostring(theaterref.resolve_reference(server.http .. "/count" .. path))) end

  it("is loaded anew", function()
    local r = resolver { ttl = 0 }
    assert.equal("version 1", tostring(r:resolve_cached(server.http .. "/new-each-time?a")))
    assert.equal("version 2", tostring(r:resolve_cached(server.http .. "/new-each-time?a")))
    assert.equal(1, #r.cache)
  end)

  it("is the same memory again when its server says that nothing changed", function()
    local r = resolver { ttl = 0 }
    local first = r:resolve_cached(server.http .. "/versioned?b")
    local second, hit = r:resolve_cached(server.http .. "/versioned?b")
    assert.is_false(hit)
    assert.is_true(first:same(second))
    assert.equal(2, count "/versioned?b")
  end)

  it("is asked for without conditions, once, if it may have changed within the second of its date", function()
    for _, path in ipairs { "/same-second?date", "/same-second?etag" } do
      local r, seen, text = resolver { ttl = 0 }, {}, {}
      for i = 1, 4 do
        seen[i] = r:resolve_cached(server.http .. path)
        text[i] = tostring(seen[i])
      end
      assert.same({ "one", "two", "two", "two" }, text)
      assert.is_true(seen[2]:same(seen[3]) and seen[3]:same(seen[4]))
      assert.equal(4, count(path))
    end
  end)

  it("is asked for by an ETag that outlives the date of each response", function()
    local r = resolver { ttl = 0 }
    local seen = {}
    for i = 1, 4 do seen[i] = tostring(r:resolve_cached(server.http .. "/always-modified-now")) end
    assert.same({ "bytes 1", "bytes 2", "bytes 2", "bytes 2" }, seen)
  end)

  it("is served at once while it is loaded anew in the background", function()
    local r = resolver { ttl = 0, stale_while_revalidate = 60 }
    local url = server.http .. "/new-each-time?c"
    assert.equal("version 1", tostring(r:resolve_cached(url)))
    local blob, hit = r:resolve_cached(url)
    assert.equal("version 1", tostring(blob))
    assert.is_true(hit)
    helper.eventually(function() return r.cache:stats().loads == 2 end)
    assert.equal("version 2", tostring(r:resolve_cached(url)))
    assert.is_true(r.cache:stats().stale >= 2)
  end)

  it("stands in for a server that fails, for as long as it may", function()
    local r = resolver { ttl = 0, stale_if_error = 60 }
    local url = server.http .. "/then-broken?d"
    assert.equal("good", tostring(r:resolve_cached(url)))
    assert.equal("good", tostring(r:resolve_cached(url)))
    assert.equal(2, count "/then-broken?d")
    assert.same({ 1, 1 }, { r.cache:stats().errors, r.cache:stats().stale })
    r = resolver { ttl = 0 }
    url = server.http .. "/then-broken?e"
    r:resolve_cached(url)
    assert.equal(503, select(2, r:resolve_cached(url)).status)
  end)

  it("does not stand in for what its server says is gone", function()
    local r = resolver { ttl = 0, stale_if_error = 60, stale_while_revalidate = 0 }
    local url = server.http .. "/then-gone?f"
    r:resolve_cached(url)
    assert.equal(410, select(2, r:resolve_cached(url)).status)
    assert.equal(0, #r.cache)
  end)

  it("remembers for negative_ttl that there is none", function()
    local r = resolver { negative_ttl = 60 }
    for _ = 1, 3 do
      local _, err = r:resolve_cached(server.http .. "/missing?g")
      assert.equal(404, err.status)
    end
    assert.equal(1, count "/missing?g")
    assert.equal(0, #r.cache)
    r.cache:remove(server.http .. "/missing?g")
    r:resolve_cached(server.http .. "/missing?g")
    assert.equal(2, count "/missing?g")
  end)

  it("goes by a claim's own ttl where it names one", function()
    local r = resolver()
    local url = server.http .. "/new-each-time?h"
    r:start(url, { cached = true, ttl = 0 }):wait()
    assert.equal("version 2", tostring(r:resolve_cached(url)))
    assert.equal("version 2", tostring(r:resolve_cached(url)))
  end)
end)

describe("a cache", function()
  local function filled(options, names)
    local cache = theaterref.resource_cache(options)
    for _, name in ipairs(names) do
      local _, lead = cache:claim(name)
      lead:complete(core.blob(name))
    end
    return cache
  end

  it("refreshes an entry for every handle, and keeps its bytes for comparison", function()
    local name = "refresh-" .. math.random(1 << 40)
    local one = filled({ name = name }, { "x" })
    local other = theaterref.resource_cache { name = name }
    assert.is_truthy(other:get "x")
    assert.is_true(one:refresh "x")
    assert.is_nil(other:get "x")
    assert.equal("lead", (other:claim "x"))
    assert.is_false(one:refresh "y")
  end)

  it("never evicts a kept entry", function()
    local cache = filled({ max_entries = 3 }, { "kept" })
    assert.is_true(cache:keep "kept")
    assert.is_false(cache:keep "nobody")
    for i = 1, 50 do
      local _, lead = cache:claim("k" .. i)
      lead:complete(core.blob "x")
    end
    assert.equal(3, #cache)
    assert.equal("kept", tostring(cache:get "kept"))
    cache:keep("kept", false)
    for i = 51, 60 do -- SIEVE lets go of what is no longer asked for when others are
      local _, lead = cache:claim("k" .. i)
      lead:complete(core.blob "x")
      cache:get("k" .. i)
    end
    assert.is_nil(cache:get "kept")
  end)

  it("evicts nothing for an entry that cannot fit next to kept ones", function()
    local cache = theaterref.resource_cache { max_bytes = 100000 }
    local function load(name, bytes)
      local _, lead = cache:claim(name)
      lead:complete(core.blob(("x"):rep(bytes)))
    end
    load("kept", 60000)
    cache:keep "kept"
    for i = 1, 3 do load("small" .. i, 1000) end
    load("large", 50000)
    assert.is_nil(cache:get "large")
    for i = 1, 3 do assert.truthy(cache:get("small" .. i)) end
    assert.equal(0, cache:stats().evictions)
    load("fits", 30000)
    assert.truthy(cache:get "fits")
    cache = filled({ max_entries = 2 }, { "a", "b" })
    cache:keep "a"
    cache:keep "b"
    load("c", 1)
    assert.is_nil(cache:get "c")
    assert.equal(2, #cache)
  end)

  it("weighs validators and records, and has no entry for a failure", function()
    local function weight(record)
      local cache = theaterref.resource_cache { negative_ttl = 60 }
      local _, lead = cache:claim "x"
      lead:complete(core.blob "x", record)
      return cache:stats().bytes
    end
    local bare = weight()
    assert.is_true(weight { etag = ("e"):rep(200) } >= bare + 200)
    assert.is_true(weight { hosts = { ("h"):rep(500) }, extra = { a = ("v"):rep(500) } } >= bare + 1000)
    local cache = theaterref.resource_cache { negative_ttl = 60 }
    for _, method in ipairs { "keep", "refresh", "remove" } do
      local _, lead = cache:claim "gone"
      lead:fail("not_found", "nothing")
      assert.equal("wait", (cache:claim "gone"))
      assert.is_false(cache[method](cache, "gone"))
      cache:remove "gone"
    end
    assert.equal("lead", (cache:claim "gone"))
  end)

  it("is closed by name; whoever has it open goes on with it", function()
    local name = "closed-" .. math.random(1 << 40)
    local one = filled({ name = name, max_entries = 7 }, { "x" })
    local same = theaterref.resource_cache { name = name }
    assert.is_true(one:close())
    assert.is_false(same:close())
    local new = theaterref.resource_cache { name = name, max_entries = 8 }
    assert.equal("x", tostring(one:get "x"))
    assert.equal("x", tostring(same:get "x"))
    assert.is_nil(new:get "x")
    assert.is_false(one:close())
    local _, lead = same:claim "y"
    lead:complete(core.blob "y")
    assert.equal("y", tostring(one:get "y"))
    assert.is_true(new:close())
    assert.is_false(theaterref.resource_cache():close())
    collectgarbage()
    local blobs = core.live_blobs()
    one, same, new, lead = nil, nil, nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.equal(blobs - 2, core.live_blobs())
  end)

  it("counts by consumer", function()
    local name = "consumer-" .. math.random(1 << 40)
    local cache = filled({ name = name, consumer = "spawner" }, { "x" })
    assert.is_truthy(cache:get "x")
    theaterref.resource_cache({ name = name, consumer = "supervisor" }):claim "x"
    assert.same({ spawner = { hits = 1, misses = 1, coalesced = 0 }, supervisor = { hits = 1, misses = 0, coalesced = 0 } },
      cache:stats().by_consumer)
  end)

  it("refuses an unknown option", function()
    assert.has_error(function() theaterref.resource_cache { maxbytes = 1 } end,
      "there is no cache option 'maxbytes' (did you mean 'max_bytes'?)")
  end)

  it("holds 256 MiB at most unless told otherwise", function()
    local cache = theaterref.resource_cache()
    local big = core.blob(("x"):rep(100 << 20))
    for i = 1, 3 do
      local _, lead = cache:claim("k" .. i)
      lead:complete(big)
    end
    assert.equal(2, #cache)
    cache = theaterref.resource_cache { max_bytes = 0 }
    for i = 1, 3 do
      local _, lead = cache:claim("k" .. i)
      lead:complete(big)
    end
    assert.equal(3, #cache)
  end)
end)

describe("a disk cache", function()
  local server, folder
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)
  before_each(function() folder = helper.temporary_folder() end)
  after_each(function() helper.remove(folder) end)

  -- A cache without a name is gone with its handle: as good as a restart.
  local function restarted(options, policy)
    options = options or {}
    options.disk = { store = "disk", home = folder, max_bytes = options.disk_bytes }
    options.disk_bytes = nil
    return theaterref.resolver { cache = theaterref.resource_cache(options), retries = 0, policy = policy }
  end

  local function version(r, query) return tostring((r:resolve_cached(server.http .. "/new-each-time?" .. query))) end

  it("survives a restart", function()
    assert.equal("version 1", version(restarted(), "t1"))
    local r = restarted()
    assert.equal("version 1", version(r, "t1"))
    assert.equal("version 1", version(r, "t1"))
  end)

  it("keeps what a scheme of the policy's led to", function()
    local policy = { schemes = { pkg = function(ref) return { reference = server.http .. "/new-each-time?" .. ref:match "//(.*)" } end } }
    for _ = 1, 2 do assert.equal("version 1", tostring((restarted({}, policy):resolve_cached "pkg://t6"))) end
  end)

  it("believes nothing that is damaged", function()
    assert.equal("version 1", version(restarted(), "t2"))
    helper.run_ok("cd " .. folder .. "/store/disk/disk-cache-1 && for f in *-*; do echo rot >> $f; done")
    assert.equal("version 2", version(restarted(), "t2"))
  end)

  it("is asked about what is past its ttl, and only then", function()
    local r = restarted { ttl = 1000 }
    r:resolve_cached(server.http .. "/versioned?t3")
    r.cache:refresh(server.http .. "/versioned?t3")
    r = restarted { ttl = 1000 }
    local blob = r:resolve_cached(server.http .. "/versioned?t3")
    assert.equal(64 << 10, #blob)
    assert.equal("2", tostring(theaterref.resolve_reference(server.http .. "/count/versioned?t3")))
  end)

  it("stands in for a server that is down, also after a restart: while fresh, and as stale_if_error says", function()
    local gone = helper.misbehaving()
    local url = gone.http .. "/new-each-time?t7"
    assert(restarted():resolve_cached(url))
    gone:stop()
    local blob, hit = restarted():resolve_cached(url)
    assert.same({ "version 1", true }, { tostring(blob), hit })
    restarted().cache:refresh(url) -- stale from now on
    local _, err = restarted({ ttl = 1 }):resolve_cached(url)
    assert.equal("network", err.kind)
    blob, hit = restarted({ ttl = 1, stale_if_error = 1e10 }):resolve_cached(url)
    assert.same({ "version 1", true }, { tostring(blob), hit })
  end)

  it("forgets what its cache is told to forget", function()
    local r = restarted()
    assert.equal("version 1", version(r, "t4"))
    assert.is_true(r.cache:remove(server.http .. "/new-each-time?t4"))
    assert.equal("version 2", version(r, "t4"))
    r.cache:clear()
    assert.equal("version 3", version(r, "t4"))
  end)

  it("stays within its bound", function()
    local r = restarted { disk_bytes = 200 << 10 }
    for i = 1, 6 do r:resolve_cached(server.http .. "/versioned?t5-" .. i) end
    local disk = require("theaterref.store.disk_cache").of(r.cache)
    assert.is_true(disk:size() <= 200 << 10)
    assert.is_true(#disk:list() >= 2)
  end)

  it("is agreed on by all who open the cache by name", function()
    local name = "disk-" .. math.random(1 << 40)
    assert(theaterref.resource_cache { name = name, disk = { base_path = folder } })
    local _, err = theaterref.resource_cache { name = name, max_entries = 0 }
    assert.matches("disk", err.message)
    assert.equal(folder, (theaterref.resource_cache({ name = name }):disk()))
  end)
end)

describe("a kept failure", function()
  it("answers a claim only while it is younger than the claim's max_age", function()
    for _, has_bytes in ipairs { false, true } do
      local cache = theaterref.resource_cache()
      if has_bytes then helper.load(cache, "k", "bytes") end
      local how, lead = cache:claim("k", { keep_failure = 100, revalidate = true })
      assert.equal("lead", how)
      lead:fail("network", "down")
      local function claim(max_age) return (cache:claim("k", { keep_failure = 100, max_age = max_age })) end
      helper.eventually(function() return claim(0.05) == "lead" end)
      collectgarbage()
      assert.equal(has_bytes and "hit" or "wait", claim(50))
    end
  end)
end)
