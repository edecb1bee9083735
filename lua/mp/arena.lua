--- What is in the shared memory right now, for the person who debugs at night.
-- @module arena

local core = require "mp.core"
local process = require "mp.process"

local Arena = {}

local function lines(a)
  local out = {
    ("shared memory: %d of %d bytes used, %d resident; %d objects"):format(a.used, a.cap, a.resident, a.objects),
  }
  local function add(...) out[#out + 1] = string.format(...) end
  local names = {}
  for name in pairs(a.kinds) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do add("  %6d  %-20s %10d bytes", a.kinds[name], name, a.bytes[name]) end
  add("%d processes:", #a.processes)
  for _, p in ipairs(a.processes) do
    local what = p.waits and "waits: " .. p.waits or p.state == "live" and "runs" or p.state
    if p.on then what = ("%s, object %d"):format(what, p.on) end
    add("  %6d  %-20s %s", p.pid, p.name, what)
  end
  add("%d locks are held:", #a.locks)
  for _, l in ipairs(a.locks) do
    local who = l.pid and l.alive and "process " .. l.pid or "one that has died"
    add("  object %d, %s: held by %s", l.object, l.kind, who)
  end
  return out
end

function Arena:__tostring() return table.concat(lines(self), "\n") end

--- What is in the shared memory of this family right now. `tostring` makes a report of it.
-- What others do meanwhile may be seen half done; nobody waits for this.
--
-- * `cap`, `used`, `resident`: bytes
-- * `objects`: how many there are
-- * `kinds[name]`, `bytes[name]`: number and bytes of each kind of block
-- * `processes`: an array of `{ name, pid, state, waits, on }`; waits: for what, on: the number of the
--   object; nil when it runs
-- * `locks`: an array of `{ object, kind, pid, alive }`, those that are held (1,000 at most)
-- @function mp.arena
-- @treturn table
-- @usage local a = mp.arena() -- print(a) shows all of it
-- print(a.used < a.cap, a.processes[1].name) --> true	MainProcess
return function()
  core.member()
  process.reap_all()
  local a = core.arena()
  a.processes, a.locks = core.processes(), core.held()
  return setmetatable(a, Arena)
end
