--- What the pool of a C host is made of (mplua_pool_* in mplua.h): a Pool, and the list of
-- results that have come and were not taken.

local core = require "mp.core"
local pool = require "mp.pool"
local pump = require "mp.pump"

local host = {}

-- In the workers ------------------------------------------------------------------

local function find(name)
  local at = _G
  for part in name:gmatch "[^.]+" do
    if type(at) ~= "table" then return nil end
    at = at[part]
  end
  return at
end

--- Calls the function of that name; dots lead into tables.
function host.call(name, ...)
  local f = find(name)
  if f == nil then error(("there is no function '%s'"):format(name), 0) end
  return f(...)
end

local chunks = setmetatable({}, { __mode = "v" })

local function compile(text)
  local f = chunks[text]
  if not f then
    f = assert(load(text, "=task", "t"))
    chunks[text] = f
  end
  return f
end

--- Runs a chunk of Lua text.
function host.run(text, ...) return compile(text)(...) end

-- In the host ---------------------------------------------------------------------

local Host = {}
Host.__index = Host

--- Runs the setup of a pool.
-- @param text Lua text
function host.setup(text) assert(load(text, "=setup", "t"))() end

--- Starts the workers.
-- @param options those of mp.Pool
-- @param task_timeout seconds, or nil
function host.new(options, task_timeout)
  return setmetatable({
    pool = pool.Pool(options), opts = { task_timeout = task_timeout },
    ready = {}, first = 1, last = 0,
  }, Host)
end

local function push(self, id, ok, value)
  self.last = self.last + 1
  self.ready[self.last] = { id = id, ok = ok, value = value }
end

--- Submits task `id`.
-- @param text whether `what` is a chunk, and not a name
-- @param ... arguments
function Host:submit(id, text, what, ...)
  if text then compile(what)
  elseif not find(what) then error(("there is no function '%s' in the pool's state"):format(what), 0)
  end
  self.pool:apply_async(text and host.run or host.call, table.pack(what, ...), {
    task_timeout = self.opts.task_timeout,
    callback = function(value) push(self, id, true, value) end,
    error_callback = function(err) push(self, id, false, tostring(err)) end,
  })
end

--- Looks for results, and does not wait.
-- @return whether one is there
function Host:look()
  local st = self.pool._mp
  -- (also when nothing is under way: a ring of the descriptor may be left)
  if self.first > self.last and not st.ended then pump.step(st, 0) end
  return self.first <= self.last
end

--- Takes the first of those that are there.
-- @return its number, whether it is a value, the value or the text of an error; whether
--   there is another
function Host:take()
  local i = self.first
  local one = self.ready[i]
  self.ready[i] = nil
  self.first = i + 1
  return one.id, one.ok, one.value, self.first <= self.last
end

--- The descriptors that tell of news: of results, of the end of the process that forks
-- the workers; how many such there were; whether something waits for memory, which nobody tells.
function Host:filenos()
  local st = self.pool._mp
  local engine = st.engine
  local ok, watch = pcall(core.watch, engine.handle)
  return engine:fileno(), ok and watch or -1, engine.nurseries, st.hungry
end

--- Ends the workers.
function Host:close() self.pool:terminate() end

return host
