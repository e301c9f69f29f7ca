--- Schemes that a policy defines: a function answers bytes, a future, or another
-- reference.
-- @module theaterref.source.script
local core = require "theaterref.core"
local errors = require "theaterref.error"
local paths = require "theaterref.paths"

local M = { is_chain = true, scope = "policy_scope" }

function M.parse(reference, scheme)
  if not reference:find "[%c]" then return { scheme = scheme, text = scheme .. reference:sub(#scheme + 1) } end
  return nil, errors.new("invalid_reference", "Invalid reference: it has a control character in it",
    reference:gsub("%c", "?"))
end

--- Relative to what stands in front of the last '/'. An absolute path stays one.
function M.join(base, reference)
  if reference:find "^/" then return reference end
  return paths.join_url(base.text, reference)
end

function M.key(parsed) return parsed.text end

function M.beside(parsed, ending)
  local before, query = parsed.text:match "^([^?#]*)([^#]*)"
  return before .. ending .. query
end

--- A function's answer may come from anywhere.
function M.is_remote() return true end

function M.start(job, context)
  local scheme = job.parsed.scheme
  local ok, answer, err = errors.pcall(context.policy.schemes[scheme], job.target, job.ctx)
  if not ok then
    if errors.is(answer) then return nil, errors.hide(answer, job.target) end
    return nil, errors.hide(errors.new("policy", ("the scheme '%s' failed: %s"):format(scheme, errors.message_of(answer))),
      job.target)
  end
  if answer == nil then
    if errors.is(err) then return nil, errors.hide(err, job.target) end
    local why = errors.text_of(err == nil and "nothing there" or err)
    if why then return nil, errors.hide(errors.new("not_found", why), job.target) end
    return nil, errors.new("policy", ("the scheme '%s' returned nil and %s; after nil, a text with the reason was expected")
      :format(scheme, errors.message_of(err)))
  end
  if type(answer) == "string" then answer = core.blob(answer) end
  if core.is_blob(answer) then return { blob = answer } end
  local plain = type(answer) == "table" and getmetatable(answer) == nil
  if plain and type(answer.reference) == "string" then return { reference = answer.reference } end
  return { future = answer } -- or nothing that a scheme may answer, as the caller finds out
end

return M
