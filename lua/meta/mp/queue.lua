---@meta _

---@class mp
local mp = {}

--- What all queues have.
---@class mp.QueueMethods
local QueueMethods = {}

--- Takes an item out.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return any|nil item
---@return "empty"|"closed"|nil code
function QueueMethods:get(timeout) end

--- Takes an item out, without waiting.
---@return any|nil item
---@return "empty"|"closed"|nil code
function QueueMethods:get_nowait() end

--- Takes out what is there, up to `max` items; waits for the first only.
---@param max integer
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return any[]|nil items at least one
---@return "empty"|"closed"|nil code
function QueueMethods:get_many(max, timeout) end

--- How many items are in it.
---@return integer n
---@nodiscard
function QueueMethods:qsize() end

--- Whether no item is in it.
---@return boolean empty
---@nodiscard
function QueueMethods:empty() end

--- Whether maxsize items are in it.
---@return boolean full
---@nodiscard
function QueueMethods:full() end

--- Marks an item as done that was got. Raises when it is called more often than items were put.
function QueueMethods:task_done() end

--- Waits until every item was marked done.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean done
---@return "abandoned"|nil code a process died with items that it had not marked done
function QueueMethods:join(timeout) end

--- Iterates over the items; ends when the queue is shut down and empty.
---@return fun(): any iterator
---@nodiscard
function QueueMethods:items() end

--- Lets nobody put any more. Getters get what is there, then "closed".
function QueueMethods:shutdown() end

--- Closes this handle only; others go on with the queue.
function QueueMethods:close() end

--- The descriptor that polls readable while items wait. A queue of a manager has none: raises.
---@return integer fd stays the queue's
function QueueMethods:fileno() end

--- A queue for many producers and consumers, in any process of the family; first in, first out.
---@class mp.Queue : mp.QueueMethods
local Queue = {}

--- Puts an item in. It is in the queue when this returns. Raises when the item cannot be marshalled
--- or shared memory is full.
---@param item any not nil (`mp.null` can be put)
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return true|nil done
---@return "full"|"closed"|nil code
function Queue:put(item, timeout) end

--- Puts an item in, without waiting.
---@param item any not nil (`mp.null` can be put)
---@return true|nil done
---@return "full"|"closed"|nil code
function Queue:put_nowait(item) end

--- Puts the items of a list in.
---@param list any[]
---@param timeout? number seconds for all of it; nil waits for ever, 0 does not wait
---@return integer count how many of the list's front went in
---@return "full"|"closed"|nil code
function Queue:put_many(list, timeout) end

--- A queue in which the last item in is the first out.
---@class mp.LifoQueue : mp.Queue

--- A queue that gives the lowest priority first; equal ones in the order in which they came.
---@class mp.PriorityQueue : mp.QueueMethods
local PriorityQueue = {}

--- Puts an item in. Raises when it cannot be marshalled or shared memory is full.
---@param item any not nil (`mp.null` can be put)
---@param priority number lowest first
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return true|nil done
---@return "full"|"closed"|nil code
function PriorityQueue:put(item, priority, timeout) end

--- Puts an item in, without waiting.
---@param item any not nil (`mp.null` can be put)
---@param priority number lowest first
---@return true|nil done
---@return "full"|"closed"|nil code
function PriorityQueue:put_nowait(item, priority) end

--- Makes a queue: first in, first out over all producers.
---@param maxsize? integer items that it holds; nil or 0: bounded by memory only
---@return mp.Queue queue
---@nodiscard
function mp.Queue(maxsize) end

--- `mp.Queue` under another name.
---@param maxsize? integer items that it holds; nil or 0: bounded by memory only
---@return mp.Queue queue
---@nodiscard
function mp.JoinableQueue(maxsize) end

--- `mp.Queue` under another name.
---@param maxsize? integer items that it holds; nil or 0: bounded by memory only
---@return mp.Queue queue
---@nodiscard
function mp.SimpleQueue(maxsize) end

--- Makes a queue: last in, first out.
---@param maxsize? integer items that it holds; nil or 0: bounded by memory only
---@return mp.LifoQueue queue
---@nodiscard
function mp.LifoQueue(maxsize) end

--- Makes a queue: lowest priority first.
---@param maxsize? integer items that it holds; nil or 0: bounded by memory only
---@return mp.PriorityQueue queue
---@nodiscard
function mp.PriorityQueue(maxsize) end
