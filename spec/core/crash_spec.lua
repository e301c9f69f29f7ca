local core = require "theaterref.core"
local helper = require "helper"
local replay = require "replay"
local theaterref = require "theaterref"

-- CRASH=1000 makes it the long run.
local rounds = tonumber(os.getenv "CRASH") or 5

local seed = os.time()

describe("a content store after a power cut", function()
  -- Prints what it was told is done, which is what must not be lost.
  local script = [[
    io.stdout:setvbuf "no"
    local store = require("theaterref").content_store("demo", { home = ... })
    local function done(...) io.write(table.concat({ ... }, " "), "\n") end
    local function put(text) done("put", assert(store:put(text))) end
    local function label(name, text) done("label", name, (assert(store:store_at_label(name, text)))) end
    put "first" put "second" put "first"
    label("one", "first") label("one", "moved") label("a/b/c", "deep")
    assert(store:batch(function(batch)
      for i = 1, 3 do batch:label("batch/" .. i, batch:put("batched " .. i)) end
      batch:label("one", batch:put "moved again")
      return true
    end))
    for i = 1, 3 do done("label", "batch/" .. i, (store:get_by_label("batch/" .. i))) end
    done("label", "one", (store:get_by_label "one"))
    assert(store:remove_label "a/b/c")
    done("gone", "a/b/c")
    require("theaterref").content_store("demo", { home = ..., durability = "none" }):put "unsynced"
    label("last", "unsynced")
    assert(store:gc())
    put "after all"
  ]]

  local function check(files, lines)
    local labels = {}
    for path, text in pairs(files) do
      local hash = path:match "data/(%x+)$"
      -- Content put without a sync may be damaged, and the damage is found; content
      -- put with one may not.
      assert(not hash or core.blob(text):digest "sha1" == hash or text == "", path .. " holds " .. text)
      assert(not path:match "/labels/" or #text == 40, path .. " is half-written")
    end
    for _, line in ipairs(lines) do
      local what, name, hash = line:match "^(%w+) (%S+) ?(%S*)$"
      if what == "put" then assert(files["store/demo/data/" .. name], "lost " .. line) end
      if what == "label" then labels[name] = hash elseif what == "gone" then labels[name] = nil end
    end
    for label, hash in pairs(labels) do
      -- the hash of a move that was under way is right too
      local now = files["store/demo/labels/" .. label]
      assert(now or label == "a/b/c", "lost label " .. label)
      assert(not now or now == hash or label == "one", "label " .. label .. " is not what it was")
      assert(not now or files["store/demo/data/" .. now] ~= nil and files["store/demo/data/" .. now] ~= "",
        label .. " dangles")
    end
  end

  it("has all that it said was done, whatever of the rest survived, at every step", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    math.randomseed(seed)
    helper.with_folder(function(home)
      local file = helper.write(home .. "/script.lua", script)
      -- LeakSanitizer cannot work under strace.
      helper.run_ok(("ASAN_OPTIONS=detect_leaks=0 strace -y -s 100000 -e trace=openat,write,fsync,syncfs,linkat,renameat,renameat2,mkdir,mkdirat,unlinkat -o %s/trace %s %s %s")
        :format(home, helper.lua, file, home))
      local ok, steps = pcall(replay.run, home .. "/trace", home, check)
      assert(ok, "seed " .. seed .. ": " .. tostring(steps))
      assert.is_true(steps > 100)
    end)
  end)
end)

describe("a content store whose users are killed", function()
  local worker = [[
    local home, name, seed = ...
    math.randomseed(tonumber(seed))
    local store = require("theaterref").content_store("demo", { home = home, durability = "none" })
    local log = io.open(home .. "/log-" .. name, "a")
    log:setvbuf "no"
    local function done(...) log:write(table.concat({ ... }, " "), "\n") end
    local function text() return name .. " " .. ("%016x"):format(math.random(0)):rep(math.random(2000)) end
    for _ = 1, 100000 do
      local dice, label = math.random(10), name .. "/" .. math.random(4)
      if dice <= 3 then
        done("put", assert(store:put(text())))
      elseif dice <= 6 then
        local hash = assert(store:put(text()))
        done("moving", label, hash)
        assert(store:label(label, hash))
        done("label", label, hash)
      elseif dice == 7 then
        done("moving", label, "nothing")
        assert(store:remove_label(label) ~= nil)
        done("label", label, "nothing")
      elseif dice == 8 then
        assert(store:gc())
      else
        local moved = {}
        assert(store:batch(function(batch)
          for i = 1, 3 do
            moved[i] = batch:put(text())
            done("moving", name .. "/batch" .. i, moved[i])
            batch:label(name .. "/batch" .. i, moved[i])
          end
          return true
        end))
        for i = 1, 3 do done("label", name .. "/batch" .. i, moved[i]) end
      end
    end
  ]]

  -- Reads from a worker's log the contents that must be there, and the hashes that
  -- each label may have by now.
  local function read_log(path, contents, labels)
    for line in io.lines(path) do
      local what, name, hash = line:match "^(%w+) (%S+) ?(%S*)$"
      if what == "put" then contents[#contents + 1] = name end
      if what == "moving" then
        labels[name] = labels[name] or { nothing = true }
        labels[name][hash] = true
      elseif what == "label" then
        labels[name] = { [hash] = true }
      end
    end
  end

  -- Workers have clocks of their own, up to ten years off.
  local function clock(name)
    if not helper.can_preload then return "" end
    return ("env FAULTS_CLOCK=%d %s"):format((name - 2) * 10 * 365 * 24 * 3600, helper.preload "faults")
  end

  it(("has lost nothing after %d rounds, and nothing is half there"):format(rounds), function()
    helper.with_folder(function(home)
      local file = helper.write(home .. "/worker.lua", worker)
      local store = theaterref.content_store("demo", { home = home, durability = "none" })
      math.randomseed(seed)
      for round = 1, rounds do
        local what = ("seed %d, round %d"):format(seed, round)
        local pids = {}
        for name = 1, 3 do
          os.remove(home .. "/log-w" .. name)
          pids[name] = helper.run_ok(("%s %s %s %s w%d %d >%s/out%d 2>&1 & echo $!"):format(clock(name), helper.lua, file, home,
            name, math.random(1 << 30), home, name)):match "%d+"
        end
        -- One is killed when it is well under way, then the others.
        local victim, lines = math.random(3), math.random(60)
        helper.eventually(function()
          local path = home .. "/log-w" .. victim
          return helper.exists(path) and select(2, helper.read(path):gsub("\n", "")) >= lines
        end)
        table.insert(pids, 1, table.remove(pids, victim))
        helper.run_ok(("for p in %s; do kill -9 $p; done; for p in %s; do while readlink /proc/$p/exe >/dev/null; do :; done; done")
          :format(table.concat(pids, " "), table.concat(pids, " ")))
        local contents, labels = {}, {}
        for name = 1, 3 do
          local path = home .. "/log-w" .. name
          if helper.exists(path) then read_log(path, contents, labels) end
          assert.equal("", helper.read(home .. "/out" .. name), what)
        end
        for _, hash in ipairs(contents) do assert(store:exists(hash), what .. ": lost " .. hash) end
        for label, may_be in pairs(labels) do
          local now = store:get_by_label(label) or "nothing"
          assert(may_be[now], what .. ": label " .. label .. " is " .. now)
        end
        local report = store:verify()
        assert.same({ {}, {}, {} }, { report.corrupt, report.dangling, report.quarantined }, what)
        for _, label in ipairs(store:list_labels()) do store:remove_label(label) end
        store:gc { grace = 0 }
        report = store:verify()
        assert.same({ 0, {} }, { report.checked, report.temporary_files }, what)
      end
    end)
  end)
end)
