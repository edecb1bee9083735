-- Pools whose workers, nursery or owner are killed: every task reaches an end, what was
-- finished stays, and nothing is left.

local T = require "spec.helper"
local W = require "spec.workers"
local mp = require "mp"

local took, fails = W.took, W.fails

local function signal(name, pids) os.execute(("kill -%s %s 2>/dev/null"):format(name, pids)) end

-- Ends the calling process by a signal.
local function die(name)
  os.execute(("kill -%s %d"):format(name or "KILL", mp.getpid()))
  mp.sleep(10)
end

local function square(x) return x * x end

local function pid() return mp.getpid() end

local function range(n, f)
  local list = {}
  for i = 1, n do list[i] = f and f(i) or i end
  return list
end

local function squares(n) return range(n, square) end

local function collect(...)
  local list = {}
  for i, v in ... do list[i] = v end
  return list
end

-- The children of a process.
local function children(parent)
  local pids = {}
  local text = T.read(("/proc/%d/task/%d/children"):format(parent, parent)) or ""
  for p in text:gmatch("%d+") do pids[#pids + 1] = tonumber(p) end
  return pids
end

-- The process that the workers of the only pool come from.
local function nursery() return assert(T.children()[1], "there is no nursery") end

-- The workers of the only pool that run now.
local function workers()
  local from = T.children()[1]
  return from and children(from) or {}
end

local function stopped(p)
  local stat = T.read(("/proc/%d/stat"):format(p))
  return stat and stat:match("^.*%) (%a)") == "T"
end

local function gone(p) return T.wait_until(function() return not T.alive(p) end, 5) end

-- How often each of n tasks was begun: tasks add to it.
local function tally(n) return mp.RawArray("i", n) end

describe("A worker that is killed", function()
  it("fails the task that it ran, which says by what", function()
    local pool <close> = mp.Pool(2)
    for _, case in ipairs { { "KILL", "signal 9", "SIGKILL" }, { "SEGV", "signal 11", "SIGSEGV" },
      { "TERM", "signal 15", "SIGTERM" }, { "ABRT", "signal 6", "SIGABRT" } } do
      local worker = mp.Value("i", 0)
      local e
      local spent = took(function()
        e = fails(case[2], function()
          pool:apply(function()
            worker.value = mp.getpid()
            die(case[1])
          end)
        end)
      end)
      assert.is_true(spent < 3)
      assert.equal("mp.RemoteError", mp.type(e))
      assert.matches(case[3], e.message, 1, true)
      assert.matches("^PoolWorker%-%d+$", e.process)
      assert.equal(worker.value, e.pid)
    end
    assert.same(squares(50), pool:map(square, range(50)))
    assert.is_true(T.wait_until(function() return #workers() == 2 end))
  end)

  it("is replaced at once", function()
    local pool <close> = mp.Pool(1)
    local function name() return mp.current_process().name end
    local before, old = pool:apply(pid), pool:apply(name)
    fails("signal 9", function() pool:apply(die) end)
    local start = mp.monotonic()
    local after = pool:apply(pid)
    assert.is_true(mp.monotonic() - start < 2)
    assert.are_not.equal(before, after)
    assert.equal(old, pool:apply(name))
  end)

  it("while it has nothing to do is replaced, and nobody is told", function()
    local pool <close> = mp.Pool(2)
    for _ = 1, 5 do
      pool:apply(pid)
      T.wait_until(function() return #workers() == 2 end)
      for _, worker in ipairs(workers()) do signal("KILL", worker) end
      assert.same(squares(20), pool:map(square, range(20)))
    end
  end)

  it("takes no other task along, not of its own chunk either", function()
    local pool <close> = mp.Pool(1)
    local begun = tally(10)
    local next_value = pool:imap(function(x)
      begun:add(x, 1)
      if x == 5 then die() end
      return x * x
    end, range(10), { chunksize = 10, window = 20 })
    for i = 1, 10 do
      if i == 5 then
        fails("signal 9", next_value)
      else
        assert.same({ i, i * i }, { next_value() })
      end
    end
    assert.is_nil(next_value())
    assert.same({ 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 }, begun:totable())
  end)

  it("has its task begun again when retries are asked for, no other", function()
    local pool <close> = mp.Pool(1)
    local begun = tally(10)
    assert.same(squares(10), pool:map(function(x)
      if begun:add(x, 1) <= 2 and x == 5 then die() end
      return x * x
    end, range(10), { chunksize = 10, retries = 2 }))
    assert.same({ 1, 1, 1, 1, 3, 1, 1, 1, 1, 1 }, begun:totable())
  end)

  it("fails its task when the retries are used up", function()
    local pool <close> = mp.Pool { processes = 2, retries = 3 }
    local runs = mp.Value("i", 0)
    local function doomed()
      runs:add(1)
      die("SEGV")
    end
    fails("signal 11", function() pool:apply(doomed) end)
    assert.equal(4, runs.value)
    runs.value = 0
    fails("signal 11", function() pool:map(doomed, { 1 }, { retries = 1 }) end)
    assert.equal(2, runs.value)
    runs.value = 0
    fails("signal 11", function() pool:map(doomed, { 1 }, { retries = 0 }) end)
    assert.equal(1, runs.value)
  end)

  it("is retried by every kind of call", function()
    local pool <close> = mp.Pool { processes = 2, retries = 1 }
    local tries = mp.RawArray("i", 10)
    local function once(x)
      if tries:add(x, 1) == 1 then die() end
      return x
    end
    local calls = {
      function() return pool:apply(once, { 1 }) end,
      function() return pool:apply_async(once, { 1 }):get(10) end,
      function() return pool:map(once, { 1 })[1] end,
      function() return pool:map_async(once, { 1 }):get(10)[1] end,
      function() return pool:starmap(once, { { 1 } })[1] end,
      function() return pool:starmap_async(once, { { 1 } }):get(10)[1] end,
      function() return collect(pool:imap(once, { 1 }))[1] end,
      function() return collect(pool:imap_unordered(once, { 1 }))[1] end,
    }
    for _, call in ipairs(calls) do
      tries[1] = 0
      assert.equal(1, call())
      assert.equal(2, tries[1])
    end
  end)

  it("is not what a task that raises is: that is not begun again", function()
    local pool <close> = mp.Pool { processes = 1, retries = 5 }
    local runs = mp.Value("i", 0)
    fails("no", function() pool:apply(function() runs:add(1) error "no" end) end)
    assert.equal(1, runs.value)
  end)

  it("may be every seventh of 300", function()
    local pool <close> = mp.Pool(4)
    for _, chunksize in ipairs { false, 1, 20 } do
      local tries = tally(300)
      assert.same(squares(300), pool:map(function(x)
        if tries:add(x, 1) == 1 and x % 7 == 0 then die() end
        return x * x
      end, range(300), { retries = 5, chunksize = chunksize or nil }))
      for i = 1, 300 do assert.equal(i % 7 == 0 and 2 or 1, tries[i]) end
    end
  end)

  it("in imap fails its own position only", function()
    local pool <close> = mp.Pool(2)
    for _, method in ipairs { "imap", "imap_unordered" } do
      local next_value = pool[method](pool, function(x)
        if x % 10 == 0 then die() end
        return x
      end, range(40))
      local values, errors = 0, 0
      for _ = 1, 40 do
        if pcall(next_value) then values = values + 1 else errors = errors + 1 end
      end
      assert.same({ 36, 4 }, { values, errors })
      assert.is_nil(next_value())
    end
  end)

  it("leaves the results that it had sent or not sent yet", function()
    local pool <close> = mp.Pool(1)
    local gate = mp.Event()
    local next_value = pool:imap(function(x)
      if x == 60 then gate:set() mp.sleep(20) end
      return ("r"):rep(x)
    end, range(100), { chunksize = 100, window = 200 })
    assert(gate:wait(10))
    signal("KILL", workers()[1])
    for i = 1, 100 do
      if i == 60 then
        fails("signal 9", next_value)
      else
        assert.same({ i, ("r"):rep(i) }, { next_value() })
      end
    end
  end)

  it("with results that carry objects loses none of them", function()
    local pool <close> = mp.Pool(2)
    local tries = tally(40)
    local queues = pool:map(function(x)
      if tries:add(x, 1) == 1 and x % 5 == 0 then die() end
      local q = mp.Queue()
      q:put(x)
      return q
    end, range(40), { retries = 1, chunksize = 8 })
    for i, q in ipairs(queues) do assert.equal(i, q:get(0)) end
    assert.equal(40, #queues)
  end)

  it("gives back the locks that it held", function()
    local pool <close> = mp.Pool(2)
    local lock, sem = mp.Lock(), mp.Semaphore(1)
    fails("signal 9", function()
      pool:apply(function()
        lock:acquire()
        sem:with(die)
      end)
    end)
    assert.is_true((pool:apply(function() return lock:acquire(5) end)))
    assert.is_true(pool:apply(function() return sem:with(function() return true end) end))
  end)

  it("in one call leaves the others alone", function()
    local pool <close> = mp.Pool(2)
    local good = pool:map_async(square, range(200), { chunksize = 5 })
    local bad = range(5, function() return pool:apply_async(die) end)
    local more = pool:map_async(square, range(100), { chunksize = 1 })
    for _, result in ipairs(bad) do fails("signal 9", function() result:get(10) end) end
    assert.same(squares(200), good:get(10))
    assert.same(squares(100), more:get(10))
  end)

  it("is an error for callbacks and mp.wait, too", function()
    local pool <close> = mp.Pool(1)
    local told
    local result = pool:apply_async(die, {}, { error_callback = function(e) told = e end })
    assert.same({ result }, mp.wait({ result }, 10))
    assert.is_false(result:successful())
    assert.equal("mp.RemoteError", mp.type(told))
  end)

  it("together with all others hinders nobody", function()
    local pool <close> = mp.Pool(4)
    local begun = mp.Semaphore(0)
    for _ = 1, 3 do
      local tries = tally(4)
      local result = pool:map_async(function(x)
        if tries:add(x, 1) == 1 then
          begun:release()
          mp.sleep(20)
        end
        return x
      end, range(4), { chunksize = 1, retries = 1 })
      for _ = 1, 4 do assert(begun:acquire(10)) end
      signal("KILL", table.concat(workers(), " "))
      assert.same(range(4), result:get(10))
    end
  end)

  it("while the pool is being closed is replaced as long as there is work", function()
    local pool <close> = mp.Pool(2)
    local tries = tally(100)
    local result = pool:map_async(function(x)
      if tries:add(x, 1) == 1 and x % 10 == 0 then die() end
      return x * x
    end, range(100), { retries = 1 })
    pool:close()
    assert.is_true(pool:join(15))
    assert.same(squares(100), result:get(0))
  end)

  it("by a chunk of results that is too large for its record loses none", function()
    local pool <close> = mp.Pool(2)
    local tries = tally(30)
    local list = pool:map(function(x)
      if tries:add(x, 1) == 1 and x % 4 == 0 then die() end
      return tostring(x % 10):rep(x * 3000)
    end, range(30), { retries = 1, chunksize = 10 })
    for i = 1, 30 do assert.is_true(list[i] == tostring(i % 10):rep(i * 3000)) end
  end)

  it("does not change what a seed gives", function()
    local pool <close> = mp.Pool { processes = 2, seed = 99, retries = 3 }
    local expected = pool:map(function() return math.random(1 << 40) end, range(30))
    local tries = tally(30)
    assert.same(expected, pool:map(function(x)
      local value = math.random(1 << 40)
      if tries:add(x, 1) == 1 and x % 3 == 0 then die() end
      return value
    end, range(30)))
  end)
end)

describe("A worker that ends by itself", function()
  it("in a task fails that", function()
    local pool <close> = mp.Pool(2)
    for _, case in ipairs { { 3, 3 }, { 0, 0 }, { true, 0 }, { false, 1 } } do
      local e = fails("exit code " .. case[2], function() pool:apply(os.exit, { case[1] }) end)
      assert.equal("mp.RemoteError", mp.type(e))
    end
    fails("exit code", function() pool:map(function(x) if x == 30 then os.exit(5) end end, range(50)) end)
    assert.same(squares(50), pool:map(square, range(50)))
  end)

  it("is retried as one that is killed", function()
    local pool <close> = mp.Pool(2)
    local tries = tally(50)
    assert.same(squares(50), pool:map(function(x)
      if tries:add(x, 1) == 1 and x % 5 == 0 then os.exit(x) end
      return x * x
    end, range(50), { retries = 1 }))
  end)

  it("keeps what it printed", function()
    local r = T.mplua [[
      local mp = require "mp"
      local pool <close> = mp.Pool(1)
      print(pcall(pool.apply, pool, function() io.write("said before\n") os.exit(1) end))
    ]]
    assert.matches("said before\n", r.out)
    assert.matches("exit code 1", r.out)
    local _, n = r.out:gsub("said before", "")
    assert.equal(1, n)
  end)
end)

describe("A worker that is stopped", function()
  it("holds up its own task, not the others", function()
    local pool <close> = mp.Pool(2)
    local gate, begun = mp.Event(), mp.Value("i", 0)
    local held = pool:apply_async(function()
      begun.value = mp.getpid()
      gate:wait(15)
      return "went on"
    end)
    T.wait_until(function() return begun.value ~= 0 end)
    signal("STOP", begun.value)
    assert.is_true(T.wait_until(function() return stopped(begun.value) end))
    gate:set()
    assert.same(squares(100), pool:map(square, range(100)))
    assert.is_false(held:ready())
    signal("CONT", begun.value)
    assert.equal("went on", held:get(10))
  end)

  it("again and again changes nothing", function()
    local pool <close> = mp.Pool(3)
    local result = pool:map_async(function(x) mp.sleep(0.001) return x * x end, range(600), { chunksize = 3 })
    for i = 1, 20 do
      local list = workers()
      local worker = list[i % 3 + 1]
      if worker then
        signal("STOP", worker)
        mp.sleep(0.005)
        signal("CONT", worker)
      end
    end
    assert.same(squares(600), result:get(15))
  end)

  it("is ended by terminate", function()
    local pool = mp.Pool(2)
    pool:apply(pid)
    local list = workers()
    for _, worker in ipairs(list) do signal("STOP", worker) end
    assert.is_true(took(pool.terminate, pool) < 4)
    for _, worker in ipairs(list) do assert.is_false(T.alive(worker)) end
  end)
end)

describe("When the nursery is killed", function()
  it("the tasks of all workers are lost, and the pool goes on", function()
    local pool <close> = mp.Pool(2)
    for _ = 1, 3 do
      local begun = mp.Semaphore(0)
      local results = range(2, function()
        return pool:apply_async(function()
          begun:release()
          mp.sleep(20)
        end)
      end)
      for _ = 1, 2 do assert(begun:acquire(10)) end
      local old = workers()
      signal("KILL", nursery())
      for _, result in ipairs(results) do
        assert.is_true(result:wait(10))
        fails("signal 9", function() result:get() end)
      end
      for _, worker in ipairs(old) do assert.is_true(gone(worker)) end
      assert.same(squares(50), pool:map(square, range(50)))
    end
  end)

  it("tasks are retried", function()
    local pool <close> = mp.Pool(2)
    local tries, begun = tally(100), mp.Event()
    local result = pool:map_async(function(x)
      if tries:add(x, 1) == 1 and x == 40 then
        begun:set()
        mp.sleep(20)
      end
      return x * x
    end, range(100), { retries = 1, chunksize = 7 })
    assert(begun:wait(10))
    signal("KILL", nursery())
    assert.same(squares(100), result:get(15))
  end)

  it("nobody has to be in a call", function()
    local pool <close> = mp.Pool(2)
    pool:apply(pid)
    local old, list = nursery(), workers()
    signal("KILL", old)
    for _, worker in ipairs(list) do assert.is_true(gone(worker)) end
    assert.equal(9, pool:apply(square, { 3 }))
  end)

  it("close, join and terminate work", function()
    local pool = mp.Pool(2)
    pool:apply(pid)
    signal("KILL", nursery())
    pool:close()
    assert.is_true(pool:join(10))
    pool = mp.Pool(2)
    local result = pool:apply_async(mp.sleep, { 30 })
    signal("KILL", nursery())
    pool:terminate()
    assert.is_true(pool:join(0))
    fails("terminated", function() result:get() end)
  end)

  it("what had been submitted is done before join returns", function()
    local pool = mp.Pool(2)
    local begun = mp.Event()
    local result = pool:map_async(function(x)
      if x == 1 then begun:set() end
      mp.sleep(0.002)
      return x * x
    end, range(100), { retries = 3 })
    pool:close()
    assert(begun:wait(10))
    signal("KILL", nursery())
    assert.is_true(pool:join(15))
    assert.same(squares(100), result:get(0))
  end)

  it("and its workers had stopped, they go all the same", function()
    local pool <close> = mp.Pool(2)
    pool:apply(pid)
    local list = workers()
    for _, worker in ipairs(list) do signal("STOP", worker) end
    signal("KILL", nursery())
    assert.equal(9, pool:apply(square, { 3 }))
    for _, worker in ipairs(list) do assert.is_true(gone(worker)) end
  end)
end)

-- The owner ------------------------------------------------------------------------------

describe("When the owner of a pool", function()
  -- Prints its own pid and those of workers and nursery, says "ready", and does what `text` says.
  local prelude = [[
    local mp = require "mp"
    local pool = mp.Pool(2)
    local gate = mp.Barrier(2)
    local pids = pool:map(function() gate:wait() return mp.getpid() end, { 1, 2 }, { chunksize = 1 })
    local stat = io.open("/proc/" .. pids[1] .. "/stat"):read("a")
    io.write(mp.getpid(), " ", table.concat(pids, " "), " ", stat:match("^.*%) %a (%d+)"), " ready\n")
    io.stdout:flush()
  ]]

  -- Runs such a script in a session of its own, signals it (target: "" or "-" for its whole
  -- group), and returns stderr, exit code and stdout.
  local function signalled(name, target, text)
    local path = T.tmpname()
    local f = assert(io.open(path, "w"))
    f:write(prelude, text)
    f:close()
    local out, code = T.shell(([[
      timeout -s KILL 12 setsid %s %s >%s.out 2>%s.err & job=$!
      while ! grep -qs ready %s.out; do sleep 0.02; done
      sleep 0.1
      read -r main rest <%s.out
      kill -%s %s$main; wait $job; echo "code $?"
    ]]):format(T.quote(T.exe), path, path, path, path, path, name, target))
    assert.equal(0, code)
    local printed, err = T.read(path .. ".out"), T.read(path .. ".err")
    for _, ending in ipairs { "", ".out", ".err" } do os.remove(path .. ending) end
    local n = 0
    for p in printed:match("^[^\n]*"):gmatch("%d+") do
      n = n + 1
      assert.is_true(T.wait_until(function() return not T.alive(tonumber(p)) end, 2),
        "process " .. p .. " is left")
    end
    assert.equal(4, n)
    return err, tonumber(out:match("code (%d+)")), printed:match("\n(.*)$")
  end

  it("is killed, nothing of it is left", function()
    local _, code = signalled("KILL", "", "pool:map(mp.sleep, { 30, 30, 30 })")
    assert.equal(137, code)
    _, code = signalled("KILL", "", "while true do end")
    assert.equal(137, code)
    _, code = signalled("TERM", "", "pool:map(function() while true do end end, { 1, 2, 3 })")
    assert.equal(143, code)
  end)

  local calls = {
    { "map", "pool:map(mp.sleep, { 30, 30, 30 })" },
    { "a map that computes", "pool:map(function() while true do end end, { 1, 2, 3 })" },
    { "apply", "pool:apply(mp.sleep, { 30 })" },
    { "get", "pool:apply_async(mp.sleep, { 30 }):get()" },
    { "wait", "mp.wait({ pool:apply_async(mp.sleep, { 30 }) })" },
    { "imap", "for _ in pool:imap(mp.sleep, { 30, 30 }) do end" },
    { "join", "pool:apply_async(mp.sleep, { 30 }) pool:close() pool:join()" },
    { "a loop of small maps", "while true do pool:map(math.abs, { 1, 2, 3 }) end" },
  }
  for _, case in ipairs(calls) do
    it("gets Ctrl-C in " .. case[1] .. ", it says so once, its workers nothing", function()
      local err, code = signalled("INT", "-", case[2])
      assert.equal(1, code)
      local _, n = err:gsub("interrupted!", "")
      assert.equal(1, n, err)
      assert.matches("^[^\n]*mplua: [^\n]*interrupted!\nstack traceback:", err)
      assert.is_nil(err:find("PoolWorker", 1, true))
    end)
  end

  it("catches Ctrl-C, the pool is usable as before", function()
    local err, code, out = signalled("INT", "-", [[
      print(pcall(pool.map, pool, function(x) mp.sleep(0.6) return x end, { 1, 2 }))
      print(table.concat(pool:map(math.abs, { -1, -2 }), " "))
      local same = pool:map(function() gate:wait() return mp.getpid() end, { 1, 2 }, { chunksize = 1 })
      table.sort(pids) table.sort(same)
      print(pids[1] == same[1] and pids[2] == same[2])
      pool:close()
      print(pool:join(10))
    ]])
    assert.equal("", err)
    assert.equal(0, code)
    assert.matches("^false\t[^\n]*interrupted!\n1 2\ntrue\ntrue\n$", out)
  end)

  it("gets Ctrl-C with nested pools, all is gone", function()
    local err, code = signalled("INT", "-", [[
      pool:map(function()
        local inner <close> = mp.Pool(2)
        inner:map(mp.sleep, { 30, 30 })
      end, { 1, 2 })
    ]])
    assert.equal(1, code)
    local _, n = err:gsub("interrupted!", "")
    assert.equal(1, n, err)
  end)

  it("is itself a worker that is killed, its pool goes with it", function()
    local pool <close> = mp.Pool(1)
    local inner = mp.Queue()
    local result = pool:apply_async(function()
      local p = mp.Pool(2)
      local gate = mp.Barrier(2)
      inner:put(p:map(function() gate:wait() return mp.getpid() end, { 1, 2 }, { chunksize = 1 }))
      die()
    end)
    fails("signal 9", function() result:get(10) end)
    for _, p in ipairs(inner:get(5)) do assert.is_true(gone(p)) end
  end)
end)

-- Chaos -------------------------------------------------------------------------------------

describe("Chaos", function()
  local seconds = tonumber(os.getenv "MPLUA_CHAOS_SECONDS") or 3

  -- Kills workers of the pool at random (and now and then stops one for a while), and its
  -- nursery every `every` kills, until it is told to end. Returns a function that ends it and
  -- gives the number of kills.
  local function killer(every)
    local owner, stop, kills = mp.getpid(), mp.Event(), mp.Value("i", 0)
    local me = W.child(function()
      local own = mp.getpid()
      while not stop:wait(math.random() * 0.03) do
        for _, from in ipairs(children(owner)) do
          if from ~= own then
            local list = children(from)
            local victim = list[math.random(math.max(#list, 1))]
            if every and kills.value % every == every - 1 then victim = from end
            if victim and math.random() < 0.1 and victim ~= from then
              signal("STOP", victim)
              mp.sleep(0.005)
              signal("CONT", victim)
            elseif victim then
              signal("KILL", victim)
              kills:add(1)
            end
          end
        end
      end
    end)
    return function()
      stop:set()
      W.finish(me)
      return kills.value
    end
  end

  local function work(x)
    local sum = 0
    for i = 1, 2000 do sum = sum + (i * x) % 7 end
    return { x, sum, ("r"):rep(x % 50) }
  end

  local function rounds(share, round)
    local limit = mp.monotonic() + seconds * share
    T.limit(seconds * share + 20)
    local n = 0
    repeat
      round()
      n = n + 1
    until mp.monotonic() > limit
    return n
  end

  it("of killed workers changes no result of a map", function()
    local expected = range(400, work)
    local pool <close> = mp.Pool { processes = 4, retries = 1000 }
    local stop = killer()
    rounds(0.4, function() assert.same(expected, pool:map(work, range(400))) end)
    rounds(0.2, function()
      assert.same(expected, pool:map_async(work, range(400), { chunksize = math.random(40) }):get(15))
    end)
    assert.is_true(stop() > 3 * seconds)
  end)

  it("of killed workers changes no result of imap, nor loses what results carry", function()
    local pool <close> = mp.Pool { processes = 3, retries = 1000 }
    local stop = killer()
    rounds(0.2, function()
      local n = 0
      for i, v in pool:imap(function(x)
        local value = mp.Value("i", x)
        return { value, ("s"):rep(x * 100) }
      end, range(100), { chunksize = math.random(10) }) do
        n = n + 1
        assert.same({ n, n, n * 100 }, { i, v[1].value, #v[2] })
      end
      assert.equal(100, n)
      collectgarbage()
    end)
    assert.is_true(stop() > 0)
  end)

  it("of a killed nursery changes nothing either", function()
    local expected = range(100, work)
    local pool <close> = mp.Pool { processes = 2, retries = 1000 }
    local stop = killer(7)
    rounds(0.2, function() assert.same(expected, pool:map(work, range(100))) end)
    assert.is_true(stop() > 0)
  end)

  it("of pools that are made and ended leaves nothing", function()
    local stop = killer()
    rounds(0.2, function()
      local pool <close> = mp.Pool { processes = 2, retries = 1000 }
      local list = pool:map_async(work, range(20))
      if math.random() < 0.5 then
        pool:close()
        assert.is_true(pool:join(15))
        assert.equal(20, #list:get(0))
      end
    end)
    stop()
  end)
end)
