-- The examples: each is run as a user would run it, and what it prints is checked.
local T = require "spec.helper"
local lfs = require "lfs"

local SECONDS = 60 -- a limit, for slow builds; most take milliseconds

--- Runs an example.
-- @param args its arguments, quoted for sh
-- @param env what stands in front of the command
-- @return what it wrote on stdout and on stderr, its exit status, the seconds it took
local function run(name, args, env)
  T.limit(SECONDS + 10)
  local path = T.tmpname()
  local before = require("system").monotime()
  local out, code = T.shell(("%s %s examples/%s.lua %s 2>%s")
    :format(env or "", T.quote(T.exe), name, args or "", path), SECONDS)
  local took = require("system").monotime() - before
  local err = T.read(path)
  os.remove(path)
  return out, err, code, took
end

--- Runs an example that must succeed and say nothing on stderr.
local function good(name, args, env)
  local out, err, code, took = run(name, args, env)
  assert.are.equal("", err)
  assert.are.equal(0, code)
  return out, took
end

local function lines_of(text)
  local lines = {}
  for line in text:gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  return lines
end

--- The numbers that `pattern` captures, in their order, under the first capture.
local function grouped(text, pattern)
  local groups, n = {}, 0
  for key, value in text:gmatch(pattern) do
    if not groups[key] then n = n + 1 end
    groups[key] = groups[key] or {}
    table.insert(groups[key], tonumber(value))
  end
  return groups, n
end

local function sorted(list)
  table.sort(list)
  return list
end

--- What all groups hold together, sorted.
local function all_of(groups)
  local all = {}
  for _, list in pairs(groups) do table.move(list, 1, #list, #all + 1, all) end
  return sorted(all)
end

local function place(text, plain)
  local at = text:find(plain, 1, true)
  assert.truthy(at, ("'%s' is missing in\n%s"):format(plain, text))
  return at
end

--- Asserts that the texts are found one after the other.
local function in_order(text, plains)
  for i = 2, #plains do assert.is_true(place(text, plains[i - 1]) < place(text, plains[i])) end
end

local function examples()
  local names = {}
  for file in lfs.dir("examples") do
    names[#names + 1] = file:match("^(.*)%.lua$")
  end
  return sorted(names)
end

describe("every example", function()
  it("is short, and says what it shows and how to run it", function()
    for _, name in ipairs(examples()) do
      local lines = lines_of(T.read("examples/" .. name .. ".lua"))
      assert.is_true(#lines < 60, name .. " is too long")
      assert.matches("^%-%- .*%.$", lines[1], name)
      assert.matches("^%-%- Run: mplua examples/" .. name .. "%.lua", lines[2], name)
    end
  end)
end)

describe("the examples of processes:", function()
  for _, name in ipairs { "process01", "process02" } do
    it(name .. " counts in two processes and exits last", function()
      local out = good(name)
      local counts, n = grouped(out, "id=(%d+) %-%-> (%d+)\n")
      assert.are.equal(2, n)
      for pid, list in pairs(counts) do
        assert.are.same({ 0, 1, 2, 3, 4 }, list)
        assert.matches("pid= " .. pid .. " .*id%(%a+%)= 0x%x+\n", out)
      end
      local lines = lines_of(out)
      assert.are.equal(13, #lines)
      assert.are.equal("Exiting", lines[13])
    end)
  end

  it("process02 names its processes after the class", function()
    local out = good("process02")
    place(out, "name= Counter-1 ")
    place(out, "name= Counter-2 ")
  end)

  it("process_logging shows what the library logs", function()
    local out, err, code = run("process_logging")
    assert.are.equal(0, code)
    assert.matches("^Starting: MainProcess\t%d+\ndoing some work%.%.\n$", out)
    in_order(err, {
      "[INFO/MainProcess] process shutting down\n",
      "[INFO/MainProcess] calling join() for process child process\n",
    })
    in_order(err, {
      "[INFO/child process] child process calling self.run()\n",
      "[INFO/child process] process shutting down\n",
      "[INFO/child process] process exiting with exitcode 0\n",
    })
    assert.are.equal(5, #lines_of(err))
  end)

  it("process_non_daemon does not end before its child", function()
    local out, took = good("process_non_daemon")
    in_order(out, { "main falls off its end\n", "Exiting : non-daemon\t" })
    in_order(out, { "Starting: non-daemon\t", "Exiting : non-daemon\t" })
    assert.is_true(took >= 1)
  end)

  it("process_daemon terminates its daemon and waits for the other child", function()
    local out, err, code, took = run("process_daemon")
    assert.are.equal(0, code)
    in_order(out, { "Starting: daemon\t", "Starting: non-daemon\t", "Exiting : non-daemon\t" })
    assert.is_nil(out:find("Exiting : daemon", 1, true))
    in_order(err, {
      "[INFO/MainProcess] process shutting down\n",
      "[INFO/MainProcess] calling terminate() for daemon daemon\n",
      "[INFO/MainProcess] calling join() for process daemon\n",
      "[INFO/MainProcess] calling join() for process non-daemon\n",
    })
    place(err, "[INFO/non-daemon] process exiting with exitcode 0\n")
    assert.is_true(took >= 1)
  end)

  it("process_detached leaves a child that outlives it", function()
    local out = good("process_detached")
    local main = out:match("main: pid (%d+) ends and waits for nobody\n")
    local child, parent = out:match("detached: pid (%d+) goes on, its parent (%d+) has ended\n$")
    assert.truthy(main)
    assert.are.equal(main, parent)
    in_order(out, { ("detached: pid %s started\n"):format(child), "goes on" })
  end)
end)

describe("the examples of what processes share:", function()
  it("process03 produces and consumes in order, and ends by itself", function()
    local out, took = good("process03")
    assert.are.same({ 0, 1, 2, 3, 4, 5 }, grouped(out, "(produced) (%d)\n").produced)
    assert.are.same({ 0, 1, 2, 3, 4, 5 }, grouped(out, "(consumed) (%d)\n").consumed)
    assert.are.equal(12, #lines_of(out))
    assert.is_true(took >= 6) -- 3 s until all are there, 3 s until nothing more comes
  end)

  it("process04 sends a thousand numbers through a pipe, up to its end", function()
    local expected = {}
    for i = 0, 999 do expected[#expected + 1] = i .. "\n" end
    assert.are.equal(table.concat(expected), (good("process04")))
  end)

  it("process05 sees what the child wrote", function()
    assert.are.equal("3.14\n{0, -1, -2, -3, -4}\n", (good("process05")))
  end)

  it("process05_1 always comes to 0.0 with add() and with the lock", function()
    assert.matches("^read, then write:\t%-?%d+%.0\nwith add%(%):\t0%.0\nholding the lock:\t0%.0\n$",
      (good("process05_1")))
  end)
end)

describe("the examples of synchronisation:", function()
  for _, name in ipairs { "sync1", "sync2" } do
    it(name .. " counts in two workers", function()
      local out = good(name)
      local counts = grouped(out, "worker (%d): (%d)\n")
      assert.are.same({ ["1"] = { 1, 2, 3, 4, 5 }, ["2"] = { 1, 2, 3, 4, 5 } }, counts)
      assert.matches("\nExiting\n$", out)
    end)
  end

  it("sync3 loses no count", function()
    assert.are.equal("Exiting\t100\n", (good("sync3")))
  end)

  for name, consumed_in_order in pairs { sync4 = false, sync7 = true } do
    it(name .. " consumes what was produced, all of it", function()
      local out = good(name)
      local produced, producers = grouped(out, "producer (%d+): produced (%d+)\n")
      local consumed, consumers = grouped(out, "consumer (%d+): consumed (%d+)\n")
      assert.are.equal(5, producers)
      assert.are.equal(10, consumers)
      for id, list in pairs(produced) do
        for i = 1, 10 do assert.are.equal(id * 100 + i, list[i]) end
      end
      for _, list in pairs(consumed) do
        assert.are.equal(5, #list)
        local last = {}
        for _, item in ipairs(consumed_in_order and list or {}) do
          assert.is_true(item > (last[item // 100] or 0)) -- a producer's items keep their order
          last[item // 100] = item
        end
      end
      assert.are.same(all_of(produced), all_of(consumed))
      assert.matches("\nExiting\t0\n$", out)
    end)
  end

  it("sync5 never lets more than three in", function()
    assert.are.equal("visits: 50000, inside now: 0\nnever more than 3 inside: true\n", (good("sync5")))
  end)

  it("sync6 lets nobody go on before all is prepared", function()
    local out = good("sync6")
    local prepared = place(out, "prepared\n")
    for id = 1, 5 do
      in_order(out, { ("process %d: waiting\n"):format(id), ("process %d: goes on\n"):format(id) })
      assert.is_true(place(out, ("process %d: goes on\n"):format(id)) > prepared)
    end
    assert.matches("\nExiting\n$", out)
  end)

  it("sync8 takes items in the other order", function()
    assert.are.equal(("3\n2\n1\n"):rep(2), (good("sync8")))
  end)
end)

describe("the examples of pools:", function()
  it("process07 fetches four results, in the order of the calls", function()
    local out, took = good("process07")
    assert.are.equal("100\n400\n900\n1600\n", out)
    assert.is_true(took >= 0.5)
  end)

  it("process08 maps a function over a list", function()
    assert.are.equal("{0, 1, 4, 9, 16, 25, 36, 49, 64, 81}\n", (good("process08")))
  end)

  it("parallel_loop comes to the same results as the loop", function()
    for _, cpus in ipairs { 1, 3 } do
      local out = good("parallel_loop", "", "MPLUA_CPUS=" .. cpus)
      assert.matches("^the same results:\ttrue\nthe most steps:\t350\n", out)
      assert.matches("\none by one %d+%.%d%d s, by " .. cpus .. " processes %d+%.%d%d s\n$", out)
    end
  end)

  it("mandelbrot makes the same picture with any number of processes", function()
    local path = T.tmpname()
    local pictures = {}
    for i, cpus in ipairs { 1, 2, 5 } do
      local out, err, code = run("mandelbrot", path .. " 90", "MPLUA_CPUS=" .. cpus)
      assert.are.equal(0, code)
      assert.are.equal(path .. ": 90 x 60 points\n", out)
      assert.matches("^mandelbrot: 60/60, 100%%, [^\n]*\n$", err)
      pictures[i] = T.read(path)
      os.remove(path)
    end
    local header = "P6\n90 60\n255\n"
    assert.are.equal(header, pictures[1]:sub(1, #header))
    assert.are.equal(#header + 3 * 90 * 60, #pictures[1])
    assert.is_true(pictures[1] == pictures[2] and pictures[1] == pictures[3])
    local function row(y) return pictures[1]:sub(#header + (y - 1) * 270 + 1, #header + y * 270) end
    for y = 1, 30 do assert.is_true(row(y) == row(61 - y), "rows " .. y .. " and " .. 61 - y) end
    assert.are_not.equal(row(1), row(30))
  end)

  it("mandelbrot says how to use it, and what it cannot write", function()
    for _, args in ipairs { "x.ppm wide", "x.ppm 0", "x.ppm 90 more" } do
      local out, err, code = run("mandelbrot", args)
      assert.are.equal(2, code)
      assert.are.equal("", out)
      assert.are.equal("usage: mandelbrot.lua [FILE.ppm [WIDTH]]\n", err)
    end
    local _, err, code = run("mandelbrot", "/none/x.ppm")
    assert.are.equal(1, code)
    place(err, "/none/x.ppm: No such file or directory")
  end)
end)

describe("wordcount", function()
  local dir
  before_each(function()
    dir = T.tmpname()
    assert(lfs.mkdir(dir))
  end)
  after_each(function() os.execute("rm -rf " .. dir) end)

  local function write(name, text)
    local file <close> = assert(io.open(dir .. "/" .. name, "wb"))
    file:write(text)
  end

  --- Puts a program before the system's `find` and returns the environment for it.
  local function fake_find(script)
    assert(lfs.mkdir(dir .. "/bin"))
    write("bin/find", "#!/bin/sh\n" .. script)
    T.shell("chmod +x " .. dir .. "/bin/find")
    return ("PATH=%s/bin:$PATH"):format(dir)
  end

  local both = { "", "--serial " }

  it("prints the ten most frequent words, equal ones by name", function()
    write("1", "The quick brown fox; the lazy dog's tail. THE END 7 7 seven\n")
    write("2", "a b c d e f the\nquick\tFox")
    for _, mode in ipairs(both) do
      assert.are.equal([[
       4  the
       2  7
       2  fox
       2  quick
       1  a
       1  b
       1  brown
       1  c
       1  d
       1  dog's
]], (good("wordcount", mode .. dir)))
    end
  end)

  it("counts the same with any number of processes as with none", function()
    math.randomseed(7)
    for i = 1, 40 do
      local text = {}
      for k = 1, 500 do text[k] = ("w%d"):format(math.random(30) * math.random(3)) end
      write("file" .. i, table.concat(text, i % 2 == 0 and " " or "\n"))
    end
    local serial = good("wordcount", "--serial " .. dir)
    assert.are.equal(10, #lines_of(serial))
    for _, cpus in ipairs { 1, 2, 7 } do
      assert.are.equal(serial, (good("wordcount", dir, "MPLUA_CPUS=" .. cpus)))
    end
  end)

  it("shares out the ranges of large files, and loses no word of them", function()
    local line = "the quick brown fox, the lazy dog\r\n"
    local times = (9 << 20) // #line
    write("large", line:rep(times) .. "end")
    write("exactly", ("four\nfive "):rep((4 << 20) // 10 + 1):sub(1, 4 << 20))
    write("long line", ("x"):rep(5 << 20) .. " tail")
    write("small", "the end")
    for _, mode in ipairs(both) do
      local out = good("wordcount", mode .. dir)
      place(out, ("%8d  the\n"):format(2 * times + 1))
      for _, word in ipairs { "brown", "dog", "fox", "lazy", "quick" } do
        place(out, ("%8d  %s\n"):format(times, word))
      end
      place(out, ("%8d  four\n"):format((4 << 20) // 10 + 1))
      place(out, "       2  end\n")
    end
  end)

  it("takes any name that a file can have", function()
    for _, name in ipairs { "a b", "new\nline", "quo'te\"s", "-dash", "$(x)`y`;*", "\1\255" } do
      assert(lfs.mkdir(dir .. "/" .. name))
      write(name .. "/" .. name, "word ")
    end
    for _, mode in ipairs(both) do
      assert.are.equal("       6  word\n", (good("wordcount", mode .. dir)))
      assert.are.equal("       2  word\n", (good("wordcount", mode ..
        T.quote(dir .. "/quo'te\"s") .. " " .. T.quote(dir .. "/new\nline"))))
    end
  end)

  it("goes down into directories, several of them, and passes over empty ones", function()
    for _, name in ipairs { "x", "x/y", "x/y/z", "e" } do assert(lfs.mkdir(dir .. "/" .. name)) end
    write("x/y/z/deep", "deep")
    write("x/flat", "flat")
    write("x/empty", "")
    for _, mode in ipairs(both) do
      assert.are.equal("       1  deep\n       1  flat\n", (good("wordcount", mode .. dir)))
      assert.are.equal("       2  deep\n       1  flat\n",
        (good("wordcount", ("%s%s/x %s/e %s/x/y"):format(mode, dir, dir, dir))))
      assert.are.equal("", (good("wordcount", mode .. dir .. "/e")))
    end
  end)

  it("names a directory that is not there, and counts the others", function()
    write("file", "word")
    for _, mode in ipairs(both) do
      local out, err, code = run("wordcount", ("%s%s/none %s"):format(mode, dir, dir))
      assert.are.equal(1, code)
      assert.are.equal("       1  word\n", out)
      place(err, ("wordcount: %s/none: not all of it could be listed\n"):format(dir))
      out, err, code = run("wordcount", mode .. dir .. "/file")
      assert.are.equal(1, code)
      assert.are.equal("", out)
      place(err, "Not a directory")
    end
  end)

  it("names a file that cannot be read, and counts the others", function()
    write("file", "word")
    local env = fake_find(("printf '%%s\\0' %s/gone %s/bin %s/file"):format(dir, dir, dir))
    for _, mode in ipairs(both) do
      local out, err, code = run("wordcount", mode .. dir, env)
      assert.are.equal(1, code)
      assert.are.equal("       1  word\n", out)
      place(err, ("wordcount: %s/gone: No such file or directory\n"):format(dir))
      place(err, ("wordcount: %s/bin: cannot be read\n"):format(dir))
    end
  end)

  it("says how to use it when it is not used so", function()
    for _, args in ipairs { "", "''", "--serial", "--other " .. dir, dir .. " -x", dir .. " ''" } do
      local out, err, code = run("wordcount", args)
      assert.are.equal(2, code, args)
      assert.are.equal("", out)
      assert.are.equal("usage: wordcount.lua [--serial] DIR...\n", err)
    end
  end)

  -- The process, not this one, that has a file open.
  local function who_has(path)
    local me = lfs.symlinkattributes("/proc/self", "target")
    for pid in lfs.dir("/proc") do
      if pid:match("^%d+$") and pid ~= me then
        for fd in T.shell("ls /proc/" .. pid .. "/fd"):gmatch("%d+") do
          if lfs.symlinkattributes(("/proc/%s/fd/%s"):format(pid, fd), "target") == path then
            return tonumber(pid)
          end
        end
      end
    end
  end

  for _, cpus in ipairs { 1, 3 } do
    it(("ends with an error when one of %d workers is killed"):format(cpus), function()
      T.limit(SECONDS)
      local fifo = dir .. "/fifo"
      assert.are.equal("", (T.shell("mkfifo " .. fifo)))
      write("file", "word")
      local env = fake_find(("printf '%%s\\0' %s %s/file %s/file"):format(fifo, dir, dir))
      local command = "%s MPLUA_CPUS=%d timeout -k 5 %d %s examples/wordcount.lua %s 2>&1; echo =$?"
      local job <close> = assert(io.popen(command:format(env, cpus, SECONDS, T.quote(T.exe), dir)))
      local held <close> = assert(io.open(fifo, "w")) -- waits until a worker has opened it
      assert.are.equal("file", io.type(held))
      local worker = who_has(fifo)
      assert.truthy(worker)
      assert.are.equal("", (T.shell("kill -KILL " .. worker)))
      local out = job:read("a")
      assert.matches("worker was killed by signal 9 %(SIGKILL%).*PoolWorker%-%d", out)
      assert.is_nil(out:find(" word\n", 1, true))
      assert.matches("=1\n$", out)
    end)
  end
end)

describe("an example", function()
  it("runs from any directory, without an environment", function()
    local out, code = T.shell(("cd / && env -i %s %s/examples/process05.lua"):format(T.quote(T.exe),
      T.quote(lfs.currentdir())))
    assert.are.equal("3.14\n{0, -1, -2, -3, -4}\n", out)
    assert.are.equal(0, code)
  end)

  it("runs under stock lua with the module", function()
    if T.shell("nm -D " .. T.quote(T.exe)):find("__[at]san_init") then pending("not with sanitizers") end
    local out, code = T.shell(("LUA_CPATH=%s lua5.4 examples/process03.lua"):format(T.quote(T.build .. "/?.so")))
    assert.are.equal(0, code)
    assert.are.same({ 0, 1, 2, 3, 4, 5 }, grouped(out, "(consumed) (%d)\n").consumed)
  end)
end)

describe("the examples of the README", function()
  it("print what they say", function()
    local n = 0
    for lang, code in T.blocks(T.read("README.md")) do
      if lang == "lua" then
        assert.are.same({ out = T.said(code), err = "", code = 0 }, T.mplua(code))
        n = n + 1
      end
    end
    assert.are.equal(4, n)
  end)
end)

describe("process09 and process10", function()
  it("talk to each other", function()
    T.limit(SECONDS + 10)
    local port = 20000 + require("mp").getpid() % 10000
    local server = io.popen(("timeout 30 %s examples/process09.lua %d"):format(T.quote(T.exe), port))
    assert.are.equal("listening..", server:read("l"))
    local out = good("process10", tostring(port))
    assert.are.equal(("{1, 2, 3, 4}\nhello\n"):rep(3), out)
    local lines = lines_of(server:read("a"))
    assert.is_true((server:close()))
    for i, said in ipairs { "{one = 1, two = 2}", "{2, 3, 4}", "false" } do
      assert.matches("^connection accepted from %('127.0.0.1', %d+%)$", lines[2 * i - 1])
      assert.are.equal(said, lines[2 * i])
    end
    assert.are.equal(6, #lines)
  end)

  -- What the tutorial's scripts in Python do, in both roles.
  local python_client = [[
import sys
from multiprocessing.connection import Client
for message in ({"one": 1, "two": 2}, [2, 3, 4], False):
    with Client(("localhost", int(sys.argv[1])), authkey=b"mypassword") as c:
        print(c.recv(), c.recv_bytes())
        c.send(message)
]]
  local python_server = [[
import sys
from multiprocessing.connection import Listener
with Listener(("localhost", int(sys.argv[1])), authkey=b"mypassword") as l:
    print("listening..", flush=True)
    said = True
    while said:
        with l.accept() as c:
            c.send([1, 2, 3, 4])
            c.send_bytes(b"hello")
            said = c.recv()
            print(sorted(said.items()) if isinstance(said, dict) else said)
]]

  local function python(code, port)
    if select(2, T.shell("python3 -c 'import multiprocessing'")) ~= 0 then pending("no python3 here") end
    return ("timeout 30 python3 -c %s %d"):format(T.quote(code), port)
  end

  it("serve the tutorial's client in Python", function()
    T.limit(SECONDS + 10)
    local port = 20000 + (require("mp").getpid() + 1) % 10000
    local command = python(python_client, port)
    local server = io.popen(("timeout 30 %s examples/process09.lua %d"):format(T.quote(T.exe), port))
    assert.are.equal("listening..", server:read("l"))
    assert.are.equal(("[1, 2, 3, 4] b'hello'\n"):rep(3), (T.shell(command)))
    local lines = lines_of(server:read("a"))
    assert.is_true((server:close()))
    assert.are.same({ "{one = 1, two = 2}", "{2, 3, 4}", "false" }, { lines[2], lines[4], lines[6] })
  end)

  it("talk to the tutorial's server in Python", function()
    T.limit(SECONDS + 10)
    local port = 20000 + (require("mp").getpid() + 2) % 10000
    local server = io.popen(python(python_server, port))
    assert.are.equal("listening..", server:read("l"))
    assert.are.equal(("{1, 2, 3, 4}\nhello\n"):rep(3), (good("process10", tostring(port))))
    assert.are.equal("[('one', 1), ('two', 2)]\n[2, 3, 4]\nFalse\n", server:read("a"))
    assert.is_true((server:close()))
  end)
end)

describe("process06", function()
  it("shows which changes of a child its parent sees", function()
    assert.are.equal([[
ns.stack= {}
d= {[1] = "1", ["2"] = 2, [0.25] = null}
l= {9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
ns.x=10, ns.y=20, ns.stack={}, ns.stack2={1}
]], (good "process06"))
  end)
end)

describe("job_board", function()
  it("gives the jobs to workers in other programs, and collects the answers", function()
    T.limit(SECONDS + 10)
    local port = 20000 + (require("mp").getpid() + 3) % 10000
    local function start(role)
      return io.popen(("timeout 30 %s examples/job_board.lua %s %d 2>&1"):format(T.quote(T.exe), role, port))
    end
    local server = start "serve"
    assert.are.equal(("20 jobs on the board at port %d"):format(port), server:read("l"))
    local workers = { start "work", start "work", start "work" }
    local answers = grouped(server:read("a"), "(%d+) has (%d+) divisors %(worker %d+%)\n")
    assert.is_true((server:close()))
    for _, worker in ipairs(workers) do
      assert.are.equal("", worker:read("a"))
      assert.is_true((worker:close()))
    end
    local known = { ["100001"] = 4, ["100003"] = 2, ["100008"] = 32, ["100020"] = 24 }
    local n = 0
    for number, list in pairs(answers) do
      n = n + #list
      assert.are.equal(known[number] or list[1], list[1])
    end
    assert.are.equal(20, n)
  end)

  it("says how it is used", function()
    local out, _, code = run "job_board"
    assert.are.equal("usage: mplua examples/job_board.lua serve|work [PORT]\n", out)
    assert.are.equal(2, code)
  end)
end)
