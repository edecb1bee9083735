---@meta _

---@class mp
local mp = {}

---@alias mp.Level "DEBUG"|"INFO"|"WARNING"|"ERROR"|"CRITICAL"

--- The logger: `[INFO/Process-1] message` lines, one write each.
---@class mp.Logger
---@field handler (fun(level: mp.Level, message: string, process_name: string))|nil can be set; nil: nothing is logged
local Logger = {}

--- Sets the least level that is logged, here and in processes started from now on.
---@param level mp.Level
function Logger:set_level(level) end

--- Logs a message.
---@param fmt string as in string.format, when there are arguments
---@param ... any
function Logger:debug(fmt, ...) end

--- Logs a message.
---@param fmt string as in string.format, when there are arguments
---@param ... any
function Logger:info(fmt, ...) end

--- Logs a message.
---@param fmt string as in string.format, when there are arguments
---@param ... any
function Logger:warning(fmt, ...) end

--- Logs a message.
---@param fmt string as in string.format, when there are arguments
---@param ... any
function Logger:error(fmt, ...) end

--- Logs a message.
---@param fmt string as in string.format, when there are arguments
---@param ... any
function Logger:critical(fmt, ...) end

--- The logger of the library, the same in every call. It writes nothing until `log_to_stderr` was
--- called or its `handler` was set.
---@return mp.Logger logger
---@nodiscard
function mp.get_logger() end

--- Has the logger write to stderr.
---@param level? mp.Level default: what was set before, or "WARNING"
---@return mp.Logger logger
function mp.log_to_stderr(level) end
