-- Locks and queues, local ones and those of a manager: the same body runs for both twins.
local T = require "spec.helper"
local mp = require "mp"

local start, finish = T.start, T.finish

--- Runs the body for objects of mp and for those of a manager.
local function twins(name, body)
  describe(name .. " of mp", function()
    body(function(kind, ...) return mp[kind](...) end)
  end)
  describe(name .. " of a manager", function()
    local manager
    before_each(function() manager = mp.Manager() end)
    after_each(function()
      manager:shutdown()
      manager = nil
    end)
    body(function(kind, ...) return manager[kind](manager, ...) end)
  end)
end

--- Starts a process that does `f(...)` and is killed once that has returned.
local function killed_after(f, ...)
  local done = mp.Event()
  local p = start(function(...)
    f(...)
    done:set()
    mp.sleep(100)
  end, ...)
  assert.is_true(done:wait(10))
  p:kill()
  assert(p:join(10))
  p:close()
end

--- Starts a process that waits in `f(...)`, and kills it there.
local function killed_in(f, seen, ...)
  local p = start(f, ...)
  assert.is_true(T.wait_until(seen, 10))
  p:kill()
  assert(p:join(10))
  p:close()
end

local function fails(pattern, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(message))
end

for _, kind in ipairs { "Lock", "RLock" } do
  twins("a " .. kind, function(make)
    it("is held by one process at a time", function()
      local lock = make(kind)
      assert.is_true((lock:acquire()))
      assert.is_true(lock:locked())
      local p = start(function()
        assert(lock:acquire(0) == false)
        assert(lock:acquire(0.02) == false)
        assert(not pcall(lock.release, lock))
      end)
      assert.equal(0, finish(p))
      lock:release()
      assert.is_false(lock:locked())
    end)

    it("is handed to who waits", function()
      local lock, order = make(kind), mp.Queue()
      lock:acquire()
      local p = start(function()
        order:put "waits"
        lock:acquire()
        order:put "has it"
        lock:release()
      end)
      assert.equal("waits", order:get(10))
      assert.is_nil((order:get(0.05)))
      lock:release()
      assert.equal("has it", order:get(10))
      assert.equal(0, finish(p))
    end)

    it("cannot be released by who does not hold it", function()
      local lock = make(kind)
      fails("not held by this process", function() lock:release() end)
    end)

    it("is released by with and guard, also when an error leaves them", function()
      local lock = make(kind)
      assert.same({ 3, "x" }, { lock:with(function(a, b)
        assert.is_true(lock:locked())
        return a, b
      end, 3, "x") })
      assert.is_false(lock:locked())
      fails("oops", function() lock:with(function() error "oops" end) end)
      assert.is_false(lock:locked())
      do
        local _ <close> = lock:guard()
        assert.is_true(lock:locked())
      end
      assert.is_false(lock:locked())
      fails("function", function() lock:with(5) end)
    end)

    it("gives up a guard at the end of the time", function()
      local lock = make(kind)
      lock:acquire()
      local p = start(function()
        local guard, why = lock:guard(0.02)
        assert(guard == nil and why == "timeout")
      end)
      assert.equal(0, finish(p))
      lock:release()
    end)

    it("goes to the next when its holder is killed, and says so once", function()
      local lock = make(kind)
      killed_after(function() lock:acquire() end)
      local ok, how = lock:acquire(10)
      assert.is_true(ok)
      assert.equal("abandoned", how)
      lock:release()
      assert.same({ true }, { lock:acquire(10) })
      lock:release()
    end)

    it("takes no notice of a waiter that was killed", function()
      local lock, near = make(kind), mp.Event()
      lock:acquire()
      killed_in(function()
        near:set()
        lock:acquire()
      end, function() return near:is_set() end)
      lock:release()
      assert.is_true((lock:acquire(10)))
      lock:release()
    end)
  end)
end

twins("an RLock", function(make)
  it("is taken again by who holds it, and released as often", function()
    local lock = make "RLock"
    lock:acquire()
    assert.is_true((lock:acquire(0)))
    lock:release()
    assert.is_true(lock:locked())
    lock:release()
    assert.is_false(lock:locked())
    fails("not held", function() lock:release() end)
  end)
end)

twins("a Semaphore", function(make)
  it("is given several permits at once, as far as its value goes", function()
    for _, kind in ipairs { "Semaphore", "BoundedSemaphore" } do
      local s = make(kind, 5)
      for _ = 1, 5 do s:acquire() end
      s:release(3)
      assert.equal(3, s:get_value())
      s:release(2)
      fails("mp%." .. kind .. " ", s.release, s, 2147483645)
      fails("number of permits expected, at least 1", s.release, s, 0)
      fails("number expected, got string", s.release, s, "x")
      assert.equal(5, s:get_value())
      for _, bad in ipairs { -1, 1.5, "x", 1 << 31 } do assert.is_false((pcall(make, kind, bad))) end
      local down, up = make(kind, 3), mp.Queue()
      for _ = 1, 3 do down:acquire() end
      local ps = {}
      for i = 1, 2 do
        ps[i] = start(function()
          up:put(i)
          assert(down:acquire(10))
        end)
      end
      for _ = 1, 2 do up:get(10) end
      down:release(3)
      for i = 1, 2 do assert.equal(0, finish(ps[i])) end
      assert.equal(1, down:get_value())
    end
  end)

  it("lets in as many as it has permits", function()
    local s = make("Semaphore", 2)
    assert.equal(2, s:get_value())
    assert.is_true(s:acquire())
    assert.is_true(s:acquire(0))
    assert.is_true(s:locked())
    assert.is_false(s:acquire(0))
    assert.is_false(s:acquire(0.02))
    local p = start(function() s:release() end) -- anybody may
    assert.is_true(s:acquire(10))
    assert.equal(0, finish(p))
  end)

  it("begins with one permit, and takes no bad number of them", function()
    assert.equal(1, make("Semaphore"):get_value())
    for _, bad in ipairs { -1, 1.5, "x", {} } do
      assert.is_false((pcall(make, "Semaphore", bad)))
    end
  end)

  it("does not go over its bound when it has one", function()
    local s = make("BoundedSemaphore", 1)
    fails("above its initial value %(1%)", function() s:release() end)
    s:acquire()
    s:release()
    assert.equal(1, s:get_value())
  end)

  it("gets the permits of guards back from who was killed, not those of a bare acquire", function()
    local s = make("Semaphore", 3)
    killed_after(function()
      s:acquire()
      s:guard()
      s:guard()
    end)
    assert.is_true(T.wait_until(function() return s:get_value() == 2 end, 10))
    assert.is_true(s:with(function() return s:get_value() == 1 end))
    assert.equal(2, s:get_value())
  end)
end)

twins("an Event", function(make)
  it("wakes all who wait", function()
    local event, up = make "Event", mp.Queue()
    assert.is_false(event:is_set())
    assert.is_false(event:wait(0))
    assert.is_false(event:wait(0.02))
    local ps = {}
    for i = 1, 3 do
      ps[i] = start(function()
        up:put(i)
        assert(event:wait(10))
      end)
    end
    for _ = 1, 3 do assert.is_truthy(up:get(10)) end
    event:set()
    for i = 1, 3 do assert.equal(0, finish(ps[i])) end
    assert.is_true(event:wait())
    event:clear()
    assert.is_false(event:is_set())
  end)
end)

twins("a Condition", function(make)
  it("wakes one by notify, all by notify_all", function()
    local c, up, woken = make "Condition", mp.Queue(), mp.Value("i", 0)
    local ps = {}
    for i = 1, 4 do
      ps[i] = start(function()
        c:with(function()
          up:put(i)
          assert(c:wait(10))
          woken:add(1)
        end)
      end)
    end
    for _ = 1, 4 do assert.is_truthy(up:get(10)) end
    c:with(function() c:notify() end)
    assert.is_true(T.wait_until(function() return woken.value == 1 end, 10))
    c:with(function() c:notify(1) end)
    assert.is_true(T.wait_until(function() return woken.value == 2 end, 10))
    c:with(function() c:notify_all() end)
    for i = 1, 4 do assert.equal(0, finish(ps[i])) end
  end)

  it("wants its lock held", function()
    local c = make "Condition"
    fails("must be held", function() c:wait(0) end)
    fails("must be held", function() c:notify() end)
    fails("must be held", function() c:notify_all() end)
  end)

  it("holds the lock again when the time is over, as deep as before", function()
    local c = make "Condition"
    c:acquire()
    c:acquire()
    assert.is_false(c:wait(0.02))
    c:release()
    c:release()
    fails("not held", function() c:release() end)
  end)

  it("shares a lock that it was given", function()
    local lock = make "Lock"
    local c = make("Condition", lock)
    lock:acquire()
    assert.is_false(c:wait(0.01))
    lock:release()
    assert.is_false((pcall(make, "Condition", 5)))
  end)

  it("waits for what a function says", function()
    local c, v = make "Condition", mp.Value("i", 0)
    local p = start(function()
      for _ = 1, 3 do
        c:with(function()
          v:add(1)
          c:notify_all()
        end)
      end
    end)
    assert.is_truthy(c:with(function() return c:wait_for(function() return v.value == 3 end, 10) end))
    assert.equal("three", c:with(function() return c:wait_for(function() return "three", 3 end, 10) end))
    assert.is_nil(c:with(function() return c:wait_for(function() end, 0.02) end))
    local tries = 0
    assert.equal("at last", c:with(function()
      return c:wait_for(function()
        tries = tries + 1
        return tries == 2 and "at last"
      end, 0)
    end))
    fails("must be held", c.wait_for, c, function() return true end)
    assert.is_falsy(c:with(function() return c:wait_for(function() return false end, 0.02) end))
    assert.equal(0, finish(p))
  end)

  it("loses no notification with a waiter that was killed", function()
    local c, up = make "Condition", mp.Queue()
    local function waiter(what)
      c:with(function()
        up:put "waits"
        c:wait(10)
        up:put(what)
      end)
    end
    local doomed = start(waiter, "doomed")
    assert.equal("waits", up:get(10))
    c:with(function() end) -- it has let the lock go: it waits
    local other = start(waiter, "other")
    assert.equal("waits", up:get(10))
    c:with(function() end)
    doomed:kill()
    assert(doomed:join(10))
    doomed:close()
    c:with(function() c:notify() end)
    assert.equal("other", up:get(10))
    assert.equal(0, finish(other))
  end)
end)

twins("a Barrier", function(make)
  it("lets its parties go together, each with its place", function()
    local b, out = make("Barrier", 3), mp.Queue()
    local ps = {}
    for i = 1, 3 do ps[i] = start(function() out:put(b:wait(10)) end) end
    local places = {}
    for _ = 1, 3 do places[#places + 1] = out:get(10) end
    table.sort(places)
    assert.same({ 1, 2, 3 }, places)
    for i = 1, 3 do assert.equal(0, finish(ps[i])) end
    assert.equal(3, b.parties)
    assert.equal(0, b.n_waiting)
    assert.is_false(b.broken)
  end)

  it("breaks when the time is over, by abort, and is mended by reset", function()
    local b = make("Barrier", 2)
    assert.same({ nil, "broken" }, { b:wait(0.02) })
    assert.is_true(b.broken)
    assert.same({ nil, "broken" }, { b:wait() })
    b:reset()
    assert.is_false(b.broken)
    b:abort()
    assert.is_true(b.broken)
  end)

  it("breaks when a party is killed", function()
    local b = make("Barrier", 3)
    local out = mp.Queue()
    local p = start(function() out:put(select(2, b:wait(10))) end)
    assert.is_true(T.wait_until(function() return b.n_waiting == 1 end, 10))
    killed_in(function() b:wait() end, function() return b.n_waiting == 2 end)
    assert.equal("broken", out:get(10))
    assert.equal(0, finish(p))
    assert.is_true(b.broken)
  end)

  it("wants a number of parties, an action that can be called, and a time", function()
    for _, bad in ipairs { 0, -1, "x", 1.5, 4096, 1 << 40 } do assert.is_false((pcall(make, "Barrier", bad))) end
    fails("number of parties expected, from 1 to 4095", make, "Barrier", 4096)
    fails("bad argument #2 .*function expected, got table", make, "Barrier", 1, {})
    fails("bad argument #3 .*number of seconds or nil expected, got string", make, "Barrier", 1, nil, "x")
    fails("NaN", make, "Barrier", 1, nil, 0 / 0)
    local called = mp.Value("i", 0)
    local action = setmetatable({ v = called }, { __call = function(self) self.v:add(1) end })
    assert.equal(1, make("Barrier", 1, action):wait(10))
    assert.equal(1, called.value)
  end)
end)

for _, kind in ipairs { "Queue", "JoinableQueue" } do
  twins("a " .. kind, function(make)
    it("gives items in their order", function()
      local q = make(kind)
      for i = 1, 5 do assert.is_true(q:put(i)) end
      assert.equal(5, q:qsize())
      for i = 1, 5 do assert.equal(i, q:get()) end
      assert.is_true(q:empty())
      assert.same({ nil, "empty" }, { q:get(0) })
      assert.same({ nil, "empty" }, { q:get(0.02) })
      assert.same({ nil, "empty" }, { q:get_nowait() })
    end)

    it("has a bound", function()
      local q = make(kind, 2)
      q:put "a"
      assert.is_false(q:full())
      q:put_nowait "b"
      assert.is_true(q:full())
      assert.same({ nil, "full" }, { q:put("c", 0.02) })
      assert.same({ nil, "full" }, { q:put_nowait "c" })
      local p = start(function() assert(q:put("d", 10)) end)
      assert.equal("a", q:get(10))
      assert.equal("b", q:get(10))
      assert.equal("d", q:get(10))
      assert.equal(0, finish(p))
      assert.is_false((pcall(make, kind, -1)))
      assert.is_false((pcall(make, kind, "x")))
    end)

    it("ends for all by shutdown", function()
      local q = make(kind)
      q:put(1)
      q:shutdown()
      assert.same({ nil, "closed" }, { q:put(2) })
      local seen = {}
      for item in q:items() do seen[#seen + 1] = item end
      assert.same({ 1 }, seen)
      assert.same({ nil, "closed" }, { q:get() })
    end)

    it("wakes who waits in it by shutdown", function()
      local q, near = make(kind), mp.Event()
      local p = start(function()
        near:set()
        local item, why = q:get()
        assert(item == nil and why == "closed")
      end)
      assert.is_true(near:wait(10))
      q:shutdown()
      assert.equal(0, finish(p))
    end)

    it("takes many and gives many", function()
      local q = make(kind, 4)
      assert.equal(3, (q:put_many { 1, 2, 3 }))
      assert.same({ 1, "full" }, { q:put_many({ 4, 5, 6 }, 0.02) })
      assert.same({ 1, 2, 3, 4 }, q:get_many(10))
      assert.same({ nil, "empty" }, { q:get_many(3, 0) })
    end)

    it("refuses nil", function()
      local q = make(kind)
      fails("nil", function() q:put(nil) end)
      assert.is_true(q:empty())
    end)

    it("is joined when all items are marked done", function()
      local q = make(kind)
      assert.is_true((q:join(0)))
      q:put(1)
      q:put(2)
      assert.is_false((q:join(0.02)))
      local p = start(function()
        for _ = 1, 2 do
          q:get(10)
          q:task_done()
        end
      end)
      assert.is_true((q:join(10)))
      assert.equal(0, finish(p))
      fails("more often than items were put", function() q:task_done() end)
    end)

    it("is joined although who had an item was killed", function()
      local q = make(kind)
      q:put(1)
      killed_after(function() q:get() end)
      assert.same({ true, "abandoned" }, { q:join(10) })
      assert.same({ true }, { q:join(10) })
    end)

    it("is shared by many producers and consumers, each item once", function()
      local q, out = make(kind, 8), mp.Queue()
      local ps = {}
      for i = 1, 3 do
        ps[#ps + 1] = start(function()
          for k = 1, 50 do q:put(i * 1000 + k) end
        end)
        ps[#ps + 1] = start(function()
          for _ = 1, 50 do out:put(q:get(10)) end
        end)
      end
      local seen = {}
      for _ = 1, 150 do
        local item = out:get(10)
        assert.is_nil(seen[item])
        seen[item] = true
      end
      for _, p in ipairs(ps) do assert.equal(0, finish(p)) end
      assert.is_true(q:empty())
    end)

    it("hands no item to a waiter that was killed", function()
      local q, near = make(kind), mp.Event()
      for _ = 1, 5 do
        near:clear()
        killed_in(function()
          near:set()
          q:get()
        end, function() return near:is_set() end)
        q:put "item"
        assert.is_true(T.wait_until(function() return q:qsize() == 1 end, 10))
        assert.equal("item", q:get(10))
      end
    end)
  end)
end

describe("a manager's Lock", function()
  -- Whether a process waits for a reply, which is a queue of its own.
  local function is_waiting(pid)
    for _, p in ipairs(mp.arena().processes) do
      if p.pid == pid then return p.waits == "get" end
    end
  end

  it("tells the next that its owner died, when who was told died before it knew", function()
    local manager <close> = mp.Manager()
    local lock, up = manager:Lock(), mp.Event()
    local owner = start(function()
      lock:acquire()
      up:set()
      mp.sleep(100)
    end)
    assert.is_true(up:wait(10))
    local told = start(function()
      lock:acquire()
      mp.sleep(100)
    end)
    assert.is_true(T.wait_until(function() return is_waiting(told.pid) end, 10))
    T.shell("kill -STOP " .. told.pid)
    for _, p in ipairs { owner, told } do
      p:kill()
      assert(p:join(10))
      p:close()
      mp.sleep(0.5) -- the server looks, and gives the lock to the next
    end
    assert.same({ true, "abandoned" }, { lock:acquire(10) })
  end)
end)
