--- What a manager serves: locks and their like. Their owners are clients, so that they are
-- the same for processes of the family and for connections.

local check = require "mp.check"
local served = require "mp.served"
local server = require "mp.server"

local misuse, park, wake = server.misuse, server.park, server.wake
local kinds, makers = served.kinds, served.makers

-- The bounds of the local twins.
local PERMITS_MAX, PARTIES_MAX = 2147483647, 4095

-- Locks -----------------------------------------------------------------------------------------

-- A lock: owner, a client; depth (of an RLock); again, whether it is one; dead: its owner
-- died; told: the owner was told so. give_up is called when the owner goes.
local lock = {}
kinds.lock = lock

local give

-- Takes back an acquire whose answer was not read: what it would have told, it tells the next.
local function ungive(l, client)
  if l.owner ~= client then return end
  l.dead = l.dead or l.told
  give(l)
end

local function take(l, client)
  local dead = l.dead
  l.owner, l.depth, l.dead, l.told = client, 1, nil, dead
  client.held[l] = l.give_up
  return dead and "abandoned" or nil
end

-- Lets go, and hands it to the next.
give = function(l)
  l.depth = l.depth - 1
  if l.depth > 0 then return end
  l.owner.held[l] = nil
  l.owner = nil
  local client = server.first(l.waiters)
  if client then wake(l.waiters, take(l, client) or "taken") end
end

local function new_lock(again)
  local l = { name = again and "mp.RLock" or "mp.Lock", waiters = {}, depth = 0, again = again }
  l.give_up = function()
    l.dead, l.depth = true, 1
    give(l)
  end
  return l
end

local function check_held(l)
  if l.owner ~= server.client() then
    misuse("%s is not held by this process: it cannot be released", l.name)
  end
end

function lock.acquire(l, timeout)
  local client = server.client()
  local how
  if l.owner == nil then
    how = take(l, client)
  elseif l.again and l.owner == client then
    l.depth = l.depth + 1
  else
    how = park(l.waiters, timeout)
    if how == nil then return false end
    if how == "taken" then how = nil end
  end
  server.undo(ungive, l)
  return true, how
end

function lock.release(l)
  check_held(l)
  give(l)
end

function lock.locked(l) return l.owner ~= nil end
lock.take, lock.give_back = lock.acquire, lock.release

function makers.Lock() return "lock", new_lock(false) end
function makers.RLock() return "lock", new_lock(true) end

-- Events ----------------------------------------------------------------------------------------

local event = {}
kinds.event = event

function event.set(e)
  e.on = true
  server.wake_all(e.waiters)
end

function event.clear(e) e.on = false end
function event.is_set(e) return e.on end
function event.wait(e, timeout) return e.on or park(e.waiters, timeout) == true end

function makers.Event() return "event", { on = false, waiters = {} } end

-- Semaphores ------------------------------------------------------------------------------------

-- value: permits that are there; most: what that may become. What was taken by with or guard
-- is noted with its client and comes back when that goes.
local semaphore = {}
kinds.semaphore = semaphore

-- An integer of at least `least`, as the local twins take it.
local function count_of(n, fname, least, expected)
  local whole = type(n) == "number" and math.tointeger(n)
  if whole and whole >= least then return whole end
  if type(n) ~= "number" then expected = "number expected, got " .. check.typename(n) end
  misuse("bad argument #1 to '%s' (%s)", fname, expected)
end

function semaphore.release(s, n)
  n = n == nil and 1 or count_of(n, "release", 1, "number of permits expected, at least 1")
  if n > s.most - s.value then
    if s.most == PERMITS_MAX then misuse("mp.Semaphore has a value of at most %d", PERMITS_MAX) end
    misuse("mp.BoundedSemaphore is released above its initial value (%d)", s.most)
  end
  while n > 0 and wake(s.waiters) do n = n - 1 end
  s.value = s.value + n
end

local function give_back_one(s) semaphore.release(s) end

function semaphore.acquire(s, timeout)
  if s.value > 0 then
    s.value = s.value - 1
  elseif not park(s.waiters, timeout) then
    return false
  end
  server.undo(give_back_one, s)
  return true
end

local function forget_taken(s, client)
  local n = s.taken[client] - 1
  s.taken[client] = n > 0 and n or nil
  if n == 0 then client.held[s] = nil end
end

local function untake(s, client)
  forget_taken(s, client)
  semaphore.release(s)
end

--- As acquire, for with and guard.
function semaphore.take(s, timeout)
  if not semaphore.acquire(s, timeout) then return false end
  local client = server.client()
  s.taken[client] = (s.taken[client] or 0) + 1
  client.held[s] = s.give_up
  server.undo(untake, s)
  return true
end

function semaphore.give_back(s)
  local client = server.client()
  if s.taken[client] then forget_taken(s, client) end
  semaphore.release(s)
end

function semaphore.get_value(s) return s.value end
function semaphore.locked(s) return s.value == 0 end

local function semaphore_maker(name, bounded)
  return function(n)
    local expected = ("initial value expected, from 0 to %d"):format(PERMITS_MAX)
    n = n == nil and 1 or count_of(n, name, 0, expected)
    if n > PERMITS_MAX then misuse("bad argument #1 to '%s' (%s)", name, expected) end
    local s = { value = n, most = bounded and n or PERMITS_MAX, waiters = {}, taken = {} }
    s.give_up = function(client)
      for _ = 1, s.taken[client] or 0 do semaphore.release(s) end
      s.taken[client] = nil
    end
    return "semaphore", s
  end
end

makers.Semaphore = semaphore_maker("Semaphore", false)
makers.BoundedSemaphore = semaphore_maker("BoundedSemaphore", true)

-- Conditions ------------------------------------------------------------------------------------

local condition = {}
kinds.condition = condition

local function check_locked(c, fname)
  if c.lock.owner ~= server.client() then
    misuse("mp.Condition:%s: the lock of the condition must be held", fname)
  end
end

local function pass_on(c) wake(c.waiters) end

function condition.wait(c, timeout)
  local l, client = c.lock, server.client()
  check_locked(c, "wait")
  local depth = l.depth
  l.depth = 1
  give(l)
  local notified = park(c.waiters, timeout) == true
  if notified then server.undo(pass_on, c) end
  if l.owner == nil then take(l, client) else park(l.waiters) end
  l.depth = depth
  return notified
end

-- Raises unless the caller holds the lock.
function condition.check(c, fname) check_locked(c, fname) end

function condition.notify(c, n)
  check_locked(c, "notify")
  if n == nil then n = 1 end
  if math.type(n) ~= "integer" or n < 0 then
    misuse("bad argument #1 to 'notify' (a number of processes expected)")
  end
  for _ = 1, n do
    if not wake(c.waiters) then break end
  end
end

function condition.notify_all(c)
  check_locked(c, "notify_all")
  server.wake_all(c.waiters)
end

for _, name in ipairs { "acquire", "release", "locked", "take", "give_back" } do
  condition[name] = function(c, ...) return lock[name](c.lock, ...) end
end

function makers.Condition(of)
  local l, kind
  if of == nil then
    l = new_lock(true)
  else
    l, kind = server.object_of(server.proxy_ref(of))
    if kind ~= "lock" then misuse("bad argument #1 to 'Condition' (a Lock or RLock of this manager expected)") end
  end
  return "condition", { lock = l, waiters = {} }
end

-- Barriers --------------------------------------------------------------------------------------

-- parties, waiters, is_broken. Who goes while it waits breaks it.
local barrier = {}
kinds.barrier = barrier

function barrier.abort(b)
  b.is_broken = true
  server.wake_all(b.waiters, "broken")
end

local function last_one(b)
  if b.action then
    local ok, err = pcall(b.action)
    if not ok then
      barrier.abort(b)
      error(err, 0)
    end
  end
  server.wake_all(b.waiters)
end

function barrier.wait(b, timeout)
  if b.is_broken then return nil, "broken" end
  local place = #b.waiters + 1
  if place == b.parties then
    last_one(b)
    return place
  end
  if timeout == nil then timeout = b.timeout end
  local how = park(b.waiters, timeout, nil, function() barrier.abort(b) end)
  if how == true then return place end
  if how == nil then barrier.abort(b) end
  return nil, "broken"
end

function barrier.reset(b)
  b.is_broken = false
  server.wake_all(b.waiters, "reset")
end

function barrier.parties(b) return b.parties end
function barrier.n_waiting(b) return #b.waiters end
function barrier.broken(b) return b.is_broken end

function makers.Barrier(parties, action, timeout)
  local expected = ("number of parties expected, from 1 to %d"):format(PARTIES_MAX)
  parties = count_of(parties, "Barrier", 1, expected)
  if parties > PARTIES_MAX then misuse("bad argument #1 to 'Barrier' (%s)", expected) end
  if action ~= nil and not check.callable(action) then
    misuse("bad argument #2 to 'Barrier' (function expected, got %s)", check.typename(action))
  end
  if timeout ~= nil and type(timeout) ~= "number" then
    misuse("bad argument #3 to 'Barrier' (number of seconds or nil expected, got %s)", check.typename(timeout))
  end
  if timeout ~= timeout then misuse("bad argument #3 to 'Barrier' (a time-out must not be NaN)") end
  return "barrier", { parties = parties, action = action, timeout = timeout, waiters = {}, is_broken = false }
end

return { new_lock = new_lock, lock = lock }
