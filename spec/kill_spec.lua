-- What is left when processes are killed in the middle of queues.

local T = require "spec.helper"
local W = require "spec.workers"
local mp = require "mp"
local core = require "mp.core"

local child, finish, kill, asleep = W.child, W.finish, W.kill, W.asleep


-- put for any of them; the priority of all items is the same
local function put(q, item, timeout)
  if mp.type(q) == "mp.PriorityQueue" then return q:put(item, 1, timeout) end
  return q:put(item, timeout)
end

local function rest(q)
  local list = {}
  for item in function() return (q:get(0)) end do list[#list + 1] = item end
  return list
end

for _, name in ipairs { "Queue", "LifoQueue", "PriorityQueue" } do
  describe("With a " .. name, function()
    local make = mp[name]

    it("readers that are killed while blocked take nothing along", function()
      local q, out = make(), mp.Queue()
      local ps = {}
      for i = 1, 3 do
        ps[i] = child(function()
          while true do
            local item = q:get(20)
            if item == "stop" then break end
            out:put(item)
          end
        end)
      end
      asleep(table.unpack(ps))
      kill(ps[1], ps[2])
      for i = 1, 10 do
        put(q, i)
        assert.equal(i, out:get(10))
      end
      put(q, "stop")
      finish(ps[3])
      assert.is_true(q:empty())
    end)

    it("all readers may be killed", function()
      local q = make()
      for round = 1, 5 do
        local ps = {}
        for i = 1, 2 do ps[i] = child(function() q:get() end) end
        asleep(table.unpack(ps))
        kill(table.unpack(ps))
        put(q, round)
        assert.equal(round, q:get(5))
      end
      assert.is_true(q:empty())
    end)

    it("a wake-up that was for the killed one reaches another", function()
      local q, out = make(), mp.Queue()
      local ps = {}
      for i = 1, 2 do
        ps[i] = child(function() out:put(q:get(20)) end)
        asleep(ps[i])
      end
      os.execute("kill -STOP " .. ps[1].pid)
      put(q, "one") -- wakes the first, which cannot run
      kill(ps[1])
      assert.equal("one", out:get(10))
      finish(ps[2])
    end)

    it("writers that are killed while blocked put nothing in", function()
      local q = make(1)
      put(q, "first")
      local ps = {}
      for i = 1, 3 do ps[i] = child(function() assert(put(q, "from " .. i)) end) end
      asleep(table.unpack(ps))
      kill(ps[1], ps[3])
      assert.equal("first", q:get(0))
      assert.equal("from 2", q:get(10))
      finish(ps[2])
      assert.same({ nil, "empty", n = 2 }, table.pack(q:get(0)))
      assert.is_true(put(q, "again", 0))
      q:get()
    end)

    it("what a killed writer had in hand is given back", function()
      local q = make(1)
      put(q, 1)
      local used = core.arena().used
      local p = child(function() put(q, ("x"):rep(3000000)) end)
      assert(T.wait_until(function() return core.arena().used > used + 3000000 end))
      asleep(p)
      kill(p)
      assert.equal(used, core.arena().used)
      assert.equal(1, q:get(0))
      assert.is_true(q:empty())
    end)

    it("items outlive the one who put them", function()
      local q = make()
      local big = ("big"):rep(100000)
      local p = child(function()
        for i = 1, 50 do put(q, { i, i % 10 == 0 and big or "" }) end
        os.execute("kill -KILL " .. mp.getpid())
      end)
      assert.is_true(p:join(10))
      p:close()
      assert.equal(50, q:qsize())
      local sum = 0
      for _, item in ipairs(rest(q)) do
        sum = sum + item[1]
        assert.is_true(item[2] == (item[1] % 10 == 0 and big or ""))
      end
      assert.equal(1275, sum)
    end)

    it("shared objects in items outlive the one who made and put them", function()
      local q = make()
      local p = child(function()
        local inner = make()
        put(inner, "inside")
        put(q, { inner, mp.Value("i", 6) })
        os.execute("kill -KILL " .. mp.getpid())
      end)
      assert.is_true(p:join(10))
      p:close()
      core.collect()
      local item = q:get(0)
      assert.equal("inside", item[1]:get(0))
      assert.equal(6, item[2].value)
    end)

    it("objects that only a killed process knew are gone with it", function()
      local q, ready = make(), mp.Event()
      local used = core.arena().used
      local p = child(function()
        local all = {}
        for i = 1, 100 do
          all[i] = make()
          put(all[i], ("x"):rep(i * 500))
          put(all[i], all[i]) -- a cycle
        end
        ready:set()
        q:get()
      end)
      ready:wait(10)
      asleep(p)
      assert.is_true(core.arena().used > used + 2000000)
      kill(p)
      core.collect()
      assert.equal(used, core.arena().used)
    end)

    it("join says that items were abandoned", function()
      local q, taken = make(), mp.Queue()
      for i = 1, 5 do put(q, i) end
      local p = child(function()
        for _ = 1, 3 do q:get() end
        q:task_done()
        taken:put(true)
        mp.sleep(60)
      end)
      assert.is_true(taken:get(10))
      q:get()
      q:get()
      q:task_done()
      q:task_done()
      assert.is_false(q:join(0))
      kill(p)
      assert.same({ true, "abandoned", n = 2 }, table.pack(q:join(0)))
      W.fails("task_done", function() q:task_done() end)
      put(q, "next")
      assert.is_false(q:join(0))
      q:get()
      q:task_done()
      assert.is_true((q:join(0)))
    end)

    it("join is woken by the death of the last that held an item", function()
      local q, taken = make(), mp.Queue()
      put(q, 1)
      local holder = child(function()
        q:get()
        taken:put(true)
        mp.sleep(60)
      end)
      assert.is_true(taken:get(10))
      local joiner = child(function()
        local ok, code = q:join(10)
        assert(ok == true and code == "abandoned")
      end)
      asleep(joiner)
      kill(holder)
      finish(joiner)
      assert.same({ true, "abandoned", n = 2 }, table.pack(q:join()))
    end)

    it("join sees a death that nobody has noticed", function()
      local q = make()
      put(q, 1)
      local pids = mp.Queue()
      -- the worker is the child of a child that does not look after it
      local parent = child(function()
        local p = child(function()
          pids:put(mp.getpid())
          q:get()
          pids:put(mp.getpid())
          mp.sleep(60)
        end)
        mp.sleep(60)
        p:join()
      end)
      local pid = pids:get(10)
      pids:get(10)
      assert.is_false(q:join(0))
      os.execute("kill -STOP " .. parent.pid) -- it cannot reap
      os.execute("kill -KILL " .. pid)
      assert(T.wait_until(function() return not T.alive(pid) end))
      assert.same({ true, "abandoned", n = 2 }, table.pack(q:join(10)))
      kill(parent)
    end)

    it("a killed join leaves the others waiting", function()
      local q = make()
      put(q, 1)
      local ps = {}
      for i = 1, 2 do ps[i] = child(function() assert(q:join(10) == true) end) end
      asleep(table.unpack(ps))
      kill(ps[1])
      q:get()
      q:task_done()
      finish(ps[2])
    end)

    it("one that was waiting by descriptor does no harm", function()
      local q, out = make(), mp.Queue()
      local ps = {}
      for i = 1, 3 do
        ps[i] = child(function()
          while #mp.wait({ q }, 20) > 0 do
            local item = q:get(0)
            if item then out:put(item) end
          end
        end)
      end
      asleep(table.unpack(ps))
      kill(ps[1], ps[3])
      for i = 1, 10 do
        put(q, i)
        assert.equal(i, out:get(10))
      end
      kill(ps[2])
      assert.is_true(q:empty())
    end)
  end)
end

-- Traffic ----------------------------------------------------------------------------

-- Numbers that nobody can foresee; a failure names the seed.
local seed = (mp.getpid() << 20) ~ math.floor(mp.monotonic() * 1e6)
local state = seed
local function random(n)
  state = state * 6364136223846793005 + 1442695040888963407
  return (state >> 33) % n + 1
end

-- An item is numbered and signed; now and then it is large, or carries a queue.
local function make_item(p, i, inner)
  local n = (p * 7919 + i * 104729) % 1000
  local bytes = n < 5 and 20000 + n * 20000 or n < 50 and n * 100 or n % 40
  return {
    p = p, i = i, sign = p * 1000003 ~ i * 8191, text = string.char(65 + i % 26):rep(bytes),
    inner = n % 50 == 0 and inner or nil,
  }
end

local function check_item(item, inner)
  local same = make_item(item.p, item.i, inner)
  assert(item.sign == same.sign and item.text == same.text, "an item is damaged")
  assert(item.inner == same.inner, "not the queue that was put")
end

local PRODUCERS, CONSUMERS, LIMIT = 3, 3, 40000
local BACKLOG = 2000 -- producers let that many items wait, no more

-- Producers put numbered items until they are told to stop, consumers tick off what they
-- get; one after the other is killed and replaced. `sent[p]` is the number of the last
-- item whose put returned; a killed producer may have put up to `batch` more, whose
-- numbers its successor leaves out. A killed consumer takes up to `batch` items along.
local function traffic(q, opts, workers)
  local batch, fifo = opts.batch or 1, mp.type(q) ~= "mp.LifoQueue"
  local sent = mp.RawArray("i", PRODUCERS)
  local seen = mp.RawArray("B", PRODUCERS * LIMIT)
  local stop = mp.RawValue("b", 0)
  local inner = mp.Queue()
  local doubtful, killed, abandoned = {}, 0, false

  local function produce(p, from)
    for i = from, LIMIT - batch, batch do
      if stop.value ~= 0 then break end
      while q:qsize() > BACKLOG do mp.sleep(0.001) end
      if batch == 1 then
        assert(put(q, make_item(p, i, inner)) == true)
      else
        local list = {}
        for k = 1, batch do list[k] = make_item(p, i + k - 1, inner) end
        assert(q:put_many(list) == batch)
      end
      sent[p] = i + batch - 1
    end
  end

  local function consume()
    local last = {}
    while true do
      if opts.wait and #mp.wait({ q }, 20) == 0 then error("nothing comes") end
      local list, code
      if batch > 1 then
        list, code = q:get_many(batch, opts.wait and 0 or 20)
      else
        local item
        item, code = q:get(opts.wait and 0 or 20)
        list = { item }
      end
      if code == "closed" then break end
      if code == "empty" and not opts.wait then error("nothing comes") end
      for _, item in ipairs(list or {}) do
        check_item(item, inner)
        assert(not fifo or item.i > (last[item.p] or 0), "reordered")
        last[item.p] = item.i
        local at = (item.p - 1) * LIMIT + item.i
        seen[at] = seen[at] + 1
        q:task_done()
      end
    end
  end

  for p = 1, PRODUCERS do workers[p] = child(produce, p, 1) end
  for c = 1, CONSUMERS do workers[PRODUCERS + c] = child(consume) end

  local function replace(w)
    local p = workers[w]
    p:kill()
    assert(p:join(10))
    assert(p.exitcode == -9, ("worker %d ended with %d"):format(w, p.exitcode))
    p:close()
    if w > PRODUCERS then
      killed = killed + 1
      workers[w] = child(consume)
    else
      for i = sent[w] + 1, sent[w] + batch do doubtful[(w - 1) * LIMIT + i] = true end
      sent[w] = sent[w] + batch
      workers[w] = child(produce, w, sent[w] + 1)
    end
  end

  for _ = 1, opts.kills or 40 do
    if math.max(sent[1], sent[2], sent[3]) > LIMIT - 10000 then break end
    mp.sleep(random(8000) / 1e6)
    replace(random(#workers))
  end
  stop.value = 1
  finish(table.unpack(workers, 1, PRODUCERS))
  local joined, code = q:join(20)
  assert.is_true(joined)
  if code then abandoned = true end
  q:shutdown()
  finish(table.unpack(workers, PRODUCERS + 1))
  assert.is_true(q:empty())

  local missing, total = 0, 0
  for p = 1, PRODUCERS do
    for i = 1, sent[p] do
      local at = (p - 1) * LIMIT + i
      total = total + seen[at]
      if seen[at] > 1 then error(("item %d of %d came %d times"):format(i, p, seen[at])) end
      if seen[at] == 0 and not doubtful[at] then missing = missing + 1 end
    end
    for i = sent[p] + 1, LIMIT do
      if seen[(p - 1) * LIMIT + i] > 0 then error(("item %d of %d was never put"):format(i, p)) end
    end
  end
  assert.is_true(missing <= killed * batch, ("%d items are missing after %d kills"):format(missing,
    killed))
  assert.is_true(abandoned or missing == 0)
  assert.is_true(total > 100)
  q:close()
  inner:close()
  sent, seen = nil, nil
  core.collect()
end

local function run(q, opts)
  local workers = {}
  local ok, e = pcall(traffic, q, opts, workers)
  if not ok then
    for _, p in ipairs(workers) do pcall(p.kill, p) end
    error(("%s (seed %d)"):format(tostring(e), seed), 0)
  end
end

describe("Traffic goes on when workers are killed,", function()
  it("through a queue", function() run(mp.Queue(), {}) end)
  it("through a bounded queue", function() run(mp.Queue(7), {}) end)
  it("through a queue of one", function() run(mp.Queue(1), {}) end)
  it("many items at a time", function() run(mp.Queue(), { batch = 5 }) end)
  it("many items at a time, bounded", function() run(mp.Queue(7), { batch = 4 }) end)
  it("through a LIFO queue", function() run(mp.LifoQueue(), {}) end)
  it("through a bounded LIFO queue", function() run(mp.LifoQueue(7), { batch = 3 }) end)
  it("through a priority queue", function() run(mp.PriorityQueue(), {}) end)
  it("through a bounded priority queue", function() run(mp.PriorityQueue(7), {}) end)
  it("with consumers that wait by descriptor", function() run(mp.Queue(), { wait = true }) end)
  it("with consumers that wait by descriptor, bounded", function()
    run(mp.PriorityQueue(5), { wait = true })
  end)
end)

describe("The shared memory", function()
  it("is back at its base when those who make and pass objects are killed", function()
    local used = core.arena().used
    local q = mp.Queue()
    local function churn()
      local kept = {}
      for i = 1, math.maxinteger do
        local made = (i % 3 == 0 and mp.LifoQueue or i % 3 == 1 and mp.Queue or mp.PriorityQueue)()
        put(made, ("x"):rep(i % 100 * 200))
        put(made, q)
        q:put { made, mp.Lock() }
        if #kept > 10 then kept = {} end
        kept[#kept + 1] = q:get(0)
      end
    end
    local ps = {}
    for i = 1, 3 do ps[i] = child(churn) end
    for i = 1, 30 do
      mp.sleep(random(8000) / 1e6)
      kill(ps[i % 3 + 1])
      ps[i % 3 + 1] = child(churn)
    end
    kill(table.unpack(ps))
    while q:get(0) do end
    q:close()
    collectgarbage()
    collectgarbage()
    core.collect()
    assert.equal(used, core.arena().used)
  end)

  it("holds a large item wholly or not at all", function()
    local used = core.arena().used
    local q = mp.Queue()
    local item = ("0123456789abcdef"):rep(1 << 18)
    for _ = 1, 12 do
      local p = child(function() while q:put(item) do end end)
      mp.sleep(random(12000) / 1e6)
      kill(p)
      for _, got in ipairs(rest(q)) do assert.is_true(got == item) end
    end
    for _ = 1, 12 do
      for _ = 1, 3 do q:put(item) end
      local p = child(function() while q:get() do end end)
      mp.sleep(random(12000) / 1e6)
      kill(p)
      for _, got in ipairs(rest(q)) do assert.is_true(got == item) end
    end
    q:close()
    core.collect()
    assert.equal(used, core.arena().used)
  end)

  it("is not lost to processes that are killed as soon as they start", function()
    local used = core.arena().used
    local q = mp.Queue()
    q:put("item")
    for _ = 1, 100 do
      local p = child(function() mp.Queue():put(q) end)
      p:kill()
      assert.is_true(p:join(10))
      p:close()
    end
    assert.equal("item", q:get(0))
    q:close()
    core.collect()
    assert.equal(used, core.arena().used)
  end)
end)
