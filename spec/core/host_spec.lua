local helper = require "helper"

describe("hosts in C", function()
  it("plan, resolve, log and fail on many threads over one cache", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/actor.wasm", "\0asm")
      helper.write(folder .. "/manifest.toml", ('name = "worker"\npackage = "%s/actor.wasm"\nstatic_package = true\n'):format(folder))
      helper.write(folder .. "/policy.lua", "return { allow = function(ref, ctx) return ctx.purpose ~= 'package', 'closed' end }")
      helper.write(folder .. "/conf.lua", "return { retries = 0, log = false }")
      local library = helper.root .. "/" .. helper.build .. "/lib"
      local program = folder .. "/hosts"
      helper.run_ok(("%s -std=c11 -g -O1 %s spec/support/hosts.c -Icsrc -L%s -ltheaterref -Wl,-rpath,%s -pthread -o %s"):format(
        os.getenv "CC" or "cc", helper.sanitizers, library, library, program))
      assert.equal("200 plans, 300 lines\n", helper.run_ok(program .. " " .. folder))
    end)
  end)
end)
