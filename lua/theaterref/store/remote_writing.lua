--- Remote stores: the methods that write.
-- @module theaterref.store.remote_writing
local core = require "theaterref.core"
local labels = require "theaterref.store.remote_labels"
local objects = require "theaterref.store.remote_objects"
local option_sets = require "theaterref.options"

local M = {}

--- Stores bytes: in the bucket, and in the folder. As `put` of a local store.
function M:put(bytes, algorithm)
  algorithm = algorithm or self.options.algorithm or "sha1"
  local blob = core.is_blob(bytes) and bytes or core.blob(bytes)
  local hash = self.front:keep(algorithm, blob) or blob:digest(algorithm)
  local ok, err = objects.ensure(self, hash, blob)
  if not ok then return nil, err end
  return hash
end

--- Points a label at content; as `label` of a local store.
function M:label(name, hash, options)
  if type(hash) ~= "string" then error("the hash of a label must be a string, not a " .. type(hash), 2) end
  if options ~= nil then option_sets.check(option_sets.label, options, 2) end
  local fault = objects.name_fault(name)
  if fault then return nil, fault end
  return labels.move(self, name, hash, options and options.expect)
end

M.replace_at_label = M.label

--- Stores bytes, and points a label at them.
function M:store_at_label(name, bytes)
  local hash, err = self:put(bytes)
  local ok
  if hash then ok, err = self:label(name, hash) end
  if not ok then return nil, err end
  return hash
end

M.replace_content_at_label = M.store_at_label

--- Removes a label.
function M:remove_label(name)
  local fault = objects.name_fault(name)
  if fault then return nil, fault end
  return labels.remove(self, name)
end

--- Removes a label if it points at a hash.
function M:remove_from_label(name, hash)
  local fault = objects.name_fault(name)
  if fault then return nil, fault end
  return labels.remove(self, name, hash)
end

--- The hashes that a label pointed at before; as `history` of a local store.
function M:history(name)
  local fault = objects.name_fault(name)
  if fault then return nil, fault end
  local now, err = objects.label(self, name)
  if now == nil or now and now.fault then return nil, now and now.fault or err end
  return now and now.history or {}
end

--- Moves a label back; as `rollback` of a local store.
function M:rollback(name, options)
  local fault = objects.name_fault(name)
  if fault then return nil, fault end
  self:expire_label(name)
  return core.store_methods.rollback(self, name, options)
end

local Batch = {}
Batch.__index = Batch

function Batch.__close() end -- what the batch of a local store is

function Batch:put(bytes, algorithm) return self.store:put(bytes, algorithm) end

function Batch:label(name, hash)
  local fault = objects.name_fault(name)
  if fault then return nil, fault end
  self.moves[#self.moves + 1] = { name, hash }
  return true
end

function Batch:commit()
  for i, move in ipairs(self.moves) do
    local ok, err = self.store:label(move[1], move[2])
    if not ok then
      err.message = ("%s; %d of %d labels of the batch have moved"):format(err.message, i - 1, #self.moves)
      return nil, err
    end
  end
  return true
end

--- Begins a batch. Content is uploaded when it is put. Labels move one by one at the end, because a bucket cannot move
-- several together.
function M:begin_batch() return setmetatable({ store = self, moves = {} }, Batch) end

M.batch = core.store_methods.batch
M.export, M.import = core.store_methods.export, core.store_methods.import

return M
