-- Benchmarks of S3. The objects are on nginx, which checks no signature and is no bottleneck; the baseline
-- is a bare libcurl loop that signs its requests by itself.
local bare = require "bare"
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local helper = require "helper"
local measure = require "measure"
local theaterref = require "theaterref"

local compare, line, timed, title = measure.compare, measure.line, measure.timed, measure.title

local M = {}

function M.run()
  local server = helper.nginx()
  helper.run_ok(("mkdir -p %s/www/bucket && chmod 777 %s/www/bucket"):format(server.folder, server.folder)) -- a worker of nginx is nobody
  local settings = { endpoint = server.http, region = "us-east-1", access_key_id = "AKIDEXAMPLE", secret_access_key = "wJalrXUtnFEMI/K7MDENG" }
  local resolver = theaterref.resolver { log = false, s3 = settings }
  local bucket = assert(Client.open("bucket", { settings = settings, defaults = {}, await = function(f) return f:wait() end }))
  title "Objects of S3, one after another; the baseline is a bare libcurl loop with its own signatures"
  for _, row in ipairs { { "64 KiB", 64 << 10, 2000 }, { "64 MiB", 64 << 20, 10 } } do
    local name, size, n = table.unpack(row)
    local text = ("theater "):rep(size // 8)
    local blob, url, key = core.blob(text), ("%s/bucket/%d"):format(server.http, size), tostring(size)
    local digest = blob:digest()
    local function megabytes(seconds) return ("%.0f MB/s"):format(n * size / seconds / 1e6) end
    local a, b, ratio = compare(function()
      return timed(function() for _ = 1, n do assert(bucket:put(key, blob)) end end)
    end, function() return bare.signed(url, n, digest, text) end)
    line("put of " .. name, megabytes(a), megabytes(b), 1 / ratio, ">= 0.8")
    a, b, ratio = compare(function()
      return timed(function() for _ = 1, n do assert(resolver:resolve("s3://bucket/" .. key)) end end)
    end, function() return bare.signed(url, n, core.digest "", nil) end)
    line("get of " .. name, megabytes(a), megabytes(b), 1 / ratio, ">= 0.8")
  end
  server:stop()
  require("remote_store").run()
end

return M
