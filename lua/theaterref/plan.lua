--- The spawn plan: a manifest's reference in, everything a spawn needs out.
--
-- A plan is a table with
--
-- * `manifest`: the document, exactly as it says, its variables filled in
-- * `name`: the actor's
-- * `package`: its bytes, a blob
-- * `package_reference`: where they came from
-- * `initial_state`: JSON text, or nil
-- * `state_without_secrets`: the same with its `$ref` objects as they were, which
--   may be shown and logged
-- * `used_cache`: whether the policy let the package be cached
-- * `cache_hit`: whether it was there already
-- * `phases`: an array of `{ name, seconds, bytes }`, one for each step
-- @module theaterref.plan
local core = require "theaterref.core"
local errors = require "theaterref.error"
local manifests = require "theaterref.manifest.manifest"
local secrets = require "theaterref.manifest.secrets"

local M = {}

-- Runs one step and writes down how long it took. 'bytes' is what it worked
-- on; without it, what it brought: a blob or a string has a length.
local function phase(plan, resolver, name, step, bytes)
  local started = core.now()
  local result, err, more = step()
  local seconds = core.now() - started
  if not bytes and result and (type(result) == "string" or core.is_blob(result)) then bytes = #result end
  plan.phases[#plan.phases + 1] = { name = name, seconds = seconds, bytes = bytes or 0 }
  if err or resolver.has_listeners then
    resolver:emit { type = err and "failure" or "phase", name = name, seconds = seconds, bytes = bytes or 0,
      reference = errors.redact(plan.manifest_reference), message = err and tostring(err) }
  end
  return result, err, more
end

local function fetch(plan, resolver, ref, ctx, claim_options)
  local options = { ctx = ctx, cached = claim_options ~= nil, will_wait = true, deadline = plan.deadline }
  if claim_options then
    for name, value in pairs(claim_options) do options[name] = value end
  end
  local future, err = resolver:start(ref, options)
  if not future then return nil, err end
  if future.result then return future.result, nil, future end
  local blob
  blob, err = future:wait()
  return blob, err, future
end

-- The state that the manifest brings along, found before its variables are
-- filled in.
local function configured_state(plan, resolver, text, format, ctx, override)
  return phase(plan, resolver, "initial_state", function()
    local state, ref = manifests.initial_state(text, format, override)
    if state or not ref then return state end
    local blob, err = fetch(plan, resolver, ref, { purpose = "initial_state", manifest_reference = ctx.manifest_reference })
    return blob and tostring(blob), err
  end)
end

-- The manifest with its variables filled in, parsed, and its fields.
local function read_manifest(plan, resolver, text, format, state)
  local rendered, err = phase(plan, resolver, "render", function()
    return manifests.render(text, format, state, resolver.helpers)
  end)
  if not rendered then return nil, err end
  local manifest
  manifest, err = phase(plan, resolver, "parse", function()
    return manifests.parse(rendered, format, state)
  end, #rendered)
  if not manifest then return nil, err end
  local fields
  fields, err = manifests.fields(manifest)
  return manifest, err, fields
end

local function read_package(plan, resolver, fields, ctx)
  if not fields.package then
    return nil, errors.new("syntax", "the manifest names no package: give it a 'package' (or, as older manifests do, "
      .. "a 'component' or 'component_path')")
  end
  ctx.package = fields.package
  local answer, _, err = resolver.policy:ask("cacheable", ctx.manifest, ctx)
  if err then return nil, err end
  plan.used_cache = (answer == true or type(answer) == "table") and resolver.cache ~= nil
  local claim_options = plan.used_cache and (type(answer) == "table" and answer or {}) or nil
  local blob, why, future = phase(plan, resolver, "package", function()
    return fetch(plan, resolver, fields.package, ctx, claim_options)
  end)
  if not blob then return nil, why end
  plan.package, plan.package_reference, plan.cache_hit = blob, future.target, future.hit
  return plan
end

-- Asks the rule 'allow_spawn', which may refuse the manifest or narrow it.
local function allow_spawn(plan, resolver, fields, ctx)
  local policy = resolver.policy
  if not policy:overrides "allow_spawn" then return plan.manifest, nil, fields end
  local answer, why, err = policy:ask("allow_spawn", plan.manifest, ctx)
  if err then return nil, err end
  if answer == true then return plan.manifest, nil, fields end
  if not answer then
    resolver:emit { type = "refusal", reference = errors.redact(plan.manifest_reference), purpose = "spawn", reason = why }
    return nil, errors.new("denied", "Not allowed to spawn " .. fields.name .. ": " .. (why or "the policy gives no reason"))
  end
  fields, err = manifests.fields(answer)
  return fields and answer, err, fields
end

-- The state with its secrets, where the policy wants them.
local function fill_in_secrets(plan, resolver, state, ctx)
  local policy = resolver.policy
  if not state or not policy:overrides "secrets" then return state end
  return phase(plan, resolver, "secrets", function()
    return secrets.fill_in(state, function(ref)
      local wanted, _, err = policy:ask("secrets", ref, ctx)
      if err or not wanted then return nil, err end
      local blob
      blob, err = fetch(plan, resolver, ref, ctx)
      return blob and (tostring(blob):gsub("\r?\n$", "")), err and errors.about(err, ref)
    end)
  end, 0)
end

local function make(plan, resolver, ref, override)
  local policy = resolver.policy
  local blob, err, future = phase(plan, resolver, "manifest", function()
    return fetch(plan, resolver, ref, { purpose = "manifest" })
  end)
  if not blob then return nil, err end
  local text = tostring(blob)
  local format = manifests.format_of(text, future.target)
  local ctx = { purpose = "package", manifest_reference = future.target }
  local configured
  configured, err = configured_state(plan, resolver, text, format, ctx, override)
  if err then return nil, err end
  local state
  state, err = phase(plan, resolver, "merge", function()
    local merged, _, failure = policy:ask("merge", configured, override, ctx)
    return merged, failure
  end)
  if err then return nil, err end
  local fields
  plan.manifest, err, fields = read_manifest(plan, resolver, text, format, state)
  if err then return nil, err end
  ctx.name, ctx.manifest = fields.name, plan.manifest
  plan.manifest, err, fields = allow_spawn(plan, resolver, fields, ctx)
  if err then return nil, err end
  plan.name, ctx.manifest = fields.name, plan.manifest
  -- A manifest's variables are filled in before: no secret gets into it.
  plan.state_without_secrets = state
  plan.initial_state, err = fill_in_secrets(plan, resolver, state,
    { purpose = "secret", manifest_reference = ctx.manifest_reference, name = fields.name })
  if err then return nil, err end
  return read_package(plan, resolver, fields, ctx)
end

--- Makes a plan; what `resolver:plan` calls.
-- @tparam theaterref.resolver resolver
-- @tparam string ref the manifest's reference
-- @tparam table options `initial_state`: JSON text, string or blob, that
-- overrides the manifest's own
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error
function M.make(resolver, ref, options)
  local override = options.initial_state
  if override ~= nil and type(override) ~= "string" and not core.is_blob(override) then
    error("'initial_state' must be JSON text: a string or a blob", 3)
  end
  resolver:reload_policy()
  local seconds = options.plan_timeout or resolver.plan_timeout
  local plan = { manifest_reference = ref, deadline = seconds and seconds >= 0 and core.now() + seconds or nil,
    phases = {}, used_cache = false, cache_hit = false }
  local made, err = make(plan, resolver, ref, override and tostring(override))
  plan.deadline = nil
  if not made then return nil, errors.about(err, ref) end
  return made
end

return M
