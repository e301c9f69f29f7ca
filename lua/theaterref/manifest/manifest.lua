--- Actor manifests: TOML, JSON or Lua, in every spelling that is about.
--
-- A Lua manifest is a script that returns a table. It runs in a sandbox, with
-- the initial state as the global `state`, instead of having variables.
-- @module theaterref.manifest.manifest
local core = require "theaterref.core"
local errors = require "theaterref.error"
local secrets = require "theaterref.manifest.secrets"
local suggest = require "theaterref.suggest"
local template = require "theaterref.manifest.template"
local toml = require "theaterref.manifest.toml"

local M = {}

--- Which language a manifest is written in: by the reference's ending, else by
-- its first character.
-- @tparam string text
-- @tparam ?string reference
-- @treturn string `"toml"`, `"json"` or `"lua"`
function M.format_of(text, reference)
  local name = reference and (reference:match "^oci:[^#]*#title=([^&]*)" or reference:match "^[^?#]*")
  local ending = name and name:match "%.(%a+)$"
  ending = ending and ending:lower()
  if ending == "lua" or ending == "json" or ending == "toml" then return ending end
  if text:find("^%s*{") and not text:find("^%s*{{") then return "json" end
  if text:find("^%s*return%f[%A]") then return "lua" end
  return "toml"
end

-- True if a message is the sandbox's about time, instructions or memory.
local function is_over_a_limit(message)
  local did = message:match "the script (%l+) "
  return did == "ran" or did == "made" or did == "needed" or did == "had"
end

local function parse_lua(text, state)
  local box <close> = core.sandbox()
  local variables = state and core.json_decode(state, false, true) or {}
  local manifest, err = box:run(text, "=manifest", { state = variables })
  if not errors.is(err) then return manifest end -- else it is the script's second result
  if not is_over_a_limit(err.message) then err.kind = "syntax" end
  return nil, err
end

local parsers = {
  toml = function(text) return toml.parse(text) end,
  json = function(text) return core.json_decode(text, false, true) end, -- for theaterref.manifest.json
  lua = parse_lua,
}

--- Reads a manifest that has no variables left.
-- @tparam string text
-- @tparam string format as from `format_of`
-- @tparam ?string state JSON text: what a Lua manifest sees as `state`
-- @treturn table exactly what the document says
-- @return[2] nil
-- @treturn[2] table an error of kind `syntax`
function M.parse(text, format, state)
  local manifest, err = parsers[format](text, state)
  if not manifest and not err or manifest and type(manifest) ~= "table" then
    err = errors.new("syntax", "a manifest must be a table of fields")
  end
  if err then return nil, err end
  return manifest
end

local function wrong(field, what)
  return nil, errors.new("syntax", ("the manifest's '%s' must be %s"):format(field, what))
end

-- A field at the top or, in older manifests, in [actor].
local function lookup(manifest, field)
  local value, actor = manifest[field], manifest.actor
  if value == nil and actor and type(actor) == "table" then value = actor[field] end
  if value == core.json_null then return nil end
  return value
end

local package_fields, state_fields = { "package", "component", "component_path" }, { "initial_state", "init_state" }

--- The fields of a manifest that theaterref uses, in any of their spellings.
-- @tparam table manifest
-- @treturn table `{ name, package, initial_state, init_state, static_package }`;
-- only `name` is always there
-- @return[2] nil
-- @treturn[2] table an error of kind `syntax`
function M.fields(manifest)
  local found = { static_package = lookup(manifest, "static_package") }
  found.name = lookup(manifest, "name")
  if type(found.name) ~= "string" or found.name == "" then return wrong("name", "a string, and not empty") end
  for _, field in ipairs(package_fields) do
    local value = lookup(manifest, field)
    if value ~= nil then
      if type(value) ~= "string" or value == "" then return wrong(field, "a reference, as a string") end
      if found.package and found.package ~= value then
        return nil, errors.new("syntax", ("the manifest names two packages: '%s' and '%s'; keep 'package' alone"):format(
          errors.redact_reference(found.package), errors.redact_reference(value)))
      end
      found.package = value
    end
  end
  for _, field in ipairs(state_fields) do
    found[field] = lookup(manifest, field)
    if found[field] ~= nil and type(found[field]) ~= "string" then
      return wrong(field, field == "initial_state" and "JSON text, as a string" or "a reference, as a string")
    end
  end
  if found.initial_state and found.init_state then
    return nil, errors.new("syntax", "the manifest has both 'initial_state' (JSON text) and 'init_state' "
      .. "(a reference to it); keep one")
  end
  if found.static_package ~= nil and type(found.static_package) ~= "boolean" then
    return wrong("static_package", "true or false")
  end
  return found
end

local known_fields = { "name", "package", "component", "component_path", "initial_state", "init_state", "static_package" }
local is_known = {}
for _, field in ipairs(known_fields) do is_known[field] = true end

--- The unknown keys at the top of a manifest that are one edit away from a known key, which it
-- does not have.
-- @tparam table manifest
-- @treturn table the known key by each
function M.misspelt_keys(manifest)
  local found = {}
  for key in pairs(manifest) do
    for _, field in ipairs(type(key) == "string" and not is_known[key] and known_fields or {}) do
      if suggest.is_one_edit(key, field) and lookup(manifest, field) == nil then found[key] = field end
    end
  end
  return found
end

-- A copy of a table of fields with its references redacted.
local function shown_fields(fields)
  local copy = setmetatable({}, getmetatable(fields))
  for name, value in pairs(fields) do copy[name] = value end
  for _, name in ipairs { "package", "component", "component_path", "init_state" } do
    if type(copy[name]) == "string" then copy[name] = core.redact_reference(copy[name]) end
  end
  if type(copy.initial_state) == "string" then copy.initial_state = secrets.shown(copy.initial_state) end
  return copy
end

--- A copy of a manifest with its references redacted, so that it may be shown.
-- @tparam table manifest
-- @treturn table
function M.shown(manifest)
  local copy = shown_fields(manifest)
  if type(copy.actor) == "table" then copy.actor = shown_fields(copy.actor) end
  return copy
end

-- The position behind the tag at a position, and what stands for it in JSON: nothing for
-- blocks and comments. Nil: it does not end.
local function read_tag(text, at)
  local _, last = text:find(text:find("^{{{", at) and "}}}" or "}}", at + 2, true)
  if not last then return nil end
  return last + 1, (text:find("^{{%s*[#/!^]", at) or text:find("^{{%s*else", at)) and "" or "null"
end

-- JSON with placeholders: outside strings, "{{" can only be one. Values
-- become null, blocks go, and the rest is read as well as possible.
local function scan_json(text)
  local out, from, at, quoted = {}, 1, 1, false
  while true do
    at = text:find(quoted and '["\\]' or '["{]', at)
    if not at then break end
    local char = text:sub(at, at)
    if char == '"' then
      quoted, at = not quoted, at + 1
    elseif char == "\\" then
      at = at + 2
    elseif text:sub(at + 1, at + 1) ~= "{" then
      at = at + 1
    else
      local behind, value = read_tag(text, at)
      if not behind then return {} end -- neither a template nor JSON
      out[#out + 1], out[#out + 2] = text:sub(from, at - 1), value
      from, at = behind, behind
    end
  end
  out[#out + 1] = text:sub(from)
  return core.json_decode(table.concat(out)) or {}
end

--- The initial state a manifest brings, found before its variables are filled
-- in, when it may not be a valid document yet.
-- @tparam string text
-- @tparam string format
-- @tparam ?string override_state what a Lua manifest sees as `state`
-- @treturn ?string `initial_state`: JSON text
-- @treturn ?string `init_state`: a reference to it
-- @treturn ?table an error, when the text cannot be read to its end, or the script fails
function M.initial_state(text, format, override_state)
  -- Most manifests bring none, and need not be read twice. (A key may be written
  -- with escapes.)
  if format ~= "lua" and not text:find("init", 1, true) and not text:find("\\", 1, true) then return nil end
  local manifest, err
  if format == "toml" then
    manifest, err = toml.scan(text, { initial_state = true, init_state = true })
    if err then return nil, nil, err end
  elseif format == "json" then
    manifest = scan_json(text)
  else
    manifest, err = parse_lua(text, override_state)
    if err then return nil, nil, err end
  end
  local function text_of(field)
    local value = type(manifest) == "table" and lookup(manifest, field)
    return type(value) == "string" and value or nil
  end
  return text_of("initial_state"), text_of("init_state")
end

--- Fills in a manifest's variables. Lua manifests have none.
-- @tparam string text
-- @tparam string format
-- @tparam ?string state JSON text
-- @tparam[opt] table helpers functions by name, for templates
-- @tparam[opt] integer max_bytes of the result
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error of kind `syntax` or `too_large`
function M.render(text, format, state, helpers, max_bytes)
  if format == "lua" or not text:find("{{", 1, true) then return text end
  return template.substitute_variables(text, state, { helpers = helpers, max_bytes = max_bytes })
end

return M
