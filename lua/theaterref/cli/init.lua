--- The command `theaterref`.
--
-- Exit status: 0 on success, 1 on failure (explained on standard error), 2 on a
-- usage error, 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP (`follow` only, which removes its files).
-- @module theaterref.cli
local command_line = require "theaterref.cli.command_line"
local core = require "theaterref.core"
local output = require "theaterref.cli.output"
local theaterref = require "theaterref"

local M = {}

--- Every command, in the order of the help; see `theaterref.cli.command_line`.
M.commands = {}
for _, part in ipairs { "fetching", "follow", "registries", "policies", "signing", "store", "cache", "doctor" } do
  for _, command in ipairs(require("theaterref.cli." .. part)) do M.commands[#M.commands + 1] = command end
end

local function run(command, args)
  local data, err = command.run(args)
  local result
  if data and args.json then
    result = output.to_json(data)
  elseif data and command.show then
    result = command.show(data, args)
  end
  return output.finish(result, err, args.json)
end

--- Runs the command.
-- @tparam table arguments as from `arg`
-- @treturn integer exit status
function M.main(arguments)
  local parser, commands = command_line.parser(M.commands, "theaterref " .. theaterref._VERSION)
  local args, fault, usage = command_line.parse(parser, arguments)
  if not args then
    io.stderr:write(usage, "\n\ntheaterref: ", fault:gsub("[^\n]+", output.plain), "\n")
    return 2
  end
  core.interrupt_on_signal(commands[args.words].name == "follow")
  local ok, status = xpcall(run, debug.traceback, commands[args.words], args)
  if ok then return status end
  if not core.interrupted() then error(status, 0) end
  return output.finish(nil, status, args.json)
end

return M
