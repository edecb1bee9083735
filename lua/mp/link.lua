--- Calls to a manager of another program, over a connection.
--
-- A process has one connection to each server, opened by `connect`, or with the first call
-- in a process that has got a proxy otherwise (by a fork, say). Proxies that are collected
-- are told of with the next request.

local check = require "mp.check"
local client = require "mp.client"
local core = require "mp.core"
local proxy = require "mp.proxy"
local Reference = require "mp.reference"

local monotonic = core.monotonic

local link = {}

-- id of a server, with options -> the connection of this process: {pid, conn, serial, waiting, dropped,
-- where}. It lives as long as something is held by it.
local links = setmetatable({}, { __mode = "v" })
-- reference of a proxy, or of a manager -> {link, number}: keeps the connection; once that of a
-- proxy is collected, the server is told that the object is not needed.
local holds = setmetatable({}, { __mode = "k" })

local function key_of(where)
  return ("%s %s %s"):format(where.id, where.allow_code, where.max_message)
end

local function text_of(address)
  return type(address) == "table" and table.concat(address, ":") or tostring(address):gsub("%c", "@")
end

local function lost(l)
  l.conn:close()
  check.raise("the connection to the manager at %s has ended", text_of(l.where.address))
end

-- Proxies ----------------------------------------------------------------------------------------

local Hold = {}

-- Runs anywhere: it only notes.
function Hold:__gc()
  local dropped = self.link.dropped
  dropped[#dropped + 1], dropped[#dropped + 2] = self.number, 1
end

local function hold(l, ref)
  local held = { link = l, number = ref[3] }
  holds[ref] = ref[3] == 0 and held or setmetatable(held, Hold)
end

-- What stands for the proxies in a request. Those of other servers stay, and cannot be sent.
local function to_reference(l)
  return function(value)
    local ref = proxy.ref(value)
    if not ref then return nil end
    if type(ref[1]) == "table" and ref[1].id == l.where.id then
      return Reference.of(proxy.kind(value), ref[3])
    end
    check.raise("a proxy of another manager cannot be sent to the manager at %s",
      text_of(l.where.address))
  end
end

local function to_proxy(l, timeout)
  return function(value)
    if not Reference.is(value) then return nil end
    local ref = { l.where, nil, value.number, nil, timeout }
    hold(l, ref)
    return proxy.new(value.kind, ref)
  end
end

-- The connection ----------------------------------------------------------------------------------

-- Receives until the reply with that serial, those of calls around this one are kept.
-- Nothing when the time is over.
local function reply_to(l, serial, deadline)
  local waiting = l.waiting
  while waiting[serial] == true do
    local reply, why = l.conn:recv(deadline and math.max(0, deadline - monotonic()))
    if why == "eof" then lost(l) end
    if why == "timeout" then return nil end
    if type(reply) ~= "table" or math.type(reply[3]) ~= "integer" then
      check.raise("what listens at %s is not a manager", text_of(l.where.address))
    end
    if reply[1] == serial or reply[1] == 0 then return reply end
    if waiting[reply[1]] then waiting[reply[1]] = reply end
  end
  return waiting[serial]
end

local function give_up(l, serial)
  pcall(l.conn.send, l.conn, { false, serial, 0, "cancel", 0 }, 0)
end

local function send(l, m)
  local conn = l.conn
  local ok, err = pcall(conn.send, conn, m)
  if ok then return end
  if check.is_interrupt(err) then error(err, 0) end
  if conn.closed or tostring(err):find "broken pipe" then lost(l) end
  -- it may be for the proxies in it
  local swapped = Reference.swap(m, to_reference(l))
  swapped[1] = { refs = true, dropped = m[1] and m[1].dropped }
  ok, err = pcall(conn.send, conn, swapped)
  if not ok then proxy.cannot_send(err) end
end

-- Sends a request and waits for its reply; nothing when that does not come in time.
local function exchange(l, m, deadline)
  local serial = m[2]
  if l.dropped[1] then
    m[1] = { dropped = l.dropped }
    l.dropped = {}
  end
  l.waiting[serial] = true
  local ok, reply = pcall(function()
    send(l, m)
    return reply_to(l, serial, deadline)
  end)
  l.waiting[serial] = nil
  if ok and reply then return reply end
  if not l.conn.closed then give_up(l, serial) end
  if not ok then proxy.reraise(reply) end
end

-- Connects, and asks for the server's id. The link; or nil and the code of what went wrong.
local function open(where, timeout)
  local deadline = timeout and monotonic() + timeout
  local conn, why = client.Client(where.address, {
    authkey = where.authkey, allow_code = where.allow_code, max_message = where.max_message,
    timeout = timeout,
  })
  if not conn then return nil, why end
  local l = {
    pid = core.getpid(), conn = conn, serial = 1, waiting = {}, dropped = {}, where = where,
  }
  local reply = exchange(l, { false, 1, 0, "hello", 0 }, deadline)
  if not reply then
    conn:close()
    return nil, "timeout"
  end
  local id = proxy.results(reply)
  if where.id and id ~= where.id then
    conn:close()
    check.raise("the manager at %s is another one by now", text_of(where.address))
  end
  where.id = id
  return l
end

local function link_to(where, timeout)
  local l = where.id and links[key_of(where)]
  if l and l.pid == core.getpid() and not l.conn.closed then return l end
  local why
  l, why = open(where, timeout)
  if not l then
    check.raise("cannot connect to the manager at %s: %s", text_of(where.address), why)
  end
  links[key_of(where)] = l
  return l
end

--- Connects.
-- @param ref reference of the manager: its first item is a table with address, authkey,
--   allow_code, max_message; id is filled in
-- @param timeout seconds
-- @return true; or nil and "refused", "denied", "unreachable" or "timeout"
function link.connect(ref, timeout)
  local where = ref[1]
  local l, why = open(where, timeout)
  if not l then return nil, why end
  local old = links[key_of(where)]
  if old and old.pid == l.pid and not old.conn.closed then
    l.conn:close() -- there is one already, which holds what proxies refer to
    l = old
  end
  links[key_of(where)] = l
  hold(l, ref)
  return true
end

--- Gives up a manager's share in the connection, which ends with the last proxy.
function link.disconnect(ref)
  local held = holds[ref]
  holds[ref] = nil
  if not held then return end
  for _, other in pairs(holds) do
    if other.link == held.link then return end
  end
  held.link.conn:close()
end

--- As proxy.ask.
function link.request(ref, grace, number, name, ...)
  local timeout = ref[5]
  local l = link_to(ref[1], timeout)
  local serial = l.serial + 1
  l.serial = serial
  if not holds[ref] or holds[ref].link ~= l then hold(l, ref) end
  local reply = exchange(l, { false, serial, number, name, select("#", ...), ... },
    timeout and monotonic() + timeout + grace)
  if not reply then proxy.late(name, timeout) end
  if reply.refs then reply = Reference.swap(reply, to_proxy(l, timeout)) end
  return proxy.results(reply)
end

return link
