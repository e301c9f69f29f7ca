--- Policies: the rules that decide how a spawn finds its bytes.
--
-- A policy is a table, or a script that returns one. Each of its fields
-- replaces one rule of `default`; what is missing keeps the default.
-- @module theaterref.policy
local core = require "theaterref.core"
local errors = require "theaterref.error"
local names = require "theaterref.names"
local reference = require "theaterref.reference"

local M = {}

--- The default rules, for a rule of yours to call on.
-- @table default
-- @field rewrite `rewrite(reference, ctx) -> reference`
-- @field allow `allow(reference, ctx) -> true`, or false and a reason
-- @field cacheable `cacheable(manifest, ctx) -> boolean`
-- @field merge `merge(config_state, override_state, ctx) -> state`
-- @field request `request(reference, ctx) -> options`
-- @field event `event(event)`: told of what happened: a table whose `type` is
-- `phase` (of a plan), `failure`, `refusal`, `cache` (with `outcome`: `hit`,
-- `stale`, `wait` or `miss`) or `retry` (with `attempts`)
M.default = {
  rewrite = require("theaterref.policy.rewrite").relative_to_manifest,
  allow = require("theaterref.policy.access").no_local_from_network,
  cacheable = require("theaterref.policy.caching").static_package,
  merge = require("theaterref.policy.merge").shallow,
  request = require("theaterref.policy.request").defaults,
  event = function() end,
}

-- What a rule may answer; anything else is an error of the policy's.
local answers = {
  rewrite = { string = true },
  allow = { boolean = true, ["nil"] = true },
  cacheable = { boolean = true, ["nil"] = true },
  merge = { string = true, ["nil"] = true },
  request = { table = true, ["nil"] = true },
}

local Policy = {}
Policy.__index = Policy

local function broken(message) return nil, errors.new("policy", message) end

--- Asks a rule. A rule that fails, or answers nonsense, is an error of kind
-- `policy`, never a Lua error.
-- @tparam string rule
-- @param ... its arguments
-- @return its two answers, and nil
-- @return[2] nil, nil, error
function Policy:ask(rule, ...)
  local ok, answer, second = pcall(self.rules[rule], ...)
  if not ok then
    if errors.is(answer) then return nil, nil, answer end
    return nil, nil, errors.new("policy", ("the rule '%s' failed: %s"):format(rule, tostring(answer)))
  end
  if answers[rule][type(answer)] then return answer, second end
  if errors.is(second) then return nil, nil, second end
  return nil, nil, errors.new("policy", ("the rule '%s' returned a %s, but %s was expected"):format(rule,
    type(answer), next(answers[rule])))
end

--- Tells the policy what happened. A rule that fails here changes nothing.
-- @tparam table event `{ type = string, … }`
function Policy:tell(event)
  pcall(self.rules.event, event)
end

local function overlay(rules, where)
  local merged = {}
  for name, rule in pairs(M.default) do merged[name] = rule end
  for name, rule in pairs(rules) do
    if not M.default[name] then
      return broken(("%s: there is no rule '%s'%s"):format(where, tostring(name), names.suggestion(name, M.default)))
    end
    if type(rule) ~= "function" then
      return broken(("%s: the rule '%s' is a %s, not a function"):format(where, name, type(rule)))
    end
    merged[name] = rule
  end
  return setmetatable({ rules = merged, path = where, listens = rules.event ~= nil }, Policy)
end

-- What a script finds as globals, beside the sandbox's own library.
local lent = {
  theaterref = {
    policy = { default = M.default },
    reference = { parse = reference.parse, join = reference.join, scheme = reference.scheme },
    merge_initial_states = core.merge_initial_states,
  },
}

local function load_script(path)
  local source, err = core.read_file(path)
  if not source then return nil, errors.about(err, path) end
  local box = core.sandbox()
  box:lend(lent)
  local rules
  rules, err = box:run(source, "@" .. path, nil, true)
  if err then return nil, errors.about(err, path) end
  if type(rules) ~= "table" then
    return broken(path .. ": a policy script must return a table of rules, not a " .. type(rules))
  end
  return overlay(rules, path)
end

--- Makes a policy.
-- @tparam ?string|table policy the path of a script, which runs in a sandbox
-- (32 MiB, ten million instructions and two seconds a call); a table of the
-- host's own functions; or nil for the defaults
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error, of kind `policy` when the script is at fault
function M.load(policy)
  if type(policy) == "string" then return load_script(policy) end
  if getmetatable(policy) == Policy then return policy end
  return overlay(policy or {}, "the policy")
end

return M
