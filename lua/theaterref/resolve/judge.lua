--- Judging: whether a consumer takes a job's bytes. Bytes of a cache that it rejects are loaded again.
-- @module theaterref.resolve.judge
local caches = require "theaterref.cache"
local core = require "theaterref.core"
local gets = require "theaterref.resolve.get"
local kept = require "theaterref.resolve.kept"
local trust = require "theaterref.resolve.trust"

local M = {}

-- Tells the caches of a job, and of those it led to, what its consumer thinks of its bytes.
local function tell_caches(job, blob, accepted)
  while job do
    if job.cache and accepted then
      job.cache:accept(job.key)
    elseif job.cache and job.cache:reject(job.key, blob) and job.wrote_disk then
      job.disk:forget(job.key)
    end
    job = job.led_to
  end
end

-- Returns bytes as memory that nobody can write to, and has the caches of a job hold that.
local function owned(job, blob)
  local own = core.unmapped(blob)
  if rawequal(own, blob) then return blob end
  while job do
    if job.cache then job.cache:swap(job.key, blob, own) end
    job = job.led_to
  end
  return own
end

-- Loads a job's bytes again, for all who reject what a cache has. They wait for one load.
local function reload(context, task, job)
  gets.load_again(job)
  job.hit, job.known, job.led_to, job.disk, job.revalidate = false, nil, nil, nil, false
  local blob, err = gets.get(context, task, job)
  return blob and core.unmapped(blob), err
end

-- Ends a reload: bytes that were accepted go in the place of the old ones.
local function end_reload(context, task, job, blob, accepted)
  while job do
    local key = job.key
    if job.usual_key then job.key, job.content, job.no_disk = table.unpack(job.usual_key, 1, 3) end
    local now = accepted and job.cache and job.cache:peek(key, job.request and job.request.compiled, true)
    if now then
      local record = core.record(now)
      kept.put(context, job, blob, record)
      job.disk = job.source.fetches and not job.no_disk and caches.disk_cache_of(job.cache) or nil
      if job.disk then kept.keep_on_disk(context, task, job, blob, record) end
    end
    if job.cache and blob then job.cache:reject(key, now or blob) end
    job.usual_key, job = nil, job.led_to
  end
end

-- Returns bytes that another's reload has put in the place of rejected ones, if they are good.
local function newer_than(context, task, job, blob, loads)
  local now = job.cache:peek(job.key, job.request and job.request.compiled, true)
  if not now or now == blob then return nil end
  kept.set_origin(job, core.record(now))
  now = owned(job, now)
  return trust.judge(context, task, job, now, loads) and now or nil
end

--- Judges a job's bytes for this consumer. If it does not take those of a cache, the source is
-- asked again, once for the same bytes. Returns the bytes that it takes.
function M.judged(context, task, job, blob, loads)
  if not trust.applies(context, job) then return blob end
  blob = owned(job, blob)
  local ok, err, what = trust.judge(context, task, job, blob, loads)
  if ok then
    tell_caches(job, blob, true)
    return blob
  end
  if not what then return nil, err end
  tell_caches(job, blob, false)
  if not job.hit or not job.cache or job.sha256 or job.follow or context.offline then return nil, err end
  what = what .. "\n" .. job.target
  if core.noted(blob, what) then
    local newer = newer_than(context, task, job, blob, loads)
    if newer then return newer end
    return nil, err
  end
  local again = reload(context, task, job)
  local accepted = again and trust.judge(context, task, job, again, loads) or false
  if again then core.noted(blob, what, true) end
  end_reload(context, task, job, again, accepted)
  if not accepted then return nil, err end
  tell_caches(job, again, true)
  return again
end

return M
