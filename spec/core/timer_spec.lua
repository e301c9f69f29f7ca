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
end)
