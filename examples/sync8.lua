-- A queue as a stack: what went in last comes out first. A manager can have a type of one's own for that.
-- Run: mplua examples/sync8.lua

local mp = require "mp"

local function push(stack)
  for item = 1, 3 do stack:put(item) end
end

local function run(stack)
  local child = mp.Process(push, stack)
  child:start()
  child:join()
  for _ = 1, 3 do print(stack:get()) end
end

run(mp.LifoQueue())

local Stack = {}
Stack.__index = Stack
function Stack:put(item) self[#self + 1] = item end
function Stack:get() return table.remove(self) end

local Stacks = mp.Manager:extend("Stacks")
Stacks:register("Stack", function() return setmetatable({}, Stack) end)

local manager <close> = Stacks()
run(manager:Stack())
