local helper = require "helper"

-- libcurl reads the files that a request names on the thread that serves all fetches.
describe("a file that a request names for libcurl", function()
  local server, folder
  setup(function()
    server, folder = helper.nginx(), helper.temporary_folder()
    helper.write(server.folder .. "/www/hello", "hello")
    helper.run_ok(("mkfifo %s/pipe %s/.netrc; truncate -s 1G %s/large; : > %s/empty"):format(folder, folder, folder, folder))
    helper.write(folder .. "/policy.lua", "return { request = function() return { client_cert = '" .. folder .. "/pipe' } end }")
  end)
  teardown(function()
    server:stop()
    helper.remove(folder)
  end)

  -- Runs one fetch with these options, in a process of its own, while another fetch goes on.
  -- Returns the error of the first. A process that hangs is killed.
  local function fault(options, environment, url)
    local script = ([[
      local theaterref = require "theaterref"
      local other = theaterref.resolver { log = false, retries = 0 }
      assert(other:resolve(%q))
      local future = theaterref.resolver(%s):start(%q)
      for _ = 1, 3 do assert(other:resolve(%q)) end
      local blob, err = future:wait()
      print(blob or err.kind .. ": " .. err.message)]]):format(server.http .. "/hello",
      "{ log = false, retries = 1, " .. options .. " }", url or server.https .. "/hello", server.http .. "/hello")
    return (helper.run_ok(("%s timeout -s KILL 60 %s -e %s"):format(environment or "", helper.lua, helper.quote(script))))
  end

  it("must be a regular file", function()
    for options, name in pairs {
      ["ca_file = '%s/pipe'"] = "ca_file", ["ca_file = '/dev/zero'"] = "ca_file",
      ["ca_file = '%s/ca.pem', client_cert = '%s/pipe'"] = "client_cert",
      ["ca_file = '%s/ca.pem', client_cert = '%s/client.pem', client_key = '%s/pipe'"] = "client_key",
      ["hosts = { localhost = { ca_file = '%s/pipe' } }"] = "ca_file",
      ["ca_file = '%s/ca.pem', policy = '%s/policy.lua'"] = "client_cert",
    } do
      options = options:gsub("%%s(/[%w.]+)", function(path)
        return ((path == "/pipe" or path == "/policy.lua") and folder or server.folder) .. path
      end)
      local text = fault(options)
      assert.matches("^tls: Failed to fetch from " .. server.https .. "/hello: " .. name
        .. " names [%w./-]+, which is not a regular file", text)
    end
  end)

  it("must have bytes, but not too many", function()
    assert.matches("ca_file names " .. folder .. "/large, which is larger than 16 MiB",
      fault(("ca_file = '%s/large'"):format(folder)))
    assert.matches("client_cert names " .. folder .. "/empty, which is empty",
      fault(("ca_file = %q, client_cert = '%s/empty'"):format(server.ca, folder)))
  end)

  it("may be missing, or one that only TLS would read", function()
    assert.matches("^tls: .*cannot read /nowhere/ca.pem: No such file", fault "ca_file = '/nowhere/ca.pem'")
    assert.equal("hello\n", fault(("ca_file = '%s/pipe'"):format(folder), nil, server.http .. "/hello"))
  end)

  it("may be .netrc, and is held to the same", function()
    local text = fault("netrc = true", "HOME=" .. folder, server.http .. "/hello")
    assert.matches("^io: .*: netrc names " .. folder .. "/%.netrc, which is not a regular file", text)
    assert.equal("hello\n", fault("netrc = true", "HOME=/nowhere", server.http .. "/hello"))
    helper.run_ok(("mkdir -p %s/none %s/folder/.netrc; ln -s /dev/null %s/none/.netrc"):format(folder, folder, folder))
    for _, home in ipairs { "none", "folder" } do
      assert.equal("hello\n", fault("netrc = true", "HOME=" .. folder .. "/" .. home, server.http .. "/hello"), home)
    end
  end)

  it("may come from SSL_CERT_FILE, also for a proxy", function()
    local pipe = ("SSL_CERT_FILE=%s/pipe"):format(folder)
    assert.matches("^tls: .*: SSL_CERT_FILE names .*/pipe, which is not a regular file", fault("", pipe))
    assert.matches("^tls: .*: SSL_CERT_FILE names .*/pipe, which is not a regular file",
      fault(("proxy = %q"):format(server.https), pipe, "http://example.invalid/"))
    assert.equal("hello\n", fault("", "SSL_CERT_FILE=" .. server.ca))
  end)
end)
