-- The manual: what its pages claim is run, every public name is in the doc comments, and the pages
-- that `make doc` writes hold together.
local T = require "spec.helper"
local lfs = require "lfs"
local mp = require "mp"

local ROOM = "lua/manual/"
local WIDTH = 86 -- columns of code that a page shows
local SECONDS = 60 -- for a page: builds with sanitizers are slow

local config = {}
assert(loadfile(ROOM .. "config.ld", "t", config))()

-- The guide ------------------------------------------------------------------------

local pages = {}
for name in lfs.dir(ROOM) do
  if name:find "%.md$" then pages[#pages + 1] = name end
end
table.sort(pages)

local known = { lua = true, c = true, python = true, sh = true }

local function in_directory(f)
  local dir = T.tmpname()
  assert(lfs.mkdir(dir))
  local ok, err = pcall(f, dir)
  os.execute("rm -rf " .. T.quote(dir))
  if not ok then error(err, 0) end
end

local function run_lua(code, dir)
  return T.mplua(code, nil, { dir = dir })
end

-- A whole program, compiled as the page says and linked with what was built.
local function run_c(code, dir)
  local file <close> = assert(io.open(dir .. "/host.c", "w"))
  file:write(code)
  file:close()
  local libdir = "/usr/lib/" .. T.shell("gcc -print-multiarch"):gsub("%s+$", "")
  local said, status = T.shell(("cd %s && gcc -Wall -Wextra -Werror -I%s -I/usr/include/lua5.4 -o host host.c "
    .. "%s/libmplua.a %s/liblua5.4.a -ldl -lm -lpthread"):format(T.quote(dir), T.quote(lfs.currentdir() .. "/runtime"),
    T.quote(T.build), libdir))
  if status ~= 0 then return { out = "", err = said, code = status } end
  local out, code_ = T.shell("cd " .. T.quote(dir) .. " && ./host")
  return { out = out, err = "", code = code_ }
end

describe("the guide", function()
  for _, page in ipairs(pages) do
    it(page .. " is true: its Lua prints what it says", function()
      T.limit(SECONDS)
      in_directory(function(dir)
        local n = 0
        for lang, code, line in T.blocks(T.read(ROOM .. page)) do
          local where = ("%s, line %d"):format(page, line)
          assert.is_true(known[lang], where .. ": a block of '" .. lang .. "'")
          for text in code:gmatch "[^\n]+" do
            assert.is_true(utf8.len(text) <= WIDTH, where .. ": too wide for the page: " .. text)
          end
          if lang == "lua" then
            local result = run_lua(code, dir)
            result.where = where
            assert.are.same({ out = T.said(code), err = "", code = 0, where = where }, result)
          end
          n = n + 1
        end
        assert.is_true(n > 0)
      end)
    end)
  end

  it("has programs in C that compile without a warning and print what they say", function()
    if T.sanitized then pending("not with sanitizers") end
    T.limit(SECONDS)
    local n = 0
    in_directory(function(dir)
      for _, page in ipairs(pages) do
        for lang, code in T.blocks(T.read(ROOM .. page)) do
          if lang == "c" and code:find "int main%(" then
            assert.are.same({ out = T.said(code), err = "", code = 0 }, run_c(code, dir))
            n = n + 1
          end
        end
      end
    end)
    assert.is_true(n >= 3)
  end)

  it("has programs in Python that run", function()
    if select(2, T.shell("python3 -c 'import multiprocessing'")) ~= 0 then pending("no python3 here") end
    T.limit(SECONDS)
    for lang, code in T.blocks(T.read(ROOM .. "porting.md")) do
      if lang == "python" and not code:find "6000" then -- that one has a partner
        local path = T.tmpname()
        local file <close> = assert(io.open(path, "w"))
        file:write(code)
        file:close()
        local out, status = T.shell("python3 " .. path)
        os.remove(path)
        assert.are.equal(0, status, out)
      end
    end
  end)
end)

-- The doc comments -------------------------------------------------------------------

-- The doc comments of a file, as LDoc sees them.
local function comments_of(path)
  local text, list = T.read(path), {}
  if path:find "%.lua$" then
    local comment
    for line in text:gmatch "([^\n]*)\n" do
      local first, rest = line:match "^%s*%-%-%-(.*)$", line:match "^%s*%-%-(.*)$"
      if comment and rest and not first then
        comment[#comment + 1] = rest
      else
        if comment then list[#list + 1] = table.concat(comment, "\n") end
        comment = first and { first }
      end
    end
  else
    for comment in text:gmatch "/%*%*%*(.-)%*/" do list[#list + 1] = comment:gsub("\n %*", "\n") end
  end
  return list
end

-- name -> its comment: "mp.Queue", "Queue:put", "Barrier.parties".
local documented = {}
for _, file in ipairs(config.file) do
  local class
  for _, comment in ipairs(comments_of(ROOM .. file)) do
    class = comment:match "@type (%w+)" or class
    local name = comment:match "@function ([%w_.:]+)"
    local field = comment:match "@tfield %S+ ([%w_.]+)" or comment:match "@field ([%w_.]+)"
    if field and not field:find "^mp%." then field = class .. "." .. field end
    name = name or field
    if name then
      assert(not documented[name], name .. " is described twice")
      documented[name] = comment
    end
  end
end

-- The upvalue of a function that has a name, or in C, the first.
local function upvalue(f, wanted)
  for i = 1, 255 do
    local name, value = debug.getupvalue(f, i)
    if not name then return nil end
    if name == wanted or (name == "" and not wanted) then return value end
  end
end

-- The methods that a metatable gives: of a table, or of a function that looks in one.
local function methods_of(meta, name)
  local index = rawget(meta, "__index")
  if type(index) == "table" then return index end
  local methods = upvalue(index, name)
  assert(type(methods) == "table", "no methods found: " .. tostring(name))
  return methods
end

-- What there is: name -> true, by looking at live objects.
local function everything()
  local found = {}
  local function add(class, methods)
    for name, value in pairs(methods) do
      if type(name) == "string" and not name:find "^_" and type(value) == "function" then
        found[class .. ":" .. name] = true
      end
    end
  end
  for name in pairs(mp) do found["mp." .. name] = true end
  found["mp.marshal"] = nil
  for name in pairs(mp.marshal) do found["mp.marshal." .. name] = true end
  found["mp.Manager"], found["mp.dict"] = true, nil
  for name in pairs(mp.dict) do found["mp.dict." .. name] = true end

  local connection, other = mp.Pipe()
  other:close()
  local _ <close> = connection
  local semaphore <close> = mp.Semaphore()
  local guard <close> = semaphore:guard()
  local record <close> = mp.Struct { { "x", "d" } }
  for class, object in pairs {
    Queue = mp.Queue(), PriorityQueue = mp.PriorityQueue(), Lock = mp.Lock(), RLock = mp.RLock(),
    Semaphore = semaphore, BoundedSemaphore = mp.BoundedSemaphore(), Condition = mp.Condition(),
    Event = mp.Event(), Barrier = mp.Barrier(2), Value = mp.Value("i"), Array = mp.Array("i", 1),
    Record = record, Connection = connection, Guard = guard,
  } do
    add(class, methods_of(debug.getmetatable(object)))
  end
  found["Record:array"], found["RecordType:array"], found["RecordType:__call"] = nil, true, true
  -- (What a PriorityQueue has in common with a Queue is described there.)
  for name in pairs(found) do
    local method = name:match "^PriorityQueue:(.*)$"
    if method and not method:find "^put" then
      assert(found["Queue:" .. method])
      found[name] = nil
    end
  end

  local pool <close> = mp.Pool(0)
  add("Pool", methods_of(getmetatable(pool)))
  add("AsyncResult", methods_of(getmetatable(pool:apply_async(print, {}, { timeout = 0 }))))
  add("Range", methods_of(getmetatable(mp.file_ranges("README.md", 1)[1])))
  add("Logger", methods_of(getmetatable(mp.get_logger()), "methods"))
  local listener <close> = mp.Listener()
  add("Listener", methods_of(getmetatable(listener), "Listener"))

  add("Process", mp.Process)
  for field in pairs(upvalue(getmetatable(mp.current_process()).__index, "getters")) do
    found["Process." .. field] = true
  end
  local manager <close> = mp.Manager()
  add("Manager", getmetatable(mp.Manager).__index)
  for name in pairs(upvalue(getmetatable(manager).__index, "builtin")) do found["Manager:" .. name] = true end
  local proxies = require "mp.proxies"
  add("ListProxy", upvalue(proxies.ListProxy.__index, "list_methods"))
  add("SetProxy", upvalue(proxies.SetProxy.__index, "set_methods"))
  return found
end

-- The fields that C computes, and those of plain tables.
local FIELDS = [[
  Value.value Connection.closed Connection.readable Connection.writable Connection.format
  Barrier.parties Barrier.n_waiting Barrier.broken Pool.processes Manager.address Listener.address
  Listener.last_accepted Logger.handler RemoteError.message RemoteError.traceback RemoteError.process
  RemoteError.pid Range.path Range.offset Range.size]]

-- The proxies whose methods are those of a local class.
local twins = {
  LockProxy = "RLock", SemaphoreProxy = "Semaphore", ConditionProxy = "Condition", EventProxy = "Event",
  BarrierProxy = "Barrier", QueueProxy = "Queue", ValueProxy = "Value", ArrayProxy = "Array",
  PoolProxy = "Pool", AsyncResultProxy = "AsyncResult",
}
local proxy_methods = { BarrierProxy = "barrier", ValueProxy = "value", ArrayProxy = "array", PoolProxy = "pool" }

describe("the doc comments", function()
  it("describe every public name", function()
    local missing = {}
    for name in pairs(everything()) do
      if not documented[name] then missing[#missing + 1] = name end
    end
    for name in FIELDS:gmatch "%S+" do
      if not documented[name] then missing[#missing + 1] = name end
    end
    table.sort(missing)
    assert.are.same({}, missing)
  end)

  it("describe nothing that is not there", function()
    local found, wrong = everything(), {}
    for name in FIELDS:gmatch "%S+" do found[name] = true end
    for name in pairs(documented) do
      if not found[name] then wrong[#wrong + 1] = name end
    end
    table.sort(wrong)
    assert.are.same({}, wrong)
  end)

  it("describe what proxies have under the name of the local twin", function()
    local proxies = require "mp.proxies"
    local missing = {}
    for class, twin in pairs(twins) do
      for name in pairs(methods_of(proxies[class], proxy_methods[class])) do
        if not documented[twin .. ":" .. name] then missing[#missing + 1] = class .. ":" .. name end
      end
    end
    assert.are.same({}, missing)
  end)

  -- An unknown option is an error that lists the known ones.
  it("describe every option", function()
    local pool <close> = mp.Pool(0)
    local calls = {
      ["mp.Process"] = function() mp.Process { nonsense = 1 } end,
      ["mp.Pool"] = function() mp.Pool { nonsense = 1 } end,
      ["mp.Manager"] = function() mp.Manager { nonsense = 1 } end,
      ["mp.Listener"] = function() mp.Listener(nil, { nonsense = 1 }) end,
      ["mp.Client"] = function() mp.Client("/none", { nonsense = 1 }) end,
      ["mp.Value"] = function() mp.Value("i", 0, { nonsense = 1 }) end,
      ["mp.Array"] = function() mp.Array("i", 0, { nonsense = 1 }) end,
      ["mp.Struct"] = function() mp.Struct({ { "x", "i" } }, { nonsense = 1 }) end,
      ["mp.marshal.decode"] = function() mp.marshal.decode("", { nonsense = 1 }) end,
      ["mp.file_ranges"] = function() mp.file_ranges("README.md", { nonsense = 1 }) end,
      ["Pool:apply"] = function() pool:apply(print, {}, { nonsense = 1 }) end,
      ["Pool:apply_async"] = function() pool:apply_async(print, {}, { nonsense = 1 }) end,
      ["Pool:map"] = function() pool:map(print, {}, { nonsense = 1 }) end,
      ["Pool:map_async"] = function() pool:map_async(print, {}, { nonsense = 1 }) end,
      ["Pool:imap"] = function() pool:imap(print, {}, { nonsense = 1 }) end,
    }
    for name, call in pairs(calls) do
      local ok, err = pcall(call)
      assert.is_false(ok, name)
      local list = err:match "known[^:]*: ([%w_, ]+)" or err:match "it has: ([%w_, ]+)"
      assert.truthy(list, name .. ": " .. err)
      local text = documented[name]
      if name == "Pool:map_async" then text = text .. documented["Pool:map"] end
      for option in list:gmatch "[%w_]+" do
        assert.truthy(text:find("%f[%w_]" .. option .. "%f[^%w_]"), ("%s: option '%s'"):format(name, option))
      end
    end
  end)

  it("have examples that print what they say", function()
    T.limit(SECONDS)
    local n = 0
    for name, comment in pairs(documented) do
      local code = comment:match "@usage(.-)\n%s*@" or comment:match "@usage(.*)$"
      if code then
        code = 'local mp = require "mp"\n' .. (code:gsub("%s+$", "")) .. "\n"
        local result = T.mplua(code)
        result.where = name
        assert.are.same({ out = T.said(code), err = "", code = 0, where = name }, result)
        n = n + 1
      end
    end
    assert.is_true(n > 20)
  end)

  it("name parameters that functions have, and what they return", function()
    for name, comment in pairs(documented) do
      for param in comment:gmatch "@t?param[^\n]*\n?[^@\n]*" do
        assert.truthy(param:find "^@t?param%b[] %S+ %S+" or param:find "^@t?param %S+ %S+", name .. ": " .. param)
      end
      assert.is_nil(comment:find "@return%s*\n" or comment:find "@treturn%s*\n", name)
    end
  end)
end)

-- The pages --------------------------------------------------------------------------

describe("make doc", function()
  local dir = T.tmpname()
  local said, status
  setup(function()
    if not T.shell("command -v ldoc"):find "ldoc" then return end
    assert(lfs.mkdir(dir))
    said, status = T.shell(("cd %s && LUA_PATH=\"$PWD/?.ld;;\" MANUAL=%s ldoc --filter site.write ."):format(ROOM, dir))
  end)
  teardown(function() os.execute("rm -rf " .. dir) end)

  local function page_texts()
    if not status then pending("no ldoc here (.ci/setup doc installs it)") end
    local texts = {}
    for name in lfs.dir(dir) do
      if name:find "%.html$" then texts[name] = T.read(dir .. "/" .. name) end
    end
    return texts
  end

  it("has LDoc find nothing wrong", function()
    page_texts()
    assert.are.equal(0, status)
    assert.are.equal("", said)
  end)

  it("gives every name a place, and no internal one", function()
    local ids = {}
    for _, text in pairs(page_texts()) do
      for id in text:gmatch ' id="([^"]*)"' do ids[id] = true end
      for _, internal in ipairs { "mp%.core", "start_nursery", "at_exit", "mp%.pump", "lmp_" } do
        assert.is_nil(text:find(internal))
      end
    end
    for name in pairs(documented) do assert.truthy(ids[name], name) end
    for name in T.read("runtime/mplua.h"):gmatch "\nMPLUA_API [^;(]-([%w_]+)%(" do assert.truthy(ids[name], name) end
  end)

  it("leaves no link that leads nowhere, no page empty, and needs nothing from elsewhere", function()
    local texts = page_texts()
    for name, text in pairs(texts) do
      local main = text:match "<main>(.-)<footer>"
      assert.is_true(#main > 300, name .. " is empty")
      assert.truthy(main:find "<h1", name)
      for href in text:gmatch 'href="([^"]*)"' do
        if href:find "%.css$" then
          assert.truthy(T.read(dir .. "/" .. href), href)
        else
          local file, id = href:match "^([^#]*)#?(.*)$"
          local other = file == "" and text or texts[file]
          assert.truthy(other, name .. " links to " .. href)
          if id ~= "" then
            assert.truthy(other:find(' id="' .. id .. '"', 1, true), name .. " links to " .. href)
          end
        end
      end
      assert.is_nil(text:find "<script" or text:find " src=" or text:find "@import", name)
    end
  end)
end)
