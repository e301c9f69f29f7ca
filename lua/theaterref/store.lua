--- Content stores: what Theater's `ContentStore` does, and housekeeping.
--
-- Made by `theaterref.content_store`. Every method returns nil and an error
-- when it fails; several processes and threads may use one store at a time.
-- @classmod theaterref.store
local core = require "theaterref.core"

local methods = core.store_methods

--- Checks everything: content against its name, labels against content.
-- @treturn table `{ checked = number, corrupt = { hash… }, dangling =
-- { label… }, leftovers = { name… } }`
function methods:verify()
  local hashes, err = self:list_all_content()
  if not hashes then return nil, err end
  local report = { checked = 0, corrupt = {}, dangling = {} }
  for _, hash in ipairs(hashes) do
    local sound, why = self:check(hash)
    if sound then
      report.checked = report.checked + 1
    elseif why.kind ~= "not_found" then -- deleted meanwhile is not corrupt
      report.corrupt[#report.corrupt + 1] = hash
    end
  end
  local labels
  labels, err = self:list_labels()
  if not labels then return nil, err end
  for _, label in ipairs(labels) do
    local hash, why = self:get_by_label(label)
    if why or hash and not self:exists(hash) then
      report.dangling[#report.dangling + 1] = label
    end
  end
  report.leftovers, err = self:list_leftovers()
  if not report.leftovers then return nil, err end
  return report
end

--- Deletes content that no label names and that nobody put or labelled
-- lately, and what crashed writers left behind.
-- @tparam[opt] table options `grace`: seconds since content was last put or
-- labelled (default 3600); `dry_run`: only report
-- @treturn table `{ deleted = { hash… }, leftovers = { name… } }`
function methods:gc(options)
  local grace, dry_run = options and options.grace or 3600, options and options.dry_run
  local labels, err = self:list_labels()
  if not labels then return nil, err end
  local kept = {}
  for _, label in ipairs(labels) do
    local hash = self:get_by_label(label)
    if hash then kept[hash] = true end
  end
  local function sweep(names, discard)
    local gone = {}
    for _, name in ipairs(names) do
      local deleted, why
      if not kept[name] then deleted, why = discard(self, name, grace, dry_run) end
      if why then return nil, why end
      if deleted then gone[#gone + 1] = name end
    end
    return gone
  end
  local hashes
  hashes, err = self:list_all_content()
  if not hashes then return nil, err end
  local report = {}
  report.deleted, err = sweep(hashes, self.discard)
  if err then return nil, err end
  report.leftovers, err = sweep(self:list_leftovers() or {}, self.discard_leftover)
  if err then return nil, err end
  return report
end

return methods
