--- Remote stores as a whole: listings and checks.
-- @module theaterref.store.remote_upkeep
local core = require "theaterref.core"
local collecting = require "theaterref.store.remote_gc"
local objects = require "theaterref.store.remote_objects"
local option_sets = require "theaterref.options"
local sorted_keys = require "theaterref.sorted_keys"

local M = {}

local function nothing() end

-- ----------------------------------------------------------------- listings

-- Visits all content in the bucket with its object. Other keys go into 'unexpected'.
local function each_content(self, visit, unexpected)
  return objects.each(self, "data/", function(key, object)
    if objects.is_content_name(key) then visit(key, object) elseif unexpected then unexpected[#unexpected + 1] = key end
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
  return sorted_keys(sizes)
end

--- How many bytes all content in the bucket has.
function M.calculate_total_size(self)
  local sizes, err = M.content_sizes(self)
  if not sizes then return nil, err end
  local total = 0
  for _, bytes in pairs(sizes) do total = total + bytes end
  return total
end

--- All labels in the bucket, sorted.
function M.list_labels(self)
  local etags, err = objects.label_objects(self)
  if not etags then return nil, err end
  return sorted_keys(etags)
end

--- The hash of each label in the bucket, and why some labels have none.
function M.label_hashes(self)
  local found, faults = objects.labels(self)
  if not found then return nil, faults end
  local hashes = {}
  for name, label in pairs(found) do hashes[name] = label.hash end
  return hashes, faults
end

--- True if there is such a label.
function M.label_exists(self, name)
  local hash, err = self:get_by_label(name)
  if err then return nil, err end
  return hash ~= nil
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
    if blob and objects.is_content(blob, hash) then
      report.checked = report.checked + 1
    else
      objects.doubt(view, hash)
      if not blob and objects.is_outage(why) then return nil, objects.told(why) end
      local list = blob and report.corrupt or not objects.is_absent(why) and report.unreadable
      if list then list[#list + 1] = hash end
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
    local is_there, why, has_copy = true
    if not there[hash] then is_there, why, has_copy = objects.find(self, hash) end -- put meanwhile, or deleted by a gc
    if is_there == nil and not has_copy then return nil, why end
    if not is_there then
      report.dangling[#report.dangling + 1] = name
      missing[hash] = true
    end
  end
  report.faulty_labels, report.missing = faults, sorted_keys(missing)
  for _, name in ipairs { "corrupt", "unreadable", "dangling", "unexpected" } do table.sort(report[name]) end
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

-- Deletes local content that no label of the bucket names or named before.
local function collect_local(self, options)
  local labels, err = collecting.labels(self)
  if not labels then return nil, err end
  return self.front:collect(labels, options)
end

--- Collects garbage: in the local folder, what no label of the bucket names or named before; with `remote`, in the bucket.
-- There, the grace period is a day by default. Nothing younger is deleted, by the server's clock.
function M.gc(self, options)
  if options ~= nil then option_sets.check(option_sets.gc, options, 2) end
  options = options or {}
  return (options.remote and collecting.collect or collect_local)(self, options)
end

return M
