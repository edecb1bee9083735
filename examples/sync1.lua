-- Two workers count side by side: processes from a function.
-- Run: mplua examples/sync1.lua

local mp = require "mp"

local function count(id, n)
  for i = 1, n do
    print(("worker %d: %d"):format(id, i))
    mp.sleep(0.01)
  end
end

local workers = {}
for id = 1, 2 do
  workers[id] = mp.Process(count, id, 5)
  workers[id]:start()
end
for _, worker in ipairs(workers) do worker:join() end
print("Exiting")
