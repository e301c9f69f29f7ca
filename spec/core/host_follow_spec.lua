local helper = require "helper"

-- The cases are in spec/support/host_follow.c.
describe("a host in C", function()
  local program, folder

  local function case(name)
    helper.run_ok(("cd %s && timeout 120 %s %s %s"):format(helper.quote(folder), program, name, helper.quote(folder)))
  end

  setup(function()
    folder = helper.temporary_folder()
    program = helper.host("host_follow", folder)
  end)
  teardown(function() helper.remove(folder) end)

  it("is called back with the content of a reference, its changes and its failures", function() case "changes" end)

  it("may be used in the callback, which may free its follower, and does not wait for itself", function() case "inside" end)

  it("frees a follower once its callback has returned, before or after the host", function() case "freed" end)

  it("has many followers, as other hosts have", function() case "many" end)

  it("refuses options that are wrong", function() case "refused" end)

  it("follows in a child of fork() from its next follower on", function()
    if helper.sanitizers:find "thread" then return pending "ThreadSanitizer takes the child's threads for the parent's" end
    case "forked"
  end)

  it("derives bytes once for 64 threads, and from disk", function() case "derived" end)

  it("refuses functions that derive what is derived of them", function() case "crossed" end)

  it("does not take derived bytes that others could have written, and counts them", function() case "tampered" end)

  it("compiles an actor and runs it in its own process: the example", function()
    local library = helper.root .. "/" .. helper.build .. "/lib"
    helper.run_ok(("cc -std=c11 -Wall -Wextra -Werror %s -rdynamic examples/hosts/compile.c -Icsrc -L%s -ltheaterref -Wl,-rpath,%s "
      .. "-Wl,--whole-archive -lwasm-rt-impl -Wl,--no-whole-archive -lm -o %s/compile"):format(helper.sanitizers, library, library,
      folder))
    local command = ("%s/compile examples/actor/manifest.toml %s/disk"):format(folder, folder)
    assert.equal(2, select(2, helper.run_ok(command):gsub("greeter answers 42 after", "")))
    local before = helper.run_ok("stat -c %y " .. folder .. "/disk/disk-cache-1")
    assert.equal(2, select(2, helper.run_ok(command):gsub("greeter answers 42 after", "")))
    assert.equal(before, helper.run_ok("stat -c %y " .. folder .. "/disk/disk-cache-1")) -- nothing was made
  end)
end)
