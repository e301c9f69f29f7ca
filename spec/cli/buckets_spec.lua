-- The command on remote stores and buckets: 'doctor', 'config' and 'explain'.
local helper = require "helper"
local json = require "cjson"

describe("about buckets, the command", function()
  local s3, folder
  local count = 0

  setup(function() s3 = helper.s3_stub() end)
  teardown(function() s3:stop() end)

  before_each(function()
    folder = helper.temporary_folder()
    count = count + 1
    s3:control { faults = {}, down = false, clock = 0, engine = { if_match = "both", delete_if_match = "both", loser = 412 } }
    s3:log()
  end)

  after_each(function() helper.remove(folder) end)

  -- Writes a configuration. 'changes' replace settings of `s3`.
  local function configure(stores, changes)
    local settings = {}
    for name, value in pairs(s3.settings) do settings[name] = value end
    for name, value in pairs(changes or {}) do settings[name] = value end
    local text = {}
    for name, value in pairs(settings) do text[#text + 1] = ("%s = %s"):format(name, type(value) == "table" and value[1] or ("%q"):format(value)) end
    helper.write(folder .. "/conf.lua", ('return { home = "home", retries = 0, s3 = { %s }, stores = { %s } }'):format(
      table.concat(text, ", "), stores or ""))
  end

  local function store(bucket) return ('release = { remote = "s3://%s/buckets%d" }'):format(bucket or "bucket", count) end

  local function run(command)
    return helper.run(("cd %s && AWS_EC2_METADATA_DISABLED=true %s %s/lua/bin/theaterref %s --config conf.lua"):format(
      folder, helper.lua, helper.root, command))
  end

  -- The lines of the doctor about buckets, as one text, its status, and everything that it printed.
  local function doctor()
    local out, err, status = run "doctor"
    local lines = {}
    for line in out:gmatch "(%a+ +S3 [^\n]*)\n" do lines[#lines + 1] = line end
    assert.is_nil((out .. err):find(s3.settings.secret_access_key, 1, true))
    return table.concat(lines, "\n"), status
  end

  it("checks a remote store by reading only", function()
    configure(store())
    local text, status = doctor()
    assert.equal(0, status, text)
    assert.matches(("^ok    S3            store://release in s3://bucket/buckets%d: %s %%(us%%-east%%-1%%) answers "):format(count,
      s3.settings.endpoint:gsub("%p", "%%%0")), text)
    assert.matches("answers (credentials from the configuration); conditional writes are not tried out yet", text, 1, true)
    local requests = s3:log()
    assert.equal(1, #requests)
    assert.matches("^GET /bucket/%?.* 200", requests[1])
    assert.is_false(helper.exists(folder .. "/home"))
  end)

  it("tells what was found out about conditional requests", function()
    s3:control { engine = { if_match = "both", delete_if_match = "ignored", loser = 412 } }
    configure(store())
    helper.write(folder .. "/x", "x")
    helper.run_ok(("cd %s && %s %s/lua/bin/theaterref store put release x --label x --config conf.lua"):format(folder, helper.lua, helper.root))
    assert.matches("conditional writes work, conditional deletes do not work (tried out ", (doctor()), 1, true)
    s3:log()
    doctor()
    assert.equal(1, #s3:log())
  end)

  it("finds a wrong secret, an unknown key, a missing bucket and a server that is down", function()
    local function fails(pattern, stores, changes)
      configure(stores or store(), changes)
      local text, status = doctor()
      assert.equal(1, status, text)
      assert.matches("^FAIL  S3            store://release in s3://", text)
      assert.matches(pattern, text)
    end
    fails("the secret access key is wrong, .*; the credentials are from the configuration$", nil, { secret_access_key = "other" })
    fails("the access key is unknown to this endpoint", nil, { access_key_id = "NOBODY" })
    fails("there is no such bucket at this endpoint: create it, or correct its name$", store "absent")
    fails("127.0.0.1:1/bucket/%?…: Failed to connect .*; is the endpoint right", nil, { endpoint = "http://127.0.0.1:1" })
    fails("speaks plain http; to allow it, set plain_http = true", nil, { endpoint = "http://s3.example.org" })
    s3:control { down = true }
    fails("Empty reply from server", nil)
  end)

  it("finds a clock that is wrong, although requests work", function()
    s3:control { clock = 7200 }
    configure(store())
    local text, status = doctor()
    assert.equal(1, status)
    assert.matches("this machine's clock is 7%d%d%d s behind that of 127.0.0.1", text)
    s3:control { clock = 0 }
    assert.equal(0, select(2, doctor()))
  end)

  it("does not wait for a server that is silent", function()
    s3:control { faults = { { ["do"] = "slow", seconds = 60 } } }
    configure(store())
    local began = os.time()
    local text, status = doctor()
    assert.equal(1, status)
    assert.matches("not done within 5 seconds .*; is the endpoint right, and is the server up%?$", text)
    assert.is_true(os.time() - began < 25)
  end)

  it("checks the buckets of 's3', or else the endpoint itself", function()
    configure(nil, { buckets = { '{ bucket = {}, absent = { anonymous = true } }' } })
    local text, status = doctor()
    assert.equal(0, status)
    assert.matches("^ok    S3            s3://absent: .* refuses a list %(without credentials: anonymous = true%).*\nok    S3            s3://bucket: http", text)
    configure()
    text, status = doctor()
    assert.equal(1, status) -- the stub knows no list of buckets
    assert.matches("^FAIL  S3            endpoint: listing buckets failed: status ", text)
    s3:control { faults = { { ["do"] = "status", status = 403, code = "AccessDenied" } } }
    text, status = doctor()
    assert.equal(0, status)
    assert.matches("answers, but refuses a list %(credentials from the configuration%): to check that objects can be read", text)
    helper.write(folder .. "/conf.lua", "return {}")
    assert.matches("no remote store and no bucket is configured", (doctor()))
  end)

  it("reads an object that --url names", function()
    configure()
    s3:control { put = { { bucket = "bucket", key = "k", text = "hello" } } }
    assert.matches("ok    network       s3://bucket/k answers, 5 bytes", (run "doctor --url s3://bucket/k"))
  end)

  it("shows where buckets are, and whose credentials they are asked with", function()
    configure(store(), { buckets = { '{ public = { anonymous = true, region = "eu-west-1" } }' } })
    local out = run "config"
    assert.matches(("\n-- store://release: s3://bucket/buckets%d at %s, region us-east-1, credentials from the configuration\n"):format(
      count, s3.settings.endpoint), out, 1, true)
    assert.matches(("-- s3://public: %s, region eu-west-1, without credentials: anonymous = true\n"):format(s3.settings.endpoint), out, 1, true)
    assert.is_nil(out:find(s3.settings.secret_access_key, 1, true))
    local shown = json.decode((run "config --json")).buckets
    assert.same({ name = "store://release", bucket = "bucket", remote = "s3://bucket/buckets" .. count, endpoint = s3.settings.endpoint,
      region = "us-east-1", credentials = "credentials from the configuration" }, shown[1])
    assert.equal(0, #s3:log())
  end)

  it("explains the place of a reference", function()
    configure(store())
    local label = run "explain store://release/app/x"
    assert.matches(("s3          store://release/app/x -> s3://bucket/buckets%d/labels/app/x, region us-east-1, "
      .. "credentials from the configuration   [%s]"):format(count, s3.settings.endpoint), label, 1, true)
    local hash = ("0"):rep(40)
    assert.matches(("-> s3://bucket/buckets%d/data/%s, "):format(count, hash), (run("explain store://release/hash/" .. hash)), 1, true)
    local object = run "explain s3://bucket/some/key"
    assert.matches(("s3://bucket/some/key -> region us-east-1, credentials from the configuration   [%s]"):format(s3.settings.endpoint),
      object, 1, true)
    for _, out in ipairs { label, object } do assert.is_nil(out:find(s3.settings.secret_access_key, 1, true)) end
  end)
end)
