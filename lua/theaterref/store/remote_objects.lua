--- The objects of a remote store: content, and labels with their metadata.
-- @module theaterref.store.remote_objects
local base64 = require "theaterref.base64"
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

--- True if the object store itself says that an object is absent. A page of something in front of the store does not, nor an
-- answer to HEAD, which has no body, nor a missing file of credentials.
-- @tparam table err
-- @treturn boolean
function M.is_absent(err) return err.status == 404 and err.code == "NoSuchKey" end

--- True if the object store could not be asked, and that may pass.
-- @tparam table err
-- @treturn boolean
function M.is_outage(err) return core.is_outage(err) or err.no_credentials or err.status == 404 and err.code == nil end

--- An error with a kind that tells callers the truth: `not_found` only for what the object store says is absent.
-- @tparam table err
-- @treturn table
function M.told(err)
  if err.kind == "not_found" and not M.is_absent(err) then err.kind = err.status and "http_status" or "denied" end
  return err
end

--- Seconds for which a remote gc spares content. Writers renew content that is older than half of that.
M.GRACE = 24 * 3600

--- Seconds for which copies stay after a deletion: longer than content without a label. They are made before the deletion, which
-- the network may delay; servers refuse requests that are older than 15 minutes.
M.COPY_SECONDS = M.GRACE + 3600

--- More is no label.
M.LABEL_BYTES = 4096

--- The folder of copies of deleted content: `theaterref/trash/<hash>/<uuid>`; see `theaterref.store.remote_gc`.
M.TRASH = "theaterref/trash/"

--- True for the name of content.
-- @tparam string name
-- @treturn boolean
function M.is_content_name(name) return name:find "^[0-9a-f]+$" ~= nil and (#name == 40 or #name == 64) end

--- Takes the option `remote` apart.
-- @tparam string remote `s3://bucket` or `s3://bucket/prefix`
-- @treturn string the bucket
-- @treturn string the prefix of all keys: empty, or with a `/` at its end
-- @return[2] nil
-- @return[2] nil
-- @treturn[2] string the fault
function M.place(remote)
  local bucket, prefix = remote:match "^[sS]3://([^/?#]+)/?(.*)$"
  prefix = prefix and prefix:gsub("/+$", "")
  local path = "/" .. (prefix or "") .. "/"
  if not bucket or path:find "[?#]" or path:find "//." or path:find "/%.%.?/" then
    return nil, nil, ("remote is s3://bucket or s3://bucket/prefix, not '%s'"):format(errors.redact_reference(remote))
  end
  return bucket, prefix == "" and "" or prefix .. "/"
end

--- The fault of a label's name as an error, or nil.
-- @tparam string name
-- @treturn ?table
function M.name_fault(name)
  if type(name) ~= "string" then error("the name of a label must be a string, not a " .. type(name), 3) end
  local fault = core.label_fault(name)
  return fault and errors.new("invalid_reference", ("Invalid label '%s': %s"):format(name, fault))
end

--- The hash that a label's text holds, in lower case, or nil.
-- @tparam string text
-- @treturn ?string
function M.hash_in(text)
  local hash = text:match "^%s*(%x+)%s*$"
  return hash and (#hash == 40 or #hash == 64) and hash:lower() or nil
end

--- True if bytes are those of a hash.
-- @tparam theaterref.blob blob
-- @tparam string hash
-- @treturn boolean
function M.is_content(blob, hash) return blob:digest(#hash == 64 and "sha256" or "sha1") == hash end

--- Asks for an object's head. If the answer is that it is absent, asks by GET who says so.
-- @tparam table store
-- @tparam string key below the store's prefix
-- @treturn table|boolean false: it is absent
-- @return[2] nil
-- @treturn[2] table an error
function M.head(store, key)
  local client, err = store:client()
  if not client then return nil, err end
  local head
  head, err = client:head(store.prefix .. key)
  if head or err.status ~= 404 then return head, err and M.told(err) end
  local blob, why = client:get(store.prefix .. key, { max_bytes = 1 })
  if blob or why.kind == "too_large" then head, why = client:head(store.prefix .. key) end -- it has just come
  if head then return head end
  if M.is_absent(why) then return false end
  return nil, M.told(why)
end

local ENSURED_SECONDS, MAX_ENSURED = 60, 1024
local MAX_TRIES, PAUSE = 4, 0.1 -- for content that others write at the same time

-- Records that content is in the bucket, and young.
local function note_ensured(shared, hash)
  if shared.ensured_count >= MAX_ENSURED then shared.ensured, shared.ensured_count = {}, 0 end
  if not shared.ensured[hash] then shared.ensured_count = shared.ensured_count + 1 end
  shared.ensured[hash] = core.now()
  return true
end

--- Makes the next writer of content look at the bucket.
-- @tparam table store
-- @tparam string hash
function M.doubt(store, hash) store.shared.ensured[hash] = nil end

-- True if an object is so old, by the server's clock, that a remote gc may soon take it.
local function is_old(head) return (head.date or os.time()) - (head.modified or 0) > M.GRACE / 2 end

-- Repeats a write of content while others write it at the same time: callers never see the kind `conflict`.
local function without_conflict(store, write)
  local ok, err
  for try = 1, MAX_TRIES do
    ok, err = write()
    if ok ~= nil or err.kind ~= "conflict" then return ok, err end
    if try < MAX_TRIES then M.pause(store, PAUSE * try * (0.5 + math.random())) end
  end
  local other = errors.new("http_status", ("others write the same content at the same time: %s"):format(err.message))
  other.status, other.code = err.status, err.code
  return nil, other
end

-- Makes an object young if it is old. True, or nil and an error.
local function refresh(store, key, head)
  if not is_old(head) then return true end
  local client = store:client()
  return without_conflict(store, function()
    local ok, err = client:refresh(key, head)
    if ok then return true end
    if err.kind == "conflict" then
      head = client:head(key) or head -- somebody else has just written it
      if not is_old(head) then return true end
    end
    return nil, err
  end)
end

-- True if an object has a blob's bytes, as far as its head shows. An ETag that is not an MD5 (after an upload in parts, or with
-- some kinds of encryption) proves nothing, so such an object is written again.
local function has_bytes(head, blob)
  if #blob ~= head.size then return false end
  local raw = base64.decode(core.md5(blob))
  local md5 = raw:gsub(".", function(c) return ("%02x"):format(c:byte()) end)
  return (head.etag or ""):gsub('"', ""):lower() == md5
end

-- Reads the copies of deleted content until one has the right bytes. Returns them, the copy's key and its head; false: there is
-- none; or nil and an error.
local function read_copy(store, hash, max_bytes)
  local copies = {}
  local ok, err = M.each(store, M.TRASH .. hash .. "/", function(_, object) copies[#copies + 1] = object.key end)
  if not ok then return nil, err end
  for _, key in ipairs(copies) do
    local blob, head = store:client():get(key, { max_bytes = max_bytes })
    if not blob and not M.is_absent(head) then return nil, M.told(head) end -- else its time was over
    if blob and M.is_content(blob, hash) then return blob, key, head end
  end
  return false
end

--- Restores absent content from the copy of a garbage collection.
-- @tparam table store
-- @tparam string hash
-- @tparam[opt] integer max_bytes
-- @treturn boolean false: there is no copy with the right bytes; nil: they could not be put back
-- @treturn ?table why, an error
-- @treturn ?theaterref.blob the bytes, if a copy has them
function M.restore(store, hash, max_bytes)
  local blob, key, head = read_copy(store, hash, max_bytes)
  if not blob then return blob, key end
  local client, data = store:client(), store.prefix .. "data/" .. hash
  local ok, err = without_conflict(store, function() return client:refresh(key, head, data) end)
  if ok then return true, nil, blob end
  if M.is_absent(err) then return false, nil, blob end -- its time was over a moment ago
  return nil, M.told(err), blob
end

--- Looks for content in the bucket, and restores it if a garbage collection deleted it.
-- @tparam table store
-- @tparam string hash
-- @treturn boolean whether it is there
-- @return[2] nil
-- @treturn[2] table an error
-- @treturn[2] boolean true: there is a copy, which could not be put back
function M.find(store, hash)
  local head, err, blob = M.head(store, "data/" .. hash)
  if head == false then head, err, blob = M.restore(store, hash) end
  return head and true or head, err, blob ~= nil
end

-- Uploads content that the bucket lacks, as far as an answer to HEAD shows, or restores it from a copy. True; false: it is
-- nowhere; or nil and an error.
local function bring(store, hash, blob)
  blob = blob or store.front:get(hash)
  if blob then
    return without_conflict(store, function() return store:client():put(store.prefix .. "data/" .. hash, blob, {}) end)
  end
  return M.find(store, hash)
end

--- Ensures that content is in the bucket, and too young for any gc to take it soon.
-- @tparam table store
-- @tparam string hash
-- @tparam[opt] theaterref.blob blob its bytes, which replace others in the bucket; without them, those of the local folder
-- @tparam[opt] boolean again ask the bucket, even if that was done a moment ago
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error
-- @treturn[2] boolean true: it is neither there nor here
function M.ensure(store, hash, blob, again)
  local key, shared = store.prefix .. "data/" .. hash, store.shared
  local at = shared.ensured[hash]
  if not again and at and core.now() < at + ENSURED_SECONDS then return true end
  local client, err = store:client()
  if not client then return nil, err end
  local head, ok
  head, err = client:head(key)
  blob = blob or head and store.front:get(hash) -- which shows whether the bucket has other bytes
  if not head and err.status ~= 404 then return nil, M.told(err) end
  if head and (not blob or has_bytes(head, blob)) then
    ok, err = refresh(store, key, head)
    if ok then return note_ensured(shared, hash) end
    if not M.is_absent(err) then return nil, M.told(err) end -- else a gc has just taken it
  end
  ok, err = bring(store, hash, blob)
  if ok then return note_ensured(shared, hash) end
  if ok == nil then return nil, M.told(err) end
  return nil, errors.new("not_found", ("Content not found: %s (in %s and %s)"):format(hash, store.front.folder, store.name)), true
end

--- Renews content that a label leaves, because readers may be about to read it. Failures are ignored.
-- @tparam table store
-- @tparam string hash
function M.spare(store, hash)
  local client = store:client()
  local head = client and client:head(store.prefix .. "data/" .. hash)
  if head then refresh(store, store.prefix .. "data/" .. hash, head) end
end

local MAX_VALUE, MAX_ITEMS = 256, 100 -- bytes that every server takes in a header of metadata; Swift takes no more

--- Adds a list to an object's metadata: as texts that commas separate, under a name, and if one gets too long, under the name
-- with `-2`, `-3`, ….
-- @tparam table metadata
-- @tparam string name
-- @tparam table list of texts
function M.add_list(metadata, name, list)
  local parts = {}
  for _, item in ipairs(list) do
    local last = parts[#parts]
    if last and #last + 1 + #item <= MAX_VALUE then parts[#parts] = last .. "," .. item else parts[#parts + 1] = item end
  end
  for i, part in ipairs(parts) do metadata[i == 1 and name or name .. "-" .. i] = part end
end

-- The valid items of such a list.
local function list_in(metadata, name, pattern)
  local list, i, text = {}, 1, metadata[name]
  while text do
    for item in text:gmatch "[^,%s]+" do
      if item:find(pattern) and #list < MAX_ITEMS then list[#list + 1] = item end
    end
    i = i + 1
    text = metadata[name .. "-" .. i]
  end
  return list
end

-- Gets a label's object. Returns its text, or nil if it has none that can be read, its head, and why it has none; false, if it is
-- absent; or nil, nil and an error.
local function get_label(client, key)
  local blob, err = client:get(key, { max_bytes = M.LABEL_BYTES }) -- or its head
  if blob then return tostring(blob), err end
  if M.is_absent(err) then return false end
  if err.kind ~= "too_large" and err.code ~= "InvalidObjectState" then return nil, nil, M.told(err) end
  local head, why = client:head(key)
  if not head then return nil, nil, M.told(why) end
  if err.kind == "too_large" and (head.size or 0) <= M.LABEL_BYTES then return nil, nil, err end -- by a limit of the caller
  return nil, head, err
end

--- Reads a label in the bucket, past all caches.
-- @tparam table store
-- @tparam string name
-- @treturn table|boolean `hash`, or `fault`, an error, if it holds none; `etag`; `writer`: who moved it last; `writers`: that one
-- and those before it; `history`: the hashes before; `asked`, when, by core.time(); false: there is no such label
-- @return[2] nil
-- @treturn[2] table an error
function M.label(store, name)
  local client, err = store:client()
  if not client then return nil, err end
  local asked = core.time()
  local text, head, why = get_label(client, store.prefix .. "labels/" .. name)
  if text == false then return false end
  if not head then return nil, why end
  local hash = text and M.hash_in(text)
  if not head.etag then
    return nil, errors.new("syntax", ("the server sent label %s without the header ETag (%slabels/%s)"):format(name, store.name,
      name))
  end
  local fault = not hash and errors.new("corrupt", ("label %s holds no hash (%slabels/%s%s)"):format(name, store.name, name,
    why and ": " .. why.message or "")) or nil
  local metadata = head.metadata or {}
  local writers = list_in(metadata, "theaterref-writer", "^[%x-]+$")
  local writer = writers[1]
  for _, before in ipairs(list_in(metadata, "theaterref-writers", "^[%x-]+$")) do writers[#writers + 1] = before end
  local history = list_in(metadata, "theaterref-history", "^%x+$")
  return { hash = hash, fault = fault, etag = head.etag, writer = writer, writers = writers, history = history, asked = asked }
end

-- True if a text is before another in the order of their bytes, whatever the locale.
local function is_before(a, b)
  local i = 1
  while i <= #a and a:byte(i) == b:byte(i) do i = i + 1 end
  return (a:byte(i) or -1) < (b:byte(i) or -1)
end

local MAX_EMPTY_PAGES = 100 -- in a row

-- Returns a function that checks that each page continues after the last one; otherwise a list might never end.
local function page_checker(store)
  local last, empty = "", 0
  return function(page)
    empty = page[1] and 0 or empty + 1
    if empty < MAX_EMPTY_PAGES and (not page[1] or is_before(last, page[1].key)) then
      last = page[1] and page[#page].key or last
      return true
    end
    return nil, errors.new("syntax", ("the server of %s repeats pages of its list of keys"):format(store.name))
  end
end

--- Lists objects, page by page. Folders, which some programs keep as empty objects whose keys end in `/`, are left out.
-- @tparam table store
-- @tparam string folder below the store's prefix, with a `/` at its end
-- @tparam function visit called with each key below that folder and its object; false ends it
-- @tparam[opt] integer max of a page
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error
function M.each(store, folder, visit, max)
  local client, err = store:client()
  if not client then return nil, err end
  local prefix, check_page, token = store.prefix .. folder, page_checker(store), nil
  repeat
    local page, following = client:list(prefix, { token = token, max = max })
    if not page then return nil, M.told(following) end
    local goes_on, fault = check_page(page)
    if not goes_on then return nil, fault end
    token = following
    for _, object in ipairs(page) do
      local is_ours = object.key:sub(1, #prefix) == prefix and not (object.size == 0 and object.key:sub(-1) == "/")
      if is_ours and visit(object.key:sub(#prefix + 1), object) == false then return true end
    end
  until not token
  return true
end

local AT_ONCE = 16

-- Runs all workers until they are done or one fails.
local function drive(workers)
  while #workers > 0 do
    for i = #workers, 1, -1 do
      local worker = workers[i]
      local results = worker.future and table.pack(worker.future:wait()) or table.pack()
      local ok, future = coroutine.resume(worker.thread, table.unpack(results, 1, results.n))
      if not ok then error(future, 0) end
      worker.future = future
      if coroutine.status(worker.thread) == "dead" then table.remove(workers, i) end
    end
  end
end

--- Does work for each item, several at a time.
-- @tparam table store
-- @tparam table items
-- @tparam function work called with the store and an item; nil and an error ends all
-- @tparam[opt] integer at_once
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error
function M.for_each(store, items, work, at_once)
  local next_item, failure, workers = 1, nil, {}
  local view = store:within { await = function(future) return coroutine.yield(future) end }
  local function run()
    while next_item <= #items and not failure do
      local item = items[next_item]
      next_item = next_item + 1
      local ok, err = work(view, item)
      if not ok then failure = failure or err end
    end
  end
  for i = 1, math.min(at_once or AT_ONCE, #items) do workers[i] = { thread = coroutine.create(run) } end
  drive(workers)
  if failure then return nil, failure end
  return true
end

--- The ETag and the time of each label's object.
-- @tparam table store
-- @treturn table texts, by name
-- @treturn table why others are no labels, by name
-- @return[2] nil
-- @treturn[2] table an error
function M.label_objects(store)
  local etags, faults = {}, {}
  local ok, err = M.each(store, "labels/", function(name, object)
    local fault = core.label_fault(name) or core.odd_label_fault(name)
    if fault then faults[name] = fault else etags[name] = ("%s %s"):format(tostring(object.etag), tostring(object.modified)) end
  end)
  if not ok then return nil, err end
  for name in pairs(etags) do
    for at in name:gmatch "()/" do
      local folder = name:sub(1, at - 1)
      if etags[folder] then faults[folder] = ("it is a folder of the label %s, too"):format(name) end
    end
  end
  return etags, faults
end

--- Reads all labels.
-- @tparam table store
-- @tparam[opt] table before labels that were read before: those whose object is the same are not read again
-- @treturn table by name, as `label` returns them
-- @treturn table why others are no labels, by name
-- @return[2] nil
-- @treturn[2] table an error
function M.labels(store, before)
  local etags, faults = M.label_objects(store)
  if not etags then return nil, faults end
  local found, changed = {}, {}
  for name, etag in pairs(etags) do
    local known = before and before[name]
    if known and known.listed == etag then found[name] = known else changed[#changed + 1] = name end
  end
  local ok, err = M.for_each(store, changed, function(view, name)
    local label, why = M.label(view, name)
    if label == nil then return nil, why end
    if label and label.fault then
      faults[name] = label.fault.message
    elseif label then
      label.listed = etags[name]
      found[name] = label
    end
    return true
  end)
  if not ok then return nil, err end
  return found, faults
end

--- Waits briefly.
-- @tparam table store
-- @tparam number seconds
function M.pause(store, seconds) store.await(core.timer(seconds)) end

return M
