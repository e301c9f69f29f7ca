--- Settings files that other programs change: each is checked once a second, and read again when it
-- has changed.
-- @module theaterref.watched
local core = require "theaterref.core"

local M = {}

local LOOK_SECONDS = 1
local MAX_FILES = 64

--- Returns a function that returns a file's document.
-- @tparam function read from a path: the document; or nil and an error
-- @treturn function from a path: the document; nil if there is no such file; or nil and an error
function M.reader(read)
  local files, count = {}, 0
  return function(path)
    local known, now = files[path], core.now()
    if known and now < known.looked + LOOK_SECONDS then return known.document, known.err end
    local stamp, err = core.file_stamp(path)
    if known and stamp and known.stamp == stamp then
      known.looked = now
      return known.document, known.err
    end
    local entry = { stamp = stamp, looked = now }
    if stamp then entry.document, entry.err = read(path)
    elseif err.kind ~= "not_found" then entry.err = err end
    if not known then
      if count >= MAX_FILES then files, count = {}, 0 end
      count = count + 1
    end
    files[path] = entry
    return entry.document, entry.err
  end
end

return M
