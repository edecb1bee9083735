--- Addresses and options of listeners and clients.

local check = require "mp.check"

local address = {}

--- Seconds that a handshake may take.
address.HANDSHAKE = 10
--- Bytes of a message that a connection receives, unless told otherwise.
local MAX_MESSAGE = 1 << 30

local families = { AF_INET = true, AF_INET6 = true, AF_UNIX = true }

--- What a script gave as an address, taken apart.
-- @param n number of the argument
-- @param default whether there need not be one
-- @return host and port; or nil and a path; or nil, nil
function address.split(n, fname, value, family, default)
  local host, port
  if type(value) == "table" then
    host, port = value[1], value[2]
    if type(host) ~= "string" or math.type(port) ~= "integer" or port < 0 or port > 65535
      or host:find("\0", 1, true) then
      check.arg_error(n, fname, "an address is {host, port}, with a port from 0 to 65535")
    end
  elseif type(value) == "string" then
    port = value
    if #value == 0 or #value > 107 then
      check.arg_error(n, fname, "the path of a socket has 1 to 107 bytes, this one has %d", #value)
    end
  elseif value ~= nil or not default then
    check.arg_error(n, fname, "an address is {host, port} or a path, got %s", check.typename(value))
  elseif family and family ~= "AF_UNIX" then
    host, port = family == "AF_INET6" and "::1" or "localhost", 0
  end
  if family and (family == "AF_UNIX") ~= (host == nil) then
    check.arg_error(n, fname, "the address is not of the family %s", family)
  end
  return host, port
end

local function expect(kind)
  return function(value) if type(value) ~= kind then return kind end end
end

local function positive(value)
  if math.type(value) ~= "integer" or value < 1 then return "a positive integer" end
end

--- The options that listeners and clients have in common.
address.options = {
  authkey = expect("string"), legacy = expect("boolean"), allow_code = expect("boolean"),
  max_message = positive,
  family = function(value)
    if not families[value] then return "'AF_INET', 'AF_INET6' or 'AF_UNIX'" end
  end,
  format = function(value)
    if value ~= "marshal" and value ~= "pickle" then return "'marshal' or 'pickle'" end
  end,
}

--- For conn_trust: whether pickles are sent, whether code is loaded, the longest message.
function address.ways(options)
  return options.format == "pickle", options.allow_code == true, options.max_message or MAX_MESSAGE
end

return address
