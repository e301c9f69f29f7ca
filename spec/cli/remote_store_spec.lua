-- 'theaterref store' and 'copy' on a remote store, by a configuration.
local helper = require "helper"
local json = require "cjson"

describe("theaterref store, of a remote store,", function()
  local s3, folder
  local count = 0

  setup(function() s3 = helper.s3_stub() end)
  teardown(function() s3:stop() end)

  before_each(function()
    folder = helper.temporary_folder()
    count = count + 1
    helper.write(folder .. "/conf.lua", ([[
      return { home = "home", retries = 0,
        s3 = { endpoint = %q, access_key_id = %q, secret_access_key = %q },
        stores = { release = { remote = "s3://bucket/cli%d", label_ttl = 0 } } }]]):format(s3.settings.endpoint,
      s3.settings.access_key_id, s3.settings.secret_access_key, count))
    s3:control { faults = {}, down = false }
    s3:log()
  end)

  after_each(function() helper.remove(folder) end)

  local function run(command)
    return helper.run(("cd %s && %s %s/lua/bin/theaterref %s %s"):format(folder, helper.lua, helper.root, command,
      command:find "%-%-config" and "" or "--config conf.lua"))
  end

  local function run_ok(command)
    local out, err, status = run(command)
    assert.equal(0, status, command .. ":\n" .. out .. err)
    return out
  end

  it("copies labels as they are in the bucket, whatever the machine knows of them", function()
    local conf = helper.read(folder .. "/conf.lua")
    helper.write(folder .. "/conf.lua", (conf:gsub("label_ttl = 0", "label_ttl = 60")))
    helper.write(folder .. "/other.lua", (conf:gsub([["home"]], [["other"]])))
    helper.write(folder .. "/one", "one")
    helper.write(folder .. "/two", "two")
    run_ok "store put release one --label staging"
    run_ok "store get release staging"
    run_ok "store put release two --label staging --config other.lua"
    run_ok "store label release prod --copy staging"
    assert.equal("two", run_ok "store get release prod --config other.lua")
  end)

  it("works as on a local one", function()
    helper.write(folder .. "/one", "one")
    helper.write(folder .. "/two", "two")
    local one = run_ok "store put release one --label app/x":match "%x+"
    local two = run_ok "store put release two":match "%x+"
    assert.equal("", run_ok(("store label release app/x %s --expect %s"):format(two, one)))
    local _, err, status = run(("store label release app/x %s --expect %s"):format(two, one))
    assert.equal(1, status)
    assert.matches("label app/x is not at " .. one .. " but at " .. two, err, 1, true)
    assert.equal("two", run_ok "store get release app/x")
    assert.equal(two .. "\n", run_ok "store label release app/x")
    assert.equal(one .. "\n", run_ok "store history release app/x")
    run_ok "store rollback release app/x"
    assert.equal("one", run_ok "resolve store://release/app/x")
    assert.equal(one .. "  app/x\n", run_ok "store labels release")
    assert.matches(one, run_ok "store ls release")
    assert.equal(6, json.decode(run_ok "store usage release --json").bytes)
    run_ok "store export release all.tar"
    assert.matches("3 imported", run_ok "store import release all.tar")
    assert.matches("2 sound", run_ok "store verify release --remote")
    assert.matches("2 sound", run_ok "store verify release")
    run_ok "copy two store://release/app/y"
    assert.equal("two", run_ok "store get release app/y")
    run_ok "store unlabel release app/x"
    assert.equal(two .. "  app/y\n", run_ok "store labels release")
  end)

  it("collects garbage in the folder or, with --remote, in the bucket", function()
    helper.write(folder .. "/one", "one")
    local one = run_ok "store put release one":match "%x+"
    assert.matches("no content deleted", run_ok "store gc release --remote")
    assert.matches("1 put or labelled within 86400 s", run_ok "store gc release --remote")
    assert.matches("would delete +" .. one, run_ok "store gc release --remote --grace 0 --dry-run")
    assert.matches("deleted +" .. one, run_ok "store gc release --grace 0")
    assert.equal("one", run_ok("store get release " .. one))
    assert.matches("deleted +" .. one, run_ok "store gc release --remote --grace 0")
    assert.equal("", run_ok "store ls release")
  end)

  it("says that a local store has no bucket", function()
    helper.write(folder .. "/one", "one")
    run("store put local one")
    local _, err, status = run "store gc local --remote"
    assert.equal(1, status)
    assert.matches("this store has no bucket", err)
  end)

  it("warns when the bucket cannot be reached", function()
    helper.write(folder .. "/one", "one")
    run_ok "store put release one --label x"
    run_ok "store get release x"
    s3:control { down = true }
    local out, err = run "store get release x"
    assert.equal("one", out)
    assert.matches("^theaterref: warn: store://release: s3://.* cannot be reached, so label x counts as it was", err)
    assert.equal("", (select(2, run "store get release x --quiet")))
    assert.is_nil((out .. err):find(s3.settings.secret_access_key, 1, true))
  end)

  it("refuses wrong bytes of the bucket, and names them once", function()
    helper.write(folder .. "/one", "one")
    local one = run_ok "store put release one":match "%x+"
    helper.run_ok("rm -r " .. folder .. "/home")
    s3:control { put = { { bucket = "bucket", key = ("cli%d/data/%s"):format(count, one), text = "two" } } }
    local _, err, status = run("store get release " .. one)
    assert.equal(1, status)
    assert.matches(("^theaterref: warn: store://release: content %s in s3://[^\n]* is corrupt, and was refused\n"
      .. "theaterref: the bucket has other bytes than those of content %s [^\n]*\n$"):format(one, one), err)
  end)

  it("shows its place, and no secret, in the configuration", function()
    local shown = run_ok "config"
    assert.matches("s3://bucket/cli" .. count, shown, 1, true)
    assert.is_nil(shown:find(s3.settings.secret_access_key, 1, true))
  end)
end)
