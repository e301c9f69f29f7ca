--- Remote stores as a whole: listings, checks and garbage collection.
-- @module theaterref.store.remote_upkeep
local core = require "theaterref.core"
local errors = require "theaterref.error"
local objects = require "theaterref.store.remote_objects"
local option_sets = require "theaterref.options"

local M = {}

local BATCH = 500 -- deletions between two looks at the labels
local CLOCK = "theaterref/clock"

local function nothing() end

local function is_content_name(name)
  return name:find "^[0-9a-f]+$" and (#name == 40 or #name == 64)
end

local function sorted(list)
  table.sort(list)
  return list
end

local function keys(map)
  local list = {}
  for key in pairs(map) do list[#list + 1] = key end
  return sorted(list)
end

-- ----------------------------------------------------------------- listings

-- Visits all content in the bucket with its object. Other keys go into 'unexpected'.
local function each_content(self, visit, unexpected)
  return objects.each(self, "data/", function(key, object)
    if is_content_name(key) then visit(key, object) elseif unexpected then unexpected[#unexpected + 1] = key end
  end)
end

--- The bytes of all content in the bucket, by hash.
function M.content_sizes(self)
  local sizes = {}
  local ok, err = each_content(self, function(hash, object) sizes[hash] = object.size or 0 end)
  if not ok then return nil, err end
  return sizes
end

--- The hashes of all content in the bucket, sorted.
function M.list_all_content(self)
  local sizes, err = M.content_sizes(self)
  if not sizes then return nil, err end
  return keys(sizes)
end

--- How many bytes all content in the bucket has.
function M.calculate_total_size(self)
  local sizes, err = M.content_sizes(self)
  if not sizes then return nil, err end
  local total = 0
  for _, bytes in pairs(sizes) do total = total + bytes end
  return total
end

-- The ETag and the time of each label's object, by name; and why other objects are not labels.
local function label_objects(self)
  local etags, faults = {}, {}
  local ok, err = objects.each(self, "labels/", function(name, object)
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

--- All labels in the bucket, sorted.
function M.list_labels(self)
  local etags, err = label_objects(self)
  if not etags then return nil, err end
  return keys(etags)
end

-- Reads the labels that are new or have changed since 'before', by name, as 'objects.label' returns them. Also returns the
-- faults, by name.
local function read_labels(self, before)
  local etags, faults = label_objects(self)
  if not etags then return nil, faults end
  local found, changed = {}, {}
  for name, etag in pairs(etags) do
    local known = before and before[name]
    if known and known.listed == etag then found[name] = known else changed[#changed + 1] = name end
  end
  local ok, err = objects.for_each(self, changed, function(view, name)
    local label, why = objects.label(view, name)
    if label == nil and why.kind ~= "corrupt" then return nil, why end
    if label == nil then faults[name] = why.message end
    if label then
      label.listed = etags[name]
      found[name] = label
    end
    return true
  end)
  if not ok then return nil, err end
  return found, faults
end

--- The hash of each label in the bucket, and why some labels have none.
function M.label_hashes(self)
  local found, faults = read_labels(self)
  if not found then return nil, faults end
  local hashes = {}
  for name, label in pairs(found) do hashes[name] = label.hash end
  return hashes, faults
end

M.usage = core.store_methods.usage

-- ------------------------------------------------------------------- checks

-- Checks all content of the bucket into a report.
local function verify_content(self, report, progress)
  local hashes = {}
  local ok, err = each_content(self, function(hash) hashes[#hashes + 1] = hash end, report.unexpected)
  if not ok then return nil, err end
  local done = 0
  local function check(view, hash)
    local client, why = view:client()
    local blob
    if client then blob, why = client:get(view.prefix .. "data/" .. hash, {}) end
    if not blob and why.kind ~= "not_found" then
      if core.is_outage(why) then return nil, why end
      report.unreadable[#report.unreadable + 1] = hash
    elseif blob and blob:digest(#hash == 64 and "sha256" or "sha1") == hash then
      report.checked = report.checked + 1
    elseif blob then
      report.corrupt[#report.corrupt + 1] = hash
    end
    done = done + 1
    progress(done, #hashes)
    return true
  end
  ok, err = objects.for_each(self, hashes, check, 4)
  if not ok then return nil, err end
  return hashes
end

-- As Store.verify, of the bucket.
local function verify_remote(self, progress)
  local report = { checked = 0, corrupt = {}, unreadable = {}, missing = {}, dangling = {}, quarantined = {},
    temporary_files = {}, unexpected = {} }
  local hashes, err = verify_content(self, report, progress)
  if not hashes then return nil, err end
  local labels, faults = M.label_hashes(self)
  if not labels then return nil, faults end
  local there, missing = {}, {}
  for _, hash in ipairs(hashes) do there[hash] = true end
  for name, hash in pairs(labels) do
    local head, why = true, nil
    if not there[hash] then head, why = objects.head(self, "data/" .. hash) end -- put meanwhile
    if not head and why.kind ~= "not_found" then return nil, why end
    if not head then
      report.dangling[#report.dangling + 1] = name
      missing[hash] = true
    end
  end
  report.faulty_labels, report.missing = faults, keys(missing)
  for _, name in ipairs { "corrupt", "unreadable", "dangling", "unexpected" } do sorted(report[name]) end
  return report
end

--- Checks the local folder; with `remote`, downloads and checks everything in the bucket, and changes nothing there.
function M.verify(self, options)
  if options ~= nil then option_sets.check(option_sets.verify, options, 2) end
  options = options or {}
  if options.remote then return verify_remote(self, options.progress or nothing) end
  return self.front.store:verify { progress = options.progress }
end

-- ------------------------------------------------------- garbage collection

-- The bucket's own time: this machine's clock may be wrong.
local function clock(self)
  local client, err = self:client()
  local head
  if client then head, err = client:put(self.prefix .. CLOCK, core.blob "", {}) end
  if head then head, err = client:head(self.prefix .. CLOCK) end
  if not head then return nil, err end
  if head.modified then return head.modified end
  return nil, errors.new("syntax", ("the server of %s sent an object without Last-Modified"):format(self.name))
end

-- The content that no collection may delete, because labels name it or named it before.
local function protected(labels)
  local labelled, former = {}, {}
  for _, label in pairs(labels) do
    labelled[label.hash] = true
    for _, hash in ipairs(label.history) do former[hash] = true end
  end
  return labelled, former
end

-- Reads the labels for a collection, which does nothing while one cannot be read.
local function labels_for_gc(self, before)
  local labels, faults = read_labels(self, before)
  if not labels then return nil, faults end
  local name, why = next(faults)
  if not name then return labels end
  return nil, errors.new("corrupt", ("no garbage is collected while there is a label that holds no hash: %s: %s")
    :format(name, why))
end

local TRASH = "theaterref/trash/"

-- Keeps copies of content that is about to be deleted. Returns the hashes that have one.
local function keep_copies(self, doomed, report)
  local kept = {}
  for _, item in ipairs(doomed) do
    local hash, object = item[1], item[2]
    local ok, err = self:client():refresh(self.prefix .. "data/" .. hash, { etag = object.etag, size = object.size },
      self.prefix .. TRASH .. hash)
    if ok then kept[#kept + 1] = hash else report.failed[hash] = err.message end
  end
  return kept
end

-- Deletes objects below a prefix by their names. Returns those that are deleted.
local function delete_all(self, prefix, names, report)
  local full, failed, deleted = {}, {}, {}
  for i, name in ipairs(names) do full[i] = self.prefix .. prefix .. name end
  local failures, err = {}, nil
  if #full > 0 then failures, err = self:client():delete_many(full) end
  if not failures then return nil, err end
  for _, failure in ipairs(failures) do
    local name = failure.key:match "[^/]*$"
    failed[name], report.failed[name] = true, failure.err.message
  end
  for _, name in ipairs(names) do
    if not failed[name] then deleted[#deleted + 1] = name end
  end
  return deleted
end

-- Puts copies back where a label names them, and deletes the others. Returns those that were not put back.
local function settle_copies(self, hashes, labels, report)
  local labelled, former = protected(labels)
  local free = {}
  for _, hash in ipairs(hashes) do
    if labelled[hash] or former[hash] then
      local trash = self.prefix .. TRASH .. hash
      local head, err = self:client():head(trash)
      if head then head, err = self:client():refresh(trash, head, self.prefix .. "data/" .. hash) end
      if head then head, err = self:client():delete(trash) end
      if not head then return nil, err end
    else
      free[#free + 1] = hash
    end
  end
  return delete_all(self, TRASH, free, report)
end

-- Deals with the copies that a killed collection left: restores those that a label names, and deletes old ones.
local function settle_old_copies(self, last_old, labels, report)
  local hashes, labelled, former = {}, protected(labels)
  local ok, err = objects.each(self, TRASH, function(hash, object)
    local is_due = labelled[hash] or former[hash] or (object.modified or math.huge) <= last_old
    if is_due and (#hash == 40 or #hash == 64) then hashes[#hashes + 1] = hash end
  end)
  if not ok then return nil, err end
  return settle_copies(self, hashes, labels, report)
end

-- Deletes those of a batch of hashes, in order, that are still old and have no label now. A label that comes
-- meanwhile gets its content back: its writer saw it before it was deleted.
local function delete_batch(self, batch, last_old, labels, report, dry_run)
  local before, err
  labels, err = labels_for_gc(self, labels)
  if not labels then return nil, err end
  local labelled, former = protected(labels)
  local wanted, doomed = {}, {}
  for _, hash in ipairs(batch) do wanted[hash] = true end
  local last = batch[#batch]
  before, err = objects.each(self, "data/", function(hash, object)
    if hash > last then return false end
    if wanted[hash] and not labelled[hash] and not former[hash] and (object.modified or math.huge) <= last_old then
      doomed[#doomed + 1] = { hash, object }
    end
  end, { after = batch[1]:sub(1, -2), max = 1000 })
  if not before then return nil, err end
  if dry_run then
    for _, item in ipairs(doomed) do report.deleted[#report.deleted + 1] = item[1] end
    return labels
  end
  local kept = keep_copies(self, doomed, report)
  local deleted
  deleted, err = delete_all(self, "data/", kept, report)
  if deleted then labels, err = labels_for_gc(self, labels) end
  if not deleted or not labels then return nil, err end
  deleted, err = settle_copies(self, kept, labels, report)
  if not deleted then return nil, err end
  for _, hash in ipairs(deleted) do
    if not report.failed[hash] then report.deleted[#report.deleted + 1] = hash end
  end
  return labels
end

-- Deletes the objects of killed probes.
local function delete_probes(self, last_old, report, dry_run)
  return objects.each(self, "theaterref/", function(name, object)
    local is_probe = name:find "^%x+%-%x+%-%x+%-%x+%-%x+$" and #name == 36 -- others' objects stay
    if not is_probe or (object.modified or math.huge) > last_old then return end
    local ok, err = dry_run or self:client():delete(self.prefix .. "theaterref/" .. name, {}), nil
    if ok then report.temporary_files[#report.temporary_files + 1] = name else report.failed[name] = err.message end
  end)
end

-- As Store.gc, of the bucket.
local function collect_remote(self, options)
  local grace, progress = options.grace or objects.GRACE, options.progress or nothing
  local report = { deleted = {}, temporary_files = {}, failed = {},
    kept = { labelled = 0, in_history = 0, young = 0, in_use = 0 } }
  local now, err = clock(self)
  if not now and options.dry_run and err.kind == "denied" then now = os.time() end
  if not now then return nil, err end
  local candidates, last_old = {}, now - math.max(0, grace)
  local ok
  local all = {}
  ok, err = each_content(self, function(hash, object) all[#all + 1] = { hash, object.modified or math.huge } end)
  if not ok then return nil, err end
  local labels, why = labels_for_gc(self)
  if not labels then return nil, why end
  if not options.dry_run then
    ok, err = settle_old_copies(self, last_old, labels, report)
    if not ok then return nil, err end
  end
  local labelled, former = protected(labels)
  for _, item in ipairs(all) do
    local hash, kept = item[1], report.kept
    local because = labelled[hash] and "labelled" or former[hash] and "in_history" or item[2] > last_old and "young"
    if because then kept[because] = kept[because] + 1 else candidates[#candidates + 1] = hash end
  end
  for i = 1, #candidates, BATCH do
    local batch = table.move(candidates, i, math.min(i + BATCH - 1, #candidates), 1, {})
    labels, err = delete_batch(self, batch, last_old, labels, report, options.dry_run)
    if not labels then return nil, err end
    progress(math.min(i + BATCH - 1, #candidates), #candidates)
  end
  report.kept.in_use = #candidates - #report.deleted - #keys(report.failed)
  ok, err = delete_probes(self, last_old, report, options.dry_run)
  if not ok then return nil, err end
  return report
end

-- Deletes local content that no label of the bucket names or named before.
local function collect_local(self, options)
  local labels, err = labels_for_gc(self)
  if not labels then return nil, err end
  return self.front:collect(labels, options)
end

--- Collects garbage: deletes content that no label of the bucket names or named before, from the local folder, or with `remote`
-- from the bucket. There, the grace period is a day by default, by the bucket's own clock.
function M.gc(self, options)
  if options ~= nil then option_sets.check(option_sets.gc, options, 2) end
  options = options or {}
  return (options.remote and collect_remote or collect_local)(self, options)
end

return M
