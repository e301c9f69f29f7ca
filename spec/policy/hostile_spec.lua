local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

-- Scripts that mean harm. Each is loaded as a policy and asked for a file that
-- it may not see; whatever it does, the host gets an answer, in time, and stays
-- as it was.
local scripts = {
  -- loops
  "while true do end",
  "repeat until false",
  "return { allow = function() while true do end end }",
  "return { allow = function() while true do pcall(error) end end }",
  "return { allow = function() while true do pcall(function() while true do end end) end end }",
  "return { rewrite = function() local function f() return f() end return f() end }",
  "return { rewrite = setmetatable({}, { __call = function() while true do end end }) }",
  "local t = setmetatable({}, { __index = function(t, k) return t[k] end }) return { allow = function() return t.x end }",
  "return { on_event = function() while true do end end, allow = function() return false end }",
  "return { allow = function() local x <close> = setmetatable({}, { __close = function() while true do end end }) error 'x' end }",
  -- memory
  "return { allow = function() return ('x'):rep(1 << 40) end }",
  "return { allow = function() return ('x'):rep(1 << 20):rep(1 << 20) end }",
  "return { allow = function() local s = 'x' while true do s = s .. s end end }",
  "return { allow = function() local t = {} while true do t[#t + 1] = {} end end }",
  "return { allow = function() local function f() return 1 + f() end return f() end }",
  "return { allow = function() return ('%99999999d'):format(1) end }",
  "return { allow = function() return false, ('x'):rep(30 << 20) end }",
  "return { rewrite = function() local t = {} for i = 1, 1e6 do t[i] = '/etc/hostname' end return t end }",
  "return { request = function() local t = {} for i = 1, 1e5 do t['h' .. i] = i end return t end, allow = function() return false end }",
  -- patterns and other loops in C
  "return { allow = function() return ('a'):rep(100000):find(('.-'):rep(20) .. 'b') end }",
  "return { allow = function() return ('a'):rep(100000):gsub('(.-)*(.-)*b', '') end }",
  "return { allow = function() return table.concat(setmetatable({}, { __len = function() return 1 << 60 end })) end }",
  "return { allow = function() return table.unpack({}, 1, 1e8) end }",
  "return { allow = function() local t = {} for i = 1, 1e5 do t[i] = i end table.sort(t, function() return true end) end }",
  -- ways out
  "return { allow = function() return io.open '/etc/passwd' end }",
  "return { allow = function() return os.execute 'true' end }",
  "return { allow = function() return load('return 1')() end }",
  "return { allow = function() return require 'theaterref.core' end }",
  "return { allow = function() debug.sethook() while true do end end }",
  "return { allow = function() return coroutine.wrap(function() while true do end end)() end }",
  "return { allow = function() return getmetatable('').__index.rep == nil or package.loaded end }",
  "return { allow = function() return _G._G.dofile '/etc/passwd' end }",
  "\27Lua bytecode",
  -- exposed functions
  "theaterref.policy.default.allow = function() return true end return {}",
  "setmetatable(theaterref, { __index = function() while true do end end }) return { allow = function() return theaterref.nothing end }",
  "return { allow = function() return theaterref.json_split(('['):rep(1e6)) == 'object' end }",
  "return { allow = function() theaterref.policy.default.rewrite(theaterref, theaterref) end }",
  "return { allow = function() theaterref.sha256(setmetatable({}, { __tostring = function() while true do end end })) end }",
  "return { allow = function() return theaterref.getenv 'PATH' end }",
  "return { allow = function() return theaterref.read_lockfile '/etc/passwd' end }",
  -- errors and answers
  "return { allow = function() error(setmetatable({}, { __tostring = function() error 'again' end })) end }",
  "return { allow = function() error() end }",
  "return { allow = function() local t = {} t.t = t error(t) end }",
  "return { allow = function() return false, setmetatable({}, { __tostring = function() while true do end end }) end }",
  "local t = {} t.allow = t return t",
  "return setmetatable({}, { __pairs = function() return function() return 'allow', print end end })",
  "return { allow = 7 }",
  "return 'nonsense'",
}

describe("a hostile policy script", function()
  local folder, path

  setup(function()
    folder = helper.temporary_folder()
    path = helper.write(folder .. "/file", "not for it")
  end)

  teardown(function() helper.remove(folder) end)

  for i, source in ipairs(scripts) do
    it(("neither escapes, hangs nor kills the host (%d of %d)"):format(i, #scripts), function()
      local file, started = helper.write(folder .. "/policy.lua", source), core.now()
      local resolver, err = theaterref.resolver { policy = file }
      if resolver then
        -- from where the default rule would not allow it either
        local blob
        blob, err = resolver:trace(path, { purpose = "package", manifest_reference = "https://127.0.0.1:1/m.toml",
          origin = "https://127.0.0.1:1/m.toml" }, function() end)
        assert.is_nil(blob, source)
      end
      assert.is_truthy(({ policy = true, denied = true, syntax = true, invalid_reference = true, not_found = true,
        network = true })[err.kind],
        source .. ": " .. err.kind)
      assert.is_true(#err.message < 2000)
      assert.is_true(core.now() - started < 8, source)
      assert.equal("not for it", tostring(theaterref.resolve_reference(path)))
      assert.equal("function", type(io.open))
      assert.is_false((require("theaterref.policy").default.allow("/x", { purpose = "package",
        manifest_reference = "https://h/" })))
    end)
  end
end)
