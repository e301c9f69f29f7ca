--- Credentials for registries: from the configuration, from Docker's and Podman's files, and from
-- the helper programs that these name.
--
-- Caches keep the bytes of each source of credentials apart. A source is the helper, not its answer:
-- so cached bytes are found offline, and without running a helper, which may hang.
-- @module theaterref.registry.credentials
local base64 = require "theaterref.base64"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local watched = require "theaterref.watched"

local M = {}

local MAX_FILE_BYTES = 4 << 20
local HELPER_SECONDS = 30
local KEEP_SECONDS = 300 -- what a helper said

-- ------------------------------------------------------------------- files

local function set(variable)
  local value = os.getenv(variable)
  return value ~= "" and value or nil
end

-- The files that may have credentials, the first to ask first.
local function paths()
  local list, home, runtime = {}, set "HOME", set "XDG_RUNTIME_DIR"
  local docker = set "DOCKER_CONFIG" or home and home .. "/.docker"
  if docker then list[1] = docker .. "/config.json" end
  if runtime then list[#list + 1] = runtime .. "/containers/auth.json" end
  return list
end

local function read(path)
  local blob, err = core.read_file(path, MAX_FILE_BYTES, true)
  if not blob then return nil, errors.new(err.kind, "credentials of registries: " .. err.message) end
  local text = tostring(blob)
  local ok, document = pcall(core.json_decode, text)
  if ok and type(document) == "table" and text:find "^%s*{" then return document end
  return nil, errors.new("syntax", ("credentials of registries: %s is no JSON object"):format(path))
end

local document_of = watched.reader(read)

-- -------------------------------------------------------------------- entries

local HUB = { "https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io" }

-- The names of a repository in such a file: its own, those of its folders, its registry's.
local function names_of(registry, repository)
  if registry == "docker.io" then return HUB end
  local names, path = {}, registry .. "/" .. repository
  while path do
    names[#names + 1] = path
    path = path:match "^(.*)/"
  end
  return names
end

-- Finds the entry of a table in the file under one of several names. Docker writes URLs, too.
local function find(by_name, names)
  if type(by_name) ~= "table" then return nil end
  for _, name in ipairs(names) do
    local plain = by_name[name]
    if plain ~= nil then return plain, name end
  end
  local host = names[#names]
  for _, form in ipairs { "https://%s", "https://%s/", "https://%s/v1/", "https://%s/v2/", "http://%s", "http://%s/",
    "http://%s/v1/", "http://%s/v2/" } do
    local name = form:format(host)
    if by_name[name] ~= nil then return by_name[name], name end
  end
end

local function text(value) return type(value) == "string" and value ~= "" and value or nil end

-- Returns an entry of 'auths' as a source of credentials, or nil if it has none. Docker leaves the
-- entries of helpers empty.
local function of_entry(entry)
  if type(entry) ~= "table" then return nil end
  local user, password = text(entry.username), text(entry.password)
  if text(entry.auth) then
    user, password = (base64.decode(entry.auth) or ""):match "^([^:]*):(.*)$"
    password = password and (password:match "^.*%Z" or "")
  end
  local token = text(entry.identitytoken)
  if not (user and password) and not token then return nil end
  return { username = user, password = not token and password or nil, identity_token = token }
end

-- Returns the helper of a name, or nil. 'note' is called if that cannot be used.
local function of_helper(name, server, key, note)
  if name == nil or name == "" then return nil end
  if text(name) and not name:find "[^%w_.-]" then return { helper = "docker-credential-" .. name, server = server } end
  note(("%s is not the name of a credential helper"):format(key))
end

-- Returns the source of credentials for a repository in a file's document, or nil. 'note' is
-- called with each of its entries that cannot be used.
local function of_document(document, registry, repository, note)
  local names = names_of(registry, repository)
  for _, key in ipairs { "auths", "credHelpers" } do
    if document[key] ~= nil and type(document[key]) ~= "table" then note(key .. " is not an object") end
  end
  local server = registry == "docker.io" and HUB[1] or registry
  local helper, name = find(document.credHelpers, names)
  local found = of_helper(helper, name == registry and server or name, ('credHelpers["%s"]'):format(name), note)
    or of_helper(document.credsStore, server, "credsStore", note)
  local written, key = find(document.auths, names)
  local entry = of_entry(written)
  if written ~= nil and not entry and (type(written) ~= "table" or next(written)) then
    note(('auths["%s"] has neither a user with a password nor a token'):format(key))
  end
  if found then found.otherwise = entry end
  return found or entry
end

--- Finds out where the credentials for a repository come from. No helper runs.
-- @tparam string registry
-- @tparam string repository
-- @tparam[opt] table configured options of this registry: `username` and `password`, or
-- `identity_token`
-- @tparam[opt] function note called with what is wrong with a file or an entry that cannot be used
-- @treturn table `username` and `password`, `identity_token`, or `helper` and `server`, and then perhaps
-- `otherwise`, another one; `from`, where that is written. Without any, perhaps `failure`, why a file cannot be
-- read: the registry may need none
function M.find(registry, repository, configured, note)
  if configured and (configured.username or configured.identity_token) then
    return { username = configured.username, password = configured.password, identity_token = configured.identity_token,
      from = "the configuration" }
  end
  note = note or function() end
  local failure
  for _, path in ipairs(paths()) do
    local document, err = document_of(path)
    if err then
      failure = failure or err.message
      note(err.message)
    end
    local found = document and of_document(document, registry, repository, function(fault)
      note(("credentials of registries: %s: %s"):format(path, fault))
    end)
    if found then
      found.from = path
      if found.otherwise then found.otherwise.from = path end
      return found
    end
  end
  return { failure = failure }
end

--- The identity of a source of credentials: a text that differs if the source does. It is secret.
-- @tparam table found as `find` returns it; empty: there are none
-- @treturn ?string nil: nobody's
function M.identity(found)
  if not (found.username or found.identity_token or found.helper) then return nil end
  local parts = {}
  for i, name in ipairs { "username", "password", "identity_token", "helper", "server" } do
    parts[i] = ("%s=%s"):format(name, core.digest(found[name] or ""))
  end
  return table.concat(parts, " ") .. (found.otherwise and " " .. M.identity(found.otherwise) or "")
end

-- -------------------------------------------------------------------- helpers

-- Answers of helpers, by program and server: { future = } or { credentials =, at = }.
local said = {}

-- Returns the credentials in a helper's output. A user of this name means that the secret is
-- an identity token.
local function parse_output(output)
  local ok, answer = pcall(core.json_decode, tostring(output))
  if not ok or type(answer) ~= "table" then return nil end
  local user, secret = text(answer.Username), text(answer.Secret)
  if not secret then return nil end
  if user == "<token>" then return { identity_token = secret } end
  return user and { username = user, password = secret } or nil
end

local function name_of(found) return found.helper .. " " .. found.server end

-- Asks a helper. Returns its answer, and true if that is an earlier one; or nil and an error.
local function ask(found, await, seconds)
  local key = name_of(found)
  local known = said[key]
  if known and known.at and core.now() < known.at + KEEP_SECONDS then return known.credentials, true end
  if not known or known.at then
    local future, err = core.run_helper(found.helper, "get", found.server .. "\n",
      math.min(HELPER_SECONDS, seconds or HELPER_SECONDS))
    if not future then return nil, err end
    known = { future = future }
    said[key] = known
  end
  local output, err = await(known.future)
  if said[key] == known then said[key] = nil end
  local credentials = output and parse_output(output)
  if not output and err.kind == "not_found" or output and tostring(output):find("credentials not found", 1, true) then
    credentials = {}
  elseif not output then
    return nil, err
  elseif not credentials then
    return nil, errors.new("syntax", ("the credential helper %s printed no credentials"):format(found.helper))
  end
  if next(credentials) then credentials.from = "the credential helper " .. found.helper end
  said[key] = { credentials = credentials, at = core.now() }
  return credentials
end

-- Failures of a wait: the caller's own, or that of a helper that hangs.
local ends = { cancelled = true, timeout = true }

--- Gets the credentials: those found, or those of their helper. If the helper fails, the request goes
-- without credentials: the registry may not need any.
-- @tparam table found as `find` returns it; empty: there are none
-- @tparam function await waits for a future of the core's that others may wait for, too
-- @tparam[opt] function note called with why a helper failed, if that is no error
-- @tparam[opt] number seconds a limit beside that of helpers
-- @treturn table `username` and `password`, or `identity_token`, or neither; `from`, where they are
-- from; `failure`, why the helper failed
-- @treturn boolean whether the helper said so earlier: it may say something else now; see `forget`
-- @return[2] nil
-- @treturn[2] table an error
function M.get(found, await, note, seconds)
  if not found.helper then return found end
  local credentials, err = ask(found, await, seconds)
  if credentials then return next(credentials) and credentials or found.otherwise or {}, err end
  if not found.otherwise and ends[err.kind] then return nil, err end
  if note then
    note(("%s; to see why: echo %s | %s get"):format(err.message, found.server, found.helper))
  end
  return found.otherwise or { failure = err.message }
end

--- Forgets a helper's answer after a registry refused it.
-- @tparam table found as `find` returns it
-- @tparam table refused what `get` returned
function M.forget(found, refused)
  local known = found.helper and said[name_of(found)]
  if known and known.credentials == refused then said[name_of(found)] = nil end
end

return M
