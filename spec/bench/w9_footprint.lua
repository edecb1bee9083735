-- W9: memory of idle children, and the time that the command takes to start.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local function smaps(pid, field)
  for line in io.lines(("/proc/%d/smaps_rollup"):format(pid)) do
    local kb = line:match("^" .. field .. ":%s*(%d+)")
    if kb then return tonumber(kb) end
  end
  return -1
end

local function emit(tag, pids)
  for short, field in pairs { pss = "Pss", rss = "Rss", private_dirty = "Private_Dirty" } do
    local sum = 0
    for _, pid in ipairs(pids) do sum = sum + smaps(pid, field) end
    lib.report(("w9.%s.%s"):format(tag, short), sum / #pids, "KiB")
  end
end

if lib.wanted "w9.child" then
  local ps, pids, up = {}, {}, mp.Queue()
  for i = 1, 8 do
    ps[i] = mp.Process(function()
      up:put(true)
      mp.sleep(60)
    end)
    ps[i]:start()
    pids[i] = ps[i].pid
  end
  for _ = 1, 8 do up:get() end
  emit("child8", pids)
  for _, p in ipairs(ps) do
    p:kill()
    p:join()
  end
end

if lib.wanted "w9.pool" then
  local pool <close> = mp.Pool(2)
  local gate, list = mp.Barrier(2), {}
  for i = 1, 100 do list[i] = i end
  pool:map(function(x) return x * x end, list)
  emit("pool_worker2", pool:map(function()
    gate:wait()
    return mp.getpid()
  end, { 1, 2 }, { chunksize = 1 }))
end

if lib.wanted "w9.manager" then
  local manager <close> = mp.Manager()
  local d = manager:dict { a = 1 }
  d.b = 2
  emit("manager_server", { tonumber(tostring(manager):match "pid (%d+)") })
end

-- Twenty starts by one shell at a time; the median of such times.  lua5.4 beside it, the same way.
local function startup(name, command)
  local metric = "w9.startup." .. name
  if not lib.wanted(metric) or not os.execute(command .. " >/dev/null 2>&1") then return end
  local script = ("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do %s; done"):format(command)
  local times, limit = {}, lib.now() + lib.SECS
  repeat
    local start = lib.now()
    os.execute(script)
    times[#times + 1] = (lib.now() - start) / 20
  until lib.now() >= limit and #times >= 5
  table.sort(times)
  lib.report(metric, times[(#times + 1) // 2] * 1e3, "ms")
end

local i = 0
while arg[i - 1] do i = i - 1 end
startup("mplua", ("'%s' -e ''"):format(arg[i]))
startup("lua5.4", "lua5.4 -e ''")
