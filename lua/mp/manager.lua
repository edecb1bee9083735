--- Managers: a server process that owns Lua objects, and proxies that any process can use.
--
-- Proxies go through process arguments, queues and pool tasks. A plain table that is stored in an object
-- is a copy, a proxy that is stored stays live. An object lives while anybody holds a proxy of it, or
-- another object does.
--
-- A client that dies gives back its proxies, locks ("abandoned"), permits and
-- waits. When the server dies, calls raise. What an operation raises is raised by the call: errors about
-- arguments as they are, those of own types' methods as `mp.RemoteError`.
-- @module manager

local address = require "mp.address"
local check = require "mp.check"
local core = require "mp.core"
local log = require "mp.log"
local process = require "mp.process"
local proxy = require "mp.proxy"
local server = require "mp.server"

local SIGKILL, SIGTERM = 9, 15

-- Seconds that a server has to end after shutdown, and after SIGTERM.
local GRACE = 1
-- When the hook of a manager runs at the exit of its process: after its children ended.
local EXIT_PRIORITY = -10

-- The server --------------------------------------------------------------------------------------------

-- What can be asked of the manager itself.
local function calls_of(types, builtin, id)
  local calls = {}
  function calls.hello() return id end
  function calls.shutdown() server.stop() end
  function calls.make(name, ...)
    local make = builtin[name]
    if make then return server.adopt(name, make(...)) end
    if types[name] == nil then server.misuse("the manager has no type '%s'", tostring(name)) end
    make = types[name].make
    if not make then server.misuse("type '%s' was registered without a function that makes one", name) end
    local object = make(...)
    if object == nil or type(object) == "boolean" then
      server.misuse("the function that makes a '%s' has returned %s", name, tostring(object))
    end
    if proxy.ref(object) then return object end
    return server.adopt(name, "own", object)
  end
  return calls
end

-- Serves in this process to the end.
local function serve(st, ends_alone)
  server.run {
    ends_alone = ends_alone,
    prepare = next(st.types) and require "mp.parking".install,
    requests = st.requests, timeout = st.options.timeout,
    calls = calls_of(st.types, require "mp.served".makers, core.random(16)),
    door = st.listener and require "mp.door".new(st.listener, st.requests),
  }
end

-- The life of a server's process.
local function live(st)
  require "mp.nursery".close_inherited(serve, st.types, st.listener)
  if st.listener then
    require "mp.listener".take_over(st.listener)
    log.info("manager serving at %s", tostring(st.listener))
  end
  serve(st, true)
end

-- The class ---------------------------------------------------------------------------------------------

--- A manager, what `mp.Manager` or a class made by `Manager:extend` gives. Each of its makers has the
-- server make an object and gives a proxy of it.
-- @type Manager

--- Where it serves; nil without an address.
-- @tfield table|string address

--- Makes a manager. Without an address it is started at once; with one nothing runs before `start`,
-- `serve_forever` or `connect`.
-- @function mp.Manager
-- @tparam[opt] table options
-- @tparam[opt] table|string options.address where it serves, or is served: as for `mp.Listener`
-- @tparam[opt] string options.authkey the key of the other side; by default that of the process
-- @tparam[opt] number options.timeout seconds after which any call of its proxies is an error
-- @tparam[opt=false] boolean options.allow_code whether functions go over connections; both sides say so
-- @tparam[opt=1073741824] integer options.max_message longest message over a connection, in bytes
-- @treturn Manager
-- @raise unknown or wrong options; when no process can be started
-- @python `multiprocessing.Manager`
-- @usage local manager <close> = mp.Manager()
-- local count = manager:dict { calls = 41 }
-- local p = mp.Process(function() mp.dict.incr(count, "calls") end)
-- p:start()
-- p:join()
-- print(count) --> {calls = 42}

--- Makes a dictionary: its fields are its items.
-- @function Manager:dict
-- @tparam[opt] table t a table with its first items
-- @treturn DictProxy
-- @python `SyncManager.dict`

--- Makes a list.
-- @function Manager:list
-- @tparam[opt] table t its first items
-- @treturn ListProxy
-- @python `SyncManager.list`

--- Makes a set.
-- @function Manager:set
-- @tparam[opt] table t a list of members, or a table `{[member] = true}`
-- @treturn SetProxy

--- Makes a namespace: a dictionary that is shown as one.
-- @function Manager:Namespace
-- @tparam[opt] table t a table with its first fields
-- @treturn DictProxy
-- @python `SyncManager.Namespace`

--- Makes what `mp.Lock` makes, in the server.
-- @function Manager:Lock
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Lock`

--- Makes what `mp.RLock` makes, in the server.
-- @function Manager:RLock
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.RLock`

--- Makes what `mp.Semaphore` makes, in the server.
-- @function Manager:Semaphore
-- @tparam[opt=1] integer n how many permits there are
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Semaphore`

--- Makes what `mp.BoundedSemaphore` makes, in the server.
-- @function Manager:BoundedSemaphore
-- @tparam[opt=1] integer n how many permits there are
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.BoundedSemaphore`

--- Makes what `mp.Condition` makes, in the server.
-- @function Manager:Condition
-- @tparam[opt] table lock a Lock or RLock of this manager; an RLock without it
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Condition`

--- Makes what `mp.Event` makes, in the server.
-- @function Manager:Event
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Event`

--- Makes what `mp.Barrier` makes, in the server.
-- @function Manager:Barrier
-- @tparam integer parties how many it takes
-- @tparam[opt] function action what is called, in the server, before all go on
-- @tparam[opt] number timeout seconds that a wait without a time-out waits
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Barrier`

--- Makes what `mp.Queue` makes, in the server. It has no descriptor: `fileno` is an error.
-- @function Manager:Queue
-- @tparam[opt=0] integer maxsize how many items it holds at most; 0: no bound
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Queue`

--- Makes what `mp.JoinableQueue` makes, in the server.
-- @function Manager:JoinableQueue
-- @tparam[opt=0] integer maxsize how many items it holds at most; 0: no bound
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.JoinableQueue`

--- Makes what `mp.Value` makes, in the server.
-- @function Manager:Value
-- @tparam string typecode as for `mp.Value`
-- @tparam[opt=0] number|string initial what it begins with
-- @tparam[opt] table options
-- @tparam[opt=true] boolean options.lock false: it has no lock that `get_lock` gives
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Value`

--- Makes what `mp.Array` makes, in the server.
-- @function Manager:Array
-- @tparam string typecode as for `mp.Array`
-- @tparam integer|table|string init a size, or the elements
-- @tparam[opt] table options
-- @tparam[opt=true] boolean options.lock false: it has no lock that `get_lock` gives
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Array`

--- Makes what `mp.Pool` makes, in the server. Its workers are children of the server.
-- @function Manager:Pool
-- @tparam[opt] integer|table options as for `mp.Pool`
-- @return a proxy with the methods of the local twin, time-outs included
-- @python `SyncManager.Pool`

local Manager = {}

local builtin = {}
for name in ([[dict list set Namespace Lock RLock Semaphore BoundedSemaphore Condition Event
  Barrier Queue JoinableQueue Value Array Pool]]):gmatch("%S+") do
  builtin[name] = true
end

local function state_of(self, method)
  local st = type(self) == "table" and rawget(self, "_mp")
  if not st then
    check.raise("calling '%s' on bad self (mp.Manager expected, got %s)", method,
      self == nil and "no value" or check.typename(self))
  end
  return st
end

local known = {
  address = function(value)
    if type(value) ~= "table" and type(value) ~= "string" then return "{host, port} or path" end
  end,
  authkey = function(value) if type(value) ~= "string" then return "string" end end,
  timeout = function(value)
    if type(value) ~= "number" or value ~= value or value <= 0 then return "positive number of seconds" end
  end,
  allow_code = function(value) if type(value) ~= "boolean" then return "boolean" end end,
  max_message = function(value)
    if math.type(value) ~= "integer" or value < 1 then return "positive integer" end
  end,
}

local function end_server(st)
  st.requests:shutdown()
  if core.wait(st.handle, GRACE) then return end
  core.signal(st.handle, SIGTERM)
  if core.wait(st.handle, GRACE) then return end
  core.signal(st.handle, SIGKILL)
  core.wait(st.handle)
end

-- At the end of the process the server is told to end, whether the manager is still there.
-- One that has ended by itself is reaped before, when the process looks after its children.
local function hook_exit(st)
  local handle, pid = st.handle, core.getpid()
  local weak = setmetatable({ st = st }, { __mode = "v" })
  local unhook = process.at_exit(EXIT_PRIORITY, function()
    if core.getpid() ~= pid then return end
    if weak.st then return end_server(weak.st) end
    core.signal(handle, SIGTERM)
    core.wait(handle)
  end)
  process.when_ended(handle, unhook)
  return function()
    unhook()
    process.when_ended(handle, nil)
  end
end

local function listen(st)
  local options = st.options
  if not options.address then return end
  st.listener = require "mp.listener".Listener(options.address, {
    authkey = options.authkey, allow_code = options.allow_code, max_message = options.max_message,
  })
  st.address = st.listener.address
end

local function check_status(st, verb, wanted)
  if st.status == wanted then return end
  local is = { initial = "was not started", started = "was started already", serving = "is serving already",
    connected = "is connected already", over = "was shut down" }
  check.raise("cannot %s: the manager %s", verb, is[st.status])
end

-- The types that its class and the bases of that have registered.
local function types_of(class)
  local types = {}
  while class do
    for name, t in pairs(rawget(class, "types") or {}) do types[name] = types[name] or t end
    class = rawget(class, "base")
  end
  return types
end

-- What the server runs is loaded before it is started: it is shared with it then.
local function load_server(st)
  require "mp.nursery"
  require "mp.served_sync"
  require "mp.served_queue"
  require "mp.served_cell"
  require "mp.served_pool"
  if next(st.types) then require "mp.parking" end
end

--- Starts the server of a manager that has an address.
-- @function Manager:start
-- @python `BaseManager.start`
-- @raise when it runs already; when the address cannot be had, or no process be started
function Manager:start()
  local st = state_of(self, "start")
  check_status(st, "start", "initial")
  listen(st)
  load_server(st)
  st.requests = check.call(core.Queue)
  local ok, handle, pid, name = pcall(process.start_server, st.class_name, function() live(st) end)
  if st.listener then require "mp.listener".leave(st.listener) end
  st.listener = nil
  if not ok then check.reraise(handle) end
  st.handle, st.pid, st.name, st.owner = handle, pid, name, core.getpid()
  st.ref = { st.requests, nil, 0, core.word_of(handle), st.options.timeout }
  st.status = "started"
  st.unhook = hook_exit(st)
end

--- Serves in this process, until somebody who is connected calls `shutdown`, or Ctrl-C.
-- @function Manager:serve_forever
-- @raise when it runs already; when the address cannot be had; "interrupted!"
-- @python `Server.serve_forever`
function Manager:serve_forever()
  local st = state_of(self, "serve_forever")
  check_status(st, "serve", "initial")
  listen(st)
  load_server(st)
  st.requests, st.status = core.Queue(), "serving"
  local ok, err = pcall(serve, st)
  st.status = "over"
  if not ok then error(err, 0) end
end

--- Connects to a server that runs elsewhere.
-- @function Manager:connect
-- @tparam[opt] number timeout seconds
-- @treturn boolean|nil true; nil when there is no connection
-- @treturn string|nil "refused", "denied", "unreachable" or "timeout"
-- @raise when it has no address, or was started
-- @python `BaseManager.connect`, which raises
function Manager:connect(timeout)
  local st = state_of(self, "connect")
  check.timeout(1, "connect", timeout)
  check_status(st, "connect", "initial")
  local options = st.options
  local where = {
    address = options.address, authkey = options.authkey, allow_code = options.allow_code,
    max_message = options.max_message,
  }
  local ref = { where, nil, 0, nil, options.timeout }
  local ok, why = require "mp.link".connect(ref, timeout)
  if not ok then return nil, why end
  st.ref = ref
  st.status = "connected"
  return true
end

--- Ends the server, and with it all of its objects: calls of their proxies are errors from
-- now on. Idempotent. `<close>` does it too, to a server that was started here; a connected one is
-- only left.
-- @function Manager:shutdown
-- @raise in another process than the one that started it
-- @python `BaseManager.shutdown`
function Manager:shutdown()
  local st = state_of(self, "shutdown")
  if st.status == "connected" then
    proxy.ask(st.ref, 0, 0, "shutdown")
    require "mp.link".disconnect(st.ref)
  elseif st.status == "started" then
    if st.owner ~= core.getpid() then
      check.raise("only the process that started a manager can shut it down")
    end
    log.info("sending shutdown message to manager")
    st.unhook()
    end_server(st)
  end
  if st.status ~= "serving" then st.status = "over" end
end

-- Leaves the scope: a server that was started here ends, another is only left.
local function close(self)
  local st = self._mp
  if st.status == "connected" then
    require "mp.link".disconnect(st.ref)
    st.status = "over"
  elseif st.status == "started" and st.owner == core.getpid() then
    Manager.shutdown(self)
  end
end

-- Calling a maker -----------------------------------------------------------------------------------------

-- name -> the method that has the server make one.
local makers = {}

local function maker(name)
  makers[name] = makers[name] or function(self, ...)
    local st = state_of(self, name)
    if not st.ref then
      check.raise("cannot make a '%s': the manager %s", name, st.status == "over" and "was shut down" or
        st.status == "serving" and "is serving in this process" or "was not started")
    end
    return proxy.ask(st.ref, 0, 0, "make", name, ...)
  end
  return makers[name]
end

-- Classes ---------------------------------------------------------------------------------------------------

local make_class

-- What tostring says of a server that was started.
local function state_of_server(st)
  if core.alive(st.ref[4]) then return ("started, pid %d"):format(st.pid) end
  local code = st.owner == core.getpid() and core.wait(st.handle, 0)
  if not code then return "stopped" end
  st.unhook()
  return code < 0 and ("stopped, signal %d"):format(-code) or ("stopped, exit code %d"):format(code)
end

local function new_metatable(class)
  local types = types_of(class)
  return {
    __name = "mp.Manager", __mp = "mp.Manager",
    __index = function(self, key)
      if key == "address" then return self._mp.address end
      if builtin[key] or types[key] then return maker(key) end
      return class[key]
    end,
    __close = close,
    __tostring = function(self)
      local st = self._mp
      local what = st.status == "started" and state_of_server(st) or st.status
      return ("mp.Manager: %s (%s)"):format(st.name or st.class_name, what)
    end,
  }, types
end

local function construct(class, options)
  require "mp.proxies"
  check.arg(1, class.name, options, "table", true)
  options = options or {}
  check.options(1, class.name, options, known)
  address.split(1, class.name, options.address, nil, true)
  local copy = {}
  for key, value in pairs(options) do copy[key] = value end
  copy.authkey = copy.authkey or process.current_process().authkey
  local metatable, types = new_metatable(class)
  local self = setmetatable({ _mp = {
    status = "initial", options = copy, types = types, class_name = class.name,
    address = copy.address,
  } }, metatable)
  if not copy.address then self:start() end
  return self
end

--- Makes a class of managers, with types of its own.
-- @function Manager:extend
-- @tparam string name its name, the first part of the names of its servers
-- @treturn table the class; call it as `mp.Manager`
-- @python `class My(BaseManager)`
-- @usage local My = mp.Manager:extend("My")
-- My:register("Counter", function(n)
--   return { next = function() n = n + 1 return n end }
-- end)
-- local manager <close> = My()
-- print(manager:Counter(41):next()) --> 42
function Manager:extend(name)
  if type(self) ~= "table" or not rawget(self, "extend_of") then
    check.raise("calling 'extend' on bad self (mp.Manager class expected)")
  end
  check.arg(1, "extend", name, "string")
  return make_class(name, self)
end

--- Registers a type: `m:name(...)` calls make(...) in the server and gives a proxy of what
-- that returns, on which its methods can be called, but those that begin with '_'. A method that
-- sleeps, or waits for a queue, lock, semaphore or event, lets others be served meanwhile; one that
-- computes delays them.
-- @function Manager:register
-- @tparam string name of the type
-- @tparam[opt] function make anything that can be called; without it managers of this class only connect
--   to those that have one
-- @raise a name that managers have already
-- @python `BaseManager.register`
function Manager:register(name, make)
  if type(self) ~= "table" or not rawget(self, "extend_of") then
    check.raise("calling 'register' on bad self (mp.Manager class expected)")
  end
  check.arg(1, "register", name, "string")
  if make ~= nil and not check.callable(make) then check.arg(2, "register", make, "function") end
  if builtin[name] or name == "address" or name == "_mp" or self[name] ~= nil or types_of(self)[name] then
    check.arg_error(1, "register", "managers have a '%s' already", name)
  end
  self.types[name] = { make = make }
end

function make_class(name, base)
  local class = { name = name, base = base, types = {}, extend_of = base or Manager }
  return setmetatable(class, {
    __name = "mp.Manager class",
    __index = base or Manager,
    __call = construct,
    __tostring = function() return "mp.Manager class: " .. name end,
  })
end

return make_class("Manager")
