local core = require "theaterref.core"
local following = require "following"
local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"
local writer = require "registry_writer"

local resolver, follow, write = following.resolver, following.follow, following.write
local await, silent = following.await, following.silent

describe("a follower", function()
  local server, bad, folder

  setup(function()
    server, bad = helper.nginx(), helper.misbehaving()
  end)
  teardown(function()
    server:stop()
    bad:stop()
  end)
  before_each(function() folder = following.begin() end)
  after_each(following.finish)

  local served = 0

  -- Puts a file on the server by a rename: nobody sees a part. It is older than a second: its validators can be relied on.
  local function serve(name, text)
    served = served + 1
    server:put(name .. ".new", text)
    helper.run_ok(("touch -d @%d %s/www/%s.new"):format(os.time() - 1000 + served, server.folder, name))
    assert(os.rename(server.folder .. "/www/" .. name .. ".new", server.folder .. "/www/" .. name))
  end

  -- Checks how often the server was asked, which its log tells a little later.
  local function check_requests(expected, pattern)
    helper.eventually(function() return server:requests(pattern) >= expected end)
    assert.equal(expected, server:requests(pattern))
  end

  local function count(path) return tonumber(tostring(theaterref.resolve_reference(bad.http .. "/count" .. path))) end

  it("asks a server that has validators with conditions, and downloads no unchanged body", function()
    serve("conditional", "one")
    local url = server.http .. "/conditional"
    local follower, seen = follow(url, { interval = 0.02 })
    assert.equal("one", await(follower))
    helper.eventually(function()
      follower:wait(0.05)
      return server:requests '/conditional HTTP/1.1" 304' >= 3
    end)
    check_requests(1, '/conditional HTTP/1.1" 200')
    serve("conditional", "another")
    assert.equal("another", await(follower))
    check_requests(2, '/conditional HTTP/1.1" 200')
    assert.same({ "one", "another" }, seen)
  end)

  it("compares digests if there is no validator, or if that changes alone", function()
    for _, path in ipairs { "/fine?follow", "/new-etag?follow" } do
      local follower, seen = follow(bad.http .. path, { interval = 0.02 })
      await(follower)
      helper.eventually(function()
        follower:wait(0.05)
        return count(path) >= 4
      end)
      assert.equal(1, #seen)
    end
  end)

  it("sees a change within the second of its last check, also under the same validators", function()
    for _, path in ipairs { "/same-second?follow", "/same-second?follow?etag" } do
      local follower, seen = follow(bad.http .. path, { interval = 0.02 })
      assert.same({ "one", "two" }, { await(follower), await(follower) })
      helper.eventually(function()
        follower:wait(0.05)
        return count(path) >= 4
      end)
      assert.equal(2, #seen)
    end
  end)

  it("keeps its validators if the cache of all followers has forgotten the body", function()
    serve("forgotten", "body")
    local follower = follow(server.http .. "/forgotten", { interval = 0.02 })
    await(follower)
    local shared = theaterref.resource_cache { name = "theaterref.follow" }
    helper.eventually(function()
      shared:clear()
      follower:wait(0.05)
      return server:requests '/forgotten HTTP/1.1" 304' >= 3
    end)
    check_requests(1, '/forgotten HTTP/1.1" 200')
  end)

  it("does not download what another follower has, though its own content is older", function()
    serve("newer", "one")
    local url = server.http .. "/newer"
    local behind, ahead = follow(url, { interval = 0.2 }), follow(url, { interval = 0.02 })
    assert.same({ "one", "one" }, { await(behind), await(ahead) })
    serve("newer", "another")
    assert.equal("another", await(ahead))
    ahead:close()
    local started = core.now()
    helper.eventually(function() return core.now() > started + 0.3 end)
    assert.equal("another", await(behind))
    check_requests(2, '/newer HTTP/1.1" 200')
  end)

  it("keeps the last content while a server fails, and asks it less and less", function()
    local follower, seen, failed = follow(bad.http .. "/then-broken?follow", { interval = 0.05 })
    await(follower)
    local started = core.now()
    helper.eventually(function()
      follower:wait(0.05)
      return core.now() > started + 1
    end)
    assert.is_true(count "/then-broken?follow" <= 7) -- 0.05 + 0.1 + 0.2 + 0.4 + …
    assert.same({ "good" }, seen)
    assert.equal(1, #failed)
    assert.equal(503, failed[1].status)
    local blob, err = follower:content()
    assert.equal("good", tostring(blob))
    assert.equal(503, err.status)
  end)

  it("calls back when a server that never answered comes up", function()
    local relay = helper.relay(server.http_port, "reset", 3)
    serve("late", "up")
    local follower, seen, failed = follow(("http://127.0.0.1:%d/late"):format(relay.port), { interval = 0.02 })
    assert.equal("up", await(follower))
    assert.same({ 1, 1 }, { #seen, #failed })
    relay:stop()
  end)

  it("tries all candidates each time, and follows the first that is good", function()
    write("preferred", "one")
    local follower, seen = follow("name", { interval = 3600 }, resolver { policy = { rewrite = function()
      return { folder .. "/missing", folder .. "/preferred" }
    end } })
    assert.equal("one", await(follower))
    write("missing", "two")
    assert.equal("two", await(follower))
    os.remove(folder .. "/missing")
    assert.equal("one", await(follower))
    assert.same({ "one", "two", "one" }, seen)
  end)

  it("follows a policy's scheme to where it leads", function()
    write("a", "one")
    write("b", "two")
    local target = "a"
    local follower = follow("place://x", { interval = 0.02 }, resolver { policy = { schemes = {
      place = function() return { reference = folder .. "/" .. target } end } } })
    assert.equal("one", await(follower))
    target = "b"
    assert.equal("two", await(follower))
    write("b", "three")
    assert.equal("three", await(follower))
  end)

  it("has all rules judge each new content, and keeps the last good one", function()
    local path = write("file", "good 1")
    local events = {}
    local follower, seen, failed = follow(path, {}, resolver {
      policy = { accept = function(view) return view:sub(1, 4) == "good", "it is bad" end },
      on_event = function(event) if event.type:find "^follow" then events[#events + 1] = event.type end end })
    assert.equal("good 1", await(follower))
    write("file", "bad")
    silent(follower)
    assert.equal("rejected", failed[1].kind)
    assert.equal("good 1", tostring((follower:content())))
    write("file", "good 2")
    assert.equal("good 2", await(follower))
    assert.same({ "good 1", "good 2" }, seen)
    assert.same({ "follow_changed", "follow_failed", "follow_changed" }, events)
    follower, seen, failed = follow(path, {}, resolver { policy = { allow = function() return false, "closed" end } })
    silent(follower)
    assert.same({ 0, "denied" }, { #seen, failed[1].kind })
  end)

  it("downloads rejected content once, and accepts it under a policy that changed", function()
    serve("unsigned", "bytes")
    local accepted = false
    local follower, _, failed = follow(server.http .. "/unsigned", { interval = 0.02 },
      resolver { policy = { accept = function() return accepted, "not yet" end } })
    helper.eventually(function()
      follower:wait(0.05)
      return server:requests "/unsigned HTTP" >= 3
    end)
    assert.equal("rejected", failed[1].kind)
    accepted = true
    assert.equal("bytes", await(follower))
    check_requests(1, '/unsigned HTTP/1.1" 200')
  end)

  it("follows the lockfile, and not a file that it does not agree with", function()
    local path = write("file", "one")
    local function lock(text) write("lock", ("theaterref lockfile 1\nsha256=%s  file\n"):format(core.digest(text))) end
    lock "one"
    local follower, seen, failed = follow(path, {}, resolver { lockfile = folder .. "/lock" })
    assert.equal("one", await(follower))
    write("file", "two")
    silent(follower)
    assert.equal("digest_mismatch", failed[#failed].kind)
    write("lock", "broken")
    silent(follower)
    lock "two"
    assert.equal("two", await(follower))
    assert.same({ "one", "two" }, seen)
  end)

  it("asks no server for what a lockfile fixes, until that changes", function()
    serve("locked", "locked one")
    local url = server.http .. "/locked"
    local function lock(text) write("lock", ("theaterref lockfile 1\nsha256=%s  %s\n"):format(core.digest(text), url)) end
    lock "locked one"
    local follower = follow(url, { interval = 0.02 }, resolver { lockfile = folder .. "/lock" })
    assert.equal("locked one", await(follower))
    silent(follower)
    check_requests(1, "/locked HTTP")
    serve("locked", "locked two")
    silent(follower)
    check_requests(1, "/locked HTTP")
    lock "locked two"
    assert.equal("locked two", await(follower))
    check_requests(2, "/locked HTTP")
  end)

  -- A registry with the tag main; 'put' gives it another layer.
  local function start_registry()
    local registry = helper.registry "open"
    function registry.asked(method, part)
      local found = 0
      for line in io.lines(registry.folder .. "/out") do
        if line:find(('"%s /v2/[^ ]*%s'):format(method, part)) then found = found + 1 end
      end
      return found
    end
    function registry.put_layer(text)
      local config, layer = writer.put_blob(registry.at, "app", "{}"), writer.put_blob(registry.at, "app", text)
      writer.put_document(registry.at, "app", "main", ([[{"schemaVersion":2,"mediaType":"%s",
        "config":{"mediaType":"x/y","digest":"%s","size":2},
        "layers":[{"mediaType":"application/wasm","digest":"%s","size":%d}]}]]):format(writer.MANIFEST, config, layer, #text))
    end
    registry.main = "oci://" .. registry.at .. "/app:main"
    return registry
  end

  it("asks a registry by HEAD, once for all followers, and downloads a layer once", function()
    local registry = start_registry()
    local requests, put, ref = registry.asked, registry.put_layer, registry.main
    put "layer one"
    local first, seen = follow(ref, { interval = 0.05 })
    local second = follow(ref, { interval = 0.05 })
    assert.same({ "layer one", "layer one" }, { await(first), await(second) })
    local shared, before, started = theaterref.resource_cache { name = "theaterref.follow" }, requests("HEAD", "manifests/main"), core.now()
    helper.eventually(function()
      first:wait(0.02)
      second:step()
      shared:remove("sha256://" .. core.digest "layer one") -- an evicted layer is not downloaded again
      return requests("HEAD", "manifests/main") >= before + 3
    end)
    assert.is_true(requests("HEAD", "manifests/main") - before <= (core.now() - started) / 0.05 + 1)
    assert.same({ 1, 1 }, { requests("GET", "blobs/sha256:" .. core.digest "layer one"), requests("GET", "manifests/main") })
    put "layer two"
    assert.equal("layer two", await(first))
    assert.same({ "layer one", "layer two" }, seen)
    assert.equal("layer two", await(second))
    assert.equal(1, requests("GET", "blobs/sha256:" .. core.digest "layer two"))
    assert.same({ nil, "layer two" }, { shared:get("sha256://" .. core.digest "layer one"),
      tostring(shared:get("sha256://" .. core.digest "layer two")) })
    registry:stop()
  end)

  it("does not wait for long for a state that began a check of a tag, and is busy", function()
    local registry = start_registry()
    registry.put_layer "layer"
    local results = threads.run(2, ([[
      local theaterref, core = require "theaterref", require "theaterref.core"
      local number, done = ..., theaterref.resource_cache { name = %q }
      local follower = theaterref.resolver({ log = false }):follow(%q, function() end, { interval = 0.05 })
      if number == 1 then follower:step() end
      return function()
        local started = core.now()
        if number == 1 then -- its function compiles, say
          while not done:get "done" and core.now() < started + 60 do core.timer(0.05):wait() end
          return tostring(follower:content())
        end
        local blob = follower:wait(50)
        local _, lead = done:claim "done"
        lead:complete(core.blob "x")
        return tostring(blob)
      end]]):format(folder, registry.main))
    registry:stop()
    assert.same({ "nil", "layer" }, results)
  end)

  it("shares checks of what its server says is not to be stored, also with respect_no_store", function()
    local url, r = bad.http .. "/no-store?follow", resolver { respect_no_store = true, cache = theaterref.resource_cache() }
    local own = tostring(r:resolve_cached(url))
    for _ = 1, 5 do assert.not_equal(own, await((follow(url, {}, r)))) end
    assert.equal(2, count "/no-store?follow")
    r:resolve_cached(url)
    assert.equal(3, count "/no-store?follow") -- the resolver's own cache got none
  end)

  -- Follows, and goes on until a check has failed.
  local function follow_failing(url, interval, r)
    local follower, _, failed = follow(url, { interval = interval }, r)
    helper.eventually(function()
      follower:wait(0.02)
      return #failed > 0 and not follower.check
    end)
    return follower
  end

  it("counts a failure once, however often it is the answer", function()
    local url = bad.http .. "/missing?counted"
    write("lock", ("theaterref lockfile 1\nsha256=%s  %s\n"):format(core.digest "x", url))
    local first = follow_failing(url, 100, resolver { lockfile = folder .. "/lock" }) -- looks again as it watches the lockfile
    helper.eventually(function()
      first:wait(0.02)
      return first:timeout() > 50
    end)
    assert.equal(1, count "/missing?counted")
    assert.is_true(first:timeout() <= 100, first:timeout())
  end)

  it("is due when all are that had the same failure", function()
    local url = bad.http .. "/missing?joined"
    local first, started = follow_failing(url, 100), core.now()
    helper.eventually(function() return core.now() > started + 0.5 end)
    local second = follow_failing(url, 200)
    assert.is_true(math.abs(second:timeout() - first:timeout() - 100) < 0.1)
    assert.equal(1, count "/missing?joined")
  end)

  it("asks less and less under a lockfile, too", function()
    local url, started = bad.http .. "/missing?backoff", core.now()
    write("lock", ("theaterref lockfile 1\nsha256=%s  %s\n"):format(core.digest "x", url))
    local follower = follow_failing(url, 0.05, resolver { lockfile = folder .. "/lock" })
    helper.eventually(function()
      follower:wait(0.05)
      return core.now() > started + 1
    end)
    local asked = count "/missing?backoff"
    assert.is_true(asked >= 3 and asked <= 7, asked)
  end)

  it("asks again for what a lockfile fixes if the failure is older than its interval", function()
    local url = server.http .. "/fixed-late"
    write("lock", ("theaterref lockfile 1\nsha256=%s  %s\n"):format(core.digest "late", url))
    local r = resolver { lockfile = folder .. "/lock" }
    follow_failing(url, 3600, r)
    serve("fixed-late", "late")
    assert.equal("late", await((follow(url, { interval = 0.1 }, r))))
  end)

  it("renews the resolver's own cache before it calls back", function()
    serve("renewed", "one")
    local url = server.http .. "/renewed"
    local r = resolver { cache = theaterref.resource_cache() }
    assert.equal("one", tostring(r:resolve_cached(url)))
    local in_cache
    local follower = r:follow(url, function() in_cache = tostring(r:resolve_cached(url)) end, { interval = 0.02 })
    following.add(follower)
    await(follower)
    serve("renewed", "another")
    assert.equal("another", await(follower))
    assert.equal("another", in_cache)
    check_requests(3, '/renewed HTTP/1.1" 200')
  end)

  it("renews it where a scheme or a list of candidates leads to", function()
    local cases = {
      { "scheme", { schemes = { place = function() return { reference = server.http .. "/led" } end } }, "place://x", "led" },
      { "list", { rewrite = function() return { server.http .. "/preferred", server.http .. "/fallback" } end }, "name", "fallback", "preferred" },
      { "list, back", { rewrite = function() return { server.http .. "/first", server.http .. "/second" } end }, "name", "first", "second" },
    }
    for i, case in ipairs(cases) do
      local name, policy, ref, first, second = table.unpack(case, 1, 5)
      serve(first, "one")
      local r = resolver { cache = theaterref.resource_cache(), policy = policy }
      assert.equal("one", tostring(r:resolve_cached(ref)))
      local in_cache
      local follower <close> = r:follow(ref, function() in_cache = tostring(r:resolve_cached(ref)) end, { interval = 0.02 })
      await(follower)
      serve(second or first, "another")
      if i == 3 then os.remove(server.folder .. "/www/" .. first) end
      assert.equal("another", await(follower))
      assert.equal("another", in_cache, name)
    end
  end)

  it("renews it where a scheme leads to a registry", function()
    local registry = start_registry()
    registry.put_layer "one"
    local r = resolver { cache = theaterref.resource_cache(), policy = { schemes = {
      place = function() return { reference = registry.main } end } } }
    assert.equal("one", tostring(r:resolve_cached "place://x"))
    local in_cache
    local follower <close> = r:follow("place://x", function() in_cache = tostring(r:resolve_cached "place://x") end, { interval = 0.05 })
    await(follower)
    registry.put_layer "two"
    assert.equal("two", await(follower))
    assert.equal("two", in_cache)
    registry:stop()
  end)

  it("renews the resolver's own cache with its first content, too, for as long as that cache keeps any", function()
    serve("renewed", "one")
    local url = server.http .. "/renewed"
    local r = resolver { cache = theaterref.resource_cache { ttl = 0.5 } }
    local slow = resolver { cache = theaterref.resource_cache() }
    for _, each in ipairs { r, slow } do assert.equal("one", tostring(each:resolve_cached(url))) end
    serve("renewed", "another")
    for _, each in ipairs { r, slow } do
      local follower <close> = each:follow(url, function() end, { interval = 0.02 })
      assert.equal("another", await(follower))
      assert.equal("another", tostring(each:resolve_cached(url)))
    end
    serve("renewed", "the third")
    helper.eventually(function() return tostring(r:resolve_cached(url)) == "the third" end)
  end)

  it("sees a lockfile that is replaced while it is read", function()
    local path = write("locked", "two")
    local function lock(text)
      return write("lockfile", ("theaterref lockfile 1\nsha256=%s size=3  locked\n"):format(core.digest(text)))
    end
    local lockfile, file_version = lock "one", core.file_version
    local replaced
    function core.file_version(asked) -- luacheck: ignore
      if asked == lockfile and not replaced then replaced = lock "two" end
      return file_version(asked)
    end
    local ok, r = pcall(resolver, { lockfile = lockfile })
    core.file_version = file_version -- luacheck: ignore
    assert(ok, r)
    local follower = follow(path, {}, r)
    assert.equal("two", await(follower))
  end)

  it("asks a server once in an interval for 1,000 followers in 8 states, and all see each content once", function()
    serve("crowd", "one")
    serve("crowd-next", "another")
    local interval = 0.5 * helper.slowness
    local url, path, started = server.http .. "/crowd", server.folder .. "/www/crowd", core.now()
    local results = threads.run(8, ([[
      local theaterref, core = require "theaterref", require "theaterref.core"
      local number, followers, calls, texts = ..., {}, 0, {}
      local resolver = theaterref.resolver { log = false, retries = 0 }
      for i = 1, 125 do -- none of them needs a descriptor
        followers[i] = resolver:follow(%q, function(blob)
          calls = calls + 1
          texts[tostring(blob)] = (texts[tostring(blob)] or 0) + 1
        end, { interval = %f })
      end
      local changed = number > 1
      return function()
        local started = core.now()
        while core.now() < started + %f or calls < 250 do
          local wait = 1
          for _, follower in ipairs(followers) do
            follower:step()
            wait = math.min(wait, follower:timeout() or 1)
          end
          if not changed and core.now() > started + %f then
            os.rename(%q .. "-next", %q)
            changed = true
          end
          if core.now() > started + 60 then break end
          core.future():wait(math.min(wait, 0.02))
        end
        return ("%%d %%d %%d"):format(calls, texts.one or 0, texts.another or 0)
      end]]):format(url, interval, interval * 5, interval * 2.5, path, path))
    local seconds = core.now() - started
    for _, result in ipairs(results) do assert.equal("250 125 125", result) end
    check_requests(2, '/crowd HTTP/1.1" 200')
    assert.is_true(server:requests "/crowd HTTP" <= seconds / interval + 1)
    assert.is_true(server:requests "/crowd HTTP" >= 4)
  end)

  it("asks a server that is down once in an interval for followers in 8 states", function()
    local url = bad.http .. "/missing?crowd"
    local results = threads.run(8, ([[
      local theaterref, core = require "theaterref", require "theaterref.core"
      local followers, failed = {}, 0
      local resolver = theaterref.resolver { log = false, retries = 0 }
      for i = 1, 20 do
        followers[i] = resolver:follow(%q, error, { interval = 60, on_error = function() failed = failed + 1 end })
      end
      return function()
        local started = core.now()
        while failed < 20 and core.now() < started + 60 do
          for _, follower in ipairs(followers) do follower:step() end
        end
        return failed
      end]]):format(url))
    for _, failed in ipairs(results) do assert.equal("20", failed) end
    assert.equal(1, count "/missing?crowd")
  end)

  it("goes on after its function or on_error raised, and reports that", function()
    local path, failed, calls = write("file", "one"), {}, 0
    local follower = resolver():follow(path, function()
      calls = calls + 1
      error "boom"
    end, { on_error = function(err)
      failed[#failed + 1] = err
      error "again"
    end })
    following.add(follower)
    await(follower)
    write("file", "two")
    await(follower)
    assert.equal(2, calls)
    assert.truthy(failed[1].message:find "the function of follow failed: .*boom")
  end)

  it("may be closed, stepped and joined by others within its function, but not waited for", function()
    local path, others, err = write("file", "one"), {}, nil
    local r = resolver()
    local follower
    follower = r:follow(path, function()
      assert(follower:step())
      err = select(2, pcall(follower.wait, follower))
      others[1] = r:follow(path, function(blob) others[2] = tostring(blob) end)
      follower:close()
    end)
    assert.equal("one", await(follower))
    assert.truthy(err:find("cannot be waited for by its own function", 1, true))
    await(others[1])
    assert.equal("one", others[2])
    others[1]:close()
    assert.is_false(follower:step())
    assert.equal("cancelled", select(2, follower:wait()).kind)
    write("file", "two")
    assert.is_nil(follower:timeout())
  end)

  it("is closed by the end of its block, and leaves no descriptor and no thread", function()
    local function files() return select(2, helper.run_ok("ls /proc/" .. helper.pid() .. "/fd"):gsub("\n", "")) end
    local before
    for i = 1, 3 do
      do
        local follower <close> = resolver():follow(write("file", "one"), function() end)
        await(follower)
      end
      collectgarbage()
      if i == 1 then before = files() end -- a descriptor is kept for the next
    end
    helper.eventually(function()
      return not helper.run("cat /proc/" .. helper.pid() .. "/task/*/comm"):find "theaterref%-watch" and files() <= before
    end)
  end)

  it("leaves few descriptors in an event loop when many are closed at once", function()
    local path, before = write("file", "one"), #helper.run_ok("ls /proc/" .. helper.pid() .. "/fd | tr -d '0-9'")
    local list = {}
    for i = 1, 200 do
      list[i] = resolver():follow(path, function() end)
      list[i]:pollfd()
    end
    for i = 1, 200 do list[i]:close() end
    list = nil -- luacheck: ignore
    collectgarbage()
    assert.is_true(#helper.run_ok("ls /proc/" .. helper.pid() .. "/fd | tr -d '0-9'") <= before + 20)
  end)

  it("goes on in a child of fork(), and in its parent", function()
    local path = write("file", "one")
    local follower = follow(path)
    await(follower)
    if threads.fork(60) then
      write("file", "two")
      if await(follower) ~= "two" then os.exit(1) end
      write("file", "three")
      if await(follower) == "three" then threads.leave() end
      os.exit(1)
    end
    threads.wait()
    helper.eventually(function()
      follower:wait(0.05)
      return tostring((follower:content())) == "three"
    end)
  end)

  it("wakes an event loop", function()
    local path, seen = write("file", "one"), {}
    local script = helper.write(folder .. "/loop.lua", [[
      local uv, theaterref = require "luv", require "theaterref"
      local path, seen = ..., {}
      local follower, watcher
      follower = theaterref.resolver():follow(path, function(blob)
        seen[#seen + 1] = tostring(blob)
        if #seen == 3 then
          follower:close()
          watcher:close()
          return
        end
        local file = io.open(path, "w")
        file:write(#seen == 1 and "two" or "three")
        file:close()
      end, { interval = 3600 })
      watcher = uv.new_poll(follower:pollfd())
      watcher:start("r", function() follower:step() end)
      uv.run()
      print(table.concat(seen, " "))]])
    seen[1] = helper.run_ok(("timeout 30 %s %s %s"):format(helper.lua, script, path))
    assert.same({ "one two three\n" }, seen)
  end)

  it("refuses arguments of other types", function()
    local r = resolver()
    assert.error_matches(function() r:follow(1, error) end, "a reference must be a string, not a number")
    assert.error_matches(function() r:follow("x") end, "follow takes a function, not a nil")
    for _, wrong in ipairs { { interval = "1" }, { jitter = 2 }, { jitter = 0 / 0 }, { intervall = 1 }, { timeout = 1 } } do
      assert.error(function() r:follow("x", error, wrong) end)
    end
    local follower = follow(write("file", "one"))
    assert.error_matches(function() follower:wait "1" end, "a number of seconds was expected, not a string")
    assert.error_matches(function() follower:wait(0 / 0) end, "not NaN")
  end)
end)
