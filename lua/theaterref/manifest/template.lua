--- `{{variables}}` in manifests: the part of Handlebars that manifests need.
--
--     {{a.b}}  {{a.[0].b}}  {{default path "text"}}  {{{raw}}}  {{! comment }}
--     {{#if x}}…{{else}}…{{/if}}   {{#unless x}}…{{/unless}}
--     {{#each list}}{{this}} {{@index}}{{else}}none{{/each}}   {{#with x}}…{{/with}}
--
-- Handlebars escapes for HTML; this escapes for a TOML or JSON string, so a value
-- cannot end the quotes around it. Numbers come out as they were written. A missing
-- value renders as nothing.
-- @module theaterref.template
local lpeg = require "lpeg"
local core = require "theaterref.core"
local errors = require "theaterref.error"

local P, R, S, C, Cc, Cg, Ct, Cp = lpeg.P, lpeg.R, lpeg.S, lpeg.C, lpeg.Cc, lpeg.Cg, lpeg.Ct, lpeg.Cp

local M = {}

-- Limits of a template, so that nested {{#each}} over a large state cannot keep a
-- host busy.
local MAX_BLOCKS = 64 -- in one another
local MAX_OUTPUT_BYTES = 16 << 20
local MAX_STEPS = 1000 * 1000 -- texts, tags, parts of paths, and rounds of {{#each}}
-- Parsed tags take far more memory than their text.
local MAX_TAGS = 1 << 16
local MAX_TAG_PARTS = 128 -- arguments, and parts of their paths
local MAX_PARTS = 4 * MAX_TAGS

-- ----------------------------------------------------------------- grammar

local function too_large(message) error({ kind = "too_large", message = message }, 0) end

-- Counts the parts of the tag that is being matched.
local parts = 0
local begin = P(function(_, at)
  parts = 0
  return at
end)
local part = P(function(_, at)
  parts = parts + 1
  if parts > MAX_TAG_PARTS then
    too_large("a tag of the template has more than " .. MAX_TAG_PARTS .. " arguments and parts of paths")
  end
  return at
end)

local space, gap = S " \t\r\n" ^ 0, S " \t\r\n" ^ 1
local letter = 1 - S " \t\r\n!\"#%&'()*+,./;<=>@[\\]^`{|}~"
local name = C(letter ^ 1)
local segment = P "[" * C((1 - P "]") ^ 0) * P "]" + name
local separator = S "./"
local up = P "../" * Cc ".."
local here = P ".." * Cc ".." + P "this" * -letter + P "."
local data = Cg(C(P "@"), "data")
local path = data ^ -1 * (up * part) ^ 0 * (here + segment) * (separator * part * segment) ^ 0
local literal = P '"' * C((1 - P '"') ^ 0) * P '"' + P "'" * C((1 - P "'") ^ 0) * P "'"
local number = C(P "-" ^ -1 * R "09" ^ 1 * (P "." * R "09" ^ 1) ^ -1) * -letter
local argument = Ct(Cg(literal, "text"))
  + Ct(Cg(number, "text"))
  + P "true" * -letter * Ct(Cg(Cc(true), "value"))
  + P "false" * -letter * Ct(Cg(Cc(false), "value"))
  + Ct(Cg(Cp(), "from") * Cg(Ct(path), "path") * Cg(Cp(), "to"))
local call = begin * Ct(argument * (gap * part * argument) ^ 0)

local function tag(kind, pattern) return Ct(Cg(Cc(kind), "kind") * pattern) end

local close = space * P "}}"
local tags = tag("open", P "{{#" * space * Cg(name, "block") * (gap * Cg(call, "call")) ^ -1 * close)
  + tag("close", P "{{/" * space * Cg(name, "block") * close)
  + tag("else", P "{{" * space * P "else" * (gap * Cg(name, "block") * gap * Cg(call, "call")) ^ -1 * close)
  + tag("else", P "{{^" * close)
  + tag("raw", P "{{{" * space * Cg(call, "call") * space * P "}}}")
  + tag("raw", P "{{&" * space * Cg(call, "call") * close)
  + tag("value", P "{{" * space * Cg(call, "call") * close)
local item = tags * Cp()

-- ----------------------------------------------------------------- parsing

local function fail(text, at, why)
  error({ kind = "syntax", message = ("invalid template at %s: %s"):format(errors.position(text, at), why) }, 0)
end

-- Returns a function that returns the position behind a comment, if one begins at a
-- position. It stops looking for "--}}" once there is none: each search is as long as the
-- rest of the text.
local function comment_finder(text)
  local has_long_end = true
  return function(at)
    if text:sub(at, at + 2) ~= "{{!" then return nil end
    local _, last
    if has_long_end and text:sub(at + 3, at + 4) == "--" then
      _, last = text:find("--}}", at + 5, true)
      has_long_end = last ~= nil
    end
    if not last then _, last = text:find("}}", at + 3, true) end
    return last and last + 1
  end
end

-- The text as a flat list: strings and tags, in order.
local function split(text)
  local items, at, comment_end, tag_count, part_count = {}, 1, comment_finder(text), 0, 0
  while true do
    local start = text:find("{{", at, true)
    if not start then break end
    if start > at then items[#items + 1] = text:sub(at, start - 1) end
    local found, after = { kind = "comment" }, comment_end(start)
    if not after then found, after = lpeg.match(item, text, start) end
    if not found then fail(text, start, "this {{…}} cannot be read") end
    found.at = start
    tag_count, part_count = tag_count + 1, part_count + (found.call and parts + 1 or 0)
    if tag_count > MAX_TAGS then too_large("the template has more than " .. MAX_TAGS .. " tags") end
    if part_count > MAX_PARTS then
      too_large("the tags of the template have more than " .. MAX_PARTS .. " arguments and parts of paths")
    end
    items[#items + 1] = found
    at = after
  end
  if at <= #text then items[#items + 1] = text:sub(at) end
  return items
end

-- A text without the blanks at its end.
local function strip_end(text)
  local last = #text
  while last > 0 and (text:byte(last) == 32 or text:byte(last) == 9) do last = last - 1 end
  return text:sub(1, last)
end

local standalone = { comment = true, open = true, close = true, ["else"] = true }

-- Takes a line away that holds nothing but a block tag or a comment, as
-- Handlebars does.
local function strip_lines(items)
  for i, it in ipairs(items) do
    if type(it) == "table" and standalone[it.kind] then
      local before, after = items[i - 1], items[i + 1]
      local starts = before == nil or type(before) == "string"
        and (before:find("\n[ \t]*$") or i == 2 and before:find("^[ \t]*$"))
      local ends = after == nil or type(after) == "string"
        and (after:find("^[ \t]*\r?\n") or i == #items - 1 and after:find("^[ \t]*$"))
      it.alone = starts and ends
    end
  end
  for i, it in ipairs(items) do
    if type(it) == "table" and it.alone then
      if type(items[i - 1]) == "string" then items[i - 1] = strip_end(items[i - 1]) end
      if type(items[i + 1]) == "string" then items[i + 1] = items[i + 1]:gsub("^[ \t]*\r?\n?", "") end
    end
  end
end

local blocks = { ["if"] = true, unless = true, each = true, with = true }

-- Checks a block that opens within so many others.
local function check_block(text, it, depth)
  if not blocks[it.block] then fail(text, it.at, "there is no block helper '" .. it.block .. "'") end
  if not it.call or #it.call ~= 1 then fail(text, it.at, "{{#" .. it.block .. "}} takes one argument") end
  if depth > MAX_BLOCKS then fail(text, it.at, "more than " .. MAX_BLOCKS .. " blocks in one another") end
end

-- Turns the flat list into a tree. Blocks carry 'body' and 'other'.
local function parse(text)
  local items = split(text)
  strip_lines(items)
  local root = { body = {} }
  local stack, into = { root }, root.body
  for _, it in ipairs(items) do
    local top = stack[#stack]
    if type(it) == "string" then
      into[#into + 1] = it
    elseif it.kind == "open" then
      check_block(text, it, #stack)
      it.body = {}
      into[#into + 1] = it
      stack[#stack + 1], into = it, it.body
    elseif it.kind == "else" then
      if #stack == 1 or top.other then fail(text, it.at, "{{else}} without its block") end
      top.other = {}
      into = top.other
      if it.block then -- {{else if x}}: a block in the other branch
        check_block(text, it, #stack)
        it.body, it.chained = {}, true
        into[1] = it
        stack[#stack + 1], into = it, it.body
      end
    elseif it.kind == "close" then
      while stack[#stack].chained do stack[#stack] = nil end
      top = stack[#stack]
      if top.block ~= it.block then
        fail(text, it.at, "{{/" .. it.block .. "}} closes what is not open")
      end
      stack[#stack] = nil
      local outer = stack[#stack]
      into = outer.other or outer.body
    elseif it.kind ~= "comment" then
      into[#into + 1] = it
    end
  end
  if #stack > 1 then
    fail(text, stack[#stack].at, "{{#" .. stack[#stack].block .. "}} is never closed")
  end
  return root.body
end

-- --------------------------------------------------------------- rendering

local array_metatable, number_metatable, null = core.json_array, core.json_number, core.json_null

local function is_array(value)
  return getmetatable(value) == array_metatable or type(value) == "table" and value[1] ~= nil
end

local function is_number(value) return getmetatable(value) == number_metatable end

-- Counts steps.
local function spend(r, steps)
  r.steps = r.steps + steps
  if r.steps > MAX_STEPS then
    too_large "the template takes more than a million steps to render"
  end
end

-- The steps that a list of keys costs: comparing long ones takes time.
local function cost_of(keys)
  local bytes = 0
  for _, key in ipairs(keys) do bytes = bytes + #key end
  return #keys + bytes // 64
end

-- False to Handlebars: false, null, nothing, "", 0 and an empty array.
local function truthy(r, value)
  if is_number(value) then
    spend(r, #value.text // 64)
    return tonumber(value.text) ~= 0
  end
  if value == nil or value == false or value == null or value == "" or value == 0 then return false end
  return not (is_array(value) and #value == 0)
end

-- The shortest text that reads back as the same float.
local function show_float(value)
  if tonumber(tostring(value)) == value then return tostring(value) end
  for digits = 15, 17 do
    local text = ("%." .. digits .. "g"):format(value)
    if tonumber(text) == value then return text end
  end
  return tostring(value)
end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\t"] = "\\t", ["\n"] = "\\n",
  ["\f"] = "\\f", ["\r"] = "\\r" }

-- "'" too: the tag may stand in a literal string, which it must not end.
local function escape(text)
  return (text:gsub("[%c\"\\'\127]", function(char)
    return escapes[char] or ("\\u%04X"):format(char:byte())
  end))
end

-- An argument as it is written in the template.
local function source(r, argument_node)
  return argument_node.from and r.text:sub(argument_node.from, argument_node.to - 1) or tostring(argument_node.text)
end

local function to_text(r, value, node)
  if value == nil or value == null then return "" end
  if math.type(value) == "float" then return show_float(value) end
  if type(value) ~= "table" or is_number(value) then return tostring(value) end
  fail(r.text, node.at, ("'%s' is %s: name one of its parts"):format(source(r, node.call[1]),
    is_array(value) and "an array" or "an object"))
end

local function field(value, key)
  if type(value) ~= "table" or is_number(value) then return nil end
  if is_array(value) then
    local index = math.tointeger(tonumber(key))
    return index and value[index + 1]
  end
  local found = value[key]
  if found == nil and math.tointeger(tonumber(key)) then found = value[math.tointeger(tonumber(key))] end
  return found
end

-- The value of an argument in a scope; a scope is { this, data, parent }.
local function evaluate(r, argument_node, scope)
  if argument_node.text then return argument_node.text end
  if argument_node.value ~= nil then return argument_node.value end
  local keys, first = argument_node.path, 1
  argument_node.cost = argument_node.cost or cost_of(keys)
  spend(r, argument_node.cost)
  while keys[first] == ".." do
    scope, first = scope.parent or {}, first + 1
  end
  local value = scope.this
  if keys.data then
    value, first = scope.data and scope.data[keys[first]], first + 1
  end
  for i = first, #keys do value = field(value, keys[i]) end
  return value
end

local function add(r, text)
  r.size = r.size + #text
  if r.size > r.max_bytes then
    too_large("the template renders to more than " .. errors.bytes(r.max_bytes))
  end
  r.out[#r.out + 1] = text
end

local render

-- The steps that sorting keys costs beyond those of their bytes: Lua compares texts from
-- one zero byte to the next, each time anew.
local function cost_of_zeros(keys)
  local zeros = 0
  for _, key in ipairs(keys) do
    if key:find("\0", 1, true) then zeros = zeros + select(2, key:gsub("%z", "")) end
  end
  return math.ceil(zeros * math.log(#keys + 1, 2)) // 64
end

-- The keys of an object in order, which costs its steps before it is done.
local function sorted_keys(r, object)
  local keys = {}
  for key in pairs(object) do keys[#keys + 1] = tostring(key) end
  spend(r, cost_of(keys))
  spend(r, cost_of_zeros(keys))
  table.sort(keys)
  return keys
end

local function render_each(r, node, value, scope)
  local count = 0
  local function item_of(key, this, last)
    count = count + 1
    spend(r, 1)
    render(r, node.body, { this = this, parent = scope,
      data = { root = r.root, key = key, index = count - 1, first = count == 1, last = last } })
  end
  if is_array(value) then
    for i = 1, #value do item_of(i - 1, value[i], i == #value) end
  elseif type(value) == "table" and not is_number(value) then
    local keys = sorted_keys(r, value)
    for i, key in ipairs(keys) do item_of(key, field(value, key), i == #keys) end
  end
  if count == 0 and node.other then render(r, node.other, scope) end
end

local function render_block(r, node, scope)
  local value = evaluate(r, node.call[1], scope)
  if node.block == "each" then return render_each(r, node, value, scope) end
  local yes = truthy(r, value)
  if node.block == "unless" then yes = not yes end
  if not yes then
    if node.other then render(r, node.other, scope) end
  elseif node.block == "with" then
    render(r, node.body, { this = value, parent = scope, data = scope.data })
  else
    render(r, node.body, scope)
  end
end

local helpers = {
  -- {{default path "text"}}: the text where the path leads nowhere.
  default = function(value, otherwise)
    if value == nil or value == null then return otherwise end
    return value
  end,
}

-- A tag's value: a path, or a helper called with arguments.
local function call_or_path(r, node, scope)
  local first = node.call[1]
  local helper = first.path and #first.path == 1 and not first.path.data
    and (r.helpers[first.path[1]] or helpers[first.path[1]])
  if not helper or #node.call == 1 and field(scope.this, first.path[1]) ~= nil then
    if #node.call > 1 then
      fail(r.text, node.at, "there is no helper '" .. source(r, first) .. "'")
    end
    return evaluate(r, first, scope)
  end
  local arguments = {}
  for i = 2, #node.call do arguments[i - 1] = evaluate(r, node.call[i], scope) end
  local ok, value = errors.pcall(helper, table.unpack(arguments, 1, #node.call - 1))
  if not ok then fail(r.text, node.at, "the helper '" .. first.path[1] .. "' failed: " .. tostring(value)) end
  return value
end

function render(r, nodes, scope)
  for _, node in ipairs(nodes) do
    spend(r, 1)
    if type(node) == "string" then
      add(r, node)
    elseif node.block then
      render_block(r, node, scope)
    else
      local text = to_text(r, call_or_path(r, node, scope), node)
      add(r, node.kind == "raw" and text or escape(text))
    end
  end
end

--- Renders a template.
-- @tparam string text
-- @tparam ?string|table state JSON text or a Lua table; anything else has no
-- variables. JSON's numbers render as they are written in it.
-- @tparam[opt] table options `helpers`: functions by name, called with the
-- values of a tag's arguments; `max_bytes`: of the result, 16 MiB unless given
-- @treturn string
-- @return[2] nil
-- @treturn[2] table an error of kind `syntax` with line and column, or
-- `too_large`
function M.substitute_variables(text, state, options)
  if type(state) ~= "table" then
    state = state and core.json_decode(state, true)
  end
  options = options or {}
  local r = { text = text, out = {}, size = 0, steps = 0, root = state, helpers = options.helpers or {},
    max_bytes = options.max_bytes or MAX_OUTPUT_BYTES }
  local ok, why = errors.pcall(function() render(r, parse(text), { this = state, data = { root = state } }) end)
  if ok then return table.concat(r.out) end
  if type(why) ~= "table" then why = { kind = "syntax", message = "invalid template: " .. tostring(why) } end
  return nil, errors.new(why.kind, why.message)
end

return M
