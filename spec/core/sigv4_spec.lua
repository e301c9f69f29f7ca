-- Signature Version 4, by AWS's published examples: those of its test suite for any service, and those of S3's documentation.
local core = require "theaterref.core"

local function signature(signer, request)
  local authorization, canonical = core.sigv4(signer, request)
  return authorization:match "Signature=(%x+)$", authorization, canonical
end

describe("a signature of any service", function()
  local signer = core.signer { endpoint = "https://example.amazonaws.com", region = "us-east-1", service = "service",
    access_key_id = "AKIDEXAMPLE", secret_access_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" }

  local function of(path)
    return signature(signer, { method = "GET", url = "https://example.amazonaws.com" .. path, date = "20150830T123600Z",
      headers = { Host = "example.amazonaws.com", ["X-Amz-Date"] = "20150830T123600Z" } })
  end

  it("is that of AWS's test suite", function()
    local plain, authorization = of "/"
    assert.equal("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
      .. "SignedHeaders=host;x-amz-date, Signature=" .. plain, authorization)
    assert.equal("5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", plain)
    assert.equal("b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500", of "/?Param2=value2&Param1=value1")
    assert.equal("8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85", of "/\u{1234}")
    assert.equal("07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
      of "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
  end)
end)

describe("a signature for S3", function()
  local signer = core.signer { endpoint = "https://s3.amazonaws.com", region = "us-east-1",
    access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }
  local host = "examplebucket.s3.amazonaws.com"

  local function of(method, path, headers, payload)
    headers.Host, headers["x-amz-date"] = host, "20130524T000000Z"
    headers["x-amz-content-sha256"] = payload or core.digest ""
    return signature(signer, { method = method, url = "https://" .. host .. path, date = "20130524T000000Z", payload = payload,
      headers = headers })
  end

  it("is that of the examples in its documentation", function()
    assert.equal("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
      (of("GET", "/test.txt", { Range = "bytes=0-9" })))
    assert.equal("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
      (of("PUT", "/test$file.text", { Date = "Fri, 24 May 2013 00:00:00 GMT", ["x-amz-storage-class"] = "REDUCED_REDUNDANCY" },
        core.digest "Welcome to Amazon S3.")))
    assert.equal("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", (of("GET", "/?lifecycle", {})))
    assert.equal("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7", (of("GET", "/?max-keys=2&prefix=J", {})))
  end)

  it("keeps the dots and slashes of a path, and encodes every byte once", function()
    local _, _, canonical = of("GET", "/a//b/%2e/c%20d+e?x=%2F+&x=%20&a-b=1&a=2", {})
    local path, query = canonical:match "^GET\n([^\n]*)\n([^\n]*)\n"
    assert.equal("/a//b/./c%20d%2Be", path)
    assert.equal("a=2&a-b=1&x=%20&x=%2F%2B", query)
  end)

  it("of another day has another key, and the first day's is the same as before", function()
    local function on(by, date) return (signature(by, { method = "GET", url = "https://" .. host .. "/", date = date, headers = { Host = host } })) end
    local days = { "20130524T000000Z", "20130525T000000Z", "20130524T000000Z", "20130524T000000Z" }
    for _, date in ipairs(days) do
      local fresh = core.signer { endpoint = "https://s3.amazonaws.com", region = "us-east-1",
        access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }
      assert.equal(on(fresh, date), on(signer, date))
    end
    assert.not_equal(on(signer, days[1]), on(signer, days[2]))
  end)

  it("joins headers of one name, and reduces white space", function()
    local _, _, canonical = of("GET", "/", { ["X-Amz-Meta-B"] = "  a   b  ", ["x-amz-meta-a"] = "" })
    assert.truthy(canonical:find("\nx-amz-meta-a:\nx-amz-meta-b:a b\n\n", 1, true))
  end)

  it("takes many parameters in little time", function()
    local started = core.now()
    of("GET", "/?" .. ("b&a&"):rep(50000), {})
    assert.is_true(core.now() - started < 5)
  end)
end)

describe("the hosts that get signatures", function()
  local function covers(endpoint, url)
    return core.signer_covers(core.signer { endpoint = endpoint, region = "eu-west-1" }, url)
  end

  it("are the endpoint's own and those below it", function()
    local endpoint = "https://s3.example.org"
    for _, url in ipairs { "https://s3.example.org/b/k", "https://bucket.s3.example.org/k", "https://S3.example.org:443/" } do
      assert.is_true(covers(endpoint, url), url)
    end
    for _, url in ipairs { "http://s3.example.org/", "https://example.org/", "https://s3.example.org.evil.net/",
                           "https://evils3.example.org/", "https://s3.example.org:444/", "https://s3.amazonaws.com/" } do
      assert.is_false(covers(endpoint, url), url)
    end
  end)

  it("are all of Amazon's for one of them", function()
    local endpoint = "https://s3.us-east-1.amazonaws.com"
    for _, url in ipairs { "https://s3.eu-west-1.amazonaws.com/", "https://a.b.s3.eu-west-1.amazonaws.com/",
                           "https://b.s3.dualstack.eu-west-1.amazonaws.com/", "https://b.s3-us-west-2.amazonaws.com/",
                           "https://b.s3.amazonaws.com/" } do
      assert.is_true(covers(endpoint, url), url)
    end
    for _, url in ipairs { "https://ec2-1-2-3-4.compute.amazonaws.com/", "https://s3.compute.amazonaws.com/",
                           "https://x.execute-api.eu-west-1.amazonaws.com/", "https://s3.evil-1.example.com/",
                           "https://b.s3.eu-west-1.amazonaws.com.evil.net/", "https://b.s3.cn-north-1.amazonaws.com.cn/" } do
      assert.is_false(covers(endpoint, url), url)
    end
  end)
end)

describe("a signer", function()
  it("refuses keys that do not fit into a header, and halves", function()
    local valid = { endpoint = "https://s3.example.org", region = "r", access_key_id = "a", secret_access_key = "b" }
    local function refused(changes)
      local options = {}
      for name, value in pairs(valid) do options[name] = value end
      for name, value in pairs(changes) do options[name] = value end
      local signer, err = core.signer(options)
      return signer == nil and err.kind
    end
    assert.is_false(refused {})
    for _, changes in ipairs { { access_key_id = "a\r\nx: y" }, { session_token = "t t" }, { access_key_id = "a/b" },
                               { region = "EU" }, { region = "" }, { endpoint = "ftp://x" }, { endpoint = "https://" } } do
      assert.equal("policy", refused(changes))
    end
    valid.secret_access_key = nil
    assert.equal("policy", refused {})
  end)
end)
