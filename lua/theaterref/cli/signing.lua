--- `theaterref sign` and `verify`.
-- @module theaterref.cli.signing
local core = require "theaterref.core"
local errors = require "theaterref.error"
local output = require "theaterref.cli.output"
local references = require "theaterref.reference"
local settings = require "theaterref.cli.settings"

-- Signs with the private key of a file; asks for its password if it has one.
local function sign_with(blob, path)
  local text, err = core.sign_with_file(blob, path, ("Password of %s: "):format(output.plain(path)))
  if text then return text end
  return nil, errors.new(err.kind, ("--key %s: %s"):format(path, err.message))
end

-- Signs an artifact in a registry, and pushes the signature.
local function push(args)
  if args.output then return nil, output.usage_error "a pushed signature is in the registry: give -o or --push, not both" end
  local resolver, err = settings.resolver(args)
  local data
  if resolver then
    data, err = resolver:sign(args.reference, function(payload) return sign_with(payload, args.key) end)
  end
  if not data then return nil, err end
  data.signed, data.reference = references.redact(args.reference), references.redact(data.reference)
  return data
end

local function sign(args)
  if args.push then return push(args) end
  local resolver, err = settings.resolver(args)
  local future, blob, text
  if resolver then future, err = resolver:start(args.reference) end
  if future then blob, err = output.wait(future) end
  if blob then text, err = sign_with(blob, args.key) end
  if not text then return nil, err end
  local signature = core.blob(text)
  local ok, why = output.write_content(args.output, signature)
  if not ok then return nil, why end
  return { reference = references.redact(args.reference), sha256 = blob:digest(), signature = text, output = args.output,
    blob = signature }
end

local function verify(args)
  local threshold, from = args.threshold or 1, args.signature
  local resolver, err = settings.resolver(args, nil, { keys = args.key, threshold = threshold, from = from and from[1] and from })
  local future, blob
  if resolver then future, err = resolver:start(args.reference) end
  if future then blob, err = output.wait(future) end
  if not blob then return nil, err end
  return { reference = references.redact(args.reference), target = references.redact(future.target), bytes = #blob,
    sha256 = blob:digest(), signed_by = output.array(future.signed_by) }
end

return {
  { name = "sign", does = "Sign the bytes of a reference, or an artifact, with a private key.", fetches = true,
    examples = { "theaterref sign actor.wasm --key release.pem -o actor.wasm.sig",
      "theaterref sign oci://ghcr.io/team/worker:1.2 --key release.pem --push" },
    arguments = { { "reference", "Any reference." } },
    options = { { "--key", "FILE", "Private key in PEM: EC P-256, as 'openssl ecparam -name prime256v1 -genkey' writes it. "
        .. "The password of an encrypted key is asked for on the terminal.", required = true },
      { "-o --output", "FILE", "Write the signature to this file; - for standard output, the default." },
      { "--push", nil, "Sign the manifest of an oci:// reference, as cosign does, and push the signature beside it." } },
    run = sign, show = function(data, args)
      return args.push and output.plain(data.reference) or output.show_content(data)
    end },
  { name = "verify", does = "Check the signatures of a reference's bytes.", fetches = true,
    examples = { "theaterref verify actor.wasm --key release.pub" },
    arguments = { { "reference", "Any reference." } },
    options = { { "--key", "FILE", "Public key: PEM (EC P-256, or RSA from 2048 bits) or minisign's; several --key may be given.",
        many = true, required = true },
      { "--threshold", "N", "How many different keys must have signed. Default: 1.", number = "above 0", whole = true },
      { "--signature", "REF", "Reference of the signature; several may be given. Default: beside the bytes, with .sig, "
        .. ".sigstore.json or .minisig at the end, or where cosign keeps them in a registry.", many = true } },
    run = verify, show = function(data)
      return ("%s: %d bytes, signed by %s"):format(output.plain(data.target), data.bytes,
        output.plain(table.concat(data.signed_by, ", ")))
    end },
}
