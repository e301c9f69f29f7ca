local helper = require "helper"
local core = require "theaterref.core"
local threads = require "threads"

describe("sending a request", function()
  local server, before

  setup(function()
    server = helper.stub()
    core.send(server.http .. "/sink", core.request_options {}, { method = "PUT" }):wait()
  end)

  teardown(function() server:stop() end)

  before_each(function()
    before = helper.holdings()
  end)

  -- Nothing may be left behind, whatever happened.
  after_each(function()
    core.send(server.http .. "/log", core.request_options {}, {}):wait()
    helper.holds_no_more(before, "threads", "blobs")
  end)

  local function send(path, message, options, seconds)
    if type(message.body) == "string" then message.body = core.blob(message.body) end
    local future <close> = assert(core.send(server.http .. path, core.request_options(options or { retries = 2 }), message,
      seconds or 10))
    local blob, err = future:wait()
    return blob and tostring(blob), err or future:info()
  end

  local function requests(path)
    local log, count = send("/log", {}), 0
    for line in log:gmatch "[^\n]+" do
      if line:find(" " .. path .. " ", 1, true) then count = count + 1 end
    end
    return count
  end

  it("has a method, a body and headers, and gives the response with its headers", function()
    for _, method in ipairs { "POST", "PUT", "PATCH", "DELETE" } do
      local body, info = send("/sink", { method = method, body = "five!", headers = { ["X-A"] = "1" } })
      assert.equal(method .. " 5", body)
      assert.equal(201, info.status)
      assert.same({ ["content-length"] = tostring(#body), location = "/sink/5?state=a", ["docker-upload-uuid"] = "u",
        ["x-amz-meta-writer"] = "w", link = "</a>; rel=next, </b>", etag = '"e"', ["docker-content-digest"] = "sha256:0",
        range = "0-9" }, info.headers)
    end
    assert.equal("POST 0", send("/sink", { method = "POST" }))
    assert.equal("DELETE 0", send("/sink", { method = "DELETE" }))
    assert.equal("GET 0", send("/sink", {}))
  end)

  it("sends exactly what it is given", function()
    local text = send("/echo", { method = "PUT", body = ("x"):rep(2 << 20), headers = { ["Content-Type"] = "a/b", Accept = "c/d" } },
      { headers = { Accept = "e/f", ["X-All"] = "1" } })
    assert.matches("^PUT /echo HTTP/1.1\r\n", text)
    assert.matches("\r\nContent%-Length: 2097152\r\n", text)
    assert.matches("\r\nContent%-Type: a/b\r\n", text)
    assert.matches("\r\nAccept: c/d\r\n", text) -- its own, in place of that of the options
    assert.is_nil(text:find "e/f")
    assert.matches("\r\nX%-All: 1\r\n", text)
    assert.matches("\r\nAccept%-Encoding: identity\r\n", text)
    assert.is_nil(text:find "Expect")
    assert.is_nil(text:find "Transfer%-Encoding")
    assert.is_nil(send("/echo", { method = "POST", body = "a" }):find "Content%-Type")
  end)

  it("refuses what it cannot send before a byte is sent", function()
    local options = core.request_options {}
    assert.has_error(function() core.send(server.http .. "/sink", options, { method = "TRACE" }) end)
    assert.has_error(function() core.send(server.http .. "/sink", options, { method = "put" }) end)
    assert.has_error(function() core.send(server.http .. "/sink", options, { body = core.blob "x" }) end)
    assert.has_error(function() core.send(server.http .. "/sink", options, { method = "PUT", body = "text" }) end)
    assert.has_error(function() core.send(server.http .. "/sink", options, { headers = { a = "b\r\nc: d" } }) end)
    local _, err = core.send("http://169.254.169.254/latest", options, { method = "PUT" })
    assert.equal("denied", err.kind)
    _, err = core.send("gopher://x/", options, {})
    assert.equal("invalid_reference", err.kind)
    assert.equal(0, requests "/sink")
  end)

  it("takes HEAD's headers, and waits for no body", function()
    local started = core.now()
    local body, info = send("/head", { method = "HEAD" })
    assert.equal("", body)
    assert.equal(200, info.status)
    assert.equal("1234567890", info.headers["content-length"])
    assert.equal("sha256:1", info.headers["docker-content-digest"])
    assert.is_true(core.now() - started < 5)
  end)

  it("gives a response of any status to the caller", function()
    local body, info = send("/conflict", { method = "PUT", body = "x" })
    assert.equal("<Error/>", body)
    assert.equal(409, info.status)
    assert.equal("text/xml", info.headers["content-type"])
    body, info = send("/missing", {})
    assert.equal("", body)
    assert.equal(404, info.status)
    body, info = send("/nothing", {})
    assert.equal("", body)
    assert.equal(304, info.status)
    assert.equal('"e"', info.headers.etag)
  end)

  it("takes 4 MiB of a response", function()
    assert.equal(4 << 20, #send("/large?" .. (4 << 20), {}))
    local body, err = send("/large?" .. (4 << 20) + 1, {})
    assert.is_nil(body)
    assert.equal("too_large", err.kind)
  end)

  it("follows redirects of GET and HEAD only", function()
    assert.equal("GET 0", send("/to-sink", {}))
    local _, info = send("/to-sink", { method = "HEAD" })
    assert.equal(201, info.status)
    send("/log", {})
    for _, method in ipairs { "POST", "PUT", "PATCH", "DELETE" } do
      _, info = send("/to-sink", { method = method })
      assert.equal(307, info.status)
      assert.equal("/sink", info.headers.location)
    end
    assert.equal(0, requests "/sink")
  end)

  it("uploads 5 MiB over http, and never copies the blob", function()
    local body = core.blob(("0123456789abcdef"):rep(5 << 16))
    local size = core.live_blobs()
    assert.equal("PUT 5242880", send("/sink", { method = "PUT", body = body }))
    collectgarbage()
    assert.is_true(core.live_blobs() <= size)
  end)

  it("uploads over HTTP/2", function()
    local nginx = helper.nginx()
    local options = core.request_options { ca_file = nginx.ca }
    for _, method in ipairs { "PUT", "POST" } do
      local future = core.send(nginx.https .. "/empty", options, { method = method, body = core.blob(("x"):rep(1000000)) }, 10)
      assert(future:wait())
      assert.equal(204, future:info().status)
    end
    helper.eventually(function() return nginx:requests "PUT /empty HTTP/2.0" == 1 end)
    nginx:stop()
  end)

  it("takes the answer of a server that does not want the whole body", function()
    local large = core.blob(("x"):rep(32 << 20))
    local body, info = send("/too-large", { method = "PUT", body = large })
    assert.equal("too large", body)
    assert.equal(413, info.status)
    assert.equal(1, requests "/too-large")
    local auth = assert(core.auth { registry = "127.0.0.1:" .. server.ports[1], insecure = true, username = "alice", password = "s3cret" })
    body, info = send("/challenge-early", { method = "POST", body = large }, { auth = auth })
    assert.equal("POST 33554432", body)
    assert.equal(201, info.status)
  end)

  it("is repeated after a reset if its method is idempotent", function()
    for _, method in ipairs { "GET", "HEAD", "PUT", "DELETE" } do
      local _, info = send("/reset-once?" .. method, { method = method, body = method == "PUT" and "12345" or nil })
      assert.equal(201, info.status, method)
      assert.equal(2, requests("/reset-once?" .. method))
    end
    assert.equal("attempt 2, 3145728", (send("/reset-amid-body?PUT", { method = "PUT", body = ("x"):rep(3 << 20) })))
    for _, method in ipairs { "POST", "PATCH" } do
      local body, err = send("/reset-once?" .. method, { method = method, body = "12345" })
      assert.is_nil(body)
      assert.equal("network", err.kind)
      assert.matches("^Failed to send " .. method .. " to http://127%.0%.0%.1", err.message)
      assert.equal(1, requests("/reset-once?" .. method))
    end
  end)

  it("begins again, and does not resume", function()
    local text = send("/half-once", {})
    assert.matches("^GET /half%-once", text)
    assert.is_nil(text:find "Range")
  end)

  it("is not repeated with retries = 0", function()
    local _, err = send("/reset-once?never", { method = "PUT" }, { retries = 0 })
    assert.equal("network", err.kind)
    assert.equal(1, requests "/reset-once?never")
    local _, info = send("/busy-once?never", { method = "PUT" }, { retries = 0 })
    assert.equal(503, info.status)
  end)

  it("is not repeated by libcurl either, when a connection that was used before ends", function()
    for i = 1, 20 do
      send("/sink", { method = "POST" }) -- leaves a connection
      local body, err = send("/reset-once?again" .. i, { method = "POST", body = "12345" })
      assert.is_nil(body)
      assert.equal("network", err.kind)
      assert.equal(1, requests("/reset-once?again" .. i))
    end
  end)

  it("is repeated if the server says when, whatever its method", function()
    for _, method in ipairs { "POST", "PUT" } do
      assert.equal("attempt 2", (send("/busy-once?" .. method, { method = method, body = "x" })))
    end
    send("/log", {})
    local body, info = send("/busy", { method = "PUT" }) -- it does not say
    assert.equal("SlowDown", body)
    assert.equal(503, info.status)
    assert.equal(1, requests "/busy")
  end)

  it("is repeated if nobody got it", function()
    local relay = helper.relay(server.ports[1], "silent", 0)
    local url = "http://127.0.0.1:" .. relay.port .. "/sink"
    relay:stop() -- nobody listens there now
    local _, err = core.send(url, core.request_options { retries = 1 }, { method = "POST" }):wait()
    assert.equal("network", err.kind)
    assert.matches("after 2 attempts", err.message)
  end)

  it("ends by its deadline, and by stall_timeout, wherever it is", function()
    local large = core.blob(("x"):rep(32 << 20)) -- more than the system takes
    for path, body in pairs { ["/never"] = core.blob "x", ["/deaf"] = large } do
      local started = core.now()
      local _, err = send(path, { method = "PUT", body = body }, {}, 0.3)
      assert.equal("timeout", err.kind)
      _, err = send(path, { method = "POST", body = body }, { stall_timeout = 0.3, retries = 0 })
      assert.equal("timeout", err.kind)
      assert.matches("stall_timeout", err.message)
      assert.is_true(core.now() - started < 5)
    end
  end)

  it("can be cancelled in mid-upload, and lets its blob go", function()
    local blobs = core.live_blobs()
    do
      local future = core.send(server.http .. "/deaf", core.request_options {}, { method = "PUT", body = core.blob(("x"):rep(32 << 20)) })
      local _, _, why = future:wait(0.3)
      assert.equal("pending", why)
      future:cancel()
    end
    helper.eventually(function()
      collectgarbage()
      return core.live_blobs() <= blobs
    end)
  end)

  it("refuses private addresses if it is told to", function()
    local _, err = send("/sink", { method = "PUT", body = "x" }, { refuse_private = true })
    assert.equal("denied", err.kind)
    assert.equal(0, requests "/sink")
  end)

  it("works for eight threads at once", function()
    local results = threads.run(8, ([[
      return function()
        local core = require "theaterref.core"
        local options, body = core.request_options {}, core.blob(("x"):rep(300000))
        for i = 1, 20 do
          local future = core.send(%q, options, { method = i %% 2 == 0 and "PUT" or "POST", body = body }, 20)
          assert(tostring(assert(future:wait())):match " (%%d+)" == "300000")
        end
        return "done"
      end]]):format(server.http .. "/sink"))
    for _, result in ipairs(results) do assert.equal("done", result) end
  end)

  it("survives a fork in mid-upload", function()
    local future = core.send(server.http .. "/never", core.request_options {}, { method = "PUT", body = core.blob "x" })
    future:wait(0.2)
    if threads.fork(20) then
      local ok = pcall(function()
        assert(select(3, future:wait()) == "abandoned")
        assert(tostring(core.send(server.http .. "/sink", core.request_options {}, { method = "PUT" }, 10):wait()) == "PUT 0")
      end)
      if ok then threads.leave() end
      os.exit(1)
    end
    threads.wait()
    future:cancel()
  end)
end)
