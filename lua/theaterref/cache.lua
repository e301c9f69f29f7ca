--- Caches: references to blobs, one for every Lua state of the process.
--
-- Two levels: a handle keeps the blobs it got, so that a hit takes no lock; the
-- cache itself is shared by every handle of its name. A third, on disk, is a
-- content store that outlives the process. The methods of a cache:
--
-- * `#cache`, `cache:len()`, `cache:is_empty()`: how many blobs it holds
-- * `cache:get(reference)`: the blob, when it is there and fresh; else nil
-- * `cache:remove(reference)`: forgets it; returns whether it was there
-- * `cache:clear()`: forgets everything
-- * `cache:refresh(reference)`: makes it stale: the next resolve asks its source,
--   and gets the same blob when that has not changed; returns whether it was there
-- * `cache:pin(reference [, false])`: keeps it, and what replaces it, from being
--   evicted; returns whether it was there
-- * `cache:stats()`: `hits`, `misses`, `coalesced` (waited for another's load),
--   `stale` (served past its ttl), `loads`, `errors`, `evictions`, `entries`,
--   `bytes`, and `by`: hits, misses and coalesced of each `who`
--
-- Every method may be called from any Lua state on any thread.
-- @classmod theaterref.cache
local core = require "theaterref.core"
local errors = require "theaterref.error"
local home = require "theaterref.home"
local names = require "theaterref.names"
local tiers = require "theaterref.tier"

local M = {}

local known = names.set { "name", "who", "max_bytes", "max_entries", "ttl", "negative_ttl", "stale_while_revalidate",
  "stale_if_error", "coalesce", "tier" }
local known_of_tier = names.set { "store", "home", "base_path", "max_bytes" }

-- The folder of the store that is to be a cache's tier.
local function tier_folder(tier)
  if type(tier) == "string" then tier = { store = tier } end
  if type(tier) ~= "table" then error("'tier' must be a store's id or a table, not a " .. type(tier), 4) end
  names.check(tier, known_of_tier, "tier option", 4)
  local folder, err = tier.base_path, nil
  if not folder then folder, err = home.store_folder(tier.store or "cache", tier.home) end
  return folder, tier.max_bytes or 1 << 30, err
end

-- What changes a cache changes its tier first, so that nobody finds there what
-- the cache was told to forget. ('clear' answers false as well; nobody asks.)
for method, on_tier in pairs { remove = "remove", clear = "clear", refresh = "expire" } do
  local in_memory = core.cache_methods[method]
  core.cache_methods[method] = function(self, reference)
    local tier = tiers.of(self)
    local on_disk = tier and tier[on_tier](tier, reference)
    return in_memory(self, reference) or on_disk or false
  end
end

--- Opens a cache; what `theaterref.resource_cache` calls.
-- @tparam[opt] table options
-- @param options.name one cache for the whole process; without it, a private one
-- @param options.who a name under which `stats().by` counts this handle
-- @param options.max_bytes bound of what it holds (256 MiB); 0 is no bound
-- @param options.max_entries the same by number (0: no bound)
-- @param options.ttl seconds an entry is fresh (for ever)
-- @param options.stale_while_revalidate seconds past its ttl that an entry is
-- served at once while it is loaded anew in the background (0)
-- @param options.stale_if_error seconds past its ttl that an entry is served
-- when its server cannot be reached or fails (0)
-- @param options.negative_ttl seconds that a 404, 410 or missing file is
-- remembered (0)
-- @param options.coalesce false: concurrent misses each load, and the last one
-- wins; as in Theater
-- @param options.tier a second level on disk, for what came by http or https: a
-- store's id, or `{ store = id, home =, base_path =, max_bytes = 1 GiB }`
-- @treturn theaterref.cache
-- @return[2] nil
-- @treturn[2] table an error, when a cache of that name is open with other
-- options
function M.open(options)
  options = options or {}
  names.check(options, known, "cache option", 3)
  local given = {}
  for name, value in pairs(options) do given[name] = value end
  if options.tier then
    local err
    given.tier, given.tier_max_bytes, err = tier_folder(options.tier)
    if not given.tier then return nil, errors.about(err, tostring(options.tier)) end
  end
  return core.resource_cache(given)
end

return M
