local helper = require "helper"
local core = require "theaterref.core"
local lockfiles = require "theaterref.policy.lockfile"
local theaterref = require "theaterref"

describe("a host in C", function()
  local program, folder, server

  -- Runs spec/support/hosts.c: its output.
  local function hosts(...)
    local words = { program }
    for _, word in ipairs { ... } do words[#words + 1] = helper.quote(word) end
    return helper.run_ok(("cd %s && %s"):format(helper.quote(folder), table.concat(words, " ")))
  end

  -- Makes a host with options, such as "policy=policy.lua"; asks it for a plan or
  -- bytes; returns the answer.
  local function ask(...) return hosts("ask", ...) end

  local function write(name, text) return helper.write(folder .. "/" .. name, text) end

  setup(function()
    folder = helper.temporary_folder()
    program = helper.host("hosts", folder)
    server = helper.nginx()
    server:put("actor.wasm", "\0asm")
    server:put("large", ("x"):rep(10000))
    write("actor.wasm", "\0asm")
    write("manifest.toml", 'name = "worker"\npackage = "actor.wasm"\nstatic_package = true\n')
    write("policy.lua", "return { allow = function(ref, ctx) return ctx.purpose ~= 'package', 'closed' end }")
    write("conf.lua", "return { retries = 0, log = false }")
    local store = assert(theaterref.content_store("demo", { home = folder .. "/home" }))
    assert(store:label("greeting", assert(store:put "hello")))
  end)

  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  -- ------------------------------------------------------------------ cases

  it("plans, resolves, logs and fails on many threads over one cache", function() hosts("threads", folder) end)

  it("is not made, and not asked, with options that are at fault", function() hosts("refuse", folder) end)

  it("holds no result between calls: neither blobs nor memory", function()
    helper.run_ok(("truncate -s 40M %s/large"):format(folder))
    local store = assert(theaterref.content_store("demo", { home = folder .. "/home", durability = "none" }))
    assert(store:label("large", assert(store:put(("\0"):rep(40 << 20)))))
    local comment = ("# " .. ("x"):rep(1000) .. "\n"):rep(2000)
    write("large.toml", 'name = "large"\npackage = "large"\nstatic_package = true\n' .. comment)
    write("broken.toml", comment .. "name =\n")
    helper.run_ok(("truncate -s 40M %s/www/40M && chmod 644 %s/www/40M"):format(server.folder, server.folder))
    helper.run_ok(("LARGE_URL=%s/40M %s idle %s"):format(server.http, program, folder))
  end)

  it("answers a callback that calls it with an error", function() hosts("callback", folder) end)

  it("answers one of two callbacks with an error that call each other's hosts", function() hosts("crossed", folder) end)

  it("lets a call wait for its turn until its timeout or an interrupt", function() hosts("turns", folder) end)

  it("is an error in a forked child if another thread was using it, and works there if not", function()
    hosts("forked", folder)
  end)

  it("reports that memory ran out, wherever it does", function() hosts("memory", folder) end)

  it("names a cache that was opened with options", function() hosts("caches", folder) end)

  it("reports errors that cannot be read", function()
    write("broken.lua", [[
return { allow = function()
  local err = require("theaterref.error").new("denied", "")
  err.message = setmetatable({}, { __concat = function() error "no" end, __tostring = function() error "no" end })
  error(err)
end }]])
    assert.matches("^policy: a call failed, and reading its error failed", ask("policy=broken.lua", "trusted=", "resolve", "x"))
  end)

  -- ------------------------------------------------------------------ plans

  it("plans with the manifest as JSON, its reference, both states and the phases", function()
    write("secret", "s3cret\n")
    write("secrets.lua", ([[return { secrets = function() return true end, rewrite = function(ref, ctx)
      return ref == "other.toml" and "%s/manifest.toml" or theaterref.policy.default.rewrite(ref, ctx)
    end }]]):format(folder))
    local out = ask("policy=secrets.lua", 'initial_state={"key":{"$ref":"secret"}}', "plan", "other.toml")
    assert.equal(([[
name: worker
manifest_reference: other.toml
origin: %s/manifest.toml
package_reference: %s/actor.wasm
package_type: unknown
manifest: {"name":"worker","package":"actor.wasm","static_package":true}
package: %sasm
initial_state: {"key":"s3cret"}
state_without_secrets: {"key":{"$ref":"secret"}}
cache: not used, no hit
]]):format(folder, folder, "\0"), out:match "^.-\ncache.-\n")
    local phases = {}
    for name, bytes in out:gmatch "phase: ([%a_]+), (%d+) bytes" do phases[name] = tonumber(bytes) end
    assert.equal(4, phases.package)
    assert.equal(#helper.read(folder .. "/manifest.toml"), phases.manifest)
    assert.matches("\nstate_without_secrets: none\n", ask("plan", "manifest.toml"))
  end)

  it("verifies signatures, and tells who signed", function()
    helper.run_ok(([[cd %s && openssl ecparam -name prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out key.pub 2>&1 &&
      openssl dgst -sha256 -sign key.pem actor.wasm | base64 -w0 > actor.wasm.sig]]):format(folder))
    helper.write(folder .. "/signed.lua", 'return { signatures = theaterref.policy.signed { keys = { "key.pub" }, purposes = { "package" } } }')
    assert.matches("\npackage_type: unknown\nsigner: key.pub\n", ask("policy=signed.lua", "plan", "manifest.toml"))
    os.remove(folder .. "/actor.wasm.sig")
    assert.matches("untrusted.*Not trusted", ask("policy=signed.lua", "plan", "manifest.toml"))
    helper.write(folder .. "/all.conf.lua", 'return { signatures = { keys = { "key.pub" } } }')
    assert.matches("untrusted.*Not trusted: .*manifest.toml", ask("config=all.conf.lua", "plan", "manifest.toml"))
  end)

  -- The manifest of a plan, as JSON without its package.
  local function manifest(name, text, ...)
    write(name, text)
    local json = assert(ask(...):match "\nmanifest: (.-)\npackage: ")
    return (json:gsub(',?"package":"actor.wasm"', ""))
  end

  local json_manifest = '{"name":"j","package":"actor.wasm","empty":{"array":[],"object":{}},"null":null,'
    .. '"numbers":[18446744073709551615,1.10,1e400,-0,3.14159265358979323846,1,0.1],"text":"\\u0000é\\u001f"}'
  local as_json = '{"empty":{"array":[],"object":{}},"name":"j","null":null,'
    .. '"numbers":[18446744073709551615,1.10,1e400,-0,3.14159265358979323846,1,0.1],"text":"\\u0000é\\u001f"}'

  it("gives a JSON manifest with its numbers as they are written", function()
    assert.equal(as_json, manifest("m.json", json_manifest, "plan", "m.json"))
  end)

  it("gives a TOML manifest with its integers, floats, dates and empty tables", function()
    assert.equal('{"arrays":[[],[{}]],"dates":["1979-05-27T07:32:00Z","07:32:00"],'
      .. '"floats":[1.0,-0.0,0.1,1e+300,0.30000000000000004,"inf","-inf","nan"],"handler":[{"allowed":[]}],'
      .. '"integers":[9223372036854775807,-9223372036854775808,255],"name":"t","table":{}}',
      manifest("t.toml", [==[
name = "t"
package = "actor.wasm"
arrays = [[], [{}]]
dates = [1979-05-27T07:32:00Z, 07:32:00]
floats = [1.0, -0.0, 0.1, 1e300, 0.30000000000000004, inf, -inf, nan]
integers = [9223372036854775807, -9223372036854775808, 0xff]
[table]
[[handler]]
allowed = []
]==], "plan", "t.toml"))
  end)

  it("gives a Lua manifest with what it took from the state", function()
    assert.equal('{"list":[1,"two"],"name":"l","ports":{"8080":"http"},"state":{"a":[],"n":18446744073709551615,"o":{}}}',
      manifest("l.lua", 'return { name = "l", package = "actor.wasm", list = { 1, "two" }, ports = { [8080] = "http" }, state = state }',
        'initial_state={"a":[],"o":{},"n":18446744073709551615}', "plan", "l.lua"))
  end)

  it("gives a manifest as the policy narrowed it, and loses nothing of the rest", function()
    write("narrow.lua", [[
return { allow_spawn = function(manifest)
  manifest.text, manifest.numbers[2] = nil, 7
  table.remove(manifest.numbers)
  return manifest
end }]])
    assert.equal((as_json:gsub(',"text".*', "}"):gsub("1%.10", "7"):gsub(",0%.1]", "]")),
      manifest("m.json", json_manifest, "policy=narrow.lua", "plan", "m.json"))
    write("dated.toml", 'name = "d"\npackage = "actor.wasm"\nday = 1979-05-27\nlist = []')
    write("same.lua", "return { allow_spawn = function(manifest) return manifest end }")
    assert.matches('{"day":"1979%-05%-27","list":%[],', ask("policy=same.lua", "plan", "dated.toml"))
  end)

  it("refuses a manifest that is no JSON", function()
    write("odd.lua", "return { allow_spawn = function(manifest) manifest.run = print return manifest end }")
    assert.equal("syntax: the manifest cannot be written as JSON: 'run' is a function\n",
      ask("policy=odd.lua", "trusted=", "plan", "manifest.toml"))
    write("bytes.lua", [[return { name = "b", package = "actor.wasm", text = "\xff" }]])
    assert.equal("syntax: the manifest cannot be written as JSON: a text in it is no valid UTF-8\n", ask("plan", "bytes.lua"))
  end)

  -- ---------------------------------------------------------------- options

  -- One case for each option, by the name that hosts.c has for it.
  local options = {}

  function options.config()
    write("home.lua", ("return { home = '%s/home' }"):format(folder))
    assert.equal("bytes: hello\n", ask("config=home.lua", "resolve", "store://demo/greeting"))
    local usual = ("THEATERREF_CONFIG=%s/home.lua THEATER_HOME=%s/none %s ask "):format(folder, folder, program)
    assert.equal("bytes: hello\n", helper.run_ok(usual .. "config= resolve store://demo/greeting"))
    assert.equal("not_found: ", helper.run_ok(usual .. "resolve store://demo/greeting"):sub(1, 11))
  end

  function options.policy()
    write("other.lua", "return { policy = 'none.lua', log = 'off' }")
    assert.matches("^denied: .*closed", ask("policy=policy.lua", "config=other.lua", "plan", "manifest.toml"))
  end

  function options.trusted()
    write("trusted.lua", "local home = os.getenv 'HOME'\nreturn { allow = function() return false, 'HOME is ' .. type(home) end }")
    assert.matches("^policy: .*trusted.lua:1: .*global 'os'", ask("policy=trusted.lua", "resolve", "actor.wasm"))
    assert.matches("^denied: .*HOME is string", ask("policy=trusted.lua", "trusted=", "resolve", "actor.wasm"))
  end

  function options.home()
    assert.equal("bytes: hello\n", ask("home=" .. folder .. "/home", "resolve", "store://demo/greeting"))
  end

  function options.cache()
    assert.matches("\ncache: used, no hit\n", ask("cache=packages", "plan", "manifest.toml"))
    assert.matches("\ncache: not used, no hit\n", ask("plan", "manifest.toml"))
    write("cached.lua", "return { cache = { name = 'theirs', max_bytes = 1 } }")
    assert.matches("\ncache: used, no hit\n", ask("config=cached.lua", "plan", "manifest.toml"))
    assert.matches("\ncache: used, no hit\n", ask("config=cached.lua", "cache=ours", "plan", "manifest.toml"))
  end

  -- Writes a lockfile for bytes of a reference.
  local function lock(name, reference, bytes)
    write(name, assert(lockfiles.text({ [reference] = { sha256 = core.digest(bytes, "sha256") } }, folder .. "/" .. name)))
  end

  function options.lockfile()
    local reference = folder .. "/actor.wasm"
    lock("a.lock", reference, "\0asm")
    assert.equal("bytes: \0asm\n", ask("lockfile=a.lock", "resolve", reference))
    assert.matches("is not in the lockfile", ask("lockfile=a.lock", "resolve", folder .. "/manifest.toml"))
    lock("a.lock", reference, "other bytes")
    assert.matches("^digest_mismatch: ", ask("lockfile=a.lock", "resolve", reference))
  end

  function options.offline()
    local reference = server.http .. "/actor.wasm"
    local store = assert(theaterref.content_store("locked", { home = folder .. "/home", algorithm = "sha256" }))
    assert(store:put "kept")
    local function resolve() return ask("home=home", "lockfile=b.lock", "offline=locked", "resolve", reference) end
    lock("b.lock", reference, "kept")
    assert.equal("bytes: kept\n", resolve())
    lock("b.lock", reference, "\0asm")
    assert.matches("^not_found: .*offline", resolve())
  end

  function options.ca_file()
    assert.equal("bytes: \0asm\n", ask("ca_file=" .. server.ca, "resolve", server.https .. "/actor.wasm"))
    assert.matches("^tls: ", ask("resolve", server.https .. "/actor.wasm"))
  end

  function options.timeout()
    assert.matches("^timeout: ", ask("timeout=0.1", "resolve", server.http .. "/dripping/large"))
    write("patient.lua", "return { timeout = 60 }")
    assert.matches("^timeout: ", ask("config=patient.lua", "timeout=0.1", "resolve", server.http .. "/dripping/large"))
    write("hasty.lua", "return { timeout = 0.1 }")
    assert.matches("^timeout: ", ask("config=hasty.lua", "resolve", server.http .. "/dripping/large"))
    assert.equal("bytes: \0asm\n", ask("config=hasty.lua", "timeout=-1", "resolve", server.http .. "/actor.wasm"))
  end

  function options.call_timeout()
    write("slow.toml", ('name = "slow"\npackage = "%s/dripping/large"\n'):format(server.http))
    assert.matches("^timeout: ", ask("call_timeout=0.1", "plan", "slow.toml"))
    assert.matches("^timeout: ", ask("call_timeout=0.1", "resolve", server.http .. "/dripping/large"))
    assert.equal("bytes: \0asm\n", ask("call_timeout=30", "resolve", server.http .. "/actor.wasm"))
  end

  function options.initial_state()
    assert.matches('\ninitial_state: {"port":81}\n', ask('initial_state={"port":81}', "plan", "manifest.toml"))
  end

  function options.log()
    local function lines(level) return ask("policy=policy.lua", "log=" .. level, "log_context=x", "plan", "manifest.toml") end
    assert.equal("denied: ", lines("off"):sub(1, 8))
    assert.equal("denied: ", lines("warn"):sub(1, 8))
    assert.matches("^x info: ", lines "info")
    assert.matches("^x debug: ", lines "debug")
    write("loud.lua", "return { policy = 'policy.lua', log = 'debug' }")
    assert.matches("^x debug: ", ask("config=loud.lua", "log_context=x", "plan", "manifest.toml"))
    assert.matches("^x info: ", ask("config=loud.lua", "log=info", "log_context=x", "plan", "manifest.toml"))
  end

  function options.log_sink()
    local command = ("cd %s && %s ask log=info policy=policy.lua %%s plan manifest.toml"):format(folder, program)
    local out, err = helper.run(command:format "")
    assert.equal("denied: ", out:sub(1, 8))
    assert.matches("^theaterref: info: %S+/actor.wasm: refused", err)
    out, err = helper.run(command:format "log_context=mine")
    assert.matches("^mine info: %S+/actor.wasm: refused", out)
    assert.equal("", err)
  end
  options.log_context = options.log_sink

  function options.lua_folder()
    helper.run_ok(("mkdir -p %s/own/theaterref && echo 'error \"found in lua_folder\"' > %s/own/theaterref/init.lua"):format(folder,
      folder))
    assert.matches("^policy: lua_folder: " .. folder .. "/none/theaterref/init.lua: No such file or directory",
      ask("lua_folder=" .. folder .. "/none", "resolve", "actor.wasm"))
    assert.matches("^policy: .*found in lua_folder", ask("lua_folder=" .. folder .. "/own", "resolve", "actor.wasm"))
    assert.equal("bytes: \0asm\n", ask("lua_folder=" .. helper.root .. "/lua", "resolve", "actor.wasm"))
  end

  for name, case in pairs(options) do
    it("has the option " .. name, case)
  end

  it("has no option without a case here", function()
    local header = helper.read "csrc/theaterref.h"
    for struct, prefix in pairs { tr_host_options = "", tr_call_options = "call_" } do
      local body = header:match("typedef struct " .. struct .. " (%b{})"):gsub("/%*.-%*/", "")
      for name in body:gmatch "([%w_]+);" do
        local there = name == "size" or options[name] ~= nil and (prefix == "" or name ~= "timeout") or options[prefix .. name]
        assert(there, name .. " of " .. struct)
      end
    end
  end)
end)
