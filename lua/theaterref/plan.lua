--- The spawn plan: a manifest's reference in, everything a spawn needs out.
--
-- A plan is a table with
--
-- * `manifest`: the document, exactly as it says, its variables filled in
-- * `manifest_reference`: as it was asked for
-- * `origin`: where the manifest's bytes came from: after rewriting, schemes and redirects
-- * `name`: the actor's
-- * `package`: its bytes, a blob
-- * `package_reference`: where they came from
-- * `package_type`: `wasm module`, `wasm component` or `unknown`, by the first eight bytes
-- * `signed_by`: the keys that signed the package, a list of names as the policy has them; nil if
--   it requires none
-- * `initial_state`: JSON text, or nil
-- * `state_without_secrets`: the same with its `$ref` objects as they were, which
--   may be shown and logged
-- * `secrets`: if the state has `$ref` objects, `{ filled =, left = }`: how many were filled
--   in, and how many stay references, as the rule `secrets` decided
-- * `used_cache`: whether there is a cache, and the policy let the package into it
-- * `cache_hit`: whether it was there already
-- * `phases`: an array of `{ name, seconds, bytes }`, one for each step
-- @module theaterref.plan
local candidates = require "theaterref.resolve.candidates"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local Future = require "theaterref.resolve.future"
local loads = require "theaterref.resolve.load"
local manifests = require "theaterref.manifest.manifest"
local reference = require "theaterref.reference"
local secrets = require "theaterref.manifest.secrets"

local M = {}

local Plan = {}

-- One line that may be logged.
function Plan:__tostring()
  return ("plan of %s: package %s, %s; initial state of %s"):format(errors.printable(self.name),
    reference.redact(self.package_reference), errors.bytes(#self.package), errors.bytes(#(self.initial_state or "")))
end

-- A plan at work: what its steps share, beside the plan itself.
--
-- * `context`, `task`: what it works with
-- * `plan`: the result
-- * `override`: the caller's state
-- * `text`, `format`: the manifest's
-- * `ctx`: what rules are told of what the manifest names
-- * `state`: JSON text, merged
-- * `fields`: of the manifest; see `theaterref.manifest.manifest`
-- * `beside`: futures of what is resolved beside the steps, `package` among them
local steps = {}

local ask_cacheable = { ask_cacheable = true }

-- Resolves what a step needs. Returns the blob, an error, and the wish.
local function resolve(work, ref, ctx)
  local wish = { reference = ref, ctx = ctx, options = ask_cacheable, target = nil, hit = false, origin = nil,
    used_cache = nil }
  local blob, err = loads.resolve(work.task, work.context, wish)
  return blob, err, wish
end

-- Starts to resolve what a step needs, beside others. Returns a future, which is the wish, too.
local function start(work, ref, ctx)
  local task = work.task
  local future = Future.run({ reference = ref, ctx = ctx, options = ask_cacheable, will_wait = task.will_wait, has_steps = true,
    time_limit = task:seconds_left(), limit_option = task.limit_option, shown_limit = task.shown_limit or task.time_limit,
    participle = task.participle, target = nil, hit = false, origin = nil, used_cache = nil }, loads.resolve, work.context)
  table.insert(work.beside, future)
  return future
end

-- Waits for it. Returns the same as 'resolve'.
local function finish(work, future)
  local blob, err = work.task:await(future)
  work.task.fetched = future.fetched or work.task.fetched
  if not blob then err = work.task:lateness() or err end
  return blob, err, future
end

local until_closed = { __close = function(futures)
  for _, future in ipairs(futures) do future:cancel() end
end }

-- Returns the 'ctx' for rules about a reference in the manifest.
local function ctx_for(work, purpose)
  local ctx = work.ctx
  return { purpose = purpose, manifest_reference = ctx.manifest_reference, origin = ctx.origin,
    origin_is_remote = ctx.origin_is_remote, name = ctx.name }
end

-- Returns the error for more bytes than an option allows, if there are. They are given
-- themselves, or as a number.
local function size_fault(work, what, bytes, option)
  local limit = work.context[option]
  local size = math.type(bytes) and bytes or bytes and #bytes or 0
  if size <= limit then return nil end
  return errors.new("too_large", ("%s has %s, more than the %d that '%s' allows"):format(what, errors.bytes(size), limit,
    option))
end

-- Returns the error for an initial state that is too large or, with 'strict_state', no JSON.
local function state_fault(work, what, state)
  local err = size_fault(work, what, state, "max_state_bytes")
  if err or not state or not work.context.strict_state then return err end
  local kind, fault = core.json_split(state)
  return not kind and errors.new("syntax", what .. ": " .. fault.message) or nil
end

-- Returns the error for a Lua manifest that came over the network, unless the options of
-- its request allow it.
local function lua_manifest_fault(work, wish)
  if work.format ~= "lua" or not work.context:is_remote(wish.origin) then return nil end
  local answer, _, err = work.context:ask("request", wish.target, wish.ctx)
  if err then return err end
  local allowed = answer and answer.lua_manifests
  if allowed == nil then allowed = work.context.defaults.lua_manifests end
  if allowed then return nil end
  return errors.new("denied", ("%s is a Lua manifest that came over the network; to allow it, set the option "
    .. "'lua_manifests' to true, or answer it in a policy's rule 'request'"):format(reference.redact(wish.target)))
end

-- Each step returns the bytes that it worked on, as a number or as what has a length; or
-- nil and an error.

function steps.manifest(work)
  local plan = work.plan
  local blob, err, wish = resolve(work, plan.manifest_reference, { purpose = "manifest" })
  if not blob then return nil, err end
  err = size_fault(work, "the manifest", blob, "max_manifest_bytes")
  if err then return nil, err end
  plan.origin = wish.origin
  work.text = tostring(blob)
  work.format = manifests.format_of(work.text, wish.target)
  err = lua_manifest_fault(work, wish)
  if err then return nil, err end
  work.ctx = { purpose = "package", manifest_reference = candidates.base(plan.manifest_reference, wish.target, wish.manifest),
    origin = wish.origin, origin_is_remote = work.context:is_remote(wish.origin) or nil, name = nil, manifest = nil,
    package = nil }
  return blob
end

-- Starts to resolve the package while the state of the manifest is on its way, if the manifest says without that state
-- which it is, and no rule may refuse the manifest.
local function start_package(work)
  local document = manifests.parse(work.text, work.format)
  local fields = document and manifests.fields(document)
  if not (fields and fields.package) then return end
  local ctx = ctx_for(work, "package")
  ctx.manifest, ctx.name, ctx.package = document, fields.name, fields.package
  work.package = start(work, fields.package, ctx)
end

-- Resolves the state of the manifest.
local function resolve_state(work, ref)
  local context, ctx = work.context, ctx_for(work, "initial_state")
  local in_order = work.format == "lua" or work.text:find("{{", 1, true) or context.asks.allow_spawn or context.trace or work.stop
  if in_order then return resolve(work, ref, ctx) end
  local state = start(work, ref, ctx)
  if not state.finished then start_package(work) end
  return finish(work, state)
end

-- The state that the manifest brings, found before its variables are filled in.
function steps.initial_state(work)
  if work.override == "" then
    return nil, errors.new("syntax", "the initial state given is empty; nil gives none, and '{}' an object without members")
  end
  local fault = state_fault(work, "the initial state given", work.override)
  if fault then return nil, fault end
  local state, ref, unreadable = manifests.initial_state(work.text, work.format, work.override)
  if unreadable then return nil, unreadable end
  if not state and ref then
    local blob, err = resolve_state(work, ref)
    if not blob then return nil, err end
    fault = size_fault(work, "the manifest's initial state", blob, "max_state_bytes")
    if fault then return nil, fault end
    state = tostring(blob)
  end
  fault = state_fault(work, "the manifest's initial state", state)
  if fault then return nil, fault end
  work.configured = state
  return state or 0
end

-- Returns an error of the rule 'merge', as `too_large` if the states are too long for a script's strings.
local function merge_fault(work, err)
  if not err or err.kind ~= "policy" or not err.message:find("a string of more than 4 MiB", 1, true) then return err end
  return errors.new("too_large", ("the initial states are larger than a policy script can merge, though 'max_state_bytes' "
    .. "allows %d bytes: a script's strings have up to 4 MiB; the default rule 'merge', and a script that is 'trusted', "
    .. "have no such limit: %s"):format(work.context.max_state_bytes, err.message))
end

function steps.merge(work)
  local merged, _, err = work.context:ask("merge", work.configured, work.override, work.ctx)
  err = merge_fault(work, err)
  err = err or size_fault(work, "the merged initial state", merged, "max_state_bytes")
  if err then return nil, err end
  work.state, work.plan.initial_state, work.plan.state_without_secrets = merged, merged, merged
  local references = merged and secrets.count(merged) or 0
  if references > 0 then work.plan.secrets = { filled = 0, left = references } end
  return merged or 0
end

function steps.render(work)
  local context = work.context
  if work.state and work.format ~= "lua" and work.text:find("{{", 1, true) then
    local kind, fault = core.json_split(work.state)
    if not kind then
      context:emit("state_not_json", { reference = reference.redact(work.plan.manifest_reference), message = fault.message })
    end
  end
  local rendered, err = manifests.render(work.text, work.format, work.state, context.helpers, context.max_manifest_bytes)
  work.rendered = rendered
  return rendered, err
end

-- Takes a document as the manifest. Returns an error.
local function take_manifest(work, document)
  local err
  work.fields, err = manifests.fields(document)
  if not work.fields then return err end
  work.plan.manifest, work.ctx.manifest = document, document
  work.plan.name, work.ctx.name = work.fields.name, work.fields.name
end

function steps.parse(work)
  local document, err = manifests.parse(work.rendered, work.format, work.state)
  if not document then return nil, err end
  err = take_manifest(work, document)
  if err then return nil, err end
  for name, known in pairs(manifests.misspelt_keys(document)) do
    work.context:emit("misspelt_key", { reference = reference.redact(work.plan.manifest_reference), name = name,
      known = known })
  end
  return #work.rendered
end

-- The rule may refuse the manifest, or narrow it.
function steps.allow_spawn(work)
  local answer, why, err = work.context:ask("allow_spawn", work.plan.manifest, work.ctx)
  if err then return nil, err end
  if not answer then
    return work.context:refuse("allow_spawn", "Not allowed to spawn " .. work.fields.name,
      work.plan.manifest_reference, "spawn", why)
  end
  if answer == true then return 0 end
  err = take_manifest(work, answer)
  if err then return nil, err end
  return 0
end

-- A manifest's variables are filled in before: no secret gets into it.
function steps.secrets(work)
  local ctx = ctx_for(work, "secret")
  local state, filled = secrets.fill_in(work.state, function(ref)
    local late = work.task:lateness()
    if late then return nil, late end
    local wanted, _, fault = work.context:ask("secrets", ref, ctx)
    if fault or not wanted then return nil, fault end
    local secret = start(work, ref, ctx_for(work, "secret"))
    if not (secret.finished or work.package or work.context.trace) and work.fields.package then
      work.ctx.package = work.fields.package
      work.package = start(work, work.fields.package, work.ctx)
    end
    return secret
  end, function(bytes) return size_fault(work, "the initial state with its secrets", bytes, "max_state_bytes") end,
  function(future)
    local blob, fault = finish(work, future)
    return blob and (tostring(blob):gsub("\r?\n$", "")), fault and errors.about(fault, reference.redact(future.reference))
  end, work.context.trace and 1)
  if not state then return nil, filled end
  local count = work.plan.secrets
  if count then count.filled, count.left = filled, count.left - filled end
  work.plan.initial_state = state
  return 0
end

function steps.package(work)
  local plan, fields = work.plan, work.fields
  if not fields.package then
    return nil, errors.new("syntax", "the manifest names no package: give it a 'package' (or, as older manifests do, "
      .. "a 'component' or 'component_path')")
  end
  work.ctx.package = fields.package
  local blob, err, wish
  if work.package and work.package.reference == fields.package then
    blob, err, wish = finish(work, work.package)
  else
    blob, err, wish = resolve(work, fields.package, work.ctx)
  end
  plan.package, plan.package_reference, plan.cache_hit, plan.used_cache = blob, wish.target, wish.hit, wish.used_cache
  if blob then plan.package_type, plan.signed_by = core.package_type(blob), wish.signed_by end
  return blob, err
end

-- Seconds that steps may take before an event loop has its turn.
local LONG = 0.01

-- Runs a step, and writes down how long it took and on how many bytes.
local function run(work, number, name)
  local late = work.task:lateness()
  if late then return nil, late end
  local result, err = steps[name](work)
  local ended, bytes = core.now(), 0
  local seconds = ended - work.started
  work.started = ended
  core.count_step(number, seconds)
  if result then bytes = math.type(result) and result or #result end
  local phases, context = work.plan.phases, work.context
  phases[#phases + 1] = { name = name, seconds = seconds, bytes = bytes }
  if err then
    context:emit("failure", { reference = reference.redact(work.plan.manifest_reference), name = name, seconds = seconds,
      bytes = bytes, message = tostring(err) })
  elseif context.has_listeners then
    context:emit("phase", { reference = reference.redact(work.plan.manifest_reference), name = name, seconds = seconds,
      bytes = bytes })
  end
  if seconds > LONG and result then work.task:pause() end
  return result, err
end

-- The steps in their order; the last name stands for the whole plan.
local order = core.plan_steps
local LAST = #order - 1

-- True if a text is neither TOML, JSON nor Lua, whatever their parsers find at fault in it: it
-- is binary, or HTML.
local function is_other_text(text) return text:find "%z" or not utf8.len(text) or text:find "^%s*<" end

-- Returns the error that a plan ends with, which names the manifest.
local function failure(work, err)
  if err.kind == "syntax" and not work.fields and work.text and is_other_text(work.text) then
    err.message = "this is not a manifest (TOML, JSON or Lua): " .. err.message
  end
  local ref = reference.redact(work.plan.manifest_reference)
  if work.ctx and err.reference and err.reference ~= ref then return errors.named_by(err, ref) end
  return errors.about(err, ref)
end

-- Which steps have nothing to do.
local skipped = {
  allow_spawn = function(work) return not work.context.asks.allow_spawn end,
  secrets = function(work) return not (work.state and work.context.asks.secrets) end,
}

--- Makes a plan, as a future's work; what `resolver:plan` runs.
-- @tparam theaterref.future task its `reference` is the manifest's
-- @tparam table context
-- @tparam ?string override JSON text that overrides the manifest's own state
-- @tparam[opt] string stop the step to end before, with the rendered manifest: `{ text =, format = }`
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error
-- @local
function M.make(task, context, override, stop)
  local ref = task.reference
  local beside <close> = setmetatable({}, until_closed)
  local work = { beside = beside, stop = stop, package = nil,
    context = context, task = task, plan = { manifest_reference = ref, origin = nil, manifest = nil, name = nil,
    package = nil, package_reference = nil, initial_state = nil, state_without_secrets = nil, secrets = nil, phases = {},
    used_cache = false, cache_hit = false }, override = override, started = core.now(), text = nil, format = nil, ctx = nil,
    configured = nil,
    state = nil, rendered = nil, fields = nil }
  local began = work.started
  setmetatable(work.plan, Plan)
  for i = 1, LAST do
    local name = order[i]
    if name == stop then return { text = work.rendered, format = work.format } end
    local skip = skipped[name]
    if not skip or not skip(work) then
      local done, err = run(work, i, name)
      if not done then
        return nil, failure(work, err)
      end
    end
  end
  core.count_step(LAST + 1, core.now() - began)
  return work.plan
end

return M
