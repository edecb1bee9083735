--- What a manager serves: pools of workers, which its server starts.

local core = require "mp.core"
local served = require "mp.served"
local server = require "mp.server"

-- Calls f for the client: what it misuses is raised at its line.
local function call(f, ...)
  local results = table.pack(xpcall(f, server.about_caller, ...))
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- The public methods of an object, and what they return that stays in the server.
local function methods(names)
  local known = {}
  for name in names:gmatch("%S+") do known[name] = true end
  return function(object, name, record, ...)
    if not known[name] then
      server.misuse("a manager's %s has no method '%s'", record.type, tostring(name))
    end
    return served.kept(call(object[name], object, ...))
  end
end

--- Objects that cannot leave the server are adopted.
function served.kept(first, ...)
  local kind = core.type(first)
  if kind == "mp.AsyncResult" then return server.adopt("AsyncResult", "result", first) end
  if type(first) == "function" and core.type((select(3, ...))) == "mp.PoolIterator" then
    return server.adopt("PoolIterator", "iterator", { next = first, reader = (select(3, ...)) })
  end
  return first, ...
end

served.kinds.pool = {
  ["*"] = methods [[apply apply_async map map_async starmap starmap_async imap imap_unordered
    close terminate]],
  join = function(pool, timeout) return call(pool.join, pool, timeout) end,
  processes = function(pool) return pool.processes end,
}

served.kinds.result = {
  get = function(result, timeout) return call(result.get, result, timeout) end,
  wait = function(result, timeout) return result:wait(timeout) end,
  ready = function(result) return result:ready() end,
  successful = function(result) return call(result.successful, result) end,
}

served.kinds.iterator = {
  next = function(iterator) return call(iterator.next) end,
  close = function(iterator) getmetatable(iterator.reader).__close(iterator.reader) end,
}

function served.makers.Pool(...)
  require "mp.parking".install()
  return "pool", call(require "mp.pool".Pool, ...)
end
