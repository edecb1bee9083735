--- Processes: functions that run in a process of their own, made by fork.
--
-- A child begins as a copy of its parent, with all that the script had; what it changes stays its own,
-- but for what is shared (queues, values, locks ...). The target may be any function, closures included.
--
-- * At its end a process flushes stdout, terminates its pools and its daemons (SIGTERM, after 5 s
--   SIGKILL), joins its other children, and ends its managers last. This holds for the end of a script,
--   an error and `os.exit`.
-- * When a process is killed, every process below it is killed by the kernel within a second, except
--   those started with `detach = true`.
-- * An error prints `Process NAME:` and the traceback to stderr; the exit code is 1 then.
-- * `math.random` is seeded anew in a child, so that siblings differ; `math.randomseed(42)` in the main
--   program makes all of them repeatable.
-- @module process

-- An instance keeps what the library knows of it in one hidden table, `_mp`; all other
-- fields are the script's. What only the kernel knows is behind `handle`, a userdata of
-- the core. All of it is copied by a fork: `owner` tells in which process an object may
-- act.

local check = require "mp.check"
local core = require "mp.core"
local log = require "mp.log"

local oslib = os
local random, randomseed = math.random, math.randomseed
local SIGINT, SIGKILL, SIGTERM = 2, 9, 15

-- Seconds that a daemon has between SIGTERM and SIGKILL at the end of its parent.
local DAEMON_GRACE = 5

local process = {}

-- Of this process; a child begins with its own. origin: in a child, what was current in
-- its parent; parent: the object for it, once it was asked for. children, detached: the
-- started ones that were not reaped, process -> its number. hooks: what at_exit was given.
-- hidden: how many helpers were started. helpers: core process of one that may end by
-- itself -> what is called once it was reaped.
local current, origin, parent
local children, detached, hooks, helpers = {}, {}, {}, {}
local made, started, hidden, servers = 0, 0, 0, 0
local ended, given_up = false, false

-- The hidden state ---------------------------------------------------------------

-- Around a fork every page that is written is copied; so nothing is allocated there that
-- can be avoided: tables have their size from the beginning, empty ones are used again.
local NONE = {}

-- The options of the library's own processes. role: as in the core (lprocess.h).
local NURSERY, WORKER, SERVER = { role = 1 }, { role = 2 }, { role = 3 }

-- The place in the tree of child number n of this process.
local function place_of(n)
  local of = current and current._mp
  return (of and of.place ~= "") and of.place .. ":" .. n or tostring(n)
end

local function new_state(class_name)
  made = made + 1
  local of = current and current._mp
  local place = place_of(made)
  return {
    handle = core.process(), status = "initial", owner = core.getpid(), place = place,
    index = made, name = class_name .. "-" .. place, daemon = of and of.daemon or false,
    authkey = of and of.authkey, options = NONE,
    pid = nil, exitcode = nil, target = nil, args = nil,
  }
end

local function state_of(self, method)
  local state = type(self) == "table" and rawget(self, "_mp")
  if not state then
    check.raise("calling '%s' on bad self (mp.Process expected, got %s)", method,
      self == nil and "no value" or check.typename(self))
  end
  return state
end

local function check_open(state)
  if state.status == "closed" then check.raise("process '%s' is closed", state.name) end
end

-- Raises unless the object is a started child of this very process.
local function check_child(state, verb)
  check_open(state)
  if state == current._mp then check.raise("cannot %s the current process", verb) end
  if state.status == "parent" then
    if verb ~= "join" and verb ~= "watch" then check.raise("can only %s a child process", verb) end
  elseif state.owner ~= core.getpid() then
    check.raise("can only %s a child process", verb)
  elseif state.status == "initial" then
    check.raise("can only %s a started process", verb)
  end
end

-- Waits for the end and notes it; true when it has ended.
local function reap(self, state, timeout)
  if state.status == "stopped" then return true end
  local code = core.wait(state.handle, timeout)
  if not code then return false end
  state.status, state.exitcode = "stopped", code
  children[self], detached[self] = nil, nil
  return true
end

local function reap_helpers()
  for handle, f in pairs(helpers) do
    if core.wait(handle, 0) then
      helpers[handle] = nil
      f()
    end
  end
end

local function reap_all()
  if not core.any_ended() then return end
  for self in pairs(children) do reap(self, self._mp, 0) end
  for self in pairs(detached) do reap(self, self._mp, 0) end
  if next(helpers) then reap_helpers() end
end

-- Whether it has ended, seen from here.
local function has_ended(self, state)
  if state.status == "current" or state.status == "initial" then return false end
  if state.owner ~= core.getpid() then return false end
  return reap(self, state, 0)
end

-- Options -------------------------------------------------------------------------

local function is(type_name)
  return function(value) if type(value) ~= type_name then return type_name end end
end

local function whole(value, least)
  return math.type(value) == "integer" and value >= least
end

local function is_stream(value)
  if type(value) == "string" and value ~= "" and not value:find("\0", 1, true) then return end
  if io.type(value) ~= "file" then return "path or open file" end
end

local known = {
  target = function(value) if not check.callable(value) then return "function" end end,
  args = is "table",
  name = is "string",
  daemon = is "boolean",
  detach = is "boolean",
  cpu = function(value)
    local list = type(value) == "table" and value or { value }
    for i = 1, #list do
      if not whole(list[i], 0) then return "processor number or list of them" end
    end
    if #list == 0 then return "processor number or list of them" end
  end,
  nice = function(value) if not whole(value, -40) or value > 40 then return "integer from -40 to 40" end end,
  memory = function(value) if not whole(value, 1) then return "positive number of bytes" end end,
  stdin = is_stream, stdout = is_stream, stderr = is_stream,
}

local function pack_args(args)
  local n = args.n
  if math.type(n) ~= "integer" or n < 0 then n = #args end
  local ok, packed = pcall(function() return { n = n, table.unpack(args, 1, n) } end)
  if ok then return packed end
  check.arg_error(1, "Process", "option 'args': too many arguments")
end

-- The table form, Process{ target = …, … }.
local function apply_options(state, options)
  check.options(1, "Process", options, known)
  if options.daemon and options.detach then
    check.arg_error(1, "Process", "a process cannot be both 'daemon' and 'detach'")
  end
  state.target, state.name = options.target, options.name or state.name
  state.args = options.args and pack_args(options.args)
  if options.daemon ~= nil then state.daemon = options.daemon end
  if options.detach then state.daemon = false end
  local cpu = options.cpu
  state.options = {
    detach = options.detach, nice = options.nice, memory = options.memory,
    stdin = options.stdin, stdout = options.stdout, stderr = options.stderr,
    cpu = type(cpu) == "number" and { cpu } or cpu,
  }
end

-- The class -------------------------------------------------------------------------

--- A process: one that was made by `mp.Process`, the current one, or its parent.
-- `<close>` on a child that runs joins it; when an error leaves the scope it is terminated first.
-- @type Process
local Process = {}

--- Its name: `Process-1` by default, `Process-1:1` for a child of that, `MainProcess` for the main
-- one. Can be set.
-- @tfield string name

--- Whether it is terminated, not joined, at the end of its parent. Can be set before it is started;
-- inherited by its children.
-- @tfield boolean daemon

--- Its number; nil before it was started.
-- @tfield integer pid

--- Its exit code; nil while it runs, `-N` when signal N ended it.
-- @tfield integer exitcode

--- A descriptor that polls readable when it has ended; it stays the process's.
-- @tfield integer sentinel

--- The key with which it makes managers that listen at an address. Can be set; inherited.
-- @tfield string authkey

--- Makes a process, which is not started yet. `mp.Process(f, ...)` is the short form: a function and
-- its arguments.
-- @function mp.Process
-- @tparam[opt] table options without them, `run` of a subclass is all that there is
-- @tparam function options.target what runs in the process; any function, or a callable table
-- @tparam[opt] table options.args its arguments; may hold nils when it was made by `table.pack`
-- @tparam[opt] string options.name by default `Process-1` and so on
-- @tparam[opt] boolean options.daemon terminated, not joined, when its parent ends; by default as its
--   parent
-- @tparam[opt=false] boolean options.detach outlives its parent, in a session of its own; not in
--   `mp.active_children`
-- @tparam[opt] integer|table options.cpu the processors that it may use, from 0
-- @tparam[opt=0] integer options.nice added to its nice value
-- @tparam[opt] integer options.memory limit of its private memory, in bytes
-- @tparam[opt] string|file options.stdin a path or an open file; /dev/null without it
-- @tparam[opt] string|file options.stdout a path or an open file; the parent's without it
-- @tparam[opt] string|file options.stderr a path or an open file; the parent's without it
-- @treturn Process
-- @raise unknown or wrong options
-- @python `multiprocessing.Process`; detach, cpu, nice, memory and the streams are mplua's
-- @usage local p = mp.Process { target = print, args = { "hello" }, name = "greeter" }
-- p:start() --> hello
-- p:join()

--- Called by the constructor with its arguments. A subclass replaces it, and need not call this one.
-- @function Process:init
-- @param ... what the constructor was given
function Process:init(...)
  local state = state_of(self, "init")
  local first, n = ..., select("#", ...)
  if n == 0 or (n == 1 and first == nil) then return end
  if n == 1 and type(first) == "table" and not check.callable(first) then
    return apply_options(state, first)
  end
  if not check.callable(first) then
    check.arg_error(1, "Process", "function or table of options expected, got %s",
      check.typename(first))
  end
  state.target, state.args = first, table.pack(select(2, ...))
end

--- What the process does: calls the target. A subclass replaces it.
-- @function Process:run
-- @python `Process.run`
function Process:run()
  local state = state_of(self, "run")
  local target, args = state.target, state.args
  if not target then return end
  if args then target(table.unpack(args, 1, args.n)) else target() end
end

local bootstrap

--- Starts the process, once.
-- @function Process:start
-- @raise when it was started before, or was made by another process; when the system refuses: too
--   many processes, a redirection that cannot be opened
-- @python `Process.start`
function Process:start()
  local state = state_of(self, "start")
  check_open(state)
  if state.status ~= "initial" then
    check.raise("cannot start process '%s' twice", state.name)
  end
  if state.owner ~= core.getpid() then
    check.raise("can only start a process that was made by the current one")
  end
  reap_all()
  state.pid = check.call(core.start, state.handle, state.name, state.options, bootstrap, self)
  started = started + 1
  state.status = "started"
  if state.options.detach then detached[self] = started else children[self] = started end
  state.target, state.args, state.options = nil, nil, NONE
end

--- Waits for its end.
-- @function Process:join
-- @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
-- @treturn boolean whether it has ended
-- @raise before it was started; for a process that is neither a child nor the parent
-- @python `Process.join`, which returns nothing
function Process:join(timeout)
  local state = state_of(self, "join")
  check.timeout(1, "join", timeout)
  check_child(state, "join")
  if next(helpers) and core.any_ended() then reap_helpers() end
  return reap(self, state, timeout)
end

--- Whether it runs: was started and has not ended.
-- @function Process:is_alive
-- @treturn boolean
-- @python `Process.is_alive`
function Process:is_alive()
  local state = state_of(self, "is_alive")
  check_open(state)
  if state.status == "current" then return state == current._mp end
  if state.status == "initial" then return false end
  if state.owner ~= core.getpid() then check.raise("can only test a child process") end
  return not reap(self, state, 0)
end

local function signalling(method, signal)
  Process[method] = function(self)
    local state = state_of(self, method)
    check_child(state, method)
    if state.status == "started" then core.signal(state.handle, signal) end
  end
end

--- Sends it SIGTERM; nothing when it has ended.
-- @function Process:terminate
-- @python `Process.terminate`
signalling("terminate", SIGTERM)
--- Sends it SIGKILL; nothing when it has ended.
-- @function Process:kill
-- @python `Process.kill`
signalling("kill", SIGKILL)
--- Sends it SIGINT, as Ctrl-C does; nothing when it has ended.
-- @function Process:interrupt
-- @python `Process.interrupt` of Python 3.14
signalling("interrupt", SIGINT)

--- Gives back what belongs to it. Its pid and exit code are gone then.
-- @function Process:close
-- @raise while it runs
-- @python `Process.close`
function Process:close()
  local state = state_of(self, "close")
  if state.status == "closed" then return end
  local foreign = state.status == "started" and state.owner ~= core.getpid()
  if foreign or state.status == "current" or state.status == "parent" then
    check.raise("can only close a child process")
  end
  if state.status == "started" and not has_ended(self, state) then
    check.raise("cannot close process '%s' while it is running; join or terminate it first",
      state.name)
  end
  core.forget(state.handle)
  state.status, state.target, state.args, state.options = "closed", nil, nil, NONE
end

-- Joins at the end of a scope, terminates first when an error leaves it.
function Process.__close(self, err)
  local state = rawget(self, "_mp")
  if not state or state.status ~= "started" or state.owner ~= core.getpid() then return end
  if err ~= nil then
    core.signal(state.handle, SIGTERM)
    if not reap(self, state, DAEMON_GRACE) then core.signal(state.handle, SIGKILL) end
  end
  reap(self, state)
end

function Process.__tostring(self)
  local state = rawget(self, "_mp")
  local what = state.status
  if what == "started" and has_ended(self, state) then what = "stopped" end
  if what == "started" then what = ("started, pid %d"):format(state.pid) end
  if what == "current" or what == "parent" then what = ("%s, pid %d"):format(what, state.pid) end
  if what == "stopped" then
    what = state.exitcode < 0 and ("stopped, signal %d"):format(-state.exitcode)
      or ("stopped, exit code %d"):format(state.exitcode)
  end
  return ("mp.Process: %s (%s%s)"):format(state.name, what, state.daemon and ", daemon" or "")
end

-- Fields that are computed.
local getters = {
  name = function(_, state) return state.name end,
  daemon = function(_, state) return state.daemon end,
  authkey = function(_, state) return state.authkey end,
  pid = function(_, state)
    check_open(state)
    return state.pid
  end,
  exitcode = function(self, state)
    check_open(state)
    if state.status == "started" then has_ended(self, state) end
    return state.exitcode
  end,
  sentinel = function(self, state)
    check_child(state, "watch")
    has_ended(self, state)
    return check.call(core.watch, state.handle, true)
  end,
}

local setters = {
  name = function(self, state, value)
    if type(value) ~= "string" then
      check.raise("field 'name' of a process: string expected, got %s", check.typename(value))
    end
    state.name = value
    if self == current then core.name = value end
  end,
  daemon = function(_, state, value)
    if type(value) ~= "boolean" then
      check.raise("field 'daemon' of a process: boolean expected, got %s", check.typename(value))
    end
    if state.status ~= "initial" then
      check.raise("field 'daemon' cannot be set: process '%s' has been started", state.name)
    end
    if value and state.options.detach then
      check.raise("field 'daemon' cannot be set: process '%s' is detached", state.name)
    end
    state.daemon = value
  end,
  authkey = function(_, state, value)
    if type(value) ~= "string" then
      check.raise("field 'authkey' of a process: string expected, got %s", check.typename(value))
    end
    state.authkey = value
  end,
}

-- What setmetatable gives to the instances of a class.
local function instance_metatable(class)
  return {
    __name = "mp.Process",
    __mp = "mp.Process",
    __index = function(self, key)
      local get = getters[key]
      if get then return get(self, rawget(self, "_mp")) end
      return class[key]
    end,
    __newindex = function(self, key, value)
      local set = setters[key]
      if set then return set(self, rawget(self, "_mp"), value) end
      if getters[key] then check.raise("field '%s' of a process cannot be set", key) end
      rawset(self, key, value)
    end,
    __close = function(self, err) return class.__close(self, err) end,
    __tostring = function(self) return class.__tostring(self) end,
  }
end

local function make_class(class, name, base)
  local metatable = instance_metatable(class)
  return setmetatable(class, {
    __name = "mp.Process class",
    __index = base,
    __call = function(_, ...)
      local self = setmetatable({ _mp = new_state(name) }, metatable)
      self:init(...)
      return self
    end,
    __tostring = function() return "mp.Process class: " .. name end,
  })
end

--- Makes a subclass: redefine `run`, and `init` for constructor arguments of its own.
-- @function Process:extend
-- @tparam string name its name, the first part of the names of its processes
-- @treturn table the class; call it to make a process
-- @python `class Counter(Process)`
-- @usage local Counter = mp.Process:extend("Counter")
-- function Counter:init(n) self.n = n end
-- function Counter:run() print(self.name, self.n) end
-- Counter(5):start() --> Counter-1	5
function Process:extend(name)
  if type(self) ~= "table" or rawget(self, "_mp") or not self.extend then
    check.raise("calling 'extend' on bad self (mp.Process class expected)")
  end
  check.arg(1, "extend", name, "string")
  return make_class({}, name, self)
end

process.Process = make_class(Process, "Process")

-- A process that was not made by the constructor: the main one, the parent.
local function known_process(fields)
  fields.options, fields.owner = NONE, core.getpid()
  return setmetatable({ _mp = fields }, instance_metatable(Process))
end

-- This process ------------------------------------------------------------------------

-- A stream of its own for a child: of what its parent would have drawn next, and of its
-- number among its siblings. The parent's own stream is not touched, this is a copy.
local function reseed(index)
  if not randomseed then return end
  local a, b = random(0), random(0)
  local z = a + index * 0x9E3779B97F4A7C15
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  randomseed(z ~ (z >> 31), b)
end

-- The first thing that runs in a child, on its own coroutine. What the parent's object
-- of this process becomes: the current process.
bootstrap = function(self)
  local state, pid = self._mp, core.getpid()
  if next(children) then children = {} end
  if next(detached) then detached = {} end
  if next(hooks) then hooks = {} end
  if next(helpers) then helpers = {} end
  made, started, hidden, servers, ended, given_up = 0, 0, 0, 0, false, false
  if state.options ~= WORKER then origin = current end
  current, parent = self, nil
  state.status, state.pid, state.owner = "current", pid, pid
  core.name = state.name
  if core.exit and oslib then rawset(oslib, "exit", core.exit) end
  reseed(state.index)
  if not state.silent then log.info("child process calling self.run()") end
  self:run()
end

-- Helpers of the library ---------------------------------------------------------------

local helper_metatable = instance_metatable(Process)

local function start_helper(name, place, index, options, f)
  local of = current._mp
  local state = {
    handle = core.process(), status = "initial", owner = core.getpid(), place = place,
    index = index, name = name, daemon = of.daemon, authkey = of.authkey, options = options,
    silent = options == NURSERY or options == SERVER, pid = nil, exitcode = nil, target = f, args = nil,
  }
  local self = setmetatable({ _mp = state }, helper_metatable)
  return state.handle, check.call(core.start, state.handle, name, options, bootstrap, self)
end

local SMALL_HEAP = 4096 -- KiB: collected in two milliseconds
local tidied = false

-- Before the first fork of a helper, whose modules were just loaded: what reading them has left
-- behind need not be shared with it, nor a collection that is under way be gone through by
-- both. Of a large heap it would take too long.
local function tidy_once()
  if tidied then return end
  tidied = true
  if collectgarbage "count" < SMALL_HEAP then collectgarbage() end
end

-- Starts the nursery of a pool: a child that scripts do not see. It is in no list, has no
-- number among the Processes, is neither joined nor ended when this process ends, logs
-- nothing, and Ctrl-C is nothing to it.
-- f: what it does
-- Returns core process, pid
function process.start_nursery(f)
  tidy_once()
  hidden = hidden + 1
  local place = current._mp.place
  return start_helper("PoolNursery-" .. place_of(hidden), place, -hidden, NURSERY, f)
end

-- Starts the server of a manager: a child that scripts do not see, as a nursery.
-- name: its name, to which its place in the tree is added
-- f: what it does
-- Returns core process, pid, name
function process.start_server(name, f)
  reap_all()
  tidy_once()
  servers = servers + 1
  name = name .. "-" .. place_of(servers)
  local handle, pid = start_helper(name, current._mp.place, -servers, SERVER, f)
  return handle, pid, name
end

-- Has a helper reaped that ends by itself, when this process starts one, joins one or looks
-- at its children.
-- f: called then; nil: it is not looked for any more
function process.when_ended(handle, f) helpers[handle] = f end

-- Starts a worker, in a nursery. Its parent, as far as scripts know, is the process that
-- has started the nursery.
-- place: its place in the tree
-- index: different for all of them: what its random stream depends on
-- f: what it does
-- Returns core process, pid
function process.start_worker(name, place, index, f)
  return start_helper(name, place, index, WORKER, f)
end

-- The place in the tree of child number n of this process.
process.place_of = place_of

--- The process that calls it.
-- @function mp.current_process
-- @treturn Process
-- @python `multiprocessing.current_process`
function process.current_process() return current end

--- The process that started this one.
-- @function mp.parent_process
-- @treturn Process|nil with `name`, `pid`, `is_alive` and `join`; nil in the main process
-- @python `multiprocessing.parent_process`
function process.parent_process()
  if origin and not parent then
    local was = origin._mp
    local handle, pid = core.parent()
    parent = known_process {
      handle = handle, pid = pid, name = was.name, daemon = was.daemon, authkey = was.authkey,
      status = "parent", place = was.place,
    }
  end
  return parent
end

-- Processes in the order in which they were started.
local function in_order(set)
  local list = {}
  for self in pairs(set) do list[#list + 1] = self end
  table.sort(list, function(a, b) return set[a] < set[b] end)
  return list
end

--- The children of this process that run and are not detached; reaps those that have ended.
-- @function mp.active_children
-- @treturn table array of Processes, in the order in which they were started
-- @python `multiprocessing.active_children`
function process.active_children()
  core.member()
  reap_all()
  return in_order(children)
end

-- Reaps those that have ended.
process.reap_all = reap_all

-- For mp.wait: what to watch, and whether it has ended already.
function process.watch(self)
  local state = self._mp
  if state.status ~= "parent" then check_child(state, "wait for") end
  if reap(self, state, 0) then return -1, true end
  return check.call(core.watch, state.handle, false), false
end

-- The end of a program ------------------------------------------------------------------

-- Has `f` called at the end of this process (not of its children), before its own
-- children are ended, or after that if its priority is negative; higher priorities first,
-- then the latest first. What the hook needs must be there when it is registered: what is
-- younger may have been finalized when the closing of a state calls it.
-- Returns function that takes the hook back
function process.at_exit(priority, f)
  core.renew_sentinel()
  local hook = { priority = priority, f = f }
  local at = 1
  while hooks[at] and hooks[at].priority > priority do at = at + 1 end
  table.insert(hooks, at, hook)
  return function()
    hook.f = nil
    for i = 1, #hooks do
      if hooks[i] == hook then return table.remove(hooks, i) end
    end
  end
end

local function is_interrupt(err)
  return type(err) == "string" and err:find("interrupted!$") ~= nil
end

local function run_hooks(least)
  while hooks[1] and hooks[1].priority >= least do
    local hook = table.remove(hooks, 1)
    if hook.f then
      local ok, err = pcall(hook.f)
      if not ok and is_interrupt(err) then error(err, 0) end
      if not ok then core.write(2, ("Process %s: at its end: %s\n"):format(core.name, tostring(err))) end
    end
  end
end

local function join_logged(self, timeout)
  log.info("calling join() for process %s", self.name)
  return reap(self, self._mp, timeout)
end

local function end_daemons(daemons)
  local deadline = core.monotonic() + DAEMON_GRACE
  for _, self in ipairs(daemons) do
    log.info("calling terminate() for daemon %s", self.name)
    core.signal(self._mp.handle, SIGTERM)
  end
  for _, self in ipairs(daemons) do
    if not join_logged(self, math.max(0, deadline - core.monotonic())) then
      core.signal(self._mp.handle, SIGKILL)
      reap(self, self._mp)
    end
  end
end

local function end_children()
  local daemons, others = {}, {}
  reap_all()
  for _, self in ipairs(in_order(children)) do
    local list = self.daemon and daemons or others
    list[#list + 1] = self
  end
  end_daemons(daemons)
  for _, self in ipairs(others) do join_logged(self) end
end

-- The end of this process, as far as it is Lua's: `code` is the exit code of a child.
-- Called again it ends what was started since. Ctrl-C gives up the waiting; those that
-- still run die with this process. Nothing in a process that was forked by other means.
function core.shutdown(code)
  if given_up or current._mp.owner ~= core.getpid() then return end
  core.flush()
  local silent = current._mp.silent
  if not ended and not silent then log.info("process shutting down") end
  ended, given_up = true, true
  run_hooks(0)
  if next(children) then end_children() end
  run_hooks(-math.huge)
  given_up = false
  if code and not silent then log.info("process exiting with exitcode %d", code) end
end

current = known_process {
  handle = core.process(), pid = core.getpid(), name = "MainProcess", daemon = false, place = "",
  authkey = core.random(32), status = "current",
}
core.name = "MainProcess"

return process
