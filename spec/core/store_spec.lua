local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"

describe("a content store", function()
  local home, store
  local sha1 = "514bdd98016b6ce68aec404a10231de8dd30e85c" -- of "hello store"

  before_each(function()
    home = helper.temporary_folder()
    store = assert(theaterref.content_store("demo", { home = home, durability = "none" }))
  end)

  after_each(function() helper.remove(home) end)

  it("puts and gets content by hash", function()
    assert.is_false(store:exists(sha1))
    assert.equal(sha1, store:put "hello store")
    assert.is_true(store:exists(sha1))
    assert.equal("hello store", tostring(store:get(sha1)))
    assert.equal("hello store", tostring(store:get(sha1:upper())))
    assert.equal("hello store", helper.read(home .. "/store/demo/data/" .. sha1))
    assert.equal(sha1, store:put(store:get(sha1)))
    assert.same({ sha1 }, store:list_all_content())
    assert.equal(11, store:calculate_total_size())
  end)

  it("keeps empty content, and content too large to read at once", function()
    local large = ("0123456789abcdef"):rep(1 << 16)
    for _, bytes in ipairs { "", large } do
      assert.equal(bytes, tostring(store:get(store:put(bytes))))
    end
  end)

  describe("with content that is far too large", function()
    local hash = ("0"):rep(40)

    before_each(function()
      assert(store:store_at_label("label", "bytes"))
      helper.run_ok(("cd %s/store/demo && truncate -s 20G data/%s && touch -d '1 day ago' data/%s && printf %s > labels/label"):format(
        home, hash, hash, hash))
    end)

    it("refuses it before it is read, where there is a limit", function()
      local resolver = theaterref.resolver { home = home, max_bytes = 1000 }
      for what, read in pairs {
        hash = function() return store:get(hash, 1000) end,
        label = function() return store:get_content_by_label("label", 1000) end,
        reference = function() return resolver:resolve("store://demo/hash/" .. hash) end,
        ["reference by label"] = function() return resolver:resolve "store://demo/label" end,
        ["reference without a limit of its own"] = function()
          return theaterref.resolve_reference("store://demo/label", { home = home })
        end,
      } do
        local before = core.now()
        local blob, err = read()
        assert.is_nil(blob, what)
        assert.equal("too_large", err.kind, what)
        assert.matches("larger than the limit of %d+ bytes", err.message)
        assert.is_true(core.now() - before < 2, what)
      end
      assert.equal("bytes", tostring(store:get(store:put "bytes", 5)))
    end)

    it("ends its check at an interrupt", function()
      finally(function() core.interrupt(false) end)
      helper.run_ok(("cd %s/store/demo && truncate -s 1G data/%s && touch -d '1 day ago' data/%s"):format(home, hash, hash))
      core.interrupt(true)
      for what, read in pairs { get = store.get, check = store.check, verify = function() return store:verify() end } do
        local blob, err = read(store, hash)
        assert.is_nil(blob, what)
        assert.equal("cancelled", err.kind, what)
        assert.equal("interrupted", err.message)
      end
    end)
  end)

  it("replaces what lies in the place of content and is no file, but for a folder", function()
    local socket = helper.lua .. " " .. helper.write(home .. "/socket.lua", "require('luv').new_pipe():bind(...) os.exit()")
    for _, make in ipairs { "mkfifo", "ln -s /nowhere", socket, "mkdir" } do
      helper.run_ok(("cd %s && mkdir -p store/demo/data && rm -rf store/demo/data/* && %s store/demo/data/%s"):format(home, make, sha1))
      assert.matches("is not a file; put it again, which replaces anything but a folder", select(2, store:get(sha1)).message)
      assert.same({ sha1 }, store:verify().unexpected)
      local hash, err = store:put "hello store"
      assert.equal(make ~= "mkdir" and sha1 or nil, hash)
      assert.equal(hash and "hello store", hash and tostring(store:get(sha1)))
      if not hash then assert.matches("Failed to replace corrupt content " .. sha1 .. ": Is a directory", err.message) end
      assert.same({}, store:list_temporary_files())
    end
  end)

  it("names new content by SHA-256 when asked, and reads both", function()
    local modern = theaterref.content_store("demo", { home = home, algorithm = "sha256" })
    local hash = modern:put "hello store"
    assert.equal(64, #hash)
    assert.equal("hello store", tostring(store:get(hash)))
    assert.equal("hello store", tostring(theaterref.resolve_reference("store://demo/hash/" .. hash, { home = home })))
  end)

  it("points labels at content, and moves and removes them", function()
    local one, two = store:put "one", store:put "two"
    assert.is_false(store:label_exists "a/b")
    assert.is_nil(store:get_by_label "a/b")
    assert.is_nil((select(2, store:get_by_label "a/b")))
    assert.is_true(store:label("a/b", one))
    assert.equal(one, store:get_by_label "a/b")
    assert.equal("one", tostring(store:get_content_by_label "a/b"))
    assert.equal(one, helper.read(home .. "/store/demo/labels/a/b"))
    assert.is_true(store:replace_at_label("a/b", two))
    assert.equal(two, store:get_by_label "a/b")
    assert.equal(one, store:replace_content_at_label("a/b", "one"))
    assert.equal(two, store:store_at_label("spaced name", "two"))
    assert.same({ "a/b", "spaced name" }, store:list_labels())
    assert.matches("is expected to have is empty", select(2, store:label("a/b", two, { expect = "" })).message)
    assert.is_false(store:remove_from_label("a/b", two))
    assert.is_true(store:remove_from_label("a/b", one))
    assert.is_false(store:remove_label "a/b")
    assert.is_true(store:remove_label "spaced name")
    assert.same({}, store:list_labels())
    assert.is_true(store:label("a", one)) -- the folder 'a' is gone with its last label
  end)

  it("refuses to label content that is not there", function()
    local ok, err = store:label("x", ("0"):rep(40))
    assert.is_nil(ok)
    assert.equal("not_found", err.kind)
    assert.matches("Content does not exist: 0000", err.message)
  end)

  it("tells a label from a folder of labels", function()
    local hash = store:put "x"
    assert(store:label("a", hash))
    local ok, err = store:label("a/b", hash)
    assert.is_nil(ok)
    assert.equal("invalid_reference", err.kind)
    assert.matches("both a label and a folder", err.message)
    assert(store:label("c/d", hash))
    ok, err = store:label("c", hash)
    assert.is_nil(ok)
    assert.matches("both a label and a folder", err.message)
    assert.is_nil(store:get_by_label "c")
    assert.is_false(store:label_exists "a/b")
  end)

  it("refuses invalid labels, hashes and ids before it opens any file", function()
    local hash = store:put "x"
    for _, label in ipairs { "", ".", "..", "../x", "a/../b", "a/./b", "/x", "a//b", "a/", "a\0b", "a\nb", "\127",
      ("x"):rep(10000), ("x"):rep(256) } do
      for _, try in ipairs {
        function() return store:label(label, hash) end,
        function() return store:get_by_label(label) end,
        function() return store:get_content_by_label(label) end,
        function() return store:store_at_label(label, "x") end,
        function() return store:remove_label(label) end,
        function() return store:remove_from_label(label, hash) end,
        function() return store:label_exists(label) end,
      } do
        local result, err = try()
        assert.is_nil(result)
        assert.equal("invalid_reference", err.kind, label)
      end
    end
    for _, bad in ipairs { "", "..", "x", ("0"):rep(39), ("g"):rep(40), ("0"):rep(40) .. "\0", "../" .. ("0"):rep(40),
      ("0"):rep(10000) } do
      for _, try in ipairs {
        function() return store:get(bad) end,
        function() return store:exists(bad) end,
        function() return store:label("l", bad) end,
      } do
        local result, err = try()
        assert.is_nil(result)
        assert.equal("invalid_reference", err.kind, bad)
      end
    end
    for _, id in ipairs { "", ".", "..", "a/b", "/a", "a\0", "a\n", ("x"):rep(10000) } do
      local refused, err = theaterref.content_store(id, { home = home })
      assert.is_nil(refused)
      assert.equal("invalid_reference", err.kind, id)
    end
  end)

  it("opens no file outside itself for a hostile reference", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    helper.write(home .. "/canary", sha1)
    local script = helper.write(home .. "/try.lua", ([[
      local theaterref = require "theaterref"
      for _, ref in ipairs { "store://demo/../../canary", "store://../canary", "store://demo/../canary",
        "store://./canary", "store://demo/a/../../canary", "store://demo//canary", "store://demo/hash/../../canary",
        "store://demo/hash/../../../canary", "store://demo/\0/canary", "store://demo/..\0/canary" } do
        local blob, err = theaterref.resolve_reference(ref, { home = %q })
        assert(not blob and err.kind == "invalid_reference", ref)
      end]]):format(home))
    -- LeakSanitizer cannot work under strace.
    helper.run_ok("ASAN_OPTIONS=detect_leaks=0 strace -f -e trace=%file -o "
      .. home .. "/trace " .. helper.lua .. " " .. script)
    for line in io.lines(home .. "/trace") do
      assert.is_nil(line:find("canary", 1, true), line)
      assert.is_nil(line:find(home .. "/store", 1, true), line)
    end
  end)

  it("follows no symbolic link out of itself", function()
    local hash = store:put "x"
    helper.write(home .. "/outside", hash)
    helper.run_ok(("mkdir -p %s/store/demo/labels %s/elsewhere && ln -s %s/outside %s/store/demo/labels/link && ln -s %s/elsewhere %s/store/demo/labels/dir")
      :format(home, home, home, home, home, home))
    local found, err = store:get_by_label "link"
    assert.is_nil(found)
    assert.equal("io", err.kind)
    assert.is_nil((store:label("dir/x", hash)))
    assert.equal("", helper.run_ok("ls -A " .. home .. "/elsewhere"))
    assert(store:label("link", hash)) -- replaces the link itself
    assert.equal(hash, helper.read(home .. "/outside"))
  end)

  it("sets corrupt content aside, says so, and is healed by the right bytes", function()
    local hash = store:put "good bytes"
    local path = home .. "/store/demo/data/" .. hash
    for i, bad in ipairs { "evil bytes", "" } do
      helper.write(path, bad)
      helper.run_ok("touch -d '1 hour ago' " .. path)
      local blob, err = store:get(hash)
      assert.is_nil(blob)
      assert.equal("corrupt", err.kind)
      assert.matches(hash .. " in " .. home .. "/store/demo is corrupt: its %d+ bytes have the hash %x+; it was moved to quarantine as"
        .. " corrupt/%x+%.%x+; put the right bytes again", err.message)
      assert.is_false(store:exists(hash))
      assert.equal(i, #store:verify().quarantined)
      assert.equal(hash, store:put "good bytes")
      assert.equal("good bytes", tostring(store:get(hash)))
    end
    local kept = helper.run_ok("cat " .. home .. "/store/demo/corrupt/*")
    assert.equal("evil bytes", kept)
  end)

  it("leaves corrupt content to a writer that may not be done with it, unless it has the right bytes", function()
    local hash = store:put "good bytes"
    local path = home .. "/store/demo/data/" .. hash
    helper.write(path, "good b") -- as Theater writes, in place
    local _, err = store:get(hash)
    assert.equal("corrupt", err.kind)
    assert.is_true(helper.exists(path))
    for _, put in ipairs {
      function() return store:put "good bytes" end,
      function() return store:batch(function(batch) return batch:put "good bytes" end) end } do
      local writer = assert(io.open(path, "w"))
      writer:write("good b"):flush()
      assert.equal(hash, put())
      assert.equal("good bytes", tostring(store:get(hash)))
      assert(writer:write("ytes"):close())
      assert.equal("good bytes", tostring(store:get(hash)))
    end
    assert.same({}, store:list_quarantined()) -- what was not finished is no damage
  end)

  it("leaves it to a writer whose clock is behind, too", function()
    if not helper.can_preload then return pending "ThreadSanitizer calls what is preloaded before it is ready" end
    local hash = store:put "good bytes"
    helper.write(home .. "/store/demo/data/" .. hash, "good b")
    local script = helper.write(home .. "/get.lua", ([[
      print((select(2, require("theaterref").content_store("demo", { home = %q }):get(%q))).kind)]]):format(home, hash))
    assert.equal("corrupt\n", helper.run_ok(("FAULTS_CLOCK=60 %s %s %s"):format(helper.preload "faults", helper.lua, script)))
    assert.same({}, store:list_quarantined())
  end)

  it("checks an empty file whatever it was told", function()
    local hash = store:put "good bytes"
    helper.write(home .. "/store/demo/data/" .. hash, "")
    local trusting = theaterref.content_store("demo", { home = home, verify = "never" })
    assert.equal("corrupt", select(2, trusting:get(hash)).kind)
    assert.equal("", tostring(trusting:get(trusting:put "")))
  end)

  it("compares a put with what is there, even if it never checks reads", function()
    local hash = store:put "good bytes"
    helper.write(home .. "/store/demo/data/" .. hash, "evil bytes")
    local trusting = theaterref.content_store("demo", { home = home, verify = "never" })
    assert.equal(hash, trusting:put "good bytes")
    assert.equal("good bytes", tostring(store:get(hash)))
  end)

  it("checks content once it has seen it for a moment, and then no more, however often other content is put", function()
    local function seconds_of_get(hash)
      collectgarbage() -- not within what is measured
      local before = os.clock() -- of the processor, whatever else it does
      assert(store:get(hash))
      return os.clock() - before
    end
    local large = store:put(("large"):rep(1 << 24))
    helper.run_ok(("touch -d '1 minute ago' %s/store/demo/data/%s"):format(home, large)) -- so that it is mapped
    local first = seconds_of_get(large)
    assert(store:get(large)) -- the first one took longer than a moment
    for _ = 1, 70000 do store:put "small" end
    local again = seconds_of_get(large)
    assert.is_true(again < first / 2, ("%g s, then %g s"):format(first, again))
  end)

  it("syncs what a put and a label need, once", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    local script = helper.write(home .. "/script.lua", ([[
      io.stdout:setvbuf "no"
      local store = require("theaterref").content_store("demo", { base_path = %q })
      local function work(name, ...) print("begin " .. name) end
      work "first" local one = store:put "one"
      work "put" local two = store:put "two"
      work "again" store:put "two"
      work "label" store:label("a/b/c", one)
      work "move" store:label("a/b/c", two)
      work "back" store:label("a/b/c", one)
      work "end"]]):format(home .. "/made/by/put"))
    -- LeakSanitizer cannot work under strace.
    helper.run_ok(("ASAN_OPTIONS=detect_leaks=0 strace -y -e trace=fsync,write -o %s/trace %s %s"):format(home, helper.lua, script))
    local counts, synced, phase = {}, {}, nil
    for line in io.lines(home .. "/trace") do
      local name = line:match '"begin (%w+)'
      if name then phase, counts[name] = name, 0 end
      local path = line:match "^fsync%(%d+<([^>]*)>"
      if path then
        counts[phase] = counts[phase] + 1
        synced[phase .. " " .. path] = true
      end
    end
    for _, folder in ipairs { "", "/made", "/made/by", "/made/by/put", "/made/by/put/data" } do
      assert(synced["first " .. home .. folder], "not synced: " .. folder)
    end
    assert.equal(2, counts.put)
    assert.equal(0, counts.again)
    assert.equal(5, counts.label) -- its file, and the folders from the store's own to the one that the label is in
    assert.equal(5, counts.move) -- the same file and folder, and those of its history
    assert.equal(3, counts.back)
  end)

  it("labels a name that is an empty folder, as a crash leaves it", function()
    local hash = store:put "x"
    helper.run_ok("mkdir -p " .. home .. "/store/demo/labels/a/b/c")
    assert.is_true(store:label("a", hash))
    assert.equal(hash, store:get_by_label "a")
  end)

  it("keeps what a blob shows when its file is deleted or replaced", function()
    local bytes = ("large "):rep(1 << 17)
    local hash = store:put(bytes)
    for _, map in ipairs { true, false } do
      local blob = theaterref.content_store("demo", { home = home, map = map }):get(hash)
      os.remove(home .. "/store/demo/data/" .. hash)
      store:put(bytes)
      assert.is_true(tostring(blob) == bytes)
    end
  end)

  it("refuses options that it does not know, and blames the caller", function()
    local hash = store:put "x"
    for message, call in pairs {
      ["label option 'expct' %(did you mean 'expect'"] = function() store:label("x", hash, { expct = false }) end,
      ["label option 'expect' must be a hash, or false, not 1"] = function() store:label("x", hash, { expect = 1 }) end,
      ["label option 'expects'"] = function() store:replace_at_label("x", hash, { expects = hash }) end,
      ["gc option 'dryrun' %(did you mean 'dry_run'"] = function() store:gc { dryrun = true } end,
      ["gc option 'grace' must be a number of seconds"] = function() store:gc { grace = 0 / 0 } end,
      ["option 'progres'"] = function() store:verify { progres = print } end,
      ["option 'progess'"] = function() store:export(home .. "/x.tar", { progess = print }) end,
      ["option 'prgress'"] = function() store:import(home .. "/x.tar", { prgress = print }) end,
      ["remove_label takes no options"] = function() store:remove_label("x", { expect = hash }) end,
      ["export needs a path"] = function() store:export() end } do
      local ok, err = pcall(call)
      assert.is_false(ok)
      assert.matches(message, err)
      assert.is_truthy(err:find("store_spec.lua", 1, true) or err:find "^bad argument", err)
    end
    assert.is_false(store:label_exists "x")
  end)

  it("makes no label that references would take for a hash", function()
    local hash = store:put "x"
    for _, err in ipairs { select(2, store:label("hash/x", hash)), (select(2, store:store_at_label("hash/x", "x"))),
      select(2, store:batch(function(batch) return batch:label("hash/x", hash) end)) } do
      assert.equal("invalid_reference", err.kind)
      assert.matches("Invalid label 'hash/x': it starts with 'hash/'", err.message)
    end
    assert.same({}, store:list_labels())
    helper.run_ok(("mkdir -p %s/store/demo/labels/hash && printf %s > %s/store/demo/labels/hash/x"):format(home, hash, home))
    assert.is_true(store:remove_label "hash/x") -- if another program made it
  end)

  it("takes a blank label, as a crash of Theater leaves it, neither for a hash nor for absent", function()
    local hash = store:store_at_label("x", "x")
    helper.write(home .. "/store/demo/labels/x", "")
    for _, try in ipairs {
      function() return store:get_by_label "x" end, function() return store:label_exists "x" end,
      function() return store:get_content_by_label "x" end, function() return store:label("x", hash, { expect = false }) end,
      function() return store:remove_from_label("x", hash) end } do
      local answer, err = try()
      assert.is_nil(answer)
      assert.equal("corrupt", err.kind)
      assert.matches("Label 'x' is blank", err.message)
    end
    assert.is_true(store:label("x", hash))
    assert.equal(hash, store:get_by_label "x")
  end)

  it("maps only large content that nobody else may write to, and that has been there for a while", function()
    local bytes = ("large"):rep(1 << 16)
    local hash = store:put(bytes)
    local path = home .. "/store/demo/data/" .. hash
    local function is_mapped(commands)
      helper.run_ok(commands:gsub("FILE", path))
      local blob = assert(store:get(hash))
      local mapped = helper.read "/proc/self/maps":find(path, 1, true) ~= nil
      assert.equal(bytes, tostring(blob))
      blob = nil -- luacheck: ignore 311
      collectgarbage()
      return mapped
    end
    local old = "touch -d '1 minute ago' FILE; "
    assert.is_true(is_mapped(old))
    assert.is_false(is_mapped(old .. "chmod 664 FILE"))
    assert.is_false(is_mapped(old .. "chmod 646 FILE"))
    assert.is_true(is_mapped(old .. "chmod 644 FILE"))
    assert.is_false(is_mapped "touch FILE")
    if helper.run "id -u" == "0\n" then assert.is_false(is_mapped(old .. "chown 65534 FILE")) end
  end)

  it("moves a label only if it is where the mover expects it", function()
    local one, two = store:put "one", store:put "two"
    assert.is_true(store:label("x", one, { expect = false }))
    assert.is_false(store:label("x", two, { expect = false }))
    assert.is_false(store:label("x", two, { expect = two }))
    assert.is_true(store:label("x", two, { expect = one:upper() }))
    assert.equal(two, store:get_by_label "x")
    assert.equal("invalid_reference", select(2, store:label("x", one, { expect = "nonsense" })).kind)
    assert.has_error(function() store:label("x", one, { expect = 7 }) end,
      "the label option 'expect' must be a hash, or false, not 7")
  end)

  it("counts right when processes move one label at once", function()
    local zero = store:put "0"
    assert(store:label("count", zero))
    local script = ([[
      local store = require("theaterref").content_store("demo", { home = %q, durability = "none" })
      for _ = 1, 50 do
        repeat
          local old = store:get_by_label "count"
          local new = store:put(tostring(tonumber(tostring(store:get(old))) + 1))
        until store:label("count", new, { expect = old })
      end]]):format(home)
    local file = helper.write(home .. "/count.lua", script)
    helper.run_ok(("for i in 1 2 3 4; do %s %s & pids=\"$pids $!\"; done; for p in $pids; do wait $p || exit 1; done")
      :format(helper.lua, file))
    assert.equal("200", tostring(store:get_content_by_label "count"))
  end)

  it("reports and collects what nobody needs", function()
    local kept, loose = store:store_at_label("kept", "kept"), store:put "loose"
    helper.write(home .. "/store/demo/.tmp-0123", "left by a crash")
    helper.write(home .. "/store/demo/labels/dangling", ("0"):rep(40))
    local report = store:verify()
    assert.equal(2, report.checked)
    assert.same({}, report.corrupt)
    assert.same({ "dangling" }, report.dangling)
    assert.same({ ".tmp-0123" }, report.temporary_files)
    assert.same({ deleted = {}, temporary_files = {}, failed = {}, kept = { labelled = 1, in_history = 0, young = 1, in_use = 0 } }, store:gc())
    local collected = { deleted = { loose }, temporary_files = { ".tmp-0123" }, failed = {},
      kept = { labelled = 1, in_history = 0, young = 0, in_use = 0 } }
    assert.same(collected, store:gc { grace = 0, dry_run = true })
    assert.is_true(store:exists(loose))
    assert.same(collected, store:gc { grace = 0 })
    assert.same({ kept }, store:list_all_content())
    local usage = store:usage()
    assert.same({ bytes = 4, unlabelled = 0, labels = { { label = "dangling", hash = ("0"):rep(40) },
      { label = "kept", hash = kept, bytes = 4 } } }, usage)
    assert.same({ ("0"):rep(40) }, store:verify().missing)
  end)

  it("collects nothing while it cannot see every label", function()
    local hash = store:store_at_label("folder/label", "kept")
    helper.run_ok("chmod 000 " .. home .. "/store/demo/labels/folder")
    local as_user = helper.run("id -u") == "0\n" and "setpriv --reuid=65534 --clear-groups " or ""
    helper.run_ok("chmod -R a+rwX " .. home .. " && chmod 000 " .. home .. "/store/demo/labels/folder")
    local _, err, status = helper.run(as_user .. helper.lua .. " -e " .. helper.quote(([[
      local store = require("theaterref").content_store("demo", { home = %q })
      local report, err = store:gc { grace = 0 }
      io.stderr:write(tostring(err))
      os.exit(report and 0 or 3)]]):format(home)))
    helper.run_ok("chmod 755 " .. home .. "/store/demo/labels/folder")
    assert.equal(3, status)
    assert.matches("Failed to list labels in folder: Permission denied", err)
    assert.is_true(store:exists(hash))
  end)

  it("is empty, and no error, before the first put", function()
    assert.same({}, store:list_labels())
    assert.same({}, store:list_all_content())
    assert.equal(0, store:calculate_total_size())
    assert.same({ checked = 0, corrupt = {}, unreadable = {}, missing = {}, dangling = {}, faulty_labels = {}, quarantined = {},
      temporary_files = {}, unexpected = {} }, store:verify())
    local _, err = store:get(("0"):rep(40))
    assert.equal("not_found", err.kind)
    assert.matches("^Content not found: 0000", err.message)
  end)

  it("leaves only what Theater leaves: data/<hash> and labels/<label>", function()
    local path = helper.data "theater-home"
    local theirs = path .. "/store/demo"
    for hash in helper.run_ok("ls " .. theirs .. "/data"):gmatch("%x+") do
      assert.equal(hash, store:put(helper.read(theirs .. "/data/" .. hash)))
    end
    for label in helper.run_ok("cd " .. theirs .. "/labels && find . -type f"):gmatch("%./([^\n]+)") do
      assert(store:label(label, helper.read(theirs .. "/labels/" .. label)))
    end
    helper.run_ok(("diff -r '%s' '%s'"):format(theirs, home .. "/store/demo"))
  end)

  it("resolves every reference of a home that Theater wrote", function()
    local path = helper.data "theater-home"
    local count = 0
    for line in io.lines(path .. "/REFERENCES") do
      local ref, hash = line:match("^(.*)\t(%x+)$")
      assert.equal(hash, assert(theaterref.resolve_reference(ref, { home = path })):digest "sha1")
      count = count + 1
    end
    assert.is_true(count >= 6)
  end)

  it("serves readers while writers on other threads put and label", function()
    threads.run(4, ([[
      local number = ...
      local theaterref = require "theaterref"
      local store = theaterref.content_store("demo", { home = %q, durability = "none" })
      return function()
        for i = 1, 100 do
          local bytes = ("content %%d"):format(i %% 10)
          local hash = assert(store:put(bytes))
          assert(store:label("shared/" .. i %% 3, hash))
          assert(tostring(assert(store:get(hash))) == bytes)
          assert(#assert(store:get_content_by_label("shared/" .. i %% 3)) == 9)
          if i %% 7 == 0 then assert(store:remove_label("own/" .. number) ~= nil) end
          assert(store:label("own/" .. number, hash))
        end
      end]]):format(home))
    local report = store:verify()
    assert.equal(10, report.checked)
    assert.same({}, report.temporary_files)
  end)
end)

describe("Theater home", function()
  it("is $THEATER_HOME, else $HOME/.theater, else an error", function()
    local function home(environment)
      return helper.run_ok("env -u THEATER_HOME -u HOME " .. environment
        .. " " .. helper.lua .. [[ -e 'print(require("theaterref").get_theater_home())']]):match("^[^\n]*")
    end
    assert.equal("/opt/t", home "THEATER_HOME=/opt/t HOME=/home/me")
    assert.equal("/home/me/.theater", home "HOME=/home/me")
    assert.equal("/home/me/.theater", home "THEATER_HOME= HOME=/home/me")
    assert.matches("^nil\tno Theater home", home "")
  end)
end)
