--- Processes for specs: start them, wait for their end, kill them.

local T = require "spec.helper"
local mp = require "mp"

local W = {}

--- Runs f(...) in a process; an error in it shows as exit code 1. A daemon, so that one
-- that a failed test left behind does not keep the run from ending.
function W.child(f, ...)
  local p = mp.Process { target = f, args = table.pack(...), daemon = true }
  p:start()
  return p
end

--- Waits for the end of processes that must have ended well.
function W.finish(...)
  for i, p in ipairs { ... } do
    assert(p:join(15), "process " .. i .. " does not end")
    assert(p.exitcode == 0, ("process %d ended with %d"):format(i, p.exitcode))
    p:close()
  end
end

--- Kills processes and waits for their end.
function W.kill(...)
  for _, p in ipairs { ... } do
    p:kill()
    assert(p:join(10))
    assert(p.exitcode == -9, ("exit code %d"):format(p.exitcode))
    p:close()
  end
end

--- Waits until processes sleep: for those that have nothing else to sleep in.
function W.asleep(...)
  for _, p in ipairs { ... } do
    assert(T.wait_until(function()
      local stat = T.read(("/proc/%d/stat"):format(p.pid))
      return stat and stat:match("^.*%) (%a)") == "S"
    end), "a process does not go to sleep")
  end
end

--- The seconds that f(...) takes.
function W.took(f, ...)
  local start = mp.monotonic()
  f(...)
  return mp.monotonic() - start
end

--- Checks that f() raises and that the message matches the pattern; returns the error.
function W.fails(pattern, f)
  local ok, e = pcall(f)
  assert(not ok, "no error was raised")
  assert(tostring(e):find(pattern), ("'%s' does not match '%s'"):format(tostring(e), pattern))
  return e
end

return W
