local core = require "theaterref.core"
local cqueues = require "cqueues"
local helper = require "helper"
local theaterref = require "theaterref"

describe("resolving", function()
  local folder, server

  setup(function()
    folder = helper.temporary_folder()
    server = helper.nginx()
    helper.run_ok(("mkdir -p %s/www/mirror %s/www/origin && chmod 755 %s/www/*"):format(server.folder, server.folder,
      server.folder))
  end)

  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  local function file(name, text) return helper.write(folder .. "/" .. name, text) end

  local function sha256(text) return core.blob(text):digest "sha256" end

  -- The traced steps of a call: what rules answered, as "rule subject answer", or what was resolved.
  local function traced(resolver, ref, purpose, options)
    local rules, resolved = {}, {}
    local result, err = resolver:trace(ref, { purpose = purpose }, function(step)
      if step.rule then
        rules[#rules + 1] = ("%s %s %s"):format(step.rule, step.reference, step.answer)
      else
        resolved[#resolved + 1] = step.resolved.target
      end
    end, options)
    return { rules = rules, resolved = resolved, result = result, err = err }
  end

  describe("several candidates", function()
    local silent = "http://127.0.0.1:1/silent" -- refuses at once; nobody may ask it when there is no need

    it("takes what a cache has of a later one before it fetches an earlier one", function()
      server:put("later", "bytes")
      local cache, events = theaterref.resource_cache(), {}
      assert(theaterref.resolver { cache = cache }:resolve_cached(server.http .. "/later"))
      local resolver = theaterref.resolver { cache = cache, policy = {
        rewrite = function() return { silent, server.http .. "/later" } end,
        on_event = function(e) events[#events + 1] = e.type end } }
      local blob, hit = resolver:resolve_cached "x"
      assert.equal("bytes", tostring(blob))
      assert.is_true(hit)
      assert.same({ "cache", "resolved" }, events)
    end)

    it("asks those last whose server failed a moment ago", function()
      server:put("sound", "bytes")
      local asked = {}
      local resolver = theaterref.resolver { retries = 0, log = false, policy = {
        rewrite = function() return { "http://127.0.0.1:2/failing", server.http .. "/sound" } end,
        on_event = function(e) asked[#asked + 1] = e.type end } }
      assert(resolver:resolve "x")
      assert(resolver:resolve "x")
      assert.same({ "fallback", "resolved", "resolved" }, asked)
    end)

    it("names each with its reason when all fail, by the kind that says most", function()
      local resolver = theaterref.resolver { retries = 0, log = false, policy = {
        rewrite = function() return { folder .. "/missing", server.http .. "/none", silent } end } }
      local _, err = resolver:resolve "x"
      assert.equal("http_status", err.kind)
      assert.equal(404, err.status)
      for _, part in ipairs { "none of 3 candidates", folder .. "/missing: .*No such file", "/none: .*404", "127.0.0.1:1/silent: " } do
        assert.matches(part, err.message)
      end
    end)

    it("ends at a refusal, but fetches what was allowed before", function()
      server:put("allowed", "bytes")
      local resolver = theaterref.resolver { policy = {
        rewrite = function(ref) return { server.http .. "/" .. ref, "/refused", server.http .. "/allowed" } end,
        allow = function(ref) return ref ~= "/refused", "not that" end }, log = false }
      assert.equal("bytes", tostring(assert(resolver:resolve "allowed")))
      local _, err = resolver:resolve "nothing"
      assert.equal("denied", err.kind)
    end)
  end)

  describe("what a manifest names", function()
    it("goes through 'rewrite' again after a mirror had the manifest", function()
      server:put("mirror/m.toml", 'name = "m"\npackage = "./p.wasm"\n')
      server:put("origin/p.wasm", "from the origin")
      local mirror = theaterref.policy.mirror { [server.http .. "/origin/"] = { server.http .. "/mirror/",
        server.http .. "/origin/" } }
      local plan = assert(theaterref.resolver { policy = { rewrite = mirror }, log = false }:plan(server.http .. "/origin/m.toml"))
      assert.equal(server.http .. "/mirror/m.toml", plan.origin)
      assert.equal("from the origin", tostring(plan.package))
    end)

    it("may be relative to a file URL, to a policy's scheme, and to what a name stands for", function()
      file("m.toml", 'name = "m"\npackage = "p.wasm"\n')
      file("p.wasm", "\0asm")
      local resolver = theaterref.resolver { policy = {
        rewrite = function(ref, ctx)
          return ref == "short" and folder .. "/m.toml" or theaterref.policy.default.rewrite(ref, ctx)
        end,
        schemes = { pkg = function(ref) return { reference = folder .. "/" .. ref:match "^pkg://x/(.*)" } end } } }
      for _, ref in ipairs { "file://" .. folder .. "/m.toml", "pkg://x/m.toml", "short" } do
        local plan = assert(resolver:plan(ref))
        assert.equal("\0asm", tostring(plan.package))
        assert.equal(folder .. "/m.toml", (plan.origin:gsub("^file://", "")))
      end
    end)

    it("is judged by where the manifest's bytes came from", function()
      file("secret", "local")
      server:put("remote.toml", ('name = "m"\npackage = "file://%s/secret"\n'):format(folder))
      local resolver = theaterref.resolver { policy = { schemes = {
        pkg = function() return { reference = server.http .. "/remote.toml" } end,
        own = function() return helper.read(server.folder .. "/www/remote.toml") end,
        disk = function() return { reference = folder .. "/local.toml" } end } } }
      for ref, origin in pairs { ["pkg://m"] = "http", ["own://m"] = "own" } do
        local _, err = resolver:plan(ref)
        assert.equal("denied", err.kind, ref)
        assert.matches("a manifest that came by " .. origin .. " may not name a local file", err.message)
      end
      -- The bytes of a data URL are those of the scheme that led to it.
      resolver = theaterref.resolver { policy = { schemes = { own = function()
        return { reference = ("data:,name=%%22m%%22%%0Apackage=%%22%s/secret%%22"):format(folder) } end } } }
      assert.equal("denied", select(2, resolver:plan "own://m").kind)
      resolver = theaterref.resolver { policy = { schemes = {
        disk = function() return { reference = folder .. "/local.toml" } end } } }
      file("local.toml", ('name = "m"\npackage = "%s/secret"\n'):format(folder))
      assert.equal("local", tostring(assert(resolver:plan "disk://m").package))
    end)

    it("is told the origin after redirects, also when a cache has the manifest", function()
      server:put("hello", 'name = "m"\npackage = "mirror/p"\n')
      server:put("mirror/p", "package")
      local origins, cache = {}, theaterref.resource_cache()
      local resolver = theaterref.resolver { cache = cache, policy = {
        cacheable = function() return true end,
        allow = function(_, ctx) origins[#origins + 1] = ctx.origin return true, { redirect_hosts = "any" } end } }
      for _ = 1, 2 do
        local plan = assert(resolver:plan(server.http .. "/here"))
        assert.equal(server.http .. "/hello", plan.origin)
      end
      assert.same({ server.http .. "/hello", server.http .. "/hello" }, origins)
    end)
  end)

  describe("a redirect", function()
    it("stays on its host under an 'allow' of one's own, unless that names others", function()
      server:put("header", "elsewhere")
      local function fetch(second)
        local resolver = theaterref.resolver { policy = { allow = function() return true, second end } }
        local blob, err = resolver:resolve(server.http .. "/to-other")
        return blob and tostring(blob), err and err.kind
      end
      assert.same({ nil, "denied" }, { fetch(nil) })
      assert.same({ nil, "denied" }, { fetch { redirect_hosts = { "other.example" } } })
      assert.same({ "[]" }, { fetch { redirect_hosts = { "localhost" } } })
      assert.same({ "[]" }, { fetch { redirect_hosts = "any" } })
      assert.equal("[]", tostring(assert(theaterref.resolver():resolve(server.http .. "/to-other"))))
      local only = theaterref.resolver { policy = { allow = theaterref.policy.only { hosts = { "127.0.0.1" } } } }
      assert.equal("denied", select(2, only:resolve(server.http .. "/to-other")).kind)
      only = theaterref.resolver { policy = { allow = theaterref.policy.only { hosts = { "127.0.0.1" },
        redirect_hosts = { "localhost" } } } }
      assert(only:resolve(server.http .. "/to-other"))
    end)
  end)

  describe("a digest", function()
    it("finds locked bytes of a scheme in a store, without the scheme unless its links have rules", function()
      local home = folder .. "/locked-home"
      local digest = assert(theaterref.content_store("kept", { home = home, algorithm = "sha256" })):put "locked"
      local lock = file("scheme.lock", "theaterref lockfile 1\nsha256=" .. digest .. "  my://x\n")
      local calls = 0
      local policy = { schemes = { my = function()
        calls = calls + 1
        return "newer"
      end } }
      local options = { log = false, home = home, lockfile = lock, offline = "kept", policy = policy }
      assert.equal("locked", tostring(assert(theaterref.resolver(options):resolve "my://x")))
      assert.equal(0, calls)
      policy.allow = function() return true end
      assert.equal("digest_mismatch", select(2, theaterref.resolver(options):resolve "my://x").kind)
      assert.equal(1, calls)
    end)

    it("is checked before and after a scheme, and of every kind that is asked for", function()
      file("bytes", "bytes")
      local good, other = sha256 "bytes", sha256 "other"
      local sha1 = core.blob("bytes"):digest "sha1"
      local function resolve(digests)
        local resolver = theaterref.resolver { cache = theaterref.resource_cache(), policy = {
          schemes = { pkg = function() return { reference = folder .. "/bytes" } end },
          integrity = function(ref) return digests[ref:match "^%a+" or "file"] end } }
        local err
        for _ = 1, 2 do -- the second time from the cache
          local _, why = resolver:resolve_cached "pkg://x"
          err = why ~= true and why ~= false and why or nil
        end
        return err and err.kind or "resolved"
      end
      assert.equal("resolved", resolve { pkg = good, file = good })
      assert.equal("resolved", resolve { pkg = good, file = sha1 })
      assert.equal("resolved", resolve { pkg = { sha256 = good, sha1 = sha1 } })
      assert.equal("digest_mismatch", resolve { pkg = other })
      assert.equal("digest_mismatch", resolve { file = other })
      assert.equal("digest_mismatch", resolve { pkg = other, file = good })
      assert.equal("digest_mismatch", resolve { pkg = good, file = other })
      assert.equal("digest_mismatch", resolve { pkg = { sha256 = good, sha1 = ("0"):rep(40) } })
    end)

    it("makes all references to the same bytes share one blob", function()
      server:put("origin/a", "the same")
      server:put("origin/b", "the same")
      local resolver = theaterref.resolver { cache = theaterref.resource_cache() }
      local fragment = "#sha256=" .. sha256 "the same"
      local a = assert(resolver:resolve_cached(server.http .. "/origin/a" .. fragment))
      local b, hit = resolver:resolve_cached(server.http .. "/origin/b" .. fragment)
      assert.is_true(a:same(b))
      assert.is_true(hit)
      assert.equal(0, server:requests "/origin/b")
    end)

    it("that is wrong is told with who expects it", function()
      local path, other = file("p", "p"), sha256 "q"
      local lock = file("w.lock", ("theaterref lockfile 1\nsha256=%s  p\n"):format(other))
      server:put("p", "p")
      for by, case in pairs { [lock] = { path, { lockfile = lock } },
        ["its reference"] = { server.http .. "/p#sha256=" .. other, {} },
        ["the policy"] = { path, { policy = { integrity = function() return other end } } } } do
        local _, err = theaterref.resolver(case[2]):resolve(case[1])
        assert.equal("digest_mismatch", err.kind)
        assert.matches(other .. " was expected by " .. by, err.message, 1, true)
      end
    end)

    it("of the lockfile comes on top of the policy's, and scripts are still reloaded", function()
      local path = file("p", "p")
      file("l.lock", ("theaterref lockfile 1\nsha256=%s  p\n"):format(sha256 "p"))
      local script = file("policy.lua", ("return { integrity = function() return %q end }"):format(sha256 "q"))
      local resolver = assert(theaterref.resolver { policy = script, lockfile = folder .. "/l.lock", log = false })
      local _, err = resolver:resolve(path)
      assert.equal("digest_mismatch", err.kind)
      assert.matches("must have the sha256 %x+ by .*policy.lua, but %x+ by .*l.lock", err.message)
      file("policy.lua", "return {}")
      assert.equal("p", tostring(assert(resolver:resolve(path))))
    end)
  end)

  describe("a refusal by 'integrity'", function()
    it("is nil and a reason", function()
      local path = file("p", "p")
      local resolver = theaterref.resolver { policy = { integrity = function() return nil, "not locked" end }, log = false }
      local _, err = resolver:resolve(path)
      assert.equal("denied", err.kind)
      assert.matches("not locked", err.message)
    end)
  end)

  describe("caching", function()
    it("is asked of manifests and initial states too, without a manifest", function()
      file("state.json", '{"a":1}')
      file("p", "p")
      local path, asked = file("m.toml", 'name = "m"\npackage = "p"\ninit_state = "state.json"\n'), {}
      local cache = theaterref.resource_cache()
      local resolver = theaterref.resolver { cache = cache, policy = { cacheable = function(manifest, ctx)
        asked[#asked + 1] = { ctx.purpose, manifest and manifest.name or "none", ctx.reference }
        return true
      end } }
      assert(resolver:plan(path))
      assert.same({ { "manifest", "none", path }, { "initial_state", "none", folder .. "/state.json" },
        { "package", "m", folder .. "/p" } }, asked)
      assert.equal(3, #cache)
    end)

    it("is on by default for a SHA-256, and content by its hash, and for nothing that only looks like it", function()
      local default = theaterref.policy.default.cacheable
      local hash = "store://s/hash/" .. ("a"):rep(40)
      assert.is_true(default(nil, { digest = ("a"):rep(64), reference = "x" }))
      assert.is_true(default(nil, { reference = hash }))
      assert.is_true(default({ static_package = true }, { reference = "x" }))
      for _, ref in ipairs { "x#sha1=ab", "https://h/x#sha1=" .. ("a"):rep(40), "store://s/label", "/hash/" .. ("a"):rep(40) } do
        assert.is_false(default({}, { reference = ref }), ref)
      end
    end)

    it("keeps what a policy's scheme loaded apart from other policies, unless they name a scope", function()
      local cache = theaterref.resource_cache()
      local function resolve(text, scope)
        return tostring(assert(theaterref.resolver { cache = cache, cache_scope = scope,
          policy = { schemes = { pkg = function() return text end } } }:resolve_cached "pkg://x"))
      end
      assert.same({ "one", "two" }, { resolve "one", resolve "two" })
      assert.same({ "three", "three" }, { resolve("three", "shared"), resolve("four", "shared") })
    end)

    it("keeps what was fetched with other credentials apart", function()
      local cache = theaterref.resource_cache()
      local function resolve(secret)
        return tostring(assert(theaterref.resolver { cache = cache, headers = secret and { ["X-Secret"] = secret } }
          :resolve_cached(server.http .. "/header")))
      end
      os.remove(server.folder .. "/www/header")
      assert.same({ "[a]", "[b]", "[]", "[a]" }, { resolve "a", resolve "b", resolve(nil), resolve "a" })
      assert.equal(3, #cache)
      cache:remove(server.http .. "/header")
      assert.equal(0, #cache)
    end)

    it("keeps what was fetched with credentials on disk only under a scope with a name", function()
      local function fetch(name, scope)
        local home = folder .. "/" .. name
        local resolver = theaterref.resolver { home = home, headers = { ["X-Secret"] = "s" }, cache_scope = scope,
          cache = { disk = "disk" } }
        assert.equal("[s]", tostring(assert(resolver:resolve_cached(server.http .. "/header"))))
        return #require("theaterref.store.disk_cache").of(resolver.cache):list(),
          helper.run("ls " .. home .. "/store/disk") ~= ""
      end
      assert.same({ 0, false }, { fetch("no-scope") })
      assert.same({ 1, true }, { fetch("a-scope", "me") })
    end)

    it("never takes in a secret", function()
      file("p", "p")
      server:put("origin/token", "hunter2")
      local path = file("m.toml", ('name = "m"\npackage = "p"\ninitial_state = \'{"t":{"$ref":"%s/origin/token"}}\'\n')
        :format(server.http))
      local cache = theaterref.resource_cache { disk = { base_path = folder .. "/disk" } }
      local resolver = theaterref.resolver { cache = cache, revalidate = true, policy = { secrets = function() return true end,
        cacheable = function() return true end } }
      assert.equal('{"t":"hunter2"}', assert(resolver:plan(path)).initial_state)
      assert.is_nil(cache:get(server.http .. "/origin/token"))
      assert.equal("", (helper.run("grep -r hunter2 " .. folder .. "/disk")))
    end)
  end)

  describe("what a cache holds", function()
    it("is not reached by a path that looks like the key of content", function()
      local good = sha256 "good"
      server:put("good", "good")
      local path = file("sha256:" .. good, "evil")
      local cache = theaterref.resource_cache()
      local resolver = theaterref.resolver { cache = cache }
      local lua = ([[
        local theaterref = require "theaterref"
        local resolver = theaterref.resolver { cache = theaterref.resource_cache() }
        assert(resolver:resolve_cached "sha256:%s")
        io.write(tostring((resolver:resolve_cached "%s/good#sha256=%s")))]]):format(good, server.http, good)
      assert.equal("good", helper.run_ok(("cd %s && %s -e %s"):format(folder, helper.lua, helper.quote(lua))))
      assert(resolver:resolve_cached(path))
      assert.equal("good", tostring((resolver:resolve_cached(server.http .. "/good#sha256=" .. good))))
      local _, err = theaterref.resolver { policy = { schemes = { sha256 = function() return "evil" end } } }
      assert.equal("policy", err.kind)
      _, err = resolver:resolve_cached("sha256://" .. good)
      assert.equal("invalid_reference", err.kind)
    end)

    it("is admitted link by link, each time", function()
      file("inner", "secret")
      local refused
      local resolver = theaterref.resolver { cache = theaterref.resource_cache(), cache_scope = "one", log = false, policy = {
        schemes = { pkg = function() return { reference = folder .. "/inner" } end },
        allow = function(ref) return not (refused and ref:find "inner"), "not now" end } }
      assert.equal("secret", tostring(assert(resolver:resolve_cached "pkg://x")))
      refused = true
      local _, err = resolver:resolve_cached "pkg://x"
      assert.equal("denied", err.kind)
    end)

    it("stays within the redirect limits of who asks, through schemes and disks too", function()
      os.remove(server.folder .. "/www/header")
      local disk = { base_path = folder .. "/limits" }
      local cache = theaterref.resource_cache { name = "limits" .. math.random(1 << 40), disk = disk }
      local function resolver(hosts)
        return theaterref.resolver { cache = cache, cache_scope = "one", redirect_hosts = hosts, log = false,
          policy = { schemes = { pkg = function() return { reference = server.http .. "/to-other" } end } } }
      end
      assert(resolver(nil):resolve_cached "pkg://x")
      for _, ref in ipairs { "pkg://x", server.http .. "/to-other" } do
        assert.equal("denied", select(2, resolver({}):resolve_cached(ref)).kind)
      end
      cache = theaterref.resource_cache { disk = disk } -- as after a restart
      assert.equal("denied", select(2, resolver({}):resolve_cached(server.http .. "/to-other")).kind)
    end)

    it("tells the origin of each manifest, also from the disk and by its digest", function()
      local text = 'name = "m"\npackage = "data:,p"\n'
      server:put("hello", text)
      local disk, origins = { base_path = folder .. "/origins" }, {}
      local function plan(ref, cache)
        local resolver = theaterref.resolver { cache = cache, policy = { cacheable = function() return true end,
          allow = function(_, ctx) origins[#origins + 1] = ctx.origin return true, { redirect_hosts = "any" } end } }
        return assert(resolver:plan(ref)).origin
      end
      assert.equal(server.http .. "/hello", plan(server.http .. "/here", theaterref.resource_cache { disk = disk }))
      assert.equal(server.http .. "/hello", plan(server.http .. "/here", theaterref.resource_cache { disk = disk }))
      server:put("copy", text)
      local cache, digest = theaterref.resource_cache(), "#sha256=" .. sha256(text)
      assert.equal(server.http .. "/hello", plan(server.http .. "/here" .. digest, cache))
      assert.equal(server.http .. "/copy" .. digest, plan(server.http .. "/copy" .. digest, cache))
    end)

    it("of one home is not another home's", function()
      local cache = theaterref.resource_cache()
      local function resolve(home)
        theaterref.content_store("demo", { home = folder .. "/" .. home, durability = "none" }):store_at_label("x", home)
        return tostring(assert(theaterref.resolver { cache = cache, home = folder .. "/" .. home }
          :resolve_cached "store://demo/x"))
      end
      assert.same({ "one", "two" }, { resolve "one", resolve "two" })
    end)

    it("makes nobody wait for longer than the own timeout, behind leaders that are late", function()
      local resolver = theaterref.resolver { cache = theaterref.resource_cache(), timeout = 0.5, retries = 0, log = false }
      local futures, started = {}, core.now()
      for i = 1, 12 do futures[i] = assert(resolver:start(server.http .. "/slow?late", { cached = true })) end
      for _, future in ipairs(futures) do assert.equal("timeout", select(2, future:wait()).kind) end
      assert.is_true(core.now() - started < 5) -- one after the other: 6
    end)

    it("is not spoilt by somebody who is offline, late or strict", function()
      server:put("shared", ("x"):rep(100))
      local cache = theaterref.resource_cache { negative_ttl = 60 }
      local lock = file("s.lock", "theaterref lockfile 1\n")
      local offline = theaterref.resolver { cache = cache, offline = "none", lockfile = lock, log = false,
        policy = { integrity = function() return nil end } }
      assert.is_nil((offline:resolve_cached(server.http .. "/shared")))
      local strict = theaterref.resolver { cache = cache, max_bytes = 10, log = false }
      local slow = theaterref.resolver { cache = cache, log = false }
      local future = assert(slow:start(server.http .. "/shared", { cached = true }))
      assert.equal("too_large", select(2, strict:resolve_cached(server.http .. "/shared")).kind)
      assert.equal(100, #assert(future:wait()))
      cache:clear()
      local late = assert(slow:start(server.http .. "/dripping/shared", { cached = true, resolve_timeout = 0.05 }))
      local patient = assert(slow:start(server.http .. "/dripping/shared", { cached = true }))
      assert.equal("timeout", select(2, late:wait()).kind)
      assert.equal(100, #assert(patient:wait()))
    end)

    it("goes with a removal, even of what is being loaded, and however the reference is written", function()
      server:put("gone", ("x"):rep(150))
      local disk = { base_path = folder .. "/removed" }
      local cache = theaterref.resource_cache { disk = disk }
      local resolver = theaterref.resolver { cache = cache }
      local url = server.http .. "/dripping/gone"
      local future = assert(resolver:start(url, { cached = true }))
      cache:remove(url)
      assert(future:wait())
      assert.equal(0, #require("theaterref.store.disk_cache").of(cache):list())
      assert(resolver:resolve_cached(url))
      assert.is_true(cache:remove((url:gsub("^http", "HTTP")) .. "#part"))
      assert.equal(0, #cache)
    end)

    it("cannot be read by a reference with the key of another scope", function()
      os.remove(server.folder .. "/www/header")
      local cache = theaterref.resource_cache()
      assert(theaterref.resolver { cache = cache, headers = { ["X-Secret"] = "s" }, cache_scope = "me" }
        :resolve_cached(server.http .. "/header"))
      local _, err = theaterref.resolve_reference_cached(server.http .. "/header\0\0" .. sha256 "me", cache)
      assert.equal("invalid_reference", err.kind)
    end)
  end)

  describe("bytes on disk", function()
    it("are no hit for another digest than theirs", function()
      local url, good = server.http .. "/forged", sha256 "good"
      server:put("forged", "good")
      local disk = require("theaterref.store.disk_cache").open(folder .. "/forged-disk", 1 << 20)
      assert(disk:write(core.cache_key(url, good), core.blob "evil", {}))
      local resolver = theaterref.resolver { cache = theaterref.resource_cache { disk = { base_path = folder .. "/forged-disk" } } }
      assert.equal("good", tostring(assert(resolver:resolve_cached(url .. "#sha256=" .. good))))
    end)

    it("or in memory, without a marked end, are no hit where a length is required", function()
      local odd = helper.misbehaving()
      finally(function() odd:stop() end)
      local disk = { base_path = folder .. "/open-ended" }
      local url = odd.http .. "/no-length"
      local cache = theaterref.resource_cache { disk = disk }
      assert(theaterref.resolver { cache = cache }:resolve_cached(url))
      for _, again in ipairs { cache, (theaterref.resource_cache { disk = disk }) } do
        local _, err = theaterref.resolver { cache = again, require_length = true, retries = 0, log = false }:resolve_cached(url)
        assert.matches("require_length", err.message)
      end
    end)
  end)

  describe("a future of several", function()
    it("wakes each in an event loop, and keeps no descriptor of those that are done", function()
      local uv = require "luv"
      server:put("several", ("x"):rep(130))
      local inner = assert(theaterref.resolver():start(server.http .. "/dripping/several"))
      local resolver = theaterref.resolver { policy = { schemes = { later = function() return inner end } } }
      local left, guard = 3, uv.new_timer()
      for _ = 1, 3 do
        local future = assert(resolver:start "later://x")
        local poll = uv.new_poll(future:pollfd())
        poll:start("r", function()
          if not future:done() then return end
          assert.equal(130, #future:wait(0))
          poll:close()
          left = left - 1
        end)
      end
      guard:start(8000, 0, function() uv.stop() end)
      while left > 0 and uv.run "once" and guard:is_active() do end
      guard:close()
      uv.run()
      assert.equal(0, left)
      collectgarbage()
      collectgarbage()
      local before = helper.holdings().files
      for _ = 1, 50 do
        local future = assert(resolver:start "later://x")
        future:pollfd()
        assert(future:wait())
        future = nil -- luacheck: ignore
        collectgarbage()
      end
      collectgarbage()
      assert.is_true(helper.holdings().files < before + 10)
    end)
  end)

  describe("a function for events", function()
    it("may resolve the reference that it is told of, and cancel", function()
      local path, resolver, depth, cache = file("told", "told"), nil, 0, theaterref.resource_cache()
      resolver = theaterref.resolver { cache = cache, log = false, on_event = function(e)
        if depth > 2 or e.reference ~= path then return end
        depth = depth + 1
        assert.equal("told", tostring((resolver:resolve_cached(path, nil, { resolve_timeout = 5 }))))
        depth = depth - 1
      end }
      assert.equal("told", tostring(assert(resolver:resolve_cached(path))))
      local outer
      local inner = theaterref.resolver { log = false, on_event = function() if outer then outer:cancel() end end }
      local policy = { schemes = { later = function() return assert(inner:start(server.http .. "/moved2")) end } }
      outer = assert(theaterref.resolver { policy = policy, log = false }:start "later://x")
      helper.eventually(function() return outer:done() end)
      assert.is_truthy(select(2, outer:wait()).kind)
    end)
  end)

  describe("a scheme", function()
    it("is followed though the cache has the same bytes under another reference", function()
      local inner = file("inner2", "shared")
      local refused = false
      local resolver = theaterref.resolver { cache = theaterref.resource_cache(), cache_scope = "one", log = false, policy = {
        schemes = { pkg = function() return { reference = inner } end },
        integrity = function() return sha256 "shared" end,
        allow = function(ref) return not (refused and ref == inner), "not now" end } }
      assert(resolver:resolve_cached "pkg://a")
      refused = true
      assert.equal("denied", select(2, resolver:resolve_cached "pkg://b").kind)
    end)

    it("of a policy's is in lower case for its function and for rules", function()
      local resolver = theaterref.resolver { policy = { schemes = { pkg = function(ref) return ref end } } }
      assert.equal("pkg://X/Y", tostring(assert(resolver:resolve "PKG://X/Y")))
    end)

    it("that answers nil and no reason is told what was wrong with that", function()
      local answers = { raised = {}, number = 5, object = setmetatable({}, { __tostring = function() return "gone" end }) }
      local resolver = theaterref.resolver { log = false, policy = { schemes = { pkg = function(ref)
        local name = ref:match "%w+$"
        if name == "raised" then error(answers.raised) end
        return nil, answers[name] or name == "table" and {} or nil
      end } } }
      for name, expected in pairs { table = "policy: the scheme 'pkg' returned nil and a table that has no message; after nil, a "
        .. "text with the reason was expected", raised = "policy: the scheme 'pkg' failed: a table that has no message",
        number = "not_found: 5", object = "not_found: gone", none = "not_found: nothing there" } do
        local _, err = resolver:resolve("pkg://" .. name)
        assert.equal(expected, err.kind .. ": " .. err.message)
      end
    end)

    it("may answer a future, which stays its owner's", function()
      file("slow-file", "bytes")
      local inner = assert(theaterref.resolver():start(server.http .. "/slow"))
      local done = assert(theaterref.resolver():start(folder .. "/slow-file"))
      local resolver = theaterref.resolver { log = false, policy = { schemes = { later = function(ref)
        return ref:find "slow" and inner or done
      end, plan = function() return theaterref.resolver():start_plan(file("pl.toml", 'name = "p"\npackage = "data:,p"\n')) end } } }
      assert.equal("bytes", tostring(assert(resolver:resolve "later://done")))
      local _, err = resolver:resolve("later://slow", { resolve_timeout = 0.05 })
      assert.equal("timeout", err.kind)
      local second = assert(resolver:start "later://slow")
      second:cancel()
      assert.is_false(inner:done())
      assert.equal("timeout", select(2, inner:wait(0.01)).kind)
      inner:cancel()
      _, err = resolver:resolve "plan://x"
      assert.equal("policy", err.kind)
      assert.matches("a future of bytes", err.message)
    end)
  end)

  describe("an error in a rule or function", function()
    it("is none of the call if it was a listener that raised or yielded", function()
      for _, listen in ipairs { coroutine.yield, error } do
        local heard = 0
        local function listener(event)
          heard = heard + 1
          listen(event)
        end
        local resolver = theaterref.resolver { policy = { on_event = listener }, on_event = listener,
          log = { level = "debug", sink = listener } }
        assert.equal("p", tostring(assert(assert(resolver:start(file("p", "p"))):wait())))
        assert.is_true(heard >= 3)
      end
    end)

    it("is one of the call, whatever is raised and wherever", function()
      local path = file("p", "p")
      local evil = setmetatable({}, { __tostring = function() error "again" end })
      for name, case in pairs {
        ["an object without a text"] = { path, { allow = function() error(evil) end } },
        ["a yield"] = { path, { allow = function() coroutine.yield() return true end } },
        ["a list with a hole"] = { path, { allow = function() return true, { redirect_hosts = { "a", nil, "b" } } end } },
        ["hosts as a list"] = { "http://127.0.0.1:1/", { request = function() return { hosts = { {} } } end } },
        ["a zero byte"] = { "data:,\0", {} },
        ["an event handler that empties its event"] = { path .. "-none", { on_event = function(e)
          for key in pairs(e) do e[key] = nil end end } },
      } do
        local resolver = assert(theaterref.resolver { policy = case[2], cache = theaterref.resource_cache(), log = false })
        local future, err = resolver:start(case[1], { cached = true })
        if future then _, err = future:wait() end -- luacheck: ignore
        assert.is_truthy(err and err.kind, name)
        err = select(2, resolver:resolve(case[1]))
        assert.is_truthy(err and err.kind, name)
      end
      local cache = theaterref.resource_cache()
      local future = assert(theaterref.resolver { cache = cache }:start(server.http .. "/slow", { cached = true }))
      assert.has_error(function() future:wait(0 / 0) end, "a number of seconds was expected, not NaN")
      future:cancel()
    end)

    describe("that yields within a call that waits", function()
      -- A call in a coroutine, whose rule yields, and the text of its result or error.
      local function yielding()
        local resolver = assert(theaterref.resolver { resolve_timeout = 0.05, log = false, policy = {
          rewrite = function(ref) coroutine.yield() return ref end } })
        return coroutine.create(function()
          local blob, err = resolver:resolve "data:,x"
          return tostring(blob or err)
        end)
      end

      -- Checks that a script has all of its own time, also after the deadline of calls that are over.
      local function scripts_run()
        local till = core.now() + 0.06
        while core.now() < till do end
        local scripted = assert(theaterref.resolver { policy = file("plain.lua", "return { rewrite = function(r) return r end }") })
        assert.equal("x", tostring(assert(scripted:resolve "data:,x")))
      end

      it("fails", function()
        local _, text = coroutine.resume(yielding())
        assert.matches("the rule 'rewrite' failed: attempt to yield across a C%-call boundary", text)
      end)

      it("leaves no deadline behind if the coroutine is closed", function()
        local call = yielding()
        coroutine.resume(call)
        coroutine.close(call)
        scripts_run()
      end)

      it("leaves no deadline behind if calls overlap", function()
        local a, b = yielding(), yielding()
        for _, call in ipairs { a, b, a, b } do coroutine.resume(call) end
        scripts_run()
      end)
    end)

    it("does not change what other resolvers are told", function()
      local path = file("p", "p")
      local meddler = theaterref.resolver { policy = { allow = function(_, ctx) ctx.purpose = "secret" return true end } }
      assert(meddler:resolve(path))
      local lock = file("m.lock", "theaterref lockfile 1\n")
      assert.equal("denied", select(2, theaterref.resolver { lockfile = lock, log = false }:resolve(path)).kind)
    end)

    it("may ask the future of its own work", function()
      local resolver, future
      resolver = theaterref.resolver { log = false, policy = { rewrite = function(ref) return ref end,
        on_event = function() if future then assert.is_false(future:done()) future:cancel() end end } }
      future = assert(resolver:start(server.http .. "/moved"))
      helper.eventually(function() return future:done() end)
      assert.is_nil((future:wait()))
    end)
  end)

  it("shows no secrets in explain", function()
    local script = file("secret.lua", [[return { rewrite = function(ref)
      return { "http://me:hunter2@127.0.0.1:1/x?token=hunter2", "data:,hunter2", ref } end }]])
    file("p", "p")
    for _, format in ipairs { "", " --json" } do
      local out, err = helper.run(("%s %s/lua/bin/theaterref explain %s/p --policy %s%s"):format(helper.lua, helper.root, folder,
        script, format))
      assert.is_nil((out .. err):find("hunter2", 1, true), out .. err)
      assert.matches("127.0.0.1:1/x%?…", out)
    end
    local _, err = theaterref.resolver { log = false }:plan "data:,hunter2"
    assert.is_nil(tostring(err):find("hunter2", 1, true))
  end)

  it("shows no secrets in advice, half a data URL, or an actor's name", function()
    local command = ("cd %s && %s %s/lua/bin/theaterref "):format(folder, helper.lua, helper.root)
    for ref, expected in pairs { ["store://me:hunter2@x/l"] = "there is no store 'x' in", ["data:text/plain;hunter2"] = "needs a comma" } do
      local manifest = file("shown.toml", ('name = "m"\npackage = "%s"\n'):format(ref))
      for _, words in ipairs { "plan -vv " .. manifest, "plan --json " .. manifest, "explain " .. manifest,
        ("resolve -vv '%s'"):format(ref), ("resolve --json '%s'"):format(ref) } do
        local out, err = helper.run(command .. words .. " --home " .. folder)
        assert.is_nil((out .. err):find("hunter2", 1, true), out .. err)
        assert.matches(expected, out .. err, 1, true)
      end
    end
    file("named.toml", 'name = "http://me:hunter2@h/x?hunter2"\npackage = "data:,x"\n')
    for _, format in ipairs { "", " --json" } do
      local out = helper.run_ok(command .. "explain named.toml" .. format)
      assert.is_nil(out:find("hunter2", 1, true), out)
      assert.matches("http://h/x?…", out, 1, true)
    end
  end)

  it("locks a file whose name looks like a data URL", function()
    file("data:y", "a file")
    file("half.toml", 'name = "m"\npackage = "./data:y"\n')
    local command = ("cd %s && %s %s/lua/bin/theaterref "):format(folder, helper.lua, helper.root)
    helper.run_ok(command .. "lock half.toml -o half.lock")
    helper.run_ok(command .. "plan half.toml --lockfile half.lock")
    assert.matches("size=6  ./data:y\n", helper.read(folder .. "/half.lock"))
    helper.write(folder .. "/half.lock", (helper.read(folder .. "/half.lock"):gsub("  %./data:y", "  data:y")))
    helper.run_ok(command .. "plan half.toml --lockfile half.lock")
  end)

  it("locks what is there, under a configured lockfile too", function()
    file("data:,x", "a file")
    file("l.toml", 'name = "m"\npackage = "./data:,x"\n')
    file("conf.lua", 'return { lockfile = "l.lock" }')
    local command = ("cd %s && %s %s/lua/bin/theaterref "):format(folder, helper.lua, helper.root)
    helper.write(folder .. "/l.lock", "theaterref lockfile 1\n")
    helper.run_ok(command .. "lock l.toml -o l.lock --config conf.lua")
    helper.run_ok(command .. "plan l.toml --config conf.lua")
    assert.matches("size=6  ./data:,x\n", helper.read(folder .. "/l.lock"))
  end)

  describe("offline", function()
    it("takes files, stores and what caches have, and fetches nothing", function()
      server:put("origin/x", "remote")
      file("here", "local")
      local lock = file("o.lock", ("theaterref lockfile 1\nsha256=%s  here\nsha256=%s  %s/origin/x\n"):format(sha256 "local",
        sha256 "remote", server.http))
      local cache = theaterref.resource_cache()
      local options = { cache = cache, home = folder, lockfile = lock, offline = "release", log = false }
      local resolver = assert(theaterref.resolver(options))
      theaterref.content_store("release", { home = folder, algorithm = "sha256" }):put "local"
      assert.equal("local", tostring(assert(resolver:resolve(folder .. "/here"))))
      local _, err = resolver:resolve(server.http .. "/origin/x")
      assert.equal("not_found", err.kind)
      assert.matches("offline", err.message)
      assert.equal(0, server:requests "/origin/x")
    end)
  end)

  describe("offline without a lockfile", function()
    it("takes files, stores, and what caches have, and fetches nothing", function()
      server:put("origin/on", "remote")
      local path, url, home = file("f", "local"), server.http .. "/origin/on", folder .. "/offline"
      theaterref.content_store("demo", { home = home, durability = "none" }):store_at_label("x", "stored")
      local function resolver(cache, offline)
        return assert(theaterref.resolver { cache = cache, home = home, offline = offline, log = false })
      end
      local cache, disk = theaterref.resource_cache(), { disk = { base_path = folder .. "/offline-disk" } }
      assert(resolver(cache):resolve_cached(url))
      assert(resolver(theaterref.resource_cache(disk)):resolve_cached(url))
      for _, had in ipairs { cache, theaterref.resource_cache(disk) } do
        local offline = resolver(had, "none")
        assert.equal("local", tostring(assert(offline:resolve(path))))
        assert.equal("stored", tostring(assert(offline:resolve "store://demo/x")))
        assert.equal("remote", tostring(assert(offline:resolve_cached(url))))
        assert.equal("not_found", select(2, offline:resolve_cached(server.http .. "/origin/other")).kind)
      end
      local command = ("%s %s/lua/bin/theaterref resolve %s --home %s --offline demo"):format(helper.lua, helper.root, "%s", home)
      assert.equal("local", helper.run_ok(command:format(path)))
      assert.matches("offline: ", (select(2, helper.run(command:format(url)))))
    end)
  end)

  describe("data:", function()
    it("is its own bytes, percent-decoded or base64", function()
      for ref, bytes in pairs { ["data:,a%20b"] = "a b", ["data:text/plain;charset=utf-8,%E2%82%AC"] = "€",
        ["data:application/wasm;base64,AGFzbQEAAAA="] = "\0asm\1\0\0\0", ["DATA:;base64,aGk"] = "hi", ["data:,"] = "",
        ["data:;base64,aGVs%62G8="] = "hello", ["data:,a,b?c#d"] = "a,b?c#d" } do
        assert.equal(bytes, tostring(assert(theaterref.resolve_reference(ref))), ref)
      end
      for _, ref in ipairs { "data:;base64,a", "data:;base64,a=b=", "data:;base64,=", "data:;base64,aGk=aGk=" } do
        local _, err = theaterref.resolve_reference(ref)
        assert.equal("invalid_reference", err.kind, ref)
      end
    end)

    it("is cached, locked, explained, allowed and refused like any other", function()
      local cache = theaterref.resource_cache()
      local resolver = theaterref.resolver { cache = cache }
      local first = assert(resolver:resolve_cached "data:,x")
      local again, hit = resolver:resolve_cached "data:,x"
      assert.is_true(hit and first:same(again))
      local path = file("d.toml", 'name = "m"\npackage = "data:,x"\n')
      local lock = folder .. "/d.lock"
      helper.run_ok(("%s %s/lua/bin/theaterref lock %s -o %s"):format(helper.lua, helper.root, path, lock))
      assert.matches("size=1  data:,x\n", helper.read(lock))
      assert(theaterref.resolver { lockfile = lock }:plan(path))
      local steps = traced(theaterref.resolver(), path, "manifest")
      assert.same({ path, "data:,x" }, steps.resolved)
      local strict = theaterref.resolver { log = false, policy = { allow = theaterref.policy.only { schemes = { "file" } } } }
      assert.equal("denied", select(2, strict:plan(path)).kind)
      local _, err = theaterref.resolver():plan('data:,name="m"%0Apackage="p.wasm"')
      assert.equal("invalid_reference", err.kind)
      assert.matches("is relative, but its manifest is a data URL", err.message)
    end)

    it("does not show its data in errors", function()
      local _, err = theaterref.resolver { log = false, policy = { allow = function() return false, "no" end } }
        :resolve "data:text/plain,hunter2"
      assert.is_nil(tostring(err):find("hunter2", 1, true))
      assert.matches("data:text/plain,… %(7 characters%)", tostring(err))
    end)
  end)

  describe("a plan that is started", function()
    it("is a future: it can be polled, waited for and cancelled", function()
      server:put("m.toml", 'name = "m"\npackage = "mirror/q"\n')
      server:put("mirror/q", "package")
      local future = assert(theaterref.resolver():start_plan(server.http .. "/m.toml"))
      assert.equal("number", type(future:pollfd()))
      helper.eventually(function() return future:done() end)
      assert.equal("package", tostring(assert(future:wait(0)).package))
      assert.same({ 7, 7 }, { future:progress() })
      local slow = assert(theaterref.resolver():start_plan(server.http .. "/slow"))
      local _, err, why = slow:wait(0.01)
      assert.same({ "timeout", "pending" }, { err.kind, why })
      slow:cancel()
      assert.equal("cancelled", select(2, slow:wait()).kind)
      _, err = theaterref.resolver():start_plan(folder .. "/missing.toml")
      assert.equal("not_found", err.kind)
    end)

    it("leaves nothing behind when it is done", function()
      server:put("left.toml", 'name = "m"\npackage = "mirror/q"\n')
      collectgarbage()
      collectgarbage()
      local blobs = core.live_blobs()
      local resolver = theaterref.resolver()
      for _ = 1, 3 do
        local future = assert(resolver:start_plan(server.http .. "/left.toml"))
        assert(future:wait())
      end
      collectgarbage()
      collectgarbage()
      assert.equal(blobs, core.live_blobs())
    end)

    it("ends at its deadline, whichever step it is in", function()
      server:put("deadline.toml", 'name = "m"\npackage = "slow"\n')
      local future = assert(theaterref.resolver():start_plan(server.http .. "/deadline.toml", { plan_timeout = 0.2 }))
      assert.is_true(future:timeout() <= 0.2)
      local _, err = future:wait()
      assert.equal("timeout", err.kind)
      _, err = theaterref.resolver():plan(server.http .. "/deadline.toml", { plan_timeout = 0.2 })
      assert.equal("timeout", err.kind)
    end)

    it("counts what rules take, between the steps of a plan", function()
      local function spin(...)
        local till = core.now() + 0.03
        while core.now() < till do end
        return ...
      end
      file("spun.toml", 'name = "a"\npackage = "spun.wasm"\n')
      file("spun.wasm", "x")
      local resolver = theaterref.resolver { log = false, policy = { rewrite = function(ref) return spin { ref .. "-none", ref } end,
        allow = function() return spin(true) end, allow_spawn = function() return spin(true) end } }
      local path = folder .. "/spun.toml"
      for _, call in ipairs {
        function() return resolver:plan(path, { plan_timeout = 0.05 }) end,
        function()
          local future, err = resolver:start_plan(path, { plan_timeout = 0.05 })
          if future then return future:wait() end
          return nil, err
        end,
        function() return resolver:resolve(path, { resolve_timeout = 0.05 }) end,
      } do
        local before = core.now()
        local none, err = call()
        assert.is_nil(none)
        assert.equal("timeout", err.kind)
        assert.is_true(core.now() - before < 2)
      end
      -- Work within the work counts as well, and leaves the limit where it was.
      local inner = theaterref.resolver { log = false, resolve_timeout = 9 }
      local looping = assert(theaterref.resolver { log = false,
        policy = file("looping.lua", "return { allow = function() for i = 1, 9000000 do end return true end }") })
      local outer = theaterref.resolver { log = false, policy = { allow = function()
        for _ = 1, 3 do
          inner:resolve(path)
          spin()
        end
        for _ = 1, 100 do looping:resolve(path) end
        return true
      end } }
      local began = os.clock()
      assert.equal("timeout", select(2, outer:resolve(path, { resolve_timeout = 0.1 })).kind)
      assert.is_true(os.clock() - began < 1)
      -- A script is ended in the middle.
      local script = file("spinning.lua", "return { allow = function() while true do end end }")
      for option, call in pairs {
        resolve_timeout = function(r, limit) return r:resolve(path, { resolve_timeout = limit }) end,
        plan_timeout = function(r, limit) return r:plan(path, { plan_timeout = limit }) end,
      } do
        local spinning = assert(theaterref.resolver { log = false, policy = script })
        local _, err = call(spinning, 0.01)
        assert.equal("timeout", err.kind)
        assert.matches("within 0.01 seconds (" .. option .. ")", err.message, 1, true)
        _, err = call(spinning)
        assert.equal("policy", err.kind)
        assert.matches("the script ran more than 10000000 instructions", err.message)
      end
      -- A loop has its turn between long steps, and is woken for the next one.
      local future, loop, turns = assert(resolver:start_plan(path)), cqueues.new(), 0
      loop:wrap(function()
        while not future:done() do
          turns = turns + 1
          cqueues.poll(future)
        end
      end)
      assert(loop:loop(10))
      assert.is_true(loop:empty() and turns >= 1)
      -- Waiting for no time lets one step after the other go on.
      future, turns = assert(resolver:start_plan(path)), 0
      repeat turns = turns + 1 until future:wait(0) or turns == 20
      assert.is_true(turns > 1 and turns < 20)
      -- A plan that is dropped in a pause leaves nothing.
      local function drop()
        for _ = 1, 30 do assert(resolver:start_plan(path)):pollfd() end
        collectgarbage()
        collectgarbage()
      end
      drop()
      local files = helper.holdings().files
      drop()
      assert.is_true(helper.holdings().files <= files + 5)
      assert.equal("x", tostring(assert(future:wait()).package))
    end)

    it("names the time limit that is over, as it was given", function()
      local url = server.http .. "/slow"
      server:put("late.toml", 'name = "m"\npackage = "slow"\n')
      local cache = theaterref.resource_cache()
      local resolver = theaterref.resolver { cache = cache, resolve_timeout = 0.1, plan_timeout = 0.125, log = false }
      local future = assert(resolver:start(url, { resolve_timeout = 5 }))
      local _, pending = future:wait(0.05)
      assert.equal("no result within 0.05 seconds", pending.message)
      for seconds, text in pairs { [1] = "1 second", [1.5] = "1.5 seconds", [0] = "0 seconds", [0.0004] = "0.0004 seconds" } do
        assert.equal(text, require("theaterref.error").seconds(seconds))
      end
      future:cancel()
      for _, case in ipairs {
        { resolver:resolve(url) }, { resolver:resolve_cached(url) }, { assert(resolver:start(url)):wait() },
        { resolver:trace(url, { purpose = "direct" }, function() end) },
      } do
        assert.equal("not resolved within 0.1 seconds (resolve_timeout)", case[2].message)
      end
      _, pending = resolver:resolve(url, { resolve_timeout = 0.0001 })
      assert.equal("not resolved within 0.0001 seconds (resolve_timeout)", pending.message)
      for _, case in ipairs { { resolver:plan(server.http .. "/late.toml") },
        { assert(resolver:start_plan(server.http .. "/late.toml")):wait() } } do
        assert.equal("not planned within 0.125 seconds (plan_timeout)", case[2].message)
      end
    end)

    it("makes its descriptor readable at its deadline, whoever loads what it waits for", function()
      local uv = require "luv"
      local cache = theaterref.resource_cache()
      local resolver = theaterref.resolver { cache = cache, log = false }
      local first = assert(resolver:start(server.http .. "/slow", { cached = true }))
      local future = assert(resolver:start(server.http .. "/slow", { cached = true, resolve_timeout = 0.2 }))
      local poll, events = uv.new_poll(future:pollfd()), 0
      poll:start("r", function()
        events = events + 1
        if future:done() then poll:stop() end
      end)
      local guard = uv.new_timer()
      guard:start(5000, 0, function() uv.stop() end)
      while not future.finished and uv.run "once" do end
      guard:close()
      poll:close()
      uv.run()
      assert.equal("timeout", select(2, future:wait()).kind)
      assert.is_true(events >= 1 and events < 5, events)
      first:cancel()
    end)

    it("makes its descriptor readable when it is cancelled, until done() tells", function()
      local uv = require "luv"
      local function readable(future)
        local poll, yes = uv.new_poll(future:pollfd()), false
        poll:start("r", function() yes = true end)
        uv.run "nowait"
        poll:close()
        uv.run "nowait"
        return yes
      end
      server:put("never.toml", ('name = "n"\npackage = "%s/slow"\n'):format(server.http))
      for _, future in ipairs {
        assert(theaterref.resolver():start(server.http .. "/slow")),
        assert(theaterref.resolver():start_plan(server.http .. "/never.toml")),
      } do
        assert.is_false(future:done())
        assert.is_false(readable(future))
        future:cancel()
        assert.is_true(readable(future))
        assert.is_true(future:done())
        assert.is_false(readable(future))
      end
    end)

    it("goes on while other code runs, and many at once", function()
      local futures, left = {}, 0
      for i = 1, 20 do
        server:put("many" .. i .. ".toml", ('name = "m%d"\npackage = "mirror/q"\n'):format(i))
        futures[i] = assert(theaterref.resolver():start_plan(server.http .. "/many" .. i .. ".toml"))
      end
      helper.eventually(function()
        left = 0
        for _, future in ipairs(futures) do left = left + (future:done() and 0 or 1) end
        return left == 0
      end)
      for i, future in ipairs(futures) do assert.equal("m" .. i, assert(future:wait(0)).name) end
    end)

    it("asks for the steps of all plans under way at the same time, whichever is waited for", function()
      local slow = helper.misbehaving()
      for i = 1, 8 do
        server:put("side" .. i .. ".toml", ('name = "s%d"\ninit_state = "%s/gather?8,state%d"\npackage = "%s/gather?8,package%d"\n')
          :format(i, slow.http, i, slow.http, i))
      end
      local resolver, futures = theaterref.resolver { retries = 0 }, {}
      for i = 1, 8 do futures[i] = assert(resolver:start_plan(server.http .. "/side" .. i .. ".toml")) end
      for i = 8, 1, -1 do
        local plan = assert(futures[i]:wait(30)) -- a server that has seen fewer than eight at once answers nobody
        assert.same({ "s" .. i, '"gathered"', '"gathered"' }, { plan.name, plan.initial_state, tostring(plan.package) })
      end
      slow:stop()
    end)
  end)

  describe("a plan's steps that do not depend on each other", function()
    local slow

    before_each(function() slow = helper.misbehaving() end)
    after_each(function() slow:stop() end)

    -- A manifest on the server whose state and package come when so many requests are open.
    local function manifest(state, package)
      server:put("beside.toml", ('name = "b"\n%s\npackage = "%s/%s"\n'):format(state, slow.http, package))
      return server.http .. "/beside.toml"
    end
    local function remote(path) return ('init_state = "%s/%s"'):format(slow.http, path) end
    local function asked(path) return tonumber(tostring(theaterref.resolve_reference(slow.http .. "/count/" .. path))) end

    it("ask for the state and the package at the same time", function()
      local ref = manifest(remote "gather?2,state", "gather?2,package")
      for _, plan in ipairs { assert(theaterref.resolver():plan(ref)), assert(assert(theaterref.resolver():start_plan(ref)):wait()) } do
        assert.same({ '"gathered"', '"gathered"' }, { plan.initial_state, tostring(plan.package) })
        assert.equal(slow.http .. "/gather?2,package", plan.package_reference)
      end
    end)

    it("ask for secrets and the package at the same time", function()
      local state = ([[{"a":{"$ref":"%s/gather?3,a"},"b":{"$ref":"%s/gather?3,b"}}]]):format(slow.http, slow.http)
      local plan = assert(theaterref.resolver({ policy = { secrets = function() return true end } }):plan(
        manifest(("initial_state = '''%s'''"):format(state), "gather?3,package")))
      assert.equal([[{"a":"\"gathered\"","b":"\"gathered\""}]], plan.initial_state)
      assert.equal('"gathered"', tostring(plan.package))
    end)

    it("end with the first that fails", function()
      local function cancelled() return tonumber(theaterref.metrics():match 'fetches_total{outcome="cancelled"} (%d+)') end
      local before = cancelled()
      local plan, err = theaterref.resolver({ retries = 0 }):plan(manifest(remote "missing?state", "gather?99,package"))
      assert.is_nil(plan)
      assert.matches("missing", tostring(err))
      helper.eventually(function() return cancelled() == before + 1 end)
    end)

    it("keep their order if one may depend on the other", function()
      server:put("state.json", '{"path":"count/x"}')
      local plan, err = theaterref.resolver():plan(manifest(('init_state = "%s/state.json"'):format(server.http), "{{path}}"))
      assert.equal(slow.http .. "/count/x", assert(plan, err).package_reference)
      local refused = theaterref.resolver { policy = { allow_spawn = function() return false, "no" end } }
      plan, err = refused:plan(manifest(remote "echo?state", "missing?refused"))
      assert.is_nil(plan)
      assert.equal("denied", err.kind)
      assert.equal(0, asked "missing?refused")
    end)
  end)

  describe("render and explain", function()
    it("show a scheme's answer, where redirects may lead, and candidates that failed", function()
      file("last", "bytes")
      local script = file("explained.lua", ([[return {
        rewrite = function(ref) return ref == "x" and { "%s/none", "pkg://a" } or ref end,
        allow = function() return true, { redirect_hosts = { "h.example" } } end,
        schemes = { pkg = function() return { reference = "%s/last" } end } }]]):format(folder, folder))
      local out = helper.run_ok(("%s %s/lua/bin/theaterref explain x --policy %s"):format(helper.lua, helper.root, script))
      for _, line in ipairs { "schemes.pkg pkg://a -> " .. folder .. "/last   [" .. script .. "]",
        "-> true (redirects: h.example)", "candidate   " .. folder .. "/none: failed: ", "=> 5 bytes" } do
        assert.matches(line, out, 1, true)
      end
    end)

    it("are the same steps as a plan", function()
      file("st.json", '{"who":"state"}')
      file("w.wasm", "\0asm")
      local path = file("r.toml", 'name = "{{shout who}}"\npackage = "w.wasm"\ninit_state = "st.json"\n')
      local resolver = theaterref.resolver { helpers = { shout = function(text) return text:upper() end },
        policy = { merge = function(configured) return configured end } }
      local options = { initial_state = '{"who":"caller"}' }
      local plan = assert(resolver:plan(path, options))
      assert.equal("STATE", plan.name)
      local rendered = assert(resolver:render(path, options))
      assert.same({ 'name = "STATE"\npackage = "w.wasm"\ninit_state = "st.json"\n', "toml" }, { rendered.text, rendered.format })
      local steps = traced(resolver, path, "manifest", options)
      assert.equal("STATE", steps.result.name)
      assert.same({ path, folder .. "/st.json", folder .. "/w.wasm" }, steps.resolved)
    end)

    it("never resolve a manifest with another purpose", function()
      file("w.wasm", "\0asm")
      local path, purposes = file("e.toml", 'name = "m"\npackage = "w.wasm"\n'), {}
      local script = file("e.lua", [[return { allow = function(ref, ctx) return true, nil, ctx end,
        rewrite = function(ref, ctx) if ctx.purpose == "direct" then error "direct" end
          return theaterref.policy.default.rewrite(ref, ctx) end }]])
      traced(assert(theaterref.resolver { policy = { rewrite = function(ref, ctx)
        purposes[#purposes + 1] = ctx.purpose
        return ref
      end } }), path, "manifest")
      assert.same({ "manifest", "package" }, purposes)
      local out = helper.run_ok(("%s %s/lua/bin/theaterref explain %s --policy %s"):format(helper.lua, helper.root, path, script))
      assert.matches("=> m: package " .. folder .. "/w.wasm", out)
      out = helper.run(("%s %s/lua/bin/theaterref explain %s --purpose packege"):format(helper.lua, helper.root, path))
      assert.equal("", out)
    end)

    it("explain takes a state, a name and a purpose", function()
      file("w.wasm", "\0asm")
      local path = file("n.toml", 'name = "{{n}}"\npackage = "w.wasm"\n')
      local script = file("n.lua", [[return { rewrite = function(ref, ctx)
        return ctx.name == "canary" and ref .. ".next" or theaterref.policy.default.rewrite(ref, ctx) end }]])
      local command = ("%s %s/lua/bin/theaterref explain "):format(helper.lua, helper.root)
      assert.matches("=> seven: package", helper.run_ok(command .. path .. " --state '{\"n\":\"seven\"}'"))
      file("w.wasm.next", "\0asm next")
      assert.matches("w.wasm.next.*=> 9 bytes", helper.run_ok(command .. folder .. "/w.wasm --purpose package --name canary --policy "
        .. script))
    end)
  end)

  describe("an answer of a rule", function()
    it("that is wrong is an error of kind 'policy', never a Lua error", function()
      local path = file("p", "p")
      local manifest = file("a.toml", 'name = "m"\npackage = "p"\n')
      for fault, rules in pairs {
        ["'store' must be a string"] = { integrity = function() return { sha256 = ("a"):rep(64), store = {} } end },
        ["'offlin' %(did you mean 'offline'%?%)"] = { integrity = function() return { sha256 = ("a"):rep(64), offlin = true } end },
        ["'integrity' returned a SHA%-256 that is not 64 hex digits"] = { integrity = function() return "ab" end },
        ["'integrity' returned a table without a digest"] = { integrity = function() return {} end },
        ["'integrity' returned a boolean as its reason"] = { integrity = function() return nil, true end },
        ["'allow_spawn' returned a table as its reason"] = { allow_spawn = function() return false, {} end },
        ["'allow_spawn' returned a nil"] = nil,
        ["'tll' %(did you mean 'ttl'%?%)"] = { cacheable = function() return { tll = 3 } end },
        ["no field of the answer 'ctx'"] = { cacheable = function() return { ctx = {} } end },
        ["'ttl' must be a number of seconds"] = { cacheable = function() return { ttl = 0 / 0 } end },
        ["'redirect_host' %(did you mean 'redirect_hosts'%?%)"] = { allow = function() return true, { redirect_host = {} } end },
        ["'redirect_hosts' must be a list of hosts"] = { allow = function() return true, { redirect_hosts = "some" } end },
        ["the scheme 'own' returned a table"] = { schemes = { own = function() return { wait = true } end },
          rewrite = function() return "own://x" end },
        ["'secrets' returned a string"] = { secrets = function() return "yes" end },
        ["'timout' %(did you mean 'timeout'%?%)"] = { request = function() return { timout = 1 } end,
          rewrite = function() return "http://127.0.0.1:1/" end },
        ["'rewrite' returned a list with a boolean in it"] = { rewrite = function() return { true } end },
      } do
        local resolver = theaterref.resolver { policy = rules, cache = theaterref.resource_cache(), log = false }
        local plan, err = resolver:plan(manifest, { initial_state = '{"s":{"$ref":"p"}}' })
        assert.is_nil(plan, fault)
        assert.equal("policy", err.kind, fault)
        assert.matches(fault, err.message)
      end
      assert(theaterref.resolver { policy = { allow = function() return true, "no reason needed" end } }:resolve(path))
    end)
  end)

  it("raises wrong arguments at the caller", function()
    local future = assert(theaterref.resolver():start "data:,x")
    for expected, call in pairs {
      ["a number of seconds was expected, not a string"] = function() future:wait "x" end,
      ["not a nil"] = function() theaterref.resolve_reference_cached "data:,x" end,
      ["a reference must be a string"] = function() theaterref.resolve_reference_cached(nil, theaterref.resource_cache()) end,
    } do
      local ok, why = pcall(call)
      assert.is_false(ok)
      assert.matches("^spec/policy/resolve_spec.lua:%d+: ", why)
      assert.matches(expected, why, 1, true)
    end
  end)

  it("raises where a cache is asked for that is not there", function()
    local resolver = theaterref.resolver()
    for _, call in ipairs { "start", "resolve" } do
      local ok, why = pcall(function() return (resolver[call](resolver, "x", { cached = true })) end)
      assert.is_false(ok)
      assert.matches("^spec/policy/resolve_spec.lua:%d+: this resolver has no cache", why)
      assert.is_true(pcall(resolver[call], resolver, "x", { cached = true, cache = theaterref.resource_cache() }))
    end
  end)

  it("checks the options of each call", function()
    local resolver = theaterref.resolver()
    for _, call in ipairs { function() resolver:start("x", { cahced = true }) end,
      function() resolver:resolve("x", { cahced = true }) end, function() resolver:plan("x", { inital_state = "{}" }) end,
      function() resolver:start_plan("x", { plan_timeout = "soon" }) end } do
      local ok, why = pcall(call)
      assert.is_false(ok)
      assert.matches("^spec/policy/resolve_spec.lua:%d+: .*option '", why)
    end
  end)
end)
