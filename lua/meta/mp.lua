---@meta mp

--- Processes for Lua 5.4, and what they share.
---
--- All times are seconds, fractions allowed. A `timeout` of nil waits for ever, of 0 or less not
--- at all. What one must expect is returned (`nil, code`), what one did wrong is raised.
---@class mp
---@field version string the library's version
---@field null lightuserdata "no value" where nil cannot stand; equal to cjson.null
---@field Process mp.ProcessClass makes processes; a class that can be extended
---@field Manager mp.ManagerClass makes managers; a class that can be extended
---@field dict mp.dict operations on a manager's dictionaries and namespaces
---@field marshal mp.marshal values as strings
local mp = {}

--- What `mp.type` tells.
---@alias mp.Kind
---| "mp.Process"
---| "mp.Queue" # Queue, JoinableQueue, SimpleQueue
---| "mp.LifoQueue"
---| "mp.PriorityQueue"
---| "mp.Connection"
---| "mp.Listener"
---| "mp.Value" # Value, RawValue
---| "mp.Array" # Array, RawArray
---| "mp.Struct" # a record type, a record, an array of records
---| "mp.Lock"
---| "mp.RLock"
---| "mp.Semaphore"
---| "mp.BoundedSemaphore"
---| "mp.Condition"
---| "mp.Event"
---| "mp.Barrier"
---| "mp.Guard"
---| "mp.Pool"
---| "mp.AsyncResult"
---| "mp.PoolIterator"
---| "mp.Range"
---| "mp.RemoteError"
---| "mp.Logger"
---| "mp.Manager"
---| "mp.DictProxy"
---| "mp.NamespaceProxy"
---| "mp.ListProxy"
---| "mp.SetProxy"
---| "mp.LockProxy"
---| "mp.SemaphoreProxy"
---| "mp.ConditionProxy"
---| "mp.EventProxy"
---| "mp.BarrierProxy"
---| "mp.QueueProxy"
---| "mp.ValueProxy"
---| "mp.ArrayProxy"
---| "mp.PoolProxy"
---| "mp.AsyncResultProxy"
---| "mp.PoolIteratorProxy"
---| "mp.Proxy" # an object of a registered type

--- What `mp.wait` can wait for; an integer is a file descriptor.
---@alias mp.Waitable
---| mp.Connection
---| mp.Listener
---| mp.Queue
---| mp.LifoQueue
---| mp.PriorityQueue
---| mp.Process
---| mp.AsyncResult
---| integer

--- The kind of an mp object; nil for anything else.
---@param x any
---@return mp.Kind|nil kind
---@nodiscard
function mp.type(x) end

--- How many processors this process may use: those of its affinity, or fewer when its cgroup
--- grants less time. The environment variable MPLUA_CPUS overrides it.
---@return integer n at least 1
---@nodiscard
function mp.cpu_count() end

--- Waits until at least one of the objects is ready: a connection has something to receive or is at
--- its end, a queue has an item or is shut down, a process has ended, a result is there, a listener
--- has somebody to accept, a descriptor is readable.
---@param objects mp.Waitable[] without a time-out at least one
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return mp.Waitable[] ready those that are ready, in the order of `objects`; empty on time-out
function mp.wait(objects, timeout) end

--- Sleeps. Ctrl-C raises "interrupted!" out of it.
---@param seconds number
function mp.sleep(seconds) end

--- Seconds of a clock that never jumps; only differences mean something.
---@return number seconds
---@nodiscard
function mp.monotonic() end

--- The number of this process.
---@return integer pid
---@nodiscard
function mp.getpid() end

--- What is in the shared memory right now: `print(mp.arena())` shows it, with what each process
--- waits for and who holds which lock.
---@return mp.Arena arena
---@nodiscard
function mp.arena() end

--- What was in the shared memory; `tostring` makes a report of it.
---@class mp.Arena
---@field cap integer bytes that there are at most
---@field used integer bytes that are used
---@field resident integer bytes that take up real memory
---@field objects integer how many objects there are
---@field kinds table<string, integer> number of blocks of each kind
---@field bytes table<string, integer> bytes of each kind
---@field processes mp.ArenaProcess[] the processes of the family
---@field locks mp.ArenaLock[] the locks that are held, 1,000 at most

---@class mp.ArenaProcess
---@field name string
---@field pid integer
---@field state "born"|"live"|"done"|"dead"
---@field waits? string what it waits for: "get", "lock", …; nil when it runs
---@field on? integer number of the object that it waits for

---@class mp.ArenaLock
---@field object integer number of the object
---@field kind string "mp.Lock", "mp.Value", …
---@field pid? integer the holder; nil when it has died and was buried
---@field alive boolean whether the holder lives

--- What a failure in another process is raised as. `tostring` shows all of it.
---@class mp.RemoteError
---@field message any the original error value
---@field traceback? string where it happened
---@field process? string name of the process
---@field pid? integer number of the process

return mp
