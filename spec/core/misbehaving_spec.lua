local helper = require "helper"
local theaterref = require "theaterref"
local core = require "theaterref.core"

describe("a server that misbehaves", function()
  local server, before

  setup(function()
    server = helper.misbehaving()
    -- The engine's own descriptors and thread, which stay, are not what we count.
    local resolver = theaterref.resolver()
    resolver:start(server.http .. "/fine"):wait()
    resolver:resolve_all { server.http .. "/fine", server.http .. "/fine" }
  end)

  teardown(function() server:stop() end)

  before_each(function()
    before = helper.holdings()
  end)

  -- Nothing may be left behind, whatever happened.
  after_each(function()
    -- libcurl drops a connection that the other side closed when it looks for one.
    theaterref.resolve_reference(server.http .. "/fine")
    helper.holds_no_more(before, "files", "threads", "blobs")
  end)

  -- 'stall_timeout' counts whole seconds in libcurl; 'timeout' is exact.
  local limits = { timeout = 2, stall_timeout = 1, max_bytes = 1 << 20, retries = 0 }

  local function ask(path, more)
    local options = {}
    for name, value in pairs(limits) do options[name] = value end
    for name, value in pairs(more or {}) do options[name] = value end
    local started = core.now()
    local blob, err = theaterref.resolve_reference(server.http .. path, options)
    assert.is_true(core.now() - started < 8, path .. " took longer than it may")
    return blob and tostring(blob), err
  end

  local function asked(path) return tonumber((assert(ask("/count" .. path)))) end

  for path, kind in pairs {
    ["/close-at-once"] = "network", ["/close-amid-headers"] = "network", ["/close-amid-body"] = "network",
    ["/close-amid-chunk"] = "network", ["/less-than-said"] = "timeout", ["/endless"] = "too_large",
    ["/endless-headers"] = "too_large", ["/drip"] = "timeout", ["/never"] = "timeout", ["/loop"] = "network",
    ["/to-file"] = "denied", ["/to-gopher"] = "denied", ["/broken"] = "http_status", ["/wordy-error"] = "http_status",
    ["/bomb"] = "too_large", ["/bad-gzip"] = "network", ["/bad-chunks"] = "network", ["/huge-chunk"] = "network",
    ["/huge-header"] = "too_large", ["/nul-in-header"] = "network", ["/no-http"] = "network",
    ["/huge-length"] = "too_large", ["/odd-length"] = "network", ["/unasked-part"] = "http_status",
  } do
    it(("that does %s is an error of kind %s"):format(path, kind), function()
      local body, err = ask(path)
      assert.is_nil(body)
      assert.equal(kind, err.kind, tostring(err))
      assert.equal(server.http .. path, err.reference)
      assert.is_truthy(err.message:find(server.http .. path, 1, true), err.message)
    end)
  end

  it("that sends more than it said is believed as far as it said", function()
    assert.equal("fine", (ask "/more-than-said"))
  end)

  it("that fails twice is asked a third time", function()
    assert.equal("fine", (ask("/flaky?retried", { retries = 2, timeout = 20 })))
    assert.equal(3, asked "/flaky?retried")
    local _, err = ask("/flaky?once", { retries = 1, timeout = 20 })
    assert.equal(500, err.status)
    assert.equal(2, asked "/flaky?once")
  end)

  it("that breaks connections is asked again, and the error says how often", function()
    local _, err = ask("/close-at-once?retried", { retries = 1, timeout = 20 })
    assert.matches("after 2 attempts", err.message)
    assert.equal(2, asked "/close-at-once?retried")
  end)

  it("that says when to come back is asked then, not sooner", function()
    local started = core.now()
    assert.equal("fine", (ask("/busy", { retries = 2, timeout = 20 })))
    assert.is_true(core.now() - started >= 1)
    assert.equal(2, asked "/busy")
  end)

  it("that says to come back after the deadline is an error at once", function()
    local started = core.now()
    local _, err = ask("/busy-for-an-hour", { retries = 2 })
    assert.equal(429, err.status)
    assert.is_true(core.now() - started < 5)
  end)

  it("is not asked again for what will not change", function()
    ask("/missing?retried", { retries = 5 })
    assert.equal(1, asked "/missing?retried")
  end)

  it("tells the policy of its retries", function()
    local events = {}
    local resolver = theaterref.resolver { policy = { on_event = function(event) events[#events + 1] = event end } }
    assert(resolver:resolve(server.http .. "/flaky?told"))
    assert.same({ type = "retry", reference = server.http .. "/flaky?…", attempts = 3 }, events[1])
  end)

  describe("amid a body", function()
    local whole = ("0123456789abcdef"):rep(4096)
    local twice = { retries = 2, timeout = 20 }

    it("is asked for the rest", function()
      assert.is_true(whole == ask("/resumes", twice))
      assert.equal(2, asked "/resumes")
    end)

    it("may send the whole again instead", function() assert.is_true(whole == ask("/ignores-range", twice)) end)

    it("may send something newer instead", function() assert.equal("changed meanwhile", (ask("/changes", twice))) end)

    it("has no part glued on that does not fit", function() assert.is_true(whole == ask("/wrong-part", twice)) end)

    it("is asked for the whole when it knows of no rest", function() assert.is_true(whole == ask("/no-rest", twice)) end)

    it("is checked as a whole against a digest", function()
      assert.is_true(whole == ask("/resumes?digest#sha256=" .. core.digest(whole), twice))
    end)
  end)

  it("leaves nothing behind when its futures are dropped amid everything", function()
    for _ = 1, 3 do
      local futures = {}
      for _, path in ipairs { "/never", "/drip", "/endless", "/bomb", "/less-than-said", "/close-amid-body" } do
        futures[#futures + 1] = theaterref.resolver({ max_bytes = 1 << 30 }):start(server.http .. path)
      end
      futures[1]:cancel()
      futures = nil -- luacheck: ignore
      collectgarbage()
    end
  end)

  it("keeps its connections within bounds", function()
    local refs = {}
    for i = 1, 12 do refs[i] = server.http .. "/late?bounded" .. i end
    local blobs = theaterref.resolver({ max_host_connections = 3 }):resolve_all(refs)
    for i = 1, #refs do assert.equal("late 1", tostring(blobs[i])) end
    local most = tonumber((assert(ask "/most-late")))
    theaterref.resolver({ max_host_connections = 32 }):resolve(server.http .. "/fine")
    assert.is_true(most >= 2 and most <= 3, "at most " .. most .. " at once")
  end)
end)

describe("a server whose certificate is no good", function()
  local server
  setup(function() server = helper.nginx() end)
  teardown(function() server:stop() end)

  for name, why in pairs { expired = "expired", elsewhere = "localhost", selfsigned = "self.signed" } do
    it("is refused: " .. name, function()
      local _, err = theaterref.resolve_reference(("https://localhost:%d/hello"):format(server.bad_ports[name]),
        { ca_file = server.ca, timeout = 5 })
      assert.equal("tls", err.kind)
      assert.matches(why, err.message)
    end)
  end

  it("and one that wants a certificate of ours gets it", function()
    local url = ("https://localhost:%d/who"):format(server.bad_ports.wants)
    local _, err = theaterref.resolve_reference(url, { ca_file = server.ca })
    assert.equal(400, err.status)
    assert.equal("CN=client", tostring(theaterref.resolve_reference(url, { ca_file = server.ca,
      client_cert = server.folder .. "/client.pem", client_key = server.folder .. "/client.key" })))
  end)
end)

describe("a fetch", function()
  local server, other
  setup(function() server, other = helper.misbehaving(), helper.misbehaving() end)
  teardown(function()
    server:stop()
    other:stop()
  end)

  local function echo(options, url)
    return tostring(theaterref.resolve_reference(url or server.http .. "/echo", options))
  end

  it("has the headers of its host", function()
    local options = { headers = { ["X-All"] = "1" }, hosts = { ["127.0.0.1"] = { headers = { ["X-Token"] = "t0k" } },
      ["example.org"] = { headers = { ["X-Other"] = "no" } } } }
    local request = echo(options)
    assert.matches("X%-All: 1", request)
    assert.matches("X%-Token: t0k", request)
    assert.is_nil(request:find("X-Other", 1, true))
    options.hosts["127.0.0.1:" .. server.port] = { headers = { ["X-Token"] = "port" } }
    assert.matches("X%-Token: port", echo(options))
  end)

  it("takes a password from .netrc only when asked to", function()
    helper.with_folder(function(home)
      helper.write(home .. "/.netrc", "machine 127.0.0.1 login me password secret\n")
      local script = ("print(require('theaterref').resolve_reference(%q, { netrc = %%s }))"):format(server.http .. "/echo")
      local function run(netrc)
        return helper.run_ok(("HOME=%s %s -e %s"):format(home, helper.lua, helper.quote(script:format(netrc))))
      end
      assert.matches("Authorization: Basic bWU6c2VjcmV0", run(true))
      assert.is_nil(run(false):find("Authorization", 1, true))
    end)
  end)

  it("goes through the proxy that the environment names, but not where it says no", function()
    local script = "print(require('theaterref').resolve_reference('http://example.invalid/echo'))"
    local out = helper.run_ok(("http_proxy=%s %s -e %s"):format(other.http, helper.lua, helper.quote(script)))
    assert.matches("^GET http://example.invalid/echo HTTP", out)
    out = helper.run_ok(("http_proxy=%s no_proxy=example.invalid %s -e %s"):format(other.http, helper.lua,
      helper.quote(script)))
    assert.matches("resolve host", out)
  end)

  it("may go to a server's unix socket", function()
    local nginx = helper.nginx()
    nginx:put("hello", "hello over a socket")
    local blob, err = theaterref.resolve_reference("http://any.host/hello", { unix_socket = nginx.folder .. "/socket" })
    nginx:stop()
    assert.equal("hello over a socket", blob and tostring(blob), tostring(err))
  end)

  it("refuses an unknown option", function()
    assert.has_error(function() theaterref.resolver { time_out = 3 } end,
      "there is no resolver option 'time_out' (did you mean 'timeout'?)")
    local resolver = theaterref.resolver { policy = { request = function() return { retrys = 1 } end } }
    local _, err = resolver:resolve(server.http .. "/fine")
    assert.equal("policy", err.kind)
    assert.matches("did you mean 'retries'", err.message)
  end)

  it("shows how far it is", function()
    local future = theaterref.resolver({ max_bytes = 1 << 20 }):start(server.http .. "/less-than-said")
    helper.eventually(function() return future:progress() == 100 end)
    assert.same({ 100, 1000 }, { future:progress() })
    future:cancel()
  end)

  it("costs a 304 when revalidating, and gives the same memory", function()
    local resolver = theaterref.resolver { cache = theaterref.resource_cache(), revalidate = true }
    local first = resolver:resolve(server.http .. "/versioned")
    local second, hit = resolver:resolve_cached(server.http .. "/versioned")
    assert.is_true(first:same(second))
    assert.is_false(hit)
    assert.is_true(first:same(resolver:resolve(server.http .. "/versioned")))
    assert.equal("3", echo(nil, server.http .. "/count/versioned"))
    assert.equal("version 1", echo({ cache = resolver.cache, revalidate = true }, server.http .. "/new-each-time"))
    assert.equal("version 2", echo({ cache = resolver.cache, revalidate = true }, server.http .. "/new-each-time"))
  end)
end)
