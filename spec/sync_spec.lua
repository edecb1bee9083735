local T = require "spec.helper"
local mp = require "mp"

-- Runs f(...) in a process; an error in it shows as exit code 1.
local function child(f, ...)
  local p = mp.Process(f, ...)
  p:start()
  return p
end

-- Waits for the end of processes that must have ended well.
local function finish(...)
  for i, p in ipairs { ... } do
    assert.is_true(p:join(10), "process " .. i .. " does not end")
    assert.equal(0, p.exitcode)
    p:close()
  end
end

local function kill(p)
  p:kill()
  assert.is_true(p:join(10))
  assert.equal(-9, p.exitcode)
  p:close()
end

-- Waits until a process sleeps: for those that have nothing else to sleep in.
local function asleep(p)
  assert(T.wait_until(function()
    local stat = T.read(("/proc/%d/stat"):format(p.pid))
    return stat and stat:match("^.*%) (%a)") == "S"
  end))
end

local function took(f, ...)
  local start = mp.monotonic()
  f(...)
  return mp.monotonic() - start
end

-- A process that holds `lock` and says so; let go by `go`.
local function holder(lock, ready, go)
  assert(lock:acquire())
  ready:set()
  assert(go:wait(10))
  lock:release()
end

describe("Every lock", function()
  for _, name in ipairs { "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition" } do
    describe(name, function()
      local make = mp[name]

      it("is acquired and released", function()
        local l = make()
        assert.is_false(l:locked())
        assert.is_true(l:acquire())
        assert.is_true(l:locked())
        assert.is_nil(l:release())
        assert.is_false(l:locked())
        assert.is_true(l:acquire(0))
        l:release()
      end)

      it("is waited for in another process until the time is over", function()
        local l, ready, go = make(), mp.Event(), mp.Event()
        local p = child(holder, l, ready, go)
        assert.is_true(ready:wait(10))
        assert.is_false(l:acquire(0))
        assert.is_false(l:acquire(-1))
        assert.is_true(took(function() assert.is_false(l:acquire(0.1)) end) >= 0.1)
        go:set()
        assert.is_true(l:acquire(10))
        l:release()
        finish(p)
      end)

      it("wakes a process that waits", function()
        local l, ready = make(), mp.Event()
        l:acquire()
        local p = child(function()
          ready:set()
          assert(l:acquire() == true)
          l:release()
        end)
        ready:wait()
        asleep(p)
        l:release()
        finish(p)
      end)

      it("lets one in at a time", function()
        local l, n = make(), mp.RawValue("i", 0)
        local function work()
          for _ = 1, 2000 do
            l:acquire()
            n.value = n.value + 1
            l:release()
          end
        end
        local ps = {}
        for i = 1, 4 do ps[i] = child(work) end
        finish(table.unpack(ps))
        assert.equal(8000, n.value)
      end)

      it("runs a function with it and returns what that returns", function()
        local l = make()
        local r = table.pack(l:with(function(...)
          return l:locked(), ...
        end, 1, nil, "x", nil))
        assert.same({ true, 1, nil, "x", nil, n = 5 }, r)
        assert.is_false(l:locked())
        assert.equal(0, select("#", l:with(function() end)))
      end)

      it("is released when the function fails, and the error comes out untouched", function()
        local l, e = make(), {}
        local ok, what = pcall(l.with, l, function() error(e) end)
        assert.is_false(ok)
        assert.equal(e, what)
        assert.is_false(l:locked())
      end)

      it("takes any callable thing, and nothing else", function()
        local l = make()
        local callable = setmetatable({}, { __call = function(_, x) return x + 1 end })
        assert.equal(3, l:with(callable, 2))
        assert.has_error(function() l:with(5) end,
          "bad argument #1 to 'with' (function expected, got number)")
        assert.has_error(function() l:with() end)
        assert.is_false(l:locked())
      end)

      it("may be held by a function that yields", function()
        local l = make()
        local co = coroutine.wrap(function()
          return l:with(function(x) return coroutine.yield(x, l:locked()) end, 1)
        end)
        assert.same({ 1, true }, { co() })
        assert.is_true(l:locked())
        assert.equal("end", co("end"))
        assert.is_false(l:locked())
      end)

      it("is released when the coroutine that holds it is closed or collected", function()
        local l = make()
        for _, done in ipairs { coroutine.close, function() end } do
          local co = coroutine.create(function() l:with(coroutine.yield) end)
          assert(coroutine.resume(co))
          assert.is_true(l:locked())
          done(co)
          co = nil -- luacheck: ignore
          collectgarbage()
          collectgarbage()
          assert.is_false(l:locked())
        end
      end)

      it("is held by a guard to the end of its scope", function()
        local l = make()
        do
          local g <close> = l:guard()
          assert.equal("mp.Guard", mp.type(g))
          assert.is_true(l:locked())
        end
        assert.is_false(l:locked())
        pcall(function()
          local _ <close> = l:guard(1)
          error("x")
        end)
        assert.is_false(l:locked())
      end)

      it("is released once by a guard, whoever is first", function()
        local l = make()
        local g = l:guard()
        g:close()
        assert.is_false(l:locked())
        l:acquire()
        g:close()
        g = nil -- luacheck: ignore
        collectgarbage()
        assert.is_true(l:locked())
        l:release()
      end)

      it("is not held by a guard that came too late", function()
        local l, ready, go = make(), mp.Event(), mp.Event()
        local p = child(holder, l, ready, go)
        ready:wait()
        local g, code = l:guard(0.05)
        assert.is_nil(g)
        assert.equal("timeout", code)
        go:set()
        finish(p)
        assert.is_false(l:locked())
      end)

      it("is not released by a guard that was inherited", function()
        local l = make()
        local g = l:guard()
        finish(child(function() -- the parent's guard and handle are this process's too
          g:close()
          g = nil
          l = nil
          collectgarbage()
        end))
        assert.is_true(l:locked())
        g:close()
        assert.is_false(l:locked())
      end)

      it("is not closed under a guard", function()
        local l = make()
        local g = l:guard()
        assert.has_error(function() l:close() end,
          "mp." .. name .. " is in use by a guard, a with or a wait: it cannot be closed")
        g:close()
        l:close()
      end)

      it("is the same object wherever it arrives", function()
        local q, ready, go = mp.Queue(), mp.Event(), mp.Event()
        local p = child(function()
          local l = q:get()
          holder(l, ready, go)
        end)
        local l = make() -- made after the fork
        q:put(l)
        ready:wait()
        assert.is_false(l:acquire(0))
        go:set()
        finish(p)
        assert.is_true(l:acquire(0))
        q:put(l)
        assert.equal(l, q:get())
        l:release()
      end)

      it("says what is wrong", function()
        local l = make()
        assert.has_error(function() l:acquire("soon") end,
          "bad argument #1 to 'acquire' (number of seconds or nil expected, got string)")
        assert.has_error(function() l:acquire(0 / 0) end)
        assert.has_error(function() l:guard({}) end)
        assert.has_error(function() l.acquire(mp.Event()) end)
        assert.has_error(function() l.acquire() end)
        l:close()
        assert.has_error(function() l:acquire() end)
        assert.has_error(function() l:release() end)
        assert.has_error(function() l:with(print) end)
        assert.matches("is closed", select(2, pcall(l.locked, l)))
        l:close()
      end)

      it("is closed at the end of its scope", function()
        local kept
        do
          local l <close> = make()
          kept = l
        end
        assert.equal("mp." .. name .. " (closed)", tostring(kept))
      end)

      it("has a kind and shows its state", function()
        local l = make()
        assert.equal("mp." .. name, mp.type(l))
        assert.matches("^mp%." .. name .. ": 0x%x+ %(.+%)$", tostring(l))
        local before = tostring(l)
        l:acquire()
        assert.not_equal(before, tostring(l))
        l:release()
        assert.equal(before, tostring(l))
      end)

      it("is left by a wait that Ctrl-C ends, inside coroutines too", function()
        local l, ready, q = make(), mp.Event(), mp.Queue()
        l:acquire()
        local p = child(function()
          local co = coroutine.create(function()
            ready:set()
            l:acquire()
          end)
          local _, e = coroutine.resume(co)
          q:put(tostring(e))
        end)
        ready:wait()
        asleep(p)
        p:interrupt()
        assert.matches("interrupted!", q:get(10))
        finish(p)
        l:release()
      end)
    end)
  end
end)

describe("Lock", function()
  for _, name in ipairs { "Lock", "RLock", "Condition" } do
    it("of kind " .. name .. " is abandoned by a holder that dies", function()
      local l, ready = mp[name](), mp.Event()
      local p = child(function()
        l:acquire()
        ready:set()
        mp.sleep(60)
      end)
      ready:wait()
      p:kill()
      local ok, how = l:acquire(10)
      assert.is_true(ok)
      assert.equal("abandoned", how)
      l:release()
      ok, how = l:acquire(10)
      assert.is_true(ok)
      assert.is_nil(how)
      l:release()
      p:join()
      p:close()
    end)
  end

  it("tells a guard too that it was abandoned", function()
    local l = mp.Lock()
    finish(child(function() l:acquire() end)) -- the end of a process is a death of a holder
    local g, how = l:guard()
    assert.equal("mp.Guard", mp.type(g))
    assert.equal("abandoned", how)
    g:close()
  end)

  it("goes to another when one that waits for it is killed", function()
    local l, ready, got = mp.Lock(), mp.Semaphore(0), mp.Semaphore(0)
    l:acquire()
    local function wait()
      ready:release()
      l:acquire()
      got:release()
      l:release()
    end
    local first, second = child(wait), child(wait)
    assert(ready:acquire(10) and ready:acquire(10))
    asleep(first)
    asleep(second)
    os.execute("kill -STOP " .. first.pid)
    l:release() -- wakes the stopped one, maybe
    kill(first)
    assert.is_true(got:acquire(10))
    finish(second)
  end)

  it("is not acquired twice by one process", function()
    local l = mp.Lock()
    l:acquire()
    assert.has_error(function() l:acquire() end,
      "mp.Lock is already held by this process: waiting for it would never end")
    assert.is_true(took(function() assert.is_false(l:acquire(0.05)) end) >= 0.05)
    l:release()
  end)

  it("is released by its holder only", function()
    local l = mp.Lock()
    assert.has_error(function() l:release() end,
      "mp.Lock is not held by this process: it cannot be released")
    l:acquire()
    finish(child(function()
      assert(not pcall(l.release, l))
      assert(l:acquire(0) == false) -- a child does not hold what its parent holds
    end))
    assert.is_true(l:locked())
    l:release()
  end)

  it("shows who holds it", function()
    local l = mp.Lock()
    assert.matches("%(free%)$", tostring(l))
    l:acquire()
    assert.matches("%(held by " .. mp.getpid() .. "%)$", tostring(l))
    l:release()
  end)

  it("complains at the end of a with that it is not held any more", function()
    local l = mp.Lock()
    assert.has_error(function()
      l:with(function() l:release() end)
    end, "mp.Lock is not held by this process: it cannot be released")
    local _, e = pcall(l.with, l, function()
      l:release()
      error("first", 0)
    end)
    assert.equal("first", e)
  end)
end)

describe("RLock", function()
  it("is acquired again by its holder and free after as many releases", function()
    local l, q = mp.RLock(), mp.Queue()
    local function other() -- whether another process gets it
      finish(child(function() q:put(l:acquire(0)) end))
      return q:get()
    end
    for _ = 1, 3 do l:acquire() end
    l:release()
    l:release()
    assert.is_false(other())
    l:release()
    assert.is_true(other())
    assert.has_error(function() l:release() end,
      "mp.RLock is not held by this process: it cannot be released")
  end)

  it("starts anew for one who takes it from the dead", function()
    local l = mp.RLock()
    finish(child(function()
      for _ = 1, 5 do l:acquire() end
    end))
    assert.same({ true, "abandoned" }, { l:acquire() })
    l:release()
    assert.is_false(l:locked())
  end)

  it("nests with and guard", function()
    local l = mp.RLock()
    l:with(function()
      local _ <close> = l:guard()
      l:with(function() assert.is_true(l:locked()) end)
      assert.is_true(l:locked())
    end)
    assert.is_false(l:locked())
  end)
end)

describe("Semaphore", function()
  it("has as many permits as it was made with", function()
    local s = mp.Semaphore(3)
    for i = 2, 0, -1 do
      assert.is_true(s:acquire())
      assert.equal(i, s:get_value())
    end
    assert.is_false(s:acquire(0))
    assert.matches("%(value 0%)$", tostring(s))
    assert.equal(1, mp.Semaphore():get_value())
    assert.is_false(mp.Semaphore(0):acquire(0))
  end)

  it("is released by anyone, several at once", function()
    local s = mp.Semaphore(0)
    finish(child(function() s:release(3) end))
    assert.equal(3, s:get_value())
    s:release()
    assert.equal(4, s:get_value())
  end)

  it("wakes as many as it is released for", function()
    local s, ready, got = mp.Semaphore(0), mp.Semaphore(0), mp.Semaphore(0)
    local ps = {}
    for i = 1, 3 do
      ps[i] = child(function()
        ready:release()
        assert(s:acquire(10))
        got:release()
      end)
    end
    for i = 1, 3 do
      ready:acquire(10)
      asleep(ps[i])
    end
    s:release(2)
    assert(got:acquire(10) and got:acquire(10))
    assert.equal(0, s:get_value())
    s:release()
    assert(got:acquire(10))
    finish(table.unpack(ps))
  end)

  it("gets back what with and guard took when their process dies", function()
    local s, ready = mp.Semaphore(5), mp.Event()
    local p = child(function()
      local _ <close> = s:guard()
      s:with(function()
        s:acquire() -- this one has no owner
        ready:set()
        mp.sleep(60)
      end)
    end)
    ready:wait()
    assert.equal(2, s:get_value())
    kill(p)
    assert.equal(4, s:get_value())
  end)

  it("gets them back when their process exits in order", function()
    local s = mp.Semaphore(2)
    finish(child(function()
      local g = s:guard() -- luacheck: ignore
      os.exit(0)
    end))
    assert.equal(2, s:get_value())
  end)

  it("wakes who waits when the dead give back", function()
    local s, ready = mp.Semaphore(1), mp.Event()
    local p = child(function()
      s:with(function()
        ready:set()
        mp.sleep(60)
      end)
    end)
    ready:wait()
    local q = child(function() assert(s:acquire(10)) end)
    asleep(q)
    p:kill()
    finish(q)
    p:join()
    p:close()
    assert.equal(0, s:get_value())
  end)

  it("loses nothing with a waiter that is killed", function()
    local s, ready = mp.Semaphore(0), mp.Event()
    for _ = 1, 5 do
      ready:clear()
      local p = child(function()
        ready:set()
        s:acquire()
      end)
      ready:wait()
      asleep(p)
      os.execute("kill -STOP " .. p.pid)
      s:release()
      kill(p)
      assert.is_true(s:acquire(10))
    end
    assert.equal(0, s:get_value())
  end)

  it("keeps its value through kills at any moment", function()
    local s = mp.BoundedSemaphore(3)
    for i = 1, 30 do
      local ready = mp.Event()
      local p = child(function()
        ready:set()
        while true do
          local _ <close> = s:guard()
        end
      end)
      ready:wait()
      local limit = mp.monotonic() + i * 0.0001
      repeat local _ <close> = s:guard() until mp.monotonic() > limit
      kill(p)
    end
    assert.equal(3, s:get_value())
  end)

  it("refuses what is no number of permits", function()
    assert.has_error(function() mp.Semaphore(-1) end)
    assert.has_error(function() mp.Semaphore("many") end)
    assert.has_error(function() mp.Semaphore(1.5) end)
    assert.has_error(function() mp.Semaphore(2 ^ 31) end)
    local s = mp.Semaphore(1)
    for _, n in ipairs { 0, -1, 1.5, 2 ^ 31, math.maxinteger, "x" } do
      assert.has_error(function() s:release(n) end)
    end
    assert.equal(1, s:get_value())
    s = mp.Semaphore(2 ^ 31 - 1)
    assert.has_error(function() s:release() end)
  end)

  it("that is bounded is not released above its initial value", function()
    local s = mp.BoundedSemaphore(2)
    assert.has_error(function() s:release() end,
      "mp.BoundedSemaphore is released above its initial value (2)")
    s:acquire()
    assert.has_error(function() s:release(2) end)
    assert.equal(1, s:get_value())
    s:release()
    assert.equal(2, s:get_value())
    assert.has_error(function()
      s:with(function() s:release() end)
    end)
    assert.equal(2, s:get_value())
  end)
end)

describe("Event", function()
  it("is set and cleared", function()
    local e = mp.Event()
    assert.is_false(e:is_set())
    assert.matches("%(clear%)$", tostring(e))
    e:set()
    e:set()
    assert.is_true(e:is_set())
    assert.is_true(e:wait())
    assert.is_true(e:wait(0))
    assert.matches("%(set%)$", tostring(e))
    e:clear()
    e:clear()
    assert.is_false(e:is_set())
    assert.is_false(e:wait(0))
    assert.is_true(took(function() assert.is_false(e:wait(0.1)) end) >= 0.1)
    assert.equal("mp.Event", mp.type(e))
  end)

  it("wakes all who wait", function()
    local e, ready = mp.Event(), mp.Semaphore(0)
    local ps = {}
    for i = 1, 4 do
      ps[i] = child(function()
        ready:release()
        assert(e:wait(10))
      end)
    end
    for i = 1, 4 do
      ready:acquire(10)
      asleep(ps[i])
    end
    e:set()
    finish(table.unpack(ps))
  end)

  it("wakes those who wait even if it is cleared at once", function()
    local e, ready = mp.Event(), mp.Event()
    local p = child(function()
      ready:set()
      assert(e:wait(10) == true)
    end)
    ready:wait()
    asleep(p)
    e:set()
    e:clear()
    finish(p)
  end)

  it("does not mind who of those that wait is killed", function()
    local e, ready = mp.Event(), mp.Semaphore(0)
    local function wait()
      ready:release()
      assert(e:wait(10))
    end
    local p, q = child(wait), child(wait)
    ready:acquire()
    ready:acquire()
    asleep(p)
    kill(p)
    e:set()
    finish(q)
  end)

  it("is left by Ctrl-C", function()
    local e, ready = mp.Event(), mp.Event()
    local p = child(function()
      ready:set()
      e:wait()
    end)
    ready:wait()
    asleep(p)
    p:interrupt()
    assert.is_true(p:join(10))
    assert.equal(-2, p.exitcode)
    p:close()
  end)

  it("says what is wrong", function()
    local e = mp.Event()
    assert.has_error(function() e:wait("x") end)
    e:close()
    assert.has_error(function() e:set() end)
    assert.has_error(function() e:wait() end)
    assert.equal("mp.Event (closed)", tostring(e))
  end)
end)

describe("Condition", function()
  -- n processes that wait on c and count themselves in `woken`; they are in its list
  -- when this returns.
  local function waiters(c, n, woken, timeout)
    local ready, ps = mp.Semaphore(0), {}
    for i = 1, n do
      ps[i] = child(function()
        c:acquire()
        ready:release()
        assert(c:wait(timeout))
        assert(c:locked())
        c:release()
        woken:release()
      end)
      assert(ready:acquire(10))
      c:with(function() end) -- whoever gets the lock now finds it in the list
    end
    return ps
  end

  it("wakes as many as are notified", function()
    local c, woken = mp.Condition(), mp.Semaphore(0)
    local ps = waiters(c, 4, woken)
    c:with(function() c:notify() end)
    assert(woken:acquire(10))
    assert.equal(0, woken:get_value())
    c:with(c.notify, c, 2)
    assert(woken:acquire(10) and woken:acquire(10))
    assert.equal(0, woken:get_value())
    c:with(function() c:notify_all() end)
    assert(woken:acquire(10))
    finish(table.unpack(ps))
  end)

  it("wakes the one that has waited longest", function()
    local c, first, second = mp.Condition(), mp.Semaphore(0), mp.Semaphore(0)
    local p, q = waiters(c, 1, first)[1], waiters(c, 1, second)[1]
    c:with(function() c:notify() end)
    assert(first:acquire(10))
    assert.equal(0, second:get_value())
    c:with(function() c:notify() end)
    assert(second:acquire(10))
    finish(p, q)
  end)

  it("does not remember a notification that nobody waited for", function()
    local c = mp.Condition()
    c:with(function()
      c:notify()
      c:notify_all()
      assert.is_false(c:wait(0))
      assert.is_true(took(function() assert.is_false(c:wait(0.1)) end) >= 0.1)
    end)
  end)

  it("has its lock again after the wait, as often as before", function()
    for _, c in ipairs { mp.Condition(), mp.Condition(mp.RLock()) } do
      c:acquire()
      c:acquire()
      c:acquire()
      local p = child(function() -- gets it only if the wait lets all three go
        c:acquire()
        c:notify()
        c:release()
      end)
      assert.is_true(c:wait(10))
      c:release()
      c:release()
      assert.is_true(c:locked())
      c:release()
      assert.is_false(c:locked())
      finish(p)
    end
  end)

  it("uses the lock that it is given", function()
    for _, name in ipairs { "Lock", "RLock" } do
      local l = mp[name]()
      local c = mp.Condition(l)
      l:acquire()
      assert.is_true(c:locked())
      c:notify()
      assert.is_false(c:wait(0.01))
      assert.is_true(l:locked())
      c:release()
      assert.is_false(l:locked())
    end
  end)

  it("keeps the lock that it was given alive", function()
    local c = mp.Condition(mp.Lock())
    collectgarbage()
    collectgarbage()
    local other = mp.Lock()
    other:acquire()
    assert.is_true(c:acquire(0))
    c:release()
    other:release()
  end)

  it("may use the lock of a shared value", function()
    local v = mp.Value("i", 0)
    local c = mp.Condition(v:get_lock())
    local p = child(function()
      c:with(function()
        v.value = 1
        c:notify()
      end)
    end)
    c:with(function()
      assert.is_true(c:wait_for(function() return v.value == 1 end, 10))
    end)
    finish(p)
  end)

  it("waits for a predicate and returns its last value", function()
    local c, v = mp.Condition(), mp.RawValue("i", 0)
    local p = child(function()
      for i = 1, 5 do
        c:with(function()
          v.value = i
          c:notify()
        end)
      end
    end)
    c:with(function()
      assert.equal("five", c:wait_for(function() return v.value == 5 and "five" end, 10))
      assert.equal("at once", c:wait_for(function() return "at once" end, 0))
      assert.is_nil(c:wait_for(function() return nil end, 0))
      local calls = 0
      assert.is_true(took(function()
        assert.is_false(c:wait_for(function()
          calls = calls + 1
          return false
        end, 0.1))
      end) >= 0.1)
      assert.equal(2, calls)
    end)
    finish(p)
  end)

  it("lets an error of the predicate through with the lock held", function()
    local c = mp.Condition()
    c:acquire()
    assert.has_error(function() c:wait_for(function() error("no", 0) end) end, "no")
    c:release()
    assert.is_false(c:locked())
  end)

  it("lets the predicate yield", function()
    local c = mp.Condition()
    local co = coroutine.wrap(function()
      return c:with(function()
        return c:wait_for(function() return coroutine.yield("asked") end, 0.01)
      end)
    end)
    assert.equal("asked", co())
    assert.equal("asked", co(false))
    assert.equal("last", co("last"))
    assert.is_false(c:locked())
  end)

  it("wants its lock held", function()
    local c = mp.Condition()
    assert.has_error(function() c:wait() end,
      "mp.Condition:wait: the lock of the condition must be held")
    assert.has_error(function() c:wait_for(print) end)
    assert.has_error(function() c:notify() end)
    assert.has_error(function() c:notify_all() end)
    c:acquire()
    finish(child(function() assert(not pcall(c.notify, c)) end))
    assert.has_error(function() c:notify(-1) end)
    assert.has_error(function() c:notify("x") end)
    assert.has_error(function() c:wait("x") end)
    assert.has_error(function() c:wait_for(5) end)
    c:release()
    assert.has_error(function() mp.Condition(mp.Semaphore()) end,
      "bad argument #1 to 'Condition' (mp.Lock or mp.RLock expected, got mp.Semaphore)")
  end)

  it("notifies the next when the first to wait was killed", function()
    local c, first, second = mp.Condition(), mp.Semaphore(0), mp.Semaphore(0)
    local p, q = waiters(c, 1, first)[1], waiters(c, 1, second)[1]
    kill(p)
    c:with(function() c:notify() end)
    assert(second:acquire(10))
    finish(q)
  end)

  it("passes the notification of one that was killed before it could go on", function()
    local c, first, second = mp.Condition(), mp.Semaphore(0), mp.Semaphore(0)
    local p, q = waiters(c, 1, first)[1], waiters(c, 1, second)[1]
    os.execute("kill -STOP " .. p.pid)
    c:with(function() c:notify() end)
    p:kill() -- nobody buries it: the other waiter finds it dead
    assert(second:acquire(10))
    finish(q)
    p:join()
    p:close()
  end)

  it("goes on when the one who holds the lock dies", function()
    local c, woken, held = mp.Condition(), mp.Semaphore(0), mp.Event()
    local ps = waiters(c, 2, woken)
    local p = child(function()
      c:acquire()
      c:notify_all()
      held:set()
      mp.sleep(60)
    end)
    held:wait()
    kill(p)
    assert(woken:acquire(10) and woken:acquire(10))
    finish(table.unpack(ps))
  end)

  it("is left by Ctrl-C with the lock held", function()
    local c, ready, q = mp.Condition(), mp.Event(), mp.Queue()
    local p = child(function()
      c:acquire()
      ready:set()
      local _, e = pcall(c.wait, c)
      q:put { tostring(e), c:locked(), (pcall(c.release, c)) }
    end)
    ready:wait()
    c:with(function() end)
    asleep(p)
    p:interrupt()
    local e, locked, released = table.unpack(q:get(10))
    assert.matches("interrupted!", e)
    assert.is_true(locked)
    assert.is_true(released)
    finish(p)
    c:with(function() assert.is_false(c:wait(0)) end) -- it is not in the list any more
  end)

  it("is left by Ctrl-C within a quarter of a second though the lock is held", function()
    local c, ready, q = mp.Condition(), mp.Event(), mp.Queue()
    local p = child(function()
      c:with(function()
        ready:set()
        c:wait()
      end)
    end)
    ready:wait()
    c:acquire()
    asleep(p)
    p:interrupt()
    assert.is_true(p:join(10)) -- and not when the lock is free
    assert.equal(-2, p.exitcode)
    p:close()
    c:release()
    q:close()
  end)

  it("does not let a hook wait inside a wait", function()
    local c, d = mp.Condition(), mp.Condition()
    local refused = false
    c:acquire()
    d:acquire()
    debug.sethook(function() -- runs between instructions, and in the wait once a slice
      local ok, e = pcall(d.wait, d, 0)
      if not ok and e:find("a hook cannot wait", 1, true) then refused = true end
    end, "", 1)
    local notified = c:wait(0.5)
    debug.sethook()
    d:release()
    c:release()
    assert.is_false(notified)
    assert.is_true(refused)
  end)

  it("hands turns back and forth", function()
    local c, turn = mp.Condition(), mp.RawValue("i", 0)
    local p = child(function()
      c:acquire()
      for _ = 1, 500 do
        while turn.value == 0 do c:wait() end
        turn.value = 0
        c:notify()
      end
      c:release()
    end)
    for _ = 1, 500 do
      c:acquire()
      turn.value = 1
      c:notify()
      while turn.value == 1 do c:wait() end
      c:release()
    end
    finish(p)
  end)
end)

describe("Barrier", function()
  local function waiting(b, n)
    assert(T.wait_until(function() return b.n_waiting == n end))
  end

  it("lets all through when the last one comes, and numbers them", function()
    local b, q = mp.Barrier(4), mp.Queue()
    local ps = {}
    assert.equal(4, b.parties)
    for i = 1, 3 do
      ps[i] = child(function() q:put(b:wait()) end)
    end
    waiting(b, 3)
    assert.equal(0, q:qsize())
    assert.equal(4, b:wait())
    local seen = {}
    for _ = 1, 3 do seen[q:get(10)] = true end
    assert.same({ true, true, true }, seen)
    assert.equal(0, b.n_waiting)
    assert.is_false(b.broken)
    finish(table.unpack(ps))
  end)

  it("is used again thousands of times", function()
    local b, n = mp.Barrier(3), mp.RawValue("i", 0)
    local function run()
      for i = 1, 2000 do
        n:add(1)
        assert(b:wait(10))
        local v = n.value -- nobody is more than one cycle ahead
        assert(v >= 3 * i and v < 3 * (i + 1))
      end
    end
    local p, q = child(run), child(run)
    run()
    finish(p, q)
  end)

  it("lets a single party pass at once", function()
    local n = 0
    local b = mp.Barrier(1, function() n = n + 1 end)
    assert.equal(1, b:wait())
    assert.equal(1, b:wait(0))
    assert.equal(2, n)
  end)

  it("has its action run once, by the last, before anybody goes on", function()
    local n = mp.RawValue("i", 0)
    local b = mp.Barrier(3, function()
      mp.sleep(0.05)
      n:add(1)
    end)
    local function run()
      assert(b:wait(10))
      assert(n.value == 1)
    end
    local p, q = child(run), child(run)
    run()
    finish(p, q)
  end)

  it("takes its action along to where it was sent", function()
    local q, n = mp.Queue(), mp.RawValue("i", 0)
    local p = child(function() assert(q:get(10):wait(10) == 2) end)
    local b = mp.Barrier(2, function() n:add(1) end)
    local other = child(function() assert(b:wait(10) == 1) end)
    waiting(b, 1)
    q:put(b)
    finish(p, other)
    assert.equal(1, n.value)
  end)

  it("is broken by an action that fails", function()
    local b = mp.Barrier(2, function() error("bad action", 0) end)
    local p = child(function() assert(select(2, b:wait(10)) == "broken") end)
    waiting(b, 1)
    assert.has_error(function() b:wait() end, "bad action")
    assert.is_true(b.broken)
    finish(p)
  end)

  it("is broken for all by one whose time is over", function()
    local b = mp.Barrier(3)
    local p = child(function() assert(select(2, b:wait(10)) == "broken") end)
    waiting(b, 1)
    assert.same({ n = 2, nil, "broken" }, table.pack(b:wait(0.05)))
    finish(p)
    assert.is_true(b.broken)
    assert.matches("%(broken%)$", tostring(b))
    assert.same({ n = 2, nil, "broken" }, table.pack(b:wait()))
    b:reset()
    assert.is_false(b.broken)
    assert.same({ n = 2, nil, "broken" }, table.pack(b:wait(0)))
  end)

  it("has a time-out of its own for those who give none", function()
    local b = mp.Barrier(2, nil, 0.1)
    assert.is_true(took(function() assert.is_nil((b:wait())) end) >= 0.1)
    b:reset()
    local p = child(function() assert(b:wait(10)) end)
    waiting(b, 1)
    assert.equal(2, b:wait(10))
    finish(p)
  end)

  it("is broken by abort and repaired by reset", function()
    local b = mp.Barrier(2)
    local p = child(function() assert(select(2, b:wait()) == "broken") end)
    waiting(b, 1)
    b:abort()
    finish(p)
    assert.is_true(b.broken)
    b:reset()
    p = child(function() assert(select(2, b:wait()) == "broken") end)
    waiting(b, 1)
    b:reset()
    finish(p)
    assert.is_false(b.broken)
    p = child(function() assert(b:wait(10) == 1) end)
    waiting(b, 1)
    assert.equal(2, b:wait(10))
    finish(p)
  end)

  it("is broken by a party that dies while it waits", function()
    for _, buried in ipairs { true, false } do
      local b = mp.Barrier(3)
      local dies = child(function() b:wait() end)
      waiting(b, 1)
      local lives = child(function() assert(select(2, b:wait(10)) == "broken") end)
      waiting(b, 2)
      dies:kill()
      if buried then dies:join() end
      finish(lives)
      assert.is_true(b.broken)
      dies:join()
      dies:close()
    end
  end)

  it("is broken by a party that dies in the action", function()
    local b = mp.Barrier(2, function() os.execute("kill -KILL " .. mp.getpid()) end)
    local lives = child(function() assert(select(2, b:wait(10)) == "broken") end)
    waiting(b, 1)
    local dies = child(function() b:wait() end)
    finish(lives)
    dies:join()
    dies:close()
    assert.is_true(b.broken)
  end)

  it("is not completed by one who comes after a party has died", function()
    local b = mp.Barrier(2)
    local p = child(function() b:wait() end)
    waiting(b, 1)
    p:kill()
    assert(T.wait_until(function() return not T.alive(p.pid) end))
    assert.same({ n = 2, nil, "broken" }, table.pack(b:wait(10)))
    p:join()
    p:close()
  end)

  it("is broken by a party that Ctrl-C takes out", function()
    local b = mp.Barrier(2)
    local p = child(function() b:wait() end)
    waiting(b, 1)
    asleep(p)
    p:interrupt()
    assert.is_true(p:join(10))
    assert.equal(-2, p.exitcode)
    p:close()
    assert.is_true(b.broken)
  end)

  it("says what is wrong", function()
    assert.has_error(function() mp.Barrier() end)
    assert.has_error(function() mp.Barrier(0) end)
    assert.has_error(function() mp.Barrier(-1) end)
    assert.has_error(function() mp.Barrier(1.5) end)
    assert.has_error(function() mp.Barrier(2, "action") end)
    assert.has_error(function() mp.Barrier(2, nil, "soon") end)
    local b = mp.Barrier(2)
    assert.has_error(function() b:wait("soon") end)
    assert.is_nil(b.unknown)
    assert.equal("mp.Barrier", mp.type(b))
    assert.matches("%(0 of 2 waiting%)$", tostring(b))
    b:close()
    assert.has_error(function() b:wait() end)
    assert.has_error(function() return b.parties end)
    assert.equal("mp.Barrier (closed)", tostring(b))
  end)
end)

describe("Synchronisation", function()
  it("leaves nothing in the shared memory", function()
    local names = { "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event" }
    local before = T.arena().objects
    for _ = 1, 100 do
      for _, name in ipairs(names) do mp[name]() end
      mp.Barrier(3, print)
      mp.Condition(mp.Lock())
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, T.arena().objects)
  end)

  it("goes on through kills at any moment", function()
    T.limit(40)
    local c, n = mp.Condition(), mp.RawValue("i", 0)
    local function work()
      while true do
        c:with(function()
          n:add(1)
          c:notify()
          c:wait(0.001)
        end)
      end
    end
    local ps = {}
    for i = 1, 3 do ps[i] = child(work) end
    for i = 1, 30 do
      local seen = n.value
      assert(T.wait_until(function() return n.value > seen + i end))
      local p = ps[i % 3 + 1]
      kill(p)
      ps[i % 3 + 1] = child(work)
    end
    for _, p in ipairs(ps) do kill(p) end
    assert.is_true(c:acquire(10))
    assert.is_false(c:wait(0.01))
    c:release()
  end)
end)
