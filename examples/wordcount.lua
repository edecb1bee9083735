-- Counts the words of all files below some directories, with one process per processor.
-- Run: mplua examples/wordcount.lua [--serial] DIR...   (exit code 1: not all was counted)

local mp = require "mp"
local failed = mp.RawValue("b", 0) -- shared: whoever complains sets it
local words = {}                   -- not shared: every process counts in its own

local function complain(message)
  failed.value = 1
  io.stderr:write("wordcount: " .. message .. "\n")
end

local function count(name)
  local file <close>, why = io.open(name, "rb")
  local text = file and file:read("a")
  if not text then return complain(why or name .. ": cannot be read") end
  for word in text:lower():gmatch("[%w']+") do words[word] = (words[word] or 0) + 1 end
end

-- Calls each(name) for every file below; NUL is the one byte that no name holds.
local function list(dirs, each)
  for _, dir in ipairs(dirs) do
    local path = dir:gsub("^[^/]", "./%0"):gsub("'", "'\\''")
    local find <close> = assert(io.popen("find '" .. path .. "/' -type f -print0"))
    for name in find:read("a"):gmatch("[^\0]+") do each(name) end
    if not find:close() then complain(dir .. ": not all of it could be listed") end
  end
end

local function count_parallel(dirs)
  local names, parts, workers = mp.Queue(), mp.Queue(), {}
  local function work()
    for name in names:items() do count(name) end
    parts:put(words)
  end
  for i = 1, mp.cpu_count() do
    workers[i] = mp.Process{ target = work, daemon = true }
    workers[i]:start()
  end
  list(dirs, function(name) names:put(name) end)
  names:shutdown() -- the workers end when it is empty
  for _, worker in ipairs(workers) do
    worker:join() -- returns when it was killed too, and leaves what others had put
    assert(worker.exitcode == 0, worker.name .. " died, its counts are lost")
    for word, n in pairs(parts:get(0)) do words[word] = (words[word] or 0) + n end
  end
end

local serial = arg[1] == "--serial" and table.remove(arg, 1)
if ("\0" .. table.concat(arg, "\0") .. "\0"):find("\0[-\0]") then -- none, "" or an option
  io.stderr:write("usage: wordcount.lua [--serial] DIR...\n")
  os.exit(2)
end
if serial then list(arg, count) else count_parallel(arg) end
local order = {}
for word in pairs(words) do order[#order + 1] = word end
table.sort(order, function(a, b) return words[a] > words[b] or words[a] == words[b] and a < b end)
for i = 1, math.min(10, #order) do print(("%8d  %s"):format(words[order[i]], order[i])) end
os.exit(failed.value == 0)
