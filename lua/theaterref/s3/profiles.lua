--- The shared files of AWS: `~/.aws/credentials` and `~/.aws/config`.
-- @module theaterref.s3.profiles
local core = require "theaterref.core"
local errors = require "theaterref.error"
local text = require "theaterref.s3.text"
local watched = require "theaterref.watched"

local M = {}

local MAX_FILE_BYTES = 1 << 20

--- The value of an environment variable; nil if it is empty.
-- @tparam string variable
-- @treturn ?string
function M.set(variable)
  local value = os.getenv(variable)
  return value ~= "" and value or nil
end

local set = M.set

-- Returns a value without the comment behind it; nil if it is empty.
local function without_comment(value)
  value = text.trim(value)
  local comment = value:find "%s[#;]"
  if comment then value = text.trim(value:sub(1, comment)) end
  return value ~= "" and value or nil
end

-- Parses a file into sections. Settings that belong to another, which are indented, are left out.
local function parse(content)
  local sections, section = {}, nil
  for line in (content .. "\n"):gmatch "([^\n]*)\n" do
    local name = line:match "^%s*%[([^%]]*)%]"
    if name then
      name = text.trim(name):gsub("^profile%s+", ""):gsub('^"(.*)"$', "%1")
      section = sections[name] or {}
      sections[name] = section
    elseif section and not line:find "^[%s#;]" then
      local key, value = line:match "^([%w_.-]+)%s*=(.*)$"
      if key then section[key:lower()] = without_comment(value) end
    end
  end
  return sections
end

local sections_of = watched.reader(function(path)
  local blob, err = core.read_file(path, MAX_FILE_BYTES, true)
  if not blob then return nil, errors.new(err.kind, "the shared files of AWS: " .. err.message) end
  return parse(tostring(blob))
end)

-- The two files: that of credentials wins. As AWS's tools have it, a path may begin with ~/.
local function paths()
  local home = set "HOME" or ""
  local function path(variable, usual)
    local written = set(variable) or "~/.aws/" .. usual
    return written:find "^~/" and home .. written:sub(2) or written
  end
  return { path("AWS_CONFIG_FILE", "config"), path("AWS_SHARED_CREDENTIALS_FILE", "credentials") }
end

--- Gets a profile.
-- @tparam ?string name by default that of `AWS_PROFILE`, or `default`
-- @treturn table its settings, `name`, and `from`, the file that has its keys
-- @return[2] nil
-- @treturn[2] table an error, if a file cannot be read, or has no such profile
function M.get(name)
  local wanted = name or set "AWS_PROFILE"
  local profile, found, places = { name = wanted or "default" }, false, paths()
  for i = 1, 2 do
    local sections, err = sections_of(places[i])
    if err then return nil, err end
    local section = sections and sections[profile.name]
    if section then
      found = true
      for key, value in pairs(section) do profile[key] = value end
      profile.from = section.aws_access_key_id and places[i] or profile.from or places[i]
    end
  end
  if wanted and not found then
    return nil, errors.new("policy", ("there is no profile '%s' in the shared files of AWS (%s and %s)"):format(wanted,
      places[1], places[2]))
  end
  return profile
end

return M
