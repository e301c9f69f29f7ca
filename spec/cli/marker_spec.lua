-- Secrets stay secret: a marker stands in each place that may hold one, and is nowhere in
-- what the command prints or writes, whatever it does and however it fails. ('resolve' and
-- 'render' print documents as they are, and 'lock --store' keeps them.)
local helper = require "helper"
local theaterref = require "theaterref"

local MARKER = "MARKERhunter2"

describe("a secret", function()
  local folder, server, url
  local unusual = { "missing?sig=%", "//user:%@127.0.0.1:1/p", "http:/user:%@h/p", "http:user:%@h", "file://user:a %@host/p",
    "pkg:user:%@h", "data:text/pl ain;base64,%!", "store://user:%@h/hash/1", "hello?sig=%" }

  setup(function()
    folder, server = helper.temporary_folder(), helper.nginx()
    url = ("http://user:%s@127.0.0.1:%d"):format(MARKER, server.http_port)
    server:put("hello", "over the wire")
    server:put("secret", MARKER)
    server:put("net.toml", ('name = "net"\npackage = "%s/hello?sig=a)%s"\n'):format(url, MARKER))
    local function manifest(name, text) helper.write(folder .. "/" .. name, 'name = "a"\n' .. text:gsub("%%", MARKER):gsub("URL", url)) end
    manifest("m.toml", 'package = "URL/hello?sig=a)%"\n')
    manifest("two.toml", 'package = "URL/hello?sig=%"\ncomponent = "URL/other?sig=%"\n')
    manifest("missing.toml", 'package = "URL/missing?sig=%"\n')
    manifest("init.toml", 'package = "URL/hello?sig=%"\ninit_state = "URL/missing?sig=%"\n')
    manifest("ref.toml", 'package = "URL/hello?sig=%"\ninitial_state = \'{"token":{"$ref":"URL/secret?sig=%"},"t":"x"}\'\n')
    manifest("badref.toml", 'package = "URL/hello?sig=%"\ninitial_state = \'{"token":{"$ref":"URL/missing?sig=%"}}\'\n')
    manifest("ftp.toml", 'package = "ftp://user:%@host/x?sig=%"\n')
    -- References that lack a scheme or a slash, or have a blank in them.
    for i, ref in ipairs(unusual) do
      manifest("package" .. i .. ".toml", ('package = "%s"\n'):format(ref))
      manifest("state" .. i .. ".toml", ('package = "p"\ninit_state = "%s"\n'):format(ref))
      server:put("package" .. i .. ".toml", helper.read(folder .. "/package" .. i .. ".toml"))
    end
    manifest("unusual.toml", ('package = "%s"\ncomponent = "%s"\n'):format(unusual[1], unusual[2]))
    manifest("actor.toml", '[actor]\npackage = "hello?sig=%"\ninitial_state = \'{"token": {"$ref": "hello?sig=%"}}\'\n')
    for _, name in ipairs { "unusual", "actor" } do server:put(name .. ".toml", helper.read(folder .. "/" .. name .. ".toml")) end
    helper.write(folder .. "/headers.conf.lua", [[
      local token = theaterref.getenv "THEATERREF_TOKEN"
      return { headers = { Authorization = "Bearer " .. token }, revalidate = true, cache_scope = "spec", cache = { disk = { base_path = "work/disk" } },
        proxy = "", hosts = { ["other.example"] = { headers = { Cookie = token }, proxy = "http://u:" .. token .. "@proxy.example" } } }]])
    helper.write(folder .. "/secrets.lua", "return { secrets = function() return true end, cacheable = function() return true end }")
    helper.write(folder .. "/closed.lua", "return { allow = function(ref) return false, 'not ' .. ref end }")
    helper.write(folder .. "/digest.lua", "return { integrity = function() return ('0'):rep(64) end }")
    helper.write(folder .. "/fallback.lua", "return { rewrite = function(ref) return { ref .. '1', ref .. '2' } end }")
    helper.write(folder .. "/raises.lua", "return { rewrite = function(ref) error('cannot rewrite ' .. ref) end }")
    helper.write(folder .. "/wrong.lua", "return { request = function(ref) return { [ref] = 1 } end }")
    helper.write(folder .. "/scheme.lua", "return { schemes = { pkg = function(ref) return nil, 'no ' .. ref end } }")
    helper.write(folder .. "/empty.lock", "theaterref lockfile 1\n")
  end)

  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  -- Runs a command in a folder of its own for what it writes. Returns all that it printed
  -- and wrote.
  local function all_of(words)
    local command = words:gsub("%%", MARKER):gsub("URL", url)
    local out, err = helper.run(([[cd %s && mkdir work && cd work && export THEATERREF_TOKEN=%s THEATERREF_LOG=debug HOME=. THEATER_HOME=home
      http_proxy=http://user:%s@proxy.example no_proxy=127.0.0.1 %s %s/lua/bin/theaterref %s; find . -type f -exec cat {} +; cd .. && rm -r work]])
      :format(folder, MARKER, MARKER, helper.lua, helper.root, command))
    assert.is_true(#out + #err > 0, words)
    return out .. err
  end

  local runs = {
    "config --config ../headers.conf.lua", "doctor --config ../headers.conf.lua --url 'URL/hello?sig=%'", "doctor --url 'URL/missing?sig=%'",
    "policy check ../secrets.lua", "resolve 'URL/hello?sig=a)%' -o bytes", "resolve 'URL/missing?sig=a)%'", "resolve 'URL/to/x?sig=%'",
    "resolve 'http://user:%@127.0.0.1:1/x?sig=%'", "resolve 'https://user:%@127.0.0.1:1/x?sig=%'", "resolve 'ftp://user:%@host/x?sig=%'",
    "resolve 'htps://user:%@host/x?sig=%'", "resolve 'file://user:%@host/x'", "resolve 'http://user:%@/x?sig=%'",
    "resolve 'http://user:%@ho st/x?sig=%'", "resolve 'http://user:p/%@127.0.0.1:1/x'", "resolve 'data:text/plain;base64,%!'",
    "resolve 'http://user:%@127.0.0.1:1/x?sig=%#sha256=1'", "resolve 'URL/hello?sig=%' --policy ../digest.lua",
    "resolve 'URL/hello?sig=%' --policy ../closed.lua", "resolve 'URL/missing?sig=%' --policy ../fallback.lua",
    "resolve 'URL/hello?sig=%' --policy ../raises.lua", "resolve 'URL/hello?sig=%' --policy ../wrong.lua",
    "resolve 'pkg://user:%@x?sig=%' --policy ../scheme.lua", "resolve 'URL/hello?sig=%' --lockfile ../empty.lock",
    "resolve 'URL/hello?sig=%' --lockfile ../empty.lock --offline none", "resolve 'URL/hello?sig=%' --config ../headers.conf.lua -o bytes",
    "explain 'URL/hello?sig=%'", "explain 'URL/hello?sig=%' --purpose package --name x --policy ../secrets.lua --config ../headers.conf.lua",
    "explain 'URL/hello?sig=%' --policy ../closed.lua", "explain 'URL/hello?sig=%' --policy ../fallback.lua",
    "explain 'data:,%'", "plan 'data:,name=\"%\"'", "cache rm none 'URL/hello?sig=%'", "store get none 'URL/hello?sig=%'",
    "lock ../m.toml -o lockfile", "lock ../m.toml -o -", "lock ../missing.toml", "lock ../ref.toml --policy ../secrets.lua",
  }
  for _, name in ipairs { "m", "two", "missing", "init", "ref", "badref", "ftp" } do
    for _, words in ipairs { "plan", "explain" } do
      runs[#runs + 1] = ("%s ../%s.toml"):format(words, name)
      runs[#runs + 1] = ("%s ../%s.toml --policy ../secrets.lua --config ../headers.conf.lua"):format(words, name)
    end
  end
  for _, name in ipairs { "unusual", "actor" } do
    for _, words in ipairs { "plan", "explain", "lock" } do
      runs[#runs + 1] = ("%s ../%s.toml"):format(words, name)
      runs[#runs + 1] = ("%s URL/%s.toml"):format(words, name)
    end
  end
  for i, ref in ipairs(unusual) do
    runs[#runs + 1] = ("resolve '%s' -o bytes"):format(ref)
    runs[#runs + 1] = ("doctor --url '%s'"):format(ref)
    runs[#runs + 1] = ("explain '%s' --policy ../secrets.lua"):format(ref)
    runs[#runs + 1] = ("cache rm none '%s'"):format(ref)
    for _, words in ipairs { "plan", "explain", "lock" } do
      runs[#runs + 1] = ("%s ../package%d.toml"):format(words, i)
      runs[#runs + 1] = ("%s URL/package%d.toml"):format(words, i)
    end
    runs[#runs + 1] = ("plan ../state%d.toml"):format(i)
    for _, policy in ipairs { "closed", "digest", "fallback", "raises", "wrong" } do
      runs[#runs + 1] = ("resolve '%s' --policy ../%s.lua"):format(ref, policy)
    end
    runs[#runs + 1] = ("resolve '%s' --lockfile ../empty.lock"):format(ref)
  end
  it("is not needed to find a reference in a lockfile", function()
    local run = ("cd %s && export HOME=. THEATER_HOME=home; %s %s/lua/bin/theaterref "):format(folder, helper.lua, helper.root)
    helper.run_ok(run .. "lock m.toml -o locked")
    assert.matches("size=13  http://127.0.0.1:%d+/hello%?…%x+\n", helper.read(folder .. "/locked"))
    helper.run_ok(run .. "plan m.toml --lockfile locked")
    helper.run_ok(run .. ("resolve '%s/hello?sig=a)%s' --lockfile locked"):format(server.http, MARKER))
    local _, err = helper.run(run .. ("resolve '%s/hello?sig=other' --lockfile locked"):format(server.http))
    assert.matches("it is not in the lockfile", err)
    os.remove(folder .. "/locked")
  end)

  -- All strings of a value.
  local function strings_of(value)
    if type(value) ~= "table" then return tostring(value) end
    local all = {}
    for name, item in pairs(value) do all[#all + 1] = tostring(name) .. "=" .. strings_of(item) end
    return table.concat(all, " ")
  end

  it("is not in events, log lines, caches or plans' errors", function()
    local told, disk = {}, folder .. "/events-disk"
    local function tell(...) told[#told + 1] = strings_of { ... } end
    local r = assert(theaterref.resolver { on_event = tell, log = { level = "debug", sink = tell }, revalidate = true, retries = 0, cache_scope = "spec",
      cache = { disk = { base_path = disk } }, headers = { ["X-Token"] = MARKER },
      policy = { secrets = function() return true end, cacheable = function() return true end, on_event = tell } })
    local plan = assert(r:plan(folder .. "/ref.toml"))
    assert.equal(('{"token":"%s","t":"x"}'):format(MARKER), plan.initial_state) -- it did resolve
    for _, name in ipairs { "two", "missing", "init", "badref", "ftp" } do
      local _, err = r:plan(folder .. "/" .. name .. ".toml")
      tell(err, tostring(err))
    end
    tell(helper.run("find " .. disk .. " -type f -exec cat {} +"))
    assert.is_true(#told > 50)
    assert.matches("over the wire", told[#told])
    for _, text in ipairs(told) do assert.is_nil(text:find(MARKER, 1, true), text) end
  end)

  it("is not in what a long path is cut to", function()
    local path = "http://user:" .. MARKER:rep(200) .. "@h/x"
    local _, err = theaterref.resolve_reference("http://127.0.0.1:1/", { unix_socket = path, retries = 0 })
    assert.is_truthy(err.message:find("cannot connect to the socket http://h/x", 1, true), err.message)
    assert.is_nil(tostring(err):find(MARKER, 1, true))
  end)

  it("is not in the name of a label that is not found", function()
    local _, err = theaterref.resolve_reference("store://app/x?sig=" .. MARKER, { home = folder .. "/home" })
    assert.equal("Label not found: x?…", err.message)
  end)

  runs[#runs + 1] = "plan 'URL/net.toml?sig=%'"
  runs[#runs + 1] = "explain 'URL/net.toml?sig=%'"

  for _, words in ipairs(runs) do
    for _, flags in ipairs { "-vv", "--json" } do
      it(("is not shown by %s %s"):format(words, flags), function()
        local all = all_of(words .. " " .. flags)
        local at = all:find(MARKER, 1, true)
        assert(not at, at and all:sub(math.max(1, at - 200), at + 50))
      end)
    end
  end
end)
