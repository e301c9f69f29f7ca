--- Credentials for registries: of the configuration, of Docker's and Podman's files, and of
-- the helper programs that these name.
--
-- The identity that stands for them is known without a helper, and is no secret's place: a
-- cache keeps the bytes of each identity apart.
-- @module theaterref.registry.credentials
local base64 = require "theaterref.base64"
local core = require "theaterref.core"
local errors = require "theaterref.error"

local M = {}

local MAX_FILE_BYTES = 4 << 20
local HELPER_SECONDS = 30
local KEEP_SECONDS = 300 -- what a helper said
local LOOK_SECONDS = 1   -- between two looks at a file

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

-- By path: { stamp =, looked =, document = or err = }.
local files = {}

local function read(path)
  local blob, err = core.read_file(path, MAX_FILE_BYTES, true)
  if not blob then return nil, errors.new(err.kind, "credentials of registries: " .. err.message) end
  local ok, document = pcall(core.json_decode, tostring(blob))
  if ok and type(document) == "table" then return document end
  return nil, errors.new("syntax", ("credentials of registries: %s is no JSON object"):format(path))
end

-- Returns a file's document, nil if there is none, or nil and an error.
local function document_of(path)
  local known, now = files[path], core.now()
  if known and now < known.looked + LOOK_SECONDS then return known.document, known.err end
  local stamp, err = core.file_stamp(path)
  if known and stamp and known.stamp == stamp then
    known.looked = now
    return known.document, known.err
  end
  local entry = { stamp = stamp, looked = now }
  if stamp then entry.document, entry.err = read(path)
  elseif err.kind ~= "not_found" then entry.err = err end
  files[path] = entry
  return entry.document, entry.err
end

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

-- Finds what a table of the file has under one of several names. Docker writes URLs, too.
local function find(by_name, names)
  if type(by_name) ~= "table" then return nil end
  for _, name in ipairs(names) do
    local plain = by_name[name]
    if plain ~= nil then return plain, name end
  end
  local host = names[#names]
  for _, form in ipairs { "https://%s", "https://%s/", "https://%s/v1/", "https://%s/v2/", "http://%s", "http://%s/" } do
    local name = form:format(host)
    if by_name[name] ~= nil then return by_name[name], name end
  end
end

local function text(value) return type(value) == "string" and value ~= "" and value or nil end

-- Returns the source of credentials that an entry of 'auths' is, or nil if it is empty, as
-- Docker leaves those of a helper.
local function of_entry(entry)
  if type(entry) ~= "table" then return nil end
  local user, password = text(entry.username), text(entry.password)
  if text(entry.auth) then
    user, password = (base64.decode(entry.auth) or ""):match "^([^:]*):(.*)$"
    password = password and password:gsub("%z+$", "")
  end
  local token = text(entry.identitytoken)
  if not (user and password) and not token then return nil end
  return { username = user, password = not token and password or nil, identity_token = token }
end

local function of_helper(name, server)
  if not text(name) or name:find "[^%w_.-]" then return nil end
  return { helper = "docker-credential-" .. name, server = server }
end

-- Returns the source of credentials for a repository in a file's document.
local function of_document(document, registry, repository)
  local names = names_of(registry, repository)
  local server = registry == "docker.io" and HUB[1] or registry
  local helper, name = find(document.credHelpers, names)
  local found = of_helper(helper, name == registry and server or name) or of_helper(document.credsStore, server)
  local entry = of_entry((find(document.auths, names)))
  if found then found.otherwise = entry end
  return found or entry
end

--- Finds out where the credentials for a repository come from. No helper runs.
-- @tparam string registry
-- @tparam string repository
-- @tparam[opt] table configured options of this registry: `username` and `password`, or
-- `identity_token`
-- @treturn ?table `username` and `password`, `identity_token`, or `helper` and `server`; nil: there
-- are none
-- @return[2] nil
-- @treturn[2] table an error, when a file cannot be read
function M.find(registry, repository, configured)
  if configured and (configured.username or configured.identity_token) then
    return { username = configured.username, password = configured.password, identity_token = configured.identity_token }
  end
  for _, path in ipairs(paths()) do
    local document, err = document_of(path)
    if err then return nil, err end
    local found = document and of_document(document, registry, repository)
    if found then return found end
  end
  return nil
end

--- The identity of credentials: a text that differs if they may differ. It is secret.
-- @tparam ?table found as `get` returns them; or as `find` does, if no helper could be asked
-- @treturn ?string nil: nobody's
function M.identity(found)
  if not found or not (found.username or found.identity_token or found.helper) then return nil end
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

local function key_of(found) return found.helper .. " " .. found.server end

local function ask(found, await)
  local key = key_of(found)
  local known = said[key]
  if known and known.at and (not await or core.now() < known.at + KEEP_SECONDS) then return known.credentials end
  if not known or known.at then
    local future, err = core.run_helper(found.helper, "get", found.server .. "\n", HELPER_SECONDS)
    if not future then return nil, err end
    known = { future = future }
    said[key] = known
  end
  local output, err = await(known.future)
  if said[key] == known then said[key] = nil end
  if not output then
    -- Helpers exit with 1 for a server that they do not know.
    if err.kind == "io" and err.message:find "status 1$" then return {} end
    return nil, err
  end
  local credentials = parse_output(output)
  if not credentials then
    return nil, errors.new("syntax", ("the credential helper %s printed no credentials"):format(found.helper))
  end
  said[key] = { credentials = credentials, at = core.now() }
  return credentials
end

--- Gets the credentials: those found, or those that their helper tells.
-- @tparam ?table found as `find` returns it
-- @tparam ?function await waits for a future of the core's that others may wait for, too; nil: no
-- helper runs
-- @treturn ?table `username` and `password`, or `identity_token`, or neither; nil: only a helper
-- knows them
-- @return[2] nil
-- @treturn[2] table an error
function M.get(found, await)
  if not found then return {} end
  if not found.helper then return found end
  if not await and not (said[key_of(found)] or {}).at then return nil end
  local credentials, err = ask(found, await)
  if credentials and not next(credentials) then return found.otherwise or {} end
  if not credentials and found.otherwise then return found.otherwise end
  return credentials, err
end

return M
