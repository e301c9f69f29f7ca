-- Simulates a power cut: replays what strace saw a process do to a folder, on a
-- file system that keeps nothing but what was synced, or only some of the
-- rest. In memory; a file is { data, synced }, a folder { names, synced }.
local M = {}

local function folder() return { names = {}, synced = {} } end

local World = {}
World.__index = World

local function new_world(root)
  return setmetatable({ root = root, folders = { [root] = folder() }, open = {} }, World)
end

function World:add(path, node)
  local parent, name = path:match "^(.*)/([^/]+)$"
  local where = self.folders[parent]
  if where then where.names[name] = node end
end

function World:take(path)
  local parent, name = path:match "^(.*)/([^/]+)$"
  local where = self.folders[parent]
  local node = where and where.names[name]
  if node then where.names[name] = nil end
  return node
end

local function sync_folder(f)
  f.synced = {}
  for name, node in pairs(f.names) do f.synced[name] = node end
end

local steps = {}

function steps.openat(world, arguments, result)
  local fd, flags = result:match "^(%d+)<", arguments:match "O_[%u_|]+"
  local parent, name = arguments:match '^[%w_]+<?([^>]*)>?, "([^"]*)"'
  if not fd or not flags then return end
  if flags:find "O_TMPFILE" then
    world.open[fd] = { data = "", synced = "" }
  elseif flags:find "O_CREAT" then
    local node = { data = "", synced = "" }
    world.open[fd] = node
    world:add(parent .. "/" .. name, node)
  else -- opened to read, or to sync
    local path = result:match "<(.*)>"
    local where, base = path:match "^(.*)/([^/]+)$"
    world.open[fd] = world.folders[path] or world.folders[where] and world.folders[where].names[base]
  end
end

function steps.write(world, arguments)
  local fd, text = arguments:match '^(%d+)<.->[^,]*, "(.*)", %d+$'
  local node = world.open[fd]
  if fd == "1" then world.acknowledged[#world.acknowledged + 1] = text:gsub("\\n$", "")
  elseif node and node.data then node.data = node.data .. text end
end

function steps.fsync(world, arguments)
  local fd, path = arguments:match "^(%d+)<(.*)>"
  local node = world.folders[path] or world.open[fd] -- by its path even if 'dup' made the descriptor
  if not node then return end
  if node.data then node.synced = node.data else sync_folder(node) end
end

function steps.syncfs(world)
  local function sync(f)
    for _, node in pairs(f.names) do
      if node.data then node.synced = node.data else sync(node) end
    end
    sync_folder(f)
  end
  sync(world.folders[world.root])
end

function steps.linkat(world, arguments)
  local fd, where, name = arguments:match '"/proc/self/fd/(%d+)", %d+<([^>]*)>, "([^"]*)"'
  if fd then world:add(where .. "/" .. name, world.open[fd]) end
end

function steps.renameat(world, arguments)
  local from, old, to, new = arguments:match '^%d+<([^>]*)>, "([^"]*)", %d+<([^>]*)>, "([^"]*)"'
  world:add(to .. "/" .. new, world:take(from .. "/" .. old))
end

steps.renameat2 = steps.renameat -- not over another file, or it would have failed

function steps.mkdir(world, arguments)
  local path = arguments:match '"([^"]*)"'
  if path:sub(1, #world.root + 1) ~= world.root .. "/" then return end
  local f = folder()
  world.folders[path] = f
  world:add(path, f)
end

function steps.mkdirat(world, arguments)
  local where, name = arguments:match '<([^>]*)>, "([^"]*)"'
  steps.mkdir(world, '"' .. where .. "/" .. name .. '"')
end

function steps.unlinkat(world, arguments)
  local where, name = arguments:match '<([^>]*)>, "([^"]*)"'
  world:take(where .. "/" .. name)
end

--- The files after a cut: path -> text. 'names' and 'bytes' are functions
-- that return whether an unsynced name, or a file's unsynced bytes, survived.
local function survivors(world, names, bytes)
  local found = {}
  local function visit(f, path)
    local merged = {}
    for name, node in pairs(f.synced) do merged[name] = node end
    for name, node in pairs(f.names) do
      if merged[name] ~= node and names() then merged[name] = node end
    end
    for name in pairs(f.synced) do
      if not f.names[name] and names() then merged[name] = nil end -- an unlink that made it
    end
    for name, node in pairs(merged) do
      if not node.data then visit(node, path .. name .. "/")
      else found[path .. name] = (node.data ~= node.synced and bytes()) and node.data or node.synced end
    end
  end
  visit(world.folders[world.root], "")
  return found
end

--- Replays a trace of `strace -y` on the folder 'root', and after each step
-- gives 'check' what could be left: a table of path -> text, and the lines
-- that the process had printed by then.
function M.run(trace, root, check)
  local world = new_world(root)
  world.acknowledged = {}
  local yes, no = function() return true end, function() return false end
  local some = function() return math.random(2) == 1 end
  local count = 0
  for line in io.lines(trace) do
    local call, arguments, result = line:match "^%d*%s*([%w_]+)%((.*)%)%s+= (.*)$"
    if call and steps[call] and result:sub(1, 1) ~= "-" then
      steps[call](world, arguments, result)
      count = count + 1
      for _, keeps in ipairs { { no, no }, { yes, no }, { yes, yes }, { some, some } } do
        check(survivors(world, keeps[1], keeps[2]), world.acknowledged)
      end
    end
  end
  return count
end

return M
