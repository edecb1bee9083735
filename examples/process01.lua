-- Two processes run one function, each with its own copy of the arguments.
-- Run: mplua examples/process01.lua

local mp = require "mp"

-- Where a variable lies in memory. A fork copies the memory, so that the two processes
-- may print the same place; what lies there is another variable in each.
local function work(n, m)
  local id = debug.upvalueid(function() return m end, 1)
  print(("pid= %d id(m)= %p"):format(mp.getpid(), id))
  for i = 0, n - 1 do
    print(("id=%d --> %d"):format(mp.getpid(), i))
    for _ = 1, m do end
  end
end

local p1 = mp.Process(work, 5, 100000)
local p2 = mp.Process(work, 5, 100000)
p1:start()
p2:start()
p1:join()
p2:join()
print("Exiting")
