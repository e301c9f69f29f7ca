--- Publishing: pushes manifests with their packages and states to a registry, copies between places,
-- signs, and lists the content of registries.
-- @module theaterref.publish
local inspection = require "theaterref.publish.inspect"
local pushes = require "theaterref.publish.push"

return { push = pushes.push, gather = pushes.gather, copy = require("theaterref.publish.copy").copy,
  copy_all = require("theaterref.publish.copy_all").copy_all, sign = require("theaterref.publish.sign").sign,
  tags = inspection.tags, inspect = inspection.inspect }
