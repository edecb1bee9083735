-- What `make` makes: the libraries, the embedding, what is installed, and the set-up.
local T = require "spec.helper"

local root = require("lfs").currentdir()
local multiarch = (T.shell "gcc -print-multiarch"):gsub("%s+$", "")
local libdir = "/usr/lib/" .. multiarch

-- A sanitized tree cannot be linked into plain programs.
local function needs_plain()
  if T.sanitized then pending("not with sanitizers") end
end

local dir
setup(function()
  dir = T.tmpname()
  assert(os.execute("mkdir " .. dir))
end)
teardown(function() os.execute("rm -rf " .. dir) end)

local function write(name, text)
  local file = assert(io.open(dir .. "/" .. name, "wb"))
  file:write(text)
  file:close()
  return dir .. "/" .. name
end

--- Runs a command that must succeed, returns what it wrote.
local function sh(command, seconds)
  local out, code = T.shell(command, seconds)
  assert.equal(0, code, command .. "\n" .. out)
  return out
end

describe("the libraries", function()
  it("have no Lua of their own, but the command has", function()
    for _, name in ipairs { "mp.so", "libmplua.so" } do
      local out = sh(("nm -D --defined-only %s/%s"):format(T.build, name))
      assert.is_nil(out:find(" T luaL?_"), name)
    end
    assert.truthy(sh("nm -D --defined-only " .. T.exe):find(" T lua_callk"))
  end)

  it("export their public names only", function()
    assert.equal("luaopen_mp\n", sh(("nm -D --defined-only %s/mp.so | awk '{print $3}'"):format(T.build)))
    local public = "luaopen_mp\nmplua_main\nmplua_openlibs\nmplua_shutdown\n"
    assert.equal(public, sh(("nm -D --defined-only %s/libmplua.so | awk '{print $3}' | sort"):format(T.build)))
    assert.equal(public, sh(("nm -g --defined-only %s/libmplua.a | awk '$2 == \"T\" {print $3}' | sort")
      :format(T.build)))
  end)

  it("need the system's Lua where they need one", function()
    local needed = sh(("readelf -d %s/libmplua.so"):format(T.build))
    assert.matches("%[liblua5%.4%.so%.0%]", needed)
    assert.matches("soname: %[libmplua%.so%.0%]", needed)
    assert.is_nil(sh(("readelf -d %s/mp.so"):format(T.build)):find "liblua")
    assert.is_nil(sh("readelf -d " .. T.exe):find "readline")
    assert.is_nil(sh("readelf -d " .. T.exe):find "liblua")
  end)
end)

local host = [[
#include <mplua.h>
#include <stdio.h>
#ifdef COMMAND
int main(int argc, char **argv) { return mplua_main(argc, argv); }
#else
int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  (void)argc;
  luaL_openlibs(L);
  mplua_openlibs(L);
  mplua_shutdown(L);
  if (luaL_dostring(L, argv[1]) != LUA_OK) {
    printf("failed: %s\n", lua_tostring(L, -1));
    return 1;
  }
  mplua_shutdown(L);
  printf("version %s, top %d\n", MPLUA_VERSION, lua_gettop(L));
  lua_close(L);
  return 0;
}
#endif
]]

describe("make install", function()
  setup(function()
    if T.sanitized then return end
    local tree = T.build:gsub("^" .. root:gsub("%p", "%%%0") .. "/", "")
    sh(("cd %s && make --no-print-directory BUILD=%s PREFIX=/opt/mplua DESTDIR=%s/root install")
      :format(root, tree, dir), 60)
  end)

  it("puts everything where it belongs", function()
    needs_plain()
    for _, name in ipairs { "bin/mplua", "include/mplua.h", "lib/libmplua.a", "lib/libmplua.so",
      "lib/libmplua.so.0", "lib/lua/5.4/mp.so", "lib/pkgconfig/mplua.pc" } do
      assert.truthy(T.read(dir .. "/root/opt/mplua/" .. name), name)
    end
    local pc = T.read(dir .. "/root/opt/mplua/lib/pkgconfig/mplua.pc")
    assert.matches("prefix=/opt/mplua\n", pc)
    assert.matches("Version: 0%.1%.0\n", pc)
  end)

  it("gives C hosts a static and a shared library", function()
    needs_plain()
    local source = write("host.c", host)
    local at = dir .. "/root/opt/mplua"
    local compile = ("gcc -Wall -Wextra -Werror -pedantic -I%s/include -I/usr/include/lua5.4 -o %s/%%s %%s %s %%s")
      :format(at, dir, source)
    local script = T.quote "local mp = require 'mp' print(type(mp), mp == require 'mp')"
    sh(compile:format("static", "", ("%s/lib/libmplua.a %s/liblua5.4.a -ldl -lm -lpthread"):format(at, libdir)))
    assert.equal("table\ttrue\nversion 0.1.0, top 0\n", sh(dir .. "/static " .. script))
    sh(compile:format("shared", "", ("-L%s/lib -lmplua -llua5.4"):format(at)))
    assert.equal("table\ttrue\nversion 0.1.0, top 0\n",
      sh(("LD_LIBRARY_PATH=%s/lib %s/shared %s"):format(at, dir, script)))
  end)

  it("gives hosts the command as a function", function()
    needs_plain()
    local source = write("command.c", host)
    local at = dir .. "/root/opt/mplua"
    sh(("gcc -DCOMMAND -I%s/include -I/usr/include/lua5.4 -o %s/command %s -L%s/lib -lmplua -llua5.4")
      :format(at, dir, source, at))
    local out, code = T.shell(("LD_LIBRARY_PATH=%s/lib %s/command -e 'print(arg[0] ~= nil, type(require \"mp\"))"
      .. " os.exit(3)'"):format(at, dir))
    assert.equal("true\ttable\n", out)
    assert.equal(3, code)
  end)

  it("gives C++ a header that it can read", function()
    needs_plain()
    if not os.execute("command -v g++ >/dev/null") then pending("needs g++") end
    local source = write("host.cc", host)
    local at = dir .. "/root/opt/mplua"
    sh(("g++ -Wall -Wextra -Werror -I%s/include -I/usr/include/lua5.4 -o %s/cc %s -L%s/lib -lmplua -llua5.4")
      :format(at, dir, source, at))
    assert.equal("version 0.1.0, top 0\n", sh(("LD_LIBRARY_PATH=%s/lib %s/cc ''"):format(at, dir)))
  end)
end)

describe("the embedding of Lua files", function()
  local function embed(names)
    return sh(("cd %s && lua5.4 %s/runtime/embed.lua out.c lua %s"):format(dir, root, names))
  end

  setup(function()
    sh(("mkdir -p %s/lua/mp/deep"):format(dir))
    write("lua/mp/init.lua", "return 'init', ...")
    write("lua/mp/x.lua", "#!shebang\nerror 'here'")
    write("lua/mp/deep/y.lua", "")
  end)

  it("names modules after their files", function()
    embed "lua/mp/init.lua lua/mp/x.lua lua/mp/deep/y.lua"
    local text = T.read(dir .. "/out.c")
    assert.truthy(text:find('{"mp", "@mp/init.lua", ', 1, true))
    assert.truthy(text:find('{"mp.x", "@mp/x.lua", ', 1, true))
    assert.truthy(text:find('{"mp.deep.y", "@mp/deep/y.lua", ', 1, true))
  end)

  it("leaves the file alone when nothing changed", function()
    embed "lua/mp/init.lua"
    sh(("touch -d '2001-01-01' %s/out.c"):format(dir))
    local before = sh(("stat -c %%Y %s/out.c"):format(dir))
    embed "lua/mp/init.lua"
    assert.equal(before, sh(("stat -c %%Y %s/out.c"):format(dir)))
    embed "lua/mp/init.lua lua/mp/x.lua"
    assert.not_equal(before, sh(("stat -c %%Y %s/out.c"):format(dir)))
  end)

  it("refuses files that are not Lua, by name", function()
    write("lua/mp/bad.lua", "x = = 1")
    local out, code = T.shell(("cd %s && lua5.4 %s/runtime/embed.lua bad.c lua lua/mp/bad.lua"):format(dir, root))
    assert.equal(1, code)
    assert.matches("lua/mp/bad%.lua:1: unexpected symbol", out)
    assert.is_nil(T.read(dir .. "/bad.c"))
  end)
end)

describe("the set-up", function()
  it("is content where everything is there", function()
    assert.equal("", sh(("sh %s/.ci/setup build test"):format(root)))
  end)

  it("names the missing packages and the command that installs them", function()
    sh(("mkdir -p %s/bin && for c in sh gcc make objcopy id env sleep; do ln -sf $(command -v $c) %s/bin; done")
      :format(dir, dir))
    local out, code = T.shell(("PATH=%s/bin sh %s/.ci/setup --check build test lint"):format(dir, root))
    assert.equal(1, code)
    assert.equal("mplua: missing packages: lua5.4 lua-busted lua-check cppcheck\n"
      .. "install them with:  sudo apt-get install -y lua5.4 lua-busted lua-check cppcheck\n", out)
    -- the same without --check where there is no apt-get
    assert.equal(out, (T.shell(("PATH=%s/bin sh %s/.ci/setup build test lint"):format(dir, root))))
  end)

  it("installs as root, trying again when that fails", function()
    write("bin/apt-get", '#!/bin/sh\necho "$@" >>' .. dir .. "/calls\n"
      .. "[ $(wc -l <" .. dir .. "/calls) -gt 1 ]\n")
    sh(("cd %s/bin && rm -f id sleep && printf '#!/bin/sh\\necho 0\\n' >id && printf '#!/bin/sh\\n' >sleep"
      .. " && chmod +x id sleep apt-get && ln -sf $(command -v wc) ."):format(dir))
    local out, code = T.shell(("PATH=%s/bin sh %s/.ci/setup test"):format(dir, root))
    assert.equal(0, code)
    assert.equal("mplua: installing lua-busted\nmplua: apt-get failed (attempt 1 of 3)\n", out)
    assert.matches("update\n.*update\n.*install %-y %-%-no%-install%-recommends lua%-busted\n$",
      T.read(dir .. "/calls"))
  end)
end)
