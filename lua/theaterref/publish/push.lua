--- Pushes manifests with their packages and states to a registry.
-- @module theaterref.publish.push
local artifacts = require "theaterref.registry.artifact"
local errors = require "theaterref.error"
local manifests = require "theaterref.manifest.manifest"
local targets = require "theaterref.publish.target"
local toml = require "theaterref.manifest.toml"

local M = {}

--- Uploads the blobs of artifacts, `{ tag =, layers = }`, and then writes their documents: an
-- interrupted push leaves no tag. Returns the digests of the documents and, by index, the digests
-- that the tags led to before, if they differ.
function M.artifacts(session, list, annotations)
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

-- Returns a layer for a package or state that a manifest names.
local function layer_of(ref, blob, media_type, what)
  local title, why = artifacts.title_of(ref)
  if title and title ~= "manifest.toml" then return { title = title, media_type = media_type, blob = blob } end
  return nil, errors.new("invalid_reference", ("the manifest's %s is %s, which cannot be the title of a layer: %s; give it as "
    .. "the path of a file below the manifest's folder"):format(what, errors.redact_reference(ref),
    why or "that is the manifest's own"), ref)
end

-- True if a manifest names the same package whatever its state is: literally, and once.
local function has_fixed_package(found)
  local text = "\n" .. tostring(found.text)
  local scanned = toml.scan(text, { package = true })
  local _, count = text:gsub("\n[ \t]*[\"']?package[\"']?[ \t]*=", "")
  return count == 1 and scanned ~= nil and scanned.package == found.package_reference
end

-- Pushes a manifest; see `push`.
local function push(task, context, found, target)
  local parsed, err = targets.parse(target, "a push")
  err = err or targets.fault(parsed, target)
  if not err and parsed.title then
    err = errors.new("invalid_reference", "a push goes to a tag: its layers have the titles that the manifest gives them", target)
  end
  if err then return nil, err end
  if found.format ~= "toml" then
    return nil, errors.new("syntax", ("a manifest in %s cannot be pushed: it will be read as TOML"):format(found.format))
  end
  if found.is_checked and not has_fixed_package(found) then
    return nil, errors.new("invalid_reference", ("the manifest's package depends on its state: with the state to check it is %s. "
      .. "Plans that read the manifest from the registry bring no such state: push it without one"):format(
      errors.redact_reference(found.package_reference)), target)
  end
  local package, state
  package, err = layer_of(found.package_reference, found.package, artifacts.WASM, "package")
  err = err or artifacts.module_fault(found.package, found.package_reference)
  if not err and found.state_reference then
    state, err = layer_of(found.state_reference, found.state, "application/json", "initial state")
  end
  local session
  if not err then session, err = targets.open(task, context, parsed, "pull,push") end
  if err then return nil, err end
  local annotations = artifacts.annotations(found.manifest)
  local layers = { { title = "manifest.toml", media_type = "application/toml", blob = found.text }, package, state }
  local digests, moved
  -- The package's own tag comes last: if the other is refused, no package is there that belongs to nothing.
  digests, moved = M.artifacts(session, { { tag = parsed.tag, layers = layers },
    { tag = parsed.tag .. targets.PACKAGE, layers = { package } } }, annotations)
  if not digests then return nil, moved end
  local digest, package_digest = digests[1], digests[2]
  return { reference = targets.written(parsed, digest), digest = digest, package_digest = package_digest, moved_from = moved[1],
    package_reference = targets.package_reference(parsed, package_digest) }
end

--- Pushes a manifest, unchanged, with its package and its state.
-- @tparam table found `text`, the manifest's bytes as a blob; `format`; `manifest`, its document;
-- `package_reference`, and `package`; `state_reference` and `state`, or nil; `is_checked`: its variables were filled in
-- with a state that is not pushed
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
-- @tparam boolean is_checked whether the plan has a state that is not the manifest's
-- @treturn table as `push` takes it
function M.gather(plan, steps, is_checked)
  local found = { manifest = plan.manifest, package = plan.package, is_checked = is_checked }
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

return M
