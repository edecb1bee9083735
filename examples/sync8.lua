-- A queue as a stack: what went in last comes out first.
-- Run: mplua examples/sync8.lua

local mp = require "mp"

local stack = mp.LifoQueue()

local function push()
  for item = 1, 3 do stack:put(item) end
end

local child = mp.Process(push)
child:start()
child:join()
for _ = 1, 3 do print(stack:get()) end
