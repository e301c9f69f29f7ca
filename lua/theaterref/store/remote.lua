--- Remote stores: a bucket with Theater's layout (`data/<hash>`, `labels/<label>`) behind a local folder.
--
-- The bucket is authoritative. Content is looked up in the folder, then fetched, checked against its name and kept.
-- The bucket is asked for a label at most every `label_ttl` seconds; while it cannot be reached, the label's last known
-- hash is used. A store made here has the methods of `theaterref.store`.
-- @module theaterref.store.remote
local core = require "theaterref.core"
local errors = require "theaterref.error"
local fronts = require "theaterref.store.front"
local objects = require "theaterref.store.remote_objects"
local option_sets = require "theaterref.options"
local outages = require "theaterref.store.remote_outages"
local places = require "theaterref.s3.place"
local upkeep = require "theaterref.store.remote_upkeep"
local writing = require "theaterref.store.remote_writing"

local M = {}

local Remote = {}
Remote.__index = Remote

local LABEL_TTL, MAX_BYTES = 5, 4 << 30
local ASK_SECONDS = 5         -- for a label whose last hash is known
local HOLD_SECONDS = 10       -- that fetched content stays in memory for those who ask at the same time
local LOCK_SECONDS = 30       -- that another process may take to fetch content, before this one does
local KEEP_SECONDS = 0.5      -- after a fetch, for its bytes to be kept before another process looks
local LOOK_SECONDS = 0.05     -- between two looks at whether another process knows better of a label
local FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2

-- ------------------------------------------------------------------ opening

-- Waits for a future on the calling thread.
local function wait(future) return future:wait() end

--- Opens a remote store. Sends no request.
-- @tparam string id
-- @tparam string folder the local one
-- @tparam table options of a store, with `remote`
-- @treturn table a store
-- @return[2] nil
-- @treturn[2] table an error of kind `invalid_reference`
function M.open(id, folder, options)
  local bucket, prefix, fault = objects.place(options.remote)
  if not bucket then return nil, errors.new("invalid_reference", ("store '%s': %s"):format(id, fault)) end
  local place = places.find(options.s3, bucket)
  local identity = (place and place.url or bucket .. "/") .. prefix -- names the bucket and prefix that answers come from
  local front = fronts.open(folder, identity, option_sets.overlay(options, { max_bytes = options.max_bytes or MAX_BYTES }))
  return setmetatable({ id = id, name = "s3://" .. bucket .. "/" .. prefix, bucket = bucket, prefix = prefix, front = front,
    identity = identity,
    options = options, label_ttl = math.max(0, options.label_ttl or LABEL_TTL), await = wait,
    shared = { outage_till = 0, looked = {}, looked_since = 0, ensured = {}, ensured_count = 0 }, -- by all its views
    key_prefix = "store://" .. id .. "/" }, Remote)
end

--- A view of the same store for a task, with the task's way of waiting.
-- @tparam table task `await(future)`; `seconds_left()`, or nil; `offline`: ask nothing; `warn(message)`, called with each
-- warning
-- @treturn table
function Remote:within(task)
  local view = option_sets.overlay(self, task)
  view.opened = nil
  return setmetatable(view, Remote)
end

function Remote.__close() end -- so that callers can close what 'hold' returns, as for a local store

--- The store itself, as `hold` of a local one returns it; and whether it is there.
function Remote:hold() return self, true end

Remote.is_remote = true

--- The local folder.
function Remote:folder() return self.front.folder end

--- Describes the bucket's place, without secrets. Sends no request.
-- @treturn string the endpoint, or the fault of the settings
-- @treturn string the region, and where the credentials come from
function Remote:describe()
  local Client = require "theaterref.s3.client"
  local client, err = Client.open(self.bucket, { settings = self.options.s3 or {}, defaults = self.options.request or {} })
  if not client then return self.bucket, tostring(err) end
  return client.place.endpoint, ("region %s, %s"):format(client.place.region, Client.credentials_text(client.source))
end

--- The client for the bucket.
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error
function Remote:client()
  if self.offline then return nil, errors.new("not_found", ("offline: %s is not asked"):format(self.name)) end
  local err
  if not self.opened then
    self.opened, err = require("theaterref.s3.client").open(self.bucket, { settings = self.options.s3 or {},
      defaults = self.options.request or {}, await = self.await, seconds_left = self.seconds_left })
  end
  return self.opened, err
end

-- Emits a warning; the call continues.
local function warn(self, message)
  if self.warn then
    self.warn(message)
  elseif self.options.on_warning then
    self.options.on_warning(message)
  end
end

-- The cache that all states of the process share for this store, named after everything that affects its bytes. It holds
-- labels, and content while it is being fetched.
local function cache_of(self)
  local shared = self.shared
  if not shared.cache then
    local identity = core.digest(table.concat({ self.front.folder, self.identity, self.label_ttl }, "\n"))
    shared.cache = assert(core.resource_cache { name = ("store://%s %s"):format(self.id, identity:sub(1, 16)),
      ttl = self.label_ttl, negative_ttl = self.label_ttl, max_bytes = 64 << 20 })
  end
  return shared.cache
end

-- Gets credentials before a claim: a caller that waits for credentials must not keep others waiting.
local function prepare(self, seconds)
  local client, err = self:client()
  if not client then return nil, err end
  return client:prepare(seconds)
end

-- Keys in that cache. They have the form of references, which caches leave as they are.
local function label_key(self, name) return self.key_prefix .. "label/" .. name end
local function content_key(self, hash) return self.key_prefix .. "hash/" .. hash end

-- ------------------------------------------------------------------ fetching

-- Fetches an object into the future that leads a claim. A lock held meanwhile is released soon after the fetch, even if nobody
-- resumes this coroutine.
local function fetch_into(self, lead, key, max_bytes, sha256, seconds, lock)
  local client, err = self:client()
  local url, compiled
  if client then url, compiled = client:fetch_options(self.prefix .. key, max_bytes) end
  if client and not url then err = compiled end
  local future
  if url then future, err = core.fetch(url, compiled, lead, sha256, self.await == wait, seconds) end
  if not future then
    lead:fail(err.kind, err.message, err.status)
    return nil, err
  end
  if lock then lock:end_after(future, KEEP_SECONDS) end
  local blob, why
  blob, err, why = self.await(future)
  return blob, errors.with_code(err, future), why, future
end

-- True if a request may be sent once more: the credentials of the first are forgotten.
local function may_renew(self, err, patience)
  local client = err and not patience.renewed and self:client()
  patience.renewed = patience.renewed or client and client:renew(err)
  return client and patience.renewed
end

-- Waits briefly, and longer each time.
local function pause(self, patience)
  objects.pause(self, patience.pause)
  patience.pause = math.min(2 * patience.pause, LONGEST_PAUSE)
end

-- Refuses bytes that are not those of a hash.
local function refuse(self, hash)
  core.count "corrupt_bucket"
  cache_of(self):remove(content_key(self, hash))
  objects.doubt(self, hash)
  warn(self, ("content %s in %s is corrupt, and was refused"):format(hash, self.name))
  return nil, errors.new("corrupt", ("the bucket has other bytes than those of content %s (in %s); put the content again")
    :format(hash, self.name))
end

-- Keeps content in the folder. False: the bytes are not those of the hash.
local function keep(self, hash, blob)
  if not objects.is_content(blob, hash) then return false end
  local kept, err = self.front:keep(#hash == 64 and "sha256" or "sha1", blob)
  if not kept then warn(self, ("content %s is not kept in %s: %s"):format(hash, self.front.folder, err.message)) end
  return true
end

-- Fetches content as the leader of its claim, and keeps it in the folder.
local function lead_content(self, hash, lead, max_bytes, lock)
  local blob, err, why = fetch_into(self, lead, "data/" .. hash, max_bytes, #hash == 64 and hash or nil, nil, lock)
  if not blob then return nil, err, why end
  if not keep(self, hash, blob) then return refuse(self, hash) end
  return blob
end

-- Claims content for a fetch. Returns the bytes; false if another caller may have it by now; or nil and an error.
local function claim_content(self, hash, max_bytes, patience)
  local how, what = cache_of(self):claim(content_key(self, hash), { ttl = HOLD_SECONDS })
  if how == "hit" then
    if not self.front.store:exists(hash) then keep(self, hash, what) end -- it was damaged, or evicted
    return what
  end
  if how == "wait" then
    local blob, err, why = self.await(what, true)
    if blob or why == "pending" then return blob, err end
    if why == "abandoned" or (err.kind == "too_large" or err.kind == "timeout") and not patience.tried then
      patience.tried = why ~= "abandoned" -- once: the limit may have been the leader's own
      return false
    end
    errors.with_code(err, what)
    if may_renew(self, err, patience) then return false end
    return nil, err
  end
  local lock <close>, is_busy = self.front:lock("content", hash)
  if is_busy and core.now() < patience.till then
    what:cancel() -- another process fetches it
    pause(self, patience)
    return false
  end
  local blob = lock and self.front:get(hash, max_bytes) -- by now
  if blob then
    what:complete(blob)
    return blob
  end
  local err, why
  blob, err, why = lead_content(self, hash, what, max_bytes, lock)
  if not blob and why ~= "pending" and may_renew(self, err, patience) then return false end
  return blob, err
end

-- Returns what the bucket has of absent content: the bytes of a copy that a garbage collection kept, which it tries to put back;
-- or nil and an error. Readers without permission to write get the bytes, too.
local function recover(self, hash, max_bytes)
  cache_of(self):remove(content_key(self, hash)) -- it may be put at any moment
  local _, err, blob = objects.restore(self, hash, max_bytes)
  if not blob then return nil, err end
  keep(self, hash, blob)
  return blob
end

-- Returns what there is to say after the bucket's answer about content: its bytes after all, or nil and an error.
local function content_error(self, hash, err, max_bytes)
  if err.kind == "digest_mismatch" then return refuse(self, hash) end
  if objects.is_absent(err) then
    local blob, fault = recover(self, hash, max_bytes)
    if blob or fault then return blob, fault end
    return nil, errors.new("not_found", ("Content not found: %s (in %s and %s)"):format(hash, self.front.folder, self.name))
  end
  return nil, objects.told(err)
end

--- The content of a hash: from the folder, or else from the bucket; as `get` of a local store.
function Remote:get(hash, max_bytes)
  local blob, err = self.front:get(hash, max_bytes)
  if blob then return blob end
  if self.offline or err.kind ~= "not_found" and err.kind ~= "corrupt" then return nil, err end
  hash = hash:lower()
  local patience = { till = core.now() + LOCK_SECONDS, pause = FIRST_PAUSE, tried = false }
  while true do
    local ok
    ok, err = prepare(self)
    if not ok then return nil, err end
    blob, err = claim_content(self, hash, max_bytes, patience)
    if blob == nil then return content_error(self, hash, err, max_bytes) end
    if not blob then
      blob = self.front:get(hash, max_bytes)
    elseif max_bytes and #blob > max_bytes then
      return nil, errors.new("too_large", ("%s is larger than the limit of %s (max_bytes)"):format(hash, errors.bytes(max_bytes)))
    elseif #hash == 40 and blob:digest "sha1" ~= hash then
      return refuse(self, hash)
    end
    if blob then return blob end
  end
end

-- The hash of a label in the process's memory, if the machine's note does not contradict it.
local function cached_label(self, name)
  local blob = cache_of(self):peek(label_key(self, name))
  local hash = blob and objects.hash_in(tostring(blob))
  if not hash then return nil end
  local shared, now = self.shared, core.now()
  if now >= shared.looked_since + LOOK_SECONDS then shared.looked, shared.looked_since = {}, now end
  if shared.looked[name] then return hash end
  if not self.front:contradicts(name, hash, self.label_ttl) then
    shared.looked[name] = true
    return hash
  end
  cache_of(self):remove(label_key(self, name))
end

--- Returns bytes if no request is needed for them, or nil.
-- @tparam ?string hash
-- @tparam ?string label instead
-- @tparam[opt] integer max_bytes
-- @treturn ?theaterref.blob
function Remote:at_hand(hash, label, max_bytes)
  if label then hash = cached_label(self, label) end
  return hash and self.front:get(hash, max_bytes) or nil
end

--- True if there is content of a hash, in the folder or the bucket.
function Remote:exists(hash)
  local there, err = self.front.store:exists(hash)
  if err then return nil, err end
  if there or self.offline then return there end
  local found, why, has_copy = objects.find(self, hash:lower())
  if found == nil and not has_copy then return nil, why end
  return found or has_copy
end

-- ------------------------------------------------------------------- labels

-- True if an answer is recent enough to use without another request.
local function is_fresh(self, known)
  local age = core.time() - known.asked
  return known.asked > 0 and age >= 0 and age < self.label_ttl
end

-- Reads the bucket's answer about a label: its hash; nil: there is none; or nil and an error. 'asked' is when the question
-- began, if it was ours.
local function hash_of(self, name, blob, err, asked)
  if blob then
    local hash = objects.hash_in(tostring(blob))
    if hash then return hash end
    return nil, errors.new("corrupt", ("label %s holds no hash (%slabels/%s)"):format(name, self.name, name))
  end
  if objects.is_absent(err) then
    if asked then self.front:note_absence(name, asked) end
    return nil
  end
  return nil, objects.told(err)
end

-- True while this process or another on the machine knows of an outage.
local function is_out(self)
  local is_known, is_news = outages.is_known(self)
  if is_news then
    warn(self, ("%s could not be reached by another process a moment ago, so labels count as they were"):format(self.name))
  end
  return is_known
end

-- Serves the last known hash in an outage. 'began' and 'is_own' are those of outages.note.
local function last_known(self, name, known, err, began, is_own)
  if not known or not objects.is_outage(err) then return nil, err end
  outages.note(self, began, is_own)
  local age = known.asked > 0 and (" %s ago"):format(errors.seconds(math.max(0, (core.time() - known.asked) // 1))) or ""
  warn(self, ("%s cannot be reached, so label %s counts as it was%s: %s"):format(self.name, name, age, err.message))
  return known.hash
end

-- The hash of a label when there is a note of a later answer than ours, 'hash'; nil: the label was removed.
local function later_hash(self, name, hash)
  local known = self.front:label(name)
  if known and known.asked < 0 then return hash end -- what the note has may be older
  return known and known.hash
end

-- Asks the bucket for a label as the leader of its claim.
local function ask_label(self, name, known, lead, lock)
  local asked = core.time()
  if known then lead:know(core.blob(known.hash), { etag = known.etag }) end
  local blob, err, why, future = fetch_into(self, lead, "labels/" .. name, objects.LABEL_BYTES, nil,
    known and ASK_SECONDS or nil, lock)
  if why == "pending" then return nil, err, true end
  local hash
  hash, err = hash_of(self, name, blob, err, asked)
  if not hash then return nil, err end
  if self.front:set_label(name, { hash = hash, etag = future:freshness().etag, asked = asked }) then return hash end
  cache_of(self):remove(label_key(self, name)) -- the answer to a later question is known
  return later_hash(self, name, hash)
end

-- Takes the lock that lets one process at a time ask for a label, if others can use its answer.
local function lock_label(self, name)
  if self.label_ttl <= 0 then return nil, false end
  return self.front:lock("label", core.digest(name))
end

-- Reads a label as the leader of its claim. Returns the hash; nil if there is none; nil and an error; or false if another
-- process is asking the bucket.
local function lead_label(self, name, lead, patience)
  local known = self.front:label(name)
  if known and is_out(self) then
    lead:cancel()
    return known.hash
  end
  local lock <close>, is_busy = lock_label(self, name)
  known = self.front:label(name)
  if known and is_fresh(self, known) then
    lead:complete(core.blob(known.hash), { age = math.max(0, core.time() - known.asked), etag = known.etag })
    return known.hash
  end
  if is_busy and core.now() < patience.till then
    lead:cancel()
    return false
  end
  local began = core.now()
  local hash, err, is_over = ask_label(self, name, known, lead, lock)
  if hash or not err or is_over then return hash, err end
  if may_renew(self, err, patience) then return false end
  return last_known(self, name, known, err, began)
end

-- Waits for another caller's answer about a label. Returns as lead_label does; false if nobody is asking any more.
local function wait_for_label(self, name, future, patience)
  local began = core.now()
  local blob, err, why = self.await(future, true)
  if why == "pending" then return nil, err end
  if why == "abandoned" then return false end
  local hash, fault = hash_of(self, name, blob, errors.with_code(err, future))
  if not fault then
    if not self.front:contradicts(name, hash or "-", self.label_ttl) then return hash end
    cache_of(self):remove(label_key(self, name)) -- another process knows better
    return false
  end
  if may_renew(self, fault, patience) then return false end
  return last_known(self, name, self.front:label(name), fault, began)
end

-- The hash of a label without a question to the bucket.
local function label_offline(self, name)
  local known = self.front:label(name)
  if known then return known.hash end
  return nil, errors.new("not_found", ("offline: label %s of %s is not known here"):format(name, self.name))
end

-- True if the bucket may have to be asked for a label.
local function may_ask(self, name)
  if cached_label(self, name) then return false end
  local known = self.front:label(name)
  return not known or not is_fresh(self, known) and not is_out(self)
end

-- The hash of a label; nil, if there is none; or nil and an error.
local function read_label(self, name)
  if self.offline then return label_offline(self, name) end
  local patience = { till = core.now() + ASK_SECONDS, pause = FIRST_PAUSE }
  while true do
    if may_ask(self, name) then
      local began, known = core.now(), self.front:label(name)
      local ok, err = prepare(self, known and ASK_SECONDS)
      if not ok then return last_known(self, name, known, err, began, true) end
    end
    local how, what = cache_of(self):claim(label_key(self, name))
    if how == "hit" then return hash_of(self, name, what) end
    local hash, err
    if how == "wait" then
      hash, err = wait_for_label(self, name, what, patience)
    else
      hash, err = lead_label(self, name, what, patience)
    end
    if hash ~= false then return hash, err end
    if how == "lead" then pause(self, patience) end
  end
end

--- The hash that a label points at, at most `label_ttl` seconds ago; as that of a local store.
function Remote:get_by_label(name)
  local fault = objects.name_fault(name)
  if fault then return nil, fault end
  local hash, err = read_label(self, name)
  if err then return nil, err end
  return hash
end

--- Makes the next reader of a label ask the bucket.
function Remote:expire_label(name)
  cache_of(self):remove(label_key(self, name))
  self.front:expire_label(name)
end

--- Remembers that a label was just removed here; or that it was found to be absent, by a question that began at a moment.
function Remote:forget_label(name, asked)
  cache_of(self):remove(label_key(self, name))
  if asked then self.front:note_absence(name, asked) else self.front:note_removal(name) end
end

--- Remembers a label that was moved here, or read, by a request that began at a moment. If a later answer is known, that was
-- perhaps before the move, and perhaps after a move of others, so the bucket is asked.
function Remote:know_label(name, hash, etag, asked)
  cache_of(self):remove(label_key(self, name))
  if not self.front:set_label(name, { hash = hash, etag = etag, asked = asked }) then self.front:expire_label(name) end
end

--- The content that a label points at; as that of a local store.
function Remote:get_content_by_label(name, max_bytes)
  local hash, err = self:get_by_label(name)
  if not hash then return nil, err end
  local blob
  blob, err = self:get(hash, max_bytes)
  if blob then return blob end
  if err.kind ~= "not_found" or self.offline then return nil, err end
  self:expire_label(name) -- it may have moved, and its content be gone
  local now, why = self:get_by_label(name)
  if not now then return nil, why end
  if now == hash then return nil, err end
  return self:get(now, max_bytes)
end

for _, methods in ipairs { writing, upkeep } do
  for name, method in pairs(methods) do Remote[name] = method end
end

return M
