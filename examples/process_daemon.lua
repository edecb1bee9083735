-- A daemon is terminated at the end of its parent, a plain process is waited for.
-- Run: mplua examples/process_daemon.lua   (takes 1 s, although the daemon wants to sleep for 5)

local mp = require "mp"

mp.log_to_stderr("INFO")

local function work(seconds)
  local name = mp.current_process().name
  print("Starting: " .. name, mp.getpid())
  mp.sleep(seconds)
  print("Exiting : " .. name, mp.getpid())
end

mp.Process{ name = "daemon", target = work, args = { 5 }, daemon = true }:start()
mp.sleep(1)
mp.Process{ name = "non-daemon", target = work, args = { 0 } }:start()
