-- No cliffs: the figures of W2 and W3 where circumstances are bad, each beside what it is without
-- them; and what those burn who only wait.  BENCH_ONLY chooses.
local here = arg[0]:match "^(.*)/" or "."
package.path = here .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"
local usage = require "usage"

local report, now = lib.report, lib.now

-- On one processor; with a parent of 500 MB; items of 1 MiB --------------------------------------------

local i = 0
while arg[i - 1] do i = i - 1 end
local mplua = arg[i]

-- What the programs of W2 and W3 print: metric -> { value, unit }.
local function measure(place)
  local found = {}
  for _, program in ipairs { "w2_pingpong.lua", "w3_queue.lua" } do
    local pipe = assert(io.popen(("BENCH_ONLY= timeout -k 5 200 %s '%s' '%s/%s'"):format(place, mplua, here, program)))
    for line in pipe:lines() do
      local metric, value, unit = line:match "^(%S+)\t(%S+)\t(%S+)$"
      if metric then found[metric] = { value = tonumber(value), unit = unit } end
    end
    if not pipe:close() then error(("%s fails under '%s'"):format(program, place), 0) end
  end
  return found
end

local function as_good(a, b) return a.unit:find "^us" and b.value / a.value or a.value / b.value end

local function compare(name, usual, bad)
  for metric, found in pairs(bad) do
    if not metric:find "%.bw$" then
      report(("cliff.%s.%s"):format(name, metric), found.value, found.unit)
      report(("cliff.%s.%s.of_usual"):format(name, metric), as_good(found, usual[metric]), "x")
    end
  end
end

local one_cpu, parent, mebi = lib.wanted "cliff.one_cpu", lib.wanted "cliff.500MB", lib.wanted "cliff.1MiB"
if one_cpu or parent or mebi then
  local usual = measure ""
  if one_cpu then compare("one_cpu", usual, measure("taskset -c " .. lib.first_cpu())) end
  if parent then compare("500MB", usual, measure "env BENCH_BALLAST=500") end
  for _, kind in ipairs(mebi and { "queue", "pipe" } or {}) do
    local one_way = usual[("w3.%s.1to1.str64k.bw"):format(kind)]
    local large_way = usual[("w3.%s.1to1.str1m.bw"):format(kind)]
    report(("cliff.1MiB.w3.%s.of_64KiB"):format(kind), as_good(large_way, one_way), "x")
    local both_ways = 2 * 1.048576e6 / usual[("w2.%s.str1m"):format(kind)].value -- MB/s
    report(("cliff.1MiB.w2.%s.of_64KiB"):format(kind), both_ways / one_way.value, "x")
  end
end

-- A parent of 500 MB that collects its garbage while a child lives ------------------------------------------

if lib.wanted "cliff.collection" then
  lib.hold(500)
  local function start_join()
    return lib.per_op(function()
      local p = mp.Process(function() end)
      p:start()
      p:join()
    end) * 1e3
  end
  local function collection()
    local start = now()
    collectgarbage()
    return (now() - start) * 1e3
  end
  local usual, usual_start = collection(), start_join()
  local child = mp.Process(mp.sleep, 1000)
  child:start()
  local beside = collection()
  child:kill()
  child:join()
  local start_after = start_join()
  lib.ballast = nil
  collectgarbage()
  report("cliff.collection.usual", usual, "ms")
  report("cliff.collection.beside_a_child", beside, "ms")
  report("cliff.collection.of_usual", usual / beside, "x")
  report("cliff.collection.start_join.before", usual_start, "ms")
  report("cliff.collection.start_join.after", start_after, "ms")
  report("cliff.collection.start_join.of_usual", usual_start / start_after, "x")
end

-- A consumer that is slow --------------------------------------------------------------------------------

-- What a producer uses an item while one who takes an item a millisecond is at the other end.
local function slow(metric, items, put, get)
  if not lib.wanted(metric) then return end
  local up = mp.Event()
  local p = mp.Process(function()
    up:set()
    while get() do mp.sleep(0.001) end
  end)
  p:start()
  up:wait()
  local before, start = usage.of(), now()
  for n = 1, items do put(n) end
  local used, spent = usage.since(before, usage.of()), now() - start
  report(metric .. ".time", spent / items * 1e6, "us/item")
  report(metric .. ".cpu", used.cpu / items * 1e6, "us/item")
  report(metric .. ".switches", used.switches / items, "x/item")
  p:kill()
  p:join()
end

do
  local endless <close> = mp.Queue()
  local short <close> = mp.Queue(10)
  local r, w = mp.Pipe(false)
  local large = ("x"):rep(65536)
  slow("cliff.slow_consumer.queue", 200000, function(n) endless:put(n) end, function() return endless:get() end)
  slow("cliff.slow_consumer.full_queue", 500, function(n) short:put(n) end, function() return short:get() end)
  slow("cliff.slow_consumer.full_pipe", 500, function() w:send(large) end, function() return r:recv() end)
  r:close()
  w:close()
end

-- Producers that are killed --------------------------------------------------------------------------------

-- Items a second from two producers, and the longest time without one; either is killed again and
-- again, after `life` seconds, when there is one.
local function produced(life)
  local q <close> = mp.Queue()
  local function produce()
    for n = 1, math.huge do q:put(n) end
  end
  local function keep_one()
    while true do
      local p = mp.Process(produce)
      p:start()
      mp.sleep(life or 1000)
      p:kill()
      p:join()
    end
  end
  local keepers = { mp.Process(keep_one), mp.Process(keep_one) }
  for _, p in ipairs(keepers) do p:start() end
  q:get()
  local n, start, longest = 0, now(), 0
  local last, stop = start, start + 4 * lib.SECS
  while last < stop do
    if not q:get(10) then error "nothing comes any more" end
    n = n + 1
    local t = now()
    if t - last > longest then longest = t - last end
    last = t
  end
  for _, p in ipairs(keepers) do
    p:kill()
    p:join()
  end
  return n / (last - start), longest
end

if lib.wanted "cliff.killed_producer" then
  local usual, usual_longest = produced()
  local rate, longest = produced(0.02)
  report("cliff.killed_producer.rate", rate, "msg/s")
  report("cliff.killed_producer.of_usual", rate / usual, "x")
  report("cliff.killed_producer.longest_gap", longest * 1e3, "ms")
  report("cliff.killed_producer.longest_gap.usual", usual_longest * 1e3, "ms")
end

-- Who only waits ---------------------------------------------------------------------------------------------

local function idle(seconds)
  local q, full, lock, rlock, semaphore = mp.Queue(), mp.Queue(1), mp.Lock(), mp.RLock(), mp.Semaphore(0)
  local event, condition, barrier = mp.Event(), mp.Condition(), mp.Barrier(2)
  local r, w = mp.Pipe(false)
  local listener <close> = mp.Listener()
  local manager <close> = mp.Manager()
  local pool <close> = mp.Pool(1)
  local served = { queue = manager:Queue(), event = manager:Event() }
  full:put(1)
  lock:acquire()
  rlock:acquire()
  local sleeper = mp.Process(mp.sleep, 1000)
  sleeper:start()
  local waits = {
    ["queue.get"] = function() q:get() end,
    ["queue.put"] = function() full:put(2) end,
    ["pipe.recv"] = function() r:recv() end,
    ["lock.acquire"] = function() lock:acquire() end,
    ["rlock.acquire"] = function() rlock:acquire() end,
    ["semaphore.acquire"] = function() semaphore:acquire() end,
    ["event.wait"] = function() event:wait() end,
    ["condition.wait"] = function() condition:with(function() condition:wait() end) end,
    ["barrier.wait"] = function() barrier:wait() end,
    ["mp.wait"] = function() mp.wait { q, r } end,
    ["listener.accept"] = function() listener:accept() end,
    ["process.join"] = function()
      local p = mp.Process(mp.sleep, 1000)
      p:start()
      p:join()
    end,
    ["manager.queue.get"] = function() served.queue:get() end,
    ["manager.event.wait"] = function() served.event:wait() end,
  }
  local pids, ps = {}, { sleeper }
  for name, wait in pairs(waits) do
    local p = mp.Process { target = wait, daemon = true }
    p:start()
    ps[#ps + 1], pids[name] = p, p.pid
  end
  pids.manager_server = tonumber(tostring(manager):match "pid (%d+)")
  pids.pool_worker = pool:apply(mp.getpid)
  mp.sleep(1) -- until all are asleep
  local before = {}
  for name, pid in pairs(pids) do before[name] = usage.of(pid) end
  mp.sleep(seconds)
  for name, pid in pairs(pids) do
    local used = usage.since(before[name], usage.of(pid))
    report("cliff.idle." .. name, used.cpu * 1e3, "ms")
    report(("cliff.idle.%s.switches"):format(name), used.switches, "x")
  end
  for _, p in ipairs(ps) do
    p:kill()
    p:join()
  end
  w:close()
end

if lib.wanted "cliff.idle" then idle(10) end
