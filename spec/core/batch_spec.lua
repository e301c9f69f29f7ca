local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"

describe("a batch", function()
  local home, store

  before_each(function()
    home = helper.temporary_folder()
    store = theaterref.content_store("demo", { home = home })
  end)

  after_each(function() helper.remove(home) end)

  it("stores many items with one sync", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    local script = ([[
      local store = require("theaterref").content_store("demo", { home = %q })
      assert(store:put "first")
      assert(store:batch(function(batch)
        for i = 1, 500 do assert(batch:label("l/" .. i, assert(batch:put("content " .. i)))) end
        return true
      end))]]):format(home)
    local trace = home .. "/trace"
    -- LeakSanitizer cannot work under strace.
    helper.run_ok(("ASAN_OPTIONS=detect_leaks=0 strace -f -e trace=fsync,syncfs,fdatasync -o %s %s -e %s"):format(trace,
      helper.lua, helper.quote(script)))
    local syncs = select(2, helper.read(trace):gsub("sync[fs]*%(", ""))
    assert.is_true(syncs < 20, syncs .. " syncs")
    assert.equal(501, store:verify().checked)
    assert.equal("content 77", tostring(store:get_content_by_label "l/77"))
  end)

  it("shows nothing before its end", function()
    local hash
    local answer, more = store:batch(function(batch)
      hash = batch:put "bytes"
      assert.is_true(batch:label("x", hash))
      assert.is_false(store:exists(hash))
      assert.is_nil(store:get_by_label "x")
      return "answer", "more"
    end)
    assert.same({ "answer", "more" }, { answer, more })
    assert.equal("bytes", tostring(store:get_content_by_label "x"))
  end)

  it("stores nothing when its work fails or gives up", function()
    for _, work in ipairs { function(batch) batch:put "x"; error "halfway" end,
      function(batch) batch:put "x"; return nil, "given up" end } do
      local ok, answer, why = pcall(store.batch, store, work)
      assert.matches(ok and "given up" or "halfway", ok and why or answer)
    end
    assert.same({}, store:list_all_content())
    assert.same({}, store:list_temporary_files())
  end)

  it("commits if its work returns nothing, and nothing if it returns false", function()
    assert.is_true(store:batch(function(batch) assert(batch:put "x") end))
    assert.is_true(store:batch(function(batch) assert(batch:put "x") return nil end))
    assert.is_true(store:batch(function(batch) return batch:put "x" ~= nil end))
    local ok, err = store:batch(function(batch) batch:put "y" return false end)
    assert.is_nil(ok)
    assert.equal("the batch's function returned false, so nothing is stored", tostring(err))
    ok, err = store:batch(function(batch) batch:put "y" return false, "given up" end)
    assert.same({ nil, "given up" }, { ok, err })
    assert.equal(1, #store:list_all_content())
  end)

  it("labels only content that is in it or in the store", function()
    local there = store:put "there"
    assert.is_true(store:batch(function(batch) return batch:label("there", there) end))
    local ok, err = store:batch(function(batch) return batch:label("nowhere", ("0"):rep(40)) end)
    assert.is_nil(ok)
    assert.matches("Content does not exist: 0+ %(put it before you label it%)", err.message)
    assert.same({ "there" }, store:list_labels())
    ok, err = store:batch(function(batch) return batch:label("../x", there) end)
    assert.is_nil(ok)
    assert.equal("invalid_reference", err.kind)
    assert.same({}, store:list_temporary_files())
  end)

  it("changes nothing if one of its items cannot be placed", function()
    local there = store:put "there"
    assert(store:label("label", there))
    assert(store:label("folder/label", there))
    helper.run_ok("rm -rf " .. home .. "/store/demo/corrupt")
    for _, labels in ipairs { { "good", "label/inner" }, { "good", "folder" }, { "good", "a/b", "a" }, { "a", "a/b/c" } } do
      local ok, err = store:batch(function(batch)
        for i, label in ipairs(labels) do batch:label(label, batch:put(label .. i)) end
        return true
      end)
      assert.is_nil(ok)
      assert.equal("invalid_reference", err.kind)
      assert.matches("both a label and a folder of labels", err.message)
    end
    local ok, err = store:batch(function(batch)
      batch:label("good", batch:put "good")
      return batch:label("bad", ("0"):rep(40))
    end)
    assert.is_nil(ok)
    assert.equal("not_found", err.kind)
    assert.same({ there }, store:list_all_content())
    assert.same({ "folder/label", "label" }, store:list_labels())
    assert.same({}, store:list_temporary_files())
    assert.equal("folder\nlabel\n", helper.run_ok("ls " .. home .. "/store/demo/labels")) -- and no empty folder
  end)

  it("heals content, and takes the same content and label more than once", function()
    local hash = store:put "bytes"
    helper.write(home .. "/store/demo/data/" .. hash, "BYTES")
    assert(store:batch(function(batch)
      for _ = 1, 2 do assert(batch:label("x", batch:put "new")) end
      return batch:label("y", batch:put "bytes")
    end))
    assert.equal("bytes", tostring(store:get_content_by_label "y"))
    assert.equal("new", tostring(store:get_content_by_label "x"))
    assert.same({}, store:list_temporary_files())
  end)

  it("moves a label that comes more than once to its last content, and has no other in its history", function()
    local old = store:store_at_label("x", "old")
    local batch <close> = assert(store:begin_batch())
    for _, bytes in ipairs { "never seen", "new" } do assert(batch:label("x", assert(batch:put(bytes)))) end
    assert.equal(4, #store:list_temporary_files()) -- the guard, two of content, and one of the label
    assert(batch:commit())
    assert.equal("new", tostring(store:get_content_by_label "x"))
    assert.same({ old }, store:history "x")
    assert.equal(old, (store:rollback "x"))
    assert(batch:label("x", assert(batch:put "newer"))) -- after a commit too
    assert(batch:commit())
    assert.equal("newer", tostring(store:get_content_by_label "x"))
  end)

  it("keeps its files however long it takes and whatever gc does, and leaves them to gc when it has crashed", function()
    local batch <close> = assert(store:begin_batch())
    local hash = assert(batch:put "late")
    assert(batch:label("late", hash))
    helper.run_ok(("cd %s/store/demo && cp .tmp-*.1 $(ls -d .tmp-*.1).old && touch -d '2 hours ago' .tmp-*"):format(home))
    assert.same({}, store:gc().temporary_files)
    assert.same({}, store:gc({ grace = -1 }).temporary_files)
    assert(batch:commit())
    assert.equal("late", tostring(store:get_content_by_label "late"))
    assert.equal(2, #store:list_temporary_files()) -- the guard, and the copy
    for _, name in ipairs { ".tmp-crashed", ".tmp-crashed.0", ".tmp-other.1" } do
      helper.write(home .. "/store/demo/" .. name, "")
    end
    assert.equal(3, #store:gc({ grace = -1 }).temporary_files)
  end)

  it("moves no label if the file of one is gone", function()
    local hash = store:put "x"
    local batch <close> = assert(store:begin_batch())
    assert(batch:label("a", hash))
    local files = store:list_temporary_files()
    assert(batch:label("b", hash))
    for _, name in ipairs(store:list_temporary_files()) do
      if name > files[#files] then os.remove(home .. "/store/demo/" .. name) end
    end
    local done, err = batch:commit()
    assert.is_nil(done)
    assert.matches("Failed to write label b: No such file", err.message)
    assert.is_false(store:label_exists "a")
  end)

  it("is not acknowledged if content that was there has gone before the end, and protects it until then", function()
    local hash = store:put "x"
    local path = ("%s/store/demo/data/%s"):format(home, hash)
    local done, err = store:batch(function(batch)
      os.remove((assert(batch:put "x") and path))
      return true
    end)
    assert.is_nil(done)
    assert.equal("not_found", err.kind)
    assert.matches(hash .. " was deleted before the commit; put it again", err.message)
    store:put "x"
    assert(store:batch(function(batch)
      helper.run_ok("touch -d '2 hours ago' " .. (assert(batch:put "x") and path))
      return true
    end))
    assert.same({}, store:gc().deleted)
  end)

  it("moves no label, and leaves their histories, if one of them cannot be moved", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    local first, old = store:store_at_label("a", "first"), store:store_at_label("a", "old")
    assert(store:label("sticky/label", old))
    helper.run_ok(("chmod -R a+rwX %s && chmod 1777 %s/store/demo/labels/sticky"):format(home, home))
    local out = helper.run_ok("setpriv --reuid=65534 --regid=65534 --clear-groups " .. helper.lua .. " -e " .. helper.quote(([[
      local store = require("theaterref").content_store("demo", { home = %q, durability = "none" })
      local batch <close> = assert(store:begin_batch())
      local hash = assert(batch:put "new")
      for _, label in ipairs { "a", "new/label", "a", "sticky/label", "last" } do
        assert(batch:label(label, label == "a" and %q or hash))
      end
      print(select(2, batch:commit()).message)
      print(select(2, batch:commit()).message)]]):format(home, first)))
    assert.matches("^Failed to write label sticky/label: Operation not permitted\nthe batch ended when its commit failed", out)
    assert.same({ ["a"] = old, ["sticky/label"] = old }, (store:label_hashes()))
    assert.same({ first }, store:history "a")
    assert.same({}, store:list_temporary_files())
    assert.equal("a\nsticky\n", helper.run_ok("ls " .. home .. "/store/demo/labels"))
  end)

  it("is not acknowledged, and changes nothing, if another folder has taken the store's place", function()
    local old = store:store_at_label("a", "old")
    local demo = home .. "/store/demo"
    local batch <close> = assert(store:begin_batch())
    assert(batch:label("a", assert(batch:put "new")))
    helper.run_ok(("cp -a %s %s.new && mv %s %s.old && mv %s.new %s"):format(demo, demo, demo, demo, demo, demo))
    local done, err = batch:commit()
    assert.is_nil(done)
    assert.matches("was replaced by another folder meanwhile; try again", err.message)
    assert.equal(old, store:get_by_label "a")
    assert.equal(old, theaterref.content_store("demo", { base_path = demo .. ".old" }):get_by_label "a")
  end)

  it("can be committed again, with what came since or with nothing", function()
    local batch <close> = store:begin_batch()
    assert(batch:label("one", batch:put "one"))
    assert.is_true(batch:commit())
    assert.is_true(batch:commit())
    assert(batch:label("two", batch:put "two"))
    assert.is_true(batch:commit())
    assert.same({ "one", "two" }, store:list_labels())
  end)

  it("belongs to the process that began it, and keeps its files when a child ends", function()
    local batch <close> = store:begin_batch()
    assert(batch:label("x", batch:put "bytes"))
    if threads.fork(20) then
      local done, err = batch:commit()
      if done or not err.message:find "child of a fork" or batch:put "child" then os.exit(1) end
      do local over <close> = batch end -- luacheck: ignore 211
      threads.leave()
    end
    threads.wait()
    assert.is_true(batch:commit())
    assert.equal("bytes", tostring(store:get_content_by_label "x"))
  end)

  it("is over when it is over", function()
    local kept
    store:batch(function(batch) kept = batch return true end)
    assert.has_error(function() kept:put "x" end, "calling 'put' on bad self (the batch is over)")
  end)
end)

describe("a store's export", function()
  local home, store, path

  before_each(function()
    home = helper.temporary_folder()
    path = home .. "/export.tar"
    store = theaterref.content_store("demo", { home = home, durability = "none" })
    store:store_at_label("a/b", "bytes")
    store:store_at_label(("long/"):rep(60) .. "label", ("x"):rep(100000))
    store:store_at_label("empty", "")
    theaterref.content_store("demo", { home = home, algorithm = "sha256" }):store_at_label("sha256", "other name")
  end)

  after_each(function() helper.remove(home) end)

  local function import(file)
    local copy = theaterref.content_store("copy", { home = home, durability = "none" })
    return copy, copy:import(file)
  end

  it("brings all content and labels to another store, and is the same each time", function()
    assert.is_true(store:export(path))
    assert.is_false(helper.exists(path .. ".partial"))
    local copy, count = import(path)
    assert.equal(8, count)
    helper.run_ok(("diff -r %s/store/demo %s/store/copy"):format(home, home))
    assert(copy:export(home .. "/again.tar"))
    assert.equal(helper.read(path):sub(1025), helper.read(home .. "/again.tar"):sub(1025)) -- after the store's name
    assert.is_true(store:export(home .. "/same.tar"))
    assert.equal(helper.read(path), helper.read(home .. "/same.tar"))
  end)

  it("comes from a pipe too, but not from one that nobody writes to", function()
    assert(store:export(path))
    helper.run_ok("mkfifo " .. home .. "/pipe")
    local script = ([[timeout -s KILL 60 %s -e '
      local theaterref = require "theaterref"
      local copy = theaterref.content_store("copy", { home = %q, durability = "none" })
      local count, err = copy:import(%q)
      print(count or err.kind .. ": " .. err.message)']]):format(helper.lua, home, home .. "/pipe")
    assert.equal(("timeout: Failed to read %s/pipe: nobody writes to this pipe\n"):format(home), helper.run_ok(script))
    assert.equal("8\n", helper.run_ok(("(sleep 0.2; cat %s; sleep 0.2) > %s/pipe & %s"):format(path, home, script)))
    helper.run_ok(("diff -r %s/store/demo %s/store/copy"):format(home, home))
    assert.equal("syntax: this is not an export of a store: it ends too early\n",
      helper.run_ok(("head -c 700 %s > %s/pipe & %s"):format(path, home, script)))
  end)

  it("says how many labels of the store it moved, and leaves them alone with 'keep_labels'", function()
    assert(store:export(path))
    local copy = theaterref.content_store("copy", { home = home, durability = "none" })
    copy:store_at_label("a/b", "newer")
    copy:store_at_label("empty", "")
    copy:store_at_label("own", "own")
    assert.same({ 8, 1 }, { copy:import(path, { keep_labels = true }) })
    assert.equal("newer", tostring(copy:get_content_by_label "a/b"))
    assert.equal("other name", tostring(copy:get_content_by_label "sha256"))
    assert.same({ 8, 1 }, { copy:import(path) })
    assert.equal("bytes", tostring(copy:get_content_by_label "a/b"))
    assert.same({ 8, 0 }, { copy:import(path) })
    assert.equal("own", tostring(copy:get_content_by_label "own"))
    local odd = helper.write(home .. "/store/copy/labels/a/b", "not a hash")
    assert.same({ 8, 1 }, { copy:import(path, { keep_labels = true }) })
    assert.equal("not a hash", helper.read(odd))
  end)

  it("replaces an earlier export or an empty file, and no other", function()
    helper.write(path, "")
    assert.is_true(store:export(path))
    assert.is_true(store:export(path))
    for _, text in ipairs { "\0asm", ("x"):rep(4096), helper.read(path):sub(513) } do
      helper.write(path, text)
      assert.equal(("Failed to export to %s: that file exists and is not a store export; remove it first, or give another path")
        :format(path), select(2, store:export(path)).message)
      assert.equal(text, helper.read(path))
    end
  end)

  it("does not replace a file that cannot be read", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root can become another user" end
    helper.write(path, "a diary")
    helper.run_ok(("chmod 777 %s && chmod 200 %s && chown 65534 %s"):format(home, path, path))
    local script = ([[local ok, err = require("theaterref").content_store("demo", { home = %q }):export(%q)
      print(ok or err.message)]]):format(home, path)
    local out = helper.run_ok("chmod -R a+rwX " .. home .. "/store; setpriv --reuid=65534 --regid=65534 --clear-groups " .. helper.lua
      .. " -e " .. helper.quote(script))
    assert.equal(("Failed to export to %s: it cannot be read, to see what it is: Failed to read %s: Permission denied\n"):format(path,
      path), out)
    assert.equal("a diary", helper.read(path))
  end)

  it("replaces the export of another store only by force", function()
    assert(store:export(path))
    local before, other = helper.read(path), theaterref.content_store("other", { home = home })
    assert(other:put "bytes")
    assert.equal(("Failed to export to %s: that file is an export of the store 'demo'; give another path, or replace it with 'force' (--force)")
      :format(path), select(2, other:export(path)).message)
    assert.equal(before, helper.read(path))
    assert.is_true(other:export(path, { force = true }))
    assert.not_equal(before, helper.read(path))
    assert.has_error(function() other:export(path, { forse = true }) end, "there is no export option 'forse' (did you mean 'force'?)")
  end)

  it("is a tar file that tar reads, and what tar writes is read", function()
    assert(store:export(path))
    helper.run_ok(("mkdir %s/tree && tar -C %s/tree -xf %s && diff -r %s/tree %s/store/demo"):format(home, home, path, home,
      home))
    for _, format in ipairs { "gnu", "pax", "ustar" } do
      if format == "ustar" then store:remove_label(("long/"):rep(60) .. "label") end
      helper.run_ok(("tar -C %s/store/demo --format=%s -cf %s ."):format(home, format, path))
      local _, count, err = import(path)
      assert.equal(format == "ustar" and 7 or 8, count, tostring(err))
    end
    helper.run_ok(("diff -r %s/store/demo/data %s/store/copy/data"):format(home, home))
  end)

  it("that is damaged, lies or leads outside is refused, and no bytes get a wrong name", function()
    assert(store:export(path))
    local good = helper.read(path)
    local function refused(bytes, kind, pattern)
      helper.write(path, bytes)
      local copy, count, err = import(path)
      assert.is_nil(count)
      assert.equal(kind, err.kind)
      assert.matches(pattern, err.message)
      assert.same({}, copy:verify().corrupt)
    end
    refused(good:gsub("bytes", "BYTES", 1), "corrupt", "holds other bytes than its name says")
    refused(good:sub(1, 3000), "syntax", "it ends too early")
    refused("", "syntax", "it ends too early")
    refused(good:sub(1, 20) .. "?" .. good:sub(22), "syntax", "a header is damaged")
    local function tar(commands)
      helper.run_ok(("cd %s && mkdir -p evil/labels && %s && tar -P -cf evil.tar -C evil ."):format(home, commands))
      return helper.read(home .. "/evil.tar")
    end
    refused(tar "ln -s /etc/passwd evil/labels/link", "syntax", "something that is no file")
    refused(tar "rm -r evil/labels/link && echo x > evil/other", "syntax", "it holds other")
    assert.is_nil((select(2, import(home .. "/nowhere"))))
  end)

  it("is refused for a label that leads outside", function()
    helper.run_ok(("cd %s && mkdir -p a/labels && echo %s > evil && tar -P --transform 's,evil,labels/../../evil,' -cf %s evil")
      :format(home, ("0"):rep(40), path))
    local _, count, err = import(path)
    assert.is_nil(count)
    assert.equal("invalid_reference", err.kind)
  end)

  it("that is empty, or has something behind its end, is refused; that of an empty store is not", function()
    assert(store:export(path))
    local good = helper.read(path)
    for bytes, why in pairs { [("\0"):rep(10240)] = "it is empty", [good .. good] = "something follows its end",
      [good .. ("\0"):rep(5000) .. "x"] = "something follows its end" } do
      helper.write(path, bytes)
      local _, count, err = import(path)
      assert.is_nil(count)
      assert.matches(why, err.message)
    end
    helper.write(path, good .. ("\0"):rep(9000)) -- as tar pads
    assert.equal(8, (select(2, import(path))))
    assert(theaterref.content_store("none", { home = home }):export(path, { force = true }))
    assert.equal(0, (select(2, import(path))))
  end)

  it("moves no label if it is cut off, however much it holds, and takes labels before their content", function()
    local many = theaterref.content_store("many", { home = home, durability = "none" })
    local hash = many:put "bytes"
    assert(many:batch(function(batch)
      for i = 1, 10100 do assert(batch:label("l/" .. i, hash)) end -- more than are imported with one sync
      return true
    end))
    assert(many:export(path))
    helper.run_ok(("truncate -s -20K %s"):format(path))
    local copy, count, err = import(path)
    assert.is_nil(count)
    assert.matches("it ends too early", err.message)
    assert.same({}, copy:list_labels())
    helper.run_ok(("tar cf %s -C %s/store/demo labels data"):format(path, home))
    copy, count = import(path)
    assert.equal(8, count)
    assert.equal("bytes", tostring(copy:get_content_by_label "a/b"))
  end)

  it("has the right size of content over 8 GiB", function()
    local piece = ("x"):rep(1 << 20)
    local huge = setmetatable({ sub = function() return piece end }, { __len = function() return (9 << 30) + 5 end })
    local fake = setmetatable({ hold = function(self) return self end, list_all_content = function() return { "huge" } end, get = function() return huge end,
      label_hashes = function() return {}, {} end }, { __close = function() end })
    local start = ""
    local file = { flush = function() return true end }
    function file:write(bytes)
      if #start < 4096 then start = start .. bytes end
      return self
    end
    assert(require("theaterref.store.archive").export(fake, file))
    helper.write(path, start:sub(1, 4096))
    assert.matches(" 9663676421 .* data/huge\n", helper.run("tar -tvf " .. path .. " 2>/dev/null"))
    helper.write(path, start:sub(1, start:find "data/huge" - 1) .. ("x"):rep(100))
    assert.matches("it ends too early", (select(3, import(path))).message)
  end)

  it("shows up whole and synced, also when two go to one path at once", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    local script = helper.write(home .. "/script.lua", ([[
      assert(require("theaterref").content_store("demo", { home = %q }):export(%q))]]):format(home, path))
    -- LeakSanitizer cannot work under strace.
    helper.run_ok(("ASAN_OPTIONS=detect_leaks=0 strace -y -e trace=fsync,renameat -o %s/trace %s %s & %s %s & wait; wait"):format(home,
      helper.lua, script, helper.lua, script))
    assert.matches("fsync%(%d+<[^>]*/%.tmp%-%x+>%).*renameat%(.*export.tar.*fsync", helper.read(home .. "/trace"))
    assert.equal(8, (select(2, import(path))))
    assert.equal("", helper.run_ok("find " .. home .. " -maxdepth 1 -name '*.partial' -o -maxdepth 1 -name '.tmp*'"))
  end)

  it("that is damaged in any way raises nothing and gives no bytes a wrong name", function()
    store:remove_label(("long/"):rep(60) .. "label")
    store:gc { grace = 0 }
    assert(store:export(path))
    local good, seed = helper.read(path), os.time()
    math.randomseed(seed)
    local edits = {
      function(at) return good:sub(1, at - 1) .. string.char(math.random(0, 255)) .. good:sub(at + 1) end,
      function(at) return good:sub(1, at) end,
      function(at) return good:sub(1, at) .. good:sub(at + 512) end,
      function(at) return good:sub(1, at // 512 * 512) .. good:sub(1, 512) .. good:sub(at // 512 * 512 + 1) end,
      function(at) -- a size that lies, with the right checksum
        local from = at // 512 * 512
        local header = good:sub(from + 1, from + 124) .. ("%011o\0"):format(math.random(0, 1 << 32))
          .. good:sub(from + 137, from + 148) .. (" "):rep(8) .. good:sub(from + 157, from + 512)
        local sum = 0
        for i = 1, #header do sum = sum + header:byte(i) end
        return good:sub(1, from) .. header:sub(1, 148) .. ("%06o\0 "):format(sum) .. header:sub(157) .. good:sub(from + 513)
      end,
    }
    for i = 1, 48 do
      helper.write(path, edits[i % #edits + 1](math.random(#good - 1024)))
      local copy = theaterref.content_store("copy" .. i, { home = home, durability = "none" })
      local ok, count, err = pcall(copy.import, copy, path)
      assert(ok and (count or err.kind), ("seed %d, way %d: %s"):format(seed, i, tostring(count)))
      assert.same({}, copy:verify().corrupt)
    end
  end)

  it("is refused with a label that has no content", function()
    helper.write(home .. "/store/demo/labels/dangling", ("0"):rep(40))
    local ok, err = store:export(path)
    assert.is_nil(ok)
    assert.matches("Label 'dangling' has no content: 0+ is missing", err.message)
    assert.is_false(helper.exists(path))
  end)

  it("says why it could not be written", function()
    store:store_at_label("large", ("x"):rep(100000))
    local done, err = store:export "/dev/full"
    assert.is_nil(done)
    assert.matches("Failed to export to /dev/full: .*No space left on device", err.message)
  end)

  it("leaves nothing where it cannot be written", function()
    local ok, err = store:export(home .. "/nowhere/export.tar")
    assert.is_nil(ok)
    assert.equal("io", err.kind)
    assert.matches("Failed to export to .*/nowhere/export.tar: ", err.message)
  end)
end)
