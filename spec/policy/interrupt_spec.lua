-- Ctrl-C in a Lua program: the error that the interpreter's hook raises is the program's, wherever it falls.
local helper = require "spec.support.helper"

describe("Ctrl-C in a Lua program", function()
  local folder, relay

  setup(function()
    folder = helper.temporary_folder()
    relay = helper.relay(1, "silent", 1000)
  end)
  teardown(function()
    relay:stop()
    helper.remove(folder)
  end)

  -- Runs a program that touches 'waits' before it waits, and sends it one SIGINT after that.
  local function interrupted(body)
    local script = helper.write(folder .. "/program.lua", ([[
      local theaterref, core = require "theaterref", require "theaterref.core"
      local url = "http://127.0.0.1:%s/x"
      local options = { log = false, retries = 0, cache = { name = "interrupted" }, stall_timeout = 100 }
      local fifo = %q
      local function ready() assert(io.open(%q, "w")):close() end
      %s]]):format(relay.port, folder .. "/fifo", folder .. "/waits", body))
    os.remove(folder .. "/waits")
    os.remove(folder .. "/fifo")
    return helper.run(([[%s %s & pid=$!; until [ -e %s/waits ]; do kill -0 $pid || break; sleep 0.01; done; sleep 0.3
      kill -INT $pid; wait $pid]]):format(helper.lua, script, folder))
  end

  local calls = {
    resolve = "theaterref.resolver(options):resolve(url)",
    resolve_cached = "theaterref.resolver(options):resolve_cached(url)",
    resolve_all = "theaterref.resolver(options):resolve_all { url, url .. '/y' }",
    plan = "theaterref.resolver(options):plan(url)",
    render = "theaterref.resolver(options):render(url)",
    resolve_reference = "theaterref.resolve_reference(url, { retries = 0 })",
    ["a future's wait"] = "theaterref.resolver(options):start(url):wait()",
    ["a coroutine"] = "coroutine.wrap(function() theaterref.resolver(options):resolve(url) end)()",
    ["a coroutine that reads"] = "coroutine.wrap(function() io.popen('mkfifo ' .. fifo):close() core.read_file(fifo) end)()",
    ["a rule"] = "options.policy = { allow = function() while true do end end } theaterref.resolver(options):resolve(url)",
    ["on_event"] = "options.on_event = function() while true do end end theaterref.resolver(options):plan 'data:,x'",
    ["a log's sink"] = "options.log = { level = 'debug', sink = function() while true do end end }"
      .. " theaterref.resolver(options):plan 'data:,x'",
    ["a scheme"] = "options.policy = { schemes = { own = function() while true do end end } }"
      .. " theaterref.resolver(options):resolve 'own://x'",
    ["a helper"] = "options.helpers = { own = function() while true do end end }"
      .. " theaterref.resolver(options):plan [[data:,name = \"{{own 'x'}}\"%0Apackage = \"data:,x\"]]",
    ["work in a coroutine"] = "options.policy = { allow = function() local t = os.clock()"
      .. " repeat until os.clock() > t + 1 return true end } local f = theaterref.resolver(options):start(url) f:wait()",
  }

  for name, call in pairs(calls) do
    it("ends it: " .. name, function()
      if helper.build:find "/" then return pending "the interpreter of sanitized builds does not answer interrupts" end
      local out, err, status = interrupted("ready() " .. call .. " print 'went on'")
      assert.same({ "", 1 }, { out, status }, err)
      assert.matches("interrupted!", err, 1, true)
    end)
  end

  it("can be caught, and leaves no claim, no time limit and nothing at work behind", function()
    if helper.build:find "/" then return pending "the interpreter of sanitized builds does not answer interrupts" end
    for _, call in ipairs { "resolve_cached(url)", "plan(url)", "resolve_all { url, 'http://127.0.0.1:1/' }" } do
      local out, err = interrupted(([[
        local resolver = theaterref.resolver(options)
        ready()
        local ok, raised = pcall(function() return resolver:%s end)
        print(ok, (tostring(raised):match "interrupted!"))
        print((resolver.cache:claim "nobody's"))
        local how, lead
        for _ = 1, 200 do -- the engine lets a cancelled load go a moment later
          how, lead = resolver.cache:claim(url)
          if how == "lead" then break end
          lead:cancel() -- or this would wait for it, too
          core.future():wait(0.05)
        end
        print(how)
        print((resolver:resolve "data:,x"))
        ]]):format(call))
      assert.equal("false\tinterrupted!\nlead\nlead\nx\n", out, call .. err)
    end
  end)

  it("is not what a policy script makes the host say", function()
    local core = require "theaterref.core"
    local box = core.sandbox()
    box:expose { say = function(text) error(text, 0) end }
    assert.equal("interrupted!", (select(2, box:run("return pcall(say, 'interrupted!')", "=script"))))
    local theaterref = require "theaterref"
    local script = helper.write(folder .. "/policy.lua", "return { allow = function() error('interrupted!', 0) end }")
    local _, err = theaterref.resolver({ policy = script }):resolve("data:,x")
    assert.equal("policy", err.kind)
  end)

  it("goes through a policy script that calls a function of the host's", function()
    if helper.build:find "/" then return pending "the interpreter of sanitized builds does not answer interrupts" end
    local out, err, status = interrupted([[
      local box = core.sandbox()
      box:expose { wait = function() ready() core.future():wait(20) end }
      box:run("return pcall(wait)", "=script")
      print "went on"]])
    assert.same({ "", 1 }, { out, status }, err)
    assert.matches("interrupted!", err, 1, true)
  end)

  it("is no text that a manifest brings", function()
    helper.write(folder .. "/m.toml", 'name = "m"\npackage = "my://a/interrupted!"\n')
    local out, err, status = helper.run(("%s -e %s"):format(helper.lua, helper.quote(([[
      local theaterref = require "theaterref"
      local r = theaterref.resolver { log = false, policy = { schemes = { my = function(ref) error("no such thing: " .. ref) end } } }
      print(select(2, r:plan(%q)).kind, select(2, r:resolve "my://x:1: interrupted!").kind, #r:resolve_all { "my://interrupted!" })]])
      :format(folder .. "/m.toml"))))
    assert.same({ "policy\tpolicy\t1\n", 0 }, { out, status }, err)
  end)
end)
