--- imap and imap_unordered: iterators over results, which read their input as they go.
--
-- What a job (see pump.lua) has here besides:
--   input      function, or nil when `items` is the caller's list
--   taken      items that were taken from the input; `last` is the same
--   given      results that the reader was given
--   window     taken - given, at most; `fixed_window` when the caller has said so
--   room       the input is read on when no more than these are ahead of the reader
--   step       items taken in one go: less when the input is slow
--   slow       the input is: what is ready does not wait for it
--   raised     {error} of the input
-- in order:    frontier, tasks up to which have ended; ranges, first -> last of those behind
-- unordered:   ready, ranges (first, last, …) of ended tasks, from `head` to `tail`; next,
--              upto: what is left of the range that is being read

local check = require "mp.check"
local core = require "mp.core"
local pump = require "mp.pump"
local RemoteError = require "mp.remote_error"

local max, min, ceil = math.max, math.min, math.ceil

local WINDOW = 16        -- items ahead of the reader, for each worker
local WINDOW_MAX = 64    -- the same when tasks are short
local SHORT = 2e4        -- ns: that is short
local SLOW_INPUT = 2e-3  -- seconds for some items that are too many
local QUICK_INPUT = 5e-4 -- seconds for some items after which there may be more
local UNREAD = 128       -- tasks in flight for each worker when nobody reads

local stream = {}

-- Ended tasks ---------------------------------------------------------------------

local function arrived_in_order(job, first, last)
  local ranges, frontier = job.ranges, job.frontier
  if first ~= frontier + 1 then
    ranges[first] = last
    return
  end
  local following = ranges[last + 1]
  while following do
    ranges[last + 1] = nil
    last = following
    following = ranges[last + 1]
  end
  job.frontier = last
end

local function arrived(job, first, last)
  local tail = job.tail
  job.ready[tail + 1], job.ready[tail + 2] = first, last
  job.tail = tail + 2
end

-- The input -----------------------------------------------------------------------

-- No more items come.
local function at_end(st, job)
  if job.over then return end
  job.total = job.taken
  if job.done == job.total then pump.finish(st, job, "done") end
end

local function pull(job, upto)
  local input, items, taken = job.input, job.items, job.taken
  while taken < upto do
    local item = input()
    if item == nil then return true end
    taken = taken + 1
    items[taken] = item
    job.taken = taken
  end
  return false
end

-- (After Ctrl-C in the input there may be some that were taken only.)
local function submit_taken(st, job)
  if job.over then return end -- the input may have ended the pool
  job.last = job.taken
  pump.feed(st, job)
end

-- Takes items up to `upto` and submits them. An error of the input is its end.
local function take(st, job, upto)
  local ended
  if job.input then
    local ok, result = pcall(pull, job, upto)
    if not ok and check.is_interrupt(result) then error(result, 0) end
    if not ok then job.raised = { result } end
    ended = not ok or result
  else
    job.taken = min(upto, job.total)
  end
  submit_taken(st, job)
  if ended then at_end(st, job) end
end

-- Sizes of batches and of the window, by the time that tasks take.
local function plan(st, job)
  local workers = st.workers
  if job.each and job.each < SHORT and not job.fixed_window then
    job.window = max(job.window, min(2 * job.window, WINDOW_MAX * workers))
  end
  if job.fixed then
    job.chunk = job.fixed
  else
    job.chunk = max(1, min(job.chunk, job.window // (3 * workers)))
    if job.total then
      job.chunk = max(1, min(job.chunk, ceil((job.total - job.taken) / (2 * workers))))
    end
  end
  local batch = min(job.window, max(job.chunk, job.window // 4, 1))
  job.room = job.window - batch
end

-- Items that may be taken now, up to this one; whole batches, when the caller fixed them.
local function limit_of(st, job)
  local n = job.given + job.window - job.taken
  if st.unread then n = max(0, UNREAD * st.workers - job.inflight) end
  if job.fixed and n > job.fixed then n = n - n % job.fixed end
  return job.taken + n
end

-- Reads on; an input that takes its time gives one item after the other, so that results
-- are not kept waiting for it. Returns whether there is room for more.
local function refill(st, job)
  plan(st, job)
  if job.last < job.taken then submit_taken(st, job) end
  local limit = limit_of(st, job)
  local began = core.monotonic()
  while job.taken < limit and not job.over and job.taken ~= job.total do
    take(st, job, min(limit, job.taken + job.step))
    local now = core.monotonic()
    local spent = now - began
    if spent > SLOW_INPUT then
      job.step = max(job.fixed or 1, job.step // 8)
      job.slow = true
      return job.taken < limit and job.taken ~= job.total
    elseif spent < QUICK_INPUT then
      job.step = min(2 * job.step, job.window)
      job.slow = false
    end
    began = now
  end
  return false
end

-- The reader ----------------------------------------------------------------------

-- Before a result is given: reads on if there is room for a batch.
local function read_on(st, job)
  if job.taken == job.total or job.slow then return end
  refill(st, job)
end

-- Nothing is ready: takes what has come, and reads on, until something is. False when the
-- job has nothing more.
local function wait(self, is_ready)
  local st, job = self.st, self.job
  if job.inflight > 0 then pump.step(st, 0, job) end
  while not is_ready(job) do
    if job.over then return false end
    local more = (job.taken - job.given <= job.room or job.last < job.taken) and refill(st, job)
    if not is_ready(job) and not job.over then pump.step(st, more and 0 or nil, job) end
  end
  return true
end

-- What there is behind the last result.
local function last_words(self)
  local job = self.job
  local raised = job.raised
  if raised and job.over == "done" then
    job.raised = nil
    error(raised[1], 0)
  end
  if job.over == "error" then pump.outcome(job) end
  if job.over == "timeout" then return nil, "timeout" end
  return nil
end

local function raise_task(job, k, err)
  job.errors[k] = nil
  if type(err) == "string" then check.reraise(err) end
  error(RemoteError.of(err), 0)
end

local function in_order_ready(job) return job.given < job.frontier end

local function next_in_order(self)
  local job = self.job
  if job.given >= job.frontier and not wait(self, in_order_ready) then return last_words(self) end
  if job.taken - job.given <= job.room then read_on(self.st, job) end
  local k = job.given + 1
  job.given = k
  local err = job.errors[k]
  if err then raise_task(job, k, err) end
  local out = job.out
  local value = out[k]
  out[k] = nil
  return k, value
end

local function any_ready(job) return job.next <= job.upto or job.head < job.tail end

local function next_range(job)
  local ready, head = job.ready, job.head
  job.next, job.upto = ready[head + 1], ready[head + 2]
  head = head + 2
  if head == job.tail then job.head, job.tail = 0, 0 else job.head = head end
end

local function next_of_any(self)
  local job = self.job
  local k = job.next
  if k > job.upto then
    if job.head == job.tail and not wait(self, any_ready) then return last_words(self) end
    next_range(job)
    k = job.next
  end
  if job.taken - job.given <= job.room then read_on(self.st, job) end
  job.next = k + 1
  job.given = job.given + 1
  local err = job.errors[k]
  if err then raise_task(job, k, err) end
  local out = job.out
  local value = out[k]
  out[k] = nil
  return k, value
end

-- What keeps a job wanted: the iterator, and the loop, which closes it. A finalizer may
-- run anywhere, so it leaves the job to the next call into the pool.
local Reader = { __name = "mp.PoolIterator", __mp = "mp.PoolIterator" }

function Reader:__close()
  if not self.job.over and self.st.owner == core.getpid() then
    pump.finish(self.st, self.job, "dropped")
  end
end

function Reader:__gc()
  local abandoned = self.st.abandoned
  if not self.job.over then abandoned[#abandoned + 1] = self.job end
end

-- Making one ----------------------------------------------------------------------

local function fields(st, options)
  local chunksize, window = options.chunksize, options.window
  local default = WINDOW * st.workers
  if chunksize then default = max(default, 2 * st.workers * chunksize) end
  if st.direct then default = 1 end
  return {
    items = options.list or {}, input = options.input, total = options.total,
    sent = 0, last = 0, taken = 0, given = 0, room = 0, step = chunksize or 1,
    window = window or default, fixed_window = window ~= nil or st.direct,
    fixed = chunksize, eager = true, refill = refill,
    retries = options.retries, bar = options.bar, deadline = options.deadline,
  }
end

--- Starts one.
-- @param pool kept alive by it
-- @param st the pool's state
-- @param options f, the function; input, a function, or list, of total items; ordered,
--   whether results come in the order of the input; bar, deadline; and as for imap
-- @return iterator, nil, nil, what a generic for closes
function stream.new(pool, st, options)
  local job = fields(st, options)
  if options.ordered then
    job.frontier, job.ranges, job.arrived = 0, {}, arrived_in_order
  else
    job.ready, job.head, job.tail, job.next, job.upto, job.arrived = {}, 0, 0, 1, 0, arrived
  end
  pump.job(st, options.f, false, options.task_timeout, job)
  job.chunk = job.fixed or 1
  local reader = setmetatable({ pool = pool, st = st, job = job }, Reader)
  pump.start(st, job)
  if job.over == "error" then pump.outcome(job) end
  if options.list then job.step = job.window end
  if not st.direct then refill(st, job) end
  local next_one = options.ordered and next_in_order or next_of_any
  return function() return next_one(reader) end, nil, nil, reader
end

return stream
