local helper = require "helper"
local theaterref = require "theaterref"
local threads = require "threads"
local core = require "theaterref.core"
local disk_caches = require "theaterref.store.disk_cache"

-- TORTURE=600 makes it the long run, in seconds.
local torture_seconds = tonumber(os.getenv "TORTURE") or 3

local is_root = helper.run("id -u") == "0\n"
local url = "https://example.org/worker.wasm"

local folder
local function open(max_bytes) return disk_caches.open(folder, max_bytes or 0) end

-- The path of a file in the cache's own folder; without a name, of its one entry.
local function path(name)
  return folder .. "/disk-cache-1/" .. (name or helper.run_ok("ls " .. folder .. "/disk-cache-1 | grep -- -"):match "^%S+")
end

-- Runs a script in a process of its own, with the folder as its first argument.
local function run(script, before, after)
  local file = helper.write(folder .. "/script.lua", script)
  return helper.run(("%s %s %s %s %s"):format(before or "", helper.lua, file, folder, after or ""))
end

local function run_ok(...)
  local out, err, status = run(...)
  assert(status == 0, out .. err)
  return out
end

-- The bytes of all files, each in whole blocks, and the sum that the lock file holds.
local function counted()
  local bytes = 0
  for size in helper.run_ok("cd " .. path "" .. " && stat -c '%s %n' * | grep -v lock || true"):gmatch "(%d+) %S+" do
    bytes = bytes + (size + 4095) // 4096 * 4096
  end
  return bytes, tonumber(helper.read(path "lock"):match "^clean (%x+)", 16)
end

local function use_folder()
  before_each(function() folder = helper.temporary_folder() end)
  after_each(function() helper.remove(folder) end)
end

describe("a disk cache", function()
  use_folder()

  it("gives back bytes and record as they were, in another process too", function()
    local record = { etag = 'W/"1"', empty = "", count = math.maxinteger, low = math.mininteger, part = 0.1, whole = 2.0,
      private = false, yes = true, hosts = { "a.example", "b.example" }, none = {}, ["odd name"] = "ü" }
    for _, body in ipairs { "", "x", ("0123456789abcdef"):rep(1 << 15) } do
      assert.is_true(open():write(url, core.blob(body), record))
      local blob, got = open():read(url)
      assert.equal(body, tostring(blob))
      assert.is_true(math.abs(os.time() - got.stored) < 5)
      assert.same({ #body, core.digest(body) }, { got.bytes, got.sha256 })
      assert.equal("float", math.type(got.whole))
      got.stored, got.bytes, got.sha256 = nil, nil, nil
      assert.same(record, got)
    end
    assert.equal("524288 a.example\n", run_ok [[
      local blob, record = require("theaterref.store.disk_cache").open(..., 0):read "https://example.org/worker.wasm"
      print(#blob, record.hosts[1])]]:gsub("\t", " "), nil)
  end)

  it("has nothing, and is no error, where there is no folder", function()
    local disk = disk_caches.open(folder .. "/none/yet", 0)
    assert.is_nil(disk:read(url))
    assert.same({ {}, 0, 0, false, false }, { disk:list(), disk:size(), disk:clear(), disk:remove(url), disk:expire(url) })
    assert.is_false(helper.exists(folder .. "/none"))
  end)

  it("removes and expires all entries of a reference, and only those", function()
    local disk = open()
    for _, key in ipairs { url, url .. "\0" .. ("a"):rep(64), url .. "\0\0scope", url .. "?2" } do disk:write(key, key, {}) end
    assert.equal(4, #disk:list())
    assert.is_true(disk:expire(url))
    for key, stale in pairs { [url] = true, [url .. "\0\0scope"] = true, [url .. "?2"] = false } do
      local blob, record = disk:read(key)
      assert.equal(key, tostring(blob))
      assert.equal(stale, record.stored == 0)
    end
    assert.is_true(disk:remove(url))
    assert.is_false(disk:remove(url))
    assert.equal(1, #disk:list())
    assert.equal(1, disk:clear())
    assert.equal(0, disk:size())
  end)

  it("shows its entries, and keeps no user, password or query of a URL", function()
    local disk = open()
    disk:write("https://user:hunter2@example.org/x?signature=s3cr3t", "bytes", { etag = '"1"' })
    local list = disk:list()
    local now = os.time()
    assert.is_true(math.abs(now - list[1].used) < 5 and math.abs(now - list[1].stored) < 5)
    list[1].used, list[1].stored = nil, nil
    assert.same({ { reference = "https://example.org/x?…", bytes = 5, sha256 = core.digest "bytes" } }, list)
    local file = helper.read(path())
    for _, secret in ipairs { "user", "hunter2", "s3cr3t" } do assert.is_nil(file:find(secret, 1, true)) end
    assert.equal("700 600 600\n", helper.run_ok(("stat -c %%a %s %s %s | xargs"):format(path "", path "lock", path())))
  end)

  it("confirms an entry that is written again as it was, without growing", function()
    local disk = open()
    local body = core.blob(("x"):rep(300 << 10))
    disk:write(url, body, { etag = '"1"' })
    local file = path()
    local inode = helper.run_ok("stat -c %i " .. file)
    for _ = 1, 50 do
      disk:expire(url)
      assert.equal(0, select(2, disk:read(url)).stored)
      assert.is_true(disk:write(url, disk:read(url), { etag = '"1"' }))
      assert.is_true(select(2, disk:read(url)).stored > 0)
    end
    assert.equal(inode, helper.run_ok("stat -c %i " .. file))
    for i = 1, 50 do disk:write(url, "version " .. i, { etag = '"1"' }) end
    assert.equal(1, #disk:list())
    assert.same({ 4096, 4096 }, { counted() })
    assert.equal(300 << 10, #body) -- and nobody's bytes changed
  end)

  it("maps no file to compare it, since others may truncate it meanwhile", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    run_ok([[
      local disk = require("theaterref.store.disk_cache").open(..., 0)
      for i = 1, 2 do assert(disk:write("r", ("x"):rep(600000), {})) end
      assert(#disk:read "r" == 600000)]], "ASAN_OPTIONS=detect_leaks=0 strace -y -e trace=mmap -o " .. folder .. "/calls")
    local _, maps = helper.read(folder .. "/calls"):gsub("mmap%([^\n]*disk%-cache%-1/", "")
    assert.equal(1, maps) -- of the read
  end)

  it("refuses records that it could not give back", function()
    local disk = open()
    for _, value in ipairs { 0 / 0, math.huge, "a\nb", "a\rb", "a\0b", print, { { "x" } }, { a = "x" }, { "x\n" }, { 1 } } do
      local ok, err = disk:write(url, "x", { field = value })
      assert.is_nil(ok)
      assert.matches("'field' cannot be kept", err.message)
    end
    assert.is_nil((disk:write(url, "x", { ["a\nb"] = 1 })))
    local _, err = disk:write(url, "x", { field = ("x"):rep(1 << 17) })
    assert.equal("too_large", err.kind)
    assert.same({}, disk:list())
  end)

  it("looks at one file for a write, however many there are", function()
    if not helper.can_trace() then return pending "strace does not work here" end
    local out, _, status = run([[
      local disk = require("theaterref.store.disk_cache").open(..., 1 << 30)
      for i = 1, 300 do assert(disk:write("r" .. i, "x", {})) end]], "ASAN_OPTIONS=detect_leaks=0 strace -f -e trace=getdents64 -o " .. folder .. "/calls")
    assert.equal(0, status, out)
    local _, count = helper.read(folder .. "/calls"):gsub("getdents64%(", "")
    assert.is_true(count <= 10, count .. " calls") -- those of the first write, which counts
  end)
end)

describe("a disk cache's bound", function()
  use_folder()

  it("holds for all files together, and evicts what was not used for longest", function()
    local disk = open(200 << 10)
    for i = 1, 30 do
      assert.is_true(disk:write("r" .. i, ("x"):rep(20000 + i), {}))
      helper.run_ok(("touch -a -d '-%d seconds' $(ls -t %s*-* | head -1)"):format(5000 - i, path ""))
      if i > 1 then assert.is_truthy(disk:read "r1") end -- which counts as a use
      local bytes, sum = counted()
      assert.equal(bytes, sum)
      assert.is_true(bytes <= 200 << 10)
    end
    assert.is_true(#disk:list() >= 6)
    assert.is_truthy(disk:read "r30")
    assert.is_nil(disk:read "r2")
  end)

  it("refuses what does not fit, and keeps the rest for it", function()
    local disk = open(100 << 10)
    disk:write("small", "x", {})
    local ok, err = disk:write("large", ("x"):rep(100 << 10), {})
    assert.same({ nil, "too_large" }, { ok, err.kind })
    assert.is_truthy(disk:read "small")
  end)

  it("is the same for two processes that share the folder", function()
    local script = [[
      local folder, name = ...
      local disk = require("theaterref.store.disk_cache").open(folder, 300 << 10)
      for i = 1, 40 do assert(disk:write(name .. i, ("x"):rep(9000 + i), {}, 10)) end]]
    helper.write(folder .. "/two.lua", script)
    helper.run_ok(("cd %s && { %s two.lua . a & %s two.lua . b; wait; }"):format(folder, helper.lua, helper.lua))
    local bytes, sum = counted()
    assert.equal(bytes, sum)
    assert.is_true(bytes <= 300 << 10 and bytes > 200 << 10)
    assert.is_truthy(open():read "a40" or open():read "b40")
  end)

  it("is the same for threads, and for a child after fork()", function()
    local results = threads.run(8, ([[
      local disk, seed = require("theaterref.store.disk_cache").open(%q, 300 << 10), tostring({}):rep(600)
      return function()
        for i = 1, 30 do
          assert(disk:write("r" .. i, seed, { seed = seed }, 30))
          local blob, record = disk:read("r" .. math.random(30))
          assert(not blob or tostring(blob) == record.seed)
        end
        return "done"
      end]]):format(folder))
    for _, result in ipairs(results) do assert.equal("done", result) end
    run_ok([[
      local threads = require "threads"
      local disk = require("theaterref.store.disk_cache").open(..., 300 << 10)
      assert(disk:write("parent", "x", {}))
      local in_child = threads.fork()
      for i = 1, 30 do assert(disk:write((in_child and "c" or "p") .. i, ("x"):rep(9000), {}, 30) and disk:list()) end
      if in_child then threads.leave() else threads.wait() end]])
    local bytes, sum = counted()
    assert.equal(bytes, sum)
    assert.is_true(bytes <= 300 << 10)
  end)

  it("counts files of others, and removes them when they are an hour old", function()
    open():write(url, "x", {})
    helper.run_ok(("cd %s && head -c 90000 /dev/zero > foreign && mkdir empty && mkfifo pipe && ln -s /etc/passwd link"):format(path ""))
    local disk = open(100 << 10)
    assert.is_nil((disk:write("r", ("x"):rep(20000), {})))
    assert.is_true(helper.exists(path "foreign"))
    if not helper.can_preload then return end -- its runtime comes before what is preloaded
    run_ok([[
      require("faults").set_clock(3700)
      local disk = require("theaterref.store.disk_cache").open(..., 100 << 10)
      assert(disk:write("r", ("x"):rep(20000), {}))]], helper.preload "faults")
    assert.equal("1 lock\n", helper.run_ok("cd " .. path "" .. " && ls | grep -c -- - && ls | grep -v -- -"):gsub("\n", " ", 1), nil)
    local bytes, sum = counted()
    assert.equal(bytes, sum)
  end)

  it("holds while sixteen processes are killed at random, and the sum is right after it", function()
    local bound, largest = 1 << 20, 60 << 10
    helper.write(folder .. "/worker.lua", [[
      local core = require "theaterref.core"
      local disk = require("theaterref.store.disk_cache").open(..., 1 << 20)
      math.randomseed()
      while true do
        local key, dice = "https://example.org/" .. math.random(40), math.random(100)
        if dice < 50 then
          local seed = key .. ":" .. math.random(3) .. ";"
          assert(disk:write(key, core.blob(seed:rep(math.random(1, 60000) // #seed)), { seed = seed }, 30))
        elseif dice < 97 then
          local blob, record = disk:read(key)
          local text = tostring(blob or "")
          assert(not blob or record.seed:find(key .. ":", 1, true) and text == record.seed:rep(#text // #record.seed))
        elseif dice == 97 then disk:remove(key)
        elseif dice == 98 then disk:expire(key)
        else disk:list() end
      end]])
    local function spawn()
      return helper.run_ok(("cd %s && exec %s worker.lua . >>out 2>>err & echo $!"):format(folder, helper.lua)):match "%d+"
    end
    local disk, pids, kills, most, stop = open(bound), {}, 0, 0, core.now() + torture_seconds
    for i = 1, 16 do pids[i] = spawn() end
    while core.now() < stop do
      local i = math.random(16)
      helper.run("kill -9 " .. pids[i])
      pids[i], kills, most = spawn(), kills + 1, math.max(most, disk:size())
    end
    helper.run("kill -9 " .. table.concat(pids, " ") .. "; while pgrep -f '^[^ ]*lua[^ ]* worker.lua [.]$' | grep -qx -e "
      .. table.concat(pids, " -e ") .. "; do :; done")
    local err = helper.read(folder .. "/err")
    assert.equal("", err)
    -- A listing may meet the file that is being written under both its names.
    assert.is_true(most <= bound + largest and most > bound // 4, most)
    assert.is_true(kills > 10)
    assert.is_true(disk:size() <= bound)
    assert.is_true(disk:write("last", "x", {}, 10))
    local bytes, sum = counted()
    assert.equal(bytes, sum)
    assert.is_true(bytes <= bound)
    assert.is_false(helper.exists(path "new"))
  end)
end)

describe("a disk cache's clock", function()
  use_folder()

  it("does not let what was stored in the future be fresh, or stay", function()
    local disk = open(100 << 10)
    for i = 1, 4 do disk:write("r" .. i, ("x"):rep(18000), {}) end
    assert.is_true(disk:write("future", ("y"):rep(18000), {}))
    helper.run_ok(("cd %s && touch -d '+10 years' $(grep -l yyyy *-*)"):format(path ""))
    local function entry()
      for _, one in ipairs(disk:list()) do
        if one.reference == "future" then return one end
      end
    end
    assert.same({ 0, 0 }, { entry().stored, entry().used })
    assert.is_true(disk:write("r6", ("x"):rep(18000), {}))
    assert.is_nil(entry())
    assert.is_truthy(disk:read "r4")
    disk:write("future", "y", {})
    helper.run_ok(("cd %s && touch -m -d '+10 years' *-*"):format(path ""))
    assert.equal(0, select(2, disk:read "future").stored)
  end)
end)

describe("a disk cache that is damaged", function()
  use_folder()

  -- Shell commands that damage the file "$f".
  local damage = { "truncate -s 0 $f", "truncate -s 1 $f", "truncate -s 100000 $f", "truncate -s 300000 $f", "truncate -s +1 $f",
    "head -c 70000 /dev/urandom > $f", "head -c 100 $f | tee $f >/dev/null", "printf y | dd of=$f conv=notrunc 2>&1",
    "printf x | dd of=$f conv=notrunc bs=1 seek=$(($(stat -c %s $f) - 1)) 2>&1",
    "printf x | dd of=$f conv=notrunc bs=1 seek=$(($(stat -c %s $f) - 300)) 2>&1",
    "sed -i s/etag/ETAG/ $f", "rm $f; mkdir $f", "rm $f; mkfifo $f", "rm $f; ln -s /etc/passwd $f", "rm $f; ln -s . $f",
    "chmod 0 $f; rm -f $f", "cp -p $f $f.copy; mv $f.copy ${f%-*}-00000000000000000000000000000000; rm $f" }

  it("has a miss, raises nothing, and is whole again with the next write", function()
    for _, size in ipairs { 70000, 600000 } do
      for _, command in ipairs(damage) do
        local disk = open(4 << 20)
        assert.is_true(disk:write(url, ("x"):rep(size), { etag = '"1"' }))
        if size == 70000 then assert.is_truthy(disk:read(url)) end -- one that was checked before
        helper.run_ok("f=" .. path() .. "; " .. command)
        assert.is_nil(disk:read(url), command)
        assert.is_table(disk:list())
        if not command:find "mkdir" then
          assert.is_true(disk:write(url, "new", {}), command)
          assert.equal("new", tostring(disk:read(url)))
          local bytes, sum = counted()
          assert.equal(bytes, sum, command)
        end
        helper.run_ok("rm -rf " .. path "")
      end
    end
  end)

  it("notices bytes that were changed in place, their time with them", function()
    local disk = open()
    disk:write(url, ("x"):rep(70000), {})
    assert.is_truthy(disk:read(url))
    helper.run_ok(("cd %s && touch -r %s time && printf y | dd of=%s conv=notrunc 2>&1 && touch -r time %s"):format(folder, path(), path(), path()))
    assert.is_nil(disk:read(url))
  end)

  it("gives no bytes for checked that changed within one tick of the file system's clock, also of one that is behind", function()
    if not helper.can_preload then return pending "its runtime comes before what is preloaded" end
    for behind = 0, 5, 5 do
      run_ok(([[
        local faults, folder = require "faults", ...
        faults.whole_seconds(%d)
        local disk = require("theaterref.store.disk_cache").open(folder, 1 << 20)
        assert(disk:write("r", "right", {}))
        assert(tostring(assert(disk:read "r")) == "right")
        local pipe <close> = io.popen("ls " .. folder .. "/disk-cache-1/*-*")
        local file <close> = assert(io.open(pipe:read "l", "r+b"))
        assert(file:write "EVIL!" and file:flush())
        assert(not disk:read "r")]]):format(behind), helper.preload "faults")
    end
  end)

  it("removes a damaged entry", function()
    local disk = open()
    disk:write(url, "right", {})
    helper.run_ok("sed -i s/right/wrong/ " .. path())
    assert.is_nil(disk:read(url))
    assert.same({ 0, 0 }, { counted() })
  end)

  it("believes no record with odd values, though its digests are right", function()
    local disk = open()
    local function forge(record)
      disk:write(url, "body", {})
      local name, file = path(), helper.read(path())
      local footer = file:sub(-296, -65)
      local text = url .. "\0" .. record
      footer = footer:sub(1, 216) .. ("%016x"):format(#text) .. footer:sub(233)
      helper.run_ok("rm " .. name)
      helper.write(name, "body" .. text .. footer .. core.digest(text .. footer))
    end
    forge "a\0sgood\0n\0i7\0"
    assert.same({ "good", 7 }, { select(2, disk:read(url)).a, select(2, disk:read(url)).n })
    for _, record in ipairs { "a\0sx\r\nInjected: 1\0", "a\0n7ff8000000000000\0", "a\0n7ff0000000000000\0", "a\0n1e999\0", "a\0i1e9\0",
      "a\0i99999999999999999999\0", "a\0i 1\0", "a\0", "a", "\0sx\0", "a\0x\0", "a\0\0", "a\0tt\0", "a\0l2\0x\0", "a\0l-1\0",
      "a\0l9223372036854775807\0x\0", "a\nb\0sx\0", "stored\0i1\0", "a\0sx" } do
      forge(record)
      assert.is_nil(disk:read(url), ("%q"):format(record))
    end
  end)

  it("counts again when its sum is damaged, or the folder has changed", function()
    local disk = open(1 << 20)
    disk:write("r0", "x", {})
    for i, command in ipairs { "echo garbage > lock", "truncate -s 0 lock", "rm lock", "head -c 100000 /dev/urandom > lock",
      "printf 'clean ffffffffffffffff 0000000000000000 000000000\n' > lock", "touch new", "cp $(ls | grep -- - | head -1) new",
      "sed -i s/clean/dirty/ lock", "rm $(ls | grep -- - | head -1)" } do
      helper.run_ok("cd " .. path "" .. " && " .. command)
      assert.is_true(disk:write("r" .. i, "x", {}), command)
      local bytes, sum = counted()
      assert.equal(bytes, sum, command)
      assert.is_false(helper.exists(path "new"))
    end
  end)

  it("goes on in a new folder when the old one is removed or moved", function()
    local disk = open()
    disk:write(url, "old", {})
    helper.run_ok("mv " .. path "" .. " " .. folder .. "/moved")
    assert.is_true(disk:write(url, "new", {}))
    assert.equal("new", tostring(disk:read(url)))
    helper.run_ok("rm -r " .. path "")
    assert.is_nil(disk:read(url))
    assert.is_true(disk:write(url, "newer", {}))
    assert.equal("newer", tostring(open():read(url)))
  end)

  it("leaves the old layout and other versions alone", function()
    helper.run_ok(("cd %s && mkdir -p data labels/about disk-cache-2 && echo x > data/x && echo x > disk-cache-2/x"):format(folder))
    local disk = open(8192)
    for i = 1, 5 do disk:write("r" .. i, "x", {}) end
    disk:clear()
    assert.is_true(helper.exists(folder .. "/data/x") and helper.exists(folder .. "/disk-cache-2/x"))
  end)
end)

describe("a disk cache that cannot be written", function()
  use_folder()

  it("waits for the lock as long as it was told to, and then writes nothing", function()
    local disk = open()
    disk:write(url, "old", {})
    local pid = helper.run_ok(("flock -x %s -c 'echo locked > %s/held; exec sleep 100' >/dev/null 2>&1 & echo $!"):format(path "lock", folder))
      :match "%d+"
    helper.eventually(function() return helper.exists(folder .. "/held") end)
    local start = core.now()
    local ok, err, first = disk:write(url, "new", {}, 0.05)
    assert.same({ nil, "timeout", false }, { ok, err.kind, first })
    assert.is_true(core.now() - start < 1)
    assert.equal("old", tostring(disk:read(url))) -- reads take no lock
    assert.is_true(disk:write(url, "old", {}, 0)) -- and to confirm takes none
    assert.is_true(disk:expire(url))
    assert.equal(1, disk:clear(0))
    assert.is_nil(disk:read(url))
    helper.run_ok("pkill -P " .. pid .. "; kill " .. pid .. " 2>/dev/null || true")
  end)

  it("refuses a folder that others may write to", function()
    open():write(url, "x", {})
    helper.run_ok("chmod 750 " .. path "")
    local disk = open()
    local ok, err, first = disk:write(url, "x", {})
    assert.same({ nil, "denied", true }, { ok, err.kind, first })
    assert.matches("must belong to the user %d+ and have mode 0700", err.message)
    assert.is_nil(disk:read(url))
    assert.equal("denied", select(2, disk:list()).kind)
    assert.is_false(select(3, open():write(url, "x", {}))) -- it has been said
    helper.run_ok("chmod 700 " .. path "")
    assert.is_truthy(disk:read(url))
  end)

  it("refuses a folder of another user", function()
    if not is_root then return pending "only root can make one" end
    open():write(url, "x", {})
    helper.run_ok("chown 12345 " .. path "")
    local disk = open()
    assert.equal("denied", select(2, disk:write(url, "x", {})).kind)
    assert.is_nil(disk:read(url))
    helper.run_ok(("chown 0 %s && mv %s %s/mine && ln -s mine %s"):format(path "", path "", folder, path "":sub(1, -2)))
    assert.is_nil(disk:read(url)) -- nor one behind a link
    assert.is_nil((disk:write(url, "x", {})))
  end)

  it("is an error for one that may not write there, and its reads are misses", function()
    if not is_root then return pending "only root can become another user" end
    open():write(url, "x", {})
    helper.run_ok("chmod 755 " .. folder)
    local out, err, status = run([[
      local disk = require("theaterref.store.disk_cache").open(..., 0)
      print(disk:read "https://example.org/worker.wasm" == nil, select(2, disk:write("r", "x", {})).kind)
      disk = require("theaterref.store.disk_cache").open(... .. "/sub", 0)
      print(disk:write("r", "x", {}))]], "setpriv --reuid 12345 --regid 12345 --clear-groups")
    if status ~= 0 then return pending("another user cannot read this checkout: " .. err) end
    assert.matches("^true\tio\nnil\t.*Permission denied\ttrue\n$", out:gsub("denied\n", "io\n", 1), nil)
  end)

  it("fails on a full or read-only file system, warns once, and still reads", function()
    if select(3, helper.run "unshare -m true") ~= 0 then return pending "this user may not mount a small file system" end
    local script = helper.write(folder .. "/script.lua", [[
      local disk = require("theaterref.store.disk_cache").open(... .. "/small", 1 << 30)
      local count, warnings = 0, 0
      local function write(key, size)
        local ok, err, first = disk:write(key, ("x"):rep(size), {})
        if first then warnings = warnings + 1 end
        return ok, err
      end
      while true do
        local ok, err = write("r" .. count, 30000)
        if not ok then assert(err.message:find "No space left on device", err.message) break end
        count = count + 1
      end
      assert(count > 20 and count < 35)
      for i = 1, 5 do assert(not write("again" .. i, 500000)) end
      for i = 0, count - 1 do assert(#disk:read("r" .. i) == 30000) end
      assert(#disk:list() == count and disk:remove "r1" and write("r1", 29000))
      assert(os.execute("! test -e " .. ... .. "/small/disk-cache-1/new"))
      assert(os.execute("mount -o remount,ro " .. ... .. "/small"))
      local _, err = write("x", 1)
      assert(err.message:find "Read%-only file system", err.message)
      assert(#disk:read "r1" == 29000 and #disk:list() == count)
      assert(not disk:remove "r1" and not disk:expire "r1" and not disk:clear())
      assert(warnings == 1)]])
    helper.run_ok(("unshare -m sh -c %s"):format(helper.quote(("mkdir %s/small && mount -t tmpfs -o size=1m none %s/small && %s %s %s")
      :format(folder, folder, helper.lua, script, folder))))
  end)

  it("stays within its bound and right, whichever call fails", function()
    if not helper.can_preload then return pending "its runtime comes before what is preloaded" end
    local out = run_ok([[
      local faults = require "faults"
      local disks, folder = require "theaterref.store.disk_cache", ...
      local large, tried = ("large"):rep(60000), 0
      local works = {
        write = function(disk, n) return disk:write("r" .. n % 7, ("x"):rep(n % 5000), {}) end,
        replace = function(disk, n) return disk:write("old", "old", { n = n }) end,
        evict = function(disk, n) return disk:write("evict" .. n, large .. n, {}) end,
        confirm = function(disk) return disk:write("large", large, {}) end,
        read = function(disk) return disk:read "old" or true end,
        ["read what is large"] = function(disk) return disk:read "large" or true end,
        remove = function(disk) return disk:remove "old" or true end,
        expire = function(disk) return disk:expire "old" or true end,
        list = function(disk) return disk:list() end,
        size = function(disk) return disk:size() end,
        clear = function(disk) return disk:clear() end,
      }
      local calls = { write = { "ENOSPC", "EIO", "SHORT" }, pread = { "EIO" }, pwrite = { "ENOSPC" }, flock = { "ENOLCK" },
        openat = { "EMFILE", "EROFS", "EACCES" }, open = { "EMFILE" }, renameat = { "EIO" }, unlinkat = { "EIO" },
        mmap = { "EIO" }, mkdir = { "EROFS" } }
      local function try(name, work, call, errno, nth)
        local disk = disks.open(folder, 1 << 20)
        disk:write("old", "old", {})
        disk:write("large", large, {})
        tried = tried + 1
        local what = ("%s with %s failing by %s at call %d"):format(name, call, errno, nth)
        faults.fail(call, errno, nth)
        local ok, answer, err = pcall(work, disk, tried)
        local fired = faults.stop()
        assert(ok, what .. ": " .. tostring(answer))
        assert(answer or err and #err.message > 20, what .. ": neither an answer nor an error")
        local blob = disk:read "old"
        assert(not blob or tostring(blob) == "old", what)
        assert(disk:write("last", tostring(tried), {}))
        assert(disk:size() <= 1 << 20, what .. ": " .. disk:size())
        return fired > 0
      end
      for name, work in pairs(works) do
        for call, errors in pairs(calls) do
          for _, errno in ipairs(errors) do
            local nth = 1
            while try(name, work, call, errno, nth) do nth = nth + 1 end
          end
        end
      end
      print(tried)]], helper.preload "faults")
    assert.is_true(tonumber(out) > 200, out)
    local bytes, sum = counted()
    assert.is_true(bytes <= sum)
  end)
end)

describe("a resolver with a disk cache", function()
  local server
  setup(function() server = helper.misbehaving() end)
  teardown(function() server:stop() end)
  use_folder()

  local function resolver(options, cache)
    options, cache = options or {}, cache or {}
    cache.disk = { base_path = folder }
    options.cache, options.retries = theaterref.resource_cache(cache), 0
    return theaterref.resolver(options)
  end

  it("keeps on disk what its server allows", function()
    local r = resolver()
    for _, name in ipairs { "/public", "/no-store", "/private" } do assert(r:resolve_cached(server.http .. name)) end
    local list = open():list()
    assert.same({ 1, server.http .. "/public" }, { #list, list[1].reference })
    assert.equal(3, #r.cache)
    for name, no_store in pairs { ["/public"] = false, ["/no-store"] = true, ["/private"] = true } do
      local future = r:start(server.http .. name)
      assert(future:wait())
      assert.equal(no_store, future:info().no_store == true)
    end
  end)

  it("keeps it in memory, unless respect_no_store", function()
    local r = resolver()
    for _ = 1, 2 do assert.equal("secret 1", tostring((r:resolve_cached(server.http .. "/no-store?a")))) end
    r = resolver { respect_no_store = true }
    for i = 1, 2 do assert.equal("secret " .. i, tostring((r:resolve_cached(server.http .. "/no-store?b")))) end
    assert.equal(0, #r.cache)
  end)

  it("removes an entry whose server allows it no more", function()
    open():write(url, "old", {})
    local ok, err = open():write(url, "new", { no_store = true })
    assert.same({ nil, "denied" }, { ok, err.kind })
    assert.is_nil(open():read(url))
  end)

  it("keeps on disk what is too large for memory, or fresh for no time", function()
    assert(resolver(nil, { max_bytes = 1000 }):resolve_cached(server.http .. "/versioned?c"))
    assert(resolver(nil, { ttl = 0 }):resolve_cached(server.http .. "/fine?d"))
    assert.equal(2, #open():list())
  end)

  it("goes on without one that cannot be written, and says so once", function()
    helper.write(folder .. "/file", "")
    local events = {}
    local r = theaterref.resolver { cache = theaterref.resource_cache { disk = { base_path = folder .. "/file" } }, log = false,
      on_event = function(event)
        if event.type == "disk_cache" then events[#events + 1] = event end
      end }
    for i = 1, 3 do assert.equal("fine", tostring((r:resolve_cached(server.http .. "/fine?e" .. i)))) end
    assert.equal(1, #events)
    assert.matches("Not a directory", events[1].message)
  end)
end)
