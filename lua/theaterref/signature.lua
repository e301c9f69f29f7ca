--- Signatures of bytes: making and checking them.
--
-- To require signatures wherever a resolver resolves, use a policy's rule `signatures` or
-- the resolver's option of that name; these functions are for programs with a file at hand.
-- @module theaterref.signature
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

--- Signs bytes, as `cosign sign-blob` does: ECDSA P-256 with SHA-256, in base64.
-- @tparam string|theaterref.blob bytes
-- @tparam string|theaterref.blob key the private key in PEM, also encrypted
-- @tparam[opt] string password of an encrypted key
-- @treturn string the text of a `.sig` file
-- @return[2] nil
-- @treturn[2] table an error; its `password` is `needed` or `wrong` if the key is encrypted
function M.sign(bytes, key, password) return core.sign(core.blob(bytes), key, password) end

--- Checks signatures of bytes.
-- @tparam string|theaterref.blob bytes
-- @tparam table signatures a list of documents: the texts of `.sig`, `.sigstore.json` or
-- `.minisig` files
-- @tparam table keys a list of texts of public keys: PEM, or minisign's
-- @tparam[opt=1] integer threshold how many different keys must have signed
-- @treturn table the places in `keys` of those that signed
-- @return[2] nil
-- @treturn[2] table an error, of kind `untrusted` if too few signed
function M.verify(bytes, signatures, keys, threshold)
  local blob, list, reasons, signed, signers = core.blob(bytes), {}, {}, {}, {}
  for i, text in ipairs(keys) do
    local key, err = core.public_key(tostring(text))
    if not key then return nil, errors.new("untrusted", ("cannot use key %d: %s"):format(i, err.message)) end
    list[i] = key
  end
  local requirement, err = core.requirement(list, threshold or 1)
  if not requirement then return nil, errors.new("untrusted", err.message) end
  for i, document in ipairs(signatures) do
    local found, why = core.check_signature(requirement, blob, document)
    if not found then reasons[#reasons + 1] = ("signature %d: %s"):format(i, why.message) end
    for _, index in ipairs(found or {}) do signed[index] = true end
  end
  for i in ipairs(list) do
    if signed[i] then signers[#signers + 1] = i end
  end
  if #signers >= requirement:threshold() then return signers end
  return nil, errors.new("untrusted", ("%d of %d signatures found%s"):format(#signers, requirement:threshold(),
    reasons[1] and ": " .. table.concat(reasons, "; ") or ""))
end

return M
