-- Writes the library's Lua files as a C source: lua5.4 embed.lua OUT.c ROOT FILE...
-- mp/init.lua becomes module "mp", mp/x.lua "mp.x".  The file is left alone when
-- it says the same already, so that nothing is compiled again.

local out, root = arg[1], arg[2]

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function bytes(text)
  local lines = {}
  for i = 1, #text, 24 do
    lines[#lines + 1] = table.concat({ text:byte(i, i + 23) }, ",")
  end
  return table.concat(lines, ",\n")
end

local parts = { '/* Made by runtime/embed.lua. */\n#include "embedded.h"\n' }
local entries = {}
for i = 3, #arg do
  local path = arg[i]
  local short = path:sub(#root + 2)
  local text = read(path):gsub("^#[^\n]*", "")
  assert(load(text, "@" .. path, "t"))
  local name = short:gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
  parts[#parts + 1] = ("static const unsigned char m%d[] = {\n%s};\n"):format(i, bytes(text))
  entries[#entries + 1] = ('  {"%s", "@%s", (const char *)m%d, sizeof m%d},\n')
    :format(name, short, i, i)
end
entries[#entries + 1] = "  {NULL, NULL, NULL, 0},\n"
parts[#parts + 1] = "const struct lmp_module lmp_modules[] = {\n" .. table.concat(entries) .. "};\n"

local source = table.concat(parts, "\n")
local old = io.open(out, "rb")
if old then
  local same = old:read("a") == source
  old:close()
  if same then return end
end
local file = assert(io.open(out, "wb"))
assert(file:write(source))
assert(file:close())
