-- A lock makes a read and a write one step: ten processes add 1 ten times, and none is lost.
-- Run: mplua examples/sync3.lua

local mp = require "mp"

local lock = mp.Lock()
local counter = mp.RawValue("i", 0) -- "raw": without a lock of its own

local function add()
  for _ = 1, 10 do
    local _ <close> = lock:guard() -- released at the end of the turn, whatever happens
    counter.value = counter.value + 1
  end
end

local workers = {}
for i = 1, 10 do
  workers[i] = mp.Process(add)
  workers[i]:start()
end
for _, worker in ipairs(workers) do worker:join() end
print("Exiting", counter.value)
