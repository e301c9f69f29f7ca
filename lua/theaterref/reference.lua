--- References: what they look like, and how one is read relative to another.
-- This is the only place that knows their grammar.
-- @module theaterref.reference
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

local function invalid(reference, why)
  return nil, errors.new("invalid_reference", why, reference)
end

--- The scheme in front of `://`, in lower case, or nil.
-- @tparam string reference
-- @treturn ?string
function M.scheme(reference)
  if not reference:find("://", 1, true) then return nil end -- as most do not, and this is quicker
  local scheme = reference:match("^(%a[%w+.-]*)://")
  return scheme and scheme:lower()
end

--- True if theaterref itself reads a scheme.
-- @tparam string scheme
-- @treturn boolean
function M.is_own_scheme(scheme)
  return scheme == "file" or scheme == "store" or scheme == "http" or scheme == "https"
end

-- file:///path or file://localhost/path, with %XX (RFC 8089).
local function parse_file(reference)
  local host, path = reference:match "^%a+://([^/]*)(/[^?#]*)$"
  if not path or host ~= "" and host:lower() ~= "localhost" then
    return invalid(reference, "Invalid file URL: " .. reference .. " (it has the form file:///path)")
  end
  path = path:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  if path:find("\0", 1, true) then return invalid(reference, "Invalid path: it has a zero byte in it") end
  return { scheme = "file", path = path }
end

local function parse_store(reference)
  local id, rest = reference:match("^%a+://([^/]*)/(.+)$")
  local function bad(why)
    return invalid(reference, "Invalid store path format: " .. reference .. why)
  end
  if not id or id == "" then return bad("") end
  local fault = core.label_fault(id)
  if fault then return bad(" (the store id: " .. fault .. ")") end
  local hash = rest:match("^hash/(.*)$")
  if hash then
    if not (hash:match("^%x+$") and (#hash == 40 or #hash == 64)) then
      return bad(" (a hash has 40 or 64 hex digits)")
    end
    return { scheme = "store", id = id, hash = hash:lower() }
  end
  fault = core.label_fault(rest)
  if fault then return bad(" (the label: " .. fault .. ")") end
  return { scheme = "store", id = id, label = rest }
end

-- The last URLs that were parsed: most are asked for again.
local parsed_urls, parsed_count = {}, 0

local function remember(reference, parsed)
  if parsed_count >= 256 then parsed_urls, parsed_count = {}, 0 end
  parsed_urls[reference], parsed_count = parsed, parsed_count + 1
  return parsed
end

-- A fragment may be the digest that the body must have. Any other fragment means
-- nothing to a server.
local function parse_url(reference, scheme)
  if parsed_urls[reference] then return parsed_urls[reference] end
  if reference:find("\0", 1, true) then return invalid(reference, "Invalid URL: it has a zero byte in it") end
  local parts, fault = core.parse_url(reference)
  if not parts then return invalid(reference, "Invalid URL: " .. fault) end
  local algorithm, digest = (parts.fragment or ""):match("^(sha%d+)=(.*)$")
  local length = ({ sha1 = 40, sha256 = 64 })[algorithm]
  if algorithm and not (length and #digest == length and digest:match("^%x+$")) then
    return invalid(reference, "Invalid digest: #sha256= takes 64 hex digits, #sha1= takes 40")
  end
  local url = parts.url
  if parts.userinfo then url = url:gsub("^%a+://", function(start) return start .. parts.userinfo .. "@" end) end
  return remember(reference, { scheme = scheme, url = url, host = parts.host, port = parts.port,
    digest = digest and digest:lower() })
end

--- Takes a reference apart.
-- @tparam string reference
-- @tparam[opt] table schemes names of other schemes that count as such
-- @treturn table `{ scheme = "file", path }`, `{ scheme = "store", id, hash or
-- label }`, `{ scheme = "http" or "https", url, host, port, digest }`, with the URL in
-- normal form, or, for another scheme in `schemes`, `{ scheme }`
-- @return[2] nil
-- @treturn[2] table an error of kind `invalid_reference`
function M.parse(reference, schemes)
  if reference == "" then return invalid(reference, "Invalid reference: it is empty") end
  local scheme = M.scheme(reference)
  if scheme == "store" then return parse_store(reference) end
  if scheme == "http" or scheme == "https" then return parse_url(reference, scheme) end
  if scheme == "file" then return parse_file(reference) end
  if scheme and schemes and schemes[scheme] then return { scheme = scheme } end
  if reference:find("\0", 1, true) then
    return invalid(reference:gsub("%z", "\\0"), "Invalid path: it has a zero byte in it")
  end
  return { scheme = "file", path = reference }
end

-- A path without its '.' and '..' parts, and whether it stayed below its root.
local function normalize(path)
  local parts, inside = {}, true
  for part in path:gmatch("[^/]+") do
    if part == ".." then
      inside = inside and #parts > 0
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  local folder = #parts > 0 and (path:match("/$") or path:match("/%.%.?$"))
  return table.concat(parts, "/") .. (folder and "/" or ""), inside
end

-- RFC 3986, section 5.2, for http and https.
local function join_url(base, reference)
  local scheme, authority, path = base:match("^(%a[%w+.-]*):(//[^/?#]*)([^?#]*)")
  if reference:match("^//") then return scheme .. ":" .. reference end
  local target, tail = reference:match("^([^?#]*)(.*)$")
  if target == "" then
    return scheme .. ":" .. authority .. path .. tail
  end
  if not target:match("^/") then target = (path:match("^(.*/)") or "/") .. target end
  -- '..' past the root stays at the root, as browsers have it.
  return scheme .. ":" .. authority .. "/" .. normalize(target) .. tail
end

local function join_store(base, reference)
  if reference:match("^/") then return reference end -- a store's manifest is as local as a file's
  local parsed, err = parse_store(base)
  if not parsed then return nil, err end
  local folder = parsed.label and parsed.label:match("^(.*/)") or ""
  local label, inside = normalize(folder .. reference)
  if not inside then
    return invalid(reference, "Invalid reference: " .. reference .. " leads out of the store of " .. base)
  end
  return "store://" .. parsed.id .. "/" .. label
end

local function join_path(base, reference)
  if reference:match("^/") then return reference end
  if not base:match("^/") then base = core.working_folder() .. "/" .. base end
  local folder = base:match("^(.*/)")
  local path = folder .. reference
  if not path:find("/./", 1, true) then return path end
  return path:gsub("/%./", "/"):gsub("/%./", "/")
end

--- A path as an absolute one; other references stay as they are.
-- @tparam string reference
-- @treturn string
function M.absolute(reference)
  if M.scheme(reference) then return reference end
  return join_path(core.working_folder() .. "/", reference)
end

--- Joins a reference to the document at `base`: it is relative to the document's
-- folder, URL or store. A reference with a scheme of its own, and an
-- absolute path in a local document, stay as they are.
-- @tparam ?string base where the document came from; nil: nothing changes
-- @tparam string reference
-- @treturn string an absolute path, a URL or a store reference
-- @return[2] nil
-- @treturn[2] table an error of kind `invalid_reference`
function M.join(base, reference)
  if not base or M.scheme(reference) then return reference end
  local scheme = M.scheme(base)
  if scheme == "http" or scheme == "https" then return join_url(base, reference) end
  if scheme == "store" then return join_store(base, reference) end
  return (join_path(base, reference))
end

return M
