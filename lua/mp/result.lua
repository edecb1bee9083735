--- What the asynchronous calls of a pool return.
-- @module result

local check = require "mp.check"
local core = require "mp.core"
local pump = require "mp.pump"

--- The result of apply_async, map_async or starmap_async, which may not be there yet.
-- @type AsyncResult
local AsyncResult = {}

local metatable = { __name = "mp.AsyncResult", __mp = "mp.AsyncResult", __index = AsyncResult }

-- The job and the state of its pool; raises in a process where both are only copies.
local function check_self(self, method)
  local job = type(self) == "table" and getmetatable(self) == metatable and self._mp
  if not job then
    check.raise("calling '%s' on bad self (mp.AsyncResult expected, got %s)", method,
      self == nil and "no value" or check.typename(self))
  end
  local st = self._pool._mp
  if not job.over and st.owner ~= core.getpid() then
    check.raise("a result can only be waited for in the process that made its pool")
  end
  return job, st
end

local function deadline_of(n, fname, timeout)
  check.timeout(n, fname, timeout)
  return timeout and core.monotonic() + timeout
end

--- Waits for the result, and gives it.
-- @function AsyncResult:get
-- @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
-- @return what the function returned (for maps: the list); nil when the time is over
-- @treturn string|nil "timeout"
-- @raise the task's error, an `mp.RemoteError`; in another process than the pool's
-- @python `AsyncResult.get`, which raises `TimeoutError`
function AsyncResult:get(timeout)
  local job, st = check_self(self, "get")
  local deadline = deadline_of(1, "get", timeout)
  pump.look(st)
  if not job.over and not pump.await(st, job, deadline) then return nil, "timeout" end
  return pump.outcome(job)
end

--- Waits until the result, or the error, is there.
-- @function AsyncResult:wait
-- @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
-- @treturn boolean whether it is
-- @python `AsyncResult.wait`, which returns nothing
function AsyncResult:wait(timeout)
  local job, st = check_self(self, "wait")
  local deadline = deadline_of(1, "wait", timeout)
  pump.look(st)
  return pump.await(st, job, deadline)
end

--- Whether the result, or the error, is there.
-- @function AsyncResult:ready
-- @treturn boolean
-- @python `AsyncResult.ready`
function AsyncResult:ready()
  local job, st = check_self(self, "ready")
  pump.look(st)
  return job.over ~= nil
end

--- Whether it came to its end without an error.
-- @function AsyncResult:successful
-- @treturn boolean
-- @raise while it is not ready
-- @python `AsyncResult.successful`
function AsyncResult:successful()
  local job, st = check_self(self, "successful")
  pump.look(st)
  if not job.over then check.raise("the result is not ready") end
  return job.over == "done"
end

function metatable.__tostring(self)
  local over = self._mp.over
  return ("mp.AsyncResult: %p (%s)"):format(self, not over and "waiting"
    or over == "done" and "ready" or over == "timeout" and "timed out" or "failed")
end

local result = {}

-- Makes one for a job; it keeps the pool alive.
function result.new(pool, job) return setmetatable({ _mp = job, _pool = pool }, metatable) end

-- For mp.wait: what to watch, whether it is ready, and how to ask again. The descriptor
-- tells of reports of any job, so each of them is taken. Without processes the tasks are
-- run up to this one.
function result.watch(self)
  local job, st = check_self(self, "wait")
  if st.direct then pump.await(st, job) end
  if job.over or st.ended then return -1, true end
  local fd = st.engine:fileno()
  pump.look(st)
  return fd, job.over ~= nil, self.ready
end

return result
