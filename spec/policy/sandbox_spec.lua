local core = require "theaterref.core"

describe("a sandbox", function()
  local function run(source, globals)
    local box = core.sandbox { instructions = 2000000, memory = 8 << 20, seconds = 1 }
    return box:run(source, "@script", globals, true)
  end

  local function fails(source, expected)
    local result, err = run(source)
    assert.is_nil(result, source)
    assert.equal("policy", err.kind)
    if expected then assert.is_truthy(err.message:find(expected, 1, true), err.message) end
  end

  it("runs a script and hands back copies of plain data", function()
    local value = run "return { a = { 1, 2.5, 'x', true }, [7] = 'seven' }"
    assert.same({ a = { 1, 2.5, "x", true }, [7] = "seven" }, value)
    assert.equal("integer", math.type(value.a[1]))
    assert.equal(3, (run("return #list", { list = { 1, 2, 3 } })))
    assert.same({ 1, nil, 3 }, { run "return 1, nil, 3" })
  end)

  it("hands back functions that run inside it", function()
    local rules = run "local n = 0; return { count = function(by) n = n + by; return n, { n = n } end }"
    assert.equal(2, (rules.count(2)))
    local n, more = rules.count(3)
    assert.equal(5, n)
    assert.same({ n = 5 }, more)
    assert.has_error(function() rules.count(print) end)
  end)

  it("lets scripts call what the host exposes", function()
    local box = core.sandbox()
    box:expose { host = { double = function(n) return n * 2, "done" end, fail = function() error("host says no", 0) end } }
    assert.same({ 8, "done" }, { box:run("return host.double(4)", "@s") })
    local _, err = box:run("host.fail()", "@s")
    assert.matches("host says no", err.message)
    assert.same({ false, "@" }, { box:run("local ok, why = pcall(host.fail) return ok, '@'", "@s") })
  end)

  it("names the file and line of what went wrong", function()
    fails("\n\nerror 'boom'", "script:3: boom")
    fails("x = = 1", "script:1:")
    fails("local x = nil; return x.y", "script:1: attempt to index a nil value")
    fails("error({})", "raised a table")
    fails("error(setmetatable({}, { __tostring = function() error 'again' end }))", "raised a table")
  end)

  it("ends what loops, whatever the loop does about it", function()
    for _, source in ipairs {
      "while true do end",
      "repeat until false",
      "::again:: goto again",
      "while true do pcall(function() while true do end end) end",
      "local function f() return f() end f()",
      "local t = setmetatable({}, { __index = function(t, k) return t[k] end }) return t.x",
      "for i = 1, math.huge do end",
      "string.gsub(('x'):rep(1000), '.', function() while true do end end)",
      "table.sort({ 1, 2, 3 }, function() while true do end end)",
      "local t = setmetatable({}, { __close = function() while true do end end }) do local x <close> = t end",
    } do
      fails(source)
    end
  end)

  it("ends what eats memory", function()
    for _, source in ipairs {
      "return ('x'):rep(1 << 30)",
      "return ('x'):rep(1 << 20):rep(1 << 20)",
      "local s = 'x' while true do s = s .. s end",
      "local t = {} for i = 1, 1e9 do t[i] = {} end",
      "local function f() return 1 + f() end return f()",
      "return table.concat(table.pack(('x'):rep(1 << 22), ('x'):rep(1 << 22), ('x'):rep(1 << 22)))",
    } do
      fails(source)
    end
    fails("return ('x'):rep(1 << 30)", "bytes of memory")
  end)

  it("ends C loops that no hook would see", function()
    for _, source in ipairs {
      "return ('a'):rep(100000):gsub(('.-'):rep(20) .. 'b', '', 1)",
      "return ('a'):rep(100000):find(('.-'):rep(20) .. 'b')",
      "return string.find(('a'):rep(50000), ('a*'):rep(20) .. 'b')",
      "return ('a'):rep(3000000):find(('a'):rep(1000000) .. 'b', 1, true)",
      "return table.concat(setmetatable({}, { __len = function() return 1 << 60 end }))",
      "table.insert(setmetatable({}, { __len = function() return 1 << 60 end }), 1, 1)",
      "table.unpack({}, 1, 1e8)",
      "setmetatable({}, { __gc = function() while true do end end })",
      "return ('%b()'):rep(10)",
    } do
      local before = core.now()
      run(source)
      assert.is_true(core.now() - before < 5, source)
    end
  end)

  it("exposes no way out", function()
    for _, name in ipairs { "io", "os", "debug", "package", "require", "load", "loadstring", "loadfile", "dofile", "collectgarbage",
      "coroutine", "print", "xpcall", "warn" } do
      assert.is_true((run("return " .. name .. " == nil")), name)
    end
    assert.is_true((run "return string.dump == nil and table.move == nil and ('').dump == nil"))
    fails(string.dump(function() end), "attempt to load a binary chunk")
  end)

  it("cannot be used to change the host", function()
    assert(run "string.rep = nil; getmetatable('').__index = {}; math.floor = nil; return true")
    assert.equal("xx", ("x"):rep(2))
    assert.equal(1, math.floor(1.5))
  end)

  it("hands arrays and dates of documents on as such, out of a script's reach", function()
    local day = require("theaterref.manifest.toml").parse("day = 1979-05-27").day
    local list = core.json_decode "[]"
    local box = core.sandbox()
    local answer = box:run("list[1] = 'a' table.insert(list, 'b') return { list, day }", "@x", { list = list, day = day })
    assert.equal(core.json_array, getmetatable(answer[1]))
    assert.same({ "a", "b" }, { table.unpack(answer[1]) })
    assert.equal("1979-05-27", tostring(answer[2]))
    assert.is_false((box:run("return getmetatable(list)", "@x")))
    local _, err = box:run("setmetatable(list, {})", "@x")
    assert.matches("protected metatable", err.message)
  end)

  it("refuses values that are not plain data, or too many", function()
    fails("local t = {} t.t = t return t", "in a circle")
    fails("local t = {} for i = 1, 40 do t = { t, t } end return t")
    fails("local s = ('x'):rep(1 << 20) local t = {} for i = 1, 100 do t[i] = s end return t", "32 MiB")
  end)

  it("goes on after a script has failed in it", function()
    local box = core.sandbox { instructions = 100000 }
    assert.is_nil((box:run("while true do end", "@a")))
    assert.equal(3, (box:run("return 1 + 2", "@b")))
  end)
end)
