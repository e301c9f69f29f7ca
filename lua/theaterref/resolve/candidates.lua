--- The candidates of a reference, and what their failures say together.
-- @module theaterref.resolve.candidates
local errors = require "theaterref.error"
local reference = require "theaterref.reference"

local M = {}

--- Returns the candidates of a reference: what the rule `rewrite` answers, joined to the
-- manifest where that is still relative.
-- @tparam table context
-- @tparam string ref as written
-- @tparam table ctx
-- @treturn string|table one, or a list to try in order
-- @return[2] nil
-- @treturn[2] table an error
function M.list(context, ref, ctx)
  local base = ctx.manifest_reference
  if not context.asks.rewrite then
    if not base then return ref end
    return reference.join(base, ref)
  end
  local answer, _, err = context:ask("rewrite", ref, ctx)
  if err then return nil, err end
  if not base then return answer end
  if type(answer) == "string" then return reference.join(base, answer) end
  local list = {}
  for i, candidate in ipairs(answer) do
    list[i], err = reference.join(base, candidate)
    if not list[i] then return nil, err end
  end
  return list
end

--- Returns what the references in a document are relative to: the reference as it was
-- asked. One without a scheme may have been a name that `rewrite` knew, so what it was
-- rewritten to counts.
-- @tparam string asked
-- @tparam string target the candidate that was loaded
-- @tparam[opt] string manifest the digest of the manifest in a registry that led to it: other
-- references are read at that one, too
-- @treturn string
function M.base(asked, target, manifest)
  local base = reference.scheme(asked) and asked or target
  return manifest and reference.at_digest(base, manifest) or base
end

-- Failures that end the walk: another candidate would share them, or must not hide them.
local final = { denied = true, policy = true, invalid_reference = true, cancelled = true }

--- True if no further candidate may be tried after an error. A mirror that wants tokens from a
-- place that is not listed is a mirror that failed: nothing was sent to that place.
function M.is_final(err) return final[err.kind] == true and not err.may_try_next end

-- The kinds of failures, the one that says most first.
local order = { "policy", "digest_mismatch", "untrusted", "rejected", "denied", "cancelled", "corrupt", "tls", "too_large",
  "http_status", "not_found", "timeout", "network" }
local rank = {}
for i, kind in ipairs(order) do rank[kind] = i end

--- Returns one error for candidates that all failed: of the kind that says most, with each
-- candidate's reason.
-- @tparam table failures a list of `{ target =, err = }`, at least one
-- @treturn table
function M.failure(failures)
  if #failures == 1 then return failures[1].err end
  local worst, lines = failures[1].err, {}
  for i, failure in ipairs(failures) do
    local err = failure.err
    if (rank[err.kind] or #order + 1) < (rank[worst.kind] or #order + 1) then worst = err end
    lines[i] = reference.redact(failure.target) .. ": " .. err.message
  end
  local all = errors.new(worst.kind, ("none of %d candidates could be resolved: %s"):format(#failures, table.concat(lines, "; ")))
  all.status, all.errno = worst.status, worst.errno
  return all
end

return M
