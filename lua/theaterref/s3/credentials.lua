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
local REFRESH_SECONDS = 300 -- before they expire; if they are good for a shorter time, after half of that
local RETRY_SECONDS = 5     -- between two requests for others while some are good
-- After a failure, others wait ten times as long as it took to fail before they try again, within these limits.
local FAILURE_FACTOR, MIN_FAILURE, MAX_FAILURE = 10, 1, 30
local WORK_SECONDS = 60     -- after which a question that nobody has followed is asked anew
local FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.1
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

-- Returns the answer of a service to a request.
local function request(url, message, seconds, options, await)
  options.timeout, options.connect_timeout, options.max_bytes = seconds, seconds, MAX_ANSWER_BYTES
  local future, err = core.send(url, core.request_options(options), message)
  if not future then return nil, err end
  local body
  body, err = await(future)
  if not body then return nil, err end
  local status = future:info().status
  if status == 200 then return tostring(body) end
  err = errors.new("http_status", ("%s answered %d"):format(url:match "^[^?]*", status))
  err.status = status
  return nil, err
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
  local future, err = core.run_helper("sh", "-s", script, PROCESS_SECONDS)
  if not future then return nil, err end
  local output
  output, err = await(future)
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

-- Known facts about sources, by identity: `found`, their credentials; `failure`, the last one, if it was after these; `work`,
-- a question under way: whoever needs its answer moves it on.
local sources, source_count, MAX_SOURCES = {}, 0, 64

local function state_of(key)
  local state = sources[key]
  if state then return state end
  if source_count >= MAX_SOURCES then sources, source_count = {}, 0 end
  state = {}
  sources[key], source_count = state, source_count + 1
  return state
end

local FIELDS = { "access_key_id", "secret_access_key", "session_token", "expires", "refresh_at" }
local KEEP_SECONDS = 3600 -- those that do not expire

-- Returns credentials that another Lua state of the process got, or nil.
local function from_process(key, source)
  local text_of_all, found, i = core.shared("s3 " .. key), { from = source.from, at = core.now() }, 0
  if not text_of_all then return nil end
  for value in (text_of_all .. "\n"):gmatch "([^\n]*)\n" do
    i = i + 1
    found[FIELDS[i]] = value ~= "" and value or nil
  end
  found.expires, found.refresh_at = math.tointeger(tonumber(found.expires)), math.tointeger(tonumber(found.refresh_at))
  return found
end

-- Keeps credentials for all Lua states of the process.
local function to_process(key, found)
  local parts = {}
  for i, name in ipairs(FIELDS) do parts[i] = tostring(found[name] or "") end
  local seconds = found.refresh_at and found.refresh_at - os.time() or KEEP_SECONDS
  if seconds > 0 then core.share("s3 " .. key, table.concat(parts, "\n"), seconds) end
end

local function is_fresh(found) return found and (not found.refresh_at or os.time() < found.refresh_at) end

-- True for credentials that may be used. Those that a source told a moment ago count as good in any case: the clock may be wrong.
local function is_good(found)
  return found and (not found.expires or os.time() < found.expires or core.now() < found.at + RETRY_SECONDS)
end

-- Returns the error for a source that tells no credentials. Neither its kind nor its status means that an object is absent.
local function failure_of(source, err)
  local is_misleading = err.kind == "not_found" or err.kind == "http_status" and (err.status or 0) < 500
  local failed = errors.new(is_misleading and "denied" or err.kind, ("S3 credentials: %s: %s%s"):format(source.from, err.message,
    source.kind == "instance" and "; set access_key_id and secret_access_key, AWS_PROFILE, or anonymous = true for a public "
    .. "bucket" or ""))
  failed.status, failed.no_credentials = not is_misleading and err.status or nil, true
  return failed
end

-- Ends a question: 'found', or an error. Returns it.
local function finish(key, state, source, found, err)
  local now, began = core.now(), state.work.began
  state.work = nil
  if found then
    found.from, found.at = source.from, now
    local left = found.expires and math.max(0, found.expires - os.time())
    found.refresh_at = left and found.expires - math.min(REFRESH_SECONDS, left // 2)
    state.found, state.failure = found, nil
    to_process(key, found)
    return found
  end
  local failed = failure_of(source, err)
  if err.kind == "cancelled" then return nil, failed end -- it says nothing about the source
  local pause = math.min(math.max(FAILURE_FACTOR * (now - began), MIN_FAILURE), MAX_FAILURE)
  state.failure = { err = failed, at = now, till = now + pause }
  return nil, failed
end

-- Moves a question on, as far as that needs no waiting. Returns credentials, or nil and an error, if that ends it.
local function move_on(key, state, source)
  local work = state.work
  while work == state.work and (not work.future or work.future:done()) do
    local blob, err, why
    if work.future then blob, err, why = work.future:wait(0) end
    if why == "abandoned" then -- in a child of a fork
      state.work = nil
      return nil
    end
    local ok, future_or_found, fault = coroutine.resume(work.thread, blob, err)
    if not ok then
      state.work = nil
      error(future_or_found, 0)
    end
    if coroutine.status(work.thread) == "dead" then return finish(key, state, source, future_or_found, fault) end
    work.future = future_or_found
  end
  return nil
end

-- Begins a question, unless there is one already that goes on.
local function begin(key, state, source)
  if state.work then
    local found, err = move_on(key, state, source)
    if found or err then return found, err end
    if state.work and core.now() < state.work.began + WORK_SECONDS then return nil end
  end
  state.work = { began = core.now(), thread = coroutine.create(function() return ask[source.kind](source, coroutine.yield) end) }
  return move_on(key, state, source)
end

-- Asks for others while those at hand are good. Nobody waits, and a failure is no failure of who needs some now.
local function refresh(key, state, source)
  local failure = state.failure
  if not state.work and failure and core.now() < math.max(failure.till, failure.at + RETRY_SECONDS) then return end
  begin(key, state, source)
end

local function too_late(source, seconds)
  return failure_of(source, errors.new("timeout", ("no answer within %s (timeout)"):format(errors.seconds(seconds))))
end

-- Asks for credentials and waits. The question goes on if the caller's time is over: others may have more.
local function wait_for(key, state, source, await, seconds)
  local till, pause = seconds and seconds >= 0 and core.now() + seconds, FIRST_PAUSE
  while true do
    if is_good(state.found) then return state.found end -- by another caller
    local failure = state.failure
    if not state.work and failure and core.now() < failure.till then return nil, failure.err end
    local found, err = begin(key, state, source)
    if found or err then return found, err end
    local future = state.work and state.work.future
    if till and core.now() >= till then return nil, too_late(source, seconds) end
    local ok = true
    if till then
      ok, err = await(core.timer(math.min(pause, till - core.now())))
      pause = math.min(2 * pause, LONGEST_PAUSE)
    elseif future then
      ok, err = await(future, true)
      ok = ok or future:done()
    end
    if not ok then return nil, err end -- the caller's own time is over, or Ctrl-C
  end
end

local NOBODY = {}

-- True for credentials that need no request.
local function is_constant(source) return not source or source.kind == "anonymous" or source.kind == "static" end

--- Gets the credentials of a source. Nobody waits while some are good: others are asked for meanwhile.
-- @tparam ?table source as `find` returns it
-- @tparam ?function await waits for a future of the core's; its second argument is true if others may
-- wait for that, too; nil: nobody is asked
-- @tparam[opt] number seconds to wait at most; below 0: no limit
-- @treturn table `access_key_id`, `secret_access_key`, `session_token`, or none of them; `from`
-- @return[2] nil
-- @treturn[2] table an error; `no_credentials` is true if the source failed
function M.get(source, await, seconds)
  if is_constant(source) then return source or NOBODY end
  local key = M.identity(source)
  local state = state_of(key)
  if is_fresh(state.found) then return state.found end
  local others = from_process(key, source)
  if is_fresh(others) then
    state.found = others
    return others
  end
  if is_good(state.found) then
    if await then refresh(key, state, source) end
    return state.found
  end
  if await then return wait_for(key, state, source, await, seconds) end
  return nil, errors.new("denied", ("S3 credentials: those from %s are not at hand, and nobody is asked offline")
    :format(source.from))
end

-- The codes of servers that refuse credentials as such.
local refused_codes = { ExpiredToken = true, ExpiredTokenException = true, InvalidAccessKeyId = true, InvalidToken = true,
  TokenRefreshRequired = true }

local OLD_SECONDS, REFUSED_SECONDS = 60, 1
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
  local state = state_of(key)
  if state.found ~= found then return true end -- they are forgotten already
  if refused.found and has_same_keys(refused.found, found) and now < refused.at + REFUSED_SECONDS then return false end
  refused = { found = found, at = now }
  state.found, state.work = nil, nil -- an answer that is on its way may have the same
  local shared = from_process(key, source)
  if shared and has_same_keys(shared, found) then core.share("s3 " .. key) end
  return true
end

return M
