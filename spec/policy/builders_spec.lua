local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

local policy = require "theaterref.policy"

describe("policy builders", function()
  local folder

  before_each(function()
    folder = helper.temporary_folder()
    helper.write(folder .. "/actor.wasm", "\0asm")
    helper.write(folder .. "/m.toml", 'name = "worker"\npackage = "actor.wasm"\n')
  end)

  after_each(function() helper.remove(folder) end)

  local function script(text)
    return helper.write(folder .. "/policy.lua", text)
  end

  it("rewrite by prefix, name, home and environment, one after another", function()
    local rule = policy.chain(policy.alias { worker = "~/w/actor.wasm" }, policy.expand(),
      policy.mirror { ["/"] = "/inner/", [os.getenv "HOME" .. "/w/"] = { "https://a/", "https://b/" } })
    assert.same({ "https://a/actor.wasm", "https://b/actor.wasm" }, rule "worker")
    assert.equal("/inner/x", rule "/x")
    local _, why = pcall(policy.expand { "THEATERREF_NOT_SET" }, "${THEATERREF_NOT_SET}/x")
    assert.matches("'THEATERREF_NOT_SET' is not set", why)
    _, why = pcall(policy.expand {}, "${PATH}")
    assert.matches("'PATH' is not in the list", why)
  end)

  it("go on to the next candidate when one fails, and emit an event", function()
    local events = {}
    local resolver = theaterref.resolver { cache = theaterref.resource_cache(), policy = {
      rewrite = function(ref) return { folder .. "/nowhere", "http://127.0.0.1:1/closed", ref } end,
      request = function() return { retries = 0 } end,
      on_event = function(event) events[#events + 1] = event.type == "fallback" and event.reference or nil end } }
    for _ = 1, 2 do
      assert.equal("\0asm", tostring(assert(resolver:resolve(folder .. "/actor.wasm"))))
      assert.equal("\0asm", tostring(assert(resolver:resolve_cached(folder .. "/actor.wasm"))))
    end
    -- Each time the local file is at hand, so nothing is fetched.
    assert.equal(4, #events)
    assert.equal(folder .. "/actor.wasm", events[1])
    local future = resolver:start(folder .. "/actor.wasm")
    helper.eventually(function() return future:done() end)
    assert.equal("\0asm", tostring(future:wait(0)))
    local _, err = resolver:resolve(folder .. "/also-nowhere")
    assert.equal("not_found", err.kind)
  end)

  it("do not go on past a refusal", function()
    local resolver = theaterref.resolver { policy = {
      rewrite = function(ref) return { "http://h/secret", ref } end,
      allow = function(ref) return not ref:find "secret", "no" end } }
    assert.equal("denied", select(2, resolver:resolve(folder .. "/actor.wasm")).kind)
  end)

  it("allow what is listed, and say which list and how", function()
    local rule = policy.only { schemes = { "https", "store" }, hosts = { "a.org", "*.b.org" }, stores = { "mine" } }
    for ref, expected in pairs { ["https://a.org/x"] = true, ["https://user@A.org:8443/x"] = true, ["https://x.b.org/"] = true,
      ["https://b.org/"] = "the host b.org is not in the policy's list of hosts; to allow it, add it there",
      ["https://xb.org/"] = "host", ["https://a.org@evil.org/"] = "host", ["http://a.org/"] = "the scheme http",
      ["/etc/passwd"] = "the scheme file", ["store://mine/x"] = true, ["store://other/x"] = "the store other" } do
      local allowed, why = rule(ref, { purpose = "direct" })
      if expected == true then assert.is_true(allowed, ref) else assert.matches(expected, why, 1, true) end
    end
    assert.same({ false, "this relative path is not in the policy's list of prefixes; to allow it, give it as an absolute path" },
      { policy.only { prefixes = { "/srv/" } }("x.wasm", { purpose = "direct", path = "/srv/x.wasm" }) })
    local _, why = policy.only { schemes = { "file" } }("/etc/x", { purpose = "package", manifest_reference = "https://h/m.toml" })
    assert.equal("a manifest that came by https may not name a local file; policy.only keeps this rule: to allow it, write an "
      .. "'allow' without it", why)
    for _, lists in ipairs { { schemes = { "https" } }, { prefixes = { "https://h/" } }, { stores = { "x" } } } do
      lists.redirect_hosts = { "cdn.example.org" }
      local allowed, more = policy.only(lists)("https://h/x", { purpose = "direct" })
      assert.same({ true, { redirect_hosts = { "cdn.example.org" } } }, { allowed, more })
    end
    rule = policy.only { prefixes = { "/srv/" } }
    assert.is_true(rule("/srv/a", { purpose = "direct" }))
    assert.is_false((rule("/srv/../etc/passwd", { purpose = "direct" })))
    assert.is_false((rule("/srv/..", { purpose = "direct" })))
    rule = policy.only { prefixes = { "https://h/blue/" } }
    for _, tail in ipairs { "a..b?x=/../", "...", "100%25", "a%20b/..c", "#/../x" } do
      local allowed, more = rule("https://h/blue/" .. tail, { purpose = "direct" })
      assert.is_true(allowed, tail)
      assert.is_nil(more) -- redirects: to the same host
    end
    for _, tail in ipairs { "../red", "%2e%2E/red", "..%2fred", "x/..?y", "..#z", ".%2e", "..%3b/red",
      "%25%32%65%25%32%65/red", "%%32%65%%32%65/red", "..%00/red", "..%23/red", "..%3f/red", "..%20/red", "%c0%ae%c0%ae%c0%afred", "%E0%80%AE%E0%80%AE/red", "..%C1%9Cred", "..%5cred",
      "..\\red", "..%" .. ("25"):rep(9) .. "2fred" } do
      assert.is_false((rule("https://h/blue/" .. tail, { purpose = "direct" })), tail)
    end
  end)

  it("judge an open pipe by the path that names it, and nothing else is read in its place", function()
    helper.write(folder .. "/secret", "secret")
    helper.run_ok("mkfifo " .. folder .. "/fifo")
    local program = helper.write(folder .. "/program.lua", ([[
      local theaterref = require "theaterref"
      local folder, ref, what = %q, ...
      local resolver = theaterref.resolver { log = false, policy = { allow = function(_, ctx)
        io.write(tostring(ctx.path), " ")
        if what == "swap" then
          require("luv").fs_close(0) -- whose number the next file gets
          file = assert(io.open(folder .. "/secret"))
        end
        return true
      end } }
      local blob, err = resolver:resolve(ref)
      io.write(tostring(blob or err.message), "\n")]]):format(folder))
    local function run(before, words, after)
      return (helper.run_ok(("%s %s %s %s %s"):format(before, helper.lua, program, words, after or "")):gsub("/proc/%d+/", "/proc/N/"))
    end
    for _, path in ipairs { "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0" } do
      assert.equal(path .. " hello\n", run("printf hello |", path))
      assert.equal(folder .. "/secret secret\n", run("", path, "< " .. folder .. "/secret"))
      assert.equal(("%s Failed to read %s: it is no longer a pipe\n"):format(path, path),
        run("printf hello |", path .. " swap"))
    end
    assert.equal("/dev/stdin hello\n", run("printf hello |", "file:///dev/stdin"))
    assert.equal(folder .. "/fifo named\n", run(("printf named > %s/fifo &"):format(folder), "/dev/stdin", "< " .. folder .. "/fifo"))
    helper.run_ok(("ln -s /dev/stdin %s/link"):format(folder))
    assert.matches("^nil Failed to read .*/link: No such file or directory", run("printf hello |", folder .. "/link"))
  end)

  it("take a prefix that ends within a host or port as all of these", function()
    for prefix, refs in pairs { ["oci://ghcr.io"] = { "oci://ghcr.io/team/x:1", "oci://ghcr.io.evil.com/x:1", "oci://ghcr.io:8443/x:1" },
      ["https://good.inv"] = { "https://good.inv/x", "https://good.invalid/x", "https://good.inv@evil.com/" },
      ["https://h:44"] = { "https://h:44/", "https://h:443/", "https://h:4/" },
      ["secret://api"] = { "secret://api", "secret://api-of-others" } } do
      local only = policy.only { prefixes = { prefix } }
      local signed = policy.signed { keys = { "release.pub" }, prefixes = { prefix } }
      for i, ref in ipairs(refs) do
        assert.equal(i == 1, (only(ref, { purpose = "direct" })), ref)
        assert.equal(i == 1, signed(ref, { purpose = "direct" }) ~= nil, ref)
      end
    end
    assert.is_true((policy.only { prefixes = { "https://" } }("https://h/", { purpose = "direct" })))
    assert.is_false((policy.only { schemes = { "oci" }, prefixes = { "oci://ghcr.io/team/" } }("oci://ghcr.io/teams/x:1", { purpose = "direct" })))
  end)

  it("allow files below a prefix, wherever links lead", function()
    helper.run_ok(("cd %s && mkdir -p public/in other && ln -s .. public/out && ln -s public shown && echo y > public/in/x "
      .. "&& echo y > other/x && ln -s in/x public/same && ln -s / public/root"):format(folder))
    for _, start in ipairs { folder, "file://" .. folder } do
      local resolver = theaterref.resolver { log = false, policy = { allow = policy.only { prefixes = { start .. "/shown/",
        start .. "/public/" } } } }
      for path, allowed in pairs { ["/public/in/x"] = true, ["/shown/in/x"] = true, ["/public/same"] = true, ["/other/x"] = false,
        ["/public/out/other/x"] = false, ["/public/root" .. folder .. "/other/x"] = false, ["/shown/out/other/x"] = false } do
        local blob, err = resolver:resolve(start .. path)
        assert.equal(allowed and "y\n" or "denied", blob and tostring(blob) or err.kind, path)
      end
      assert.equal("not_found", select(2, resolver:resolve(start .. "/public/none")).kind)
    end
    -- The rule did not judge the file that a link led to when somebody else cached it.
    helper.write(folder .. "/other/secret", "secret")
    local cache, link = theaterref.resource_cache(), folder .. "/public/moved"
    helper.run_ok(("ln -s %s/other %s"):format(folder, link))
    local open = theaterref.resolver { log = false, cache = cache }
    local strict = theaterref.resolver { log = false, cache = cache, policy = { allow = policy.only { prefixes = { folder .. "/public/" } } } }
    assert.equal("secret", tostring(assert(open:resolve_cached(link .. "/secret"))))
    assert.equal("denied", select(2, strict:resolve_cached(link .. "/secret")).kind)
    helper.run_ok("rm " .. link)
    assert.equal("not_found", select(2, strict:resolve_cached(link .. "/secret")).kind)
    helper.run_ok(("mkdir %s && printf fine > %s/secret"):format(link, link))
    assert.equal("fine", tostring(assert(strict:resolve_cached(link .. "/secret"))))
    helper.run_ok("rm " .. link .. "/secret")
    assert.is_true(cache:remove(link .. "/secret"))
    helper.write(link .. "/secret", "newer")
    assert.equal("newer", tostring(assert(strict:resolve_cached(link .. "/secret"))))
    -- A link that takes a folder's place after it was judged is not followed.
    local swapping = theaterref.resolver { log = false, policy = { allow = function(_, ctx)
      assert.equal(link .. "/secret", ctx.path)
      helper.run_ok(("mv %s %s-away && ln -s %s/other %s"):format(link, link, folder, link))
      return true
    end } }
    local _, swapped = swapping:resolve(link .. "/secret")
    assert.matches("Too many levels of symbolic links", swapped.message)
    local resolver = theaterref.resolver { log = false, policy = { allow = function(_, ctx)
      os.rename(folder .. "/appeared-later", folder .. "/public/late") -- what was not there is not opened
      return ctx.path == nil end } }
    helper.run_ok(("ln -s %s/other/x %s/appeared-later"):format(folder, folder))
    assert.equal("not_found", select(2, resolver:resolve(folder .. "/public/late")).kind)
  end)

  it("allow a host however its name is written, and refuse names that match none", function()
    assert.is_true((policy.only { hosts = { "A.org" } }("https://a.ORG/x", { purpose = "direct" })))
    for _, name in ipairs { "https://h/", "h/", "*", "a.*.org", "h:8443", "[::1]", "" } do
      for _, list in ipairs { "hosts", "redirect_hosts" } do
        assert.has_error(function() policy.only { schemes = { "https" }, [list] = { name } } end,
          ("policy.only: the list of policy.only '%s' takes hosts, such as example.org and *.example.org, not '%s'%s"):format(list, name,
            name:find "^[^:]*:%d*$" and "; a host matches at any port" or ""))
      end
    end
  end)

  it("suggest the option that is meant", function()
    local function fault(call) return select(2, pcall(call)) end
    assert.matches("policy.only: unknown list 'host' (did you mean 'hosts'?)",
      fault(function() policy.only { host = { "x" } } end), 1, true)
    local resolver = theaterref.resolver()
    assert.matches("'timeout' (did you mean 'resolve_timeout'?)", fault(function() resolver:start("x", { timeout = 1 }) end), 1, true)
    assert.matches("'timeout' (did you mean 'plan_timeout'?)", fault(function() resolver:plan("x", { timeout = 1 }) end), 1, true)
  end)

  it("merge without a loss: shallow, deep, arrays, by key", function()
    local config = '{"n":9007199254740993,"o":{"a":1.0,"b":[1,2],"gone":1},"list":[1e400]}'
    local override = '{"o":{"b":[3],"gone":null,"c":"\\u0041"},"list":[ 2 ]}'
    assert.equal('{"list":[2],"n":9007199254740993,"o":{"b":[3],"gone":null,"c":"\\u0041"}}',
      policy.merge.shallow(config, override))
    assert.equal('{"list":[ 2 ],"n":9007199254740993,"o":{"a":1.0,"b":[3],"c":"\\u0041"}}', policy.merge.deep(config, override))
    assert.equal('{"list":[1e400,2],"n":9007199254740993,"o":{"a":1.0,"b":[1,2,3],"c":"\\u0041"}}',
      policy.merge.append(config, override))
    assert.equal('{"list":[ 2 ],"n":9007199254740994,"o":{"a":1.0,"b":[1,2],"gone":1}}', policy.merge.keys {
      o = "config", n = function(ours) return ours:gsub("3$", "4") end }(config, override))
    assert.equal("[1]", policy.merge.deep(config, "[1]"))
    assert.equal(config, policy.merge.deep(config, nil))
  end)

  it("patch as RFC 7396 has it", function()
    for _, case in ipairs { -- its appendix A, of objects
      { '{"a":"b"}', '{"a":"c"}', '{"a":"c"}' }, { '{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}' },
      { '{"a":"b"}', '{"a":null}', "{}" }, { '{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}' },
      { '{"a":["b"]}', '{"a":"c"}', '{"a":"c"}' }, { '{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}' },
      { '{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}' }, { '{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}' },
      { '{"e":null}', '{"a":1}', '{"a":1,"e":null}' }, { "{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}' } } do
      assert.equal(case[3], policy.merge.deep(case[1], case[2]))
    end
  end)

  it("work inside a script's sandbox as they do in the host", function()
    helper.write(folder .. "/theaterref.lock", ("theaterref lockfile 1\nsha256=%s size=4  %s/actor.wasm\n"):format(
      core.blob("\0asm"):digest "sha256", folder))
    local resolver = assert(theaterref.resolver { policy = script(([[
      local policy = theaterref.policy
      return policy.combine(policy.lockfile "theaterref.lock", {
        rewrite = policy.chain(policy.default.rewrite, policy.alias { short = "%s/actor.wasm" }),
        merge = policy.merge.deep,
        allow = policy.only { schemes = { "file" } } })]]):format(folder)) })
    assert.equal("\0asm", tostring(assert(resolver:resolve "short")))
    local _, err = resolver:resolve(folder .. "/m.toml")
    assert.matches("m.toml: it is not in the lockfile theaterref.lock.*; to allow it, lock its manifest again: theaterref lock %-o [^ ]+ [^ ]+$", tostring(err))
    assert.equal("denied", select(2, resolver:resolve "https://h/").kind)
    for _, ref in ipairs { "https://h/m.toml?t=a'SECRET", "https://us'er:SECRET@h/m.toml", "dir/m.toml?t='SECRET",
      "Data:application/toml,name='w' password = 'SECRET'" } do
      _, err = policy.lockfile(folder .. "/theaterref.lock").integrity(ref, { purpose = "manifest" })
      assert.matches("theaterref lock %-o .*/theaterref.lock MANIFEST$", err)
    end
  end)

  it("refuse bytes without the digest, wherever they come from", function()
    local cache = theaterref.resource_cache()
    assert(theaterref.resolver { cache = cache }:resolve_cached(folder .. "/actor.wasm"))
    local wrong = theaterref.resolver { cache = cache, home = folder, policy = { integrity = function() return ("0"):rep(64) end } }
    for _, resolve in ipairs { wrong.resolve, wrong.resolve_cached } do
      local _, err = resolve(wrong, folder .. "/actor.wasm")
      assert.equal("digest_mismatch", err.kind)
    end
    local digest = core.blob("\0asm"):digest "sha256"
    local offline = theaterref.resolver { home = folder, policy = { integrity = function()
      return { sha256 = digest, store = "release", offline = true } end } }
    local _, err = offline:resolve "https://nowhere.invalid/x"
    assert.matches("offline, and not in the store 'release'", err.message)
    theaterref.content_store("release", { home = folder, algorithm = "sha256" }):put "\0asm"
    assert.equal("\0asm", tostring(assert(offline:resolve "https://nowhere.invalid/x")))
    _, err = offline:resolve("https://nowhere.invalid/x#sha256=" .. ("1"):rep(64))
    assert.equal("digest_mismatch", err.kind)
  end)

  it("take no bytes without the digest from a disk cache", function()
    local server = helper.nginx()
    server:put("x", "first")
    local function resolver(digest)
      return theaterref.resolver { cache = theaterref.resource_cache { disk = { store = "disk", home = folder } },
        policy = { integrity = function() return digest end } }
    end
    assert.equal("first", tostring(assert(resolver(nil):resolve_cached(server.http .. "/x"))))
    server:put("x", "second")
    assert.equal("second", tostring(assert(resolver(core.blob("second"):digest "sha256"):resolve_cached(server.http .. "/x"))))
    local _, err = resolver(("0"):rep(64)):resolve_cached(server.http .. "/x")
    assert.equal("digest_mismatch", err.kind)
    server:stop()
  end)

  it("keep secrets out of lockfiles", function()
    helper.write(folder .. "/token", "s3cret")
    helper.write(folder .. "/m.toml", 'name = "w"\npackage = "actor.wasm"\ninitial_state = \'{"t":{"$ref":"token"}}\'\n')
    script "return { secrets = function() return true end }"
    helper.run_ok(("cd %s && %s %s/lua/bin/theaterref lock m.toml --policy policy.lua"):format(folder, helper.lua, helper.root))
    assert.is_nil(helper.read(folder .. "/theaterref.lock"):find "token")
    local plan = assert(theaterref.resolver { policy = folder .. "/policy.lua", lockfile = folder .. "/theaterref.lock" }
      :plan(folder .. "/m.toml"))
    assert.equal('{"t":"s3cret"}', plan.initial_state)
  end)

  it("give schemes of one's own: bytes, a reference, or a future", function()
    local calls = 0
    local resolver = assert(theaterref.resolver { cache = theaterref.resource_cache(), policy = { schemes = {
      bytes = function(ref) calls = calls + 1 return "<" .. ref .. ">" end,
      other = function() return { reference = "bytes://inner" } end,
      later = function() return theaterref.resolver():start(folder .. "/actor.wasm") end,
      loop = function(ref) return { reference = ref } end,
      none = function() return nil, "not today" end,
      bad = function() error "broken" end } } })
    assert.equal("<bytes://x>", tostring(resolver:resolve "bytes://x"))
    assert.equal("<bytes://inner>", tostring(resolver:resolve "other://x"))
    assert.equal("\0asm", tostring(resolver:resolve "later://x"))
    assert.equal("\0asm", tostring(resolver:resolve_cached "later://x"))
    calls = 0
    for _ = 1, 3 do assert.equal("<bytes://c>", tostring(resolver:resolve_cached "bytes://c")) end
    assert.equal("<bytes://inner>", tostring(resolver:resolve_cached "other://x"))
    assert.equal(2, calls)
    assert.matches("more than 8 times", select(2, resolver:resolve "loop://x").message)
    assert.matches("not today", select(2, resolver:resolve "none://x").message)
    assert.equal("policy", select(2, resolver:resolve "bad://x").kind)
    local refused, err = theaterref.resolver { policy = { schemes = { https = print } } }
    assert.is_nil(refused)
    assert.matches("a policy cannot define the scheme 'https'", err.message)
  end)

  it("fill in secrets where the policy wants them, and nowhere shows them", function()
    helper.write(folder .. "/token", "s3cret\n")
    helper.write(folder .. "/m.toml", ([[
name = "worker"
package = "actor.wasm"
initial_state = '{"token":{"$ref":"file://%s/token"},"n":1e400,"list":[{"$ref":"token"},{"$ref":"x","y":1}]}'
]]):format(folder))
    local shown = {}
    local rules = { secrets = function() return true end, on_event = function(event)
      for _, value in pairs(event) do shown[#shown + 1] = tostring(value) end
    end }
    local plan = assert(theaterref.resolver { policy = rules }:plan(folder .. "/m.toml"))
    assert.equal('{"list":["s3cret",{"$ref":"x","y":1}],"n":1e400,"token":"s3cret"}',
      theaterref.merge_initial_states(plan.initial_state, "{}"))
    assert.is_nil(plan.state_without_secrets:find "s3cret")
    assert.is_nil(table.concat(shown, " "):find "s3cret")
    assert.matches('"$ref"', theaterref.resolver():plan(folder .. "/m.toml").initial_state, 1, true)
    os.remove(folder .. "/token")
    local _, err = theaterref.resolver { policy = rules }:plan(folder .. "/m.toml")
    assert.equal("not_found", err.kind)
  end)

  it("merge states of up to 4 MiB in a script, and of any size where it is trusted", function()
    local path = script "return { merge = theaterref.policy.merge.deep }"
    local ref = helper.write(folder .. "/m.toml", "name = 'x'\npackage = 'actor.wasm'\ninitial_state = '{\"a\":" .. ("1"):rep(100) .. "}'\n")
    local function plan(bytes, trusted)
      return theaterref.resolver { policy = path, trusted = trusted }:plan(ref, { initial_state = '{"b":"' .. ("x"):rep(bytes) .. '"}' })
    end
    assert.equal((3 << 20) + 113, #assert(plan(3 << 20)).initial_state)
    assert.equal((5 << 20) + 113, #assert(plan(5 << 20, true)).initial_state)
    for _, bytes in ipairs { (4 << 20) - 8, 5 << 20 } do -- too long merged, and before
      local _, err = plan(bytes)
      assert.equal("too_large", err.kind)
      assert.matches("'max_state_bytes' allows 67108864 bytes: a script's strings have up to 4 MiB", err.message, 1, true)
    end
  end)

  it("veto and narrow manifests", function()
    local ref = folder .. "/m.toml"
    local _, err = theaterref.resolver { policy = { allow_spawn = function(m) return m.name ~= "worker", "no workers" end } }:plan(ref)
    assert.equal("denied", err.kind)
    assert.matches("Not allowed to spawn worker: no workers", err.message)
    local plan = assert(theaterref.resolver { policy = { allow_spawn = function(m)
      m.permission_policy = { network = false }
      return m
    end } }:plan(ref))
    assert.same({ network = false }, plan.manifest.permission_policy)
  end)

  it("cache with the policy's options", function()
    local ref, cache = folder .. "/m.toml", theaterref.resource_cache()
    local resolver = theaterref.resolver { cache = cache, policy = { cacheable = function() return { ttl = 0 } end } }
    for _ = 1, 2 do
      local plan = assert(resolver:plan(ref))
      assert.same({ true, false }, { plan.used_cache, plan.cache_hit })
    end
    resolver = theaterref.resolver { cache = cache, policy = { cacheable = function() return { ttl = 60 } end } }
    assert(resolver:plan(ref))
    assert.is_true(resolver:plan(ref).cache_hit)
  end)

  it("reload a script that changed, and keep the old one when it is broken", function()
    local path = script 'return { allow = function() return false, "first" end }'
    local resolver = assert(theaterref.resolver { policy = path })
    local function why() return select(2, resolver:resolve(folder .. "/actor.wasm")).message end
    assert.matches("first", why())
    script 'return { allow = function() return false, "second, and longer" end }'
    assert.matches("second", why())
    script "return {{{ this is no Lua at all, whatever one does"
    assert.matches("second", why())
    script "return {}"
    assert.equal("\0asm", tostring(resolver:resolve(folder .. "/actor.wasm")))
  end)

  it("try a script that failed again after some time, although it is the same", function()
    local path = script "return {}"
    local loaded = assert(require("theaterref.policy").load(path, true))
    script(('if io.open(%q) then return {} end error "not yet"'):format(folder .. "/ready"))
    assert.equal("policy_broken", select(2, loaded:current()))
    helper.write(folder .. "/ready", "")
    assert.is_nil(select(2, loaded:current()))
    local now = core.now
    core.now = function() return now() + 31 end
    local _, event = loaded:current()
    core.now = now
    assert.equal("policy_reloaded", event)
  end)

  it("run without a sandbox when the host trusts the script", function()
    local path = script 'local n = #assert(io.open("/etc/hostname"):read "a") return { allow = function() return n > 0 end }'
    assert.is_nil((theaterref.resolver { policy = path }))
    assert.equal("\0asm", tostring(assert(theaterref.resolver { policy = path, trusted = true }):resolve(folder .. "/actor.wasm")))
  end)

  it("read file URLs, and no others", function()
    helper.write(folder .. "/a b", "spaced")
    for _, ref in ipairs { "file://" .. folder .. "/a%20b", "file://localhost" .. folder .. "/a%20b" } do
      assert.equal("spaced", tostring(assert(theaterref.resolve_reference(ref))))
    end
    for _, ref in ipairs { "file://host/x", "file://x", "file:///a%00b" } do
      assert.equal("invalid_reference", select(2, theaterref.resolve_reference(ref)).kind)
    end
  end)

  it("refuse servers at private addresses, by the peer and not by the name", function()
    local server = helper.nginx()
    server:put("x", "inside")
    local resolver = theaterref.resolver { refuse_private = true, ca_file = server.ca }
    for _, ref in ipairs { server.http .. "/x", server.https .. "/x" } do
      local _, err = resolver:resolve(ref)
      assert.equal("denied", err.kind)
      assert.matches("its server is at the private address [%d.:]+; to allow it, ask without refuse_private", err.message)
    end
    assert.equal("inside", tostring(theaterref.resolver():resolve(server.http .. "/x")))
    helper.eventually(function() return server:requests "/x" == 1 end) -- of all the ones above
    server:stop()
  end)
end)
