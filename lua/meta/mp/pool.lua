---@meta _

---@class mp
local mp = {}

--- Options of `mp.Pool{ … }`.
---@class mp.PoolOptions
---@field processes? integer how many workers; default: `mp.cpu_count()`; 0: all runs in the caller
---@field initializer? function called in every worker before its first task
---@field initargs? any[] its arguments
---@field maxtasksperchild? integer tasks after which a worker is replaced
---@field retries? integer how often a task is tried again when its worker died; default: 0
---@field seed? integer every task gets a `math.random` stream of its own from it
---@field grace? number seconds from "task timed out" to the end of the worker; default: 1

--- Options of `apply`.
---@class mp.ApplyOptions
---@field timeout? number seconds for the whole call; then `nil, "timeout"`
---@field task_timeout? number seconds for each task: an error in it, then the end of its worker
---@field retries? integer how often a task is tried again when its worker died

--- Options of `apply_async`.
---@class mp.ApplyAsyncOptions : mp.ApplyOptions
---@field callback? fun(value: any) called with the result, inside a later call into the pool
---@field error_callback? fun(err: any) called with the error, inside a later call into the pool

--- Options of `map` and `starmap`.
---@class mp.MapOptions : mp.ApplyOptions
---@field chunksize? integer items that go to a worker together; default: by the time that tasks take
---@field progress? boolean|string true or a label: shows a bar on stderr

--- Options of `map_async` and `starmap_async`.
---@class mp.MapAsyncOptions : mp.MapOptions
---@field callback? fun(list: any[]) called with the list of results, inside a later call into the pool
---@field error_callback? fun(err: any) called with the error, inside a later call into the pool

--- Options of `imap` and `imap_unordered`.
---@class mp.ImapOptions : mp.MapOptions
---@field window? integer how many items are taken from the input ahead of the reader

--- A pool of worker processes. What a task raises is raised where its result is asked for, as an
--- `mp.RemoteError`.
---@class mp.Pool
---@field processes integer how many workers it has
local Pool = {}

--- Calls f in a worker and waits for its result.
---@generic R
---@param f fun(...: any): R
---@param args? any[] its arguments; `n` is their number if it is there
---@param opts? mp.ApplyOptions
---@return R|nil value the first that f returned
---@return "timeout"|nil code
function Pool:apply(f, args, opts) end

--- Calls f in a worker, and does not wait.
---@param f function
---@param args? any[] its arguments; `n` is their number if it is there
---@param opts? mp.ApplyAsyncOptions
---@return mp.AsyncResult result
function Pool:apply_async(f, args, opts) end

--- Calls f for every item and waits for all results. The first error that is known is raised, and
--- the rest is cancelled.
---@generic T, R
---@param f fun(item: T): R
---@param list T[]|fun(): T? list (`n` is its length if it is there), or function that gives the next item
---@param opts? mp.MapOptions
---@return R[]|nil results with holes where they are nil
---@return "timeout"|nil code
function Pool:map(f, list, opts) end

--- Calls f for every item, without waiting.
---@generic T
---@param f fun(item: T): any
---@param list T[]|fun(): T? list, or function that gives the next item
---@param opts? mp.MapAsyncOptions
---@return mp.AsyncResult result its value is the list of results
function Pool:map_async(f, list, opts) end

--- As `map`, where every item is a list of arguments.
---@generic R
---@param f fun(...: any): R
---@param list any[][]|fun(): any[]? list of lists of arguments, or function that gives the next one
---@param opts? mp.MapOptions
---@return R[]|nil results with holes where they are nil
---@return "timeout"|nil code
function Pool:starmap(f, list, opts) end

--- As `map_async`, where every item is a list of arguments.
---@param f function
---@param list any[][]|fun(): any[]? list of lists of arguments, or function that gives the next one
---@param opts? mp.MapAsyncOptions
---@return mp.AsyncResult result its value is the list of results
function Pool:starmap_async(f, list, opts) end

--- Calls f for every item: `for i, value in pool:imap(f, items) do`, in the order of the input, which
--- is read only a little ahead. A failed task is raised at its place; leaving the loop cancels the rest.
--- When `timeout` is over the iterator returns nil, "timeout".
---@generic T, R
---@param f fun(item: T): R
---@param list T[]|fun(): T? list, or function that gives the next item
---@param opts? mp.ImapOptions
---@return (fun(): integer?, R) iterator
---@return nil
---@return nil
---@return mp.PoolIterator reader what the loop closes
function Pool:imap(f, list, opts) end

--- As `imap`, in the order in which the results come.
---@generic T, R
---@param f fun(item: T): R
---@param list T[]|fun(): T? list, or function that gives the next item
---@param opts? mp.ImapOptions
---@return (fun(): integer?, R) iterator
---@return nil
---@return nil
---@return mp.PoolIterator reader what the loop closes
function Pool:imap_unordered(f, list, opts) end

--- Lets no more calls in. What was submitted runs to its end, then the workers end.
function Pool:close() end

--- Ends the workers at once. What was not finished ends with an error.
function Pool:terminate() end

--- Waits for the end of all tasks and workers, after `close` or `terminate`.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean ended
function Pool:join(timeout) end

--- What a loop over `imap` closes.
---@class mp.PoolIterator

--- The result of an asynchronous call, which may not be there yet.
---@class mp.AsyncResult
local AsyncResult = {}

--- The result; raises the task's error.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return any|nil value
---@return "timeout"|nil code
function AsyncResult:get(timeout) end

--- Waits until the result, or the error, is there.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean ready
function AsyncResult:wait(timeout) end

--- Whether the result, or the error, is there.
---@return boolean ready
---@nodiscard
function AsyncResult:ready() end

--- Whether it ended without an error. Raises while it is not ready.
---@return boolean successful
---@nodiscard
function AsyncResult:successful() end

--- Makes a pool; its workers start at once, with what the script has now. `local pool <close> = …`
--- terminates it at the end of the scope.
---@param options? integer|mp.PoolOptions how many workers; default: `mp.cpu_count()`; 0: all runs in the caller
---@return mp.Pool pool
---@nodiscard
function mp.Pool(options) end

--- A part of a text file that begins and ends where lines do; plain data, cheap to send.
---@class mp.Range
---@field path string
---@field offset integer bytes before it
---@field size integer bytes
local Range = {}

--- Iterates over its lines, as io.lines does.
---@param format? "l"|"L" "l" (the default): without the newline; "L": with it
---@return fun(): string? iterator
---@return nil
---@return nil
---@return file* file what the loop closes
---@nodiscard
function Range:lines(format) end

--- Its text; shorter if the file is shorter now.
---@return string text
---@nodiscard
function Range:read() end

--- What `mp.file_ranges` takes in place of a number.
---@class mp.RangeOptions
---@field size integer bytes, at least, of each range but the last

--- Cuts a text file into ranges of whole lines: tasks for a map.
---@param path string of a file that does not change meanwhile
---@param parts integer|mp.RangeOptions how many, or `{ size = bytes }`
---@return mp.Range[] ranges none of them empty, in the order of the file
---@nodiscard
function mp.file_ranges(path, parts) end
