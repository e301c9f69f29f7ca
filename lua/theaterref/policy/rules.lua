--- The rules of a policy: this is the list of them all. The checks of answers, the
-- guides and the editor stubs go by it.
-- @module theaterref.policy.rules
local options = require "theaterref.options"

local M = {}

local function is_digest(value, length) return type(value) == "string" and #value == length and value:find "^%x+$" ~= nil end

-- A check returns nil if the answers are good, or else how the sentence "the rule 'x' …"
-- goes on.

local function returned(value)
  return "returned a " .. type(value)
end

local function option_fault(set, answer)
  local fault = options.fault(set, answer)
  return fault and "is wrong: " .. fault
end

local function reason_fault(why)
  return why ~= nil and type(why) ~= "string" and returned(why) .. " as its reason" or nil
end

-- true; or false (nil) and a reason.
local function verdict(answer, second)
  if answer == true then return nil end
  if answer == nil and second == nil then return "returned nothing" end
  if answer then return returned(answer) end
  return reason_fault(second)
end

local MAX_CANDIDATES = 16

local function check_rewrite(answer)
  if type(answer) == "string" then return nil end
  if type(answer) ~= "table" then return returned(answer) end
  for _, item in ipairs(answer) do
    if type(item) ~= "string" then return "returned a list with a " .. type(item) .. " in it" end
  end
  if #answer == 0 then return "returned an empty list" end
  return #answer > MAX_CANDIDATES and ("returned a list of %d, where %d are as many as are tried"):format(#answer,
    MAX_CANDIDATES) or nil
end

local function check_allow(answer, second)
  if answer ~= true or second == nil or type(second) == "string" then return verdict(answer, second) end
  if type(second) ~= "table" then return returned(second) .. " as its second answer" end
  return option_fault(options.allow, second)
end

local function check_integrity(answer, second)
  if answer == nil then return reason_fault(second) end
  if type(answer) == "string" then answer = { [#answer == 40 and "sha1" or "sha256"] = answer } end
  if type(answer) ~= "table" then return returned(answer) end
  local fault = option_fault(options.integrity, answer)
  if fault then return fault end
  if not (answer.sha256 or answer.sha1) then return "returned a table without a digest" end
  if answer.manifest and not is_digest(answer.manifest, 64) then return "returned a manifest that is not 64 hex digits" end
  if answer.sha256 and not is_digest(answer.sha256, 64) then return "returned a SHA-256 that is not 64 hex digits" end
  return answer.sha1 and not is_digest(answer.sha1, 40) and "returned a SHA-1 that is not 40 hex digits" or nil
end

-- A check for nil or values of one type, or tables of options.
local function of_type(expected, set)
  return function(answer)
    if answer == nil or type(answer) == expected then return nil end
    if type(answer) ~= "table" or not set then return returned(answer) end
    return option_fault(set, answer)
  end
end

local function check_signatures(answer, second)
  if answer == nil then return reason_fault(second) end
  if type(answer) ~= "table" then return returned(answer) end
  return option_fault(options.signatures, answer) or not answer.keys and "returned a table without keys" or nil
end

local function check_allow_spawn(answer, second)
  return type(answer) ~= "table" and verdict(answer, second) or nil
end

-- Each has its name, its arguments, its answers in words, its check, and what it decides.
M.list = {
  { "rewrite", "reference, ctx", "a reference, or a list of them", check_rewrite,
    "where a reference points: a reference, or a list to try in order. By default it is relative to the manifest" },
  { "allow", "reference, ctx", "true, or false and a reason", check_allow,
    "whether a reference may be resolved. By default a manifest from the network may name neither local files, nor local "
    .. "stores, nor, from https, plain http or registries that are asked by it" },
  { "integrity", "reference, ctx", "nil, a hex digest, or a table with one", check_integrity,
    "the digest that the bytes must have: nil for none; nil and a reason refuses; or `{ sha256 = or sha1 =, store =, "
    .. "offline = }`: look in that store first, and with `offline` nowhere else. By default none" },
  { "signatures", "reference, ctx", "nil, or a table with keys", check_signatures,
    "the keys that must have signed the bytes: nil for none; nil and a reason refuses; or `{ keys =, threshold =, from = }`. "
    .. "The host verifies; bytes without enough signatures are an error of kind `untrusted`. By default none" },
  { "accept", "blob, ctx", "true, or false and a reason", verdict,
    "whether these bytes are what they should be, asked each time: true; or false and a reason, an error of kind `rejected`. "
    .. "`blob` has `#blob`, `blob:sub`, `blob:byte` and `blob:wasm_type`. By default true" },
  { "cacheable", "manifest, ctx", "a boolean, or a table of options", of_type("boolean", options.cacheable),
    "whether bytes may be kept in the resolver's cache: a boolean, or `{ ttl =, revalidate =, disk = }`. For manifests and "
    .. "initial states `manifest` is nil. By default packages with `static_package`, a verified SHA-256, and "
    .. "`store://…/hash/…`" },
  { "merge", "configured, override, ctx", "JSON text", of_type "string",
    "the initial state, from the manifest's and the caller's. By default the union of two objects, the override first" },
  { "secrets", "reference, ctx", "a boolean", of_type "boolean",
    "whether an object `{ \"$ref\": reference }` in the initial state is replaced by what that means. By default not" },
  { "allow_spawn", "manifest, ctx", "true, false and a reason, or a manifest", check_allow_spawn,
    "whether a manifest may be spawned: true; false and a reason; or a narrower manifest. By default true" },
  { "request", "reference, ctx", "a table of request options", of_type("nil", options.request),
    "options for fetching a reference, over the resolver's. By default none" },
}

M.by_name = {}
for _, rule in ipairs(M.list) do
  rule.name, rule.arguments, rule.answers, rule.fault, rule.does = table.unpack(rule)
  M.by_name[rule.name] = rule
end

return M
