local helper = require "helper"
local core = require "theaterref.core"
local theaterref = require "theaterref"
local threads = require "threads"

local load = helper.load
local function key(...) return core.cache_key(...) end
local function request(options) return core.request_options(options) end
local function scope(options) return core.request_scope(request(options)) end

describe("a cache's key", function()
  local keys = { "r", key("r", "d"), key("r", "", "d"), key("r", "d", "s"), key("rd", "", "s"), "rd" }

  it("of a relative path is another one in another working folder", function()
    helper.with_folder(function(folder)
      helper.run_ok(("mkdir %s/a %s/b"):format(folder, folder))
      for _, name in ipairs { "a", "b" } do helper.write(("%s/%s/file"):format(folder, name), "of " .. name) end
      local script = helper.write(folder .. "/script.lua", [[
        local theaterref, uv = require "theaterref", require "luv"
        local cache = theaterref.resource_cache()
        local resolver = theaterref.resolver { cache = cache }
        local judged = theaterref.resolver { cache = cache, policy = { allow = function() return true end } }
        for _, name in ipairs { "a", "b", "a" } do
          uv.chdir(... .. "/" .. name)
          io.write(tostring(theaterref.resolve_reference_cached("file", cache)), ", ", tostring(resolver:resolve_cached "file"), ", ",
            tostring(judged:resolve_cached "file"), ". ")
        end
        print(cache:remove "file", #cache)]])
      assert.equal("of a, of a, of a. of b, of b, of b. of a, of a, of a. true\t0\n", helper.run_ok(helper.lua .. " " .. script .. " " .. folder))
    end)
  end)

  it("tells digests, scopes and references apart", function()
    local cache = theaterref.resource_cache()
    for i, name in ipairs(keys) do load(cache, name, "bytes " .. i) end
    for i, name in ipairs(keys) do
      assert.equal("bytes " .. i, tostring(cache:get(name)))
      assert.equal("hit", (cache:claim(name)))
    end
    assert.equal("r", key("r", "", ""))
    assert.equal("r\0d\0s", key("r", "d", "s"))
    assert.has_error(function() key("r\0d\0s") end, "bad argument #1 to 'cache_key' (holds a zero byte)")
    assert.has_error(function() key("r", "d\0s") end, "bad argument #2 to 'cache_key' (holds a zero byte)")
  end)

  it("is one of its reference's for remove, refresh and keep", function()
    for _, change in ipairs { "remove", "refresh" } do
      local cache = theaterref.resource_cache()
      for i, name in ipairs(keys) do load(cache, name, "bytes " .. i) end
      local _, lead = cache:claim(key("r", "d", "later"))
      assert.is_true(cache[change](cache, "r"))
      for i = 1, 4 do assert.is_nil(cache:get(keys[i])) end
      assert.equal("bytes 6", tostring(cache:get "rd"))
      assert.equal("bytes 5", tostring(cache:get(keys[5])))
      lead:complete(core.blob "too late")
      assert.is_nil(cache:get(key("r", "d", "later")))
    end
    local cache = theaterref.resource_cache { max_entries = 4 }
    for i = 1, 3 do load(cache, keys[i], "bytes " .. i) end
    assert.is_true(cache:keep "r")
    for i = 1, 20 do load(cache, "other" .. i, "x") end
    for i = 1, 3 do assert.equal("bytes " .. i, tostring(cache:get(keys[i]))) end
    cache:keep("r", false)
    for i = 21, 40 do
      load(cache, "other" .. i, "x")
      cache:get("other" .. i)
    end
    for i = 1, 3 do assert.is_nil(cache:get(keys[i])) end
  end)

  it("costs the same however many keys its reference has", function()
    local cache, blob = theaterref.resource_cache { max_bytes = 0 }, core.blob "x"
    local function seconds(name)
      local started = core.now()
      for i = 1, 20000 do
        local _, lead = cache:claim(name(i))
        lead:complete(blob)
      end
      return core.now() - started
    end
    local apart = seconds(function(i) return "r" .. i end)
    local together = seconds(function(i) return key("r", "", "scope " .. i) end)
    assert.is_true(together < 10 * apart + 0.5, together .. " s against " .. apart .. " s")
    assert.is_true(cache:remove "r")
    assert.equal(20000, #cache)
  end)
end)

describe("a request's scope", function()
  it("is empty if nothing in the request can change whose bytes arrive", function()
    assert.equal("", scope {})
    assert.equal("", scope { timeout = 1, max_bytes = 1, retries = 0, max_redirects = 1, user_agent = "x", require_length = true,
      refuse_private = true, redirect_hosts = { "a" }, headers = {} })
  end)

  it("is another for each header, certificate, netrc, socket, proxy and authority", function()
    local seen = {}
    for _, options in ipairs { { headers = { A = "1" } }, { headers = { A = "2" } }, { headers = { B = "1" } },
      { headers = { A = "1", B = "1" } }, { headers = { ["A1"] = "" } }, { headers = { A = "" } }, { client_cert = "x" },
      { client_key = "x" }, { netrc = true }, { unix_socket = "x" }, { proxy = "x" }, { proxy = "user:secret@x" },
      { proxy = "" }, { ca_file = "x" }, { client_cert = "x", client_key = "x" }, { client_cert = "xclient_key" } } do
      local digest = scope(options)
      assert.matches("^%x+$", digest)
      assert.equal(64, #digest)
      assert.is_nil(seen[digest])
      seen[digest] = true
    end
  end)

  it("depends neither on the case of a header's name nor on the order of headers", function()
    local many, same = {}, {}
    for i = 1, 20 do
      many["Header-" .. i] = "v" .. i
      same["hEADER-" .. 21 - i] = "v" .. 21 - i
    end
    assert.equal(scope { headers = many }, scope { headers = same })
  end)

  it("is of cache_scope alone if there is one, in every process", function()
    local named = scope { cache_scope = "team", headers = { Authorization = "secret" }, netrc = true }
    assert.equal(scope { cache_scope = "team" }, named)
    assert.not_equal(scope { cache_scope = "other" }, named)
    assert.equal(core.digest "team", named)
  end)

  it("is known in this process and its children only", function()
    local code = [[
      local core, threads = require "theaterref.core", require "threads"
      local function scope() return core.request_scope(core.request_options { headers = { A = "1" } }) end
      local before = %s
      if threads.fork() then
        io.write(scope(), "\n")
        threads.leave()
      end
      threads.wait()
      io.write(scope(), "\n")]]
    local seen = {}
    for _, before in ipairs { "scope()", "nil" } do
      local out = helper.run_ok(helper.lua .. " -e " .. helper.quote(code:format(before)))
      local child, parent = out:match "^(%x+)\n(%x+)\n$"
      if before == "scope()" then assert.equal(parent, child) end
      assert.is_nil(seen[parent])
      seen[parent] = true
    end
  end)

  it("is an option of a resolver, a policy and a host", function()
    assert(theaterref.resolver { cache_scope = "a", hosts = { ["h.example"] = { cache_scope = "b" } } })
    assert.has_error(function() theaterref.resolver { cache_scope = 1 } end,
      "the resolver option 'cache_scope' must be a string, not 1")
  end)
end)

describe("the record of a fetch", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)

  local function record(path, options, known)
    local future = core.future()
    if known then future:know(table.unpack(known)) end
    assert(core.fetch(server.http .. path, request(options or {}), future))
    local blob = assert(future:wait(10))
    return future:freshness(), blob
  end

  it("names the hosts that it was redirected to, in order", function()
    assert.same({}, record("/fine").hosts)
    assert.same({}, record("/to?" .. server.http .. "/fine").hosts)
    local other = "http://LOCALHOST:" .. server.port
    assert.same({ "localhost" }, record("/to?" .. other .. "/fine").hosts)
    assert.same({ "localhost", "sub.localhost" },
      record("/to?" .. other .. "/to?http://sub.localhost:" .. server.port .. "/fine").hosts)
    assert.same({ "localhost" }, record("/to?" .. other .. "/to?" .. server.http .. "/fine").hosts)
  end)

  it("tells of a private peer, which a proxy hides", function()
    assert.is_true(record("/fine").private)
    local future = core.future()
    assert(core.fetch("http://example.invalid/fine", request { proxy = server.http }, future))
    assert(future:wait(10))
    assert.is_false(future:freshness().private)
  end)

  it("adds the way of a 304 to the way that its bytes came", function()
    local known = { etag = '"same"', hosts = { "a.example" }, private = false, content = "sha256:x", extra = { manifest = "m" } }
    local found, blob = record("/to?http://localhost:" .. server.port .. "/page-a", {}, { core.blob "old", known })
    assert.equal("old", tostring(blob))
    assert.same({ "localhost", "a.example" }, found.hosts)
    assert.is_true(found.private)
    assert.same({ "sha256:x", { manifest = "m" } }, { found.content, found.extra })
  end)

  it("goes in and out of a future as it is, and is bounded", function()
    local function kept(given)
      local future = core.future()
      future:complete(core.blob "x", given)
      return future:freshness()
    end
    local all = { etag = "e", last_modified = "l", url = "u", unsigned_url = "v", hosts = { "a", "b" }, private = true,
      content = "c\0d\0e", extra = { one = "1", two = "" } }
    assert.same(all, kept(all))
    assert.same({ hosts = {}, private = false }, kept {})
    assert.same({}, kept(nil))
    local hosts = {}
    for i = 1, 1000 do hosts[i] = "host-" .. i .. ".example.org" end
    local cut = kept({ hosts = hosts }).hosts
    assert.equal("host-1.example.org", cut[1])
    assert.equal("*", cut[#cut])
    assert.is_true(#cut < 200)
    assert.has_error(function() kept { extra = { big = ("x"):rep(5000) } } end, "'extra' holds more than 4096 bytes")
    assert.has_error(function() kept { content = ("x"):rep(300) } end, "'content' must be a key of 1 to 256 bytes")
    assert.has_error(function() kept { content = "" } end, "'content' must be a key of 1 to 256 bytes")
  end)
end)

describe("a claim's request", function()
  local guarded, listed = request { refuse_private = true }, request { redirect_hosts = { "a.example", "*.b.example" } }
  local any = request { redirect_hosts = "any" }

  it("misses an entry whose peer or hosts it forbids", function()
    local cache = theaterref.resource_cache()
    load(cache, "private", "x", { private = true })
    load(cache, "redirected", "x", { hosts = { "a.example", "x.b.example" } })
    load(cache, "astray", "x", { hosts = { "a.example", "b.example" } })
    load(cache, "plain", "x", {})
    local function answers(options)
      local list = {}
      for i, name in ipairs { "private", "redirected", "astray", "plain" } do list[i] = (cache:claim(name, options)) end
      return table.concat(list, " ")
    end
    assert.equal("hit hit hit hit", answers(any))
    assert.equal("lead hit hit hit", answers { request = guarded })
    assert.equal("hit hit lead hit", answers(listed))
    local state = request { redirect_hosts = {} }
    assert.equal("hit lead lead hit", answers(state))
    local hosts = {}
    for i = 1, 1000 do hosts[i] = "h" .. i .. ".b.example" end
    load(cache, "far", "x", { hosts = hosts })
    assert.equal("lead", (cache:claim("far", listed)))
  end)

  it("is asked about bytes that no claim found", function()
    for record, allowed in pairs { [{ private = true }] = { false, true }, [{ hosts = { "a.example" } }] = { true, true },
      [{ hosts = { "c.example" } }] = { true, false }, [{}] = { true, true } } do
      assert.same(allowed, { core.request_allows(guarded, record), core.request_allows(listed, record) })
    end
    -- A leader that completes with such bytes all the same fills the cache for others.
    local cache = theaterref.resource_cache()
    load(cache, "r", "x", { private = true }, guarded)
    assert.equal("lead", (cache:claim("r", guarded)))
    assert.equal("x", tostring(cache:get "r"))
  end)

  it("leaves what it may not have to others, and stores its own beside it", function()
    local name = "beside-" .. math.random(1 << 40)
    local cache, other = theaterref.resource_cache { name = name }, theaterref.resource_cache { name = name }
    load(cache, "r", "private", { private = true })
    load(cache, "r", "public", { private = false }, guarded)
    for _ = 1, 2 do
      for _, handle in ipairs { cache, other } do
        assert.equal("private", tostring(select(2, handle:claim "r")))
        assert.equal("private", tostring(handle:get "r"))
        assert.equal("private", tostring(select(2, handle:claim("r", listed))))
        assert.equal("public", tostring(select(2, handle:claim("r", guarded))))
      end
    end
    assert.is_true(cache:refresh "r")
    assert.equal("lead", (cache:claim "r"))
    assert.equal("lead", (cache:claim("r", guarded)))
    assert.equal(0, #cache)
    cache:close()
  end)

  it("stores for everybody where there is nothing that it may not have", function()
    local cache = theaterref.resource_cache()
    load(cache, "r", "public", { private = false }, guarded)
    assert.equal("public", tostring(cache:get "r"))
    assert.equal(1, #cache)
    load(cache, "r", "newer", { private = false }, { request = guarded, revalidate = true })
    assert.equal("newer", tostring(cache:get "r"))
    assert.equal(1, #cache)
  end)

  it("neither waits for a load under other limits, nor shares its failure", function()
    local cache = theaterref.resource_cache { negative_ttl = 60 }
    local _, lead = cache:claim "r"
    local how, own = cache:claim("r", guarded)
    assert.equal("lead", how)
    local waits, waiting = cache:claim("r", request { refuse_private = true, timeout = 3 })
    assert.equal("wait", waits)
    own:fail("not_found", "nothing")
    assert.equal("not_found", select(2, waiting:wait(0)).kind)
    assert.equal("wait", (cache:claim("r", guarded)))
    assert.equal("wait", (cache:claim "r"))
    lead:complete(core.blob "x", { private = true })
    assert.equal("hit", (cache:claim "r"))
    assert.equal("wait", (cache:claim("r", guarded)))
  end)

  it("does not revalidate, or fall back to, what it may not have", function()
    local cache = theaterref.resource_cache { ttl = 0, stale_if_error = 60, stale_while_revalidate = 60 }
    load(cache, "r", "private", { private = true, etag = "e" })
    assert.equal("stale", (cache:claim "r"))
    local how, lead = cache:claim("r", guarded)
    assert.equal("lead", how)
    assert.is_nil(lead:known())
    lead:fail("network", "down")
    assert.is_nil((lead:wait(0)))
  end)

  it("holds on many threads, with scopes and contents", function()
    local name, blobs = "limits-" .. math.random(1 << 40), core.live_blobs()
    threads.run(8, ([[
      local number = ...
      local core = require "theaterref.core"
      local cache = core.resource_cache { name = %q, max_entries = 12, ttl = 0.02, negative_ttl = 0.01 }
      local guarded = core.request_options { refuse_private = true }
      local listed = core.request_options { redirect_hosts = { "a" } }
      math.randomseed(number)
      local function check(key, blob, request)
        local where, private, host = tostring(blob):match "^(.-) (%%a+) (.*)$"
        assert(where == key, "the bytes of another key")
        assert(request ~= guarded or private == "public", "from a private peer")
        assert(request ~= listed or host ~= "b", "from a host that it may not")
      end
      local function lead(key, future, request)
        local fate = math.random(8)
        if fate == 1 then return future:cancel() end
        if fate == 2 then return future:fail("not_found", key) end
        local private = request ~= guarded and math.random(2) == 1
        local host = request == listed and "a" or math.random(2) == 1 and "b" or "a"
        local text = key .. (private and " private " or " public ") .. host
        future:complete(core.blob(text), { private = private, hosts = { host }, etag = "e",
          content = math.random(2) == 1 and core.cache_key("sha256:" .. core.digest(text), nil, "s") or nil })
      end
      local function one_step()
        local reference = "r" .. math.random(3)
        local key = core.cache_key(reference, math.random(2) == 1 and "d" or "", math.random(2) == 1 and "s" or "")
        local request = ({ guarded, listed, false })[math.random(3)] or nil
        local dice = math.random(60)
        if dice == 1 then cache:remove(reference)
        elseif dice == 2 then cache:refresh(reference)
        elseif dice == 3 then cache:keep(reference, math.random(4) == 1)
        elseif dice == 4 and math.random(10) == 1 then cache:clear()
        elseif dice < 15 then
          local blob = cache:get(key)
          if blob then check(key, blob) end
        else
          local how, what = cache:claim(key, request)
          if how == "lead" then
            lead(key, what, request)
          elseif how == "wait" then
            local blob = what:wait(0.001)
            if blob then check(key, blob, request) end
          else
            check(key, what, request)
          end
        end
      end
      return function()
        local enough = core.now() + 0.4
        repeat
          for _ = 1, 500 do one_step() end
          assert(#cache <= 12)
        until core.now() > enough
        cache:clear()
        cache:close()
      end]]):format(name))
    helper.eventually(function()
      collectgarbage()
      return core.live_blobs() <= blobs
    end)
  end)
end)
