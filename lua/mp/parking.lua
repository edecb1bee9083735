--- mp's blocking calls inside a manager's server: in a method of an own type they park, so
-- that others are served meanwhile.
--
-- They are replaced in the server's process only. What waits asks again and again, less and
-- less often: nobody tells the server of what happens elsewhere.

local check = require "mp.check"
local core = require "mp.core"
local Engine = require "mp.engine".Engine
local pump = require "mp.pump"
local server = require "mp.server"

--- Seconds between two looks, at first and at most; each is longer by a factor.
local SHORTEST, LONGEST, FACTOR = 2e-4, 1e-2, 1.3

local parking = {}

-- Calls attempt() until it returns something true, and returns that; its last results when
-- the time is over.
local function until_done(timeout, attempt)
  local deadline = timeout and core.monotonic() + timeout
  local pause = SHORTEST
  while true do
    local results = table.pack(attempt())
    if results[1] then return table.unpack(results, 1, results.n) end
    local left = deadline and deadline - core.monotonic()
    -- "closed" and the like do not change; to be told of the time is no answer yet
    local code = results[2]
    if left and left <= 0 or code == "closed" or code == "broken" then
      return table.unpack(results, 1, results.n)
    end
    server.nap(left and left < pause and left or pause)
    pause = math.min(LONGEST, pause * FACTOR)
  end
end

-- The method whose time-out is its argument number n (self not counted).
local function parked(original, n)
  return function(self, ...)
    if not server.can_park() then return original(self, ...) end
    local args = table.pack(...)
    local timeout = args[n]
    check.timeout(n, "wait", timeout)
    args[n] = 0
    return until_done(timeout, function() return original(self, table.unpack(args, 1, n)) end)
  end
end

local function replace(object, waits)
  local methods = getmetatable(object).__index
  for name, n in pairs(waits) do
    local original = methods[name]
    methods[name] = parked(original, n)
  end
  return methods
end

-- with, and guard through the parked methods.
local function replace_scope(methods)
  function methods:with(f, ...)
    local _ <close> = self:guard()
    return f(...)
  end
end

-- put_many: what went in is not put again.
local function replace_put_many(methods)
  local original = methods.put_many
  function methods:put_many(list, timeout)
    if not server.can_park() then return original(self, list, timeout) end
    check.arg(1, "put_many", list, "table")
    local done = 0
    local _, why = until_done(timeout, function()
      local n, code = original(self, table.move(list, done + 1, #list, 1, {}), 0)
      done = done + n
      return done == #list, code
    end)
    return done, done < #list and why or nil
  end
end

local function replace_queues()
  local methods = replace(core.Queue(), { put = 2, get = 1, get_many = 2, join = 1 })
  replace_put_many(methods)
  local lifo = getmetatable(core.LifoQueue()).__index
  if lifo ~= methods then replace_put_many(replace(core.LifoQueue(), { put = 2, get = 1, get_many = 2, join = 1 })) end
  replace(core.PriorityQueue(), { put = 3, get = 1, get_many = 2, join = 1 })
end

local function replace_locks()
  for _, make in ipairs { core.Lock, core.RLock, core.Semaphore, core.BoundedSemaphore } do
    local object = make()
    local methods = getmetatable(object).__index
    if not parking[methods] then
      parking[methods] = true
      replace_scope(replace(object, { acquire = 1, guard = 1 }))
    end
  end
  replace(core.Event(), { wait = 1 })
end

-- Pools wait in two places: for reports, and for the end of their workers.
local function replace_pools()
  local step = pump.step
  function pump.step(st, timeout, job)
    if not server.can_park() or (timeout and timeout <= 0) then return step(st, timeout, job) end
    return until_done(timeout, function()
      local n = step(st, 0, job)
      return (n > 0 or (job and job.over)) and n or nil
    end) or 0
  end
  local join = Engine.join
  function Engine:join(timeout)
    if not server.can_park() then return join(self, timeout) end
    return until_done(timeout, function() return join(self, 0) end)
  end
end

local installed = false

--- Replaces them in this process, once.
function parking.install()
  if installed then return end
  installed = true
  replace_queues()
  replace_locks()
  replace_pools()
  core.park_sleep(function(seconds)
    if not server.can_park() then return false end
    server.nap(seconds)
    return true
  end)
end

return parking
