-- Two workers count side by side: processes from a subclass.
-- Run: mplua examples/sync2.lua

local mp = require "mp"

local Worker = mp.Process:extend("Worker")

function Worker:init(id, n)
  self.id, self.n = id, n
end

function Worker:run()
  for i = 1, self.n do
    print(("worker %d: %d"):format(self.id, i))
    mp.sleep(0.01)
  end
end

do
  local first <close>, second = Worker(1, 5), Worker(2, 5)
  first:start()
  second:start()
  second:join()
end -- leaving the block joins the first
print("Exiting")
