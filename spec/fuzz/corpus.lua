-- Corpora as folders, which libFuzzer wants, and as files with an input in hex
-- on each line, which a repository wants.
--
--     lua5.4 corpus.lua unpack FILE FOLDER
--     lua5.4 corpus.lua pack FOLDER FILE
local M = {}

--- The inputs in a packed corpus; none when there is no such file.
function M.inputs(path)
  local inputs = {}
  local file = io.open(path)
  if not file then return inputs end
  for line in file:lines() do
    inputs[#inputs + 1] = line:gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end)
  end
  file:close()
  return inputs
end

local function unpack_corpus(path, folder)
  for i, input in ipairs(M.inputs(path)) do
    local file = assert(io.open(("%s/%05d"):format(folder, i), "wb"))
    file:write(input)
    file:close()
  end
end

local function pack_corpus(folder, path)
  local lfs = require "lfs"
  local lines = {}
  for name in lfs.dir(folder) do
    local file = name:sub(1, 1) ~= "." and io.open(folder .. "/" .. name, "rb")
    if file then
      lines[#lines + 1] = file:read("a"):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
      file:close()
    end
  end
  table.sort(lines, function(a, b) return #a < #b or #a == #b and a < b end)
  local file = assert(io.open(path, "w"))
  file:write(table.concat(lines, "\n"), "\n")
  file:close()
end

local commands = { unpack = unpack_corpus, pack = pack_corpus }
if arg and arg[0] and arg[0]:find "corpus%.lua$" then commands[arg[1]](arg[2], arg[3]) end

return M
