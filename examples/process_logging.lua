-- What the library logs on stderr: the start and the end of a process, and who waits for whom.
-- Run: mplua examples/process_logging.lua

local mp = require "mp"

mp.log_to_stderr("INFO")

local function work()
  print("doing some work..")
  mp.sleep(0.3)
end

print("Starting: " .. mp.current_process().name, mp.getpid())
mp.Process{ name = "child process", target = work }:start()
-- The main program is at its end here; it joins its child before it leaves.
