--- `s3://bucket/key[?versionId=…][#sha256=<hex>]`: an object of a store that speaks the protocol
-- of Amazon S3. The key is literal. Only the configuration and the environment choose the endpoint
-- and the credentials; references cannot.
-- @module theaterref.source.s3
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local credentials = require "theaterref.s3.credentials"
local errors = require "theaterref.error"
local overlay = require("theaterref.options").overlay
local places = require "theaterref.s3.place"
local text = require "theaterref.s3.text"

local M = { fetches = true }

local MAX_VERSION_BYTES = 1024

-- --------------------------------------------------------------- references

local function invalid(reference, why) return nil, errors.new("invalid_reference", "Invalid reference: " .. why, reference) end

-- Returns what is wrong with a bucket's name, or nil.
local function bucket_fault(bucket)
  if #bucket < 3 or #bucket > 63 or not bucket:find "^[%l%d][%l%d.-]*[%l%d]$" or bucket:find("..", 1, true)
    or bucket:find "^%d+%.%d+%.%d+%.%d+$" then
    return "a bucket's name has 3 to 63 characters, which are a-z, 0-9, '-' and '.'"
  end
end

-- Returns what is wrong with a key, or nil.
local function key_fault(key)
  if key == "" then return "it names no key: it has the form s3://bucket/key" end
  if #key > text.MAX_KEY_BYTES then return ("its key has %d bytes; %d are allowed"):format(#key, text.MAX_KEY_BYTES) end
  if key:find(".", 1, true) and ("/" .. key .. "/"):find "/%.%.?/" then
    return "its key has a segment '.' or '..', which no URL can name"
  end
end

-- Removes the digest and the version from the end of a reference without its scheme. Returns the
-- rest, the version and the digest; or nil and what is wrong.
local function take_ends(rest)
  if not rest:find "[#?]" then return rest end
  local before, digest = rest:match "^(.*)#[Ss][Hh][Aa]%d*=([^/#]*)$"
  if before then
    if not rest:find "#sha256=%x*$" or #digest ~= 64 then return nil, "after '#' it takes sha256=<64 hex digits>" end
    rest, digest = before, digest:lower()
  end
  local path, version = rest:match "^(.*)%?versionId=(.*)$"
  if not path then return rest, nil, digest end
  if not version:find "^[%w._~+/=-]+$" or #version > MAX_VERSION_BYTES then
    return nil, "?versionId= takes the id of a version"
  end
  return path, version, digest
end

-- The reference to a key.
local function text_of(bucket, key, version, digest)
  return ("s3://%s/%s%s%s"):format(bucket, key, version and "?versionId=" .. version or "", digest and "#sha256=" .. digest or "")
end

function M.parse(reference)
  local rest, version, digest = take_ends(reference:match "^%a[%w+.-]*://(.*)$")
  if not rest then return invalid(reference, version) end
  local bucket, key = rest:match "^([^/]*)/?(.*)$"
  local fault = bucket_fault(bucket) or key_fault(key)
  if fault then return invalid(reference, fault) end
  local address = text_of(bucket, key, version)
  return { scheme = "s3", text = digest and text_of(bucket, key, version, digest) or address, bucket = bucket, key = key,
    version = version, sha256 = digest, address = address }
end

-- Returns a key without the segments '.' and '..'; nil: it leads out of the bucket.
local function without_dots(key)
  local segments = {}
  for segment in (key .. "/"):gmatch "([^/]*)/" do
    if segment == ".." then
      if #segments == 0 then return nil end
      segments[#segments] = nil
    elseif segment ~= "." then
      segments[#segments + 1] = segment
    end
  end
  return table.concat(segments, "/")
end

--- A key in the same bucket, relative to the folder of the base; with a '/' in front, to the bucket.
function M.join(base, relative)
  local path, version, digest = take_ends(relative)
  if not path then return invalid(relative, version) end
  local key = path:find "^/" and path:sub(2) or (base.key:match "^(.*/)" or "") .. path
  key = without_dots(key)
  if not key or key == "" or path == "" then
    return invalid(relative, ("it leads to no key of the bucket %s"):format(base.bucket))
  end
  return text_of(base.bucket, key, version, digest)
end

function M.key(parsed) return parsed.address end

--- Appends an ending to the key.
function M.beside(parsed, ending) return text_of(parsed.bucket, parsed.key .. ending) end

function M.is_remote() return true end

function M.is_immutable(parsed) return parsed.version ~= nil and parsed.version ~= "null" end

-- ----------------------------------------------------------------- requests

--- The host that is asked for a reference: options by host apply to it.
function M.host(parsed, context)
  local place = places.find(context.s3, parsed.bucket)
  if place then return place.host, place.port end
end

-- Adapted requests, by their original and their bucket. They last a second: then files with
-- credentials are checked again.
local adapted, LOOK_SECONDS, MAX_ADAPTED = setmetatable({}, { __mode = "k" }), 1, 256

-- The scope in caches of a bucket's bytes; and true if they may be on disk: a scope without a name
-- means nothing to another process, and holds credentials.
local function scope_of(place, source, options)
  local identity = credentials.identity(source)
  local named = identity == "" and options
    or overlay(options, { headers = overlay(options.headers or {}, { ["Theaterref-Identity"] = identity }) })
  local scope = core.request_scope(core.request_options(named))
  return core.digest(place.url .. "\n" .. scope), scope == "" or options.cache_scope ~= nil
end

-- Makes the request for a bucket, without credentials: cached bytes need none.
local function make(parsed, context, request)
  local place, err = places.find(context.s3, parsed.bucket)
  local source
  if place then source, err = credentials.find(place) end
  if err then return nil, err end
  local options = Client.with_settings(place, request.options)
  local scope, may_be_on_disk = scope_of(place, source, options)
  return { compiled = request.compiled, options = options, scope = scope, may_be_on_disk = may_be_on_disk,
    revalidate = request.revalidate, max_bytes = request.max_bytes, timeout = request.timeout, origin = place.url,
    place = place, source = source, signed = {} }
end

--- Adapts the options of a job's request to its bucket: the source of its credentials, and the
-- scope of its bytes in caches. The source is not asked yet.
function M.request(job, context, request)
  local bucket = job.parsed.bucket
  local of_request = adapted[request]
  local before = of_request and of_request[bucket]
  local made = before and core.now() < before.at + LOOK_SECONDS and before.request
  if not made then
    local err
    made, err = make(job.parsed, context, request)
    if not made then return nil, err end
    if not of_request or of_request.count >= MAX_ADAPTED then
      of_request = { count = 0 }
      adapted[request] = of_request
    end
    if not before then of_request.count = of_request.count + 1 end
    of_request[bucket] = { at = core.now(), request = made }
  end
  if context.trace then
    context.trace { rule = "s3", by = made.place.endpoint, reference = errors.redact_reference(job.target),
      answer = ("region %s, %s"):format(made.place.region, Client.credentials_text(made.source)) }
  end
  return made
end

-- Compiles the options of a request with its credentials, once for each set.
local function sign(request, task)
  local found, err = credentials.get(request.source, function(future, shared) return task:await(future, shared) end,
    request.timeout)
  if not found then return nil, err end
  local signed = request.signed
  if signed.found ~= found then
    local compiled
    compiled, err = Client.compile(request.place, request.options, found)
    if not compiled then return nil, err end
    signed.found, signed.compiled = found, compiled
  end
  return signed.compiled, nil, found
end

-- Failures of one task's wait for credentials; others may have more time.
local own_ends = { cancelled = true, timeout = true }

--- Gets the credentials for a fetch before it claims the key, because others wait for claims.
-- @return true
-- @return[2] nil
-- @treturn[2] table an error
function M.prepare(job, task)
  local err
  job.signed, err, job.credentials = sign(job.request, task)
  return job.signed and true, err
end

--- Forgets the credentials of a job, if its fetch was refused because of them.
-- @treturn boolean whether it may be fetched once more
function M.renew(job, err) return credentials.renew(job.request.source, job.credentials, err) end

--- Starts the fetch, signed. The engine completes `job.lead`, the future that leads a claim, if there is one.
-- Others may wait for that one longer than this task may.
function M.start(job, _, task)
  local request, parsed = job.request, job.parsed
  local compiled, err = job.signed, nil
  if not compiled then compiled, err, job.credentials = sign(request, task) end -- a load in the background
  if not compiled then
    if job.lead and own_ends[err.kind] then job.lead:cancel() end
    return nil, err
  end
  local version = parsed.version or job.locked_version
  local url = request.origin .. text.encode_key(parsed.key) .. (version and "?versionId=" .. text.encode(version) or "")
  local left = not job.lead and task.deadline and math.max(0, task.deadline - core.now()) or nil
  local future
  future, err = core.fetch(url, compiled, job.lead, job.sha256 or job.sha1, task.will_wait, left)
  return future and { future = future }, err
end

return M
