--- Suggestions: the known name closest to a misspelt one.
-- @module theaterref.suggest
local M = {}

-- How many characters must change to make one name the other (Levenshtein).
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
    end
  end
  return row[#b]
end

--- True if one character is missing, too many or wrong in a name.
-- @tparam string name
-- @tparam string known
-- @treturn boolean
function M.is_one_edit(name, known)
  return math.abs(#name - #known) <= 1 and distance(name, known) == 1
end

--- `" (did you mean 'timeout'?)"`, or nothing where no known name is near.
-- @param name what was written
-- @tparam table known a table with the known names as its keys
-- @treturn string
function M.closest(name, known)
  name = tostring(name):sub(1, 64)
  local best, nearest = 1 + #name // 3, nil
  for candidate in pairs(known) do
    -- names whose lengths differ that much are far apart, and may be very long
    local d = #candidate <= #name + best and distance(name, candidate) or best + 1
    if d < best or d == best and (not nearest or candidate < nearest) then best, nearest = d, candidate end
  end
  return nearest and " (did you mean '" .. nearest .. "'?)" or ""
end

return M
