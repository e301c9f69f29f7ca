--- Makes a parser of command lines from tables that describe commands. A command is
--
--     { name =, does =, examples = { line, … }, run =, show =,
--       arguments = { { name, what, many = true or optional = true }, … },
--       options = { { "-o --output", "FILE" or nil (a flag), what, number = "above 0" or "from 0", whole = true,
--         may_be_empty = true, required = true, many = true (may be given again) }, … },
--       home = true (works on Theater home), fetches = true (and resolves references),
--       locks = true (and under no lockfile) }
--
-- or `{ name =, does =, commands = { … } }`. `run(args)` gives data, or nil and an
-- error, or both; `show(data, args)` returns it for people: a string, a blob, or nil.
-- @module theaterref.cli.command_line
local argparse = require "argparse"
local output = require "theaterref.cli.output"

local M = {}

--- Options of every command.
M.common = {
  { "--json", nil, "Print JSON, also for failures (on standard error)." },
  { "--config", "FILE", "Configuration file; '' for none. Default: $THEATERREF_CONFIG, else theaterref/theaterref.conf.lua in "
    .. "~/.config or /etc.", may_be_empty = true },
  { "-q --quiet", nil, "Show no progress bars and no warnings.", action = output.be_quiet },
  { "-v --verbose", nil, "Log to standard error what happens; -vv logs everything.", count = "0-2" },
}

--- Options of commands that work on Theater home.
M.for_home = { { "--home", "DIR", "Theater home, which holds the stores. Default: $THEATER_HOME, else ~/.theater." } }

--- Options of commands that resolve references.
M.for_fetches = {
  { "--policy", "FILE", "Policy script to use." },
  { "--trusted", nil, "Run the policy script without a sandbox." },
  { "--ca-file", "FILE", "PEM file of the certificate authorities to trust." },
  { "--timeout", "SECONDS", "Time limit for each fetch, in seconds; 1e9 lifts a configured one. Default: the configuration's, "
    .. "else no limit.", number = "above 0" },
}

--- Options of commands that resolve references under a lockfile, if one is given.
M.for_lockfiles = {
  { "--lockfile", "FILE", "Refuse references that are not in this lockfile, and bytes with another digest." },
  { "--offline", "ID", "Fetch nothing; read locked content from this store." },
}

--- All options of a command, its own first.
-- @tparam table command
-- @treturn table
function M.options_of(command)
  local all = {}
  local sets = { command.options or {}, command.fetches and M.for_fetches or {},
    command.fetches and not command.locks and M.for_lockfiles or {},
    (command.fetches or command.home) and M.for_home or {}, M.common }
  for _, set in ipairs(sets) do
    for _, option in ipairs(set) do all[#all + 1] = option end
  end
  return all
end

-- Returns the converter of an option's value, with messages that name the option. An empty
-- value is mostly a variable that is not set.
local function converter(option)
  local name = option[1]:match "%S+$"
  return function(text)
    if text == "" and not option.may_be_empty then return nil, ("the option '%s' is empty"):format(name) end
    if not option.number then return text end
    local number = tonumber(text)
    local fits = number and (number > 0 or number == 0 and option.number == "from 0")
    if fits and (not option.whole or math.type(number) == "integer") then return number end
    return nil, ("the option '%s' takes a %s %s (%s), not '%s'"):format(name, option.whole and "whole number" or "number",
      option.number, option[2], text)
  end
end

local function add_option(parser, option)
  local names, value, what = table.unpack(option, 1, 3)
  local added
  if not value then
    added = parser:flag(names, what)
    if option.count then added:count(option.count):target "verbose" end
  else
    added = parser:option(names, what):argname(value):convert(converter(option))
    if option.many then added:count(option.required and "+" or "*") elseif option.required then added:count "1" end
  end
  if option.action then added:action(option.action) end
end

-- Adds commands to a parser; 'found' gets each that can be run by its words.
local function add_commands(parser, list, words, found)
  for _, command in ipairs(list) do
    local own = words == "" and command.name or words .. " " .. command.name
    local added = parser:command(command.name, command.does)
    if command.commands then
      added:require_command(true)
      add_commands(added, command.commands, own, found)
    else
      found[own] = command
      added:epilog((#command.examples == 1 and "Example:\n  " or "Examples:\n  ") .. table.concat(command.examples, "\n  "))
      for _, argument in ipairs(command.arguments or {}) do
        local target = added:argument(argument[1], argument[2])
        if argument.many or argument.optional then target:args(argument.many and "+" or "?") end
      end
      for _, option in ipairs(M.options_of(command)) do add_option(added, option) end
      added:action(function(args) args.words = own end)
    end
  end
end

--- A parser for commands.
-- @tparam table list of commands
-- @tparam string version what `--version` prints
-- @treturn table argparse's parser; it sets `words` of what it parses
-- @treturn table the commands that can be run, by their words, such as "store put"
function M.parser(list, version)
  local parser = argparse("theaterref", "Turns references into bytes, and manifests into spawn plans.",
    "A reference is a path, store://<id>/<label>, store://<id>/hash/<hash>, http://…, https://…,\n"
    .. "oci://registry/repository:tag, s3://bucket/key, data:[<type>],<text> "
    .. "or <scheme>://… of a scheme that the policy defines.\n\n"
    .. "Exit status: 0 on success, 1 on failure (explained on standard error),\n"
    .. "2 on a usage error, 130 after Ctrl-C.")
  parser:help_max_width(100):help_description_margin(30):usage_max_width(100)
  local found = {}
  parser:require_command(true)
  add_commands(parser, list, "", found)
  parser:add_help_command()
  parser:add_complete_command()
  parser:flag("-V --version", "Show the version and exit."):action(function()
    print(version)
    os.exit(0, true)
  end)
  return parser, found
end

-- The option in front of an argument, if it takes any text: a value that begins with '-' may be meant for it.
local function option_before(arguments, argument)
  for i, given in ipairs(arguments) do
    local before = given == argument and arguments[i - 1]
    if before == "--state" or before == "--expect" or before == "-o" or before == "--output" then return before end
  end
end

-- Returns a message of the parser's about an option, with better advice than the parser has.
local function advised(message, is_top, usage, arguments)
  local option = message:match "^unknown option '(%-[^'=]+)"
  if not option then return message end
  local before = option_before(arguments, option)
  if before then
    return ("unknown option '%s'\nA value that begins with '-' is given as in %s=%s"):format(option,
      before == "-o" and "--output" or before, option)
  end
  if option == "--lockfile" and usage:find "theaterref lock" then return message .. "\n-o names the lockfile to write" end
  return is_top and message .. "\nOptions are given after the command" or message
end

--- Parses a command line.
-- @tparam table parser
-- @tparam table arguments
-- @treturn table what was parsed
-- @return[2] nil
-- @treturn[2] string what is wrong, in one line or more
-- @treturn[2] string the usage of the command that was given
function M.parse(parser, arguments)
  if arguments[1] == "help" and arguments[2] and arguments[2]:sub(1, 1) ~= "-" then -- the parser's takes one word
    arguments = table.move(arguments, 2, #arguments, 1, {})
    arguments[#arguments + 1] = "--help"
  end
  local usage
  function parser.error(command, message)
    usage = command:get_usage()
    error(advised(message, command == parser, usage, arguments), 0)
  end
  local ok, parsed = pcall(parser.parse, parser, arguments)
  if ok then return parsed end
  if not usage then error(parsed, 0) end
  return nil, parsed, usage
end

return M
