local helper = require "helper"
local theaterref = require "theaterref"

describe("a spawn plan", function()
  local folder, resolver, cache

  before_each(function()
    folder = helper.temporary_folder()
    cache = theaterref.resource_cache()
    resolver = theaterref.resolver { cache = cache, home = folder }
    helper.write(folder .. "/actor.wasm", "\0asm")
  end)

  after_each(function() helper.remove(folder) end)

  local function manifest(text, name)
    return helper.write(folder .. "/" .. (name or "manifest.toml"), text)
  end

  it("counts the secrets that were filled in and those that stay references", function()
    manifest [==[
name = "worker"
package = "actor.wasm"
initial_state = '{"a":{"$ref":"data:,x"},"b":[{"$ref":"data:,y"}]}'
]==]
    assert.same({ filled = 0, left = 2 }, assert(resolver:plan(folder .. "/manifest.toml")).secrets)
    local filling = theaterref.resolver { policy = { secrets = function(ref) return ref == "data:,x" end } }
    local plan = assert(filling:plan(folder .. "/manifest.toml"))
    assert.same({ filled = 1, left = 1 }, plan.secrets)
    assert.equal('{"a":"x","b":[{"$ref":"data:,y"}]}', plan.initial_state)
    assert.is_nil(assert(filling:plan(folder .. "/manifest.toml", { initial_state = '{"a":1,"b":2}' })).secrets)
  end)

  it("warns that variables are empty if the state is not JSON", function()
    local lines = {}
    local logging = theaterref.resolver { log = { level = "warn", sink = function(_, line) lines[#lines + 1] = line end } }
    manifest 'name = "a{{x}}"\npackage = "actor.wasm"\n'
    assert.equal("a", assert(logging:plan(folder .. "/manifest.toml", { initial_state = "{bad" })).name)
    assert.same({ folder .. "/manifest.toml: the initial state is not JSON, so variables are empty: invalid JSON at line 1, column 2: "
      .. "a key in double quotes was expected" }, lines)
  end)

  it("says of binary data and HTML that they are no manifest, before the parser's detail", function()
    for _, text in ipairs { "\0asm", "name = '\xFF'", "<!doctype html>\n<html></html>", " <html>init_state" } do
      local _, err = resolver:plan(manifest(text))
      assert.matches("^this is not a manifest %(TOML, JSON or Lua%): invalid TOML at line 1", err.message)
    end
    local _, err = resolver:plan(manifest "name = ")
    assert.matches("^invalid TOML", err.message)
  end)

  it("names an argument of the wrong type, and the function that got it", function()
    local store = theaterref.content_store("x", { home = folder })
    for what, call in pairs {
      ["the options of resolver must be a table, not a string"] = function() theaterref.resolver "x" end,
      ["the options of resource_cache must be a table, not a string"] = function() theaterref.resource_cache "x" end,
      ["the options of plan must be a table, not a string"] = function() resolver:plan("x", "y") end,
      ["the options of start must be a table, not a string"] = function() resolver:start("x", "y") end,
      ["the options of resolve must be a table, not a number"] = function() resolver:resolve("x", 1) end,
      ["the options of resolve_cached must be a table, not a number"] = function() resolver:resolve_cached("x", nil, 1) end,
      ["the options of gc must be a table, not a number"] = function() store:gc(1) end,
      ["the references of resolve_all must be a table, not a nil"] = function() resolver:resolve_all() end,
      ["the hash of a label must be a string, not a nil"] = function() store:label("x", nil) end,
      ["the resolver option 'offline' must be a store's id, not a boolean"] = function() theaterref.resolver { offline = true } end,
    } do assert.has_error(call, what) end
  end)

  it("warns of a key that is one edit away from a known one, once", function()
    local lines = {}
    local logging = theaterref.resolver { log = { level = "warn", sink = function(level, line) lines[#lines + 1] = level .. " " .. line end } }
    manifest 'name = "a"\npackage = "actor.wasm"\ninit_sate = "x.json"\nstatic_pakage = true\nversion = "1"\n'
    assert(logging:plan(folder .. "/manifest.toml"))
    table.sort(lines)
    assert.same({ ("warn %s/manifest.toml: the key 'init_sate' is unknown (did you mean 'init_state'?)"):format(folder),
      ("warn %s/manifest.toml: the key 'static_pakage' is unknown (did you mean 'static_package'?)"):format(folder) }, lines)
    manifest 'name = "a"\npackage = "actor.wasm"\nnames = "b"\npackages = "other"\n' -- the known keys are there
    lines = {}
    assert(logging:plan(folder .. "/manifest.toml"))
    assert.same({}, lines)
  end)

  it("has all that a spawn needs", function()
    local plan = assert(resolver:plan(manifest [==[
name = "worker"
package = "actor.wasm"
initial_state = '{"a":1,"b":2}'
[[handler]]
type = "tcp"
]==], { initial_state = '{"b":3}' }))
    assert.equal("worker", plan.name)
    assert.equal(("plan of worker: package %s/actor.wasm, 4 bytes; initial state of 13 bytes"):format(folder), tostring(plan))
    assert.equal("\0asm", tostring(plan.package))
    assert.equal(folder .. "/actor.wasm", plan.package_reference)
    assert.equal('{"a":1,"b":3}', plan.initial_state)
    assert.equal("tcp", plan.manifest.handler[1].type)
    assert.is_false(plan.used_cache)
    assert.is_false(plan.cache_hit)
    local names = {}
    for i, phase in ipairs(plan.phases) do
      names[i] = phase.name
      assert.is_true(phase.seconds >= 0)
    end
    assert.same({ "manifest", "initial_state", "merge", "render", "parse", "package" }, names)
    assert.equal(4, plan.phases[6].bytes)
  end)

  it("caches the package when its manifest opts in, and only then", function()
    local opted = manifest('name = "a"\npackage = "actor.wasm"\nstatic_package = true')
    local first, second = assert(resolver:plan(opted)), assert(resolver:plan(opted))
    assert.is_true(first.used_cache)
    assert.is_false(first.cache_hit)
    assert.is_true(second.cache_hit)
    assert.is_true(first.package:same(second.package))
    assert.equal(1, #cache)
    cache:clear()
    for _, text in ipairs { "", "static_package = false" } do
      local plan = assert(resolver:plan(manifest('name = "a"\npackage = "actor.wasm"\n' .. text)))
      assert.is_false(plan.used_cache)
    end
    assert.equal(0, #cache)
    local uncached = theaterref.resolver()
    assert.is_false(assert(uncached:plan(opted)).used_cache)
  end)

  it("fills in variables from the merged state, outside strings too", function()
    local plan = assert(resolver:plan(manifest [==[
name = "{{name}}"
package = "{{kind}}.wasm"
port = {{default port "8080"}}
{{#if debug}}
debug = true
{{/if}}
initial_state = '{"name":"x","kind":"actor"}'
]==], { initial_state = '{"port":81,"debug":true}' }))
    assert.equal("x", plan.name)
    assert.equal(81, plan.manifest.port)
    assert.is_true(plan.manifest.debug)
    assert.equal('{"debug":true,"kind":"actor","name":"x","port":81}', plan.initial_state)
    assert.equal(8080, assert(resolver:plan(folder .. "/manifest.toml")).manifest.port)
  end)

  it("takes the initial state from a reference, too", function()
    helper.write(folder .. "/state.json", '{"n":9007199254740993}')
    local plan = assert(resolver:plan(manifest('name = "n{{n}}"\npackage = "actor.wasm"\ninit_state = "./state.json"')))
    assert.equal('{"n":9007199254740993}', plan.initial_state)
    assert.equal("n9007199254740993", plan.name)
    local _, err = resolver:plan(manifest('name = "a"\npackage = "actor.wasm"\ninit_state = "none.json"'))
    assert.equal("not_found", err.kind)
  end)

  it("has no initial state where nobody gives one", function()
    assert.is_nil(assert(resolver:plan(manifest 'name = "a"\npackage = "actor.wasm"')).initial_state)
  end)

  it("works from JSON and Lua manifests", function()
    local json = manifest('{"name":"j","component":"actor.wasm","port":{{default p "1"}}}', "m.json")
    local plan = assert(resolver:plan(json, { initial_state = '{"p":2}' }))
    assert.equal(2, plan.manifest.port)
    local lua = manifest([[return { name = state.name or "l", component_path = "actor.wasm",
      initial_state = '{"name":"from state"}', ports = {{80, 81}} }]], "m.lua")
    plan = assert(resolver:plan(lua))
    assert.equal("from state", plan.name)
    assert.same({ { 80, 81 } }, plan.manifest.ports)
    assert.equal("mine", assert(resolver:plan(lua, { initial_state = '{"name":"mine"}' })).name)
  end)

  it("reads packages relative to a store", function()
    local store = theaterref.content_store("demo", { home = folder, durability = "none" })
    store:store_at_label("actors/m.toml", 'name = "a"\npackage = "./a.wasm"')
    store:store_at_label("actors/a.wasm", "stored")
    local plan = assert(resolver:plan "store://demo/actors/m.toml")
    assert.equal("stored", tostring(plan.package))
    assert.equal("store://demo/actors/a.wasm", plan.package_reference)
  end)

  it("reads packages relative to a URL, and refuses what the network may not name", function()
    local server = helper.nginx()
    finally(function() server:stop() end)
    server:put("m.toml", 'name = "a"\npackage = "hello?v=1"')
    server:put("hello", "over the wire")
    server:put("evil.toml", 'name = "a"\npackage = "store://demo/secret"')
    server:put("state.toml", 'name = "a"\npackage = "hello"\ninit_state = "file"')
    local plan = assert(resolver:plan(server.http .. "/m.toml"))
    assert.equal("over the wire", tostring(plan.package))
    assert.equal(server.http .. "/hello?v=1", plan.package_reference)
    local _, err = resolver:plan(server.http .. "/evil.toml")
    assert.equal("denied", err.kind)
    assert.matches("may not name a local store", err.message)
    assert.matches("store://demo/secret", tostring(err))
    _, err = resolver:plan(server.http .. "/state.toml")
    assert.equal("http_status", err.kind)
  end)

  it("asks the policy at every step, with the reason why", function()
    local asked, events = {}, {}
    local r = theaterref.resolver { cache = cache, policy = {
      rewrite = function(ref, ctx)
        asked[#asked + 1] = ctx.purpose
        return theaterref.policy.default.rewrite(ref, ctx)
      end,
      cacheable = function(m, ctx)
        assert(ctx.manifest == m and (not m or ctx.manifest_reference == folder .. "/manifest.toml"))
        return true
      end,
      merge = function(config, override) return (override or config):upper() end,
      on_event = function(event) events[#events + 1] = event.name end,
    } }
    helper.write(folder .. "/s.json", '{"a":1}')
    local plan = assert(r:plan(manifest 'name = "a"\npackage = "actor.wasm"\ninit_state = "s.json"'))
    assert.same({ "manifest", "initial_state", "package" }, asked)
    assert.equal('{"A":1}', plan.initial_state)
    assert.is_true(plan.used_cache)
    assert.same({ "manifest", "initial_state", "merge", "render", "parse", "package" }, events)
  end)

  it("takes a Lua manifest from the network only when its request may have one", function()
    local server = helper.nginx()
    finally(function() server:stop() end)
    server:put("m.lua", "return { name = 'l', package = 'hello' }")
    server:put("m", "return { name = 'no ending', package = 'hello' }")
    server:put("hello", "over the wire")
    local through_scheme = { schemes = { pkg = function() return { reference = server.http .. "/m" } end },
      allow = function() return true, { redirect_hosts = "any" } end }
    for ref, options in pairs { [server.http .. "/m.lua"] = {}, [server.http .. "/m"] = {}, ["pkg://x"] = { policy = through_scheme } } do
      for _ = 1, 2 do -- from the cache, too
        options.cache = cache
        local plan, err = theaterref.resolver(options):plan(ref)
        assert.is_nil(plan)
        assert.equal("denied", err.kind)
        assert.matches("is a Lua manifest that came over the network; to allow it, set the option 'lua_manifests' to true", err.message)
      end
    end
    local plan = assert(theaterref.resolver({ lua_manifests = true }):plan(server.http .. "/m.lua"))
    assert.equal("l", plan.name)
    local asked
    local by_rule = theaterref.resolver { policy = { request = function(ref, ctx)
      if ctx.purpose == "manifest" then asked = ref end
      return { lua_manifests = ref:find "/m$" ~= nil }
    end } }
    assert.equal("no ending", assert(by_rule:plan(server.http .. "/m")).name)
    assert.equal(server.http .. "/m", asked)
    assert.equal("denied", select(2, by_rule:plan(server.http .. "/m.lua")).kind)
  end)

  it("names the manifest in errors of what it names", function()
    local path = manifest 'name = "a"\npackage = "gone.wasm"\n'
    local plan, err = theaterref.resolver():plan(path)
    assert.is_nil(plan)
    assert.same({ "not_found", "gone.wasm", path }, { err.kind, err.reference, err.manifest_reference })
    assert.matches("gone.wasm: No such file or directory %(named by " .. path .. "%)$", tostring(err))
    err = select(2, theaterref.resolver():plan(folder .. "/none.toml"))
    assert.is_nil(err.manifest_reference)
  end)

  it("refuses an initial state of no bytes, which is no JSON and no default", function()
    local plan, err = theaterref.resolver():plan(manifest 'name = "a"\npackage = "actor.wasm"\n', { initial_state = "" })
    assert.is_nil(plan)
    assert.equal("syntax", err.kind)
    assert.matches("the initial state given is empty; nil gives none", err.message)
  end)

  it("reads no more of manifests and states than the options allow", function()
    local function fault(options, text, state)
      local plan, err = theaterref.resolver(options):plan(manifest(text), { initial_state = state })
      assert.is_nil(plan)
      assert.equal("too_large", err.kind)
      return err.message
    end
    local text = 'name = "{{n}}"\npackage = "actor.wasm"\ninitial_state = \'{"n":"x"}\''
    assert.equal(("the manifest has %d bytes, more than the %d that 'max_manifest_bytes' allows"):format(#text, #text - 1),
      fault({ max_manifest_bytes = #text - 1 }, text))
    assert.matches("the manifest has %d+ bytes, more than the 4194304 that", fault({}, text .. (" "):rep(4 << 20)))
    assert.matches("the template renders to more than 100 bytes", fault({ max_manifest_bytes = 100 }, text,
      ('{"n":"%s"}'):format(("y"):rep(100))))
    assert.matches("the initial state given has 31 bytes, more than the 30 that 'max_state_bytes'", fault({ max_state_bytes = 30 },
      text, ('{"n":"%s"}'):format(("y"):rep(23))))
    assert.matches("the manifest's initial state has 9 bytes, more than the 8", fault({ max_state_bytes = 8 }, text))
    assert.matches("the merged initial state has 17 bytes, more than the 10", fault({ max_state_bytes = 10 }, text, '{"m":"x"}'))
    helper.write(folder .. "/s.json", (" "):rep(11))
    assert.matches("the manifest's initial state has 11 bytes", fault({ max_state_bytes = 10 },
      "name = 'a'\npackage = 'actor.wasm'\ninit_state = 's.json'"))
    local secrets = { secrets = function() return true end }
    helper.write(folder .. "/secret", ("s"):rep(100))
    assert.matches("the initial state with its secrets has 108 bytes, more than the 50", fault({ max_state_bytes = 50,
      policy = secrets }, "name = 'a'\npackage = 'actor.wasm'\ninitial_state = '{\"a\":{\"$ref\":\"secret\"}}'"))
    assert.truthy(theaterref.resolver({ max_manifest_bytes = #text, max_state_bytes = 9 }):plan(manifest(text)))
  end)

  it("refuses a state that is not JSON when 'strict_state' says so", function()
    local strict = theaterref.resolver { strict_state = true }
    local broken = "name = 'a'\npackage = 'actor.wasm'\ninitial_state = '{bad'"
    local sound = "name = 'a'\npackage = 'actor.wasm'"
    assert.equal("{bad", assert(resolver:plan(manifest(broken))).initial_state) -- as in Theater
    local _, err = strict:plan(manifest(broken))
    assert.equal("syntax", err.kind)
    assert.equal("the manifest's initial state: invalid JSON at line 1, column 2: a key in double quotes was expected", err.message)
    _, err = strict:plan(manifest(sound), { initial_state = '{"a":1,\n]' })
    assert.equal("the initial state given: invalid JSON at line 2, column 1: a key in double quotes was expected", err.message)
    assert.equal("[1]", assert(strict:plan(manifest(sound), { initial_state = "[1]" })).initial_state)
  end)

  it("says what is wrong, and in which manifest", function()
    for text, expected in pairs {
      ["name = 'a'"] = "names no package",
      ["x"] = "invalid TOML at line 1",
      ["name = '{{#if}}'"] = "invalid template at line 1",
      ["package = 'x'"] = "'name' must be a string",
      ["name = 'a'\npackage = 'nowhere.wasm'"] = "nowhere.wasm: No such file",
    } do
      local path = manifest(text)
      local plan, err = resolver:plan(path)
      assert.is_nil(plan)
      assert.is_truthy(tostring(err):find(expected, 1, true), tostring(err))
      assert.is_truthy(tostring(err):find(folder, 1, true), tostring(err))
    end
    local _, err = resolver:plan(folder .. "/none.toml")
    assert.equal("not_found", err.kind)
    assert.has_error(function() resolver:plan(folder .. "/none.toml", { initial_state = {} }) end,
      "the plan option 'initial_state' must be a string or a blob, not a table")
  end)
end)
