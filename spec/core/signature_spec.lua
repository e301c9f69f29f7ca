local helper = require "helper"
local core = require "theaterref.core"
local threads = require "threads"

local folder, run

local function file(name, bytes)
  if bytes then return helper.write(folder .. "/" .. name, bytes) end
  return helper.read(folder .. "/" .. name)
end

local function encode64(bytes)
  local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  local text = bytes:gsub("..?.?", function(three)
    local a, b, c = three:byte(1, 3)
    local bits = a << 16 | (b or 0) << 8 | (c or 0)
    local four = {}
    for i = 0, 3 do
      local digit = bits >> (18 - 6 * i) & 63
      four[#four + 1] = i > #three and "=" or digits:sub(digit + 1, digit + 1)
    end
    return table.concat(four)
  end)
  return text
end

local function decode64(text)
  file("base64", text)
  return run "base64 -d base64"
end

local function unhex(text)
  return (text:gsub("%X", ""):gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function pem(label, der)
  return ("-----BEGIN %s-----\n%s\n-----END %s-----\n"):format(label, encode64(der):gsub(("."):rep(64), "%0\n"), label)
end

local text = "the bytes of a package"
local blob = core.blob(text)
local digest = core.digest(text)

-- The raw signature of some bytes by openssl.
local function sign(key, bytes)
  file("bytes", bytes)
  return run("openssl dgst -sha256 -sign " .. key .. " bytes")
end

local function key(name) return assert(core.public_key(file(name))) end

local function require_keys(threshold, ...) return assert(core.requirement({ ... }, threshold)) end

-- The signers in a document, as text, or nil and the reason.
local function check(requirement, document, bytes)
  local signers, err = core.check_signature(requirement, bytes or blob, document)
  if signers then return table.concat(signers, ",") end
  assert.equal("untrusted", err.kind)
  return nil, err.message
end

local function refused(why, requirement, document, bytes)
  local signers, message = check(requirement, document, bytes)
  assert.is_nil(signers, why)
  assert(message:find(why, 1, true), message)
end

local other = "it is a signature of other bytes or by another key"

setup(function()
  folder = helper.temporary_folder()
  run = function(command) return helper.run_ok("cd " .. folder .. " && " .. command) end
  run [[
    for name in ec second; do
      openssl ecparam -genkey -name prime256v1 -noout -out $name
      openssl ec -in $name -pubout -out $name.pub
    done
    openssl genrsa -out rsa 2048
    openssl rsa -in rsa -pubout -out rsa.pub
    openssl rsa -in rsa -RSAPublicKey_out -out rsa1.pub
    openssl genrsa -out short 1024 && openssl rsa -in short -pubout -out short.pub
    openssl ecparam -genkey -name secp384r1 -noout -out p384 && openssl ec -in p384 -pubout -out p384.pub
    openssl genpkey -algorithm ed25519 -out ed && openssl pkey -in ed -pubout -out ed.pub
    openssl req -new -x509 -key ec -subj /CN=x -out certificate
    openssl pkcs8 -topk8 -nocrypt -in ec -out ec.pkcs8
    openssl pkcs8 -topk8 -in ec -passout pass:secret -out ec.encrypted
    openssl ec -in ec -aes256 -passout pass:secret -out ec.traditional]]
end)

teardown(function() helper.remove(folder) end)

describe("public keys", function()
  it("are the same key in every encoding", function()
    local rsa, rsa1 = key "rsa.pub", key "rsa1.pub"
    assert.equal("rsa", rsa:type())
    assert.equal(rsa:fingerprint(), rsa1:fingerprint())
    assert.equal(core.digest(run "openssl pkey -pubin -in rsa.pub -outform DER"), rsa1:fingerprint())
    local ec = key "ec.pub"
    assert.equal("ecdsa-p256", ec:type())
    assert.equal(core.digest(run "openssl pkey -pubin -in ec.pub -outform DER"), ec:fingerprint())
    local explained = "The key of a friend:\r\n" .. file("ec.pub"):gsub("\n", "\r\n") .. "It is good.\n"
    assert.equal(ec:fingerprint(), assert(core.public_key(core.blob(explained))):fingerprint())
  end)

  it("are refused with a reason that names the mistake and never quotes the text", function()
    local spki = run "openssl pkey -pubin -in ec.pub -outform DER"
    local ec = file "ec.pub"
    local trailing = "\x30\x5a" .. spki:sub(3) .. "\0"
    for why, given in pairs {
      ["private key: keep it secret"] = file "ec",
      ["its curve is P-384; only P-256"] = file "p384.pub",
      ["an RSA key of 1024 bits; 2048 to 8192"] = file "short.pub",
      ["a key of Ed25519"] = file "ed.pub",
      ["certificate: keyless signatures are not supported"] = file "certificate",
      ["not on the curve"] = pem("PUBLIC KEY", spki:sub(1, -2) .. string.char(spki:byte(-1) ~ 1)),
      ["uncompressed"] = run "openssl ec -in ec -pubout -conv_form compressed",
      ["not given by name"] = run "openssl ec -in ec -pubout -param_enc explicit",
      ["more than one PEM block"] = ec .. ec,
      ["not a public key in valid DER"] = pem("PUBLIC KEY", spki .. "\0"),
      ["not base64"] = ec:gsub("M", "*", 1),
      ["no END line"] = ec:gsub("%-%-%-%-%-END.*", ""),
      ["neither PUBLIC KEY nor"] = ec:gsub("PUBLIC", "QUBLIC"),
      ["neither a PEM block nor a minisign"] = "ssh-ed25519 AAAA",
      ["it is empty"] = "",
      ["more than 64 KiB"] = (" "):rep(65 * 1024),
    } do
      local found, err = core.public_key(given)
      assert.is_nil(found, why)
      assert.equal("syntax", err.kind)
      assert(err.message:find(why, 1, true), err.message)
    end
    assert.is_nil(core.public_key(pem("PUBLIC KEY", trailing)))
    for _, name in ipairs { "ec", "ec.pkcs8", "ec.encrypted", "ec.traditional", "rsa" } do
      local _, err = core.public_key("see\n" .. file(name))
      assert(err.message:find("it is a private key", 1, true), name)
      _, err = core.public_key(file "ec.pub" .. file(name))
      assert(err.message:find("it is a private key", 1, true), name)
    end
  end)

  it("of RSA with an exponent that makes checks slow, or an even modulus, are refused", function()
    local function integer(bytes) return "\x02\x82" .. string.pack(">s2", bytes) end
    local modulus = "\0" .. ("\xc3"):rep(256)
    local function rsa(n, e)
      return pem("RSA PUBLIC KEY", "\x30\x82" .. string.pack(">s2", integer(n) .. e))
    end
    assert(core.public_key(rsa(modulus, "\x02\x03\1\0\1")))
    for _, wrong in ipairs { rsa(modulus, "\x02\x05\1\0\0\0\1"), rsa(modulus, "\x02\x01\1"), rsa(modulus, "\x02\x01\2"),
      rsa(modulus:sub(1, -2) .. "\xc2", "\x02\x03\1\0\1"), rsa("\xc3" .. modulus, "\x02\x03\1\0\1"),
      rsa(modulus, "\x02\x04\0\1\0\1"), rsa("\0" .. ("\xc3"):rep(1025), "\x02\x03\1\0\1") } do
      assert.is_nil(core.public_key(wrong))
    end
  end)
end)

describe("a requirement", function()
  it("counts a key once, in whatever encodings it was given", function()
    local rsa, rsa1, ec = key "rsa.pub", key "rsa1.pub", key "ec.pub"
    local made, err = core.requirement({ rsa, rsa1 }, 2)
    assert.is_nil(made)
    assert.equal("policy", err.kind)
    assert.equal("a threshold of 2 needs as many different keys; 1 was given", err.message)
    assert.equal("1", check(require_keys(1, rsa, rsa1), encode64(sign("rsa", text))))
    assert.equal(2, require_keys(2, rsa, ec, rsa1):threshold())
  end)

  it("has an id of its keys and its threshold, in any order", function()
    local rsa, ec, second = key "rsa.pub", key "ec.pub", key "second.pub"
    local id = require_keys(1, rsa, ec):id()
    assert.equal(id, require_keys(1, ec, key "rsa1.pub", rsa):id())
    assert.not_equal(id, require_keys(2, rsa, ec):id())
    assert.not_equal(id, require_keys(1, rsa, second):id())
  end)

  it("is refused if it can never be met, or asks for nothing", function()
    local ec = key "ec.pub"
    local many = {}
    for i = 1, 17 do many[i] = ec end
    for why, given in pairs { ["no key is trusted"] = { {}, 1 }, ["the threshold is 0"] = { { ec }, 0 },
      ["the threshold is -1"] = { { ec }, -1 }, ["more than 16 keys"] = { many, 1 } } do
      local made, err = core.requirement(given[1], given[2])
      assert.is_nil(made)
      assert.equal("policy", err.kind)
      assert(err.message:find(why, 1, true), err.message)
    end
    assert.has_error(function() core.requirement({ "ec" }, 1) end)
  end)
end)

describe("a signature on one line", function()
  it("by openssl or cosign is accepted, with its keys", function()
    local both = require_keys(1, key "rsa.pub", key "ec.pub")
    assert.equal("2", check(both, encode64(sign("ec", text))))
    assert.equal("2", check(both, core.blob(encode64(sign("ec", text)) .. "\n")))
    assert.equal("1", check(both, encode64(sign("rsa", text))))
    assert.equal("1", check(both, encode64(sign("rsa", "")), core.blob ""))
  end)

  it("of other bytes, by another key, or with anything around it is refused", function()
    local ec = require_keys(1, key "ec.pub")
    local good = encode64(sign("ec", text))
    refused(other, ec, encode64(sign("ec", text .. "x")))
    refused(other, ec, good, core.blob(text .. "x"))
    refused(other, ec, encode64(sign("second", text)))
    refused(other, ec, encode64(sign("rsa", text)))
    refused(other, require_keys(1, key "rsa.pub"), encode64(sign("rsa", text) .. "\0"))
    refused("it is empty", ec, "")
    refused("it has more than 1 MiB", ec, good .. ("\n"):rep(1024 * 1024))
    refused("it is a signature of PGP or SSH", ec, "-----BEGIN PGP SIGNATURE-----\n")
    refused("it is a binary signature", ec, sign("ec", text))
    for _, wrong in ipairs { good .. "\n\n", good .. "\r\n", good .. "=", good .. "AAAA\0", "\n" .. good, " " .. good,
      good:sub(1, 48) .. "\n" .. good:sub(49), good .. "\n" .. good, good:sub(1, -2), "\xff" } do
      assert.is_nil(check(ec, wrong))
    end
  end)

  it("has one encoding only", function()
    local ec = require_keys(1, key "ec.pub")
    local function integer(bytes) return string.pack("Bs1", 2, bytes) end
    local function der(r, s, more) return string.pack("Bs1", 0x30, integer(r) .. integer(s) .. (more or "")) end
    local function with_sign(n) return n:byte() >= 0x80 and "\0" .. n or n end
    local length, at = sign("ec", text), 3
    local r, s
    r, at = string.unpack("s1", length, at + 1)
    s = string.unpack("s1", length, at + 1)
    assert.equal(length, der(r, s))
    assert.equal("1", check(ec, encode64(der(r, s))))
    for name, wrong in pairs { ["bytes behind"] = der(r, s) .. "\0", ["bytes inside"] = der(r, s, "\5\0"),
      ["a padded integer"] = der("\0" .. r, s), ["another"] = der(r, "\0" .. s), ["a third integer"] = der(r, s, integer "\1"),
      ["r = 0"] = der("\0", s), ["s = 0"] = der(r, "\0"), ["r without bytes"] = der("", s), ["one integer"] = string.pack("Bs1", 0x30, integer(r)),
      ["a negative r"] = der((with_sign(r):gsub("^%z", "")):gsub("^[\0-\x7f]", "\xff"), s),
      ["a long length"] = "\x30\x81" .. length:sub(2), ["another tag"] = "\x31" .. length:sub(2),
      ["no bytes"] = "\x30\0", ["a long r"] = der(("\1"):rep(34), s), ["no limit"] = "\x30\x80" .. length:sub(3) .. "\0\0" } do
      assert.is_nil(check(ec, encode64(wrong)), name)
    end
    local padded = encode64(length .. ("\0"):rep((3 - #length % 3) % 3 == 0 and 1 or 0))
    local bits = padded:gsub("([A-Za-z0-9+/])(=+)$", function(digit, padding)
      return (digit == "A" and "B" or "/") .. padding
    end)
    assert.is_nil(check(ec, bits), "bits that mean nothing")
  end)

  it("agrees with openssl on 200 damaged ones (seed printed on failure)", function()
    local seed = os.time()
    math.randomseed(seed)
    local good = sign("ec", text)
    local ec, ours = require_keys(1, key "ec.pub"), {}
    for i = 1, 200 do
      local at, how = math.random(#good), math.random(8)
      local kept = how == 1 and good:sub(1, at) or good:sub(1, at - 1)
      local added = how == 2 and "" or string.char(how == 3 and good:byte(at) or math.random(0, 255))
      local raw = i == 1 and good or kept .. added .. good:sub(at + 1)
      if #raw > 72 then raw = raw:sub(2) end -- of a longer one, openssl's command reads no more
      file("signature." .. i, raw)
      ours[i] = check(ec, encode64(raw)) and "good" or "bad"
    end
    file("bytes", text)
    local theirs = run [[for i in $(seq 200); do
      openssl dgst -sha256 -verify ec.pub -signature signature.$i bytes >/dev/null 2>&1 && echo good || echo bad
    done]]
    assert.equal("good", ours[1])
    assert.equal(theirs, table.concat(ours, "\n") .. "\n", "seed " .. seed)
  end)
end)

-- ------------------------------------------------------------------ bundles

local media_type = "application/vnd.dev.sigstore.bundle.v0.3+json"

local function bundle(content, material, media)
  return ('{"mediaType":"%s","verificationMaterial":%s,%s}'):format(media or media_type, material or '{"publicKey":{}}', content)
end

local function message(name, hex, signature)
  return ('"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"%s"},"signature":"%s"}'):format(
    encode64(unhex(hex or digest)), encode64(signature or sign(name, text)))
end

local sign_predicate = "https://sigstore.dev/cosign/sign/v1"

local function statement(subjects, predicate, type)
  return ('{"_type":"%s","subject":[%s],"predicateType":"%s","predicate":{}}'):format(type or "https://in-toto.io/Statement/v1",
    subjects or ('{"digest":{"sha256":"%s"}}'):format(digest), predicate or sign_predicate)
end

local function envelope(payload, names, type)
  type = type or "application/vnd.in-toto+json"
  local encoded = ("DSSEv1 %d %s %d %s"):format(#type, type, #payload, payload)
  local signatures = {}
  for i, name in ipairs(names) do
    signatures[i] = ('{"sig":"%s","keyid":"x"}'):format(encode64(sign(name, name == "bad" and "x" or encoded)))
  end
  return ('"dsseEnvelope":{"payload":"%s","payloadType":"%s","signatures":[%s]}'):format(encode64(payload), type,
    table.concat(signatures, ","))
end

describe("a sigstore bundle", function()
  it("with a signature of the bytes is accepted", function()
    local keys = require_keys(1, key "second.pub", key "ec.pub", key "rsa.pub")
    assert.equal("2", check(keys, bundle(message "ec")))
    assert.equal("3", check(keys, bundle(message "rsa")))
    assert.equal("2", check(keys, "\n " .. bundle(message "ec", '{"publicKey":{"hint":"x"},"tlogEntries":[{"a":1}]}') .. "\n"))
    assert.equal("2", check(keys, bundle(message "ec", nil, "application/vnd.dev.sigstore.bundle+json;version=0.3")))
    local snake = bundle(message "ec"):gsub("verificationMaterial", "verification_material"):gsub("messageDigest", "message_digest")
    assert.equal("2", check(keys, snake))
    local escaped = bundle(message "ec"):gsub("mediaType", "\\u006dediaType"):gsub("/", "\\/")
    assert.equal("2", check(keys, escaped))
  end)

  it("with a statement about the bytes is accepted, with all keys that signed it", function()
    local keys = require_keys(2, key "second.pub", key "ec.pub", key "rsa.pub")
    assert.equal("2", check(keys, bundle(envelope(statement(), { "ec" }))))
    assert.equal("2,3", check(keys, bundle(envelope(statement(), { "rsa", "ec" }))))
    assert.equal("2", check(keys, bundle(envelope(statement(nil, nil, "https://in-toto.io/Statement/v0.1"), { "ec" }))))
  end)

  it("counts one key once, however often it signed", function()
    assert.equal("1", check(require_keys(2, key "ec.pub", key "second.pub"), bundle(envelope(statement(), { "ec", "ec" }))))
  end)

  it("counts the good ones among its signatures", function()
    run "cp rsa bad"
    local ec = require_keys(1, key "ec.pub", key "rsa.pub")
    assert.equal("1", check(ec, bundle(envelope(statement(), { "bad", "ec" }))))
    assert.equal("1", check(ec, bundle(envelope(statement(), { "ec", "bad" }))))
    refused(other, ec, bundle(envelope(statement(), { "bad", "second" })))
  end)

  it("that says anything else is refused, with the reason", function()
    local ec = require_keys(1, key "ec.pub")
    local good, signature = message "ec", envelope(statement(), { "ec" })
    local subject = ('{"digest":{"sha256":"%s"}}'):format(digest)
    local wrong = core.digest "x"
    local nine = {}
    for i = 1, 9 do nine[i] = "ec" end
    local function stated(...) return bundle(envelope(statement(...), { "ec" })) end
    local function about(pattern, instead) return stated((subject:gsub(pattern, instead))) end
    for _, case in ipairs {
      { "a signature of other bytes", bundle(message("ec", wrong)) },
      { other, bundle(message("ec", nil, sign("ec", "x"))) },
      { other, bundle(message "second") },
      { "not of SHA2_256", (bundle(good):gsub("SHA2_256", "SHA2_512")) },
      { "without 'messageDigest'", (bundle(good):gsub("messageDigest", "digestOfMessage")) },
      { "a signature of other bytes", about(digest, wrong) },
      { "one digest, sha256", about('"}', '","sha512":"00"}') },
      { "one digest, sha256", about("sha256", "sha512") },
      { "'sha256' twice", about('"}', ('","sha256":"%s"}'):format(digest)) },
      { "2 subjects instead of one", stated(subject .. "," .. subject) },
      { "0 subjects instead of one", stated "" },
      { "it is an attestation, such as SLSA's", stated(nil, "https://slsa.dev/provenance/v1") },
      { "not of in-toto, version 1", stated(nil, nil, "https://in-toto.io/Statement/v2") },
      { "'predicateType' twice", bundle(envelope(statement():gsub("}$", ',"predicateType":"x"}'), { "ec" })) },
      { "its statement is not a valid JSON object", bundle(envelope("{", { "ec" })) },
      { "its statement is not a valid JSON object", bundle(envelope(statement() .. "x", { "ec" })) },
      { "the type of its payload", bundle(envelope(statement(), { "ec" }, "text/plain")) },
      { "9 signatures; 1 to 8", bundle(envelope(statement(), nine)) },
      { "0 signatures; 1 to 8", bundle(envelope(statement(), {})) },
      { "both 'messageSignature' and", bundle(good .. "," .. signature) },
      { "neither 'messageSignature' nor", bundle '"a":1' },
      { "keyless signature", bundle(good, '{"certificate":{"rawBytes":"AAAA"}}') },
      { "keyless signature", bundle(good, '{"publicKey":{},"x509CertificateChain":{"certificates":[]}}') },
      { "keyless signature", bundle(good, '{"publicKey":{},"x509_certificate_chain":{}}') },
      { "without 'publicKey'", bundle(good, "{}") },
      { "'publicKey' of the bundle's verificationMaterial has the wrong type", bundle(good, '{"publicKey":null}') },
      { "without 'verificationMaterial'", (bundle(good):gsub("verificationMaterial", "material")) },
      { "not a sigstore bundle of version 0.3", bundle(good, nil, "application/vnd.dev.sigstore.bundle+json;version=0.2") },
      { "not a sigstore bundle", '{"base64Signature":"AAAA"}' },
      { "'messageSignature' twice", bundle(good .. "," .. good) },
      { "'mediaType' twice", bundle(good .. ',"media_type":"x"') },
      { "'mediaType' twice", bundle(good .. ',"\\u006dediaType":"x"') },
      { "'publicKey' twice", bundle(good, '{"publicKey":{},"publicKey":{}}') },
      { "'signature' twice", (bundle(good):gsub('"signature"', '"signature":"AAAA","signature"')) },
      { "'sig' twice", (bundle(signature):gsub('"sig"', '"sig":"AAAA","sig"')) },
      { "'payload' twice", (bundle(signature):gsub('"payload"', '"payload":"AAAA","payload"')) },
      { "not valid base64", (bundle(good):gsub('"signature":"', '%0 ')) },
      { "not valid base64", (bundle(good):gsub('"signature":"[^"]*', '"signature":"')) },
      { "not a valid JSON object", bundle(good) .. "x" },
      { "not a valid JSON object", bundle(good):sub(1, -2) },
      { "not a valid JSON object", " " },
      { "not a valid JSON object", "{" .. ('"a":['):rep(1000) },
    } do refused(case[1], ec, case[2]) end
  end)
end)

-- ----------------------------------------------------------------- minisign

describe("a minisign signature", function()
  local has_minisign = select(3, helper.run "command -v minisign") == 0
  local can = has_minisign and it or function(name) pending(name .. ": there is no minisign") end

  setup(function()
    if not has_minisign then return end
    run "for name in m n; do minisign -G -W -p $name.pub -s $name.key; done"
    file("bytes", text)
    run "minisign -S -s m.key -m bytes -x m.minisig -t 'a comment' && minisign -S -l -s m.key -m bytes -x old.minisig"
  end)

  can("is accepted, of both kinds", function()
    local both = require_keys(1, key "ec.pub", key "m.pub")
    assert.equal("minisign", key("m.pub"):type())
    assert.equal("2", check(both, file "m.minisig"))
    assert.equal("2", check(both, file "old.minisig"))
    assert.equal("2", check(both, (file "m.minisig":gsub("\n", "\r\n"))))
    assert.equal("2", check(both, (file "m.minisig":gsub("\n$", ""))))
    assert.equal("2", check(both, (file "m.minisig":gsub("untrusted comment: [^\n]*", "untrusted comment: other"))))
  end)

  can("has a key that is read from a file, or from its line alone", function()
    local line = file("m.pub"):match "\n([^\n]+)"
    local fingerprint = key("m.pub"):fingerprint()
    assert.equal(core.digest(decode64(line):sub(11)), fingerprint)
    for _, given in ipairs { line, line .. "\n", line .. "\r\n", file("m.pub"):gsub("\n", "\r\n") .. "" } do
      assert.equal(fingerprint, assert(core.public_key(given)):fingerprint())
    end
    for _, wrong in ipairs { line .. "\n\n", line .. "A", " " .. line, file "m.pub" .. "x", "Q" .. line:sub(2), line:sub(1, -2) } do
      assert.is_nil(core.public_key(wrong))
    end
    local _, err = core.public_key(file "m.key")
    assert(err.message:find("it is a private key", 1, true), err.message)
  end)

  it("has no key of small order, by which anybody can sign", function()
    local function weak(point)
      local line = encode64("Ed" .. ("\0"):rep(8) .. point)
      local made, err = core.public_key(line)
      assert.is_nil(made)
      assert.equal("invalid public key: it is a weak key, by which anybody can sign", err.message)
    end
    local order_8 = unhex "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    local p = unhex("ed" .. ("ff"):rep(30) .. "7f")
    for _, y in ipairs { ("\0"):rep(32), "\1" .. ("\0"):rep(31), order_8, p, "\xec" .. p:sub(2), "\xee" .. p:sub(2), "\xff" .. p:sub(2) } do
      weak(y)
      weak(y:sub(1, 31) .. string.char(y:byte(32) | 0x80)) -- the other sign
    end
  end)

  can("of other bytes, by another key, or changed is refused", function()
    local m, good = require_keys(1, key "m.pub"), file "m.minisig"
    refused(other, m, good, core.blob "x")
    refused(other, m, file "old.minisig", core.blob "x")
    refused("which is not trusted", require_keys(1, key "n.pub"), good)
    refused("no minisign key is trusted", require_keys(1, key "ec.pub"), good)
    refused("only minisign keys are trusted", m, encode64(sign("ec", text)))
    refused("trusted comment was changed", m, (good:gsub("a comment", "b comment")))
    refused("trusted comment was changed", m, (good:gsub("a comment", "a comment ")))
    refused("something behind its end", m, good .. "\n")
    refused("something behind its end", m, good .. "x")
    refused("without its trusted comment", m, (good:gsub("\ntrusted", "\nTrusted")))
    refused("damaged", m, (good:gsub("\n([^\n]+)\ntrusted", "\n%1=\ntrusted")))
    refused("damaged", m, (good:gsub("[^\n]\n$", "\n")))
    refused("without its trusted comment", m, "untrusted comment: x\n")
    -- The key's id says nothing about the key.
    local forged = decode64((file("n.pub"):match "\n([^\n]+)"))
    local id = decode64((file("m.pub"):match "\n([^\n]+)")):sub(3, 10)
    refused(other, require_keys(1, assert(core.public_key(encode64("Ed" .. id .. forged:sub(11))))), good)
  end)
end)

-- A sanitizer opens libraries itself, before anything preloaded can hide one.
local can_hide = helper.sanitizers == "" and it or function(name) pending(name .. ": not under sanitizers") end

can_hide("without libcrypto, libsodium checks minisign signatures; without both, the error says so", function()
  if not helper.exists(folder .. "/m.minisig") then return pending "there is no minisign" end
  local script = file("script.lua", ([[
    local core = require "theaterref.core"
    local requirement = core.requirement({ core.public_key %q }, 1)
    local signers, err = core.check_signature(requirement, core.blob %q, %q)
    local changed = core.check_signature(requirement, core.blob "x", %q)
    local signature, fault = core.sign(core.blob "x", %q, "secret")
    print(signers and "checked" or err.kind .. ": " .. err.message, changed, signature and "signed" or fault.kind)]]):format(
    file "m.pub", text, file "m.minisig", file "m.minisig", file "ec.encrypted"))
  local function without(names)
    return helper.run_ok(("HIDDEN_LIBRARIES=%s %s %s %s"):format(names, helper.preload "libraries", helper.lua, script))
  end
  assert.equal("checked\tnil\tsigned\n", without "")
  assert.matches("^checked\tnil\t", without "libcrypto")
  assert.matches("^io: cannot verify minisign signatures: this machine has neither libcrypto nor libsodium",
    without "libcrypto,libsodium")
end)

-- ---------------------------------------------------------------- mutations

it("any document with one other byte is refused (seed printed on failure)", function()
  local seed = os.time()
  math.randomseed(seed)
  local keys = { key "ec.pub", key "rsa.pub" }
  local documents = { encode64(sign("ec", text)), encode64(sign("rsa", text)), bundle(message "ec"),
    (bundle(envelope(statement(), { "rsa" })):gsub(',"keyid":"x"', "")) }
  if helper.exists(folder .. "/m.minisig") then
    keys[3] = key "m.pub"
    documents[5], documents[6] = file "m.minisig", file "old.minisig"
  end
  local requirement = require_keys(1, table.unpack(keys))
  for _, document in ipairs(documents) do
    assert(check(requirement, document))
    local from = (document:match "^untrusted comment: [^\n]*()" or 1)
    for _ = 1, 60 do
      local at, byte = math.random(from, #document), string.char(math.random(0, 255))
      local changed = document:sub(1, at - 1) .. byte .. document:sub(at + 1)
      if changed ~= document then assert.is_nil(check(requirement, changed), ("seed %d: %q"):format(seed, changed)) end
    end
  end
end)

it("signatures are checked on many threads at once", function()
  local results = threads.run(8, ([[
    local core = require "theaterref.core"
    local blob = core.blob %q
    local requirement = core.requirement({ core.public_key %q, core.public_key %q }, 1)
    return function()
      for i = 1, 20 do
        assert(core.check_signature(requirement, blob, %q)[1] == 1)
        assert(core.check_signature(requirement, blob, %q)[1] == 2)
        assert(not core.check_signature(requirement, core.blob "x", %q))
        core.remember_verdict(requirement, blob, "by", { 1 + i %% 2 })
        assert(core.verdict(requirement, blob, "by"))
      end
      return "fine"
    end]]):format(text, file "ec.pub", file "rsa.pub", encode64(sign("ec", text)), encode64(sign("rsa", text)),
    encode64(sign("ec", text))))
  for _, result in ipairs(results) do assert.equal("fine", result) end
end)

-- ----------------------------------------------------------------- verdicts

describe("good verdicts", function()
  before_each(core.forget_verdicts)
  teardown(core.forget_verdicts)

  it("are remembered by bytes, keys, threshold and what was checked", function()
    local ec, rsa = key "ec.pub", key "rsa.pub"
    local requirement = require_keys(1, rsa, ec)
    assert.is_nil(core.verdict(requirement, blob, "by"))
    core.remember_verdict(requirement, blob, "by", { 2 })
    assert.same({ 2 }, core.verdict(requirement, core.blob(text .. ""), "by"))
    assert.same({ 1 }, core.verdict(require_keys(1, ec, rsa), blob, "by")) -- the same key, in another place
    assert.is_nil(core.verdict(requirement, core.blob "x", "by"))
    assert.is_nil(core.verdict(require_keys(2, rsa, ec), blob, "by"))
    assert.is_nil(core.verdict(require_keys(1, ec), blob, "by"))
    assert.is_nil(core.verdict(requirement, blob, "elsewhere"))
    core.forget_verdicts()
    assert.is_nil(core.verdict(requirement, blob, "by"))
  end)

  it("name keys of the requirement", function()
    local requirement = require_keys(1, key "ec.pub")
    for _, wrong in ipairs { {}, { 2 }, { 0 }, { "x" } } do
      assert.has_error(function() core.remember_verdict(requirement, blob, "by", wrong) end)
    end
  end)

  it("take a bounded memory: the oldest go", function()
    local requirement = require_keys(1, key "ec.pub")
    local function blob_of(i) return core.blob("number " .. i) end
    for i = 1, 20000 do core.remember_verdict(requirement, blob_of(i), "by", { 1 }) end
    local kept = 0
    for i = 1, 20000 do if core.verdict(requirement, blob_of(i), "by") then kept = kept + 1 end end
    assert(kept > 3000 and kept <= 4096, kept)
    assert(core.verdict(requirement, blob_of(20000), "by"))
  end)

  it("come with a note of what was tried once", function()
    assert.is_false(core.noted(blob, "a"))
    assert.is_false(core.noted(blob, "a", true))
    assert.is_true(core.noted(core.blob(text .. ""), "a"))
    assert.is_false(core.noted(blob, "b"))
    assert.is_false(core.noted(core.blob "x", "a"))
    core.forget_verdicts()
    assert.is_false(core.noted(blob, "a"))
  end)

  it("are there in a child process, whose lock is free", function()
    local requirement = require_keys(1, key "ec.pub")
    core.remember_verdict(requirement, blob, "by", { 1 })
    if threads.fork(20) then
      assert(core.verdict(requirement, blob, "by"))
      core.remember_verdict(requirement, core.blob "child", "by", { 1 })
      threads.leave()
    end
    threads.wait()
    assert.is_nil(core.verdict(requirement, core.blob "child", "by"))
  end)
end)

-- ------------------------------------------------------------------ signing

describe("signing", function()
  it("makes what openssl and we accept, with keys in every form", function()
    local ec = require_keys(1, key "ec.pub")
    file("bytes", text)
    file("ec.parameters", run "openssl ecparam -name prime256v1" .. file "ec")
    for _, name in ipairs { "ec", "ec.pkcs8", "ec.encrypted", "ec.traditional", "ec.parameters" } do
      local signature, err = core.sign(blob, file(name), name:find "cr" and "secret" or name:find "trad" and "secret" or nil)
      assert(signature, name .. (err and err.message or ""))
      assert.equal("\n", signature:sub(-1))
      assert.equal("1", check(ec, signature))
      file("signature", signature)
      run "base64 -d signature > raw && openssl dgst -sha256 -verify ec.pub -signature raw bytes"
    end
  end)

  it("tells a password that is needed from one that is wrong", function()
    for _, name in ipairs { "ec.encrypted", "ec.traditional" } do
      for password, what in pairs { [false] = "needed", wrong = "wrong", [""] = "wrong" } do
        local signature, err = core.sign(blob, file(name), password or nil)
        assert.is_nil(signature)
        assert.same({ "denied", what }, { err.kind, err.password }, name)
      end
    end
  end)

  it("refuses other keys with a reason", function()
    for why, pem_text in pairs {
      ["it is an RSA key"] = file "rsa",
      ["an EC key on another curve"] = file "p384",
      ["a type that is not known"] = file "ed",
      ["it is a public key"] = file "ec.pub",
      ["it is a certificate"] = file "certificate",
      ["no PEM block"] = "x",
      ["more than one private key"] = file "ec" .. file "ec.pkcs8",
      ["keys encrypted by cosign are not supported"] = pem("ENCRYPTED SIGSTORE PRIVATE KEY", "x"),
      ["keys of OpenSSH"] = pem("OPENSSH PRIVATE KEY", "x"),
      ["it is damaged"] = pem("EC PRIVATE KEY", "x"),
      ["no END line"] = file("ec"):sub(1, 100),
      ["more than 64 KiB"] = (" "):rep(1 << 17),
    } do
      local signature, err = core.sign(blob, pem_text)
      assert.is_nil(signature)
      assert.equal("syntax", err.kind)
      assert.is_nil(err.password)
      assert(err.message:find(why, 1, true), err.message)
    end
  end)
end)

-- ----------------------------------------------------------------- packages

describe("a package", function()
  local module, component = "\0asm\1\0\0\0", "\0asm\x0d\0\1\0"

  it("has a type by its first bytes", function()
    assert.equal("wasm module", core.package_type(core.blob(module)))
    assert.equal("wasm component", core.package_type(component .. "x"))
    for _, bytes in ipairs { "", "\0asm", "\0asm\2\0\0\0", "<html>" } do assert.equal("unknown", core.package_type(bytes)) end
  end)

  it("is whole if its sections fill it", function()
    assert.equal("module", core.blob(module):wasm_type())
    assert.equal("module", core.blob(module .. "\0\3\1ab\x0d\0"):wasm_type())
    assert.equal("module", core.blob(module .. "\0\x83\x80\x80\x80\0\1ab"):wasm_type())
    assert.equal("component", core.blob(component .. "\x0c\1a"):wasm_type())
    assert.equal("component", core.blob(component .. "\1\8" .. module):wasm_type())
  end)

  it("is described if it is anything else", function()
    for bytes, why in pairs {
      [""] = "empty",
      [" \n"] = "it is empty but for white space",
      ["\n<!DOCTYPE HTML><title>Log in"] = "it is an HTML page",
      ['{"message":"not found"}'] = "it is JSON text",
      ["<?xml version='1.0'?>"] = "it is XML text",
      ["version https://git-lfs.github.com/spec/v1\noid"] = "it is a Git LFS pointer",
      ["\x1f\x8b\8\0"] = "it is gzip data",
      ["PK\3\4"] = "it is a zip archive",
      ["\x7fELF"] = "it is an ELF program",
      ["\x28\xb5\x2f\xfd"] = "it is Zstandard data",
      ["(module)"] = "it is WebAssembly in its text format",
      ["Not found"] = "it is text",
      ["\xff\0\1"] = "it is binary data of another kind",
      ["\0asm\1"] = "it is WebAssembly that was cut off in its first eight bytes",
      ["\0asm\2\0\0\0"] = "it is WebAssembly of an unknown version (2, layer 0)",
      [module .. "\0\5ab"] = "it is WebAssembly that was cut off: section 0 at offset 8 claims 5 bytes, 2 are left",
      [module .. "\1\0\1\xff\xff\xff\xff\x0f"] = "section 1 at offset 10 claims 4294967295 bytes, 0 are left",
      [module .. "\1"] = "section 1 at offset 8 has no valid size",
      [module .. "\1\xff\xff\xff\xff\x1f"] = "section 1 at offset 8 has no valid size",
      [module .. "\1\x80\x80\x80\x80\x80\0"] = "section 1 at offset 8 has no valid size",
      [module .. "\x0e\0"] = "at offset 8 is a section of the unknown number 14",
      [component .. "\x0d\0"] = "at offset 8 is a section of the unknown number 13",
    } do
      local type, found = core.blob(bytes):wasm_type()
      assert.is_nil(type, why)
      assert(found:find(why, 1, true), found)
    end
  end)
end)
