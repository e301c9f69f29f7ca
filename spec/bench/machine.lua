-- The machine that the benchmarks ran on: for the tables that are kept.
local core = require "theaterref.core"

local function output(command)
  local pipe = io.popen(command .. " 2>/dev/null")
  local text = pipe:read "a"
  pipe:close()
  return (text:gsub("%s+$", ""))
end

local model = "unknown"
for line in io.lines "/proc/cpuinfo" do model = line:match "^model name%s*: (.+)" or model end

for _, fact in ipairs {
  { "theaterref", core.version .. ", commit " .. output "git describe --always --dirty" },
  { "date", output "date -u +%Y-%m-%d" },
  { "processor", model .. ", " .. output "nproc" .. " cores, " .. output "uname -m" },
  { "memory", output "awk '/MemTotal/ { printf \"%d MiB\", $2 / 1024 }' /proc/meminfo" },
  { "kernel", output "uname -sr" },
  { "system", output ". /etc/os-release && echo $PRETTY_NAME" },
  { "compiler", output "${CC:-cc} --version | head -1" },
  { "libraries", output "lua5.4 -v | cut -d' ' -f1,2" .. "; " .. core.curl() .. "; digests by " .. core.digest_library() },
  { "load before", output "cut -d' ' -f1-3 /proc/loadavg" },
} do print(("%-12s %s"):format(fact[1], fact[2])) end
