--- `theaterref push`, `copy` and `oci …`: publish to registries, and see what they have.
-- @module theaterref.cli.registries
local output = require "theaterref.cli.output"
local references = require "theaterref.reference"
local settings = require "theaterref.cli.settings"

local plain = output.plain

-- A command on a resolver.
local function with_resolver(run)
  return function(args)
    local resolver, err = settings.resolver(args)
    if not resolver then return nil, err end
    return run(resolver, args)
  end
end

-- Says that a tag led to something else before.
local function tell_moved(data)
  if data.moved_from then output.note(("the tag has moved from sha256:%s"):format(data.moved_from)) end
end

local function push(resolver, args)
  local state, err = settings.state(args)
  if err then return nil, err end
  local data
  data, err = resolver:push(args.manifest, args.target, { initial_state = state })
  if data then tell_moved(data) end
  return data, err
end

local function show_push(data)
  return ("%s\n%s"):format(plain(data.reference), plain(data.package_reference))
end

-- Copies to standard output, which gets the bytes when the command ends.
local function copy_out(resolver, args)
  if args.all then return nil, output.usage_error "an artifact with all layers goes to a registry, not to standard output" end
  local blob, err = resolver:resolve(args.from)
  if not blob then return nil, err end
  return { reference = "-", bytes = #blob, sha256 = blob:digest(), blob = blob }
end

local function copy(resolver, args)
  if args.to == "-" then return copy_out(resolver, args) end
  local data, err = resolver:copy(args.from, args.to, { all = args.all })
  if data then
    data.reference = references.redact(data.reference)
    tell_moved(data)
  end
  return data, err
end

local function tags(resolver, args)
  local list, err = resolver:tags(args.reference)
  return list and output.array(list), err
end

local function show_tags(list)
  local lines = {}
  for i, tag in ipairs(list) do lines[i] = plain(tag) end
  return table.concat(lines, "\n")
end

local function inspect(resolver, args)
  local data, err = resolver:inspect(args.reference)
  if not data then return nil, err end
  for _, name in ipairs { "layers", "manifests" } do
    if data[name] then output.array(data[name]) end
  end
  return data
end

local function descriptor_line(what, descriptor)
  local name = descriptor.title or descriptor.platform
  return ("%-10s %s  %s%s%s"):format(what, descriptor.digest or "no digest",
    descriptor.bytes and descriptor.bytes .. " bytes  " or "", descriptor.media_type or "no media type",
    name and "  " .. name or "")
end

local function show_inspection(data)
  local lines = { "reference  " .. data.reference,
    ("manifest   %s  %d bytes  %s"):format(data.digest, data.bytes, data.media_type or "no media type") }
  if data.config then lines[#lines + 1] = descriptor_line("config", data.config) end
  for _, layer in ipairs(data.layers or {}) do lines[#lines + 1] = descriptor_line("layer", layer) end
  for _, entry in ipairs(data.manifests or {}) do lines[#lines + 1] = descriptor_line("entry", entry) end
  local names = {}
  for name in pairs(data.annotations or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do lines[#lines + 1] = ("annotation %s = %s"):format(name, data.annotations[name]) end
  for i, line in ipairs(lines) do lines[i] = plain(line) end
  return table.concat(lines, "\n")
end

local repository = { "reference", "oci://registry/repository, with or without a tag." }

return {
  { name = "push", does = "Push a manifest, its package and its state to a registry.", fetches = true,
    examples = { "theaterref push manifest.toml oci://ghcr.io/team/worker:1.2" },
    arguments = { { "manifest", "Its reference; a manifest in TOML." },
      { "target", "oci://registry/repository:tag. The package alone is pushed as <tag>.package, too." } },
    options = { { "--state", "JSON|@FILE", "Initial state, used to check that the manifest renders; it is not pushed, "
      .. "and may not choose the package. @- reads standard input." } },
    run = with_resolver(push), show = show_push },
  { name = "copy", does = "Copy what a reference means to another place.", fetches = true,
    examples = { "theaterref copy actor.wasm store://demo/actors/worker",
      "theaterref copy worker.wasm oci://ghcr.io/team/worker:1.2",
      "theaterref copy --all oci://ghcr.io/team/worker:1.2 oci://registry.example.org/worker:1.2" },
    arguments = { { "from", "Any reference." },
      { "to", "A path, - for standard output, store://<id>/<label>, oci://registry/repository:tag or s3://bucket/key." } },
    options = { { "--all", nil, "Copy an artifact with all layers and signatures, from registry to registry." } },
    run = with_resolver(copy), show = function(data) return data.blob or plain(data.reference) end },
  { name = "oci", does = "See what a registry has.", commands = {
    { name = "tags", does = "List the tags of a repository.", fetches = true,
      examples = { "theaterref oci tags oci://ghcr.io/team/worker" },
      arguments = { repository }, run = with_resolver(tags), show = show_tags },
    { name = "inspect", does = "Show the manifest of a reference, and the layers it has.", fetches = true,
      examples = { "theaterref oci inspect oci://ghcr.io/team/worker:1.2" },
      arguments = { { "reference", "oci://registry/repository:tag." } }, run = with_resolver(inspect), show = show_inspection },
  } },
}
