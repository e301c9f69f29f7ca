--- Output of the command: JSON, colours, progress bars, log lines, failures.
-- @module theaterref.cli.output
local cjson = require "cjson"
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

-- -------------------------------------------------------------------- JSON

-- Also with control characters of two bytes escaped: terminals obey them.
local function quote(text)
  text = cjson.encode(errors.valid_utf8(text)):gsub("\\/", "/")
  return (text:gsub("\xC2([\x80-\x9F])", function(c) return ("\\u%04x"):format(c:byte()) end))
end

--- JSON with sorted keys and exact integers, which lua-cjson does not write.
-- Blobs are left out.
local function to_json(value)
  if math.type(value) == "integer" then return tostring(value) end
  if math.type(value) == "float" then
    if value ~= value or value == math.huge or value == -math.huge then return '"' .. tostring(value) .. '"' end
    return ("%.17g"):format(value)
  end
  if type(value) == "table" and (getmetatable(value) == core.json_array or value[1] ~= nil) then
    local parts = {}
    for i, item in ipairs(value) do parts[i] = to_json(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  if type(value) == "table" then
    local parts = {}
    for key, item in pairs(value) do
      if not core.is_blob(item) then parts[#parts + 1] = quote(tostring(key)) .. ":" .. to_json(item) end
    end
    table.sort(parts)
    return "{" .. table.concat(parts, ",") .. "}"
  end
  if value == core.json_null or value == nil then return "null" end
  return type(value) == "string" and quote(value) or tostring(value)
end

M.to_json = to_json

--- A copy of a value without the secrets in its URLs.
function M.redacted(value)
  if type(value) == "string" then return errors.redact(value) end
  if type(value) ~= "table" then return value end
  local copy = setmetatable({}, getmetatable(value))
  for name, item in pairs(value) do copy[name] = M.redacted(item) end
  return copy
end

--- A list that is JSON's [] when it is empty.
function M.array(list) return setmetatable(list, core.json_array) end

-- ----------------------------------------------------------------- terminals

local quiet, drawn = false, false

--- Neither bars nor warnings from now on.
function M.be_quiet() quiet = true end

function M.is_quiet() return quiet end

local function is_terminal(descriptor)
  return core.is_terminal(descriptor) and os.getenv "TERM" ~= "dumb"
end

local colours = { red = "31", green = "32", yellow = "33", cyan = "36", bold = "1" }

--- Text in a colour, where standard output (or `descriptor`) is a terminal and
-- NO_COLOR (no-color.org) is not set.
function M.coloured(colour, text, descriptor)
  if (os.getenv "NO_COLOR" or "") ~= "" or not is_terminal(descriptor or 1) then return text end
  return "\27[" .. colours[colour] .. "m" .. text .. "\27[0m"
end

--- Text that came from outside, such as a manifest's name: its control characters
-- must not reach a terminal.
M.plain = errors.printable

local function clear()
  if drawn then io.stderr:write("\r\27[K") end
  drawn = false
end

local function say(how, colour, text)
  clear()
  io.stderr:write(M.coloured(colour, "theaterref:", 2) .. " " .. how .. M.plain(text) .. "\n")
end

--- Something that the user should know, on standard error.
function M.note(text)
  if not quiet then say("", "cyan", text) end
end

--- A line of the log, on standard error.
function M.log(level, line)
  say(level .. ": ", level == "error" and "red" or level == "warn" and "yellow" or "cyan", line)
end

-- ------------------------------------------------------------------- results

--- Standard output, as a file to write to; Ctrl-C ends it, though its reader may sleep.
M.standard = {}

function M.standard:write(bytes)
  local ok, why = core.write_stdout(bytes)
  if not ok then return nil, why end
  return self
end

function M.standard:flush() return self end

--- An error that is the command line's: the command ends with status 2.
-- @tparam string message
-- @treturn table
function M.usage_error(message)
  local err = errors.new("syntax", message)
  err.is_usage = true
  return err
end

--- Ends a command: prints what it has to show, and what failed.
-- @param result nil, a string, which becomes a line, or a blob, written as it is
-- @param err nil, or what failed
-- @tparam ?boolean as_json the failure as JSON, too
-- @treturn integer exit status
function M.finish(result, err, as_json)
  if type(result) == "string" and result ~= "" then result = result .. "\n" end
  local ok, why = true, nil
  if core.is_blob(result) and core.is_terminal(1) and result:sub(1, 1024):find "%z" then
    err = "refusing to write binary data to a terminal; use -o FILE or redirect"
  elseif result then
    ok, why = M.standard:write(result)
  end
  if not ok then err = errors.new("io", "Failed to write to standard output: " .. why) end
  if not err then return 0 end
  local status = errors.is(err) and err.is_usage and 2 or 1
  if core.interrupted() then err, status = errors.new("cancelled", "interrupted"), 128 + core.interrupt_signal() end
  if as_json then
    local about = errors.is(err) and { kind = err.kind, reference = err.reference, status = err.status } or {}
    about.message = tostring(err)
    clear()
    io.stderr:write(to_json { error = about }, "\n")
  else
    say("", "red", tostring(err))
  end
  return status
end

--- Writes a command's content to the file that its option `-o` names. `-` is standard
-- output, to which it goes when the command ends.
-- @tparam ?string path
-- @tparam theaterref.blob blob
-- @treturn ?boolean true; nil and an error
function M.write_content(path, blob)
  if not path or path == "-" then return true end
  return blob:write(path)
end

--- Content to show at the end of a command, unless it went to a file.
function M.show_content(data) return (not data.output or data.output == "-") and data.blob or nil end

-- -------------------------------------------------------------------- bars

local function with_bars() return not quiet and is_terminal(2) end

local function show(text, part, whole)
  local bar = ""
  if whole and whole > 0 then
    local filled = 30 * part // whole
    bar = ("%s%s %3d%%"):format(("#"):rep(filled), ("."):rep(30 - filled), 100 * part // whole)
  end
  io.stderr:write(("\r\27[K%s  %s"):format(text, bar))
  drawn = true
end

--- Waits for a future; on a terminal, with a bar that goes when it is done.
function M.wait(future)
  while with_bars() and not future:done() do
    future:wait(0.2)
    local received, total = future:progress()
    if not future:done() then show(("%9.1f MiB"):format(received / (1 << 20)), received, total) end
  end
  clear()
  return future:wait()
end

--- Runs 'work' with a function to call with how far it is; on a terminal that
-- is a bar, drawn ten times a second.
function M.with_bar(what, work)
  if not with_bars() then return work(function() end) end
  local last = 0
  local function finish(...)
    clear()
    return ...
  end
  return finish(work(function(part, whole)
    local now = core.now()
    if now - last < 0.1 then return end
    last = now
    show(what, part, whole)
  end))
end

return M
