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

  it("has all that a spawn needs", function()
    local plan = assert(resolver:plan(manifest [==[
name = "worker"
package = "actor.wasm"
initial_state = '{"a":1,"b":2}'
[[handler]]
type = "tcp"
]==], { initial_state = '{"b":3}' }))
    assert.equal("worker", plan.name)
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
    assert.has_error(function() resolver:plan(folder .. "/none.toml", { initial_state = {} }) end)
  end)
end)
