-- The fuzz targets: functions of an input, which raise only when something is
-- wrong. fuzz.c feeds them what libFuzzer makes up, and a spec what it found.
local core = require "theaterref.core"
local reference = require "theaterref.reference"
local s3_text = require "theaterref.s3.text"
local signatures = require "theaterref.registry.signatures"
local template = require "theaterref.manifest.template"
local theaterref = require "theaterref"
local toml = require "theaterref.manifest.toml"
local xml = require "theaterref.s3.xml"

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

-- A reference to an object, the URL of one, and an answer of its store.
local s3_signer

function M.s3(input)
  local parsed, err = reference.parse("s3://" .. input)
  assert(parsed or err.kind == "invalid_reference")
  if parsed then
    local again = assert(reference.parse(parsed.text))
    assert(again.key == parsed.key and again.version == parsed.version and again.sha256 == parsed.sha256, parsed.text)
    assert(s3_text.decode(s3_text.encode_key(parsed.key)) == parsed.key)
  end
  local joined = reference.join("s3://my-bucket/a/b", input)
  if joined and #joined < 1024 and not input:find("\0", 1, true) and not reference.scheme(input) then
    assert(reference.parse(joined), joined)
  end
  local root = xml.parse(input)
  assert(root == nil or root.name ~= "")
  xml.error(input)
  s3_text.seconds(input)
  s3_signer = s3_signer or core.signer { endpoint = "https://s3.test", region = "r", access_key_id = "a", secret_access_key = "b" }
  local url = input:gsub("%z.*", "")
  local _, canonical = core.sigv4(s3_signer, { method = "GET", url = "https://s3.test/" .. url, date = "20260101T000000Z",
    headers = { ["x-amz-meta-a"] = input:gsub("[%z\r\n]", "") } })
  assert(canonical:find "^GET\n/[%w/._~%%-]*\n[%w/._~%%&=-]*\nx%-amz%-meta%-a:", canonical)
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

-- Keys that sign nothing else, and the bytes that the seeds are signatures of.
local private_key = [[
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIPxYrourBbggyJ7foXzhyV7j1dGTWubv3nlhVXwVSg4YoAoGCCqGSM49
AwEHoUQDQgAE9/WUVepKWJwSsJEbjmWq5p8NMokk/MptiNsmPDx7c03x7IH0m7nH
vA5fLhX2b0tBuzIIVIRKBWI0bjYircku8g==
-----END EC PRIVATE KEY-----
]]
local public_key = [[
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9/WUVepKWJwSsJEbjmWq5p8NMokk
/MptiNsmPDx7c03x7IH0m7nHvA5fLhX2b0tBuzIIVIRKBWI0bjYircku8g==
-----END PUBLIC KEY-----
]]
local blob = core.blob "the bytes of a package"
local trusted = assert(core.requirement({ assert(core.public_key(public_key)),
  assert(core.public_key "RWQEncsbdgyy4f6nt8P4rTpyOWRZz+GzJhr+YPlkwFpREo+UWyZZwUN4") }, 1))

local function encode64(bytes)
  local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  return (bytes:gsub("..?.?", function(three)
    local a, b, c = three:byte(1, 3)
    local bits, four = a << 16 | (b or 0) << 8 | (c or 0), ""
    for i = 0, 3 do
      local digit = bits >> (18 - 6 * i) & 63
      four = four .. (i > #three and "=" or digits:sub(digit + 1, digit + 1))
    end
    return four
  end))
end

-- Returns true if a document is accepted, or false. Other bytes never are.
local function check_document(document)
  local signers, err = core.check_signature(trusted, blob, document)
  assert(signers or err.kind == "untrusted" and #err.message > 0)
  assert(not core.check_signature(trusted, core.blob "other bytes", document))
  return signers ~= nil
end

-- A document, a DER signature, and a statement, which is signed here.
function M.bundle(input)
  check_document(input)
  if #input < 128 then check_document(encode64(input)) end
  if not input:find "_type" then return end
  local type = "application/vnd.in-toto+json"
  local signature = core.sign(core.blob(("DSSEv1 %d %s %d %s"):format(#type, type, #input, input)), private_key)
  local document = ([[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{}},
    "dsseEnvelope":{"payloadType":"%s","payload":"%s","signatures":[{"sig":"%s"}]}}]]):format(type, encode64(input),
    signature:sub(1, -2))
  if check_document(document) then assert(input:find(core.digest(blob), 1, true) or input:find("\\", 1, true)) end
end

-- A payload, which is signed here; and a document of signatures.
function M.image_signature(input)
  local signature = core.sign(core.blob(input), private_key):sub(1, -2)
  local signers, answer = core.check_image_signature(trusted, input, signature)
  if signers then
    assert(#answer == 64 and (input:find("sha256:" .. answer, 1, true) or input:find("\\", 1, true)))
    assert(input:find("critical", 1, true) or input:find("\\", 1, true))
  else
    assert(answer.kind == "untrusted" and #answer.message > 0)
  end
  assert(not core.check_image_signature(trusted, input .. " ", signature))
  local document = core.blob("theaterref image signatures 1\n" .. input)
  local err = select(2, signatures.check(trusted, document, { core.digest(input) }))
  assert(not err or err.kind == "untrusted")
end

function M.minisign(input)
  if check_document(input) then assert(input:find "^untrusted comment:") end
end

-- A key as text, and as DER.
function M.public_key(input)
  for _, text in ipairs { input, ("-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----"):format(encode64(input)),
    ("-----BEGIN RSA PUBLIC KEY-----\n%s\n-----END RSA PUBLIC KEY-----"):format(encode64(input)) } do
    local key, err = core.public_key(text)
    assert(key and #key:fingerprint() == 64 or err.kind == "syntax")
    if key then assert(key:fingerprint() == core.public_key(text):fingerprint()) end
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
