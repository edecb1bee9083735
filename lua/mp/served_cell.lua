--- What a manager serves: values and arrays of numbers, with their locks.

local core = require "mp.core"
local served = require "mp.served"
local server = require "mp.server"
local sync = require "mp.served_sync"

-- A call of the core, whose errors are about the caller's arguments.
local function checked(f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  server.misuse("%s", (tostring(results[2]):gsub("^mp/[%w_]+%.lua:%d+: ", "")))
end

-- An operation of a cell, during which nobody else holds its lock.
local function locked(f)
  return function(cell, ...)
    local l = cell.lock
    if l.owner == nil or l.owner == server.client() then return f(cell, ...) end
    sync.lock.acquire(l)
    local results = table.pack(pcall(f, cell, ...))
    sync.lock.release(l)
    if not results[1] then error(results[2], 0) end
    return table.unpack(results, 2, results.n)
  end
end

local function get_lock(cell)
  cell.lock_proxy = cell.lock_proxy or server.adopt("RLock", "lock", cell.lock)
  return cell.lock_proxy
end

local function cell_of(make, ...)
  return { cell = checked(make, ...), lock = sync.new_lock(true) }
end

-- Has the operations do what the methods of the same name do.
local function forward(kind, names)
  for _, name in ipairs(names) do
    kind[name] = locked(function(c, ...) return checked(c.cell[name], c.cell, ...) end)
  end
  kind.get_lock = get_lock
  return kind
end

served.kinds.value = forward({
  get = locked(function(c) return c.cell.value end),
  set = locked(function(c, value)
    checked(function() c.cell.value = value end)
  end),
  update = locked(function(c, f)
    local value = f(c.cell.value)
    checked(function() c.cell.value = value end)
    return c.cell.value
  end),
}, { "add", "compare_exchange" })

served.kinds.array = forward({
  item = locked(function(c, i) return c.cell[i] end),
  set_item = locked(function(c, i, value)
    checked(function() c.cell[i] = value end)
  end),
  len = function(c) return #c.cell end,
}, { "get", "set", "fill", "totable", "bytes" })

function served.makers.Value(typecode, value) return "value", cell_of(core.RawValue, typecode, value) end
function served.makers.Array(typecode, list) return "array", cell_of(core.RawArray, typecode, list) end
