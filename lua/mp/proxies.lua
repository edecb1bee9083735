--- The faces of a manager's objects: one class of proxies for each kind.
-- @module proxies

local check = require "mp.check"
local core = require "mp.core"
local proxy = require "mp.proxy"

local call, wait = proxy.call, proxy.wait

-- Texts ------------------------------------------------------------------------------------------

local text_of

local function quoted(value)
  if type(value) == "string" then return (("%q"):format(value):gsub("\\\n", "\\n")) end
  if value == core.null then return "null" end
  local meta = getmetatable(value)
  if type(value) == "table" and not (type(meta) == "table" and meta.__tostring) then return text_of(value, 0) end
  if proxy.ref(value) then return ("<%s>"):format(meta.__name) end -- not what is in it: it may be this one
  return tostring(value)
end

local function key_text(key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" then return key end
  return "[" .. quoted(key) .. "]"
end

local function list_text(list)
  local parts = {}
  for i = 1, #list do parts[i] = quoted(list[i]) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function dict_text(keys, values)
  local parts = {}
  for i = 1, #keys do parts[i] = key_text(keys[i]) .. " = " .. quoted(values[i]) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

-- A copy of a table, as a table constructor would have it.
function text_of(t)
  local keys, values = {}, {}
  local n = #t
  for key in pairs(t) do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = key end
  end
  if #keys == 0 then return list_text(t) end
  for i = 1, n do table.insert(keys, i, i) end
  for i, key in ipairs(keys) do values[i] = t[key] end
  return dict_text(keys, values)
end

-- Making classes -----------------------------------------------------------------------------------

-- Methods that are operations; those that wait have their time-out at position n.
local function methods_of(names, waits)
  local methods = {}
  for name in names:gmatch("%S+") do
    methods[name] = function(self, ...) return call(self, name, ...) end
  end
  for name, n in pairs(waits or {}) do
    if n == 1 then
      methods[name] = function(self, timeout)
        check.timeout(1, name, timeout)
        return wait(self, name, timeout)
      end
    else
      methods[name] = function(self, first, timeout)
        check.timeout(2, name, timeout)
        return wait(self, name, timeout, first)
      end
    end
  end
  return methods
end

-- Dictionaries ---------------------------------------------------------------------------------------

-- Goes through lists of keys and of values.
local function each(keys, values)
  local i = 0
  return function()
    i = i + 1
    return keys[i], values[i]
  end
end

local function dict_class(name, prefix)
  return {
    __index = function(self, key) return call(self, "get", key) end,
    __newindex = function(self, key, value) call(self, "set", key, value) end,
    __len = function(self) return call(self, "len") end,
    __pairs = function(self) return each(call(self, "both")) end,
    __tostring = function(self) return prefix .. dict_text(call(self, "both")) end,
  }, name
end

--- A dictionary, or a namespace, of a manager. Its fields are its items, in the order in which they
-- came: `d[k]`, `d[k] = v` (nil takes the item out), `#d` (how many), `pairs(d)`, `tostring(d)`. So what
-- can be done with it are functions, those of `mp.dict`. Keys are strings, numbers and booleans.
-- @type DictProxy

proxy.class("dict", "mp.DictProxy", (dict_class("mp.DictProxy", "")))
-- The same, shown as what it is.
proxy.class("namespace", "mp.NamespaceProxy", (dict_class("mp.NamespaceProxy", "Namespace")))

-- Operations on dictionaries and namespaces, each one trip to the server and atomic.
local dict = {}

local function operation(name, f)
  dict[name] = function(d, ...)
    local class = getmetatable(d)
    if class ~= proxy.classes.dict and class ~= proxy.classes.namespace then
      check.arg_error(1, name, "a dict or Namespace of a manager expected, got %s", check.typename(d))
    end
    if f then return f(d, ...) end
    return call(d, name, ...)
  end
end

--- The keys, in the order in which they came.
-- @function mp.dict.keys
-- @tparam DictProxy d of a manager
-- @treturn table array of the keys
-- @python `d.keys()`
operation "keys"
--- The values, in the order of the keys.
-- @function mp.dict.values
-- @tparam DictProxy d of a manager
-- @treturn table array of the values
-- @python `d.values()`
operation "values"
--- The value of a key.
-- @function mp.dict.get
-- @tparam DictProxy d of a manager
-- @param key string, number or boolean
-- @param[opt] default what is returned when there is none
-- @return the value, or default
-- @python `d.get(key, default)`
operation "get"
--- Takes an item out.
-- @function mp.dict.pop
-- @tparam DictProxy d of a manager
-- @param key string, number or boolean
-- @param[opt] default what is returned when there is none
-- @return its value, or default
-- @python `d.pop(key, default)`, which raises without a default
operation "pop"
--- Sets a key that has no value.
-- @function mp.dict.setdefault
-- @tparam DictProxy d of a manager
-- @param key string, number or boolean
-- @param value what it is set to
-- @return its value, the old one or the new
-- @python `d.setdefault(key, value)`
operation "setdefault"
--- Sets all items of a table, or of another dictionary; all of them or, when a key cannot be one, none.
-- @function mp.dict.update
-- @tparam DictProxy d of a manager
-- @tparam table t its items, or a DictProxy
-- @python `d.update(t)`
operation("update", function(d, t)
  check.arg(2, "update", t, "table")
  local other = proxy.ref(t) and dict.copy(t) or t
  call(d, "update", other)
end)
--- Takes all items out.
-- @function mp.dict.clear
-- @tparam DictProxy d of a manager
-- @python `d.clear()`
operation "clear"
--- A plain table with the items.
-- @function mp.dict.copy
-- @tparam DictProxy d of a manager
-- @treturn table
-- @python `d.copy()`
operation "copy"
--- Adds to a number, in one step; one that is not there counts as 0.
-- @function mp.dict.incr
-- @tparam DictProxy d of a manager
-- @param key string, number or boolean
-- @tparam[opt=1] number by what is added
-- @treturn number the sum
-- @raise a value that is no number
operation "incr"
--- Whether there is such an item.
-- @function mp.dict.contains
-- @tparam DictProxy d of a manager
-- @param key string, number or boolean
-- @treturn boolean
-- @python `key in d`
operation "contains"

local pairs_of = { __call = function(self, _, key)
  local i = key == nil and 1 or self.at[key] + 1
  if self[i] then return self[i][1], self[i][2] end
end }

--- Keys and values, as they were at one time.
-- @function mp.dict.items
-- @tparam DictProxy d of a manager
-- @treturn table array of `{key, value}`, which also serves a loop
-- @usage local manager <close> = mp.Manager()
-- local d = manager:dict()
-- d.first = 1
-- d.second = 2
-- for key, value in mp.dict.items(d) do print(key, value) end
-- --> first	1
-- --> second	2
-- @python `d.items()`
operation("items", function(d)
  local keys, values = call(d, "both")
  local list, at = {}, {}
  for i = 1, #keys do list[i], at[keys[i]] = { keys[i], values[i] }, i end
  return setmetatable(list, { __call = pairs_of.__call, __index = { at = at } })
end)

-- Lists ----------------------------------------------------------------------------------------------

--- A list of a manager: `l[i]` from 1, `#l`, `ipairs(l)`, `tostring(l)`; `l[#l + 1] = v` appends, farther
-- raises. Each method is one trip to the server and atomic.
-- @type ListProxy

--- Appends an item.
-- @function ListProxy:append
-- @param value not nil
-- @python `list.append`

--- Inserts an item, as `table.insert`.
-- @function ListProxy:insert
-- @tparam[opt] integer i where; at the end without it
-- @param value not nil
-- @raise an index that is out of range
-- @python `list.insert`, which counts from 0

--- Takes an item out.
-- @function ListProxy:pop
-- @tparam[opt=#l] integer i which one
-- @return the item
-- @raise an empty list, an index that is out of range
-- @python `list.pop`

--- Takes the first item out that is equal to a value.
-- @function ListProxy:remove
-- @param value that item
-- @treturn boolean whether there was one
-- @python `list.remove`, which raises

--- Turns the order round.
-- @function ListProxy:reverse
-- @python `list.reverse`

--- Sorts it, in the server.
-- @function ListProxy:sort
-- @tparam[opt] function less as for `table.sort`
-- @raise what cannot be compared; the list is as it was then
-- @python `list.sort`

--- Where the first item is that is equal to a value.
-- @function ListProxy:index
-- @param value that item
-- @treturn integer|nil its index
-- @python `list.index`, which raises

--- How many items are equal to a value.
-- @function ListProxy:count
-- @param value those items
-- @treturn integer
-- @python `list.count`

--- A plain table with the items.
-- @function ListProxy:copy
-- @treturn table
-- @python `list.copy`

--- Takes all items out.
-- @function ListProxy:clear
-- @python `list.clear`

local list_methods = methods_of "append insert pop remove extend reverse sort index count copy clear"

--- Appends the items of a table or of another list.
-- @function ListProxy:extend
-- @tparam table other a list, or a ListProxy
-- @python `list.extend`
function list_methods:extend(other)
  check.arg(1, "extend", other, "table")
  if proxy.ref(other) then other = call(other, "copy") end
  call(self, "extend", other)
end

proxy.class("list", "mp.ListProxy", {
  __index = function(self, key)
    if math.type(key) == "integer" then return call(self, "get", key) end
    return list_methods[key]
  end,
  __newindex = function(self, i, value) call(self, "set", i, value) end,
  __len = function(self) return call(self, "len") end,
  __pairs = function(self) return ipairs(call(self, "copy")) end,
  __tostring = function(self) return list_text(call(self, "copy")) end,
})

-- Sets -----------------------------------------------------------------------------------------------

--- A set of a manager: `s[member]` is true or nil, unless a method has that name, and can be set to
-- true or nil; `#s`, `pairs(s)`, `tostring(s)`. Members are strings, numbers and booleans.
-- @type SetProxy

--- Adds a member.
-- @function SetProxy:add
-- @param member string, number or boolean

--- Takes a member out.
-- @function SetProxy:remove
-- @param member string, number or boolean
-- @treturn boolean whether it was there

--- Takes some member out.
-- @function SetProxy:pop
-- @return the member
-- @raise an empty set

--- Whether it has a member.
-- @function SetProxy:contains
-- @param member string, number or boolean
-- @treturn boolean

--- Takes all members out.
-- @function SetProxy:clear

--- A plain table `{[member] = true}`.
-- @function SetProxy:copy
-- @treturn table

--- The members, in the order in which they came.
-- @function SetProxy:values
-- @treturn table array of the members

--- Adds members.
-- @function SetProxy:update
-- @tparam table members a list of them, or a table `{[member] = true}`

local set_methods = methods_of "add remove pop contains clear copy values update"

proxy.class("set", "mp.SetProxy", {
  __index = function(self, key)
    if set_methods[key] then return set_methods[key] end
    return call(self, "contains", key) or nil
  end,
  __newindex = function(self, key, value) call(self, value and "add" or "remove", key) end,
  __len = function(self) return call(self, "len") end,
  __pairs = function(self)
    local members = call(self, "values")
    local all = {}
    for i = 1, #members do all[i] = true end
    return each(members, all)
  end,
  __tostring = function(self) return list_text(call(self, "values")) end,
})

-- Locks ----------------------------------------------------------------------------------------------

-- What with and guard hold: given back once, in the process that has taken it.
local Guard = { __name = "mp.Guard", __mp = "mp.Guard" }
Guard.__index = Guard

function Guard:close()
  local held = self.of
  self.of = nil
  if held and self.pid == core.getpid() then call(held, "give_back") end
end

-- An error on its way out is not hidden by another.
function Guard:__close(err)
  if err == nil then return self:close() end
  pcall(self.close, self)
end

local function guard_of(self) return setmetatable({ of = self, pid = core.getpid() }, Guard) end

local function with_scope(methods)
  function methods:guard(timeout)
    check.timeout(1, "guard", timeout)
    local ok, how = wait(self, "take", timeout)
    if not ok then return nil, "timeout" end
    return guard_of(self), how
  end
  function methods:with(f, ...)
    if not check.callable(f) then check.arg(1, "with", f, "function") end
    if not wait(self, "take") then check.raise("the manager's time-out is over: the lock was not taken") end
    local _ <close> = guard_of(self)
    return f(...)
  end
  return methods
end

proxy.class("lock", "mp.LockProxy", {
  __index = with_scope(methods_of("release locked", { acquire = 1 })),
})
proxy.class("semaphore", "mp.SemaphoreProxy", {
  __index = with_scope(methods_of("release locked get_value", { acquire = 1 })),
})

local condition = with_scope(methods_of("release locked notify notify_all", { acquire = 1, wait = 1 }))

function condition:wait_for(predicate, timeout)
  if not check.callable(predicate) then check.arg(1, "wait_for", predicate, "function") end
  check.timeout(2, "wait_for", timeout)
  local deadline = timeout and core.monotonic() + timeout
  call(self, "check", "wait_for")
  local value = predicate()
  while not value do
    local over = not wait(self, "wait", deadline and deadline - core.monotonic())
    value = predicate()
    if over then break end
  end
  return value
end

proxy.class("condition", "mp.ConditionProxy", { __index = condition })
proxy.class("event", "mp.EventProxy", { __index = methods_of("set clear is_set", { wait = 1 }) })

local barrier = methods_of("reset abort", { wait = 1 })
local barrier_fields = { parties = true, n_waiting = true, broken = true }

proxy.class("barrier", "mp.BarrierProxy", {
  __index = function(self, key)
    if barrier_fields[key] then return call(self, key) end
    return barrier[key]
  end,
})

-- Queues ---------------------------------------------------------------------------------------------

local queue = methods_of("qsize empty full task_done shutdown",
  { get = 1, join = 1, put = 2, get_many = 2, put_many = 2 })

function queue:put_nowait(item) return queue.put(self, item, 0) end
function queue:get_nowait() return queue.get(self, 0) end

-- Iterates over the items; ends when the queue is shut down and drained.
function queue:items()
  return function()
    return (queue.get(self))
  end
end

-- This proxy only, as the close of a Queue.
queue.close = proxy.close

function queue.fileno() check.raise("a queue of a manager has no descriptor") end

proxy.class("queue", "mp.QueueProxy", {
  __index = queue,
  __close = proxy.close,
  __tostring = function(self)
    local n = call(self, "qsize")
    return ("mp.QueueProxy: object %d of a manager (%d item%s)"):format(proxy.ref(self)[3], n,
      n == 1 and "" or "s")
  end,
})

-- Values and arrays ------------------------------------------------------------------------------------

local value = methods_of "add update compare_exchange get_lock"

proxy.class("value", "mp.ValueProxy", {
  __index = function(self, key)
    if key == "value" then return call(self, "get") end
    return value[key]
  end,
  __newindex = function(self, key, new)
    if key ~= "value" then check.raise("mp.ValueProxy has no field '%s'", tostring(key)) end
    call(self, "set", new)
  end,
  __tostring = function(self) return ("mp.ValueProxy (%s)"):format(call(self, "get")) end,
})

local array = methods_of "get set fill totable bytes add update compare_exchange get_lock"

proxy.class("array", "mp.ArrayProxy", {
  __index = function(self, key)
    if math.type(key) == "integer" then return call(self, "item", key) end
    return array[key]
  end,
  __newindex = function(self, i, new) call(self, "set_item", i, new) end,
  __len = function(self) return call(self, "len") end,
  __tostring = function(self)
    local items = call(self, "get")
    return type(items) == "string" and quoted(items) or list_text(items)
  end,
})

-- Pools ------------------------------------------------------------------------------------------------

local function iterate(self, name, ...)
  local iterator = call(self, name, ...)
  return function() return call(iterator, "next") end, nil, nil, iterator
end

local pool = methods_of("apply apply_async map map_async starmap starmap_async close terminate", { join = 1 })
function pool:imap(...) return iterate(self, "imap", ...) end
function pool:imap_unordered(...) return iterate(self, "imap_unordered", ...) end

proxy.class("pool", "mp.PoolProxy", {
  __index = function(self, key)
    if key == "processes" then return call(self, "processes") end
    return pool[key]
  end,
  __close = function(self) call(self, "terminate") end,
})

proxy.class("result", "mp.AsyncResultProxy", {
  __index = methods_of("ready successful", { get = 1, wait = 1 }),
})

proxy.class("iterator", "mp.PoolIteratorProxy", {
  __index = {},
  __close = function(self) call(self, "close") end,
})

-- Own types ----------------------------------------------------------------------------------------------

-- name -> the function that calls it; there are few names.
local callers = {}

proxy.class("own", "mp.Proxy", {
  __index = function(_, name)
    if type(name) ~= "string" then return nil end
    local caller = callers[name]
    if not caller then
      caller = function(self, ...)
        if not proxy.ref(self) then
          check.raise("calling '%s' on bad self (a proxy expected, got %s)", name, check.typename(self))
        end
        return call(self, name, ...)
      end
      callers[name] = caller
    end
    return caller
  end,
  __newindex = function(_, name)
    check.raise("a field of a manager's object cannot be set (field '%s')", tostring(name))
  end,
})

-- As fields of this module the classes go by name, and who gets a proxy loads it.
local proxies = { dict = dict }
for _, class in pairs(proxy.classes) do proxies[class.__name:sub(4)] = class end

return proxies
