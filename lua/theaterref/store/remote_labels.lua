--- Moving labels of remote stores: compare and set on an object.
--
-- A label's bytes do not show who wrote them. So each attempt puts a UUID, and those of earlier writes, into the object's
-- metadata. A writer whose answer was lost reads the label again: if it finds its own UUID, it won.
-- @module theaterref.store.remote_labels
local core = require "theaterref.core"
local engines = require "theaterref.store.remote_engine"
local errors = require "theaterref.error"
local objects = require "theaterref.store.remote_objects"
local random = require "theaterref.store.random"
local text = require "theaterref.s3.text"

local M = {}

local LOCK_SECONDS = 30 -- that a call waits for others that move labels, by default
local FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1
local MAX_FAILURES = 8  -- of the server in one call
local MAX_WRITERS, MAX_HISTORY = 12, 20 -- in an object's metadata, of which 2 KB fit

-- -------------------------------------------------------------------- names

-- Refuses a label that is the folder of another, or is below another: no folder could hold both.
local function check_place(store, name)
  local below
  local ok, err = objects.each(store, "labels/" .. name .. "/", function(key)
    below = key
    return false
  end, 1)
  if not ok then return nil, err end
  if below then
    return nil, errors.new("invalid_reference", ("label %s would be a folder of the label %s/%s"):format(name, name, below))
  end
  for at in name:gmatch "()/" do
    local folder = name:sub(1, at - 1)
    local label, why = objects.label(store, folder)
    if label then
      return nil, errors.new("invalid_reference", ("label %s would be in a folder that is the label %s"):format(name, folder))
    end
    if label == nil then return nil, why end
  end
  return true
end

-- Checks the name of a new label.
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

-- The hashes of a label's history after a move, the newest first.
local function history_with(store, current, hash)
  local list, seen, most = {}, { [hash] = true }, math.min(store.options.label_history or core.label_history, MAX_HISTORY)
  local function add(former)
    if former and not seen[former] and #list < most then
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
  local metadata = { ["theaterref-writer"] = uuid }
  objects.add_list(metadata, "theaterref-writers", table.move(current and current.writers or {}, 1, MAX_WRITERS, 1, {}))
  objects.add_list(metadata, "theaterref-history", history_with(store, current, hash))
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

local function has_any(list, items)
  for _, item in ipairs(items) do
    if has(list, item) then return true end
  end
  return false
end

-- True if an error is the object store's own answer. Such a request is finished. One whose answer was lost, or came from a
-- proxy, may still be carried out.
local function is_over(err) return err.status ~= nil and err.code ~= nil end

-- True if a label is the very write that it was before. Each write has a UUID of its own, so nothing was applied meanwhile,
-- though the hash, and with it the ETag, may come back.
local function is_same_write(before, now)
  return before and now and before.writer ~= nil and now.writer == before.writer and now.etag == before.etag
end

-- True if others have written a label since it was 'before', one after the other, as far as their writers knew.
local function is_later_write(before, now)
  if not now or now.writer == nil then return false end
  if before then return before.writer ~= nil and has(now.writers, before.writer) end
  return #now.writers <= MAX_WRITERS -- all since it was made
end

-- True for the answer of Ceph's gateway to a conditional write that lost to another at the same moment. A write that failed
-- in another way may get the same answer, so the label must have been written by others.
local function is_lost_race(err) return err.status == 500 and err.code == "UnknownError" end

-- True if the label as it is now proves that a write with an unclear answer was not carried out and never will be.
local function is_settled(err, before, now)
  return is_over(err) and (is_same_write(before, now) or is_lost_race(err) and is_later_write(before, now))
end

-- True if a condition of a write did not hold.
local function is_conflict(err)
  return objects.is_absent(err) or err.kind == "conflict" or err.status == 412 or err.status == 409
end

-- Describes a label as it is now, for a message.
local function state_of(now)
  if not now then return "there is no such label now" end
  return now.hash and "the label points at " .. now.hash .. " now" or "the label holds no hash now"
end

-- The error for a write with an unknown outcome. 'now' is the label as it was read afterwards; nil if that failed.
local function unknown_outcome(name, what, err, now, why)
  local state = now ~= nil and state_of(now) or "reading it again failed: " .. why.message
  if not is_over(err) then state = state .. ", and the request may yet take effect" end
  local other = errors.new("unknown_outcome", ("label %s may or may not have %s: %s; %s; read it before you change it again")
    :format(name, what, err.message, state))
  other.status, other.code = err.status, err.code
  return nil, other
end

-- The error for a refused conditional request. A server that rejects the condition is no longer the one that was tested.
local function refusal(store, name, what, method, err)
  if not engines.is_unsupported(err) then return err end
  engines.forget(store)
  local other = errors.new("policy", ("label %s was not %s: the server does not honour %s with If-Match any more (%s); the next "
    .. "call tries out again what it honours"):format(name, what, method, err.message))
  other.status, other.code = err.status, err.code
  return other
end

-- A view of a store whose requests together take at most `lock_timeout`. `extend(seconds)` grants more time.
local function within_lock_timeout(store)
  local seconds = store.options.lock_timeout or LOCK_SECONDS
  if seconds < 0 then return store, function() end end
  local till, outer = core.now() + seconds, store.seconds_left
  local function seconds_left() return math.max(0, math.min(till - core.now(), outer and outer() or math.huge)) end
  return store:within { seconds_left = seconds_left }, function(more) till = till + more end
end

-- Attempts with growing pauses, until a deadline or until the server has failed too often.
local Attempts = {}
Attempts.__index = Attempts

local function attempts(store)
  local till = core.now() + (store.seconds_left and store.seconds_left() or math.huge)
  return setmetatable({ store = store, till = till, count = 1, failures = 0, pause = FIRST_PAUSE }, Attempts)
end

-- Pauses after an attempt. 'is_failure': the server failed, and not because of other writers. False: no attempts are left.
function Attempts:next(is_failure)
  if is_failure then self.failures = self.failures + 1 end
  local pause = self.pause * math.random()
  if self.failures >= MAX_FAILURES or core.now() + pause >= self.till then return false end
  objects.pause(self.store, pause)
  self.count, self.pause = self.count + 1, math.min(2 * self.pause, LONGEST_PAUSE)
  return true
end

-- The error when all attempts have failed.
function Attempts:failure(name, what, last)
  local why = last.unknown and "the server fails" or "others change it all the time"
  local other = errors.new(last.unknown and "http_status" or "timeout",
    ("label %s was not %s in %d attempts: %s: %s"):format(name, what, self.count, why, last.message))
  other.status, other.code = last.status, last.code
  return nil, other
end

-- ---------------------------------------------------------------------- moves

-- A move: `store`, within `lock_timeout`, and `whole_store`, without it; `name`, `hash`, `expect` (nil, false or a hash),
-- `engine`, `current` (the label as it was read), `uuids` of the attempts (any may be carried out late) and `asked`, when
-- the last began, `is_settled` (the last attempt was not carried out).
local Move = {}
Move.__index = Move

-- True if the label is as the caller expects it.
function Move:fits()
  if self.expect == nil then return true end
  if not self.expect or not self.current then return not self.expect and not self.current end
  return self.current.hash == self.expect
end

function Move:doubt(err, now, why) return unknown_outcome(self.name, "moved to " .. self.hash, err, now, why) end

-- Decides after a failed attempt, by the label as it is now. Returns "again"; or true or false, the outcome; or nil and
-- an error.
--
-- Our UUID in the chain of writers proves that the write was applied. Nothing in the chain proves that it was not: a writer
-- between us and another one is missing there if the label came back to the hash that the other one had read. So where the
-- answer was lost, only our UUID, or the unchanged object after an answer that ended the request, settle the outcome; or the
-- server says which writer lost. A move that expects nothing does not need to know whether a request that is over was carried
-- out: it can be made again.
function Move:after(err)
  if not err.unknown and not is_conflict(err) then
    return nil, self.engine.moves and refusal(self.store, self.name, "moved", "PUT", err) or err
  end
  local now, why = objects.label(self.store, self.name)
  if now == nil and not err.unknown then return nil, why end
  if now then self.asked = now.asked end
  if now and has_any(now.writers, self.uuids) then return true, has(self.uuids, now.writer) and now.etag or nil end
  self.is_settled = not err.unknown or is_settled(err, self.current, now)
  if not (self.is_settled or now ~= nil and is_over(err) and self.expect == nil) then return self:doubt(err, now, why) end
  self.current = now
  if not self:fits() then return false end
  if now and now.hash == self.hash then return true, now.etag end
  return "again"
end

-- Renews content that the label is about to leave.
function Move:spare()
  local leaves = self.current and self.current.hash
  if leaves and leaves ~= self.hash and leaves ~= self.spared then objects.spare(self.store, leaves) end
  self.spared = leaves or self.spared
end

-- Attempts the move until its outcome is known. Returns as M.move, and the ETag if that is known.
function Move:run()
  local tries = attempts(self.store)
  while true do
    self:spare()
    local uuid = random.uuid()
    self.uuids[#self.uuids + 1], self.asked = uuid, core.time()
    local head, err = put_label(self.store, self.name, self.hash, self.current, uuid,
      self.engine.moves and self.engine.condition or false)
    if head then return true, head.etag end
    local before = self.current
    local outcome, what = self:after(err)
    if outcome ~= "again" then return outcome, what end
    if not tries:next(err.unknown and is_same_write(before, self.current)) then
      if not self.is_settled then return self:doubt(err, self.current) end
      return tries:failure(self.name, "moved", err)
    end
  end
end

-- Looks at the bucket after the move, again while it cannot be asked. Returns as 'ask' does.
function Move:look(ask)
  local tries = attempts(self.store)
  while true do
    local ok, err, what = ask()
    if ok or not objects.is_outage(err) or not tries:next(true) then return ok, err, what end
  end
end

-- Removes a label that was just made if it clashes with another one, made at the same time.
function Move:undo(etag, fault)
  local done, err
  if self.engine.removes and etag then
    done, err = self.store:client():delete(self.store.prefix .. "labels/" .. self.name,
      { if_match = self.engine.condition(etag) })
  end
  local state = done and "it is removed again" or ("it %s still there%s; remove one of the two")
    :format(err and err.unknown and "may be" or "is", err and " (" .. err.message .. ")" or "")
  return nil, errors.new(fault.kind, ("%s: somebody else made that one at the same time; %s"):format(fault.message, state))
end

-- Checks a label that has moved. Its name may be the folder of another by now, and a gc that did not see the label may have
-- deleted its content. True, or nil and an error.
function Move:check(etag)
  self.store = within_lock_timeout(self.whole_store)
  local store, name, hash = self.store, self.name, self.hash
  local ok, err, is_nowhere = true, nil, nil
  if not self.current then ok, err = self:look(function() return check_place(store, name) end) end
  if not ok and err.kind == "invalid_reference" then return self:undo(etag, err) end
  if ok then ok, err, is_nowhere = self:look(function() return objects.ensure(store, hash, nil, true) end) end
  if ok then return true end
  if is_nowhere then
    return nil, errors.new("not_found", ("label %s has moved to %s, which was deleted meanwhile: put it again"):format(name,
      hash))
  end
  local other = errors.new("unknown_outcome", ("label %s has moved to %s, but the look at the bucket after that failed, so its "
    .. "content may be gone, or the label the folder of another: %s; verify the bucket, and put the content again if it is "
    .. "missing"):format(name, hash, err.message))
  other.status, other.code = err.status, err.code
  return nil, other
end

-- Moves the label, and learns the outcome.
function Move:finish()
  local store, name = self.store, self.name
  local moved, etag = self:run()
  local ok, err = moved, etag
  if moved then ok, err = self:check(etag) end
  if ok and etag then store:know_label(name, self.hash, etag, self.asked) else store:expire_label(name) end
  return ok, err
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
  local whole_store, extend, engine, current = store
  store, extend = within_lock_timeout(store)
  engine, err = engines.of(store)
  if not engine then return nil, err end
  if expect ~= nil and not engine.moves then return nil, engines.refusal(store, "'expect'", "PUT with If-Match") end
  current, err = objects.label(store, name)
  if current == nil then return nil, err end
  local move = setmetatable({ store = store, name = name, hash = hash, expect = expect, current = current, engine = engine,
    whole_store = whole_store, uuids = {} }, Move)
  if not move:fits() then
    store:expire_label(name)
    return false
  end
  if not current then ok, err = check_place(store, name) end
  local began = core.now()
  if ok then ok, err = objects.ensure(whole_store, hash) end
  if not ok then return nil, err end
  extend(core.now() - began) -- an upload has its own limits
  if current and current.hash == hash then
    store:know_label(name, hash, current.etag, current.asked)
    return true
  end
  return move:finish()
end

-- ------------------------------------------------------------------ removals

-- Decides after a failed removal; as Move:after, with the label after "again". A removal that may have been carried out is not
-- repeated if others have made the label again since. 'earlier' is the error of an earlier attempt that may be carried out late.
local function after_removal(store, name, current, only_if, is_conditional, err, earlier)
  if not err.unknown and not is_conflict(err) then
    return nil, is_conditional and refusal(store, name, "removed", "DELETE", err) or err
  end
  local now, why = objects.label(store, name)
  if now == nil and not err.unknown then return nil, why end
  if now == false and not only_if then return (err.unknown or earlier) and true or false end
  if err.unknown and not is_settled(err, current, now) then return unknown_outcome(name, "been removed", err, now, why) end
  if not now or only_if and now.hash ~= only_if then
    if earlier then return unknown_outcome(name, "been removed", earlier, now) end
    return false
  end
  return "again", now
end

--- Removes a label.
-- @tparam table store
-- @tparam string name
-- @tparam[opt] string only_if the hash that it must point at
-- @treturn boolean whether it was there, and pointed at that hash
-- @return[2] nil
-- @treturn[2] table an error; of kind `unknown_outcome` if it may have been removed
function M.remove(store, name, only_if)
  local current, engine, err
  if only_if then
    only_if, err = normal_hash(only_if)
    if not only_if then return nil, err end
  end
  store = within_lock_timeout(store)
  local asked = core.time()
  current, err = objects.label(store, name)
  if current == nil then return nil, err end
  if current or only_if then
    engine, err = engines.of(store)
    if not engine then return nil, err end
  end
  if only_if and not engine.removes then
    return nil, engines.refusal(store, "removing a label only if it points at a hash", "DELETE with If-Match")
  end
  if not current then
    store:forget_label(name, asked)
    return false
  end
  if only_if and current.hash ~= only_if then
    store:expire_label(name)
    return false
  end
  if current.hash then objects.spare(store, current.hash) end
  store:expire_label(name)
  local tries, earlier = attempts(store), nil
  while true do
    local outcome, what, ok = true
    -- Without a condition, it is sent once: meanwhile, somebody may have made the label anew.
    ok, err = store:client():delete(store.prefix .. "labels/" .. name,
      { if_match = engine.removes and engine.condition(current.etag) or nil, once = not engine.removes })
    if not ok then outcome, what = after_removal(store, name, current, only_if, engine.removes, err, earlier) end
    if outcome == true then store:forget_label(name) end
    if outcome ~= "again" then return outcome, what end
    local before = current
    current, earlier = what, err.unknown and err or earlier
    if not tries:next(err.unknown and is_same_write(before, current)) then return tries:failure(name, "removed", err) end
  end
end

return M
