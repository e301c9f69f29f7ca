--- Registries: where each one is, and the options of requests to it.
-- @module theaterref.registry.requests
local core = require "theaterref.core"
local credentials = require "theaterref.registry.credentials"
local errors = require "theaterref.error"
local links = require "theaterref.registry.link"
local option_sets = require "theaterref.options"
local overlay = option_sets.overlay
local paths = require "theaterref.paths"

local M = {}

--- The media types of documents, for the header `Accept`: registries answer 404 for types that it
-- does not list.
M.DOCUMENTS = table.concat({ "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json" }, ", ")

--- The largest document, in bytes.
M.MAX_DOCUMENT_BYTES = 4 << 20

-- The host that answers for a registry's name.
local hosts = { ["docker.io"] = "registry-1.docker.io" }

-- Realms of tokens on other hosts than their registry's.
local realms = { ["docker.io"] = { "auth.docker.io" }, ["registry.gitlab.com"] = { "gitlab.com" } }

--- True if a host is this machine: its registries use plain http unless an option says otherwise, or
-- their port is 443.
-- @tparam string host
-- @treturn boolean
M.is_loopback = require "theaterref.loopback"

-- The normal form of a registry's name: in lower case, and without the port that is the default.
local function normal_name(name)
  local parsed = core.parse_oci("oci://" .. name .. "/x")
  return parsed and parsed.registry
end

-- The options of a registry, by its name in any form.
local function options_of(registries, registry)
  if not registries then return nil end
  if registries[registry] then return registries[registry] end
  for name, options in pairs(registries) do
    if normal_name(name) == registry then return options end
  end
end

--- The registries that have the option `plain_http`.
-- @tparam ?table registries options by registry
-- @treturn ?table the option, by the normal form of their names; nil: none has it
function M.plain_http(registries)
  local found = {}
  for name, options in pairs(registries or {}) do
    if options.plain_http ~= nil then found[normal_name(name) or name] = options.plain_http end
  end
  return next(found) and found
end

--- The place that answers for a registry.
-- @tparam table parsed `registry`, `host`, `port`, `repository`
-- @tparam ?table registries options by registry
-- @tparam ?string ns the registry that a mirror is to ask
-- @treturn table `registry`, `repository`, `options`, `url` (of the repository, ending in `/`),
-- `insecure`, `is_usual` (it would be asked that way without options) and `ns`
function M.endpoint(parsed, registries, ns)
  local options = options_of(registries, parsed.registry) or {}
  local insecure, usually = options.plain_http, M.is_loopback(parsed.host) and parsed.port ~= 443
  if insecure == nil then insecure = usually end
  local authority = hosts[parsed.registry] or parsed.registry
  return { registry = parsed.registry, host = parsed.host, port = parsed.port, authority = authority,
    repository = parsed.repository, options = options, insecure = insecure, is_usual = insecure == usually, ns = ns,
    origin = (insecure and "http://" or "https://") .. authority,
    url = ("%s://%s/v2/%s/"):format(insecure and "http" or "https", authority, parsed.repository) }
end

--- The places to ask for a repository: the mirrors in its registry's options, then the registry itself.
-- @tparam table parsed
-- @tparam ?table registries options by registry
-- @treturn table a list of endpoints; those of mirrors with `mirror`, its URL
function M.endpoints(parsed, registries)
  local own, list = M.endpoint(parsed, registries, parsed.ns), {}
  for _, mirror in ipairs(own.options.mirrors or {}) do
    local at = core.parse_oci("oci://" .. mirror:gsub("^oci://", ""):gsub("/*$", "") .. "/" .. parsed.repository)
    if at then
      local endpoint = M.endpoint(at, registries, parsed.registry)
      endpoint.mirror = endpoint.origin .. "/" .. at.repository:sub(1, -#parsed.repository - 1)
      list[#list + 1] = endpoint
    end
  end
  list[#list + 1] = own
  return list
end

--- A URL within a repository.
-- @tparam table endpoint
-- @tparam string kind `manifests` or `blobs`
-- @tparam string name a tag or a digest
-- @treturn string
function M.url(endpoint, kind, name)
  return endpoint.url .. kind .. "/" .. name .. (endpoint.ns and "?ns=" .. endpoint.ns or "")
end

--- The absolute URL of a header's value, without a fragment, which is not sent.
-- @tparam string base the URL that was asked for
-- @tparam string location
-- @treturn string
function M.join(base, location)
  location = location:match "^[^#]*"
  return location:find "^%a[%w+.-]*://" and location or paths.join_url(base, location)
end

--- The next page of a list.
-- @tparam table endpoint
-- @tparam string at the URL of the last one
-- @tparam table headers of the answer with it
-- @treturn ?string its URL; nil: there is none
-- @return[2] nil
-- @treturn[2] table an error: it is not at the registry
function M.next_page(endpoint, at, headers)
  local link = links.next(headers.link)
  if not link then return nil end
  local following = M.join(at, link)
  if following:sub(1, #endpoint.origin + 1) == endpoint.origin .. "/" and following ~= at then return following end
  return nil, errors.new("syntax", endpoint.registry .. ": its list goes on at another host, or where it began")
end

-- Statuses of registries without the optional parts of the specification.
local unsupported = { [400] = true, [404] = true, [405] = true, [501] = true }

--- True if a status means that a registry has no list of referrers. Any other failure proves nothing.
-- @tparam integer status
-- @treturn boolean
function M.lacks_referrers(status) return unsupported[status] == true end

--- The digest of a manifest in a registry's answer, or nil.
-- @tparam table headers of its answer
-- @treturn ?string a SHA-256 in hex
function M.told_digest(headers)
  local digest = headers["docker-content-digest"]
  return digest and digest:match "^sha256:(%x+)$"
end

-- Copies headers without one, whatever the case of its name.
local function without(headers, name)
  local copy = {}
  for key, value in pairs(headers or {}) do
    if key:lower() ~= name then copy[key] = value end
  end
  return copy
end

--- The options of requests to an endpoint: those of all requests, and on top of them its
-- own. They have no credentials yet.
-- @tparam table endpoint
-- @tparam table request options of requests
-- @treturn table
function M.request(endpoint, request)
  local own, all = endpoint.options, overlay(request)
  for _, name in ipairs { "ca_file", "client_cert", "client_key", "proxy", "cache_scope" } do
    if own[name] ~= nil then all[name] = own[name] end
  end
  if own.client_cert and not own.client_key then all.client_key = nil end
  return all
end

--- The options of requests to an endpoint's host, of those of all requests.
-- @tparam table endpoint
-- @tparam table request
-- @treturn table
function M.of_host(endpoint, request)
  return option_sets.for_host(request, request.hosts and core.match_host(request.hosts, endpoint.host, endpoint.port))
end

-- Limits of requests to mirrors, in seconds: short, because the registry could answer instead. A mirror may be silent for
-- longer before a blob, which it may be fetching.
local MIRROR_LIMITS = { connect_timeout = 3 }
local MIRROR_DOCUMENT_LIMITS = { stall_timeout = 5 }

-- Returns options with limits that are not longer than others.
local function limited(request, limits)
  local all = overlay(request)
  for name, limit in pairs(limits) do
    local own = all[name]
    all[name] = own and own >= 0 and math.min(own, limit) or limit
  end
  return all
end

--- The options of requests to a mirror for documents, of those for blobs.
-- @tparam table request
-- @treturn table
function M.mirror_document_request(request) return limited(request, MIRROR_DOCUMENT_LIMITS) end

--- The options of requests to a mirror: its own, and on top of the general ones, of which none
-- identifies the caller. Of a request to the upstream only limits hold. None is retried: the next place is asked.
-- @tparam table endpoint the mirror
-- @tparam table general options of all requests
-- @tparam table request options of requests to the upstream
-- @treturn table
function M.mirror_request(endpoint, general, request)
  local all = option_sets.anonymous(request)
  for _, name in ipairs { "ca_file", "proxy", "unix_socket", "user_agent", "cache_scope", "hosts" } do
    all[name] = general[name]
  end
  all = limited(M.request(endpoint, M.of_host(endpoint, all)), MIRROR_LIMITS)
  all.retries = 0
  return all
end

-- The time of each warning, so that it is not repeated at every request.
local warned, warned_count, WARN_SECONDS = {}, 0, 300

-- Returns a function that reports problems that do not end a request, by the endpoint's `warn`.
local function warner(endpoint)
  return endpoint.warn and function(message)
    local now = core.now()
    if warned[message] and now < warned[message] + WARN_SECONDS then return end
    if warned_count >= 256 then warned, warned_count = {}, 0 end
    warned[message], warned_count = now, warned_count + 1
    endpoint.warn(message)
  end
end

--- Finds the source of the credentials for an endpoint, and notes it as its `source`. No helper runs.
-- @tparam table endpoint
function M.find_credentials(endpoint)
  endpoint.source = credentials.find(endpoint.registry, endpoint.repository, endpoint.options, warner(endpoint))
end

--- Gets the credentials for an endpoint, and records their origin in its `credentials`. A helper may
-- run: call this before a request is sent, but not for cached bytes.
-- @tparam table endpoint
-- @tparam function await see `theaterref.registry.credentials.get`
-- @tparam ?number seconds a limit for the helper
-- @treturn ?table
-- @return[2] nil
-- @treturn[2] table an error
function M.credentials(endpoint, await, seconds)
  if not endpoint.source then M.find_credentials(endpoint) end
  local found, more = credentials.get(endpoint.source, await, warner(endpoint), seconds and seconds >= 0 and seconds or nil)
  if not found then return nil, more end
  endpoint.credentials = { from = found.from, failure = found.failure, kept = more and found,
    what = found.username and "user and password" or "identity token" }
  return found
end

--- Makes the helper of an endpoint run again, if the refused credentials are from an earlier run.
-- @tparam table endpoint
-- @tparam integer status of the registry, or of its token server
-- @treturn boolean whether `credentials` may return others now
function M.renew_credentials(endpoint, status)
  local sent = endpoint.credentials
  if status ~= 401 or not (sent and sent.kept) then return false end
  credentials.forget(endpoint.source, sent.kept)
  endpoint.credentials = nil
  return true
end

-- The scope in caches of bytes from one place.
local function scope_of(place)
  local identity, request = credentials.identity(place.endpoint.source), place.options
  if identity then
    request = overlay(request, { headers = overlay(request.headers or {}, { ["Theaterref-Identity"] = identity }) })
  end
  return core.request_scope(core.request_options(request))
end

--- The scope in caches of bytes that may come from any of several places.
-- @tparam table places a list of `{ endpoint =, options = }`, with options of requests; each endpoint has
-- its `source` of credentials
-- @treturn string "": those of everybody
-- @treturn boolean whether they may be on disk: a scope without a name means nothing to another
-- process, and holds credentials
function M.scope(places)
  local parts, may_be_on_disk = {}, true
  for i, place in ipairs(places) do
    local endpoint, scope = place.endpoint, scope_of(place)
    may_be_on_disk = may_be_on_disk and (scope == "" or place.options.cache_scope ~= nil)
    parts[i] = scope
    -- Other places may have other bytes.
    if endpoint.mirror or not endpoint.is_usual then parts[i] = (endpoint.mirror or endpoint.origin) .. " " .. scope end
  end
  local own = parts[#parts]
  if #parts == 1 and places[1].endpoint.is_usual then return own, may_be_on_disk end
  return core.digest(table.concat(parts, "\n")), may_be_on_disk
end

-- Returns the error for credentials that cannot be sent.
local function unusable(endpoint, why)
  local sent = endpoint.credentials
  return errors.new("policy", ("%s: the credentials%s cannot be sent: %s"):format(endpoint.registry,
    sent and sent.from and " from " .. sent.from or "", why))
end

--- Compiles options for the core, with credentials.
-- @tparam table endpoint
-- @tparam table request options of requests
-- @tparam string actions `pull`, or `pull,push`
-- @tparam table found credentials
-- @tparam[opt] table more `accept`; `max_bytes`, in place of the option; `from`, a repository to read from as well
-- @treturn userdata
-- @return[2] nil
-- @treturn[2] table an error
function M.compile(endpoint, request, actions, found, more)
  more = more or {}
  local all = overlay(request)
  if more.accept then
    all.headers = without(request.headers, "accept")
    all.headers.Accept = more.accept
  end
  all.max_bytes = more.max_bytes or all.max_bytes
  local realm_hosts = overlay(realms[endpoint.registry] or {})
  for _, host in ipairs(endpoint.options.realm_hosts or {}) do realm_hosts[#realm_hosts + 1] = host end
  local ok, auth, err = pcall(core.auth, { registry = endpoint.authority, insecure = endpoint.insecure, username = found.username,
    password = found.password, identity_token = found.identity_token, realm_hosts = realm_hosts })
  if not (ok and auth) then return nil, unusable(endpoint, ok and err.message or auth) end
  all.auth = auth
  all.scope = ("repository:%s:%s"):format(endpoint.repository, actions)
  if more.from then all.scope = ("%s repository:%s:pull"):format(all.scope, more.from) end
  local compiled
  ok, compiled = pcall(core.request_options, all)
  if ok then return compiled end
  return nil, errors.new("policy", "the options of the request are wrong: " .. tostring(compiled))
end

local statuses = { [401] = true, [403] = true, [404] = true }

-- The words of a message about the credentials that were sent, at its end.
local function about_credentials(endpoint)
  local sent = endpoint.credentials
  if not sent then return "" end
  if sent.from then return ("; the %s are from %s"):format(sent.what, sent.from) end
  return ("; no credentials for %s were found%s"):format(endpoint.registry, sent.failure and ": " .. sent.failure or "")
end

--- The words to add to the message of a status that may be about credentials.
-- @tparam table endpoint
-- @treturn string
M.about_credentials = about_credentials

-- Returns the message for credentials that were refused; nil if none were sent.
local function refused_credentials(endpoint, by)
  local sent = endpoint.credentials
  return sent and sent.from and ("%s/%s: the %s refused the %s from %s"):format(endpoint.registry, endpoint.repository, by,
    sent.what, sent.from)
end

--- The words to add to the message of a failure that may be due to http instead of https, or the
-- reverse.
-- @tparam table err `kind`, `message`, `status`
-- @tparam table endpoint
-- @treturn ?string
function M.scheme_advice(err, endpoint)
  local where = ('set plain_http = %s in registries["%s"] of the configuration'):format(not endpoint.insecure, endpoint.registry)
  if not endpoint.insecure and err.kind == "tls" and not err.message:find "ca_file" then
    return "; if the registry speaks plain http, " .. where
  elseif endpoint.insecure and (err.kind == "network" and err.message:lower():find "empty reply" or err.status == 400) then
    return "; if the registry speaks https, " .. where
  end
end

--- The error for the status of a registry's answer. Registries do not distinguish missing packages
-- from private ones.
-- @tparam table endpoint
-- @tparam string what was asked for
-- @tparam integer status
-- @treturn table
function M.status_error(endpoint, what, status)
  local name = endpoint.registry .. "/" .. endpoint.repository
  local refused = status == 401 and refused_credentials(endpoint, "registry")
  local err = errors.new("http_status", refused and refused .. " (status 401)" or statuses[status]
    and ("%s: the registry has no such %s, or it is private and needs other credentials (status %d)%s"):format(name, what, status,
      about_credentials(endpoint))
    or ("%s: the registry answered %d%s"):format(name, status, M.scheme_advice({ status = status }, endpoint) or ""))
  err.status = status
  return err
end

-- Returns a copy of an error with another message. Others may share the original.
local function reworded(err, message)
  local other = errors.new(err.kind, message, err.reference)
  other.status, other.errno, other.advice = err.status, err.errno, err.advice
  return other
end

--- The same for errors of the engine, and for errors about the options of a registry.
-- @tparam table err
-- @tparam table endpoint
-- @tparam[opt] string what
-- @treturn table
function M.worded(err, endpoint, what)
  local message = err.message
  if err.kind == "denied" and message:find("wants tokens from", 1, true) then
    local other = reworded(err, (message:gsub("to realm_hosts$", function()
      return ('to realm_hosts in registries["%s"] of the configuration'):format(endpoint.registry)
    end)))
    other.may_try_next = true -- nothing was sent
    return other
  end
  if message:find("cannot get a token", 1, true) then
    local refused = statuses[err.status] and refused_credentials(endpoint, "token server")
    if refused then return reworded(err, ("%s (status %d)"):format(refused, err.status)) end
    if statuses[err.status] then return reworded(err, message .. about_credentials(endpoint)) end
    return err
  end
  if what and statuses[err.status] then return M.status_error(endpoint, what, err.status) end
  local advice = M.scheme_advice(err, endpoint)
  return advice and reworded(err, message .. advice) or err
end

return M
