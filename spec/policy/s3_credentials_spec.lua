-- Credentials for S3: where they come from, and who sees them.
local core = require "theaterref.core"
local helper = require "helper"

local ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
local JSON = ('{"Version":1,"AccessKeyId":"%s","SecretAccessKey":"%s"}'):format(ID, SECRET)

describe("S3 credentials", function()
  local folder, server, services

  -- Runs a command with a home of its own. Returns output, errors, status.
  local function run(environment, command)
    return helper.run(("cd %s && env -u AWS_PROFILE HOME=%s/home PATH=%s/bin:$PATH AWS_ENDPOINT_URL=http://%s AWS_REGION=us-east-1 "
      .. "AWS_EC2_METADATA_DISABLED=true %s %s"):format(folder, folder, folder, server.at, environment or "",
      command or "theaterref resolve s3://bucket/k"))
  end

  local function reads(environment, command)
    local out, err, status = run(environment, command)
    assert.equal(0, status, err)
    assert.equal("hello", out)
  end

  local function is_refused(words, environment)
    local out, err, status = run(environment)
    assert.equal(1, status, out)
    assert.matches(words, err, 1, true)
    assert.is_nil(err:find("hush", 1, true))
    assert.is_nil(err:find(SECRET, 1, true))
  end

  -- Writes a file in the home.
  local function home(path, text) helper.write(folder .. "/home/.aws/" .. path, text) end

  setup(function()
    folder, server, services = helper.temporary_folder(), helper.s3_stub(), helper.s3_credentials()
    helper.command(folder .. "/bin")
    server:control { put = { { bucket = "bucket", key = "k", text = "hello" } } }
  end)

  teardown(function()
    server:stop()
    services:stop()
    helper.remove(folder)
  end)

  before_each(function() helper.run_ok(("rm -rf %s/home && mkdir -p %s/home/.aws"):format(folder, folder)) end)

  local keys = ("AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s"):format(ID, SECRET)

  it("come from the environment", function()
    reads(keys)
    is_refused("403", "AWS_ACCESS_KEY_ID=" .. ID .. " AWS_SECRET_ACCESS_KEY=hush")
    is_refused("without the other half", "AWS_ACCESS_KEY_ID=" .. ID)
    is_refused "no credentials were sent"
  end)

  it("come from a profile in AWS's shared files, which may name region and endpoint", function()
    home("credentials", ("# comment\n[default]\naws_access_key_id = x\naws_secret_access_key=hush\n\n[ team ]\naws_access_key_id = %s\n"
      .. "aws_secret_access_key = %s\n"):format(ID, SECRET))
    reads "AWS_PROFILE=team"
    is_refused("InvalidAccessKeyId", "AWS_PROFILE=default")
    is_refused("there is no profile 'none'", "AWS_PROFILE=none")
    reads("AWS_PROFILE=team AWS_SHARED_CREDENTIALS_FILE=" .. folder .. "/home/.aws/credentials")
    home("config", ("[profile away]\nregion = us-east-1\nendpoint_url = http://%s\ns3 =\n  addressing_style = x\n"
      .. "aws_access_key_id = %s\naws_secret_access_key = %s\n"):format(server.at, ID, SECRET))
    reads "AWS_ENDPOINT_URL= AWS_REGION= AWS_PROFILE=away"
    reads("AWS_PROFILE=other AWS_CONFIG_FILE=" .. helper.write(folder .. "/home/other",
      ("[profile other]\naws_access_key_id = %s\naws_secret_access_key = %s\n"):format(ID, SECRET)))
  end)

  it("go to the endpoint that belongs to them, also when a profile changes both", function()
    local other = helper.s3_stub()
    other:control { accounts = { NEWKEY = { secret = "new-secret", token = "new-token" } },
      put = { { bucket = "bucket", key = "labels/x", text = ("b"):rep(40) } } }
    server:control { put = { { bucket = "bucket", key = "labels/x", text = ("a"):rep(40) } } }
    home("credentials", ("[moving]\nendpoint_url = http://%s\naws_access_key_id = %s\naws_secret_access_key = %s\n")
      :format(server.at, ID, SECRET))
    local script = helper.write(folder .. "/moving.lua", ([[
      local core = require "theaterref.core"
      local store = require "theaterref".content_store("release", { base_path = %q, remote = "s3://bucket", label_ttl = 0,
        request = { retries = 0 }, s3 = { profile = "moving" } })
      assert(store:get_by_label "x" == ("a"):rep(40))
      local file <close> = io.open(%q, "w")
      file:write("[moving]\nendpoint_url = http://%s\naws_access_key_id = NEWKEY\naws_secret_access_key = new-secret\n"
        .. "aws_session_token = new-token\n")
      file:flush()
      local till = core.now() + 20
      repeat core.timer(0.05):wait() until store:get_by_label "x" == ("b"):rep(40) or core.now() > till
      assert(store:get_by_label "x" == ("b"):rep(40))
      io.write "hello"]]):format(folder .. "/moving", folder .. "/home/.aws/credentials", other.at))
    reads("AWS_ENDPOINT_URL=", helper.lua .. " " .. script)
    other:stop()
  end)

  it("come from files of any form, in time in proportion to their length", function()
    local blanks = (" "):rep(200000)
    home("credentials", "[default]\naws_access_key_id = " .. ID .. blanks .. "# mine\naws_secret_access_key =" .. blanks .. SECRET .. blanks
      .. "\nregion = a" .. blanks .. "b\n[" .. blanks .. "\n")
    local started = core.now()
    reads()
    assert.is_true(core.now() - started < 5 * helper.slowness)
  end)

  it("come from a program, whose words no shell expands", function()
    helper.write(folder .. "/bin/tell", "#!/bin/sh\n[ \"$*\" = 'a b $HOME `x` ; *' ] && echo '" .. JSON .. "'\n")
    helper.run_ok("chmod +x " .. folder .. "/bin/tell")
    home("config", [==[
[default]
credential_process = tell "a b" '$HOME' \`x\` ";" *
]==])
    reads()
    home("config", "[default]\ncredential_process = tell hush\n")
    is_refused "S3 credentials: credential_process of the profile 'default' in"
    home("config", "[default]\ncredential_process = echo hush\n")
    is_refused "printed no credentials"
    home("config", "[default]\ncredential_process = 'tell\n")
    is_refused "a quote without an end"
  end)

  it("come from the metadata of a machine, with a token", function()
    local instance = "AWS_EC2_METADATA_DISABLED=false AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" .. services.at
    reads(instance)
    assert.equal("PUT /latest/api/token\nGET /latest/meta-data/iam/security-credentials/\n"
      .. "GET /latest/meta-data/iam/security-credentials/worker\n", helper.read(services.folder .. "/log"))
    is_refused("S3 credentials: instance metadata: ",
      "AWS_EC2_METADATA_DISABLED=false AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1")
  end)

  it("are not waited for longer than a second where there is no such service", function()
    services:control "slow"
    local started = core.now()
    is_refused("instance metadata", "AWS_EC2_METADATA_DISABLED=false AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" .. services.at)
    assert.is_true(core.now() - started < 5)
    services:control(nil)
  end)

  it("come from the service of a container, and a token in a file", function()
    local url = "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" .. services.at .. "/container"
    reads(url .. " AWS_CONTAINER_AUTHORIZATION_TOKEN=let-me-in")
    helper.write(folder .. "/token", "let-me-in\n")
    reads(url .. " AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" .. folder .. "/token")
    is_refused("answered 403", url)
    is_refused("AWS_CONTAINER_AUTHORIZATION_TOKEN has a control character in it", url
      .. " AWS_CONTAINER_AUTHORIZATION_TOKEN='let-me-in\nX: y'")
    is_refused("plain http at another host", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://example.org/container")
    is_refused("plain http at another host", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1.example.org/container")
  end)

  it("come from a pod's token", function()
    helper.write(folder .. "/token", "pod-token\n")
    local pod = ("AWS_ENDPOINT_URL_STS=http://%s AWS_WEB_IDENTITY_TOKEN_FILE=%s/token AWS_ROLE_ARN="):format(services.at, folder)
    reads(pod .. "arn:aws:iam::1:role/worker")
    is_refused("answered 403", pod .. "arn:aws:iam::1:role/other")
  end)

  it("are asked for once, and again before they expire", function()
    local script = helper.write(folder .. "/many.lua", ([[
      local theaterref = require "theaterref"
      local resolver = assert(theaterref.resolver { log = false })
      local futures = {}
      for i = 1, 4 do futures[i] = resolver:start "s3://bucket/k" end
      for i = 1, 4 do assert(futures[i]:wait()) end
      assert(resolver:resolve "s3://bucket/k")
      io.write "hello"
    ]]))
    local function asked(seconds)
      helper.write(services.folder .. "/seconds", seconds)
      helper.write(services.folder .. "/log", "")
      reads("AWS_EC2_METADATA_DISABLED=false AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" .. services.at, helper.lua .. " " .. script)
      return select(2, helper.read(services.folder .. "/log"):gsub("\n", ""))
    end
    assert.equal(3, asked "3600")
    assert.is_true(asked "200" >= 3)
    os.remove(services.folder .. "/seconds")
  end)

  it("that cannot be got are no reason to forget a label, and do not mean that something is absent", function()
    server:control { put = { { bucket = "bucket", key = "kept/labels/x", text = ("a"):rep(40) } } }
    local script = helper.write(folder .. "/kept.lua", ([[
      local store = require "theaterref".content_store("release", { base_path = %q, remote = "s3://bucket/kept", label_ttl = 0,
        request = { retries = 0 } })
      for _ = 1, 2 do
        assert(store:get_by_label "x" == ("a"):rep(40))
        assert(store:label_exists "x")
        if arg[1] then
          for _, call in ipairs { "exists", "get", "history", "list_labels", "remove_label" } do
            local result, err = store[call](store, call == "exists" and ("b"):rep(40) or call == "get" and ("b"):rep(40) or "x")
            assert(result == nil and err.kind ~= "not_found", call)
          end
        end
      end
      io.write "hello"]]):format(folder .. "/kept"))
    reads(keys, helper.lua .. " " .. script)
    local container = "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" .. services.at
    for _, environment in ipairs { container .. "/nothing", container .. "/500", container .. "/404",
                                   "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1",
                                   container .. "/container AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" .. folder .. "/none",
                                   "AWS_ROLE_ARN=x AWS_WEB_IDENTITY_TOKEN_FILE=" .. folder .. "/none" } do
      reads(environment, helper.lua .. " " .. script .. " fails")
    end
  end)

  it("are asked for once by all Lua states of a process", function()
    helper.write(services.folder .. "/log", "")
    local script = helper.write(folder .. "/states.lua", [[
      local threads = require "threads"
      local code = 'local r = require("theaterref").resolver { log = false } return function() assert(r:resolve "s3://bucket/k") end'
      threads.run(1, code)
      threads.run(2, code)
      io.write "hello"
    ]])
    reads("AWS_EC2_METADATA_DISABLED=false AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" .. services.at, helper.lua .. " " .. script)
    assert.equal(3, (select(2, helper.read(services.folder .. "/log"):gsub("\n", ""))))
  end)

  it("of a bucket replace those of all as a whole", function()
    local config = helper.write(folder .. "/c.lua", ([[
      return { s3 = { access_key_id = "other", secret_access_key = "hush", session_token = "hush", buckets = {
        bucket = { access_key_id = %q, secret_access_key = %q } } } }]]):format(ID, SECRET))
    reads("THEATERREF_CONFIG=" .. config)
    local shown = helper.run_ok(("cd %s && THEATERREF_CONFIG=%s bin/theaterref config"):format(folder, config))
    assert.is_nil(shown:find("hush", 1, true))
    assert.is_nil(shown:find(SECRET, 1, true))
  end)

  it("appear in no event, log line or trace", function()
    local out, err = run(keys .. " THEATERREF_LOG=debug", "theaterref explain s3://bucket/k --json")
    assert.matches("credentials from the environment", out, 1, true)
    assert.is_nil((out .. err):find(SECRET, 1, true))
  end)
end)
