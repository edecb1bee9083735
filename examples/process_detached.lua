-- A detached process outlives the program that started it, on purpose.
-- Run: mplua examples/process_detached.lua

local mp = require "mp"

local function work()
  print(("detached: pid %d started"):format(mp.getpid()))
  local parent = mp.parent_process()
  parent:join()
  print(("detached: pid %d goes on, its parent %d has ended"):format(mp.getpid(), parent.pid))
end

mp.Process{ name = "detached", target = work, detach = true }:start()
print(("main: pid %d ends and waits for nobody"):format(mp.getpid()))
