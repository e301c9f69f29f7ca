--- Derived bytes: a function makes them of a blob, once for each SHA-256 and recipe.
--
-- A claim on both decides who computes. The cache and its disk cache keep the result like
-- any other; from disk, only files that nobody else can write to are taken.
-- @module theaterref.resolve.derive
local caches = require "theaterref.cache"
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

-- Lets another caller lead, unless this one completed or failed.
local lead_mark = { __close = function(mark) if not mark.is_over then mark.lead:cancel() end end }

local function warn(context, key, err)
  context:emit("disk_cache", { reference = errors.redact_reference(key), message = tostring(err) })
end

-- Calls the function. Returns its bytes, or nil and an error.
local function compute(cache, key, lead, make, blob)
  local running <close>, fault = core.derivation(cache, key, lead)
  if not running then return nil, fault end
  local ok, answer, why = pcall(make, blob)
  if not ok and errors.is_interrupt(answer) then error(answer, 0) end
  if not ok then answer, why = nil, answer end
  if type(answer) == "string" then return core.blob(answer) end
  if core.is_blob(answer) then return core.unmapped(answer) end
  if answer ~= nil then
    return nil, errors.new("policy", ("the function of derive returned a %s; bytes were expected"):format(type(answer)))
  end
  if errors.is(why) and math.type(why.status or 0) and type(why.kind) == "string" and type(why.message) == "string" then
    return nil, why
  end
  return nil, errors.new("policy", "the function of derive failed: "
    .. (why == nil and "it returned nil, and gave no reason" or errors.message_of(why)))
end

-- Gets the bytes as the leader of their claim, from disk or from the function.
local function lead_claim(context, cache, key, make, blob, lead)
  local mark <close> = setmetatable({ lead = lead, is_over = false }, lead_mark)
  local disk = caches.disk_cache_of(cache)
  local made, err
  if disk then made, err = disk:read(key, true) end
  if made then
    core.count "derived_disk"
    made, mark.is_over = lead:complete(made) and lead:wait(0) or made, true
    return made
  end
  if err then warn(context, key, err) end
  made, err = compute(cache, key, lead, make, blob)
  core.count(made and "derived" or "derive_failed")
  mark.is_over = true
  if not made then
    lead:fail(err.kind, err.message, err.status)
    return nil, err
  end
  made = lead:complete(made) and lead:wait(0) or made
  local kept, why, first = true, nil, nil
  if disk then kept, why, first = disk:write(key, made, {}) end
  if not kept and first then warn(context, key, why) end
  return made
end

--- Derives bytes within a future's work.
-- @tparam theaterref.future task
-- @tparam table context
-- @tparam theaterref.cache cache
-- @tparam string key of `core.derived_key`
-- @tparam function make
-- @tparam theaterref.blob blob
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error
function M.derive(task, context, cache, key, make, blob)
  while true do
    local how, what = cache:claim(key, { ttl = -1, keep_failure = 0 })
    if how == "hit" then return what end
    if how == "lead" then return lead_claim(context, cache, key, make, blob, what) end
    local made, err, why = task:await(what)
    if made then return made end
    if why ~= "abandoned" or task.over then return nil, err end
  end
end

return M
