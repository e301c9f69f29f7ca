--- The buckets of a configuration: where each is, whose credentials it is asked with, and whether it works.
-- @module theaterref.cli.buckets
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local credentials = require "theaterref.s3.credentials"
local engines = require "theaterref.store.remote_engine"
local errors = require "theaterref.error"
local places = require "theaterref.s3.place"
local settings = require "theaterref.cli.settings"
local sorted_keys = require "theaterref.sorted_keys"

local M = {}

local BUCKET_SECONDS, ALL_SECONDS = 5, 30 -- time limits for the check of one bucket, and of all
local SKEW_SECONDS = 60                   -- a clock that is wrong by less does no harm

-- Adds where a bucket is and where its credentials come from, or what is wrong with its settings.
local function locate(item, s3, bucket)
  item.place, item.err = places.find(s3, bucket)
  if item.place then item.source, item.err = credentials.find(item.place) end
  return item
end

-- Returns the remote stores of a configuration and the buckets of its `s3`, or else the endpoint itself.
local function list(args, config)
  local items, seen = {}, {}
  for _, id in ipairs(sorted_keys(config.stores or {})) do
    if config.stores[id].remote then
      local store, err = settings.store(args, id)
      local item = { name = "store://" .. id, store = store, err = err }
      if store then
        item.bucket, item.at, seen[store.bucket] = store.bucket, store.name:gsub("/$", ""), true
        locate(item, config.s3, store.bucket)
      end
      items[#items + 1] = item
    end
  end
  for _, bucket in ipairs(sorted_keys(config.s3 and config.s3.buckets or {})) do
    local item = { name = "s3://" .. bucket, bucket = bucket }
    if not seen[bucket] then items[#items + 1] = locate(item, config.s3, bucket) end
  end
  if not items[1] and next(config.s3 or {}) then items[1] = locate({ name = "endpoint" }, config.s3, "any-bucket") end
  return items
end

--- Describes the buckets of a configuration, without secrets. Sends no request.
-- @tparam table args of the command
-- @tparam table config
-- @treturn table a list of `{ name =, bucket =, remote =, endpoint =, region =, credentials = }`, or with `error`
function M.described(args, config)
  local all = {}
  for i, item in ipairs(list(args, config)) do
    local place = item.place
    all[i] = { name = item.name, bucket = item.bucket, remote = item.at, endpoint = place and place.endpoint,
      region = place and place.region, credentials = place and not item.err and Client.credentials_text(item.source) or nil,
      error = item.err and tostring(item.err) }
  end
  return all
end

--- Returns a line about a bucket.
-- @tparam table bucket one of `described`
-- @treturn string
function M.text(bucket)
  if bucket.error then return ("%s: %s"):format(bucket.name, bucket.error) end
  return ("%s: %s%s, region %s, %s"):format(bucket.name, bucket.remote and bucket.remote .. " at " or "", bucket.endpoint,
    bucket.region, bucket.credentials)
end

-- ------------------------------------------------------------------ checks

-- Opens a bucket for the checks, which end at a moment.
local function open(item, args, config, till)
  local request = { retries = 0, connect_timeout = BUCKET_SECONDS }
  for _, name in ipairs { "ca_file", "proxy", "headers", "hosts", "netrc" } do request[name] = config[name] end
  request.ca_file = args.ca_file or request.ca_file
  local function left() return math.max(0, math.ceil(10 * (till - core.now())) / 10) end -- a message has this number
  return Client.open(item.bucket or "any-bucket", { settings = config.s3 or {}, defaults = request,
    await = function(future) return future:wait(left()) end, seconds_left = left })
end

-- Adds to an error what to do about it.
local function advised(err)
  if err.kind == "network" then return tostring(err) .. "; is the endpoint right, and is there a way to it?" end
  if err.kind == "timeout" then return tostring(err) .. "; is the endpoint right, and is the server up?" end
  return tostring(err)
end

-- Returns a sentence about a clock that is wrong, or nil.
local function skew_fault(client)
  local there = client:time()
  local ahead = there and math.floor(os.time() - there) or 0
  if math.abs(ahead) < SKEW_SECONDS then return nil end
  return ("this machine's clock is %d s %s that of %s: synchronize it, for example with chrony"):format(math.abs(ahead),
    ahead > 0 and "ahead of" or "behind", client.place.host)
end

-- Returns what is known about an engine's conditional requests, without asking it.
local function engine_text(store)
  local engine, age = engines.known(store)
  if not engine then return "; conditional writes are not tried out yet: the first move of a label does that" end
  return ("; conditional writes %s, conditional deletes %s (tried out %s ago)"):format(
    engine.moves and "work" or "do not work, so --expect is refused", engine.removes and "work" or "do not work",
    errors.seconds(math.max(0, age)))
end

-- Checks one bucket by reading a list. Returns true and what works, or false and what does not.
local function check(item, args, config, till)
  if item.err then return false, tostring(item.err) end
  local client, err = open(item, args, config, till)
  if not client then return false, tostring(err) end
  local ok
  if item.bucket then
    ok, err = client:list(item.store and item.store.prefix or "", { max = 1 })
  else
    ok, err = client:ask_endpoint()
  end
  local endpoint = ("%s (%s)"):format(item.place.endpoint, item.place.region)
  local whose = Client.credentials_text(item.source)
  local late = skew_fault(client)
  if not ok and late and (err.status == 401 or err.status == 403) then return false, late end
  if not ok and err.code == "AccessDenied" and not item.store then
    return true, ("%s answers, but refuses a list (%s): to check that objects can be read, give one with --url s3://…")
      :format(endpoint, whose)
  end
  if not ok then return false, advised(err) end
  if late then return false, late end
  return true, ("%s answers (%s)%s"):format(endpoint, whose, item.store and engine_text(item.store) or "")
end

--- Checks that every remote store, every bucket in the configuration's `s3`, or else its endpoint, can be read. It writes
-- nothing.
-- @tparam table args of the command
-- @tparam table config
-- @treturn table a list of `{ ok =, text = }`
function M.check(args, config)
  local items = list(args, config)
  if not items[1] then return { { ok = true, text = "no remote store and no bucket is configured" } } end
  if args.offline or config.offline then return { { ok = true, text = "not tried: the configuration is offline" } } end
  local results, till = {}, core.now() + ALL_SECONDS
  for i, item in ipairs(items) do
    local now = core.now()
    local ok, text = false, ("not checked: the checks of other buckets took %d s"):format(ALL_SECONDS)
    if now < till then ok, text = check(item, args, config, math.min(now + BUCKET_SECONDS, till)) end
    text = text:gsub("^s3://[^:]*: ", "") -- it is named already
    results[i] = { ok = ok, text = ("%s%s: %s"):format(item.name, item.at and " in " .. item.at or "", text) }
  end
  return results
end

return M
