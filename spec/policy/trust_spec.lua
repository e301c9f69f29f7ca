local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

-- Signatures and the rule 'accept', where a resolver resolves. For the formats see
-- spec/core/signature_spec.lua.
describe("trust:", function()
  local folder, server
  local module = "\0asm\1\0\0\0"

  -- A pair of keys: <name>.pem and <name>.pub.
  local function make_key(name)
    helper.run_ok(("cd %s && openssl ecparam -name prime256v1 -genkey -noout -out %s.pem && openssl ec -in %s.pem -pubout -out %s.pub 2>&1")
      :format(folder, name, name, name))
  end

  setup(function()
    folder = helper.temporary_folder()
    server = helper.nginx()
    for _, name in ipairs { "release", "second", "stranger" } do make_key(name) end
  end)

  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  local function key(name) return folder .. "/" .. name .. ".pub" end

  -- The text of a signature by a key, as 'cosign sign-blob' writes it.
  local function signature(bytes, name)
    local file = helper.write(folder .. "/to-sign", bytes)
    return helper.run_ok(("openssl dgst -sha256 -sign %s/%s.pem %s | base64 -w0"):format(folder, name, file))
  end

  -- A sigstore bundle with the same.
  local function bundle(bytes, name)
    local digest = helper.run_ok(("openssl dgst -sha256 -binary %s | base64 -w0"):format(helper.write(folder .. "/to-sign", bytes)))
    return ([[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},
      "messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"%s"},"signature":"%s"}}]]):format(digest,
      signature(bytes, name))
  end

  local function file(name, text) return helper.write(folder .. "/" .. name, text) end

  local count = 0

  -- A file on the server, with a signature by a key beside it if one is named. Returns its URL.
  local function serve(bytes, name, ending)
    count = count + 1
    local path = ("package-%d.wasm"):format(count)
    server:put(path, bytes)
    if name then server:put(path .. (ending or ".sig"), ending and bundle(bytes, name) or signature(bytes, name)) end
    return server.http .. "/" .. path, path
  end

  local function by(names, more)
    local keys = {}
    for i, name in ipairs(names) do keys[i] = key(name) end
    return { signatures = function(_, ctx)
      if ctx.purpose == "signature" or ctx.purpose == "key" then error "nobody signs these" end
      return { keys = keys, threshold = more and more.threshold, from = more and more.from }
    end }
  end

  local function resolver(policy, options)
    local all = { policy = policy, log = false, retries = 0, home = folder .. "/home" }
    for name, value in pairs(options or {}) do all[name] = value end
    return assert(theaterref.resolver(all))
  end

  local function refusal(policy, reference, options)
    local blob, err = resolver(policy, options):resolve(reference)
    assert.is_nil(blob)
    return err
  end

  describe("the rule 'signatures'", function()
    it("lets bytes through that a key signed, wherever they are", function()
      local local_file = file("signed.wasm", module)
      file("signed.wasm.sig", signature(module, "release"))
      local store = assert(theaterref.content_store("demo", { home = folder .. "/home" }))
      assert(store:store_at_label("app.wasm", module))
      assert(store:store_at_label("app.wasm.sig", signature(module, "release")))
      local url = serve(module, "release")
      local bundled = serve(module, "release", ".sigstore.json")
      local with_query, path = serve(module)
      server:put(path .. ".sig", signature(module, "release"))
      for _, reference in ipairs { local_file, "file://" .. local_file, "store://demo/app.wasm", url, bundled, url .. "#field",
        with_query .. "?version=2#sha256=" .. core.blob(module):digest() } do
        local future = assert(resolver(by { "stranger", "release" }):start(reference))
        assert.equal(module, tostring(assert(future:wait())))
        assert.same({ key "release" }, future.signed_by)
      end
      helper.eventually(function() return server:requests("/" .. path .. ".sig?version=2") == 1 end)
    end)

    it("refuses all others, and says what it looked for", function()
      local url, path = serve(module)
      local err = refusal(by { "release" }, url)
      assert.equal("untrusted", err.kind)
      assert.equal(("Not trusted: %s: 0 of 1 signatures by %s found: %s.sig: HTTP request failed for %s.sig: 404 Not Found; "
        .. "%s.sigstore.json: HTTP request failed for %s.sigstore.json: 404 Not Found"):format(url, key "release", url, url, url, url),
        err.message)
      server:put(path .. ".sig", signature(module, "stranger"))
      assert.matches("0 of 1 signatures .*%.sig: .*another key", refusal(by { "release" }, url).message)
      server:put(path .. ".sig", signature(module .. "x", "release"))
      assert.equal("untrusted", refusal(by { "release" }, url).kind)
    end)

    it("counts different keys against its threshold", function()
      local url, path = serve(module, "release")
      assert.matches("1 of 2 signatures", refusal(by({ "release", "second" }, { threshold = 2 }), url).message)
      server:put(path .. ".sigstore.json", bundle(module, "release"))
      assert.matches("1 of 2 signatures", refusal(by({ "release", "second" }, { threshold = 2 }), url).message)
      server:put(path .. ".sigstore.json", bundle(module, "second"))
      local future = resolver(by({ "release", "second" }, { threshold = 2 })):start(url)
      assert(future:wait())
      assert.same({ key "release", key "second" }, future.signed_by)
      assert.equal("untrusted", refusal(by({ "release" }, { threshold = 2 }), url).kind)
      assert.equal("untrusted", refusal(by({ "release", "release" }, { threshold = 2 }), url).kind)
    end)

    it("may be met by one good signature beside a bad one", function()
      local url, path = serve(module, "stranger")
      server:put(path .. ".sigstore.json", bundle(module, "release"))
      assert(resolver(by { "release" }):resolve(url))
    end)

    it("takes signatures from elsewhere", function()
      local url = serve(module)
      file("elsewhere", signature(module, "release"))
      local place = serve(signature(module, "release"))
      assert(resolver(by({ "release" }, { from = place })):resolve(url))
      assert(resolver(by({ "release" }, { from = { server.http .. "/none", place } })):resolve(url))
      assert(resolver(by({ "release" }, { from = "data:," .. signature(module, "release") })):resolve(url))
      local path = file("unsigned.wasm", module)
      assert(resolver(by({ "release" }, { from = folder .. "/elsewhere" })):resolve(path))
      -- Bytes from the network never have a local signature, wherever 'rewrite' leads.
      assert.matches("bytes from the network need a signature from the network",
        refusal(by({ "release" }, { from = folder .. "/elsewhere" }), url).message)
      local policy = by { "release" }
      policy.rewrite = function(ref) return ref:find "%.sig$" and folder .. "/elsewhere" or ref end
      assert.equal("untrusted", refusal(policy, url).kind)
    end)

    it("needs a key of its own kind, and trusts nobody without one", function()
      local url = serve(module, "release")
      local function keys(list) return { signatures = function() return { keys = list } end } end
      assert.equal("untrusted", refusal(keys {}, url).kind)
      for name, expected in pairs { ["release.pem"] = "private key", ["none.pub"] = "No such file", ["to-sign"] = "key" } do
        local err = refusal(keys { folder .. "/" .. name }, url)
        assert.equal("untrusted", err.kind)
        assert.matches(expected, err.message)
        assert.is_nil(err.message:find(helper.read(folder .. "/release.pem"):match "\n(%w+)"))
      end
      assert(resolver(keys { helper.read(key "release") }):resolve(url))
      server:put("release.pub", helper.read(key "release"))
      local digest = core.blob(helper.read(key "release")):digest()
      assert.matches("needs a SHA%-256 in its reference", refusal(keys { server.http .. "/release.pub" }, url).message)
      assert(resolver(keys { server.http .. "/release.pub#sha256=" .. digest }):resolve(url))
      local other = server.http .. "/release.pub#sha256=" .. ("0"):rep(64)
      assert.equal("untrusted", refusal(keys { other }, url).kind)
    end)

    it("finds keys beside its script", function()
      local script = file("trusting.lua", 'return { signatures = theaterref.policy.signed { keys = { "release.pub" } } }')
      local future = assert(resolver(script):start((serve(module, "release"))))
      assert(future:wait())
      assert.same({ "release.pub" }, future.signed_by)
      assert.equal("untrusted", refusal(script, (serve(module, "second"))).kind)
    end)

    it("asks 'rewrite' and 'allow' about signatures, and no other rule", function()
      local url = serve(module, "release")
      local asked = {}
      local policy = by { "release" }
      local function note(rule, answer)
        policy[rule] = function(ref, ctx)
          asked[#asked + 1] = ctx.purpose == "signature" and rule .. " " .. ref:gsub("^.*/", "") or nil
          return answer or ref
        end
      end
      note "rewrite"
      note("allow", true)
      policy.integrity = function(_, ctx) assert(ctx.purpose ~= "signature") end
      policy.accept = function(_, ctx) return assert(ctx.purpose ~= "signature") end
      assert(resolver(policy):resolve(url))
      local name = url:gsub("^.*/", "")
      assert.same({ "rewrite " .. name .. ".sig", "allow " .. name .. ".sig" }, asked)
      policy.allow = function(_, ctx) return ctx.purpose ~= "signature", "no signatures today" end
      assert.matches("no signatures today", refusal(policy, url).message)
    end)

    it("follows redirects of a signature to other hosts only if they are named", function()
      local url = server.http .. "/to-other"
      local _, err = resolver(by({ "release" }, { from = url })):resolve((serve(module)))
      assert.matches("redirect", err.message)
      _, err = resolver(by({ "release" }, { from = url }), { redirect_hosts = { "localhost" } }):resolve((serve(module)))
      assert.is_nil(err.message:find "redirect")
      assert.equal("untrusted", err.kind) -- the page there is no signature
    end)

    it("reads no signature of megabytes", function()
      local url, path = serve(module)
      server:put(path .. ".sig", ("A"):rep(3 << 20))
      local err = refusal(by { "release" }, url)
      assert.equal("untrusted", err.kind)
      assert.matches("1048576", err.message)
      local unsigned = file("large.wasm", module)
      file("large.wasm.sig", ("A"):rep(3 << 20))
      assert.matches("1048576", refusal(by { "release" }, unsigned).message)
    end)

    it("is asked about each reference of a chain", function()
      local url = serve(module)
      local asked = {}
      local policy = { schemes = { pkg = function() return { reference = url } end },
        signatures = function(ref)
          asked[#asked + 1] = ref
          return ref:find "^http" and { keys = { key "release" } } or nil
        end }
      assert.equal("untrusted", refusal(policy, "pkg://x").kind)
      assert.same({ "pkg://x", url }, asked)
    end)

    it("refuses with a reason", function()
      local err = refusal({ signatures = function() return nil, "not from there" end }, (serve(module)))
      assert.same({ "denied", "not from there" }, { err.kind, err.message:match "not from there" })
    end)

    it("is met by enough signatures only, whatever names files have", function()
      -- A signature by one of two keys, beside a file that is named as its digest.
      local document = signature(module, "release")
      local name = core.blob(document):digest()
      file(name, module)
      file(name .. ".sig", document)
      local script = ([[
        local theaterref, cache = require "theaterref", require("theaterref").resource_cache()
        assert(theaterref.resolver({ cache = cache, log = false }):resolve_cached %q)
        local strict = theaterref.resolver { cache = cache, log = false, policy = { signatures = function()
          return { keys = { "release.pub", "second.pub" }, threshold = 2 }
        end } }
        for _ = 1, 3 do assert(select(2, strict:resolve_cached(%q)).kind == "untrusted") end]]):format(name, name)
      local _, err, status = helper.run(("cd %s && %s -e %s"):format(folder, helper.lua, helper.quote(script)))
      assert.equal(0, status, err)
    end)

    it("holds for the links of a chain whose digest a store has", function()
      local url = serve(module)
      local store = assert(theaterref.content_store("linked", { home = folder .. "/home", algorithm = "sha256" }))
      local digest = assert(store:put(module))
      local policy = { schemes = { pkg = function() return { reference = url } end },
        integrity = function() return { sha256 = digest, store = "linked" } end,
        signatures = theaterref.policy.signed { keys = { key "release" }, prefixes = { server.http .. "/" } } }
      assert.equal("untrusted", refusal(policy, "pkg://x").kind)
      policy.allow = function(ref) return not ref:find "^http", "no links" end
      assert.equal("denied", refusal(policy, "pkg://x").kind)
    end)

    it("looks for the endings that it names, one for each signer", function()
      local url, path = serve(module)
      server:put(path .. ".a.sig", signature(module, "release"))
      server:put(path .. ".b.sig", signature(module, "second"))
      local policy = { signatures = theaterref.policy.signed { keys = { key "release", key "second" }, threshold = 2,
        endings = { ".a.sig", ".b.sig" } } }
      local future = resolver(policy):start(url)
      assert(future:wait())
      assert.same({ key "release", key "second" }, future.signed_by)
      server:put(path .. ".b.sig", "")
      assert.matches("1 of 2 signatures by .* found %(by [^,]*release.pub%): .*b.sig: it is empty",
        refusal(policy, url).message)
    end)

    it("never shows the text of a key, which may be a private one", function()
      local url = serve(module)
      local pem = helper.read(folder .. "/release.pem")
      local body = pem:match "\n(%S+)\n"
      for _, text in ipairs { pem, (pem:gsub("\n", " ")), (pem:gsub("%-%-%-%-%-[^-]*%-%-%-%-%-", ""):gsub("\n", "")) } do
        local function policy() return { signatures = function() return { keys = { text } } end } end
        assert.is_nil(refusal(policy(), url).message:find(body:sub(1, 20), 1, true))
        local steps = {}
        resolver(policy()):trace(url, { purpose = "direct" }, function(step) steps[#steps + 1] = step end)
        for _, step in ipairs(steps) do
          local shown = type(step.answer) == "table" and step.answer.keys or step.reason
          assert.is_nil(tostring(shown):find(body:sub(1, 20), 1, true))
        end
        local config = file("private.conf.lua", ("return { signatures = { keys = { %q } } }"):format(text))
        local out, err = helper.run(("HOME=%s %s lua/bin/theaterref config --config %s"):format(folder, helper.lua, config))
        assert.is_nil((out .. err):find(body:sub(1, 20), 1, true))
        assert.is_truthy(out:find("(a text)", 1, true), out)
      end
    end)

    it("gives a server of signatures 30 seconds, whatever bytes it drips", function()
      local asked
      local policy = by { "release" }
      policy.request = function(_, ctx) asked = asked or ctx.purpose == "signature" return {} end
      local r = resolver(policy, { timeout = 0.4, stall_timeout = 60 })
      local _, err = r:resolve((serve(module)))
      assert.is_true(asked)
      assert.equal("untrusted", err.kind)
      policy = by({ "release" }, { from = server.http .. "/dripping/large.sig" })
      server:put("large.sig", ("A"):rep(100000))
      _, err = resolver(policy, { timeout = 0.4 }):resolve(file("dripped", module))
      assert.matches("not done within 0.4 seconds", err.message) -- a shorter limit of the request stays
    end)

    it("checks bytes that are no mapped file any more", function()
      local bytes = module .. ("\0\4\1xyz"):rep(200000)
      local store = assert(theaterref.content_store("mapped", { home = folder .. "/home" }))
      local hash = assert(store:store_at_label("large.wasm", bytes))
      assert(store:store_at_label("large.wasm.sig", signature(bytes, "release")))
      local cache = theaterref.resource_cache()
      assert(resolver(nil, { cache = cache }):resolve_cached "store://mapped/large.wasm")
      local strict = resolver(by { "release" }, { cache = cache })
      local blob = assert(strict:resolve_cached "store://mapped/large.wasm")
      local path = helper.run_ok(("find %s/home/store/mapped/data -name %s"):format(folder, hash)):match "[^\n]+"
      helper.run_ok(("chmod u+w %s; printf EVIL | dd of=%s conv=notrunc bs=1 seek=100 2>/dev/null"):format(path, path))
      assert.equal(bytes, tostring(blob))
      assert.equal(bytes, tostring(assert(strict:resolve_cached "store://mapped/large.wasm")))
      assert(store:put(bytes))
    end)

    it("checks the digest of a key, wherever 'rewrite' leads", function()
      local url = serve(module, "stranger")
      server:put("fixed.pub", helper.read(key "release"))
      server:put("evil.pub", helper.read(key "stranger"))
      local fixed = server.http .. "/fixed.pub#sha256=" .. core.blob(helper.read(key "release")):digest()
      local policy = { rewrite = function(ref, ctx) return ctx.purpose == "key" and server.http .. "/evil.pub" or ref end }
      local err = refusal(policy, url, { signatures = { keys = { fixed } } })
      assert.equal("untrusted", err.kind)
      assert.matches("does not have the SHA%-256", err.message)
    end)

    it("has bounds on what a script may name", function()
      local url = serve(module)
      local many = {}
      for i = 1, 17 do many[i] = "http://127.0.0.1:1/" .. i end
      for answer, expected in pairs { [{ keys = many }] = "'keys'", [{ keys = { key "release" }, from = many }] = "'from'" } do
        local err = refusal({ signatures = function() return answer end }, url)
        assert.equal("policy", err.kind)
        assert.is_truthy(err.message:find(expected .. "' must be a", 2, true) or err.message:find(expected, 1, true), err.message)
        assert.matches("at most 16 strings", err.message)
      end
      local keys = { key "release" }
      local policy = { signatures = function() return { keys = keys, from = { server.http .. "/slow?1", server.http .. "/slow?2" } } end }
      assert.equal("timeout", refusal(policy, url, { resolve_timeout = 0.3 }).kind)
    end)

    it("takes a key file of any name", function()
      local url = serve(module, "release")
      helper.write(folder .. "/count", helper.read(key "release"))
      local script = file("counting.lua", 'return { signatures = theaterref.policy.signed { keys = { "count" } } }')
      assert(resolver(script):resolve(url))
      assert(resolver(script):resolve(url))
    end)

    it("must answer what it may", function()
      local url = serve(module)
      for answer, expected in pairs { ["'x'"] = "returned a string", ["{}"] = "returned a table without keys",
        ["{ keys = 'x' }"] = "'keys' must be a list of at most 16 strings", ["{ key = {} }"] = "no field of the answer 'key'",
        ["{ keys = {}, threshold = 0.5 }"] = "'threshold'", ["{ keys = {}, from = 1 }"] = "'from'" } do
        local err = refusal({ signatures = load("return " .. answer) }, url)
        assert.equal("policy", err.kind)
        assert.is_truthy(err.message:find(expected, 1, true), err.message)
      end
    end)
  end)

  describe("bytes that a resolver without rules cached are judged all the same:", function()
    local cache, disk_home
    local judge = function() return by { "release" } end

    before_each(function()
      cache = theaterref.resource_cache { ttl = 3600 }
      disk_home = helper.temporary_folder()
    end)

    after_each(function() helper.remove(disk_home) end)

    local function cached(policy, options)
      local all = { cache = cache }
      for name, value in pairs(options or {}) do all[name] = value end
      return resolver(policy, all)
    end

    local function untrusted(r, url)
      local blob, err = r:resolve_cached(url)
      assert.is_nil(blob)
      assert.equal("untrusted", err.kind)
    end

    it("in memory", function()
      local url = serve(module)
      assert(cached():resolve_cached(url))
      untrusted(cached(judge()), url)
      assert.equal(module, tostring(cache:get(url))) -- which the other one accepted
    end)

    it("in a disk cache, also offline", function()
      local url = serve(module)
      cache = theaterref.resource_cache { disk = { home = disk_home } }
      assert(cached():resolve_cached(url))
      cache = theaterref.resource_cache { disk = { home = disk_home } }
      untrusted(cached(judge(), { offline = "none" }), url)
      untrusted(cached(judge()), url)
      cache = theaterref.resource_cache { disk = { home = disk_home } }
      assert(cached(nil, { offline = "none" }):resolve_cached(url)) -- it is still there for the other one
    end)

    it("stale, while the server is away", function()
      local silent = helper.misbehaving()
      finally(function() silent:stop() end)
      cache = theaterref.resource_cache { ttl = 0, stale_if_error = 60 }
      assert(cached():resolve_cached(silent.http .. "/then-silent"))
      untrusted(cached(judge(), { stall_timeout = 0.5 }), silent.http .. "/then-silent")
    end)

    it("unchanged by a 304", function()
      local url = serve(module)
      cache = theaterref.resource_cache { ttl = 0 }
      assert(cached():resolve_cached(url))
      untrusted(cached(judge()), url)
      assert.is_true(server:requests '" 304 ' > 0)
    end)

    it("from a store that a lockfile names", function()
      local url = serve(module)
      local store = assert(theaterref.content_store("locked", { home = folder .. "/home", algorithm = "sha256" }))
      assert(store:put(module))
      local lockfile = file("unsigned.lock", "theaterref lockfile 1\nsha256=" .. core.blob(module):digest() .. " size=8  " .. url .. "\n")
      local err = refusal(judge(), url, { lockfile = lockfile, offline = "locked" })
      assert.equal("untrusted", err.kind)
    end)

    it("by the waiter of a leader that never runs again", function()
      local url = serve(module)
      local leader = assert(cached():start(url, { cached = true }))
      local waiter = assert(cached(judge()):start(url, { cached = true }))
      local blob, err = waiter:wait()
      assert.is_nil(blob)
      assert.equal("untrusted", err.kind)
      assert.is_nil(leader.result) -- nobody has driven it
      assert(leader:wait())
    end)

    it("after a failed candidate", function()
      local good, bad = serve(module, "release"), serve(module)
      local policy = judge()
      policy.rewrite = function(ref) return ref:find "none" and { bad, server.http .. "/none", good } or ref end
      local future = assert(cached(policy):start "https://none.invalid/x")
      assert.equal(module, tostring(assert(future:wait())))
      assert.equal(good, future.target)
    end)
  end)

  describe("a cache", function()
    it("forgets bytes that nobody accepted, and asks once more for those it had", function()
      local url, path = serve "<!DOCTYPE html><title>Log in</title>"
      local cache = theaterref.resource_cache()
      local strict = resolver({ accept = theaterref.policy.wasm { module = true } }, { cache = cache })
      local _, err = strict:resolve_cached(url)
      assert.equal("rejected", err.kind)
      assert.matches("HTML", err.message)
      assert.equal(0, #cache)
      local lenient = resolver(nil, { cache = cache })
      assert(lenient:resolve_cached(url))
      assert.equal(1, #cache)
      helper.eventually(function() return server:requests("/" .. path) == 2 end)
      local before = 2
      assert.equal("rejected", select(2, strict:resolve_cached(url)).kind)
      assert.equal("rejected", select(2, strict:resolve_cached(url)).kind)
      helper.eventually(function() return server:requests("/" .. path) == before + 1 end) -- once for these bytes
      assert.equal(1, #cache)
      server:put(path, module)
      assert.equal("rejected", select(2, strict:resolve_cached(url)).kind) -- it has been asked already
      cache:refresh(url)
      assert.equal(module, tostring(assert(strict:resolve_cached(url))))
      assert.equal(module, tostring(assert(lenient:resolve_cached(url))))
    end)

    it("keeps what another consumer accepted, though a strict one rejects that", function()
      local home = helper.temporary_folder()
      finally(function() helper.remove(home) end)
      local url = serve "text"
      local cache = theaterref.resource_cache { disk = { home = home } }
      local lenient = resolver(nil, { cache = cache })
      assert(lenient:resolve_cached(url))
      for _ = 1, 3 do
        local strict = resolver({ accept = function() return false, "never" end }, { cache = cache })
        assert.equal("rejected", select(2, strict:resolve_cached(url)).kind)
        assert.equal("rejected", select(2, resolver({ accept = function() error "no" end }, { cache = cache }):resolve_cached(url)).kind == "policy"
          and "rejected")
        assert.is_true(select(2, lenient:resolve_cached(url)))
      end
      local other = resolver(nil, { cache = theaterref.resource_cache { disk = { home = home } }, offline = "none" })
      assert(other:resolve_cached(url))
    end)

    it("counts a hit of a consumer without rules as acceptance", function()
      local url = serve "text"
      local cache = theaterref.resource_cache()
      local failing = resolver({ accept = function() error "not now" end }, { cache = cache })
      assert.equal("policy", select(2, failing:resolve_cached(url)).kind)
      assert(resolver(nil, { cache = cache }):resolve_cached(url))
      local strict = resolver({ accept = function() return false end }, { cache = cache, offline = "none" })
      assert.equal("rejected", select(2, strict:resolve_cached(url)).kind)
      assert.equal(1, #cache)
    end)

    it("asks each place once for bytes in the place of bad ones", function()
      local cache = theaterref.resource_cache()
      local urls, paths = {}, {}
      for i = 1, 2 do
        urls[i], paths[i] = serve "the same bad bytes"
        assert(resolver(nil, { cache = cache }):resolve_cached(urls[i]))
        server:put(paths[i], module)
      end
      local strict = resolver({ accept = theaterref.policy.wasm { module = true } }, { cache = cache })
      for i = 1, 2 do assert.equal(module, tostring(assert(strict:resolve_cached(urls[i])))) end
    end)

    it("gets new bytes for old ones that are rejected", function()
      local url, path = serve "not yet"
      local cache = theaterref.resource_cache()
      assert(resolver(nil, { cache = cache }):resolve_cached(url))
      server:put(path, module)
      local strict = resolver({ accept = theaterref.policy.wasm { module = true } }, { cache = cache })
      assert.equal(module, tostring(assert(strict:resolve_cached(url))))
      assert.equal(module, tostring(cache:get(url)))
    end)

    it("has one reload for all who wait, which only bytes use up, and which keeps what is known of them", function()
      local home = helper.temporary_folder()
      finally(function() helper.remove(home) end)
      local url, path = serve "old"
      local cache = theaterref.resource_cache { disk = { home = home } }
      assert(resolver(nil, { cache = cache }):resolve_cached(url))
      local strict = resolver(by { "release" }, { cache = cache })
      helper.run_ok("mv " .. server.folder .. "/www/" .. path .. " " .. server.folder .. "/www/away")
      assert.equal("untrusted", select(2, strict:resolve_cached(url)).kind)
      server:put(path, module)
      server:put(path .. ".sigstore.json", bundle(module, "release"))
      local futures = {}
      for i = 1, 5 do futures[i] = assert(strict:start(url, { cached = true })) end
      for i = 1, 5 do assert.equal(module, tostring(assert(futures[i]:wait()))) end
      assert.equal(2, server:requests("GET /" .. path .. " HTTP/1.1\" 200"))
      assert.is_truthy(core.record(cache:get(url)).etag)
    end)

    it("reloads through a scheme, too", function()
      local url, path = serve "old"
      local cache = theaterref.resource_cache()
      assert(resolver(nil, { cache = cache }):resolve_cached(url))
      server:put(path, module)
      server:put(path .. ".sig", signature(module, "release"))
      local policy = by { "release" }
      policy.schemes = { pkg = function() return { reference = url } end }
      local strict = resolver(policy, { cache = cache })
      for _ = 1, 3 do assert.equal(module, tostring(assert(strict:resolve_cached "pkg://x"))) end
    end)

    it("keeps no bytes on disk that their server wants nowhere, nor those of hosts that others refuse", function()
      local home = helper.temporary_folder()
      finally(function() helper.remove(home) end)
      local cache = theaterref.resource_cache { disk = { home = home } }
      local url = server.http .. "/to-other"
      assert(resolver(nil, { cache = cache }):resolve_cached(url))
      local strict = resolver({ accept = function(blob) return false, tostring(blob) end }, { cache = cache })
      assert.equal("rejected", select(2, strict:resolve_cached(url)).kind)
      local narrow = resolver({ allow = function() return true end }, { cache = cache })
      assert.matches("redirect", select(2, narrow:resolve_cached(url)).message)
    end)

    it("asks again for a bundle that has fewer signers than are required", function()
      local url, path = serve(module, "release", ".sigstore.json")
      local cache = theaterref.resource_cache()
      local policy = by({ "release", "second" }, { threshold = 2 })
      local strict = resolver(policy, { cache = cache })
      assert.matches("1 of 2", select(2, strict:resolve_cached(url)).message)
      server:put(path .. ".sig", signature(module, "release"))
      server:put(path .. ".sigstore.json", bundle(module, "second"))
      helper.run_ok("touch -d 2020-01-01 " .. server.folder .. "/www/" .. path .. ".sigstore.json") -- another ETag
      assert(strict:resolve_cached(url))
    end)

    it("leaves the entries of others on disk, also when it finds them unchanged", function()
      local home = helper.temporary_folder()
      finally(function() helper.remove(home) end)
      local url = serve "theirs"
      assert(resolver(nil, { cache = theaterref.resource_cache { disk = { home = home } } }):resolve_cached(url))
      local strict = resolver(by { "release" }, { cache = theaterref.resource_cache { ttl = 0, disk = { home = home } } })
      assert.equal("untrusted", select(2, strict:resolve_cached(url)).kind)
      assert(resolver(nil, { cache = theaterref.resource_cache { disk = { home = home } }, offline = "none" }):resolve_cached(url))
    end)

    it("keeps an entry as it is when it takes its bytes out of a mapped file", function()
      local home = helper.temporary_folder()
      finally(function() helper.remove(home) end)
      local url = serve(("x"):rep(1 << 20))
      assert(resolver(nil, { cache = theaterref.resource_cache { disk = { home = home } } }):resolve_cached(url))
      local cache = theaterref.resource_cache { disk = { home = home } }
      local lenient = resolver(nil, { cache = cache })
      assert(lenient:resolve_cached(url))
      cache:keep(url)
      assert.equal("untrusted", select(2, resolver(by { "release" }, { cache = cache }):resolve_cached(url)).kind)
      assert.is_true(select(2, lenient:resolve_cached(url)))
    end)

    it("asks again for a signature that is older than the bytes", function()
      local url, path = serve(module, "release")
      local cache = theaterref.resource_cache()
      local strict = resolver(by { "release" }, { cache = cache })
      assert(strict:resolve_cached(url))
      local newer = module .. "\0\2\1x"
      server:put(path, newer)
      server:put(path .. ".sig", signature(newer, "release"))
      helper.run_ok("touch -d 2020-01-01 " .. server.folder .. "/www/" .. path .. ".sig") -- another ETag
      cache:refresh(url)
      assert.equal(newer, tostring(assert(strict:resolve_cached(url))))
    end)

    it("keeps signatures on disk for a start without a network", function()
      local home = helper.temporary_folder()
      local url = serve(module, "release")
      local function open(options)
        options.cache = theaterref.resource_cache { disk = { home = home } }
        return resolver(by { "release" }, options)
      end
      assert(open({}):resolve_cached(url))
      core.forget_verdicts()
      assert.equal(module, tostring(assert(open({ offline = "none" }):resolve_cached(url))))
      helper.remove(home)
    end)
  end)

  it("a verdict about cached bytes is remembered until the policy is loaded again, with its keys", function()
    local url, path = serve(module, "release")
    local public = file("changing.pub", helper.read(key "release"))
    local script = file("reloaded.lua", 'return { signatures = theaterref.policy.signed { keys = { "changing.pub" } } }')
    local cache = theaterref.resource_cache()
    local r = resolver(script, { cache = cache })
    assert(r:resolve_cached(url))
    helper.run_ok("rm " .. server.folder .. "/www/" .. path .. ".sig")
    helper.write(public, helper.read(key "second"))
    cache:remove(url .. ".sig")
    assert(r:resolve_cached(url))
    assert.equal("untrusted", select(2, r:resolve(url)).kind) -- loaded anew
    file("reloaded.lua", 'return { signatures = theaterref.policy.signed { keys = { "changing.pub" } } } -- again')
    assert.equal("untrusted", select(2, r:resolve_cached(url)).kind)
    server:put(path .. ".sig", signature(module, "second"))
    assert(r:resolve_cached(url))
  end)

  it("bytes that change between check and use are those that were checked", function()
    local path = file("swapped.wasm", module)
    file("swapped.wasm.sig", signature(module, "release"))
    local policy = by { "release" }
    policy.accept = function() -- after the signature was checked
      file("swapped.wasm", "other")
      return true
    end
    assert.equal(module, tostring(assert(resolver(policy):resolve(path))))
  end)

  describe("the rule 'accept'", function()
    it("tries the next candidate for what it rejects", function()
      local login, good = serve "<html><body>Log in</body></html>", serve(module)
      local policy = { accept = theaterref.policy.wasm { module = true }, rewrite = function() return { login, good } end }
      assert.equal(module, tostring(assert(resolver(policy):resolve "http://any.invalid/")))
      policy.rewrite = function() return { login, server.http .. "/none" } end
      local err = refusal(policy, "http://any.invalid/")
      assert.equal("rejected", err.kind)
      assert.matches("HTML.*404", err.message)
    end)

    it("is asked each time, also on hits, with what is known", function()
      local url, asked = serve(module), {}
      local digest = core.blob(module):digest()
      local r = resolver({ accept = function(blob, ctx)
        asked[#asked + 1] = { #blob, ctx.digest, ctx.reference, ctx.purpose }
        return true
      end }, { cache = theaterref.resource_cache() })
      assert(r:resolve_cached(url) and r:resolve_cached(url) and r:resolve(url .. "#sha256=" .. digest))
      assert.same({ { 8, nil, url, "direct" }, { 8, nil, url, "direct" }, { 8, digest, url .. "#sha256=" .. digest, "direct" } }, asked)
    end)

    it("gives a script a view of the bytes, for one call", function()
      local script = file("viewing.lua", [[
        local kept
        return { accept = function(blob, ctx)
          if kept then return false, select(2, pcall(function() return kept:sub(1) end)) end
          if ctx.reference:find "keep" then kept = blob end
          local first, second = blob:byte(1, 2)
          return false, table.concat({ #blob, blob:sub(2, 4), blob:sub(-1), first, second, blob:wasm_type(), tostring(blob):sub(2, 3),
            blob:sub(100), tostring(pcall(function() blob.x = 1 end)), tostring(getmetatable(blob)) }, " ")
        end }]])
      local r = resolver(script)
      local err = select(2, r:resolve(file("viewed", module)))
      assert.equal("rejected", err.kind)
      assert.matches(": 8 asm \0 0 97 module as  false theaterref$", err.message)
      assert.matches(": 8 asm", select(2, r:resolve(file("keep", module))).message)
      assert.matches("the bytes are gone: the call is over", select(2, r:resolve(file("viewed", module))).message)
    end)

    it("charges what a script reads to its budget", function()
      local large = file("large", ("x"):rep(5 << 20))
      local function accept(text)
        return resolver(file("greedy.lua", "return { accept = function(blob) " .. text .. " end }"))
      end
      for text, expected in pairs { ["return #blob:sub(1, -1) > 0"] = "4 MiB", ["return #tostring(blob) > 0"] = "4 MiB",
        ["while true do blob:sub(1, 1000000) end"] = "the script ran", ["while true do blob:wasm_type() end"] = "the script ran",
        ["return blob:byte(1, -1) == 1"] = "too many bytes", ["while true do #blob = 1 end"] = "syntax" } do
        if expected ~= "syntax" then
          local err = select(2, accept(text):resolve(large))
          assert.equal("policy", err.kind)
          assert.is_truthy(err.message:find(expected, 1, true), err.message)
        end
      end
      assert(accept("return #blob:sub(1, 1000) == 1000"):resolve(large))
    end)

    it("must answer true, or false and a reason", function()
      local path = file("answered", module)
      for answer, expected in pairs { ["1"] = "returned a number", ["nil"] = "returned nothing", ["false, 5"] = "as its reason" } do
        local err = refusal({ accept = load("return " .. answer) }, path)
        assert.equal("policy", err.kind)
        assert.matches(expected, err.message)
      end
      assert.equal("rejected", refusal({ accept = function() return false end }, path).kind)
    end)
  end)

  describe("policy.wasm", function()
    it("takes the kinds of WebAssembly that it is told to, for packages", function()
      local both = { module = module, component = "\0asm\x0d\0\1\0" }
      for kind, bytes in pairs(both) do
        local path = file("a." .. kind, bytes)
        for accepted in pairs(both) do
          local blob, err = resolver({ accept = theaterref.policy.wasm { [accepted] = true } }):resolve(path)
          if accepted == kind then
            assert.equal(bytes, tostring(blob))
          else
            assert.matches(("a wasm %s, but the policy accepts a wasm %s only"):format(kind, accepted), err.message)
          end
        end
      end
      local manifest = file("wasm.toml", 'name = "a"\npackage = "a.module"\n')
      assert(resolver({ accept = theaterref.policy.wasm { module = true } }):plan(manifest))
    end)

    it("says what it found instead", function()
      for bytes, expected in pairs { [""] = "empty", ["<!doctype html>\n<p>"] = "HTML",
        ["version https://git-lfs.github.com/spec/v1\noid sha256:1\n"] = "Git LFS", ["\x1f\x8b\8\0"] = "gzip",
        [module .. "\1\5x"] = "cut off", ["{\"a\":1}"] = "JSON", ["(module)"] = "text" } do
        local err = refusal({ accept = theaterref.policy.wasm { module = true } }, file("something", bytes))
        assert.is_truthy(err.message:find(expected, 1, true), err.message)
      end
    end)

    it("of 'signed' counts every spelling of a reference", function()
      helper.run_ok("mkdir -p " .. folder .. "/pk")
      file("pk/x.wasm", module)
      helper.run_ok("mkdir -p " .. server.folder .. "/www/pk && chmod 755 " .. server.folder .. "/www/pk")
      server:put("pk/x.wasm", module)
      local policy = { signatures = theaterref.policy.signed { keys = { key "release" },
        prefixes = { folder .. "/pk/", server.http .. "/pk/" } } }
      local host = server.http:match "//(.*)"
      for _, reference in ipairs { folder .. "/pk/x.wasm", folder .. "//pk/x.wasm", folder .. "/./pk/x.wasm", "file://" .. folder .. "/pk/x.wasm",
        "FILE://" .. folder .. "/pk/x.wasm", "file://localhost" .. folder .. "/%70k/x.wasm", server.http .. "/pk/x.wasm",
        server.http .. "/%70k/x.wasm", server.http .. "//pk/x.wasm", "http://user@" .. host .. "/pk/x.wasm",
        server.http .. "/other/..%2fpk/x.wasm", "http://u%2Fv@" .. host .. "/pk/x.wasm",
        server.http .. "/.%2F.%2F.%2F.%2F.%2Fpk/x.wasm" } do
        assert.equal("untrusted", refusal(policy, reference).kind, reference)
      end
      -- Before 'rewrite', too, and in a manifest that the prefix covers.
      local copy = serve(module)
      policy.rewrite = function(ref, ctx)
        return ref:find "/mirrored/" and copy or theaterref.policy.default.rewrite(ref, ctx)
      end
      policy.signatures = theaterref.policy.signed { keys = { key "release" }, prefixes = { server.http .. "/mirrored/" },
        purposes = { "direct", "package" } }
      assert.equal("untrusted", refusal(policy, server.http .. "/mirrored/x.wasm").kind)
      helper.run_ok("mkdir -p " .. server.folder .. "/www/mirrored && chmod 755 " .. server.folder .. "/www/mirrored")
      policy.rewrite = nil
      server:put("mirrored/data.toml", 'name = "d"\npackage = "data:application/wasm;base64,AGFzbQEAAAA="\n')
      assert.equal("untrusted", select(2, resolver(policy):plan(server.http .. "/mirrored/data.toml")).kind)
      server:put("moved.toml", helper.read(server.folder .. "/www/mirrored/data.toml"))
      policy.rewrite = theaterref.policy.mirror { [server.http .. "/mirrored/data.toml"] = server.http .. "/moved.toml" }
      assert.equal("untrusted", select(2, resolver(policy):plan(server.http .. "/mirrored/data.toml")).kind)
      policy.rewrite = nil
      -- Prefixes are as free.
      helper.run_ok(("cd %s && ln -sfn pk current && ln -sf pk/x.wasm app.wasm"):format(folder))
      for prefix, ref in pairs { [server.http:gsub("127", "127", 1):upper() .. "/pk/"] = server.http .. "/pk/x.wasm",
        [server.http .. "/x/../pk/"] = server.http .. "/pk/x.wasm", [folder .. "/current"] = folder .. "/pk/x.wasm",
        [folder .. "/app.wasm"] = "file://" .. folder .. "/app.wasm" } do
        policy.signatures = theaterref.policy.signed { keys = { key "release" }, prefixes = { prefix } }
        assert.equal("untrusted", refusal(policy, ref).kind, prefix)
      end
      policy.signatures = theaterref.policy.signed { keys = { key "release" }, prefixes = { server.http .. "/pk/" } }
      helper.run_ok("mkdir -p " .. folder .. "/app")
      helper.write(folder .. "/app/honest.toml", 'name = "h"\npackage = "../pk/x.wasm"\ninitial_state = "data:,{%22a%22:%22b/../c%22}"\n')
      assert(resolver(policy):plan(folder .. "/app/honest.toml"))
      assert(resolver(policy):resolve((serve(module))))
    end)

    it("checks its options", function()
      assert.has_error(function() theaterref.policy.signed { keys = {}, purposes = {} } end,
        "policy.signed: 'purposes' is empty; leave it out for all")
      assert.error_matches(function() theaterref.policy.signed { keys = {}, purposes = { "pakage" } } end, "did you mean 'package'")
      assert.error_matches(function() theaterref.policy.signed { keys = {}, prefixes = {} } end, "'prefixes' is empty")
      assert.has_error(function() theaterref.policy.wasm {} end, "policy.wasm: it accepts nothing; give module or component")
      assert.error_matches(function() theaterref.policy.wasm { modul = true } end, "did you mean 'module'")
      assert.has_error(function() theaterref.policy.signed { threshold = 1 } end, "policy.signed: it needs 'keys'")
    end)
  end)

  describe("a plan", function()
    local manifest

    before_each(function()
      file("planned.wasm", module)
      file("planned.wasm.sig", signature(module, "release"))
      manifest = file("planned.toml", 'name = "planned"\npackage = "planned.wasm"\n')
    end)

    it("says who signed its package, and what it is", function()
      local policy = { signatures = theaterref.policy.signed { keys = { key "release" }, purposes = { "package" } } }
      local plan = assert(resolver(policy):plan(manifest))
      assert.same({ { key "release" }, "wasm module" }, { plan.signed_by, plan.package_type })
      plan = assert(resolver():plan(manifest))
      assert.same({ nil, "wasm module" }, { plan.signed_by, plan.package_type })
      file("planned.wasm", "something else")
      assert.equal("unknown", assert(resolver():plan(manifest)).package_type)
    end)

    it("needs signatures for everything with the option 'signatures'", function()
      local required = { signatures = { keys = { key "release" } } }
      local err = select(2, resolver(nil, required):plan(manifest))
      assert.same({ "untrusted", manifest }, { err.kind, err.reference })
      file("planned.toml.sig", signature(helper.read(manifest), "release"))
      assert(resolver(nil, required):plan(manifest))
      os.remove(folder .. "/planned.toml.sig")
      assert.error_matches(function() theaterref.resolver { signatures = { kees = {} } } end, "did you mean 'keys'")
    end)

    it("emits who signed, and what was refused", function()
      local events = {}
      local policy = { signatures = theaterref.policy.signed { keys = { key "release" }, purposes = { "package" } } }
      local options = { on_event = function(event)
        if event.type == "signed" or event.type == "refusal" then events[#events + 1] = event end
      end }
      assert(resolver(policy, options):plan(manifest))
      file("planned.wasm.sig", "")
      core.forget_verdicts()
      assert.is_nil((resolver(policy, options):plan(manifest)))
      assert.same({ "signed", key "release", "package" }, { events[1].type, events[1].signed_by, events[1].purpose })
      assert.same({ "refusal", "package" }, { events[2].type, events[2].purpose })
    end)

    it("is verified offline by what 'lock' kept", function()
      local script = file("locking.lua", 'return { signatures = theaterref.policy.signed { keys = { "release.pub" }, '
        .. 'purposes = { "package" } } }')
      local url = serve(module, "release")
      file("locked.toml", ('name = "locked"\npackage = "%s"\n'):format(url))
      local command = ("HOME=%s THEATERREF_CONFIG= %s lua/bin/theaterref %%s --policy %s --home %s/home"):format(folder, helper.lua,
        script, folder)
      helper.run_ok(command:format(("lock %s/locked.toml -o %s/theater.lock --store sealed"):format(folder, folder)))
      local line = helper.read(folder .. "/theater.lock"):match("[^\n]*" .. url:gsub("%p", "%%%0"))
      local digest = core.blob(helper.read(server.folder .. "/www/" .. url:match "[^/]*$" .. ".sig")):digest()
      assert.matches("signatures=" .. digest, line)
      assert.is_nil(helper.read(folder .. "/theater.lock"):find(".sig", 1, true))
      local out = helper.run_ok(command:format(("plan %s/locked.toml --json --lockfile %s/theater.lock --offline sealed"):format(folder,
        folder)))
      assert.matches('"signed_by":%["release.pub"%]', out)
    end)

    it("is verified offline by all that 'lock' kept: of the rule and the option, of chains, and keys", function()
      local url, path = serve(module, "release")
      server:put(path .. ".sigstore.json", bundle(module, "second"))
      server:put("kept.pub", helper.read(key "second"))
      local fixed = server.http .. "/kept.pub#sha256=" .. core.blob(helper.read(key "second")):digest()
      local manifest_file = file("chained.toml", 'name = "c"\npackage = "pkg://x"\n')
      file("chained.toml.sig", signature(helper.read(manifest_file), "second"))
      local script = file("chain.lua", ([[return { schemes = { pkg = function() return { reference = %q } end },
        signatures = theaterref.policy.signed { keys = { "release.pub" }, purposes = { "package" }, prefixes = { %q } } }]]):format(url,
        server.http))
      local config = file("chain.conf.lua", ("return { policy = 'chain.lua', signatures = { keys = { %q } } }"):format(fixed))
      local command = ("cd / && HOME=%s %s %s/lua/bin/theaterref %%s --config %s --home %s/home"):format(folder, helper.lua, helper.root,
        config, folder)
      helper.run_ok(command:format(("lock %s -o %s/chain.lock --store chained"):format(manifest_file, folder)))
      server:put(path .. ".sig", "")
      server:put(path .. ".sigstore.json", "")
      os.remove(folder .. "/chained.toml.sig")
      assert(script)
      local out = helper.run_ok(command:format(("plan %s --json --lockfile %s/chain.lock --offline chained"):format(manifest_file, folder)))
      assert.matches('"signed_by":%["release.pub",', out)
    end)

    it("has the keys of its configuration beside it", function()
      helper.run_ok("mkdir -p " .. folder .. "/etc " .. folder .. "/apart")
      helper.write(folder .. "/etc/release.pub", helper.read(key "release"))
      helper.write(folder .. "/apart/release.pub", helper.read(key "stranger"))
      local config = file("etc/theaterref.conf.lua", 'return { signatures = { keys = { "release.pub" } } }')
      file("evil.wasm", module)
      file("evil.wasm.sig", signature(module, "stranger"))
      local _, err, status = helper.run(("cd %s/apart && HOME=%s %s %s/lua/bin/theaterref resolve %s/evil.wasm --config %s")
        :format(folder, folder, helper.lua, helper.root, folder, config))
      assert.same({ 1, "Not trusted" }, { status, err:match "Not trusted" })
    end)

    it("is explained without the secrets in its keys", function()
      local script = file("leaking.lua", [[return { signatures = function() return { keys = { "http://user:s3cretpw@h/k.pub?token=t0ken#sha256=]]
        .. ("0"):rep(64) .. [[" }, from = { "http://user:fr0mpw@h/s?tok=fr0mtok" } } end }]])
      local out, err = helper.run(("HOME=%s THEATERREF_CONFIG= %s lua/bin/theaterref explain %s --policy %s --json"):format(folder, helper.lua,
        manifest, script))
      for _, secret in ipairs { "s3cretpw", "t0ken", "fr0mpw", "fr0mtok" } do assert.is_nil((out .. err):find(secret, 1, true), secret) end
    end)

    it("is explained with its signatures", function()
      local script = file("explaining.lua", 'return { signatures = theaterref.policy.signed { keys = { "release.pub" }, '
        .. 'purposes = { "package" } }, accept = theaterref.policy.wasm { module = true } }')
      local out = helper.run_ok(("HOME=%s THEATERREF_CONFIG= %s lua/bin/theaterref explain %s --policy %s"):format(folder, helper.lua, manifest,
        script))
      assert.matches("signatures  " .. folder:gsub("%p", "%%%0") .. "/planned.wasm %-> {\"keys\":\"release.pub\"}", out)
      assert.matches("signed_by   " .. folder:gsub("%p", "%%%0") .. "/planned.wasm %-> release.pub   %[resolver%]", out)
      assert.matches("accept      " .. folder:gsub("%p", "%%%0") .. "/planned.wasm %-> true", out)
    end)
  end)

  describe("the commands", function()
    local function command(arguments)
      return helper.run(("cd %s && HOME=%s THEATERREF_CONFIG= %s %s/lua/bin/theaterref %s"):format(folder, folder, helper.lua, helper.root,
        arguments))
    end

    it("'sign' and 'verify' agree with openssl and with each other", function()
      file("tool.wasm", module)
      local out, err, status = command "sign tool.wasm --key release.pem -o tool.wasm.sig"
      assert.same({ "", 0 }, { out, status }, err)
      helper.run_ok(("cd %s && base64 -d tool.wasm.sig > tool.der && openssl dgst -sha256 -verify release.pub -signature tool.der tool.wasm")
        :format(folder))
      out, err, status = command "verify tool.wasm --key stranger.pub --key release.pub"
      assert.same({ "tool.wasm: 8 bytes, signed by release.pub\n", 0 }, { out, status }, err)
      out, err, status = command "verify tool.wasm --key stranger.pub"
      assert.same({ "", 1 }, { out, status })
      assert.matches("Not trusted: tool.wasm: 0 of 1 signatures by stranger.pub found", err)
      out, err, status = command "verify tool.wasm"
      assert.same({ "", 2, "--key" }, { out, status, err:match "%-%-key" })
      out, err, status = command "sign tool.wasm --key release.pub"
      assert.same({ "", 1, "public key" }, { out, status, err:match "public key" })
    end)

    it("'sign' asks for the password of an encrypted key on the terminal", function()
      helper.run_ok(("cd %s && openssl pkcs8 -topk8 -in release.pem -out sealed.pem -passout pass:s3cret"):format(folder))
      file("tool.wasm", module)
      local _, err, status = command "sign tool.wasm --key sealed.pem </dev/null 2>&1 | cat"
      assert.is_truthy(status == 0 and err ~= nil)
      local script = file("ask.sh", ("cd %s && HOME=%s THEATERREF_CONFIG= %s %s/lua/bin/theaterref sign tool.wasm --key sealed.pem -o sealed.sig")
        :format(folder, folder, helper.lua, helper.root))
      local out = helper.run_ok(("(while ! grep -q Password %s/typescript; do sleep 0.05; done; echo s3cret; sleep 0.2) | script -qfec 'sh %s' %s/typescript")
        :format(folder, script, folder))
      assert.matches("Password of sealed.pem", out)
      assert.is_nil(out:find("s3cret", 1, true))
      local text = helper.read(folder .. "/sealed.sig")
      assert.same({ 1 }, theaterref.verify(module, { text }, { helper.read(key "release") }))
    end)
  end)

  it("signing and verifying work without a resolver", function()
    local text = assert(theaterref.sign(module, helper.read(folder .. "/release.pem")))
    local keys = { helper.read(key "second"), helper.read(key "release") }
    assert.same({ 2 }, theaterref.verify(module, { text }, keys))
    local none, err = theaterref.verify(module, { text }, keys, 2)
    assert.same({ nil, "untrusted" }, { none, err.kind })
    assert.matches("1 of 2 signatures found", err.message)
    none, err = theaterref.verify(module, {}, keys)
    assert.same({ nil, "0 of 1 signatures found" }, { none, err.message })
  end)
end)
