-- A producer and a consumer share a queue; the consumer ends when nothing came for 3 s.
-- Run: mplua examples/process03.lua

local mp = require "mp"

local function produce(queue)
  for i = 0, 5 do
    if i < 3 then mp.sleep(1) end -- three come slowly, three at once
    queue:put(i)
    print("produced " .. i)
  end
end

local function consume(queue)
  while true do
    local item, code = queue:get(3)
    if code == "empty" then break end
    mp.sleep(0.5)
    print("consumed " .. item)
  end
end

local queue = mp.Queue()
local consumer = mp.Process(consume, queue)
consumer:start()
produce(queue)
consumer:join()
