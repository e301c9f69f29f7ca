-- Servers and proxies that others wrote.
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

describe("a fetch from Caddy", function()
  local server
  local text = ("compresses well, "):rep(5000)

  setup(function()
    server = helper.caddy()
    if server then
      server:put("text.txt", text)
      server:put("bytes.bin", core.blob(("x"):rep(100000)):digest())
    end
  end)

  teardown(function() if server then server:stop() end end)

  local function with_caddy(what, check)
    it(what, function()
      if not server then return pending "caddy is not here" end
      check(theaterref.resolver { ca_file = server.ca, cache = theaterref.resource_cache(), log = false })
    end)
  end

  with_caddy("unpacks what it compressed, over HTTP/2, and checks the digest", function(resolver)
    local digest = core.blob(text):digest()
    local future = assert(resolver:start(server.https .. "/text.txt#sha256=" .. digest))
    assert.is_true(tostring(assert(future:wait())) == text)
    local info = future:info()
    assert.same({ 200, digest }, { info.status, info.digest })
    assert.is_true(info.received < #text // 2)
    helper.eventually(function() return server:requests "HTTP/2.0" > 0 end)
    local _, err = resolver:resolve(server.https .. "/text.txt#sha256=" .. ("0"):rep(64))
    assert.equal("digest_mismatch", err.kind)
  end)

  with_caddy("asks by its validators whether something changed, and takes what did", function(resolver)
    local url, always = server.https .. "/bytes.bin", { revalidate = true }
    local first = assert(resolver:resolve_cached(url))
    local again = assert(resolver:resolve_cached(url, nil, always))
    assert.is_true(first:same(again))
    helper.eventually(function() return server:requests '"status":304' == 1 end)
    server:put("bytes.bin", "other bytes")
    assert.equal("other bytes", tostring(assert(resolver:resolve_cached(url, nil, always))))
  end)

  with_caddy("reports what it has not", function(resolver)
    local _, err = resolver:resolve(server.https .. "/missing")
    assert.same({ "http_status", 404 }, { err.kind, err.status })
  end)
end)

describe("a fetch through tinyproxy", function()
  local proxy, server

  setup(function()
    proxy, server = helper.tinyproxy(), helper.nginx()
    server:put("file", "by way of a proxy")
  end)

  teardown(function()
    proxy:stop()
    server:stop()
  end)

  local function through(at, url, options)
    return theaterref.resolve_reference(url, { proxy = at, ca_file = server.ca, log = false, retries = 0,
      headers = options and options.headers })
  end

  it("logs in, for http and in a tunnel for https", function()
    for _, url in ipairs { server.http .. "/file", server.https .. "/file" } do
      local before = proxy:requests "Connect"
      assert.equal("by way of a proxy", tostring(assert(through("http://proxied:s3cret@" .. proxy.at, url))))
      assert.is_true(proxy:requests "Connect" > before)
    end
  end)

  it("says that the proxy refused it, and not with which password", function()
    -- For http, tinyproxy answers 401, as a server does.
    for url, expected in pairs { [server.http .. "/file"] = "401 Unauthorized", [server.https .. "/file"] = "the proxy answered 40" } do
      local _, err = through("http://proxied:wr0ng@" .. proxy.at, url)
      assert.matches(expected, err.message)
      assert.is_nil(tostring(err):find("wr0ng", 1, true))
    end
  end)

  it("sends what is for the server to the server alone", function()
    local url = server.http .. "/header"
    assert.equal("[shh]", tostring(assert(through("http://proxied:s3cret@" .. proxy.at, url, { headers = { ["X-Secret"] = "shh" } }))))
    local blob = through("http://proxied:s3cret@" .. proxy.at, server.https .. "/file")
    assert.equal("by way of a proxy", tostring(blob))
  end)
end)
