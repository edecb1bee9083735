--- The engine of a pool whose workers are processes of this machine.
--
-- An engine has eight calls: open, submit, take, cancel, fileno, close, join, terminate.
-- What is above them knows nothing of processes. The workers are forked by a nursery
-- (mp.nursery), a child of the process that has made the engine; it reports through the
-- same queue as they do. The nursery itself may be killed: its workers go with it, and
-- whoever takes reports notices, buries them and starts another one.

local check = require "mp.check"
local core = require "mp.core"
local nursery = require "mp.nursery"
local process = require "mp.process"

local monotonic, pool_submit, pool_take = core.monotonic, core.pool_submit, core.pool_take
local SIGKILL, SIGUSR1, SIGTERM = 9, 10, 15

--- Seconds between two looks at the nursery.
local SLICE = 0.2
--- Seconds that a nursery has to end its workers before it is killed itself.
local GRACE = 5
--- Seconds that the children of a dead nursery may take to follow it, and between looks.
local MOURNING, MOMENT = 5, 0.001
--- Nurseries in a row that may end without a report from one of their workers.
local RESTARTS = 5

local engine = {}
local Engine = {}
Engine.__index = Engine

-- Workers are numbered through all pools of a process.
local numbered, numbered_in = 0, nil

local function take_numbers(n)
  if numbered_in ~= process.current_process() then
    numbered, numbered_in = 0, process.current_process()
  end
  numbered = numbered + n
  return numbered - n
end

local function start_nursery(self)
  local spec = self.spec
  self.handle = process.start_nursery(function() return nursery.run(spec) end)
  self.nurseries = self.nurseries + 1
end

--- Starts the workers.
-- @param options `processes`, `name` (prefix of the workers' names; default PoolWorker-),
--   `initializer`, `initargs` (packed), `maxtasksperchild`
-- @return engine
-- @raise when the system refuses to fork
function engine.new(options)
  local n = options.processes
  local prefix = options.name or "PoolWorker-" .. process.place_of("")
  local initargs = options.initargs or {}
  local last = initargs.n or #initargs
  local base = take_numbers(n)
  local self = setmetatable({
    pool = check.call(core.pool, n, prefix, base), owner = core.getpid(), looked = monotonic(),
    closed = false, ended = false, gone = false, restarts = 0, nurseries = 0, handle = nil, spec = nil,
    watched = false,
  }, Engine)
  self.spec = {
    pool = self.pool, processes = n, prefix = prefix, base = base,
    initializer = options.initializer, maxtasks = options.maxtasksperchild,
    initargs = { n = last, table.unpack(initargs, 1, last) },
  }
  start_nursery(self)
  return self
end

-- The nursery --------------------------------------------------------------------------

local function how(code)
  return code < 0 and ("was killed by signal %d"):format(-code)
    or ("ended with exit code %d"):format(code)
end

-- The children of a dead nursery follow it: waits for that, then buries them. False when
-- shared memory is too full to tell of them before reports were taken.
local function bury_workers(self)
  local deadline = monotonic() + MOURNING
  while core.orphans(self.handle) do
    if monotonic() > deadline then check.raise("workers of a pool do not end") end
    core.sleep(MOMENT)
  end
  for i = 0, self.spec.processes - 1 do
    if not core.pool_bury(self.pool, i, -SIGKILL) then return false end
  end
  return true
end

-- Whether workers have anything to do still.
local function needed(self)
  local shut, empty = core.pool_over(self.pool)
  if core.pool_broken(self.pool) then return not shut, false end
  return not (shut and empty), true
end

-- The nursery has ended, and was not told to.
local function replace_nursery(self, code)
  if not bury_workers(self) then return end
  local wanted, usable = needed(self)
  if not wanted then
    self.ended = true
  elseif usable then
    if self.restarts == RESTARTS then
      check.raise("the process that forks the workers of the pool %s, %d times in a row",
        how(code), RESTARTS + 1)
    end
    start_nursery(self)
    self.restarts = self.restarts + 1
  end
end

-- Looks after the nursery.
local function tend(self)
  self.looked = monotonic()
  if self.ended then return end
  local code = core.wait(self.handle, 0)
  if code == 0 and self.closed then self.ended = true
  elseif code then replace_nursery(self, code) end
end

-- Nothing is left but what the pool has in shared memory.
local function give_back(self)
  self.ended, self.gone = true, true
  core.pool_close(self.pool)
end

-- The eight calls ------------------------------------------------------------------------

--- Opens a job: what is to be called, and how.
-- @param f the function
-- @param opts `id`, `spread`, `timeout`, `grace`, `seed`
-- @return handle, for submit and cancel
-- @raise when f cannot be marshalled
function Engine:open(f, opts)
  local ok, job = pcall(core.pool_open, self.pool, f, opts)
  if not ok then error(job, 0) end -- without a place: the policy knows the script's
  return job
end

--- Submits the tasks first..last of a job, whose arguments are `items[first..last]`.
-- @param chunk how many a worker takes at once
-- @return how many were taken; and when it was not all of them, why: "full", or "bad" and
--   the error of the item behind them
function Engine:submit(handle, items, first, last, chunk)
  return pool_submit(self.pool, handle, items, first, last, chunk)
end

-- Goes on taking after a slice that brought nothing (`kind` is false), or the end of the
-- time-out (nil).
local function go_on(self, jobs, deadline, kind)
  local over = kind == nil
  if self.watched then core.pool_calm(self.pool) end
  -- (Who waits for a descriptor may not come again before something is told there.)
  if over and not self.watched and monotonic() - self.looked < SLICE then return end
  repeat
    tend(self)
    local left = (over or self.ended) and 0 or deadline and deadline - monotonic()
    local what, a, b, c, d, e, f, g = pool_take(self.pool, jobs, left)
    if what then
      self.restarts = 0
      return what, a, b, c, d, e, f, g
    end
    if what == nil and self.ended and not over then
      check.raise("the workers of the pool have ended")
    end
  until what == nil
end

--- Takes one report, none when join or terminate have seen the end.
-- @param jobs id -> job table: its results go to `out`, its failures to `errors`
-- @param timeout seconds
-- @return kind ("results", "lost", "returned", "failed") and what belongs to it
--   (core.pool_take); nothing when the time is over
function Engine:take(jobs, timeout)
  if self.gone then return end
  local deadline = timeout and timeout > 0 and monotonic() + timeout or timeout
  local kind, a, b, c, d, e, f, g = pool_take(self.pool, jobs, timeout)
  if not kind then return go_on(self, jobs, deadline, kind) end
  if self.restarts > 0 then self.restarts = 0 end
  return kind, a, b, c, d, e, f, g
end

--- Gives a job up, or back when it is over: what was not begun of it is dropped.
function Engine:cancel(handle)
  if self.gone then return end
  core.pool_cancel(self.pool, handle)
  core.pool_done(handle)
end

--- A descriptor that polls readable while reports wait.
function Engine:fileno()
  self.watched = true
  return check.call(core.pool_fd, self.pool)
end

--- No more tasks: the workers do what was submitted, and end.
function Engine:close()
  if self.closed or self.owner ~= core.getpid() then return end
  self.closed = true
  core.pool_shut(self.pool)
  core.signal(self.handle, SIGUSR1)
end

--- Waits until everything has ended, after close or terminate.
-- @param timeout seconds
-- @return whether it has
function Engine:join(timeout)
  if self.owner ~= core.getpid() then return true end
  local deadline = timeout and monotonic() + timeout
  while not self.ended do
    local left = deadline and math.max(0, deadline - monotonic())
    if not core.wait(self.handle, left) then return false end
    tend(self)
    if left == 0 then return self.ended end
    if not self.ended then core.sleep(MOMENT) end
  end
  give_back(self)
  return true
end

--- Ends everything at once; no worker lives any more when it returns.
function Engine:terminate()
  if self.gone or self.owner ~= core.getpid() then return end
  core.signal(self.handle, SIGTERM)
  if not core.wait(self.handle, GRACE) then
    core.signal(self.handle, SIGKILL)
    core.wait(self.handle)
  end
  local deadline = monotonic() + MOURNING
  while core.orphans(self.handle) and monotonic() < deadline do core.sleep(MOMENT) end
  give_back(self)
end

--- For a manager's server, in which taking reports must not wait.
engine.Engine = Engine

return engine
