local helper = require "helper"

describe("an example", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  it("has a plan of several loads go on in a luv loop, and ends at its interrupt", function()
    helper.with_folder(function(folder)
      local manifest = helper.write(folder .. "/m.toml", ('name = "m"\ninit_state = "%s/late"\npackage = "%s/late"\n')
        :format(server.http, server.http))
      local command = ("LUA_PATH=%s exec %s examples/loops/luv.lua --plan "):format(
        helper.quote(helper.root .. "/lua/?.lua;" .. helper.root .. "/lua/?/init.lua;;"), helper.lua)
      assert.matches("^6 bytes\n", helper.run_ok(command .. manifest))
      helper.write(folder .. "/n.toml", ('name = "n"\npackage = "%s/never"\n'):format(server.http))
      local _, err, status = helper.run("timeout -k 10 -s INT 0.5 sh -c " .. helper.quote(command .. folder .. "/n.toml"))
      assert.matches("the future was cancelled", err)
      assert.is_not_equal(0, status)
    end)
  end)

  it("follows several references in a cqueues loop", function()
    helper.with_folder(function(folder)
      local function deploy(name, text)
        helper.write(folder .. "/new", text)
        assert(os.rename(folder .. "/new", folder .. "/" .. name))
      end
      deploy("a", "a")
      deploy("b", "bb")
      local pid = helper.run_ok(("LUA_PATH=%s THEATERREF_CONFIG=%s timeout 60 %s examples/loops/follow.lua %s/a %s/b >%s/log 2>&1 & echo $!"):format(
        helper.quote(helper.root .. "/lua/?.lua;" .. helper.root .. "/lua/?/init.lua;;"),
        helper.write(folder .. "/conf.lua", "return {}"), helper.lua, folder, folder, folder))
      local function logged(text)
        helper.eventually(function() return helper.read(folder .. "/log"):find(folder .. "/" .. text, 1, true) end)
      end
      logged "a\t1 bytes"
      logged "b\t2 bytes"
      deploy("b", "bbb")
      logged "b\t3 bytes"
      helper.run_ok("kill " .. pid)
    end)
  end)

  for _, loop in ipairs { "cqueues", "luv" } do
    it("has work go on in a " .. loop .. " loop while a fetch is under way", function()
      local out = helper.run_ok(("LUA_PATH=%s %s examples/loops/%s.lua %s/late"):format(
        helper.quote(helper.root .. "/lua/?.lua;" .. helper.root .. "/lua/?/init.lua;;"), helper.lua, loop, server.http))
      assert.matches("^6 bytes\n", out)
      assert.is_true(tonumber(out:match("(%d+) ticks")) > 3)
    end)

    it("says how to run it, without arguments: " .. loop, function()
      local _, err, status = helper.run(("LUA_PATH=%s %s examples/loops/%s.lua"):format(
        helper.quote(helper.root .. "/lua/?.lua;" .. helper.root .. "/lua/?/init.lua;;"), helper.lua, loop))
      assert.same({ 2, "Usage: lua5.4 " .. loop .. ".lua URL" }, { status, err:match "^[^,\n]+" })
    end)
  end
end)
