local T = require "spec.helper"
local W = require "spec.workers"
local mp = require "mp"

local encode, decode = mp.marshal.encode, mp.marshal.decode
local fails = W.fails

-- The two ways a value can go: as a string, and through a queue.
local ways = {
  { name = "as a string", send = function(v) return decode(encode(v), { allow_code = true }) end },
  {
    name = "through a queue",
    send = function(v)
      local q <close> = mp.Queue()
      q:put(v)
      return q:get(5)
    end,
  },
}

local function plain(v) return decode(encode(v)) end

-- Equal in value and subtype; tables by contents, following both at once.
local function same(a, b, seen)
  if math.type(a) ~= math.type(b) or type(a) ~= type(b) then return false end
  if type(a) == "number" then
    return (a ~= a and b ~= b) or (a == b and (a ~= 0 or 1 / a == 1 / b))
  end
  if type(a) ~= "table" then return a == b end
  seen = seen or {}
  if seen[a] then return seen[a] == b end
  seen[a] = b
  for k, v in next, a do
    if not same(v, rawget(b, k), seen) then return false end
  end
  for k in next, b do
    if rawget(a, k) == nil then return false end
  end
  return true
end

-- A module for the time of f, taken out again afterwards.
local function with_module(name, module, f)
  package.loaded[name] = module
  local ok, e = pcall(f)
  package.loaded[name] = nil
  assert(ok, e)
end

for _, way in ipairs(ways) do
  local send = way.send

  describe("a value " .. way.name, function()
    it("keeps its subtype, sign and every byte", function()
      local edges = { 0, 1, 127, 128, 255, 256, 32767, 65535, 65536, 1 << 31, 1 << 32, 1 << 62,
        math.maxinteger, math.mininteger, 0.0, -0.0, 1.0, 0.1, 1 / 0, -1 / 0, 0 / 0, 2 ^ 53,
        true, false, "", "a", "\0", ("x"):rep(63), ("x"):rep(64), ("x"):rep(255), ("x"):rep(256),
        ("\xff\0"):rep(50000) }
      for _, v in ipairs(edges) do
        assert(same(v, send(v)), tostring(v))
        if math.type(v) then assert(same(-v, send(-v)), tostring(-v)) end
        if math.type(v) == "integer" then assert(same(~v, send(~v)), tostring(~v)) end
      end
    end)

    it("may be mp.null", function()
      assert.equal(mp.null, send(mp.null))
      assert.equal(mp.null, send({ mp.null })[1])
    end)

    it("may be a list of integers of any width, a mixed or a float list", function()
      local scales = { 1, -1, 200, -200, 70000, -70000, 1 << 40, -(1 << 40), 1 << 55 }
      for _, scale in ipairs(scales) do
        for _, n in ipairs { 1, 2, 3, 4, 5, 255, 256, 257, 513 } do
          local whole, float, mixed = {}, {}, {}
          for i = 1, n do
            whole[i], float[i] = i * scale, i * scale + 0.5
            mixed[i] = i % 5 == 0 and "s" .. i or i % 7 == 0 and i + 0.0 or i * scale
          end
          assert(same(whole, send(whole)))
          assert(same(float, send(float)))
          assert(same(mixed, send(mixed)))
        end
      end
      local extremes = { math.mininteger, math.maxinteger, 0, -1, 1 }
      assert(same(extremes, send(extremes)))
      local low = {}
      for i = 1, 20 do low[i] = math.mininteger + i end
      assert(same(low, send(low)))
    end)

    it("may be a table with holes, however its array part lies", function()
      assert(same({ 1, nil, 3 }, send { 1, nil, 3 }))
      assert(same({ nil, nil, 3, x = 1 }, send { nil, nil, 3, x = 1 }))
      for n = 1, 70 do
        local backwards, late, grown = {}, { a = 1, b = 2, c = 3 }, { 1, 2, 3, x = 1, y = 2, z = 3 }
        for i = n, 1, -1 do backwards[i] = i * 2 end
        for i = 1, n do late[i] = i end
        for i = 4, n do grown[i] = "s" .. i end
        assert(same(backwards, send(backwards)))
        assert(same(late, send(late)))
        for i = 1, n, 3 do grown[i] = nil end
        assert(same(grown, send(grown)))
      end
    end)

    it("may have keys of all types", function()
      local t = { [1.5] = 1, [-3] = 2, [true] = 3, [false] = 4, [mp.null] = 5, [""] = 6,
        [math.mininteger] = 7, [1 / 0] = 8 }
      assert(same(t, send(t)))
      local got = send { [{ "key" }] = { "value" } }
      local k, v = next(got)
      assert.same({ { "key" }, { "value" } }, { k, v })
      assert.is_nil(next(got, k))
    end)

    it("may have many records", function()
      for _, n in ipairs { 1, 190, 191, 192, 193, 255, 256, 1000, 5000 } do
        local t = {}
        for i = 1, n do t["k" .. i] = i end
        assert(same(t, send(t)))
        t[1], t[2], t[3] = "a", "b", "c"
        assert(same(t, send(t)))
      end
    end)

    it("may repeat its strings", function()
      local t = {}
      for i = 1, 2000 do t[i] = { name = "n" .. i % 300, kind = ("kind"):rep(i % 40), [""] = "" } end
      assert(same(t, send(t)))
    end)

    it("keeps shared references and cycles", function()
      local shared = { 1 }
      local t = { shared, { shared }, again = shared, empty = {} }
      t.self, t[t] = t, t
      t.empties = { t.empty, t.empty }
      local got = send(t)
      assert.equal(got[1], got[2][1])
      assert.equal(got[1], got.again)
      assert.equal(got, got.self)
      assert.equal(got, got[got])
      assert.equal(got.empty, got.empties[1])
      assert.equal(got.empty, got.empties[2])
    end)

    it("may be nested a million levels deep", function()
      T.limit(60)
      for _, depth in ipairs { 99, 100, 101, 199, 200, 201, 299, 300, 301, 1000, 1000000 } do
        local t = "bottom"
        for i = 1, depth do t = i % 2 == 0 and { t } or { d = t } end
        t = send(t)
        for i = depth, 1, -1 do
          if i % 2 == 0 then t = t[1] else t = t.d end
        end
        assert.equal("bottom", t)
      end
    end)

    it("may go up and down around any depth", function()
      for depth = 190, 410, 11 do
        local t = {}
        local top = t
        for i = 1, depth do
          t[1], t.next, t[2] = { i }, {}, { { { i } } }
          t = t.next
        end
        for i = 1, 30 do t[i] = { { { { i } } }, x = { i } } end
        assert(same(top, send(top)))
      end
    end)

    it("may be made of pseudo-random tables", function()
      local state = 42
      local function random(n)
        state = (state * 6364136223846793005 + 1442695040888963407)
        return (state >> 33) % n + 1
      end
      local function make(depth)
        local kind = random(9)
        if kind == 1 then return state end
        if kind == 2 then return state / 7 end
        if kind == 3 then return "s" .. random(20) end
        if kind == 4 then return random(2) == 1 end
        if depth == 0 then return random(300) - 150 end
        local t = {}
        for _ = 1, random(12) do
          local how = random(4)
          if how < 3 then t[#t + 1] = make(depth - 1)
          elseif how == 3 then t["f" .. random(20)] = make(depth - 1)
          else t[random(30)] = make(depth - 1) end
          if random(12) == 1 then t[random(30)] = nil end
        end
        return t
      end
      for _ = 1, 1000 do
        local t = make(4)
        assert(same(t, send(t)))
      end
    end)
  end)

  describe("a function " .. way.name, function()
    it("brings its upvalues", function()
      local a, b, c = 1, { 2 }, "three"
      assert.same({ 1, { 2 }, "three" }, send(function() return { a, b, c } end)())
    end)

    it("shares variables with the other functions of its message, not with the sender's", function()
      local n = 1
      local function inc() n = n + 1 return n end
      local function get() return n end
      local got = send { inc = inc, get = get }
      assert.equal(2, got.inc())
      assert.equal(2, got.get())
      assert.equal(1, n)
    end)

    it("may be recursive", function()
      local function fact(n) return n <= 1 and 1 or n * fact(n - 1) end
      assert.equal(120, send(fact)(5))
      local odd
      local function even(n) return n == 0 or odd(n - 1) end
      function odd(n) return n > 0 and even(n - 1) end
      assert.is_true(send(even)(10))
    end)

    it("arrives once when it was sent twice", function()
      local function f() return 1 end
      local got = send { f, f, { f } }
      assert.equal(got[1], got[2])
      assert.equal(got[1], got[3][1])
    end)

    it("finds the receiver's globals", function()
      assert.equal(_G, send(function() return _ENV end)())
      assert.equal(_G, send(_G))
      local function f() return print, string.format end
      local p, s = send(f)()
      assert.equal(print, p)
      assert.equal(string.format, s)
    end)

    it("brings an environment of its own, unless that stands for the globals", function()
      local env = { x = 1 }
      local f = assert(load("return function() return x end", "=f", "t", env))()
      assert.equal(1, send(f)())
      local own = assert(load("return _ENV", "=own", "t", setmetatable({ x = 1 }, { __index = _G })))
      assert.equal(1, rawget(send(own)(), "x"))
      assert.equal(print, send(own)().print)
      local asks = setmetatable({}, { __index = function(_, k) return _G[k] end })
      assert.equal(_G, send(assert(load("return _ENV", "=asks", "t", asks)))())
    end)

    it("keeps its line numbers", function()
      local line = debug.getinfo(1, "l").currentline + 1
      local f = send(function() error("here") end)
      local _, e = pcall(f)
      assert(e:find(":" .. line .. ": here", 1, true), e)
    end)

    it("may be deep in its upvalues", function()
      local f = function() return "bottom" end
      for _ = 1, 500 do
        local inner = f
        f = function() return (inner()) end
      end
      assert.equal("bottom", send(f)())
    end)

    it("goes by name when a module has it", function()
      assert.equal(print, send(print))
      assert.equal(string.format, send { string.format }[1])
      assert.equal(string, send(string))
      local function f() return 1 end
      with_module("spec.marshal.named", { f = f, late = function() end }, function()
        assert.equal(f, send(f))
        assert.equal(package.loaded["spec.marshal.named"], send { package.loaded["spec.marshal.named"] }[1])
      end)
    end)

    it("goes by value when its module has another one by now", function()
      local function f() return "old" end
      with_module("spec.marshal.changed", { f = f }, function()
        assert.equal(f, send(f))
        package.loaded["spec.marshal.changed"].f = function() return "new" end
        assert.equal("old", send(f)())
      end)
    end)
  end)

  describe("a metatable " .. way.name, function()
    it("travels by value, one copy a message", function()
      local C = {}
      C.__index = C
      function C:get() return self.x end
      local got = send { setmetatable({ x = 1 }, C), setmetatable({ x = 2 }, C) }
      assert.equal(1, got[1]:get())
      assert.equal(2, got[2]:get())
      assert.equal(getmetatable(got[1]), getmetatable(got[2]))
      assert.not_equal(C, getmetatable(got[1]))
    end)

    it("goes by name when it is a module's class", function()
      local Point, Meta = { __index = {} }, {}
      with_module("spec.marshal.shapes", { Point = Point, Meta = Meta, data = { 1 } }, function()
        assert.equal(Point, getmetatable(send(setmetatable({}, Point))))
        assert.equal(Meta, getmetatable(send(setmetatable({}, Meta))))
        assert.equal(Point, send(Point))
        assert.not_equal(package.loaded["spec.marshal.shapes"].data,
          send(package.loaded["spec.marshal.shapes"].data))
      end)
      with_module("spec.marshal.class", Point, function()
        assert.equal(Point, getmetatable(send(setmetatable({}, Point))))
      end)
    end)

    it("goes by name when it is registered", function()
      local Class = { __index = {} }
      mp.marshal.register("spec.Class " .. way.name, Class)
      local got = send { setmetatable({ 1 }, Class), setmetatable({ 2 }, Class) }
      assert.equal(Class, getmetatable(got[1]))
      assert.equal(Class, getmetatable(got[2]))
    end)

    it("has its finalizer run", function()
      local runs = 0
      local Class = { __gc = function() runs = runs + 1 end }
      mp.marshal.register("spec.Closing " .. way.name, Class)
      assert.equal(Class, getmetatable(send(setmetatable({}, Class))))
      collectgarbage()
      collectgarbage()
      assert.equal(2, runs)
    end)

    it("may be its own object, or part of a cycle", function()
      local t = {}
      setmetatable(t, t)
      local got = send(t)
      assert.equal(got, getmetatable(got))
      local C = {}
      C.proto = setmetatable({}, C)
      got = send(C)
      assert.equal(got, getmetatable(got.proto))
    end)

    it("has its finalizer run in a cycle too", function()
      local runs = mp.Value("i", 0)
      local C = {}
      C.proto = setmetatable({}, C)
      for i = 1, 30 do C["field" .. i] = i end
      C.__gc = function() runs:add(1) end
      local got = send { C }
      setmetatable(C.proto, nil)
      assert.equal(got[1], getmetatable(got[1].proto))
      got[1].proto = nil
      collectgarbage()
      assert.equal(1, runs.value)
    end)
  end)

  describe("an mp object " .. way.name, function()
    it("arrives as the same object", function()
      local all = { mp.Queue(), mp.LifoQueue(), mp.PriorityQueue(), mp.Lock(), mp.RLock(),
        mp.Semaphore(2), mp.BoundedSemaphore(2), mp.Condition(), mp.Event(), mp.Barrier(2),
        mp.Value("i", 1), mp.Array("d", 3) }
      for _, x in ipairs(all) do assert.equal(x, send(x)) end
      local got = send { all, all[1], { all[4] } }
      for i, x in ipairs(all) do assert.equal(x, got[1][i]) end
      assert.equal(all[1], got[2])
      assert.equal(all[4], got[3][1])
    end)

    it("arrives with its lock, and the lock without it", function()
      local v = mp.Value("i", 1)
      local got = send { v:get_lock(), v, v:get_lock() }
      assert.equal(v:get_lock(), got[1])
      assert.equal(v, got[2])
      assert.equal(got[1], got[3])
    end)
  end)
end

describe("encoding", function()
  it("runs no metamethod", function()
    local function never() error("a metamethod ran") end
    local t = setmetatable({ 1, x = 2 }, { __index = never, __len = never, __pairs = never,
      __eq = never, __newindex = never, __name = "Trap" })
    local got = decode(encode(t), { allow_code = true })
    assert.equal(1, rawget(got, 1))
    assert.equal(2, rawget(got, "x"))
  end)

  it("takes nil by itself, but needs an argument", function()
    assert.equal(1, select("#", decode(encode(nil))))
    assert.is_nil(decode(encode(nil)))
    fails("value expected", encode)
  end)

  it("names the path to what cannot cross", function()
    local co = coroutine.create(print)
    local cfg = { a = { co } }
    local cases = {
      { co, "a thread at value" },
      { { jobs = { 1, 2, { co = co } } }, "a thread at value.jobs[3].co" },
      { { ["odd key"] = co }, 'a thread at value["odd key"]' },
      { { ["quo\"te\n"] = co }, 'a thread at value["quo\\"te\\n"]' },
      { { ["end"] = co }, 'a thread at value["end"]' },
      { { [1.5] = co }, "a thread at value[1.5]" },
      { { [-7] = co }, "a thread at value[-7]" },
      { { [true] = co }, "a thread at value[true]" },
      { { x = { [co] = 1 } }, "a thread at key of value.x" },
      { { x = { [{ co }] = 1 } }, "a thread at (key of value.x)[1]" },
      { { f = function() return co end }, "a thread at upvalue 'co' of value.f" },
      { { f = function() return cfg end }, "a thread at (upvalue 'cfg' of value.f).a[1]" },
      { setmetatable({}, { __x = co }), "a thread at (metatable of value).__x" },
      { { io.stdout }, "a FILE* at value[1]" },
      { { coroutine.wrap(print) }, "a C function at value[1]: no module has it" },
    }
    for _, case in ipairs(cases) do
      local e = fails("^.-cannot marshal", function() encode(case[1]) end)
      assert.equal("cannot marshal " .. case[2], e:match("cannot marshal.*"))
    end
  end)

  it("shortens the path to what lies very deep", function()
    local t = { co = coroutine.create(print) }
    for _ = 1, 1000 do t = { n = t } end
    local e = fails("%(971 levels%)", function() encode(t) end)
    assert(#e < 300)
    assert(e:find("%.n%.co$"), e)
  end)

  it("refuses handles that are closed", function()
    local q = mp.Queue()
    q:close()
    fails("cannot marshal a closed mp.Queue at value%.q", function() encode { q = q } end)
  end)

  it("refuses connections outside pipes", function()
    local a, b = mp.Pipe()
    fails("a mp.Connection at value%[1%]: connections cross", function() encode { a } end)
    local q <close> = mp.Queue()
    fails("a mp.Connection at value%.b: connections cross", function() q:put { b = b } end)
    assert.equal(0, q:qsize())
    a:close()
    b:close()
  end)

  it("works again after an error, at any depth", function()
    local deep = { co = coroutine.create(print) }
    for _ = 1, 1000 do deep = { deep } end
    for _ = 1, 3 do
      fails("cannot marshal a thread", function() encode(deep) end)
      local t = { 1 }
      for _ = 1, 1000 do t = { t } end
      assert(same(t, plain(t)))
    end
  end)

  it("does not mind a collection at any moment", function()
    local mode = collectgarbage("generational")
    local t = {}
    for i = 1, 2000 do
      local x = setmetatable({ i }, { __gc = function() plain { i, { i } } end })
      t[#t + 1] = { x[1], { "s" .. i } }
      if i % 100 == 0 then assert(same(t, plain(t))) end
    end
    collectgarbage(mode)
  end)

  it("writes no more than pickle does", function()
    local ints, nested = {}, {}
    for i = 1, 100000 do ints[i] = i end
    for g = 1, 100 do
      local u = {}
      for k = 1, 100 do u["k" .. k] = k end
      nested["g" .. g] = u
    end
    local record = { id = 7, name = "item-000007", values = { 1, 2, 3, 4, 5, 6, 7, 8 } }
    assert(#encode(42) <= 5)
    assert(#encode(("x"):rep(100)) <= 115)
    assert(#encode(record) <= 73)
    assert(#encode(ints) <= 368934)
    assert(#encode(nested) <= 80217)
  end)
end)

describe("decoding a string", function()
  it("refuses functions unless code is allowed", function()
    for _, v in ipairs { function() end, print, string.rep } do
      fails("refused without allow_code", function() decode(encode(v)) end)
      fails("refused without allow_code", function() decode(encode { x = { v } }, {}) end)
      fails("refused without allow_code", function() decode(encode(v), { allow_code = false }) end)
      assert.equal("function", type(decode(encode(v), { allow_code = true })))
    end
    fails("refused without allow_code", function()
      decode(encode(setmetatable({}, { __index = function() end })))
    end)
  end)

  it("takes functions of another family when code is allowed", function()
    local r = T.mplua([[
      local mp = require "mp"
      local n = 20
      io.write(mp.marshal.encode { f = function(x) return x + n end })
    ]])
    assert.equal(0, r.code)
    assert.equal(42, decode(r.out, { allow_code = true }).f(22))
    fails("refused without allow_code", function() decode(r.out) end)
  end)

  it("refuses objects that are gone or another family's", function()
    local q = mp.Queue()
    local s = encode { q }
    assert.equal(q, decode(s)[1])
    q:close()
    q = nil -- luacheck: ignore
    collectgarbage()
    fails("the mp.Queue in this data no longer exists", function() decode(s) end)
    local r = T.mplua [[
      local mp = require "mp"
      io.write(mp.marshal.encode(mp.Lock()))
    ]]
    fails("the mp.Lock in this data is another family's", function() decode(r.out) end)
  end)

  it("keeps no object alive, and revives one that is still there", function()
    local q = mp.Queue()
    q:put(1)
    local s = encode(q)
    local again = decode(s)
    q = nil -- luacheck: ignore
    collectgarbage()
    assert.equal(1, again:get(0))
    again:close()
    fails("no longer exists", function() decode(s) end)
  end)

  it("names classes and modules that are not there", function()
    local Class = { __index = {} }
    local s
    with_module("spec.marshal.gone", { Class = Class }, function()
      s = encode(setmetatable({}, Class))
    end)
    fails("needs spec.marshal.gone.Class, which is not loaded here", function() decode(s) end)
    fails("needs spec.marshal.gone.Class, which cannot be loaded here", function()
      decode(s, { allow_code = true })
    end)
    with_module("spec.marshal.gone", {}, function()
      fails("there is no spec.marshal.gone.Class here", function() decode(s) end)
    end)
    local r = T.mplua [[
      local mp = require "mp"
      local C = {}
      mp.marshal.register("Unheard", C)
      io.write(mp.marshal.encode(setmetatable({}, C)))
    ]]
    fails("no class is registered here as 'Unheard'", function() decode(r.out) end)
  end)

  it("makes no object with a finalizer that nobody registered", function()
    local Class = { __gc = function() error("ran") end }
    with_module("spec.marshal.closing", { Class = Class }, function()
      local data = string.pack("<BBBBBs1", 0xfa, 0xd2, 0, 0xde, 0xcc,
        "spec.marshal.closing\0Class")
      fails("a finalizer that is not registered", function() decode(data) end)
    end)
  end)

  it("refuses what is not whole", function()
    local t = { 1, 2.5, "text", { x = { 1, 2, 3, 4, 5 } }, ("long"):rep(100), { {}, {} } }
    t.self = t
    local s = encode(t)
    for i = 0, #s - 1 do fails("marshal: malformed data", function() decode(s:sub(1, i)) end) end
    fails("something comes after the value", function() decode(s .. "\0") end)
    fails("malformed data", function() decode("") end)
    fails("malformed data", function() decode("hello") end)
  end)

  it("takes no memory for what the bytes cannot hold", function()
    local hostile = {
      "\xfa\xd0\xff\xff\xff\xff\x7f", -- a list of 2^35 elements
      "\xfa\xd4\xff", -- records, 2^63
      "\xfa\xd4\xf0\x01\x01", -- records, 2^48
      "\xfa\xd8\xff\xff\xff\xff\x0f\xbf",
      "\xfa\xce\xff\xff\xff\xff\xff\xff\xff\x7f", -- a string of 2^63 bytes
      "\xfa\xcd\xff\xff\xff\xffabc",
      "\xfa" .. ("\xd0\x7f"):rep(100) .. ("\0"):rep(200), -- each list claims all that is left
      "\xfa\xd0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0",
    }
    collectgarbage()
    local before = collectgarbage("count")
    for _, s in ipairs(hostile) do fails("marshal: malformed data", function() decode(s) end) end
    assert(collectgarbage("count") - before < 4096)
  end)

  it("refuses references to nothing, and things out of place", function()
    local hostile = {
      "\xfa\xed\x00", "\xfa\xed\x7f", "\xfa\xd0\x01\xed\x01", -- REF
      "\xfa\xd0\x01\xcf\x00", "\xfa\xcf\x01", -- SREF
      "\xfa\xef", "\xfa\xd0\x01\xef", -- END
      "\xfa\xf0\x00\x01", "\xfa\xd4\x01\xf0\x00\x01", -- runs outside arrays
      "\xfa\xd0\x01\xf0\x01\x01\x01", -- a run longer than its array
      "\xfa\xd4\x01\xc0\x01", -- a nil key
      "\xfa\xd4\x01\xcb\0\0\0\0\0\0\xf8\x7f\x01", -- a NaN key
      "\xfa\xd2\x00\x01", -- a metatable that is a number
      "\xfa\xe2\x00\x00", -- a handle by index
      "\xfa\xea\x00\x00\x00", -- a connection
      "\xfa\xec\x00\x01", -- a variable outside a function
      "\xfa\xff", "\xfa\xf9", "\xfa\xfa",
    }
    for _, s in ipairs(hostile) do
      fails("marshal: malformed data", function() decode(s) end)
    end
  end)

  it("stands bytes that nobody wrote", function()
    local program = T.build .. "/core/fuzz_marshal"
    if not require("lfs").attributes(program) then return pending("the fuzzer is not built") end
    for seed = 1, 3 do
      local out, code = T.shell(program .. " 3000 " .. seed)
      assert.equal(0, code, out)
    end
  end)

  it("checks its arguments", function()
    fails("string expected, got number", function() decode(1) end)
    fails("table expected", function() decode("x", true) end)
    fails("unknown option 'code' %(known: allow_code%)", function() decode("x", { code = true }) end)
    fails("allow_code must be true or false", function() decode("x", { allow_code = 1 }) end)
  end)
end)

describe("register", function()
  it("takes the same pair again, and no other", function()
    local A, B = {}, {}
    mp.marshal.register("spec.A", A)
    mp.marshal.register("spec.A", A)
    fails("another class is registered as 'spec.A'", function() mp.marshal.register("spec.A", B) end)
    fails("this class is registered as 'spec.A'", function() mp.marshal.register("spec.B", A) end)
  end)

  it("checks its arguments", function()
    fails("string expected", function() mp.marshal.register(1, {}) end)
    fails("table expected", function() mp.marshal.register("x", 1) end)
    fails("needs a name", function() mp.marshal.register("", {}) end)
  end)
end)

describe("in another process", function()
  it("a module that is not loaded there is required", function()
    local name = "mplua_spec_" .. mp.getpid()
    local dir = os.getenv("TMPDIR") or "/tmp"
    local file = assert(io.open(dir .. "/" .. name .. ".lua", "w"))
    file:write("local M = {n = 0}\nfunction M.f() M.n = M.n + 1 return M.n end\nreturn M\n")
    file:close()
    local old = package.path
    package.path = dir .. "/?.lua;" .. package.path
    local todo <close> = mp.Queue()
    local done <close> = mp.Queue()
    local p = W.child(function()
      local f = todo:get(10)
      f()
      done:put { f(), f == require(name).f }
    end)
    local ok, e = pcall(function()
      todo:put(require(name).f)
      assert.same({ 2, true }, done:get(10))
    end)
    W.finish(p)
    package.path = old
    package.loaded[name] = nil
    os.remove(dir .. "/" .. name .. ".lua")
    assert(ok, e)
  end)

  it("objects made after the fork, functions and cycles arrive", function()
    local todo <close> = mp.Queue()
    local done <close> = mp.Queue()
    local p = W.child(function()
      local job = todo:get(10)
      job.out:put(job.f(job.n))
      done:put(job.self == job and job.lock:acquire(0))
    end)
    local base = 40
    local job = { f = function(n) return base + n end, n = 2, out = mp.Queue(), lock = mp.Lock() }
    job.self = job
    job.lock:acquire()
    todo:put(job)
    assert.equal(42, job.out:get(10))
    assert.is_false(done:get(10))
    job.lock:release()
    W.finish(p)
  end)

  it("hundreds of thousands go in one message", function()
    local q, values = mp.Queue(), {}
    for i = 1, 300000 do values[i] = mp.Value("i", i) end
    values[300001] = values[1]
    q:put(values)
    local got = q:get()
    assert.equal(300001, #got)
    assert.equal(values[300000], got[300000])
    assert.equal(values[1], got[300001])
  end)

  it("a connection arrives through a pipe", function()
    local a, b = mp.Pipe()
    local p = W.child(function()
      local got = b:recv(10)
      got[1]:send "hello"
      got[1]:close()
    end)
    do
      local mine, theirs = mp.Pipe()
      a:send { theirs, theirs }
      theirs:close()
      assert.equal("hello", mine:recv(10))
      mine:close()
    end
    W.finish(p)
    a:close()
    b:close()
  end)
end)
