-- Measures round by round, ours next to CPython and to the limit programs, and prints one table.
--     build/mplua spec/bench/run.lua [ROW ...]       ("w2 w3"; scale and cliff only when named)
-- Environment, as `make bench` sets it: ROUNDS; SECS, the budget of one measurement; PYTHON, the
-- interpreter; PEERS, a folder with python/*.py; LIMITS, a folder with the built limit programs;
-- VALUES, a file for all that was measured.  Without PEERS and LIMITS ours stands alone.
local mp = require "mp"

local here = arg[0]:match "^(.*)/" or "."
package.path = here .. "/?.lua;" .. package.path
local lib = require "lib"

local function env(name, default)
  local value = os.getenv(name)
  return value ~= "" and value or default
end

local rounds = math.tointeger(env("ROUNDS", 5)) or error "ROUNDS is a number"
local secs, python, peers, limits = env("SECS", "0.3"), env("PYTHON", "python3"), env "PEERS", env "LIMITS"

-- ours, python: the programs; only: which of their metrics; cpu0: on one processor.
local steps = {
  { row = "w1", ours = "w1_process.lua", python = "w1_process.py", only = "w1.start_join.fork.", limits = { "spawn" } },
  { row = "w1", ours = "w1_process.lua 500", python = "w1_process.py 500" },
  { row = "w2", ours = "w2_pingpong.lua", python = "w2_pingpong.py", limits = { "pingpong" } },
  { row = "w2", ours = "w2_pingpong.lua", python = "w2_pingpong.py", cpu0 = true },
  { row = "w3", ours = "w3_queue.lua", python = "w3_queue.py", only = "w3.queue.", limits = { "luaqueue", "ring" } },
  { row = "w4", ours = "w4_pool.lua", python = "w4_pool.py", limits = { "luapool", "scale" } },
  { row = "w5", ours = "w5_manager.lua", python = "w5_manager.py", limits = { "rpc" } },
  { row = "w6", ours = "w6_shared.lua", python = "w6_shared.py", limits = { "locks", "luaapi" } },
  { row = "w7", ours = "w7_sync.lua", python = "w7_sync.py", limits = { "locks", "pingpong" } },
  { row = "w8", ours = "w8_marshal.lua", only = "", limits = { "luaapi" } },
  { row = "w8", python = "w8_pickle.py", only = "w8.pickle5" },
  { row = "w9", ours = "w9_footprint.lua", python = "w9_footprint.py", limits = { "footprint" } },
  { row = "w9", python = "startup.py python3_multiprocessing %s -c 'import multiprocessing'" },
  { row = "scale", ours = "scale.lua", named = true },
  { row = "cliff", ours = "cliff.lua", named = true },
}

local function wanted(step)
  for _, word in ipairs(arg) do
    if word == step.row then return true end
  end
  return #arg == 0 and not step.named
end

for _, word in ipairs(arg) do
  local known
  for _, step in ipairs(steps) do known = known or word == step.row end
  if not known then
    io.stderr:write(("bench: there is no row '%s'\n"):format(word))
    os.exit(2)
  end
end

-- Running --------------------------------------------------------------------------------------------

local values = { ours = {}, python = {}, limit = {} } -- [side][metric] = { unit =, one a round }
local spent = { ours = 0, python = 0, limit = 0 }
local failed = 0

local function quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

local i = 0
while arg[i - 1] do i = i - 1 end
local mplua = quote(arg[i])

local function run(side, command, step)
  local began = mp.monotonic()
  local place = step.cpu0 and ("taskset -c %s "):format(lib.first_cpu()) or ""
  local pipe = assert(io.popen(("BENCH_SECS=%s BENCH_ONLY=%s PYTHONDONTWRITEBYTECODE=1 timeout -k 5 %d %s%s"):format(
    secs, quote(step.only or ""), step.named and 1200 or 120, place, command)))
  for line in pipe:lines() do
    local metric, value, unit = line:match "^(%S+)\t(%S+)\t(%S+)$"
    if metric then
      if step.cpu0 then metric = metric .. ".cpu0" end
      local list = values[side][metric] or { unit = unit }
      values[side][metric] = list
      list[#list + 1] = tonumber(value)
    end
  end
  local ok, _, code = pipe:close()
  if not ok then
    failed = failed + 1
    io.stderr:write(("bench: %s failed (%d)\n"):format(command, code))
  end
  spent[side] = spent[side] + mp.monotonic() - began
end

-- What a step runs, in turn.  A limit program serves several rows: once a round is enough.
local function sides(step, ran)
  local list = {}
  local function add(side, command) list[#list + 1] = function() run(side, command, step) end end
  if step.ours then
    local file, rest = step.ours:match "^(%S+)(.*)"
    add("ours", ("%s %s%s"):format(mplua, quote(here .. "/" .. file), rest))
  end
  if step.python and peers then
    local file, rest = step.python:match "^(%S+)(.*)"
    add("python", ("%s %s%s"):format(python, quote(peers .. "/python/" .. file), (rest:gsub("%%s", python))))
  end
  for _, name in ipairs(limits and step.limits or {}) do
    if not ran[name] then
      ran[name] = true
      add("limit", quote(limits .. "/" .. name))
    end
  end
  return list
end

local function round(n)
  local ran = {}
  for _, step in ipairs(steps) do
    if wanted(step) then
      local list = sides(step, ran)
      -- another one begins in each round: none has always the same before it
      for k = 1, #list do list[(k + n) % #list + 1]() end
    end
  end
end

-- The table ------------------------------------------------------------------------------------------

local scales = { ns = 1e-9, us = 1e-6, ms = 1e-3, k = 1e3, M = 1e6, MB = 1e6, G = 1e9, GB = 1e9 }

local function scale(unit) return scales[unit:match "^[^/]+"] or 1 end

-- Times and sizes, but not rates.
local function less_is_better(unit)
  local what = unit:match "^[^/]+"
  return what == "ns" or what == "us" or what == "ms" or what == "s" or what == "KiB" or what == "bytes"
end

local function median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  return (sorted[(n + 1) // 2] + sorted[n // 2 + 1]) / 2, sorted[1], sorted[n]
end

-- In seconds, or so many a second, whatever the program's unit was; nil: not measured.
local function measured(side, metric)
  local list = values[side][metric]
  if list then return median(list) * scale(list.unit) end
end

local function limit_of(goal)
  if not goal.limit then return nil end
  local sum = 0
  for _, metric in ipairs(type(goal.limit) == "table" and goal.limit or { goal.limit }) do
    sum = sum + (measured("limit", metric) or measured("ours", metric) or 0 / 0)
  end
  return sum == sum and sum * (goal.per or 1) or nil
end

local function number(x)
  if not x then return "" end
  local size = math.abs(x)
  if size >= 1e7 then return ("%.3g"):format(x) end
  return (size >= 100 and "%.0f" or size >= 10 and "%.1f" or size >= 1 and "%.2f" or "%.3g"):format(x)
end

local line_format = "%-44s %-7s %9s %6s %9s %7s %9s %7s  %-16s %s"

local function show(...) print((line_format:format(...):gsub("%s+$", ""))) end

-- What was missed: the ratios decide where there are any.
local function verdict(goal, ours, by_python, by_limit)
  local absolute = ours * scale(goal.unit) ^ -1
  local reached = not (goal.most and absolute > goal.most or goal.least and absolute < goal.least)
  local ratios = { by_python and goal.times and by_python >= goal.times }
  ratios[#ratios + 1] = by_limit and goal.of_limit and by_limit <= goal.of_limit
  if #ratios == 0 then return reached and "" or "MISSED" end
  for _, ratio in ipairs(ratios) do
    if not ratio then return "MISSED" end
  end
  return reached and "" or "(the figure alone is missed)"
end

local function goal_text(goal)
  if not (goal.most or goal.least) then return "" end
  local text = (goal.most and "<= " or ">= ") .. number(goal.most or goal.least)
  if goal.times then text = text .. (", %gx"):format(goal.times) end
  if goal.of_limit then text = text .. (", %gL"):format(goal.of_limit) end
  return text
end

local function show_row(goal)
  local list = values.ours[goal.metric]
  if not list then return nil end
  local unit = scale(goal.unit)
  local middle, low, high = median(list)
  local ours = middle * scale(list.unit)
  local theirs, limit = measured("python", goal.python or goal.metric), limit_of(goal)
  local less = goal.most or not goal.least and less_is_better(list.unit)
  local by_python = theirs and (less and theirs / ours or ours / theirs)
  local by_limit = limit and (less and ours / limit or limit / ours)
  local spread = #list > 1 and ("%.0f%%"):format((high - low) / math.max(middle, 1e-12) * 100) or ""
  local missed = verdict(goal, ours, by_python, by_limit)
  show(goal.metric, goal.unit, number(ours / unit), spread, number(theirs and theirs / unit), number(by_python),
       number(limit and limit / unit), number(by_limit), goal_text(goal), missed)
  return missed == "MISSED"
end

local function report()
  local goals, seen, missed, count = require "goals", {}, 0, 0
  show("row", "unit", "ours", "spread", "CPython", "x", "limit", "L", "goal", "")
  for _, goal in ipairs(goals) do
    seen[goal.metric] = true
    local result = show_row(goal)
    if result ~= nil then count = count + 1 end
    if result then missed = missed + 1 end
  end
  local others = {}
  for metric in pairs(values.ours) do
    if not seen[metric] then others[#others + 1] = metric end
  end
  table.sort(others)
  if others[1] then print "without a goal:" end
  for _, metric in ipairs(others) do show_row { metric = metric, unit = values.ours[metric].unit } end
  print "x: times better than CPython; L: times the limit; spread: (max - min) / median"
  print(("%d goals, %d missed; medians of %d rounds"):format(count, missed, rounds))
  print(("a round: ours %.0f s, CPython %.0f s, limits %.0f s"):format(
    spent.ours / rounds, spent.python / rounds, spent.limit / rounds))
end

local function save(path)
  local file = assert(io.open(path, "w"))
  for side, metrics in pairs(values) do
    for metric, list in pairs(metrics) do
      file:write(("%s\t%s\t%s\t%s\n"):format(side, metric, list.unit, table.concat(list, "\t")))
    end
  end
  file:close()
end

local began = mp.monotonic()
for n = 1, rounds do
  round(n)
  io.stderr:write(("round %d of %d is done after %.0f s\n"):format(n, rounds, mp.monotonic() - began))
end
report()
if env "VALUES" then save(env "VALUES") end
os.exit(failed == 0)
