local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"

describe("a label's history", function()
  local home, base, store

  local function open(options)
    local all = { home = home, durability = "none" }
    for name, value in pairs(options or {}) do all[name] = value end
    return assert(theaterref.content_store("demo", all))
  end

  -- Stores texts, and moves a label to one after the other. Returns their hashes by text.
  local function move(label, ...)
    local hashes = {}
    for _, text in ipairs { ... } do hashes[text] = assert(store:store_at_label(label, text)) end
    return hashes
  end

  -- The only file of the history.
  local function file()
    return base .. "/history/" .. core.blob("app"):digest "sha256"
  end

  before_each(function()
    home = helper.temporary_folder()
    base = home .. "/store/demo"
    store = open()
  end)

  after_each(function() helper.remove(home) end)

  it("has what the label pointed at before, the newest first and none twice", function()
    local h = move("app", "a", "b", "b", "a", "c", "d", "d")
    assert.same({ h.c, h.a, h.b }, store:history "app")
    assert.same({}, store:history "other")
    move("other/x", "a")
    assert.same({}, store:history "other/x")
    local list, err = store:history "../app"
    assert.is_nil(list)
    assert.equal("invalid_reference", err.kind)
  end)

  it("is as long as the option 'label_history' says", function()
    local h = move("app", "a", "b", "c", "d", "e", "f", "g")
    assert.same({ h.f, h.e, h.d, h.c, h.b }, store:history "app")
    assert.same({ h.f, h.e }, open({ label_history = 2 }):history "app")
    assert.same({}, open({ label_history = 0 }):history "app")
    assert.equal(6, #open({ label_history = 100 }):history "app")
    local none, err = theaterref.content_store("demo", { home = home, label_history = 101 })
    assert.is_nil(none)
    assert.equal("label_history is 101, more than 100", err.message)
    store = open { label_history = 0 }
    move("none", "a", "b")
    assert.same({}, open():history "none")
  end)

  it("has any of its hashes to roll back to, and names the one until now", function()
    store:store_at_label("app", "one")
    store:store_at_label("app", "two")
    local three = store:store_at_label("app", "three")
    local history = store:history "app"
    assert.same({ history[2], three }, { store:rollback("app", { to = history[2]:upper() }) })
    assert.equal("one", tostring(store:get_content_by_label "app"))
    local hash, err = store:rollback("app", { to = ("0"):rep(40) })
    assert.is_nil(hash)
    assert.same({ "not_found", ("0"):rep(40) .. " is not in the history of label app" }, { err.kind, err.message })
  end)

  it("is what a rollback goes back by, and forth", function()
    local h = move("app", "a", "b", "c")
    assert.equal(h.b, store:rollback "app")
    assert.same({ h.c, h.a }, store:history "app")
    assert.equal(h.c, store:rollback "app")
    assert.equal(h.c, store:get_by_label "app")
    for label, message in pairs { none = "Label not found: none", ["one"] = "Label one has no history" } do
      move("one", "a")
      local hash, err = store:rollback(label)
      assert.is_nil(hash)
      assert.same({ "not_found", message }, { err.kind, err.message })
    end
    assert(os.remove(base .. "/data/" .. h.b))
    assert.equal(h.a, store:rollback "app") -- the last one that is still there
    assert.equal(h.c, store:rollback "app")
    assert(os.remove(base .. "/data/" .. h.a))
    local hash, err = store:rollback "app"
    assert.is_nil(hash)
    assert.equal("not_found", err.kind)
    assert.equal(h.c, store:get_by_label "app")
  end)

  it("is no way back for a label that somebody else moves meanwhile, or removes", function()
    local h = move("app", "good", "bad")
    local fixed, other = store:put "fixed", open()
    local changes = { function() assert(other:label("app", fixed)) end, function() assert(other:remove_label "app") end }
    for i, state in ipairs { "it points at " .. fixed, "it was removed" } do
      local view = setmetatable({}, { __index = function(_, name)
        return function(_, ...)
          if name == "label" then changes[i]() end
          return store[name](store, ...)
        end
      end })
      local hash, err = core.store_methods.rollback(view, "app")
      assert.same({ nil, "cancelled" }, { hash, err.kind })
      assert.equal(("label app was not rolled back from %s: somebody else changed it meanwhile, and now %s; look at it, and roll it back "
        .. "again if that is still right"):format(i == 1 and h.bad or fixed, state), err.message)
    end
  end)

  it("has what a batch and Theater moved a label from", function()
    local h = move("app", "a")
    assert(store:batch(function(batch)
      h.b = batch:put "b"
      return batch:label("app", h.b)
    end))
    h.c = store:put "c"
    helper.write(base .. "/labels/app", h.c) -- as Theater does it
    move("app", "d")
    assert.same({ h.c, h.a }, store:history "app")
  end)

  it("keeps its content from gc, and goes with its label", function()
    local h = move("app", "a", "b", "c")
    local other = store:put "other"
    local report = assert(store:gc { grace = 0 })
    assert.same({ other }, report.deleted)
    assert.same({ 1, 2 }, { report.kept.labelled, report.kept.in_history })
    assert.equal(h.b, store:rollback "app")
    assert.same({ h.a }, assert(open({ label_history = 1 }):gc { grace = 0 }).deleted)
    assert(store:remove_label "app")
    assert.same({}, store:history "app")
    assert.is_false(helper.exists(file()))
    assert.equal(2, #assert(store:gc { grace = 0 }).deleted)
  end)

  it("is removed by gc if somebody else removed its label, but not in a dry run", function()
    move("app", "a", "b")
    assert(os.remove(base .. "/labels/app"))
    assert.equal(2, #assert(store:gc { grace = 0, dry_run = true }).deleted)
    assert.is_true(helper.exists(file()))
    assert.equal(2, #assert(store:gc { grace = 0 }).deleted)
    assert.is_false(helper.exists(file()))
    move("app", "c", "d")
    assert.equal(1, #store:history "app")
    assert(os.remove(base .. "/labels/app"))
    move("app", "e") -- another life, without a collection in between
    assert.same({}, store:history "app")
  end)

  it("survives what a crash leaves in its file", function()
    local h = move("app", "a", "b", "c")
    local whole = helper.read(file())
    for what, text in pairs {
      ["a torn line"] = whole .. h.a:sub(1, 10),
      ["zeros at the end"] = whole .. ("\0"):rep(41),
      ["zeros within"] = "app\n" .. h.a .. "\n" .. ("\0"):rep(41) .. h.b .. "\n" .. h.b .. "\n",
      ["other text"] = whole .. "what\nis\nthis\n",
      ["spaces"] = whole .. (" "):rep(2000) .. "\n" .. h.b .. "\n",
    } do
      helper.write(file(), text)
      assert.equal(h.b, store:history("app")[1], what)
      assert(store:gc { grace = 0 })
      assert.is_true(store:exists(h.a) and store:exists(h.b) and store:exists(h.c), what)
      h.d = assert(store:store_at_label("app", "d"))
      assert.same({ h.c, h.b }, { table.unpack(store:history "app", 1, 2) }, what)
      assert(store:label("app", h.c))
    end
    helper.write(file(), "")
    assert.same({}, store:history "app")
    move("app", "d")
    assert.same({ h.c }, store:history "app")
  end)

  it("keeps what it has when a crash tore its first line", function()
    local h = move("app", "a", "b", "c")
    local rest = helper.read(file()):match "\n.*"
    for _, first in ipairs { "\0\0\0", "ap", "", "other" } do
      helper.write(file(), first .. rest)
      assert(store:gc { grace = 0 })
      assert.is_true(store:exists(h.a) and store:exists(h.b) and store:exists(h.c))
      assert.same({ h.b, h.a }, store:history "app")
      h.d = assert(store:store_at_label("app", "d" .. first))
      assert.equal(("app%s%s\n"):format(rest, h.c), helper.read(file()))
      assert(store:label("app", h.c))
    end
  end)

  it("is kept by all who may move labels, and no others have to", function()
    if helper.run "id -u" ~= "0\n" then return pending "this user cannot be two" end
    local h = move("app", "a", "b")
    helper.run_ok(("chmod 755 %s && cd %s && chgrp -R 60001 . && chmod -R g+rwX . && chmod g+s . data labels"):format(home, base))
    local script = helper.write(home .. "/move.lua", ([[
      local store = require("theaterref").content_store("demo", { home = %q, durability = "none" })
      print(store:label("app", ...))]]):format(home))
    local function as(group, hash)
      return (helper.run(("setpriv --reuid=60002 --regid=%d --clear-groups %s %s %s"):format(group, helper.lua, script, hash)))
    end
    assert.equal("true\n", as(60001, h.a))
    assert.same({ h.b }, store:history "app")
    helper.run_ok(("chmod 755 %s/history && chmod 600 %s/history/*"):format(base, base))
    assert.equal("true\n", as(60001, h.b))
    assert.equal(h.b, store:get_by_label "app")
  end)

  it("leads nowhere else, whatever lies in its folder", function()
    local h = move("app", "a", "b")
    helper.write(home .. "/elsewhere", "untouched")
    assert(os.remove(file()))
    helper.run_ok(("ln -s %s/elsewhere %s; mkfifo %s/history/%s"):format(home, file(), base, ("a"):rep(64)))
    local moved, err = store:label("app", h.a)
    assert.is_nil(moved)
    assert.matches("^Failed to write the history of label app: ", err.message)
    assert.equal(h.b, store:get_by_label "app")
    assert.equal("untouched", helper.read(home .. "/elsewhere"))
    assert.same({}, assert(store:gc { grace = 0, dry_run = true }).temporary_files)
    assert(os.remove(file()))
    helper.write(base .. "/history/" .. ("b"):rep(64), "../../../elsewhere\n" .. h.a .. "\n")
    assert(store:gc { grace = 0 })
    assert.equal("untouched", helper.read(home .. "/elsewhere"))
    helper.run_ok(("rm -r %s/history; ln -s %s %s/history"):format(base, home, base))
    moved, err = store:label("app", h.b)
    assert.is_true(moved, tostring(err)) -- it is there already
    assert.is_nil((store:label("app", (store:put "z"))))
    assert.is_nil((store:gc { grace = 0 }))
  end)

  it("stays short however often its label moves", function()
    local h = move("app", "a", "b")
    local lines = { "app" }
    for i = 1, 4000 do lines[#lines + 1] = i % 2 == 0 and h.a or h.b end
    helper.write(file(), table.concat(lines, "\n") .. "\n")
    h.c = assert(store:store_at_label("app", "c"))
    assert.same({ h.b, h.a }, store:history "app")
    assert.equal(("app\n%s\n%s\n"):format(h.a, h.b), helper.read(file()))
    for _ = 1, 1000 do assert(store:rollback "app") end
    assert.same({ h.b, h.a }, store:history "app")
    assert.is_true(#helper.read(file()) < 20000)
    assert.same({}, store:list_temporary_files())
  end)

  it("loses nothing while many move one label", function()
    for i = 1, 40 do store:put(tostring(i)) end
    threads.run(4, ([[
      local number = ...
      local theaterref = require "theaterref"
      local store = theaterref.content_store("demo", { home = %q, durability = "none", label_history = 100 })
      return function()
        for i = number, 40, 4 do assert(store:store_at_label("app", tostring(i))) end
      end]]):format(home))
    local hashes = open({ label_history = 100 }):history "app"
    hashes[#hashes + 1] = store:get_by_label "app"
    table.sort(hashes)
    assert.same(store:list_all_content(), hashes)
  end)
end)
