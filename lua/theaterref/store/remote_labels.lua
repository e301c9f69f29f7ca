--- Moving labels of remote stores: compare and set on an object.
--
-- A label's bytes do not tell who wrote them. Each write has a UUID, and those of the writes before it, in the object's
-- metadata. A writer whose answer was lost reads the label again: its own UUID means that it won.
-- @module theaterref.store.remote_labels
local core = require "theaterref.core"
local engines = require "theaterref.store.remote_engine"
local errors = require "theaterref.error"
local objects = require "theaterref.store.remote_objects"
local random = require "theaterref.store.random"
local text = require "theaterref.s3.text"

local M = {}

local MAX_TRIES, PAUSE = 8, 0.05
local MAX_WRITERS, MAX_HISTORY = 8, 20 -- in an object's metadata, of which 2 KB fit

-- -------------------------------------------------------------------- names

-- Refuses a label that is the folder of another, or is below another: no folder could hold both.
local function check_place(store, name)
  local below
  local ok, err = objects.each(store, "labels/" .. name .. "/", function(key)
    below = key
    return false
  end, { max = 1 })
  if not ok then return nil, err end
  if below then
    return nil, errors.new("invalid_reference", ("label %s would be a folder of the label %s/%s"):format(name, name, below))
  end
  for at in name:gmatch "()/" do
    local folder = name:sub(1, at - 1)
    local head, why = objects.head(store, "labels/" .. folder)
    if head then
      return nil, errors.new("invalid_reference", ("label %s would be in a folder that is the label %s"):format(name, folder))
    end
    if why.kind ~= "not_found" then return nil, why end
  end
  return true
end

-- Checks a name that is about to be a label's.
local function check_name(store, name)
  local fault = core.odd_label_fault(name)
  if fault then return nil, errors.new("invalid_reference", ("Invalid label '%s': %s"):format(name, fault)) end
  if #store.prefix + #"labels/" + #name > text.MAX_KEY_BYTES then
    return nil, errors.new("invalid_reference", ("Invalid label: its key in %s is longer than %d bytes"):format(store.name,
      text.MAX_KEY_BYTES))
  end
  return true
end

-- Checks a hash. Returns it in lower case.
local function normal_hash(hash)
  if objects.hash_in(hash) == hash:lower() then return hash:lower() end
  return nil, errors.new("invalid_reference",
    ("Invalid hash: '%s' (40 hex digits of SHA-1 or 64 of SHA-256 were expected)"):format(hash))
end

-- ------------------------------------------------------------------- writing

-- The hashes that a label leaves behind, the newest first.
local function history_with(store, current, hash)
  local list, seen, most = {}, { [hash] = true }, math.min(store.options.label_history or core.label_history, MAX_HISTORY)
  local function add(former)
    if not seen[former] and #list < most then
      seen[former], list[#list + 1] = true, former
    end
  end
  if current then
    add(current.hash)
    for _, former in ipairs(current.history) do add(former) end
  end
  return list
end

-- Writes a label's object. 'condition' is false for a write that replaces whatever is there.
local function put_label(store, name, hash, current, uuid, condition)
  local client, err = store:client()
  if not client then return nil, err end
  local former, history = current and current.writers or {}, history_with(store, current, hash)
  local metadata = { ["theaterref-writer"] = uuid,
    ["theaterref-writers"] = former[1] and table.concat(former, ",", 1, math.min(#former, MAX_WRITERS)) or nil,
    ["theaterref-history"] = history[1] and table.concat(history, ",") or nil }
  local options = { metadata = metadata, content_type = "text/plain" }
  if condition then
    options.if_match = current and condition(current.etag) or nil
    options.if_none_match = not current and "*" or nil
  end
  return client:put(store.prefix .. "labels/" .. name, core.blob(hash), options)
end

-- ------------------------------------------------------------------ outcomes

local function has(list, item)
  for _, other in ipairs(list) do
    if other == item then return true end
  end
  return false
end

-- True if a write that failed may have been applied, or may yet be.
local function may_be_applied(err)
  return err.unknown or err.kind == "network" or err.kind == "timeout" or err.kind == "cancelled" or (err.status or 0) >= 500
end

-- True if a condition of a write did not hold.
local function is_conflict(err)
  return objects.is_absent(err) or err.kind == "conflict" or err.status == 412 or err.status == 409
end

-- Judges a write that was to replace 'before' by the label as it is now: "ours"; "unchanged"; "other", if the write was not
-- applied; or "unknown".
local function judge(before, now, uuid)
  if now and has(now.writers, uuid) then return "ours" end
  if not before or not now then return before == now and "unchanged" or "unknown" end
  if now.etag == before.etag and now.writer == before.writer then return "unchanged" end
  -- The writers are without a gap. Behind this label's former one, ours is not among them.
  return before.writer and has(now.writers, before.writer) and "other" or "unknown"
end

local function unknown_outcome(what, err)
  local other = errors.new("unknown_outcome", ("%s may or may not have %s"):format(what, err.message))
  other.status = err.status
  return nil, other
end

-- A move at work: `store`, `name`, `hash`, `expect` (nil, false or a hash), `current` (the label as it was read), `uuid`,
-- `condition`, `unknown` (an attempt may have been applied).
local Move = {}
Move.__index = Move

-- True if the label is as the caller expects it.
function Move:fits()
  if self.expect == nil then return true end
  if not self.expect or not self.current then return not self.expect and not self.current end
  return self.current.hash == self.expect
end

function Move:doubt(err)
  return unknown_outcome("label " .. self.name, { status = err.status, message = ("moved to %s: %s; read the label to see")
    :format(self.hash, err.message) })
end

-- Decides after a failed attempt. Returns "again"; or true or false, the outcome; or nil and an error.
function Move:after(err)
  local lost = may_be_applied(err)
  if not lost and not is_conflict(err) then
    if self.unknown then return self:doubt(err) end
    return nil, err
  end
  self.unknown = self.unknown or lost
  local now, why = objects.label(self.store, self.name)
  if now == nil then
    if self.unknown then return self:doubt(why) end
    return nil, why
  end
  local verdict = judge(self.current, now, self.uuid)
  if verdict == "ours" then return true end
  if verdict == "unchanged" then return "again" end
  if self.unknown and verdict == "unknown" then return self:doubt(err) end
  -- Somebody else was faster. Nothing that was sent can be applied any more.
  self.current, self.unknown = now, false
  if not self:fits() then return false end
  self.uuid = random.uuid()
  return "again"
end

-- Attempts the move until its outcome is known.
function Move:run()
  local last
  for try = 1, MAX_TRIES do
    if self.current and self.current.hash ~= self.hash then objects.spare(self.store, self.current.hash) end
    local head, err = put_label(self.store, self.name, self.hash, self.current, self.uuid, self.condition)
    if head then return true, head.etag end
    local outcome
    outcome, last = self:after(err)
    if outcome ~= "again" then return outcome, last end
    last = err
    objects.pause(self.store, PAUSE * try * (0.5 + math.random()))
  end
  if self.unknown then return self:doubt(last) end
  return nil, errors.new("timeout", ("label %s was not moved in %d attempts: %s"):format(self.name, MAX_TRIES, last.message))
end

--- Points a label at content.
-- @tparam table store
-- @tparam string name
-- @tparam string hash
-- @tparam ?string|boolean expect as the option of a store's `label`
-- @treturn boolean false: the label was not as expected
-- @return[2] nil
-- @treturn[2] table an error; of kind `unknown_outcome` if the label may have moved
function M.move(store, name, hash, expect)
  local ok, err = check_name(store, name)
  if ok then hash, err = normal_hash(hash) end
  if not err and expect then expect, err = normal_hash(expect) end
  if err then return nil, err end
  local engine, current
  engine, err = engines.of(store)
  if not engine then return nil, err end
  if expect ~= nil and not engine.moves then return nil, engines.refusal(store, "'expect'", "PUT with If-Match") end
  current, err = objects.label(store, name)
  if current == nil then return nil, err end
  local move = setmetatable({ store = store, name = name, hash = hash, expect = expect, current = current, uuid = random.uuid(),
    condition = engine.moves and engine.condition or false, unknown = false }, Move)
  if not move:fits() then
    store:expire_label(name)
    return false
  end
  if not current then ok, err = check_place(store, name) end
  if ok then ok, err = objects.ensure(store, hash) end
  if not ok then return nil, err end
  if current and current.hash == hash then return true end
  local moved, etag = move:run()
  if not moved then
    store:expire_label(name)
    return moved, etag
  end
  if etag then store:know_label(name, hash, etag) else store:expire_label(name) end
  ok, err = objects.ensure(store, hash, nil, true) -- a gc that did not see the label yet may have deleted it
  if ok or not objects.is_absent(err) then return true end
  return nil, errors.new("not_found", ("label %s has moved to %s, which was deleted meanwhile: put it again"):format(name, hash))
end

-- Decides after a failed removal; as Move:after.
local function after_removal(store, name, current, only_if, err)
  local lost = may_be_applied(err)
  if not lost and not is_conflict(err) then return nil, err end
  local now, why = objects.label(store, name)
  if now == nil then
    if not lost then return nil, why end
    return unknown_outcome("label " .. name, { message = "been removed: " .. why.message })
  end
  if not now and lost and only_if then
    return unknown_outcome("label " .. name, { message = "been removed by this call, or by another: " .. err.message })
  end
  if not now then return lost end
  if now.hash ~= (only_if or now.hash) then return false end
  if now.etag == current.etag or not only_if then return "again" end
  return false
end

--- Removes a label.
-- @tparam table store
-- @tparam string name
-- @tparam[opt] string only_if the hash that it must point at
-- @treturn boolean whether it was there, and pointed at that hash
-- @return[2] nil
-- @treturn[2] table an error; of kind `unknown_outcome` if it may have been removed
function M.remove(store, name, only_if)
  local engine, current, err
  if only_if then
    only_if, err = normal_hash(only_if)
    if not only_if then return nil, err end
    engine, err = engines.of(store)
    if not engine then return nil, err end
    if not engine.removes then
      return nil, engines.refusal(store, "removing a label only if it points at a hash", "DELETE with If-Match")
    end
  end
  current, err = objects.label(store, name)
  if current == nil then return nil, err end
  if not current or only_if and current.hash ~= only_if then return false end
  objects.spare(store, current.hash)
  store:expire_label(name)
  for try = 1, MAX_TRIES do
    local client = store:client()
    local ok
    ok, err = client:delete(store.prefix .. "labels/" .. name, { if_match = only_if and engine.condition(current.etag) or nil })
    local outcome = true
    if not ok then outcome, err = after_removal(store, name, current, only_if, err) end
    if outcome == true then store:forget_label(name) end
    if outcome ~= "again" then return outcome, not outcome and err or nil end
    objects.pause(store, PAUSE * try * (0.5 + math.random()))
  end
  return nil, errors.new("timeout", ("label %s was not removed in %d attempts"):format(name, MAX_TRIES))
end

return M
