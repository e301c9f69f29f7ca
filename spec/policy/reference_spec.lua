local reference = require "theaterref.reference"
local theaterref = require "theaterref"

describe("a reference", function()
  local hash = ("0123456789ABCDEF"):rep(4)

  it("is taken apart by its scheme", function()
    assert.same({ scheme = "store", id = "demo", label = "greeting" }, reference.parse "store://demo/greeting")
    assert.same({ scheme = "store", id = "demo", label = "a/b/c d" }, reference.parse "store://demo/a/b/c d")
    assert.same({ scheme = "store", id = "demo", hash = hash:lower() }, reference.parse("store://demo/hash/" .. hash))
    assert.same({ scheme = "store", id = "demo", label = "hash" }, reference.parse "store://demo/hash")
    assert.same({ scheme = "https", url = "https://h/x?y", host = "h", port = 443 }, reference.parse "https://h/x?y#part")
    assert.same({ scheme = "http", url = "http://h/", host = "h", port = 80 }, reference.parse "HTTP://H:80")
    assert.same({ scheme = "http", url = "http://u:p@h:8080/b", host = "h", port = 8080 }, reference.parse "http://u:p@h:8080/a/../b")
    assert.same({ scheme = "https", url = "https://h/x", host = "h", port = 443, digest = hash:lower() },
      reference.parse("https://h/x#sha256=" .. hash))
    for _, path in ipairs { "a", "/a/b", "./a", "a:b", "store:/x/y", "ftp://x/y", "C:\\x" } do
      assert.same({ scheme = "file", path = path }, reference.parse(path))
    end
  end)

  it("says what is wrong with it, in Theater's words", function()
    for _, ref in ipairs { "store://", "store://x", "store://x/", "store:///x", "store:///" } do
      local parsed, err = reference.parse(ref)
      assert.is_nil(parsed)
      assert.equal("invalid_reference", err.kind)
      assert.equal("Invalid store path format: " .. ref, err.message)
      assert.equal("Failed to resolve reference: Invalid store path format: " .. ref, tostring(err))
    end
    for _, ref in ipairs { "store://../x", "store://./x", "store://x/..", "store://x/a/../b", "store://x//y", "store://x/y/",
      "store://x/hash/12", "store://x/hash/" .. ("g"):rep(40), "store://x/a\nb", "store://x\1/y", "store://x/a\0b",
      "store://" .. ("i"):rep(10000) .. "/x" } do
      local parsed, err = reference.parse(ref)
      assert.is_nil(parsed, ref)
      assert.equal("invalid_reference", err.kind)
      assert.matches("^Invalid store path format: ", err.message)
    end
  end)

  it("that is a missing label is named without its store", function()
    local _, err = theaterref.resolve_reference("store://demo/a/b", { home = "/nonexistent" })
    assert.equal("not_found", err.kind)
    assert.equal("Label not found: a/b", err.message)
    assert.equal("Failed to resolve reference: Label not found: a/b (store://demo/a/b)", tostring(err))
  end)
end)

describe("joining a reference to where it was written", function()
  local function joins(base, ref, expected)
    assert.equal(expected, (reference.join(base, ref)), tostring(base) .. " + " .. ref)
  end

  it("leaves what stands on its own", function()
    for _, base in ipairs { "/m/manifest.toml", "https://h/m.toml", "store://s/m" } do
      joins(base, "https://x/y", "https://x/y")
      joins(base, "store://s/l", "store://s/l")
    end
    joins(nil, "x", "x")
    joins("/m/manifest.toml", "/abs", "/abs")
    joins("store://s/m", "/abs", "/abs")
  end)

  it("works on folders", function()
    joins("/m/manifest.toml", "x.wasm", "/m/x.wasm")
    joins("/m/manifest.toml", "./x.wasm", "/m/x.wasm")
    joins("/m/manifest.toml", "../x.wasm", "/m/../x.wasm") -- '..' is the system's to resolve: /m may be a link
    joins("/m/manifest.toml", "a/./././x", "/m/a/x")
    assert.matches("^/.*/sub/x%.wasm$", (reference.join("sub/manifest.toml", "x.wasm")))
  end)

  it("works on URLs as RFC 3986 has it", function()
    local base = "http://a/b/c/d;p?q"
    for ref, expected in pairs { ["g"] = "http://a/b/c/g", ["./g"] = "http://a/b/c/g", ["g/"] = "http://a/b/c/g/",
      ["/g"] = "http://a/g", ["//g"] = "http://g", ["?y"] = "http://a/b/c/d;p?y", ["g?y"] = "http://a/b/c/g?y",
      ["#s"] = "http://a/b/c/d;p#s", ["g#s"] = "http://a/b/c/g#s", [";x"] = "http://a/b/c/;x", ["."] = "http://a/b/c/",
      ["./"] = "http://a/b/c/", [".."] = "http://a/b/", ["../"] = "http://a/b/", ["../g"] = "http://a/b/g",
      ["../.."] = "http://a/", ["../../g"] = "http://a/g", ["../../../g"] = "http://a/g", ["/./g"] = "http://a/g",
      ["g."] = "http://a/b/c/g.", ["..g"] = "http://a/b/c/..g", ["./../g"] = "http://a/b/g",
      ["g/./h"] = "http://a/b/c/g/h", ["g/../h"] = "http://a/b/c/h" } do
      joins(base, ref, expected)
    end
    joins("https://h", "x", "https://h/x")
  end)

  it("works on labels, and never leaves the store", function()
    joins("store://s/actors/worker/manifest.toml", "worker.wasm", "store://s/actors/worker/worker.wasm")
    joins("store://s/actors/manifest.toml", "../x", "store://s/x")
    joins("store://s/manifest.toml", "./x", "store://s/x")
    joins("store://s/hash/" .. ("0"):rep(40), "x", "store://s/x")
    local joined, err = reference.join("store://s/a/m", "../../x")
    assert.is_nil(joined)
    assert.equal("invalid_reference", err.kind)
  end)
end)
