-- The choice of a layer from the documents of registries, and the grammar of references.
local core = require "theaterref.core"
local reference = require "theaterref.reference"

local A, B, C = ("a"):rep(64), ("b"):rep(64), ("c"):rep(64)
local INDEX, MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"

local function layer(digest, media_type, title, more)
  return ('{"mediaType":"%s","digest":"sha256:%s","size":10%s%s}'):format(media_type or "application/wasm", digest,
    title and (',"annotations":{"org.opencontainers.image.title":"%s"}'):format(title) or "", more or "")
end

local function manifest(...)
  return ('{"schemaVersion":2,"config":{"digest":"x"},"layers":[%s]}'):format(table.concat({ ... }, ","))
end

local function entry(digest, architecture)
  return layer(digest, MANIFEST, nil, architecture and (',"platform":{"architecture":"%s","os":"wasip1"}'):format(architecture))
end

local function index(...) return ('{"schemaVersion":2,"manifests":[%s]}'):format(table.concat({ ... }, ",")) end

local function fails(kind, words, ...)
  local chosen, err = core.oci_select(...)
  assert.is_nil(chosen)
  assert.equal(kind, err.kind)
  assert.matches(words, err.message, 1, true)
end

describe("of a manifest", function()
  it("the only layer of a WebAssembly type is chosen, whatever else is there", function()
    for _, media_type in ipairs { "application/wasm", "application/vnd.wasm.content.layer.v1+wasm",
      "application/vnd.module.wasm.content.layer.v1+wasm", "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm" } do
      local kind, digest, size, of_type = core.oci_select(manifest(layer(B, "text/plain", "x"), layer(A, media_type)))
      assert.same({ "layer", A, 10, media_type }, { kind, digest, size, of_type })
    end
  end)

  it("a layer of any type is chosen if it is the only one", function()
    assert.equal(A, select(2, core.oci_select(manifest(layer(A, "application/x-tar")))))
  end)

  it("a layer is chosen by its title, whatever its type", function()
    local document = manifest(layer(A, nil, "one"), layer(B, "text/plain", "t\\u00e4 \\\"x\\\""), layer(C))
    assert.equal(A, select(2, core.oci_select(document, "one")))
    assert.equal(B, select(2, core.oci_select(document, 'tä "x"')))
    fails("not_found", "no layer with the title 'two', but 'one' (application/wasm)", document, "two")
  end)

  it("several layers of WebAssembly without a title are an error that lists them", function()
    fails("invalid_reference", "2 layers of WebAssembly; choose one by its title, as in #title=name: 'one' (application/wasm), "
      .. "'two' (application/wasm)", manifest(layer(A, nil, "one"), layer(B, nil, "two")))
    fails("invalid_reference", "2 layers, none of WebAssembly", manifest(layer(A, "a/b"), layer(B, "a/b")))
    fails("not_found", "no layers", manifest())
  end)

  it("a long list is cut", function()
    local layers = {}
    for i = 1, 5000 do layers[i] = layer(A, nil, ("title %d"):format(i)) end
    local _, err = core.oci_select(manifest(table.unpack(layers)))
    assert.matches("5000 layers", err.message, 1, true)
    assert.is_true(#err.message < 1024)
  end)

  it("two layers of one title are an error if they differ", function()
    assert.equal(A, select(2, core.oci_select(manifest(layer(A, nil, "x"), layer(A, nil, "x")), "x")))
    fails("syntax", "several layers with the title 'x'", manifest(layer(A, nil, "x"), layer(B, nil, "x")), "x")
  end)

  it("URLs in descriptors mean nothing", function()
    assert.equal(A, select(2, core.oci_select(manifest(layer(A, nil, nil, ',"urls":["https://elsewhere/"],"data":"AAAA"')))))
  end)
end)

describe("of an index", function()
  it("the entry for wasm is chosen, or the only one", function()
    assert.same({ "manifest", B, 10, MANIFEST }, { core.oci_select(index(entry(A, "amd64"), entry(B, "wasm")), "title") })
    assert.equal(A, select(2, core.oci_select(index(entry(A, "amd64")))))
    fails("not_found", "no entry for wasm: amd64", index(entry(A, "amd64"), entry(B, "arm64")))
    fails("not_found", "empty", index())
    fails("invalid_reference", "2 entries for wasm", index(entry(A, "wasm"), entry(B, "wasm")))
  end)
end)

describe("a document", function()
  it("may be called anything by its registry, but not two known types", function()
    for _, media_type in ipairs { "application/json", "text/html; charset=utf-8", MANIFEST, MANIFEST .. "; charset=utf-8" } do
      assert.equal("layer", (core.oci_select(manifest(layer(A)), nil, media_type)))
    end
    fails("syntax", "contradicts", manifest(layer(A)), nil, INDEX)
    fails("syntax", "contradicts", index(entry(A)), nil, MANIFEST)
    local named = manifest(layer(A)):gsub("^{", ('{"mediaType":"%s",'):format(MANIFEST))
    assert.equal("layer", (core.oci_select(named, nil, "text/plain")))
    fails("syntax", "another than its registry says", named, nil, "application/vnd.docker.distribution.manifest.v2+json")
  end)

  it("is refused with both 'manifests' and 'layers', and with neither", function()
    fails("syntax", "both 'manifests' and 'layers'", '{"manifests":[],"layers":[]}')
    fails("syntax", "neither", '{"schemaVersion":2}')
    fails("syntax", "schema 1", '{"schemaVersion":1,"fsLayers":[]}')
  end)

  it("is refused if it is malformed, or has a field twice", function()
    for _, text in ipairs { "", "[]", "null", '{"layers":[', '{"layers":{}}', '{"layers":[1]}', '{"layers":[],"layers":[]}', "{}x",
      manifest(layer(A)) .. "x", '{"layers":[{"digest":1}]}', '{"layers":[{"digest":"sha256:x","size":1}]}',
      '{"layers":[{"mediaType":"application/wasm","size":1}]}', ('{"layers":[{"digest":"sha256:%s"}]}'):format(A),
      ('{"layers":[{"digest":"sha512:%s","size":1}]}'):format(A:rep(2)), ('{"layers":[{"digest":"sha256:%s","size":-1}]}'):format(A),
      ('{"layers":[{"digest":"sha256:%s","size":1.5}]}'):format(A), ('{"layers":[{"digest":"sha256:%s","size":1e3}]}'):format(A),
      ('{"layers":[{"digest":"sha256:%s","size":99999999999999999999}]}'):format(A),
      ('{"layers":[{"digest":"sha256:%s","digest":"sha256:%s","size":1}]}'):format(A, B),
      ('{"layers":[{"digest":"sha256:%s","size":1}]}'):format(A:upper()), ("["):rep(1000) } do
      fails("syntax", "malformed", text)
    end
  end)
end)

describe("a reference to a registry", function()
  local function is(expected, text)
    local parsed = assert(reference.parse(text))
    assert.equal(expected, parsed.text)
    return parsed
  end

  it("has one normal form", function()
    is("oci://ghcr.io/a/b:latest", "OCI://GHCR.io/a/b")
    is("oci://ghcr.io/a/b:latest", "oci://ghcr.io:443/a/b:latest")
    is("oci://docker.io/library/x:1", "oci://docker.io/x:1")
    is("oci://docker.io/a/x:1", "oci://registry-1.docker.io/a/x:1")
    is("oci://[::1]:5000/a@sha256:" .. A, "oci://[0:0::1]:5000/a@sha256:" .. A)
    is("oci://h/a:1#title=x%20y.wasm&sha256=" .. A, "oci://h/a:1#sha256=" .. A:upper() .. "&title=x y.wasm")
  end)

  it("is read at its digest, which wins over its tag", function()
    local parsed = is(("oci://h/a:1@sha256:%s"):format(A), ("oci://h/a:1@sha256:%s"):format(A))
    assert.equal(("oci://h/a@sha256:%s"):format(A), parsed.key)
    assert.is_true(reference.is_immutable(parsed.text))
    assert.is_false(reference.is_immutable "oci://h/a:1")
  end)

  it("that does not follow the grammar is refused", function()
    for _, text in ipairs { "oci://", "oci://h", "oci://h/", "oci:///a", "oci://h/A", "oci://h/a//b", "oci://h/a/", "oci://h/-a",
      "oci://h/a..b", "oci://h/a___b", "oci://h/../a", "oci://h/a%2fb", "oci://h/a:", "oci://h/a:.x", "oci://h/a:" .. ("x"):rep(129),
      "oci://h/" .. ("a"):rep(256), "oci://h/a@sha256:" .. A:upper(), "oci://h/a@sha256:ab", "oci://h/a@sha512:" .. A:rep(2),
      "oci://h/a@", "oci://u:p@h/a", "oci://h/a?x=y", "oci://h/a b", "oci://h/a#", "oci://h/a#title", "oci://h/a#title=",
      "oci://h/a#name=x", "oci://h/a#sha256=ab", "oci://h/a#title=x&title=y", "oci://h/a#title=%0a", "oci://h:99999/a",
      "oci://h/a:1:2", "oci://h/a@sha256:" .. A .. ":1", "oci://ü/a", "oci://h/a\\b" } do
      local parsed, err = reference.parse(text)
      assert.is_nil(parsed, text)
      assert.equal("invalid_reference", err.kind, text)
    end
  end)

  it("joins another title of the same artifact", function()
    assert.equal("oci://h/a:1#title=x.wasm", reference.join("oci://h/a:1#title=manifest.toml&sha256=" .. A, "./x.wasm"))
    assert.equal("oci://h/a:1@sha256:" .. A .. "#title=b/x.wasm", reference.join("oci://h/a:1@sha256:" .. A, "b/x.wasm"))
    assert.equal("oci://h/a:1#title=x%2520y", reference.join("oci://h/a:1", "x%20y")) -- as a file is called
    assert.equal("x%20y", reference.parse("oci://h/a:1#title=x%2520y").title)
    assert.equal("invalid_reference", select(2, reference.join("oci://h/a:1", "x?y")).kind)
  end)

  it("is shown as it is, but for what a query may hide", function()
    local text = "oci://localhost:5000/a/b:1@sha256:" .. A .. "#title=x"
    assert.equal(text, reference.redact(text))
    assert.equal("oci://h/a:1?…", reference.redact "oci://h/a:1?ns=docker.io")
  end)
end)
