---@meta _

--- Values as strings.
---@class mp.marshal
local marshal = {}

--- A value as a string. Raises, with the path to it, when something in it cannot cross (a coroutine, a
--- connection, unknown userdata). Shared objects are handles, for the processes of the family.
---@param v any
---@return string s
---@nodiscard
function marshal.encode(v) end

--- Options of `mp.marshal.decode`.
---@class mp.DecodeOptions
---@field allow_code? boolean load functions; default: false. Never for bytes of strangers

--- The value that a string of `encode` stands for. Raises when it is malformed, or has functions and
--- `allow_code` is not set.
---@param s string
---@param options? mp.DecodeOptions
---@return any v
---@nodiscard
function marshal.decode(s, options) end

--- Registers a class (a metatable), which then goes by its name in all processes that have
--- registered it: `getmetatable(x) == class` holds for what arrives.
---@param name string
---@param class table
function marshal.register(name, class) end
