-- Writes to registries, past what theaterref itself would push.
local assert = require "luassert"
local core = require "theaterref.core"

local M = {}

M.MANIFEST = "application/vnd.oci.image.manifest.v1+json"
M.INDEX = "application/vnd.oci.image.index.v1+json"

--- Sends bytes; returns what is known of the answer.
function M.put(at, path, method, bytes, media_type)
  local future = assert(core.send("http://" .. at .. path, core.request_options { retries = 0 }, { method = method,
    body = core.blob(bytes), headers = { ["Content-Type"] = media_type } }))
  assert(future:wait())
  return future:info()
end

--- Uploads a blob; returns its digest, as documents name it.
function M.put_blob(at, repository, bytes)
  local digest = "sha256:" .. core.digest(bytes)
  local info = M.put(at, "/v2/" .. repository .. "/blobs/uploads/", "POST", "", "application/octet-stream")
  local location = info.headers.location:gsub("^http://[^/]*", "")
  location = location:gsub("^%.%./uploads", "/v2/" .. repository .. "/blobs/uploads")
  M.put(at, location .. (location:find("?", 1, true) and "&" or "?") .. "digest=" .. digest, "PUT", bytes, "application/octet-stream")
  return digest
end

--- Writes a document under a tag or a digest; returns its digest in hex.
function M.put_document(at, repository, name, document, media_type)
  assert.equal(201, M.put(at, ("/v2/%s/manifests/%s"):format(repository, name), "PUT", document, media_type or M.MANIFEST).status)
  return core.digest(document)
end

return M
