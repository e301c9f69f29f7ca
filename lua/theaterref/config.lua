--- The configuration file, `theaterref.conf.lua`: a script that returns a table of
-- resolver options. It runs in a sandbox, with `theaterref.getenv(name)`.
--
-- Which one counts: the first there is of
--
-- 1. what `$THEATERREF_CONFIG` names; set, but empty, it means none at all
-- 2. `$XDG_CONFIG_HOME/theaterref/theaterref.conf.lua`, where
--    `$XDG_CONFIG_HOME` is `~/.config` unless set
-- 3. `/etc/theaterref/theaterref.conf.lua`
-- @module theaterref.config
local core = require "theaterref.core"
local errors = require "theaterref.error"
local options = require "theaterref.options"
local policy_keys = require "theaterref.keys"
local reference = require "theaterref.reference"

local M = {}

local NAME = "/theaterref/theaterref.conf.lua"

local function set(variable)
  local value = os.getenv(variable)
  return value ~= "" and value or nil
end

--- The file that counts. One that is there but cannot be read counts: without it,
-- policy and limits would be off.
-- @treturn ?string its path; nil: there is none
function M.find()
  local named = os.getenv "THEATERREF_CONFIG"
  if named then return named ~= "" and named or nil end
  local home = set "HOME"
  local personal = set "XDG_CONFIG_HOME" or home and home .. "/.config"
  for _, folder in ipairs { personal or "/etc", "/etc" } do
    local stamp, err = core.file_stamp(folder .. NAME)
    if stamp or err.kind ~= "not_found" then return folder .. NAME end
  end
  return nil
end

-- Options that are paths.
local paths = { "policy", "lockfile", "home", "ca_file", "client_cert", "client_key", "unix_socket" }

-- A path as it is meant in the file: relative to its folder, or to home.
local function resolve_path(file, path)
  if path:sub(1, 2) == "~/" then return (set "HOME" or "~") .. path:sub(2) end
  file = reference.absolute(file)
  return reference.join(file, path) or reference.join(file, "./" .. path)
end

-- The options of a file, with its paths made absolute.
local function read_out(file, given)
  for _, name in ipairs(paths) do
    if given[name] then given[name] = resolve_path(file, given[name]) end
  end
  for _, host in pairs(given.hosts or {}) do
    for _, name in ipairs { "ca_file", "client_cert", "client_key" } do
      if host[name] then host[name] = resolve_path(file, host[name]) end
    end
  end
  local signatures = given.signatures
  for i, key in ipairs(signatures and signatures.keys or {}) do
    if not policy_keys.is_text(key) then signatures.keys[i] = resolve_path(file, key) end
  end
  if signatures and type(signatures.from) == "string" then signatures.from = { signatures.from } end
  for i, place in ipairs(signatures and signatures.from or {}) do signatures.from[i] = resolve_path(file, place) end
  for _, registry in pairs(given.registries or {}) do
    for _, name in ipairs { "ca_file", "client_cert", "client_key" } do
      if registry[name] then registry[name] = resolve_path(file, registry[name]) end
    end
  end
  local s3 = given.s3
  if s3 and s3.ca_file then s3.ca_file = resolve_path(file, s3.ca_file) end
  for _, bucket in pairs(s3 and s3.buckets or {}) do
    if bucket.ca_file then bucket.ca_file = resolve_path(file, bucket.ca_file) end
  end
  local disk = given.cache and given.cache.disk
  if type(disk) == "table" then
    for _, name in ipairs { "home", "base_path" } do
      if disk[name] then disk[name] = resolve_path(file, disk[name]) end
    end
  end
  if type(given.log) == "table" then given.log = given.log.level end
  if given.log == false then given.log = "off" end
  return given
end

-- The fault in a file's options, if any.
local function fault_of(given)
  if type(given) ~= "table" then return "it must return a table of options, not a " .. type(given) end
  if type(given.policy) == "table" then return "'policy' must be the path of a script here" end
  return options.fault(options.resolver, given)
end

--- Reads a configuration; what `theaterref.config` calls.
-- @tparam[opt] string path instead of `find()`
-- @treturn table options for `theaterref.resolver`; empty when there is no file.
-- Paths in it are absolute: in the file they are relative to it, or begin with
-- `~/`; `log` is a level
-- @treturn ?string the file they came from
-- @return[2] nil
-- @treturn[2] table an error, when the file cannot be read, or says something that
-- no option is
function M.load(path)
  path = path or M.find()
  if not path then return {} end
  local source, err = core.read_file(path)
  if not source then return nil, errors.new(err.kind, "the configuration: " .. err.message) end
  local box <close> = core.sandbox()
  box:expose { theaterref = { getenv = os.getenv } }
  local given
  given, err = box:run(tostring(source), "@" .. path)
  local fault = errors.is(err) and err.message or fault_of(given)
  if not fault then return read_out(path, given), path end
  if fault:sub(1, #path) ~= path then fault = path .. ": " .. fault end -- Lua says where
  return nil, errors.new("syntax", fault)
end

return M
