local core = require "theaterref.core"

describe("a URL", function()
  for given, expected in pairs {
    ["HTTP://Example.ORG"] = "http://example.org/",
    ["https://h:443/x"] = "https://h/x",
    ["http://h:443/x"] = "http://h:443/x",
    ["http://h:/x"] = "http://h/x",
    ["http://h:0080/x"] = "http://h/x",
    ["https://h/a/./b/../c"] = "https://h/a/c",
    ["https://h/a/%2e%2E/b/%2e"] = "https://h/b/",
    ["https://h/../../a"] = "https://h/a",
    ["https://h/a/.."] = "https://h/",
    ["https://h/..a/.b/...//c"] = "https://h/..a/.b/...//c",
    ["https://h?q=/../x"] = "https://h/?q=/../x",
    ["https://h/%7Euser/%41?a=%2f"] = "https://h/%7Euser/%41?a=%2f",
    ["http://[::1]:8080/x"] = "http://[::1]:8080/x",
    ["http://[2001:DB8:0:0::1]/"] = "http://[2001:db8::1]/",
    ["http://2130706433/"] = "http://127.0.0.1/",
    ["http://0x7f.1/"] = "http://127.0.0.1/",
    ["http://1e100.net/"] = "http://1e100.net/",
    ["http://user:pass@h/x"] = "http://h/x",
    ["http://a@b@h/x"] = "http://h/x",
    ["oci://Registry.io:443/a/b"] = "oci://registry.io/a/b",
  } do
    it(("in normal form: %s"):format(given), function() assert.equal(expected, core.parse_url(given).url) end)
  end

  it("is its own normal form once it is in it", function()
    for _, url in ipairs { "HTTP://H/a/../b?c#d", "https://[::A]:1/./x/", "http://0x7f.1:80" } do
      local normal = core.parse_url(url).url
      assert.equal(normal, core.parse_url(normal).url)
    end
  end)

  for given, fault in pairs {
    ["http://"] = "no host", ["http:///x"] = "no host", ["http://:80/"] = "no host", ["http://h:99999/"] = "port",
    ["http://h:8o/"] = "port", ["http://[::1/"] = "']'", ["http://[::1]x/"] = "port", ["http://[v1.x]/"] = "IPv6",
    ["http://h/a\\b"] = "backslash", ["http://h\\@evil/"] = "backslash", ["http://h/a b"] = "space", ["http://h/\127"] = "control",
    ["http://h\r\nX: y/"] = "control", ["http://b\xC3\xBCcher/"] = "ASCII", ["http://h%2ex/"] = "character",
    ["ftp://h/"] = "neither", ["h/x"] = "neither",
  } do
    it(("is none: %q"):format(given), function()
      local url, why = core.parse_url(given)
      assert.is_nil(url)
      assert.is_truthy(why:find(fault, 1, true), why)
    end)
  end
end)

describe("a text", function()
  for given, expected in pairs {
    ["https://user:pass@h/x?token=1"] = "https://h/x?…",
    ["see https://u@h/x, and http://h/y?z=1."] = "see https://h/x, and http://h/y?…",
    ["(https://h/x?sig=a)S3CRET)"] = "(https://h/x?…",
    ['"https://h/?q=1" and more'] = '"https://h/?…" and more',
    ["https://h/@scope/package"] = "https://h/@scope/package",
    ["https://h/x?q#sha256=ab"] = "https://h/x?…#sha256=ab",
    ["https://h/x?"] = "https://h/x",
    ["https://me:pa/ss@h/x"] = "https://h/x",
    ["s3://key:secret@bucket/x?versionId=1"] = "s3://bucket/x?…",
    ["http://[::1]:80/x"] = "http://[::1]:80/x",
    ["a://b@c d://e@f"] = "a://c d://f",
    ["no URL: at all @ here?"] = "no URL: at all @ here?",
    ["://u:p@h"] = "://u:p@h",
  } do
    it(("is shown without secrets: %s"):format(given), function() assert.equal(expected, core.redact(given)) end)
  end

  it("is shown without secrets that have quotes in them", function()
    for _, quote in ipairs { "'", '"', "`", "<", ">" } do
      local url = ("http://us%ser:hush@h/p?a=%shush"):format(quote, quote)
      assert.equal("http://h/p?…", core.redact(url))
      assert.equal("see 'http://h/p?…'", core.redact("see 'http://user:hush@h/p?a=hush'"))
    end
  end)

  it("costs no more than its length to redact", function()
    local started = core.now()
    core.redact(("http://a@b?c "):rep(50000))
    core.redact(("http://" .. ("@"):rep(500000)))
    core.redact((":"):rep(1000000))
    assert.is_true(core.now() - started < 5)
  end)
end)

describe("the digest libraries", function()
  it("agree", function()
    -- mbedTLS hashes until libcurl is there; then libcrypto may.
    local helper = require "helper"
    local out = helper.run_ok(helper.lua .. " -e " .. helper.quote [[
      local core = require "theaterref.core"
      local inputs, before = { "", "a", ("x"):rep(55), ("x"):rep(56), ("x"):rep(64), ("y"):rep(100001) }, {}
      for i, input in ipairs(inputs) do before[i] = core.digest(input) .. core.digest(input, "sha1") end
      local first = core.digest_library()
      core.curl()
      for i, input in ipairs(inputs) do assert(before[i] == core.digest(input) .. core.digest(input, "sha1")) end
      print(first, core.digest_library())]])
    assert.matches("^mbedTLS\tlib%w+\n", out:gsub("mbedTLS\tmbedTLS", "mbedTLS\tlibnone"))
  end)
end)
