local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"
local core = require "theaterref.core"

local is_root = helper.run("id -u") == "0\n"

describe("a derivation", function()
  local folder, events

  before_each(function()
    folder, events = helper.temporary_folder(), {}
  end)
  after_each(function() helper.remove(folder) end)

  -- A resolver whose memory is new, and whose disk cache is in the folder.
  local function resolver(options)
    options = options or {}
    options.disk = { base_path = folder }
    return theaterref.resolver { cache = theaterref.resource_cache(options), log = false,
      on_event = function(event) if event.type == "disk_cache" then events[#events + 1] = event.message end end }
  end

  local blob, made = core.blob "\0asm", 0
  local function upper(bytes)
    made = made + 1
    return tostring(bytes):upper()
  end

  -- Derives in a new resolver. Returns the text and whether it was computed.
  local function derive()
    local before = made
    return tostring(assert(resolver():derive(blob, "upper 1", upper))), made > before
  end

  -- The path of the entry on disk.
  local function entry()
    return folder .. "/disk-cache-1/" .. helper.run_ok("ls " .. folder .. "/disk-cache-1 | grep -- -"):match "^%S+"
  end

  it("is computed once for each content and recipe", function()
    local r, before = resolver(), made
    local first = r:derive(blob, "upper", upper)
    assert.equal("\0ASM", tostring(first))
    assert.is_true(first:same(r:derive(core.blob "\0asm", "upper", upper)))
    assert.equal(before + 1, made)
    r:derive(blob, "upper 2", upper)
    r:derive(core.blob "other", "upper", upper)
    assert.equal(before + 3, made)
  end)

  it("is computed once by 64 threads that ask at the same moment", function()
    local count = folder .. "/count"
    helper.write(count, "")
    local results = threads.run(64, ([[
      local theaterref = require "theaterref"
      local resolver = theaterref.resolver { cache = theaterref.resource_cache { name = %q } }
      local blob = require("theaterref.core").blob "package"
      return function()
        return tostring(assert(resolver:derive(blob, "count", function(bytes)
          local file = assert(io.open(%q, "a"))
          file:write "x"
          file:close()
          return tostring(bytes):rep(1000)
        end)))
      end]]):format("derive-" .. folder, count))
    for _, text in ipairs(results) do assert.equal(("package"):rep(1000), text) end
    assert.equal("x", helper.read(count))
  end)

  it("comes from disk in another process, and only with the same recipe", function()
    assert.same({ "\0ASM", true }, { derive() })
    assert.same({ "\0ASM", false }, { derive() })
    local script = helper.write(folder .. "/script.lua", [[
      local theaterref = require "theaterref"
      local resolver = theaterref.resolver { cache = { disk = { base_path = (...) } } }
      local blob = require("theaterref.core").blob "\0asm"
      print(#resolver:derive(blob, "upper 1", function() return "computed" end))
      print(#resolver:derive(blob, "upper 1.1", function() return "computed" end))]])
    assert.equal("4\n8\n", helper.run_ok(("%s %s %s"):format(helper.lua, script, folder)))
  end)

  it("is computed again if any byte on disk was flipped, also in a file that was read before", function()
    derive()
    local path = entry()
    local sound = helper.read(path)
    for at = 1, #sound, 7 do
      helper.write(path, sound:sub(1, at - 1) .. string.char(sound:byte(at) ~ 1) .. sound:sub(at + 1))
      assert.same({ "\0ASM", true }, { derive() })
      assert.same({ "\0ASM", false }, { derive() })
    end
    assert.truthy(events[1]:find("it was damaged", 1, true))
  end)

  it("takes no file that others may write to or own", function()
    derive()
    local changes = { "chmod 620 ", "chmod 602 ", "chmod 666 " }
    if is_root then changes[#changes + 1] = "chown 1 " end
    for i, change in ipairs(changes) do
      helper.run_ok(change .. entry())
      assert.same({ "\0ASM", true }, { derive() })
      assert.truthy(events[i]:find("code must be in files of the user", 1, true))
      assert.same({ "\0ASM", false }, { derive() })
    end
    assert.equal(#changes, #events)
  end)

  it("is computed by the next who asks if its function yields in an event loop", function()
    local r = resolver()
    assert.is_nil((r:start_derive(blob, "yields", function() coroutine.yield(1) end)))
    assert.equal("fine", tostring(assert(r:derive(blob, "yields", function() return "fine" end, { derive_timeout = 5 }))))
  end)

  it("fails with an error if its function gives an error without a message", function()
    local r = resolver()
    local odd = setmetatable({}, getmetatable(require("theaterref.error").new("io", "x")))
    local made_now, err = r:derive(blob, "odd", function() return nil, odd end)
    assert.is_nil(made_now)
    assert.equal("policy", err.kind)
    assert.equal("fine", tostring(assert(r:derive(blob, "odd", function() return "fine" end, { derive_timeout = 5 }))))
  end)

  it("counts files and folders that others may write to as corruption, like damaged files", function()
    local function count()
      return tonumber(theaterref.metrics():match '\ntheaterref_corruptions_total{place="disk_cache"} (%d+)')
    end
    derive()
    local before = count()
    helper.run_ok("chmod 666 " .. entry())
    derive()
    assert.equal(before + 1, count())
    helper.run_ok(("chmod 777 %s/disk-cache-1"):format(folder))
    derive()
    assert.equal(before + 2, count())
  end)

  it("takes nothing from a folder that others may write to or own, and puts nothing there", function()
    derive()
    local own = resolver() -- has the folder open
    assert.equal(4, #own:derive(blob, "upper 1", upper))
    local changes = { "chmod 770 ", "chmod 702 " }
    if is_root then changes[#changes + 1] = "chown 1 " end
    for _, change in ipairs(changes) do
      helper.run_ok(("%s %s"):format(change, folder .. "/disk-cache-1"))
      own.cache:clear()
      local before, said = made, #events
      assert.equal(4, #own:derive(blob, "upper 1", upper))
      assert.equal(before + 1, made)
      assert.truthy(events[said + 1]:find("must belong to the user", 1, true))
      assert.same({ "\0ASM", true }, { derive() })
      helper.run_ok(("chown $(id -u) %s/disk-cache-1; chmod 700 %s/disk-cache-1"):format(folder, folder))
    end
  end)

  it("follows no symbolic link to an entry", function()
    derive()
    helper.run_ok(("mv %s %s/moved && ln -s %s/moved %s"):format(entry(), folder, folder, entry()))
    assert.same({ "\0ASM", true }, { derive() })
  end)

  it("holds memory of its own, whatever happens to a file that was read", function()
    local path = helper.write(folder .. "/large", ("x"):rep(1 << 20))
    local result = resolver():derive(blob, "mapped", function() return core.read_file(path) end)
    local again = resolver():derive(blob, "mapped", error)
    helper.write(entry(), "")
    helper.write(path, "")
    assert.equal(("x"):rep(1 << 20), tostring(result))
    assert.equal(("x"):rep(1 << 20), tostring(again))
  end)

  it("is bounded and removed like other entries", function()
    local r = resolver { max_bytes = 100000 }
    for i = 1, 10 do r:derive(blob, "large " .. i, function() return ("x"):rep(30000) end) end
    assert.is_true(r.cache:stats().bytes <= 100000)
    local before, key = made, core.derived_key(blob, "upper 1")
    r:derive(blob, "upper 1", upper)
    assert.is_true(r.cache:remove(key))
    r:derive(blob, "upper 1", upper)
    assert.equal(before + 2, made)
  end)

  it("reports a failure to its caller, and keeps none", function()
    local r = resolver { negative_ttl = 60 }
    for _, case in ipairs {
      { function() error "boom" end, "policy", "the function of derive failed: .*boom" },
      { function() return nil, "no compiler" end, "policy", "the function of derive failed: no compiler" },
      { function() return nil end, "policy", "gave no reason" },
      { function() return 42 end, "policy", "returned a number; bytes were expected" },
      { function() return core.read_file "/missing" end, "not_found", "/missing" },
      { function() return r:derive(blob, "fails", upper) end, "policy", "would wait for itself" },
      { function() error(setmetatable({}, { __tostring = error })) end, "policy", "has no message" },
    } do
      local result, err = r:derive(blob, "fails", case[1])
      assert.is_nil(result)
      assert.equal(case[2], err.kind)
      assert.truthy(err.message:find(case[3]), err.message)
      assert.truthy(tostring(err):find("derived://", 1, true))
    end
    assert.equal("\0ASM", tostring(r:derive(blob, "fails", upper)))
  end)

  it("gives its failure to all who wait", function()
    local results = threads.run(8, ([[
      local theaterref = require "theaterref"
      local cache = theaterref.resource_cache { name = %q }
      local resolver = theaterref.resolver { cache = cache }
      local blob = require("theaterref.core").blob "package"
      return function()
        local _, err = resolver:derive(blob, "fail", function()
          while cache:stats().coalesced < 7 do end
          return nil, "no compiler"
        end)
        return err.message
      end]]):format("derive-fails-" .. folder))
    for _, message in ipairs(results) do assert.equal("the function of derive failed: no compiler", message) end
  end)

  -- Derives key n within the function of key n - 1, in as many threads, when all of these run: with `derive`, by waiting for
  -- `start_derive`, or beside a plan that is under way. Returns their results.
  local function derive_in_a_circle(count, way)
    return threads.run(count, ([[
      local theaterref, core = require "theaterref", require "theaterref.core"
      local cache, count, way, number = theaterref.resource_cache { name = %q }, %d, %q, ...
      local resolver, blob = theaterref.resolver { cache = cache }, core.blob "package"
      local function derive(n, make)
        if way == "derive" or way == "beside" and n == number then return resolver:derive(blob, "circle " .. n, make) end
        local future, err = resolver:start_derive(blob, "circle " .. n, make)
        if not future then return nil, err end
        return future:wait()
      end
      return function()
        local held = { schemes = { held = function() return core.timer(60) end } }
        local plan = way == "beside" and theaterref.resolver { policy = held }:start_plan "held://x"
        local made, err = derive(number, function()
          cache:claim("runs " .. number) -- it stands for itself in the statistics
          while cache:stats().misses < 2 * count do end
          local other, why = derive(number %% count + 1, function() return "of another" end)
          return other and "made of " .. tostring(other), why
        end)
        if plan then plan:cancel() end
        return made and tostring(made) or err.message
      end]]):format(("derive-circle-%d-%s-%s"):format(count, way, folder), count, way))
  end

  it("fails at once if functions of several threads wait for each other", function()
    for _, case in ipairs { { 2, "derive" }, { 5, "derive" }, { 2, "start" }, { 3, "start" }, { 3, "beside" } } do
      local started = core.now()
      for _, text in ipairs(derive_in_a_circle(table.unpack(case))) do
        assert.truthy(text:find("two functions of derive ask for what the other is to return", 1, true), text)
      end
      assert.is_true(core.now() - started < 10)
    end
  end)

  it("fails at once if its function waits for itself by start_derive", function()
    local r = resolver()
    local result, err = r:derive(blob, "self", function()
      local future = assert(r:start_derive(blob, "self", upper))
      return future:wait()
    end)
    assert.is_nil(result)
    assert.truthy(err.message:find("would wait for itself", 1, true), err.message)
  end)

  it("fails at once if functions wait for each other, though the cache has forgotten one of them", function()
    local started = core.now()
    local results = threads.run(3, ([[
      local theaterref, core = require "theaterref", require "theaterref.core"
      local cache, number = theaterref.resource_cache { name = %q }, ...
      local resolver, blob = theaterref.resolver { cache = cache }, core.blob "package"
      local function set(mark) select(2, cache:claim(mark)):complete(core.blob "1") end
      local function await(is_so) while not is_so() do core.timer(0.001):wait() end end
      local function is_set(mark) return function() return cache:get(mark) end end
      local function derive(recipe, make)
        local made, err = resolver:derive(blob, recipe, make)
        return made and tostring(made), err
      end
      return function()
        local made, err
        if number == 1 then -- computes "first" until a third computes it, too; then it wants "second"
          made, err = derive("first", function()
            set "first runs"
            await(is_set "first runs again")
            return derive("second", function() return "" end)
          end)
          set "done"
        elseif number == 2 then
          await(is_set "first runs")
          made, err = derive("second", function()
            set "second runs"
            return derive("first", function() return "" end)
          end)
        else
          await(function() return cache:get "second runs" and cache:stats().coalesced > 0 end)
          cache:remove("derived://" .. blob:digest() .. "/first")
          made, err = derive("first", function()
            set "first runs again"
            await(is_set "done")
            return "made"
          end)
        end
        return made or err.message
      end]]):format("derive-forgotten-" .. folder))
    assert.truthy(results[1]:find("would wait for each other", 1, true), results[1])
    assert.truthy(results[2]:find("would wait for each other", 1, true), results[2])
    assert.equal("made", results[3])
    assert.is_true(core.now() - started < 10)
  end)

  it("may be derived within the function of another, also while a third waits for that", function()
    local r = resolver()
    local outer = assert(r:derive(blob, "outer", function(bytes)
      local inner = assert(r:derive(bytes, "inner", function() return "inner" end))
      return tostring(inner) .. ", outer"
    end))
    assert.equal("inner, outer", tostring(outer))
    local results = threads.run(4, ([[
      local theaterref, core = require "theaterref", require "theaterref.core"
      local cache, number = theaterref.resource_cache { name = %q }, ...
      local resolver, blob = theaterref.resolver { cache = cache }, core.blob "package"
      local function inner()
        return resolver:derive(blob, "inner", function()
          while cache:stats().coalesced < 3 do end -- all others wait
          return "inner"
        end)
      end
      if number > 1 then
        return function()
          return tostring(resolver:derive(blob, "outer " .. number, function() return "outer, " .. tostring(assert(inner())) end))
        end
      end
      return function() return tostring(inner()) end]]):format("derive-nested-" .. folder))
    table.sort(results)
    assert.same({ "inner", "outer, inner", "outer, inner", "outer, inner" }, results)
  end)

  it("is computed by one who waits if the state that led is closed", function()
    local results = threads.run(8, ([[
      local theaterref = require "theaterref"
      local core = require "theaterref.core"
      local cache = theaterref.resource_cache { name = %q }
      local resolver = theaterref.resolver { cache = cache }
      local blob = core.blob "package"
      local how, lead
      if ... == 1 then how, lead = cache:claim(core.derived_key(blob, "lost")) end
      return function()
        if lead then -- its state closes when this ends
          while cache:stats().coalesced < 7 do end
          return how
        end
        return tostring(resolver:derive(blob, "lost", function() return "found" end))
      end]]):format("derive-lost-" .. folder))
    assert.same({ "lead", "found", "found", "found", "found", "found", "found", "found" }, results)
  end)

  it("has a time limit for those who wait, and wakes an event loop", function()
    local r = resolver()
    local _, lead = r.cache:claim(core.derived_key(blob, "slow"))
    local result, err = r:derive(blob, "slow", upper, { derive_timeout = 0.05 })
    assert.is_nil(result)
    assert.equal("timeout", err.kind)
    assert.truthy(err.message:find("not derived within 0.05 seconds (derive_timeout)", 1, true), err.message)
    local future = assert(r:start_derive(blob, "slow", upper))
    assert.is_false(future:done())
    assert.is_number(future:pollfd())
    lead:complete(core.blob "bytes")
    assert.is_true(future:done())
    assert.equal("bytes", tostring(future:wait(0)))
  end)

  it("computes again in a child that was forked while it was under way", function()
    local r = resolver()
    local _, lead = r.cache:claim(core.derived_key(blob, "forked"))
    if threads.fork(60) then
      if tostring(r:derive(blob, "forked", upper)) == "\0ASM" then threads.leave() end
      os.exit(1)
    end
    threads.wait()
    assert.is_true(lead:complete(core.blob "bytes"))
    assert.equal("bytes", tostring(r:derive(blob, "forked", upper)))
  end)

  it("refuses arguments of other types, and recipes that are no names", function()
    local r = resolver()
    assert.error_matches(function() r:derive("text", "x", upper) end, "derive takes a blob, not a string")
    assert.error_matches(function() r:start_derive(blob, 1, upper) end, "a recipe must be a string, not a number")
    assert.error_matches(function() r:derive(blob, "x", "y") end, "derive takes a function, not a string")
    assert.error_matches(function() r:derive(blob, "x", upper, { timeout = 1 }) end, "did you mean 'derive_timeout'")
    assert.error_matches(function() theaterref.resolver():derive(blob, "x", upper) end, "this resolver has no cache")
    for _, recipe in ipairs { "", ("x"):rep(1025) } do
      assert.equal("invalid_reference", select(2, r:derive(blob, recipe, upper)).kind)
    end
    assert.error(function() r:derive(blob, "a\0b", upper) end)
    assert.equal(4, #r:derive(blob, ("x"):rep(1024), upper))
  end)
end)
