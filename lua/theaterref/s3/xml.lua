--- The XML of S3's answers: elements and their texts. Documents with a DTD are refused, so that no
-- entity expands; no server sends one.
-- @module theaterref.s3.xml
local M = {}

local MAX_DEPTH = 16
local GREATER = (">"):byte()
local entities = { amp = "&", lt = "<", gt = ">", quot = '"', apos = "'" }

-- Decodes a reference to a character; an unknown one stays as it is.
local function decode_entity(name)
  local code = name:match "^#(%d+)$" or name:match "^#[xX](%x+)$" and "0x" .. name:match "^#[xX](%x+)$"
  code = code and #code <= 8 and math.tointeger(tonumber(code))
  if code and code <= 0x10FFFF then return utf8.char(code) end
  return entities[name]
end

local function decode(text)
  return text:find("&", 1, true) and text:gsub("&(#?%w+);", decode_entity) or text
end

-- Returns the end of the markup at 'at', if that is not an element.
local function skip(text, at)
  if text:find("^<%?", at) then return select(2, text:find("?>", at, true)) end
  if text:find("^<!%-%-", at) then return select(2, text:find("-->", at + 4, true)) end
end

--- Parses a document.
-- @tparam string text
-- @treturn ?table the root: `name`, `text` and a list of elements; nil: it is no such XML
function M.parse(text)
  local root = { name = "", text = "" }
  local open, at = { root }, 1
  while true do
    local start = text:find("<", at, true)
    local top = open[#open]
    local between = text:sub(at, (start or #text + 1) - 1)
    if between ~= "" then top.text = decode(between) end -- of a leaf, all its text
    if not start then break end
    local finish = skip(text, start)
    if not finish then
      finish = text:find("[<>]", start + 1)
      if not finish or text:byte(finish) ~= GREATER then return nil end
      local slash, name, rest = text:sub(start + 1, finish - 1):match "^(/?)([%w:_.-]+)(.*)$"
      if not name then return nil end
      if slash ~= "" then
        if #open == 1 or top.name ~= name then return nil end
        open[#open] = nil
      else
        local element = { name = name, text = "" }
        top[#top + 1] = element
        if rest:sub(-1) ~= "/" then
          if #open > MAX_DEPTH then return nil end
          open[#open + 1] = element
        end
      end
    end
    at = finish + 1
  end
  if #open > 1 or #root ~= 1 then return nil end
  return root[1]
end

--- An element's first child with a name.
-- @tparam ?table element
-- @tparam string name
-- @treturn ?table
function M.child(element, name)
  for _, child in ipairs(element or {}) do
    if child.name == name then return child end
  end
end

--- The text of that child.
-- @tparam ?table element
-- @tparam string name
-- @treturn ?string
function M.text(element, name)
  local child = M.child(element, name)
  return child and child.text
end

--- The code and the message of an error document.
-- @tparam string text
-- @treturn ?string nil: it is none
-- @treturn ?string
function M.error(text)
  local root = text:find("<Error", 1, true) and M.parse(text)
  if not root or root.name ~= "Error" then return nil end
  return M.text(root, "Code") or "", M.text(root, "Message")
end

--- Text for an element.
-- @tparam string text
-- @treturn string
function M.escape(text)
  return (text:gsub('[&<>"\r\n\t]', function(c) return ("&#%d;"):format(c:byte()) end))
end

return M
