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

  for _, source in ipairs(scripts) do
    it("neither escapes, hangs nor kills the host: " .. source:gsub("%c", "?"), function()
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

describe("a script's read_lockfile", function()
  it("does not wait for what is no regular file", function()
    local folder = helper.temporary_folder()
    helper.run_ok("mkfifo " .. folder .. "/pipe")
    local started = core.now()
    for path, why in pairs { pipe = "not a regular file", ["/dev/zero"] = "not a regular file", ["/proc/kmsg"] = "lockfile" } do
      local file = helper.write(folder .. "/policy.lua", ("theaterref.read_lockfile %q"):format(path))
      local resolver, err = theaterref.resolver { policy = file }
      assert.same({ nil, "policy" }, { resolver, err.kind })
      assert.is_truthy(err.message:find(why, 1, true), err.message)
    end
    assert.is_true(core.now() - started < 5 * helper.slowness)
    helper.remove(folder)
  end)
end)

describe("a script that calls functions of theaterref with long texts again and again ends in time:", function()
  local data, url, json = "('data:'):rep(800000)", "'http://h/' .. ('../'):rep(1300000)", "('[1,'):rep(1300000)"
  for call, text in pairs {
    ["sha256, s"] = data, ["json_split, s"] = json, ["json_quote, s"] = url, ["merge_initial_states, s, s"] = json,
    ["lockfile_key, s"] = data, ["reference.parse, s"] = url, ["reference.join, s, s"] = url, ["reference.absolute, s"] = data,
    ["closest, s, { [s] = true }"] = url, ["option_fault, 'request', { [s] = s }"] = data,
    ["policy.default.allow, s, { manifest_reference = s, origin = s, purpose = 'package' }"] = url,
  } do
    it(call, function()
      local folder = helper.temporary_folder()
      local file = helper.write(folder .. "/policy.lua", ("local s = %s while true do pcall(theaterref.%s) end"):format(text, call))
      local started = os.clock()
      local resolver, err = theaterref.resolver { policy = file }
      assert.is_true(os.clock() - started < 10 * helper.slowness)
      assert.same({ nil, "policy" }, { resolver, err.kind })
      assert.matches("the script ran", err.message)
      helper.remove(folder)
    end)
  end
end)

-- A table with each power of two up to 2^50, of which Lua says that it is so long.
local powers = "local t = { " .. ("[1 << 0] = 1, "):rep(51):gsub("0", (function()
  local i = -1
  return function() i = i + 1 return i end
end)()) .. "} "

-- Scripts that try for more time or memory than they may have.
local greedy = {
  -- tables
  { "an insertion below a border of 2^50", powers .. "table.insert(t, 1, 1)" },
  { "a removal below a border of 2^50", powers .. "table.remove(t, 1)" },
  { "an insertion into a table that claims a length",
    "table.insert(setmetatable({}, { __len = function() return 1 << 60 end }), 1, 1)" },
  { "a removal from a table that claims a length",
    "table.remove(setmetatable({}, { __len = function() return 1 << 60 end }), 1)" },
  { "a length that grows between two looks",
    "local n = 0 table.insert(setmetatable({}, { __len = function() n = n + (1 << 60) return n end }), 1, 1)" },
  { "a concatenation of a table that claims a length", [[return table.concat(setmetatable({}, {
    __len = function() return 1 << 60 end, __index = function() return "" end }))]] },
  { "a concatenation without metamethods in Lua",
    "local t = setmetatable({}, { __index = math.max }) return table.concat(t, '', 1, 1 << 60)" },
  { "a concatenation of one long string, a million times", [[local s, t = ("x"):rep(4000000), {}
    for i = 1, 1e6 do t[i] = s end return table.concat(t)]] },
  { "a move of 2^60 elements", "table.move({}, 1, 1 << 60, 2)" },
  { "an unpacking of a hundred million", "return table.unpack({}, 1, 1e8)" },
  { "a sort with a comparison in C", [[local t = {} for i = 1, 200000 do t[i] = i end
    while true do table.sort(t, rawequal) end]] },
  { "a sort with a comparison that always agrees",
    "local t = {} for i = 1, 1e5 do t[i] = i end table.sort(t, function() return true end)" },
  { "a sort of long strings with the same beginning", [[local s, t = ("x"):rep(4000000), {}
    for i = 1, 6 do t[i] = s .. i end while true do table.sort(t) end]] },
  { "a sort of a table that claims a length", [[table.sort(setmetatable({}, {
    __len = function() return (1 << 31) - 2 end, __index = function() return 1 end }))]] },
  { "numbers that all meet when a table grows",
    "local t, m = {}, (1 << 18) - 1 for i = 1, (1 << 17) + 1 do t[i * m] = true end" },
  { "numbers that all meet when a table grows while a string is made", [[local t, n, m = {}, 0, (1 << 18) - 1
    local long = ("y"):rep(100) return (("x"):rep(4000):gsub("x", function()
      n = n + 1 if n < 500 then return long end
      for i = 1, 64 do n = n + 1 t[n * m] = true end
    end))]] },
  { "a table whose keys are gone", [[local t = {} for i = 1, 30000 do t["k" .. i] = 1 end
    for k in pairs(t) do t[k] = nil end while true do next(t) end]] },
  { "a key in and a key out where a table grows", [[local t, i = {}, 0 for i = 1, 16384 do t["k" .. i] = 1 end
    while true do i = i + 1 t["k" .. i] = nil t["k" .. i + 16384] = 1 end]] },
  { "garbage in large blocks", "while true do local t = table.pack(table.unpack({}, 1, 200000)) end" },
  -- patterns
  { "a set of 250,000 items", [[return ("a"):rep(10000):find("[" .. ("b"):rep(250000) .. "a]*x")]] },
  { "gmatch with a leading '^'", [[for _ in ("^"):rep(100000):gmatch("^.-.-b") do end]] },
  { "hundreds of slow matches",
    [[local s = ("a"):rep(30000) for i = 1, 1000 do pcall(string.find, s, "a-a-b") end]] },
  { "a pattern that backtracks", [[return ("a"):rep(100000):find((".-"):rep(20) .. "b")]] },
  { "a pattern of many optional items", [[return ("a"):rep(60):find(("a?"):rep(60) .. ("a"):rep(61))]] },
  { "a gsub that backtracks", [[return ("a"):rep(100000):gsub("(.-)*(.-)*b", "")]] },
  { "parentheses that never close", [[return ("("):rep(200000):find("%b()")]] },
  { "references back to a long text", [[return ("a"):rep(200000):find("(.-)%1b")]] },
  { "a frontier with a long set", [[return ("a"):rep(10000):find("%f[" .. ("b"):rep(10000) .. "]")]] },
  { "a plain search with two long texts",
    [[return ("a"):rep(4000000):find(("a"):rep(2000000) .. "b", 1, true)]] },
  { "a gsub with a function in C", [[local s = ("a"):rep(4000000) while true do s:gsub("", math.abs) end]] },
  { "a gsub within a gsub",
    [[local s = ("a"):rep(1000) local function f(c) return (s:gsub(".", f)) end return f()]] },
  { "a gsub that makes a long text longer", [[return ("a"):rep(4000000):gsub("a", "%0%0%0%0%0%0%0%0%0%0")]] },
  { "malformed patterns, caught", [[local s = ("["):rep(100000) while true do pcall(string.find, s, s) end]] },
  -- strings
  { "a number of times that overflows", [[return ("x"):rep(1 << 62)]] },
  { "nothing, 2^62 times, and a long string", [[return (""):rep(1 << 62) .. ("x"):rep(5 << 20)]] },
  { "long strings, compared", [[local a, b = ("x"):rep(4000000) .. "a", ("x"):rep(4000000) .. "b"
    while true do local c = a < b or a == b end]] },
  { "long strings as keys",
    [[local s, t = ("x"):rep(4000000), {} for i = 1, 1e9 do t[s .. i % 7] = i end]] },
  { "a string doubled again and again", [[local s = "x" while true do s = s .. s end]] },
  { "a long string made again and again", [[local s = ("x"):rep(4000000) while true do local t = s .. "y" end]] },
  { "case mapping of long strings", [[local s = ("x"):rep(4000000) while true do local t = s:upper() end]] },
  { "utf8.char of many",
    "local t = {} for i = 1, 200000 do t[i] = 0x7fffffff end while true do utf8.char(table.unpack(t)) end" },
  { "utf8.len of a long string", [[local s = ("x"):rep(4000000) while true do utf8.len(s) end]] },
  { "a format of long arguments", [[local s, t = ("x"):rep(4000000), {} for i = 1, 100000 do t[i] = s end
    return (("%.0s"):rep(100000)):format(table.unpack(t))]] },
  { "a format of what '__tostring' makes", [[local t = {}
    local o = setmetatable({ ("x"):rep(4000000) }, { __tostring = table.unpack })
    for i = 1, 100000 do t[i] = o end return (("%.0s"):rep(100000)):format(table.unpack(t))]] },
  { "a number of four million digits", [[local s = ("1"):rep(4000000) while true do local n = tonumber(s) end]] },
  { "sums of long hexadecimal numbers",
    [[local s = "0x" .. ("f"):rep(4000000) while true do local n = s + 1 end]] },
  { "the least of long strings", [[local s, t = ("x"):rep(4000000), {} for i = 1, 100000 do t[i] = s end
    while true do math.min(table.unpack(t)) end]] },
  { "the least of long strings of zero bytes",
    [[local s = ("\0"):rep(4000000) return math.min(]] .. ("s, "):rep(100) .. "s)" },
  { "the greatest of long strings of zero bytes",
    [[local s = ("\0"):rep(4000000) return math.max(]] .. ("s, "):rep(100) .. "s)" },
  { "string.char of long numerals",
    [[local s = "0x" .. ("0"):rep(4000000) .. "41" return string.char(]] .. ("s, "):rep(240) .. "s)" },
  { "utf8.char of long numerals",
    [[local s = ("0"):rep(4000000) .. "41" return utf8.char(]] .. ("s, "):rep(240) .. "s)" },
  { "string.pack of long numerals",
    [[local s = ("0"):rep(4000000) .. "41" return string.pack(("b"):rep(241), ]] .. ("s, "):rep(240) .. "s)" },
  -- the compiler
  { "a chain of 'or'", "return " .. ("x or "):rep(160000) .. "x" },
  { "a chain of 'and'", "return " .. ("x and "):rep(150000) .. "x" },
  { "parentheses without end", "return " .. ("("):rep(500000) },
  { "thousands of jumps to nowhere", ("goto a "):rep(140000) },
  { "a source of 2 MiB", ("-"):rep(2 << 20) },
  -- the collector, and metatables
  { "a weak table with a chain of keys", [[local t, k = setmetatable({}, { __mode = "k" }), {}
    for i = 1, 1e6 do local n = {} t[k] = n k = n end]] },
  { "a weak table by a change of its metatable", [[local m = {} local t, keys = setmetatable({}, m), {}
    m.__mode = "k" for i = 1, 30000 do keys[i] = {} end for i = 30000, 2, -1 do t[keys[i - 1] ] = keys[i] end
    while true do local x = {} end]] },
  { "a finalizer", "setmetatable({}, { __gc = function() while true do end end })" },
  { "a finalizer by a change of its metatable", [[local m = {} m.__gc = nil for i = 1, 100 do setmetatable({}, m) end
    m.__gc = function() while true do end end while true do local x = {} end]] },
  { "a chain of '__call'", "local t = print for i = 1, 200000 do t = setmetatable({}, { __call = t }) end t()" },
  { "a table that calls itself", "local m = {} local t = setmetatable({}, m) m.__call = t t()" },
  { "a string that calls strings", [[getmetatable("").__call = "x" ;("a")()]] },
  { "a chain of '__index'", [[local t = {} for i = 1, 1900 do t = setmetatable({}, { __index = t }) end
    while true do local x = t.x end]] },
  { "a loop of '__index' over numbers that meet", [[local t, m = {}, (1 << 14) - 1
    for i = 1, (1 << 13) + 1 do t[i * m] = true end setmetatable(t, { __index = t })
    local function get() return t[m << 14] end while true do pcall(get) end]] },
  { "a loop of '__index' over long keys", [[local s = ("x"):rep(4000000) local a, b = s .. "a", s .. "b"
    local t = { [a] = 1 } setmetatable(t, { __index = t }) local function get() return t[b] end
    while true do pcall(get) end]] },
  { "a loop of '__newindex' over long keys", [[local s = ("x"):rep(4000000) local a, b = s .. "a", s .. "b"
    local t = { [a] = 1 } setmetatable(t, { __newindex = t }) local function set() t[b] = 1 end
    while true do pcall(set) end]] },
  { "a loop of '__index' by way of strings", [[local s = ("x"):rep(4000000) local a, b = s .. "a", s .. "b"
    string[a] = 1 setmetatable(string, { __index = "" }) local function get() return string[b] end
    while true do pcall(get) end]] },
  -- memory, and what runs on
  { "memory that is nearly used up", [[local keep = {} pcall(function() for i = 1, 1e9 do keep[i] = {} end end)
    while true do local x = {} end]] },
  { "memory used up to the last block", [[local keep, n = {}, 0 while n < 31 << 15 do n = n + 1 keep[n] = n end
    while true do pcall(string.rep, "x", 1 << 21) end]] },
  { "errors of memory, caught", [[while true do pcall(string.rep, "x", 1 << 30) end]] },
  { "strings that are too long, caught", [[while true do pcall(string.rep, "x", 1 << 23) end]] },
  { "recursion without end", "local function f() return 1 + f() end return f()" },
  { "tail calls with many arguments",
    "local function f(...) return f(...) end return f(table.unpack({}, 1, 300000))" },
  { "many arguments, counted", [[local function f(...) while true do local n = select("#", ...) end end
    return f(table.unpack({}, 1, 300000))]] },
  { "handlers that run on after the end", [[local s = ("x"):rep(2000000)
    local function f(n) local x <close> = setmetatable({}, { __close = function() local t = s .. "y" end })
      if n > 0 then return 1 + f(n - 1) end while true do end end return f(20000)]] },
  { "handlers in C that run on after the end", [[local big = {} for i = 1, 30000 do big["k" .. i] = 1 end
    for k in pairs(big) do big[k] = nil end setmetatable(big, { __close = next })
    local function f(n) local x <close> = big if n > 0 then return 1 + f(n - 1) end while true do end end
    return f(20000)]] },
  { "handlers that set handlers",
    "local function f() local x <close> = setmetatable({}, { __close = f }) f() end pcall(f) while true do end" },
  -- results
  { "results that share one table", "local e = {} for i = 1, 30 do e = { e, e } end return e" },
  { "half a million empty tables as results", "local e, t = {}, {} for i = 1, 500000 do t[i] = e end return t" },
  { "results that share a table whose keys are gone", [[local e, t = {}, {} for i = 1, 30000 do e["k" .. i] = 1 end
    for k in pairs(e) do e[k] = nil end for i = 1, 400000 do t[i] = e end return t]] },
  { "a result with keys that meet in its copy only, again and again", [[local t, out = {}, {}
    for i = 1, 8192 do t[i * 8191 + 0.5] = true end for i = 1, 8192 do t[i * 8191] = true end
    for i = 1, 8192 do t[i * 8191 + 0.5] = nil end for i = 1, 100 do out["t" .. i] = t end return out]] },
  { "a result with fractions that Lua hashes alike", [[local t, out = {}, {}
    for i = 1, 8192 do t[1 + i * 2.0 ^ -52] = true end for i = 1, 60 do out["t" .. i] = t end return out]] },
  { "a result that holds itself", "local t = {} t.t = t return t" },
}

-- Scripts that do much in one step of the budget, or in few.
local hasty = {
  { "comparisons of long strings of zero bytes", [[local s = ("\0"):rep(4190000) local a, b = s .. "a", s .. "b"
    while true do ]] .. ("if a > b then end "):rep(200) .. "end" },
  { "quoted control characters, to more than 4 MiB", [[local s = ("\1"):rep(800000)
    return (("%q"):rep(16)):format(]] .. ("s, "):rep(15) .. "s)" },
  { "errors of arguments, with libraries full of numbers", [[local f, sort, s, t = string.rep, table.sort, string, table
    s.rep = nil for i = 1, 1048576 do s[i] = 0 end for i = 1, 524288 do t[i] = 0 end
    local e = {} for i = 1, 64 do e[i] = f end while true do sort(e, pcall) end]] },
  { "jumps to one label", ("do " .. ("goto a "):rep(32000) .. "::a:: end "):rep(4) },
  { "jumps out of one loop", ("while true do " .. ("break "):rep(32000) .. "end "):rep(4) },
}

describe("a hasty script ends soon after its time:", function()
  local SECONDS, LATE = 0.2, 0.5 * helper.slowness

  for _, case in ipairs(hasty) do
    it(case[1], function()
      local started = os.clock()
      local box <close> = core.sandbox { seconds = SECONDS }
      local result, err = box:run(case[2], "@script", nil, true)
      assert.is_true(os.clock() - started < SECONDS + LATE)
      assert.same({ nil, "policy" }, { result, err.kind })
    end)
  end
end)

describe("a greedy script ends in time, as an error of kind 'policy':", function()
  -- A script may be late by a fifth of the two seconds that it has by default. How late it is
  -- does not depend on the limit, so a shorter one will do.
  local SECONDS, LATE, MEMORY = 0.4, 0.5 * helper.slowness, 32 << 20

  -- Kilobytes of this process.
  local function resident()
    local file <close> = assert(io.open "/proc/self/status")
    return tonumber(file:read("a"):match "VmRSS:%s*(%d+)")
  end

  local function run(source)
    local box <close> = core.sandbox { seconds = SECONDS, memory = MEMORY }
    return box:run(source, "@script", { x = false }, true)
  end

  for _, case in ipairs(greedy) do
    it(case[1], function()
      local started = os.clock() -- of this process alone, however busy the machine is
      local result, err = run(case[2])
      assert.is_true(os.clock() - started < SECONDS + LATE)
      assert.is_nil(result)
      assert.equal("policy", err.kind)
      assert.is_true(#err.message < 300)
    end)
  end

  it("all of them, and the memory is the host's again", function()
    if os.getenv "BUILD" ~= "build" then return pending "sanitizers keep memory" end
    local function run_those()
      for _, case in ipairs(greedy) do
        if case[1]:find "^mem" or case[1]:find "result" or case[1]:find "^recursion" then run(case[2]) end
      end
      collectgarbage()
      collectgarbage()
    end
    run_those() -- the allocator keeps some of what the first ones needed
    local before = resident()
    for _ = 1, 3 do run_those() end
    assert.is_true(resident() - before < 32 << 10) -- one script's memory
  end)

  it("a Lua manifest, whose sandbox does not outlive it", function()
    local parse = require("theaterref.manifest.manifest").parse
    local plain = os.getenv "BUILD" == "build" -- sanitizers are slow, and keep memory
    local source = ("big = {} for i = 1, %d do big[i] = {} end return { name = 'x' }"):format(plain and 400000 or 20000)
    collectgarbage()
    collectgarbage "stop" -- it would close sandboxes
    local before = resident()
    for _ = 1, 8 do assert(parse(source, "lua")) end
    local grown = resident() - before
    collectgarbage "restart"
    if plain then assert.is_true(grown < 64 << 10) end
  end)
end)
