--- Content stores: what Theater's `ContentStore` does, and housekeeping.
--
-- Made by `theaterref.content_store`. Every method returns nil and an error
-- when it fails. Several processes and threads may use one store at a time:
-- readers take no lock; who moves labels or collects garbage waits for others
-- that do.
--
-- Large content is mapped (`map = false` reads it instead): processes that
-- use it share its memory. Such a blob outlives the file's deletion and
-- replacement, and nothing here ever writes into a file that has its name. As
-- with every mapped file, a program that truncates the file makes those who
-- then read the missing part crash (SIGBUS).
-- @classmod theaterref.store
local core = require "theaterref.core"

local Store = core.store_methods

local function nothing() end

--- Stores many items for the price of one sync. None of them is visible before the
-- end, and then all are.
-- @tparam function work called with a batch, whose `put(bytes)` and
-- `label(name, hash)` are like the store's. If it raises, or returns nil and an error, nothing is stored.
-- @return what `work` returns, once all is stored and synced
function Store:batch(work)
  local batch <close>, err = self:begin_batch()
  if not batch then return nil, err end
  local results = table.pack(work(batch))
  if results[1] == nil and results[2] ~= nil then return table.unpack(results, 1, results.n) end
  local ok
  ok, err = batch:commit()
  if not ok then return nil, err end
  return table.unpack(results, 1, results.n)
end

-- The hash that each label names, and the labels that hold none; or nil and an
-- error: no garbage is collected on a guess.
local function read_labels(self)
  local labels, err = self:list_labels()
  if not labels then return nil, err end
  local hashes, unreadable = {}, {}
  for _, label in ipairs(labels) do
    local hash, why = self:get_by_label(label)
    if why and why.kind ~= "corrupt" then return nil, why end
    if why then unreadable[#unreadable + 1] = label end
    hashes[label] = hash
  end
  return hashes, unreadable
end

--- Checks everything: content against its name, labels against content. Safe
-- while others work on the store. Corrupt content is moved to quarantine.
-- @tparam[opt] table options `progress`: called with how many of how many
-- contents were checked
-- @treturn table `{ checked = number, corrupt = { hash… }, missing = { hash… },
-- dangling = { label… }, quarantined = { name… }, temporary_files = { name… } }`:
-- `missing` is what the `dangling` labels name
function Store:verify(options)
  local progress = options and options.progress or nothing
  local hashes, err = self:list_all_content()
  if not hashes then return nil, err end
  local report = { checked = 0, corrupt = {}, missing = {} }
  for i, hash in ipairs(hashes) do
    local sound, why = self:check(hash)
    if sound then
      report.checked = report.checked + 1
    elseif why.kind ~= "not_found" then -- deleted meanwhile is not corrupt
      report.corrupt[#report.corrupt + 1] = hash
    end
    progress(i, #hashes)
  end
  local labels, unreadable = read_labels(self)
  if not labels then return nil, unreadable end
  local missing = {}
  report.dangling = unreadable
  for label, hash in pairs(labels) do
    if not self:exists(hash) then
      report.dangling[#report.dangling + 1] = label
      missing[hash] = true
    end
  end
  for hash in pairs(missing) do report.missing[#report.missing + 1] = hash end
  table.sort(report.dangling)
  table.sort(report.missing)
  report.quarantined, err = self:list_quarantined()
  if not report.quarantined then return nil, err end
  report.temporary_files, err = self:list_temporary_files()
  if not report.temporary_files then return nil, err end
  return report
end

--- Deletes content that no label names and that nobody put or labelled
-- lately, and what crashed writers left behind. Quarantined content stays.
-- Movers of labels, in all processes, wait until it is done.
-- @tparam[opt] table options `grace`: seconds since content was last put or
-- labelled (default 3600; shorter than a put and its label take, it deletes
-- what is about to be labelled); `dry_run`: only report; `progress`: called
-- with how many of how many contents were looked at
-- @treturn table `{ deleted = { hash… }, temporary_files = { name… } }`
function Store:gc(options)
  options = options or {}
  local grace, progress = options.grace or 3600, options.progress or nothing
  local hashes, err = self:list_all_content()
  if not hashes then return nil, err end
  local lock <close>, why = self:lock()
  if not lock and why.kind ~= "not_found" then return nil, why end
  local labels, unreadable = read_labels(self)
  if not labels then return nil, unreadable end
  local kept = {}
  for _, hash in pairs(labels) do kept[hash] = true end
  local function sweep(names, discard)
    local gone = {}
    for i, name in ipairs(names) do
      local deleted, failure
      if not kept[name] then deleted, failure = discard(self, name, grace, options.dry_run) end
      if failure then return nil, failure end
      if deleted then gone[#gone + 1] = name end
      progress(i, #names)
    end
    return gone
  end
  local report = {}
  report.deleted, err = sweep(hashes, self.discard)
  if err then return nil, err end
  report.temporary_files, err = sweep(self:list_temporary_files() or {}, self.discard_temporary_file)
  if err then return nil, err end
  return report
end

--- The bytes that each label holds.
-- @treturn table `{ bytes = of all content, unlabelled = bytes that no label
-- names, labels = { { label =, hash =, bytes = or nil }… } }`
function Store:usage()
  local sizes, err = self:content_sizes()
  if not sizes then return nil, err end
  local labels, unreadable = read_labels(self)
  if not labels then return nil, unreadable end
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
-- @tparam[opt] table options `progress`
function Store:export(path, options) return require("theaterref.store.archive").export(self, path, options) end

--- Adds what a tar file holds; see `theaterref.store.archive`.
-- @tparam string|file path
-- @tparam[opt] table options `progress`
function Store:import(path, options) return require("theaterref.store.archive").import(self, path, options) end

return Store
