-- W8: encode and decode of the payload shapes.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local encode, decode = mp.marshal.encode, mp.marshal.decode
for _, p in ipairs(lib.big_payloads()) do
  local name, value = p[1], p[2]
  if lib.wanted("w8.mplua.encode." .. name) then
    local burst = (name == "int" or name == "str100" or name == "rec") and 256 or 1
    local data = encode(value)
    lib.report("w8.mplua.encode." .. name,
               lib.per_op(function() encode(value) end, burst, lib.SECS / 2) * 1e9, "ns/value")
    lib.report("w8.mplua.decode." .. name,
               lib.per_op(function() decode(data) end, burst, lib.SECS / 2) * 1e9, "ns/value")
    lib.report("w8.mplua.size." .. name, #data, "bytes")
  end
end
