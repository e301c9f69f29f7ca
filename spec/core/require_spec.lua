local helper = require "helper"

-- The output of a fresh interpreter.
local function fresh(code)
  return helper.run_ok(("%s -e %s"):format(helper.lua, helper.quote(code)))
end

local holdings = [[
  local function threads()
    for line in io.lines "/proc/self/status" do
      local count = line:match "^Threads:%s*(%d+)"
      if count then return tonumber(count) end
    end
  end
  local function has_libcurl()
    for line in io.lines "/proc/self/maps" do
      if line:find("libcurl", 1, true) then return "libcurl" end
    end
    return "no libcurl"
  end
]]

describe('require "theaterref"', function()
  it("starts no thread and opens no libcurl; only a fetch does", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/file", "bytes")
      assert.equal("false no libcurl\nfalse no libcurl\ntrue libcurl\n", fresh(holdings .. ([[
        local before = threads() -- sanitizers have some of their own
        local function show() print(tostring(threads() > before) .. " " .. has_libcurl()) end
        local theaterref = require "theaterref"
        show()
        local resolver = theaterref.resolver { cache = { ttl = 60 }, home = %q, retries = 0 }
        assert(resolver:resolve_cached(%q))
        assert(resolver:store "demo":put "bytes")
        show()
        resolver:start "http://127.0.0.1:1/"
        show()
      ]]):format(folder, folder .. "/file")))
    end)
  end)

  it("works without libcurl, or with one that is no good, but for fetches", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/file", "bytes")
      local code = ([[local theaterref = require "theaterref"
        io.write(tostring(theaterref.resolve_reference(%q)), ": ")
        print(select(2, theaterref.resolve_reference("http://127.0.0.1:1/")))]]):format(folder .. "/file")
      local function with_library(make)
        helper.run_ok("cd " .. folder .. " && " .. make)
        return helper.run_ok(("LD_LIBRARY_PATH=%s %s -e %s"):format(folder, helper.lua, helper.quote(code)))
      end
      assert.matches("^bytes: .*libcurl.so.4: file too short; install libcurl %(on Debian: libcurl4%)",
        with_library ": > libcurl.so.4")
      assert.matches("^bytes: .*this libcurl has no curl_easy_cleanup; 7.83 or newer is needed",
        with_library "echo 'int nothing;' | cc -shared -x c - -o libcurl.so.4")
      local out, _, status = helper.run(("LD_LIBRARY_PATH=%s %s lua/bin/theaterref doctor --home %s"):format(folder, helper.lua,
        folder))
      assert.matches("^FAIL  versions      libcurl cannot be opened: install it %(on Debian: libcurl4%)", out)
      assert.equal(1, status)
    end)
  end)

  it("loads what is asked for when it is asked for", function()
    assert.equal("nil table nil function nil\n", fresh [[
      local theaterref = require "theaterref"
      print(table.concat({ type(package.loaded["theaterref.template"]), type(theaterref.template),
        type(package.loaded["theaterref.resolver"]), type(theaterref.resolver), type(theaterref.nonsense) }, " "))
    ]])
  end)
end)
