-- The stubs for editors, against what there is.
local core = require "theaterref.core"
local helper = require "helper"
local options = require "theaterref.options"
local theaterref = require "theaterref"

local text = helper.read "lua/types/theaterref.lua"

-- The functions of a table in the stubs, as a set; methods with ':'.
local function stubbed(name, separator)
  local found = {}
  for method in text:gmatch("\nfunction " .. name .. separator .. "([%w_]+)%(") do found[method] = true end
  return found
end

-- The fields of a class in the stubs, as a set.
local function fields(class)
  local found, body = {}, text:match("%-%-%-@class " .. class .. "[:\n](.-)\n\n")
  assert(body, "there is no class " .. class)
  for field in body:gmatch "@field ([%w_]+)" do found[field] = true end
  return found
end

-- The functions of a table, without what is not for users.
local function functions(of, hidden)
  local found = {}
  for name, value in pairs(of) do
    if type(value) == "function" and not name:find "^__" then found[name] = true end
  end
  for name in (hidden or ""):gmatch "%S+" do
    assert(found[name], "there is no " .. name .. " to hide")
    found[name] = nil
  end
  return found
end

describe("the stubs for editors", function()
  it("are Lua", function() assert.is_table(load(text)()) end)

  it("have the module's functions and tables, all and no others", function()
    for name in pairs(stubbed("theaterref", "%.")) do assert.is_function(theaterref[name], name) end
    for name in pairs(fields "theaterref") do assert.is_not_nil(theaterref[name], name) end
    local documented = helper.read "lua/theaterref/init.lua"
    for name in documented:gmatch "function later%.([%w_]+)" do
      assert.is_true(stubbed("theaterref", "%.")[name] or fields "theaterref"[name], name)
    end
    for name in documented:gmatch "\nfunction M%.([%w_]+)" do assert.is_true(stubbed("theaterref", "%.")[name], name) end
  end)

  it("have each object's methods, all and no others", function()
    helper.with_folder(function(folder)
      local store = theaterref.content_store("x", { base_path = folder })
      assert.same(functions(debug.getmetatable(core.blob "x")), stubbed("Blob", ":"))
      assert.same(functions(debug.getmetatable(theaterref.resource_cache()), "accept claim peek reject stale_if_error changes swap drop"), stubbed("Cache", ":"))
      assert.same(functions(debug.getmetatable(store),
        "begin_batch check clock collect content_sizes content_times content_uses discard discard_temporary_file discard_unchanged former_hashes folder "
          .. "hold label_hashes list_temporary_files list_folders list_quarantined list_unexpected lock note_use tidy_history try_lock"), stubbed("Store", ":"))
      assert.same(functions(debug.getmetatable(store:begin_batch()), "commit"), stubbed("Batch", ":"))
      assert.same(functions(require "theaterref.resolve.future", "is run await pause lateness listen seconds_left"), stubbed("Future", ":"))
      assert.same(functions(require "theaterref.resolve.follower", "new"), stubbed("Follower", ":"))
      assert.same(functions(require "theaterref.resolver", "new start_trace"), stubbed("Resolver", ":"))
    end)
  end)

  it("have the functions of references, templates and policies, all and no others", function()
    assert.is_function(theaterref.policy.mirror) -- which loads the others
    assert.same(functions(theaterref.reference, "source_of"), stubbed("reference", "%."))
    assert.same(functions(theaterref.template), stubbed("template", "%."))
    assert.same(functions(theaterref.policy, "load call"), stubbed("policy", "%."))
    assert.same(functions(theaterref.policy.merge), fields "theaterref.MergeRules")
    assert.same(functions(theaterref.policy.default), fields "theaterref.DefaultRules")
    local rules = functions(theaterref.policy.default)
    rules.schemes = true
    assert.same(rules, fields "theaterref.Rules")
  end)

  it("have every option, and no others", function()
    for class, set in pairs { RequestOptions = options.request, LogOptions = options.log, CacheOptions = options.cache,
      CallOptions = options.call, FollowOptions = options.follow, DeriveOptions = options.derive, CopyOptions = options.copy,
      BucketOptions = options.bucket, RegistryOptions = options.registry,
      PlanOptions = options.plan, DiskCacheOptions = options.disk, HostOptions = options.host, StoreOptions = options.store,
      RemoteStoreOptions = options.remote_store, LabelOptions = options.label, GcOptions = options.gc } do
      local names = {}
      for name in pairs(set.by_name) do names[name] = true end
      assert.same(names, fields("theaterref." .. class))
    end
    local all = fields "theaterref.ResolverOptions"
    for name in pairs(fields "theaterref.RequestOptions") do all[name] = true end
    for name in pairs(options.resolver.by_name) do assert.is_true(all[name], name) end
    for name in pairs(all) do assert.is_not_nil(options.resolver.by_name[name], name) end
  end)

  it("have every rule and every event of the lists, and no others", function()
    local names = { on_event = true, schemes = true }
    for _, rule in ipairs(require("theaterref.policy.rules").list) do names[rule.name] = true end
    assert.same(names, fields "theaterref.Rules")
    local types, event_fields = {}, { type = true }
    for _, event in ipairs(require("theaterref.events").list) do
      types[#types + 1] = '"' .. event.type .. '"'
      for field in pairs(event.fields) do event_fields[field] = true end
    end
    assert.equal(table.concat(types, "|"), text:match "class theaterref.Event\n%-%-%-@field type ([^\n]+)")
    assert.same(event_fields, fields "theaterref.Event")
  end)

  it("have the fields of a plan, an error and a cache's statistics", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/p", "p")
      helper.write(folder .. "/m.toml", 'name = "m"\npackage = "p"\ninitial_state = \'{"a":{"$ref":"data:,x"}}\'\n')
      local plan = assert(theaterref.resolver():plan(folder .. "/m.toml"))
      local stub = fields "theaterref.Plan"
      for name in pairs(plan) do assert.is_true(stub[name], name) end
      for name in pairs(stub) do assert.is_true(plan[name] ~= nil or name == "signed_by" or name == "secrets", name) end
      local _, err = theaterref.resolve_reference(folder .. "/none")
      for name in pairs(err) do assert.is_true(fields "theaterref.Error"[name], name) end
      for name in pairs(theaterref.resource_cache():stats()) do assert.is_true(fields "theaterref.CacheStats"[name], name) end
    end)
  end)

  it("have every kind of error", function()
    for kind in helper.read "lua/theaterref/error.lua":match "%* `kind`:(.-)\n%-%- %*":gmatch "`([%l_]+)`" do
      assert.is_truthy(text:find('---| "' .. kind .. '"', 1, true), kind)
    end
  end)
end)

describe("the operators' guide", function()
  local guide = helper.read "examples/guides/operators.md"

  it("has a row for every event, as the list has it", function()
    for _, event in ipairs(require("theaterref.events").list) do
      local row = guide:match("\n| `" .. event.type .. "` | ([^\n]+)")
      assert.is_truthy(row, event.type)
      assert.equal(event.level, row:match "^%l+")
      assert.is_truthy(row:find(event.does, 1, true), event.type)
      for field in pairs(event.fields) do
        assert.is_true(field == "reference" or row:find("`" .. field .. "`", 1, true) ~= nil, event.type .. "." .. field)
      end
    end
  end)

  it("has a row for every rule, with its arguments", function()
    for _, rule in ipairs(require("theaterref.policy.rules").list) do
      assert.is_truthy(guide:find("\n| `" .. rule.name .. "` | ", 1, true), rule.name)
    end
  end)
end)
