-- Credentials for registries: where they come from, and who sees them.
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

local WASM = "\0asm\1\0\0\0"

describe("credentials", function()
  local folder, registry, ref

  -- Runs the command with a home of its own. Returns output, errors, status.
  local function run(command, environment)
    return helper.run(("cd %s && export HOME=%s/home XDG_RUNTIME_DIR=%s/run PATH=%s/bin:$PATH %s && %s"):format(folder, folder,
      folder, folder, environment or "NONE=", command))
  end

  local function config(path, text)
    helper.run_ok(("rm -rf %s/home %s/run %s/docker && mkdir -p %s/home/.docker %s/run/containers %s/docker %s/bin"):format(folder,
      folder, folder, folder, folder, folder, folder))
    helper.write(folder .. "/" .. path, text)
  end

  local function reads(environment)
    local out, err, status = run("theaterref resolve " .. ref .. " --json 7</etc/passwd", environment)
    assert.equal(0, status, err)
    assert.matches('"bytes":9', out, 1, true)
  end

  local function is_refused(words, environment)
    local _, err, status = run("theaterref resolve " .. ref, environment)
    assert.equal(1, status)
    assert.matches(words, err, 1, true)
    assert.is_falsy(err:find("s3cret", 1, true))
  end

  setup(function()
    folder = helper.temporary_folder()
    helper.command(folder .. "/bin")
    registry = helper.registry "htpasswd"
    ref = "oci://" .. registry.at .. "/secret/x:1"
    helper.write(folder .. "/x.wasm", WASM .. "x")
    local r = assert(theaterref.resolver { log = false, registries = { [registry.at] = { username = "alice", password = "s3cret" } } })
    assert(r:copy(folder .. "/x.wasm", ref))
  end)

  teardown(function()
    registry:stop()
    helper.remove(folder)
  end)

  local auth = '{"auths":{"%s":{"auth":"YWxpY2U6czNjcmV0"}}}'

  it("come from Docker's and Podman's files, by registry, repository or URL", function()
    config("home/.docker/config.json", "{}")
    is_refused "or it is private and needs other credentials"
    config("home/.docker/config.json", auth:format(registry.at))
    reads()
    config("home/.docker/config.json", auth:format("https://" .. registry.at .. "/v1/"))
    reads()
    config("run/containers/auth.json", auth:format(registry.at .. "/secret"))
    reads()
    config("run/containers/auth.json", auth:format(registry.at .. "/other"))
    is_refused "needs other credentials"
    config("docker/config.json", auth:format(registry.at))
    reads("DOCKER_CONFIG=" .. folder .. "/docker")
    config("home/.docker/config.json", '{"auths":{"' .. registry.at .. '":{"username":"alice","password":"s3cret"}}}')
    reads()
  end)

  it("in a file that is malformed are named, but nothing in it, if the registry refuses to do without", function()
    for _, text in ipairs { '{"auths":{"s3cret', "", "[]", "7" } do
      config("home/.docker/config.json", text)
      is_refused "/home/.docker/config.json is no JSON object"
    end
    config("run/containers/auth.json", auth:format("http://" .. registry.at .. "/v1/"))
    reads()
  end)

  it("that are not needed hold up nothing, if a helper is missing, broken or killed, or a file malformed", function()
    local open <close> = setmetatable({ server = helper.registry "open" }, { __close = function(self) self.server:stop() end })
    assert(theaterref.resolver({ log = false }):copy(folder .. "/x.wasm", "oci://" .. open.server.at .. "/a/x:1"))
    local function pull(words)
      local _, err, status = run("theaterref resolve oci://" .. open.server.at .. "/a/x:1", "THEATERREF_LOG=warn")
      assert.equal(0, status, err)
      assert.matches("warn: .*" .. words, err)
    end
    config("home/.docker/config.json", "")
    pull "is no JSON object"
    config("home/.docker/config.json", '{"credsStore":"missing"}')
    pull "docker%-credential%-missing"
    config("home/.docker/config.json", '{"credsStore":"spec"}')
    for script, words in pairs { ["kill -9 $$"] = "was killed by signal 9", ["echo s3cret"] = "printed no credentials",
      ["exit 3"] = "failed with status 3", ["exec yes"] = "docker%-credential%-spec" } do
      helper.write(folder .. "/bin/docker-credential-spec", "#!/bin/sh\n" .. script .. "\n")
      helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-spec")
      pull(words)
    end
    helper.write(folder .. "/bin/docker-credential-spec", "#!/bin/sh\nexec sleep 60\n")
    local began = core.now()
    local _, err, status = run("theaterref resolve --timeout 0.5 oci://" .. open.server.at .. "/a/x:1")
    assert.equal(1, status, err)
    assert.matches("did not answer in time", err)
    assert.is_true(core.now() - began < 10)
  end)

  it("come from helpers, which get the registry and inherit nothing", function()
    local function use(script, key)
      config("home/.docker/config.json", key or ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
      helper.write(folder .. "/bin/docker-credential-spec", "#!/bin/sh\n" .. script)
      helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-spec")
    end
    local answer = [[read server; [ "$1 $server" = "get ]] .. registry.at .. [[" ] || exit 3
      ls -l /proc/$$/fd >]] .. folder .. [[/descriptors
      echo '{"ServerURL":"'$server'","Username":"alice","Secret":"s3cret"}']]
    use(answer)
    reads()
    for line in helper.read(folder .. "/descriptors"):gmatch "[^\n]+" do
      local number = tonumber(line:match " (%d+) %-> ")
      assert.is_true(not number or number <= 2 or number >= 10, line) -- those of the shell are 10 and more
    end
    use(answer, '{"credsStore":"spec"}')
    reads()
    use((answer:gsub("read server; ", "server=" .. registry.at .. "; "))) -- it reads nothing
    reads()
    use "echo 'credentials not found in native keychain'; exit 1"
    is_refused "needs other credentials"
    use "exit 2"
    is_refused "docker-credential-spec failed with status 2"
    use "echo s3cret"
    is_refused "docker-credential-spec printed no credentials"
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"missing"}}'):format(registry.at))
    is_refused "docker-credential-missing"
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"../../bin/sh"}}'):format(registry.at))
    is_refused "needs other credentials"
  end)

  it("that are wrong are named with their place, and without any, the message says so", function()
    config("home/.docker/config.json", ('{"auths":{"%s":{"auth":"YWxpY2U6d3Jvbmc="}}}'):format(registry.at))
    is_refused("the registry refused the user and password from " .. folder .. "/home/.docker/config.json (status 401)")
    local words = "the registry refused the user and password from " .. folder .. "/home/.docker/config.json"
    local _, err = run("theaterref copy x.wasm oci://" .. registry.at .. "/secret/y:1")
    assert.matches(words, err, 1, true)
    config("home/.docker/config.json", "{}")
    helper.write(folder .. "/c.lua", ('return { registries = { ["%s"] = { username = "alice", password = "wrong" } } }'):format(registry.at))
    _, err = run("theaterref resolve --config c.lua " .. ref)
    assert.matches("refused the user and password from the configuration", err, 1, true)
    is_refused("no credentials for " .. registry.at .. " were found")
  end)

  it("that cannot be sent are an error that names their place, and shows nothing of them", function()
    local function is_unusable(words, environment)
      local _, err = run("theaterref resolve " .. (environment or "") .. " " .. ref)
      assert.matches("the credentials from " .. words, err, 1, true)
      assert.matches("cannot be sent", err, 1, true)
      assert.is_nil(err:find "s3cret")
    end
    for _, secret in ipairs { "s3cret\\n", "s3\\u0000s3cret" } do
      config("home/.docker/config.json", ('{"auths":{"%s":{"username":"alice","password":"%s"}}}'):format(registry.at, secret))
      is_unusable(folder .. "/home/.docker/config.json")
    end
    helper.write(folder .. "/c.lua", ('return { registries = { ["%s"] = { username = "a:b", password = "s3cret" } } }'):format(registry.at))
    is_unusable("the configuration", "--config c.lua")
    local _, err = run("theaterref copy --config c.lua x.wasm " .. ref)
    assert.matches("cannot be sent", err, 1, true)
  end)

  it("that cannot be used are a warning that names the file and the key", function()
    for text, words in pairs { ['{"auths":{"%s":{"auth":"%%%%"}}}'] = 'auths["%s"] has neither a user with a password nor a token',
      ['{"auths":[]}'] = "", ['{"auths":7}'] = "auths is not an object", ['{"credsStore":"../x"}'] = "credsStore is not the name of a credential helper",
      ['{"credHelpers":{"%s":7}}'] = 'credHelpers["%s"] is not the name of a credential helper', ['{"auths":{"%s":{}}}'] = "" } do
      config("home/.docker/config.json", (text:gsub("%%s", registry.at)))
      local _, err, status = run("theaterref resolve " .. ref, "THEATERREF_LOG=warn")
      assert.equal(1, status)
      words = words:gsub("%%s", registry.at)
      if words == "" then assert.is_nil(err:find "warn") else assert.matches("config.json: " .. words, err, 1, true) end
    end
  end)

  it("of a helper that fails are a warning; one that has none is not, and is asked once", function()
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    local function use(script)
      helper.write(folder .. "/bin/docker-credential-spec", "#!/bin/sh\necho ran >> " .. folder .. "/asked\n" .. script)
      helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-spec; rm -f " .. folder .. "/asked")
    end
    use "echo 'vault is sealed: s3cret'; exit 1"
    local _, err = run("theaterref resolve " .. ref, "THEATERREF_LOG=warn")
    assert.matches("theaterref: warn: oci://" .. registry.at .. "/secret/x:1: the credential helper docker-credential-spec failed with status 1",
      err, 1, true)
    assert.matches("were found: the credential helper docker-credential-spec failed with status 1", err, 1, true)
    assert.is_nil(err:find "s3cret")
    use "echo 'credentials not found in native keychain'; exit 1"
    local script = ([[%s -e 'local r = require "theaterref".resolver {}
      for _ = 1, 3 do print(r:resolve("%s")) end']]):format(helper.lua, ref)
    _, err = run(script, "THEATERREF_LOG=warn")
    assert.equal("", err)
    assert.equal("ran\n", helper.read(folder .. "/asked"))
  end)

  it("of helpers are asked for once, and never offline", function()
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    helper.write(folder .. "/bin/docker-credential-spec", ([[#!/bin/sh
      echo ran >> %s/ran
      echo '{"ServerURL":"","Username":"alice","Secret":"s3cret"}'
    ]]):format(folder))
    helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-spec")
    local script = ([[%s -e 'local t = require "theaterref"
      local r = t.resolver { log = false, cache = {}, offline = %%s }
      local futures = {}
      for i = 1, 8 do futures[i] = assert(r:start("%s")) end
      for i = 1, 8 do print(futures[i]:wait()) end']]):format(helper.lua, ref)
    local out = run(script:format "nil")
    assert.is_truthy(out:find "asm", out)
    assert.equal("ran\n", helper.read(folder .. "/ran"))
    os.remove(folder .. "/ran")
    out = run(script:format '"x"')
    assert.is_falsy(out:find "asm", out)
    assert.is_false(helper.exists(folder .. "/ran"))
  end)

  it("of a helper that hangs are waited for within the deadline, and hold up nothing else", function()
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    helper.write(folder .. "/bin/docker-credential-spec", "#!/bin/sh\necho $$ > " .. folder .. "/helper.pid\nexec sleep 100\n")
    helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-spec")
    local open = helper.registry "open"
    assert(theaterref.resolver({ log = false }):copy(folder .. "/x.wasm", "oci://" .. open.at .. "/a/x:1"))
    local out, err = run(([[%s -e '
      local t = require "theaterref"
      local core = require "theaterref.core"
      local r = t.resolver { log = false }
      local began = core.now()
      local stuck = r:start("%s", { resolve_timeout = 1 })
      print(r:resolve "oci://%s/a/x:1" ~= nil, core.now() - began < 1)
      local _, err = stuck:wait()
      print(err.kind, core.now() - began < 5)']]):format(helper.lua, ref, open.at))
    open:stop()
    helper.run("kill $(cat " .. folder .. "/helper.pid)")
    assert.equal("true\ttrue\ntimeout\ttrue\n", out, err)
  end)

  it("of a helper that two wait for are not lost as one of them, who writes, gives up", function()
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    helper.write(folder .. "/bin/docker-credential-spec",
      ("#!/bin/sh\nread go < %s/go\necho '{\"Username\":\"alice\",\"Secret\":\"s3cret\"}'\n"):format(folder))
    helper.run_ok(("chmod +x %s/bin/docker-credential-spec; rm -f %s/go; mkfifo %s/go"):format(folder, folder, folder))
    local out, err = run(([[%s -e '
      local t = require "theaterref"
      local pull = t.resolver({ log = false }):start "%s"
      local _, err = t.resolver({ log = false, plan_timeout = 0.3 }):tags "%s"
      print(err.kind)
      io.open("go", "w"):write("go\n"):close()
      print(#assert(pull:wait()))']]):format(helper.lua, ref, ref))
    assert.equal("timeout\n9\n", out, err)
  end)

  it("of a helper that were refused are asked for once more: it may say others by now", function()
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    helper.write(folder .. "/bin/docker-credential-spec", ([[#!/bin/sh
      echo ran >> %s/rotations
      cat %s/secret
    ]]):format(folder, folder))
    helper.run_ok(("chmod +x %s/bin/docker-credential-spec; rm -f %s/rotations"):format(folder, folder))
    local out, err = run(([[%s -e '
      local t = require "theaterref"
      local function rotate(secret)
        io.open("secret", "w"):write(("{%%q:%%q,%%q:%%q}"):format("Username", "alice", "Secret", secret)):close()
      end
      local function each(word, call)
        local r = t.resolver { log = false, cache = {} }
        local done, err = call(r)
        print(word, done and true or err.message:match "refused" or err.message)
      end
      local ref = "%s"
      local function pull(r) return r:resolve_cached(ref) end
      rotate "wrong"
      each("wrong", pull)
      each("still wrong", pull)
      rotate "s3cret"
      each("rotated", pull)
      each("kept", pull)
      rotate "wrong"
      each("not asked", function(r) return r:tags(ref) end)
    ']]):format(helper.lua, ref))
    assert.equal("wrong\trefused\nstill wrong\trefused\nrotated\ttrue\nkept\ttrue\nnot asked\ttrue\n", out, err)
    assert.equal("ran\nran\nran\n", helper.read(folder .. "/rotations"))
    for _, call in ipairs { "tags(ref)", "copy('x.wasm', ref)", "copy(ref, ref .. '2', { all = true })" } do
      out, err = run(([[%s -e '
        local t = require "theaterref"
        local function rotate(secret)
          io.open("secret", "w"):write(("{%%q:%%q,%%q:%%q}"):format("Username", "alice", "Secret", secret)):close()
        end
        local ref = "%s"
        rotate "wrong"
        print(t.resolver({ log = false }):resolve(ref))
        rotate "s3cret"
        assert(t.resolver({ log = false }):%s)']]):format(helper.lua, ref, (call:gsub("'", '"'))))
      assert.equal("", err)
      assert.matches("refused the user and password from the credential helper", out, 1, true)
    end
  end)

  it("of a helper that hangs are given up with the program that waits, however that ends", function()
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    helper.write(folder .. "/bin/docker-credential-spec", "#!/bin/sh\nsleep 300 &\necho $$ $! > " .. folder .. "/hangs\nexec sleep 300\n")
    helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-spec")
    for _, signal in ipairs { "KILL", "TERM" } do
      helper.run_ok("rm -f " .. folder .. "/hangs")
      local host = run("theaterref resolve " .. ref .. " >/dev/null 2>&1 & echo $!"):match "%d+"
      helper.eventually(function() return helper.exists(folder .. "/hangs") and helper.read(folder .. "/hangs"):find "\n" end)
      for pid in helper.read(folder .. "/hangs"):gmatch "%d+" do assert(select(3, helper.run("kill -0 " .. pid)) == 0) end
      helper.run_ok(("kill -%s %s"):format(signal, host))
      for pid in helper.read(folder .. "/hangs"):gmatch "%d+" do
        helper.eventually(function()
          local state = helper.run("cat /proc/" .. pid .. "/stat 2>/dev/null"):match "%) (%a)" -- nobody may reap it here
          return state == nil or state == "Z"
        end)
      end
    end
  end)

  it("of helpers work in a program that ignores SIGCHLD, or reaps all its children", function()
    helper.write(folder .. "/bin/docker-credential-spec", "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"alice\",\"Secret\":\"s3cret\"}'\n")
    helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-spec")
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    local _, err, status = run(("python3 -c 'import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
      .. "os.execvp(sys.argv[1], sys.argv[1:])' theaterref resolve %s --json"):format(ref))
    assert.equal(0, status, err)
  end)

  it("that are configured keep cached bytes apart, and off the disk without a cache_scope", function()
    config("home/.docker/config.json", "{}")
    local function resolve(registries, home)
      return theaterref.resolver({ log = false, home = folder .. "/" .. home, cache = { disk = "cache" }, offline = nil,
        registries = { [registry.at] = registries } }):resolve_cached(ref)
    end
    local known = { username = "alice", password = "s3cret" }
    assert(resolve(known, "apart"))
    assert.is_nil((resolve({ username = "bob", password = "s3cret" }, "apart")))
    assert.equal("", (helper.run("find " .. folder .. "/apart -type f -name '*-*'")))
    known.cache_scope = "team"
    assert(resolve(known, "scoped"))
    local offline = assert(theaterref.resolver { log = false, home = folder .. "/scoped", cache = { disk = "cache" }, offline = "x",
      registries = { [registry.at] = { cache_scope = "team" } } })
    assert.equal(WASM .. "x", tostring(assert(offline:resolve_cached(ref))))
  end)

  it("of a mirror keep cached bytes apart, in memory and on disk", function()
    config("home/.docker/config.json", "{}")
    local upstream = "127.0.0.1:1" -- where nothing listens
    local function resolve(own, home, mirrors)
      return assert(theaterref.resolver { log = false, home = folder .. "/" .. home, retries = 0, cache = { disk = "cache" },
        registries = { [upstream] = { mirrors = mirrors or { registry.at } }, [registry.at] = own } })
        :resolve_cached("oci://" .. upstream .. "/secret/x:1")
    end
    local alice = { username = "alice", password = "s3cret" }
    assert.equal(WASM .. "x", tostring(assert(resolve(alice, "mirrored"))))
    assert.is_nil((resolve({}, "mirrored")))
    assert.is_nil((resolve(alice, "mirrored", {})))
    assert.equal("", (helper.run("find " .. folder .. "/mirrored -type f -name '*-*'")))
    alice.cache_scope = "team"
    assert(resolve(alice, "team"))
    assert.not_equal("", (helper.run("find " .. folder .. "/team -type f -name '*-*'")))
  end)

  it("of helpers are not asked for when a cache has the bytes, which are those of the helper's name", function()
    config("home/.docker/config.json", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))
    local answer = "cat >/dev/null; echo '{\"Username\":\"alice\",\"Secret\":\"s3cret\"}'"
    for name, script in pairs { spec = "echo ran >> " .. folder .. "/runs; [ $(wc -l < " .. folder .. "/runs) = 1 ] || exec sleep 100; "
      .. answer, other = answer:gsub("s3cret", "wrong") } do
      helper.write(folder .. "/bin/docker-credential-" .. name, "#!/bin/sh\n" .. script .. "\n")
      helper.run_ok("chmod +x " .. folder .. "/bin/docker-credential-" .. name)
    end
    local out = run(([[%s -e '
      local function reads(offline)
        for name in pairs(package.loaded) do -- another state knows no answer of a helper
          if name:find "^theaterref" and name ~= "theaterref.core" then package.loaded[name] = nil end
        end
        local r = require("theaterref").resolver { log = false, cache = { name = "helpers" }, resolve_timeout = 10, offline = offline }
        print(r:resolve_cached("%s") and "reads" or "does not")
      end
      reads()
      reads()
      reads "x"
      local file = io.open("home/.docker/config.json", "w")
      file:write [=[{"credHelpers":{"%s":"other"}}]=]
      file:close()
      reads()']]):format(helper.lua, ref, registry.at))
    assert.equal("reads\nreads\nreads\ndoes not\n", out)
    assert.equal("ran\n", helper.read(folder .. "/runs"))
  end)

  it("are the same for all that one resolve asks for, though a file changes meanwhile", function()
    config("home/.docker/config.json", auth:format(registry.at))
    local out = run(([[%s -e '
      local t = require "theaterref"
      local credentials = require "theaterref.registry.credentials"
      local find, count = credentials.find, 0
      credentials.find = function(...) count = count + 1 return find(...) end
      assert(t.resolver({ log = false }):resolve "%s")
      print(count)']]):format(helper.lua, ref))
    assert.equal("1\n", out)
  end)
end)

describe("a registry's options", function()
  local registry

  setup(function() registry = helper.registry "open" end)
  teardown(function() registry:stop() end)

  local function message(options, ref)
    local r = theaterref.resolver { log = false, retries = 0, registries = { [registry.at] = options } }
    return select(2, r:resolve(ref or "oci://" .. registry.at .. "/a/b:1")).message
  end

  it("are named when http meets https, or the reverse", function()
    assert.matches(('if the registry speaks plain http, set plain_http = true in registries["%s"] of the configuration'):format(registry.at),
      message { plain_http = false }, 1, true)
  end)

  it("hold for that registry: ca_file, client_cert and proxy", function()
    local nginx, proxy = helper.nginx(), helper.misbehaving()
    local function blob(bytes) return ('{"mediaType":"application/wasm","digest":"sha256:%s","size":%d}'):format(core.digest(bytes), #bytes) end
    helper.run_ok(("mkdir -p %s/www/v2/team/x/manifests %s/www/v2/team/x/blobs"):format(nginx.folder, nginx.folder))
    nginx:put("v2/team/x/manifests/1", ('{"schemaVersion":2,"config":%s,"layers":[%s]}'):format(blob "{}", blob(WASM)))
    nginx:put("v2/team/x/blobs/sha256:" .. core.digest(WASM), WASM)
    local function resolve(port, options)
      options.plain_http = false
      local registry_at = "localhost:" .. port
      return theaterref.resolver({ log = false, retries = 0, registries = { [registry_at] = options, ["another.example"] = { ca_file = nginx.ca } } })
        :resolve("oci://" .. registry_at .. "/team/x:1")
    end
    assert.equal("tls", select(2, resolve(nginx.https_port, {})).kind)
    assert.equal(WASM, tostring(assert(resolve(nginx.https_port, { ca_file = nginx.ca }))))
    local wants = nginx.bad_ports.wants
    assert.is_nil((resolve(wants, { ca_file = nginx.ca })))
    local client = { ca_file = nginx.ca, client_cert = nginx.folder .. "/client.pem", client_key = nginx.folder .. "/client.key" }
    assert.equal(WASM, tostring(assert(resolve(wants, client))))
    local _, err = resolve(nginx.https_port, { ca_file = nginx.ca, proxy = proxy.http })
    assert.equal(407, err.status)
    proxy:stop()
    nginx:stop()
  end)

  it("have mirrors that can be asked", function()
    for _, mirror in ipairs { "http://x/", "host with space", "m.example.org/x:tag", "" } do
      assert.error_matches(function() message { mirrors = { mirror } } end, "host:port or host:port/prefix was expected")
    end
  end)
end)

describe("a registry with tokens", function()
  local registry

  setup(function() registry = helper.registry "token" end)
  teardown(function() registry:stop() end)

  it("gives anonymous clients what is public, and asks for credentials to write", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/x.wasm", WASM .. "x")
      local ref = "oci://" .. registry.at .. "/public/x:1"
      local realms = { registry.tokens.at }
      local anonymous = assert(theaterref.resolver { log = false, registries = { [registry.at] = { realm_hosts = realms } } })
      local copied, err = anonymous:copy(folder .. "/x.wasm", ref)
      assert.is_nil(copied)
      assert.equal("denied", err.kind)
      local alice = assert(theaterref.resolver { log = false, registries = {
        [registry.at] = { realm_hosts = realms, username = "alice", password = "s3cret" } } })
      assert(alice:copy(folder .. "/x.wasm", ref))
      assert(alice:copy(ref, "oci://" .. registry.at .. "/public/y:1", { all = true }))
      assert.equal(WASM .. "x", tostring(assert(anonymous:resolve(ref))))
      assert.same({ "1" }, assert(anonymous:tags(ref)))
    end)
  end)

  it("is asked for each blob of a locked plan once, with one challenge and one token", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/x.wasm", WASM)
      helper.write(folder .. "/manifest.toml", 'name = "x"\npackage = "x.wasm"\n')
      local ref = "oci://" .. registry.at .. "/locked/x:1"
      helper.write(folder .. "/c.lua", ('return { registries = { ["%s"] = { realm_hosts = { "%s" }, username = "alice", password = "s3cret" } } }')
        :format(registry.at, registry.tokens.at))
      helper.command(folder .. "/bin")
      local function command(words) return helper.run_ok(("cd %s && PATH=%s/bin:$PATH theaterref %s --config c.lua"):format(folder, folder, words)) end
      command("push manifest.toml " .. ref)
      command("lock " .. ref .. " -o x.lock")
      local before, tokens = #helper.read(registry.folder .. "/out"), registry.tokens:requests "known"
      command("plan " .. ref .. " --lockfile x.lock")
      local list = {}
      for line in helper.read(registry.folder .. "/out"):sub(before + 1):gmatch "[^\n]+" do
        local request, status = line:match '"(%u+ /v2/locked/x/%l+)/%S* HTTP[^"]*" (%d+)'
        if request then list[#list + 1] = request .. " " .. status end
      end
      table.sort(list)
      assert.same({ "GET /v2/locked/x/blobs 200", "GET /v2/locked/x/blobs 200", "GET /v2/locked/x/blobs 401" }, list)
      assert.equal(tokens + 1, registry.tokens:requests "known")
    end)
  end)

  it("exchanges identity tokens for its own: of the configuration, a file, and a helper", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/x.wasm", WASM .. "x")
      helper.run_ok(("mkdir %s/docker %s/bin"):format(folder, folder))
      helper.command(folder .. "/bin")
      helper.write(folder .. "/bin/docker-credential-spec",
        "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"<token>\",\"Secret\":\"identity/1+2\"}'\n")
      helper.run_ok(("chmod +x %s/bin/docker-credential-spec"):format(folder))
      local function copy(name, options, config)
        helper.write(folder .. "/docker/config.json", config)
        helper.write(folder .. "/c.lua", ('return { registries = { ["%s"] = { realm_hosts = { "%s" }%s } } }'):format(registry.at,
          registry.tokens.at, options))
        local _, err, status = helper.run(("cd %s && DOCKER_CONFIG=%s/docker XDG_RUNTIME_DIR= PATH=%s/bin:$PATH theaterref copy "
          .. "--config c.lua x.wasm oci://%s/identity/%s:1"):format(folder, folder, folder, registry.at, name))
        assert.is_nil(err:find("identity/1+2", 1, true))
        return status, err
      end
      assert.equal(0, (copy("configured", ', identity_token = "identity/1+2"', "{}")))
      assert.equal(0, (copy("file", "", ('{"auths":{"%s":{"auth":"MDAwOg==","identitytoken":"identity/1+2"}}}'):format(registry.at))))
      assert.equal(0, (copy("helper", "", ('{"credHelpers":{"%s":"spec"}}'):format(registry.at))))
      local status, err = copy("wrong", ', identity_token = "another"', "{}")
      assert.equal(1, status)
      assert.matches("the token server refused the identity token from the configuration (status 401)", err, 1, true)
      local log = helper.read(registry.tokens.folder .. "/access.log")
      for _, line in ipairs { "200 /token? identity", "401 /token? identity" } do assert.matches(line, log, 1, true) end
    end)
  end)

  it("with a realm that is not listed is told from one that is gone: the next candidate is tried", function()
    helper.with_folder(function(folder)
      local other <close> = setmetatable({ server = helper.bad_registry() }, { __close = function(self) self.server:stop() end })
      helper.write(folder .. "/x.wasm", WASM .. "x")
      assert(theaterref.resolver({ log = false }):copy(folder .. "/x.wasm", ("oci://%s/quiet/x:1"):format(other.server.at)))
      local alice = { [registry.at] = { username = "alice", password = "s3cret" } }
      local _, err = theaterref.resolver({ log = false, registries = alice }):resolve(("oci://%s/quiet/x:1"):format(registry.at))
      assert.equal("denied", err.kind)
      assert.matches(('add its host and port to realm_hosts in registries["%s"] of the configuration'):format(registry.at), err.message,
        1, true)
      local r = theaterref.resolver { log = false, registries = alice, policy = { rewrite = theaterref.policy.mirror {
        ["oci://up.example.org/"] = { ("oci://%s/"):format(registry.at), ("oci://%s/"):format(other.server.at) } } } }
      assert.equal(WASM .. "x", tostring(assert(r:resolve "oci://up.example.org/quiet/x:1")))
    end)
  end)
end)
