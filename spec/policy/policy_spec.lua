local helper = require "helper"
local theaterref = require "theaterref"
local policy = require "theaterref.policy"

describe("a policy", function()
  it("keeps the default for every rule it leaves out", function()
    local made = policy.load { merge = function() return "mine" end }
    for name, rule in pairs(policy.default) do
      if name ~= "merge" then assert.equal(rule, made.rules[name]) end
    end
    assert.equal("mine", (made:ask(nil, "merge", "a", "b", {})))
  end)

  it("with an unknown rule, or one that is no function, is refused", function()
    local made, err = policy.load { rewrit = function() end }
    assert.is_nil(made)
    assert.equal("policy", err.kind)
    assert.matches("no rule 'rewrit' %(did you mean 'rewrite'%?%)", err.message)
    made, err = policy.load { allow = true }
    assert.is_nil(made)
    assert.matches("'allow' is a boolean, not a function", err.message)
    made, err = theaterref.resolver { policy = { x = print } }
    assert.is_nil(made)
    assert.equal("policy", err.kind)
    assert.has_error(function() theaterref.resolver { polcy = {} } end,
      "there is no resolver option 'polcy' (did you mean 'policy'?)")
  end)

  it("in a script can ask whether a reference is remote", function()
    helper.with_folder(function(folder)
      local script = helper.write(folder .. "/policy.lua", [[return { allow = function(ref)
        return theaterref.reference.is_remote(ref), "scheme: " .. tostring(theaterref.reference.scheme(ref)) end }]])
      local resolver = theaterref.resolver { policy = script, retries = 0 }
      assert.matches("scheme: nil$", (select(2, resolver:resolve(folder .. "/x")).message))
      assert.equal("network", select(2, resolver:resolve "http://127.0.0.1:1/").kind)
    end)
  end)

  it("may give a text beside true from 'allow', which is ignored", function()
    helper.with_folder(function(folder)
      local resolver = theaterref.resolver { policy = { allow = function() return true, "fine" end } }
      assert.equal("x", tostring(assert(resolver:resolve(helper.write(folder .. "/x", "x")))))
    end)
  end)

  it("whose rule fails or answers nonsense is an error of kind policy", function()
    for expected, rules in pairs {
      ["the rule 'rewrite' failed: .*boom"] = { rewrite = function() error "boom" end },
      ["the rule 'rewrite' returned an empty list"] = { rewrite = function() return {} end },
      ["the rule 'allow' returned a string"] = { allow = function() return "yes" end },
      ["the rule 'request' returned a number"] = { request = function() return 1 end },
      ["the rule 'request' is wrong: the request option 'timeout' must be a number of seconds, not a string"] = {
        request = function() return { timeout = "x" } end },
    } do
      local _, err = theaterref.resolve_reference("http://127.0.0.1:1/", { policy = rules })
      assert.equal("policy", err.kind)
      assert.matches(expected, err.message)
    end
  end)

  it("can be a script, in a sandbox, that calls on the defaults", function()
    helper.with_folder(function(folder)
      local script = helper.write(folder .. "/policy.lua", [[
        local default = theaterref.policy.default
        return {
          rewrite = function(reference, ctx)
            assert(ctx.purpose == "direct")
            return default.rewrite(reference:gsub("^alias$", "store://demo/real"), ctx)
          end,
          allow = function(reference)
            if theaterref.reference.scheme(reference) == "http" then return false, "no plain http here" end
            return true
          end,
          merge = function(config, override) return theaterref.merge_initial_states(override, config) end,
        }]])
      local resolver = assert(theaterref.resolver { policy = script, home = folder })
      local store = theaterref.content_store("demo", { home = folder, durability = "none" })
      store:store_at_label("real", "bytes")
      assert.equal("bytes", tostring(resolver:resolve "alias"))
      local _, err = resolver:resolve "http://127.0.0.1:1/"
      assert.equal("denied", err.kind)
      assert.matches("no plain http here", err.message)
      assert.equal('{"a":1}', (resolver.context:ask("merge", '{"a":1}', '{"a":2}', {})))
    end)
  end)

  it("script that is broken says where", function()
    helper.with_folder(function(folder)
      for source, expected in pairs {
        ["return {"] = "broken.lua:1:",
        ["\nerror 'boom'"] = "broken.lua:2: boom",
        ["return 42"] = "must return a table of rules, not a number",
        ["return { x = function() end }"] = "no rule 'x'",
        ["while true do end"] = "instructions",
        ["return { rewrite = function() while true do end end }"] = "instructions",
        ["return { rewrite = function(r)\n return r.x.y end }"] = "broken.lua:2:",
      } do
        local script = helper.write(folder .. "/broken.lua", source)
        local resolver, err = theaterref.resolver { policy = script }
        if resolver then
          local blob
          blob, err = resolver:resolve "x"
          assert.is_nil(blob)
        end
        assert.equal("policy", err.kind)
        assert.is_truthy(err.message:find(expected, 1, true), err.message)
      end
      local _, err = theaterref.resolver { policy = folder .. "/none.lua" }
      assert.equal("not_found", err.kind)
      assert.equal("the policy: Failed to read " .. folder .. "/none.lua: No such file or directory", tostring(err))
    end)
  end)

  it("script may begin with a byte order mark", function()
    helper.with_folder(function(folder)
      local script = helper.write(folder .. "/bom.lua", "\xEF\xBB\xBFreturn {\nallow = function() error 'oh' end }")
      for _, trusted in ipairs { false, true } do
        local _, err = assert(theaterref.resolver { policy = script, trusted = trusted, log = false }):resolve "x"
        assert.matches("bom.lua:2: oh", tostring(err))
      end
    end)
  end)

  it("script is named in its errors, which are none of a reference", function()
    helper.with_folder(function(folder)
      local script = helper.write(folder .. "/failing.lua", "return { allow = function() error 'oh' end }")
      for _, policy_of in ipairs { script, helper.write(folder .. "/unfinished.lua", "return {"),
        helper.write(folder .. "/unknown.lua", "return { alow = function() end }") } do
        local resolver, err = theaterref.resolver { policy = policy_of, log = false }
        if resolver then err = select(2, resolver:resolve "x") end
        assert.is_nil(tostring(err):find("Failed to resolve reference", 1, true))
        assert.matches(policy_of, tostring(err), 1, true)
      end
      local _, err = theaterref.config(folder .. "/none.conf.lua")
      assert.equal("the configuration: Failed to read " .. folder .. "/none.conf.lua: No such file or directory", tostring(err))
    end)
  end)

  it("whose rule answers nothing where a decision is due is at fault", function()
    for rule, answers in pairs { allow = "true, or false and a reason", allow_spawn = "true, false and a reason, or a manifest" } do
      local _, _, err = assert(policy.load { [rule] = function() end }):ask(nil, rule, "x", {})
      assert.same({ "policy", ("the rule '%s' returned nothing; %s was expected"):format(rule, answers) }, { err.kind, err.message })
    end
  end)

  it("script that calls what is not there is told what may have been meant", function()
    helper.with_folder(function(folder)
      for text, expected in pairs {
        ["return { rewrite = theaterref.policy.miror {} }"] = "(field 'miror') (did you mean 'mirror'?)",
        ["local x = require 'x'"] = "(global 'require'); a policy script runs in a sandbox without 'require' (see 'trusted')",
        ["io.open 'x'"] = "(global 'io'); a policy script runs in a sandbox without 'io' (see 'trusted')",
      } do
        local _, err = policy.load(helper.write(folder .. "/p.lua", text))
        assert.equal("policy", err.kind)
        assert.matches(expected, err.message, 1, true)
      end
    end)
  end)

  it("is told of what happens, and cannot break it", function()
    local events = {}
    local resolver = theaterref.resolver { policy = {
      allow = function() return false, "never" end,
      on_event = function(event) events[#events + 1] = event error "ignored" end,
    } }
    assert.is_nil((resolver:resolve "x"))
    assert.equal("refusal", events[1].type)
    assert.equal("never", events[1].reason)
  end)

  it("by default lets no network manifest name local files, stores or plain http", function()
    local function allowed(manifest, ref)
      return (policy.default.allow(ref, { purpose = "package", manifest_reference = manifest }))
    end
    for _, ref in ipairs { "/etc/passwd", "x.wasm", "store://s/l", "http://h/x", "ftp://h/x" } do
      assert.is_false(allowed("https://h/m.toml", ref), ref)
      assert.is_true(allowed("/m.toml", ref), ref)
      assert.is_true(allowed("store://s/m", ref), ref)
    end
    assert.is_true(allowed("https://h/m.toml", "https://other/x"))
    assert.is_true(allowed("http://h/m.toml", "http://other/x"))
    assert.is_false(allowed("http://h/m.toml", "/etc/passwd"))
    assert.is_true(allowed("pkg://m.toml", "pkg://x"))
    assert.is_false(allowed("pkg://m.toml", "other://x"))
  end)
end)
