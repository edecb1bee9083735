-- A client of process09.lua: it calls three times, and ends the server with the last word.
-- Run: mplua examples/process10.lua [PORT], when process09.lua listens

local mp = require "mp"

local address = { "localhost", tonumber(arg[1]) or 6000 }

for _, message in ipairs { { one = 1, two = 2 }, { 2, 3, 4 }, false } do
  local conn <close> = assert(mp.Client(address,
    { authkey = "mypassword", format = "pickle", legacy = true }))
  print("{" .. table.concat(conn:recv(), ", ") .. "}")
  print(conn:recv_bytes())
  conn:send(message)
end
