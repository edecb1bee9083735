---@meta _

--- Options of `mp.Manager{ … }`.
---@class mp.ManagerOptions
---@field address? mp.Address where it serves, or connects to; without one it is started at once
---@field authkey? string key of its connections; default: that of this process
---@field timeout? number seconds that each call of its proxies may take, after which it raises
---@field allow_code? boolean load functions that come over connections
---@field max_message? integer longest message of a connection, bytes; default: 1 GiB

--- A server process that owns objects, and makes proxies of them that any process can use.
---@class mp.Manager
---@field address mp.Address|nil where it serves
local Manager = {}

--- Starts the server. Raises when the address cannot be had.
function Manager:start() end

--- Serves in this process, until a client calls shutdown, or Ctrl-C.
function Manager:serve_forever() end

--- Connects to a server that runs elsewhere.
---@param timeout? number seconds; nil: the system's
---@return true|nil connected
---@return "refused"|"denied"|"unreachable"|"timeout"|nil code
function Manager:connect(timeout) end

--- Ends the server and all of its objects. Does nothing the second time.
function Manager:shutdown() end

--- Makes a dictionary. Its fields are its items; operations are in `mp.dict`.
---@param t? table<any, any>
---@return mp.DictProxy dict
---@nodiscard
function Manager:dict(t) end

--- Makes a list.
---@param t? any[]
---@return mp.ListProxy list
---@nodiscard
function Manager:list(t) end

--- Makes a set.
---@param t? any[]|table<any, true> members
---@return mp.SetProxy set
---@nodiscard
function Manager:set(t) end

--- Makes a namespace: a dictionary whose items are used as fields.
---@param t? table<any, any>
---@return mp.NamespaceProxy namespace
---@nodiscard
function Manager:Namespace(t) end

--- Makes a lock.
---@return mp.LockProxy lock
---@nodiscard
function Manager:Lock() end

--- Makes a lock that its holder can take again.
---@return mp.LockProxy lock
---@nodiscard
function Manager:RLock() end

--- Makes a semaphore.
---@param n? integer permits; default: 1
---@return mp.SemaphoreProxy semaphore
---@nodiscard
function Manager:Semaphore(n) end

--- Makes a semaphore that raises when it is released above its initial value.
---@param n? integer permits; default: 1
---@return mp.SemaphoreProxy semaphore
---@nodiscard
function Manager:BoundedSemaphore(n) end

--- Makes a condition variable.
---@param lock? mp.LockProxy default: an RLock of its own
---@return mp.ConditionProxy condition
---@nodiscard
function Manager:Condition(lock) end

--- Makes an event, which is clear.
---@return mp.EventProxy event
---@nodiscard
function Manager:Event() end

--- Makes a barrier.
---@param parties integer how many it lets go together
---@param action? function called in the server by the last one that comes
---@param timeout? number seconds that a wait takes unless it says otherwise; nil: for ever
---@return mp.BarrierProxy barrier
---@nodiscard
function Manager:Barrier(parties, action, timeout) end

--- Makes a queue.
---@param maxsize? integer items that it holds; nil or 0: no bound
---@return mp.QueueProxy queue
---@nodiscard
function Manager:Queue(maxsize) end

--- `Queue` under another name.
---@param maxsize? integer items that it holds; nil or 0: no bound
---@return mp.QueueProxy queue
---@nodiscard
function Manager:JoinableQueue(maxsize) end

--- Makes a number or byte.
---@param typecode mp.Typecode
---@param value? number|string default: 0
---@param options? mp.CellOptions
---@return mp.ValueProxy value
---@nodiscard
function Manager:Value(typecode, value, options) end

--- Makes an array of numbers or bytes.
---@param typecode mp.Typecode
---@param list integer|number[]|string[]|string a size (zeros), or the elements; a string for typecode "c" only
---@param options? mp.CellOptions
---@return mp.ArrayProxy array
---@nodiscard
function Manager:Array(typecode, list, options) end

--- Makes a pool of workers, which are the server's.
---@param options? integer|mp.PoolOptions
---@return mp.PoolProxy pool
---@nodiscard
function Manager:Pool(options) end

--- Makes managers: `mp.Manager()` is started, `mp.Manager{ address = … }` waits for start,
--- serve_forever or connect.
---@class mp.ManagerClass : mp.Manager
---@overload fun(options?: mp.ManagerOptions): mp.Manager
local ManagerClass = {}

--- Makes a class with types of its own.
---@param name string first part of the names of its servers
---@return mp.ManagerClass class
function ManagerClass:extend(name) end

--- Registers a type: `m:Name(…)` calls `make(…)` in the server and gives a proxy of what it returns.
---@param name string of the type; one that managers have already is an error
---@param make? function anything that can be called; nil: its managers only connect
function ManagerClass:register(name, make) end

--- A dictionary of a manager: its fields are its items, `#d`, `pairs(d)`; operations are in `mp.dict`.
---@class mp.DictProxy
---@field [any] any
---@operator len: integer

--- A namespace of a manager: its fields are its items; operations are in `mp.dict`.
---@class mp.NamespaceProxy
---@field [any] any
---@operator len: integer

---@alias mp.DictLike mp.DictProxy|mp.NamespaceProxy

--- Operations on a manager's dictionaries and namespaces, each one trip to the server and atomic.
---@class mp.dict
local dict = {}

--- The keys, in the order in which they came.
---@param d mp.DictLike
---@return any[] keys
---@nodiscard
function dict.keys(d) end

--- The values, in the order of the keys.
---@param d mp.DictLike
---@return any[] values
---@nodiscard
function dict.values(d) end

--- The items, as an array of {key, value}; also for a loop: `for k, v in mp.dict.items(d) do`.
---@param d mp.DictLike
---@return mp.DictItems items
---@nodiscard
function dict.items(d) end

--- The value of a key.
---@param d mp.DictLike
---@param key any
---@param default? any what is returned when there is none
---@return any value
---@nodiscard
function dict.get(d, key, default) end

--- Takes an item out.
---@param d mp.DictLike
---@param key any
---@param default? any what is returned when there is none
---@return any value
function dict.pop(d, key, default) end

--- The value of a key, which is set if it has none.
---@param d mp.DictLike
---@param key any
---@param value any
---@return any value
function dict.setdefault(d, key, value) end

--- Sets all items of a table, or of another dictionary.
---@param d mp.DictLike
---@param t table<any, any>|mp.DictLike
function dict.update(d, t) end

--- Takes all items out.
---@param d mp.DictLike
function dict.clear(d) end

--- A plain table with the items.
---@param d mp.DictLike
---@return table<any, any> copy
---@nodiscard
function dict.copy(d) end

--- Adds to a number, 0 if there is none.
---@param d mp.DictLike
---@param key any
---@param by? number default: 1
---@return number value the new one
function dict.incr(d, key, by) end

--- Whether there is such an item.
---@param d mp.DictLike
---@param key any
---@return boolean found
---@nodiscard
function dict.contains(d, key) end

--- What `mp.dict.items` gives.
---@class mp.DictItems
---@field [integer] any[] {key, value}
---@overload fun(state: any, key: any): any, any

--- A list of a manager: `l[i]`, `#l`, ipairs; `l[#l + 1] = v` appends, farther raises.
---@class mp.ListProxy
---@field [integer] any
---@operator len: integer
local ListProxy = {}

--- Appends a value.
---@param value any not nil (`mp.null` can be)
function ListProxy:append(value) end

--- Inserts a value before i: `l:insert(i, value)`, or at the end: `l:insert(value)`.
---@param i integer
---@param ... any the value
---@overload fun(self: mp.ListProxy, value: any)
function ListProxy:insert(i, ...) end

--- Takes an item out. Raises when the list is empty.
---@param i? integer default: the last
---@return any value
function ListProxy:pop(i) end

--- Takes out the first item that is equal to a value.
---@param value any
---@return boolean found
function ListProxy:remove(value) end

--- Appends all items of a list.
---@param other any[]|mp.ListProxy
function ListProxy:extend(other) end

--- Turns the order round.
function ListProxy:reverse() end

--- Sorts it, as table.sort does.
---@param less? fun(a: any, b: any): boolean called in the server
function ListProxy:sort(less) end

--- The first index of a value.
---@param value any
---@return integer|nil i
---@nodiscard
function ListProxy:index(value) end

--- How many items are equal to a value.
---@param value any
---@return integer n
---@nodiscard
function ListProxy:count(value) end

--- A plain list with the items.
---@return any[] copy
---@nodiscard
function ListProxy:copy() end

--- Takes all items out.
function ListProxy:clear() end

--- A set of a manager: `s[member]` is true or nil, and can be set to either; `#s`, `pairs(s)`.
---@class mp.SetProxy
---@field [any] true|nil
---@operator len: integer
local SetProxy = {}

--- Adds a member.
---@param value any
function SetProxy:add(value) end

--- Takes a member out.
---@param value any
---@return boolean found
function SetProxy:remove(value) end

--- Takes out any member. Raises when the set is empty.
---@return any value
function SetProxy:pop() end

--- Whether it is a member.
---@param value any
---@return boolean found
---@nodiscard
function SetProxy:contains(value) end

--- Takes all members out.
function SetProxy:clear() end

--- A plain table {[member] = true}.
---@return table<any, true> copy
---@nodiscard
function SetProxy:copy() end

--- The members, in the order in which they came.
---@return any[] members
---@nodiscard
function SetProxy:values() end

--- Adds all members of a list, or of a table {[member] = true}.
---@param other any[]|table<any, true>
function SetProxy:update(other) end

--- A Lock or RLock of a manager.
---@class mp.LockProxy : mp.LockMethods

--- A Semaphore or BoundedSemaphore of a manager.
---@class mp.SemaphoreProxy : mp.SemaphoreMethods
local SemaphoreProxy = {}

--- Gives permits back; anybody may.
---@param n? integer how many; default: 1
function SemaphoreProxy:release(n) end

--- A Condition of a manager.
---@class mp.ConditionProxy : mp.ConditionMethods

--- An Event of a manager.
---@class mp.EventProxy : mp.EventMethods

--- A Barrier of a manager.
---@class mp.BarrierProxy : mp.BarrierMethods

--- A queue of a manager.
---@class mp.QueueProxy : mp.QueueMethods
local QueueProxy = {}

--- Puts an item in.
---@param item any not nil (`mp.null` can be put)
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return true|nil done
---@return "full"|"closed"|nil code
function QueueProxy:put(item, timeout) end

--- Puts an item in, without waiting.
---@param item any not nil (`mp.null` can be put)
---@return true|nil done
---@return "full"|"closed"|nil code
function QueueProxy:put_nowait(item) end

--- Puts the items of a list in.
---@param list any[]
---@param timeout? number seconds for all of it; nil waits for ever, 0 does not wait
---@return integer count how many of the list's front went in
---@return "full"|"closed"|nil code
function QueueProxy:put_many(list, timeout) end

--- A number or byte of a manager.
---@class mp.ValueProxy : mp.ValueMethods
local ValueProxy = {}

--- The lock that every operation takes.
---@return mp.LockProxy lock
---@nodiscard
function ValueProxy:get_lock() end

--- Numbers or bytes of a manager.
---@class mp.ArrayProxy : mp.ArrayMethods
local ArrayProxy = {}

--- The lock that every operation takes.
---@return mp.LockProxy lock
---@nodiscard
function ArrayProxy:get_lock() end

--- A pool of a manager; its workers are the server's.
---@class mp.PoolProxy : mp.Pool

--- The result of an asynchronous call of a manager's pool.
---@class mp.AsyncResultProxy : mp.AsyncResult

--- What a loop over `imap` of a manager's pool closes.
---@class mp.PoolIteratorProxy

--- An object of a registered type: its methods that do not begin with '_' can be called.
---@class mp.Proxy
---@field [string] fun(self: mp.Proxy, ...: any): any
