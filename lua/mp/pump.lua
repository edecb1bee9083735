--- The pump of a pool: what it has in hand, how that gets to the workers, what comes back.
--
-- A call into a pool is a job, its tasks are numbered. What a job needs until its end is
-- in one table:
--   id, handle        its number, and what engine:open gave
--   items, out, errors  by the numbers of the tasks: arguments, results, error objects
--   sent, last        tasks up to `sent` were submitted, up to `last` can be
--   total, done       tasks there are (nil: not known yet), tasks that have ended
--   inflight          tasks that the engine has
--   again             ranges of tasks (first, last, first, last …) to be submitted again
--   tries             how many workers were lost at a task
--   low               submit more when no more than these are in flight
--   chunk, fixed      tasks of a batch; given by the caller
--   depth             with `fixed`: tasks in flight, at most
--   eager             everything is submitted at once
--   ns, measured      time that so many tasks took
--   arrived           of an iterator: function(job, first, last), told of ended tasks
--   over, value       how it ended: "done", "error", "timeout", "dropped"; result or error
--
-- Ctrl-C raises between any two instructions of the script's coroutine. So that it never
-- comes between a report and what is noted of it, all that is on a coroutine of the pool's
-- own, its room; what comes out of it is whole. (Not without processes: there a task runs
-- inside, which Ctrl-C has to reach. Then a job that lost its task ends with an error.)

local check = require "mp.check"
local core = require "mp.core"
local log = require "mp.log"
local RemoteError = require "mp.remote_error"

local max, min, floor, ceil, huge = math.max, math.min, math.floor, math.ceil, math.huge
local resume, status, yield = coroutine.resume, coroutine.status, coroutine.yield
local debug = debug

local BATCH = 2e6      -- ns of work in a batch, aimed at
local TAIL = 3e3       -- ns of work in a batch at least, towards the end
local GROWTH = 8       -- how much longer than the last ones batches can be
local FIRST = 16       -- tasks of the first batches at most
local AHEAD = 3        -- batches for each worker in flight
local DEPTH = 4e6      -- ns of work for each worker in flight, when chunks are fixed
local REPORTS = 256    -- taken in one go: then callbacks, progress and Ctrl-C have their turn
local LOOKS = 64       -- times so many, by a call that may not wait any more
local TICK = 0.5       -- seconds between two drawings of a bar while nothing comes
local HUNGRY = 0.01    -- seconds between two tries to submit while shared memory is full
local STARVED = 1      -- seconds of that, with nothing in flight, that a job lives

local pump = { TERMINATED = "the pool was terminated" }

-- Ends ----------------------------------------------------------------------------

local function shut(st)
  if st.shut then return end
  st.shut = true
  st.engine:close()
end

-- A callback is called later, when nothing is half done.
local function note_callback(st, job)
  local f
  if job.over == "done" then f = job.callback
  elseif job.over ~= "dropped" then f = job.error_callback
  end
  if not f then return end
  local n = st.ncalls + 1
  st.ncalls, st.calls[n] = n, { f, job.value }
end

local function finish(st, job, over, value)
  if job.over then return end
  if over == "done" then
    if job.single then value = job.out[job.last] else value = job.out end
  end
  job.over, job.value = over, value
  if st.jobs[job.id] then -- else Ctrl-C came before its start
    st.jobs[job.id] = nil
    st.live = st.live - 1
    if job.deadline then st.timed = st.timed - 1 end
    if job.bar then st.bars = st.bars - 1 end
  end
  job.items, job.again, job.tries = nil, nil, nil
  if job.handle then st.engine:cancel(job.handle) end
  if job.bar then
    job.bar:update(job.done)
    job.bar:finish(over == "done")
  end
  if over == "timeout" then job.value = "timeout" end
  note_callback(st, job)
  job.callback, job.error_callback = nil, nil
  if st.closing and st.live == 0 then shut(st) end
end

local function finish_all(st, err)
  for _, job in pairs(st.jobs) do finish(st, job, "error", err) end
end

-- No task can be run any more.
local function broken(st, err)
  st.broken = st.broken or err
  finish_all(st, err)
end

local function task_failed(st, job, k, err)
  if not job.arrived then return finish(st, job, "error", err) end
  job.errors[k] = err
  job.done = job.done + 1
  if job.input then job.items[k] = nil end
  job.arrived(job, k, k)
  if job.done == job.total then finish(st, job, "done") end
end

-- Submitting ----------------------------------------------------------------------

local function idle(st)
  for _, job in pairs(st.jobs) do
    if job.inflight > 0 then return false end
  end
  return true
end

-- Task k did not go in: it cannot be marshalled, or shared memory is full, which passes
-- while something is in flight. Returns whether the tasks behind it may be tried.
local function refused(st, job, k, why, message)
  if why ~= "bad" then
    local now = core.monotonic()
    if not idle(st) then job.starving = nil else job.starving = job.starving or now end
    if not job.starving or now - job.starving < STARVED then
      job.hungry, st.hungry = true, true
      job.low = -1
      return false
    end
    message = message or "shared memory is full"
  end
  job.starving = nil
  if not (job.single or job.arrived) then message = ("item %d: %s"):format(k, message) end
  task_failed(st, job, k, message)
  return not job.over
end

-- Submits what has to run once more; whether all of it went in.
local function feed_again(st, job)
  local again, engine = job.again, st.engine
  while again[1] do
    local at = #again - 1
    local first, last = again[at], again[at + 1]
    local n = last - first + 1
    local went, why, message = engine:submit(job.handle, job.items, first, last,
      min(job.chunk, ceil(n / st.workers)))
    job.inflight = job.inflight + went
    if went < n then
      again[at] = first + went
      if not refused(st, job, first + went, why, message) then return false end
      again[at] = first + went + 1
    end
    if again[at] > last or went == n then again[at], again[at + 1] = nil, nil end
  end
  return true
end

-- What the time of the tasks says of the size of batches, or of what is in flight. A part
-- of what is known is forgotten, so that tasks may change.
local function grow(st, job)
  local n = job.measured
  if n == 0 then return end
  local each = job.ns / n + 1
  job.each = each
  if job.fixed then
    job.depth = max(AHEAD * st.workers * job.fixed,
      min(job.depth * GROWTH, floor(DEPTH / each) * st.workers))
  else
    job.chunk = max(1, min(job.chunk * GROWTH, floor(BATCH / each)))
  end
  job.ns, job.measured = job.ns / 2, n / 2
end

-- How long the next batches are, and how many tasks now. They get shorter towards the
-- end, so that the workers finish together.
local function portion(st, job)
  local left = job.last - job.sent
  local chunk = job.chunk
  if job.eager then return chunk, left end
  if job.fixed then
    return chunk, min(left, ceil((job.depth - job.inflight) / chunk) * chunk)
  end
  local least = job.each and floor(TAIL / job.each) or 1
  chunk = max(1, min(chunk, max(least, ceil(left / (2 * st.workers)))))
  if job.inflight >= AHEAD * st.workers * chunk then return chunk, 0 end
  return chunk, min(left, st.workers * chunk)
end

-- Submits as much as should be in flight.
local function feed(st, job)
  if job.over or (job.again and not feed_again(st, job)) or job.over then return end
  if job.sent < job.last then grow(st, job) end
  while job.sent < job.last do
    local chunk, n = portion(st, job)
    if n <= 0 then break end
    local first = job.sent + 1
    local went, why, message = st.engine:submit(job.handle, job.items, first, job.sent + n, chunk)
    job.sent, job.inflight = job.sent + went, job.inflight + went
    if went > 0 then job.starving = nil end
    if went < n then
      if not refused(st, job, first + went, why, message) then return end
      job.sent = first + went
    end
  end
  job.low = job.sent < job.last and job.inflight // 2 or -1
end

-- Jobs for which there was no memory try again.
local function feed_hungry(st)
  st.hungry = false
  for _, job in pairs(st.jobs) do
    if job.hungry then
      job.hungry = nil
      feed(st, job)
    end
  end
end

-- Reports -------------------------------------------------------------------------

-- Tasks of a list that ended with errors: the first of them is the job's.
local function fail_first(st, job, first, last)
  for k = first, last do
    local err = job.errors[k]
    if err then return finish(st, job, "error", RemoteError.of(err)) end
  end
end

local function results(st, job, first, count, nerrors, ns)
  local done = job.done + count
  job.done = done
  job.inflight = job.inflight - count
  if ns > 0 then job.ns, job.measured = job.ns + ns, job.measured + count end
  if job.arrived then
    local last = first + count - 1
    if job.input then
      local items = job.items
      for k = first, last do items[k] = nil end
    end
    job.arrived(job, first, last)
    if done == job.total then finish(st, job, "done") end
    return
  end
  if nerrors > 0 then fail_first(st, job, first, first + count - 1) end
  if done == job.total then
    finish(st, job, "done")
  elseif job.inflight <= job.low then
    feed(st, job)
  end
end

local function once_more(job, first, last)
  local again = job.again
  if not again then
    again = {}
    job.again = again
  end
  again[#again + 1] = first
  again[#again + 1] = last
end

local function returned(st, id, first, count)
  local job = st.jobs[id]
  if not job or count == 0 then return end
  job.inflight = job.inflight - count
  once_more(job, first, first + count - 1)
  feed(st, job)
end

-- A worker is gone that was at task `first`; the others of the count were not begun.
local function lost(st, id, first, count, code, pid, process, overdue)
  local job = st.jobs[id]
  if not job or count == 0 then return end
  job.inflight = job.inflight - count
  local tries = job.tries or {}
  local n = (tries[first] or 0) + 1
  job.tries, tries[first] = tries, n
  if count > 1 then once_more(job, first + 1, first + count - 1) end
  if overdue then
    task_failed(st, job, first,
      RemoteError.of { message = "task timed out", process = process, pid = pid })
  elseif n > job.retries then
    task_failed(st, job, first,
      RemoteError.lost(code, ("while it ran task %d"):format(first), process, pid))
  else
    once_more(job, first, first)
  end
  feed(st, job)
end

-- A worker could not get ready, and no other would.
local function failed(st, err, code, pid, process)
  if type(err) == "table" then
    broken(st, RemoteError.of(err))
  else
    broken(st, RemoteError.lost(code, "before it was ready", process, pid))
  end
end

local others = { lost = lost, returned = returned, failed = failed }

local function drop_abandoned(st)
  local list = st.abandoned
  st.abandoned = {}
  for _, job in ipairs(list) do finish(st, job, "dropped") end
end

-- Takes reports, for the first one of which it waits; at most `limit`, and none when
-- `job` is over. Returns how many.
local function drain(st, timeout, job, limit)
  if st.abandoned[1] then drop_abandoned(st) end
  if st.hungry then
    feed_hungry(st)
    if st.hungry then timeout = min(timeout or HUNGRY, HUNGRY) end
  end
  local engine, jobs, n = st.engine, st.jobs, 0
  while n < limit and not (job and job.over) do
    local kind, id, first, count, a, b, c, d = engine:take(jobs, timeout)
    if kind == "results" then
      local wanted = jobs[id]
      if wanted then results(st, wanted, first, count, a, b) end
    elseif kind then
      others[kind](st, id, first, count, a, b, c, d)
    else
      break
    end
    n = n + 1
    timeout = 0
  end
  return n
end

-- The room ------------------------------------------------------------------------

local function serve(op, st, a, b, c)
  while true do op, st, a, b, c = yield(op(st, a, b, c)) end
end

local function left(st, ok, result)
  if ok then return result end
  st.room = coroutine.create(serve)
  if check.is_interrupt(result) then error(result, 0) end
  broken(st, result) -- the engine has given up
end

-- Calls op(st, a, b, c) where no hook of the script reaches it.
local function enter(st, op, a, b, c)
  if st.direct then return op(st, a, b, c) end
  local room = st.room
  if status(room) ~= "suspended" then check.raise("a call into this pool is under way already") end
  return left(st, resume(room, op, st, a, b, c))
end

-- Around the room -----------------------------------------------------------------

local function with_traceback(err)
  if check.is_interrupt(err) or not (debug and type(err) == "string") then return err end
  return debug.traceback(err, 2)
end

-- What a callback raises has nobody to go to: it is told, whether or not there is a log.
local function tell(err)
  local text = "a callback of a pool failed: " .. tostring(err)
  if log.get_logger().handler then log.error("%s", text)
  else core.write(2, ("[ERROR/%s] %s\n"):format(core.name, text))
  end
end

-- Each is taken out before it is called, and it may call the pool, which comes here too.
local function run_callbacks(st)
  while st.called < st.ncalls do
    local i = st.called + 1
    local call = st.calls[i]
    st.calls[i] = nil
    st.called = i
    if i == st.ncalls then st.called, st.ncalls = 0, 0 end
    local ok, err = xpcall(call[1], with_traceback, call[2])
    if not ok then
      if check.is_interrupt(err) then error(err, 0) end
      tell(err)
    end
  end
end

-- The time until the next deadline of a job, or `timeout` if that is less.
local function until_deadline(st, timeout)
  local now, soonest = core.monotonic(), timeout or huge
  for _, job in pairs(st.jobs) do
    if job.deadline then soonest = min(soonest, max(0, job.deadline - now)) end
  end
  return soonest
end

local function expire(st)
  local now = core.monotonic()
  for _, job in pairs(st.jobs) do
    if job.deadline and job.deadline <= now then finish(st, job, "timeout") end
  end
end

local function show_progress(st)
  for _, job in pairs(st.jobs) do
    if job.bar then job.bar:update(job.done) end
  end
end

--- Takes what has come, and does what follows from it: results, retries, new batches,
-- callbacks, progress.
-- @param timeout seconds to wait for something; nil waits for ever, 0 does not wait
-- @param job comes back when this one is over
-- @return reports that there were; of those there may be more. Without processes: one
--   task is run.
function pump.step(st, timeout, job)
  if st.timed > 0 then timeout = until_deadline(st, timeout) end
  if st.bars > 0 and not st.direct then timeout = min(timeout or TICK, TICK) end
  if st.direct and st.timed > 0 then enter(st, expire) end -- a task that has begun is not left
  local n = enter(st, drain, timeout, job, st.direct and 1 or REPORTS) or 0
  if st.timed > 0 then enter(st, expire) end
  if st.direct and n == 0 and job and not job.over then
    finish(st, job, "error", "the task was interrupted")
  end
  if st.bars > 0 then show_progress(st) end
  if st.ncalls > 0 then run_callbacks(st) end
  return n
end

--- At each call into the pool: takes what is there.
function pump.look(st)
  if st.ended then
    if st.ncalls > 0 then run_callbacks(st) end
  elseif st.live > 0 or st.ncalls > 0 then
    pump.step(st, 0)
  end
end

--- Waits until a job is over.
-- @param deadline of core.monotonic(), or nil
-- @return whether it is
function pump.await(st, job, deadline)
  local timeout
  local looks = LOOKS
  while not job.over and looks > 0 do
    if deadline then timeout = max(0, deadline - core.monotonic()) end
    local n = pump.step(st, timeout, job)
    if timeout == 0 then looks = n == REPORTS and looks - 1 or 0 end
  end
  return job.over ~= nil
end

--- What a job came to: its value; raises its error.
function pump.outcome(job)
  local over, value = job.over, job.value
  if over == "done" then return value end
  if over == "timeout" then return nil, "timeout" end
  if type(value) == "string" then check.reraise(value) end
  error(value, 0)
end

-- Jobs ----------------------------------------------------------------------------

local function start(st, job)
  st.live = st.live + 1
  st.jobs[job.id] = job
  if job.deadline then st.timed = st.timed + 1 end
  if job.bar then st.bars = st.bars + 1 end
  if st.broken then finish(st, job, "error", st.broken)
  elseif job.failed then finish(st, job, "error", job.failed)
  elseif job.done == job.total then finish(st, job, "done")
  else feed(st, job)
  end
end

--- Makes a job of its fields; it is nothing to the pool yet. What must be there: items,
-- sent, last, total, retries.
function pump.job(st, f, spread, task_timeout, job)
  st.ids = st.ids + 1
  job.id = st.ids
  job.out, job.errors = job.out or {}, {}
  job.done, job.inflight, job.low, job.ns, job.measured = 0, 0, -1, 0, 0
  local n = job.total or huge
  job.chunk = job.fixed or floor(max(1, min(FIRST, n // (GROWTH * st.workers))))
  job.depth = max(FIRST, AHEAD * st.workers * job.chunk)
  if st.broken or job.done == job.total then return job end
  local ok, handle = pcall(st.engine.open, st.engine, f, {
    id = job.id, spread = spread, timeout = task_timeout, grace = st.grace, seed = st.seed,
  })
  if ok then job.handle = handle
  elseif check.is_interrupt(handle) then error(handle, 0)
  else job.failed = handle
  end
  return job
end

--- Has a job run.
function pump.start(st, job) enter(st, start, job) end

--- Submits tasks that were added to a job.
function pump.feed(st, job) enter(st, feed, job) end

--- Ends a job: "dropped", nobody wants its results any more; "done"; "error", value.
function pump.finish(st, job, over, value)
  if not job.over then enter(st, finish, job, over, value) end
end

-- The pool ------------------------------------------------------------------------

--- The state of a pool.
-- @param engine the seam
-- @param options processes, retries, seed, grace
function pump.new(engine, options)
  return {
    engine = engine, owner = core.getpid(), processes = options.processes,
    workers = max(1, options.processes), direct = options.processes == 0,
    retries = options.retries or 0, seed = options.seed, grace = options.grace,
    jobs = {}, live = 0, ids = 0, applied = 0, timed = 0, bars = 0,
    calls = {}, called = 0, ncalls = 0, abandoned = {},
    room = coroutine.create(serve), -- also what keeps a pool from crossing to other processes
  }
end

--- Lets what is there run to its end and takes nothing more.
function pump.close(st)
  st.closing = true
  if st.live == 0 then shut(st) end
end

--- Ends everything at once.
function pump.terminate(st)
  st.terminated = true
  if st.ended then return end
  st.engine:terminate()
  st.shut = true
  finish_all(st, pump.TERMINATED)
  pump.end_of(st)
end

--- Nothing of the pool is left to be ended.
function pump.end_of(st)
  st.ended = true
  if st.unhook then
    st.unhook()
    st.unhook = nil
  end
end

--- Tasks that have not ended.
function pump.waiting(st)
  local n = 0
  for _, job in pairs(st.jobs) do n = n + (job.total or job.last) - job.done end
  return n
end

pump.run_callbacks = run_callbacks

return pump
