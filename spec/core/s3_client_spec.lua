-- The client of S3, against a stub that checks signatures by an implementation of its own.
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"
local xml = require "theaterref.s3.xml"

describe("a bucket", function()
  local server

  local function open(changes, bucket, defaults)
    local settings = {}
    for name, value in pairs(server.settings) do settings[name] = value end
    for name, value in pairs(changes or {}) do settings[name] = value ~= "nil" and value or nil end
    return assert(Client.open(bucket or "bucket", { settings = settings, defaults = defaults or {},
      await = function(future) return future:wait() end }))
  end

  setup(function() server = helper.s3_stub() end)
  teardown(function() server:stop() end)
  before_each(function() server:control { faults = {}, clock = 0, without = { "none" } } end)

  it("writes, reads and deletes objects", function()
    local bucket = open()
    local head = assert(bucket:put("a/b", core.blob "hello", { metadata = { writer = "me" }, content_type = "text/plain" }))
    assert.equal('"5d41402abc4b2a76b9719d911017c592"', head.etag)
    local blob, known = bucket:get "a/b"
    assert.equal("hello", tostring(blob))
    for _, got in ipairs { known, (assert(bucket:head "a/b")) } do
      assert.equal(head.etag, got.etag)
      assert.equal(5, got.size)
      assert.same({ writer = "me" }, got.metadata)
      assert.is_true(math.abs(os.time() - got.modified) < 60)
    end
    assert.equal("hello", tostring(bucket:get("a/b", { sha256 = core.digest "hello" })))
    assert.equal("digest_mismatch", select(2, bucket:get("a/b", { sha256 = core.digest "other" })).kind)
    assert.equal("too_large", select(2, bucket:get("a/b", { max_bytes = 4 })).kind)
    assert.equal(0, assert(bucket:put("empty", core.blob "")).size)
    assert.equal("", tostring((assert(bucket:get "empty"))))
    assert.is_true(bucket:delete "empty")
    assert.is_true(bucket:delete "a/b")
    assert.is_true(bucket:delete "a/b")
    local _, err = bucket:get "a/b"
    assert.equal("not_found NoSuchKey 404", ("%s %s %d"):format(err.kind, err.code, err.status))
    assert.matches("reading a/b failed: status 404: NoSuchKey: The specified key does not exist.", err.message, 1, true)
    assert.equal("not_found", select(2, bucket:head "a/b").kind)
    assert.equal("NoSuchBucket", select(2, open(nil, "other-bucket"):get "a").code)
  end)

  it("keeps every byte of a key, in both styles", function()
    local keys = { "+ = @ : ( ) ' ! & , ; $ \u{E9} % space //x//", "/", "a?b=c&d#e", "%2e%2e/%41", "...", "a/.../.b/c.", "\u{1F600}",
      'q"<>\\^`{|}~[]*', "tab\tnewline\n", ("k"):rep(1024) }
    for _, style in ipairs { "path", "virtual" } do
      local bucket = open { style = style, endpoint = server.settings.endpoint:gsub("127.0.0.1", "localhost") }
      for _, key in ipairs(keys) do
        assert(bucket:put(key, core.blob(key)))
        assert.equal(key, tostring((assert(bucket:get(key)))))
      end
      local listed = {}
      for _, entry in ipairs(assert(bucket:list "")) do listed[entry.key] = true end
      for _, key in ipairs(keys) do assert.is_true(listed[key], key) end
      assert.same({}, bucket:delete_many(keys))
      assert.same({}, (bucket:list ""))
    end
  end)

  it("refuses keys that no URL can name before anything is sent", function()
    server:log()
    for _, key in ipairs { "", ".", "..", "a/../b", "./a", "a/.", "a\0b", ("k"):rep(1025) } do
      local _, err = open():get(key)
      assert.equal("invalid_reference", err.kind)
    end
    assert.same({}, server:log())
  end)

  it("writes under conditions", function()
    local bucket = open()
    local head = assert(bucket:put("w", core.blob "1", { if_none_match = "*" }))
    local _, err = bucket:put("w", core.blob "2", { if_none_match = "*" })
    assert.equal("conflict PreconditionFailed nil", ("%s %s %s"):format(err.kind, err.code, err.unknown))
    assert(bucket:put("w", core.blob "2", { if_match = head.etag }))
    assert.equal("conflict", select(2, bucket:put("w", core.blob "3", { if_match = head.etag })).kind)
    assert.equal("conflict", select(2, bucket:delete("w", { if_match = head.etag })).kind)
    assert.equal("2", tostring((bucket:get "w")))
  end)

  it("lists pages and prefixes", function()
    server:control { buckets = { ["list-bucket"] = { region = "us-east-1" } }, fill = { bucket = "list-bucket", prefix = "p/", count = 5, text = "x" } }
    local bucket = open(nil, "list-bucket")
    local names, token = {}, nil
    repeat
      local page
      page, token = bucket:list("p/", { max = 2, token = token })
      for _, entry in ipairs(page) do names[#names + 1] = entry.key end
    until not token
    assert.equal("p/00000 p/00001 p/00002 p/00003 p/00004", table.concat(names, " "))
    assert.same({ { prefix = "p/" } }, (bucket:list("", { delimiter = "/" })))
    assert.equal("p/00004", assert(bucket:list("p/", { after = "p/00003" }))[1].key)
  end)

  it("takes keys as they are where the server does not encode them", function()
    server:control { buckets = { ["plain-bucket"] = { region = "us-east-1" } },
      put = { { bucket = "plain-bucket", key = "v1.0+build%41/x", text = "x" } } }
    local bucket = open(nil, "plain-bucket")
    for _, without in ipairs { { "none" }, { "EncodingType" } } do
      server:control { without = without }
      assert.equal("v1.0+build%41/x", assert(bucket:list "")[1].key)
      assert.equal("v1.0+build%41/", assert(bucket:list("", { delimiter = "/" }))[1].prefix)
    end
  end)

  it("waits longer for the deletion of many than for others, as servers do", function()
    local bucket = open(nil, nil, { stall_timeout = 0.2, retries = 0 })
    server:control { put = { { bucket = "bucket", key = "slowly", text = "x" } },
      faults = { { ["do"] = "slow", seconds = 1, method = "POST" } } }
    assert.same({}, bucket:delete_many { "slowly" })
    assert.equal("not_found", select(2, bucket:head "slowly").kind)
  end)

  it("deletes many, and tells which are still there", function()
    local bucket = open()
    for _, key in ipairs { "m/1", "m/2&<>" } do assert(bucket:put(key, core.blob "x")) end
    server:control { faults = { { ["do"] = "keep", key = "m/1" } } }
    local failures = assert(bucket:delete_many { "m/1", "m/2&<>", "m/none" })
    assert.equal(1, #failures)
    assert.equal("m/1 AccessDenied", failures[1].key .. " " .. failures[1].err.code)
    assert.equal("m/1", assert(bucket:list "m/")[1].key)
  end)

  it("gives an object a new age, if it is the same", function()
    local bucket = open()
    assert(bucket:put("old", core.blob "x", { metadata = { a = "1" }, content_type = "text/plain" }))
    server:control { age = { bucket = "bucket", prefix = "old", seconds = 9000 } }
    local head = assert(bucket:head "old")
    assert.is_true(os.time() - head.modified > 8000)
    assert(bucket:refresh("old", head))
    local now = assert(bucket:head "old")
    assert.is_true(os.time() - now.modified < 1000)
    assert.same({ head.etag, { a = "1" }, "text/plain" }, { now.etag, now.metadata, now.content_type })
    assert(bucket:put("old", core.blob "y"))
    assert.equal("conflict", select(2, bucket:refresh("old", head)).kind)
  end)

  it("takes an error in an answer with status 200 for one", function()
    local bucket = open()
    local head = assert(bucket:put("e", core.blob "x"))
    for _, call in ipairs { function() return bucket:refresh("e", head) end, function() return bucket:put("e", core.blob "x") end,
                            function() return bucket:delete_many { "e" } end } do
      server:control { faults = { { ["do"] = "error_200" } } }
      local ok, err = call()
      assert.is_nil(ok)
      assert.equal("InternalError true", ("%s %s"):format(err.code, err.unknown))
    end
  end)

  it("repeats what was lost, but no write with a condition, whose outcome is unknown", function()
    local bucket = open(nil, nil, { retries = 2 })
    for _, how in ipairs { "drop_before", "drop_after" } do
      server:control { faults = { { ["do"] = how, method = "PUT" } } }
      assert(bucket:put("r", core.blob "x"))
      bucket:delete "r1"
      server:control { faults = { { ["do"] = how, method = "PUT" } } }
      server:log()
      local _, err = bucket:put("r1", core.blob "x", { if_none_match = "*" })
      assert.is_true(err.unknown)
      assert.equal(1, #server:log())
    end
    local nowhere = open({ endpoint = "http://127.0.0.1:1" }, nil, { retries = 0 })
    local _, err = nowhere:put("r1", core.blob "x", { if_none_match = "*" })
    assert.equal("network nil", ("%s %s"):format(err.kind, err.unknown)) -- it was never sent
  end)

  it("waits when it is told to slow down, also with conditions", function()
    local bucket = open(nil, nil, { retries = 2 })
    local slow = { ["do"] = "status", status = 503, code = "SlowDown" }
    for _, call in ipairs { function() return bucket:put("slow", core.blob "x", { if_none_match = "*" }) end,
                            function() return bucket:get "slow" end, function() return bucket:list "slow" end,
                            function() return bucket:delete "slow" end } do
      server:control { faults = { slow } }
      assert(call())
    end
    server:control { faults = { { ["do"] = "status", status = 503, code = "SlowDown", times = 9 } } }
    local _, err = bucket:put("slow", core.blob "x", { if_none_match = "*" })
    assert.equal("SlowDown nil", ("%s %s"):format(err.code, err.unknown))
    server:control { faults = { { ["do"] = "status", status = 500, code = "InternalError", times = 9 } } }
    _, err = bucket:put("slow", core.blob "x", { if_none_match = "*" })
    assert.equal("InternalError true", ("%s %s"):format(err.code, err.unknown))
  end)

  it("resumes a body that breaks off", function()
    local bucket, text = open(nil, nil, { retries = 2 }), ("0123456789"):rep(20000)
    assert(bucket:put("big", core.blob(text)))
    server:control { faults = { { ["do"] = "truncate", method = "GET" } } }
    server:log()
    assert.equal(text, tostring((bucket:get "big")))
    local log = server:log()
    assert.matches("range=bytes=%d+%-", log[2])
  end)

  it("takes the server's clock for its own, once", function()
    for _, ahead in ipairs { 86400, -86400, 0 } do
      server:control { clock = ahead }
      local bucket = open()
      server:log()
      if ahead > 0 then assert(bucket:put("t", core.blob "x")) else assert(bucket:head "t") end
      assert(bucket:get "t")
      assert.equal(3, #server:log())
    end
  end)

  it("signs for the region that the server tells, and remembers it", function()
    server:control { buckets = { ["far-bucket"] = { region = "eu-west-9" } }, put = { { bucket = "far-bucket", key = "k", text = "far" } } }
    server:log()
    assert.equal("far", tostring((assert(open(nil, "far-bucket"):get "k"))))
    assert(open(nil, "far-bucket"):put("k2", core.blob "x"))
    assert.equal(3, #server:log())
    server:control { buckets = { ["far-bucket-2"] = { region = "eu-west-9" } } }
    assert.equal("not_found", select(2, open(nil, "far-bucket-2"):head "k").kind) -- a HEAD has no body to tell it in
  end)

  it("sends no credentials and no body to another place", function()
    local other = helper.s3_stub()
    other:control { buckets = { moved = { region = "us-east-1", public = true } }, put = { { bucket = "moved", key = "k", text = "elsewhere" } } }
    server:control { buckets = { moved = { region = "us-east-1", redirect = "http://" .. other.at } } }
    local bucket = open(nil, "moved")
    assert.equal("elsewhere", tostring((assert(bucket:get "k")))) -- of the public, unsigned
    other:log()
    local _, err = bucket:put("k", core.blob "secret")
    assert.equal("denied", err.kind)
    assert.same({}, other:log())
    other:stop()
  end)

  it("tells why it was refused, and no secret", function()
    local cases = {
      { { secret_access_key = "hush-hush" }, "denied", "SignatureDoesNotMatch", "secret access key is wrong" },
      { { access_key_id = "AKIDOTHER" }, "denied", "InvalidAccessKeyId", "unknown to this endpoint" },
      { { session_token = "hush-hush" }, "http_status", "InvalidToken", "InvalidToken" },
      { { access_key_id = "nil", secret_access_key = "nil", anonymous = true }, "denied", "AccessDenied", "AccessDenied" },
    }
    for _, case in ipairs(cases) do
      for _, read in ipairs { "get", "list" } do
        local _, err = open(case[1])[read](open(case[1]), "x")
        assert.equal(case[2] .. " " .. case[3], ("%s %s"):format(err.kind, err.code))
        assert.matches(case[4], err.message, 1, true)
        assert.is_nil(err.message:find("hush", 1, true))
      end
    end
    server:control { put = { { bucket = "bucket", key = "cold", text = "x", archived = true } } }
    local _, err = open():get "cold"
    assert.equal("http_status InvalidObjectState", ("%s %s"):format(err.kind, err.code))
    assert.matches("restore it first", err.message)
  end)

  it("shows no secret that the server repeats", function()
    local token = "IQoJb3JpZ2luX2VjEXAMPLETOKEN" .. ("xy"):rep(10)
    local function with_entities(secret) return (secret:gsub(".", function(c) return ("&#%d;"):format(c:byte()) end)) end
    server:control { accounts = { AKIDSESSION = { secret = "hush-hush-hush", token = token } } }
    local keys = { access_key_id = "AKIDSESSION", secret_access_key = "hush-hush-hush", session_token = token }
    local bucket = open(keys)
    keys.endpoint = server.settings.endpoint
    local resolver = theaterref.resolver { log = false, s3 = keys }
    for _, read in ipairs { function() return bucket:get "x" end, function() return bucket:list "x" end,
                            function() return bucket:put("x", core.blob "x") end,
                            function() return resolver:resolve "s3://bucket/x" end } do
      for _, told in ipairs { "the token " .. token .. " is odd", ("x"):rep(240) .. token, ("x"):rep(290) .. token,
                              "the key hush-hush-hush is odd", "it ends with " .. token:sub(5), "is it hush-hush" } do
        server:control { faults = { { ["do"] = "status", status = 400, code = "InvalidRequest", message = told } } }
        local _, err = read()
        assert.matches("InvalidRequest", err.message)
        assert.is_nil(err.message:find("oJb3", 1, true) or err.message:find "hush" or err.message:find "2luX")
      end
      for _, raw in ipairs { "<Code>" .. token .. "</Code><Message>m</Message>", "<Code>A</Code><Message>" .. with_entities(token)
                             .. "</Message>", "<Code>" .. token:sub(5) .. "</Code>" } do
        server:control { faults = { { ["do"] = "status", status = 400, raw = "<Error>" .. raw .. "</Error>" } } }
        local _, err = read()
        assert.matches("400", err.message, 1, true)
        assert.is_nil(err.message:find("2luX", 1, true) or err.message:find("&#", 1, true), err.message)
        assert.is_nil((err.code or ""):find("2luX", 1, true))
      end
    end
    server:control { faults = { { ["do"] = "keep", key = "kept", code = token, message = "it is " .. token:sub(5) } },
      put = { { bucket = "bucket", key = "kept", text = "x" } } }
    local failure = assert(bucket:delete_many { "kept" })[1]
    assert.is_nil((failure.err.message .. (failure.err.code or "")):find("2luX", 1, true))
  end)

  it("shows the beginning of what a server says", function()
    server:control { faults = { { ["do"] = "status", status = 400, code = ("x"):rep(100000), message = ("y"):rep(100000) } } }
    local _, err = open():list "x"
    assert.is_true(#err.message < 1000)
    assert.is_nil(err.code)
  end)

  it("signs as many headers as there are", function()
    local headers = {}
    for i = 1, 80 do headers["x-amz-meta-h" .. i] = "v" .. i end
    local bucket = open(nil, nil, { headers = headers })
    assert(bucket:put("many-headers", core.blob "x"))
    assert.equal("v80", assert(bucket:head "many-headers").metadata.h80)
  end)

  it("fails in time when the server does not answer", function()
    local bucket = open(nil, nil, { stall_timeout = 0.2, retries = 0 })
    server:control { faults = { { ["do"] = "slow", seconds = 2 } } }
    local started = core.now()
    local _, err = bucket:put("k", core.blob "x")
    assert.equal("timeout true", ("%s %s"):format(err.kind, err.unknown))
    assert.is_true(core.now() - started < 1.5)
  end)
end)

describe("the place of a bucket", function()
  local places = require "theaterref.s3.place"

  it("is Amazon's, in the host, or an endpoint's, in the path", function()
    local function url(settings, bucket) return (assert(places.find(settings, bucket or "my-bucket"))).url end
    assert.equal("https://my-bucket.s3.eu-west-1.amazonaws.com/", url { region = "eu-west-1" })
    assert.equal("https://s3.eu-west-1.amazonaws.com/my.bucket/", url({ region = "eu-west-1" }, "my.bucket"))
    assert.equal("https://my-bucket.s3.cn-north-1.amazonaws.com.cn/", url { region = "cn-north-1" })
    assert.equal("https://s3.example.org:9000/my-bucket/", url { endpoint = "https://s3.example.org:9000/" })
    assert.equal("https://my-bucket.s3.example.org/", url { endpoint = "https://s3.example.org", style = "virtual" })
    assert.equal("http://127.0.0.1:9/my-bucket/", url { endpoint = "http://127.0.0.1:9" })
    assert.equal("http://s3.test/my-bucket/", url { endpoint = "http://s3.test", plain_http = true })
    assert.equal("https://b.test/my-bucket/", url { endpoint = "https://a.test", buckets = { ["my-bucket"] = { endpoint = "https://b.test" } } })
  end)

  it("is refused if it is plain http, no origin, or in no region", function()
    for _, settings in ipairs { { endpoint = "http://s3.example.org" }, { endpoint = "https://s3.example.org/path" },
                                { endpoint = "https://user:pw@s3.example.org" }, { endpoint = "s3.example.org" },
                                { region = "EU west" } } do
      local place, err = places.find(settings, "my-bucket")
      assert.is_nil(place)
      assert.equal("policy", err.kind)
      assert.is_nil(err.message:find("pw", 1, true))
    end
  end)
end)

describe("XML of answers", function()
  it("is read with its entities, attributes and empty elements", function()
    local root = xml.parse '<?xml version="1.0"?><!-- c --><A xmlns="x"><B>1 &lt;&amp;&#65;&#x42;&quot;</B><C/><B>2</B></A>\n'
    assert.equal("A", root.name)
    assert.equal('1 <&AB"', xml.text(root, "B"))
    assert.equal("", xml.text(root, "C"))
    assert.is_nil(xml.text(root, "D"))
  end)

  it("is refused if it is none, or tries to expand", function()
    for _, text in ipairs { "", "text", "<A>", "<A></B>", "</A>", "<A/><B/>", "<!DOCTYPE a [<!ENTITY x 'y'>]><A>&x;</A>", "<A", "<A><",
                            ("<a>"):rep(100) .. ("</a>"):rep(100), "<!-- ", "<? " } do
      assert.is_nil(xml.parse(text), text)
    end
  end)

  it("takes time in proportion to its length", function()
    local started = core.now()
    for _, text in ipairs { ("<a/>"):rep(300000), ("<"):rep(1000000), ("&"):rep(1000000), "<A>" .. ("&#"):rep(500000) .. "</A>",
                            ("<!--"):rep(250000), "<A " .. ("a"):rep(1000000), "<Error" .. ("a"):rep(1000000),
                            "<A" .. ("/"):rep(1000000), "<A>&" .. ("a"):rep(1000000) .. "</A>" } do
      xml.parse(text)
    end
    assert.is_true(core.now() - started < 5 * helper.slowness)
  end)
end)
