local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"

-- LABELS=1000000 makes it the long run.
local many = tonumber(os.getenv "LABELS") or 1000

-- A user who is not root, for whom access rights count; where this is not root either, ''.
local as_user = helper.run "id -u" == "0\n" and "setpriv --reuid=65534 --regid=65534 --clear-groups " or ""

local home, store, base

-- Each spec of the block has a store of its own.
local function use_store()
  before_each(function()
    home = helper.temporary_folder()
    base = home .. "/store/demo"
    store = theaterref.content_store("demo", { home = home, durability = "none" })
  end)

  after_each(function() helper.remove(home) end)
end

describe("garbage collection", function()
  use_store()

  local function shell(commands) return helper.run_ok("cd " .. base .. " && " .. commands) end

  it("deletes nothing while there is a label that it cannot see, which verify and export report", function()
    local hash = store:store_at_label("folder/label", "kept")
    local hex = ("0123456789abcdef"):rep(2) .. "01234567"
    local troubles = {
      { "mv labels elsewhere && ln -s elsewhere labels", "rm labels && mv elsewhere labels", "labels/ is a symbolic link" },
      { "mv labels/folder elsewhere && ln -s ../elsewhere labels/folder", "rm labels/folder && mv elsewhere labels/folder",
        "folder: it is a symbolic link" },
      { "mv labels/folder/label elsewhere && ln -s ../../elsewhere labels/folder/label",
        "rm labels/folder/label && mv elsewhere labels/folder/label", "folder/label: it is a symbolic link" },
      { "mkfifo labels/pipe", "rm labels/pipe", "pipe: it is neither a file nor a folder" },
      { "printf ' \\n' > labels/blank", "rm labels/blank", "blank: it is blank" },
      { "head -c 40 /dev/zero > labels/zeros", "rm labels/zeros", "zeros: .*does not hold a hash" },
      { "echo " .. hex .. "?? > labels/text", "rm labels/text", "text: .*does not hold a hash" },
      { "printf " .. hex .. " > \"labels/$(printf 'a\\tb')\"", "rm labels/a*", "control character" },
      { "cd labels && for i in $(seq 16); do mkdir $(printf '%0250d' 0) && cd 0*; done", "rm -r labels/0*", "longer than 4000 bytes" },
      { "cd labels && for i in $(seq 130); do mkdir d && cd d; done && echo " .. hex .. " > label", "rm -r labels/d",
        "more than 128 parts" },
    }
    for _, trouble in ipairs(troubles) do
      local make, unmake, why = table.unpack(trouble)
      shell(make)
      local report, err = store:gc { grace = 0 }
      assert.is_nil(report, why)
      assert.matches("no garbage is collected .*" .. why, err.message)
      assert.is_true(store:exists(hash), why)
      local label, fault = next(assert(store:verify()).faulty_labels)
      assert.matches(why, label .. ": " .. fault)
      local exported
      exported, err = store:export(home .. "/export.tar")
      assert.is_nil(exported, why)
      assert.equal("corrupt", err.kind)
      shell(unmake)
      assert.same({}, assert(store:gc { grace = 0 }).deleted)
    end
  end)

  it("deletes nothing where labels/ is no folder", function()
    local hash = store:put "kept"
    shell "rm -rf labels && echo > labels"
    local report, err = store:gc { grace = 0 }
    assert.is_nil(report)
    assert.equal("io", err.kind)
    assert.matches("Failed to list .*/labels: it is not a folder", err.message)
    assert.is_true(store:exists(hash))
  end)

  it("deletes nothing while a folder of labels may not be searched", function()
    local hash = store:store_at_label("folder/label", "kept")
    helper.run_ok("chmod -R a+rwX " .. home .. " && chmod 0444 " .. base .. "/labels/folder")
    local out = helper.run_ok(as_user .. helper.lua .. " -e " .. helper.quote(([[
      print(require("theaterref").content_store("demo", { home = %q }):gc { grace = 0 })]]):format(home)))
    helper.run_ok("chmod 755 " .. base .. "/labels/folder")
    assert.matches("Failed to list labels in folder/?: Permission denied", out)
    assert.is_true(store:exists(hash))
  end)

  it("leaves labels to readers whose folder is a symbolic link", function()
    local hash = store:store_at_label("folder/label", "kept")
    shell "mv labels/folder elsewhere && ln -s ../elsewhere labels/folder && mv labels real && ln -s real labels"
    assert.equal(hash, store:get_by_label "folder/label")
    assert.equal("kept", tostring(store:get_content_by_label "folder/label"))
    assert.same({ "folder" }, store:list_labels())
    assert.is_nil((store:label("folder/label", hash)))
  end)

  it("spares content for the grace period after its last label moved", function()
    local old, new = store:store_at_label("label", "old"), store:put "new"
    shell "touch -d '2 hours ago' data/*"
    assert(store:label("label", new))
    shell("touch -d '2 hours ago' data/" .. new)
    assert.same({}, store:gc().deleted)
    assert.is_true(store:exists(old))
    assert(store:remove_label "label")
    assert.same({}, store:gc().deleted)
    assert.equal(2, #store:gc({ grace = 0 }).deleted)
  end)

  it("goes by the file system's clock, whatever its own says", function()
    if not helper.can_preload then return pending "ThreadSanitizer calls what is preloaded before it is ready" end
    local hash = store:put "young"
    local script = helper.write(home .. "/gc.lua", ([[
      local report = assert(require("theaterref").content_store("demo", { home = %q }):gc())
      print(#report.deleted)]]):format(home))
    local years = 10 * 365 * 24 * 3600
    for _, offset in ipairs { years, -years } do
      assert.equal("0\n", helper.run_ok(("FAULTS_CLOCK=%d %s %s %s"):format(offset, helper.preload "faults", helper.lua, script)))
    end
    assert.is_true(store:exists(hash))
  end)

  it("collects content and files of the future without a grace period, and spares them with one", function()
    local hash = store:put "of the future"
    for _, year in ipairs { 2100, 2400 } do -- the second is past what counts nanoseconds
      helper.run_ok(("cd %s && echo > .tmp-future && touch -d %d-01-01 .tmp-future data/*"):format(base, year))
      assert.equal(1, assert(store:gc { grace = 1 }).kept.young)
      local report = assert(store:gc { grace = 0 })
      assert.same({ { hash }, { ".tmp-future" } }, { report.deleted, report.temporary_files })
      store:put "of the future"
    end
  end)

  it("reports what it deleted before others kept the lock for too long", function()
    local hasty = theaterref.content_store("demo", { home = home, durability = "none", lock_timeout = 0.05 })
    for i = 1, 2 do store:put("content " .. i) end
    local lock
    local methods = core.store_methods
    local real = methods.discard_unchanged
    finally(function() methods.discard_unchanged = real end)
    methods.discard_unchanged = function(...) -- one takes longer than a slice
      local till = core.now() + 0.2
      repeat until core.now() > till
      return real(...)
    end
    local report = assert(hasty:gc { grace = -1, progress = function() lock = lock or assert(store:lock()) end })
    lock:__close()
    assert.equal(1, #report.deleted)
    assert.matches("Failed to lock the store", select(2, next(report.failed)))
  end)

  it("goes on past what it may not delete, and reports it", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    store:put "one"
    store:put "two"
    helper.run_ok("chmod -R a+rwX " .. home .. " && chmod 0555 " .. base .. "/data && touch " .. base .. "/.tmp-0123")
    local out = helper.run_ok(as_user .. helper.lua .. " -e " .. helper.quote(([[
      local report = assert(require("theaterref").content_store("demo", { home = %q }):gc { grace = 0 })
      local count = 0
      for name, why in pairs(report.failed) do
        count = count + 1
        assert(#name == 40 and why:find "Permission denied", why)
      end
      print(count, #report.deleted, #report.temporary_files)]]):format(home)))
    assert.equal("2\t0\t1\n", out)
  end)

  it("keeps content that is being labelled while it begins", function()
    local hash = store:put "being labelled"
    helper.run_ok("mkdir -p " .. base .. "/labels && touch -d '2 hours ago' " .. base .. "/data/*")
    -- A mover, who has touched the content under the lock, and places the label once gc has read the times.
    local lock = assert(store:lock())
    helper.run_ok("touch " .. base .. "/data/" .. hash)
    local methods = core.store_methods
    local real_clock, real_lock = methods.clock, methods.lock
    finally(function() methods.clock, methods.lock = real_clock, real_lock end)
    methods.clock = function(...)
      methods.lock = function(...)
        if lock then
          helper.write(base .. "/labels/label", hash)
          lock:__close()
          lock = nil
        end
        return real_lock(...)
      end
      return real_clock(...)
    end
    local report = assert(store:gc { grace = 0 })
    assert.same({}, report.deleted)
    assert.equal("being labelled", tostring(store:get_content_by_label "label"))
  end)

  it("shows what it would delete at once, though somebody keeps the lock", function()
    local hash = store:put "unlabelled"
    local lock <close> = assert(store:lock())
    local report = assert(store:gc { grace = -1, dry_run = true })
    assert.is_not_nil(lock)
    assert.same({ hash }, report.deleted)
  end)

  it(("lets others move labels while it works on %d"):format(many), function()
    local kept = store:store_at_label("many/0", "kept")
    for i = 1, many do helper.write(base .. "/labels/many/" .. i, kept) end
    for i = 1, 500 do store:put("garbage " .. i) end
    local results = threads.run(2, ([[
      local number = ...
      local core, helper = require "theaterref.core", require "helper"
      local store = require("theaterref").content_store("demo", { home = %q, durability = "none" })
      return function()
        if number == 1 then
          local report = assert(store:gc { grace = 0 })
          helper.write(%q .. "/stop", "")
          return #report.deleted
        end
        local longest = 0
        repeat
          local before = core.now()
          assert(store:store_at_label("moving", tostring(before)))
          longest = math.max(longest, core.now() - before)
        until core.file_stamp(%q .. "/stop")
        return longest
      end]]):format(home, home, home))
    assert.is_true(tonumber(results[1]) >= 500)
    assert.is_true(tonumber(results[2]) < helper.slowness, results[2] .. " seconds")
    assert.equal(many + 2, #store:list_labels())
    assert.is_truthy(store:get_content_by_label "moving")
  end)
end)

describe("a store whose folder is moved away meanwhile", function()
  use_store()

  -- Calls 'work' with a function that moves the folder away, and another one to its place if it is to; then moves it back.
  local function with_moving(replace, work)
    local moved = false
    local function move()
      if moved then return end
      moved = true
      helper.run_ok(("mv %s %s.away"):format(base, base))
      if replace then helper.run_ok("mkdir " .. base .. " " .. base .. "/labels " .. base .. "/data") end
    end
    work(move)
    assert.is_true(moved)
    helper.run_ok(("rm -rf %s; mv %s.away %s"):format(base, base, base))
  end

  it("keeps what is labelled through a garbage collection", function()
    local hash = store:store_at_label("label", "kept")
    local methods = core.store_methods
    local real = methods.clock
    finally(function() methods.clock = real end)
    for _, replace in ipairs { false, true } do
      with_moving(replace, function(move)
        methods.clock = function(...)
          move()
          return real(...)
        end
        local report = assert(store:gc { grace = -1 })
        assert.same({ {}, 1 }, { report.deleted, report.kept.labelled })
      end)
      assert.is_true(store:exists(hash))
    end
  end)

  it("is exported with its labels, and checked whole", function()
    for i = 1, 3 do assert(store:store_at_label("label" .. i, "content " .. i)) end
    for _, replace in ipairs { false, true } do
      with_moving(replace, function(move)
        assert(store:export(home .. "/export.tar", { progress = move }))
        assert.equal("labels/label1\nlabels/label2\nlabels/label3\n", helper.run_ok(("tar tf %s/export.tar | grep labels"):format(home)))
      end)
      with_moving(replace, function(move)
        local report = assert(store:verify { progress = move })
        assert.same({ 3, {}, {} }, { report.checked, report.unreadable, report.dangling })
      end)
    end
  end)

  it("loses no content when only the folder of labels goes", function()
    local hash = store:store_at_label("label", "kept")
    local methods = core.store_methods
    local real = methods.clock
    finally(function() methods.clock = real end)
    for _, command in ipairs { "mv labels away", "mv labels away && mkdir labels" } do
      methods.clock = function(...)
        helper.run_ok("cd " .. base .. " && test -e away || { " .. command .. "; }")
        return real(...)
      end
      local report, err = store:gc { grace = -1 }
      assert.is_nil(report)
      assert.matches("Failed to list .*/labels: it was moved away or mounted meanwhile; try again", err.message)
      helper.run_ok("cd " .. base .. " && rm -rf labels && mv away labels")
    end
    assert.is_true(store:exists(hash))
  end)
end)

describe("a check of a store", function()
  use_store()

  it("does not take a label for dangling that moves meanwhile", function()
    threads.run(2, ([[
      local number = ...
      local core, helper = require "theaterref.core", require "helper"
      local store = require("theaterref").content_store("demo", { home = %q, durability = "none" })
      assert(store:store_at_label("label", "0"))
      return function()
        if number == 1 then
          for i = 1, 100 do
            assert(store:store_at_label("label", tostring(i)))
            assert(store:gc { grace = 0 })
          end
          return helper.write(%q .. "/stop", "")
        end
        repeat assert(#assert(store:verify()).dangling == 0) until core.file_stamp(%q .. "/stop")
      end]]):format(home, home, home))
  end)

  it("reports labels that cannot be imported, as Theater can make them: they are not exported, but can be removed", function()
    local hash = store:store_at_label("good", "bytes")
    helper.run_ok("mkdir " .. base .. "/labels/hash")
    for label, why in pairs { ["hash/x"] = "it starts with 'hash/'", [hash] = "it looks like a hash", [("0"):rep(64)] = "it looks like a hash" } do
      helper.write(base .. "/labels/" .. label, hash)
      local faults = assert(store:verify()).faulty_labels
      assert.matches(why .. ".*; give its content another label, and remove this one", faults[label])
      local done, err = store:export(home .. "/export.tar")
      assert.is_nil(done)
      assert.matches("Label '" .. label .. "' cannot be exported: " .. why, err.message)
      assert.same({}, assert(store:gc { grace = -1 }).deleted)
      done, err = store:label(label, hash)
      assert.is_nil(done)
      assert.matches("Invalid label '" .. label .. "': " .. why, err.message)
      assert.is_true(store:remove_label(label))
    end
    assert(store:export(home .. "/export.tar"))
  end)

  it("takes a hash in capitals for no content, which gc leaves alone and the check reports", function()
    local hash = store:store_at_label("label", "bytes")
    assert.matches("%l", hash)
    helper.run_ok(("cd %s/data && touch -d '2 hours ago' %s && cp -p %s %s && mkfifo %s && ln -s %s link"):format(base, hash, hash,
      hash:upper(), ("0"):rep(40), hash))
    local socket = helper.write(home .. "/socket.lua", "require('luv').new_pipe():bind(...) os.exit()")
    helper.run_ok(("%s %s %s/data/%s"):format(helper.lua, socket, base, ("1"):rep(40)))
    for _ = 1, 2 do
      assert.same({ hash }, store:list_all_content())
      assert.same({ 1, { ("0"):rep(40), ("1"):rep(40), hash:upper(), "link" } }, (function(report)
        return { report.checked, report.unexpected }
      end)(assert(store:verify())))
      assert.same({}, assert(store:gc { grace = -1 }).deleted)
      for _, name in ipairs { "0", "1" } do assert.is_false((store:discard_unchanged(name:rep(40), 0))) end
    end
    assert.equal("bytes", tostring(store:get_content_by_label "label"))
  end)

  it("tells content that cannot be read from corrupt content", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    local hash = store:put "secret"
    helper.run_ok("chmod -R a+rwX " .. home .. " && chmod 0600 " .. base .. "/data/" .. hash)
    local out = helper.run_ok(as_user .. helper.lua .. " -e " .. helper.quote(([[
      local report = assert(require("theaterref").content_store("demo", { home = %q }):verify())
      print(#report.corrupt, report.unreadable[1])]]):format(home)))
    assert.equal("0\t" .. hash .. "\n", out)
  end)
end)

describe("content of another user", function()
  use_store()

  local function put_as_user(prefix)
    return helper.run_ok((prefix or "") .. as_user .. helper.lua .. " -e " .. helper.quote(([[
      local hash, err = require("theaterref").content_store("demo", { home = %q, durability = "none" }):put "shared"
      print(hash or err.message)]]):format(home)))
  end

  it("is protected by a put all the same: it is replaced by a copy with its mode", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    local hash = store:put "shared"
    local path = base .. "/data/" .. hash
    helper.run_ok("chmod -R a+rwX " .. home .. " && chmod 0444 " .. path .. " && chgrp 65534 " .. path
      .. " && touch -d '2 hours ago' " .. path)
    assert.equal(hash .. "\n", put_as_user())
    assert.equal("444 65534 65534\n", helper.run_ok("stat -c '%a %u %g' " .. path))
    assert.same({}, store:gc().deleted)
    assert.equal("shared", tostring(assert(store:get(hash))))
  end)

  it("is spared when another user moves a label away from it", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    for _, move in ipairs { 'store:label("x", hash)', 'store:remove_label("x")',
      'store:batch(function(batch) return batch:label("x", hash) end)' } do
      local old, new = store:store_at_label("x", "old"), store:put "new"
      helper.run_ok(("chmod -R a+rwX %s && cd %s/data && chmod 644 %s && touch -d '2 hours ago' %s"):format(home, base, old, old))
      helper.run_ok(as_user .. helper.lua .. " -e " .. helper.quote(([[
        local store, hash = require("theaterref").content_store("demo", { home = %q }), %q
        assert(%s)]]):format(home, new, move)))
      assert.same({}, store:gc().deleted)
    end
  end)

  it("is copied without its setuid bit, and without a group that this user may not give", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    local hash = store:put "shared"
    local path = base .. "/data/" .. hash
    helper.run_ok("chmod -R a+rwX " .. home .. " && chmod 6755 " .. path)
    assert.equal(hash .. "\n", put_as_user())
    assert.equal("755 65534 65534\n", helper.run_ok("stat -c '%a %u %g' " .. path))
  end)

  it("is synced by who replaces it, though their own may be lost", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    local hash = store:put "shared"
    helper.run_ok("chmod -R a+rwX " .. home .. " && chmod 644 " .. base .. "/data/" .. hash)
    put_as_user(("ASAN_OPTIONS=detect_leaks=0 strace -f -y -e trace=fsync,renameat,renameat2 -o %s/trace "):format(home))
    assert.matches("fsync%(%d+<[^>]*/%.tmp%-.*renameat2?%([^\n]*" .. hash, helper.read(home .. "/trace"))
  end)

  it("is refused where it cannot be protected", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    local hash = store:put "shared"
    helper.run_ok("chmod -R a+rX " .. home .. " && chmod 0444 " .. base .. "/data/" .. hash)
    assert.matches("Failed to protect from garbage collection the content " .. hash .. ": Permission denied", put_as_user())
    assert.equal(core.digest("shared", "sha1"), hash)
  end)
end)
