-- A pool of four workers: the calls go on side by side, their results are fetched later.
-- Run: mplua examples/process07.lua

local mp = require "mp"

local function square(x)
  mp.sleep(0.5) -- it takes its time
  return x * x
end

local pool <close> = mp.Pool(4)
local results = {}
for i, x in ipairs { 10, 20, 30, 40 } do
  results[i] = pool:apply_async(square, { x })
end
for _, result in ipairs(results) do
  print(result:get(2)) -- nil and "timeout" if it is not there after 2 s
end
