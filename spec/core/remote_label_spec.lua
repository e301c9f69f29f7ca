-- Labels of remote stores: compare and set by several writers, on all sorts of engines, with answers that are lost.
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

describe("a label of a remote store", function()
  local s3, folder, prefix
  local count = 0

  setup(function() s3 = helper.s3_stub() end)
  teardown(function() s3:stop() end)

  before_each(function()
    folder = helper.temporary_folder()
    count = count + 1
    prefix = "label" .. count
    s3:control { faults = {}, down = false, engine = { if_match = "both", delete_if_match = "both", loser = 412, longest_metadata = 2048 } }
    s3:log()
  end)

  after_each(function() helper.remove(folder) end)

  local function open(machine)
    return assert(theaterref.content_store("release", { base_path = folder .. "/" .. (machine or "here"), label_ttl = 0,
      remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 0 } }))
  end

  local function fault(f)
    f.key = f.key or "labels/x"
    s3:control { faults = { f } }
  end

  -- The store, and three hashes: 'x' is at the first. After the first write of a label 'name' that fails, 'after_failure' is
  -- called with another machine's store and the third hash.
  local function contest(after_failure, name)
    local store, other = open(), open "other"
    local one, two = store:put "one", store:put "two"
    local three = other:put "three"
    assert.is_true(store:label("x", one))
    local put = Client.put
    finally(function() Client.put = put end)
    function Client.put(client, key, ...)
      local head, err = put(client, key, ...)
      if not head and key == prefix .. "/labels/" .. (name or "x") then
        Client.put = put
        after_failure(other, three)
      end
      return head, err
    end
    return store, one, two, three
  end

  describe("moved with 'expect'", function()
    it("moves only from there", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      assert.is_false(store:label("x", one, { expect = two }))
      assert.is_true(store:label("x", one, { expect = false }))
      assert.is_false(store:label("x", two, { expect = false }))
      assert.is_false(open "other":label("x", two, { expect = two:gsub("%x", "0") }))
      assert.is_true(open "other":label("x", two, { expect = one:upper() }))
      assert.equal(two, store:get_by_label "x")
      assert.same({ one }, store:history "x")
    end)

    it("has moved when the answer was lost", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      fault { ["do"] = "drop_after", method = "PUT" }
      assert.is_true(store:label("x", two, { expect = one }))
      assert.equal(two, store:get_by_label "x")
      fault { ["do"] = "drop_after", method = "PUT", key = "labels/new" }
      assert.is_true(store:label("new", two, { expect = false }))
    end)

    it("moves in the end when the bucket itself says that it did not work", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      for _, f in ipairs { { status = 409, code = "ConditionalRequestConflict" }, { status = 500, code = "InternalError" } } do
        f["do"], f.method, f.times = "status", "PUT", 2
        fault(f)
        assert.is_true(store:label("x", two, { expect = one }), f.code)
        assert.equal(two, store:get_by_label "x")
        assert.is_true(store:label("x", one, { expect = two }))
      end
    end)

    it("may yet move when the answer was lost, though it is as it was, so that it is not written again", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      for _, options in ipairs { { expect = one }, {} } do
        fault { ["do"] = "drop_before", method = "PUT" }
        s3:log()
        local moved, err = store:label("x", two, options)
        assert.is_nil(moved)
        assert.equal("unknown_outcome", err.kind)
        assert.matches("the label points at " .. one .. " now, and the request may yet take effect; read it before you change it again",
          err.message, 1, true)
        assert.equal(1, s3:asked "^PUT .*labels/x")
      end
    end)

    it("is not said to have moved when a request that is late undoes a newer move", function()
      local store, other = open(), open "other"
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      local slow = assert(theaterref.content_store("release", { base_path = folder .. "/here", label_ttl = 0,
        remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 0, timeout = 0.3 } }))
      fault { ["do"] = "slow", method = "PUT", seconds = 1 }
      local moved, err = slow:label("x", two, { expect = one })
      assert.same({ nil, "unknown_outcome" }, { moved, err.kind })
      assert.equal(one, other:get_by_label "x") -- not yet
      helper.eventually(function() return other:get_by_label "x" == two end)
    end)

    it("may have moved when it came back to its hash, and another writer who had read it before moved it on", function()
      local store, other, third = open(), open "other", open "third"
      local one, two, three = store:put "one", store:put "two", store:put "three"
      assert.is_true(store:label("x", one))
      assert.is_true(third:label("warm", one)) -- the engine is known to all
      local late = coroutine.create(function() return third:label("x", three, { expect = one }) end)
      local put, hold = Client.put, nil
      finally(function() Client.put = put end)
      function Client.put(client, key, ...)
        if not key:find "labels/x$" then return put(client, key, ...) end
        if coroutine.running() == late then coroutine.yield() end
        local head, err = put(client, key, ...)
        if hold then
          hold = nil
          assert.is_true(other:label("x", one, { expect = two }))
          assert.same({ true, true }, { coroutine.resume(late) })
        end
        return head, err
      end
      assert.is_true(coroutine.resume(late)) -- it has read the label, and is about to write it
      hold = true
      fault { ["do"] = "drop_after", method = "PUT" }
      local moved, err = store:label("x", two, { expect = one })
      assert.same({ nil, "unknown_outcome" }, { moved, err.kind })
      assert.equal(three, store:get_by_label "x")
    end)

    it("may have been made when the answer was lost and there is none", function()
      local view, _, two = contest(function(other) assert.is_true(other:remove_label "new") end, "new")
      fault { ["do"] = "drop_after", method = "PUT", key = "labels/new" }
      local moved, err = view:label("new", two, { expect = false })
      assert.same({ nil, "unknown_outcome" }, { moved, err.kind })
      assert.matches("there is no such label now", err.message)
    end)

    it("has each attempt leave another UUID, and those of the moves before", function()
      local store = open()
      local put, seen = Client.put, {}
      finally(function() Client.put = put end)
      function Client.put(client, key, blob, options)
        if key:find "labels/x$" then seen[#seen + 1] = options.metadata["theaterref-writer"] end
        return put(client, key, blob, options)
      end
      store:label("x", store:put "one")
      fault { ["do"] = "status", method = "PUT", status = 500, code = "InternalError" }
      store:label("x", store:put "two")
      assert.equal(3, #seen)
      assert.not_equal(seen[2], seen[3])
      local metadata = s3:control {} .bucket[prefix .. "/labels/x"].metadata
      assert.same({ seen[3], seen[1] }, { metadata["theaterref-writer"], metadata["theaterref-writers"] })
      for _, uuid in ipairs(seen) do assert.matches("^%x+%-%x+%-%x+%-%x+%-%x+$", uuid) end
    end)

    it("has moved when a proxy says that the server is busy, though it had moved it, and others moved it on often", function()
      for _, answer in ipairs { { 503, "ServiceUnavailable" }, { 503 }, { 429 }, { 408 } } do
        prefix = ("label%d-%d%s"):format(count, answer[1], answer[2] or "")
        local store, other = open(), open "other"
        local one, two = store:put "one", store:put "two"
        assert.is_true(store:label("x", one))
        assert.is_true(other:label("warm", one))
        local patient = assert(theaterref.content_store("release", { base_path = folder .. "/here", label_ttl = 0,
          remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 3 } }))
        fault { ["do"] = "status_after", method = "PUT", status = answer[1], code = answer[2], raw = not answer[2] and "busy" or nil, retry_after = 0 }
        local put = Client.put
        finally(function() Client.put = put end)
        function Client.put(client, key, ...)
          local head, err = put(client, key, ...)
          if key:find "labels/x$" then
            Client.put = put
            assert.is_true(err.unknown)
            for i = 1, 14 do assert.is_true(other:label("x", other:put("more " .. i))) end
          end
          return head, err
        end
        local moved, err = patient:label("x", two, { expect = one })
        assert.same({ nil, "unknown_outcome" }, { moved, err.kind }) -- it is not said that it did not move
      end
    end)

    it("is moved again when the server itself says that it is busy", function()
      local store = assert(theaterref.content_store("release", { base_path = folder .. "/here", label_ttl = 0,
        remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 3 } }))
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      for status, code in pairs { [503] = "SlowDown", [429] = "TooManyRequests" } do
        fault { ["do"] = "status", method = "PUT", status = status, code = code, retry_after = 0 }
        s3:log()
        assert.is_true(store:label("x", two, { expect = one }))
        assert.is_true(store:label("x", one, { expect = two }))
      end
    end)

    it("is never written twice with one condition unless it was read in between", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      fault { ["do"] = "status", method = "PUT", times = 3, status = 500, code = "InternalError" }
      s3:log()
      assert.is_true(store:label("x", two, { expect = one }))
      local before
      for _, line in ipairs(s3:log()) do
        if line:find "labels/x" then
          local method = line:match "^%u+"
          assert.is_false(method == "PUT" and before == "PUT")
          before = method
        end
      end
    end)

    it("may have moved when the answer was lost and the bucket is gone", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      s3:control { faults = { { ["do"] = "drop_after", method = "PUT", key = "labels/x" },
        { ["do"] = "drop_before", method = "GET", key = "labels/x", times = 99, skip = 1 } } }
      local moved, err = store:label("x", two, { expect = one })
      assert.is_nil(moved)
      assert.equal("unknown_outcome", err.kind)
      assert.matches("label x may or may not have moved to " .. two, err.message)
    end)

    it("has moved when another writer moved it on meanwhile", function()
      local view, one, two, three = contest(function(other, three) assert.is_true(other:label("x", three)) end)
      fault { ["do"] = "drop_after", method = "PUT" }
      assert.is_true(view:label("x", two, { expect = one }))
      assert.equal(three, view:get_by_label "x")
      assert.same({ two, one }, view:history "x")
    end)

    it("has not moved when another writer was faster, and may have moved if the answer was lost, too", function()
      local view, one, two, three = contest(function(other, three) assert.is_true(other:label("x", three)) end)
      fault { ["do"] = "status", method = "PUT", status = 412, code = "PreconditionFailed" }
      assert.is_false(view:label("x", two, { expect = one }))
      assert.equal(three, view:get_by_label "x")
      view, one, two, three = contest(function(other, hash) assert.is_true(other:label("x", hash)) end)
      fault { ["do"] = "drop_before", method = "PUT" }
      assert.equal("unknown_outcome", select(2, view:label("x", two, { expect = one })).kind)
      assert.equal(three, view:get_by_label "x")
    end)

    it("moves from there again when it was refused and another writer had moved it away and back", function()
      local view, one, two = contest(function(other, three)
        assert.is_true(other:label("x", three))
        assert.is_true(other:rollback "x" ~= nil)
      end)
      fault { ["do"] = "status", method = "PUT", status = 412, code = "PreconditionFailed" }
      assert.is_true(view:label("x", two, { expect = one }))
    end)

    it("may have moved when the bucket said that it did not work and another writer came, but is moved again without 'expect'", function()
      for _, expects in ipairs { true, false } do
        local view, one, two, three = contest(function(other, hash) assert.is_true(other:label("x", hash)) end)
        fault { ["do"] = "status", method = "PUT", status = 500, code = "InternalError" }
        local moved, err = view:label("x", two, { expect = expects and one or nil })
        assert.equal(expects and "unknown_outcome" or nil, err and err.kind)
        assert.equal(not expects or nil, moved)
        assert.equal(expects and three or two, view:get_by_label "x")
      end
    end)

    it("has not moved when the bucket answers as Ceph does to a writer that lost, and another writer came", function()
      for _, name in ipairs { "x", "new" } do
        local view, one, two, three = contest(function(other, hash) assert.is_true(other:label(name, hash)) end, name)
        local expect = name == "x" and one
        fault { ["do"] = "status", method = "PUT", key = "labels/" .. name, status = 500, code = "UnknownError" }
        assert.is_false(view:label(name, two, { expect = expect }))
        assert.equal(three, view:get_by_label(name))
        view:remove_label "new"
      end
      local view, one, two = contest(function(_, hash)
        s3:control { put = { { bucket = "bucket", key = prefix .. "/labels/x", text = hash } } } -- by another program
      end)
      fault { ["do"] = "status", method = "PUT", status = 500, code = "UnknownError" }
      assert.equal("unknown_outcome", select(2, view:label("x", two, { expect = one })).kind)
    end)

    it("may have moved when a program that leaves no trace wrote it meanwhile", function()
      local view, one, two = contest(function(_, three)
        s3:control { put = { { bucket = "bucket", key = prefix .. "/labels/x", text = three } } }
      end)
      fault { ["do"] = "drop_after", method = "PUT" }
      assert.equal("unknown_outcome", select(2, view:label("x", two, { expect = one })).kind)
    end)

    it("may have moved when it is gone meanwhile", function()
      local view, one, two = contest(function(other) assert.is_true(other:remove_label "x") end)
      fault { ["do"] = "drop_after", method = "PUT" }
      assert.equal("unknown_outcome", select(2, view:label("x", two, { expect = one })).kind)
    end)
  end)

  it("that is removed if it points at a hash says when that is not known", function()
    local store = open()
    local one, two = store:put "one", store:put "two"
    store:label("x", one)
    assert.is_false(store:remove_from_label("x", two))
    fault { ["do"] = "status", method = "DELETE", status = 500, code = "InternalError" }
    assert.is_true(store:remove_from_label("x", one))
    store:label("x", one)
    fault { ["do"] = "drop_before", method = "DELETE" }
    local removed, err = store:remove_from_label("x", one)
    assert.same({ nil, "unknown_outcome" }, { removed, err.kind })
    assert.matches("label x may or may not have been removed: .*; the label points at " .. one .. " now", err.message)
    fault { ["do"] = "drop_after", method = "DELETE" }
    assert.equal("unknown_outcome", select(2, store:remove_from_label("x", one)).kind)
    store:label("x", one)
    fault { ["do"] = "drop_after", method = "DELETE" }
    assert.is_true(store:remove_label "x")
    assert.is_false(store:remove_label "x")
  end)

  it("gets content that the bucket has with other bytes from the folder", function()
    local store = open()
    local one, two = store:put "one", store:put "two"
    store:label("x", one)
    for _, text in ipairs { "shorter", "2wo" } do
      s3:control { put = { { bucket = "bucket", key = prefix .. "/data/" .. two, text = text } } }
      local mover = open() -- which did not put it a moment ago
      assert.is_true(mover:label("x", two))
      assert.equal("two", tostring(open("reader" .. #text):get_content_by_label "x"))
      s3:control { put = { { bucket = "bucket", key = prefix .. "/data/" .. one, text = text } } }
      assert.equal(one, (open():rollback "x"))
      assert.equal("one", tostring(open("reader" .. #text):get_content_by_label "x"))
    end
  end)

  it("moves with 'expect' although somebody deletes the object with which the engine is tried out", function()
    for number = 2, 6 do
      prefix = ("label%d/%d"):format(count, number)
      local store, n = open(), 0
      local one, two = store:put "one", store:put "two"
      local methods = { put = Client.put, delete = Client.delete }
      for name, method in pairs(methods) do
        Client[name] = function(client, key, ...)
          if key:find "/theaterref/" then
            n = n + 1
            if n == number then assert(methods.delete(client, key)) end
          end
          return method(client, key, ...)
        end
      end
      local ok, err = store:label("x", one)
      for name, method in pairs(methods) do Client[name] = method end
      assert.is_true(ok, err)
      assert.is_true(store:label("x", two, { expect = one }))
      assert.is_true(store:remove_from_label("x", two))
    end
  end)

  -- Has a server answer the first of some requests with an error, and carry it out right before the second. 'call_after' is called in
  -- between.
  local function carry_out_late(method, call_after)
    local call, first = Client[method], nil
    finally(function() Client[method] = call end)
    Client[method] = function(client, key, ...)
      if key ~= prefix .. "/labels/x" then return call(client, key, ...) end
      if first then
        Client[method] = call
        assert(call(client, table.unpack(first)))
        if call_after then call_after() end
      else
        first = { key, ... }
      end
      return call(client, key, ...)
    end
    fault { ["do"] = "status", method = method:upper(), status = 500, code = "InternalError" }
  end

  it("that was moved by an attempt that seemed to have failed has moved", function()
    for _, expects in ipairs { true, false } do
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      carry_out_late "put"
      assert.is_true(store:label("x", two, expects and { expect = one } or nil))
      assert.equal(two, store:get_by_label "x")
    end
  end)

  it("that was moved by an attempt that seemed to have failed, and then by others, has moved", function()
    local store, other = open(), open "other"
    local one, two, three = store:put "one", store:put "two", other:put "three"
    store:label("x", one)
    carry_out_late("put", function() assert.is_true(other:label("x", three)) end)
    assert.is_true(store:label("x", two, { expect = one }))
    assert.equal(three, store:get_by_label "x")
  end)

  it("that was removed by an attempt that seemed to have failed may have been removed", function()
    local store = open()
    local one = store:put "one"
    store:label("x", one)
    carry_out_late "delete"
    local removed, err = store:remove_from_label("x", one)
    assert.same({ nil, "unknown_outcome" }, { removed, err.kind })
    store:label("x", one)
    carry_out_late "delete"
    assert.is_true(store:remove_label "x")
  end)

  it("that was made again is not removed by a removal whose answer was lost", function()
    for _, engine in ipairs { "both", "refused" } do
      s3:control { engine = { if_match = engine, delete_if_match = engine } }
      for _, f in ipairs { { ["do"] = "drop_after" }, { ["do"] = "status_after", status = 500, code = "InternalError" } } do
        prefix = ("label%d-%s-%s"):format(count, engine, f["do"])
        local store, other = open(), open "other"
        local one, two = store:put "one", other:put "two"
        store:label("x", one)
        assert.is_true(other:label("warm", two))
        local patient = assert(theaterref.content_store("release", { base_path = folder .. "/here", label_ttl = 0,
          remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 3 } }))
        f.method = "DELETE"
        fault(f)
        s3:log()
        -- Another machine makes the label again as soon as the server has removed it.
        local made
        local view = patient:within { await = function(future)
          helper.eventually(function()
            for _, line in ipairs(made and {} or s3:log()) do
              if line:find "^DELETE" then made = other:label("x", two) end
            end
            return made or future:done()
          end)
          return future:wait()
        end }
        local removed, err = view:remove_label "x"
        assert.is_true(made)
        assert.same({ nil, "unknown_outcome" }, { removed, err.kind })
        assert.equal(two, open "third":get_by_label "x")
      end
    end
  end)

  it("that holds no hash, or cannot be read, is moved and removed", function()
    local store = open()
    local one = store:put "one"
    for _, object in ipairs { { text = "no hash" }, { text = ("x"):rep(5000) }, { text = one, archived = true } } do
      for _, call in ipairs { function() return store:label("x", one) end, function() return store:remove_label "x" end } do
        object.bucket, object.key = "bucket", prefix .. "/labels/x"
        s3:control { put = { object } }
        assert.is_false(store:label("x", one, { expect = false }))
        assert.is_false(store:label("x", one, { expect = one }))
        assert.is_false(store:remove_from_label("x", one))
        assert.equal("corrupt", select(2, store:history "x").kind)
        local hashes, faults = store:label_hashes()
        assert.same({}, hashes)
        assert.matches("label x holds no hash", faults.x)
        assert.truthy(store:verify { remote = true }.faulty_labels.x)
        assert.is_true(call())
      end
      assert.is_nil(store:get_by_label "x")
    end
  end)

  it("that somebody else removes first was not removed by the one that came late", function()
    local store, other = open(), open "other"
    local one = store:put "one"
    store:label("x", one)
    assert.is_true(store:remove_from_label("x", one)) -- the engine is known now
    store:label("x", one)
    local removed
    local view = store:within { await = function(future)
      local blob, err, why = future:wait()
      if not removed then
        removed = other:remove_label "x"
      end
      return blob, err, why
    end }
    assert.is_false(view:remove_from_label("x", one))
    assert.is_true(removed)
  end)

  describe("on an engine that", function()
    for how, engine in pairs { ignores = "ignored", refuses = "refused" } do
      it(how .. " conditions is moved, but not with 'expect'", function()
        s3:control { engine = { if_match = engine, delete_if_match = engine } }
        local store = open()
        local one, two = store:put "one", store:put "two"
        assert.is_true(store:label("x", one))
        assert.is_true(store:label("x", two))
        assert.same({ one }, store:history "x")
        for _, expect in ipairs { two, false } do
          local moved, err = store:label("x", one, { expect = expect })
          assert.is_nil(moved)
          assert.equal("policy", err.kind)
          assert.matches("'expect' needs a server that honours PUT with If%-Match", err.message)
        end
        assert.equal("policy", select(2, store:remove_from_label("x", two)).kind)
        assert.is_true(store:remove_label "x")
      end)
    end

    it("wants ETags without quotes and fails for losers is served as it wants", function()
      s3:control { engine = { if_match = "unquoted", delete_if_match = "ignored", loser = 500 } }
      local store, other = open(), open "other"
      local one, two, three = store:put "one", store:put "two", other:put "three"
      assert.is_true(store:label("x", one, { expect = false }))
      assert.is_true(store:label("x", two, { expect = one }))
      assert.is_true(other:label("x", three, { expect = two }))
      assert.is_false(store:label("x", one, { expect = two }))
      assert.equal("policy", select(2, store:remove_from_label("x", three)).kind)
    end)

    it("fails for a moment is asked again", function()
      for status, code in pairs { [400] = "RequestTimeout", [401] = "ExpiredToken", [404] = "NoSuchKey", [429] = "TooManyRequests" } do
        for skip = 1, 5 do
          prefix = ("label%d-%d-%d"):format(count, status, skip) -- what an engine can do is kept for each store
          local store = open()
          local one, two = store:put "one", store:put "two"
          s3:control { faults = { { ["do"] = "status", key = "/theaterref/", skip = skip, status = status, code = code } } }
          store:label("x", one)
          s3:control { faults = {} }
          assert.is_true(store:label("x", one))
          assert.is_true(store:label("x", two, { expect = one }), code .. " at request " .. skip)
          assert.is_true(store:remove_from_label("x", two), code .. " at request " .. skip)
        end
      end
    end)

    it("loses its answers to what is tried out is asked again", function()
      for skip = 0, 5 do
        prefix = ("label%d-lost-%d"):format(count, skip)
        local store = open()
        local one, two = store:put "one", store:put "two"
        s3:control { faults = { { ["do"] = "drop_after", key = "/theaterref/", skip = skip } } }
        assert.is_true(store:label("x", one), "request " .. skip)
        s3:control { faults = {} }
        assert.is_true(store:label("x", two, { expect = one }), "request " .. skip)
        assert.is_true(store:remove_from_label("x", two), "request " .. skip)
      end
    end)

    it("takes conditions no more refuses a move, which is no unknown outcome, and is asked anew", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      s3:control { engine = { if_match = "refused", delete_if_match = "refused" } }
      local moved, err = store:label("x", two)
      assert.same({ nil, "policy", 501 }, { moved, err.kind, err.status })
      assert.matches("label x was not moved: the server does not honour PUT with If%-Match any more", err.message)
      assert.equal(one, store:get_by_label "x")
      assert.is_true(store:label("x", two)) -- without a condition
      assert.matches("'expect' needs a server", select(2, store:label("x", one, { expect = two })).message)
    end)

    it("refuses all writes refuses a move, which is no unknown outcome", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      s3:control { engine = { if_match = "ignored", delete_if_match = "ignored" } }
      store:label("x", one)
      fault { ["do"] = "status", method = "PUT", status = 501, code = "NotImplemented" }
      local moved, err = store:label("x", two)
      assert.same({ nil, "http_status", 501 }, { moved, err.kind, err.status })
    end)

    it("takes 256 bytes of metadata in a header keeps the longest history, and the writers", function()
      s3:control { engine = { longest_metadata = 256 } }
      local store = assert(theaterref.content_store("release", { base_path = folder .. "/here", label_ttl = 0, label_history = 20,
        remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 0 }, algorithm = "sha256" }))
      local hashes = {}
      for i = 1, 23 do
        hashes[i] = store:put("content " .. i)
        assert.is_true(store:label("x", hashes[i]))
      end
      local history = store:history "x"
      assert.equal(20, #history)
      for i, hash in ipairs(history) do assert.equal(hashes[23 - i], hash) end
      local label = require "theaterref.store.remote_objects".label(store, "x")
      assert.equal(13, #label.writers)
      local seen = {}
      for _, writer in ipairs(label.writers) do
        assert.is_nil(seen[writer])
        seen[writer] = true
      end
    end)

    it("always fails is not asked for half a minute", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      fault { ["do"] = "status", method = "PUT", status = 500, code = "InternalError", times = 99 }
      for _, options in ipairs { { expect = one }, {} } do
        s3:log()
        local moved, err = store:label("x", two, options)
        assert.same({ nil, "http_status", 500 }, { moved, err.kind, err.status })
        assert.matches("label x was not moved in 8 attempts: the server fails: ", err.message, 1, true)
        assert.equal(8, s3:asked "^PUT .*labels/x")
      end
    end)

    it("honours conditions is asked about that once", function()
      local store = open()
      store:store_at_label("x", "one")
      s3:log()
      open():store_at_label("x", "two")
      for _, line in ipairs(s3:log()) do assert.is_nil(line:find("/theaterref/", 1, true), line) end
      local left = s3:control {} .bucket
      for key in pairs(left) do assert.is_nil(key:find(prefix .. "/theaterref/", 1, true), key) end
    end)
  end)

  it("is not rolled back when somebody else moves it meanwhile", function()
    local store, other = open(), open "other"
    local good, bad, fixed = store:put "good", store:put "bad", other:put "fixed"
    store:label("x", good)
    store:label("x", bad)
    function store.label(self, ...)
      self.label = nil
      assert.is_true(other:label("x", fixed))
      return self:label(...)
    end
    local hash, err = store:rollback "x"
    assert.same({ nil, "cancelled" }, { hash, err.kind })
    assert.equal(("label x was not rolled back from %s: somebody else changed it meanwhile, and now it points at %s; look at it, and "
      .. "roll it back again if that is still right"):format(bad, fixed), err.message)
    assert.equal(fixed, store:get_by_label "x")
  end)

  it("is not written by a request that never reached the server, and says so", function()
    local store = open()
    local one, two = store:put "one", store:put "two"
    store:label("x", one)
    local put = Client.put
    finally(function() Client.put = put end)
    function Client.put(client, key, ...)
      if not key:find "labels/x$" then return put(client, key, ...) end
      local url = client.place.url
      client.place.url = "http://127.0.0.1:1/" -- nobody listens there
      local head, err = put(client, key, ...)
      client.place.url = url
      return head, err
    end
    local moved, err = store:label("x", two)
    assert.same({ nil, "network" }, { moved, err.kind })
    assert.equal(one, store:get_by_label "x")
  end)

  describe("that is made while a label is made that would be its folder", function()
    -- Labels 'second' between the last look at the bucket and the writing of 'first'.
    local function race(first, second)
      local store, other = open(), open "other"
      local hash = store:put "one"
      assert.is_true(other:label("warm", hash))
      local put = Client.put
      finally(function() Client.put = put end)
      function Client.put(client, key, ...)
        if key:find("/labels/" .. first, 1, true) then
          Client.put = put
          assert.is_true(other:label(second, hash))
        end
        return put(client, key, ...)
      end
      return store, store:label(first, hash)
    end

    for first, second in pairs { app = "app/v1", ["app/v2"] = "app" } do
      it("goes again: " .. first .. " after " .. second, function()
        local store, moved, err = race(first, second)
        assert.same({ nil, "invalid_reference" }, { moved, err.kind })
        assert.matches("somebody else made that one at the same time; it is removed again", err.message)
        assert.same({ second, "warm" }, store:list_labels())
        assert.is_nil(store:get_by_label(first))
      end)
    end

    it("is no success when the look at the bucket after the move fails", function()
      local store = open()
      local one = store:put "one"
      store:label("warm", one)
      for _, look in ipairs { { query = "prefix=" .. prefix .. "%2Flabels%2Fapp%2F", skip = 1, key = "" }, { method = "HEAD", key = "data/" } } do
        look["do"], look.status, look.code, look.times = "status", 500, "InternalError", 99
        fault(look)
        local moved, err = store:label("app", one)
        assert.same({ nil, "unknown_outcome", 500 }, { moved, err.kind, err.status })
        assert.matches("label app has moved to " .. one .. ", but the look at the bucket after that failed", err.message)
        look.times = 2
        assert.is_true(store:remove_label "app")
        fault(look)
        assert.is_true(store:label("app", one))
        assert.is_true(store:remove_label "app")
      end
    end)

    it("stays, with an error that says so, where the bucket removes nothing on a condition; and none is exported", function()
      s3:control { engine = { if_match = "both", delete_if_match = "refused" } }
      local store, moved, err = race("app", "app/v1")
      assert.is_nil(moved)
      assert.matches("label app would be a folder of the label app/v1: .* it is still there; remove one of the two", err.message)
      local exported, why = store:export(folder .. "/x.tar")
      assert.is_nil(exported)
      assert.equal("Label 'app' cannot be exported: it is a folder of the label app/v1, too", why.message)
      assert.is_false(helper.exists(folder .. "/x.tar"))
    end)
  end)

  -- Runs commands at once. Returns what each printed.
  local function at_once(commands)
    for i, command in ipairs(commands) do commands[i] = ("{ %s; } >%s/out%d 2>&1 &"):format(command, folder, i) end
    helper.run_ok(table.concat(commands, "\n") .. "\nwait")
    local outputs = {}
    for i in ipairs(commands) do outputs[i] = helper.read(("%s/out%d"):format(folder, i)) end
    return outputs
  end

  it("counts all moves that were acknowledged, though answers are lost", function()
    local writers = tonumber(os.getenv "THEATERREF_WRITERS") or 6
    local moves = writers > 6 and 20 or 5
    open():get_by_label "count"
    s3:control { faults = { { ["do"] = "drop_after", method = "PUT", key = "labels/", probability = 0.1 },
      { ["do"] = "drop_before", method = "PUT", key = "labels/", probability = 0.05 },
      { ["do"] = "drop_before", method = "GET", key = "labels/", probability = 0.02 } } }
    local commands = {}
    for i = 1, writers do
      commands[i] = ("AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s %s %s/spec/support/remote_counter.lua %s/machine%d s3://bucket/%s %s %d")
        :format(s3.settings.access_key_id, s3.settings.secret_access_key, helper.lua, helper.root, folder, i % 2, prefix,
        s3.settings.endpoint, moves)
    end
    local done, unknown = 0, 0
    for _, out in ipairs(at_once(commands)) do
      local acknowledged, doubtful = out:match "^(%d+)%s+(%d+)\n$"
      assert.truthy(acknowledged, out)
      done, unknown = done + acknowledged, unknown + doubtful
    end
    s3:control { faults = {} }
    local value = tonumber(tostring(open():get_content_by_label "count"))
    assert.equal(writers * moves, done + unknown)
    assert.is_true(value >= done and value <= done + unknown, ("%d, acknowledged %d, unknown %d"):format(value, done, unknown))
  end)

  for how, loser in pairs { ["where losers are refused"] = 412, ["where some losers get an error, as on Ceph"] = 500 } do
    it("is moved by 16 writers at once that expect nothing, " .. how, function()
      local store = open()
      assert.is_true(store:label("x", store:put "first"))
      helper.run_ok(("cd %s && cp -r here machine0 && cp -r here machine1"):format(folder)) -- they know what the engine can do
      s3:control { engine = { loser = loser } }
      local script = helper.write(folder .. "/mover.lua", ([[
        local store = require "theaterref".content_store("release", { base_path = arg[1], label_ttl = 0, remote = %q,
          s3 = { endpoint = %q, access_key_id = %q, secret_access_key = %q }, request = { retries = 0 } })
        for i = 1, 3 do assert(store:label("x", assert(store:put(arg[2] .. " " .. i)))) end
        print "done" ]]):format("s3://bucket/" .. prefix, s3.settings.endpoint, s3.settings.access_key_id, s3.settings.secret_access_key))
      local commands = {}
      for i = 1, 16 do commands[i] = ("%s %s %s/machine%d %d"):format(helper.lua, script, folder, i % 2, i) end
      for _, out in ipairs(at_once(commands)) do assert.equal("done\n", out) end
    end)
  end

  it("is not moved for longer than 'lock_timeout' while others always come first", function()
    local store = assert(theaterref.content_store("release", { base_path = folder .. "/here", label_ttl = 0, lock_timeout = 0.2,
      remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 0 } }))
    local one, two = store:put "one", store:put "two"
    store:label("x", one)
    fault { ["do"] = "status", method = "PUT", status = 409, code = "ConditionalRequestConflict", times = 1000 }
    local moved, err = store:label("x", two)
    assert.same({ nil, "timeout" }, { moved, err.kind })
    assert.matches("label x was not moved in %d+ attempts: others change it all the time: ", err.message)
    assert.matches("ConditionalRequestConflict", err.message)
  end)

  it("is not moved or removed for longer than 'lock_timeout' while the server is silent", function()
    local function patient(machine)
      return assert(theaterref.content_store("release", { base_path = folder .. "/" .. machine, label_ttl = 0, lock_timeout = 0.2,
        remote = "s3://bucket/" .. prefix, s3 = s3.settings, request = { retries = 3 } }))
    end
    local hash = open():put "one"
    open():label("x", hash)
    for name, call in pairs {
      move = function(store) return store:label("x", hash) end,
      ["move with 'expect'"] = function(store) return store:label("x", hash, { expect = false }) end,
      removal = function(store) return store:remove_label "x" end,
    } do
      for _, key in ipairs { "theaterref/", "labels/x" } do
        s3:control { faults = { { ["do"] = "slow", key = key, seconds = 4, times = 99 } } }
        local began = core.now()
        local ok, err = call(patient(key == "labels/x" and "here" or name))
        assert.is_true(core.now() - began < 2 * helper.slowness, name)
        if ok == nil then assert.truthy(err.kind == "timeout" or err.kind == "unknown_outcome", err.kind) end
      end
    end
  end)

  -- True for a process that has ended, though its parent may not know yet.
  local function has_ended(pid)
    local file <close> = io.open("/proc/" .. pid .. "/stat")
    return not file or (file:read "a" or ""):match "%) (%u)" == "Z"
  end

  it("and its content are whole wherever its writer is killed", function()
    local store = open()
    local one = store:store_at_label("x", "one")
    local script = helper.write(folder .. "/writer.lua", ([[
      local store = require "theaterref".content_store("release", { base_path = %q, label_ttl = 0, remote = %q,
        s3 = { endpoint = %q, access_key_id = %q, secret_access_key = %q }, request = { retries = 0 } })
      local hash = assert(store:put(arg[1]))
      assert(store:label("x", hash))
      store:gc { remote = true, grace = 3600 }
      print "done" ]]):format(folder .. "/writer", "s3://bucket/" .. prefix, s3.settings.endpoint, s3.settings.access_key_id,
      s3.settings.secret_access_key))
    local finished, n = false, 0
    while not finished do
      -- The writer has the pid of its shell, which waits until the server knows that.
      local pid = helper.run_ok(("sh -c 'while [ ! -e %s/go ]; do sleep 0.01; done; exec %s %s \"written %d\"' >%s/done 2>&1 & echo $!")
        :format(folder, helper.lua, script, n, folder)):match "%d+"
      s3:control { faults = { { ["do"] = "kill", pid = tonumber(pid), skip = n, when = "after" } } }
      helper.write(folder .. "/go", "")
      helper.eventually(function() return has_ended(pid) end)
      os.remove(folder .. "/go")
      s3:control { faults = {} }
      finished = helper.exists(folder .. "/done") and helper.read(folder .. "/done") == "done\n"
      local now = tostring(open():get_content_by_label "x")
      assert.is_true(now == "one" or now:find "^written" ~= nil, now)
      local report = open():verify { remote = true }
      assert.same({ {}, {}, {}, {} }, { report.corrupt, report.dangling, report.missing, report.faulty_labels })
      assert.same({}, open "writer":verify().corrupt)
      assert.is_true(open():label("x", one)) -- nothing keeps others from moving it
      n = n + 1
    end
    assert.is_true(n > 8, "the writer made " .. n .. " requests")
  end)
end)
