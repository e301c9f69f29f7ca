--- theaterref turns references into bytes.
--
-- A reference is a file path, `store://<id>/hash/<hash>`, `store://<id>/<label>`
-- or an `http://` or `https://` URL. Functions that can fail return nil and an
-- error (see `theaterref.error`); wrong types of argument raise.
-- @module theaterref
local core = require "theaterref.core"
local home = require "theaterref.home"
local Resolver = require "theaterref.resolver"
require "theaterref.store" -- adds verify and gc to stores

local M = {
  _VERSION = core.version,
  policy = require "theaterref.policy",
  template = require "theaterref.template",
}

--- Where Theater keeps its things: `$THEATER_HOME`, else `$HOME/.theater`.
-- @function get_theater_home
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error, when neither variable is set
M.get_theater_home = home.get_theater_home

--- A content store by its id; see `theaterref.store` for its methods.
-- @function content_store
-- @tparam string id
-- @tparam[opt] table options see `theaterref.home.content_store`
-- @treturn theaterref.store
M.content_store = home.content_store

--- A cache of blobs by reference; see `theaterref.cache` for its options and
-- methods.
-- @function resource_cache
-- @tparam[opt] table options
-- @treturn theaterref.cache
-- @return[2] nil
-- @treturn[2] table an error, when a cache of that name is open with other
-- options
M.resource_cache = require("theaterref.cache").open

--- A resolver; see `theaterref.resolver`.
-- @function resolver
-- @tparam[opt] table options
-- @treturn theaterref.resolver
M.resolver = Resolver.new

--- Merges two initial states. Nothing and nothing is nothing; one alone is
-- itself, byte for byte; two JSON objects give their union, compact and with
-- sorted keys, where the override wins key by key and every value stays exactly
-- as it is written; anything else gives the override, byte for byte.
-- @function merge_initial_states
-- @tparam ?string|theaterref.blob config_state
-- @tparam ?string|theaterref.blob override_state
-- @treturn ?string
M.merge_initial_states = core.merge_initial_states

local default_resolver

local function resolver_for(options)
  if options then return Resolver.new(options) end
  default_resolver = default_resolver or Resolver.new()
  return default_resolver
end

--- Resolves a reference to its bytes, past any cache.
-- @tparam string ref
-- @tparam[opt] table options as for `resolver`
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function M.resolve_reference(ref, options)
  local resolver, err = resolver_for(options)
  if not resolver then return nil, err end
  return resolver:resolve(ref)
end

--- Resolves a reference through a cache.
-- @tparam string ref
-- @tparam theaterref.cache cache
-- @tparam[opt] table options as for `resolver`
-- @treturn theaterref.blob
-- @treturn boolean whether it was there already
-- @return[2] nil
-- @treturn[2] table an error
function M.resolve_reference_cached(ref, cache, options)
  if not options then -- the default policy lets every reference through as it is
    local blob = cache:get(ref)
    if blob then return blob, true end
  end
  local resolver, err = resolver_for(options)
  if not resolver then return nil, err end
  return resolver:resolve_cached(ref, cache)
end

return M
