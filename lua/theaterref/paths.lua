--- Paths in references: '.' and '..'.
-- @module theaterref.paths
local M = {}

--- Returns a path without its '.' and '..' parts.
-- @tparam string path
-- @treturn string
-- @treturn boolean false: it leads out of its root
function M.normalize(path)
  local parts, inside = {}, true
  for part in path:gmatch "[^/]+" do
    if part == ".." then
      inside = inside and #parts > 0
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  local folder = #parts > 0 and (path:match "/$" or path:match "/%.%.?$")
  return table.concat(parts, "/") .. (folder and "/" or ""), inside
end

--- Joins a reference to a URL, as RFC 3986, section 5.2 says. '..' past the root stays
-- at the root, as in browsers.
-- @tparam string base a URL
-- @tparam string reference relative
-- @treturn string
function M.join_url(base, reference)
  local scheme, authority, path = base:match "^(%a[%w+.-]*):(//[^/?#]*)([^?#]*)"
  if reference:find "^//" then return scheme .. ":" .. reference end
  local target, tail = reference:match "^([^?#]*)(.*)$"
  if target == "" then return scheme .. ":" .. authority .. path .. tail end
  if not target:find "^/" then target = (path:match "^(.*/)" or "/") .. target end
  return scheme .. ":" .. authority .. "/" .. M.normalize(target) .. tail
end

return M
