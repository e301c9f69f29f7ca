local helper = require "helper"

-- Runs Lua code in a process of its own; `before` are shell words in front of the command.
local function program(code, before)
  return ("%s timeout 60 %s -e %s"):format(before, helper.lua, helper.quote(code))
end

describe("looking names up", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  -- Runs Lua code under the name service of spec/support/names.c.
  local function with_names(code, environment)
    return helper.run(program(code, helper.preload "names" .. " " .. (environment or "")))
  end

  local preloaded = helper.can_preload and it or pending

  preloaded("holds up no other fetch, not even the end of the process", function()
    local out, err, status = with_names(([[
      local core, theaterref = require "theaterref.core", require "theaterref"
      local started = core.now()
      local resolver = theaterref.resolver { timeout = 0.3, log = false }
      local futures = {}
      for i = 1, 5 do futures[i] = resolver:start("http://slow" .. i .. ".spec/") end
      assert(theaterref.resolve_reference(%q))
      for i = 1, 5 do assert(select(2, futures[i]:wait()).kind == "timeout") end
      assert(theaterref.resolve_reference(%q))
      resolver:start "http://slow.spec/":cancel()
      theaterref.resolve_reference(%q)
      print(core.now() - started < 5)]]):format(server.http .. "/fine", server.http .. "/fine", server.http .. "/fine"))
    assert.same({ "true\n", 0 }, { out, status }, err)
  end)

  preloaded("ends with the process", function()
    local started = os.time()
    local _, err, status = with_names [[require("theaterref").resolver({ log = false }):start "http://slow.spec/":wait(0.1)]]
    assert.equal(0, status, err)
    assert.is_true(os.time() - started < 6)
  end)

  preloaded("asks 32 at a time, and again for what may pass", function()
    local out, err = with_names(([[
      local resolver = require("theaterref").resolver { timeout = 1, log = false }
      local futures = {}
      for i = 1, 50 do futures[i] = resolver:start("http://slow" .. i .. ".spec/") end
      futures[1]:wait(0.5)
      io.stderr:write "so far\n"
      for i = 1, 50 do futures[i]:wait() end
      print(require("theaterref").resolve_reference("http://again.spec:%s/fine"))]]):format(server.port), "SHOW_LOOKUPS=1")
    assert.matches("32 at once.*so far", err)
    assert.is_nil(err:find "33 at once.*so far")
    assert.matches("fine", out)
  end)

  preloaded("refuses a name that leads to a link-local address", function()
    local out = with_names [[print(select(2, require("theaterref").resolve_reference("http://meta.spec/", { log = false })))]]
    assert.matches("link%-local address 169.254.169.254", out)
  end)

  preloaded("goes on when nobody wants 32 slow ones any more", function()
    local out, err = with_names(([[
      local core = require "theaterref.core"
      local resolver = require("theaterref").resolver { timeout = 0.3, log = false }
      local futures, started = {}, core.now()
      for i = 1, 40 do futures[i] = resolver:start("http://slow" .. i .. ".spec/") end
      for i = 1, 40 do futures[i]:wait() end
      print(require("theaterref").resolve_reference("http://good.spec:%s/fine"), core.now() - started < 5)]]):format(server.port))
    assert.equal("fine\ttrue\n", out, err)
  end)

  for what, code in pairs {
    ["a host of digits that is no address"] = [[resolver:start "http://1.2.3.4.5/"]],
    ["such a host that a redirect leads to"] = [[resolver:start(server .. "/to?http://1.2.3.4.5/")]],
    ["a proxy whose name is percent-encoded"] = [[theaterref.resolver({ timeout = 0.3, log = false,
      proxy = "http://slow%2Espec:1" }):start "http://good.spec/"]],
  } do
    preloaded("holds up no other fetch for " .. what, function()
      local out, err, status = with_names(([[
        local core, theaterref = require "theaterref.core", require "theaterref"
        local server, started = %q, core.now()
        local resolver = theaterref.resolver { timeout = 0.3, log = false }
        local future = %s
        print(select(2, future:wait()).kind)
        assert(theaterref.resolve_reference(server .. "/fine"))
        print(core.now() - started < 5)]]):format(server.http, code))
      assert.same({ "timeout\ntrue\n", 0 }, { out, status }, err)
    end)
  end

  preloaded("leaves the second address time if the first is silent, also under a short connect timeout", function()
    local out, err = with_names [[
      local uv = require "luv"
      local theaterref = require "theaterref"
      -- A listener whose queue is full answers no more; libuv takes one connection off it, but not two.
      local full, server = uv.new_tcp(), uv.new_tcp()
      assert(full:bind("127.0.0.1", 0))
      full:listen(1, function() end)
      local port = full:getsockname().port
      for _ = 1, 2 do
        for _ = 1, 8 do uv.new_tcp():connect("127.0.0.1", port, function() end) end
        uv.run "nowait"
      end
      assert(server:bind("127.0.0.2", port))
      server:listen(8, function()
        local client = uv.new_tcp()
        server:accept(client)
        client:read_start(function() end)
        client:write "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
      end)
      for _, limit in ipairs { 0.5, 0.7, 1, 3 } do
        local future = theaterref.resolver { connect_timeout = limit, retries = 0, log = false }:start("http://two.spec:" .. port)
        repeat uv.run "nowait" until future:done()
        print(future:wait())
      end]]
    assert.equal(("ok\n"):rep(4), out, err)
  end)

  preloaded("counts for the connect timeout", function()
    local relay = helper.relay(server.port, "silent", 1)
    local out, err = with_names(([[
      local core = require "theaterref.core"
      local started = core.now()
      print(select(2, require("theaterref").resolve_reference("https://late.spec:%s/",
        { connect_timeout = 1.5, retries = 0, log = false })).kind)
      print(core.now() - started < 2.3)]]):format(relay.port))
    relay:stop()
    assert.equal("timeout\ntrue\n", out, err)
  end)
end)
