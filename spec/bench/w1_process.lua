-- W1: start and join a no-op child.  Argument: MB of heap that the parent holds.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local mb = tonumber(arg[1]) or 0
lib.hold(mb)

local function noop() end
local metric = "w1.start_join.fork." .. (mb > 0 and mb .. "MB" or "small")
if lib.wanted(metric) then
  lib.report(metric, lib.per_op(function()
    local p = mp.Process(noop)
    p:start()
    p:join()
  end) * 1e6, "us")
end
