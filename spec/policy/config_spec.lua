local helper = require "helper"
local theaterref = require "theaterref"

describe("the configuration", function()
  local folder

  setup(function()
    folder = helper.temporary_folder()
    helper.run_ok("mkdir -p " .. folder .. "/xdg/theaterref " .. folder .. "/home/.config/theaterref")
  end)

  teardown(function() helper.remove(folder) end)

  local function config(text)
    return theaterref.config(helper.write(folder .. "/theaterref.conf.lua", text))
  end

  it("is the options of a resolver", function()
    local options = assert(config [[
      local megabyte = 1 << 20
      return { timeout = 5, max_bytes = 64 * megabyte, headers = { ["X-From"] = theaterref.getenv "HOME" },
        cache = { max_bytes = 512 * megabyte, ttl = 60 }, log = "error" }]])
    assert.equal(64 << 20, options.max_bytes)
    assert.equal(os.getenv "HOME", options.headers["X-From"])
    local resolver = assert(theaterref.resolver(options))
    assert.equal(60.0, resolver.cache:ttl())
  end)

  it("goes straight into a resolver or a cache, whose only argument it is", function()
    local path = helper.write(folder .. "/straight.conf.lua", "return {}")
    assert.truthy(theaterref.resolver(assert(theaterref.config(path))))
    assert.truthy(theaterref.resource_cache(assert(theaterref.config(path))))
  end)

  it("has paths that are relative to its own folder, or to home", function()
    local options = assert(config [[
      return { policy = "rules/policy.lua", ca_file = "/etc/ca.pem", home = "~/theater", cache = { disk = { base_path = "t" } } }]])
    assert.same({ policy = folder .. "/rules/policy.lua", ca_file = "/etc/ca.pem", home = os.getenv "HOME" .. "/theater",
      cache = { disk = { base_path = folder .. "/t" } } }, options)
  end)

  it("refuses what is no option, with the nearest name, and what an option cannot be", function()
    for text, expected in pairs {
      ["return { timout = 5 }"] = "there is no resolver option 'timout' (did you mean 'timeout'?)",
      ["return { cache = { tll = 5 } }"] = "there is no cache option 'tll' (did you mean 'ttl'?)",
      ["return { cache = { disk = { size = 5 } } }"] = "there is no disk cache option 'size'",
      ["return { log = { sink = 'x' } }"] = "the log option 'sink' must be a function, not a string",
      ["return { timeout = '5' }"] = "the resolver option 'timeout' must be a number of seconds, not a string",
      ["return { retries = -1 }"] = "the resolver option 'retries' must be a whole number from 0 to 2147483647, not -1",
      ["return { retries = 1 << 31 }"] = "the resolver option 'retries' must be a whole number from 0 to 2147483647, not 2147483648",
      ["return { log = 'loud' }"] = "there is no log level 'loud' (debug, info, warn, error, off)",
      ["return { log = { level = 'loud' } }"] = "there is no log level 'loud' (debug, info, warn, error, off)",
      ["return { headers = { x = 1 } }"] = "the resolver option 'headers' must have strings by name",
      ["return { hosts = { { netrc = true } } }"] = "the resolver option 'hosts' must be a table of options by host, not a table",
      ["return { hosts = { h = { headers = { 1 } } } }"] = "the host option 'headers' must have strings by name",
      ["return { cache = { name = 'a\\0b' } }"] = "the cache option 'name' has a zero byte in it",
      ["return { policy = 'a\\0b' }"] = "the resolver option 'policy' has a zero byte in it",
      ["return { policy = {} }"] = "'policy' must be the path of a script here",
      ["return 5"] = "it must return a table of options, not a number",
      ["return { on_event = function() end }"] = "the script returned a function, which cannot be passed on",
    } do
      local options, err = config(text)
      assert.is_nil(options)
      assert.equal("syntax", err.kind)
      assert.equal(folder .. "/theaterref.conf.lua: " .. expected, tostring(err))
    end
    assert.equal(folder .. "/theaterref.conf.lua:1: the script ran more than 10000000 instructions",
      tostring(select(2, config "while true do end")))
    assert.equal(folder .. "/theaterref.conf.lua:2: syntax error near 'x'", tostring(select(2, config "y = 1\nx x")))
    assert.equal("not_found", select(2, theaterref.config(folder .. "/none")).kind)
  end)

  -- The file that counts in an environment.
  local function found(environment)
    return helper.run_ok(("env -u THEATERREF_CONFIG -u XDG_CONFIG_HOME HOME=%s/home %s %s -e %s"):format(folder, environment,
      helper.lua, helper.quote [[print(require("theaterref.config").find())]])):gsub("\n", "")
  end

  it("is found where programs' configurations are", function()
    local none = helper.exists "/etc/theaterref/theaterref.conf.lua" and "/etc/theaterref/theaterref.conf.lua" or "nil"
    assert.equal(none, (found ""))
    local in_home = helper.write(folder .. "/home/.config/theaterref/theaterref.conf.lua", "return {}")
    assert.equal(in_home, (found ""))
    assert.equal(none, (found("XDG_CONFIG_HOME=" .. folder .. "/xdg")))
    local in_xdg = helper.write(folder .. "/xdg/theaterref/theaterref.conf.lua", "return {}")
    assert.equal(in_xdg, (found("XDG_CONFIG_HOME=" .. folder .. "/xdg")))
    assert.equal("/else/where", (found("THEATERREF_CONFIG=/else/where XDG_CONFIG_HOME=" .. folder .. "/xdg")))
    assert.equal("nil", (found "THEATERREF_CONFIG="))
  end)
end)
