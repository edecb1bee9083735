-- Counts the instructions of the hottest operations and compares them with instructions.lua:
--     build/mplua spec/bench/guard.lua COMPILER        fails when one takes over 10 % more
--     build/mplua spec/bench/guard.lua COMPILER update rewrites the file
-- COMPILER is a line that names the compiler. With another one than the file's it only warns.
local here = arg[0]:match "^(.*)/" or "."
local file = here .. "/instructions.lua"

--- An operation may take so much more.
local GROWTH = 0.10
--- Lua's hashes differ from run to run, and with them where names are found in tables: the least
-- count of so many runs is that without collisions, within a few instructions.
local RUNS = 5

local i = 0
while arg[i - 1] do i = i - 1 end
local mplua = arg[i]

local function quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

local function read(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  if not pipe:close() then error(command .. " failed:\n" .. text, 0) end
  return text
end

-- The sum of a part of callgrind's output.
local function total(path)
  for line in io.lines(path) do
    local n = line:match "^totals: (%d+)"
    if n then return tonumber(n) end
  end
  error("no totals in " .. path, 0)
end

-- One run: a list of names; name -> instructions of one operation. Operation k is between the
-- calls 2 k - 1 and 2 k of os.difftime: part 2 k.
local function run(dir)
  local out = dir .. "/callgrind"
  local valgrind = "valgrind --tool=callgrind --dump-before=os_difftime --callgrind-out-file="
  local text = read(("rm -f %s*; %s%s %s %s 2>%s.log || { cat %s.log; false; }"):format(
    quote(out), valgrind, quote(out), quote(mplua), quote(here .. "/operations.lua"), quote(out), quote(out)))
  local names, counts = {}, {}
  for name, times in text:gmatch "([^\n\t]+)\t(%d+)\n" do
    names[#names + 1] = name
    counts[name] = total(("%s.%d"):format(out, 2 * #names)) / times
  end
  if #names == 0 then error("nothing was counted", 0) end
  return names, counts
end

-- The least of all runs, and how far they were apart: (most - least) / least.
local function measure()
  local dir = assert(mplua:match "^(.*)/") .. "/bench"
  read("mkdir -p " .. quote(dir))
  local names, least, most = nil, {}, {}
  for n = 1, RUNS do
    local counts
    names, counts = run(dir)
    for name, count in pairs(counts) do
      least[name] = n == 1 and count or math.min(least[name], count)
      most[name] = n == 1 and count or math.max(most[name], count)
    end
  end
  return names, least, most
end

local function write(built_by, names, counts)
  local out = assert(io.open(file, "w"))
  out:write("-- Instructions that an operation takes, counted by `make guard`; `make guard UPDATE=1` rewrites this.\n")
  out:write("return {\n", ("  built_by = %q,\n  counts = {\n"):format(built_by))
  for _, name in ipairs(names) do out:write(("    [%q] = %.0f,\n"):format(name, counts[name])) end
  out:write("  },\n}\n")
  out:close()
end

local update = arg[2] == "update"
local lua = read(quote(mplua) .. " -v"):match "%((Lua .-)%)"
local built_by = assert(arg[1], "guard.lua COMPILER [update]") .. ", " .. lua
local names, counts, most = measure()
local known = update and { counts = {}, built_by = built_by } or dofile(file)
local grown = 0

print(("%-48s %8s %8s %8s %7s"):format("instructions of an operation", "now", "file", "change", "spread"))
for _, name in ipairs(names) do
  local now, before = counts[name], known.counts[name]
  local change = before and now / before - 1
  local note = ""
  if not update then
    if not before then
      note = "NOT IN THE FILE"
    elseif change > GROWTH then
      note = "GROWN"
    elseif change < -GROWTH then
      note = "fewer: make guard UPDATE=1 keeps that"
    end
  end
  if note:find "^%u" then grown = grown + 1 end
  print((("%-48s %8.0f %8s %8s %6.1f%% %s"):format(name, now, before and ("%d"):format(before) or "",
    change and ("%+.1f%%"):format(change * 100) or "", (most[name] / now - 1) * 100, note):gsub("%s+$", "")))
end
for name in pairs(known.counts) do
  if not counts[name] then
    grown = grown + 1
    print(name .. ": in the file, but not counted any more")
  end
end
if update then
  write(built_by, names, counts)
  print(file .. " is rewritten")
elseif known.built_by ~= built_by then
  print(("guard: only a warning: the file was made with %s, this is %s"):format(known.built_by, built_by))
elseif grown > 0 then
  print(("guard: %d operations take over %.0f %% more instructions than in %s, or are only there or here"):format(
    grown, GROWTH * 100, file))
  print "(if they are worth it: make guard UPDATE=1, and say why in the commit)"
  os.exit(1)
else
  print "guard: no operation takes more than it may"
end
