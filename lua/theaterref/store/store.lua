--- Content stores: what Theater's `ContentStore` does, and housekeeping.
--
-- Made by `theaterref.content_store`. Every method returns nil and an error
-- when it fails. Several processes and threads may use one store at a time: readers
-- and writers of content take no lock; movers of labels wait for each other, at most
-- `lock_timeout` seconds.
--
-- Large content is mapped (`map = false` reads it instead): processes that
-- use it share its memory. Such a blob outlives the file's deletion and
-- replacement, and nothing here ever writes into a file that has its name. Content
-- that another user can write to, and content younger than 10 seconds, is read: a
-- program that truncates a mapped file makes those who then read the missing part
-- crash (SIGBUS).
-- @classmod theaterref.store
local core = require "theaterref.core"
local errors = require "theaterref.error"
local option_sets = require "theaterref.options"
local sorted_keys = require "theaterref.sorted_keys"

local Store = core.store_methods

local function nothing() end

-- The options that a method was given, checked; its caller is to blame.
local function checked(set, options)
  if options ~= nil then option_sets.check(set, options, 3) end
  return options or {}
end

-- The error for work on the bucket of a local store.
local function not_remote()
  return errors.new("policy", "this store has no bucket; name it with the option 'remote' of the store")
end

local move_label = Store.label

function Store:label(name, hash, options)
  if type(hash) ~= "string" then error("the hash of a label must be a string, not a " .. type(hash), 2) end
  return move_label(self, name, hash, checked(option_sets.label, options))
end

Store.replace_at_label = Store.label

-- True if a hash is in a list.
local function has(list, hash)
  for _, item in ipairs(list) do
    if item == hash then return true end
  end
  return false
end

-- The error for a label that somebody else has moved while it was to be rolled back. Its content now may be a good one
-- already: the caller has to look.
local function moved_meanwhile(self, name, from)
  local now, err = self:get_by_label(name)
  local state = now and "it points at " .. now or err and "reading it failed: " .. err.message or "it was removed"
  return errors.new("cancelled", ("label %s was not rolled back from %s: somebody else changed it meanwhile, and now %s; "
    .. "look at it, and roll it back again if that is still right"):format(name, from, state))
end

--- Moves a label back to the newest hash in its history whose content still exists. A second
-- rollback undoes the first; `to` goes further back. If somebody else moves the label meanwhile,
-- it stays where they put it.
-- @tparam string name
-- @tparam[opt] table options `to`: a hash in the label's history
-- @treturn string the hash it points at now
-- @treturn string the hash that it pointed at before
-- @return[2] nil
-- @treturn[2] table an error, of kind `not_found` if there is no such label, it has no
-- history or not that hash in it, or the content is gone; of kind `cancelled` if somebody else moved it meanwhile
function Store:rollback(name, options)
  local now, former, moved, err
  now, err = self:get_by_label(name)
  if now then former, err = self:history(name) end
  if not now then return nil, err or errors.new("not_found", "Label not found: " .. name) end
  if not former then return nil, err end
  if not former[1] then return nil, errors.new("not_found", "Label " .. name .. " has no history") end
  local to = checked(option_sets.rollback, options).to
  if to then
    if not has(former, to:lower()) then
      return nil, errors.new("not_found", ("%s is not in the history of label %s"):format(to, name))
    end
    former = { to:lower() }
  end
  for _, hash in ipairs(former) do
    moved, err = self:label(name, hash, { expect = now })
    if moved == false then return nil, moved_meanwhile(self, name, now) end
    if moved then return hash, now end
    if err.kind ~= "not_found" then return nil, err end -- else its content is gone
  end
  return nil, err
end

--- Stores many items for the price of one sync. None of them is visible before the
-- end, and then all are.
-- @tparam function work called with a batch, whose `put(bytes)` and
-- `label(name, hash)` are like the store's. The batch commits unless the function raises an
-- error, returns false or nil and an error, or sets an impossible label; then nothing is stored.
-- If the disk fails during the commit, some content may be stored.
-- @return what `work` returns, once all is stored and synced; true if it returns nothing
-- @return[2] nil
-- @treturn[2] table an error: that of `work`, or why the batch could not commit
function Store:batch(work)
  local batch <close>, err = self:begin_batch()
  if not batch then return nil, err end
  local results = table.pack(work(batch))
  if not results[1] and results[2] ~= nil then return nil, table.unpack(results, 2, results.n) end
  if results[1] == false then
    return nil, errors.new("cancelled", "the batch's function returned false, so nothing is stored")
  end
  local ok
  ok, err = batch:commit()
  if not ok then return nil, err end
  if results[1] == nil then return true end
  return table.unpack(results, 1, results.n)
end

-- Checks all content into a report. True, or nil and an error: it was interrupted.
local function verify_content(self, hashes, report, progress)
  for i, hash in ipairs(hashes) do
    local sound, why = self:check(hash)
    if sound then
      report.checked = report.checked + 1
    elseif why.kind == "cancelled" then
      return nil, why
    elseif why.kind == "corrupt" then
      report.corrupt[#report.corrupt + 1] = hash
    elseif why.kind ~= "not_found" then -- which is content deleted meanwhile
      report.unreadable[#report.unreadable + 1] = hash
    end
    progress(i, #hashes)
  end
  return true
end

-- The hash of a label's content that is missing, false if none is, or nil and an error.
-- A label that moves meanwhile is looked at again.
local function missing_content(self, label, hash)
  while hash do
    local there, err = self:exists(hash)
    if there == nil then return nil, err end
    if there then return false end
    local now
    now, err = self:get_by_label(label)
    if err then return nil, err end
    if now == hash then return hash end
    hash = now
  end
  return false
end

-- As Store.verify.
local function verify(self, progress)
  local hashes, err = self:list_all_content()
  if not hashes then return nil, err end
  local report = { checked = 0, corrupt = {}, unreadable = {}, dangling = {} }
  local ok
  ok, err = verify_content(self, hashes, report, progress)
  if not ok then return nil, err end
  local labels, faults = self:label_hashes()
  if not labels then return nil, faults end
  report.faulty_labels = faults
  local missing = {}
  for label, hash in pairs(labels) do
    faults[label] = core.odd_label_fault(label)
    hash, err = missing_content(self, label, hash)
    if hash == nil then return nil, err end
    if hash then
      report.dangling[#report.dangling + 1] = label
      missing[hash] = true
    end
  end
  report.missing = sorted_keys(missing)
  table.sort(report.dangling)
  report.quarantined, err = self:list_quarantined()
  if not report.quarantined then return nil, err end
  report.temporary_files, err = self:list_temporary_files()
  if not report.temporary_files then return nil, err end
  report.unexpected, err = self:list_unexpected()
  if not report.unexpected then return nil, err end
  return report
end

--- Checks everything: content against its name, labels against content. Safe
-- while others work on the store. Corrupt content is moved to quarantine.
-- @tparam[opt] table options `progress`: called with the number of contents checked and the total
-- @treturn table `{ checked = number, corrupt = { hash… }, unreadable = { hash… },
-- missing = { hash… }, dangling = { label… }, faulty_labels = { label = why… },
-- quarantined = { name… }, temporary_files = { name… }, unexpected = { name… } }`: `missing`
-- has the hashes that the `dangling` labels point at; `faulty_labels` are entries that hold no hash, such as a
-- symbolic link (`gc` refuses to run), and labels that look like a hash or begin with `hash/`, which
-- Theater can make; `export` fails while there are any; `unexpected` are files in the folder of content
-- that are not content
function Store:verify(options)
  options = checked(option_sets.verify, options)
  if options.remote then return nil, not_remote() end
  local progress = options.progress or nothing
  local held <close>, err = self:hold()
  if not held then return nil, err end
  return verify(held, progress)
end

-- Seconds that gc locks the store for at a time, so that nobody waits long for it.
local SLICE = 0.1

-- Calls a function for each name, under the store's lock, and lets others have the lock
-- again and again; a dry run does without if somebody else has it. True; or nil, an error
-- and how many names are done.
local function each_locked(self, names, dry_run, progress, work)
  local i = 1
  while i <= #names do
    do
      local lock <close>, err = self:lock(dry_run and 0 or nil)
      if not lock and not dry_run then return nil, err, i - 1 end
      local till = core.now() + SLICE
      repeat
        work(names[i])
        i = i + 1
      until i > #names or core.now() > till
    end
    progress(i - 1, #names)
  end
  return true
end

-- Takes what no collection may delete out of 'times', and counts it.
local function keep_labelled(times, hashes, kept)
  for _, hash in pairs(hashes) do
    if times[hash] then kept = kept + 1 end
    times[hash] = nil
  end
  return kept
end

-- Waits until everybody who has the store's lock now has released it.
local function let_movers_finish(self, dry_run)
  local lock <close>, err = self:lock(dry_run and 0 or nil)
  if lock or dry_run then return true end
  return nil, err
end

-- Content that is old enough to be collected and has no label: hashes, and the time of
-- each. Labels that move meanwhile are safe. Moving one, under the lock, first changes the
-- time of its content, and content whose time has changed is not collected. A mover who
-- did that before the times were read has placed the label before the labels are.
local function unlabelled_content(self, grace, dry_run, kept, spared)
  local times, err = self:content_times()
  if not times then return nil, err end
  local now
  now, err = self:clock()
  if not now and dry_run then now = os.time() * 10 ^ 9 end -- nothing may be written there
  if not now then return nil, err end
  -- Wait until a touch gives a time that content does not have yet.
  if grace < 3 and not dry_run then now = self:clock(now) or now end
  local ok
  ok, err = let_movers_finish(self, dry_run)
  if not ok then return nil, err end
  local labels, faults = self:label_hashes()
  if not labels then return nil, faults end
  local label, why = next(faults)
  if label then
    return nil, errors.new("corrupt", ("no garbage is collected while there is a label that holds no hash: %s: %s")
      :format(label, why))
  end
  kept.labelled = keep_labelled(times, labels, 0)
  for hash in pairs(spared or {}) do kept.labelled = keep_labelled(times, { hash }, kept.labelled) end
  local former
  if not dry_run then ok, err = self:tidy_history() end
  if ok then former, err = self:former_hashes() end -- after the labels, which may move meanwhile
  if not former then return nil, err end
  kept.in_history = keep_labelled(times, former, 0)
  for hash, time in pairs(times) do
    if grace > 0 and time > now - grace * 10 ^ 9 then
      kept.young = kept.young + 1
      times[hash] = nil
    end
  end
  return sorted_keys(times), times
end

-- As Store.gc.
local function collect(self, options, spared)
  local grace, progress = options.grace or 3600, options.progress or nothing
  local report = { deleted = {}, temporary_files = {}, failed = {},
    kept = { labelled = 0, in_history = 0, young = 0, in_use = 0 } }
  local hashes, times = unlabelled_content(self, grace, options.dry_run, report.kept, spared)
  if not hashes and times.kind == "not_found" then return report end -- there is no store
  if not hashes then return nil, times end
  local temporary_files, err = self:list_temporary_files()
  if not temporary_files then return nil, err end
  local function keep(list, name, deleted, why)
    if why then report.failed[name] = why.message elseif deleted then list[#list + 1] = name end
  end
  local ok, done
  ok, err, done = each_locked(self, hashes, options.dry_run, progress, function(hash)
    local deleted, why = self:discard_unchanged(hash, times[hash], options.dry_run)
    keep(report.deleted, hash, deleted, why)
    if deleted == false then report.kept.in_use = report.kept.in_use + 1 end
  end)
  if not ok and done == 0 then return nil, err end
  for i = ok and #hashes + 1 or done + 1, #hashes do report.failed[hashes[i]] = err.message end
  for _, name in ipairs(temporary_files) do
    keep(report.temporary_files, name, self:discard_temporary_file(name, grace, options.dry_run))
  end
  return report
end

--- Deletes content that no label points at or pointed at before, unless it was put, labelled or
-- unlabelled within `grace`, and temporary files of crashed writers. Quarantined content stays.
-- Others can move labels meanwhile. If anything among the labels holds no hash, nothing
-- is deleted: `verify` lists those.
-- @tparam[opt] table options see the topic "options"
-- @treturn table `{ deleted = { hash… }, temporary_files = { name… }, failed = { name =
-- why… }, kept = { labelled =, in_history =, young =, in_use = } }`; `failed` is what
-- could not be deleted; `kept` counts contents that a label points at (`labelled`) or pointed at
-- (`in_history`), that are younger than `grace` (`young`), or that somebody is using (`in_use`)
function Store:gc(options)
  options = checked(option_sets.gc, options)
  if options.remote then return nil, not_remote() end
  return self:collect(options)
end

-- The same, but also keeps content whose hash is in 'spared', for remote stores.
function Store:collect(options, spared)
  local held <close>, err = self:hold()
  if not held then return nil, err end
  return collect(held, options, spared)
end

--- The bytes that each label holds.
-- @treturn table `{ bytes = of all content, unlabelled = bytes that no label
-- names, labels = { { label =, hash =, bytes = or nil }… } }`
function Store:usage()
  local held <close>, err = self:hold()
  if not held then return nil, err end
  local sizes
  sizes, err = held:content_sizes()
  if not sizes then return nil, err end
  local labels, why = held:label_hashes()
  if not labels then return nil, why end
  local usage = { bytes = 0, unlabelled = 0, labels = {} }
  local named = {}
  for label, hash in pairs(labels) do
    usage.labels[#usage.labels + 1] = { label = label, hash = hash, bytes = sizes[hash] }
    named[hash] = true
  end
  table.sort(usage.labels, function(a, b) return a.label < b.label end)
  for hash, bytes in pairs(sizes) do
    usage.bytes = usage.bytes + bytes
    if not named[hash] then usage.unlabelled = usage.unlabelled + bytes end
  end
  return usage
end

--- Writes all content and labels to a tar file; see `theaterref.store.archive`.
-- @tparam string|file path
-- @tparam[opt] table options `progress` and `force`
function Store:export(path, options)
  return require("theaterref.store.archive").export(self, path, checked(option_sets.export, options))
end

--- Adds what a tar file holds; see `theaterref.store.archive`.
-- @tparam string|file path
-- @tparam[opt] table options `progress` and `keep_labels`
function Store:import(path, options)
  return require("theaterref.store.archive").import(self, path, checked(option_sets.import, options))
end

return Store
