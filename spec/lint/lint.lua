--- Checks every text file of the project for names that were replaced (names.lua)
-- and for English that the project avoids (english.lua). `make lint` runs it, in the
-- project's folder.
local M = {}

local here = debug.getinfo(1, "S").source:match "^@(.*/)" or "./"
local replaced, avoided = dofile(here .. "names.lua"), dofile(here .. "english.lua")

-- ------------------------------------------------------------------- names

--- The first replaced name in a line.
-- @tparam string line
-- @treturn ?string the name
-- @treturn ?string its replacement
function M.replaced_name(line)
  line = line:lower()
  for _, entry in ipairs(replaced) do
    local pattern = entry[1]
    local starts = (pattern:find "^%a" or pattern:find("[%w_]", 1, true) == 1) and "%f[%w_]" or ""
    local ends = pattern:find "[%w*?+]$" and "%f[^%w_]" or ""
    local found = line:match(starts .. pattern .. ends)
    if found then return found, entry[2] end
  end
end

-- ------------------------------------------------------------------- prose

-- A piece of prose is { line = number, text = string }. Strings count if they read
-- as text: messages, help, names of specs.
local function add_message(pieces, line, text)
  if text:find "%l %l" then pieces[#pieces + 1] = { line = line, text = text } end
end

-- A piece that goes on where the last one ended, on the next line, is one with it.
local function add_comment(pieces, line, text)
  local last = pieces[#pieces]
  if last and last.comment and last.last == line - 1 then
    last.text, last.last = last.text .. "\n" .. text, line
  else
    pieces[#pieces + 1] = { line = line, last = line, text = text, comment = true }
  end
end

local function count_lines(text) return select(2, text:gsub("\n", "")) end

-- Reads source with strings and comments. 'tokens' are functions of (text, at) that
-- return the end of a token, its kind and its content, or nothing; each begins with
-- a character of the set 'first'.
local function read_source(text, first, tokens)
  local pieces, at, line = {}, 1, 1
  while true do
    local stop, kind, content
    local start = text:find(first, at)
    if not start then break end
    line, at = line + count_lines(text:sub(at, start - 1)), start
    for _, token in ipairs(tokens) do
      stop, kind, content = token(text, at)
      if stop then break end
    end
    stop = stop or at
    if kind == "string" then add_message(pieces, line, content) end
    if kind == "comment" then
      local number = line
      for row in (content .. "\n"):gmatch "(.-)\n" do
        add_comment(pieces, number, (row:gsub("^%s*[%*%-/]*%s?", "")))
        number = number + 1
      end
    end
    line = line + count_lines(text:sub(at, stop))
    at = stop + 1
  end
  return pieces
end

-- A token with a pattern for its whole; the capture is its content.
local function token(kind, opening, pattern)
  return function(text, at)
    if not text:find("^" .. opening, at) then return nil end
    local _, stop, content = text:find("^" .. pattern, at)
    return stop, kind, content
  end
end

-- A quoted string, in which a backslash takes the next character along.
local function quoted(quote)
  return function(text, at)
    if text:sub(at, at) ~= quote then return nil end
    local stop = at + 1
    while stop <= #text do
      local char = text:sub(stop, stop)
      if char == quote then return stop, "string", text:sub(at + 1, stop - 1) end
      if char == "\n" then return nil end
      stop = stop + (char == "\\" and 2 or 1)
    end
  end
end

-- C puts strings that follow each other together.
local function c_strings(text, at)
  local one = quoted '"'
  local stop, _, content = one(text, at)
  if not stop then return nil end
  local gap = text:match("^%s*()", stop + 1)
  while text:sub(gap, gap) == '"' do
    local next_stop, _, more = one(text, gap)
    if not next_stop then break end
    stop, content = next_stop, content .. more
    gap = text:match("^%s*()", stop + 1)
  end
  return stop, "string", content
end

local readers = {}

function readers.c(text)
  return read_source(text, "[\"'/]", { c_strings, quoted "'", token("comment", "/%*", "/%*(.-)%*/"),
    token("comment", "//", "//([^\n]*)") })
end

function readers.lua(text)
  return read_source(text, "[\"'%[-]", { quoted '"', quoted "'", token("comment", "%-%-%[%[", "%-%-%[%[(.-)%]%]"),
    token("comment", "%-%-", "%-%-([^\n]*)"), token("string", "%[%[", "%[%[(.-)%]%]") })
end

function readers.sh(text)
  return read_source(text, '["#]', { quoted '"', token("comment", "#%s", "#%s([^\n]*)") })
end

--- Paragraphs, items and table cells; not fenced blocks.
function readers.md(text)
  local pieces, fenced, number = {}, false, 0
  for line in (text .. "\n"):gmatch "(.-)\r?\n" do
    number = number + 1
    if line:find "^%s*```" or line:find "^%s*~~~" then
      fenced = not fenced
      pieces[#pieces + 1] = { line = number, text = "" }
    elseif not fenced and line:find "|" then
      for cell in line:gmatch "[^|]+" do pieces[#pieces + 1] = { line = number, text = cell } end
    elseif not fenced and (line:find "^%s*[-*#>%d]+%.? " or not line:find "%S") then
      pieces[#pieces + 1] = { line = number, last = number, text = line:gsub("^[%s>*#%d.-]+", ""), comment = true }
    elseif not fenced then
      add_comment(pieces, number, line)
    end
  end
  return pieces
end

local kinds = { c = "c", h = "c", lua = "lua", ld = "lua", rockspec = "lua", md = "md" }

--- The pieces of prose in a file.
-- @tparam string path
-- @tparam string text
-- @treturn table
function M.prose(path, text) return readers[kinds[path:match "%.(%w+)$"] or "sh"](text) end

-- ----------------------------------------------------------------- English

local function is_question(text, from)
  return ((text .. " "):match("()[.?!][)\"']*%s", from) or 0) == (text .. " "):match("()%?[)\"']*%s", from)
end

-- The position and words of a pattern in a text, as an opening if it is one.
local function find(text, entry)
  local pattern = entry[1]
  if not entry.opening then return text:match("()(" .. pattern .. ")") end
  for _, start in ipairs { "^[%s(]*()", "[.:;!?][)\"']?%s+%(?()", "%s%(()" } do
    local at = 1
    while true do
      local from, words, stop = text:match(start .. "(" .. pattern .. ")()", at)
      if not from then break end
      if not is_question(text, from) then return from, words end
      if start:sub(1, 1) == "^" then break end
      at = stop
    end
  end
end

--- The words in a piece of prose that the project's English avoids.
-- @tparam string text
-- @treturn ?string the words
-- @treturn ?string advice
-- @treturn ?integer on which of its lines, from 0
function M.avoided_english(text)
  text = text:gsub("`[^`\n]*`", "`…`")
  local spaced = text:gsub("\n", " ")
  for _, entry in ipairs(avoided) do
    local from, words = find(spaced, entry)
    if from then return words, entry[2], count_lines(text:sub(1, from)) end
  end
end

-- ------------------------------------------------------------------- files

-- Text files, but for inputs of fuzz targets, test data, and these lists.
local function text_files()
  local pipe = assert(io.popen [[find csrc lua rockspec spec examples .ci Makefile *.md -type f \
    ! -path 'spec/fuzz/*/*' ! -path 'spec/lint/*' ! -name '*.wasm' | sort]])
  local files = {}
  for path in pipe:lines() do files[#files + 1] = path end
  assert(pipe:close() and #files > 100, "run this in the project's folder")
  return files
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local function check_file(path, report)
  local name, instead = M.replaced_name(path)
  if name then report(("%s: the name '%s' was replaced: %s"):format(path, name, instead)) end
  local text, number = read(path), 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    name, instead = M.replaced_name(line)
    if name then report(("%s:%d: '%s' was replaced: %s"):format(path, number, name, instead)) end
    if line:find "^%*[%a]" then report(("%s:%d: a comment's line has lost its second '*'"):format(path, number)) end
  end
  for _, piece in ipairs(M.prose(path, text)) do
    local words, advice, offset = M.avoided_english(piece.text)
    if words then report(("%s:%d: avoid '%s': %s"):format(path, piece.line + offset, words, advice)) end
  end
end

--- Checks all files and prints the faults.
-- @treturn boolean true: there are none
function M.main()
  local faults = 0
  for _, path in ipairs(text_files()) do
    check_file(path, function(message)
      faults = faults + 1
      print(message)
    end)
  end
  print(faults == 0 and "names and English: no faults" or ("names and English: %d faults"):format(faults))
  return faults == 0
end

if arg and arg[0] and arg[0]:find "lint%.lua$" then os.exit(M.main()) end
return M
