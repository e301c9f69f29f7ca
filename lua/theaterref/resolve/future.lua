--- One result that arrives once: what `resolver:start` and `resolver:start_plan` give.
--
-- `future.hit` is true if a cache had it, and `future.signed_by` lists the keys that signed it, if any
-- were required. Wait for it, or give it to an event loop: `cqueues.poll(future)` works, and
-- any loop can watch `future:pollfd()` for reading.
--
-- The work behind a future is a Lua function that calls `future:await` whenever it
-- needs bytes that are still on their way. It runs in a coroutine, which `done` and
-- `wait` resume; or, where the caller waits at once, without one.
-- @classmod theaterref.future
local core = require "theaterref.core"
local errors = require "theaterref.error"
local reference = require "theaterref.reference"

local Future = {}
Future.__index = Future

--- True if a value is a future of this class.
function Future.is(value) return getmetatable(value) == Future end

-- ------------------------------------------------------------- its own side

-- Futures whose work has several steps and is under way, and the notifier that tells that one of them may
-- go on: whoever waits for one moves on all of them. Nothing here keeps one that its owner has dropped.
local under_way, bell = setmetatable({}, { __mode = "k" }), nil
local running = 0 -- pieces of work that run now, one within the other

-- Has the event loop's descriptor signalled with the result of what is awaited.
local function watch(self)
  for _, notifier in ipairs(self.notifiers or {}) do self.awaited:notify(notifier) end
end

-- Has it signalled no more by a future that is somebody else's, and lives on.
local function leave(self)
  if not (self.foreign and self.awaited) then return end
  for _, notifier in ipairs(self.notifiers or {}) do self.awaited:forget(notifier) end
end

local CANCELLED = "the future was cancelled"

local function about(self, err)
  return err.reference and err or errors.about(err, reference.redact(self.reference))
end

-- Takes the result, or the error, that the work ended with.
local function finish(self, result, err)
  leave(self)
  under_way[self] = nil
  self.thread, self.awaited, self.finished = nil, nil, true
  if self.notifier then self.notifier:set_deadline(nil) end
  for _, notifier in ipairs(self.notifiers or {}) do notifier:signal() end -- its own, and those of who awaits it
  self.notifiers = nil
  if result == nil and self.deadline and err.kind == "policy" then err = self:lateness() or err end -- it ended the script
  if result ~= nil then self.result = result else self.err = about(self, err) end
end

local function run_work(self, work, ...) finish(self, work(self, ...)) end

-- A coroutine runs one future's work after the other's. Between them it holds nothing.
local function run_each()
  while true do run_work(coroutine.yield()) end
end

-- Coroutines whose work is done, for the next: making one costs more than a step.
local idle, MAX_IDLE = {}, 16

local function new_thread()
  local thread = coroutine.create(run_each)
  coroutine.resume(thread)
  return thread
end

-- 'await' yields this. Any other yield is a rule's, whose coroutine this is not.
local AWAIT = {}

-- Ends the work without a result.
local function stop(self, kind, message)
  if self.awaited and not self.foreign then self.awaited:cancel() end
  if self.thread then coroutine.close(self.thread) end
  finish(self, nil, errors.new(kind, message))
end

-- Ends the work with what it raised: an error in it is no error of who polls or waits. Ctrl-C
-- goes through, and leaves nothing behind: what the work has let go may lead claims.
local function fail(self, raised)
  if not errors.is_interrupt(raised) then
    return finish(self, nil, errors.is(raised) and raised or errors.new("policy", errors.message_of(raised)))
  end
  if not self.finished then stop(self, "cancelled", CANCELLED) end
  collectgarbage()
  error(raised, 0)
end

-- Calls a function as pcall does. The scripts that it calls end at the work's deadline; within
-- other work, work that somebody waits for at once also ends at that of the other. The function
-- cannot yield, so that no deadline stays behind with a coroutine that never goes on.
local function limited(self, ...)
  return core.sandbox_within(self.deadline, self.limit_option, self.blocking, ...)
end

-- Runs the work on to its next 'await', or to its end.
local function resume(self, ...)
  local thread = self.thread
  leave(self)
  self.running, running = true, running + 1
  local called, ok, yielded = limited(self, coroutine.resume, thread, ...) -- Ctrl-C raises outside coroutines
  self.running, running = false, running - 1
  if not called then
    fail(self, ok)
  elseif not ok then
    fail(self, yielded)
  elseif self.finished then
    if #idle < MAX_IDLE then idle[#idle + 1] = thread end
  elseif self.cancelled then
    stop(self, "cancelled", CANCELLED)
  elseif yielded ~= AWAIT then
    stop(self, "policy", "a rule, scheme or helper yielded, which it may not")
  else
    if self.has_steps then under_way[self] = true end
    watch(self)
  end
end

-- The message for work that is not done at its deadline.
local function late(self)
  return ("not %s within %s (%s)"):format(self.participle or "resolved",
    errors.seconds(self.shown_limit or self.time_limit), self.limit_option or "resolve_timeout")
end

local function time_out(self) stop(self, "timeout", late(self)) end

--- Returns the error for work whose deadline is past, if it is.
-- @treturn ?table
function Future:lateness()
  return self.deadline and core.now() >= self.deadline and errors.new("timeout", late(self)) or nil
end

--- The seconds that are left for its work; nil: it has no deadline.
-- @treturn ?number
function Future:seconds_left() return self.deadline and math.max(0, self.deadline - core.now()) or nil end

-- The seconds that are left of a deadline; below 0: there is none.
local function left(deadline) return deadline and math.max(0, deadline - core.now()) or -1 end

-- Waits for a future on the calling thread, in place of a coroutine's yield.
local function block(self, future, foreign)
  if self.over then return nil, self.over end
  self.awaited, self.foreign = future, foreign
  local blob, err, why = future:wait(left(self.deadline))
  if why ~= "pending" then return blob, err, why end
  if not foreign then future:cancel() end
  self.over = self:lateness() or err
  return nil, self.over
end

-- Moves on all futures under way. Their work may start others, or wait for them.
local function move_on()
  local list = {}
  for future in pairs(under_way) do list[#list + 1] = future end
  for _, future in ipairs(list) do
    if not future.finished then future:done() end
  end
end

local function has_others(self)
  local first = next(under_way)
  return first ~= nil and (first ~= self or next(under_way, first) ~= nil)
end

-- Moving all of them takes at most a part of the time, however many there are.
local REST = 3

-- The core's future that work awaits, also by way of other futures of this class.
local function core_future(awaited)
  while Future.is(awaited) do awaited = awaited.awaited end
  return awaited
end

-- Waits for a notifier, and records for the function of derive that runs now, if any, what it waits for. Returns nil if the
-- time is over, or nil and an error if it would wait for ever.
local function wait_for_bell(awaited, seconds)
  local future = core_future(awaited)
  local fault = future and core.derivation_wait(future)
  if fault then return nil, fault end
  local rang = bell:wait(seconds)
  core.derivation_waited()
  return rang or nil
end

-- Waits for what a future's work awaits, and moves on the others under way meanwhile: what one of them asks
-- for next is not to wait for this one. Returns what `wait` of a future of the core's does.
local function wait_together(self, seconds)
  local awaited = self.awaited
  if running > 0 or not has_others(self) then return awaited:wait(seconds) end
  bell = bell or core.notifier()
  local limit, pause = seconds >= 0 and core.now() + seconds or nil, 0
  repeat
    for future in pairs(under_way) do future:listen(bell) end
    self:listen(bell)
    if pause > 0 and select(3, awaited:wait(math.min(pause, limit and left(limit) or pause))) ~= "pending" then break end
    local rang, fault = wait_for_bell(awaited, left(limit))
    if fault then
      self:forget(bell)
      return nil, fault, "pending"
    end
    if not rang then break end -- the time is over, or Ctrl-C
    bell:drain()
    local began = core.now()
    move_on()
    pause = (core.now() - began) * REST
  until self.finished or self.awaited ~= awaited or awaited:done() or not has_others(self) or limit and core.now() >= limit
  self:forget(bell)
  if self.finished or self.awaited ~= awaited then return nil, nil, "moved" end
  return awaited:wait(left(limit))
end

--- Starts work. It may have ended when this returns.
-- @tparam table self the fields `reference`; `time_limit` in seconds, nil or below 0: none,
-- and, if it is not `resolve_timeout`, for messages its `limit_option`, its `shown_limit` and its
-- `participle`, such as "planned";
-- `blocking`: wait on the calling thread, in no coroutine
-- @tparam function work `work(future, ...)` returns the result, or nil and an error
-- @param ... its further arguments
-- @treturn theaterref.future
-- @local
function Future.run(self, work, ...)
  setmetatable(self, Future)
  local limit = self.time_limit
  if limit and limit >= 0 then self.deadline = core.now() + limit end
  if self.blocking then
    local ok, raised = limited(self, run_work, self, work, ...)
    if not ok then fail(self, raised) end
  else
    self.thread = table.remove(idle) or new_thread()
    resume(self, self, work, ...)
  end
  return self
end

--- Waits within the work for another future.
-- @param future one of the core's, or one of this class
-- @tparam[opt] boolean foreign it is somebody else's: do not cancel it
-- @return what its `wait` returns: a result; or nil, an error, and `"abandoned"` if
-- whoever loaded it gave up
-- @local
function Future:await(future, foreign)
  if self.blocking then return block(self, future, foreign) end
  self.awaited, self.foreign = future, foreign
  return coroutine.yield(AWAIT)
end

--- Lets an event loop have its turn within the work: `done` goes on with it the next time.
-- @local
function Future:pause()
  if self.blocking then return end
  local ended = core.future()
  ended:fail("cancelled", "nothing to wait for")
  self.paused = true
  self:await(ended, true)
end

-- ---------------------------------------------------------- its owner's side

--- True once the result is there.
-- @treturn boolean
function Future:done()
  if self.notifier then self.notifier:drain() end
  if self.running then return false end -- asked by its own work, such as a function for events
  if self.finished then return true end
  local awaited = self.awaited
  self.paused = false
  while awaited and awaited:done() do
    -- Its work may have called functions that ended this future, or moved it on.
    if self.awaited == awaited and not self.running then resume(self, awaited:wait(0)) end
    awaited = not self.running and not self.paused and self.awaited
  end
  if not self.finished and not self.running and self.deadline and core.now() >= self.deadline then time_out(self) end
  if not self.finished then return false end
  if self.notifier then self.notifier:drain() end -- the caller learns that it is done
  return true
end

--- Waits for the result.
-- @tparam[opt] number seconds at most; without it, as long as the request may
-- take by its own timeouts
-- @treturn theaterref.blob or, of a plan, the plan
-- @return[2] nil
-- @treturn[2] table an error; of kind `timeout` when the seconds are over, after
-- which it may be waited for again
-- @treturn[2] ?string `"pending"` if there is no result yet
function Future:wait(seconds)
  if seconds ~= nil and type(seconds) ~= "number" then
    error("a number of seconds was expected, not a " .. type(seconds), 2)
  end
  if seconds ~= seconds then error("a number of seconds was expected, not NaN", 2) end
  if self.running then error("a future cannot be waited for by its own work", 2) end
  local limit = seconds and seconds >= 0 and core.now() + seconds
  self.paused = false
  while not self.finished do
    if self.paused and limit and core.now() >= limit then
      return nil, about(self, errors.new("timeout", "no result within " .. errors.seconds(seconds))), "pending"
    end
    self.paused = false
    local moment = self.deadline and limit and math.min(limit, self.deadline) or limit or self.deadline
    local awaited = self.awaited
    local result, err, why = wait_together(self, left(moment))
    local moved_on = self.finished or self.awaited ~= awaited -- by a function that its work called
    if moved_on or why ~= "pending" then
      if not moved_on then resume(self, result, err, why) end
    elseif self.deadline and err.kind == "timeout" and core.now() >= self.deadline then
      time_out(self)
    else
      if err.kind == "timeout" then err = errors.new("timeout", "no result within " .. errors.seconds(seconds)) end
      return nil, about(self, err), why
    end
  end
  if self.result ~= nil then return self.result end
  return nil, self.err
end

--- Gives it up; a request that nobody else wants stops.
function Future:cancel()
  if self.finished then return end
  if self.running then -- by its own work: it ends at the next 'await'
    self.cancelled = true
    return
  end
  stop(self, "cancelled", CANCELLED)
end

--- Has a notifier of the core's signalled when there may be something for `done` to
-- do.
-- @tparam userdata notifier
-- @local
function Future:notify(notifier)
  if self.finished then return notifier:signal() end
  self.notifiers = self.notifiers or {}
  table.insert(self.notifiers, notifier)
  if self.awaited then self.awaited:notify(notifier) end
end

--- The same, if it is not yet.
-- @tparam userdata notifier
-- @local
function Future:listen(notifier)
  for _, known in ipairs(self.notifiers or {}) do
    if known == notifier then return end
  end
  self:notify(notifier)
end

--- Has a notifier signalled no more.
-- @tparam userdata notifier
-- @local
function Future:forget(notifier)
  local notifiers = self.notifiers or {}
  for i = #notifiers, 1, -1 do
    if notifiers[i] == notifier then table.remove(notifiers, i) end
  end
  if self.awaited then self.awaited:forget(notifier) end
end

--- A descriptor for event loops; do not read or close it. It is readable if and only
-- if the result of `done()` has changed since the last call of `done()`, or `done()`
-- has work to go on with.
-- @treturn integer the same one each time
function Future:pollfd()
  if not self.notifier then
    self.notifier = core.notifier()
    self:notify(self.notifier)
    if self.deadline and not self.finished then self.notifier:set_deadline(self.deadline) end
  end
  return self.notifier:fd()
end

--- The events to watch the descriptor for: `"r"`.
-- @treturn string
function Future:events() return "r" end -- luacheck: ignore self

--- The seconds that a loop may sleep on it: up to its deadline, or nil.
-- @treturn ?number
function Future:timeout()
  return not self.finished and self.deadline and left(self.deadline) or nil
end

--- Bytes received so far and, when known, expected in all: of what it waits for now.
-- Once it is done both are the size of its result.
-- @treturn integer
-- @treturn ?integer
function Future:progress()
  if self.awaited then return self.awaited:progress() end
  local blob = self.result
  if type(blob) == "table" then blob = blob.package end
  local size = blob and #blob or 0
  return size, size
end

--- Facts about the fetch, once it is done: `url` (redacted, after redirects),
-- `status`, `content_type`, `etag`, `last_modified`, `hosts` (that it was redirected to),
-- `private` (a server had a private address), `no_store` (`Cache-Control: no-store` or
-- `private`), `digest` (if one was asked for),
-- `attempts`, `received` (bytes, as sent), `unchanged` (304), and `seconds`, a table
-- of the moments `started`, `connected`, `first_byte` and `done`.
-- @treturn ?table nil: nothing was fetched for this future
function Future:info() return self.finished and self.fetched and self.fetched:info() or nil end

return Future
