--- References: which scheme reads them, and how one is joined to the document that
-- names it. Each scheme is one file in `source/`; CONTRIBUTING describes what it has.
-- @module theaterref.reference
local core = require "theaterref.core"
local errors = require "theaterref.error"
local suggest = require "theaterref.suggest"

local M = {}

-- The schemes that theaterref reads, and their files. A file is loaded when its
-- scheme is first used.
local modules = { data = "data", file = "file", http = "http", https = "http", oci = "oci", s3 = "s3", store = "store" }

local sources = setmetatable({}, { __index = function(loaded, scheme)
  local name = modules[scheme]
  local source = name and require("theaterref.source." .. name)
  loaded[scheme] = source
  return source
end })

--- The scheme of a reference, in lower case: what stands in front of `://`, or `data`
-- for `data:…,…`. Nil for a path.
-- @tparam string reference
-- @treturn ?string
function M.scheme(reference)
  local scheme = reference:find("://", 1, true) and reference:match("^(%a[%w+.-]*)://")
  if scheme then return scheme:lower() end
  return reference:find("^[Dd][Aa][Tt][Aa]:[^,]*,") and "data" or nil
end

--- True if theaterref itself reads a scheme.
-- @tparam string scheme
-- @treturn boolean
function M.is_own_scheme(scheme) return modules[scheme] ~= nil end

--- True if the bytes that a reference means count as coming from the network: by http
-- and https, and by a policy's scheme, whose function may take them from anywhere.
-- @tparam string reference
-- @treturn boolean
function M.is_remote(reference)
  local scheme = M.scheme(reference)
  if not scheme then return false end
  local source = sources[scheme]
  return not source or source.is_remote()
end

-- Has a source parse a reference. Only a store sees one with a zero byte: it refuses that
-- in Theater's words.
local function parse(source, reference, scheme)
  if scheme ~= "store" and reference:find("\0", 1, true) then
    return nil, errors.new("invalid_reference", "Invalid reference: it has a zero byte in it", (reference:gsub("%z", "\\0")))
  end
  return source.parse(reference, scheme)
end

--- True if a reference means the same bytes for ever, by its form alone.
-- @tparam string reference
-- @treturn boolean
function M.is_immutable(reference)
  local scheme = M.scheme(reference)
  local source = scheme and sources[scheme]
  if not source or not source.is_immutable then return false end
  local parsed = parse(source, reference, scheme)
  return parsed ~= nil and source.is_immutable(parsed)
end

-- Returns the error for a scheme that nobody reads.
local function unknown_scheme(reference, scheme, schemes)
  local known, list = {}, {}
  for _, names in ipairs { modules, schemes or {} } do
    for name in pairs(names) do known[name] = true end
  end
  for name in pairs(known) do list[#list + 1] = name end
  table.sort(list)
  return nil, errors.new("invalid_reference", ("unknown scheme '%s'%s; known schemes: %s"):format(scheme,
    suggest.closest(scheme, known), table.concat(list, ", ")), reference)
end

--- The source that reads a reference, and the reference parsed; see CONTRIBUTING for a
-- source's functions.
-- @tparam string reference
-- @tparam ?table schemes a policy's own, by name
-- @treturn table
-- @treturn table as `parse` returns it
-- @return[2] nil
-- @treturn[2] table an error of kind `invalid_reference`
function M.source_of(reference, schemes)
  if reference == "" then return nil, errors.new("invalid_reference", "Invalid reference: it is empty", reference) end
  local scheme = M.scheme(reference) or "file"
  local source = sources[scheme] or schemes and schemes[scheme] and require "theaterref.source.script"
  if not source then return unknown_scheme(reference, scheme, schemes) end
  local parsed, err = parse(source, reference, scheme)
  if not parsed then return nil, err end
  return source, parsed
end

--- Parses a reference.
-- @tparam string reference
-- @tparam[opt] table schemes a policy's own, by name
-- @treturn table `scheme`, `text` (the reference in normal form: what rules see and
-- what is fetched), and by scheme: `path`; `id` and `hash` or `label`; `bytes`; `url`, `host`,
-- `port` and `sha256` or `sha1` (the digest its bytes must have); `registry`, `repository`,
-- `tag`, `manifest` (its digest) and `title`
-- @return[2] nil
-- @treturn[2] table an error of kind `invalid_reference`
function M.parse(reference, schemes)
  local source, parsed = M.source_of(reference, schemes)
  if not source then return nil, parsed end
  return parsed
end

-- True for a path that was meant as a data URL. Behind a folder, its text would be shown.
local function is_half_data(reference) return reference:find "^[Dd][Aa][Tt][Aa]:[^,]*$" ~= nil end

--- Joins a reference to the document at `base`: it is relative to the document's
-- folder, URL or store. A reference with a scheme stays as it is.
-- @tparam ?string base where the document came from; nil: nothing changes
-- @tparam string reference
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error of kind `invalid_reference`
function M.join(base, reference)
  if not base or M.scheme(reference) then return reference end
  if is_half_data(reference) then
    return nil, errors.new("invalid_reference", "Invalid reference: it looks like a data URL, which needs a comma in front of "
      .. "its text (a path begins with ./)", reference)
  end
  local scheme = M.scheme(base) or "file"
  local source = sources[scheme] or require "theaterref.source.script"
  local parsed, err = parse(source, base, scheme)
  if not parsed then return nil, err end
  return source.join(parsed, reference)
end

--- A reference to an artifact in a registry, at the digest of a manifest; others stay as
-- they are.
-- @tparam string ref
-- @tparam string manifest SHA-256 in hex
-- @treturn string
function M.at_digest(ref, manifest)
  local source, parsed = M.source_of(ref)
  return source and source.at_digest and source.at_digest(parsed, manifest) or ref
end

--- A reference that is meant as a manifest's: to an artifact in a registry, with the title
-- `manifest.toml`; others, and those that do not parse, stay as they are.
-- @tparam string ref
-- @tparam[opt] table schemes a policy's own, by name
-- @treturn string
function M.for_manifest(ref, schemes)
  local source, parsed = M.source_of(ref, schemes)
  return source and source.manifest and source.manifest(parsed) or ref
end

--- A path as an absolute one; other references stay as they are.
-- @tparam string reference
-- @treturn string
function M.absolute(reference)
  if is_half_data(reference) then reference = "./" .. reference end
  return (M.join(core.working_folder() .. "/", reference))
end

--- Returns a reference without what must not be shown, and not longer than a line.
-- @tparam string reference
-- @treturn string
function M.redact(reference) return errors.redact_reference(reference) end

return M
