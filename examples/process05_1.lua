-- Reading and writing a shared number are two steps, between which others write; add() is one.
-- Run: mplua examples/process05_1.lua

local mp = require "mp"

local TURNS = 10000
local gate = mp.Barrier(2) -- both begin together, or one is done before the other is born

local function two_steps(number, by)
  gate:wait()
  for _ = 1, TURNS do number.value = number.value + by end
end

local function one_step(number, by)
  gate:wait()
  for _ = 1, TURNS do number:add(by) end
end

local function held(number, by)
  gate:wait()
  for _ = 1, TURNS do
    number:get_lock():with(function() number.value = number.value + by end)
  end
end

-- One process adds 1, another one subtracts it, as often.
local function race(step)
  local number = mp.Value("d", 0.0)
  local up, down = mp.Process(step, number, 1), mp.Process(step, number, -1)
  up:start()
  down:start()
  up:join()
  down:join()
  return number.value
end

print("read, then write:", race(two_steps)) -- differs from run to run
print("with add():", race(one_step))
print("holding the lock:", race(held))
