---@meta _

---@class mp
local mp = {}

--- What `guard` gives, for `local _ <close> = lock:guard()`.
---@class mp.Guard
local Guard = {}

--- Releases what it holds, once.
function Guard:close() end

--- What locks have, and conditions.
---@class mp.LockMethods
local LockMethods = {}

--- Takes it.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean acquired
---@return "abandoned"|nil code its last holder died
function LockMethods:acquire(timeout) end

--- Releases it. Raises when this process does not hold it.
function LockMethods:release() end

--- Whether somebody holds it.
---@return boolean locked
---@nodiscard
function LockMethods:locked() end

--- Calls f while it is held; it is released also when f fails.
---@generic R
---@param f fun(...: any): R
---@param ... any arguments of f
---@return R ... what f returned
function LockMethods:with(f, ...) end

--- Takes it until the guard is closed: `local _ <close> = lock:guard()`.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return mp.Guard|nil guard
---@return "timeout"|"abandoned"|nil code "abandoned", with a guard: its last holder died
---@nodiscard
function LockMethods:guard(timeout) end

--- A lock that only its holder releases.
---@class mp.Lock : mp.LockMethods
local Lock = {}

--- Closes this handle. Raises while a guard, a with or a wait needs it.
function Lock:close() end

--- A lock that its holder can take again.
---@class mp.RLock : mp.LockMethods
local RLock = {}

--- Closes this handle. Raises while a guard, a with or a wait needs it.
function RLock:close() end

--- What semaphores have.
---@class mp.SemaphoreMethods
local SemaphoreMethods = {}

--- Takes a permit. It does not come back when its taker dies (that of `with` and `guard` does).
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean acquired
function SemaphoreMethods:acquire(timeout) end

--- Whether no permit is left.
---@return boolean locked
---@nodiscard
function SemaphoreMethods:locked() end

--- How many permits are left.
---@return integer n
---@nodiscard
function SemaphoreMethods:get_value() end

--- Calls f while it has a permit, which comes back also when f fails.
---@generic R
---@param f fun(...: any): R
---@param ... any arguments of f
---@return R ... what f returned
function SemaphoreMethods:with(f, ...) end

--- Takes a permit until the guard is closed: `local _ <close> = semaphore:guard()`.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return mp.Guard|nil guard
---@return "timeout"|nil code
---@nodiscard
function SemaphoreMethods:guard(timeout) end

--- A number of permits.
---@class mp.Semaphore : mp.SemaphoreMethods
local Semaphore = {}

--- Gives permits back; anybody may.
---@param n? integer default: 1
function Semaphore:release(n) end

--- Closes this handle. Raises while a guard or a with needs it.
function Semaphore:close() end

--- A number of permits that never grows beyond the first.
---@class mp.BoundedSemaphore : mp.SemaphoreMethods
local BoundedSemaphore = {}

--- Gives permits back. Raises above the initial value.
---@param n? integer default: 1
function BoundedSemaphore:release(n) end

--- Closes this handle. Raises while a guard or a with needs it.
function BoundedSemaphore:close() end

--- What conditions have: those of their lock, and these. All of these need the lock held.
---@class mp.ConditionMethods : mp.LockMethods
local ConditionMethods = {}

--- Releases the lock, waits to be notified, takes the lock again.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean notified
function ConditionMethods:wait(timeout) end

--- Waits until the predicate returns something true.
---@param predicate fun(): any called with the lock held
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return any result what the predicate returned last
function ConditionMethods:wait_for(predicate, timeout) end

--- Wakes waiters.
---@param n? integer how many at most; default: 1
function ConditionMethods:notify(n) end

--- Wakes all waiters.
function ConditionMethods:notify_all() end

--- A condition variable, with its lock.
---@class mp.Condition : mp.ConditionMethods
local Condition = {}

--- Closes this handle. Raises while a guard, a with or a wait needs it.
function Condition:close() end

--- What events have.
---@class mp.EventMethods
local EventMethods = {}

--- Sets it, and wakes all waiters.
function EventMethods:set() end

--- Clears it.
function EventMethods:clear() end

--- Whether it is set.
---@return boolean set
---@nodiscard
function EventMethods:is_set() end

--- Waits until it is set.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean set false when the time is over
function EventMethods:wait(timeout) end

--- A flag to wait for.
---@class mp.Event : mp.EventMethods
local Event = {}

--- Closes this handle. Raises while a wait needs it.
function Event:close() end

--- What barriers have.
---@class mp.BarrierMethods
---@field parties integer how many it lets go together
---@field n_waiting integer how many wait
---@field broken boolean
local BarrierMethods = {}

--- Waits until all parties have come. A time-out breaks the barrier.
---@param timeout? number seconds; nil: that of the barrier, which may be for ever
---@return integer|nil place 1 to `parties`, another one for each
---@return "broken"|nil code
function BarrierMethods:wait(timeout) end

--- Makes it whole again; who waits gets "broken".
function BarrierMethods:reset() end

--- Breaks it.
function BarrierMethods:abort() end

--- A place where processes wait for one another.
---@class mp.Barrier : mp.BarrierMethods
local Barrier = {}

--- Closes this handle. Raises while a wait needs it.
function Barrier:close() end

--- Makes a lock.
---@return mp.Lock lock
---@nodiscard
function mp.Lock() end

--- Makes a lock that its holder can take again.
---@return mp.RLock lock
---@nodiscard
function mp.RLock() end

--- Makes a semaphore.
---@param n? integer permits; default: 1
---@return mp.Semaphore semaphore
---@nodiscard
function mp.Semaphore(n) end

--- Makes a semaphore that raises when it is released above its initial value.
---@param n? integer permits; default: 1
---@return mp.BoundedSemaphore semaphore
---@nodiscard
function mp.BoundedSemaphore(n) end

--- Makes a condition variable.
---@param lock? mp.Lock|mp.RLock default: an RLock of its own
---@return mp.Condition condition
---@nodiscard
function mp.Condition(lock) end

--- Makes an event, which is clear.
---@return mp.Event event
---@nodiscard
function mp.Event() end

--- Makes a barrier.
---@param parties integer how many it lets go together, 1 to 4095
---@param action? function called by the last one that comes, before anyone goes on
---@param timeout? number seconds that a wait takes unless it says otherwise; nil: for ever
---@return mp.Barrier barrier
---@nodiscard
function mp.Barrier(parties, action, timeout) end
