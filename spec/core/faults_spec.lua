local helper = require "helper"

-- A script for an interpreter with the faults preloaded: each work, with each fault
-- at each of its calls in turn. It prints what went wrong.
local script = [[
local faults = require "faults"
local theaterref = require "theaterref"
local home, durability = ...
local function open() return theaterref.content_store("demo", { home = home, durability = durability }) end
local old = assert(open():store_at_label("label", "old"))
local large = assert(open():store_at_label("large", ("large"):rep(1 << 17)))

local count = 0
local works = {
  put = function(store) return store:put("new " .. count) end,
  ["put again"] = function(store) return store:put "old" end,
  label = function(store)
    local done, err = store:label("a" .. count .. "/b", old)
    return done, err
  end,
  ["move a label"] = function(store) return store:label("label", old, { expect = old }) end,
  get = function(store) return store:get(old) end,
  ["get what is large"] = function(store) return store:get(large) end,
  ["get a label"] = function(store) return store:get_content_by_label "label" end,
  batch = function(store)
    return store:batch(function(batch)
      local hash, err = batch:put("in a batch " .. count)
      if not hash then return nil, err end
      return batch:label("batch/" .. count, hash)
    end)
  end,
  gc = function(store) return store:gc { grace = 100000 } end,
  verify = function(store) return store:verify() end,
}
local calls = { write = { "ENOSPC", "EDQUOT", "EIO", "SHORT" }, read = { "EIO" }, openat = { "EMFILE", "EROFS", "EACCES" },
  open = { "EMFILE", "EIO" }, fsync = { "EIO", "ENOSPC" }, syncfs = { "EIO" }, mkdirat = { "EROFS", "ENOSPC" },
  renameat = { "EROFS", "EIO" }, renameat2 = { "EINVAL", "ENOSPC" }, linkat = { "ENOSPC", "ENOENT" },
  flock = { "ENOLCK" }, tmpfile = { "EOPNOTSUPP", "EMFILE" },
  unlinkat = { "EIO" }, mmap = { "EIO" }, fstatat = { "EIO" }, futimens = { "EIO" } }

local failures = 0
local function try(name, work, call, errno, nth)
  count = count + 1
  local store, what = open(), ("%s with %s failing by %s at call %d"):format(name, call, errno, nth)
  faults.fail(call, errno, nth)
  local answer, err = work(store)
  local fired = faults.stop()
  if fired == 0 then return false end
  if answer == nil then
    failures = failures + 1
    assert(err, what .. ": neither an answer nor an error")
    assert(err.kind ~= "corrupt", what .. ": " .. tostring(err))
    assert(#err.message > 20 and err.message:find ": ", what .. " says only: " .. err.message)
    assert(not err.message:find "keeps changing", what .. ": " .. err.message)
    if name == "label" then -- no folder is left in the way of a label
      open():remove_label("a" .. count .. "/b") -- where it failed behind the move
      local done, why = open():label("a" .. count, old)
      assert(done, what .. ": " .. tostring(why))
      assert(open():remove_label("a" .. count))
    end
  end
  local report = assert(open():verify())
  assert(#report.corrupt + #report.dangling + #report.quarantined == 0, what .. ": the store is damaged")
  if call ~= "unlinkat" then
    assert(#report.temporary_files == 0, what .. ": left " .. tostring(report.temporary_files[1]))
  end
  assert(tostring(open():get_content_by_label "label") == "old", what .. ": lost the label")
  assert(call ~= "mmap" or answer, what .. ": it can be read instead")
  if name == "put" and answer then assert(tostring(open():get(answer)) == "new " .. count, what) end
  if answer and (name == "label" or name == "batch") then
    local label = name == "label" and "a" .. count .. "/b" or "batch/" .. count
    assert(open():get_by_label(label), what .. ": said it was done, and was not")
  end
  open():remove_label("a" .. count .. "/b")
  open():remove_label("batch/" .. count)
  assert(open():gc { grace = 0 })
  return true
end

local tried = 0
for name, work in pairs(works) do
  for call, errors in pairs(calls) do
    for _, errno in ipairs(errors) do
      local nth = 1
      while try(name, work, call, errno, nth) do nth, tried = nth + 1, tried + 1 end
    end
  end
end
print(tried, failures)
]]

-- Runs a script with the faults preloaded; its arguments are a folder of its own, and these.
local function run_with_faults(code, arguments)
  local out
  helper.with_folder(function(home)
    local file = helper.write(home .. "/script.lua", code)
    out = helper.run_ok(("%s %s %s %s %s"):format(helper.preload "faults", helper.lua, file, home, arguments or ""))
  end)
  return out
end

local preloaded = helper.can_preload and it or pending

describe("a content store on a file system that fails", function()
  for _, durability in ipairs { "full", "none" } do
    preloaded("says so and stays whole, with durability " .. durability, function()
      local out = run_with_faults(script, durability)
      local tried, failures = out:match "(%d+)%s+(%d+)"
      assert.is_true(tonumber(tried) > 100 and tonumber(failures) > 50, out)
    end)
  end

  preloaded("that is interrupted all the time works as ever", function()
    run_with_faults [[
      local faults, core = require "faults", require "theaterref.core"
      local home = ...
      local store = require("theaterref").content_store("demo", { home = home })
      faults.interrupt(500)
      local till = core.now() + 0.5
      local i = 0
      repeat
        i = i + 1
        local bytes = ("bytes %d "):format(i):rep(10000)
        local hash = assert(store:store_at_label("a/b", bytes))
        assert(tostring(assert(store:get(hash))) == bytes)
        assert(store:batch(function(batch) return assert(batch:label("c" .. i % 3, assert(batch:put("batched " .. i)))) end))
        assert(#assert(store:verify()).corrupt == 0)
        assert(store:gc { grace = 0 })
        assert(store:export(home .. "/export.tar"))
      until core.now() > till
      faults.interrupt(0)]]
  end)

  -- Runs a script with a folder on a file system that these shell commands mount there.
  local function with_mount(mount, text)
    if select(3, helper.run "unshare -m true") ~= 0 then return pending "this user may not mount file systems" end
    helper.with_folder(function(home)
      local file = helper.write(home .. "/script.lua", text)
      local commands = ("cd %s && mkdir small && %s && %s %s %s"):format(home, mount, helper.lua, file, home)
      helper.run_ok("unshare -m sh -c " .. helper.quote(commands))
    end)
  end

  it("that is an overlay, or has content of a read-only layer, is a store like any", function()
    with_mount("mount -t tmpfs none small && cd small && mkdir -p low/demo/data up work demo && printf 'hello store' > "
      .. "low/demo/data/514bdd98016b6ce68aec404a10231de8dd30e85c && mount -t overlay -o lowerdir=low,upperdir=up,workdir=work none demo "
      .. "&& cd ..", [[
      local store = require("theaterref").content_store("demo", { base_path = ... .. "/small/demo/demo", label_history = 0 })
      local hash = assert(store:store_at_label("a/b", "hello store"))
      assert(tostring(store:get(hash)) == "hello store")
      local other = assert(store:store_at_label("a/b", "other"))
      assert(store:batch(function(batch) return batch:label("c", batch:put "third") end))
      assert(#assert(store:gc()).deleted == 0 and #assert(store:verify()).corrupt == 0)
      local report = assert(store:gc { grace = 0 })
      assert(#report.deleted == 1 and report.deleted[1] == hash)
      assert(store:exists(other) and not store:exists(hash))]])
  end)

  it("that is out of inodes keeps what it has, and takes more when there are some again", function()
    with_mount("mount -t tmpfs -o nr_inodes=40 none small", [[
      local store = require("theaterref").content_store("demo", { base_path = ... .. "/small" })
      local count, err = 0, nil
      repeat
        local hash
        hash, err = store:store_at_label("folder" .. count .. "/label", "bytes " .. count)
        if hash then count = count + 1 end
      until not hash
      assert(err.message:find "No space left on device", err.message)
      assert(count > 5 and #assert(store:verify()).temporary_files == 0)
      local filled, file = 0, nil
      repeat
        filled, file = filled + 1, io.open(... .. "/small/fill" .. filled, "w")
        if file then file:close() end
      until not file
      assert(store:gc())
      assert(store:remove_label "folder0/label")
      for i = 1, count - 1 do assert(store:get_content_by_label("folder" .. i .. "/label")) end]])
  end)

  it("that is full keeps what it has, and takes more when there is room again", function()
    local mounted = select(3, helper.run "unshare -m true") == 0
    if not mounted then return pending "this user may not mount a small file system" end
    helper.with_folder(function(home)
      local file = helper.write(home .. "/script.lua", [[
        local store = require("theaterref").content_store("demo", { base_path = ... .. "/small" })
        local kept = {}
        while true do
          local hash, err = store:store_at_label("l" .. #kept + 1, (("%08d"):format(#kept)):rep(4096))
          if not hash then
            assert(err.message:find "^Failed to write .*No space left on device", err.message)
            assert(err.message:find("small", 1, true) or err.message:find "label", err.message)
            break
          end
          kept[#kept + 1] = hash
        end
        assert(#kept > 5 and #kept < 40)
        local report = store:verify()
        assert(report.checked >= #kept and #report.corrupt + #report.dangling + #report.temporary_files == 0)
        assert(store:remove_label "l1")
        assert(#store:gc({ grace = 0 }).deleted > 0)
        assert(store:store_at_label("again", "there is room"))]])
      helper.run_ok(("unshare -m sh -c %s"):format(helper.quote(("mkdir %s/small && mount -t tmpfs -o size=1m none %s/small && %s %s %s")
        :format(home, home, helper.lua, file, home))))
    end)
  end)

  preloaded("that failed to sync a batch gets its bytes anew: the batch is over", function()
    run_with_faults [[
      local faults = require "faults"
      local home = ...
      local store = require("theaterref").content_store("demo", { home = home })
      local there = require("theaterref").content_store("demo", { home = home, durability = "none" }):put "there"
      local function inode()
        local pipe <close> = io.popen(("stat -c %%i %s/store/demo/data/%s"):format(home, there))
        return pipe:read "a"
      end
      for nth = 1, 3 do
        local batch <close> = assert(store:begin_batch())
        assert(batch:label("label" .. nth, assert(batch:put("new " .. nth))))
        assert(batch:put "there")
        local before = inode()
        faults.fail("syncfs", "EIO", nth)
        local done, err = batch:commit()
        faults.stop()
        assert(not done and err.message:find "Failed to sync .*Input/output error")
        if nth == 1 then -- before the content that was there is known to last
          assert(inode() ~= before)
          assert(not store:label_exists "label1" and #store:list_all_content() == 1)
        end
        done, err = batch:commit()
        assert(not done and err.message:find "the batch ended when its commit failed; begin another one", err)
        assert(not batch:put "more" and not batch:label("more", there))
        assert(#store:list_temporary_files() == 1) -- the batch's guard
      end
      assert(#store:list_temporary_files() == 0)
      assert(store:batch(function(batch) return batch:label("label1", assert(batch:put "new 1")) end))]]
  end)

  -- Prepares labels of all sorts, and returns what a batch that fails behind them says.
  local failing_batch = [[
    local faults, core = require "faults", require "theaterref.core"
    local home = ...
    local base = home .. "/store/demo"
    local store = require("theaterref").content_store("demo", { home = home, durability = "none" })
    local names = { "absent/label", "blank", "fine", "link", "odd", "last" }
    local function label_all(text)
      return store:batch(function(batch)
        local hash = assert(batch:put(text))
        for _, name in ipairs(names) do assert(batch:label(name, hash)) end
        return true
      end)
    end
    assert(label_all "old")
    assert(store:remove_label "absent/label")
    assert(os.execute(("cd %s/labels && : > blank && ln -sf fine link && echo '# by hand' >> odd"):format(base)))
    local function state()
      local pipe <close> = io.popen(("cd %s && ls -R labels && readlink labels/link && cd labels && head *"):format(base))
      return pipe:read "a"
    end
    local history = ("%s/history/%s"):format(base, core.blob("last"):digest "sha256")
    assert(os.execute("mkdir -p " .. history)) -- in the file's place
    local before = state()
  ]]

  preloaded("puts back all labels of a batch that fails, whatever they are, with any means that it has for it", function()
    run_with_faults(failing_batch .. [[
      for _, lack in ipairs { function() end, function() faults.fail("renameat2", "EINVAL", 1) end,
        function() faults.simple(true) end } do
        lack()
        local done, err = label_all "new"
        faults.stop()
        assert(not done and err.message:find "^Failed to write the history of label last: Is a directory$", err)
        assert(state() == before, state())
        assert(#store:list_temporary_files() == 0)
      end
      assert(os.remove(history))
      for i, lack in ipairs { function() faults.simple(false) end, function() faults.fail("renameat2", "EINVAL", 1) end,
        function() faults.simple(true) end } do
        lack()
        assert(label_all("newer " .. i))
        faults.stop()
        for _, name in ipairs(names) do assert(tostring(store:get_content_by_label(name)) == "newer " .. i) end
        assert(#store:list_temporary_files() == 0)
      end]])
  end)

  preloaded("that cannot put back the labels of a batch keeps what they were, and says where", function()
    run_with_faults(failing_batch .. [[
      faults.fail("renameat", "EIO", 1)
      local done, err = label_all "new"
      faults.stop()
      assert(not done and err.message:find("^Failed to write the history of label last: Is a directory%. "
        .. "Failed to put back label odd: Input/output error, which has moved; its former file is %.tmp%-%x+%.%d+%. "), err)
      assert(not store:label_exists "absent/label")
      local file <close> = assert(io.open(base .. "/" .. err.message:match "label odd.-(%.tmp%-%x+%.%d+)"))
      assert(file:read "a":find "# by hand")]])
  end)

  preloaded("that failed to sync content gets it anew: a put or a label does not sync the same file again", function()
    run_with_faults [[
      local faults, theaterref = require "faults", require "theaterref"
      local home = ...
      local durable = theaterref.content_store("demo", { home = home })
      assert(durable:put "first") -- which syncs the folders
      local hash
      local function inode()
        local pipe <close> = io.popen(("stat -c %%i %s/store/demo/data/%s"):format(home, hash))
        return pipe:read "a"
      end
      for i, work in ipairs { function() return durable:put "bytes 1" end, function() return durable:label("x", hash) end } do
        hash = assert(theaterref.content_store("demo", { home = home, durability = "none" }):put("bytes " .. i))
        local before = inode()
        faults.fail("fsync", "EIO", 1)
        local done, err = work()
        faults.stop()
        assert(not done and err.message:find "sync content", err)
        assert(inode() ~= before)
        assert(work())
        assert(tostring(assert(durable:get(hash))) == "bytes " .. i)
      end]]
  end)

  preloaded("that failed to sync content, and has no room to get it anew, acknowledges it only once it has", function()
    run_with_faults [[
      local faults, theaterref = require "faults", require "theaterref"
      local home = ...
      local durable = theaterref.content_store("demo", { home = home })
      assert(durable:put "first") -- which syncs the folders
      local bytes, hash
      local function inode()
        local pipe <close> = io.popen(("stat -c %%i %s/store/demo/data/%s"):format(home, hash))
        return pipe:read "a"
      end
      local function put() return durable:put(bytes) end
      local function batch()
        return durable:batch(function(b)
          local there = assert(b:put(bytes))
          faults.fail("sync", "EIO", 1)
          return there
        end)
      end
      for i, work in ipairs { put, batch } do
        bytes = "bytes " .. i
        hash = assert(theaterref.content_store("demo", { home = home, durability = "none" }):put(bytes))
        local before = inode()
        if work == put then faults.fail("sync", "EIO", 1) end
        local done, err = work()
        assert(not done and err.message:find "Failed to sync .*Input/output error", err)
        for _, again in ipairs { put, function() return durable:label("x", hash) end } do
          faults.fail("new file", "ENOSPC", 1) -- the disk syncs again, but is full
          done, err = again()
          assert(not done and err.message:find "No space left on device", err)
          assert(inode() == before)
        end
        faults.stop()
        assert(durable:batch(function(b) return b:put(bytes) end))
        assert(inode() ~= before)
        before = inode()
        assert(put() and inode() == before)
      end]]
  end)

  preloaded("whose clock is coarse gives no bytes for verified that changed within one tick, nor one whose clock is behind", function()
    run_with_faults [[
      local faults, core = require "faults", require "theaterref.core"
      local home = ...
      local store = require("theaterref").content_store("demo", { home = home, durability = "none" })
      local hash = assert(store:put "good")
      local path = home .. "/store/demo/data/" .. hash
      local function write(bytes)
        local file <close> = assert(io.open(path, "wb"))
        file:write(bytes)
      end
      for i = 1, 6 do
        faults.whole_seconds(i // 4 * 5)
        assert(tostring(assert(store:get(hash))) == "good")
        write("EVIL")
        local blob, err = store:get(hash)
        assert(not blob and err.kind == "corrupt")
        write("good")
        assert(store:get(hash))
        write("EVIL")
        assert(store:put "good")
        assert(tostring(core.read_file(path)) == "good")
      end]]
  end)

  preloaded("that cannot look for content does not say that it is not there", function()
    run_with_faults [[
      local faults = require "faults"
      local store = require("theaterref").content_store("demo", { home = ... })
      local hash = assert(store:put "x")
      local nth = 1
      repeat
        faults.fail("openat", "EMFILE", nth)
        local done, err = store:label("x", hash)
        assert(done or err.kind ~= "not_found", err and err.message)
        nth = nth + 1
      until faults.stop() == 0]]
  end)

  preloaded("that cannot open a label's folders to sync them does not say that it did", function()
    run_with_faults [[
      local faults = require "faults"
      local store = require("theaterref").content_store("demo", { home = ... })
      local hash = assert(store:put "x")
      local nth, done, last = 1, nil, nil
      repeat -- the last call is one for a sync
        last = done
        faults.fail("openat", "EMFILE", nth)
        done = store:label("a/b", hash)
        nth = nth + 1
      until faults.stop() == 0
      assert(nth > 5 and not last and done)]]
  end)

  preloaded("that cannot tell if content is locked keeps it", function()
    run_with_faults [[
      local faults = require "faults"
      local store = require("theaterref").content_store("demo", { home = ... })
      local hash = assert(store:put "x")
      faults.fail("flock", "ENOLCK", 7) -- behind those of the store
      local report = assert(store:gc { grace = -1 })
      assert(faults.stop() > 0 and #report.deleted == 0 and report.failed[hash]:find "No locks available")
      assert(store:exists(hash))]]
  end)

  preloaded("that cannot look at content does not say that it is in use", function()
    run_with_faults [[
      local faults = require "faults"
      local store = require("theaterref").content_store("demo", { home = ..., durability = "none" })
      local hash = assert(store:put "x")
      local nth, failed = 1, false
      repeat
        faults.fail("fstatat", "EIO", nth)
        local report = store:gc { grace = -1 }
        assert(not report or report.kept.in_use == 0)
        failed = failed or report and report.failed[hash] ~= nil
        nth = nth + 1
      until faults.stop() == 0
      assert(failed)]]
  end)

  preloaded("that has names over 255 bytes gives a listing, in which such a label is faulty", function()
    run_with_faults [[
      local store = require("theaterref").content_store("demo", { home = ... })
      local folder = (("f"):rep(250) .. "/"):rep(15) -- with a name of 765 bytes, longer than a label may be
      local hash = assert(store:store_at_label(folder .. "b", "x"))
      assert(store:label(folder .. "LONG", hash))
      local labels, faults = assert(store:label_hashes())
      local label, why = next(faults)
      assert(labels[folder .. "b"] == hash and label:find "/n+$" and why:find "longer than", why)
      assert(#assert(store:list_labels()) == 2)]]
  end)

  it("and whose folder vanishes is a store without content, and writes make it anew", function()
    helper.with_folder(function(home)
      local store = require("theaterref").content_store("demo", { home = home })
      local hash = store:put "x"
      helper.run_ok("rm -r " .. home .. "/store")
      assert.equal("not_found", select(2, store:get(hash)).kind)
      assert.equal("not_found", select(2, store:label("x", hash)).kind)
      assert.same({}, store:gc().deleted)
      assert.equal(hash, store:store_at_label("x", "x"))
      assert.equal("x", tostring(store:get_content_by_label "x"))
    end)
  end)
end)

describe("a policy script that changed", function()
  preloaded("while the process had no descriptor left is in force once it has, and reported once", function()
    run_with_faults [[
      local faults = require "faults"
      local path, reports = ... .. "/policy.lua", {}
      local function write(version)
        local file <close> = io.open(path, "w")
        file:write(("return { schemes = { version = function() return '%s' end } }"):format(version))
      end
      write "old"
      local resolver = assert(require("theaterref").resolver { policy = path, log = false,
        on_event = function(event) reports[#reports + 1] = event.type end })
      write "newer"
      faults.fail("open", "EMFILE", 1)
      for _ = 1, 3 do assert(tostring(resolver:resolve "version://x") == "old") end
      assert(faults.stop() == 3)
      assert(tostring(resolver:resolve "version://x") == "newer")
      assert(table.concat(reports, " "):gsub("resolved ?", "") == "policy_broken policy_reloaded ", table.concat(reports, " "))
      write "newest"
      faults.fail("open", "EMFILE", 2) -- the script can be read, its builders cannot
      assert(tostring(resolver:resolve "version://x") == "newer")
      assert(faults.stop() == 1)
      assert(tostring(resolver:resolve "version://x") == "newest")]]
  end)
end)
