local cjson = require "cjson"
local helper = require "helper"

describe("theaterref follow", function()
  local folder

  before_each(function()
    folder = helper.temporary_folder()
    helper.command(folder .. "/bin")
    helper.write(folder .. "/file", "one")
  end)
  after_each(function() helper.remove(folder) end)

  local function shell(command)
    return helper.run(("cd %s && export HOME=%s PATH=%s/bin:$PATH && unset THEATERREF_LOG && %s"):format(folder, folder, folder, command))
  end

  -- Starts it in the background; returns its process id.
  local function start(arguments)
    return (shell(("exec 3>&-; theaterref follow %s >out 2>err & echo $!"):format(arguments)):match "%d+")
  end

  local function out() return helper.read(folder .. "/out") end

  -- Ends it by a signal. Returns its status and its errors.
  local function finish(arguments, signal, ready)
    helper.write(folder .. "/script", ([[
theaterref follow %s >out 2>err &
pid=$!
while ! %s; do sleep 0.02; done
kill -%s $pid
wait $pid
echo $?]]):format(arguments, ready, signal))
    return shell("timeout 30 bash script"):match "%d+", helper.read(folder .. "/err")
  end

  it("prints the digest of each content", function()
    local text, err, status = shell "theaterref follow file --count 1"
    assert.same({ "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed             3 bytes  file\n", "", 0 },
      { text, err, status })
    text = shell "theaterref follow file --count 1 --json"
    assert.same({ reference = "file", bytes = 3, sha256 = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed" },
      cjson.decode(text))
  end)

  it("runs a command with a file that has the content, again when it changes, and removes the file", function()
    local pid = start [[file --exec 'cat {} && echo " {}" && ls -l {} | cut -c1-10' --count 2]]
    helper.eventually(function() return out():find "^one" end)
    helper.write(folder .. "/new", "two")
    assert(os.rename(folder .. "/new", folder .. "/file"))
    helper.eventually(function() return out():find "two.*\n.*\n" end)
    for path, mode in out():gmatch " (/%S+)\n(%S+)\n" do
      assert.equal("-rw-------", mode)
      helper.eventually(function() return not helper.exists(path) end)
    end
    helper.eventually(function() return shell("kill -0 " .. pid .. " 2>&1") ~= "" end)
  end)

  it("puts nothing of the reference into the command", function()
    local name = "$(touch injected);`touch injected`'\"{}"
    helper.write(folder .. "/" .. name, "content")
    assert.equal("content", (shell("theaterref follow " .. helper.quote(name) .. " --exec 'cat {}' --count 1")))
    assert.is_false(helper.exists(folder .. "/injected"))
  end)

  it("goes on after a command that fails, whose status counts if it was the last", function()
    local _, err, status = shell "theaterref follow file --exec 'exit 3' --count 1"
    assert.equal(1, status)
    assert.truthy(err:find("the command failed with status 3: exit 3", 1, true))
  end)

  it("goes on while there is nothing, and ends at once at what can never be", function()
    local pid = start "missing --exec 'cat {}' --count 1"
    helper.eventually(function() return helper.read(folder .. "/err"):find "No such file" end)
    helper.write(folder .. "/new", "there")
    os.rename(folder .. "/new", folder .. "/missing") -- a follower may see a file before all is written
    helper.eventually(function() return out() == "there" end)
    helper.eventually(function() return shell("kill -0 " .. pid .. " 2>&1") ~= "" end)
    local _, err, status = shell "timeout 20 theaterref follow /dev --count 1"
    assert.equal(1, status)
    assert.truthy(err:find("not a regular file", 1, true))
    for _, option in ipairs { "--interval 0", "--count 1.5", "--count 0" } do
      assert.equal(2, select(3, shell("theaterref follow file " .. option)))
    end
  end)

  it("ends by Ctrl-C and SIGTERM, in a command too, and leaves no file", function()
    assert.same({ "143", "theaterref: interrupted\n" }, { finish("file --exec 'echo ran'", "TERM", "grep -q ran out") })
    os.remove(folder .. "/out")
    assert.equal("143", (finish("file --exec 'echo {}; sleep 0.3'", "TERM", "grep -q lua out")))
    assert.is_false(helper.exists(out():match "%S+"))
    os.remove(folder .. "/out")
    os.remove(folder .. "/out")
    assert.equal("129", (finish("file --exec 'echo {}; sleep 0.3'", "HUP", "grep -q lua out")))
    assert.is_false(helper.exists(out():match "%S+"))
    os.remove(folder .. "/out")
    assert.equal("130", (finish("file", "INT", "grep -q bytes out"))) -- bash ignores SIGINT in the background
    for _, command in ipairs { "kill -INT $$", "trap 'exit 130' INT; kill -INT $$" } do -- as Ctrl-C ends it in a terminal
      assert.equal(130, select(3, shell("theaterref follow file --exec " .. helper.quote(command))))
    end
  end)
end)
