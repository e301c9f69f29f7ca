--- Copies artifacts with all their layers and referrers.
-- @module theaterref.publish.copy_all
local artifacts = require "theaterref.registry.artifact"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local json = require "theaterref.manifest.json"
local loads = require "theaterref.resolve.load"
local reference = require "theaterref.reference"
local signatures = require "theaterref.registry.signatures"
local targets = require "theaterref.publish.target"

local M = {}

-- An artifact on its way: the task that copies it, the sessions of both sides, how many documents and blobs were copied, how
-- many documents were read, and, by digest, what is there: `copied` documents, `asked` for what refers
-- to them, and `sent` blobs.
local Transfer = {}
Transfer.__index = Transfer

local MAX_DEPTH, MAX_READ = 4, 1000

local function is_digest(text) return type(text) == "string" and #text == 71 and text:find "^sha256:[%da-f]+$" ~= nil end

local function list_of(value) return type(value) == "table" and value or {} end

-- Returns the descriptors of a document: of blobs, and of other documents.
local function descriptors_of(document)
  local blobs, documents = {}, {}
  local function add(list, descriptor)
    if type(descriptor) ~= "table" or not is_digest(descriptor.digest) or math.type(descriptor.size) ~= "integer" then
      return errors.new("syntax", "the document is malformed: a descriptor in it has no digest or size")
    end
    list[#list + 1] = descriptor
  end
  local err
  if type(document.config) == "table" then err = add(blobs, document.config) end
  for _, layer in ipairs(list_of(document.layers)) do err = err or add(blobs, layer) end
  for _, entry in ipairs(list_of(document.manifests)) do err = err or add(documents, entry) end
  if err then return nil, err end
  return blobs, documents
end

-- Reads a document of the source.
function Transfer:read(name, optional)
  local blob, digest, media_type = self.source:document(name, optional)
  if blob then self.read_count = self.read_count + 1 end
  if self.read_count <= MAX_READ then return blob, digest, media_type end
  return nil, errors.new("too_large", ("it leads to more than %d documents"):format(MAX_READ))
end

-- Copies a blob, unless the target has it. 'await' waits for its requests.
function Transfer:copy_blob(descriptor, await)
  local digest = descriptor.digest:sub(8)
  if self.sent[digest] then return true end
  if descriptor.size > self.max_bytes or descriptor.size < 0 then
    return nil, errors.new("too_large", ("a layer in it is larger than the limit of %s (max_bytes)"):format(
      errors.bytes(self.max_bytes)))
  end
  self.sent[digest] = true
  local source, target, size = self.source:awaited_by(await), self.target:awaited_by(await), descriptor.size
  local ok, is_sent = target:copy_blob(digest, size, function() return source:blob(digest, size) end)
  if not ok then return nil, is_sent end
  if is_sent then self.blobs = self.blobs + 1 end
  return true
end

-- Returns the media type to write a document as.
local function media_type_of(document, media_type)
  local own = document.mediaType
  return type(own) == "string" and own:find "^[%w][%w!#$&^_.+/-]*$" and #own <= 255 and own or media_type or artifacts.MANIFEST
end

-- Returns a text that tells an entry from others: its digest, and the signature, as two keys may sign the
-- same payload. Empty: it is malformed.
local function name_of_entry(entry)
  if type(entry) ~= "table" or type(entry.digest) ~= "string" then return "" end
  local signature = list_of(entry.annotations)[signatures.ANNOTATION]
  return entry.digest .. (type(signature) == "string" and " " .. signature or "")
end

-- Adds to a document of the source the entries or layers that only the target's document has under the
-- same tag, so that nothing in the target is lost. Returns the document to write, and its media type;
-- nil if there is nothing to write; or nil and an error.
function Transfer:merged(blob, media_type, name)
  local there, err = self.target:document(name, true)
  if not there then return not err and blob or nil, err or media_type end
  if there:digest() == blob:digest() then return nil end
  local ours, theirs
  ours, err = artifacts.decode(blob)
  if ours then theirs, err = artifacts.decode(there) end
  if not theirs then return nil, err end
  local field = theirs.manifests and "manifests" or "layers"
  if type(theirs[field]) ~= "table" or type(ours[field]) ~= "table" then
    return nil, errors.new("denied", ("the target has another kind of document as %s, which would be lost"):format(name))
  end
  local has, before = {}, #theirs[field]
  for _, entry in ipairs(theirs[field]) do has[name_of_entry(entry)] = true end
  for _, entry in ipairs(ours[field]) do
    local key = name_of_entry(entry)
    if key ~= "" and not has[key] then has[key], theirs[field][#theirs[field] + 1] = true, entry end
  end
  if #theirs[field] == before then return nil end
  local text
  text, err = json.encode(theirs)
  if not text then return nil, err end
  return core.blob(text), media_type_of(theirs, media_type)
end

-- Writes a document under a tag that tools share, and keeps the target's entries.
function Transfer:put_shared(blob, media_type, name)
  return targets.until_kept(name, function()
    local merged, of_type = self:merged(blob, media_type, name)
    if not merged then return of_type == nil, of_type end
    self.documents = self.documents + 1
    local ok, err = self.target:put_document(name, merged, of_type)
    return not ok and ok, err
  end)
end

-- Copies everything that a document names, and then the document, under a name. 'is_shared': others
-- write to the same tag.
function Transfer:copy_document(blob, media_type, name, depth, is_shared)
  local known = self.copied[name]
  if known then return known.digest, known.is_listed end
  local document, err = artifacts.decode(blob)
  local blobs, documents
  if document then blobs, documents = descriptors_of(document) end
  if not blobs then return nil, err or documents end
  if depth > MAX_DEPTH then return nil, errors.new("syntax", "the index leads to an index that leads to another") end
  for _, entry in ipairs(documents) do
    if not self.copied[entry.digest] then
      local inner, digest, of_type = self:read(entry.digest)
      if not inner then return nil, digest end
      local ok
      ok, err = self:copy_document(inner, of_type, entry.digest, depth + 1)
      if not ok then return nil, err end
      ok, err = self:copy_referrers(digest, depth)
      if not ok then return nil, err end
    end
  end
  local sent
  sent, err = targets.side_by_side(self.task, blobs, function(descriptor, await) return self:copy_blob(descriptor, await) end)
  if not sent then return nil, err end
  media_type = media_type_of(document, media_type)
  if is_shared then return self:put_shared(blob, media_type, name) end
  self.documents = self.documents + 1
  local digest, is_listed = self.target:put_document(name, blob, media_type)
  if digest then self.copied[name] = { digest = digest, is_listed = is_listed } end
  return digest, is_listed
end

-- Copies the documents in a registry's list of referrers. A target without such a list gets the tag
-- that other tools use instead.
function Transfer:copy_listed(index, digest, depth)
  local is_listed = true
  for _, entry in ipairs(index.manifests) do
    if type(entry) ~= "table" or not is_digest(entry.digest) then
      return nil, errors.new("syntax", "the list of what refers to a manifest has an entry without a digest")
    end
    local inner, fault, of_type
    if not self.copied[entry.digest] then
      inner, fault, of_type = self:read(entry.digest)
      if not inner then return nil, fault end
    end
    local ok, listed = self:copy_document(inner, of_type, entry.digest, depth + 1)
    if not ok then return nil, listed end
    is_listed = is_listed and listed
  end
  if is_listed then return true end
  local text, err = json.encode(index)
  if not text then return nil, err end
  return self:put_shared(core.blob(text), artifacts.INDEX, "sha256-" .. digest)
end

-- Copies a document's referrers, such as signatures: those in the registry's list, and those in the
-- tags that other tools keep.
function Transfer:copy_referrers(digest, depth)
  if depth >= MAX_DEPTH or self.asked[digest] then return true end
  self.asked[digest] = true
  local index, err = self.source:referrers(digest)
  if err then return nil, err end
  if index then
    local ok
    ok, err = self:copy_listed(index, digest, depth)
    if not ok then return nil, err end
  end
  for _, suffix in ipairs { "", ".sig", ".att", ".sbom" } do
    local name = "sha256-" .. digest .. suffix
    local inner, why, of_type = self:read(name, true)
    if why and not inner then return nil, why end
    if inner then
      local ok
      ok, err = self:copy_document(inner, of_type, name, depth + 1, true)
      if not ok then return nil, err end
    end
  end
  return true
end

-- True if all layers of a document are among those of another.
local function shares_layers(document, other)
  local has, layers = {}, list_of(document.layers)
  for _, layer in ipairs(list_of(other.layers)) do has[type(layer) == "table" and layer.digest or ""] = true end
  for _, layer in ipairs(layers) do
    if type(layer) ~= "table" or not is_digest(layer.digest) or not has[layer.digest] then return false end
  end
  return layers[1] ~= nil
end

-- Copies the package alone, as `push` writes it for tools that want one layer, if its tag has only layers of
-- the artifact, which the rules have seen. Returns the digest of its manifest; nil if there is none; or nil
-- and an error.
function Transfer:copy_package(artifact, from_tag, to_tag)
  from_tag, to_tag = from_tag .. targets.PACKAGE, to_tag .. targets.PACKAGE
  if math.max(#from_tag, #to_tag) > targets.MAX_TAG_BYTES then return nil end
  local blob, digest, media_type = self:read(from_tag, true)
  if not blob then return nil, digest end
  local document, whole = artifacts.decode(blob), artifacts.decode(artifact)
  if not document or not whole or not shares_layers(document, whole) then return nil end
  local ok, err = self:copy_referrers(digest, 0)
  if not ok then return nil, err end
  ok, err = self:copy_document(blob, media_type, to_tag, 0)
  if not ok then return nil, err end
  return digest
end

-- Applies the rules about bytes, the lockfile and the option `signatures` to a reference, if there are
-- any. Returns the digest of the manifest that passed, or nil and perhaps an error.
local function judge(task, context, parsed)
  if not (context.judges or context.lockfile or context.asks.integrity) then return nil end
  local wish = { reference = targets.judged(context, parsed), ctx = { purpose = "direct" }, options = {} }
  local blob, err = loads.resolve_as_is(task, context, wish)
  if not blob or wish.manifest then return blob and wish.manifest, err end
  return nil, errors.new("denied", ("Not allowed: %s: these bytes come from a store, and no rule gives the digest of their "
    .. "manifest"):format(reference.redact(parsed.text)), parsed.text)
end

--- Copies an artifact with all its layers and referrers; no digest changes. The rules judge the layer
-- that `from` names, and its manifest is the one that is copied.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string from
-- @tparam string to
-- @treturn table `reference`, `digest`; `documents` and `blobs`: how many were sent; `package_reference`, of
-- the package alone, if that was copied, too
-- @return[2] nil
-- @treturn[2] table an error
function M.copy_all(task, context, from, to)
  local source, err = targets.parse(from, "a copy of all layers")
  local target
  if source then target, err = targets.parse(to, "a copy of all layers") end
  if not target then return nil, err end
  if target.ns or target.title or source.title then
    return nil, errors.new("invalid_reference", "a copy of all layers goes from an artifact to an artifact: without a title", to)
  end
  local judged
  local transfer = setmetatable({ task = task, documents = 0, blobs = 0, read_count = 0, copied = {}, asked = {}, sent = {},
    max_bytes = context:max_bytes {} }, Transfer)
  transfer.source, err = targets.open_allowed(task, context, source)
  if transfer.source then judged, err = judge(task, context, source) end
  if err then return nil, err end
  local mounts = source.registry == target.registry and source.repository ~= target.repository
  transfer.target = targets.open(task, context, target, "pull,push", mounts and source.repository or nil)
  local blob, digest, media_type = transfer.source:document(judged and "sha256:" .. judged or targets.name_of(source))
  if not blob then return nil, digest end
  if target.manifest and target.manifest ~= digest then
    return nil, errors.new("digest_mismatch", ("%s has the manifest %s"):format(reference.redact(from), digest), to)
  end
  local ok, package
  ok, err = transfer:copy_referrers(digest, 0)
  if ok then ok, err = transfer:copy_document(blob, media_type, targets.name_of(target), 0) end
  if ok and source.tag and not target.manifest then -- last: a tag that is refused has none beside it
    package, err = transfer:copy_package(blob, source.tag, target.tag)
    ok = not err
  end
  if not ok then return nil, errors.of_write(err, to) end
  return { reference = targets.written(target, digest), digest = digest, documents = transfer.documents, blobs = transfer.blobs,
    package_reference = package and targets.package_reference(target, package) }
end

return M
