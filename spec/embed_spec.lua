-- Hosts in C: examples/embed, built and run.
local T = require "spec.helper"

local root = require("lfs").currentdir()

local opened_and_closed = [[
#include <mplua.h>
static const char script[] =
  "local mp = require 'mp'\n"
  "local pool <close> = mp.Pool(1) assert(#pool:map(function(n) return n end, { 1, 2, 3 }) == 3)\n"
  "local q = mp.Queue() q:put { 1 } q:get() local m = mp.Manager() assert(m:dict { a = 1 }.a == 1) m:shutdown()\n";
int main(void) {
  mplua_pool_options o = {.size = sizeof o, .processes = 1};
  for (int i = 0; i < 2; i++) {
    mplua_queue *q;
    mplua_pool *p;
    mplua_value *v;
    int ok;
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    mplua_openlibs(L);
    if (luaL_dostring(L, script) != LUA_OK) return 1;
    mplua_shutdown(L);
    lua_close(L);
    if (mplua_queue_open(&q, 0) || mplua_queue_put(q, "x", 1, 0) || mplua_queue_get(q, &v, 0)) return 2;
    mplua_free(v);
    mplua_queue_close(&q);
    if (mplua_pool_open(&p, &o) || mplua_pool_run(p, "return 1", NULL, 0, NULL)) return 3;
    if (mplua_pool_take(p, NULL, &ok, &v, 60) || !ok) return 4;
    mplua_free(v);
    mplua_pool_close(&p);
  }
  return 0;
}
]]

describe("the hosts in examples/embed", function()
  local dir, lua
  setup(function()
    dir = T.tmpname()
    assert(os.execute("mkdir " .. dir))
    lua = "/usr/lib/" .. (T.shell "gcc -print-multiarch"):gsub("%s+$", "") .. "/liblua5.4.a"
  end)
  teardown(function() os.execute("rm -rf " .. dir) end)

  -- What a host prints, and its exit code.
  local function host(name, args)
    if T.sanitized then pending("not with sanitizers") end
    local out, code = T.shell(("gcc -std=c11 -Wall -Wextra -Werror -pedantic -I%s/runtime -I/usr/include/lua5.4"
      .. " -o %s/%s %s/examples/embed/%s.c %s/libmplua.a %s -ldl -lm -lpthread"):format(
      root, dir, name, root, name, T.build, lua), 60)
    assert.equal(0, code, out)
    return T.shell(("%s/%s %s"):format(dir, name, args or ""))
  end

  it("open and close the library, again and again", function()
    local out, code = host "minimal"
    assert.equal("1 4 9\n1 4 9\n", out)
    assert.equal(0, code)
  end)

  it("feed Lua processes from four threads, and poll what comes", function()
    local out, code = host "threads"
    assert.equal(("thread 0: N\nthread 1: N\nthread 2: N\nthread 3: N\n"):gsub("N", "5239625"), out)
    assert.equal(0, code)
  end)

  it("have a pool without any Lua of their own", function()
    local out, code = host "pool"
    assert.matches("value: text: mplua%-mplua%-mplua\n", out)
    assert.matches("error: a task that fails\n", out)
    assert.matches("error: worker ended with exit code 3", out)
    assert.matches("fib%(20%) to fib%(24%) together: 110447\n$", out)
    assert.equal(0, code)
  end)

  it("leak nothing, however often they open and close", function()
    if T.sanitized then pending("not with sanitizers") end
    if not os.execute "command -v valgrind >/dev/null" then return pending "needs valgrind" end
    T.limit(120)
    local file = assert(io.open(dir .. "/closed.c", "w"))
    file:write(opened_and_closed)
    file:close()
    local out, code = T.shell(("gcc -g -Wall -Werror -I%s/runtime -I/usr/include/lua5.4 -o %s/closed %s/closed.c"
      .. " %s/libmplua.a %s -ldl -lm -lpthread"):format(root, dir, dir, T.build, lua), 60)
    assert.equal(0, code, out)
    -- (its search for leaks reads all of the shared memory there is)
    out, code = T.shell(("MPLUA_SHM=16M valgrind -q --child-silent-after-fork=yes --leak-check=full"
      .. " --errors-for-leak-kinds=definite,indirect,possible --error-exitcode=9 %s/closed"):format(dir), 100)
    assert.equal(0, code, out)
  end)

  it("limit the memory and the time of others' scripts", function()
    local function script(name, text)
      local path = dir .. "/" .. name .. ".lua"
      local file = assert(io.open(path, "w"))
      file:write(text)
      file:close()
      return path
    end
    local out, code = host("limits", table.concat({
      script("good", "print 'fine'"),
      script("endless", "while true do end"),
      script("greedy", "local s = ('x'):rep(1 << 26) .. 'y'"),
      script("wrong", "x = = 1"),
    }, " "))
    assert.matches("^fine\n[^\n]*good%.lua: done\n", out)
    assert.matches("\n[^\n]*endless%.lua: more than %d s\n", out)
    assert.matches("not enough memory\n.*greedy%.lua: failed\n", out)
    assert.matches("wrong%.lua:1: unexpected symbol near '='\n$", out)
    assert.equal(0, code)
  end)
end)
