--- Places in registries to write to, or to read from for a write.
-- @module theaterref.publish.target
local admit = require "theaterref.resolve.admit"
local errors = require "theaterref.error"
local Future = require "theaterref.resolve.future"
local overlay = require("theaterref.options").overlay
local reference = require "theaterref.reference"
local Session = require "theaterref.registry.session"

local M = {}

--- The ending of the tag of a package alone: it follows the tag of the artifact.
M.PACKAGE = ".package"
M.MAX_TAG_BYTES = 128

--- Parses a reference that must be to a registry.
function M.parse(ref, what)
  local parsed, err = reference.parse(ref)
  if not parsed then return nil, err end
  if parsed.scheme == "oci" then return parsed end
  return nil, errors.new("invalid_reference", ("%s takes a reference to a registry, as oci://registry/repository:tag")
    :format(what), ref)
end

--- Opens a session for a reference. 'defaults' are the options of its requests.
function M.open(task, context, parsed, actions, from, defaults)
  if context.offline then
    return nil, errors.new("not_found", ("offline: %s is not asked"):format(parsed.registry))
  end
  return Session.open(parsed, { registries = context.registries, defaults = defaults or context.defaults, actions = actions,
    from = from, warn = function(message)
      context:emit("registry", { reference = reference.redact(parsed.text), message = message })
    end, await = function(future, own) return task:await(future, not own) end,
    seconds_left = function() return task:seconds_left() end })
end

--- Opens a session to read a reference, if the rule 'allow' permits it.
function M.open_allowed(task, context, parsed)
  if not context.asks.allow then return M.open(task, context, parsed, "pull") end
  local hosts, err = admit.allow(context, parsed.text, { purpose = "direct" })
  if not hosts then return nil, err end
  local defaults = hosts ~= "any" and overlay(context.defaults, { redirect_hosts = hosts }) or nil
  return M.open(task, context, parsed, "pull", nil, defaults)
end

--- Returns the reference that rules are to judge: as it is, or its manifest in Theater's sense if only that is in
-- the lockfile.
function M.judged(context, parsed)
  local lockfile, of_manifest = context.lockfile, reference.for_manifest(parsed.text)
  local ctx = { purpose = "direct" }
  if lockfile and not lockfile.integrity(parsed.text, ctx) and lockfile.integrity(of_manifest, ctx) then return of_manifest end
  return parsed.text
end

--- The name of a document: its digest, which wins over its tag.
function M.name_of(parsed) return parsed.manifest and "sha256:" .. parsed.manifest or parsed.tag end

--- The immutable reference of what was written.
function M.written(parsed, digest)
  return ("oci://%s/%s%s@sha256:%s"):format(parsed.registry, parsed.repository, parsed.tag and ":" .. parsed.tag or "",
    digest)
end

--- The same for the package alone, under the tag beside that of its artifact.
function M.package_reference(parsed, digest)
  return ("oci://%s/%s:%s%s@sha256:%s"):format(parsed.registry, parsed.repository, parsed.tag, M.PACKAGE, digest)
end

--- Returns what is wrong with a target, or nil.
function M.fault(parsed, ref)
  if parsed.manifest then return errors.new("invalid_reference", "a push goes to a tag, not to a digest", ref) end
  if parsed.ns then return errors.new("invalid_reference", "a push goes to a registry, not to a mirror", ref) end
  if parsed.sha256 then
    return errors.new("invalid_reference", "what is written has a digest of its own: leave out #sha256=", ref)
  end
  if #parsed.tag + #M.PACKAGE > M.MAX_TAG_BYTES then
    return errors.new("invalid_reference", ("its tag is too long: '%s' is added to it"):format(M.PACKAGE), ref)
  end
end

local MAX_AT_ONCE = 4

-- Futures that are cancelled when their owner ends, with an error or by Ctrl-C.
local until_closed = { __close = function(futures)
  for _, future in ipairs(futures) do future:cancel() end
end }

--- Does the same work for each item of a list, for a few of them at a time.
-- @tparam theaterref.future task
-- @tparam table list
-- @tparam function work `work(item, await)` returns a true value, or nil and an error, after which no other
-- item is begun
-- @treturn boolean
-- @return[2] nil
-- @treturn[2] table an error
function M.side_by_side(task, list, work)
  local futures <close>, at, failure = setmetatable({}, until_closed), 0, nil
  local function run(own)
    local function await(future, is_own) return own:await(future, not is_own) end
    while at < #list and not failure do
      at = at + 1
      local ok, err = work(list[at], await)
      if not ok then failure = failure or err end
    end
    if failure then return nil, failure end
    return true
  end
  for i = 1, math.min(MAX_AT_ONCE, #list) do
    futures[i] = Future.run({ reference = task.reference, has_steps = true }, run)
  end
  local first
  for _, future in ipairs(futures) do -- after a failure, too: an upload that is cut off stays open at its registry
    local ok, err = task:await(future)
    if not ok then first = first or err end
  end
  return not first or nil, first
end

local MAX_WRITES = 4 -- of one tag, and a look at it after each but the last

--- Adds to the document of a tag that others write to, until a look at it finds nothing to add. Registries
-- have no compare-and-set, so another writer may have replaced what was written. 'add' returns a result, nil
-- and an error, or false if it wrote and is to look again.
function M.until_kept(tag, add)
  for _ = 1, MAX_WRITES do
    local result, err = add()
    if result ~= false then return result, err end
  end
  return nil, errors.new("io", ("others write the tag %s at the same time, and what was written is lost; try again"):format(tag))
end

return M
