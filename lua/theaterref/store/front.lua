--- The local folder of a remote store: content that was fetched or put, and the last answers about
-- labels. It has the layout of a store, and another folder, `front/`, for locks and a file per label.
-- @module theaterref.store.front
local core = require "theaterref.core"
local random = require "theaterref.store.random"
require "theaterref.store.store" -- gives the core's stores the methods that are written in Lua

local M = {}

local Front = {}
Front.__index = Front

local USED_AGAIN_SECONDS, MAX_REMEMBERED = 60, 4096
local LOOK_AT = 64 -- gets between two looks at the time
local SCAN_SECONDS = 60 -- between two scans of the whole folder: other processes write there, too

--- Opens a folder. Nothing is synced there: the bucket has everything.
-- @tparam string folder
-- @tparam string identity of the bucket behind it: known labels of another bucket are ignored
-- @tparam table options of a store; `max_bytes`: limit on its content, 0: none
-- @treturn table
function M.open(folder, identity, options)
  local function store(algorithm)
    return core.content_store(folder, { algorithm = algorithm, durability = "none", verify = options.verify, map = options.map,
      lock_timeout = options.lock_timeout, label_history = options.label_history })
  end
  return setmetatable({ folder = folder, identity = identity, store = store "sha1", sha256 = store "sha256",
    max_bytes = options.max_bytes, known = core.content_store(folder .. "/front", { durability = "none" }),
    used = { hashes = {}, count = 0, since = core.now() }, gets = 0, written = 0, scanned = nil }, Front)
end

-- Records a use of content, so that the least recently used content can be evicted. Most gets of content whose use is
-- recorded already do not look at the time.
local function note_use(self, hash)
  local used, now = self.used, core.now()
  self.gets = 0
  if used.count >= MAX_REMEMBERED or now > used.since + USED_AGAIN_SECONDS then
    used = { hashes = {}, count = 0, since = now }
    self.used = used
  end
  if used.hashes[hash] then return end
  used.hashes[hash], used.count = true, used.count + 1
  self.store:note_use(hash)
end

--- Returns content that is in the folder; as a store's `get`.
function Front:get(hash, max_bytes)
  local blob, err = self.store:get(hash, max_bytes)
  if not blob then return nil, err end
  self.gets = self.gets + 1
  if self.gets >= LOOK_AT or not self.used.hashes[hash] then note_use(self, hash) end
  return blob
end

-- The content of the folder, the least recently used first, and its size.
local function uses(self)
  local texts, err = self.store:content_uses()
  if not texts then return nil, err end
  local list, total = {}, 0
  for hash, text in pairs(texts) do
    local bytes, used, written = text:match "^(%d+) (-?%d+) (-?%d+)$"
    list[#list + 1] = { hash = hash, bytes = math.tointeger(bytes), used = math.tointeger(used),
      written = math.tointeger(written) }
    total = total + list[#list].bytes
  end
  table.sort(list, function(a, b) return a.used < b.used end)
  return list, total
end

--- Deletes content, the least recently used first, until at most nine tenths of `max_bytes` are left.
-- Content of labels in the folder itself stays: it may exist nowhere else.
function Front:trim()
  self.scanned, self.written = core.now(), 0
  local list, total = uses(self)
  if not list or total <= self.max_bytes then return end
  local labels = self.store:label_hashes()
  if not labels then return end
  local kept = {}
  for _, hash in pairs(labels) do kept[hash] = true end
  for _, item in ipairs(list) do
    if total <= self.max_bytes * 0.9 then return end
    if not kept[item.hash] and self.store:discard_unchanged(item.hash, item.written, false) then total = total - item.bytes end
  end
end

--- Keeps content. The caller has checked its hash.
-- @treturn string its hash
-- @return[2] nil
-- @treturn[2] table an error
function Front:keep(algorithm, bytes)
  local hash, err = (algorithm == "sha256" and self.sha256 or self.store):put(bytes)
  if not hash then return nil, err end
  self.written = self.written + #bytes
  local is_due = not self.scanned or core.now() > self.scanned + SCAN_SECONDS or self.written > self.max_bytes / 10
  if self.max_bytes > 0 and is_due then self:trim() end
  return hash
end

-- ------------------------------------------------------------------- labels

local function name_of(self, label) return core.digest(self.identity .. "\n" .. label) end

local function path_of(self, label) return self.folder .. "/front/data/" .. name_of(self, label) end

local function read(path)
  local file <close> = io.open(path, "rb")
  return file and file:read(16384) or nil
end

-- Reads the note about a label: `hash`, or "-" for one that was removed here; `asked`; `etag`. Times are in microseconds, because
-- decimal points depend on the locale.
local function note_of(self, label)
  local hash, asked, etag, name = (read(path_of(self, label)) or ""):match "^([%x-]+) (-?%d+) ([^\n]*)\n(.*)$"
  if name ~= label then return nil end
  return { hash = hash, asked = tonumber(asked) / 1e6, etag = etag ~= "" and etag or nil }
end

--- Returns what was last known about a label.
-- @treturn ?table `hash`, `etag` and `asked`, when the question began, by core.time(); negative: the bucket is to be asked again,
-- and only answers to questions after that time count
function Front:label(label)
  local note = note_of(self, label)
  return note and (#note.hash == 40 or #note.hash == 64) and note or nil
end

-- Writes a file in front/ atomically. In a folder without write permission it does nothing. True if it is written.
local function write(self, path, text)
  local temporary = self.folder .. "/.tmp-" .. random.hex(12)
  local file = io.open(temporary, "wb")
  if not file then return false end
  local ok = file:write(text)
  ok = file:close() and ok and os.rename(temporary, path)
  if not ok then os.remove(temporary) end
  return ok
end

-- The same, and makes the folder if it is missing.
local function write_in_folder(self, path, text)
  if write(self, path, text) then return true end
  local made <close> = self.known:try_lock "folder" -- luacheck: ignore
  return write(self, path, text)
end

-- Writes the note about a label. One that cannot be written, because the disk is full, is removed: an older one would take the
-- label back.
local function write_label(self, label, hash, asked, etag)
  local path = path_of(self, label)
  local text = ("%s %d %s\n%s"):format(hash, asked * 1e6 // 1 | 0, etag or "", label)
  if not write_in_folder(self, path, text) then os.remove(path) end
end

-- True if the answer to a question after a moment is known. A time in the future does not count: the clock was wrong.
local function is_later(known, asked)
  local at = known and math.abs(known.asked)
  return known ~= nil and at > asked and at <= core.time()
end

--- Remembers a label, unless the answer to a later question is known.
-- @tparam string label
-- @tparam table state as `label` returns it
-- @treturn boolean false: a later answer is known
function Front:set_label(label, state)
  if is_later(note_of(self, label), state.asked) then return false end
  write_label(self, label, state.hash, state.asked, state.etag)
  return true
end

--- Makes the next reader ask the bucket for a label. In an outage its last hash is still used.
function Front:expire_label(label)
  local known = self:label(label)
  if known then write_label(self, label, known.hash, -core.time(), known.etag) end
end

--- Records that a label was removed, so that the answer to an earlier question is ignored.
function Front:note_removal(label) write_label(self, label, "-", core.time()) end

--- Records that the bucket has no such label, unless the answer to a later question is known. Labels that were never known
-- leave no note.
-- @tparam string label
-- @tparam number asked when the question began, by core.time()
function Front:note_absence(label, asked)
  local known = note_of(self, label)
  if known and not is_later(known, asked) then write_label(self, label, "-", asked) end
end

--- True if the note about a label says something else than a process has in its memory, which then does not count: another
-- process has moved or removed the label, or wants the bucket to be asked.
-- @tparam string label
-- @tparam string hash that the process has
-- @tparam number seconds for which a note counts
-- @treturn boolean
function Front:contradicts(label, hash, seconds)
  local note = note_of(self, label)
  if not note or note.hash == hash and note.asked >= 0 then return false end
  local age = core.time() - math.abs(note.asked)
  return age >= 0 and age < seconds
end

--- Deletes content and labels that the bucket no longer has.
-- @tparam table labels those of the bucket, by name: `hash`, `history`
-- @tparam table options of `gc`
-- @treturn table as `gc` of a store returns it
-- @return[2] nil
-- @treturn[2] table an error
function Front:collect(labels, options)
  local spared, names = {}, {}
  for name, label in pairs(labels) do
    names[name_of(self, name)], spared[label.hash] = true, true
    for _, hash in ipairs(label.history) do spared[hash] = true end
  end
  for name, time in pairs(not options.dry_run and self.known:content_times() or {}) do
    if not names[name] then self.known:discard_unchanged(name, time, false) end
  end
  return self.store:collect(options, spared)
end

--- Returns a text that was kept under a name.
function Front:text(name) return read(self.folder .. "/front/" .. name) end

--- Keeps a text under a name.
function Front:set_text(name, text) write_in_folder(self, self.folder .. "/front/" .. name, text) end

--- Takes a lock that keeps processes and threads from doing the same work twice. Does not block.
-- @tparam string name
-- @tparam string part hex digits: each is a lock of its own
-- @treturn userdata to be closed
-- @return[2] nil
-- @treturn[2] boolean true: somebody else has it; false: there can be none here
function Front:lock(name, part)
  local lock, err = self.known:try_lock(name, part)
  if lock then return lock end
  return nil, err.kind == "timeout"
end

return M
