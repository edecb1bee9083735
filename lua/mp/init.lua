--- What `require "mp"` gives besides the classes.
--
-- In `mplua` the library is always there; under stock `lua5.4` the same `require "mp"` loads `mp.so`.
--
-- * Times are seconds, fractions allowed. `timeout` is the last parameter of every call that can block:
--   nil waits for ever, 0 or less does not wait.
-- * Expected outcomes are returned: nil and a code, one of "timeout", "empty", "full", "closed", "eof",
--   "broken", "refused", "denied", "unreachable". Misuse raises, and so do failures of the system.
-- * An error in another process is raised again as an `mp.RemoteError`.
-- * Ctrl-C raises "interrupted!" out of any call that waits.
-- * nil is never data: a nil result means "nothing". `mp.null` can be sent in its place.
-- * `tostring` tells kind, identity and state: `mp.Queue: 0x3f80 (12 items)`.
-- * What holds a resource has `close`, can be declared `<close>`, and is collected when it is garbage.
--   Using a handle that one has closed is an error.
-- @module library

local core = require "mp.core"
local log = require "mp.log"
local process = require "mp.process"

local public = core.public

--- The version of the library, as "0.1.0".
-- @tfield string mp.version

--- "No value" where nil cannot stand: `lightuserdata(NULL)`, equal to `cjson.null`.
-- @tfield userdata mp.null

-- What is written in C is core's.
local mp = {
  version = core.version,
  null = core.null,
  type = public(core.type),
  marshal = core.marshal,
  bytes = public(core.bytes),

  Process = process.Process,
  current_process = process.current_process,
  parent_process = process.parent_process,
  active_children = process.active_children,
  cpu_count = require "mp.cpus",
  wait = require "mp.wait",
  sleep = public(core.sleep),
  monotonic = public(core.monotonic),
  getpid = public(core.getpid),
  log_to_stderr = log.log_to_stderr,
  get_logger = log.get_logger,
}

-- Makes a pool of workers, see mp.pool. (That is loaded when it is needed first: scripts
-- without a pool start faster.)
function mp.Pool(...) return require "mp.pool".Pool(...) end

-- Cuts a text file into ranges of whole lines, see mp.ranges.
function mp.file_ranges(...) return require "mp.ranges".file_ranges(...) end

-- What is in the shared memory right now, see mp.arena.
function mp.arena() return require "mp.arena"() end

-- Waits for connections at an address, see mp.listener.
function mp.Listener(...) return require "mp.listener".Listener(...) end

-- Connects to a listener, see mp.client.
function mp.Client(...) return require "mp.client".Client(...) end

for _, name in ipairs {
  "Queue", "LifoQueue", "PriorityQueue", "JoinableQueue", "SimpleQueue", "Pipe",
  "Value", "Array", "RawValue", "RawArray", "Struct",
  "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier",
} do
  mp[name] = public(core[name])
end

-- The class mp.Manager and the operations on dictionaries, loaded at their first use.
return setmetatable(mp, { __index = function(self, key)
  if key ~= "Manager" and key ~= "dict" then return nil end
  self.Manager, self.dict = require "mp.manager", require "mp.proxies".dict
  return rawget(self, key)
end })
