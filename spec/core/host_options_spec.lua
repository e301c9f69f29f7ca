local helper = require "helper"
local theaterref = require "theaterref"
local core = require "theaterref.core"

describe("options for some hosts", function()
  it("are refused under a name that is no host", function()
    local function fault(options) return select(2, pcall(theaterref.resolver, options)) end
    for _, name in ipairs { "https://h", "h/", "*.h", "*", "" } do
      assert.matches("the resolver option 'hosts' takes host or host:port, not '" .. name .. "'", fault { hosts = { [name] = {} } }, 1, true)
    end
    assert.matches("'redirect_hosts' takes hosts, such as", fault { redirect_hosts = { "https://h/" } })
    assert.matches("'headers' has a header without a name", fault { headers = { [""] = "x" } })
    assert.matches("the resolver option 'client_key' needs a 'client_cert'", fault { client_key = "k.pem" })
    assert.matches("the host option 'client_key' needs a 'client_cert'", fault { hosts = { h = { client_key = "k.pem" } } })
    assert(theaterref.resolver { redirect_hosts = { "*.example.org", "h" }, hosts = { ["h:1"] = {}, ["[::1]:80"] = {} } })
  end)

  it("are refused with a zero byte in a header or a host", function()
    local function refused(options) return theaterref.resolve_reference("http://127.0.0.1:1/", options) end
    for _, options in ipairs { { headers = { A = "b\0c" } }, { headers = { ["A\0"] = "b" } }, { redirect_hosts = { "h\0x" } },
      { hosts = { ["h\0x"] = {} } } } do
      local ok, blob, err = pcall(refused, options)
      assert.matches("zero byte", tostring(ok and err or blob))
      local _, by_rule = theaterref.resolver { log = false, policy = { request = function() return options end } }
        :resolve "http://127.0.0.1:1/"
      assert.equal("policy", by_rule.kind)
      assert.matches("zero byte", by_rule.message)
    end
  end)

  local server, other, nginx
  setup(function()
    server, other, nginx = helper.misbehaving(), helper.misbehaving(), helper.nginx()
    nginx:put("hello", "hello")
  end)
  teardown(function()
    server:stop()
    other:stop()
    nginx:stop()
  end)

  local function text(url, options)
    local all = { timeout = 10, retries = 0, log = false }
    for name, value in pairs(options or {}) do all[name] = value end
    local blob, err = theaterref.resolve_reference(url, all)
    return blob and tostring(blob), err
  end

  -- The URL that a redirect of the one server leads to, under another name.
  local function elsewhere(path) return ("http://localhost:%s%s"):format(other.port, path or "/echo") end
  local function by_redirect(to) return server.http .. "/to?" .. to end

  it("leave `Accept` as it is by way of a redirect, and nothing else of its headers", function()
    local options = { headers = { accept = "a/b", ["X-All"] = "1" } }
    local request = text(by_redirect(elsewhere()), options)
    assert.matches("\r\naccept: a/b\r\n", request, 1, true)
    assert.is_nil(request:find "X%-All")
    options.hosts = { localhost = { headers = { ["X-Own"] = "1" } } }
    assert.matches("\r\naccept: a/b\r\n", text(by_redirect(elsewhere()), options), 1, true)
    options.hosts.localhost.headers.Accept = "c/d"
    request = text(by_redirect(elsewhere()), options)
    assert.matches("\r\nAccept: c/d\r\n", request, 1, true)
    assert.is_nil(request:find "a/b")
    local future = assert(core.send(by_redirect(elsewhere()), core.request_options {}, { headers = { Accept = "e/f", ["X-All"] = "1" } }, 10))
    request = tostring(assert(future:wait()))
    assert.matches("\r\nAccept: e/f\r\n", request, 1, true)
    assert.is_nil(request:find "X%-All")
  end)

  it("hold by way of a redirect, too", function()
    local options = { headers = { ["X-All"] = "1" }, hosts = { localhost = { headers = { ["X-Own"] = "1" } } } }
    local request = text(by_redirect(elsewhere()), options)
    assert.matches("X%-Own: 1", request)
    assert.is_nil(request:find "X%-All") -- which was for the host asked
    assert.matches("X%-All: 1", (text(elsewhere(), options)))
    options.hosts = { ["LOCALHOST.:" .. other.port] = { headers = { ["X-Port"] = "1" } }, localhost = options.hosts.localhost }
    request = text(by_redirect(elsewhere()), options)
    assert.matches("X%-Port: 1", request)
    assert.is_nil(request:find "X%-Own")
  end)

  it("cannot be got round by a redirect", function()
    local url = nginx.https .. "/hello"
    local options = { ca_file = nginx.ca, hosts = { localhost = { ca_file = nginx.folder .. "/self.pem" } } }
    assert.equal("tls", select(2, text(url, options)).kind)
    assert.equal("tls", select(2, text(by_redirect(url), options)).kind)
    options.hosts.localhost.ca_file = nginx.ca
    assert.equal("hello", (text(by_redirect(url), options)))
  end)

  it("stay with their host: a redirect takes no headers, certificate or netrc along", function()
    helper.with_folder(function(home)
      helper.write(home .. "/.netrc", "machine localhost login me password secret\n")
      local function run(options, url)
        return helper.run_ok(("HOME=%s %s -e %s"):format(home, helper.lua, helper.quote(
          ("print(require('theaterref').resolve_reference(%q, { log = false, hosts = %s }))"):format(url, options))))
      end
      assert.is_nil(run("{ ['127.0.0.1'] = { netrc = true, headers = { ['X-Own'] = '1' } } }", by_redirect(elsewhere()))
        :find "Authorization")
      assert.matches("Authorization: Basic bWU6c2VjcmV0", run("{ localhost = { netrc = true } }", by_redirect(elsewhere())))
    end)
    local private = ("https://localhost:%d/who"):format(nginx.bad_ports.wants)
    local certificate = { client_cert = nginx.folder .. "/client.pem", client_key = nginx.folder .. "/client.key" }
    local options = { ca_file = nginx.ca, hosts = { ["127.0.0.1"] = certificate } }
    assert.equal(400, select(2, text(by_redirect(private), options)).status)
    options.hosts = { localhost = certificate }
    assert.equal("CN=client", (text(by_redirect(private), options)))
  end)

  it("do not hold for a rule's secrets: those are for the reference it was asked about", function()
    local policy = { request = function() return { headers = { ["X-Token"] = "t0k" } } end }
    local resolver = theaterref.resolver { policy = policy, hosts = { localhost = { headers = { ["X-Own"] = "1" } } }, log = false }
    local request = tostring(resolver:resolve(by_redirect(elsewhere())))
    assert.matches("X%-Own: 1", request)
    assert.is_nil(request:find "X%-Token")
    assert.matches("X%-Token: t0k", tostring(resolver:resolve(server.http .. "/echo")))
  end)

  it("are in the scope of cached bytes, if they can change them", function()
    local function scope(hosts, cache_scope)
      return core.request_scope(core.request_options { hosts = hosts, cache_scope = cache_scope })
    end
    assert.equal("", scope { a = {}, b = { timeout = 1 } })
    assert.not_equal("", scope { a = { headers = { X = "1" } } })
    assert.equal(scope { a = { netrc = true }, b = { proxy = "p" } }, scope { b = { proxy = "p" }, a = { netrc = true } })
    assert.not_equal(scope { a = { netrc = true } }, scope { b = { netrc = true } })
    -- A host without a difference of its own is not like one that a less exact name, or "*", holds for.
    assert.not_equal(scope { a = { netrc = true } }, scope { a = { netrc = true }, ["a:80"] = {} })
    assert.not_equal(scope { ["*"] = { proxy = "p" }, a = {} }, scope { ["*"] = { proxy = "p" }, a = {}, b = {} })
    assert.equal(scope(nil, "name"), scope({ a = { netrc = true } }, "name"))
  end)

  it("are found in any spelling of the host", function()
    local names = { "EXAMPLE.org", "example.org:8443", "[::1]", "10.0.0.1." }
    local hosts = {}
    for _, name in ipairs(names) do hosts[name] = {} end
    for given, found in pairs { ["example.org."] = 1, ["Example.ORG"] = 1, ["::1"] = 3, ["10.0.0.1"] = 4 } do
      assert.equal(names[found], core.match_host(hosts, given, 443))
    end
    assert.equal(names[2], core.match_host(hosts, "example.org", 8443))
    assert.is_nil(core.match_host(hosts, "a.example.org", 443))
  end)

  it("let a redirect lead back to the host that was asked", function()
    local back = elsewhere("/to?" .. server.http .. "/fine")
    assert.equal("fine", (text(by_redirect(back), { redirect_hosts = { "localhost" } })))
  end)
end)

describe("the limits of one who leads a load", function()
  local server, other
  setup(function() server, other = helper.misbehaving(), helper.misbehaving() end)
  teardown(function()
    server:stop()
    other:stop()
  end)

  it("are not those of others who wait for it", function()
    local cache, url = theaterref.resource_cache(), server.http .. "/silent-once"
    local hasty = theaterref.resolver({ cache = cache, timeout = 0.3, retries = 0, log = false }):start(url, { cached = true })
    hasty:wait(0.05)
    local patient = theaterref.resolver({ cache = cache, timeout = 10, retries = 0, log = false }):start(url, { cached = true })
    patient:wait(0.05)
    assert.equal("timeout", select(2, hasty:wait()).kind)
    assert.equal("fine", tostring(patient:wait()))
  end)

  it("are no outage of its server; a failure elsewhere is none either", function()
    local count = 0
    local function is_out(break_it)
      count = count + 1
      local cache = theaterref.resource_cache { ttl = 0, stale_if_error = 60, stale_while_revalidate = 0 }
      local resolver, url = theaterref.resolver { cache = cache, log = false, retries = 0 }, server.http .. "/fine?" .. count
      assert(resolver:resolve_cached(url))
      break_it()
      assert(resolver:resolve_cached(url))
      return cache:stats().stale > 0 -- served at once, since its server is known to be down
    end
    local function fetch(url, options) return select(2, theaterref.resolve_reference(url, options)) end
    assert.is_false(is_out(function() assert.equal("timeout", fetch(server.http .. "/never", { timeout = 0.05 }).kind) end))
    assert.is_false(is_out(function() assert.equal(503, fetch(other.http .. "/to?" .. server.http .. "/broken", { retries = 0 }).status) end))
    assert.is_true(is_out(function() assert.equal(503, fetch(server.http .. "/broken", { retries = 0 }).status) end))
  end)
end)
