local helper = require "helper"

-- The cases are in spec/support/host_futures.c.
describe("a future of a host in C", function()
  local program, folder, server

  local function case(name)
    helper.run_ok(("cd %s && timeout 120 %s %s %s %s"):format(helper.quote(folder), program, name, helper.quote(folder), server.http))
  end

  setup(function()
    folder = helper.temporary_folder()
    program = helper.host("host_futures", folder)
    server = helper.nginx()
    local function write(name, text) return helper.write(folder .. "/" .. name, text) end
    server:put("actor.wasm", "\0asm")
    server:put("large", ("x"):rep(40000))
    server:put("zeros", ("\0"):rep(16 << 20))
    server:put("manifest.toml", 'name = "worker"\npackage = "actor.wasm"\n')
    server:put("late_package.toml", 'name = "slow"\npackage = "dripping/large"\n')
    server:put("late_state.toml", 'name = "slow"\npackage = "actor.wasm"\ninit_state = "dripping/large"\n')
    server:put("late_secret.toml", 'name = "slow"\npackage = "actor.wasm"\ninitial_state = \'{"a":{"$ref":"dripping/large"}}\'\n')
    write("actor.wasm", "\0asm")
    write("zeros", ("\0"):rep(16 << 20))
    write("secret", "s3cret\n")
    write("manifest.toml", 'name = "worker"\npackage = "actor.wasm"\n')
    write("secrets.toml", 'name = "worker"\npackage = "actor.wasm"\ninitial_state = \'{"key":{"$ref":"secret"}}\'\n')
    write("broken.toml", "name =\n")
    write("conf.lua", "return { retries = 0 }")
    write("hasty.lua", "return { plan_timeout = 0.2 }")
    write("secrets.lua", "return { secrets = function() return true end }")
    write("closed.lua", "return { allow = function() return false, 'closed' end }")
    write("raises.lua", "return { rewrite = function(ref, ctx) if ctx.purpose == 'direct' then return ref end error 'no manifests' end }")
    write("raises_later.lua", "return { allow_spawn = function() error 'no spawns' end }")
    write("unreadable.lua", [[
return { allow_spawn = function() error(setmetatable({}, { __tostring = function() error "no" end })) end }]])
  end)

  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  it("has the plan, the bytes or the error that a blocking call returns", function() case "same" end)

  it("fails, alone, if its policy raises", function() case "raising" end)

  it("is not made with options that are at fault, and is nobody else's to load", function() case "refused" end)

  it("is one of many at once, while other threads make blocking calls", function() case "many" end)

  it("wakes an event loop that plans twenty spawns", function() case "event_loop" end)

  it("tells the progress of the load that it waits for", function() case "progress" end)

  it("is refused to a callback of its host, which would wait for itself", function() case "callback" end)

  it("stops its work when it is released: before, during and after", function() case "cancelled" end)

  it("has a deadline that counts from its start, in each step and while others have the host", function() case "deadlines" end)

  it("goes on after an interrupt, which ends the waits for it", function() case "interrupted" end)

  it("fails when its host is freed", function() case "freed" end)

  it("is abandoned in a forked child, whose host makes a worker of its own", function() case "forked" end)

  it("leaves nothing in its host once it has ended", function() case "idle" end)

  it("reports that memory ran out, wherever it does", function() case "memory" end)
end)
