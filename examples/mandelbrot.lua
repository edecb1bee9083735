-- Computes a picture row by row on all processors; rows come as they are ready, with a progress bar.
-- Run: mplua examples/mandelbrot.lua [FILE.ppm [WIDTH]]

local mp = require "mp"

local path = arg[1] or "mandelbrot.ppm"
local width = math.tointeger(tonumber(arg[2] or 900))
if not width or width < 3 or arg[3] then
  io.stderr:write("usage: mandelbrot.lua [FILE.ppm [WIDTH]]\n")
  os.exit(2)
end
local height = width * 2 // 3
local LIMIT = 255 -- turns after which a point counts as one of the set

-- The turns that the point cr + ci * i takes to leave the circle of radius 2.
local function turns(cr, ci)
  local r, i = 0.0, 0.0
  for n = 0, LIMIT - 1 do
    local r2, i2 = r * r, i * i
    if r2 + i2 > 4 then return n end
    r, i = r2 - i2 + cr, 2 * r * i + ci
  end
  return LIMIT
end

-- Three bytes a point: red, green, blue.
local function row(y)
  local ci = 2 * (y - 0.5) / height - 1
  local points = {}
  for x = 1, width do
    local n = turns(3 * (x - 0.5) / width - 2.1, ci)
    local light = n < LIMIT and math.floor(255 * (n / LIMIT) ^ 0.25) or 0
    points[x] = string.char(light * light // 400, light * light // 255, light)
  end
  return table.concat(points)
end

local rows = {}
for y = 1, height do rows[y] = y end

local file <close> = assert(io.open(path, "wb"))
local header = ("P6\n%d %d\n255\n"):format(width, height)
assert(file:write(header))
local pool <close> = mp.Pool()
for y, points in pool:imap_unordered(row, rows, { progress = "mandelbrot" }) do
  file:seek("set", #header + (y - 1) * 3 * width)
  assert(file:write(points))
end
print(("%s: %d x %d points"):format(path, width, height))
