--- `theaterref cache …`: the disk cache.
-- @module theaterref.cli.cache
local output = require "theaterref.cli.output"
local settings = require "theaterref.cli.settings"
local home = require "theaterref.home"
local references = require "theaterref.reference"
local disk_caches = require "theaterref.store.disk_cache"

local function open(args)
  local theater_home, err = settings.home(args)
  if err then return nil, err end
  local folder
  folder, err = home.find_store(args.id, theater_home)
  if folder then folder, err = home.store_folder(args.id, theater_home) end
  if not folder then return nil, err end
  return disk_caches.open(folder, 0)
end

-- A command on the disk cache that its first argument names.
local function on_disk_cache(run)
  return function(args)
    local disk, err = open(args)
    if not disk then return nil, err end
    return run(disk, args)
  end
end

local function age(seconds)
  for _, unit in ipairs { { 86400, "d" }, { 3600, "h" }, { 60, "min" } } do
    if seconds >= unit[1] then return seconds // unit[1] .. " " .. unit[2] end
  end
  return seconds .. " s"
end

-- Lists entries, the last used first.
local function ls(disk)
  local list, err = disk:list()
  if not list then return nil, err end
  table.sort(list, function(a, b)
    if a.used ~= b.used then return a.used > b.used end
    return a.reference < b.reference
  end)
  return output.array(list)
end

local function show_list(list)
  local lines, bytes = {}, 0
  for _, entry in ipairs(list) do
    bytes = bytes + entry.bytes
    lines[#lines + 1] = ("%12d bytes  %12s  %s"):format(entry.bytes,
      entry.stored > 0 and age(os.time() - entry.stored) .. " old" or "stale", output.plain(entry.reference))
  end
  lines[#lines + 1] = ("%12d bytes  in %d entries"):format(bytes, #list)
  return table.concat(lines, "\n")
end

local function rm(disk, args)
  local removed = disk:remove(args.reference)
  local source, parsed = references.source_of(args.reference)
  for _, key in ipairs(source and source.other_keys and source.other_keys(parsed) or {}) do
    removed = disk:remove(key) or removed
  end
  if not removed then
    local list, err = disk:list()
    return nil, list and "not in this cache: " .. references.redact(args.reference) or err
  end
  return { removed = references.redact(args.reference) }
end

local function clear(disk)
  local count, err = disk:clear()
  if not count then return nil, err end
  return { removed = count }
end

local id = { "id", "Id of the store whose folder holds the disk cache: cache, unless the configuration names another." }

return {
  { name = "cache", does = "List or remove the entries of a disk cache.", commands = {
    { name = "ls", does = "List the entries.", home = true,
      examples = { "theaterref cache ls packages-cache" },
      arguments = { id }, run = on_disk_cache(ls), show = show_list },
    { name = "rm", does = "Remove one reference.", home = true,
      examples = { "theaterref cache rm packages-cache https://packages.example.org/worker.wasm" },
      arguments = { id, { "reference", "The reference, as it was fetched." } }, run = on_disk_cache(rm) },
    { name = "clear", does = "Remove all entries.", home = true,
      examples = { "theaterref cache clear packages-cache" },
      arguments = { id }, run = on_disk_cache(clear) },
  } },
}
