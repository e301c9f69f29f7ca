-- Followers of files and labels, which are watched. For the others see spec/policy/follow_spec.lua.
local core = require "theaterref.core"
local following = require "following"
local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"

local resolver, follow, write = following.resolver, following.follow, following.write
local await, silent = following.await, following.silent

describe("a follower of a file or a label", function()
  local folder

  before_each(function() folder = following.begin() end)
  after_each(following.finish)

  it("calls back with the content of a file, and whenever that changes", function()
    local path = write("file", "one")
    local follower, seen, failed = follow(path)
    assert.equal("one", await(follower))
    write("file", "two")
    assert.equal("two", await(follower))
    helper.write(path, "three, in place")
    assert.equal("three, in place", await(follower))
    write("file", "three, in place") -- another file, with the same bytes
    silent(follower)
    assert.same({ "one", "two", "three, in place" }, seen)
    assert.same({}, failed)
  end)

  it("comes at other moments in each process, also in forked ones", function()
    local function due()
      local follower = follow("data:,x", { interval = 1e6, jitter = 1 })
      await(follower)
      return follower:timeout()
    end
    local own = due()
    if threads.fork(60) then
      helper.write(folder .. "/due", tostring(due()))
      threads.leave()
    end
    threads.wait()
    assert.is_true(math.abs(own - due()) < 10)
    assert.is_true(math.abs(own - tonumber(helper.read(folder .. "/due"))) > 10)
  end)

  it("watches on a thread with a name of its own", function()
    await(follow(write("file", "one")))
    assert.truthy(helper.run_ok(("cat /proc/%d/task/*/comm"):format(core.process_number())):find("theaterref-file\n", 1, true))
  end)

  it("sees changes of the same size within the clock's resolution", function()
    local path = write("file", "0000")
    local follower = follow(path)
    await(follower)
    for i = 1, 50 do helper.write(path, ("%04d"):format(i)) follower:step() end
    helper.eventually(function()
      follower:wait(0.05)
      return tostring((follower:content())) == "0050"
    end)
  end)

  it("waits for a file and its folders to appear, and to come back", function()
    local path = folder .. "/a/b/file"
    local follower, seen, failed = follow(path)
    silent(follower)
    helper.run_ok("mkdir -p " .. folder .. "/a/b")
    write("a/b/file", "one")
    assert.equal("one", await(follower))
    os.remove(path)
    silent(follower)
    assert.equal("not_found", failed[#failed].kind)
    assert.equal("one", tostring((follower:content())))
    write("a/b/file", "one")
    silent(follower)
    helper.run_ok("rm -r " .. folder .. "/a")
    silent(follower)
    helper.run_ok("mkdir -p " .. folder .. "/other/b && echo -n two > " .. folder .. "/other/b/file && mv " .. folder .. "/other " .. folder .. "/a")
    assert.equal("two", await(follower))
    assert.same({ "one", "two" }, seen)
  end)

  it("takes a file that appears between the look at it and its load", function()
    local path, look = folder .. "/file", core.file_version
    function core.file_version(...) -- luacheck: ignore
      local version, more = look(...)
      if not version then write("file", "now") end
      return version, more
    end
    finally(function() core.file_version = look end) -- luacheck: ignore
    local r = resolver { cache = theaterref.resource_cache() }
    local follower, seen, failed = follow(path, {}, r)
    assert.equal("now", await(follower))
    write("file", "then")
    assert.equal("then", await(follower))
    assert.same({ { "now", "then" }, {} }, { seen, failed })
  end)

  it("follows symbolic links, of the file and of a folder on the way, wherever they lead", function()
    for version = 1, 3 do
      helper.run_ok(("mkdir %s/v%d && echo -n %d > %s/v%d/file"):format(folder, version, version, folder, version))
    end
    local function point(link, target) helper.run_ok(("cd %s && ln -sfn %s new && mv -T new %s"):format(folder, target, link)) end
    point("current", "v1")
    point("stable", folder .. "/current/../current/file")
    local follower, seen = follow(folder .. "/stable")
    assert.equal("1", await(follower))
    point("current", "v2")
    assert.equal("2", await(follower))
    point("stable", "v3/file")
    assert.equal("3", await(follower))
    write("v3/file", "changed")
    assert.equal("changed", await(follower))
    write("v1/file", "not followed any more")
    silent(follower)
    point("stable", "stable") -- a circle
    silent(follower)
    assert.equal(4, #seen)
  end)

  it("follows a path that is relative to the working folder, and a file:// URL", function()
    local path = write("file", "one")
    local relative = helper.root:gsub("[^/]+", ".."):sub(2) .. path
    local first, second = follow(relative), follow("file://" .. path)
    assert.same({ "one", "one" }, { await(first), await(second) })
    write("file", "two")
    assert.same({ "two", "two" }, { await(first), await(second) })
  end)

  it("follows a label, back to where it was, too", function()
    local r = resolver { home = folder }
    local store = r:store "apps"
    local first = assert(store:put "one")
    local follower, seen = follow("store://apps/actors/worker", {}, r)
    silent(follower)
    assert(store:label("actors/worker", first))
    assert.equal("one", await(follower))
    assert(store:store_at_label("other", "x"))
    silent(follower)
    assert(store:label("actors/worker", assert(store:put "two")))
    assert.equal("two", await(follower))
    assert(store:label("actors/worker", first))
    assert.equal("one", await(follower))
    assert(store:remove_label "actors/worker")
    silent(follower)
    assert.same({ "one", "two", "one" }, seen)
  end)

  it("leaves no older content in the cache of all followers, also if it comes and goes", function()
    local shared = theaterref.resource_cache { name = "theaterref.follow" }
    shared:clear()
    for i = 1, 3 do
      local path = write("file", ("x"):rep(1000) .. i)
      local follower = follow(path)
      await(follower)
      write("file", ("y"):rep(1000) .. i)
      await(follower)
      local stats = shared:stats()
      assert.equal(1, stats.entries)
      assert.is_true(stats.bytes < 2000, stats.bytes)
      follower:close()
    end
  end)

  it("polls what it cannot watch", function()
    local path = write("file", "one")
    local follower = follow(path, { interval = 0.05 })
    follower.watch:close() -- as if the system had no more watches
    follower.watch = { set = function() return false end, notify = function() end, take = function() return false end, close = function() end }
    assert.equal("one", await(follower))
    write("file", "two")
    assert.equal("two", await(follower))
  end)

  it("refuses what is no file, and never waits for it", function()
    helper.run_ok("mkfifo " .. folder .. "/pipe")
    local follower, _, failed = follow(folder .. "/pipe")
    local started = core.now()
    silent(follower)
    assert.is_true(core.now() - started < 1)
    assert.truthy(failed[1].message:find("not a regular file", 1, true))
  end)
end)
