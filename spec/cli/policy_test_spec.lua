local cjson = require "cjson"
local helper = require "helper"

describe("'theaterref policy test'", function()
  local folder

  setup(function()
    folder = helper.temporary_folder()
    helper.write(folder .. "/policy.lua", [[
      local policy = theaterref.policy
      return {
        allow = policy.only { hosts = { "a.example" }, redirect_hosts = { "b.example" } },
        rewrite = policy.mirror { ["https://a.example/"] = { "https://m.example/", "https://a.example/" } },
        request = function(ref) if ref:find "broken" then error "no such key" end return { retries = 1 } end,
      }]])
  end)

  teardown(function() helper.remove(folder) end)

  local function test(cases, options)
    if cases then helper.write(folder .. "/policy.test.lua", "return {" .. cases .. "}") end
    return helper.run(("cd %s && %s %s/lua/bin/theaterref policy test policy.lua %s"):format(folder, helper.lua, helper.root,
      options or ""))
  end

  it("passes what a policy answers as expected", function()
    local out, err, status = test [[
      { rule = "allow", given = { "https://a.example/x", { purpose = "package" } }, answer = true,
        more = { redirect_hosts = { "a.example", "b.example" } } },
      { rule = "allow", given = { "https://c.example/x", { purpose = "package" } }, answer = false },
      { rule = "rewrite", given = { "https://a.example/x", { purpose = "direct" } },
        answer = { "https://m.example/x", "https://a.example/x" } },
      { rule = "request", given = { "https://a.example/broken", { purpose = "direct" } }, fails = "no such key" },
      { rule = "integrity", given = { "https://a.example/x", { purpose = "direct" } } }, -- by default: nil
    ]]
    assert.same({ "policy.test.lua: 5 passed, 0 failed\n", "", 0 }, { out, err, status })
  end)

  it("shows each answer that is another, with status 1", function()
    local cases = [[
      { rule = "allow", given = { "https://u:pw@c.example/x", { purpose = "package" } }, answer = true },
      { rule = "rewrite", given = { "https://a.example/x", { purpose = "direct" } }, answer = "https://m.example/x" },
      { rule = "request", given = { "https://a.example/", { purpose = "direct" } }, answer = { retries = 1, timeout = 2 } },
      { rule = "request", given = { "https://a.example/broken", { purpose = "direct" } }, answer = {} },
      { rule = "request", given = { "https://a.example/", { purpose = "direct" } }, fails = "no such key" },
      { rule = "allow", given = { "https://c.example/x", { purpose = "package" } }, answer = false, more = "because" },
    ]]
    local out, err, status = test(cases)
    assert.equal(1, status)
    assert.equal("theaterref: the policy does not do what its cases expect\n", err)
    local lines = {}
    for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.matches("^case 1: allow https://.*c.example/x: expected true, got false %(the host c.example is not in the policy's list", lines[1])
    assert.is_nil(out:find("pw", 1, true))
    assert.equal('case 2: rewrite https://a.example/x: expected "https://m.example/x", got '
      .. '["https://m.example/x","https://a.example/x"]', lines[2])
    assert.equal('case 3: request https://a.example/: expected {"retries":1,"timeout":2}, got {"retries":1}', lines[3])
    assert.matches("^case 4: request https://a.example/broken: expected {}, got the error '.*policy.lua:5: no such key'$", lines[4])
    assert.equal("case 5: request https://a.example/: expected an error with 'no such key', got {\"retries\":1}", lines[5])
    assert.matches('^case 6: allow https://c.example/x: expected as its second answer "because", got "the host c.example is not', lines[6])
    assert.equal("policy.test.lua: 0 passed, 6 failed", lines[7])
    local data = cjson.decode((test(cases, "--json")))
    assert.same({ 0, 6, "rewrite", 2 }, { data.passed, #data.failed, data.failed[2].rule, data.failed[2].case })
  end)

  it("says which case cannot be one", function()
    for cases, expected in pairs {
      ["{ rule = 'alow', given = {} }"] = "policy.test.lua: case 1: there is no rule 'alow' to ask (did you mean 'allow'?)",
      ["{ rule = 'allow', givn = {} }"] = "policy.test.lua: case 1: there is no field 'givn' (did you mean 'given'?)",
      ["{ rule = 'allow', given = 'x' }"] = "policy.test.lua: case 1: 'given' must be a table, not a string",
      ["{ rule = 'allow', given = { 'x', { purpos = 'direct' } } }"] =
        "policy.test.lua: case 1: there is no ctx.purpos (did you mean 'purpose'?)",
      ["{ rule = 'allow', given = { 'x', { purpose = 'packge' } } }"] =
        "policy.test.lua: case 1: there is no purpose 'packge' (did you mean 'package'?)",
      ["{ rule = 'allow' }"] = "policy.test.lua: case 1: 'given' must list what the rule gets",
      ["{ rule = 'on_event', given = {} }"] = "policy.test.lua: case 1: there is no rule 'on_event' to ask",
      ["{ rule = 'cacheable', given = {}, answer = false }, nope, { rule = 'x' }"]
        = "policy.test.lua: case 2 is missing: is a name in it misspelt?",
      ["{ rule = 'cacheable', given = {}, answer = false }, x = { rule = 'x' }"]
        = "policy.test.lua: case 2 is missing: is a name in it misspelt?",
      ["5"] = "policy.test.lua: case 1: a table was expected, not a number",
      [""] = "policy.test.lua: a list of cases was expected; see 'theaterref policy test --help'",
      ["x"] = "policy.test.lua: a list of cases was expected; see 'theaterref policy test --help'",
      ["}"] = "policy.test.lua:1: <eof> expected near '}'",
    } do
      local out, err, status = test(cases)
      assert.same({ "", "theaterref: " .. expected .. "\n", 1 }, { out, err, status })
    end
    local _, err = test(nil, "--cases none.lua")
    assert.equal("theaterref: Failed to read none.lua: No such file or directory\n", err)
  end)
end)
