--- `http://` and `https://`, with `#sha256=<hex>` or `#sha1=<hex>`: the digest that the
-- body must have.
-- @module theaterref.source.http
local core = require "theaterref.core"
local errors = require "theaterref.error"
local paths = require "theaterref.paths"

local M = { fetches = true }

local function invalid(reference, why) return nil, errors.new("invalid_reference", why, reference) end

local MALFORMED = "Invalid digest: #sha256= takes 64 hex digits, #sha1= takes 40"
local digits = { sha1 = 40, sha256 = 64 }

local function decode(hex) return string.char(tonumber(hex, 16)) end

-- Reads the digests in a fragment into 'parsed'. Fields are separated by '&'; a field
-- that is no digest means nothing to us. Returns the fault of a digest, if there is one.
local function read_digests(parsed, fragment)
  for field in fragment:gmatch "[^&]+" do
    local name, value = field:match "^([^=]*)=?(.*)$"
    name = name:gsub("%%(%x%x)", decode):lower()
    if digits[name] then
      value = value:lower()
      if #value ~= digits[name] or not value:find "^%x+$" then return MALFORMED end
      if parsed[name] and parsed[name] ~= value then
        return "Invalid digest: #" .. name .. "= is there twice, with different ones"
      end
      parsed[name] = value
    elseif name:find "^sha" then
      return MALFORMED
    end
  end
end

-- The last URLs that were parsed: most are asked for again. Long ones are not kept: a
-- script could ask for many.
local parsed_urls, parsed_count = {}, 0

local function remember(reference, parsed)
  if #reference > 4096 then return parsed end
  if parsed_count >= 256 then parsed_urls, parsed_count = {}, 0 end
  parsed_urls[reference], parsed_count = parsed, parsed_count + 1
  return parsed
end

function M.parse(reference, scheme)
  if parsed_urls[reference] then return parsed_urls[reference] end
  local parts, fault = core.parse_url(reference)
  if not parts then return invalid(reference, "Invalid URL: " .. fault) end
  local url = parts.url
  if parts.userinfo then url = url:gsub("^%a+://", function(start) return start .. parts.userinfo .. "@" end) end
  local fragment = parts.fragment and "#" .. parts.fragment or ""
  local parsed = { scheme = scheme, text = url .. fragment, url = url, host = parts.host, port = parts.port }
  fault = read_digests(parsed, parts.fragment or "")
  if fault then return invalid(reference, fault) end
  return remember(reference, parsed)
end

function M.join(base, reference) return paths.join_url(base.url, reference) end

function M.key(parsed) return parsed.url end

--- Appends an ending to the path.
function M.beside(parsed, ending)
  local before, query = parsed.url:match "^([^?]*)(.*)$"
  return before .. ending .. query
end

function M.is_remote() return true end

--- Starts the fetch. The engine completes `job.lead`, the future that leads a claim, if
-- there is one. Others may wait for that one longer than this task may.
function M.start(job, _, task)
  local left = not job.lead and task.deadline and math.max(0, task.deadline - core.now()) or nil
  local future, err = core.fetch(job.parsed.url, job.request.compiled, job.lead, job.sha256 or job.sha1,
    task.will_wait, left)
  return future and { future = future }, err
end

return M
