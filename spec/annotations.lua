--- Reads the annotations in lua/meta: what the language server will know.
--
-- The grammar is the language server's, as far as it is used, and stricter where that forgives:
-- what cannot be read, belongs to nothing or has no meaning is an error with its place.

local lfs = require "lfs"

local annotations = {}

local builtin = {}
for name in ([[nil any boolean string number integer function table thread userdata lightuserdata
  true false file*]]):gmatch("%S+") do
  builtin[name] = true
end

local function fail(where, message, ...) error(("%s: " .. message):format(where, ...), 0) end

-- Tokens ----------------------------------------------------------------------------

-- A name may have dots, stars and dashes in it.
local patterns = {
  { "integer", "^%-?%d+%f[^%w._]" }, { "name", "^[%w_\x80-\xff][%w_.*%-\x80-\xff]*" },
  { "string", '^"[^"]*"' }, { "string", "^'[^']*'" }, { "code", "^`[^`]*`" },
  { "symbol", "^%.%.%." }, { "symbol", "^%[%]" }, { "symbol", "^[:|,;<>()?+#{}%[%]%-]" },
}

local function next_token(text, at)
  at = text:find("%S", at)
  for _, pattern in ipairs(at and patterns or {}) do
    local from, to = text:find(pattern[2], at)
    if from then return pattern[1], text:sub(from, to), to + 1 end
  end
end

-- A reader of one tag: `kind` and `token` are what comes next, nil at the end or at what is no token.
local Reader = {}
Reader.__index = Reader

function Reader:advance()
  local token = self.token
  self.kind, self.token, self.at = next_token(self.text, self.at or 1)
  self.at = self.at or #self.text + 1
  return token
end

local function reader(text, where, used)
  local self = setmetatable({ text = text, at = 1, where = where, used = used, literals = {} }, Reader)
  self:advance()
  return self
end

function Reader:accept(token)
  if self.kind ~= "string" and self.token == token then return self:advance() end
end

function Reader:expect(token)
  return self:accept(token) or fail(self.where, "'%s' expected near '%s'", token, self.token or "the end")
end

function Reader:name()
  if self.kind ~= "name" then fail(self.where, "name expected near '%s'", self.token or "the end") end
  return self:advance()
end

-- Types -------------------------------------------------------------------------------

local function read_function(r)
  r:expect "("
  while not r:accept ")" do
    if not r:accept "..." then r:name() end
    r:accept "?"
    if r:accept ":" then r:type() end
    if not r:accept "," then
      r:expect ")"
      break
    end
  end
  if r:accept ":" then
    repeat r:type() until not r:accept ","
  end
end

local function read_table(r)
  while not r:accept "}" do
    if r:accept "[" then
      if r.kind == "integer" then r:advance() else r:type() end
      r:expect "]"
    else
      r:name()
    end
    r:accept "?"
    r:expect ":"
    r:type()
    if not r:accept "," then
      r:expect "}"
      break
    end
  end
end

local function read_unit(r)
  if r.kind == "string" then
    r.literals[#r.literals + 1] = r.token:sub(2, -2)
    r:advance()
  elseif r.kind == "integer" then
    r:advance()
  elseif r:accept "(" then
    r:type()
    r:expect ")"
  elseif r:accept "{" then
    read_table(r)
  elseif r:accept "fun" then
    read_function(r)
  else
    local name = r:name()
    r.used[#r.used + 1] = { name = name, where = r.where }
    if r:accept "<" then
      repeat r:type() until not r:accept ","
      r:expect ">"
    end
  end
  while r:accept "[]" do end
end

function Reader:type()
  repeat read_unit(self) until not self:accept "|"
  self:accept "?"
end

-- Tags ----------------------------------------------------------------------------------

local function new_class(model, name, where)
  local class = model.classes[name]
    or { name = name, parents = {}, fields = {}, methods = {}, overloads = 0, where = where }
  model.classes[name] = class
  return class
end

local function add_member(class, kind, name, value, where)
  if class.fields[name] or class.methods[name] then
    fail(where, "%s has '%s' already", class.name, name)
  end
  class[kind][name] = value
end

-- What a tag does to the block that it is in.
local tags = {}

function tags.class(r, block, model)
  if block.class then fail(r.where, "a second class in one block") end
  block.class = new_class(model, r:name(), r.where)
  if not r:accept ":" then return end
  repeat
    local parent = r:name()
    table.insert(block.class.parents, parent)
    r.used[#r.used + 1] = { name = parent, where = r.where }
  until not r:accept ","
end

local function class_of(r, block)
  return block.class or fail(r.where, "this belongs to no class")
end

function tags.field(r, block)
  local class = class_of(r, block)
  if r:accept "[" then
    r:type()
    r:expect "]"
    r:type()
    class.index = true
    return
  end
  local name = r:name()
  local optional = r:accept "?" ~= nil
  r:type()
  add_member(class, "fields", name, { optional = optional, where = r.where }, r.where)
end

function tags.operator(r, block)
  class_of(r, block)
  r:name()
  if r:accept "(" then
    r:type()
    r:expect ")"
  end
  r:expect ":"
  r:type()
end

function tags.overload(r, block)
  if r.token ~= "fun" then fail(r.where, "fun(…) expected") end
  r:type()
  block.overloads = (block.overloads or 0) + 1
  if block.class then block.class.overloads = block.class.overloads + 1 end
end

function tags.alias(r, block, model)
  local name = r:name()
  if model.aliases[name] then fail(r.where, "a second alias '%s'", name) end
  block.alias = { where = r.where, literals = r.literals, used = r.used }
  if r.token then r:type() end
  model.aliases[name] = block.alias
end

function tags.generic(r, block)
  repeat
    block.generics[r:name()] = true
    if r:accept ":" then r:type() end
  until not r:accept ","
end

function tags.param(r, block)
  local name = r:accept "..." or r:name()
  local optional = r:accept "?" ~= nil
  r:type()
  block.params[#block.params + 1] = { name = name, optional = optional }
end

tags["return"] = function(r, block)
  repeat
    r:type()
    if not r:accept "..." and r.kind == "name" then r:name() end
  until not r:accept ","
  block.returns = block.returns or {}
  table.insert(block.returns, r.literals)
end

function tags.nodiscard() end

local function read_tag(line, where, block, model)
  local tag, text = line:match("^%-%-%-@([%w_]+)%s*(.*)$")
  if not tag or not tags[tag] then fail(where, "unknown tag '%s'", line) end
  tags[tag](reader(text, where, block.used), block, model)
end

-- Blocks ----------------------------------------------------------------------------------

local function new_block() return { used = {}, generics = {}, params = {}, text = {} } end

-- Notes the types that a block uses; its generics are its own.
local function end_block(block, model, where)
  for _, use in ipairs(block.used) do
    if not block.generics[use.name] then model.used[#model.used + 1] = use end
  end
  if block.params[1] or block.returns or next(block.generics) or (block.overloads and not block.class) then
    if not block.is_function then fail(where, "annotations that belong to no function") end
  end
end

local function check_params(block, list, where)
  local names = {}
  for name in list:gmatch("[^%s,]+") do names[#names + 1] = name end
  local optional = false
  for i = 1, math.max(#names, #block.params) do
    local param = block.params[i]
    if not param or param.name ~= names[i] then
      fail(where, "parameter %d is '%s', annotated as '%s'", i, names[i] or "none", param and param.name or "none")
    end
    if optional and not param.optional and param.name ~= "..." then
      fail(where, "parameter '%s' comes after an optional one", param.name)
    end
    optional = param.optional
    if param.name == "timeout" and (not optional or i < #names) then
      fail(where, "a time-out is optional, and the last parameter")
    end
  end
  return names
end

local function read_function_line(line, where, block, locals)
  local owner, sep, name, list = line:match("^function ([%w_]+)([.:])([%w_]+)%((.-)%) end$")
  if not owner then return false end
  local class = locals[owner] or fail(where, "'%s' is no class", owner)
  if block.class then fail(where, "a class is a table, not a function") end
  if #block.text == 0 then fail(where, "'%s' has no text", name) end
  block.is_function = true
  add_member(class, "methods", name, {
    params = check_params(block, list, where), colon = sep == ":", returns = block.returns, where = where,
  }, where)
  return true
end

local function read_statement(line, where, block, locals)
  local name = line:match("^local ([%w_]+) = {}$")
  if name then
    locals[name] = block.class or fail(where, "'%s' has no class", name)
  elseif not line:find("^return [%w_]+$") and not read_function_line(line, where, block, locals) then
    fail(where, "not understood: %s", line)
  end
end

local function read_line(line, where, block, model)
  if line:find("^%-%-%-@") then
    read_tag(line, where, block, model)
  elseif line:find("^%-%-%-|") then
    local alias = block.alias or fail(where, "this continues no alias")
    local r = reader(line:sub(5), where, alias.used)
    r.literals = alias.literals
    r:type()
  elseif line:find("^%-%-%-") then
    table.insert(block.text, line)
  else
    return false
  end
  return true
end

local function read_file(path, text, model)
  assert(load(text, "@" .. path, "t"))
  if not text:find("^%-%-%-@meta") then fail(path, "does not begin with ---@meta") end
  local block, locals, n = new_block(), {}, 1
  for line in text:gsub("^[^\n]*\n", "", 1):gmatch("([^\n]*)\n") do
    n = n + 1
    local where = path .. ":" .. n
    if not read_line(line, where, block, model) then
      if line ~= "" then read_statement(line, where, block, locals) end
      end_block(block, model, where)
      block = new_block()
    end
  end
  end_block(block, model, path)
end

-- The whole ---------------------------------------------------------------------------------

--- The texts of all annotation files.
-- @return table: path -> text
function annotations.texts(dir)
  dir = dir or "lua/meta"
  local texts = {}
  for name in lfs.dir(dir) do
    local path = dir .. "/" .. name
    if name:find("%.lua$") then
      local file <close> = assert(io.open(path, "rb"))
      texts[path] = file:read("a")
    elseif not name:find("^%.") and lfs.attributes(path, "mode") == "directory" then
      for inner, text in pairs(annotations.texts(path)) do texts[inner] = text end
    end
  end
  return texts
end

--- Reads annotations.
-- @return model: `classes` and `aliases` by their names. A class has `methods` (name -> params, colon,
--   returns), `fields` (name -> optional), `parents`, `index` (any key may be there), `overloads`
-- @raise what is wrong, and where
function annotations.read(texts)
  local model = { classes = {}, aliases = {}, used = {} }
  local paths = {}
  for path in pairs(texts) do paths[#paths + 1] = path end
  table.sort(paths)
  for _, path in ipairs(paths) do read_file(path, texts[path], model) end
  for _, use in ipairs(model.used) do
    if not builtin[use.name] and not model.classes[use.name] and not model.aliases[use.name] then
      fail(use.where, "there is no type '%s'", use.name)
    end
  end
  return model
end

--- All members of a class, with those of its parents.
-- @return methods, fields, index
function annotations.members(model, name)
  local class = model.classes[name]
  local methods, fields, index = {}, {}, class.index
  for _, parent in ipairs(class.parents) do
    local m, f, i = annotations.members(model, parent)
    for key, value in pairs(m) do methods[key] = value end
    for key, value in pairs(f) do fields[key] = value end
    index = index or i
  end
  for key, value in pairs(class.methods) do methods[key] = value end
  for key, value in pairs(class.fields) do fields[key] = value end
  return methods, fields, index
end

return annotations
