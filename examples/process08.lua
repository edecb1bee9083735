-- A pool of four workers maps a function over a list: the results are in the order of the list.
-- Run: mplua examples/process08.lua

local mp = require "mp"

local function square(x)
  return x * x
end

local numbers = {}
for x = 0, 9 do numbers[#numbers + 1] = x end

local pool <close> = mp.Pool(4)
local squares = pool:map(square, numbers)
print("{" .. table.concat(squares, ", ") .. "}")
