-- Pipes and connections: values and bytes, ends and time-outs, what crosses.
local T = require "spec.helper"
local mp = require "mp"
local core = require "mp.core"

local start, finish = T.start, T.finish

--- Sends a signal to a process and waits until it is in the state (of /proc).
local function signal(p, name, state)
  assert.are.equal("", (T.shell(("kill -%s %d"):format(name, p.pid))))
  assert.is_true(T.wait_until(function()
    return (T.read(("/proc/%d/stat"):format(p.pid)) or ""):match("%) (%a)") == state
  end))
end

local function raises(pattern, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(message))
end

-- Pipes of a test, closed at its end.
local opened = {}

local function pipe(duplex)
  local a, b = mp.Pipe(duplex)
  opened[#opened + 1] = a
  opened[#opened + 1] = b
  return a, b
end

local function close_pipes()
  while #opened > 0 do table.remove(opened):close() end
end

--- Calls f(...) under pcall with a hook that runs inside of waits: they call an empty
-- chunk to let hooks run.
local function with_hook(hook, f, ...)
  debug.sethook(function()
    if debug.getinfo(2, "S").what == "main" then hook() end
  end, "c")
  local results = table.pack(pcall(f, ...))
  debug.sethook()
  return table.unpack(results, 1, results.n)
end

local function kinds(kind) return core.arena().kinds[kind] or 0 end

describe("a pipe", function()
  after_each(close_pipes)

  it("carries values both ways, in order", function()
    local a, b = pipe()
    for i = 1, 50 do assert.is_true(a:send(i)) end
    for i = 1, 50 do assert.are.equal(i, b:recv()) end
    local value = { 1, 2.5, "three\0", { x = false }, mp.null }
    assert.is_true(b:send(value))
    assert.are.same(value, a:recv())
    a:send(false)
    assert.is_false(b:recv())
    a:send(mp.null)
    assert.are.equal(mp.null, b:recv())
  end)

  it("has a receiving and a sending end when it is not duplex", function()
    local r, w = pipe(false)
    assert.are.same({ true, false, false, true }, { r.readable, r.writable, w.readable, w.writable })
    assert.is_true(w:send("down"))
    assert.are.equal("down", r:recv())
    raises("read%-only", r.send, r, 1)
    raises("read%-only", r.send_bytes, r, "x")
    raises("write%-only", w.recv, w)
    raises("write%-only", w.recv_bytes, w)
    raises("write%-only", w.poll, w)
    raises("write%-only", w.messages, w)
  end)

  it("takes a boolean or nothing", function()
    raises("boolean expected", mp.Pipe, 0)
    local a, b = pipe(nil)
    assert.is_true(a.writable and b.writable)
  end)

  it("connects processes", function()
    local a, b = pipe()
    local p = start(function()
      a:close()
      for v in b:messages() do b:send({ v, v * 2 }) end
    end)
    b:close()
    for i = 1, 100 do
      a:send(i)
      assert.are.same({ i, i * 2 }, a:recv())
    end
    a:close()
    assert.are.equal(0, finish(p))
  end)

  it("passes 32 MiB each way at once, one process sending to the other", function()
    T.limit(60)
    local a, b = pipe()
    local function exchange(conn, mine, theirs)
      local function text(c) return c:rep(1 << 15):rep(1 << 10) end
      conn:send(text(mine))
      conn:send({ mine, 1 })
      assert(conn:recv() == text(theirs))
      assert(conn:recv()[1] == theirs)
    end
    local p = start(function()
      a:close()
      exchange(b, "b", "a")
    end)
    b:close()
    exchange(a, "a", "b")
    assert.are.equal(0, finish(p))
  end)

  it("keeps what came while it was sending, for recv, poll and mp.wait", function()
    local a, b = pipe()
    local big = ("x"):rep(4 << 20)
    local p = start(function()
      a:close()
      for i = 1, 3 do b:send(i) end
      b:send(big)
      assert(b:recv() == big)
    end)
    b:close()
    a:send(big) -- returns when the child has begun to receive, or has taken it in
    assert.is_true(a:poll())
    assert.are.same({ a }, mp.wait({ a }, 5))
    for i = 1, 3 do
      assert.is_true(a:poll())
      assert.are.equal(i, a:recv())
    end
    assert.are.equal(big, a:recv())
    assert.are.equal(0, finish(p))
    assert.are.same({ n = 2, nil, "eof" }, table.pack(a:recv()))
  end)

  it("is given back by the collector when nobody closes it", function()
    for _ = 1, 20 do
      local a = mp.Pipe()
      a:send({ mp.Lock() })
    end
    collectgarbage()
    assert.are.equal(0, kinds("pipe"))
    assert.are.equal(0, kinds("ticket"))
  end)

  it("can be made again and again without closing, for the limit of open files collects", function()
    local r = T.mplua([[
      local mp = require "mp"
      collectgarbage("stop")
      for i = 1, 500 do mp.Pipe() end
      local kept, ok, e = {}, true, nil
      while ok do ok, e = pcall(function() kept[#kept + 1] = { mp.Pipe() } end) end
      print(e)
    ]], nil, { env = "ulimit -n 100;" })
    assert.matches("cannot make a pipe: Too many open files", r.out)
    assert.are.equal(0, r.code)
  end)

  it("carries a connection, and others get their descriptors, when garbage holds the last ones", function()
    local r = T.mplua([[
      local mp = require "mp"
      collectgarbage("stop")
      local files = {}
      -- All descriptors are in use but `n`, which garbage has.
      local function only_garbage(n)
        local file
        repeat
          file = io.open("/dev/null")
          files[#files + 1] = file
        until not file
        for _ = 1, n do files[#files] = nil end
      end
      local a, b = mp.Pipe()
      local c, d = mp.Pipe()
      only_garbage(3)
      a:send { c }
      local sent = b:recv()[1]
      sent:send "through"
      print(d:recv())
      local q = mp.Queue()
      only_garbage(4)
      q:fileno()
      only_garbage(8)
      local l = mp.Listener()
      only_garbage(4)
      local client = mp.Client(l.address)
      only_garbage(4)
      local conn = l:accept(5)
      client:send "hello"
      print(conn:recv(5))
      only_garbage(0)
      print(pcall(mp.Listener))
      l:close()
      conn:close()
      files = nil
      collectgarbage()
      print(#io.popen("ls -d $TMPDIR/mplua-* 2>/dev/null"):read "a")
    ]], nil, { env = "d=$(mktemp -d); export TMPDIR=$d; trap 'rm -rf $d' EXIT; ulimit -n 100;" })
    assert.are.equal("", r.err)
    assert.matches("^through\nhello\nfalse\t[^\n]*: cannot listen at [^\n]*: Too many open files\n0\n$", r.out)
  end)
end)

describe("the fields of a handle", function()
  it("that cannot be set are named", function()
    local a, b = mp.Pipe()
    for kind, handle in pairs { ["mp.Connection"] = a, ["mp.Queue"] = mp.Queue(), ["mp.Lock"] = mp.Lock() } do
      raises("field 'x' of " .. kind .. " cannot be set", function() handle.x = 1 end)
    end
    raises("field 'closed' of mp.Connection cannot be set", function() b.closed = true end)
    a:close()
    b:close()
  end)
end)

describe("a connection", function()
  after_each(close_pipes)

  it("tells what it is", function()
    local a, b = pipe()
    assert.are.equal("mp.Connection", mp.type(a))
    assert.matches("^mp%.Connection: 0x%x+ %(open, fd " .. a:fileno() .. "%)$", tostring(a))
    assert.are.same({ false, true, true, "marshal" }, { a.closed, a.readable, a.writable, a.format })
    assert.is_nil(a.nothing)
    assert.is_nil(a[1])
    b:close()
    assert.matches("^mp%.Connection: 0x%x+ %(closed%)$", tostring(b))
    assert.is_true(b.closed)
    local r, w = pipe(false)
    assert.matches("read%-only", tostring(r))
    assert.matches("write%-only", tostring(w))
  end)

  it("can be closed twice, and not used then", function()
    local a, b <close> = mp.Pipe()
    a:close()
    a:close()
    for _, method in ipairs { "send", "recv", "poll", "send_bytes", "recv_bytes", "messages", "fileno" } do
      raises("is closed", a[method], a, "x")
    end
    raises("closed", b.send, b, a)
  end)

  it("checks its arguments", function()
    local a, b = pipe()
    raises("nil cannot be sent", a.send, a, nil)
    raises("nil cannot be sent", a.send, a)
    raises("number of seconds", a.send, a, 1, "soon")
    raises("number of seconds", a.recv, a, {})
    raises("NaN", a.poll, a, 0 / 0)
    raises("string expected", a.send_bytes, a, {})
    raises("maxlength must not be negative", a.recv_bytes, a, -1)
    raises("mp.Connection expected, got table", a.recv, {})
    raises("mp.Connection expected, got no value", a.recv)
    raises("mp.Connection expected", a.recv, mp.Lock())
    assert.is_false(b:poll())
  end)

  it("sends nothing when the value cannot be marshalled", function()
    local a, b = pipe()
    raises("cannot marshal a thread at value%.jobs%[2%]", a.send, a,
      { jobs = { 1, coroutine.create(print) }, lock = mp.Lock() })
    assert.is_false(b:poll())
    a:send("next")
    assert.are.equal("next", b:recv())
    assert.are.equal(0, kinds("ticket"))
  end)

  it("says eof when the other end is closed, after all that was sent", function()
    local a <close>, b = mp.Pipe()
    b:send(1)
    b:send(2)
    b:close()
    assert.are.equal(1, a:recv(0))
    assert.are.equal(2, a:recv(0))
    assert.is_true(a:poll())
    for _ = 1, 2 do
      assert.are.same({ n = 2, nil, "eof" }, table.pack(a:recv()))
      assert.are.same({ n = 2, nil, "eof" }, table.pack(a:recv_bytes(10, 0)))
    end
    assert.is_false(a.closed)
    for _ in a:messages() do error("there is none") end
    assert.is_nil(a:messages()()) -- an iterator by itself, as that of io.lines
  end)

  it("says eof when the other side went without reading what it was sent", function()
    local a <close>, b = mp.Pipe()
    a:send("unread")
    b:send("read")
    b:close()
    assert.are.equal("read", a:recv())
    assert.are.same({ n = 2, nil, "eof" }, table.pack(a:recv()))
  end)

  it("says eof only when the last copy of the other end is closed", function()
    local a <close>, b = mp.Pipe()
    local go_r, go_w = pipe(false)
    local p = start(function()
      a:close()
      go_r:recv()
      b:send("last")
    end)
    b:close()
    assert.are.same({ n = 2, nil, "timeout" }, table.pack(a:recv(0.05)))
    go_w:send(true)
    assert.are.equal("last", a:recv())
    assert.are.same({ n = 2, nil, "eof" }, table.pack(a:recv()))
    assert.are.equal(0, finish(p))
  end)

  it("raises broken pipe when the other end is closed, and no signal comes", function()
    for _, duplex in ipairs { true, false } do
      local r, w <close> = mp.Pipe(duplex)
      r:close()
      raises("broken pipe", w.send, w, 1)
      raises("broken pipe", w.send, w, { mp.Lock() })
      raises("broken pipe", w.send_bytes, w, ("x"):rep(1 << 20))
      assert.is_false(w.closed)
    end
    assert.are.equal(0, kinds("ticket"))
  end)

  it("raises broken pipe out of a send whose reader goes away", function()
    local r, w <close> = mp.Pipe(false)
    local p = start(function()
      w:close()
      r:poll(10)
    end)
    r:close()
    raises("broken pipe", w.send, w, ("x"):rep(8 << 20))
    assert.are.equal(0, finish(p))
  end)

  it("gives up waiting when the time is over", function()
    local a, b = pipe()
    for _, seconds in ipairs { 0.3, 0.05, 0, -1 } do
      local from = mp.monotonic()
      assert.are.same({ n = 2, nil, "timeout" }, table.pack(a:recv(seconds)))
      assert.are.same({ n = 2, nil, "timeout" }, table.pack(a:recv_bytes(nil, seconds)))
      assert.is_false(a:poll(seconds))
      assert.is_true(mp.monotonic() - from >= 3 * math.max(seconds, 0))
    end
    assert.is_false(b:poll())
  end)

  it("gives up sending while nothing is out, and loses nothing that it sent", function()
    local r, w = pipe(false)
    local text, sent = ("x"):rep(1000), 0
    local ok, code
    repeat
      ok, code = w:send({ sent + 1, text }, 0)
      if ok then sent = sent + 1 end
    until not ok
    assert.are.equal("timeout", code)
    assert.are.same({ n = 2, nil, "timeout" }, table.pack(w:send(text, 0.05)))
    assert.are.same({ n = 2, nil, "timeout" }, table.pack(w:send_bytes(text, 1, -1, 0.05)))
    assert.are.same({ n = 2, nil, "timeout" }, table.pack(w:send({ mp.Lock() }, 0.05)))
    assert.are.equal(0, kinds("ticket"))
    for i = 1, sent do assert.are.same({ i, text }, r:recv(0)) end
    assert.is_false(r:poll())
    assert.is_true(w:send("room again", 0))
    assert.are.equal("room again", r:recv(0))
  end)

  it("goes on after a time-out in the middle of a message", function()
    local r <close>, w = mp.Pipe(false)
    local text = ("0123456789"):rep(1 << 20)
    local p = start(function()
      r:close()
      w:send(text)
      w:send("next")
    end)
    w:close()
    assert.is_true(r:poll(10))
    signal(p, "STOP", "T")
    for _, seconds in ipairs { 0, 0.05, 0 } do
      assert.are.same({ n = 2, nil, "timeout" }, table.pack(r:recv(seconds)))
    end
    raises("middle of a message", w.send, select(2, mp.Pipe()), r)
    signal(p, "CONT", "S")
    assert.are.equal(text, r:recv(10))
    assert.are.equal("next", r:recv(10))
    assert.are.equal(0, finish(p))
  end)

  it("raises truncated message when its sender is killed in the middle", function()
    local r, w = mp.Pipe(false)
    local p = start(function()
      r:close()
      w:send("whole")
      w:send(("x"):rep(32 << 20))
    end)
    w:close()
    assert.are.equal("whole", r:recv(10))
    assert.is_true(r:poll(10))
    p:kill()
    assert.are.equal(-9, finish(p))
    raises("truncated message", r.recv, r, 10)
    assert.is_true(r.closed)
  end)

  it("can be interrupted while it waits", function()
    local a, b = pipe()
    local ready_r, ready_w = pipe(false)
    for _, blocked in ipairs {
      function() b:recv() end,
      function() b:poll(100) end,
      function() for _ = 1, 1e6 do b:send(("x"):rep(1000)) end end,
      function() b:send(("x"):rep(32 << 20)) end,
    } do
      local p = start(function()
        ready_w:send(true)
        blocked()
      end)
      ready_r:recv()
      p:interrupt()
      assert.are.equal(-2, finish(p))
    end
    assert.is_false(a.closed)
  end)

  it("lets hooks run while it waits, and notices that one closed it", function()
    local a, b <close> = mp.Pipe()
    local ok, message = with_hook(function() a:close() end, a.recv, a, 20)
    assert.is_false(ok)
    assert.matches("closed", message)
    assert.is_true(b:poll())
  end)

  it("sends what it was given, whatever hooks send meanwhile", function()
    local r, w = pipe(false)
    local other_r, other_w = pipe(false)
    local text = ("abcdefgh"):rep(1 << 18)
    local p = start(function()
      w:close()
      while not other_r:poll(10) do end
      assert(r:recv() == text)
      assert(r:recv() == "after")
    end)
    local sent
    local ok = with_hook(function()
      if sent ~= nil then return end
      other_w:send({ ("z"):rep(1000), mp.Lock() })
      sent = pcall(w.send, w, "in between")
    end, w.send, w, text)
    assert.is_true(ok)
    assert.is_false(sent) -- it was in the middle of a message
    w:send("after")
    assert.are.equal(0, finish(p))
    assert.are.equal("zz", other_r:recv()[1]:sub(1, 2))
  end)

  it("is closed by an error that leaves it in the middle of a message", function()
    local r, w = pipe(false)
    local ok, message = with_hook(function() error("enough") end, w.send, w, ("x"):rep(8 << 20))
    assert.is_false(ok)
    assert.matches("enough", message)
    assert.is_true(w.closed)
    raises("truncated message", r.recv, r, 10)
  end)
end)

describe("bytes", function()
  after_each(close_pipes)

  it("keep their boundaries, whatever their length", function()
    local a, b = pipe()
    local lengths = { 0, 1, 255, 1023, 1024, 1025, 4096, 16383, 16384, 16385, 65536, 0, 100000 }
    for _, n in ipairs(lengths) do assert.is_true(a:send_bytes(("y"):rep(n))) end
    for _, n in ipairs(lengths) do assert.are.equal(("y"):rep(n), b:recv_bytes()) end
    assert.is_false(b:poll())
  end)

  it("are cut as string.sub cuts", function()
    local a, b = pipe()
    local s = "abcdef"
    for _, ij in ipairs {
      { 1, 6 }, { 2 }, { 2, 3 }, { -2 }, { -4, -3 }, { 0, 2 }, { -100, 2 }, { 3, 100 }, { 5, 2 },
      { 7 }, { 7, 9 }, { 1, 0 }, { 1, -7 }, { math.mininteger, math.maxinteger },
      { math.maxinteger }, { 1, math.mininteger },
    } do
      a:send_bytes(s, ij[1], ij[2])
      assert.are.equal(s:sub(ij[1], ij[2]), b:recv_bytes(nil, 0))
    end
  end)

  it("longer than maxlength raise, and the connection is closed", function()
    local a, b = pipe()
    a:send_bytes("12345")
    a:send_bytes("123456")
    assert.are.equal("12345", b:recv_bytes(5))
    raises("message of 6 bytes exceeds maxlength 5", b.recv_bytes, b, 5)
    assert.is_true(b.closed)
    raises("broken pipe", a.send, a, 1)
  end)

  it("are no values: recv says so and goes on with the next", function()
    local a, b = pipe()
    for _, s in ipairs { "hello", "", "\xb1", "\xb1garbage", "\xb2", "\xb2" .. ("\1"):rep(40) } do
      a:send_bytes(s)
      a:send(42)
      assert.is_false((pcall(b.recv, b, 0)))
      assert.are.equal(42, b:recv(0))
    end
    a:send_bytes("hello")
    raises("no Lua value", b.recv, b)
  end)

  it("of any kind are an error or a value, never a crash", function()
    local a, b = pipe()
    local step = 12345
    local function byte()
      step = (step * 1103515245 + 12345) % 2147483648
      return string.char(step // 65536 % 256)
    end
    for n = 0, 400 do
      local t = { n % 3 == 0 and "\xb2" or "\xb1" }
      for i = 2, n % 40 do t[i] = byte() end
      a:send_bytes(table.concat(t))
      pcall(b.recv, b, 0)
    end
    a:send("end")
    assert.are.equal("end", b:recv(0))
  end)
end)

describe("shared objects", function()
  after_each(close_pipes)

  it("cross a pipe and arrive as the same object", function()
    local a, b = pipe()
    local q, lock = mp.Queue(), mp.Lock()
    a:send({ q = q, lock = lock, again = q })
    local got = b:recv()
    assert.are.equal(q, got.q)
    assert.are.equal(q, got.again)
    assert.are.equal(lock, got.lock)
    assert.are.equal(0, kinds("ticket"))
  end)

  it("reach another process", function()
    local a, b = pipe()
    local p = start(function()
      a:close()
      local q, v = table.unpack(b:recv())
      v:add(5)
      q:put("from the child")
    end)
    b:close()
    local q, v = mp.Queue(), mp.Value("i", 37) -- made after the fork
    a:send({ q, v })
    assert.are.equal("from the child", q:get(10))
    assert.are.equal(42, v.value)
    assert.are.equal(0, finish(p))
  end)

  it("survive the process that sent them", function()
    for _, die in ipairs { function() end, function() T.shell("kill -9 " .. mp.getpid()) end } do
      local r, w = pipe(false)
      local p = start(function()
        local q = mp.Queue()
        q:put("kept")
        w:send({ q })
        q = nil -- luacheck: ignore
        collectgarbage()
        die()
      end)
      w:close()
      p:join(10)
      p:close()
      core.collect()
      local q = r:recv()[1]
      assert.are.equal("kept", q:get(0))
    end
  end)

  it("are given back when nobody reads the message and the pipe is closed", function()
    local a, b = mp.Pipe()
    for i = 1, 10 do
      a:send({ mp.Queue(), i })
      b:send({ mp.Queue(), i })
    end
    collectgarbage()
    assert.are.equal(20, kinds("ticket"))
    a:close()
    b:close()
    assert.are.equal(0, kinds("ticket"))
    assert.are.equal(0, kinds("mp.Queue"))
  end)

  it("are given back after a reader was killed with the message", function()
    local r, w <close> = mp.Pipe(false)
    local p = start(function()
      w:close()
      local got = r:recv()
      got[1]:put("got it")
      mp.sleep(100)
    end)
    r:close()
    local q = mp.Queue()
    w:send({ q, mp.Event() })
    assert.are.equal("got it", q:get(10))
    p:kill()
    assert.are.equal(-9, finish(p))
    collectgarbage()
    assert.are.equal(0, kinds("mp.Event"))
  end)

  it("come with the message or not at all: the bytes alone name nothing", function()
    local a, b = pipe()
    a:send({ mp.Queue() })
    local copy = b:recv_bytes()
    b:send_bytes(copy)
    b:send_bytes(copy)
    assert.are.equal("mp.Queue", mp.type(a:recv()[1]))
    raises("gone", a.recv, a)
    a:send("in step")
    assert.are.equal("in step", b:recv())
  end)

  it("cross by the thousand", function()
    local a, b = pipe()
    local list = {}
    for i = 1, 2000 do list[i] = mp.Lock() end
    a:send(list)
    local got = b:recv()
    for i = 1, 2000 do assert.are.equal(list[i], got[i]) end
  end)
end)

describe("a connection in a message", function()
  after_each(close_pipes)

  it("arrives as a connection to the same peer, and the sender keeps its copy", function()
    local a, b = pipe()
    local x <close>, y = mp.Pipe()
    a:send({ y, "and more" })
    local got <close> = b:recv()[1]
    assert.are.equal("mp.Connection", mp.type(got))
    assert.are_not.equal(y:fileno(), got:fileno())
    assert.is_true(got.readable and got.writable)
    y:close()
    got:send("hello")
    assert.are.equal("hello", x:recv())
    x:send({ mp.Lock() }) -- its tickets came along
    assert.are.equal("mp.Lock", mp.type(got:recv()[1]))
    got:close()
    assert.are.same({ n = 2, nil, "eof" }, table.pack(x:recv()))
  end)

  it("keeps its direction", function()
    local a, b = pipe()
    local r, w = pipe(false)
    a:send({ r, w })
    local got = b:recv()
    local r2 <close> = got[1]
    local w2 <close> = got[2]
    assert.are.same({ true, false, false, true }, { r2.readable, r2.writable, w2.readable, w2.writable })
    w2:send(7)
    assert.are.equal(7, r2:recv())
  end)

  it("connects processes that were forked before it was made", function()
    local a, b = pipe()
    local p = start(function()
      a:close()
      local conn <close> = b:recv()
      for v in conn:messages() do conn:send(v .. "!") end
    end)
    b:close()
    local x <close>, y = mp.Pipe()
    a:send(y)
    y:close()
    x:send("late")
    assert.are.equal("late!", x:recv())
    x:close()
    assert.are.equal(0, finish(p))
  end)

  it("is closed with the message when nobody reads it", function()
    local a, b = mp.Pipe()
    local x <close>, y = mp.Pipe()
    a:send(y)
    y:close()
    a:send_bytes("next")
    assert.is_string(b:recv_bytes()) -- its descriptor came, and goes
    assert.are.same({ n = 2, nil, "eof" }, table.pack(x:recv(5)))
    a:close()
    b:close()
  end)

  it("can be one of 253, and no more", function()
    local a, b = pipe()
    local list, closing = {}, {}
    for i = 1, 127 do
      list[2 * i - 1], list[2 * i] = mp.Pipe()
    end
    for i = 1, 254 do closing[i] = list[i] end
    raises("cannot send 254 connections in one message %(253 at most%)", a.send, a, list)
    list[254] = nil
    a:send(list)
    local got = b:recv()
    assert.are.equal(253, #got)
    got[1]:send("through")
    assert.are.equal("through", list[2]:recv())
    for i = 1, 254 do
      closing[i]:close()
      if got[i] then got[i]:close() end
    end
  end)

  it("cannot cross a queue", function()
    local q = mp.Queue()
    local a, b = pipe()
    raises("cannot marshal .*Connection", q.put, q, { a })
    assert.are.equal(0, q:qsize())
    assert.is_false(b.closed)
  end)
end)
