-- Behaviour that all commands share.
local cjson = require "cjson"
local commands = require "theaterref.cli".commands
local command_line = require "theaterref.cli.command_line"
local helper = require "helper"

-- Calls 'visit' with each command that can be run, and its words.
local function each(visit, list, before)
  for _, command in ipairs(list or commands) do
    local words = (before or "") .. command.name
    if command.commands then each(visit, command.commands, words .. " ") else visit(command, words) end
  end
end

describe("every command", function()
  local folder

  local function shell(command)
    return helper.run(("cd %s && unset THEATERREF_LOG && HOME=%s THEATER_HOME=%s/home PATH=%s/bin:$PATH && export HOME THEATER_HOME PATH && %s"):format(
      folder, folder, folder, folder, command))
  end

  before_each(function()
    folder = helper.temporary_folder()
    helper.run_ok("mkdir " .. folder .. "/bin")
    helper.write(folder .. "/bin/theaterref", ("#!/bin/sh\nexec %s %s/lua/bin/theaterref \"$@\"\n"):format(helper.lua, helper.root))
    helper.run_ok("chmod +x " .. folder .. "/bin/theaterref")
    helper.write(folder .. "/actor.wasm", "\0asm")
    helper.write(folder .. "/manifest.toml", 'name = "{{default n "a"}}"\npackage = "actor.wasm"\n')
    helper.write(folder .. "/state.json", '{"n":"b"}')
    helper.write(folder .. "/policy.lua", "return { cacheable = function() return true end }")
    helper.write(folder .. "/policy.test.lua", 'return { { rule = "cacheable", given = { {}, {} }, answer = true } }')
    helper.run_ok(("cd %s && openssl ecparam -name prime256v1 -genkey -noout -out release.pem && openssl ec -in release.pem -pubout -out release.pub 2>&1")
      :format(folder))
    shell "theaterref store put demo state.json --label greeting; theaterref store put demo actor.wasm --label greeting; theaterref store put packages-cache state.json"
  end)

  after_each(function() helper.remove(folder) end)

  it("has examples in its help, which run", function()
    local count = 0
    each(function(command, words)
      assert.is_true(#command.examples > 0, words)
      local help = shell("theaterref " .. words .. " --help")
      for _, example in ipairs(command.examples) do
        assert.is_truthy(help:find(example, 1, true), words)
        if not example:find "https://" and not example:find "oci://" then
          local _, err, status = shell(example)
          err = err:gsub("^theaterref: new store '%a+'\n$", "")
          assert.equal("0 ", status .. " " .. err, example)
          count = count + 1
        end
      end
    end)
    assert.is_true(count > 20)
  end)

  it("prints JSON when asked to, and its failure too", function()
    for _, words in ipairs { "resolve actor.wasm", "plan manifest.toml", "render manifest.toml", "explain manifest.toml",
      "lock manifest.toml", "sign actor.wasm --key release.pem", "policy check policy.lua", "policy test policy.lua", "store put demo actor.wasm --label a", "store get demo a",
      "store labels demo", "store ls demo", "store usage demo", "store verify demo", "store gc demo",
      "store export demo demo.tar", "store import copy demo.tar", "store unlabel demo a", "cache ls demo", "cache clear demo",
      "doctor", "config" } do
      local out, err, status = shell("theaterref " .. words .. " --json")
      assert.same({ "", 0 }, { err, status }, words)
      assert.is_table(cjson.decode(out), words)
      assert.equal(1, select(2, out:gsub("\n", "")), words)
    end
    local out, err, status = shell "theaterref resolve missing --json"
    assert.same({ "", 1 }, { out, status })
    assert.same({ error = { kind = "not_found", reference = "missing",
      message = "Failed to resolve reference: Failed to read missing: No such file or directory" } }, cjson.decode(err))
    out, err, status = shell "theaterref explain https://127.0.0.1:1/x --timeout 1 --json"
    assert.equal(1, status)
    assert.equal(cjson.decode(out).error, cjson.decode(err).error.message)
  end)

  it("says with JSON what it did to which bytes", function()
    local function json(words) return cjson.decode((shell("theaterref " .. words .. " --json"))) end
    local sha256 = "cd5d4935a48c0672cb06407bb443bc0087aff947c6b864bac886982c73b3027f"
    assert.same({ reference = "actor.wasm", target = "actor.wasm", bytes = 4, output = "copy", sha256 = sha256 },
      json "resolve actor.wasm -o copy")
    local sha1 = (shell "sha1sum actor.wasm"):match "%x+"
    assert.same({ hash = sha1, bytes = 4, label = "x" }, json "store put demo actor.wasm --label x")
    assert.equal(4, json("store get demo x").bytes)
    assert.equal(sha256, json("lock manifest.toml").digests[folder .. "/actor.wasm"])
    assert.same({ file = "policy.lua", rules = { "cacheable" } }, json "policy check policy.lua")
    shell "theaterref store export demo demo.tar"
    assert.same({ imported = 4, moved_labels = 0, kept_labels = 0 }, json "store import copy demo.tar")
  end)

  it("says what is wrong with a command line below the usage of the command that was given", function()
    for line, expected in pairs {
      ["resolve x --tineout 3"] = { "theaterref resolve [-h]", "unknown option '--tineout'\nDid you mean '--timeout'?" },
      ["plam"] = { "theaterref [-h]", "unknown command 'plam'\nDid you mean 'plan'?" },
      ["store pot"] = { "theaterref store [-h]", "unknown command 'pot'\nDid you mean 'put'?" },
      ["store label"] = { "theaterref store label [-h]", "missing argument 'id'" },
      ["--json resolve x"] = { "theaterref [-h]", "unknown option '--json'\nOptions are given after the command" },
      ["plan m --timeout -5"] = { "theaterref plan [-h]",
        "unknown option '-5'\n" },
      ["plan m --state -5"] = { "theaterref plan [-h]",
        "unknown option '-5'\nA value that begins with '-' is given as in --state=-5\n" },
      ["lock m --lockfile x"] = { "theaterref lock [-h]", "unknown option '--lockfile'\n-o names the lockfile to write\n" },
      ["lock m --offline x"] = { "theaterref lock [-h]", "unknown option '--offline'" },
      ["plan m '--a\27b'"] = { "theaterref plan [-h]", "unknown option '--a\\27b'" },
    } do
      local out, err, status = shell("theaterref " .. line)
      assert.same({ "", 2 }, { out, status }, line)
      assert.is_truthy(err:find("Usage: " .. expected[1], 1, true) == 1, err)
      assert.is_truthy(err:find("\n\ntheaterref: " .. expected[2], 1, true), err)
    end
  end)

  it("reads the configuration, and puts the command line before it", function()
    helper.write(folder .. "/theaterref.conf.lua", "return { home = 'elsewhere', policy = 'closed.lua' }")
    helper.write(folder .. "/closed.lua", "return { allow = function() return false, 'closed' end }")
    local environment = "export THEATERREF_CONFIG=theaterref.conf.lua; "
    local _, err, status = shell(environment .. "theaterref resolve actor.wasm")
    assert.equal(1, status)
    assert.matches("closed", err)
    assert.equal("\0asm", (shell(environment .. "theaterref resolve actor.wasm --policy policy.lua")))
    assert.equal("\0asm", (shell(environment .. "theaterref resolve actor.wasm --config ''")))
    assert.equal("\0asm", (shell "theaterref resolve actor.wasm"))
    assert.matches("closed", (select(2, shell "theaterref resolve actor.wasm --config theaterref.conf.lua")))
    shell(environment .. "theaterref store put demo actor.wasm")
    assert.is_true(helper.exists(folder .. "/elsewhere/store/demo/data/" .. (shell "sha1sum actor.wasm"):match "%x+"))
    assert.equal(('-- theaterref.conf.lua\nhome = "%s/elsewhere"\npolicy = "%s/closed.lua"\n'):format(folder, folder),
      (shell(environment .. "theaterref config")))
    helper.write(folder .. "/theaterref.conf.lua", "return { hme = 'elsewhere' }")
    for _, words in ipairs { "resolve actor.wasm", "store ls demo", "cache ls demo", "config" } do
      _, err, status = shell(environment .. "theaterref " .. words)
      assert.equal("theaterref: theaterref.conf.lua: there is no resolver option 'hme' (did you mean 'home'?)\n", err)
      assert.equal(1, status)
    end
  end)

  it("has a doctor that goes on without a configuration that is broken", function()
    helper.write(folder .. "/broken.conf.lua", "return { hme = 'elsewhere' }")
    local out, err, status = shell "theaterref doctor --config broken.conf.lua"
    assert.matches("FAIL  configuration broken.conf.lua: there is no resolver option 'hme'", out, 1, true)
    assert.matches("ok    stores ", out)
    assert.same({ "theaterref: one check failed\n", 1 }, { err, status })
  end)

  it("shows of a configuration's headers no more than their names", function()
    helper.write(folder .. "/theaterref.conf.lua",
      "return { headers = { Authorization = 'hunter2' }, hosts = { h = { headers = { Cookie = 'hunter2' } } } }")
    assert.equal('-- theaterref.conf.lua\nheaders = {"Authorization":"…"}\nhosts = {"h":{"headers":{"Cookie":"…"}}}\n',
      (shell "theaterref config --config theaterref.conf.lua"))
    assert.is_nil((shell "theaterref config --config theaterref.conf.lua --json"):find "hunter2")
  end)

  it("shows of a registry's credentials no more than the user", function()
    helper.write(folder .. "/theaterref.conf.lua", [[return { registries = { a = { username = "alice", password = "hunter2" },
      b = { identity_token = "hunter2", proxy = "http://u:hunter2@p:1" } } }]])
    assert.equal('-- theaterref.conf.lua\nregistries = {"a":{"password":"…","username":"alice"},'
      .. '"b":{"identity_token":"…","proxy":"http://p:1"}}\n', (shell "theaterref config --config theaterref.conf.lua"))
    assert.is_nil((shell "theaterref config --config theaterref.conf.lua --json"):find "hunter2")
  end)

  it("shows no user or password of a proxy, however it is written", function()
    for _, text in ipairs { "hunter1:hunter2@127.0.0.1:1", "socks5://hunter1:hunter2@127.0.0.1:1", "hunter1:hunter/2@hunter@127.0.0.1:1",
      "http://hunter1@127.0.0.1:1" } do
      local shown = (text:match "^%w+://" or "") .. "127.0.0.1:1"
      helper.write(folder .. "/proxy.conf.lua", ("return { proxy = %q, hosts = { h = { proxy = %q } } }"):format(text, text))
      assert.equal(('-- proxy.conf.lua\nhosts = {"h":{"proxy":"%s"}}\nproxy = "%s"\n'):format(shown, shown),
        (shell "theaterref config --config proxy.conf.lua"))
      assert.is_nil((shell "theaterref config --config proxy.conf.lua --json"):find "hunter")
      local out = shell(("http_proxy=%s theaterref doctor --config ''"):format(text))
      assert.is_truthy(out:find("http_proxy=" .. shown, 1, true), out)
      assert.is_nil(out:find "hunter")
    end
  end)

  it("has an example configuration that loads, with every option", function()
    local example = shell "theaterref config --example"
    assert.same({}, require("theaterref").config(helper.write(folder .. "/example.conf.lua", example)))
    for _, option in ipairs { "timeout", "ca_file", "ttl", "base_path", "refuse_private" } do
      assert.matches("%-%- +" .. option .. " = ", example)
    end
    for name in example:gsub("\n +%-%- +", " "):gmatch "(%l+) = [^=]-%(below%)" do
      assert.matches("%-%- In [^\n]*" .. name .. " = ", example)
    end
    assert.not_matches(" = nil,", example)
    assert.not_matches("%-%- helpers = ", example)
  end)

  it("warns on standard error, more with -v and nothing with --quiet", function()
    helper.write(folder .. "/two.lua", "return { rewrite = function(ref) return { 'missing', ref } end }")
    local function said(flags) return select(2, shell("theaterref resolve actor.wasm --policy two.lua " .. flags)) end
    assert.matches("^theaterref: warn: trying actor.wasm instead: [^\n]*\n$", said "")
    assert.matches("^theaterref: warn: trying .*\ntheaterref: debug: actor.wasm: 4 bytes\n$", said "-vv")
    assert.equal("", said "--quiet")
    assert.matches("theaterref: info: .*: refused as direct: no",
      (select(2, shell "echo 'return { allow = function() return false, [[no]] end }' > no.lua; theaterref resolve x --policy no.lua -v")))
  end)

  -- With a terminal on all three descriptors.
  local function on_terminal(command)
    return (shell("script -qec " .. helper.quote(command) .. " typescript </dev/null"))
  end

  it("has colours on a terminal only, and none with NO_COLOR", function()
    assert.matches("\27%[32mok", on_terminal "TERM=xterm theaterref doctor")
    assert.matches("\27%[31mtheaterref:\27%[0m Failed", on_terminal "TERM=xterm theaterref resolve missing")
    for _, command in ipairs { "NO_COLOR=1 theaterref doctor", "TERM=dumb theaterref doctor",
      "TERM=xterm NO_COLOR=1 theaterref plan manifest.toml --timings" } do
      assert.not_matches("\27", on_terminal(command))
    end
    assert.not_matches("\27", (shell "TERM=xterm theaterref doctor"))
  end)

  it("lets no control character from outside through to a terminal", function()
    helper.write(folder .. "/evil.toml", 'name = "\\u001b[31mred\\u0007"\npackage = "actor.wasm"\n')
    helper.write(folder .. "/worse.toml", 'name = "worse"\npackage = "\\u001b]0;title\\u0007"\n')
    for _, words in ipairs { "plan evil.toml", "explain evil.toml", "plan worse.toml", "resolve $(printf 'x\\033[1mx')" } do
      local out, err = shell("theaterref " .. words)
      assert.is_nil((out .. err):find "[\27\7]", words)
      assert.is_truthy((out .. err):find("\\27", 1, true), words)
    end
  end)

  it("lets no control character of two bytes, nor what is not UTF-8, through", function()
    helper.write(folder .. "/evil.toml", 'name = "\\u009b31mred"\npackage = "actor.wasm"\n')
    for _, words in ipairs { "plan evil.toml", "explain evil.toml", "resolve $(printf 'x\\302\\2331mx')", "resolve $(printf 'x\\2331mx')",
      "nonsense$(printf '\\2331m')", "policy check $(printf 'x\\2331m')" } do
      for _, flags in ipairs { "", " --json", " -vv" } do
        local out, err = shell("theaterref " .. words .. flags)
        local all = (out .. err):gsub("\u{FFFD}", "?"):gsub("…", "...")
        assert.is_nil(all:find "[\x80-\xFF]", words .. flags)
      end
    end
    local _, err = shell "theaterref resolve $(printf 'x\\2331mx') --json"
    assert.equal("x\u{FFFD}1mx", cjson.decode(err).error.reference)
  end)

  it("refuses a state that is not JSON, with its line and column", function()
    helper.write(folder .. "/state.toml", "port = 1\n")
    helper.write(folder .. "/bad.toml", 'name = "a"\npackage = "actor.wasm"\ninitial_state = "{\\n1}"\n')
    local fault = "invalid JSON at line 1, column 2: a key in double quotes was expected\n"
    for _, words in ipairs { "plan manifest.toml", "render manifest.toml", "explain manifest.toml", "lock manifest.toml" } do
      assert.same({ "", "theaterref: --state: " .. fault, 1 }, { shell("theaterref " .. words .. " --state '{bad'") }, words)
      assert.same({ "", "theaterref: state.toml: invalid JSON at line 1, column 1: not a JSON value\n", 1 },
        { shell("theaterref " .. words .. " --state @state.toml") }, words)
    end
    assert.same({ "", "theaterref: --state: 'state.json' is not JSON; to give a file, write @state.json\n", 1 },
      { shell "theaterref plan manifest.toml --state state.json" })
    local _, err, status = shell "theaterref plan bad.toml"
    assert.matches("the manifest's initial state: invalid JSON at line 2, column 1: a key in double quotes was expected", err)
    assert.equal(1, status)
  end)

  it("names the option whose value is no number, or too low", function()
    for arguments, expected in pairs {
      ["resolve actor.wasm --timeout abc"] = "the option '--timeout' takes a number above 0 (SECONDS), not 'abc'",
      ["resolve actor.wasm --timeout 0"] = "the option '--timeout' takes a number above 0 (SECONDS), not '0'",
      ["store gc demo --grace=-1"] = "the option '--grace' takes a number from 0 (SECONDS), not '-1'",
    } do
      local out, err, status = shell("theaterref " .. arguments)
      assert.same({ "", 2 }, { out, status })
      assert.matches("theaterref: " .. expected .. "\n", err, 1, true)
    end
  end)

  it("refuses an empty value, as of a variable that is not set", function()
    for arguments, option in pairs { ["store put demo actor.wasm --home ''"] = "--home", ["resolve actor.wasm -o ''"] = "--output",
      ["plan manifest.toml --policy ''"] = "--policy", ["plan manifest.toml --lockfile ''"] = "--lockfile",
      ["store label demo greeting --copy greeting --expect ''"] = "--expect", ["plan manifest.toml --state ''"] = "--state" } do
      local out, err, status = shell("theaterref " .. arguments)
      assert.same({ "", 2 }, { out, status }, arguments)
      assert.matches("\n\ntheaterref: the option '" .. option .. "' is empty\n", err, 1, true)
    end
    assert.same({ "", "theaterref: --state: a file's name was expected after '@'\n", 2 }, { shell "theaterref plan manifest.toml --state @" })
    local theaterref = require "theaterref"
    for _, options in ipairs { { home = "" }, { base_path = "" } } do
      assert.equal("an empty 'home' or 'base_path' names no folder", select(2, theaterref.content_store("demo", options)).message)
    end
    assert.equal("an empty 'home' or 'base_path' names no folder",
      select(2, assert(theaterref.resolver { home = "" }):resolve "store://demo/greeting").message)
  end)

  it("ends with status 2 when what is given does not go together", function()
    for arguments, expected in pairs {
      ["explain actor.wasm --purpose packge"] = "there is no purpose 'packge' (did you mean 'package'?): direct, ",
      ["store label demo greeting --expect none"] = "--expect is for a label that is moved",
      ["store label demo a --copy greeting 0"] = "give a hash or --copy, not both",
    } do
      local out, err, status = shell("theaterref " .. arguments)
      assert.same({ "", 2 }, { out, status }, arguments)
      assert.matches("theaterref: " .. expected, err, 1, true)
    end
  end)

  it("has its help, and the version, by their usual names", function()
    each(function(_, words) assert.equal((shell("theaterref " .. words .. " --help")), (shell("theaterref help " .. words))) end)
    assert.same({ 2, true }, { select(3, shell "theaterref help store pot"),
      select(2, shell "theaterref help store pot"):find("Did you mean 'put'?", 1, true) ~= nil })
    assert.equal((shell "theaterref --version"), (shell "theaterref -V"))
    assert.is_truthy((shell "theaterref --help"):find("data:[<type>],<text>", 1, true))
  end)

  it("writes no binary to a terminal", function()
    assert.matches("refusing to write binary data to a terminal; use %-o FILE", on_terminal "theaterref resolve actor.wasm")
    assert.matches('{"n":"b"}', on_terminal "theaterref resolve state.json")
  end)

  it("says so when standard output cannot be written", function()
    local _, err, status = shell "theaterref resolve actor.wasm > /dev/full"
    assert.equal("theaterref: Failed to write to standard output: No space left on device\n", err)
    assert.equal(1, status)
  end)

  it("is in the man page, with its options, which groff reads without a warning", function()
    local page = helper.write(folder .. "/theaterref.1", require("theaterref.cli.manual").page())
    local text = helper.read(page):gsub("\\%-", "-")
    each(function(command, words)
      assert.is_truthy(text:find("\\fB" .. words .. "\\fR", 1, true), words)
      for _, option in ipairs(command_line.options_of(command)) do
        assert.is_truthy(text:find(option[1]:match "%-%-%S+", 1, true), option[1])
      end
    end)
    if helper.run "command -v groff" == "" then return end
    local _, err = helper.run("groff -man -Tutf8 -ww " .. page)
    assert.equal("", err)
  end)
end)
