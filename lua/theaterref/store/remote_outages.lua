--- Outages of remote stores: while one is known, the bucket is not asked about known labels.
-- @module theaterref.store.remote_outages
local core = require "theaterref.core"
local places = require "theaterref.s3.place"

local M = {}

-- An outage is assumed to last ten times as long as it took to notice, within these limits. During that time the bucket is
-- not asked about known labels. A note in the folder tells other processes.
local OUTAGE_FACTOR, MIN_OUTAGE, MAX_OUTAGE = 10, 1, 30

-- Options and variables that decide whether a request reaches the bucket.
local REACHING = { "proxy", "timeout", "connect_timeout", "stall_timeout", "unix_socket", "refuse_private", "ca_file" }
local PROXIES = { "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY" }

-- The name of the note of an outage. It is for processes that reach the bucket as this one does: a wrong proxy or a short time
-- limit of one process says nothing about the bucket.
local function outage_name(self)
  local shared = self.shared
  if not shared.outage_name then
    local place = places.find(self.options.s3, self.bucket)
    local request = place and require("theaterref.s3.client").request_of(place, self.options.request or {}) or {}
    local parts = { self.identity }
    for _, name in ipairs(REACHING) do parts[#parts + 1] = tostring(request[name]) end
    for _, name in ipairs(PROXIES) do parts[#parts + 1] = tostring(os.getenv(name)) end
    shared.outage_name = "outage-" .. core.digest(table.concat(parts, "\n"))
  end
  return shared.outage_name
end

--- True while this process or another on the machine knows of an outage.
-- @tparam table self a remote store
-- @treturn boolean
-- @treturn ?boolean true: another process has just told this one
function M.is_known(self)
  local shared, now = self.shared, core.now()
  if now < shared.outage_till then return true end
  local till = tonumber(self.front:text(outage_name(self)) or "") -- in milliseconds
  local left = till and till / 1000 - core.time() or 0
  if left <= 0 or left > MAX_OUTAGE then return false end
  shared.outage_till = now + left
  return true, true
end

--- Records an outage.
-- @tparam table self a remote store
-- @tparam number began when the question that noticed it began, by core.now()
-- @tparam ?boolean is_own it is one of this process's credentials: others are not told
function M.note(self, began, is_own)
  local seconds = math.min(math.max(OUTAGE_FACTOR * (core.now() - began), MIN_OUTAGE), MAX_OUTAGE)
  core.count "outage"
  self.shared.outage_till = core.now() + seconds
  if is_own then return end
  self.front:set_text(outage_name(self), ("%d"):format((core.time() + seconds) * 1000 // 1 | 0))
end

return M
