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

  it("push refuses a package that is no core module, and titles that cannot be, and says why", function()
    local function push_of(package, target)
      helper.write(folder .. "/other.toml", ('name = "x"\npackage = "%s"\n'):format(package))
      return select(2, run("theaterref push other.toml " .. (target or at .. "/team/other:1")))
    end
    helper.write(folder .. "/text.wasm", "hello")
    assert.matches("text.wasm is not a WebAssembly module: ", push_of "text.wasm", 1, true)
    helper.run_ok(("cp %s/worker.wasm '%s/a#b.wasm'; mkdir -p %s/sub; cp %s/worker.wasm %s/up.wasm"):format(folder, folder, folder, folder, folder))
    assert.matches("cannot be the title of a layer: it is an absolute path;", push_of(folder .. "/worker.wasm"), 1, true)
    assert.matches("cannot be the title of a layer: it has the part '..';", push_of("sub/../worker.wasm"), 1, true)
    local err = push_of("worker.wasm", at .. "/team/other:1#title=x")
    assert.matches("its layers have the titles that the manifest gives them", err, 1, true)
    assert.is_nil(err:find "Failed to resolve")
    assert.is_nil(push_of("worker.wasm", "oci://127.0.0.1:1/a/b:1"):find "Failed to resolve")
  end)

  it("push with a state to check refuses a package that depends on it", function()
    local target = at .. "/team/checked:1"
    helper.run_ok(("cp %s/worker.wasm %s/a.wasm"):format(folder, folder))
    for text, refused in pairs { ['name = "{{name}}"\npackage = "a.wasm"\n'] = false, ['name = "x"\npackage = "{{name}}.wasm"\n'] = true,
      ['name = "x"\n{{#if name}}\npackage = "a.wasm"\n{{else}}\npackage = "worker.wasm"\n{{/if}}\n'] = true } do
      helper.write(folder .. "/checked.toml", text)
      local _, err, status = run("theaterref push checked.toml " .. target .. " --state '{\"name\":\"a\"}'")
      assert.equal(refused and 1 or 0, status, err)
      assert.equal(refused, err:find("the manifest's package depends on its state", 1, true) ~= nil, err)
    end
    helper.write(folder .. "/checked.toml", 'name = "x"\npackage = "{{name}}.wasm"\ninitial_state = \'{"name":"a"}\'\n')
    assert.equal(0, select(3, run("theaterref push checked.toml " .. target)))
    assert.equal("x", json("theaterref plan " .. target).name)
  end)

  it("push and copy say when a tag moved", function()
    local _, err = run("theaterref copy worker.wasm " .. at .. "/team/moves:1")
    assert.equal("", err)
    local before = json("theaterref oci inspect " .. at .. "/team/moves:1").digest
    helper.write(folder .. "/other.wasm", helper.module "other")
    _, err = run("theaterref copy other.wasm " .. at .. "/team/moves:1")
    assert.equal("theaterref: the tag has moved from " .. before .. "\n", err)
    before = json("theaterref oci inspect " .. at .. "/team/moves:1").digest
    _, err = run("theaterref push manifest.toml " .. at .. "/team/moves:1")
    assert.equal("theaterref: the tag has moved from " .. before .. "\n", err)
    _, err = run("theaterref push manifest.toml " .. at .. "/team/moves:1")
    assert.equal("", err)
  end)

  it("copy tells what bytes are, keeps a layer's title, and writes to standard output", function()
    assert(select(3, run("theaterref copy manifest.toml " .. at .. "/team/text:1")) == 0)
    assert.equal("application/octet-stream", json("theaterref oci inspect " .. at .. "/team/text:1").layers[1].media_type)
    assert(select(3, run("theaterref copy " .. at .. "/team/text:1 " .. at .. "/team/text:2")) == 0)
    assert.equal("manifest.toml", json("theaterref oci inspect " .. at .. "/team/text:2").layers[1].title)
    assert.equal(WASM, (run("theaterref copy " .. at .. "/team/worker:1 -")))
    assert.is_false(helper.exists(folder .. "/-"))
    assert.equal(2, select(3, run("theaterref copy --all " .. at .. "/team/worker:1 -")))
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
