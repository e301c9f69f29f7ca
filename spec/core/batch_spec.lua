local helper = require "helper"
local theaterref = require "theaterref"

describe("a batch", function()
  local home, store

  before_each(function()
    home = helper.temporary_folder()
    store = theaterref.content_store("demo", { home = home })
  end)

  after_each(function() helper.remove(home) end)

  it("stores many items with one sync", function()
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

  it("is over when it is over", function()
    local kept
    store:batch(function(batch) kept = batch return true end)
    assert.has_error(function() kept:put "x" end)
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
    assert.equal(helper.read(path), helper.read(home .. "/again.tar"))
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

  it("leaves nothing where it cannot be written", function()
    local ok, err = store:export(home .. "/nowhere/export.tar")
    assert.is_nil(ok)
    assert.equal("io", err.kind)
    assert.matches("Failed to export to .*/nowhere/export.tar: ", err.message)
  end)
end)
