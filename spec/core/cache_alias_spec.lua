local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

local load = helper.load

-- References with the same content share one blob, under the content's key.
describe("an alias", function()
  local content = core.cache_key("sha256:" .. core.digest "bytes", nil, "scope")

  it("leads to the one blob of its content", function()
    local name = "alias-" .. math.random(1 << 40)
    local cache, other = theaterref.resource_cache { name = name }, theaterref.resource_cache { name = name }
    load(cache, "one", "bytes", { content = content })
    local blob = cache:get "one"
    assert.is_true(blob:same(cache:get(content)))
    local _, lead = cache:claim "two"
    local _, waiting = other:claim "two"
    lead:complete(core.blob "bytes", { content = content })
    for _, got in ipairs { waiting:wait(0), (lead:wait(0)), other:get "two", other:get "one", select(2, other:claim "one") } do
      assert.is_true(blob:same(got))
    end
    assert.equal(1, #cache)
    assert.equal(1, cache:stats().entries)
    cache:close()
  end)

  it("is of a claim that names its content, however its bytes come", function()
    local server = helper.misbehaving()
    local cache = theaterref.resource_cache()
    local function fetch(path)
      local _, lead = cache:claim(server.http .. path, { content = content })
      assert(core.fetch(server.http .. path, core.request_options {}, lead))
      return assert(lead:wait(10)), lead:freshness()
    end
    local one, record = fetch "/fine?1"
    local two = fetch "/fine?2"
    server:stop()
    assert.is_true(one:same(two))
    assert.equal(content, record.content)
    assert.is_true(record.private)
    assert.is_true(one:same(cache:get(server.http .. "/fine?1")))
    assert.equal(1, #cache)
  end)

  it("does not keep its blob, whose loss a handle notices", function()
    local name = "alias-" .. math.random(1 << 40)
    local cache, other = theaterref.resource_cache { name = name }, theaterref.resource_cache { name = name }
    load(cache, "ref", "bytes", { content = content, etag = '"1"', extra = { manifest = "m" } })
    assert.truthy(other:get "ref")
    assert.is_true(cache:remove(content))
    assert.is_nil(other:get "ref")
    assert.is_nil(cache:get "ref")
    local how, lead = other:claim "ref"
    assert.equal("lead", how)
    local record, blob = lead:known()
    assert.same({ etag = '"1"', content = content, extra = { manifest = "m" }, hosts = {}, private = false }, record)
    assert.is_nil(blob)
    cache:close()
  end)

  it("is renewed by a 304, with its blob or without", function()
    local server = helper.misbehaving()
    local cache = theaterref.resource_cache()
    local url, request = server.http .. "/page-a", core.request_options {}
    local function renew()
      local how, lead = cache:claim(url, { content = content })
      assert.equal("lead", how)
      local record, known = lead:known()
      if record and not known then -- the leader finds the bytes of the content somewhere
        known = core.blob "page a"
        lead:know(known, record)
      end
      assert(core.fetch(url, request, lead))
      local blob = assert(lead:wait(10))
      return blob, known, lead:info().unchanged
    end
    local first = renew()
    assert.is_true(cache:refresh(url))
    local again, known, unchanged = renew()
    assert.is_true(unchanged and again:same(known) and again:same(first))
    assert.is_true(again:same(cache:get(content)))
    cache:remove(content)
    local found
    found, known, unchanged = renew()
    server:stop()
    assert.is_true(unchanged and found:same(known) and found:same(cache:get(content)) and found:same(cache:get(url)))
  end)

  it("holds its bytes itself while it is kept", function()
    local cache = theaterref.resource_cache { max_entries = 3 }
    load(cache, "ref", "bytes", { content = content })
    assert.is_true(cache:keep "ref")
    for i = 1, 20 do load(cache, "k" .. i, "x") end
    assert.is_nil(cache:get(content))
    assert.equal("bytes", tostring(cache:get "ref"))
    load(cache, "ref", "newer", { content = "newer" }, { revalidate = true })
    for i = 21, 40 do load(cache, "k" .. i, "x") end
    assert.equal("newer", tostring(cache:get "ref"))
    assert.equal(3, #cache)
  end)

  it("is followed once, and not in a circle", function()
    local cache = theaterref.resource_cache()
    load(cache, "a", "x", { content = "b" })
    cache:remove "b"
    load(cache, "b", "x", { content = "a" })
    assert.equal("x", tostring(cache:get "b"))
    assert.equal("x", tostring(cache:get "a"))
    cache:remove "a"
    load(cache, "a", "y", { content = "c" })
    assert.is_nil(cache:get "b")
    load(cache, "self", "z", { content = "self" })
    assert.equal("z", tostring(cache:get "self"))
  end)

  it("expires by its own ttl, and with its content", function()
    local cache = theaterref.resource_cache()
    load(cache, "short", "bytes", { content = content }, { ttl = 0 })
    assert.is_nil(cache:get "short")
    load(cache, "long", "bytes", { content = content })
    assert.truthy(cache:get "long")
    load(cache, "short", "bytes", { content = content }, { ttl = 0 })
    assert.is_nil(cache:get "short")
    assert.truthy(cache:get "long")
  end)

  it("gives a claim with limits what its own way allows", function()
    local cache, guarded = theaterref.resource_cache(), core.request_options { refuse_private = true }
    load(cache, "inside", "bytes", { content = content, private = true })
    load(cache, "outside", "bytes", { content = content, private = false }, guarded)
    assert.equal("hit", (cache:claim("outside", guarded)))
    assert.equal("lead", (cache:claim("inside", guarded)))
    assert.equal("hit", (cache:claim "inside"))
  end)
end)
