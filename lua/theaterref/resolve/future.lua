--- One result that arrives once: what `resolver:start` gives.
--
-- `future.hit` is true if a cache had it. Wait for it, or give it to an event loop: `cqueues.poll(future)` works, and
-- any loop can watch `future:pollfd()` for reading.
-- @classmod theaterref.future
local core = require "theaterref.core"
local errors = require "theaterref.error"

local Future = {}
Future.__index = Future

-- Tells an event loop, if there is one, when the core future in hand has its result.
local function watch(self)
  if self.notifier and self.core then self.core:notify(self.notifier) end
end

-- Takes what the core future gave: the result, another core future, or the error.
local function advance(self, blob, err, why)
  local loaded = self.core
  if blob then
    self.result, self.core = blob, nil
  elseif why == "abandoned" and self.again then -- its loader gave up: claim it again
    self.core, err = self.again()
    if err then self.err = errors.about(err, self.reference) end
  else
    errors.about(err, self.reference)
    self.core = nil
    local started = false
    if self.fallback then started, err = self.fallback(err) end
    if not started then self.err = errors.about(err, self.reference) end
  end
  watch(self)
  if not self.core and self.on_result then
    local on_result = self.on_result
    self.on_result = nil
    on_result(loaded, blob)
  end
end

-- Ends a future whose time is over.
local function time_out(self)
  self.core:cancel()
  self.core, self.fallback = nil, nil
  self.err = errors.new("timeout", "not resolved in time (resolve_timeout, plan_timeout)", self.reference)
end

--- True once the result is there.
-- @treturn boolean
function Future:done()
  if self.notifier then self.notifier:drain() end
  while self.core and self.core:done() do advance(self, self.core:wait(0)) end
  if self.core and self.deadline and core.now() >= self.deadline then time_out(self) end
  return self.core == nil
end

--- Waits for the result.
-- @tparam[opt] number seconds at most; without it, as long as the request may
-- take by its own timeouts
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error; of kind `timeout` when the seconds are over, after
-- which it may be waited for again
function Future:wait(seconds)
  local limit = seconds and core.now() + seconds
  while self.core do
    local moment = self.deadline and limit and math.min(limit, self.deadline) or limit or self.deadline
    local blob, err, why = self.core:wait(moment and math.max(0, moment - core.now()) or -1)
    if why ~= "pending" then
      advance(self, blob, err, why)
    elseif self.deadline and err.kind == "timeout" and core.now() >= self.deadline then
      time_out(self)
    else
      return nil, errors.about(err, self.reference)
    end
  end
  if self.result then return self.result end
  return nil, self.err
end

--- Gives it up; a request that nobody else wants stops.
function Future:cancel()
  if not self.core then return end
  self.core:cancel()
  self.core, self.fallback = nil, nil
  self.err = errors.new("cancelled", "the future was cancelled", self.reference)
  if self.notifier then self.notifier:signal() end
end

--- A descriptor for event loops; do not read or close it. It is readable if and only
-- if the result of `done()` has changed since the last call of `done()`.
-- @treturn integer the same one each time
function Future:pollfd()
  if not self.notifier then
    self.notifier = core.notifier()
    if self.core then watch(self) else self.notifier:signal() end
  end
  return self.notifier:fd()
end

--- The events to watch the descriptor for: `"r"`.
-- @treturn string
function Future:events() return "r" end -- luacheck: ignore self

--- The seconds that a loop may sleep on it: up to its `resolve_timeout`, or nil.
-- @treturn ?number
function Future:timeout()
  return self.core and self.deadline and math.max(0, self.deadline - core.now()) or nil
end

--- Bytes received so far and, when known, expected in all. Once it is done both are
-- the size of its result.
-- @treturn integer
-- @treturn ?integer
function Future:progress()
  if self.core then return self.core:progress() end
  local size = self.result and #self.result or 0
  return size, size
end

--- Facts about the fetch, once it is done: `url` (redacted, after redirects),
-- `status`, `content_type`, `etag`, `last_modified`, `hosts` (that it was redirected
-- to), `private` (a server had a private address), `digest` (if one was asked for),
-- `attempts`, `received` (bytes, as sent), `unchanged` (304), and `seconds`, a table
-- of the moments `started`, `connected`, `first_byte` and `done`.
-- @treturn ?table nil: nothing was fetched for this future
function Future:info() return self.loaded and self.loaded:info() end

return Future
