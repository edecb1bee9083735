-- Pools of forked workers: what calls return, in which order, when, and with which errors.
-- What kills workers is in pool_kill_spec.lua.

local T = require "spec.helper"
local W = require "spec.workers"
local mp = require "mp"

local finish, took, fails = W.finish, W.took, W.fails

-- Tasks --------------------------------------------------------------------------

local function square(x) return x * x end

local function pid() return mp.getpid() end

-- Fails for multiples of three.
local function picky(x)
  if x % 3 == 0 then error("three times " .. x // 3) end
  return x
end

-- A task that says which process ran it, when n of them have come.
local function meeting(n)
  local gate = mp.Barrier(n)
  return function()
    gate:wait(10)
    return mp.getpid()
  end, gate
end

-- A task that waits until the event is set.
local function held(gate)
  return function(x)
    gate:wait(15)
    return x
  end
end

local function range(n, f)
  local list = {}
  for i = 1, n do list[i] = f and f(i) or i end
  return list
end

local function squares(n) return range(n, square) end

-- An iterator over 1 .. n (without end if n is nil), and how far it was called.
local function counter(n)
  local state = { taken = 0 }
  return function()
    if state.taken == n then return nil end
    state.taken = state.taken + 1
    return state.taken
  end, state
end

local function collect(...)
  local list = {}
  for i, v in ... do list[i] = v end
  return list
end

local function count_values(list)
  local counts, n = {}, 0
  for _, v in pairs(list) do
    if not counts[v] then n = n + 1 end
    counts[v] = (counts[v] or 0) + 1
  end
  return counts, n
end

-- A pool whose only worker is in a task until the event is set.
local function busy_pool(options)
  options = options or {}
  options.processes = 1
  local pool, gate, begun = mp.Pool(options), mp.Event(), mp.Event()
  local result = pool:apply_async(function()
    begun:set()
    gate:wait(15)
    return "done"
  end)
  assert(begun:wait(10))
  return pool, gate, result
end

-- Making one ----------------------------------------------------------------------

describe("A pool", function()
  it("has as many workers as it was asked for, each a process", function()
    local pool <close> = mp.Pool(3)
    assert.equal(3, pool.processes)
    local task <const> = meeting(3)
    local counts, n = count_values(pool:map(task, { 1, 2, 3 }, { chunksize = 1 }))
    assert.equal(3, n)
    assert.is_nil(counts[mp.getpid()])
  end)

  it("has a worker for every processor when nothing is said", function()
    local pool <close> = mp.Pool()
    assert.equal(mp.cpu_count(), pool.processes)
    local other <close> = mp.Pool {}
    assert.equal(mp.cpu_count(), other.processes)
  end)

  it("tells what it is", function()
    local pool <close> = mp.Pool(2)
    assert.equal("mp.Pool", mp.type(pool))
    assert.matches("^mp%.Pool: ", tostring(pool))
    assert.matches("2 workers", tostring(pool))
    assert.equal("mp.AsyncResult", mp.type(pool:apply_async(square, { 1 })))
    pool:terminate()
    assert.matches("^mp%.Pool: ", tostring(pool))
  end)

  it("says what is wrong with its options", function()
    fails("Pool", function() mp.Pool(-1) end)
    fails("Pool", function() mp.Pool(1.5) end)
    fails("Pool", function() mp.Pool("two") end)
    fails("processes", function() mp.Pool { processes = -1 } end)
    fails("initializer", function() mp.Pool { processes = 1, initializer = 5 } end)
    fails("initargs", function() mp.Pool { processes = 1, initargs = 5 } end)
    fails("maxtasksperchild", function() mp.Pool { processes = 1, maxtasksperchild = 0 } end)
    fails("retries", function() mp.Pool { processes = 1, retries = -1 } end)
    fails("seed", function() mp.Pool { processes = 1, seed = "x" } end)
    fails("grace", function() mp.Pool { processes = 1, grace = -1 } end)
    local e = tostring(fails("procs", function() mp.Pool { procs = 4 } end))
    for _, key in ipairs { "processes", "initializer", "initargs", "maxtasksperchild", "retries", "seed",
      "grace" } do
      assert.matches(key, e, 1, true)
    end
  end)

  it("says what is wrong with a call", function()
    local pool <close> = mp.Pool(1)
    fails("bad argument #1 to 'map'", function() pool:map(5, {}) end)
    fails("bad argument #2 to 'map'", function() pool:map(square, 5) end)
    fails("bad argument #2 to 'map'", function() pool:map(square) end)
    fails("bad argument #1 to 'apply'", function() pool:apply(nil) end)
    fails("bad argument #2 to 'apply'", function() pool:apply(square, 5) end)
    fails("bad argument #1 to 'imap'", function() pool:imap({}, {}) end)
    fails("chunksize", function() pool:map(square, { 1 }, { chunksize = 0 }) end)
    fails("timeout", function() pool:map(square, { 1 }, { timeout = "soon" }) end)
    fails("task_timeout", function() pool:map(square, { 1 }, { task_timeout = {} }) end)
    fails("retries", function() pool:map(square, { 1 }, { retries = 1.5 }) end)
    fails("window", function() pool:imap(square, { 1 }, { window = 0 }) end)
    fails("callback", function() pool:apply_async(square, { 1 }, { callback = 1 }) end)
    local e = tostring(fails("chunk_size", function() pool:map(square, {}, { chunk_size = 1 }) end))
    for _, key in ipairs { "chunksize", "timeout", "task_timeout", "retries", "progress" } do
      assert.matches(key, e, 1, true)
    end
    fails("windows", function() pool:imap(square, {}, { windows = 1 }) end)
    fails("call_back", function() pool:apply_async(square, { 1 }, { call_back = print }) end)
    assert.same({ 1 }, pool:map(square, { 1 })) -- none of this did any harm
  end)

  it("may have a hundred workers", function()
    local pool <close> = mp.Pool(100)
    local task <const> = meeting(100)
    local _, n = count_values(pool:map(task, range(100), { chunksize = 1 }))
    assert.equal(100, n)
    assert.same(squares(1000), pool:map(square, range(1000)))
  end)

  it("leaves nothing behind, ten times over", function()
    local before = T.snapshot()
    for i = 1, 10 do
      local pool = mp.Pool(2)
      assert.same(squares(20), pool:map(square, range(20)))
      if i % 2 == 0 then
        pool:close()
        assert.is_true(pool:join(10))
      else
        pool:terminate()
      end
    end
    collectgarbage()
    collectgarbage()
    assert.same({}, T.leaks(before))
  end)

  it("cannot be sent to another process, nor can its results", function()
    local pool <close> = mp.Pool(1)
    local result = pool:apply_async(square, { 2 })
    local q <close> = mp.Queue()
    fails("cannot", function() q:put(pool) end)
    fails("cannot", function() q:put(result) end)
    fails("cannot", function() pool:apply(square, { pool }) end)
    assert.equal(4, result:get(10))
  end)

  it("is for the process that made it", function()
    local pool <close> = mp.Pool(1)
    local q = mp.Queue()
    finish(W.child(function()
      local ok, e = pcall(pool.apply, pool, square, { 2 })
      q:put { ok, tostring(e) }
      ok, e = pcall(pool.terminate, pool)
      q:put { ok, tostring(e) }
    end))
    local answer = q:get(5)
    assert.is_false(answer[1])
    assert.matches("process", answer[2])
    assert.equal(9, pool:apply(square, { 3 })) -- and the end of that process did it no harm
  end)
end)

-- apply ---------------------------------------------------------------------------

describe("apply", function()
  it("calls a function with its arguments in a worker", function()
    local pool <close> = mp.Pool(2)
    assert.equal(5, pool:apply(function(a, b) return a + b end, { 2, 3 }))
    assert.equal(0, pool:apply(function(...) return select("#", ...) end))
    assert.equal(0, pool:apply(function(...) return select("#", ...) end, {}))
    assert.are_not.equal(mp.getpid(), pool:apply(pid))
  end)

  it("keeps the nils among them", function()
    local pool <close> = mp.Pool(1)
    local function show(...)
      return table.concat({ select("#", ...), tostring((...)), tostring((select(-1, ...))) }, " ")
    end
    assert.equal("3 nil nil", pool:apply(show, table.pack(nil, 2, nil)))
    assert.equal("2 1 nil", pool:apply(show, table.pack(1, nil)))
  end)

  it("returns the first result only, nil for none", function()
    local pool <close> = mp.Pool(1)
    assert.same({ n = 1, 1 }, table.pack(pool:apply(function() return 1, 2, 3 end)))
    assert.is_nil(pool:apply(function() end))
    assert.is_false(pool:apply(function() return false end))
    assert.equal(mp.null, pool:apply(function() return mp.null end))
  end)

  it("takes C functions", function()
    local pool <close> = mp.Pool(1)
    assert.equal("ABC", pool:apply(string.upper, { "abc" }))
    assert.same({ 1.0, 2.0, 3.0 }, pool:map(math.sqrt, { 1, 4, 9 }))
  end)

  it("raises what the task raised, with where that was", function()
    local pool <close> = mp.Pool { processes = 1 }
    local worker = pool:apply(pid)
    local ok, e = pcall(pool.apply, pool, function() error("it went wrong") end)
    assert.is_false(ok)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.matches("pool_spec%.lua:%d+: it went wrong$", e.message)
    assert.matches("pool_spec%.lua", e.traceback)
    assert.matches("^PoolWorker%-%d+$", e.process)
    assert.equal(worker, e.pid)
    for _, part in ipairs { "it went wrong", "stack traceback", e.process } do
      assert.matches(part, tostring(e), 1, true)
    end
    assert.equal(worker, pool:apply(pid)) -- the worker goes on
  end)

  it("shows the frames of the task, not those of the library", function()
    local pool <close> = mp.Pool(1)
    local function deepest() error("deep") end
    local function deep()
      deepest()
      return 1
    end
    local e = fails("deep", function() pool:apply(deep) end)
    local _, lines = e.traceback:gsub("pool_spec%.lua:%d+:", "")
    assert.is_true(lines >= 2)
    assert.is_nil(e.traceback:find("mp/", 1, true))
  end)

  it("keeps error values that are no strings", function()
    local pool <close> = mp.Pool(1)
    local function raise(value) error(value) end
    local _, e = pcall(pool.apply, pool, raise, { { code = 42, list = { 1, 2 } } })
    assert.same({ code = 42, list = { 1, 2 } }, e.message)
    assert.is_string(tostring(e))
    _, e = pcall(pool.apply, pool, raise, { 17 })
    assert.equal(17, e.message)
    _, e = pcall(pool.apply, pool, raise)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.is_nil(e.message)
    assert.is_string(tostring(e))
  end)

  it("passes an error that came from a process below on", function()
    local pool <close> = mp.Pool(1)
    local e = fails("inner trouble", function()
      pool:apply(function()
        local inner <close> = mp.Pool(1)
        return inner:apply(function() error("inner trouble") end)
      end)
    end)
    assert.equal("mp.RemoteError", mp.type(e))
  end)
end)

-- Workers --------------------------------------------------------------------------

describe("A worker", function()
  it("has a name, and the maker of the pool as its parent", function()
    local pool <close> = mp.Pool(2)
    local gate = mp.Barrier(2)
    local names = pool:map(function()
      gate:wait(10)
      local me, parent = mp.current_process(), mp.parent_process()
      return { me.name, parent.name, parent.pid, me.pid == mp.getpid() }
    end, { 1, 2 }, { chunksize = 1 })
    for i = 1, 2 do
      assert.matches("^PoolWorker%-%d+$", names[i][1])
      assert.same({ "MainProcess", mp.getpid(), true }, { table.unpack(names[i], 2) })
    end
    assert.are_not.equal(names[1][1], names[2][1])
  end)

  it("is not among the children, and takes no number of theirs", function()
    local before = mp.Process(pid).name:match("%d+$")
    local pool <close> = mp.Pool(3)
    pool:apply(pid)
    assert.same({}, mp.active_children())
    assert.equal(before + 1, tonumber(mp.Process(pid).name:match("%d+$")))
  end)

  it("starts with what the script had when the pool was made", function()
    local box = { text = "before" }
    _G.pool_spec_global = "before"
    local pool <close> = mp.Pool {
      processes = 1,
      initializer = function() _G.pool_spec_box = box end,
    }
    _G.pool_spec_global, box.text = "after", "after"
    finally(function() _G.pool_spec_global = nil end)
    assert.equal("before before", pool:apply(function()
      return _G.pool_spec_global .. " " .. _G.pool_spec_box.text
    end))
  end)

  it("reads nothing from the terminal", function()
    local pool <close> = mp.Pool(1)
    assert.is_true(pool:apply(function() return io.read(1) == nil end))
  end)

  it("calls the initializer once, with its arguments, before any task", function()
    local runs, initargs = mp.Value("i", 0), table.pack("a", nil, "c")
    local pool <close> = mp.Pool {
      processes = 2,
      initializer = function(a, b, c)
        runs:add(1)
        _G.pool_spec_init = ("%s %s %s"):format(a, b, c)
      end,
      initargs = initargs,
    }
    local gate = mp.Barrier(2)
    assert.same({ "a nil c", "a nil c" }, pool:map(function()
      gate:wait(10)
      return _G.pool_spec_init
    end, { 1, 2 }, { chunksize = 1 }))
    pool:map(square, range(100))
    assert.equal(2, runs.value)
  end)

  it("can be initialised with what cannot be marshalled", function()
    local co = coroutine.wrap(function() coroutine.yield("from the coroutine") end)
    local pool <close> = mp.Pool {
      processes = 1,
      initializer = function(f) _G.pool_spec_co = f end,
      initargs = { co },
    }
    assert.equal("from the coroutine", pool:apply(function() return _G.pool_spec_co() end))
  end)

  it("closes the connections that it inherits: EOF comes", function()
    local r, w = mp.Pipe(false)
    local pool <close> = mp.Pool(2)
    pool:apply(pid)
    w:send("last")
    w:close()
    assert.equal("last", r:recv(5))
    assert.same({ n = 2, nil, "eof" }, table.pack(r:recv(5)))
    r:close()
  end)

  it("keeps those that the initializer is given", function()
    local r, w = mp.Pipe(false)
    local pool <close> = mp.Pool {
      processes = 1,
      initializer = function(conn) _G.pool_spec_conn = conn.conn end,
      initargs = { { conn = w } },
    }
    w:close()
    pool:apply(function() _G.pool_spec_conn:send("from the worker") end)
    assert.equal("from the worker", r:recv(5))
    r:close()
  end)

  it("has a random stream of its own", function()
    local gate = mp.Barrier(3)
    local pool <close> = mp.Pool(3)
    local list = pool:map(function()
      gate:wait(10)
      return math.random(1 << 50)
    end, { 1, 2, 3 }, { chunksize = 1 })
    local _, n = count_values(list)
    assert.equal(3, n)
  end)

  it("leaves the stream of the maker alone", function()
    math.randomseed(4711)
    local expected = range(3, function() return math.random(1 << 50) end)
    math.randomseed(4711)
    local pool <close> = mp.Pool(2)
    pool:map(function() return math.random() end, range(10))
    assert.same(expected, range(3, function() return math.random(1 << 50) end))
    math.randomseed()
  end)

  it("retires after maxtasksperchild tasks and is replaced", function()
    local pool <close> = mp.Pool { processes = 1, maxtasksperchild = 3 }
    for _, chunksize in ipairs { 1, 2, 10, 12 } do
      local pids = pool:map(pid, range(12), { chunksize = chunksize })
      local counts, n = count_values(pids)
      assert.equal(4, n)
      for _, count in pairs(counts) do assert.equal(3, count) end
    end
  end)

  it("retires exactly then when others work beside it", function()
    local pool <close> = mp.Pool { processes = 2, maxtasksperchild = 5 }
    local full, part = 0, 0
    for _, count in pairs((count_values(pool:map(pid, range(63), { chunksize = 4 })))) do
      assert.is_true(count <= 5)
      if count == 5 then full = full + 1 else part = part + 1 end
    end
    assert.is_true(full >= 11 and part <= 2)
  end)

  it("gives its name to the one that replaces it", function()
    local pool <close> = mp.Pool { processes = 1, maxtasksperchild = 1 }
    local names = pool:map(function() return mp.current_process().name end, range(4))
    local _, n = count_values(names)
    assert.same({ 4, 1 }, { #names, n })
  end)

  it("runs its exit hooks when it ends in order", function()
    local q = mp.Queue()
    local pool <close> = mp.Pool {
      processes = 2,
      initializer = function()
        require("mp.process").at_exit(50, function() q:put("hook") end)
      end,
    }
    pool:map(square, range(10))
    pool:close()
    assert.is_true(pool:join(10))
    assert.same({ "hook", "hook" }, { q:get(0), q:get(0) })
  end)

  it("may have processes of its own", function()
    local pool <close> = mp.Pool(2)
    assert.same({ 1, 4, 9 }, pool:map(function(x)
      local q = mp.Queue()
      local p = mp.Process(function() q:put(x * x) end)
      p:start()
      local value = q:get(10)
      p:join()
      return value
    end, { 1, 2, 3 }))
  end)
end)

-- Functions ---------------------------------------------------------------------------

describe("A function for a pool", function()
  it("may be a closure that was made after the pool", function()
    local pool <close> = mp.Pool(2)
    local base = { add = 100 }
    assert.same({ 101, 102, 103 }, pool:map(function(x) return x + base.add end, { 1, 2, 3 }))
  end)

  it("may be local and recursive, or one of several that call each other", function()
    local pool <close> = mp.Pool(2)
    local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end
    assert.same({ 1, 1, 2, 3, 5, 8, 13 }, pool:map(fib, range(7)))
    local odd
    local function even(n) return n == 0 or odd(n - 1) end
    function odd(n) return n ~= 0 and even(n - 1) end
    assert.same({ false, true, false, true }, pool:map(even, range(4)))
  end)

  it("keeps what it does to its upvalues in the worker", function()
    local pool <close> = mp.Pool(1)
    local n = 0
    local function count()
      n = n + 1
      return n
    end
    assert.equal(1, pool:apply(count))
    assert.equal(2, pool:apply(count))
    assert.same({ 3, 4, 5 }, pool:map(count, range(3)))
    assert.equal(0, n)
  end)

  it("is known by what it is made of", function()
    local pool <close> = mp.Pool(1)
    local function make(n)
      return function()
        n = n + 1
        return n
      end
    end
    assert.equal(1, pool:apply(make(0)))
    assert.equal(2, pool:apply(make(0))) -- the same bytes: the worker has it
    assert.equal(11, pool:apply(make(10)))
  end)

  it("gets the changes that the maker made since", function()
    local pool <close> = mp.Pool(1)
    local factor = 2
    local function scale(x) return x * factor end
    assert.same({ 2, 4 }, pool:map(scale, { 1, 2 }))
    factor = 10
    assert.same({ 10, 20 }, pool:map(scale, { 1, 2 }))
  end)

  it("may be one of very many", function()
    local pool <close> = mp.Pool(2)
    for round = 1, 2 do
      for i = 1, 150 do
        assert.equal(i + round, pool:apply(function(x) return x + i end, { round }))
      end
    end
    -- and many at a time
    local results = range(100, function(i)
      return pool:apply_async(function(x) return x * i end, { 3 })
    end)
    for i, result in ipairs(results) do assert.equal(3 * i, result:get(10)) end
  end)

  it("is sent once, however large what it carries", function()
    local pool <close> = mp.Pool(2)
    local big = { text = ("x"):rep(5 << 20) }
    local function length(i) return #big.text + i end
    local before = T.arena().used
    local gate = mp.Event()
    local wait = pool:map_async(held(gate), range(2), { chunksize = 1 })
    local results = pool:map_async(length, range(300), { chunksize = 1 })
    assert.is_true(T.arena().used - before < 16 << 20)
    gate:set()
    assert.same({ 1, 2 }, wait:get(10))
    assert.same(range(300, function(i) return (5 << 20) + i end), results:get(10))
    local spent = took(function()
      for i = 1, 50 do assert.equal((5 << 20) + i, pool:apply(length, { i })) end
    end)
    assert.is_true(spent < 8)
  end)

  it("that cannot be marshalled is refused, by path", function()
    local pool <close> = mp.Pool(1)
    local co = coroutine.create(print)
    local function bad() return co end
    fails("cannot marshal a thread", function() pool:apply(bad) end)
    fails("cannot marshal a thread", function() pool:map(bad, { 1 }) end)
    fails("co", function() pool:map(bad, { 1 }) end)
    fails("cannot marshal a thread", function() collect(pool:imap(bad, { 1 })) end)
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("that cannot be marshalled is an end for async calls, too", function()
    local pool <close> = mp.Pool(1)
    local co = coroutine.create(print)
    local function bad() return co end
    for _, call in ipairs {
      function() return pool:apply_async(bad) end,
      function() return pool:map_async(bad, { 1 }) end,
      function() return pool:starmap_async(bad, { { 1 } }) end,
    } do
      fails("cannot marshal a thread", function() call():get(10) end)
    end
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("may be called with very many arguments, or too many", function()
    local pool <close> = mp.Pool(1)
    local function count(...) return select("#", ...) end
    assert.equal(5000, pool:apply(count, range(5000)))
    assert.equal(100, pool:apply(count, { n = 100 }))
    fails("too many arguments", function() pool:apply(count, range(2000000)) end)
    assert.equal(3, pool:apply(count, { 1, 2, 3 }))
  end)

  it("that yields fails, as it would under any call", function()
    local pool <close> = mp.Pool(1)
    fails("yield", function() pool:apply(coroutine.yield, { 1 }) end)
    fails("yield", function() pool:map(function() coroutine.yield(1) end, { 1, 2 }) end)
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("may use coroutines, variables to be closed, and hooks", function()
    local pool <close> = mp.Pool(1)
    local closed = mp.Value("i", 0)
    local function task(x)
      local _ <close> = setmetatable({}, { __close = function() closed:add(1) end })
      local gen = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i * x) end end)
      local sum = gen() + gen() + gen()
      debug.sethook(function() end, "l")
      if x == 2 then error("two") end
      return sum
    end
    assert.equal(6, pool:apply(task, { 1 }))
    fails("two", function() pool:apply(task, { 2 }) end)
    assert.equal(2, closed.value)
    assert.is_nil(pool:apply(function() return (debug.gethook()) end))
  end)

  it("may exhaust the stack or the memory", function()
    local pool <close> = mp.Pool(1)
    local worker = pool:apply(pid)
    local function deep(n) return 1 + deep(n + 1) end
    fails("stack overflow", function() pool:apply(deep, { 1 }) end)
    fails("not enough memory", function() pool:apply(function() return io.open("/dev/zero"):read(1 << 60) end) end)
    assert.equal(worker, pool:apply(pid))
  end)
end)

-- map, starmap ------------------------------------------------------------------------

describe("map", function()
  it("returns the results in the order of the list", function()
    local pool <close> = mp.Pool(3)
    for _, n in ipairs { 0, 1, 2, 3, 17, 1000 } do
      assert.same(squares(n), pool:map(square, range(n)))
    end
    for _, chunksize in ipairs { 1, 2, 7, 100, 5000 } do
      assert.same(squares(333), pool:map(square, range(333), { chunksize = chunksize }))
    end
  end)

  it("is in order also when tasks end in another", function()
    local pool <close> = mp.Pool(2)
    local first = mp.Event()
    local list = pool:map(function(x)
      if x == 1 then first:wait(10) end
      if x == 20 then first:set() end
      return x
    end, range(20), { chunksize = 1 })
    assert.same(range(20), list)
  end)

  it("has a hole where a result is nil", function()
    local pool <close> = mp.Pool(2)
    local list = pool:map(function(x) if x % 2 == 0 then return x end end, range(10), { chunksize = 3 })
    for i = 1, 10 do assert.equal(i % 2 == 0 and i or nil, list[i]) end
    assert.same({}, pool:map(function() end, range(100)))
    assert.same({ false, false }, pool:map(function() return false end, { 1, 2 }))
  end)

  it("takes any values", function()
    local pool <close> = mp.Pool(2)
    local list = { 1, 2.5, "text", true, false, { a = { 1, 2 } }, mp.null, ("y"):rep(10000), math.mininteger }
    assert.same(list, pool:map(function(x) return x end, list))
    assert.same(list, pool:map(function(x) return x end, list, { chunksize = 1 }))
    assert.equal("float", math.type(pool:apply(function(x) return x end, { 2.0 })))
  end)

  it("takes an iterator, and materialises it", function()
    local pool <close> = mp.Pool(2)
    assert.same(squares(500), pool:map(square, (counter(500))))
    assert.same({ 3, 3 }, pool:map(function(s) return #s end, ("abc def"):gmatch("%a+")))
    assert.same({}, pool:map(square, function() end))
  end)

  it("raises what its iterator raises", function()
    local pool <close> = mp.Pool(2)
    local n = 0
    fails("the input broke", function()
      pool:map(square, function()
        n = n + 1
        if n == 5 then error("the input broke") end
        return n
      end)
    end)
    assert.same(squares(5), pool:map(square, range(5)))
  end)

  it("raises the first error that it learns of, and cancels the rest", function()
    local pool <close> = mp.Pool(2)
    local runs = mp.Value("i", 0)
    local e = fails("number 3", function()
      pool:map(function(x)
        runs:add(1)
        if x == 3 then error("number 3") end
        if x > 3 then mp.sleep(0.02) end
      end, range(400), { chunksize = 1 })
    end)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.same(squares(5), pool:map(square, range(5)))
    assert.is_true(runs.value < 100, runs.value .. " of 400 tasks were run")
  end)

  it("does not wait for the tasks that still run then", function()
    local pool, gate = mp.Pool(2), mp.Event()
    local _ <close> = pool
    local spent = took(function()
      fails("at once", function()
        pool:map(function(x)
          if x == 2 then error("at once") end
          gate:wait(10)
        end, { 1, 2 }, { chunksize = 1 })
      end)
    end)
    assert.is_true(spent < 5)
    gate:set()
  end)

  it("may be called by its own input", function()
    local pool <close> = mp.Pool(2)
    local i = 0
    local function input()
      i = i + 1
      if i <= 20 then return pool:apply(math.abs, { -i }) end
    end
    assert.same(squares(20), pool:map(square, input))
    i = 0
    assert.same(squares(20), collect(pool:imap(square, input)))
    local other = mp.Pool(1)
    local n = 0
    fails("terminated", function()
      for _ in other:imap(square, function()
        n = n + 1
        if n == 10 then other:terminate() end
        return n
      end) do end -- luacheck: ignore 542
    end)
  end)

  it("takes the items as they are at the call", function()
    local pool <close> = mp.Pool(1)
    local t = { 1 }
    local one = pool:apply_async(function(x) return x[1] end, { t })
    local list = range(5000)
    local all = pool:map_async(square, list)
    t[1] = 2
    for k = 1, 5000 do list[k] = 0 end
    assert.equal(1, one:get(10))
    assert.same(squares(5000), all:get(10))
  end)

  it("gives up when its time is over", function()
    local pool <close> = mp.Pool(2)
    local gate, runs = mp.Event(), mp.Value("i", 0)
    local function task()
      runs:add(1)
      gate:wait(10)
    end
    assert.same({ n = 2, nil, "timeout" },
      table.pack(pool:map(task, range(50), { timeout = 0.1, chunksize = 1 })))
    gate:set()
    assert.same(squares(5), pool:map(square, range(5), { timeout = 10 }))
    assert.is_true(runs.value <= 2) -- the rest was cancelled
    gate:clear()
    assert.same({ n = 2, nil, "timeout" },
      table.pack(pool:starmap(task, { { 1 } }, { timeout = 0.05 })))
    gate:set()
  end)

  it("passes large arguments and results", function()
    local pool <close> = mp.Pool(2)
    local text = ("0123456789abcdef"):rep(20 << 16) -- 20 MiB
    assert.is_true(text == pool:apply(function(s) return s end, { text }))
    assert.equal(#text, pool:apply(function(s) return #s end, { text }))
    local list = pool:map(function(x) return ("z"):rep(x) end, { 5000, 10, 100000, 0, 3000000, 7 })
    assert.same({ 5000, 10, 100000, 0, 3000000, 7 }, range(6, function(i) return #list[i] end))
  end)

  it("takes chunks and windows of any size", function()
    local pool <close> = mp.Pool(2)
    for _, size in ipairs { 1 << 24, 1 << 31, 1 << 32, math.maxinteger } do
      assert.same(squares(3), pool:map(square, range(3), { chunksize = size }))
      assert.same(squares(3), pool:map_async(square, range(3), { chunksize = size }):get(10))
      assert.same(squares(3), collect(pool:imap(square, range(3), { chunksize = size })))
      assert.same(squares(3), collect(pool:imap(square, range(3), { window = size })))
    end
  end)

  it("asks a list with metamethods for its items only", function()
    local pool <close> = mp.Pool(2)
    local list = setmetatable({}, {
      __len = function() return 3 end,
      __index = function(_, i)
        assert(math.type(i) == "integer")
        return i
      end,
    })
    assert.same(squares(3), pool:map(square, list))
    assert.same(squares(3), collect(pool:imap(square, list)))
  end)

  it("starmap spreads the items over the parameters", function()
    local pool <close> = mp.Pool(2)
    local function show(...) return select("#", ...) .. ":" .. tostring((select(-1, ...))) end
    assert.same({ "2:b", "1:c", "3:nil" },
      pool:starmap(show, { { "a", "b" }, { "c" }, table.pack(1, 2, nil) }))
    assert.same({ 3, 7 }, pool:starmap(function(a, b) return a + b end, { { 1, 2 }, { 3, 4 } }))
    assert.same({ 0 }, pool:starmap(function(...) return select("#", ...) end, { {} }))
    fails("list", function() pool:starmap(show, { { 1 }, 2 }) end)
    assert.same({}, pool:starmap(show, {}))
  end)

  it("keeps what is shared within one result", function()
    local pool <close> = mp.Pool(1)
    local t = pool:apply(function()
      local inner = {}
      local outer = { inner, inner }
      outer.self = outer
      return outer
    end)
    assert.equal(t[1], t[2])
    assert.equal(t, t.self)
  end)
end)

-- What cannot be marshalled --------------------------------------------------------------

describe("What cannot be marshalled", function()
  local co = coroutine.create(print)

  it("as an argument raises in the caller", function()
    local pool <close> = mp.Pool(2)
    fails("cannot marshal a thread", function() pool:apply(square, { co }) end)
    local e = fails("cannot marshal a thread", function()
      pool:map(square, { 1, 2, { job = { co = co } }, 4 })
    end)
    assert.matches("job.co", tostring(e), 1, true)
    fails("cannot marshal", function() pool:map(square, { 1, co }, { chunksize = 2 }) end)
    fails("cannot marshal", function() pool:starmap(square, { { 1 }, { co } }) end)
    assert.same(squares(10), pool:map(square, range(10)))
  end)

  it("as an argument of an async call is raised by get, and told to the error callback", function()
    local pool <close> = mp.Pool(2)
    local told = {}
    local options = { error_callback = function(e) told[#told + 1] = tostring(e) end }
    for i, call in ipairs {
      function() return pool:apply_async(square, { co }, options) end,
      function() return pool:map_async(square, { 1, co, 3 }, options) end,
      function() return pool:starmap_async(square, { { 1 }, { co } }, options) end,
    } do
      local result = call()
      fails("cannot marshal a thread", function() result:get(10) end)
      assert.equal(i, #told)
      assert.matches("cannot marshal a thread", told[i])
    end
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("as an item of imap is raised at its position", function()
    local pool <close> = mp.Pool(2)
    local next_value = pool:imap(function(x) return x end, { 1, co, 3 })
    assert.same({ 1, 1 }, { next_value() })
    fails("cannot marshal a thread", next_value)
    assert.same({ 3, 3 }, { next_value() })
    assert.is_nil(next_value())
  end)

  it("as a result is an error of the task", function()
    local pool <close> = mp.Pool(1)
    local worker = pool:apply(pid)
    local e = fails("cannot marshal a thread", function()
      pool:apply(function() return { co = coroutine.create(print) } end)
    end)
    assert.equal("mp.RemoteError", mp.type(e))
    fails("cannot marshal", function()
      pool:map(function(x) return x == 3 and io.stdout or x end, range(5))
    end)
    assert.equal(worker, pool:apply(pid))
  end)

  it("as an error becomes its text", function()
    local pool <close> = mp.Pool(1)
    local e = fails("thread: ", function() pool:apply(function() error(coroutine.create(print)) end) end)
    assert.equal("mp.RemoteError", mp.type(e))
    fails("my own text", function()
      pool:apply(function()
        error(setmetatable({ co = coroutine.create(print) }, { __tostring = function() return "my own text" end }))
      end)
    end)
    -- even if its text cannot be had
    e = fails("", function()
      pool:apply(function()
        error(setmetatable({ co = coroutine.create(print) }, { __tostring = function() error "no" end }))
      end)
    end)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("a connection, for one, does not go through a pool", function()
    local pool <close> = mp.Pool(1)
    local a, b = mp.Pipe()
    fails("cannot marshal", function() pool:apply(square, { a }) end)
    a:close()
    b:close()
  end)
end)

-- Shared objects --------------------------------------------------------------------------

describe("Shared objects", function()
  it("are arguments", function()
    local pool <close> = mp.Pool(2)
    local q, total = mp.Queue(), mp.Value("i", 0)
    pool:starmap(function(queue, value, i)
      value:add(i)
      queue:put(i)
    end, range(50, function(i) return { q, total, i } end), { chunksize = 3 })
    assert.equal(1275, total.value)
    assert.equal(50, q:qsize())
  end)

  it("are upvalues of functions", function()
    local pool <close> = mp.Pool(2)
    local total = mp.Value("q", 0)
    pool:map(function(i) total:add(i) end, range(1000))
    assert.equal(500500, total.value)
  end)

  it("are results, and live on when the pool is gone", function()
    local pool = mp.Pool(2)
    local queues = pool:map(function(i)
      local q = mp.Queue()
      q:put("from " .. i)
      return { q = q, i }
    end, range(20))
    pool:terminate()
    for i, t in ipairs(queues) do assert.same({ i, "from " .. i }, { t[1], t.q:get(0) }) end
  end)

  it("among results that nobody reads are given back", function()
    local before = T.arena().kinds.queue or 0
    local pool = mp.Pool(2)
    local result = pool:map_async(function() return mp.Queue() end, range(10))
    assert.is_true(result:wait(10))
    pool:terminate()
    result, pool = nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(T.wait_until(function()
      require("mp.core").collect()
      return (T.arena().kinds.queue or 0) <= before
    end))
  end)

  it("carry work between tasks of one pool", function()
    local pool <close> = mp.Pool(2)
    local q = mp.Queue()
    local consumer = pool:apply_async(function()
      local sum = 0
      for item in q:items() do sum = sum + item end
      return sum
    end)
    pool:apply(function() for i = 1, 100 do q:put(i) end q:shutdown() end)
    assert.equal(5050, consumer:get(10))
  end)
end)

-- AsyncResult --------------------------------------------------------------------------------

describe("An AsyncResult", function()
  it("is ready when the task has ended, and can be asked again and again", function()
    local pool <close> = mp.Pool(1)
    local gate = mp.Event()
    local result = pool:apply_async(held(gate), { "value" })
    assert.is_false(result:ready())
    assert.is_false(result:wait(0))
    assert.is_false(result:wait(0.05))
    assert.same({ n = 2, nil, "timeout" }, table.pack(result:get(0)))
    assert.same({ n = 2, nil, "timeout" }, table.pack(result:get(0.05)))
    fails("not ready", function() result:successful() end)
    gate:set()
    assert.is_true(result:wait())
    assert.is_true(result:ready())
    assert.is_true(result:successful())
    for _ = 1, 3 do assert.equal("value", result:get(0)) end
  end)

  it("waits at least as long as it is told", function()
    local pool, gate = busy_pool()
    local _ <close> = pool
    local result = pool:apply_async(square, { 2 })
    assert.is_true(took(result.get, result, 0.1) >= 0.1)
    assert.is_true(took(result.wait, result, 0.1) >= 0.1)
    assert.is_true(took(result.get, result, -1) < 1)
    gate:set()
    assert.equal(4, result:get(10))
  end)

  it("raises the error of the task each time", function()
    local pool <close> = mp.Pool(1)
    local result = pool:apply_async(picky, { 3 })
    assert.is_true(result:wait(10))
    assert.is_false(result:successful())
    local e = fails("three times 1", function() result:get() end)
    assert.equal("mp.RemoteError", mp.type(e))
    fails("three times 1", function() result:get(0) end)
  end)

  it("of map_async and starmap_async has the list", function()
    local pool <close> = mp.Pool(2)
    local a = pool:map_async(square, range(100))
    local b = pool:starmap_async(math.max, { { 1, 2 }, { 5, 3 } })
    local c = pool:map_async(square, {})
    local d = pool:map_async(picky, range(100), { chunksize = 7 })
    assert.same(squares(100), a:get(10))
    assert.same({ 2, 5 }, b:get(10))
    assert.same({}, c:get(10))
    fails("three times", function() d:get(10) end)
    assert.is_false(d:successful())
  end)

  it("tells of nil and false as they are", function()
    local pool <close> = mp.Pool(1)
    local a = pool:apply_async(function() end)
    assert.same({ n = 1 }, (function(...) return { n = select("#", ...), (...) } end)(a:get(10)))
    assert.is_true(a:successful())
    assert.is_false(pool:apply_async(function() return false end):get(10))
  end)

  it("is got in any order, among many", function()
    local pool <close> = mp.Pool(3)
    local results = range(500, function(i) return pool:apply_async(square, { i }) end)
    for i = 500, 1, -1 do assert.equal(i * i, results[i]:get(10)) end
  end)

  it("keeps its pool alive", function()
    local result = mp.Pool(1):apply_async(square, { 7 })
    collectgarbage()
    collectgarbage()
    assert.equal(49, result:get(10))
  end)

  it("is computed while its maker is elsewhere, and waits in shared memory", function()
    local pool <close> = mp.Pool(2)
    local done = mp.Semaphore(0)
    local result = pool:map_async(function(x)
      done:release()
      return tostring(x):rep(200)
    end, range(2000))
    for _ = 1, 2000 do assert(done:acquire(10)) end -- not a call into the pool
    assert.equal(("17"):rep(200), result:get(10)[17])
  end)

  it("can be waited for beside other things", function()
    local pool <close> = mp.Pool(2)
    local gate, q = mp.Event(), mp.Queue()
    local slow = pool:apply_async(held(gate), { "slow" })
    assert.same({}, mp.wait({ slow, q }, 0.05))
    local quick = pool:apply_async(square, { 3 })
    assert.same({ quick }, mp.wait({ slow, quick, q }, 10))
    assert.same({ quick }, mp.wait({ slow, quick, q }, 10)) -- it stays ready
    q:put(1)
    assert.same({ q }, mp.wait({ slow, q }, 10))
    q:get()
    assert.same({}, mp.wait({ slow, q }, 0))
    gate:set()
    assert.same({ slow }, mp.wait({ slow, q }, 10))
    assert.equal("slow", slow:get(0))
    -- one that fails is ready as well
    local bad = pool:apply_async(picky, { 3 })
    assert.same({ bad }, mp.wait({ bad, q }, 10))
  end)

  it("of several pools can be waited for together", function()
    local one <close> = mp.Pool(1)
    local two <close> = mp.Pool(1)
    local gate = mp.Event()
    local a, b = one:apply_async(held(gate), { "a" }), two:apply_async(square, { 2 })
    assert.same({ b }, mp.wait({ a, b }, 10))
    gate:set()
    assert.same({ a }, mp.wait({ a }, 10))
    assert.equal("a", a:get(0))
  end)
end)

-- Callbacks -------------------------------------------------------------------------------

describe("A callback", function()
  it("gets the result, once, in the process of the pool", function()
    local pool <close> = mp.Pool(2)
    local calls = {}
    local function note(...) calls[#calls + 1] = table.pack(mp.getpid(), ...) end
    local function never() error "not to be called" end
    local result = pool:apply_async(square, { 5 }, { callback = note, error_callback = never })
    assert.equal(25, result:get(10))
    result:get()
    assert.same({ { n = 2, mp.getpid(), 25 } }, calls)
    calls = {}
    pool:map_async(square, { 1, 2 }, { callback = note, error_callback = never }):get(10)
    pool:starmap_async(math.max, { { 1, 2 } }, { callback = note }):get(10)
    assert.same({ { n = 2, mp.getpid(), { 1, 4 } }, { n = 2, mp.getpid(), { 2 } } }, calls)
  end)

  it("for errors gets the error object", function()
    local pool <close> = mp.Pool(2)
    local seen = {}
    local options = {
      callback = function() seen[#seen + 1] = "wrong" end,
      error_callback = function(e) seen[#seen + 1] = e end,
    }
    pool:apply_async(picky, { 6 }, options):wait(10)
    pool:map_async(picky, range(10), options):wait(10)
    assert.equal(2, #seen)
    for _, e in ipairs(seen) do
      assert.equal("mp.RemoteError", mp.type(e))
      assert.matches("three times", e.message)
    end
  end)

  it("runs inside the next call into the pool, whatever call that is", function()
    local pool <close> = mp.Pool(1)
    local value
    local done = mp.Event()
    pool:apply_async(square, { 6 }, { callback = function(v) value = v end })
    pool:apply_async(function() done:set() end)
    assert(done:wait(10))
    assert.is_nil(value)
    assert.equal(4, pool:apply(square, { 2 }))
    assert.equal(36, value)
  end)

  it("may call the pool itself", function()
    local pool <close> = mp.Pool(2)
    local log = {}
    local chained
    pool:apply_async(square, { 3 }, {
      callback = function(v)
        log[#log + 1] = pool:apply(square, { v })
        log[#log + 1] = #pool:map(square, range(50))
        chained = pool:apply_async(square, { 2 }, { callback = function(w) log[#log + 1] = w end })
      end,
    }):get(10)
    assert.equal(4, chained:get(10))
    assert.same({ 81, 50, 4 }, log)
  end)

  it("that raises is logged and changes nothing else", function()
    local r = T.mplua [[
      local mp = require "mp"
      local pool <close> = mp.Pool(2)
      local function bad() error("the callback broke") end
      local a = pool:apply_async(math.max, { 1, 2 }, { callback = bad })
      local b = pool:apply_async(error, { "x" }, { error_callback = bad })
      print(a:get(10), a:successful(), pcall(b.get, b, 10))
      print(#pool:map_async(math.abs, { -1, -2 }, { callback = bad }):get(10))
      print(pool:apply(math.max, { 3, 4 }))
      pool:close()
      print(pool:join(10))
    ]]
    assert.matches("^2\ttrue\tfalse\t", r.out)
    assert.matches("\n2\n4\ntrue\n$", r.out)
    assert.equal(0, r.code)
    local _, times = r.err:gsub("the callback broke", "")
    assert.is_true(times >= 3)
    assert.matches("stack traceback", r.err)
    assert.matches("ERROR", r.err)
  end)

  it("that ends the pool does so", function()
    local pool <close> = mp.Pool(2)
    local rest
    local first = pool:apply_async(square, { 2 }, { callback = function() pool:terminate() end })
    rest = pool:apply_async(mp.sleep, { 30 })
    assert.equal(4, first:get(10))
    fails("terminated", function() rest:get(10) end)
  end)
end)

-- imap ---------------------------------------------------------------------------------

describe("imap", function()
  it("gives index and value in the order of the input", function()
    local pool <close> = mp.Pool(3)
    for _, chunksize in ipairs { false, 1, 5, 1000 } do
      local expected = 0
      for i, v in pool:imap(square, range(200), { chunksize = chunksize or nil }) do
        expected = expected + 1
        assert.same({ expected, expected * expected }, { i, v })
      end
      assert.equal(200, expected)
    end
    assert.same({}, collect(pool:imap(square, {})))
    assert.same(squares(300), collect(pool:imap(square, (counter(300)))))
  end)

  it("gives a nil result, too", function()
    local pool <close> = mp.Pool(2)
    local seen = 0
    for i, v in pool:imap(function(x) if x % 2 == 0 then return x end end, range(10)) do
      seen = seen + 1
      assert.equal(seen, i)
      assert.equal(i % 2 == 0 and i or nil, v)
    end
    assert.equal(10, seen)
    seen = 0
    for _ in pool:imap_unordered(function() end, range(10)) do seen = seen + 1 end
    assert.equal(10, seen)
  end)

  it("unordered gives each as it comes", function()
    local pool <close> = mp.Pool(2)
    local gate, order = mp.Event(), {}
    local function task(x)
      if x == 1 then gate:wait(10) end
      return x * x
    end
    for i, v in pool:imap_unordered(task, range(10), { chunksize = 1 }) do
      assert.equal(i * i, v)
      order[#order + 1] = i
      if #order == 9 then gate:set() end
    end
    assert.equal(10, #order)
    assert.equal(1, order[10])
    assert.same(squares(1000), collect(pool:imap_unordered(square, range(1000))))
  end)

  it("begins at the call", function()
    local pool <close> = mp.Pool(2)
    local begun = mp.Event()
    local next_value = pool:imap(function(x) begun:set() return x end, range(3))
    assert.is_true(begun:wait(10))
    assert.same({ 1, 1 }, { next_value() })
  end)

  it("gives the first results while later tasks still run", function()
    local pool <close> = mp.Pool(2)
    local gate = mp.Event()
    local n = 0
    for i in pool:imap(function(x) if x == 3 then gate:wait(10) end end, range(4), { chunksize = 1 }) do
      n = n + 1
      if i == 2 then gate:set() end
    end
    assert.equal(4, n)
  end)

  it("reads its input only as far ahead as the window", function()
    local pool <close> = mp.Pool(2)
    for _, method in ipairs { "imap", "imap_unordered" } do
      for _, options in ipairs { { window = 16 }, { window = 16, chunksize = 4 }, { window = 1 } } do
        local input, state = counter()
        local read = 0
        for i, v in pool[method](pool, square, input, options) do
          assert.equal(i * i, v)
          read = read + 1
          assert.is_true(state.taken <= read + options.window + 16)
          if read == 100 then break end
        end
        assert.is_true(state.taken <= 100 + 2 * options.window + 8)
      end
    end
  end)

  it("has a window when none is asked for", function()
    local pool <close> = mp.Pool(2)
    local input, state = counter()
    local read = 0
    for _ in pool:imap(square, input) do
      read = read + 1
      if read == 100 then break end
    end
    assert.is_true(state.taken <= 500, state.taken .. " items were taken")
  end)

  it("waits for a slow first one without reading on", function()
    local pool <close> = mp.Pool(2)
    local input, state = counter()
    local gate = mp.Event()
    local next_value = pool:imap(function(x) if x == 1 then gate:wait(10) end return x end, input,
      { window = 10, timeout = 0.2, chunksize = 1 })
    assert.same({ n = 2, nil, "timeout" }, table.pack(next_value()))
    assert.is_true(state.taken <= 12)
    gate:set()
  end)

  it("runs over very many items in constant memory", function()
    local pool <close> = mp.Pool(2)
    local n, sum, peak, arena = 0, 0, 0, 0
    collectgarbage()
    local base, base_arena = collectgarbage("count"), T.arena().used
    for _, v in pool:imap(function(x) return x + 1 end, (counter(200000))) do
      n, sum = n + 1, sum + v
      if n % 20000 == 0 then
        collectgarbage()
        peak = math.max(peak, collectgarbage("count") - base)
        arena = math.max(arena, T.arena().used - base_arena)
      end
    end
    assert.equal(200000, n)
    assert.equal(200000 * 200001 // 2 + 200000, sum)
    assert.is_true(peak < 1000, peak .. " KiB more")
    assert.is_true(arena < 1 << 20, arena .. " bytes of shared memory more")
  end)

  it("cancels the rest when the loop is left", function()
    local pool <close> = mp.Pool(2)
    local runs = mp.Value("i", 0)
    local input, state = counter()
    for i in pool:imap(function() runs:add(1) mp.sleep(0.005) end, input, { window = 20, chunksize = 1 }) do
      if i == 10 then break end
    end
    local taken = state.taken
    assert.same(squares(10), pool:map(square, range(10)))
    local ran = runs.value
    assert.same(squares(10), pool:map(square, range(10)))
    assert.equal(taken, state.taken)
    assert.is_true(ran <= 10 + 20)
    assert.equal(ran, runs.value)
    -- by an error, too
    pcall(function()
      for _ in pool:imap_unordered(square, (counter())) do error "out" end
    end)
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("raises a task's error at its position and goes on", function()
    local pool <close> = mp.Pool(2)
    for _, chunksize in ipairs { 1, 4 } do
      local next_value = pool:imap(picky, range(7), { chunksize = chunksize })
      for i = 1, 7 do
        if i % 3 == 0 then
          local e = fails("three times " .. i // 3, next_value)
          assert.equal("mp.RemoteError", mp.type(e))
        else
          assert.same({ i, i }, { next_value() })
        end
      end
      assert.is_nil(next_value())
      assert.is_nil(next_value())
    end
  end)

  it("unordered raises a task's error when it comes and goes on", function()
    local pool <close> = mp.Pool(2)
    local next_value = pool:imap_unordered(picky, range(30), { chunksize = 4 })
    local values, errors = 0, 0
    for _ = 1, 30 do
      local ok, i = pcall(next_value)
      if ok then
        assert.is_true(i % 3 ~= 0)
        values = values + 1
      else
        errors = errors + 1
      end
    end
    assert.same({ 20, 10 }, { values, errors })
    assert.is_nil(next_value())
  end)

  it("gives what came before an error of its input, then that", function()
    local pool <close> = mp.Pool(2)
    for _, method in ipairs { "imap", "imap_unordered" } do
      local n = 0
      local next_value = pool[method](pool, square, function()
        n = n + 1
        if n == 6 then error("the input broke") end
        return n
      end)
      local got = {}
      for _ = 1, 5 do
        local i, v = next_value()
        got[i] = v
      end
      assert.same(squares(5), got)
      fails("the input broke", next_value)
      assert.is_nil(next_value())
    end
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("gives up when its time is over", function()
    local pool <close> = mp.Pool(2)
    local gate = mp.Event()
    local next_value = pool:imap(function(x) if x == 3 then gate:wait(10) end return x end,
      range(5), { timeout = 0.3, chunksize = 1 })
    assert.same({ 1, 1 }, { next_value() })
    assert.same({ 2, 2 }, { next_value() })
    assert.same({ n = 2, nil, "timeout" }, table.pack(next_value()))
    gate:set()
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("may be read by turns with others", function()
    local pool <close> = mp.Pool(2)
    local a = pool:imap(square, (counter(100)))
    local b = pool:imap(function(x) return -x end, (counter(100)), { chunksize = 1 })
    for i = 1, 100 do
      assert.same({ i, i * i }, { a() })
      assert.same({ i, -i }, { b() })
      if i % 10 == 0 then assert.equal(i, pool:apply(math.abs, { -i })) end
    end
    assert.is_nil(a())
    assert.is_nil(b())
  end)

  it("may be called again in the body of its own loop", function()
    local pool <close> = mp.Pool(2)
    local sum = 0
    for _, v in pool:imap(square, range(10)) do
      for _, w in pool:imap(math.abs, { -v }) do sum = sum + w end
    end
    assert.equal(385, sum)
  end)

  it("that is only begun leaves nothing", function()
    local pool <close> = mp.Pool(2)
    for _ = 1, 20 do
      local next_value = pool:imap(square, (counter()))
      next_value()
    end
    collectgarbage()
    collectgarbage()
    assert.same(squares(10), pool:map(square, range(10)))
  end)

  it("may be fed by another imap", function()
    local pool <close> = mp.Pool(2)
    local inner = pool:imap(square, range(50))
    local outer = collect(pool:imap(math.abs, function()
      local _, v = inner()
      return v and -v
    end, { window = 4 }))
    assert.same(squares(50), outer)
  end)
end)

-- Random streams ---------------------------------------------------------------------------

describe("With a seed", function()
  local function draw() return math.random(1 << 40) end

  it("every task has its own stream, whichever worker runs it", function()
    local lists = {}
    for _, case in ipairs { { 1 }, { 2 }, { 4, 1 }, { 3, 7 }, { 0 } } do
      local pool <close> = mp.Pool { processes = case[1], seed = 42 }
      lists[#lists + 1] = pool:map(draw, range(40), { chunksize = case[2] })
    end
    for i = 2, #lists do assert.same(lists[1], lists[i]) end
    local _, n = count_values(lists[1])
    assert.equal(40, n)
    local pool <close> = mp.Pool { processes = 2, seed = 43 }
    assert.are_not.same(lists[1], pool:map(draw, range(40)))
  end)

  it("imap and map agree, and calls of apply count", function()
    local pool <close> = mp.Pool { processes = 2, seed = 7 }
    local list = pool:map(draw, range(20))
    assert.same(list, collect(pool:imap(draw, range(20))))
    assert.same(list, collect(pool:imap_unordered(draw, range(20))))
    assert.same(list, pool:starmap(draw, range(20, function() return {} end)))
    local singles = range(5, function() return pool:apply(draw) end)
    local _, n = count_values(singles)
    assert.equal(5, n)
    local other <close> = mp.Pool { processes = 3, seed = 7 }
    assert.same(singles, range(5, function() return other:apply(draw) end))
  end)

  it("it does not matter what an earlier task drew", function()
    local pool <close> = mp.Pool { processes = 1, seed = 7 }
    local list = pool:map(draw, range(10))
    local again = pool:map(function(x)
      local first = math.random(1 << 40)
      for _ = 1, x do math.random() end
      return first
    end, range(10))
    assert.same(list, again)
  end)
end)

-- Time-outs of tasks ---------------------------------------------------------------------

describe("task_timeout", function()
  local function spin() while true do end end

  it("raises in the task", function()
    local pool <close> = mp.Pool(1)
    local worker = pool:apply(pid)
    local e = fails("task timed out", function() pool:map(spin, { 1 }, { task_timeout = 0.1 }) end)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.matches("pool_spec%.lua", e.traceback)
    assert.equal(worker, pool:apply(pid)) -- it was not killed for that
  end)

  it("raises out of mp calls", function()
    local pool <close> = mp.Pool(1)
    local worker = pool:apply(pid)
    local q, event = mp.Queue(), mp.Event()
    for _, f in ipairs {
      function() mp.sleep(15) end,
      function() q:get() end,
      function() event:wait() end,
      function() coroutine.wrap(function() q:get(15) end)() end,
    } do
      local spent = took(function()
        fails("task timed out", function() pool:map(f, { 1 }, { task_timeout = 0.1 }) end)
      end)
      assert.is_true(spent < 5)
    end
    assert.equal(worker, pool:apply(pid))
  end)

  it("can be caught once, then the worker is killed", function()
    local pool <close> = mp.Pool { processes = 1, grace = 0.2 }
    local worker = pool:apply(pid)
    assert.matches("task timed out", pool:map(function()
      local _, e = pcall(function() while true do end end)
      return tostring(e)
    end, { 1 }, { task_timeout = 0.1 })[1])
    assert.equal(worker, pool:apply(pid))
    fails("task timed out", function()
      pool:map(function()
        pcall(function() while true do end end)
        while true do end
      end, { 1 }, { task_timeout = 0.1 })
    end)
    assert.are_not.equal(worker, pool:apply(pid))
  end)

  it("kills a worker that is in C", function()
    local pool <close> = mp.Pool { processes = 2, grace = 0.1 }
    local text = ("a"):rep(400)
    local spent = took(function()
      local e = fails("task timed out", function()
        pool:map(function() return text:find((".-"):rep(30) .. "b") end, { 1 }, { task_timeout = 0.1 })
      end)
      assert.equal("mp.RemoteError", mp.type(e))
    end)
    assert.is_true(spent < 5)
    assert.same(squares(20), pool:map(square, range(20)))
  end)

  it("kills a task that is in a coroutine of its own", function()
    local pool <close> = mp.Pool { processes = 1, grace = 0.1 }
    fails("task timed out", function()
      pool:map(function() coroutine.wrap(function() while true do end end)() end, { 1 }, { task_timeout = 0.1 })
    end)
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("is not retried", function()
    local pool <close> = mp.Pool { processes = 1, grace = 0.1, retries = 5 }
    local runs = mp.Value("i", 0)
    for _, f in ipairs {
      function() runs:add(1) while true do end end,
      function() runs:add(1) pcall(function() while true do end end) while true do end end,
    } do
      runs.value = 0
      fails("task timed out", function() pool:map(f, { 1 }, { task_timeout = 0.1 }) end)
      assert.equal(1, runs.value)
    end
  end)

  it("is for each task by itself", function()
    local pool <close> = mp.Pool(1)
    local list = pool:map(function(x) mp.sleep(0.1) return x end, range(6),
      { task_timeout = 0.4, chunksize = 6 })
    assert.same(range(6), list)
    -- and is over with the task
    mp.sleep(0.05)
    assert.equal("slept", pool:apply(function() mp.sleep(0.6) return "slept" end))
  end)

  it("fails one task of a chunk, the others of which keep their results", function()
    local pool <close> = mp.Pool { processes = 1, grace = 0.1 }
    for _, stubborn in ipairs { false, true } do
      local next_value = pool:imap(function(x)
        if x == 3 and stubborn then pcall(function() while true do end end) end
        while x == 3 do end
        return x
      end, range(6), { task_timeout = 0.15, chunksize = 6, window = 10 })
      for i = 1, 6 do
        if i == 3 then
          fails("task timed out", next_value)
        else
          assert.same({ i, i }, { next_value() })
        end
      end
      assert.is_nil(next_value())
    end
  end)

  it("does not begin before the task does", function()
    local pool, gate = busy_pool()
    local _ <close> = pool
    local result = pool:map_async(square, range(10), { task_timeout = 0.1 })
    assert.is_false(result:wait(0.3))
    gate:set()
    assert.same(squares(10), result:get(10))
  end)
end)

-- Ends ---------------------------------------------------------------------------------------

describe("close and join", function()
  it("let everything run to its end", function()
    local pool, gate = busy_pool()
    local result = pool:map_async(square, range(50))
    pool:close()
    assert.is_false(pool:join(0))
    assert.is_false(pool:join(0.1))
    gate:set()
    assert.is_true(pool:join(10))
    assert.is_true(pool:join())
    assert.same(squares(50), result:get(0))
    assert.same({}, T.leaks(T.snapshot()))
  end)

  it("refuse what comes later", function()
    local pool = mp.Pool(1)
    pool:close()
    pool:close()
    for _, call in ipairs {
      function() pool:apply(square, { 1 }) end,
      function() pool:apply_async(square, { 1 }) end,
      function() pool:map(square, { 1 }) end,
      function() pool:map_async(square, { 1 }) end,
      function() pool:starmap(square, { { 1 } }) end,
      function() pool:imap(square, { 1 }) end,
      function() pool:imap_unordered(square, { 1 }) end,
    } do
      fails("pool is closed", call)
    end
    assert.is_true(pool:join(10))
    fails("pool is closed", function() pool:apply(square, { 1 }) end)
  end)

  it("need each other in this order", function()
    local pool <close> = mp.Pool(1)
    fails("pool is still running", function() pool:join() end)
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("let an imap that was begun be read to its end", function()
    local pool <close> = mp.Pool(2)
    local next_value = pool:imap(square, (counter(300)), { window = 10 })
    assert.same({ 1, 1 }, { next_value() })
    pool:close()
    for i = 2, 300 do assert.same({ i, i * i }, { next_value() }) end
    assert.is_nil(next_value())
    assert.is_true(pool:join(10))
  end)

  it("feed an imap that nobody reads any more", function()
    local pool <close> = mp.Pool(2)
    local runs = mp.Value("i", 0)
    local next_value = pool:imap(function(x) runs:add(1) return x end, (counter(200)), { window = 10 })
    assert.same({ 1, 1 }, { next_value() })
    pool:close()
    assert.is_true(pool:join(15))
    assert.equal(200, runs.value)
    assert.same({ 2, 2 }, { next_value() })
  end)

  it("leave no process", function()
    local pool = mp.Pool(3)
    local task <const> = meeting(3)
    local pids = pool:map(task, range(3), { chunksize = 1 })
    pool:close()
    assert.is_true(pool:join(10))
    for _, p in ipairs(pids) do assert.is_false(T.alive(p)) end
  end)
end)

describe("terminate", function()
  it("ends everything at once, whatever it does", function()
    local pool, begun = mp.Pool(2), mp.Semaphore(0)
    local results = {
      pool:apply_async(function() begun:release() while true do end end),
      pool:apply_async(function() begun:release() os.execute("sleep 0.3") mp.sleep(30) end),
      pool:map_async(square, range(100)),
    }
    local started = begun:acquire(10) and begun:acquire(10)
    assert.is_true(started)
    local spent = took(pool.terminate, pool)
    assert.is_true(spent < 3)
    for _, result in ipairs(results) do
      assert.is_true(result:wait(0))
      assert.is_true(result:ready())
      assert.is_false(result:successful())
      fails("terminated", function() result:get() end)
      fails("terminated", function() result:get(0) end)
    end
    assert.is_true(pool:join())
    pool:terminate()
    fails("terminated", function() pool:apply(square, { 1 }) end)
    fails("terminated", function() pool:map(square, { 1 }) end)
    mp.sleep(0.35) -- what the task had started by other means
  end)

  it("keeps the results that were there", function()
    local pool, gate = mp.Pool(2), mp.Event()
    local done = pool:map_async(square, range(30))
    local never = pool:apply_async(held(gate), { 1 })
    assert.is_true(done:wait(10))
    pool:terminate()
    assert.same(squares(30), done:get())
    fails("terminated", function() never:get() end)
  end)

  it("tells the error callbacks", function()
    local pool = mp.Pool(1)
    local told
    pool:apply_async(mp.sleep, { 30 }, { error_callback = function(e) told = tostring(e) end })
    pool:terminate()
    assert.matches("terminated", told)
  end)

  it("is an end for iterators", function()
    local pool = mp.Pool(1)
    local next_value = pool:imap(function(x) if x > 2 then mp.sleep(30) end return x end, (counter()),
      { chunksize = 1 })
    assert.same({ 1, 1 }, { next_value() })
    pool:terminate()
    local spent = took(function()
      for _ = 1, 3 do
        local ok, i = pcall(next_value)
        if not ok then return end
        assert.is_not_nil(i)
      end
      error "no end"
    end)
    assert.is_true(spent < 2)
    fails("terminated", function() for _ = 1, 3 do next_value() end end)
  end)

  it("is what leaving the scope does", function()
    local worker, result
    local ok = pcall(function()
      local pool <close> = mp.Pool(1)
      worker = pool:apply(pid)
      result = pool:apply_async(mp.sleep, { 30 })
      error "out"
    end)
    assert.is_false(ok)
    assert.is_false(T.alive(worker))
    fails("terminated", function() result:get() end)
  end)

  it("is what collecting does", function()
    local worker, pool
    pool = mp.Pool(1)
    worker = pool:apply(pid)
    pool = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(T.wait_until(function() return not T.alive(worker) end))
  end)

  it("works right after the start", function()
    for _ = 1, 20 do
      local pool = mp.Pool(3)
      pool:terminate()
      assert.is_true(pool:join(0))
    end
  end)

  it("works while workers end by themselves", function()
    for i = 1, 40 do
      local pool = mp.Pool { processes = 1 + i % 2, maxtasksperchild = 1 + i % 3 }
      pool:map(square, range(12))
      pool:terminate()
      assert.is_true(pool:join(0))
    end
  end)

  it("works with queues full of what nobody has read", function()
    local pool = mp.Pool(2)
    pool:map_async(function() return ("x"):rep(100000) end, range(50))
    pool:map_async(function(s) return s end, range(20, function() return ("x"):rep(100000) end))
    mp.sleep(0.02)
    pool:terminate()
    assert.is_true(pool:join(0))
  end)
end)

-- The initializer fails --------------------------------------------------------------------

describe("An initializer that fails", function()
  local function failing(what, processes)
    local runs = mp.Value("i", 0)
    local pool = mp.Pool {
      processes = processes or 3,
      initializer = function(...)
        runs:add(1)
        return what(...)
      end,
      initargs = { "argument" },
    }
    return pool, runs
  end

  it("is an error for every caller, and no storm", function()
    local pool, runs = failing(function(a) error("no " .. a) end)
    local _ <close> = pool
    local e = fails("no argument", function() pool:map(square, range(10)) end)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.matches("pool_spec%.lua", e.traceback)
    assert.matches("^PoolWorker%-%d+$", e.process)
    fails("no argument", function() pool:apply(square, { 1 }) end)
    fails("no argument", function() collect(pool:imap(square, range(5))) end)
    fails("no argument", function() pool:apply_async(square, { 1 }):get(10) end)
    local told
    fails("no argument", function()
      pool:map_async(square, { 1 }, { error_callback = function(err) told = err end }):get(10)
    end)
    assert.matches("no argument", tostring(told))
    assert.is_true(runs.value <= 6, runs.value .. " runs")
  end)

  it("ends what had been submitted before it was known", function()
    local pool = failing(function() mp.sleep(0.05) error "late" end)
    local _ <close> = pool
    local results = { pool:apply_async(square, { 1 }), pool:map_async(square, range(20)) }
    for _, result in ipairs(results) do fails("late", function() result:get(10) end) end
  end)

  it("may raise what cannot be marshalled", function()
    local pool = failing(function() error(coroutine.create(print)) end, 1)
    local _ <close> = pool
    fails("thread: ", function() pool:apply(square, { 1 }) end)
  end)

  it("may end its process", function()
    for _, how in ipairs {
      function() os.exit(3) end,
      function() os.exit(0) end,
      function() os.execute("kill -KILL " .. mp.getpid() .. " 2>/dev/null") mp.sleep(10) end,
    } do
      local pool, runs = failing(how, 2)
      local _ <close> = pool
      local e = fails("", function() pool:apply(square, { 1 }) end)
      assert.equal("mp.RemoteError", mp.type(e))
      assert.is_true(runs.value <= 20, runs.value .. " runs")
      fails("", function() pool:map(square, range(5)) end)
      pool:terminate()
      assert.is_true(pool:join(0))
    end
  end)

  it("lets the pool be closed and joined", function()
    local pool = failing(function() error "not today" end)
    pool:close()
    assert.is_true(pool:join(10))
  end)

  it("once in a replacement only is an error then", function()
    local runs = mp.Value("i", 0)
    local pool <close> = mp.Pool {
      processes = 1,
      maxtasksperchild = 2,
      initializer = function() if runs:add(1) > 1 then error "only once" end end,
    }
    assert.equal(1, pool:apply(square, { 1 }))
    fails("only once", function() pool:map(square, range(10)) end)
  end)
end)

-- processes = 0 ------------------------------------------------------------------------------

describe("Without processes", function()
  it("a pool runs everything in the caller, in order", function()
    local pool <close> = mp.Pool(0)
    assert.equal(0, pool.processes)
    assert.equal(mp.getpid(), pool:apply(pid))
    local order = {}
    local function note(x)
      order[#order + 1] = x
      return x * x
    end
    assert.same(squares(5), pool:map(note, range(5)))
    assert.same(squares(5), pool:map_async(note, range(5)):get())
    assert.same(squares(5), collect(pool:imap(note, range(5))))
    assert.same({ 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5 }, order)
    assert.same({ 3 }, pool:starmap(function(a, b) return a + b end, { { 1, 2 } }))
    assert.same({}, T.children())
  end)

  it("a pool is lazy and has its errors", function()
    local pool <close> = mp.Pool { processes = 0 }
    local input, state = counter()
    for i in pool:imap(square, input, { window = 4 }) do if i == 10 then break end end
    assert.is_true(state.taken <= 20)
    local e = fails("three times 1", function() pool:map(picky, range(5)) end)
    assert.matches("pool_spec%.lua", tostring(e))
    pool:close()
    fails("pool is closed", function() pool:apply(square, { 1 }) end)
    assert.is_true(pool:join())
  end)
end)

-- Nested ----------------------------------------------------------------------------------

describe("A pool inside", function()
  it("a worker works as any other", function()
    local pool <close> = mp.Pool(2)
    local sums = pool:map(function(n)
      local inner <close> = mp.Pool(2)
      local sum = 0
      for _, v in ipairs(inner:map(function(x) return x * n end, { 1, 2, 3, 4 })) do sum = sum + v end
      return sum
    end, range(6), { chunksize = 1 })
    assert.same({ 10, 20, 30, 40, 50, 60 }, sums)
  end)

  it("a worker of a worker does, too, and names its workers so", function()
    local pool <close> = mp.Pool(1)
    local name = pool:apply(function()
      local inner <close> = mp.Pool(1)
      return inner:apply(function()
        local third <close> = mp.Pool(1)
        return third:apply(function() return mp.current_process().name end)
      end)
    end)
    assert.matches("^PoolWorker%-[%d:]+$", name)
  end)

  it("a worker ends with that", function()
    local pool <close> = mp.Pool(1)
    local inner = pool:apply(function()
      _G.pool_spec_inner = mp.Pool(2)
      return _G.pool_spec_inner:apply(pid)
    end)
    assert.is_true(T.alive(inner))
    pool:close()
    assert.is_true(pool:join(10))
    assert.is_true(T.wait_until(function() return not T.alive(inner) end, 2))
  end)

  it("a Process works as any other", function()
    local q = mp.Queue()
    finish(W.child(function()
      local pool <close> = mp.Pool(2)
      q:put(pool:map(square, range(20)))
      q:put(pool:apply(function() return mp.current_process().name end))
    end))
    assert.same(squares(20), q:get(0))
    assert.matches("^PoolWorker%-[%d:]+$", q:get(0))
  end)

  it("the same program as others works beside them", function()
    local a <close> = mp.Pool(2)
    local b <close> = mp.Pool(2)
    local c <close> = mp.Pool(1)
    local ra, rb = a:map_async(square, range(200)), b:map_async(math.abs, range(200, function(i) return -i end))
    assert.equal(9, c:apply(square, { 3 }))
    b:close()
    assert.same(squares(200), ra:get(10))
    a:terminate()
    assert.same(range(200), rb:get(10))
    assert.is_true(b:join(10))
    assert.equal(16, c:apply(square, { 4 }))
  end)

  it("coroutines may be used by each of them", function()
    local pool <close> = mp.Pool(2)
    local co = coroutine.wrap(function()
      for _, v in pool:imap(square, (counter())) do coroutine.yield(v) end
    end)
    assert.same({ 1, 4, 9 }, { co(), co(), co() })
    assert.same({ 1, 4 }, coroutine.wrap(function() return pool:map(square, { 1, 2 }) end)())
  end)
end)

-- Scripts -----------------------------------------------------------------------------------

describe("A script with a pool", function()
  it("gets all that its workers print, once", function()
    local r = T.mplua [[
      local mp = require "mp"
      io.write("from the parent\n")
      local pool = mp.Pool(3)
      pool:map(function(i) io.write("line ", i, "\n") end, (function()
        local list = {}
        for i = 1, 300 do list[i] = i end
        return list
      end)())
      pool:terminate()
      io.write("end\n")
    ]]
    assert.equal("", r.err)
    local seen, n = {}, 0
    for line in r.out:gmatch("[^\n]+") do
      assert.is_nil(seen[line])
      seen[line], n = true, n + 1
    end
    assert.equal(302, n)
    for i = 1, 300 do assert.is_true(seen["line " .. i]) end
    assert.matches("^from the parent\n", r.out)
    assert.matches("end\n$", r.out)
  end)

  -- Scripts that print the pids of their workers and end in one way or another.
  local function ends(text, code, pattern)
    local start = mp.monotonic()
    local r = T.mplua([[
      local mp = require "mp"
      local pool = mp.Pool(2)
      local gate = mp.Barrier(3)
      local busy = pool:map_async(function()
        print(mp.getpid())
        io.stdout:flush()
        gate:wait()
        while true do mp.sleep(60) end
      end, { 1, 2 }, { chunksize = 1 })
      gate:wait()
    ]] .. text)
    assert.is_true(mp.monotonic() - start < 10)
    assert.equal(code, r.code)
    assert.matches(pattern or "^$", r.err)
    local n = 0
    for worker in r.out:gmatch("%d+") do
      n = n + 1
      assert.is_true(T.wait_until(function() return not T.alive(tonumber(worker)) end, 2))
    end
    assert.equal(2, n)
  end

  it("ends though the pool is not closed", function()
    ends("", 0)
    ends("os.exit(0)", 0)
    ends("os.exit(7, true)", 7)
  end)

  it("ends by an error", function()
    ends("error('in main')", 1, "in main")
  end)

  it("ends while it is closed but busy", function()
    ends("pool:close()", 0)
  end)

  it("ends when the pool is garbage", function()
    ends("busy, pool = nil, nil collectgarbage() collectgarbage()", 0)
  end)

  it("shows the error of a task in full", function()
    local r = T.mplua [[
      local mp = require "mp"
      local function inner(x) error("bad item " .. x) end
      local pool <close> = mp.Pool(2)
      pool:map(function(x) inner(x) return x end, { 1 })
    ]]
    assert.equal(1, r.code)
    assert.matches("bad item 1", r.err)
    assert.matches("stack traceback", r.err)
    assert.matches("PoolWorker%-", r.err)
  end)

  it("runs under stock lua5.4, too", function()
    if T.sanitized then return pending("mp.so cannot be loaded here") end
    local r = T.mplua([[
      local mp = require "mp"
      local pool <close> = mp.Pool(2)
      local list = pool:map(function(x) return x * x end, { 1, 2, 3 })
      print(table.concat(list, " "))
      for i, v in pool:imap_unordered(function(x) return -x end, { 5 }) do print(i, v) end
    ]], nil, { exe = "lua5.4", env = ("LUA_CPATH='%s/?.so'"):format(T.build) })
    assert.same({ "1 4 9\n1\t-5\n", "", 0 }, { r.out, r.err, r.code })
  end)

  it("has ends for everything when shared memory is small", function()
    if T.sanitized then return pending("memory is told out differently here") end
    local r = T.mplua([[
      local mp = require "mp"
      local pool <close> = mp.Pool(2)
      local MB = 1 << 20
      local function list(n, value)
        local t = {}
        for i = 1, n do t[i] = value or i end
        return t
      end
      local function echo(s) return s end
      local function full(f, ...)
        local ok, e = pcall(f, ...)
        print(ok, (tostring(e):match("shared memory is full")))
      end
      print(#pool:map(function() return ("x"):rep(MB) end, list(30)))
      print(#pool:map(string.len, list(30, ("y"):rep(MB))))
      print(#pool:map_async(echo, list(30, ("z"):rep(MB))):get(15))
      local n, i = 0, 0
      for _, v in pool:imap(echo, function() i = i + 1 return i <= 30 and ("w"):rep(MB) or nil end) do
        n = n + #v
      end
      print(n // MB)
      full(pool.apply, pool, function() return ("x"):rep(20 * MB) end)
      full(pool.apply, pool, string.len, { ("x"):rep(20 * MB) })
      local big = ("q"):rep(20 * MB)
      full(pool.apply, pool, function() return #big end)
      print(pcall(pool.apply, pool, function() error(("e"):rep(20 * MB)) end))
      print(pool:apply(math.max, { 1, 2 }))
    ]], nil, { env = "MPLUA_SHM=16M" })
    assert.equal("", r.err)
    local out = r.out:gsub("eee+.*\n2\n", "eee\n2\n")
    local full = "false\tshared memory is full\n"
    assert.matches("^30\n30\n30\n30\n" .. full:rep(3) .. "false\t", out)
    assert.matches("\n2\n$", out)
  end)

  it("minds little what tasks do to the Lua that they run in", function()
    local r = T.mplua [[
      local mp = require "mp"
      local function alone(f)
        local pool <close> = mp.Pool(1)
        print(pcall(pool.map, pool, f, { 1, 2, 3 }))
        return pcall(pool.apply, pool, f, { 1 })
      end
      -- the worker does not depend on what a script may take away
      alone(function() _G.math, _G.os, _G.debug, _G.error, package.loaded.math = nil, nil, nil, nil, nil end)
      alone(function() io.stdout:close() end)
      alone(function() collectgarbage("stop") end)
      alone(function() setmetatable(_G, { __index = error, __newindex = error }) end)
      alone(function() debug.setmetatable(nil, { __index = function() return 5 end }) end)
      alone(function() getmetatable("").__index = nil end)
    ]]
    assert.equal("", r.err)
    assert.equal(0, r.code)
    assert.equal(("true\ttable\n"):rep(6), (r.out:gsub("table: 0x%x+", "table")))
  end)

  it("reports progress on stderr, in lines when that is no terminal", function()
    local r = T.mplua [[
      local mp = require "mp"
      local pool <close> = mp.Pool(2)
      local list = {}
      for i = 1, 100 do list[i] = i end
      print(#pool:map(math.abs, list, { progress = "counting" }))
      local n = 0
      for _ in pool:imap_unordered(math.abs, list, { progress = true }) do n = n + 1 end
      print(n)
    ]]
    assert.same({ "100\n100\n", 0 }, { r.out, r.code })
    assert.matches("counting", r.err)
    assert.matches("100/100", r.err)
    assert.is_nil(r.err:find("\r", 1, true))
    assert.matches("\n$", r.err)
  end)

  it("cuts a file into tasks", function()
    local path = T.tmpname()
    finally(function() os.remove(path) end)
    local file = assert(io.open(path, "w"))
    for i = 1, 5000 do file:write("line ", i, "\n") end
    file:close()
    local pool <close> = mp.Pool(2)
    local sums = pool:map(function(part)
      local n, sum = 0, 0
      for line in part:lines() do n, sum = n + 1, sum + tonumber(line:match("%d+")) end
      return { n, sum }
    end, mp.file_ranges(path, 7))
    local n, sum = 0, 0
    for _, t in ipairs(sums) do n, sum = n + t[1], sum + t[2] end
    assert.same({ 5000, 12502500 }, { n, sum })
  end)
end)

describe("A batch in which one task is long", function()
  it("gives what it has done before that", function()
    local pool <close> = mp.Pool(1)
    local go = mp.Event()
    local function f(x)
      if x == 7 then assert(go:wait(15)) end
      if x == 3 then error("three") end
      return x
    end
    local got, failures = {}, 0
    local next_value = pool:imap_unordered(f, { 1, 2, 3, 4, 5, 6, 7, 8 }, { chunksize = 8 })
    for i = 1, 8 do
      local ok, k, value = pcall(next_value)
      if ok then got[k] = value else failures = failures + 1 end
      if i == 6 then go:set() end
    end
    assert.is_nil(next_value())
    assert.equal(1, failures)
    assert.same({ 1, 2, nil, 4, 5, 6, 7, 8 }, got)
  end)

  it("and that kills its worker keeps them", function()
    local pool <close> = mp.Pool(1)
    local tries = mp.Value("i", 0)
    assert.same({ 1, 2, 3, 4 }, pool:map(function(x)
      if x == 3 and tries:add(1) < 3 then mp.sleep(0.5) os.exit(3) end
      return x
    end, { 1, 2, 3, 4 }, { chunksize = 4, retries = 2 }))
  end)
end)
