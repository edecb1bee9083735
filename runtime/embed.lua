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

-- What is not read again when the module is loaded: comments and the spaces that lines begin with.
-- Lines keep their numbers.
local function without_comments(text)
  local kept, at = {}, 1
  local function keep(last)
    kept[#kept + 1] = text:sub(at, last)
    at = last + 1
  end
  while at <= #text do
    local from = text:find("[-\"'%[\n]", at)
    if not from then
      keep(#text)
      break
    end
    keep(from - 1)
    local long = text:match("^%-?%-?%[(=*)%[", from)
    if text:find("^%-%-", from) then
      if long and text:find("^%-%-%[=*%[", from) then
        local _, last = text:find("]" .. long .. "]", from, true)
        kept[#kept + 1] = text:sub(from, last):gsub("[^\n]", "")
        at = last + 1
      else
        at = text:find("\n", from, true) or #text + 1
      end
    elseif text:find("^%[=*%[", from) then
      keep(select(2, text:find("]" .. long .. "]", from, true)))
    elseif text:find("^[\"']", from) then
      local last, quote = from + 1, text:sub(from, from)
      while text:sub(last, last) ~= quote do last = last + (text:sub(last, last) == "\\" and 2 or 1) end
      keep(last)
    elseif text:find("^\n", from) then
      keep(from)
      at = text:find("[^ ]", at) or #text + 1
    else
      keep(from)
    end
  end
  return table.concat(kept)
end

local function bytes(text)
  local lines = {}
  for i = 1, #text, 24 do
    lines[#lines + 1] = table.concat({ text:byte(i, i + 23) }, ",")
  end
  return table.concat(lines, ",\n")
end

-- In a section of its own: it is read once, and a process that reads what lies beside it is not to
-- have it in memory.
local parts = { '/* Made by runtime/embed.lua. */\n#include "embedded.h"\n'
  .. '#define MODULE_TEXT static const unsigned char __attribute__((section("mplua_text")))\n' }
local entries = {}
for i = 3, #arg do
  local path = arg[i]
  local short = path:sub(#root + 2)
  local text = read(path):gsub("^#[^\n]*", "")
  local f = assert(load(text, "@" .. path, "t"))
  local short_text = without_comments(text)
  assert(string.dump(assert(load(short_text, "@" .. path, "t"))) == string.dump(f), path)
  local name = short:gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
  parts[#parts + 1] = ("MODULE_TEXT m%d[] = {\n%s};\n"):format(i, bytes(short_text))
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
