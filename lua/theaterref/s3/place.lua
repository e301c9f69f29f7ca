--- The place of a bucket: its endpoint, region and URL, from the configuration, the environment and
-- the shared files of AWS.
-- @module theaterref.s3.place
local core = require "theaterref.core"
local errors = require "theaterref.error"
local option_sets = require "theaterref.options"
local profiles = require "theaterref.s3.profiles"
local text = require "theaterref.s3.text"
local is_loopback = require "theaterref.loopback"

local M = {}

local overlay, set = option_sets.overlay, profiles.set

-- The settings that identify the caller.
local PRINCIPAL = { "access_key_id", "secret_access_key", "session_token", "profile", "credential_process", "anonymous" }

--- The settings of a bucket: the general ones, and its own on top of them.
-- @tparam ?table settings the configuration's `s3`
-- @tparam string bucket
-- @treturn table
function M.settings(settings, bucket)
  settings = settings or {}
  local own = settings.buckets and settings.buckets[bucket]
  local all = overlay(settings, own)
  all.buckets = nil
  -- Keys and profiles replace each other as a whole: half of a principal is useless.
  if own and (own.access_key_id or own.profile or own.credential_process or own.anonymous) then
    for _, name in ipairs(PRINCIPAL) do all[name] = own[name] end
  end
  return all
end

-- Returns the endpoint that is configured, or nil: Amazon's.
local function endpoint_of(settings, profile)
  if settings.endpoint then return settings.endpoint, "s3.endpoint of the configuration" end
  if set "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" == "true" then return nil end
  for _, name in ipairs { "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL" } do
    if set(name) then return set(name), name end
  end
  return profile.endpoint_url, "endpoint_url of the profile " .. (profile.name or "default")
end

local function fault(bucket, why) return nil, errors.new("policy", ("s3://%s: %s"):format(bucket, why)) end

-- True for a bucket whose name can be part of a host name that a certificate covers.
local function fits_host(bucket)
  return #bucket <= 63 and bucket:find "^[%l%d][%l%d-]*[%l%d]$" ~= nil
end

--- Finds a bucket.
-- @tparam ?table settings the configuration's `s3`
-- @tparam string bucket
-- @treturn table `bucket`, `settings` (the bucket's), `region`, `endpoint` (an origin), `host`, `port`, `url` (of the
-- bucket, ending in `/`)
-- @return[2] nil
-- @treturn[2] table an error
function M.find(settings, bucket)
  settings = M.settings(settings, bucket)
  local profile, err = profiles.get(settings.profile)
  if not profile then return nil, err end
  local region = settings.region or set "AWS_REGION" or set "AWS_DEFAULT_REGION" or profile.region or "us-east-1"
  if not region:find "^[%l%d-]+$" then
    return fault(bucket, ("'%s' is not a region; it has a-z, 0-9 and '-'"):format(region))
  end
  local endpoint, from = endpoint_of(settings, profile)
  local is_amazon = not endpoint
  endpoint = endpoint or ("https://s3.%s.amazonaws.com%s"):format(region, region:find "^cn%-" and ".cn" or "")
  local parts, why = core.parse_url(endpoint)
  if parts and (parts.userinfo or parts.fragment or not parts.url:find "^https?://[^/?]*/?$") then
    parts, why = nil, "it has the form https://host or https://host:port"
  end
  if not parts then return fault(bucket, ("the endpoint from %s is invalid: %s"):format(from, why)) end
  local is_plain = parts.url:find "^http:" ~= nil
  if is_plain and not settings.plain_http and not is_loopback(parts.host) then
    return fault(bucket, ("its endpoint %s speaks plain http; to allow it, set plain_http = true in the configuration's s3")
      :format(parts.url))
  end
  local origin = parts.url:gsub("/$", "")
  local place = { bucket = bucket, settings = settings, region = region, endpoint = origin, profile = profile,
    is_amazon = is_amazon or parts.host:find "%.amazonaws%.com$" ~= nil or parts.host:find "%.amazonaws%.com%.cn$" ~= nil }
  local style = settings.style or place.is_amazon and fits_host(bucket) and "virtual" or "path"
  if style == "virtual" then
    if not bucket:find "^[%l%d][%l%d.-]*[%l%d]$" then
      return fault(bucket, "the bucket's name cannot be a part of a host's; set style = \"path\"")
    end
    place.url = origin:gsub("^(https?://)(.*)$", function(scheme, host) return scheme .. bucket .. "." .. host .. "/" end)
  else
    place.url = origin .. "/" .. text.encode(bucket) .. "/"
  end
  parts, why = core.parse_url(place.url)
  if not parts then return fault(bucket, why) end
  place.host, place.port = parts.host, parts.port
  return place
end

--- True if the endpoint of a bucket speaks plain http.
-- @tparam ?table settings the configuration's `s3`
-- @tparam string bucket
-- @treturn boolean
function M.is_plain(settings, bucket)
  local place = M.find(settings, bucket)
  return place ~= nil and place.endpoint:find "^http:" ~= nil
end

return M
