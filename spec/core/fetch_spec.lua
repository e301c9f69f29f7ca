local helper = require "helper"
local theaterref = require "theaterref"
local uv = require "luv"
local core = require "theaterref.core"
local threads = require "threads"

describe("fetching over http and https", function()
  local server

  setup(function()
    math.randomseed(os.time())
    server = helper.nginx()
    server:put("hello", "hello over the wire")
    server:put("large", ("0123456789abcdef"):rep(1 << 16))
    server:put("slow", ("x"):rep(1000))
    server:put("packed", ("squeeze me "):rep(10000))
  end)

  teardown(function() server:stop() end)

  local function options(more)
    local all = { ca_file = server.ca }
    for name, value in pairs(more or {}) do all[name] = value end
    return all
  end

  it("gives the body", function()
    assert.equal("hello over the wire", tostring(theaterref.resolve_reference(server.http .. "/hello")))
    assert.equal("hello over the wire", tostring(theaterref.resolve_reference(server.https .. "/hello", options())))
    assert.equal(1 << 20, #theaterref.resolve_reference(server.https .. "/large", options()))
    assert.equal(0, #theaterref.resolve_reference(server.http .. "/empty"))
  end)

  it("unpacks what the server packed", function()
    assert.equal(("squeeze me "):rep(10000), tostring(theaterref.resolve_reference(server.http .. "/packed")))
  end)

  it("keeps a large body in huge pages, where the system has them", function()
    local system = io.open "/sys/kernel/mm/transparent_hugepage/enabled"
    if not system then return end
    system:close()
    server:put("huge", ("0123456789abcdef"):rep(1 << 20))
    local blob <close> = theaterref.resolve_reference(server.http .. "/huge")
    assert.equal(16 << 20, #blob)
    local asked = false
    for line in io.lines "/proc/self/smaps" do asked = asked or line:find "^VmFlags:.* hg" ~= nil end
    assert.is_true(asked)
  end)

  it("follows redirects, ten at most", function()
    assert.equal("hello over the wire", tostring(theaterref.resolve_reference(server.http .. "/here")))
    local _, err = theaterref.resolve_reference(server.http .. "/loop")
    assert.equal("network", err.kind)
    assert.matches("too many redirects", err.message)
    helper.eventually(function() return server:requests "GET /loop " == 11 end)
    _, err = theaterref.resolve_reference(server.http .. "/here", { max_redirects = 0 })
    assert.equal("network", err.kind)
  end)

  it("follows none to a file, nor from https to http", function()
    local _, err = theaterref.resolve_reference(server.http .. "/to-file")
    assert.equal("denied", err.kind)
    assert.matches("to file:…", err.message, 1, true)
    _, err = theaterref.resolve_reference(server.https .. "/to-http", options())
    assert.equal("denied", err.kind)
    assert.matches("plain http", err.message)
    assert.equal("hello over the wire", tostring(theaterref.resolve_reference(server.http .. "/to-http")))
  end)

  it("sends the caller's headers, but not on to another host", function()
    local headers = { ["X-Secret"] = "s3cret" }
    assert.equal("[s3cret]", tostring(theaterref.resolve_reference(server.http .. "/header", { headers = headers })))
    assert.equal("[]", tostring(theaterref.resolve_reference(server.http .. "/to-other", { headers = headers })))
    local _, err = theaterref.resolve_reference(server.http .. "/header", { headers = { a = "b\r\nc: d" } })
    assert.equal("policy", err.kind)
  end)

  it("says a status that is not 2xx, with its reason", function()
    for path, reason in pairs { nowhere = "404 Not Found", gone = "410 Gone", odd = "599 <unknown status code>" } do
      local _, err = theaterref.resolve_reference(server.http .. "/" .. path)
      assert.equal("http_status", err.kind)
      assert.equal(math.tointeger(reason:match("%d+")), err.status)
      assert.equal(("HTTP request failed for %s/%s: %s"):format(server.http, path, reason), err.message)
      assert.equal("Failed to resolve reference: " .. err.message, tostring(err))
    end
  end)

  it("says that nobody listens, or that there is no such host", function()
    local _, err = theaterref.resolve_reference("http://127.0.0.1:1/x")
    assert.equal("network", err.kind)
    assert.matches("^Failed to fetch from http://127.0.0.1:1/x: ", err.message)
    _, err = theaterref.resolve_reference("http://no-such-host.invalid/")
    assert.equal("network", err.kind)
  end)

  it("trusts no certificate it has no authority for", function()
    local _, err = theaterref.resolve_reference(server.https .. "/hello")
    assert.equal("tls", err.kind)
    assert.matches("ca_file", err.message)
  end)

  it("refuses a body past max_bytes, packed or not", function()
    for _, path in ipairs { "/large", "/packed" } do
      local _, err = theaterref.resolve_reference(server.http .. path, { max_bytes = 50000 })
      assert.equal("too_large", err.kind)
      assert.matches("^Failed to read response body from ", err.message)
      assert.matches("50000 bytes", err.message)
    end
    assert.equal(1 << 20, #theaterref.resolve_reference(server.http .. "/large", { max_bytes = 1 << 20 }))
  end)

  it("keeps the deadline", function()
    local before = core.now()
    local _, err = theaterref.resolve_reference(server.http .. "/slow", { timeout = 0.2 })
    assert.equal("timeout", err.kind)
    assert.is_true(core.now() - before < 5)
  end)

  it("gives up a connection that is not made within connect_timeout", function()
    -- A listener whose queue is full answers no more.
    local listener, clients = uv.new_tcp(), {}
    finally(function() -- else the loop of another spec would wait for them
      for _, client in ipairs(clients) do client:close() end
      listener:close()
      uv.run "nowait"
    end)
    listener:bind("127.0.0.1", 0)
    listener:listen(1, function() end)
    local port = listener:getsockname().port
    for i = 1, 8 do
      clients[i] = uv.new_tcp()
      clients[i]:connect("127.0.0.1", port, function() end)
    end
    local before = core.now()
    local _, err = theaterref.resolve_reference(("http://127.0.0.1:%d/"):format(port), { connect_timeout = 0.3, retries = 0,
      log = false })
    assert.equal("timeout", err.kind)
    assert.matches("no connection within 0.3 seconds (connect_timeout)", err.message, 1, true)
    assert.is_true(core.now() - before < 5)
  end)

  it("says who asks, in words that can be chosen", function()
    local misbehaving = helper.misbehaving()
    local url = misbehaving.http .. "/echo"
    assert.matches("\r\nUser%-Agent: theaterref/" .. theaterref._VERSION:gsub("%.", "%%.") .. "\r\n",
      tostring(assert(theaterref.resolve_reference(url))))
    assert.matches("\r\nUser%-Agent: host/2\r\n", tostring(assert(theaterref.resolve_reference(url, { user_agent = "host/2" }))))
    misbehaving:stop()
  end)

  it("takes only bytes with the digest of the reference", function()
    local sum = core.digest "hello over the wire"
    local url = server.http .. "/hello#sha256="
    assert.equal(19, #theaterref.resolve_reference(url .. sum))
    assert.equal(19, #theaterref.resolve_reference(server.http .. "/hello#sha1=" .. core.digest("hello over the wire", "sha1")))
    local cache = theaterref.resource_cache()
    local _, err = theaterref.resolve_reference_cached(url .. ("0"):rep(64), cache)
    assert.equal("digest_mismatch", err.kind)
    assert.matches(sum, err.message)
    assert.equal(0, #cache)
    _, err = theaterref.resolve_reference(url .. "12")
    assert.equal("invalid_reference", err.kind)
  end)

  it("never shows a password", function()
    local _, err = theaterref.resolve_reference("http://user:hunter2@127.0.0.1:1/x")
    assert.is_nil(tostring(err):find("hunter2", 1, true))
    assert.matches("http://127.0.0.1:1/x", tostring(err))
  end)

  it("refuses what is no URL", function()
    for _, url in ipairs { "http://", "http:///x", "https://a b/", "http://[::1", "http://x:99999/" } do
      local _, err = theaterref.resolve_reference(url)
      assert.equal("invalid_reference", err.kind, url)
    end
  end)

  it("is not lost when it arrives just as the time to wait for it is over", function()
    local answers = { { nil, { kind = "timeout", message = "no result within 0 seconds" }, "pending" }, { core.blob "bytes" } }
    local late = { -- which is done right after it was waited for in vain
      wait = function() return table.unpack(table.remove(answers, 1), 1, 3) end,
      done = function() return true end,
    }
    local future = require("theaterref.resolve.future").run({ reference = "x" }, function(task) return task:await(late) end)
    local _, err = future:wait(0)
    assert.equal("timeout", err.kind)
    assert.equal("bytes", tostring(future:wait(0)))
  end)

  it("gives futures that can be waited for, polled and dropped", function()
    local resolver = theaterref.resolver()
    local future = assert(resolver:start(server.http .. "/hello"))
    assert.equal("number", type(future:pollfd()))
    assert.equal("r", future:events())
    assert.is_nil(future:timeout())
    assert.equal(19, #future:wait(10))
    assert.is_true(future:done())
    assert.equal(19, #future:wait())
    assert.equal("number", type(future:pollfd()))
    local slow = resolver:start(server.http .. "/slow")
    local _, err = slow:wait(0.01)
    assert.equal("timeout", err.kind)
    slow:cancel()
    assert.is_true(slow:done())
    _, err = slow:wait()
    assert.equal("cancelled", err.kind)
    resolver:start(server.http .. "/slow") -- dropped
    collectgarbage()
    assert.is_nil((resolver:start "store://"))
  end)

  it("resolves many at the same time, in order", function()
    local refs = {}
    for i = 1, 40 do refs[i] = server.https .. (i % 10 == 0 and "/nowhere" or "/hello") end
    local blobs, errs = theaterref.resolver(options()):resolve_all(refs)
    for i = 1, 40 do
      if i % 10 == 0 then
        assert.is_false(blobs[i])
        assert.equal(404, errs[i].status)
      else
        assert.equal(19, #blobs[i])
        assert.is_false(errs[i])
      end
    end
  end)

  it("costs one request when threads miss on one reference together", function()
    local name = "fetch-" .. math.random(1 << 40)
    local results = threads.run(16, ([[
      local theaterref = require "theaterref"
      local cache = theaterref.resource_cache { name = %q }
      return function()
        local blob = assert(theaterref.resolve_reference_cached(%q, cache))
        return blob:digest()
      end]]):format(name, server.http .. "/large?storm"))
    for _, sum in ipairs(results) do assert.equal(results[1], sum) end
    helper.eventually(function() return server:requests "storm" == 1 end)
  end)

  it("goes on in a child after fork()", function()
    -- io.popen and os.execute fork too; here the child itself fetches.
    local out = helper.run_ok(helper.lua .. " " .. helper.write(server.folder .. "/fork.lua", ([[
      local theaterref = require "theaterref"
      local threads = require "threads"
      local resolver = theaterref.resolver { cache = theaterref.resource_cache { name = "fork" } }
      local url = %q
      assert(#resolver:resolve_cached(url .. "/hello") == 19)
      local pending = resolver:start(url .. "/slow")
      local in_child = threads.fork()
      local blob, hit = assert(resolver:resolve_cached(url .. "/hello"))
      assert(#blob == 19 and hit)
      assert(#resolver:resolve(url .. "/large") == 1 << 20)
      if in_child then
        local _, err = pending:wait(5)
        assert(err.kind == "cancelled", tostring(err))
        print("child fetched")
        threads.leave()
      else
        pending:cancel()
        threads.wait()
        print("parent fetched")
      end]]):format(server.http)))
    assert.matches("child fetched", out)
    assert.matches("parent fetched", out)
  end)

  it("ends in good order with transfers under way", function()
    for _, ending in ipairs { "os.exit(0, true)", "os.exit(0, false)", "" } do
      helper.run_ok(("timeout 10 %s -e %s"):format(helper.lua, helper.quote(([[
        local resolver = require("theaterref").resolver()
        held = {}
        for i = 1, 20 do held[i] = resolver:start(%q) end
        %s]]):format(server.http .. "/slow", ending))))
    end
  end)

  it("starts no thread until there is something to fetch", function()
    local out = helper.run_ok(helper.lua .. [[ -e '
      local theaterref = require "theaterref"
      theaterref.resource_cache()
      theaterref.resolve_reference("Makefile")
      for line in io.lines("/proc/self/status") do if line:find("^Threads") then print(line) end end']])
    if not helper.build:find("thread") then assert.matches("Threads:%s+1\n", out) end
  end)
end)
