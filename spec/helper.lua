--- What every spec begins with: `local T = require "spec.helper"`.
--
-- Requiring it in a spec file puts each of the file's tests under a watchdog (20 s,
-- or what `T.limit` says), and checks after each that nothing is left of it: the
-- children, the open descriptors and the bytes used in the shared memory are what
-- they were before.  What a test makes it must therefore close, join or drop; what is
-- only garbage is collected before the check.
--
-- The family is joined once when the helper is loaded, so that its own descriptor and
-- tables do not count.  The reference set of a process grows by blocks that it keeps, of
-- the kind `table`: these are not compared, and bytes only when there are as many of them
-- as before.  What was killed gives back late: so when something is left, the arena's
-- collector is run and the test is granted a second.

local lfs = require "lfs"
local busted = require "busted"

local T = {}

--- Seconds that a test may take unless it says otherwise.
T.seconds = 20

local exe = lfs.symlinkattributes("/proc/self/exe", "target")
local in_mplua = exe:match("mplua[^/]*$") ~= nil

--- The directory of what was built.
T.build = os.getenv("MPLUA_BUILD") or (in_mplua and exe:match("^(.*)/[^/]*$")) or "build"

--- The command under test, as an absolute path.
T.exe = in_mplua and exe or lfs.currentdir() .. "/" .. T.build .. "/mplua"
if T.build:sub(1, 1) ~= "/" then T.build = lfs.currentdir() .. "/" .. T.build end

if not in_mplua then package.cpath = T.build .. "/?.so;" .. package.cpath end

-- busted takes modules out of package.loaded between files and loads this one again;
-- what must be done once is kept in the registry.
local registry = debug.getregistry()
local once = registry["mplua.spec.helper"]
local first_time = once == nil
once = once or {}
registry["mplua.spec.helper"] = once

local watchdog = assert(package.loadlib(T.build .. "/spec/watchdog.so", "luaopen_watchdog"))()

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

--- The text of a file, or nil.
T.read = read

if once.sanitized == nil then
  local text = read(T.exe) or ""
  once.sanitized = text:find("__asan_init", 1, true) and "address"
    or text:find("__tsan_init", 1, true) and "thread" or false
end

--- "address" or "thread" when the command under test was built with that sanitizer, which
-- takes much address space, tells memory out differently, and keeps mp.so out of stock
-- lua5.4; else false.
T.sanitized = once.sanitized

-- A sanitizer makes forks many times as slow.
local SLOW = T.sanitized and 4 or 1
T.seconds = T.seconds * SLOW

--- Runs a command line of sh under a time limit of 20 s (or `seconds`).
-- @return what it wrote on stdout and stderr, and its exit status (128 + N after signal N)
function T.shell(command, seconds)
  local quoted = "'" .. command:gsub("'", "'\\''") .. "'"
  local pipe = assert(io.popen(("timeout -k 5 %g sh -c %s 2>&1"):format((seconds or 20) * SLOW, quoted)))
  local out = pipe:read("a")
  local _, how, code = pipe:close()
  return out, how == "signal" and 128 + code or code
end

--- A path for a file that does not exist yet.
function T.tmpname()
  local path = os.tmpname()
  os.remove(path)
  return path
end

--- Quotes a string for sh.
function T.quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- Runs a script in a process of its own.
-- @param text the script
-- @param args array of its arguments, or nil
-- @param opts `seconds` (20), `stdin` (text), `exe` (the interpreter), `options` (what
--   stands before the script's name), `env` (in front of the command), `dir` (where it runs)
-- @return {out =, err =, code =}; code is 124 if the time was over
function T.mplua(text, args, opts)
  opts = opts or {}
  local base = T.tmpname()
  local function write(path, what)
    local file = assert(io.open(path, "wb"))
    file:write(what)
    file:close()
  end
  write(base .. ".lua", text)
  write(base .. ".in", opts.stdin or "")
  local words = { opts.dir and "cd " .. T.quote(opts.dir) .. " &&" or "", opts.env or "",
    "timeout -k 5", tostring((opts.seconds or 20) * SLOW),
    T.quote(opts.exe or T.exe), opts.options or "", base .. ".lua" }
  for _, arg in ipairs(args or {}) do words[#words + 1] = T.quote(arg) end
  local line = ("%s <%s.in >%s.out 2>%s.err"):format(table.concat(words, " "), base, base, base)
  local _, how, code = os.execute(line)
  local result = {
    out = read(base .. ".out"),
    err = read(base .. ".err"),
    code = how == "signal" and 128 + code or code,
  }
  for _, ending in ipairs { ".lua", ".in", ".out", ".err" } do os.remove(base .. ending) end
  return result
end

--- Iterates over the code blocks of a Markdown text: language, code, number of the line.
function T.blocks(text)
  return coroutine.wrap(function()
    local lang, code, began
    local n = 0
    for line in text:gmatch "([^\n]*)\n" do
      n = n + 1
      local fence = line:match "^```(.*)$"
      if fence and code then
        coroutine.yield(lang, table.concat(code), began)
        code = nil
      elseif fence then
        lang, code, began = fence, {}, n
      elseif code then
        code[#code + 1] = line .. "\n"
      end
    end
  end)
end

--- What a piece of code says that it prints: the texts behind `-->`, a line each.
function T.said(code)
  local said = {}
  for line in code:gmatch "%-%-> ([^\n]*)\n" do said[#said + 1] = line:gsub("%s*%*/$", "") .. "\n" end
  return table.concat(said)
end

local function sleep(seconds)
  require("system").sleep(seconds)
end

--- Calls `fn` until it returns something true, for at most `seconds` (5).
-- For what has no event to wait for, like the end of a process that is not one's own.
-- @return what fn returned, or false
function T.wait_until(fn, seconds)
  local monotime = require("system").monotime
  local limit = monotime() + (seconds or 5)
  repeat
    local value = fn()
    if value then return value end
    sleep(0.005)
  until monotime() > limit
  return fn() or false
end

--- Whether a process runs (one that ended and was not reaped does not).
function T.alive(pid)
  local stat = read(("/proc/%d/stat"):format(pid))
  local state = stat and stat:match("^.*%) (%a)")
  return state ~= nil and state ~= "Z" and state ~= "X"
end

--- Gives the running test another time limit, from now on.
function T.limit(seconds) watchdog.start(seconds * SLOW, watchdog.name()) end

--- The pids of this process's children, zombies included.
function T.children()
  local pids = {}
  for task in lfs.dir("/proc/self/task") do
    if task:match("^%d+$") then
      local text = read("/proc/self/task/" .. task .. "/children") or ""
      for pid in text:gmatch("%d+") do pids[#pids + 1] = tonumber(pid) end
    end
  end
  table.sort(pids)
  return pids
end

--- The open descriptors of this process: number -> what it is.
function T.fds()
  local fds = {}
  for fd in lfs.dir("/proc/self/fd") do
    local target = fd:match("^%d+$") and lfs.symlinkattributes("/proc/self/fd/" .. fd, "target")
    -- the directory that is being read has a descriptor too
    if target and not target:match("^/proc/%d+/fd$") then fds[tonumber(fd)] = target end
  end
  return fds
end

--- What is in the shared memory: {used = bytes, objects =, kinds = {name = count}, …}, or
-- nil before the library was loaded.
function T.arena()
  local core = package.loaded["mp.core"]
  return core and core.arena and core.arena()
end

-- Leaks ------------------------------------------------------------------------

local function collect()
  collectgarbage()
  collectgarbage()
end

local function snapshot()
  return { children = T.children(), fds = T.fds(), arena = T.arena() }
end

local function children_leaked(before, after, found)
  local old = {}
  for _, pid in ipairs(before) do old[pid] = true end
  for _, pid in ipairs(after) do
    if not old[pid] then
      local name = (read(("/proc/%d/stat"):format(pid)) or ""):match("%((.*)%) (%a)")
      found[#found + 1] = ("child %d (%s)"):format(pid, name or "gone")
    end
  end
end

local function fds_leaked(before, after, found)
  for fd, target in pairs(after) do
    if before[fd] ~= target then found[#found + 1] = ("descriptor %d (%s)"):format(fd, target) end
  end
  for fd, target in pairs(before) do
    if not after[fd] then
      found[#found + 1] = ("descriptor %d (%s) was closed, which is not the test's"):format(fd, target)
    end
  end
end

local function arena_leaked(before, after, found)
  if not before or not after then return end
  for kind, n in pairs(after.kinds) do
    local old = before.kinds[kind] or 0
    if kind ~= "table" and n > old then
      found[#found + 1] = ("shared memory: from %d to %d %s"):format(old, n, kind)
    end
  end
  if after.kinds.table == before.kinds.table and after.used > before.used then
    found[#found + 1] = ("shared memory: from %d to %d bytes"):format(before.used, after.used)
  end
end

--- What is there now and was not at `before` (a T.snapshot()): array of strings.
function T.leaks(before)
  local after = snapshot()
  local found = {}
  children_leaked(before.children, after.children, found)
  fds_leaked(before.fds, after.fds, found)
  arena_leaked(before.arena, after.arena, found)
  return found
end

T.snapshot = snapshot

-- Every test ---------------------------------------------------------------------

if first_time then
  busted.subscribe({ "test", "start" }, function(element)
    once.name = element.name
    watchdog.name(element.name)
    return nil, true -- the output handler wants to hear of it too
  end)
  local ok, mp = pcall(require, "mp")
  if ok and mp.Lock then mp.Lock() end -- joins the family
end

local before

busted.before_each(function()
  watchdog.start(T.seconds, "before the first line of a test")
  collect()
  before = snapshot()
end)

local function settled_leaks()
  collect()
  local found = T.leaks(before)
  if #found > 0 then
    T.wait_until(function()
      local core = package.loaded["mp.core"]
      if core and core.collect then core.collect() end
      collect()
      found = T.leaks(before)
      return #found == 0
    end, 1)
  end
  return found
end

-- Ends the children that a test left: the next one gets a clean house, and the run comes to
-- its end, where what still runs would be joined.
local function kill_leaked_children()
  local pids = {}
  for _, pid in ipairs(T.children()) do pids[pid] = true end
  for _, pid in ipairs(before.children) do pids[pid] = nil end
  for pid in pairs(pids) do os.execute(("kill -KILL %d 2>/dev/null"):format(pid)) end
  local mp = package.loaded["mp"]
  if mp then T.wait_until(function() return #mp.active_children() == 0 end, 2) end
end

busted.after_each(function()
  local found = settled_leaks()
  if #found > 0 then kill_leaked_children() end
  local barked = watchdog.stop()
  local name = once.name or "?"
  if #found > 0 then
    error(("left behind by '%s': %s"):format(name, table.concat(found, ", ")), 0)
  end
  if barked then error(("watchdog: the test '%s' took too long"):format(name), 0) end
end)

--- Starts a process with a function; the test ends it with T.finish.
function T.start(f, ...)
  local p = require "mp".Process(f, ...)
  p:start()
  return p
end

--- Joins a process that ends by itself. @return its exit code
function T.finish(p)
  assert(p:join(15), "the process does not end")
  local code = p.exitcode
  p:close()
  return code
end

return T
