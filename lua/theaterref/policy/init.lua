--- Policies: the rules that decide how a spawn finds its bytes.
--
-- A policy is a table, or a script that returns one. Each of its fields
-- replaces one rule of `default`; what is missing keeps the default.
-- @module theaterref.policy
local core = require "theaterref.core"
local errors = require "theaterref.error"
local lockfiles = require "theaterref.policy.lockfile"
local reference = require "theaterref.reference"
local suggest = require "theaterref.suggest"

local M = {}

local function nothing() end

--- The default rules, for a rule of yours to call on. `ctx` says what a
-- reference is for: `purpose` (`direct`, `manifest`, `initial_state`, `package` or
-- `secret`), `manifest_reference`, `name` (the actor's, once known),
-- `manifest` (its document) and `package` (its reference, both for a package).
-- @table default
-- @field rewrite `rewrite(reference, ctx) -> reference`, or a list of them to
-- try in order: the next one when the last could not be had
-- @field allow `allow(reference, ctx) -> true`, or false and a reason
-- @field integrity `integrity(reference, ctx) -> nil`, the hex SHA-256 or SHA-1 that the bytes
-- must have, or `{ sha256 =, store =, offline = }`: look in that store first,
-- and with `offline` nowhere else
-- @field cacheable `cacheable(manifest, ctx) -> boolean`, or options: `{ ttl =
-- seconds, revalidate = boolean, disk = false }` (`disk = false`: not on disk)
-- @field merge `merge(config_state, override_state, ctx) -> state`
-- @field secrets `secrets(reference, ctx) -> boolean`: whether an object `{
-- "$ref": reference }` in the initial state is replaced by what that means
-- @field allow_spawn `allow_spawn(manifest, ctx) -> true`; or false and a reason; or a
-- narrowed manifest in its place
-- @field request `request(reference, ctx) -> options`
-- @field on_event `on_event(event)`: gets each event, a table whose `type` is
-- `resolved` (with `bytes`: how many it has), `cache` (with
-- `outcome`: `hit`, `stale`, `wait` or `miss`), `retry` (with `attempts`, and
-- whether it `failed`), `fallback` (with `message`), `phase` and `failure` (of a
-- plan's step `name`), `refusal` (with a `reason`), `disk_cache` (which cannot be
-- written, with `message`; once for each process and folder) or `policy` (a changed
-- script was `reloaded`, or has an `error`). Most have a `reference` and a `purpose`
M.default = {
  rewrite = require("theaterref.policy.rewrite").relative_to_manifest,
  allow = require("theaterref.policy.access").no_local_from_network,
  integrity = nothing,
  cacheable = require("theaterref.policy.caching").static_or_digest,
  merge = require("theaterref.policy.merge").shallow,
  secrets = function() return false end,
  allow_spawn = function() return true end,
  request = require("theaterref.policy.request").defaults,
  on_event = nothing,
}

-- The types of a rule's answers; any other is an error of the policy.
local answers = {
  rewrite = { string = true, table = true },
  allow = { boolean = true, ["nil"] = true },
  integrity = { string = true, table = true, ["nil"] = true },
  cacheable = { boolean = true, table = true, ["nil"] = true },
  merge = { string = true, ["nil"] = true },
  secrets = { boolean = true, ["nil"] = true },
  allow_spawn = { boolean = true, table = true },
  request = { table = true, ["nil"] = true },
}

local Policy = {}
Policy.__index = Policy

local function broken(message) return nil, errors.new("policy", message) end

-- Passes a rule's answer to the tracer, without anything secret or long.
local function trace(self, rule, arguments, answer, second)
  self.tracer { rule = rule, by = self.own[rule] and self.path or "default rule",
    reference = type(arguments[1]) == "string" and rule ~= "merge" and errors.redact(arguments[1]) or nil,
    answer = rule == "merge" and "a state" or answer, reason = second }
end

-- Asks a rule. A rule that fails, or answers nonsense, is an error of kind
-- `policy`, never a Lua error.
-- @tparam string rule
-- @param ... its arguments
-- @return its two answers, and nil
-- @return[2] nil, nil, error
function Policy:ask(rule, ...)
  local ok, answer, second = pcall(self.rules[rule], ...)
  if not ok then
    if not errors.is(answer) then
      answer = errors.new("policy", ("the rule '%s' failed: %s"):format(rule, tostring(answer)))
    end
    if self.tracer then trace(self, rule, { ... }, nil, tostring(answer)) end
    return nil, nil, answer
  end
  if self.tracer then trace(self, rule, { ... }, answer, second) end
  if answers[rule][type(answer)] then return answer, second end
  if errors.is(second) then return nil, nil, second end
  return nil, nil, errors.new("policy", ("the rule '%s' returned a %s, but %s was expected"):format(rule,
    type(answer), next(answers[rule])))
end

-- Calls the rule 'on_event'. One that fails changes nothing.
-- @tparam table event `{ type = string, … }`
function Policy:emit(event)
  pcall(self.rules.on_event, event)
end

-- True if this policy has a rule of its own.
-- @tparam string rule
-- @treturn boolean
function Policy:overrides(rule) return self.own[rule] == true end

local function check_schemes(schemes, where)
  if type(schemes) ~= "table" then return broken(where .. ": 'schemes' must be a table of functions by scheme") end
  for scheme, load in pairs(schemes) do
    if type(scheme) ~= "string" or not scheme:match "^%l[%l%d+.-]*$" or reference.is_own_scheme(scheme) then
      return broken(("%s: '%s' cannot be a scheme of a policy's"):format(where, tostring(scheme)))
    end
    if type(load) ~= "function" then return broken(("%s: the scheme '%s' must be a function"):format(where, scheme)) end
  end
  return schemes
end

local function overlay(rules, where)
  local merged, own, schemes = {}, {}, {}
  for name, rule in pairs(M.default) do merged[name] = rule end
  for name, rule in pairs(rules) do
    if name == "schemes" then
      local checked, err = check_schemes(rule, where)
      if err then return nil, err end
      schemes = checked
    elseif not M.default[name] then
      return broken(("%s: there is no rule '%s'%s"):format(where, tostring(name), suggest.closest(name, M.default)))
    elseif type(rule) ~= "function" then
      return broken(("%s: the rule '%s' is a %s, not a function"):format(where, name, type(rule)))
    else
      merged[name], own[name] = rule, true
    end
  end
  return setmetatable({ rules = merged, own = own, schemes = schemes, path = where, listens = rules.on_event ~= nil }, Policy)
end

-- ------------------------------------------------------------------ scripts

-- The globals of a script, beside the sandbox's own library.
local function exposed_to(path)
  return {
    theaterref = {
      policy = { default = M.default },
      reference = { parse = reference.parse, join = reference.join, scheme = reference.scheme,
        absolute = reference.absolute },
      merge_initial_states = core.merge_initial_states,
      json_split = core.json_split,
      json_quote = core.json_quote,
      sha256 = function(text) return core.blob(text):digest "sha256" end,
      getenv = function(name) return (name == "HOME" or name:find "^THEATERREF_") and os.getenv(name) or nil end,
      read_lockfile = function(name) return lockfiles.read_or_raise(reference.join(path, name)) end,
    },
  }
end

local builders_path = package.searchpath("theaterref.policy.builders", package.path)

-- Adds the builders to a sandbox.
local function add_builders(box)
  local source = tostring(assert(core.read_file(builders_path)))
  local _, err = box:run("((function(...) " .. source .. "\nend)())(theaterref)", "@" .. builders_path)
  assert(not err, err)
end

local function run_script(path, source)
  local box = core.sandbox()
  box:expose(exposed_to(path))
  add_builders(box)
  return box:run(source, "@" .. path, nil, true)
end

local function run_trusted(path, source)
  local chunk, why = load(source, "@" .. path, "t", setmetatable({ theaterref = M.host }, { __index = _G }))
  if not chunk then return nil, errors.new("policy", why) end
  local ok, rules = pcall(chunk)
  if ok then return rules end
  return nil, errors.new("policy", tostring(rules))
end

local function load_script(path, trusted)
  local stamp = core.file_stamp(path)
  local source, err = core.read_file(path)
  if not source then return nil, errors.about(err, path) end
  local rules
  rules, err = (trusted and run_trusted or run_script)(path, tostring(source))
  if err then return nil, errors.about(err, path) end
  if type(rules) ~= "table" then
    return broken(path .. ": a policy script must return a table of rules, not a " .. type(rules))
  end
  local policy
  policy, err = overlay(rules, path)
  if policy then policy.script, policy.stamp, policy.trusted = path, stamp, trusted end
  return policy, err
end

-- The policy as its script is now. A script that changed and is broken leaves
-- the old rules in force.
-- @treturn table this policy, or a new one
-- @treturn ?table an event to emit, when the script has changed
function Policy:current()
  if not self.script then return self end
  local stamp = core.file_stamp(self.script)
  if stamp == self.stamp then return self end
  local fresh, err = load_script(self.script, self.trusted)
  if not fresh then
    self.stamp = stamp -- say it once
    return self, { type = "policy", reference = self.script, error = tostring(err) }
  end
  fresh.tracer = self.tracer
  return fresh, { type = "policy", reference = self.script, reloaded = true }
end

-- Makes a policy; what a resolver does with its option `policy`.
-- @tparam ?string|table policy the path of a script, which runs in a sandbox
-- (32 MiB, ten million instructions and two seconds a call); a table of the
-- host's own functions; or nil for the defaults
-- @tparam ?boolean trusted run the script without a sandbox: the host's own code
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error, of kind `policy` when the script is at fault
function M.load(policy, trusted)
  if type(policy) == "string" then return load_script(policy, trusted) end
  if getmetatable(policy) == Policy then return policy end
  return overlay(policy or {}, "the policy")
end

-- A policy with other rules in front of its own.
-- @tparam table policy from `load`
-- @tparam table rules
-- @treturn table
function M.on_top(policy, rules)
  local own = {}
  for name in pairs(policy.own) do own[name] = policy.rules[name] end
  for name, rule in pairs(rules) do own[name] = rule end
  own.schemes = policy.schemes
  return assert(overlay(own, policy.path))
end

-- The builders for the host itself, such as `theaterref.policy.mirror`, and what
-- trusted scripts know as `theaterref`: made when first asked for.
setmetatable(M, { __index = function(module, name)
  setmetatable(module, nil)
  module.host = exposed_to(".").theaterref
  module.host.policy, module.host.getenv = module, os.getenv
  require("theaterref.policy.builders")(module.host)
  return module[name]
end })

return M
