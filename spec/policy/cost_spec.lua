local helper = require "helper"
local manifests = require "theaterref.manifest.manifest"
local secrets = require "theaterref.manifest.secrets"
local template = require "theaterref.manifest.template"
local texts = require "hostile_texts"

describe("the time to read a text grows with its size:", function()
  -- The processor's seconds to read a text of a size.
  local function seconds(make, read, bytes)
    local text = make(bytes)
    collectgarbage()
    local started = os.clock()
    read(text)
    return os.clock() - started
  end

  -- Four times the text may take eight times as long, but not sixteen times. Less
  -- than a quarter of a second is no attack: there the allocator counts for more.
  local function grows_with_size(make, read)
    return seconds(make, read, 200000) <= 8 * math.max(seconds(make, read, 50000), 0.03)
  end

  for _, item in ipairs(texts.list) do
    local what, make, read = table.unpack(item)
    it(what, function()
      assert.is_true(grows_with_size(make, read) or grows_with_size(make, read) or grows_with_size(make, read))
    end)
  end
end)

it("secrets are counted while they are filled in", function()
  local asked = 0
  local state, err = secrets.fill_in("[" .. ('{"$ref":"x"},'):rep(50) .. "1]", function()
    asked = asked + 1
    return ("x"):rep(1000)
  end, function(bytes) return bytes > 5000 and "too many" or nil end)
  assert.same({ nil, "too many", 5 }, { state, err, asked })
end)

it("secrets are shown as JSON, whatever their references are", function()
  for _, ref in ipairs { "data:" .. ("a"):rep(79) .. "\u{e9},s3cret", "data:" .. ("\u{20AC}"):rep(50) .. ",s3cret", "a\u{20AC}?s3cret" } do
    local shown = secrets.shown('{"password":{"$ref":"' .. ref .. '"}}')
    assert.matches('^{"password":{"$ref":"[^"]*"}}$', shown)
    assert.is_truthy(utf8.len(shown))
    assert.is_nil(shown:find "s3cret")
  end
end)

describe("a template's cost is bounded, whatever it loops over:", function()
  local list = {}
  for i = 1, 20000 do list[i] = i end
  local state = { list = list, long = { [("k"):rep(100000)] = "v" } }

  local function too_large(text, options)
    local started = os.clock()
    local rendered, err = template.substitute_variables(text, state, options)
    assert.is_nil(rendered)
    assert.equal("too_large", err.kind)
    assert.is_true(os.clock() - started < (helper.sanitizers == "" and 5 or 50))
    return err.message
  end

  it("rounds with nothing in them", function()
    assert.equal("the template takes more than a million steps to render",
      too_large "{{#each list}}{{#each ../list}}{{/each}}{{/each}}")
  end)

  it("long paths", function() too_large("{{#each list}}{{" .. ("a."):rep(100) .. "a}}{{/each}}") end)

  it("long keys", function()
    too_large("{{#each list}}{{../long.[" .. ("k"):rep(100000) .. "]}}{{/each}}")
    too_large "{{#each list}}{{#each ../long}}{{/each}}{{/each}}"
  end)

  it("sorting keys full of zero bytes", function()
    local keys = {}
    for i = 1, 4096 do keys[("\0"):rep(128) .. ("%04d"):format(i)] = 0 end
    local rendered, err = template.substitute_variables("{{#each list}}{{#each ../keys}}{{/each}}{{/each}}",
      { list = table.move(list, 1, 20, 1, {}), keys = keys })
    assert.is_nil(rendered)
    assert.equal("the template takes more than a million steps to render", err.message)
  end)

  it("arguments", function() too_large("{{#each list}}{{default x " .. ("../list.length "):rep(40) .. "}}{{/each}}") end)

  it("long numbers", function()
    local rendered, err = template.substitute_variables("{{#each list}}{{#if ../n}}{{/if}}{{/each}}",
      ('{"n":0.%s1,"list":[%s1]}'):format(("0"):rep(100000), ("1,"):rep(20000)))
    assert.is_nil(rendered)
    assert.equal("too_large", err.kind)
  end)

  it("its result", function()
    assert.equal("the template renders to more than 100 bytes", too_large("{{#each list}}x{{/each}}", { max_bytes = 100 }))
    assert.equal(("x"):rep(100), template.substitute_variables(("x"):rep(100), nil, { max_bytes = 100 }))
  end)

  it("{{else if}}, again and again", function()
    local rendered, err = template.substitute_variables("{{#if a}}" .. ("{{else if a}}"):rep(1000) .. "{{/if}}", {})
    assert.is_nil(rendered)
    assert.matches("line 1, column %d+: more than 64 blocks in one another", err.message)
  end)
end)

describe("the secrets of a state", function()
  local function fill_in(state)
    return secrets.fill_in(state, function(ref) return ref ~= "none" and "<" .. ref .. ">" or nil end)
  end

  it("take memory for its size, not for its depth", function()
    local state = ("["):rep(120) .. '{"$ref":"x"},"' .. ("x"):rep(1 << 20) .. '"' .. ("]"):rep(120)
    collectgarbage()
    collectgarbage "stop"
    local before = collectgarbage "count"
    local filled = fill_in(state)
    local taken = (collectgarbage "count" - before) * 1024
    collectgarbage "restart"
    assert.equal(#state - #'{"$ref":"x"}' + #'"<x>"', #filled)
    assert.is_true(taken < 5 * #state, taken)
  end)

  it("replace objects that are nothing but a reference, and no other byte", function()
    for state, expected in pairs {
      [' { "\\u0061" : [ { "$ref" : "a\\"b" } , 1e400 ] } '] = ' { "\\u0061" : [ "<a\\"b>" , 1e400 ] } ',
      ['{"\\u0024ref":"\\u0061"}'] = '"<a>"',
      ['{"$ref":{"$ref":"a"}}'] = '{"$ref":"<a>"}',
      ['[{"$ref":"none"},{"$ref":"a"}]'] = '[{"$ref":"none"},"<a>"]',
    } do
      assert.equal(expected, fill_in(state))
    end
    for _, state in ipairs { '{"$ref":"a","b":1}', '{"a":1,"$ref":"a"}', '{"$ref":["a"]}', '{"$ref\\u0000":"a"}', '["$ref","a"]', '"$ref"',
      '[{"$ref":"a"}', '[{"$ref":"a"}] x', ("["):rep(127) .. '{"$ref":"a"}' .. ("]"):rep(127), "" } do
      assert.equal(state, fill_in(state))
    end
  end)
end)

describe("a JSON manifest with variables", function()
  it("brings its initial state, wherever the variables stand", function()
    for text, expected in pairs {
      ['{"name":"x","initial_state":"{}","port":{{port}}}'] = "{}",
      ['{"a":{"port":{{{port}}}},"initial_state":"{{x}}"}'] = "{{x}}",
      ['{ {{#if a}}"k":{{ b }},{{else}}{{/if}}{{! c }}"initial_state":"\\"{{x"}'] = '"{{x',
    } do
      assert.equal(expected, (manifests.initial_state(text, "json")))
    end
    assert.is_nil((manifests.initial_state('{"initial_state":"{}","port":{{port', "json")))
  end)
end)
