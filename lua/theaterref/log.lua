--- Logs: what events say to people.
--
-- Every event has a level:
--
-- * `error`: a policy script that changed is broken, and its old rules stay in force
-- * `warn`: something went wrong on the way to a good end: a `retry`, a `fallback`,
--   a `disk_cache` that cannot be written (once for each process and folder)
-- * `info`: a `failure`, a `refusal` or retries in vain, which its caller gets as an
--   error as well; a policy script was reloaded
-- * `debug`: all else: what was `resolved`, what a `cache` had, the `phase`s of plans
--
-- A line never shows the user, the password or the query of a URL, nor a header,
-- a state or a secret; and it is one line, whatever a server or manifest says.
-- @module theaterref.log
local core = require "theaterref.core"
local options = require "theaterref.options"

local M = {}

local levels = { debug = 1, info = 2, warn = 3, error = 4, off = 5 }

local Log = {}
Log.__index = Log

-- How loud each type of event is, and what it says.
local kinds = {
  resolved = { "debug", function(e) return ("%s: %d bytes"):format(e.reference, e.bytes) end },
  cache = { "debug", function(e) return ("%s: cache %s"):format(e.reference, e.outcome) end },
  phase = { "debug", function(e)
    return ("%s: %s took %.3f ms, %d bytes"):format(e.reference, e.name, e.seconds * 1000, e.bytes)
  end },
  failure = { "info", function(e) return ("%s: %s failed: %s"):format(e.reference, e.name, e.message) end },
  refusal = { "info", function(e)
    return ("%s: refused as %s: %s"):format(e.reference, e.purpose, e.reason or "the policy gives no reason")
  end },
  retry = { "warn", function(e) return ("%s: there after %d attempts"):format(e.reference, e.attempts) end },
  in_vain = { "info", function(e) return ("%s: given up after %d attempts"):format(e.reference, e.attempts) end },
  fallback = { "warn", function(e) return ("trying %s instead: %s"):format(e.reference, e.message) end },
  disk_cache = { "warn", function(e) return ("%s: not kept on disk: %s"):format(e.reference, e.message) end },
  policy = { "error", function(e) return ("%s: the old rules stay in force: %s"):format(e.reference, e.error) end },
  reloaded = { "info", function(e) return e.reference .. ": the changed rules are in force" end },
}

local function kind_of(event)
  if event.type == "retry" and event.failed then return kinds.in_vain end
  return event.reloaded and kinds.reloaded or kinds[event.type]
end

-- One line without secrets.
local function clean(text)
  return (core.redact(text):gsub("%c", function(c) return ("\\%d"):format(c:byte()) end))
end

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
-- `sink(level, line, event)` may be called on any event; what it raises is lost
-- @tparam[opt=2] integer blame whom to blame for wrong options, as for `error`
-- @treturn table
function M.open(log, blame)
  blame = blame or 2
  if log == false then log = "off" end
  if type(log) ~= "table" then log = { level = log } end
  options.check(options.log, log, blame)
  local level = log.level or default_level()
  if not levels[level] then
    error(("there is no log level '%s' (debug, info, warn, error, off)"):format(level), blame)
  end
  return setmetatable({ threshold = levels[level], verbose = levels[level] == levels.debug, sink = log.sink or to_stderr }, Log)
end

-- Writes the line of an event, if its level is high enough.
function Log:emit(event)
  local level, says = table.unpack(kind_of(event))
  if levels[level] < self.threshold then return end
  pcall(self.sink, level, clean(says(event)), event)
end

return M
