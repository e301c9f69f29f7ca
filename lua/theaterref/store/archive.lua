--- A whole store as a tar file: `data/<hash>` and `labels/<label>`, as in its
-- folder. The same store gives the same bytes.
-- @module theaterref.store.archive
local errors = require "theaterref.error"

local M = {}

local BLOCK = 512
-- As much is imported with one sync.
local BATCH_BYTES, BATCH_ITEMS = 64 << 20, 10000

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

-- A file's entry, in parts to write one after another.
local function entry(name, size, bytes)
  if #name <= 100 then return header(name, size, "0"), bytes, padding(size) end
  local long = pax_record("path", name)
  return header("long-name", #long, "x") .. long .. padding(#long), header(name:sub(1, 100), size, "0"), bytes,
    padding(size)
end

local function write_all(store, file, progress)
  local labels, err = store:list_labels()
  if not labels then return nil, err end
  local hashes = {}
  for i, label in ipairs(labels) do
    hashes[i], err = store:get_by_label(label)
    if err then return nil, err end
  end
  local contents
  contents, err = store:list_all_content()
  if not contents then return nil, err end
  for i, hash in ipairs(contents) do
    local blob, why = store:get(hash)
    if not blob and why.kind ~= "not_found" then return nil, why end -- collected meanwhile: nobody's
    if blob then
      local ok, failure = file:write(entry("data/" .. hash, #blob, tostring(blob)))
      if not ok then return nil, failure end
    end
    progress(i, #contents)
  end
  for i, label in ipairs(labels) do
    local ok, failure = true, nil
    if hashes[i] then ok, failure = file:write(entry("labels/" .. label, #hashes[i], hashes[i])) end
    if not ok then return nil, failure end
  end
  return file:write(("\0"):rep(2 * BLOCK))
end

--- Writes all content and labels of a store to a tar file.
-- @tparam theaterref.store store
-- @tparam string|file path the file shows up when it is whole; or a file open
-- for writing
-- @tparam[opt] table options `progress`: called with how many of how many
-- contents are written
-- @treturn boolean true
-- @return[2] nil
-- @treturn[2] table an error
function M.export(store, path, options)
  local progress = options and options.progress or function() end
  local file, why, ok = path, nil, nil
  local partial = type(path) == "string" and path .. ".partial"
  if partial then file, why = io.open(partial, "wb") end
  if file then ok, why = write_all(store, file, progress) end
  if partial and file then
    local closed, failure = file:close()
    if ok and closed then ok, why = os.rename(partial, path) elseif ok then ok, why = nil, failure end
    if not ok then os.remove(partial) end
  elseif ok then
    ok, why = file:flush()
  end
  if ok then return true end
  if type(why) == "table" then return nil, why end
  return nil, errors.new("io", ("Failed to export to %s: %s"):format(tostring(path), why))
end

-- ------------------------------------------------------------------ reading

local function malformed(what)
  return nil, errors.new("syntax", "this is no store's export: " .. what)
end

-- Exactly so many bytes, or nil. A size that lies costs no more memory than
-- there are bytes.
local function read_exactly(file, size)
  local parts, left = {}, size
  while left > 0 do
    local part = file:read(math.min(left, 1 << 20))
    if not part then return nil end
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

local function checksum(block)
  local sum = 8 * 32
  for i = 1, BLOCK do
    if i < 149 or i > 156 then sum = sum + block:byte(i) end
  end
  return sum
end

local function pax_path(records)
  local at, path = 1, nil
  while at <= #records do
    local length = tonumber(records:match("^(%d+) ", at))
    if not length or length < 5 or at + length - 1 > #records then return nil end
    path = records:sub(at, at + length - 2):match("^%d+ path=(.*)$") or path
    at = at + length
  end
  return path
end

-- The next file: name, bytes; false at the end; nil and an error.
local function next_file(file)
  local long_name
  while true do
    local block = read_exactly(file, BLOCK)
    if not block then return malformed "it ends too early" end
    if block == ("\0"):rep(BLOCK) then return false end
    local size, kind = octal(field(block, 125, 136)), block:sub(157, 157)
    if octal(field(block, 149, 156)) ~= checksum(block) or not size then return malformed "a header is damaged" end
    local bytes = read_exactly(file, size)
    if not bytes or not read_exactly(file, -size % BLOCK) then return malformed "it ends too early" end
    if kind == "x" then
      long_name = pax_path(bytes)
    elseif kind == "L" then -- GNU tar's long names
      long_name = bytes:match("^[^\0]*")
    elseif kind == "0" or kind == "\0" then
      local prefix = field(block, 258, 262) == "ustar" and field(block, 346, 500) or ""
      local name = long_name or (prefix ~= "" and prefix .. "/" or "") .. field(block, 1, 100)
      return name:gsub("^%./", ""), bytes
    elseif kind ~= "5" and kind ~= "g" then
      return malformed("it holds something that is no file: " .. field(block, 1, 100))
    end
  end
end

local function add(batch, name, bytes)
  local hash = name:match("^data/(%x+)$")
  if hash and (#hash == 40 or #hash == 64) then
    local actual, err = batch:put(bytes, #hash == 40 and "sha1" or "sha256")
    if not actual then return nil, err end
    if actual == hash:lower() then return true end
    return nil, errors.new("corrupt", ("%s holds other bytes than its name says: their hash is %s"):format(name, actual))
  end
  local label = name:match("^labels/(.+)$")
  if not label then return malformed("it holds " .. name) end
  return batch:label(label, (bytes:match("^%s*(.-)%s*$")))
end

-- Adds files until a batch is full. True: there is more.
local function import_some(batch, file, done)
  local count, bytes_read = 0, 0
  while count < BATCH_ITEMS and bytes_read < BATCH_BYTES do
    local name, bytes = next_file(file)
    if name == nil then return nil, bytes end
    if not name then return false end
    local ok, err = add(batch, name, bytes)
    if not ok then return nil, err end
    count, bytes_read = count + 1, bytes_read + #bytes
    done(#bytes)
  end
  return true
end

--- Adds all content and labels of a tar file to a store. Labels that are there
-- are moved. After a failure, content that came before it may be there.
-- @tparam theaterref.store store
-- @tparam string|file path or a file open for reading
-- @tparam[opt] table options `progress`: called with how many bytes of how many
-- were read (nil: not known)
-- @treturn integer how many files there were
-- @return[2] nil
-- @treturn[2] table an error
function M.import(store, path, options)
  local progress, size = options and options.progress or function() end, nil
  local file, why = path, nil
  if type(path) == "string" then file, why = io.open(path, "rb") end
  if not file then return nil, errors.new("not_found", "Failed to import: " .. why) end
  local closing <close> = type(path) == "string" and file or nil
  if closing then
    size = file:seek "end"
    file:seek "set"
  end
  local count, read, more = 0, 0, true
  while more do
    local err
    more, err = store:batch(function(batch)
      return import_some(batch, file, function(bytes)
        count, read = count + 1, read + bytes
        progress(read, size)
      end)
    end)
    if err then return nil, err end
  end
  return count
end

return M
