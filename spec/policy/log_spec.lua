local core = require "theaterref.core"
local errors = require "theaterref.error"
local helper = require "helper"
local theaterref = require "theaterref"

describe("a log", function()
  local folder, lines

  setup(function()
    folder = helper.temporary_folder()
    helper.write(folder .. "/here", "bytes")
    helper.write(folder .. "/actor.wasm", "\0asm")
    helper.write(folder .. "/m.toml", 'name = "a"\npackage = "actor.wasm"\ninitial_state = \'{"password":"hunter2"}\'\n')
  end)

  teardown(function() helper.remove(folder) end)

  before_each(function() lines = {} end)

  -- A resolver that writes to 'lines'.
  local function resolver(level, policy)
    return assert(theaterref.resolver { policy = policy, cache = theaterref.resource_cache(), retries = 1, log = { level = level,
      sink = function(how, line) lines[#lines + 1] = how .. ": " .. line end } })
  end

  it("has at 'info' what a policy script prints, on one line", function()
    local script = helper.write(folder .. "/printing.lua", [[
      return { allow = function(ref, ctx) print("asked", 1, nil, "x\ny", ("z"):rep(5000)) return true end }]])
    assert(resolver("warn", script):resolve(folder .. "/here"))
    assert.same({}, lines)
    assert(resolver("info", script):resolve(folder .. "/here"))
    assert.matches("^info: asked 1 nil x\\10y z+…$", lines[1])
    assert.is_true(#lines[1] < 5000)
  end)

  it("warns of a candidate that failed before another one worked", function()
    local r = resolver("warn", { rewrite = function(ref) return { folder .. "/missing", ref } end })
    assert(r:resolve(folder .. "/here"))
    assert.equal(1, #lines)
    assert.matches("^warn: trying " .. folder .. "/here instead: .*missing: No such file", lines[1])
  end)

  it("tells of refusals and failures at 'info', as who asked knows of them", function()
    local policy = { allow = function(ref) return not ref:find "actor", "not today" end }
    assert.is_nil((resolver("warn", policy):plan(folder .. "/m.toml")))
    assert.same({}, lines)
    assert.is_nil((resolver("info", policy):plan(folder .. "/m.toml")))
    assert.same({ ("info: %s/actor.wasm: refused as package: not today"):format(folder),
      ("info: %s/m.toml: package failed: Not allowed: %s/actor.wasm: not today")
        :format(folder, folder) }, lines)
  end)

  it("cuts a reason that fills a screen, between two characters", function()
    for _, start in ipairs { "", "x", "xx" } do
      lines = {}
      local _, err = resolver("info", { allow = function() return false, start .. ("€"):rep(100000) end }):resolve(folder .. "/m.toml")
      local reason = err.message:match ": (x*€.*…)$"
      assert(utf8.len(reason), "it is cut within a character")
      assert(#reason > 4000 and #reason < 4100, #reason)
      assert.same({ ("info: %s/m.toml: refused as direct: %s"):format(folder, reason) }, lines)
    end
  end)

  it("tells of everything at 'debug', and of no state", function()
    assert(resolver("debug", { cacheable = function() return true end }):plan(folder .. "/m.toml"))
    local all = table.concat(lines, "\n")
    assert.matches("debug: " .. folder .. "/m.toml: %d+ bytes\n", all)
    assert.matches("debug: " .. folder .. "/actor.wasm: cache miss", all)
    assert.matches("debug: " .. folder .. "/m.toml: package took %d+%.%d+ ms, 4 bytes", all)
    assert.not_matches("hunter2", all)
  end)

  it("is an error when a policy script that changed is broken", function()
    local script = helper.write(folder .. "/policy.lua", "return {}")
    local r = resolver("error", script)
    helper.write(script, "return { nonsense = 1 }")
    assert(r:resolve(folder .. "/here"))
    assert.equal(1, #lines)
    assert.matches("^error: " .. script .. ": the old rules stay in force: .*nonsense", lines[1])
  end)

  it("shows no user, password or query of a URL, and is always one line", function()
    local secret = "http://me:hunter2@127.0.0.1:1/x?token=hunter2"
    local r = resolver("debug", { rewrite = function(ref) return ref == "x" and { secret, "also\nmissing" } or ref end,
      allow = function(ref) return not ref:find "refused", "see " .. secret end })
    r:resolve "x"
    r:resolve "refused"
    r:resolve(secret)
    local all = table.concat(lines, " ")
    assert.matches("http://127.0.0.1:1/x%?…", all)
    assert.matches("also\\10missing", all)
    for _, forbidden in ipairs { "hunter2", "me:", "\n" } do assert.is_nil(all:find(forbidden, 1, true)) end
  end)

  it("goes on when its sink fails", function()
    local r = theaterref.resolver { log = { level = "debug", sink = function() error "full" end } }
    assert(r:resolve(folder .. "/here"))
  end)

  it("passes over an event that it does not know, and shows bytes that are not UTF-8, and what turns text around, as numbers", function()
    local log = require("theaterref.log").open { level = "debug", sink = function(_, line) lines[#lines + 1] = line end }
    log:emit { type = "nonsense" }
    assert.same({}, lines)
    log:emit { type = "policy_reloaded", reference = "a\u{9B}b\xFFc\u{FC}" }
    assert.same({ "a\\155b\\255c\u{FC}: the changed rules are in force" }, lines)
    for _, code in ipairs { 0x61C, 0x200E, 0x200F, 0x202A, 0x202E, 0x2066, 0x2069 } do
      assert.equal(("\\u{%X}x"):format(code), errors.printable(utf8.char(code) .. "x"))
      local _, err = core.read_file(folder .. "/" .. utf8.char(code) .. "x", 1)
      assert.is_nil(err.message:find(utf8.char(code), 1, true))
      assert.matches("/_+x", err.message)
    end
    for _, code in ipairs { 0x61B, 0x200D, 0x2029, 0x202F, 0x2065, 0x206A } do
      assert.equal(utf8.char(code), errors.printable(utf8.char(code)))
    end
  end)

  it("refuses what is no level or option", function()
    for given, expected in pairs {
      loud = "there is no log level 'loud' (debug, info, warn, error, off)",
      [{ levle = "warn" }] = "there is no log option 'levle' (did you mean 'level'?)",
      [7] = "the resolver option 'log' must be a level, a table, or false, not 7",
    } do
      local ok, why = pcall(function() theaterref.resolver { log = given } end)
      assert.is_false(ok)
      local blamed, text = why:match "^(%S+):%d+: (.*)"
      assert.same({ "spec/policy/log_spec.lua", expected }, { blamed, text })
    end
  end)

  -- The standard error of a program with the default log.
  local function stderr_of(environment, options)
    local code = ([[local r = require("theaterref").resolver(%s)
      r:resolve_all { %q }]]):format(options, folder .. "/missing")
    local _, err = helper.run(("cd %s && %s %s -e %s"):format(folder, environment, helper.lua, helper.quote(code)))
    return err
  end

  it("goes to stderr at 'warn' unless the environment or the host says otherwise", function()
    local falling_back = '{ policy = { rewrite = function(ref) return { "missing", ref } end } }'
    assert.matches("^theaterref: warn: trying .*/missing instead: ", stderr_of("THEATERREF_LOG=", falling_back))
    assert.matches("^theaterref: warn: THEATERREF_LOG is 'loud', which is no level", stderr_of("THEATERREF_LOG=loud", "{}"))
    assert.equal("", stderr_of("THEATERREF_LOG=error", falling_back))
    assert.equal("", stderr_of("THEATERREF_LOG=debug", "{ log = false }"))
    assert.equal("", stderr_of("unset THEATERREF_LOG;", "{}"))
  end)
end)

describe("a host's function for events", function()
  it("is told of what was resolved, of each link of a chain", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/here", "bytes")
      local events = {}
      local r = theaterref.resolver { on_event = function(e) events[#events + 1] = e end,
        policy = { schemes = { made = function() return { reference = folder .. "/here" } end } } }
      assert(r:resolve "made://up")
      assert.same({ { type = "resolved", reference = "made://up", purpose = "direct", bytes = 5 },
        { type = "resolved", reference = folder .. "/here", purpose = "direct", bytes = 5 } }, events)
    end)
  end)
end)
