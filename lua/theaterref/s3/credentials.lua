--- Credentials for S3: from the configuration, the environment, a profile in AWS's shared files,
-- the program that a profile names, or the machine.
--
-- Each source has an identity, which is known before the source is asked: caches keep the bytes of
-- each identity apart.
-- @module theaterref.s3.credentials
local core = require "theaterref.core"
local errors = require "theaterref.error"
local profiles = require "theaterref.s3.profiles"
local text = require "theaterref.s3.text"
local xml = require "theaterref.s3.xml"
local is_loopback = require "theaterref.loopback"

local M = {}

local set = profiles.set

local PROCESS_SECONDS = 30
local METADATA_SECONDS = 1
local SERVICE_SECONDS = 10
local REFRESH_SECONDS = 300 -- before they expire
local FAILURE_SECONDS = 1  -- for which a failure is not tried again
local MAX_ANSWER_BYTES = 64 << 10

-- ----------------------------------------------------------------- sources

local function static(from, id, secret, token)
  if (id == nil) ~= (secret == nil) then
    return nil, errors.new("policy", ("S3 credentials: %s has %s without the other half"):format(from,
      id and "an access key id" or "a secret access key"))
  end
  return id and { kind = "static", from = from, access_key_id = id, secret_access_key = secret, session_token = token }
end

-- Returns a profile as a source, or nil if it has no credentials.
local function of_profile(profile)
  local from = profile.from and ("the profile '%s' in %s"):format(profile.name, profile.from)
  local found, err = static(from, profile.aws_access_key_id, profile.aws_secret_access_key, profile.aws_session_token)
  if found or err then return found, err end
  if profile.credential_process then
    return { kind = "process", command = profile.credential_process, from = "credential_process of " .. from }
  end
  if profile.web_identity_token_file and profile.role_arn then
    return { kind = "web_identity", file = profile.web_identity_token_file, role = profile.role_arn, from = from,
      region = profile.region }
  end
  if profile.role_arn or profile.sso_session or profile.sso_start_url then
    return nil, errors.new("policy", ("S3 credentials: %s needs %s; add credential_process = aws configure export-credentials "
      .. "--profile %s --format process to a profile of its own"):format(from, profile.role_arn and "a role" or "single sign-on",
      profile.name))
  end
end

-- Returns the machine's own source, or nil.
local function of_machine(place)
  local relative, full = set "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", set "AWS_CONTAINER_CREDENTIALS_FULL_URI"
  if set "AWS_WEB_IDENTITY_TOKEN_FILE" and set "AWS_ROLE_ARN" then
    return { kind = "web_identity", file = set "AWS_WEB_IDENTITY_TOKEN_FILE", role = set "AWS_ROLE_ARN", region = place.region,
      from = "AWS_WEB_IDENTITY_TOKEN_FILE" }
  end
  if relative or full then
    return { kind = "container", url = relative and "http://169.254.170.2" .. relative or full,
      from = relative and "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" or "AWS_CONTAINER_CREDENTIALS_FULL_URI" }
  end
  if (set "AWS_EC2_METADATA_DISABLED" or ""):lower() == "true" then return nil end
  return { kind = "instance", url = (set "AWS_EC2_METADATA_SERVICE_ENDPOINT" or "http://169.254.169.254"):gsub("/*$", ""),
    from = "instance metadata" }
end

--- Finds out where the credentials for a bucket come from. Nobody is asked.
-- @tparam table place of `theaterref.s3.place`
-- @treturn ?table `kind`, `from`, and what the kind needs; nil: there are none to be had
-- @return[2] nil
-- @treturn[2] table an error
function M.find(place)
  local settings = place.settings
  if settings.anonymous then return { kind = "anonymous", from = "anonymous = true" } end
  local found, err = static("the configuration", settings.access_key_id, settings.secret_access_key, settings.session_token)
  if found or err then return found, err end
  if settings.credential_process then
    return { kind = "process", command = settings.credential_process, from = "credential_process of the configuration" }
  end
  if not settings.profile then
    found, err = static("the environment", set "AWS_ACCESS_KEY_ID", set "AWS_SECRET_ACCESS_KEY", set "AWS_SESSION_TOKEN")
    if found or err then return found, err end
  end
  found, err = of_profile(place.profile)
  if found or err then return found, err end
  if settings.profile then
    return nil, errors.new("policy", ("S3 credentials: the profile '%s' has none"):format(settings.profile))
  end
  return of_machine(place)
end

--- The identity of a source: a text that differs if the credentials may belong to somebody else. It
-- is secret.
-- @tparam ?table source
-- @treturn string "": nobody's
function M.identity(source)
  if not source or source.kind == "anonymous" then return "" end
  local parts = { source.kind }
  for _, name in ipairs { "access_key_id", "secret_access_key", "session_token", "command", "url", "file", "role" } do
    parts[#parts + 1] = ("%s=%s"):format(name, core.digest(source[name] or ""))
  end
  return table.concat(parts, " ")
end

-- --------------------------------------------------------------- answers

-- Answers, and futures of pending ones, by request: several tasks share one request.
local asked, asked_count, ANSWER_SECONDS = {}, 0, 1

-- Waits for an answer that several tasks may want. 'ask' sends the request.
local function answer_of(key, ask, await)
  local known = asked[key]
  if not known or known.at and core.now() >= known.at + ANSWER_SECONDS then
    local future, err = ask()
    if not future then return nil, err end
    if asked_count >= 64 then asked, asked_count = {}, 0 end
    if not known then asked_count = asked_count + 1 end
    known = { future = future }
    asked[key] = known
  end
  if not known.at then
    local answer, err = await(known.future, true)
    if not answer then
      if asked[key] == known then asked[key], asked_count = nil, asked_count - 1 end
      return nil, err
    end
    known.answer, known.info, known.at = answer, known.future:info(), core.now()
  end
  return known.answer, nil, known.info
end

-- A text that differs for requests that may have different answers.
local function name_of(url, message)
  local parts = { message.method, url, message.body and message.body:digest() or "" }
  for name, value in pairs(message.headers or {}) do parts[#parts + 1] = core.digest(name .. ":" .. value) end
  table.sort(parts)
  return table.concat(parts, " ")
end

-- Returns the answer of a service to a request.
local function request(url, message, seconds, options, await)
  local key = name_of(url, message)
  options.timeout, options.connect_timeout, options.max_bytes = seconds, seconds, MAX_ANSWER_BYTES
  local body, err, info = answer_of(key, function() return core.send(url, core.request_options(options), message) end, await)
  if not body then return nil, err end
  if info.status ~= 200 then
    return nil, errors.new("http_status", ("%s answered %d"):format(url:match "^[^?]*", info.status))
  end
  return tostring(body)
end

-- Reads the JSON in which programs and metadata services return credentials.
local function read_json(answer, names)
  local ok, document = pcall(core.json_decode, answer)
  local function field(name) return type(document[name]) == "string" and document[name] ~= "" and document[name] or nil end
  if not ok or type(document) ~= "table" then return nil end
  local id, secret, expires = field "AccessKeyId", field "SecretAccessKey", field "Expiration"
  if not id or not secret or (id .. secret):find "%s" then return nil end
  return { access_key_id = id, secret_access_key = secret, session_token = field(names.token),
    expires = expires and text.seconds(expires) }
end

-- ----------------------------------------------------------------- asking

local ask = {}

-- Splits a command as a shell does, and quotes its words, so that the shell that runs it finds
-- nothing in them to expand.
local function quoted(command)
  local words, word, quote, at = {}, nil, nil, 1
  while at <= #command do
    local c = command:sub(at, at)
    if quote and c == quote then quote = nil
    elseif not quote and (c == "'" or c == '"') then quote, word = c, word or ""
    elseif not quote and c:find "%s" then words[#words + 1], word = word, nil
    elseif c == "\\" and quote ~= "'" then
      at = at + 1
      word = (word or "") .. command:sub(at, at)
    else word = (word or "") .. c end
    at = at + 1
  end
  words[#words + 1] = word
  for i, one in ipairs(words) do words[i] = "'" .. one:gsub("'", "'\\''") .. "'" end
  return not quote and #words > 0 and "exec " .. table.concat(words, " ") .. "\n" or nil
end

function ask.process(source, await)
  local script = quoted(source.command)
  if not script then return nil, errors.new("policy", "its command has a quote without an end, or is empty") end
  local output, err = answer_of("process " .. source.command, function()
    return core.run_helper("sh", "-s", script, PROCESS_SECONDS)
  end, await)
  if not output then return nil, err end
  local found = read_json(tostring(output), { token = "SessionToken" })
  if not found then return nil, errors.new("syntax", "it printed no credentials (JSON with AccessKeyId and SecretAccessKey)") end
  return found
end

-- Asks the metadata service of the machine.
function ask.instance(source, await)
  local options = { retries = 0, proxy = "" }
  local base = source.url .. "/latest/meta-data/iam/security-credentials/"
  local function get(url, method, headers)
    return request(url, { method = method, headers = headers, link_local = true }, METADATA_SECONDS, options, await)
  end
  local token, err = get(source.url .. "/latest/api/token", "PUT", { ["X-aws-ec2-metadata-token-ttl-seconds"] = "21600" })
  if not token or token:find "%c" then return nil, err or errors.new("syntax", "its token has a control character in it") end
  local headers, role = { ["X-aws-ec2-metadata-token"] = token }
  role, err = get(base, "GET", headers)
  role = role and role:match "^%s*([%w+=,.@_-]+)%s*$"
  if not role then return nil, err or errors.new("syntax", "it names no role") end
  local answer
  answer, err = get(base .. role, "GET", headers)
  if not answer then return nil, err end
  local found = read_json(answer, { token = "Token" })
  if not found then return nil, errors.new("syntax", "it told no credentials for the role " .. role) end
  return found
end

-- True for URLs that may be asked for a container's credentials.
local function may_be_container(url)
  local parts = core.parse_url(url)
  local host = parts and parts.host
  return parts and (url:find "^https:" or is_loopback(host)
    or host == "169.254.170.2" or host == "169.254.170.23" or host == "fd00:ec2::23") and true
end

local function read_token(path)
  local blob, err = core.read_file(path, MAX_ANSWER_BYTES, true)
  if not blob then return nil, err end
  local token = text.trim(tostring(blob))
  if token == "" or token:find "%c" then return nil, errors.new("syntax", path .. " holds no token") end
  return token
end

function ask.container(source, await)
  if not may_be_container(source.url) then
    return nil, errors.new("policy", "its URL is plain http at another host than this machine or 169.254.170.2")
  end
  local path, token, err = set "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", set "AWS_CONTAINER_AUTHORIZATION_TOKEN", nil
  if path then
    token, err = read_token(path)
  elseif token and token:find "%c" then
    err = errors.new("policy", "AWS_CONTAINER_AUTHORIZATION_TOKEN has a control character in it, such as a line break")
  end
  if err then return nil, err end
  local answer
  answer, err = request(source.url, { method = "GET", link_local = true, headers = token and { Authorization = token } },
    METADATA_SECONDS, { retries = 1, proxy = "" }, await)
  if not answer then return nil, err end
  local found = read_json(answer, { token = "Token" })
  if not found then return nil, errors.new("syntax", "it told no credentials") end
  return found
end

-- Exchanges the token of a pod or a job for a role's credentials.
function ask.web_identity(source, await)
  local token, err = read_token(source.file)
  if not token then return nil, err end
  local endpoint = set "AWS_ENDPOINT_URL_STS" or ("https://sts.%s.amazonaws.com"):format(source.region or "us-east-1")
  local form = ("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=%s&RoleSessionName=%s&WebIdentityToken=%s"):format(
    text.encode(source.role), text.encode(set "AWS_ROLE_SESSION_NAME" or "theaterref"), text.encode(token))
  local answer
  answer, err = request(endpoint:gsub("/*$", "") .. "/", { method = "POST", body = core.blob(form),
    headers = { ["Content-Type"] = "application/x-www-form-urlencoded" } }, SERVICE_SECONDS, { retries = 1 }, await)
  if not answer then return nil, err end
  local element = xml.parse(answer)
  for _, name in ipairs { "AssumeRoleWithWebIdentityResult", "Credentials" } do element = xml.child(element, name) end
  local id, secret = xml.text(element, "AccessKeyId"), xml.text(element, "SecretAccessKey")
  if not id or not secret then return nil, errors.new("syntax", "the answer has no credentials") end
  return { access_key_id = id, secret_access_key = secret, session_token = xml.text(element, "SessionToken"),
    expires = text.seconds(xml.text(element, "Expiration") or "") }
end

-- ------------------------------------------------------------------ getting

-- The answers of sources, by identity, and the last failure of any source.
local said, said_count, failures = {}, 0, {}

local FIELDS = { "access_key_id", "secret_access_key", "session_token", "expires" }
local KEEP_SECONDS = 3600 -- those that do not expire

-- Returns credentials that another Lua state of the process got, or nil.
local function from_process(key, source)
  local text_of_all, found, i = core.shared("s3 " .. key), { from = source.from, at = core.now() }, 0
  if not text_of_all then return nil end
  for value in (text_of_all .. "\n"):gmatch "([^\n]*)\n" do
    i = i + 1
    found[FIELDS[i]] = value ~= "" and value or nil
  end
  found.expires = math.tointeger(tonumber(found.expires))
  return found
end

-- Keeps credentials for all Lua states of the process.
local function to_process(key, found)
  local parts = {}
  for i, name in ipairs(FIELDS) do parts[i] = tostring(found[name] or "") end
  local seconds = found.expires and found.expires - os.time() - REFRESH_SECONDS or KEEP_SECONDS
  if seconds > 0 then core.share("s3 " .. key, table.concat(parts, "\n"), seconds) end
end

local function is_fresh(found) return found and (not found.expires or os.time() < found.expires - REFRESH_SECONDS) end

local NOBODY = {}

-- True for credentials that need no request.
local function is_constant(source) return not source or source.kind == "anonymous" or source.kind == "static" end

--- Gets the credentials of a source.
-- @tparam ?table source as `find` returns it
-- @tparam ?function await waits for a future of the core's; its second argument is true if others may
-- wait for that, too; nil: nobody is asked
-- @treturn table `access_key_id`, `secret_access_key`, `session_token`, or none of them; `from`
-- @return[2] nil
-- @treturn[2] table an error
function M.get(source, await)
  if is_constant(source) then return source or NOBODY end
  local key = M.identity(source)
  local found = said[key]
  if is_fresh(found) then return found end
  local others = from_process(key, source)
  if others then
    said[key], said_count = others, said_count + (found and 0 or 1)
    return others
  end
  if not await then
    return nil, errors.new("denied", ("S3 credentials: those from %s are not at hand, and nobody is asked offline")
      :format(source.from))
  end
  local failure = failures[key]
  if failure and core.now() < failure.at + FAILURE_SECONDS then return nil, failure.err end
  local fresh, err = ask[source.kind](source, await)
  if not fresh then
    if found and os.time() < found.expires then return found end -- they are good for some minutes
    local failed = errors.new(err.kind, ("S3 credentials: %s: %s%s"):format(source.from, err.message, source.kind == "instance"
      and "; set access_key_id and secret_access_key, AWS_PROFILE, or anonymous = true for a public bucket" or ""))
    failed.status = err.status
    if err.kind ~= "cancelled" then failures = { [key] = { at = core.now(), err = failed } } end
    return nil, failed
  end
  fresh.from, fresh.at = source.from, core.now()
  if not found then
    if said_count >= 64 then said, said_count = {}, 0 end
    said_count = said_count + 1
  end
  said[key] = fresh
  to_process(key, fresh)
  return fresh
end

-- The codes of servers that refuse credentials as such.
local refused_codes = { ExpiredToken = true, ExpiredTokenException = true, InvalidAccessKeyId = true, InvalidToken = true,
  TokenRefreshRequired = true }

local OLD_SECONDS = 60
local refused = {} -- the last ones: `found` and `at`. A source that tells the same again is asked once a second

-- True if an answer may mean that credentials are refused. That to a HEAD has no code.
local function is_refusal(err, found)
  if err.code then return refused_codes[err.code] end
  return err.status == 400 or err.status == 403 and core.now() > found.at + OLD_SECONDS
end

local function has_same_keys(a, b)
  return a.access_key_id == b.access_key_id and a.secret_access_key == b.secret_access_key and a.session_token == b.session_token
end

--- Forgets credentials that a server refused, so that `get` asks for others.
-- @tparam ?table source
-- @tparam ?table found the credentials of the request
-- @tparam table err `code` and `status` of the answer
-- @treturn boolean whether the request may be sent once more
function M.renew(source, found, err)
  if is_constant(source) or not found or not found.at or not is_refusal(err, found) then return false end
  local key, now = M.identity(source), core.now()
  if said[key] ~= found then return true end -- they are forgotten already
  if refused.found and has_same_keys(refused.found, found) and now < refused.at + FAILURE_SECONDS then return false end
  refused = { found = found, at = now }
  said[key], said_count = nil, said_count - 1
  asked, asked_count = {}, 0
  local shared = from_process(key, source)
  if shared and has_same_keys(shared, found) then core.share("s3 " .. key) end
  return true
end

return M
