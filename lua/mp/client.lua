--- Connecting to a listener, of this program or another one, in Lua or Python.
-- @module client

local address = require "mp.address"
local auth = require "mp.auth"
local check = require "mp.check"
local core = require "mp.core"

local known = { timeout = function(value)
  if type(value) ~= "number" or value ~= value then return "a number of seconds" end
end }
for name, test in pairs(address.options) do known[name] = test end

local client = {}

-- The handshake; true, or nil and the code of what went wrong.
local function shake_hands(conn, options, deadline)
  local timed_out = false
  local function left() return math.max(0, deadline - core.monotonic()) end
  local side = {
    send = function(message) return conn:send_bytes(message, 1, -1, left()) end,
    recv = function()
      local message, why = conn:recv_bytes(nil, left())
      timed_out = why == "timeout"
      return message or error("no answer", 0)
    end,
  }
  local ok, good = pcall(function()
    return auth.answer(side, options.authkey, options.legacy)
      and auth.deliver(side, options.authkey, options.legacy)
  end)
  if ok and good then return true end
  if not ok and check.is_interrupt(good) then error(good, 0) end
  return nil, timed_out and "timeout" or "denied"
end

--- Connects to a listener.
-- @function mp.Client
-- @tparam table|string where the address
-- @tparam[opt] table options
-- @tparam[opt] string options.authkey the key that both sides must show to know
-- @tparam[opt="marshal"] string options.format what is sent: "marshal", or "pickle" for Python
-- @tparam[opt] number options.timeout seconds for all of it
-- @tparam[opt] string options.family "AF_INET", "AF_INET6" or "AF_UNIX"
-- @tparam[opt=false] boolean options.legacy talks to Python 3.11 and older
-- @tparam[opt=false] boolean options.allow_code sends functions, and loads those that are received
-- @tparam[opt=1073741824] integer options.max_message longest message that is received, in bytes
-- @treturn Connection|nil nil when there is none
-- @treturn string|nil "refused", "denied", "unreachable" (a path that is not there, too) or "timeout"
-- @python `multiprocessing.connection.Client`
-- @usage local listener = mp.Listener({ "localhost", 0 }, { authkey = "secret" })
-- local p = mp.Process(function(address)
--   local conn <close> = assert(mp.Client(address, { authkey = "secret", timeout = 5 }))
--   conn:send "hello"
-- end, listener.address)
-- p:start()
-- local conn <close> = assert(listener:accept(5))
-- print(conn:recv(5)) --> hello
function client.Client(where, options)
  check.arg(2, "Client", options, "table", true)
  options = options or {}
  check.options(2, "Client", options, known)
  local host, port = address.split(1, "Client", where, options.family)
  auth.check(options)
  local deadline = options.timeout and core.monotonic() + options.timeout
  local ok, conn, why = pcall(core.sock_connect, host, port, options.timeout)
  if not ok then check.reraise(conn) end
  if not conn then return nil, why end
  if options.authkey then
    local last = core.monotonic() + address.HANDSHAKE
    local done <close> = setmetatable({}, { __close = function(self)
      if not self.good then conn:close() end
    end })
    done.good, why = shake_hands(conn, options, math.min(deadline or last, last))
    if not done.good then return nil, why end
  end
  core.conn_trust(conn, address.ways(options))
  return conn
end

return client
