--- Lockfiles: the digest of each reference's bytes.
--
-- A line is a hex SHA-256, two spaces and a reference, as sha256sum writes
-- them; a `#` begins a comment. Paths below the lockfile's folder are relative
-- to it, so that a project may be moved.
-- @module theaterref.policy.lockfile
local core = require "theaterref.core"
local errors = require "theaterref.error"
local reference = require "theaterref.reference"

local M = {}

local MAX_BYTES = 16 << 20

--- Reads a lockfile.
-- @tparam string path
-- @treturn table hex digests by reference
-- @return[2] nil
-- @treturn[2] table an error
function M.read(path)
  local text, err = core.read_file(path, MAX_BYTES)
  if not text then return nil, err end
  local digests, number = {}, 0
  for line in (tostring(text) .. "\n"):gmatch "(.-)\r?\n" do
    number = number + 1
    local digest, ref = line:match "^(%x+)  (.+)$"
    if digest and #digest == 64 then
      digests[reference.join(reference.absolute(path), ref)] = digest:lower()
    elseif not line:match "^%s*#" and not line:match "^%s*$" then
      return nil, errors.new("syntax", ("%s:%d: not a line of a lockfile: a SHA-256, two spaces and a reference were expected")
        :format(path, number))
    end
  end
  return digests
end

--- The same, for rules: raises the error.
function M.read_or_raise(path)
  local digests, err = M.read(path)
  return digests or error(tostring(err), 0)
end

--- The text of a lockfile.
-- @tparam table digests hex digests by reference
-- @tparam string path where it will lie
-- @treturn string its text, sorted by reference
function M.text(digests, path)
  local folder, lines = reference.absolute(path):match "^(.*/)", {}
  for ref, digest in pairs(digests) do
    ref = reference.absolute(ref)
    if ref:sub(1, #folder) == folder then ref = ref:sub(#folder + 1) end
    lines[#lines + 1] = digest .. "  " .. ref
  end
  table.sort(lines, function(a, b) return a:sub(67) < b:sub(67) end)
  return "# Written by 'theaterref lock': the SHA-256 of each reference's bytes.\n" .. table.concat(lines, "\n") .. "\n"
end

return M
