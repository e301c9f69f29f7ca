--- Garbage collection of remote stores.
--
-- S3 cannot make a deletion depend on labels. So a collection copies content to `theaterref/trash/<hash>/<uuid>`, deletes it,
-- reads the labels again, and restores what they name by then. Copies are never overwritten, so several collections may run at
-- the same time. Copies stay for a day: readers, writers and the next collection restore what they miss.
-- @module theaterref.store.remote_gc
local Client = require "theaterref.s3.client"
local errors = require "theaterref.error"
local objects = require "theaterref.store.remote_objects"
local random = require "theaterref.store.random"
local sorted_keys = require "theaterref.sorted_keys"

local M = {}

local BATCH = 500 -- deletions between two looks at the labels
local MAX_TRIES, PAUSE = 6, 0.5 -- while the server is busy

local function nothing() end

-- Visits objects; each must have a time.
local function each_dated(self, folder, visit)
  local fault
  local ok, err = objects.each(self, folder, function(key, object)
    if object.modified then return visit(key, object) end
    fault = errors.new("syntax", ("the server lists %s%s%s without a time (LastModified), so no garbage is collected")
      :format(self.name, folder, errors.printable(key)))
    return false
  end)
  if not ok or fault then return nil, err or fault end
  return true
end

-- ------------------------------------------------------------------- labels

-- Returns an error if some objects among the labels are not labels, or nil.
local function refusal(faults)
  local name, why = next(faults)
  return name and errors.new("corrupt", ("no garbage is collected while there is a label that holds no hash: %s: %s")
    :format(errors.printable(name), why))
end

--- Reads the labels. Nothing is deleted while one of them cannot be read.
-- @tparam table self a remote store
-- @tparam[opt] table before the result of an earlier call
-- @treturn table by name
-- @return[2] nil
-- @treturn[2] table an error
function M.labels(self, before)
  local labels, faults = objects.labels(self, before)
  if not labels then return nil, faults end
  local err = refusal(faults)
  if err then return nil, err end
  return labels
end

-- The content that no collection may delete, by hash: "in_history" or "labelled".
local function spared_by(labels)
  local spared = {}
  for _, label in pairs(labels) do
    for _, hash in ipairs(label.history) do spared[hash] = spared[hash] or "in_history" end
    spared[label.hash] = "labelled"
  end
  return spared
end

-- ------------------------------------------------------------------- copies

-- Copies content to a key of this collection. Returns the objects that have a copy now.
local function keep_copies(self, batch, run, report)
  local kept = {}
  local ok, err = objects.for_each(self, batch, function(view, object)
    local data, copy = view.prefix .. "data/" .. object.hash, view.prefix .. objects.TRASH .. object.hash .. "/" .. run
    local copied, why = view:client():refresh(data, { etag = object.etag, size = object.size }, copy)
    if copied then kept[#kept + 1] = object
    elseif objects.is_outage(why) then return nil, objects.told(why)
    elseif not objects.is_absent(why) and why.kind ~= "conflict" then report.failed[object.hash] = why.message end
    return true
  end)
  if not ok then return nil, err end
  table.sort(kept, function(a, b) return a.hash < b.hash end)
  return kept
end

-- Deletes objects below a folder by their names. Returns a set of those that are deleted.
local function delete_all(self, folder, names, report)
  local prefix, deleted = self.prefix .. folder, {}
  for first = 1, #names, Client.MAX_DELETES do
    local full = {}
    for i = first, math.min(first + Client.MAX_DELETES - 1, #names) do
      full[#full + 1], deleted[names[i]] = prefix .. names[i], true
    end
    local failures, err = self:client():delete_many(full)
    if not failures then return nil, err end
    for _, failure in ipairs(failures) do
      local name = failure.key:sub(#prefix + 1)
      deleted[name], report.failed[name] = nil, failure.err.message
    end
  end
  return deleted
end

-- Restores labelled content that a killed collection deleted. 'there' is the content that the bucket has. Returns the names of
-- old copies that may be deleted.
local function settle_copies(self, last_old, there, spared)
  local missing, old = {}, {}
  local ok, err = each_dated(self, objects.TRASH, function(key, object)
    local hash = key:match "^(%x+)/[%x-]+$"
    if not hash or not objects.is_content_name(hash) then return end
    if spared[hash] and not there[hash] then missing[hash] = true
    elseif object.modified <= last_old then old[#old + 1] = key end
  end)
  if not ok then return nil, err end
  for hash in pairs(missing) do
    ok, err = objects.find(self, hash)
    if ok == nil then return nil, err end
  end
  return old
end

-- ----------------------------------------------------------------- deletion

-- The objects of a batch that are unchanged, still old and still unlabelled. Objects that are gone, and were 'tried' before, are
-- added to 'gone'.
local function still_free(self, batch, labels, last_old, tried, gone)
  local spared, free = spared_by(labels), {}
  local ok, err = objects.for_each(self, batch, function(view, object)
    if spared[object.hash] then return true end
    local head, why = objects.head(view, "data/" .. object.hash)
    if head == nil then return nil, why end
    if not head then gone[object.hash] = tried[object.hash]
    elseif head.modified and head.modified <= last_old and head.etag == object.etag then free[#free + 1] = object.hash end
    return true
  end)
  if not ok then return nil, err end
  table.sort(free)
  return free
end

-- Reads the labels again after deletions, and puts back what they name of a set of hashes. Returns the labels, those put back,
-- and why some objects are no labels.
local function repair(self, tried, labels)
  local found, faults = objects.labels(self, labels)
  if not found then return nil, faults end
  local spared, restored = spared_by(found), {}
  for hash in pairs(tried) do
    if spared[hash] then
      local there, err = objects.find(self, hash)
      if there == nil then return nil, err end
      restored[hash] = there
    end
  end
  return found, restored, faults
end

-- Deletes the objects of a batch that are still free; each has a copy. 'tried' collects what this and earlier tries may have
-- deleted. Returns the labels.
local function delete_batch(self, batch, last_old, labels, report, tried)
  local restored, faults, gone, free, deleted, err
  labels, restored, faults = repair(self, tried, labels)
  err = not labels and restored or refusal(faults)
  if err then return nil, err end
  gone = {}
  free, err = still_free(self, batch, labels, last_old, tried, gone)
  if not free then return nil, err end
  for _, hash in ipairs(free) do
    tried[hash] = true
    objects.doubt(self, hash)
  end
  deleted, err = delete_all(self, "data/", free, report)
  labels, restored = repair(self, tried, labels) -- also if it is unknown whether they are deleted
  if not deleted or not labels then return nil, err or restored end
  for hash in pairs(gone) do deleted[hash] = true end
  for _, hash in ipairs(sorted_keys(deleted)) do
    if not restored[hash] then report.deleted[#report.deleted + 1] = hash end
  end
  return labels
end

-- The same, and again if the server is busy: nothing else repeats a deletion.
local function delete_patiently(self, batch, last_old, labels, report)
  local tried = {}
  for try = 1, MAX_TRIES do
    local found, err = delete_batch(self, batch, last_old, labels, report, tried)
    if found or try == MAX_TRIES or err.status ~= 503 and err.status ~= 429 then return found, err end
    objects.pause(self, PAUSE * 2 ^ try * (0.5 + math.random()))
  end
end

-- Deletes the objects of killed probes after a day, whatever the grace period, because other probes may be running.
local function delete_probes(self, last_old, report, dry_run)
  return each_dated(self, "theaterref/", function(name, object)
    local is_probe = name:find "^%x+%-%x+%-%x+%-%x+%-%x+$" and #name == 36 -- others' objects stay
    if not is_probe or object.modified > last_old then return end
    local ok, err = dry_run, nil
    if not dry_run then ok, err = self:client():delete(self.prefix .. "theaterref/" .. name) end
    if ok then report.temporary_files[#report.temporary_files + 1] = name else report.failed[name] = err.message end
  end)
end

-- --------------------------------------------------------------- collection

-- Lists the content of the bucket. Returns objects with 'hash', a set of hashes, and the server's time.
local function list_content(self)
  local list, there = {}, {}
  local ok, err = each_dated(self, "data/", function(hash, object)
    if not objects.is_content_name(hash) then return end
    object.hash, there[hash] = hash, true
    list[#list + 1] = object
  end)
  if not ok then return nil, err end
  local now = self:client():time()
  if not now then
    return nil, errors.new("syntax", ("the server of %s does not tell its time (Date), so no garbage is collected")
      :format(self.name))
  end
  return list, there, now
end

-- Sorts content into what is kept, which the report counts, and what may be deleted.
local function candidates_of(list, spared, last_old, report)
  local candidates, kept = {}, report.kept
  for _, object in ipairs(list) do
    local because = spared[object.hash] or object.modified > last_old and "young"
    if because then kept[because] = kept[because] + 1 else candidates[#candidates + 1] = object end
  end
  return candidates
end

-- Deletes candidates, batch by batch. A dry run only reports them.
local function delete_candidates(self, candidates, last_old, labels, report, options)
  local run, progress = random.uuid(), options.progress or nothing
  if options.dry_run then
    for i, object in ipairs(candidates) do report.deleted[i] = object.hash end
    progress(#candidates, #candidates)
    return true
  end
  for i = 1, #candidates, BATCH do
    local last = math.min(i + BATCH - 1, #candidates)
    local batch, err = keep_copies(self, table.move(candidates, i, last, 1, {}), run, report)
    if batch and batch[1] then labels, err = delete_patiently(self, batch, last_old, labels, report) end
    if not batch or not labels then return nil, err end
    progress(last, #candidates)
  end
  return true
end

--- Collects garbage in the bucket; as `Store.gc`, by the server's clock.
-- @tparam table self a remote store
-- @tparam table options
-- @treturn table the report
-- @return[2] nil
-- @treturn[2] table an error
function M.collect(self, options)
  local report = { deleted = {}, temporary_files = {}, failed = {},
    kept = { labelled = 0, in_history = 0, young = 0, in_use = 0 } }
  local list, there, now = list_content(self)
  if not list then return nil, there end
  local labels, faults = objects.labels(self)
  if not labels then return nil, faults end
  local spared, last_old = spared_by(labels), now - math.max(0, options.grace or objects.GRACE)
  local old_copies, ok, err = {}, nil, nil
  if not options.dry_run then old_copies, err = settle_copies(self, now - objects.COPY_SECONDS, there, spared) end
  err = err or refusal(faults)
  if not err then ok, err = delete_all(self, objects.TRASH, old_copies, report) end
  if not ok then return nil, err end
  local candidates = candidates_of(list, spared, last_old, report)
  ok, err = delete_candidates(self, candidates, last_old, labels, report, options)
  if ok then ok, err = delete_probes(self, now - objects.GRACE, report, options.dry_run) end
  if not ok then return nil, err end
  local failed = 0
  for _, object in ipairs(candidates) do
    if report.failed[object.hash] then failed = failed + 1 end
  end
  report.kept.in_use = #candidates - #report.deleted - failed
  return report
end

return M
