-- The fuzz targets: functions of an input, which raise only when something is
-- wrong. fuzz.c feeds them what libFuzzer makes up, and a spec what it found.
local core = require "theaterref.core"
local reference = require "theaterref.reference"
local template = require "theaterref.manifest.template"
local theaterref = require "theaterref"
local toml = require "theaterref.manifest.toml"

local M = {}

-- Two initial states, separated by the first zero byte. The result merges again.
function M.merge(input)
  local config, override = input:match "^([^\0]*)%z?(.*)$"
  local once = theaterref.merge_initial_states(config, override)
  assert(theaterref.merge_initial_states(once, once))
  local kind, items = core.json_split(once)
  if kind == "object" then assert(#items % 2 == 0) end
end

function M.label(input)
  local fault = core.label_fault(input:gsub("%z.*", ""))
  local text = "/" .. input:gsub("%z.*", "") .. "/"
  assert(fault or not (text:find("/../", 1, true) or text:find("/./", 1, true) or text:find("//", 1, true)))
end

function M.reference(input)
  local parsed, err = reference.parse(input)
  assert(parsed or err.kind == "invalid_reference")
  for _, base in ipairs { "https://h/x/y", "store://s/a/b", "/a/b" } do
    local joined, why = reference.join(base, input)
    assert(joined or why.kind == "invalid_reference")
  end
  reference.join(input, "a/../b")
end

-- A title and a document, separated by the first zero byte.
function M.oci(input)
  local title, document = input:match "^([^\0]*)%z(.*)$"
  local kind, digest, size = core.oci_select(document or input, title)
  if kind then assert(#digest == 64 and not digest:find "[^%da-f]" and size >= 0)
  else assert(digest.kind == "syntax" or digest.kind == "not_found" or digest.kind == "invalid_reference") end
  local parsed = reference.parse("oci://" .. input)
  if parsed then assert(reference.parse(parsed.text).text == parsed.text, parsed.text) end
end

function M.toml(input)
  local parsed, err = toml.parse(input)
  assert(parsed or err.kind == "syntax")
  toml.scan(input, { initial_state = true })
end

local state = '{"a":{"b":[1,2,{"c":"d"}]},"e":null}'

function M.template(input)
  local text, err = template.substitute_variables(input, state)
  assert(text or err.kind == "syntax" or err.kind == "too_large", tostring(err))
end

local matcher = [[
  local function all(...)
    local found = {}
    for a, b in string.gmatch(...) do found[#found + 1] = ("%s,%s"):format(a, b) end
    return table.concat(found, ";")
  end
  return function(text, pattern, replacement)
    local answers = {}
    for _, f in ipairs { string.find, string.match, all, string.gsub } do
      local results = table.pack(pcall(f, text, pattern, f == string.gsub and replacement or nil))
      for i = 1, results.n do answers[#answers + 1] = tostring(results[i]) end
    end
    return table.concat(answers, "|")
  end]]
local expected, got = load(matcher, "=s")(), core.sandbox { instructions = 1 << 30, seconds = 5 }:run(matcher, "=s", nil, true)

-- A pattern, a replacement and a text, separated by the first zero bytes: a script's matcher
-- finds what Lua's own finds. They are short, since Lua's can take forever.
function M.pattern(input)
  local pattern, replacement, text = input:match "^([^\0]*)%z?([^\0]*)%z?(.*)$"
  pattern, text = pattern:sub(1, 16), text:sub(1, 24)
  local ours, theirs = got(text, pattern, replacement), expected(text, pattern, replacement)
  assert(ours == theirs, ours)
end

local manifest
local resolver = assert(theaterref.resolver { log = false, policy = {
  schemes = { fuzz = function() return manifest end },
  allow = function(ref) return ref:find "^fuzz:" ~= nil end,
  secrets = function() return true end,
} })

function M.plan(input)
  manifest = input
  for _, ending in ipairs { "toml", "json", "lua" } do
    local plan, err = resolver:plan("fuzz://manifest." .. ending)
    assert(plan or err.kind)
  end
end

-- The values of WWW-Authenticate headers, a line each. The fields fit into their bounds, have
-- no character that a header or a URL could be split by, and are read the same when they are
-- quoted.
function M.challenge(input)
  local found = core.parse_challenge(input)
  if not found then return end
  assert(found.basic or found.bearer)
  assert(found.bearer == (found.realm ~= nil))
  local again = {}
  for name, limit in pairs { realm = 2048, service = 512, scope = 4096 } do
    local value = found[name]
    assert(not value or #value < limit and not value:find "[%c\127-\255]")
    if value then again[#again + 1] = ('%s="%s"'):format(name, value:gsub('[\\"]', "\\%0")) end
  end
  if not found.bearer then return end
  local same = core.parse_challenge("Bearer " .. table.concat(again, ","))
  assert(same.realm == found.realm and same.service == found.service and same.scope == found.scope)
end

return M
