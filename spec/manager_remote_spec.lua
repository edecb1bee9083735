-- mp.Manager over connections: other programs, or what stands for them here.
local T = require "spec.helper"
local mp = require "mp"

local start, finish = T.start, T.finish
local KEY = "a key"

local function fails(pattern, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(err))
  return err
end

local function misused(pattern, f, ...)
  fails("^spec/manager_remote_spec%.lua:%d+: .*" .. pattern, f, ...)
end

local Board = mp.Manager:extend "Board"
local jobs
Board:register("jobs", function()
  jobs = jobs or mp.Queue()
  return jobs
end)
Board:register("Thing", function(freed)
  local items = {}
  return setmetatable({
    push = function(_, v) items[#items + 1] = v end,
    pop = function() return table.remove(items) end,
    big = function(_, n) return ("x"):rep(n) end,
    sleep = function(_, s) mp.sleep(s) return s end,
    fail = function() error "no good" end,
    call = function(_, f) return f() end,
    keep = function(_, v) freed = v end,
  }, { __gc = function()
    if type(freed) == "function" then freed() end
  end })
end)
local count = mp.Value("i", 0)
Board:register("Counted", function()
  return setmetatable({ id = function() return 1 end }, { __gc = function() count:add(1) end })
end)

local server, client

local function close_all()
  if client then client:shutdown() end
  if server then server:shutdown() end
  server, client = nil, nil
end

local function serve(address, options)
  options = options or {}
  options.address, options.authkey = address, KEY
  server = Board(options)
  server:start()
  return server.address
end

local function connect(address, options)
  options = options or {}
  options.address, options.authkey = address, options.authkey or KEY
  local m = Board(options)
  assert(m:connect(10))
  return m
end

local addresses = {
  TCP = function() return { "localhost", 0 } end,
  ["a path"] = function() return T.tmpname() .. ".sock" end,
  ["an abstract name"] = function() return "\0mplua-manager-" .. mp.getpid() end,
}

for name, address in pairs(addresses) do
  describe("a manager at " .. name, function()
    before_each(function() client = connect(serve(address())) end)
    after_each(close_all)

    it("serves containers", function()
      local d = client:dict { a = 1 }
      d.b = { 1, 2 }
      assert.same({ 1, 2 }, d.b)
      assert.equal(2, #d)
      assert.equal(6, mp.dict.incr(d, "a", 5))
      assert.equal("{a = 6, b = {1, 2}}", tostring(d))
      local l = client:list { 1 }
      d.l = l
      d.l:append(2)
      assert.equal("{1, 2}", tostring(l))
      assert.equal(l, d.l)
      assert.are_not.equal(l, d)
      assert.is_true(client:set({ 1 }):contains(1))
      assert.equal("Namespace{x = 1}", tostring(client:Namespace { x = 1 }))
    end)

    it("serves what waits", function()
      local lock, q = client:Lock(), client:Queue(1)
      assert.equal(7, lock:with(function() return 7 end))
      assert.is_true(q:put(client:list { 5 }))
      assert.same({ nil, "full" }, { q:put(1, 0.02) })
      assert.equal(5, q:get()[1])
      assert.same({ nil, "empty" }, { q:get(0.02) })
      assert.is_false(client:Event():wait(0.02))
      local s = client:Semaphore(2)
      assert.is_true(s:acquire())
      assert.equal(1, s:get_value())
      local c = client:Condition()
      assert.is_false(c:with(function() return c:wait(0.02) end))
      assert.equal(1, client:Barrier(1):wait())
      local v = client:Value("i", 3)
      assert.equal(5, v:add(2))
      assert.equal("{1, 2}", tostring(client:Array("i", { 1, 2 })))
      misused("not held by this process", function() lock:release() end)
    end)

    it("serves own types", function()
      local t = client:Thing()
      t:push { 1 }
      assert.same({ 1 }, t:pop())
      assert.equal(3000000, #t:big(3000000))
      local err = fails("no good", function() t:fail() end)
      assert.equal("mp.RemoteError", mp.type(err))
      misused("a manager's Thing has no method 'nosuch'", function() t:nosuch() end)
      misused("cannot marshal a function at argument #1: functions do not leave the family",
        function() t:push(print) end)
      misused("cannot marshal a mp.Queue at argument #1: shared objects", function() t:push(mp.Queue()) end)
      t:push(1)
      assert.equal(1, t:pop())
    end)

    it("serves its own family as well", function()
      local d = server:dict()
      local shared = client:jobs()
      server:jobs():put(d)
      local got = shared:get(10)
      got.x = 5
      assert.equal(5, d.x)
    end)

    it("serves children with what they have inherited", function()
      local d = client:dict()
      assert.equal(0, finish(start(function() d.child = client:list { 1 } end)))
      assert.equal(1, d.child[1])
      local q = mp.Queue()
      local p = start(function() q:get(10).passed = true end)
      q:put(d)
      assert.equal(0, finish(p))
      assert.is_true(d.passed)
    end)

    it("takes back what a client that was killed has held", function()
      local lock, up = client:Lock(), mp.Event()
      local p = start(function()
        lock:acquire()
        up:set()
        mp.sleep(100)
      end)
      assert.is_true(up:wait(10))
      p:kill()
      assert(p:join(10))
      p:close()
      assert.same({ true, "abandoned" }, { lock:acquire(10) })
      lock:release()
    end)

    it("lets others go on while one waits", function()
      local q, d, near = client:Queue(), client:dict(), mp.Event()
      local p = start(function()
        near:set()
        assert(q:get(10) == "end")
      end)
      assert.is_true(near:wait(10))
      for _ = 1, 50 do mp.dict.incr(d, "n") end
      assert.equal(50, d.n)
      q:put "end"
      assert.equal(0, finish(p))
    end)

    it("frees what its clients have dropped", function()
      local before = count.value
      for _ = 1, 5 do assert.equal(1, client:Counted():id()) end
      collectgarbage()
      collectgarbage()
      local d = client:dict()
      assert.is_true(T.wait_until(function() return d.x == nil and count.value == before + 5 end, 10))
    end)
  end)
end

describe("connect", function()
  after_each(close_all)

  it("tells why it could not", function()
    local address = serve { "localhost", 0 }
    assert.same({ nil, "denied" }, { Board({ address = address, authkey = "other" }):connect(10) })
    server:shutdown()
    assert.same({ nil, "refused" }, { Board({ address = address, authkey = KEY }):connect(10) })
    assert.same({ nil, "unreachable" }, { Board({ address = "/nowhere/at/all", authkey = KEY }):connect(10) })
  end)

  it("gives up at the end of the time", function()
    local listener <close> = mp.Listener { "localhost", 0 } -- says nothing
    assert.same({ nil, "timeout" }, { Board({ address = listener.address, authkey = KEY }):connect(0.1) })
  end)

  it("knows what is no manager", function()
    local listener <close> = mp.Listener({ "localhost", 0 }, { authkey = KEY })
    local p = start(function()
      local conn = listener:accept(10)
      conn:recv(10)
      conn:send "what?"
    end)
    misused("is not a manager", function() Board({ address = listener.address, authkey = KEY }):connect(10) end)
    assert.equal(0, finish(p))
  end)

  it("uses the key that the family has when none is given", function()
    server = Board { address = { "localhost", 0 } }
    server:start()
    local m <close> = Board { address = server.address }
    assert.is_true(m:connect(10))
    m:dict().x = 1
  end)
end)

describe("a manager with an address", function()
  after_each(close_all)

  it("serves in this process, until a client shuts it down", function()
    local path = T.tmpname() .. ".sock"
    local p = start(function()
      Board({ address = path, authkey = KEY }):serve_forever()
    end)
    local m = Board { address = path, authkey = KEY }
    assert.is_true(T.wait_until(function() return (m:connect(1)) end, 10))
    local d = m:dict { a = 1 }
    assert.equal(1, d.a)
    m:shutdown()
    assert.equal(0, finish(p))
    assert.equal(nil, io.open(path))
  end)

  it("ends by Ctrl-C when it serves in this process", function()
    local path = T.tmpname() .. ".sock"
    local p = start(function() Board({ address = path, authkey = KEY }):serve_forever() end)
    local m <close> = Board { address = path, authkey = KEY }
    assert.is_true(T.wait_until(function() return (m:connect(1)) end, 10))
    p:interrupt()
    assert(p:join(10))
    assert.equal(-2, p.exitcode)
    p:close()
    misused("has ended", function() m:dict() end)
  end)

  it("can be started where another one was", function()
    local address = serve { "localhost", 0 }
    for i = 1, 3 do
      local m = connect(address)
      local d = m:dict { i = i }
      assert.equal(i, d.i)
      server:shutdown()
      misused("has ended", function() return d.i end)
      assert.matches("^mp.DictProxy: object %d+ of a manager %(cannot connect to the manager at [^()]*: refused%)$",
        tostring(d))
      serve(address)
      misused("is another one by now", function() return d.i end)
    end
  end)

  it("raises at once when the address is taken", function()
    local address = serve { "localhost", 0 }
    local second = Board { address = address, authkey = KEY }
    fails("Address already in use", function() second:start() end)
  end)

  it("takes its path away when it ends", function()
    local path = T.tmpname() .. ".sock"
    serve(path)
    assert.is_true(T.shell("test -S " .. path .. " && echo there") == "there\n")
    server:shutdown()
    assert.equal("", (T.shell("ls " .. path .. " 2>/dev/null")))
  end)

  it("is left, not ended, at the end of a scope that has connected", function()
    local address = serve { "localhost", 0 }
    do
      local m <close> = connect(address)
      m:dict()
    end
    client = connect(address)
    assert.equal(0, #client:dict())
  end)

  it("keeps what a proxy stands for when the manager object is left", function()
    local address = serve { "localhost", 0 }
    local d
    do
      local m <close> = connect(address)
      local again <close> = connect(address)
      d = m:dict { a = 1 }
      assert.equal(0, #again:dict())
    end
    collectgarbage()
    collectgarbage()
    mp.sleep(0.3)
    assert.equal(1, d.a)
  end)

  it("loads functions when both sides allow it", function()
    local address = serve({ "localhost", 0 }, { allow_code = true })
    client = connect(address, { allow_code = true })
    assert.equal(5, client:Thing():call(function() return 5 end))
    local careful <close> = connect(address)
    misused("functions do not leave the family", function()
      careful:Thing():call(function() return 5 end)
    end)
  end)

  it("does not load functions that it was sent unasked", function()
    local address = serve { "localhost", 0 }
    client = connect(address, { allow_code = true })
    misused("cannot read the request: .*function", function()
      client:Thing():call(function() return 5 end)
    end)
    assert.equal(0, #client:dict())
  end)

  it("bounds the length of messages", function()
    local address = serve({ "localhost", 0 }, { max_message = 10000 })
    local m <close> = connect(address)
    local t = m:Thing()
    t:push(("x"):rep(9000))
    misused("has ended", function() t:push(("x"):rep(20000)) end)
    client = connect(address)
    assert.equal(0, #client:dict())
  end)

  it("has a time-out", function()
    local address = serve { "localhost", 0 }
    client = connect(address, { timeout = 0.2 })
    misused("did not answer 'sleep' within 0.2 s", function() client:Thing():sleep(100) end)
    assert.same({ nil, "empty" }, { client:Queue():get() })
    assert.equal(0, #client:dict())
  end)

  it("goes on while clients send garbage, nothing, or do not read", function()
    local address = serve { "localhost", 0 }
    client = connect(address)
    local d = client:dict { n = 0 }
    local held = {}
    for i = 1, 20 do
      local conn = assert(mp.Client(address, { authkey = KEY }))
      if i % 4 == 0 then conn:send_bytes(("\xb1\xff"):rep(i))
      elseif i % 4 == 1 then conn:send { 1, "two", {} }
      elseif i % 4 == 2 then conn:send { false, 1, 99999, "get", 0 }
      else conn:send "text" end
      held[#held + 1] = conn
      local silent = assert(mp.Client(address))
      if i % 2 == 0 then silent:send_bytes(("z"):rep(100)) end
      held[#held + 1] = silent
      assert.equal(i, mp.dict.incr(d, "n"))
    end
    local deaf = assert(mp.Client(address, { authkey = KEY }))
    deaf:send { false, 1, 0, "make", 1, "Thing" }
    local reply = assert(deaf:recv(10))
    deaf:send { false, 2, reply[4].number, "big", 1, 50000000 }
    for _ = 1, 20 do mp.dict.incr(d, "n") end
    assert.equal(40, d.n)
    deaf:close()
    for _, conn in ipairs(held) do conn:close() end
    assert.equal(41, mp.dict.incr(d, "n"))
  end)

  it("serves forty programs at once", function()
    local address = serve { "localhost", 0 }
    client = connect(address)
    local d, gate = client:dict(), mp.Barrier(40)
    local ps = {}
    for i = 1, 40 do
      ps[i] = start(function()
        local m = connect(address)
        gate:wait(15)
        local own = m:list { i }
        for _ = 1, 10 do own:append(i) end
        mp.dict.incr(d, "n", #own)
      end)
    end
    for i = 1, 40 do assert.equal(0, finish(ps[i])) end
    assert.equal(440, d.n)
  end)

  it("refuses proxies of other managers", function()
    local address = serve { "localhost", 0 }
    client = connect(address)
    local other <close> = mp.Manager()
    local d = client:dict()
    misused("a proxy of another manager cannot be sent", function() d.x = other:dict() end)
    assert.equal(0, #d)
  end)
end)
