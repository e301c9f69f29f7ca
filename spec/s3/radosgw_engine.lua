-- S3 on a real engine, Ceph's gateway, and the same objects by other tools. `make test-s3` runs this, or
-- against the engine whose endpoint, access key and secret are the lines of the file THEATERREF_S3 names.
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

local hostile_keys = { "+ = @ : ( ) ' ! & , ; $ \u{E9} % space", "a//b", "q?x=1&y=2#z", "%2e%2e/%41", "...", "\u{1F600}/\u{65E5}",
  "<>[]{}|\\^`\"~*", "-._~/end/" }

describe("an engine of S3", function()
  local folder, settings, environment, started, has_conditions

  local function open(bucket, changes)
    local all = {}
    for name, value in pairs(settings) do all[name] = value end
    for name, value in pairs(changes or {}) do all[name] = value end
    return assert(Client.open(bucket or "spec-bucket", { settings = all, defaults = {}, await = function(f) return f:wait() end }))
  end

  local function resolver(more)
    local options = { log = false, s3 = settings, home = folder }
    for name, value in pairs(more or {}) do options[name] = value end
    return assert(theaterref.resolver(options))
  end

  local function aws(arguments) return helper.run_ok(environment .. " /usr/bin/aws --endpoint-url " .. settings.endpoint .. " " .. arguments) end

  local function rclone(arguments)
    return helper.run_ok(environment .. (" rclone --config %s/rclone.conf %s"):format(folder, arguments))
  end

  setup(function()
    folder = helper.temporary_folder()
    local file = os.getenv "THEATERREF_S3"
    if not file then
      started = folder .. "/engine"
      helper.run_ok(("%s/spec/s3/radosgw.sh start %s %d"):format(helper.root, started, 20000 + math.random(500) * 21))
      file = started .. "/settings"
    end
    local endpoint, id, secret = helper.read(file):match "^(%S+)%s+(%S+)%s+(%S+)"
    settings = { endpoint = endpoint, access_key_id = id, secret_access_key = secret, region = "us-east-1" }
    environment = ("env -u AWS_CA_BUNDLE HOME=%s AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_DEFAULT_REGION=us-east-1"):format(
      folder, id, secret)
    helper.write(folder .. "/rclone.conf", ("[spec]\ntype = s3\nprovider = Ceph\nenv_auth = true\nendpoint = %s\n"):format(endpoint))
    aws "s3api create-bucket --bucket spec-bucket"
    local _, err = open():put("condition", core.blob "", { if_match = '"0"' })
    has_conditions = err.status ~= 501 -- Swift's
  end)

  teardown(function()
    aws "s3 rb --force s3://spec-bucket"
    if started then helper.run_ok(("%s/spec/s3/radosgw.sh stop %s"):format(helper.root, started)) end
    helper.remove(folder)
  end)

  it("gives other tools what is written here, under every key", function()
    local bucket = open()
    for _, key in ipairs(hostile_keys) do assert(bucket:put("ours/" .. key, core.blob(key), { metadata = { a = "b" } })) end
    for _, key in ipairs(hostile_keys) do
      local out = folder .. "/out"
      aws(("s3api get-object --bucket spec-bucket --key %s %s"):format(helper.quote("ours/" .. key), out))
      assert.equal(key, helper.read(out))
      assert.equal(key, tostring((assert(bucket:get("ours/" .. key)))))
    end
    local listed = {}
    assert.equal(hostile_keys[1], rclone("cat " .. helper.quote("spec:spec-bucket/ours/" .. hostile_keys[1])))
    for _, entry in ipairs(assert(bucket:list "ours/")) do listed[entry.key:sub(6)] = true end
    for _, key in ipairs(hostile_keys) do assert.is_true(listed[key], key) end
  end)

  it("gives us what other tools write", function()
    helper.write(folder .. "/in", "from elsewhere")
    for _, key in ipairs(hostile_keys) do
      aws(("s3api put-object --bucket spec-bucket --key %s --body %s/in"):format(helper.quote("theirs/" .. key), folder))
      assert.equal("from elsewhere", tostring((assert(open():get("theirs/" .. key)))))
    end
    rclone(("copyto %s/in %s"):format(folder, helper.quote "spec:spec-bucket/rclone/\u{E9} +&x"))
    assert.equal("from elsewhere", tostring((assert(resolver():resolve "s3://spec-bucket/rclone/\u{E9} +&x"))))
  end)

  it("gives us a folder that was synchronised, and the reverse", function()
    helper.run_ok(("mkdir -p %s/tree/a && printf 1 > %s/tree/a/one && printf 2 > %s/tree/two"):format(folder, folder, folder))
    aws(("s3 sync %s/tree s3://spec-bucket/tree"):format(folder))
    assert.equal("1", tostring((assert(resolver():resolve "s3://spec-bucket/tree/a/one"))))
    assert(resolver():copy("data:,3", "s3://spec-bucket/tree/three"))
    rclone(("sync spec:spec-bucket/tree %s/back"):format(folder))
    assert.equal("3", helper.read(folder .. "/back/three"))
  end)

  it("holds large objects", function()
    helper.run_ok(("head -c 67108864 /dev/urandom > %s/large"):format(folder))
    local written = assert(resolver():copy(folder .. "/large", "s3://spec-bucket/large"))
    assert.equal(64 << 20, written.bytes)
    aws(("s3 cp --quiet s3://spec-bucket/large %s/large.back"):format(folder))
    helper.run_ok(("cmp %s/large %s/large.back"):format(folder, folder))
    assert.equal(64 << 20, #assert(resolver():resolve(written.reference)))
    aws(("s3 cp --quiet %s/large s3://spec-bucket/large.parts"):format(folder)) -- in parts
    assert.equal(written.sha256, assert(resolver():resolve "s3://spec-bucket/large.parts"):digest())
  end)

  it("lists all of many keys", function()
    local bucket, keys = open(), {}
    for i = 1, 1005 do
      keys[i] = ("many/%04d"):format(i)
      assert(bucket:put(keys[i], core.blob "x"))
    end
    local count, token = 0, nil
    repeat
      local page
      page, token = assert(bucket:list("many/", { token = token }))
      count = count + #page
    until not token
    assert.equal(1005, count)
    assert.same({}, bucket:delete_many(table.move(keys, 1, 100, 1, {})))
    assert.equal(905, #assert(bucket:list "many/"))
  end)

  it("checks conditions, if it knows them, and signatures", function()
    local bucket = open()
    assert(bucket:put("condition", core.blob "1"))
    local _, refusal = bucket:put("condition", core.blob "2", { if_none_match = "*" })
    assert.equal(has_conditions and "conflict" or "http_status", refusal.kind)
    assert(bucket:refresh("condition", assert(bucket:head "condition")))
    local _, err = open(nil, { secret_access_key = "hush-hush" }):get "condition"
    assert.equal("denied SignatureDoesNotMatch", ("%s %s"):format(err.kind, err.code))
    assert.is_nil(err.message:find("hush", 1, true))
    _, err = open(nil, { access_key_id = "AKIDOTHER" }):put("condition", core.blob "x")
    assert.equal("denied " .. (has_conditions and "InvalidAccessKeyId" or "SignatureDoesNotMatch"), ("%s %s"):format(err.kind, err.code))
    assert.equal("denied", select(2, open(nil, { access_key_id = "AKIDOTHER" }):head "condition").kind)
  end)

  it("tells of objects and buckets that are gone", function()
    aws "s3api create-bucket --bucket short-lived"
    local bucket = open "short-lived"
    assert(bucket:put("k", core.blob "x"))
    assert(bucket:delete "k")
    assert.equal("NoSuchKey", select(2, bucket:get "k").code)
    aws "s3api delete-bucket --bucket short-lived"
    assert.equal("NoSuchBucket", select(2, bucket:get "k").code)
    assert.equal("NoSuchBucket", select(2, bucket:put("k", core.blob "x")).code)
    assert.equal("NoSuchBucket", select(2, bucket:list "").code)
  end)

  it("keeps versions", function()
    if not has_conditions then pending "Swift keeps none" return end
    aws "s3api create-bucket --bucket version-bucket"
    aws "s3api put-bucket-versioning --bucket version-bucket --versioning-configuration Status=Enabled"
    local first = assert(resolver():copy("data:,1", "s3://version-bucket/k"))
    assert(resolver():copy("data:,2", "s3://version-bucket/k"))
    assert.matches("?versionId=", first.reference, 1, true)
    assert.equal("1", tostring((assert(resolver():resolve(first.reference)))))
    assert.equal("2", tostring((assert(resolver():resolve "s3://version-bucket/k"))))
    local bucket = open "version-bucket"
    for _, id in ipairs { first.reference:match "versionId=([^#]*)", assert(bucket:head "k").version_id } do
      aws("s3api delete-object --bucket version-bucket --key k --version-id " .. id)
    end
    aws "s3api delete-bucket --bucket version-bucket"
  end)

  it("is used by the command, with the environment of AWS's tools", function()
    local command = ("%s AWS_ENDPOINT_URL=%s THEATERREF_CONFIG= %s %s/lua/bin/theaterref"):format(environment, settings.endpoint, helper.lua,
      helper.root)
    helper.run_ok(("%s copy %s s3://spec-bucket/by-command"):format(command, helper.write(folder .. "/file", "hello")))
    assert.equal("hello", helper.run_ok(command .. " resolve s3://spec-bucket/by-command"))
    assert.equal("hello", aws "s3 cp s3://spec-bucket/by-command -")
  end)

  describe("behind a remote store", function()
    local count = 0

    local function store(machine, remote)
      return assert(theaterref.content_store("release", { base_path = folder .. "/" .. machine, label_ttl = 0, s3 = settings,
        remote = remote or "s3://spec-bucket/remote" .. count }))
    end

    before_each(function() count = count + 1 end)

    it("moves labels by compare and set, or says that it cannot", function()
      local here, there = store("here" .. count), store("there" .. count)
      local one, two = here:store_at_label("a/b", "one"), there:put "two"
      if not has_conditions then
        local _, err = there:label("a/b", two, { expect = one })
        assert.equal("policy", err.kind)
        assert(there:label("a/b", two))
        assert.equal(two, here:get_by_label "a/b")
        return
      end
      assert.is_false(there:label("a/b", two, { expect = false }))
      assert.is_false(there:label("a/b", two, { expect = two }))
      assert.is_true(there:label("a/b", two, { expect = one }))
      assert.equal("two", tostring(here:get_content_by_label "a/b"))
      assert.same({ one }, here:history "a/b")
      assert.equal(one, (here:rollback "a/b"))
      local removed, err = here:remove_from_label("a/b", one)
      assert.is_true(removed or err.kind == "policy")
      here:remove_label "a/b"
      assert.is_nil(there:get_by_label "a/b")
      assert.equal(2, there:verify { remote = true }.checked)
      local report = there:gc { remote = true, grace = 0 }
      assert.equal(2, #report.deleted)
      assert.same({}, there:list_all_content())
    end)

    it("is filled by 'aws s3 sync', and fills a folder", function()
      local plain = theaterref.content_store("plain", { base_path = folder .. "/plain" })
      local hash = plain:store_at_label("a/b", "synchronised")
      local remote = "spec-bucket/sync" .. count
      aws(("s3 sync --quiet %s/plain s3://%s"):format(folder, remote))
      assert.equal("synchronised", tostring(store("front" .. count, "s3://" .. remote):get_content_by_label "a/b"))
      local moved = store("front" .. count, "s3://" .. remote):store_at_label("a/b", "moved")
      aws(("s3 sync --quiet s3://%s %s/back"):format(remote, folder))
      local back = theaterref.content_store("back", { base_path = folder .. "/back" })
      assert.equal(moved, back:get_by_label "a/b")
      assert.equal("synchronised", tostring(back:get(hash)))
      assert.same({}, back:verify().unexpected)
    end)

    it("loses no move of many processes", function()
      if not has_conditions then pending "there is no compare and set" return end
      local writers, moves = tonumber(os.getenv "THEATERREF_WRITERS") or 8, 5
      local commands = {}
      for i = 1, writers do
        commands[i] = ("AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s %s %s/spec/support/remote_counter.lua %s/machine%d s3://spec-bucket/remote%d %s %d >%s/out%d 2>&1 &")
          :format(settings.access_key_id, settings.secret_access_key, helper.lua, helper.root, folder, i % 2, count, settings.endpoint,
          moves, folder, i)
      end
      helper.run_ok(table.concat(commands, "\n") .. "\nwait")
      local done, unknown = 0, 0
      for i = 1, writers do
        local out = helper.read(("%s/out%d"):format(folder, i))
        local acknowledged, doubtful = out:match "^(%d+)%s+(%d+)\n$"
        assert.truthy(acknowledged, out)
        done, unknown = done + acknowledged, unknown + doubtful
      end
      local value = tonumber(tostring(store "machine0":get_content_by_label "count"))
      assert.is_true(value >= done and value <= done + unknown, ("%d, acknowledged %d, unknown %d"):format(value, done, unknown))
    end)
  end)
end)
