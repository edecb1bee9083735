--- The engine of pools without processes: tasks run in the caller, one in each `take`, in
-- the order in which they were submitted. Arguments and results are passed as they are.
--
-- Implements the seam that engine.lua describes.

local check = require "mp.check"
local core = require "mp.core"

local debug = debug
local unpack = table.unpack
local randomseed = math.randomseed

local EVERY = 1000 -- instructions between two looks at a task's time
local FRAMES = 100 -- of a traceback, at most

local Inline = { __name = "mp.InlineEngine" }
Inline.__index = Inline

-- What a failed call leaves: as the reports of workers have it.
local function failure(message, traceback)
  return { message = message, traceback = traceback, process = core.name, pid = core.getpid() }
end

local interrupted = {} -- what the handler returns for Ctrl-C: whoever called passes it on

local function in_what(info)
  if info.what == "main" then return "in main chunk" end
  if info.namewhat ~= "" then return ("in %s '%s'"):format(info.namewhat, info.name) end
  if info.what == "C" then return "in ?" end
  return ("in function <%s:%d>"):format(info.short_src, info.linedefined)
end

-- The stack from `level` on: of the task, and of who called the pool, without the part of
-- the library between them. (What debug.traceback leaves out of a long one is just that.)
local function traceback(level)
  if not debug then return nil end
  local lines = { "stack traceback:" }
  local info = debug.getinfo(level + 1, "Slnt")
  while info and #lines <= FRAMES do
    if info.source:sub(1, 4) ~= "@mp/" then
      local at = info.currentline > 0 and ":" .. info.currentline or ""
      lines[#lines + 1] = ("\t%s%s: %s"):format(info.short_src, at, in_what(info))
      if info.istailcall then lines[#lines + 1] = "\t(...tail calls...)" end
    elseif lines[#lines]:find("'xpcall'$") then
      lines[#lines] = nil
    end
    level = level + 1
    info = debug.getinfo(level + 1, "Slnt")
  end
  if info then lines[#lines + 1] = "\t..." end
  return table.concat(lines, "\n")
end

local struck = false -- the alarm of a task here has raised, not that of a worker around it

-- Message handler of tasks.
local function with_traceback(err)
  if check.is_interrupt(err) and not struck then return { interrupted, err } end
  return { err, traceback(2) }
end

-- Calls f(...); returns true and its first result, or false and a failure. Ctrl-C is no
-- failure of the task alone: `on_interrupt` notes it, and it goes on to the caller.
local function run(on_interrupt, f, ...)
  local ok, value = xpcall(f, with_traceback, ...)
  if ok then return true, value end
  if type(value) ~= "table" then return false, failure(value) end -- the handler itself failed
  if value[1] ~= interrupted then return false, failure(value[1], value[2]) end
  if on_interrupt then on_interrupt(failure("interrupted!")) end
  error(value[2], 0)
end

-- Time-outs -----------------------------------------------------------------------

-- Has "task timed out" raised once in what runs now when `seconds` are over.
-- @return function that takes that back
local function alarm(seconds)
  if not (debug and debug.sethook) then return function() end end
  local f, mask, count = debug.gethook()
  local deadline = core.monotonic() + seconds
  local function strike()
    if core.monotonic() < deadline then return end
    debug.sethook(f, mask, count)
    struck = true
    error("task timed out", 0)
  end
  debug.sethook(strike, "", EVERY)
  return function()
    struck = false
    -- Ctrl-C sets a hook of its own, which must stay.
    if debug.gethook() == strike then debug.sethook(f, mask, count) end
  end
end

-- Tasks ---------------------------------------------------------------------------

-- Calls the function of a job for one item, with time-out and random stream.
local function call(job, item, k, on_interrupt)
  local stream = job.seed and core.random_state()
  if job.seed then randomseed(core.task_seed(job.seed, k)) end
  local quiet = job.timeout and alarm(job.timeout)
  local _ <close> = (stream or quiet) and setmetatable({}, { __close = function()
    if quiet then quiet() end
    if stream then core.random_state(stream) end
  end}) or nil
  if job.spread then
    local n = item.n
    return run(on_interrupt, job.f, unpack(item, 1, math.type(n) == "integer" and n or #item))
  end
  return run(on_interrupt, job.f, item)
end

-- The first batch of a job that is wanted, or nil.
local function first_batch(self)
  while self.first <= self.last do
    local batch = self.batches[self.first]
    if not batch.job.cancelled then return batch end
    self.batches[self.first] = nil
    self.first = self.first + 1
  end
  self.first, self.last = 1, 0
end

-- Runs a batch's next task and stores what comes of it; returns the report.
local function run_next(self, batch, jobs)
  local job, k = batch.job, batch.at
  local id, items = job.id, batch.items
  batch.at = k + 1
  local last = k == batch.last
  if last then
    self.batches[self.first] = nil
    self.first = self.first + 1
  end
  local started = core.monotonic()
  local ok, value = call(job, items[k], k, function(failed)
    self.unsaid = { id = id, k = k, failed = failed, last = last }
  end)
  local ns = math.floor((core.monotonic() - started) * 1e9)
  local wanted = jobs[id]
  if wanted then
    if ok then wanted.out[k] = value else wanted.errors[k] = value end
  end
  return "results", id, k, 1, ok and 0 or 1, ns, last
end

-- The report of a task that Ctrl-C ended.
local function say(self, jobs)
  local unsaid = self.unsaid
  self.unsaid = nil
  local wanted = jobs[unsaid.id]
  if wanted then wanted.errors[unsaid.k] = unsaid.failed end
  return "results", unsaid.id, unsaid.k, 1, 1, 0, unsaid.last
end

-- The seam ------------------------------------------------------------------------

function Inline.open(_, f, opts)
  return { f = f, id = opts.id, spread = opts.spread, timeout = opts.timeout, seed = opts.seed }
end

function Inline:submit(job, items, first, last)
  if last >= first then
    self.last = self.last + 1
    self.batches[self.last] = { job = job, items = items, at = first, last = last }
  end
  return last - first + 1
end

function Inline:take(jobs)
  if self.unsaid then return say(self, jobs) end
  local failed = self.failed
  if failed then
    self.failed = nil
    return "failed", failed, nil, failed.pid, failed.process
  end
  local batch = first_batch(self)
  if batch then return run_next(self, batch, jobs) end
end

function Inline.cancel(_, job) job.cancelled = true end

function Inline.fileno() return -1 end

function Inline:close() self.closed = true end

function Inline:join() return self.closed end

function Inline:terminate()
  self.closed, self.unsaid = true, nil
  self.batches, self.first, self.last = {}, 1, 0
end

local inline = {}

--- Makes one; the initializer runs at once.
-- @param options initializer, initargs
function inline.new(options)
  -- batches[first .. last] are to be run
  local self = setmetatable({ batches = {}, first = 1, last = 0 }, Inline)
  if options.initializer then
    local args = options.initargs or {}
    local n = math.type(args.n) == "integer" and args.n or #args
    local ok, failed = run(nil, options.initializer, unpack(args, 1, n))
    if not ok then self.failed = failed end
  end
  return self
end

return inline
