-- A queue needs no condition: getters wait while it is empty, putters while its 10 places are taken.
-- Run: mplua examples/sync7.lua

local mp = require "mp"

local queue = mp.Queue(10)

local function produce(id)
  for i = 1, 10 do
    queue:put(id * 100 + i)
    print(("producer %d: produced %d"):format(id, id * 100 + i))
  end
end

local function consume(id)
  for _ = 1, 5 do
    print(("consumer %d: consumed %d"):format(id, queue:get()))
  end
end

local all = {}
local function start(work, n)
  for id = 1, n do
    all[#all + 1] = mp.Process(work, id)
    all[#all]:start()
  end
end
start(consume, 10)
start(produce, 5)
for _, process in ipairs(all) do process:join() end
print("Exiting", queue:qsize())
