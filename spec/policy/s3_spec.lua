-- References to objects in S3: how they are read, allowed, cached, locked and written.
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

local reference = theaterref.reference

describe("an s3:// reference", function()
  local sha = ("ab"):rep(32)

  it("has a bucket and a literal key, and at its end a version and a digest", function()
    for text, parts in pairs {
      ["s3://my-bucket/a b/\u{E9}+%20?x=1&y#z"] = { "a b/\u{E9}+%20?x=1&y#z" },
      ["S3://my-bucket//x//"] = { "/x//" },
      ["s3://my-bucket/k?versionId=3/L4+r=.x"] = { "k", "3/L4+r=.x" },
      ["s3://my-bucket/k#sha256=" .. sha] = { "k", nil, sha },
      ["s3://my-bucket/k#x?versionId=1#sha256=" .. sha:upper()] = { "k#x", "1", sha },
      ["s3://my-bucket/k#sha256=/x"] = { "k#sha256=/x" },
      ["s3://my-bucket/k?versionid=1"] = { "k?versionid=1" },
      ["s3://my-bucket/..."] = { "..." },
      ["s3://my-bucket/" .. ("k"):rep(1024)] = { ("k"):rep(1024) },
    } do
      local parsed = assert(reference.parse(text))
      assert.same({ "my-bucket", parts[1], parts[2], parts[3] }, { parsed.bucket, parsed.key, parsed.version, parsed.sha256 })
      assert.same(parsed, reference.parse(parsed.text))
    end
  end)

  it("is refused where no URL could name its key, or something is malformed", function()
    for _, rest in ipairs { "", "my-bucket", "my-bucket/", "my-bucket/.", "my-bucket/a/../b", "my-bucket/./a", "my-bucket/a/..",
                            "My-Bucket/k", "ab/k", "a_b/k", "-ab/k", "a..b/k", "192.168.0.1/k", ("b"):rep(64) .. "/k",
                            "user:pw@my-bucket/k", "my-bucket/k#sha256=12", "my-bucket/k#sha1=" .. ("a"):rep(40),
                            "my-bucket/k?versionId=", "my-bucket/k?versionId=a b", "my-bucket/k#sha256=", "my-bucket/a\0b",
                            "my-bucket/" .. ("k"):rep(1025) } do
      local parsed, err = reference.parse("s3://" .. rest)
      assert.is_nil(parsed, rest)
      assert.equal("invalid_reference", err.kind)
      assert.is_nil(err.message:find("pw", 1, true))
    end
  end)

  it("is joined within its bucket", function()
    local base = "s3://my-bucket/a/b/m.toml?versionId=1"
    for relative, joined in pairs { ["x.wasm"] = "a/b/x.wasm", ["./x y"] = "a/b/x y", ["../x"] = "a/x", ["/x"] = "x", ["//x"] = "/x",
                                    ["x?versionId=2#sha256=" .. sha] = "a/b/x?versionId=2#sha256=" .. sha, ["c//d"] = "a/b/c//d" } do
      assert.equal("s3://my-bucket/" .. joined, reference.join(base, relative))
    end
    for _, relative in ipairs { "../../../x", "", "/", "../..", "x#sha256=1" } do assert.is_nil((reference.join(base, relative)), relative) end
    assert.equal("s3://other-bucket/x", reference.join(base, "s3://other-bucket/x"))
  end)
end)

describe("an object", function()
  local server, folder

  local function resolver(more, s3)
    local settings = {}
    for name, value in pairs(server.settings) do settings[name] = value end
    for name, value in pairs(s3 or {}) do settings[name] = value end
    local options = { log = false, s3 = settings, home = folder }
    for name, value in pairs(more or {}) do options[name] = value end
    return assert(theaterref.resolver(options))
  end

  local function put(key, text) server:control { put = { { bucket = "bucket", key = key, text = text } } } end

  setup(function() server, folder = helper.s3_stub(), helper.temporary_folder() end)
  teardown(function()
    server:stop()
    helper.remove(folder)
  end)
  before_each(function() server:control { faults = {} } end)

  it("is resolved, with its digest", function()
    put("k", "hello")
    assert.equal("hello", tostring((assert(resolver():resolve "s3://bucket/k"))))
    assert.is_truthy(resolver():resolve("s3://bucket/k#sha256=" .. core.digest "hello"))
    local _, err = resolver():resolve("s3://bucket/k#sha256=" .. core.digest "other")
    assert.equal("digest_mismatch", err.kind)
    _, err = resolver():resolve "s3://bucket/none"
    assert.equal("http_status 404", ("%s %s"):format(err.kind, err.status))
    assert.matches("404 Not Found (NoSuchKey: The specified key does not exist.)", err.message, 1, true)
    _, err = resolver():resolve("s3://bucket/k", { resolve_timeout = 1e-9 })
    assert.equal("timeout", err.kind)
  end)

  it("is taken as it is stored, whatever coding it has", function()
    local bytes = "\31\139no gzip at all"
    assert(resolver():copy(helper.write(folder .. "/coded", bytes), "s3://bucket/coded"))
    assert.equal(bytes, tostring((resolver():resolve "s3://bucket/coded")))
  end)

  it("is cached, and asked for with its ETag when it is stale", function()
    put("c", "1")
    local r = resolver { cache = theaterref.resource_cache { ttl = 0 } }
    assert(r:resolve_cached "s3://bucket/c")
    server:log()
    assert.equal("1", tostring((r:resolve_cached "s3://bucket/c")))
    assert.matches("^GET /bucket/c 304 .*if%-none%-match=", server:log()[1])
    put("c", "2")
    assert.equal("2", tostring((r:resolve_cached "s3://bucket/c")))
  end)

  it("shares cached bytes with the same credentials and endpoint only", function()
    put("s", "secret")
    local cache = theaterref.resource_cache()
    assert(resolver { cache = cache }:resolve_cached "s3://bucket/s")
    server:log()
    assert(resolver { cache = cache }:resolve_cached "s3://bucket/s")
    assert.same({}, server:log())
    local anonymous = assert(theaterref.resolver { log = false, cache = cache, s3 = { endpoint = server.settings.endpoint, anonymous = true } })
    local _, err = anonymous:resolve_cached "s3://bucket/s"
    assert.equal(403, err.status)
    assert.matches("no credentials were sent", err.message)
    local nowhere = resolver({ cache = cache, retries = 0 }, { endpoint = "http://127.0.0.1:1" })
    assert.equal("network", select(2, nowhere:resolve_cached "s3://bucket/s").kind)
  end)

  it("is followed by conditional requests", function()
    put("f", "one")
    local follower <close> = resolver():follow("s3://bucket/f", function() end, { interval = 0.05, jitter = 0 })
    assert.equal("one", tostring(assert(follower:wait(10))))
    server:log()
    assert.equal("timeout", select(2, follower:wait(0.3)).kind)
    for _, line in ipairs(server:log()) do assert.matches("bucket/f 304", line) end
    put("f", "two")
    assert.equal("two", tostring(assert(follower:wait(10))))
  end)

  it("is kept on disk if it needs no credentials, or if they have a name", function()
    server:control { buckets = { public = { region = "us-east-1", public = true } }, put = { { bucket = "public", key = "k", text = "open" } } }
    put("k", "hello")
    local function disk(name) return { cache = theaterref.resource_cache { disk = { base_path = folder .. "/" .. name } } } end
    for i, case in ipairs { { "s3://bucket/k" }, { "s3://bucket/k", { cache_scope = "team" } }, { "s3://public/k", { buckets = { public = { anonymous = true } } } } } do
      assert(resolver(disk("d" .. i), case[2]):resolve_cached(case[1]))
      server:log()
      assert(resolver(disk("d" .. i), case[2]):resolve_cached(case[1]))
      assert.equal(i == 1 and 1 or 0, #server:log())
    end
  end)

  it("is resolved offline from the cache, and nobody is asked for credentials", function()
    put("o", "hello")
    local cache = theaterref.resource_cache()
    local s3 = { endpoint = server.settings.endpoint, credential_process = ("sh -c 'touch %s/asked; echo %s'"):format(folder,
      [[{\"Version\":1,\"AccessKeyId\":\"AKIDEXAMPLE\",\"SecretAccessKey\":\"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\"}]]) }
    local online = assert(theaterref.resolver { log = false, cache = cache, s3 = s3 })
    assert.equal("hello", tostring((assert(online:resolve_cached "s3://bucket/o"))))
    assert.is_true(os.remove(folder .. "/asked"))
    local offline = assert(theaterref.resolver { log = false, cache = cache, s3 = s3, offline = "cache", home = folder })
    assert.equal("hello", tostring((assert(offline:resolve_cached "s3://bucket/o"))))
    local _, err = offline:resolve_cached "s3://bucket/o2"
    assert.matches("offline", err.message)
    assert.is_false(helper.exists(folder .. "/asked"))
  end)

  it("is allowed by its prefix or scheme, and not by hosts", function()
    put("team/k", "hello")
    local function refused(allow)
      local _, err = resolver { policy = { allow = allow } }:resolve "s3://bucket/team/k"
      return err and err.kind
    end
    local only = theaterref.policy.only
    assert.is_nil(refused(only { prefixes = { "s3://bucket/team/" } }))
    assert.is_nil(refused(only { schemes = { "s3" } }))
    assert.equal("denied", refused(only { prefixes = { "s3://bucket/other/" } }))
    assert.equal("denied", refused(only { schemes = { "https" } }))
    assert.equal("denied", refused(only { hosts = { "bucket", "127.0.0.1" } }))
  end)

  it("may be named by a manifest from the network, and names what is beside it", function()
    local wasm = helper.module "w"
    assert(resolver():copy(helper.write(folder .. "/w.wasm", wasm), "s3://bucket/actor/w.wasm"))
    put("actor/manifest.toml", 'name = "w"\npackage = "w.wasm"\n')
    put("actor/local.toml", 'name = "w"\npackage = "/../etc/passwd"\n')
    put("actor/file.toml", 'name = "w"\npackage = "file:///etc/passwd"\n')
    local plan = assert(resolver():plan "s3://bucket/actor/manifest.toml")
    assert.equal("s3://bucket/actor/w.wasm", plan.package_reference)
    assert.equal(wasm, tostring(plan.package))
    assert.equal("invalid_reference", select(2, resolver():plan "s3://bucket/actor/local.toml").kind)
    assert.equal("denied", select(2, resolver():plan "s3://bucket/actor/file.toml").kind)
  end)

  it("may not be named by a manifest that came by https, if its endpoint speaks plain http", function()
    local nginx = helper.nginx()
    assert(resolver():copy(helper.write(folder .. "/w.wasm", helper.module "w"), "s3://bucket/w.wasm"))
    local document = 'name = "w"\npackage = "s3://bucket/w.wasm"\n'
    nginx:put("m.toml", document)
    put("m.toml", document)
    put("release/labels/m.toml", core.digest(document, "sha1"))
    put("release/data/" .. core.digest(document, "sha1"), document)
    local function plan(from, policy)
      return resolver({ ca_file = nginx.ca, policy = policy, stores = { release = { remote = "s3://bucket/release" } } }):plan(from)
    end
    local made, err = plan(nginx.https .. "/m.toml")
    assert.is_nil(made)
    assert.equal("denied", err.kind)
    assert.matches("a manifest that came by https may not name plain http", tostring(err), 1, true)
    assert.truthy(plan(nginx.https .. "/m.toml", { allow = function() return true end }))
    for _, from in ipairs { nginx.http .. "/m.toml", "s3://bucket/m.toml", "store://release/m.toml" } do assert(plan(from)) end
    nginx:stop()
    local plain = { ["s3://a"] = true, ["store://x"] = true }
    local function allows(ref, origin)
      return (theaterref.policy.default.allow(ref, { purpose = "package", origin = origin, origin_is_remote = true, plain_http = plain }))
    end
    assert.is_false(allows("s3://a/k", "s3://b/k"))
    assert.is_false(allows("s3://a/k", "store://y/k"))
    assert.is_true(allows("s3://b/k", "s3://a/k") and allows("s3://a/k", "store://x/k") and allows("s3://b/k", "https://h/m"))
  end)

  it("is written by a copy, which returns what never changes", function()
    server:control { buckets = { versions = { region = "us-east-1", versioned = true } } }
    local r = resolver()
    local first = assert(r:copy("data:,1", "s3://versions/a b"))
    assert.matches("^s3://versions/a b%?versionId=v%d+#sha256=" .. core.digest "1" .. "$", first.reference)
    assert(r:copy("data:,2", "s3://versions/a b"))
    assert.equal("1", tostring((assert(r:resolve(first.reference)))))
    assert.equal("2", tostring((assert(r:resolve "s3://versions/a b"))))
    assert.equal("s3://bucket/k#sha256=" .. core.digest "1", assert(r:copy("data:,1", "s3://bucket/k")).reference)
    assert.equal("1", helper.read(assert(r:copy("s3://bucket/k", folder .. "/out")).reference))
    for _, target in ipairs { "s3://bucket/k?versionId=1", "s3://bucket/k#sha256=" .. ("a"):rep(64) } do
      assert.equal("invalid_reference", select(2, r:copy("data:,1", target)).kind)
    end
    local _, err = resolver(nil, { secret_access_key = "hush-hush" }):copy("data:,1", "s3://bucket/k")
    assert.equal("denied", err.kind)
    assert.is_nil(tostring(err):find("hush", 1, true))
  end)

  it("is locked with its version, which is read after a newer one was written", function()
    server:control { buckets = { versions = { region = "us-east-1", versioned = true } } }
    local r = resolver()
    assert(r:copy(helper.write(folder .. "/w.wasm", helper.module "1"), "s3://versions/w.wasm"))
    assert(r:copy(helper.write(folder .. "/m.toml", 'name = "w"\npackage = "w.wasm"\n'), "s3://versions/m.toml"))
    helper.command(folder .. "/bin")
    helper.write(folder .. "/theaterref.conf.lua", ("return { s3 = { endpoint = %q, access_key_id = %q, secret_access_key = %q } }"):format(
      server.settings.endpoint, server.settings.access_key_id, server.settings.secret_access_key))
    helper.run_ok(("cd %s && THEATERREF_CONFIG=theaterref.conf.lua bin/theaterref lock s3://versions/m.toml"):format(folder))
    assert.matches("sha256=%x+ size=%d+ version=v%d+  s3://versions/w.wasm\n", helper.read(folder .. "/theaterref.lock"))
    assert(r:copy(helper.write(folder .. "/w.wasm", helper.module "2"), "s3://versions/w.wasm"))
    local plan = assert(resolver { lockfile = folder .. "/theaterref.lock" }:plan "s3://versions/m.toml")
    assert.equal(helper.module "1", tostring(plan.package))
    assert.equal(helper.module "2", tostring(assert(r:plan "s3://versions/m.toml").package))
  end)

  it("has options of its bucket's host, and none of another", function()
    put("h", "x")
    local host = server.at:match "^[^:]*"
    local r = resolver { hosts = { [host] = { headers = { ["X-Amz-Meta-Extra"] = "signed" } } } }
    assert.equal("x", tostring((assert(r:resolve "s3://bucket/h"))))
    r = resolver { hosts = { bucket = { proxy = "http://127.0.0.1:1" } }, retries = 0 }
    assert.equal("x", tostring((assert(r:resolve "s3://bucket/h"))))
    r = resolver { hosts = { [host] = { proxy = "http://127.0.0.1:1" } }, retries = 0 }
    assert.is_nil((r:resolve "s3://bucket/h"))
  end)

  it("has settings that are checked", function()
    for _, s3 in ipairs { { access_key_id = "a" }, { style = "other" }, { endpont = "x" }, { session_token = "x" },
                          { buckets = { b = { secret_access_key = "x" } } }, { buckets = { b = { buckets = {} } } } } do
      assert.has_error(function() theaterref.resolver { log = false, s3 = s3 } end)
    end
  end)

  it("is fetched once by those who want it at the same time", function()
    put("once", "x")
    local r = resolver { cache = theaterref.resource_cache() }
    server:log()
    local futures = {}
    for i = 1, 8 do futures[i] = r:start("s3://bucket/once", { cached = true }) end
    for i = 1, 8 do assert(futures[i]:wait()) end
    assert.equal(1, #server:log())
  end)
end)
