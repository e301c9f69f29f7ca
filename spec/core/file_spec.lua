local core = require "theaterref.core"
local helper = require "helper"

describe("a file", function()
  local folder

  before_each(function() folder = helper.temporary_folder() end)

  after_each(function() helper.remove(folder) end)

  local function mode_of(path) return helper.run_ok("stat -c %a " .. path):match "%d+" end

  it("is read whole, up to a limit, which is 1 GiB unless it is set", function()
    local path = helper.write(folder .. "/file", "bytes")
    assert.equal("bytes", tostring(core.read_file(path)))
    assert.equal("bytes", tostring(core.read_file(path, 5)))
    assert.equal("too_large", select(2, core.read_file(path, 4)).kind)
    helper.run_ok("truncate -s 1073741825 " .. folder .. "/large")
    local blob, err = core.read_file(folder .. "/large")
    assert.is_nil(blob)
    assert.equal("too_large", err.kind)
    assert.matches("larger than the limit of 1073741824 bytes", err.message)
    assert.is_truthy(tostring(core.read_file "/proc/self/status"):find "Name:") -- its size is 0
  end)

  it("has a path that is resolved only if the kernel can open it: it is shorter than 4,096 bytes", function()
    assert.equal("/tmp", core.real_path("/" .. ("tmp/../"):rep(584) .. "tmp")) -- 4,092 bytes
    local path = "/" .. ("tmp/../"):rep(584) .. "tmp/./."
    assert.equal(4096, #path)
    for _, long in ipairs { path, "/" .. ("tmp/../"):rep(1 << 19) .. "tmp" } do
      local none, err = core.real_path(long)
      assert.is_nil(none)
      assert.matches("File name too long$", err.message)
    end
  end)

  it("is neither a device nor a folder", function()
    assert.equal("Failed to read " .. folder .. ": Is a directory", select(2, core.read_file(folder)).message)
    for _, path in ipairs { "/dev/zero", "/dev/null" } do
      local blob, err = core.read_file(path)
      assert.is_nil(blob)
      assert.equal("io", err.kind)
      assert.equal("Failed to read " .. path .. ": it is neither a file nor a pipe", err.message)
    end
  end)

  it("is read without a wait, if it is regular and as large as it says, where that is asked for", function()
    helper.run_ok("mkfifo " .. folder .. "/pipe")
    local started = core.now()
    for _, path in ipairs { folder .. "/pipe", "/dev/zero", "/dev/null" } do
      local blob, err = core.read_file(path, 100, true)
      assert.same({ nil, "io", "Failed to read " .. path .. ": it is not a regular file" }, { blob, err.kind, err.message })
    end
    assert.equal("Is a directory", select(2, core.read_file(folder, 100, true)).message:match "[^:]*$":sub(2))
    assert.equal("not_found", select(2, core.read_file(folder .. "/none", 100, true)).kind)
    assert.equal("", tostring(core.read_file("/proc/self/status", 100, true)))
    local path = helper.write(folder .. "/file", "bytes")
    assert.equal("bytes", tostring(core.read_file(path, 5, true)))
    assert.equal("too_large", select(2, core.read_file(path, 4, true)).kind)
    assert.is_true(core.now() - started < 5)
  end)

  it("that is a pipe is waited for, and is not empty before its writer comes", function()
    helper.run_ok("mkfifo " .. folder .. "/pipe")
    os.execute(("(sleep 0.2; printf one; sleep 0.2; printf two) > %s/pipe 2>/dev/null &"):format(folder))
    -- the shell opens the pipe once we have it open
    assert.equal("onetwo", tostring(assert(core.read_file(folder .. "/pipe"))))
    os.execute(("(sleep 0.3; : > %s/pipe) &"):format(folder))
    assert.equal("", tostring(assert(core.read_file(folder .. "/pipe"))))
  end)

  it("that is a pipe is waited for while it has a writer, though nothing comes for long", function()
    helper.run_ok("mkfifo " .. folder .. "/pipe")
    os.execute(("(sleep 2.3; echo late) > %s/pipe 2>/dev/null &"):format(folder))
    assert.equal("late\n", tostring(assert(core.read_file(folder .. "/pipe"))))
    assert.matches("nobody writes to this pipe", (select(2, core.read_file(folder .. "/pipe")) or {}).message)
  end)

  it("that is a pipe is read though signals keep arriving", function()
    if not helper.can_preload then return pending "ThreadSanitizer calls what is preloaded before it is ready" end
    helper.run_ok("mkfifo " .. folder .. "/pipe")
    local script = helper.write(folder .. "/read.lua", ([[
      local faults, core = require "faults", require "theaterref.core"
      faults.interrupt(500)
      print(core.read_file(%q))
      faults.interrupt(0)]]):format(folder .. "/pipe"))
    os.execute(("(sleep 0.2; printf one; sleep 0.2; printf two) > %s/pipe &"):format(folder))
    assert.equal("onetwo\n", helper.run_ok(("%s %s %s"):format(helper.preload "faults", helper.lua, script)))
  end)

  it("keeps its mode when it is replaced, and a symbolic link leads to what is written", function()
    local path = helper.write(folder .. "/secret", "old")
    helper.run_ok(("chmod 0600 %s && ln -s secret %s/link && ln -s link %s/second && ln -s later %s/dangling"):format(path,
      folder, folder, folder))
    assert(core.blob("new"):write(path))
    assert.same({ "new", "600" }, { helper.read(path), mode_of(path) })
    assert(core.blob("newer"):write(folder .. "/second"))
    assert.same({ "newer", "600" }, { helper.read(path), mode_of(path) })
    assert.equal("link\n", helper.run_ok("readlink " .. folder .. "/second"))
    assert(core.blob("first"):write(folder .. "/dangling"))
    assert.equal("first", helper.read(folder .. "/later"))
    helper.run_ok(("cd %s && ln -s b a && ln -s a b"):format(folder))
    local done, err = core.blob("x"):write(folder .. "/a")
    assert.is_nil(done)
    assert.matches("Too many levels of symbolic links", err.message)
    assert.equal("", helper.run_ok("find " .. folder .. " -name '.tmp*'"))
  end)

  it("is refused if the user may not write to it, gives another group nothing, and is written into where it cannot be replaced", function()
    if helper.run "id -u" ~= "0\n" then return pending "only root has files of others" end
    helper.run_ok(("cd %s && mkdir theirs mine && cd theirs && echo old > locked && echo old > roots && echo old > group && chmod 0444 locked "
      .. "&& chmod 0640 group && chown 65534:777 . locked group && cd ../mine && echo old > file && chown 65534 file && chmod -R a+rX .. "):format(folder))
    local function write(path)
      local script = ([[local ok, err = require("theaterref.core").blob("new"):write(%q) print(ok or err.message)]]):format(folder .. "/" .. path)
      return helper.run_ok("setpriv --reuid=65534 --regid=65534 --clear-groups " .. helper.lua .. " -e " .. helper.quote(script))
    end
    for _, name in ipairs { "locked", "roots" } do
      assert.matches("Failed to write .*/theirs/" .. name .. ": Permission denied", write("theirs/" .. name))
      assert.equal("old\n", helper.read(folder .. "/theirs/" .. name))
    end
    assert.equal("true\n", write "theirs/group")
    assert.equal("604 65534:65534\n", helper.run_ok(("stat -c '%%a %%u:%%g' %s/theirs/group"):format(folder)))
    assert.equal("true\n", write "mine/file")
    assert.same({ "new", "0\n" }, { helper.read(folder .. "/mine/file"), helper.run_ok("stat -c %u " .. folder .. "/mine") })
    if select(3, helper.run "unshare -m true") ~= 0 then return end
    local script = helper.write(folder .. "/script.lua", [[assert(require("theaterref.core").blob("new"):write(...))]])
    helper.run_ok(("cd %s && echo old > a && echo old > b && unshare -m sh -c 'mount --bind a b && %s %s b && test $(cat b) = new'"):format(folder,
      helper.lua, script))
    assert.equal("", helper.run_ok("find " .. folder .. " -name '.tmp*'"))
  end)

  it("that cannot be replaced keeps its bytes until the output is whole, and has room", function()
    if select(3, helper.run "unshare -m true") ~= 0 then return pending "nothing can be mounted here" end
    local script = helper.write(folder .. "/script.lua", [[
      local core = require "theaterref.core"
      local path, proc = ...
      local function bytes() return tostring(core.read_file(path)) end
      do
        local output <close> = assert(core.open_output(path))
        assert(output:write(("x"):rep(100000)))
        assert(bytes() == "old")
      end
      assert(bytes() == "old")
      local ok, err = core.blob(("x"):rep(100000)):write(path)
      assert(not ok and err.message == "Failed to write " .. path .. ": No space left on device", err and err.message)
      assert(bytes() == "old")
      for _, text in ipairs { ("longer"):rep(5000), "new" } do
        local output <close> = assert(core.open_output(path))
        assert(output:write(text:sub(1, 1)))
        assert(output:write(text:sub(2)))
        assert(output:commit(true))
        assert(bytes() == text)
      end
      do
        local output <close> = assert(core.open_output(proc))
        assert(output:write "x")
      end
      assert(bytes() == "new")
      assert(core.blob("newest"):write(proc))
      assert(bytes() == "newest")
    ]])
    helper.write(folder .. "/mounts.sh", ([[
      set -e
      cd %s
      mkdir small
      mount -t tmpfs -o size=64k none small
      for temporary in /tmp /nowhere; do
        printf old > small/real
        touch mounted
        mount --bind small/real mounted
        sleep 100 >> mounted & sleeper=$!
        trap "kill $sleeper" EXIT
        until readlink /proc/$sleeper/fd/1 | grep -q mounted; do :; done
        TMPDIR=$temporary %s %s $PWD/mounted /proc/$sleeper/fd/1
        trap - EXIT
        kill $sleeper
        wait $sleeper || true
        umount mounted
      done]]):format(folder, helper.lua, script))
    helper.run_ok("unshare -m sh " .. folder .. "/mounts.sh")
  end)

  it("that is no regular file is written, and not replaced", function()
    helper.run_ok("mkfifo " .. folder .. "/pipe")
    os.execute(("(sleep 0.2; cat %s/pipe > %s/copy.part; mv %s/copy.part %s/copy) &"):format(folder, folder, folder, folder))
    local large = ("x"):rep(1 << 18)
    assert(core.blob(large):write(folder .. "/pipe"))
    helper.eventually(function() return helper.exists(folder .. "/copy") end)
    assert.is_true(helper.read(folder .. "/copy") == large)
    assert.equal("fifo\n", helper.run_ok("stat -c %F " .. folder .. "/pipe"))
    os.execute(("head -c 1 %s/pipe >/dev/null &"):format(folder))
    local done, err = core.blob(large):write(folder .. "/pipe") -- its reader leaves
    assert.is_nil(done)
    assert.matches("Failed to write .*/pipe: Broken pipe", err.message)
    assert.is_nil((core.blob("x"):write(folder)))
  end)

  it("that is open is written on where it is, by way of /dev/stdout and the like", function()
    helper.write(folder .. "/script.lua", [[
      local core = require "theaterref.core"
      assert(core.blob("content\n"):write(...))]])
    local function shell(commands)
      return helper.run_ok(("cd %s && get() { %s script.lua $1; } && %s"):format(folder, helper.lua, commands))
    end
    assert.equal("content\n", shell "get /dev/stdout | cat")
    assert.equal("before\ncontent\nafter\n", shell "(echo before; get /dev/stdout; echo after) > log && cat log")
    assert.equal("content\n", shell "exec 5> gone && rm gone && get /dev/fd/5 && cat /proc/self/fd/5")
    assert.equal("log\nscript.lua\n", shell "ls -A")
  end)

  it("behind a link that the kernel does not follow is not written", function()
    local protected = "cat /proc/sys/fs/protected_symlinks"
    if helper.run "id -u" ~= "0\n" or helper.run(protected) ~= "1\n" then return pending "links are not protected here" end
    helper.run_ok(("cd %s && chmod 1777 . && ln -s target link && chown -h 65534 link"):format(folder))
    local done, err = core.blob("x"):write(folder .. "/link")
    assert.is_nil(done)
    assert.matches("Permission denied", err.message)
    assert.is_false(helper.exists(folder .. "/target"))
  end)

  it("stays as it was when an output is not committed", function()
    local path = helper.write(folder .. "/file", "old")
    do
      local output <close> = assert(core.open_output(path))
      assert(output:write("new", core.blob " and more"))
    end
    assert.equal("old", helper.read(path))
    do
      local output <close> = assert(core.open_output(path))
      assert(output:write("new", core.blob " and more"))
      assert(output:commit())
      assert.has_error(function() output.write(path) end, "bad argument #1 to 'write' (theaterref.output expected, got string)")
    end
    assert.equal("new and more", helper.read(path))
    assert.equal("file\n", helper.run_ok("ls -A " .. folder))
  end)
end)

describe("the command's files", function()
  local folder

  before_each(function() folder = helper.temporary_folder() end)

  after_each(function() helper.remove(folder) end)

  local function command(arguments)
    return ("cd %s && THEATER_HOME=%s/home %s %s/lua/bin/theaterref %s"):format(folder, folder, helper.lua, helper.root, arguments)
  end

  -- A private /dev/null, which is not ours to lose.
  it("leave a device a device", function()
    if select(3, helper.run "unshare -m true") ~= 0 then return pending "this user may not make devices" end
    helper.write(folder .. "/file", "bytes")
    helper.run_ok(command "store put demo file --label x")
    local out, err, status = helper.run(("unshare -m sh -c %s"):format(helper.quote(("mkdir %s/dev && mount -t tmpfs none %s/dev && "
      .. "mknod -m 666 %s/dev/null c 1 3 && "):format(folder, folder, folder)
      .. command "resolve file -o dev/null && " .. command "store get demo x -o dev/null && "
      .. command("store export demo dev/null && stat -c %F dev/null"))))
    assert.same({ "character special file\n", "", 0 }, { out, err, status })
  end)

  it("take - for standard output and standard input, whatever those are", function()
    helper.write(folder .. "/file", "bytes")
    assert.equal("bytes", helper.run_ok(command "resolve file -o -"))
    local hash = core.digest("bytes", "sha1")
    assert.equal(hash .. "\n", helper.run_ok(command "store put demo - --label x < file"))
    assert.equal(hash .. "\n", helper.run_ok("(printf by; sleep 0.1; printf tes) | (" .. command "store put demo -)"))
    assert.equal(core.digest("", "sha1") .. "\n", helper.run_ok(command "store put demo - </dev/null"))
    assert.equal("bytes", helper.run_ok(command "store get demo x -o -"))
    assert.is_false(helper.exists(folder .. "/-"))
    local _, err, status = helper.run(command "store put demo - <&-")
    assert.same({ "theaterref: Failed to read standard input: Bad file descriptor\n", 1 }, { err, status })
  end)

  it("include a configuration that cannot be read, which is an error", function()
    helper.write(folder .. "/file", "bytes")
    helper.run_ok(("mkdir -p %s/config/theaterref/theaterref.conf.lua"):format(folder))
    local _, err, status = helper.run("unset THEATERREF_CONFIG; export XDG_CONFIG_HOME=" .. folder .. "/config; "
      .. command "resolve file")
    assert.equal(1, status)
    assert.matches("Failed to read .*theaterref.conf.lua: Is a directory", err)
    helper.run_ok(("cd %s/config/theaterref && rmdir theaterref.conf.lua && ln -s gone theaterref.conf.lua"):format(folder))
    _, err, status = helper.run("unset THEATERREF_CONFIG; export XDG_CONFIG_HOME=" .. folder .. "/config; " .. command "resolve file")
    assert.equal(1, status)
    assert.matches("Failed to read .*theaterref.conf.lua: No such file", err)
    if helper.run "id -u" == "0\n" then
      helper.run_ok(("cd %s && rm -r config && mkdir -m 0700 config && chmod a+rx ."):format(folder))
      _, err, status = helper.run("unset THEATERREF_CONFIG; export XDG_CONFIG_HOME=" .. folder
        .. "/config; cd / && setpriv --reuid=65534 --clear-groups " .. helper.lua .. " -e " .. helper.quote(
        [[local _, err = require("theaterref").config() io.stderr:write(tostring(err)) os.exit(err and 3 or 0)]]))
      assert.equal(3, status)
      assert.matches("Permission denied", err)
    end
  end)
end)
