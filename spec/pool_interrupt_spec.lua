-- Pools whose calls are left at any instruction, as Ctrl-C does: what else is in hand comes
-- to its end all the same. (The hook of a count stands for the signal: it can be aimed.)

require "spec.helper"
local mp = require "mp"

local function square(x) return x * x end

local list = {}
for i = 1, 300 do list[i] = i end

-- Calls f, in which "interrupted!" is raised after so many instructions; whether it was.
local function interrupted(instructions, f)
  local ok, e = pcall(function()
    debug.sethook(function()
      debug.sethook()
      error("interrupted!", 0)
    end, "", instructions)
    f()
    debug.sethook()
  end)
  assert(ok or e == "interrupted!", e)
  return not ok
end

describe("Ctrl-C in a call into a pool", function()
  it("leaves the other calls whole, wherever it comes", function()
    local pool = mp.Pool(2)
    local hits = 0
    for n = 1, 600 do
      local single = pool:apply_async(square, { n })
      local many = pool:map_async(square, list, { chunksize = 7 })
      local iterator = pool:imap(square, list)
      if interrupted(1 + n * 7 % 1500, function()
        pool:map(square, list, { chunksize = n % 3 + 1 })
        for i = 1, 20 do pool:apply(square, { i }) end
      end) then hits = hits + 1 end
      local last = 0
      local function read()
        for i, v in iterator do
          assert(i > last and v == i * i)
          last = i
        end
      end
      interrupted(1 + n * 11 % 1500, read)
      read()
      assert.equal(300, last)
      assert.equal(n * n, single:get(10))
      assert.equal(300 * 300, many:get(10)[300])
    end
    assert.is_true(hits > 300)
    assert.matches("0 tasks waiting", tostring(pool))
    pool:close()
    assert.is_true(pool:join(10))
  end)

  it("or the time-out of the task around it leaves the pool usable", function()
    local pool <close> = mp.Pool { processes = 1, grace = 10 }
    local said = pool:map(function()
      local inner <close> = mp.Pool(2)
      local ok, e = pcall(inner.map, inner, mp.sleep, { 10 })
      return { ok, tostring(e), inner:apply(math.abs, { -3 }) }
    end, { 1 }, { task_timeout = 0.2 })[1]
    assert.same({ false, "task timed out", 3 }, said)
  end)
end)
