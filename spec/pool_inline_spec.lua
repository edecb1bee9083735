-- Pools without processes: what can be shown of a pool's calls where every task runs in the
-- caller, at a known moment.

local T = require "spec.helper"
local W = require "spec.workers"
local mp = require "mp"

local fails, took = W.fails, W.took

local function square(x) return x * x end

-- Fails for multiples of three.
local function picky(x)
  if x % 3 == 0 then error("three times " .. x // 3) end
  return x
end

local function range(n, f)
  local list = {}
  for i = 1, n do list[i] = f and f(i) or i end
  return list
end

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

local function squares(n) return range(n, square) end

describe("A pool without processes", function()
  it("tells what it is", function()
    local pool <close> = mp.Pool(0)
    assert.equal("mp.Pool", mp.type(pool))
    assert.equal(0, pool.processes)
    assert.matches("^mp%.Pool: 0x%x+ %(0 workers, 0 tasks waiting%)$", tostring(pool))
    local result = pool:map_async(square, range(3))
    assert.matches("%(0 workers, 3 tasks waiting%)$", tostring(pool))
    assert.equal("mp.AsyncResult", mp.type(result))
    assert.matches("^mp%.AsyncResult: 0x%x+ %(waiting%)$", tostring(result))
    result:get()
    assert.matches("%(ready%)$", tostring(result))
    pool:close()
    assert.matches("closed%)$", tostring(pool))
    pool:terminate()
    assert.matches("terminated%)$", tostring(pool))
  end)

  it("says what is wrong with its options", function()
    fails("bad argument #1 to 'Pool' %(integer from 0 to 4000 expected, got %-1%)", function() mp.Pool(-1) end)
    fails("got 4001", function() mp.Pool(4001) end)
    fails("got 1%.5", function() mp.Pool(1.5) end)
    fails("got string", function() mp.Pool("two") end)
    fails("got mp%.Lock", function() mp.Pool(mp.Lock()) end)
    fails("one table", function() mp.Pool(0, square) end)
    fails("unknown option 'worker'; known options: grace, initargs, initializer, maxtasksperchild, " ..
      "processes, retries, seed", function() mp.Pool { worker = 2 } end)
    fails("option 'initializer': function expected", function() mp.Pool { initializer = 1 } end)
    fails("option 'initargs': table expected", function() mp.Pool { initargs = 1 } end)
    fails("option 'maxtasksperchild': positive integer expected", function() mp.Pool { maxtasksperchild = 0 } end)
    fails("option 'retries': integer that is not negative expected", function() mp.Pool { retries = -1 } end)
    fails("option 'seed': integer expected", function() mp.Pool { seed = 1.5 } end)
    fails("option 'grace': number of seconds expected", function() mp.Pool { grace = -1 } end)
  end)

  it("says what is wrong with a call, at the caller's line", function()
    local pool <close> = mp.Pool(0)
    fails("^spec/pool_inline_spec.lua:%d+: bad argument #1 to 'map' %(function expected, got number%)",
      function() pool:map(5, {}) end)
    fails("bad argument #2 to 'map' %(list or iterator expected, got no value%)", function() pool:map(square) end)
    fails("bad argument #2 to 'imap' %(list or iterator expected, got string%)", function() pool:imap(square, "x") end)
    fails("bad argument #2 to 'apply' %(table expected, got number%)", function() pool:apply(square, 1) end)
    fails("bad argument #3 to 'map' %(table expected, got number%)", function() pool:map(square, {}, 1) end)
    fails("bad argument #2 to 'starmap' %(item 2: list of arguments expected, got number%)",
      function() pool:starmap(square, { {}, 2 }) end)
    fails("unknown option 'window'; known options: chunksize, progress, retries, task_timeout, timeout",
      function() pool:map(square, {}, { window = 1 }) end)
    fails("unknown option 'chunksize'", function() pool:apply(square, {}, { chunksize = 1 }) end)
    fails("unknown option 'callback'", function() pool:apply(square, {}, { callback = print }) end)
    fails("option 'chunksize': positive integer expected, got 0",
      function() pool:map(square, {}, { chunksize = 0 }) end)
    fails("option 'timeout': number of seconds", function() pool:map(square, {}, { timeout = "1" }) end)
    fails("option 'task_timeout': positive number", function() pool:map(square, {}, { task_timeout = 0 }) end)
    fails("option 'window': positive integer", function() pool:imap(square, {}, { window = 0 }) end)
    fails("option 'progress': boolean or text", function() pool:map(square, {}, { progress = 1 }) end)
    fails("option 'callback': function", function() pool:map_async(square, {}, { callback = 1 }) end)
    fails("calling 'map' on bad self %(mp.Pool expected, got table%)", function() pool.map({}, square, {}) end)
    fails("calling 'get' on bad self %(mp.AsyncResult expected, got no value%)",
      function() pool:apply_async(square, { 1 }).get() end)
    assert.same({ 1 }, pool:map(square, { 1 }))
  end)

  it("runs tasks in the caller, in order", function()
    local pool <close> = mp.Pool(0)
    local order = {}
    local function note(x)
      order[#order + 1] = x
      return mp.getpid()
    end
    assert.equal(mp.getpid(), pool:apply(note, { 1 }))
    pool:map(note, { 2, 3 })
    pool:starmap(note, { { 4 }, { 5 } })
    collect(pool:imap(note, { 6, 7 }))
    collect(pool:imap_unordered(note, (counter(2))))
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 1, 2 }, order)
    assert.same({}, T.children())
  end)

  it("passes arguments and results as they are", function()
    local pool <close> = mp.Pool(0)
    local t, co = {}, coroutine.create(print)
    assert.equal(t, pool:apply(function(x) return x end, { t }))
    assert.equal(co, pool:map(function(x) return x end, { co })[1])
    assert.equal(3, pool:apply(function(...) return select("#", ...) end, table.pack(nil, nil, nil)))
    assert.same({ n = 1, 1 }, table.pack(pool:apply(function() return 1, 2 end)))
    assert.is_nil(pool:apply(function() end))
  end)

  it("takes lists that say their length, and keeps holes", function()
    local pool <close> = mp.Pool(0)
    local list = pool:map(function(x) return x == nil and "hole" or x end, { 1, nil, 3, nil, n = 5 })
    assert.same({ 1, "hole", 3, "hole", "hole" }, list)
    list = pool:map(function(x) if x ~= 2 then return x end end, { 1, 2, 3 })
    assert.same({ 1, nil, 3 }, list)
    assert.same({}, pool:map(square, {}))
  end)

  it("calls callable tables", function()
    local pool <close> = mp.Pool(0)
    local double = setmetatable({ by = 2 }, { __call = function(self, x) return self.by * x end })
    assert.same({ 2, 4 }, pool:map(double, { 1, 2 }))
  end)

  it("raises errors with the whole traceback", function()
    local pool <close> = mp.Pool(0)
    local function the_caller()
      local list = pool:map(picky, range(5))
      return list
    end
    local ok, e = pcall(the_caller)
    assert.is_false(ok)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.matches("pool_inline_spec%.lua:%d+: three times 1$", e.message)
    assert.equal("MainProcess", e.process)
    assert.equal(mp.getpid(), e.pid)
    local _, frames = e.traceback:gsub("pool_inline_spec%.lua:%d+:", "")
    assert.is_true(frames >= 3) -- task, the_caller, test
    local text = tostring(e)
    assert.matches("^spec/pool_inline_spec%.lua:%d+: three times 1\n%[in MainProcess, pid %d+%]\nstack traceb", text)
    assert.equal("E: " .. text, "E: " .. e)
    local value = { code = 3 }
    ok, e = pcall(pool.apply, pool, error, { value })
    assert.is_false(ok)
    assert.equal(value, e.message)
  end)

  it("stops at the first error", function()
    local pool <close> = mp.Pool(0)
    local runs = 0
    fails("three times 1", function()
      pool:map(function(x)
        runs = runs + 1
        return picky(x)
      end, range(100))
    end)
    assert.equal(3, runs)
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("calls its initializer when it is made", function()
    local got
    local pool <close> = mp.Pool {
      processes = 0, initializer = function(...) got = table.pack(...) end, initargs = table.pack(1, nil, 3),
    }
    assert.same({ n = 3, 1, nil, 3 }, got)
    assert.equal(4, pool:apply(square, { 2 }))
  end)

  it("is of no use when its initializer failed", function()
    local told
    local pool <close> = mp.Pool { processes = 0, initializer = function() error "not today" end }
    local e = fails("not today", function() pool:apply(square, { 2 }) end)
    assert.equal("mp.RemoteError", mp.type(e))
    fails("not today", function() pool:map(square, { 2 }) end)
    fails("not today", function() pool:imap(square, { 2 }) end)
    local result = pool:apply_async(square, { 2 }, { error_callback = function(err) told = err end })
    fails("not today", function() result:get() end)
    assert.equal(e, told)
    pool:close()
    assert.is_true(pool:join())
  end)

  it("may be used inside its own tasks", function()
    local pool <close> = mp.Pool(0)
    local function fib(n)
      if n < 2 then return n end
      local list = pool:map(fib, { n - 1, n - 2 })
      return list[1] + list[2]
    end
    assert.equal(13, pool:apply(fib, { 7 }))
  end)

  it("is for the process that made it", function()
    local pool <close> = mp.Pool(0)
    local result, q = pool:apply_async(square, { 2 }), mp.Queue()
    W.finish(W.child(function()
      for _, f in ipairs {
        function() pool:apply(square, { 2 }) end, function() pool:terminate() end, function() result:get() end,
      } do
        local ok, e = pcall(f)
        q:put { ok, tostring(e) }
      end
    end))
    for _ = 1, 3 do
      local answer = q:get(5)
      assert.is_false(answer[1])
      assert.matches("can only be .* the process that made", answer[2])
    end
    assert.equal(4, result:get())
  end)

  it("cannot be sent to another process", function()
    local pool <close> = mp.Pool(0)
    local q <close> = mp.Queue()
    fails("cannot marshal a mp%.Pool at value%.pool", function() q:put { pool = pool } end)
    fails("cannot marshal a mp%.AsyncResult at value", function() q:put(pool:apply_async(square, { 1 })) end)
    fails("cannot marshal a mp%.Pool at upvalue 'pool' of value", function() q:put(function() return pool end) end)
  end)
end)

describe("Without processes an AsyncResult", function()
  it("is computed in a later call", function()
    local pool <close> = mp.Pool(0)
    local runs = 0
    local function count() runs = runs + 1 return runs end
    local a, b = pool:apply_async(count), pool:apply_async(count)
    assert.equal(1, runs) -- each call into the pool runs one
    assert.is_true(b:ready())
    assert.equal(2, runs)
    assert.same({ 1, 2 }, { a:get(), b:get(0) })
    assert.is_true(a:successful())
    assert.is_true(a:wait(0))
  end)

  it("has the error", function()
    local pool <close> = mp.Pool(0)
    local r = pool:map_async(picky, range(5))
    fails("three times 1", function() r:get() end)
    fails("three times 1", function() r:get(0) end)
    assert.is_false(r:successful())
    assert.matches("failed", tostring(r))
  end)

  it("is taken by mp.wait", function()
    local pool <close> = mp.Pool(0)
    local q <close> = mp.Queue()
    local r = pool:apply_async(square, { 3 })
    assert.same({ r }, mp.wait({ q, r }, 5))
    pool:terminate()
    local ok, e = pcall(mp.wait, { true })
    assert.is_false(ok)
    assert.matches("AsyncResult", e)
  end)

  it("calls back, once, with the value or the error", function()
    local pool <close> = mp.Pool(0)
    local calls = {}
    local function note(what) return function(x) calls[#calls + 1] = { what, x } end end
    local options = { callback = note "value", error_callback = note "error" }
    pool:apply_async(square, { 3 }, options)
    local bad = pool:map_async(picky, range(3), options)
    pool:map_async(square, range(2), options):get()
    fails("three", function() bad:get() end)
    assert.equal(3, #calls)
    assert.same({ "value", 9 }, calls[1])
    assert.equal("error", calls[2][1])
    assert.equal("mp.RemoteError", mp.type(calls[2][2]))
    assert.same({ "value", { 1, 4 } }, calls[3])
  end)

  it("may call the pool from a callback", function()
    local pool <close> = mp.Pool(0)
    local log = {}
    local r = pool:apply_async(square, { 2 }, { callback = function(v)
      log[#log + 1] = pool:apply(square, { v })
      pool:apply_async(square, { 5 }, { callback = function(w) log[#log + 1] = w end })
    end })
    assert.equal(4, r:get())
    pool:apply(square, { 1 })
    assert.same({ 16, 25 }, log)
  end)

  it("logs what a callback raises, or says it on stderr", function()
    local r = T.mplua [[
      local mp = require "mp"
      local pool = mp.Pool(0)
      local opts = { callback = function() error "broken callback" end }
      print(pool:apply_async(math.abs, { -1 }, opts):get())
      mp.get_logger().handler = function(...) print(...) end
      print(pool:apply_async(math.abs, { -2 }, opts):get())
    ]]
    assert.matches("^%[ERROR/MainProcess%] a callback of a pool failed: [^\n]*broken callback\nstack traceback:", r.err)
    assert.matches("^1\nERROR\ta callback of a pool failed: [^\n]*broken callback\nstack.*\tMainProcess\n2\n$", r.out)
  end)

  it("has an end when the pool is terminated", function()
    local pool = mp.Pool(0)
    local told
    local next_value = pool:imap(square, (counter()))
    local r = pool:apply_async(square, { 1 }, { error_callback = function(e) told = e end })
    pool:terminate()
    assert.equal("the pool was terminated", told)
    fails("^spec/pool_inline_spec.lua:%d+: the pool was terminated$", function() r:get() end)
    fails("the pool was terminated", next_value)
    fails("the pool was terminated", function() pool:apply(square, { 1 }) end)
    assert.is_true(pool:join())
  end)

  it("times out as a whole, and is over then", function()
    local pool <close> = mp.Pool(0)
    local r = pool:map_async(function() mp.sleep(0.03) end, range(50), { timeout = 0.1 })
    assert.same({ n = 2, nil, "timeout" }, table.pack(r:get()))
    assert.is_false(r:successful())
    assert.same({ n = 2, nil, "timeout" },
      table.pack(pool:map(function() mp.sleep(0.03) end, range(50), { timeout = 0.1 })))
    local ran = false
    local function f() ran = true end
    assert.same({ n = 2, nil, "timeout" }, table.pack(pool:map(f, { 1 }, { timeout = 0 })))
    assert.same({ n = 2, nil, "timeout" }, table.pack(pool:apply(f, {}, { timeout = 0 })))
    assert.is_false(ran)
    assert.equal(4, pool:apply(square, { 2 }, { timeout = 10 }))
  end)
end)

describe("Without processes imap", function()
  it("runs a task when its result is read", function()
    local pool <close> = mp.Pool(0)
    local input, state = counter()
    local runs = 0
    for i, v in pool:imap(function(x) runs = runs + 1 return -x end, input) do
      assert.same({ i, -i, i, i }, { i, v, runs, state.taken })
      if i == 10 then break end
    end
    assert.equal(10, state.taken)
  end)

  it("takes no more than the window from its input", function()
    local pool <close> = mp.Pool(0)
    for _, method in ipairs { "imap", "imap_unordered" } do
      for _, options in ipairs {
        { window = 1 }, { window = 7 }, { window = 7, chunksize = 3 }, { window = 2, chunksize = 9 },
      } do
        local input, state = counter()
        local read = 0
        for i, v in pool[method](pool, square, input, options) do
          assert.equal(i * i, v)
          read = read + 1
          assert.is_true(state.taken < read + options.window)
          if read == 50 then break end
        end
      end
    end
  end)

  it("reads every kind of input to its end", function()
    local pool <close> = mp.Pool(0)
    for _, method in ipairs { "imap", "imap_unordered" } do
      for n = 0, 5 do
        assert.same(squares(n), collect(pool[method](pool, square, (counter(n)))))
        assert.same(squares(n), collect(pool[method](pool, square, range(n), { chunksize = 2, window = 3 })))
      end
    end
    assert.same({ 1, nil, 3 }, collect(pool:imap(function(x) return x end, { 1, nil, 3, n = 3 })))
    assert.same({ 3, 3 }, collect(pool:imap(function(s) return #s end, ("abc def"):gmatch "%a+")))
  end)

  it("raises errors at their position and goes on", function()
    local pool <close> = mp.Pool(0)
    local next_value = pool:imap(picky, range(4))
    assert.same({ 1, 1, 2, 2 }, { next_value(), select(2, 1, 1), next_value() })
    local e = fails("three times 1", next_value)
    assert.equal("mp.RemoteError", mp.type(e))
    assert.same({ 4, 4 }, { next_value() })
    assert.is_nil(next_value())
    assert.is_nil(next_value())
  end)

  it("gives what came before an error of its input, then that", function()
    local pool <close> = mp.Pool(0)
    local value = { "the input broke" }
    for _, method in ipairs { "imap", "imap_unordered" } do
      for _, window in ipairs { 1, 2, 10 } do
        local n = 0
        local next_value = pool[method](pool, square, function()
          n = n + 1
          if n == 3 then error(value) end
          return n
        end, { window = window })
        assert.same({ 1, 1 }, { next_value() })
        assert.same({ 2, 4 }, { next_value() })
        local ok, e = pcall(next_value)
        assert.is_false(ok)
        assert.equal(value, e)
        assert.is_nil(next_value())
      end
    end
  end)

  it("ends its input when the loop is left", function()
    local pool <close> = mp.Pool(0)
    local input, state = counter()
    pcall(function()
      for i in pool:imap(square, input, { window = 5 }) do if i == 3 then error "out" end end
    end)
    local taken = state.taken
    pool:map(square, range(10))
    assert.equal(taken, state.taken)
    assert.matches("0 tasks waiting", tostring(pool))
  end)

  it("that nobody holds any more is dropped", function()
    local pool <close> = mp.Pool(0)
    for _ = 1, 3 do pool:imap(square, (counter()), { window = 4 })() end
    collectgarbage()
    collectgarbage()
    pool:apply(square, { 1 })
    assert.matches("0 tasks waiting", tostring(pool))
  end)

  it("is read on after close, and by join when nobody does", function()
    local pool <close> = mp.Pool(0)
    local a, b = pool:imap(square, (counter(5))), pool:imap(square, (counter(1000)))
    assert.equal(1, a())
    pool:close()
    assert.same({ 2, 4 }, { a() })
    assert.is_true(pool:join())
    assert.same({ 3, 9 }, { a() })
    assert.same(squares(1000), collect(b))
  end)

  it("gives up when its time is over", function()
    local pool <close> = mp.Pool(0)
    local next_value = pool:imap(function(x) mp.sleep(0.06) return x end, (counter()), { timeout = 0.1 })
    assert.equal(1, next_value())
    local last
    repeat last = table.pack(next_value()) until last[1] == nil
    assert.same({ n = 2, nil, "timeout" }, last)
    assert.same({ n = 2, nil, "timeout" }, table.pack(next_value()))
  end)

  it("runs over very many items in constant memory", function()
    local pool <close> = mp.Pool(0)
    collectgarbage()
    local base, peak, sum = collectgarbage "count", 0, 0
    for i, v in pool:imap_unordered(square, (counter(50000)), { window = 50 }) do
      sum = sum + (v == i * i and 1 or 0)
      if i % 5000 == 0 then
        collectgarbage()
        peak = math.max(peak, collectgarbage "count" - base)
      end
    end
    assert.equal(50000, sum)
    assert.is_true(peak < 300, peak)
  end)
end)

describe("Without processes", function()
  it("a seed gives each task its stream, and leaves the caller's alone", function()
    local function draw() return math.random(1 << 50) end
    local pool <close> = mp.Pool { processes = 0, seed = 5 }
    math.randomseed(99)
    local expected = range(4, draw)
    math.randomseed(99)
    local list = { draw(), draw() }
    local a = pool:map(draw, range(3))
    fails("x", function() pool:apply(function() math.randomseed(1) error "x" end) end)
    list[3], list[4] = draw(), draw()
    assert.same(expected, list)
    assert.same(a, pool:map(draw, range(3)))
    assert.same(a, collect(pool:imap(draw, range(3))))
    assert.are_not.equal(a[1], a[2])
    math.randomseed()
  end)

  it("a task is stopped when its time is over", function()
    local pool <close> = mp.Pool(0)
    local spent = took(function()
      local e = fails("task timed out", function()
        pool:map(function() while true do end end, { 1 }, { task_timeout = 0.1 })
      end)
      assert.equal("task timed out", e.message)
      assert.matches("pool_inline_spec%.lua", e.traceback)
    end)
    assert.is_true(spent >= 0.1 and spent < 3)
    assert.is_nil((debug.gethook()))
    assert.same({ 1, 2 }, pool:map(function(x) return x end, { 1, 2 }, { task_timeout = 5 }))
    assert.is_nil((debug.gethook()))
  end)

  it("close and join behave as ever", function()
    local pool = mp.Pool(0)
    fails("the pool is still running; close or terminate it first", function() pool:join() end)
    local r = pool:map_async(square, range(3))
    pool:close()
    pool:close()
    fails("the pool is closed", function() pool:map(square, {}) end)
    fails("the pool is closed", function() pool:imap(square, {}) end)
    assert.is_true(pool:join(1))
    assert.is_true(pool:join())
    assert.same({ 1, 4, 9 }, r:get())
  end)

  it("Ctrl-C ends the task, and the call it is in; the pool goes on", function()
    local r = T.mplua [[
      local mp = require "mp"
      local pool = mp.Pool(0)
      local function interrupt(x)
        if x ~= 3 then return x end
        os.execute("(sleep 0.1; kill -INT " .. mp.getpid() .. ") &")
        while true do end
      end
      local other = pool:apply_async(math.abs, { -5 })
      print(pcall(pool.map, pool, interrupt, { 1, 2, 3, 4 }))
      print(other:get())
      print(pool:apply(math.abs, { -7 }))
    ]]
    assert.matches("^false\t[^\n]*interrupted!\n5\n7\n$", r.out)
    assert.equal("", r.err)
  end)

  it("a result whose task was interrupted says so", function()
    local r = T.mplua [[
      local mp = require "mp"
      local pool = mp.Pool(0)
      local result = pool:apply_async(function()
        os.execute("(sleep 0.1; kill -INT " .. mp.getpid() .. ") &")
        while true do end
      end)
      print(pcall(result.get, result))
      local ok, e = pcall(result.get, result)
      print(ok, mp.type(e), e.message)
    ]]
    assert.matches("^false\t[^\n]*interrupted!\nfalse\tmp.RemoteError\tinterrupted!\n$", r.out)
  end)

  it("progress is told of", function()
    local r = T.mplua [[
      local mp = require "mp"
      local pool = mp.Pool(0)
      print(#pool:map(math.abs, { 1, 2, 3 }, { progress = "counting" }))
      for _ in pool:imap(math.abs, { 1, 2 }, { progress = true }) do end
    ]]
    assert.equal("3\n", r.out)
    assert.matches("counting", r.err)
    assert.matches("3/3", r.err)
    assert.matches("2/2", r.err)
  end)
end)
