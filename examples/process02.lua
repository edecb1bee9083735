-- A class of processes: a subclass of mp.Process with fields and a run() of its own.
-- Run: mplua examples/process02.lua

local mp = require "mp"

local Counter = mp.Process:extend("Counter")

function Counter:init(n, m)
  self.n, self.m = n, m
end

function Counter:run()
  local id = debug.upvalueid(function() return self end, 1)
  print(("pid= %d name= %s id(self)= %p"):format(self.pid, self.name, id))
  for i = 0, self.n - 1 do
    print(("id=%d --> %d"):format(self.pid, i))
    for _ = 1, self.m do end
  end
end

local counters = { Counter(5, 100000), Counter(5, 100000) }
for _, counter in ipairs(counters) do counter:start() end
for _, counter in ipairs(counters) do counter:join() end
print("Exiting")
