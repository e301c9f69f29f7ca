local helper = require "helper"
local theaterref = require "theaterref"
local core = require "theaterref.core"

describe("a hostile server", function()
  local server, folder
  setup(function()
    server, folder = helper.misbehaving(), helper.temporary_folder()
    helper.certificates(folder)
  end)
  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  local function text(path, options)
    local all = { timeout = 10, retries = 0, log = false }
    for name, value in pairs(options or {}) do all[name] = value end
    local blob, err = theaterref.resolve_reference(path:find "^http" and path or server.http .. path, all)
    return blob and tostring(blob), err
  end

  -- Runs Lua code, which may freeze, in a process of its own.
  local function run(code)
    return helper.run(("timeout 30 %s -e %s"):format(helper.lua, helper.quote(code)))
  end

  -- A TLS server of openssl's: { url, port, input, stop }. It sends what is written to 'input', one
  -- record for each flush, by way of the shell command 'source' if there is one.
  local function tls_server(options, source)
    local function listens(port) return helper.run(("ss -Htln sport = :%d"):format(port)) ~= "" end
    local pid_file, port, input = folder .. "/pid"
    repeat
      port = math.random(10000, 59000)
      os.remove(pid_file)
      input = io.popen(("cd %s && %s sh -c 'echo $$ >pid && exec openssl s_server -quiet -tls1_2 -accept 127.0.0.1:%d %s >/dev/null 2>&1'")
        :format(folder, source and source .. " |" or "", port, options), "w")
      helper.eventually(function() return helper.exists(pid_file) and helper.read(pid_file):find "\n" end)
      local pid = tonumber(helper.read(pid_file))
      helper.eventually(function() return listens(port) or helper.run("kill -0 " .. pid .. " && echo yes") == "" end)
    until listens(port)
    return { url = "https://localhost:" .. port, port = port, input = input, stop = function()
      helper.run("kill $(cat " .. pid_file .. ")")
      input:close()
    end }
  end

  -- A frame of HTTP/2 (RFC 9113, 4.1), and the beginning of a response with status 200.
  local function frame(kind, flags, stream, payload) return string.pack(">I3BBI4", #payload, kind, flags, stream) .. payload end
  local function ok(stream, body, times) return frame(1, 4, stream, "\x88") .. frame(0, 0, stream, body):rep(times or 1) end
  local function reset(stream, code) return frame(3, 0, stream, string.pack(">I4", code)) end
  local settings, protocol_error, http_1_1_required = frame(4, 0, 0, ""), 1, 13

  describe("that keeps sending data that is not an HTTP response", function()
    local function hold_up(bad)
      return run(([[
        local core, theaterref = require "theaterref.core", require "theaterref"
        local started = core.now()
        local bad = theaterref.resolver({ retries = 0, log = false, timeout = 1%s }):start "%s"
        bad:wait(0.1)
        assert(theaterref.resolve_reference("%s/fine"))
        assert(not bad:wait())
        print(core.now() - started < 8)]]):format(bad.proxy and (", proxy = %q"):format(bad.proxy) or "", bad.url, server.http))
    end

    it("in a TLS handshake holds others up for a second or two", function()
      local relay = helper.relay(server.port, "endless", 100)
      local out, err = hold_up { url = ("https://127.0.0.1:%s/"):format(relay.port) }
      relay:stop()
      assert.equal("true\n", out, err)
    end)

    it("holds others up twice, however many connections it has", function()
      local relay = helper.relay(server.port, "endless", 100)
      local out, err = run(([[
        local core, theaterref, futures = require "theaterref.core", require "theaterref", {}
        local resolver, started = theaterref.resolver { retries = 0, log = false }, core.now()
        for i = 1, 12 do futures[i] = resolver:start("https://127.0.0.1:%s/" .. i) end
        local seconds = {}
        for i = 1, 12 do
          assert(select(2, futures[i]:wait()).message:find "keeps sending data")
          seconds[i] = core.now() - started
        end
        print(seconds[12] < 2 * seconds[2])]]):format(relay.port))
      relay:stop()
      assert.equal("true\n", out, err)
    end)

    it("as a proxy holds others up for a second or two", function()
      local out, err = hold_up { url = "https://endless.invalid/", proxy = server.http }
      assert.equal("true\n", out, err)
    end)
  end)

  it("that keeps sending data that is not an HTTP response fails all that shares its connection", function()
    local first, second = settings .. ok(1, "x"), ok(3, "y") .. reset(3, protocol_error)
    helper.write(folder .. "/junk", frame(0x77, 0, 0, ""):rep(1 << 17)) -- frames of an unknown kind, to be ignored
    local tls = tls_server("-cert server.pem -key server.key -alpn h2",
      ("{ dd bs=1 count=%d status=none; while cat junk; do :; done; }"):format(#first + #second))
    finally(tls.stop)
    local function start(path)
      return theaterref.resolver({ ca_file = folder .. "/ca.pem", timeout = 20, stall_timeout = 5, retries = 0, log = false }):start(tls.url .. path)
    end
    local function send(future, bytes)
      future:wait(0.2) -- as below
      tls.input:write(bytes)
      tls.input:flush()
    end
    local lasting = start("/lasting")
    send(lasting, first)
    helper.eventually(function()
      lasting:wait(0.01)
      return lasting:progress() == 1
    end)
    local failing = start("/failing")
    send(failing, second)
    local _, failure = failing:wait() -- none if all of the body came before the reset
    assert.is_true(failure == nil or failure.kind == "network", tostring(failure))
    -- A server that is slower than we are holds nobody up: its connection is silent to us.
    local _, err = lasting:wait()
    assert.is_truthy(err.message:find "keeps sending data that is not an HTTP response" or err.message:find "stall_timeout",
      err.message)
    assert.is_nil(err.message:find "attempts")
  end)

  it("gets no handshake that takes seconds: no finite-field Diffie-Hellman", function()
    helper.run_ok(("cd %s && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout rsa.key -out rsa.pem 2>&1")
      :format(folder))
    local config = "-cert rsa.pem -key rsa.key -cipher "
    local kinds = {}
    for i, cipher in ipairs { "DHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256" } do
      local tls = tls_server(config .. cipher)
      tls.input:write "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
      tls.input:flush()
      local _, err = text(tls.url .. "/", { ca_file = folder .. "/rsa.pem" })
      kinds[i] = err and err.kind or "fine"
      tls.stop()
    end
    assert.is_truthy(kinds[1] == "tls" or kinds[1] == "network", kinds[1]) -- as the server takes the refusal
    assert.equal("fine", kinds[2])
  end)

  it("cannot leave a second response in a TLS record", function()
    local tls = tls_server "-cert server.pem -key server.key"
    local function send(bytes)
      tls.input:write(bytes)
      tls.input:flush()
    end
    local resolver = theaterref.resolver { ca_file = folder .. "/ca.pem", timeout = 10, retries = 0, log = false }
    local first = resolver:start(tls.url .. "/first")
    first:wait(0.2) -- it is connected, or s_server would read its input for nobody
    send "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234"
    helper.eventually(function()
      first:wait(0.01)
      return first:progress() == 5
    end)
    send "56789HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSMUGGLED"
    assert.equal("0123456789", tostring(first:wait()))
    local second = resolver:start(tls.url .. "/second")
    second:wait(0.2)
    send "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nGENUINE"
    local blob, err = second:wait()
    tls.stop()
    assert.equal("GENUINE", blob and tostring(blob), tostring(err))
  end)

  it("that sends half a body, and then wants HTTP/1.1, gets no bytes of that half accepted", function()
    local nginx = helper.nginx()
    finally(function() nginx:stop() end)
    nginx:put("whole", "whole")
    for _, digest in ipairs { "", "#sha256=" .. core.digest "whole" } do
      local tls = tls_server(("-cert %s/server.pem -key %s/server.key -alpn h2"):format(nginx.folder, nginx.folder))
      local relay = helper.relay(nginx.https_port, tls.port, 1)
      local future = theaterref.resolver({ ca_file = nginx.ca, timeout = 5, retries = 0, log = false })
        :start(("https://localhost:%s/whole%s"):format(relay.port, digest))
      future:wait(0.2) -- as above
      tls.input:write(settings, ok(1, ("x"):rep(16384), 6), reset(1, http_1_1_required))
      tls.input:flush()
      local blob, err = future:wait()
      relay:stop()
      tls.stop()
      assert.equal("whole", blob and tostring(blob), tostring(err))
    end
  end)

  it("cannot take every place with bodies that do not end", function()
    local out, err = run(([[
      local theaterref = require "theaterref"
      local resolver, futures = theaterref.resolver { log = false }, {}
      local ports = { %s }
      for i = 1, 4 do
        for j = 1, 32 do futures[#futures + 1] = resolver:start(("http://127.0.0.1:%%d/never?%%d"):format(ports[i], j)) end
      end
      futures[1]:wait(0.2)
      print(theaterref.resolve_reference(("http://127.0.0.1:%%d/fine"):format(ports[5]), { timeout = 5 }))]])
      :format(table.concat(server.ports, ", ")))
    assert.equal("fine\n", out, err)
  end)

  it("does not get half a gzip accepted by a length beside its chunks", function()
    assert.equal("half a file", (text "/half-gzip-of-nothing"))
  end)

  it("does not get a header or a trailer taken for a status line", function()
    assert.equal("fine", (text "/status-as-header"))
    assert.equal("fine", (text "/status-as-trailer"))
  end)

  it("is told from one that sends a part that nobody asked for, or nothing", function()
    local _, err = text "/large-part"
    assert.equal(206, err.status)
    assert.matches("206 Partial Content", err.message)
    assert.equal("", (text("/nothing-with-length", { require_length = true })))
  end)

  it("gets no secrets or control characters of its redirects into a message", function()
    for to, shown in pairs {
      ["s3:bucket/key?X-Amz-Signature=SECRET"] = "to s3:…", ["https:/user:SECRET@host/x?q=SECRET"] = "to https:…",
      ["x:SECRET@host/y"] = "to x:…", ["mailto:SECRET@host"] = "to mailto:…", ["http://[::1/SECRET"] = "to http:…",
      ["file:///etc/%C2%9B31mx"] = "to file:…", ["file:///%FF%FE"] = "to file:…", ["%C2%9B:SECRET"] = "404",
      ["http://169.254.1.1/%E2%80%AEx%FF"] = "169.254.1.1/",
    } do
      local _, err = text("/to-secret?" .. to)
      assert.equal(shown == "404" and "http_status" or "denied", err.kind, to)
      assert.is_truthy(err.message:find(shown, 1, true), err.message)
      assert.is_nil(err.message:find "SECRET")
      assert.is_nil(err.message:find "\xC2\x9B" or err.message:find "\u{202E}")
      assert.is_truthy(utf8.len(err.message), to)
    end
  end)

  it("leaves the info of a response whose body was refused", function()
    local future = core.fetch(server.http .. "/no-length", core.request_options { require_length = true })
    assert.is_nil((future:wait(10)))
    assert.equal(200, future:info().status)
  end)
end)

describe("a password", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  it("of a proxy is in no message, however long it is", function()
    for _, proxy in ipairs { "http://user:%s@127.0.0.1:99999", "http://user:%s@[::1", "http://user:%s@127.0.0.1:1", "x%s://user:%s@h",
      "http://user:%s/@h:1", "user:%s@b\xC3\xBCcher:1" } do
      local _, err = theaterref.resolve_reference(server.http .. "/fine",
        { proxy = proxy:gsub("%%s", ("hush"):rep(100)), retries = 0, log = false })
      assert.is_nil(tostring(err):find "hush", proxy)
      assert.is_true(err.kind == "policy" or err.kind == "network", proxy)
    end
  end)

  it("of a proxy is sent decoded, to the proxy", function()
    local blob = theaterref.resolve_reference("http://example.invalid/echo",
      { proxy = "http://us%40er:pa%3Ass@127.0.0.1:" .. server.port, log = false })
    assert.matches("Proxy%-Authorization: Basic dXNAZXI6cGE6c3M=", tostring(blob))
  end)

  it("of a URL is decoded where there are two hex digits, and has no zero byte", function()
    local url = server.http:gsub("//", "//u:a%%+1b%%4@") .. "/echo"
    assert.matches("Authorization: Basic dTphJSsxYiU0", tostring(theaterref.resolve_reference(url, { log = false })))
    url = server.http:gsub("//", "//u:a%%00b@") .. "/echo"
    assert.equal("invalid_reference", select(2, theaterref.resolve_reference(url, { log = false })).kind)
  end)
end)
