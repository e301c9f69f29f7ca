--- Contexts: the resolver's part that the pipeline sees.
-- @module theaterref.resolve.context
local core = require "theaterref.core"
local errors = require "theaterref.error"
local events = require "theaterref.events"
local home = require "theaterref.home"
local policies = require "theaterref.policy"
local reference = require "theaterref.reference"

local M = {}

local Context = {}
Context.__index = Context

--- Makes a context. It does not change, so work that is under way keeps its policy
-- when the resolver takes a new one.
-- @tparam table fields `policy`; `cache` or nil; `home`, a folder or nil; `defaults`, the
-- request options of the resolver; `lockfile`, as `theaterref.policy.lockfile` reads one, or
-- nil; `offline`: fetch nothing; `respect_no_store`: keep nothing in memory that its server
-- would not have kept; `helpers`: template helpers; `log`; `on_event`, a
-- function or nil; `stores` and `background`, tables that all contexts of a resolver share;
-- `trace`: called with each step, or nil
-- @treturn table
function M.new(fields)
  local self = setmetatable(fields, Context)
  self.has_listeners = self.policy.listens or self.on_event ~= nil or self.log.verbose
  self.requests = {} -- compiled, by where redirects may lead
  self.asks = {} -- by rule: true if asking it is more than calling a default that would change nothing
  for rule in pairs(policies.default) do self.asks[rule] = self.trace ~= nil or self.policy:overrides(rule) end
  -- Bytes of a policy's schemes belong to it, unless the resolver names a scope.
  local scope = self.defaults.cache_scope
  self.policy_scope = scope and core.digest(scope) or "policy " .. self.policy.id
  return self
end

--- Returns a copy with other fields.
-- @tparam table changes
-- @treturn table
function Context:with(changes)
  local fields = {}
  for name, value in pairs(self) do fields[name] = value end
  for name, value in pairs(changes) do fields[name] = value end
  return M.new(fields)
end

--- Returns the store of an id in the resolver's home, opened once.
-- @tparam string id
-- @treturn theaterref.store
-- @return[2] nil
-- @treturn[2] table an error
function Context:store(id)
  local store, err = self.stores[id], nil
  if not store then
    store, err = home.content_store(id, { home = self.home })
    self.stores[id] = store
  end
  return store, err
end

--- Asks a rule of the policy's; see `theaterref.policy.ask`.
function Context:ask(rule, ...) return self.policy:ask(self.trace, rule, ...) end

--- Emits an event to the policy, the log and the host. A rule or function that fails
-- here changes nothing.
-- @tparam string kind see `theaterref.events`
-- @tparam table event its fields
function Context:emit(kind, event)
  event = events.new(kind, event)
  self.policy:emit(event)
  self.log:emit(event)
  if self.on_event then pcall(self.on_event, event) end
end

--- Emits a refusal and returns its error.
-- @tparam string message
-- @tparam string subject the reference, or what else was refused
-- @tparam string purpose
-- @tparam ?string why
function Context:refuse(message, subject, purpose, why)
  why, subject = why or "the policy gives no reason", reference.redact(subject)
  self:emit("refusal", { reference = subject, purpose = purpose, reason = why })
  return nil, errors.new("denied", message .. ": " .. why, subject)
end

return M
