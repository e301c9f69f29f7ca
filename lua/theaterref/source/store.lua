--- `store://<id>/<label>` and `store://<id>/hash/<hash>`: content in Theater's stores.
-- @module theaterref.source.store
local core = require "theaterref.core"
local errors = require "theaterref.error"
local file = require "theaterref.source.file"
local home = require "theaterref.home"
local paths = require "theaterref.paths"

local M = { scope = "home_scope" }

function M.parse(reference)
  local id, rest = reference:match "^%a+://([^/]*)/(.+)$"
  local function bad(why)
    return nil, errors.new("invalid_reference", "Invalid store path format: " .. reference .. why, reference)
  end
  if not id or id == "" then
    local _, err = bad ""
    err.advice = "it has the form store://<id>/<label> or store://<id>/hash/<hash>"
    return nil, err
  end
  local fault = core.label_fault(id)
  if fault then return bad(" (the store id: " .. fault .. ")") end
  local hash = rest:match "^hash/(.*)$"
  if hash then
    if not (hash:match "^%x+$" and (#hash == 40 or #hash == 64)) then return bad " (a hash has 40 or 64 hex digits)" end
    return { scheme = "store", text = reference, id = id, hash = hash:lower() }
  end
  fault = core.label_fault(rest)
  if fault then return bad(" (the label: " .. fault .. ")") end
  return { scheme = "store", text = reference, id = id, label = rest }
end

function M.join(base, reference)
  if reference:find "^/" then return reference end -- a store's manifest is as local as a file's
  local folder = base.label and base.label:match "^(.*/)" or ""
  local label, inside = paths.normalize(folder .. reference)
  if inside then return "store://" .. base.id .. "/" .. label end
  return nil, errors.new("invalid_reference", ("Invalid reference: %s leads out of the store of %s"):format(reference,
    base.text), reference)
end

function M.key(parsed) return parsed.text end

function M.beside(parsed, ending) return parsed.label and parsed.text .. ending end

function M.is_remote() return false end

function M.is_immutable(parsed) return parsed.hash ~= nil end

--- The path that a follower watches, if the reference is a label.
function M.watched(parsed, context)
  local folder = parsed.label and home.store_folder(parsed.id, context.home)
  return folder and folder .. "/labels/" .. parsed.label or nil
end

--- The hash that a label points to.
function M.probe(job, context)
  if job.parsed.hash then return job.parsed.hash end
  local store, err = context:store(job.parsed.id)
  if not store then return nil, err end
  return store:get_by_label(job.parsed.label)
end

-- Adds what may be wrong to an error.
local function advise(err, parsed, context)
  if err.kind ~= "not_found" then return err end
  local there, why = true, nil
  if not context:is_remote_store(parsed.id) then there, why = home.find_store(parsed.id, context.home) end
  if not there then err.advice = why.message
  elseif (parsed.label or ""):find "#sha%d+=" then err.advice = file.NO_DIGEST end
  return err
end

-- Tells a trace where a remote store is.
local function trace_place(job, context, store)
  local key = job.parsed.hash and "data/" .. job.parsed.hash or "labels/" .. job.parsed.label
  local endpoint, about = store:describe()
  context.trace { rule = "s3", by = endpoint, reference = errors.redact_reference(job.target),
    answer = ("%s%s, %s"):format(store.name, key, about) }
end

-- Gets a job's bytes from its store; they may have to be fetched.
local function get(job, context, task)
  local parsed = job.parsed
  local store, err = context:store(parsed.id)
  if not store then return nil, err end
  local blob
  local max_bytes = context:max_bytes(job)
  if store.is_remote then
    if context.trace then trace_place(job, context, store) end
    blob = not context.offline and store:at_hand(parsed.hash, parsed.label, max_bytes)
    if blob then return blob end
    store = context:store(parsed.id, task)
  end
  local hash = parsed.hash or job.version -- not the label, which may move meanwhile
  if hash then
    blob, err = store:get(hash, max_bytes)
  else
    blob, err = store:get_content_by_label(parsed.label, max_bytes)
  end
  if blob then return blob end
  err = err or errors.new("not_found", "Label not found: " .. errors.redact_reference(parsed.label))
  return nil, advise(err, parsed, context)
end

function M.start(job, context)
  local blob, err = get(job, context)
  return blob and { blob = blob }, err
end

-- A store with a bucket: its bytes count as coming from the network, and whoever wants them may wait.
local remote = setmetatable({ scope = "remote_scope" }, { __index = M })

function remote.is_remote() return true end

-- A follower asks the bucket. By default it does so when `label_ttl` is over.
remote.watched, remote.probe = false, false

function remote.drive(job, context, links)
  local blob, err = get(job, context, links.task)
  if blob and job.sha256 and blob:digest() ~= job.sha256 then
    return nil, errors.new("digest_mismatch", ("%s has the sha256 %s, but %s was expected by %s"):format(
      errors.redact_reference(job.target), blob:digest(), job.sha256, job.digests_by))
  end
  return blob, blob and {} or err, {}
end

--- The source of a reference in a context: whether its store is remote is an option.
function M.within(parsed, context) return context:is_remote_store(parsed.id) and remote or M end

return M
