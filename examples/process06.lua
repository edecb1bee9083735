-- Objects in a manager's server: a child changes them through proxies, and the parent sees it.
-- Run: mplua examples/process06.lua

local mp = require "mp"

-- A plain table in a namespace comes as a copy: to change it changes nothing there.
local function change(d, l, ns)
  d[1] = "1"
  d["2"] = 2
  d[0.25] = mp.null
  l:reverse()
  ns.x = ns.x * 10
  ns.y = ns.y * 10
  table.insert(ns.stack, 1)
  ns.stack2:append(1)
  print("ns.stack= {" .. table.concat(ns.stack, ", ") .. "}")
end

local manager <close> = mp.Manager()
local d = manager:dict()
local l = manager:list { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 }
local ns = manager:Namespace { x = 1, y = 2, stack = {}, stack2 = manager:list() }

local child = mp.Process(change, d, l, ns)
child:start()
child:join()
print("d= " .. tostring(d))
print("l= " .. tostring(l))
print(("ns.x=%d, ns.y=%d, ns.stack={%s}, ns.stack2=%s"):format(ns.x, ns.y,
  table.concat(ns.stack, ", "), tostring(ns.stack2)))
