-- Process: making, starting, joining, what a child inherits and what it does not.
local T = require "spec.helper"
local mp = require "mp"

--- Runs `f` in a process and returns what it puts on a queue.
local function ask(f, ...)
  local answers <close> = mp.Queue()
  local p = mp.Process(function(...) answers:put(table.pack(f(...))) end, ...)
  p:start()
  assert.is_true(p:join(10))
  assert.equal(0, p.exitcode)
  return table.unpack(answers:get(0) or {}, 1, 10)
end

local function run(options)
  local p = mp.Process(options)
  p:start()
  assert.is_true(p:join(10))
  return p.exitcode, p
end

local function fails(pattern, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(err))
end

--- The number in a field of /proc/self/status.
local function status(field)
  return tonumber(T.read("/proc/self/status"):match(field .. ":%s*(%d+)"))
end

describe("a process", function()
  it("calls its target with the arguments, nils included", function()
    local n, a, b, c, d = ask(function(...) return select("#", ...), ... end, 1, nil, "x", nil)
    assert.same({ 4, 1, nil, "x", nil }, { n, a, b, c, d })
  end)

  it("takes a table of options, args with holes as table.pack makes them", function()
    local q <close> = mp.Queue()
    local function target(...) q:put(select("#", ...)) end
    run { target = target, args = table.pack(nil, 2, nil), name = "holes" }
    assert.equal(3, q:get(0))
    run { target = target, args = { 1, 2 } }
    assert.equal(2, q:get(0))
  end)

  it("calls a callable table in the table form", function()
    local q <close> = mp.Queue()
    local callable = setmetatable({ by = 3 }, { __call = function(self, x) q:put(self.by * x) end })
    run { target = callable, args = { 7 } }
    assert.equal(21, q:get(0))
  end)

  it("does nothing without a target", function()
    assert.equal(0, (run {}))
    local p = mp.Process()
    p:start()
    assert.is_true(p:join())
  end)

  it("sees the parent's upvalues as they are at the start, and changes a copy", function()
    local t = { n = 1 }
    local p = mp.Process(function()
      t.n = t.n + 1
      os.exit(t.n)
    end)
    t.n = 41
    p:start()
    p:join()
    assert.same({ 42, 41 }, { p.exitcode, t.n })
  end)

  it("is another process, with this one as its parent", function()
    local pid, name, parent, parent_name, alive = ask(function()
      local parent = mp.parent_process()
      return mp.getpid(), mp.current_process().name, parent.pid, parent.name, parent:is_alive()
    end)
    assert.not_equal(mp.getpid(), pid)
    assert.matches("^Process%-%d+$", name)
    assert.same({ mp.getpid(), "MainProcess", true }, { parent, parent_name, alive })
  end)

  it("knows its pid, its exit code and whether it is alive", function()
    local gate <close> = mp.Event()
    local p = mp.Process(function()
      gate:wait()
      os.exit(7)
    end)
    assert.is_nil(p.pid)
    assert.is_nil(p.exitcode)
    assert.is_false(p:is_alive())
    p:start()
    assert.is_true(T.alive(p.pid))
    assert.is_true(p:is_alive())
    assert.is_nil(p.exitcode)
    assert.is_false(p:join(0))
    assert.is_false(p:join(-1))
    assert.is_false(p:join(0.01))
    gate:set()
    assert.is_true(p:join())
    assert.is_true(p:join(0))
    assert.is_false(p:is_alive())
    assert.equal(7, p.exitcode)
    assert.equal("number", type(p.pid))
  end)

  it("tells its exit code without a join", function()
    local p = mp.Process(os.exit, 3)
    p:start()
    assert.equal(3, T.wait_until(function() return p.exitcode end))
  end)

  it("gets names in the order of construction, and its children theirs", function()
    local first = mp.Process().name
    local n = tonumber(first:match "^Process%-(%d+)$")
    assert.equal("Process-" .. n + 1, mp.Process(print).name)
    local p = mp.Process { target = print, name = "given" }
    assert.equal("given", p.name)
    p.name = "other"
    assert.equal("other", p.name)
    assert.equal(("Process-%d:1"):format(n + 3), (ask(function() return mp.Process().name end)))
  end)

  it("can change its own name while it runs", function()
    assert.equal("me", (ask(function()
      mp.current_process().name = "me"
      return mp.current_process().name
    end)))
  end)

  it("is printed with its name and state", function()
    local p = mp.Process { target = function() mp.sleep(60) end, name = "shown", daemon = true }
    assert.equal("mp.Process: shown (initial, daemon)", tostring(p))
    p:start()
    assert.equal(("mp.Process: shown (started, pid %d, daemon)"):format(p.pid), tostring(p))
    p:kill()
    p:join()
    assert.equal("mp.Process: shown (stopped, signal 9, daemon)", tostring(p))
    p:close()
    assert.equal("mp.Process: shown (closed, daemon)", tostring(p))
    assert.matches("^mp%.Process: MainProcess %(current, pid %d+%)$", tostring(mp.current_process()))
    assert.equal("mp.Process class: Process", tostring(mp.Process))
  end)

  it("has type mp.Process, subclasses too", function()
    local Sub = mp.Process:extend("Sub")
    assert.equal("mp.Process", mp.type(mp.Process()))
    assert.equal("mp.Process", mp.type(Sub()))
    assert.equal("mp.Process", mp.type(mp.current_process()))
    assert.is_nil(mp.type(mp.Process))
    assert.is_nil(mp.type {})
    assert.is_nil(mp.type(io.stdout))
    assert.is_nil(mp.type(nil))
    local q <close> = mp.Queue()
    assert.equal("mp.Queue", mp.type(q))
  end)

  it("runs a hundred at once", function()
    T.limit(60)
    local q <close> = mp.Queue()
    local gate <close> = mp.Event()
    local all = {}
    for i = 1, 100 do
      all[i] = mp.Process(function()
        q:put(i)
        gate:wait()
      end)
      all[i]:start()
    end
    local sum = 0
    for _ = 1, 100 do sum = sum + q:get(30) end
    assert.equal(5050, sum)
    assert.equal(100, #mp.active_children())
    gate:set()
    for i = 1, 100 do
      assert.is_true(all[i]:join(30))
      assert.equal(0, all[i].exitcode)
    end
    assert.equal(0, #mp.active_children())
  end)

  it("leaves no descriptor behind, fifty of them", function()
    local before = T.fds()
    for _ = 1, 50 do
      local p = mp.Process(function() end)
      p:start()
      p:join()
    end
    assert.same(before, T.fds())
  end)

  it("can start processes of its own, daemons too", function()
    local q <close> = mp.Queue()
    local p = mp.Process { daemon = true, target = function()
      local child = mp.Process(function()
        q:put { mp.current_process().name, mp.current_process().daemon, mp.parent_process().name }
      end)
      child:start()
      child:join()
      q:put(child.exitcode)
    end }
    p:start()
    assert.same({ p.name .. ":1", true, p.name }, q:get(5))
    assert.equal(0, q:get(5))
    p:join()
  end)

  it("works inside coroutines, in the parent and in the child", function()
    local co = coroutine.wrap(function()
      local p = mp.Process(function()
        local got = coroutine.wrap(function() coroutine.yield(21) end)()
        os.exit(coroutine.isyieldable() and 1 or got * 2)
      end)
      p:start()
      coroutine.yield(p:join() and p.exitcode)
    end)
    assert.equal(42, co())
  end)

  it("cannot yield out of its target", function()
    local code = run { target = function() coroutine.yield() end, stderr = "/dev/null" }
    assert.equal(1, code)
  end)

  it("has an authkey, the same in the whole tree, that can be set", function()
    local key = mp.current_process().authkey
    assert.equal(32, #key)
    assert.equal(key, (ask(function() return mp.current_process().authkey end)))
    local p = mp.Process()
    p.authkey = "secret"
    assert.equal("secret", p.authkey)
    assert.equal(key, mp.current_process().authkey)
    fails("field 'authkey' of a process: string expected, got nil", function() p.authkey = nil end)
  end)
end)

describe("a subclass", function()
  local Counter = mp.Process:extend("Counter")
  function Counter:init(n, q) self.n, self.q = n, q end
  function Counter:run() self.q:put(self.n * 2) end

  it("is given the constructor's arguments and runs its own run", function()
    local q <close> = mp.Queue()
    local c = Counter(5, q)
    assert.matches("^Counter%-%d+$", c.name)
    assert.equal(5, c.n)
    c:start()
    c:join()
    assert.equal(10, q:get(0))
  end)

  it("may call the base's init and run, and be a base itself", function()
    local q <close> = mp.Queue()
    local Loud = Counter:extend("Loud")
    function Loud:init(n)
      mp.Process.init(self, { target = function() q:put(n) end, name = "loud", daemon = true })
    end
    function Loud:run() return mp.Process.run(self) end
    local p = Loud(3)
    assert.same({ "loud", true }, { p.name, p.daemon })
    p:start()
    p:join()
    assert.equal(3, q:get(0))
  end)

  it("takes the base's forms when it has no init", function()
    local Plain = mp.Process:extend("Plain")
    local p = Plain { target = os.exit, args = { 4 } }
    p:start()
    p:join()
    assert.equal(4, p.exitcode)
    assert.equal(5, (function()
      local s = Plain(os.exit, 5)
      s:start()
      s:join()
      return s.exitcode
    end)())
  end)

  it("can be printed its own way", function()
    local Named = mp.Process:extend("Named")
    function Named:__tostring() return "<" .. self.name .. ">" end
    assert.matches("^<Named%-%d+>$", tostring(Named()))
  end)

  it("needs a name", function()
    fails("bad argument #1 to 'extend' %(string expected, got no value%)", mp.Process.extend, mp.Process)
    fails("calling 'extend' on bad self", mp.Process().extend, mp.Process())
  end)
end)

describe("misuse of a process", function()
  it("names the argument of the constructor", function()
    fails("process_spec%.lua:%d+: bad argument #1 to 'Process' %(function or table of options "
      .. "expected, got number%)", function() mp.Process(5) end)
    fails("bad argument #1 to 'Process' %(function or table of options expected, got string%)",
      mp.Process, "f", 1)
    fails("unknown option 'tagret'; known options: args, cpu, daemon, detach, memory, name, nice, "
      .. "stderr, stdin, stdout, target", mp.Process, { tagret = print })
  end)

  it("names the option", function()
    local wrong = {
      target = { 5, "function" }, args = { 5, "table" }, name = { 5, "string" },
      daemon = { 1, "boolean" }, detach = { "yes", "boolean" }, nice = { 1.5, "integer from" },
      memory = { 0, "positive number of bytes" }, stdin = { true, "path or open file" },
      stdout = { "", "path or open file" }, stderr = { 2, "path or open file" },
    }
    for name, case in pairs(wrong) do
      fails("option '" .. name .. "': " .. case[2], mp.Process, { [name] = case[1] })
    end
    for _, cpu in ipairs { -1, 0.5, "0", {} } do
      fails("option 'cpu': processor number or list of them", mp.Process, { cpu = cpu })
    end
    fails("option 'cpu'", mp.Process, { cpu = { 0, "x" } })
    fails("cannot be both 'daemon' and 'detach'", mp.Process, { daemon = true, detach = true })
    local f = io.tmpfile()
    f:close()
    fails("option 'stdout': path or open file", mp.Process, { stdout = f })
    fails("option 'args': too many arguments", mp.Process, { target = print, args = { n = 1 << 40 } })
  end)

  it("is told at the caller's line", function()
    local p = mp.Process()
    fails("process_spec%.lua:%d+: can only join a started process", function() p:join() end)
    fails("process_spec%.lua:%d+: can only terminate a started process", function() p:terminate() end)
    fails("can only kill a started process", function() p:kill() end)
    fails("can only watch a started process", function() return p.sentinel end)
    p:start()
    fails("cannot start process '.*' twice", function() p:start() end)
    fails("field 'daemon' cannot be set", function() p.daemon = true end)
    fails("field 'pid' of a process cannot be set", function() p.pid = 1 end)
    fails("field 'name' of a process: string expected, got number", function() p.name = 1 end)
    fails("bad argument #1 to 'join' %(number expected, got string%)", function() p:join("x") end)
    fails("process_spec%.lua:%d+: bad argument #1 to 'join' %(a time%-out must not be NaN%)",
      function() p:join(0 / 0) end)
    p:join()
    fails("cannot start process '.*' twice", function() p:start() end)
    fails("calling 'join' on bad self %(mp.Process expected, got no value%)", p.join)
    fails("calling 'start' on bad self %(mp.Process expected, got table%)", p.start, {})
  end)

  it("is joining oneself", function()
    fails("cannot join the current process", function() mp.current_process():join() end)
    fails("cannot start process 'MainProcess' twice", function() mp.current_process():start() end)
    fails("can only close a child process", function() mp.current_process():close() end)
    fails("cannot terminate the current process", function() mp.current_process():terminate() end)
    assert.is_true(mp.current_process():is_alive())
    assert.equal(mp.getpid(), mp.current_process().pid)
    assert.is_nil(mp.current_process().exitcode)
  end)

  it("is using a process that is not one's own child", function()
    local sibling = mp.Process(function() mp.sleep(60) end)
    local unborn = mp.Process(function() end)
    sibling:start()
    local function message(f) return select(2, pcall(f)) end
    local join, alive, start, parent, close = ask(function()
      return message(function() sibling:join() end), message(function() sibling:is_alive() end),
        message(function() unborn:start() end), message(function() mp.parent_process():terminate() end),
        message(function() sibling:close() end)
    end)
    assert.matches("can only join a child process", join)
    assert.matches("can only test a child process", alive)
    assert.matches("can only start a process that was made by the current one", start)
    assert.matches("can only terminate a child process", parent)
    assert.matches("can only close a child process", close)
    sibling:kill()
    sibling:join()
  end)

  it("is closing while it runs, or using what was closed", function()
    local p = mp.Process { target = function() mp.sleep(60) end, name = "busy" }
    p:start()
    fails("cannot close process 'busy' while it is running", function() p:close() end)
    p:kill()
    p:join()
    p:close()
    p:close()
    for _, method in ipairs { "join", "is_alive", "terminate", "kill", "interrupt", "start" } do
      fails("process 'busy' is closed", function() p[method](p) end)
    end
    for _, field in ipairs { "pid", "exitcode", "sentinel" } do
      fails("process 'busy' is closed", function() return p[field] end)
    end
    assert.equal("busy", p.name)
  end)
end)

describe("signals to a process", function()
  it("end it, and the exit code names them", function()
    for method, code in pairs { terminate = -15, kill = -9, interrupt = -2 } do
      local ready <close> = mp.Event()
      local p = mp.Process(function()
        ready:set()
        mp.sleep(60)
      end)
      p:start()
      ready:wait()
      p[method](p)
      p:join()
      assert.equal(code, p.exitcode)
      p[method](p) -- nothing any more
    end
  end)
end)

describe("the children of a process", function()
  it("are listed in the order of their start, as long as they run", function()
    local gate <close> = mp.Event()
    local a, b = mp.Process(function() gate:wait() end), mp.Process(function() gate:wait() end)
    assert.same({}, mp.active_children())
    b:start()
    a:start()
    local list = mp.active_children()
    assert.equal(b, list[1])
    assert.equal(a, list[2])
    assert.equal(2, #list)
    gate:set()
    T.wait_until(function() return #mp.active_children() == 0 end)
    assert.same({}, T.children()) -- reaped
    assert.same({ 0, 0 }, { a.exitcode, b.exitcode })
  end)

  it("are none in a child, which has its own", function()
    local gate <close> = mp.Event()
    local p = mp.Process(function() gate:wait() end)
    p:start()
    assert.equal(0, (ask(function() return #mp.active_children() end)))
    gate:set()
    p:join()
  end)

  it("that nobody joins are reaped by the next start", function()
    for _ = 1, 5 do mp.Process(function() end):start() end
    T.wait_until(function()
      local p = mp.Process(function() end)
      p:start()
      p:join()
      return #T.children() == 0
    end)
    assert.same({}, T.children())
  end)
end)

describe("a scope with a process", function()
  it("joins it", function()
    local seen
    do
      local p <close> = mp.Process(os.exit, 9)
      p:start()
      seen = p
    end
    assert.equal(9, seen.exitcode)
  end)

  it("terminates it when an error leaves the scope", function()
    local seen
    fails("left", function()
      local p <close> = mp.Process(function() mp.sleep(60) end)
      seen = p
      p:start()
      error("left")
    end)
    assert.equal(-15, seen.exitcode)
  end)

  it("does nothing to one that was not started", function()
    do local _ <close> = mp.Process(print) end
  end)
end)

describe("a detached process", function()
  it("is in a session of its own, not listed, and can be joined", function()
    local q <close> = mp.Queue()
    local p = mp.Process { detach = true, target = function()
      q:put(tonumber(T.read("/proc/self/stat"):match("^.*%) %a %d+ %d+ (%d+)")))
      mp.sleep(60)
    end }
    p:start()
    assert.equal(p.pid, q:get(5))
    assert.same({}, mp.active_children())
    assert.is_false(p.daemon)
    p:terminate()
    assert.is_true(p:join(5))
    assert.equal(-15, p.exitcode)
  end)

  it("can learn that its parent has ended", function()
    local q <close> = mp.Queue()
    local middle = mp.Process(function()
      local p = mp.Process { detach = true, target = function()
        local parent = mp.parent_process()
        q:put(parent:is_alive())
        q:put(#mp.wait({ parent.sentinel }, 10) == 1 and parent:join(10))
        q:put(parent:is_alive())
        q:put(mp.getpid())
      end }
      p:start()
      mp.sleep(60)
    end)
    middle:start()
    assert.is_true(q:get(5))
    middle:kill()
    assert.is_true(q:get(5))
    assert.is_false(q:get(5))
    local pid = q:get(5)
    middle:join()
    assert.is_false(T.wait_until(function() return not T.alive(pid) end) == false)
  end)
end)

describe("the options of a process", function()
  it("pin it to processors", function()
    local q <close> = mp.Queue()
    local function allowed() return T.read("/proc/self/status"):match("Cpus_allowed_list:%s*(%S+)") end
    local function target() q:put { mp.cpu_count(), allowed() } end
    local first = tonumber(allowed():match("%d+"))
    run { target = target, cpu = first }
    assert.same({ 1, tostring(first) }, q:get(0))
    run { target = target, cpu = { first } }
    assert.same({ 1, tostring(first) }, q:get(0))
  end)

  it("that the system refuses raise in start, and nothing is left", function()
    fails("process_spec%.lua:%d+: cannot start process 'far': pin it to its processors: Invalid argument", function()
      mp.Process { target = print, cpu = 1023, name = "far" }:start()
    end)
    fails("there is no processor 70000", function() mp.Process { cpu = 70000 }:start() end)
  end)

  it("raise its niceness", function()
    local q <close> = mp.Queue()
    local fields = "^.*%) " .. ("(%S+) "):rep(20)
    local function nice() return tonumber((select(17, T.read("/proc/self/stat"):match(fields)))) end
    local base = nice()
    run { target = function() q:put(nice()) end, nice = 3 }
    assert.equal(math.min(19, base + 3), q:get(0))
    assert.equal(base, nice())
  end)

  it("limit its memory", function()
    local limit = status("VmData") * 1024 + (64 << 20)
    local code = run { memory = limit, target = function()
      local ok, err = pcall(string.rep, "x", 256 << 20)
      os.exit(not ok and err == "not enough memory" and 11 or 12)
    end }
    assert.equal(11, code)
  end)

  it("end it with exit code 1 when memory is over, saying so", function()
    if T.sanitized then pending("not with sanitizers") end
    local path = T.tmpname()
    local limit = status("VmData") * 1024 + (32 << 20)
    local code = run { memory = limit, stderr = path, name = "big", target = function()
      local t = {}
      while true do t[#t + 1] = ("x"):rep(1000) .. #t end
    end }
    assert.equal(1, code)
    assert.equal("Process big:\nnot enough memory\n", T.read(path))
    os.remove(path)
  end)
end)

describe("the standard streams of a process", function()
  it("are /dev/null for stdin, whatever the parent has read ahead", function()
    local r = T.mplua([[
      local mp = require "mp"
      io.read()
      local p = mp.Process(function() print(io.read("a") == "", io.read() == nil) end)
      p:start()
      p:join()
      print(io.read("a"))
    ]], nil, { stdin = "one\ntwo\n" })
    assert.same({ "true\ttrue\ntwo\n\n", "", 0 }, { r.out, r.err, r.code })
  end)

  it("can be files, by path or open", function()
    local input, output, errors = T.tmpname(), T.tmpname(), io.tmpfile()
    local f = io.open(input, "w")
    f:write("in\n")
    f:close()
    run { stdin = input, stdout = output, stderr = errors, target = function()
      print("got " .. io.read())
      io.stderr:write("err")
      os.execute("echo from a program")
    end }
    assert.equal("got in\nfrom a program\n", T.read(output):gsub("(from.-)(got.*)", "%2%1"))
    errors:seek("set")
    assert.equal("err", errors:read("a"))
    errors:close()
    os.remove(input)
    os.remove(output)
  end)

  it("go to one file when stdout and stderr name the same", function()
    local path = T.tmpname()
    run { stdout = path, stderr = path, target = function()
      io.stdout:write("a")
      io.stdout:flush()
      io.stderr:write("b")
      io.stdout:write("c")
    end }
    assert.equal("abc", T.read(path))
    os.remove(path)
  end)

  it("may be exchanged", function()
    local r = T.mplua [[
      local mp = require "mp"
      local p = mp.Process { stdout = io.stderr, stderr = io.stdout, target = function()
        io.stdout:write("to err")
        io.stderr:write("to out")
      end }
      p:start()
      p:join()
    ]]
    assert.same({ "to out", "to err" }, { r.out, r.err })
  end)

  it("that cannot be opened raise in start, and nothing is started", function()
    fails("cannot open /no/such/dir/file as stdout of process 'nowhere': No such file or directory", function()
      mp.Process { target = print, stdin = "/dev/null", stdout = "/no/such/dir/file", name = "nowhere" }:start()
    end)
    fails("cannot open /no/such/file as stdin", function()
      mp.Process { stdin = "/no/such/file" }:start()
    end)
  end)

  it("do not write the parent's buffered output twice", function()
    local path = T.tmpname()
    local r = T.mplua([[
      local mp = require "mp"
      io.stdout:setvbuf("full")
      io.write("before ")
      local f = io.open(arg[1], "w")
      f:write("kept ")
      for i = 1, 3 do
        local p = mp.Process(function() io.write("child ") end)
        p:start()
        p:join()
      end
      f:close()
      io.write("after ", io.open(arg[1]):read("a"))
    ]], { path })
    os.remove(path)
    assert.equal("before child child child after kept ", r.out)
  end)

  it("may all be closed", function()
    local out, path = T.tmpname(), T.tmpname()
    local f = io.open(path, "w")
    f:write(([[
      local mp = require "mp"
      local q = mp.Queue()
      print("nowhere")
      local p = mp.Process(function()
        print("nowhere either")
        io.stderr:write("nor here")
        q:put(io.read() == nil)
      end)
      p:start()
      local got, joined = q:get(5), p:join(5)
      local bad = mp.Process(error, "unseen")
      bad:start()
      bad:join()
      local f = io.open("%s", "w")
      f:write(tostring(got), " ", tostring(joined), " ", p.exitcode, " ", bad.exitcode)
      f:close()
    ]]):format(out))
    f:close()
    local text, code = T.shell(T.quote(T.exe) .. " " .. path .. " <&- >&- 2>&-")
    assert.same({ "", 0 }, { text, code })
    assert.equal("true true 0 1", T.read(out))
    os.remove(out)
    os.remove(path)
  end)
end)

describe("random numbers", function()
  local draw = [[
    local mp = require "mp"
    math.randomseed(42)
    local q = mp.Queue()
    local function draw(name)
      q:put(name .. " " .. math.random(1 << 40))
      if #name < 3 then
        for i = 1, 2 do
          local p = mp.Process(draw, name .. i)
          p:start()
          p:join()
        end
      end
    end
    if arg[1] == "children" then
      for i = 1, 2 do
        local p = mp.Process(draw, "c" .. i)
        p:start()
        p:join()
      end
    end
    print(math.random(1 << 40), math.random(1 << 40))
    while not q:empty() do print(q:get()) end
  ]]

  it("of siblings differ, and the whole tree is reproducible", function()
    local a, b = T.mplua(draw, { "children" }), T.mplua(draw, { "children" })
    assert.equal("", a.err)
    assert.equal(a.out, b.out)
    local seen, n = {}, 0
    for number in a.out:gmatch("c%d* (%d+)") do
      assert.is_nil(seen[number])
      seen[number] = true
      n = n + 1
    end
    assert.equal(6, n)
  end)

  it("of the parent are not touched by starting processes", function()
    assert.equal(T.mplua(draw).out:match("[^\n]+"), T.mplua(draw, { "children" }).out:match("[^\n]+"))
  end)

  it("differ from run to run without a seed", function()
    if T.sanitized then pending("not with sanitizers") end
    local script = [[
      local mp = require "mp"
      local p = mp.Process(function() print(math.random(1 << 60)) end)
      p:start()
      p:join()
    ]]
    assert.not_equal(T.mplua(script).out, T.mplua(script).out)
  end)
end)

describe("a tree of processes", function()
  it("ends within a second when its root is killed", function()
    local q <close> = mp.Queue()
    local function grow(depth)
      q:put(mp.getpid())
      if depth < 3 then
        for _ = 1, depth == 1 and 2 or 1 do mp.Process(grow, depth + 1):start() end
        if depth == 2 then mp.Process { target = grow, args = { 4 }, daemon = true }:start() end
      end
      mp.sleep(60)
    end
    local root = mp.Process(grow, 1)
    root:start()
    local pids = {}
    for i = 1, 7 do pids[i] = q:get(10) end
    local t0 = mp.monotonic()
    root:kill()
    local function all_gone()
      for _, pid in ipairs(pids) do
        if T.alive(pid) then return false end
      end
      return true
    end
    root:join()
    assert.is_true(T.wait_until(all_gone, 1))
    assert.is_true(mp.monotonic() - t0 < 5)
    assert.equal(-9, root.exitcode)
  end)
end)

describe("a process that has no descriptor left", function()
  it("can start, join and watch children, or is told what it cannot", function()
    local r = T.mplua([[
      local mp = require "mp"
      mp.Event()
      local files = {}
      repeat files[#files + 1] = io.open("/dev/null") until #files == 0 or not io.open("/dev/null")
      local p = mp.Process(function()
        print(io.read())
        mp.sleep(0.05)
        os.exit(3)
      end)
      p:start()
      print(p:join(0.01), p:join(), p.exitcode)
      print(pcall(function() return p.sentinel end))
      print(pcall(function() mp.Process{ stdout = "/dev/null", name = "x" }:start() end))
      print(pcall(function() mp.Process{ nice = 1, name = "y" }:start() end))
    ]], nil, { env = "prlimit -n40" })
    local lines = {}
    for line in r.out:gmatch("[^\n]+") do lines[#lines + 1] = line:gsub("/tmp/[^:]*:%d+: ", "") end
    assert.same({
      "nil", "false\ttrue\t3", "false\tcannot watch a process: Too many open files",
      "false\tcannot open /dev/null as stdout of process 'x': Too many open files",
      "false\tcannot start process 'y': Too many open files",
    }, lines)
    assert.equal("", r.err)
  end)
end)

describe("a process for which shared memory is full", function()
  it("is told of as such, at the script's line, once; so are pools, managers and waits", function()
    local r = T.mplua([[
      local mp = require "mp"
      local q = mp.Queue()
      local kept = {}
      for _, size in ipairs { 1000, 1 } do
        pcall(function() while true do q:put(("x"):rep(size)) end end)
      end
      pcall(function() while true do kept[#kept + 1] = mp.Lock() end end)
      local function try(f) print((select(2, pcall(f)))) end
      try(function() mp.Process(print):start() end)
      try(function() return mp.Pool(1) end)
      try(function() return mp.Manager() end)
      try(function() return mp.wait({ q }, 0) end)
    ]], nil, { env = "MPLUA_SHM=1M" })
    assert.equal("", r.err)
    local n = 0
    for line in r.out:gmatch "[^\n]+" do
      assert.matches("^[^:]*%.lua:%d+: shared memory is full %(", line)
      n = n + 1
    end
    assert.equal(4, n)
  end)

  it("starts when what Lua has dropped makes room", function()
    local r = T.mplua([[
      local mp = require "mp"
      local q = mp.Queue()
      for _, size in ipairs { 1000, 1 } do
        pcall(function() while true do q:put(("x"):rep(size)) end end)
      end
      local kept = {}
      pcall(function() while true do kept[#kept + 1] = mp.Lock() end end)
      collectgarbage "stop"
      q, kept = nil, nil
      local p = mp.Process(print, "started")
      p:start()
      print(p:join())
    ]], nil, { env = "MPLUA_SHM=1M" })
    assert.same({ out = "started\ntrue\n", err = "", code = 0 }, r)
  end)
end)

describe("what the parent had pending", function()
  it("does not act in a child: <close> variables, finalizers of handles", function()
    local r = T.mplua [[
      local mp = require "mp"
      local q = mp.Queue()
      local pid = mp.getpid()
      do
        local _ <close> = setmetatable({}, { __close = function() print("closed", mp.getpid() == pid) end })
        for _, how in ipairs { "return", "error", "exit", "close" } do
          local p = mp.Process { stderr = "/dev/null", target = function()
            q = nil
            collectgarbage()
            collectgarbage()
            if how == "error" then error("x") end
            if how == "exit" then os.exit(0) end
            if how == "close" then os.exit(0, true) end
          end }
          p:start()
          p:join()
          io.write(p.exitcode, " ")
        end
        q:put("still there")
      end
      print(q:get())
    ]]
    assert.same({ "0 1 0 0 closed\ttrue\nstill there\n", "" }, { r.out, r.err })
  end)

  it("is not collected in a child before that has allocated as much again", function()
    local big = {}
    for i = 1, 2e5 do big[i] = { i } end
    for _, mode in ipairs { "generational", "incremental" } do
      local old = collectgarbage(mode)
      collectgarbage()
      local early, late = ask(function()
        local collected, before = 0, collectgarbage("count")
        local function make() return setmetatable({}, { __gc = function() collected = collected + 1 end }) end
        local function grow(factor)
          make()
          local keep = {}
          while collectgarbage("count") < before * factor do keep[#keep + 1] = { #keep } end
          return collected, keep
        end
        local soon = grow(2.3) -- without our doing it comes at 1.9 and 2.0
        return soon, (grow(8))
      end)
      collectgarbage(old)
      assert.same({ mode, 0, true, 2e5 }, { mode, early, late > 0, #big })
    end
  end)
end)

describe("a process forked by other means", function()
  local function is_stranger(how)
    local r = T.mplua([[
      local mp = require "mp"
      local host = package.loadlib(arg[1], "luaopen_host")()
      local q, p = mp.Queue(), mp.Process(function() mp.sleep(0.2) end)
      p:start()
      local pid = host.fork()
      if pid == 0 then
        print(select(2, pcall(q.put, q, 1)))
        print(select(2, pcall(p.join, p)))
        print(select(2, pcall(mp.Lock)))
        print(select(2, pcall(mp.active_children)))
        print(select(2, pcall(mp.sleep, 1)))
        q = nil
        collectgarbage()
        os.exit(3, arg[2] == "close")
      end
      print(host.wait(pid), q:qsize(), p:join())
    ]], { T.build .. "/spec/host.so", how })
    local lines = {}
    for line in r.out:gmatch("[^\n]+") do lines[#lines + 1] = line end
    assert.matches("forked by other means", lines[1])
    assert.matches("can only join a child process", lines[2])
    for i = 3, 5 do assert.matches("forked by other means", lines[i]) end
    assert.same({ "3\t0\ttrue", 6, "" }, { lines[6], #lines, r.err })
  end
  for _, how in ipairs { "exit", "close" } do
    it("is a stranger: mp raises, the exit hooks do nothing: " .. how, function() is_stranger(how) end)
  end

  it("is none where programs are run: io.popen and os.execute do no harm", function()
    local q <close> = mp.Queue()
    local pipe = io.popen("echo hello")
    q:put(pipe:read("a"))
    pipe:close()
    os.execute("true")
    assert.equal("hello\n", q:get(0))
    assert.equal("hi", (ask(function()
      local p = io.popen("printf hi")
      local text = p:read("a")
      p:close()
      return text
    end)))
  end)
end)

describe("processors", function()
  it("are counted by affinity, and MPLUA_CPUS overrides", function()
    local n = mp.cpu_count()
    assert.is_true(math.type(n) == "integer" and n >= 1)
    assert.equal("7\n", T.mplua([[print(require"mp".cpu_count())]], nil, { env = "MPLUA_CPUS=7" }).out)
    local r = T.mplua([[require"mp".cpu_count()]], nil, { env = "MPLUA_CPUS=many" })
    assert.matches("MPLUA_CPUS must be a positive integer, not 'many'", r.err)
    assert.equal("1\n", T.mplua([[print(require"mp".cpu_count())]], nil, { env = "taskset -c 0" }).out)
  end)
end)

describe("the table of the library", function()
  it("has everything, and its version", function()
    assert.equal("0.1.0", mp.version)
    for _, name in ipairs { "Process", "Queue", "LifoQueue", "PriorityQueue", "JoinableQueue",
      "SimpleQueue", "Pipe", "Value", "Array", "RawValue", "RawArray", "Struct", "Lock", "RLock",
      "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "cpu_count",
      "current_process", "parent_process", "active_children", "wait", "sleep", "monotonic", "getpid",
      "type", "log_to_stderr", "get_logger", "marshal" } do
      assert.truthy(mp[name], name)
    end
    assert.equal("userdata", type(mp.null))
    assert.is_nil(mp.parent_process())
  end)
end)
