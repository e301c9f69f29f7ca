-- Credentials for S3 that a server refuses: others are asked for, and the request is sent once more.
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
