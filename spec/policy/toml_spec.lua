local helper = require "helper"
local core = require "theaterref.core"
local toml = require "theaterref.manifest.toml"

describe("the TOML reader", function()
  it("reads what manifests use", function()
    local manifest = assert(toml.parse [==[
name = "random" # a comment
save_chain = true
[[handler]]
type = "random"
max_int = 9223372036854775807
ratio = 0.5
allowed = []
[[handler]]
type = 'C:\raw'
]==])
    assert.equal("random", manifest.name)
    assert.equal(2, #manifest.handler)
    assert.equal(math.maxinteger, manifest.handler[1].max_int)
    assert.equal("float", math.type(manifest.handler[1].ratio))
    assert.equal(core.json_array, getmetatable(manifest.handler[1].allowed))
    assert.equal("C:\\raw", manifest.handler[2].type)
  end)

  it("says where it stopped, and why", function()
    for text, expected in pairs {
      ['a = 1\nb = '] = "line 2, column 5: not a value",
      ['a = 1\na = 2'] = "line 2, column 1: 'a' is defined twice",
      ['a = 9223372036854775808'] = "line 1, column 5: an integer that does not fit in 64 bits",
      ['a = -9223372036854775809'] = "line 1, column 5: an integer that does not fit in 64 bits",
      ['a = hello'] = "a string needs quotes",
      ['a = "x\nb = "y"'] = "line 1, column 5: this string is not closed",
      ['a = "x\\"'] = "line 1, column 5: this string is not closed",
      ["a = 'x"] = "line 1, column 5: this string is not closed",
      ['a = """x\nb = "y"'] = "line 1, column 5: this string is not closed",
      ['a = "\\q"'] = "line 1, column 5: not a string (an escape",
      ['[a]\n[a]'] = "line 2, column 1: 'a' is defined twice",
      ['a = "\xff"'] = "line 1, column 6: invalid UTF-8",
      ['a = 1 b = 2'] = "line 1, column 7: a new line was expected",
    } do
      local parsed, err = toml.parse(text)
      assert.is_nil(parsed)
      assert.equal("syntax", err.kind)
      assert.is_truthy(err.message:find(expected, 1, true), err.message)
    end
  end)

  it("reads escapes of characters, however many there are", function()
    for escape, code in pairs { ["\\u0000"] = 0, ["\\uD7fF"] = 0xD7FF, ["\\ue000"] = 0xE000, ["\\uFFFF"] = 0xFFFF,
      ["\\U0000D7FF"] = 0xD7FF, ["\\U0000E000"] = 0xE000, ["\\U00010000"] = 0x10000, ["\\U000fFFFF"] = 0xFFFFF,
      ["\\U0010FFFF"] = 0x10FFFF } do
      assert.equal(utf8.char(code) .. "0", assert(toml.parse('a = "' .. escape .. '0"')).a, escape)
      assert.equal(utf8.char(code):rep(300000), assert(toml.parse('a = """' .. escape:rep(300000) .. '"""')).a)
    end
    for _, escape in ipairs { "\\uD800", "\\udfff", "\\u123", "\\u00g0", "\\U0000D800", "\\U0000DFFF", "\\U00110000",
      "\\U01000000", "\\U10000000", "\\U0001000" } do
      local parsed, err = toml.parse('a = "' .. escape .. '"')
      assert.is_nil(parsed, escape)
      assert.matches("line 1, column 5: not a string %(an escape", err.message)
    end
  end)

  it("refuses depth without end, whichever way it is built", function()
    for _, text in ipairs { "a = " .. ("["):rep(100000), "a = " .. ("{a="):rep(100000), ("a."):rep(100000) .. "a = 1",
      "[" .. ("a."):rep(100000) .. "a]" } do
      local parsed, err = toml.parse(text)
      assert.is_nil(parsed)
      assert.equal("syntax", err.kind)
    end
  end)

  it("finds the initial state in what is no TOML yet", function()
    local found = toml.scan([==[
port = {{default port "8080"}}
{{#if x}}
y = [ {{z}},
{{/if}}
initial_state = '''
{"a": "{{b}}"}'''
[actor]
init_state = "file"
]==], { initial_state = true, init_state = true })
    assert.equal('{"a": "{{b}}"}', found.initial_state)
    assert.equal("file", found.init_state)
  end)
end)

-- The value of an item in the test suite's tagged JSON.
local function same(value, expected, where)
  if getmetatable(expected) == core.json_array then
    assert.equal(core.json_array, getmetatable(value), where)
    assert.equal(#expected, #value, where)
    for i in ipairs(expected) do same(value[i], expected[i], where .. "[" .. i .. "]") end
  elseif type(expected.type) == "string" and type(expected.value) == "string" then
    local kind, text = expected.type, expected.value
    if kind == "float" then
      assert.equal("float", math.type(value), where)
      if text == "nan" then return assert.is_true(value ~= value, where) end
      assert.equal(tonumber(text) or text:sub(1, 1) == "-" and -math.huge or math.huge, value, where)
    elseif kind == "integer" or kind == "bool" then
      assert.equal(kind == "integer" and math.tointeger(tonumber(text)) or text == "true", value, where)
    elseif kind == "string" then
      assert.equal(text, value, where)
    else -- moments: the same but for case, the separator and trailing zeros
      local function canonical(moment)
        return (moment:upper():gsub(" ", "T"):gsub("(%.%d-)0+%f[%D]", "%1"):gsub("%.%f[%D]", ""))
      end
      assert.equal(kind, value.type, where)
      assert.equal(canonical(text), canonical(value.text), where)
    end
  else
    for key in pairs(value) do assert.is_not_nil(expected[key], where .. "." .. key) end
    for key, item in pairs(expected) do
      assert.is_not_nil(value[key], where .. "." .. key)
      same(value[key], item, where .. "." .. key)
    end
  end
end

describe("the TOML 1.0.0 test suite", function()
  local folder = helper.data "toml-test/tests"
  local function each(prefix, try)
    local count = 0
    for name in io.lines(folder .. "/files-toml-1.0.0") do
      if name:find("^" .. prefix .. "/.*%.toml$") then
        try(name, helper.read(folder .. "/" .. name))
        count = count + 1
      end
    end
    return count
  end

  it("has its 210 valid documents read, with the meaning their JSON gives", function()
    if not folder then return pending "no test data in this checkout" end
    assert.equal(210, each("valid", function(name, text)
      local parsed, err = toml.parse(text)
      assert(parsed, name .. ": " .. tostring(err))
      same(parsed, core.json_decode(helper.read(folder .. "/" .. name:gsub("toml$", "json"))), name)
    end))
  end)

  it("has its 499 invalid documents refused, with a line", function()
    if not folder then return pending "no test data in this checkout" end
    assert.equal(499, each("invalid", function(name, text)
      local parsed, err = toml.parse(text)
      assert.is_nil(parsed, name)
      assert.matches("line %d+, column %d+", err.message)
    end))
  end)
end)
