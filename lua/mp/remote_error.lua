--- Errors that happened in another process.
-- @module remote_error

-- The class is a module, so that an error which crosses to a further process (from a pool
-- in a worker, say) arrives as one of the same class.

--- What is raised when another process failed: in a task of a pool, or a method of a manager's object.
-- `tostring` shows all of it. `mp.type(e) == "mp.RemoteError"` tells it from other errors.
-- @type RemoteError

--- The original error value, of any type.
-- @field message

--- The traceback of where it happened; nil when there is none, as for a worker that was killed.
-- @tfield string traceback

--- The name of the process.
-- @tfield string process

--- The number of the process.
-- @tfield integer pid

-- The metatable of the objects.
local RemoteError = { __name = "mp.RemoteError", __mp = "mp.RemoteError" }

local signals = {
  [1] = "SIGHUP", [2] = "SIGINT", [3] = "SIGQUIT", [4] = "SIGILL", [6] = "SIGABRT", [7] = "SIGBUS",
  [8] = "SIGFPE", [9] = "SIGKILL", [10] = "SIGUSR1", [11] = "SIGSEGV", [12] = "SIGUSR2",
  [13] = "SIGPIPE", [14] = "SIGALRM", [15] = "SIGTERM", [24] = "SIGXCPU", [25] = "SIGXFSZ",
  [31] = "SIGSYS",
}

-- The text of any value; a __tostring that fails is no reason to fail.
local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or ("(error object is a %s value)"):format(type(value))
end

-- Makes an error object of a table with its fields: `message`, the original error value;
-- `traceback`, of where it happened, or nil; `process`, the name of the process; `pid`.
function RemoteError.of(fields) return setmetatable(fields, RemoteError) end

-- The error object for a worker that ended.
-- status: exit code, or -N when signal N killed it
-- doing: what it was at: "while it ran task 5"
function RemoteError.lost(status, doing, process, pid)
  local how = "ended"
  if status and status < 0 then
    local name = signals[-status]
    how = ("was killed by signal %d%s"):format(-status, name and " (" .. name .. ")" or "")
  elseif status then
    how = ("ended with exit code %d"):format(status)
  end
  return RemoteError.of {
    message = ("worker %s %s"):format(how, doing), process = process, pid = pid,
  }
end

function RemoteError.__tostring(self)
  local message = text_of(rawget(self, "message"))
  local process, pid, traceback = rawget(self, "process"), rawget(self, "pid"), rawget(self, "traceback")
  local lines = { message }
  if process or pid then
    lines[2] = ("[in %s%s]"):format(process or "another process", pid and ", pid " .. pid or "")
  end
  if type(traceback) == "string" and traceback ~= "" then
    -- some begin with the message
    if traceback:sub(1, #message + 1) == message .. "\n" then traceback = traceback:sub(#message + 2) end
    lines[#lines + 1] = traceback
  end
  return table.concat(lines, "\n")
end

function RemoteError.__concat(a, b) return text_of(a) .. text_of(b) end

return RemoteError
