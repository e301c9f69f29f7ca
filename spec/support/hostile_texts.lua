-- Texts that mean harm to a parser: each makes one of any size, and reads it.
local archive = require "theaterref.store.archive"
local core = require "theaterref.core"
local errors = require "theaterref.error"
local helper = require "helper"
local links = require "theaterref.registry.link"
local lockfiles = require "theaterref.policy.lockfile"
local manifests = require "theaterref.manifest.manifest"
local secrets = require "theaterref.manifest.secrets"
local signatures = require "theaterref.registry.signatures"
local template = require "theaterref.manifest.template"
local toml = require "theaterref.manifest.toml"

local M = {}

local wanted = { initial_state = true, init_state = true }

local function parse_toml(text) return toml.parse(text) end
local function scan_toml(text) return toml.scan(text, wanted) end
local function render(text) return template.substitute_variables(text, { a = 1, list = { 1, 2 } }) end
local function state_of_json(text) return manifests.initial_state(text .. "init", "json") end
local function format_of(text) return manifests.format_of(text) end
local function fill_in(text) return secrets.fill_in(text, function() return "secret" end) end

local function check_signatures(text) signatures.check(nil, core.blob("theaterref image signatures 1\n" .. text), {}) end

-- An export of a store, with a label's file of so many blanks.
local function export_with_blanks(bytes)
  local tar
  helper.with_folder(function(folder)
    helper.run_ok("mkdir " .. folder .. "/labels")
    helper.write(folder .. "/labels/a", (" "):rep(bytes) .. "x" .. ("\n"):rep(bytes))
    tar = helper.run_ok("tar -C " .. folder .. " -cf - labels")
  end)
  return tar
end

local function import(tar)
  local file <close> = io.tmpfile()
  file:write(tar)
  file:seek "set"
  local batch = { label = function() return true end }
  return archive.import({ batch = function(_, work) return work(batch) end, get_by_label = function() end }, file)
end

local function read_lockfile(text)
  helper.with_folder(function(folder) lockfiles.read(helper.write(folder .. "/lockfile", text)) end)
end

-- Repeats a text up to a size.
local function of(piece, before, after)
  return function(bytes) return (before or "") .. piece:rep(bytes // #piece) .. (after or "") end
end

-- A long text, so deep within.
local function nested(open, close, depth)
  return function(bytes) return open:rep(depth) .. '"' .. ("x"):rep(bytes) .. '"' .. close:rep(depth) end
end

-- { what, how a text of a size is made, what reads it }
M.list = {
  { "TOML: a fault at the end of a long line", of("x", 'a = "', '"\nb = ! \n' .. ("y"):rep(99)), parse_toml },
  { "TOML: a fault in the last of many lines", of("a.b = 1\n", "", "!"), parse_toml },
  { "TOML: many keys", function(bytes)
    local lines = {}
    for i = 1, bytes // 12 do lines[i] = ("k%d = %d\n"):format(i, i) end
    return table.concat(lines)
  end, parse_toml },
  { "TOML: many tables in one", of "[[a.b]]\nc = 1\n", parse_toml },
  { "TOML: a long array", of("1,\n", "a = [", "]"), parse_toml },
  { "TOML: open brackets", of("[", "a = "), parse_toml },
  { "TOML: a long dotted key", of("a.", "", "a = 1"), parse_toml },
  { "TOML: blanks", of(" ", "a = 1", "!"), parse_toml },
  { "TOML: a string without its end", of("x\n", 'a = """'), parse_toml },
  { "TOML, scanned: lines that cannot be read", of "{{a}}\n", scan_toml },
  { "TOML, scanned: open arrays", of "a = [\n", scan_toml },
  { "TOML, scanned: arrays with comments", of "a = [ # [\n", scan_toml },
  { "TOML, scanned: strings and comments that swap their roles", of 'a=[#""",\n"""\n', scan_toml },
  { "TOML, scanned: arrays that are read to their end, for a key that is there already",
    of('a=[#""",\n"""\n', "a=1\n", 'x"""]\n'), scan_toml },
  { "TOML, scanned: arrays with something behind them", of('a=[#""",\n"""\n', "", 'x"""] x\n'), scan_toml },
  { "TOML, scanned: long strings that cannot be read", of '"""\\x\n', scan_toml },
  { "TOML, scanned: open strings", of "a = '''\nb = \"\"\"\n", scan_toml },
  { "TOML, scanned: strings that end elsewhere", of "a = '''x\\\"\"\"\nb = \"\"\"\\'''\n", scan_toml },
  { "TOML, scanned: one line", of("{{a}} ", "", "\n"), scan_toml },
  { "TOML, scanned: quotes", of "a = \"\"\" '''\n", scan_toml },
  { "JSON, scanned: open braces", of "{ ", state_of_json },
  { "JSON, scanned: open tags", of "{{ ", state_of_json },
  { "JSON, scanned: tags", of "{{a}}", state_of_json },
  { "JSON, scanned: raw tags without an end", of "{{{a}} ", state_of_json },
  { "JSON, scanned: backslashes", of("\\", '{"a": "'), state_of_json },
  { "JSON, parsed: open brackets", of "[", function(text) return core.json_decode(text) end },
  { "JSON, parsed: many values", of("1,", "[", "1]"), function(text) return core.json_decode(text) end },
  { "a manifest of blanks", of(" ", "", "x"), format_of },
  { "a template: long comments without an end", of "{{!--}}", render },
  { "a template: comments without an end", of "{{!", render },
  { "a template: a fault at the end of a long line", of("x", "", "{{"), render },
  { "a template: blanks before blocks", of("     ", "x", "\n{{#if a}}\n{{/if}}"), render },
  { "a template: blanks in lines", of "   \n  x", render },
  { "a template: blanks within a line, and a block on the next", of(" ", "x", "y\n {{#if a}}\n{{/if}}"), render },
  { "a template: blanks between blocks", of "{{#if a}}\n   \n{{/if}}\n", render },
  { "a template: tags", of "{{a}}", render },
  { "a template: open tags", of "{{a ", render },
  { "a template: a long path", of("a.", "{{", "a}}"), render },
  { "a template: many arguments", of('"x" ', "{{default a ", "}}"), render },
  { "a template: quotes", of('"', "{{a "), render },
  { "a template: open blocks", of "{{#if a}}", render },
  { "a template: else after else", of("{{else if b}}", "{{#if b}}", "{{/if}}"), render },
  { "a state: secrets", of('{"$ref":"x"},', "[", "1]"), fill_in },
  { "a state: a secret deep within", function(bytes)
    return ("["):rep(120) .. '{"$ref":"x"},"' .. ("x"):rep(bytes) .. '"' .. ("]"):rep(120)
  end, fill_in },
  { "a state: a long text deep within", nested("[", "]", 120), fill_in },
  { "an export: a label of blanks", export_with_blanks, import },
  { "a lockfile: a long line", of("a=", "theaterref lockfile 1\n"), read_lockfile },
  { "a lockfile: blanks", of(" ", "theaterref lockfile 1\na=1", "x"), read_lockfile },
  { "a list's next page: open links", of "<", links.next },
  { "a list's next page: links without relations", of "<a>", links.next },
  { "a list's next page: open parameters", of('";', '<a>;rel="'), links.next },
  { "a list's next page: blanks", of(" ", "<a>", "<"), links.next },
  { "a list's next page: relations", of(";rel", "<a>"), links.next },
  { "a list's next page: backslashes", of("\\", '<a>;rel="'), links.next },
  { "signatures: a long word", of "a", check_signatures },
  { "signatures: words", of "a ", check_signatures },
  { "signatures: digits", of("0", "bundle "), check_signatures },
  { "signatures: a long one", of("=", "signature a"), check_signatures },
  { "a message: data URLs without data", of "data:", errors.redact },
  { "a message: headers of data URLs", of "data:,", errors.redact },
  { "a message: logins without a host", of "http:x:y/", errors.redact },
  { "a message: schemes", of "a:/b:", errors.redact },
  { "a reference: logins without a host", of "/http:x:y", errors.redact_reference },
  { "a reference: slashes", of "/", errors.redact_reference },
  { "a message's position", of "\n", function(text) return errors.position(text, #text) end },
}

return M
