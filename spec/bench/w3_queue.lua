-- W3: one-way throughput, 1 to 1, 4 to 1 and 2 to 2.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local function put_n(q, value, n, gate)
  gate:wait()
  for _ = 1, n do q:put(value) end
end

local function get_until_end(q, gate)
  gate:wait()
  while q:get() do end
end

local function queue_run(value, producers, consumers)
  return function(n)
    local q <close> = mp.Queue()
    local each = n // producers
    local gate = mp.Barrier(producers + (consumers == 1 and 1 or consumers + 1))
    local ps, cs = {}, {}
    for i = 1, producers do ps[i] = mp.Process(put_n, q, value, each, gate) end
    for i = 1, consumers > 1 and consumers or 0 do cs[i] = mp.Process(get_until_end, q, gate) end
    for _, p in ipairs(ps) do p:start() end
    for _, p in ipairs(cs) do p:start() end
    gate:wait()
    local start = lib.now()
    if consumers == 1 then
      for _ = 1, each * producers do q:get() end
    end
    for _, p in ipairs(ps) do p:join() end
    q:shutdown()
    for _, p in ipairs(cs) do p:join() end
    local spent = lib.now() - start
    gate:close()
    return spent
  end
end

local function many_run(value, batch)
  return function(n)
    local q <close> = mp.Queue()
    local gate = mp.Barrier(2)
    n = n // batch * batch
    local p = mp.Process(function()
      local list = {}
      for i = 1, batch do list[i] = value end
      gate:wait()
      for _ = 1, n // batch do q:put_many(list) end
    end)
    p:start()
    gate:wait()
    local start, left = lib.now(), n
    while left > 0 do left = left - #q:get_many(batch) end
    local spent = lib.now() - start
    p:join()
    gate:close()
    return spent
  end
end

local function pipe_run(value, send, recv)
  return function(n)
    local r, w = mp.Pipe(false)
    local gate = mp.Barrier(2)
    local p = mp.Process(function()
      r:close()
      gate:wait()
      for _ = 1, n do w[send](w, value) end
    end)
    p:start()
    w:close()
    gate:wait()
    local start = lib.now()
    for _ = 1, n do r[recv](r) end
    local spent = lib.now() - start
    p:join()
    r:close()
    gate:close()
    return spent
  end
end

local function emit(metric, run, size, n)
  if not lib.wanted(metric) then return end
  local r = lib.rate(run, n)
  lib.report(metric, r, "msg/s")
  if size >= 65536 then lib.report(metric .. ".bw", r * size / 1e6, "MB/s") end
end

for _, p in ipairs(lib.payloads()) do
  local name, value = p[1], p[2]
  local size = type(value) == "string" and #value or 0
  emit("w3.queue.1to1." .. name, queue_run(value, 1, 1), size)
  emit("w3.pipe.1to1." .. name, pipe_run(value, "send", "recv"), size)
  if size > 0 then
    emit("w3.pipe_bytes.1to1." .. name, pipe_run(value, "send_bytes", "recv_bytes"), size)
  end
  if size < 65536 then
    emit("w3.queue.4to1." .. name, queue_run(value, 4, 1), size)
    emit("w3.queue.2to2." .. name, queue_run(value, 2, 2), size)
  end
end
emit("w3.queue.many32.int", many_run(42, 32), 0, 64000)
