-- Waiting: mp.wait for several things, sleep, the clock, sentinels.
local T = require "spec.helper"
local mp = require "mp"

local function fails(pattern, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(err))
end

-- What rings for queues is opened once and stays.
setup(function()
  local q <close> = mp.Queue()
  q:fileno()
  q:put(1)
end)

describe("sleep", function()
  it("takes as long as it is told", function()
    for _, seconds in ipairs { 0.01, 0.25, 0 } do
      local t0 = mp.monotonic()
      mp.sleep(seconds)
      assert.is_true(mp.monotonic() - t0 >= seconds)
    end
    mp.sleep(-1)
  end)

  it("needs a number", function()
    for _ = 1, 5 do
      fails("^bad argument #1 to 'mp.sleep' %(number expected, got no value%)", mp.sleep)
      fails("^bad argument #1 to 'mp.sleep' %(seconds must not be NaN%)", mp.sleep, 0 / 0)
    end
  end)
end)

describe("wait", function()
  it("gives an empty array when the time is over or there is nothing", function()
    local q <close> = mp.Queue()
    assert.same({}, mp.wait({}, 0))
    assert.same({}, mp.wait({}, 0.01))
    assert.same({}, mp.wait({ q }, 0))
    assert.same({}, mp.wait({ q }, -1))
    local t0 = mp.monotonic()
    assert.same({}, mp.wait({ q }, 0.05))
    assert.is_true(mp.monotonic() - t0 >= 0.05)
  end)

  it("tells all that are ready, in their order", function()
    local a <close>, b = mp.Pipe()
    local closing <close> = b
    local q <close> = mp.Queue()
    local empty <close> = mp.LifoQueue()
    local p = mp.Process(function() end)
    p:start()
    p:join()
    closing:send("x")
    q:put(1)
    local pipe = io.popen("echo")
    local ready = mp.wait({ p, empty, q, a, b }, 5)
    assert.equal(3, #ready)
    assert.equal(p, ready[1])
    assert.equal(q, ready[2])
    assert.equal(a, ready[3])
    pipe:close()
  end)

  it("wakes for a queue that another process fills", function()
    for _, make in ipairs { mp.Queue, mp.LifoQueue, mp.PriorityQueue } do
      local idle <close> = mp.Queue()
      local q <close> = make()
      local gate <close> = mp.Event()
      local p = mp.Process(function()
        gate:wait()
        q:put("item", make == mp.PriorityQueue and 1 or nil)
      end)
      p:start()
      assert.same({}, mp.wait({ idle, q }, 0))
      gate:set()
      local ready = mp.wait({ idle, q }, 10)
      assert.equal(q, ready[1])
      assert.equal(1, #ready)
      assert.equal("item", q:get(0))
      assert.same({}, mp.wait({ idle, q }, 0))
      p:join()
    end
  end)

  it("goes on when another consumer was quicker", function()
    local q <close> = mp.Queue()
    for i = 1, 50 do
      q:put(i)
      assert.equal(q, mp.wait({ q }, 5)[1])
      assert.equal(i, q:get(0))
      assert.same({}, mp.wait({ q }, 0))
    end
    assert.same({}, mp.wait({ q }, 0.02))
  end)

  it("finds a queue ready that was shut down", function()
    local q <close> = mp.Queue()
    local p = mp.Process(function()
      mp.sleep(0.02)
      q:shutdown()
    end)
    p:start()
    assert.equal(q, mp.wait({ q }, 10)[1])
    assert.same({ nil, "closed" }, { q:get(0) })
    assert.equal(q, mp.wait({ q }, 0)[1])
    p:join()
  end)

  it("wakes for a process that ends, and for one that is killed", function()
    local gate <close> = mp.Event()
    local idle = mp.Process(function() mp.sleep(60) end)
    local p = mp.Process(function() gate:wait() end)
    idle:start()
    p:start()
    assert.same({}, mp.wait({ idle, p }, 0))
    gate:set()
    local ready = mp.wait({ idle, p }, 10)
    assert.same({ 1, p }, { #ready, ready[1] })
    idle:kill()
    p:join()
    ready = mp.wait({ idle }, 10)
    assert.same({ 1, idle }, { #ready, ready[1] })
    idle:join()
  end)

  it("wakes for a message and for the end of a pipe", function()
    local a <close>, b = mp.Pipe()
    local p = mp.Process(function()
      b:send("x")
      b:close()
    end)
    p:start()
    b:close()
    assert.equal(a, mp.wait({ a }, 10)[1])
    assert.equal("x", a:recv())
    p:join()
    assert.equal(a, mp.wait({ a }, 10)[1])
    assert.same({ nil, "eof" }, { a:recv() })
  end)

  it("takes descriptors: sentinels, a pipe's", function()
    local a <close>, b = mp.Pipe()
    local closing <close> = b
    local p = mp.Process(function() mp.sleep(60) end)
    p:start()
    local sentinel = p.sentinel
    assert.equal(sentinel, p.sentinel)
    assert.same({}, mp.wait({ sentinel, a:fileno() }, 0))
    closing:send(1)
    assert.same({ a:fileno() }, mp.wait({ sentinel, a:fileno() }, 5))
    p:kill()
    assert.same({ sentinel }, mp.wait({ sentinel }, 5))
    p:join()
    assert.same({ sentinel }, mp.wait({ sentinel }, 5)) -- until it is closed
    assert.is_true(mp.wait({ p }, 0)[1] == p)
    p:close()
  end)

  it("has a sentinel for a process that ended before it was asked for", function()
    local p = mp.Process(function() end)
    p:start()
    p:join()
    assert.same({ p.sentinel }, mp.wait({ p.sentinel }, 5))
    p:close()
  end)

  it("names what it cannot wait for", function()
    local q <close> = mp.Queue()
    local p = mp.Process(function() end)
    local f = "bad argument #1 to 'wait' %(object 2: "
    fails("wait_spec%.lua:%d+: bad argument #1 to 'wait' %(table expected, got no value%)", function() mp.wait() end)
    fails("bad argument #2 to 'wait' %(number expected, got string%)", mp.wait, {}, "1")
    local kinds = f .. "a Connection, Listener, Queue, Process, AsyncResult or descriptor expected, got "
    fails(kinds .. "string%)", mp.wait, { q, "x" })
    fails(kinds .. "mp.Event%)", mp.wait, { q, mp.Event() })
    fails(f .. "a descriptor cannot be %-1%)", mp.wait, { q, -1 })
    fails(f .. "a descriptor cannot be 4294967296%)", mp.wait, { q, 1 << 32 }, 0)
    fails("wait_spec%.lua:%d+: bad argument #2 to 'wait' %(a time%-out must not be NaN%)",
      function() mp.wait({}, 0 / 0) end)
    fails("wait_spec%.lua:%d+: bad argument #1 to 'wait' %(there is nothing to wait for, and no time%-out%)",
      mp.wait, {})
    fails("can only wait for a started process", mp.wait, { p })
    fails("cannot wait for the current process", mp.wait, { mp.current_process() })
    fails(f .. "descriptor 999 is not open%)", mp.wait, { q, 999 }, 1)
    local closed = mp.Queue()
    closed:close()
    fails(f .. "the mp.Queue is closed%)", mp.wait, { q, closed })
    local a, b = mp.Pipe(false)
    fails(f .. "the mp.Connection is write%-only%)", mp.wait, { q, b })
    a:close()
    b:close()
    fails(f .. "the mp.Connection is closed%)", mp.wait, { q, a })
  end)

  it("waits for a hundred processes, each told when it ends", function()
    T.limit(60)
    local all, gate = {}, mp.Event()
    for i = 1, 100 do
      all[i] = mp.Process(function() gate:wait() end)
      all[i]:start()
    end
    gate:set()
    local seen, n = {}, 0
    while #all > 0 do
      for _, p in ipairs(mp.wait(all, 30)) do
        p:join()
        seen[p], n = true, n + 1
      end
      local rest = {}
      for _, p in ipairs(all) do
        if not seen[p] then rest[#rest + 1] = p end
      end
      all = rest
    end
    assert.equal(100, n)
    gate:close()
  end)

  it("sees an item whose producer had no descriptor left to ring with", function()
    local r = T.mplua([[
      local mp = require "mp"
      local q, go = mp.Queue(), mp.Event()
      local p = mp.Process(function()
        go:wait()
        local files, f = {}, io.open("/dev/null")
        while f do files[#files + 1], f = f, io.open("/dev/null") end
        q:put("item")
        mp.sleep(30)
      end)
      p:start()
      q:fileno()
      go:set()
      print(#mp.wait({ q }, 10), q:get(0))
      p:kill()
      p:join()
    ]])
    assert.same({ "1\titem\n", "", 0 }, { r.out, r.err, r.code })
  end)
end)
