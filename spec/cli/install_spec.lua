local helper = require "helper"

-- From another folder, without the paths of the build tree.
local function elsewhere(folder, command)
  return helper.run_ok(("cd / && env -u LUA_PATH -u LUA_CPATH HOME=%s %s"):format(folder, command))
end

describe("make install", function()
  local folder, prefix

  setup(function()
    if os.getenv "BUILD" ~= "build" then return end -- a package is not built with sanitizers
    local installation = helper.installation()
    folder, prefix = installation.folder, installation.prefix
  end)

  teardown(function() if folder then helper.remove(folder) end end)

  local function installed(what, check)
    it(what, function()
      if not folder then return pending "checked without sanitizers" end
      check()
    end)
  end

  local function compile(name, compiler, flags)
    local program = folder .. "/" .. name:gsub("%.c$", "")
    helper.run_ok(("%s %s %s/examples/hosts/%s -o %s $(PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config --cflags --libs theaterref) -Wl,-rpath,%s/lib -pthread")
      :format(compiler, flags or "-Wall -Wextra -Werror", folder, name, program, prefix, prefix))
    return program
  end

  installed("says which packages are missing, all of a kind at once", function()
    helper.run_ok("mkdir -p " .. folder .. "/tools")
    local function make(tool, script, arguments)
      helper.write(folder .. "/tools/" .. tool, "#!/bin/sh\n" .. script .. "\n")
      helper.run_ok("chmod +x " .. folder .. "/tools/" .. tool)
      local _, err, status = helper.run(("PATH=%s/tools:$PATH make -s -C %s install PREFIX=%s/none %s"):format(folder, folder, folder,
        arguments))
      helper.run_ok("rm " .. folder .. "/tools/" .. tool)
      assert.equal(2, status)
      return err
    end
    assert.matches("^Missing; on Debian: apt%-get install liblua5.4%-dev libcurl4%-openssl%-dev\n",
      make("pkg-config", 'test "$*" = --version', "BUILD=elsewhere"))
    assert.matches("^Missing; on Debian: apt%-get install lua%-lpeg lua%-argparse\n",
      make("lua5.4", 'case "$*" in *lpeg* | *argparse*) exit 1;; esac', "BUILD=build"))
    assert.is_false(helper.exists(folder .. "/none/bin/theaterref"))
  end)

  installed("gives a command and a module that work from any folder", function()
    local version = elsewhere(folder, prefix .. "/bin/theaterref --version")
    assert.matches("^theaterref %d+%.%d+%.%d+\n$", version)
    local header = helper.read "csrc/theaterref.h"
    assert.equal(header:match 'TR_VERSION "([^"]+)"', version:match "theaterref (%S+)")
    assert.matches("Version: " .. version:match "theaterref (%S+)", helper.read(prefix .. "/lib/pkgconfig/theaterref.pc"))
  end)

  installed("prints the paths to set if Lua does not look below the prefix", function()
    local out = helper.run_ok(("env -u LUA_PATH -u LUA_CPATH make -s -C %s install PREFIX=%s BUILD=build"):format(folder, prefix))
    local line = ('  export LUA_PATH="%s/share/lua/5.4/?.lua;%s/share/lua/5.4/?/init.lua;;" LUA_CPATH="%s/lib/lua/5.4/?.so;;"\n')
      :format(prefix, prefix, prefix)
    assert.is_truthy(out:find(line, 1, true), out)
    out = helper.run_ok(("%s make -s -C %s install PREFIX=%s BUILD=build"):format(line, folder, prefix))
    assert.is_nil(out:find("LUA_PATH", 1, true), out)
  end)

  installed("gives the man page and the completions their places", function()
    for place, expected in pairs { ["man/man1/theaterref.1"] = "^%.TH THEATERREF 1", ["zsh/vendor-completions/_theaterref"] = "^#compdef",
      ["bash-completion/completions/theaterref"] = "complete .*theaterref", ["fish/vendor_completions.d/theaterref.fish"] = "complete %-c" } do
      assert.matches(expected, helper.read(prefix .. "/share/" .. place))
    end
  end)

  installed("makes a Debian package whose files work", function()
    if helper.run "command -v dpkg-shlibdeps" == "" then return pending "dpkg-dev is not here" end
    local root = folder .. "/unpacked"
    local package = helper.run_ok(("make -s -C %s deb | tail -1"):format(folder)):match "[^\n]+"
    local about = helper.run_ok(("dpkg-deb -x %s/%s %s && dpkg-deb -f %s/%s"):format(folder, package, root, folder, package))
    assert.matches("Depends: .*libmbedcrypto.*, libcurl4 .*, lua5.4,", about)
    local modules = helper.run_ok("dirname " .. root .. "/usr/lib/*/lua/5.4/theaterref"):match "[^\n]+"
    local environment = ("LUA_PATH='%s/usr/share/lua/5.4/?.lua;%s/usr/share/lua/5.4/?/init.lua;;' LUA_CPATH='%s/?.so;;' "):format(
      root, root, modules)
    assert.matches("package +.*greeter.wasm", elsewhere(folder, ("%s %s/usr/bin/theaterref plan %s/examples/actor/manifest.toml"):format(
      environment, root, folder)))
    helper.run_ok("cd " .. root .. " && md5sum --quiet -c " .. folder .. "/build/deb/DEBIAN/md5sums")
  end)

  installed("gives C hosts a library: one plans and runs an actor", function()
    local program = compile("spawn.c", "cc")
    local out = elsewhere(folder, ("%s %s/examples/actor/manifest.toml %s/examples/actor/spawn_policy.lua '{\"name\":\"c-host\"}'")
      :format(program, folder, folder))
    assert.matches("^c%-host from /.*greeter.wasm\n", out)
    assert.matches("=>", out)
    local _, err, status = helper.run(program .. " /nowhere.toml")
    assert.equal(1, status)
    assert.matches("^spawn: Failed to resolve reference: Failed to read /nowhere.toml", err)
    helper.write(folder .. "/bad.lua", "return {{{")
    _, err, status = helper.run(program .. " /x " .. folder .. "/bad.lua")
    assert.equal(1, status)
    assert.matches("bad.lua:1:", err)
  end)

  installed("gives threads one cache", function()
    local out = elsewhere(folder, compile("workers.c", "cc") .. " " .. folder .. "/examples/actor/manifest.toml")
    assert.matches("^200 plans by 4 workers: 1 loads, ", out)
    assert.matches("^100 plans by 2 workers: ", elsewhere(folder, folder .. "/workers " .. folder .. "/examples/actor/manifest.toml 2"))
  end)

  installed("has a header for C99 and for C++", function()
    helper.write(folder .. "/examples/hosts/use.c", "#include <theaterref.h>\nint main(void) { return tr_error_kind_name(TR_OK) == 0; }\n")
    helper.run_ok(compile("use.c", "cc", "-std=c99 -pedantic -Wall -Wextra -Werror"))
    helper.run_ok(compile("use.c", "g++ -x c++", "-std=c++11 -pedantic -Wall -Wextra -Werror"))
  end)

  installed("links statically too", function()
    helper.run_ok(("cc %s/examples/hosts/spawn.c -I%s/include %s/lib/libtheaterref.a -o %s/static "):format(folder, prefix,
      prefix, folder) .. "$(pkg-config --libs lua5.4) -lmbedcrypto -ldl -lm -pthread")
    helper.run_ok(("%s/static %s/examples/actor/manifest.toml"):format(folder, folder))
  end)

  installed("is taken away whole by make uninstall", function()
    helper.run_ok(("make -s -C %s uninstall PREFIX=%s"):format(folder, prefix))
    assert.equal("", (helper.run("find " .. prefix .. " -type f -o -type l")))
  end)

  installed("works by luarocks too", function()
    if helper.run "command -v luarocks" == "" then return pending "luarocks is not here" end
    helper.run_ok(("cd %s && luarocks --lua-version 5.4 --tree %s/rocks make --deps-mode none rockspec/theaterref-dev-1.rockspec")
      :format(folder, folder))
    local script = helper.write(folder .. "/script.lua", ([[
      local rocks = %q
      package.path = rocks .. "/share/lua/5.4/?.lua;" .. rocks .. "/share/lua/5.4/?/init.lua;" .. package.path
      package.cpath = rocks .. "/lib/lua/5.4/?.so;" .. package.cpath
      io.write(tostring(require("theaterref").resolve_reference(%q)))]]):format(folder .. "/rocks",
      helper.write(folder .. "/file", "bytes")))
    assert.equal("bytes", elsewhere(folder, "lua5.4 " .. script))
  end)
end)

describe("a host in Lua", function()
  it("plans and runs an actor, as the configuration says", function()
    helper.with_folder(function(folder)
      local command = ("HOME=%s THEATERREF_CONFIG=%s/conf.lua %s examples/hosts/spawn.lua %s/examples/actor/manifest.toml "):format(folder,
        folder, helper.lua, helper.root)
      helper.write(folder .. "/conf.lua", ("return { policy = %q }"):format(helper.root .. "/examples/actor/spawn_policy.lua"))
      local out = helper.run_ok(command .. [['{"name":"lua-host"}']])
      assert.matches("^lua%-host from /.*greeter.wasm\n.*=>", out)
      helper.write(folder .. "/conf.lua", "return { polcy = 1 }")
      local _, err, status = helper.run(command)
      assert.matches("^spawn: .*there is no resolver option 'polcy' %(did you mean 'policy'%?%)\n$", err)
      assert.equal(1, status)
    end)
  end)
end)

describe("a supervisor", function()
  it("runs an actor, replaces it when its label moves, starts it again when it dies, and rolls back a bad version", function()
    helper.with_folder(function(folder)
      local function run(command) return helper.run_ok(("THEATER_HOME=%s %s"):format(folder, command)) end
      local function deploy(name, script)
        helper.write(folder .. "/" .. name, script)
        run(("%s %s/lua/bin/theaterref store put actors %s/%s --label worker"):format(helper.lua, helper.root, folder, name))
      end
      local function log() return helper.read(folder .. "/log") end
      local function logged(text, times)
        helper.eventually(function() return select(2, log():gsub(text, "")) >= (times or 1) end)
      end
      deploy("one", "echo one is running; exec sleep 60")
      local pid = run(("%s examples/hosts/supervisor.lua store://actors/worker sh >%s/log 2>&1 & echo $!"):format(helper.lua, folder))
      logged "one is running"
      deploy("two", "echo two is running; exec sleep 60")
      logged "two is running"
      logged "healthy"
      helper.run_ok("kill " .. log():match ".*started %x+ as (%d+)\n")
      logged("two is running", 2)
      logged("healthy", 2)
      deploy("three", "exit 3")
      logged "failed %x+ with status 3, rolling back to %x+"
      logged("two is running", 3)
      assert.equal(1, select(2, log():gsub("one is running", "")))
      local actor = log():match ".*started %x+ as (%d+)\n"
      helper.run_ok("kill " .. pid)
      logged "stopped"
      helper.eventually(function() return helper.run("kill -0 " .. actor .. " 2>&1") ~= "" end)
    end)
  end)

  it("reads the configuration, and kills an actor that ignores SIGTERM", function()
    helper.with_folder(function(folder)
      helper.write(folder .. "/conf.lua", "return { log = 'off' }")
      local actor = helper.write(folder .. "/actor", "trap '' TERM; echo one is running; while :; do sleep 0.1; done")
      local log = folder .. "/log"
      local pid = helper.run_ok(("THEATERREF_CONFIG=%s/conf.lua %s examples/hosts/supervisor.lua %s sh >%s 2>&1 & echo $!"):format(
        folder, helper.lua, actor, log))
      local function logged(text) helper.eventually(function() return helper.read(log):find(text, 1, true) end) end
      logged "one is running"
      helper.write(actor, "echo two is running; exec sleep 60")
      logged "two is running"
      helper.run_ok("kill " .. pid)
      logged "stopped"
    end)
  end)
end)
