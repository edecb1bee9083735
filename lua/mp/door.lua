--- The door of a manager's server for those outside its family: its listener and connections.
--
-- Nobody is waited for: handshakes go on side by side, replies that a client does not take
-- wait for it alone, and so do its further requests.

local check = require "mp.check"
local core = require "mp.core"
local listener = require "mp.listener"
local proxy = require "mp.proxy"
local Reference = require "mp.reference"
local server = require "mp.server"

local Door = {}
Door.__index = Door

-- Objects that a connection refers to --------------------------------------------------------------

-- What stands for the proxies in a reply, which the client has from now on.
local function to_reference(self, client)
  return function(value)
    local ref = proxy.ref(value)
    if not ref or ref[1] ~= self.requests then return nil end
    local held = client.holds[ref[3]] or { proxy = value, n = 0 }
    held.n = held.n + 1
    client.holds[ref[3]] = held
    return Reference.of(proxy.kind(value), ref[3])
  end
end

local function to_proxy(value)
  if not Reference.is(value) then return nil end
  local object = server.proxy_of_number(value.number)
  if not object then error(("the manager has no object %d"):format(value.number), 0) end
  return object
end

local function drop(client, dropped)
  for i = 1, #dropped, 2 do
    local held = client.holds[dropped[i]]
    if held then
      held.n = held.n - dropped[i + 1]
      if held.n <= 0 then client.holds[dropped[i]] = nil end
    end
  end
end

-- Connections ----------------------------------------------------------------------------------------

local function leave(self, client)
  if client.left then return end
  client.left = true
  client.conn:close()
  self.clients[client], self.fds = nil, nil
  server.remove(client)
  client.holds = {}
end

-- Whether the last reply is still here: what has been sent counts as read.
local function unread(client) return client.busy or client.out[1] ~= nil end

-- Sends on what the client has not taken yet.
local function flush(self, client)
  local busy = client.busy
  while true do
    local ok, sent
    if busy then
      ok, sent = pcall(core.conn_go_on, client.conn)
    else
      local reply = table.remove(client.out, 1)
      if not reply then break end
      ok, sent = pcall(core.conn_offer, client.conn, reply)
      if not ok and not client.conn.closed and not reply.refs then
        -- it may be for the proxies in it
        reply = Reference.swap(reply, to_reference(self, client))
        reply.refs = true
        ok, sent = pcall(core.conn_offer, client.conn, reply)
        if not ok and not client.conn.closed then error(sent, 0) end
      end
    end
    if not ok then
      client.busy = true -- this one has not been sent
      return leave(self, client)
    end
    busy = not sent
    if busy then break end
  end
  if busy ~= client.busy then client.busy, self.fds = busy, nil end
end

local function new_client(self, conn)
  local client = server.client_of(function(client, reply)
    client.out[#client.out + 1] = reply
    if not (client.busy or client.left) then flush(self, client) end
  end, unread)
  client.conn, client.holds, client.out, client.busy = conn, {}, {}, false
  self.clients[client], self.fds = true, nil
end

-- What a message is to the server: nil when it is nothing.
local function request_of(m)
  if type(m) ~= "table" or math.type(m[2]) ~= "integer" or math.type(m[3]) ~= "integer" then return nil end
  local n = m[5]
  if math.type(n) ~= "integer" or n < 0 or n > 200 then return nil end
  return m
end

local function receive(self, client)
  local ok, m, why = pcall(client.conn.recv, client.conn, 0)
  if not ok and not client.conn.closed then
    if check.is_interrupt(m) then error(m, 0) end
    return client:send { 0, "misuse", 1, "the manager cannot read the request: " .. tostring(m) }
  end
  if not ok or why == "eof" then return leave(self, client) end
  if why == "timeout" then return end
  m = request_of(m)
  if not m then return leave(self, client) end
  local head = type(m[1]) == "table" and m[1]
  if head and type(head.dropped) == "table" then drop(client, head.dropped) end
  if m[3] == 0 and m[4] == "cancel" then return server.cancel(client, m[2]) end
  if next(client.parked) then return leave(self, client) end -- one call at a time
  if head and head.refs then
    ok, m = pcall(Reference.swap, m, to_proxy)
    if not ok then return client:send { 0, "misuse", 1, m } end
  end
  if m[3] ~= 0 and not client.holds[m[3]] then
    client.holds[m[3]] = { proxy = server.proxy_of_number(m[3]), n = 1 }
  end
  self.inbox[#self.inbox + 1] = { client, m }
end

-- Those whose handshake is done; the others go on with theirs.
local function let_in(self)
  local conn, why = self.listener:accept(0)
  while why ~= "timeout" do
    if conn then new_client(self, conn) end
    conn, why = self.listener:accept(0)
  end
end

-- Waiting ---------------------------------------------------------------------------------------------

-- What to poll: the queue of requests, the listener, each connection, for writing while it
-- is busy.
local function watch(self)
  local fds, who = { self.requests:fileno(), self.listening }, { false, false }
  for client in pairs(self.clients) do
    local fd = client.conn:fileno()
    fds[#fds + 1], who[#who + 1] = client.busy and ~fd or fd, client
  end
  self.fds, self.who = fds, who
end

--- Waits until something comes, and takes it in.
-- @param timeout seconds
function Door:wait(timeout)
  if self.inbox[1] then return end
  if not self.fds then watch(self) end
  local who = self.who
  local found = core.poll(self.fds, timeout)
  local knock = #found == 0
  for _, i in ipairs(found) do
    local client = who[i]
    if client and not client.left then
      if client.busy then flush(self, client) else receive(self, client) end
    end
    knock = knock or i == 2
  end
  if knock then let_in(self) end
end

--- The next request that has come: client, message; or nil.
function Door:next()
  local item = table.remove(self.inbox, 1)
  while item and item[1].left do item = table.remove(self.inbox, 1) end
  if item then return item[1], item[2] end
end

--- Whether somebody is connected.
function Door:any_client() return next(self.clients) ~= nil end

--- Closes all of it.
function Door:close()
  for client in pairs(self.clients) do client.conn:close() end
  self.clients = {}
  self.listener:close()
end

local door = {}

--- Makes one.
-- @param where listener
-- @param requests the family's queue
function door.new(where, requests)
  return setmetatable({
    listener = where, listening = (listener.watch(where)), requests = requests, clients = {},
    inbox = {}, fds = nil, who = nil,
  }, Door)
end

return door
