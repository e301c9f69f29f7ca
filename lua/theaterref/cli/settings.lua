--- Settings of a command: those of the configuration file, overridden by the
-- command line.
-- @module theaterref.cli.settings
local configs = require "theaterref.config"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local homes = require "theaterref.home"
local option_sets = require "theaterref.options"
local output = require "theaterref.cli.output"
local theaterref = require "theaterref"

local M = {}

--- The configuration file that counts, or nil.
function M.config_file(args)
  if args.config == "" then return nil end -- none, whatever there is
  return args.config or configs.find()
end

--- The configuration, read once for a command.
-- @tparam table args
-- @treturn table options, empty where there is no file
-- @return[2] nil
-- @treturn[2] table an error
function M.config(args)
  if args.settings then return args.settings end
  local file, err = M.config_file(args), nil
  args.settings = {}
  if file then args.settings, err = configs.load(file) end
  if not args.settings then return nil, err end
  return args.settings
end

-- How much is said: what is configured, unless the command line says more or less.
local function log_level(args, configured)
  if output.is_quiet() then return "error" end
  if args.verbose > 0 then return args.verbose > 1 and "debug" or "info" end
  return configured
end

--- How many certificates a PEM file has.
-- @tparam string file
-- @treturn integer at least one
-- @return[2] nil
-- @treturn[2] table an error
function M.count_authorities(file)
  local text, err = core.read_file(file)
  if not text then return nil, err end
  local _, count = tostring(text):gsub("%-%-%-%-%-BEGIN [A-Z ]*CERTIFICATE%-%-%-%-%-", "")
  if count == 0 then return nil, errors.new("syntax", file .. " has no certificate in PEM form") end
  return count
end

--- The resolver that a command is to use.
-- @tparam table args
-- @tparam[opt] function on_event called with each event
-- @tparam[opt] table signatures to require; without it, those of the configuration
-- @treturn theaterref.resolver
-- @return[2] nil
-- @treturn[2] table an error
function M.resolver(args, on_event, signatures)
  local config, err = M.config(args)
  if not config then return nil, err end
  if args.ca_file then
    local count, why = M.count_authorities(args.ca_file)
    if not count then return nil, errors.new(why.kind, "--ca-file: " .. why.message) end
  end
  local options = option_sets.overlay(config)
  if args.policy then options.policy, options.trusted = args.policy, nil end
  for _, option in ipairs { "trusted", "home", "ca_file", "timeout", "connect_timeout", "retries", "lockfile", "offline" } do
    if args[option] ~= nil then options[option] = args[option] end
  end
  if args.lockfile == false then options.lockfile, options.offline = nil, nil end
  if options.offline then
    local there
    there, err = M.is_remote_store(args, options.offline), nil
    if not there then there, err = homes.find_store(options.offline, options.home) end
    if not there then return nil, err end
  end
  options.cache, options.strict_state = options.cache or {}, true
  options.signatures = signatures or options.signatures
  options.log, options.on_event = { level = log_level(args, options.log), sink = output.log }, on_event
  return theaterref.resolver(options)
end

--- The Theater home that was asked for, if any.
function M.home(args)
  if args.home then return args.home end
  local config, err = M.config(args)
  return config and config.home, err
end

--- True if a store has a bucket.
function M.is_remote_store(args, id)
  local config = M.config(args)
  local own = config and config.stores and config.stores[id]
  return own ~= nil and own.remote ~= nil
end

--- The content store that a command is to work on.
-- @tparam table args `id`, or the id
-- @tparam string id
-- @tparam[opt] table options see the topic "options"
-- @treturn theaterref.store
-- @return[2] nil
-- @treturn[2] table an error
function M.store(args, id, options)
  local config, err = M.config(args)
  if not config then return nil, err end
  local own = config.stores and config.stores[id]
  local all = option_sets.overlay({ home = args.home or config.home, label_history = config.label_history }, own)
  if own and own.remote then
    all.request, all.s3 = {}, config.s3
    for _, option in ipairs(option_sets.request) do all.request[option.name] = config[option.name] end
    all.on_warning = function(message)
      if not output.is_quiet() then output.log("warn", ("store://%s: %s"):format(id, message)) end
    end
  end
  return theaterref.content_store(id, option_sets.overlay(all, options))
end

--- The initial state that was given: JSON text, or what the file behind '@' holds; '@-' is standard input.
-- @treturn ?string
-- @return[2] nil
-- @treturn[2] table an error, also when it is not JSON
function M.state(args)
  local text, what = args.state, "--state"
  if not text then return nil end
  if text:sub(1, 1) == "@" then
    what = text:sub(2)
    if what == "" then return nil, output.usage_error("--state: a file's name was expected after '@'") end
    local blob, err
    if what == "-" then blob, err = core.read_stdin() else blob, err = core.read_file(what) end
    if not blob then return nil, err end
    text = tostring(blob)
  end
  local kind, fault = core.json_split(text)
  if kind then return text end
  if what == "--state" and (core.file_stamp(text) or text:find "^[%w_./~-]+%.json$") then
    return nil, errors.new("syntax", ("--state: '%s' is not JSON; to give a file, write @%s"):format(text, text))
  end
  return nil, errors.new("syntax", (what == "-" and "standard input" or what) .. ": " .. fault.message)
end

return M
