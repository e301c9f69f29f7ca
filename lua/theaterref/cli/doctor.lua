--- `theaterref doctor`: is everything here that is needed, and does it work?
-- @module theaterref.cli.doctor
local core = require "theaterref.core"
local home = require "theaterref.home"
local output = require "theaterref.cli.output"
local theaterref = require "theaterref"

-- Each check gives true and what it found, or false and what to do about it.
local checks = {}

checks[#checks + 1] = { "versions", function()
  return true, ("theaterref %s, %s, %s"):format(theaterref._VERSION, _VERSION, core.curl())
end }

checks[#checks + 1] = { "Theater home", function(args)
  local folder, err = args.home, nil
  if not folder then folder, err = home.get_theater_home() end
  if not folder then return false, tostring(err) end
  return true, folder .. (core.file_stamp(folder) and "" or " (it will be made by the first put)")
end }

checks[#checks + 1] = { "stores", function(args)
  local store, err = theaterref.content_store("doctor", { home = args.home })
  if not store then return false, tostring(err) end
  local hash, ok, why
  hash, why = store:put "theaterref doctor looks whether this can be stored"
  if hash then ok, why = store:get(hash) end
  if not ok then return false, tostring(why) .. "; give --home, or set THEATER_HOME, to a folder that can be written" end
  local report = store:gc { grace = 0 }
  return report ~= nil, "can be written, synced and read back"
end }

checks[#checks + 1] = { "certificates", function(args)
  local resolver = theaterref.resolver { ca_file = args.ca_file, retries = 0, connect_timeout = 5, timeout = 5 }
  if not args.url then return true, "not tried: give a URL that should work, with --url https://…" end
  local blob, err = resolver:resolve(args.url)
  if blob then return true, ("%s answers, %d bytes"):format(args.url, #blob) end
  local advice = err.kind == "tls" and "; install the package ca-certificates, or give --ca-file" or ""
  return false, tostring(err) .. advice
end }

checks[#checks + 1] = { "policy", function(args)
  if not args.policy then return true, "the default rules" end
  local policy, err = require("theaterref.policy").load(args.policy, args.trusted)
  return policy ~= nil, policy and args.policy .. " loads" or tostring(err)
end }

local M = {}

local function run(args)
  local results, status = {}, 0
  for i, check in ipairs(checks) do
    local ok, text = check[2](args)
    results[i] = { check = check[1], ok = ok, text = text }
    if not ok then status = 1 end
    if not args.json then output.print_line(("%-5s %-13s %s"):format(ok and "ok" or "FAIL", check[1], text)) end
  end
  if args.json then output.print_line(output.to_json(output.array(results))) end
  return status
end

--- Adds the command to a parser; returns what runs it.
function M.add(parser, fetching)
  local doctor = fetching(parser:command("doctor", "Check what theaterref needs, and say what to fix.",
    "Example: theaterref doctor --url https://example.org/"))
  doctor:option("--url", "A URL that should work."):argname("URL")
  doctor:flag("--json", "Print JSON.")
  return run
end

return M
