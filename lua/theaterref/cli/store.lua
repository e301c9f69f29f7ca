--- `theaterref store …`: work on a content store.
-- @module theaterref.cli.store
local core = require "theaterref.core"
local errors = require "theaterref.error"
local homes = require "theaterref.home"
local output = require "theaterref.cli.output"
local settings = require "theaterref.cli.settings"

local array, with_bar = output.array, output.with_bar

-- Each returns its report, or nil and an error; or both.
local run, show = {}, {}

local function no_label(name) return errors.new("not_found", "Label not found: " .. name) end

function run.put(store, args)
  local blob, err
  if args.file == "-" then blob, err = core.read_stdin() else blob, err = core.read_file(args.file) end
  if not blob then return nil, err end
  local hash, ok
  hash, err = store:put(blob)
  if hash and args.label then
    ok, err = store:label(args.label, hash)
    if not ok then return nil, err end
  end
  return hash and { hash = hash, bytes = #blob, label = args.label }, err
end

function show.put(data) return data.hash end

function run.get(store, args)
  local is_hash = args.name:match "^%x+$" and (#args.name == 40 or #args.name == 64)
  local blob, err
  if is_hash then blob, err = store:get(args.name) else blob, err = store:get_content_by_label(args.name) end
  if not blob then return nil, err or no_label(args.name) end
  local ok, why = output.write_content(args.output, blob)
  if not ok then return nil, why end
  -- The label may have moved by now, so the hash is that of the bytes.
  local hash = is_hash and args.name or blob:digest(#(store:get_by_label(args.name) or "") == 64 and "sha256" or "sha1")
  return { hash = hash, bytes = #blob, output = args.output, blob = blob }
end

show.get = output.show_content

-- The hash that a label is to point at.
local function hash_for_label(store, args)
  if not args.copy then return args.hash end
  if args.hash then return nil, output.usage_error "give a hash or --copy, not both" end
  if store.is_remote then store:expire_label(args.copy) end -- what the machine last knew may be old
  local hash, err = store:get_by_label(args.copy)
  return hash, err or not hash and no_label(args.copy) or nil
end

-- The hash that a label points at.
local function current(store, args)
  if args.expect then return nil, output.usage_error "--expect is for a label that is moved: give a hash or --copy" end
  local hash, err = store:get_by_label(args.name)
  if not hash then return nil, err or no_label(args.name) end
  return { label = args.name, hash = hash }
end

function run.label(store, args)
  local expect = args.expect
  if expect == "none" then expect = false end
  local hash, err = hash_for_label(store, args)
  if err then return nil, err end
  if not hash then return current(store, args) end
  local ok
  ok, err = store:label(args.name, hash, { expect = expect })
  if ok == false then
    local now = store:get_by_label(args.name)
    err = not now and ("label %s does not exist"):format(args.name)
      or expect == false and ("label %s already exists (at %s)"):format(args.name, now)
      or now == expect and ("label %s was not at %s, but is now; try again"):format(args.name, expect)
      or ("label %s is not at %s but at %s"):format(args.name, expect, now)
  end
  return ok and { label = args.name, hash = hash }, err
end

-- Only what was asked for: a move says nothing.
function show.label(data, args) return not args.hash and not args.copy and data.hash or nil end

function run.history(store, args)
  local now, hashes, err
  now, err = store:get_by_label(args.name)
  if not now then return nil, err or no_label(args.name) end
  hashes, err = store:history(args.name)
  return hashes and { label = args.name, hash = now, history = array(hashes) }, err
end

function show.history(data) return table.concat(data.history, "\n") end

function run.rollback(store, args)
  local hash, former = store:rollback(args.name, { to = args.to })
  if not hash then return nil, former end
  return { label = args.name, hash = hash, former = former }
end

function show.rollback(data) return ("moved from %s to %s"):format(data.former, data.hash) end

function run.unlabel(store, args)
  local removed, err = store:remove_label(args.name)
  if removed == false then err = no_label(args.name) end
  return removed and { removed = args.name }, err
end

function run.labels(store)
  local hashes, faults = store:label_hashes()
  if not hashes then return nil, faults end
  for label in pairs(faults) do hashes[label] = core.json_null end
  return hashes
end

function show.labels(data)
  local lines = {}
  for label, hash in pairs(data) do lines[#lines + 1] = { label, hash == core.json_null and "-" or hash } end
  table.sort(lines, function(a, b) return a[1] < b[1] end)
  for i, line in ipairs(lines) do lines[i] = line[2] .. "  " .. output.plain(line[1]) end
  return table.concat(lines, "\n")
end

function run.ls(store)
  local hashes, err = store:list_all_content()
  return hashes and array(hashes), err
end

function show.ls(data) return table.concat(data, "\n") end

function run.usage(store)
  local usage, err = store:usage()
  if usage then array(usage.labels) end
  return usage, err
end

function show.usage(data)
  local lines = {}
  for _, use in ipairs(data.labels) do
    lines[#lines + 1] = ("%12s bytes  %s"):format(use.bytes or "missing", output.plain(use.label))
  end
  lines[#lines + 1] = ("%12d bytes  without a label"):format(data.unlabelled)
  lines[#lines + 1] = ("%12d bytes  in all"):format(data.bytes)
  return table.concat(lines, "\n")
end

-- A report's lists, and tables with a reason by name: a line for each item.
local function report_lines(report, names)
  local lines = {}
  for _, name in ipairs(names) do
    local items = {}
    for key, value in pairs(report[name]) do
      items[#items + 1] = math.type(key) and value or ("%s: %s"):format(key, value)
    end
    table.sort(items)
    for _, item in ipairs(items) do lines[#lines + 1] = ("%-15s %s"):format(name:gsub("_", " "), output.plain(item)) end
  end
  return lines
end

local found_by_verify = { "corrupt", "unreadable", "missing", "dangling", "faulty_labels", "quarantined",
  "temporary_files", "unexpected" }

function run.verify(store, args)
  local report, err = with_bar("checking", function(progress)
    return store:verify { progress = progress, remote = args.remote }
  end)
  if not report then return nil, err end
  for _, name in ipairs(found_by_verify) do
    if name ~= "faulty_labels" then array(report[name]) end
  end
  local damaged = #report.corrupt + #report.unreadable + #report.dangling > 0 or next(report.faulty_labels)
  return report, damaged and errors.new("corrupt", "the store is damaged") or nil
end

function show.verify(data)
  local lines = report_lines(data, found_by_verify)
  table.insert(lines, 1, data.checked .. " sound")
  return table.concat(lines, "\n")
end

function run.gc(store, args)
  local report, err = with_bar("collecting", function(progress)
    return store:gc { grace = args.grace, dry_run = args.dry_run, remote = args.remote, progress = progress }
  end)
  if not report then return nil, err end
  array(report.deleted)
  array(report.temporary_files)
  report.dry_run, report.grace = args.dry_run, args.grace or args.remote and 24 * 3600 or 3600
  return report, next(report.failed) and errors.new("io", "some files could not be deleted") or nil
end

function show.gc(data)
  local lines
  if data.dry_run then
    local all = table.move(data.deleted, 1, #data.deleted, 1, {})
    table.move(data.temporary_files, 1, #data.temporary_files, #all + 1, all)
    lines = report_lines({ would_delete = all, failed = data.failed }, { "would_delete", "failed" })
  else
    lines = report_lines(data, { "deleted", "temporary_files", "failed" })
  end
  if #data.deleted == 0 then
    local kept = data.kept
    lines[#lines + 1] = ("no content deleted; kept: %d labelled, %d in a label's history, %d put or labelled within %g s "
      .. "(--grace), %d in use"):format(kept.labelled, kept.in_history, kept.young, data.grace, kept.in_use)
  end
  return table.concat(lines, "\n")
end

function run.export(store, args)
  local file = args.file == "-" and output.standard or args.file
  local ok, err = with_bar("exporting", function(progress)
    return store:export(file, { progress = progress, force = args.force })
  end)
  -- Nothing but the export may go to standard output.
  return ok and args.file ~= "-" and { file = args.file } or nil, err
end

run["import"] = function(store, args)
  local file = args.file == "-" and io.stdin or args.file
  local count, changed = with_bar("importing", function(progress)
    return store:import(file, { progress = progress, keep_labels = args.keep_labels })
  end)
  if not count then return nil, changed end
  return { imported = count, moved_labels = args.keep_labels and 0 or changed, kept_labels = args.keep_labels and changed or 0 }
end

show["import"] = function(data)
  local moved, kept = data.moved_labels, data.kept_labels
  return data.imported .. " imported"
    .. (moved > 0 and ("; labels moved that were in the store: %d (--keep-labels leaves them)"):format(moved) or "")
    .. (kept > 0 and ("; labels left where they were: %d"):format(kept) or "")
end

-- ------------------------------------------------------------- command line

-- A command on the store that its first argument names.
local function command(name, does, examples, arguments, options)
  table.insert(arguments, 1, { "id", "The store's id." })
  return { name = name, does = does, examples = examples, arguments = arguments, options = options, home = true,
    run = function(args)
      local theater_home, err = settings.home(args)
      if err then return nil, err end
      local makes_one = name == "put" or name == "import"
      local there
      there, err = settings.is_remote_store(args, args.id), nil
      if not there then there, err = homes.find_store(args.id, theater_home) end
      if not there and not (makes_one and err.kind == "not_found") then return nil, err end
      local store, held
      store, err = settings.store(args, args.id)
      if not store then return nil, err end
      if makes_one then
        local data
        data, err = run[name](store, args)
        if data and not there and not args.json then output.note(("new store '%s'"):format(args.id)) end -- or a typing error
        return data, err
      end
      held, there = store:hold()
      if not held then return nil, there end
      if not there then return nil, errors.new("io", "the store was moved away meanwhile; try again: " .. args.id) end
      return run[name](held, args)
    end, show = show[name] }
end

return {
  { name = "store", does = "Work on a content store.", commands = {
    command("put", "Store a file; print its hash.", { "theaterref store put demo actor.wasm --label actors/worker" },
      { { "file", "A path, or - for standard input." } }, { { "--label", "NAME", "Also give the content this label." } }),
    command("get", "Print the content of a hash or a label.", { "theaterref store get demo actors/worker -o worker.wasm" },
      { { "name", "A hash or a label." } }, { { "-o --output", "FILE", "Write to this file; - for standard output." } }),
    command("label", "Point a label at content, or print the hash that it points at.",
      { "theaterref store label demo actors/stable $(theaterref store put demo actor.wasm) --expect none",
        "theaterref store label demo actors/stable", "theaterref store label demo actors/old --copy actors/stable" },
      { { "name", "Name of the label." },
        { "hash", "Hash of the content. Without it, the label does not move.", optional = true } },
      { { "--copy", "LABEL", "Point the label at the same content as this label." },
        { "--expect", "HASH", "Move the label only if it points at this hash; 'none': only if it does not exist." } }),
    command("history", "List the hashes that a label pointed at before, newest first.",
      { "theaterref store history demo greeting" }, { { "name", "Name of the label." } }),
    command("rollback", "Move a label back to what it pointed at before. A second rollback moves it forward again; to go further "
      .. "back, use --to.", { "theaterref store rollback demo greeting" }, { { "name", "Name of the label." } },
      { { "--to", "HASH", "A hash in the label's history, instead of the newest." } }),
    command("unlabel", "Remove a label. Its history goes, too: gc may delete the content of both.",
      { "theaterref store unlabel demo actors/worker" },
      { { "name", "Name of the label." } }),
    command("labels", "List labels with their hashes.", { "theaterref store labels demo" }, {}),
    command("ls", "List the hashes of all content.", { "theaterref store ls demo" }, {}),
    command("usage", "Show how many bytes each label holds.", { "theaterref store usage demo" }, {}),
    command("verify", "Check all content and labels. Of a remote store, check its local folder.",
      { "theaterref store verify demo" }, {},
      { { "--remote", nil, "Download and check everything in the bucket of a remote store, and change nothing." } }),
    command("gc", "Delete content that no label or label history refers to, and files left by crashed writers. Of a remote "
      .. "store, delete it from the local folder.",
      { "theaterref store gc demo --dry-run" }, {},
      { { "--grace", "SECONDS", "Spare content that was put, labelled or unlabelled in the last SECONDS. Default: 3600; with "
          .. "--remote, 86400.", number = "from 0" },
        { "--remote", nil, "Delete content from the bucket of a remote store. A grace period of less than a day is safe only "
          .. "while nobody writes." },
        { "-n --dry-run", nil, "Show what would be deleted, and delete nothing." } }),
    command("export", "Write all labels and content to a tar file, but not the history of labels.",
      { "theaterref store export demo demo.tar" },
      { { "file", "A path, or - for standard output. An earlier export of the store is replaced; "
        .. "any other file is not." } },
      { { "--force", nil, "Also replace an export of another store." } }),
    command("import", "Add the content of an export, and move labels to where they are in it.",
      { "theaterref store import copy demo.tar" }, { { "file", "A path, or - for standard input." } },
      { { "--keep-labels", nil, "Do not move labels that the store has already." } }),
  } },
}
