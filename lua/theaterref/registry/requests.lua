--- Registries: where each one is, and the options of requests to it.
-- @module theaterref.registry.requests
local core = require "theaterref.core"
local credentials = require "theaterref.registry.credentials"
local errors = require "theaterref.error"
local option_sets = require "theaterref.options"
local overlay = option_sets.overlay

local M = {}

--- The media types of documents, for the header `Accept`: registries answer 404 for those
-- that are not asked for.
M.DOCUMENTS = table.concat({ "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json" }, ", ")

--- Documents may be this large.
M.MAX_DOCUMENT_BYTES = 4 << 20

-- The host that answers for a registry's name.
local hosts = { ["docker.io"] = "registry-1.docker.io" }

-- Realms of tokens on other hosts than their registry's.
local realms = { ["docker.io"] = { "auth.docker.io" }, ["registry.gitlab.com"] = { "gitlab.com" } }

--- True if a host is this machine: its registries are asked by plain http unless an option says
-- otherwise, or their port is 443.
-- @tparam string host
-- @treturn boolean
function M.is_loopback(host)
  return host == "localhost" or host == "::1" or host:find "%.localhost$" ~= nil or host:find "^127%.%d+%.%d+%.%d+$" ~= nil
end

-- The options of a registry, by its name in any case and with the port that is the default.
local function options_of(registries, registry)
  if not registries then return nil end
  if registries[registry] then return registries[registry] end
  for name, options in pairs(registries) do
    local parsed = core.parse_oci("oci://" .. name .. "/x")
    if parsed and parsed.registry == registry then return options end
  end
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
    repository = parsed.repository, options = options,
    insecure = insecure, is_usual = insecure == usually, ns = ns, origin = (insecure and "http://" or "https://") .. authority,
    url = ("%s://%s/v2/%s/"):format(insecure and "http" or "https", authority, parsed.repository) }
end

--- The places to ask for a repository: the mirrors that its registry's options list, then
-- itself.
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

-- Copies headers without one, in any case.
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

--- The options of requests to a mirror: its own, and on top of the general ones, of which none
-- identifies the caller. Of a request to the upstream only limits hold.
-- @tparam table endpoint the mirror
-- @tparam table general options of all requests
-- @tparam table request options of requests to the upstream
-- @treturn table
function M.mirror_request(endpoint, general, request)
  local all, by_host = option_sets.anonymous(request), general.hosts
  for _, name in ipairs { "ca_file", "proxy", "unix_socket", "user_agent", "cache_scope" } do all[name] = general[name] end
  local host = by_host and core.match_host(by_host, endpoint.host, endpoint.port)
  local own = option_sets.with_host(all, host and by_host[host])
  own.hosts = by_host and option_sets.after_redirects(all, by_host)
  return M.request(endpoint, own)
end

--- Gets the credentials for an endpoint.
-- @tparam table endpoint
-- @tparam ?function await see `theaterref.registry.credentials.get`
-- @treturn ?table
-- @return[2] nil
-- @treturn[2] table an error
-- @treturn[2] boolean true: a file cannot be read
function M.credentials(endpoint, await)
  local found, err = credentials.find(endpoint.registry, endpoint.repository, endpoint.options)
  if err then return nil, err, true end
  return credentials.get(found, await)
end

-- The scope in caches of bytes from one place.
local function scope_of(place)
  local identity, request = credentials.identity(place.credentials), place.options
  if not place.credentials then
    identity = credentials.identity(credentials.find(place.endpoint.registry, place.endpoint.repository, place.endpoint.options))
  end
  if identity then
    request = overlay(request, { headers = overlay(request.headers or {}, { ["Theaterref-Identity"] = identity }) })
  end
  return core.request_scope(core.request_options(request))
end

--- The scope in caches of bytes that any of several places may have sent.
-- @tparam table places a list of `{ endpoint =, options =, credentials = }`, with options of requests
-- @treturn string "": those of everybody
-- @treturn boolean whether they may be on disk: a scope without a name means nothing to another
-- process, and holds credentials
function M.scope(places)
  local parts, may_be_on_disk = {}, true
  for i, place in ipairs(places) do
    local endpoint, scope = place.endpoint, scope_of(place)
    may_be_on_disk = may_be_on_disk and (scope == "" or place.options.cache_scope ~= nil)
    parts[i] = scope
    -- Bytes from other places may be other bytes.
    if endpoint.mirror or not endpoint.is_usual then parts[i] = (endpoint.mirror or endpoint.origin) .. " " .. scope end
  end
  local own = parts[#parts]
  if #parts == 1 and places[1].endpoint.is_usual then return own, may_be_on_disk end
  return core.digest(table.concat(parts, "\n")), may_be_on_disk
end

--- Compiles options for the core, with credentials.
-- @tparam table endpoint
-- @tparam table request options of requests
-- @tparam string actions `pull`, or `pull,push`
-- @tparam table found credentials
-- @tparam[opt] table more `accept`; `max_bytes`; `from`, a repository to read from as well
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
  if more.max_bytes then all.max_bytes = math.min(more.max_bytes, request.max_bytes or more.max_bytes) end
  if core.auth then
    local realm_hosts = overlay(realms[endpoint.registry] or {})
    for _, host in ipairs(endpoint.options.realm_hosts or {}) do realm_hosts[#realm_hosts + 1] = host end
    all.auth = core.auth { registry = endpoint.authority, insecure = endpoint.insecure, username = found.username,
      password = found.password, identity_token = found.identity_token, realm_hosts = realm_hosts }
    all.scope = ("repository:%s:%s"):format(endpoint.repository, actions)
    if more.from then all.scope = ("%s repository:%s:pull"):format(all.scope, more.from) end
  end
  local ok, compiled = pcall(core.request_options, all)
  if ok then return compiled end
  return nil, errors.new("policy", "the options of the request are wrong: " .. tostring(compiled))
end

local statuses = { [401] = true, [403] = true, [404] = true }

--- The error for the status of a registry's answer. Registries do not tell a package that is
-- missing from one that is private.
-- @tparam table endpoint
-- @tparam string what was asked for
-- @tparam integer status
-- @treturn table
function M.status_error(endpoint, what, status)
  local name = endpoint.registry .. "/" .. endpoint.repository
  local err = errors.new("http_status", statuses[status]
    and ("%s: the registry has no such %s, or it is private and needs other credentials (status %d)"):format(name, what, status)
    or ("%s: the registry answered %d"):format(name, status))
  err.status = status
  return err
end

--- The same for an error of the engine's, if it is of such a status.
-- @tparam table err
-- @tparam table endpoint
-- @tparam string what
-- @treturn table
function M.worded(err, endpoint, what)
  return statuses[err.status] and M.status_error(endpoint, what, err.status) or err
end

return M
