-- Counts the words of all files below some directories, with one process per processor.
-- Run: mplua examples/wordcount.lua [--serial] DIR...   (exit code 1: not all was counted)

local mp = require "mp"
local failed = mp.RawValue("b", 0) -- shared: whoever complains sets it
local ranges = mp.Queue()          -- shared: parts of files above LARGE bytes
local LARGE, JOBS = 4 << 20, 8 * mp.cpu_count() -- few jobs: each returns a table of words
local jobs, words, order = {}, {}, {}

local function complain(message)
  failed.value = 1
  io.stderr:write("wordcount: " .. message .. "\n")
end

-- Deals out the names of all files below; NUL is the one byte that no name holds.
local function list(dir)
  local path = dir:gsub("^[^/]", "./%0"):gsub("'", "'\\''")
  local find <close> = assert(io.popen("find '" .. path .. "/' -type f -print0"))
  for name in find:read("a"):gmatch("[^\0]+") do table.insert(jobs[math.random(JOBS)], name) end
  if not find:close() then complain(dir .. ": not all of it could be listed") end
end

-- The text of a file or of a range; of a large file none, but its ranges are to be counted.
local function read(part)
  if type(part) == "table" then return part:read() end
  local file <close>, why = io.open(part, "rb")
  local text = file and (file:read(LARGE) or file:read("a")) -- "a": "" when it is empty
  if not text then complain(why or part .. ": cannot be read") end
  if not text or #text < LARGE then return text or "" end
  ranges:put_many(mp.file_ranges(part, { size = LARGE }))
  return ""
end

local function count(job)
  local counts = {}
  for _, part in ipairs(job.path and { job } or job) do -- a range, or names of files
    for word in read(part):lower():gmatch("[%w']+") do counts[word] = (counts[word] or 0) + 1 end
  end
  return counts
end

local serial = arg[1] == "--serial" and table.remove(arg, 1)
if ("\0" .. table.concat(arg, "\0") .. "\0"):find("\0[-\0]") then -- none, "" or an option
  io.stderr:write("usage: wordcount.lua [--serial] DIR...\n")
  os.exit(2)
end
for i = 1, JOBS do jobs[i] = {} end
for _, dir in ipairs(arg) do list(dir) end
local pool <close> = mp.Pool(serial and 0 or mp.cpu_count()) -- 0: no process but this one
repeat
  for _, counts in ipairs(pool:map(count, jobs)) do
    for word, n in pairs(counts) do words[word] = (words[word] or 0) + n end
  end
  jobs = ranges:get_many(1000, 0)
until not jobs
for word in pairs(words) do order[#order + 1] = word end
table.sort(order, function(a, b) return words[a] > words[b] or words[a] == words[b] and a < b end)
for i = 1, math.min(10, #order) do print(("%8d  %s"):format(words[order[i]], order[i])) end
os.exit(failed.value == 0)
