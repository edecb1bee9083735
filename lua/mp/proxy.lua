--- Proxies: what stands for an object of a manager, in any process.
--
-- A proxy is a table with one raw field, under a key that scripts do not have: its reference,
-- {requests, token, number, word of the server, timeout} in the server's family, and
-- {where, nil, number, nil, timeout} elsewhere, `where` being the address of the server and
-- the key to it (link.lua).

local check = require "mp.check"
local core = require "mp.core"
local server = require "mp.server"

local KEY = core.proxy_key
local unpack = table.unpack
local monotonic = core.monotonic
--- Where a request has its first argument.
local FIRST = 6
--- Seconds between two looks at whether the server lives.
local SLICE = 0.2

local proxy = {}

-- requests -> how this process talks to that server: {word, replies, serial, waiting}.
local links = setmetatable({}, { __mode = "k" })

local GONE = { over = "the manager was shut down", ended = "the manager's server has ended" }

local function gone(ref) check.raise("%s", core.queue_over(ref[1]) and GONE.over or GONE.ended) end

local function open(ref)
  local requests = ref[1]
  local link = {
    word = core.word(), replies = core.Queue(), serial = 0, waiting = {},
  }
  if not requests:put { link.word, 0, 0, "hello", 1, link.replies } then gone(ref) end
  links[requests] = link
  return link
end

-- What has come: the reply that is waited for, or one of a call around this one, or the
-- news that the server could not read some request.
local function sort(link, ref, serial, reply)
  local whose = reply[1]
  if whose == serial then return reply end
  if link.waiting[whose] then link.waiting[whose] = reply end
  if whose == 0 then ref[1]:put { link.word, serial, 0, "seen", 0 } end
end

-- Waits for the reply with that number. Nothing when the time is over.
local function reply_to(link, ref, serial, deadline)
  local replies, waiting = link.replies, link.waiting
  while true do
    if waiting[serial] ~= true then return waiting[serial] end
    local left = deadline and deadline - monotonic()
    local reply = replies:get(left and left < SLICE and left or SLICE)
    if not reply then
      local alive = core.alive(ref[4])
      reply = replies:get(0)
      if not reply and not alive then gone(ref) end
      if not reply and left and left <= 0 then return nil end
    end
    reply = reply and sort(link, ref, serial, reply)
    if reply then return reply end
  end
end

-- The same, and tells the server when the call was given up.
local function await(link, ref, serial, deadline)
  link.waiting[serial] = true
  local ok, reply = pcall(reply_to, link, ref, serial, deadline)
  link.waiting[serial] = nil
  if ok and reply then return reply end
  pcall(ref[1].put, ref[1], { link.word, serial, 0, "cancel", 0 }, 0)
  if not ok then proxy.reraise(reply) end
end

--- Raises an error of the core at the place where the script called the library.
function proxy.reraise(err)
  if type(err) ~= "string" or not err:find "^mp/[%w_]+%.lua:%d+: " then error(err, 0) end
  check.reraise(err)
end

--- What a reply says: raises what was raised there.
function proxy.results(reply)
  local status = reply[2]
  if status == true then return unpack(reply, 4, 3 + reply[3]) end
  if status == "misuse" then check.raise("%s", reply[4]) end
  error(reply[4], 0)
end

--- Raises that an answer did not come in time.
function proxy.late(name, timeout)
  check.raise("the manager did not answer '%s' within %g s", name, timeout)
end

--- Raises that a request cannot be sent: where in a message an argument is, scripts do not
-- know.
function proxy.cannot_send(err)
  if type(err) ~= "string" then error(err, 0) end
  check.raise("%s", (err:gsub("^mp/[%w_]+%.lua:%d+: ", ""):gsub(" value%[(%d+)%]", function(n)
    return (" argument #%d"):format(tonumber(n) - FIRST + 1)
  end)))
end

local function request(ref, grace, number, name, ...)
  local requests, timeout = ref[1], ref[5]
  local deadline = timeout and monotonic() + timeout + grace
  local link = links[requests]
  if not link or link.word ~= core.word() then link = open(ref) end
  local serial = link.serial + 1
  link.serial = serial
  local ok, sent = pcall(requests.put, requests,
    { link.word, serial, number, name, select("#", ...), ... })
  if not ok then proxy.cannot_send(sent) end
  if not sent then gone(ref) end
  local reply = await(link, ref, serial, deadline)
  if not reply then proxy.late(name, timeout) end
  return proxy.results(reply)
end

--- Asks the server for an operation of object `number`, 0 being the server itself.
-- @param grace seconds that the answer may take beyond the manager's timeout
function proxy.ask(ref, grace, number, name, ...)
  if type(ref[1]) == "table" then return proxy.remote(ref, grace, number, name, ...) end
  if server.is_here(ref[1]) then return server.perform(number, name, ...) end
  return request(ref, grace, number, name, ...)
end

--- A call in another family; loaded when it is needed first.
function proxy.remote(...)
  proxy.remote = require "mp.link".request
  return proxy.remote(...)
end

local function closed(self) check.raise("the %s is closed", check.typename(self)) end

--- Gives a proxy up: calls of it are errors from now on.
function proxy.close(self) rawset(self, KEY, nil) end

--- Calls an operation of the object. Raises what it raised there.
function proxy.call(self, name, ...)
  local ref = rawget(self, KEY) or closed(self)
  return proxy.ask(ref, 0, ref[3], name, ...)
end

--- Seconds that the answer to a call with a time-out of its own may come late.
local GRACE = 1

--- Calls an operation that may wait, whose last argument is its time-out. The manager's own
-- bounds it.
-- @param timeout seconds, or nil
function proxy.wait(self, name, timeout, ...)
  local ref = rawget(self, KEY) or closed(self)
  local most = ref[5]
  if most and not (timeout and timeout < most) then timeout = most end
  return proxy.ask(ref, GRACE, ref[3], name, timeout, ...)
end

--- The reference of a proxy, nil when a value is none.
function proxy.ref(value) return type(value) == "table" and rawget(value, KEY) or nil end

-- Seconds that tostring waits for an answer.
local SHOW = 5

-- Calls what asks the server for the contents; the error too is a text.
local function ask_briefly(shown, self, ref)
  local timeout = ref[5]
  ref[5] = math.min(timeout or SHOW, SHOW)
  local ok, text = pcall(shown, self)
  ref[5] = timeout
  if not ok and check.is_interrupt(text) then error(text, 0) end
  if not ok then text = tostring(text):gsub("\n.*", ""):gsub("^.-:%d+: ", "") end
  return ok, text
end

-- What is to be said of the server without asking it.
local function about_server(ref)
  if type(ref[1]) == "table" then return nil end
  if core.queue_over(ref[1]) then return GONE.over end
  if not core.alive(ref[4]) then return GONE.ended end
end

-- What tostring gives: what `shown` makes of the object, else kind, identity and state.
local function show(self, name, shown)
  local ref = proxy.ref(self)
  if not ref then return name .. " (closed)" end
  local state = about_server(ref)
  if shown and not state then
    local ok, text = ask_briefly(shown, self, ref)
    if ok then return text end
    state = text
  end
  return ("%s: object %d of a manager%s"):format(name, ref[3], state and (" (%s)"):format(state) or "")
end

-- kind -> class
local classes = {}
proxy.classes = classes

--- The class of the proxies of a kind.
-- @param kind what the server calls it
-- @param name "mp.DictProxy", …
-- @param class metatable
function proxy.class(kind, name, class)
  class.__name, class.__mp = name, name
  class.__eq = function(a, b)
    local x, y = proxy.ref(a), proxy.ref(b)
    return x ~= nil and y ~= nil and x[3] == y[3]
      and (x[1] == y[1] or (type(x[1]) == "table" and type(y[1]) == "table" and x[1].id == y[1].id))
  end
  local shown = class.__tostring
  class.__tostring = function(self) return show(self, name, shown) end
  classes[kind] = class
end

--- The kind of a proxy.
function proxy.kind(value)
  local class = getmetatable(value)
  for kind, known in pairs(classes) do
    if known == class then return kind end
  end
end

--- Makes a proxy of a reference.
function proxy.new(kind, ref) return setmetatable({ [KEY] = ref }, classes[kind]) end

server.proxy = proxy.new
server.proxy_ref = proxy.ref

return proxy
