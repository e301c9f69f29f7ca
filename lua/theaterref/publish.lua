--- Publishing: pushes manifests with what they name to a registry, copies between places, and
-- tells what a registry has.
-- @module theaterref.publish
local admit = require "theaterref.resolve.admit"
local artifacts = require "theaterref.registry.artifact"
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local json = require "theaterref.manifest.json"
local loads = require "theaterref.resolve.load"
local manifests = require "theaterref.manifest.manifest"
local overlay = require("theaterref.options").overlay
local reference = require "theaterref.reference"
local Session = require "theaterref.registry.session"
local signatures = require "theaterref.registry.signatures"

local M = {}

-- A reference to a registry, parsed, for something that only those can be.
local function parse_oci(ref, what)
  local parsed, err = reference.parse(ref)
  if not parsed then return nil, err end
  if parsed.scheme == "oci" then return parsed end
  return nil, errors.new("invalid_reference", ("%s takes a reference to a registry, as oci://registry/repository:tag")
    :format(what), ref)
end

-- Opens a session for a reference. 'defaults' are the options of its requests.
local function open(task, context, parsed, actions, from, defaults)
  if context.offline then
    return nil, errors.new("not_found", ("offline: %s is not asked"):format(parsed.registry))
  end
  return Session.open(parsed, { registries = context.registries, defaults = defaults or context.defaults, actions = actions,
    from = from, warn = function(message)
      context:emit("registry", { reference = reference.redact(parsed.text), message = message })
    end, await = function(future) return task:await(future) end,
    seconds_left = function() return task.deadline and math.max(0, task.deadline - core.now()) or nil end })
end

-- Opens a session to read what a reference means, if the rule 'allow' agrees.
local function open_allowed(task, context, parsed)
  if not context.asks.allow then return open(task, context, parsed, "pull") end
  local hosts, err = admit.allow(context, parsed.text, { purpose = "direct" })
  if not hosts then return nil, err end
  return open(task, context, parsed, "pull", nil, hosts ~= "any" and overlay(context.defaults, { redirect_hosts = hosts }) or nil)
end

-- The name of a document: its digest, which wins over its tag.
local function name_of(parsed) return parsed.manifest and "sha256:" .. parsed.manifest or parsed.tag end

-- The immutable reference of what was written.
local function written(parsed, digest, title)
  local ref = ("oci://%s/%s%s@sha256:%s"):format(parsed.registry, parsed.repository, parsed.tag and ":" .. parsed.tag or "",
    digest)
  return title and reference.join(ref, title) or ref
end

-- -------------------------------------------------------------------- push

-- Uploads the blobs of artifacts, `{ tag =, layers = }`, and writes their documents when all of
-- them are there: a push that is interrupted leaves no tag. Returns the digests of the documents,
-- and by index those that the tags led to before, if others.
local function push_artifacts(session, list, annotations)
  local digests = {}
  for _, artifact in ipairs(list) do
    local config
    artifact.document, config = artifacts.documents(artifact.layers, annotations)
    artifact.blobs = { { blob = config }, table.unpack(artifact.layers) }
  end
  for _, artifact in ipairs(list) do
    for _, layer in ipairs(artifact.blobs) do
      local ok, err = session:put_blob(layer.blob, layer.digest)
      if not ok then return nil, err end
    end
  end
  local moved = {}
  for _, artifact in ipairs(list) do -- before any tag: one must not be without the other
    local ok, err = session:put_document("sha256:" .. artifact.document:digest(), artifact.document, artifacts.MANIFEST)
    if not ok then return nil, err end
  end
  for i, artifact in ipairs(list) do
    local before = session:digest_of(artifact.tag)
    local digest, err = session:put_document(artifact.tag, artifact.document, artifacts.MANIFEST)
    if not digest then return nil, err end
    digests[i], moved[i] = digest, before ~= digest and before or nil
  end
  return digests, moved
end

-- The fault of a target to write to.
local function target_fault(parsed, ref)
  if parsed.manifest then return errors.new("invalid_reference", "a push goes to a tag, not to a digest", ref) end
  if parsed.ns then return errors.new("invalid_reference", "a push goes to a registry, not to a mirror", ref) end
  if parsed.sha256 then
    return errors.new("invalid_reference", "what is written has a digest of its own: leave out #sha256=", ref)
  end
  if #parsed.tag + #".package" > 128 then
    return errors.new("invalid_reference", "its tag is too long: '.package' is added to it", ref)
  end
end

-- Returns a layer for what a manifest names.
local function layer_of(ref, blob, media_type, what)
  local title, why = artifacts.title_of(ref)
  if title and title ~= "manifest.toml" then return { title = title, media_type = media_type, blob = blob } end
  return nil, errors.new("invalid_reference", ("the manifest's %s is %s, which cannot be the title of a layer: %s; give it as "
    .. "the path of a file below the manifest's folder"):format(what, errors.redact_reference(ref),
    why or "that is the manifest's own"), ref)
end

-- Pushes a manifest; see `push`.
local function push(task, context, found, target)
  local parsed, err = parse_oci(target, "a push")
  err = err or target_fault(parsed, target)
  if not err and parsed.title then
    err = errors.new("invalid_reference", "a push goes to a tag: its layers have the titles that the manifest gives them", target)
  end
  if err then return nil, err end
  if found.format ~= "toml" then
    return nil, errors.new("syntax", ("a manifest in %s cannot be pushed: it will be read as TOML"):format(found.format))
  end
  local package, state
  package, err = layer_of(found.package_reference, found.package, artifacts.WASM, "package")
  err = err or artifacts.module_fault(found.package, found.package_reference)
  if not err and found.state_reference then
    state, err = layer_of(found.state_reference, found.state, "application/json", "initial state")
  end
  local session
  if not err then session, err = open(task, context, parsed, "pull,push") end
  if err then return nil, err end
  local annotations = artifacts.annotations(found.manifest)
  local layers = { { title = "manifest.toml", media_type = "application/toml", blob = found.text }, package, state }
  local digests, moved
  digests, moved = push_artifacts(session, { { tag = parsed.tag .. ".package", layers = { package } },
    { tag = parsed.tag, layers = layers } }, annotations)
  if not digests then return nil, moved end
  local package_digest, digest = digests[1], digests[2]
  return { reference = written(parsed, digest), digest = digest, package_digest = package_digest, moved_from = moved[2],
    package_reference = ("oci://%s/%s:%s.package@sha256:%s"):format(parsed.registry, parsed.repository, parsed.tag,
      package_digest) }
end

--- Pushes a manifest, unchanged, with its package and its state.
-- @tparam table found `text`, the manifest's bytes as a blob; `format`; `manifest`, its document;
-- `package_reference` as written, and `package`; `state_reference` and `state`, or nil
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string target
-- @treturn table `reference`, `package_reference`: immutable ones of what was pushed; `digest`,
-- `package_digest`; `moved_from`, the digest that the tag led to before, if that is another
-- @return[2] nil
-- @treturn[2] table an error
function M.push(task, context, found, target)
  local pushed, err = push(task, context, found, target)
  if pushed then return pushed end
  return nil, errors.of_write(err, target)
end

--- Gathers what a push of a manifest needs, from the steps of its plan.
-- @tparam table plan
-- @tparam table steps of a trace
-- @treturn table as `push` takes it
function M.gather(plan, steps)
  local found = { manifest = plan.manifest, package = plan.package }
  for _, step in ipairs(steps) do
    local purpose = step.resolved.ctx.purpose
    if purpose == "manifest" then
      found.text, found.target = step.blob, step.resolved.target
    elseif purpose == "initial_state" then
      found.state = step.blob
    elseif purpose == "package" then
      found.package_reference = step.resolved.ctx.package
    end
  end
  local text = tostring(found.text)
  found.format = manifests.format_of(text, found.target)
  if found.state then found.state_reference = select(2, manifests.initial_state(text, found.format)) end
  return found
end

-- -------------------------------------------------------------------- copy

-- Resolves a reference for a copy. Returns its bytes, and the title of the layer that they are.
local function read(task, context, ref)
  local wish = { reference = ref, ctx = { purpose = "direct" }, options = {}, wants_title = true }
  local blob, err = loads.resolve(task, context, wish)
  local title = blob and wish.title and artifacts.title_of(wish.title) -- which a registry may have from anybody
  return blob, err or title
end

-- Ways to write bytes, by scheme. Each returns the reference of what was written.
local writers = {}

function writers.file(_, _, parsed, blob)
  local ok, err = blob:write(parsed.path)
  return ok and parsed.text, err
end

function writers.store(task, context, parsed, blob)
  if not parsed.label then
    return nil, errors.new("invalid_reference", "content is named by its hash: give a label to write to", parsed.text)
  end
  local store, err = context:store(parsed.id, task)
  local hash
  if store then hash, err = store:put(blob) end
  if hash then
    local ok
    ok, err = store:label(parsed.label, hash)
    if not ok then return nil, err end
  end
  return hash and ("store://%s/hash/%s"):format(parsed.id, hash), err
end

-- The title for the bytes of a reference: the name of its file or layer; nil: it has none.
local function title_from(ref)
  local parsed = reference.parse(ref)
  if not parsed or parsed.scheme == "oci" or parsed.hash then return parsed and parsed.title end
  local name = ref:match("^[^?#]*"):match "[^/]*$"
  return artifacts.title_of((name:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)))
end

function writers.oci(task, context, parsed, blob, from, title)
  local err = target_fault(parsed, parsed.text) or artifacts.component_fault(blob, from)
  if err then return nil, err end
  title = parsed.title or title_from(from) or title or "package.wasm"
  local session
  session, err = open(task, context, parsed, "pull,push")
  if not session then return nil, err end
  local layers, digests = { { title = title, media_type = artifacts.media_type(blob), blob = blob } }
  local moved
  digests, moved = push_artifacts(session, { { tag = parsed.tag, layers = layers } }, {})
  if not digests then return nil, moved end
  return written(parsed, digests[1]), nil, moved[1]
end

-- Opens the bucket of a reference.
local function open_bucket(task, context, parsed)
  if context.offline then
    return nil, errors.new("not_found", ("offline: the bucket %s is not asked"):format(parsed.bucket))
  end
  return Client.open(parsed.bucket, { settings = context.s3, defaults = context.defaults,
    await = function(future, shared) return task:await(future, shared) end,
    seconds_left = function() return task.deadline and math.max(0, task.deadline - core.now()) or nil end })
end

function writers.s3(task, context, parsed, blob)
  if parsed.version or parsed.sha256 then
    return nil, errors.new("invalid_reference", "an object is written to a key: leave out ?versionId= and #sha256=", parsed.text)
  end
  local bucket, err = open_bucket(task, context, parsed)
  local head
  if bucket then head, err = bucket:put(parsed.key, blob) end
  if not head then return nil, err end
  local version = head.version_id and head.version_id ~= "null" and "?versionId=" .. head.version_id or ""
  return ("%s%s#sha256=%s"):format(parsed.text, version, blob:digest())
end

--- Copies the bytes of one reference to another place.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string from
-- @tparam string to a path, `store://<id>/<label>`, `oci://registry/repository:tag` or `s3://bucket/key`
-- @treturn table `reference` of what was written, which never changes unless it is a path;
-- `bytes`; `sha256`; `moved_from`, the digest that a tag led to before, if that is another
-- @return[2] nil
-- @treturn[2] table an error
function M.copy(task, context, from, to)
  local parsed, err = reference.parse(to)
  if not parsed then return nil, err end
  local write = writers[parsed.scheme]
  if not write then
    return nil, errors.new("invalid_reference", ("nothing can be written to the scheme %s; paths, store://, oci:// and s3:// can")
      :format(parsed.scheme), to)
  end
  local blob, title, ref, moved_from
  blob, title = read(task, context, from)
  if not blob then return nil, title end
  ref, err, moved_from = write(task, context, parsed, blob, from, title)
  if not ref then return nil, errors.of_write(err, to) end
  return { reference = ref, bytes = #blob, sha256 = blob:digest(), moved_from = moved_from }
end

-- An artifact on its way: the sessions of both sides, how many documents and blobs were copied, how
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

function Transfer:copy_blob(descriptor)
  local digest = descriptor.digest:sub(8)
  if self.sent[digest] then return true end
  if descriptor.size > self.max_bytes or descriptor.size < 0 then
    return nil, errors.new("too_large", ("a layer in it is larger than the limit of %s (max_bytes)"):format(
      errors.bytes(self.max_bytes)))
  end
  self.sent[digest] = true
  local there, err = self.target:mount_blob(digest)
  if there or err then return there, err end
  local blob
  blob, err = self.source:blob(digest, descriptor.size)
  if not blob then return nil, err end
  self.blobs = self.blobs + 1
  return self.target:put_blob(blob, digest)
end

-- Returns the media type to write a document as.
local function media_type_of(document, media_type)
  local own = document.mediaType
  return type(own) == "string" and own:find "^[%w][%w!#$&^_.+/-]*$" and #own <= 255 and own or media_type or artifacts.MANIFEST
end

-- Adds to a document at the source what the target has under its tag and it has not: entries of an
-- index, layers of a manifest. Nothing that is there is lost. Returns what is to be written, and its
-- media type; nil: nothing, or nil and an error.
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
  for _, entry in ipairs(theirs[field]) do has[type(entry) == "table" and entry.digest or ""] = true end
  for _, entry in ipairs(ours[field]) do
    local digest = type(entry) == "table" and entry.digest
    if digest and not has[digest] then has[digest], theirs[field][#theirs[field] + 1] = true, entry end
  end
  if #theirs[field] == before then return nil end
  local text
  text, err = json.encode(theirs)
  if not text then return nil, err end
  return core.blob(text), media_type_of(theirs, media_type)
end

-- Writes a document, in which the target's entries are kept, under a tag that tools share.
function Transfer:put_shared(blob, media_type, name)
  local merged, of_type = self:merged(blob, media_type, name)
  if not merged then return of_type == nil, of_type end
  self.documents = self.documents + 1
  return self.target:put_document(name, merged, of_type)
end

-- Copies what a document names, and then the document, under a name; 'is_shared': its tag is one
-- that others write to.
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
  for _, descriptor in ipairs(blobs) do
    local ok
    ok, err = self:copy_blob(descriptor)
    if not ok then return nil, err end
  end
  media_type = media_type_of(document, media_type)
  if is_shared then return self:put_shared(blob, media_type, name) end
  self.documents = self.documents + 1
  local digest, is_listed = self.target:put_document(name, blob, media_type)
  if digest then self.copied[name] = { digest = digest, is_listed = is_listed } end
  return digest, is_listed
end

-- Copies the documents that a registry lists as referring to one. A target that keeps no such
-- list gets it as the tag that other tools keep.
function Transfer:copy_listed(index, digest, depth)
  local document, err = artifacts.decode(index)
  if not document then return nil, err end
  local is_listed = true
  for _, entry in ipairs(list_of(document.manifests)) do
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
  return self:put_shared(index, artifacts.INDEX, "sha256-" .. digest)
end

-- Copies what refers to a document, signatures and the like: what the registry lists, and the
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

-- The reference that rules are to judge before an artifact is copied: as it is, or its manifest in
-- Theater's sense if only that is in the lockfile.
local function judged_reference(context, parsed)
  local lockfile, of_manifest = context.lockfile, reference.for_manifest(parsed.text)
  local ctx = { purpose = "direct" }
  if lockfile and not lockfile.integrity(parsed.text, ctx) and lockfile.integrity(of_manifest, ctx) then return of_manifest end
  return parsed.text
end

-- Has the rules that judge bytes, the lockfile and the option `signatures` judge what a reference
-- means, if there are any. Returns the digest of the manifest that was judged, or nil and perhaps an error.
local function judge(task, context, parsed)
  if not (context.judges or context.lockfile or context.asks.integrity) then return nil end
  local wish = { reference = judged_reference(context, parsed), ctx = { purpose = "direct" }, options = {} }
  local blob, err = loads.resolve_as_is(task, context, wish)
  if not blob or wish.manifest then return blob and wish.manifest, err end
  return nil, errors.new("denied", ("Not allowed: %s: these bytes come from a store, and no rule gives the digest of their "
    .. "manifest"):format(reference.redact(parsed.text)), parsed.text)
end

--- Copies an artifact with all its layers and what refers to it; no digest changes. Rules judge
-- the layer that `from` means, and the manifest that led to it is copied.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string from
-- @tparam string to
-- @treturn table `reference`, `digest`; `documents` and `blobs`: how many were sent
-- @return[2] nil
-- @treturn[2] table an error
function M.copy_all(task, context, from, to)
  local source, err = parse_oci(from, "a copy of all layers")
  local target
  if source then target, err = parse_oci(to, "a copy of all layers") end
  if not target then return nil, err end
  if target.ns or target.title or source.title then
    return nil, errors.new("invalid_reference", "a copy of all layers goes from an artifact to an artifact: without a title", to)
  end
  local judged
  local transfer = setmetatable({ documents = 0, blobs = 0, read_count = 0, copied = {}, asked = {}, sent = {},
    max_bytes = context:max_bytes {} }, Transfer)
  transfer.source, err = open_allowed(task, context, source)
  if transfer.source then judged, err = judge(task, context, source) end
  if err then return nil, err end
  local mounts = source.registry == target.registry and source.repository ~= target.repository
  transfer.target = open(task, context, target, "pull,push", mounts and source.repository or nil)
  local blob, digest, media_type = transfer.source:document(judged and "sha256:" .. judged or name_of(source))
  if not blob then return nil, digest end
  if target.manifest and target.manifest ~= digest then
    return nil, errors.new("digest_mismatch", ("%s has the manifest %s"):format(reference.redact(from), digest), to)
  end
  local ok
  ok, err = transfer:copy_referrers(digest, 0)
  if ok then ok, err = transfer:copy_document(blob, media_type, name_of(target), 0) end
  if not ok then return nil, errors.of_write(err, to) end
  return { reference = written(target, digest), digest = digest, documents = transfer.documents, blobs = transfer.blobs }
end

-- -------------------------------------------------------------------- sign

-- Returns the fault of a reference to sign: signatures are of manifests, and in their repository.
local function signing_fault(parsed, ref)
  if parsed.title or parsed.sha256 then
    return errors.new("invalid_reference", "a pushed signature is of a whole artifact: give its reference without '#'", ref)
  end
  if parsed.ns then return errors.new("invalid_reference", "a push goes to a registry, not to a mirror", ref) end
end

-- Adds a signature to those of a tag. Returns the digest of its document.
local function push_signature(session, tag, payload, signature)
  local before, digest = session:document(tag, true)
  if not before and digest then return nil, digest end
  local manifest, config, err
  if before then manifest, err = artifacts.decode(before) end
  if err then return nil, err end
  manifest, config = signatures.add(manifest, payload, signature)
  if not manifest then return not config and digest, config end -- it is there already, or an error
  local text
  text, err = json.encode(manifest)
  for _, blob in ipairs(text and { payload, config } or {}) do
    local ok
    ok, err = session:put_blob(blob)
    if not ok then return nil, err end
  end
  if not text then return nil, err end
  return session:put_document(tag, core.blob(text), artifacts.MANIFEST)
end

--- Signs an artifact, as cosign does, and pushes the signature to the tag where cosign keeps
-- those of its manifest. Signatures that are there already stay.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string ref
-- @tparam function signer signs a blob; returns the signature in base64, or nil and an error
-- @treturn table `reference` of the signatures; `digest`, which was signed; `signature`, in base64
-- @return[2] nil
-- @treturn[2] table an error
function M.sign(task, context, ref, signer)
  local parsed, err = parse_oci(ref, "a pushed signature")
  err = err or signing_fault(parsed, ref)
  local session
  if not err then session, err = open(task, context, parsed, "pull,push") end
  if err then return nil, err end
  local document, digest = session:document(name_of(parsed))
  if not document then return nil, digest end
  local payload = signatures.payload(parsed, digest)
  local signature
  signature, err = signer(payload)
  if not signature and errors.is(err) then return nil, err end
  signature = type(signature) == "string" and signature:match "^([%w+/]+=*)%s*$"
  if not signature then
    return nil, errors.new("syntax", "the function that signs returned no signature in base64: " .. tostring(err or "none"), ref)
  end
  local tag, pushed = signatures.tags(digest)[1]
  pushed, err = push_signature(session, tag, payload, signature)
  if not pushed then return nil, errors.about(err, ref) end
  return { reference = ("oci://%s/%s:%s@sha256:%s"):format(parsed.registry, parsed.repository, tag, pushed), digest = digest,
    signature = signature }
end

-- ----------------------------------------------------------------- inspect

--- All tags of a repository.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string ref
-- @treturn table a list of strings
-- @return[2] nil
-- @treturn[2] table an error
function M.tags(task, context, ref)
  local parsed, err = parse_oci(ref, "a list of tags")
  local session
  if parsed then session, err = open_allowed(task, context, parsed) end
  if not session then return nil, err end
  return session:tags()
end

local function text(value) return type(value) == "string" and value or nil end

local function annotations_of(value)
  local found = {}
  for name, item in pairs(type(value) == "table" and value or {}) do
    if type(name) == "string" and text(item) then found[name] = item end
  end
  return next(found) and found or nil
end

-- Returns a descriptor as it is shown.
local function shown(descriptor)
  if type(descriptor) ~= "table" then return nil end
  local platform = type(descriptor.platform) == "table" and descriptor.platform or nil
  local annotations = annotations_of(descriptor.annotations)
  return { media_type = text(descriptor.mediaType), digest = text(descriptor.digest),
    bytes = math.type(descriptor.size) == "integer" and descriptor.size or nil, annotations = annotations,
    title = annotations and annotations[artifacts.TITLE],
    platform = platform and ("%s/%s"):format(text(platform.architecture) or "?", text(platform.os) or "?") }
end

local function all_shown(list)
  if type(list) ~= "table" then return nil end
  local found = {}
  for _, descriptor in ipairs(list) do found[#found + 1] = shown(descriptor) end
  return found
end

--- Tells what a reference's document has.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string ref
-- @treturn table `reference`, with the digest; `digest`; `media_type`; `bytes`; `config`;
-- `layers` or `manifests`, each with `media_type`, `digest`, `bytes`, `title`, `platform` and
-- `annotations`; `annotations`
-- @return[2] nil
-- @treturn[2] table an error
function M.inspect(task, context, ref)
  local parsed, err = parse_oci(ref, "an inspection")
  local session
  if parsed then session, err = open_allowed(task, context, parsed) end
  if not session then return nil, err end
  local blob, digest, media_type = session:document(name_of(parsed))
  if not blob then return nil, digest end
  local document
  document, err = artifacts.decode(blob)
  if not document then return nil, err end
  return { reference = reference.at_digest(ref, digest), digest = "sha256:" .. digest, bytes = #blob,
    media_type = text(document.mediaType) or media_type, artifact_type = text(document.artifactType),
    config = shown(document.config), layers = all_shown(document.layers), manifests = all_shown(document.manifests),
    subject = shown(document.subject),
    annotations = annotations_of(document.annotations) }
end

return M
