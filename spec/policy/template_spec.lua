local theaterref = require "theaterref"
local toml = require "theaterref.manifest.toml"

local render = theaterref.template.substitute_variables

describe("a template", function()
  local function gives(expected, text, state, options)
    local rendered, err = render(text, state, options)
    assert.equal(expected, rendered, tostring(err))
  end

  it("fills in variables by path", function()
    local state = '{"a":{"b":"x","c d":1},"l":[{"b":"y"},"z"],"n":null,"t":true,"f":false,"":2}'
    gives("x", "{{a.b}}", state)
    gives("x", "{{ a.b }}", state)
    gives("x", "{{a/b}}", state)
    gives("y z", "{{l.[0].b}} {{l.[1]}}", state)
    gives("y", "{{l.0.b}}", state)
    gives("1", "{{a.[c d]}}", state)
    gives("true false", "{{t}} {{f}}", state)
    gives("x", "{{this.a.b}}", state)
    gives("x", "{{@root.a.b}}", state)
    gives("no tags at all } {", "no tags at all } {", state)
  end)

  it("renders what is missing as nothing", function()
    gives("<>", "<{{a}}>", "{}")
    gives("<>", "<{{a.b.[7].c}}>", '{"a":[]}')
    gives("<>", "<{{n}}>", '{"n":null}')
    gives("<>", "<{{a}}>", nil)
    gives("<>", "<{{a}}>", "not json")
    gives("<>", "<{{a}}>", "[1]")
  end)

  it("renders numbers exactly as they are written", function()
    for _, number in ipairs { "9007199254740993", "1.0", "1e400", "-0", "3.141592653589793", "123456789012345678901234567890",
      "1E+2" } do
      gives(number, "{{n}}", '{"n":' .. number .. "}")
    end
    gives("0.1 3 1.5 9007199254740993", "{{a}} {{b}} {{c}} {{d}}", { a = 0.1, b = 3, c = 1.5, d = 9007199254740993 })
  end)

  it("takes a default where a path leads nowhere", function()
    gives("8080 81", '{{default port "8080"}} {{default p "8080"}}', '{"p":81}')
    gives("x", "{{default n 'x'}}", '{"n":null}')
    gives("y", "{{default n m}}", '{"m":"y"}')
  end)

  it("has if, unless, each, with, else and comments", function()
    gives("yes", "{{#if a}}yes{{else}}no{{/if}}", '{"a":1}')
    for _, falsy in ipairs { "0", "false", "null", '""', "[]", "0.0" } do
      gives("no", "{{#if a}}yes{{else}}no{{/if}}", '{"a":' .. falsy .. "}")
      gives("un", "{{#unless a}}un{{/unless}}", '{"a":' .. falsy .. "}")
    end
    gives("yes", "{{#if a}}yes{{/if}}", '{"a":{}}')
    gives("2", "{{#if a}}1{{else if b}}2{{else}}3{{/if}}", '{"b":1}')
    gives("0a,1b,", "{{#each l}}{{@index}}{{this}},{{/each}}", '{"l":["a","b"]}')
    gives("a=1!b=2", "{{#each o}}{{@key}}={{this}}{{#if @first}}!{{/if}}{{/each}}", '{"o":{"b":2,"a":1}}')
    gives("none", "{{#each l}}x{{else}}none{{/each}}", '{"l":[]}')
    gives("x:r", "{{#with o}}{{p}}:{{../q}}{{/with}}", '{"o":{"p":"x"},"q":"r"}')
    gives("no", "{{#with o}}yes{{else}}no{{/with}}", "{}")
    gives("ab", "a{{! a comment }}b{{!-- with }} in it --}}", "{}")
  end)

  it("leaves no empty line where a block tag stood alone", function()
    gives("a\n  yes\nb\n", "a\n{{#if x}}\n  yes\n{{else}}\n  no\n{{/if}}\nb\n", '{"x":1}')
    gives("a\nb", "a\n{{! note }}\nb", "{}")
    gives("a  b", "a {{#if x}}{{/if}} b", "{}")
  end)

  it("calls the host's helpers, and names one that fails", function()
    local helpers = { up = string.upper, bad = function() error("no") end }
    gives("ABC", "{{up name}}", '{"name":"abc"}', { helpers = helpers })
    local rendered, err = render("\n{{bad name}}", "{}", { helpers = helpers })
    assert.is_nil(rendered)
    assert.matches("line 2, column 1: the helper 'bad' failed", err.message)
  end)

  it("cannot be broken out of: any value stays in its quotes", function()
    local seed = os.time()
    math.randomseed(seed)
    local pieces = { '"', "'", "\\", "\n", "\r", "\t", "\0", "\127", '"""', "'''", "#", "=", "[", "]", "x", "é", " ", "\27" }
    for _ = 1, 500 do
      local parts = {}
      for i = 1, math.random(8) do parts[i] = pieces[math.random(#pieces)] end
      local value = table.concat(parts)
      local text = render('a = "{{v}}"\nb = \'{{v}}\'\nc = """{{v}}"""\nd = \'\'\'{{v}}\'\'\'\n', { v = value })
      local parsed, err = toml.parse(text)
      assert(parsed, "seed " .. seed .. ": " .. tostring(err))
      assert.equal(value, parsed.a)
      assert.equal(value, parsed.c)
      local names = 0
      for _ in pairs(parsed) do names = names + 1 end
      assert.equal(4, names)
    end
  end)

  it("is raw in three braces", function()
    gives('a"b\'\\&<', "{{{v}}}{{&w}}", { v = 'a"b\'\\', w = "&<" })
    gives("http://h/?a=1&b=2", "{{v}}", { v = "http://h/?a=1&b=2" })
  end)

  it("says where it is wrong", function()
    for text, expected in pairs {
      ["x\n{{#if a}}"] = "line 2, column 1: {{#if}} is never closed",
      ["{{/if}}"] = "{{/if}} closes what is not open",
      ["{{#if a}}{{/each}}"] = "{{/each}} closes what is not open",
      ["{{else}}"] = "{{else}} without its block",
      ["{{#if a}}{{else}}{{else}}{{/if}}"] = "{{else}} without its block",
      ["{{#loop a}}{{/loop}}"] = "there is no block helper 'loop'",
      ["{{#if}}{{/if}}"] = "takes one argument",
      ["{{nope a}}"] = "there is no helper 'nope'",
      ["{{"] = "cannot be read",
      ["{{a"] = "cannot be read",
      ["{{a}"] = "cannot be read",
      ["{{o}}"] = "'o' is an object",
      ["{{l}}"] = "'l' is an array",
    } do
      local rendered, err = render(text, '{"o":{},"l":[]}')
      assert.is_nil(rendered, text)
      assert.equal("syntax", err.kind)
      assert.is_truthy(err.message:find(expected, 1, true), err.message)
    end
  end)

  it("has bounds: no template keeps a host busy, or fills its memory", function()
    local many = {}
    for i = 1, 1000 do many[i] = i end
    local nested = ("{{#each @root.l}}"):rep(5) .. "x" .. ("{{/each}}"):rep(5)
    local rendered, err = render(nested, { l = many })
    assert.is_nil(rendered)
    assert.equal("too_large", err.kind)
    rendered, err = render(("{{#if a}}"):rep(60000), "{}")
    assert.is_nil(rendered)
    assert.equal("syntax", err.kind)
  end)

  it("has no more tags, and no larger ones, than fit into memory", function()
    local function too_large(why, text)
      local rendered, err = render(text, { a = "b" })
      assert.is_nil(rendered)
      assert.same({ "too_large", why }, { err.kind, err.message })
    end
    local tag = "a tag of the template has more than 128 arguments and parts of paths"
    too_large(tag, "{{a" .. (" a"):rep(2000000) .. "}}")
    too_large(tag, "{{" .. ("a."):rep(2000000) .. "a}}")
    too_large(tag, "{{" .. ("../"):rep(1000000) .. "a}}")
    too_large(tag, "{{#if a" .. (" 'a'"):rep(1000000) .. "}}{{/if}}")
    too_large("the template has more than 65536 tags", ("{{a}}"):rep(800000))
    too_large("the template has more than 65536 tags", ("{{!}}"):rep(800000))
    too_large("the tags of the template have more than 262144 arguments and parts of paths",
      ("{{a" .. (" a"):rep(60) .. "}}"):rep(30000))
    gives(("b"):rep(65536), ("{{default a 1 }}"):rep(65536), { a = "b" })
    gives("b", "{{" .. ("a."):rep(126) .. "a}}", ('{"a":'):rep(127) .. '"b"' .. ("}"):rep(127)) -- as deep as JSON may be
  end)
end)
