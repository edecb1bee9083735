--- How proxies cross a connection: as the numbers that the server knows their objects by.
--
-- The class is a module, so that it goes by its name. Both sides put references for proxies
-- into a message, and proxies for references, and tell in the message that they have.

local Reference = { __name = "mp.Reference", __mp = "mp.Reference" }

--- A reference.
function Reference.of(kind, number) return setmetatable({ kind = kind, number = number }, Reference) end

-- Replaces what f gives something for, in tables at any depth, which are copied.
local function swap(value, f, seen)
  if type(value) ~= "table" then return value end
  local new = seen[value]
  if new ~= nil then return new end
  new = f(value)
  if new ~= nil then
    seen[value] = new
    return new
  end
  new = {}
  seen[value] = new
  for key, item in next, value do new[swap(key, f, seen)] = swap(item, f, seen) end
  return setmetatable(new, getmetatable(value))
end

--- A copy of a table with references for proxies, or proxies for references.
-- @param f function(table) that returns what is to stand for it, or nil
-- @return the copy
function Reference.swap(value, f) return swap(value, f, {}) end

--- Whether a table is a reference that can be one.
function Reference.is(value)
  return getmetatable(value) == Reference and type(value.kind) == "string"
    and math.type(value.number) == "integer"
end

return Reference
