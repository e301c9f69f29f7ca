--- References to artifacts: `oci://registry[:port]/repository[:tag][@sha256:<hex>][#title=<name>&sha256=<hex>]`.
--
-- Functions get a reference in its parsed form: `registry`, `host`, `port`, `repository`, `tag`, `ns`; `manifest`, the
-- digest of that; `title` and `sha256`, of a layer; `text`, its normal form, and `key`, that in caches.
-- @module theaterref.registry.reference
local core = require "theaterref.core"
local errors = require "theaterref.error"
local signatures = require "theaterref.registry.signatures"

local M = {}

local function invalid(reference, why) return nil, errors.new("invalid_reference", "Invalid reference: " .. why, reference) end

local function decode(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function encode(text)
  return (text:gsub("[^%w/._~-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- Reads the fields of a fragment into 'parsed'. Returns what is wrong with one, or nil.
local function read_fields(parsed, fragment)
  for field in (fragment .. "&"):gmatch "([^&]*)&" do
    local name, value = field:match "^([^=]*)=(.*)$"
    if name ~= "title" and name ~= "sha256" then return "after '#' it takes title=<name> and sha256=<64 hex digits>" end
    value = name == "sha256" and value:lower() or decode(value)
    if name == "sha256" and (#value ~= 64 or value:find "%X") then return "#sha256= takes 64 hex digits" end
    if value == "" or value:find "%c" then return "its title is empty, or has a control character in it" end
    if parsed[name] and parsed[name] ~= value then return ("#%s= is there twice, with different ones"):format(name) end
    parsed[name] = value
  end
end

--- The name of an artifact: what its requests depend on.
function M.artifact(parsed, tag, manifest)
  return ("oci://%s/%s%s%s%s"):format(parsed.registry, parsed.repository, tag and ":" .. tag or "",
    manifest and "@sha256:" .. manifest or "", parsed.ns and "?ns=" .. parsed.ns or "")
end

-- Sets the texts of a reference in normal form.
local function set_texts(parsed)
  local title = parsed.title and "#title=" .. encode(parsed.title) or ""
  -- A digest wins over a tag.
  parsed.artifact = M.artifact(parsed, not parsed.manifest and parsed.tag or nil, parsed.manifest)
  parsed.key = parsed.artifact .. title
  parsed.text = M.artifact(parsed, parsed.tag, parsed.manifest) .. title
    .. (parsed.sha256 and (title == "" and "#" or "&") .. "sha256=" .. parsed.sha256 or "")
  return parsed
end

-- The last references that were parsed: most are parsed again.
local known, known_count = {}, 0

--- Parses a reference.
-- @tparam string reference
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error
function M.parse(reference)
  if known[reference] then return known[reference] end
  local parsed, fault = core.parse_oci(reference)
  if not parsed then return invalid(reference, fault) end
  parsed.scheme = "oci"
  if parsed.fragment then
    fault = read_fields(parsed, parsed.fragment)
    if fault then return invalid(reference, fault) end
    parsed.fragment = nil
  end
  if not parsed.tag and not parsed.manifest then parsed.tag = "latest" end
  set_texts(parsed)
  if known_count >= 256 then known, known_count = {}, 0 end
  if #reference <= 4096 then known[reference], known_count = parsed, known_count + 1 end
  return parsed
end

-- Returns a copy of a parsed reference with other fields.
local function with(parsed, changes)
  local copy = {}
  for name, value in pairs(parsed) do copy[name] = value end
  for name, value in pairs(changes) do copy[name] = value or nil end
  return set_texts(copy)
end

--- Another title of the same artifact. It is written like a file name, without %XX, because manifests
-- name the files beside them that way before they are pushed.
function M.join(base, reference)
  local title = reference:gsub("^%./", "")
  if title == "" or title:find "[%c#?]" or reference:find "[#?]" then
    return invalid(reference, ("%s cannot be the title of a layer, as relative references in a manifest from a registry are")
      :format(errors.redact_reference(reference)))
  end
  return with(base, { title = title, sha256 = false }).text
end

--- The same artifact, at the manifest digest that was read.
function M.at_digest(parsed, manifest) return with(parsed, { manifest = manifest }).text end

--- A reference to a manifest in Theater's sense: the layer with that name, unless it names one.
function M.manifest(parsed) return parsed.title and parsed.text or with(parsed, { title = "manifest.toml" }).text end

--- A reference to signatures. A tag of cosign's means all signatures under it, as one document, with
-- another key in caches than the tag's layer.
function M.as_signature(parsed)
  if parsed.title or parsed.manifest or parsed.sha256 or not signatures.read_tag(parsed.tag) then return parsed end
  local copy = with(parsed, {})
  copy.is_gathered, copy.key = true, copy.artifact .. "#signatures"
  return copy
end

--- The references where signatures of a manifest may be.
function M.signature_places(parsed, digest)
  local places = {}
  for i, tag in ipairs(signatures.tags(digest)) do
    places[i] = with(parsed, { tag = tag, manifest = false, title = false, sha256 = false }).text
  end
  return places
end

--- The key in caches of the document that an artifact's tag leads to.
function M.document_key(parsed) return parsed.artifact .. "#" end

--- Further keys of a reference in caches: its tag's document, and its form as a manifest.
function M.other_keys(parsed)
  local keys = not parsed.manifest and { M.document_key(parsed) } or {}
  if not parsed.title then keys[#keys + 1] = with(parsed, { title = "manifest.toml" }).key end
  return keys
end

return M
