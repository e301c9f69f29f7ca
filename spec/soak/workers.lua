-- The work of the soak test. Each worker is a function that is called once in each thread, with
-- the world, and returns a step. A step does one thing, checks it, and returns nil, or the kind
-- of the error if it failed in a way that the faults explain. It raises if an invariant is broken.
local core = require "theaterref.core"
local process = require "process"
local theaterref = require "theaterref"

local M = {}

-- Failures that faults of the network and the disk explain.
local excusable = { network = true, timeout = true, http_status = true, io = true, cancelled = true, tls = true,
  not_found = true, too_large = true, digest_mismatch = true, corrupt = true }

-- Returns the kind of an error that may be; raises for any other.
local function excuse(err, never)
  if not excusable[err.kind] or err.kind == never then error("unexpected: " .. err.kind .. ": " .. tostring(err)) end
  return err.kind
end

local function write(path, text)
  local temporary = path .. "." .. core.next_id()
  local file = assert(io.open(temporary, "wb"))
  assert(file:write(text))
  assert(file:close())
  assert(os.rename(temporary, path))
end

-- Raises unless bytes are what was asked for.
local function check(is, what)
  if not is then error("not what was asked for: " .. tostring(what), 2) end
end

local function resolver(world, options)
  local all = { retries = 1, timeout = 5, connect_timeout = 2, stall_timeout = 2, ca_file = world.ca, home = world.home, log = false }
  for name, value in pairs(options or {}) do all[name] = value end
  return assert(theaterref.resolver(all))
end

local function shared_cache(world)
  return assert(theaterref.resource_cache { name = "soak", max_entries = 16, ttl = 0.2, stale_if_error = 1,
    disk = { store = "soak-disk", home = world.home, max_bytes = 4 << 20 } })
end

-- Immutable files, through no cache, a private one, and one that all threads share.
function M.resolve(world)
  local plain, cached = resolver(world), resolver(world, { cache = shared_cache(world) })
  return function()
    local file = world.files[math.random(#world.files)]
    local ref = (math.random(2) == 1 and world.http or world.https) .. "/" .. file.name
    if math.random(3) == 1 then ref = ref .. "#sha256=" .. file.sha256 end
    local dice = math.random(4)
    if dice == 1 then
      plain:start(ref):cancel()
      return
    end
    local blob, err
    if dice == 2 then blob, err = plain:resolve(ref) else blob, err = cached:resolve(ref, { cached = true }) end
    if not blob then return excuse(err, "digest_mismatch") end
    check(#blob == file.size and blob:digest "sha256" == file.sha256, ref)
  end
end

-- Files that change: a version by itself, which says how long it is.
function M.mutable(world)
  local cached = resolver(world, { cache = shared_cache(world) })
  local path = world.www .. "/mutable"
  return function()
    local number = math.random(4)
    if math.random(8) == 1 then
      local version = core.next_id()
      write(path .. number, ("%d %d "):format(number, version) .. ("x"):rep(version % 5000))
      return
    end
    local blob, err = cached:resolve(world.http .. "/mutable" .. number, { cached = true, revalidate = math.random(4) == 1 })
    if not blob then return excuse(err) end
    local text = tostring(blob)
    local of, version, rest = text:match "^(%d+) (%d+) (x*)$"
    check(of and tonumber(of) == number and #rest == tonumber(version) % 5000, text:sub(1, 40))
  end
end

-- A broken invariant that a follower found, for the next step to raise.
local broken

-- Returns the follower of a reference, which checks that all content is sound, and that none comes twice in a row.
local function follow(from, ref, is_sound)
  local last
  return assert(from:follow(ref, function(blob)
    check(blob:digest() ~= last, ref .. " twice in a row")
    last = blob:digest()
    check(is_sound(tostring(blob)), ref .. " followed: " .. tostring(blob):sub(1, 40))
  end, { interval = 0.1, on_error = function(err)
    if not excusable[err.kind] then broken = err end -- what this raised would go nowhere
  end }))
end

-- Followers of files, URLs and labels, which are closed and made anew now and then.
function M.follow(world)
  local follows, followers = resolver(world), {}
  local function is_mutable(text)
    local version, rest = text:match "^%d+ (%d+) (x*)$"
    return version and #rest == tonumber(version) % 5000
  end
  local function start(slot)
    local number, last = math.random(4), 0
    if slot == 1 then return follow(follows, ("%s/mutable%d"):format(world.http, number), is_mutable) end
    if slot == 2 then return follow(follows, ("%s/mutable%d"):format(world.www, number), is_mutable) end
    return follow(follows, "store://soak/shared/" .. math.random(3), function(text)
      local before = last
      last = tonumber(text:match "^(%d+)\n")
      return last and last > before -- labels move forward only
    end)
  end
  return function()
    local slot = math.random(3)
    if followers[slot] and math.random(30) == 1 then
      followers[slot]:close()
      followers[slot] = nil
    end
    followers[slot] = followers[slot] or start(slot)
    followers[slot]:step()
    if broken then error(broken) end
  end
end

-- Bytes that are derived from others, by functions of which some fail.
function M.derive(world)
  local derives = resolver(world, { cache = shared_cache(world) })
  return function()
    local number = math.random(12)
    local package, expected = core.blob("package " .. number), ("code of package %d "):format(number):rep(number * 500)
    local derived, err = derives:derive(package, "soak 1.0", function(blob)
      if math.random(4) == 1 then return nil, "it was told to fail" end
      return ("code of %s "):format(blob):rep(number * 500)
    end, { derive_timeout = 30 })
    if derived then check(tostring(derived) == expected, "package " .. number) return end
    if err.kind == "policy" and tostring(err):find("told to fail", 1, true) then return "failed as told" end
    return excuse(err)
  end
end

-- Servers that do what servers do at their worst, and a relay that breaks connections.
function M.misbehaving(world)
  local paths = { "/fine", "/close-at-once", "/close-amid-headers", "/close-amid-body", "/more-than-said", "/to-file", "/loop",
    "/flaky", "/bomb", "/bad-gzip", "/bad-chunks", "/huge-header", "/no-http", "/versioned", "/wrong-part", "/missing", "/then-gone" }
  local impatient = resolver(world, { retries = 0, timeout = 3, stall_timeout = 1, max_bytes = 1 << 18 })
  return function()
    if math.random(2) == 1 then
      local file = io.open(world.folder .. "/relay")
      local port = file and file:read "l"
      if file then file:close() end
      local wanted = world.files[1]
      local blob, err = impatient:resolve(("http://127.0.0.1:%s/%s"):format(port or "1", wanted.name))
      if not blob then return excuse(err) end
      check(blob:digest "sha256" == wanted.sha256, "by way of a relay")
      return
    end
    local path = paths[math.random(#paths)]
    local blob, err = impatient:resolve(world.misbehaving .. path)
    if err and err.kind == "denied" then return err.kind end -- a redirect to a file
    if not blob then return excuse(err) end
    check(path ~= "/fine" or tostring(blob) == "fine", path)
  end
end

-- Spawn plans, by hosts of one process that share a cache.
function M.plan(world)
  local planner = resolver(world, { cache = shared_cache(world), policy = { cacheable = function() return true end } })
  return function()
    local number = math.random(#world.files)
    local plan, err = planner:plan(("%s/manifest%d.toml"):format(math.random(2) == 1 and world.http or world.www, number),
      { initial_state = ('{"who":"%d"}'):format(number) })
    if not plan then return excuse(err) end
    check(plan.name == "actor-" .. number, plan.name)
    check(plan.package:digest "sha256" == world.files[number].sha256, "package " .. number)
    check(plan.initial_state == ('{"port":80,"who":"%d"}'):format(number), plan.initial_state)
  end
end

-- Pushes to a registry, and what it then has.
function M.push(world, thread)
  local publisher = resolver(world, { retries = 2 })
  return function()
    if math.random(5) > 1 then return end -- a push takes long
    local number = math.random(4)
    local tag = ("oci://%s/soak/actor:%d-%d"):format(world.registry, thread, number)
    local pushed, err = publisher:push(("%s/manifest%d.toml"):format(world.local_actors, number), tag)
    if not pushed then return excuse(err) end
    local blob
    blob, err = publisher:resolve(tag)
    if not blob then return excuse(err, "digest_mismatch") end
    check(blob:digest "sha256" == world.modules[number], tag)
  end
end

local function number_of(blob) return tonumber((tostring(blob):match "^(%d+)\n")) end

-- Returns the number that a label's content holds. Content that has a label may not be gone.
local function read_label(store, label)
  local blob, err = store:get_content_by_label(label)
  if blob then return number_of(blob) or error("the label holds " .. tostring(blob):sub(1, 40)) end
  if err and err.kind == "not_found" and store:get_by_label(label) then
    local again, why = store:get_content_by_label(label)
    if not again and why and why.kind == "not_found" then error("content of a label is gone: " .. label) end
  end
  return nil, err
end

-- Labels of a store, which only move forward, under garbage collections.
function M.label(world, thread)
  local store = assert(theaterref.content_store("soak", { home = world.home, durability = thread % 2 == 0 and "full" or "none",
    verify = thread % 3 == 0 and "always" or "once", algorithm = thread % 2 == 0 and "sha256" or "sha1" }))
  local seen = {}
  return function()
    local label = "shared/" .. math.random(3)
    local number, err = read_label(store, label)
    if err then return excuse(err, "not_found") end
    number = number or 0
    if number < (seen[label] or 0) then error(("label %s moved back from %d to %d"):format(label, seen[label], number)) end
    seen[label] = number
    if math.random(2) == 1 then return end
    local expect
    expect, err = store:get_by_label(label)
    if err then return excuse(err) end
    local held
    held, err = read_label(store, label)
    if err then return excuse(err, "not_found") end
    if (held or 0) ~= number then return end
    local hash
    hash, err = store:put(("%d\n%d %s"):format(number + 1, thread, ("y"):rep(math.random(20000))))
    if not hash then return excuse(err, "not_found") end
    local moved
    moved, err = store:label(label, hash, { expect = expect or false })
    if err then return excuse(err) end
    if moved then seen[label] = number + 1 end
  end
end

-- Contents of a store, alone and in batches.
function M.store(world, thread)
  local store = assert(theaterref.content_store("soak", { home = world.home, durability = "none" }))
  return function()
    local bytes = ("%d %d "):format(thread, core.next_id()) .. ("z"):rep(math.random(100000))
    local hash, err
    if math.random(3) == 1 then
      hash, err = store:batch(function(batch)
        local one, why = batch:put(bytes)
        if one then
          local ok, fault = batch:label("batch/" .. thread, one)
          if not ok then return nil, fault end
        end
        return one, why
      end)
    else
      hash, err = store:put(bytes)
    end
    if not hash then return excuse(err) end
    local blob
    blob, err = store:get(hash)
    if not blob then return excuse(err) end
    check(tostring(blob) == bytes, hash)
  end
end

-- Garbage collections, and checks of everything in the store.
function M.gc(world)
  local store = assert(theaterref.content_store("soak", { home = world.home, durability = "none" }))
  return function()
    if math.random(20) > 1 then return end
    local report, err = store:gc { grace = 5 }
    if not report then return excuse(err) end
    report, err = store:verify()
    if not report then return excuse(err) end
    if report.corrupt[1] then error("corrupt content: " .. report.corrupt[1]) end
  end
end

-- Policy scripts that change under a resolver, and sometimes are broken.
function M.reload(world, thread)
  local path, version, in_force, told = ("%s/policy%d.lua"):format(world.folder, thread), 0, 0, nil
  local script = "return { schemes = { version = function() return '%d' end } }"
  write(path, script:format(version))
  local scripted = resolver(world, { policy = path, on_event = function(event)
    if event.type == "policy_broken" then told = event.message end
  end })
  return function()
    told = nil
    local is_broken = math.random(10) == 1
    if is_broken then
      write(path, "return {")
    else
      version = version + 1 -- another size: the file may change twice within a tick of the clock
      write(path, script:format(version) .. (" "):rep(version % 20))
    end
    local blob, err = scripted:resolve "version://now"
    if not blob then
      if err.kind == "policy" then return err.kind end -- it could not be read
      return excuse(err)
    end
    local now, is_unread = tonumber(tostring(blob)), told and told:find("Too many open files", 1, true)
    -- A script that is broken, or cannot be read, leaves the old rules in force.
    check(now == (is_broken and in_force or version) or is_unread and now == in_force,
      ("policy version %d, not %d; before it was %d; %s"):format(now, version, in_force, told))
    in_force = now
    return is_unread and "io" or nil
  end
end

-- Children of fork(), while other threads are in the middle of everything.
function M.fork(world)
  local file = world.files[1]
  local cached = resolver(world, { cache = shared_cache(world), retries = 3 })
  return function()
    -- ThreadSanitizer starts no threads in a child of a process that has some.
    if math.random(20) > 1 or os.getenv "SAN" == "thread" then return end
    local ended = process.child(60, function()
      for _ = 1, 3 do
        local blob, err = cached:resolve(world.http .. "/" .. file.name, { cached = math.random(2) == 1 })
        if not blob then
          excuse(err)
        else
          check(blob:digest "sha256" == file.sha256, "in a child")
        end
      end
    end)
    if ended ~= true then error("a child: " .. ended) end
  end
end

-- Metrics, whose counters never run back.
function M.metrics()
  local last = {}
  return function()
    if math.random(50) > 1 then return end
    for name, labels, value in theaterref.metrics():gmatch "\n([%w_]+_total)(%S*) (%d+)" do
      value, name = tonumber(value), name .. labels
      if value < (last[name] or 0) then error(("%s ran back from %d to %d"):format(name, last[name], value)) end
      last[name] = value
    end
  end
end

return M
