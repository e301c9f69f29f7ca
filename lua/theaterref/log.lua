--- Logs: what events say to people. `theaterref.events` lists each with its level.
--
-- A line never shows the user, the password or the query of a URL, nor a header,
-- a state or a secret; and it is one line, whatever a server or manifest says.
-- @module theaterref.log
local errors = require "theaterref.error"
local events = require "theaterref.events"
local options = require "theaterref.options"

local M = {}

local levels = { debug = 1, info = 2, warn = 3, error = 4, off = 5 }

local Log = {}
Log.__index = Log

-- One line without secrets.
local function clean(text) return errors.printable(errors.redact(text)) end

local function to_stderr(level, line)
  io.stderr:write("theaterref: " .. level .. ": " .. line .. "\n")
end

-- The level that the environment asks for.
local function default_level()
  local asked = os.getenv "THEATERREF_LOG"
  if not asked or asked == "" then return "warn" end
  if levels[asked] then return asked end
  to_stderr("warn", ("THEATERREF_LOG is '%s', which is no level (debug, info, warn, error, off); it counts as warn")
    :format(clean(asked)))
  return "warn"
end

--- Opens a log; what a resolver does with its option `log`.
-- @tparam ?string|table|boolean log a level; `{ level =, sink = }`; false for
-- nothing; nil for what the environment says, to standard error.
-- `sink(level, line, event)` may be called on any event, and without one for what a policy
-- script prints; what it raises is lost
-- @tparam[opt=2] integer blame whom to blame for wrong options, as for `error`
-- @treturn table
function M.open(log, blame)
  blame = blame or 2
  if log == false then log = "off" end
  if type(log) ~= "table" then log = { level = log } end
  options.check(options.log, log, blame)
  local level = log.level or default_level()
  return setmetatable({ threshold = levels[level], verbose = levels[level] == levels.debug, sink = log.sink or to_stderr }, Log)
end

local MAX_PRINTED = 4096

-- Writes a line that a policy script prints.
function Log:print(text)
  if levels.info < self.threshold then return end
  if #text > MAX_PRINTED then text = text:sub(1, MAX_PRINTED) .. "…" end
  errors.tell(self.sink, "info", clean(text))
end

-- Writes the line of an event, if its level is high enough.
function Log:emit(event)
  local kind = events.by_type[event.type]
  if not kind or levels[kind.level] < self.threshold then return end
  errors.tell(self.sink, kind.level, clean(kind.line(event)), event)
end

return M
