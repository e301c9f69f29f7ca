-- Keeps an actor running, and replaces it when its label in the store moves.
-- Deploy with: theaterref store put STORE new.wasm --label LABEL
--
--     lua5.4 supervisor.lua STORE LABEL RUNTIME…
--
-- RUNTIME is the command that runs a package, such as 'wasm-interp'.
local theaterref = require "theaterref"

local id, label = arg[1], arg[2]
local runtime = table.concat(arg, " ", 3)
assert(id and label and runtime ~= "", "usage: supervisor.lua STORE LABEL RUNTIME…")
local store = assert(theaterref.content_store(id))
local package_file = os.tmpname()

-- Starts a package; returns its process id.
local function start(hash)
  assert(assert(store:get(hash)):write(package_file))
  local pipe = assert(io.popen(runtime .. " " .. package_file .. " >&2 & echo $!"))
  local pid = pipe:read "l"
  pipe:close()
  io.stderr:write("started ", hash, " as ", pid, "\n")
  return pid
end

local function alive(pid) return os.execute("kill -0 " .. pid .. " 2>/dev/null") == true end

local running, pid
while true do
  local hash = store:get_by_label(label)
  if not hash and running then break end -- the label is gone: stop
  if hash and hash ~= running then
    if pid then os.execute("kill " .. pid .. " 2>/dev/null") end
    running, pid = hash, start(hash)
  elseif pid and not alive(pid) then
    pid = start(running)
  end
  os.execute "sleep 0.1"
end
os.execute("kill " .. pid .. " 2>/dev/null")
os.remove(package_file)
io.stderr:write("stopped\n")
