-- Runs the inputs that the fuzzers found; under sanitizers, too.
local helper = require "helper"

describe("what fuzzing found", function()
  local corpus = dofile "spec/fuzz/corpus.lua"
  local targets = dofile "spec/fuzz/targets.lua"

  for name, target in pairs(targets) do
    it("does no harm to " .. name, function()
      local inputs = corpus.inputs("spec/fuzz/found/" .. name)
      for file in helper.run_ok("ls spec/fuzz/" .. name):gmatch "%S+" do
        inputs[#inputs + 1] = helper.read(("spec/fuzz/%s/%s"):format(name, file))
      end
      for _, input in ipairs(inputs) do
        local ok, why = xpcall(target, debug.traceback, input)
        assert(ok, ("%q: %s"):format(input, why))
      end
      assert.is_true(#inputs > 10)
    end)
  end
end)
