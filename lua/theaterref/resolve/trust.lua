--- Trust: whose bytes these are, and whether this consumer takes them.
--
-- A load completes on bytes and digests alone. After that, each consumer asks the rules
-- `signatures` and `accept` of its own policy, also about bytes from a cache.
-- @module theaterref.resolve.trust
local core = require "theaterref.core"
local errors = require "theaterref.error"
local policies = require "theaterref.policy"
local policy_keys = require "theaterref.keys"
local reference = require "theaterref.reference"
local signatures = require "theaterref.registry.signatures"

local M = {}

local MAX_KEY_BYTES, MAX_SIGNATURE_BYTES = 64 << 10, 1 << 20
local MAX_SIGNATURE_SECONDS = 30 -- for a fetch of so little
local MAX_REMEMBERED = 64

-- Purposes whose bytes nobody signs.
local exempt = { signature = true, key = true }

--- True if this consumer has to judge a job's bytes.
-- @tparam table context
-- @tparam table job
-- @treturn boolean
function M.applies(context, job) return context.judges and not exempt[job.ctx.purpose] end

-- -------------------------------------------------------------------- keys

-- Returns the bytes of a key reference, which fixes them by a SHA-256. They may be in the store
-- that a lockfile was read with.
local function fixed_key(context, task, ref, sha256, job, loads)
  local store = job.store and context:store(job.store, task)
  local blob, err = store and store:get(sha256, MAX_KEY_BYTES), nil
  if not blob then
    blob, err = loads.resolve(task, context, { reference = ref, ctx = { purpose = "key" }, options = {},
      max_bytes = MAX_KEY_BYTES })
  end
  if blob and blob:digest() ~= sha256 then -- whatever 'rewrite' led to
    return nil, errors.new("digest_mismatch", "it does not have the SHA-256 in its reference", ref)
  end
  return blob, err
end

-- Returns the text of a key that a requirement names: itself, a local file, or a
-- reference that fixes its bytes.
local function key_text(context, task, key, script, job, loads)
  if policy_keys.is_text(key) then return key end
  local ref = script and reference.join(script, key) or key
  local source, parsed = reference.source_of(ref, context.policy.schemes)
  if not source then return nil, parsed end
  if parsed.path then return core.read_file(parsed.path, MAX_KEY_BYTES, true) end
  local sha256 = parsed.sha256 or #(parsed.hash or "") == 64 and parsed.hash
  if sha256 then return fixed_key(context, task, ref, sha256, job, loads) end
  return nil, errors.new("policy", "a key that is not a local file needs a SHA-256 in its reference", ref)
end

-- Returns the keys of a requirement, and their names for messages.
local function load_keys(context, task, names, script, job, loads)
  local keys, shown = {}, {}
  for i, name in ipairs(names) do
    local text, err = key_text(context, task, name, script, job, loads)
    if text then keys[i], err = core.public_key(tostring(text)) end
    if not keys[i] then
      if policy_keys.shown(name) == "(a text)" then
        local why = policy_keys.is_text(name) and err.message or "it is neither a file that can be read nor the text of a key"
        return nil, errors.new("untrusted", ("cannot use key %d: %s"):format(i, why))
      end
      return nil, errors.new("untrusted", ("cannot use the key %s: %s"):format(reference.redact(name), err.message))
    end
    shown[i] = policy_keys.is_text(name) and "sha256:" .. keys[i]:fingerprint() or reference.redact(name)
  end
  return keys, shown
end

-- Returns a requirement with its keys read. They are read once for each policy that was
-- loaded: a policy that is reloaded reads them again.
local function compile(context, task, answer, script, job, loads)
  local threshold, names = answer.threshold or 1, answer.keys
  local name = #names == 1 and threshold == 1 and names[1] or threshold .. "\0" .. table.concat(names, "\0")
  local policy, field = context.policy, script and "requirements" or "own_requirements" -- relative to the script, or not
  local known = policy[field] or { by_name = {}, count = 0 }
  local compiled = known.by_name[name]
  if compiled then return compiled end
  local keys, shown = load_keys(context, task, names, script, job, loads)
  if not keys then return nil, shown end
  local requirement, err = core.requirement(keys, threshold)
  if not requirement then return nil, errors.new("untrusted", err.message) end
  compiled = { requirement = requirement, id = requirement:id(), names = shown, threshold = threshold, types = {} }
  for _, key in ipairs(keys) do compiled.types[key:type() == "minisign" and "minisign" or "pem"] = true end
  if known.count >= MAX_REMEMBERED then known = { by_name = {}, count = 0 } end
  known.by_name[name], known.count = compiled, known.count + 1
  policy[field] = known
  return compiled
end

-- -------------------------------------------------------------- signatures

-- The endings of signatures, by the type of key.
local endings = { { "pem", ".sig" }, { "pem", ".sigstore.json" }, { "minisign", ".minisig" } }

-- Returns the references where a job's signatures may be, by its path.
local function places(job, answer, types)
  local list, suffixes = {}, answer.endings or {}
  for _, ending in ipairs(answer.endings and {} or endings) do
    if types[ending[1]] then suffixes[#suffixes + 1] = ending[2] end
  end
  for _, suffix in ipairs(job.source.beside and suffixes or {}) do
    local place = job.source.beside(job.parsed, suffix)
    if place then list[#list + 1] = place end
  end
  return list
end

-- The last job of a chain: the one whose source had the bytes.
local function last_of(job)
  while job.led_to do job = job.led_to end
  return job
end

-- The search for the signatures of a job's bytes.
local Search = {}
Search.__index = Search

-- Returns an error that ends a search, if one does.
function Search:fatal(err)
  if self.task.over or err.kind == "policy" or err.kind == "cancelled" then return err end
  return self.task:lateness()
end

-- Returns the store that the bytes were locked with, if any.
function Search:store()
  local job = last_of(self.job)
  return job.store and self.context:store(job.store, self.task) or nil
end

-- Returns the documents of a registry that led to the bytes, which signatures may be over.
-- Each was checked, so that none of them signs other bytes.
function Search:manifests()
  if self.known_manifests then return self.known_manifests end
  if self.manifests_err then return nil, self.manifests_err end
  local job = last_of(self.job)
  local list, err
  if job.source.documents then
    list, err = job.source.documents(job, self.context, self.loads.links_of(self.context, self.task, job), self.blob:digest(),
      self:store())
  else
    err = errors.new("untrusted", "it is a signature of an artifact in a registry, not of these bytes")
  end
  self.known_manifests, self.manifests_err = list, err
  return list, err
end

-- Returns the digests of these documents; none and the error.
function Search:manifest_digests()
  local list, err = self:manifests()
  local digests = {}
  for i, manifest in ipairs(list or {}) do digests[i] = manifest.digest end
  return digests, err
end

-- Checks a signature document. Returns its signers, and whether they signed a manifest.
function Search:check(document)
  local requirement, digest = self.compiled.requirement, "document " .. core.blob(document):digest()
  local digests, err
  local of_manifest = signatures.is_document(document)
  if of_manifest then
    digests, err = self:manifest_digests()
    if err then return nil, err end
    digest = digest .. " of " .. table.concat(digests, " ")
  end
  local signers = core.verdict(requirement, self.blob, digest)
  if signers then return signers, of_manifest end
  if of_manifest then
    signers, err = signatures.check(requirement, document, digests)
  else
    signers, err = core.check_signature(requirement, self.blob, document)
  end
  if not signers then return nil, err end
  core.remember_verdict(requirement, self.blob, digest, signers)
  return signers, of_manifest
end

-- Takes a signature document. True: there are enough.
function Search:take(name, document)
  local signers, more = self:check(document)
  if not signers then
    self.reasons[#self.reasons + 1] = name .. ": " .. more.message
    return false
  end
  for _, i in ipairs(signers) do
    if not self.signed[i] then self.count = self.count + 1 end
    self.signed[i] = true
  end
  self.documents[#self.documents + 1] = document
  self.by_manifest = self.by_manifest or more
  return self.count >= self.compiled.threshold
end

-- Looks at the signatures that a lockfile names, in the store that it was read with. True:
-- there are enough.
function Search:look_in_store()
  local job, store = last_of(self.job), self:store()
  for _, digest in ipairs(store and job.signatures or {}) do
    local document = store:get(digest, MAX_SIGNATURE_BYTES)
    if document and self:take("the signature " .. digest .. " in the store '" .. job.store .. "'", document) then return true end
  end
  return false
end

-- Returns the references where the signatures may be. Nil and an error: the search is over.
function Search:references(answer)
  local job, types = last_of(self.job), self.compiled.types
  if answer.from then return type(answer.from) == "table" and answer.from or { answer.from } end
  if not job.source.signature_places then return places(job, answer, types) end
  if not types.pem then
    self.reasons[#self.reasons + 1] = "minisign's keys sign nothing in a registry"
    return {}
  end
  local digests, err = self:manifest_digests()
  local list = {}
  for _, digest in ipairs(digests) do
    for _, place in ipairs(job.source.signature_places(job.parsed, digest)) do list[#list + 1] = place end
  end
  if err then
    local fatal = self:fatal(err)
    if fatal then return nil, fatal end
    self.reasons[#self.reasons + 1] = ("the manifest of %s: %s"):format(reference.redact(job.target), err.message)
  end
  return list
end

-- Looks at a signature. True: there are enough. Nil and an error: the search is over. The third
-- result is true if a cache had it.
function Search:look_at(place, revalidate)
  local job, ctx = last_of(self.job), self.job.ctx
  local wish = { reference = place, max_bytes = MAX_SIGNATURE_BYTES, max_seconds = MAX_SIGNATURE_SECONDS,
    remote_only = job.source.is_remote(), blob_redirect_hosts = job.redirect_hosts,
    ctx = { purpose = "signature", manifest_reference = ctx.manifest_reference, origin = ctx.origin,
      origin_is_remote = ctx.origin_is_remote, name = ctx.name },
    options = { cache = job.cache, ttl = job.ttl, disk = not job.no_disk, revalidate = revalidate } }
  local shown = reference.redact(place)
  local document, err = self.loads.resolve(self.task, self.context, wish)
  local late = self.task:lateness()
  if late then return nil, late end
  if document then return self:take(shown, core.unmapped(document)), nil, wish.hit end
  local fatal = self:fatal(err)
  if fatal then return nil, fatal end
  self.reasons[#self.reasons + 1] = shown .. ": " .. err.message
  return false
end

-- Looks at signatures until there are enough. Cached ones that are not may be older than the
-- bytes: their sources are asked.
function Search:run(answer)
  if self:look_in_store() then return true end
  local cached = {}
  local list, fault = self:references(answer)
  if not list then return nil, fault end
  for _, place in ipairs(list) do
    local known = #self.reasons
    local enough, err, hit = self:look_at(place)
    if enough or err then return enough, err end
    if hit and not self.context.offline then
      cached[#cached + 1] = place
      self.reasons[known + 1] = nil
    end
  end
  for _, place in ipairs(cached) do
    local enough, err = self:look_at(place, true)
    if enough or err then return enough, err end
  end
  return false
end

-- Returns the error for bytes without enough signatures.
local function untrusted(context, search)
  local job, compiled, signed = search.job, search.compiled, {}
  for i, name in ipairs(compiled.names) do
    if search.signed[i] then signed[#signed + 1] = name end
  end
  local found = search.reasons[1] and table.concat(search.reasons, "; ")
    or "there is no place beside these bytes; name one with 'from'"
  local by = signed[1] and " (by " .. table.concat(signed, ", ") .. ")" or ""
  local why = ("%d of %d signatures by %s found%s: %s"):format(search.count, compiled.threshold,
    table.concat(compiled.names, ", "), by, found)
  local _, err = context:refuse("signatures", "Not trusted: " .. reference.redact(job.target), job.target, job.ctx.purpose,
    why)
  err.kind = "untrusted"
  return err
end

-- Returns the text that a verdict about cached bytes is remembered by: the place of their signatures.
local function place_of(job, answer)
  local target, from, endings_of = "at " .. last_of(job).target, answer.from, answer.endings
  if endings_of then target = target .. "\n" .. table.concat(endings_of, "\n") end
  if not from then return target end
  return target .. "\n" .. (type(from) == "table" and table.concat(from, "\n") or from)
end

-- Returns the keys that signed a job's bytes, by their signatures; or nil, an error, and
-- what to remember if these bytes do not meet the requirement.
local function look_for_signers(context, task, job, blob, compiled, answer, loads)
  local search = setmetatable({ context = context, task = task, job = job, blob = blob, compiled = compiled, signed = {},
    count = 0, reasons = {}, documents = {}, loads = loads }, Search)
  local enough, err = search:run(answer)
  if err then return nil, err end
  if not enough then return nil, untrusted(context, search), compiled.id end
  local signers = {}
  for i in ipairs(compiled.names) do
    if search.signed[i] then signers[#signers + 1] = i end
  end
  local last = last_of(job)
  last.signature_documents = last.signature_documents or {}
  table.move(search.documents, 1, #search.documents, #last.signature_documents + 1, last.signature_documents)
  if search.by_manifest then last.signed_manifests = search.known_manifests end
  return signers
end

-- Checks one requirement. Returns the names of the keys that signed; or nil, an error, and
-- what to remember if these bytes do not meet it.
local function meet(context, task, job, blob, answer, script, loads)
  local compiled, err = compile(context, task, answer, script, job, loads)
  if not compiled then return nil, errors.about(err, job.target) end
  local place = place_of(job, answer)
  -- A trace shows what is looked at. Bytes that were loaded now may have lost their signature.
  local signers = job.hit and not context.trace and core.verdict(compiled.requirement, blob, place)
  if not signers then
    local what
    signers, err, what = look_for_signers(context, task, job, blob, compiled, answer, loads)
    if not signers then return nil, err, what end
    core.remember_verdict(compiled.requirement, blob, place, signers)
  end
  local names = {}
  for i = 1, #signers do names[i] = compiled.names[signers[i]] end
  return names
end

local function trace_signers(context, job, names)
  if context.trace then
    context.trace { rule = "signed_by", by = "resolver", reference = reference.redact(job.target), answer = names }
  end
  if context.has_listeners then
    context:emit("signed", { reference = reference.redact(job.target), purpose = job.ctx.purpose,
      signed_by = table.concat(names, ", ") })
  end
end

-- Adds names to a list that may be nil yet.
local function add(list, names)
  if not list then return names end
  local seen = {}
  for _, name in ipairs(list) do seen[name] = true end
  for _, name in ipairs(names) do
    if not seen[name] then list[#list + 1] = name end
  end
  return list
end

-- Returns the reference of a job before 'rewrite', joined to the manifest.
local function asked_of(job)
  local asked = job.asked
  return asked and (reference.join(job.ctx.manifest_reference, asked) or asked)
end

-- Checks the signatures of a job's bytes, by the rule about each reference of a chain and by
-- the option. Returns an error, and what to remember.
local function check_signatures(context, task, job, blob, loads)
  local all, names, what
  local link = context.asks.signatures and job
  if link then job.ctx.asked = asked_of(job) end
  while link do
    local answer, why, err = context:ask("signatures", link.target, job.ctx)
    if err then return err end
    if answer then
      names, err, what = meet(context, task, job, blob, answer, context.policy.script, loads)
      if not names then return err, what end
      all = add(all, names)
    elseif answer == nil and why then
      return select(2, context:refuse("signatures", "Not allowed: " .. reference.redact(link.target), link.target,
        job.ctx.purpose, why))
    end
    link = link.led_to
  end
  if context.signatures then
    local err
    names, err, what = meet(context, task, job, blob, context.signatures, nil, loads)
    if not names then return err, what end
    all = add(all, names)
  end
  job.signed_by = all
  if all and (context.trace or context.has_listeners) then trace_signers(context, job, all) end
end

-- ------------------------------------------------------------------ accept

-- Asks the rule 'accept'. Returns an error, and what to remember.
local function ask_accept(context, job, blob)
  if not context.asks.accept then return nil end
  local policy, ctx, shown = context.policy, job.ctx, reference.redact(job.target)
  ctx.digest, ctx.reference = job.sha256, job.target
  local function trace(step)
    step.reference = shown
    context.trace(step)
  end
  local ok, why, err = policies.call("accept", policy.rules.accept, context.trace and trace,
    policy.own.accept and policy.path or "default rule", blob, ctx)
  if err then return err end
  if ok then return nil end
  local _, refusal = context:refuse("accept", "Rejected: " .. shown, job.target, ctx.purpose, why)
  refusal.kind = "rejected"
  return refusal, "accept of policy " .. policy.id
end

--- Judges a job's bytes.
-- @tparam table context
-- @tparam theaterref.future task
-- @tparam table job gets `signed_by`, the names of the keys that signed, and, unless the verdict
-- was remembered, `signature_documents`, a list of blobs, and `signed_manifests`, a list of the
-- documents of a registry that these are about
-- @tparam theaterref.blob blob
-- @tparam table loads `theaterref.resolve.load`
-- @treturn boolean true: they are good
-- @return[2] nil
-- @treturn[2] table an error
-- @treturn[2] ?string a name for what these bytes fail; nil: it says nothing about the bytes
function M.judge(context, task, job, blob, loads)
  local err, what = check_signatures(context, task, job, blob, loads)
  if not err then err, what = ask_accept(context, job, blob) end
  if err then return nil, err, what end
  return true
end

return M
