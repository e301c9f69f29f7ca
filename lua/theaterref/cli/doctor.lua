--- `theaterref doctor` and `config`: check that everything theaterref needs is
-- installed and works; show the configuration and where it comes from.
-- @module theaterref.cli.doctor
local buckets = require "theaterref.cli.buckets"
local core = require "theaterref.core"
local disk_caches = require "theaterref.store.disk_cache"
local errors = require "theaterref.error"
local homes = require "theaterref.home"
local keys = require "theaterref.keys"
local option_sets = require "theaterref.options"
local output = require "theaterref.cli.output"
local settings = require "theaterref.cli.settings"
local theaterref = require "theaterref"

-- ------------------------------------------------------------------ checks

-- Each check gives true and what it found, or false and what to do about it.
local checks = {}

checks[#checks + 1] = { "versions", function()
  local curl = core.curl()
  if not curl then return false, "libcurl cannot be opened: install it (on Debian: libcurl4)" end
  return true, ("theaterref %s, %s, %s"):format(theaterref._VERSION, _VERSION, curl)
end }

checks[#checks + 1] = { "authorities", function(args, config)
  local _, file = core.curl()
  file = args.ca_file or config.ca_file or file
  if not file then return true, "libcurl's built-in CA store" end
  local count, err = settings.count_authorities(file)
  if not count then return false, tostring(err) .. "; install the package ca-certificates, or give --ca-file" end
  return true, ("%d in %s"):format(count, file)
end }

-- Returns a proxy's URL, or what curl takes for one, without user and password.
local function without_login(proxy)
  local scheme, rest = proxy:match "^(%a[%w+.-]*://)(.*)$"
  return (scheme or "") .. (rest or proxy):gsub("^.*@", "")
end

checks[#checks + 1] = { "proxy", function()
  local found = {}
  for _, name in ipairs { "https_proxy", "HTTPS_PROXY", "http_proxy", "no_proxy", "NO_PROXY" } do
    local value = os.getenv(name)
    if value and value ~= "" then found[#found + 1] = name .. "=" .. without_login(value) end
  end
  return true, found[1] and table.concat(found, " ") or "none"
end }

checks[#checks + 1] = { "configuration", function(args, config)
  if config.fault then return false, config.fault end
  if args.config == "" then return true, "none, as requested" end
  return true, settings.config_file(args) or "none: see 'theaterref config --example'"
end }

checks[#checks + 1] = { "policy", function(args, config)
  local path = args.policy or config.policy
  if not path then return true, "the default rules" end
  local others = option_sets.overlay(args)
  others.ca_file = nil -- has a check of its own
  local resolver, err = settings.resolver(others)
  return resolver ~= nil, resolver and path .. " loads" or tostring(err)
end }

checks[#checks + 1] = { "Theater home", function(args)
  local folder, err = settings.home(args)
  if not folder then folder, err = homes.get_theater_home() end
  if not folder then return false, tostring(err) end
  return true, folder .. (core.file_stamp(folder) and "" or " (it will be made by the first put)")
end }

-- Returns a function that removes the folders on the way to a folder that are not there
-- yet, and the files that a check makes in that folder.
local function remover(folder, files)
  local missing, path = {}, folder
  while path and path ~= "" and not core.file_stamp(path) do
    missing[#missing + 1], path = path, path:match "^(.*[^/])/+[^/]+/*$"
  end
  return function()
    if not missing[1] then return end
    for _, name in ipairs(files) do os.remove(folder .. name) end
    for _, made in ipairs(missing) do os.remove(made) end -- those that are empty
  end
end

checks[#checks + 1] = { "stores", function(args)
  local id = "doctor-" .. os.time() .. "-" .. math.random(1 << 30)
  local store, err = settings.store(args, id)
  if not store then return false, tostring(err) end
  local remove_folders = remover(assert(homes.store_folder(id, settings.home(args))), { "/data", "/labels" })
  local hash, ok, why
  hash, why = store:put "theaterref doctor looks whether this can be stored"
  if hash then ok, why = store:get(hash) end
  if not ok then
    remove_folders()
    return false, tostring(why) .. "; give --home, or set THEATER_HOME, to a folder that can be written"
  end
  ok, why = store:gc { grace = 0 }
  remove_folders()
  if not ok then return false, tostring(why) end
  return true, "can be written, synced and read back"
end }

checks[#checks + 1] = { "disk cache", function(args, config)
  local options = type(config.cache) == "table" and config.cache.disk
  if not options then return true, "none is configured" end
  local resolver, err = settings.resolver(args)
  if not resolver then return false, tostring(err) end
  local folder = resolver.cache:disk()
  local disk, key = disk_caches.of(resolver.cache), "doctor-" .. math.random(1 << 30)
  local remove_folders = remover(folder, { "/disk-cache-1/lock", "/disk-cache-1" })
  local ok, why = disk:write(key, "theaterref doctor checks that this can be kept", {})
  disk:remove(key)
  local count = ok and #disk:list()
  remove_folders()
  if not ok then return false, tostring(why) end
  return true, ("can be written; %d entries in %s"):format(count, folder)
end }

checks[#checks + 1] = { "network", function(args)
  if not args.url then return true, "not tried: give a URL that should work, with --url https://…" end
  local limits = { retries = 0, connect_timeout = 5, timeout = args.timeout or 5 }
  local resolver, err = settings.resolver(option_sets.overlay(args, limits))
  if not resolver then return false, tostring(err) end
  local blob
  blob, err = resolver:resolve(args.url)
  if blob then return true, ("%s answers, %s"):format(errors.redact_reference(args.url), errors.bytes(#blob)) end
  local advice = err.kind == "tls" and "; is its authority among those above? If not, give --ca-file"
    or err.kind == "network" and "; is there a way to it, or a proxy to be set in https_proxy?" or ""
  return false, tostring(err) .. advice
end }

local function doctor(args)
  local config, err = settings.config(args)
  if not config then -- one check says so, and the others go on without it
    config, args.settings = { fault = tostring(err) }, {}
  end
  local results, failed = output.array {}, 0
  local function add(name, ok, text)
    results[#results + 1] = { check = name, ok = ok, text = text }
    if not ok then failed = failed + 1 end
  end
  for _, check in ipairs(checks) do add(check[1], check[2](args, config)) end
  for _, result in ipairs(buckets.check(args, config)) do add("S3", result.ok, result.text) end
  return results, failed > 0 and (failed == 1 and "one check failed" or failed .. " checks failed") or nil
end

local function show_checks(results)
  local lines = {}
  for i, result in ipairs(results) do
    local mark = result.ok and output.coloured("green", "ok   ") or output.coloured("red", "FAIL ")
    lines[i] = ("%s %-13s %s"):format(mark, result.check, output.plain(result.text))
  end
  return table.concat(lines, "\n")
end

-- ----------------------------------------------------------- configuration

-- Hides what may be secret in options. Headers may hold tokens: their names are all that is shown.
local function hide_secrets(options)
  for name in pairs(options.headers or {}) do options.headers[name] = "…" end
  for _, name in ipairs { "password", "identity_token", "secret_access_key", "session_token", "credential_process" } do
    if options[name] then options[name] = "…" end
  end
  if options.proxy then options.proxy = without_login(options.proxy) end
  local signatures = options.signatures
  if signatures and signatures.keys then signatures.keys = keys.all_shown(signatures.keys) end
end

local function config(args)
  if args.example then return { example = true } end
  local options, err = settings.config(args)
  if not options then return nil, err end
  local described = output.array(buckets.described(args, options))
  hide_secrets(options)
  for _, host in pairs(options.hosts or {}) do hide_secrets(host) end
  for _, registry in pairs(options.registries or {}) do hide_secrets(registry) end
  hide_secrets(options.s3 or {})
  for _, bucket in pairs(options.s3 and options.s3.buckets or {}) do hide_secrets(bucket) end
  return { file = settings.config_file(args), options = output.redacted(options), buckets = described }
end

-- The placeholder for a value of each kind, in the example.
local values = { seconds = "<seconds>", count = "<number>", times = "<number>", level = '"…"', headers = "{ … }",
  flag = "<true or false>", text = '"…"', store_id = '"…"', policy = '"…"', log = '"…"',
  cache = "{ … }", disk = "{ … }", table = "{ … }", hosts = "{ … }", list = "{ … }",
  hosts_list = "{ … }", registries = "{ … }",
  s3 = "{ … }", stores = "{ … }", buckets = "{ … }", style = '"…"', places = "{ … }",
  signatures = "{ … }", short_list = "{ … }", text_or_list = "{ … }" }

-- The lines of a text, none wider than 'width' unless a word is.
local function wrapped(text, width)
  local lines = {}
  for word in text:gmatch "%S+" do
    local last = lines[#lines]
    if last and #last + 1 + #word <= width then lines[#lines] = last .. " " .. word else lines[#lines + 1] = word end
  end
  local i = 0
  return function()
    i = i + 1
    return lines[i]
  end
end

-- Every option that may stand in a configuration, and what it does.
local function example()
  local lines = { "-- theaterref.conf.lua: read by the theaterref command and by programs that use this configuration.",
    "-- Uncomment the options you want to set. Paths are relative to this file, or begin with ~/.", "return {" }
  local function list(options, indent)
    for _, option in ipairs(options) do
      if not option.does:find "not in a configuration" then
        lines[#lines + 1] = ("%s-- %s = %s,"):format(indent, option.name, values[option.kind])
        for line in wrapped(("%s. Default: %s"):format(option.does, option.default), 80) do
          lines[#lines + 1] = indent .. "--     " .. line
        end
      end
    end
  end
  list(option_sets.resolver, "  ")
  for _, section in ipairs { { "signatures = { … }", "signatures" }, { 'hosts = { ["example.org"] = { … } }', "host" },
    { 'registries = { ["registry.example.org"] = { … } }', "registry" }, { "stores = { release = { … } }", "remote_store" },
    { "s3 = { … }", "s3" }, { "cache = { … }", "cache" }, { "cache = { disk = { … } }", "disk" }, { "log = { … }", "log" } } do
    lines[#lines + 1] = ("\n  -- In %s:"):format(section[1])
    list(option_sets[section[2]], "  --   ")
  end
  lines[#lines + 1] = "}"
  return table.concat(lines, "\n")
end

local function show_config(data)
  if data.example then return example() end
  local file = data.file and output.plain(data.file) or "no configuration file: see theaterref config --example"
  local lines, names = { "-- " .. file }, {}
  for name in pairs(data.options) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = data.options[name]
    lines[#lines + 1] = ("%s = %s"):format(name, output.to_json(value))
  end
  for _, bucket in ipairs(data.buckets) do lines[#lines + 1] = "-- " .. output.plain(buckets.text(bucket)) end
  return table.concat(lines, "\n")
end

return {
  { name = "doctor", does = "Check that everything theaterref needs works, and explain how to fix problems.", fetches = true,
    examples = { "theaterref doctor --url https://example.org/" },
    options = { { "--url", "URL", "Fetch this URL, which should work." } },
    run = doctor, show = show_checks },
  { name = "config", does = "Show the configuration, and where it comes from.",
    examples = { "theaterref config", "theaterref config --example > theaterref.conf.lua" },
    options = { { "--example", nil, "Print a configuration file with every option, as a starting point." } },
    run = config, show = show_config },
}
