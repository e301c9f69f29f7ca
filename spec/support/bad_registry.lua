-- A registry in memory, whose repositories have the fault that their name begins with. Run as
-- a process of its own: prints its two ports, and serves until killed. The second is an object
-- store, which answers 400 to requests with an Authorization header. GET /log gives a line for
-- each request since the last GET /log: port number, method, path with query, Authorization,
-- and X-Key if it is there. GET /open gives the number of uploads under way.
--
--   wrong/…      blobs and manifests have other bytes     lying/…    manifests are called by another digest
--   short/…      blobs end too early, always              moved/…    blobs are at the object store
--   quiet/…      no Docker-Content-Digest                 plain/…    documents are text/html
--   busy/…       the first request of a document gets 429 chunks/…   a blob in one piece gets 413
--   moving/…     each upload step is at another, relative place, with a fragment
--   answers/…    an upload is answered with another digest
--   later/…      a document is answered with 202          malformed/… a document is answered with a malformed digest
--   brief/…      the same, with too few digits
--   broken/…     the upload of a blob fails, from the second on
--   away/…       uploads go to the object store
--   gone/…       blobs are 404, but for one that is good  stuck/…    blobs are never answered
--   led/…        documents are at localhost
--   lost/…       the answers to what ends an upload are lost
--   many/…       its list of tags has no end              odd/…      its list of what refers to a document is malformed
--   local/…      uploads go to localhost
--   lists/…      has the referrers API                    paged/…    the same, with one entry on each page
--   turned/…     tags of signatures are at another host
--   late/…       blobs come after a tenth of a second
--   raced/…      another writer replaces what is written first to a tag of signatures with the tag 'other'
--   lossy/…      the same, each time
--   crowd/…      blobs are answered four at a time: when so many are asked for
--   large/…      blobs are followed by more
--   failing/…    its list of what refers to a document is 500, and refused/… 403
--   fixed/…      tags cannot be written                   unmounted/…  and unwilling/…: nothing is mounted
--   unwilling/…  blobs are refused                        slow/…       an upload is answered after a second
--   talking/…    its list of tags is 500, with a megabyte of codes
--   private/…    401 without a challenge                  denied/…   403
local uv = require "luv"

local ports, log = {}, {}
local blobs, documents, tags, uploads, counts, raced = {}, {}, {}, {}, {}, {}
local next_upload, open = 0, {}

local core = require "theaterref.core"

local function digest(bytes) return "sha256:" .. core.blob(bytes):digest() end

local function respond(client, status, fields, text, is_head)
  text = text or ""
  if client:is_closing() then return end
  local head = ("HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n"):format(status, #text, fields or "")
  client:write(head .. (is_head and "" or text))
end

local function refuse(client, status, code) respond(client, status, "", ('{"errors":[{"code":"%s"}]}'):format(code)) end

local function parameter(query, name)
  local value = ("&" .. query):match("&" .. name .. "=([^&]*)") or ""
  return (value:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function upload_place(fault, repository, id)
  next_upload = next_upload + 1
  if fault == "moving" then return ("../uploads/%s-%d?step=%d#%s"):format(id, next_upload, next_upload, id) end
  return ("http://%s:%d/v2/%s/blobs/uploads/%s"):format(fault == "local" and "localhost" or "127.0.0.1", ports[fault == "away" and 2 or 1],
    repository, id)
end

local function tag_list(client, repository, query)
  local list = tags[repository]
  if not list then return refuse(client, "404 Not Found", "NAME_UNKNOWN") end
  local from, names = tonumber(parameter(query, "from")) or 1, {}
  for i = from, math.min(from + 1, #list) do names[#names + 1] = '"' .. list[i] .. '"' end
  local link = from + 2 <= #list and ('Link: </v2/%s/tags/list?n=2&from=%d>; rel="next"\r\n'):format(repository, from + 2) or ""
  respond(client, "200 OK", link, ('{"name":"%s","tags":[%s]}'):format(repository, table.concat(names, ",")))
end

local crowd = {} -- functions that answer

local function get_blob(client, request, fault, repository, name)
  local bytes = blobs[repository .. " " .. name]
  if not bytes then return refuse(client, "404 Not Found", "BLOB_UNKNOWN") end
  local is_head = request.method == "HEAD"
  if fault == "wrong" and not is_head then bytes = bytes:sub(1, -2) .. "!" end
  if fault == "crowd" and not is_head then
    crowd[#crowd + 1] = function() respond(client, "200 OK", "", bytes) end
    if #crowd < 4 then return end
    for _, give in ipairs(crowd) do give() end
    crowd = {}
    return
  end
  if fault == "large" then bytes = bytes .. ("x"):rep(100) end
  if fault == "gone" and not is_head and bytes:sub(-4) ~= "good" then return refuse(client, "404 Not Found", "BLOB_UNKNOWN") end
  if fault == "stuck" and not is_head then return end
  if fault == "late" and not is_head then
    local timer = uv.new_timer()
    return timer:start(100, 0, function()
      timer:close()
      respond(client, "200 OK", "", bytes)
    end)
  end
  if fault == "moved" and not is_head then
    return respond(client, "307 Temporary Redirect",
      ("Location: http://localhost:%d/store/%s?X-Amz-Signature=s3cret\r\n"):format(ports[2], name:sub(8)))
  end
  if fault == "short" and not is_head then
    client:write(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"):format(#bytes) .. bytes:sub(1, #bytes // 2))
    return client:shutdown(function() client:close() end)
  end
  respond(client, "200 OK", "", bytes, is_head)
end

local function get_document(client, request, fault, repository, name)
  if fault == "led" and not request.host:find "localhost" then
    return respond(client, "307 Temporary Redirect", ("Location: http://localhost:%d%s\r\n"):format(ports[1], request.target))
  end
  local document = documents[repository .. " " .. name]
  if not document or not request.accept:find("application/vnd", 1, true) then return refuse(client, "404 Not Found", "MANIFEST_UNKNOWN") end
  if fault == "turned" and name:find "^sha256%-" and not request.host:find "^localhost" then
    return respond(client, "307 Temporary Redirect", ("Location: http://localhost:%d%s\r\n"):format(ports[1], request.target))
  end
  local bytes, told = document.bytes, digest(document.bytes)
  if fault == "wrong" then bytes = bytes .. " " end
  if fault == "lying" then told = digest "something else" end
  local fields = ("Content-Type: %s\r\n"):format(fault == "plain" and "text/html" or document.media_type)
  if fault ~= "quiet" then fields = fields .. "Docker-Content-Digest: " .. told .. "\r\n" end
  respond(client, "200 OK", fields, bytes, request.method == "HEAD")
end

-- Lists the documents of a repository whose subject is a digest, as an index.
local function get_referrers(client, fault, repository, subject, query)
  local entries = {}
  for name, document in pairs(documents) do
    local d = name:match "^(%S+) (sha256:%x+)$" == repository and name:match " (.*)$"
    if d and document.subject == subject then
      entries[#entries + 1] = ('{"mediaType":"%s","digest":"%s","size":%d%s}'):format(document.media_type, d, #document.bytes,
        document.bytes:match ',"artifactType":"[^"]*"' or "")
    end
  end
  local INDEX = "application/vnd.oci.image.index.v1+json"
  local link, page = "", tonumber(parameter(query, "page")) or 1
  if fault == "paged" then
    table.sort(entries)
    if entries[page + 1] then
      link = ("Link: <?page=%d>; rel=\"next\"\r\n"):format(page + 1)
    end
    entries = { entries[page] }
  end
  respond(client, "200 OK", "Content-Type: " .. INDEX .. "\r\n" .. link, ('{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}'):format(INDEX,
    table.concat(entries, ",")))
end

local function put_document(client, request, fault, repository, name)
  local d, subject = digest(request.body), request.body:match '"subject":{[^}]*"digest":"(sha256:%x+)"'
  for reference in request.body:gsub('"subject":{[^}]*}', ""):gmatch '"digest":"(sha256:%x+)"' do
    if not blobs[repository .. " " .. reference] and not documents[repository .. " " .. reference] then
      return refuse(client, "400 Bad Request", "MANIFEST_BLOB_UNKNOWN")
    end
  end
  local document = { bytes = request.body, media_type = request.content_type, subject = subject }
  documents[repository .. " " .. d], documents[repository .. " " .. name] = document, document
  local is_raced = fault == "lossy" or fault == "raced" and not raced[repository .. name]
  if is_raced and name:find "^sha256%-" then
    documents[repository .. " " .. name], raced[repository .. name] = documents[repository .. " other"], true
  end
  if not name:find "^sha256:" then
    tags[repository] = tags[repository] or {}
    table.insert(tags[repository], name)
  end
  if fault == "lost" then return client:close() end
  if fault == "later" then return respond(client, "202 Accepted") end
  if fault == "malformed" then return respond(client, "201 Created", "Docker-Content-Digest: sha256:<x>\r\n") end
  if fault == "brief" then return respond(client, "201 Created", "Docker-Content-Digest: sha512:abc\r\n") end
  local listed = subject and fault == "lists" and "OCI-Subject: " .. subject .. "\r\n" or ""
  respond(client, "201 Created", "Docker-Content-Digest: " .. d .. "\r\n" .. listed)
end

local function upload(client, request, fault, repository, id)
  if request.method == "POST" then
    local mount, from = parameter(request.query, "mount"), parameter(request.query, "from")
    if blobs[from .. " " .. mount] and fault ~= "unmounted" and fault ~= "unwilling" then
      blobs[repository .. " " .. mount] = blobs[from .. " " .. mount]
      return respond(client, "201 Created", fault == "answers" and "Docker-Content-Digest: sha256:x\r\n" or "Location: /\r\n")
    end
    counts[repository] = (counts[repository] or 0) + 1
    if fault == "broken" and counts[repository] > 1 then return refuse(client, "500 Internal Server Error", "UNKNOWN") end
    next_upload = next_upload + 1
    id = "u" .. next_upload
    uploads[id], open[id] = "", true
    return respond(client, "202 Accepted", ("Location: %s\r\nOCI-Chunk-Min-Length: 8388608.5\r\n"):format(
      upload_place(fault, repository, id)))
  end
  id = id:match "^u%d+"
  if not uploads[id] or (fault == "moving" and parameter(request.query, "step") == "") then
    return refuse(client, "404 Not Found", "BLOB_UPLOAD_UNKNOWN")
  end
  if request.method == "DELETE" then
    uploads[id], open[id] = nil, nil
    return respond(client, "204 No Content")
  end
  if request.method == "PUT" and fault == "unwilling" then return refuse(client, "400 Bad Request", "SIZE_INVALID") end
  if request.method == "PUT" and fault == "chunks" and #request.body > 0 then
    return refuse(client, "413 Payload Too Large", "SIZE_INVALID")
  end
  uploads[id] = uploads[id] .. request.body
  if request.method == "PATCH" then
    return respond(client, "202 Accepted", "Location: " .. upload_place(fault, repository, id) .. "\r\n")
  end
  local wanted = parameter(request.query, "digest")
  if digest(uploads[id]) ~= wanted then return refuse(client, "400 Bad Request", "DIGEST_INVALID") end
  local function keep() blobs[repository .. " " .. wanted], open[id], uploads[id] = uploads[id], nil, nil end
  if fault == "slow" then
    uv.new_timer():start(1000, 0, function()
      keep()
      respond(client, "201 Created")
    end)
    return
  end
  keep()
  if fault == "lost" then return client:close() end
  respond(client, "201 Created", "Docker-Content-Digest: " .. (fault == "answers" and digest "other" or wanted) .. "\r\n")
end

local function answer(client, request)
  if request.path == "/log" then
    respond(client, "200 OK", "", table.concat(log, "\n"))
    log = {}
    return
  end
  if request.path == "/open" then
    local count = 0
    for _ in pairs(open) do count = count + 1 end
    return respond(client, "200 OK", "", tostring(count))
  end
  log[#log + 1] = ("%d %s %s %s%s"):format(request.port, request.method, request.target, request.authorization, request.key)
  if request.port == 2 then
    if request.authorization ~= "-" then return refuse(client, "400 Bad Request", "DOUBLE_AUTHORIZATION") end
    for name, bytes in pairs(blobs) do
      if name:sub(-64) == request.path:match "^/store/(%x+)$" then return respond(client, "200 OK", "", bytes) end
    end
    if request.method ~= "PUT" then return refuse(client, "404 Not Found", "NONE") end
  end
  local repository, kind, name = request.path:match "^/v2/(.-)/(blobs/uploads)/(.*)$"
  if not repository then repository, kind, name = request.path:match "^/v2/(.-)/(%l+)/([^/]*)$" end
  if not repository then return respond(client, request.path == "/v2/" and "200 OK" or "404 Not Found") end
  local fault = repository:match "^%l+"
  counts[request.target] = (counts[request.target] or 0) + 1
  if fault == "busy" and kind == "manifests" and counts[request.target] == 1 then return respond(client, "429 Too Many Requests", "Retry-After: 1\r\n") end
  if fault == "private" then return refuse(client, "401 Unauthorized", "UNAUTHORIZED") end
  if fault == "denied" then return refuse(client, "403 Forbidden", "DENIED") end
  if fault == "fixed" and request.method == "PUT" and kind == "manifests" and not name:find "^sha256:" then
    return refuse(client, "400 Bad Request", "TAG_IMMUTABLE")
  end
  if fault == "talking" then
    return respond(client, "500 Internal Server Error", "", '{"errors":[{"code":"' .. ("A"):rep(500000) .. '"}' .. (',{"code":"TOO_BUSY"}'):rep(9)
      .. "]}")
  end
  if kind == "blobs/uploads" then return upload(client, request, fault, repository, name) end
  if kind == "tags" and fault == "many" then
    next_upload = next_upload + 1
    return respond(client, "200 OK", ('Link: </v2/%s/tags/list?page=%d>; rel="next"\r\n'):format(repository, next_upload),
      '{"tags":["t"' .. (',"t"'):rep(60000) .. "]}")
  end
  if kind == "tags" then return tag_list(client, repository, request.query) end
  if kind == "blobs" then return get_blob(client, request, fault, repository, name) end
  if kind == "manifests" and request.method == "PUT" then return put_document(client, request, fault, repository, name) end
  if kind == "referrers" and fault == "failing" then return refuse(client, "500 Internal Server Error", "UNKNOWN") end
  if kind == "referrers" and fault == "refused" then return refuse(client, "403 Forbidden", "DENIED") end
  if kind == "referrers" and fault == "odd" then return respond(client, "200 OK", "", '{"schemaVersion":2,"manifests":[1]}') end
  if kind == "referrers" and (fault == "lists" or fault == "paged") then
    return get_referrers(client, fault, repository, name, request.query)
  end
  if kind == "manifests" then return get_document(client, request, fault, repository, name) end
  refuse(client, "404 Not Found", "UNSUPPORTED")
end

-- Reads requests off a connection, one after the other.
local function serve(port, client)
  local data = ""
  client:read_start(function(err, chunk)
    if err or not chunk then
      if not client:is_closing() then client:close() end
      return
    end
    data = data .. chunk
    while true do
      local head, rest = data:match "^(.-\r\n)\r\n(.*)$"
      if not head then return end
      local function header(name) return ("\n" .. head:lower()):match("\n" .. name:gsub("%-", "%%-") .. ": *([^\r]*)") end
      local length = tonumber(header "content-length") or 0
      if header "expect" and #rest < length then client:write "HTTP/1.1 100 Continue\r\n\r\n" end
      if #rest < length then return end
      local method, target = head:match "^(%u+) (%S+)"
      local path, query = target:match "^([^?]*)%??(.*)$"
      data = rest:sub(length + 1)
      answer(client, { port = port, method = method, target = target, path = path, query = query, body = rest:sub(1, length),
        authorization = head:match "\n[Aa]uthorization: *([^\r]*)" or "-", accept = header "accept" or "", host = header "host" or "",
        key = header "x-key" and " " .. header "x-key" or "",
        content_type = header "content-type" or "application/json" })
    end
  end)
end

for number = 1, 2 do
  local server = uv.new_tcp()
  assert(server:bind("127.0.0.1", 0))
  ports[number] = server:getsockname().port
  server:listen(128, function()
    local client = uv.new_tcp()
    server:accept(client)
    serve(number, client)
  end)
end
print(ports[1], ports[2])
io.stdout:flush()
uv.run()
