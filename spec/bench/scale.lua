-- Scale: what grows with the number of processes, items, objects and clients, and what must not.
-- Operations and wakes are counted, not only time.  BENCH_ONLY chooses.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"
local usage = require "usage"

local report, now = lib.report, lib.now

-- Runs body(i) in n processes, which begin together; what they used, summed, and the seconds
-- until all had finished.
local function together(n, body)
  local gate, out, ps = mp.Barrier(n + 1), mp.Queue(), {}
  for i = 1, n do
    ps[i] = mp.Process(function()
      gate:wait()
      local before = usage.of()
      body(i)
      out:put(usage.since(before, usage.of()))
    end)
    ps[i]:start()
  end
  gate:wait()
  local start, sum = now(), { cpu = 0, switches = 0 }
  return function() -- waits for them
    for _ = 1, n do
      local used = out:get()
      sum.cpu, sum.switches = sum.cpu + used.cpu, sum.switches + used.switches
    end
    local spent = now() - start
    for _, p in ipairs(ps) do p:join() end
    gate:close()
    return sum, spent
  end
end

-- Queues: 1 to 64 processes -------------------------------------------------------------------------

local ITEMS = 128000

-- Each process puts an item and gets one: the queue is never empty for long.
local function pairs_of(n)
  local q <close> = mp.Queue()
  local used, spent = together(n, function()
    for i = 1, ITEMS // n do
      q:put(i)
      q:get()
    end
  end)()
  return used, spent
end

-- n producers, and this process gets.
local function producers(n)
  local q <close> = mp.Queue()
  local before = usage.of()
  local wait = together(n, function()
    for i = 1, ITEMS // n do q:put(i) end
  end)
  for _ = 1, ITEMS // n * n do q:get() end
  local used, spent = wait()
  local own = usage.since(before, usage.of())
  return { cpu = used.cpu + own.cpu, switches = used.switches + own.switches }, spent
end

local function growth(what, run)
  local metric, one = "scale." .. what, nil
  if not lib.wanted(metric) then return end
  for _, n in ipairs { 1, 2, 4, 8, 16, 32, 64 } do
    local used, spent = run(n)
    one = one or used.cpu
    report(("%s.%d.time"):format(metric, n), spent / ITEMS * 1e6, "us/item")
    report(("%s.%d.cpu"):format(metric, n), used.cpu / ITEMS * 1e6, "us/item")
    report(("%s.%d.switches"):format(metric, n), used.switches / ITEMS, "x/item")
    if n > 1 then report(("%s.%d.cpu_by_1"):format(metric, n), used.cpu / one, "x") end
  end
end

growth("put_get", pairs_of)
growth("producers", producers)

-- n processes sleep in get; items come one at a time: one of them is to be woken for each.
for _, n in ipairs { 1, 4, 16, 64 } do
  local metric = ("scale.sleepers.%d"):format(n)
  if lib.wanted(metric) then
    local q <close> = mp.Queue()
    local items = 500
    local wait = together(n, function()
      while q:get() do end
    end)
    mp.sleep(0.2)
    for i = 1, items do
      q:put(i)
      mp.sleep(0.001)
    end
    q:shutdown()
    local used = wait()
    -- each falls asleep once more than it was woken for an item, and the end wakes it again
    report(metric .. ".switches", math.max(0, used.switches - n) / items, "x/item")
    report(metric .. ".cpu", used.cpu / items * 1e6, "us/item")
  end
end

-- Ten million records ---------------------------------------------------------------------------------

if lib.wanted "scale.records" then
  local record = { id = 7, name = "item-000007", values = { 1, 2, 3, 4, 5, 6, 7, 8 } }
  local payload = #mp.marshal.encode(record)
  local before = mp.arena()
  local most = 10000000
  -- what the shared memory of this machine has room for, if that is less
  most = math.min(most, before.cap // (payload + 64) // 1000000 * 1000000)
  report("scale.records.count", most, "records")
  local q <close> = mp.Queue()
  local n = 0
  for _, part in ipairs { 10, 2, 1 } do
    local start, first = now(), n
    for i = n + 1, most // part do
      record.id = i
      q:put(record)
    end
    n = most // part
    local used = mp.arena().used - before.used
    report(("scale.records.above_payload.%d%%"):format(100 // part), used / n - payload, "B/record")
    report(("scale.records.put.%d%%"):format(100 // part), (now() - start) / (n - first) * 1e9, "ns/record")
  end
  report("scale.records.resident", (mp.arena().resident - before.resident) / n, "B/record")
  local start = now()
  for _ = 1, n do q:get() end
  report("scale.records.get", (now() - start) / n * 1e9, "ns/record")
  report("scale.records.left", mp.arena().used - before.used, "bytes")
end

-- A pool of 200 ---------------------------------------------------------------------------------------

if lib.wanted "scale.pool200" then
  local numbers = {}
  for i = 1, 10000 do numbers[i] = i end
  local start = now()
  local pool = mp.Pool(200)
  report("scale.pool200.start", (now() - start) * 1e3, "ms")
  start = now()
  pool:map(function(x) return x * x end, numbers, { chunksize = 1 })
  report("scale.pool200.map", (now() - start) / #numbers * 1e6, "us/task")
  start = now()
  pool:terminate()
  pool:join()
  report("scale.pool200.terminate", (now() - start) * 1e3, "ms")
end

-- Many objects ----------------------------------------------------------------------------------------

if lib.wanted "scale.objects" then
  collectgarbage()
  local before = mp.arena()
  local start, kept = now(), {}
  for i = 1, 100000 do kept[i] = mp.Value("i", i) end
  report("scale.objects.make", now() - start, "s")
  report("scale.objects.size", (mp.arena().used - before.used) / #kept, "B/object")
  start, kept = now(), nil
  collectgarbage()
  collectgarbage()
  report("scale.objects.collect", now() - start, "s")
  report("scale.objects.left", mp.arena().objects - before.objects + (kept and 1 or 0), "objects")
end

-- A manager with 300 clients -----------------------------------------------------------------------------

-- Calls a second of all clients, CPU seconds of a call (theirs and the server's), and how many
-- times quicker the quickest client was than the slowest.
local function clients(n, calls)
  local manager <close> = mp.Manager()
  local pid = tonumber(tostring(manager):match "pid (%d+)")
  local d = manager:dict { k = 1 }
  local rates = mp.Queue()
  local before = usage.of(pid)
  local used, spent = together(n, function()
    local start = now()
    for _ = 1, calls do local _ = d.k end
    rates:put(calls / (now() - start))
  end)()
  local served = usage.since(before, usage.of(pid))
  local low, high = math.huge, 0
  for rate in function() return rates:get(0) end do low, high = math.min(low, rate), math.max(high, rate) end
  return n * calls / spent, (used.cpu + served.cpu) / (n * calls), high / low
end

if lib.wanted "scale.manager" then
  local few, few_cpu = clients(4, 15000)
  local many, many_cpu, unfair = clients(300, 200)
  report("scale.manager.4clients", few, "op/s")
  report("scale.manager.300clients", many, "op/s")
  report("scale.manager.4clients.cpu", few_cpu * 1e6, "us/op")
  report("scale.manager.300clients.cpu", many_cpu * 1e6, "us/op")
  report("scale.manager.300_by_4", many / few, "x")
  report("scale.manager.300clients.quickest_by_slowest", unfair, "x")
end
