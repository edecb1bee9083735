-- How to run a loop on all processors: its body becomes a function, the loop a map.
-- Run: mplua examples/parallel_loop.lua

local mp = require "mp"

-- Something that takes time: the most steps that a number of a block needs to come to 1,
-- halved when it is even, else tripled and one more.
local function longest(block)
  local most = 0
  for n = block * 1000 + 1, block * 1000 + 1000 do
    local steps = 0
    while n > 1 do
      n = n % 2 == 0 and n // 2 or 3 * n + 1
      steps = steps + 1
    end
    most = math.max(most, steps)
  end
  return most
end

local blocks = {}
for i = 1, 100 do blocks[i] = i - 1 end

-- The loop:
local began = mp.monotonic()
local one_by_one = {}
for i, block in ipairs(blocks) do one_by_one[i] = longest(block) end
local middle = mp.monotonic()

-- The same on all processors:
local pool <close> = mp.Pool()
local side_by_side = pool:map(longest, blocks)
local ended = mp.monotonic()

local same = table.concat(one_by_one, " ") == table.concat(side_by_side, " ")
print("the same results:", same)
print("the most steps:", math.max(table.unpack(side_by_side)))
print(("one by one %.2f s, by %d processes %.2f s"):format(middle - began, pool.processes,
  ended - middle))
