--- What a manager serves: queues.

local core = require "mp.core"
local served = require "mp.served"
local server = require "mp.server"

local misuse, park, wake = server.misuse, server.park, server.wake

-- items[first..last]; maxsize, 0 for none; shut; unfinished: items put and not marked done;
-- abandoned: some of them were never marked, because who took them died.
-- getters, putters (with their items), joiners: who waits. taken: client -> items that it
-- has taken and not marked done.
local queue = {}
served.kinds.queue = queue

function queue.qsize(q) return q.last - q.first + 1 end
function queue.empty(q) return q.last < q.first end
function queue.full(q) return q.maxsize > 0 and queue.qsize(q) >= q.maxsize end

local function settle(q, n)
  q.unfinished = q.unfinished - n
  if q.unfinished == 0 then server.wake_all(q.joiners) end
end

local function add(q, item)
  q.last = q.last + 1
  q.items[q.last] = item
  q.unfinished = q.unfinished + 1
end

-- Items go to who waits for them, as long as there are both.
local function hand_out(q)
  while q.first <= q.last and q.getters[1] do
    local item = q.items[q.first]
    q.items[q.first] = nil
    q.first = q.first + 1
    wake(q.getters, { item })
  end
end

-- There is room again: those that wait to put do.
local function let_in(q)
  while q.putters[1] and not queue.full(q) do add(q, wake(q.putters)[1]) end
end

-- An item that was taken, and not read: it is the first again.
local function untake(taken, client)
  local q, items = taken[1], taken[2]
  q.taken[client] = (q.taken[client] or #items) - #items
  for i = #items, 1, -1 do
    q.first = q.first - 1
    q.items[q.first] = items[i]
  end
  hand_out(q)
end

local function note_taken(q, items)
  local client = server.client()
  q.taken[client] = (q.taken[client] or 0) + #items
  client.held[q] = q.give_up
  server.undo(untake, { q, items })
end

--- put(timeout, item)
function queue.put(q, timeout, item)
  if item == nil then misuse("bad argument #1 to 'put' (nil cannot be put; mp.null can)") end
  if q.shut then return nil, "closed" end
  if queue.full(q) then
    local how = park(q.putters, timeout, { item })
    if how == nil then return nil, "full" end
    if how == "closed" then return nil, "closed" end
    hand_out(q)
    return true
  end
  add(q, item)
  hand_out(q)
  return true
end

-- What is there, up to `most`.
local function take(q, most)
  local items = {}
  while #items < most and q.first <= q.last do
    items[#items + 1] = q.items[q.first]
    q.items[q.first] = nil
    q.first = q.first + 1
    let_in(q)
  end
  return items
end

local function get(q, timeout, most)
  local items = take(q, most)
  if #items == 0 then
    if q.shut then return nil, "closed" end
    items = park(q.getters, timeout)
    if items == nil then return nil, "empty" end
    if items == "closed" then return nil, "closed" end
    let_in(q)
  end
  note_taken(q, items)
  return items
end

function queue.get(q, timeout)
  local items, why = get(q, timeout, 1)
  if items then return items[1] end
  return nil, why
end

function queue.get_many(q, timeout, most)
  if math.type(most) ~= "integer" or most < 1 then
    misuse("bad argument #1 to 'get_many' (a number of items, 1 or more, expected)")
  end
  return get(q, timeout, most)
end

function queue.put_many(q, timeout, list)
  if type(list) ~= "table" then misuse("bad argument #1 to 'put_many' (table expected, got %s)", type(list)) end
  local deadline = timeout and core.monotonic() + timeout
  for i = 1, #list do
    local ok, why = queue.put(q, deadline and deadline - core.monotonic(), list[i])
    if not ok then return i - 1, why end
  end
  return #list
end

function queue.shutdown(q)
  q.shut = true
  server.wake_all(q.getters, "closed")
  server.wake_all(q.putters, "closed")
end

function queue.task_done(q)
  if q.unfinished == 0 then misuse("task_done was called more often than items were put") end
  local client = server.client()
  local n = q.taken[client]
  if n and n > 0 then q.taken[client] = n - 1 end
  settle(q, 1)
end

-- Takes back a join whose answer was not read: what it would have told, it tells the next.
local function unjoin(q) q.abandoned = "abandoned" end

function queue.join(q, timeout)
  if q.unfinished > 0 and not park(q.joiners, timeout) then return false end
  local abandoned = q.abandoned
  q.abandoned = nil
  if abandoned then server.undo(unjoin, q) end
  return true, abandoned
end

local function maker(name)
  return function(maxsize)
    if maxsize == nil then maxsize = 0 end
    if math.type(maxsize) ~= "integer" or maxsize < 0 then
      misuse("bad argument #1 to '%s' (maxsize must be 0 (no bound) or a number of items)", name)
    end
    local q = {
      items = {}, first = 1, last = 0, maxsize = maxsize, shut = false, unfinished = 0,
      getters = {}, putters = {}, joiners = {}, taken = {}, abandoned = nil,
    }
    q.give_up = function(client)
      local n = q.taken[client]
      q.taken[client] = nil
      if not n or n == 0 then return end
      q.abandoned = "abandoned"
      settle(q, n)
    end
    return "queue", q
  end
end

served.makers.Queue, served.makers.JoinableQueue = maker("Queue"), maker("JoinableQueue")

return queue
