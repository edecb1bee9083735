-- A condition: consumers sleep while a shared buffer is empty, producers wake them.
-- Run: mplua examples/sync4.lua

local mp = require "mp"

local condition = mp.Condition()
local buffer = mp.RawArray("i", 50) -- a stack of numbers ...
local size = mp.RawValue("i", 0)    -- ... and how many are on it; both under the condition

local function produce(id)
  for i = 1, 10 do
    mp.sleep(0.01)
    local _ <close> = condition:guard()
    size.value = size.value + 1
    buffer[size.value] = id * 100 + i
    print(("producer %d: produced %d"):format(id, id * 100 + i))
    condition:notify()
  end
end

local function consume(id)
  for _ = 1, 5 do
    local _ <close> = condition:guard()
    while size.value == 0 do
      print(("consumer %d: waiting.."):format(id))
      condition:wait()
    end
    print(("consumer %d: consumed %d"):format(id, buffer[size.value]))
    size.value = size.value - 1
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
print("Exiting", size.value)
