-- An event: five processes wait until a sixth one has prepared what they need.
-- Run: mplua examples/sync6.lua

local mp = require "mp"

local ready = mp.Event()

local function wait(id)
  print(("process %d: waiting"):format(id))
  ready:wait()
  print(("process %d: goes on"):format(id))
end

local function prepare()
  print("preparing ..")
  mp.sleep(0.2)
  print("prepared")
  ready:set()
end

local all = {}
for id = 1, 5 do all[id] = mp.Process(wait, id) end
all[6] = mp.Process(prepare)
for _, process in ipairs(all) do process:start() end
for _, process in ipairs(all) do process:join() end
print("Exiting")
