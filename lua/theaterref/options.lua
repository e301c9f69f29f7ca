--- Every option, in one place: its name, its type, its default and a description.
-- Every function that takes options checks them here; the guide
-- `examples/guides/options.md` lists them.
-- @module theaterref.options
local core = require "theaterref.core"
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

-- Checks the names and the credentials of a table of options by registry.
local function registries_fault(subject, v)
  for name, registry in pairs(v) do
    if name:find "/" or name == "" then return ("%s takes host or host:port, not '%s'"):format(subject, name) end
    if (registry.username == nil) ~= (registry.password == nil) then
      return ("%s: '%s' needs both 'username' and 'password'"):format(subject, name)
    end
    for _, mirror in ipairs(registry.mirrors or {}) do
      local parsed = core.parse_oci("oci://" .. mirror:gsub("^oci://", ""):gsub("/*$", "") .. "/x")
      if not parsed or parsed.fragment or parsed.manifest or parsed.tag or parsed.ns then
        return ("%s: '%s' has the mirror '%s'; host:port or host:port/prefix was expected"):format(subject, name, mirror)
      end
    end
  end
end

-- Checks who asks for buckets: half of a principal is none.
local function s3_fault(subject, v)
  if (v.access_key_id == nil) ~= (v.secret_access_key == nil) or v.session_token and not v.access_key_id then
    return subject .. " needs both 'access_key_id' and 'secret_access_key'"
  end
end

local function buckets_fault(subject, v)
  for name, bucket in pairs(v) do
    local fault = s3_fault(("%s: '%s'"):format(subject, name), bucket)
    if fault then return fault end
  end
end

-- Checks a list of hosts. A URL or a pattern of another form would never match.
local function host_list_fault(subject, v)
  for _, name in ipairs(v ~= "any" and v or {}) do
    if name:gsub("^%*%.", ""):find "[/*%[]" or name == "" or name:find "^[^:]*:%d*$" then
      return ("%s takes hosts, such as example.org and *.example.org, not '%s'%s"):format(subject, name,
        name:find "^[^:]*:%d*$" and "; a host matches at any port" or "")
    end
  end
end

-- Checks a list of hosts, with or without ports.
local function place_list_fault(subject, v)
  for _, name in ipairs(v) do
    if name:gsub("^%*%.", ""):gsub(":%d+$", ""):find "[/*:]" or name == "" then
      return ("%s takes hosts, such as example.org, example.org:5001 and *.example.org, not '%s'"):format(subject, name)
    end
  end
end

-- The kinds of values. 'says' is for messages; 'fault' returns the fault of a value of the
-- right type; 'set' names the options that a table of this kind has.
local kinds = {
  seconds = { says = "a number of seconds", fits = function(v) return type(v) == "number" and v == v end },
  fraction = { says = "a number from 0 to 1", fits = function(v) return type(v) == "number" and v >= 0 and v <= 1 end },
  count = { says = "a whole number, 0 or more", fits = function(v) return math.type(v) == "integer" and v >= 0 end },
  times = { says = "a whole number from 0 to 2147483647", fits = function(v)
    return math.type(v) == "integer" and v >= 0 and v <= 0x7FFFFFFF
  end },
  flag = { says = "true or false", fits = function(v) return type(v) == "boolean" end },
  store_id = { says = "a store's id", fits = function(v) return type(v) == "string" end, fault = text_fault },
  text = { says = "a string", fits = function(v) return type(v) == "string" end, fault = text_fault },
  level = { says = "a level", fits = function(v) return type(v) == "string" end, fault = level_fault },
  list = { says = "a list of strings", fits = is_list_of_strings },
  hosts_list = { says = "a list of hosts, or \"any\"", fits = function(v)
    return v == "any" or is_list_of_strings(v)
  end, fault = host_list_fault },
  host_names = { says = "a list of strings", fits = is_list_of_strings, fault = host_list_fault },
  places = { says = "a list of strings", fits = is_list_of_strings, fault = place_list_fault },
  hosts = { says = "a table of options by host", set = "host", by_key = true, fits = function(v)
    if type(v) ~= "table" then return false end
    for name, host in pairs(v) do
      if type(name) ~= "string" or type(host) ~= "table" then return false end
    end
    return true
  end, fault = hosts_fault },
  short_list = { says = "a list of at most 16 strings", fits = function(v) return is_list_of_strings(v) and #v <= 16 end },
  text_or_list = { says = "a string, or a list of at most 16 strings", fits = function(v)
    return type(v) == "string" or is_list_of_strings(v) and #v <= 16
  end },
  signatures = { says = "a table", set = "signatures", fits = function(v) return type(v) == "table" end },
  registries = { says = "a table of options by registry", set = "registry", by_key = true, fits = function(v)
    if type(v) ~= "table" then return false end
    for name, registry in pairs(v) do
      if type(name) ~= "string" or type(registry) ~= "table" then return false end
    end
    return true
  end, fault = registries_fault },
  request = { says = "a table", set = "request", fits = function(v) return type(v) == "table" end },
  stores = { says = "a table of options by store", set = "remote_store", by_key = true, fits = function(v)
    if type(v) ~= "table" then return false end
    for name, store in pairs(v) do
      if type(name) ~= "string" or type(store) ~= "table" then return false end
    end
    return true
  end },
  style = { says = "\"path\" or \"virtual\"", fits = function(v) return v == "path" or v == "virtual" end },
  s3 = { says = "a table", set = "s3", fits = function(v) return type(v) == "table" end, fault = s3_fault },
  buckets = { says = "a table of options by bucket", set = "bucket", by_key = true, fits = function(v)
    if type(v) ~= "table" then return false end
    for name, bucket in pairs(v) do
      if type(name) ~= "string" or type(bucket) ~= "table" then return false end
    end
    return true
  end, fault = buckets_fault },
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

-- Return a set of options: a list, which also has each option by its name.
local function set(what, list)
  list.what, list.by_name = what, {}
  for _, option in ipairs(list) do
    option.name, option.kind, option.default, option.does = table.unpack(option)
    list.by_name[option.name] = option
  end
  return list
end

--- Of a request: in a resolver, the configuration and a policy's rule `request`.
M.request = set("request option", {
  { "timeout", "seconds", "no limit", "time limit for each fetch: the wait for its turn, its attempts and the "
    .. "pauses between them; as long again for S3's credentials. No limit by default: a large file "
    .. "on a slow link must not fail, and `stall_timeout` ends a fetch from a silent server. Below 0: no limit" },
  { "connect_timeout", "seconds", "10", "time limit for looking up a host and connecting to it; below 0: no "
    .. "limit" },
  { "stall_timeout", "seconds", "15", "how long a server may be silent before the attempt ends and is retried; "
    .. "twenty times as long after an upload to a registry, which may copy it first; below 0: no limit" },
  { "max_bytes", "count", "1 GiB", "largest body (decoded), file or store content" },
  { "max_redirects", "times", "10", "how many redirects are followed; only to http and https, and never from "
    .. "https to http" },
  { "retries", "times", "2", "how often a fetch is retried after a temporary failure: no connection, a broken "
    .. "one, or status 408, 429, 500, 502, 503 or 504. The first retry comes after about 0.2 s, each later one "
    .. "after twice as long, or at the time in `Retry-After`, if that is within a minute. A body that was cut "
    .. "off is resumed" },
  { "headers", "headers", "none", "header values by name; not sent to another origin after a redirect, "
    .. "except `Accept`" },
  { "hosts", "hosts", "none", "options for some hosts, by host or `host:port`, in any case: `headers`, "
    .. "`ca_file`, `client_cert`, `client_key`, `proxy`, `netrc`, `cache_scope`. Headers add to those for all "
    .. "hosts; the others replace them. They also apply when a redirect leads to that host; then it gets only "
    .. "its own `headers`, `client_cert` and `netrc`. Cached bytes are shared by requests with the same `hosts`" },
  { "ca_file", "text", "the system's", "PEM file of the authorities to trust, instead of `SSL_CERT_FILE` in the "
    .. "environment and the system's. Like `client_cert` and `client_key`, it must be a regular file of at most 16 MiB" },
  { "client_cert", "text", "none", "PEM file of the client certificate; not sent to another origin after a "
    .. "redirect" },
  { "client_key", "text", "in `client_cert`", "PEM file of its key" },
  { "netrc", "flag", "false", "take user and password from `~/.netrc`; not for another origin after a redirect" },
  { "unix_socket", "text", "none", "path of the server's Unix socket, whatever host the URL names" },
  { "user_agent", "text", "`theaterref/` and the version", "value of the `User-Agent` header" },
  { "refuse_private", "flag", "false", "refuse servers at private, loopback or link-local addresses: the "
    .. "address of the connected peer counts, at every redirect. A proxy is exempt: it connects, and hides the "
    .. "peer" },
  { "proxy", "text", "the environment's", "URL of a proxy; empty: none. The environment has `http_proxy`, "
    .. "`https_proxy` and `all_proxy`, which do not apply to hosts in `no_proxy`" },
  { "redirect_hosts", "hosts_list", "`any`", "hosts that redirects may lead to, such as `*.example.org`, "
    .. "besides the requested host; or `any`" },
  { "require_length", "flag", "false", "refuse a body without a length or chunks, which ends when the "
    .. "connection closes: it may have been cut off. HTTP/2 needs a length, since libcurl does not tell the end "
    .. "of a stream from a reset" },
  { "cache_scope", "text", "a secret digest", "a name for who may share the cached bytes of these requests, in "
    .. "memory and on disk. Without it, requests share cached bytes if their headers, `client_cert`, "
    .. "`client_key`, `netrc`, `unix_socket`, `proxy` and `ca_file` are the same" },
  { "revalidate", "flag", "false", "keep the body in the resolver's cache, but ask the server each time whether "
    .. "it has changed" },
  { "lua_manifests", "flag", "false", "accept Lua manifests that came over the network. They are programs: they "
    .. "run in a sandbox, but see the initial state" },
})

--- Of a request to some hosts.
M.host = set("host option", {
  { "headers", "headers", "none", "header values by name" },
  { "ca_file", "text", "as for all", "PEM file of the authorities to trust" },
  { "client_cert", "text", "as for all", "PEM file of the client certificate" },
  { "client_key", "text", "as for all", "PEM file of its key" },
  { "proxy", "text", "as for all", "URL of a proxy; empty: none" },
  { "netrc", "flag", "as for all", "take user and password from `~/.netrc`" },
  { "cache_scope", "text", "as for all", "a name for who may share the cached bytes" },
})

--- Of a registry.
M.registry = set("registry option", {
  { "username", "text", "from Docker's files", "user; without it and `identity_token`, credentials come from "
    .. "`$DOCKER_CONFIG/config.json` (else `~/.docker/config.json`) and `$XDG_RUNTIME_DIR/containers/auth.json`, and the "
    .. "helpers that they name" },
  { "password", "text", "from Docker's files", "password of `username`, or an access token" },
  { "identity_token", "text", "none", "refresh token that the registry's token server takes" },
  { "cache_scope", "text", "a secret digest", "a name for who may share the cached bytes of this registry, in memory and "
    .. "on disk. Without it, those with the same credentials, or the same credential helper, share them, in memory only; if "
    .. "neither is configured for the registry, everybody does" },
  { "ca_file", "text", "as for all", "PEM file of the authorities to trust" },
  { "client_cert", "text", "as for all", "PEM file of the client certificate" },
  { "client_key", "text", "as for all", "PEM file of its key" },
  { "proxy", "text", "as for all", "URL of a proxy; empty: none" },
  { "plain_http", "flag", "at loopback addresses", "speak http, not https; false: https also at a loopback address" },
  { "mirrors", "list", "none", "registries to ask first, as `host:port` or `host:port/prefix`, with `?ns=` and the name of "
    .. "this one. They get their own credentials only, and no retries: 3 s to connect, and 5 s of silence before a "
    .. "manifest" },
  { "realm_hosts", "places", "none", "token servers that may get the credentials, as `host`, `host:port` or "
    .. "`*.example.org`, besides the registry's own host and port; those of docker.io and gitlab.com are built in" },
})

--- Of a bucket.
M.bucket = set("bucket option", {
  { "endpoint", "text", "`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the profile's `endpoint_url`, or Amazon's", "the store, as "
    .. "`https://host` or `https://host:port`" },
  { "region", "text", "`AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, or `us-east-1`", "region to sign for; a store that "
    .. "tells another is asked again" },
  { "style", "style", "`virtual` at Amazon's, else `path`", "where the bucket's name is: in the `path`, or in the host "
    .. "(`virtual`)" },
  { "access_key_id", "text", "see the guide", "access key; without it, credentials come from the environment, a profile, "
    .. "or the machine" },
  { "secret_access_key", "text", "see the guide", "secret of `access_key_id`" },
  { "session_token", "text", "none", "token of temporary credentials" },
  { "profile", "text", "`AWS_PROFILE`, or `default`", "profile in AWS's shared files, whose credentials go before the "
    .. "environment's" },
  { "credential_process", "text", "the profile's", "program that prints credentials, with its arguments. No shell expands "
    .. "them" },
  { "anonymous", "flag", "false", "sign nothing: for public buckets" },
  { "cache_scope", "text", "a secret digest", "a name for who may share the cached bytes, in memory and on disk. Without "
    .. "it, those with the same credentials share them, in memory only" },
  { "ca_file", "text", "as for all", "PEM file of the authorities to trust" },
  { "proxy", "text", "as for all", "URL of a proxy; empty: none" },
  { "plain_http", "flag", "at loopback addresses", "allow an endpoint that speaks plain http" },
})

--- Of S3: those of all buckets, and some buckets' own.
M.s3 = set("s3 option", { { "buckets", "buckets", "none", "options for some buckets, by name, on top of these. A bucket with "
  .. "credentials of its own takes none of these" } })
for _, option in ipairs(M.bucket) do
  M.s3[#M.s3 + 1], M.s3.by_name[option.name] = option, option
end

--- Of a cache.
M.cache = set("cache option", {
  { "name", "text", "none", "name of a cache shared by the whole process; without it, the cache is private. "
    .. "With no other option but `consumer`, it joins the cache that is open under the name, whatever its "
    .. "options" },
  { "consumer", "text", "none", "name under which `stats().by_consumer` counts this handle" },
  { "max_bytes", "count", "256 MiB", "limit on the bytes it holds; 0: no limit" },
  { "max_entries", "count", "0", "limit on the number of entries; 0: no limit" },
  { "ttl", "seconds", "for ever", "how long an entry is fresh" },
  { "stale_while_revalidate", "seconds", "0", "how long past its `ttl` an entry is served while it reloads in the "
    .. "background" },
  { "stale_if_error", "seconds", "0", "how long past its `ttl` an entry is served if the server fails" },
  { "negative_ttl", "seconds", "0", "how long a 404, 410 or missing file is remembered" },
  { "coalesce", "flag", "true", "false: concurrent misses each load, and the last one wins, as in Theater" },
  { "disk", "disk", "none", "disk cache for bytes fetched by http or https: a store's id, or a table (below)" },
})

--- Of a disk cache.
M.disk = set("disk cache option", {
  { "store", "text", "`cache`", "id of the store whose folder holds the cache" },
  { "home", "text", "Theater home", "home of that store" },
  { "base_path", "text", "in `home`", "the cache's folder, instead" },
  { "max_bytes", "count", "1 GiB", "limit on all its files together, each in whole blocks of 4 KiB; 0: no limit" },
})

--- Of one call: `resolver:start`, `resolve` and `resolve_cached`.
M.call = set("call option", {
  { "cached", "flag", "false", "use the resolver's cache" },
  { "cache", "open_cache", "the resolver's", "use this cache" },
  { "ttl", "seconds", "the cache's", "how long the bytes that this call loads are fresh" },
  { "revalidate", "flag", "false", "ask the server whether cached bytes have changed" },
  { "disk", "flag", "true", "false: do not use the disk cache" },
  { "resolve_timeout", "seconds", "the resolver's", "time limit for this call" },
})

--- Of `resolver:follow`.
M.follow = set("follow option", {
  { "interval", "seconds", "60", "how long a check is good for, from 0.01 seconds; for a remote store, its `label_ttl`, at least "
    .. "1, by default. Local files and labels are watched, too, and changes are noticed at once where the system can tell" },
  { "jitter", "fraction", "0.1", "the part of the interval, from 0 to 1, by which checks come later, so that "
    .. "processes do not ask a server all at once" },
  { "on_error", "function", "none", "called with the error and the reference if a check fails, or the function raises an error" },
  { "resolve_timeout", "seconds", "the resolver's, else 600", "time limit for one check" },
})

--- Of `resolver:derive` and `resolver:start_derive`.
M.derive = set("derive option", {
  { "cache", "open_cache", "the resolver's", "use this cache" },
  { "derive_timeout", "seconds", "600", "time limit for the call; the function itself is not interrupted. Below 0: no limit" },
})

--- Of one plan: `resolver:plan` and `resolver:start_plan`.
M.plan = set("plan option", {
  { "initial_state", "bytes", "none", "JSON text that overrides the manifest's initial state" },
  { "plan_timeout", "seconds", "the resolver's", "time limit for this plan" },
})

--- Of `resolver:copy`.
M.copy = set("copy option", {
  { "all", "flag", "false", "copy an artifact of a registry with all its layers and signatures; no digest changes" },
})

--- Of the policy builder `only`.
M.only = set("list of policy.only", {
  { "schemes", "list", "any", "schemes; paths have the scheme `file`" },
  { "hosts", "host_names", "any", "hosts of http, https and oci references, such as `example.org` and `*.example.org`" },
  { "stores", "list", "any", "ids of stores" },
  { "prefixes", "list", "any", "prefixes of whole references; end each with `/`" },
  { "redirect_hosts", "host_names", "none", "hosts that redirects may lead to, besides `hosts`" },
})

M.only.unknown = "unknown list '%s'%s"

local store_first = { "store", "text", "none", "id of a store to look in first" }
local store_only = { "offline", "flag", "false", "look only in that store" }

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
  { "size", "count", "any", "bytes, of a layer in a registry" },
  { "manifest", "text", "any", "hex digest of the manifest in a registry that leads to the bytes" },
  { "version", "text", "the newest", "version of an object to fetch, which needs the permission s3:GetObjectVersion" },
  store_first,
  store_only,
  { "signatures", "short_list", "none", "SHA-256 digests of signatures to look for in that store" },
})

local keys = { "keys", "short_list", "none", "public keys: local files, or their text (PEM or minisign's), or references with a "
  .. "SHA-256; an empty list trusts nobody" }
local threshold = { "threshold", "count", "1", "how many different keys must have signed" }

local endings = { "endings", "short_list", "by the keys", "endings of the signatures' paths, instead of `.sig`, "
  .. "`.sigstore.json` and `.minisig`; not for `oci`" }

--- Of an answer of a policy's rule `signatures`, and of the option `signatures`.
M.signatures = set("field of the answer", {
  keys,
  threshold,
  endings,
  { "from", "text_or_list", "beside the bytes", "reference of the signature, or a list of them; relative to the manifest" },
})

--- Of the policy builder `signed`.
M.signed = set("option of policy.signed", {
  keys,
  threshold,
  endings,
  { "purposes", "list", "all", "only for these purposes, such as `package`" },
  { "prefixes", "list", "all", "only for references with one of these prefixes" },
})

--- Of the policy builder `wasm`.
M.wasm = set("option of policy.wasm", {
  { "module", "flag", "false", "accept core modules" },
  { "component", "flag", "false", "accept components" },
})

--- Of an answer of a policy's rule `cacheable`.
M.cacheable = set("field of the answer", {
  { "ttl", "seconds", "the cache's", "how long the bytes are fresh" },
  { "revalidate", "flag", "false", "ask the server each time whether it has changed" },
  { "disk", "flag", "true", "false: keep out of the disk cache" },
})

--- Of a log.
M.log = set("log option", {
  { "level", "level", "`$THEATERREF_LOG`, else `warn`", "lowest level that is logged: `debug`, `info`, `warn`, "
    .. "`error` or `off`" },
  { "sink", "function", "standard error", "called as `sink(level, line, event)` for each line; not in a "
    .. "configuration" },
})

local label_history = { "label_history", "count", "5", "how many hashes a label's history keeps, whose content "
  .. "`gc` spares; 0: none; at most 100, in a remote store 20. Use the same number in all programs that share a store" }

--- Of a resolver; and all of `request`.
M.resolver = set("resolver option", {
  { "policy", "policy", "the default rules", "path of a policy script, or a table of rules" },
  { "trusted", "flag", "false", "run the policy script without a sandbox; only for a script that belongs to the "
    .. "host" },
  { "lockfile", "text", "none", "path of a lockfile that must list every reference" },
  { "offline", "store_id", "none", "fetch nothing: use only files, local stores and cached bytes; with a lockfile, "
    .. "locked content comes from the store of this id" },
  { "signatures", "signatures", "none", "require signatures for everything: a table of `keys` and `threshold` (below)" },
  { "cache", "cache", "none", "cache for bytes that the policy calls cacheable, and for `resolve_cached`" },
  { "registries", "registries", "none", "options of registries for `oci://`, by `host` or `host:port` (below)" },
  { "s3", "s3", "none", "options of buckets for `s3://` (below)" },
  { "respect_no_store", "flag", "false", "do not keep bodies with `Cache-Control: no-store` or `private` in "
    .. "memory either, but for what followers share; a disk cache never keeps them" },
  { "home", "text", "`$THEATER_HOME`, else `~/.theater`", "Theater home: the stores are in `<home>/store/`" },
  label_history,
  { "stores", "stores", "none", "options of stores, by id: `remote`, `label_ttl` and `max_bytes` (below)" },
  { "log", "log", "warnings, to standard error", "a level, a table (below), or false" },
  { "helpers", "table", "none", "template helpers: functions by name; not in a configuration" },
  { "resolve_timeout", "seconds", "no limit", "time limit for resolving one reference, with all its candidates; below 0: no "
    .. "limit" },
  { "plan_timeout", "seconds", "no limit", "time limit for a whole plan; below 0: no limit" },
  { "max_manifest_bytes", "count", "4 MiB", "largest manifest, before and after rendering" },
  { "max_state_bytes", "count", "64 MiB", "largest initial state: the manifest's, the caller's, merged, and "
    .. "with its secrets" },
  { "strict_state", "flag", "false", "refuse an initial state that is not JSON, with line and column. Theater "
    .. "passes it on unmerged" },
  { "max_host_connections", "times", "32", "limit on concurrent requests of the process to one host, from now "
    .. "on; others wait" },
  { "max_connections", "times", "128", "the same for all hosts together; one slot in eight is reserved for "
    .. "hosts without a request. Memory use is at most this many bodies of `max_bytes`" },
  { "on_event", "function", "none", "called with each event, like a policy's rule `on_event`; not in a "
    .. "configuration" },
})
for _, option in ipairs(M.request) do
  M.resolver[#M.resolver + 1], M.resolver.by_name[option.name] = option, option
end

M.call.near = { timeout = "resolve_timeout" }
M.plan.near = { timeout = "plan_timeout" }
M.follow.near = { timeout = "resolve_timeout" }
M.derive.near = { timeout = "derive_timeout" }

--- Of a content store.
M.store = set("store option", {
  { "home", "text", "Theater home", "Theater home: the store is `<home>/store/<id>`" },
  { "base_path", "text", "in `home`", "the store's own folder, instead" },
  { "durability", "text", "`full`", "`full`: a put or label is on the disk when the call returns; `none`: the "
    .. "system writes it later, as for Theater" },
  { "verify", "text", "`once`", "when a read is checked against its hash: `once` (in this process, until the "
    .. "file changes), `always` or `never`" },
  { "algorithm", "text", "`sha1`", "hash that names new content: `sha1` (Theater's) or `sha256`; both are read" },
  { "map", "flag", "true", "false: large content is read, not mapped" },
  { "lock_timeout", "seconds", "30", "how long a call waits for others that move labels or lock the store "
    .. "before it fails; below 0: no limit" },
  label_history,
  { "remote", "text", "none", "the bucket that has the content and labels of the store, as `s3://bucket` or "
    .. "`s3://bucket/prefix`; the store's folder caches it" },
  { "label_ttl", "seconds", "5", "of a remote store: how long a label that was read counts before the bucket is asked again" },
  { "max_bytes", "count", "4 GiB", "of a remote store: limit on the content in the local folder; 0: no limit. The least recently "
    .. "used content goes first" },
  { "s3", "s3", "the environment's", "of a remote store: endpoint and credentials, as the resolver option `s3`" },
  { "request", "request", "none", "of a remote store: request options" },
  { "on_warning", "function", "none", "of a remote store: called with a message when the bucket cannot be reached and a label "
    .. "counts as it was, or when the bucket has wrong bytes" },
})

--- Of a store in the option `stores`.
M.remote_store = set("option of a store in `stores`", {})
for _, name in ipairs { "remote", "label_ttl", "max_bytes" } do
  M.remote_store[#M.remote_store + 1], M.remote_store.by_name[name] = M.store.by_name[name], M.store.by_name[name]
end

local progress = { "progress", "function", "none", "called with the number of contents done and in all; in an "
  .. "import, of bytes" }

--- Of a store's `label` and `replace_at_label`.
M.label = set("label option", {
  { "expect", "expect", "none", "move the label only if it points at this hash; false: only if there is no such "
    .. "label" },
})

--- Of a store's `rollback`.
M.rollback = set("rollback option", {
  { "to", "text", "the last", "the hash in the label's history to move it to" },
})

local in_bucket = { "remote", "flag", "false", "work on the bucket of a remote store, not on its local folder" }

--- Of a store's `verify`.
M.verify = set("verify option", { in_bucket, progress })

--- Of a store's `export`.
M.export = set("export option", {
  { "force", "flag", "false", "replace an export of another store" },
  progress,
})

--- Of a store's `import`.
M.import = set("import option", {
  { "keep_labels", "flag", "false", "do not move labels that exist already" },
  progress,
})

--- Of a store's `gc`.
M.gc = set("gc option", {
  { "grace", "seconds", "3600; in a bucket 86400", "how many seconds content is spared after it was put, labelled or unlabelled. "
    .. "If a put and its label take longer, `gc` deletes content that is about to be labelled" },
  { "dry_run", "flag", "false", "report what would be deleted, and delete nothing" },
  in_bucket,
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

--- Options of requests, and on top of them those of a host: its headers add to those for all.
-- @tparam table request
-- @tparam ?table own
-- @treturn table
function M.with_host(request, own)
  local all = M.overlay(request, own)
  if own and own.headers and request.headers then all.headers = M.overlay(request.headers, own.headers) end
  return all
end

--- Returns a copy of the options of requests without those that identify the caller.
-- @tparam table request
-- @treturn table
function M.anonymous(request)
  local all = M.overlay(request)
  all.headers, all.client_cert, all.client_key, all.netrc, all.cache_scope = nil, nil, nil, nil, nil
  return all
end

--- Returns the options with which redirects to the listed hosts are followed: what identifies
-- the caller is that host's own, or none.
-- @tparam table request
-- @tparam table hosts
-- @treturn table options by host
function M.after_redirects(request, hosts)
  local base = M.anonymous(request)
  local all = { ["*"] = base } -- hosts that the list does not have
  for name, own in pairs(hosts) do all[name] = M.with_host(base, own) end
  return all
end

--- Returns the options of a request to a host: those of all requests, and on top of them its own
-- from their `hosts`; and those for where redirects lead.
-- @tparam table request
-- @tparam ?string name the host's key in `hosts`, if it has one
-- @treturn table
function M.for_host(request, name)
  local hosts, general = request.hosts, M.overlay(request)
  general.hosts = nil
  local own = M.with_host(general, hosts and name and hosts[name])
  own.hosts = hosts and M.after_redirects(general, hosts)
  return own
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
-- @tparam integer level where to raise, as for `error` in the calling function
-- @tparam[opt] string name of the function that takes them, if they are not named after it
function M.check(options, given, level, name)
  if type(given) ~= "table" then
    error(("the options of %s must be a table, not a %s"):format(name or options.what:gsub(" option$", ""), type(given)),
      level + 1)
  end
  local fault = M.fault(options, given)
  if fault then error(fault, level + 1) end
end

return M
