-- An HTTP server that does what servers do at their worst, by the path asked
-- for. Run as a process of its own; prints its port, and serves until killed.
-- GET /count/<path> tells how often a path was asked for; a query makes a path
-- of its own: /flaky?a and /flaky?b fail on their own. GET /last/<path> gives the last
-- request for a path, GET /connections how many connections there were.
package.path = arg[0]:gsub("[^/]*$", "?.lua;") .. package.path
local listen = require "listen"
local uv = require "luv"

local counts, last = {}, {}
local connections = 0
local late, most_late = 0, 0
local gathered = {}
local body = ("0123456789abcdef"):rep(4096) -- 64 KiB

-- ------------------------------------------------------------------ answers

local function head(status, fields)
  return "HTTP/1.1 " .. status .. "\r\nConnection: close\r\n" .. (fields or "") .. "\r\n"
end

local function plain(text, fields, status)
  return head(status or "200 OK", "Content-Length: " .. #text .. "\r\n" .. (fields or "")) .. text
end

-- Gzip of zeros, byte for byte as it goes on the wire: one block of the fixed
-- Huffman code, a zero and then copies, 258 at a time, 13 bits for each.
-- Those come round to a byte's edge after 13 bytes.
local function bomb()
  local bits = { 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0 } -- last block, fixed code, literal 0
  for _ = 1, 16 do
    for bit in ("1100010100000"):gmatch "." do bits[#bits + 1] = tonumber(bit) end
  end
  local bytes = {}
  for i = 1, #bits - 7, 8 do
    local byte = 0
    for j = 0, 7 do byte = byte | bits[i + j] << j end
    bytes[#bytes + 1] = string.char(byte)
  end
  local stream = table.concat(bytes)
  return "\31\139\8\0\0\0\0\0\0\3" .. stream:sub(1, 2), stream:sub(3, 15):rep(5000)
end

-- Sends a chunk for as long as there is somebody to send it to, or 'times'.
local function pour(client, chunk, times, pause)
  local function on(err)
    if err or client:is_closing() or times <= 0 then
      if not client:is_closing() then client:close() end
      return
    end
    times = times - 1
    if pause then
      local timer = uv.new_timer()
      timer:start(pause, 0, function()
        timer:close()
        if not client:is_closing() then client:write(chunk, on) end
      end)
    else
      client:write(chunk, on)
    end
  end
  on()
end

local function finish(client, text)
  client:write(text, function() if not client:is_closing() then client:close() end end)
end

-- The first time sends half a body and breaks off.
local function broken_first(answer)
  return function(client, request, count)
    if count == 1 then
      return finish(client, head("200 OK", "Content-Length: " .. #body .. '\r\nETag: "v1"\r\n') .. body:sub(1, 30000))
    end
    return finish(client, answer(tonumber(request:match "[Rr]ange: bytes=(%d+)%-")))
  end
end

local function part(from, claimed)
  local rest = body:sub(from + 1)
  return plain(rest, ('Content-Range: bytes %d-%d/%d\r\nETag: "v1"\r\n'):format(claimed, #body - 1, #body),
    "206 Partial Content")
end

-- The first time sends some of a body of 1,000 bytes and breaks off; then answers a
-- range, if one was asked for, by 'part'.
local thousand = ("0123456789"):rep(100)
local function broken_thousand(fields, part_of)
  return function(client, request, count)
    local from = tonumber(request:match "[Rr]ange: bytes=(%d+)%-")
    if count == 1 then return finish(client, head("200 OK", "Content-Length: 1000\r\n" .. fields) .. thousand:sub(1, 100)) end
    finish(client, from and part_of(from, count) or plain(thousand, fields))
  end
end

local function range(from, to, total, fields)
  return plain(thousand:sub(from + 1, to + 1), ("Content-Range: bytes %d-%d/%s\r\n%s"):format(from, to, total, fields or ""),
    "206 Partial Content")
end

local etag = 'ETag: "v1"\r\n'

-- A page that calls itself unchanged to whoever sends its ETag.
local function page(text)
  return function(client, request)
    local same = request:find('[Ii]f%-[Nn]one%-[Mm]atch: "same"')
    finish(client, same and head("304 Not Modified", 'ETag: "same"\r\n') or plain(text, 'ETag: "same"\r\n'))
  end
end

local function moved(to, text)
  return plain(text or "", "Location: " .. to .. "\r\n", "302 Found")
end

-- "half a file" by gzip, and its first half.
local zipped = "\31\139\8\0\0\0\0\0\2\3\203\72\204\73\83\72\84\72\203\204\73\5\0\56\81\105\115\11\0\0\0"

-- Keeps the connection open for the next request.
local function keep(client, text)
  client:write("HTTP/1.1 200 OK\r\nContent-Length: " .. #text .. "\r\n\r\n" .. text)
end

local paths = {
  ["/range-in-parts"] = broken_thousand(etag, function(from) return range(from, math.min(from + 99, 999), "1000", etag) end),
  ["/range-without-validator"] = broken_thousand(etag, function(from) return range(from, 999, "1000") end),
  ["/range-of-another"] = broken_thousand(etag, function(from) return range(from, 999, "2000", etag) end),
  ["/range-of-another-etag"] = broken_thousand(etag, function(from) return range(from, 999, "1000", 'ETag: "v2"\r\n') end),
  ["/range-as-gzip"] = broken_thousand(etag, function(from) return range(from, 999, "1000", etag .. "Content-Encoding: gzip\r\n") end),
  ["/range-empty"] = broken_thousand(etag, function(from)
    return head("206 Partial Content", ("Transfer-Encoding: chunked\r\nContent-Range: bytes %d-999/1000\r\n"):format(from)) .. "0\r\n\r\n"
  end),
  ["/range-too-long"] = broken_thousand(etag, function(from)
    return plain(thousand:sub(from + 1) .. "more", ("Content-Range: bytes %d-999/1000\r\n"):format(from), "206 Partial Content")
  end),
  ["/range-of-another-date"] = broken_thousand(
    "Date: Thu, 01 Jan 2026 01:00:00 GMT\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
    function(from) return range(from, 999, "1000", "Last-Modified: Thu, 01 Jan 2026 00:30:00 GMT\r\n") end),
  ["/range-of-nothing"] = broken_thousand(etag, function() return head "204 No Content" end),
  ["/range-past-its-end"] = broken_thousand(etag, function(from, count)
    if count > 2 then return range(from, 999, "1000", etag) end
    return plain(("?"):rep(900), ("Content-Range: bytes %d-%d/1000\r\n%s"):format(from, from + 9, etag), "206 Partial Content")
  end),
  ["/weak-date"] = broken_thousand("Date: Thu, 01 Jan 2026 00:00:30 GMT\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
    function(from) return range(from, 999, "1000") end),
  ["/strong-date"] = broken_thousand("Date: Thu, 01 Jan 2026 01:00:00 GMT\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
    function(from) return range(from, 999, "1000") end),
  ["/stalls-once"] = function(client, request, count)
    if count == 1 then return client:write(head("200 OK", "Content-Length: 1000\r\n" .. etag) .. thousand:sub(1, 100)) end
    local from = tonumber(request:match "[Rr]ange: bytes=(%d+)%-")
    finish(client, from and range(from, 999, "1000", etag) or plain(thousand, etag))
  end,
  ["/page-a"] = page "page a", ["/page-b"] = page "page b",
  ["/switch"] = function(client, _, count) finish(client, moved(count == 1 and "/page-a" or "/page-b")) end,
  ["/signed"] = function(client, _, count) finish(client, moved("/page-a?X-Amz-Signature=" .. count .. "&v=1")) end,
  ["/right"] = function(client, request)
    finish(client, request:find "[Ii]f%-[Nn]one%-[Mm]atch" and head "304 Not Modified" or plain "right")
  end,
  ["/to-echo"] = function(client) finish(client, moved "/echo") end,
  ["/to"] = function(client, request) finish(client, moved((request:match "^GET /to%?(%S+)"))) end,
  ["/dripping-redirect"] = function(client)
    client:write(head("302 Found", "Location: /fine\r\nContent-Length: 1000\r\n"))
    pour(client, "x", 1000, 100)
  end,
  ["/silent-redirect"] = function(client) client:write(head("302 Found", "Location: /fine\r\nContent-Length: 1000\r\n")) end,
  ["/cut-redirect"] = function(client) finish(client, head("302 Found", "Location: /fine\r\nContent-Length: 1000\r\n") .. "x") end,
  ["/cut-missing"] = function(client) finish(client, head("404 Not Found", "Content-Length: 1000\r\n") .. "x") end,
  ["/far-redirect"] = function(client) finish(client, moved("/fine?" .. ("x"):rep(5000))) end,
  ["/new-etag"] = function(client, _, count) finish(client, plain("same bytes", ('ETag: "%d"\r\n'):format(count))) end,
  -- The first 304 is about another version, or another date.
  ["/other-304"] = function(client, request, count)
    local same = request:find '[Ii]f%-[Nn]one%-[Mm]atch: "2"'
    finish(client, (count == 2 or same) and head("304 Not Modified", 'ETag: "2"\r\n')
      or plain(count == 1 and "one" or "two", count == 1 and 'ETag: "1"\r\n' or 'ETag: "2"\r\n'))
  end,
  -- It changed within the second of the first response; with "?etag", under the same ETag.
  ["/same-second"] = function(client, request, count)
    local headers = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nDate: Thu, 01 Jan 2026 00:00:0"
      .. (count == 1 and 0 or 1) .. " GMT\r\n" .. (request:find "?etag" and 'ETag: "date-size"\r\n' or "")
    finish(client, request:find "[Ii]f%-%u?%l+%-" and head("304 Not Modified", headers) or plain(count == 1 and "one" or "two", headers))
  end,
  ["/always-modified-now"] = function(client, request, count)
    local date = ("Thu, 01 Jan 2026 00:00:%02d GMT\r\n"):format(math.min(count, 59))
    local headers = "Last-Modified: " .. date .. "Date: " .. date .. 'ETag: "of-content"\r\n'
    finish(client, request:find "[Ii]f%-[Nn]one%-[Mm]atch" and head("304 Not Modified", headers) or plain("bytes " .. count, headers))
  end,
  ["/other-date-304"] = function(client, request)
    local conditional = request:find "[Ii]f%-[Mm]odified%-[Ss]ince"
    finish(client, conditional and head("304 Not Modified", "Last-Modified: Fri, 02 Jan 2026 00:00:00 GMT\r\n")
      or plain("now", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"))
  end,
  ["/weak-304"] = function(client, request)
    finish(client, request:find "[Ii]f%-[Nn]one%-[Mm]atch" and head("304 Not Modified", 'ETag: W/"1"\r\n') or plain("one", 'ETag: "1"\r\n'))
  end,
  -- A byte each tenth of a second.
  ["/steady"] = function(client)
    client:write(head("200 OK", "Content-Length: 20\r\n"))
    pour(client, "x", 20, 100)
  end,
  ["/always-304"] = function(client, _, count) finish(client, count == 1 and plain "good" or head "304 Not Modified") end,
  ["/large-redirect"] = function(client) finish(client, moved("/fine", ("x"):rep(100 << 10))) end,
  ["/large-missing"] = function(client) finish(client, plain(("x"):rep(1 << 20), "", "404 Not Found")) end,
  ["/moved-304"] = function(client) finish(client, head("304 Not Modified", "Location: /fine\r\n")) end,
  ["/choices"] = function(client) finish(client, plain("", "Location: /fine\r\n", "300 Multiple Choices")) end,
  ["/half-gzip"] = function(client, request)
    local packed = request:find "[Aa]ccept%-[Ee]ncoding: gzip"
    finish(client, packed and head("200 OK", "Content-Encoding: gzip\r\n") .. zipped:sub(1, 20) or plain "half a file")
  end,
  ["/half-gzip-of-nothing"] = function(client, request)
    local packed = request:find "[Aa]ccept%-[Ee]ncoding: gzip"
    finish(client, packed and head("200 OK", "Content-Encoding: gzip\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n")
      .. "14\r\n" .. zipped:sub(1, 20) .. "\r\n0\r\n\r\n" or plain "half a file")
  end,
  ["/gzip"] = function(client) finish(client, plain(zipped, "Content-Encoding: gzip\r\n")) end,
  ["/unasked-coding"] = function(client) finish(client, plain("xx", "Content-Encoding: br\r\n")) end,
  ["/two-lengths"] = function(client) finish(client, head("200 OK", "Content-Length: 4\r\nContent-Length: 5\r\n") .. "fine") end,
  ["/three-lengths"] = function(client)
    finish(client, head("200 OK", "Content-Length: 4\r\nContent-Length: 5\r\nContent-Length: 4\r\n") .. "fine")
  end,
  ["/spaced-length"] = function(client) finish(client, head("200 OK", "Content-Length : 2\r\n") .. "fine") end,
  ["/folded-length"] = function(client) finish(client, head("200 OK", "Content-Length:\r\n 2\r\n") .. "fine") end,
  ["/two-codings"] = function(client) finish(client, plain("xx", "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n")) end,
  ["/hidden-coding"] = function(client) finish(client, plain("xx", "Content-Encoding: br\r\nContent-Encoding: identity\r\n")) end,
  ["/packed-transfer"] = function(client) finish(client, head("200 OK", "Transfer-Encoding: gzip\r\n") .. zipped:sub(1, 20)) end,
  ["/padded-gzip"] = function(client) finish(client, plain(zipped .. ("\0"):rep(100), "Content-Encoding: gzip\r\n")) end,
  ["/empty-gzip"] = function(client) finish(client, plain("", "Content-Encoding: gzip\r\n")) end,
  ["/identity-transfer"] = function(client) finish(client, head("200 OK", "Transfer-Encoding: identity\r\n") .. "cut off?") end,
  ["/same-lengths"] = function(client) finish(client, head("200 OK", "Content-Length: 4\r\nContent-Length: 4\r\n") .. "fine") end,
  ["/no-length"] = function(client) finish(client, head "200 OK" .. "cut off?") end,
  ["/then-silent"] = function(client, _, count) if count == 1 then finish(client, plain "good") end end,
  ["/hint"] = function(client, _, count)
    local hint = "HTTP/1.1 103 Early Hints\r\nRetry-After: 3600\r\n\r\n"
    finish(client, hint .. (count == 1 and plain("", "", "503 Service Unavailable") or plain "fine"))
  end,
  ["/keep"] = function(client) keep(client, "kept") end,
  ["/keep-with-more"] = function(client)
    keep(client, "kept")
    client:write "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
  end,
  ["/fine"] = function(client) finish(client, plain "fine") end,
  ["/close-at-once"] = function(client) client:close() end,
  ["/close-amid-headers"] = function(client) finish(client, "HTTP/1.1 200 OK\r\nContent-Le") end,
  ["/close-amid-body"] = function(client) finish(client, head("200 OK", "Content-Length: 1000\r\n") .. ("x"):rep(100)) end,
  ["/close-amid-chunk"] = function(client)
    finish(client, head("200 OK", "Transfer-Encoding: chunked\r\n") .. "64\r\nxxxx")
  end,
  ["/more-than-said"] = function(client) finish(client, head("200 OK", "Content-Length: 4\r\n") .. "fine and then some") end,
  ["/less-than-said"] = function(client) client:write(head("200 OK", "Content-Length: 1000\r\n") .. ("x"):rep(100)) end,
  ["/endless"] = function(client)
    client:write(head "200 OK")
    pour(client, body, math.huge)
  end,
  ["/endless-headers"] = function(client)
    client:write "HTTP/1.1 200 OK\r\n"
    pour(client, ("X-More: " .. ("y"):rep(1000) .. "\r\n"):rep(100), math.huge)
  end,
  ["/drip"] = function(client)
    client:write(head("200 OK", "Content-Length: 1000\r\n"))
    pour(client, "x", 1000, 1000)
  end,
  ["/never"] = function() end,
  ["/loop"] = function(client) finish(client, head("302 Found", "Content-Length: 0\r\nLocation: /loop\r\n")) end,
  ["/to-file"] = function(client) finish(client, head("302 Found", "Content-Length: 0\r\nLocation: file:///etc/passwd\r\n")) end,
  ["/to-gopher"] = function(client) finish(client, head("302 Found", "Content-Length: 0\r\nLocation: gopher://x/\r\n")) end,
  ["/flaky"] = function(client, _, count)
    finish(client, count <= 2 and plain("oh no", "", "500 Internal Server Error") or plain "fine")
  end,
  ["/broken"] = function(client) finish(client, plain("oh no", "", "503 Service Unavailable")) end,
  ["/busy"] = function(client, _, count)
    finish(client, count == 1 and plain("wait", "Retry-After: 1\r\n", "429 Too Many Requests") or plain "fine")
  end,
  ["/busy-for-an-hour"] = function(client) finish(client, plain("", "Retry-After: 3600\r\n", "429 Too Many Requests")) end,
  ["/wordy-error"] = function(client)
    client:write(head "404 Not Found")
    pour(client, body, math.huge)
  end,
  ["/bomb"] = function(client)
    local first, more = bomb()
    client:write(head("200 OK", "Content-Encoding: gzip\r\n") .. first)
    pour(client, more, (10 << 30) // (8 * 258 * 5000) + 1)
  end,
  ["/air"] = function(client)
    local gzip <close> = io.popen "head -c 67108864 /dev/zero | gzip -9"
    finish(client, plain(gzip:read "a", "Content-Encoding: gzip\r\n"))
  end,
  ["/bad-gzip"] = function(client) finish(client, plain(("not gzip"):rep(10), "Content-Encoding: gzip\r\n")) end,
  ["/bad-chunks"] = function(client) finish(client, head("200 OK", "Transfer-Encoding: chunked\r\n") .. "zz\r\nfine\r\n0\r\n\r\n") end,
  ["/huge-chunk"] = function(client)
    finish(client, head("200 OK", "Transfer-Encoding: chunked\r\n") .. "FFFFFFFFFFFFFFFFF\r\nfine\r\n")
  end,
  ["/huge-header"] = function(client) finish(client, plain("fine", "X-Huge: " .. ("y"):rep(1 << 20) .. "\r\n")) end,
  ["/nul-in-header"] = function(client) finish(client, plain("fine", "X-Nul: a\0b\r\n")) end,
  ["/no-http"] = function(client) finish(client, "SSH-2.0-OpenSSH_9.2\r\n") end,
  ["/huge-length"] = function(client) client:write(head("200 OK", "Content-Length: 99999999999999\r\n") .. "x") end,
  ["/odd-length"] = function(client) finish(client, head("200 OK", "Content-Length: -5\r\n") .. "fine") end,
  ["/resumes"] = broken_first(function(from) return part(from, from) end),
  ["/ignores-range"] = broken_first(function() return plain(body, 'ETag: "v1"\r\n') end),
  ["/changes"] = broken_first(function() return plain("changed meanwhile", 'ETag: "v2"\r\n') end),
  ["/wrong-part"] = broken_first(function(from) return from and part(from + 7, from + 7) or plain(body) end),
  ["/no-rest"] = broken_first(function(from)
    return from and plain("", "", "416 Range Not Satisfiable") or plain(body)
  end),
  ["/large-part"] = function(client)
    finish(client, plain(("x"):rep(200000), "Content-Range: bytes 0-199999/400000\r\n", "206 Partial Content"))
  end,
  ["/nothing-with-length"] = function(client) finish(client, head("204 No Content", "Content-Length: 5\r\n")) end,
  ["/status-as-header"] = function(client)
    finish(client, head("200 OK", "HTTP/1.1 500: x\r\nContent-Length: 4\r\n") .. "fine")
  end,
  ["/status-as-trailer"] = function(client)
    finish(client, head("200 OK", "Transfer-Encoding: chunked\r\n") .. "4\r\nfine\r\n0\r\nHTTP/1.1 500: x\r\n\r\n")
  end,
  ["/to-secret"] = function(client, request)
    local to = request:match "^GET /to%-secret%?(%S+)"
    finish(client, moved((to:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))))
  end,
  ["/silent-once"] = function(client, _, count) if count > 1 then finish(client, plain "fine") end end,
  ["/unasked-part"] = function(client) finish(client, part(10, 10)) end,
  ["/versioned"] = function(client, request)
    local same = request:find('[Ii]f%-[Nn]one%-[Mm]atch: "v1"')
    finish(client, same and head("304 Not Modified", 'ETag: "v1"\r\n') or plain(body, 'ETag: "v1"\r\n'))
  end,
  ["/new-each-time"] = function(client, _, count) finish(client, plain("version " .. count, 'ETag: "' .. count .. '"\r\n')) end,
  ["/no-store"] = function(client, _, count)
    finish(client, plain("secret " .. count, "Cache-Control: max-age=60,  No-Store\r\n"))
  end,
  ["/private"] = function(client) finish(client, plain("private", 'cache-control: max-age=1\r\nCache-Control: private="x", a\r\n')) end,
  ["/public"] = function(client) finish(client, plain("public", "Cache-Control: public, x-private=1, no-storey\r\n")) end,
  ["/then-broken"] = function(client, _, count)
    finish(client, count == 1 and plain("good") or plain("", "", "503 Service Unavailable"))
  end,
  ["/then-gone"] = function(client, _, count) finish(client, count == 1 and plain("good") or plain("", "", "410 Gone")) end,
  ["/late"] = function(client, _, count)
    late, most_late = late + 1, math.max(most_late, late + 1)
    local timer = uv.new_timer()
    timer:start(50, 0, function()
      timer:close()
      late = late - 1
      finish(client, plain("late " .. count))
    end)
  end,
  -- How many late ones there were at one time.
  ["/most-late"] = function(client) finish(client, plain(tostring(most_late))) end,
  -- Answers the requests of a number when so many are open: /gather?8,name
  ["/gather"] = function(client, request)
    table.insert(gathered, client)
    if #gathered < tonumber(request:match "%?(%d+)") then return end
    for _, each in ipairs(gathered) do finish(each, plain '"gathered"') end
    gathered = {}
  end,
  ["/echo"] = function(client, request) finish(client, plain(request)) end,
  ["/missing"] = function(client) finish(client, plain("", "", "404 Not Found")) end,
}

-- ------------------------------------------------------------------- server

local function answer(client, request)
  local path = request:match "^%u+ (%S+)" or ""
  path = path:gsub("^http://[^/]*", "") -- as a proxy is asked
  local counted = path:match "^/count(/.*)$"
  if counted then return finish(client, plain(tostring(counts[counted] or 0))) end
  if path == "/connections" then return finish(client, plain(tostring(connections))) end
  local asked = path:match "^/last(/.*)$"
  if asked then return finish(client, plain(last[asked] or "")) end
  if request:find "^CONNECT" then
    counts.CONNECT = (counts.CONNECT or 0) + 1
    if request:find "^CONNECT endless" then
      client:write(head("407 Proxy Authentication Required", "Content-Length: 99999999999\r\n"))
      return pour(client, body, math.huge)
    end
    return finish(client, plain("", "", "407 Proxy Authentication Required"))
  end
  if path == "/connects" then return finish(client, plain(tostring(counts.CONNECT or 0))) end
  counts[path], last[path] = (counts[path] or 0) + 1, request
  local handler = paths[path:match "^[^?]*"] or paths["/missing"]
  handler(client, request, counts[path])
end

local ports = {}
for i = 1, 8 do -- as many origins
  ports[i] = listen.on(0, answer, function() connections = connections + 1 end)
end
io.stdout:write(table.concat(ports, " "), "\n")
io.stdout:flush()
listen.run()
