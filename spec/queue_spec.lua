local T = require "spec.helper"
local W = require "spec.workers"
local mp = require "mp"
local core = require "mp.core"

local child, finish, asleep = W.child, W.finish, W.asleep
local took, fails = W.took, W.fails

-- All kinds under one face: for a priority queue every priority is the same, which
-- makes it first in, first out.
local kinds = {
  {
    name = "Queue", make = mp.Queue,
    put = function(q, item, timeout) return q:put(item, timeout) end,
    put_nowait = function(q, item) return q:put_nowait(item) end,
  },
  {
    name = "LifoQueue", make = mp.LifoQueue,
    put = function(q, item, timeout) return q:put(item, timeout) end,
    put_nowait = function(q, item) return q:put_nowait(item) end,
  },
  {
    name = "PriorityQueue", make = mp.PriorityQueue,
    put = function(q, item, timeout) return q:put(item, 1, timeout) end,
    put_nowait = function(q, item) return q:put_nowait(item, 1) end,
  },
}

-- Puts n items into `out` that say who took what: for consumers that run side by side.
local function take_all(q, out)
  for item in q:items() do assert(out:put(item)) end
end

-- Bytes that compress to nothing: so that a piece in the wrong place shows.
local function text(bytes, seed)
  local words = {}
  for i = 1, 64 do words[i] = ("%016x"):format((i + seed) * 0x9E3779B97F4A7C15) end
  local block = table.concat(words)
  return block:rep(bytes // #block) .. block:sub(1, bytes % #block)
end

for _, kind in ipairs(kinds) do
  local put, put_nowait = kind.put, kind.put_nowait

  describe("Every queue: " .. kind.name, function()
    local make = kind.make

    it("keeps what is put until it is got", function()
      local q = make()
      assert.is_true(put(q, "a"))
      assert.equal("a", q:get())
      assert.is_true(put(q, { 1, { x = 2.5 } }, 1))
      assert.same({ 1, { x = 2.5 } }, q:get(1))
      assert.is_true(put_nowait(q, false))
      assert.is_false(q:get_nowait())
      assert.is_true(put(q, mp.null))
      assert.equal(mp.null, q:get())
    end)

    it("knows how much is in it", function()
      local q = make()
      assert.equal(0, q:qsize())
      assert.is_true(q:empty())
      assert.is_false(q:full())
      put(q, 1)
      put(q, 2)
      assert.equal(2, q:qsize())
      assert.is_false(q:empty())
      q:get()
      assert.equal(1, q:qsize())
      q:get()
      assert.is_true(q:empty())
    end)

    it("is of a kind, and tells what it is", function()
      local q = make()
      assert.equal("mp." .. kind.name, mp.type(q))
      assert.matches("^mp%." .. kind.name .. ": 0x%x+ %(0 items%)$", tostring(q))
      put(q, 1)
      assert.matches("%(1 item%)$", tostring(q))
      put(q, 2)
      assert.matches("%(2 items%)$", tostring(q))
      q:close()
      assert.matches("^mp%." .. kind.name .. ".*closed", tostring(q))
    end)

    it("has no bound without a maxsize, or with 0", function()
      for _, q in ipairs { make(), make(nil), make(0) } do
        for i = 1, 300 do assert.is_true(put(q, i, 0)) end
        assert.is_false(q:full())
        assert.equal(300, q:qsize())
      end
    end)

    it("takes a number of items as maxsize and nothing else", function()
      make(1)
      make(2.0)
      fails("bad argument #1 to 'make' %(.*maxsize", function() make(-1) end)
      fails("bad argument #1 to 'make' %(number has no integer", function() make(2.5) end)
      fails("bad argument #1 to 'make'", function() make(1 / 0) end)
      fails("bad argument #1 to 'make'", function() make(0 / 0) end)
      fails("number expected, got string", function() make("3") end)
      fails("number expected, got table", function() make {} end)
      fails("number expected, got boolean", function() make(true) end)
    end)

    it("is full at its maxsize", function()
      local q = make(2)
      assert.is_true(put(q, 1, 0))
      assert.is_false(q:full())
      assert.is_true(put_nowait(q, 2))
      assert.is_true(q:full())
      assert.same({ nil, "full", n = 2 }, table.pack(put(q, 3, 0)))
      assert.same({ nil, "full", n = 2 }, table.pack(put(q, 3, -1)))
      assert.same({ nil, "full", n = 2 }, table.pack(put_nowait(q, 3)))
      assert.equal(2, q:qsize())
      q:get()
      assert.is_false(q:full())
      assert.is_true(put(q, 3, 0))
    end)

    it("waits for room no shorter than asked", function()
      local q = make(1)
      put(q, 1)
      assert.is_true(took(function()
        assert.same({ nil, "full", n = 2 }, table.pack(put(q, 2, 0.12)))
      end) >= 0.12)
      assert.equal(1, q:qsize())
    end)

    it("lets a blocked put in when there is room", function()
      local q, ready = make(1), mp.Event()
      put(q, "first")
      local p = child(function()
        ready:set()
        assert(put(q, "second") == true)
      end)
      ready:wait()
      asleep(p)
      assert.equal("first", q:get())
      assert.equal("second", q:get(10))
      finish(p)
    end)

    it("is empty when there is nothing", function()
      local q = make()
      assert.same({ nil, "empty", n = 2 }, table.pack(q:get(0)))
      assert.same({ nil, "empty", n = 2 }, table.pack(q:get(-5)))
      assert.same({ nil, "empty", n = 2 }, table.pack(q:get_nowait()))
    end)

    it("waits for an item no shorter than asked", function()
      local q = make()
      for _, t in ipairs { 0.02, 0.25 } do
        assert.is_true(took(function()
          assert.same({ nil, "empty", n = 2 }, table.pack(q:get(t)))
        end) >= t)
      end
    end)

    it("wakes a blocked get", function()
      local q, out, ready = make(), mp.Queue(), mp.Event()
      local p = child(function()
        ready:set()
        out:put(q:get())
      end)
      ready:wait()
      asleep(p)
      put(q, "wake")
      assert.equal("wake", out:get(10))
      finish(p)
    end)

    it("wakes as many as there are items for", function()
      local q, out = make(), mp.Queue()
      local ps = {}
      for i = 1, 3 do ps[i] = child(function() out:put(q:get(10)) end) end
      asleep(table.unpack(ps))
      for i = 1, 3 do put(q, i) end
      local sum = 0
      for _ = 1, 3 do sum = sum + out:get(10) end
      assert.equal(6, sum)
      finish(table.unpack(ps))
    end)

    it("refuses times that are none", function()
      local q = make()
      fails("bad argument #1 to 'get' %(number of seconds or nil expected, got string",
        function() q:get("1") end)
      fails("bad argument #1 to 'get'", function() q:get(0 / 0) end)
      fails("number of seconds or nil expected, got boolean", function() put(q, 1, true) end)
      fails("number of seconds or nil expected, got table", function() q:join {} end)
      fails("number of seconds or nil expected", function() q:get_many(1, "x") end)
      assert.is_true(q:empty())
    end)

    it("does not take nil", function()
      local q = make()
      fails("bad argument #1 to 'put' %(nil cannot be put", function() q:put(nil, 1) end)
      fails("nil cannot be put", function() q:put() end)
      fails("bad argument #1 to 'put_nowait' %(nil cannot be put", function() q:put_nowait(nil, 1) end)
      assert.is_true(q:empty())
    end)

    it("raises what cannot cross, with the path, and stays as it was", function()
      local q = make()
      put(q, "before")
      fails("cannot marshal a thread at value%.jobs%[3%]%.co", function()
        put(q, { jobs = { {}, {}, { co = coroutine.create(print) } } })
      end)
      fails("cannot marshal a .*at value%.file", function() put(q, { file = io.stdout }) end)
      local log = coroutine.create(print)
      fails("upvalue 'log' of value%.f", function()
        put(q, { f = function() return log end })
      end)
      fails("cannot marshal", function() put_nowait(q, (string.gmatch("a", "a"))) end)
      assert.equal(1, q:qsize())
      assert.equal("before", q:get(0))
      assert.is_true(q:empty())
    end)

    it("carries functions with what they know", function()
      local q, n = make(), 3
      put(q, function(x) return x * n end)
      local p = child(function()
        local f = q:get(10)
        put(q, f(14))
      end)
      finish(p)
      assert.equal(42, q:get(0))
    end)

    it("carries items of any size", function()
      local q, back = make(), make()
      local p = child(function()
        for _ = 1, 7 do
          local item = q:get(10)
          assert(put(back, item))
        end
      end)
      for i, bytes in ipairs { 0, 1, 8191, 8192, 8193, 70001, 1048576 } do
        local item = text(bytes, i)
        put(q, item)
        assert.is_true(item == back:get(10))
      end
      finish(p)
    end)

    it("carries other shared objects, which arrive as the same", function()
      local q = make()
      local inner, lock, value = mp.Queue(), mp.Lock(), mp.Value("i", 7)
      put(q, { inner, lock, value, inner })
      local got = q:get()
      assert.is_true(rawequal(got[1], inner))
      assert.is_true(rawequal(got[2], lock))
      assert.is_true(rawequal(got[3], value))
      assert.is_true(rawequal(got[4], inner))
    end)

    it("goes through a queue itself", function()
      local q, carrier = make(), mp.Queue()
      put(q, "in it")
      carrier:put(q)
      assert.is_true(carrier:get() == q)
      local p = child(function()
        local mine, again = carrier:get(10), carrier:get(10)
        assert(mine == q and again == q) -- the handle that it was born with
        assert(mine:get(10) == "in it")
        put(mine, "from the child")
      end)
      carrier:put(q)
      carrier:put(q)
      finish(p)
      assert.equal("from the child", q:get(0))
    end)

    it("lives in a message when nobody else knows it", function()
      local q = mp.Queue()
      finish(child(function()
        local inner = make()
        put(inner, "left behind")
        q:put(inner)
      end))
      local inner = q:get(0)
      assert.equal("mp." .. kind.name, mp.type(inner))
      assert.equal("left behind", inner:get(0))
    end)

    it("goes with the message that nobody reads", function()
      local used, objects = core.arena().used, core.arena().objects
      local q = make()
      for _ = 1, 20 do
        local inner = make()
        put(inner, text(20000, 1))
        put(q, inner)
      end
      collectgarbage()
      collectgarbage()
      assert.equal(objects + 21, core.arena().objects)
      q:close()
      collectgarbage()
      assert.equal(used, core.arena().used)
    end)

    it("can hold itself", function()
      local objects = core.arena().objects
      local q = make()
      put(q, q)
      put(q, { me = q, n = 1 })
      assert.equal(2, q:qsize())
      local got = { q:get(), q:get() }
      local plain = rawequal(got[1], q) and got[2] or got[1]
      assert.is_true(rawequal(plain.me, q))
      put(q, q)
      q, got, plain = nil, nil, nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      core.collect() -- a cycle: only counting anew finds it
      assert.equal(objects, core.arena().objects)
    end)

    it("is made and dropped without a trace", function()
      local used = core.arena().used
      for i = 1, 300 do
        local q = make(i % 3)
        put(q, i)
        if i % 2 == 0 then q:close() end
      end
      collectgarbage()
      collectgarbage()
      assert.equal(used, core.arena().used)
    end)

    it("closes one's own handle only", function()
      local q, out, go = make(), mp.Queue(), mp.Event()
      local p = child(function()
        go:wait()
        out:put(q:get(10))
      end)
      put(q, "stays")
      q:close()
      go:set()
      assert.equal("stays", out:get(10))
      finish(p)
    end)

    it("is misused when it is closed, and says so", function()
      local q = make()
      q:close()
      q:close()
      local what = "mp%." .. kind.name .. " is closed"
      for _, name in ipairs { "get", "get_nowait", "qsize", "empty", "full", "task_done", "join",
        "items", "shutdown", "fileno" } do
        fails(what, function() q[name](q) end)
      end
      fails(what, function() put(q, 1) end)
      fails(what, function() put_nowait(q, 1) end)
      fails(what, function() q:get_many(1) end)
      fails("closed", function() mp.wait({ q }, 0) end)
      local carrier = mp.Queue()
      fails("cannot marshal.*closed .*at value%.q", function() carrier:put { q = q } end)
      assert.is_true(carrier:empty())
    end)

    it("is closed at the end of a scope", function()
      local seen
      do
        local q <close> = make()
        seen = q
      end
      fails("closed", function() seen:qsize() end)
    end)

    it("is not taken for something else", function()
      fails("mp.*Queue expected, got no value", function() make().get() end)
      fails("mp.*Queue expected, got table", function() make().get({}) end)
      fails("mp.*Queue expected, got", function() make().get(mp.Lock()) end)
      fails("mp.*Queue expected, got", function() make().get(io.stdout) end)
    end)

    it("takes no more when it is shut down, and gives what is left", function()
      local q = make()
      put(q, 1)
      put(q, 2)
      q:shutdown()
      q:shutdown()
      assert.same({ nil, "closed", n = 2 }, table.pack(put(q, 3)))
      assert.same({ nil, "closed", n = 2 }, table.pack(put_nowait(q, 3)))
      assert.equal(2, q:qsize())
      assert.equal(3, q:get() + q:get())
      assert.same({ nil, "closed", n = 2 }, table.pack(q:get()))
      assert.same({ nil, "closed", n = 2 }, table.pack(q:get(0)))
      assert.same({ nil, "closed", n = 2 }, table.pack(q:get_nowait()))
      assert.same({ nil, "closed", n = 2 }, table.pack(q:get_many(3)))
      assert.matches("shut down", tostring(q))
    end)

    it("wakes those who wait when it is shut down", function()
      local q, full = make(), make(1)
      put(full, 1)
      local ps = {
        child(function()
          local item, code = q:get()
          assert(item == nil and code == "closed")
        end),
        child(function()
          local list, code = q:get_many(5)
          assert(list == nil and code == "closed")
        end),
        child(function()
          local ok, code = put(full, 2)
          assert(ok == nil and code == "closed")
        end),
        child(function() for _ in q:items() do error("no item") end end),
        child(function() assert(mp.wait({ q })[1] == q) end),
      }
      asleep(table.unpack(ps))
      q:shutdown()
      full:shutdown()
      finish(table.unpack(ps))
      assert.equal(1, full:get())
    end)

    it("is shut down by any process, for all", function()
      local q = make()
      finish(child(function()
        put(q, "last")
        q:shutdown()
      end))
      assert.same({ nil, "closed", n = 2 }, table.pack(put(q, 1)))
      assert.equal("last", q:get())
      assert.same({ nil, "closed", n = 2 }, table.pack(q:get()))
    end)

    it("is iterated until it is shut down and drained", function()
      local q, n = make(), 0
      local p = child(function()
        for i = 1, 100 do put(q, i) end
        q:shutdown()
      end)
      for item in q:items() do n = n + item end
      assert.equal(5050, n)
      finish(p)
      assert.is_nil(q:items()())
    end)

    it("gives every item to one of those who iterate", function()
      local q, out = make(), mp.Queue()
      local ps = {}
      for i = 1, 3 do ps[i] = child(take_all, q, out) end
      for i = 1, 500 do put(q, i) end
      q:shutdown()
      finish(table.unpack(ps))
      local seen = {}
      for _ = 1, 500 do
        local item = out:get(0)
        assert.is_nil(seen[item])
        seen[item] = true
      end
      assert.equal(500, #seen)
      assert.is_true(out:empty())
    end)

    it("gives many at once: what is there, up to a number", function()
      local q = make()
      for _ = 1, 200 do put(q, 7) end
      assert.equal(5, #q:get_many(5))
      assert.equal(195, q:qsize())
      assert.equal(195, #q:get_many(1000, 0))
      assert.same({ nil, "empty", n = 2 }, table.pack(q:get_many(3, 0)))
      assert.is_true(took(function()
        assert.same({ nil, "empty", n = 2 }, table.pack(q:get_many(3, 0.1)))
      end) >= 0.1)
      fails("bad argument #1 to 'get_many'", function() q:get_many(0) end)
      fails("bad argument #1 to 'get_many'", function() q:get_many(-1) end)
      fails("bad argument #1 to 'get_many'", function() q:get_many() end)
      fails("bad argument #1 to 'get_many'", function() q:get_many("many") end)
    end)

    it("gives many as soon as there is one", function()
      local q, out = make(), mp.Queue()
      local p = child(function() out:put(q:get_many(10, 10)) end)
      asleep(p)
      put(q, "one")
      assert.same({ "one" }, out:get(10))
      finish(p)
    end)

    it("gives many of different sorts", function()
      local q = make()
      local inner = mp.Queue()
      local items = { 1, text(20000, 1), inner, "x", { 2 }, text(9000, 2), false, mp.null }
      for _, item in ipairs(items) do put(q, item) end
      local got = q:get_many(100)
      if kind.name == "LifoQueue" then
        for i = 1, #got // 2 do got[i], got[#got + 1 - i] = got[#got + 1 - i], got[i] end
      end
      assert.same(items, got)
      assert.is_true(rawequal(got[3], inner))
    end)

    it("is joined when all was marked done", function()
      local q = make()
      assert.is_true(q:join())
      assert.is_true(q:join(0))
      put(q, 1)
      put(q, 2)
      assert.is_false(q:join(0))
      q:get()
      q:task_done()
      assert.is_false(q:join(0))
      assert.is_true(took(function() assert.is_false(q:join(0.1)) end) >= 0.1)
      q:get()
      assert.is_nil(q:task_done())
      assert.same({ true, n = 1 }, table.pack(q:join()))
    end)

    it("wakes who joins it when the last is marked", function()
      local q = make()
      for i = 1, 50 do put(q, i) end
      local waiting = child(function() assert(q:join(10) == true) end)
      asleep(waiting)
      local workers = {}
      for i = 1, 2 do
        workers[i] = child(function()
          for _ in q:items() do q:task_done() end
        end)
      end
      finish(waiting)
      assert.is_true(q:join(0))
      q:shutdown()
      finish(table.unpack(workers))
    end)

    it("refuses to be marked more often than there were items", function()
      local q = make()
      fails("task_done", function() q:task_done() end)
      put(q, 1)
      q:get()
      q:task_done()
      fails("task_done", function() q:task_done() end)
      assert.is_true(q:join(0))
      put(q, 2)
      q:get()
      q:task_done()
      assert.is_true(q:join(0))
    end)

    it("may be marked by another than who took the item", function()
      local q = make()
      put(q, 1)
      q:get()
      finish(child(function() q:task_done() end))
      assert.same({ true, n = 1 }, table.pack(q:join(0)))
      fails("task_done", function() q:task_done() end)
    end)

    it("polls readable while items wait", function()
      local q = make()
      local fd = q:fileno()
      assert.equal("integer", math.type(fd))
      assert.equal(fd, q:fileno())
      assert.same({}, mp.wait({ fd }, 0))
      put(q, 1)
      assert.same({ fd }, mp.wait({ fd }, 0))
      put(q, 2)
      q:get()
      assert.same({ fd }, mp.wait({ fd }, 0))
      q:get()
      assert.same({ nil, "empty", n = 2 }, table.pack(q:get(0)))
      assert.same({}, mp.wait({ fd }, 0))
      put(q, 3)
      assert.same({ fd }, mp.wait({ fd }, 5))
      q:get()
      assert.same({}, mp.wait({ fd }, 0)) -- in vain only when another consumer was faster
      put(q, { q })
      assert.same({ fd }, mp.wait({ fd }, 5))
      q:get()
      assert.same({}, mp.wait({ fd }, 0))
      for i = 1, 3 do put(q, i) end
      assert.equal(3, #q:get_many(3))
      assert.same({}, mp.wait({ fd }, 0))
    end)

    it("polls readable for items that were there before", function()
      local q = make()
      put(q, 1)
      assert.equal(1, #mp.wait({ q:fileno() }, 0))
    end)

    it("is waited for with others", function()
      local a, b = make(), make()
      assert.same({}, mp.wait({ a, b }, 0))
      assert.is_true(took(function() assert.same({}, mp.wait({ a, b }, 0.1)) end) >= 0.1)
      put(b, 1)
      local ready = mp.wait({ a, b })
      assert.equal(1, #ready)
      assert.is_true(rawequal(ready[1], b))
      put(a, 1)
      assert.equal(2, #mp.wait({ a, b }, 0))
      a:get()
      b:get()
      assert.same({}, mp.wait({ a, b }, 0))
      local p = child(function() put(a, "from afar") end)
      assert.is_true(rawequal(mp.wait({ b, a }, 10)[1], a))
      assert.equal("from afar", a:get(0))
      finish(p)
    end)

    it("is waited for by several processes, each with a descriptor of its own", function()
      local q, out = make(), mp.Queue()
      q:fileno() -- what a child inherits of it is of no use there
      local ps = {}
      for i = 1, 3 do
        ps[i] = child(function()
          while true do
            assert(mp.wait({ q }, 10)[1] == q)
            local item, code = q:get(0)
            if code == "closed" then break end
            if item ~= nil then out:put(item) end
          end
        end)
      end
      local sum = 0
      for i = 1, 100 do
        put(q, i)
        if i % 10 == 0 then sum = sum + out:get(10) end
      end
      q:shutdown()
      finish(table.unpack(ps))
      while not out:empty() do sum = sum + out:get(0) end
      assert.equal(5050, sum)
    end)

    it("is interrupted, and goes on", function()
      local q, full, out = make(), make(1), mp.Queue()
      put(full, "old")
      local inside = {
        function() q:get() end,
        function() q:get(30) end,
        function() q:get_many(3) end,
        function() put(full, "new") end,
        function() full:join() end,
        function() for _ in q:items() do error("no item") end end,
        function() mp.wait { q } end,
        function() coroutine.wrap(function() q:get() end)() end,
        function() coroutine.wrap(function() put(full, "new") end)() end,
      }
      for i, f in ipairs(inside) do
        local p = child(function()
          local ok, e = pcall(f)
          out:put { i, ok, tostring(e) }
          assert(q:get(10) == "still works")
        end)
        asleep(p)
        p:interrupt()
        local got = out:get(10)
        assert.equal(i, got[1])
        assert.is_false(got[2])
        assert.matches("interrupted!", got[3])
        put(q, "still works")
        finish(p)
      end
      assert.is_true(q:empty())
      assert.equal(1, full:qsize())
      assert.equal("old", full:get(0))
    end)

    it("waits on after a process was stopped and continued", function()
      local q = make()
      local p = child(function()
        local t = mp.monotonic()
        local item, code = q:get(0.5)
        assert(item == nil and code == "empty")
        assert(mp.monotonic() - t >= 0.5)
      end)
      asleep(p)
      for _ = 1, 3 do os.execute(("kill -STOP %d; kill -CONT %d"):format(p.pid, p.pid)) end
      finish(p)
    end)
  end)
end

describe("Queue", function()
  it("has other names for ported code", function()
    for _, make in ipairs { mp.JoinableQueue, mp.SimpleQueue } do
      local q = make(1)
      assert.equal("mp.Queue", mp.type(q))
      q:put(1)
      assert.is_true(q:full())
    end
    for _, name in ipairs { "Queue", "JoinableQueue", "SimpleQueue" } do
      local _, message = pcall(mp[name], -1)
      assert.truthy(message:find("." .. name .. "'", 1, true), message)
    end
  end)

  it("is first in, first out, over all producers", function()
    local q = mp.Queue()
    for i = 1, 1000 do q:put(i) end
    for i = 1, 1000 do assert.equal(i, q:get(0)) end
    q:put("parent")
    finish(child(function() q:put("child") end))
    q:put("parent again")
    assert.same({ "parent", "child", "parent again" }, q:get_many(9))
  end)

  it("keeps the order of small, large and object items", function()
    local q, inner = mp.Queue(), mp.Lock()
    local p = child(function()
      for i = 1, 300 do
        local item = i
        if i % 3 == 0 then item = { i, text(i * 100, i) } end
        if i % 7 == 0 then item = { i, inner } end
        q:put(item)
      end
    end)
    for i = 1, 300 do
      local item = q:get(10)
      if i % 7 == 0 then
        assert.equal(i, item[1])
        assert.is_true(rawequal(inner, item[2]))
      elseif i % 3 == 0 then
        assert.equal(i, item[1])
        assert.is_true(item[2] == text(i * 100, i))
      else
        assert.equal(i, item)
      end
    end
    finish(p)
  end)

  for _, maxsize in ipairs { 0, 5 } do
    it("loses and reorders nothing of 4 producers and 3 consumers, maxsize " .. maxsize, function()
      local q, done = mp.Queue(maxsize), mp.Queue()
      local each = maxsize == 0 and 4000 or 1000
      local producers, consumers = {}, {}
      for c = 1, 3 do
        consumers[c] = child(function()
          local last, n, sum = { 0, 0, 0, 0 }, 0, { 0, 0, 0, 0 }
          for item in q:items() do
            local p, i = item[1], item[2]
            assert(i > last[p], "reordered")
            last[p], n, sum[p] = i, n + 1, sum[p] + i
          end
          done:put { n = n, sum = sum }
        end)
      end
      for p = 1, 4 do
        producers[p] = child(function()
          for i = 1, each do assert(q:put { p, i }) end
        end)
      end
      finish(table.unpack(producers))
      q:shutdown()
      finish(table.unpack(consumers))
      local n, sum = 0, { 0, 0, 0, 0 }
      for _ = 1, 3 do
        local r = done:get(0)
        n = n + r.n
        for p = 1, 4 do sum[p] = sum[p] + r.sum[p] end
      end
      assert.equal(4 * each, n)
      for p = 1, 4 do assert.equal(each * (each + 1) // 2, sum[p]) end
    end)
  end

  it("carries 32 MiB", function()
    local q, back = mp.Queue(), mp.Queue()
    local p = child(function() back:put(q:get(20)) end)
    local item = text(32 << 20, 5)
    q:put(item)
    assert.is_true(item == back:get(20))
    q:put { a = item, n = 1 }
    local got = q:get(0)
    assert.is_true(got.n == 1 and got.a == item)
    finish(p)
  end)

  it("gives memory back as it is read", function()
    local q = mp.Queue()
    local used = core.arena().used
    for i = 1, 3 do
      for k = 1, 3000 do q:put(text(500, k)) end
      for k = 1, 20 do q:put(text(100000, k)) end
      assert.is_true(core.arena().used > used + 3400000)
      for k = 1, 3000 do assert.is_true(text(500, k) == q:get(0)) end
      for k = 1, 20 do assert.is_true(text(100000, k) == q:get(0)) end
      -- the chunk at the end, and one in reserve
      assert.is_true(core.arena().used <= used + 2 * 65536, i)
    end
  end)

  it("lets a child end that has put 100 MiB which nobody reads", function()
    local q = mp.Queue()
    local item = text(1 << 20, 9)
    local p = child(function()
      for _ = 1, 100 do q:put(item) end
    end)
    finish(p)
    assert.equal(100, q:qsize())
    assert.is_true(item == q:get(0))
    q:close()
  end)

  it("holds what its producer has put when that is gone", function()
    local q = mp.Queue()
    local p = child(function()
      for i = 1, 1000 do q:put(i) end
      os.execute("kill -KILL " .. mp.getpid())
    end)
    p:join(10)
    assert.equal(-9, p.exitcode)
    p:close()
    for i = 1, 1000 do assert.equal(i, q:get(0)) end
    assert.is_true(q:empty())
  end)

  it("is made and collected 20000 times", function()
    T.limit(30)
    local used = core.arena().used
    for i = 1, 20000 do
      local q = mp.Queue()
      if i % 10 == 0 then q:put(i) end
    end
    collectgarbage()
    collectgarbage()
    assert.equal(used, core.arena().used)
    local all = {}
    for i = 1, 20000 do all[i] = mp.Queue() end
    all[20000]:put("last")
    assert.equal("last", all[20000]:get(0))
    assert.is_true(core.arena().used < used + 40 * 1024 * 1024)
    all = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.equal(used, core.arena().used)
  end)

  it("is made after a fork and sent to those who run already", function()
    local ctl, out = mp.Queue(), mp.Queue()
    local function serve(name)
      local mine = ctl:get(10)
      out:put { name, mine, mine:get(10) }
    end
    local a, b = child(serve, "a"), child(serve, "b")
    local q1, q2 = mp.Queue(), mp.Queue()
    q1:put(1)
    q2:put(2)
    ctl:put(q1)
    ctl:put(q2)
    for _ = 1, 2 do
      local got = out:get(10)
      assert.is_true(rawequal(got[2], got[3] == 1 and q1 or q2))
    end
    finish(a, b)
  end)

  it("is made in one child and used by another", function()
    local ctl, out = mp.Queue(), mp.Queue()
    local maker = child(function()
      local q = mp.Queue()
      ctl:put(q)
      out:put(q:get(10))
    end)
    local user = child(function() ctl:get(10):put("from a sibling") end)
    assert.equal("from a sibling", out:get(10))
    finish(maker, user)
  end)

  it("arrives as one and the same each time", function()
    local ctl = mp.Queue()
    finish(child(function()
      local q = mp.Queue()
      ctl:put { q, { q } }
      ctl:put(q)
      q:put("x")
    end))
    local first, second = ctl:get(0), ctl:get(0)
    assert.is_true(rawequal(first[1], second))
    assert.is_true(rawequal(first[1], first[2][1]))
    assert.equal("x", second:get(0))
  end)

  it("crosses as an argument of a process", function()
    local q = mp.Queue()
    local p = mp.Process { target = function(to, n) to:put(n) end, args = { q, 5 } }
    p:start()
    assert.equal(5, q:get(10))
    finish(p)
  end)

  it("answers requests through queues that come with them", function()
    local requests = mp.Queue()
    local server = child(function()
      for request in requests:items() do request.reply:put(request.n * 2) end
    end)
    for n = 1, 50 do
      local reply = mp.Queue()
      requests:put { n = n, reply = reply }
      assert.equal(2 * n, reply:get(10))
    end
    requests:shutdown()
    finish(server)
  end)

  it("nests without a limit", function()
    local q = mp.Queue()
    q:put("innermost")
    for _ = 1, 2000 do
      local outer = mp.Queue()
      outer:put(q)
      q = outer
    end
    collectgarbage()
    for _ = 1, 1000 do q = q:get(0) end
    assert.equal(1, q:qsize())
    q:close() -- takes the other thousand along
  end)

  it("puts many, and says how many went in", function()
    local q = mp.Queue(3)
    assert.same({ 2, n = 1 }, table.pack(q:put_many { 1, 2 }))
    assert.same({ 1, "full", n = 2 }, table.pack(q:put_many({ 3, 4, 5 }, 0)))
    assert.same({ 0, "full", n = 2 }, table.pack(q:put_many({ 4, 5 }, 0)))
    assert.is_true(took(function()
      assert.same({ 0, "full", n = 2 }, table.pack(q:put_many({ 4, 5 }, 0.1)))
    end) >= 0.1)
    assert.same({ 1, 2, 3 }, q:get_many(9))
    assert.same({ 0, n = 1 }, table.pack(q:put_many {}))
    q:shutdown()
    assert.same({ 0, "closed", n = 2 }, table.pack(q:put_many { 4, 5 }))
    assert.is_true(q:empty())
  end)

  it("puts many as room comes", function()
    local q = mp.Queue(4)
    local list = {}
    for i = 1, 500 do list[i] = i end
    local p = child(function()
      for i = 1, 500 do assert(q:get(10) == i) end
    end)
    assert.same({ 500, n = 1 }, table.pack(q:put_many(list, 15)))
    finish(p)
  end)

  it("says how many of many went in before it was shut down", function()
    local q, out = mp.Queue(2), mp.Queue()
    local p = child(function() out:put { q:put_many { 1, 2, 3, 4 } } end)
    asleep(p)
    q:shutdown()
    assert.same({ 2, "closed" }, out:get(10))
    assert.same({ 1, 2 }, q:get_many(9))
    finish(p)
  end)

  it("puts many of different sorts in order", function()
    local q, inner = mp.Queue(), mp.Queue()
    local list = { 1, text(20000, 1), inner, "x", text(9000, 2), { 2 }, false, mp.null, inner }
    for i = 1, 200 do list[#list + 1] = i end
    assert.equal(#list, (q:put_many(list)))
    assert.same(list, q:get_many(1000))
  end)

  it("puts none of many when one cannot cross", function()
    local q = mp.Queue()
    fails("cannot marshal a thread at value%[3%]%.co$", function()
      q:put_many { 1, 2, { co = coroutine.create(print) }, 4 }
    end)
    fails("cannot marshal a thread at value%[2%]$", function() q:put_many { print, coroutine.create(print) } end)
    fails("cannot marshal a thread at value$", function() q:put(coroutine.create(print)) end)
    fails("item 2 is nil", function() q:put_many({ 1, nil, 3 }) end)
    fails("bad argument #1 to 'put_many' %(table expected, got number", function() q:put_many(1) end)
    fails("number of seconds or nil expected", function() q:put_many({ 1 }, "soon") end)
    assert.is_true(q:empty())
  end)

  it("may be used while another item is being decoded or encoded", function()
    local q = mp.Queue()
    -- a hook that uses the queue while a blocked call waits
    local n = 0
    debug.sethook(function()
      n = n + 1
      if n < 4 then q:put("from the hook " .. n) end
    end, "", 1)
    local first = q:get(10)
    debug.sethook()
    assert.matches("from the hook 1", first)
    while not q:empty() do q:get(0) end
  end)

  it("has no unknown methods", function()
    assert.is_nil(mp.Queue().put_all)
    assert.is_nil(mp.PriorityQueue().put_many)
  end)
end)

describe("A full shared memory", function()
  local function run(script, size)
    local r = T.mplua(script, nil, { env = "MPLUA_SHM=" .. (size or "8M") })
    assert.equal("", r.err)
    assert.equal(0, r.code)
    return r.out
  end

  local prelude = [[
    local mp = require "mp"
    local function fill(put, make)
      local n, ok, e = 0, nil, nil
      repeat
        ok, e = pcall(put, make(n + 1))
        if ok then n = n + 1 end
      until not ok
      assert(tostring(e):find("shared memory is full (", 1, true), e)
      return n
    end
    local function numbered(bytes)
      return function(n) return ("%08d"):format(n) .. ("x"):rep(bytes) end
    end
  ]]

  for name, bytes in pairs { small = 50, middle = 3000, large = 60000, ["very large"] = 700000 } do
    it("loses nothing of a queue of items: " .. name, function()
      local out = run(prelude .. ([[
        local q = mp.Queue()
        local make = numbered(%d)
        for round = 1, 2 do
          local n = fill(function(x) assert(q:put(x) == true) end, make)
          assert(n * %d > 4000000, n)
          assert(q:qsize() == n)
          for i = 1, n do assert(q:get(0) == make(i), i) end
          assert(q:empty())
        end
        print "good"
      ]]):format(bytes, bytes + 8))
      assert.equal("good\n", out)
    end)
  end

  it("loses nothing of the other queues", function()
    local out = run(prelude .. [[
      for _, make in ipairs { mp.LifoQueue, mp.PriorityQueue } do
        local q = make()
        local n = fill(function(x) assert(q:put(x, 1) == true) end, numbered(1000))
        assert(q:qsize() == n)
        for i = 1, n do
          local item = q:get(0)
          assert(item == numbered(1000)(make == mp.LifoQueue and n + 1 - i or i), i)
        end
        assert(q:empty())
        assert(q:put("again", 1) and q:get() == "again")
        q:close()
      end
      print "good"
    ]])
    assert.equal("good\n", out)
  end)

  it("raises out of put_many as well, and keeps what went in", function()
    local out = run(prelude .. [[
      local q = mp.Queue()
      local list = {}
      for i = 1, 200000 do list[i] = numbered(100)(i) end
      local ok, e = pcall(q.put_many, q, list, 0)
      assert(not ok and e:find("shared memory is full", 1, true), e)
      local n = q:qsize()
      assert(n > 20000)
      for i = 1, n do assert(q:get(0) == list[i]) end
      assert(q:put_many({ 1, 2 }) == 2)
      print "good"
    ]])
    assert.equal("good\n", out)
  end)

  it("raises where an object is made, and comes back", function()
    local out = run(prelude .. [[
      local all = {}
      local n = fill(function(i) all[i] = mp.Queue() end, function(i) return i end)
      assert(n > 3000)
      all = nil
      collectgarbage()
      local q = mp.Queue()
      q:put(("x"):rep(1000000))
      assert(#q:get() == 1000000)
      print "good"
    ]])
    assert.equal("good\n", out)
  end)

  it("has room again for what a process has dropped", function()
    local out = run([[
      local mp = require "mp"
      for i = 1, 200 do
        local q = mp.Queue()
        q:put(("x"):rep(1000000))
      end
      print "good"
    ]])
    assert.equal("good\n", out)
  end)

  it("has room again when a process with much of it is killed", function()
    local out = run([[
      local mp = require "mp"
      local ready = mp.Event()
      for i = 1, 3 do
        ready:clear()
        local p = mp.Process(function()
          local q = mp.Queue()
          while pcall(q.put, q, ("x"):rep(100000)) do end
          ready:set()
          mp.sleep(60)
        end)
        p:start()
        assert(ready:wait(10))
        p:kill()
        p:join()
      end
      local q = mp.Queue()
      q:put(("x"):rep(5000000))
      assert(#q:get() == 5000000)
      print "good"
    ]])
    assert.equal("good\n", out)
  end)

  it("lets other processes go on", function()
    local out = run(prelude .. [[
      local q, out = mp.Queue(), mp.Queue()
      local p = mp.Process(function()
        local sum = 0
        for item in q:items() do sum = sum + tonumber(item:sub(1, 8)) end
        out:put(sum)
      end)
      local n = fill(function(x) q:put(x) end, numbered(5000))
      p:start()
      for i = n + 1, n + 100 do
        while not pcall(q.put, q, numbered(5000)(i)) do mp.sleep(0.001) end
      end
      q:shutdown()
      assert(out:get() == (n + 100) * (n + 101) // 2)
      p:join()
      print "good"
    ]])
    assert.equal("good\n", out)
  end)
end)

describe("A queue in an odd place", function()
  local script = [[
    local mp = require "mp"
    local q, back = mp.Queue(), mp.Queue(2)
    local p = mp.Process(function()
      for item in q:items() do back:put(#item) end
    end)
    p:start()
    for i = 1, 20 do
      q:put(("x"):rep(i * 1000))
      assert(back:get() == i * 1000)
    end
    q:shutdown()
    p:join()
    assert(p.exitcode == 0)
    local file = assert(io.open(arg[1], "w"))
    file:write("good")
    file:close()
  ]]

  local function check(env, redirections)
    local base = T.tmpname()
    local file = assert(io.open(base .. ".lua", "w"))
    file:write(script)
    file:close()
    local out, code = T.shell(("%s %s %s.lua %s.out %s"):format(env, T.quote(T.exe), base, base,
      redirections or ""))
    local result = T.read(base .. ".out")
    os.remove(base .. ".lua")
    os.remove(base .. ".out")
    assert.equal("", out)
    assert.equal(0, code)
    assert.equal("good", result)
  end

  it("works under a limit of address space", function()
    if T.sanitized then pending("not with sanitizers") end
    check("ulimit -v 400000;")
    check("ulimit -v 60000;")
  end)

  it("leaves half of a limited address space to private memory", function()
    if T.sanitized then pending("not with sanitizers") end
    local r = T.mplua([[
      local q = require "mp".Queue()
      for i = 1, 5 do q:put(("x"):rep(10 << 20)) end
      local all = q:get_many(5)
      print(#all, #all[5] >> 20)
    ]], nil, { env = "ulimit -v 400000;" })
    assert.same({ out = "5\t10\n", err = "", code = 0 }, r)
  end)

  it("works under a limit of file sizes", function() check("ulimit -f 20000;") end)

  it("says so where files may not have the size that it needs", function()
    local r = T.mplua("require 'mp'.Queue()", nil, { env = "ulimit -f 1000;" })
    assert.equal(1, r.code)
    assert.matches("cannot make the shared memory: File too large", r.err)
  end)

  it("works with closed standard streams", function()
    for _, closed in ipairs { "<&-", "<&- >&-", "<&- >&- 2>&-" } do check("", closed) end
  end)

  it("works in an empty environment", function() check("cd / && env -i") end)

  it("works with few descriptors, but for fileno, which says so", function()
    check("ulimit -n 20;")
    local r = T.mplua([[
      local mp = require "mp"
      local all = {}
      local ok, e
      repeat
        all[#all + 1] = mp.Queue()
        ok, e = pcall(all[#all].fileno, all[#all])
      until not ok
      print(e)
      local q = all[#all]
      q:put(1)
      assert(q:get() == 1)
    ]], nil, { env = "ulimit -n 30;" })
    assert.equal("", r.err)
    assert.matches("cannot make a descriptor for a queue: Too many open files", r.out)
  end)
end)

describe("Ctrl-C in a blocked get", function()
  -- The child sends SIGINT to its parent when that sleeps.
  local prelude = [[
    local mp = require "mp"
    local q = mp.Queue()
    local function later()
      local main = mp.getpid()
      local p = mp.Process(function()
        local state
        repeat
          local file = io.open(("/proc/%d/stat"):format(main))
          state = file:read("a"):match("^.*%) (%a)")
          file:close()
        until state == "S"
        os.execute("kill -INT " .. main)
      end)
      p:start()
      return p
    end
  ]]

  it("ends a script", function()
    local r = T.mplua(prelude .. [[
      later()
      q:get()
      print "not reached"
    ]])
    assert.equal("", r.out)
    assert.matches("interrupted!", r.err)
    assert.equal(1, r.code)
  end)

  it("can be caught, and the queue goes on", function()
    for _, call in ipairs {
      "q.get, q",
      "q.get, q, 30",
      "coroutine.wrap(function() q:get() end)",
      "coroutine.wrap(function() coroutine.wrap(function() q:get_many(2) end)() end)",
    } do
      local r = T.mplua(prelude .. ([[
        local p = later()
        local ok, e = pcall(%s)
        print(ok, (tostring(e):match("interrupted!")))
        p:join()
        q:put(1)
        print(q:get(), q:get(0))
      ]]):format(call))
      assert.equal("", r.err)
      assert.equal("false\tinterrupted!\n1\tnil\tempty\n", r.out)
      assert.equal(0, r.code)
    end
  end)

  it("unwinds a child without a word", function()
    local r = T.mplua([[
      local mp = require "mp"
      local q, ready = mp.Queue(), mp.Event()
      local p = mp.Process(function()
        local _ <close> = setmetatable({}, { __close = function() print("closing"); io.flush() end })
        ready:set()
        q:get()
      end)
      p:start()
      ready:wait()
      p:interrupt()
      p:join()
      print(p.exitcode)
    ]])
    assert.equal("closing\n-2\n", r.out)
    assert.equal("", r.err)
  end)
end)
