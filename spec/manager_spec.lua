-- mp.Manager in its family: containers, values, pools, own types, lives and deaths.
local T = require "spec.helper"
local mp = require "mp"

local start, finish = T.start, T.finish

local function fails(pattern, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(err))
  return err
end

--- The same, with the error at the caller's line.
local function misused(pattern, f, ...)
  fails("^spec/manager_spec%.lua:%d+: .*" .. pattern, f, ...)
end

local function pid_of(manager) return tonumber(tostring(manager):match "pid (%d+)") end

local manager

local function with_manager(class, options)
  before_each(function() manager = (class or mp.Manager)(options) end)
  after_each(function()
    manager:shutdown()
    manager = nil
  end)
end

--- In a child, which must succeed.
local function in_child(f, ...) assert.equal(0, finish(start(f, ...))) end

describe("a manager", function()
  it("is started, shut down, and shut down again", function()
    local m = mp.Manager()
    assert.equal("mp.Manager", mp.type(m))
    assert.matches("^mp.Manager: Manager%-[%d:]+ %(started, pid %d+%)$", tostring(m))
    assert.is_nil(m.address)
    local pid = pid_of(m)
    assert.is_true(T.alive(pid))
    m:shutdown()
    assert.is_false(T.alive(pid))
    m:shutdown()
    misused("was shut down", function() m:dict() end)
    misused("was shut down", function() m:start() end)
  end)

  it("ends with its scope", function()
    local pid
    do
      local m <close> = mp.Manager()
      pid = pid_of(m)
    end
    assert.is_false(T.alive(pid))
  end)

  it("is no child that scripts see", function()
    local m <close> = mp.Manager()
    m:dict()
    assert.same({}, mp.active_children())
  end)

  it("is started once", function()
    local m <close> = mp.Manager()
    misused("was started already", function() m:start() end)
    misused("was started already", function() m:connect() end)
    misused("was started already", function() m:serve_forever() end)
  end)

  it("with an address does nothing before it is told to", function()
    local m = mp.Manager { address = { "localhost", 0 } }
    misused("was not started", function() m:dict() end)
    m:shutdown()
  end)

  it("wants options that there are", function()
    misused("unknown option 'adress'; known options: address, allow_code, authkey, max_message, timeout",
      mp.Manager, { adress = "x" })
    misused("option 'timeout': positive number of seconds expected, got 0", mp.Manager, { timeout = 0 })
    misused("option 'authkey': string expected", mp.Manager, { authkey = 5 })
    misused("table expected", mp.Manager, 5)
  end)

  it("with a bad address says so itself, when it is made", function()
    misused("bad argument #1 to 'Manager' %(an address is {host, port}, with a port from 0 to 65535%)",
      mp.Manager, { address = { "localhost", "x" } })
    misused("bad argument #1 to 'Manager' %(the path of a socket has 1 to 107 bytes, this one has 0%)",
      mp.Manager, { address = "" })
  end)

  it("has no other fields", function()
    local m <close> = mp.Manager()
    assert.is_nil(m.nosuch)
    fails("calling 'dict' on bad self", function() m.dict() end)
  end)

  it("ends after the children of its script", function()
    local r = T.mplua [[
      local mp = require "mp"
      local m = mp.Manager()
      local d = m:dict()
      mp.Process(function()
        mp.sleep(0.2)
        d.late = 1
        print(d.late)
      end):start()
    ]]
    assert.same({ out = "1\n", err = "", code = 0 }, r)
  end)

  it("ends with a script that fails, or is killed", function()
    local r = T.mplua [[
      local m = require "mp".Manager()
      print(tostring(m):match "pid (%d+)")
      error "oops"
    ]]
    assert.equal(1, r.code)
    assert.is_false(T.alive(tonumber(r.out)))
    r = T.mplua [[
      local m = require "mp".Manager()
      print(tostring(m):match "pid (%d+)")
      io.stdout:flush()
      os.execute("kill -9 " .. require "mp".getpid())
    ]]
    local pid = tonumber(r.out)
    assert.is_true(T.wait_until(function() return not T.alive(pid) end, 10))
  end)

  it("leaves nothing behind, five times over", function() -- the helper looks
    for _ = 1, 5 do
      local m <close> = mp.Manager()
      local d = m:dict { a = m:list { 1 } }
      in_child(function() d.a:append(2) end)
      assert.equal(2, #d.a)
    end
  end)

  it("ends by itself when nobody refers to it any more", function()
    local r = T.mplua [[
      local mp = require "mp"
      local m = mp.Manager()
      local pid = tostring(m):match "pid (%d+)"
      local d = m:dict()
      m, d = nil, nil
      collectgarbage() collectgarbage()
      local f
      for _ = 1, 200 do
        f = io.open("/proc/" .. pid .. "/stat")
        local state = f and f:read "a":match "%) (%a)"
        if f then f:close() end
        if state ~= "S" and state ~= "R" then print "ended" break end
        mp.sleep(0.02)
      end
    ]]
    assert.equal("ended\n", r.out)
  end)

  it("that was dropped is reaped at the next look at children, and leaves no hook", function()
    local r = T.mplua [[
      local mp = require "mp"
      local hooks = 0
      local process = require "mp.process"
      local at_exit = process.at_exit
      process.at_exit = function(...)
        local unhook = at_exit(...)
        hooks = hooks + 1
        local left = false
        return function()
          if not left then left, hooks = true, hooks - 1 end
          return unhook()
        end
      end
      local function any(n, look)
        for _ = 1, n do
          local m = mp.Manager()
          assert(m:dict { a = 1 }.a == 1)
        end
        collectgarbage() collectgarbage()
        local deadline = mp.monotonic() + 10
        repeat
          look()
          mp.sleep(0.02)
        until hooks == 0 or mp.monotonic() > deadline
        print(hooks, (io.popen("ps --ppid " .. mp.getpid() .. " -o stat=,comm=", "r"):read "a":gsub("[^\n]*ps\n", "")
          :gsub("[^\n]*sh\n", "")))
      end
      any(10, mp.active_children)
      any(3, function() local p = mp.Process(function() end) p:start() p:join() end)
      any(3, mp.arena)
      local joined = mp.Process(mp.sleep, 20)
      joined.daemon = true
      joined:start()
      local m = mp.Manager()
      os.execute("kill -9 " .. tostring(m):match "pid (%d+)")
      repeat joined:join(0.02) until hooks == 0
      m:shutdown()
      print(#mp.arena().processes)
    ]]
    assert.same({ out = "0\t\n0\t\n0\t\n2\n", err = "", code = 0 }, r)
  end)

  it("with an address that was dropped ends when nobody is connected any more", function()
    local My = mp.Manager:extend("My")
    local m = My { address = { "127.0.0.1", 0 }, authkey = "key" }
    m:start()
    local pid, address = pid_of(m), m.address
    local other = My { address = address, authkey = "key" }
    assert.is_true(other:connect(5))
    m = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    mp.sleep(0.5)
    assert.equal(1, other:dict { a = 1 }.a)
    other = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(T.wait_until(function()
      mp.active_children()
      return not T.alive(pid)
    end))
    mp.active_children()
  end)

  it("does not notice Ctrl-C", function()
    local m <close> = mp.Manager()
    local d = m:dict { a = 1 }
    os.execute("kill -INT " .. pid_of(m))
    assert.equal(1, d.a)
  end)

  it("keeps no connection open that it has inherited", function()
    local a, b = mp.Pipe()
    local m <close> = mp.Manager()
    local d = m:dict()
    d.x = 1 -- it runs
    b:close()
    assert.same({ nil, "eof" }, { a:recv(10) })
    a:close()
  end)
end)

describe("a dict of a manager", function()
  with_manager()

  it("has its items as fields, whatever their names", function()
    local d = manager:dict { a = 1 }
    d.keys, d.get, d[1], d[2.0], d[0.25], d[true], d[mp.null] = "k", "g", "one", "two", "q", "t", "n"
    assert.equal(8, #d)
    assert.same({ 1, "k", "g", "one", "two", "q", "t", "n" },
      { d.a, d.keys, d.get, d[1], d[2], d[0.25], d[true], d[mp.null] })
    assert.is_nil(d.nosuch)
    assert.is_nil(d[nil])
    d.a = nil
    assert.equal(7, #d)
    assert.is_nil(d.a)
    d.nosuch = nil
    assert.equal(7, #d)
  end)

  it("keeps the order of their coming", function()
    local d = manager:dict()
    for _, key in ipairs { "z", "a", 3, "m" } do d[key] = key end
    d.z = nil
    d.z = "again"
    local seen = {}
    for key, value in pairs(d) do seen[#seen + 1] = tostring(key) .. tostring(value) end
    assert.same({ "aa", "33", "mm", "zagain" }, seen)
    assert.same({ "a", 3, "m", "z" }, mp.dict.keys(d))
    assert.same({ "a", 3, "m", "again" }, mp.dict.values(d))
    assert.equal('{a = "a", [3] = 3, m = "m", z = "again"}', tostring(d))
  end)

  it("is shown with what is in it", function()
    local d = manager:dict()
    assert.equal("{}", tostring(d))
    d["a b"] = "q\"\n"
    d.n = mp.null
    d.t = { 1, { x = true } }
    d.l = manager:list()
    assert.equal([[{["a b"] = "q\"\n", n = null, t = {1, {x = true}}, l = <mp.ListProxy>}]], tostring(d))
    assert.equal("mp.DictProxy", mp.type(d))
    d.itself = d
    assert.matches("itself = <mp.DictProxy>", tostring(d))
  end)

  it("refuses keys that do not find themselves again", function()
    local d = manager:dict()
    misused("a key of a manager's dict cannot be a table", function() d[{}] = 1 end)
    misused("a key of a manager's dict cannot be NaN", function() d[0 / 0] = 1 end)
    misused("a key of a manager's dict cannot be nil", function() d[nil] = 1 end)
    misused("a key of a manager's dict cannot be a function", function() d[print] = 1 end)
    misused("cannot marshal a thread", function() d.x = coroutine.create(print) end)
    assert.equal(0, #d)
    misused("bad argument #1 to 'dict' %(table expected, got number%)", function() manager:dict(5) end)
  end)

  it("has operations that no key hides", function()
    local d = manager:dict { get = 1 }
    assert.equal(1, mp.dict.get(d, "get"))
    assert.equal("no", mp.dict.get(d, "x", "no"))
    assert.is_nil(mp.dict.get(d, "x"))
    assert.equal(1, mp.dict.pop(d, "get"))
    assert.equal("no", mp.dict.pop(d, "get", "no"))
    assert.equal(5, mp.dict.setdefault(d, "s", 5))
    assert.equal(5, mp.dict.setdefault(d, "s", 6))
    mp.dict.update(d, { s = 7, u = 8 })
    assert.same({ s = 7, u = 8 }, mp.dict.copy(d))
    mp.dict.update(d, manager:dict { u = 9 })
    assert.is_true(mp.dict.contains(d, "u"))
    assert.is_false(mp.dict.contains(d, "v"))
    local items = mp.dict.items(manager:dict { one = 1 })
    assert.equal("one", items[1][1])
    assert.equal(1, items[1][2])
    local seen = {}
    for key, value in mp.dict.items(d) do seen[key] = value end
    assert.same({ s = 7, u = 9 }, seen)
    mp.dict.clear(d)
    assert.equal(0, #d)
    misused("a dict or Namespace of a manager expected, got table", mp.dict.keys, {})
    misused("bad argument #2 to 'update' %(table expected, got number%)", mp.dict.update, d, 5)
  end)

  it("adds in one step", function()
    local d = manager:dict()
    assert.equal(1, mp.dict.incr(d, "n"))
    assert.equal(3.5, mp.dict.incr(d, "n", 2.5))
    d.text = "x"
    misused("cannot increment a string value %(item 'text'%)", mp.dict.incr, d, "text")
    misused("number expected, got string", mp.dict.incr, d, "n", "x")
    local ps = {}
    for i = 1, 4 do
      ps[i] = start(function()
        for _ = 1, 200 do mp.dict.incr(d, "total") end
      end)
    end
    for i = 1, 4 do assert.equal(0, finish(ps[i])) end
    assert.equal(800, d.total)
  end)

  it("gives copies of plain tables, and keeps proxies live", function()
    local d = manager:dict { plain = { 1 }, live = manager:list { 1 } }
    table.insert(d.plain, 2)
    d.live:append(2)
    assert.same({ 1 }, d.plain)
    assert.equal(2, #d.live)
    in_child(function() d.live:append(3) end)
    assert.equal("{1, 2, 3}", tostring(d.live))
    assert.equal(d.live, d.live)
    assert.are_not.equal(d.live, d)
  end)

  it("keeps shared objects as what they are", function()
    local q = mp.Queue()
    local d = manager:dict { q = q }
    in_child(function() d.q:put "through" end)
    assert.equal("through", q:get(10))
  end)
end)

describe("a Namespace of a manager", function()
  with_manager()

  it("is a dict that shows what it is", function()
    local ns = manager:Namespace { x = 1 }
    ns.y = { 2 }
    ns.x = ns.x * 10
    assert.equal("Namespace{x = 10, y = {2}}", tostring(ns))
    assert.same({ "x", "y" }, mp.dict.keys(ns))
    assert.equal("mp.NamespaceProxy", mp.type(ns))
  end)
end)

describe("a list of a manager", function()
  with_manager()

  it("is indexed, grows by one, and shrinks at its end", function()
    local l = manager:list { 1, 2 }
    l[#l + 1] = 3
    l[1] = "one"
    assert.same({ "one", 2, 3 }, { l[1], l[2], l[3] })
    assert.is_nil(l[4])
    assert.is_nil(l[0])
    assert.is_nil(l.nosuch)
    misused("index 5 is out of range in 'set' of a list of 3", function() l[5] = 1 end)
    misused("index 0 is out of range", function() l[0] = 1 end)
    misused("integer expected, got string", function() l.x = 1 end)
    misused("cannot be nil", function() l[1] = nil end)
    l[3] = nil
    assert.equal(2, #l)
    local seen = {}
    for i, value in ipairs(l) do seen[i] = value end
    assert.same({ "one", 2 }, seen)
    assert.equal('{"one", 2}', tostring(l))
    assert.equal("one, 2", table.concat(l, ", "))
  end)

  it("has the methods of lists", function()
    local l = manager:list()
    l:append(3)
    l:extend { 1, 2 }
    l:extend(manager:list { 5 })
    l:insert(1, 0)
    l:insert(9)
    assert.same({ 0, 3, 1, 2, 5, 9 }, l:copy())
    assert.equal(9, l:pop())
    assert.equal(0, l:pop(1))
    l:sort()
    assert.same({ 1, 2, 3, 5 }, l:copy())
    l:sort(function(a, b) return a > b end)
    l:reverse()
    assert.same({ 1, 2, 3, 5 }, l:copy())
    assert.equal(3, l:index(3))
    assert.is_nil(l:index(4))
    assert.is_true(l:remove(3))
    assert.is_false(l:remove(3))
    l:append(1)
    assert.equal(2, l:count(1))
    l:clear()
    assert.equal(0, #l)
    misused("pop from an empty list", function() l:pop() end)
    misused("index 2 is out of range in 'insert' of a list of 0", function() l:insert(2, 1) end)
    misused("cannot be nil", function() l:append(nil) end)
    misused("table expected, got number", function() l:extend(5) end)
    misused("index 0 is out of range in 'pop' of a list of 1", function()
      l:append(1)
      l:pop(0)
    end)
    assert.equal(1, #l)
  end)

  it("stays as it was when a comparison fails", function()
    local l = manager:list { 3, 1, 2 }
    local err = fails("cannot compare", function()
      l:sort(function() error "cannot compare" end)
    end)
    assert.equal("mp.RemoteError", mp.type(err))
    assert.same({ 3, 1, 2 }, l:copy())
  end)
end)

describe("a set of a manager", function()
  with_manager()

  it("is made of a list or of a table of members", function()
    assert.equal(2, #manager:set { "a", "b", "a" })
    local s = manager:set { x = true, y = true }
    assert.is_true(s.x)
    assert.is_nil(s.z)
    misused("a list or of a table", function() manager:set(5) end)
  end)

  it("has the methods of sets", function()
    local s = manager:set { 1, 2 }
    s:add(3)
    s[4] = true
    s[1] = nil
    assert.is_true(s:contains(3))
    assert.is_false(s:contains(1))
    assert.is_true(s:remove(2))
    assert.is_false(s:remove(2))
    assert.same({ [3] = true, [4] = true }, s:copy())
    assert.same({ 3, 4 }, s:values())
    s:update { 5, 3 }
    local n = 0
    for member, yes in pairs(s) do
      assert.is_true(yes and member >= 3)
      n = n + 1
    end
    assert.equal(3, n)
    assert.equal("{3, 4, 5}", tostring(s))
    assert.is_truthy(s:pop())
    s:clear()
    misused("pop from an empty set", function() s:pop() end)
    misused("a member of a manager's set cannot be a table", function() s:add {} end)
    misused("cannot be nil", function() s:add(nil) end)
  end)
end)

describe("a Value of a manager", function()
  with_manager()

  it("is read, set and changed in one step", function()
    local v = manager:Value("i", 5)
    assert.equal(5, v.value)
    v.value = 7
    assert.equal(9, v:add(2))
    assert.equal(18, v:update(function(x) return x * 2 end))
    assert.is_false(v:compare_exchange(1, 2))
    assert.is_true(v:compare_exchange(18, 20))
    assert.equal(20, v.value)
    assert.equal("mp.ValueProxy (20)", tostring(v))
    misused("number expected, got string", function() v.value = "x" end)
    misused("has no field 'val'", function() v.val = 1 end)
    assert.is_false((pcall(function() v.value = 2 ^ 40 end)))
    assert.is_false((pcall(function() manager:Value("x", 1) end)))
    assert.equal(20, v.value)
  end)

  it("waits for who holds its lock", function()
    local v = manager:Value("i", 0)
    local ps = {}
    for i = 1, 3 do
      ps[i] = start(function()
        for _ = 1, 20 do
          v:get_lock():with(function() v.value = v.value + 1 end)
        end
      end)
    end
    for i = 1, 3 do assert.equal(0, finish(ps[i])) end
    assert.equal(60, v.value)
  end)
end)

describe("an Array of a manager", function()
  with_manager()

  it("has elements and slices", function()
    local a = manager:Array("d", { 1, 2, 3 })
    a[2] = 2.5
    assert.equal(2.5, a[2])
    assert.is_nil(a[4])
    assert.equal(3, #a)
    assert.same({ 1.0, 2.5 }, a:get(1, 2))
    a:set(2, { 7, 8 })
    assert.same({ 1.0, 7.0, 8.0 }, a:totable())
    a:fill(0)
    assert.equal("{0.0, 0.0, 0.0}", tostring(a))
    assert.equal(24, #a:bytes())
    assert.is_false((pcall(function() a[4] = 1 end)))
    assert.is_false((pcall(function() a[1] = "x" end)))
    assert.equal(4, #manager:Array("i", 4))
    local b = manager:Array("i", { 1, 2, 3 })
    assert.equal(12, b:add(2, 10))
    assert.equal(24, b:update(2, function(x) return x * 2 end))
    assert.is_true(b:compare_exchange(2, 24, 5))
    assert.is_false(b:compare_exchange(2, 24, 6))
    assert.same({ 1, 5, 3 }, b:totable())
    misused("bad argument #1 to 'add' %(index 4 is out of range %(1..3%)%)", function() b:add(4, 1) end)
    misused("bad argument #1 to 'update' %(index 4 is out of range %(1..3%)%)", function() b:update(4, print) end)
    misused("bad argument #2 to 'update' %(function expected, got no value%)", function() b:update(1) end)
    misused("bad argument #1 to 'fill' %(number expected, got string%)", function() b:fill("x") end)
    local seen = {}
    for i, x in ipairs(manager:Array("i", { 5, 6 })) do seen[i] = x end
    assert.same({ 5, 6 }, seen)
  end)
end)

for _, kind in ipairs { "Value", "Array" } do
  describe("the options of a " .. kind .. " of a manager", function()
    with_manager()

    it("are those of the local one", function()
      for _, make in ipairs { mp[kind], function(...) return manager[kind](manager, ...) end } do
        fails("bad argument #3 to '[%w.]*" .. kind .. "' %(unknown option 'bogus' %(known options: lock%)%)",
          make, "i", 1, { bogus = 1 })
        fails("boolean expected for option 'lock', got number", make, "i", 1, { lock = 1 })
        fails("bad argument #3 to '[%w.]*" .. kind .. "' %(table expected, got boolean%)", make, "i", 1, true)
        local bare = make("i", 1, { lock = false })
        fails("mp." .. kind .. " has no lock: it was made with lock = false", function() bare:get_lock() end)
        assert.truthy(make("i", 1, { lock = true }):get_lock())
      end
    end)

    it("and its arguments are named in messages as scripts know them", function()
      misused("bad argument #1 to '" .. kind .. "' %(unknown typecode 'zz'", manager[kind], manager, "zz", 1)
    end)
  end)
end

describe("a Pool of a manager", function()
  with_manager()

  it("does what pools do", function()
    local pool <close> = manager:Pool(2)
    assert.equal(2, pool.processes)
    assert.same({ 1, 4, 9 }, pool:map(function(x) return x * x end, { 1, 2, 3 }))
    assert.equal(7, pool:apply(function(a, b) return a + b end, { 3, 4 }))
    local soon = pool:apply_async(function() return "soon" end)
    assert.equal("soon", soon:get(10))
    assert.is_true(soon:ready() and soon:successful())
    local seen = {}
    for i, x in pool:imap(function(x) return x + 1 end, { 1, 2, 3 }) do seen[i] = x end
    assert.same({ 2, 3, 4 }, seen)
    local err = fails("bad task", function() pool:apply(function() error "bad task" end) end)
    assert.equal("mp.RemoteError", mp.type(err))
    misused("has no method", function() require "mp.proxy".call(pool, "nosuch") end)
    pool:close()
    assert.is_true(pool:join(10))
  end)

  it("raises what is wrong with a call at the caller's line, and what scripts raise as failures", function()
    local pool <close> = manager:Pool(1)
    misused("bad argument #3 to 'map' %(unknown option 'bogus'", function() pool:map(print, {}, { bogus = 1 }) end)
    misused("bad argument #1 to 'Pool' %(unknown option 'bogus'", function() manager:Pool { bogus = 1 } end)
    misused("bad argument #1 to 'Pool' %(integer from 0 to 4000 expected, got string%)", manager.Pool, manager, "x")
    misused("close or terminate it first", function() pool:join() end)
    misused("the result is not ready", function() pool:apply_async(mp.sleep, { 0.5 }):successful() end)
    local err = fails("manager_spec.lua:%d+: no items", function()
      pool:map(print, function() error "no items" end)
    end)
    assert.equal("mp.RemoteError", mp.type(err))
    assert.matches("manager_spec", err.traceback)
    pool:close()
    misused("the pool is closed", function() pool:apply(print) end)
  end)

  it("delays nobody while it works", function()
    local pool <close> = manager:Pool(1)
    local d, gate = manager:dict { n = 0 }, mp.Event()
    local p = start(function()
      assert(pool:apply(function() return gate:wait(10) end) == true)
    end)
    for _ = 1, 50 do mp.dict.incr(d, "n") end
    assert.equal(50, d.n)
    gate:set()
    assert.equal(0, finish(p))
  end)
end)

-- Own types ------------------------------------------------------------------------------------

local Stack = {}
Stack.__index = Stack
function Stack:push(v) self[#self + 1] = v end
function Stack:pop() return table.remove(self) end
function Stack:size() return #self end
function Stack._private(_) return "seen" end
function Stack.fail(_, what) error(what) end
function Stack.sleep(_, seconds)
  mp.sleep(seconds)
  return "slept"
end
function Stack.take(_, queue) return queue:get(10) end
function Stack.give(_, queue, v) return queue:put(v, 10) end
function Stack.locked(_, lock, up)
  return lock:with(function()
    if up then up:put "has it" end
    return "locked"
  end)
end
function Stack.wait(_, event) return event:wait(10) end
function Stack.yield(_)
  for _ = 1, 3 do coroutine.yield() end
  return "yielded"
end
function Stack.inner(_, f) return f() end

local Own = mp.Manager:extend "Own"
local shared = setmetatable({ 1, 2, 3 }, Stack)
Own:register("Stack", function(...) return setmetatable({ ... }, Stack) end)
Own:register("shared", function() return shared end)
Own:register("nothing", function() end)
Own:register("broken", function() error "cannot make it" end)
Own:register "elsewhere"
Own:register("text", function() return "text" end)
Own:register("freed", function(v, slow)
  local function gone()
    if slow then mp.sleep(slow) end
    v:add(1)
  end
  return setmetatable({ id = function() return 1 end }, { __gc = gone })
end)

describe("a class of managers", function()
  it("has names that managers have not", function()
    for _, name in ipairs { "dict", "Pool", "start", "shutdown", "address", "register", "Stack" } do
      misused("managers have a '" .. name .. "' already", function() Own:register(name, print) end)
    end
    misused("bad argument #2 to 'register' %(function expected, got number%)", function() Own:register("x", 5) end)
    misused("bad argument #1 to 'register' %(string expected", function() Own:register(5) end)
    misused("string expected", function() mp.Manager:extend() end)
    assert.equal("mp.Manager class: Own", tostring(Own))
  end)

  it("passes its types on to classes below it, not above", function()
    local Below = Own:extend "Below"
    Below:register("More", function() return { get = function() return "more" end } end)
    local m <close> = Below()
    assert.equal("more", m:More():get())
    assert.equal(0, m:Stack():size())
    assert.matches("^mp.Manager: Below%-", tostring(m))
    local own <close> = Own()
    assert.is_nil(own.More)
    local plain <close> = mp.Manager()
    assert.is_nil(plain.Stack)
  end)
end)

describe("an object of an own type", function()
  with_manager(Own)

  it("has its methods called in the server", function()
    local s = manager:Stack(1, 2)
    s:push(3)
    in_child(function() s:push(4) end)
    assert.equal(4, s:pop())
    assert.equal(3, s:size())
    assert.equal("mp.Proxy", mp.type(s))
    assert.matches("^mp.Proxy: object %d+ of a manager$", tostring(s))
    assert.equal("TEXT", manager:text():upper())
  end)

  it("has private methods, and no others than it has", function()
    local s = manager:Stack()
    misused("a manager's Stack has no method '_private'", function() s:_private() end)
    misused("a manager's Stack has no method 'nosuch'", function() s:nosuch() end)
    misused("cannot be set", function() s.x = 1 end)
    fails("on bad self", function() s.push(5) end)
    misused("was registered without a function", function() manager:elsewhere() end)
    misused("has returned nil", function() manager:nothing() end)
  end)

  it("raises what its methods raise, with where that was", function()
    local s = manager:Stack()
    local err = fails("oops", function() s:fail "oops" end)
    assert.equal("mp.RemoteError", mp.type(err))
    assert.matches("oops$", err.message)
    assert.matches("manager_spec.lua:%d+: in ", err.traceback)
    assert.is_nil(err.traceback:find("mp/server.lua", 1, true))
    assert.matches("^Own%-", err.process)
    assert.equal(pid_of(manager), err.pid)
    err = fails(".", function() s:fail { code = 5 } end)
    assert.equal(5, err.message.code)
    fails("cannot make it", function() manager:broken() end)
    assert.equal(0, s:size())
  end)

  it("is one object when it is returned twice", function()
    local a, b = manager:shared(), manager:shared()
    a:push(4)
    assert.equal(4, b:pop())
    assert.equal(a, b)
  end)

  -- Each has one client wait in a method, and another one served meanwhile.
  local function while_it_waits(method, ...)
    local s, other = manager:Stack(), manager:Stack()
    local out = mp.Queue()
    local p = start(function(...) out:put { s[method](s, ...) } end, ...)
    for i = 1, 20 do other:push(i) end
    assert.equal(20, other:size())
    assert.is_true(out:empty())
    return function()
      local result = assert(out:get(10))
      assert.equal(0, finish(p))
      return result[1]
    end
  end

  it("delays nobody while it sleeps", function()
    assert.equal("slept", while_it_waits("sleep", 0.3)())
  end)

  it("delays nobody while it waits for a queue", function()
    local q = mp.Queue()
    local result = while_it_waits("take", q)
    q:put "item"
    assert.equal("item", result())
    local full = mp.Queue(1)
    full:put(1)
    result = while_it_waits("give", full, 2)
    assert.equal(1, full:get(10))
    assert.is_true(result())
    assert.equal(2, full:get(10))
  end)

  it("delays nobody while it waits for a lock or an event", function()
    local lock, event = mp.Lock(), mp.Event()
    lock:acquire()
    local result = while_it_waits("locked", lock)
    lock:release()
    assert.equal("locked", result())
    result = while_it_waits("wait", event)
    event:set()
    assert.is_true(result())
  end)

  it("delays nobody while it waits for an object of its manager", function()
    local q = manager:Queue()
    local result = while_it_waits("take", q)
    q:put "item"
    assert.equal("item", result())
  end)

  it("may yield", function()
    assert.equal("yielded", manager:Stack():yield())
  end)

  it("runs functions that it is sent, which may use proxies", function()
    local d = manager:dict()
    assert.equal(5, manager:Stack():inner(function()
      d.x = 5
      return d.x
    end))
    fails("in a callback or coroutine", function()
      local q = manager:Queue()
      manager:Stack():inner(function()
        return coroutine.wrap(function() return q:get() end)()
      end)
    end)
  end)

  it("lives as long as a proxy, or a container that holds one", function()
    local v = mp.Value("i", 0)
    for _ = 1, 10 do assert.equal(1, manager:freed(v):id()) end
    local function all_freed(n)
      collectgarbage()
      collectgarbage()
      return T.wait_until(function() return v.value == n end, 10)
    end
    assert.is_true(all_freed(10))
    local l = manager:list { manager:freed(v) }
    local q = mp.Queue()
    q:put(manager:freed(v))
    collectgarbage()
    collectgarbage()
    mp.sleep(0.5)
    assert.equal(10, v.value)
    assert.equal(1, l[1]:id())
    assert.equal(1, q:get():id())
    assert.is_true(all_freed(11))
    l:pop()
    assert.is_true(all_freed(12))
    l:append(manager:freed(v))
    l:append(l) -- a cycle
    l = nil -- luacheck: ignore
    assert.is_true(all_freed(13))
  end)

  it("is given back by a client that is killed", function()
    local v = mp.Value("i", 0)
    local up = mp.Event()
    local p = start(function()
      local object = manager:freed(v)
      object:id()
      up:set()
      mp.sleep(100)
    end)
    assert.is_true(up:wait(10))
    p:kill()
    assert(p:join(10))
    p:close()
    assert.is_true(T.wait_until(function() return v.value == 1 end, 10))
  end)

  it("that takes long to be freed does not put off what the dead held", function()
    local v, lock, up = mp.Value("i", 0), manager:Lock(), mp.Event()
    assert.equal(1, manager:freed(v, 0.6):id())
    collectgarbage()
    collectgarbage()
    assert.is_true(T.wait_until(function() return v.value == 1 end, 10))
    local p = start(function()
      assert(lock:acquire())
      up:set()
      mp.sleep(100)
    end)
    assert.is_true(up:wait(10))
    p:kill()
    assert(p:join(10))
    p:close()
    assert.same({ true, "abandoned" }, { lock:acquire(10) })
  end)
end)

describe("a proxy", function()
  with_manager()

  it("goes through arguments, queues, pipes and pools", function()
    local d = manager:dict()
    in_child(function(x) x.argument = true end, d)
    local q = mp.Queue()
    q:put { d }
    q:get()[1].queue = true
    local a, b = mp.Pipe()
    a:send(d)
    b:recv(10).pipe = true
    a:close()
    b:close()
    do
      local pool <close> = mp.Pool(2)
      pool:map(function(i) d[i] = true end, { 1, 2 })
      pool:apply(function(x) x.task = true end, { d })
    end
    in_child(function() in_child(function() d.nested = true end) end)
    assert.same({ argument = true, queue = true, pipe = true, task = true, nested = true, [1] = true, [2] = true },
      mp.dict.copy(d))
  end)

  it("arrives in processes that are older than its manager", function()
    local r = T.mplua [[
      local mp = require "mp"
      local q, done = mp.Queue(), mp.Queue()
      local child = mp.Process(function()
        local d = q:get(10)
        d.x = 1
        d.l:append(3)
        done:put(true)
      end)
      child:start()
      local pool <close> = mp.Pool(1)
      local m <close> = mp.Manager()
      local d = m:dict { l = m:list() }
      q:put(d)
      done:get(10)
      pool:apply(function() d.y = 2 end)
      child:join()
      print(d.x, d.y, #d.l)
    ]]
    assert.same({ out = "1\t2\t1\n", err = "", code = 0 }, r)
  end)

  it("tells what it cannot send by its argument", function()
    local q = manager:Queue()
    misused("cannot marshal a thread at argument #2", function() q:put(coroutine.create(print)) end)
    assert.is_true(q:put(1))
  end)

  it("raises when its server has ended", function()
    local m = mp.Manager()
    local d, q = m:dict { a = 1 }, m:Queue()
    local near = mp.Event()
    local p = start(function()
      near:set()
      local ok, err = pcall(q.get, q)
      assert(not ok and tostring(err):find "the manager was shut down", err)
    end)
    near:wait(10)
    m:shutdown()
    assert.equal(0, finish(p))
    misused("the manager was shut down", function() return d.a end)
  end)

  it("raises when its server was killed", function()
    local m = mp.Manager()
    local d, q = m:dict { a = 1 }, m:Queue()
    local near = mp.Event()
    local p = start(function()
      near:set()
      local ok, err = pcall(q.get, q)
      assert(not ok and tostring(err):find "the manager's server has ended", err)
    end)
    near:wait(10)
    os.execute("kill -9 " .. pid_of(m))
    misused("the manager's server has ended", function() return d.a end)
    misused("the manager's server has ended", function() return m:dict() end)
    assert.equal(0, finish(p))
    m:shutdown()
  end)

  it("is shown, whatever has become of its server", function()
    local makers = {
      dict = "DictProxy", list = "ListProxy", set = "SetProxy", Namespace = "NamespaceProxy", Lock = "LockProxy",
      Condition = "ConditionProxy", Queue = "QueueProxy", Event = "EventProxy",
    }
    local function all(m)
      local shown = { m:Value("i", 1), m:Array("i", 1), m:Pool(1) }
      local names = { "ValueProxy", "ArrayProxy", "PoolProxy" }
      for maker, name in pairs(makers) do
        shown[#shown + 1], names[#names + 1] = m[maker](m), name
      end
      return shown, names
    end
    local function check(shown, names, state)
      for i, object in ipairs(shown) do
        assert.matches("^mp%." .. names[i] .. ": object %d+ of a manager %(" .. state .. "%)$", tostring(object))
      end
    end
    local m = mp.Manager()
    local shown, names = all(m)
    assert.matches("^mp%.LockProxy: object %d+ of a manager$", tostring(m:Lock()))
    m:shutdown()
    check(shown, names, "the manager was shut down")
    m = mp.Manager()
    shown, names = all(m)
    os.execute("kill -9 " .. pid_of(m))
    check(shown, names, "the manager's server has ended")
    assert.matches("^mp.Manager: Manager%-[%d:]+ %(stopped, signal 9%)$", tostring(m))
    in_child(function() assert(tostring(m):find "%(stopped%)$") end)
    m:shutdown()
    assert.matches("^mp.Manager: Manager%-[%d:]+ %(over%)$", tostring(m))
  end)

  it("is shown without its contents by a server that does not answer", function()
    local m <close> = mp.Manager { timeout = 0.1 }
    local d, slow = m:dict { a = 1 }, mp.Manager()
    local d2 = slow:dict { a = 1 }
    for _, of in ipairs { m, slow } do os.execute("kill -STOP " .. pid_of(of)) end
    assert.matches("^mp.DictProxy: object %d+ of a manager %(the manager did not answer 'both' within 0.1 s%)$",
      tostring(d))
    assert.matches("^mp.DictProxy: object %d+ of a manager %(the manager did not answer 'both' within 5 s%)$",
      tostring(d2))
    for _, of in ipairs { m, slow } do os.execute("kill -CONT " .. pid_of(of)) end
    assert.equal("{a = 1}", tostring(d2))
    slow:shutdown()
  end)

  it("raises when an argument cannot be read in the server", function()
    local d = manager:dict()
    manager:dict().x = 1 -- the server runs
    package.preload["late.module"] = function() return {} end
    local class = require "late.module"
    class.__index = class
    misused("needs late.module", function()
      local ok, err = pcall(function() d.x = setmetatable({}, class) end)
      assert.is_false(ok)
      assert.equal("mp.RemoteError", mp.type(err))
      error("spec/manager_spec.lua:1: " .. tostring(err.message), 0)
    end)
    package.preload["late.module"], package.loaded["late.module"] = nil, nil
    d.x = 1
    assert.equal(1, d.x)
  end)
end)

describe("a proxy of a queue", function()
  with_manager()

  it("is closed like a queue, for itself alone", function()
    local d = manager:dict { q = manager:Queue() }
    local q = d.q
    do
      local again <close> = d.q
      assert.is_true(again:put(1))
    end
    q:close()
    q:close()
    misused("the mp.QueueProxy is closed", function() q:get() end)
    assert.equal("mp.QueueProxy (closed)", tostring(q))
    assert.equal(1, d.q:get())
    misused("has no descriptor", function() d.q:fileno() end)
  end)
end)

describe("a manager in a child", function()
  with_manager()

  it("makes objects, and is not shut down", function()
    in_child(function()
      local d = manager:dict { a = 1 }
      assert(d.a == 1)
      local ok, err = pcall(manager.shutdown, manager)
      assert(not ok and tostring(err):find "only the process that started a manager can shut it down")
    end)
    assert.equal(0, #manager:dict())
  end)
end)

describe("the time-out of a manager", function()
  with_manager(Own, { timeout = 0.2 })

  it("bounds what waits", function()
    local q, lock = manager:Queue(), manager:Lock()
    assert.same({ nil, "empty" }, { q:get() })
    assert.same({ nil, "empty" }, { q:get(100) })
    assert.is_true(lock:acquire())
    assert.is_false(manager:Event():wait())
    lock:release()
  end)

  it("bounds what does not answer", function()
    local s = manager:Stack()
    misused("the manager did not answer 'sleep' within 0.2 s", function() s:sleep(100) end)
    assert.equal(0, s:size())
    in_child(function()
      local ok, err = pcall(s.sleep, s, 100)
      assert(not ok and tostring(err):find "within 0.2 s")
    end)
  end)
end)

describe("Ctrl-C", function()
  it("ends a wait for a manager, which gives nothing away for it", function()
    local m <close> = mp.Manager()
    local q, lock, near = m:Queue(), m:Lock(), mp.Queue()
    lock:acquire()
    for _, wait in ipairs { function() q:get() end, function() lock:acquire() end } do
      local p = start(function()
        near:put(true)
        wait()
      end)
      near:get(10)
      mp.sleep(0.05)
      p:interrupt()
      assert(p:join(10))
      assert.equal(-2, p.exitcode)
      p:close()
    end
    q:put(1)
    lock:release()
    assert.equal(1, q:get(10))
    assert.same({ true }, { lock:acquire(10) })
  end)
end)

describe("the server of a manager", function()
  it("uses no time while nobody asks", function()
    local m <close> = mp.Manager()
    m:dict().x = 1
    local function ticks()
      local fields = T.read(("/proc/%d/stat"):format(pid_of(m))):match "%) (.*)$"
      local n, sum = 0, 0
      for field in fields:gmatch "%S+" do
        n = n + 1
        if n == 12 or n == 13 then sum = sum + tonumber(field) end
      end
      return sum
    end
    local before = ticks()
    mp.sleep(1)
    assert.is_true(ticks() - before <= 5)
  end)
end)
