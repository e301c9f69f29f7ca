--- A follower of a reference: what `resolver:follow` returns. It calls a function with the content, and again
-- whenever the content changes.
--
-- It works while its owner calls `step` or `wait`: an event loop watches `pollfd()` for reading, and calls `step` when it is
-- readable or after `timeout()` seconds; `cqueues.poll(follower)` works, too. Keep a reference to it: a collected follower stops.
-- @classmod theaterref.follower
local core = require "theaterref.core"
local errors = require "theaterref.error"
local reference = require "theaterref.reference"

local Follower = {}
Follower.__index = Follower

local MAX_BACKOFF = 600 -- seconds, unless the interval is longer
local AFTER_CHANGE = 0.02 -- seconds between two looks at what changes all the time
local UNSETTLED = 1 -- seconds, as core.file_version has it
local MAX_STEPS = 8 -- in one call of 'step'

-- A text that is the same in all states of this process, and in no other: its number, and where its code lies, since
-- processes in containers often have the same number.
local function process() return core.process_number() .. tostring(core.now) end

-- A number from 0 to 1 for a moment. It is the same for all followers of a reference in this process, so that they share a
-- check. It differs between processes, so that they do not all ask their server at once.
local function share(self, moment)
  local text = ("%s %s %d"):format(process(), self.reference, math.floor(moment / self.interval + 0.5))
  return tonumber(core.digest(text):sub(1, 8), 16) / 0xFFFFFFFF
end

-- Seconds until the check after the one at 'moment'.
local function pause(self, moment, seconds) return seconds * (1 + self.jitter * share(self, moment)) end

-- Seconds, without jitter, until the next check after so many failures in a row.
local function backoff(self, failures)
  return math.min(self.interval * 2.0 ^ math.min(failures - 1, 60), math.max(self.interval, MAX_BACKOFF))
end

-- Reports to its owner that a check or the function failed. Equal failures in a row are reported once.
local function tell_failure(self, err)
  local before = self.err
  self.err = err
  if before and tostring(before) == tostring(err) then return end
  self.emit("follow_failed", { reference = reference.redact(self.reference), message = tostring(err) })
  if self.on_error then errors.pcall(self.on_error, err, self.reference) end
end

-- Calls the function with new content.
local function deliver(self, blob)
  self.last, self.err, self.contents = blob, nil, self.contents + 1
  self.emit("follow_changed", { reference = reference.redact(self.reference), sha256 = blob:digest(), bytes = #blob })
  local ok, raised = errors.pcall(self.call, blob, self.reference)
  if ok then return end
  tell_failure(self, errors.is(raised) and raised
    or errors.about(errors.new("policy", "the function of follow failed: " .. errors.message_of(raised)), self.reference))
end

-- ------------------------------------------------------------------- checks

local function begin_check(self)
  self.began = core.now()
  -- A moment less than the interval: a check that is due must not find the last one fresh.
  self.follow = { cache = self.cache, max_age = self.interval * 0.99, keep_failure = backoff(self, self.failures + 1),
    known = self.known, watched = {}, keys = {}, places = {} }
  self.check = self.start(self.follow)
  if self.notifier then self.check:notify(self.notifier) end
end

-- Records the result of a check, for the next one.
local function remember(self, blob, job)
  local checked = core.now() - (job.age or 0)
  self.failures, self.due = 0, checked + pause(self, checked, self.interval)
  self.known = { [job.key or ""] = { blob = blob, record = job.record or {}, manifest = job.manifest, content = job.content } }
end

-- Removes entries from the cache of all followers that led to the last content but not to this.
local function forget_last(self)
  local keys = self.follow.keys
  for key in pairs(self.keys) do
    if not keys[key] then self.cache:drop(key) end
  end
  self.keys = keys
end

local function succeed(self, blob, job)
  remember(self, blob, job)
  local last = self.last
  local is_same = last and (last:same(blob) or last:digest() == blob:digest())
  core.count(is_same and "check_same" or "check_changed")
  if is_same then
    self.last, self.err = blob, nil
    for key in pairs(self.follow.keys) do self.keys[key] = true end
    return
  end
  forget_last(self)
  self.renew(self.follow.places, job, blob)
  deliver(self, blob)
end

-- Seconds by which two readings of the same time may differ.
local SAME = 0.001

-- Handles an error. It does not count if another check follows at once, or if it is from an earlier check.
local function fail(self, err, looks_again)
  local follow, now = self.follow, core.now()
  local moment = now
  if follow.failed_at and not follow.has_asked then moment = follow.failed_at end -- it is another check's
  core.count "check_failed"
  if not looks_again and (self.failures == 0 or moment > self.failed_at + SAME) then
    self.failures, self.failed_at = self.failures + 1, moment
  end
  self.due = moment + pause(self, moment, follow.is_local and self.interval or backoff(self, self.failures))
  if self.due <= now then self.due = now + pause(self, now, self.interval) end
  tell_failure(self, err)
end

local function end_check(self)
  local check, follow = self.check, self.follow
  local blob, err = check:wait(0)
  self.check = nil
  -- Check again: the content may have changed between this check and the beginning of a watch.
  local soon = self.watch:set(follow.watched) and 0 or follow.unsettled and UNSETTLED
  if blob then succeed(self, blob, check.job) else fail(self, err, soon == 0) end
  if soon and not self.closed then self.due = math.min(self.due, core.now() + soon) end
end

-- Does one step of work. False: there is nothing to do now.
local function advance(self)
  if self.check then
    if not self.check:done() then return false end
    end_check(self)
    return true
  end
  if self.watch:take() then
    self.failures, self.due = 0, math.min(self.due, self.began + AFTER_CHANGE)
  end
  if core.now() < self.due then return false end
  begin_check(self)
  return true
end

local function advance_all(self)
  for _ = 1, MAX_STEPS do
    if self.closed or not advance(self) then return end
  end
end

-- ---------------------------------------------------------- its owner's side

--- Makes a follower, which begins with a check.
-- @tparam table self `reference`, `call`, `on_error`, `interval`, `jitter`; `cache`, of all followers; `start(follow)`,
-- which returns the future of a resolve; `renew(places, job, blob)`, and `emit(kind, event)`
-- @treturn theaterref.follower
-- @local
function Follower.new(self)
  self.watch = core.watch()
  self.due, self.began, self.failures, self.contents, self.known, self.keys = core.now(), 0, 0, 0, {}, {}
  return setmetatable(self, Follower)
end

-- Makes the follower signal a notifier when there is something to do, and signals it now.
local function attach(self, notifier)
  self.notifier = notifier
  if not self.closed then self.watch:notify(notifier) end
  if self.check then self.check:notify(notifier) end
  notifier:signal()
end

-- Returns its own notifier: a descriptor, made when it is first needed.
local function own_notifier(self)
  if not self.notifier then attach(self, core.notifier()) end
  return self.notifier
end

--- Makes the follower signal this notifier of the core instead of its own. Call it before the first step. The caller drains
-- the notifier and obeys `timeout()`.
-- @tparam userdata notifier
-- @local
function Follower:notify(notifier)
  self.is_shared = true
  attach(self, notifier)
end

-- Makes its own notifier signal when the next work is due.
local function set_deadline(self)
  if not self.notifier or self.is_shared or self.closed then return end
  if self.check then self.notifier:set_deadline(self.check.deadline) else self.notifier:set_deadline(self.due) end
end

--- Does the work that is due: checks, and calls the function if the content has changed. It never waits. Within the function
-- it does nothing.
-- @treturn boolean false once it is closed
function Follower:step()
  if self.closed then return false end
  if self.running then return true end
  self.running = true
  if self.notifier and not self.is_shared then self.notifier:drain() end
  local ok, raised = pcall(advance_all, self)
  self.running = false
  set_deadline(self)
  if not ok then error(raised, 0) end -- such as Ctrl-C
  return not self.closed
end

--- The same as `step`, by the name that futures have: never done until it is closed.
-- @treturn boolean
function Follower:done() return not self:step() end

-- Returns the error of a wait that ended without content. Nothing failed to resolve.
local function ended(self, kind, why) return errors.new(kind, reference.redact(self.reference) .. ": " .. why) end

--- Waits until the function has been called with new content.
-- @tparam[opt] number seconds at most; without it, for ever
-- @treturn theaterref.blob the content
-- @treturn string the reference
-- @return[2] nil
-- @treturn[2] table an error: of kind `timeout` when the seconds are over, `cancelled` after `close` or an interrupt
function Follower:wait(seconds)
  if seconds ~= nil and (type(seconds) ~= "number" or seconds ~= seconds) then
    error("a number of seconds was expected, not " .. (seconds ~= seconds and "NaN" or "a " .. type(seconds)), 2)
  end
  if self.running then error("a follower cannot be waited for by its own function", 2) end
  local limit = seconds and seconds >= 0 and core.now() + seconds or math.huge
  local contents = self.contents
  while self:step() and self.contents == contents do
    local left = math.min(limit, self.check and self.check.deadline or self.check and math.huge or self.due) - core.now()
    if core.now() >= limit then
      return nil, ended(self, "timeout", "no new content within " .. errors.seconds(seconds))
    elseif core.interrupted() then
      return nil, ended(self, "cancelled", "interrupted")
    elseif self.check then
      self.check:wait(math.min(math.max(left, 0), 1e9)) -- drives the fetch on this thread
    else
      own_notifier(self):wait(math.min(math.max(left, 0), 1e9))
    end
  end
  if self.contents > contents then return self.last, self.reference end
  return nil, ended(self, "cancelled", "the follower was closed")
end

--- The last good content, and the error of the last check if that failed.
-- @treturn ?theaterref.blob
-- @treturn ?table
function Follower:content() return self.last, self.err end

--- Stops the follower. The function is not called again.
function Follower:close()
  if self.closed then return end
  self.closed = true
  if self.check then self.check:cancel() end
  self.watch:close()
  if not self.notifier then return end
  if not self.is_shared then self.notifier:set_deadline(nil) end
  self.notifier:signal() -- a loop learns that it is closed
end

Follower.cancel = Follower.close
Follower.__close = Follower.close

--- A descriptor for event loops; do not read or close it. It is readable when `step` has something to do.
-- @treturn integer the same one each time
function Follower:pollfd() return own_notifier(self):fd() end

--- The events to watch the descriptor for: `"r"`.
-- @treturn string
function Follower:events() return "r" end -- luacheck: ignore self

--- The seconds that a loop may sleep on it, or nil.
-- @treturn ?number
function Follower:timeout()
  local moment = self.check and self.check.deadline or not self.check and self.due
  if self.closed or not moment then return nil end
  return math.max(0, moment - core.now())
end

return Follower
