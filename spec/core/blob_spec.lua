local helper = require "helper"
local core = require "theaterref.core"
local theaterref = require "theaterref"

describe("a blob", function()
  local text = "hello\0world"
  local blob = core.blob(text)

  it("has a length, and tostring copies its bytes", function()
    assert.equal(#text, #blob)
    assert.equal(text, tostring(blob))
  end)

  it("cuts like a string, for every pair of positions", function()
    for i = -14, 14 do
      assert.equal(text:sub(i), blob:sub(i))
      assert.same({ text:byte(i) }, { blob:byte(i) })
      for j = -14, 14 do
        assert.equal(text:sub(i, j), blob:sub(i, j))
        assert.same({ text:byte(i, j) }, { blob:byte(i, j) })
      end
    end
    assert.equal("", blob:sub(math.mininteger, math.mininteger))
    assert.equal(text, blob:sub(math.mininteger, math.maxinteger))
  end)

  it("equals what has the same bytes, and is the same as what shares them", function()
    local copy = core.blob(text)
    assert.is_true(blob == copy)
    assert.is_false(blob:same(copy))
    assert.is_true(blob:same(blob))
    assert.is_false(blob == core.blob "hello")
    assert.is_false(blob == text)
    assert.equal(blob, core.blob(blob))
  end)

  it("digests with SHA-256, or SHA-1", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", core.blob(""):digest())
    assert.equal("a9993e364706816aba3e25717850c26c9cd0d89d", core.blob("abc"):digest "sha1")
    assert.has_error(function() blob:digest "md5" end, "bad argument #1 to 'digest' (invalid option 'md5')")
  end)

  it("writes itself to a file in one step", function()
    helper.with_folder(function(folder)
      assert(blob:write(folder .. "/out"))
      assert.equal(text, helper.read(folder .. "/out"))
      assert.equal("out\n", helper.run_ok("ls -A " .. folder))
      local ok, err = blob:write(folder .. "/no/where")
      assert.is_nil(ok)
      assert.equal("not_found", err.kind)
      assert.matches("/no/where", err.message)
    end)
  end)

  it("is let go by <close>, after which its methods raise", function()
    local kept
    do
      local closing <close> = core.blob "x"
      kept = closing
    end
    assert.has_error(function() return #kept end, "bad argument #1 to 'len' (blob is closed)")
  end)

  it("stays open after <close> if it came from a cache, for all who share it", function()
    collectgarbage()
    local cache, blobs = theaterref.resource_cache(), core.live_blobs()
    local _, lead = cache:claim "x"
    lead:complete(core.blob "shared")
    local held = cache:get "x"
    do local closing <close> = cache:get "x"; assert.equal(held, closing) end
    do local _, closing <close> = cache:claim "x"; assert.equal("shared", tostring(closing)) end
    assert.equal("shared", tostring(held))
    assert.equal("shared", tostring(cache:get "x"))
    cache:clear()
    held, lead = nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.equal(blobs, core.live_blobs())
  end)

  it("does not let a loop of large ones outgrow the collector", function()
    -- In a state of its own: how many may live depends on what else it holds.
    local most = tonumber(helper.run_ok(helper.lua .. " -e " .. helper.quote([[
      local core = require "theaterref.core"
      local most = 0
      for _ = 1, 300 do
        core.blob(("x"):rep(1 << 20))
        most = math.max(most, core.live_blobs())
      end
      io.write(most)]])))
    assert.is_true(most <= 32, "as many as " .. most .. " MiB were alive")
  end)
end)

describe("a file reference", function()
  it("gives the file's bytes, empty and large ones too", function()
    helper.with_folder(function(folder)
      for _, size in ipairs { 0, 1, 4096, 65536, 1000003 } do
        local bytes = ("0123456789"):rep(size // 10 + 1):sub(1, size)
        local path = helper.write(folder .. "/f", bytes)
        assert.equal(bytes, tostring(theaterref.resolve_reference(path)))
      end
    end)
  end)

  it("reads what has no size of its own", function()
    assert.matches("^cpu", tostring(theaterref.resolve_reference("/proc/stat")))
  end)

  it("does not hang on a FIFO nobody writes to, and does not take it for an empty file", function()
    helper.with_folder(function(folder)
      helper.run_ok("mkfifo " .. folder .. "/fifo")
      local blob, err = theaterref.resolve_reference(folder .. "/fifo")
      assert.is_nil(blob)
      assert.equal("timeout", err.kind)
      assert.matches("nobody writes to this pipe", err.message)
    end)
  end)

  it("says which path failed, and why", function()
    local _, err = theaterref.resolve_reference("/no/such/file")
    assert.equal("not_found", err.kind)
    assert.equal("/no/such/file", err.reference)
    assert.equal("Failed to resolve reference: Failed to read /no/such/file: No such file or directory", tostring(err))
    _, err = theaterref.resolve_reference("/tmp")
    assert.equal("io", err.kind)
    assert.matches("Failed to read /tmp: Is a directory", err.message)
    _, err = theaterref.resolve_reference("a\0b")
    assert.equal("invalid_reference", err.kind)
    _, err = theaterref.resolve_reference("")
    assert.equal("invalid_reference", err.kind)
    assert.has_error(function() theaterref.resolve_reference(nil) end, "a reference must be a string, not a nil")
  end)

  it("is refused past max_bytes, and if it is an endless device", function()
    local _, err = theaterref.resolve_reference("/proc/stat", { max_bytes = 10 })
    assert.equal("too_large", err.kind)
    assert.matches("max_bytes", err.message)
    _, err = theaterref.resolve_reference("/dev/zero", { max_bytes = 100000 })
    assert.equal("io", err.kind)
    assert.matches("/dev/zero: it is neither a file nor a pipe", err.message)
  end)
end)
