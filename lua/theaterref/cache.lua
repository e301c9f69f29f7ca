--- Caches: references to blobs, one for every Lua state of the process.
--
-- Two levels: a handle keeps the blobs it got, so that a hit takes no lock; the
-- cache itself is shared by every handle of its name. A third, on disk, is a
-- content store that outlives the process. `#cache` is how many blobs it holds.
--
-- Every method may be called from any Lua state on any thread.
-- @classmod theaterref.cache
local core = require "theaterref.core"
local errors = require "theaterref.error"
local home = require "theaterref.home"
local option_sets = require "theaterref.options"

local M = {}

-- The folder of the store that is to be a cache's tier.
local function tier_folder(tier, blame)
  if type(tier) == "string" then tier = { store = tier } end
  option_sets.check(option_sets.tier, tier, blame + 1)
  local folder, err = tier.base_path, nil
  if not folder then folder, err = home.store_folder(tier.store or "cache", tier.home) end
  return folder, tier.max_bytes or 1 << 30, err
end

--- The level on disk of a cache, or nil. What it takes is loaded for a cache that
-- has one.
-- @tparam theaterref.cache cache
-- @treturn ?table
function M.tier_of(cache)
  return cache:tier() and require("theaterref.tier").of(cache)
end

-- What changes a cache changes its tier first, so that nobody finds there what
-- the cache was told to forget. ('clear' answers false as well; nobody asks.)
for method, on_tier in pairs { remove = "remove", clear = "clear", refresh = "expire" } do
  local in_memory = core.cache_methods[method]
  core.cache_methods[method] = function(self, reference)
    local tier = M.tier_of(self)
    local on_disk = tier and tier[on_tier](tier, reference)
    return in_memory(self, reference) or on_disk or false
  end
end

--- Opens a cache; what `theaterref.resource_cache` calls.
-- @tparam[opt] table options see the topic "options"
-- @tparam[opt=2] integer blame whom to blame for wrong options, as for `error`
-- @treturn theaterref.cache
-- @return[2] nil
-- @treturn[2] table an error, when a cache of that name is open with other
-- options
function M.open(options, blame)
  options, blame = options or {}, blame or 2
  option_sets.check(option_sets.cache, options, blame)
  local given = {}
  for name, value in pairs(options) do given[name] = value end
  if options.tier then
    local err
    given.tier, given.tier_max_bytes, err = tier_folder(options.tier, blame)
    if not given.tier then return nil, errors.about(err, tostring(options.tier)) end
  end
  return core.resource_cache(given)
end

return M
