-- The time of a spawn from machine code: examples/hosts/compile.c with the demo's actor.
local helper = require "helper"
local measure = require "measure"

local M = {}

-- Milliseconds of the two spawns of a new process.
local function spawn(folder)
  local first, second = helper.run_ok(("%s/compile examples/actor/manifest.toml %s/disk"):format(folder, folder))
    :match "after ([%d.]+) ms\n.*after ([%d.]+) ms\n"
  return tonumber(first), tonumber(second)
end

function M.run()
  measure.title "A spawn from machine code that wasm2c and cc make of the package; the baseline compiles it"
  helper.with_folder(function(folder)
    helper.run_ok(("cc -O2 -rdynamic examples/hosts/compile.c -Icsrc -L%s/lib -ltheaterref -Wl,-rpath,%s/%s/lib "
      .. "-Wl,--whole-archive -lwasm-rt-impl -Wl,--no-whole-archive -lm -o %s/compile"):format(helper.build, helper.root,
      helper.build, folder))
    local later = {}
    local first, second = measure.compare(function()
      helper.run_ok("rm -rf " .. folder .. "/disk")
      local compiled, cached = spawn(folder)
      later[#later + 1] = cached
      return compiled
    end, function() return (spawn(folder)) end)
    table.sort(later)
    local function line(what, ms, target)
      measure.line(what, ("%.2f ms"):format(ms), ("%.2f ms"):format(first), ms / first, target)
    end
    line("the first spawn", first, "")
    line("the second", later[(#later + 1) // 2], "<= 0.1")
    line("the first in another process", second, "<= 0.1")
  end)
end

return M
