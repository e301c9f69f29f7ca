-- Remote stores in resolvers: references, policies, outages, event loops, and one fetch for all who want it.
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"

describe("a resolver with a remote store", function()
  local s3, folder, prefix, events
  local count = 0

  setup(function() s3 = helper.s3_stub() end)
  teardown(function() s3:stop() end)

  before_each(function()
    folder = helper.temporary_folder()
    count, events = count + 1, {}
    prefix = "policy" .. count
    s3:control { faults = {}, down = false }
    s3:log()
  end)

  after_each(function() helper.remove(folder) end)

  local function options(more)
    local all = { home = folder .. "/home", s3 = s3.settings, log = false, retries = 0,
      stores = { release = { remote = "s3://bucket/" .. prefix, label_ttl = 0 } },
      on_event = function(event)
        if event.type == "remote_store" then events[#events + 1] = event end
      end }
    for name, value in pairs(more or {}) do all[name] = value end
    return all
  end

  local function resolver(more) return assert(theaterref.resolver(options(more))) end

  -- The store on another machine, which deploys.
  local function writer()
    return theaterref.content_store("release", { base_path = folder .. "/writer", remote = "s3://bucket/" .. prefix,
      s3 = s3.settings })
  end

  local function asked(pattern) return s3:asked(pattern) end

  it("writes nothing offline, and says why", function()
    local hash = writer():put "bytes"
    local store = writer():within { offline = true }
    s3:log()
    for _, call in ipairs { { "put", "bytes" }, { "put", "other" }, { "label", "x", hash }, { "store_at_label", "x", "bytes" },
                            { "remove_label", "x" } } do
      local result, err = store[call[1]](store, call[2], call[3])
      assert.is_nil(result)
      assert.matches("offline: s3://bucket/", err.message, 1, true)
    end
    assert.same({}, s3:log())
    helper.write(folder .. "/file", "bytes")
    local copied, err = resolver { offline = "other" }:copy(folder .. "/file", "store://release/x")
    assert.is_nil(copied)
    assert.matches("offline", tostring(err), 1, true)
  end)

  it("raises nothing when the process has no descriptor left", function()
    local hash = writer():store_at_label("x", "bytes")
    local script = helper.write(folder .. "/full.lua", ([[
      local store = require "theaterref".content_store("release", { base_path = %q, remote = "s3://bucket/%s", label_ttl = 0,
        s3 = { endpoint = %q, region = "us-east-1", access_key_id = %q, secret_access_key = %q } })
      local hash = assert(store:get_by_label "x")
      local files = {}
      repeat
        local file = io.open "/dev/null"
        files[#files + 1] = file
      until not file
      for _, call in ipairs { "get_by_label", "history", "label" } do
        local ok, result, err = pcall(store[call], store, "x", hash)
        assert(ok and (result or err), call .. ": " .. tostring(result))
      end
      print(hash)]]):format(folder .. "/here", prefix, s3.settings.endpoint, s3.settings.access_key_id,
      s3.settings.secret_access_key))
    assert.equal(hash .. "\n", helper.run_ok("ulimit -n 64; " .. helper.lua .. " " .. script))
  end)

  it("resolves its labels and hashes", function()
    local hash = writer():store_at_label("actors/worker", "bytes")
    local r = resolver()
    assert.equal("bytes", tostring(r:resolve "store://release/actors/worker"))
    assert.equal("bytes", tostring(r:resolve("store://release/hash/" .. hash)))
    local _, err = r:resolve "store://release/none"
    assert.equal("Failed to resolve reference: Label not found: none (store://release/none)", tostring(err))
    assert.equal("not_found", select(2, r:resolve("store://release/hash/" .. ("0"):rep(40))).kind)
    assert.equal("not_found", select(2, r:resolve "store://local/x").kind)
    assert.equal("bytes", tostring(r:store "release":get(hash)))
  end)

  it("keeps nobody waiting for a future that waits for credentials and that nobody asks", function()
    local hash = writer():store_at_label("x", "bytes")
    local script = helper.write(folder .. "/credentials", ([[#!/bin/sh
      while [ ! -e %s/go ]; do sleep 0.02; done
      echo '{"Version":1,"AccessKeyId":"%s","SecretAccessKey":"%s"}']]):format(folder, s3.settings.access_key_id,
      s3.settings.secret_access_key))
    helper.run_ok("chmod +x " .. script)
    local settings = { endpoint = s3.settings.endpoint, region = s3.settings.region, credential_process = script }
    for _, reference in ipairs { "store://release/x", "store://release/hash/" .. hash } do
      local future = resolver { s3 = settings }:start(reference)
      helper.write(folder .. "/go", "")
      assert.equal("bytes", tostring(assert(resolver { s3 = settings, resolve_timeout = 20 }:resolve(reference))))
      future:cancel()
      os.remove(folder .. "/go")
      helper.remove(folder .. "/home")
      settings.credential_process = script .. " again"
    end
  end)

  it("keeps its bytes in the resolver's cache", function()
    local hash = writer():store_at_label("x", "bytes")
    local r = resolver { cache = {} }
    for _, ref in ipairs { "store://release/hash/" .. hash, "store://release/x" } do
      assert.is_false(select(2, r:resolve_cached(ref)))
      s3:log()
      assert.is_true(select(2, r:resolve_cached(ref)))
      assert.equal(0, #s3:log())
    end
  end)

  it("checks a digest that a rule demands", function()
    writer():store_at_label("x", "bytes")
    local r = resolver { policy = { integrity = function() return core.digest "other" end } }
    assert.equal("digest_mismatch", select(2, r:resolve "store://release/x").kind)
    r = resolver { policy = { integrity = function() return core.digest "bytes" end } }
    assert.equal("bytes", tostring(r:resolve "store://release/x"))
    r = resolver { max_bytes = 3 }
    assert.equal("too_large", select(2, r:resolve "store://release/x").kind)
  end)

  it("is a mirror among candidates", function()
    helper.run_ok("mkdir -p " .. folder)
    helper.write(folder .. "/here", "local")
    writer():store_at_label("x", "remote")
    local r = resolver { policy = { rewrite = function(ref)
      return ref == "name" and { "store://release/none", "store://release/x" } or { "store://release/x", folder .. "/here" }
    end } }
    assert.equal("remote", tostring(r:resolve "name"))
    assert.equal("local", tostring(r:resolve "other")) -- what is at hand comes first
  end)

  describe("takes its manifests as remote ones:", function()
    local function plan(package, more)
      local store = writer()
      store:store_at_label("app/worker.wasm", helper.module "x")
      store:store_at_label("app/manifest.toml", ('name = "a"\npackage = %q\n'):format(package))
      return resolver(more):plan "store://release/app/manifest.toml"
    end

    for _, package in ipairs { "worker.wasm", "store://release/app/worker.wasm", "data:,x" } do
      it("they may name " .. package, function()
        local made, err = plan(package)
        assert.is_nil(err)
        assert.truthy(made)
      end)
    end

    for _, package in ipairs { "/etc/hostname", "file:///etc/hostname", "store://other/x", "http://127.0.0.1:1/x" } do
      it("they may not name " .. package, function()
        local made, err = plan(package)
        assert.is_nil(made)
        assert.equal("denied", err.kind)
      end)
    end

    it("a manifest of a local store may name both", function()
      theaterref.content_store("mine", { home = folder .. "/home" }):store_at_label("m.toml",
        'name = "a"\npackage = "store://release/w.wasm"\n')
      writer():store_at_label("w.wasm", helper.module "x")
      assert.truthy(resolver():plan "store://mine/m.toml")
    end)

    it("one in Lua is refused", function()
      writer():store_at_label("m.lua", 'return { name = "a", package = "data:,x" }')
      assert.equal("denied", select(2, resolver():plan "store://release/m.lua").kind)
      assert.truthy(resolver { lua_manifests = true }:plan "store://release/m.lua")
    end)

    it("a rule sees where they come from", function()
      local seen
      plan("worker.wasm", { policy = { allow = function(_, ctx)
        if ctx.purpose == "package" then seen = ctx.origin_is_remote end
        return true
      end } })
      assert.is_true(seen)
    end)
  end)

  it("plans spawns during an outage, with an event", function()
    local store = writer()
    store:store_at_label("w.wasm", helper.module "x")
    store:store_at_label("m.toml", 'name = "a"\npackage = "w.wasm"\n')
    assert.truthy(resolver():plan "store://release/m.toml")
    s3:control { down = true }
    local made, err = resolver():plan "store://release/m.toml"
    assert.is_nil(err)
    assert.equal("a", made.name)
    assert.equal("store://release", events[1].reference)
    assert.matches("cannot be reached, so label m.toml counts as it was", events[1].message)
  end)

  it("reports wrong bytes as an event", function()
    local hash = ("1"):rep(40)
    s3:control { put = { { bucket = "bucket", key = prefix .. "/data/" .. hash, text = "wrong" } } }
    assert.equal("corrupt", select(2, resolver():resolve("store://release/hash/" .. hash)).kind)
    assert.matches("is corrupt, and was refused", events[1].message)
  end)

  it("asks nothing when it is offline", function()
    local store = writer()
    local hash = store:store_at_label("x", "known")
    store:store_at_label("y", "unknown")
    resolver():resolve "store://release/x"
    s3:log()
    local r = resolver { offline = "none" }
    assert.equal("known", tostring(r:resolve "store://release/x"))
    assert.equal("known", tostring(r:resolve("store://release/hash/" .. hash)))
    local _, err = r:resolve "store://release/y"
    assert.equal("not_found", err.kind)
    assert.matches("offline", err.message)
    assert.equal(0, #s3:log())
  end)

  it("copies into it", function()
    helper.write(folder .. "/file", "copied")
    local result = assert(resolver():copy(folder .. "/file", "store://release/a/b"))
    assert.equal("copied", tostring(writer():get_content_by_label "a/b"))
    assert.equal("copied", tostring(resolver():resolve(result.reference)))
  end)

  it("finds locked content in it", function()
    local hash = theaterref.content_store("release", { base_path = folder .. "/writer", remote = "s3://bucket/" .. prefix,
      s3 = s3.settings, algorithm = "sha256" }):put "locked"
    local r = resolver { policy = { integrity = function() return { sha256 = hash, store = "release" } end } }
    assert.equal("locked", tostring(r:resolve "https://nowhere.invalid/x"))
  end)

  describe("never blocks a load", function()
    it("that is slow, and has one fetch for all who wait in a state", function()
      local hash = writer():store_at_label("x", ("x"):rep(100000))
      s3:control { faults = { { ["do"] = "slow", method = "GET", seconds = 0.3 * helper.slowness, times = 9 } } }
      s3:log()
      local r, futures = resolver { stores = { release = { remote = "s3://bucket/" .. prefix, label_ttl = 60 } } }, {}
      local began = core.now()
      for i = 1, 20 do futures[i] = assert(r:start "store://release/x") end
      assert.is_true(core.now() - began < 0.15 * helper.slowness)
      for _, future in ipairs(futures) do
        assert.is_number(future:pollfd())
        assert.equal(100000, #future:wait(20))
      end
      local lines = table.concat(s3:log(), "\n")
      assert.equal(1, select(2, lines:gsub("GET [^\n]*labels/x", "")))
      assert.equal(1, select(2, lines:gsub("GET [^\n]*" .. hash, "")))
    end)

    it("of another process, or of this one, for longer than a fetch that nobody looks after", function()
      local hash = writer():store_at_label("x", "v")
      local r = resolver { stores = { release = { remote = "s3://bucket/" .. prefix, label_ttl = 60 } } }
      local folder_of_locks = theaterref.content_store("x", { base_path = folder .. "/home/store/release/front" })
      local function is_unlocked(...)
        local lock <close> = folder_of_locks:try_lock(...)
        return lock ~= nil
      end
      local future = assert(r:start("store://release/hash/" .. hash))
      assert.is_false(is_unlocked("content", hash))
      helper.eventually(function() return is_unlocked("content", hash) end)
      local by_label = assert(r:start "store://release/x")
      helper.eventually(function() return is_unlocked("label", core.digest "x") end)
      assert.equal("v", tostring(future:wait(10)))
      assert.equal("v", tostring(by_label:wait(10)))
    end)

    it("while another process fetches other content, whose hash begins as its own does", function()
      local hash = writer():put "mine"
      local other = hash:sub(1, 14) .. (hash:sub(15, 15) == "0" and "1" or "0") .. hash:sub(16)
      local folder_of_locks = theaterref.content_store("x", { base_path = folder .. "/home/store/release/front" })
      local lock <close> = assert(folder_of_locks:try_lock("content", other)) -- luacheck: ignore lock
      local began = core.now()
      assert.equal("mine", tostring(resolver():resolve("store://release/hash/" .. hash)))
      assert.is_true(core.now() - began < 5 * helper.slowness)
    end)

    it("while another process fetches, which then has it for both", function()
      local hash = writer():put "for all"
      local local_store = theaterref.content_store("x", { base_path = folder .. "/home/store/release/front" })
      local lock <close> = assert(local_store:try_lock("content", hash)) -- luacheck: ignore lock
      s3:log()
      local future = assert(resolver():start("store://release/hash/" .. hash))
      assert.is_false(future:done())
      assert.equal("timeout", select(2, future:wait(0.1)).kind)
      assert.equal(0, asked(hash))
      theaterref.content_store("x", { base_path = folder .. "/home/store/release" }):put "for all"
      assert.equal("for all", tostring(future:wait(10)))
      assert.equal(0, asked(hash))
    end)
  end)

  it("follows a label by the store's label_ttl, unless there is an interval", function()
    writer():store_at_label("x", "one")
    local r = resolver { stores = { release = { remote = "s3://bucket/" .. prefix, label_ttl = 2 } } }
    local function wait_after(ref, follow_options)
      local follower <close> = r:follow(ref, function() end, follow_options)
      assert(follower:wait(10))
      return follower:timeout()
    end
    local seconds = wait_after "store://release/x"
    assert.is_true(seconds > 1 and seconds <= 2.2, seconds)
    assert.is_true(wait_after("store://release/x", { interval = 30 }) > 20)
  end)

  it("follows a label that another machine moves, and fetches no content twice", function()
    local store, seen = writer(), {}
    store:store_at_label("x", "one")
    local follower <close> = assert(resolver():follow("store://release/x", function(blob) seen[#seen + 1] = tostring(blob) end,
      { interval = 0.05, jitter = 0 }))
    local function eventually(contents)
      helper.eventually(function()
        follower:wait(0.05)
        return #seen == contents
      end)
    end
    eventually(1)
    s3:log()
    for _ = 1, 4 do follower:wait(0.1) end
    assert.is_true(asked "labels/x 304" > 1)
    assert.equal(0, asked "GET .*data/")
    s3:control { down = true }
    for _ = 1, 4 do follower:wait(0.1) end
    s3:control { down = false }
    store:store_at_label("x", "two")
    eventually(2)
    assert.same({ "one", "two" }, seen)
  end)

  -- The numbers in the guide, by the words before them.
  local guide = {}
  for words, number in helper.read "examples/guides/remote-stores.md":gmatch "\n| (%l[^|\n]-) | (%d+) |" do
    guide[words] = tonumber(number)
  end

  -- Asserts that the server was asked as often as the guide says.
  local function costs(words)
    local lines = s3:log()
    assert.equal(guide[words], #lines, words .. ":\n" .. table.concat(lines, "\n"))
  end

  it("makes as many requests as its guide says", function()
    local store = writer()
    local function deploy(n)
      local hash = store:put(helper.module("w" .. n))
      assert(store:label("w.wasm", hash))
      return hash
    end
    local hash = deploy(1)
    store:store_at_label("m.toml", 'name = "a"\npackage = "w.wasm"\n')
    store:store_at_label("by-hash.toml", ('name = "a"\npackage = "store://release/hash/%s"\n'):format(hash))
    local function plan(home, ttl, name, more)
      local all = { home = folder .. "/" .. home, stores = { release = { remote = "s3://bucket/" .. prefix, label_ttl = ttl } } }
      for key, value in pairs(more or {}) do all[key] = value end
      return assert(resolver(all):plan("store://release/" .. (name or "m.toml")))
    end
    s3:log()
    plan("a", 60)
    costs "first spawn of a manifest and a package, both by label"
    plan("b", 60, "by-hash.toml")
    costs "the same, the package by hash"
    plan("a", 60)
    costs "spawn within `label_ttl` of the last, by any process of the machine"
    plan("a", 0)
    costs "spawn later: a conditional request for each label"
    deploy(2)
    costs "deploy: put new content and move a label to it"
    plan("a", 0)
    costs "spawn after the package's label has moved"
    plan("a", 0, nil, { offline = "none" })
    costs "spawn offline, or in an outage that is known"
    store = theaterref.content_store("release", { base_path = folder .. "/fresh", remote = "s3://bucket/" .. prefix .. "x",
      s3 = s3.settings })
    s3:control { put = { { bucket = "bucket", key = prefix .. "x/data/" .. core.digest("before", "sha1"), text = "before" },
      { bucket = "bucket", key = prefix .. "x/labels/w.wasm", text = core.digest("before", "sha1") } } }
    s3:log()
    deploy(3)
    costs "deploy by a process that has not tried the bucket out today"
    assert(writer():label("new", hash))
    costs "deploy of content that is in the bucket, under a new label without `/`"
    local row = ("| a remote store, by labels | %d | %d within `label_ttl`, then %d | %d, or %d for the first in a day | %d |"):format(
      guide["first spawn of a manifest and a package, both by label"],
      guide["spawn within `label_ttl` of the last, by any process of the machine"], guide["spawn later: a conditional request for each label"],
      guide["deploy: put new content and move a label to it"], guide["deploy by a process that has not tried the bucket out today"],
      guide["spawn after the package's label has moved"])
    assert.matches(row, helper.read "examples/guides/operators.md", 1, true)
  end)

  it("has one fetch for all threads and processes of a machine", function()
    local hash = writer():store_at_label("x", ("x"):rep(100000))
    s3:control { faults = { { ["do"] = "slow", method = "GET", key = hash, seconds = 0.5 * helper.slowness, times = 99 } } }
    s3:log()
    local code = ([[
      local theaterref = require "theaterref"
      local r = theaterref.resolver { home = %q, log = false, s3 = { endpoint = %q, access_key_id = %q, secret_access_key = %q },
        stores = { release = { remote = %q, label_ttl = 60 } } }
      return function() return tostring(#assert(r:resolve "store://release/x")) end]]):format(folder .. "/home",
      s3.settings.endpoint, s3.settings.access_key_id, s3.settings.secret_access_key, "s3://bucket/" .. prefix)
    local script = helper.write(folder .. "/process.lua", "print((function() " .. code .. " end)()())")
    helper.run_ok(("for i in 1 2 3; do %s %s >%s/out$i 2>&1 & done"):format(helper.lua, script, folder))
    for _, result in ipairs(threads.run(4, code)) do assert.equal("100000", result) end
    helper.eventually(function()
      for i = 1, 3 do
        if helper.read(("%s/out%d"):format(folder, i)) ~= "100000\n" then return false end
      end
      return true
    end)
    local lines = table.concat(s3:log(), "\n")
    assert.equal(1, select(2, lines:gsub("GET [^\n]*" .. hash, "")))
    assert.equal(1, select(2, lines:gsub("GET [^\n]*labels/x", "")))
  end)
end)
