-- The mirror of examples/fleet: what reaches the registry behind it.
local core = require "theaterref.core"
local helper = require "helper"

describe("the mirror of a fleet", function()
  local folder, origin, mirror

  -- Requests that reached the origin since the last call.
  local seen = 0
  local function requests()
    local list, count = {}, 0
    for line in io.lines(origin.folder .. "/out") do
      count = count + 1
      local method, path = line:match '"(%u+) /v2/(%S+) HTTP'
      if method and count > seen then list[#list + 1] = method .. " " .. path end
    end
    seen = count
    return list
  end

  -- Starts a plan on so many hosts at once, each with a home of its own. Returns their output.
  local function on_hosts(count, ref, environment)
    local command = ("PATH=%s/bin:$PATH; for i in $(seq %d); do FLEET_MIRROR=%s FLEET_REGISTRY=%s %s THEATER_HOME=%s/host-$i theaterref plan %s --config "
      .. "%s/examples/fleet/theaterref.conf.lua & done; wait"):format(folder, count, mirror, origin.at, environment or "", folder, ref,
      helper.root)
    return helper.run_ok(command)
  end

  setup(function()
    folder, origin = helper.temporary_folder(), helper.registry "open"
    helper.command(folder .. "/bin")
    local port = math.random(10000, 59000)
    mirror = "127.0.0.1:" .. port
    helper.run_ok(("examples/fleet/fleet.sh start %s/fleet %s %d %d"):format(folder, origin.http, port, port + 1))
    helper.write(folder .. "/manifest.toml", 'name = "worker"\npackage = "worker.wasm"\n')
    helper.write(folder .. "/worker.wasm", helper.module(("x"):rep(3 << 20)))
    helper.run_ok(("%s/bin/theaterref push %s/manifest.toml oci://%s/team/worker:1"):format(folder, folder, origin.at))
  end)

  teardown(function()
    helper.run("examples/fleet/fleet.sh stop " .. folder .. "/fleet")
    origin:stop()
    helper.remove(folder)
  end)

  it("has the registry send each blob once, though ten hosts start at once", function()
    requests()
    local _, plans = on_hosts(10, ("oci://%s/team/worker:1"):format(origin.at)):gsub("name           worker", "")
    assert.equal(10, plans)
    local gets = {}
    for _, request in ipairs(requests()) do
      local digest = request:match "^GET .*/blobs/(.*)$"
      if digest then gets[digest] = (gets[digest] or 0) + 1 end
    end
    assert.is_not_nil(next(gets))
    for digest, count in pairs(gets) do assert.equal(1, count, digest) end
  end)

  it("has no blob that the registry has not, and answers 404", function()
    local blobs = mirror:gsub("%d+$", function(port) return ("%d"):format(port + 1) end)
    local function status(digest)
      return (helper.run_ok(("curl -s -o /dev/null -w '%%{http_code}' http://%s/v2/team/worker/blobs/sha256:%s"):format(blobs, digest)))
    end
    assert.equal("404", status(("0"):rep(64)))
    assert.equal("200", status(core.blob(helper.read(folder .. "/worker.wasm")):digest()))
  end)

  it("gets no request from a host that has a release and its lockfile", function()
    local ref = ("oci://%s/team/worker:1"):format(origin.at)
    helper.run_ok(("%s/bin/theaterref lock %s -o %s/worker.lock --config ''"):format(folder, ref, folder))
    local lockfile = "FLEET_LOCKFILE=" .. folder .. "/worker.lock"
    on_hosts(1, ref, lockfile)
    requests()
    on_hosts(1, ref, lockfile)
    assert.same({}, requests())
  end)

  it("is not needed: hosts ask the registry when it fails", function()
    helper.run("examples/fleet/fleet.sh stop " .. folder .. "/fleet")
    helper.run_ok(("rm -rf %s/host-*"):format(folder))
    assert.matches("name           worker", on_hosts(1, ("oci://%s/team/worker:1"):format(origin.at)), 1, true)
  end)
end)
