--- Lockfiles: what each reference's bytes must be.
--
-- The first line is `theaterref lockfile 1`. Every other line has fields, two spaces, and
-- the reference, as it is fetched. Fields are separated by single spaces; `sha256=` is
-- always there; a line for `oci://` also has `manifest=`, the digest of the manifest that leads to
-- the bytes, and one for `s3://` may have `version=`, the version of the object. A `#` begins a
-- comment. Paths below the lockfile's folder are relative to it, so that a project may be moved. A
-- lockfile holds no secrets: URLs have no user or password, and a hash in place of their query.
--
--     theaterref lockfile 1
--     sha256=5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03 size=6  actor.wasm
-- @module theaterref.policy.lockfile
local core = require "theaterref.core"
local errors = require "theaterref.error"
local reference = require "theaterref.reference"

local M = {}

local MAX_BYTES = 16 << 20
local FAMILY = "theaterref lockfile" -- of all versions
local HEADER = FAMILY .. " 1"

--- The path without links of a lockfile, also of one that is yet to be written. Nil if it cannot be.
-- @tparam string path
-- @treturn ?string
function M.file_of(path) return core.real_path(path) or (core.output_path(path)) end

-- The folder that a lockfile's paths are relative to: its own, even if a link leads to it.
local function folder_of(path)
  local folder = reference.absolute(path):match "^(.*/)"
  local real, real_folder = M.file_of(path), core.real_path(folder)
  real = real and real:match "^(.*/)"
  return real and real_folder and real ~= (real_folder .. "/"):gsub("^//", "/") and real or folder
end

--- Returns the form of a reference in a lockfile, not cut: a path is absolute, and keeps each
-- byte; a URL has no user or password, and `?…` and a hash in place of its query, which may
-- hold a signature.
-- @tparam string ref
-- @treturn string
function M.key(ref)
  if not reference.is_remote(ref) then return reference.absolute(ref) end
  local before, query, fragment = ref:match "^([^?#]*)%?([^#]*)(.*)$"
  if not query then return core.redact_reference(ref) end
  if not query:find "^…%x+$" then query = "…" .. core.blob(query):digest("sha256"):sub(1, 16) end
  return core.redact_reference(before) .. "?" .. query .. fragment
end

local EXPECTED = "not a line of a lockfile: sha256=<64 hex digits>, two spaces and a reference were expected"

-- Returns the fields of a line by name, and its reference; or nil and what is wrong.
local function parse_line(line)
  local gap = line:find("  ", 1, true)
  if not gap then return nil, EXPECTED end
  local words, ref = line:sub(1, gap - 1), line:sub(gap + 2)
  if ref == "" or ref:find "%c" then return nil, EXPECTED end
  local fields = {}
  for word in words:gmatch "[^ ]+" do
    local name, value = word:match "^([%l%d_]+)=(%S+)$"
    if not name then return nil, EXPECTED end
    if fields[name] and fields[name] ~= value then return nil, ("it has two values of '%s'"):format(name) end
    fields[name] = value
  end
  local sha256 = fields.sha256
  if not sha256 or #sha256 ~= 64 or not sha256:find "^%x+$" then return nil, EXPECTED end
  if fields.size and not (fields.size:find "^%d+$" and math.tointeger(tonumber(fields.size))) then
    return nil, "its size is not a number of bytes"
  end
  fields.sha256 = sha256:lower()
  return fields, ref
end

-- True if two lines have the same fields.
local function are_same(fields, others)
  for name, value in pairs(fields) do
    if tostring(others[name]) ~= tostring(value) then return false end
  end
  for name in pairs(others) do
    if fields[name] == nil then return false end
  end
  return true
end

--- Reads a lockfile, which must be a regular file.
-- @tparam string path
-- @treturn table the fields of each line, by reference; paths are absolute
-- @return[2] nil
-- @treturn[2] table an error
-- @treturn[2] ?boolean true if it is a lockfile all the same, of another version or empty
function M.read(path)
  local blob, err = core.read_file(path, MAX_BYTES, true)
  if not blob then
    if err.kind ~= "not_found" then return nil, err end
    return nil, errors.new("not_found", ("cannot open lockfile \"%s\": no such file (write one with 'theaterref lock -o %s "
      .. "MANIFEST')"):format(path, path))
  end
  local text, folder = tostring(blob), folder_of(path)
  if text:match "^[^\r\n]*" ~= HEADER then
    local is_one = text == "" or text:sub(1, #FAMILY) == FAMILY
    return nil, errors.new("syntax", ("%s:1: the first line of a lockfile is '%s'; %s"):format(path, HEADER,
      is_one and ("write it anew with 'theaterref lock --prune -o %s MANIFEST'"):format(path) or "this is another file")), is_one
  end
  local lines, number = {}, 0
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    line = line:gsub("\r$", "")
    local fields, ref = parse_line(line)
    if fields then
      local key = M.key(reference.join(folder, ref) or folder .. ref)
      if lines[key] and not are_same(lines[key], fields) then
        return nil, errors.new("syntax", ("%s:%d: an earlier line says something else about this reference; remove one, "
          .. "or write the lockfile anew with 'theaterref lock --prune'"):format(path, number))
      end
      lines[key] = fields
    elseif number > 1 and line ~= "" and line:sub(1, 1) ~= "#" then
      return nil, errors.new("syntax", ("%s:%d: %s"):format(path, number, ref))
    end
  end
  return lines
end

--- The same, for rules: raises the error.
function M.read_or_raise(path)
  local lines, err = M.read(path)
  return lines or error(tostring(err), 0)
end

--- The text of a lockfile.
-- @tparam table lines fields by reference
-- @tparam string path where it will lie
-- @treturn string its text, sorted by reference
-- @return[2] nil
-- @treturn[2] table an error, when a reference cannot stand on a line
function M.text(lines, path)
  local folder, sorted, written = folder_of(path), {}, {}
  for ref, fields in pairs(lines) do
    if ref:find "%c" then
      return nil, errors.new("invalid_reference", "a reference with a control character cannot be locked", ref:gsub("%c", "?"))
    end
    ref = M.key(ref)
    if written[ref] and not are_same(written[ref], fields) then
      return nil, errors.new("invalid_reference", "two references that differ in their user or password only have "
        .. "different bytes, and cannot both be locked", ref)
    end
    local is_new = not written[ref]
    written[ref] = fields
    if ref:sub(1, #folder) == folder then
      ref = ref:sub(#folder + 1)
      if reference.scheme(ref) or ref:find "^[Dd][Aa][Tt][Aa]:" then ref = "./" .. ref end -- a file with such a name
    end
    local words = {}
    for name, value in pairs(fields) do words[#words + 1] = name .. "=" .. value end
    table.sort(words)
    if is_new then sorted[#sorted + 1] = { ref, table.concat(words, " ") .. "  " .. ref } end
  end
  table.sort(sorted, function(a, b) return a[1] < b[1] end)
  local out = { HEADER, "# Written by 'theaterref lock': the digest and the size of each reference's bytes." }
  for _, line in ipairs(sorted) do out[#out + 1] = line[2] end
  return table.concat(out, "\n") .. "\n"
end

return M
