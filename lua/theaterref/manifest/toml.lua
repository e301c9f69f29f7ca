--- A TOML 1.0 reader. LPeg reads the tokens, a loop reads the statements.
--
-- Integers are exact 64-bit Lua integers, arrays carry the metatable
-- `core.json_array` (so that an empty one is still an array), dates and times
-- are tables `{ type, text }` with the metatable `core.toml_datetime`, whose
-- `tostring` is their text.
-- @module theaterref.manifest.toml
local lpeg = require "lpeg"
local core = require "theaterref.core"
local errors = require "theaterref.error"

local P, R, S, C, Cc, Cs, Ct, Cp = lpeg.P, lpeg.R, lpeg.S, lpeg.C, lpeg.Cc, lpeg.Cs, lpeg.Ct, lpeg.Cp
local match = lpeg.match

local M = {}

-- Deeper nesting is refused, so that no reader of the result can be made to
-- recurse without end.
local MAX_DEPTH = 100

-- ------------------------------------------------------------------ tokens

local space = S " \t" ^ 0
local newline = P "\r\n" + P "\n"
local control = R("\0\8", "\10\31", "\127\127") -- all but tab
local comment = P "#" * (1 - control) ^ 0
local line_end = space * comment ^ -1 * (newline + -P(1))
-- White space, comments and newlines, as between the values of an array.
local gap = (S " \t" + newline + comment * #(newline + -P(1))) ^ 0

local digit, hex = R "09", R("09", "af", "AF")

-- The digits of a character's number: neither a surrogate nor past U+10FFFF. A capture at
-- match time would do as well, but LPeg keeps the results of all of those on Lua's stack.
local four = hex * hex * hex * hex
local short_number = (hex - S "dD") * hex * hex * hex + S "dD" * R "07" * hex * hex
local long_number = P "00" * (P "00" * short_number + P "0" * (hex - P "0") * four + P "10" * four)

local function character(digits) return utf8.char(tonumber(digits, 16)) end

local escapes = { b = "\b", t = "\t", n = "\n", f = "\f", r = "\r", ['"'] = '"', ["\\"] = "\\" }
local escape = P "\\" / "" * (S 'btnfr"\\' / escapes
  + P "u" / "" * (short_number / character)
  + P "U" / "" * (long_number / character))

local basic = P '"' * Cs((escape + (1 - control - S '"\\')) ^ 0) * P '"'
local literal = P "'" * C((1 - control - P "'") ^ 0) * P "'"

-- Up to two quotes may stand right before the closing three.
local function multiline(quote, part)
  local three = P(quote:rep(3))
  local one = P(quote)
  local last = one * one * #three + one * #three + P(true)
  return three * newline ^ -1 * Cs((part + one * part + one * one * part) ^ 0 * last) * three
end
local continuation = P "\\" * space * newline * (S " \t" + newline) ^ 0 / ""
local long_basic = multiline('"', continuation + escape + newline + (1 - control - S '"\\'))
local long_literal = multiline("'", newline + (1 - control - P "'"))

local bare_key = C((R("az", "AZ", "09") + S "_-") ^ 1)
local key = Ct((bare_key + basic + literal) * (space * P "." * space * (bare_key + basic + literal)) ^ 0)

local function underscored(class) return class * (P "_" ^ -1 * class) ^ 0 end
local decimal = P "0" + R "19" * (P "_" ^ -1 * digit) ^ 0
local sign = S "+-" ^ -1
local integer = sign * decimal
local exponent = S "eE" * sign * underscored(digit)
local float = integer * (P "." * underscored(digit) * exponent ^ -1 + exponent)
local radix = { x = 16, o = 8, b = 2 }

local d2 = digit * digit
local date = C(d2 * d2) * P "-" * C(d2) * P "-" * C(d2)
local time = C(d2) * P ":" * C(d2) * P ":" * C(d2) * (P "." * digit ^ 1) ^ -1
local offset = S "Zz" + S "+-" * C(d2) * P ":" * C(d2)

local days = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

local function date_exists(year, month, day)
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  local leap = month == 2 and year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  return month >= 1 and month <= 12 and day >= 1 and day <= days[month] + (leap and 1 or 0)
end

-- 60 is a leap second, which RFC 3339 allows.
local function time_exists(hour, minute, second)
  return tonumber(hour) <= 23 and tonumber(minute) <= 59 and tonumber(second) <= 60
end

local function moment(type)
  return function(text) return setmetatable({ type = type, text = text }, core.toml_datetime) end
end

-- A pattern that matches when 'check' likes its captures, and captures none.
local function checked(pattern, check)
  return lpeg.Cmt(pattern, function(_, at, ...) return check(...) and at end)
end
local real_date, real_time = checked(date, date_exists), checked(time, time_exists)
local real_offset = checked(offset, function(hour, minute)
  return not minute or tonumber(hour) <= 23 and tonumber(minute) <= 59
end)
local moments = C(real_date * S "Tt " * real_time * real_offset) / moment "datetime"
  + C(real_date * S "Tt " * real_time) / moment "datetime-local"
  + C(real_date) / moment "date-local"
  + C(real_time) / moment "time-local"

-- The end of a value: no character that could still belong to it.
local boundary = #(S " \t\r\n,]}#" + -P(1))

local function plain(text) return (text:gsub("_", "")) end

-- nil when it does not fit in 64 bits.
local function to_integer(text)
  local value = tonumber(plain(text))
  return math.type(value) == "integer" and value or nil
end

local function to_radix(prefix, digits)
  digits = plain(digits):gsub("^0+", "")
  local bits = { x = 4, o = 3, b = 1 }
  local value = digits == "" and 0 or tonumber(digits, radix[prefix])
  local first = digits == "" and 0 or tonumber(digits:sub(1, 1), 16)
  local width = (#digits - 1) * bits[prefix] + (first > 7 and 4 or first > 3 and 3 or first > 1 and 2 or 1)
  return width <= 63 and value or nil
end

local number = moments
  + C(float) / function(text) return tonumber(plain(text)) end
  + C(sign) * P "inf" / function(s) return s == "-" and -math.huge or math.huge end
  + sign * P "nan" * Cc(0 / 0)
  + P "0" * C "x" * C(underscored(hex)) / to_radix
  + P "0" * C "o" * C(underscored(R "07")) / to_radix
  + P "0" * C "b" * C(underscored(S "01")) / to_radix
  + C(integer) / to_integer

-- Captures the value, if it is one that fits, and the position behind it.
local scalar = (long_basic + basic + long_literal + literal
  + P "true" * Cc(true) + P "false" * Cc(false) + number) * boundary * Cp()

-- ------------------------------------------------------------------ reading

-- The end of each token; made once, since LPeg compiles a pattern as it is made.
local after_space = space * Cp()
local after_gap = gap * Cp()
local after_key = key * space * Cp()
local after_line = line_end * Cp()
local after_header = P "[[" * space * key * space * P "]]" * Cc(true) * Cp()
  + P "[" * space * key * space * P "]" * Cc(false) * Cp()

-- Raises where and why the text is no TOML, for 'M.parse' to make a message from.
local function fail(at, why) error({ at = at, why = why }, 0) end

-- How a table came to be decides what may still be added to it:
--   root      the document
--   header    by [its own name]
--   parent    by a header below it; [its own name] may still come
--   dotted    by a dotted key; more dotted keys may add, no header may
--   inline    in braces: closed
--   tables    an array made by [[its name]]: more elements may come
-- A plain array has no entry.
local function new_table(reader, how)
  local made = {}
  reader.how[made] = how
  return made
end

local function show(path, upto)
  local parts = {}
  for i = 1, upto do
    parts[i] = path[i]:match("^[%w_-]+$") or ("%q"):format(path[i])
  end
  return table.concat(parts, ".")
end

local function check_depth(at, depth)
  if depth > MAX_DEPTH then fail(at, "nested more than " .. MAX_DEPTH .. " deep") end
end

local read_value

local function assign(reader, into, path, value, at)
  check_depth(at, #path)
  for i = 1, #path - 1 do
    local inner = into[path[i]]
    if inner == nil then
      inner = new_table(reader, "dotted")
      into[path[i]] = inner
    elseif reader.how[inner] ~= "dotted" then
      fail(at, "'" .. show(path, i) .. "' is defined already and cannot be added to here")
    end
    into = inner
  end
  local last = path[#path]
  if into[last] ~= nil then fail(at, "'" .. show(path, #path) .. "' is defined twice") end
  into[last] = value
end

-- key = value; returns the position behind the value.
local function read_pair(reader, into, at, depth)
  local path, after = match(after_key, reader.text, at)
  if not path then fail(at, "a key was expected") end
  if reader.text:sub(after, after) ~= "=" then fail(after, "'=' was expected after the key") end
  local start = match(after_space, reader.text, after + 1)
  local value, behind = read_value(reader, start, depth)
  reader.furthest = math.max(reader.furthest, behind)
  assign(reader, into, path, value, at)
  return behind
end

local function read_array(reader, at, depth)
  local array = setmetatable({}, core.json_array)
  at = match(after_gap, reader.text, at)
  while reader.text:sub(at, at) ~= "]" do
    array[#array + 1], at = read_value(reader, at, depth)
    at = match(after_gap, reader.text, at)
    reader.furthest = math.max(reader.furthest, at)
    local sign_here = reader.text:sub(at, at)
    if sign_here == "," then
      at = match(after_gap, reader.text, at + 1)
    elseif sign_here ~= "]" then
      fail(at, "',' or ']' was expected")
    end
  end
  return array, at + 1
end

local function read_inline(reader, at, depth)
  local made = new_table(reader, "dotted")
  at = match(after_space, reader.text, at)
  while reader.text:sub(at, at) ~= "}" do
    at = read_pair(reader, made, at, depth)
    at = match(after_space, reader.text, at)
    local sign_here = reader.text:sub(at, at)
    if sign_here == "," then
      at = match(after_space, reader.text, at + 1)
      if reader.text:sub(at, at) == "}" then fail(at, "a key was expected after ','") end
    elseif sign_here ~= "}" then
      fail(at, "',' or '}' was expected")
    end
  end
  reader.how[made] = "inline"
  return made, at + 1
end

-- True if a string, which begins at 'at', has an end.
local function is_closed(text, at)
  local quote = text:sub(at, at)
  local three = quote:rep(3)
  if text:sub(at, at + 2) == three then return text:find(three, at + 3, true) ~= nil end
  local line = text:match("[^\n]*", at + 1)
  return line:find(quote == "'" and "'" or '[^\\]"') ~= nil or line:sub(1, 1) == quote
end

-- Returns what is wrong with a string that cannot be read.
local function string_fault(text, at)
  if not is_closed(text, at) then return "this string is not closed" end
  return "not a string (an escape or a character in it is wrong, or something follows it)"
end

function read_value(reader, at, depth)
  check_depth(at, depth)
  local first = reader.text:sub(at, at)
  if first == "[" then return read_array(reader, at + 1, depth + 1) end
  if first == "{" then return read_inline(reader, at + 1, depth + 1) end
  local value, after = match(scalar, reader.text, at)
  if not after and (first == '"' or first == "'") then fail(at, string_fault(reader.text, at)) end
  if not after then fail(at, "not a value (a string needs quotes)") end
  if value == nil then fail(at, "an integer that does not fit in 64 bits") end
  return value, after
end

-- The table that [path] or, with 'element', [[path]] opens.
local function open_header(reader, path, element, at)
  local into = reader.root
  check_depth(at, #path)
  for i = 1, #path - 1 do
    local inner = into[path[i]]
    if inner == nil then
      inner = new_table(reader, "parent")
      into[path[i]] = inner
    end
    local how = reader.how[inner]
    if how == "tables" then
      inner = inner[#inner]
    elseif not how or how == "inline" then
      fail(at, "'" .. show(path, i) .. "' is not a table that can be added to")
    end
    into = inner
  end
  local last = path[#path]
  local there = into[last]
  local how = reader.how[there]
  if element then
    if there == nil then
      there = setmetatable({}, core.json_array)
      reader.how[there] = "tables"
      into[last] = there
    elseif how ~= "tables" then
      fail(at, "'" .. show(path, #path) .. "' is defined already and is no array of tables")
    end
    local made = new_table(reader, "header")
    there[#there + 1] = made
    return made
  end
  if there == nil then
    there = new_table(reader, "header")
    into[last] = there
  elseif how == "parent" then
    reader.how[there] = "header"
  else
    fail(at, "'" .. show(path, #path) .. "' is defined twice")
  end
  return there
end

-- One statement; returns the position of the next line.
local function read_statement(reader, at)
  local start = match(after_space, reader.text, at)
  local behind = start
  if reader.text:sub(start, start) == "[" then
    local path, is_element, after = match(after_header, reader.text, start)
    if not path then fail(start, "a table header was expected: [name] or [[name]]") end
    reader.current, behind = open_header(reader, path, is_element, start), after
  elseif not match(line_end, reader.text, start) then
    behind = read_pair(reader, reader.current, start, 1)
  end
  local next_line = match(after_line, reader.text, behind)
  if not next_line then fail(match(after_space, reader.text, behind), "a new line was expected") end
  return next_line
end

local function new_reader(text)
  local reader = { text = text, furthest = 1, how = setmetatable({}, { __index = function() end }) }
  reader.root = {}
  reader.how[reader.root] = "root"
  reader.current = reader.root
  return reader
end

--- Reads a TOML document.
-- @tparam string text
-- @treturn table
-- @return[2] nil
-- @treturn[2] table an error of kind `syntax` with line and column
function M.parse(text)
  text = text:gsub("^\xEF\xBB\xBF", "")
  local reader = new_reader(text)
  local ok, why = errors.pcall(function()
    local valid, bad = utf8.len(text)
    if not valid then fail(bad, "invalid UTF-8") end
    local at = 1
    while at <= #text do at = read_statement(reader, at) end
  end)
  if ok then return reader.root end
  if type(why) ~= "table" then return nil, errors.new("syntax", "invalid TOML: " .. tostring(why)) end
  return nil, errors.new("syntax", ("invalid TOML at %s: %s"):format(errors.position(text, why.at), why.why))
end

-- How many bytes were read of a statement that failed with a fault, at most: to the end of
-- the string that it failed at, if there is one.
local function bytes_read(reader, at, fault)
  local text = reader.text
  if type(fault) ~= "table" then return #text - at end -- such as Lua's, of memory
  local quotes = text:sub(fault.at, fault.at + 2)
  local ending = (quotes == '"""' or quotes == "'''") and quotes or "\n"
  return math.max(reader.furthest, text:find(ending, fault.at + #ending, true) or #text) - at
end

--- Finds top-level values in a document that may not be TOML yet, such as a
-- template whose placeholders stand outside strings: lines that cannot be read
-- are passed over.
-- @tparam string text
-- @tparam table names set of the keys wanted, at the top or in `[actor]`
-- @treturn table what was found
-- @return[2] nil
-- @treturn[2] table an error of kind `syntax`: too many arrays and strings that cannot be
-- read, of which each would be read to its end again and again
function M.scan(text, names)
  local reader = new_reader(text)
  local at, budget = 1, 4 * #text
  while at <= #text do
    reader.furthest = at
    local ok, next_line = errors.pcall(read_statement, reader, at)
    if not ok then
      budget = budget - bytes_read(reader, at, next_line)
      if budget < 0 then
        return nil, errors.new("syntax", ("invalid TOML at %s: arrays or strings that do not end"):format(
          errors.position(text, at)))
      end
    end
    at = ok and next_line or (text:find("\n", at, true) or #text) + 1
  end
  local found, root = {}, reader.root
  local actor = type(root.actor) == "table" and root.actor or {}
  for name in pairs(names) do
    found[name] = root[name]
    if found[name] == nil then found[name] = actor[name] end
  end
  return found
end

return M
