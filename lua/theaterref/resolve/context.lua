--- Contexts: the resolver's part that the pipeline sees.
-- @module theaterref.resolve.context
local core = require "theaterref.core"
local errors = require "theaterref.error"
local events = require "theaterref.events"
local home = require "theaterref.home"
local option_sets = require "theaterref.options"
local places = require "theaterref.s3.place"
local policies = require "theaterref.policy"
local reference = require "theaterref.reference"
local remote_objects = require "theaterref.store.remote_objects"
local requests = require "theaterref.registry.requests"

local M = {}

local Context = {}
Context.__index = Context

-- The scope in caches of what remote stores have: other options may mean another bucket.
local function remote_scope(self)
  local parts = { self.home_scope, tostring((self.s3 or {}).endpoint) }
  for id, options in pairs(self.store_options or {}) do parts[#parts + 1] = id .. "\n" .. tostring(options.remote) end
  table.sort(parts)
  return core.digest(table.concat(parts, "\n"))
end

--- Makes a context. It does not change, so work that is under way keeps its policy
-- when the resolver takes a new one.
-- @tparam table fields `policy`; `cache` or nil; `home`, a folder or nil; `label_history`, of
-- the stores in it; `store_options`, of some stores, by id; `s3`, settings; `defaults`, the request
-- options of the resolver; `lockfile`, as
-- `theaterref.policy.lockfile` reads one, or nil; `signatures`: what must have signed
-- everything, or nil; `offline`: fetch nothing; `respect_no_store`: keep nothing in memory
-- that its server would not have kept; `max_manifest_bytes`, `max_state_bytes`;
-- `strict_state`: a state must be JSON; `helpers`: template helpers; `log`; `on_event`, a
-- function or nil; `stores` and `background`, tables that all contexts of a resolver share;
-- `trace`: called with each step, or nil
-- @treturn table
function M.new(fields)
  local self = setmetatable(fields, Context)
  self.has_listeners = self.policy.listens or self.on_event ~= nil or self.log.verbose
  self.requests, self.request_count = {}, 0 -- compiled, by where redirects may lead
  self.asks = {} -- by rule: true if asking it is more than calling a default that would change nothing
  for rule in pairs(policies.default) do self.asks[rule] = self.trace ~= nil or self.policy:overrides(rule) end
  self.judges = self.asks.signatures or self.asks.accept or self.signatures ~= nil
  self.plain_http = requests.plain_http(self.registries)
  -- Bytes of a policy's schemes belong to it, unless the resolver names a scope.
  local scope = self.defaults.cache_scope
  self.policy_scope = scope and core.digest(scope) or "policy " .. self.policy.id
  -- A store's id means another store in another home.
  self.home_scope = self.home and core.digest(self.home) or ""
  self.remote_scope = remote_scope(self)
  for rule in pairs(self.policy.own) do self.has_rules = rule and true end
  return self
end

--- Returns a copy with other fields.
-- @tparam table changes
-- @treturn table
function Context:with(changes)
  return M.new(option_sets.overlay(self, changes))
end

local MAX_REMEMBERED = 64

--- Remembers a compiled request, and not too many.
-- @tparam string name
-- @tparam table request
function Context:remember_request(name, request)
  if self.request_count >= MAX_REMEMBERED then self.requests, self.request_count = {}, 0 end
  self.requests[name], self.request_count = request, self.request_count + 1
end

-- As core.read_file has it.
local DEFAULT_MAX_BYTES = 1 << 30

--- Returns how large the bytes of a job may be.
-- @tparam table job
-- @treturn integer
function Context:max_bytes(job)
  return job.max_bytes or job.request and job.request.max_bytes or self.defaults.max_bytes or DEFAULT_MAX_BYTES
end

--- True if a store has a bucket.
-- @tparam string id
-- @treturn boolean
function Context:is_remote_store(id)
  local options = self.store_options and self.store_options[id]
  return options ~= nil and options.remote ~= nil
end

-- The id of the remote store that a reference is of, or nil.
local function remote_id(self, ref)
  local id = self.store_options and ref:match "^[sS][tT][oO][rR][eE]://([^/]*)/"
  return id and self:is_remote_store(id) and id or nil
end

--- True if the bytes of a reference come from the network, or came from there: as
-- `theaterref.reference.is_remote`, and those of remote stores.
-- @tparam string ref
-- @treturn boolean
function Context:is_remote(ref)
  return reference.is_remote(ref) or remote_id(self, ref) ~= nil
end

-- The bucket of a reference, and its settings: of its own, or that of its remote store; or nil.
local function bucket_of(self, ref)
  local id = remote_id(self, ref)
  if not id then return ref:match "^[sS]3://([^/]+)/", self.s3 end
  return remote_objects.place(self.store_options[id].remote), self.store_options[id].s3 or self.s3
end

--- The places that are asked by plain http, or by https at a loopback address, for the rule `allow`.
-- @tparam string ... references
-- @treturn ?table the option `plain_http` by registry; and true by `s3://<bucket>` or `store://<id>`, of these references
function Context:plain_places(...)
  local all = self.plain_http
  for _, ref in ipairs { ... } do
    local bucket, settings = bucket_of(self, ref)
    if bucket and places.is_plain(settings, bucket) then
      if all == self.plain_http then all = option_sets.overlay(all or {}) end
      all[ref:match "^%a%w*://[^/]*":lower()] = true
    end
  end
  return all
end

-- The options of a store.
local function options_of(self, id)
  local options = { home = self.home, label_history = self.label_history }
  local own = self.store_options and self.store_options[id]
  if not own then return options end
  options.s3, options.request = self.s3, self.defaults
  return option_sets.overlay(options, own)
end

-- A remote store for a task: it waits as the task does, and its warnings are events.
local function store_within(self, store, task)
  return store:within { offline = self.offline, await = function(future, foreign) return task:await(future, foreign) end,
    seconds_left = function() return task:seconds_left() end,
    warn = function(message) self:emit("remote_store", { reference = "store://" .. store.id, message = message }) end }
end

--- Returns the store of an id in the resolver's home, opened once.
-- @tparam string id
-- @tparam[opt] theaterref.future task within which a remote store may wait
-- @treturn theaterref.store
-- @return[2] nil
-- @treturn[2] table an error
function Context:store(id, task)
  local store = self.stores.by_id[id]
  if not store then
    local err
    store, err = home.content_store(id, options_of(self, id))
    if not store then return nil, err end
    if self.stores.count >= MAX_REMEMBERED then self.stores.by_id, self.stores.count = {}, 0 end
    self.stores.by_id[id], self.stores.count = store, self.stores.count + 1
  end
  return task and store.is_remote and store_within(self, store, task) or store
end

--- The seconds for which what a remote store was asked is good, or nil: the reference is of no remote store.
-- @tparam string ref
-- @treturn ?number
function Context:label_ttl(ref)
  local id = remote_id(self, ref)
  local store = id and self:store(id)
  return store and store.label_ttl
end

--- Asks a rule of the policy's; see `theaterref.policy.ask`.
function Context:ask(rule, ...) return self.policy:ask(self.trace, rule, ...) end

--- Emits an event to the policy, the log and the host. A rule or function that fails
-- here changes nothing.
-- @tparam string kind see `theaterref.events`
-- @tparam table event its fields
function Context:emit(kind, event)
  event = events.new(kind, event)
  self.log:emit(event) -- first: the others may change it
  self.policy:emit(event)
  if self.on_event then errors.tell(self.on_event, event) end
end

local MAX_REASON_BYTES = 4096 -- a rule's reason goes into logs and errors

-- A text that is not longer than a reason, cut between two characters.
local function cut(text)
  if #text <= MAX_REASON_BYTES then return text end
  local last = MAX_REASON_BYTES
  while last > MAX_REASON_BYTES - 3 and text:byte(last + 1) & 0xC0 == 0x80 do last = last - 1 end
  return text:sub(1, last) .. "…"
end

--- Emits and counts a refusal, and returns its error.
-- @tparam string rule the rule that refused
-- @tparam string message
-- @tparam string subject the reference, or what else was refused
-- @tparam string purpose
-- @tparam ?string why cut if it is very long
function Context:refuse(rule, message, subject, purpose, why)
  core.count_refusal(rule)
  why, subject = cut(errors.redact(why or "the policy gives no reason", subject)), reference.redact(subject)
  self:emit("refusal", { reference = subject, purpose = purpose, reason = why })
  -- The advice may end with a command, which stands alone at the end.
  local reason, advice = why:match "^(.-); (to allow it, .*)$"
  local err = errors.new("denied", message .. ": " .. (reason or why), subject)
  err.advice = advice
  return nil, err
end

return M
