--- The conditional requests that an S3 engine honours. They are tried out once a day, on an object of our own.
-- @module theaterref.store.remote_engine
local core = require "theaterref.core"
local errors = require "theaterref.error"
local random = require "theaterref.store.random"

local M = {}

local LASTS_SECONDS = 24 * 3600 -- an engine may be upgraded
local MAX_TRIES = 4
local FOLDER = "theaterref/"    -- of probes: readers of stores ignore it
local WRONG = '"00000000000000000000000000000000"'

local known = {} -- by name: the files in the local folder are read once, and may be impossible to write

local function quoted(etag) return etag:find '^"' and etag or '"' .. etag .. '"' end

local function unquoted(etag) return (etag:gsub('"', "")) end

-- Reads an engine's text: how it wants If-Match written, and for which methods that works.
local function parse(text)
  local style, moves, removes = text:match "^(%l+) (%d) (%d)$"
  if not style then return nil end
  return { text = text, condition = style == "unquoted" and unquoted or quoted, moves = moves == "1", removes = removes == "1" }
end

-- True if a request was refused because its condition does not hold.
local function is_refused(ok, err) return not ok and (err.kind == "conflict" or err.status == 412 or err.status == 409) end

--- True if an engine reports that it does not support a conditional header. Other errors may be temporary and prove nothing.
-- @tparam table err
-- @treturn boolean
function M.is_unsupported(err) return err.status == 501 or err.code == "NotImplemented" end

-- Sends a request about the probe's object. Returns what the client does, if it was done; false, if it was refused (true) or
-- the engine does not take the header (false); or nil and an error. Nobody else changes that object. So a request is sent
-- again if its answer was lost, and if it failed: some engines fail in the place of a refusal.
local function attempt(client, method, ...)
  local ok, err, was_lost
  for _ = 1, MAX_TRIES do
    ok, err = client[method](client, ...)
    if ok then return ok end
    if method == "delete" and was_lost and err.status == 404 then return true end
    was_lost = was_lost or err.unknown
    if not err.unknown and ((err.status or 0) < 500 or err.status == 501) then break end
    if client.seconds_left and client.seconds_left() <= 0 then break end
  end
  if is_refused(ok, err) or M.is_unsupported(err) then return false, is_refused(ok, err) end
  return nil, err
end

-- Finds out how an engine wants the ETag of a conditional PUT: "quoted" or "unquoted"; false if it does not work; or nil and
-- an error.
local function put_style(client, key, etag)
  local done, refused = attempt(client, "put", key, core.blob "1", { if_match = WRONG })
  if done == nil then return nil, refused end
  if done or not refused then return false end -- it ignores the header, or does not take it
  done, refused = attempt(client, "put", key, core.blob "1", { if_none_match = "*" })
  if done == nil then return nil, refused end
  if done or not refused then return false end
  for _, style in ipairs { "quoted", "unquoted" } do
    local condition = style == "quoted" and quoted or unquoted
    done, refused = attempt(client, "put", key, core.blob "1", { if_match = condition(etag) })
    if done == nil then return nil, refused end
    if done then return style end
  end
  return false
end

-- Finds out whether a conditional DELETE works: "1" or "0"; or nil and an error.
local function delete_works(client, key, etag, style)
  local condition = style == "unquoted" and unquoted or quoted
  local done, refused = attempt(client, "delete", key, { if_match = condition(WRONG) })
  if done == nil then return nil, refused end
  if done or not refused then return "0" end
  done, refused = attempt(client, "delete", key, { if_match = condition(etag) })
  if done == nil then return nil, refused end
  return done and "1" or "0"
end

-- Tests an engine by requests on a new object.
local function probe(store)
  local client, err = store:client()
  if not client then return nil, err end
  local key = store.prefix .. FOLDER .. random.uuid()
  local head, style, removes
  head, err = attempt(client, "put", key, core.blob "1", {})
  if not head then return nil, err end
  local etag = head.etag or (client:head(key) or {}).etag
  if not etag then
    client:delete(key, {})
    return nil, errors.new("syntax", ("the server of %s sent an object without the header ETag, which labels need")
      :format(store.name))
  end
  style, err = put_style(client, key, etag)
  if style == false then style, removes = "quoted", "0" end
  local moves = removes and "0" or "1"
  if style and not removes then removes, err = delete_works(client, key, etag, style) end
  if removes ~= "1" then client:delete(key, {}) end
  if not style or not removes then return nil, err end
  return ("%s %s %s"):format(style, moves, removes)
end

-- Tests an engine; once more on another object if it seems not to honour everything: somebody may have deleted the first one.
local function probe_twice(store)
  local text, err = probe(store)
  if text and text:find "1 1$" or err and err.status ~= 404 then return text, err end
  return probe(store)
end

-- Returns the last result about an engine, `at` and `text`, or nil.
local function kept(store, name)
  if known[name] then return known[name] end
  local at, text = (store.front:text(name) or ""):match "^(%d+) ([^\n]*)$"
  return text and { at = math.tointeger(at), text = text }
end

local function name_of(store) return "engine-" .. core.digest(store.identity) end

--- Returns the last result about the engine of a store's bucket, without asking the engine.
-- @tparam table store
-- @treturn ?table as `of` returns it
-- @treturn ?integer how many seconds ago
function M.known(store)
  local found = kept(store, name_of(store))
  local engine = found and parse(found.text)
  if engine then return engine, os.time() - found.at end
end

--- Returns what the engine of a store's bucket can do.
-- @tparam table store
-- @treturn table `condition(etag)` makes the value of If-Match; `moves`: it works for PUT; `removes`: for DELETE
-- @return[2] nil
-- @treturn[2] table an error
function M.of(store)
  local name = name_of(store)
  local found = kept(store, name)
  if not found or not parse(found.text) or math.abs(os.time() - found.at) > LASTS_SECONDS then
    local text, err = probe_twice(store)
    if not text then return nil, err end
    found = { at = os.time(), text = text }
    store.front:set_text(name, ("%d %s"):format(found.at, text))
  end
  known[name] = found
  return parse(found.text)
end

--- Has the next caller find out anew what the engine of a store's bucket can do.
-- @tparam table store
function M.forget(store)
  local name = name_of(store)
  known[name] = nil
  store.front:set_text(name, "")
end

--- The error for an operation that an engine does not support.
-- @tparam table store
-- @tparam string what
-- @tparam string request
-- @treturn table
function M.refusal(store, what, request)
  return errors.new("policy", ("%s needs a server that honours %s, and that of %s does not"):format(what, request, store.name))
end

return M
