--- Logging: `[LEVEL/process] message` lines, one write each: lines of several processes never mix.
--
-- The library logs what Python's does: starts and ends of children, calls of join and terminate, exit
-- codes. Levels are "DEBUG", "INFO", "WARNING", "ERROR" and "CRITICAL".
-- @module log

-- Level and handler are ordinary variables, so that a fork hands them down. Without a
-- handler nothing is written, and a line costs a comparison.

local check = require "mp.check"
local core = require "mp.core"

local levels = { DEBUG = 10, INFO = 20, WARNING = 30, ERROR = 40, CRITICAL = 50 }
local DEFAULT = levels.WARNING -- when a handler is there and nobody has set a level

local log = {}

local handler   -- function(level, message, process_name), or nil
local level     -- number, or nil: not set
local threshold = math.huge -- the least level that is handled

local function settle()
  threshold = handler and (level or DEFAULT) or math.huge
end

local function to_stderr(name, message, process)
  core.write(2, ("[%s/%s] %s\n"):format(name, process, message))
end

-- What is logged must not fail for the log's sake: an error of the handler is told
-- where it cannot fail.
local function emit(name, message)
  local process = core.name
  local ok, err = pcall(handler, name, message, process)
  if ok then return end
  if tostring(err):find("interrupted!$") then error(err, 0) end
  to_stderr("ERROR", "log handler failed: " .. tostring(err), process)
end

-- The text of a line; what does not fit its format is the caller's mistake.
local function formatted(fname, fmt, ...)
  if select("#", ...) == 0 then return fmt end
  local ok, text = pcall(string.format, fmt, ...)
  if ok then return text end
  if type(text) ~= "string" then error(text, 0) end
  check.raise("%s", (text:gsub("'[%w.]*format'", "'" .. fname .. "'", 1)))
end

local function check_level(n, fname, value)
  check.arg(n, fname, value, "string")
  if not levels[value] then
    check.arg_error(n, fname, "unknown level '%s'; known levels: %s", value, check.names(levels))
  end
  return levels[value]
end

--- The logger; there is one.
-- @type Logger

--- Gets the lines in place of stderr: `function(level, message, process_name)`, or nil for silence.
-- Can be set; it is inherited by processes started from now on.
-- @tfield function handler

--- Logs a line of the level "DEBUG".
-- @function Logger:debug
-- @tparam string fmt a text, or with more arguments a format as for `string.format`
-- @param ... what goes into it
-- @raise values that do not fit the format

--- Logs a line of the level "INFO".
-- @function Logger:info
-- @tparam string fmt as in `Logger:debug`
-- @param ... what goes into it

--- Logs a line of the level "WARNING".
-- @function Logger:warning
-- @tparam string fmt as in `Logger:debug`
-- @param ... what goes into it

--- Logs a line of the level "ERROR".
-- @function Logger:error
-- @tparam string fmt as in `Logger:debug`
-- @param ... what goes into it

--- Logs a line of the level "CRITICAL".
-- @function Logger:critical
-- @tparam string fmt as in `Logger:debug`
-- @param ... what goes into it

local methods = {}
local logger = setmetatable({}, {
  __name = "mp.Logger",
  __mp = "mp.Logger",
  __index = function(_, key)
    if key == "handler" then return handler end
    return methods[key]
  end,
  __newindex = function(_, key, value)
    if key ~= "handler" then
      check.raise("an mp.Logger has no field '%s' that can be set; it has: handler", tostring(key))
    end
    if value ~= nil and not check.callable(value) then
      check.raise("field 'handler' of an mp.Logger: function expected, got %s",
        check.typename(value))
    end
    handler = value
    settle()
  end,
})

local function logging(name)
  local number = levels[name]
  local fname = name:lower()
  methods[fname] = function(self, fmt, ...)
    if self ~= logger then
      check.raise("calling '%s' on bad self (mp.Logger expected, got %s)", fname,
        check.typename(self))
    end
    if type(fmt) ~= "string" then check.arg(1, fname, fmt, "string") end
    if number < threshold then return end
    emit(name, formatted(fname, fmt, ...))
  end
  -- log.debug, log.info …: the library's own lines.
  log[fname] = function(fmt, ...)
    if number < threshold then return end
    emit(name, select("#", ...) > 0 and fmt:format(...) or fmt)
  end
end
for name in pairs(levels) do logging(name) end

--- Sets the least level that is logged, here and in processes started from now on.
-- @function Logger:set_level
-- @tparam string name "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL"
-- @raise another name
-- @python `Logger.setLevel`
function methods:set_level(name)
  if self ~= logger then
    check.raise("calling 'set_level' on bad self (mp.Logger expected, got %s)",
      check.typename(self))
  end
  level = check_level(1, "set_level", name)
  settle()
end

--- The logger of the library, the same in every call. It writes nothing until
-- `log_to_stderr` was called or its `handler` was set.
-- @function mp.get_logger
-- @treturn Logger
-- @python `multiprocessing.get_logger`
-- @usage local logger = mp.get_logger()
-- logger.handler = function(level, message, process) print(level, process, message) end
-- logger:warning("%d jobs are left", 3) --> WARNING	MainProcess	3 jobs are left
function log.get_logger() return logger end

--- Makes the logger write to stderr.
-- @function mp.log_to_stderr
-- @tparam[opt] string name the level, as in `Logger:set_level`; without one what was set before, or
--   "WARNING"
-- @treturn Logger
-- @raise another name
-- @python `multiprocessing.log_to_stderr`
function log.log_to_stderr(name)
  if name ~= nil then level = check_level(1, "log_to_stderr", name) end
  handler = to_stderr
  settle()
  return logger
end

return log
