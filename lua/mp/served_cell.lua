--- What a manager serves: values and arrays of numbers, with their locks.

local check = require "mp.check"
local core = require "mp.core"
local served = require "mp.served"
local server = require "mp.server"
local sync = require "mp.served_sync"

-- A call of the core, whose errors are about the caller's arguments.
-- fname: what the script has called; before: how many arguments the core has before the script's
local function checked(fname, before, f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local text = tostring(results[2]):gsub("^mp/[%w_]+%.lua:%d+: ", "")
  server.misuse("%s", (text:gsub("^bad argument #(%d+) to '[^']*'", function(n)
    return ("bad argument #%d to '%s'"):format(tonumber(n) - before, fname)
  end)))
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
  if cell.raw then server.misuse("mp.%s has no lock: it was made with lock = false", cell.type) end
  cell.lock_proxy = cell.lock_proxy or server.adopt("RLock", "lock", cell.lock)
  return cell.lock_proxy
end

-- Whether it is made without a lock that scripts can take.
local function is_raw(type_name, options)
  if options == nil then return false end
  if type(options) ~= "table" then
    server.misuse("bad argument #3 to '%s' (table expected, got %s)", type_name, check.typename(options))
  end
  for key, value in pairs(options) do
    if key ~= "lock" then
      server.misuse("bad argument #3 to '%s' (unknown option '%s' (known options: lock))", type_name, tostring(key))
    end
    if type(value) ~= "boolean" then
      server.misuse("bad argument #3 to '%s' (boolean expected for option 'lock', got %s)", type_name,
        check.typename(value))
    end
  end
  return options.lock == false
end

local function cell_of(type_name, make, typecode, initial, options)
  local cell = checked(type_name, 0, make, typecode, initial)
  return { cell = cell, lock = sync.new_lock(true), type = type_name, raw = is_raw(type_name, options) }
end

-- Has the operations do what the methods of the same name do.
local function forward(kind, names)
  for _, name in ipairs(names) do
    kind[name] = locked(function(c, ...) return checked(name, 1, c.cell[name], c.cell, ...) end)
  end
  kind.get_lock = get_lock
  return kind
end

-- What a function of the script makes of an element. It is called here, as it may wait.
local function updated(f, n, old)
  if not check.callable(f) then
    server.misuse("bad argument #%d to 'update' (function expected, got %s)", n,
      f == nil and "no value" or check.typename(f))
  end
  return (f(old))
end

served.kinds.value = forward({
  get = locked(function(c) return c.cell.value end),
  set = locked(function(c, value)
    checked("value", 0, function() c.cell.value = value end)
  end),
  update = locked(function(c, f)
    local value = updated(f, 1, c.cell.value)
    checked("update", 0, function() c.cell.value = value end)
    return c.cell.value
  end),
}, { "add", "compare_exchange" })

served.kinds.array = forward({
  item = locked(function(c, i) return c.cell[i] end),
  set_item = locked(function(c, i, value)
    checked("Array", 0, function() c.cell[i] = value end)
  end),
  len = function(c) return #c.cell end,
  update = locked(function(c, i, f)
    local old = type(i) == "number" and c.cell[i]
    if not old then checked("update", 1, c.cell.update, c.cell, i, tostring) end -- raises
    local value = updated(f, 2, old)
    checked("update", 0, function() c.cell[i] = value end)
    return c.cell[i]
  end),
}, { "add", "compare_exchange", "get", "set", "fill", "totable", "bytes" })

function served.makers.Value(...) return "value", cell_of("Value", core.RawValue, ...) end
function served.makers.Array(...) return "array", cell_of("Array", core.RawArray, ...) end
