-- Runs the benchmarks one after the other, each in a process of its own:
--     build/mplua spec/bench/run.lua [WORD ...]      (only programs whose name has a WORD)
local here = arg[0]:match "^(.*)/" or "."
local programs = {
  "w1_process.lua", "w1_process.lua 500", "w2_pingpong.lua", "w3_queue.lua", "w4_pool.lua",
  "w6_shared.lua", "w7_sync.lua", "w8_marshal.lua", "w9_footprint.lua",
}

local function wanted(name)
  for _, word in ipairs(arg) do
    if name:find(word, 1, true) then return true end
  end
  return #arg == 0
end

local function quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

local i = 0
while arg[i - 1] do i = i - 1 end
for _, program in ipairs(programs) do
  if wanted(program) then
    local file, rest = program:match "^(%S+)(.*)"
    if not os.execute(quote(arg[i]) .. " " .. quote(here .. "/" .. file) .. rest) then
      io.stderr:write("bench: ", program, " failed\n")
    end
  end
end
