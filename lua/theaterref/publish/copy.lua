--- Copies bytes from one place to another.
-- @module theaterref.publish.copy
local artifacts = require "theaterref.registry.artifact"
local Client = require "theaterref.s3.client"
local errors = require "theaterref.error"
local loads = require "theaterref.resolve.load"
local pushes = require "theaterref.publish.push"
local reference = require "theaterref.reference"
local targets = require "theaterref.publish.target"

local M = {}

-- Resolves a reference for a copy. Returns its bytes and the title of their layer.
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
  local err = targets.fault(parsed, parsed.text) or artifacts.component_fault(blob, from)
  if err then return nil, err end
  if parsed.title then
    local why
    title, why = artifacts.title_of(parsed.title)
    if not title then return nil, errors.new("invalid_reference", "its title cannot be that of a layer: " .. why, parsed.text) end
  else
    title = title_from(from) or title or "package.wasm"
  end
  local session
  session, err = targets.open(task, context, parsed, "pull,push")
  if not session then return nil, err end
  local layers, digests = { { title = title, media_type = artifacts.media_type(blob), blob = blob } }
  local moved
  digests, moved = pushes.artifacts(session, { { tag = parsed.tag, layers = layers } }, {})
  if not digests then return nil, moved end
  return targets.written(parsed, digests[1]), nil, moved[1]
end

-- Opens the bucket of a reference.
local function open_bucket(task, context, parsed)
  if context.offline then
    return nil, errors.new("not_found", ("offline: the bucket %s is not asked"):format(parsed.bucket))
  end
  return Client.open(parsed.bucket, { settings = context.s3, defaults = context.defaults,
    await = function(future, shared) return task:await(future, shared) end,
    seconds_left = function() return task:seconds_left() end })
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

return M
