--- Waiting for several things at once.
-- @module wait

local check = require "mp.check"
local core = require "mp.core"
local process = require "mp.process"

local INT_MAX = 0x7fffffff
local SLICE = 0.2 -- seconds between two looks at what should have rung

local queues = { ["mp.Queue"] = true, ["mp.LifoQueue"] = true, ["mp.PriorityQueue"] = true }

-- A handle from which nothing can come.
local function check_open(kind, object, i)
  local why
  if kind == "mp.Connection" then
    why = object.closed and "closed" or not object.readable and "write-only"
  else
    why = core.queue_closed(object) and "closed"
  end
  if why then check.arg_error(1, "wait", "object %d: the %s is %s", i, kind, why) end
end

local function queue_ready(queue)
  return not queue:empty() or core.queue_over(queue)
end

-- How to wait for one object: a descriptor, whether it is ready already, and a function
-- that tells whether it is when its descriptor says so (nil: the descriptor is right).
local function watch(object, i)
  if math.type(object) == "integer" then
    if object >= 0 and object <= INT_MAX then return object, false end
    check.arg_error(1, "wait", "object %d: a descriptor cannot be %d", i, object)
  end
  local kind = core.type(object)
  if kind == "mp.Connection" or queues[kind] then check_open(kind, object, i) end
  if kind == "mp.Connection" then return core.conn_fd(object) end
  if queues[kind] then return check.call(object.fileno, object), queue_ready(object), queue_ready end
  if kind == "mp.Process" then return process.watch(object) end
  if kind == "mp.AsyncResult" then return require "mp.result".watch(object) end
  if kind == "mp.Listener" then return require "mp.listener".watch(object) end
  check.arg_error(1, "wait",
    "object %d: a Connection, Listener, Queue, Process, AsyncResult or descriptor expected, got %s", i,
    check.typename(object))
end

--- Waits until one of several objects is ready.
--
-- | what | is ready when |
-- | --- | --- |
-- | a Connection | there is something to receive, or its end |
-- | a Queue | it has an item (which another consumer may take first), or is shut down |
-- | a Process | it has ended |
-- | an AsyncResult | the result, or the error, is there |
-- | a Listener | there is somebody to accept |
-- | an integer, a descriptor | it is readable |
--
-- @function mp.wait
-- @tparam table objects array of Connections, Listeners, Queues, Processes, AsyncResults and
--   descriptors (integers)
-- @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
-- @treturn table array of those that are ready, in the order of `objects`; empty on time-out
-- @raise an object of another kind, or one that is closed; no object and no time-out
-- @python `multiprocessing.connection.wait`, which takes connections and sentinels, and waits for ever
--   for none
-- @usage local a, b = mp.Queue(), mp.Queue()
-- b:put "here"
-- for _, q in ipairs(mp.wait({ a, b }, 10)) do print(q == b, q:get(0)) end --> true	here
local function wait(objects, timeout)
  check.arg(1, "wait", objects, "table")
  check.timeout(2, "wait", timeout)
  if #objects == 0 and not timeout then
    check.arg_error(1, "wait", "there is nothing to wait for, and no time-out")
  end
  local deadline = timeout and core.monotonic() + timeout
  local fds, now, tests = {}, {}, {}
  for i = 1, #objects do
    fds[i], now[i], tests[i] = watch(objects[i], i)
    if now[i] then timeout = 0 end
  end
  -- A queue's descriptor is rung by whoever puts, who may be killed before it rings or
  -- have no descriptor left to ring with: what has a test is looked at each slice.
  local longest = next(tests) and SLICE or math.huge
  local ready
  repeat
    local slice = math.min(timeout or math.huge, longest)
    local found, bad = core.poll(fds, slice < math.huge and slice or nil)
    if bad then
      check.arg_error(1, "wait", "object %d: descriptor %d is not open", bad, fds[bad])
    end
    for _, i in ipairs(found) do now[i] = now[i] or not tests[i] end
    for i, test in pairs(tests) do now[i] = now[i] or test(objects[i]) end
    ready = {}
    for i = 1, #objects do
      if now[i] then ready[#ready + 1] = objects[i] end
    end
    timeout = deadline and deadline - core.monotonic()
  until #ready > 0 or (timeout and timeout <= 0)
  return ready
end

return wait
