---@meta _

---@class mp
local mp = {}

--- As in Python's `array`; capitals are unsigned.
---@alias mp.Typecode
---| "c" # one byte, as a string
---| "b" # integer of 1 byte
---| "B"
---| "h" # integer of 2 bytes
---| "H"
---| "i" # integer of 4 bytes
---| "I"
---| "l" # integer of 8 bytes
---| "L"
---| "q" # integer of 8 bytes
---| "Q"
---| "f" # float
---| "d" # double

--- Options of `mp.Value`, `mp.Array` and `mp.Struct`.
---@class mp.CellOptions
---@field lock? boolean default: true; false: no lock, `add` and `compare_exchange` are atomic instructions

--- What values have.
---@class mp.ValueMethods
---@field value number|string the number (for typecode "c" the byte); can be set
local ValueMethods = {}

--- Adds to the value in one step. Raises, and changes nothing, when the sum does not fit.
---@param n number
---@return number sum
function ValueMethods:add(n) end

--- Replaces the value by what f makes of it, in one step. Without a lock f may be called again.
---@param f fun(value: number|string): number|string
---@return number|string value the new one
function ValueMethods:update(f) end

--- Replaces the value if it is `old`.
---@param old number|string
---@param new number|string
---@return boolean done whether it was `old`
function ValueMethods:compare_exchange(old, new) end

--- A number or byte that processes share.
---@class mp.Value : mp.ValueMethods
local Value = {}

--- The lock that every operation takes. Raises when it was made without one.
---@return mp.RLock lock
---@nodiscard
function Value:get_lock() end

--- Closes this handle. Raises inside an update.
function Value:close() end

--- What arrays have: `a[i]` (from 1), `#a`, ipairs. Reading outside gives nil, writing raises.
---@class mp.ArrayMethods
---@field [integer] number|string
---@operator len: integer
local ArrayMethods = {}

--- The elements from i to j; negative ones count from the end, as in string.sub.
---@param i? integer default: 1
---@param j? integer default: the last
---@return number[]|string list a string for typecode "c"
---@nodiscard
function ArrayMethods:get(i, j) end

--- Sets the elements from i on: all or, when one does not fit, none and an error.
---@param i integer negative ones count from the end
---@param list number[]|string[]|string a string for typecode "c" only
function ArrayMethods:set(i, list) end

--- Sets all elements.
---@param x number|string
function ArrayMethods:fill(x) end

--- All elements as a list.
---@return (number|string)[] list
---@nodiscard
function ArrayMethods:totable() end

--- The memory of the array as a string.
---@return string bytes
---@nodiscard
function ArrayMethods:bytes() end

--- Adds to an element in one step. Raises, and changes nothing, when the sum does not fit.
---@param i integer
---@param n number
---@return number sum
function ArrayMethods:add(i, n) end

--- Replaces an element by what f makes of it, in one step. Without a lock f may be called again.
---@param i integer
---@param f fun(value: number|string): number|string
---@return number|string value the new one
function ArrayMethods:update(i, f) end

--- Replaces an element if it is `old`.
---@param i integer
---@param old number|string
---@param new number|string
---@return boolean done whether it was `old`
function ArrayMethods:compare_exchange(i, old, new) end

--- Numbers or bytes that processes share.
---@class mp.Array : mp.ArrayMethods
local Array = {}

--- The lock that every operation takes. Raises when it was made without one.
---@return mp.RLock lock
---@nodiscard
function Array:get_lock() end

--- Closes this handle. Raises inside an update.
function Array:close() end

--- A field of a record: {name, typecode}, or {name, "c", n} for a string of up to n bytes.
---@alias mp.StructField { [1]: string, [2]: mp.Typecode, [3]: integer? }

--- A record type: call it to make a record, `Point{ x = 1 }`. Fields that are not named are 0 or "".
---@class mp.StructType
---@overload fun(fields?: table<string, number|string>): mp.Struct
local StructType = {}

--- Makes an array of records.
---@param n integer|table<string, number|string>[] how many, or a list of tables of fields
---@return mp.StructArray array
---@nodiscard
function StructType:array(n) end

--- Closes this handle.
function StructType:close() end

--- A record: its fields are read and written by name, an unknown one is an error.
---@class mp.Struct
---@field [string] any
local Struct = {}

--- Adds to a field in one step. Raises, and changes nothing, when the sum does not fit.
---@param field string
---@param n number
---@return number sum
function Struct:add(field, n) end

--- Replaces a field by what f makes of it, in one step. Without a lock f may be called again.
---@param field string
---@param f fun(value: number|string): number|string
---@return number|string value the new one
function Struct:update(field, f) end

--- Replaces a field if it is `old`.
---@param field string
---@param old number|string
---@param new number|string
---@return boolean done whether it was `old`
function Struct:compare_exchange(field, old, new) end

--- The fields as a table.
---@return table<string, number|string> fields as they were at one time, if there is a lock
---@nodiscard
function Struct:totable() end

--- The lock that every operation takes. Raises when its type was made without one.
---@return mp.RLock lock
---@nodiscard
function Struct:get_lock() end

--- Closes this handle. Raises inside an update.
function Struct:close() end

--- Records: `a[i].x` is a field, `a[i] = { x = 1 }` sets all fields of a record.
---@class mp.StructArray
---@field [integer] mp.Struct
---@operator len: integer
local StructArray = {}

--- The records as a list of tables.
---@return table<string, number|string>[] list
---@nodiscard
function StructArray:totable() end

--- The lock that every operation takes. Raises when its type was made without one.
---@return mp.RLock lock
---@nodiscard
function StructArray:get_lock() end

--- Closes this handle. Raises inside an update.
function StructArray:close() end

--- Makes a number or byte that processes share, read and written as `v.value`. A number that does
--- not fit its type is refused.
---@param typecode mp.Typecode
---@param initial? number|string default: 0
---@param options? mp.CellOptions
---@return mp.Value value
---@nodiscard
function mp.Value(typecode, initial, options) end

--- As `mp.Value`, without a lock: `add`, `update` and `compare_exchange` are atomic instructions.
---@param typecode mp.Typecode
---@param initial? number|string default: 0
---@return mp.Value value
---@nodiscard
function mp.RawValue(typecode, initial) end

--- Makes an array of numbers or bytes that processes share.
---@param typecode mp.Typecode
---@param init integer|number[]|string[]|string a size (zeros), or the elements; a string for typecode "c" only
---@param options? mp.CellOptions
---@return mp.Array array
---@nodiscard
function mp.Array(typecode, init, options) end

--- As `mp.Array`, without a lock: `add`, `update` and `compare_exchange` are atomic instructions.
---@param typecode mp.Typecode
---@param init integer|number[]|string[]|string a size (zeros), or the elements; a string for typecode "c" only
---@return mp.Array array
---@nodiscard
function mp.RawArray(typecode, init) end

--- Makes a record type: `mp.Struct{ {"x", "d"}, {"y", "d"}, {"name", "c", 16} }`.
---@param fields mp.StructField[]
---@param options? mp.CellOptions
---@return mp.StructType type
---@nodiscard
function mp.Struct(fields, options) end
