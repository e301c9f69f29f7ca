--- Caches: references to blobs, one for every Lua state of the process.
--
-- A handle keeps the blobs it got, so that a hit takes no lock. The cache itself is
-- shared by every handle of its name. A disk cache, if it has one, outlives the
-- process. `#cache` is how many blobs it holds.
--
-- Every method may be called from any Lua state on any thread.
-- @classmod theaterref.cache
local core = require "theaterref.core"
local home = require "theaterref.home"
local option_sets = require "theaterref.options"
local references = require "theaterref.reference"

local M = {}

-- The folder of a disk cache and its bound in bytes.
local function disk_folder(disk, blame)
  if type(disk) == "string" then disk = { store = disk } end
  option_sets.check(option_sets.disk, disk, blame + 1)
  local folder, err = disk.base_path, nil
  if not folder then folder, err = home.store_folder(disk.store or "cache", disk.home) end
  return folder, disk.max_bytes or 1 << 30, err
end

--- The disk cache of a cache, or nil. Its code is loaded for the first cache that
-- has one.
-- @tparam theaterref.cache cache
-- @treturn ?table
-- @local
function M.disk_cache_of(cache)
  return cache:disk() and require("theaterref.store.disk_cache").of(cache)
end

local nothing = {}

-- Returns the reference that a cache knows: in normal form, without a digest. And a list of
-- further ones, of what led to its bytes.
local function keys_of(ref)
  if type(ref) ~= "string" then return ref, nothing end
  local source, parsed = references.source_of(ref)
  if not source then return ref, nothing end
  return source.key(parsed), source.other_keys and source.other_keys(parsed) or nothing
end

-- These methods take references as they are written. They change the disk cache first, so
-- that no resolve finds there what the cache has forgotten. ('clear' returns false as well;
-- no caller asks.)
local function no_disk() return false end

for method, on_disk in pairs { remove = "remove", clear = "clear", refresh = "expire", keep = false } do
  local in_memory = core.cache_methods[method]
  core.cache_methods[method] = function(self, ref, ...)
    local key, others = keys_of(ref)
    local disk = on_disk and M.disk_cache_of(self)
    local was_on_disk = (disk and disk[on_disk] or no_disk)(disk, key)
    for _, other in ipairs(others) do
      was_on_disk = (disk and disk[on_disk] or no_disk)(disk, other) or was_on_disk
      was_on_disk = in_memory(self, other, ...) or was_on_disk
    end
    return in_memory(self, key, ...) or was_on_disk or false
  end
end

--- Opens a cache; what `theaterref.resource_cache` calls.
-- @tparam[opt] table options see the topic "options"
-- @tparam[opt=2] integer blame whom to blame for wrong options, as for `error`
-- @treturn theaterref.cache
-- @return[2] nil
-- @treturn[2] table an error, when a cache of that name is open with other
-- options; a name alone opens it as it is
function M.open(options, blame)
  options, blame = options or {}, blame or 2
  option_sets.check(option_sets.cache, options, blame, "resource_cache")
  local given = option_sets.overlay(options)
  if options.disk then
    local err
    given.disk, given.disk_max_bytes, err = disk_folder(options.disk, blame)
    if not given.disk then return nil, err end
  end
  return core.resource_cache(given)
end

return M
