--- Pools: calls that are shared out to worker processes.
--
-- Workers start when the pool is made, with what the script had then; functions that are made later
-- go to them, closures included, and changes that they make to their upvalues stay in the worker.
--
-- Every call comes to an end: with a result, an error, a lost worker or a time-out. A worker that dies
-- is replaced at once, its task is tried again (`retries`) or fails with an `mp.RemoteError` that names
-- the signal, and the others go on. Workers ignore Ctrl-C; the process that made the pool raises it once.
-- @module pool

-- This file has what a script sees: arguments, options, the kinds of calls. How a call
-- becomes batches and comes to its end is in pump.lua; iterators are in stream.lua; the
-- workers are behind the seam, engine.lua or inline.lua.

local check = require "mp.check"
local core = require "mp.core"
local process = require "mp.process"
local progress = require "mp.progress"
local pump = require "mp.pump"
local result = require "mp.result"
local stream = require "mp.stream"

local ceil, max, min, mtype = math.ceil, math.max, math.min, math.type

local WORKERS_MAX = 4000
local CHUNK_MAX = 1 << 24 -- tasks of a batch: more are never there, and it is a small number
local EXIT_PRIORITY = 15 -- of the hook that ends pools, among those at the end of a process

-- Options -------------------------------------------------------------------------

local function whole(least, most)
  local expected = least == 0 and "integer that is not negative" or "positive integer"
  if most then expected = ("integer from %d to %d"):format(least, most) end
  return function(value)
    if mtype(value) ~= "integer" or value < least or (most and value > most) then return expected end
  end
end

local function seconds(value)
  if type(value) ~= "number" or value ~= value then return "number of seconds" end
end

local function some_seconds(value)
  if type(value) ~= "number" or value ~= value or value <= 0 then return "positive number of seconds" end
end

local function callable(value)
  if not check.callable(value) then return "function" end
end

local pool_options = {
  processes = whole(0, WORKERS_MAX),
  initializer = callable,
  initargs = function(value) if type(value) ~= "table" then return "table" end end,
  maxtasksperchild = whole(1),
  retries = whole(0),
  seed = function(value) if mtype(value) ~= "integer" then return "integer" end end,
  grace = function(value)
    if type(value) ~= "number" or value ~= value or value < 0 then return "number of seconds" end
  end,
}

local tests = {
  chunksize = whole(1),
  timeout = seconds,
  task_timeout = some_seconds,
  retries = whole(0),
  window = whole(1),
  callback = callable,
  error_callback = callable,
  progress = function(value)
    if type(value) ~= "boolean" and type(value) ~= "string" then return "boolean or text" end
  end,
}

local function options_of(...)
  local known = {}
  for _, name in ipairs { ... } do known[name] = tests[name] end
  return known
end

local apply_options = options_of("timeout", "task_timeout", "retries")
local apply_async_options = options_of("timeout", "task_timeout", "retries", "callback", "error_callback")
local map_options = options_of("chunksize", "timeout", "task_timeout", "retries", "progress")
local map_async_options = options_of("chunksize", "timeout", "task_timeout", "retries", "progress",
  "callback", "error_callback")
local imap_options = options_of("chunksize", "timeout", "task_timeout", "retries", "progress", "window")

local NONE = {}

local function check_options(n, fname, opts, known)
  if opts == nil then return NONE end
  check.arg(n, fname, opts, "table")
  check.options(n, fname, opts, known)
  return opts
end

-- The label of a bar that was asked for; nil when none was.
local function bar_of(opts, total)
  local wanted = opts.progress
  if not wanted then return nil end
  return progress.new { total = total, label = type(wanted) == "string" and wanted or nil }
end

-- Arguments -----------------------------------------------------------------------

--- A pool of worker processes. Only the process that made it can use it. Leaving the scope of a
-- `<close>` pool terminates it. Options of calls:
--
-- | option | of | meaning |
-- | --- | --- | --- |
-- | `timeout` | all | seconds for the whole call; then it gives nil, "timeout" |
-- | `task_timeout` | all | seconds for each task: an error in it first, after `grace` the end of its worker |
-- | `retries` | all | how often a task is tried again when its worker died; the pool's by default |
-- | `chunksize` | maps, imaps | items that go to a worker together; by default what takes some milliseconds |
-- | `progress` | maps, imaps | true, or a label: a bar on a terminal, plain lines elsewhere, on stderr |
-- | `window` | imaps | how many items are taken from the input ahead of the reader; bounded by default |
-- | `callback` | the `_async` ones | called with the result, inside a later call into the pool |
-- | `error_callback` | the `_async` ones | called with the error, inside a later call into the pool |
--
-- @type Pool
local Pool = {}

--- How many workers it has.
-- @tfield integer processes

-- Of pools.
local metatable = { __name = "mp.Pool", __mp = "mp.Pool", __index = Pool }

local function state_of(self, method)
  local st = type(self) == "table" and getmetatable(self) == metatable and self._mp
  if not st then
    check.raise("calling '%s' on bad self (mp.Pool expected, got %s)", method,
      self == nil and "no value" or check.typename(self))
  end
  if st.owner ~= core.getpid() then
    check.raise("a pool can only be used by the process that made it")
  end
  return st
end

-- What every call begins with, when its arguments are right: what has come is looked at.
local function enter(st)
  pump.look(st)
  if st.terminated then check.raise("%s", pump.TERMINATED) end
  if st.closing then check.raise("the pool is closed") end
end

local function chunksize_of(opts)
  return opts.chunksize and min(opts.chunksize, CHUNK_MAX)
end

local function check_function(fname, f)
  if not check.callable(f) then
    check.arg_error(1, fname, "function expected, got %s", f == nil and "no value" or check.typename(f))
  end
end

-- The length of a list that may say it itself, as table.pack does.
local function length(list)
  local n = rawget(list, "n")
  if mtype(n) == "integer" and n >= 0 then return n end
  return #list
end

-- An input as a list and its length, or as a function.
local function check_input(fname, input)
  if check.callable(input) then return nil, nil, input end
  if type(input) == "table" then return input, length(input) end
  check.arg_error(2, fname, "list or iterator expected, got %s",
    input == nil and "no value" or check.typename(input))
end

local function materialised(input)
  local list, n = {}, 0
  while true do
    local item = input()
    if item == nil then return list, n end
    n = n + 1
    list[n] = item
  end
end

-- The items of a starmap must be lists.
local function check_spread(fname, list, n)
  for i = 1, n do
    if type(list[i]) ~= "table" then
      check.arg_error(2, fname, "item %d: list of arguments expected, got %s", i,
        list[i] == nil and "nil" or check.typename(list[i]))
    end
  end
end

-- Calls ---------------------------------------------------------------------------

-- Whatever way a call is left, its job is not wanted any more.
local Wanted = {}
function Wanted:__close()
  local job = self.job
  if job and not job.over then pump.finish(self.st, job, "dropped") end
end

-- Runs a job to its end, for a call that waits.
local function run(st, job)
  local _ <close> = setmetatable({ st = st, job = job }, Wanted)
  pump.start(st, job)
  pump.await(st, job)
  return pump.outcome(job)
end

local function start(self, st, job)
  pump.start(st, job)
  return result.new(self, job)
end

-- The job of a single call, which has the number of those that there were.
local function single(st, f, args, opts)
  local k = st.applied + 1
  st.applied = k
  return pump.job(st, f, true, opts.task_timeout, {
    items = { [k] = args or NONE }, sent = k - 1, last = k, total = 1, single = true, fixed = 1,
    retries = opts.retries or st.retries,
    callback = opts.callback, error_callback = opts.error_callback,
    deadline = opts.timeout and core.monotonic() + opts.timeout,
  })
end

local function applying(fname, known)
  return function(self, f, args, opts)
    local st = state_of(self, fname)
    check_function(fname, f)
    check.arg(2, fname, args, "table", true)
    opts = check_options(3, fname, opts, known)
    enter(st)
    return st, single(st, f, args, opts)
  end
end

local new_apply, new_apply_async = applying("apply", apply_options), applying("apply_async", apply_async_options)

--- Calls f in a worker and waits for its result.
-- @function Pool:apply
-- @tparam function f any function that can be marshalled
-- @tparam[opt] table args its arguments; `n` is their number if it is there
-- @tparam[opt] table opts timeout, task_timeout, retries
-- @return the first value that f returned; nil when the time is over
-- @treturn string|nil "timeout"
-- @raise the task's error, an `mp.RemoteError`
-- @python `Pool.apply(f, args)`
function Pool:apply(f, args, opts)
  return run(new_apply(self, f, args, opts))
end

--- Calls f in a worker, and does not wait.
-- @function Pool:apply_async
-- @tparam function f any function that can be marshalled
-- @tparam[opt] table args its arguments
-- @tparam[opt] table opts timeout, task_timeout, retries, callback, error_callback
-- @treturn AsyncResult
-- @python `Pool.apply_async(f, args, callback=, error_callback=)`, whose callbacks run in a thread
function Pool:apply_async(f, args, opts)
  return start(self, new_apply_async(self, f, args, opts))
end

-- The job of a map: of a call that waits, or of one that does not.
local function mapping(fname, spread, async)
  local known = async and map_async_options or map_options
  return function(self, f, input, opts)
    local st = state_of(self, fname)
    check_function(fname, f)
    local list, n, iterator = check_input(fname, input)
    opts = check_options(3, fname, opts, known)
    local deadline = opts.timeout and core.monotonic() + opts.timeout
    enter(st)
    if iterator then
      list, n = materialised(iterator)
      enter(st)
    elseif async then
      list = table.move(list, 1, n, 1, {}) -- the script may change its own
    end
    if spread then check_spread(fname, list, n) end
    return st, pump.job(st, f, spread, opts.task_timeout, {
      items = list, sent = 0, last = n, total = n, out = core.pool_list(n), eager = async,
      fixed = chunksize_of(opts) or (async and max(1, ceil(n / (4 * st.workers)))) or nil,
      retries = opts.retries or st.retries, deadline = deadline, bar = bar_of(opts, n),
      callback = opts.callback, error_callback = opts.error_callback,
    })
  end
end

local new_map, new_starmap = mapping("map", false, false), mapping("starmap", true, false)
local new_map_async = mapping("map_async", false, true)
local new_starmap_async = mapping("starmap_async", true, true)

--- Calls f for every item of a list and waits for all results. The first error that
-- becomes known is raised, and the rest is cancelled.
-- @function Pool:map
-- @tparam function f of one item
-- @tparam table|function list a list (`n` is its length if it is there), or a function that returns
--   an item at each call and nil at the end
-- @tparam[opt] table opts chunksize, timeout, task_timeout, retries, progress
-- @treturn table|nil list of results, with holes where they are nil; nil when the time is over
-- @treturn string|nil "timeout"
-- @raise the error of a task, an `mp.RemoteError`
-- @python `Pool.map(f, iterable, chunksize)`, which waits for all the rest before it raises
function Pool:map(f, list, opts) return run(new_map(self, f, list, opts)) end

--- As `Pool:map`, where every item is a list of arguments.
-- @function Pool:starmap
-- @tparam function f of several arguments
-- @tparam table|function list lists of arguments
-- @tparam[opt] table opts as for `Pool:map`
-- @treturn table|nil list of results
-- @treturn string|nil "timeout"
-- @raise as `Pool:map`
-- @python `Pool.starmap`
function Pool:starmap(f, list, opts) return run(new_starmap(self, f, list, opts)) end

--- As `Pool:map`, and does not wait. All of it is submitted at once.
-- @function Pool:map_async
-- @tparam function f of one item
-- @tparam table|function list as for `Pool:map`
-- @tparam[opt] table opts as for `Pool:map`, and callback, error_callback
-- @treturn AsyncResult
-- @python `Pool.map_async`
function Pool:map_async(f, list, opts)
  return start(self, new_map_async(self, f, list, opts))
end

--- As `Pool:map_async`, where every item is a list of arguments.
-- @function Pool:starmap_async
-- @tparam function f of several arguments
-- @tparam table|function list lists of arguments
-- @tparam[opt] table opts as for `Pool:map_async`
-- @treturn AsyncResult
-- @python `Pool.starmap_async`
function Pool:starmap_async(f, list, opts)
  return start(self, new_starmap_async(self, f, list, opts))
end

local function iterating(fname, ordered)
  return function(self, f, input, opts)
    local st = state_of(self, fname)
    check_function(fname, f)
    local list, n, iterator = check_input(fname, input)
    opts = check_options(3, fname, opts, imap_options)
    enter(st)
    return stream.new(self, st, {
      f = f, input = iterator, list = list, total = n, ordered = ordered,
      chunksize = chunksize_of(opts), window = opts.window, task_timeout = opts.task_timeout,
      retries = opts.retries or st.retries, bar = bar_of(opts, n),
      deadline = opts.timeout and core.monotonic() + opts.timeout,
    })
  end
end

--- Calls f for every item of a list or iterator, which is read only as far ahead as the
-- window; in memory are no more items and results than that.
-- @function Pool:imap
-- @tparam function f of one item
-- @tparam table|function list a list, or a function that returns an item at each call and nil at the
--   end
-- @tparam[opt] table opts chunksize, timeout, task_timeout, retries, progress, window
-- @treturn function iterator of `index, value` in the order of the input. It raises the error of a
--   failed task at its place; called again it goes on. Leaving the loop cancels the rest. When
--   `timeout` is over it gives nil, "timeout".
-- @python `Pool.imap`, which reads all of the input at once
-- @usage local pool <close> = mp.Pool(2)
-- for i, word in pool:imap(string.upper, ("one two"):gmatch "%a+") do print(i, word) end
-- --> 1	ONE
-- --> 2	TWO
Pool.imap = iterating("imap", true)

--- As `Pool:imap`, in the order in which the results come.
-- @function Pool:imap_unordered
-- @tparam function f of one item
-- @tparam table|function list as for `Pool:imap`
-- @tparam[opt] table opts as for `Pool:imap`
-- @treturn function iterator of `index, value`
-- @python `Pool.imap_unordered`
Pool.imap_unordered = iterating("imap_unordered", false)

-- Ends ----------------------------------------------------------------------------

--- Lets no more calls in. What was submitted runs to its end, then the workers end.
-- @function Pool:close
-- @python `Pool.close`
function Pool:close()
  local st = state_of(self, "close")
  pump.look(st)
  pump.close(st)
end

--- Ends the workers at once. What was not finished ends with an error.
-- @function Pool:terminate
-- @python `Pool.terminate`
function Pool:terminate()
  local st = state_of(self, "terminate")
  pump.terminate(st)
  pump.look(st)
end

-- Reads on for iterators that nobody reads; whether one of them can give more at once.
local function read_on(st)
  local list, more = {}, false
  for _, job in pairs(st.jobs) do
    if job.refill and job.taken ~= job.total then list[#list + 1] = job end
  end
  for _, job in ipairs(list) do
    if not job.over then more = job.refill(st, job) or more end
  end
  return more
end

-- Runs all that is there to its end, or to the deadline.
local function run_out(st, deadline)
  st.unread = true
  repeat
    local timeout = deadline and max(0, deadline - core.monotonic())
    local more = read_on(st)
    if st.live > 0 then pump.step(st, more and 0 or timeout) end
  until st.live == 0 or timeout == 0
  return st.live == 0
end

--- Waits for the end of all tasks and workers, after `close` or `terminate`.
-- @function Pool:join
-- @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
-- @treturn boolean whether they have ended
-- @raise before `close` or `terminate`
-- @python `Pool.join`, which has no time-out
function Pool:join(timeout)
  local st = state_of(self, "join")
  check.timeout(1, "join", timeout)
  if not st.closing and not st.terminated then
    check.raise("the pool is still running; close or terminate it first")
  end
  local deadline = timeout and core.monotonic() + timeout
  pump.look(st)
  if st.ended then return true end
  if not run_out(st, deadline) then return false end
  if not st.ended then
    pump.close(st)
    if not st.engine:join(deadline and max(0, deadline - core.monotonic())) then return false end
    pump.end_of(st)
  end
  pump.look(st)
  return true
end

-- The metatable -------------------------------------------------------------------

function metatable.__close(self)
  local st = self._mp
  if st.owner == core.getpid() then
    pump.terminate(st)
    pump.look(st)
  end
end

function metatable.__gc(self)
  local st = self._mp
  if st and st.owner == core.getpid() then pump.terminate(st) end
end

local function counted(n, what) return ("%d %s%s"):format(n, what, n == 1 and "" or "s") end

function metatable.__tostring(self)
  local st = self._mp
  local state = st.terminated and ", terminated" or st.broken and ", broken" or st.closing and ", closed"
  return ("mp.Pool: %p (%s, %s waiting%s)"):format(self, counted(st.processes, "worker"),
    counted(pump.waiting(st), "task"), state or "")
end

-- Making one ----------------------------------------------------------------------

local function check_processes(n)
  local expected = pool_options.processes(n)
  if expected then
    check.arg_error(1, "Pool", "%s expected, got %s", expected,
      type(n) == "number" and tostring(n) or check.typename(n))
  end
end

local pool = {}

--- Makes a pool; its workers start at once, with what the script has now.
-- @function mp.Pool
-- @tparam[opt] integer|table options the number of workers, or:
-- @tparam[opt] integer options.processes number of workers; `mp.cpu_count()` by default, 0 runs
--   everything in the caller, in order
-- @tparam[opt] function options.initializer called in each worker before its first task
-- @tparam[opt] table options.initargs its arguments
-- @tparam[opt] integer options.maxtasksperchild number of tasks after which a worker is replaced
-- @tparam[opt=0] integer options.retries how often a task is tried again when its worker died
-- @tparam[opt] integer options.seed gives every task a stream of `math.random` of its own, whichever
--   worker runs it
-- @tparam[opt=1] number options.grace seconds from "task timed out" to the end of the worker
-- @treturn Pool
-- @raise unknown or wrong options; when no process can be started
-- @python `multiprocessing.Pool(processes, initializer, initargs, maxtasksperchild)`
-- @usage local pool <close> = mp.Pool(4)
-- print(pool:apply(math.sqrt, { 16 })) --> 4.0
function pool.Pool(options, ...)
  if select("#", ...) > 0 then
    check.arg_error(2, "Pool", "options go into one table: Pool{ processes = …, initializer = … }")
  end
  local given = type(options) == "table" and options or { processes = options }
  if given == options then check.options(1, "Pool", given, pool_options)
  elseif options ~= nil then check_processes(options)
  end
  local n = given.processes or require "mp.cpus" ()
  core.member()
  local engine = check.call(require(n == 0 and "mp.inline" or "mp.engine").new, {
    processes = n, initializer = given.initializer, initargs = given.initargs,
    maxtasksperchild = given.maxtasksperchild, name = "PoolWorker-" .. process.place_of(""),
  })
  local st = pump.new(engine, {
    processes = n, retries = given.retries, seed = given.seed, grace = given.grace or 1,
  })
  local self = setmetatable({ _mp = st, processes = n }, metatable)
  st.unhook = process.at_exit(EXIT_PRIORITY, function() pump.terminate(st) end)
  return self
end

return pool
