-- What the figures are to reach.  A row: the metric, the unit it is shown in, and
--   most = n or least = n   the goal as a figure, in that unit, of the machine it was set on;
--   times = n               how many times better than CPython it is to be, in the same run;
--   of_limit = n            how many times worse than the limit program it may be, in the same run;
--   python, limit           the peers' metrics, when not of the same name (of several the sum counts),
--   per = n                 of which one of the limit's operations is worth n (bytes of a message).
-- Where ratios are given and the peer was measured they decide, else the figure does.
-- A ratio without one of its own in the project's goals is the CPython or limit figure by the goal.
local rows = {}

local function row(metric, unit, goal)
  goal.metric, goal.unit = metric, unit
  rows[#rows + 1] = goal
end

-- W1: start and join of a process
row("w1.start_join.fork.small", "us", { most = 200, times = 6, limit = "spawn.fork.small.total", of_limit = 1.65 })
row("w1.start_join.fork.500MB", "ms", { most = 1, times = 9, limit = "spawn.fork.500MB_huge.total" })

-- W2: round trips
local yields = "pingpong.futex_spin20_yield200."
row("w2.queue", "us", { most = 2, times = 55, limit = yields .. "free" })
row("w2.queue.cpu0", "us", { most = 4, times = 5.4, limit = yields .. "same_cpu" })
row("w2.pipe", "us", { most = 6, times = 12, limit = "pingpong.pipe_yield200.free" })
row("w2.pipe.cpu0", "us", { most = 5, times = 2.3, limit = "pingpong.pipe_yield200.same_cpu" })
for _, call in ipairs { "get", "recv" } do
  row("w2.blocked_" .. call .. "_cpu", "us", { most = 60 })
  row("w2.blocked_" .. call .. "_cpu.busy", "us", { most = 60 })
end

-- W3: throughput
row("w3.queue.1to1.int", "M/s", { least = 5, times = 15, limit = "luaqueue.1to1_locked.int" })
row("w3.queue.1to1.str100", "M/s", { least = 5, times = 15, limit = "luaqueue.1to1_locked.str100" })
row("w3.queue.1to1.rec", "M/s", { least = 1.8, times = 5.5, limit = "luaqueue.1to1_locked.rec" })
row("w3.queue.1to1.str64k.bw", "GB/s", { least = 6, times = 10, limit = "luaqueue.1to1_locked.str64k", per = 65536 })
row("w3.queue.1to1.str1m.bw", "GB/s", { least = 4.5, times = 9, limit = "luaqueue.1to1_locked.str1m", per = 1 << 20 })
row("w3.queue.many32.int", "M/s", { least = 15, limit = "ring.spsc_batch16.free.8B", of_limit = 2.06 })
row("w3.queue.4to1.int", "M/s", { least = 4, times = 12, limit = "luaqueue.4to1.int" })
row("w3.queue.4to1.rec", "M/s", { least = 1.5, times = 6, limit = "luaqueue.4to1.rec" })
row("w3.queue.2to2.int", "M/s", { least = 3, times = 9, limit = "luaqueue.2to2.int" })
row("w3.queue.2to2.rec", "M/s", { least = 1.5, times = 4.4, limit = "luaqueue.2to2.rec" })

-- W4: pools
row("w4.map_default", "M/s", { least = 10, times = 1.3, limit = "luapool.chunk100" })
row("w4.map_chunk1", "M/s", { least = 1.5, times = 19, limit = "luapool.chunk1" })
row("w4.imap_unordered", "M/s", { least = 1, times = 13 })
row("w4.apply", "us", { most = 20, times = 14, limit = "luapool.apply" })
row("w4.scaling.speedup_2workers", "x", { least = 1.95, limit = "scale.speedup_2procs.200ms_job" })
row("w4.start_apply_terminate", "ms", { most = 1, times = 5.9 })

-- W5: managers
row("w5.dict_get.1clients", "k/s", { least = 250, times = 15, limit = "rpc.shm_slots.1clients" })
row("w5.dict_set.1clients", "k/s", { least = 250, times = 15, limit = "rpc.shm_slots.1clients" })
row("w5.dict_get.4clients", "k/s", { least = 400, times = 11, limit = "rpc.shm_slots.4clients" })
row("w5.dict_set.4clients", "k/s", { least = 400, times = 11, limit = "rpc.shm_slots.4clients" })
row("w5.start_shutdown", "ms", { most = 1, times = 4.9 })

-- W6: shared memory.  CPython has no atomic add: its locked one is what stands beside ours.
row("w6.value_incr.1proc", "M/s", { least = 14, times = 5, limit = "locks.futex_lock.1proc" })
row("w6.value_incr.2proc", "M/s", { least = 6, times = 5, limit = "locks.futex_lock.2proc" })
for procs, least in ipairs { 18, 10 } do
  row(("w6.rawvalue_incr.%dproc"):format(procs), "M/s", {
    least = least, times = 5,
    python = ("w6.value_incr.%dproc"):format(procs), limit = ("locks.atomic_fetch_add.%dproc"):format(procs),
  })
end
row("w6.rawarray.sum", "ns", { most = 25, times = 1.16, limit = "luaapi.userdata_index" })
row("w6.rawarray.fill", "ns", { most = 25, times = 1.16, limit = "luaapi.userdata_newindex" })
row("w6.array.sum", "ns", { most = 50, times = 6, limit = "luaapi.userdata_index" })
row("w6.array.fill", "ns", { most = 50, times = 6, limit = "luaapi.userdata_newindex" })
for _, kind in ipairs { "rawarray", "array" } do
  row(("w6.%s.slice_read"):format(kind), "ns", { most = 12, times = 2.2 })
  row(("w6.%s.slice_write"):format(kind), "ns", { most = 11, times = 1.2 })
end

-- W7: synchronisation
row("w7.lock.1proc", "M/s", { least = 20, times = 0.9, limit = "locks.futex_lock.1proc" })
row("w7.lock.2proc", "M/s", { least = 6, times = 1.5, limit = "locks.futex_lock.2proc" })
row("w7.event_pingpong", "us", { most = 4, times = 30, limit = yields .. "free" })
row("w7.condition_pingpong", "us", { most = 6, times = 37, limit = yields .. "free" })

-- W8: marshalling, beside pickle
local function codec(payload, unit, encode, decode, encode_times, decode_times, size)
  local function side(what, goal, times)
    row(("w8.mplua.%s.%s"):format(what, payload), unit, {
      most = goal, times = times, python = ("w8.pickle5.%s.%s"):format(what, payload),
      limit = { ("luaapi.%s.%s"):format(what, payload), "luaapi.call_c" },
    })
  end
  side("encode", encode, encode_times)
  side("decode", decode, decode_times)
  row("w8.mplua.size." .. payload, "B", { most = size, times = 1, python = "w8.pickle5.size." .. payload })
end
codec("int", "ns", 40, 30, 4.6, 3.8, 5)
codec("str100", "ns", 50, 60, 3.5, 2.5, 115)
codec("rec", "ns", 250, 320, 1.58, 1.26, 73)
codec("arr1e5", "ms", 1, 1, 0.58, 1.37, 368934)
codec("nested10k", "us", 350, 330, 1.16, 1.48, 80217)
codec("str1m", "us", 36, 52, 8.9, 1.32, 1048585)

-- W9: memory, and the start of the command
row("w9.child8.pss", "KiB", { most = 150, limit = "footprint.fork_lua.pss" })
row("w9.pool_worker2.pss", "KiB", { most = 300 })
row("w9.manager_server.pss", "KiB", { most = 400, python = "w9.manager.pss" })
row("w9.startup.mplua", "ms", {
  most = 1.3, python = "w9.startup.python3_multiprocessing", limit = "w9.startup.lua5.4", of_limit = 1.18,
})

-- Scale.  Bounds of ours, with room for a busy machine: growth is what they are to show.
for _, what in ipairs { "put_get", "producers" } do
  for _, n in ipairs { 2, 4, 8, 16, 32, 64 } do
    row(("scale.%s.%d.cpu_by_1"):format(what, n), "x", { most = 3 })
    row(("scale.%s.%d.switches"):format(what, n), "x", { most = 0.1 })
  end
end
for _, n in ipairs { 1, 4, 16, 64 } do row(("scale.sleepers.%d.switches"):format(n), "x", { most = 1.5 }) end
for _, part in ipairs { 10, 50, 100 } do
  row(("scale.records.above_payload.%d%%"):format(part), "B", { most = 16 })
end
row("scale.records.left", "B", { most = 1 << 20 })
row("scale.pool200.start", "ms", { most = 100 })
row("scale.pool200.map", "us", { most = 20 })
row("scale.pool200.terminate", "ms", { most = 200 })
row("scale.objects.make", "s", { most = 1 })
row("scale.objects.collect", "s", { most = 1 })
row("scale.objects.left", "x", { most = 0 })
row("scale.manager.300_by_4", "x", { least = 0.3 })
row("scale.manager.300clients.quickest_by_slowest", "x", { most = 3 })

-- No cliffs.  What two processors do at once takes one of them twice as long.
local circumstances = { one_cpu = 0.4, ["500MB"] = 0.6 }
for _, name in ipairs { "one_cpu", "500MB" } do
  for _, metric in ipairs {
    "w2.queue", "w2.pipe", "w2.queue.str1m", "w2.pipe.str1m", "w3.queue.many32.int",
    "w3.queue.1to1.int", "w3.queue.1to1.str100", "w3.queue.1to1.rec", "w3.queue.1to1.str64k",
    "w3.queue.1to1.str1m", "w3.queue.4to1.int", "w3.queue.4to1.rec", "w3.queue.2to2.int",
    "w3.queue.2to2.rec", "w3.pipe.1to1.int", "w3.pipe.1to1.str1m",
  } do
    -- the yields that a round trip takes on one processor: goals of W2
    local least = name == "one_cpu" and metric == "w2.queue" and 0.15 or circumstances[name]
    row(("cliff.%s.%s.of_usual"):format(name, metric), "x", { least = least })
  end
end
for _, kind in ipairs { "queue", "pipe" } do
  row(("cliff.1MiB.w3.%s.of_64KiB"):format(kind), "x", { least = 0.5 })
  row(("cliff.1MiB.w2.%s.of_64KiB"):format(kind), "x", { least = 0.3 })
end
row("cliff.collection.of_usual", "x", { least = 0.3 })
row("cliff.collection.start_join.of_usual", "x", { least = 0.5 })
row("cliff.slow_consumer.queue.time", "us", { most = 1 })
row("cliff.slow_consumer.full_queue.cpu", "us", { most = 80 })
row("cliff.slow_consumer.full_queue.switches", "x", { most = 1.5 })
row("cliff.slow_consumer.full_pipe.cpu", "us", { most = 120 })
row("cliff.killed_producer.of_usual", "x", { least = 0.5 })
row("cliff.killed_producer.longest_gap", "ms", { most = 100 })
for _, who in ipairs {
  "queue.get", "queue.put", "pipe.recv", "lock.acquire", "rlock.acquire", "semaphore.acquire",
  "event.wait", "condition.wait", "barrier.wait", "mp.wait", "listener.accept", "process.join",
  "manager.queue.get", "manager.event.wait", "manager_server", "pool_worker",
} do
  row("cliff.idle." .. who, "ms", { most = 10 })
end

return rows
