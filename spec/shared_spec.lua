local T = require "spec.helper"
local mp = require "mp"

-- Runs f(...) in a process; an error in it shows as exit code 1.
local function child(f, ...)
  local p = mp.Process(f, ...)
  p:start()
  return p
end

-- Waits for the end of processes that must have ended well.
local function finish(...)
  for i, p in ipairs { ... } do
    assert.is_true(p:join(10), "process " .. i .. " does not end")
    assert.equal(0, p.exitcode)
    p:close()
  end
end

local function kill(p)
  p:kill()
  assert.is_true(p:join(10))
  assert.equal(-9, p.exitcode)
  p:close()
end

-- That f(...) raises an error whose text contains every one of `words`.
local function raises(words, f, ...)
  local ok, e = pcall(f, ...)
  assert.is_false(ok, "no error")
  for _, word in ipairs(type(words) == "table" and words or { words }) do
    assert.truthy(tostring(e):find(word, 1, true), ("no '%s' in: %s"):format(word, e))
  end
end

local ranges = {
  b = { -128, 127 }, B = { 0, 255 }, h = { -32768, 32767 }, H = { 0, 65535 },
  i = { -2 ^ 31 | 0, 2 ^ 31 - 1 | 0 }, I = { 0, 2 ^ 32 - 1 | 0 },
  l = { math.mininteger, math.maxinteger }, q = { math.mininteger, math.maxinteger },
  L = { 0, math.maxinteger }, Q = { 0, math.maxinteger },
}

local kinds = {
  { "with a lock", {} },
  { "without a lock", { lock = false } },
}

describe("A Value", function()
  for _, kind in ipairs(kinds) do
    local how, opts = kind[1], kind[2]

    it("holds the extremes of every integer typecode " .. how, function()
      for code, range in pairs(ranges) do
        local v = mp.Value(code, range[1], opts)
        assert.equal(range[1], v.value)
        v.value = range[2]
        assert.equal(range[2], v.value)
        assert.equal("integer", math.type(v.value))
        v:close()
      end
    end)

    it("refuses a number that does not fit and stays as it was " .. how, function()
      for code, range in pairs(ranges) do
        local v = mp.Value(code, 5, opts)
        local typecode = "typecode '" .. code .. "'"
        if range[1] > math.mininteger then
          raises({ "number " .. range[1] - 1, typecode }, function() v.value = range[1] - 1 end)
        end
        raises({ "does not fit", typecode }, function() v.value = -1e30 end)
        raises({ "does not fit", typecode }, function() v.value = 1e30 end)
        raises("not an integer", function() v.value = 1.5 end)
        raises("not an integer", function() v.value = 0 / 0 end)
        raises("not an integer", function() v.value = math.huge end)
        raises("does not fit", mp.Value, code, 1e30, opts)
        assert.equal(5, v.value)
        v:close()
      end
      raises("number 300 does not fit typecode 'b' (-128..127)", mp.Value, "b", 300, opts)
    end)

    it("adds, and refuses a sum that does not fit, " .. how, function()
      for code, range in pairs(ranges) do
        if code ~= "L" and code ~= "Q" then
          local v = mp.Value(code, range[2] - 1, opts)
          assert.equal(range[2], v:add(1))
          raises({ "add", "does not fit" }, function() v:add(1) end)
          assert.equal(range[2], v.value)
          v.value = range[1]
          raises("does not fit", function() v:add(-1) end)
          assert.equal(range[1], v.value)
          assert.equal(range[1] + 2, v:add(2.0))
          raises("not an integer", function() v:add(0.5) end)
          v:close()
        end
      end
    end)

    it("takes floats that are integers, and floats that are not where they can be " .. how, function()
      local i, d, f = mp.Value("i", 3.0, opts), mp.Value("d", 3, opts), mp.Value("f", 0.1, opts)
      assert.equal("integer", math.type(i.value))
      assert.equal("float", math.type(d.value))
      assert.equal(3.0, d.value)
      assert.equal(3.5, d:add(0.5))
      assert.equal(("f"):unpack(("f"):pack(0.1)), f.value)
      d.value = math.huge
      assert.equal(math.huge, d.value)
      f.value = -math.huge
      assert.equal(-math.huge, f.value)
      d.value = 0 / 0
      assert.is_true(d.value ~= d.value)
      raises("does not fit typecode 'f'", function() f.value = 1e300 end)
      f.value = 3e38
      raises("does not fit typecode 'f'", function() f:add(3e38) end)
      for _, v in ipairs { i, d, f } do v:close() end
    end)

    it("shows an unsigned number beyond Lua's integers as a float " .. how, function()
      local v = mp.Value("Q", math.maxinteger, opts)
      assert.equal(2.0 ^ 63, v:add(1))
      assert.equal("float", math.type(v.value))
      assert.is_true(v:compare_exchange(v.value, 2.0 ^ 63 + 2048))
      assert.equal(math.maxinteger, v:add(-2049))
      raises("does not fit typecode 'Q'", function() v.value = 2.0 ^ 64 end)
      raises("does not fit typecode 'Q'", function() v.value = -1 end)
      v:close()
    end)

    it("of typecode c holds a byte " .. how, function()
      local v = mp.Value("c", "x", opts)
      assert.equal("x", v.value)
      v.value = "\0"
      assert.equal("\0", v.value)
      assert.equal("a", v:update(function(c)
        assert.equal("\0", c)
        return "a"
      end))
      assert.is_true(v:compare_exchange("a", "\255"))
      assert.equal("\255", v.value)
      raises("string of one byte expected, got 2 bytes", function() v.value = "ab" end)
      raises("string of one byte expected, got number", function() v.value = 65 end)
      raises("typecode 'c'", function() v:add(1) end)
      v:close()
      local zero = mp.Value("c", nil, opts)
      assert.equal("\0", zero.value)
      zero:close()
    end)

    it("refuses what is not a number " .. how, function()
      local v = mp.Value("d", nil, opts)
      assert.equal(0.0, v.value)
      for _, bad in ipairs { "1", true, {}, print } do
        raises({ "value", "number expected, got " .. type(bad) }, function() v.value = bad end)
        raises({ "add", "number expected" }, function() v:add(bad) end)
        raises("number expected", function() v:compare_exchange(bad, 1) end)
        raises("number expected", function() v:compare_exchange(0, bad) end)
      end
      raises("number expected, got nil", function() v.value = nil end)
      raises("number expected", function() v:add() end)
      assert.equal(0.0, v.value)
      v:close()
    end)

    it("is updated by a function " .. how, function()
      local v = mp.Value("i", 20, opts)
      assert.equal(41, v:update(function(x) return 2 * x + 1 end))
      assert.equal(42, v:update(setmetatable({}, { __call = function(_, x) return x + 1 end })))
      raises("boom", function() v:update(function() error "boom" end) end)
      local object = {}
      local _, e = pcall(v.update, v, function() error(object) end)
      assert.equal(object, e)
      raises({ "update", "number expected, got nil" }, function() v:update(function() end) end)
      raises("does not fit", function() v:update(function() return 2 ^ 40 end) end)
      raises({ "update", "function expected, got number" }, function() v:update(7) end)
      assert.equal(42, v.value)
      assert.equal(43, v:add(1))
      v:close()
    end)

    it("is exchanged when it is what was expected " .. how, function()
      for code in ("bBhHiIlLqQfd"):gmatch "." do
        local v = mp.Value(code, 7, opts)
        assert.is_true(v:compare_exchange(7, 8))
        assert.is_false(v:compare_exchange(7, 9))
        assert.equal(8, v.value)
        v:close()
      end
      local f = mp.Value("f", 0.1, opts)
      assert.is_true(f:compare_exchange(0.1, 0.2))
      f.value = -0.0
      assert.is_true(f:compare_exchange(0, 1))
      f.value = 0 / 0
      assert.is_false(f:compare_exchange(f.value, 1))
      f:close()
    end)

    it("loses no addition of two processes " .. how, function()
      local v, u, e = mp.Value("i", 0, opts), mp.Value("d", 0, opts), mp.Value("H", 0, opts)
      local function work()
        for _ = 1, 2000 do
          v:add(1)
          u:update(function(x) return x + 1 end)
          repeat local old = e.value until e:compare_exchange(old, old + 1)
        end
      end
      local p = child(work)
      work()
      finish(p)
      assert.equal(4000, v.value)
      assert.equal(4000.0, u.value)
      assert.equal(4000, e.value)
      for _, x in ipairs { v, u, e } do x:close() end
    end)
  end

  it("has a lock that makes several operations one", function()
    local v = mp.Value("i", 0)
    local function work()
      for _ = 1, 1000 do
        v:get_lock():with(function()
          local seen = v.value
          v.value = seen + 1
        end)
      end
    end
    local p = child(work)
    work()
    finish(p)
    assert.equal(2000, v.value)
    assert.equal("mp.RLock", mp.type(v:get_lock()))
    assert.equal(v:get_lock(), v:get_lock())
    v:close()
  end)

  it("waits for its lock in every operation", function()
    local v = mp.Value("i", 1)
    local operations = {
      function() return v.value end,
      function() v.value = 2 end,
      function() return v:add(1) end,
      function() return v:compare_exchange(1, 2) end,
      function() return v:update(function(x) return x end) end,
    }
    for _, operation in ipairs(operations) do
      local about, done = mp.Event(), mp.Event()
      v:get_lock():acquire()
      local p = child(function()
        about:set()
        operation()
        done:set()
      end)
      assert.is_true(about:wait(10))
      assert.is_false(done:wait(0.05))
      v:get_lock():release()
      assert.is_true(done:wait(10))
      finish(p)
    end
    v:close()
  end)

  it("is held while it is updated", function()
    local v, inside, go = mp.Value("i", 1), mp.Event(), mp.Event()
    local p = child(function()
      v:update(function(x)
        inside:set()
        assert(go:wait(10))
        return x + 1
      end)
    end)
    assert.is_true(inside:wait(10))
    assert.is_false(v:get_lock():acquire(0))
    go:set()
    assert.equal(12, v:add(10))
    finish(p)
    v:close()
  end)

  it("lets its lock go when an update fails", function()
    local v = mp.Value("i", 1)
    pcall(v.update, v, function() error "no" end)
    assert.is_false(v:get_lock():locked())
    pcall(v.update, v, function() return "x" end)
    assert.is_false(v:get_lock():locked())
    local co = coroutine.wrap(function() v:update(function() coroutine.yield() end) end)
    raises("yield", co)
    assert.is_false(v:get_lock():locked())
    v:close()
  end)

  it("can be used inside its own update, and not closed there", function()
    local v = mp.Value("i", 1)
    assert.equal(6, v:update(function(x) return x + v:add(4) end))
    raises("in use by an update", function() v:update(function() v:close() end) end)
    raises("released the lock", function()
      v:update(function(x)
        v:get_lock():release()
        return x + 100
      end)
    end)
    assert.equal(6, v.value)
    v:close()
    local raw = mp.RawValue("i", 1)
    raises("closed", function()
      raw:update(function(x)
        raw:close()
        return x
      end)
    end)
  end)

  it("goes on when a process is killed inside its update", function()
    local v, inside = mp.Value("q", 7), mp.Event()
    local p = child(function()
      v:update(function()
        inside:set()
        mp.sleep(60)
      end)
    end)
    assert.is_true(inside:wait(10))
    kill(p)
    assert.equal(7, v.value)
    assert.equal(8, v:add(1))
    assert.is_false(v:get_lock():locked())
    v:close()
  end)

  it("goes on when a process exits inside its update", function()
    local v = mp.Value("q", 7)
    finish(child(function()
      v:update(function() os.exit(0) end)
    end))
    assert.equal(8, v:add(1))
    assert.is_false(v:get_lock():locked())
    v:close()
  end)

  it("goes on when a process that waits for its lock is killed", function()
    local v, about = mp.Value("q", 7), mp.Event()
    v:get_lock():acquire()
    local p = child(function()
      about:set()
      v:add(1)
    end)
    assert.is_true(about:wait(10))
    kill(p)
    v:get_lock():release()
    assert.equal(8, v:add(1))
    v:close()
  end)

  it("has no lock when it was made without", function()
    for _, v in ipairs { mp.RawValue("i", 1), mp.Value("i", 1, { lock = false }) } do
      raises({ "mp.Value has no lock", "lock = false" }, function() v:get_lock() end)
      v:close()
    end
  end)

  it("checks what it is made of", function()
    raises({ "Value", "unknown typecode 'z'", "c b B h H i I l L q Q f d" }, mp.Value, "z", 1)
    raises("unknown typecode 'ii'", mp.Value, "ii", 1)
    raises("unknown typecode ''", mp.Value, "")
    raises({ "#1", "string expected, got nil" }, mp.Value)
    raises({ "#1", "string expected, got number" }, mp.Value, 7)
    raises({ "#2", "number expected, got string" }, mp.Value, "i", "1")
    raises({ "#3", "unknown option 'loc'", "lock" }, mp.Value, "i", 1, { loc = true })
    raises({ "#3", "boolean expected for option 'lock'" }, mp.Value, "i", 1, { lock = 1 })
    raises({ "#3", "table expected" }, mp.Value, "i", 1, true)
    raises({ "#3", "no options" }, mp.RawValue, "i", 1, {})
  end)

  it("has one field", function()
    local v = mp.Value("i", 1)
    assert.is_nil(v.other)
    raises({ "no field 'other'", "'value'" }, function() v.other = 1 end)
    raises("mp.Value", v.add, {}, 1)
    raises("mp.Value", v.add, mp.RawArray("i", 1), 1)
    raises("mp.Value", v.add)
    v:close()
  end)

  it("says what it is", function()
    local v <close> = mp.Value("d", 3.14)
    local c <close> = mp.Value("c", "x")
    assert.equal("mp.Value", mp.type(v))
    assert.matches("^mp%.Value: 0x%x+ %(d, 3%.14%)$", tostring(v))
    assert.matches("^mp%.Value: 0x%x+ %(c, 'x'%)$", tostring(c))
  end)

  it("cannot be used once it was closed, but by others", function()
    local v = mp.Value("i", 1)
    local lock = v:get_lock()
    local q <close> = mp.Queue()
    q:put(v)
    v:close()
    v:close()
    assert.equal("mp.Value (closed)", tostring(v))
    raises("closed", function() return v.value end)
    raises("closed", function() v.value = 1 end)
    raises("closed", function() v:add(1) end)
    raises("closed", function() v:get_lock() end)
    local w = q:get()
    assert.equal(1, w.value)
    assert.equal(lock, w:get_lock())
    w:close()
    lock:close()
  end)

  it("made after a fork is the same object for those who get it", function()
    local q, back = mp.Queue(), mp.Queue()
    local p = child(function()
      local v = q:get(10)
      v:add(1)
      back:put { v = v, own = mp.Value("d", 2.5) }
    end)
    local v = mp.Value("i", 41)
    q:put(v)
    local t = back:get(10)
    finish(p)
    assert.equal(v, t.v)
    assert.equal(42, v.value)
    assert.equal(2.5, t.own.value)
    assert.equal(3.0, t.own:add(0.5))
    for _, x in ipairs { v, t.own, q, back } do x:close() end
  end)

  it("is given back when nobody refers to it", function()
    local before = T.arena()
    for i = 1, 2000 do mp.Value("i", i) end
    collectgarbage()
    collectgarbage()
    assert.is_true(T.arena().objects <= before.objects)
  end)
end)

describe("An Array", function()
  for _, kind in ipairs(kinds) do
    local how, opts = kind[1], kind[2]

    it("begins with zeros or with a list " .. how, function()
      for code in ("bBhHiIlLqQfd"):gmatch "." do
        local a, b = mp.Array(code, 3, opts), mp.Array(code, { 1, 2, 3, 4 }, opts)
        assert.same({ 0, 0, 0 }, a:totable())
        assert.same({ 1, 2, 3, 4 }, b:totable())
        assert.equal(4, #b)
        assert.equal(math.type(code:match "[fd]" and 1.0 or 1), math.type(b[1]))
        a:close()
        b:close()
      end
      for _, empty in ipairs { mp.Array("i", 0, opts), mp.Array("d", {}, opts) } do
        assert.equal(0, #empty)
        assert.same({}, empty:totable())
        assert.same({}, empty:get())
        assert.equal("", empty:bytes())
        assert.is_nil(empty[1])
        empty:fill(1)
        raises("out of range", function() empty[1] = 1 end)
        empty:close()
      end
    end)

    it("is indexed from 1; outside there is nil to read and an error to write " .. how, function()
      local a = mp.Array("i", { 10, 20, 30 }, opts)
      assert.equal(10, a[1])
      assert.equal(30, a[3])
      assert.equal(20, a[2.0])
      for _, out in ipairs { 0, 4, -1, math.mininteger, math.maxinteger, 1.5, 2 ^ 70, 0 / 0 } do
        assert.is_nil(a[out])
        raises({ "mp.Array", "index", "out of range (1..3)" }, function() a[out] = 1 end)
      end
      raises("no field 'x'", function() a.x = 1 end)
      raises("no field '1'", function() a["1"] = 1 end)
      assert.is_nil(a["1"])
      assert.is_nil(a.x)
      a[2] = 21.0
      assert.same({ 10, 21, 30 }, a:totable())
      local seen = {}
      for i, x in ipairs(a) do seen[i] = x end
      assert.same({ 10, 21, 30 }, seen)
      a:close()
    end)

    it("refuses elements that do not fit or are no numbers " .. how, function()
      local a = mp.Array("b", { 1, 2, 3 }, opts)
      raises("bad value for element 2 of mp.Array (number 128 does not fit typecode 'b' (-128..127))",
        function() a[2] = 128 end)
      raises("number expected, got string", function() a[2] = "2" end)
      raises("number expected, got nil", function() a[2] = nil end)
      raises({ "fill", "number expected, got no value" }, function() a:fill() end)
      raises("does not fit", function() a:fill(-129) end)
      assert.same({ 1, 2, 3 }, a:totable())
      raises({ "#2", "element 2: number 300 does not fit" }, mp.Array, "b", { 1, 300 }, opts)
      raises({ "#2", "element 1: number expected, got boolean" }, mp.Array, "d", { true }, opts)
      a:close()
    end)

    it("is read in slices " .. how, function()
      local a = mp.Array("h", { 1, 2, 3, 4, 5 }, opts)
      assert.same({ 1, 2, 3, 4, 5 }, a:get())
      assert.same({ 2, 3 }, a:get(2, 3))
      assert.same({ 4, 5 }, a:get(4))
      assert.same({ 4, 5 }, a:get(-2))
      assert.same({ 2, 3, 4 }, a:get(2, -2))
      assert.same({}, a:get(4, 3))
      assert.same({}, a:get(6))
      assert.same({}, a:get(math.maxinteger))
      assert.same({ 1, 2, 3, 4, 5 }, a:get(-100, 100))
      assert.same({ 1, 2, 3, 4, 5 }, a:get(math.mininteger, math.maxinteger))
      assert.same({}, a:get(1, math.mininteger))
      raises({ "get", "number expected" }, function() a:get("x") end)
      assert.equal(("hhhhh"):pack(1, 2, 3, 4, 5), a:bytes())
      a:close()
    end)

    it("is written in slices, all or nothing, " .. how, function()
      for code in ("bBhHiIlLqQfd"):gmatch "." do
        local a = mp.Array(code, { 1, 2, 3, 4, 5, 6, 7 }, opts)
        a:set(2, { 20, 30 })
        a:set(-2, { 60, 70 })
        a:set(4, {})
        assert.same({ 1, 20, 30, 4, 5, 60, 70 }, a:totable())
        raises({ "set", "element 2: number expected, got string" }, function()
          a:set(1, { 9, "x", 9 })
        end)
        raises({ "set", "do not fit" }, function() a:set(6, { 1, 2, 3 }) end)
        raises("out of range (1..7)", function() a:set(0, { 1 }) end)
        raises("out of range (1..7)", function() a:set(9, { 1 }) end)
        raises("out of range (1..7)", function() a:set(-8, { 1 }) end)
        raises("list expected, got number", function() a:set(1, 5) end)
        raises("list expected", function() a:set(1) end)
        raises("list expected, got string", function() a:set(1, "abc") end)
        assert.same({ 1, 20, 30, 4, 5, 60, 70 }, a:totable())
        a:fill(3)
        assert.same({ 3, 3, 3, 3, 3, 3, 3 }, a:totable())
        a:close()
      end
    end)

    it("takes slices that are large " .. how, function()
      local n, list = 70001, {}
      for i = 1, n do list[i] = i end
      for code in ("iIlQfd"):gmatch "." do
        local a = mp.Array(code, list, opts)
        assert.equal(n, #a)
        assert.same(list, a:totable())
        a:fill(0)
        a:set(1, list)
        assert.equal(n, a[n])
        assert.equal(#list * (code:match "[iIf]" and 4 or 8), #a:bytes())
        local odd = a:get(2)
        a:set(1, odd)
        assert.equal(2, a[1])
        assert.equal(n, a[n])
        a:close()
      end
    end)

    it("of bytes is read and written as strings " .. how, function()
      local a = mp.Array("c", "hello", opts)
      assert.equal(5, #a)
      assert.equal("h", a[1])
      assert.equal("hello", a:get())
      assert.equal("ell", a:get(2, 4))
      assert.equal("", a:get(4, 2))
      assert.equal("hello", a:bytes())
      assert.same({ "h", "e", "l", "l", "o" }, a:totable())
      a[1] = "J"
      a:set(-1, "y")
      a:set(3, { "L", "\0" })
      assert.equal("JeL\0y", a:get())
      raises("string of one byte expected", function() a[1] = "ab" end)
      raises("string of one byte expected", function() a[1] = 65 end)
      raises("element 2: string of one byte expected, got 0 bytes", function() a:set(1, { "a", "" }) end)
      raises("do not fit", function() a:set(4, "abc") end)
      a:fill("-")
      assert.equal("-----", a:get())
      a:close()
      local zeros = mp.Array("c", 3, opts)
      assert.equal("\0\0\0", zeros:get())
      zeros:close()
      local s = ("0123456789"):rep(5000)
      local large = mp.Array("c", s, opts)
      assert.equal(s, large:get())
      large:set(2, s:sub(1, -2))
      assert.equal("0" .. s:sub(1, -2), large:bytes())
      large:close()
    end)

    it("adds to, updates and exchanges its elements " .. how, function()
      local a = mp.Array("i", { 1, 2, 3 }, opts)
      assert.equal(12, a:add(2, 10))
      assert.equal(9, a:update(3, function(x) return x * x end))
      assert.is_true(a:compare_exchange(1, 1, 5))
      assert.is_false(a:compare_exchange(1, 1, 6))
      assert.same({ 5, 12, 9 }, a:totable())
      raises("out of range (1..3)", function() a:add(4, 1) end)
      raises("out of range (1..3)", function() a:update(0, print) end)
      raises("index expected, got no value", function() a:add() end)
      raises("does not fit", function() a:add(1, 2 ^ 31) end)
      raises("boom", function() a:update(1, function() error "boom" end) end)
      assert.same({ 5, 12, 9 }, a:totable())
      a:close()
    end)

    it("loses no addition of two processes " .. how, function()
      local a = mp.Array("B", 8, opts)
      local function work()
        for _ = 1, 100 do
          for i = 1, #a do a:add(i, 1) end
        end
      end
      local p = child(work)
      work()
      finish(p)
      assert.same({ 200, 200, 200, 200, 200, 200, 200, 200 }, a:totable())
      a:close()
    end)
  end

  it("with a lock is read and written as one", function()
    local a, stop = mp.Array("i", 1000), mp.Event()
    local zeros, ones = {}, {}
    for i = 1, 1000 do zeros[i], ones[i] = 0, 1 end
    local p = child(function()
      while not stop:is_set() do
        a:set(1, zeros)
        a:fill(1)
        a:set(1, ones)
      end
    end)
    for _ = 1, 200 do
      local list, bytes = a:get(), a:bytes()
      assert.equal(list[1], list[1000])
      assert.equal(bytes:sub(1, 4), bytes:sub(-4))
    end
    stop:set()
    finish(p)
    a:close()
    stop:close()
  end)

  it("waits for its lock in every operation", function()
    local a, about, done = mp.Array("i", 3), mp.Event(), mp.Event()
    local operations = {
      function() return a[1] end, function() a[1] = 2 end, function() return a:get() end,
      function() a:set(1, { 1 }) end, function() a:fill(1) end, function() return a:bytes() end,
      function() return a:totable() end, function() return a:add(1, 1) end,
      function() return (select(2, ipairs(a)(a, 0))) end,
    }
    for _, operation in ipairs(operations) do
      about:clear()
      done:clear()
      a:get_lock():acquire()
      local p = child(function()
        about:set()
        operation()
        done:set()
      end)
      assert.is_true(about:wait(10))
      assert.is_false(done:wait(0.02))
      a:get_lock():release()
      assert.is_true(done:wait(10))
      finish(p)
    end
    a:close()
  end)

  it("can be used while one holds its lock", function()
    local a <close> = mp.Array("i", { 3, 4 })
    a:get_lock():with(function()
      a[1], a[2] = a[2], a[1]
      a:set(1, a:get())
    end)
    assert.same({ 4, 3 }, a:totable())
    assert.is_false(a:get_lock():locked())
  end)

  it("goes on when the holder of its lock is killed", function()
    local a, held = mp.Array("i", { 1, 2 }), mp.Event()
    local p = child(function()
      a:get_lock():acquire()
      a[1] = 5
      held:set()
      mp.sleep(60)
    end)
    assert.is_true(held:wait(10))
    kill(p)
    a[2] = 6
    assert.same({ 5, 6 }, a:totable())
    assert.is_false(a:get_lock():locked())
    a:close()
  end)

  it("is interrupted while it waits for its lock", function()
    local r = T.mplua [[
      local mp = require "mp"
      local a, held = mp.Array("i", 1), mp.Event()
      local p = mp.Process{target = function()
        a:get_lock():acquire()
        held:set()
        mp.sleep(60)
      end, daemon = true}
      p:start()
      held:wait()
      local me = mp.getpid()
      local killer = mp.Process(function()
        mp.sleep(0.1)
        os.execute("kill -INT " .. me)
      end)
      killer:start()
      print(pcall(function() return a[1] end))
      killer:join()
      p:kill()
      print(a[1])
    ]]
    assert.matches("^false.*interrupted!\n0\n$", r.out)
  end)

  it("changed by a child is changed", function()
    local v, a = mp.Value("d", 0.0), mp.Array("i", { 0, 1, 2, 3, 4 })
    finish(child(function()
      v.value = 3.14
      for i = 1, #a do a[i] = -a[i] end
    end))
    assert.equal(3.14, v.value)
    assert.same({ 0, -1, -2, -3, -4 }, a:totable())
    v:close()
    a:close()
  end)

  it("has no lock when it was made without", function()
    for _, a in ipairs { mp.RawArray("i", 1), mp.Array("i", 1, { lock = false }) } do
      raises("mp.Array has no lock", function() a:get_lock() end)
      a:close()
    end
  end)

  it("that is too large for the shared memory is refused, and nothing is lost", function()
    local before = T.arena()
    for _, n in ipairs { 1 << 40, 1 << 61, math.maxinteger } do
      raises("shared memory is full", mp.Array, "d", n)
    end
    local after = T.arena()
    assert.equal(before.objects, after.objects)
    assert.equal(before.used, after.used)
  end)

  it("of a hundred megabytes gives its memory back", function()
    local before = T.arena().resident
    local a = mp.RawArray("d", 1 << 24)
    a[1 << 24] = 1.5
    assert.equal(0.0, a[1 << 23])
    assert.equal(1.5, a[1 << 24])
    assert.is_nil(a[(1 << 24) + 1])
    a:close()
    assert.is_true(T.arena().resident < before + (16 << 20))
  end)

  it("checks what it is made of", function()
    raises({ "Array", "#1", "unknown typecode 'x'" }, mp.Array, "x", 1)
    raises({ "#2", "size or list expected, got string" }, mp.Array, "i", "abc")
    raises({ "#2", "size or list expected, got nil" }, mp.Array, "i")
    raises({ "#2", "size, string or list expected, got boolean" }, mp.Array, "c", true)
    raises({ "#2", "not negative" }, mp.Array, "i", -1)
    raises({ "#2", "integer" }, mp.Array, "i", 1.5)
    raises("unknown option 'size' (known options: lock)", mp.Array, "i", 1, { size = 1 })
    raises("no options", mp.RawArray, "i", 1, {})
  end)

  it("says what it is", function()
    local a <close> = mp.Array("i", 5)
    assert.equal("mp.Array", mp.type(a))
    assert.matches("^mp%.Array: 0x%x+ %(i, 5 items%)$", tostring(a))
    local one <close> = mp.Array("d", 1)
    assert.matches("%(d, 1 item%)$", tostring(one))
    one:close()
    assert.equal("mp.Array (closed)", tostring(one))
    raises("closed", function() return one[1] end)
    raises("closed", function() one[1] = 1 end)
    raises("closed", function() return #one end)
  end)

  it("crosses a queue as the same object", function()
    local q, a = mp.Queue(), mp.Array("d", { 1.5, 2.5 })
    finish(child(function()
      local b = mp.RawArray("c", "from the child")
      q:put { a = a, b = b }
    end))
    local t = q:get(10)
    assert.equal(a, t.a)
    assert.equal("from the child", t.b:get())
    raises("has no lock", function() t.b:get_lock() end)
    for _, x in ipairs { a, t.b, q } do x:close() end
  end)
end)

describe("A Struct", function()
  local fields = { { "x", "d" }, { "y", "d" }, { "name", "c", 16 }, { "n", "b" }, { "tag", "c" } }

  for _, kind in ipairs(kinds) do
    local how, opts = kind[1], kind[2]

    it("makes records with fields by name " .. how, function()
      local Point = mp.Struct(fields, opts)
      local p, zero = Point { x = 1, name = "origin", tag = "t" }, Point()
      assert.equal(1.0, p.x)
      assert.equal(0.0, p.y)
      assert.equal("origin", p.name)
      assert.equal(0, p.n)
      assert.equal("t", p.tag)
      p.x, p.y, p.n, p.name, p.tag = 2.5, -1, 127, "", "\0"
      assert.same({ x = 2.5, y = -1.0, n = 127, name = "", tag = "\0" }, p:totable())
      assert.same({ x = 0.0, y = 0.0, n = 0, name = "", tag = "\0" }, zero:totable())
      for _, s in ipairs { p, zero, Point } do s:close() end
    end)

    it("keeps strings of any bytes " .. how, function()
      local S = mp.Struct({ { "a", "b" }, { "s", "c", 5 }, { "big", "c", 5000 } }, opts)
      local s = S()
      for _, text in ipairs { "", "a", "ab\0\0", "\0\0\0\0\0", "12345", "123" } do
        s.s = text
        s.big = text:rep(1000)
        assert.equal(text, s.s)
        assert.equal(text:rep(1000), s.big)
      end
      raises("bad value for field 's' of mp.Struct (a string of 6 bytes does not fit, there is room for 5)",
        function() s.s = "123456" end)
      raises("string expected, got number", function() s.s = 5 end)
      assert.equal("123", s.s)
      s:close()
      S:close()
    end)

    it("refuses unknown fields and values that do not fit " .. how, function()
      local Point = mp.Struct(fields, opts)
      local p = Point()
      raises({ "no field 'z'", "x, y, name, n, tag" }, function() return p.z end)
      raises({ "no field 'z'", "x, y, name, n, tag" }, function() p.z = 1 end)
      raises("no field '1'", function() return p[1] end)
      raises("no field '1'", function() p[1] = 1 end)
      raises("bad value for field 'n' of mp.Struct (number 128 does not fit typecode 'b' (-128..127))",
        function() p.n = 128 end)
      raises("number expected, got string", function() p.x = "1" end)
      raises("number expected, got nil", function() p.x = nil end)
      raises("no field 'z'", Point, { z = 1 })
      raises("no field '1'", Point, { 1 })
      raises("does not fit", Point, { n = 1000 })
      raises("table of fields expected", Point, 5)
      p:close()
      Point:close()
    end)

    it("adds to, updates and exchanges fields " .. how, function()
      local Point = mp.Struct(fields, opts)
      local p = Point { x = 1, n = 5 }
      assert.equal(1.5, p:add("x", 0.5))
      assert.equal(10, p:update("n", function(n) return 2 * n end))
      assert.is_true(p:compare_exchange("n", 10, 11))
      assert.is_false(p:compare_exchange("n", 10, 12))
      assert.equal("T", p:update("tag", function() return "T" end))
      raises("does not fit", function() p:add("n", 117) end)
      raises("no field 'q'", function() p:add("q", 1) end)
      raises("field 'name' is a string", function() p:add("name", 1) end)
      raises("string expected", function() p:add(1, 1) end)
      assert.equal(11, p.n)
      p:close()
      Point:close()
    end)

    it("makes arrays of records " .. how, function()
      local Point = mp.Struct(fields, opts)
      local ps = Point:array(3)
      assert.equal(3, #ps)
      ps[2].x = 5
      ps[3] = { y = 1, name = "three" }
      assert.equal(0.0, ps[1].x)
      assert.equal(5.0, ps[2].x)
      assert.equal("three", ps[3].name)
      assert.is_nil(ps[0])
      assert.is_nil(ps[4])
      assert.is_nil(ps[1.5])
      assert.equal(ps[2], ps[2])
      assert.not_equal(ps[1], ps[2])
      local names = {}
      for i, p in ipairs(ps) do names[i] = p.name end
      assert.same({ "", "", "three" }, names)
      ps[3] = { x = 1 }
      assert.same({ x = 1.0, y = 0.0, n = 0, name = "", tag = "\0" }, ps[3]:totable())
      assert.equal(2, ps[1]:add("n", 2))
      assert.equal(2, ps:totable()[1].n)
      raises("index 4 is out of range (1..3)", function() ps[4] = {} end)
      raises({ "record 1", "table of fields expected" }, function() ps[1] = 5 end)
      raises("no field 'z'", function() ps[1] = { z = 1 } end)
      raises("array of records has no field 'x'", function() return ps.x end)
      raises("array of records has no field 'x'", function() ps.x = 1 end)
      ps:close()
      local list = Point:array { { x = 1 }, { x = 2 } }
      assert.equal(2.0, list[2].x)
      raises("bad record 2 for 'array' (table of fields expected, got number)", Point.array, Point, { {}, 2 })
      raises("not negative", Point.array, Point, -1)
      raises("size or list of records expected", Point.array, Point, "x")
      list:close()
      Point:close()
    end)

    it("is never seen with half of a string " .. how, function()
      local S = mp.Struct({ { "s", "c", 200 } }, opts)
      local s, stop = S(), mp.Event()
      local p = child(function()
        local k = 0
        while not stop:is_set() do
          k = k % 200 + 1
          s.s = string.char(k % 26 + 97):rep(k)
        end
      end)
      for _ = 1, 2000 do
        local text = s.s
        assert.equal(string.char(#text % 26 + 97):rep(#text), text)
      end
      stop:set()
      finish(p)
      for _, x in ipairs { s, S, stop } do x:close() end
    end)
  end

  it("has one lock for a record, and one for an array", function()
    local Point = mp.Struct(fields)
    local p, ps = Point(), Point:array(2)
    local function work()
      for _ = 1, 500 do
        p:get_lock():with(function() p.x, p.y = p.x + 1, p.y - 1 end)
        ps[2]:get_lock():with(function() ps[2].x = ps[2].x + 1 end)
      end
    end
    local c = child(work)
    work()
    finish(c)
    assert.equal(1000.0, p.x)
    assert.equal(-1000.0, p.y)
    assert.equal(1000.0, ps[2].x)
    assert.equal(ps:get_lock(), ps[1]:get_lock())
    raises("record type has no lock", function() Point:get_lock() end)
    for _, s in ipairs { p, ps, Point } do s:close() end
    local Raw = mp.Struct(fields, { lock = false })
    local r = Raw()
    raises("mp.Struct has no lock", function() r:get_lock() end)
    r:close()
    Raw:close()
  end)

  it("waits for the lock of its record", function()
    local S = mp.Struct(fields)
    local s, about, done = S(), mp.Event(), mp.Event()
    local operations = {
      function() return s.x end, function() s.x = 1 end, function() return s.name end,
      function() s.name = "n" end, function() return s:totable() end,
      function() s:add("n", 1) end,
    }
    for _, operation in ipairs(operations) do
      about:clear()
      done:clear()
      s:get_lock():acquire()
      local p = child(function()
        about:set()
        operation()
        done:set()
      end)
      assert.is_true(about:wait(10))
      assert.is_false(done:wait(0.02))
      s:get_lock():release()
      assert.is_true(done:wait(10))
      finish(p)
    end
    for _, x in ipairs { s, S, about, done } do x:close() end
  end)

  it("crosses a queue: types, records and arrays", function()
    local q, Point = mp.Queue(), mp.Struct(fields)
    local p = Point { x = 1 }
    finish(child(function()
      local ps = Point:array { { name = "a" }, { name = "b" } }
      q:put { Type = Point, p = p, ps = ps }
    end))
    local t = q:get(10)
    assert.equal(p, t.p)
    assert.equal("b", t.ps[2].name)
    local made = t.Type { y = 2 }
    assert.equal(2.0, made.y)
    for _, x in ipairs { p, Point, t.ps, made, q } do x:close() end
  end)

  it("lets single records of an array cross, also when the array is closed", function()
    local q, Point = mp.Queue(), mp.Struct { { "x", "i" } }
    local ps = Point:array(600)
    finish(child(function()
      for _, i in ipairs { 1, 2, 300, 600 } do
        ps[i].x = i
        q:put(ps[i])
      end
    end))
    local got = {}
    for k, i in ipairs { 1, 2, 300, 600 } do
      got[k] = q:get(10)
      assert.equal(i, got[k].x)
      assert.equal(ps[i], got[k])
    end
    ps:close()
    assert.equal(600, got[4].x)
    for _, record in ipairs(got) do record:close() end
    Point:close()
    q:close()
  end)

  it("says what it is", function()
    local Point <close> = mp.Struct(fields)
    local p <close> = Point { x = 1, name = 'a"\1' }
    local ps <close> = Point:array(2)
    assert.equal("mp.Struct", mp.type(p))
    assert.matches('^mp%.Struct: 0x%x+ %(x=1%.0, y=0%.0, name="a\\"\\001", n=0, tag="\\000"%)$',
      tostring(p))
    assert.matches("^mp%.Struct: 0x%x+ %(type: x d, y d, name c 16, n b, tag c%)$", tostring(Point))
    assert.matches("^mp%.Struct: 0x%x+ %(2 records of x d, y d, name c 16, n b, tag c%)$",
      tostring(ps))
    raises("only a record type can be called", p, {})
    raises("only a record type makes arrays", function() p:array(2) end)
    raises("only an array of records has a length", function() return #p end)
    raises("record type has no field 'x'", function() return Point.x end)
    raises("record type has no field 'x'", function() Point.x = 1 end)
    raises("record type holds no data", function() Point:totable() end)
  end)

  it("is closed, and with an array its records", function()
    local Point <close> = mp.Struct(fields)
    local p, ps = Point(), Point:array(2)
    local first = ps[1]
    p:close()
    p:close()
    raises("closed", function() return p.x end)
    assert.equal("mp.Struct (closed)", tostring(p))
    ps[2]:close()
    assert.equal(0.0, ps[2].x)
    ps:close()
    raises("closed", function() return first.x end)
    raises("closed", function() first.x = 1 end)
    raises("closed", function() return ps[1] end)
    assert.equal("mp.Struct (closed)", tostring(first))
  end)

  it("keeps an array alive for the sake of its records", function()
    local Point = mp.Struct(fields)
    local first = Point:array(2)[1]
    collectgarbage()
    collectgarbage()
    first.x = 2
    assert.equal(2.0, first.x)
    Point:close()
  end)

  it("may have fields with the names of methods", function()
    local Bar <close> = mp.Struct { { "open", "d" }, { "close", "d" }, { "add", "i" } }
    do
      local b <close> = Bar { close = 2.5, add = 3 }
      assert.equal(2.5, b.close)
      assert.equal(3, b.add)
    end
  end)

  it("can have a thousand fields", function()
    local many, values = {}, {}
    for i = 1, 1000 do
      many[i] = { "field" .. i, "i" }
      values["field" .. i] = i
    end
    local Many = mp.Struct(many)
    local m = Many(values)
    assert.same(values, m:totable())
    m.field500 = 7
    assert.equal(7, m.field500)
    m:close()
    Many:close()
    many[1001] = { "one", "i" }
    raises("at most 1000 fields", mp.Struct, many)
  end)

  it("checks what it is made of", function()
    raises("table expected", mp.Struct)
    raises("at least one field", mp.Struct, {})
    raises({ "field 2", "another field 'x'" }, mp.Struct, { { "x", "d" }, { "x", "i" } })
    raises({ "field 1", "unknown typecode 'z'" }, mp.Struct, { { "x", "z" } })
    raises({ "field 1", "typecode is a string, got nil" }, mp.Struct, { { "x" } })
    raises({ "field 1", "name is a string, got number" }, mp.Struct, { { 1, "d" } })
    raises({ "field 1", "name has 1 to 200 bytes" }, mp.Struct, { { "", "d" } })
    raises({ "field 1", "{name, typecode} expected, got string" }, mp.Struct, { "x" })
    raises({ "field 1", "only typecode 'c' has a length" }, mp.Struct, { { "x", "d", 4 } })
    for _, length in ipairs { 0, -1, 1.5, "4", 1 << 40 } do
      raises({ "field 1", "length" }, mp.Struct, { { "x", "c", length } })
    end
    raises("unknown option 'size' (known options: lock)", mp.Struct, { { "x", "d" } }, { size = 1 })
  end)
end)
