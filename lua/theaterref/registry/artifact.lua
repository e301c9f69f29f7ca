--- Artifacts of WebAssembly: their documents. The same input always gives the same bytes.
-- @module theaterref.registry.artifact
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

M.MANIFEST = "application/vnd.oci.image.manifest.v1+json"
M.INDEX = "application/vnd.oci.image.index.v1+json"
M.CONFIG = "application/vnd.wasm.config.v0+json"
M.WASM = "application/wasm"
M.OCTETS = "application/octet-stream"
M.TITLE = "org.opencontainers.image.title"

-- The same for every push, so that the same bytes have the same digest.
local CREATED = "1970-01-01T00:00:00Z"

-- JSON with the fields of an object in the order of a list of pairs.
local function object(pairs_list)
  local parts = {}
  for i, pair in ipairs(pairs_list) do parts[i] = core.json_quote(pair[1]) .. ":" .. pair[2] end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function texts(by_name)
  local names, list = {}, {}
  for name in pairs(by_name) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do list[i] = { name, core.json_quote(by_name[name]) } end
  return object(list)
end

local function descriptor(media_type, digest, size, annotations)
  local fields = { { "mediaType", core.json_quote(media_type) }, { "digest", core.json_quote("sha256:" .. digest) },
    { "size", tostring(size) } }
  if annotations then fields[#fields + 1] = { "annotations", texts(annotations) } end
  return object(fields)
end

--- Makes the documents of an artifact.
-- @tparam table layers a list of `{ title =, media_type =, blob =, digest = }`
-- @tparam table annotations of the manifest
-- @treturn theaterref.blob the manifest
-- @treturn theaterref.blob the configuration that it names
function M.documents(layers, annotations)
  local digests, descriptors = {}, {}
  for i, layer in ipairs(layers) do
    layer.digest = layer.digest or layer.blob:digest()
    digests[i] = core.json_quote("sha256:" .. layer.digest)
    descriptors[i] = descriptor(layer.media_type, layer.digest, #layer.blob, { [M.TITLE] = layer.title })
  end
  local config = core.blob(object { { "created", core.json_quote(CREATED) }, { "architecture", '"wasm"' }, { "os", '"wasip1"' },
    { "layerDigests", "[" .. table.concat(digests, ",") .. "]" } })
  local fields = { { "schemaVersion", "2" }, { "mediaType", core.json_quote(M.MANIFEST) },
    { "config", descriptor(M.CONFIG, config:digest(), #config) }, { "layers", "[" .. table.concat(descriptors, ",") .. "]" } }
  if next(annotations) then fields[#fields + 1] = { "annotations", texts(annotations) } end
  return core.blob(object(fields)), config
end

local function text(value) return type(value) == "string" and value ~= "" and value or nil end

--- The annotations of an artifact, from a manifest in Theater's sense.
-- @tparam table manifest
-- @treturn table
function M.annotations(manifest)
  local found = { title = text(manifest.name), version = text(manifest.version), description = text(manifest.description),
    source = text(manifest.source) or text(manifest.repository), licenses = text(manifest.licenses) or text(manifest.license)
      or text(manifest.licences) or text(manifest.licence) }
  local annotations = {}
  for name, value in pairs(found) do annotations["org.opencontainers.image." .. name] = value end
  return annotations
end

--- The error for bytes that are a component, which other tools push.
-- @tparam theaterref.blob blob
-- @tparam string what
-- @treturn ?table nil: they are none
function M.component_fault(blob, what)
  if blob:sub(1, 8) ~= "\0asm\13\0\1\0" then return nil end
  return errors.new("syntax", ("%s is a component, not a core module; push it with 'wkg oci push', or copy it from a registry "
    .. "with 'theaterref copy --all'"):format(errors.redact_reference(what)))
end

--- The error for a package that is no core module.
-- @tparam theaterref.blob blob
-- @tparam string what
-- @treturn ?table nil: it is one
function M.module_fault(blob, what)
  local kind, why = blob:wasm_type()
  if kind == "module" then return nil end
  local component = M.component_fault(blob, what)
  if component then return component end
  return errors.new("syntax", ("%s is not a WebAssembly module: %s"):format(errors.redact_reference(what), why or kind))
end

--- The media type of a layer with these bytes.
-- @tparam theaterref.blob blob
-- @treturn string
function M.media_type(blob) return blob:wasm_type() and M.WASM or M.OCTETS end

--- Returns a reference as the title of a layer. That must be a path that every tool may take for a
-- file's name.
-- @tparam string reference as a manifest has it
-- @treturn string
-- @return[2] nil
-- @treturn[2] string why it cannot be one
function M.title_of(reference)
  local title = reference:gsub("^%./", "")
  if title == "" then return nil, "it is empty" end
  if #title > 255 then return nil, "it is longer than 255 bytes" end
  if not utf8.len(title) then return nil, "it is not UTF-8" end
  if title:find "^/" then return nil, "it is an absolute path" end
  if title:find "^%a[%w+.-]*:" then return nil, "it has a scheme" end
  local bad = title:match "[%c#?\\]"
  if bad then return nil, bad:find "%c" and "it has a control character in it" or ("it has a '%s' in it"):format(bad) end
  for part in (title .. "/"):gmatch "([^/]*)/" do
    if part == "" then return nil, "it has an empty part" end
    if part == "." or part == ".." then return nil, ("it has the part '%s'"):format(part) end
  end
  return title
end

local MAX_VALUES = 100000

--- Decodes a document. Its objects and arrays are counted first: in memory, empty ones take fifty times their
-- size.
-- @tparam theaterref.blob blob
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error
function M.decode(blob)
  local encoded = tostring(blob)
  if #encoded > MAX_VALUES and select(2, encoded:gsub("[{%[]", "")) > MAX_VALUES then
    return nil, errors.new("too_large", ("the document has more than %d objects and arrays"):format(MAX_VALUES))
  end
  local ok, document = pcall(core.json_decode, encoded)
  if ok and type(document) == "table" and getmetatable(document) ~= core.json_array then return document end
  return nil, errors.new("syntax", "the document is malformed: it is no JSON object")
end

return M
