--- Ranges: a text file in parts that begin and end where lines do.
-- @module ranges

-- A range is plain data, so that it is cheap to send: whoever has it opens the file. The
-- boundaries are found by the process that makes the ranges, which reads a block or so
-- at each of them and nothing in between.

local check = require "mp.check"
local core = require "mp.core"

local min, max, tointeger = math.min, math.max, math.tointeger
local open, iotype = io.open, io.type

local NEWLINE = 10
local BLOCK = 64 * 1024 -- bytes read at once: larger ones are not faster
local PROBE = 4096      -- bytes read at a boundary, where lines are short

local formats = { l = false, L = true, ["*l"] = false, ["*L"] = true } -- whether lines keep their newlines

--- A part of a text file, in whole lines; plain data, cheap to send.
-- @type Range

--- The path of the file.
-- @tfield string path

--- How many bytes of the file are before it.
-- @tfield integer offset

--- How many bytes it has.
-- @tfield integer size

-- The class goes by its name: it is a field of this module.
local Range = { __name = "mp.Range", __mp = "mp.Range" }
Range.__index = Range

-- The errors of io name no file once it is open.
local function fail(path, why)
  check.raise("%s: %s", path, why)
end

local function open_file(path)
  local file, why = open(path, "rb")
  return file or check.raise("%s", why)
end

local function check_self(self, fname)
  if getmetatable(self) ~= Range then
    check.raise("calling '%s' on bad self (mp.Range expected, got %s)", fname,
      check.typename(self))
  end
end

local function open_range(self)
  local file = open_file(self.path)
  local at, why = file:seek("set", self.offset)
  if at then return file end
  file:close()
  fail(self.path, why)
end

-- What `file:read` gives, where an error is not the end.
local function read(file, path, what)
  local text, why = file:read(what)
  if why then
    file:close()
    fail(path, why)
  end
  return text
end

-- A function that reads the range block by block; each ends where a line ends. The file
-- is closed at the end.
local function blocks(self, file)
  local path, left = self.path, self.size

  local function line_end(text)
    if left <= 0 or text:byte(-1) == NEWLINE then return text end
    local rest = (read(file, path, "L") or ""):sub(1, left)
    left = left - #rest
    return text .. rest
  end

  return function()
    local text = left > 0 and read(file, path, min(BLOCK, left))
    if text then
      left = left - #text
      return line_end(text)
    end
    left = 0
    if iotype(file) == "file" then file:close() end
  end
end

--- Iterates over the lines of the range, as io.lines does over those of a file: the file
-- is closed at the end of the loop and when it is left early.
-- @function Range:lines
-- @tparam[opt="l"] string format "l": without the newline; "L": with it
-- @treturn function iterator, and what the loop closes
-- @raise when the file cannot be read
-- @usage local range = mp.file_ranges(arg[0], 1)[1] -- this very script
-- for line in range:lines() do
--   if line:find "script" then print(#line > 10) break end --> true
-- end
function Range:lines(format)
  check_self(self, "lines")
  local keep = formats[format == nil and "l" or format]
  if keep == nil then check.arg_error(1, "lines", "invalid format (known formats: l, L)") end
  local file = open_range(self)
  return core.lines(blocks(self, file), keep), nil, nil, file
end

--- The text of the range.
-- @function Range:read
-- @treturn string shorter than the range if the file is shorter now
-- @raise when the file cannot be read
function Range:read()
  check_self(self, "read")
  local file = open_range(self)
  local text = read(file, self.path, self.size) or ""
  file:close()
  return text
end

function Range:__tostring()
  return ("mp.Range: %s (%d bytes from %d)"):format(self.path, self.size, self.offset)
end

-- Where the line ends that has the byte before `at`.
local function boundary(file, path, at, total)
  local size = PROBE
  at = at - 1
  local ok, why = file:seek("set", at)
  if not ok then fail(path, why) end
  while at < total do
    local text = read(file, path, size)
    if not text then break end
    local found = text:find("\n", 1, true)
    if found then return min(at + found, total) end
    at, size = at + #text, BLOCK
  end
  return total
end

-- The size of a file that can be read from any place.
local function size_of(file, path)
  read(file, path, 0) -- a directory can be opened, not read
  local total, why = file:seek("end")
  return total or fail(path, why)
end

local function is_count(value)
  return type(value) == "number" and tointeger(value) ~= nil and value >= 1
end

local known = {
  size = function(value)
    if not is_count(value) then return "a number of bytes, at least 1" end
  end,
}

-- The number of ranges, or nil, and their least size.
local function check_parts(parts)
  if type(parts) == "table" then
    check.options(2, "file_ranges", parts, known)
    if parts.size == nil then
      check.arg_error(2, "file_ranges", "option 'size' is missing")
    end
    return nil, tointeger(parts.size)
  end
  if type(parts) ~= "number" then
    check.arg_error(2, "file_ranges", "number of ranges or table expected, got %s",
      parts == nil and "no value" or check.typename(parts))
  elseif not is_count(parts) then
    check.arg_error(2, "file_ranges", "the number of ranges must be an integer, at least 1")
  end
  return tointeger(parts), 1
end

--- Cuts a text file into ranges of whole lines, to be read by several processes: each
-- line is in one of them.
-- @function mp.file_ranges
-- @tparam string path of a file that does not change meanwhile; a relative one is looked up again by
--   who reads a range
-- @tparam integer|table parts number of ranges (fewer where there are not as many lines), or
--   `{ size = bytes }`: at least so many in each but the last
-- @treturn table array of Ranges, none of them empty, in the order of the file
-- @raise when the file cannot be read
-- @usage local function count(range)
--   local n = 0
--   for _ in range:lines() do n = n + 1 end
--   return n
-- end
-- local pool <close> = mp.Pool(2)
-- local total = 0
-- for _, n in ipairs(pool:map(count, mp.file_ranges(arg[0], 4))) do total = total + n end
-- print(total >= 9) --> true
local function file_ranges(path, parts)
  check.arg(1, "file_ranges", path, "string")
  local n, size = check_parts(parts)
  local file <close> = open_file(path)
  local total = size_of(file, path)
  local ranges, from = {}, 0
  while from < total do
    -- What is left is shared out anew at each step: a long line makes others' parts
    -- smaller, not one less.
    if n then size = max(1, (total - from) // (n - #ranges)) end
    local to = size < total - from and boundary(file, path, from + size, total) or total
    ranges[#ranges + 1] = setmetatable({ path = path, offset = from, size = to - from }, Range)
    from = to
  end
  return ranges
end

return { file_ranges = file_ranges, Range = Range }
