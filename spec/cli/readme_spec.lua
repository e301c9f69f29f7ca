local helper = require "helper"

describe("the README", function()
  it("has no Lua that does not run", function()
    helper.with_folder(function(folder)
      local text = helper.read("README.md")
      helper.write(folder .. "/actor.wasm", "\0asm")
      helper.write(folder .. "/manifest.toml", text:match("```toml\n(.-)```"))
      local count = 0
      for kind, code in text:gmatch("```lua *(%a*)\n(.-)```") do
        count = count + 1
        if kind == "policy" then
          helper.write(folder .. "/spawn_policy.lua", code)
          code = [[
            local theaterref = require "theaterref"
            local resolver = assert(theaterref.resolver { policy = "spawn_policy.lua" })
            local rules = resolver.policy
            assert(rules:ask("rewrite", "https://github.com/a/b", { purpose = "direct" }) == "https://mirror.internal/github/a/b")
            assert(rules:ask("allow", "http://h/x", { purpose = "package" }) == false)
            assert(rules:ask("request", "https://h/x", {}).timeout == 10)]]
        end
        helper.write(folder .. "/block.lua", code)
        helper.run_ok("cd " .. folder .. " && HOME=" .. folder .. " " .. helper.lua .. " block.lua")
      end
      assert.equal(4, count)
    end)
  end)
end)
