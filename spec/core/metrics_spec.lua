local helper = require "helper"
local core = require "theaterref.core"
local theaterref = require "theaterref"
local threads = require "threads"

-- Reads a text by the grammar of OpenMetrics 1.0. Returns the samples by name and labels as
-- written, and the families by name; raises where the text is wrong.
local function read(text)
  local samples, families, family = {}, {}, nil
  assert(text:sub(-6) == "# EOF\n" and utf8.len(text), "the text does not end with # EOF, or is no UTF-8")
  local suffixes = { counter = { _total = true }, gauge = { [""] = true }, info = { _info = true },
    histogram = { _bucket = true, _count = true, _sum = true } }
  for line in text:sub(1, -7):gmatch "(.-)\n" do
    local keyword, name, rest = line:match "^# (%u+) ([%a_][%w_]*) (.+)$"
    if keyword == "TYPE" then
      assert(not families[name] and suffixes[rest], line)
      family = { name = name, type = rest }
      families[name] = family
    elseif keyword then
      assert(name == family.name and (keyword == "UNIT" or keyword == "HELP") and not family[keyword] and not family.sampled, line)
      assert(keyword ~= "UNIT" or name:sub(-#rest - 1) == "_" .. rest, line)
      family[keyword] = rest
    else
      local sample, labels, value = line:match "^([%a_][%w_]*)(%b{}) ([%d.]+)$"
      if not sample then sample, labels, value = line:match "^([%a_][%w_]*)() ([%d.]+)$" end
      assert(sample and family.name == sample:sub(1, #family.name) and suffixes[family.type][sample:sub(#family.name + 1)], line)
      if type(labels) == "string" then
        local left = labels:sub(2, -2) .. ","
        left = left:gsub('[%a_][%w_]*="[^"\\\n]*",', ""):gsub('[%a_][%w_]*="([^"\n]*)",', function(escaped)
          return escaped:gsub('\\[\\n]', ""):find "\\" and escaped or ""
        end)
        assert(left == "" or labels:find('\\"', 1, true), line)
      else
        labels = ""
      end
      family.sampled = true
      assert(not samples[sample .. labels], "twice: " .. line)
      samples[sample .. labels] = tonumber(value)
    end
  end
  return samples, families
end

-- The metrics, as samples. 'since' gives another call's: the differences.
local function metrics(since)
  local samples = read(theaterref.metrics())
  for name, value in pairs(since or {}) do samples[name] = samples[name] and samples[name] - value end
  return samples
end

local function fetched(samples, outcome) return samples[('theaterref_fetches_total{outcome="%s"}'):format(outcome)] end

-- Waits until the engine has counted fetches that have told their result. Specs before this one may have left others.
local function eventually_fetched(before, outcome, count)
  helper.eventually(function() return fetched(metrics(before), outcome) >= count end)
end

describe("metrics", function()
  it("are OpenMetrics text, with a help text for each family and cumulative buckets", function()
    local samples, families = read(theaterref.metrics())
    for name, family in pairs(families) do
      assert.truthy(family.HELP, name)
      assert.truthy(family.sampled, name)
    end
    assert.equal("seconds", families.theaterref_fetch_seconds.UNIT)
    assert.equal("bytes", families.theaterref_fetch_received_bytes.UNIT)
    assert.equal(1, samples[('theaterref_info{version="%s"}'):format(theaterref._VERSION)])
  end)

  it("have decimal points under a locale with a decimal comma", function()
    helper.with_folder(function(folder)
      helper.run_ok(("localedef --no-archive -i de_DE -f UTF-8 %s/de_DE.UTF-8"):format(folder))
      helper.write(folder .. "/a.wasm", "\0asm")
      local path = helper.write(folder .. "/m.toml", 'name = "a"\npackage = "a.wasm"\n')
      local script = helper.write(folder .. "/script.lua", [[
        assert(os.setlocale "de_DE.UTF-8")
        assert(("%.1f"):format(1.5) == "1,5")
        local theaterref = require "theaterref"
        assert(theaterref.resolver({ log = false }):plan((...)))
        io.write(theaterref.metrics())]])
      local text = helper.run_ok(("LOCPATH=%s %s %s %s"):format(folder, helper.lua, script, path))
      local samples = read(text)
      assert.equal(1, samples['theaterref_plan_seconds_bucket{phase="total",le="+Inf"}'])
      assert.is_true(samples['theaterref_plan_seconds_sum{phase="total"}'] > 0)
      assert.truthy(samples['theaterref_plan_seconds_bucket{phase="total",le="0.00025"}'])
      assert.is_nil(text:find "%d,%d")
    end)
  end)

  it("count fetches by outcome, their bytes, retries, redirects and seconds", function()
    local server = helper.nginx()
    server:put("body", ("x"):rep(5000))
    local before = metrics()
    local resolver = theaterref.resolver { retries = 0, log = false }
    server:put("hello", ("x"):rep(5000))
    assert(resolver:resolve(server.http .. "/body"))
    assert(resolver:resolve(server.http .. "/here"))
    assert.equal("http_status", select(2, resolver:resolve(server.http .. "/missing")).kind)
    assert.equal("network", select(2, theaterref.resolver({ retries = 1, log = false }):resolve("http://127.0.0.1:1/")).kind)
    resolver:start(server.http .. "/slow/../body"):cancel()
    server:stop()
    eventually_fetched(before, "ok", 2)
    eventually_fetched(before, "network", 1)
    local now = metrics(before)
    assert.equal(1, fetched(now, "not_found"))
    assert.equal(1, now.theaterref_fetch_redirects_total)
    assert.equal(1, now.theaterref_fetch_retries_total)
    assert.is_true(now.theaterref_fetch_received_bytes_total >= 10000) -- and the pages of a redirect and an error
    assert.truthy(({ [4] = true, [5] = true })[now['theaterref_fetch_seconds_count{phase="total"}']]) -- 5: the cancelled one began
    assert.equal(now['theaterref_fetch_seconds_count{phase="total"}'],
      now['theaterref_fetch_seconds_bucket{phase="total",le="+Inf"}'])
    assert.is_true(now['theaterref_fetch_seconds_sum{phase="total"}'] >= now['theaterref_fetch_seconds_sum{phase="queue"}'])
    local last = 0
    for _, bound in ipairs { "0.0001", "0.001", "0.1", "1.0", "60.0", "+Inf" } do
      local count = now[('theaterref_fetch_seconds_bucket{phase="total",le="%s"}'):format(bound)]
      assert.is_true(count >= last, bound)
      last = count
    end
  end)

  it("count a body that broke off and was resumed", function()
    local server = helper.misbehaving()
    local before = metrics()
    assert(theaterref.resolver({ retries = 3, log = false }):resolve(server.http .. "/resumes"))
    server:stop()
    eventually_fetched(before, "ok", 1)
    assert.equal(1, metrics(before).theaterref_fetch_resumes_total)
  end)

  it("count caches by name, and those without one or with an odd one together", function()
    local name = 'metrics "\\\n'
    local caches = { theaterref.resource_cache { name = name }, theaterref.resource_cache {},
      theaterref.resource_cache { name = "metrics\xff" } }
    local before = metrics()
    for _, cache in ipairs(caches) do
      helper.load(cache, "a", "12345")
      assert(cache:get "a")
    end
    local now = metrics(before)
    local label = '{cache="metrics \\"\\\\\\n"}'
    assert.equal(1, now["theaterref_cache_hits_total" .. label])
    assert.equal(1, now["theaterref_cache_misses_total" .. label])
    assert.is_true(now["theaterref_cache_bytes" .. label] >= 5)
    assert.equal(1, now["theaterref_cache_entries" .. label])
    assert.equal(2, now['theaterref_cache_hits_total{cache=""}'])
    caches[1]:close()
    caches[3]:close()
    caches = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    now = metrics(before)
    assert.equal(1, now["theaterref_cache_hits_total" .. label], "a counter must not run back or jump when a cache is gone")
    assert.equal(2, now['theaterref_cache_hits_total{cache=""}'])
    assert.equal(0, now["theaterref_cache_entries" .. label])
    local again = theaterref.resource_cache { name = name }
    helper.load(again, "a", "12345")
    assert(again:get "a")
    again:close()
    assert.equal(2, metrics(before)["theaterref_cache_hits_total" .. label])
  end)

  it("have room for 64 names of caches: those open when they are full count without a name, later ones take old rows", function()
    local function names()
      local found = {}
      for name in theaterref.metrics():gmatch 'cache_hits_total{cache="(room [^"]*)"}' do found[name] = true end
      return found
    end
    local function open(from, to)
      local caches = {}
      for i = from, to do caches[#caches + 1] = theaterref.resource_cache { name = "room " .. i } end
      return caches
    end
    local function close(caches)
      for _, cache in ipairs(caches) do cache:close() end
    end
    local caches = open(1, 70)
    local first = names()
    local before = metrics()
    assert.truthy(first["room 1"])
    assert.is_nil(first["room 70"])
    helper.load(caches[70], "a", "12345")
    assert(caches[70]:get "a")
    assert.equal(1, metrics(before)['theaterref_cache_hits_total{cache=""}'])
    close(caches)
    caches = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.same(first, names())
    local later = open(71, 72)
    local now = names()
    assert.truthy(now["room 71"] and now["room 72"] and now["room 3"])
    close(later)
  end)

  it("count the operations of stores by outcome, and corrupt content", function()
    helper.with_folder(function(folder)
      local before = metrics()
      local store = theaterref.content_store("metrics", { home = folder, verify = "always" })
      local hash = assert(store:put "bytes")
      assert(store:get(hash))
      assert(store:label("a", hash))
      assert(store:remove_label "a")
      assert.is_nil((store:get(("0"):rep(40))))
      helper.run_ok(("chmod u+w %s/store/metrics/data/* && printf other > %s/store/metrics/data/%s"):format(folder, folder, hash))
      assert.equal("corrupt", select(2, store:get(hash)).kind)
      local now = metrics(before)
      for _, operation in ipairs { "put", "get", "label", "unlabel" } do
        assert.equal(1, now[('theaterref_store_operations_total{operation="%s",outcome="ok"}'):format(operation)], operation)
      end
      for _, outcome in ipairs { "not_found", "corrupt" } do
        assert.equal(1, now[('theaterref_store_operations_total{operation="get",outcome="%s"}'):format(outcome)], outcome)
      end
      assert.equal(1, now['theaterref_corruptions_total{place="store"}'])
    end)
  end)

  it("count refusals by rule, scripts that reach a limit, and plans by outcome and step", function()
    helper.with_folder(function(folder)
      local path = helper.write(folder .. "/m.toml", 'name = "a"\npackage = "a.wasm"\n')
      helper.write(folder .. "/a.wasm", "\0asm")
      local endless = helper.write(folder .. "/policy.lua", "return { allow = function() while true do end end }")
      local before = metrics()
      assert(theaterref.resolver({ log = false }):plan(path))
      local function refused(policy, kind)
        local plan, err = theaterref.resolver({ log = false, policy = policy }):plan(path)
        assert.is_nil(plan)
        assert.equal(kind, err.kind)
      end
      local function no() return false, "no" end
      refused({ allow = no }, "denied")
      refused({ allow_spawn = no }, "denied")
      refused({ accept = no }, "rejected")
      refused({ integrity = function() return nil, "no" end }, "denied")
      refused(endless, "policy")
      helper.run_ok(("cd %s && openssl ecparam -name prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out key.pub")
        :format(folder))
      refused({ signatures = function() return { keys = { folder .. "/key.pub" } } end }, "untrusted")
      local now = metrics(before)
      for _, rule in ipairs { "allow", "allow_spawn", "accept", "integrity", "signatures" } do
        assert.equal(1, now[('theaterref_refusals_total{rule="%s"}'):format(rule)], rule)
      end
      local limits = now['theaterref_script_limits_total{limit="instructions"}'] + now['theaterref_script_limits_total{limit="time"}']
      assert.equal(1, limits)
      assert.equal(1, now['theaterref_plans_total{outcome="ok"}'])
      assert.equal(3, now['theaterref_plans_total{outcome="denied"}'])
      assert.equal(1, now['theaterref_plans_total{outcome="policy"}'])
      assert.equal(1, now['theaterref_plan_seconds_count{phase="total"}'])
      assert.equal(7, now['theaterref_plan_seconds_count{phase="manifest"}'])
      assert.equal(1, now['theaterref_plan_seconds_count{phase="package"}'])
    end)
  end)

  it("count plans however they end", function()
    local function hold() return core.timer(60) end
    local resolver = theaterref.resolver { log = false, policy = { schemes = { held = hold } } }
    local function yields() coroutine.yield() end
    local yielding = theaterref.resolver { log = false, policy = { rewrite = yields } }
    local before = metrics()
    local cancelled = resolver:start_plan "held://x"
    cancelled:cancel()
    assert.equal("timeout", select(2, resolver:start_plan("held://x", { plan_timeout = 0.01 }):wait()).kind)
    local late = resolver:start_plan("held://x", { plan_timeout = 0.01 })
    helper.eventually(function() return late:done() end)
    assert.equal("timeout", select(2, resolver:plan("held://x", { plan_timeout = 0.01 })).kind)
    assert.is_nil(yielding:start_plan "x")
    assert.is_nil(resolver:render "missing") -- no plan
    local now = metrics(before)
    for outcome, expected in pairs { cancelled = 1, timeout = 3, policy = 1, ok = 0, not_found = 0 } do
      assert.equal(expected, now[('theaterref_plans_total{outcome="%s"}'):format(outcome)], outcome)
    end
  end)

  it("count followers by what their checks found, and derived bytes by where they came from", function()
    helper.with_folder(function(folder)
      local path = helper.write(folder .. "/file", "one")
      local resolver = theaterref.resolver { log = false, cache = { disk = { base_path = folder .. "/disk" } } }
      local before = metrics()
      local follower <close> = resolver:follow(path, function() end)
      local function checks(result) return metrics(before)[('theaterref_follow_checks_total{result="%s"}'):format(result)] end
      assert(follower:wait(10))
      assert.equal(1, checks "changed")
      os.remove(path)
      helper.eventually(function() follower:wait(0.02) return checks "failed" == 1 end)
      helper.write(path, "one")
      helper.eventually(function() follower:wait(0.02) return checks "unchanged" >= 1 end)
      assert.equal(1, checks "changed")
      local blob = core.blob "package"
      local function make() return "code" end
      assert(resolver:derive(blob, "x 1", make))
      assert(resolver:derive(blob, "x 1", make)) -- from memory
      local other = theaterref.resolver { log = false, cache = theaterref.resource_cache { disk = { base_path = folder .. "/disk" } } }
      assert(other:derive(blob, "x 1", error))
      assert.is_nil((other:derive(blob, "x 2", function() return nil, "no" end)))
      local now = metrics(before)
      for _, from in ipairs { "computed", "disk", "failed" } do
        assert.equal(1, now[('theaterref_derivations_total{from="%s"}'):format(from)], from)
      end
    end)
  end)

  it("count remote stores: wrong bytes, outages, and their caches by the id; what is absent is no failure", function()
    local s3 = helper.s3_stub()
    helper.with_folder(function(folder)
      local function open(name, id)
        return theaterref.content_store(id or "metrics", { base_path = folder .. "/" .. name, remote = "s3://bucket/metrics",
          s3 = s3.settings, label_ttl = 0, request = { retries = 0 } })
      end
      local hash = assert(open "writer":store_at_label("x", "bytes"))
      local store = open("reader", "seen-in-metrics")
      assert(store:get_by_label "x")
      local before = metrics()
      assert.is_nil((store:get_by_label "absent"))
      eventually_fetched(before, "not_found", 1)
      assert.equal(0, fetched(metrics(before), "http_status"))
      s3:control { put = { { bucket = "bucket", key = "metrics/data/" .. hash, text = "BYTES" } } }
      assert.equal("corrupt", select(2, store:get(hash)).kind)
      s3:control { down = true }
      assert(store:get_by_label "x")
      local now = metrics(before)
      assert.equal(1, now['theaterref_corruptions_total{place="bucket"}'])
      assert.equal(1, now.theaterref_store_outages_total)
      assert.truthy(theaterref.metrics():find 'cache_hits_total{cache="store://seen%-in%-metrics %x+"}')
    end)
    s3:stop()
  end)

  it("are those of the process: threads that end leave their counts, and a child goes on from them", function()
    local before = metrics()
    threads.run(8, [[
      local core = require "theaterref.core"
      return function() for _ = 1, 1000 do core.count_refusal "allow" end end]])
    local name = 'theaterref_refusals_total{rule="allow"}'
    assert.equal(8000, metrics(before)[name])
    if threads.fork(60) then
      core.count_refusal "allow"
      if metrics(before)[name] ~= 8001 then os.exit(1) end
      threads.leave()
    end
    threads.wait()
    assert.equal(8000, metrics(before)[name])
  end)

  it("show no reference and no host", function()
    theaterref.resolver({ retries = 0, log = false }):resolve("http://user:s3cret@127.0.0.1:1/very-secret?token=1")
    local text = theaterref.metrics()
    for _, word in ipairs { "s3cret", "very-secret", "127.0.0.1", "token=" } do
      assert.is_nil(text:find(word, 1, true), word)
    end
  end)
end)
