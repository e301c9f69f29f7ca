-- Garbage collection of remote stores, with crashes between every two requests, other collections, and deploys in between.
local Client = require "theaterref.s3.client"
local core = require "theaterref.core"
local helper = require "helper"
local theaterref = require "theaterref"

describe("gc of a bucket", function()
  local s3, folder, prefix
  local count = 0
  local DAY = 24 * 3600

  setup(function() s3 = helper.s3_stub() end)
  teardown(function() s3:stop() end)

  before_each(function()
    folder = helper.temporary_folder()
    count = count + 1
    prefix = "gc" .. count
    s3:control { faults = {}, without = {}, clock = 0 }
    s3:log()
  end)

  after_each(function() helper.remove(folder) end)

  -- The store on a machine, which is a folder of its own.
  local function open(machine, options)
    local all = { base_path = folder .. "/" .. (machine or "here"), remote = "s3://bucket/" .. prefix, s3 = s3.settings,
      label_ttl = 0, request = { retries = 0 } }
    for name, value in pairs(options or {}) do all[name] = value end
    return assert(theaterref.content_store("release", all))
  end

  local function asked(pattern) return s3:asked(pattern) end

  local function put(key, text, age) s3:control { put = { { bucket = "bucket", key = prefix .. "/" .. key, text = text, age = age } } } end

  local function age(seconds, key) s3:control { age = { bucket = "bucket", prefix = prefix .. "/" .. (key or ""), seconds = seconds } } end

  local function objects() return s3:below(prefix) end

  local function copies()
    local n = 0
    for key in pairs(objects()) do
      if key:find "^theaterref/trash/" then n = n + 1 end
    end
    return n
  end

  -- Puts content into the bucket alone. Returns its hash.
  local function content(text, seconds)
    local hash = core.digest(text, "sha1")
    put("data/" .. hash, text, seconds or 2 * DAY)
    return hash
  end

  local function holds(label, text)
    assert.equal(text, tostring((open("reader" .. math.random(1 << 30)):get_content_by_label(label))))
  end

  -- Calls a function before the request with a number that the client sends from now on, and not within itself. Returns a function that
  -- tells whether there was such a request, and ends it.
  local function before_request(number, call)
    local methods, n, busy = {}, 0, false
    for _, name in ipairs { "get", "head", "list", "refresh", "delete_many", "delete", "put" } do
      local method = Client[name]
      methods[name] = method
      Client[name] = function(...)
        if not busy then
          n = n + 1
          busy = true
          if n == number then call() end
          busy = false
        end
        return method(...)
      end
    end
    return function()
      for name, method in pairs(methods) do Client[name] = method end
      return n >= number
    end
  end

  it("deletes nothing that is labelled, was labelled, or is young", function()
    local store = open()
    local labelled, former, old = store:put "now", store:put "before", store:put "old"
    store:label("x", former)
    store:label("x", labelled)
    s3:control { age = { bucket = "bucket", prefix = prefix .. "/", seconds = 25 * 3600 } }
    local young = store:put "young"
    local trial = store:gc { remote = true, dry_run = true }
    assert.same({ old }, trial.deleted)
    local report = store:gc { remote = true }
    assert.same({ old }, report.deleted)
    assert.same({ labelled = 1, in_history = 1, young = 1, in_use = 0 }, report.kept)
    local left = objects()
    assert.truthy(left["data/" .. labelled] and left["data/" .. former] and left["data/" .. young])
    assert.is_nil(left["data/" .. old])
  end)

  it("deletes old probes, and nothing else beside them", function()
    local probe = "theaterref/01234567-89ab-4def-8123-456789abcdef"
    put(probe, "1", 3 * 86400)
    put("theaterref/notes", "somebody's", 3 * 86400)
    assert(open():gc { remote = true })
    assert.is_nil(objects()[probe])
    assert.truthy(objects()["theaterref/notes"])
  end)

  it("goes by the bucket's clock", function()
    local store = open()
    local hash = store:put "young"
    s3:control { clock = 600 }
    assert.same({ hash }, store:gc { remote = true, grace = 300 }.deleted)
    s3:control { clock = 0 }
  end)

  it("looks at labels and ages again before each batch of deletions", function()
    local store = open()
    local function hash(i) return ("0"):rep(35) .. ("%05d"):format(i) end
    s3:control { fill = { bucket = "bucket", prefix = prefix .. "/data/" .. ("0"):rep(35), count = 503, text = "old" } }
    s3:control { age = { bucket = "bucket", prefix = prefix .. "/", seconds = 25 * 3600 } }
    local report = store:gc { remote = true, progress = function(done)
      if done > 500 then return end
      put("labels/x", hash(501))
      s3:control { age = { bucket = "bucket", prefix = prefix .. "/data/" .. hash(502), seconds = -25 * 3600 } }
    end }
    assert.equal(501, #report.deleted)
    assert.truthy(objects()["data/" .. hash(501)] and objects()["data/" .. hash(502)])
  end)

  it("does nothing while a label holds no hash", function()
    local store = open()
    store:put "x"
    put("labels/bad", "x")
    local report, err = store:gc { remote = true, grace = 0 }
    assert.is_nil(report)
    assert.equal("corrupt", err.kind)
  end)

  it("reports what it could not delete", function()
    local store = open()
    local hash = store:put "kept"
    s3:control { faults = { { ["do"] = "keep", key = hash } } }
    local report = store:gc { remote = true, grace = 0 }
    assert.same({}, report.deleted)
    assert.matches("AccessDenied", report.failed[hash])
  end)

  it("goes by the bucket's clock, also where content is made young", function()
    local hash = open("writer"):put "content"
    s3:control { clock = 2 * DAY } -- this machine is behind
    open("writer"):label("warm", open("writer"):put "warm")
    age(-25 * 3600, "data/" .. hash) -- it is 23 hours old
    s3:log()
    assert.is_true(open("other"):label("x", hash))
    assert.equal(1, asked "x%-amz%-copy%-source")
    assert.is_true(objects()["data/" .. hash].age < 3600)
  end)

  it("keeps copies of what it deletes for a day", function()
    local free, labelled = content "free", content "labelled"
    put("labels/x", labelled)
    assert.same({ free }, open():gc({ remote = true }).deleted)
    assert.equal(1, copies())
    assert.same({}, open():gc({ remote = true, grace = 0 }).deleted)
    assert.equal(1, copies())
    age(DAY + 60)
    assert(open():gc { remote = true })
    assert.equal(1, copies()) -- the network may have delayed the deletion
    age(3600)
    assert.same({}, open():gc({ remote = true, dry_run = true }).deleted)
    assert.equal(1, copies())
    assert(open():gc { remote = true })
    assert.equal(0, copies())
    holds("x", "labelled")
  end)

  it("writes nothing in a dry run", function()
    content "free"
    s3:log()
    assert.equal(1, #open():gc({ remote = true, dry_run = true }).deleted)
    for _, line in ipairs(s3:log()) do assert.is_nil(line:match "^PUT" or line:match "^DELETE" or line:match "^POST") end
  end)

  it("leaves content that can be labelled again", function()
    local hash = content "again"
    assert.same({ hash }, open():gc({ remote = true }).deleted)
    assert.is_true(open("other"):label("x", hash))
    holds("x", "again")
    assert.equal("not_found", select(2, open("other"):label("y", ("0"):rep(40))).kind)
  end)

  it("loses nothing that is labelled when it is killed between any two requests", function()
    for _, how in ipairs { "drop_before", "drop_after" } do
      for number = 0, 99 do
        prefix = ("gc%d/%s%d"):format(count, how, number)
        local free, late = content "free", content "late"
        put("labels/x", content "labelled")
        put("theaterref/trash/" .. free .. "/00", "free", 2 * DAY)
        s3:control { faults = { { ["do"] = how, key = "", skip = number }, { ["do"] = "drop_before", times = 99, skip = number } } }
        local report = open():gc { remote = true }
        s3:control { faults = {} }
        put("labels/late", late) -- whoever writes this has seen the content before
        assert(open "next":gc { remote = true })
        holds("late", "late")
        holds("x", "labelled")
        if report then break end
        assert.is_true(number < 30)
      end
    end
  end)

  it("loses nothing that is labelled, whenever the label comes", function()
    for _, where in ipairs { "bucket", "folder" } do
      for number = 1, 99 do
        prefix = ("gc%d/%s%d"):format(count, where, number)
        local late, writer = content "late", open "writer"
        content "free"
        writer:store_at_label("warm", "warm")
        if where == "folder" then writer:put "late" end -- a moment ago
        age(2 * DAY)
        local done = before_request(number, function() assert.is_true(writer:label("late", late)) end)
        assert(open():gc { remote = true })
        if not done() then break end
        holds("late", "late")
        assert.is_true(number < 30)
      end
    end
  end)

  it("loses nothing that is labelled while another one runs", function()
    for number = 1, 99 do
      for _, order in ipairs { "label first", "gc first", "label within" } do
        prefix = ("gc%d/%s%d"):format(count, order:gsub(" ", "-"), number)
        local late = content "late"
        content "free"
        local function label() put("labels/late", late) end
        local done = before_request(number, function()
          if order == "label first" then label() end
          local other = order == "label within" and before_request(8, label)
          assert(open("other"):gc { remote = true })
          if other and not other() or order == "gc first" then label() end
        end)
        assert(open():gc { remote = true })
        local was_reached = done()
        assert(open():gc { remote = true })
        if not was_reached then return end
        holds("late", "late")
        assert.is_true(number < 30)
      end
    end
  end)

  it("deletes no copy that another one has just made", function()
    local hash = content "twice"
    assert.equal(1, #open():gc({ remote = true }).deleted)
    age(2 * DAY)
    content "twice"
    local delete_many = Client.delete_many
    finally(function() Client.delete_many = delete_many end)
    function Client.delete_many(...)
      Client.delete_many = delete_many
      assert.same({ hash }, open("other"):gc({ remote = true }).deleted)
      put("labels/x", hash)
      return delete_many(...)
    end
    assert(open():gc { remote = true })
    assert(open():gc { remote = true })
    holds("x", "twice")
  end)

  it("does not delete again when the server is busy, but looks again", function()
    local busy, free = content "busy", content "free"
    s3:control { faults = { { ["do"] = "status", method = "POST", status = 503, code = "SlowDown", retry_after = 0 } } }
    local posts = 0
    local delete_many = Client.delete_many
    finally(function() Client.delete_many = delete_many end)
    function Client.delete_many(...)
      posts = posts + 1
      local failures, err = delete_many(...)
      if posts == 1 then put("labels/x", busy) end
      return failures, err
    end
    s3:log()
    assert.same({ free }, open("here", { request = { retries = 3 } }):gc({ remote = true }).deleted)
    assert.equal(2, asked "^POST")
    assert.equal(2, posts)
    holds("x", "busy")
  end)

  it("puts back what an earlier try deleted, when the server was too busy for that", function()
    local busy, free = content "busy", content "free"
    s3:control { faults = { { ["do"] = "status_after", method = "POST", status = 503, code = "SlowDown" },
      { ["do"] = "status", method = "GET", query = "labels%2F", skip = 2, status = 503, code = "SlowDown" } } }
    local delete_many = Client.delete_many
    finally(function() Client.delete_many = delete_many end)
    function Client.delete_many(...)
      local failures, err = delete_many(...)
      if err then put("labels/x", busy) end
      return failures, err
    end
    assert.same({ free }, open():gc({ remote = true }).deleted)
    assert.truthy(objects()["data/" .. busy])
  end)

  it("deletes nothing that was overwritten since it was listed", function()
    local hash, other = content "overwritten", content "other"
    local delete_many, head = Client.delete_many, Client.head
    finally(function() Client.delete_many, Client.head = delete_many, head end)
    function Client.head(client, key)
      Client.head = head
      put("data/" .. hash, "with other bytes", 2 * DAY)
      return head(client, key)
    end
    assert.same({ other }, open():gc({ remote = true }).deleted)
    assert.truthy(objects()["data/" .. hash])
  end)

  it("reports a probe that it could not delete", function()
    local probe = "01234567-89ab-4def-8123-456789abcdef"
    put("theaterref/" .. probe, "1", 3 * DAY)
    s3:control { faults = { { ["do"] = "status", method = "DELETE", status = 403, code = "AccessDenied" } } }
    assert.matches("AccessDenied", open():gc({ remote = true }).failed[probe])
  end)

  it("leaves young probes, whatever the grace", function()
    local probe = "theaterref/01234567-89ab-4def-8123-456789abcdef"
    put(probe, "1", 60)
    assert(open():gc { remote = true, grace = 0 })
    assert.truthy(objects()[probe])
  end)

  -- Deletes content as a collection that is killed after its deletion does. Returns the hash.
  local function lose(text)
    local hash = content(text)
    assert(open():gc { remote = true })
    assert.is_nil(objects()["data/" .. hash])
    return hash
  end

  it("leaves copies, which readers put back", function()
    local hash = lose "labelled meanwhile"
    put("labels/x", hash)
    holds("x", "labelled meanwhile")
    assert.truthy(objects()["data/" .. hash])
    hash = lose "put meanwhile"
    assert.equal("put meanwhile", tostring(open("reader"):get(hash)))
    assert.truthy(objects()["data/" .. hash])
    assert.is_true(open("other"):exists(lose "asked about"))
    assert.equal("too_large", select(2, open("limited"):get(lose "much", 3)).kind)
  end)

  it("leaves copies, which count when labels are checked", function()
    local hash = lose "labelled meanwhile"
    put("labels/x", hash)
    local report = open("other"):verify { remote = true }
    assert.same({ {}, {} }, { report.dangling, report.missing })
    assert.truthy(objects()["data/" .. hash])
  end)

  it("leaves copies, which readers read that may not write", function()
    local hash = lose "readable"
    s3:control { faults = { { ["do"] = "status", method = "PUT", status = 403, code = "AccessDenied", times = 9 } } }
    assert.is_true(open("reader"):exists(hash))
    assert.equal("readable", tostring(open("reader"):get(hash)))
    assert.is_nil(objects()["data/" .. hash])
    put("labels/x", hash)
    assert.same({ "x" }, open("reader"):verify({ remote = true }).dangling)
  end)

  it("leaves copies, of which readers take only right bytes", function()
    local hash = core.digest("right", "sha1")
    put("theaterref/trash/" .. hash .. "/01234567-89ab-4def-8123-456789abcdef", "WRONG")
    assert.equal("not_found", select(2, open("reader"):get(hash)).kind)
    assert.is_nil(objects()["data/" .. hash])
  end)

  it("fails if it is not known which objects could not be deleted", function()
    local hash = content "kept"
    s3:control { faults = { { ["do"] = "keep", key = hash, nameless = true } } }
    local report, err = open():gc { remote = true }
    assert.is_nil(report)
    assert.matches("deleting objects failed: status 200: AccessDenied", err.message, 1, true)
  end)

  it("fails if the server tells no times", function()
    content "old"
    for name, words in pairs { ["Last-Modified"] = "without a time %(LastModified%)", Date = "does not tell its time %(Date%)" } do
      s3:control { without = { name } }
      local report, err = open():gc { remote = true }
      assert.is_nil(report)
      assert.equal("syntax", err.kind)
      assert.matches(words, err.message)
    end
  end)

  it("has later writers of its process look at the bucket again", function()
    local store = open()
    local hash = store:put "soon gone"
    assert.same({ hash }, store:gc({ remote = true, grace = 0 }).deleted)
    assert.equal(hash, store:put "soon gone")
    assert.truthy(objects()["data/" .. hash])
  end)

  it("puts only right bytes back, and only where content is absent", function()
    local hash = core.digest("right", "sha1")
    local copy = "theaterref/trash/" .. hash .. "/01234567-89ab-4def-8123-456789abcdef"
    put(copy, "WRONG")
    put("labels/x", hash)
    assert(open():gc { remote = true })
    assert.is_nil(objects()["data/" .. hash])
    assert.equal("not_found", select(2, open("other"):label("y", hash)).kind)
    put(copy:gsub("01", "02"), "right")
    assert.is_true(open("other"):label("y", hash))
    holds("x", "right")
    s3:log()
    assert(open():gc { remote = true })
    assert.equal(0, asked "^PUT .*data/")
  end)

  it("keeps right bytes that come while it deletes wrong ones", function()
    local hash = core.digest("right", "sha1")
    put("data/" .. hash, "WRONG", 2 * DAY)
    local delete_many = Client.delete_many
    finally(function() Client.delete_many = delete_many end)
    function Client.delete_many(...)
      local failures, err = delete_many(...)
      open("other"):store_at_label("x", "right")
      return failures, err
    end
    assert(open():gc { remote = true })
    holds("x", "right")
  end)

  it("asks for the age of content right before it deletes it", function()
    local hash, other = content "refreshed", content "other"
    local head = Client.head
    finally(function() Client.head = head end)
    function Client.head(client, key)
      Client.head = head
      assert.equal(hash, open("writer"):put "refreshed")
      return head(client, key)
    end
    local report = open():gc { remote = true }
    assert.same({ other }, report.deleted)
    assert.equal(1, report.kept.in_use)
    assert.truthy(objects()["data/" .. hash])
  end)

  it("puts back what labels name, though it refuses to delete because of another label", function()
    local hash = core.digest("labelled", "sha1")
    local old = "theaterref/trash/" .. ("a"):rep(40) .. "/01234567-89ab-4def-8123-456789abcdef"
    put("theaterref/trash/" .. hash .. "/01234567-89ab-4def-8123-456789abcdef", "labelled", 2 * DAY)
    put(old, "old", 2 * DAY)
    put("labels/x", hash)
    put("labels/README", "hello")
    assert.equal("corrupt", select(2, open():gc { remote = true }).kind)
    holds("x", "labelled")
    assert.truthy(objects()[old])
  end)

  it("has a label that comes while it deletes fail, if its content cannot be brought back", function()
    local hash, writer = content "late", open "writer"
    writer:store_at_label("warm", "warm")
    local put_object = Client.put
    finally(function() Client.put = put_object end)
    function Client.put(client, key, ...)
      if key:find "labels/x$" then
        Client.put = put_object
        assert.same({ hash }, open():gc({ remote = true, grace = 0 }).deleted)
        for copy in pairs(objects()) do
          if copy:find("trash/" .. hash, 1, true) then put(copy, "wrong") end
        end
      end
      return put_object(client, key, ...)
    end
    local moved, err = writer:label("x", hash)
    assert.same({ nil, "not_found" }, { moved, err.kind })
    assert.matches("label x has moved to " .. hash .. ", which was deleted meanwhile: put it again", err.message)
  end)

  it("ignores folders that consoles make, as do verify and export", function()
    local free, store = content "free", open()
    local hash = store:store_at_label("a/b", "labelled")
    for _, key in ipairs { "", "data/", "labels/", "labels/a/", "labels/new/", "theaterref/trash/" } do put(key, "") end
    assert.same({ free }, store:gc({ remote = true }).deleted)
    local report = store:verify { remote = true }
    assert.same({ {}, {} }, { report.unexpected, report.faulty_labels })
    assert.same({ "a/b" }, store:list_labels())
    assert.is_true(store:export(folder .. "/x.tar"))
    assert.is_true(store:label("new", hash))
  end)

  it("fails if a list never ends", function()
    content "free"
    s3:control { faults = { { ["do"] = "endless", query = "list-type", times = 999 } } }
    for _, call in ipairs { function(store) return store:gc { remote = true } end, function(store) return store:list_labels() end } do
      put("labels/x", content "labelled")
      local result, err = call(open())
      assert.is_nil(result)
      assert.equal("syntax", err.kind)
      assert.matches("repeats pages", err.message)
    end
    prefix = prefix .. "empty"
    assert.equal("syntax", select(2, open():list_labels()).kind)
  end)

  it("takes lists of any size, whatever limit there is on objects", function()
    local name = ("+"):rep(1024 - #prefix - #"/data/" - 5)
    s3:control { fill = { bucket = "bucket", prefix = prefix .. "/data/" .. name, count = 1000, text = "" } }
    local store = open("here", { request = { max_bytes = 10 } })
    s3:log()
    assert(store:gc { remote = true })
    assert.equal(1, asked "prefix=[^&]*data")
  end)
end)
