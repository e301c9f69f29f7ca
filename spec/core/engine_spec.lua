local helper = require "helper"
local theaterref = require "theaterref"
local core = require "theaterref.core"

-- Runs Lua code in a process of its own; `before` and `after` are shell words around the command.
local function program(code, before, after)
  return ("%s timeout 60 %s -e %s %s"):format(before or "", helper.lua, helper.quote(code), after or "")
end

-- The result of a fetch whose process is stopped for a second while it runs; another command runs meanwhile.
local function fetch_frozen(url, options, during)
  return helper.run_ok(([[
    out=$(mktemp); %s &
    until grep -q begun $out; do sleep 0.01; done; kill -STOP $!; %s; sleep 1; kill -CONT $!
    wait $!; tail -n +2 $out; rm $out]]):format(program(([[
      local theaterref = require "theaterref"
      local future = theaterref.resolver({ retries = 0, log = false, %s }):start %q
      future:wait(0.1)
      print "begun"
      io.stdout:flush()
      print(future:wait())]]):format(options, url), "exec", ">$out"):gsub("timeout 60 ", ""), during))
end

describe("the fetch engine", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  local thousand = ("0123456789"):rep(100)

  local function resolve(path, options)
    local all = { timeout = 10, stall_timeout = 5, retries = 2, log = false }
    for name, value in pairs(options or {}) do all[name] = value end
    return theaterref.resolve_reference(path:find "^http" and path or server.http .. path, all)
  end

  local function text(path, options)
    local blob, err = resolve(path, options)
    return blob and tostring(blob), err
  end

  local function asked(path) return tonumber((text("/count" .. path))) end
  local function request_of(path) return (text("/last" .. path)) end

  describe("resuming a body", function()
    for path, why in pairs {
      ["/range-in-parts"] = "asks for the rest until there is none", ["/range-without-validator"] = "keeps the validators it has",
      ["/range-of-another"] = "starts over when the total is another", ["/range-of-another-etag"] = "starts over when the ETag is another",
      ["/range-as-gzip"] = "starts over when the part is packed", ["/weak-date"] = "starts over when the date proves nothing",
      ["/strong-date"] = "goes by a date that is strong", ["/range-of-another-date"] = "starts over when the date is another",
      ["/range-of-nothing"] = "starts over when there is no content", ["/range-past-its-end"] = "starts over when the part is longer than said",
    } do
      it(why, function() assert.equal(thousand, (text(path))) end)
    end

    it("does not take a part without bytes for the end", function()
      local body, err = text "/range-empty"
      assert.is_nil(body)
      assert.equal("network", err.kind)
    end)

    it("does not take more bytes than the range has", function()
      assert.equal(thousand, (text "/range-too-long"))
    end)

    it("sends a date only if it is strong, and asks for no coding", function()
      text "/weak-date?sent"
      assert.is_nil(request_of("/weak-date?sent"):find "Range")
      text "/strong-date?sent"
      assert.matches("If%-Range: Thu, 01 Jan 2026 00:00:00 GMT", request_of "/strong-date?sent")
      assert.matches("Accept%-Encoding: identity", request_of "/strong-date?sent")
    end)

    it("goes on after a stall in the middle", function()
      assert.equal(thousand, (text("/stalls-once", { stall_timeout = 0.3 })))
      assert.matches("Range: bytes=100%-", request_of "/stalls-once")
    end)
  end)

  describe("asking whether a body has changed", function()
    local function revalidating()
      return theaterref.resolver { cache = theaterref.resource_cache(), revalidate = true, log = false }
    end

    it("sends no validators to another page that a redirect leads to", function()
      local r = revalidating()
      assert.equal("page a", tostring(r:resolve(server.http .. "/switch")))
      assert.equal("page b", tostring(r:resolve(server.http .. "/switch")))
    end)

    it("sends an ETag to the same page under a new signature", function()
      local r = revalidating()
      local first = r:resolve(server.http .. "/signed")
      assert.is_true(first:same(r:resolve(server.http .. "/signed")))
      assert.matches('If%-None%-Match: "same"', request_of "/page-a?X-Amz-Signature=2&v=1")
      assert.is_nil(request_of("/page-a?X-Amz-Signature=1&v=1"):find "If%-None%-Match")
    end)

    it("never takes known bytes that lack the digest", function()
      local future = core.future()
      future:know(core.blob "wrong", { etag = '"v1"' })
      assert(core.fetch(server.http .. "/right", core.request_options {}, future, core.digest "right"))
      assert.equal("right", tostring(future:wait(10)))
    end)

    it("believes no 304 about another version", function()
      local r = revalidating()
      assert.equal("one", tostring(r:resolve(server.http .. "/other-304")))
      local second = r:resolve(server.http .. "/other-304")
      assert.equal("two", tostring(second))
      assert.is_true(second:same(r:resolve(server.http .. "/other-304")))
      assert.equal(4, asked "/other-304")
      assert.equal("now", tostring(r:resolve(server.http .. "/other-date-304")))
      assert.equal("now", tostring(r:resolve(server.http .. "/other-date-304")))
      assert.equal(3, asked "/other-date-304")
    end)

    it("believes a 304 about the same version, though its ETag turned weak", function()
      local r = revalidating()
      local first = r:resolve(server.http .. "/weak-304")
      assert.is_true(first:same(r:resolve(server.http .. "/weak-304")))
    end)

    it("sends no validator that would end its line", function()
      local future = core.future()
      future:know(core.blob "old", { etag = '"a"\r\nX-Injected: 1', last_modified = "x\nX-Injected: 2" })
      assert(core.fetch(server.http .. "/echo", core.request_options {}, future))
      assert.is_nil(tostring(future:wait(10)):find "Injected")
    end)
  end)

  describe("a redirect", function()
    it("is followed however long its body is, and whatever max_bytes says", function()
      assert.equal("fine", (text("/large-redirect", { max_bytes = 10 })))
    end)

    it("is one of five statuses", function()
      for path, status in pairs { ["/moved-304"] = 304, ["/choices"] = 300 } do
        local _, err = text(path)
        assert.equal(status, err.status, path)
      end
    end)

    it("takes the URL's password along on the same origin only", function()
      local url = server.http:gsub("//", "//user:pa%%3Ass@")
      assert.matches("Authorization: Basic dXNlcjpwYTpzcw==", (text(url .. "/to-echo")))
      local other = "http://localhost:" .. server.port .. "/echo"
      assert.is_nil(text(url .. "/to?" .. other):find "Authorization")
    end)

    it("leads to no host that redirect_hosts does not list", function()
      local other = "http://localhost:" .. server.port .. "/fine"
      local _, err = text("/to?" .. other, { redirect_hosts = { "*.example.org" } })
      assert.equal("denied", err.kind)
      assert.matches("redirect_hosts", err.message)
      assert.equal("fine", (text("/to?" .. other, { redirect_hosts = { "LOCALHOST" } })))
      assert.equal("fine", (text("/to?" .. server.http .. "/fine", { redirect_hosts = {} })))
      local back = "http://localhost:" .. server.port .. "/to?" .. server.http .. "/fine"
      assert.equal("fine", (text("/to?" .. back, { redirect_hosts = { "localhost" } })))
      assert.equal("fine", (text("/to?" .. other, { redirect_hosts = "any" })))
    end)
  end)

  it("follows a redirect whose body does not come, or not to its end", function()
    for _, kind in ipairs { "dripping", "silent", "cut", "far" } do
      local started = core.now()
      assert.equal("fine", (text("/" .. kind .. "-redirect", { retries = 0, stall_timeout = 20, timeout = 20 })))
      assert.is_true(core.now() - started < 10)
    end
    local _, err = text("/cut-missing", { retries = 0 })
    assert.equal(404, err.status)
  end)

  it("does not wait for as long as a server may ask", function()
    local _, err = theaterref.resolve_reference(server.http .. "/busy-for-an-hour", { log = false })
    assert.equal(429, err.status)
  end)

  it("gives the status of an error however long its body is", function()
    local _, err = text("/large-missing", { max_bytes = 10 })
    assert.equal(404, err.status)
  end)

  it("never asks a link-local address", function()
    for _, url in ipairs { "http://169.254.169.254/", "http://2852039166/", "http://0xA9FEA9FE/", "http://[fe80::1]/",
      "http://[::ffff:169.254.169.254]/", "http://[fd00:ec2::254]/", server.http .. "/to?http://169.254.169.254/x" } do
      local _, err = text(url, { timeout = 2, proxy = url:find "2852" and server.http or nil })
      assert.equal("denied", err.kind, url)
      assert.matches("link%-local", err.message)
    end
  end)

  it("opens no connection to a private address that it refuses", function()
    local before = tonumber((text "/connections"))
    local _, err = text("/fine", { refuse_private = true })
    assert.equal("denied", err.kind)
    assert.matches("127%.0%.0%.1", err.message)
    assert.equal(before + 1, tonumber((text "/connections")))
  end)

  it("keeps connections to many origins", function()
    local before = tonumber((text "/connections"))
    for _ = 1, 10 do
      for _, port in ipairs(server.ports) do assert.equal("kept", (text(("http://127.0.0.1:%s/keep"):format(port)))) end
    end
    -- one more is that of this question
    assert.is_true(tonumber((text "/connections")) - before <= 8 + 1)
  end)

  it("does not take bytes left on a connection for the next response", function()
    local elsewhere = ("http://127.0.0.1:%s/late"):format(server.ports[2])
    for _ = 1, 3 do
      assert.equal("kept", (text "/keep-with-more"))
      assert.matches("^late", (text(elsewhere))) -- meanwhile the bytes arrive
      assert.equal("kept", (text "/keep"))
    end
  end)

  it("takes half a gzip without a length for no success", function()
    assert.equal("half a file", (text "/gzip"))
    assert.equal("half a file", (text "/half-gzip"))
    assert.equal(2, asked "/half-gzip")
    local _, err = text "/unasked-coding"
    assert.equal("network", err.kind)
  end)

  it("starts a fetch as fast beside thousands that wait, each with options of its own", function()
    local futures = {}
    local function start_hundred()
      local started = core.now()
      for _ = 1, 100 do
        local options = core.request_options { headers = { ["X-Own"] = tostring(#futures) } }
        futures[#futures + 1] = core.fetch(server.http .. "/never", options)
      end
      return core.now() - started
    end
    local few, many = math.huge, math.huge -- the best of ten: the machine may be busy
    for _ = 1, 10 do few = math.min(few, start_hundred()) end
    for _ = 1, 30 do start_hundred() end
    for _ = 1, 10 do many = math.min(many, start_hundred()) end
    for _, future in ipairs(futures) do future:cancel() end
    assert.is_true(many < 4 * few, ("%.1f against %.1f us"):format(many * 1e4, few * 1e4))
  end)

  it("unpacks a little at a time, so that others have their turn", function()
    local future = theaterref.resolver({ log = false }):start(server.http .. "/air")
    local steps, before = 0, 0
    repeat
      local blob, err = future:wait(0.001)
      assert(blob or err.kind == "timeout", err)
      local received = future:progress()
      if received > before then steps, before = steps + 1, received end
    until blob
    assert.equal(64 << 20, before)
    assert.is_true(steps > 12, steps .. " steps") -- libcurl passes it on in five pieces
  end)

  it("takes no body that is framed or packed in a way it does not know", function()
    for _, path in ipairs { "/three-lengths", "/spaced-length", "/folded-length", "/two-codings", "/hidden-coding", "/packed-transfer" } do
      local body, err = text(path, { retries = 0 })
      assert.is_nil(body, path)
      assert.equal("network", err.kind, path)
    end
    assert.equal("half a file", (text "/padded-gzip"))
    assert.equal("", (text "/empty-gzip"))
    assert.is_nil((text("/identity-transfer", { require_length = true })))
  end)

  it("takes a 304 only for an answer to a condition", function()
    local cache = theaterref.resource_cache { ttl = 0 }
    local url = server.http .. "/always-304"
    assert.equal("good", tostring(theaterref.resolve_reference_cached(url, cache)))
    local blob, err = theaterref.resolve_reference_cached(url, cache)
    assert.is_nil(blob)
    assert.equal(304, err.status)
  end)

  it("asks no proxy of the environment if told to use none", function()
    local code = ([[local theaterref = require "theaterref"
      print((theaterref.resolve_reference(%q, { proxy = "", retries = 0 })))]]):format(server.http .. "/fine")
    assert.equal("fine\n", helper.run_ok(program(code, "http_proxy=http://127.0.0.1:1")))
  end)

  it("finds the options of a host in any case", function()
    assert.matches("X%-Own: yes", (text(server.http:gsub("127.0.0.1", "localhost") .. "/echo",
      { hosts = { LOCALHOST = { headers = { ["X-Own"] = "yes" } } } })))
  end)

  it("shows no password of a proxy, however it is written", function()
    for _, proxy in ipairs { "user:hush@127.0.0.1:1", "user:hush@127.0.0.1:99999", "http://user:hush@127.0.0.1:1" } do
      local _, err = text("/fine", { proxy = proxy, retries = 0 })
      assert.is_nil(tostring(err):find "hush")
    end
  end)

  it("lets small fetches pass while large bodies arrive", function()
    local resolver = theaterref.resolver { log = false, max_bytes = 64 << 20, retries = 0, timeout = 20 }
    local large = {}
    for i = 1, 4 do large[i] = resolver:start(server.http .. "/endless?" .. i) end
    for _ = 1, 10 do
      local started = core.now()
      assert.equal("fine", tostring(resolver:resolve(server.http .. "/fine")))
      assert.is_true(core.now() - started < 2)
    end
    for i = 1, 4 do
      local _, err = large[i]:wait()
      assert.equal("too_large", err.kind)
    end
  end)

  it("takes no body with two lengths", function()
    local _, err = text "/two-lengths"
    assert.equal("network", err.kind)
    assert.matches("Content%-Length", err.message)
    assert.equal("fine", (text "/same-lengths"))
  end)

  it("takes no body without a marked end, if asked", function()
    assert.equal("cut off?", (text "/no-length"))
    local _, err = text("/no-length", { require_length = true })
    assert.equal("network", err.kind)
    assert.matches("require_length", err.message)
    assert.equal("fine", (text("/fine", { require_length = true })))
  end)

  it("does not take the hint of an interim response for a wait", function()
    assert.equal("fine", (text "/hint"))
  end)

  it("goes through a proxy of its own, names it, and asks it once what it refuses", function()
    local _, err = text("https://example.invalid/x", { proxy = "http://me:s3cret@127.0.0.1:" .. server.port })
    assert.equal("http_status", err.kind)
    assert.equal(407, err.status)
    assert.matches("through the proxy http://127", err.message)
    assert.is_nil(err.message:find "s3cret")
    assert.equal("1", (text "/connects"))
    _, err = text("http://example.invalid/x", { proxy = "http://127.0.0.1:1", retries = 0 })
    assert.matches("through the proxy http://127.0.0.1:1", err.message)
  end)

  describe("a deadline", function()
    it("covers the wait for a turn, the attempts and the pauses", function()
      local started = core.now()
      local _, err = text("/broken", { timeout = 1, retries = 20 })
      assert.equal(503, err.status)
      local resolver = theaterref.resolver { timeout = 0.5, max_host_connections = 1, retries = 5, log = false }
      local futures = {}
      for i = 1, 3 do futures[i] = resolver:start(server.http .. "/never?" .. i) end
      for i = 1, 3 do
        _, err = futures[i]:wait()
        assert.equal("timeout", err.kind)
      end
      theaterref.resolver { max_host_connections = 32 }
      assert.is_true(core.now() - started < 6)
    end)

    it("covers all candidates of a reference", function()
      local started = core.now()
      local policy = { rewrite = function(ref) return { ref .. "?1", ref .. "?2", ref .. "?3" } end }
      local _, err = theaterref.resolver({ resolve_timeout = 0.5, log = false, policy = policy }):resolve(server.http .. "/never")
      assert.equal("timeout", err.kind)
      _, err = theaterref.resolver({ log = false, policy = policy }):resolve(server.http .. "/never", { resolve_timeout = 0.5 })
      assert.equal("timeout", err.kind)
      _, err = theaterref.resolver({ log = false }):plan(server.http .. "/never", { plan_timeout = 0.5 })
      assert.equal("timeout", err.kind)
      assert.is_true(core.now() - started < 6)
    end)

    it("is no number that is none", function()
      local future = core.future()
      assert.has_error(function() future:wait(0 / 0) end, "bad argument #1 to 'wait' (not a number of seconds)")
      assert.has_error(function() theaterref.resolver { timeout = 0 / 0 } end)
      local cache = theaterref.resource_cache()
      assert.has_error(function() cache:claim("x", { ttl = 0 / 0 }) end, "'ttl' must be a number of seconds")
    end)
  end)

  it("serves a stale entry at once while its server is silent", function()
    local resolver = theaterref.resolver { stall_timeout = 0.5, retries = 0, log = false,
      cache = theaterref.resource_cache { ttl = 0, stale_if_error = 60 } }
    local url = server.http .. "/then-silent"
    assert.equal("good", tostring(resolver:resolve_cached(url)))
    assert.equal("good", tostring(resolver:resolve_cached(url))) -- waits, and learns that it is silent
    local started = core.now()
    for _ = 1, 20 do assert.equal("good", tostring(resolver:resolve_cached(url))) end
    assert.is_true(core.now() - started < 5) -- each waiting for its timeout: 10
  end)

  it("blames no server for the time in which its process was stopped", function()
    assert.equal(("x"):rep(20) .. "\n", fetch_frozen(server.http .. "/steady", "stall_timeout = 0.5", ":"))
  end)

  it("gets a fetch done that nobody waits for", function()
    local future = assert(core.fetch(server.http .. "/fine", core.request_options {}, nil, nil, true))
    helper.eventually(function() return future:done() end)
    assert.equal("fine", tostring(future:wait(0)))
  end)

  it("checks digests of large bodies, on a thread of its own", function()
    local nginx = helper.nginx()
    local body = ("0123456789abcdef"):rep(1 << 18)
    nginx:put("large", body)
    for _, algorithm in ipairs { "sha1", "sha256" } do
      local sum = core.digest(body, algorithm)
      assert.equal(#body, #resolve(("%s/large#%s=%s"):format(nginx.http, algorithm, sum)))
      local _, err = resolve(("%s/large#%s=%s"):format(nginx.http, algorithm, ("0"):rep(#sum)))
      assert.equal("digest_mismatch", err.kind)
      assert.matches(sum, err.message)
    end
    nginx:stop()
  end)

  it("says what a fetch was like", function()
    local future = theaterref.resolver():start(server.http:gsub("//", "//me:pw@") .. "/to?/page-a?token=s3cret")
    assert(future:wait())
    local info = future:info()
    assert.equal(server.http .. "/page-a?…", info.url)
    assert.same({ 200, 1, 6, false, '"same"' }, { info.status, info.attempts, info.received, info.unchanged, info.etag })
    assert.is_true(info.seconds.started <= info.seconds.connected and info.seconds.connected <= info.seconds.done)
    assert.same({ 6, 6 }, { future:progress() })
    assert.is_nil(theaterref.resolver():start("Makefile"):info())
  end)

  it("says the reason however long the URL is", function()
    local _, err = text("http://127.0.0.1:1/" .. ("long"):rep(2000), { retries = 0 })
    assert.matches("Failed to connect", err.message)
    assert.is_true(#err.message < 1024)
  end)

  it("names the socket that is missing, and the limit that is reached", function()
    local _, err = text("http://any.host/x", { unix_socket = "/nowhere/socket", retries = 0 })
    assert.matches("/nowhere/socket", err.message)
    assert.is_nil(err.message:find "127%.0%.0%.1")
    local out = helper.run_ok(program(([[
      local core, held = require "theaterref.core", {}
      local o = core.request_options { retries = 0 }
      core.fetch(%q, o):wait()
      while true do
        local file = io.open "/dev/null"
        if not file then break end
        held[#held + 1] = file
      end
      print(select(2, core.fetch(%q, o):wait()).message)]]):format(server.http .. "/fine", server.http .. "/fine"), "ulimit -n 64;"))
    assert.matches("Too many open files", out)
  end)

  it("lets no child inherit its descriptors", function()
    local out = helper.run_ok(program(([[
      local r = require("theaterref").resolver()
      local future = r:start(%q)
      future:pollfd()
      future:wait(0.2)
      io.write(io.popen("ls -l /proc/self/fd"):read "a")]]):format(server.http .. "/never")))
    assert.is_nil(out:find "socket:")
    assert.is_nil(out:find "eventfd")
  end)

  it("uses no descriptor of standard input, output and error", function()
    helper.with_folder(function(folder)
      helper.run_ok(program(([[
        local r = require("theaterref").resolver { log = false }
        local future = r:start(%q)
        future:wait(0.3)
        local file = io.open(%q, "w")
        file:write(io.popen("ls -l /proc/$PPID/fd"):read "a")
        file:close()]]):format(server.http .. "/never", folder .. "/fds"), nil, "<&- >&- 2>&-"))
      for number, target in helper.read(folder .. "/fds"):gmatch " (%d+) %-> (%S+)" do
        assert.is_true(tonumber(number) > 2 or not target:find "socket:", number .. " is " .. target)
      end
    end)
  end)

  it("ends at once when the interpreter is interrupted", function()
    local started = core.now()
    local _, err, status = helper.run(program(([[require("theaterref").resolve_reference(%q)]]):format(server.http .. "/never"),
      "timeout -s INT 1"))
    assert.is_true(core.now() - started < 10)
    assert.is_true(status ~= 0 and err:find "interrupted" ~= nil or status == 124, err)
  end)

  it("ends every wait when it is interrupted, until it no longer is", function()
    local future = assert(core.fetch(server.http .. "/late", core.request_options {}))
    core.interrupt(true)
    local _, err, why = future:wait()
    core.interrupt(false)
    assert.same({ "cancelled", "pending" }, { err.kind, why })
    assert.matches("^late", tostring(future:wait()))
  end)

  it("asks for no password of an encrypted key", function()
    helper.with_folder(function(folder)
      helper.run_ok("openssl req -x509 -newkey rsa:2048 -passout pass:secret -subj /CN=x -days 2 -keyout " .. folder .. "/key -out "
        .. folder .. "/cert 2>/dev/null")
      local nginx = helper.nginx()
      local out = helper.run_ok("printf 'secret\\nleft\\n' | " .. program(([[
        local _, err = require("theaterref").resolve_reference(%q, { ca_file = %q, client_cert = %q, client_key = %q, retries = 0 })
        print(err.kind, io.read())]]):format(nginx.https .. "/x", nginx.ca, folder .. "/cert", folder .. "/key")))
      nginx:stop()
      assert.equal("tls\tsecret\n", out)
    end)
  end)

  it("gives a child's inherited future a descriptor that turns readable", function()
    local out = helper.run_ok(program(([[
      local theaterref, threads, uv = require "theaterref", require "threads", require "luv"
      local future = theaterref.resolver():start(%q)
      local fd = future:pollfd()
      if threads.fork() then
        local poll = uv.new_poll(fd)
        poll:start("r", function()
          print("readable", select(2, future:wait()).kind)
          threads.leave()
        end)
        uv.run()
      end
      threads.wait()]]):format(server.http .. "/never")))
    assert.equal("readable\tcancelled\n", out)
  end)
end)

describe("a Lua future's descriptor", function()
  local uv = require "luv"
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  -- True if a descriptor is readable now.
  local function readable(fd)
    local found, poll = false, uv.new_poll(fd)
    poll:start("r", function() found = true end)
    uv.run "nowait"
    poll:close()
    uv.run "nowait"
    return found
  end

  it("is readable when the result of done() has changed, and only then", function()
    local policy = { rewrite = function() return { server.http .. "/missing", server.http .. "/late?fd" } end }
    local future = theaterref.resolver({ policy = policy, log = false }):start "any"
    local fd = future:pollfd()
    local turns = 0
    helper.eventually(function()
      if not readable(fd) then return false end
      turns = turns + 1
      local done = future:done()
      assert.equal(fd, future:pollfd())
      if not done then assert.is_false(readable(fd)) end
      return done
    end)
    assert.equal(2, turns) -- the first candidate failed, the second arrived
    assert.is_false(readable(fd))
    assert.matches("^late", tostring(future:wait(0)))
  end)

  it("is another one for each of those who wait for one load", function()
    local resolver = theaterref.resolver { cache = theaterref.resource_cache(), log = false }
    local url = server.http .. "/late?shared"
    local a, b = resolver:start(url, { cached = true }), resolver:start(url, { cached = true })
    assert.not_equal(a:pollfd(), b:pollfd())
    assert.is_true(a:wait():same(b:wait()))
    assert.is_true(readable(a:pollfd()) and readable(b:pollfd()))
  end)

  it("outlives its future, so that an event loop survives it", function()
    local cqueues = require "cqueues"
    local loop, count = cqueues.new(), 0
    local resolver = theaterref.resolver { log = false }
    for _ = 1, 4 do
      loop:wrap(function()
        for _ = 1, 50 do
          local future = resolver:start(server.http .. "/fine")
          while not future:done() do cqueues.poll(future) end
          count = count + #future:wait(0) // 4
          collectgarbage "step"
        end
      end)
    end
    assert(loop:loop())
    assert.equal(200, count)
  end)
end)

describe("a TLS server", function()
  local nginx
  setup(function()
    nginx = helper.nginx()
    nginx:put("small", "small")
  end)
  teardown(function() nginx:stop() end)

  it("whose first connection is silent holds up nobody else", function()
    local relay = helper.relay(nginx.https_port, "silent", 1)
    local resolver = theaterref.resolver { ca_file = nginx.ca, connect_timeout = 2, retries = 1, log = false }
    local refs, started = {}, core.now()
    for i = 1, 20 do refs[i] = ("https://localhost:%s/small"):format(relay.port) end
    local blobs = resolver:resolve_all(refs)
    relay:stop()
    for i = 1, 20 do assert.equal("small", tostring(blobs[i])) end
    assert.is_true(core.now() - started < 10)
  end)

  it("has the whole connect_timeout, but for the time in which this process was stopped", function()
    local worker = helper.run_ok("pgrep -P " .. nginx.pid):match "%d+"
    helper.run_ok("kill -STOP " .. worker)
    finally(function() helper.run("kill -CONT " .. worker) end)
    assert.equal("small\n", fetch_frozen(nginx.https .. "/small", ("connect_timeout = 0.8, ca_file = %q"):format(nginx.ca),
      "kill -CONT " .. worker))
  end)

  it("that resets a handshake is asked again", function()
    local relay = helper.relay(nginx.https_port, "reset", 1)
    local blob, err = theaterref.resolve_reference(("https://localhost:%s/small"):format(relay.port), { ca_file = nginx.ca,
      log = false })
    relay:stop()
    assert.equal("small", blob and tostring(blob), tostring(err))
    relay = helper.relay(nginx.https_port, "reset", 1)
    err = select(2, theaterref.resolve_reference(("https://localhost:%s/small"):format(relay.port), { retries = 0, log = false }))
    relay:stop()
    assert.equal("network", err.kind)
  end)

  it("says that descriptors are short, not that a file of certificates is bad", function()
    local out = helper.run_ok(program(([[
      local theaterref, files = require "theaterref", {}
      theaterref.resolve_reference(%q, { log = false })
      repeat
        local file = io.open "/dev/null"
        files[#files + 1] = file
      until not file
      files[#files]:close()
      print(select(2, theaterref.resolve_reference(%q, { ca_file = %q, log = false, retries = 0 })).message)]])
      :format(nginx.http .. "/small", nginx.https .. "/small", nginx.ca), "ulimit -n 64;"))
    assert.matches("Too many open files", out)
  end)

  it("sends streams that do not stall", function()
    local resolver, refs = theaterref.resolver { ca_file = nginx.ca }, {}
    for i = 1, 30 do refs[i] = nginx.https .. "/small" end
    local started = core.now()
    for _ = 1, 40 do
      local blobs = resolver:resolve_all(refs)
      for i = 1, 30 do assert.equal("small", tostring(blobs[i])) end
    end
    assert.is_true(core.now() - started < 15)
  end)

  it("is trusted anew when its CA file is replaced", function()
    helper.with_folder(function(folder)
      local function put(from) helper.run_ok(("cp %s %s/new && mv %s/new %s/ca.pem"):format(from, folder, folder, folder)) end
      put(nginx.folder .. "/self.pem")
      local options = { ca_file = folder .. "/ca.pem", retries = 0, log = false }
      local url = ("https://localhost:%d/hello"):format(nginx.bad_ports.selfsigned)
      assert.equal("http_status", select(2, theaterref.resolve_reference(url, options)).kind)
      assert.equal("tls", select(2, theaterref.resolve_reference(nginx.https .. "/small", options)).kind)
      put(nginx.ca)
      helper.eventually(function() return theaterref.resolve_reference(nginx.https .. "/small", options) ~= nil end)
    end)
  end)
end)

describe("the C API", function()
  local server, folder, binary
  setup(function()
    server, folder = helper.misbehaving(), helper.temporary_folder()
    binary = folder .. "/engine"
    local library = helper.root .. "/" .. helper.build .. "/lib"
    helper.run_ok(("%s -D_GNU_SOURCE -std=c11 -g -O1 %s spec/support/engine.c -Icsrc -L%s -ltheaterref -Wl,-rpath,%s -pthread -o %s")
      :format(os.getenv "CC" or "cc", helper.sanitizers, library, library, binary))
  end)
  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  local function run(what, path) return helper.run_ok(("timeout 60 %s %s %s"):format(binary, what, server.http .. path)) end

  it("refuses structs without a size, takes NULL, and lets leaders go", function() assert.equal("ok\n", run("api", "/fine")) end)

  for what, why in pairs {
    fork = "gives parent and child descriptors of their own",
    shutdown = "is shut down by several threads while others fetch",
    settled = "gives up a fetch whose future has a result already, once it is released",
    oom = "hashes on when memory is short within OpenSSL",
    inherit = "leaves the descriptors alone that the program means a child to inherit",
    crowded = "makes futures in a child that may have no more descriptors, without a signal to the parent's",
    openssl = "does not let OpenSSL clean up under threads that use it while the process ends",
  } do
    it(why, function() assert.equal("ok\n", run(what, "/fine")) end)
  end

  it("hashes on while the process ends", function()
    for _ = 1, 5 do helper.run_ok("ASAN_OPTIONS=detect_leaks=0 timeout 60 " .. binary .. " hash " .. server.http .. "/fine") end
  end)

  it("leaves the program's signals to the program", function() assert.equal("ok\n", run("signal", "/fine")) end)

  it("interrupts a wait from a signal handler", function() assert.equal("ok\n", run("interrupt", "/never")) end)

  it("lets the process end while threads drive the engine", function()
    -- Threads that are still there hold memory, which is no leak.
    for _ = 1, 10 do helper.run_ok("ASAN_OPTIONS=detect_leaks=0 timeout 60 " .. binary .. " exit " .. server.http .. "/keep") end
  end)
end)
