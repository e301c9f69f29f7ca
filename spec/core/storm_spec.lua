local helper = require "helper"
local core = require "theaterref.core"
local threads = require "threads"

-- STORM=100000 makes it the long run; a few thousand find what there is to find
-- on most days.
local requests = tonumber(os.getenv "STORM") or 4000

describe("eight states on eight threads", function()
  it("asking a server that misbehaves for everything get an answer each time, and leave nothing", function()
    local server = helper.misbehaving()
    local blobs = core.live_blobs()
    local results = threads.run(8, ([[
      local number = ...
      local theaterref = require "theaterref"
      local resolver = theaterref.resolver { timeout = 10, stall_timeout = 2, max_bytes = 1 << 18, retries = 0,
        cache = theaterref.resource_cache { name = "storm", max_entries = 8, ttl = 0, stale_if_error = 1 } }
      local patient = theaterref.resolver { timeout = 10, max_bytes = 1 << 18, retries = 1 }
      local paths = { "/fine", "/close-at-once", "/close-amid-headers", "/close-amid-body", "/more-than-said", "/endless",
        "/to-file", "/loop", "/flaky", "/bomb", "/bad-gzip", "/bad-chunks", "/huge-header", "/nul-in-header", "/no-http",
        "/versioned", "/resumes", "/wrong-part", "/missing", "/echo", "/then-gone" }
      math.randomseed(number)
      return function()
        local answers = 0
        for i = 1, %d do
          local dice, ref = math.random(10), %q .. paths[math.random(#paths)]
          if dice == 1 then
            resolver:start(ref):cancel()
          elseif i %% 250 == 0 then
            assert(select("#", patient:resolve(ref)) > 0)
          elseif dice == 2 then
            resolver:start(ref, { cached = true }) -- dropped
          else
            local blob, err = resolver[dice < 7 and "resolve" or "resolve_cached"](resolver, ref)
            assert(blob or err.kind and err.message, "no answer")
          end
          answers = answers + 1
        end
        return answers
      end]]):format(requests // 8, server.http))
    for _, answers in ipairs(results) do assert.equal(tostring(requests // 8), answers) end
    require("theaterref").resource_cache({ name = "storm", max_entries = 8, ttl = 0, stale_if_error = 1 }):clear()
    helper.eventually(function()
      collectgarbage()
      return core.live_blobs() <= blobs
    end)
    server:stop()
  end)
end)
