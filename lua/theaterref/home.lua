--- Where Theater keeps its things.
-- @module theaterref.home
local core = require "theaterref.core"
local errors = require "theaterref.error"
local option_sets = require "theaterref.options"

local M = {}

--- Theater home: `$THEATER_HOME`, else `$HOME/.theater`.
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error, when neither variable is set
function M.get_theater_home()
  local home = os.getenv("THEATER_HOME")
  if home and home ~= "" then return home end
  home = os.getenv("HOME")
  if home and home ~= "" then return home .. "/.theater" end
  return nil, errors.new("not_found", "no Theater home: set THEATER_HOME or HOME")
end

--- The folder of a store.
-- @tparam string id one path part
-- @tparam[opt] string theater_home instead of `get_theater_home()`
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error, of kind `invalid_reference` when the id is at fault
function M.store_folder(id, theater_home)
  local fault = core.label_fault(id) or id:find("/", 1, true) and "it has a '/' in it"
  if fault then
    return nil, errors.new("invalid_reference", ("Invalid store id '%s': %s"):format(id, fault))
  end
  local err
  if not theater_home then theater_home, err = M.get_theater_home() end
  if not theater_home then return nil, err end
  if theater_home == "" then return nil, errors.new("not_found", "an empty 'home' or 'base_path' names no folder") end
  return theater_home .. "/store/" .. id
end

--- A store by its id.
-- @tparam string id one path part
-- @tparam[opt] table options see the topic "options"
-- @treturn theaterref.store
-- @return[2] nil
-- @treturn[2] table an error of kind `invalid_reference`
function M.content_store(id, options)
  options = options or {}
  option_sets.check(option_sets.store, options, 2, "content_store")
  local base, err = M.store_folder(id, options.base_path or options.home)
  if not base then return nil, err end
  base = options.base_path or base
  if options.remote then return require("theaterref.store.remote").open(id, base, options) end
  require "theaterref.store.store" -- gives the core's stores the methods that are written in Lua
  return core.content_store(base, { algorithm = options.algorithm, durability = options.durability,
    verify = options.verify, map = options.map, lock_timeout = options.lock_timeout, label_history = options.label_history })
end

--- Checks that there is a store.
-- @tparam string id
-- @tparam[opt] string theater_home instead of `get_theater_home()`
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error, of kind `not_found` with the ids of the stores that there are
function M.find_store(id, theater_home)
  local folder, err = M.store_folder(id, theater_home)
  if not folder then return nil, err end
  local there
  there, err = core.file_stamp(folder)
  if there then return true end
  if err.kind ~= "not_found" then return nil, err end
  local stores = folder:match "^(.*)/"
  local ids = core.content_store(stores, {}):list_folders() or {}
  local shown = errors.redact_reference("store://" .. id):gsub("^store://", "") -- it may hold a password
  return nil, errors.new("not_found", ("there is no store '%s' in %s; stores: %s"):format(shown, stores,
    #ids > 0 and table.concat(ids, ", ") or "none"))
end

return M
