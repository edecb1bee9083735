-- A server: waits for clients on a port, which process10.lua or a Python script may be.
-- Run: mplua examples/process09.lua [PORT], and in another terminal process10.lua

local mp = require "mp"

local function show(value)
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  for key, item in pairs(value) do
    parts[#parts + 1] = math.type(key) and show(item) or ("%s = %s"):format(key, show(item))
  end
  table.sort(parts)
  return "{" .. table.concat(parts, ", ") .. "}"
end

io.stdout:setvbuf("line")
local listener <close> = mp.Listener({ "localhost", tonumber(arg[1]) or 6000 },
  { authkey = "mypassword", format = "pickle", legacy = true })
print("listening..")
local message
repeat
  local conn <close>, why = listener:accept()
  if conn then
    local host, port = table.unpack(listener.last_accepted)
    print(("connection accepted from ('%s', %d)"):format(host, port))
    conn:send({ 1, 2, 3, 4 })
    conn:send_bytes("hello")
    message, why = conn:recv()
  end
  print(why or show(message))
until message == false
