-- Progress: the line on a terminal, plain lines elsewhere.
local T = require "spec.helper"
require "mp"
local progress = require "mp.progress"

--- A bar on a stage: what it writes is kept, its clock stands still.
-- @param columns of the terminal; nil: there is none
local function stage(options, columns)
  local s = { now = 1000, written = {} }
  function s.text() return table.concat(s.written) end
  function s.last() return s.written[#s.written] end
  options.write = function(text) s.written[#s.written + 1] = text end
  options.clock = function() return s.now end
  options.columns = function() return s.columns end
  s.columns = columns
  s.bar = progress.new(options)
  --- Says that `seconds` later `done` are done.
  function s.step(seconds, done)
    s.now = s.now + seconds
    s.bar:update(done)
  end
  return s
end

--- The lines that a terminal would show after each drawing, without spaces at their ends.
local function screens(text)
  local list = {}
  for line in text:gmatch("\r([^\r\n]*)") do list[#list + 1] = (line:gsub(" +$", "")) end
  return list
end

describe("on a terminal, progress", function()
  it("is one line with label, bar, count, percent, rate, elapsed and time left", function()
    local s = stage({ total = 200, label = "squares" }, 80)
    for i = 1, 10 do s.step(1, i * 5) end
    assert.are.equal("squares  [#######.......................]   50/200   25%  5.0/s  10s  30s left",
      screens(s.last())[1])
    s.step(30, 200)
    s.bar:finish(true)
    assert.are.equal("squares  [##############################]  200/200  100%  5.0/s  40s",
      screens(s.last())[1])
    assert.is_nil(s.text():find("[^\r\n -~]"))
  end)

  it("begins at once and ends with the only newline", function()
    local s = stage({ total = 3 }, 80)
    assert.are.equal("[..............................]  0/3    0%  0.0s", screens(s.text())[1])
    for i = 1, 3 do s.step(1, i) end
    assert.is_nil(s.text():find("\n", 1, true))
    s.bar:finish(true)
    local text = s.text()
    s.bar:finish(true)
    s.bar:finish(false)
    s.step(5, 3)
    assert.are.equal(text, s.text())
    assert.are.equal(#text, text:find("\n", 1, true))
  end)

  it("knows no time left when the total is unknown", function()
    local s = stage({ label = "lines" }, 80)
    for i = 1, 3 do s.step(1, i * 20000) end
    assert.are.equal("lines  60000  20k/s  3.0s", screens(s.last())[1])
    s.bar:finish(true)
    assert.are.equal("lines  60000  20k/s  3.0s", screens(s.last())[1])
  end)

  it("stays at what was done when the work stopped", function()
    local s = stage({ total = 10 }, 80)
    s.step(1, 4)
    s.bar:finish(false)
    assert.are.equal("[############..................]   4/10   40%  4.0/s  1.0s  stopped",
      screens(s.last())[1])
  end)

  it("is drawn ten times a second at most", function()
    local s = stage({ total = 100000 }, 80)
    for i = 1, 10000 do s.step(0.001, i) end
    assert.is_true(#s.written <= 101, #s.written .. " drawings in 10 s")
    assert.is_true(#s.written >= 80, #s.written .. " drawings in 10 s")
  end)

  it("looks at the clock rarely when updates are many, and each time when they are few", function()
    local looks, now = 0, 0
    local bar = progress.new {
      total = 1000000, write = function() end, columns = function() return 80 end,
      clock = function() looks = looks + 1 return now end,
    }
    for i = 1, 100000 do
      now = now + 1e-6
      bar:update(i)
    end
    assert.is_true(looks < 100000 / 10, looks .. " looks")
    for i = 1, 50 do -- now they are slow: soon seen
      now = now + 0.01
      bar:update(100000 + i)
    end
    looks = 0
    for i = 1, 100 do
      now = now + 0.01
      bar:update(100050 + i)
    end
    assert.are.equal(100, looks)
  end)

  it("goes on with its clock when nothing comes", function()
    local s = stage({ total = 10 }, 80)
    for i = 1, 5 do s.step(0.0001, i) end
    s.step(2, 5)
    assert.matches(" 5/10   50%%  .* 2%.0s  ", screens(s.last())[1])
    s.step(2, 5)
    assert.matches(" 5/10   50%%  .* 4%.0s  ", screens(s.last())[1])
  end)

  it("keeps the rate of tasks that take long, and counts the time left down", function()
    local s = stage({ total = 10 }, 80)
    s.step(4, 2)
    s.step(4, 4)
    assert.matches("  30%.0/min  8%.0s  12s left", screens(s.last())[1])
    s.step(1, 4)
    assert.matches("  30%.0/min  9%.0s  11s left", screens(s.last())[1])
    s.step(3, 6)
    assert.matches("  30%.0/min  12s  8%.0s left", screens(s.last())[1])
    s.step(9, 6) -- longer than thought: nobody knows
    assert.matches("  30%.0/min  21s$", screens(s.last())[1])
  end)

  it("fits into any width, which may change", function()
    for _, options in ipairs { { total = 12345, label = "a label of some length" }, { total = 12345 },
      { label = "no total" }, { label = "\u{D55C}\u{AD6D}\u{C5B4} \u{B77C}\u{BCA8}", total = 12345 } } do
      local s = stage({ total = options.total, label = options.label }, 80)
      for width = 120, 1, -1 do
        s.columns = width
        s.step(0.2, (121 - width) * 100)
        local line = s.last():match("^\r([^\r\n]*)$")
        assert.truthy(line)
        local wide = select(2, line:gsub("[\xE0-\xEF][\x80-\xBF][\x80-\xBF]", ""))
        assert(utf8.len(line) + wide < math.max(width, 2), width .. ": " .. line)
        if width > 20 then assert.truthy(line:find((121 - width) * 100, 1, true), line) end
      end
    end
  end)

  it("wipes out what was longer before", function()
    local s = stage({}, 80)
    s.step(9.9, 0)
    assert.are.equal("\r0  9.9s", s.last())
    s.step(0.1, 0)
    assert.are.equal("\r0  10s ", s.last())
    s.step(0.1, 0)
    assert.are.equal("\r0  10s", s.last())
    s = stage({ total = 10 }, 80)
    s.step(1, 5)
    s.columns = 20 -- narrower now: no spaces that make it wrap
    s.step(1, 6)
    assert.is_true(#s.last() <= 20)
  end)

  it("supposes 80 columns when the terminal does not say, and survives its loss", function()
    local s = stage({ total = 10 }, 0)
    assert.is_true(#s.last() > 40 and #s.last() < 80)
    s.columns = nil
    s.step(1, 5)
    s.bar:finish(true)
    assert.matches("\n$", s.last())
  end)

  it("makes one line of a label with control characters", function()
    local s = stage({ total = 1, label = "two\nlines\27[31m\0" }, 80)
    assert.matches("^two lines %[31m   %[", screens(s.last())[1])
    s = stage({ total = 1, label = "\255\254 no UTF-8" }, 40)
    s.step(1, 1)
    assert.matches("1/1", s.last())
  end)

  it("tells times and rates in the unit that fits", function()
    local function shown(seconds, done, total)
      local s = stage({ total = total }, 120)
      s.step(seconds, done)
      s.bar:finish(true)
      return (screens(s.last())[1]:gsub("^%[.*%]", ""):gsub("  +", " "))
    end
    assert.are.equal(" 30/30 100% 6.0/min 5:00", shown(300, 30, 30))
    assert.are.equal(" 30/30 100% 0.3/min 1:40:00", shown(6000, 30, 30))
    assert.are.equal("5000000 2.5M/s 2.0s", shown(2, 5000000))
    assert.are.equal("50000 25k/s 2.0s", shown(2, 50000))
    assert.are.equal("5000 2500/s 2.0s", shown(2, 5000))
    assert.are.equal("30 0.0/min 11 days", shown(1000000, 30):gsub("%d+%.%d/min", "0.0/min"), nil)
    assert.are.equal("0 1:00", shown(60, 0))
    assert.are.equal("10s", shown(9.96, 0):match("%S+$"))
    assert.are.equal("1:00", shown(59.7, 0):match("%S+$"))
  end)

  it("counts beyond its total, and an empty job is complete", function()
    local s = stage({ total = 2 }, 80)
    s.step(1, 5)
    assert.matches("%] +5/2  100%%", screens(s.last())[1])
    s = stage({ total = 0 }, 80)
    s.bar:finish(true)
    assert.matches("^%[#+%]  0/0  100%%  0%.0s$", screens(s.last())[1])
  end)
end)

describe("without a terminal, progress", function()
  it("is a line every ten seconds and one at the end", function()
    local s = stage { total = 1000, label = "squares" }
    assert.are.equal("", s.text())
    for i = 1, 250 do s.step(0.1, i * 4) end
    s.bar:finish(true)
    local lines = {}
    for line in s.text():gmatch("[^\n]*\n") do lines[#lines + 1] = line end
    assert.are.equal(s.text(), table.concat(lines))
    assert.are.equal(3, #lines)
    assert.matches("^squares: 40%d/1000, 40%%, 40.0/s, 10s, 15s left\n$", lines[1])
    assert.matches("^squares: 80%d/1000, 80%%, 40.0/s, 20s, %d%.%ds left\n$", lines[2])
    assert.are.equal("squares: 1000/1000, 100%, 40.0/s, 25s\n", lines[3])
  end)

  it("has a name when no label was given, and says when the work stopped", function()
    local s = stage { total = 10 }
    s.step(1, 3)
    s.bar:finish(false)
    assert.are.equal("progress: 3/10, 30%, 3.0/s, 1.0s, stopped\n", s.text())
  end)
end)

describe("progress", function()
  it("says what it knows of options", function()
    local function fails(message, options)
      local ok, err = pcall(progress.new, options)
      assert.is_false(ok)
      assert.truthy(err:find(message, 1, true), err)
    end
    fails("table expected, got no value", nil)
    fails("unknown option 'totals'; known options: clock, columns, label, total, write", { totals = 1 })
    fails("option 'total': a number of tasks expected, got -1", { total = -1 })
    fails("option 'total': a number of tasks expected, got string", { total = "7" })
    fails("option 'label': a string expected, got boolean", { label = true })
  end)

  it("ends with its scope", function()
    local s = stage { total = 2 }
    do
      local bar <close> = s.bar
      bar:update(2)
    end
    assert.are.equal("progress: 2/2, 100%, 0.0s\n", (s.text():gsub("%d+%.%d/s, ", "")))
    s = stage { total = 2 }
    pcall(function()
      local bar <close> = s.bar
      bar:update(1)
      error "out"
    end)
    assert.matches("^progress: 1/2, 50%%, .*stopped\n$", s.text())
  end)

  local SCRIPT = [[
    local mp = require "mp"
    local bar = require("mp.progress").new { total = 20, label = "real" }
    for i = 1, 20 do
      mp.sleep(0.02)
      bar:update(i)
    end
    bar:finish(true)
    print "end"]]

  it("does not mind a stderr that is closed, full or not for writing", function()
    for _, redirected in ipairs { "2>&-", "2>/dev/full", "2</dev/null" } do
      local file = T.tmpname()
      local handle <close> = assert(io.open(file, "wb"))
      handle:write(SCRIPT)
      handle:close()
      local out, code = T.shell(("%s %s %s"):format(T.quote(T.exe), file, redirected))
      os.remove(file)
      assert.are.equal("end\n", out, redirected)
      assert.are.equal(0, code)
    end
  end)

  it("writes plain lines into a file", function()
    local r = T.mplua(SCRIPT)
    assert.are.equal("end\n", r.out)
    assert.matches("^real: 20/20, 100%%, %d+%.%d/s, [%d.]+s\n$", r.err)
  end)

  it("knows a real terminal and its width", function()
    if not os.execute("script -qec true /dev/null >/dev/null 2>&1") then
      return pending("needs script(1) and pseudo-terminals")
    end
    local file = T.tmpname()
    local handle <close> = assert(io.open(file, "wb"))
    handle:write(SCRIPT)
    handle:close()
    local command = ("stty cols 70 && %s %s"):format(T.quote(T.exe), file)
    local out, code = T.shell(("script -qec %s /dev/null </dev/null"):format(T.quote(command)))
    os.remove(file)
    assert.are.equal(0, code)
    local drawn = screens(out)
    assert.is_true(#drawn >= 3 and #drawn <= 10, out)
    for _, line in ipairs(drawn) do assert.is_true(#line < 70, line) end
    assert.matches("^real  %[%.+%]   0/20    0%%  0%.0s", drawn[1])
    local final = out:match("\r([^\r\n]*)\r?\nend\r?\n")
    assert.matches("^real  %[#+%]  20/20  100%%  [%d.]+/s  [%d.]+s *$", final)
  end)
end)
