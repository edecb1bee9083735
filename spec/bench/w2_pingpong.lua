-- W2: round trip of a small message between two processes.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local function echo_conn(conn)
  for m in conn:messages() do conn:send(m) end
end

local function echo_bytes(conn)
  while true do
    local m = conn:recv_bytes()
    if not m then return end
    conn:send_bytes(m)
  end
end

local function echo_queue(a, b)
  for m in a:items() do b:put(m) end
end

local function pipe(metric, target, call, burst)
  if not lib.wanted(metric) then return end
  local here, there = mp.Pipe()
  local p = mp.Process(function() here:close() target(there) end)
  p:start()
  there:close()
  lib.report(metric, lib.per_op(function() call(here) end, burst or 64) * 1e6, "us/rtt")
  here:close()
  p:join()
end

pipe("w2.pipe", echo_conn, function(c) c:send(42) c:recv() end)
local large = ("x"):rep(1 << 20)
pipe("w2.pipe.str1m", echo_conn, function(c) c:send(large) c:recv() end, 1)
pipe("w2.pipe_bytes", echo_bytes, function(c) c:send_bytes("12345678") c:recv_bytes() end)

local function queue(metric, value, burst)
  if not lib.wanted(metric) then return end
  local a, b = mp.Queue(), mp.Queue()
  local p = mp.Process(echo_queue, a, b)
  p:start()
  lib.report(metric, lib.per_op(function() a:put(value) b:get() end, burst) * 1e6, "us/rtt")
  a:shutdown()
  p:join()
end

queue("w2.queue", 42, 16)
queue("w2.simplequeue", 42, 16) -- a queue under another name
queue("w2.queue.str1m", large, 1)

-- What a call burns that finds nothing, before it sleeps: CPU time of a wait of 20 ms, on an
-- object that was never used, and (busy) on one that has just seen 500 quick answers.
local function blocked(metric, make, call)
  if not lib.wanted(metric) then return end
  local function median(prepare)
    local burnt = {}
    for n = 1, math.max(5, lib.SECS // 0.02 | 0) do
      local wait, done = prepare()
      local cpu = os.clock()
      wait(0.02)
      burnt[n] = os.clock() - cpu
      done()
    end
    table.sort(burnt)
    return burnt[(#burnt + 1) // 2] * 1e6
  end
  -- What it costs to fall asleep and be woken by the clock is no burning.
  local asleep = median(function() return mp.sleep, function() end end)
  local function report(name, burnt) lib.report(name, math.max(0, burnt - asleep), "us") end
  report(metric, median(function()
    local there, back, close = make()
    return function(timeout) call(there, back, timeout) end, close
  end))
  report(metric .. ".busy", median(function()
    local there, back, close, echo = make()
    local p = mp.Process(echo)
    p:start()
    for _ = 1, 500 do call(there, back) end
    return function(timeout) call(there, back, timeout) end, function()
      p:kill()
      p:join()
      close()
    end
  end))
end

-- With a timeout the call is one that nobody answers.
blocked("w2.blocked_get_cpu", function()
  local a, b = mp.Queue(), mp.Queue()
  return a, b, function() a:close() b:close() end, function() echo_queue(a, b) end
end, function(there, back, timeout)
  if not timeout then there:put(42) end
  back:get(timeout)
end)
blocked("w2.blocked_recv_cpu", function()
  local here, there = mp.Pipe()
  return here, here, function() here:close() there:close() end, function() echo_conn(there) end
end, function(there, back, timeout)
  if not timeout then there:send(42) end
  back:recv(timeout)
end)
