-- Benchmarks of remote stores; the baseline of a warm get is a local store. The bucket is that of the specs' stub.
local core = require "theaterref.core"
local helper = require "helper"
local measure = require "measure"
local theaterref = require "theaterref"

local compare, line, timed, title = measure.compare, measure.line, measure.timed, measure.title

local M = {}

local LABELS = 10000

function M.run()
  local server, folder = helper.s3_stub(), helper.temporary_folder()
  local remote = theaterref.content_store("remote", { base_path = folder .. "/remote", remote = "s3://bucket/bench", label_ttl = 600,
    s3 = server.settings })
  local plain = theaterref.content_store("local", { base_path = folder .. "/local" })
  local text, n = ("x"):rep(64 << 10), 20000
  local hash = assert(remote:store_at_label("label", text))
  assert(plain:store_at_label("label", text))
  assert(remote:get_content_by_label "label")
  title "Remote stores: warm gets of 64 KiB; the baseline is a local store"
  local function microseconds(seconds) return ("%.1f us"):format(seconds / n * 1e6) end
  for _, row in ipairs { { "by hash", "get", hash }, { "by label", "get_content_by_label", "label" } } do
    local name, method, what = table.unpack(row)
    local function run(store)
      return function()
        return timed(function() for _ = 1, n do store[method](store, what) end end)
      end
    end
    local a, b, ratio = compare(run(remote), run(plain))
    line("get " .. name, microseconds(a), microseconds(b), ratio, "<= 1.05")
  end
  server:control { fill = { bucket = "bucket", prefix = "bench/labels/l", count = LABELS, text = hash } }
  local began = core.now()
  assert(#assert(remote:list_labels()) == LABELS + 1)
  local listed = core.now()
  assert(remote:label_hashes())
  print(("\n%d labels listed: %.2f s; with their hashes: %.2f s, mostly in the stub"):format(LABELS, listed - began,
    core.now() - listed))
  helper.remove(folder)
  server:stop()
end

return M
