local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

-- The policies in examples/policies, with the world that they speak of brought
-- here: their URLs are served by a server, their folders are temporary.
describe("the example policy", function()
  local folder, server

  setup(function()
    folder = helper.temporary_folder()
    server = helper.nginx()
  end)

  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  -- The example's text with some parts replaced, as a policy.
  local function policy(name, replacements)
    local text = helper.read("examples/policies/" .. name .. ".lua")
    for from, to in pairs(replacements or {}) do
      local at, last = text:find(from, 1, true)
      assert(at, name .. " does not say " .. from)
      while at do
        text = text:sub(1, at - 1) .. to .. text:sub(last + 1)
        at, last = text:find(from, at + #to, true)
      end
    end
    return helper.write(folder .. "/" .. name .. ".lua", text)
  end

  local function resolver(name, replacements, options)
    options = options or {}
    options.policy, options.ca_file, options.home = policy(name, replacements), server.ca, folder
    return assert(theaterref.resolver(options))
  end

  it("mirror asks the mirror first, and the origin for what it has not", function()
    helper.run_ok("mkdir -p " .. server.folder .. "/www/mirror " .. server.folder .. "/www/origin && chmod -R 755 " .. server.folder)
    server:put("mirror/both", "from the mirror")
    server:put("origin/both", "from the origin")
    server:put("origin/one", "only there")
    local r = resolver("mirror", { ["https://github.com/"] = server.https .. "/origin/",
      ["https://mirror.internal/github/"] = server.https .. "/mirror/" })
    assert.equal("from the mirror", tostring(assert(r:resolve(server.https .. "/origin/both"))))
    assert.equal("only there", tostring(assert(r:resolve(server.https .. "/origin/one"))))
    local down = resolver("mirror", { ["https://github.com/"] = server.https .. "/origin/",
      ["https://mirror.internal/github/"] = "https://127.0.0.1:1/" })
    assert.equal("from the origin", tostring(assert(down:resolve(server.https .. "/origin/both"))))
  end)

  it("signed takes packages from the network that the release key signed, and modules only", function()
    helper.run_ok(([[cd %s && openssl ecparam -name prime256v1 -genkey -noout -out release.pem && openssl ec -in release.pem -pubout \
      -out release.pub 2>&1]]):format(folder))
    local module, html = "\0asm\1\0\0\0", "<html></html>"
    for name, bytes in pairs { ["good.wasm"] = module, ["bare.wasm"] = module, ["page.wasm"] = html } do
      server:put(name, bytes)
      helper.write(folder .. "/" .. name:gsub("wasm$", "toml"), ('name = "a"\npackage = "%s/%s"\n'):format(server.https, name))
    end
    local key = helper.read(folder .. "/release.pem")
    for name, bytes in pairs { ["good.wasm"] = module, ["page.wasm"] = html } do
      server:put(name .. ".sig", assert(theaterref.sign(bytes, key)))
    end
    local r = resolver "signed"
    assert.equal(module, tostring(assert(r:plan(folder .. "/good.toml")).package))
    assert.equal("untrusted", select(2, r:plan(folder .. "/bare.toml")).kind)
    assert.equal("rejected", select(2, r:plan(folder .. "/page.toml")).kind)
  end)

  it("development takes one package from the local build, and keeps it out of the cache", function()
    helper.write(folder .. "/worker.wasm", "built here")
    helper.write(folder .. "/m.toml",
      'name = "worker"\npackage = "https://packages.example.org/worker/1.2.3/worker.wasm"\nstatic_package = true\n')
    local script = helper.write(folder .. "/plan.lua", ([[
      local theaterref = require "theaterref"
      local plan = assert(theaterref.resolver({ policy = %q, cache = theaterref.resource_cache() }):plan(%q))
      io.write(tostring(plan.package), " ", tostring(plan.used_cache))]]):format(policy "development", folder .. "/m.toml"))
    assert.equal("built here false", helper.run_ok(("THEATERREF_BUILDS=%s %s %s"):format(folder, helper.lua, script)))
    local _, err, status = helper.run(helper.lua .. " " .. script)
    assert.equal(1, status)
    assert.matches("'THEATERREF_BUILDS' is not set", err)
  end)

  it("secrets fills them in from their folder, and from nowhere else", function()
    helper.run_ok("mkdir -p " .. folder .. "/secrets")
    helper.write(folder .. "/secrets/token", "s3cret\n")
    helper.write(folder .. "/actor.wasm", "\0asm")
    local r = resolver("secrets", { ["/run/secrets"] = folder .. "/secrets" })
    local function plan(ref, package)
      helper.write(folder .. "/s.toml", ('name = "a"\npackage = "%s"\ninitial_state = \'{"t":{"$ref":"%s"}}\'\n'):format(
        package or "actor.wasm", ref))
      return r:plan(folder .. "/s.toml")
    end
    assert.equal('{"t":"s3cret"}', plan("secret://token").initial_state)
    assert.equal('{"t":{"$ref":"/etc/passwd"}}', plan("/etc/passwd").initial_state)
    assert.equal('{"t":{"$ref":"secret://../x"}}', plan("secret://../x").initial_state)
    helper.run_ok(("ln -s %s/secrets %s/link"):format(folder, folder))
    for _, package in ipairs { "/secrets/token", "/secrets//token", "/link/token", "/./link/../secrets/token" } do
      local _, err = plan("secret://token", folder .. package)
      assert.matches("secrets are for initial states only", err.message, 1, true)
    end
    local _, err = plan("secret://token", "file://" .. folder .. "/%73ecrets/token")
    assert.matches("secrets are for initial states only", err.message)
  end)

  it("production spawns what was locked from the release's store, and fetches nothing", function()
    server:put("locked.wasm", "locked")
    server:put("locked.toml", 'name = "worker"\npackage = "locked.wasm"\n')
    server:put("other.toml", 'name = "other"\npackage = "locked.wasm"\n')
    local manifest = server.https .. "/locked.toml"
    local command = ("%s/lua/bin/theaterref lock %s --ca-file %s --home %s -o %s/theaterref.lock --store release"):format(
      helper.root, manifest, server.ca, folder, folder)
    helper.run_ok(helper.lua .. " " .. command)
    helper.eventually(function() return server:requests "/locked" == 2 end)
    local r = resolver("production", nil, { cache = theaterref.resource_cache() })
    for i = 1, 2 do
      local plan = assert(r:plan(manifest))
      assert.equal("locked", tostring(plan.package))
      assert.equal(i == 2, plan.cache_hit)
    end
    local _, err = r:plan(server.https .. "/other.toml")
    assert.matches("it is not in the lockfile", err.message)
    assert.equal(2, server:requests "/locked")
  end)

  it("tenants keeps each to its own packages and the public ones", function()
    local r = resolver "tenants"
    local function allowed(ref, manifest)
      return r.context:ask("allow", ref, { purpose = "package",
        origin = manifest or "https://packages.example.org/tenants/blue/m.toml" })
    end
    assert.is_true((allowed "https://packages.example.org/tenants/blue/x.wasm"))
    assert.is_true((allowed "https://packages.example.org/public/x.wasm"))
    assert.is_false((allowed("https://packages.example.org/tenants/blue/x.wasm",
      "https://packages.example.org/tenants/blue/..%2fred/m.toml")))
    for _, start in ipairs { "%65vil", "ev_il", "a.b" } do
      assert.is_false((allowed("https://packages.example.org/tenants/blue/x.wasm",
        "https://packages.example.org/tenants/" .. start .. "/tenants/blue/m.toml")))
    end
    for ref, why in pairs { ["https://packages.example.org/public/..%3b/tenants/red/x"] = "belongs to another tenant",
      ["https://packages.example.org/tenants/red/x.wasm"] = "belongs to another tenant",
      ["https://packages.example.org/tenants/blue/../red/x.wasm"] = "belongs to another tenant",
      ["https://packages.example.org/public/..%2ftenants/red/x"] = "belongs to another tenant",
      ["https://packages.example.org/public/..%5ctenants/red/x"] = "belongs to another tenant",
      ["https://packages.example.org/public/%2E%2e%2Ftenants/red/x"] = "belongs to another tenant",
      ["https://packages.example.org/public/%25252e%252e/tenants/red/x"] = "belongs to another tenant",
      ["https://packages.example.org/tenants/blue/..;/red/x"] = "belongs to another tenant",
      ["https://packages.example.org/tenants/blue/..%5cred/x"] = "belongs to another tenant",
      ["http://packages.example.org/public/x.wasm"] = "the scheme http", ["https://evil.org/x"] = "the host evil.org",
      ["/etc/passwd"] = "the scheme file", ["store://x/y"] = "the scheme store" } do
      local answer, reason = allowed(ref)
      assert.is_false(answer, ref)
      assert.matches(why, reason, 1, true)
    end
    assert.is_true(r.context:ask("request", "https://x/", {}).refuse_private)
    assert.is_false((r.context:ask("allow_spawn", { permission_policy = { network = true } }, {})))
    assert.is_true((r.context:ask("allow_spawn", { permission_policy = { network = true, network_hosts = { "a" } } }, {})))
  end)

  it("canary moves five in a hundred actors, always the same", function()
    local r = resolver "canary"
    local function version(name)
      return (r.context:ask("rewrite", "https://packages.example.org/worker/1.2.3/w.wasm", { purpose = "package", name = name,
        manifest_reference = "/m.toml" })):match "worker/([%d.]+)"
    end
    local moved = 0
    for i = 1, 2000 do
      local first = version("actor-" .. i)
      assert.equal(first, version("actor-" .. i))
      if first == "1.3.0" then moved = moved + 1 end
    end
    assert.is_true(moved > 60 and moved < 140, moved .. " of 2000")
  end)
end)

describe("the command", function()
  local function in_folder(test)
    helper.with_folder(function(folder)
      test(folder, function(arguments)
        return helper.run(("cd %s && %s %s/lua/bin/theaterref %s"):format(folder, helper.lua, helper.root, arguments))
      end)
    end)
  end

  it("locks files whose names only look like URLs by their whole names", function()
    in_folder(function(folder, theaterref_command)
      local lines = {}
      for i, name in ipairs { "w#v@1.wasm", "w#v@2.wasm", "w?v@1.wasm", "w?v@2.wasm" } do
        helper.write(folder .. "/" .. name, "bytes " .. i)
        helper.write(folder .. "/m" .. i .. ".toml", ('name = "w"\npackage = "%s"\n'):format(name))
        lines[i] = ("sha256=%s size=7  %s\n"):format(core.blob("bytes " .. i):digest "sha256", name)
      end
      local out, err, status = theaterref_command "lock m1.toml m2.toml m3.toml m4.toml --json"
      assert.same({ "", 0 }, { err, status })
      for i, line in ipairs(lines) do
        assert.is_truthy(helper.read(folder .. "/theaterref.lock"):find(line, 1, true), line)
        assert.is_truthy(out:find(('"%s/%s":"%s"'):format(folder, line:match "(%S+)\n", line:match "=(%x+)"), 1, true), out)
        assert.equal(0, select(3, theaterref_command(("plan m%d.toml --lockfile theaterref.lock"):format(i))))
      end
      helper.write(folder .. "/w#v@2.wasm", "bytes 1")
      assert.equal(1, select(3, theaterref_command "plan m2.toml --lockfile theaterref.lock"))
    end)
  end)

  it("takes a lockfile behind a link for the same before it is there and afterwards", function()
    in_folder(function(folder, theaterref_command)
      helper.run_ok(("cd %s && mkdir locks && ln -s locks/project.lock theaterref.lock && ln -s theaterref.lock second.lock"):format(folder))
      for i = 1, 4 do
        helper.write(folder .. "/m" .. i .. ".toml", ('name = "w"\npackage = "%s.wasm"\n'):format(i))
        helper.write(folder .. "/" .. i .. ".wasm", tostring(i))
      end
      local texts = {}
      for i, path in ipairs { "theaterref.lock", "theaterref.lock", "locks/project.lock", "second.lock" } do
        if i == 4 then os.remove(folder .. "/locks/project.lock") end
        assert.same({ "", "", 0 }, { theaterref_command("lock m1.toml --quiet -o " .. path) })
        assert.equal(0, select(3, theaterref_command("plan m1.toml --lockfile " .. path)))
        texts[i] = helper.read(folder .. "/locks/project.lock")
        assert.equal(texts[1], texts[i])
      end
      -- Those that update it at once wait for each other, whichever way they take.
      local command = ("%s %s/lua/bin/theaterref lock -o"):format(helper.lua, helper.root)
      for _ = 1, 3 do
        os.remove(folder .. "/locks/project.lock")
        helper.run_ok(("cd %s && { %s second.lock m1.toml & %s theaterref.lock m2.toml & %s locks/project.lock m3.toml & "
          .. "%s locks/project.lock m4.toml & wait; }"):format(folder, command, command, command, command))
        assert.equal(8, select(2, helper.read(folder .. "/locks/project.lock"):gsub("sha256=", "")))
      end
    end)
  end)

  it("locks, explains and checks", function()
    helper.with_folder(function(folder)
      local function theaterref_command(arguments)
        return helper.run(("cd %s && HOME=%s %s %s/lua/bin/theaterref %s"):format(folder, folder, helper.lua, helper.root, arguments))
      end
      helper.write(folder .. "/actor.wasm", "\0asm")
      helper.write(folder .. "/m.toml", 'name = "worker"\npackage = "actor.wasm"\n')
      helper.write(folder .. "/policy.lua", [[
        return { allow = function(ref) if ref:find "passwd" then return false, "not that" end return true end }]])
      assert.same({ ("added %s/actor.wasm\nadded %s/m.toml\n"):format(folder, folder), "", 0 }, { theaterref_command "lock m.toml" })
      assert.equal("sha256=" .. core.blob("\0asm"):digest "sha256" .. " size=4  actor.wasm",
        helper.read(folder .. "/theaterref.lock"):match "\n(%S+ %S+  [^\n]*actor.wasm)")
      assert.equal(0, select(3, theaterref_command "plan m.toml --lockfile theaterref.lock"))
      helper.write(folder .. "/actor.wasm", "changed")
      local _, err, status = theaterref_command "plan m.toml --lockfile theaterref.lock"
      assert.equal(1, status)
      assert.matches("actor.wasm has the sha256 %x+, but %x+ was expected", err)
      _, err, status = theaterref_command "plan m.toml --offline x"
      assert.equal(1, status)
      assert.matches("there is no store 'x' in .*; stores: ", err)
      theaterref_command "store put x m.toml"
      assert.equal(0, select(3, theaterref_command "plan m.toml --offline x"))

      -- The lockfile that is configured is updated, and other manifests' lines stay in it.
      helper.write(folder .. "/other.toml", 'name = "other"\npackage = "other.wasm"\n')
      helper.write(folder .. "/other.wasm", "other")
      helper.write(folder .. "/locked.conf.lua", 'return { lockfile = "theaterref.lock" }')
      _, err = theaterref_command "plan other.toml --config locked.conf.lua"
      assert.matches("it is not in the lockfile /.*; to allow it, lock its manifest again: theaterref lock %-o /.*theaterref.lock other.toml\n$",
        err)
      assert.same({ ("added %s/other.toml\nadded %s/other.wasm\n"):format(folder, folder), "", 0 },
        { theaterref_command "lock other.toml --config locked.conf.lua --store release" })
      for _, name in ipairs { "m.toml", "actor.wasm", "other.toml", "other.wasm" } do
        assert.matches("  " .. name .. "\n", helper.read(folder .. "/theaterref.lock"), 1, true)
      end
      assert.equal(0, select(3, theaterref_command "plan other.toml --config locked.conf.lua --offline release"))
      local other = core.blob("other"):digest "sha256"
      assert.matches(other .. "  lock/theaterref.lock/" .. other .. "\n", (theaterref_command "store labels release"), 1, true)
      assert.matches("kept: 2 labelled", (theaterref_command "store gc release --grace 0"))
      assert.same({ ("removed %s/actor.wasm\nremoved %s/m.toml\n"):format(folder, folder), "", 0 },
        { theaterref_command "lock other.toml --prune" })
      assert.is_nil(helper.read(folder .. "/theaterref.lock"):find("m.toml", 1, true))
      -- Two that update one lockfile wait for each other.
      os.remove(folder .. "/theaterref.lock")
      local command = ("%s %s/lua/bin/theaterref lock"):format(helper.lua, helper.root)
      helper.run_ok(("cd %s && for i in 1 2 3 4; do %s m.toml & %s other.toml & done; wait"):format(folder, command, command))
      for _, name in ipairs { "m.toml", "actor.wasm", "other.toml", "other.wasm" } do
        assert.matches("  " .. name .. "\n", helper.read(folder .. "/theaterref.lock"), 1, true)
      end
      -- Lines are relative to the lockfile itself, whatever leads to it.
      helper.run_ok(("cd %s && mkdir links && ln -s ../theaterref.lock links/by.lock"):format(folder))
      for _, path in ipairs { "theaterref.lock", "links/by.lock" } do
        assert.equal(0, select(3, theaterref_command("plan other.toml --lockfile " .. path)), path)
        assert.same({ "", "", 0 }, { theaterref_command("lock other.toml -o " .. path) })
      end
      assert.equal(4, select(2, helper.read(folder .. "/theaterref.lock"):gsub("sha256=", "")))
      -- No other file is taken for one.
      for _, options in ipairs { "", " --prune" } do
        _, err = theaterref_command("lock m.toml -o other.toml" .. options)
        assert.matches("other.toml:1: the first line of a lockfile is 'theaterref lockfile 1'; this is another file\n$", err)
      end
      assert.matches('^name = "other"', helper.read(folder .. "/other.toml"))
      _, err = theaterref_command "plan other.toml --lockfile none.lock"
      assert.matches("no such file %(write one with 'theaterref lock %-o /.*none.lock MANIFEST'%)", err)

      local out = theaterref_command "explain m.toml --policy policy.lua"
      assert.matches("rewrite +m.toml %-> m.toml +%[default rule%]", out)
      assert.matches("allow +/.*actor.wasm %-> true +%[policy.lua%]", out)
      assert.matches("=> worker: package /.*/actor.wasm, 7 bytes\n$", out)
      out, err, status = theaterref_command "explain /etc/passwd --policy policy.lua"
      assert.equal(1, status)
      assert.matches("allow +/etc/passwd: refused %(not that%) +%[policy.lua%]", out)
      assert.matches("Not allowed: /etc/passwd: not that", err)
      assert.matches('"steps":%[{', (theaterref_command "explain m.toml --json"))

      assert.equal("policy.lua: allow\n", (theaterref_command "policy check policy.lua"))
      helper.write(folder .. "/policy.lua", "return { alow = function() end }")
      _, err, status = theaterref_command "policy check policy.lua"
      assert.equal(1, status)
      assert.matches("there is no rule 'alow' %(did you mean 'allow'%?%)", err)
    end)
  end)
end)
