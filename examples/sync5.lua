-- A semaphore lets three of a hundred processes into a restricted area at a time.
-- Run: mplua examples/sync5.lua

local mp = require "mp"

local PROCESSES, VISITS, PLACES = 100, 500, 3

local semaphore = mp.Semaphore(PLACES)
local inside, visits, most = mp.Value("i", 0), mp.Value("i", 0), mp.Value("i", 0)

local function visit()
  local here = inside:add(1)
  assert(here <= PLACES, "too many are inside")
  most:update(function(before) return math.max(before, here) end)
  visits:add(1)
  inside:add(-1)
end

local function visitor()
  for _ = 1, VISITS do semaphore:with(visit) end
end

local visitors = {}
for i = 1, PROCESSES do
  visitors[i] = mp.Process(visitor)
  visitors[i]:start()
end
for _, process in ipairs(visitors) do
  process:join()
  assert(process.exitcode == 0)
end
print(("visits: %d, inside now: %d"):format(visits.value, inside.value))
print(("never more than %d inside: %s"):format(PLACES, most.value <= PLACES))
