-- Shared by the specs of followers: a folder of their own, files that are replaced at once, and followers that are
-- closed at the end.
local helper = require "helper"
local theaterref = require "theaterref"

local M = {}

local folder, followers

--- Begins a spec. Returns its folder.
function M.begin()
  folder, followers = helper.temporary_folder(), {}
  return folder
end

--- Ends it.
function M.finish()
  for _, follower in ipairs(followers) do follower:close() end
  helper.remove(folder)
end

function M.resolver(options)
  local all = { log = false, retries = 0 }
  for name, value in pairs(options or {}) do all[name] = value end
  return assert(theaterref.resolver(all))
end

--- Follows a reference. Returns the follower, and the lists of what it called back with.
function M.follow(ref, options, from)
  local seen, failed = {}, {}
  local all = { interval = 3600, jitter = 0, on_error = function(err) failed[#failed + 1] = err end }
  for name, value in pairs(options or {}) do all[name] = value end
  local follower = assert((from or M.resolver()):follow(ref, function(blob, reference)
    assert(reference == ref)
    seen[#seen + 1] = tostring(blob)
  end, all))
  followers[#followers + 1] = follower
  return follower, seen, failed
end

--- Has a follower that a spec made itself closed, too.
function M.add(follower) followers[#followers + 1] = follower end

--- Writes a file of the spec's folder by a rename: nobody sees a part. Returns its path.
function M.write(name, text)
  local path = folder .. "/" .. name
  helper.write(path .. ".new", text)
  assert(os.rename(path .. ".new", path))
  return path
end

--- Waits for new content, for ten seconds at most. Returns its text.
function M.await(follower) return tostring(assert(follower:wait(10))) end

--- Checks that there is no new content for a moment.
function M.silent(follower) assert(select(2, follower:wait(0.1)).kind == "timeout") end

return M
