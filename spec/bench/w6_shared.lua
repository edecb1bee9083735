-- W6: shared Value and Array.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local N = 1000000

local function bump(v, gate, out)
  gate:wait()
  local n, start, now = 0, lib.now(), lib.now
  repeat
    for _ = 1, 256 do v:add(1) end
    n = n + 256
  until now() - start >= lib.SECS
  out:put(n / (now() - start))
end

local function value_rate(v, procs)
  local gate, out = mp.Barrier(procs), mp.Queue()
  local ps, total = {}, 0
  for i = 1, procs do
    ps[i] = mp.Process(bump, v, gate, out)
    ps[i]:start()
  end
  for _ = 1, procs do total = total + out:get() end
  for _, p in ipairs(ps) do p:join() end
  return total
end

for procs = 1, 2 do
  local metric = ("w6.value_incr.%dproc"):format(procs)
  if lib.wanted(metric) then lib.report(metric, value_rate(mp.Value("l", 0), procs), "op/s") end
  metric = ("w6.rawvalue_incr.%dproc"):format(procs)
  if lib.wanted(metric) then lib.report(metric, value_rate(mp.RawValue("l", 0), procs), "op/s") end
end

local function timed(metric, call)
  if not lib.wanted(metric) then return end
  local start = lib.now()
  call()
  lib.report(metric, (lib.now() - start) / N * 1e9, "ns/elem")
end

local function array(tag, a)
  timed("w6." .. tag .. ".fill", function() for i = 1, N do a[i] = 1.5 end end)
  timed("w6." .. tag .. ".sum", function()
    local s = 0.0
    for i = 1, N do s = s + a[i] end
    return s
  end)
  local list
  timed("w6." .. tag .. ".slice_read", function() list = a:get(1, N) end)
  timed("w6." .. tag .. ".slice_write", function() a:set(1, list) end)
end

array("array", mp.Array("d", N))
array("rawarray", mp.RawArray("d", N))
