local helper = require "helper"

-- What a fresh interpreter prints.
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
  it("starts no thread and opens no libcurl, nor does anything but a fetch", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/file", "bytes")
      assert.equal("false no libcurl\nfalse no libcurl\nfalse libcurl\ntrue libcurl\n", fresh(holdings .. ([[
        local before = threads() -- sanitizers have some of their own
        local function show() print(tostring(threads() > before) .. " " .. has_libcurl()) end
        local theaterref = require "theaterref"
        show()
        local resolver = theaterref.resolver { cache = { ttl = 60 }, home = %q, retries = 0 }
        assert(resolver:resolve_cached(%q))
        assert(resolver:store "demo":put "bytes")
        show()
        resolver:resolve "http://127.0.0.1:1/" -- who waits does the work himself
        show()
        resolver:start "http://127.0.0.1:1/"
        show()
      ]]):format(folder, folder .. "/file")))
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
