---@meta _

---@class mp
local mp = {}

--- {host, port}, or the path of a socket, or "\0" and a name (of Linux, without a file).
---@alias mp.Address string|{ [1]: string, [2]: integer }

--- What a connection sends values as: "pickle" is Python's; a receiver recognises both.
---@alias mp.Format "marshal"|"pickle"

--- One end of a pipe, or of a connection between a listener and a client.
---@class mp.Connection
---@field closed boolean
---@field readable boolean whether it can receive
---@field writable boolean whether it can send
---@field format mp.Format
local Connection = {}

--- Sends a value. Raises "broken pipe" when the other end is closed.
---@param value any anything that can be marshalled, not nil (`mp.null` can be sent)
---@param timeout? number seconds, until the first byte is out; nil waits for ever
---@return true|nil sent
---@return "timeout"|nil code
function Connection:send(value, timeout) end

--- Receives a value. Raises "truncated message", and closes, when the sender died inside it.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return any|nil value
---@return "eof"|"timeout"|nil code
function Connection:recv(timeout) end

--- Sends bytes as they are.
---@param s string
---@param i? integer first byte, as in string.sub; default: 1
---@param j? integer last byte; default: -1
---@param timeout? number seconds, until the first byte is out; nil waits for ever
---@return true|nil sent
---@return "timeout"|nil code
function Connection:send_bytes(s, i, j, timeout) end

--- Receives bytes.
---@param maxlength? integer a longer message is an error, and closes the connection
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return string|nil bytes
---@return "eof"|"timeout"|nil code
function Connection:recv_bytes(maxlength, timeout) end

--- Whether there is something to receive, or the end.
---@param timeout? number seconds; default: 0, which does not wait
---@return boolean ready
function Connection:poll(timeout) end

--- Iterates over the values that arrive, to the end of the stream.
---@return fun(): any iterator
---@nodiscard
function Connection:messages() end

--- Its descriptor, which stays the connection's.
---@return integer fd
---@nodiscard
function Connection:fileno() end

--- Closes it. Does nothing the second time.
function Connection:close() end

--- Two connected ends.
---@param duplex? boolean default: true; false: the first only receives, the second only sends
---@return mp.Connection receiver
---@return mp.Connection sender
---@nodiscard
function mp.Pipe(duplex) end

--- Options of `mp.Listener`.
---@class mp.ListenerOptions
---@field authkey? string key that both sides must know
---@field format? mp.Format what its connections send; default: "marshal"
---@field backlog? integer how many may wait to be accepted; default: 128
---@field family? "AF_INET"|"AF_INET6"|"AF_UNIX"
---@field legacy? boolean let Python 3.11 and older in (MD5)
---@field allow_code? boolean load functions that are received
---@field max_message? integer longest message, bytes; default: 1 GiB

--- Waits for connections, from mplua or Python's multiprocessing.
---@class mp.Listener
---@field address mp.Address where it listens; a port of 0 is replaced by the one that it got
---@field last_accepted mp.Address|nil who was accepted last; "" who has no address
local Listener = {}

--- Waits for the next connection.
---@param timeout? number seconds; nil waits for ever, 0 does not wait
---@return mp.Connection|nil connection
---@return "denied"|"timeout"|nil code "denied": somebody did not know the key
function Listener:accept(timeout) end

--- Stops listening; accepted connections stay. Does nothing the second time.
function Listener:close() end

--- Listens at an address. Raises when it is taken, or not one of this machine.
---@param address? mp.Address nil: a path in a directory of its own; port 0: any that is free
---@param options? mp.ListenerOptions
---@return mp.Listener listener
---@nodiscard
function mp.Listener(address, options) end

--- Options of `mp.Client`.
---@class mp.ClientOptions
---@field authkey? string key that both sides must know
---@field format? mp.Format what is sent; default: "marshal"
---@field timeout? number seconds to connect, and to show the key; nil: the system's
---@field family? "AF_INET"|"AF_INET6"|"AF_UNIX"
---@field legacy? boolean talk to Python 3.11 and older (MD5)
---@field allow_code? boolean load functions that are received
---@field max_message? integer longest message, bytes; default: 1 GiB

--- Connects to a listener.
---@param address mp.Address
---@param options? mp.ClientOptions
---@return mp.Connection|nil connection
---@return "refused"|"denied"|"unreachable"|"timeout"|nil code
function mp.Client(address, options) end

--- A string that connections of format "pickle" send as Python's bytes.
---@class mp.Bytes

--- Marks a string: connections of format "pickle" send it as bytes, also when it is UTF-8.
---@param s string
---@return mp.Bytes bytes
---@nodiscard
function mp.bytes(s) end
