require "spec.helper"
local W = require "spec.workers"
local mp = require "mp"

local child, finish, asleep, fails = W.child, W.finish, W.asleep, W.fails

describe("LifoQueue", function()
  it("gives the last first", function()
    local q = mp.LifoQueue()
    for i = 1, 100 do q:put(i) end
    for i = 100, 51, -1 do assert.equal(i, q:get(0)) end
    q:put("new")
    assert.equal("new", q:get(0))
    for i = 50, 1, -1 do assert.equal(i, q:get(0)) end
    assert.is_true(q:empty())
  end)

  it("gives the last first, whoever put it", function()
    local q = mp.LifoQueue()
    q:put("parent")
    finish(child(function() q:put("child") end))
    q:put("parent again")
    assert.same({ "parent again", "child", "parent" }, q:get_many(10))
  end)

  it("gives many in that order", function()
    local q = mp.LifoQueue()
    for i = 1, 200 do q:put(i) end
    local got = q:get_many(150)
    assert.equal(150, #got)
    for i = 1, 150 do assert.equal(201 - i, got[i]) end
    assert.equal(50, q:qsize())
  end)

  it("puts many, the last of them on top", function()
    local q = mp.LifoQueue(3)
    assert.same({ 3, "full", n = 2 }, table.pack(q:put_many({ 1, 2, 3, 4 }, 0)))
    assert.equal(3, q:get())
    assert.equal(2, q:get())
    assert.same({ 2, n = 1 }, table.pack(q:put_many { 8, 9 }))
    assert.same({ 9, 8, 1 }, q:get_many(5))
    q:shutdown()
    assert.same({ 0, "closed", n = 2 }, table.pack(q:put_many { 1 }))
  end)

  it("loses nothing of several producers and consumers", function()
    local q, done = mp.LifoQueue(), mp.Queue()
    local producers, consumers = {}, {}
    for c = 1, 3 do
      consumers[c] = child(function()
        local n, sum = 0, 0
        for item in q:items() do n, sum = n + 1, sum + item end
        done:put { n, sum }
      end)
    end
    for p = 1, 4 do
      producers[p] = child(function()
        for i = 1, 1000 do assert(q:put(i * 10 + p)) end
      end)
    end
    finish(table.unpack(producers))
    q:shutdown()
    finish(table.unpack(consumers))
    local n, sum = 0, 0
    for _ = 1, 3 do
      local r = done:get(0)
      n, sum = n + r[1], sum + r[2]
    end
    assert.equal(4000, n)
    assert.equal(4 * 10 * 500500 + 1000 * 10, sum)
  end)

  it("takes no priority: the second argument is the time-out", function()
    local q = mp.LifoQueue(1)
    assert.is_true(q:put("a", 0))
    assert.same({ nil, "full", n = 2 }, table.pack(q:put("b", 0)))
  end)
end)

describe("PriorityQueue", function()
  it("gives the lowest number first", function()
    local q = mp.PriorityQueue()
    local order = {}
    for i = 1, 500 do order[i] = (i * 7919) % 1009 end
    for _, n in ipairs(order) do q:put(n, n) end
    table.sort(order)
    for _, n in ipairs(order) do assert.equal(n, q:get(0)) end
    assert.is_true(q:empty())
  end)

  it("is first in, first out among equals", function()
    local q = mp.PriorityQueue()
    for i = 1, 300 do q:put({ i % 3, i }, i % 3) end
    local last, priority = 0, 0
    for _ = 1, 300 do
      local item = q:get(0)
      assert.is_true(item[1] >= priority)
      if item[1] > priority then last, priority = 0, item[1] end
      assert.is_true(item[2] > last)
      last = item[2]
    end
  end)

  it("is first in, first out among equals over processes", function()
    local q = mp.PriorityQueue()
    q:put("first", 5)
    finish(child(function() q:put("second", 5) end))
    q:put("third", 5)
    q:put("urgent", 1)
    assert.same({ "urgent", "first", "second", "third" }, q:get_many(10))
  end)

  it("takes fractions, negative numbers and infinities", function()
    local q = mp.PriorityQueue()
    for _, n in ipairs { 1.5, -2, 0, 1 / 0, -1 / 0, 1, 1e300, -1e-300 } do q:put(n, n) end
    assert.same({ -1 / 0, -2, -1e-300, 0, 1, 1.5, 1e300, 1 / 0 }, q:get_many(10))
  end)

  it("wants a priority with every item", function()
    local q = mp.PriorityQueue()
    fails("bad argument #2 to 'put' %(number expected, got no value", function() q:put("a") end)
    fails("bad argument #2 to 'put' %(number expected, got nil", function() q:put("a", nil, 1) end)
    fails("bad argument #2 to 'put' %(number expected, got table", function() q:put("a", {}) end)
    fails("bad argument #2 to 'put' %(.*NaN", function() q:put("a", 0 / 0) end)
    fails("bad argument #2 to 'put_nowait'", function() q:put_nowait("a") end)
    fails("bad argument #3 to 'put'", function() q:put("a", 1, "soon") end)
    assert.is_true(q:empty())
    assert.is_true(q:put_nowait("a", 2))
    assert.equal("a", q:get())
  end)

  it("has no put_many", function() assert.is_nil(mp.PriorityQueue().put_many) end)

  it("waits for room with the time-out after the priority", function()
    local q = mp.PriorityQueue(1)
    q:put("later", 9)
    assert.same({ nil, "full", n = 2 }, table.pack(q:put("now", 1, 0)))
    assert.is_true(W.took(function()
      assert.same({ nil, "full", n = 2 }, table.pack(q:put("now", 1, 0.1)))
    end) >= 0.1)
    assert.same({ nil, "full", n = 2 }, table.pack(q:put_nowait("now", 1)))
  end)

  it("gives a blocked get what is lowest then", function()
    local q, out = mp.PriorityQueue(), mp.Queue()
    local p = child(function()
      out:put(q:get(10))
      out:put(q:get_many(10, 10))
    end)
    asleep(p)
    q:put("only", 7)
    assert.equal("only", out:get(10))
    asleep(p)
    q:put("last", 7)
    assert.same({ "last" }, out:get(10))
    finish(p)
  end)

  it("mixes gets and puts", function()
    local q = mp.PriorityQueue()
    local model = {}
    local state = 42
    local function rand(n)
      state = (state * 1103515245 + 12345) % 2147483648
      return state // 65536 % n + 1
    end
    for i = 1, 3000 do
      if rand(5) > 2 or #model == 0 then
        local priority = rand(20)
        q:put(i, priority)
        local at = #model + 1
        while at > 1 and model[at - 1][1] > priority do at = at - 1 end
        table.insert(model, at, { priority, i })
      else
        assert.equal(table.remove(model, 1)[2], q:get(0))
      end
    end
    assert.equal(#model, q:qsize())
    for _, entry in ipairs(model) do assert.equal(entry[2], q:get(0)) end
  end)

  it("keeps the order of each producer at every consumer", function()
    local q, done = mp.PriorityQueue(), mp.Queue()
    local producers, consumers = {}, {}
    for p = 1, 4 do
      producers[p] = child(function()
        for i = 1, 500 do assert(q:put({ p, i }, i % 2)) end
      end)
    end
    finish(table.unpack(producers))
    for c = 1, 3 do
      consumers[c] = child(function()
        local n, last, odd = 0, {}, false
        for item in q:items() do
          local p, i = item[1], item[2]
          local is_odd = i % 2 == 1
          assert(is_odd or not odd, "an even one after an odd one")
          odd = is_odd
          local key = p * 2 + i % 2
          assert(i > (last[key] or 0), "reordered")
          last[key], n = i, n + 1
        end
        done:put(n)
      end)
    end
    q:shutdown()
    finish(table.unpack(consumers))
    assert.equal(2000, done:get(0) + done:get(0) + done:get(0))
  end)

  it("carries items of any size with their priority", function()
    local q = mp.PriorityQueue()
    for i = 1, 20 do q:put({ i, ("x"):rep(i * 5000) }, -i) end
    for i = 20, 1, -1 do
      local item = q:get(0)
      assert.equal(i, item[1])
      assert.equal(i * 5000, #item[2])
    end
  end)

  it("gives the memory of its index back", function()
    local arena = require("mp.core").arena
    local used = arena().used
    local q = mp.PriorityQueue()
    for i = 1, 5000 do q:put(i, -i) end
    for i = 5000, 1, -1 do assert.equal(i, q:get(0)) end
    q:close()
    assert.equal(used, arena().used)
  end)
end)
