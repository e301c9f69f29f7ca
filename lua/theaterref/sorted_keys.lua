--- The keys of a table, sorted.
-- @module theaterref.sorted_keys

return function(map)
  local list = {}
  for key in pairs(map) do list[#list + 1] = key end
  table.sort(list)
  return list
end
