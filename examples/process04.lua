-- A pipe between two processes: each closes the end it does not use, so that the reader sees the end.
-- Run: mplua examples/process04.lua

local mp = require "mp"

local function read(input, output)
  output:close()
  while true do
    local number, code = input:recv()
    if code == "eof" then break end
    print(number)
  end
end

local input, output = mp.Pipe(false)
local reader = mp.Process(read, input, output)
reader:start()
input:close()
for i = 0, 999 do output:send(i) end
output:close() -- the last copy of this end: now the reader is at its end
reader:join()
