-- What the benchmarks share.  A program prints one measurement a line: metric TAB value TAB unit.
-- BENCH_SECS is the time budget of one measurement, BENCH_ONLY (plain text) keeps the metrics
-- whose name contains it, BENCH_BALLAST is the MB of heap that the program is to hold.
local mp = require "mp"

local lib = { now = mp.monotonic, SECS = tonumber(os.getenv "BENCH_SECS") or 0.5 }
local only = os.getenv "BENCH_ONLY" or ""

function lib.wanted(metric)
  return metric:find(only, 1, true) ~= nil
end

function lib.report(metric, value, unit)
  io.write(("%s\t%.6g\t%s\n"):format(metric, value, unit))
  io.flush()
end

--- Seconds that one call of op() takes, from a loop that fills the budget.
function lib.per_op(op, burst, secs)
  local now = lib.now
  burst, secs = burst or 1, secs or lib.SECS
  op()
  local n, start = 0, now()
  while true do
    for _ = 1, burst do op() end
    n = n + burst
    local spent = now() - start
    if spent >= secs then return spent / n end
  end
end

--- Operations a second: run(n) returns seconds; n grows until it fills the budget.
function lib.rate(run, n)
  n = n or 64
  while true do
    local spent = run(n)
    if spent >= lib.SECS * 0.6 then return n / spent end
    n = n * math.min(10, math.max(1.5, lib.SECS / math.max(spent, 1e-6))) // 1 | 0
  end
end

--- The processor that "one processor" means: the first that may be used.
function lib.first_cpu()
  for line in io.lines "/proc/self/status" do
    local n = line:match "^Cpus_allowed_list:%s*(%d+)"
    if n then return n end
  end
end

--- Takes so many MB of heap, for as long as the program runs.
function lib.hold(mb)
  lib.ballast = {}
  for i = 1, mb * 1024 do lib.ballast[i] = ("x"):rep(1000) .. i end
  collectgarbage()
end

function lib.payloads()
  return {
    { "int", 42 },
    { "str100", ("x"):rep(100) },
    { "rec", { id = 7, name = "item-000007", values = { 1, 2, 3, 4, 5, 6, 7, 8 } } },
    { "str64k", ("x"):rep(65536) },
    { "str1m", ("x"):rep(1 << 20) },
  }
end

function lib.big_payloads()
  local out, array, nested = lib.payloads(), {}, {}
  for i = 1, 100000 do array[i] = i end
  for g = 1, 100 do
    local t = {}
    for k = 1, 100 do t["k" .. k] = k end
    nested["g" .. g] = t
  end
  out[#out + 1] = { "arr1e5", array }
  out[#out + 1] = { "nested10k", nested }
  return out
end

if os.getenv "BENCH_BALLAST" then lib.hold(tonumber(os.getenv "BENCH_BALLAST")) end

return lib
