--- A whole store as a tar file: `data/<hash>` and `labels/<label>`, as in its
-- folder. The same store gives the same bytes.
-- @module theaterref.store.archive
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

local BLOCK = 512
-- As much is imported with one sync.
local BATCH_BYTES, BATCH_ITEMS = 64 << 20, 10000
-- How many bytes of a blob become a string at a time.
local PIECE = 1 << 20
-- The largest size for the eleven octal digits of a header.
local MAX_OCTAL = (1 << 33) - 1

local function padding(size) return ("\0"):rep(-size % BLOCK) end

-- ------------------------------------------------------------------ writing

local function header(name, size, kind)
  local before = ("%s%s%s%s%s%s"):format(name .. ("\0"):rep(100 - #name), "0000644\0", "0000000\0", "0000000\0",
    ("%011o\0"):format(size), "00000000000\0")
  local after = kind .. ("\0"):rep(100) .. "ustar\00000" .. ("\0"):rep(247)
  local sum = 8 * 32 -- the checksum counts its own field as spaces
  for _, part in ipairs { before, after } do
    for i = 1, #part do sum = sum + part:byte(i) end
  end
  return before .. ("%06o\0 "):format(sum) .. after
end

-- A record of a pax header begins with its own length.
local function pax_record(key, value)
  local rest = (" %s=%s\n"):format(key, value)
  local length = #rest + #tostring(#rest)
  if #rest + #tostring(length) > length then length = length + 1 end
  return length .. rest
end

local function pax_header(name, kind, records) return header(name, #records, kind) .. records .. padding(#records) end

local KIND = "a store of theaterref"

-- The name of a store: its folder's.
local function name_of(store)
  local name = store.folder and store:folder():match "([^/]+)/*$"
  return name and not name:find "%c" and name or nil
end

-- Every export begins with this. 'tar' ignores a comment without a warning.
local function beginning(name)
  return pax_header("pax", "g", pax_record("comment", KIND .. (name and ": " .. name or "")))
end

-- The name of the store that a file is an export of; empty: it does not say; nil: it is no export.
local function exported_name(file)
  local start = file:read(2 * BLOCK) or ""
  local name = start:sub(BLOCK + 1):match("^%d+ comment=" .. KIND .. "([^\n]*)\n")
  name = name and name:gsub("^: ", "")
  return name and start == beginning(name ~= "" and name or nil) and name or nil
end

-- Returns why a file must not be replaced, if it has something else in it than an export of
-- the store or, with 'force', of any.
local function other_file(store, path, force)
  local _, err = core.read_file(path, 0, true)
  if err and err.kind == "io" and err.errno then return "it cannot be read, to see what it is: " .. err.message end
  if not err or err.kind ~= "too_large" then return nil end -- there is none, or it is empty or no regular file
  local file <close>, why = io.open(path, "rb")
  if not file then return why end
  local name, own = exported_name(file), name_of(store)
  if not name then return "that file exists and is not a store export; remove it first, or give another path" end
  if force or name == "" or name == own then return nil end
  return ("that file is an export of the store '%s'; give another path, or replace it with 'force' (--force)"):format(name)
end

-- The header of a file.
local function file_header(name, size)
  local records = ""
  if #name > 100 then records = pax_record("path", name) end
  if size > MAX_OCTAL then records = records .. pax_record("size", size) end
  local before = records ~= "" and pax_header("pax", "x", records) or ""
  return before .. header(name:sub(1, 100), math.min(size, MAX_OCTAL), "0")
end

-- Writes a file's entry, whose bytes are a string or a blob.
local function write_entry(file, name, bytes)
  local ok, why = file:write(file_header(name, #bytes))
  for from = 1, #bytes, PIECE do
    if not ok then return nil, why end
    ok, why = file:write(bytes:sub(from, from + PIECE - 1))
  end
  if not ok then return nil, why end
  return file:write(padding(#bytes))
end

-- Writes content unless it has gone meanwhile. True if it is written.
local function write_content(store, file, hash)
  local blob, err = store:get(hash)
  if not blob and err.kind == "not_found" then return false end
  if not blob then return nil, err end
  local ok, why = write_entry(file, "data/" .. hash, blob)
  if not ok then return nil, why end
  return true
end

local function write_contents(store, file, progress)
  local hashes, err = store:list_all_content()
  if not hashes then return nil, err end
  local written = {}
  for i, hash in ipairs(hashes) do
    written[hash], err = write_content(store, file, hash)
    if written[hash] == nil then return nil, err end
    progress(i, #hashes)
  end
  return written
end

-- The hash of a label whose content is written, or false: it is gone. It may have moved
-- since the contents were listed, and may move again.
local function settle_label(store, file, label, hash, written)
  while hash do
    local ok, err = written[hash], nil
    if not ok then ok, err = write_content(store, file, hash) end
    if ok == nil then return nil, err end
    written[hash] = ok
    if ok then return hash end
    local now
    now, err = store:get_by_label(label)
    if err then return nil, err end
    if now == hash then
      return nil, errors.new("corrupt", ("Label '%s' has no content: %s is missing"):format(label, hash))
    end
    hash = now
  end
  return false
end

local function faulty_label(faults)
  local label, why = next(faults)
  return label and errors.new("corrupt", ("Label '%s' cannot be exported: %s"):format(label, why))
end

-- The labels with their hashes; an error if something among them holds none, or could not
-- be imported.
local function read_labels(store)
  local hashes, faults = store:label_hashes()
  if not hashes then return nil, faults end
  local labels = {}
  for label in pairs(hashes) do labels[#labels + 1] = label end
  table.sort(labels)
  for _, label in ipairs(labels) do faults[label] = faults[label] or core.odd_label_fault(label) end
  local fault = faulty_label(faults)
  if fault then return nil, fault end
  return labels, hashes
end

-- Contents come first, then labels as they are by then, with content that is newer.
local function write_all(store, file, progress)
  local ok, err = read_labels(store) -- a fault shows before anything is written
  if ok then ok, err = file:write(beginning(name_of(store))) end
  local written
  if ok then written, err = write_contents(store, file, progress) end
  if not written then return nil, err end
  local labels, hashes = read_labels(store)
  if not labels then return nil, hashes end
  for _, label in ipairs(labels) do
    hashes[label], err = settle_label(store, file, label, hashes[label], written)
    if hashes[label] == nil then return nil, err end
  end
  for _, label in ipairs(labels) do
    ok, err = true, nil
    if hashes[label] then ok, err = write_entry(file, "labels/" .. label, hashes[label]) end
    if not ok then return nil, err end
  end
  return file:write(("\0"):rep(2 * BLOCK))
end

--- Writes all content and labels of a store to a tar file. Others can work on the
-- store meanwhile: every label in the file has its content in it.
-- @tparam theaterref.store store
-- @tparam string|file path the file shows up when it is whole, and is synced; it may
-- replace an earlier export of the same store, but no other file; or a file open for writing
-- @tparam[opt] table options `progress`: called with how many of how many
-- contents are written; `force = true`: replace an export of another store
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error; of kind `corrupt` if a label holds no hash or has no
-- content, or content is damaged
function M.export(store, path, options)
  if path == nil or type(path) == "boolean" or type(path) == "number" then
    error("export needs a path, or a file that is open for writing", 2)
  end
  local progress = options and options.progress or function() end
  local held <close>, err = store:hold()
  if not held then return nil, err end
  local file, why, ok = path, nil, nil
  if type(path) == "string" then
    file, why = nil, other_file(store, path, options and options.force)
    if not why then file, why = core.open_output(path) end
  end
  local output <close> = type(path) == "string" and file or nil
  if file then ok, why = write_all(held, file, progress) end
  if ok and output then ok, why = output:commit() elseif ok then ok, why = file:flush() end
  if ok then return true end
  if errors.is(why) and why.kind == "corrupt" then return nil, why end
  local where = type(path) == "string" and " to " .. path or ""
  return nil, errors.new("io", ("Failed to export%s: %s"):format(where, why))
end

-- ------------------------------------------------------------------ reading

local function malformed(what)
  return nil, errors.new("syntax", "this is not an export of a store: " .. what)
end

-- Why a read gave less than was asked for.
local function cut_off(why)
  if not why then return malformed "it ends too early" end
  return nil, errors.is(why) and why or errors.new("io", "Failed to import: " .. tostring(why))
end

-- Exactly so many bytes, or nil and why. A size that lies costs no more memory than
-- there are bytes.
local function read_exactly(file, size)
  local parts, left = {}, size
  while left > 0 do
    local part, why = file:read(math.min(left, 1 << 20))
    if not part then return cut_off(why) end
    parts[#parts + 1] = part
    left = left - #part
  end
  return table.concat(parts)
end

local function field(block, from, to) return (block:sub(from, to):match("^[^\0]*")) end

local function octal(text)
  text = text:match("^ *([0-7]+) *$")
  return text and tonumber(text, 8)
end

-- The size in a header: octal, or as GNU tar writes a large one, in bytes.
local function size_of(block)
  if block:byte(125) ~= 0x80 then return octal(field(block, 125, 136)) end
  local size = (">I8"):unpack(block, 129)
  return block:sub(126, 128) == "\0\0\0" and size >= 0 and size or nil
end

local function checksum(block)
  local sum = 8 * 32
  for i = 1, BLOCK do
    if i < 149 or i > 156 then sum = sum + block:byte(i) end
  end
  return sum
end

-- The records of a pax header by their keys, or nothing.
local function pax_records(text)
  local at, records = 1, {}
  while at <= #text do
    local length = tonumber(text:match("^(%d+) ", at))
    if not length or length < 5 or at + length - 1 > #text then return nil end
    local key, value = text:sub(at, at + length - 2):match "^%d+ ([^=]+)=(.*)$"
    if key then records[key] = value end
    at = at + length
  end
  return records
end

-- After its end an archive has only zeros: more would be a second archive.
local function check_end(file)
  while true do
    local rest, why = file:read(1 << 16)
    if why then return cut_off(why) end
    if not rest then return false end
    if rest:find "[^%z]" then return malformed "something follows its end" end
  end
end

-- The next file: name, bytes; false at the end; nil and an error. 'seen' gets whether
-- there is any header.
local function next_file(file, seen)
  local long_name, long_size
  while true do
    local block, why = read_exactly(file, BLOCK)
    if not block then return nil, why end
    if block == ("\0"):rep(BLOCK) then
      if not seen.header then return malformed "it is empty" end
      return check_end(file)
    end
    seen.header = true
    local size, kind = size_of(block), block:sub(157, 157)
    if octal(field(block, 149, 156)) ~= checksum(block) or not size then return malformed "a header is damaged" end
    local is_file = kind == "0" or kind == "\0"
    if is_file and long_size then size = long_size end
    local bytes, rest
    bytes, why = read_exactly(file, size)
    if bytes then rest, why = read_exactly(file, -size % BLOCK) end
    if not rest then return nil, why end
    if kind == "x" then
      local records = pax_records(bytes)
      if not records then return malformed "a header is damaged" end
      long_name = records.path
      long_size = records.size and math.tointeger(tonumber(records.size))
      if records.size and not (long_size and long_size >= 0) then return malformed "a header is damaged" end
    elseif kind == "L" then -- GNU tar's long names
      long_name = bytes:match("^[^\0]*")
    elseif is_file then
      local prefix = field(block, 258, 262) == "ustar" and field(block, 346, 500) or ""
      local name = long_name or (prefix ~= "" and prefix .. "/" or "") .. field(block, 1, 100)
      return name:gsub("^%./", ""), bytes
    elseif kind ~= "5" and kind ~= "g" then
      return malformed("it holds something that is no file: " .. field(block, 1, 100))
    end
  end
end

-- Adds content to a batch, or a label to the list.
local function add(batch, labels, name, bytes)
  local hash = name:match("^data/(%x+)$")
  if hash and (#hash == 40 or #hash == 64) then
    local actual, err = batch:put(bytes, #hash == 40 and "sha1" or "sha256")
    if not actual then return nil, err end
    if actual == hash:lower() then return true end
    return nil, errors.new("corrupt", ("%s holds other bytes than its name says: their hash is %s"):format(name, actual))
  end
  local label = name:match("^labels/(.+)$")
  if not label then return malformed("it holds " .. name) end
  local first = bytes:find "%S"
  labels[#labels + 1] = { label, first and bytes:match("^.*%S", first) or "" }
  return true
end

-- Labels are placed together at the end: all of them, or none if one fails. A process that is
-- killed meanwhile leaves some moved: each is a file of its own. Returns how many that are
-- in the store point at something else now.
local function place_labels(store, batch, labels)
  local changed = 0
  for _, label in ipairs(labels) do
    local name, hash = table.unpack(label)
    local now = store:get_by_label(name) -- one that cannot be read is replaced
    if now and now ~= hash:lower() then changed = changed + 1 end
    local ok, err = batch:label(name, hash)
    if not ok then return nil, err end
  end
  return changed
end

-- Places those that the store does not have, whoever makes one meanwhile. Returns how many
-- others the store has with another hash, or that cannot be read.
local function add_labels(store, labels)
  local kept = 0
  for _, label in ipairs(labels) do
    local name, hash = table.unpack(label)
    local added, err = store:label(name, hash, { expect = false })
    if added == nil and err.kind ~= "corrupt" then return nil, err end
    if not added and store:get_by_label(name) ~= hash:lower() then kept = kept + 1 end
  end
  return kept
end

-- Adds files until a batch is full. "more": there are others.
local function import_some(batch, labels, file, seen, done)
  local count, bytes_read = 0, 0
  while count < BATCH_ITEMS and bytes_read < BATCH_BYTES do
    local name, bytes = next_file(file, seen)
    if name == nil then return nil, bytes end
    if not name then return "end" end
    local ok, err = add(batch, labels, name, bytes)
    if not ok then return nil, err end
    count, bytes_read = count + 1, bytes_read + #bytes
    done(#bytes)
  end
  return "more"
end

-- Removes the folders that a failed import has made, unless there is something in them.
local function remove_empty_folders(folder)
  if not core.file_stamp(folder) then return end -- there is none; or a link, which leads nowhere
  for _, name in ipairs { "/data", "/labels", "/history", "" } do os.remove(folder .. name) end
end

--- Adds all content of a tar file to a store, and places its labels at the end, all of
-- them: labels that are there are moved. With the option `keep_labels` they stay, and the
-- others are made one by one. After a failure, content that came before it may be there, but
-- no label has moved, and an empty store is not left behind. A process that is killed, or a loss
-- of power, may leave some labels moved and others not: 'history' and 'rollback' help with each.
-- @tparam theaterref.store store
-- @tparam string|file path or a file open for reading
-- @tparam[opt] table options `progress`: called with how many bytes of how many
-- were read (nil: not known); `keep_labels = true`: labels that are there stay
-- @treturn integer how many files there were
-- @treturn integer how many labels of the store were moved or, with `keep_labels`, stayed
-- where they were, though the file has another hash for them
-- @return[2] nil
-- @treturn[2] table an error
function M.import(store, path, options)
  local progress, size = options and options.progress or function() end, nil
  local file, err = path, nil
  if type(path) == "string" then file, err = core.open_input(path) end
  if not file then return nil, err end
  local closing <close> = type(path) == "string" and file or nil
  if closing then size = file:size() end
  local new_folder = store.folder and not core.file_stamp(store:folder()) and store:folder()
  local count, read, more, seen, labels = 0, 0, "more", {}, {}
  while more == "more" do
    more, err = store:batch(function(batch)
      return import_some(batch, labels, file, seen, function(bytes)
        count, read = count + 1, read + bytes
        progress(read, size)
      end)
    end)
    if err then
      if new_folder then remove_empty_folders(new_folder) end
      return nil, err
    end
  end
  local changed
  if options and options.keep_labels then
    changed, err = add_labels(store, labels)
  else
    changed, err = store:batch(function(batch) return place_labels(store, batch, labels) end)
  end
  if not changed then return nil, err end
  return count, changed
end

return M
