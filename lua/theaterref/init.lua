--- theaterref turns references into bytes.
--
-- A reference is a file path, `store://<id>/hash/<hash>`, `store://<id>/<label>`
-- or an `http://` or `https://` URL. Functions that can fail return nil and an
-- error (see `theaterref.error`); wrong types of argument raise. A function's
-- modules are loaded when it is first used; libcurl, and with it the I/O thread, at
-- the first fetch.
-- @module theaterref
local core = require "theaterref.core"
require "theaterref.error" -- gives the errors that are made in C their methods

local M = { _VERSION = core.version }

-- Fields that are loaded on first use: functions that return them, by name.
local later = {}

--- Where Theater keeps its things: `$THEATER_HOME`, else `$HOME/.theater`.
-- @function get_theater_home
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error, when neither variable is set
function later.get_theater_home() return require("theaterref.home").get_theater_home end

--- A content store by its id; see `theaterref.store` for its methods.
-- @function content_store
-- @tparam string id
-- @tparam[opt] table options see the topic "options"
-- @treturn theaterref.store
function later.content_store() return require("theaterref.home").content_store end

--- A cache of blobs by reference; see `theaterref.cache` for its methods.
-- @function resource_cache
-- @tparam[opt] table options see the topic "options"
-- @treturn theaterref.cache
-- @return[2] nil
-- @treturn[2] table an error, when a cache of that name is open with other
-- options; a name alone opens it as it is
function later.resource_cache()
  local open = require("theaterref.cache").open
  return function(options) return open(options) end
end

--- A resolver; see `theaterref.resolver` for its methods.
-- @function resolver
-- @tparam[opt] table options see the topic "options"
-- @treturn theaterref.resolver
-- @return[2] nil
-- @treturn[2] table an error, when the policy cannot be loaded
function later.resolver()
  local new = require("theaterref.resolver").new
  -- Of one argument: what a call passes on may have further results, as that of 'config' has.
  return function(options) return new(options) end
end

--- The options that a configuration file sets, for `resolver`; see `theaterref.config`.
-- @function config
-- @tparam[opt] string path instead of the usual places
-- @treturn table
-- @treturn ?string the file they came from
-- @return[2] nil
-- @treturn[2] table an error
function later.config() return require("theaterref.config").load end

--- The default rules, and builders of others; see `theaterref.policy`.
-- @class field
-- @name policy
function later.policy() return require "theaterref.policy" end

--- Signs bytes; see `theaterref.signature`.
-- @function sign
-- @tparam string|theaterref.blob bytes
-- @tparam string|theaterref.blob key the private key in PEM
-- @tparam[opt] string password
-- @treturn string the text of a `.sig` file
-- @return[2] nil
-- @treturn[2] table an error
function later.sign() return require("theaterref.signature").sign end

--- Checks signatures of bytes; see `theaterref.signature`.
-- @function verify
-- @tparam string|theaterref.blob bytes
-- @tparam table signatures a list of documents
-- @tparam table keys a list of texts of public keys
-- @tparam[opt=1] integer threshold
-- @treturn table the places in `keys` of those that signed
-- @return[2] nil
-- @treturn[2] table an error
function later.verify() return require("theaterref.signature").verify end

--- How references are taken apart and joined; see `theaterref.reference`.
-- @class field
-- @name reference
function later.reference() return require "theaterref.reference" end

--- Variables in manifests; see `theaterref.template`.
-- @class field
-- @name template
function later.template() return require "theaterref.manifest.template" end

setmetatable(M, { __index = function(module, name)
  local get = later[name]
  if get then module[name] = get() end
  return rawget(module, name)
end })

--- Merges two initial states. Nothing and nothing is nothing; one alone is
-- itself, byte for byte; two JSON objects give their union, compact and with
-- sorted keys, where the override wins key by key and every value stays exactly
-- as it is written; anything else gives the override, byte for byte.
-- @function merge_initial_states
-- @tparam ?string|theaterref.blob config_state
-- @tparam ?string|theaterref.blob override_state
-- @treturn ?string
M.merge_initial_states = core.merge_initial_states

--- The metrics of the process as OpenMetrics text: what all Lua states, threads and hosts did.
-- Serve it as `application/openmetrics-text; version=1.0.0; charset=utf-8`.
-- @function metrics
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error, when memory is short
M.metrics = core.metrics

local default_resolver

local function resolver_for(options)
  if options then return require("theaterref.resolver").new(options, 3) end
  default_resolver = default_resolver or M.resolver()
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
  if type(ref) ~= "string" then error("a reference must be a string, not a " .. type(ref), 2) end
  if type(cache) ~= "userdata" then
    error("a cache, as theaterref.resource_cache() gives, was expected as the second argument, not a " .. type(cache), 2)
  end
  -- The default policy lets every reference through as it is. (A zero byte would make it a
  -- key of another scope.)
  if not options and not ref:find("\0", 1, true) then
    local blob = cache:get(ref)
    if blob then return blob, true end
  end
  local resolver, err = resolver_for(options)
  if not resolver then return nil, err end
  return resolver:resolve_cached(ref, cache)
end

return M
