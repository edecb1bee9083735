-- W5: manager proxies: round trips a second from one client and from four.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local function client(d, gate, out, op)
  local _ = d.k
  gate:wait()
  local n, start = 0, lib.now()
  repeat
    for _ = 1, 16 do op(d) end
    n = n + 16
  until lib.now() - start >= lib.SECS
  out:put(n / (lib.now() - start))
end

local ops = {
  get = function(d) return d.k end,
  set = function(d) d.k = 42 end,
}

local function many(manager, clients, op)
  local d = manager:dict { k = 1 }
  local gate, out, ps, total = mp.Barrier(clients), mp.Queue(), {}, 0
  for i = 1, clients do
    ps[i] = mp.Process(client, d, gate, out, op)
    ps[i]:start()
  end
  for _ = 1, clients do total = total + out:get() end
  for i = 1, clients do ps[i]:join() end
  return total
end

do
  local manager <close> = mp.Manager()
  for _, clients in ipairs { 1, 4 } do
    for _, name in ipairs { "get", "set" } do
      local metric = ("w5.dict_%s.%dclients"):format(name, clients)
      if lib.wanted(metric) then lib.report(metric, many(manager, clients, ops[name]), "op/s") end
    end
  end
  if lib.wanted "w5.list_append" then
    local list = manager:list()
    lib.report("w5.list_append.1clients", 1 / lib.per_op(function() list:append(1) end, 16), "op/s")
  end
end

if lib.wanted "w5.start" then
  local per = lib.per_op(function() mp.Manager():shutdown() end)
  lib.report("w5.start_shutdown", per * 1e3, "ms")
end
