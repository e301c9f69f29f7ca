--- `theaterref resolve`, `plan` and `render`.
-- @module theaterref.cli.fetching
local core = require "theaterref.core"
local errors = require "theaterref.error"
local manifests = require "theaterref.manifest.manifest"
local output = require "theaterref.cli.output"
local references = require "theaterref.reference"
local secrets = require "theaterref.manifest.secrets"
local settings = require "theaterref.cli.settings"

local plain = output.plain

local state_option = { "--state", "JSON|@FILE", "Initial state that overrides the manifest's. @- reads standard input." }

-- ----------------------------------------------------------------- resolve

local function resolve(args)
  local resolver, err = settings.resolver(args)
  local future, blob
  if resolver then future, err = resolver:start(args.reference) end
  if future then blob, err = output.wait(future) end
  if not blob then return nil, err end
  local ok, why = output.write_content(args.output, blob)
  if not ok then return nil, why end
  return { reference = references.redact(args.reference), target = references.redact(future.target), bytes = #blob,
    sha256 = args.json and blob:digest(), output = args.output, blob = blob }
end

-- -------------------------------------------------------------------- plan

local function milliseconds(seconds) return ("%9.3f ms"):format(seconds * 1000) end

-- Calls a method of the resolver's with the manifest and the initial state that were given.
local function with_manifest(args, method)
  local state, err = settings.state(args)
  if err then return nil, err end
  local resolver
  resolver, err = settings.resolver(args)
  if not resolver then return nil, err end
  return resolver[method](resolver, args.manifest, { initial_state = state })
end

local function plan(args)
  local made, err = with_manifest(args, "plan")
  if not made then return nil, err end
  made.initial_state, made.state_without_secrets = made.state_without_secrets, nil -- this is shown
  for _, field in ipairs { "manifest_reference", "origin", "package_reference" } do
    made[field] = core.redact_reference(made[field])
  end
  made.manifest = manifests.shown(made.manifest)
  made.initial_state = made.initial_state and secrets.shown(made.initial_state)
  made.package_bytes, made.package_sha256 = #made.package, made.package:digest()
  made.signed_by = made.signed_by and output.array(made.signed_by)
  return output.redacted(made)
end

-- Each phase's bar stands where it ran, as in a browser's network view.
local function waterfall(phases)
  local lines, whole, before, width = {}, 0, 0, 40
  for _, phase in ipairs(phases) do whole = whole + phase.seconds end
  for _, phase in ipairs(phases) do
    local from = math.min(width, math.floor(width * before / whole))
    local long = math.min(width + 1 - from, math.max(1, math.floor(width * phase.seconds / whole + 0.5)))
    lines[#lines + 1] = ("  %-13s |%s%s%s| %s  %9d bytes"):format(phase.name, (" "):rep(from),
      output.coloured("cyan", ("="):rep(long)), (" "):rep(width + 1 - from - long), milliseconds(phase.seconds), phase.bytes)
    before = before + phase.seconds
  end
  lines[#lines + 1] = ("  %-13s  %-41s  %s"):format("in all", "", milliseconds(whole))
  return lines
end

-- How many secrets there are, such as "1 of 2 filled in; 1 stays a reference".
local function secrets_text(count)
  local text = ("%d of %d filled in"):format(count.filled, count.filled + count.left)
  if count.left == 0 then return text end
  return text .. (count.left == 1 and "; 1 stays a reference" or ("; %d stay references"):format(count.left))
end

local function show_plan(data, args)
  local lines = {
    "name           " .. output.coloured("bold", plain(data.name)),
    "package        " .. plain(data.package_reference),
    ("               %s, %s, sha256 %s"):format(data.package_type, errors.bytes(data.package_bytes), data.package_sha256),
    "cache          " .. (data.used_cache and (data.cache_hit and "hit" or "used") or "not used"),
    "initial state  " .. plain(data.initial_state or "none") }
  if data.secrets then lines[#lines + 1] = "secrets        " .. secrets_text(data.secrets) end
  lines[#lines + 1] = "phases"
  if data.signed_by then table.insert(lines, 4, "signed by      " .. plain(table.concat(data.signed_by, ", "))) end
  if args.timings then return table.concat(lines, "\n") .. "\n" .. table.concat(waterfall(data.phases), "\n") end
  for _, phase in ipairs(data.phases) do
    lines[#lines + 1] = ("  %-13s %s  %9d bytes"):format(phase.name, milliseconds(phase.seconds), phase.bytes)
  end
  return table.concat(lines, "\n")
end

-- ------------------------------------------------------------------ render

local function render(args)
  local rendered, err = with_manifest(args, "render")
  if not rendered then return nil, err end
  rendered.manifest = references.redact(args.manifest)
  return rendered
end

return {
  { name = "resolve", does = "Print the bytes of a reference.", fetches = true,
    examples = { "theaterref resolve actor.wasm -o copy.wasm", "theaterref resolve store://demo/greeting --json" },
    arguments = { { "reference",
      "A path, store://<id>/<label>, store://<id>/hash/<hash>, http://…, https://…, oci://…, s3://… or data:[<type>],<text>" } },
    options = { { "-o --output", "FILE", "Write to this file; - for standard output." } },
    run = resolve, show = output.show_content },
  { name = "plan", does = "Show everything that a spawn of a manifest's actor needs.", fetches = true,
    examples = { [[theaterref plan manifest.toml --state '{"port":8081}']], "theaterref plan manifest.toml --timings" },
    arguments = { { "manifest", "Its reference." } },
    options = { state_option, { "--timings", nil, "Draw the phases as a waterfall chart." } },
    run = plan, show = show_plan },
  { name = "render", does = "Print a manifest with its variables filled in.", fetches = true,
    examples = { "theaterref render manifest.toml --state @state.json" },
    arguments = { { "manifest", "Its reference." } },
    options = { state_option },
    run = render, show = function(data) return core.blob(data.text) end },
  state_option = state_option,
}
