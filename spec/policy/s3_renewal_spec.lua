-- Credentials for S3 that a server refuses, and sources of credentials that fail: what is good goes on to be used.
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

describe("credentials that a server refuses", function()
  local folder, server, settings
  local number = 0

  setup(function() server = helper.s3_stub() end)
  teardown(function() server:stop() end)

  -- Makes the server refuse the keys that are in use. The program tells the next ones, if there are any.
  local function expire(has_others)
    local function keys(n, expired) return { secret = "hush", token = "T" .. n, expired = expired } end
    server:control { accounts = { ["K" .. number] = keys(number, true), ["K" .. number + 1] = keys(number + 1) } }
    if has_others == false then return end
    number = number + 1
    helper.write(folder .. "/number", tostring(number))
  end

  local function runs() return #helper.read(folder .. "/runs") end

  before_each(function()
    folder = helper.temporary_folder()
    helper.write(folder .. "/runs", "")
    local script = helper.write(folder .. "/tell", ([[#!/bin/sh
      printf x >>%s/runs
      n=$(cat %s/number)
      echo '{"Version":1,"AccessKeyId":"K'$n'","SecretAccessKey":"hush","SessionToken":"T'$n'"}']]):format(folder, folder))
    helper.run_ok("chmod +x " .. script)
    settings = { endpoint = server.settings.endpoint, region = "us-east-1", credential_process = script }
    server:control { faults = {}, put = { { bucket = "bucket", key = "k", text = "bytes" } } }
    expire()
  end)

  after_each(function() helper.remove(folder) end)

  local function store()
    return theaterref.content_store("release", { base_path = folder .. "/store", remote = "s3://bucket/renewal", s3 = settings,
      label_ttl = 0, request = { retries = 0 } })
  end

  it("are replaced by others in all that asks a bucket", function()
    local release = store()
    local hash = assert(release:store_at_label("x", "content"))
    assert.equal("content", tostring(assert(release:get_content_by_label "x")))
    local resolver = assert(theaterref.resolver { log = false, s3 = settings, home = folder .. "/home", retries = 0, cache = {} })
    for what, call in pairs {
      ["a fetch"] = function() return resolver:resolve "s3://bucket/k" end,
      ["a cached fetch"] = function() return (resolver:resolve_cached "s3://bucket/k") end,
      ["a copy"] = function() return resolver:copy("data:,x", "s3://bucket/written") end,
      ["a label"] = function() return release:get_by_label "x" end,
      ["content"] = function()
        os.remove(folder .. "/store/data/" .. hash)
        return release:get(hash)
      end,
      ["a list"] = function() return release:list_labels() end,
      ["a put"] = function() return release:put("other" .. number) end,
      ["a label's move"] = function() return release:store_at_label("x", "moved" .. number) end,
    } do
      expire()
      local before = runs()
      assert.truthy(call(), what)
      assert.equal(before + 1, runs(), what)
    end
  end)

  it("are refused for good if there are no others", function()
    local release = store()
    assert(release:put "content")
    expire(false)
    local before = runs()
    for _ = 1, 3 do
      local hash, err = release:get_by_label "none"
      assert.is_nil(hash)
      assert.equal("ExpiredToken", err.code)
    end
    assert.is_true(runs() <= before + 2)
    local _, err = theaterref.resolver { log = false, s3 = settings, home = folder .. "/home" }:resolve "s3://bucket/k"
    assert.matches("ExpiredToken", err.message)
  end)

  it("are replaced for all who wait for one fetch", function()
    local resolver = assert(theaterref.resolver { log = false, s3 = settings, home = folder .. "/home", retries = 0, cache = {} })
    assert(resolver:resolve "s3://bucket/k")
    expire()
    local futures = {}
    for i = 1, 4 do futures[i] = resolver:start("s3://bucket/k", { cached = true }) end
    for i = 1, 4 do assert.equal("bytes", tostring(assert(futures[i]:wait()))) end
  end)
end)

describe("credentials whose source fails", function()
  local folder, server, settings
  local clock = os.time

  setup(function() server = helper.s3_stub() end)
  teardown(function() server:stop() end)

  -- A program that hangs while there is the file "hang", and tells credentials for so many seconds.
  before_each(function()
    folder = helper.temporary_folder()
    helper.write(folder .. "/runs", "")
    helper.write(folder .. "/seconds", "250")
    local script = helper.write(folder .. "/tell", ([[#!/bin/sh
      printf x >>%s/runs
      while [ -e %s/hang ]; do sleep 0.05; done
      [ -e %s/fail ] && exit 1
      printf '{"Version":1,"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY","Expiration":"%%s"}' \
        $(date -u -d "+$(cat %s/seconds) seconds" +%%Y-%%m-%%dT%%H:%%M:%%SZ)]]):format(folder, folder, folder, folder))
    helper.run_ok("chmod +x " .. script)
    settings = { endpoint = server.settings.endpoint, region = "us-east-1", credential_process = script }
    server:control { faults = {}, down = false, put = { { bucket = "bucket", key = "failing/labels/x", text = ("a"):rep(40) },
      { bucket = "bucket", key = "k", text = "bytes" } } }
  end)

  after_each(function()
    os.time = clock -- luacheck: ignore
    os.remove(folder .. "/hang")
    helper.remove(folder)
  end)

  local function runs() return #helper.read(folder .. "/runs") end

  local function let_time_pass(seconds)
    os.time = function(...) return clock(...) + seconds end -- luacheck: ignore
  end

  local function store(s3, request, warnings)
    return theaterref.content_store("release", { base_path = folder .. "/store", remote = "s3://bucket/failing", label_ttl = 0,
      s3 = s3 or settings, request = request or { retries = 0 },
      on_warning = function(message) if warnings then warnings[#warnings + 1] = message end end })
  end

  -- Uses credentials that are to be replaced now, which fails.
  local function use_old(release)
    let_time_pass(200)
    local started = core.now()
    helper.eventually(function()
      assert(release:get_by_label "x")
      return runs() == 2
    end)
    for _ = 1, 3 do assert.equal(("a"):rep(40), (assert(release:get_by_label "x"))) end
    assert.is_true(core.now() - started < 5)
    assert.equal(2, runs())
  end

  it("are used while they are good, and their source is not asked all the time", function()
    local release = store()
    assert(release:get_by_label "x")
    helper.write(folder .. "/fail", "")
    use_old(release)
  end)

  it("are used without a pause while they are good, and replaced when the source answers", function()
    local release = store()
    assert(release:get_by_label "x")
    helper.write(folder .. "/hang", "")
    use_old(release)
    helper.write(folder .. "/seconds", "5000")
    os.remove(folder .. "/hang")
    let_time_pass(300)
    assert.equal(("a"):rep(40), (assert(release:get_by_label "x")))
    assert.equal(2, runs())
  end)

  it("are not asked for again and again if they are good for a short time", function()
    local release = store()
    for _ = 1, 3 do
      assert(release:get_by_label "x")
      let_time_pass(40)
    end
    assert.equal(1, runs())
  end)

  it("are no reason to forget a label", function()
    assert.equal(("a"):rep(40), store(server.settings):get_by_label "x")
    helper.write(folder .. "/hang", "")
    local warnings = {}
    local release = store(nil, { retries = 0, timeout = 0.3 }, warnings)
    local started = core.now()
    for _ = 1, 3 do assert.equal(("a"):rep(40), (assert(release:get_by_label "x"))) end
    assert.is_true(core.now() - started < 3)
    assert.matches("S3 credentials: credential_process of the configuration: no answer within 0.3 seconds", warnings[1], 1, true)
    local _, err = release:get(("b"):rep(40))
    assert.equal("timeout", err.kind)
  end)

  it("are waited for as long as 'timeout' says, and no failure for those who have more time", function()
    helper.write(folder .. "/hang", "")
    local function resolver(timeout)
      return assert(theaterref.resolver { log = false, s3 = settings, home = folder .. "/home", retries = 0, timeout = timeout })
    end
    local started = core.now()
    local _, err = resolver(0.2):resolve "s3://bucket/k"
    assert.equal("timeout", err.kind)
    assert.is_true(core.now() - started < 2)
    local patient = resolver():start "s3://bucket/k"
    os.remove(folder .. "/hang")
    assert.equal("bytes", tostring(assert(patient:wait(30))))
    assert.equal(1, runs())
  end)
end)
