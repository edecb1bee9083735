-- The ends of programs: falling off the script, errors, os.exit, Ctrl-C, in the main
-- program and in children, under mplua and as a module of stock lua5.4.
local T = require "spec.helper"

local hosts = {
  { name = "mplua", exe = T.exe },
  { name = "lua5.4", exe = "/usr/bin/lua5.4", env = "LUA_CPATH=" .. T.quote(T.build .. "/?.so") },
}

--- A sanitized module cannot be loaded into a plain interpreter.
local function usable(host)
  if host.name == "mplua" then return true end
  local r = T.mplua("require 'mp'", nil, host)
  return r.code == 0
end

for _, host in ipairs(hosts) do
  local function script(text, args, opts)
    if not usable(host) then pending("mp.so cannot be loaded here") end
    local all = { exe = host.exe, env = host.env }
    for key, value in pairs(opts or {}) do all[key] = value end
    return T.mplua("local mp = require 'mp'\n" .. text, args, all)
  end

  --- Runs a script that is to print `out`, nothing on stderr, and exit with `code`.
  local function prints(out, text, args, code)
    local r = script(text, args)
    assert.same({ out, "", code or 0 }, { r.out, r.err, r.code })
  end

  describe("the exit code of a child, " .. host.name .. ",", function()
    it("is 0 when its target returns, whatever it returns", function()
      prints("0", "local p = mp.Process(function() return 5 end) p:start() p:join() io.write(p.exitcode)")
    end)

    it("is 1 after an error, which is printed with the child's own traceback", function()
      local r = script [[
        local function target() local t = nil; return t.x end
        local function main()
          local p = mp.Process{ target = target, name = "failing" }
          p:start()
          p:join()
          print(p.exitcode)
        end
        main()
      ]]
      assert.equal("1\n", r.out)
      assert.matches("^Process failing:\n[^\n]*:2: attempt to index a nil value %(local 't'%)\n", r.err)
      assert.matches("\nstack traceback:\n", r.err)
      assert.is_nil(r.err:find("'main'", 1, true))
      assert.is_nil(r.err:find("mp/process", 1, true))
      assert.equal(0, r.code)
    end)

    it("is 1 after an error that is no string", function()
      local r = script [[
        local told = setmetatable({}, { __tostring = function() return "told" end })
        local values = { {}, told, 42, true, "s" }
        for i = 1, 5 do
          local p = mp.Process(error, values[i], 0)
          p:start()
          p:join()
          io.write(p.exitcode)
        end
        local p = mp.Process(error)
        p:start()
        p:join()
        io.write(p.exitcode)
      ]]
      assert.equal("111111", r.out)
      local told = {}
      for line in r.err:gmatch("Process Process%-%d:\n([^\n]*)\n") do told[#told + 1] = line end
      assert.same({ "(error object is a table value)", "told", "42", "(error object is a boolean value)",
        "s", "(error object is a nil value)" }, told)
    end)

    it("is 1 after an error in the error's own __tostring, and after a stack overflow", function()
      local r = script [[
        local bad = setmetatable({}, { __tostring = function() error("again") end })
        local function deep() return deep() + 1 end
        for _, f in ipairs { function() error(bad) end, deep } do
          local p = mp.Process(f)
          p:start()
          p:join()
          io.write(p.exitcode)
        end
      ]]
      assert.equal("11", r.out)
      assert.matches("^Process Process%-1:\n", r.err)
      assert.matches("\nProcess Process%-2:\n[^\n]*stack overflow", r.err)
    end)

    it("is what os.exit says, with or without closing", function()
      prints("3 44 255 0 1 0 3 44 255 0 1 0 ", [[
        for _, close in ipairs { false, true } do
          for _, code in ipairs { 3, 300, -1, true, false } do
            local p = mp.Process(os.exit, code, close)
            p:start()
            p:join()
            io.write(p.exitcode, " ")
          end
          local p = mp.Process(os.exit)
          p:start()
          p:join()
          io.write(p.exitcode, " ")
        end
      ]])
    end)

    it("is what os.exit says inside a coroutine and inside pcall", function()
      prints("6 7 ", [[
        local p = mp.Process(function() coroutine.wrap(function() pcall(os.exit, 6) end)() end)
        p:start()
        p:join()
        io.write(p.exitcode, " ")
        p = mp.Process(function() pcall(function() pcall(os.exit, 7, true) end) end)
        p:start()
        p:join()
        io.write(p.exitcode, " ")
      ]])
    end)

    it("is what a C library's exit(3) says, and stdio is flushed", function()
      prints("from the child 9", [[
        local host = package.loadlib(arg[1], "luaopen_host")()
        io.stdout:setvbuf("full")
        local p = mp.Process(function()
          io.write("from the child ")
          host.exit(9)
        end)
        p:start()
        p:join()
        io.write(p.exitcode)
      ]], { T.build .. "/spec/host.so" })
    end)

    it("names the signal that ended it", function()
      prints("-15 -9 -11 ", [[
        local host = package.loadlib(arg[1], "luaopen_host")()
        for _, signal in ipairs { 15, 9, 11 } do
          local p = mp.Process(host.raise, signal)
          p:start()
          p:join()
          io.write(p.exitcode, " ")
        end
      ]], { T.build .. "/spec/host.so" })
    end)

    it("is known although the host ignores SIGCHLD or reaps everything itself", function()
      prints("7 255 7\n", [[
        local host = package.loadlib(arg[1], "luaopen_host")()
        host.ignore(17)
        local p = mp.Process(os.exit, 7)
        p:start()
        p:join()
        local k = mp.Process(host.raise, 9)
        k:start()
        k:join()
        host.default(17)
        local q = mp.Process(os.exit, 7)
        q:start()
        host.wait(q.pid)
        q:join()
        print(p.exitcode .. " " .. k.exitcode .. " " .. q.exitcode)
      ]], { T.build .. "/spec/host.so" })
    end)
  end)

  describe("the end of the main program, " .. host.name .. ",", function()
    local ways = {
      { "falling off the script", "", 0 },
      { "os.exit()", "os.exit()", 0 },
      { "os.exit(5)", "os.exit(5)", 5 },
      { "os.exit(5, true)", "os.exit(5, true)", 5 },
      { "os.exit(false)", "os.exit(false)", 1 },
      { "os.exit in a coroutine", "coroutine.wrap(function() os.exit(6) end)()", 6 },
      { "os.exit(n, true) in a coroutine", "coroutine.wrap(function() os.exit(6, true) end)()", 6 },
      { "an error", "error('main failed', 0)", 1 },
    }
    for _, way in ipairs(ways) do
      it("joins its children and terminates its daemons: " .. way[1], function()
        local r = script([[
          io.stdout:setvbuf("full")
          local ready = mp.Queue()
          local d = mp.Process{ daemon = true, name = "d", target = function()
            ready:put("d")
            mp.sleep(60)
            print("never")
          end }
          local p = mp.Process(function()
            ready:put("p")
            mp.sleep(0.1)
            print("child")
          end)
          d:start()
          p:start()
          ready:get()
          ready:get()
          print("main")
        ]] .. way[2])
        assert.equal("main\nchild\n", r.out)
        assert.equal(way[3], r.code)
        if way[1] == "an error" then assert.matches("main failed", r.err) else assert.equal("", r.err) end
      end)
    end

    it("joins children whose objects nobody holds any more", function()
      prints("main\nchild\n", [[
        io.stdout:setvbuf("line")
        mp.Process(function() mp.sleep(0.1) print("child") end):start()
        collectgarbage()
        print("main")
      ]])
    end)

    it("joins what a finalizer starts while the state is closed", function()
      for _, ending in ipairs { "", "os.exit(0, true)" } do
        local r = script([[
          io.stdout:setvbuf("line")
          mp.Process(function() mp.sleep(0.1) print("child") end):start()
          FINAL = setmetatable({}, { __gc = function()
            mp.Process(function() mp.sleep(0.2) print("late") end):start()
          end })
        ]] .. ending)
        assert.same({ "child\nlate\n", "", 0 }, { r.out, r.err, r.code })
      end
    end)

    it("is too late for the library to be opened", function()
      local r = T.mplua([[
        FINAL = setmetatable({}, { __gc = function()
          print(select(2, pcall(require, "mp")))
        end })
      ]], nil, host)
      if not usable(host) then pending("mp.so cannot be loaded here") end
      assert.same({ "cannot open mp: the state is being closed\n", "", 0 }, { r.out, r.err, r.code })
    end)

    it("does not need the standard libraries", function()
      prints("true\t7\n", [[
        local print, exit = print, os.exit
        os, io, debug = nil, nil, nil
        local p = mp.Process(exit, 7)
        p:start()
        print(p:join(), p.exitcode)
      ]])
    end)

    it("logs what it does, daemons first", function()
      local r = script [[
        local logger = mp.log_to_stderr("INFO")
        local ready = mp.Queue()
        local function target() ready:put(1) mp.sleep(60) end
        local gate = mp.Event()
        mp.Process{ target = function() ready:put(1) gate:wait() mp.sleep(0.2) end, name = "plain" }:start()
        mp.Process{ target = target, name = "d1", daemon = true }:start()
        mp.Process{ target = target, name = "d2", daemon = true }:start()
        for _ = 1, 3 do ready:get() end
        gate:set()
        logger:info("%d ready", 3)
      ]]
      assert.equal("", r.out)
      local main, plain = {}, {}
      for line in r.err:gmatch("[^\n]+") do
        local text = line:match("^%[INFO/MainProcess%] (.*)$")
        if text then main[#main + 1] = text end
        text = line:match("^%[INFO/plain%] (.*)$")
        if text then plain[#plain + 1] = text end
      end
      assert.same({
        "3 ready",
        "process shutting down",
        "calling terminate() for daemon d1",
        "calling terminate() for daemon d2",
        "calling join() for process d1",
        "calling join() for process d2",
        "calling join() for process plain",
      }, main)
      assert.same({ "child process calling self.run()", "process shutting down",
        "process exiting with exitcode 0" }, plain)
    end)

    it("is the same in a child", function()
      local r = script [[
        local p = mp.Process{ name = "middle", target = function()
          mp.log_to_stderr("INFO")
          local ready = mp.Queue()
          mp.Process{ name = "daemon", daemon = true, target = function() ready:put(1) mp.sleep(60) end }:start()
          mp.Process{ name = "plain", target = function() ready:put(1) mp.sleep(0.1) os.exit(3) end }:start()
          ready:get()
          ready:get()
          os.exit(4)
        end }
        p:start()
        p:join()
        print(p.exitcode)
      ]]
      assert.equal("4\n", r.out)
      local lines = {}
      for line in r.err:gmatch("%[INFO/middle%] ([^\n]+)") do lines[#lines + 1] = line end
      assert.same({ "process shutting down", "calling terminate() for daemon daemon",
        "calling join() for process daemon", "calling join() for process plain",
        "process exiting with exitcode 4" }, lines)
      assert.matches("%[INFO/plain%] process exiting with exitcode 3\n", r.err)
    end)

    it("does not wait for detached processes", function()
      local r = script [[
        local q = mp.Queue()
        local p = mp.Process{ detach = true, target = function()
          q:put(1)
          io.stdout:close()
          io.stderr:close()
          mp.sleep(60)
        end }
        p:start()
        q:get()
        print(p.pid)
      ]]
      assert.same({ "", 0 }, { r.err, r.code })
      local pid = tonumber(r.out)
      assert.is_true(T.alive(pid))
      os.execute("kill -9 " .. pid)
      T.wait_until(function() return not T.alive(pid) end)
    end)

    it("runs <close> variables of the script and closes the state afterwards", function()
      local r = script [[
        local _ <close> = setmetatable({}, { __close = function() print("closed") end })
        local gone = setmetatable({}, { __gc = function() print("collected") end })
        mp.Process(function() mp.sleep(0.05) print("child") end):start()
        print("main", gone ~= nil)
        io.stdout:flush()
        os.exit(0, true)
      ]]
      local order = {}
      for word in r.out:gmatch("%a+") do order[#order + 1] = word end
      table.sort(order)
      assert.same({ "child", "closed", "collected", "main", "true" }, order)
      assert.same({ "", 0 }, { r.err, r.code })
    end)

    it("ends managers, pools and listeners in order that are younger than the first child", function()
      for _, ending in ipairs { "", "os.exit(0, true)", "local co = coroutine.wrap(os.exit) co(0, true)" } do
        prints("main\nchild\nchild\n", [[
          local first = mp.Process(function() end)
          first:start()
          first:join()
          local m = mp.Manager()
          local d = m:dict { n = 0 }
          local pool = mp.Pool(2)
          local last = mp.Manager()
          local listener = mp.Listener()
          for _ in pool:imap(tostring, { 1, 2, 3 }) do break end
          local results = pool:map_async(mp.sleep, { 30, 30, 30 })
          d.l = last:list()
          collectgarbage()
          for _ = 1, 2 do
            mp.Process(function()
              mp.sleep(0.1)
              d.l:append(mp.dict.incr(d, "n"))
              io.write "child\n"
            end):start()
          end
          print "main"
        ]] .. ending)
      end
    end)

    it("is not reached by a process that was forked by other means", function()
      for _, ending in ipairs { "", "error('stranger', 0)", "os.exit(0, true)" } do
        local r = script([[
          local host = package.loadlib(arg[1], "luaopen_host")()
          require("mp.process").at_exit(1, function() io.stdout:write("hook\n") end)
          mp.Process(function() mp.sleep(0.1) end):start()
          local pid = host.fork()
          if pid > 0 then
            io.stdout:write(host.wait(pid), "\n")
            os.exit(7)
          end
        ]] .. ending, { T.build .. "/spec/host.so" })
        local fails = ending:match("error") ~= nil
        assert.same({ fails and "1\nhook\n" or "0\nhook\n", 7 }, { r.out, r.code })
        if not fails then assert.equal("", r.err) else assert.not_matches("forked by", r.err) end
      end
    end)

    it("is left alone by a process that never used the library's processes", function()
      prints("done", "local q = mp.Queue() q:put(1) io.write('done') os.exit(2, true)", nil, 2)
      prints("done", "io.write('done') os.exit(2, true)", nil, 2)
      prints("done", "io.write('done')")
    end)
  end)
end

describe("the end of daemons", function()
  it("is SIGKILL when they do not heed SIGTERM within five seconds", function()
    local r = T.mplua([[
      local mp = require "mp"
      local host = package.loadlib(arg[1], "luaopen_host")()
      local q = mp.Queue()
      for i = 1, 2 do
        local d = mp.Process{ daemon = true, target = function()
          host.ignore(15)
          q:put(mp.getpid())
          mp.sleep(60)
        end }
        d:start()
        print(q:get())
      end
      arg.start = mp.monotonic()
      setmetatable(arg, { __gc = function() io.stderr:write(mp.monotonic() - arg.start) end })
    ]], { T.build .. "/spec/host.so" })
    assert.equal(0, r.code)
    local took = tonumber(r.err)
    assert.is_true(took >= 5 and took < 9)
    for pid in r.out:gmatch("%d+") do assert.is_false(T.alive(tonumber(pid))) end
  end)
end)

describe("exit hooks", function()
  it("run by priority, then the latest first, in their own process only", function()
    local r = T.mplua [[
      local mp = require "mp"
      local process = require "mp.process"
      local function say(text) return function() print(text, mp.current_process().name) end end
      process.at_exit(0, say "zero")
      process.at_exit(10, say "ten")
      process.at_exit(10, say "ten, later")
      process.at_exit(-5, say "minus")
      process.at_exit(7, say "cancelled")()
      process.at_exit(1, function() error("told on stderr", 0) end)
      local p = mp.Process(function() process.at_exit(1, say "child's") end)
      p:start()
      p:join()
    ]]
    assert.equal("child's\tProcess-1\nten, later\tMainProcess\nten\tMainProcess\nzero\tMainProcess\n"
      .. "minus\tMainProcess\n", r.out)
    assert.equal("Process MainProcess: at its end: told on stderr\n", r.err)
    assert.equal(0, r.code)
  end)

  it("may call os.exit", function()
    local r = T.mplua [[
      local mp = require "mp"
      local process = require "mp.process"
      local p = mp.Process(function() process.at_exit(1, function() os.exit(8) end) end)
      p:start()
      p:join()
      print(p.exitcode)
      process.at_exit(1, function() os.exit(9) end)
    ]]
    assert.same({ "8\n", 9 }, { r.out, r.code })
  end)
end)

-- Ctrl-C ------------------------------------------------------------------------------

-- Scripts print "ready" and are then sent SIGINT by a helper in the background.
local function interrupted(text, host)
  local preamble = [[
    local mp = require "mp"
    local function ready(pid)
      os.execute(("(sleep 0.1; kill -INT %d) &"):format(pid or mp.getpid()))
    end
  ]]
  host = host or hosts[1]
  return T.mplua(preamble .. text, { T.build .. "/spec/host.so" }, { exe = host.exe, env = host.env })
end

for _, host in ipairs(hosts) do
  describe("Ctrl-C, " .. host.name .. ",", function()
    local blocked = {
      { "a get", "local q = mp.Queue()", "q:get()" },
      { "a get with a time-out", "local q = mp.Queue()", "q:get(30)" },
      { "a put", "local q = mp.Queue(1) q:put(1)", "q:put(2)" },
      { "a join", "local p = mp.Process(mp.sleep, 60) p.daemon = true p:start()", "p:join()" },
      { "a sleep", "", "mp.sleep(30)" },
      { "a wait for several", "local q, r = mp.Queue(), mp.Queue()", "mp.wait({ q, r }, 30)" },
      { "a lock", "local l = mp.Semaphore(0)", "l:acquire()" },
      { "an event", "local e = mp.Event()", "e:wait()" },
      { "a recv", "local a, b = mp.Pipe()", "a:recv()" },
    }
    local wraps = {
      "%s", "coroutine.wrap(function() %s end)()",
      "coroutine.wrap(function() pcall(function() %s end) error('caught: interrupted!', 0) end)()",
    }
    for _, case in ipairs(blocked) do
      it("ends " .. case[1] .. " in the main program, inside coroutines too", function()
        if not usable(host) then return pending("mp.so cannot be loaded here") end
        for _, wrap in ipairs(wraps) do
          local r = interrupted(case[2] .. [[
            local t0 = mp.monotonic()
            ready()
            local ok, err = pcall(function() ]] .. wrap:format(case[3]) .. [[ end)
            print(ok, tostring(err):match("interrupted!$"), mp.monotonic() - t0 < 5)
          ]], host)
          assert.same({ "false\tinterrupted!\ttrue\n", "", 0 }, { r.out, r.err, r.code })
        end
      end)

      it("ends " .. case[1] .. " in a child: nothing is printed, exit code -2", function()
        if not usable(host) then return pending("mp.so cannot be loaded here") end
        for _, wrap in ipairs { "%s", "coroutine.wrap(function() %s end)()" } do
          local r = interrupted([[
            local gate = mp.Event()
            local p = mp.Process(function()
              ]] .. case[2] .. [[
              local _ <close> = setmetatable({}, { __close = function() print("unwound") end })
              gate:set()
              ]] .. wrap:format(case[3]) .. [[
            end)
            p:start()
            gate:wait()
            ready(p.pid)
            p:join()
            print(p.exitcode)
          ]], host)
          assert.same({ "unwound\n-2\n", "", 0 }, { r.out, r.err, r.code })
        end
      end)
    end

    it("ends a busy child", function()
      if not usable(host) then return pending("mp.so cannot be loaded here") end
      local r = interrupted([[
        local p = mp.Process(function() while true do end end)
        p:start()
        ready(p.pid)
        p:join()
        print(p.exitcode)
      ]], host)
      assert.same({ "-2\n", "" }, { r.out, r.err })
    end)

    it("can be caught in a child, and the next one kills", function()
      if not usable(host) then return pending("mp.so cannot be loaded here") end
      local r = interrupted([[
        local q = mp.Queue()
        local p = mp.Process(function()
          local ok, err = pcall(mp.sleep, 30)
          q:put(err)
          os.exit(5)
        end)
        p:start()
        ready(p.pid)
        p:join()
        print(q:get(), p.exitcode)
        local p = mp.Process(function()
          pcall(mp.sleep, 30)
          q:put(1)
          pcall(mp.sleep, 30)
        end)
        p:start()
        ready(p.pid)
        q:get()
        p:interrupt()
        p:join()
        print(p.exitcode)
      ]], host)
      assert.matches("interrupted!\t5\n%-2\n$", r.out)
      assert.equal("", r.err)
    end)

    it("leaves a child alone that inherited SIGINT as ignored", function()
      if not usable(host) then return pending("mp.so cannot be loaded here") end
      local r = interrupted([[
        local host = package.loadlib(arg[1], "luaopen_host")()
        local q = mp.Queue()
        host.ignore(2)
        local p = mp.Process(function()
          q:put(host.disposition(2))
          host.raise(2)
          q:put("alive")
        end)
        p:start()
        host.default(2)
        p:join()
        print(q:get(), q:get(), p.exitcode)
      ]], host)
      assert.equal("ignored\talive\t0\n", r.out)
    end)
  end)
end

describe("Ctrl-C at the terminal", function()
  it("reaches the whole group: the main program reports it, its children end silently", function()
    local path = T.tmpname()
    local f = io.open(path, "w")
    f:write [[
      local mp = require "mp"
      local q = mp.Queue()
      for _ = 1, 3 do mp.Process(function() q:put(mp.getpid()) mp.sleep(60) end):start() end
      io.write(q:get(), " ", q:get(), " ", q:get(), " ready\n")
      io.stdout:flush()
      mp.sleep(60)
    ]]
    f:close()
    -- setsid makes a group that can be signalled as a terminal does
    local out, code = T.shell(([[
      setsid %s %s >%s.out 2>%s.err & pid=$!
      while ! grep -qs ready %s.out; do sleep 0.02; done
      kill -INT -$pid; wait $pid; echo "code $?"
    ]]):format(T.quote(T.exe), path, path, path, path))
    assert.same({ "code 1\n", 0 }, { out, code })
    for pid in T.read(path .. ".out"):gmatch "%d+" do
      assert.is_true(T.wait_until(function() return not T.alive(tonumber(pid)) end, 1))
    end
    local err = T.read(path .. ".err")
    assert.matches("^[^\n]*mplua: [^\n]*interrupted!\nstack traceback:", err)
    assert.is_nil(err:find("Process%-"))
    for _, ending in ipairs { "", ".out", ".err" } do os.remove(path .. ending) end
  end)

  it("during the joins at the end gives them up, and the children die", function()
    local r = interrupted [[
      local q = mp.Queue()
      local p = mp.Process(function() q:put(1) mp.sleep(60) end)
      p:start()
      q:get()
      print(p.pid)
      ready()
    ]]
    assert.equal(1, r.code)
    assert.matches("interrupted!", r.err)
    local pid = tonumber(r.out:match("%d+"))
    assert.is_true(T.wait_until(function() return not T.alive(pid) end, 1))
  end)
end)

describe("signals of the host", function()
  it("restart the waits with the time that is left", function()
    local r = T.mplua([[
      local mp = require "mp"
      local host = package.loadlib(arg[1], "luaopen_host")()
      host.count(14)
      host.alarm(0.01)
      local q, e = mp.Queue(), mp.Event()
      local p = mp.Process{ target = function() mp.sleep(60) end, daemon = true }
      p:start()
      for _, f in ipairs { function() return mp.sleep(0.2) end, function() return q:get(0.2) end,
          function() return p:join(0.2) end, function() return #mp.wait({ q, p }, 0.2) end,
          function() return e:wait(0.2) end } do
        local t0 = mp.monotonic()
        io.write(tostring((f())), " ", tostring(mp.monotonic() - t0 >= 0.2), " ")
      end
      host.alarm(0)
      print(host.counted() > 10)
    ]], { T.build .. "/spec/host.so" })
    assert.same({ "nil true nil true false true 0 true false true true\n", "" }, { r.out, r.err })
  end)

  it("do not reach children: their handlers are the defaults there, what is ignored stays so", function()
    local r = T.mplua([[
      local mp = require "mp"
      local host = package.loadlib(arg[1], "luaopen_host")()
      host.count(10)
      host.ignore(12)
      host.count(40)
      local p = mp.Process(function()
        print(host.disposition(10), host.disposition(12), host.disposition(40), host.disposition(2))
      end)
      p:start()
      p:join()
      print(host.disposition(10), host.disposition(12))
    ]], { T.build .. "/spec/host.so" })
    assert.same({ "default\tignored\tdefault\thandler\nhandler\tignored\n", "" }, { r.out, r.err })
  end)
end)
