-- The commands that work with registries, against Debian's docker-registry, and skopeo as a second client.
local cjson = require "cjson"
local helper = require "helper"

local WASM = "\0asm\1\0\0\0"

describe("the command", function()
  local folder, registry, at

  local function run(command)
    return helper.run(("cd %s && export HOME=%s XDG_RUNTIME_DIR= PATH=%s/bin:$PATH && %s"):format(folder, folder, folder, command))
  end

  local function json(command)
    local out, err, status = run(command .. " --json")
    assert.equal(0, status, err)
    return cjson.decode(out)
  end

  setup(function()
    folder = helper.temporary_folder()
    helper.command(folder .. "/bin")
    registry = helper.registry "htpasswd"
    at = "oci://" .. registry.at
    helper.run_ok("mkdir " .. folder .. "/.docker")
    helper.write(folder .. "/.docker/config.json", '{"auths":{"' .. registry.at .. '":{"auth":"YWxpY2U6czNjcmV0"}}}')
    helper.write(folder .. "/manifest.toml", 'name = "worker"\npackage = "worker.wasm"\nlicense = "MIT"\n')
    helper.write(folder .. "/worker.wasm", WASM)
    assert(select(3, run("theaterref push manifest.toml " .. at .. "/team/worker:1")) == 0)
  end)

  teardown(function()
    registry:stop()
    helper.remove(folder)
  end)

  it("push prints immutable references, and makes the same digests each time", function()
    local one, other = json("theaterref push manifest.toml " .. at .. "/team/worker:1"), json("theaterref push manifest.toml " .. at
      .. "/team/other:2")
    assert.equal(one.digest, other.digest)
    assert.equal(one.package_digest, other.package_digest)
    assert.equal(WASM, (run("theaterref resolve " .. one.package_reference)))
    local out = run("theaterref push manifest.toml " .. at .. "/team/worker:1")
    assert.equal(one.reference .. "\n" .. one.package_reference .. "\n", out)
  end)

  it("push, without a right to write, names how to log in, and shows no password", function()
    local _, err, status = run("HOME=/nonexistent; theaterref push manifest.toml " .. at .. "/team/worker:1")
    assert.equal(1, status)
    assert.matches("docker login", err, 1, true)
    assert.is_falsy(err:find "YWxpY2U6czNjcmV0" or err:find "s3cret")
  end)

  it("push of what is no reference to a registry is an error", function()
    for target, words in pairs { ["/tmp/x"] = "takes a reference to a registry", [at .. "/team/worker@sha256:" .. ("a"):rep(64)]
      = "goes to a tag", [at .. "/TEAM:1"] = "its repository has a character", ["oci://h/x:" .. ("x"):rep(125)] = "its tag is too long" } do
      local _, err, status = run("theaterref push manifest.toml " .. target)
      assert.equal(1, status)
      assert.matches(words, err, 1, true)
    end
  end)

  it("copy and skopeo read what the other writes", function()
    local login = "--src-creds alice:s3cret --src-tls-verify=false"
    helper.run_ok(("skopeo copy -q %s docker://%s/team/worker:1 oci:%s/layout:1"):format(login, registry.at, folder))
    helper.run_ok(("skopeo copy -q --dest-creds alice:s3cret --dest-tls-verify=false oci:%s/layout:1 docker://%s/skopeo/worker:9"):format(
      folder, registry.at))
    assert.equal("worker", json("theaterref plan " .. at .. "/skopeo/worker:9").name)
    assert.equal(json("theaterref oci inspect " .. at .. "/team/worker:1").digest,
      json("theaterref oci inspect " .. at .. "/skopeo/worker:9").digest)
  end)

  it("copy --all moves an artifact, and is idempotent", function()
    local one = json("theaterref copy --all " .. at .. "/team/worker:1 " .. at .. "/moved/worker:1")
    assert.equal(json("theaterref oci inspect " .. at .. "/team/worker:1").digest, "sha256:" .. one.digest)
    assert.same(one, json("theaterref copy --all " .. at .. "/team/worker:1 " .. at .. "/moved/worker:1"))
    local _, err, status = run("theaterref copy --all worker.wasm " .. at .. "/moved/worker:1")
    assert.equal(1, status)
    assert.matches("takes a reference to a registry", err, 1, true)
  end)

  it("oci tags and oci inspect show what is there", function()
    local tags = json("theaterref oci tags " .. at .. "/team/worker")
    table.sort(tags)
    assert.same({ "1", "1.package" }, tags)
    local out = run("theaterref oci inspect " .. at .. "/team/worker:1")
    assert.matches("layer      sha256:%x+  8 bytes  application/wasm  worker.wasm", out)
    assert.matches("annotation org.opencontainers.image.licenses = MIT", out, 1, true)
    local _, err, status = run("theaterref oci tags " .. at .. "/team/none")
    assert.equal(1, status)
    assert.matches("no such repository, or it is private", err, 1, true)
  end)

  it("explain shows the manifest that a tag leads to", function()
    local out = run("theaterref explain " .. at .. "/team/worker:1.package")
    assert.matches("registry    oci://%S+/team/worker:1.package %-> sha256:%x+   %[127", out)
  end)

  it("plan names the layers that there are, if none has the manifest's title", function()
    local _, err, status = run("theaterref plan " .. at .. "/team/worker:1.package")
    assert.equal(1, status)
    assert.matches("no layer with the title 'manifest.toml', but 'worker.wasm' (application/wasm)", err, 1, true)
  end)

  it("resolve offline asks no registry", function()
    run "echo x > kept; theaterref store put none kept"
    local _, err, status = run("theaterref resolve --offline none " .. at .. "/team/worker:1.package")
    assert.equal(1, status)
    assert.matches("offline", err, 1, true)
  end)
end)
