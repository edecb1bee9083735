--- Arguments, and errors about them that point to the caller's line.

local check = {}

local getinfo = debug and debug.getinfo

-- "file:line: " of the innermost function that is not part of the library.
local function where()
  if not getinfo then return "" end
  local level = 3
  local info = getinfo(level, "Sl")
  while info do
    if info.currentline > 0 and info.source:sub(1, 4) ~= "@mp/" then
      return ("%s:%d: "):format(info.short_src, info.currentline)
    end
    level = level + 1
    info = getinfo(level, "Sl")
  end
  return ""
end

--- Raises `message`, formatted, at the place where the script called the library.
function check.raise(message, ...)
  error(where() .. (select("#", ...) > 0 and message:format(...) or message), 0)
end

--- Raises what something in the library has raised, at the place where the script called the library:
-- it may have that place already.
function check.reraise(err)
  if type(err) ~= "string" then error(err, 0) end
  local place = where()
  if place ~= "" and err:sub(1, #place) == place then error(err, 0) end
  error(place .. err:gsub("^mp/[%w_]+%.lua:%d+: ", ""), 0)
end

--- Calls a function of the core; what it raises is raised at the script's line.
function check.call(f, ...)
  local ok, result = pcall(f, ...)
  if ok then return result end
  check.reraise(result)
end

--- Raises as luaL_argerror does.
function check.arg_error(n, fname, message, ...)
  if select("#", ...) > 0 then message = message:format(...) end
  check.raise("bad argument #%d to '%s' (%s)", n, fname, message)
end

--- What a value is, for messages: the name of its type where it has one.
function check.typename(value)
  local meta = getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and name or type(value)
end

--- Raises unless `value` is of Lua type `expected`; nil passes when `optional`.
function check.arg(n, fname, value, expected, optional)
  if type(value) == expected or (optional and value == nil) then return value end
  check.arg_error(n, fname, "%s expected, got %s", expected,
    value == nil and "no value" or check.typename(value))
end

--- Raises unless `value` is a time-out: seconds, or nil.
function check.timeout(n, fname, value)
  check.arg(n, fname, value, "number", true)
  if value ~= value then check.arg_error(n, fname, "a time-out must not be NaN") end
end

--- Whether an error is Ctrl-C's, or that of a worker whose task has had its time: nobody
-- keeps these for himself.
function check.is_interrupt(err)
  return type(err) == "string" and (err:find("interrupted!$") or err:find("task timed out$")) ~= nil
end

--- Whether a value can be called.
function check.callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__call") ~= nil
end

--- The keys of a table, sorted, in one string.
function check.names(map)
  local list = {}
  for key in pairs(map) do list[#list + 1] = tostring(key) end
  table.sort(list)
  return table.concat(list, ", ")
end

--- Checks a table of options.
-- @param known option -> function(value) that returns what was expected if the value is
--   not that, else nothing
function check.options(n, fname, options, known)
  for key, value in pairs(options) do
    local test = known[key]
    if not test then
      check.arg_error(n, fname, "unknown option '%s'; known options: %s", tostring(key),
        check.names(known))
    end
    local expected = test(value)
    if expected then
      check.arg_error(n, fname, "option '%s': %s expected, got %s", key, expected,
        type(value) == "number" and tostring(value) or check.typename(value))
    end
  end
end

return check
