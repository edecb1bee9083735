-- The local engine: a nursery and the workers that it forks, below the pool's policy.

local T = require "spec.helper"
local mp = require "mp"
local core = require "mp.core"
local engine = require "mp.engine"

local SIGCONT, SIGINT, SIGKILL, SIGSTOP = 18, 2, 9, 19

-- An engine that is terminated at the end of its scope, with what tests need of it.
local Bench = {}
Bench.__index = Bench
Bench.__close = function(self) self.engine:terminate() end

local function bench(options)
  options = type(options) == "number" and { processes = options } or options
  return setmetatable({ engine = engine.new(options), jobs = {}, njobs = 0 }, Bench)
end

-- Submits tasks f(items[1]), f(items[2]), …; a job.
function Bench:submit(f, items, chunk)
  self.njobs = self.njobs + 1
  local job = { id = self.njobs, left = #items,
    out = {}, errors = {}, lost = {}, returned = {} }
  self.jobs[job.id] = job
  job.handle = self.engine:open(f, { id = job.id })
  assert.equal(#items, self.engine:submit(job.handle, items, 1, #items, chunk or 1))
  return job
end

-- Takes reports until every task of a job has come to an end.
function Bench:settle(job)
  while job.left > 0 do
    local kind, id, first, count, _ = self.engine:take(self.jobs, 10)
    assert(kind, "no report for 10 s")
    assert.not_equal("failed", kind)
    local of = self.jobs[id]
    if of then of.left = of.left - count end
    if of and of[kind] then
      for k = first, first + count - 1 do of[kind][#of[kind] + 1] = k end
    end
  end
  self.engine:cancel(job.handle)
  return job.out
end

function Bench:call(f, items, chunk) return self:settle(self:submit(f, items, chunk)) end

-- The pid of the nursery, seen from a worker's stat.
local function ppid_of(pid)
  return tonumber(T.read(("/proc/%d/stat"):format(pid)):match("^.*%) %a (%d+)"))
end

local function signal(pid, number) os.execute(("kill -%d %d"):format(number, pid)) end

local function worker_pid() return mp.getpid() end

-- As many pids as there are workers.
local function pids_of(b, n)
  local started = mp.Barrier(n)
  local items = {}
  for i = 1, n do items[i] = i end
  return b:call(function()
    started:wait(10)
    return mp.getpid()
  end, items)
end

describe("the local engine", function()
  it("runs tasks in its workers", function()
    local b <close> = bench(2)
    assert.same({ 1, 4, 9, 16 }, b:call(function(x) return x * x end, { 1, 2, 3, 4 }))
  end)

  it("runs the initializer in every worker, with its arguments", function()
    local b <close> = bench {
      processes = 2, initargs = { "a", nil, "c", n = 3 },
      initializer = function(...) package.loaded.given = table.pack(...) end,
    }
    local out = b:call(function() return package.loaded.given end, { 1, 2 })
    assert.same({ "a", nil, "c", n = 3 }, out[1])
  end)

  it("has nothing to tell when the time-out is over", function()
    local b <close> = bench(1)
    local began = mp.monotonic()
    assert.is_nil(b.engine:take({}, 0))
    assert.is_nil(b.engine:take({}, 0.3))
    assert.is_true(mp.monotonic() - began >= 0.3)
  end)

  it("keeps its processes out of sight, and out of the names", function()
    local before = tonumber(mp.Process(print).name:match("%d+$"))
    local b <close> = bench(2)
    pids_of(b, 2)
    assert.same({}, mp.active_children())
    assert.equal("Process-" .. before + 1, mp.Process(print).name)
  end)

  it("names its workers one after the other, a replacement as its predecessor", function()
    local b <close> = bench { processes = 1, maxtasksperchild = 1 }
    local out = b:call(function()
      return { mp.current_process().name, mp.getpid() }
    end, { 1, 2, 3 })
    assert.matches("^PoolWorker%-%d+$", out[1][1])
    assert.equal(out[1][1], out[3][1])
    assert.not_equal(out[1][2], out[2][2])
  end)

  it("is the parent of its workers, for them", function()
    local b <close> = bench(1)
    local out = b:call(function()
      local parent = mp.parent_process()
      return { parent.pid, parent.name, parent:is_alive() }
    end, { 1 })
    assert.same({ mp.getpid(), "MainProcess", true }, out[1])
  end)

  it("leaves the random stream of its owner alone, and gives each worker its own", function()
    math.randomseed(42)
    local a = math.random(0)
    math.randomseed(42)
    local b <close> = bench(2)
    local started = mp.Barrier(2)
    local out = b:call(function()
      started:wait(10)
      return math.random(0)
    end, { 1, 2 })
    assert.equal(a, math.random(0))
    assert.not_equal(out[1], out[2])
  end)

  it("makes jobs of functions that were made after it", function()
    local b <close> = bench(1)
    local n = 5
    local function fact(k) return k < 2 and 1 or k * fact(k - 1) end
    assert.same({ 125 }, b:call(function(x) return fact(n) + x end, { 5 }))
  end)

  it("raises when a function cannot be marshalled", function()
    local b <close> = bench(1)
    local co = coroutine.create(print)
    local ok, err = pcall(function() b:submit(function() return co end, { 1 }) end)
    assert.is_false(ok)
    assert.matches("cannot marshal a thread at upvalue 'co' of value$", err)
  end)

  it("drops what was not begun of a job that is cancelled", function()
    local b <close> = bench(1)
    local gate, ran = mp.Semaphore(0), mp.Value("i", 0)
    local job = b:submit(function()
      ran:add(1)
      gate:acquire(10)
    end, { 1, 2, 3, 4, 5 })
    T.wait_until(function() return ran.value == 1 end)
    b.engine:cancel(job.handle)
    b.jobs[job.id] = nil
    for _ = 1, 5 do gate:release() end
    assert.same({ 7 }, b:call(function(x) return x end, { 7 }))
    assert.equal(1, ran.value)
  end)

  it("works in its own workers, and in Processes", function()
    local b <close> = bench(1)
    local inner = function(x)
      local eng = require("mp.engine").new { processes = 2 }
      local jobs = { { out = {}, errors = {} } }
      local name = function(y) return { y * 2, mp.current_process().name } end
      eng:submit(eng:open(name, { id = 1 }), { x }, 1, 1, 1)
      assert(eng:take(jobs, 10) == "results")
      eng:terminate()
      return jobs[1].out[1]
    end
    local out = b:call(inner, { 21 })
    assert.equal(42, out[1][1])
    assert.matches("^PoolWorker%-%d+:[12]$", out[1][2])
    local q = mp.Queue()
    local p <close> = mp.Process { target = function() q:put(inner(4)) end, name = "p" }
    p:start()
    local got = q:get(10)
    assert.equal(8, got[1])
    assert.matches("^PoolWorker%-%d+:[12]$", got[2])
  end)

  describe("ends", function()
    it("when it is closed and everything is done", function()
      local b <close> = bench(2)
      local job = b:submit(function(x) return x + 1 end, { 1, 2, 3, 4, 5 })
      b.engine:close()
      assert.same({ 2, 3, 4, 5, 6 }, b:settle(job))
      assert.is_true(b.engine:join(10))
      assert.same({}, T.children())
    end)

    it("when it is closed, with workers that retire", function()
      local b <close> = bench { processes = 2, maxtasksperchild = 1 }
      local job = b:submit(worker_pid, { 1, 2, 3, 4, 5, 6, 7 })
      b.engine:close()
      local seen = {}
      for _, pid in ipairs(b:settle(job)) do
        assert.is_nil(seen[pid])
        seen[pid] = true
      end
      assert.is_true(b.engine:join(10))
    end)

    it("when it is closed at once", function()
      for _ = 1, 20 do
        local b <close> = bench(2)
        b.engine:close()
        assert.is_true(b.engine:join(10))
      end
    end)

    it("not before its workers have", function()
      local b <close> = bench(2)
      local gate = mp.Semaphore(0)
      local job = b:submit(function() return gate:acquire(10) end, { 1 })
      b.engine:close()
      assert.is_false(b.engine:join(0))
      assert.is_false(b.engine:join(0.05))
      gate:release()
      assert.same({ true }, b:settle(job))
      assert.is_true(b.engine:join(10))
    end)

    it("with the exit hooks and the buffered output of its workers", function()
      local result = T.mplua [[
        local _, engine = require "mp", require "mp.engine"
        local e = engine.new{ processes = 1 }
        io.write("owner ")
        local jobs = { { out = {}, errors = {} } }
        local h = e:open(function() io.write("worker ") end, { id = 1 })
        e:submit(h, { 1 }, 1, 1, 1)
        e:take(jobs, 10)
        e:close()
        e:join(10)
      ]]
      assert.equal("", result.err)
      local words = {}
      for word in result.out:gmatch("%S+") do words[#words + 1] = word end
      table.sort(words)
      assert.same({ "owner", "worker" }, words)
    end)

    it("at once when it is terminated, whatever its workers do", function()
      local b <close> = bench(3)
      local busy = mp.Semaphore(0)
      b:submit(function()
        busy:release()
        while true do end
      end, { 1, 2 })
      busy:acquire(10)
      busy:acquire(10)
      b.engine:terminate()
      assert.same({}, T.children())
    end)

    it("when it is terminated before it has begun", function()
      for _ = 1, 20 do engine.new{ processes = 3 }:terminate() end
      assert.same({}, T.children())
    end)

    it("when it is terminated with a worker that was stopped", function()
      local b <close> = bench(1)
      local pid = b:call(worker_pid, { 1 })[1]
      signal(pid, SIGSTOP)
      b.engine:terminate()
      assert.is_false(T.alive(pid))
    end)

    it("when it is terminated with a nursery that was killed", function()
      local b <close> = bench(2)
      local pid = b:call(worker_pid, { 1 })[1]
      signal(ppid_of(pid), SIGKILL)
      b.engine:terminate()
      assert.is_false(T.alive(pid))
    end)

    it("when it is closed with a nursery that was killed", function()
      local b <close> = bench(2)
      local pid = b:call(worker_pid, { 1 })[1]
      b.engine:close()
      signal(ppid_of(pid), SIGKILL)
      assert.is_true(b.engine:join(10))
      assert.is_false(T.alive(pid))
    end)

    it("when its owner is killed", function()
      local q = mp.Queue()
      local p <close> = mp.Process(function()
        local b = bench(2)
        local pids = pids_of(b, 2)
        pids[3] = ppid_of(pids[1])
        q:put(pids)
        mp.sleep(30)
      end)
      p:start()
      local pids = q:get(10)
      p:kill()
      for _, pid in ipairs(pids) do
        assert.is_true(T.wait_until(function() return not T.alive(pid) end))
      end
    end)

    it("never in a process that has inherited it", function()
      local b <close> = bench(1)
      local p <close> = mp.Process(function()
        b.engine:close()
        b.engine:terminate()
      end)
      p:start()
      assert.is_true(p:join(10))
      assert.equal(0, p.exitcode)
      assert.same({ 3 }, b:call(function(x) return x end, { 3 }))
    end)
  end)

  describe("replaces", function()
    it("a worker that is killed, and tells of its task", function()
      local b <close> = bench(1)
      local job = b:submit(function(x)
        if x == 2 then os.execute("kill -KILL $PPID") end
        return x
      end, { 1, 2, 3 }, 3)
      assert.same({ 1, nil, nil }, b:settle(job))
      assert.same({ 2 }, job.lost)
      assert.same({ 3 }, job.returned)
      assert.same({ 5 }, b:call(function(x) return x end, { 5 }))
    end)

    it("workers that end by os.exit, again and again", function()
      local b <close> = bench(2)
      local items = {}
      for i = 1, 30 do items[i] = i end
      local job = b:submit(function() os.exit(3) end, items)
      b:settle(job)
      assert.equal(30, #job.lost)
    end)

    it("workers that are killed while they are idle", function()
      local b <close> = bench(2)
      for _, pid in ipairs(pids_of(b, 2)) do signal(pid, SIGKILL) end
      assert.equal(2, #pids_of(b, 2))
    end)

    it("the nursery", function()
      local b <close> = bench(2)
      local gate = mp.Semaphore(0)
      local pids = pids_of(b, 2)
      local job = b:submit(function() return gate:acquire(10) end, { 1, 2, 3, 4 })
      T.wait_until(function() return select(2, core.pool_over(b.engine.pool)) == false end)
      signal(ppid_of(pids[1]), SIGKILL)
      for _, pid in ipairs(pids) do T.wait_until(function() return not T.alive(pid) end) end
      for _ = 1, 4 do gate:release() end
      b:settle(job)
      assert.is_true(#job.lost <= 2)
      assert.is_true(job.out[3] and job.out[4])
    end)

    it("the nursery, five times in a row, and raises then", function()
      local b <close> = bench(1)
      local ok, err = pcall(function()
        for _ = 1, 7 do
          core.signal(b.engine.handle, SIGKILL)
          b.engine:take({}, 0.25)
        end
      end)
      assert.is_false(ok)
      assert.matches("the process that forks the workers of the pool was killed by signal 9, "
        .. "6 times", err)
    end)
  end)

  describe("is broken", function()
    local function failure(options)
      local b <close> = bench(options)
      local kind, err, status, pid, name = b.engine:take({}, 10)
      assert.equal("failed", kind)
      assert.matches("^PoolWorker%-", name)
      assert.is_true(pid > 0)
      b.engine:close()
      assert.is_true(b.engine:join(10))
      return err, status
    end

    it("by an initializer that raises, without a storm", function()
      local runs = mp.Value("i", 0)
      local err = failure { processes = 2, initializer = function()
        runs:add(1)
        error("no luck")
      end }
      assert.matches("engine_spec%.lua:%d+: no luck", err.message)
      assert.matches("stack traceback:.*engine_spec%.lua", err.traceback)
      assert.is_nil(err.traceback:find("mp/", 1, true))
      assert.is_true(runs.value <= 2)
    end)

    it("by an initializer that ends its process", function()
      local err, status = failure { processes = 2, initializer = function() os.exit(7) end }
      assert.is_nil(err)
      assert.equal(7, status)
    end)

    it("by an initializer that is killed, after a few attempts", function()
      local runs = mp.Value("i", 0)
      local _, status = failure { processes = 1, initializer = function()
        runs:add(1)
        os.execute("kill -KILL $PPID")
      end }
      assert.equal(-9, status)
      assert.is_true(runs.value > 1 and runs.value <= 6)
    end)

    it("when workers cannot be forked", function()
      local result = T.mplua([[
        local _, engine = require "mp", require "mp.engine"
        local process = require "mp.process"
        process.start_worker = function() error("cannot start process: no more", 0) end
        local e = engine.new{ processes = 2 }
        local kind, err = e:take({}, 10)
        print(kind, err.message)
        e:terminate()
      ]])
      assert.equal("failed\tcannot start process: no more\n", result.out)
      assert.equal("", result.err)
    end)
  end)

  describe("closes inherited connections", function()
    it("so that their other ends see the end", function()
      local a, c = mp.Pipe()
      local b <close> = bench(2)
      b:call(worker_pid, { 1 })
      c:close()
      local value, code = a:recv(10)
      assert.is_nil(value)
      assert.equal("eof", code)
      a:close()
    end)

    it("but those of the initializer and its arguments", function()
      local r1, s1 = mp.Pipe(false)
      local r2, s2 = mp.Pipe(false)
      local _ <close> = bench {
        processes = 1, initargs = { { deep = { s1 } } },
        initializer = function(t)
          t.deep[1]:send("argument")
          s2:send("upvalue")
        end,
      }
      assert.equal("argument", r1:recv(10))
      assert.equal("upvalue", r2:recv(10))
      for _, x in ipairs { r1, s1, r2, s2 } do x:close() end
    end)
  end)

  it("does not mind Ctrl-C", function()
    local b <close> = bench(2)
    local pids = pids_of(b, 2)
    signal(ppid_of(pids[1]), SIGINT)
    for _, pid in ipairs(pids) do signal(pid, SIGINT) end
    local out = pids_of(b, 2)
    table.sort(pids)
    table.sort(out)
    assert.same(pids, out)
  end)

  it("waits for a worker that was stopped", function()
    local b <close> = bench(1)
    local pid = b:call(worker_pid, { 1 })[1]
    signal(pid, SIGSTOP)
    local job = b:submit(worker_pid, { 1 })
    assert.is_nil(b.engine:take(b.jobs, 0.3))
    signal(pid, SIGCONT)
    assert.same({ pid }, b:settle(job))
  end)

  it("leaves no zombies in the nursery", function()
    local b <close> = bench(3)
    local pids = pids_of(b, 3)
    for _ = 1, 5 do
      for _, pid in ipairs(pids) do signal(pid, SIGKILL) end
      pids = pids_of(b, 3)
    end
    local nursery = ppid_of(pids[1])
    local text = T.read(("/proc/%d/task/%d/children"):format(nursery, nursery))
    local n = 0
    for _ in text:gmatch("%d+") do n = n + 1 end
    assert.equal(3, n)
  end)
end)
