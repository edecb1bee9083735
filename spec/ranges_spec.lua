-- mp.file_ranges: a text file cut into ranges of whole lines.
local T = require "spec.helper"
local mp = require "mp"
local lfs = require "lfs"
local file_ranges = require("mp.ranges").file_ranges

local path
before_each(function() path = T.tmpname() end)
after_each(function() os.remove(path) end)

local function write(text)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
end

local function lines_of_file(format)
  local list = {}
  for line in io.lines(path, format) do list[#list + 1] = line end
  return list
end

local function lines_of_ranges(ranges, format)
  local list = {}
  for _, range in ipairs(ranges) do
    for line in range:lines(format) do list[#list + 1] = line end
  end
  return list
end

--- Asserts that the ranges are the file: none empty, no gap, no line in two of them.
local function check_ranges(ranges, text, what)
  local at, parts = 0, {}
  for i, range in ipairs(ranges) do
    assert(range.offset == at, what)
    assert(range.size > 0, what)
    at = at + range.size
    assert(i == #ranges or text:byte(at) == 10, what)
    parts[i] = range:read()
    assert(#parts[i] == range.size, what)
  end
  assert(table.concat(parts) == text, what)
  assert.are.same(lines_of_file("l"), lines_of_ranges(ranges), what)
  assert.are.same(lines_of_file("L"), lines_of_ranges(ranges, "L"), what)
end

-- Files of `size` bytes made of these, in turn; some end inside of one.
local kinds = {
  ["lines of one byte"] = { "a\n" },
  ["empty lines"] = { "\n" },
  ["lines of all lengths"] = { "\n", "1\n", "22\n", "333\n", "4444\n", "\n", "55555\n" },
  ["CRLF"] = { "one\r\n", "\r\n", "three\r\n", "a\rb\r\n" },
  ["no newline at all"] = { "x" },
  ["NUL bytes"] = { "\0\n", "a\0b\n", "\0\0\0\n" },
  ["one long line"] = { "s\n", ("long"):rep(6) .. "\n", "s\n" },
  ["bytes above 127"] = { "\255\n", "\195\164\n" },
}

local function sample(kind, size)
  local parts, length, i = {}, 0, 0
  while length < size do
    i = i + 1
    parts[i] = kind[(i - 1) % #kind + 1]
    length = length + #parts[i]
  end
  return table.concat(parts):sub(1, size)
end

describe("file_ranges", function()
  for name, kind in pairs(kinds) do
    it("gives every line once, for every size and number of ranges: " .. name, function()
      for size = 1, 40 do
        local text = sample(kind, size)
        write(text)
        local newlines = select(2, text:gsub("\n", ""))
        local lines = newlines + (text:sub(-1) ~= "\n" and 1 or 0)
        for _, n in ipairs { 1, 2, 3, 4, 5, 7, 10, 16, 40, 41, 1000 } do
          local what = ("%s, %d bytes, %d ranges"):format(name, size, n)
          local ranges = file_ranges(path, n)
          assert(#ranges <= n, what)
          assert(n < size or #ranges == lines, what) -- enough for each line
          check_ranges(ranges, text, what)
        end
        for _, least in ipairs { 1, 2, 5, 17, 40, 41, 2 ^ 53 } do
          local what = ("%s, %d bytes, ranges of %d"):format(name, size, least)
          local ranges = file_ranges(path, { size = least })
          check_ranges(ranges, text, what)
          for i = 1, #ranges - 1 do assert(ranges[i].size >= least, what) end
        end
      end
    end)
  end

  it("gives nothing for an empty file", function()
    write("")
    assert.are.same({}, file_ranges(path, 4))
    assert.are.same({}, file_ranges(path, { size = 10 }))
  end)

  it("makes as many ranges as asked for, of nearly one size", function()
    write(("123456789\n"):rep(10000))
    local ranges = file_ranges(path, 8)
    assert.are.equal(8, #ranges)
    for _, range in ipairs(ranges) do
      assert.is_true(math.abs(range.size - 12500) <= 10, tostring(range))
    end
  end)

  it("does not give up a range for a long line", function()
    write(("x"):rep(50000) .. "\n" .. ("12345\n"):rep(10000))
    assert.are.equal(4, #file_ranges(path, 4))
  end)

  it("finds lines that begin and end anywhere in blocks", function()
    -- around the sizes that are read at once: 4 KiB at boundaries, 64 KiB in ranges
    for _, length in ipairs { 4094, 4095, 4096, 4097, 65534, 65535, 65536, 65537, 200000 } do
      local line = ("."):rep(length)
      for _, lead in ipairs { "", "\n", "a\nbc\n" } do
        local text = lead .. (line .. "\n"):rep(3) .. "end"
        write(text)
        for _, n in ipairs { 1, 2, 3, 4, 9 } do
          check_ranges(file_ranges(path, n), text, ("%d, %d ranges"):format(length, n))
        end
      end
    end
  end)

  it("holds a block of the file in memory, not the file", function()
    local file <close> = assert(io.open(path, "wb"))
    local line = ("x"):rep(99) .. "\n"
    for _ = 1, 40 do file:write(line:rep(10000)) end -- 40 MB
    file:close()
    collectgarbage()
    collectgarbage()
    local before, most, count = collectgarbage("count"), 0, 0
    for _, range in ipairs(file_ranges(path, 2)) do
      for _ in range:lines() do
        count = count + 1
        if count % 1000 == 0 then most = math.max(most, collectgarbage("count")) end
      end
    end
    assert.are.equal(400000, count)
    assert.is_true(most < 2 * before + 4 * 1024, ("%d KiB, then %d"):format(before // 1, most // 1))
  end)

  it("names what it cannot cut", function()
    local function fails(pattern, ...)
      local ok, message = pcall(file_ranges, ...)
      assert.is_false(ok)
      assert.matches("ranges_spec%.lua:%d+: " .. pattern, message)
    end
    local literal = path:gsub("%p", "%%%0")
    fails(literal .. ": No such file or directory$", path, 4)
    assert(lfs.mkdir(path))
    fails(literal .. ": Is a directory$", path, 4)
    assert(lfs.rmdir(path))
    assert.are.equal("", (T.shell("mkfifo " .. path)))
    local held <close> = assert(io.open(path, "r+")) -- or opening it would wait
    held:write("line\n")
    held:flush()
    fails(literal .. ": Illegal seek$", path, 4)
  end)

  it("says how it is called", function()
    write("line\n")
    local function fails(message, ...)
      assert.has_error(function(...) file_ranges(...) end, nil, ...)
      local _, err = pcall(file_ranges, ...)
      assert.truthy(err:find(message, 1, true), err)
    end
    fails("bad argument #1 to 'file_ranges' (string expected, got no value)")
    fails("bad argument #2 to 'file_ranges' (number of ranges or table expected, got no value)", path)
    fails("bad argument #2 to 'file_ranges' (number of ranges or table expected, got string)", path, "4")
    for _, n in ipairs { 0, -1, 1.5, 0 / 0, 1 / 0 } do
      fails("bad argument #2 to 'file_ranges' (the number of ranges must be an integer, at least 1)", path, n)
      fails("option 'size': a number of bytes, at least 1 expected, got " .. n, path, { size = n })
    end
    fails("option 'size' is missing", path, {})
    fails("unknown option 'bytes'; known options: size", path, { bytes = 10 })
    assert.are.equal(1, #file_ranges(path, 4.0))
  end)
end)

describe("a range", function()
  it("says what it is", function()
    write("one\ntwo\nthree\n")
    local ranges = file_ranges(path, { size = 4 })
    assert.are.equal(3, #ranges)
    local range = ranges[2]
    assert.are.equal(("mp.Range: %s (4 bytes from 4)"):format(path), tostring(range))
    assert.are.equal("mp.Range", mp.type(range))
    local fields = {}
    for key, value in pairs(range) do fields[key] = value end
    assert.are.same({ path = path, offset = 4, size = 4 }, fields)
  end)

  it("crosses to other processes as an object of its class", function()
    write("one\ntwo\n")
    local copy = mp.marshal.decode(mp.marshal.encode(file_ranges(path, 2)[2]))
    assert.are.equal(require("mp.ranges").Range, getmetatable(copy))
    local lines = mp.Queue()
    local ranges = file_ranges(path, 2)
    local child = mp.Process(function(range)
      for line in range:lines() do lines:put(line) end
    end, ranges[2])
    child:start()
    child:join()
    assert.are.equal("two", lines:get(0))
    child:close()
    lines:close()
  end)

  it("is a task for a pool", function()
    local lines = {}
    for i = 1, 5000 do lines[i] = ("line %d of %d"):format(i, i * i) end
    write(table.concat(lines, "\n"))
    local pool <close> = mp.Pool(2)
    local parts = pool:map(function(range)
      local found = {}
      for line in range:lines() do found[#found + 1] = line end
      return found
    end, mp.file_ranges(path, 7))
    assert.are.equal(7, #parts)
    local all = {}
    for _, part in ipairs(parts) do table.move(part, 1, #part, #all + 1, all) end
    assert.are.same(lines, all)
  end)

  it("closes the file at the end of the loop, and when the loop is left", function()
    write("one\ntwo\n")
    local range = file_ranges(path, 1)[1]
    local function open_now()
      local n = 0
      for _, target in pairs(T.fds()) do n = n + (target == path and 1 or 0) end
      return n
    end
    collectgarbage("stop")
    for _ in range:lines() do assert.are.equal(1, open_now()) end
    assert.are.equal(0, open_now())
    for line in range:lines() do
      if line == "one" then break end
    end
    assert.are.equal(0, open_now())
    pcall(function() for _ in range:lines() do error "out" end end)
    assert.are.equal(0, open_now())
    local iterate = range:lines()
    assert.are.equal("one", iterate())
    assert.are.equal("two", iterate())
    assert.is_nil(iterate())
    assert.are.equal(0, open_now())
    assert.is_nil(iterate())
    assert.are.equal("one\ntwo\n", range:read())
    assert.are.equal(0, open_now())
    collectgarbage("restart")
  end)

  it("ends early when the file has become shorter", function()
    write("one\ntwo\nthree\nfour\n")
    local ranges = file_ranges(path, 2)
    write("one\ntwo\nth")
    assert.are.same({ "one", "two", "th" }, lines_of_ranges(ranges))
    write("")
    assert.are.same({}, lines_of_ranges(ranges))
    assert.are.equal("", ranges[2]:read())
  end)

  it("does not go beyond its part when the file was changed", function()
    write("one\ntwo\n")
    local ranges = file_ranges(path, 2)
    write("onetwothree\n")
    assert.are.same({ "onet", "woth" }, lines_of_ranges(ranges))
  end)

  it("names a file that is gone, at the line of the script", function()
    write("one\n")
    local range = file_ranges(path, 1)[1]
    os.remove(path)
    for _, method in ipairs { "lines", "read" } do
      local _, err = pcall(function() return range[method](range) end)
      assert.matches("ranges_spec%.lua:%d+: ", err)
      assert.truthy(err:find(path .. ": No such file or directory", 1, true), err)
    end
  end)

  it("has a method for each use, called as such", function()
    write("one\n")
    local range = file_ranges(path, 1)[1]
    assert.has_error(function() range:lines("n") end)
    assert.has_error(function() range:lines(4) end)
    assert.has_error(function() range:lines(false) end)
    for _, name in ipairs { "lines", "read" } do
      local _, err = pcall(range[name], path)
      assert.truthy(err:find("calling '" .. name .. "' on bad self (mp.Range expected, got string)", 1, true), err)
    end
  end)

  it("is found again by a relative path where it was made", function()
    local name = path:match("[^/]*$")
    write("one\ntwo\n")
    local here = lfs.currentdir()
    assert(lfs.chdir("/tmp"))
    local ranges = file_ranges(name, 2)
    assert.are.equal(name, ranges[1].path)
    local lines = lines_of_ranges(ranges)
    assert(lfs.chdir(here))
    assert.are.same({ "one", "two" }, lines)
  end)
end)
