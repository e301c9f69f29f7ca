--- A disk cache: fetched bytes that outlive the process, in a folder that any
-- number of processes share.
--
-- A key is a reference, or a reference, a zero byte, and what else tells two entries
-- of that reference apart. Reads take no lock, and check what they find: damage is a
-- miss. Writes keep all files within the bound. Nothing here raises or waits for long.
-- @classmod theaterref.disk_cache
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

--- Opens a disk cache. Nothing is written until it is used.
-- @tparam string folder
-- @tparam integer max_bytes bound of all its files; 0: none
-- @treturn theaterref.disk_cache
function M.open(folder, max_bytes) return core.disk_cache(folder, max_bytes) end

local opened = {}

--- The disk cache of a cache, or nil.
-- @tparam theaterref.cache cache
-- @treturn ?theaterref.disk_cache
function M.of(cache)
  local folder, max_bytes = cache:disk()
  if not folder then return nil end
  local key = folder .. "\0" .. max_bytes
  opened[key] = opened[key] or M.open(folder, max_bytes)
  return opened[key]
end

--- Reads an entry.
-- @function read
-- @tparam string key
-- @tparam[opt=false] boolean is_code the bytes will run: the folder and the file must belong to the effective user, and
-- nobody else may write to them; the digest is checked at each read
-- @treturn ?theaterref.blob nil: there is none, or nothing sound; then, with `is_code`, there may be an error after it
-- @treturn ?table the record that was written, and `stored` (seconds since 1970; 0
-- if it is stale whatever its age), `bytes`, `sha256`

local write = core.disk_methods.write

--- Writes an entry, or confirms one that has the same bytes and record. A failure is
-- no more than a miss to come.
-- @tparam string key
-- @tparam string|theaterref.blob blob
-- @tparam table record finite numbers, booleans, strings and lists of strings by name.
-- With `no_store = true` nothing is written, and an older entry is removed
-- @tparam[opt=1] number seconds time limit for the lock; no lock, no write
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error
-- @treturn[2] boolean true for the first failure of this folder in the process: warn
function core.disk_methods:write(key, blob, record, seconds)
  if not record.no_store then return write(self, key, blob, record, seconds) end
  self:forget(key)
  return nil, errors.new("denied", "its server allows no cache on disk (Cache-Control: no-store or private)"), false
end

return M
