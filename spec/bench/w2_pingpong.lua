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

local function pipe(metric, target, call)
  if not lib.wanted(metric) then return end
  local here, there = mp.Pipe()
  local p = mp.Process(function() here:close() target(there) end)
  p:start()
  there:close()
  lib.report(metric, lib.per_op(function() call(here) end, 64) * 1e6, "us/rtt")
  here:close()
  p:join()
end

pipe("w2.pipe", echo_conn, function(c) c:send(42) c:recv() end)
pipe("w2.pipe_bytes", echo_bytes, function(c) c:send_bytes("12345678") c:recv_bytes() end)
for _, name in ipairs { "queue", "simplequeue" } do
  if lib.wanted("w2." .. name) then
    local a, b = mp.Queue(), mp.Queue()
    local p = mp.Process(echo_queue, a, b)
    p:start()
    lib.report("w2." .. name, lib.per_op(function() a:put(42) b:get() end, 16) * 1e6, "us/rtt")
    a:shutdown()
    p:join()
  end
end
if lib.wanted("w2.blocked_get_cpu") then
  local q = mp.Queue()
  local cpu, n = os.clock(), 0
  local stop = lib.now() + lib.SECS
  while lib.now() < stop do q:get(0.02) n = n + 1 end
  lib.report("w2.blocked_get_cpu", (os.clock() - cpu) / n * 1e6, "us")
end
