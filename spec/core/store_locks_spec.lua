local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"

-- FORKS=10000 makes it the long run.
local forks = tonumber(os.getenv "FORKS") or 300

describe("a content store that many use at once", function()
  local home, store, base

  before_each(function()
    home = helper.temporary_folder()
    base = home .. "/store/demo"
    store = theaterref.content_store("demo", { home = home, durability = "none" })
  end)

  after_each(function() helper.remove(home) end)

  -- Runs a chunk on threads, each with its 'number' and a 'store' of its own. When the first one ends, or one fails,
  -- 'stopped()' is true on all.
  local function run_threads(count, chunk)
    return threads.run(count, ([[
      local number = ...
      local helper, home = require "helper", %q
      local threads, theaterref, core = require "threads", require "theaterref", require "theaterref.core"
      local store = theaterref.content_store("demo", { home = home, durability = "none" })
      local function stopped() return core.file_stamp(home .. "/stop") ~= nil end
      local function work() %s end
      return function()
        local ok, result = pcall(work)
        if number == 1 or not ok then helper.write(home .. "/stop", "") end
        if not ok then error(result, 0) end
        return result
      end]]):format(home, chunk))
  end

  it("has no child that hangs, however often the process forks meanwhile", function()
    store:put "shared"
    run_threads(4, ([[
      if number > 1 then
        while not stopped() do
          assert(store:get(assert(store:put "shared")))
          store:store_at_label("label", "shared")
        end
        return
      end
      for i = 1, %d do
        if threads.fork(20) then -- a child that hangs is killed, and then 'wait' raises
          if not store:get(store:put "shared" or "") then os.exit(1) end
          threads.leave()
        end
        threads.wait()
      end]]):format(forks))
  end)

  it("is unlocked when it is unlocked, though a forked child still has the file open", function()
    local hash = store:put "x"
    do
      local lock <close> = assert(store:lock()) -- luacheck: ignore 211
      if threads.fork(20) then
        while not core.file_stamp(home .. "/stop") do os.execute "sleep 0.05" end
        threads.leave()
      end
    end
    local hasty = theaterref.content_store("demo", { home = home, durability = "none", lock_timeout = 5 })
    local done, err = hasty:label("x", hash)
    helper.write(home .. "/stop", "")
    threads.wait()
    assert(done, err)
  end)

  it("stays locked when a forked child ends", function()
    local hash = store:put "x"
    local hasty = theaterref.content_store("demo", { home = home, durability = "none", lock_timeout = 0.05 })
    local lock <close> = assert(store:lock())
    if threads.fork(20) then
      lock:__close()
      threads.leave()
    end
    threads.wait()
    assert.matches("Failed to lock the store", (select(2, hasty:label("x", hash)) or {}).message)
  end)

  it("takes content that is there from the one who has locked it", function()
    local hash = store:put "x"
    local lock <close> = assert(store:lock()) -- luacheck: ignore 211
    assert.equal(hash, store:put "x")
    assert.is_string(store:put "new")
    assert.is_string(assert(store:batch(function(batch) return batch:put "x" end)))
  end)

  it("does not believe that content is sound which changed while a put waited for it", function()
    local hash = store:put(("G"):rep(100))
    assert(store:get(hash))
    local path = base .. "/data/" .. hash
    helper.run_ok(([[flock -x %s sh -c 'touch %s/locked; while files=$(ls -l /proc/%d/fd) && ! echo "$files" | grep -q %s; do :; done;
      printf B | dd of=%s conv=notrunc status=none' >/dev/null 2>&1 &]]):format(path, home, helper.pid(), hash, path))
    helper.eventually(function() return helper.exists(home .. "/locked") end)
    store:put(("G"):rep(100))
    assert.equal("corrupt", select(2, store:get(hash)).kind)
  end)

  it("moves labels away from content that is locked at once", function()
    local old = {}
    for i = 1, 5 do old[i] = store:store_at_label("l" .. i, "old " .. i) end
    local hash = store:put "new"
    helper.run_ok(("cd %s/data; for old in %s; do flock -x $old sh -c 'echo >> %s/locked; while [ -e %s/locked ]; do sleep 0.05; done' "
      .. ">/dev/null 2>&1 & done"):format(base, table.concat(old, " "), home, home))
    helper.eventually(function() return helper.exists(home .. "/locked") and #helper.read(home .. "/locked") == 5 end)
    local before = core.now()
    local moved, err = store:label("l1", hash)
    if moved then
      moved, err = store:batch(function(batch)
        for i = 2, 5 do batch:label("l" .. i, hash) end
        return true
      end)
    end
    local seconds = core.now() - before
    os.remove(home .. "/locked") -- which ends the loops
    assert(moved, err)
    assert(seconds < 5, seconds)
  end)

  it("has every label while Theater moves one, which is blank for a moment", function()
    local one, two = store:put "one", store:put "two"
    store:label("x", one)
    assert.same({ "true", "true" }, run_threads(2, ([[
      local path = home .. "/store/demo/labels/x"
      while number == 2 and not stopped() do
        for _, hash in ipairs { %q, %q } do helper.write(path, hash) end
      end
      for _ = 1, number == 1 and 2000 or 0 do
        local hash, err = store:get_by_label "x"
        assert(hash or err, "there is no such label") -- an error if its writer sleeps for long
        assert(not store:label("x", hash or %q, { expect = false }))
      end
      return "true"]]):format(one, two, two)))
  end)

  it("waits no longer after the first Ctrl-C in a Lua program", function()
    if helper.build:find "/" then return pending "the interpreter of sanitized builds does not answer interrupts" end
    local hash = store:put "x"
    local lock <close> = assert(store:lock()) -- luacheck: ignore 211
    for i, wait in ipairs { ("store:label('x', %q)"):format(hash), "store:lock()", "core.read_stdin()",
      ("core.read_file %q"):format(home .. "/pipe") } do
      local script = helper.write(home .. "/wait.lua", ([[
        local core, home = require "theaterref.core", %q
        local store = require("theaterref").content_store("demo", { home = home, durability = "none", lock_timeout = 20 })
        io.open(home .. "/ready%d", "w"):close()
        %s
        while true do end]]):format(home, i, wait))
      local before = core.now()
      local _, err = helper.run(([[cd %s; test -e pipe || mkfifo pipe; exec 7<>pipe; %s %s <&7 & pid=$!
        until [ -e ready%d ]; do sleep 0.01; done; sleep 0.1; kill -INT $pid; wait $pid]]):format(home, helper.lua, script, i))
      assert.matches("interrupted!", err)
      assert.is_true(core.now() - before < 10, wait)
    end
  end)

  it("does not wait for the writers of blank labels while others wait for the lock", function()
    local hash = store:put "x"
    assert(store:label("b/0", hash))
    for i = 1, 30 do helper.write(home .. "/store/demo/labels/b/" .. i, "") end
    local before = core.now()
    assert(store:batch(function(batch)
      for i = 1, 28 do assert(batch:label("b/" .. i, hash)) end
      return true
    end))
    assert(store:label("b/29", hash) and store:remove_label "b/30")
    assert.is_true(core.now() - before < 2) -- 0.1 s for each label before
  end)

  it("waits for a lock as long as it was told, or until it is interrupted", function()
    local hash = store:put "x"
    local hasty = theaterref.content_store("demo", { home = home, durability = "none", lock_timeout = 0.05 })
    local lock <close> = assert(store:lock()) -- luacheck: ignore 211
    for _, try in ipairs {
      function() return hasty:label("x", hash) end,
      function() return hasty:remove_label "x" end,
      function() return hasty:lock() end,
      function() return hasty:batch(function(batch) return batch:label("x", hash) end) end,
    } do
      local done, err = try()
      assert.is_nil(done)
      assert.equal("timeout", err.kind)
      assert.matches("Failed to lock the store " .. base .. ": somebody else kept it locked", err.message)
    end
    core.interrupt(true)
    local done, err = store:label("x", hash)
    core.interrupt(false)
    assert.is_nil(done)
    assert.equal("cancelled", err.kind)
    assert.same({}, store:list_temporary_files())
    assert.error_matches(function() theaterref.content_store("demo", { home = home, lock_timeout = 0 / 0 }) end, "store option 'lock_timeout' must be a number of seconds")
  end)

  it("lets labels move while many threads put content that is there", function()
    local results = run_threads(17, [[
      local hash = assert(store:put "the same")
      if number > 1 then
        while not stopped() do assert(store:put "the same") end
        return
      end
      local before = core.now()
      for i = 1, 20 do assert(store:label("label " .. i % 5, hash)) end
      return core.now() - before]])
    assert.is_true(tonumber(results[1]) < 3 * helper.slowness, results[1] .. " seconds")
  end)

  it("never syncs while others wait for the lock", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    local script = helper.write(home .. "/script.lua", ([[
      local store = require("theaterref").content_store("demo", { home = %q })
      for i = 1, 3 do
        store:store_at_label("a/b/" .. i, "content " .. i)
        store:store_at_label("a/b/1", "content " .. i)
      end
      store:remove_label "a/b/2"
      store:batch(function(batch) return batch:label("c/d", batch:put "in a batch") end)
      store:gc { grace = 0 }]]):format(home))
    -- LeakSanitizer cannot work under strace.
    helper.run_ok(("ASAN_OPTIONS=detect_leaks=0 strace -y -e trace=flock,fsync,syncfs -o %s/trace %s %s"):format(home,
      helper.lua, script))
    local locked, locks = false, 0
    for line in io.lines(home .. "/trace") do
      local how = line:match("^flock%(%d+<" .. base:gsub("%p", "%%%0") .. ">, ([%u_|]+)%)%s+= 0")
      if how then
        locked = how:find "LOCK_EX" ~= nil
        locks = locks + (locked and 1 or 0)
      end
      assert(not (locked and line:find "sync"), line)
    end
    assert.is_true(locks >= 8, locks .. " locks")
  end)

  it("has a label's content for whoever reads the label, though it moves and gc runs", function()
    assert(store:store_at_label("label", "0"))
    run_threads(3, [[
      if number > 1 then
        while not stopped() do
          local blob, err = store:get_content_by_label "label"
          assert(blob, err and err.message or "no label")
        end
        return
      end
      for i = 1, 100 do
        assert(store:store_at_label("label", tostring(i)))
        assert(store:gc { grace = 0 })
      end]])
  end)

  it("does not move good bytes to quarantine when it is healed while others read it", function()
    local hash = store:put "good bytes"
    helper.run_ok(("cd %s && for i in $(seq 150); do printf 'evil bytes' > evil$i; done && touch -d '1 hour ago' evil*"):format(home))
    run_threads(4, ([[
      local hash, path = %q, %q
      if number > 1 then
        while not stopped() do store:get(hash) end
        return
      end
      for i = 1, 150 do
        -- an old file, which no writer is about to finish
        os.rename(home .. "/evil" .. i, path)
        assert(store:put "good bytes" == hash)
        assert(store:exists(hash), "the good bytes are gone")
      end]]):format(hash, base .. "/data/" .. hash))
    for name in helper.run_ok("ls " .. base .. "/corrupt"):gmatch "[^\n]+" do
      assert.equal("evil bytes", helper.read(base .. "/corrupt/" .. name))
    end
    assert.equal("good bytes", tostring(store:get(hash)))
  end)

  it("can be exported while labels move and garbage is collected, and every export imports", function()
    for i = 1, 20 do store:store_at_label("actor/" .. i, "old " .. i) end
    run_threads(2, [[
      if number > 1 then
        local i = 0
        while not stopped() do
          i = i + 1
          assert(store:store_at_label("actor/" .. i % 20 + 1, "release " .. i))
          if i % 5 == 0 then assert(store:gc { grace = 0 }) end
        end
        return
      end
      for i = 1, 15 do
        local path = home .. "/" .. i .. ".tar"
        assert(store:export(path))
        local copy = theaterref.content_store("copy" .. i, { home = home, durability = "none" })
        assert(copy:import(path))
        local report = assert(copy:verify())
        assert(#report.dangling == 0 and #copy:list_labels() == 20)
      end]])
  end)
end)
