-- What a process has used: CPU seconds, and how often it went to sleep.
local usage = {}

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

-- The kernel's account of another process: in nanoseconds, and complete while it sleeps; in ticks
-- of 10 ms where there is none.
local function cpu_of(pid)
  local ok, times = pcall(read, ("/proc/%d/schedstat"):format(pid))
  local ns = ok and tonumber(times:match "^%d+")
  if ns and ns > 0 then return ns * 1e-9 end
  local fields = {} -- from the third on: the name before it may have blanks
  for field in read(("/proc/%d/stat"):format(pid)):match("%) (.*)"):gmatch "%S+" do fields[#fields + 1] = field end
  return (fields[12] + fields[13]) / 100
end

--- What process `pid` (nil: this one) has used so far.
-- @return `cpu` (seconds), `switches` (voluntary ones)
function usage.of(pid)
  local status = read(("/proc/%s/status"):format(pid or "self"))
  return {
    cpu = pid and cpu_of(pid) or os.clock(),
    switches = tonumber(status:match "\nvoluntary_ctxt_switches:%s*(%d+)"),
  }
end

function usage.since(before, after)
  return { cpu = after.cpu - before.cpu, switches = after.switches - before.switches }
end

return usage
