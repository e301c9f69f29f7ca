local helper = require "helper"
local core = require "theaterref.core"
local manifest = require "theaterref.manifest.manifest"
local theaterref = require "theaterref"

describe("a manifest", function()
  local function fields(text, format)
    local parsed, err = manifest.parse(text, format or "toml")
    if not parsed then return nil, err end
    return manifest.fields(parsed)
  end

  it("is TOML, JSON or Lua, by its ending or its look", function()
    assert.equal("toml", manifest.format_of("name = 'x'", "a/manifest.toml"))
    assert.equal("json", manifest.format_of("", "https://h/m.json?x=1"))
    assert.equal("lua", manifest.format_of("", "store://s/m.LUA"))
    assert.equal("json", manifest.format_of(' {"name": "x"}', "store://s/hash/" .. ("0"):rep(40)))
    assert.equal("lua", manifest.format_of("return { name = 'x' }", nil))
    assert.equal("toml", manifest.format_of("{{! a comment }}name = 'x'", nil))
    assert.equal("toml", manifest.format_of("returns = 1", nil))
    for format, text in pairs { toml = 'name = "x"\npackage = "p"', json = '{"name":"x","package":"p"}',
      lua = 'return { name = "x", package = "p" }' } do
      assert.same({ name = "x", package = "p" }, (fields(text, format)))
    end
  end)

  it("may spell its package in three ways, at the top or in [actor]", function()
    for _, field in ipairs { "package", "component", "component_path" } do
      assert.equal("p", fields(("name = 'x'\n%s = 'p'"):format(field)).package)
      assert.equal("p", fields(("[actor]\nname = 'x'\n%s = 'p'"):format(field)).package)
    end
    assert.equal("p", fields("name = 'x'\npackage = 'p'\ncomponent = 'p'").package)
    local _, err = fields("name = 'x'\npackage = 'p'\ncomponent = 'q'")
    assert.equal("syntax", err.kind)
    assert.matches("two packages: 'p' and 'q'", err.message)
  end)

  it("says which field is wrong, and what it should be", function()
    for text, expected in pairs {
      ["a = 1"] = "'name' must be a string",
      ["name = 1"] = "'name' must be a string",
      ["name = ''"] = "'name' must be a string, and not empty",
      ["name = 'x'\npackage = 1"] = "'package' must be a reference",
      ["name = 'x'\ninitial_state = {}"] = "'initial_state' must be JSON text",
      ["name = 'x'\ninit_state = 1"] = "'init_state' must be a reference",
      ["name = 'x'\ninit_state = 'a'\ninitial_state = '1'"] = "both 'initial_state'",
      ["name = 'x'\nstatic_package = 'yes'"] = "'static_package' must be true or false",
    } do
      local found, err = fields(text)
      assert.is_nil(found)
      assert.equal("syntax", err.kind)
      assert.is_truthy(err.message:find(expected, 1, true), err.message)
    end
    for format, text in pairs { json = "[", lua = "return {", toml = "x" } do
      local _, err = manifest.parse(text, format)
      assert.equal("syntax", err.kind)
    end
    for format, text in pairs { json = "42", lua = "return 42" } do
      local _, err = manifest.parse(text, format)
      assert.matches("must be a table", err.message)
    end
  end)

  it("in Lua sees the state, and nothing else", function()
    local parsed = manifest.parse("return { name = state.name, port = (state.port or 80) + 1 }", "lua", '{"name":"x"}')
    assert.same({ name = "x", port = 81 }, parsed)
    local _, err = manifest.parse("return os.exit()", "lua")
    assert.equal("syntax", err.kind)
    _, err = manifest.parse("return { name = 'x', f = function() end }", "lua")
    assert.equal("syntax", err.kind)
    assert.matches("a function", err.message)
  end)

  it("in Lua is the script's first result, whatever the others are", function()
    for _, second in ipairs { "5", "true", "'x'", "{}", "{ kind = 5, message = {} }", "nil, 5" } do
      assert.same({ name = "a" }, manifest.parse("return { name = 'a' }, " .. second, "lua"))
      local none, err = manifest.parse("return nil, " .. second, "lua")
      assert.is_nil(none)
      assert.equal("a manifest must be a table of fields", err.message)
      helper.with_folder(function(folder)
        local script = helper.write(folder .. "/p.lua", "return {}, " .. second)
        assert(theaterref.resolver { policy = script, log = false })
        assert.same({}, theaterref.config(script))
        helper.write(script, "return nil, " .. second)
        _, err = theaterref.resolver { policy = script, log = false }
        assert.matches("a policy script must return a table of rules, not a nil", err.message)
      end)
    end
  end)

  it("in Lua that fails is an error wherever it is asked, of kind 'policy' over a limit", function()
    for text, kind in pairs { ["return { initial_state = '{}' } .. x"] = "syntax", ["while true do end"] = "policy",
      ["return { ('x'):rep(1 << 30) }"] = "policy" } do
      local state, ref, err = manifest.initial_state(text, "lua")
      assert.same({ kind }, { state or ref or err.kind })
      assert.equal(kind, select(2, manifest.parse(text, "lua")).kind)
    end
  end)

  it("gives its initial state before it is a document", function()
    assert.equal('{"p":1}', (manifest.initial_state("port = {{p}}\ninitial_state = '{\"p\":1}'", "toml")))
    assert.equal('{"p":1}', (manifest.initial_state(
      '{"port": {{p}}, {{#if x}}"y": "{{z}}",{{/if}} "initial_state": "{\\"p\\":1}"}', "json")))
    assert.equal("{}", (manifest.initial_state("return { initial_state = '{}' }", "lua")))
    local text, ref = manifest.initial_state("init_state = 's.json'", "toml")
    assert.is_nil(text)
    assert.equal("s.json", ref)
    for _, format in ipairs { "toml", "json", "lua" } do
      assert.is_nil((manifest.initial_state("{{{{", format)))
    end
  end)

  it("loads, all 33 that Theater has published", function()
    local folder = helper.data "manifests"
    if not folder then return pending "no test data in this checkout" end
    local count = 0
    for name in helper.run_ok("ls " .. folder .. "/*.toml"):gmatch("[^\n]+") do
      local text = assert(manifest.render(helper.read(name), "toml", '{"project_name":"my-actor","project_name_snake":"my_actor"}'))
      local found, err = fields(text)
      assert(found, name .. ": " .. tostring(err))
      count = count + 1
      if name:find("random%-test%.toml") then
        assert.equal(math.maxinteger, manifest.parse(text, "toml").handler[2].max_int)
      end
    end
    assert.equal(33, count)
  end)

  it("keeps JSON's integers exact", function()
    assert.equal(9007199254740993, manifest.parse('{"n":9007199254740993}', "json").n)
    assert.equal(core.json_null, manifest.parse('{"n":null}', "json").n)
  end)
end)
