--- Lists the content of registries.
-- @module theaterref.publish.inspect
local admit = require "theaterref.resolve.admit"
local artifacts = require "theaterref.registry.artifact"
local errors = require "theaterref.error"
local reference = require "theaterref.reference"
local targets = require "theaterref.publish.target"

local M = {}

--- All tags of a repository.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string ref
-- @treturn table a list of strings
-- @return[2] nil
-- @treturn[2] table an error
function M.tags(task, context, ref)
  local parsed, err = targets.parse(ref, "a list of tags")
  local session
  if parsed then session, err = targets.open_allowed(task, context, parsed) end
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

-- Returns a descriptor in the form to show.
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

-- Returns the name of the document that a reference means; under a lockfile, the locked one.
local function name_of(context, parsed)
  local judged = reference.parse(targets.judged(context, parsed))
  local manifest, err = admit.locked_manifest(context, judged)
  if err then return nil, err end
  if manifest then return "sha256:" .. manifest end
  if not context.lockfile or parsed.manifest then return targets.name_of(parsed) end
  return nil, errors.new("denied", ("Not allowed: %s: its line in the lockfile %s has no manifest=; lock it again"):format(
    reference.redact(parsed.text), context.lockfile.path), parsed.text)
end

--- Describes a reference's document.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam string ref
-- @treturn table `reference`, with the digest; `digest`; `media_type`; `bytes`; `config`;
-- `layers` or `manifests`, each with `media_type`, `digest`, `bytes`, `title`, `platform` and
-- `annotations`; `annotations`
-- @return[2] nil
-- @treturn[2] table an error
function M.inspect(task, context, ref)
  local parsed, err = targets.parse(ref, "an inspection")
  local session
  if parsed then session, err = targets.open_allowed(task, context, parsed) end
  if not session then return nil, err end
  local name
  name, err = name_of(context, parsed)
  if not name then return nil, err end
  local blob, digest, media_type = session:document(name)
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
