--- Events: what a resolver tells its policy, its log and its host. This is the list of
-- them all; the log, the guides and the editor stubs go by it.
--
-- A level says how loud an event is in a log:
--
-- * `error`: a policy script that changed is broken, and its old rules stay in force
-- * `warn`: something went wrong, but the call still succeeded
-- * `info`: a failure, which its caller gets as an error as well; a policy script was
--   reloaded
-- * `debug`: all else
-- @module theaterref.events
local errors = require "theaterref.error"

local M = {}

-- Each has its type, its level, its fields with their types, what it means, and
-- its line in a log.
M.list = {
  { "resolved", "debug", { reference = "string", purpose = "string", bytes = "number" },
    "a reference was resolved; `reference` is the candidate they came from",
    function(e) return ("%s: %s"):format(e.reference, errors.bytes(e.bytes)) end },
  { "cache", "debug", { reference = "string", purpose = "string", outcome = "string" },
    "a cache was consulted; `outcome` is `hit`, `stale`, `wait`, `miss` or `disk`",
    function(e) return ("%s: cache %s"):format(e.reference, e.outcome) end },
  { "retry", "warn", { reference = "string", attempts = "number" },
    "a fetch succeeded after several attempts",
    function(e) return ("%s: fetched after %d attempts"):format(e.reference, e.attempts) end },
  { "retries_failed", "info", { reference = "string", attempts = "number" },
    "a fetch was given up after several attempts",
    function(e) return ("%s: given up after %d attempts"):format(e.reference, e.attempts) end },
  { "fallback", "warn", { reference = "string", message = "string" },
    "a candidate failed, with `message`, and `reference` is tried next",
    function(e) return ("trying %s instead: %s"):format(e.reference, e.message) end },
  { "registry", "warn", { reference = "string", message = "string" },
    "credentials for the registry of `reference` cannot be used, or their helper failed; each `message` once in five minutes",
    function(e) return ("%s: %s"):format(e.reference, e.message) end },
  { "remote_store", "warn", { reference = "string", message = "string" },
    "a remote store's bucket cannot be reached, so that a label counts as it was; or it has wrong bytes, which are refused",
    function(e) return ("%s: %s"):format(e.reference, e.message) end },
  { "disk_cache", "warn", { reference = "string", message = "string" },
    "the disk cache cannot be written, once for each process and folder; or derived code in it was refused",
    function(e) return ("%s: disk cache: %s"):format(e.reference, e.message) end },
  { "follow_changed", "info", { reference = "string", sha256 = "string", bytes = "number" },
    "a followed reference has new content, the first included",
    function(e) return ("%s: new content, sha256 %s, %s"):format(e.reference, e.sha256, errors.bytes(e.bytes)) end },
  { "follow_failed", "warn", { reference = "string", message = "string" },
    "a check of a followed reference failed, new content was rejected, or its function failed; the last good content stays",
    function(e) return ("%s: not followed for now: %s"):format(e.reference, e.message) end },
  { "phase", "debug", { reference = "string", name = "string", seconds = "number", bytes = "number" },
    "the step `name` of a plan ended",
    function(e) return ("%s: %s took %.3f ms, %s"):format(e.reference, e.name, e.seconds * 1000, errors.bytes(e.bytes)) end },
  { "failure", "info", { reference = "string", name = "string", seconds = "number", bytes = "number", message = "string" },
    "the step `name` of a plan failed",
    function(e) return ("%s: %s failed: %s"):format(e.reference, e.name, e.message) end },
  { "refusal", "info", { reference = "string", purpose = "string", reason = "string" },
    "a rule refused a reference, or, with the purpose `spawn`, a manifest",
    function(e) return ("%s: refused as %s: %s"):format(e.reference, e.purpose, e.reason) end },
  { "signed", "debug", { reference = "string", purpose = "string", signed_by = "string" },
    "a reference's bytes have the signatures that are required; `signed_by` names the keys",
    function(e) return ("%s: signed by %s"):format(e.reference, e.signed_by) end },
  { "misspelt_key", "warn", { reference = "string", name = "string", known = "string" },
    "the manifest has the unknown key `name`, which looks like the key `known`",
    function(e) return ("%s: the key '%s' is unknown (did you mean '%s'?)"):format(e.reference, e.name, e.known) end },
  { "state_not_json", "warn", { reference = "string", message = "string" },
    "the initial state is not JSON, so the manifest's variables are empty; `message` says where",
    function(e) return ("%s: the initial state is not JSON, so variables are empty: %s"):format(e.reference, e.message) end },
  { "policy_reloaded", "info", { reference = "string" },
    "a policy script that changed is in force; `reference` is its path",
    function(e) return e.reference .. ": the changed rules are in force" end },
  { "policy_broken", "error", { reference = "string", message = "string" },
    "a policy script that changed is broken, and its old rules stay in force",
    function(e) return ("%s: the old rules stay in force: %s"):format(e.reference, e.message) end },
}

M.by_type = {}
for _, event in ipairs(M.list) do
  event.type, event.level, event.fields, event.does, event.line = table.unpack(event)
  M.by_type[event.type] = event
end

--- Makes an event.
-- @tparam string kind its type
-- @tparam table event its fields
-- @treturn table the same, with its `type`. Raises if it does not have the fields that
-- the list names
function M.new(kind, event)
  local known = M.by_type[kind] or error("there is no event '" .. tostring(kind) .. "'", 2)
  for name, expected in pairs(known.fields) do
    if type(event[name]) ~= expected then
      error(("the field '%s' of the event '%s' must be a %s, not a %s"):format(name, kind, expected, type(event[name])), 2)
    end
  end
  event.type = kind
  return event
end

return M
