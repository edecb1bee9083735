--- Connections between programs, on one machine or several, over TCP or a socket in the file system.
--
-- The wire is that of Python's `multiprocessing.connection`: the same framing and the same mutual
-- authentication, so either end may be Python. What is sent is not encrypted.
--
-- An address is
-- `{"localhost", 6000}` (an IPv4 address goes first; port 0 is any that is free), a path, or `"\0name"`
-- (a name of Linux, without a file).
--
-- What arrives from Python: None becomes `mp.null`, list and tuple arrays, a set `{[v] = true}`, str and
-- bytes strings. What goes there: a sequence, or an empty table, becomes a list, another table a dict,
-- a string a str when it is UTF-8, else bytes (`mp.bytes(s)` always).
-- @module listener

-- Handshakes go on side by side, as coroutines, while somebody is in accept or mp.wait: who
-- says nothing keeps nobody waiting.

local address = require "mp.address"
local auth = require "mp.auth"
local check = require "mp.check"
local core = require "mp.core"
local process = require "mp.process"

-- Handshakes at a time; the oldest gives way to one more.
local HANDSHAKES = 256
-- The kernel's queue of those who have connected (CPython's is 1).
local BACKLOG = 128
-- When the hook of a listener runs at the exit of its process.
local EXIT_PRIORITY = 0

--- What `mp.Listener` makes. While somebody is in `accept` or `mp.wait` all handshakes go on side by
-- side: a client that says nothing keeps nobody waiting, and is dropped after 10 s.
-- @type Listener

--- Where it listens: `{host, port}` or a path.
-- @tfield table|string address

--- Where the last connection came from: `{host, port}`; a path, or "" for a client without one, where
-- that of the listener is a path; nil before the first.
-- @tfield table|string last_accepted

-- Its methods; the fields are those of the state behind `_mp`.
local Listener = {}

local metatable = { __name = "mp.Listener", __mp = "mp.Listener" }

local known = { backlog = function(value)
  if math.type(value) ~= "integer" or value < 1 or value > 65535 then return "1 to 65535" end
end }
for name, test in pairs(address.options) do known[name] = test end

-- Listeners that are open, and are closed when the process ends.
local open = setmetatable({}, { __mode = "k" })
local hooked = nil

-- The handshakes -----------------------------------------------------------------------

-- The other side of one, whose coroutine waits for its messages.
local function side_of(conn)
  return {
    send = function(message)
      if not conn:send_bytes(message, 1, -1, 0) then error("no room", 0) end
    end,
    recv = function()
      local message, why = conn:recv_bytes(nil, 0)
      while why == "timeout" do
        coroutine.yield()
        message, why = conn:recv_bytes(nil, 0)
      end
      return message or error("gone", 0)
    end,
  }
end

local function shake_hands(conn, options)
  local side = side_of(conn)
  if not auth.deliver(side, options.authkey, options.legacy) then return false end
  return auth.answer(side, options.authkey, options.legacy)
end

local function unwatch(st, conn)
  if not conn.closed then return core.sock_watch(st.sock, conn:fileno(), false) end
  core.sock_renew(st.sock)
  for _, entry in ipairs(st.shaking) do core.sock_watch(st.sock, entry.conn:fileno(), true) end
end

-- A connection for accept.
local function admit(st, entry)
  core.conn_trust(entry.conn, address.ways(st.options))
  st.ready[#st.ready + 1] = entry
end

-- What comes out of a handshake: a connection for accept; "denied"; nothing of who left.
local function finish(st, entry, good)
  local conn = entry.conn
  unwatch(st, conn)
  if good then
    admit(st, entry)
  else
    conn:close()
    if good == false then st.ready[#st.ready + 1] = {} end
  end
end

-- Goes on with a handshake; whether it is over.
local function step(st, entry)
  local ok, good = coroutine.resume(entry.thread)
  if not ok then
    finish(st, entry)
    if check.is_interrupt(good) then error(good, 0) end
  elseif coroutine.status(entry.thread) == "dead" then
    finish(st, entry, good)
  elseif core.monotonic() > entry.deadline then
    finish(st, entry)
  else
    return false
  end
  return true
end

local function begin(st, conn, peer)
  local entry = { conn = conn, peer = peer }
  if not st.options.authkey then return admit(st, entry) end
  entry.deadline = core.monotonic() + address.HANDSHAKE
  entry.thread = coroutine.create(function() return shake_hands(conn, st.options) end)
  core.sock_watch(st.sock, conn:fileno(), true)
  if #st.shaking == HANDSHAKES then finish(st, table.remove(st.shaking, 1)) end
  st.shaking[#st.shaking + 1] = entry
end

-- Takes in who has connected, and lets the handshakes go on as far as they can.
local function advance(st)
  for _ = 1, HANDSHAKES do
    local conn, host, port = core.sock_accept(st.sock)
    if not conn then break end
    begin(st, conn, port and { host, port } or host or "")
  end
  local i = 1
  while st.shaking[i] do
    local entry = table.remove(st.shaking, i)
    if not step(st, entry) then
      table.insert(st.shaking, i, entry)
      i = i + 1
    end
  end
end

-- A listener -----------------------------------------------------------------------------

local function drop_all(st)
  for _, list in ipairs { st.shaking, st.ready } do
    for i = #list, 1, -1 do
      if list[i].conn then list[i].conn:close() end
      list[i] = nil
    end
  end
end

-- The state of a listener that is open; in a child the handshakes of its parent are not
-- its own.
local function check_self(self, method)
  local st = getmetatable(self) == metatable and rawget(self, "_mp")
  if not st then
    check.raise("calling '%s' on bad self (mp.Listener expected, got %s)", method,
      check.typename(self))
  end
  if st.closed then check.raise("the mp.Listener is closed") end
  if st.owner ~= core.getpid() then
    st.owner = core.getpid()
    drop_all(st)
    core.sock_renew(st.sock)
  end
  return st
end

--- Waits for the next connection.
-- @function Listener:accept
-- @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
-- @treturn Connection|nil nil when there is none
-- @treturn string|nil "denied" (somebody did not know the key) or "timeout"
-- @python `Listener.accept`, which has no time-out and raises `AuthenticationError`
function Listener:accept(timeout)
  local st = check_self(self, "accept")
  check.timeout(1, "accept", timeout)
  local deadline = timeout and core.monotonic() + timeout
  while true do
    advance(st)
    local entry = table.remove(st.ready, 1)
    if entry then
      if not entry.conn then return nil, "denied" end
      st.last = entry.peer
      return entry.conn
    end
    local now = core.monotonic()
    local left = deadline and deadline - now
    if left and left <= 0 then return nil, "timeout" end
    local oldest = st.shaking[1]
    if oldest then left = math.min(left or math.huge, math.max(0, oldest.deadline - now) + 0.001) end
    core.poll({ core.sock_fd(st.sock) }, left)
    if st.closed then check.raise("the mp.Listener was closed") end
  end
end

--- Stops listening; the path of an AF_UNIX address is removed. Connections that were
-- accepted stay. Idempotent.
-- @function Listener:close
-- @python `Listener.close`
function Listener:close()
  local st = getmetatable(self) == metatable and rawget(self, "_mp")
  if not st then check_self(self, "close") end
  if st.closed then return end
  st.closed = true
  open[self] = nil
  drop_all(st)
  core.sock_close(st.sock)
end

function metatable.__index(self, key)
  local st = rawget(self, "_mp")
  if key == "address" then return st.address end
  if key == "last_accepted" then return st.last end
  return Listener[key]
end

function metatable.__close(self) Listener.close(self) end

function metatable.__tostring(self)
  local st = self._mp
  local where = type(st.address) == "table" and table.concat(st.address, ":") or st.address
  return ("mp.Listener: %p (%s)"):format(self, st.closed and "closed" or where:gsub("%c", "?"))
end

local listener = {}

-- For mp.wait: what to watch, whether somebody can be accepted, and how to ask again.
function listener.watch(self)
  local st = check_self(self, "wait")
  local function ready()
    advance(st)
    return #st.ready > 0
  end
  return core.sock_fd(st.sock), ready(), ready
end

-- Closes it in this process; others go on with it.
local function leave(self)
  local st = rawget(self, "_mp")
  st.closed = true
  open[self] = nil
  drop_all(st)
  core.sock_leave(st.sock)
end

-- Closes an inherited listener here, or one that another process has taken over.
listener.leave = leave

-- Closes all of them here, but `spare`.
function listener.leave_all(spare)
  for self in pairs(open) do
    if self ~= spare then leave(self) end
  end
end

-- This process goes on with a listener that it has inherited, and removes its path.
function listener.take_over(self) core.sock_own(check_self(self, "accept").sock) end

-- The paths of AF_UNIX do not outlive their process.
local function hook_exit()
  local pid = core.getpid()
  if hooked == pid then return end
  hooked = pid
  process.at_exit(EXIT_PRIORITY, function()
    for self in pairs(open) do Listener.close(self) end
  end)
end

--- Listens at an address.
-- @function mp.Listener
-- @tparam[opt] table|string where the address; without one a fresh path in a private directory
-- @tparam[opt] table options
-- @tparam[opt] string options.authkey the key that both sides must show to know; it is never sent
-- @tparam[opt="marshal"] string options.format what its connections send: "marshal", or "pickle" for
--   Python; both are received
-- @tparam[opt] string options.family "AF_INET", "AF_INET6" or "AF_UNIX"
-- @tparam[opt=128] integer options.backlog how many the kernel lets wait
-- @tparam[opt=false] boolean options.legacy lets Python 3.11 and older in, which know MD5 only
-- @tparam[opt=false] boolean options.allow_code sends functions, and loads those that are received
-- @tparam[opt=1073741824] integer options.max_message longest message that is received, in bytes
-- @treturn Listener
-- @raise when the address is taken or not one of this machine
-- @python `multiprocessing.connection.Listener`
function listener.Listener(where, options)
  check.arg(2, "Listener", options, "table", true)
  options = options or {}
  check.options(2, "Listener", options, known)
  local host, port = address.split(1, "Listener", where, options.family, true)
  auth.check(options)
  local sock = check.call(core.sock_listen, host, port, options.backlog or BACKLOG)
  local own_host, own_port = core.sock_address(sock)
  local self = setmetatable({ _mp = {
    sock = sock, options = options, owner = core.getpid(), closed = false, last = nil,
    address = own_port and { own_host, own_port } or own_host, shaking = {}, ready = {},
  } }, metatable)
  open[self] = true
  hook_exit()
  return self
end

return listener
