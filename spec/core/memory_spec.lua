local helper = require "helper"
local theaterref = require "theaterref"

describe("the core, where memory runs out", function()
  it("survives each failing allocation, says so, and leaves stores whole", function()
    helper.with_folder(function(folder)
      local stub = helper.stub()
      finally(function() stub:stop() end)
      local program = folder .. "/allocations"
      local wraps = {}
      for name in ("malloc calloc realloc strdup strndup"):gmatch "%a+" do wraps[#wraps + 1] = "-Wl,--wrap=" .. name end
      helper.run_ok(("%s -std=gnu11 -g -O1 %s spec/support/allocations.c -Icsrc %s %s/%s/lib/libtheaterref.a -o %s %s"):format(
        os.getenv "CC" or "cc", helper.sanitizers, table.concat(wraps, " "), helper.root, helper.build, program,
        "$(pkg-config --libs lua5.4) -lmbedcrypto -ldl -lm -pthread"))
      -- ThreadSanitizer would wait for a second at the end of each child.
      local out = helper.run_ok('LSAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS="$TSAN_OPTIONS atexit_sleep_ms=0" ' .. program .. " " .. folder .. " " .. stub.at)
      assert.is_true(tonumber(out:match "^(%d+) allocations failed\n$") > 80, out)
      local report = assert(theaterref.content_store("demo", { base_path = folder .. "/store" }):verify())
      assert.same({ {}, {}, {}, {} }, { report.corrupt, report.dangling, report.quarantined, report.faulty_labels })
      assert.same({}, report.temporary_files)
    end)
  end)
end)
