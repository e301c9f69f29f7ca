-- Remote stores on the stub of S3: content, labels, outages, upkeep. See remote_label_spec.lua for compare and set.
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local helper = require "helper"
local theaterref = require "theaterref"

describe("a remote store", function()
  local s3, folder, warnings

  setup(function() s3 = helper.s3_stub() end)
  teardown(function() s3:stop() end)

  local count = 0
  local prefix -- of each spec's own store

  before_each(function()
    folder = helper.temporary_folder()
    count, warnings = count + 1, {}
    prefix = "store" .. count
    s3:control { faults = {}, down = false, without = {}, engine = { if_match = "both", delete_if_match = "both", loser = 412 } }
    s3:log()
  end)

  after_each(function() helper.remove(folder) end)

  -- The store on a machine, which is a folder of its own.
  local function open(machine, options)
    local all = { base_path = folder .. "/" .. (machine or "here"), remote = "s3://bucket/" .. prefix, s3 = s3.settings,
      label_ttl = 0, request = { retries = 0 }, on_warning = function(message) warnings[#warnings + 1] = message end }
    for name, value in pairs(options or {}) do all[name] = value end
    return theaterref.content_store("release", all)
  end

  -- How many requests the server got since the last question, by a pattern.
  local function asked(pattern) return s3:asked(pattern) end

  local function put(key, text, age) s3:control { put = { { bucket = "bucket", key = prefix .. "/" .. key, text = text, age = age } } } end

  local function objects() return s3:below(prefix) end

  it("has Theater's layout in the bucket, and ignores other keys", function()
    local store = open()
    local hash = assert(store:store_at_label("actors/worker", "bytes"))
    assert.truthy(objects()["data/" .. hash])
    assert.truthy(objects()["labels/actors/worker"])
    put("notes/readme", "no content")
    put("data/readme", "no content")
    assert.same({ hash }, store:list_all_content())
    assert.same({ ["actors/worker"] = hash }, (store:label_hashes()))
    assert.same({ "readme" }, store:verify { remote = true }.unexpected)
  end)

  it("is what a copy of a store's folder makes, and the reverse", function()
    local plain = theaterref.content_store("plain", { base_path = folder .. "/plain" })
    local hash = plain:store_at_label("a/b", "copied")
    put("data/" .. hash, "copied")
    put("labels/a/b", helper.read(folder .. "/plain/labels/a/b"))
    assert.equal("copied", tostring(open():get_content_by_label "a/b"))
    open "writer":store_at_label("a/b", "moved")
    -- As 'aws s3 sync' does it.
    local back = theaterref.content_store("back", { base_path = folder .. "/back" })
    local moved = open():get_by_label "a/b"
    back:put(tostring(open():get(moved)))
    back:label("a/b", moved)
    assert.equal("moved", tostring(back:get_content_by_label "a/b"))
  end)

  it("fetches content once, and then has it", function()
    local hash = open "writer":put "once"
    s3:log()
    local store = open()
    assert.equal("once", tostring(store:get(hash)))
    assert.equal("once", tostring(store:get(hash:upper())))
    assert.equal("once", tostring(open():get(hash)))
    assert.equal(1, asked("GET .*data/" .. hash))
    assert.is_true(store:exists(hash))
    assert.is_false(store:exists(("0"):rep(40)))
  end)

  it("takes SHA-256, too", function()
    local hash = open("writer", { algorithm = "sha256" }):put "long"
    assert.equal(64, #hash)
    assert.equal("long", tostring(open():get(hash)))
  end)

  it("reports content that is nowhere", function()
    local blob, err = open():get(("0"):rep(40))
    assert.is_nil(blob)
    assert.equal("not_found", err.kind)
    assert.matches("Content not found: 0+ %(in .* and s3://bucket/" .. prefix, err.message)
  end)

  for name, hash in pairs { sha1 = ("1"):rep(40), sha256 = ("2"):rep(64) } do
    it("refuses, reports and never keeps wrong bytes of a " .. name, function()
      put("data/" .. hash, "tampered")
      local store = open()
      for _ = 1, 2 do
        local blob, err = store:get(hash)
        assert.is_nil(blob)
        assert.equal("corrupt", err.kind)
      end
      assert.equal(2, #warnings)
      assert.matches("content " .. hash .. " in s3://.* is corrupt, and was refused", warnings[1])
      assert.is_false(helper.exists(folder .. "/here/data/" .. hash))
    end)
  end

  it("puts content again over wrong bytes of the same size", function()
    local writer = open "writer"
    local hash = writer:put "right"
    put("data/" .. hash, "wrong")
    assert.equal("corrupt", select(2, open "reader":get(hash)).kind)
    assert.equal(hash, open "writer":put "right")
    assert.equal("right", tostring(open "reader":get(hash)))
    s3:log()
    open "writer":put "right"
    assert.equal(0, asked "^PUT") -- it is there
  end)

  it("puts content again that it found to be wrong a moment after it put it", function()
    local store = open()
    local hash = store:put "right"
    put("data/" .. hash, "wrong")
    os.remove(folder .. "/here/data/" .. hash)
    assert.equal("corrupt", select(2, store:get(hash)).kind)
    store:put "right"
    assert.equal("right", tostring(open "reader":get(hash)))
  end)

  it("labels old content that somebody else writes at the same time", function()
    local store = open()
    local hash = open "writer":put "old"
    put("data/" .. hash, "old", 20 * 3600)
    s3:control { faults = { { ["do"] = "status", method = "PUT", key = "data/" .. hash, status = 412, code = "PreconditionFailed" } } }
    assert.is_true(store:label("x", hash))
    assert.equal(hash, store:get_by_label "x")
  end)

  it("asks to write content later that others write all the time, as an error of a kind that is documented", function()
    local store = open()
    local hash = open "writer":put "busy"
    put("data/" .. hash, "busy", 20 * 3600)
    for status, code in pairs { [412] = "PreconditionFailed", [409] = "OperationAborted" } do
      s3:control { faults = { { ["do"] = "status", method = "PUT", key = "data/", status = status, code = code, times = 99 } } }
      for _, call in ipairs { function() return store:label("x", hash) end, function() return store:put("new" .. status) end } do
        local done, err = call()
        assert.same({ nil, "http_status", status, code }, { done, err.kind, err.status, err.code })
        assert.matches("others write the same content at the same time: s3://bucket: .* status " .. status, err.message)
      end
      s3:control { faults = { { ["do"] = "status", method = "PUT", key = "data/", status = status, code = code, times = 2 } } }
      assert.truthy(store:put("newer" .. status))
    end
  end)

  it("does not take content of a bucket that is gone for absent", function()
    local store = open("here", { remote = "s3://nobody/x" })
    local there, err = store:exists(("0"):rep(40))
    assert.same({ nil, "NoSuchBucket" }, { there, err.code })
    local known
    known, err = store:label_exists "x"
    assert.is_nil(known)
    assert.matches("NoSuchBucket", err.message)
    store = open()
    local large = open "writer":put(("x"):rep(1000))
    assert.is_true(store:exists(large))
    s3:control { faults = { { ["do"] = "status", method = "HEAD", key = large, status = 404, code = "NoSuchKey" } } }
    assert.is_true(store:exists(large)) -- it came a moment later
    assert.is_false(store:exists(("0"):rep(40)))
  end)

  describe("whose server does not say itself that something is absent", function()
    local store, hash

    -- Checks that all calls fail with one kind of error, and that the last known label stays.
    local function check(kind, known)
      local other = open "other"
      for _, call in ipairs { function() return other:get_by_label "x" end, function() return other:label_exists "x" end,
        function() return other:get_content_by_label "x" end, function() return store:history "x" end,
        function() return store:remove_label "x" end, function() return store:remove_from_label("x", hash) end,
        function() return store:label("x", hash) end, function() return store:label("x", hash, { expect = false }) end,
        function() return store:label("new/label", hash) end, function() return other:exists(hash) end,
        function() return other:get(hash) end, function() return store:rollback "x" end,
        function() return other:label("x", ("0"):rep(40)) end, function() return store:put "other bytes" end,
        function() return store:list_labels() end, function() return store:gc { remote = true } end,
        function() return store:verify { remote = true } end } do
        local done, err = call()
        assert.is_nil(done)
        assert.equal(kind, err.kind, err.message)
      end
      assert.equal(known, store:get_by_label "x")
      assert.equal(hash, open():within { offline = true }:get_by_label "x")
    end

    before_each(function()
      store = open()
      hash = store:store_at_label("x", "bytes")
      store:get_by_label "x"
      open "other":label("warm", hash) -- what the engine can do is known
      os.remove(folder .. "/other/data/" .. hash)
    end)

    it("takes the page of a proxy for an outage", function()
      s3:control { faults = { { ["do"] = "status", status = 404, raw = "default backend", times = 999 } } }
      check("http_status", hash)
      assert.matches("cannot be reached, so label x counts as it was", warnings[#warnings])
    end)

    it("forgets nothing because its own credentials are missing", function()
      local credentials = require "theaterref.s3.credentials"
      local get = credentials.get
      finally(function() credentials.get = get end)
      function credentials.get()
        local err = errors.new("denied", "S3 credentials: no such file")
        err.no_credentials = true
        return nil, err
      end
      check("denied", hash)
    end)
  end)

  it("never keeps a body that was cut off", function()
    local hash = open "writer":put(("x"):rep(100000))
    s3:control { faults = { { ["do"] = "truncate", method = "GET", key = hash } } }
    local blob, err = open():get(hash)
    assert.is_nil(blob)
    assert.equal("network", err.kind)
    assert.equal(100000, #open():get(hash))
  end)

  it("finds content that was put a moment after it was missed", function()
    local store = open("here", { label_ttl = 60 })
    local hash = open("writer"):put "other"
    s3:control { faults = { { ["do"] = "status", method = "GET", key = hash, status = 404, code = "NoSuchKey" } } }
    assert.equal("not_found", select(2, store:get(hash)).kind)
    assert.equal("other", tostring(store:get(hash)))
  end)

  it("enforces a limit on content", function()
    local hash = open "writer":put "0123456789"
    local store = open()
    for _ = 1, 2 do
      assert.equal("too_large", select(2, store:get(hash, 5)).kind)
      assert.equal(10, #store:get(hash, 10))
    end
  end)

  it("replaces local content that was damaged", function()
    local hash = open "writer":put "sound"
    local store = open()
    store:get(hash)
    helper.write(folder .. "/here/data/" .. hash, "wrong")
    helper.run_ok(("touch -d '1 hour ago' %s/here/data/%s"):format(folder, hash)) -- its writer is done
    assert.equal("sound", tostring(open():get(hash)))
    assert.equal("sound", helper.read(folder .. "/here/data/" .. hash))
  end)

  it("works in front of a folder that cannot be written to", function()
    local hash = open "writer":store_at_label("x", "bytes")
    helper.write(folder .. "/file", "")
    local store = open "file/below"
    assert.equal("bytes", tostring(store:get_content_by_label "x"))
    assert.matches("content " .. hash .. " is not kept", warnings[1])
  end)

  describe("label", function()
    it("is asked for at most every label_ttl seconds, by all states and processes of a machine", function()
      local hash = open "writer":store_at_label("x", "one")
      s3:log()
      for _ = 1, 3 do assert.equal(hash, open("here", { label_ttl = 60 }):get_by_label "x") end
      local script = helper.write(folder .. "/ask.lua", ([[
        local store = require "theaterref".content_store("release", { base_path = %q, remote = %q, label_ttl = 60,
          s3 = { endpoint = %q, access_key_id = "AKIDEXAMPLE", secret_access_key = "wrong" } })
        print(store:get_by_label "x")]]):format(folder .. "/here", "s3://bucket/" .. prefix, s3.settings.endpoint))
      assert.equal(hash .. "\n", helper.run_ok(helper.lua .. " " .. script))
      assert.equal(1, asked "GET .*labels/x")
    end)

    it("is asked for with the ETag that is known", function()
      local hash = open "writer":store_at_label("x", "one")
      local store = open()
      store:get_by_label "x"
      s3:log()
      assert.equal(hash, store:get_by_label "x")
      assert.equal(1, asked "GET .*labels/x 304")
      local moved = open "writer":store_at_label("x", "two")
      s3:log()
      assert.equal(moved, store:get_by_label "x")
      assert.equal(1, asked "GET .*labels/x 200")
    end)

    it("that is absent is asked for at most every label_ttl seconds, too", function()
      local store = open("here", { label_ttl = 60 })
      assert.is_nil(store:get_by_label "none")
      assert.is_false(store:label_exists "none")
      assert.is_nil(store:get_content_by_label "none")
      assert.equal(1, asked "labels/none")
    end)

    it("counts at once where it was moved", function()
      local store = open("here", { label_ttl = 60 })
      assert.is_nil(store:get_by_label "x")
      local hash = store:store_at_label("x", "one")
      assert.equal(hash, store:get_by_label "x")
      local other = store:store_at_label("x", "two")
      assert.equal(other, store:get_by_label "x")
      assert.is_true(store:remove_label "x")
      assert.is_nil(store:get_by_label "x")
    end)

    it("counts as it was found here when it is moved to where it is, or removed though it is not as expected", function()
      local store, other = open("here", { label_ttl = 60 }), open "other"
      local one, two = store:put "one", other:put "two"
      local function moved_elsewhere(hash)
        assert.is_true(store:label("x", one))
        assert.equal(one, store:get_by_label "x")
        if hash then assert.is_true(other:label("x", hash)) else assert.is_true(other:remove_label "x") end
        assert.equal(one, store:get_by_label "x") -- within label_ttl
      end
      moved_elsewhere(two)
      assert.is_true(store:label("x", two))
      assert.equal(two, store:get_by_label "x")
      moved_elsewhere(two)
      assert.is_false(store:remove_from_label("x", one))
      assert.equal(two, store:get_by_label "x")
      moved_elsewhere()
      assert.is_false(store:remove_label "x")
      assert.is_nil(store:get_by_label "x")
    end)

    it("stays removed where it was removed, though an older answer comes in later", function()
      local mover = open("here", { label_ttl = 60 })
      local one = mover:put "one"
      open "other":label("x", one)
      local removed
      local slow = open("here", { label_ttl = 60 }):within { await = function(future)
        local blob, err, why = future:wait()
        if not removed then
          removed = true
          assert.is_true(mover:remove_label "x")
        end
        return blob, err, why
      end }
      slow:get_by_label "x" -- the bucket had answered before the removal
      assert.is_nil(open("here", { label_ttl = 60 }):get_by_label "x")
      assert.is_true(mover:label("x", one))
      assert.equal(one, open("here", { label_ttl = 60 }):get_by_label "x")
    end)

    it("counts as it was read, though the answer to an older move comes in later", function()
      local mover, other = open("here", { label_ttl = 60 }), open "other"
      local one, two, three = mover:put "one", mover:put "two", other:put "three"
      assert.is_true(mover:label("x", one))
      assert.is_true(other:label("warm", three))
      local moved
      local slow = mover:within { await = function(future)
        local blob, err, why = future:wait()
        for _, line in ipairs(moved and {} or s3:log()) do
          if line:find "^PUT .*labels/x" then
            moved = other:label("x", three)
            mover:expire_label "x"
            assert.equal(three, mover:get_by_label "x")
          end
        end
        return blob, err, why
      end }
      s3:log()
      assert.is_true(slow:label("x", two)) -- the bucket had moved it before the other one did
      assert.is_true(moved)
      assert.equal(three, open("here", { label_ttl = 60 }):get_by_label "x")
    end)

    it("counts as it was moved here, though it was read while it moved", function()
      local mover = open("here", { label_ttl = 60 })
      local one, two = mover:put "one", mover:put "two"
      assert.is_true(mover:label("x", one))
      local write, read = Client.put, nil
      finally(function() Client.put = write end)
      function Client.put(...)
        Client.put = write
        mover:expire_label "x"
        read = mover:get_by_label "x" -- before the bucket moves it
        return write(...)
      end
      assert.is_true(mover:label("x", two))
      assert.equal(one, read)
      assert.equal(two, open("here", { label_ttl = 60 }):get_by_label "x")
    end)

    it("and an outage are known in a locale with a decimal comma", function()
      local hash = open "writer":store_at_label("x", "one")
      helper.run_ok(("localedef --no-archive -i de_DE -f UTF-8 %s/de_DE.UTF-8"):format(folder))
      local script = helper.write(folder .. "/comma.lua", ([[
        assert(os.setlocale "de_DE.UTF-8")
        local seconds = require "theaterref.error".seconds
        assert(seconds(1) == "1 second" and seconds(20.5) == "20.5 seconds" and seconds(0) == "0 seconds")
        local store = require "theaterref".content_store("release", { base_path = %q, remote = %q, label_ttl = tonumber(arg[1]),
          s3 = { endpoint = %q, access_key_id = %q, secret_access_key = %q }, request = { retries = 0, timeout = tonumber(arg[2]) } })
        print(store:get_by_label "x")]]):format(folder .. "/here", "s3://bucket/" .. prefix, s3.settings.endpoint,
        s3.settings.access_key_id, s3.settings.secret_access_key))
      local function read(ttl, timeout)
        assert.equal(hash .. "\n", helper.run_ok(("LOCPATH=%s %s %s %d %d"):format(folder, helper.lua, script, ttl, timeout)))
      end
      read(60, 30)
      s3:log()
      read(60, 30)
      assert.equal(hash, open("here", { label_ttl = 60 }):get_by_label "x")
      assert.equal(0, asked "labels/x")
      s3:control { faults = { { ["do"] = "slow", seconds = 2, key = "labels/x", times = 9 } } }
      read(0, 1) -- an outage that took a second to notice lasts ten
      s3:log()
      read(0, 1)
      assert.equal(hash, open("here", { request = { retries = 0, timeout = 1 } }):get_by_label "x")
      assert.equal(0, asked "labels/x")
    end)

    it("counts as it was moved here, though an older answer comes in later", function()
      local mover = open("here", { label_ttl = 60 })
      local one, two = mover:put "one", mover:put "two"
      open "other":label("x", one)
      local moved
      local slow = open("here", { label_ttl = 60 }):within { await = function(future)
        local blob, err, why = future:wait()
        if not moved then
          moved = true
          assert.is_true(mover:label("x", two))
        end
        return blob, err, why
      end }
      assert.equal(two, slow:get_by_label "x") -- the bucket had answered before the move
      s3:log()
      assert.equal(two, open("here", { label_ttl = 60 }):get_by_label "x")
      assert.equal(0, asked "labels/x")
    end)

    it("of another bucket does not count when the folder gets another remote", function()
      local hash = open "here":store_at_label("x", "one")
      assert.equal(hash, open("here", { label_ttl = 60 }):get_by_label "x")
      local moved = open("here", { label_ttl = 60, remote = "s3://bucket/" .. prefix .. "-other" })
      assert.is_nil(moved:get_by_label "x")
      s3:control { down = true }
      assert.equal("network", select(2, moved:label("x", hash)).kind)
      assert.equal(hash, open("here", { label_ttl = 60 }):get_by_label "x")
    end)

    it("is learned again after the machine's clock was ahead", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store.front:set_label("x", { hash = one, asked = os.time() + 3600 }) -- as a clock wrote it that was an hour ahead
      open "other":label("x", two)
      assert.equal(two, store:get_by_label "x")
      s3:control { down = true }
      assert.equal(two, store:get_by_label "x")
    end)

    it("counts as it was during an outage, with a warning", function()
      local hash = open "writer":store_at_label("x", "one")
      local store = open()
      store:get_content_by_label "x"
      s3:control { down = true }
      assert.equal("one", tostring(store:get_content_by_label "x"))
      assert.matches("s3://bucket/" .. prefix .. "/ cannot be reached, so label x counts as it was", warnings[1])
      assert.equal(hash, open():get_by_label "x") -- another process
      local none, err = store:get_by_label "never-read"
      assert.is_nil(none)
      assert.equal("network", err.kind)
      s3:control { down = false }
      helper.eventually(function() return open():get_by_label "x" == hash and open():get_by_label "never-read" == nil end)
    end)

    it("counts as it was during an outage, also after a move that failed", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      s3:control { faults = { { ["do"] = "drop_before", method = "PUT", key = "labels/x", times = 99 },
        { ["do"] = "drop_before", method = "GET", key = "labels/x", times = 99, skip = 1 } } }
      assert.equal("unknown_outcome", select(2, store:label("x", two)).kind)
      assert.equal(one, store:get_by_label "x")
      assert.equal("network", select(2, store:rollback "x").kind)
      assert.equal(one, store:get_by_label "x")
    end)

    it("counts as it was when the server is too slow", function()
      local hash = open "writer":store_at_label("x", "one")
      local store = open("here", { request = { retries = 0, timeout = 0.2 } })
      store:get_by_label "x"
      s3:control { faults = { { ["do"] = "slow", key = "labels/x", seconds = 2, times = 9 } } }
      local began = core.now()
      s3:log()
      for _ = 1, 10 do assert.equal(hash, store:get_by_label "x") end
      assert.is_true(core.now() - began < 1.5 * helper.slowness)
      assert.equal(1, #warnings) -- the others did not wait for it
    end)

    it("counts as it was for other processes, too, which do not wait for the bucket", function()
      local hash = open "writer":store_at_label("x", "one")
      open():get_by_label "x"
      s3:control { faults = { { ["do"] = "drop_before", key = "labels/", times = 9 } } }
      assert.equal(hash, open():get_by_label "x")
      s3:log()
      warnings = {}
      for _ = 1, 3 do
        local store = open() -- as another process has it
        for _ = 1, 2 do assert.equal(hash, store:get_by_label "x") end
      end
      assert.equal(0, asked "labels/x")
      assert.equal(3, #warnings)
      assert.matches("could not be reached by another process", warnings[1])
      assert.equal("network", select(2, open():get_by_label "unknown").kind)
      s3:control { faults = {} }
      local note = helper.run_ok(("ls %s/here/front/outage-*"):format(folder)):match "[^\n]+"
      helper.write(note, ("%d"):format((os.time() + 3600) * 1000)) -- a wrong clock
      assert.equal(hash, open():get_by_label "x")
      assert.equal(1, asked "labels/x 304")
    end)

    it("moves for other processes although one cannot reach the bucket, because of its own options", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      s3:control { faults = { { ["do"] = "slow", key = "labels/x", seconds = 1 } } }
      for name, request in pairs { socket = { retries = 0, unix_socket = "/nowhere" }, limit = { retries = 0, timeout = 0.2 } } do
        warnings = {}
        assert.equal(one, open("here", { request = request }):get_by_label "x", name)
        assert.equal(1, #warnings)
      end
      open "other":label("x", two)
      assert.equal(two, open():get_by_label "x")
    end)

    it("that another process of the machine has moved or removed is known long before its time", function()
      local mover, reader = open("here", { label_ttl = 60 }), open("here", { label_ttl = 61 })
      local one, two = mover:put "one", mover:put "two"
      mover:label("x", one)
      assert.equal(one, reader:get_by_label "x")
      mover:label("x", two)
      helper.eventually(function() return reader:get_by_label "x" == two end)
      assert.equal("two", tostring(reader:at_hand(nil, "x")))
      assert.is_true(mover:remove_label "x")
      helper.eventually(function() return reader:get_by_label "x" == nil end)
      assert.is_nil((reader:at_hand(nil, "x")))
      mover:label("x", one)
      helper.eventually(function() return reader:get_by_label "x" == one end)
    end)

    it("stays known although a question about it, which others overtook, found none", function()
      local store = open()
      local hash = store:put "one"
      store:label("x", hash)
      store:forget_label("x", core.time() - 10)
      s3:control { down = true }
      assert.equal(hash, store:get_by_label "x")
    end)

    it("does not go back when the disk is full", function()
      local store = open("here", { label_ttl = 60 })
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      assert.equal(one, store:get_by_label "x")
      local open_file = io.open
      finally(function() rawset(io, "open", open_file) end)
      rawset(io, "open", function(path, mode)
        if mode == "wb" then return nil, "No space left on device" end
        return open_file(path, mode)
      end)
      assert.is_true(store:label("x", two))
      assert.equal(two, open("here", { label_ttl = 61 }):get_by_label "x")
    end)

    it("does not count as it was when the bucket refuses or is gone", function()
      open "writer":store_at_label("x", "one")
      local store = open()
      store:get_by_label "x"
      s3:control { faults = { { ["do"] = "status", status = 403, code = "AccessDenied", key = "labels/x" } } }
      assert.equal(403, select(2, store:get_by_label "x").status)
      local elsewhere = open("here", { remote = "s3://nobody/x" })
      local hash, err = elsewhere:get_by_label "x"
      assert.is_nil(hash)
      assert.matches("NoSuchBucket", err.message)
    end)

    it("that holds no hash is an error", function()
      put("labels/bad", "no hash")
      local hash, err = open():get_by_label "bad"
      assert.is_nil(hash)
      assert.equal("corrupt", err.kind)
      local hashes, faults = open():label_hashes()
      assert.same({}, hashes)
      assert.truthy(faults.bad)
    end)

    it("may be surrounded by blanks, as other programs write it", function()
      local hash = open "writer":put "one"
      put("labels/x", hash:upper() .. "\n")
      assert.equal(hash, open():get_by_label "x")
    end)

    it("that moves while its content is collected is read again", function()
      local writer, store = open "writer", open("here", { label_ttl = 60 })
      local old = writer:store_at_label("x", "one")
      assert.equal(old, store:get_by_label "x")
      writer:store_at_label("x", "two")
      s3:control { faults = { { ["do"] = "status", status = 404, code = "NoSuchKey", key = old, times = 9 } } }
      assert.equal("two", tostring(store:get_content_by_label "x"))
    end)
  end)

  describe("writing", function()
    it("uploads content that is missing, and only that", function()
      local store = open()
      local hash = store:put "bytes"
      assert.equal(1, asked("PUT .*data/" .. hash))
      open "other":put "bytes"
      assert.equal(0, asked("PUT .*data/" .. hash))
    end)

    it("uploads content before it moves a label", function()
      local store = open()
      local plain = theaterref.content_store("plain", { base_path = folder .. "/here" })
      local hash = plain:put "local only"
      assert.is_true(store:label("x", hash))
      assert.equal("local only", tostring(open "other":get_content_by_label "x"))
      local moved, err = store:label("y", ("0"):rep(40))
      assert.is_nil(moved)
      assert.equal("not_found", err.kind)
    end)

    it("makes content young again before it is labelled, and when a label leaves it", function()
      local store = open()
      local first, second = store:put "one", store:put "two"
      store:label("x", first)
      s3:control { age = { bucket = "bucket", prefix = prefix .. "/", seconds = 13 * 3600 } }
      assert.is_true(open "other":label("x", second))
      for _, hash in ipairs { first, second } do
        assert.is_true(objects()["data/" .. hash].age < 600, hash)
      end
      s3:control { age = { bucket = "bucket", prefix = prefix .. "/", seconds = 11 * 3600 } }
      s3:log()
      assert.is_true(open "third":label("x", first)) -- no need yet
      assert.equal(0, asked "x%-amz%-copy%-source")
    end)

    it("reports an upload that failed, and uploads it later", function()
      local store = open()
      s3:control { faults = { { ["do"] = "status", status = 503, code = "SlowDown", method = "PUT" } } }
      local hash, err = store:put "later"
      assert.is_nil(hash)
      assert.equal(503, err.status)
      hash = core.digest("later", "sha1")
      assert.is_true(store:label("x", hash))
      assert.truthy(objects()["data/" .. hash])
    end)

    it("refuses names that no folder could hold", function()
      local store = open()
      local hash = store:store_at_label("a/b", "x")
      for _, name in ipairs { "a", "a/b/c", "a/b/c/d", "../x", "hash/x", ("p/"):rep(100) .. ("long"):rep(220) } do
        local moved, err = store:label(name, hash)
        assert.is_nil(moved)
        assert.equal("invalid_reference", err.kind, name)
      end
      assert.equal("invalid_reference", select(2, store:label("x", "no hash")).kind)
      assert.same({ "a/b" }, store:list_labels())
    end)
  end)

  describe("upkeep:", function()
    it("the local gc keeps content that the bucket's labels name, or named before", function()
      local store = open()
      local former, labelled = store:store_at_label("x", "one"), open "other":store_at_label("x", "two")
      assert.equal("two", tostring(store:get(labelled)))
      local free = store:put "three"
      assert.same({ free }, store:gc { grace = 0 }.deleted)
      assert.truthy(helper.exists(folder .. "/here/data/" .. labelled) and helper.exists(folder .. "/here/data/" .. former))
      assert.truthy(objects()["data/" .. free])
      s3:control { down = true }
      assert.equal("network", select(2, store:gc { grace = 0 }).kind)
    end)

    it("content that verify finds corrupt is put again, also a moment after it was put", function()
      local store = open()
      local hash = store:put "right"
      put("data/" .. hash, "wrong")
      assert.same({ hash }, store:verify { remote = true }.corrupt)
      store:put "right"
      assert.same({}, store:verify { remote = true }.corrupt)
    end)

    it("verify checks the folder, or everything in the bucket", function()
      local store = open()
      local good, gone = store:store_at_label("good", "x"), ("a"):rep(40)
      put("labels/dangling", gone)
      put("data/" .. ("b"):rep(40), "wrong")
      put("labels/good/inner", good)
      local report = store:verify { remote = true }
      assert.equal(1, report.checked)
      assert.same({ ("b"):rep(40) }, report.corrupt)
      assert.same({ "dangling" }, report.dangling)
      assert.same({ gone }, report.missing)
      assert.matches("folder of the label", report.faulty_labels.good)
      assert.equal(1, store:verify().checked)
      assert.same({}, store:verify().corrupt)
    end)

    it("the folder keeps at most max_bytes, and loses what was used longest ago", function()
      local writer, hashes = open "writer", {}
      for i = 1, 5 do hashes[i] = writer:put(("%d"):format(i):rep(1000)) end
      local plain = theaterref.content_store("plain", { base_path = folder .. "/here" })
      local store = open("here", { max_bytes = 3500 })
      for _, i in ipairs { 1, 2, 3, "again", 1, 4 } do
        if i == "again" then store = open("here", { max_bytes = 3500 }) else store:get(hashes[i]) end -- the new one notes uses
        plain:clock(plain:clock()) -- so that the next use has another time
      end
      local left = plain:content_sizes()
      assert.truthy(left[hashes[1]] and left[hashes[4]])
      assert.is_nil(left[hashes[2]])
      assert.is_true(store:gc { grace = 3600 } ~= nil)
      assert.equal(1000, #store:get(hashes[2]))
    end)

    it("the folder never loses content of its own labels", function()
      local plain = theaterref.content_store("plain", { base_path = folder .. "/here" })
      local mine = plain:store_at_label("mine", ("m"):rep(1000))
      local hash = open "writer":put(("r"):rep(3000))
      open("here", { max_bytes = 1000 }):get(hash)
      assert.truthy(plain:get(mine))
    end)

    it("lists 2,500 labels by pages", function()
      local store = open()
      local hash = store:put "x"
      s3:control { fill = { bucket = "bucket", prefix = prefix .. "/labels/l", count = 2500, text = hash } }
      s3:log()
      local labels = store:list_labels()
      assert.equal(2500, #labels)
      assert.equal("l00000", labels[1])
      assert.equal(3, asked "list%-type=2")
    end)

    it("exports and imports", function()
      local store = open()
      local hash = store:store_at_label("a/b", "exported")
      assert.is_true(store:export(folder .. "/x.tar"))
      prefix = prefix .. "copy"
      local copy = open "copy"
      assert.equal(2, copy:import(folder .. "/x.tar"))
      assert.equal(hash, copy:get_by_label "a/b")
      assert.truthy(objects()["data/" .. hash])
    end)

    it("moves the labels of a batch at its end, one by one", function()
      local store = open()
      local ok, err = store:batch(function(batch)
        batch:label("x", batch:put "one")
        assert.is_nil(store:get_by_label "x")
        batch:label("y", ("0"):rep(40))
        return true
      end)
      assert.is_nil(ok)
      assert.matches("1 of 2 labels of the batch have moved", err.message)
      assert.equal("one", tostring(store:get_content_by_label "x"))
    end)
  end)

  it("refuses a place that is none", function()
    for _, remote in ipairs { "https://x/y", "s3://", "s3:///x", "s3://b/../c", "s3://b//c", "s3://b/x?y" } do
      local store, err = open("here", { remote = remote })
      assert.is_nil(store, remote)
      assert.equal("invalid_reference", err.kind)
    end
  end)

  it("is safe with a server that leaves out what others send", function()
    local store = open()
    local one = store:store_at_label("x", "one")
    for _, name in ipairs { "ETag", "Last-Modified", "Size" } do
      s3:control { without = { name } }
      assert.equal("one", tostring(open("new" .. name):get_content_by_label "x"))
      local moved, err = open("there" .. name):store_at_label("x", "two" .. name)
      assert.is_true(moved ~= nil or err.kind == "syntax")
      store:remove_from_label("x", one)
      store:usage()
      store:label_hashes()
      local report, why = store:gc { remote = true }
      assert.is_true(report and #report.deleted == 0 or why.kind == "syntax")
      s3:control { without = {} }
      store:label("x", one)
    end
  end)

  it("names the header that a server leaves out", function()
    local store = open()
    local one = store:store_at_label("x", "one")
    for name, call in pairs { ETag = function(machine) return open(machine):label("x", one) end,
      ["LastModified"] = function(machine) return open(machine):gc { remote = true } end } do
      s3:control { without = { name } }
      for _, machine in ipairs { "here", "new" } do
        local done, err = call(machine)
        assert.same({ nil, "syntax" }, { done, err.kind })
        assert.matches(name, err.message, 1, true)
      end
    end
    s3:control { without = { "ETag" } }
    prefix = prefix .. "-new"
    local moved, err = open():store_at_label("x", "one")
    assert.same({ nil, "syntax" }, { moved, err.kind })
    assert.matches("the server of s3://bucket/" .. prefix .. "/ sent an object without the header ETag, which labels need", err.message,
      1, true)
    assert.same({ ["data/" .. one] = true }, (function()
      local keys = {}
      for key in pairs(objects()) do keys[key] = true end
      return keys
    end)())
  end)

  it("shows no secret in an error", function()
    local settings = { endpoint = s3.settings.endpoint, access_key_id = "AKIDEXAMPLE", secret_access_key = "tiger" }
    local store = open("here", { s3 = settings })
    for _, err in ipairs { select(2, store:get(("0"):rep(40))), select(2, store:put "x"), select(2, store:get_by_label "x") } do
      assert.equal(403, err.status)
      assert.is_nil(tostring(err):find "tiger")
    end
  end)
end)
