---@meta _

---@class mp
local mp = {}

--- Options of `mp.Process{ … }`.
---@class mp.ProcessOptions
---@field target? function what the process runs; anything that can be called
---@field args? any[] arguments of the target; `n` is their number if it is there (table.pack)
---@field name? string default: "Process-1", in a child of it "Process-1:1"
---@field daemon? boolean it is terminated at the end of its parent; default: as the parent
---@field detach? boolean it outlives its parent, in a session of its own
---@field cpu? integer|integer[] processors that it may run on, from 0
---@field nice? integer what is added to its niceness, from -40 to 40
---@field memory? integer limit of its private memory, bytes
---@field stdin? string|file* path or open file; default: /dev/null
---@field stdout? string|file* path or open file
---@field stderr? string|file* path or open file

--- A process.
---@class mp.Process
---@field name string can be set
---@field daemon boolean can be set before the start
---@field authkey string key of connections and managers of this program, handed down; can be set
---@field pid integer|nil nil before the start
---@field exitcode integer|nil nil while it runs, -N when signal N ended it
---@field sentinel integer descriptor that polls readable at its end
local Process = {}

--- Called with the arguments of the constructor. A subclass replaces it and need not call it.
---@param ... any
function Process:init(...) end

--- What the process does: calls the target. A subclass replaces it.
function Process:run() end

--- Starts it, once. Raises when the system refuses.
function Process:start() end

--- Waits for its end.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return boolean ended whether it has ended
function Process:join(timeout) end

--- Whether it was started and has not ended.
---@return boolean alive
---@nodiscard
function Process:is_alive() end

--- Sends it SIGTERM; nothing when it has ended.
function Process:terminate() end

--- Sends it SIGKILL; nothing when it has ended.
function Process:kill() end

--- Sends it SIGINT, as Ctrl-C does; nothing when it has ended.
function Process:interrupt() end

--- Gives back what belongs to it. An error while it runs.
function Process:close() end

--- Makes processes: `mp.Process(f, 1, 2)`, or with options `mp.Process{ target = f, args = {1, 2} }`.
---@class mp.ProcessClass : mp.Process
---@overload fun(options: mp.ProcessOptions): mp.Process
---@overload fun(target: function, ...: any): mp.Process
---@overload fun(): mp.Process
local ProcessClass = {}

--- Makes a subclass: redefine `run`, and `init` for constructor arguments of its own.
---@param name string first part of the names of its processes
---@return mp.ProcessClass class
function ProcessClass:extend(name) end

--- The process that calls it.
---@return mp.Process process
---@nodiscard
function mp.current_process() end

--- The process that started this one, with name, pid, is_alive and join; nil in the main one.
---@return mp.Process|nil parent
---@nodiscard
function mp.parent_process() end

--- The children of this process that run and are not detached; reaps those that have ended.
---@return mp.Process[] children in the order of their starts
function mp.active_children() end
