--- Signatures of artifacts, as cosign keeps them in a registry: under a tag beside the
-- artifact, or as sigstore bundles that refer to it.
--
-- They cover a manifest's digest. All signatures of one place are joined into one document, so that
-- caches, stores and lockfiles have one thing to keep:
--
--     theaterref image signatures 1
--     signature <base64> <size>
--     <the payload, of that many bytes>
--     certified <base64> <size>
--     <the same, of a signature with a certificate>
--     bundle <size>
--     <the sigstore bundle>
--     missing <size>
--     <why some could not be had>
-- @module theaterref.registry.signatures
local artifacts = require "theaterref.registry.artifact"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local requests = require "theaterref.registry.requests"

local M = {}

local HEADER = "theaterref image signatures 1\n"
local MAX = 8 -- signatures of one place
local MAX_PAGES = 16 -- of a list that may have them

M.PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
M.ANNOTATION = "dev.cosignproject.cosign/signature"

local CERTIFICATE = "dev.sigstore.cosign/certificate"
local BUNDLE = "application/vnd.dev.sigstore.bundle"
local PREDICATE, PREDICATE_NAME = "https://sigstore.dev/cosign/sign/v1", "dev.sigstore.bundle.predicateType"

-- --------------------------------------------------------------- documents

-- Puts a list of `{ signature =, payload = }`, `{ bundle = }` and `{ missing = }` into one document.
local function pack(items)
  local parts = { HEADER }
  for _, item in ipairs(items) do
    local kind = item.bundle and "bundle" or item.missing and "missing"
      or (item.is_certified and "certified " or "signature ") .. item.signature
    local bytes = tostring(item.payload or item.bundle or item.missing)
    parts[#parts + 1] = ("%s %d\n"):format(kind, #bytes)
    parts[#parts + 1] = bytes
    parts[#parts + 1] = "\n"
  end
  return core.blob(table.concat(parts))
end

-- Reads the line before the bytes of an item. Returns its kind, its signature, and the size of the bytes;
-- nil: it is malformed.
local function read_line(line)
  local kind, rest = line:match "^(%l+) (.*)$"
  local signature, size = (rest or ""):match "^([%w+/]+=*) (%d+)$"
  size = size or (rest or ""):match "^%d+$"
  if size and #size <= 8 then return kind, signature or "", math.tointeger(tonumber(size)) end
end

-- Splits a document into its items. Nil: it is malformed.
local function unpack(document)
  local text, at, items = tostring(document), #HEADER + 1, {}
  while at <= #text do
    local stop = text:find("\n", at, true)
    if not stop or #items > MAX then return nil end
    local kind, signature, size = read_line(text:sub(at, stop - 1))
    local last = stop + 1
    if not kind or text:sub(last + size, last + size) ~= "\n" then return nil end
    local bytes = text:sub(last, last + size - 1)
    if kind == "signature" or kind == "certified" then
      items[#items + 1] = { signature = signature, payload = bytes, is_certified = kind == "certified" }
    elseif (kind == "bundle" or kind == "missing") and signature == "" then
      items[#items + 1] = { [kind] = bytes }
    else
      return nil
    end
    at = last + size + 1
  end
  return items
end

--- True if a document is one of these.
-- @tparam theaterref.blob document
-- @treturn boolean
function M.is_document(document) return document:sub(1, #HEADER) == HEADER end

-- Checks one signature against the digests of manifests. Returns its signers.
local function check(requirement, item, digests)
  local signers, err
  if item.missing then return nil, errors.new("untrusted", item.missing) end
  if item.payload then
    local manifest
    signers, manifest = core.check_image_signature(requirement, item.payload, item.signature)
    if not signers and item.is_certified then
      return nil, errors.new("untrusted", "it is a keyless signature, by a certificate, which is not supported; sign with a key")
    end
    if not signers then return nil, manifest end
    for _, digest in ipairs(digests) do
      if digest == manifest then return signers end
    end
    return nil, errors.new("untrusted", ("it is a signature of another artifact, sha256:%s"):format(manifest))
  end
  for _, digest in ipairs(digests) do
    signers, err = core.check_image_bundle(requirement, digest, item.bundle)
    if signers then return signers end
  end
  return nil, err
end

--- Finds the keys by which a document signs one of several manifests.
-- @tparam userdata requirement
-- @tparam theaterref.blob document
-- @tparam table digests of the manifests that led to the bytes, in hex
-- @treturn table a list of their places, as `core.check_signature` returns it
-- @return[2] nil
-- @treturn[2] table an error, of kind `untrusted`
function M.check(requirement, document, digests)
  local items, reasons, found, signers = unpack(document), {}, {}, {}
  if not items then return nil, errors.new("untrusted", "it is a damaged document of signatures") end
  for i, item in ipairs(items) do
    local places, err = check(requirement, item, digests)
    if not places then reasons[#reasons + 1] = (#items > 1 and "signature " .. i .. ": " or "") .. err.message end
    for _, place in ipairs(places or {}) do
      if not found[place] then signers[#signers + 1] = place end
      found[place] = true
    end
  end
  if signers[1] then
    table.sort(signers)
    return signers
  end
  return nil, errors.new("untrusted", reasons[1] and table.concat(reasons, "; ") or "it has no signatures")
end

-- ------------------------------------------------------------------ places

--- The tags of a manifest's signatures: cosign's tag, and the referrers tag, which also stands for
-- the registry's list of referrers.
-- @tparam string digest in hex
-- @treturn table a list
function M.tags(digest) return { ("sha256-%s.sig"):format(digest), "sha256-" .. digest } end

--- Reads such a tag.
-- @tparam ?string tag
-- @treturn ?string the digest of the manifest, in hex; nil: it is none
-- @treturn boolean true if it is cosign's
function M.read_tag(tag)
  local digest, ending = (tag or ""):match "^sha256%-([%da-f]+)(.*)$"
  if digest and #digest == 64 and (ending == "" or ending == ".sig") then return digest, ending == ".sig" end
end

-- --------------------------------------------------------------- gathering

local function text(value) return type(value) == "string" and value or "" end

local function list_of(value) return type(value) == "table" and value or {} end

-- Returns the digest of a descriptor in hex, and its size; nil if it is malformed.
local function read_descriptor(descriptor)
  local digest = text(descriptor.digest):match "^sha256:([%da-f]+)$"
  local size = math.type(descriptor.size) == "integer" and descriptor.size >= 0 and descriptor.size
  if digest and #digest == 64 and size then return digest, size end
end

-- A collection of signatures: `chain`, which gets documents and blobs; how many bytes may
-- still come; `items`; and the first error.
local Collection = {}
Collection.__index = Collection

-- Gets what a descriptor names.
function Collection:get(is_blob, descriptor)
  local digest, size = read_descriptor(descriptor)
  local blob, err
  if not digest then
    err = errors.new("syntax", "the document is malformed: a descriptor in it has no digest or size")
  elseif size > self.left then
    err = errors.new("too_large", "the signatures have more than 1 MiB")
  else
    self.left = self.left - size
    blob, err = self.chain:read_digest(is_blob, digest, size)
  end
  self.err = self.err or err
  return blob
end

function Collection:is_over() return #self.items == MAX or self.err and self.chain.links.is_over() end

-- Adds the signatures of cosign's manifest.
function Collection:add_layers(manifest)
  local seen = 0
  for _, layer in ipairs(list_of(manifest.layers)) do
    local annotations = type(layer) == "table" and layer.mediaType == M.PAYLOAD and list_of(layer.annotations) or {}
    local signature = text(annotations[M.ANNOTATION]):match "^[%w+/]+=*$"
    if signature then
      seen = seen + 1
      if seen > MAX or self:is_over() then return end
      local payload = self:get(true, layer)
      if payload then
        self.items[#self.items + 1] = { signature = signature, payload = payload,
          is_certified = text(annotations[CERTIFICATE]) ~= "" }
      end
    end
  end
end

-- True if an entry of a list of referrers may be a bundle with a signature. Some clients list
-- the type of its configuration instead.
local function may_be_bundle(entry)
  if type(entry) ~= "table" then return false end
  local kind, predicate = text(entry.artifactType), text(list_of(entry.annotations)[PREDICATE_NAME])
  return (kind:sub(1, #BUNDLE) == BUNDLE or kind == "application/vnd.oci.empty.v1+json")
    and (predicate == "" or predicate == PREDICATE)
end

-- Adds the bundles that an index lists. Returns how many it seemed to have.
function Collection:add_bundles(index)
  local seen = 0
  for _, entry in ipairs(list_of(index.manifests)) do
    if may_be_bundle(entry) then
      seen = seen + 1
      if seen > MAX or self:is_over() then return MAX end
      local blob = self:get(false, entry)
      local manifest = blob and artifacts.decode(blob)
      local layer = manifest and list_of(manifest.layers)[1]
      if type(layer) == "table" and text(layer.mediaType):sub(1, #BUNDLE) == BUNDLE then
        local bundle = self:get(true, layer)
        if bundle then self.items[#self.items + 1] = { bundle = bundle } end
      end
    end
  end
  return seen
end

-- Gets a document of the registry, and decodes it. 'url' is where it is, if not at its name's place. Returns
-- it, and the URL of the next page, if it is a list that has one; or nil and an error.
local function read(chain, kind, name, what, url)
  local link = chain:link(kind, name, what, requests.MAX_DOCUMENT_BYTES)
  link.parsed.url = url or link.parsed.url
  local blob, err, info = chain:fetch(link)
  local document, following
  if blob then document, err = artifacts.decode(blob) end
  if document then following, err = requests.next_page(chain.endpoint, link.parsed.url, info.headers) end
  if err then return nil, err end
  return document, following
end

-- Adds the bundles of a registry's list of referrers, page by page. Returns how many it seemed to
-- have; or nil and an error.
function Collection:add_listed(digest)
  local seen, url = 0, nil
  for _ = 1, MAX_PAGES do
    local index, following = read(self.chain, "referrers", "sha256:" .. digest, "list of referrers", url)
    if not index and not url then return nil, following end
    if not index then
      self.err = self.err or following
      return seen
    end
    seen, url = seen + self:add_bundles(index), following
    if not url or seen >= MAX or self:is_over() then return seen end
  end
  self.err = self.err or errors.new("too_large", ("the list of referrers has more than %d pages"):format(MAX_PAGES))
  return seen
end

-- Gathers a manifest's referrers: from the registry's list, or else from the tag that clients keep
-- in registries without such a list.
function Collection:gather_bundles(digest, tag)
  local chain = self.chain
  local seen, err = self:add_listed(digest)
  if not seen and not (err.kind == "syntax" or err.status and requests.lacks_referrers(err.status)) then return err end
  if not seen and chain.links.is_over() then return err end
  if seen and seen > 0 then return nil end
  local index
  index, err = read(chain, "manifests", tag, "tag")
  if not index then return err end
  self:add_bundles(index)
end

--- Gathers the signatures of one place into a document.
-- @tparam table chain gets documents and blobs of a registry; see `theaterref.registry.chain`
-- @tparam string tag one that `read_tag` knows
-- @tparam integer max_bytes
-- @treturn theaterref.blob
-- @treturn boolean whether nothing is missing
-- @return[2] nil
-- @treturn[2] table an error
function M.gather(chain, tag, max_bytes)
  local self = setmetatable({ chain = chain, left = max_bytes, items = {} }, Collection)
  local digest, is_cosign = M.read_tag(tag)
  local err
  if is_cosign then
    local manifest
    manifest, err = read(chain, "manifests", tag, "tag")
    if manifest then self:add_layers(manifest) end
  else
    err = self:gather_bundles(digest, tag)
  end
  if self.items[1] then
    if self.err then self.items[#self.items + 1] = { missing = self.err.message } end
    return pack(self.items), self.err == nil
  end
  return nil, err or self.err or errors.new("not_found", is_cosign and "there are no signatures of cosign in this tag's manifest"
    or "there is no sigstore bundle with a signature among what refers to the manifest")
end

-- ------------------------------------------------------------------ signing

--- The payload that cosign signs for an artifact: a claim with the digest of its manifest.
-- @tparam table parsed its reference
-- @tparam string digest in hex
-- @treturn theaterref.blob
function M.payload(parsed, digest)
  local registry = parsed.registry == "docker.io" and "index.docker.io" or parsed.registry
  return core.blob(('{"critical":{"identity":{"docker-reference":%s},"image":{"docker-manifest-digest":"sha256:%s"},'
    .. '"type":"cosign container image signature"},"optional":null}'):format(
    core.json_quote(registry .. "/" .. parsed.repository), digest))
end

local NEVER = '"0001-01-01T00:00:00Z"' -- as cosign has it: the same signatures have the same digest

--- The configuration of cosign's manifest.
-- @tparam table digests of its layers, as `sha256:<hex>`
-- @treturn theaterref.blob
function M.config(digests)
  local history, ids = {}, {}
  for i, digest in ipairs(digests) do history[i], ids[i] = ('{"created":%s}'):format(NEVER), core.json_quote(digest) end
  return core.blob(('{"architecture":"","created":%s,"history":[%s],"os":"","rootfs":{"type":"layers","diff_ids":[%s]},'
    .. '"config":{}}'):format(NEVER, table.concat(history, ","), table.concat(ids, ",")))
end

--- Adds a signature to cosign's manifest.
-- @tparam ?table manifest its document, which is changed; nil: there is none yet
-- @tparam theaterref.blob payload
-- @tparam string signature in base64
-- @treturn table the manifest; nil: it is there already
-- @treturn theaterref.blob its configuration
-- @return[2] nil
-- @treturn[2] ?table an error; nil: the signature is there already
function M.add(manifest, payload, signature)
  manifest = manifest or { schemaVersion = 2, mediaType = artifacts.MANIFEST, layers = {} }
  local layers, digests = manifest.layers, {}
  if type(layers) ~= "table" or manifest.manifests or next(layers) ~= nil and not layers[1] then
    return nil, errors.new("syntax", "the tag for its signatures holds something else, which no signature can be added to")
  end
  local layer = { mediaType = M.PAYLOAD, digest = "sha256:" .. payload:digest(), size = #payload,
    annotations = { [M.ANNOTATION] = signature } }
  for i, other in ipairs(layers) do
    if type(other) ~= "table" or not read_descriptor(other) then
      return nil, errors.new("syntax", "the document is malformed: a descriptor in it has no digest or size")
    end
    if other.digest == layer.digest and list_of(other.annotations)[M.ANNOTATION] == signature then return nil end
    digests[i] = other.digest
  end
  if #layers >= MAX then
    return nil, errors.new("too_large", ("it has %d signatures, and no more than %d are looked at; delete the tag to begin anew")
      :format(#layers, MAX))
  end
  layers[#layers + 1], digests[#digests + 1] = layer, layer.digest
  local config = M.config(digests)
  manifest.config = { mediaType = "application/vnd.oci.image.config.v1+json", digest = "sha256:" .. config:digest(),
    size = #config }
  return manifest, config
end

return M
