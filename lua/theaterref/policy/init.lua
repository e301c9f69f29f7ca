--- Policies: the rules that decide how a spawn finds its bytes.
--
-- A policy is a table, or a script that returns one. Each of its fields
-- replaces one rule of `default`; what is missing keeps the default.
-- @module theaterref.policy
local core = require "theaterref.core"
local errors = require "theaterref.error"
local keys = require "theaterref.keys"
local lockfiles = require "theaterref.policy.lockfile"
local option_sets = require "theaterref.options"
local reference = require "theaterref.reference"
local rules = require "theaterref.policy.rules"
local suggest = require "theaterref.suggest"

local M = {}

-- A script that failed is tried again after so long, even if it is the same: it may only have run out of time.
local RETRY_SECONDS = 30

local function nothing() end

--- The default rules, for a rule of yours to call on. `theaterref.policy.rules` lists what
-- each one gets and answers. `ctx` says what a reference is for: `purpose` (`direct`,
-- `manifest`, `initial_state`, `package`, `secret`, `signature` or `key`); for what a manifest names also
-- `manifest_reference`, what its references are relative to; `origin`, where its bytes
-- finally came from: after rewriting, schemes and redirects; `name`, the actor's, once
-- known; for a file and the rule `allow`, `path`, the file that will be opened, without links
-- in it; for the rule `allow`, `plain_http`, the option of that name by registry, if one has it, and true by
-- `s3://<bucket>` or `store://<id>`, if its endpoint speaks plain http; and, for a
-- package, `manifest` (its document) and `package` (its reference as written). `cacheable` and
-- `accept` also get `reference` and `digest`, the SHA-256 that the bytes must have.
-- @table default
M.default = {
  rewrite = require("theaterref.policy.rewrite").relative_to_manifest,
  allow = require("theaterref.policy.access").no_local_from_network,
  integrity = nothing,
  signatures = nothing,
  accept = function() return true end,
  cacheable = require("theaterref.policy.caching").static_or_digest,
  merge = require("theaterref.policy.merge").shallow,
  secrets = function() return false end,
  allow_spawn = function() return true end,
  request = function() return {} end,
  on_event = nothing,
}

local Policy = {}
Policy.__index = Policy

local function broken(message) return nil, errors.new("policy", message) end

-- Returns a field of an answer as it may be shown.
local function shown_field(value)
  if type(value) == "string" then return reference.redact(value) end
  if type(value) ~= "table" or not value[1] then return value end
  local items = {}
  for i, item in ipairs(value) do items[i] = shown_field(item) end
  return table.concat(items, ", ")
end

-- Returns the part of an answer that may be shown.
local function shown(rule, answer)
  if rule == "merge" then return "a state" end
  if type(answer) == "string" then return reference.redact(answer) end
  if type(answer) ~= "table" then return answer end
  if rule == "allow_spawn" then return "a narrowed manifest" end
  local copy = {}
  for name, value in pairs(answer) do copy[name] = shown_field(value) end
  copy.headers, copy.hosts, copy.proxy = nil, nil, nil
  copy.keys = answer.keys and table.concat(keys.all_shown(answer.keys), ", ")
  return copy
end

-- Lua's own names that a script in the sandbox does not have.
local not_in_sandbox = { require = true, io = true, os = true, package = true, debug = true, dofile = true, loadfile = true,
  collectgarbage = true }

-- Returns advice on what raised a message, if it is a name that is not there.
local function advice(message)
  local where, name = message:match "nil value %((%a+) '([%w_]+)'%)"
  if where == "global" and not_in_sandbox[name] then
    return ("; a policy script runs in a sandbox without '%s' (see 'trusted')"):format(name)
  end
  return where and M.mirror and suggest.closest(name, M) or "" -- asked for one, the builders are all there
end

--- Calls a rule and checks its answers. A rule that fails, or answers nonsense, is an
-- error of kind `policy`, never a Lua error.
-- @tparam string rule its name
-- @tparam function call
-- @tparam ?function trace called with the step: `rule`, `by`, `reference`, `answer`,
-- `reason`, and `failed` if the rule raised or answered nonsense
-- @tparam string by whose rule it is
-- @param ... its arguments
-- @return its two answers, and nil
-- @return[2] nil, nil, error
function M.call(rule, call, trace, by, ...)
  local ok, answer, second = errors.pcall(call, ...)
  local subject = ...
  if type(subject) ~= "string" or rule == "merge" then subject = nil end
  local err
  if not ok then
    err = errors.is(answer) and answer
      or errors.new("policy", ("the rule '%s' failed: %s"):format(rule, errors.message_of(answer)))
  else
    local fault = rules.by_name[rule].fault(answer, second)
    if fault then
      err = errors.is(second) and second or errors.new("policy", ("the rule '%s' %s; %s was expected"):format(rule, fault,
        rules.by_name[rule].answers))
    end
  end
  if err and subject then errors.hide(err, subject) end
  if err then answer, second = nil, nil end
  if trace then
    trace { rule = rule, by = by, reference = subject and reference.redact(subject),
      answer = shown(rule, answer), failed = err ~= nil or nil,
      redirect_hosts = rule == "allow" and type(second) == "table" and second.redirect_hosts or nil,
      reason = err and errors.message_of(err)
        or type(second) == "string" and errors.redact(second, subject) or nil }
  end
  return answer, second, err
end

--- Asks a rule of this policy; see `call`.
-- @tparam ?function trace
-- @tparam string rule
-- @param ... its arguments
function Policy:ask(trace, rule, ...)
  if not trace and not self.own[rule] then return self.rules[rule](...) end -- ours, and known to be right
  return M.call(rule, self.rules[rule], trace, self.own[rule] and self.path or "default rule", ...)
end

-- Calls the rule 'on_event'. One that fails changes nothing.
-- @tparam table event `{ type = string, … }`
function Policy:emit(event)
  errors.tell(self.rules.on_event, event)
end

-- True if this policy has a rule of its own.
-- @tparam string rule
-- @treturn boolean
function Policy:overrides(rule) return self.own[rule] == true end

local function check_schemes(schemes, where)
  if type(schemes) ~= "table" then return broken(where .. ": 'schemes' must be a table of functions by scheme") end
  for scheme, load in pairs(schemes) do
    -- These stand for content in caches, and for what was derived from it.
    if type(scheme) ~= "string" or not scheme:match "^%l[%l%d+.-]*$" or reference.is_own_scheme(scheme)
      or scheme == "sha256" or scheme == "derived" then
      return broken(("%s: a policy cannot define the scheme '%s'"):format(where, tostring(scheme)))
    end
    if type(load) ~= "function" then return broken(("%s: the scheme '%s' must be a function"):format(where, scheme)) end
  end
  return schemes
end

local function overlay(given, where)
  local merged, own, schemes = {}, {}, {}
  for name, rule in pairs(M.default) do merged[name] = rule end
  for name, rule in pairs(given) do
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
  return setmetatable({ rules = merged, own = own, schemes = schemes, path = where, id = core.next_id(),
    listens = given.on_event ~= nil }, Policy)
end

-- ------------------------------------------------------------------ scripts

-- The globals of a script, beside the sandbox's own library.
local function exposed_to(path)
  return {
    theaterref = {
      policy = { default = M.default },
      reference = { parse = reference.parse, join = reference.join, scheme = reference.scheme,
        is_own_scheme = reference.is_own_scheme, is_remote = reference.is_remote, absolute = reference.absolute,
        real_path = core.real_path },
      merge_initial_states = core.merge_initial_states,
      json_split = core.json_split,
      json_quote = core.json_quote,
      lockfile_key = lockfiles.key,
      sha256 = function(text) return core.blob(text):digest "sha256" end,
      closest = suggest.closest,
      option_fault = function(set, given) return option_sets.fault(option_sets[set], given) end,
      getenv = function(name) return (name == "HOME" or name:find "^THEATERREF_") and os.getenv(name) or nil end,
      read_lockfile = function(name) return lockfiles.read_or_raise(reference.join(path, name)) end,
    },
  }
end

local builders_path = package.searchpath("theaterref.policy.builders", package.path)

-- Adds the builders to a sandbox. Returns an error.
local function add_builders(box)
  local source, err = core.read_file(builders_path)
  if not source then return errors.new(err.kind, "the builders of policies: " .. err.message) end
  return select(2, box:run("((function(...) " .. tostring(source) .. "\nend)())(theaterref)", "@" .. builders_path))
end

-- A script's 'print'. A script has values that no function of the host's takes.
local printing = [[
  do
    local say = say
    function print(...)
      local texts = table.pack(...)
      for i = 1, texts.n do texts[i] = tostring(texts[i]) end
      say(table.concat(texts, " "))
    end
  end
  say = nil]]

local function run_script(path, source, say)
  local box = core.sandbox()
  box:expose(exposed_to(path))
  box:expose { say = say }
  local err = add_builders(box) or select(2, box:run(printing, "=print"))
  if err then return nil, err end
  return box:run(source, "@" .. path, nil, true)
end

local function run_trusted(path, source, say)
  local environment = { theaterref = M.host, say = say }
  load(printing, "=print", "t", setmetatable(environment, { __index = _G }))()
  local chunk, why = load(source, "@" .. path, "t", environment)
  if not chunk then return nil, errors.new("policy", why) end
  local ok, given = errors.pcall(chunk)
  if ok then return given end
  return nil, errors.new("policy", tostring(given))
end

local function load_script(path, trusted, say)
  local stamp = core.file_stamp(path)
  local source, err = core.read_file(path)
  if not source then return nil, errors.new(err.kind, "the policy: " .. err.message) end
  local given
  source = tostring(source):gsub("^\xEF\xBB\xBF", "") -- a byte order mark, as editors write it
  given, err = (trusted and run_trusted or run_script)(path, source, say)
  if errors.is(err) then -- else it is the script's second result
    err.message = err.message .. advice(err.message)
    return nil, err
  end
  if type(given) ~= "table" then
    return broken(path .. ": a policy script must return a table of rules, not a " .. type(given))
  end
  local policy
  policy, err = overlay(given, path)
  if policy then policy.script, policy.stamp, policy.trusted, policy.say = path, stamp, trusted, say end
  return policy, err
end

-- The policy as its script is now. A script that changed and fails, or cannot be read, leaves
-- the old rules in force until it succeeds.
-- @treturn table this policy, or a new one
-- @treturn ?string the type of an event to emit, when the script has changed
-- @treturn ?table its fields
function Policy:current()
  if not self.script then return self end
  local stamp = core.file_stamp(self.script)
  if stamp == self.stamp and not (self.retry_at and core.now() > self.retry_at) then return self end
  local fresh, err = load_script(self.script, self.trusted, self.say)
  if fresh then core.forget_verdicts() end
  if fresh then return fresh, "policy_reloaded", { reference = self.script } end
  if err.kind ~= "io" then -- else try again: this process may be out of descriptors
    self.stamp, self.retry_at = stamp, core.now() + RETRY_SECONDS
  end
  if self.reported == (stamp or "") then return self end -- say it once
  self.reported = stamp or ""
  return self, "policy_broken", { reference = self.script, message = tostring(err) }
end

-- Makes a policy; what a resolver does with its option `policy`.
-- @tparam ?string|table policy the path of a script, which runs in a sandbox
-- (32 MiB, ten million instructions and two seconds a call); a table of the
-- host's own functions; or nil for the defaults
-- @tparam ?boolean trusted run the script without a sandbox: the host's own code
-- @tparam ?function say called with each line that the script prints
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error, of kind `policy` when the script is at fault
function M.load(policy, trusted, say)
  if type(policy) == "string" then return load_script(policy, trusted, say or nothing) end
  if getmetatable(policy) == Policy then return policy end
  return overlay(policy or {}, "the policy")
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
