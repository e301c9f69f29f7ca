--- Every option there is, in one place: its name, what it takes, what it is when
-- not set, and a description. Every function that takes options checks them here;
-- the guide `examples/guides/options.md` lists it.
-- @module theaterref.options
local suggest = require "theaterref.suggest"

local M = {}

-- Checks a list: its keys are 1, 2, … without a gap.
local function is_list_of_strings(v)
  if type(v) ~= "table" then return false end
  local count = 0
  for key, item in pairs(v) do
    if math.type(key) ~= "integer" or type(item) ~= "string" then return false end
    count = count + 1
  end
  return count == #v
end

local levels = { debug = true, info = true, warn = true, error = true, off = true }

local function level_fault(_, v)
  if type(v) ~= "string" or levels[v] then return nil end
  return ("there is no log level '%s' (debug, info, warn, error, off)"):format(v)
end

local function text_fault(subject, v)
  return type(v) == "string" and v:find("\0", 1, true) and subject .. " has a zero byte in it" or nil
end

local function headers_fault(subject, v)
  for name, value in pairs(v) do
    if type(name) ~= "string" or type(value) ~= "string" then return subject .. " must have strings by name" end
    if name == "" then return subject .. " has a header without a name" end
  end
end

-- Checks the names of a table of options by host.
local function hosts_fault(subject, v)
  for name in pairs(v) do
    if name:find "[/*]" or name == "" then return ("%s takes host or host:port, not '%s'"):format(subject, name) end
  end
end

-- Checks a list of hosts. A URL or a pattern of another form would never match.
local function host_list_fault(subject, v)
  for _, name in ipairs(v ~= "any" and v or {}) do
    if name:gsub("^%*%.", ""):find "[/*%[]" or name == "" or name:find "^[^:]*:%d*$" then
      return ("%s takes hosts, such as example.org and *.example.org, not '%s'"):format(subject, name)
    end
  end
end

-- The kinds of values. 'says' is for messages; 'fault' says what is wrong with a value of
-- the right type; 'set' names the options that a table there has.
local kinds = {
  seconds = { says = "a number of seconds", fits = function(v) return type(v) == "number" and v == v end },
  count = { says = "a whole number, 0 or more", fits = function(v) return math.type(v) == "integer" and v >= 0 end },
  times = { says = "a whole number from 0 to 2147483647", fits = function(v)
    return math.type(v) == "integer" and v >= 0 and v <= 0x7FFFFFFF
  end },
  flag = { says = "true or false", fits = function(v) return type(v) == "boolean" end },
  text = { says = "a string", fits = function(v) return type(v) == "string" end, fault = text_fault },
  level = { says = "a level", fits = function(v) return type(v) == "string" end, fault = level_fault },
  list = { says = "a list of strings", fits = is_list_of_strings },
  hosts_list = { says = "a list of hosts, or \"any\"", fits = function(v)
    return v == "any" or is_list_of_strings(v)
  end, fault = host_list_fault },
  host_names = { says = "a list of strings", fits = is_list_of_strings, fault = host_list_fault },
  hosts = { says = "a table of options by host", set = "host", by_key = true, fits = function(v)
    if type(v) ~= "table" then return false end
    for name, host in pairs(v) do
      if type(name) ~= "string" or type(host) ~= "table" then return false end
    end
    return true
  end, fault = hosts_fault },
  bytes = { says = "a string or a blob", fits = function(v) return type(v) == "string" or type(v) == "userdata" end },
  table = { says = "a table", fits = function(v) return type(v) == "table" end },
  headers = { says = "a table", fits = function(v) return type(v) == "table" end, fault = headers_fault },
  ["function"] = { says = "a function", fits = function(v) return type(v) == "function" end },
  policy = { says = "the path of a script, or a table", fits = function(v)
    return type(v) == "string" or type(v) == "table"
  end, fault = text_fault },
  cache = { says = "a cache, or a table of its options", set = "cache", fits = function(v)
    return type(v) == "userdata" or type(v) == "table"
  end },
  open_cache = { says = "a cache", fits = function(v) return type(v) == "userdata" end },
  disk = { says = "a store's id, or a table", set = "disk", fits = function(v)
    return type(v) == "string" or type(v) == "table"
  end },
  expect = { says = "a hash, or false", fits = function(v) return type(v) == "string" or v == false end, fault = text_fault },
  log = { says = "a level, a table, or false", set = "log", fault = level_fault, fits = function(v)
    return v == false or type(v) == "string" or type(v) == "table"
  end },
}

-- A set of options: a list, which also has each by its name.
local function set(what, list)
  list.what, list.by_name = what, {}
  for _, option in ipairs(list) do
    option.name, option.kind, option.default, option.does = table.unpack(option)
    list.by_name[option.name] = option
  end
  return list
end

--- Of a request: what a resolver, the configuration and a policy's rule `request`
-- may say about fetching.
M.request = set("request option", {
  { "timeout", "seconds", "no limit", "time limit for each fetch: its turn, its attempts and the pauses between them. "
    .. "There is none unless you set one: a large file on a slow link must not fail, and a silent server ends a fetch by "
    .. "`stall_timeout`. Below 0: no limit" },
  { "connect_timeout", "seconds", "10", "time limit for looking a host up, and for connecting to it; below 0: no limit" },
  { "stall_timeout", "seconds", "15", "how long a server may be silent before the attempt ends and is retried; below 0: no "
    .. "limit" },
  { "max_bytes", "count", "1 GiB", "largest body, decoded; largest file, or content of a store" },
  { "max_redirects", "times", "10", "followed; never to another scheme than http and https, nor from https to http" },
  { "retries", "times", "2", "after a failure that may pass: no connection, one that broke, or status 408, 429, 500, 502, "
    .. "503, 504. The first comes after about 0.2 s, each further one after twice as long, or when `Retry-After` says, if that "
    .. "is within a minute; a body that broke off is resumed" },
  { "headers", "headers", "none", "values by name; not sent on to another origin by a redirect" },
  { "hosts", "hosts", "none", "options for some hosts, by host or `host:port` in any case: `headers`, `ca_file`, `client_cert`, "
    .. "`client_key`, `proxy`, `netrc`, `cache_scope`. Headers add to those for all; the others replace them. They "
    .. "hold when a redirect leads to the host, too, but there `headers`, `client_cert` and `netrc` are its own or none. Cached "
    .. "bytes are shared by requests with the same `hosts`" },
  { "ca_file", "text", "the system's", "PEM file of the authorities to trust, instead of `SSL_CERT_FILE` in the environment "
    .. "and the system's" },
  { "client_cert", "text", "none", "PEM file to identify with; not shown to another origin by a redirect" },
  { "client_key", "text", "in `client_cert`", "PEM file of its key" },
  { "netrc", "flag", "false", "take user and password from `~/.netrc`; not for another origin that a redirect leads to" },
  { "unix_socket", "text", "none", "path of the server's socket, whatever host the URL names" },
  { "user_agent", "text", "`theaterref/` and the version", "what servers are told" },
  { "refuse_private", "flag", "false", "refuse servers at private, loopback or link-local addresses: the address of "
    .. "the connected peer counts, at every redirect. A proxy is exempt: it connects, and hides the peer" },
  { "proxy", "text", "the environment's", "URL of a proxy; empty: none. The environment's are `http_proxy`, `https_proxy` and "
    .. "`all_proxy`, but for hosts in `no_proxy`" },
  { "redirect_hosts", "hosts_list", "`any`", "hosts that redirects may lead to, such as `*.example.org`, beside the host "
    .. "asked; or `any`" },
  { "require_length", "flag", "false", "refuse a body that ends with its connection, without a length or chunks: it may have "
    .. "been cut off. Over HTTP/2 a length is needed, since libcurl does not tell the end of a stream from its reset" },
  { "cache_scope", "text", "a secret digest", "a name for who may share the cached bytes of these requests, in memory and on "
    .. "disk. Without it, requests share them whose headers, `client_cert`, `client_key`, `netrc`, `unix_socket`, `proxy` and "
    .. "`ca_file` are the same" },
  { "revalidate", "flag", "false", "keep the body in the resolver's cache, but ask each time whether it has changed" },
  { "lua_manifests", "flag", "false", "accept Lua manifests that came over the network. They are programs: they run in a "
    .. "sandbox, but see the initial state" },
})

--- Of a request to some hosts.
M.host = set("host option", {
  { "headers", "headers", "none", "values by name" },
  { "ca_file", "text", "as for all", "PEM file of the authorities to trust" },
  { "client_cert", "text", "as for all", "PEM file to identify with" },
  { "client_key", "text", "as for all", "PEM file of its key" },
  { "proxy", "text", "as for all", "URL of a proxy; empty: none" },
  { "netrc", "flag", "as for all", "take user and password from `~/.netrc`" },
  { "cache_scope", "text", "as for all", "a name for who may share the cached bytes" },
})

--- Of a cache.
M.cache = set("cache option", {
  { "name", "text", "none", "one cache for the whole process; without it, a private one. With no other option but "
    .. "`consumer` it joins the cache that is open under the name, whatever its options" },
  { "consumer", "text", "none", "a name under which `stats().by_consumer` counts this handle" },
  { "max_bytes", "count", "256 MiB", "bound on the bytes it holds; 0 is no bound" },
  { "max_entries", "count", "0", "bound on the number of entries; 0 is no bound" },
  { "ttl", "seconds", "for ever", "how long an entry is fresh" },
  { "stale_while_revalidate", "seconds", "0", "how long past its `ttl` an entry is served while it reloads in the "
    .. "background" },
  { "stale_if_error", "seconds", "0", "how long past its `ttl` an entry is served when the server fails" },
  { "negative_ttl", "seconds", "0", "how long a 404, 410 or missing file is remembered" },
  { "coalesce", "flag", "true", "false: concurrent misses each load, and the last one wins; as in Theater" },
  { "disk", "disk", "none", "a disk cache for bytes fetched by http or https: a store's id, or a table, below" },
})

--- Of a disk cache.
M.disk = set("disk cache option", {
  { "store", "text", "`cache`", "it lies in the folder of the store of this id" },
  { "home", "text", "Theater home", "where that lies" },
  { "base_path", "text", "in `home`", "its folder, instead" },
  { "max_bytes", "count", "1 GiB", "bound of all its files, each in whole blocks of 4 KiB; 0 is no bound" },
})

--- Of one call: `resolver:start`, `resolve` and `resolve_cached`.
M.call = set("call option", {
  { "cached", "flag", "false", "through the resolver's cache" },
  { "cache", "open_cache", "the resolver's", "through this cache" },
  { "ttl", "seconds", "the cache's", "how long what this call loads is fresh" },
  { "revalidate", "flag", "false", "ask the server whether what is cached has changed" },
  { "disk", "flag", "true", "false: not through the disk cache" },
  { "resolve_timeout", "seconds", "the resolver's", "time limit for this call" },
})

--- Of one plan: `resolver:plan` and `resolver:start_plan`.
M.plan = set("plan option", {
  { "initial_state", "bytes", "none", "JSON text that overrides the manifest's own" },
  { "plan_timeout", "seconds", "the resolver's", "time limit for this plan" },
})

--- Of the policy builder `only`.
M.only = set("list of policy.only", {
  { "schemes", "list", "any", "schemes; `file` is that of paths" },
  { "hosts", "host_names", "any", "hosts of http and https references, such as `example.org` and `*.example.org`" },
  { "stores", "list", "any", "ids of stores" },
  { "prefixes", "list", "any", "what whole references begin with" },
  { "redirect_hosts", "host_names", "none", "hosts that redirects may lead to, beside `hosts`" },
})

M.only.unknown = "unknown list '%s'%s"

local store_first = { "store", "text", "none", "id of a store to look in first" }
local store_only = { "offline", "flag", "false", "look nowhere else" }

--- Of the policy builder `lockfile`.
M.lockfile = set("option of policy.lockfile", { store_first, store_only })

--- Of the second answer of a policy's rule `allow`.
M.allow = set("field of the answer", {
  { "redirect_hosts", "hosts_list", "the same host", "hosts that redirects may lead to, or \"any\"" },
})

--- Of an answer of a policy's rule `integrity`.
M.integrity = set("field of the answer", {
  { "sha256", "text", "none", "hex digest" },
  { "sha1", "text", "none", "hex digest" },
  store_first,
  store_only,
})

--- Of an answer of a policy's rule `cacheable`.
M.cacheable = set("field of the answer", {
  { "ttl", "seconds", "the cache's", "how long it is fresh" },
  { "revalidate", "flag", "false", "ask the server each time whether it has changed" },
  { "disk", "flag", "true", "false: not in the disk cache" },
})

--- Of a log.
M.log = set("log option", {
  { "level", "level", "`$THEATERREF_LOG`, else `warn`", "`debug`, `info`, `warn`, `error` or `off`: what is written, and all "
    .. "that is worse" },
  { "sink", "function", "standard error", "`sink(level, line, event)` gets each line instead; not in a configuration" },
})

local label_history = { "label_history", "count", "5", "how many of its last hashes a label that moves has in its history, whose "
  .. "content `gc` keeps; 0: none; at most 100. The same for all who work on a store" }

--- Of a resolver; and all of `request`.
M.resolver = set("resolver option", {
  { "policy", "policy", "the default rules", "the path of a policy script, or a table of rules" },
  { "trusted", "flag", "false", "the script is the host's own: run it without a sandbox" },
  { "lockfile", "text", "none", "path of a lockfile that every reference must be in" },
  { "offline", "text", "none", "fetch nothing: only files, local stores and what caches have; with a lockfile, locked "
    .. "content comes from the store of this id" },
  { "cache", "cache", "none", "for what the policy calls cacheable, and `resolve_cached`" },
  { "respect_no_store", "flag", "false", "keep no body in memory either whose server answers `Cache-Control: no-store` or "
    .. "`private`; a disk cache never does" },
  { "home", "text", "`$THEATER_HOME`, else `~/.theater`", "where the stores lie" },
  label_history,
  { "log", "log", "warnings, to standard error", "a level, a table, below, or false" },
  { "helpers", "table", "none", "template helpers: functions by name; not in a configuration" },
  { "resolve_timeout", "seconds", "no limit", "time limit for resolving one reference, with all its candidates; below 0: no "
    .. "limit" },
  { "plan_timeout", "seconds", "no limit", "time limit for a whole plan; below 0: no limit" },
  { "max_manifest_bytes", "count", "4 MiB", "largest manifest, before and after rendering" },
  { "max_state_bytes", "count", "64 MiB", "of an initial state: the manifest's, the caller's, merged, and with its secrets" },
  { "strict_state", "flag", "false", "an initial state that is not JSON is an error, with its line and column. Theater lets it "
    .. "pass, and merges nothing" },
  { "max_host_connections", "times", "32", "requests at one time to one host, of the process, from now on; others wait" },
  { "max_connections", "times", "128", "the same for all hosts together; one in eight is kept for hosts that have none. Bodies "
    .. "take `max_bytes` of memory each, so many at most" },
  { "on_event", "function", "none", "called with each event, as a policy's rule `on_event` is; not in a configuration" },
})
for _, option in ipairs(M.request) do
  M.resolver[#M.resolver + 1], M.resolver.by_name[option.name] = option, option
end

M.call.near = { timeout = "resolve_timeout" }
M.plan.near = { timeout = "plan_timeout" }

--- Of a content store.
M.store = set("store option", {
  { "home", "text", "Theater home", "the store is `<home>/store/<id>`" },
  { "base_path", "text", "in `home`", "the store's own folder, instead" },
  { "durability", "text", "`full`", "`full`: a put or label is on the disk when it returns; `none`: the system writes it "
    .. "when it likes, as for Theater" },
  { "verify", "text", "`once`", "when a read is checked against its hash: `once` in this process for a file as it is, "
    .. "`always`, `never`" },
  { "algorithm", "text", "`sha1`", "of the names of new content: `sha1`, Theater's, or `sha256`; both are read" },
  { "map", "flag", "true", "false: large content is read, not mapped" },
  { "lock_timeout", "seconds", "30", "how long to wait for others that move labels or lock the store; then the call fails. "
    .. "Below 0: no limit" },
  label_history,
})

local progress = { "progress", "function", "none", "called with how many of how many contents are done; in an import, bytes" }

--- Of a store's `label` and `replace_at_label`.
M.label = set("label option", {
  { "expect", "expect", "none", "move the label only if it is at this hash; false: only if there is no such label" },
})

--- Of a store's `rollback`.
M.rollback = set("rollback option", {
  { "to", "text", "the last", "the hash in the label's history to move it to" },
})

--- Of a store's `verify` and `export`.
M.progress = set("option", { progress })

--- Of a store's `import`.
M.import = set("import option", {
  { "keep_labels", "flag", "false", "labels that are there stay where they are" },
  progress,
})

--- Of a store's `gc`.
M.gc = set("gc option", {
  { "grace", "seconds", "3600", "spare what was put or labelled, or lost a label, within so many seconds. Shorter than a put and "
    .. "its label take, it deletes what is about to be labelled" },
  { "dry_run", "flag", "false", "only report" },
  progress,
})

--- A new table with the fields of two, or of the first alone.
-- @tparam table below
-- @tparam[opt] table above its fields win
-- @treturn table
function M.overlay(below, above)
  local all = {}
  for name, value in pairs(below) do all[name] = value end
  for name, value in pairs(above or {}) do all[name] = value end
  return all
end

--- The fault in options, if any; within tables of options, too.
-- @tparam table options one of the above
-- @tparam table given
-- @treturn ?string such as "there is no cache option 'tll' (did you mean 'ttl'?)"
function M.fault(options, given)
  for name, value in pairs(given) do
    local option = options.by_name[name]
    if not option then
      return (options.unknown or "there is no " .. options.what .. " '%s'%s"):format(tostring(name),
        suggest.closest(options.near and options.near[name] or name, options.by_name))
    end
    local kind = kinds[option.kind]
    if not kind.fits(value) then
      return ("the %s '%s' must be %s, not %s"):format(options.what, name, kind.says,
        type(value) == "number" and tostring(value) or "a " .. type(value))
    end
    local fault = kind.fault and kind.fault(("the %s '%s'"):format(options.what, name), value)
    if fault then return fault end
    local tables = kind.by_key and value or { value }
    for _, inner in pairs(kind.set and tables or {}) do
      fault = type(inner) == "table" and M.fault(M[kind.set], inner)
      if fault then return fault end
    end
  end
  -- A rule 'request' may answer the key alone: its options go on top of the resolver's.
  if given.client_key and not given.client_cert and options ~= M.request then
    return ("the %s 'client_key' needs a 'client_cert'"):format(options.what)
  end
end

--- Raises what is wrong with options, if anything.
-- @tparam table options
-- @tparam table given
-- @tparam integer level whom to blame, as for `error` in who calls this
function M.check(options, given, level)
  local fault = M.fault(options, given)
  if fault then error(fault, level + 1) end
end

return M
