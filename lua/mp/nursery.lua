--- The nursery of a pool: the process that forks the workers, replaces those that end, and
-- ends when the pool does.
--
-- It does nothing by itself: it sleeps until a child ends or its owner sends a signal.
-- What the owner has to know of it goes through the pool's reports.

local core = require "mp.core"
local process = require "mp.process"

local debug = debug
local SIGKILL = 9

--- Seconds between two attempts to fork, when the system refuses.
local RETRY = 0.05
--- Seconds of attempts after which a pool that has no worker left is broken.
local GIVE_UP = 2

local nursery = {}

-- Inherited connections ---------------------------------------------------------------

-- What everybody can reach is no reason to keep a connection open.
local function common()
  local seen = { [package.loaded] = true }
  for _, module in pairs(package.loaded) do
    if type(module) == "table" then seen[module] = true end
  end
  return seen
end

local function each_upvalue(f, visit)
  local i = 1
  local name, value = debug.getupvalue(f, i)
  while name do
    visit(value)
    i = i + 1
    name, value = debug.getupvalue(f, i)
  end
end

-- The connections that can be reached from a function and a table, through tables and
-- upvalues.
local function reachable(f, args)
  local found, seen, left = {}, common(), {}
  local function visit(value)
    local kind = type(value)
    if kind == "userdata" then
      if core.kind(value) == "mp.Connection" then found[#found + 1] = value end
    elseif (kind == "table" or kind == "function") and not seen[value] then
      seen[value] = true
      left[#left + 1] = value
    end
  end
  visit(f)
  visit(args)
  while #left > 0 do
    local value = table.remove(left)
    if type(value) == "table" then
      for key, item in next, value do
        visit(key)
        visit(item)
      end
    elseif debug then
      each_upvalue(value, visit)
    end
  end
  return found
end

--- Closes what a helper of the library has inherited and does not need: connections, so
-- that their other ends see EOF, and listeners, so that their addresses are free again.
-- @param f function, and
-- @param args table: what can be reached from these stays open
-- @param spare listener that stays open, or nil
function nursery.close_inherited(f, args, spare)
  if core.any_connections() then core.close_connections(reachable(f, args)) end
  local listener = package.loaded["mp.listener"]
  if listener then listener.leave_all(spare) end
end

-- A worker ------------------------------------------------------------------------------

-- The traceback of an initializer, without the library's own frames below it.
local function own_part(traceback)
  return (traceback:gsub("\n\t%[C%]: in function 'xpcall'\n\tmp/nursery%.lua:.*$", ""))
end

-- Calls the initializer: true, or false, its error, the traceback.
local function initialize(spec)
  if not spec.initializer then return true end
  local args = spec.initargs
  local traceback
  local ok, err = xpcall(spec.initializer, function(e)
    if debug then traceback = own_part(debug.traceback(nil, 2)) end
    return e
  end, table.unpack(args, 1, args.n))
  return ok, err, traceback
end

local function work(spec, i)
  core.worker_open(spec.pool, i)
  local ok, err, traceback = initialize(spec)
  if ok then core.worker(spec.pool, i, spec.maxtasks)
  else core.worker_failed(spec.pool, i, err, traceback) end
end

-- The nursery -----------------------------------------------------------------------------

-- Forks worker i; what the system says when it refuses is kept.
local function fork(self, i)
  local spec, pool = self.spec, self.spec.pool
  local number = spec.base + i + 1
  core.pool_expect(pool, i)
  self.births = self.births + 1
  local ok, handle, pid = pcall(process.start_worker, spec.prefix .. number,
    process.place_of(number), self.births, function() return work(spec, i) end)
  if not ok then
    self.trouble = handle
    return false
  end
  self.handles[i], self.by_pid[pid] = handle, i
  self.living = self.living + 1
  return true
end

-- Whether another worker would have something to do; and whether there is an end in sight.
local function outlook(self)
  local pool = self.spec.pool
  if core.pool_broken(pool) then
    local shut = core.pool_over(pool)
    return false, shut
  end
  local shut, empty = core.pool_over(pool)
  return not (shut and empty), shut and empty
end

-- Nobody is there who could report, and nobody can be made.
local function give_up(self, i)
  core.worker_failed(self.spec.pool, i, self.trouble)
  core.pool_bury(self.spec.pool, i, 1)
end

-- Forks those that are owed, as far as the system allows.
local function fork_owed(self)
  local owed = self.owed
  while owed[1] do
    if not outlook(self) then
      self.owed = {}
    elseif fork(self, owed[1]) then
      table.remove(owed, 1)
      self.since = nil
    else
      self.since = self.since or core.monotonic()
      if self.living > 0 or core.monotonic() < self.since + GIVE_UP then return end
      give_up(self, owed[1])
    end
    owed = self.owed
  end
end

-- The number and the exit code of a worker that has ended, or nothing.
local function reap(self)
  local pid = core.nursery_ended()
  local i = pid and self.by_pid[pid]
  if not i then return end
  local code = core.wait(self.handles[i], 0)
  if not code then return end
  self.by_pid[pid], self.handles[i] = nil, nil
  self.living = self.living - 1
  return i, code
end

-- Buries those that ended. While there is no memory to tell of one, its record stays as
-- it is, and nobody gets it.
local function bury_ended(self)
  local dead = self.dead
  for i, code in pairs(dead) do
    if core.pool_bury(self.spec.pool, i, code) then
      dead[i] = nil
      self.owed[#self.owed + 1] = i
    end
  end
end

local function replace_ended(self)
  local i, code = reap(self)
  while i do
    self.dead[i] = code
    i, code = reap(self)
  end
  if next(self.dead) then bury_ended(self) end
  fork_owed(self)
end

-- The pool is thrown away: no worker is there any more when this process ends. (A worker
-- that had ended already is reaped by the attempt to signal it, so no child may be left
-- that a signal could tell of.)
local function terminate(self)
  for _, handle in pairs(self.handles) do core.signal(handle, SIGKILL) end
  for _, handle in pairs(self.handles) do core.wait(handle) end
end

local function ending(self)
  if self.living > 0 or self.owed[1] or next(self.dead) then return false end
  local _, over = outlook(self)
  return over
end

--- The whole life of a nursery.
-- @param spec `pool`; `processes`; `prefix`, `base`: names; `maxtasks`; `initializer`,
--   `initargs` (packed)
function nursery.run(spec)
  local self = { spec = spec, handles = {}, by_pid = {}, living = 0, births = 0, owed = {}, dead = {},
    since = nil, trouble = nil }
  nursery.close_inherited(spec.initializer, spec.initargs)
  for i = 0, spec.processes - 1 do
    if self.owed[1] or not fork(self, i) then self.owed[#self.owed + 1] = i end
    if core.nursery_wait(0) == "term" then return terminate(self) end
  end
  replace_ended(self)
  while not ending(self) do
    local waits = self.owed[1] or next(self.dead)
    local what = core.nursery_wait(waits and RETRY or nil)
    if what == "term" then return terminate(self) end
    replace_ended(self)
  end
end

return nursery
