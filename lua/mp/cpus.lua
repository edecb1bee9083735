--- How many processors this process may use.
-- @module cpus

local check = require "mp.check"
local core = require "mp.core"

local function read(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- Processors' worth of time that one control group has, or nil.
local function quota_v2(dir)
  local quota, period = (read(dir .. "/cpu.max") or ""):match("^(%d+) (%d+)")
  return quota and tonumber(period) > 0 and quota / period
end

local function quota_v1(dir)
  local quota = tonumber(read(dir .. "/cpu.cfs_quota_us"))
  local period = tonumber(read(dir .. "/cpu.cfs_period_us"))
  return quota and period and quota > 0 and period > 0 and quota / period
end

-- The least quota from a group up to the root of its hierarchy. In a container the
-- group's path may be the host's, so that only the root is found.
local function least(mount, path, quota)
  local found
  while true do
    local q = quota(mount .. path)
    if q and (not found or q < found) then found = q end
    if path == "" then return found end
    path = path:match("^(.*)/[^/]*$") or ""
  end
end

local function cgroup_quota()
  local found
  for line in (read("/proc/self/cgroup") or ""):gmatch("[^\n]+") do
    local controllers, path = line:match("^%d+:([^:]*):(.*)$")
    path = path and path:gsub("/+$", "")
    local q
    if controllers == "" then
      q = least("/sys/fs/cgroup", path, quota_v2) or least("/sys/fs/cgroup/unified", path, quota_v2)
    elseif controllers and ("," .. controllers .. ","):find(",cpu,", 1, true) then
      q = least("/sys/fs/cgroup/" .. controllers, path, quota_v1)
        or least("/sys/fs/cgroup/cpu", path, quota_v1)
    end
    if q and (not found or q < found) then found = q end
  end
  return found
end

--- How many processors this process may use. These are those of its affinity, or fewer when a
-- control group grants less time; the environment variable MPLUA_CPUS overrides.
-- @function mp.cpu_count
-- @treturn integer at least 1
-- @raise when MPLUA_CPUS is no positive integer
-- @python `os.process_cpu_count`, which knows no control groups
local function cpu_count()
  local set = os.getenv("MPLUA_CPUS")
  if set and set ~= "" then
    local n = math.tointeger(tonumber(set))
    if not n or n < 1 then
      check.raise("the environment variable MPLUA_CPUS must be a positive integer, not '%s'", set)
    end
    return n
  end
  local n = core.cpus() or 1
  local quota = cgroup_quota()
  return math.max(1, quota and math.min(n, math.ceil(quota)) or n)
end

return cpu_count
