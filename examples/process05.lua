-- A number and an array in shared memory: the parent sees what the child wrote.
-- Run: mplua examples/process05.lua

local mp = require "mp"

local function change(number, array)
  number.value = 3.14
  for i = 1, #array do array[i] = -array[i] end
end

local number = mp.Value("d", 0.0)
local array = mp.Array("i", { 0, 1, 2, 3, 4 })
do
  local child <close> = mp.Process(change, number, array)
  child:start()
end -- leaving the block joins the child
print(number.value)
print("{" .. table.concat(array:totable(), ", ") .. "}")
