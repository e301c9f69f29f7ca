local cjson = require "cjson"
local core = require "theaterref.core"
local helper = require "helper"

describe("the command", function()
  local folder

  setup(function()
    folder = helper.temporary_folder()
    helper.write(folder .. "/actor.wasm", "\0asm")
    helper.write(folder .. "/m.toml", 'name = "{{default n "x"}}"\npackage = "actor.wasm"\nbig = 9223372036854775807\n')
    helper.write(folder .. "/state", '{"a":1}')
    helper.write(folder .. "/policy.lua", "return { allow = function() return false, 'closed today' end }")
  end)

  teardown(function() helper.remove(folder) end)

  local function theaterref(arguments)
    return helper.run(("cd %s && THEATER_HOME=%s/home %s %s/lua/bin/theaterref %s"):format(folder, folder, helper.lua,
      helper.root, arguments))
  end

  it("resolves to stdout or into a file", function()
    assert.equal("\0asm", (theaterref "resolve actor.wasm"))
    local out, err, status = theaterref "resolve actor.wasm -o copy"
    assert.same({ "", "", 0 }, { out, err, status })
    assert.equal("\0asm", helper.read(folder .. "/copy"))
  end)

  it("shows a bar on a terminal while it fetches, and clears it when done", function()
    local server = helper.nginx()
    server:put("drip", ("x"):rep(300))
    local function command(path)
      return ("TERM=xterm THEATER_HOME=%s/home %s %s/lua/bin/theaterref resolve %s%s -o %s/dripped"):format(folder, helper.lua,
        helper.root, server.http, path, folder)
    end
    -- script(1) gives the command a terminal and writes down what it shows
    local out, _, status = helper.run("script -qec " .. helper.quote(command "/dripping/drip") .. " "
      .. folder .. "/typescript </dev/null")
    local without_terminal = helper.run(command "/drip" .. " 2>&1")
    server:stop()
    assert.equal(0, status, out)
    assert.matches("0.0 MiB  #[#.]+%s+%d+%%", out)
    assert.matches("\r\27%[K$", out)
    assert.equal(300, #helper.read(folder .. "/dripped"))
    assert.equal("", without_terminal)
  end)

  it("ends on a terminal, too, when a fetch takes too long", function()
    local server = helper.misbehaving()
    local out, _, status = helper.run(("script -qec 'TERM=xterm %s %s/lua/bin/theaterref resolve %s/never --timeout 0.5' %s/typescript </dev/null")
      :format(helper.lua, helper.root, server.http, folder))
    server:stop()
    assert.equal(1, status)
    assert.matches("Failed to fetch from http://127.0.0.1:%d+/never: ", out)
  end)

  it("says that it was interrupted, with status 130, whatever it waits for", function()
    local server = helper.misbehaving()
    for i, arguments in ipairs { "resolve URL", "resolve URL -o never --json", "plan URL", "explain URL", "lock URL", "doctor --url URL",
      "store put demo -", "store put demo pipe", "store import demo pipe" } do
      local out, err, status = helper.run(([[cd %s; test -e pipe || mkfifo pipe; exec 7<>pipe; export THEATER_HOME=%s/home
        %s %s/lua/bin/theaterref %s <&7 & pid=$!
        waits() { [ "$(cut -d' ' -f3 /proc/$pid/stat)" = S ]; }
        until waits && sleep 0.05 && waits; do sleep 0.01; done; kill -INT $pid; wait $pid]]):format(folder, folder, helper.lua, helper.root,
        arguments:gsub("URL", server.http .. "/never")))
      assert.equal(130, status, arguments .. "\n" .. out .. err)
      assert.equal(i == 2 and '{"error":{"kind":"cancelled","message":"interrupted"}}\n' or "theaterref: interrupted\n", err)
    end
    server:stop()
    assert.is_false(helper.exists(folder .. "/never"))
    assert.is_false(helper.exists(folder .. "/theaterref.lock"))
  end)

  it("is interrupted while its reader sleeps", function()
    helper.write(folder .. "/large", ("x"):rep(1 << 20))
    theaterref "store put sleepy large --label large"
    for _, arguments in ipairs { "resolve large", "store get sleepy large", "store export sleepy -" } do
      local _, err, status = helper.run(([[cd %s; test -e sleeping || mkfifo sleeping; exec 8<>sleeping; export THEATER_HOME=%s/home
        %s %s/lua/bin/theaterref %s >&8 & pid=$!
        waits() { [ "$(cut -d' ' -f3 /proc/$pid/stat)" = S ]; }
        until waits && sleep 0.05 && waits; do sleep 0.01; done; kill -INT $pid; wait $pid]]):format(folder, folder, helper.lua,
        helper.root, arguments))
      assert.same({ 130, "theaterref: interrupted\n" }, { status, err }, arguments)
    end
  end)

  it("names a file of authorities that is none, whatever it resolves", function()
    assert.equal("theaterref: --ca-file: Failed to read nowhere: No such file or directory\n",
      select(2, theaterref "resolve actor.wasm --ca-file nowhere"))
    assert.equal("theaterref: --ca-file: policy.lua has no certificate in PEM form\n",
      select(2, theaterref "resolve actor.wasm --ca-file policy.lua"))
  end)

  it("trusts the authorities that SSL_CERT_FILE names", function()
    local server = helper.nginx()
    server:put("trusted", "bytes")
    local command = ("%s %s/lua/bin/theaterref resolve %s/trusted"):format(helper.lua, helper.root, server.https)
    assert.equal("bytes", (helper.run("SSL_CERT_FILE=" .. server.ca .. " " .. command)))
    assert.matches("SSL certificate problem", (select(2, helper.run("SSL_CERT_FILE= " .. command))))
    local _, err = helper.run(("SSL_CERT_FILE=%s/policy.lua %s"):format(folder, command))
    assert.matches(folder .. "/policy.lua has no certificate in PEM form", err, 1, true)
    server:stop()
  end)

  it("says on stderr what failed, with status 1", function()
    local out, err, status = theaterref "resolve nowhere"
    assert.equal("", out)
    assert.equal("theaterref: Failed to resolve reference: Failed to read nowhere: No such file or directory\n", err)
    assert.equal(1, status)
    out, err, status = theaterref "plan m.toml --policy policy.lua"
    assert.equal("", out)
    assert.matches("closed today", err)
    assert.equal(1, status)
  end)

  it("says how to use it, with status 2", function()
    for _, arguments in ipairs { "", "resolve", "nonsense", "plan m.toml --nonsense", "store", "store put demo" } do
      local out, err, status = theaterref(arguments)
      assert.equal("", out)
      assert.matches("Usage: theaterref", err)
      assert.equal(2, status)
    end
    local out, err, status = theaterref "--help"
    assert.matches("Turns references into bytes", out)
    assert.same({ "", 0 }, { err, status })
    assert.matches("^theaterref %d", (theaterref "--version"))
  end)

  it("plans, for people and as JSON", function()
    local out = theaterref [[plan m.toml --state '{"n":"worker"}']]
    assert.matches("name%s+worker", out)
    assert.matches("package%s+/.*actor.wasm", out)
    assert.matches("sha256 %x+", out)
    assert.matches("initial state%s+{\"n\":\"worker\"}", out)
    assert.matches("parse%s+[%d.]+ ms", out)
    helper.write(folder .. "/state.json", '{"n":"from a file"}')
    out = theaterref "plan m.toml --json --state @state.json"
    assert.matches('"big":9223372036854775807', out)
    local plan = cjson.decode(out)
    assert.equal("from a file", plan.name)
    assert.equal(4, plan.package_bytes)
    assert.equal(6, #plan.phases)
    local _, err, status = theaterref "plan m.toml --state @none.json"
    assert.matches("none.json", err)
    assert.equal(1, status)
  end)

  it("explains that a rule failed, or that it refused", function()
    helper.write(folder .. "/failing.lua", "return { allow = function() error 'oh' end }")
    assert.matches("allow +actor.wasm: failed %(failing.lua:1: oh%)   %[failing.lua%]\n",
      (theaterref "explain actor.wasm --policy failing.lua"))
    assert.matches("allow +actor.wasm: refused %(closed today%)", (theaterref "explain actor.wasm --policy policy.lua"))
  end)

  it("renders", function()
    assert.equal(helper.read(folder .. "/m.toml"):gsub("{{.-}}", "y"), (theaterref [[render m.toml --state '{"n":"y"}']]))
  end)

  it("draws a plan's phases as a waterfall", function()
    local out = theaterref "plan m.toml --timings"
    assert.matches("  manifest +|=+ *|  +[%d.]+ ms", out)
    assert.matches("  package +| +=+ *|  +[%d.]+ ms +4 bytes\n  in all +[%d.]+ ms\n$", out)
  end)

  it("is its own doctor, and leaves nothing behind", function()
    local out, err, status = theaterref "doctor --home fresh"
    assert.matches("^ok    versions      theaterref [%d.]+, Lua 5.4, libcurl/", out)
    assert.matches("ok    authorities   %d+ in /", out)
    assert.matches("ok    stores        can be written, synced and read back\n", out)
    assert.same({ "", 0 }, { err, status })
    assert.is_false(helper.exists(folder .. "/fresh"))
    out, err, status = theaterref "doctor --home /proc/nowhere --url https://127.0.0.1:1/ --policy m.toml --ca-file policy.lua"
    assert.matches("FAIL  authorities   policy.lua has no certificate in PEM form", out)
    assert.matches("FAIL  stores .*; give %-%-home, or set THEATER_HOME, to a folder that can be written\n", out)
    assert.matches("FAIL  network       .*policy.lua has no certificate", out)
    assert.matches("FAIL  policy .*m.toml", out)
    assert.same({ "theaterref: 4 checks failed\n", 1 }, { err, status })
    assert.matches("FAIL  network       Failed to resolve reference: .*127.0.0.1.*; is there a way to it",
      (theaterref "doctor --url https://127.0.0.1:1/"))
    helper.write(folder .. "/nobody.lua", 'return { allow = function() return false, "nobody may" end }')
    assert.matches("FAIL  network       .*nobody may", (theaterref "doctor --url m.toml --policy nobody.lua"))
    out = helper.run(("cd %s && https_proxy=http://me:hunter2@proxy:80 http_proxy=me:hunter2@proxy %s %s/lua/bin/theaterref doctor"):format(
      folder, helper.lua, helper.root))
    assert.matches("proxy         https_proxy=http://proxy:80 http_proxy=proxy\n", out)
  end)

  it("checks the disk cache that is configured", function()
    helper.write(folder .. "/disk.conf.lua", 'return { cache = { disk = { base_path = "packages" } } }')
    local out = theaterref "doctor --config disk.conf.lua"
    assert.matches("ok    disk cache    can be written; 0 entries in /.*/packages\n", out)
    assert.is_false(helper.exists(folder .. "/packages"))
    helper.write(folder .. "/disk.conf.lua", 'return { home = "a/b/", cache = { disk = {} } }')
    assert.matches("0 entries in /.*/a/b//store/cache\n", (theaterref "doctor --config disk.conf.lua"))
    assert.is_false(helper.exists(folder .. "/a"))
    helper.run_ok("mkdir -p " .. folder .. "/kept/store")
    theaterref "doctor --home kept"
    assert.is_true(helper.exists(folder .. "/kept/store"))
    helper.write(folder .. "/disk.conf.lua", 'return { cache = { disk = { base_path = "disk.conf.lua/x" } } }')
    assert.matches("FAIL  disk cache    .*Not a directory\n", (theaterref "doctor --config disk.conf.lua"))
  end)

  it("writes completions for the usual shells", function()
    assert.equal("", (helper.run(("%s %s/lua/bin/theaterref completion bash | bash -n"):format(helper.lua, helper.root))))
    assert.matches("store", (theaterref "completion zsh"))
    assert.matches("complete %-c theaterref", (theaterref "completion fish"))
  end)

  it("works on stores", function()
    local hash = theaterref("store put demo actor.wasm --label actors/a"):match("^(%x+)\n$")
    assert.equal(40, #hash)
    assert.equal(hash .. "\n", (helper.run(("printf '\\0asm' | THEATER_HOME=%s/home %s %s/lua/bin/theaterref store put demo -")
      :format(folder, helper.lua, helper.root))))
    assert.equal("\0asm", (theaterref "store get demo actors/a"))
    assert.equal("\0asm", (theaterref("store get demo " .. hash)))
    assert.equal("\0asm", (theaterref "resolve store://demo/actors/a"))
    assert.equal("", (theaterref("store label demo b " .. hash)))
    assert.equal(hash .. "  actors/a\n" .. hash .. "  b\n", (theaterref "store labels demo"))
    assert.equal(hash .. "\n", (theaterref "store ls demo"))
    assert.same({ ["actors/a"] = hash, b = hash }, cjson.decode((theaterref "store labels demo --json")))
    local out, _, status = theaterref "store verify demo"
    assert.equal("1 sound\n", out)
    assert.equal(0, status)
    helper.write(folder .. "/home/store/demo/data/" .. hash, "bad!")
    out, _, status = theaterref "store verify demo"
    assert.matches("corrupt%s+" .. hash, out)
    assert.equal(1, status)
    local _, err
    _, err, status = theaterref "store get demo nothing"
    assert.equal("theaterref: Label not found: nothing\n", err)
    assert.equal(1, status)
    _, _, status = theaterref "store ls ../x"
    assert.equal(1, status)
  end)

  it("moves labels, collects garbage and copies a store", function()
    local one = theaterref("store put yard actor.wasm"):match "%x+"
    local two = theaterref("store put yard m.toml --label two"):match "%x+"
    assert.equal("", (theaterref("store label yard two --expect " .. two .. " " .. one)))
    local _, err, status = theaterref("store label yard two --expect none " .. two)
    assert.equal("theaterref: label two already exists (at " .. one .. ")\n", err)
    assert.equal(1, status)
    helper.run_ok(("cd %s/home/store/yard && touch -d '2 hours ago' '.tmp-my file' && ln -s x .tmp-a && touch -d '2 hours ago' .tmp-a.1"):format(
      folder))
    local out
    out, err, status = theaterref "store gc yard --dry-run" -- one name has a blank, one file cannot be deleted
    assert.matches("^would delete    %.tmp%-my file\nfailed          %.tmp%-a%.1: Failed to delete", out)
    assert.matches("some files could not be deleted", err)
    assert.equal(1, status)
    helper.run_ok(("rm %s/home/store/yard/.tmp-*"):format(folder))
    assert.equal("theaterref: label none does not exist\n", (select(2, theaterref("store label yard none --expect " .. one .. " " .. one))))
    assert.equal("theaterref: label two is not at " .. two .. " but at " .. one .. "\n",
      (select(2, theaterref("store label yard two --expect " .. two .. " " .. one))))
    assert.equal("no content deleted; kept: 1 labelled, 1 in a label's history, 0 put or labelled within 3600 s (--grace), 0 in use\n",
      (theaterref "store gc yard"))
    assert.same({ two .. "\n", one .. "\n" }, { (theaterref "store history yard two"), (theaterref "store label yard two") })
    local back, forth = ("moved from %s to %s\n"):format(one, two), ("moved from %s to %s\n"):format(two, one)
    assert.same({ back, forth }, { (theaterref "store rollback yard two"), (theaterref "store rollback yard two") })
    assert.equal(back, (theaterref("store rollback yard two --to " .. two)))
    assert.matches(("0"):rep(40) .. " is not in the history of label two\n", (select(2, theaterref("store rollback yard two --to "
      .. ("0"):rep(40)))))
    theaterref "store rollback yard two"
    assert.same({ "", two .. "\n" }, { (theaterref "store label yard copy --copy two"), (theaterref "store history yard two") })
    assert.equal("theaterref: Label copy has no history\n", (select(2, theaterref "store rollback yard copy")))
    assert.equal("theaterref: Label not found: none\n", (select(2, theaterref "store label yard copy --copy none")))
    assert.equal("theaterref: give a hash or --copy, not both\n", (select(2, theaterref("store label yard x --copy two " .. one))))
    assert.equal("theaterref: --expect is for a label that is moved: give a hash or --copy\n",
      (select(2, theaterref "store label yard two --expect none")))
    theaterref "store unlabel yard copy"
    helper.write(folder .. "/forgetful.conf.lua", "return { label_history = 0 }")
    assert.equal("would delete    " .. two .. "\n", (theaterref "store gc yard --grace 0 -n --config forgetful.conf.lua"))
    local report = cjson.decode((theaterref "store gc yard --grace 0 --json --config forgetful.conf.lua"))
    assert.same({ { two }, {}, {}, 1 }, { report.deleted, report.temporary_files, report.failed, report.kept.labelled })
    assert.equal("           4 bytes  two\n           0 bytes  without a label\n           4 bytes  in all\n",
      (theaterref "store usage yard"))
    assert.equal("", (theaterref "store export yard yard.tar"))
    assert.same({ "2 imported\n", "theaterref: new store 'copy'\n", 0 }, { theaterref "store import copy - < yard.tar" })
    theaterref "store put copy policy.lua --label two"
    assert.equal("2 imported; labels left where they were: 1\n", (theaterref "store import copy yard.tar --keep-labels"))
    assert.equal("2 imported; labels moved that were in the store: 1 (--keep-labels leaves them)\n",
      (theaterref "store import copy yard.tar"))
    out, err, status = theaterref "store export yard actor.wasm"
    assert.same({ "", 1, "\0asm" }, { out, status, helper.read(folder .. "/actor.wasm") })
    assert.matches("Failed to export to actor.wasm: that file exists and is not a store export", err)
    assert.equal("\0asm", (theaterref "store get copy two"))
    assert.equal("", (theaterref "store unlabel copy two"))
    _, err, status = theaterref "store unlabel copy two"
    assert.equal("theaterref: Label not found: two\n", err)
    assert.equal(1, status)
    _, err, status = theaterref "store import copy actor.wasm"
    assert.matches("this is not an export of a store: it ends too early", err)
    assert.equal(1, status)
  end)

  it("says when a put makes a new store", function()
    assert.equal("theaterref: new store 'relase'\n", (select(2, theaterref "store put relase actor.wasm")))
    assert.equal("", (select(2, theaterref "store put relase actor.wasm")))
    assert.equal("", (select(2, theaterref "store put relaese actor.wasm -q")))
    assert.not_matches("new store", (select(2, theaterref "store put relese missing")))
  end)

  it("takes no store that is not there for an empty one", function()
    theaterref "store put yard actor.wasm --label x"
    for _, words in ipairs { "get no x", "label no x " .. ("0"):rep(40), "unlabel no x", "labels no", "ls no", "usage no", "verify no",
      "gc no", "export no no.tar" } do
      local _, err, status = theaterref("store " .. words)
      assert.matches("^theaterref: there is no store 'no' in " .. folder .. "/home/store; stores: [%l, ]*yard\n$", err)
      assert.equal(1, status)
    end
    for _, words in ipairs { "ls no", "rm no x", "clear no" } do
      assert.matches("there is no store 'no' in .*stores: .*yard", (select(2, theaterref("cache " .. words))))
    end
    assert.is_false(helper.exists(folder .. "/no.tar"))
  end)

  it("locks what a scheme leads to as well", function()
    helper.write(folder .. "/scheme.lua", ([[return { schemes = { pkg = function(ref)
      return { reference = "%s/" .. ref:match "//(.*)" } end } }]]):format(folder))
    helper.write(folder .. "/pkg.toml", 'name = "p"\npackage = "pkg://actor.wasm"\n')
    assert.same({ "", "", 0 }, { theaterref "lock pkg.toml --policy scheme.lua -o pkg.lock --quiet" })
    local lockfile = helper.read(folder .. "/pkg.lock")
    for _, ref in ipairs { "pkg.toml", "pkg://actor.wasm", "actor.wasm" } do
      assert.is_truthy(lockfile:find("  " .. ref .. "\n", 1, true), ref)
    end
    local out, err, status = theaterref "plan pkg.toml --policy scheme.lua --lockfile pkg.lock"
    assert.matches("pkg://actor.wasm", out)
    assert.same({ "", 0 }, { err, status })
  end)

  it("takes a state from standard input, and advises how to give a file", function()
    assert.matches('initial state  {"a":1}', (theaterref "plan m.toml --state @- < state"), 1, true)
    assert.equal("theaterref: --state: 'nope.json' is not JSON; to give a file, write @nope.json\n",
      (select(2, theaterref "plan m.toml --state nope.json")))
    assert.matches("^theaterref: standard input: invalid JSON at line 1", (select(2, theaterref "plan m.toml --state @- < m.toml")))
  end)

  it("leaves no new store behind if an import fails", function()
    helper.write(folder .. "/junk.tar", "junk")
    for _, file in ipairs { "junk.tar", "none.tar" } do
      assert.equal(1, select(3, theaterref("store import unborn " .. file)))
      assert.is_false(helper.exists(folder .. "/home/store/unborn"))
    end
  end)

  it("refuses to be offline with a store that does not exist", function()
    theaterref "store put yard actor.wasm"
    local _, err, status = theaterref "resolve actor.wasm --offline yart"
    assert.matches("^theaterref: there is no store 'yart' in .*; stores: .*yard", err)
    assert.equal(1, status)
  end)

  it("ends a lockfile's refusal with the command that it advises", function()
    helper.write(folder .. "/two.toml", 'name = "l"\npackage = "actor.wasm"\n')
    helper.write(folder .. "/one.lock", "theaterref lockfile 1\nsha256=" .. core.blob(helper.read(folder .. "/two.toml")):digest "sha256"
      .. "  two.toml\n")
    local _, err = theaterref "plan two.toml --lockfile one.lock"
    assert.matches("actor.wasm: it is not in the lockfile .*one.lock %(named by two.toml%); to allow it, lock its manifest again: "
      .. "theaterref lock %-o [^ ]*one.lock two.toml\n$", err)
  end)

  it("prints what a lock changes, and nothing if nothing changes", function()
    local locked = helper.write(folder .. "/locked.wasm", "one")
    helper.write(folder .. "/locked.toml", 'name = "l"\npackage = "locked.wasm"\n')
    assert.same({ ("added %s/locked.toml\nadded %s\n"):format(folder, locked), "", 0 }, { theaterref "lock locked.toml -o changes.lock" })
    assert.same({ "", "", 0 }, { theaterref "lock locked.toml -o changes.lock" })
    helper.write(locked, "two")
    local one, two = core.blob("one"):digest "sha256", core.blob("two"):digest "sha256"
    assert.equal(("changed %s %s… -> %s…\n"):format(locked, one:sub(1, 12), two:sub(1, 12)),
      (theaterref "lock locked.toml -o changes.lock"))
    helper.write(locked, "one")
    assert.same({ { change = "changed", reference = locked, sha256 = one, former = two } },
      cjson.decode((theaterref "lock locked.toml -o changes.lock --json")).changes)
    assert.equal('"changes":[]', (theaterref "lock locked.toml -o changes.lock --json"):match '"changes":%[%]')
    helper.write(locked, "two")
    assert.same({ "", "", 0 }, { theaterref "lock locked.toml -o changes.lock -q" })
    helper.write(folder .. "/less.toml", 'name = "l"\npackage = "data:,x"\n')
    assert.matches("added " .. folder .. "/less.toml\nremoved " .. folder .. "/locked.toml\nremoved " .. locked .. "\n",
      (theaterref "lock less.toml -o changes.lock --prune"), 1, true)
    assert.matches("^theaterref lockfile 1\n", (theaterref "lock less.toml -o -"))
  end)

  it("takes no lockfile that contradicts itself, or has a size that is none", function()
    local digest = core.blob(helper.read(folder .. "/m.toml")):digest "sha256"
    local line = "sha256=" .. digest .. "%s  m.toml\n"
    for text, words in pairs { [line:format "" .. line:gsub(digest, ("0"):rep(64)):format ""] = "odd.lock:3: an earlier line",
      [line:format " size=1" .. line:format ""] = "odd.lock:3: an earlier line", [line:format " size=1 size=2"] = "two values of 'size'",
      [line:format " size=99999999999999999999"] = "odd.lock:2: its size is not", [line:format " size=-8"] = "its size is not" } do
      helper.write(folder .. "/odd.lock", "theaterref lockfile 1\n" .. text)
      local _, err, status = theaterref "resolve m.toml --lockfile odd.lock"
      assert.equal(1, status)
      assert.matches(words, err, 1, true)
    end
    helper.write(folder .. "/odd.lock", "theaterref lockfile 1\n" .. line:format "" .. line:format "")
    assert.equal(0, (select(3, theaterref "resolve m.toml --lockfile odd.lock")))
  end)

  it("shows how many secrets a plan has filled in", function()
    helper.write(folder .. "/filling.lua", "return { secrets = function(ref) return ref == 'data:,x' end }")
    local command = [[plan m.toml --state '{"a":{"$ref":"data:,x"},"b":{"$ref":"data:,y"}}' ]]
    assert.matches("\nsecrets        0 of 2 filled in; 2 stay references\n", (theaterref(command)), 1, true)
    assert.matches("\nsecrets        1 of 2 filled in; 1 stays a reference\n", (theaterref(command .. "--policy filling.lua")), 1, true)
    assert.same({ filled = 1, left = 1 }, cjson.decode((theaterref(command .. "--policy filling.lua --json"))).secrets)
    assert.is_nil((theaterref "plan m.toml"):find("secrets", 1, true))
  end)

  it("advises to write a lockfile anew only where there is one, of another version", function()
    helper.write(folder .. "/old.lock", "theaterref lockfile 0\n")
    assert.matches("old.lock:1: the first line of a lockfile is 'theaterref lockfile 1'; write it anew with 'theaterref lock --prune",
      (select(2, theaterref "plan m.toml --lockfile old.lock")), 1, true)
    assert.matches("m.toml:1: the first line of a lockfile is 'theaterref lockfile 1'; this is another file\n",
      (select(2, theaterref "plan m.toml --lockfile m.toml")), 1, true)
  end)

  it("shows and empties a disk cache", function()
    local server = helper.misbehaving()
    local url = server.http .. "/fine"
    helper.run_ok(("%s -e %s"):format(helper.lua, helper.quote(([[
      local theaterref = require "theaterref"
      local cache = theaterref.resource_cache { disk = { store = "packages-cache", home = %q } }
      assert(theaterref.resolve_reference_cached(%q, cache))
      assert(theaterref.resolve_reference_cached(%q, cache))]]):format(folder .. "/home", url, url .. "?2"))))
    server:stop()
    local out = theaterref "cache ls packages-cache"
    assert.is_truthy(out:find(url, 1, true))
    assert.matches("8 bytes  in 2 entries", out)
    local list = cjson.decode((theaterref "cache ls packages-cache --json"))
    assert.same({ 2, 4 }, { #list, list[1].bytes })
    assert.same({ "", "", 0 }, { theaterref("cache rm packages-cache " .. url) })
    local _, err, status = theaterref("cache rm packages-cache " .. url)
    assert.matches("not in this cache", err)
    assert.equal(1, status)
    assert.same({ "", "", 0 }, { theaterref "cache clear packages-cache" })
    assert.matches("0 bytes  in 0 entries", (theaterref "cache ls packages-cache"))
  end)
end)

describe("the build tree", function()
  it("can be used with the lines that 'make env' prints", function()
    local out = helper.run_ok("make -s env > " .. helper.build .. "/env && cd / && . " .. helper.root .. "/" .. helper.build
      .. "/env && " .. helper.lua .. [[ -e 'print(require("theaterref")._VERSION)' && command -v theaterref && ]] .. helper.lua .. " " .. helper.root .. "/lua/bin/theaterref --version")
    assert.matches("^(%d%S*)\n/%S*/theaterref\ntheaterref %1\n$", out)
  end)
end)
