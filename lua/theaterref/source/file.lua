--- Paths, and `file:///path` (RFC 8089).
-- @module theaterref.source.file
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

--- The advice for a path or a label that ends as a URL with a digest does.
M.NO_DIGEST = "a digest after '#' is for http and https; elsewhere the policy's rule 'integrity' asks for one"

local function invalid(reference, why) return nil, errors.new("invalid_reference", why, reference) end

-- Returns the path of `file:///path` or `file://localhost/path`, with %XX decoded.
local function path_of_url(reference)
  local host, path = reference:match "^%a+://([^/]*)(/[^?#]*)$"
  if not path or host ~= "" and host:lower() ~= "localhost" then return nil end
  return (path:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

function M.parse(reference, scheme)
  local path = reference
  if scheme == "file" and reference:find "^%a+://" then
    path = path_of_url(reference)
    if not path then
      return invalid(reference, "Invalid file URL: " .. reference .. " (it has the form file:///path)")
    end
  end
  if path:find("\0", 1, true) then return invalid(reference, "Invalid path: it has a zero byte in it") end
  return { scheme = "file", text = reference, path = path }
end

function M.join(base, reference)
  if reference:find "^/" then return reference end
  local path = base.path
  if not path:find "^/" then path = core.working_folder() .. "/" .. path end
  path = path:match "^(.*/)" .. reference
  if not path:find("/./", 1, true) then return path end
  return (path:gsub("/%./", "/"):gsub("/%./", "/"))
end

function M.key(parsed) return parsed.text end

function M.beside(parsed, ending) return parsed.text .. ending end

--- Keeps a relative path apart in each working folder, where it means another file, and a
-- path that a rule has judged by where its links led.
function M.place(parsed)
  if parsed.settled then return "file " .. parsed.settled end
  return not parsed.path:find "^/" and core.working_folder() or nil
end

function M.is_remote() return false end

-- True for what may be a pipe without a name that this process has open, as a shell passes it.
-- Only the pipe is read then: no other file can take its place.
local function is_open_pipe(path)
  return (path == "/dev/stdin" or path:find "^/dev/fd/%d+$" or path:find "^/proc/self/fd/%d+$") and core.is_pipe(path)
end

--- Returns the path that will be opened: without links, for rules to judge; that of a pipe
-- without a name as it is written. Nil if there is none; then nothing will be opened.
function M.settle(parsed)
  parsed.settled, parsed.fault = core.real_path(parsed.path)
  parsed.pipe = not parsed.settled and is_open_pipe(parsed.path)
  if parsed.pipe then parsed.settled, parsed.fault = parsed.path, nil end
  return parsed.settled
end

-- Returns the advice for a missing path that may have been meant as a URL, or nil.
local function hint(path)
  if path:find "#sha%d+=" then return " (" .. M.NO_DIGEST .. ")" end
  local scheme = path:match "^(%a+):"
  scheme = scheme and scheme:lower()
  if scheme == "data" then return " (it looks like a data URL, which needs a comma: data:,text)" end
  if scheme == "http" or scheme == "https" or scheme == "store" or scheme == "file" then
    return (" (it looks like %s %s reference, which begins with %s://)"):format(scheme:find "^http" and "an" or "a", scheme,
      scheme)
  end
end

--- The path that a follower watches.
function M.watched(parsed) return parsed.path end

--- A text that changes when the file does; and true if it has changed a moment ago.
function M.probe(job) return core.file_version(job.parsed.settled or job.parsed.path) end

function M.start(job, context)
  local path, settled, blob, err = job.parsed.path, job.parsed.settled, nil, job.parsed.fault
  local read = job.parsed.pipe and core.read_pipe or settled and core.read_settled or core.read_file
  if not err then blob, err = read(settled or path, context:max_bytes(job)) end
  if blob then return { blob = blob } end
  local meant = err.kind == "not_found" and hint(path)
  if meant then err.message = err.message .. meant end
  return nil, err
end

return M
