-- The operations whose instructions are counted: run by guard.lua under callgrind, which dumps its
-- counts at each call of os.difftime, which nothing else calls. Prints `name TAB times` for each;
-- what was counted between the first and the second call is the first one's, and so on.
-- All of them run in this process alone, with nobody to wait for: the counts are always the same.
local mp = require "mp"

local record = { id = 7, name = "item-000007", values = { 1, 2, 3, 4, 5, 6, 7, 8 } }

-- f(n) does the operation n times.  The collector rests: its work depends on the whole heap.
local function count(name, n, f)
  f(n // 4)
  collectgarbage()
  collectgarbage "stop"
  os.difftime(0, 0)
  f(n)
  os.difftime(0, 0)
  collectgarbage "restart"
  print(("%s\t%d"):format(name, n))
end

local function queue(name, item)
  local q <close> = mp.Queue()
  count("queue put and get " .. name, 1000, function(n)
    for _ = 1, n do
      q:put(item)
      q:get()
    end
  end)
end

queue("integer", 42)
queue("100-byte string", ("x"):rep(100))
queue("record", record)

do
  local q <close> = mp.Queue()
  local list = {}
  for i = 1, 32 do list[i] = 42 end
  count("queue put_many and get_many, an item of 32", 3200, function(n)
    for _ = 1, n // 32 do
      q:put_many(list)
      q:get_many(32)
    end
  end)
end

do
  local encode, decode = mp.marshal.encode, mp.marshal.decode
  local bytes = encode(record)
  count("marshal encode record", 1000, function(n)
    for _ = 1, n do encode(record) end
  end)
  count("marshal decode record", 1000, function(n)
    for _ = 1, n do decode(bytes) end
  end)
end

for kind, v in ipairs { mp.RawValue("l", 0), mp.Value("l", 0) } do
  count("Value add, " .. (kind == 1 and "raw" or "locked"), 4000, function(n)
    for _ = 1, n do v:add(1) end
  end)
end

for kind, a in ipairs { mp.RawArray("d", 100), mp.Array("d", 100) } do
  count("Array element read, " .. (kind == 1 and "raw" or "locked"), 4000, function(n)
    for i = 1, n do local _ = a[i % 100 + 1] end
  end)
end

do
  local lock = mp.Lock()
  count("Lock acquire and release", 4000, function(n)
    for _ = 1, n do
      lock:acquire()
      lock:release()
    end
  end)
end

do
  local pool <close> = mp.Pool(0)
  local function square(x) return x * x end
  count("Pool map, a trivial task in the process itself", 1000, function(n)
    local list = {}
    for i = 1, n do list[i] = i end
    pool:map(square, list)
  end)
end

-- A manager's server in this process: its serve(), which managers run in one of their own, finds all
-- requests waiting and the end after them.  Putting a request and getting its reply count, too.
local function upvalue(f, name)
  for i = 1, 255 do
    local found, value = debug.getupvalue(f, i)
    if found == name then return value end
  end
  error("no upvalue " .. name)
end

local serve = upvalue(mp.Manager.serve_forever, "serve")
local word = upvalue(upvalue(serve, "server").run, "core").word() -- this process, to the server

count("Manager dict get, all but the waiting", 1000, function(n)
  local requests <close>, replies = mp.Queue(), mp.Queue()
  requests:put { word, 0, 0, "hello", 1, replies }
  requests:put { word, 1, 0, "make", 2, "dict", { k = 42 } }
  for serial = 2, n + 1 do requests:put { word, serial, 1, "get", 1, "k" } end
  requests:shutdown()
  serve { requests = requests, types = {}, options = {} }
  for _ = 1, n do assert(replies:get(0)) end
  assert(replies:get(0)[1] == n + 1)
end)
