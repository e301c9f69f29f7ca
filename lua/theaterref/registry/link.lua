--- The header `Link` of a list's page (RFC 8288).
-- @module theaterref.registry.link
local M = {}

-- Reads the value of a parameter: a word, or a quoted text. Returns it, and where it ends.
local function read_value(header, at)
  if header:sub(at, at) ~= '"' then return header:match("^([^%s;,]*)()", at) end
  local from = at + 1
  while true do
    local stop = header:find('["\\]', at + 1)
    if not stop then return nil, #header + 1 end
    if header:sub(stop, stop) == '"' then return header:sub(from, stop - 1), stop + 1 end
    at = stop + 1 -- past the character after the backslash
  end
end

-- Reads the parameters of a link. Returns its relations, and where they end.
local function read_parameters(header, at)
  local relations
  while true do
    local name, after = header:match("^%s*;%s*([^%s=;,]*)%s*()", at)
    if not name then return relations or "", at end
    at = after
    if header:sub(at, at) == "=" then
      local value
      value, at = read_value(header, header:match("^=%s*()", at))
      if name:lower() == "rel" then relations = relations or value end -- the first one counts
    end
  end
end

--- Finds the next page of a list, in linear time.
-- @tparam ?string header
-- @treturn ?string a URL, which may be relative
function M.next(header)
  local at = header and header:find("<", 1, true)
  while at do
    local stop = header:find(">", at, true)
    if not stop then return nil end
    local relations, after = read_parameters(header, stop + 1)
    for relation in relations:lower():gmatch "%S+" do
      if relation == "next" then return header:sub(at + 1, stop - 1) end
    end
    at = header:find("<", after, true)
  end
end

return M
