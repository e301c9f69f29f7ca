--- The man page, theaterref(1), made from the same tables as the command line.
-- `make install` writes it:
--
--     lua5.4 -e 'io.write(require("theaterref.cli.manual").page())'
--
-- @module theaterref.cli.manual
local command_line = require "theaterref.cli.command_line"
local commands = require("theaterref.cli").commands
local theaterref = require "theaterref"

local M = {}

local opening = [[
.SH NAME
theaterref \- references to bytes, and manifests to spawn plans
.SH SYNOPSIS
.B theaterref
.I command
.RI [ options ]
.RI [ arguments ]
.SH DESCRIPTION
.B theaterref
turns a reference into bytes, and the manifest of an actor into everything that
a spawn needs: its package, its initial state, its name.
A reference is a file path,
.IR store://<id>/<label> ,
.IR store://<id>/hash/<hash> ,
.IR http://\[u2026] ,
.IR https://\[u2026] ,
.IR data:[<type>],<text> ,
or
.I <scheme>://\[u2026]
of a scheme that the policy defines;
.I #sha256=<hex>
after a URL is the digest that its bytes must have.
A policy decides what references mean, and which may be used: a Lua script, given
with
.B \-\-policy
or in the configuration.
.PP
Data goes to standard output, everything else to standard error.
On a terminal, the output has progress bars and colours.
]]

local closing = [[
.SH EXIT STATUS
.TP
.B 0
Success.
.TP
.B 1
Failure; standard error explains it.
.TP
.B 2
Usage error.
.TP
.B 130
Interrupted by Ctrl-C.
.SH ENVIRONMENT
.TP
.B THEATER_HOME
Theater home. Stores are in
.IR $THEATER_HOME/store/<id> .
Default:
.IR ~/.theater .
.TP
.B THEATERREF_CONFIG
The configuration file; if it is empty, there is none.
.TP
.B THEATERREF_LOG
Which messages are logged to standard error:
.BR debug ,
.BR info ,
.B warn
(the default),
.B error
or
.BR off .
.TP
.B SSL_CERT_FILE
PEM file of the certificate authorities to trust, where none is given.
.TP
.BR https_proxy ", " http_proxy ", " all_proxy ", " no_proxy
Proxies, as in curl.
.TP
.B NO_COLOR
If it is set, the output has no colours.
.SH FILES
.TP
.I ~/.config/theaterref/theaterref.conf.lua
The configuration; if it does not exist,
.IR /etc/theaterref/theaterref.conf.lua .
.B theaterref config \-\-example
prints a file with every option.
.SH SEE ALSO
.BR curl (1),
.BR lua5.4 (1)
]]

-- Return text escaped for roff.
local function roff(text)
  return (text:gsub("\\", "\\e"):gsub("-", "\\-"):gsub("…", "\\[u2026]"):gsub("^([.'])", "\\&%1"):gsub("\n([.'])", "\n\\&%1"))
end

local function option_entry(option)
  local names, value, what = table.unpack(option, 1, 3)
  local parts = {}
  for name in names:gmatch "%S+" do
    parts[#parts + 1] = "\\fB" .. roff(name) .. "\\fR" .. (value and " \\fI" .. roff(value) .. "\\fR" or "")
  end
  if option.default then what = what .. " Default: " .. option.default .. "." end
  return ".TP\n" .. table.concat(parts, ", ") .. "\n" .. roff(what) .. "\n"
end

local function options(list)
  local entries = {}
  for i, option in ipairs(list) do entries[i] = option_entry(option) end
  return table.concat(entries)
end

local function command_entry(command, words)
  local usage = { "\\fB" .. roff(words) .. "\\fR" }
  if command.options then usage[2] = "[\\fIoptions\\fR]" end
  for _, argument in ipairs(command.arguments or {}) do
    local name = "\\fI" .. argument[1] .. "\\fR"
    if argument.optional then name = "[" .. name .. "]" elseif argument.many then name = name .. "\\[u2026]" end
    usage[#usage + 1] = name
  end
  local parts = { ".SS " .. table.concat(usage, " ") .. "\n" .. roff(command.does) .. "\n" }
  for _, argument in ipairs(command.arguments or {}) do
    parts[#parts + 1] = ".TP\n\\fI" .. argument[1] .. "\\fR\n" .. roff(argument[2]) .. "\n"
  end
  parts[#parts + 1] = options(command.options or {})
  for _, example in ipairs(command.examples) do parts[#parts + 1] = ".PP\n.EX\n    " .. roff(example) .. "\n.EE\n" end
  return table.concat(parts)
end

local function command_entries(list, before)
  local entries = {}
  for i, command in ipairs(list) do
    local words = before .. command.name
    entries[i] = command.commands and command_entries(command.commands, words .. " ") or command_entry(command, words)
  end
  return table.concat(entries)
end

--- The page.
-- @treturn string roff
function M.page()
  return table.concat { '.TH THEATERREF 1 "" "theaterref ', theaterref._VERSION, '" "User commands"\n', opening,
    ".SH COMMANDS\n", command_entries(commands, ""),
    ".SS \\fBcompletion\\fR \\fIshell\\fR\nPrint a completion script for bash, zsh or fish.\n",
    ".SH OPTIONS OF EVERY COMMAND\n", options(command_line.common),
    ".SH OPTIONS OF COMMANDS THAT WORK ON STORES OR FETCH\n", options(command_line.for_home),
    ".SH OPTIONS OF COMMANDS THAT FETCH\n", options(command_line.for_fetches),
    ".SH OPTIONS OF COMMANDS THAT FETCH, EXCEPT LOCK\n", options(command_line.for_lockfiles), closing }
end

return M
