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
    local public = ("luaopen_mp mplua_errmsg mplua_field mplua_free mplua_main mplua_openlibs mplua_pool_call "
      .. "mplua_pool_close mplua_pool_fileno mplua_pool_open mplua_pool_pending mplua_pool_run mplua_pool_take "
      .. "mplua_queue_close mplua_queue_fileno mplua_queue_from mplua_queue_get mplua_queue_join "
      .. "mplua_queue_open mplua_queue_push mplua_queue_put mplua_queue_put_value mplua_queue_shutdown "
      .. "mplua_queue_size mplua_queue_task_done mplua_shutdown mplua_strerror mplua_version "):gsub(" ", "\n")
    assert.equal(public, sh(("nm -D --defined-only %s/libmplua.so | awk '{print $3}' | sort"):format(T.build)))
    assert.equal(public, sh(("nm -g --defined-only %s/libmplua.a | awk '$2 == \"T\" {print $3}' | sort")
      :format(T.build)))
  end)

  it("do not name the directory in which they were built", function()
    needs_plain()
    for _, name in ipairs { "mplua", "mp.so", "libmplua.a", "libmplua.so" } do
      assert.is_nil(T.read(T.build .. "/" .. name):find(root, 1, true), name)
    end
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

-- Everything that is installed with nothing but files of the sources, below the prefix.
local installed = { "bin/mplua", "include/mplua.h", "lib/libmplua.a", "lib/libmplua.so", "lib/libmplua.so.0",
  "lib/libmplua.so.0.1.0", "lib/lua/5.4/mp.so", "lib/pkgconfig/mplua.pc", "share/man/man1/mplua.1" }

describe("make install", function()
  local tree = T.build:gsub("^" .. root:gsub("%p", "%%%0") .. "/", "")

  local function make(words)
    return sh(("cd %s && make --no-print-directory BUILD=%s %s"):format(T.quote(root), tree, words), 60)
  end

  -- What is below a directory that is no directory, sorted.
  local function files(at)
    local list = {}
    for name in sh(("cd %s && find . ! -type d -printf '%%P\\n' | LC_ALL=C sort"):format(T.quote(at)))
      :gmatch("[^\n]+") do
      -- the annotations and the manual are there when there are some
      if not name:find "share/mplua/meta/" and not name:find "share/doc/mplua/html/" then list[#list + 1] = name end
    end
    return list
  end

  local at -- the prefix, with a space in it
  setup(function()
    if T.sanitized then return end
    at = dir .. "/the root/opt"
    make(("PREFIX='%s' install"):format(at))
  end)

  it("puts everything where it belongs", function()
    needs_plain()
    assert.same(installed, files(at))
    for _, name in ipairs(installed) do assert.truthy(T.read(at .. "/" .. name), name) end
    for name in sh "find lua/meta -type f":gmatch "lua/(meta/[^\n]+)" do
      assert.equal(T.read("lua/" .. name), T.read(at .. "/share/mplua/" .. name), name)
    end
    assert.equal("libmplua.so.0\nlibmplua.so.0.1.0\n",
      sh(("cd '%s/lib' && readlink libmplua.so libmplua.so.0"):format(at)))
  end)

  it("obeys DESTDIR and LIBDIR, of which only the second is in the pkg-config file", function()
    needs_plain()
    make(("PREFIX=/usr LIBDIR=/usr/lib/%s DESTDIR='%s/stage two' install"):format(multiarch, dir))
    local expected = {}
    for i, name in ipairs(installed) do expected[i] = "usr/" .. name:gsub("^lib/", "lib/" .. multiarch .. "/") end
    assert.same(expected, files(dir .. "/stage two"))
    local pc = T.read(("%s/stage two/usr/lib/%s/pkgconfig/mplua.pc"):format(dir, multiarch))
    assert.matches("^prefix=/usr\nlibdir=${prefix}/lib/" .. multiarch:gsub("%p", "%%%0") .. "\n", pc)
    assert.matches("\nVersion: 0%.1%.0\n", pc)
    assert.is_nil(pc:find("stage two", 1, true))
  end)

  it("is undone by make uninstall, which leaves what is not its own", function()
    needs_plain()
    local there = dir .. "/gone"
    sh(("mkdir -p %s/lib/lua/5.4 && touch %s/lib/lua/5.4/other.so"):format(there, there))
    make(("PREFIX=%s install"):format(there))
    make(("PREFIX=%s uninstall"):format(there))
    assert.equal("lib/lua/5.4/other.so\n", sh(("cd %s && find . ! -type d -printf '%%P\\n'"):format(there)))
    assert.equal("", sh(("find %s -type d -name '*mplua*'"):format(there)))
    make(("PREFIX=%s uninstall"):format(there)) -- once more is no error
  end)

  it("gives a module that stock lua5.4 loads from anywhere", function()
    needs_plain()
    assert.equal("0.1.0\n", sh(("cd / && env -i LUA_CPATH='%s/lib/lua/5.4/?.so' "
      .. "lua5.4 -e 'print(require(\"mp\").version)'"):format(at)))
    -- it finds it without a variable when the prefix is one of these
    local cpath = sh "env -i lua5.4 -e 'print(package.cpath)'"
    assert.truthy(cpath:find("/usr/local/lib/lua/5.4/?.so", 1, true))
    assert.truthy(cpath:find(libdir .. "/lua/5.4/?.so", 1, true))
  end)

  describe("gives hosts", function()
    local script = T.quote "local mp = require 'mp' print(type(mp), mp == require 'mp')"
    local said = "table\ttrue\nversion 0.1.0, top 0\n"

    -- Compiles a host with what pkg-config says and returns its path, ready to be run.
    local function build(name, compiler, flags)
      if not os.execute("command -v pkg-config >/dev/null") then return pending("needs pkg-config") end
      write(name, host)
      -- eval: there is a space in the paths
      sh(("cd %s && eval %s -o %s.out %s $(PKG_CONFIG_PATH='%s/lib/pkgconfig' pkg-config %s mplua)")
        :format(dir, compiler, name, name, at, flags))
      return ("LD_LIBRARY_PATH='%s/lib' %s/%s.out "):format(at, dir, name)
    end

    it("of C a shared library", function()
      needs_plain()
      local run = build("host.c", "gcc -std=c11 -Wall -Wextra -Werror -pedantic", "--cflags --libs")
      assert.equal(said, sh(run .. script))
      assert.matches("libmplua%.so%.0", sh(("readelf -d %s/host.c.out"):format(dir)))
    end)

    it("of C a static library", function()
      needs_plain()
      local run = build("still.c", "gcc -Wall -Wextra -Werror -static", "--static --cflags --libs")
      assert.equal(said, sh(run .. script))
      sh(("gcc -I'%s/include' -I/usr/include/lua5.4 -o %s/half %s/still.c '%s/lib/libmplua.a' %s/liblua5.4.a"
        .. " -ldl -lm -lpthread"):format(at, dir, dir, at, libdir))
      assert.equal(said, sh(("env -i %s/half %s"):format(dir, script)))
    end)

    it("of C++ a header that it can read", function()
      needs_plain()
      if not os.execute("command -v g++ >/dev/null") then pending("needs g++") end
      local run = build("host.cc", "g++ -Wall -Wextra -Werror -pedantic", "--cflags --libs")
      assert.equal(said, sh(run .. script))
    end)

    it("the command as a function", function()
      needs_plain()
      local run = build("command.c", "gcc -Wall -Werror -DCOMMAND", "--cflags --libs")
      local out, code = T.shell(run .. "-e 'print(arg[0] ~= nil, type(require \"mp\")) os.exit(3)'")
      assert.equal("true\ttable\n", out)
      assert.equal(3, code)
    end)
  end)
end)

describe("the manual page", function()
  it("is what mandoc and man like to read", function()
    local tried = 0
    local function try(program, command)
      if not os.execute("command -v " .. program .. " >/dev/null") then return end
      tried = tried + 1
      assert.equal("", (T.shell(command .. " 2>&1 >/dev/null | grep -v 'outdated mandoc.db'")))
    end
    try("mandoc", "mandoc -Tlint -Wwarning runtime/mplua.1 1>&2")
    try("man", "LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z runtime/mplua.1")
    if tried == 0 then pending("needs mandoc or man") end
  end)
end)

describe("the recipes", function()
  it("are of this version", function()
    local version = T.read("runtime/mplua.h"):match('MPLUA_VERSION "([^"]+)"')
    assert.equal(version, T.read("runtime/debian/changelog"):match("^mplua %(([%d.]+)%-%w+%) "))
    -- the rockspec and the tarball get it from the header
    assert.is_nil(T.read("runtime/mplua-scm-1.rockspec"):find(version, 1, true))
  end)

  it("have the words of the licence", function()
    local function words(text) return (text:gsub("\n %.\n", "\n\n"):gsub("%s+", " ")) end
    local licence = words(T.read("LICENSE"):match("Permission.*"))
    assert.truthy(words(T.read("runtime/debian/copyright")):find(licence, 1, true))
    assert.equal(T.read("LICENSE"):match("Copyright %(c%) ([^\n]+)"),
      T.read("runtime/debian/copyright"):match("Copyright: ([^\n]+)"))
  end)

  it("name each library that is loaded while it runs", function()
    local loaded = T.read("runtime/os/crypto.c") .. T.read("runtime/prompt.c")
    local control = T.read("runtime/debian/control")
    for library, package in pairs { ["libcrypto.so.3"] = "libssl3", ["libreadline.so.8"] = "libreadline8" } do
      assert.truthy(loaded:find(library, 1, true), library)
      assert.truthy(control:find(package, 1, true), package)
    end
  end)

  it("make a rockspec that luarocks likes", function()
    if not os.execute("command -v luarocks >/dev/null") then return pending("needs luarocks") end
    assert.equal("", (sh "luarocks lint runtime/mplua-scm-1.rockspec":gsub("%s", "")))
  end)
end)

describe("make dist", function()
  it("packs the same bytes again, from the tree and from what it packed", function()
    T.limit(90) -- xz takes its time
    if not os.execute("command -v xz >/dev/null") then return pending("needs xz") end
    local copy, again = dir .. "/dist", dir .. "/dist again"
    sh(("sh .ci/dist %s 1.2.3 && mkdir '%s' && tar xf %s/mplua-1.2.3.tar.xz -C '%s'"):format(copy, again, copy, again))
    sh(("cd '%s/mplua-1.2.3' && umask 077 && sh .ci/dist build 1.2.3"):format(again))
    assert.truthy(T.read(copy .. "/mplua-1.2.3.tar.xz") == T.read(again .. "/mplua-1.2.3/build/mplua-1.2.3.tar.xz"))
    -- everything that make needs, dotfiles too, and nothing that was made
    for _, name in ipairs { "Makefile", "LICENSE", ".ci/setup", ".busted", "runtime/main.c", "lua/mp/init.lua" } do
      assert.truthy(T.read(("%s/mplua-1.2.3/%s"):format(again, name)), name)
    end
    assert.equal("", sh(("cd '%s/mplua-1.2.3' && find . -name '*.o' -o -name '*.so' -o -name .git"):format(again)))
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
