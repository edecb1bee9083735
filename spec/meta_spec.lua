--- The annotations for the language server say what the library is: compared by introspection.

local T = require "spec.helper"
local mp = require "mp"
local annotations = require "spec.annotations"

for _, part in ipairs { "sync", "queue", "cell", "pool" } do require("mp.served_" .. part) end

local Annotated = annotations.members

-- What there is ------------------------------------------------------------------------

-- The text of the library's file that a Lua function is in; "" for others.
local function file_of(f)
  local source = debug.getinfo(f, "S").source
  return source:sub(1, 4) == "@mp/" and T.read("lua/" .. source:sub(2)) or ""
end

-- The lines of the function.
local function source_of(f)
  local info, lines, n = debug.getinfo(f, "S"), {}, 0
  for line in file_of(f):gmatch("[^\n]*\n") do
    n = n + 1
    if n >= info.linedefined and n <= info.lastlinedefined then lines[#lines + 1] = line end
  end
  return table.concat(lines)
end

-- name (in a C function: number) -> value; but modules, which its file requires.
local function upvalues(f)
  local found, modules = {}, { _ENV = true }
  for name in file_of(f):gmatch("\nlocal ([%w_]+) = require") do modules[name] = true end
  for i = 1, 255 do
    local name, value = debug.getupvalue(f, i)
    if not name then return found end
    if not modules[name] then found[name == "" and i or name] = value end
  end
  return found
end

-- Names of a table: functions are methods, `true` marks a field that is computed.
local function note_table(found, t)
  for key, value in pairs(t) do
    if type(key) ~= "string" or key:find("^_") then goto continue end
    if type(value) == "function" then found.methods[key] = value end
    if value == true then found.fields[key] = true end
    ::continue::
  end
end

-- What an object has: from its metatable's __index, a table or a function with the methods as an
-- upvalue, and from its own fields.
local function members_of(metatable, object)
  local found = { methods = {}, fields = {} }
  local index = metatable.__index
  if type(index) == "table" then
    note_table(found, index)
  elseif index then
    for _, value in pairs(upvalues(index)) do
      if type(value) == "table" then note_table(found, value) end
    end
    for key in source_of(index):gmatch('key == "([%w_]+)"') do found.fields[key] = true end
  end
  if type(object) == "table" then
    for key in pairs(object) do
      if type(key) == "string" and not key:find("^_") then found.fields[key] = true end
    end
  end
  return found
end

-- Fields that bindings compute, by what they compare the key with.
local function c_fields(found, path, pattern)
  for names in T.read(path):gmatch(pattern) do
    for name in names:gmatch("[%a_]+") do
      if name ~= "NULL" then found.fields[name] = true end
    end
  end
  return found
end

local function only(found, wanted)
  local some = { methods = {}, fields = found.fields }
  for name in wanted:gmatch("%S+") do some.methods[name] = found.methods[name] end
  return some
end

local function process_members(object)
  local found = { methods = {}, fields = {} }
  note_table(found, mp.Process)
  found.methods.extend = nil
  for key in pairs(upvalues(getmetatable(object).__index).getters) do found.fields[key] = true end
  return found
end

-- What is called on an instance; what only the class has is `extend` and `register`.
local function manager_members(object)
  local index = getmetatable(object).__index
  local found = { methods = {}, fields = {} }
  note_table(found, getmetatable(mp.Manager).__index)
  found.methods.extend, found.methods.register = nil, nil
  for name in pairs(upvalues(index).builtin) do
    found.methods[name] = require "mp.served".makers[name] or error("no maker " .. name)
  end
  for key in source_of(index):gmatch('key == "([%w_]+)"') do found.fields[key] = true end
  return found
end

-- The operations of the server, whose parameters are known where those of proxies are not.
local served = {
  ["mp.ListProxy"] = "list", ["mp.SetProxy"] = "set", ["mp.LockProxy"] = "lock",
  ["mp.SemaphoreProxy"] = "semaphore", ["mp.ConditionProxy"] = "condition", ["mp.EventProxy"] = "event",
  ["mp.BarrierProxy"] = "barrier", ["mp.QueueProxy"] = "queue", ["mp.ArrayProxy"] = "array",
  ["mp.ValueProxy"] = "value", ["mp.AsyncResultProxy"] = "result",
}

local objects -- class -> an object, while a test runs

local function make_objects()
  local pool = mp.Pool(0)
  local _, _, _, reader = pool:imap(math.abs, { 1 })
  local point = mp.Struct { { "x", "d" } }
  local lock = mp.Lock()
  local connection, other = mp.Pipe()
  other:close()
  objects = {
    ["mp.Process"] = mp.current_process(), ["mp.Queue"] = mp.Queue(), ["mp.LifoQueue"] = mp.LifoQueue(),
    ["mp.PriorityQueue"] = mp.PriorityQueue(), ["mp.Connection"] = connection,
    ["mp.Listener"] = mp.Listener("\0" .. T.tmpname()), ["mp.Value"] = mp.Value("i"), ["mp.Array"] = mp.Array("i", 1),
    ["mp.StructType"] = point, ["mp.Struct"] = point {}, ["mp.StructArray"] = point:array(1), ["mp.Lock"] = lock,
    ["mp.RLock"] = mp.RLock(), ["mp.Semaphore"] = mp.Semaphore(), ["mp.BoundedSemaphore"] = mp.BoundedSemaphore(),
    ["mp.Condition"] = mp.Condition(), ["mp.Event"] = mp.Event(), ["mp.Barrier"] = mp.Barrier(1),
    ["mp.Guard"] = lock:guard(), ["mp.Pool"] = pool, ["mp.AsyncResult"] = pool:apply_async(math.abs, { 1 }),
    ["mp.PoolIterator"] = reader, ["mp.Range"] = mp.file_ranges("README.md", 1)[1],
    ["mp.RemoteError"] = require "mp.remote_error".of { message = "", traceback = "", process = "", pid = 1 },
    ["mp.Logger"] = mp.get_logger(), ["mp.Manager"] = mp.Manager { address = "\0meta" },
  }
end

local function drop_objects()
  for _, class in ipairs { "mp.Guard", "mp.Listener", "mp.Connection", "mp.Queue" } do objects[class]:close() end
  objects["mp.Pool"]:terminate()
  objects = nil
end

local by_hand = {
  ["mp.Process"] = process_members,
  ["mp.Manager"] = manager_members,
  ["mp.Connection"] = function(object)
    return c_fields(members_of(getmetatable(object)), "runtime/bind/lconn.c", 'strcmp%(k, ("[%w_]+")%)')
  end,
  ["mp.Barrier"] = function(object)
    return c_fields(members_of(getmetatable(object)), "runtime/bind/lbarrier.c", "fields%[%] = (%b{})")
  end,
  ["mp.Value"] = function(object)
    return c_fields(members_of(getmetatable(object)), "runtime/bind/lvalue.c", 'memcmp%(key, ("[%w_]+")')
  end,
  ["mp.StructType"] = function(object) return only(members_of(getmetatable(object)), "array close") end,
  ["mp.StructArray"] = function(object)
    return only(members_of(getmetatable(object)), "totable get_lock close")
  end,
  ["mp.Struct"] = function(object)
    local found = members_of(getmetatable(object))
    found.methods.array = nil
    return found
  end,
  ["mp.RemoteError"] = function(object) return members_of({}, object) end,
  ["mp.PoolIterator"] = function() return { methods = {}, fields = {} } end,
  ["mp.Logger"] = function(object)
    local found = members_of(getmetatable(object))
    found.fields.handler = true -- an upvalue, which is nil
    return found
  end,
}

-- class -> { methods, fields } of everything that there is.
local function live()
  local all = {}
  for class, object in pairs(objects) do
    all[class] = (by_hand[class] or function(o) return members_of(getmetatable(o), o) end)(object)
  end
  local proxies = require "mp.proxies"
  for name, class in pairs(proxies) do
    if name ~= "dict" then all["mp." .. name] = members_of(class) end
  end
  all["mp.dict"] = { methods = proxies.dict, fields = {} }
  all["mp.marshal"] = { methods = mp.marshal, fields = {} }
  all["mp.Arena"] = members_of({}, mp.arena())
  all["mp.ArenaProcess"] = { methods = {}, fields = { name = 1, pid = 1, state = 1, waits = 1, on = 1 } }
  all["mp.ArenaLock"] = { methods = {}, fields = { object = 1, kind = 1, pid = 1, alive = 1 } }
  all["mp.ProcessClass"] = { methods = { extend = mp.Process.extend }, fields = {}, own = true }
  all["mp.ManagerClass"] = {
    methods = { extend = mp.Manager.extend, register = mp.Manager.register }, fields = {}, own = true,
  }
  all["mp.Bytes"], all["mp.DictItems"] = { methods = {}, fields = {} }, { methods = {}, fields = {} }
  local library = { methods = {}, fields = {} }
  for name, value in pairs(mp) do
    library[type(value) == "function" and "methods" or "fields"][name] = value
  end
  -- those that load their module when they are called first
  library.methods.Pool, library.methods.Client = require "mp.pool".Pool, require "mp.client".Client
  library.methods.Listener = require "mp.listener".Listener
  library.methods.file_ranges = require "mp.ranges".file_ranges
  all.mp = library
  return all
end

-- Comparing ----------------------------------------------------------------------------

local function compare_names(problems, class, kind, there, annotated)
  for name in pairs(there) do
    if not annotated[name] then table.insert(problems, ("%s: %s '%s' is not annotated"):format(class, kind, name)) end
  end
  for name in pairs(annotated) do
    if not there[name] then table.insert(problems, ("%s: there is no %s '%s'"):format(class, kind, name)) end
  end
end

-- f: a Lua function with the object in front, if `with_self`.
local function compare_params(problems, class, name, f, method, with_self)
  local info = debug.getinfo(f, "Su")
  if info.what == "C" then return end
  local n, given = math.max(0, info.nparams - (with_self and 1 or 0)), #method.params
  if info.isvararg and given >= n or not info.isvararg and given == n then return end
  table.insert(problems, ("%s: '%s' has %d parameters, annotated are %d"):format(class, name, n, given))
end

local function compare_class(problems, model, class, found)
  if not model.classes[class] then return table.insert(problems, "class " .. class .. " is not annotated") end
  local methods, fields = Annotated(model, class)
  if found.own then methods, fields = model.classes[class].methods, model.classes[class].fields end
  if class == "mp.Proxy" then return end -- of own types: has the methods of those that were used
  compare_names(problems, class, "method", found.methods, methods)
  compare_names(problems, class, "field", found.fields, fields)
  local operations = served[class] and require "mp.served".kinds[served[class]]
  for name, method in pairs(methods) do
    local f = found.methods[name]
    if f and class == "mp.Manager" and debug.getinfo(f, "S").source:find("served", 1, true) then
      compare_params(problems, class, name, f, method, false)
    elseif f then
      compare_params(problems, class, name, f, method, method.colon)
    end
    if operations and operations[name] then
      compare_params(problems, class, name, operations[name], method, true)
    end
  end
end

-- What the documentation of the bindings says about parameters.
local documented = { Value = "mp.Value", Array = "mp.Array", Record = "mp.Struct", Connection = "mp.Connection" }

local function compare_documentation(problems, model)
  for _, file in ipairs { "larray", "lvalue", "lstruct", "lconn" } do
    for comment in T.read(("runtime/bind/%s.c"):format(file)):gmatch("/%*%*%*(.-)%*/") do
      local owner, name = comment:match("@function (%w+):([%w_]+)")
      local class = owner and documented[owner] or "mp"
      name = name or comment:match("@function ([%w_]+)")
      local method = model.classes[class].methods[name] or Annotated(model, class)[name]
      local params = {}
      for line in comment:gmatch("@t?param[^\n]*") do
        params[#params + 1] = line:match("^@tparam%S* %S+ (%w+)") or line:match("^@param%S* (%w+)")
      end
      local said = method and table.concat(method.params, " ")
      if method and said ~= table.concat(params, " ") then
        table.insert(problems, ("%s: '%s' has (%s) in %s.c, annotated is (%s)"):format(class, name,
          table.concat(params, " "), file, said))
      end
    end
  end
end

-- The known options, as the error about an unknown one has them.
local function known_options(f, ...)
  local _, message = pcall(f, ...)
  local list = tostring(message):match("known[%a ]*: ([^()]*)")
  local known = {}
  for name in (list or error(message)):gmatch("[%w_]+") do known[name] = true end
  return known
end

local function options()
  local pool, bad = objects["mp.Pool"], { [""] = true }
  local known = {
    ["mp.ProcessOptions"] = known_options(mp.Process, bad), ["mp.PoolOptions"] = known_options(mp.Pool, bad),
    ["mp.ListenerOptions"] = known_options(mp.Listener, nil, bad),
    ["mp.ClientOptions"] = known_options(mp.Client, "path", bad),
    ["mp.ManagerOptions"] = known_options(mp.Manager, bad),
    ["mp.RangeOptions"] = known_options(mp.file_ranges, "path", bad),
    ["mp.CellOptions"] = known_options(mp.Value, "i", 0, bad),
    ["mp.DecodeOptions"] = known_options(mp.marshal.decode, "", bad),
  }
  for class, method in pairs { Apply = "apply", ApplyAsync = "apply_async", Map = "map", MapAsync = "map_async",
    Imap = "imap" } do
    known[("mp.%sOptions"):format(class)] = known_options(pool[method], pool, print, {}, bad)
  end
  assert.same(known["mp.MapOptions"], known_options(pool.starmap, pool, print, {}, bad))
  assert.same(known["mp.MapAsyncOptions"], known_options(pool.starmap_async, pool, print, {}, bad))
  assert.same(known["mp.ImapOptions"], known_options(pool.imap_unordered, pool, print, {}, bad))
  return known
end

-- The kinds that mp.type tells: those of objects, of proxies, and what the sources name.
local function kinds()
  local all, internal = {}, { ["mp.Progress"] = true, ["mp.Reference"] = true }
  for _, object in pairs(objects) do all[mp.type(object)] = true end
  local pipe <close> = io.popen("cat lua/mp/*.lua runtime/bind/lmp.c")
  local text = pipe:read("a")
  for _, pattern in ipairs {
    '__mp = "(mp%.%w+)"', 'proxy%.class%("%w+", "(mp%.%w+)"', '%[MP_KIND_%w+%] = "(mp%.%w+)"',
  } do
    for kind in text:gmatch(pattern) do
      if not internal[kind] then all[kind] = true end
    end
  end
  return all
end

local function compare_aliases(problems, model)
  local function compare(alias, known)
    local literals = {}
    for _, name in ipairs(model.aliases[alias].literals) do literals[name] = true end
    compare_names(problems, alias, "value", known, literals)
  end
  compare("mp.Kind", kinds())
  compare("mp.Typecode", known_options(mp.Value, "?"))
  compare("mp.Level", known_options(mp.get_logger().set_level, mp.get_logger(), "?"))
end

-- Every class is one that there is, options, or what such have in common.
local function compare_classes(problems, model, known)
  local parents = {}
  for _, class in pairs(model.classes) do
    for _, parent in ipairs(class.parents) do parents[parent] = true end
  end
  for name in pairs(model.classes) do
    if not known[name] and not (parents[name] and name:find("Methods$")) then
      table.insert(problems, ("there is no class '%s'"):format(name))
    end
  end
end

local codes = {}
for code in ("timeout empty full closed eof broken refused denied unreachable abandoned"):gmatch("%a+") do
  codes[code] = true
end

local function check_codes(problems, model)
  for class, c in pairs(model.classes) do
    for name, method in pairs(c.methods) do
      for _, literals in ipairs(method.returns or {}) do
        for _, code in ipairs(literals) do
          if not codes[code] then table.insert(problems, ("%s: '%s' returns '%s'"):format(class, name, code)) end
        end
      end
    end
  end
end

-- What the annotations and the library do not agree on.
local function problems_of(model)
  local problems, known = {}, live()
  for class, found in pairs(known) do compare_class(problems, model, class, found) end
  for class, list in pairs(options()) do
    local _, fields = Annotated(model, class)
    compare_names(problems, class, "option", list, fields)
    for name, field in pairs(fields) do
      if not field.optional and class ~= "mp.RangeOptions" then
        table.insert(problems, ("%s: option '%s' is not optional"):format(class, name))
      end
    end
    known[class] = list
  end
  compare_classes(problems, model, known)
  compare_aliases(problems, model)
  compare_documentation(problems, model)
  check_codes(problems, model)
  table.sort(problems)
  return problems
end

-- The specs ------------------------------------------------------------------------------

describe("the annotations for the language server", function()
  before_each(make_objects)
  after_each(drop_objects)

  it("are Lua, and can be read", function()
    local model = annotations.read(annotations.texts())
    assert.is_true(model.classes["mp.Queue"] ~= nil)
  end)

  it("name all that there is, and nothing else, with the right parameters", function()
    assert.same({}, problems_of(annotations.read(annotations.texts())))
  end)

  it("can all be called in both forms, where there are two", function()
    local model = annotations.read(annotations.texts())
    for class, n in pairs { ["mp.ProcessClass"] = 3, ["mp.ManagerClass"] = 1, ["mp.StructType"] = 1 } do
      assert.equal(n, model.classes[class].overloads)
    end
    for _, class in ipairs { "mp.Array", "mp.StructArray", "mp.Struct", "mp.DictProxy", "mp.ListProxy", "mp.Proxy" } do
      assert.is_true((select(3, Annotated(model, class))), class)
    end
  end)
end)

describe("what compares them", function()
  before_each(make_objects)
  after_each(drop_objects)

  -- The problems when every `from` is `to` in one file.
  local function problems_with(path, from, to)
    local texts = annotations.texts()
    local text, n = texts[path]:gsub(from, to)
    assert(n > 0, "nothing was replaced")
    texts[path] = text
    local ok, model = pcall(annotations.read, texts)
    if not ok then return model end
    return table.concat(problems_of(model), "\n")
  end

  local function finds(message, path, from, to)
    it("finds: " .. message, function()
      assert.matches(message, problems_with(path, from, to), 1, true)
    end)
  end

  local queue, pool, manager = "lua/meta/mp/queue.lua", "lua/meta/mp/pool.lua", "lua/meta/mp/manager.lua"
  finds("mp.Queue: method 'put_many' is not annotated", queue, "Queue:put_many", "Queue:put_all")
  finds("mp.LifoQueue: there is no method 'put_all'", queue, "Queue:put_many", "Queue:put_all")
  finds("mp.PriorityQueue: there is no method 'peek'", queue, "$", "--- Looks.\nfunction PriorityQueue:peek() end\n")
  finds("mp: method 'JoinableQueue' is not annotated", queue, "mp%.JoinableQueue", "mp.JointQueue")
  finds("mp.Pool: 'join' has 1 parameters, annotated are 0", pool,
    "%-%-%-@param timeout[^\n]*\n(%-%-%-@return boolean ended\n)function Pool:join%(timeout%)",
    "%1function Pool:join()")
  finds("parameter 1 is 'timeout', annotated as 'time'", queue, "@param timeout", "@param time")
  finds("there is no type 'mp.Quue'", queue, "@return mp%.Queue", "@return mp.Quue")
  finds("a time-out is optional", queue, "timeout%? number", "timeout number")
  finds("mp.MapOptions: option 'progress' is not annotated", pool, "%-%-%-@field progress[^\n]*\n", "")
  finds("mp.PoolOptions: there is no option 'size'", pool,
    "(%-%-%-@class mp.PoolOptions\n)", "%1---@field size? integer\n")
  finds("mp.ListProxy: method 'sort' is not annotated", manager, "ListProxy:sort", "ListProxy:order")
  finds("mp.QueueProxy: 'put' has 2 parameters, annotated are 3", manager,
    "%-%-%-@param timeout[^\n]*\n([^\n]*\n[^\n]*\nfunction QueueProxy:put%(item), timeout",
    "---@param at? integer\n---@param timeout? number\n%1, at, timeout")
  finds("mp.Manager: method 'Event' is not annotated", manager, "Manager:Event", "Manager:Flag")
  finds("mp.Connection: field 'format' is not annotated", "lua/meta/mp/connection.lua",
    "@field format mp", "@field way mp")
  finds("mp.Barrier: field 'broken' is not annotated", "lua/meta/mp/sync.lua", "%-%-%-@field broken[^\n]*\n", "")
  finds("mp.Array: 'add' has (i n) in larray.c, annotated is (n)", "lua/meta/mp/shared.lua",
    "%-%-%-@param i integer\n(%-%-%-@param n[^\n]*\n[^\n]*\nfunction ArrayMethods:add%()i, ", "%1")
  finds("mp.Kind: value 'mp.Event' is not annotated", "lua/meta/mp.lua", '%-%-%-| "mp.Event"\n', "")
  finds("'get' returns 'emtpy'", queue, '"empty"', '"emtpy"')
  finds("there is no class 'mp.Dict'", "lua/meta/mp/log.lua", "$", "---@class mp.Dict\n")
  finds("'put' has no text", queue, "%-%-%- Puts an item in%.[^@]*\n(%-%-%-@)", "%1")
  finds("annotations that belong to no function", queue, "\nfunction Queue:put%(", "\n\nfunction Queue:put(")

  it("finds a method that somebody adds to an object", function()
    local methods = getmetatable(objects["mp.Lock"]).__index
    methods.steal = print
    local problems = problems_of(annotations.read(annotations.texts()))
    methods.steal = nil
    assert.same({ "mp.Lock: method 'steal' is not annotated" }, problems)
  end)

  it("finds a function that somebody adds to the library", function()
    mp.Thread = print
    local problems = problems_of(annotations.read(annotations.texts()))
    mp.Thread = nil
    assert.same({ "mp: method 'Thread' is not annotated" }, problems)
  end)
end)
