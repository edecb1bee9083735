-- W8: encode and decode of the payload shapes.
package.path = (arg[0]:match "^(.*)/" or ".") .. "/?.lua;" .. package.path
local mp = require "mp"
local lib = require "lib"

local encode, decode = mp.marshal.encode, mp.marshal.decode

-- Nanoseconds a call takes, and nothing else: what lies around it would be half of the shortest.
local function per_call(f, value, burst)
  return lib.per_op(function()
    for _ = 1, burst do f(value) end
  end, 1, lib.SECS / 2) / burst * 1e9
end

for _, p in ipairs(lib.big_payloads()) do
  local name, value = p[1], p[2]
  if lib.wanted("w8.mplua.encode." .. name) then
    local burst = (name == "int" or name == "str100" or name == "rec") and 256 or 1
    local data = encode(value)
    lib.report("w8.mplua.encode." .. name, per_call(encode, value, burst), "ns/value")
    lib.report("w8.mplua.decode." .. name, per_call(decode, data, burst), "ns/value")
    lib.report("w8.mplua.size." .. name, #data, "bytes")
  end
end
