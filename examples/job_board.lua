-- A board of jobs that workers on other terminals, or other machines, take and answer.
-- Run: mplua examples/job_board.lua serve [PORT], and in other terminals, as often as you like,
--      mplua examples/job_board.lua work [PORT]; the server ends when all jobs are done

local mp = require "mp"

local role, port = arg[1], tonumber(arg[2]) or 50000
local jobs, results

local Board = mp.Manager:extend("Board")
Board:register("jobs", function() return jobs end)
Board:register("results", function() return results end)
local board = Board { address = { "localhost", port }, authkey = "a board's secret" }

local function divisors(n)
  local count = 0
  for i = 1, n do
    if n % i == 0 then count = count + 1 end
  end
  return count
end

if role == "serve" then
  jobs, results = mp.Queue(), mp.Queue()
  for n = 100001, 100020 do jobs:put(n) end
  board:start()
  print(("20 jobs on the board at port %d"):format(board.address[2]))
  io.stdout:flush()
  for _ = 1, 20 do
    local answer = results:get()
    print(("%d has %d divisors (worker %d)"):format(answer.n, answer.divisors, answer.worker))
  end
  jobs:shutdown()
  mp.sleep(0.5) -- the workers hear of it, and go home
elseif role == "work" then
  assert(board:connect(10))
  local todo, done = board:jobs(), board:results()
  local n = todo:get()
  while n do
    done:put { n = n, divisors = divisors(n), worker = mp.getpid() }
    n = todo:get()
  end
else
  print("usage: mplua examples/job_board.lua serve|work [PORT]")
  os.exit(2)
end
