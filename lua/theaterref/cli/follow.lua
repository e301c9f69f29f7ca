--- `theaterref follow`.
-- @module theaterref.cli.follow
local core = require "theaterref.core"
local errors = require "theaterref.error"
local output = require "theaterref.cli.output"
local references = require "theaterref.reference"
local settings = require "theaterref.cli.settings"

local SIGINT = 2

-- Removes a file at the end of its block, Ctrl-C included.
local removed = { __close = function(file) os.remove(file.path) end }

-- Runs a command with the path of a file that has the content in place of each {}. The path has only characters that
-- mean nothing to a shell, and nothing else is put into the command. Returns true; or nil and an error.
local function run(command, blob)
  local file <close> = setmetatable({ path = os.tmpname() }, removed)
  if file.path:find "[^%w/._-]" then return nil, errors.new("io", "the name of a temporary file is odd: " .. file.path) end
  local ok, err = blob:write(file.path)
  if not ok then return nil, err end
  local done, how, status = os.execute((command:gsub("{}", file.path)))
  if done then return true end
  -- Ctrl-C reaches the command, while this process waits for it.
  if status == (how == "signal" and SIGINT or 128 + SIGINT) then core.interrupt(true) end
  return nil, errors.new(core.interrupted() and "cancelled" or "io", ("the command %s: %s"):format(
    how == "exit" and "failed with status " .. status or "was ended by signal " .. status, command))
end

-- Prints a line about new content.
local function show(args, blob)
  local line = { reference = references.redact(args.reference), bytes = #blob, sha256 = blob:digest() }
  local text = args.json and output.to_json(line)
    or ("%s  %12d bytes  %s"):format(line.sha256, line.bytes, output.plain(line.reference))
  local ok, why = output.standard:write(text .. "\n")
  return ok, not ok and errors.new("io", "Failed to write to standard output: " .. why) or nil
end

local function follow(args)
  local resolver, err = settings.resolver(args)
  if not resolver then return nil, err end
  local fatal, failed, count = nil, nil, 0
  local follower <close> = resolver:follow(args.reference, function(blob)
    count, failed = count + 1, nil
    if not args.exec then
      local _, why = show(args, blob)
      fatal = why
      return
    end
    local _, why = run(args.exec, blob)
    if why and why.kind == "cancelled" then fatal = why elseif why then
      failed = why
      output.log("warn", tostring(why))
    end
  end, { interval = args.interval, on_error = function(why)
    if why.kind == "invalid_reference" then fatal = why end -- which no time changes
  end })
  while not fatal and count < (args.count or math.huge) do
    local _, why = follower:wait(1)
    if why and why.kind == "cancelled" then fatal = why end
  end
  return nil, fatal or failed
end

return {
  { name = "follow", does = "Print a line or run a command for a reference's content, and again when that changes.",
    fetches = true,
    examples = { "theaterref follow actor.wasm --count 1",
      "theaterref follow actor.wasm --exec 'cp {} newest.wasm' --count 1",
      "theaterref follow https://example.org/app.wasm --exec 'install {} /srv/app.wasm'" },
    arguments = { { "reference", "Its reference. A failed check leaves the last content in place, and is repeated later." } },
    options = {
      { "--exec", "COMMAND", "Command for a shell to run; each {} becomes the path of a file with the content, which is "
        .. "removed when the command ends. Content that arrives meanwhile has to wait." },
      { "--interval", "SECONDS", "Seconds that a check is good for. Files and local labels are watched, too. Default: 60, or "
        .. "the label_ttl of a remote store.",
        number = "above 0" },
      { "--count", "N", "End after N contents; the exit status is 1 if the command failed for the last one.",
        number = "above 0", whole = true },
    },
    run = follow },
}
