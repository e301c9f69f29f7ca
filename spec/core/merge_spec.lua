local helper = require "helper"
local theaterref = require "theaterref"

local merge = theaterref.merge_initial_states

describe("merge_initial_states", function()
  it("gives nothing for nothing and nothing", function()
    assert.is_nil(merge(nil, nil))
    assert.equal(1, select("#", merge(nil, nil)))
  end)

  it("gives one alone back byte for byte, JSON or not", function()
    for _, text in ipairs { ' {"a" : 1} ', "not json", "", "\xff\0" } do
      assert.equal(text, merge(text, nil))
      assert.equal(text, merge(nil, text))
    end
  end)

  it("lets the override win per top-level key, without looking deeper", function()
    assert.equal('{"a":1,"b":{"y":2},"c":3}', merge('{"b":{"x":1},"a":1}', '{"c":3,"b":{"y":2}}'))
  end)

  it("gives the override, byte for byte, unless both are objects", function()
    for _, pair in ipairs { { "[1]", '{ "a": 1 }' }, { '{"a":1}', " [2] " }, { '{"a":1}', "null" }, { "x", '{"a": 1}' },
      { '{"a":1}', "x" }, { '{"a":1}', '{"a":1}x' }, { '{"a":1}x', '{"b": 2}' } } do
      assert.equal(pair[2], merge(pair[1], pair[2]))
    end
  end)

  it("takes blobs as well as strings", function()
    local blob = require("theaterref.core").blob '{"a":1}'
    assert.equal('{"a":1,"b":2}', merge(blob, '{"b":2}'))
    assert.equal('{"a":1}', merge(nil, blob))
    assert.has_error(function() merge({}, "x") end, "bad argument #1 to 'merge' (string or blob expected, got table)")
    assert.has_error(function() merge(1, "x") end, "bad argument #1 to 'merge' (string or blob expected, got number)")
  end)

  it("carries every value over exactly", function()
    local values = { "9007199254740993", "18446744073709551616", "123456789012345678901234567890", "1.0", "1e400",
      "-0", "-0.0", "1E+2", "0.1", "3.141592653589793", "[]", "{}", '[{"a":[]},{}]', '"\\u0041\\/\\ud83d\\ude00"',
      '"\\u0000"', "true", "false", "null", '{"x":1,"x":2}', '"é日本"', '"a b\\t\\"c"' }
    for i, value in ipairs(values) do
      assert.equal(('{"k":%s,"z":1}'):format(value), merge(('{ "k" : %s }'):format(value), '{"z":1}'), i)
      assert.equal(('{"a":1,"k":%s}'):format(value), merge('{"a":1,"k":0}', ('{"k":\n%s\t}'):format(value)), i)
    end
  end)

  it("takes out white space between tokens, and none inside strings", function()
    assert.equal('{"a":[1,2,{"b c":" d "}],"e":"\\" x"}', merge('{ "a" : [ 1 ,\n2, {\t"b c" : " d " } ] }', ' {"e":"\\" x"}\r\n'))
  end)

  it("compares keys decoded and writes them with the fewest escapes", function()
    assert.equal('{"A":2}', merge('{"\\u0041":1}', '{"A":2}'))
    assert.equal('{"\\"\\\\/\\b\\f\\n\\r\\t\\u0001é😀":1,"b":2}',
      merge('{"\\u0022\\u005c\\/\\b\\f\\n\\r\\t\\u0001\\u00e9\\ud83d\\ude00":1}', '{"b":2}'))
  end)

  it("keeps the last of duplicate keys in one object", function()
    assert.equal('{"a":3,"b":5}', merge('{"a":1,"a":2,"b":4,"a":3}', '{"b":9,"b":5}'))
  end)

  it("sorts keys bytewise, shorter before longer", function()
    assert.equal('{"":0,"A":1,"B":2,"a":3,"aa":4,"é":5}', merge('{"é":5,"aa":4,"a":3}', '{"B":2,"A":1,"":0}'))
  end)

  it("takes 127 levels for JSON, and 128 for none", function()
    for levels = 126, 129 do
      local deep = '{"a":' .. ("["):rep(levels - 1) .. ("]"):rep(levels - 1) .. "}"
      local merged = merge(deep, '{"b":1}')
      if levels <= 127 then
        assert.equal(deep:sub(1, -2) .. ',"b":1}', merged)
      else
        assert.equal('{"b":1}', merged)
      end
    end
  end)

  it("takes for no JSON what RFC 8259 does not allow", function()
    for _, text in ipairs { '{"a":NaN}', '{"a":0x10}', '{"a":01}', '{"a":+1}', '{"a":.5}', '{"a":1.}', '{"a":1e}', "{'a':1}",
      '{a:1}', '{"a":1,}', '{"a" 1}', '{,}', '\xEF\xBB\xBF{}', '{"a":"\xff"}', '{"a":"\xC0\x80"}', '{"a":"\xED\xA0\x80"}',
      '{"a":"\\ud800"}', '{"a":"\\udc00"}', '{"a":"\\ud800\\u0041"}', '{"a":"\\x"}', '{"a":"\n"}', "{} {}", "{", '{"a"', "{}\0" } do
      assert.equal(' {"o":1}', merge(text, ' {"o":1}'), text)
    end
  end)

  it("survives 10,000 broken texts (seed printed on failure)", function()
    local seed = os.time()
    math.randomseed(seed)
    local pieces = { "{", "}", "[", "]", '"a"', ":", ",", "1", "-", "e", "\\", '"', "\xff", "true", "nul", " ", "\0", "\\u00" }
    for _ = 1, 10000 do
      local parts = {}
      for i = 1, math.random(12) do parts[i] = pieces[math.random(#pieces)] end
      local text = table.concat(parts)
      local merged = merge(text, '{"o":1}')
      assert(merged == '{"o":1}' or merged:find('"o":1', 1, true), "seed " .. seed .. ": " .. text)
    end
  end)

  it("does what Theater's code did, on hundreds of pairs", function()
    local path = helper.data "merge-vectors.tsv"
    local function unhex(text)
      if text == "-" then return nil end
      return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
    end
    local count = 0
    for line in io.lines(path) do
      local config, override, result = line:match("^(%S*)\t(%S*)\t(%S*)$")
      count = count + 1
      assert.equal(unhex(result), merge(unhex(config), unhex(override)), "line " .. count)
    end
    assert.is_true(count >= 250)
  end)

  it("accepts and rejects what the JSON test suite says", function()
    local folder = helper.data "json-test-suite/test_parsing"
    if not folder then return pending "no test data in this checkout" end
    local count = 0
    for name in helper.run_ok("ls " .. folder):gmatch("[^\n]+") do
      local text = helper.read(folder .. "/" .. name)
      -- As a member's value, so that any accepted value shows in the result.
      local merged = merge('{"k":' .. text .. "}", '{"o":1}')
      local direct = merge(text, '{"o":1}')
      local kind = name:sub(1, 1)
      if kind == "y" then
        assert.is_true(merged:find('^{"k":.*,"o":1}$') ~= nil, name)
      elseif kind == "n" then
        assert.equal('{"o":1}', direct, name)
      end
      count = count + 1
    end
    assert.is_true(count >= 318)
  end)
end)
