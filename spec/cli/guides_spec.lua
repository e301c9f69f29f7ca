-- The README and the guides, done from top to bottom as their readers would.
local helper = require "helper"
local options = require "theaterref.options"

-- Blocks that are run by other means.
local elsewhere = {
  ["make demo\nmake test\n"] = "by whoever runs this, and by the CI",
  ["make\neval \"$(make -s env)\"\ntheaterref plan examples/actor/manifest.toml\nlua5.4 -e 'print(require(\"theaterref\")._VERSION)'\n"]
    = "by the spec of the build tree",
}

local guides = { "README.md", "examples/guides/lua-programs.md", "examples/guides/operators.md", "examples/guides/trust.md",
  "examples/guides/c-hosts.md", "examples/guides/coming-from-theater.md", "examples/guides/registries.md", "examples/guides/s3.md",
  "examples/guides/remote-stores.md" }

describe("the guide", function()
  local installation, s3

  setup(function()
    s3 = helper.s3_stub()
    s3.environment = ("export AWS_ENDPOINT_URL=%s AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s\n"):format(s3.settings.endpoint,
      s3.settings.access_key_id, s3.settings.secret_access_key)
    if os.getenv "BUILD" == "build" then installation = helper.installation() end -- what is installed has no sanitizers
  end)

  teardown(function()
    s3:stop()
    if installation then helper.remove(installation.folder) end
  end)

  -- A reader's shell: variables set in one block are there in the next.
  local function reader(folder, environment)
    local before = environment
    -- Programs in C run with sanitizers, which see what they read past an end.
    helper.run_ok("mkdir " .. folder .. "/cc")
    helper.write(folder .. "/cc/cc", '#!/bin/sh\nexec /usr/bin/cc -g -fsanitize=address,undefined -fno-sanitize-recover=all "$@"\n')
    helper.run_ok("chmod +x " .. folder .. "/cc/cc")
    return function(command, setup)
      if setup then before = before .. command .. "\n" end
      return helper.run(("cd %s && unset THEATERREF_CONFIG && unset THEATERREF_LOG && export %s && export PATH=$PWD/cc:$PATH HOME=$PWD "
        .. "THEATER_HOME=$PWD/theater https_proxy=http://127.0.0.1:1 no_proxy=127.0.0.1 && set -e\n%s%s")
        :format(folder, installation.environment, before, command))
    end
  end

  -- Does what a block says. Returns what it printed.
  local function follow(folder, shell, kind, how, text)
    local file = how:match "^file=(.+)$"
    if file then return helper.write(folder .. "/" .. file, text) end
    if elsewhere[text] then return nil end
    local command = text
    if kind == "lua" then
      helper.write(folder .. "/block.lua", text)
      command = "lua5.4 block.lua"
    end
    assert(kind == "lua" or kind == "sh", "nobody runs this: " .. text)
    local out, err, status = shell(command, how == "setup")
    assert.equal(how == "fails", status ~= 0, ("%s\n%s%s"):format(text, out, err))
    return out
  end

  for _, guide in ipairs(guides) do
    it(guide .. " works from top to bottom", function()
      if not installation then return pending "checked without sanitizers" end
      helper.with_folder(function(folder)
        local environment = guide:find "remote" and s3.environment or ""
        local shell, printed, count = reader(folder, environment), nil, 0
        for kind, how, text in helper.read(guide):gmatch "\n```(%a+) *([^\n]*)\n(.-)```" do
          count = count + 1
          if kind == "text" then
            -- "…" stands for anything within a line.
            local pattern = text:gsub("[%^$()%%.%[%]*+?-]", "%%%0"):gsub("…", "[^\n]*")
            if not printed:find("^" .. pattern .. "$") then assert.equal(text, printed, guide) end
          else
            printed = follow(folder, shell, kind, how, text)
          end
        end
        assert.is_true(count > 2)
      end)
    end)
  end

  it("to the options has each as it is", function()
    local takes = { seconds = "seconds", interval = "seconds", fraction = "a number", count = "a whole number", times = "a whole number",
      level = "a string", headers = "a table", flag = "true or false", store_id = "a string", text = "a string", table = "a table",
      ["function"] = "a function", policy = "a path or a table", cache = "a cache or a table", open_cache = "a cache",
      disk = "an id or a table", expect = "a hash or false",
      log = "a level, a table or false", list = "a list of strings", host_names = "a list of strings", hosts = "a table by host",
      places = "a list of strings", registries = "a table by registry", text_or_list = "a string or a list",
      short_list = "a list of strings", signatures = "a table", s3 = "a table", buckets = "a table by bucket",
      stores = "a table by store", request = "a table",
      style = "`\"path\"` or `\"virtual\"`",
      hosts_list = "a list or `\"any\"`", bytes = "a string or a blob" }
    local guide = helper.read "examples/guides/options.md"
    for _, set in pairs(options) do
      for _, option in ipairs(type(set) == "table" and set or {}) do
        local line = ("| `%s` | %s | %s | %s |\n"):format(option.name, takes[option.kind], option.default, option.does)
        assert.is_truthy(guide:find(line, 1, true), "the guide does not have: " .. line)
      end
    end
    for name in guide:gmatch "\n| `([%l_]+)` |" do
      local known = false
      for _, set in pairs(options) do known = known or type(set) == "table" and set.by_name[name] ~= nil end
      assert.is_true(known or name:find "_proxy" ~= nil, "there is no option " .. name)
    end
  end)

  it("leads nowhere that is not there", function()
    for _, guide in ipairs { "README.md", "CONTRIBUTING.md", table.unpack(guides, 2) } do
      local text, folder = helper.read(guide), guide:match "^(.*/)" or ""
      for target in text:gmatch "%]%(([^)#]+)" do
        if not target:find "^https?:" then assert.is_true(helper.exists(folder .. target), guide .. " links to " .. target) end
      end
      for path in text:gmatch "`(examples/[%w_./-]+)`" do assert.is_not_equal("", (helper.run("ls " .. path)), guide .. ": " .. path) end
    end
  end)
end)
