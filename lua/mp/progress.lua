--- Progress: how much of a job is done, on stderr.
--
-- On a terminal one line that is drawn again and again, without escape sequences: a
-- carriage return, and spaces over what was longer. Elsewhere a plain line now and then.
-- Whoever works calls `update` as often as it likes: most calls look at no clock.

local check = require "mp.check"
local core = require "mp.core"

local floor, max, min = math.floor, math.max, math.min

local STDERR = 2
local REDRAW = 0.1   -- seconds between two drawings of the line
local PLAIN = 10     -- seconds between two plain lines
local SKIP_MAX = 16  -- updates that do not look at the clock, at most: so many late
local BUSY = 0.001   -- seconds between two looks that are too close
local MEMORY = 5     -- seconds of the past that make the rate
local WIDTH = 80     -- columns of a terminal that does not say how many
local BAR_MIN, BAR_MAX = 6, 30

local Bar = { __name = "mp.Progress", __mp = "mp.Progress" }
Bar.__index = Bar

-- Texts --------------------------------------------------------------------------

local function time_text(seconds)
  if seconds < 9.95 then return ("%.1fs"):format(seconds) end
  seconds = floor(seconds + 0.5)
  if seconds < 60 then return ("%ds"):format(seconds) end
  if seconds < 3600 then return ("%d:%02d"):format(seconds // 60, seconds % 60) end
  if seconds < 100 * 3600 then
    return ("%d:%02d:%02d"):format(seconds // 3600, seconds // 60 % 60, seconds % 60)
  end
  return ("%d days"):format(min(seconds // 86400, 99999))
end

local function rate_text(rate)
  if rate >= 999.5e6 then return ("%.1e/s"):format(rate) end
  if rate >= 999.5e3 then return ("%.1fM/s"):format(rate / 1e6) end
  if rate >= 9999.5 then return ("%.0fk/s"):format(rate / 1e3) end
  if rate >= 99.95 then return ("%.0f/s"):format(rate) end
  if rate >= 0.95 then return ("%.1f/s"):format(rate) end
  return ("%.1f/min"):format(rate * 60)
end

local function count_text(self)
  local done = ("%d"):format(self.done)
  if not self.total then return done end
  local total = ("%d"):format(self.total)
  -- The line does not jump when a digit comes.
  return (" "):rep(#total - #done) .. done .. "/" .. total
end

local function percent(self)
  if self.done >= self.total then return 100 end
  return min(99, floor(100 * self.done / self.total))
end

-- The rate of the last seconds, or at the end of all of them.
local function rate_of(self, elapsed)
  if self.over or elapsed < REDRAW then
    return elapsed > 0 and self.done / elapsed or 0
  end
  -- An average that began with nothing: what it lacks yet is made up for.
  local gathered = 1 - 2 ^ ((self.began - self.counted) / MEMORY)
  return gathered > 0 and self.flow / gathered or 0
end

-- What the rest will take, less what has passed since the last one came; nil: unknown.
local function left_of(self, rate, now)
  if self.over or not self.total or rate <= 0 then return nil end
  local left = (self.total - self.done) / rate - (now - self.counted)
  return left > 0 and left or nil
end

-- The parts of a line behind the bar.
local function parts_of(self, now)
  local elapsed = now - self.began
  local rate = rate_of(self, elapsed)
  local parts = { count_text(self) }
  if self.total then parts[#parts + 1] = ("%3d%%"):format(percent(self)) end
  if rate > 0 then parts[#parts + 1] = rate_text(rate) end
  parts[#parts + 1] = time_text(elapsed)
  local left = left_of(self, rate, now)
  if left then parts[#parts + 1] = time_text(left) .. " left" end
  if self.over == "failed" then parts[#parts + 1] = "stopped" end
  return parts
end

-- What takes two columns on a terminal, roughly: the scripts and pictures of the East.
local wide = {
  { 0x1100, 0x115F }, { 0x2E80, 0xA4CF }, { 0xAC00, 0xD7A3 }, { 0xF900, 0xFAFF },
  { 0xFE30, 0xFE6F }, { 0xFF00, 0xFF60 }, { 0xFFE0, 0xFFE6 }, { 0x1F300, 0x1FAFF },
  { 0x20000, 0x3FFFD },
}

local function columns_of_code(code)
  if code < 0x300 then return 1 end
  if code <= 0x36F then return 0 end -- goes onto the character before it
  for _, range in ipairs(wide) do
    if code >= range[1] and code <= range[2] then return 2 end
  end
  return 1
end

-- As much of a text as goes into `room` columns, and how many it takes.
local function cut(text, room)
  if not utf8.len(text) then
    text = text:sub(1, max(0, room))
    return text, #text
  end
  local taken = 0
  for at, code in utf8.codes(text) do
    local columns = columns_of_code(code)
    if taken + columns > room then return text:sub(1, at - 1), taken end
    taken = taken + columns
  end
  return text, taken
end

local function bar_text(self, width)
  local filled = floor(width * min(1, self.done / max(1, self.total)))
  if self.done >= self.total then filled = width end
  return "[" .. ("#"):rep(filled) .. ("."):rep(width - filled) .. "]"
end

-- Bar and label for the `room` columns before the rest of the line, and the columns that
-- they take. The bar gives way first, then the label.
local function beginning(self, room)
  local has_bar = self.total and room >= BAR_MIN + 4
  local label, taken = cut(self.label, has_bar and room - BAR_MIN - 6 or room - 2)
  if taken > 0 then label, taken = label .. "  ", taken + 2 end
  if not has_bar then return label, taken end
  local bar = bar_text(self, min(BAR_MAX, room - taken - 4)) .. "  "
  return label .. bar, taken + #bar
end

-- The line, fitted to `width` columns, and those that it takes.
local function fitted(self, now, width)
  local parts = parts_of(self, now)
  local text = table.concat(parts, "  ")
  while #text > width and #parts > 1 do
    parts[#parts] = nil -- what stands last is what one can do without
    text = table.concat(parts, "  ")
  end
  text = text:sub(1, width)
  local lead, taken = beginning(self, width - #text)
  return lead .. text, taken + #text
end

-- Drawing -------------------------------------------------------------------------

local function draw(self, now)
  local columns = self.columns() or 0
  -- The last column stays free: some terminals wrap when it is written.
  local width = max(1, (columns > 0 and columns or WIDTH) - 1)
  local line, taken = fitted(self, now, width)
  local rest = (" "):rep(min(self.drawn, width) - taken)
  self.write("\r" .. line .. rest .. (self.over and "\n" or ""))
  self.drawn = taken
end

local function tell(self, now)
  local label = self.label == "" and "progress" or self.label
  local parts = parts_of(self, now)
  for i = 1, #parts do parts[i] = parts[i]:gsub("^ +", "") end
  self.write(label .. ": " .. table.concat(parts, ", ") .. "\n")
end

-- Notes how fast it goes. Where tasks take longer than a drawing, the time in which
-- nothing came belongs to the next ones.
local function count(self, now)
  local past = now - self.counted
  if past <= 0 or self.done == self.counted_done then return end
  local weight = 1 - 2 ^ (-past / MEMORY)
  self.flow = self.flow + weight * ((self.done - self.counted_done) / past - self.flow)
  self.counted, self.counted_done = now, self.done
end

local function show(self, now)
  count(self, now)
  self.shown = now
  if self.terminal then draw(self, now) else tell(self, now) end
end

-- The clock is looked at less often while the looks are close to each other.
local function pace(self, now)
  if now - self.looked > BUSY then
    self.skip = 0
  elseif self.skip < SKIP_MAX then
    self.skip = self.skip + 1
  end
  self.looked, self.skipped = now, 0
end

-- The bar -------------------------------------------------------------------------

--- Says how many are done now. Cheap, so that it can be called for each of many; called
-- now and then with the same number, it keeps the clocks of the line going.
-- @param done number of those done, from 0 on
function Bar:update(done)
  if self.skipped < self.skip and done ~= self.done then
    self.done, self.skipped = done, self.skipped + 1
    return
  end
  if self.over then return end
  self.done = done
  local now = self.clock()
  pace(self, now)
  if now - self.shown >= self.interval then show(self, now) end
end

--- Writes the last line, which stays. More calls do nothing.
-- @param ok false: it ended before everything was done
function Bar:finish(ok)
  if self.over then return end
  self.over = ok == false and "failed" or "done"
  self.skip = 0
  show(self, self.clock())
end

--- Leaving the scope of a bar ends it.
function Bar:__close(err) self:finish(err == nil) end

function Bar:__tostring()
  return ("mp.Progress: %s%s%s"):format(self.label, self.label == "" and "" or " ",
    count_text(self))
end

-- One line, whatever the label has in it.
local function clean(label)
  return (label:gsub("%c+", " "))
end

local known = {
  total = function(value)
    if type(value) ~= "number" or not math.tointeger(value) or value < 0 then return "a number of tasks" end
  end,
  label = function(value) if type(value) ~= "string" then return "a string" end end,
  write = function(value) if type(value) ~= "function" then return "a function" end end,
  columns = function(value) if type(value) ~= "function" then return "a function" end end,
  clock = function(value) if type(value) ~= "function" then return "a function" end end,
}

local function to_stderr(text) core.write(STDERR, text) end
local function stderr_columns() return core.columns(STDERR) end

--- Begins a bar; on a terminal it is drawn at once.
-- @param options table: `total` (number of what is to be done; nil: unknown), `label`
--   (text before the bar); in place of stderr and the clock `write` (function(text)),
--   `columns` (function() -> width of the terminal, 0 unknown, nil: no terminal), `clock`
--   (function() -> seconds)
-- @return bar with the methods update(done) and finish(ok)
local function new(options)
  check.arg(1, "progress.new", options, "table")
  check.options(1, "progress.new", options, known)
  local columns = options.columns or stderr_columns
  local clock = options.clock or core.monotonic
  local now = clock()
  local terminal = columns() ~= nil
  local bar = setmetatable({
    total = options.total and math.tointeger(options.total),
    label = clean(options.label or ""),
    write = options.write or to_stderr,
    columns = columns,
    clock = clock,
    terminal = terminal,
    interval = terminal and REDRAW or PLAIN,
    done = 0,
    over = nil,        -- "done" or "failed" at the end
    began = now,
    shown = now,       -- when it was written
    flow = 0,          -- tasks a second, a moving average
    counted = now,     -- up to when
    counted_done = 0,  -- what was done then
    drawn = 0,         -- columns of the line on the screen
    looked = now,      -- when the clock was looked at
    skip = 0,          -- updates that do not look at it before the next one that does
    skipped = 0,
  }, Bar)
  if terminal then draw(bar, now) end
  return bar
end

return { new = new }
