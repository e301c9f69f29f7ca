-- Labels of remote stores: compare and set by several writers, on all sorts of engines, with answers that are lost.
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
    s3:control { faults = {}, down = false, engine = { if_match = "both", delete_if_match = "both", loser = 412 } }
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

  -- The store, a function that is called after the first write of the label has failed, and two hashes: 'x' is at the first.
  local function contest(after_failure)
    local store, other = open(), open "other"
    local one, two = store:put "one", store:put "two"
    local three = other:put "three"
    assert.is_true(store:label("x", one))
    local called
    local view = store:within { await = function(future)
      local blob, err, why = future:wait()
      if err and not called then
        called = true
        after_failure(other, three)
      end
      return blob, err, why
    end }
    return view, one, two, three
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

    it("moves in the end when the request was lost", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      for _, f in ipairs { { ["do"] = "drop_before" }, { ["do"] = "status", status = 409, code = "ConditionalRequestConflict" },
        { ["do"] = "status", status = 500, code = "InternalError" } } do
        f.method, f.times = "PUT", 2
        fault(f)
        assert.is_true(store:label("x", two, { expect = one }), f["do"])
        assert.equal(two, store:get_by_label "x")
        assert.is_true(store:label("x", one, { expect = two }))
      end
    end)

    it("is never written twice with one condition unless it was read in between", function()
      local store = open()
      local one, two = store:put "one", store:put "two"
      store:label("x", one)
      fault { ["do"] = "drop_before", method = "PUT", times = 3 }
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

    it("has not moved when another writer was faster and the request was lost", function()
      local view, one, two, three = contest(function(other, three) assert.is_true(other:label("x", three)) end)
      fault { ["do"] = "drop_before", method = "PUT" }
      assert.is_false(view:label("x", two, { expect = one }))
      assert.equal(three, view:get_by_label "x")
    end)

    it("moves from there again when another writer moved it away and back", function()
      local view, one, two = contest(function(other, three)
        assert.is_true(other:label("x", three))
        assert.is_true(other:rollback "x" ~= nil)
      end)
      fault { ["do"] = "drop_before", method = "PUT" }
      assert.is_true(view:label("x", two, { expect = one }))
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
    fault { ["do"] = "drop_before", method = "DELETE" }
    assert.is_true(store:remove_from_label("x", one))
    store:label("x", one)
    fault { ["do"] = "drop_after", method = "DELETE" }
    assert.equal("unknown_outcome", select(2, store:remove_from_label("x", one)).kind)
    store:label("x", one)
    fault { ["do"] = "drop_after", method = "DELETE" }
    assert.is_true(store:remove_label "x")
    assert.is_false(store:remove_label "x")
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
