--- Checks every text file of the project for names that were replaced (names.lua)
-- and for English that the project avoids (english.lua). `make lint` runs it, in the
-- project's folder.
local M = {}

local here = debug.getinfo(1, "S").source:match "^@(.*/)" or "./"
local replaced, avoided = dofile(here .. "names.lua"), dofile(here .. "english.lua")

-- ------------------------------------------------------------------- names

local function matches_name(text, pattern)
  local starts = (pattern:find "^%a" or pattern:find("[%w_]", 1, true) == 1) and "%f[%w_]" or ""
  local ends = pattern:find "[%w*?+]$" and "%f[^%w_]" or ""
  return text:match(starts .. pattern .. ends)
end

--- The first replaced name in a text.
-- @tparam string text
-- @treturn ?string the name
-- @treturn ?string its replacement
function M.replaced_name(text)
  for _, entry in ipairs(replaced) do
    local found = matches_name(text, entry[1])
    if found then return found, entry[2] end
  end
end

-- ----------------------------------------------------------------- English

-- Strings that read as text: messages, help, names of specs.
local function messages(code, pieces)
  for text in code:gmatch '"([^"]*)"' do
    if text:find "%l %l" then pieces[#pieces + 1] = text end
  end
end

local readers = {}

--- Comments and messages. `state.open`: inside a block comment.
function readers.c(line, state)
  local pieces, rest = {}, line
  while rest ~= "" do
    if state.open then
      local text, after = rest:match "^(.-)%*/(.*)$"
      pieces[#pieces + 1] = (text or rest):gsub("^%s*%*+%s?", "")
      state.open, rest = not text, after or ""
    else
      local code, after = rest:match "^(.-)/%*+(.*)$"
      messages(code or rest, pieces)
      state.open, rest = code ~= nil, after or ""
    end
  end
  return pieces
end

function readers.lua(line)
  local pieces, code, comment = {}, line:match "^(.-)%-%-+(.*)$"
  messages(code or line, pieces)
  pieces[#pieces + 1] = comment
  return pieces
end

function readers.sh(line)
  local pieces = {}
  messages(line, pieces)
  pieces[#pieces + 1] = line:match "#+ (.*)$"
  return pieces
end

--- Text outside of fenced blocks, cell by cell in tables.
function readers.md(line, state)
  if line:find "^```" then
    state.open = not state.open
    return {}
  end
  if state.open then return {} end
  local pieces = {}
  for cell in line:gmatch "[^|]+" do pieces[#pieces + 1] = cell:gsub("^[%s>*#-]+", "") end
  return pieces
end

local kinds = { c = "c", h = "c", lua = "lua", md = "md", sh = "sh" }

local function is_question(text, from) return (text:match("[.?!]", from) or ".") == "?" end

--- What the project's English avoids in a piece of prose.
-- @tparam string text
-- @treturn ?string the words
-- @treturn ?string advice
function M.avoided_english(text)
  text = text:gsub("`[^`]*`", "`…`"):gsub("^%s+", "")
  for _, entry in ipairs(avoided) do
    local pattern = entry[1]
    if not entry.opening then
      local found = text:match(pattern)
      if found then return found, entry[2] end
    else
      for _, start in ipairs { "^()", "[.:;!?]%s+()" } do
        local from, words = text:match(start .. "(" .. pattern .. ")")
        if from and not is_question(text, from) then return words, entry[2] end
      end
    end
  end
end

--- The pieces of prose in a line of a file.
-- @tparam string path
-- @tparam string line
-- @tparam table state of this file, empty at first
-- @treturn table strings
function M.prose(path, line, state)
  local kind = kinds[path:match "%.(%w+)$"] or "sh"
  return readers[kind](line, state)
end

-- ------------------------------------------------------------------- files

local function lines_of(command)
  local pipe <close> = assert(io.popen(command))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  return lines
end

-- Text files, but for inputs of fuzz targets, the licence, and these lists.
local function text_files()
  return lines_of [[find csrc lua rockspec spec examples .ci Makefile *.md -type f \
    ! -path 'spec/fuzz/*/*' ! -path 'spec/lint/*' ! -name '*.wasm' | sort]]
end

local function check_line(path, number, line, state, report)
  local name, instead = M.replaced_name(line)
  if name then report(("%s:%d: '%s' was replaced: %s"):format(path, number, name, instead)) end
  for _, piece in ipairs(M.prose(path, line, state)) do
    local words, advice = M.avoided_english(piece)
    if words then report(("%s:%d: avoid '%s': %s"):format(path, number, words, advice)) end
  end
end

--- Checks all files and prints what it finds.
-- @treturn boolean true: nothing
function M.main()
  local faults = 0
  local function report(message)
    faults = faults + 1
    print(message)
  end
  for _, path in ipairs(text_files()) do
    local name, instead = M.replaced_name(path)
    if name then report(("%s: the name '%s' was replaced: %s"):format(path, name, instead)) end
    local state, number = {}, 0
    for line in io.lines(path) do
      number = number + 1
      check_line(path, number, line, state, report)
    end
  end
  print(faults == 0 and "names and English: no faults" or ("names and English: %d faults"):format(faults))
  return faults == 0
end

if arg and arg[0] and arg[0]:find "lint%.lua$" then os.exit(M.main()) end
return M
