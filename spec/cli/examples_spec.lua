local helper = require "helper"

describe("an example", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  for _, loop in ipairs { "cqueues", "luv" } do
    it("has work go on in a " .. loop .. " loop while a fetch is under way", function()
      local out = helper.run_ok(("LUA_PATH=%s %s examples/loops/%s.lua %s/late"):format(
        helper.quote(helper.root .. "/lua/?.lua;" .. helper.root .. "/lua/?/init.lua;;"), helper.lua, loop, server.http))
      assert.matches("^6 bytes\n", out)
      assert.is_true(tonumber(out:match("(%d+) ticks")) > 3)
    end)
  end
end)
