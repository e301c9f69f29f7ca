--- One result that arrives once: what `resolver:start` gives.
--
-- `future.hit` is true if a cache had it. Wait for it, or give it to an event loop: `cqueues.poll(future)` works, and
-- any loop can watch `future:pollfd()` for reading.
-- @classmod theaterref.future
local core = require "theaterref.core"
local errors = require "theaterref.error"

local Future = {}
Future.__index = Future

--- True once the result is there.
-- @treturn boolean
function Future:done()
  if self.core and self.fallback and self.core:done() then self:wait(0) end -- it may go on elsewhere
  return self.result ~= nil or self.err ~= nil or self.core:done()
end

--- Waits for the result.
-- @tparam[opt] number seconds at most; without it, as long as the request may
-- take by its own timeouts
-- @treturn theaterref.blob
-- @return[2] nil
-- @treturn[2] table an error; of kind `timeout` when the seconds are over, after
-- which it may be waited for again
function Future:wait(seconds)
  local deadline = seconds and core.now() + seconds
  while self.core do
    local blob, err, why = self.core:wait(deadline and math.max(0, deadline - core.now()) or -1)
    local loaded = self.core
    if blob then
      self.result, self.core = blob, nil
    elseif why == "pending" then
      return nil, errors.about(err, self.reference)
    elseif why == "abandoned" and self.again then -- whoever loaded it gave up: ask anew
      self.core, err = self.again()
      if err then self.err = errors.about(err, self.reference) end
    else
      errors.about(err, self.reference)
      self.core = nil
      local going_on = false
      if self.fallback then going_on, err = self.fallback(err) end
      if not going_on then self.err = errors.about(err, self.reference) end
    end
    if not self.core and self.on_result then
      local on_result = self.on_result
      self.on_result = nil
      on_result(loaded, blob)
    end
  end
  if self.result then return self.result end
  return nil, self.err
end

--- Gives it up; a transfer that nobody else wants stops.
function Future:cancel()
  if self.core then
    self.core:cancel()
    self.core = nil
    self.err = errors.new("cancelled", "the future was cancelled", self.reference)
  end
end

local finished -- stands in for the core's future once the result is here

local function delegate(name)
  Future[name] = function(self)
    if not self.core and not finished then
      finished = core.future()
      finished:complete(core.blob "")
    end
    local inner = self.core or finished
    return inner[name](inner)
  end
end

--- A descriptor that becomes readable with the result; do not read or close it.
-- @function Future:pollfd
-- @treturn integer
delegate "pollfd"
--- The events to watch the descriptor for: `"r"`.
-- @function Future:events
-- @treturn string
delegate "events"
--- How long a loop may sleep on it: nil, since the fetch keeps its own time.
-- @function Future:timeout
delegate "timeout"
--- Bytes received so far and, when known, expected in all.
-- @function Future:progress
-- @treturn integer
-- @treturn ?integer
delegate "progress"

return Future
