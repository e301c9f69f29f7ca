local core = require "theaterref.core"
local helper = require "helper"
local ours = require "theaterref.manifest.template"

-- Templates of our grammar must mean what the official Handlebars makes of them.
-- It is asked where it can be had: npm install handlebars, and NODE_PATH set to
-- the folder node_modules.

local state = '{"name":"worker","port":8080,"on":true,"off":false,"none":null,"empty":"","zero":0,"list":["a","b","c"],'
  .. '"nothing":[],"deep":{"inner":{"text":"down here"},"items":[{"id":1,"tags":["x","y"]},{"id":2,"tags":[]}]}}'

local function pick(list) return list[math.random(#list)] end

local scalars = { "name", "port", "on", "off", "empty", "zero", "none", "missing", "deep.inner.text", "deep.missing.x",
  "list.[1]", "deep.items.[0].id", "this.name" }
local things = { "name", "on", "off", "none", "empty", "zero", "missing", "list", "nothing", "deep", "deep.inner" }

local function template(depth)
  local parts = {}
  for _ = 1, math.random(4) do
    local dice = math.random(depth > 0 and 9 or 4)
    local inner = depth > 0 and template(depth - 1) or ""
    local other = depth > 0 and math.random(2) == 1 and "{{else}}" .. template(0) or ""
    parts[#parts + 1] = ({ function() return pick { "text ", "x=", "; ", "{ ", "\n  " } end,
      function() return "{{" .. pick(scalars) .. "}}" end,
      function() return "{{ " .. pick(scalars) .. " }}" end,
      function() return "{{! a comment }}" end,
      function() return "{{#if " .. pick(things) .. "}}" .. inner .. other .. "{{/if}}" end,
      function() return "{{#unless " .. pick(things) .. "}}" .. inner .. other .. "{{/unless}}" end,
      function() return "{{#each list}}" .. pick { "{{this}},", "{{@index}}:{{this}} ", "." } .. "{{/each}}" end,
      function() return "{{#each " .. pick { "nothing", "deep.items" } .. "}}<{{id}}{{#each tags}}{{this}}{{/each}}>"
        .. other .. "{{/each}}" end,
      function() return "{{#with " .. pick { "deep", "deep.inner", "missing" } .. "}}{{inner.text}}{{text}}" .. other
        .. "{{/with}}" end })[dice]()
  end
  return table.concat(parts)
end

describe("templates", function()
  it("mean what they mean to Handlebars, 200 generated ones", function()
    if select(3, helper.run "node -e \"require('handlebars')\"") ~= 0 then
      return pending "node and npm's handlebars are not here"
    end
    local seed = os.time()
    math.randomseed(seed)
    local templates = {}
    for i = 1, 200 do templates[i] = core.json_quote(template(2)) end
    helper.with_folder(function(folder)
      helper.write(folder .. "/in.json", ('{"state":%s,"templates":[%s]}'):format(state, table.concat(templates, ",")))
      local out = helper.run_ok(("node -e %s < %s/in.json"):format(helper.quote [[
        const Handlebars = require('handlebars')
        const { state, templates } = JSON.parse(require('fs').readFileSync(0))
        console.log(JSON.stringify(templates.map(t => Handlebars.compile(t)(state))))]], folder))
      for i, expected in ipairs(core.json_decode(out)) do
        local source = core.json_decode(templates[i])
        assert.equal(expected, ours.substitute_variables(source, state), ("seed %d, template %s"):format(seed, source))
      end
    end)
  end)
end)
