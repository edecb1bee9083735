--- What a manager serves: the operations of its kinds of objects, as they run in the server.
--
-- An operation gets the object and the arguments. Those that wait have their time-out in
-- front of the others, and park (server.lua). Here: the containers.

local server = require "mp.server"

local misuse = server.misuse

local kinds = {}
server.kinds = kinds

-- A value that finds itself again: others arrive as copies, which are equal to nothing.
local function check_key(key, what)
  local kind = type(key)
  if kind == "string" or kind == "boolean" or (kind == "number" and key == key) then return end
  if kind == "userdata" and require "mp.core".null == key then return end
  misuse("%s cannot be %s", what, kind == "number" and "NaN" or kind == "nil" and "nil" or "a " .. kind)
end

-- Dictionaries --------------------------------------------------------------------------------

-- items: key -> value; n: how many; order: key -> when it came, counted by `last`.
local function new_dict()
  return { items = {}, order = {}, n = 0, last = 0 }
end

local dict = {}
kinds.dict, kinds.namespace = dict, dict

function dict.set(d, key, value)
  local items = d.items
  local old = items[key]
  if old == nil then
    check_key(key, "a key of a manager's dict")
    if value == nil then return end
    d.n, d.last = d.n + 1, d.last + 1
    d.order[key] = d.last
  elseif value == nil then
    d.n = d.n - 1
    d.order[key] = nil
  end
  items[key] = value
end

function dict.get(d, key, default)
  local value = d.items[key]
  if value == nil then return default end
  return value
end

function dict.len(d) return d.n end
function dict.copy(d) return d.items end
function dict.contains(d, key) return d.items[key] ~= nil end
function dict.clear(d) d.items, d.order, d.n = {}, {}, 0 end

--- In the order in which they came.
function dict.keys(d)
  local list, order = {}, d.order
  for key in pairs(d.items) do list[#list + 1] = key end
  table.sort(list, function(a, b) return order[a] < order[b] end)
  return list
end

function dict.values(d)
  local list = dict.keys(d)
  for i = 1, #list do list[i] = d.items[list[i]] end
  return list
end

--- Both, for pairs.
function dict.both(d) return dict.keys(d), dict.values(d) end

function dict.pop(d, key, default)
  local value = d.items[key]
  if value == nil then return default end
  dict.set(d, key, nil)
  return value
end

function dict.setdefault(d, key, value)
  local old = d.items[key]
  if old ~= nil then return old end
  dict.set(d, key, value)
  return value
end

--- All of them or, when a key cannot be one, none.
function dict.update(d, other)
  for key in pairs(other) do check_key(key, "a key of a manager's dict") end
  for key, value in pairs(other) do dict.set(d, key, value) end
end

function dict.incr(d, key, by)
  local old = d.items[key]
  if old == nil then old = 0 end
  if by == nil then by = 1 end
  if type(old) ~= "number" then
    misuse("cannot increment a %s value (item '%s')", type(old), tostring(key))
  end
  if type(by) ~= "number" then
    misuse("bad argument #3 to 'incr' (number expected, got %s)", type(by))
  end
  dict.set(d, key, old + by)
  return old + by
end

-- Lists ---------------------------------------------------------------------------------------

local list = {}
kinds.list = list

local function check_index(l, i, fname, last)
  if math.type(i) == "integer" and i >= 1 and i <= last then return end
  if type(i) == "number" then misuse("index %s is out of range in '%s' of a list of %d", i, fname, #l) end
  misuse("bad index in '%s' of a list (integer expected, got %s)", fname, type(i))
end

local function check_item(value)
  if value == nil then misuse("an item of a list cannot be nil (mp.null can)") end
end

function list.get(l, i) return l[i] end
function list.len(l) return #l end
function list.copy(l) return l end

function list.set(l, i, value)
  check_index(l, i, "set", #l + 1)
  if value == nil and i < #l then
    misuse("an item in the middle of a list cannot be nil; use remove or pop")
  end
  l[i] = value
end

function list.append(l, value)
  check_item(value)
  l[#l + 1] = value
end

function list.insert(l, i, ...)
  if select("#", ...) == 0 then return list.append(l, i) end
  check_index(l, i, "insert", #l + 1)
  check_item(...)
  table.insert(l, i, (...))
end

function list.pop(l, i)
  if #l == 0 then misuse("pop from an empty list") end
  if i == nil then i = #l end
  check_index(l, i, "pop", #l)
  return table.remove(l, i)
end

function list.index(l, value)
  for i = 1, #l do
    if l[i] == value then return i end
  end
  return nil
end

function list.remove(l, value)
  local i = list.index(l, value)
  if i then table.remove(l, i) end
  return i ~= nil
end

--- All of them or, when something is no list, none.
function list.extend(l, other)
  if type(other) ~= "table" then misuse("bad argument #1 to 'extend' (table expected, got %s)", type(other)) end
  local n = #other -- it may be this very list
  for i = 1, n do l[#l + 1] = other[i] end
end

function list.clear(l)
  for i = #l, 1, -1 do l[i] = nil end
end

function list.reverse(l)
  local n = #l
  for i = 1, n // 2 do l[i], l[n + 1 - i] = l[n + 1 - i], l[i] end
end

--- On a copy: an error in the middle leaves the list as it was.
function list.sort(l, less)
  local sorted = table.move(l, 1, #l, 1, {})
  table.sort(sorted, less)
  table.move(sorted, 1, #sorted, 1, l)
end

function list.count(l, value)
  local n = 0
  for i = 1, #l do
    if l[i] == value then n = n + 1 end
  end
  return n
end

-- Sets ----------------------------------------------------------------------------------------

local set = {}
kinds.set = set

set.len, set.contains, set.clear, set.values = dict.len, dict.contains, dict.clear, dict.keys
set.copy = dict.copy

function set.add(s, value)
  check_key(value, "a member of a manager's set")
  if s.items[value] == nil then dict.set(s, value, true) end
end

--- Whether it was there.
function set.remove(s, value)
  if value == nil or s.items[value] == nil then return false end
  dict.set(s, value, nil)
  return true
end

function set.pop(s)
  local value = next(s.items)
  if value == nil then misuse("pop from an empty set") end
  dict.set(s, value, nil)
  return value
end

-- The members of a list, a set or a table {[member] = true}.
local function members(t)
  if t == nil then return {} end
  if type(t) ~= "table" then misuse("a set is made of a list or of a table {[member] = true}") end
  local keys, values = {}, {}
  local all_true = true
  for key, value in pairs(t) do
    keys[#keys + 1], values[#values + 1] = key, value
    all_true = all_true and value == true
  end
  return all_true and keys or values
end

function set.update(s, other)
  local more = members(other)
  for _, value in ipairs(more) do check_key(value, "a member of a manager's set") end
  for _, value in ipairs(more) do set.add(s, value) end
end

-- Makers --------------------------------------------------------------------------------------

local makers = {}

local function check_table(name, t)
  if t ~= nil and type(t) ~= "table" then
    misuse("bad argument #1 to '%s' (table expected, got %s)", name, type(t))
  end
  return t or {}
end

local function dict_maker(name, kind)
  return function(t)
    local d = new_dict()
    dict.update(d, check_table(name, t))
    return kind, d
  end
end

makers.dict, makers.Namespace = dict_maker("dict", "dict"), dict_maker("Namespace", "namespace")

function makers.list(t)
  local l = {}
  list.extend(l, check_table("list", t))
  return "list", l
end

function makers.set(t)
  local s = new_dict()
  set.update(s, t)
  return "set", s
end

-- Own types -----------------------------------------------------------------------------------

kinds.own = {
  ["*"] = function(object, name, record, ...)
    local method = type(name) == "string" and name:sub(1, 1) ~= "_" and object[name]
    local meta = getmetatable(method)
    if type(method) ~= "function" and not (type(meta) == "table" and meta.__call) then
      misuse("a manager's %s has no method '%s'", record.type, tostring(name))
    end
    return method(object, ...)
  end,
}

return { kinds = kinds, makers = makers }
