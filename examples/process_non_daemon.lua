-- A program does not end before its processes: the child still works when main is through.
-- Run: mplua examples/process_non_daemon.lua

local mp = require "mp"

local function work()
  local name = mp.current_process().name
  print("Starting: " .. name, mp.getpid())
  mp.sleep(1)
  print("Exiting : " .. name, mp.getpid())
end

mp.Process{ name = "non-daemon", target = work, daemon = false }:start()
print("main falls off its end")
