-- W7: locks alone and contended; wake-up through Event and Condition.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local function hammer(lock, gate, out)
  gate:wait()
  local n, start, now = 0, lib.now(), lib.now
  repeat
    for _ = 1, 256 do
      lock:acquire()
      lock:release()
    end
    n = n + 256
  until now() - start >= lib.SECS
  out:put(n / (now() - start))
end

local function lock_rate(make, procs)
  local lock, gate, out = make(), mp.Barrier(procs), mp.Queue()
  local ps, total = {}, 0
  for i = 1, procs do
    ps[i] = mp.Process(hammer, lock, gate, out)
    ps[i]:start()
  end
  for _ = 1, procs do total = total + out:get() end
  for _, p in ipairs(ps) do p:join() end
  return total
end

for _, kind in ipairs { "Lock", "RLock", "Semaphore" } do
  for procs = 1, 2 do
    local metric = ("w7.%s.%dproc"):format(kind:lower(), procs)
    if lib.wanted(metric) then lib.report(metric, lock_rate(mp[kind], procs), "op/s") end
  end
end

if lib.wanted "w7.event" then
  local a, b, stop = mp.Event(), mp.Event(), mp.RawValue("i", 0)
  local p = mp.Process(function()
    while stop.value == 0 do
      a:wait()
      a:clear()
      b:set()
    end
  end)
  p:start()
  lib.report("w7.event_pingpong", lib.per_op(function()
    a:set()
    b:wait()
    b:clear()
  end, 8) * 1e6, "us/rtt")
  stop.value = 1
  a:set()
  p:join()
end

if lib.wanted "w7.condition" then
  local cond, turn = mp.Condition(), mp.RawValue("i", 0)
  local p = mp.Process(function()
    while true do
      cond:acquire()
      while turn.value == 0 do cond:wait() end
      local last = turn.value < 0
      turn.value = 0
      cond:notify()
      cond:release()
      if last then return end
    end
  end)
  p:start()
  lib.report("w7.condition_pingpong", lib.per_op(function()
    cond:acquire()
    turn.value = 1
    cond:notify()
    while turn.value == 1 do cond:wait() end
    cond:release()
  end, 8) * 1e6, "us/rtt")
  cond:acquire()
  turn.value = -1
  cond:notify()
  cond:release()
  p:join()
end
