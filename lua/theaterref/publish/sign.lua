--- Signs artifacts, and pushes the signatures.
-- @module theaterref.publish.sign
local artifacts = require "theaterref.registry.artifact"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local json = require "theaterref.manifest.json"
local signatures = require "theaterref.registry.signatures"
local targets = require "theaterref.publish.target"

local M = {}

-- Returns the fault of a reference to sign: signatures are of manifests, and in their repository.
local function signing_fault(parsed, ref)
  if parsed.title or parsed.sha256 then
    return errors.new("invalid_reference", "a pushed signature is of a whole artifact: give its reference without '#'", ref)
  end
  if parsed.ns then return errors.new("invalid_reference", "a push goes to a registry, not to a mirror", ref) end
end

-- Adds a signature to those of a tag. Returns the digest of its document if it is there; false if it was
-- written.
local function add_signature(session, tag, payload, signature)
  local before, digest = session:document(tag, true)
  if not before and digest then return nil, digest end
  local manifest, config, err
  if before then manifest, err = artifacts.decode(before) end
  if err then return nil, err end
  manifest, config = signatures.add(manifest, payload, signature)
  if not manifest then return not config and digest or nil, config end -- it is there already, or an error
  local text
  text, err = json.encode(manifest)
  for _, blob in ipairs(text and { payload, config } or {}) do
    local ok
    ok, err = session:put_blob(blob)
    if not ok then return nil, err end
  end
  if not text then return nil, err end
  local ok
  ok, err = session:put_document(tag, core.blob(text), artifacts.MANIFEST)
  return not ok and ok, err
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
  local parsed, err = targets.parse(ref, "a pushed signature")
  err = err or signing_fault(parsed, ref)
  local session
  if not err then session, err = targets.open(task, context, parsed, "pull,push") end
  if err then return nil, err end
  local document, digest = session:document(targets.name_of(parsed))
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
  pushed, err = targets.until_kept(tag, function() return add_signature(session, tag, payload, signature) end)
  if not pushed then return nil, errors.about(err, ref) end
  return { reference = ("oci://%s/%s:%s@sha256:%s"):format(parsed.registry, parsed.repository, tag, pushed), digest = digest,
    signature = signature }
end

return M
