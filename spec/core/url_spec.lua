local helper = require "helper"
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
    ["no https://h/x?…: it is away (https://h/y?…), https://h/z?…x"] = "no https://h/x?…: it is away (https://h/y?…), https://h/z?…",
    ["https://h/x?q#sha256=ab"] = "https://h/x?…#sha256=ab",
    ["https://h/x?"] = "https://h/x",
    ["http://h/#http://u:p@h/ http://h/#//i?sig=s http://h/#a/b"] = "http://h/#… http://h/#… http://h/#a/b",
    ["http://me:12#hush@h/"] = "http://me:12#…",
    ["https://me:pa/ss@h/x"] = "https://h/x",
    ["https://me:pa]ss/w@h/x"] = "https://h/x",
    ["http://[me]:pa]ss/w@h/x"] = "http://h/x",
    ["http://me:/pass@h/x, not http://h:/x"] = "http://h/x, not http://h:/x",
    ["http://me:p:8/ss@h/x"] = "http://h/x",
    ["http://me:p@s:w/s@h/x"] = "http://h/x",
    ["http://me:p@h:8/x@y http://[::1]:8/x@y"] = "http://h:8/x@y http://[::1]:8/x@y",
    ["s3://key:secret@bucket/x?versionId=1"] = "s3://bucket/x?…",
    ["http://[::1]:80/x"] = "http://[::1]:80/x",
    ["a://b@c d://e@f"] = "a://c d://f",
    ["no URL: at all @ here?"] = "no URL: at all @ here?",
    ["://u:p@h"] = "://u:p@h",
    ["no //u:p@h/x, '//u@h/y' and //h/@z // x@y"] = "no //h/x, '//h/y' and //h/@z // x@y",
    ["/tmp/http:/u:p@h/x: gone"] = "/tmp/http:/h/x: gone",
    ["http:u:p@h and ftp:/u:p@h"] = "http:h and ftp:/h",
    ["a:b@c x.lua:3: a:/b@c http: x@y"] = "a:b@c x.lua:3: a:/b@c http: x@y",
    ["https://h/http:/u:p@i/x?y"] = "https://h/http:/i/x?…",
    ["a data:text/plain;base64,c2Vj, b"] = "a data:text/plain;base64,… (5 characters) b",
    ["data:,… (5 characters) data:,…x data: , x metadata:,x"] = "data:,… (5 characters) data:,… (4 characters) data: , x metadata:,x",
    ["data:http://u:p@h/,x"] = "data:http://u:p@h/,… (1 character)",
  } do
    it(("is shown without secrets: %s"):format(given), function() assert.equal(expected, core.redact(given)) end)
  end

  it("is shown without secrets that have quotes in them", function()
    for _, quote in ipairs { "'", '"', "`", "<", ">" } do
      local url = ("http://us%ser:hush@h/p?a=%shush"):format(quote, quote)
      assert.equal("http://h/p?…", core.redact(url))
      assert.equal("see 'http://h/p?…'", core.redact("see 'http://user:hush@h/p?a=hush'"))
    end
    for _, url in ipairs { "http://user:a\"hush@h/p", "http://u\"s\"er:hush@h/p", "http://user:a/\"hush@h/p", "http://h/p?a=\"hush" } do
      assert.equal(('no "%s", no'):format(core.redact(url)), core.redact(("no %q, no"):format(url)))
    end
  end)

  it("is shown without the query of a path that it is known to name", function()
    assert.equal("no x?… or x?…; x?y", core.redact("no x?sig=a or x?sig=a; x?y", "x?sig=a"))
    assert.equal("no http://h/x?…", core.redact("no http://u:p q@h/x?sig=a b", "http://u:p q@h/x?sig=a b"))
    assert.equal("no x", core.redact("no x", ""))
    assert.equal("", core.redact("", "x"))
  end)

  it("is shown without what a cut, or a blank, left of a reference that it is known to name", function()
    assert.equal("no x?…", core.redact("no x?sig=hus...", "x?sig=hush"))
    assert.equal("no xy...", core.redact("no xy...", "xyz?sig=hush"))
    for _, reference in ipairs { "data:,hush hush", "http://u:p@h/x?sig=a hush" } do
      assert.equal("no " .. core.redact_reference(reference), core.redact(core.redact("no " .. reference), reference))
    end
  end)

  it("costs no more than its length to redact", function()
    local started = core.now()
    for _, piece in ipairs { "data:", "data:,", "data:x,…", "a:", "a:/", "a:b/", "/a:b:c", "http:", "http:/", "http:x:y/", "//", "//a:", "@", "?", "#",
      "a:b@", "//x@" } do
      local text = piece:rep(1000000 // #piece)
      core.redact(text)
      core.redact_reference(text)
      core.redact(text, text)
    end
    core.redact(("http://a@b?c "):rep(50000))
    core.redact(("http://" .. ("@"):rep(500000)))
    core.redact((":"):rep(1000000))
    assert.is_true(core.now() - started < 5 * helper.slowness)
  end)
end)

describe("a text that is one reference", function()
  for given, expected in pairs {
    ["https://user:pa ss@h/x y?a b#c"] = "https://h/x y?…#c",
    ["file://user:pw s@host/p"] = "file://host/p",
    ["missing.wasm?sig=s"] = "missing.wasm?…",
    ["?sig=s"] = "?…",
    ["//user:pw@host/p"] = "//host/p",
    ["//user@host/p?x"] = "//host/p?…",
    ["//u:p/w@host/p"] = "//host/p",
    ["http:/user:pw@h"] = "http:/h",
    ["http:user:pw@h"] = "http:h",
    ["HTTPS:user@h"] = "HTTPS:h",
    ["htps:/user:pw@h/x"] = "htps:/h/x",
    ["/tmp/a b/http:/user:pw@h/p"] = "/tmp/a b/http:/h/p",
    ["https://h/a/http:user:pw@i/p"] = "https://h/a/http:i/p",
    ["https://h/ftp://user@i/ftp://u:p@j"] = "https://h/ftp://i/ftp://j",
    ["http//user:pw@h"] = "http//h",
    ["/srv/me@home/p@1.wasm"] = "/srv/me@home/p@1.wasm",
    ["https://esm.example/npm:pad@1.2/x@y"] = "https://esm.example/npm:pad@1.2/x@y",
    ["a:b@c"] = "a:b@c",
    ["//srv/share/x@y"] = "//srv/share/x@y",
    ["data:text/pl ain;base64,a b"] = "data:text/pl ain;base64,… (3 characters)",
    ["DATA:,… (3x characters)"] = "DATA:,… (19 characters)",
    ["data:" .. ("a"):rep(78) .. "\u{20AC}b,xyz"] = "data:" .. ("a"):rep(78) .. "…,… (3 characters)",
    ["data:" .. ("a"):rep(80) .. "b,xyz"] = "data:" .. ("a"):rep(80) .. "…,… (3 characters)",
    ["data:"] = "data:",
    ["data:aHVzaA"] = "data:… (6 characters)",
    [""] = "",
  } do
    it(("is shown without secrets: %s"):format(given), function()
      assert.equal(expected, core.redact_reference(given))
      assert.equal(expected, core.redact_reference(expected)) -- it may have been redacted before
    end)
  end

  it("is cut in a message, and only there, once its secrets are gone", function()
    local long = "https://" .. ("s"):rep(100000) .. "@h/" .. ("\u{20AC}"):rep(1000) .. "/end?" .. ("s"):rep(100000)
    assert.equal(8 + 2 + 3000 + 4 + 4, #core.redact_reference(long))
    local shown = core.display_reference(long)
    assert.matches("^https://h/\u{20AC}.*….*\u{20AC}/end%?…$", shown)
    assert.is_true(#shown <= 320 and utf8.len(shown) ~= nil)
    assert.equal(shown, core.display_reference(shown))
    local err = require("theaterref.error").new("io", "cannot read " .. long, long)
    assert.equal("cannot read " .. shown, err.message)
    assert.equal(shown, err.reference)
  end)
end)

describe("the digest libraries", function()
  it("agree", function()
    -- mbedTLS hashes until libcurl is there; then libcrypto may.
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
