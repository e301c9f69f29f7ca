-- Signatures of artifacts in registries, as cosign keeps them: Debian's docker-registry, and one
-- whose faults are ours. The documents are made by hand, with openssl.
local core = require "theaterref.core"
local helper = require "helper"
local writer = require "registry_writer"
local theaterref = require "theaterref"

local WASM = "\0asm\1\0\0\0"
local MANIFEST, INDEX = writer.MANIFEST, writer.INDEX
local put_blob, put_document = writer.put_blob, writer.put_document
local SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
local BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"

local folder, registry, bad

local function make_key(name)
  helper.run_ok(("cd %s && openssl ecparam -name prime256v1 -genkey -noout -out %s.pem && openssl ec -in %s.pem -pubout -out %s.pub 2>&1")
    :format(folder, name, name, name))
end

setup(function()
  folder = helper.temporary_folder()
  registry, bad = helper.registry "open", helper.bad_registry()
  for _, name in ipairs { "release", "second", "stranger" } do make_key(name) end
  helper.command(folder .. "/bin")
end)

teardown(function()
  registry:stop()
  bad:stop()
  helper.remove(folder)
end)

-- ------------------------------------------------------------ what is pushed

-- Puts a manifest with layers, `{ bytes, media type, annotations as JSON }`. Returns its digest
-- and size.
local function put_manifest(at, repository, name, layers, more)
  local list, config = {}, put_blob(at, repository, "{}")
  for i, layer in ipairs(layers) do
    list[i] = ('{"mediaType":"%s","digest":"%s","size":%d,"annotations":{%s}}'):format(layer[2], put_blob(at, repository, layer[1]),
      #layer[1], layer[3] or "")
  end
  local document = ('{"schemaVersion":2,"mediaType":"%s",%s"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s",'
    .. '"size":2},"layers":[%s]}'):format(MANIFEST, more or "", config, table.concat(list, ","))
  name = name or "sha256:" .. core.digest(document)
  return put_document(at, repository, name, document), #document
end

local count = 0

-- Puts a package of its own. Returns its reference, the digest of its manifest, the repository
-- and the manifest's size.
local function package(at, fault)
  count = count + 1
  at = at or registry.at
  local repository = (fault or "signed") .. "/p" .. count
  local digest, size = put_manifest(at, repository, "1", { { WASM .. count, "application/wasm" } })
  return ("oci://%s/%s:1"):format(at, repository), digest, repository, size
end

-- -------------------------------------------------------------- what is signed

local function sign(bytes, name)
  helper.write(folder .. "/to-sign", bytes)
  return helper.run_ok(("openssl dgst -sha256 -sign %s/%s.pem %s/to-sign | base64 -w0"):format(folder, name, folder))
end

local function base64(bytes) return helper.run_ok("base64 -w0 " .. helper.write(folder .. "/to-encode", bytes)) end

local function payload(digest)
  return ('{"critical":{"identity":{"docker-reference":"elsewhere.example/x"},"image":{"docker-manifest-digest":"sha256:%s"},'
    .. '"type":"cosign container image signature"},"optional":{"creator":"a spec"}}'):format(digest)
end

local function layer(text, name) return { text, SIMPLE, ('"dev.cosignproject.cosign/signature":"%s"'):format(sign(text, name)) } end

-- Puts layers to the tag of a digest.
local function put_signatures(repository, digest, layers, at)
  return put_manifest(at or registry.at, repository, ("sha256-%s.sig"):format(digest), layers)
end

local function bundle(digest, name, more)
  local kind = "application/vnd.in-toto+json"
  local statement = ('{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s",'
    .. '"predicate":{}}'):format(digest, more or "https://sigstore.dev/cosign/sign/v1")
  return ('{"mediaType":"%s","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":"%s","payloadType":"%s",'
    .. '"signatures":[{"sig":"%s"}]}}'):format(BUNDLE, base64(statement), kind,
    sign(("DSSEv1 %d %s %d %s"):format(#kind, kind, #statement, statement), name))
end

-- Puts bundles that refer to a digest, and their list under the tag for it, as clients do where
-- the registry has none.
local function put_bundles(repository, digest, bundles, at, kind)
  local entries = {}
  for i, text in ipairs(bundles) do
    local of, size = put_manifest(at or registry.at, repository, nil, { { text, BUNDLE } },
      ('"artifactType":"%s","subject":{"mediaType":"%s","digest":"sha256:%s","size":1},'):format(BUNDLE, MANIFEST, digest))
    entries[i] = ('{"mediaType":"%s","digest":"sha256:%s","size":%d,"artifactType":"%s"}'):format(MANIFEST, of, size, kind or BUNDLE)
  end
  if at then return end -- it keeps a list of its own
  put_document(registry.at, repository, "sha256-" .. digest, ('{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}'):format(INDEX,
    table.concat(entries, ",")), INDEX)
end

-- ------------------------------------------------------------------ resolvers

local function key(name) return folder .. "/" .. name .. ".pub" end

local function by(names, threshold, more)
  local answer = { keys = {}, threshold = threshold }
  for i, name in ipairs(names) do answer.keys[i] = key(name) end
  for name, value in pairs(more or {}) do answer[name] = value end
  return { signatures = function(_, ctx)
    assert(ctx.purpose ~= "signature")
    return answer
  end }
end

local function resolver(policy, options)
  local all = { policy = policy, log = false, retries = 0, home = folder .. "/home" }
  for name, value in pairs(options or {}) do all[name] = value end
  return assert(theaterref.resolver(all))
end

local function signers(policy, ref, options)
  local future = assert(resolver(policy, options):start(ref))
  assert(future:wait())
  return future.signed_by
end

local function refusal(policy, ref, options)
  local blob, err = resolver(policy, options):resolve(ref)
  assert.is_nil(blob)
  assert.equal("untrusted", err.kind, tostring(err))
  return err.message
end

-- ----------------------------------------------------------------------- specs

describe("a signature under cosign's tag", function()
  it("counts for the bytes that its manifest leads to, by tag and by digest", function()
    local ref, digest, repository = package()
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    for _, form in ipairs { ref, ref .. "@sha256:" .. digest, ref .. "#sha256=" .. core.digest(WASM .. count) } do
      assert.same({ key "release" }, signers(by { "stranger", "release" }, form))
    end
  end)

  it("is missing: the error says what was looked for, and where", function()
    local ref, digest, repository = package()
    local message = refusal(by { "release" }, ref)
    for _, tag in ipairs { ("oci://%s/%s:sha256-%s.sig: "):format(registry.at, repository, digest),
      ("oci://%s/%s:sha256-%s: "):format(registry.at, repository, digest) } do
      assert.matches(tag, message, 1, true)
    end
    assert.matches("0 of 1 signatures by " .. key "release", message, 1, true)
    assert.matches("has no such tag", message, 1, true)
  end)

  it("is refused by another key, of another payload, and of another image", function()
    local ref, digest, repository = package()
    put_signatures(repository, digest, { layer(payload(digest), "stranger") })
    assert.matches("by another key, or of another payload", refusal(by { "release" }, ref), 1, true)
    local good = layer(payload(digest), "release")
    put_signatures(repository, digest, { { good[1] .. " ", good[2], good[3] } })
    assert.matches("by another key, or of another payload", refusal(by { "release" }, ref), 1, true)
    put_signatures(repository, digest, { layer(payload(("0"):rep(64)), "release") })
    assert.matches("of another artifact, sha256:" .. ("0"):rep(64), refusal(by { "release" }, ref), 1, true)
    put_signatures(repository, digest, { good })
    assert(signers(by { "release" }, ref))
  end)

  it("is refused with a reason of its own if it is keyless", function()
    local ref, digest, repository = package()
    local function certified(name)
      local one = layer(payload(digest), name)
      return { one[1], one[2], one[3] .. ',"dev.sigstore.cosign/certificate":"-----BEGIN CERTIFICATE-----"' }
    end
    put_signatures(repository, digest, { certified "stranger" })
    assert.matches("it is a keyless signature", refusal(by { "release" }, ref), 1, true)
    put_signatures(repository, digest, { certified "release" }) -- beside a key, a certificate is ignored
    assert.same({ key "release" }, signers(by { "release" }, ref))
  end)

  it("is refused if its payload is not exactly what cosign signs", function()
    local ref, digest, repository = package()
    local good, other = payload(digest), ("0"):rep(64)
    local function changed(pattern, to) return (assert(good:gsub(pattern, to, 1))) end
    local field = '"docker%-manifest%-digest":"sha256:%x+"'
    for why, text in pairs {
      ["'docker-manifest-digest' twice"] = changed(field, ('%%0,"docker-manifest-digest":"sha256:%s"'):format(other)),
      ["'image' has members that"] = changed(field, ('%%0,"Docker-Manifest-Digest":"sha256:%s"'):format(other)),
      ["'image' twice"] = changed('"image":', '"image":{"docker-manifest-digest":"sha256:' .. other .. '"},%0'),
      ["'critical' twice"] = changed('"critical":', '"critical":{},%0'),
      ["payload has members that"] = changed('"critical":', '"Critical":{},%0'),
      ["'critical' has members that"] = changed('"image":', '"images":{},%0'),
      ["not of the type"] = changed("cosign container", "atomic container"),
      ["wrong type"] = changed('"sha256:%x+"', "[%0]"),
      ["is not sha256: and"] = changed("sha256:%x+", function(found) return found:upper() end),
      ["has no 'docker-manifest-digest'"] = changed(field, ""),
      ["has no 'critical'"] = "{}",
      ["not a valid JSON object"] = good .. "x",
    } do
      put_signatures(repository, digest, { layer(text, "release") })
      assert.matches(why, refusal(by { "release" }, ref), 1, true)
    end
  end)

  it("may be over the index or over the manifest that it leads to", function()
    local _, digest, repository, size = package()
    local index = ('{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"sha256:%s","size":%d}]}'):format(INDEX,
      MANIFEST, digest, size)
    local index_digest = put_document(registry.at, repository, "all", index, INDEX)
    local ref = ("oci://%s/%s:all"):format(registry.at, repository)
    put_signatures(repository, index_digest, { layer(payload(index_digest), "release") })
    put_signatures(repository, digest, { layer(payload(digest), "second") })
    assert.same({ key "release" }, signers(by { "release" }, ref))
    assert.same({ key "second" }, signers(by { "second" }, ref))
    assert.same({ key "release", key "second" }, signers(by({ "release", "second" }, 2), ref))
    refusal(by { "release" }, ("oci://%s/%s:1"):format(registry.at, repository)) -- no link of this chain
  end)

  it("counts once for each key: two layers meet a threshold of two", function()
    local ref, digest, repository = package()
    local text = payload(digest)
    put_signatures(repository, digest, { layer(text, "release"), layer(text .. " ", "release") })
    assert.matches("1 of 2 signatures", refusal(by({ "release", "second" }, 2), ref), 1, true)
    put_signatures(repository, digest, { layer(text, "release"), layer(text, "stranger"), layer(text, "second") })
    assert.same({ key "release", key "second" }, signers(by({ "release", "second" }, 2), ref))
  end)

  it("has limits: eight layers, a megabyte, and no index in its place", function()
    local ref, digest, repository = package()
    local layers, stranger = {}, layer(payload(digest), "stranger")
    for i = 1, 8 do layers[i] = stranger end
    layers[9] = layer(payload(digest), "release")
    put_signatures(repository, digest, layers)
    refusal(by { "release" }, ref)
    layers = {}
    for i = 1, 3 do layers[i] = layer(payload(digest) .. (" "):rep(400 << 10) .. i, "stranger") end
    put_signatures(repository, digest, layers)
    assert.matches("more than 1 MiB", refusal(by { "release" }, ref), 1, true)
    put_signatures(repository, digest, { layer(payload(digest), "release"), { ("x"):rep(3 << 20), SIMPLE } })
    assert(signers(by { "release" }, ref)) -- not a signature: it is not even fetched
    local tag = ("sha256-%s.sig"):format(digest)
    local signature, size = put_manifest(registry.at, repository, nil, { layer(payload(digest), "release") })
    put_document(registry.at, repository, tag, ('{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"sha256:%s",'
      .. '"size":%d}]}'):format(INDEX, MANIFEST, signature, size), INDEX)
    assert.matches("there are no signatures of cosign in this tag's manifest", refusal(by { "release" }, ref), 1, true)
    put_manifest(registry.at, repository, tag, { layer(payload(digest), "release") },
      ('"annotations":{"x":"%s"},'):format(("x"):rep(2 << 20)))
    refusal(by { "release" }, ref)
  end)

  it("has a time limit for all that is fetched", function()
    local signatures = require "theaterref.registry.signatures"
    local ref, digest, repository = package()
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    local gather, seen = signatures.gather, nil
    signatures.gather = function(chain, ...)
      seen = chain:options("manifests").timeout
      chain.deadline = core.now() - 1
      return gather(chain, ...)
    end
    local ok, message = pcall(refusal, by { "release" }, ref)
    signatures.gather = gather
    assert(ok, message)
    assert.matches("timeout", message, 1, true)
    assert.is_true(seen > 29 and seen <= 30)
  end)

  it("is asked for with purpose 'signature', and may be elsewhere", function()
    local ref, digest, repository = package()
    local _, _, other = package()
    put_signatures(other, digest, { layer(payload(digest), "release") })
    local tag = (":sha256-%s.sig"):format(digest)
    local place = ("oci://%s/%s%s"):format(registry.at, other, tag)
    assert.same({ key "release" }, signers(by({ "release" }, 1, { from = place }), ref))
    local policy, asked = by { "release" }, {}
    policy.rewrite = function(from, ctx)
      if ctx.purpose ~= "signature" then return from end
      asked[#asked + 1] = from
      return from:find "%.sig$" and place or from
    end
    assert.same({ key "release" }, signers(policy, ref))
    assert.same({ ("oci://%s/%s%s"):format(registry.at, repository, tag) }, asked)
    policy.rewrite = nil
    policy.allow = function(_, ctx) return ctx.purpose ~= "signature", "no signatures today" end
    assert.matches("no signatures today", refusal(policy, ref), 1, true)
    policy.allow = nil
    policy.rewrite = function(from, ctx) return ctx.purpose == "signature" and key "release" or from end
    assert.matches("bytes from the network need a signature from the network", refusal(policy, ref), 1, true)
  end)

  it("is no signature of bytes elsewhere, and a text beside an artifact is one of its bytes", function()
    local _, digest, repository = package()
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    local place = ("oci://%s/%s:sha256-%s.sig"):format(registry.at, repository, digest)
    local path = helper.write(folder .. "/local.wasm", WASM .. count)
    assert.matches("not of these bytes", refusal(by({ "release" }, 1, { from = place }), path), 1, true)
    local ref = package()
    local text = "data:," .. sign(WASM .. count, "release"):gsub("%+", "%%2B")
    assert.same({ key "release" }, signers(by({ "release" }, 1, { from = text }), ref))
  end)

  it("is not by a key of minisign", function()
    local ref = package()
    local policy = { signatures = function() return { keys = { "RWQEncsbdgyy4f6nt8P4rTpyOWRZz+GzJhr+YPlkwFpREo+UWyZZwUN4" } } end }
    assert.matches("minisign's keys sign nothing in a registry", refusal(policy, ref), 1, true)
  end)

  it("must not be redirected to another host, but its payload may, as a layer", function()
    local ref, digest, repository = package(bad.at, "turned")
    put_signatures(repository, digest, { layer(payload(digest), "release") }, bad.at)
    assert.matches("redirect", refusal(by { "release" }, ref), 1, true)
    assert.same({ key "release" }, signers(by { "release" }, ref, { redirect_hosts = { "localhost" } }))
    ref, digest, repository = package(bad.at, "moved")
    put_signatures(repository, digest, { layer(payload(digest), "release") }, bad.at)
    assert.same({ key "release" }, signers(by { "release" }, ref))
    local policy = by { "release" }
    policy.allow = function(_, ctx) return true, ctx.purpose == "signature" and { redirect_hosts = "any" } or nil end
    local blob, err = resolver(policy):resolve(ref)
    assert.is_nil(blob)
    assert.matches("redirect", err.message, 1, true)
  end)
end)

describe("a sigstore bundle that refers to a manifest", function()
  it("is found by the fallback tag", function()
    local ref, digest, repository = package()
    put_bundles(repository, digest, { bundle(digest, "stranger"), bundle(digest, "release") })
    assert.same({ key "release" }, signers(by { "release" }, ref))
    put_bundles(repository, digest, { bundle(digest, "second") }, nil, "application/vnd.oci.empty.v1+json")
    assert.same({ key "second" }, signers(by { "second" }, ref))
    refusal(by { "release" }, ref)
  end)

  it("is found by the registry's list", function()
    local ref, digest, repository = package(bad.at, "lists")
    put_bundles(repository, digest, { bundle(digest, "release") }, bad.at)
    assert.same({ key "release" }, signers(by { "release" }, ref))
  end)

  it("is found on every page of the registry's list, and copied from there", function()
    local ref, digest, repository = package(bad.at, "paged")
    for i, name in ipairs { "stranger", "release", "second" } do put_bundles(repository, digest, { bundle(digest, name) }, bad.at, i) end
    bad:log()
    assert(resolver(by({ "release", "second" }, 2)):resolve(ref))
    assert.equal(3, select(2, bad:log():gsub("/referrers/", "")))
    local to = "oci://" .. registry.at .. "/" .. repository .. ":1"
    assert(resolver():copy(ref, to, { all = true }))
    assert(resolver(by({ "release", "second" }, 2)):resolve(to))
  end)

  it("is refused about other bytes, of another type, and if it only attests something", function()
    local ref, digest, repository = package()
    put_bundles(repository, digest, { bundle(core.digest(WASM .. count), "release") })
    assert.matches("a signature of other bytes", refusal(by { "release" }, ref), 1, true)
    put_bundles(repository, digest, { bundle(digest, "release", "https://slsa.dev/provenance/v1") })
    assert.matches("it is an attestation", refusal(by { "release" }, ref), 1, true)
    put_bundles(repository, digest, { bundle(digest, "release") }, nil, "application/spdx+json")
    assert.matches("there is no sigstore bundle", refusal(by { "release" }, ref), 1, true)
  end)

  it("meets a threshold together with cosign's tag", function()
    local ref, digest, repository = package()
    put_bundles(repository, digest, { bundle(digest, "second") })
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    assert.same({ key "release", key "second" }, signers(by({ "release", "second" }, 2), ref))
  end)
end)

describe("cached bytes", function()
  local function untrusted(r, ref)
    local blob, err = r:resolve_cached(ref)
    assert.is_nil(blob)
    assert.equal("untrusted", err.kind)
  end

  it("are judged on hits, whoever cached them", function()
    for _, immutable in ipairs { false, true } do
      local ref, digest, repository = package()
      if immutable then ref = ref .. "@sha256:" .. digest end
      local cache = theaterref.resource_cache { ttl = 3600 }
      assert(resolver(nil, { cache = cache }):resolve_cached(ref))
      untrusted(resolver(by { "release" }, { cache = cache }), ref)
      put_signatures(repository, digest, { layer(payload(digest), "release") })
      local strict = resolver(by { "release" }, { cache = cache })
      assert(strict:resolve_cached(ref))
      assert.is_true(select(2, strict:resolve_cached(ref)))
      untrusted(resolver(by { "second" }, { cache = cache }), ref)
    end
  end)

  it("need the signature of what led to them, also if another reference had the same", function()
    local ref, digest, repository = package()
    local bytes = WASM .. count
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    local cache = theaterref.resource_cache { ttl = 3600 }
    local strict = resolver(by { "release" }, { cache = cache })
    assert(strict:resolve_cached(ref))
    local other = put_manifest(registry.at, repository, "2", { { bytes, "application/wasm", '"a":"b"' } })
    for _, form in ipairs { ":2", ":2#sha256=" .. core.digest(bytes), "@sha256:" .. other } do
      untrusted(strict, ("oci://%s/%s%s"):format(registry.at, repository, form))
    end
  end)

  it("are loaded again where the tag has moved on to a signed manifest", function()
    local ref, _, repository = package()
    local cache = theaterref.resource_cache { ttl = 3600 }
    assert(resolver(nil, { cache = cache }):resolve_cached(ref))
    local digest = put_manifest(registry.at, repository, "1", { { WASM .. "newer", "application/wasm" } })
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    for _ = 1, 2 do
      assert.equal(WASM .. "newer", tostring(assert(resolver(by { "release" }, { cache = cache }):resolve_cached(ref))))
    end
  end)

  it("are verified from a disk cache, without a network", function()
    local ref, digest, repository = package()
    ref = ref .. "@sha256:" .. digest
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    put_bundles(repository, digest, { bundle(digest, "second") })
    local home = helper.temporary_folder()
    local function at_home(policy, options)
      options = options or {}
      options.cache = theaterref.resource_cache { disk = { home = home } }
      return resolver(policy, options)
    end
    assert(at_home(by({ "release", "second" }, 2)):resolve_cached(ref))
    core.forget_verdicts()
    assert(at_home(by({ "release", "second" }, 2), { offline = "none" }):resolve_cached(ref))
    untrusted(at_home(by { "stranger" }, { offline = "none" }), ref)
    helper.remove(home)
  end)
end)

describe("a lockfile", function()
  local function theaterref_command(line) return ("%s/bin/theaterref %s"):format(folder, line) end

  -- Locks a package. Returns the script, the manifest and the lockfile.
  local function lock(name, ref, more)
    local script = helper.write(folder .. "/locking.lua", ('return { signatures = theaterref.policy.signed { keys = { "release.pub", '
      .. '"second.pub" }, threshold = 2, purposes = { "package" } } }'))
    local manifest = helper.write(("%s/%s.toml"):format(folder, name), ('name = "x"\npackage = "%s"\n'):format(ref))
    local lockfile = ("%s/%s.lock"):format(folder, name)
    helper.run_ok(theaterref_command(("lock %s --policy %s -o %s %s"):format(manifest, script, lockfile, more)))
    return script, manifest, lockfile
  end

  it("keeps what verifies the bytes without a network", function()
    local _, digest, repository, size = package()
    local index = ('{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"sha256:%s","size":%d}]}'):format(INDEX,
      MANIFEST, digest, size)
    local index_digest = put_document(registry.at, repository, "all", index, INDEX)
    put_signatures(repository, index_digest, { layer(payload(index_digest), "release") })
    put_bundles(repository, digest, { bundle(digest, "second") })
    local ref = ("oci://%s/%s:all"):format(registry.at, repository)
    local home = "--home " .. folder .. "/lock-home"
    local script, manifest, lockfile = lock("sealed", ref, "--store sealed " .. home)
    local plan = ("plan %s --policy %s --lockfile %s %s --json"):format(manifest, script, lockfile, home)
    for name, text in pairs { [("sha256-%s.sig"):format(index_digest)] = "another", ["sha256-" .. digest] = "other" } do
      put_manifest(registry.at, repository, name, { { text, "text/plain" } })
    end
    local out = helper.run_ok(theaterref_command(plan .. " --offline sealed"))
    assert.matches('"signed_by":%["release.pub","second.pub"%]', out)
    local _, err, status = helper.run(theaterref_command(plan)) -- the signatures are gone
    assert.not_equal(0, status)
    assert.matches("0 of 2 signatures", err, 1, true)
  end)

  it("does not make a signed manifest sign other bytes", function()
    local ref, digest, repository = package()
    put_signatures(repository, digest, { layer(payload(digest), "release"), layer(payload(digest), "second") })
    local script, manifest, lockfile = lock("forged", ref, "")
    local plan = ("plan %s --policy %s --lockfile %s"):format(manifest, script, lockfile)
    helper.run_ok(theaterref_command(plan))
    local forged = WASM .. "another"
    put_blob(registry.at, repository, forged)
    helper.write(lockfile, (helper.read(lockfile):gsub("sha256=" .. core.digest(WASM .. count) .. " [^\n]*size=%d+",
      ("sha256=%s size=%d"):format(core.digest(forged), #forged))))
    assert.matches(core.digest(forged), helper.read(lockfile), 1, true)
    local _, err, status = helper.run(theaterref_command(plan))
    assert.not_equal(0, status)
    assert.matches("does not lead to these bytes", err, 1, true)
  end)
end)

describe("copies and pushed signatures", function()
  it("verify where they are copied to with 'copy --all'", function()
    local ref, digest, repository = package()
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    put_bundles(repository, digest, { bundle(digest, "second") })
    local to = ("oci://%s/copies/p%d:7"):format(registry.at, count)
    assert(resolver():copy(ref, to, { all = true }))
    assert.same({ key "release", key "second" }, signers(by({ "release", "second" }, 2), to))
    to = ("oci://%s/lists/p%d:7"):format(bad.at, count)
    assert(resolver():copy(ref, to, { all = true }))
    assert.same({ key "release", key "second" }, signers(by({ "release", "second" }, 2), to))
  end)

  it("are made by 'sign --push', each beside those before it", function()
    local ref, digest, repository = package()
    local function push(name)
      return helper.run_ok(("%s/bin/theaterref sign %s --key %s/%s.pem --push"):format(folder, ref, folder, name)):gsub("%s+$", "")
    end
    local first = push "release"
    assert.matches(("^oci://%s/%s:sha256-%s.sig@sha256:"):format(registry.at, repository, digest):gsub("[-.]", "%%%0"), first)
    assert.equal(first, push "release")
    assert.same({ key "release" }, signers(by { "release" }, ref))
    put_manifest(registry.at, repository, ("sha256-%s.sig"):format(digest), { { "kept", "text/plain", '"x":"y"' },
      layer(payload(digest), "release") })
    local pushed = assert(resolver():sign(ref, helper.read(folder .. "/second.pem")))
    assert.equal(digest, pushed.digest)
    assert.same({ key "release", key "second" }, signers(by({ "release", "second" }, 2), ref))
    local layers = assert(resolver():inspect(pushed.reference)).layers
    assert.same({ 3, "text/plain", "y" }, { #layers, layers[1].media_type, layers[1].annotations.x })
    helper.run_ok(("%s/bin/theaterref verify %s --key %s --key %s --threshold 2"):format(folder, ref, key "release", key "second"))
    -- openssl and the registry agree with what was pushed.
    local signature = layers[3].annotations["dev.cosignproject.cosign/signature"]
    assert.equal(pushed.signature, signature)
    helper.run_ok(("cd %s && curl -sf http://%s/v2/%s/blobs/%s > payload && printf %%s '%s' | base64 -d > raw && "
      .. "openssl dgst -sha256 -verify second.pub -signature raw payload"):format(folder, registry.at, repository, layers[3].digest,
      signature))
    assert.equal(('{"critical":{"identity":{"docker-reference":"%s/%s"},"image":{"docker-manifest-digest":"sha256:%s"},"type":'
      .. '"cosign container image signature"},"optional":null}'):format(registry.at, repository, digest), helper.read(folder .. "/payload"))
  end)

  it("that another writer replaces are written again beside its own, by 'copy --all' and 'sign --push'", function()
    local ref, digest, repository = package()
    put_signatures(repository, digest, { layer(payload(digest), "release") })
    for _, fault in ipairs { "raced", "lossy" } do
      local at = bad.at .. "/" .. fault .. "/copied"
      put_manifest(bad.at, fault .. "/copied", "other", { layer(payload(digest), "second") })
      local copied, err = resolver():copy(ref, "oci://" .. at .. ":1", { all = true })
      local both = resolver(by({ "release", "second" }, 2)):resolve("oci://" .. at .. ":1")
      assert.equal(fault == "raced", copied ~= nil)
      assert.equal(fault == "raced", both ~= nil)
      if err then assert.matches("others write the tag sha256-" .. digest .. ".sig at the same time", err.message, 1, true) end
    end
    ref, digest, repository = package(bad.at, "raced")
    put_manifest(bad.at, repository, "other", { layer(payload(digest), "second") })
    local signed = assert(resolver():sign(ref, helper.read(folder .. "/release.pem")))
    assert(resolver(by({ "release", "second" }, 2)):resolve(ref))
    assert.matches(assert(resolver():inspect(("oci://%s/%s:sha256-%s.sig"):format(bad.at, repository, digest))).digest, signed.reference, 1,
      true)
  end)

  it("sign all that a plan of a pushed manifest needs", function()
    helper.run_ok("mkdir -p " .. folder .. "/actor")
    helper.write(folder .. "/actor/worker.wasm", helper.module "planned")
    helper.write(folder .. "/actor/state.json", "{}")
    local manifest = helper.write(folder .. "/actor/manifest.toml",
      'name = "x"\npackage = "worker.wasm"\ninit_state = "state.json"\nstatic_package = true\n')
    local at = ("oci://%s/signed/actor:1"):format(registry.at)
    assert(resolver():push(manifest, at))
    local strict = resolver(nil, { signatures = { keys = { key "release" } }, cache = {} })
    local plan, err = strict:plan(at)
    assert.is_nil(plan)
    assert.equal("untrusted", err.kind)
    assert(resolver():sign(at, helper.read(folder .. "/release.pem")))
    for _ = 1, 2 do assert.same({ key "release" }, assert(strict:plan(at)).signed_by) end
  end)

  it("need credentials where packages do", function()
    local closed = helper.registry "htpasswd"
    local options = { registries = { [closed.at] = { username = "alice", password = "s3cret" } } }
    local ref = ("oci://%s/team/x:1"):format(closed.at)
    assert(resolver(nil, options):copy(helper.write(folder .. "/x.wasm", WASM .. "private"), ref))
    local pem = helper.read(folder .. "/release.pem")
    assert.matches("needs other credentials", tostring(select(2, resolver():sign(ref, pem))), 1, true)
    assert(resolver(nil, options):sign(ref, pem))
    assert.same({ key "release" }, signers(by { "release" }, ref, options))
    closed:stop()
  end)

  it("are refused for what cannot be signed", function()
    local ref, digest, repository = package()
    local pem = helper.read(folder .. "/release.pem")
    for at, words in pairs { ["file:///x"] = "a reference to a registry", [ref .. "#title=x"] = "of a whole artifact",
      [ref .. "?ns=docker.io"] = "not to a mirror", [ref .. "none"] = "no such tag" } do
      local signed, err = resolver():sign(at, pem)
      assert.is_nil(signed)
      assert.matches(words, tostring(err), 1, true)
    end
    assert.matches("offline", tostring(select(2, resolver(nil, { offline = "none" }):sign(ref, pem))), 1, true)
    assert.matches("hardware", tostring(select(2, resolver():sign(ref, function() return nil, "hardware" end))), 1, true)
    local layers = {}
    for i = 1, 8 do layers[i] = { "x", SIMPLE } end
    put_signatures(repository, digest, layers)
    assert.matches("it has 8 signatures", tostring(select(2, resolver():sign(ref, pem))), 1, true)
    local _, err, status = helper.run(("%s/bin/theaterref sign %s --key %s/release.pem --push -o x"):format(folder, ref, folder))
    assert.equal(2, status)
    assert.matches("not both", err, 1, true)
  end)
end)
