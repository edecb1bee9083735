-- Chaos: thirty processes on queues, locks, a pool and a manager; one after the other is killed,
-- or stopped for a while. At the end every item is accounted for, and nothing is left.
-- Run: mplua spec/crash/chaos.lua [SECONDS [SEED]]; make chaos SECONDS=600 SEED=n
local mp = require "mp"
local core = require "mp.core"

local seconds, seed = tonumber(arg[1]) or 10, tonumber(arg[2]) or os.time() % 100000
math.randomseed(seed)

local SIGKILL = 9
local LIVES = 20000 -- producers, dead ones included
local PER_LIFE = 500 -- items that one of them puts, at most
local PATIENCE = 30 -- seconds that no call may take
local BOUND = 50

local violations, kills, stops = 0, 0, 0

local function violation(text, ...)
  violations = violations + 1
  io.stderr:write("chaos: ", text:format(...), "\n")
end

local function used()
  collectgarbage()
  collectgarbage()
  core.collect()
  return core.arena()
end

-- How many there are, and what; without those of asking.
local function descriptors()
  local list = io.popen("sleep 0.1; ls -l /proc/" .. mp.getpid() .. "/fd")
  local text = list:read "a"
  list:close()
  return select(2, text:gsub("%->", "")), text
end

-- What the processes share ------------------------------------------------------------------

-- seen[life, seq]: how often an item was taken; confirmed[life]: items whose put has returned;
-- bad: violations that a process has seen.
local function make()
  local manager = mp.Manager()
  local s = {
    manager = manager, stop = mp.Event(), bad = mp.Value("i", 0),
    queue = mp.Queue(BOUND), lock = mp.Lock(), a = mp.RawValue("q", 0), b = mp.RawValue("q", 0),
    gate = mp.Semaphore(3), inside = mp.RawValue("i", 0),
    served = manager:Queue(BOUND), served_lock = manager:Lock(), dict = manager:dict { a = 0, b = 0 },
    seen = mp.RawArray("B", LIVES * PER_LIFE), confirmed = mp.RawArray("i", LIVES),
    life = mp.RawValue("i", 0),
  }
  return s
end

local function signed(life, seq)
  return { life = life, seq = seq, sign = life * 31 + seq * 7, fill = ("x"):rep(seq % 97 == 0 and 20000 or seq % 300) }
end

local function fail(s, text, ...)
  s.bad:add(1)
  io.stderr:write("chaos: ", text:format(...), "\n")
  os.exit(9)
end

-- The number of an item; it must be whole.
local function read(s, item)
  if type(item) ~= "table" or item.sign ~= item.life * 31 + item.seq * 7 then fail(s, "an item is not whole") end
  return (item.life - 1) * PER_LIFE + item.seq
end

-- Roles: each is a life of its own ------------------------------------------------------------

local function producing(name)
  return function(s, life)
    for seq = 1, PER_LIFE do
      if s.stop:is_set() then return end
      local ok, why = s[name]:put(signed(life, seq), PATIENCE)
      if not ok then fail(s, "put: %s", why) end
      s.confirmed[life] = seq
    end
  end
end

local function consuming(name)
  return function(s)
    local last = {}
    while true do
      local item, why = s[name]:get(0.2)
      if item then
        local n = read(s, item)
        s.seen[n] = s.seen[n] + 1
        if s.seen[n] > 1 then fail(s, "an item came twice") end
        -- (a manager's item that was sent to a dead one comes again, behind its followers)
        if name == "queue" and (last[item.life] or 0) >= item.seq then
          fail(s, "items of one producer out of order")
        end
        last[item.life] = item.seq
        s[name]:task_done()
      elseif s.stop:is_set() or why == "closed" then
        return
      end
    end
  end
end

local function locking(s)
  while not s.stop:is_set() do
    local ok, how = s.lock:acquire(PATIENCE)
    if not ok then fail(s, "a lock was not to be had") end
    if how ~= "abandoned" and s.a.value ~= s.b.value then fail(s, "a lock did not exclude") end
    s.a.value = math.max(s.a.value, s.b.value) + 1
    s.b.value = s.a.value
    s.lock:release()
  end
end

local function serving(s)
  while not s.stop:is_set() do
    local ok, how = s.served_lock:acquire(PATIENCE)
    if not ok then fail(s, "a manager's lock was not to be had") end
    local d = s.dict
    local a, b = d.a, d.b
    if how ~= "abandoned" and a ~= b then fail(s, "a manager's lock did not exclude") end
    a = math.max(a, b) + 1
    d.a = a
    d.b = a
    s.served_lock:release()
  end
end

local function entering(s)
  while not s.stop:is_set() do
    local guard, why = s.gate:guard(PATIENCE)
    if not guard then fail(s, "a semaphore: %s", why) end
    local again = mp.Queue(4) -- made, shared with itself, and left
    again:put(again)
    guard:close()
  end
end

local function pooling(s)
  while not s.stop:is_set() do
    local pool <close> = mp.Pool { processes = 2, retries = 20 }
    local list = {}
    for i = 1, 60 do list[i] = i end
    local results = pool:map(function(i)
      if math.random(40) == 1 then
        os.execute("kill -KILL " .. mp.getpid())
      end
      return i * i
    end, list)
    for i = 1, 60 do
      if results[i] ~= i * i then fail(s, "a pool's result is wrong") end
    end
  end
end

local roles = {
  { producing "queue", 5, new = true }, { consuming "queue", 5 },
  { producing "served", 3, new = true }, { consuming "served", 3 },
  { locking, 5 }, { serving, 4 }, { entering, 4 }, { pooling, 1 },
}

-- The play ---------------------------------------------------------------------------------------

local function begin(s, role)
  local life = role.new and s.life:add(1) or nil
  local p = mp.Process(role[1], s, life)
  p:start()
  return { process = p, role = role }
end

local function signal(actor, number) core.signal(actor.process._mp.handle, number) end

-- By a shell, which needs nothing that the stopped one may hold; this process may.
local function stop_for(pid, time)
  os.execute(("kill -STOP %d 2>/dev/null && sleep %.3f; kill -CONT %d 2>/dev/null"):format(pid, time, pid))
end

-- Plays for some seconds. How many were killed: each can have had one item in its hands.
local function play(s, actors)
  local deadline = mp.monotonic() + seconds
  local lost = 0
  while mp.monotonic() < deadline and s.life.value < LIVES - 10 do
    mp.sleep(math.random() * 0.02)
    local i = math.random(#actors)
    local actor = actors[i]
    local p = actor.process
    if not p:is_alive() then
      if p.exitcode ~= 0 then violation("a process has ended with %s", p.exitcode) end
      actors[i] = begin(s, actor.role)
    elseif math.random(4) == 1 then
      stops = stops + 1
      stop_for(p.pid, math.random() * 0.05)
    else
      kills = kills + 1
      signal(actor, SIGKILL)
      if not p:join(PATIENCE) then violation("a killed process does not end") end
      if p.exitcode ~= -SIGKILL and p.exitcode ~= 0 then violation("a process has ended with %s", p.exitcode) end
      lost = lost + 1
      actors[i] = begin(s, actor.role)
    end
  end
  return lost
end

local function finish(s, actors)
  s.stop:set()
  for _, actor in ipairs(actors) do
    if not actor.process:join(PATIENCE) then
      violation("a process does not end")
      actor.process:kill()
      actor.process:join()
    elseif actor.process.exitcode ~= 0 then
      violation("a process has ended with %s", actor.process.exitcode)
    end
  end
  for _, name in ipairs { "queue", "served" } do consuming(name)(s) end
end

-- Every item whose put returned was taken once, but for those that somebody had in his hands
-- when he was killed.
local function account(s, lost)
  local items, missing = 0, 0
  for life = 1, s.life.value do
    for seq = 1, s.confirmed[life] do
      items = items + 1
      if s.seen[(life - 1) * PER_LIFE + seq] == 0 then missing = missing + 1 end
    end
  end
  if missing > lost then violation("%d items are missing, and %d processes were killed", missing, lost) end
  for _, name in ipairs { "queue", "served" } do
    if not s[name]:join(PATIENCE) then violation("%s is not joined", name) end
  end
  return items, missing
end

local function run()
  local s = make()
  local actors = {}
  for _, role in ipairs(roles) do
    for _ = 1, role[2] do actors[#actors + 1] = begin(s, role) end
  end
  local lost = play(s, actors)
  finish(s, actors)
  local items, missing = account(s, lost)
  violations = violations + s.bad.value
  s.manager:shutdown()
  return items, missing
end

local warm <close> = mp.Manager() -- what is made once is no leak
warm:dict().x = 1
local before, fds = used(), descriptors()
local items, missing = run()
local after
for _ = 1, 50 do -- the last ones are buried when somebody looks
  after = used()
  if after.used <= before.used then break end
  mp.sleep(0.1)
end
if after.used > before.used then violation("shared memory: %d bytes, before %d", after.used, before.used) end
local now, which = descriptors()
if now > fds then violation("descriptors: %d, before %d:\n%s", now, fds, which) end
print(("chaos: seed %d, %d s: %d killed, %d stopped; %d items, %d gone with who had them; %d violations"):format(
  seed, seconds, kills, stops, items, missing, violations))
os.exit(violations == 0)
