local helper = require "helper"
local core = require "theaterref.core"
local reference = require "theaterref.reference"
local theaterref = require "theaterref"

describe("a reference", function()
  local hash = ("0123456789ABCDEF"):rep(4)

  it("is taken apart by its scheme", function()
    local function is(expected, ref)
      expected.text = expected.text or ref
      assert.same(expected, reference.parse(ref))
    end
    is({ scheme = "store", id = "demo", label = "greeting" }, "store://demo/greeting")
    is({ scheme = "store", id = "demo", label = "a/b/c d" }, "store://demo/a/b/c d")
    is({ scheme = "store", id = "demo", hash = hash:lower() }, "store://demo/hash/" .. hash)
    is({ scheme = "store", id = "demo", label = "hash" }, "store://demo/hash")
    is({ scheme = "https", url = "https://h/x?y", host = "h", port = 443 }, "https://h/x?y#part")
    is({ scheme = "http", url = "http://h/", text = "http://h/", host = "h", port = 80 }, "HTTP://H:80")
    is({ scheme = "http", url = "http://u:p@h:8080/b", text = "http://u:p@h:8080/b", host = "h", port = 8080 },
      "http://u:p@h:8080/a/../b")
    is({ scheme = "https", url = "https://h/x", host = "h", port = 443, sha256 = hash:lower() }, "https://h/x#sha256=" .. hash)
    is({ scheme = "https", url = "https://h/x", host = "h", port = 443, sha256 = hash:lower() },
      ("https://h/x#%%73ha256=%s&SHA256=%s"):format(hash, hash:lower()))
    is({ scheme = "https", url = "https://h/x", host = "h", port = 443, sha1 = ("a"):rep(40) },
      "https://h/x#title=x&SHA1=" .. ("A"):rep(40))
    for _, path in ipairs { "a", "/a/b", "./a", "a:b", "store:/x/y", "C:\\x", "data:x", "x#sha1=ab" } do
      is({ scheme = "file", path = path }, path)
    end
    is({ scheme = "file", path = "/a b" }, "file:///a%20b")
    is({ scheme = "data", bytes = "hello" }, "data:,hello")
  end)

  it("with an unknown scheme names the nearest, and those it may have", function()
    local _, err = reference.parse "htps://h/x"
    assert.equal("invalid_reference", err.kind)
    assert.equal("unknown scheme 'htps' (did you mean 'https'?); known schemes: data, file, http, https, oci, s3, store", err.message)
    _, err = reference.parse("ftp://h/x", { pkg = print })
    assert.matches("known schemes: data, file, http, https, oci, pkg, s3, store", err.message)
  end)

  it("with a malformed digest is refused", function()
    for _, fragment in ipairs { ("sha256=%s&sha256=%s"):format(("1"):rep(64), ("0"):rep(64)), "sha256=12", "sha1=" .. ("g"):rep(40), "sha512=00", "SHA256=", "x&sha256=1", "sha" } do
      local _, err = reference.parse("https://h/x#" .. fragment)
      assert.matches("^Invalid digest", err.message)
    end
  end)

  it("says what is wrong with it, in Theater's words", function()
    for _, ref in ipairs { "store://", "store://x", "store://x/", "store:///x", "store:///" } do
      local parsed, err = reference.parse(ref)
      assert.is_nil(parsed)
      assert.equal("invalid_reference", err.kind)
      assert.equal("Invalid store path format: " .. ref, err.message)
      assert.equal("Failed to resolve reference: Invalid store path format: " .. ref
        .. "; it has the form store://<id>/<label> or store://<id>/hash/<hash>", tostring(err))
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

  it("that is a missing path, but looks like a URL, is told what it lacks", function()
    for ref, expected in pairs { ["data:x"] = "it looks like a data URL, which needs a comma",
      ["http:/x"] = "it looks like an http reference, which begins with http://",
      ["store:/x"] = "it looks like a store reference, which begins with store://" } do
      assert.matches(expected, select(2, theaterref.resolve_reference(ref)).message, 1, true)
    end
    assert.is_nil(select(2, theaterref.resolve_reference "a:b").message:find "looks")
  end)

  it("that is a path or a label with a digest behind it is told where digests count", function()
    helper.with_folder(function(home)
      helper.run_ok(("mkdir -p %s/store/demo"):format(home))
      for _, ref in ipairs { home .. "/x.wasm#sha256=" .. ("0"):rep(64), "store://demo/x#sha256=" .. ("0"):rep(64) } do
        local _, err = theaterref.resolve_reference(ref, { home = home })
        assert.equal("not_found", err.kind)
        assert.matches("a digest after '#' is for http and https; elsewhere the policy's rule 'integrity' asks for one", tostring(err), 1, true)
      end
    end)
  end)

  it("that is a missing label is named without its store", function()
    helper.with_folder(function(home)
      helper.run_ok(("mkdir -p %s/store/demo"):format(home))
      local _, err = theaterref.resolve_reference("store://demo/a/b", { home = home })
      assert.equal("not_found", err.kind)
      assert.equal("Label not found: a/b", err.message)
      assert.equal("Failed to resolve reference: Label not found: a/b (store://demo/a/b)", tostring(err))
    end)
  end)

  it("to a store that is not there says so, and which there are", function()
    helper.with_folder(function(home)
      helper.run_ok(("mkdir -p %s/store/release"):format(home))
      for _, rest in ipairs { "a/b", "hash/" .. ("0"):rep(40) } do
        local _, err = theaterref.resolve_reference("store://relese/" .. rest, { home = home })
        assert.equal("not_found", err.kind)
        assert.matches((" (store://relese/%s); there is no store 'relese' in %s/store; stores: release"):format(rest, home), tostring(err),
          1, true)
      end
    end)
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

it("a data URL without a comma is refused wherever it is read", function()
  for _, text in ipairs { "data://x", "data:///?2b///.d" } do
    for _, read in ipairs { reference.parse, function(ref) return reference.join(ref, "x") end } do
      local parsed, err = read(text)
      assert.is_nil(parsed)
      assert.equal("Invalid data URL: it has no comma in front of its text", err.message)
    end
  end
end)

it("a path that looks like a data URL is refused in a manifest, where its folder would hide that", function()
  local joined, err = reference.join("/a/m.toml", "data:text/plain;hunter2")
  assert.is_nil(joined)
  assert.equal("invalid_reference", err.kind)
  assert.matches("which needs a comma in front of its text", err.message)
  assert.is_nil(tostring(err):find("hunter2", 1, true))
  assert.equal("/a/data:x", reference.join("/a/m.toml", "./data:x"))
  assert.equal(core.working_folder() .. "/data:x", reference.absolute "data:x")
end)

describe("a zero byte", function()
  it("is refused wherever a reference is read", function()
    for _, text in ipairs { "a\0b", "https://h/\0", "https://u:p@h:\0N1/", "data:,\0" } do
      for what, read in pairs {
        parse = reference.parse,
        ["join to it"] = function(ref) return reference.join(ref, "x") end,
        resolve = function(ref) return theaterref.resolver { log = false }:resolve(ref) end,
      } do
        local result, err = read(text)
        assert.is_nil(result, what)
        assert.equal("invalid_reference", err.kind, what)
        assert.matches("it has a zero byte in it", err.message, 1, true)
      end
      assert.is_false(reference.is_immutable(text))
      assert.is_false(theaterref.resource_cache():remove(text))
    end
  end)
end)

describe("a scheme of theaterref's own", function()
  local folder

  before_each(function()
    folder = helper.temporary_folder()
    helper.run_ok(("cp -r %s/lua %s"):format(helper.root, folder))
    local list = folder .. "/lua/theaterref/reference.lua"
    helper.write(list, (helper.read(list):gsub("local modules = {", "%0 here = 'here', far = 'far',")))
    local source = [[
      local core = require "theaterref.core"
      local M = { is_chain = %s }
      function M.parse(reference, scheme) return { scheme = scheme, text = reference } end
      function M.join(base, reference) return base.text:match "^(.*/)" .. reference end
      function M.key(parsed) return parsed.text end
      function M.is_remote() return %s end
      function M.is_immutable() return true end
      function M.start(job)
        local what = job.parsed.text:match "[%%w.]+$"
        if what == "seven" then return { future = 7 } end
        if what == "nothing" then return {} end
        local future = core.future()
        future:complete(core.blob(what == "m.toml" and 'name = "m"\npackage = "p"\n' or what))
        if what == "late" then return { future = future } end
        return { blob = future:wait(0) }
      end
      return M]]
    helper.write(folder .. "/lua/theaterref/source/here.lua", source:format("false", "false"))
    helper.write(folder .. "/lua/theaterref/source/far.lua", source:format("true", "true"))
  end)

  after_each(function() helper.remove(folder) end)

  it("is a file and a line in the list", function()
    helper.run_ok(("cd %s && LUA_PATH='%s/lua/?.lua;%s/lua/?/init.lua;;' %s -e %s"):format(folder, folder, folder, helper.lua,
      helper.quote [[
      local theaterref = require "theaterref"
      local access, locks = theaterref.policy.default, require "theaterref.policy.lockfile"
      local resolver = theaterref.resolver { log = false, cache = theaterref.resource_cache() }
      for _, scheme in ipairs { "here", "far" } do
        local plan = assert(resolver:plan(scheme .. "://a/m.toml"))
        assert(tostring(plan.package) == "p" and plan.package_reference == scheme .. "://a/p" and plan.used_cache)
        assert(locks.key(scheme .. "://a/p") == scheme .. "://a/p")
        for _, what in ipairs { "seven", "nothing" } do
          for _, call in ipairs { "resolve", "resolve_cached" } do
            local _, err = resolver[call](resolver, scheme .. "://a/" .. what)
            assert(err.kind == "policy" and err.message:find("returned a n", 1, true), tostring(err))
          end
        end
      end
      assert(tostring(assert(resolver:resolve "far://a/late")) == "late")
      local function allowed(ref, from) return (access.allow(ref, { purpose = "package", manifest_reference = from })) end
      assert(allowed("far://a/p", "far://a/m") and not allowed("far://a/p", "https://h/m"))
      assert(not allowed("here://a/p", "https://h/m") and allowed("/x", "here://a/m") and not allowed("/x", "far://a/m"))
      ]]))
  end)
end)
