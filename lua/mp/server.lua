--- The server of a manager: one process, one loop, and the objects that it owns.
--
-- The loop takes a request, runs its operation and answers, all inside a runner, a coroutine.
-- An operation that has to wait parks its runner; the loop goes on in another one. See
-- "Managers" in runtime/README.md.

local core = require "mp.core"
local RemoteError = require "mp.remote_error"

local traceback = debug and debug.traceback
local monotonic = core.monotonic
local running, yield = coroutine.running, coroutine.yield
local unpack = table.unpack

--- Seconds between two looks at who has died and what nobody refers to.
local SLICE = 0.2
--- To look at what nobody refers to may take one part in so many of a processor.
local LOOK_SHARE = 50
--- Seconds after which a method goes on that has yielded.
local MOMENT = 1e-3
--- Requests of the family between two looks at connections and deadlines.
local TURNS = 64

--- Where a reply has its first result.
local FIRST = 4

-- What runners yield, so that those of scripts are told from ours.
local PARKED, IDLE = {}, {}
-- What is raised in an operation whose client has died, or given the call up.
local GONE = setmetatable({}, { __tostring = function() return "the caller has gone" end })

local server = {}

-- What this process serves, or nil:
--   requests      the queue of the family's requests; get, put: queues' own methods
--   word          this process
--   calls         what the manager itself can be asked for: name -> function
--   timeout       of all calls of its proxies
--   door          the connections (door.lua), or nil
--   clients       word -> client
--   records       number -> record, weak; pinned: those that others refer to
--   of            token -> record, an ephemeron: what nobody reaches goes
--   of_object     object of an own type -> record, weak
--   ready         entries that go on; idle: runners without anything to do
--   later         what is done once nothing is ready: functions that take something away from
--                 a client, for which it must have been noted with it
--   runners       set of all runners
--   changed       something was done since the last look at what is referred to
--   unsent        replies that are to be sent again
--   ends_alone    it ends when nobody refers to it any more
--   timed         parked entry -> its deadline; nearest: no later than the first of these
--   client, serial  whose request is being performed, if in_call
-- A client has: word or conn, held (key -> function, called when it goes), parked (set of
-- entries), send(client, reply), unread(client, serial): whether it has not taken that reply;
-- seen, answered: serials of its last request and reply; undo, undo_serial, undo_arg: takes
-- back what its last call was given; gone; holds, left, of connections.
local here = nil

-- Misuse --------------------------------------------------------------------------------------

local Misuse = { __tostring = function(self) return self.text end }

--- Raises an error about arguments, which the client raises at its caller's line.
function server.misuse(message, ...)
  error(setmetatable({ text = select("#", ...) > 0 and message:format(...) or message }, Misuse), 0)
end

-- Parking ---------------------------------------------------------------------------------

-- Has a parked runner go on with `result`.
local function wake(entry, result)
  if entry.done then return end
  entry.done, entry.result = true, result
  local list = entry.list
  for i = 1, #list do
    if list[i] == entry then
      table.remove(list, i)
      break
    end
  end
  here.timed[entry], entry.client.parked[entry] = nil, nil
  here.ready[#here.ready + 1] = entry
end

-- An entry in a list of waiters, for the request that is being performed.
local function enlist(runner, list, timeout)
  local client = here.client
  if client.gone then error(GONE, 0) end
  local entry = {
    runner = runner, list = list, client = client, serial = here.serial, offer = nil,
    on_gone = nil, done = false, result = nil,
  }
  list[#list + 1] = entry
  client.parked[entry] = true
  if timeout then
    local at = monotonic() + timeout
    here.timed[entry] = at
    if at < here.nearest then here.nearest = at end
  end
  return entry
end

--- Whether the running code may park: it is an operation, and not inside a coroutine or a
-- callback of its own.
function server.can_park()
  return here ~= nil and here.runners[running()] ~= nil and coroutine.isyieldable()
end

--- Parks the running operation until somebody wakes it.
-- @param list where it waits, behind the others
-- @param timeout seconds; nil for ever
-- @param offer for who wakes it
-- @param on_gone called when the client goes while it waits
-- @return what the waker gave; nil at the end of the time
function server.park(list, timeout, offer, on_gone)
  if timeout and timeout <= 0 then return nil end
  if not server.can_park() then
    server.misuse("cannot wait for a manager's object in a callback or coroutine inside its server")
  end
  local entry = enlist(running(), list, timeout)
  entry.offer, entry.on_gone = offer, on_gone
  yield(PARKED)
  if entry.result == GONE then error(GONE, 0) end
  return entry.result
end

--- Parks for some time.
function server.nap(seconds) server.park({}, seconds > 0 and seconds or 1e-6) end

--- Wakes the first of a list with a result, true by default. @return its offer, or nil
function server.wake(list, result)
  local entry = list[1]
  if not entry then return nil end
  wake(entry, result == nil and true or result)
  return entry.offer or true
end

--- Wakes all of a list.
function server.wake_all(list, result)
  while server.wake(list, result) do end
end

--- For whom the running operation runs.
function server.client() return here.client end

--- Whoever waits first in a list: its client.
function server.first(list) return list[1] and list[1].client end

--- What takes back the result of the running operation, should its client never see it.
function server.undo(f, argument)
  local client = here.client
  client.undo, client.undo_serial, client.undo_arg = f, here.serial, argument
end

local function undo(client)
  local f, argument = client.undo, client.undo_arg
  client.undo, client.undo_arg = nil, nil
  if f then f(argument, client) end
end

-- Objects -----------------------------------------------------------------------------------

local function proxy_of(record)
  return server.proxy(record.kind, { here.requests, record.token, record.number, here.word, here.timeout })
end

--- Makes a record and the proxy that stands for it.
function server.adopt(type_name, kind, object)
  local by_identity = kind == "own" and type(object) ~= "string" and type(object) ~= "number"
  local record = by_identity and here.of_object[object]
  if record then return proxy_of(record) end
  local number = here.number + 1
  here.number = number
  local token = core.RawValue("q", number)
  record = { number = number, token = token, kind = kind, type = type_name, object = object }
  here.of[token], here.records[number], here.pinned[number] = record, record, record
  if by_identity then here.of_object[object] = record end
  return proxy_of(record)
end

--- The object behind a proxy of this server and its kind; nil when it is none.
function server.object_of(proxy_ref)
  local record = proxy_ref and proxy_ref[1] == here.requests and here.records[proxy_ref[3]]
  if record then return record.object, record.kind end
end

--- A proxy for what a connection calls number so and so; nil when there is none.
function server.proxy_of_number(number)
  local record = here.records[number]
  return record and proxy_of(record)
end

-- Pins what others refer to, and only that: what is left, in containers or nowhere, is Lua's
-- to collect, at once if something may have changed.
local function look_at_lives()
  local loose = false
  for number, record in pairs(here.records) do
    local wanted = core.references(record.token) > 1
    if wanted ~= (here.pinned[number] ~= nil) then here.changed = true end
    here.pinned[number] = wanted and record or nil
    loose = loose or not wanted
  end
  if loose and here.changed then collectgarbage() end
  here.changed = false
end

-- Clients -------------------------------------------------------------------------------------

--- A client, which sends replies by `send`.
function server.client_of(send, unread)
  return { parked = {}, held = {}, seen = 0, send = send, unread = unread, gone = false }
end

-- Does something once nothing is ready to go on, one such thing after the other: until then
-- who was woken may not have noted what it got.
local function do_later(f, client, serial) here.later[#here.later + 1] = { f, client, serial } end

local function end_wait(entry)
  wake(entry, GONE)
  if entry.on_gone then entry.on_gone() end
end

local function depart(client)
  client.gone, here.changed = true, true
  for entry in pairs(client.parked) do end_wait(entry) end
  if client.undo and (client.answered ~= client.undo_serial or client:unread(client.undo_serial)) then
    undo(client)
  end
  for _, release in pairs(client.held) do release(client) end
  client.held = {}
  if client.replies then client.replies:close() end
end

--- Takes a client away: its waits, what it holds, its last result when that was not read.
function server.remove(client) do_later(depart, client) end

-- Whether the reply to the last call of a dead process was never taken.
local function unread_by_process(client, serial)
  local ok, reply
  repeat
    ok, reply = pcall(client.replies.get, client.replies, 0)
  until not ok or not reply or reply[1] == serial
  return ok and reply ~= nil
end

local function look_at_clients()
  for word, client in pairs(here.clients) do
    if not core.alive(word) then
      here.clients[word] = nil
      server.remove(client)
    end
  end
end

local function send_to_process(client, reply) here.put(client.replies, reply) end

-- Requests ------------------------------------------------------------------------------------

local function remote_error(err, trace)
  return RemoteError.of {
    message = err, traceback = trace, process = core.name, pid = core.getpid(),
  }
end

-- A traceback without the library's own frames below the operation.
local function own_part(text)
  local n
  repeat
    text, n = text:gsub("\n\tmp/[^\n]*$", "", 1)
    if n == 0 then text, n = text:gsub("\n\t%(%.%.%.tail calls%.%.%.%)$", "", 1) end
  until n == 0
  return text
end

--- A message handler for what the library itself does for a client: its errors, which have no place
-- here, are about the client's arguments; those of scripts, which have one, are failures.
function server.about_caller(err)
  if type(err) ~= "string" then return err end
  if not err:find "^[^\n]-:%d+: " then return setmetatable({ text = err }, Misuse) end
  return remote_error(err, traceback and own_part(traceback(nil, 2)))
end

-- What is wrong with a result that cannot be sent.
local function about_result(err)
  return (tostring(err):gsub("^mp/[%w_]+%.lua:%d+: ", ""):gsub(" value%[(%d+)%]", function(n)
    return (" result #%d"):format(tonumber(n) - FIRST + 1)
  end))
end

-- Sends a small reply; when shared memory is too full for it, later.
local function send_surely(client, reply)
  if client.gone or pcall(client.send, client, reply) then return end
  here.unsent[#here.unsent + 1] = { client, reply }
end

local function send_unsent()
  local list = here.unsent
  if not list[1] then return end
  here.unsent = {}
  for _, item in ipairs(list) do send_surely(item[1], item[2]) end
end

-- Answers a call that has raised, or whose results cannot be sent: its runner is dead.
local function answer_failure(client, serial, err, runner)
  if client.gone or err == GONE then return end
  local meta = type(err) == "table" and getmetatable(err)
  local reply
  if here.in_call == "answer" then
    reply = { serial, false, 1, remote_error(about_result(err)) }
  elseif meta == Misuse then
    reply = { serial, "misuse", 1, err.text }
  elseif meta == RemoteError then
    reply = { serial, false, 1, err }
  else
    reply = { serial, false, 1, remote_error(err, traceback and own_part(traceback(runner))) }
  end
  if pcall(client.send, client, reply) then return end
  send_surely(client, { serial, false, 1, remote_error(tostring(err)) })
end

local function answer(client, serial, ...)
  here.in_call = "answer"
  if client.gone then return end
  client:send { serial, true, select("#", ...), ... }
  client.answered = serial
end

local function operation(number, name)
  local record = here.records[number]
  if not record then server.misuse("the manager has no object %s", tostring(number)) end
  local kind = server.kinds[record.kind]
  local op = kind[name]
  if op then return op, record.object end
  op = kind["*"]
  if not op then server.misuse("a manager's %s has no operation '%s'", record.type, tostring(name)) end
  return op, record.object, record
end

local function perform(number, name, ...)
  if number == 0 then
    local f = here.calls[name]
    if not f then server.misuse("managers have no operation '%s'", tostring(name)) end
    return f(...)
  end
  local op, object, record = operation(number, name)
  if record then return op(object, name, record, ...) end
  return op(object, ...)
end

--- Performs a request and answers it.
-- @param m client's key, serial, number of the object, operation, count of arguments, arguments…
function server.handle(client, m)
  local serial = m[2]
  here.client, here.serial, here.in_call = client, serial, true
  client.seen, client.undo, here.changed = serial, nil, true
  answer(client, serial, perform(m[3], m[4], unpack(m, 6, 5 + m[5])))
  here.in_call = false
end

local function cancel(client, serial)
  for entry in pairs(client.parked) do
    if entry.serial == serial then end_wait(entry) end
  end
  if client.undo_serial == serial then undo(client) end
end

--- Ends a call that its client has given up: its wait, or its result, which is not read.
function server.cancel(client, serial) do_later(cancel, client, serial) end

-- What processes ask the server itself, besides calls.
local protocol = {
  hello = function(word, _, m)
    local client = server.client_of(send_to_process, unread_by_process)
    client.word, client.replies = word, m[6]
    here.clients[word] = client
  end,
  cancel = function(_, client, m) server.cancel(client, m[2]) end,
  -- A request that could not be read was, it may be, this client's last.
  seen = function(_, client, m)
    if client.seen < m[2] then
      send_surely(client, { m[2], false, 1, remote_error(here.unreadable) })
    end
  end,
}

local function take_in(m)
  local client = here.clients[m[1]]
  local f = m[3] == 0 and protocol[m[4]]
  if f then
    if client or m[4] == "hello" then f(m[1], client, m) end
  elseif client then
    server.handle(client, m)
  end
end

-- A request that cannot be decoded (a module that is not here, say): nobody knows whose.
local function tell_of_unreadable(err)
  here.unreadable = tostring(err):gsub("^mp/[%w_]+%.lua:%d+: ", "")
  for _, client in pairs(here.clients) do send_surely(client, { 0 }) end
end

-- The loop --------------------------------------------------------------------------------------

local function end_waits(now)
  local nearest = math.huge
  for entry, deadline in pairs(here.timed) do
    if deadline <= now then
      wake(entry, nil)
    elseif deadline < nearest then
      nearest = deadline
    end
  end
  here.nearest = nearest
end

-- Ends waits whose time is over; a look at the living and the dead each slice.
local function tend(now)
  if now >= here.nearest then end_waits(now) end
  if now < here.next_look then return end
  here.next_look = now + SLICE
  look_at_clients()
  if now >= here.next_lives then
    local cpu = os.clock() -- what others take of the processor meanwhile is no cost of ours
    look_at_lives()
    here.next_lives = now + (os.clock() - cpu) * LOOK_SHARE
  end
  send_unsent()
  if here.ends_alone and core.references(here.requests) == 1 and not (here.door and here.door:any_client()) then
    here.serving = false
  end
end

-- Seconds until there is something else to do than to wait for requests.
local function patience()
  if here.ready[1] or here.later[1] then return 0 end
  if here.nearest == math.huge then return SLICE end
  return math.max(0, math.min(here.nearest, here.next_look) - monotonic())
end

-- The next request of the family, or nil after having waited. False: there are no more.
local function next_request(requests, get, door)
  local m, why = get(requests, door and 0 or patience())
  if m then return m end
  if why == "closed" then return false end
  if door then door:wait(patience()) end
  return nil
end

-- Serves until something is ready to go on.
local function serve()
  local requests, get, door = here.requests, here.get, here.door
  local turns = 0
  while here.serving do
    local m = next_request(requests, get, door)
    if m then
      take_in(m)
    elseif m == false then
      here.serving = false
    end
    turns = turns + 1
    if not m or turns % TURNS == 0 or here.nearest < math.huge then
      tend(monotonic())
      if door and turns % TURNS == 0 then door:wait(0) end
    end
    local client, message = nil, nil
    if door then client, message = door:next() end
    if client then server.handle(client, message) end
    if here.ready[1] or here.later[1] then
      here.idle[#here.idle + 1] = running()
      yield(IDLE)
    end
  end
end

local function new_runner()
  local runner = coroutine.create(serve)
  here.runners[runner] = true
  return runner
end

-- A runner has died, in the call that it performed or on its way to the next one.
local function bury(runner, err)
  here.runners[runner] = nil
  if here.in_call then return answer_failure(here.client, here.serial, err, runner) end
  if tostring(err):find("interrupted!$") then error(err, 0) end
  tell_of_unreadable(err)
end

-- Lets one runner go on, until it yields.
local function step(entry, runner)
  here.in_call = entry ~= nil
  if entry then here.client, here.serial = entry.client, entry.serial end
  local ok, what = coroutine.resume(runner)
  if not ok then return bury(runner, what) end
  if what == PARKED or what == IDLE or coroutine.status(runner) == "dead" then return end
  enlist(runner, {}, MOMENT) -- a method has yielded: it goes on after the others
end

local function loop()
  while here.serving do
    local entry = table.remove(here.ready, 1)
    local act = not entry and table.remove(here.later, 1)
    if act then
      act[1](act[2], act[3])
    else
      step(entry, entry and entry.runner or table.remove(here.idle) or new_runner())
    end
  end
end

local function weak(mode) return setmetatable({}, { __mode = mode }) end

--- Runs the server in this process until its queue is shut.
-- @param options requests, the queue; calls, name -> function: what the manager itself can
--   be asked for; timeout of all calls, or nil; door, its connections, or nil; prepare, called
--   before the first request, or nil; ends_alone, whether it ends too when nobody refers to
--   the queue any more, and nobody is connected
function server.run(options)
  local requests = options.requests
  here = {
    requests = requests, get = requests.get, put = requests.put, calls = options.calls, timeout = options.timeout,
    door = options.door, ends_alone = options.ends_alone, word = core.word(), number = 0, serving = true, clients = {},
    records = weak "v", pinned = {}, of = weak "k", of_object = weak "k", idle = {}, ready = {}, later = {},
    next_lives = 0,
    unsent = {}, runners = weak "k", timed = {}, nearest = math.huge, next_look = monotonic() + SLICE,
  }
  if options.prepare then options.prepare() end
  local before = here
  local ok, err = pcall(loop)
  here = nil
  requests:shutdown()
  if before.door then before.door:close() end
  if not ok then error(err, 0) end
end

--- Ends the server, after this operation.
function server.stop() here.serving = false end

--- Whether a queue of requests is that of the server in this very process.
function server.is_here(requests) return here ~= nil and here.requests == requests end

--- Calls an object of this very server from within it.
server.perform = perform

return server
