local helper = require "helper"
local core = require "theaterref.core"
local threads = require "threads"

local function encode(text) return (text:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)) end

describe("authentication at a registry", function()
  local server

  setup(function() server = helper.stub() end)
  teardown(function() server:stop() end)

  -- Each spec has a registry of its own, of which nothing is known.
  local number, at, http = 0, nil, nil

  local function principal(more)
    local all = { registry = at, insecure = true, realm_hosts = {} }
    for name, value in pairs(more or {}) do all[name] = value end
    return assert(core.auth(all))
  end

  local alice = { username = "alice", password = "s3cret" }

  -- The requests since the last time: "<port> <method> <path> <credentials>".
  local function log()
    local future <close> = core.send(server.http .. "/log", core.request_options {}, {})
    local lines = {}
    for line in tostring(assert(future:wait())):gmatch "[^\n]+" do
      local port, method, path, authorization = line:match "^(%d) (%u+) ([^? ]+)%S* (.-) %d+$"
      lines[#lines + 1] = ("%s %s %s %s"):format(port, method, path, authorization:match "^%a+" or "-")
    end
    return lines
  end

  -- The queries of the requests for tokens.
  local function token_queries()
    local future <close> = core.send(server.http .. "/log", core.request_options {}, {})
    local queries = {}
    for query in tostring(assert(future:wait())):gmatch "token%?(%S+)" do queries[#queries + 1] = query end
    return queries
  end

  before_each(function()
    number = number + 1
    at = ("127.0.0.%d:%d"):format(number + 1, server.ports[1])
    http = "http://" .. at
    core.send(server.http .. "/revoke", core.request_options {}, {}):wait()
    log()
  end)

  local function fetch(path, challenge, auth, more)
    local options = { auth = auth, timeout = 10, retries = 2 }
    for name, value in pairs(more or {}) do options[name] = value end
    local url = http .. path .. (challenge and "?" .. encode(challenge) or "")
    local future <close>, err = core.fetch(url, core.request_options(options))
    if not future then return nil, err end
    local blob
    blob, err = future:wait()
    return blob and tostring(blob), err or future:info()
  end

  -- A scope makes a place of its own in the cache of tokens.
  local scopes = 0
  local function bearer(path)
    scopes = scopes + 1
    return ('Bearer realm="http://AT1%s",service="stub",scope="repository:r%d:pull"'):format(path or "/token", scopes)
  end

  it("waits a moment for another's first answer, and only once for one that does not come", function()
    local stuck <close> = core.fetch(http .. "/never", core.request_options { auth = principal() })
    helper.eventually(function() return log()[1] == "1 GET /never -" end)
    local started = core.now()
    for i = 1, 10 do assert.matches("^GET /echo", (fetch("/echo", "a" .. i, principal()))) end
    assert.is_true(core.now() - started < 1.5)
    assert.is_false(stuck:done())
  end)

  it("begins again in time when the process stopped while requests waited for another's first answer", function()
    local url = http .. "/slow-challenge?" .. encode(bearer "/slow-token?ms=1500")
    local code = ([[
      local core = require "theaterref.core"
      local auth = assert(core.auth { registry = %q, insecure = true, realm_hosts = {} })
      local began = core.now()
      local function at(seconds, url, timeout)
        while core.now() - began < seconds do end
        return core.fetch(url, core.request_options { auth = auth, timeout = timeout, retries = 0, scope = "repository:x:pull" })
      end
      local never, url = %q, %q
      local list = { at(0, never, 10), at(0, url, 10), at(0.1, never, 0.68) }
      for i = 1, 40 do list[#list + 1] = at(0.45 + i / 1000, url .. i, 10) end
      print "begun"
      io.stdout:flush()
      local done = 0
      for i = 4, #list do
        if list[i]:wait(10) then done = done + 1 end
      end
      print(done)]]):format(at, http .. "/never", url)
    local out = helper.run_ok(([[
      out=$(mktemp); LUA_PATH=%s LUA_CPATH=%s timeout -s KILL 30 %s -e %s > $out &
      until grep -q begun $out; do sleep 0.01; done; child=$(pgrep -P $!)
      sleep 0.1; kill -STOP $child; sleep 0.5; kill -CONT $child
      wait $!; tail -n 1 $out; rm $out]]):format(helper.quote(package.path), helper.quote(package.cpath), helper.lua,
      helper.quote(code)))
    assert.equal("40\n", out)
  end)

  it("sends user and password once it is asked for them", function()
    local auth = principal(alice)
    assert.equal("in", fetch("/challenge", 'Basic realm="x"', auth))
    assert.same({ "1 GET /challenge -", "1 GET /challenge Basic" }, log())
    assert.equal("in", fetch("/challenge", 'Basic realm="x"', auth))
    assert.same({ "1 GET /challenge Basic" }, log()) -- the registry is known
  end)

  it("keeps the tokens of callers apart that a realm tells apart: by a host's headers or a client certificate", function()
    local function ask(host, more)
      more = more or {}
      more.hosts = { [at] = host }
      assert.equal("in", fetch("/challenge", 'Bearer realm="http://AT1/token",scope="repository:callers:pull"', principal(), more))
      local tokens = 0
      for _, line in ipairs(log()) do tokens = tokens + (line:find "/token" and 1 or 0) end
      return tokens
    end
    assert.equal(1, ask())
    assert.equal(0, ask(nil, { headers = { ["X-Key"] = "not for realms" }, cache_scope = "all" }))
    assert.equal(1, ask { headers = { ["X-Key"] = "alice" } })
    assert.equal(1, ask { headers = { ["X-Key"] = "bob" }, cache_scope = "all" })
    assert.equal(0, ask { headers = { ["X-Key"] = "alice" }, cache_scope = "all" })
    assert.equal(1, ask { client_cert = "/alice.pem" })
    assert.equal(1, ask(nil, { client_cert = "/dev/null", client_key = "/dev/null" }))
    assert.equal(1, ask(nil, { proxy = "" }))
    assert.equal(0, ask())
  end)

  it("gives up on Basic after one refusal, or without a password", function()
    local _, err = fetch("/refuses", 'Basic realm="x"', principal { username = "alice", password = "wrong" })
    assert.equal("http_status", err.kind)
    assert.equal(401, err.status)
    assert.matches("it does not exist, or needs credentials other than those given", err.message)
    assert.same({ "1 GET /refuses -", "1 GET /refuses Basic" }, log())
    _, err = fetch("/refuses", 'Basic realm="x"', principal())
    assert.matches("it does not exist, or needs credentials", err.message)
    assert.same({ "1 GET /refuses -" }, log())
  end)

  it("gets a token at the realm, with and without credentials, and sends it", function()
    local challenge = bearer()
    assert.equal("in", fetch("/challenge", challenge, principal()))
    assert.same({ "1 GET /challenge -", "1 GET /token -", "1 GET /challenge Bearer" }, log())
    assert.equal("in", fetch("/challenge", bearer(), principal(alice)))
    assert.equal("1 GET /token Basic", log()[2])
    assert.equal("in", fetch("/challenge", bearer(), principal { identity_token = "identity/1+2" }))
    assert.equal("1 POST /token -", log()[2])
    assert.equal("in", fetch("/challenge", bearer "/access-token", principal(alice)))
    local _, err = fetch("/challenge", bearer(), principal { username = "alice", password = "wrong" })
    assert.equal("http_status", err.kind)
    assert.equal(401, err.status)
    assert.matches("cannot get a token: http://[%d.]+:%d+/token%?… answered 401", err.message)
    assert.matches("does not exist, or needs credentials", err.message)
  end)

  it("asks for the scopes of a challenge, each once, in any order of parameters, if the request names none", function()
    local challenge = 'Negotiate abc==, bearer scope="repository:a/b:pull,push repository:c:pull repository:a/b:pull,push" ,'
      .. '\tSERVICE=stub,x="\\"," , Realm="http://AT1/token?v=1"'
    assert.equal("in", fetch("/challenge", challenge, principal()))
    assert.same({ "v=1&service=stub&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull" }, token_queries())
  end)

  it("asks for no more than the request needs, whatever the challenge names", function()
    for _, wanted in ipairs { "repository:own:pull,push,delete", "registry:catalog:*", "repository:victim:push repository:own:pull" } do
      local own = "repository:own" .. #wanted .. ":pull"
      assert.equal("in", fetch("/challenge", ('Bearer realm="http://AT1/token",service="stub",scope="%s"'):format(wanted), principal(),
        { scope = own .. " repository:from:pull " .. own }))
      assert.same({ ("service=stub&scope=repository%%3Aown%d%%3Apull&scope=repository%%3Afrom%%3Apull"):format(#wanted) }, token_queries())
    end
  end)

  it("prefers Bearer, in whichever header it stands", function()
    assert.equal("in", fetch("/challenge", 'Basic realm="x"\n' .. bearer(), principal(alice)))
    assert.equal("1 GET /token Basic", log()[2])
  end)

  it("has one token for all requests of a principal and scope", function()
    local auth, challenge = principal(), bearer()
    local more = { scope = "repository:shared:pull" }
    for _ = 1, 3 do assert.equal("in", fetch("/challenge", challenge, auth, more)) end
    assert.same({ "1 GET /challenge -", "1 GET /token -", "1 GET /challenge Bearer", "1 GET /challenge Bearer",
      "1 GET /challenge Bearer" }, log())
    -- Another state has an object of its own.
    assert.equal("in", fetch("/challenge", challenge, principal(), more))
    assert.same({ "1 GET /challenge Bearer" }, log())
    -- Another principal has another token, and so has another scope.
    assert.equal("in", fetch("/challenge", challenge, principal(alice), more))
    assert.equal("1 GET /token Basic", log()[2])
    assert.equal("in", fetch("/challenge", challenge, auth, { scope = "repository:other:pull" }))
    assert.same({ "1 GET /token -", "1 GET /challenge Bearer" }, log()) -- its registry has asked before
  end)

  it("asks for a new token before the old one has expired, without a challenge", function()
    local auth, short, more = principal(), bearer "/short-token", { scope = "repository:short:pull" }
    assert.equal("in", fetch("/challenge", short, auth, more))
    helper.run "sleep 0.6"
    log()
    assert.equal("in", fetch("/challenge", short, auth, more))
    assert.same({ "1 GET /short-token -", "1 GET /challenge Bearer" }, log())
  end)

  it("keeps a token for a minute if what is said of its life makes no sense", function()
    for _, life in ipairs { "0", "-5", "-1e999", "1e999", '"3600"', "null" } do
      local auth, realm, more = principal(), bearer("/life-token?life=" .. life:gsub('"', "\\\"")), { scope = "repository:life:pull" }
      assert.equal("in", fetch("/challenge", realm, auth, more))
      log()
      assert.equal("in", fetch("/challenge", realm, auth, more))
      assert.same({ "1 GET /challenge Bearer" }, log(), life)
    end
  end)

  it("renews a token that is refused", function()
    local auth, challenge, more = principal(), bearer(), { scope = "repository:revoked:pull" }
    assert.equal("in", fetch("/challenge", challenge, auth, more))
    core.send(server.http .. "/revoke", core.request_options {}, {}):wait()
    log()
    assert.equal("in", fetch("/challenge", challenge, auth, more))
    assert.same({ "1 GET /challenge Bearer", "1 GET /token -", "1 GET /challenge Bearer" }, log())
    local _, err = fetch("/refuses", bearer(), principal(), { scope = "repository:refused:pull" })
    assert.equal(401, err.status)
    assert.is_true(#log() <= 5)
  end)

  it("renews a token in mid-pull, and resumes", function()
    local body, info = fetch("/breaks", bearer(), principal(), { retries = 3 })
    assert.equal(("0123456789abcdef"):rep(4096), body)
    assert.equal(2, info.attempts)
    assert.same({ "1 GET /breaks -", "1 GET /token -", "1 GET /breaks Bearer", "1 GET /breaks Bearer", "1 GET /token -",
      "1 GET /breaks Bearer" }, log())
  end)

  it("is asked again for a place that expired in mid-pull, where the rest is", function()
    local body = assert(fetch("/presigned", nil, principal()))
    assert.equal(("0123456789abcdef"):rep(4096), body)
    assert.same({ "1 GET /presigned -", "2 GET /expiring -", "2 GET /expiring -", "1 GET /presigned -", "2 GET /expiring -" }, log())
  end)

  it("names its realm itself if the one that it named for another repository refuses", function()
    local auth = principal(alice)
    local function pull(realm, repository)
      return fetch("/challenge", ('Bearer realm="http://AT1%s",service="stub"'):format(realm), auth,
        { scope = ("repository:%s:pull"):format(repository) })
    end
    assert.equal("in", (pull("/picky-token", "open")))
    local _, err = pull("/picky-token", "closed")
    assert.equal(403, err.status)
    assert.equal("in", (pull("/picky-token", "open2")))
    assert.equal("in", (pull("/token", "other")))
  end)

  it("is asked again for a token if its realm is busy for a moment", function()
    for _, path in ipairs { "/busy-token?429", "/busy-token?502", "/busy-token?503" } do
      assert.equal("in", (fetch("/challenge", bearer(path), principal())))
    end
  end)

  it("sends nothing to the place that a redirect leads to, and nothing back from there", function()
    for _, who in ipairs { alice, { identity_token = "identity/1+2" }, {} } do
      local challenge = bearer()
      assert.equal("stored", fetch("/blob", challenge, principal(who)))
      local lines = log()
      assert.equal("2 GET /store -", lines[#lines])
      assert.equal("stored", fetch("/there-and-back", challenge, principal(who)))
      lines = log()
      assert.equal("1 GET /store -", lines[#lines])
    end
    assert.equal("stored", fetch("/blob", "Basic", principal(alice)))
    local _, info = fetch("/blob", bearer(), principal(alice))
    assert.equal(server.elsewhere .. "/store?…", info.url)
  end)

  it("sends nothing to another registry than its own", function()
    local _, err = fetch("/challenge", "Basic", assert(core.auth { registry = "127.0.0.1:" .. server.ports[2], insecure = true,
      username = "alice", password = "s3cret" }))
    assert.equal(401, err.status)
    _, err = fetch("/challenge", "Basic", assert(core.auth { registry = at, username = "alice", password = "s3cret" }))
    assert.equal(401, err.status) -- https
    assert.same({ "1 GET /challenge -", "1 GET /challenge -" }, log())
  end)

  it("has one request for a token, however many wait for it", function()
    local code = ([[
      return function()
        local core = require "theaterref.core"
        local auth = assert(core.auth { registry = %q, insecure = true, username = "alice", password = "s3cret" })
        local options = core.request_options { auth = auth, scope = "repository:crowd:pull", timeout = 20 }
        local futures = {}
        for i = 1, 4 do futures[i] = assert(core.fetch(%q, options)) end
        for _, future in ipairs(futures) do assert(tostring(assert(future:wait())) == "in") end
        return "done"
      end]]):format(at, http .. "/challenge?" .. encode(bearer "/slow-token"))
    local results = threads.run(8, code)
    for _, result in ipairs(results) do assert.equal("done", result) end
    local tokens, challenges = 0, 0
    for _, line in ipairs(log()) do
      if line:find "/slow%-token" then tokens = tokens + 1 end
      if line == "1 GET /challenge -" then challenges = challenges + 1 end
    end
    assert.equal(1, tokens)
    assert.equal(1, challenges)
  end)

  -- Starts requests for so many repositories at once; returns their futures.
  local function start_all(count, auth, challenge, more)
    local futures = {}
    for i = 1, count do
      local options = { auth = auth, scope = ("repository:many%d:pull"):format(i), timeout = 10 }
      for name, value in pairs(more or {}) do options[name] = value end
      futures[i] = assert(core.fetch(http .. "/challenge?" .. encode(challenge), core.request_options(options)))
    end
    return futures
  end

  it("is challenged once by a registry, though many requests begin at once", function()
    for _, case in ipairs { { principal(), bearer(), 1 + 16 + 16 }, { principal(alice), "Basic", 1 + 16 } } do
      for _, future in ipairs(start_all(16, case[1], case[2])) do assert.equal("in", tostring(assert(future:wait()))) end
      local lines = log()
      assert.equal(case[3], #lines)
      assert.equal("1 GET /challenge -", lines[1])
      for i = 2, #lines do assert.not_equal("1 GET /challenge -", lines[i]) end
    end
  end)

  it("does not wait long for an answer to the first of many, or after its failure", function()
    local auth = principal()
    local silent = core.fetch(http .. "/never", core.request_options { auth = auth })
    local started = core.now()
    for _, future in ipairs(start_all(4, auth, bearer())) do assert.equal("in", tostring(assert(future:wait()))) end
    assert.is_true(core.now() - started < 3)
    silent:cancel()
    local futures = start_all(8, principal(alice), bearer "/denied-token")
    for _, future in ipairs(futures) do
      local _, err = future:wait()
      assert.equal(403, err.status)
    end
    futures = start_all(8, principal(alice), bearer(), { timeout = 5 })
    futures[1]:cancel()
    for i = 2, 8 do assert.equal("in", tostring(assert(futures[i]:wait()))) end
  end)

  it("goes on for the others when one of those that wait gives up", function()
    local challenge, auth = http .. "/challenge?" .. encode(bearer "/slow-token"), principal()
    local options = core.request_options { auth = auth, scope = "repository:left:pull" }
    local first, second = core.fetch(challenge, options), core.fetch(challenge, options)
    first:wait(0.15)
    first:cancel()
    assert.equal("in", tostring(assert(second:wait(10))))
    assert.equal(1, #token_queries())
    -- Nobody waits any more: the request for the token ends, too.
    options = core.request_options { auth = principal(alice), scope = "repository:abandoned:pull" }
    first = core.fetch(challenge, options)
    first:wait(0.15)
    first:cancel()
    assert.equal("in", tostring(assert(core.fetch(challenge, options):wait(10))))
  end)

  it("keeps one deadline from the call to the result", function()
    local started = core.now()
    local _, err = fetch("/challenge", bearer "/never", principal(), { timeout = 0.4 })
    assert.equal("timeout", err.kind)
    assert.matches("no token for its registry within 0.4 seconds", err.message)
    assert.is_true(core.now() - started < 3)
    _, err = fetch("/challenge", bearer "/never", principal(alice), { stall_timeout = 0.2, timeout = 8 })
    assert.equal("timeout", err.kind)
    assert.matches("cannot get a token: .*stall_timeout", err.message)
  end)

  describe("refuses, with the kind denied, a realm", function()
    for name, case in pairs {
      ["at a link-local address"] = { "http://169.254.169.254/token", "link%-local" },
      ["at a link-local address in another spelling"] = { "http://[::ffff:169.254.169.254]/token", "link%-local" },
      ["at another host"] = { "http://AT2/token", "another host; to allow it, add its host and port to realm_hosts" },
      ["that names a user"] = { "http://alice:pw@AT1/token", "names a user" },
      ["that is no URL"] = { "token", "neither http nor https" },
      ["of another kind"] = { "file:///etc/passwd", "neither http nor https" },
      ["with a fragment"] = { "http://AT1/token#x", "fragment" },
    } do
      it(name, function()
        local _, err = fetch("/challenge", ('Bearer realm="%s",service="s"'):format(case[1]), principal(alice), { scope = "repository:x:pull" })
        assert.equal("denied", err.kind)
        assert.matches(case[2], err.message)
        assert.is_nil(err.message:find "pw@")
        assert.same({ "1 GET /challenge -" }, log())
      end)
    end

    it("that redirects", function()
      local _, err = fetch("/challenge", bearer "/moved-token", principal(alice))
      assert.equal("denied", err.kind)
      assert.matches("not followed through redirects", err.message)
      for _, line in ipairs(log()) do assert.equal("1", line:sub(1, 1)) end
    end)

    it("in plain http, for a registry that is not", function()
      local auth = assert(core.auth { registry = "registry.example:5000", username = "alice", password = "s3cret", realm_hosts = { "tokens.example", "*.many.example", "odd.example:81" } })
      local function why(realm) return select(2, core.allows_realm(auth, realm)) end
      assert.matches("plain http", why "http://registry.example:5000/token")
      assert.is_nil(why "https://registry.example:5000/token")
      assert.matches("another host", why "https://registry.example/token")
      assert.is_nil(why "https://tokens.example/token")
      assert.matches("another host", why "https://tokens.example:8443/token")
      assert.is_nil(why "https://odd.example:81/")
      assert.matches("another host", why "https://odd.example/")
      assert.is_nil(why "https://a.many.example/token")
      assert.matches("another host", why "https://many.example/token")
      assert.matches("another host", why "https://tokens.example.evil/token")
      assert.matches("another host", why "https://auth.docker.io/token")
      local docker = assert(core.auth { registry = "registry-1.docker.io", username = "alice", password = "s3cret" })
      assert.is_true(core.allows_realm(docker, "https://auth.docker.io/token"))
      assert.is_false(core.allows_realm(docker, "https://gitlab.com/jwt/auth"))
      assert.is_true(core.allows_realm(assert(core.auth { registry = "registry.gitlab.com" }), "https://gitlab.com/jwt/auth"))
    end)
  end)

  it("takes a realm at another host for nobody's token only, and only over https", function()
    local nobody = assert(core.auth { registry = "registry.example:5000" })
    assert.is_true(core.allows_realm(nobody, "https://tokens.example/token"))
    for realm, words in pairs { ["http://tokens.example/token"] = "plain http", ["https://me@tokens.example/"] = "names a user",
      ["https://169.254.169.254/"] = "link%-local" } do
      assert.matches(words, select(2, core.allows_realm(nobody, realm)))
    end
    for _, known in ipairs { { username = "alice", password = "s3cret" }, { identity_token = "s3cret" } } do
      known.registry = "registry.example:5000"
      assert.matches("another host", select(2, core.allows_realm(assert(core.auth(known)), "https://tokens.example/token")))
    end
    assert.is_false((core.allows_realm(principal(), "http://127.0.0.1:" .. server.ports[2] .. "/token")))
  end)

  it("sends nothing of the caller's to a realm at another host, which the registry alone chose", function()
    local realm <close> = setmetatable({ server = helper.nginx() }, { __close = function(self) self.server:stop() end })
    local nginx, home = realm.server, realm.server.folder
    helper.write(home .. "/.netrc", "machine localhost login me password s3cret\n")
    -- Returns the message of what fails in a process that asks with all that identifies it.
    local function run(url)
      local challenge = encode(('Bearer realm="%s",service="stub"'):format(url))
      return helper.run_ok(("HOME=%s %s -e %s"):format(home, helper.lua, helper.quote(([[
        local core = require "theaterref.core"
        local all = { ca_file = %q, headers = { ["X-Key"] = "s3cret" }, netrc = true, client_cert = %q, client_key = %q }
        local own = { ca_file = all.ca_file, headers = { ["X-Key"] = "own" }, netrc = true, client_cert = all.client_cert, client_key = all.client_key }
        all.hosts, all.retries, all.scope = { localhost = own }, 0, "repository:nobody:pull"
        all.auth = assert(core.auth { registry = %q, insecure = true })
        print(select(2, core.fetch(%q, core.request_options(all)):wait(10)).message)]]):format(nginx.ca, home .. "/client.pem",
        home .. "/client.key", at, http .. "/challenge?" .. challenge))))
    end
    assert.matches("401", run(nginx.https .. "/token")) -- its token is none that the registry knows
    local future <close> = core.send(server.http .. "/log", core.request_options {}, {})
    assert.matches("Bearer headers::: ", tostring(assert(future:wait())), 1, true)
    -- One that demands a certificate gets none.
    assert.matches("cannot get a token: .*/token%?… answered 400", run(("https://localhost:%d/token"):format(nginx.bad_ports.wants)))
  end)

  it("takes a realm that is listed", function()
    assert.equal("in", fetch("/challenge", 'Bearer realm="http://AT2/token"', principal { realm_hosts = { "127.0.0.1:" .. server.ports[2] } }))
    assert.equal("2 GET /token -", log()[2])
  end)

  it("takes no answer without a token that can be sent", function()
    for path, kind in pairs { ["/no-token"] = "network", ["/odd-token"] = "network", ["/huge-token"] = "too_large",
      ["/denied-token"] = "http_status", ["/nowhere"] = "http_status" } do
      local _, err = fetch("/challenge", bearer(path), principal(alice))
      assert.equal(kind, err.kind, path)
    end
  end)

  it("takes hostile challenges for none", function()
    for _, text in ipairs { "", ",", "=", "Bearer", "Bearer realm", "Bearer realm=", 'Bearer realm="http://AT1/token', 'Bearer realm="a\\',
      'Bearer realm="http://AT1/token",realm="http://AT2/token"', "Bearer " .. ("x=y,"):rep(5000) .. "realm=z",
      'Bearer realm="http://AT1/' .. ("x"):rep(3000) .. '"', "Digest realm=x", 'Bearer realm="" ', "\1Bearer realm=x" } do
      local _, err = fetch("/challenge", text, principal())
      assert.equal("http_status", err.kind, text:sub(1, 60))
      assert.equal(401, err.status)
    end
    assert.same({ basic = true, bearer = true, realm = "r" }, core.parse_challenge "Basic\nBearer realm=r, Bearer realm=s")
    assert.same({ basic = true, bearer = false }, core.parse_challenge 'Bearer realm="\nBasic x=y')
  end)

  it("shows no secret in errors and facts", function()
    local texts = {}
    local function keep(value)
      if type(value) == "table" then
        for k, v in pairs(value) do keep(k) keep(v) end
      else
        texts[#texts + 1] = tostring(value)
      end
    end
    for _, who in ipairs { alice, { identity_token = "identity/1+2" } } do
      for _, path in ipairs { "/token", "/no-token", "/denied-token", "/moved-token" } do
        for _, asked in ipairs { "/challenge", "/closed", "/refuses", "/blob" } do
          local body, info = fetch(asked, bearer(path), principal(who))
          keep(body)
          keep(info)
        end
      end
    end
    local all = table.concat(texts, "\n")
    for _, secret in ipairs { "s3cret", "YWxpY2U6", "identity", "secret.token", "s1gned" } do assert.is_nil(all:find(secret, 1, true), secret) end
    assert.matches("does not exist, or needs credentials", all)
  end)

  it("takes the registry's own refusal for a repository that is missing or private", function()
    local _, err = fetch("/closed", bearer(), principal())
    assert.equal(404, err.status)
    assert.matches("404 Not Found %(it does not exist, or needs credentials%)", err.message)
  end)

  it("is of messages, too, whose caller judges a refusal", function()
    local options = core.request_options { auth = principal(alice), scope = "repository:sent:pull,push" }
    local function send(path, challenge, method)
      local future <close> = core.send(http .. path .. "?" .. encode(challenge), options,
        { method = method, body = method == "PUT" and core.blob(("x"):rep(100000)) or nil }, 10)
      local blob, err = future:wait()
      return blob and future:info().status, err
    end
    local challenge = bearer()
    assert.equal(200, send("/challenge", challenge, "PUT"))
    assert.equal(200, send("/challenge", challenge, "POST"))
    assert.same({ "1 PUT /challenge -", "1 GET /token Basic", "1 PUT /challenge Bearer", "1 POST /challenge Bearer" }, log())
    assert.equal(404, send("/closed", challenge, "HEAD"))
    assert.equal(401, send("/refuses", challenge, "HEAD"))
    local _, err = send("/challenge", 'Bearer realm="http://AT2/token"', "GET")
    assert.is_nil(err) -- it has a token
  end)

  it("separates what a cache holds by registry and principal, not by token", function()
    local function scope(auth, more)
      local options = { auth = auth }
      for name, value in pairs(more or {}) do options[name] = value end
      return core.request_scope(core.request_options(options))
    end
    local one = scope(principal(alice))
    assert.equal(64, #one)
    assert.equal(one, scope(principal(alice), { scope = "repository:x:pull" }))
    assert.not_equal(one, scope(principal { username = "alice", password = "other" }))
    assert.not_equal(one, scope(principal { identity_token = "x" }))
    assert.not_equal(one, scope(assert(core.auth { registry = "other.example", username = "alice", password = "s3cret" })))
    assert.equal("", scope(principal())) -- anybody may have what anonymous callers get
    assert.equal(scope(nil, { cache_scope = "team" }), scope(principal(alice), { cache_scope = "team" }))
  end)

  it("refuses options that are wrong", function()
    for _, registry in ipairs { "", "http://x", "x/y", "a@b", "x:99999", "x?" } do
      local _, err = core.auth { registry = registry }
      assert.equal("policy", err.kind, registry)
    end
    local _, err = core.auth { registry = "x", username = "a:b", password = "c" }
    assert.equal("policy", err.kind)
    _, err = core.auth { registry = "x", username = "a", password = "c\r\nd: e" }
    assert.equal("policy", err.kind)
    assert.has_error(function() core.auth {} end)
    assert.has_error(function() core.request_options { auth = 1 } end)
    assert.has_error(function() core.request_options { scope = 'a"b' } end)
  end)

  it("says it when no descriptor is left for the realm, and when the process ends meanwhile", function()
    local code = ([[
      local core, held = require "theaterref.core", {}
      local auth = core.auth { registry = %q, insecure = true, realm_hosts = { %q } }
      local o = core.request_options { retries = 0, auth = auth }
      core.fetch(%q, o):wait() -- leaves a connection to the registry
      while true do
        local file = io.open "/dev/null"
        if not file then break end
        held[#held + 1] = file
      end
      local future = core.send(%q, o, { method = "PUT" })
      print(select(2, future:wait()).message)
      held = nil
      collectgarbage()
      core.fetch(%q, o):wait(0.2)]]):format(at, "127.0.0.1:" .. server.ports[2], http .. "/store",
      http .. "/challenge?" .. encode 'Bearer realm="http://AT2/token"', http .. "/challenge?" .. encode(bearer "/never"))
    local out = helper.run_ok(("ulimit -n 64; LUA_PATH=%s LUA_CPATH=%s %s -e %s"):format(helper.quote(package.path),
      helper.quote(package.cpath), helper.lua, helper.quote(code)))
    assert.matches("cannot get a token: .*Too many open files", out)
  end)

  it("survives a fork: the child asks for tokens of its own", function()
    local auth, challenge, more = principal(), bearer(), { scope = "repository:forked:pull" }
    assert.equal("in", fetch("/challenge", challenge, auth, more))
    local slow = core.fetch(http .. "/challenge?" .. encode(bearer "/slow-token"), core.request_options { auth = auth })
    slow:wait(0.1)
    if threads.fork(20) then
      local ok = pcall(function()
        assert(select(3, slow:wait()) == "abandoned")
        assert(fetch("/challenge", challenge, auth, more) == "in")
      end)
      if ok then threads.leave() end
      os.exit(1)
    end
    threads.wait()
    assert.equal("in", tostring(assert(slow:wait(10))))
    assert.equal(3, #token_queries())
  end)

  describe("of Debian's docker-registry", function()
    local registry

    after_each(function() registry:stop() end)

    local function digest(text) return "sha256:" .. core.digest(text, "sha256") end

    -- Pushes a blob, and pulls it back.
    local function push_and_pull(options)
      local bytes = ("0123456789abcdef"):rep(5 << 16) -- 5 MiB
      local function send(method, url, body, headers)
        local future <close> = core.send(url, options, { method = method, body = body and core.blob(body), headers = headers }, 20)
        local blob, err = future:wait()
        assert(blob, err and err.message)
        return future:info(), tostring(blob)
      end
      local info = send("HEAD", registry.http .. "/v2/a/b/blobs/" .. digest(bytes))
      assert.equal(404, info.status)
      info = send("POST", registry.http .. "/v2/a/b/blobs/uploads/")
      assert.equal(202, info.status)
      local location = info.headers.location
      info = send("PUT", location .. (location:find "?" and "&" or "?") .. "digest=" .. digest(bytes):gsub(":", "%%3A"), bytes,
        { ["Content-Type"] = "application/octet-stream" })
      assert.equal(201, info.status)
      assert.equal(digest(bytes), info.headers["docker-content-digest"])
      local url = registry.http .. "/v2/a/b/blobs/" .. digest(bytes)
      info = send("HEAD", url)
      assert.equal(200, info.status)
      assert.equal(tostring(#bytes), info.headers["content-length"])
      local future <close> = core.fetch(url, options, nil, digest(bytes):sub(8))
      assert.equal(bytes, tostring(assert(future:wait())))
      return url
    end

    it("works without authentication, with passwords, and with tokens", function()
      registry = helper.registry "open"
      push_and_pull(core.request_options { auth = assert(core.auth { registry = registry.at, insecure = true }) })
      registry:stop()

      registry = helper.registry "htpasswd"
      local auth = { registry = registry.at, insecure = true, username = "alice", password = "s3cret" }
      push_and_pull(core.request_options { auth = assert(core.auth(auth)) })
      auth.password = "wrong"
      local _, err = core.fetch(registry.http .. "/v2/a/b/tags/list", core.request_options { auth = assert(core.auth(auth)) }):wait()
      assert.equal(401, err.status)
      registry:stop()

      registry = helper.registry "token"
      auth.registry, auth.password, auth.realm_hosts = registry.at, "s3cret", { registry.tokens.at }
      local url = push_and_pull(core.request_options { auth = assert(core.auth(auth)), scope = "repository:a/b:pull,push" })
      assert.equal(1, registry.tokens:requests "known")
      -- Anybody may pull.
      local options = core.request_options { auth = assert(core.auth { registry = registry.at, insecure = true,
        realm_hosts = { registry.tokens.at } }), scope = "repository:a/b:pull" }
      for _ = 1, 3 do assert(core.fetch(url, options):wait()) end
      assert.equal(1, registry.tokens:requests "anonymous")
      _, err = core.fetch(registry.http .. "/v2/a/none/manifests/latest", options):wait()
      assert.matches("does not exist, or needs credentials", err.message)
    end)

    it("gets new tokens when they expire", function()
      registry = helper.registry("token", 2)
      local options = core.request_options { auth = assert(core.auth { registry = registry.at, insecure = true, username = "alice",
        password = "s3cret", realm_hosts = { registry.tokens.at } }), scope = "repository:a/b:pull,push" }
      local url = push_and_pull(options)
      local before = registry.tokens:requests "known"
      helper.run "sleep 2.2"
      assert(core.fetch(url, options):wait())
      assert.equal(before + 1, registry.tokens:requests "known")
    end)
  end)
end)
