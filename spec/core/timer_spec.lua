local core = require "theaterref.core"
local helper = require "helper"
local threads = require "threads"

describe("a timer", function()
  it("is done when its seconds are over, the earliest first", function()
    local began = core.now()
    local later, sooner = core.timer(0.2), core.timer(0.05)
    assert.is_false(later:done())
    assert.equal(0, #sooner:wait())
    assert.is_false(later:done())
    assert.equal(0, #later:wait())
    local seconds = core.now() - began
    assert.is_true(seconds >= 0.2 and seconds < 1 * helper.slowness, seconds)
    assert.equal(0, #core.timer(-1):wait())
  end)

  it("may be waited for in part, and given up", function()
    local timer = core.timer(60)
    assert.equal("timeout", select(2, timer:wait(0.01)).kind)
    timer:cancel()
    assert.is_true(timer:done())
  end)

  it("wakes an event loop", function()
    local notifier, timer = core.notifier(), core.timer(0.02)
    timer:notify(notifier)
    helper.eventually(function() return timer:done() end)
  end)

  it("is abandoned in a child of a fork, which can make others", function()
    local timer = core.timer(60)
    if threads.fork(20) then
      local _, _, why = timer:wait(5)
      if why == "abandoned" and core.timer(0.01):wait(5) then threads.leave() end
    end
    threads.wait()
    timer:cancel()
  end)

  it("comes in its turn and in little time among 50,000", function()
    local began, list = core.now(), {}
    for i = 1, 50000 do list[i] = core.timer(100 + i * 7919 % 50000 / 1000) end
    local order = { 0.05, 0.01, 0.03, 0.02, 0.04, 0.0 }
    for i, seconds in ipairs(order) do order[i] = { seconds = seconds, timer = core.timer(seconds) } end
    table.sort(order, function(a, b) return a.seconds < b.seconds end)
    for i, one in ipairs(order) do
      assert(one.timer:wait(10))
      if order[i + 1] and core.now() < began + order[i + 1].seconds then assert.is_false(order[i + 1].timer:done()) end
    end
    assert.is_false(list[1]:done())
    assert.is_true(core.now() - began < 5 * helper.slowness)
    for _, timer in ipairs(list) do timer:cancel() end
  end)

  it("works for many threads at once", function()
    local results = threads.run(8, [[
      local core = require "theaterref.core"
      return function()
        local timers = {}
        for i = 1, 50 do timers[i] = core.timer(i % 7 / 1000) end
        for i = 1, 50 do assert(timers[i]:wait(10)) end
        return "done"
      end]])
    for _, result in ipairs(results) do assert.equal("done", result) end
  end)

  describe("of a lock", function()
    local folder, store, other

    before_each(function()
      folder = helper.temporary_folder()
      store = core.content_store(folder, { durability = "none" })
      other = core.content_store(folder, { durability = "none" })
    end)

    after_each(function() helper.remove(folder) end)

    local function is_free()
      local lock <close> = other:try_lock "name"
      return lock ~= nil
    end

    it("unlocks it when what its owner awaits is over, though the owner does not go on", function()
      local awaited = core.timer(0.1)
      local lock <close> = assert(store:try_lock "name")
      lock:end_after(awaited, 0.05)
      assert.is_false(is_free())
      helper.eventually(is_free)
      assert.is_true(awaited:done())
      local all <close> = assert(store:lock()) -- works for this kind of lock, too
      all:end_after(core.timer(0), 0)
      helper.eventually(function()
        local mine <close> = other:lock(0)
        return mine ~= nil
      end)
    end)

    it("leaves it alone while that is not over, and after it was closed", function()
      local lock = assert(store:try_lock "name")
      local awaited = core.timer(60)
      lock:end_after(awaited, 0)
      core.timer(0.3):wait()
      assert.is_false(is_free())
      do local closing <close> = lock end -- luacheck: ignore closing
      assert.is_true(is_free())
      local again <close> = assert(other:try_lock "name")
      awaited:cancel()
      core.timer(0.3):wait()
      local mine <close> = store:try_lock "name"
      assert.is_nil(mine)
      assert.is_userdata(again)
      lock:end_after(core.timer(0), 0) -- of no effect any more
    end)

    it("has parts, each a lock of its own", function()
      local lock <close> = assert(store:try_lock("name", "0a")) -- luacheck: ignore lock
      local mine <close> = other:try_lock("name", "0A")
      assert.is_nil(mine)
      local part <close> = other:try_lock("name", "0b")
      assert.is_userdata(part)
    end)

    it("is left to the parent by a child of a fork", function()
      local lock <close> = assert(store:try_lock "name")
      lock:end_after(core.timer(0.2), 0)
      if threads.fork(20) then
        core.timer(0.5):wait()
        threads.leave()
      end
      threads.wait()
      helper.eventually(is_free)
    end)

    it("may come at the moment at which its owner closes it", function()
      local results = threads.run(8, ([[
        local core = require "theaterref.core"
        local number = ...
        return function()
          local store = core.content_store(%q, { durability = "none" })
          for i = 1, 20 do
            local lock <close> = assert(store:try_lock(number .. "-" .. i))
            lock:end_after(core.timer(0.08 + i / 1000), i %% 3 / 100)
            core.timer(0.1 + i %% 5 / 100):wait()
          end
          return "done"
        end]]):format(folder))
      for _, result in ipairs(results) do assert.equal("done", result) end
    end)
  end)
end)
