--- A disk cache: a content store that keeps fetched bytes.
--
-- For each reference it has two labels: `body/<digest of the reference>` keeps
-- the bytes from `gc`, `about/<same>` is a small JSON document that says what
-- they are. Reads are verified by the store; what is damaged or half-written is
-- no more than a miss.
-- @module theaterref.store.disk_cache
local cjson = require "cjson"
local core = require "theaterref.core"
require "theaterref.store.store" -- its methods

local M = {}

local DiskCache = {}
DiskCache.__index = DiskCache

-- A full disk cache is cut down to this part of its bound, so that not every
-- write has to evict.
local ROOM = 0.9

--- Opens a disk cache in a store's folder. Nothing is written until it is used.
-- @tparam string folder
-- @tparam integer max_bytes of bodies; 0: no bound
-- @treturn table
function M.open(folder, max_bytes)
  return setmetatable({ max_bytes = max_bytes,
    -- Bytes lost in a power cut are fetched again, and reads are verified.
    store = core.content_store(folder, { durability = "none", verify = "once" }) }, DiskCache)
end

local opened = {}

--- The disk cache of a cache, or nil.
-- @tparam theaterref.cache cache
-- @treturn ?table
function M.of(cache)
  local folder, max_bytes = cache:disk()
  if not folder then return nil end
  local key = folder .. "\0" .. max_bytes
  opened[key] = opened[key] or M.open(folder, max_bytes)
  return opened[key]
end

-- The document under an 'about/' label, or nil.
local function read_about(store, label)
  local blob = store:get_content_by_label(label)
  local ok, about = pcall(cjson.decode, blob and tostring(blob) or "")
  if not ok or type(about) ~= "table" or type(about.reference) ~= "string" or type(about.hash) ~= "string"
    or type(about.stored) ~= "number" or type(about.used) ~= "number" or type(about.bytes) ~= "number" then
    return nil
  end
  for _, name in ipairs { "etag", "last_modified", "url", "unsigned_url" } do
    if type(about[name]) ~= "string" then about[name] = nil end
  end
  return about
end

local function write_about(store, digest, about)
  local hash = store:put(cjson.encode(about))
  return hash and store:label("about/" .. digest, hash)
end

--- Reads the bytes of a reference.
-- @tparam string reference
-- @treturn ?theaterref.blob nil: nothing, or nothing sound
-- @treturn ?table `reference`, `hash`, `bytes`, `stored`, `used` (seconds since
-- 1970), and its freshness: `etag`, `last_modified`, `url`, `unsigned_url`
function DiskCache:read(reference)
  local digest = core.digest(reference)
  local about = read_about(self.store, "about/" .. digest)
  if not about or about.reference ~= reference then return nil end
  local blob = self.store:get(about.hash)
  if not blob then return nil end
  local now = os.time()
  if now - about.used > 60 then -- so that what is used is not the first to go
    about.used = now
    write_about(self.store, digest, about)
  end
  return blob, about
end

--- Keeps what a reference gave. A failure is no more than a miss to come.
-- @tparam string reference
-- @tparam theaterref.blob blob
-- @tparam table freshness as of a core future
function DiskCache:write(reference, blob, freshness)
  if self.max_bytes > 0 and #blob > self.max_bytes then return end
  local digest, now = core.digest(reference), os.time()
  local hash = self.store:put(blob)
  if not hash or not self.store:label("body/" .. digest, hash) then return end
  write_about(self.store, digest, { reference = reference, hash = hash, bytes = #blob, stored = now, used = now,
    etag = freshness.etag, last_modified = freshness.last_modified, url = freshness.url,
    unsigned_url = freshness.unsigned_url })
  self.bytes = self.bytes and self.bytes + #blob or self:size()
  if self.max_bytes > 0 and self.bytes > self.max_bytes then self:shrink(self.max_bytes * ROOM) end
end

--- Everything it has.
-- @treturn table an array of what `read` says of each, least lately used first
function DiskCache:list()
  local list = {}
  for _, label in ipairs(self.store:list_labels() or {}) do
    local about = label:find("^about/") and read_about(self.store, label)
    if about then list[#list + 1] = about end
  end
  table.sort(list, function(a, b)
    if a.used ~= b.used then return a.used < b.used end
    return a.reference < b.reference
  end)
  return list
end

--- Bytes of all bodies.
-- @treturn integer
function DiskCache:size()
  local bytes = 0
  for _, about in ipairs(self:list()) do bytes = bytes + about.bytes end
  return bytes
end

-- Removes entries, and the content that they alone kept.
local function sweep(self, doomed)
  local gone, kept = {}, {}
  for _, about in ipairs(doomed) do
    local digest = core.digest(about.reference)
    gone[#gone + 1] = about.hash
    gone[#gone + 1] = self.store:get_by_label("about/" .. digest)
    self.store:remove_label("about/" .. digest)
    self.store:remove_label("body/" .. digest)
  end
  for _, label in ipairs(self.store:list_labels() or {}) do
    local hash = self.store:get_by_label(label)
    if hash then kept[hash] = true end
  end
  for _, hash in ipairs(gone) do
    if not kept[hash] then self.store:discard(hash, 0) end
  end
  self.bytes = self:size()
end

--- Forgets one reference.
-- @tparam string reference
-- @treturn boolean whether it was there
function DiskCache:remove(reference)
  local about = read_about(self.store, "about/" .. core.digest(reference))
  if about then sweep(self, { about }) end
  return about ~= nil
end

--- Makes what it has of a reference stale: good for "has it changed?" only.
-- @tparam string reference
-- @treturn boolean whether it was there
function DiskCache:expire(reference)
  local digest = core.digest(reference)
  local about = read_about(self.store, "about/" .. digest)
  if not about then return false end
  about.stored = 0
  write_about(self.store, digest, about)
  return true
end

--- Forgets everything.
function DiskCache:clear() sweep(self, self:list()) end

--- Lets the least lately used go until the bodies have so many bytes at most.
-- @tparam number max_bytes
function DiskCache:shrink(max_bytes)
  local bytes, doomed = self:size(), {}
  for _, about in ipairs(self:list()) do
    if bytes <= max_bytes then break end
    bytes = bytes - about.bytes
    doomed[#doomed + 1] = about
  end
  sweep(self, doomed)
end

return M
