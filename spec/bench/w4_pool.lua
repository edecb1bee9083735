-- W4: tasks of a pool: rates, the round trip of apply, two workers against none.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local function square(x) return x * x end

local function burn(n)
  local sum = 0
  for i = 0, n - 1 do sum = sum + (i & 7) end
  return sum
end

local function list(n, value)
  local t = {}
  for i = 1, n do t[i] = value or i end
  return t
end

-- As the peers do: a new pool, one run to warm up, then one that counts.  That takes milliseconds
-- only, so it is repeated for the budget; the median is reported.
local function tasks(metric, n, call)
  if not lib.wanted(metric) then return end
  local items, few, spent = list(n), list(n // 20), {}
  local limit = lib.now() + lib.SECS
  repeat
    local pool <close> = mp.Pool(2)
    call(pool, few)
    local start = lib.now()
    call(pool, items)
    spent[#spent + 1] = lib.now() - start
  until lib.now() > limit and #spent >= 3
  table.sort(spent)
  lib.report(metric, n / spent[(#spent + 1) // 2], "task/s")
end

local function consume(...)
  local n = 0
  for _ in ... do n = n + 1 end
  return n
end

tasks("w4.map_default", 100000, function(pool, t) pool:map(square, t) end)
tasks("w4.map_chunk1", 20000, function(pool, t) pool:map(square, t, { chunksize = 1 }) end)
tasks("w4.imap_unordered", 20000, function(pool, t) consume(pool:imap_unordered(square, t)) end)
tasks("w4.imap_unordered_chunk100", 100000, function(pool, t)
  consume(pool:imap_unordered(square, t, { chunksize = 100 }))
end)

do
  local pool <close> = mp.Pool(2)
  if lib.wanted "w4.apply" then
    local args = { 3 }
    lib.report("w4.apply", lib.per_op(function() pool:apply(square, args) end, 16) * 1e6, "us/rtt")
  end
  if lib.wanted "w4.scaling" then
    local work = list(32, 1300000)
    pool:map(burn, list(4, 1300000), { chunksize = 1 })
    local start = lib.now()
    for _, n in ipairs(work) do burn(n) end
    local serial = lib.now() - start
    start = lib.now()
    pool:map(burn, work, { chunksize = 1 })
    lib.report("w4.scaling.speedup_2workers", serial / (lib.now() - start), "x")
  end
end
if lib.wanted "w4.start" then
  lib.report("w4.start_apply_terminate", lib.per_op(function()
    local pool <close> = mp.Pool(2)
    pool:apply(square, { 3 })
  end) * 1e3, "ms")
end
