-- Packages in registries: Debian's docker-registry, and one whose faults are ours.
local core = require "theaterref.core"
local helper = require "helper"
local writer = require "registry_writer"
local theaterref = require "theaterref"
local threads = require "threads"

local WASM = "\0asm\1\0\0\0"
local WORKER = WASM .. "\0\7\6worker" -- with a section of its own
local MANIFEST, INDEX = writer.MANIFEST, writer.INDEX
local put, put_blob = writer.put, writer.put_blob

local folder, registry

setup(function()
  folder = helper.temporary_folder()
  registry = helper.registry "open"
  helper.run_ok("mkdir " .. folder .. "/actor")
  helper.command(folder .. "/bin")
  helper.write(folder .. "/actor/manifest.toml", 'name = "worker"\nversion = "1.2"\npackage = "worker.wasm"\ninit_state = "state.json"\n'
    .. "static_package = true\n")
  helper.write(folder .. "/actor/worker.wasm", WORKER)
  helper.write(folder .. "/actor/state.json", '{"port":1}')
end)

teardown(function()
  registry:stop()
  helper.remove(folder)
end)

-- Lines of the log of a registry since the last call, as "METHOD kind/name".
local seen = {}
local function requests(server)
  local list, count = {}, 0
  for line in io.lines(server.folder .. "/out") do
    count = count + 1
    local method, path = line:match '"(%u+) /v2/(%S+) HTTP'
    if method and count > (seen[server] or 0) then list[#list + 1] = method .. " " .. path end
  end
  seen[server] = count
  return list
end

local function resolver(options)
  local all = { log = false }
  for name, value in pairs(options or {}) do all[name] = value end
  return assert(theaterref.resolver(all))
end

local function push(target, from)
  return assert(resolver():push(from or folder .. "/actor/manifest.toml", target))
end

local function descriptor(digest, size, title, media_type)
  return ('{"mediaType":"%s","digest":"%s","size":%d,"annotations":{"org.opencontainers.image.title":"%s"}}'):format(
    media_type or "application/wasm", digest, size, title)
end

-- Puts an artifact of titled layers into a repository, under a tag. Returns its digest.
local function put_artifact(at, repository, tag, layers)
  local list = {}
  local config = put_blob(at, repository, "{}")
  for i, layer in ipairs(layers) do
    list[i] = descriptor(put_blob(at, repository, layer[2]), #layer[2], layer[1], layer[3])
  end
  local document = ('{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"x/y","digest":"%s","size":2},"layers":[%s]}'):format(
    MANIFEST, config, table.concat(list, ","))
  return writer.put_document(at, repository, tag, document)
end

describe("a pushed manifest", function()
  local pushed, at

  setup(function()
    at = "oci://" .. registry.at .. "/team/worker:1.2"
    pushed = push(at)
  end)

  it("is planned from its registry, with its package and its state", function()
    local plan = assert(resolver():plan(at))
    assert.equal("worker", plan.name)
    assert.equal(WORKER, tostring(plan.package))
    assert.equal('{"port":1}', plan.initial_state)
    assert.equal(at .. "@sha256:" .. pushed.digest .. "#title=worker.wasm", plan.package_reference)
  end)

  it("has its package alone, for tools that want one layer", function()
    assert.equal(WORKER, tostring(assert(resolver():resolve(at .. ".package"))))
    helper.run_ok(("skopeo copy -q --src-tls-verify=false docker://%s/team/worker:1.2.package dir:%s/skopeo"):format(registry.at, folder))
    assert.equal(WORKER, helper.read(folder .. "/skopeo/" .. core.digest(WORKER)))
  end)

  it("has the documents that tools for WebAssembly expect", function()
    local package = assert(resolver():inspect(at .. ".package"))
    assert.equal(MANIFEST, package.media_type)
    assert.same({ "application/wasm", "worker.wasm" }, { package.layers[1].media_type, package.layers[1].title })
    assert.equal(1, #package.layers)
    assert.equal("worker", package.annotations["org.opencontainers.image.title"])
    local document = core.fetch(("http://%s/v2/team/worker/blobs/%s"):format(registry.at, package.config.digest), core.request_options {})
    assert.equal('{"created":"1970-01-01T00:00:00Z","architecture":"wasm","os":"wasip1","layerDigests":["sha256:'
      .. core.digest(WORKER) .. '"]}', tostring(assert(document:wait())))
  end)

  it("has the same digest when it is pushed again", function()
    requests(registry)
    assert.same(pushed, push(at))
    for _, request in ipairs(requests(registry)) do assert.is_falsy(request:find "^POST", request) end
  end)

  it("is read at the digest of its tag, even if the tag moves on", function()
    local moved = "oci://" .. registry.at .. "/team/moving:1"
    local first = push(moved)
    local plan = assert(resolver({ policy = { rewrite = function(ref, ctx)
      if ctx.purpose == "package" then -- the tag moves between manifest and package
        put_artifact(registry.at, "team/moving", "1", { { "worker.wasm", WASM .. "newer" } })
      end
      return theaterref.policy.default.rewrite(ref, ctx)
    end } }):plan(moved))
    assert.equal(WORKER, tostring(plan.package))
    assert.matches(first.digest, plan.package_reference, 1, true)
  end)

  it("is locked with manifest, digest and size: a locked start is one GET for each of its blobs", function()
    local lockfile = folder .. "/worker.lock"
    helper.run_ok(("%s/bin/theaterref lock %s -o %s"):format(folder, at, lockfile))
    local text = helper.read(lockfile)
    assert.matches("manifest=" .. pushed.digest .. " sha256=" .. core.digest(WORKER) .. " size=17  " .. at, text, 1, true)
    requests(registry)
    local plan = assert(resolver({ lockfile = lockfile }):plan(at))
    assert.equal(WORKER, tostring(plan.package))
    local list = requests(registry)
    assert.equal(3, #list)
    for _, request in ipairs(list) do assert.matches("^GET team/worker/blobs/sha256:%x+$", request) end
  end)

  it("is copied to another registry, or repository, with all its layers and the same digest", function()
    local other = "oci://" .. registry.at .. "/copies/worker:9"
    local copied = assert(resolver():copy(at, other, { all = true }))
    assert.equal(pushed.digest, copied.digest)
    assert.equal(0, copied.blobs) -- they were mounted
    assert.equal(WORKER, tostring(assert(resolver():plan(other)).package))
    assert.equal(("%s.package@sha256:%s"):format(other, pushed.package_digest), copied.package_reference)
    assert.equal(WORKER, tostring(assert(resolver():resolve(other .. ".package"))))
  end)

  it("is copied without the package beside it if that is another one, or if its tag is too long", function()
    local from, to = "oci://" .. registry.at .. "/copies/mixed:1", "oci://" .. registry.at .. "/copies/mixed:2"
    push(from)
    put_artifact(registry.at, "copies/mixed", "1.package", { { "worker.wasm", WASM .. "another" } })
    local copied = assert(resolver():copy(from, to, { all = true }))
    assert.is_nil(copied.package_reference)
    assert.is_nil((resolver():inspect(to .. ".package")))
    put_artifact(registry.at, "copies/mixed", ("x"):rep(128), { { "worker.wasm", WORKER } })
    assert(resolver():copy("oci://" .. registry.at .. "/copies/mixed:" .. ("x"):rep(128), to, { all = true }))
  end)

  it("may be larger than a document may be, up to max_bytes", function()
    local large = WASM .. ("x"):rep(5 << 20)
    helper.write(folder .. "/large.wasm", large)
    local ref = "oci://" .. registry.at .. "/team/large:1"
    assert(resolver():copy(folder .. "/large.wasm", ref))
    assert.is_true(tostring(assert(resolver():resolve(ref))) == large)
    requests(registry)
    local blob, err = resolver({ max_bytes = 1 << 20 }):resolve(ref)
    assert.is_nil(blob)
    assert.equal("too_large", err.kind)
    assert.same({ "GET team/large/manifests/1" }, requests(registry))
  end)

  it("is inspected, and its tags are listed", function()
    local found = assert(resolver():inspect(at))
    assert.equal("sha256:" .. pushed.digest, found.digest)
    assert.equal("application/vnd.wasm.config.v0+json", found.config.media_type)
    assert.same({ "manifest.toml", "worker.wasm", "state.json" }, { found.layers[1].title, found.layers[2].title, found.layers[3].title })
    assert.equal("1.2", found.annotations["org.opencontainers.image.version"])
    local tags = assert(resolver():tags(at))
    table.sort(tags)
    assert.same({ "1.2", "1.2.package" }, tags)
  end)
end)

describe("what cannot be a title", function()
  it("cannot be pushed, nor a component", function()
    for package, words in pairs { ["../x.wasm"] = "cannot be the title", ["/etc/x.wasm"] = "cannot be the title",
      ["data:,x"] = "cannot be the title", ["component.wasm"] = "wkg oci push" } do
      helper.write(folder .. "/x.wasm", WASM)
      helper.write(folder .. "/actor/component.wasm", "\0asm\13\0\1\0")
      local path = helper.write(folder .. "/actor/other.toml", ('name = "x"\npackage = "%s"\n'):format(package))
      local pushed, err = resolver({ policy = { rewrite = function(ref, ctx)
        return ref:find "^/etc" and folder .. "/x.wasm" or theaterref.policy.default.rewrite(ref, ctx)
      end } }):push(path, "oci://" .. registry.at .. "/team/none:1")
      assert.is_nil(pushed)
      assert.matches(words, tostring(err), 1, true)
    end
    assert.is_nil((resolver():tags("oci://" .. registry.at .. "/team/none")))
  end)
end)

describe("a manifest from a registry", function()
  local allow = theaterref.policy.default.allow

  local function allows(ref, from) return (allow(ref, { purpose = "package", manifest_reference = from, origin = from })) end

  it("may name registries and https, but nothing local and no plain http", function()
    for ref, allowed in pairs { ["oci://ghcr.io/a/b:1"] = true, ["https://h/x"] = true, ["data:,x"] = true, ["http://h/x"] = false,
      ["/etc/passwd"] = false, ["store://s/x"] = false, ["oci://127.0.0.1:5000/a"] = false, ["oci://localhost/a"] = false,
      ["oci://x.localhost:5000/a"] = false, ["oci://[::1]:5000/a"] = false } do
      assert.equal(allowed, allows(ref, "oci://ghcr.io/team/worker:1#title=manifest.toml"), ref)
    end
    assert.is_true(allows("oci://127.0.0.1:5000/a", "oci://127.0.0.1:5000/b"))
    assert.is_true(allows("oci://ghcr.io/a", "https://h/m.toml"))
    assert.is_false(allows("oci://127.0.0.1/a", "https://h/m.toml"))
  end)

  it("that came by https may not name a registry whose option is `plain_http`", function()
    local nginx = helper.nginx()
    local function plan(package, registries)
      nginx:put("m.toml", ('name = "x"\npackage = "%s"\n'):format(package))
      local _, err = resolver({ retries = 0, ca_file = nginx.ca, registries = registries }):plan(nginx.https .. "/m.toml")
      return err
    end
    local err = plan("oci://registry.internal/a/b:1", { ["Registry.Internal:443"] = { plain_http = true } })
    assert.equal("denied", err.kind)
    assert.matches("may not name plain http", err.message, 1, true)
    assert.equal("denied", plan("oci://" .. registry.at .. "/a/b:1").kind)
    assert.equal("tls", plan("oci://" .. registry.at .. "/a/b:1", { [registry.at] = { plain_http = false } }).kind)
    nginx:stop()
    local plain = { ["a.internal"] = true, ["b.internal"] = true }
    assert.is_true((allow("oci://a.internal/x", { purpose = "package", origin = "oci://b.internal/y", plain_http = plain })))
    assert.is_false((allow("oci://a.internal/x", { purpose = "package", origin = "oci://c.internal/y", plain_http = plain })))
  end)

  it("is allowed by its registry's host, in policy.only", function()
    local only = theaterref.policy.only { hosts = { "ghcr.io" } }
    assert.is_true((only("oci://ghcr.io/a/b", { purpose = "direct" })))
    assert.is_false((only("oci://docker.io/a/b", { purpose = "direct" })))
    only = theaterref.policy.only { prefixes = { "oci://ghcr.io/team/" } }
    assert.is_true((only("oci://ghcr.io/team/b:1", { purpose = "direct" })))
    assert.is_false((only("oci://ghcr.io/other/b:1", { purpose = "direct" })))
  end)

  it("cannot name another place by a path that climbs", function()
    put_artifact(registry.at, "team/climbs", "1", { { "manifest.toml", 'name = "x"\npackage = "../../etc/passwd"\n', "text/plain" } })
    local plan, err = resolver():plan("oci://" .. registry.at .. "/team/climbs:1")
    assert.is_nil(plan)
    assert.matches("no layer with the title '../../etc/passwd'", tostring(err), 1, true)
  end)
end)

describe("a policy", function()
  local at, to, digest

  setup(function()
    at, to = "oci://" .. registry.at .. "/judged/worker:1", "oci://" .. registry.at .. "/judged/copy:1"
    digest = put_artifact(registry.at, "judged/worker", "1", { { "worker.wasm", WASM .. "judged" } })
  end)

  local function denied(kind, words, copied, err)
    assert.is_nil(copied)
    assert.same({ kind, true }, { err.kind, tostring(err):find(words, 1, true) ~= nil }, tostring(err))
  end

  it("is asked what may be read, for copies of artifacts, lists of tags and inspections too", function()
    local asked = {}
    local r = resolver { policy = { allow = function(ref, ctx)
      asked[#asked + 1] = ref .. " for " .. ctx.purpose
      return false, "nothing at all"
    end } }
    requests(registry)
    denied("denied", "nothing at all", r:copy(at, to, { all = true }))
    denied("denied", "nothing at all", r:tags("oci://" .. registry.at .. "/judged/worker"))
    denied("denied", "nothing at all", r:inspect(at))
    assert.same({ at .. " for direct", "oci://" .. registry.at .. "/judged/worker:latest for direct", at .. " for direct" }, asked)
    assert.same({}, requests(registry))
  end)

  it("judges an artifact before it is copied, and what was judged is what is copied", function()
    denied("denied", "no digest", resolver { policy = { integrity = function() return nil, "no digest" end } }
      :copy(at, to, { all = true }))
    denied("rejected", "too new", resolver { policy = { accept = function() return false, "too new" end } }:copy(at, to, { all = true }))
    denied("denied", "unsigned", resolver { policy = { signatures = function() return nil, "unsigned" end } }:copy(at, to, { all = true }))
    local key = helper.write(folder .. "/release.pub", helper.run_ok "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout 2>&-")
    denied("untrusted", "0 of 1 signatures", resolver { signatures = { keys = { key } } }:copy(at, to, { all = true }))
    helper.write(folder .. "/empty.lock", "theaterref lockfile 1\n")
    denied("denied", "not in the lockfile", resolver { lockfile = folder .. "/empty.lock" }:copy(at, to, { all = true }))
    denied("http_status", "no such", resolver():inspect(to))
    local moving = "oci://" .. registry.at .. "/judged/moving:1"
    local first = put_artifact(registry.at, "judged/moving", "1", { { "worker.wasm", WASM .. "first" } })
    local copied = assert(resolver { policy = { accept = function()
      put_artifact(registry.at, "judged/moving", "1", { { "worker.wasm", WASM .. "second" } })
      return true
    end } }:copy(moving, to, { all = true }))
    assert.equal(first, copied.digest)
    assert.equal(WASM .. "first", tostring(assert(resolver():resolve(to))))
    -- Bytes from a store tell nothing of the manifest that the tag has now.
    local r = resolver { home = folder .. "/home", policy = { integrity = function()
      return { sha256 = core.digest(WASM .. "judged"), store = "judged" }
    end } }
    assert(theaterref.content_store("judged", { home = folder .. "/home", algorithm = "sha256" }):put(WASM .. "judged"))
    denied("denied", "no rule gives the digest of their manifest", r:copy(at, to, { all = true }))
    assert.equal(digest, assert(resolver():copy(at, to, { all = true })).digest)
  end)

  it("with a lockfile lets the artifact of a locked manifest be copied", function()
    local worker, lockfile = "oci://" .. registry.at .. "/judged/locked:1", folder .. "/judged.lock"
    local pushed = push(worker)
    helper.run_ok(("%s/bin/theaterref lock %s -o %s"):format(folder, worker, lockfile))
    assert.equal(pushed.digest, assert(resolver { lockfile = lockfile }:copy(worker, to, { all = true })).digest)
    assert.equal(pushed.digest, assert(resolver { lockfile = lockfile }:inspect(worker)).digest:sub(8))
    put_artifact(registry.at, "judged/locked", "1", { { "worker.wasm", WASM .. "moved on" } })
    assert.equal(pushed.digest, assert(resolver { lockfile = lockfile }:inspect(worker)).digest:sub(8))
    helper.write(folder .. "/empty.lock", "theaterref lockfile 1\n")
    denied("denied", "not in the lockfile", resolver { lockfile = folder .. "/empty.lock" }:inspect(worker))
    denied("denied", "unlocked", resolver { policy = { integrity = function() return nil, "unlocked" end } }:inspect(worker))
    helper.write(folder .. "/bare.lock", ("theaterref lockfile 1\nsha256=%s  %s\n"):format(core.digest(WORKER), worker))
    denied("denied", "has no manifest=", resolver { lockfile = folder .. "/bare.lock" }:inspect(worker))
    assert.equal(pushed.digest, assert(resolver { lockfile = lockfile }:copy(worker, to, { all = true })).digest)
  end)
end)

describe("a lockfile", function()
  local up, lockfile

  setup(function()
    up, lockfile = "oci://" .. registry.at .. "/up/worker:1", folder .. "/mirrored.lock"
    for _, place in ipairs { "/up/worker:1", "/mirror/worker:1", "/cache/up/worker:1" } do push("oci://" .. registry.at .. place) end
    helper.write(folder .. "/mirror.lua", ('return { rewrite = theaterref.policy.mirror { ["oci://%s/up/"] = { "oci://%s/mirror/", "oci://%s/up/" } } }')
      :format(registry.at, registry.at, registry.at))
  end)

  it("has a line for each mirror as a plan asks for it", function()
    helper.run_ok(("%s/bin/theaterref lock %s --policy %s/mirror.lua -o %s"):format(folder, up, folder, lockfile))
    assert.equal("worker", assert(resolver { lockfile = lockfile, policy = folder .. "/mirror.lua" }:plan(up)).name)
    assert.equal("worker", assert(resolver { lockfile = lockfile }:plan(up)).name)
    assert.is_nil(helper.read(lockfile):find "worker:1\n")
  end)

  it("that was written without mirrors works with those of the registry's options", function()
    helper.run_ok(("%s/bin/theaterref lock %s -o %s"):format(folder, up, lockfile))
    requests(registry)
    local registries = { [registry.at] = { mirrors = { registry.at .. "/cache" } } }
    assert.equal("worker", assert(resolver { lockfile = lockfile, registries = registries }:plan(up)).name)
    for _, request in ipairs(requests(registry)) do assert.matches("^GET cache/up/worker/blobs/", request) end
  end)
end)

describe("copies", function()
  it("go from any place to any other that can be written", function()
    local r = resolver { home = folder .. "/home" }
    local worker = folder .. "/actor/worker.wasm"
    local one = "oci://" .. registry.at .. "/copies/one:1"
    local to_registry = assert(r:copy(worker, one))
    assert.equal(to_registry.reference, assert(r:copy(worker, one)).reference)
    assert.equal("worker.wasm", assert(r:inspect(one)).layers[1].title)
    local to_store = assert(r:copy(to_registry.reference, "store://copies/a/worker"))
    assert(r:copy(to_store.reference, folder .. "/copy.wasm"))
    assert.equal(helper.read(worker), helper.read(folder .. "/copy.wasm"))
    for to, words in pairs { ["https://h/x"] = "nothing can be written to the scheme https",
      ["store://copies/hash/" .. ("0"):rep(40)] = "give a label", [one .. "@sha256:" .. ("0"):rep(64)] = "to a tag, not to a digest" } do
      local copied, err = r:copy(worker, to)
      assert.is_nil(copied)
      assert.matches(words, err.message, 1, true)
    end
  end)

  it("to a title need one that can be a file's name", function()
    for title, why in pairs { ["%FF"] = "it is not UTF-8", ["../../etc/passwd"] = "it has the part '..'", ["%2Fetc/x"] = "it is an absolute path",
      [("x"):rep(2000)] = "it is longer than 255 bytes" } do
      local copied, err = resolver():copy(folder .. "/actor/worker.wasm", "oci://" .. registry.at .. "/titles/x:1#title=" .. title)
      assert.is_nil(copied)
      assert.equal("invalid_reference", err.kind)
      assert.matches("its title cannot be that of a layer: " .. why, tostring(err), 1, true)
    end
  end)

  it("of an index have all that it leads to, and signatures", function()
    local digest = put_artifact(registry.at, "multi/x", "wasm", { { "a.wasm", WASM .. "of the index" } })
    local other = put_artifact(registry.at, "multi/x", "amd64", { { "a", "of another platform", "application/x-tar" } })
    local size = assert(resolver():inspect("oci://" .. registry.at .. "/multi/x:wasm")).bytes
    local other_size = assert(resolver():inspect("oci://" .. registry.at .. "/multi/x:amd64")).bytes
    local index = ('{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"sha256:%s","size":%d,"platform":'
      .. '{"architecture":"amd64","os":"linux"}},{"mediaType":"%s","digest":"sha256:%s","size":%d,"platform":{"architecture":"wasm",'
      .. '"os":"wasip1"}}]}'):format(INDEX, MANIFEST, other, other_size, MANIFEST, digest, size)
    assert.equal(201, put(registry.at, "/v2/multi/x/manifests/1", "PUT", index, INDEX).status)
    assert.equal(WASM .. "of the index", tostring(assert(resolver():resolve("oci://" .. registry.at .. "/multi/x:1"))))
    put_artifact(registry.at, "multi/x", "sha256-" .. core.digest(index) .. ".sig", { { "sig", "signed", "text/plain" } })
    local copied = assert(resolver():copy("oci://" .. registry.at .. "/multi/x:1", "oci://" .. registry.at .. "/multi/y:2", { all = true }))
    assert.equal(core.digest(index), copied.digest)
    assert.equal(WASM .. "of the index", tostring(assert(resolver():resolve("oci://" .. registry.at .. "/multi/y:2"))))
    assert.equal("signed", tostring(assert(resolver():resolve(("oci://%s/multi/y:sha256-%s.sig"):format(registry.at, copied.digest)))))
  end)
end)

describe("a copy of all", function()
  local bad

  setup(function() bad = helper.bad_registry() end)
  teardown(function() bad:stop() end)

  local function copy(from, to)
    return resolver({ retries = 0 }):copy("oci://" .. from, "oci://" .. to, { all = true })
  end

  local function index_of(entries)
    return ('{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}'):format(INDEX, table.concat(entries, ","))
  end

  it("keeps signatures that the target has, and adds those of the source", function()
    local digest
    for _, name in ipairs { "signed/from", "signed/to" } do
      digest = put_artifact(registry.at, name, "1", { { "x.wasm", WASM .. "signed twice" } })
      local own = put_artifact(registry.at, name, "own", { { "s", "by " .. name, "text/plain" } })
      local size = assert(resolver():inspect(("oci://%s/%s:own"):format(registry.at, name))).bytes
      local list = index_of { ('{"mediaType":"%s","digest":"sha256:%s","size":%d}'):format(MANIFEST, own, size) }
      assert.equal(201, put(registry.at, ("/v2/%s/manifests/sha256-%s"):format(name, digest), "PUT", list, INDEX).status)
      put_artifact(registry.at, name, "sha256-" .. digest .. ".sig", { { "s", "signature by " .. name, "text/plain" } })
    end
    for _ = 1, 2 do
      assert(copy(registry.at .. "/signed/from:1", registry.at .. "/signed/to:1"))
      local to = ("oci://%s/signed/to:sha256-%s"):format(registry.at, digest)
      local list, signatures = assert(resolver():inspect(to)).manifests, assert(resolver():inspect(to .. ".sig")).layers
      assert.equal(2, #list)
      assert.equal(2, #signatures)
      assert.equal("sha256:" .. core.digest "signature by signed/to", signatures[1].digest)
      assert.equal("sha256:" .. core.digest "signature by signed/from", signatures[2].digest)
      for _, entry in ipairs(list) do
        local layer = assert(resolver():inspect(("oci://%s/signed/to@%s"):format(registry.at, entry.digest))).layers[1]
        assert(resolver():resolve(("oci://%s/signed/to@%s"):format(registry.at, entry.digest)), layer.digest)
      end
    end
  end)

  it("reads each document and each blob once, and not more than there should be", function()
    local digest = put_artifact(bad.at, "quiet/deep", "leaf", { { "x.wasm", WASM .. "leaf" } })
    for _ = 1, 4 do
      local entry = ('{"mediaType":"%s","digest":"sha256:%s","size":1}'):format(INDEX, digest)
      local index = index_of { entry, entry, entry, entry, entry, entry }
      assert.equal(201, put(bad.at, "/v2/quiet/deep/manifests/1", "PUT", index, INDEX).status)
      digest = core.digest(index)
    end
    bad:log()
    assert(copy(bad.at .. "/quiet/deep:1", registry.at .. "/deep/x:1"))
    local count = select(2, bad:log():gsub("GET", ""))
    assert.is_true(count < 60, count)
    local entries = {}
    for i = 1, 1001 do
      local document = ('{"schemaVersion":2,"mediaType":"%s","layers":[],"annotations":{"n":"%d"}}'):format(MANIFEST, i)
      put(bad.at, "/v2/quiet/wide/manifests/t", "PUT", document, MANIFEST)
      entries[i] = ('{"mediaType":"%s","digest":"sha256:%s","size":%d}'):format(MANIFEST, core.digest(document), #document)
    end
    put(bad.at, "/v2/quiet/wide/manifests/1", "PUT", index_of(entries), INDEX)
    local copied, err = copy(bad.at .. "/quiet/wide:1", bad.at .. "/quiet/other:1")
    assert.is_nil(copied)
    assert.equal("too_large", err.kind)
  end)

  it("of a layer that says it is huge fails before it is read", function()
    local config, layer = put_blob(bad.at, "quiet/huge", "{}"), put_blob(bad.at, "quiet/huge", "x")
    for _, size in ipairs { 1 << 50, -1 } do
      local document = ('{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"x/y","digest":"%s","size":2},"layers":[%s]}'):format(
        MANIFEST, config, descriptor(layer, size, "x"))
      put(bad.at, "/v2/quiet/huge/manifests/1", "PUT", document, MANIFEST)
      local copied, err = copy(bad.at .. "/quiet/huge:1", registry.at .. "/huge/x:1")
      assert.is_nil(copied)
      assert.equal("too_large", err.kind)
      assert.matches("(max_bytes)", tostring(err), 1, true)
    end
  end)

  it("fails if the registry does not tell what refers to it: only a status that says it cannot means none", function()
    for fault, status in pairs { failing = 500, refused = 403 } do
      put_artifact(bad.at, fault .. "/x", "1", { { "x.wasm", WASM .. fault } })
      local copied, err = copy(bad.at .. "/" .. fault .. "/x:1", registry.at .. "/" .. fault .. "/x:1")
      assert.is_nil(copied)
      assert.matches("reading a list of referrers failed: status " .. status, tostring(err), 1, true)
    end
  end)

  it("of a malformed list of what refers to it, or a media type with a line break, is an error or harmless", function()
    put_artifact(bad.at, "odd/list", "1", { { "x.wasm", WASM .. "odd" } })
    local copied, err = copy(bad.at .. "/odd/list:1", registry.at .. "/odd/list:1")
    assert.is_nil(copied)
    assert.equal("syntax", err.kind)
    local document = '{"schemaVersion":2,"mediaType":"a/b\\r\\nX-Key: injected","layers":[]}'
    put(bad.at, "/v2/quiet/lines/manifests/1", "PUT", document, MANIFEST)
    bad:log()
    assert(copy(bad.at .. "/quiet/lines:1", bad.at .. "/quiet/copied:1"))
    assert.is_falsy(bad:log():find "injected")
  end)

  it("and an inspection show the layers of a document, though an entry is no object", function()
    local layer = put_blob(bad.at, "quiet/entries", "x")
    put(bad.at, "/v2/quiet/entries/manifests/1", "PUT", ('{"schemaVersion":2,"mediaType":"%s","layers":[1,%s]}'):format(MANIFEST,
      descriptor(layer, 1, "x")), MANIFEST)
    local found = assert(resolver():inspect("oci://" .. bad.at .. "/quiet/entries:1"))
    assert.equal(1, #found.layers)
    assert.equal("x", found.layers[1].title)
  end)

  it("of tags is bounded", function()
    bad:log()
    local list, err = resolver():tags("oci://" .. bad.at .. "/many/x")
    assert.is_nil(list)
    assert.equal("too_large", err.kind)
    assert.equal(2, select(2, bad:log():gsub("GET", "")))
  end)
end)

describe("in a cache", function()
  local function count(list, pattern)
    local found = 0
    for _, request in ipairs(list) do found = found + (request:find(pattern) and 1 or 0) end
    return found
  end

  it("an artifact by its digest is fetched once; its layers are shared by digest", function()
    local r = resolver { cache = {} }
    local a = put_artifact(registry.at, "cached/a", "1", { { "x.wasm", WASM .. "shared" } })
    put_artifact(registry.at, "cached/b", "1", { { "other.wasm", WASM .. "shared" }, { "y", "another", "text/plain" } })
    requests(registry)
    local first = assert(r:resolve_cached(("oci://%s/cached/a@sha256:%s"):format(registry.at, a)))
    local again, hit = r:resolve_cached(("oci://%s/cached/a@sha256:%s"):format(registry.at, a))
    assert.is_true(hit)
    assert.is_true(first:same(again))
    assert.equal(2, #requests(registry))
    local other = assert(r:resolve_cached(("oci://%s/cached/b:1"):format(registry.at)))
    assert.is_true(first:same(other))
    assert.equal(0, count(requests(registry), "blobs"))
  end)

  it("a tag is asked for by one HEAD, and what it led to is taken if it is the same", function()
    local r = resolver { cache = {} }
    local ref = "oci://" .. registry.at .. "/cached/c:1"
    put_artifact(registry.at, "cached/c", "1", { { "x.wasm", WASM .. "c1" } })
    assert(r:resolve_cached(ref))
    requests(registry)
    assert.equal(WASM .. "c1", tostring(assert(r:resolve_cached(ref, nil, { revalidate = true }))))
    assert.same({ "HEAD cached/c/manifests/1" }, requests(registry))
    local digest = put_artifact(registry.at, "cached/c", "1", { { "x.wasm", WASM .. "c2" } })
    requests(registry)
    assert.equal(WASM .. "c2", tostring(assert(r:resolve_cached(ref, nil, { revalidate = true }))))
    assert.same({ "HEAD cached/c/manifests/1", "GET cached/c/manifests/sha256:" .. digest,
      "GET cached/c/blobs/sha256:" .. core.digest(WASM .. "c2") }, requests(registry))
    r.cache:refresh(ref)
    assert(r:resolve_cached(ref))
    assert.same({ "HEAD cached/c/manifests/1" }, requests(registry))
    r.cache:remove(ref)
    assert(r:resolve_cached(ref))
    assert.equal(1, #requests(registry))
  end)

  it("a tag is not kept without consent, but what it leads to is", function()
    local events = {}
    local r = resolver { cache = {}, on_event = function(event) events[#events + 1] = event end }
    local ref = "oci://" .. registry.at .. "/cached/d:1"
    helper.write(folder .. "/actor/plain.toml", 'name = "worker"\npackage = "worker.wasm"\n')
    push(ref, folder .. "/actor/plain.toml")
    requests(registry)
    assert(r:plan(ref))
    assert.equal(3, #requests(registry))
    assert(r:plan(ref))
    assert.same({ "HEAD cached/d/manifests/1" }, requests(registry))
    local denies = resolver { cache = {}, policy = { cacheable = function() return false end } }
    assert(denies:plan(ref))
    requests(registry)
    assert(denies:plan(ref))
    assert.is_true(#requests(registry) >= 3)
  end)

  it("on disk, an artifact by its digest outlives the process; no request is made", function()
    local digest = put_artifact(registry.at, "cached/e", "1", { { "x.wasm", WASM .. "e" } })
    for name, ref in pairs { digest = ("oci://%s/cached/e@sha256:%s"):format(registry.at, digest),
      tag = ("oci://%s/cached/e:1"):format(registry.at) } do
      local options = { home = folder .. "/disk-" .. name, cache = { disk = "cache" } }
      assert(resolver(options):resolve_cached(ref))
      requests(registry)
      assert.equal(WASM .. "e", tostring(assert(resolver(options):resolve_cached(ref))))
      assert.same({}, requests(registry))
      options.offline = "none"
      assert.equal(WASM .. "e", tostring(assert(resolver(options):resolve_cached(ref))))
    end
  end)
end)

describe("four states with one cache", function()
  -- Runs the four, the first of which closes midway or not. Returns how often each blob was asked for.
  local function pull_all(does_close)
    local server = helper.bad_registry()
    for i = 0, 199 do
      put_artifact(server.at, "late/r" .. i % 20, "t" .. i, { { "x.wasm", WASM .. ("%d"):format(i % 50) .. ("x"):rep(20000) } })
    end
    server:log()
    local results = threads.run(4, (([[
      local number = ...
      local theaterref = require "theaterref"
      local resolver = theaterref.resolver { log = false, cache = theaterref.resource_cache { name = "oci storm" } }
      math.randomseed(number)
      return function()
        local futures = {}
        for i = 1, 250 do
          local n = number == 1 and i or math.random(0, 199)
          futures[i] = assert(resolver:start(("oci://AT/late/r%d:t%d"):format(n % 20, n % 200), { cached = true }))
          if CLOSES and number == 1 and i == 120 then
            local core = require "theaterref.core"
            local stop = core.now() + 0.12
            while core.now() < stop do -- blobs are on their way, which come after 0.1 s
              for j = 1, 120 do futures[j]:done() end
            end
            return "closed"
          end
        end
        for i = 1, 250 do
          local blob, err = futures[i]:wait()
          assert(blob and #blob > 20000, tostring(err))
        end
        return "done"
      end]]):gsub("%u+", { AT = server.at, CLOSES = tostring(does_close) })))
    assert.same({ does_close and "closed" or "done", "done", "done", "done" }, results)
    local gets = {}
    for digest in server:log():gmatch "GET %S*/blobs/(%S*)" do gets[digest] = (gets[digest] or 0) + 1 end
    assert.is_not_nil(next(gets))
    theaterref.resource_cache({ name = "oci storm" }):close()
    server:stop()
    return gets
  end

  it("pull 200 artifacts that share 50 blobs, and get each blob once", function()
    for digest, count in pairs(pull_all(false)) do assert.equal(1, count, digest) end
  end)

  it("get no blob twice, though a state closes while it gets some", function()
    for digest, count in pairs(pull_all(true)) do assert.equal(1, count, digest) end
  end)
end)

describe("the header of a list's next page", function()
  local links = require "theaterref.registry.link"

  it("is read in all its forms, as its first relation says", function()
    for _, header in ipairs { '</x?a=<>; rel="next"', "</x?a=<>;rel=next", '</x?a=<>; REL="prev NEXT"', '</x?a=<>; title="a;b, \\"<c>"; rel = next',
      '</first>; rel="first", </x?a=<> ; rel="next"', '</y>; rel=prev; rel=next, </x?a=<>; rel=next; rel=prev', "</x?a=<>; a; rel=next" } do
      assert.equal("/x?a=<", links.next(header), header)
    end
    for _, header in ipairs { "", "<", "</x>", '</x>; rel="nextish"', "</x; rel=next", '</x>; title="rel=next"', '</x>; rel="next' } do
      assert.is_nil(links.next(header), header)
    end
    assert.is_nil(links.next(nil))
  end)
end)

describe("a registry at fault", function()
  local bad

  setup(function() bad = helper.bad_registry() end)
  teardown(function() bad:stop() end)

  local function artifact(fault, layers)
    local name = fault .. "/x"
    return put_artifact(bad.at, name, "1", layers or { { "x.wasm", WASM .. fault } }), ("oci://%s/%s:1"):format(bad.at, name)
  end

  local function fails(kind, words, ref)
    local blob, err = resolver { cache = {}, retries = 0 }:resolve_cached(ref)
    assert.is_nil(blob)
    assert.equal(kind, err.kind)
    assert.matches(words, tostring(err), 1, true)
  end

  it("cannot pass other bytes, by digest or by what it says of a tag", function()
    local digest, ref = artifact "wrong"
    fails("digest_mismatch", "", ref)
    fails("digest_mismatch", "", ("oci://%s/wrong/x@sha256:%s"):format(bad.at, digest))
    local _, lying = artifact "lying"
    local blob, err = resolver():resolve(lying)
    assert.is_nil(blob)
    assert.equal("digest_mismatch", err.kind)
    fails("digest_mismatch", "was expected by its registry", lying)
  end)

  it("may leave out Docker-Content-Digest, and call a document text/html", function()
    for _, fault in ipairs { "quiet", "plain" } do
      local _, ref = artifact(fault)
      local r = resolver { cache = {} }
      assert.equal(WASM .. fault, tostring(assert(r:resolve_cached(ref))))
      assert.equal(WASM .. fault, tostring(assert(r:resolve_cached(ref, nil, { revalidate = true }))))
    end
  end)

  it("that cuts a blob off is an error", function()
    local _, ref = artifact "short"
    fails("network", "", ref)
  end)

  it("may send blobs from an object store, which sees no credentials", function()
    local _, ref = artifact "moved"
    bad:log()
    local r = resolver { registries = { [bad.at] = { username = "alice", password = "s3cret" } } }
    assert.equal(WASM .. "moved", tostring(assert(r:resolve(ref))))
    for line in bad:log():gmatch "[^\n]+" do
      if line:find "^2" then assert.matches(" %-$", line) end
    end
    local only = resolver { policy = { allow = theaterref.policy.only { hosts = { "127.0.0.1" } } } }
    local blob, err = only:resolve(ref)
    assert.is_nil(blob)
    assert.equal("denied", err.kind)
    assert.matches("localhost", err.message, 1, true)
    assert.is_falsy(tostring(err):find("s3cret", 1, true))
    -- Not even where everything is said.
    local config = helper.write(folder .. "/secret.conf.lua", ('return { registries = { [%q] = { username = "alice", password = '
      .. '"s3cret" } }, cache = { disk = "cache" } }'):format(bad.at))
    local environment = ("THEATER_HOME=%s/secret THEATERREF_LOG=debug"):format(folder)
    for _, words in ipairs { "resolve -o /dev/null", "explain", "oci inspect", "oci tags", "resolve --timeout 0.001 -o /dev/null" } do
      local out, errors = helper.run(("%s %s/bin/theaterref %s %s --config %s -vv"):format(environment, folder, words, ref, config))
      for _, text in ipairs { out, errors } do
        assert.is_falsy(text:find("s3cret", 1, true) or text:find("YWxpY2U6czNjcmV0", 1, true) or text:find("X-Amz", 1, true), text)
      end
    end
    assert.equal("", (helper.run("grep -rl s3cret " .. folder .. "/secret")))
  end)

  it("that is busy is asked again when it says so", function()
    local busy = ("oci://%s/busy/x:1"):format(bad.at)
    for _ = 1, 2 do assert(resolver():push(folder .. "/actor/manifest.toml", busy)) end
    assert.equal(WORKER, tostring(assert(resolver():plan(busy)).package))
  end)

  it("does not tell a private package from one that is missing: the error names both", function()
    for _, name in ipairs { "private/x", "denied/x", "none/x" } do
      fails("http_status", "no such tag '1', or it is private and needs other credentials", ("oci://%s/%s:1"):format(bad.at, name))
    end
  end)

  it("lists its tags on several pages, with relative links", function()
    for i = 1, 5 do put_artifact(bad.at, "pages/x", "t" .. i, { { "x", "x" } }) end
    assert.same({ "t1", "t2", "t3", "t4", "t5" }, assert(resolver():tags("oci://" .. bad.at .. "/pages/x")))
  end)

  it("takes uploads in chunks, and at places that change", function()
    for _, fault in ipairs { "chunks", "moving" } do
      local ref = ("oci://%s/%s/up:1"):format(bad.at, fault)
      assert(resolver():push(folder .. "/actor/manifest.toml", ref))
      assert.equal(WORKER, tostring(assert(resolver():plan(ref)).package))
    end
  end)

  it("may have uploads go elsewhere, where nobody learns who sends them", function()
    bad:log()
    local r = resolver { headers = { ["X-Secret"] = "s3cret" }, registries = { [bad.at] = { username = "alice", password = "s3cret" } } }
    local ref = ("oci://%s/away/up:1"):format(bad.at)
    assert(r:copy(folder .. "/actor/worker.wasm", ref))
    local log = bad:log()
    assert.is_truthy(log:find "\n2 PUT")
    assert.is_falsy(log:find "2 PUT [^\n]* Basic")
    assert.equal(WORKER, tostring(assert(resolver():resolve(ref))))
  end)

  it("cannot have uploads go to a host that redirect_hosts does not name", function()
    local function upload(hosts) return resolver({ redirect_hosts = hosts }):copy(folder .. "/actor/worker.wasm", "oci://" .. bad.at .. "/local/x:1") end
    local result, err = upload {}
    assert.is_nil(result)
    assert.equal("denied", err.kind)
    assert.matches("leads to localhost; to allow it, add that host to redirect_hosts", tostring(err), 1, true)
    assert(upload { "localhost" })
  end)

  it("that answers an upload with another digest, or fails amid it, gets no tag", function()
    for _, fault in ipairs { "answers", "broken" } do
      local ref = ("oci://%s/%s/up:1"):format(bad.at, fault)
      local pushed, err = resolver { retries = 0 }:push(folder .. "/actor/manifest.toml", ref)
      assert.is_nil(pushed)
      assert.is_not_nil(err)
      assert.is_nil((resolver():tags(ref)))
    end
  end)

  it("that answers a document with 202, or with a malformed digest, has not written it", function()
    for fault, words in pairs { later = "writing a manifest failed: status 202", malformed = "answered the digest sha256:?x?",
      brief = "answered the digest sha512:abc" } do
      local copied, err = resolver():copy(folder .. "/actor/worker.wasm", ("oci://%s/%s/x:1"):format(bad.at, fault))
      assert.is_nil(copied)
      assert.equal(fault == "later" and "http_status" or "digest_mismatch", err.kind)
      assert.matches(words, err.message, 1, true)
    end
  end)

  it("whose answers to what ends an upload are lost is asked whether it succeeded", function()
    local copied = assert(resolver({ retries = 1 }):copy(folder .. "/actor/worker.wasm", "oci://" .. bad.at .. "/lost/x:1"))
    assert.equal(helper.read(folder .. "/actor/worker.wasm"), tostring(assert(resolver():resolve(copied.reference))))
    local pushed = assert(resolver({ retries = 0 }):push(folder .. "/actor/manifest.toml", "oci://" .. bad.at .. "/lost/y:1"))
    assert.equal("worker", assert(resolver():plan(pushed.reference)).name)
  end)

  it("gets the documents of a push by digest before any tag", function()
    bad:log()
    push("oci://" .. bad.at .. "/quiet/order:1")
    local names = {}
    for name in bad:log():gmatch "PUT /v2/quiet/order/manifests/(%S+)" do names[#names + 1] = name:gsub(":.*", "") end
    assert.same({ "sha256", "sha256", "1", "1.package" }, names)
  end)

  it("that refuses a tag gets none beside it, and is not taken for one that speaks https", function()
    local pushed, err = resolver { retries = 0 }:push(folder .. "/actor/manifest.toml", "oci://" .. bad.at .. "/fixed/x:1")
    assert.is_nil(pushed)
    assert.matches("writing the tag '1' failed: status 400: TAG_IMMUTABLE", tostring(err), 1, true)
    assert.is_nil(tostring(err):find "plain_http")
    assert.is_nil((resolver():tags("oci://" .. bad.at .. "/fixed/x")))
    push("oci://" .. bad.at .. "/quiet/fixed:1")
    assert.is_nil((resolver { retries = 0 }:copy("oci://" .. bad.at .. "/quiet/fixed:1", "oci://" .. bad.at .. "/fixed/y:1", { all = true })))
    assert.is_nil((resolver():tags("oci://" .. bad.at .. "/fixed/y")))
  end)

  it("has no upload left open: where a blob cannot be mounted or read, or is wanted in chunks or refused", function()
    push("oci://" .. bad.at .. "/quiet/source:1")
    local before = tonumber(helper.run_ok("curl -s http://" .. bad.at .. "/open")) -- of other specs
    local function open_uploads(to, from)
      bad:log()
      local done, err = resolver { retries = 0 }:copy("oci://" .. bad.at .. "/" .. from .. ":1", "oci://" .. bad.at .. "/" .. to .. ":1", { all = true })
      local open = helper.run_ok("curl -s http://" .. bad.at .. "/open")
      return tonumber(open) - before, done, err, select(2, bad:log():gsub("POST", ""))
    end
    local open, done, err, begun = open_uploads("unmounted/x", "quiet/source")
    assert.is_not_nil(done, err)
    assert.equal(0, open)
    assert.equal(5, begun)
    assert.equal(0, (open_uploads("chunks/source", "quiet/source")))
    put_artifact(bad.at, "gone/source", "1", { { "x.wasm", WASM .. "gone" } })
    open, done = open_uploads("unmounted/gone", "gone/source")
    assert.is_nil(done)
    assert.equal(0, open)
    open, done = open_uploads("unwilling/x", "quiet/source")
    assert.is_nil(done)
    assert.equal(0, open)
  end)

  it("may take longer to answer an upload than stall_timeout", function()
    assert(resolver { stall_timeout = 0.2, retries = 0 }:copy(folder .. "/actor/worker.wasm", "oci://" .. bad.at .. "/slow/x:1"))
  end)

  it("is quoted up to a limit", function()
    local _, err = resolver { retries = 0 }:tags("oci://" .. bad.at .. "/talking/x")
    assert.matches("status 500: TOO_BUSY, TOO_BUSY, TOO_BUSY, TOO_BUSY", tostring(err), 1, true)
    assert.is_true(#tostring(err) < 500)
  end)

  it("may ask for chunks of a size that is no integer", function()
    helper.write(folder .. "/big.wasm", WASM .. ("z"):rep(9 << 20))
    assert(resolver():copy(folder .. "/big.wasm", "oci://" .. bad.at .. "/chunks/big:1"))
  end)

  it("that is no authority for its documents cannot harm", function()
    for _, text in ipairs { "{", "[]", '{"layers":[],"manifests":[]}', ("["):rep(100000), '{"layers":[{"digest":"sha256:x"}]}',
      '{"schemaVersion":2,"manifests":[{"digest":"sha256:' .. ("a"):rep(64) .. '","size":1,"platform":{"architecture":"a"}},'
        .. '{"digest":"sha256:' .. ("b"):rep(64) .. '","size":1}]}' } do
      put(bad.at, "/v2/hostile/x/manifests/1", "PUT", (text:gsub('"digest":', '"digest" :')), MANIFEST)
      local blob, err = resolver():resolve("oci://" .. bad.at .. "/hostile/x:1")
      assert.is_nil(blob)
      assert.is_true(err.kind == "syntax" or err.kind == "not_found", tostring(err))
    end
  end)

  it("may send documents up to 4 MiB, whatever max_bytes is for layers", function()
    local layer = descriptor(put_blob(bad.at, "quiet/small", WASM), #WASM, "x.wasm")
    local document = ('{"schemaVersion":2,"mediaType":"%s","layers":[%s]}'):format(MANIFEST, layer)
    local digest = writer.put_document(bad.at, "quiet/small", "1", document .. (" "):rep(2 << 20))
    local ref = "oci://" .. bad.at .. "/quiet/small"
    local r = resolver { max_bytes = #WASM, cache = {} }
    for _, resolve in ipairs { r.resolve, r.resolve_cached } do
      assert.equal(WASM, tostring(assert(resolve(r, ref .. "@sha256:" .. digest))))
      assert.equal(WASM, tostring(assert(resolve(r, ref .. ":1"))))
    end
    assert.equal(1, #assert(r:inspect(ref .. ":1")).layers)
    assert.equal(1, #assert(r:tags(ref)))
    local blob, err = resolver({ max_bytes = #WASM - 1 }):resolve(ref .. ":1")
    assert.is_nil(blob)
    assert.matches("larger than the limit of 7 bytes (max_bytes)", tostring(err), 1, true)
  end)

  it("cannot have a million objects decoded", function()
    local document = ('{"schemaVersion":2,"mediaType":"%s","layers":[{}%s]}'):format(MANIFEST, (",{}"):rep(1300000))
    writer.put_document(bad.at, "quiet/objects", "1", document)
    local found, err = resolver():inspect("oci://" .. bad.at .. "/quiet/objects:1")
    assert.is_nil(found)
    assert.equal("too_large", err.kind)
  end)

  it("cannot send a document of more than 4 MiB", function()
    local layer = descriptor(put_blob(bad.at, "quiet/long", WASM), #WASM, "x.wasm")
    for _, size in ipairs { 4 << 20, (4 << 20) + 1 } do
      local document = ('{"schemaVersion":2,"mediaType":"%s","layers":[%s]}'):format(MANIFEST, layer)
      writer.put_document(bad.at, "quiet/long", "1", document .. (" "):rep(size - #document))
      local blob, err = resolver():resolve("oci://" .. bad.at .. "/quiet/long:1")
      assert.equal(size == 4 << 20, blob ~= nil)
      assert.equal(blob == nil and "too_large" or nil, err and err.kind)
    end
  end)

  it("that lists what refers to an artifact has that copied, as a list or as a tag", function()
    local name = "lists/x"
    local digest = put_artifact(bad.at, name, "1", { { "x.wasm", WASM .. "signed" } })
    local config = put_blob(bad.at, name, "{}")
    local signature = put_blob(bad.at, name, "signature")
    local document = ('{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"x/y","digest":"%s","size":2},"layers":[%s],'
      .. '"subject":{"mediaType":"%s","digest":"sha256:%s","size":1}}'):format(MANIFEST, config, descriptor(signature, 9, "s", "text/plain"),
      MANIFEST, digest)
    local info = put(bad.at, "/v2/lists/x/manifests/sha256:" .. core.digest(document), "PUT", document, MANIFEST)
    assert.equal(201, info.status)
    for to, listed in pairs { [bad.at .. "/lists/y"] = true, [registry.at .. "/lists/y"] = false } do
      assert(resolver():copy("oci://" .. bad.at .. "/lists/x:1", "oci://" .. to .. ":2", { all = true }))
      assert.equal("signature", tostring(assert(resolver():resolve("oci://" .. to .. "@sha256:" .. core.digest(document)))))
      local tag = resolver():inspect("oci://" .. to .. ":sha256-" .. digest)
      assert.equal(listed, tag == nil)
      if tag then assert.equal("sha256:" .. core.digest(document), tag.manifests[1].digest) end
    end
  end)

  it("that is gone is no harm to a tag that may be stale", function()
    local gone = helper.bad_registry()
    put_artifact(gone.at, "quiet/x", "1", { { "x.wasm", WASM .. "stale" } })
    local ref = ("oci://%s/quiet/x:1"):format(gone.at)
    local function options(name)
      return { retries = 0, home = folder .. "/" .. name, cache = { ttl = 0, stale_if_error = 60, disk = "cache" } }
    end
    local r = resolver(options "stale")
    assert(r:resolve_cached(ref))
    gone:stop()
    assert.equal(WASM .. "stale", tostring(assert(r:resolve_cached(ref))))
    assert.equal(WASM .. "stale", tostring(assert(resolver(options "stale"):resolve_cached(ref))))
    local blob, err = resolver({ retries = 0 }):resolve(ref)
    assert.is_nil(blob)
    assert.equal("network", err.kind)
  end)

  it("is no other registry's fault: failures and slowness are its own, and bytes are shared", function()
    local at = {}
    for fault, repository in pairs { gone = bad.at .. "/gone/same", stuck = bad.at .. "/stuck/same", good = registry.at .. "/good/same",
      also = bad.at .. "/quiet/same" } do
      at[fault] = ("oci://%s@sha256:%s"):format(repository, put_artifact(repository:match "^[^/]*", repository:match "/(.*)$", "1",
        { { "x.wasm", WASM .. "the same" } }))
    end
    for _, good in ipairs { at.good, at.also } do
      local r = resolver { retries = 0, cache = { negative_ttl = 60 } }
      assert.is_nil((r:resolve_cached(at.gone)))
      assert.equal(WASM .. "the same", tostring(assert(r:resolve_cached(good))))
    end
    local r = resolver { retries = 0, cache = {} }
    local stuck = assert(r:start(at.stuck, { cached = true }))
    bad:log()
    helper.eventually(function()
      stuck:done()
      return bad:log():find "/blobs/"
    end)
    assert.equal(WASM .. "the same", tostring(assert(r:resolve(at.good, { cached = true, resolve_timeout = 5 }))))
    bad:log()
    assert.equal(WASM .. "the same", tostring(assert(r:resolve(at.gone, { cached = true }))))
    assert.is_falsy(bad:log():find "/blobs/") -- they are there
    stuck:cancel()
  end)

  it("is asked if its mirror has a newer or older document, whose layer is missing", function()
    put_artifact(bad.at, "gone/y", "1", { { "x.wasm", WASM .. "another" } })
    put_artifact(registry.at, "gone/y", "1", { { "x.wasm", WASM .. "good" } })
    local r = resolver { retries = 0, cache = {}, registries = { [registry.at] = { mirrors = { bad.at } } } }
    assert.equal(WASM .. "good", tostring(assert(r:resolve_cached(("oci://%s/gone/y:1"):format(registry.at)))))
    -- A tag does not stay where it led to nothing.
    local ref = ("oci://%s/gone/y:1"):format(bad.at)
    local blob = r:resolve_cached(ref)
    assert.is_nil(blob)
    put_artifact(bad.at, "gone/y", "1", { { "x.wasm", WASM .. "good" } })
    assert.equal(WASM .. "good", tostring(assert(r:resolve_cached(ref))))
  end)

  it("whose documents come by a redirect cannot pass that by to those that allow none, by way of a cache", function()
    local digest, ref = artifact "led"
    for _, reference in ipairs { ref, ("oci://%s/led/x@sha256:%s"):format(bad.at, digest) } do
      local cache = theaterref.resource_cache {}
      local strict = resolver { cache = cache, policy = { allow = function() return true, { redirect_hosts = {} } end } }
      for _ = 1, 2 do
        local blob, err = strict:resolve_cached(reference)
        assert.is_nil(blob)
        assert.equal("denied", err.kind)
        assert(resolver({ cache = cache }):resolve_cached(reference))
      end
    end
  end)

  it("is not believed that it has a blob of another size, or that it mounted one with another digest", function()
    put_artifact(bad.at, "quiet/from", "1", { { "x.wasm", WASM .. "mounted" } })
    put_artifact(bad.at, "large/to", "1", { { "x.wasm", WASM .. "mounted" } })
    local from = ("oci://%s/quiet/from:1"):format(bad.at)
    for to, words in pairs { large = "bytes under the sha256", answers = "answered the digest sha256:x" } do
      local copied, err = resolver():copy(from, ("oci://%s/%s/to:2"):format(bad.at, to), { all = true })
      assert.is_nil(copied)
      assert.matches(words, err.message, 1, true)
    end
  end)

  it("is asked for the layers of all references under way while one of them is waited for", function()
    local refs, r = {}, resolver { resolve_timeout = 10, plan_timeout = 10 }
    for i = 1, 4 do
      put_artifact(bad.at, "crowd/x", "t" .. i, { { "manifest.toml", 'name = "x' .. i .. '"\npackage = "x.wasm"\n' },
        { "x.wasm", WASM .. "crowd" .. i } })
      refs[i] = ("oci://%s/crowd/x:t%d#title=x.wasm"):format(bad.at, i)
    end
    local blobs, errs = r:resolve_all(refs)
    for i = 1, 4 do assert.equal(WASM .. "crowd" .. i, tostring(blobs[i] or errs[i])) end
    for _, start in ipairs { "start", "start_plan" } do
      local futures = {}
      for i, ref in ipairs(refs) do futures[i] = assert(r[start](r, start == "start" and ref or ref:match "^[^#]*")) end
      for _, future in ipairs(futures) do assert(future:wait()) end
    end
  end)

  it("is asked for what 'lock' needs of several manifests side by side", function()
    local refs = {}
    for i = 1, 4 do
      put_artifact(bad.at, "crowd/locked", "t" .. i, { { "manifest.toml", 'name = "y' .. i .. '"\npackage = "y.wasm"\n' },
        { "y.wasm", WASM .. "locked" .. i } })
      refs[i] = ("oci://%s/crowd/locked:t%d"):format(bad.at, i)
    end
    local lockfile = folder .. "/crowd.lock"
    helper.run_ok(("%s/bin/theaterref lock --timeout 10 %s -o %s"):format(folder, table.concat(refs, " "), lockfile))
    assert.equal(8, select(2, helper.read(lockfile):gsub("manifest=", "")))
    local _, err, status = helper.run(("%s/bin/theaterref lock oci://%s/quiet/none:1 oci://%s/quiet/none:2 -o %s"):format(folder, bad.at,
      bad.at, lockfile))
    assert.equal(1, status)
    assert.matches("none:1", err, 1, true)
  end)

  it("is asked for the layers of a copied artifact four at a time, and for no more after a failure", function()
    local layers = {}
    for i = 1, 11 do layers[i] = { "l" .. i, WASM .. "copied" .. i } end -- 12 blobs, with the config
    put_artifact(bad.at, "crowd/copied", "1", layers)
    local from, to = ("oci://%s/crowd/copied:1"):format(bad.at), ("oci://%s/crowd/to:1"):format(registry.at)
    assert.equal(12, assert(resolver { plan_timeout = 10 }:copy(from, to, { all = true })).blobs)
    assert.equal(WASM .. "copied11", tostring(assert(resolver():resolve(to .. "#title=l11"))))
    put_artifact(bad.at, "gone/copied", "1", layers)
    bad:log()
    local copied, err = resolver():copy(("oci://%s/gone/copied:1"):format(bad.at), ("oci://%s/gone/to:1"):format(registry.at),
      { all = true })
    assert.is_nil(copied)
    assert.equal("http_status", err.kind)
    assert.is_true(select(2, bad:log():gsub("GET /v2/gone/copied/blobs/", "")) <= 4)
  end)

  it("is asked if its mirror answers a blob with a larger page; alone, its size is the fault, not max_bytes", function()
    for _, at in ipairs { bad.at, registry.at } do put_artifact(at, "large/x", "1", { { "x.wasm", WASM .. "large" } }) end
    local r = resolver { registries = { [registry.at] = { mirrors = { bad.at } } } }
    assert.equal(WASM .. "large", tostring(assert(r:resolve(("oci://%s/large/x:1"):format(registry.at)))))
    local ref, lockfile = ("oci://%s/large/x:1"):format(bad.at), folder .. "/large.lock"
    local blob, err = r:resolve(ref)
    assert.is_nil(blob)
    assert.equal("corrupt", err.kind)
    assert.matches("has more bytes, not the 13 that its manifest says", err.message, 1, true)
    helper.write(lockfile, ("theaterref lockfile 1\nsha256=%s size=13 manifest=%s  %s\n"):format(core.digest(WASM .. "large"),
      ("0"):rep(64), ref))
    blob, err = resolver({ lockfile = lockfile }):resolve(ref)
    assert.is_nil(blob)
    assert.matches("has more bytes, not the 13 that .* says", err.message)
  end)

  it("does not wait for a mirror that is busy or hangs: it is asked once, and after the registry for a while", function()
    local r = resolver { stall_timeout = 0.3, registries = { [registry.at] = { mirrors = { bad.at } } } }
    for _, repository in ipairs { "busy/up", "stuck/up" } do
      for tag = 1, 2 do put_artifact(registry.at, repository, tag, { { "x.wasm", WASM .. repository } }) end
      if repository == "stuck/up" then put_artifact(bad.at, repository, "1", { { "x.wasm", WASM .. repository } }) end
      bad:log()
      assert.is_false(core.origin_fails("http://" .. bad.at))
      local ref = ("oci://%s/%s:"):format(registry.at, repository)
      assert.equal(WASM .. repository, tostring(assert(r:resolve(ref .. "1"))))
      assert.equal(repository == "stuck/up", core.origin_fails("http://" .. bad.at))
      assert.equal(WASM .. repository, tostring(assert(r:resolve(ref .. "2"))))
      local _, err = r:resolve(ref .. "3")
      assert.matches("no such tag '3'", err.message, 1, true)
      assert.matches(registry.at, err.message, 1, true)
      local log = bad:log()
      assert.equal(1, select(2, log:gsub(repository == "busy/up" and "manifests/1" or "blobs/", "")), log)
      assert.equal(repository == "stuck/up", not log:find "manifests/2")
    end
    local limits = require "theaterref.registry.requests"
    assert.equal(5, limits.mirror_document_request({}).stall_timeout)
    assert.equal(5, limits.mirror_document_request({ stall_timeout = -1 }).stall_timeout)
    assert.equal(2, limits.mirror_document_request({ stall_timeout = 2 }).stall_timeout)
  end)

  it("is asked if its mirror has nothing, though a cache remembers that", function()
    put_artifact(registry.at, "mirrored/only", "1", { { "x.wasm", WASM .. "upstream" } })
    local said = {}
    local r = resolver { cache = { negative_ttl = 60 }, registries = { [registry.at] = { mirrors = { bad.at } } },
      log = { level = "warn", sink = function(_, line) said[#said + 1] = line end } }
    for i = 1, 2 do
      assert.equal(WASM .. "upstream", tostring(assert(r:resolve_cached(("oci://%s/mirrored/only:1"):format(registry.at)))))
      assert.matches(("trying oci://%s/mirrored/only:1 instead: %s/mirrored/only: the registry has no such tag"):format(registry.at, bad.at),
        said[i], 1, true)
      r.cache:refresh(("oci://%s/mirrored/only:1"):format(registry.at))
    end
  end)

  it("is asked by its mirrors first, which get no credentials of its own", function()
    put_artifact(registry.at, "mirrored/x", "1", { { "x.wasm", WASM .. "mirrored" } })
    put_artifact(bad.at, "mirrored/x", "1", { { "x.wasm", WASM .. "mirrored" } })
    bad:log()
    local ref = ("oci://%s/mirrored/x:1"):format(registry.at)
    local credentials = { username = "alice", password = "s3cret" }
    requests(registry)
    local r = resolver { registries = { [registry.at] = { username = "alice", password = "s3cret", mirrors = { bad.at } } } }
    assert.equal(WASM .. "mirrored", tostring(assert(r:resolve(ref))))
    assert.same({}, requests(registry))
    local log = bad:log()
    assert.matches("/v2/mirrored/x/manifests/1?ns=" .. registry.at .. " -", log, 1, true)
    assert.is_falsy(log:find "Basic")
    r = resolver { registries = { [registry.at] = credentials }, policy = {
      rewrite = theaterref.policy.mirror { ["oci://" .. registry.at .. "/"] = "oci://" .. bad.at .. "/?ns=docker.io" } } }
    assert.equal(WASM .. "mirrored", tostring(assert(r:resolve(ref))))
    log = bad:log()
    assert.matches("/v2/mirrored/x/manifests/1?ns=docker.io -", log, 1, true)
    assert.is_falsy(log:find "Basic")
  end)

  it("gets the headers of its host with pushes and lists of tags, too", function()
    local r = resolver { hosts = { [bad.at] = { headers = { ["X-Key"] = "host's" } } } }
    bad:log()
    assert(r:push(folder .. "/actor/manifest.toml", "oci://" .. bad.at .. "/team/keyed:1"))
    assert(r:tags("oci://" .. bad.at .. "/team/keyed"))
    for line in bad:log():gmatch "[^\n]+" do assert.matches(" host's$", line) end
  end)

  it("keeps from its mirrors what identifies the caller to it: headers, by host or by the rule `request`", function()
    put_artifact(bad.at, "mirrored/y", "1", { { "x.wasm", WASM .. "y" } })
    local ref, mirrors = ("oci://%s/mirrored/y:1"):format(registry.at), { [registry.at] = { mirrors = { bad.at } } }
    local secrets = { headers = { Authorization = "Bearer s3cret", ["X-Key"] = "s3cret" } }
    for _, options in ipairs { { hosts = { [registry.at] = secrets } }, { headers = secrets.headers },
      { policy = { request = function() return secrets end } } } do
      options.registries = mirrors
      bad:log()
      assert.equal(WASM .. "y", tostring(assert(resolver(options):resolve(ref))))
      assert.is_falsy(bad:log():find "s3cret")
    end
    bad:log()
    assert(resolver { registries = mirrors, hosts = { [bad.at] = { headers = { ["X-Key"] = "mirror's" } } } }:resolve(ref))
    assert.matches("- mirror's", bad:log(), 1, true)
  end)
end)
