-- mp.arena: what is in the shared memory right now.
local T = require "spec.helper"
local mp = require "mp"

local start, finish = T.start, T.finish

local function process_of(pid)
  for _, p in ipairs(mp.arena().processes) do
    if p.pid == pid then return p end
  end
end

local function waits_for(p, what)
  return T.wait_until(function()
    local found = process_of(p.pid)
    return found and found.waits == what
  end, 10)
end

describe("mp.arena", function()
  it("counts objects by kind, and their bytes", function()
    local before = mp.arena()
    local kept = {} -- luacheck: ignore
    for i = 1, 5 do kept[i] = mp.Barrier(2) end
    local after = mp.arena()
    assert.equal((before.kinds["mp.Barrier"] or 0) + 5, after.kinds["mp.Barrier"])
    assert.equal(before.objects + 5, after.objects)
    assert.equal(after.used - before.used, after.bytes["mp.Barrier"] - (before.bytes["mp.Barrier"] or 0))
    local sum = 0
    for _, n in pairs(after.bytes) do sum = sum + n end
    assert.equal(after.used, sum)
  end)

  it("knows this process, which runs", function()
    local p = process_of(mp.getpid())
    assert.equal("live", p.state)
    assert.is_nil(p.waits)
  end)

  it("tells what each process waits for", function()
    local q, lock, event, full = mp.Queue(), mp.Lock(), mp.Event(), mp.Queue(1)
    full:put(1)
    assert(lock:acquire())
    local waiting = {
      get = start(function() return q:get() end),
      put = start(function() return full:put(2) end),
      lock = start(function() return lock:with(function() end) end),
      event = start(function() return event:wait() end),
      sleep = start(function() return mp.sleep(0.5) end),
    }
    for what, p in pairs(waiting) do assert.is_true(waits_for(p, what), what) end
    assert.equal(process_of(waiting.get.pid).name, waiting.get.name)
    assert.is_true(process_of(waiting.get.pid).on ~= process_of(waiting.put.pid).on)
    assert.matches("waits: lock, object " .. process_of(waiting.lock.pid).on .. "\n", tostring(mp.arena()))
    q:put(1)
    full:get()
    lock:release()
    event:set()
    for _, p in pairs(waiting) do assert.equal(0, finish(p)) end
  end)

  it("tells who holds which lock, the dead too", function()
    local value, lock, up = mp.Value("i", 0), mp.RLock(), mp.Event()
    assert.same({}, mp.arena().locks)
    assert(value:get_lock():acquire())
    local p = start(function()
      lock:acquire()
      up:set()
      mp.sleep(100)
    end)
    assert.is_true(up:wait(10))
    local held = {}
    for _, l in ipairs(mp.arena().locks) do held[l.kind] = l end
    assert.equal(mp.getpid(), held["mp.Value"].pid)
    assert.equal(p.pid, held["mp.RLock"].pid)
    assert.is_true(held["mp.RLock"].alive)
    value:get_lock():release()
    p:kill()
    assert(p:join(10))
    p:close()
    local left = mp.arena().locks
    assert.equal(1, #left)
    assert.is_false(left[1].alive)
    assert.matches("mp.RLock: held by one that has died$", tostring(mp.arena()))
    assert.same({ true, "abandoned" }, { lock:acquire(1) })
    lock:release()
  end)
end)
