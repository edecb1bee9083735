/* limits.c: runs scripts of others, each in a process of its own, with a limit of memory
 * and of time.  What a script does, also inside a C function, cannot hold up the host.
 *
 *     cc limits.c $(pkg-config --cflags --libs mplua) -o limits && ./limits a.lua b.lua
 */
#include <mplua.h>
#include <stdio.h>

enum { MEGABYTES = 64, SECONDS = 2 };

static const char run[] =
    "local mp = require 'mp'\n"
    "local path, megabytes, seconds = ...\n"
    "local script, why = loadfile(path)\n"
    "if not script then return why end\n"
    "local child = mp.Process { target = script, name = path, daemon = true,\n"
    "  memory = megabytes * 1024 * 1024 }\n"
    "child:start()\n"
    "if not child:join(seconds) then\n"
    "  child:kill()\n"
    "  child:join()\n"
    "  return path .. ': more than ' .. seconds .. ' s'\n"
    "end\n"
    "if child.exitcode ~= 0 then return path .. ': failed' end\n"
    "return path .. ': done'\n";

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  mplua_openlibs(L);
  for (int i = 1; i < argc; i++) {
    int failed = luaL_loadstring(L, run);
    lua_pushstring(L, argv[i]);
    lua_pushinteger(L, MEGABYTES);
    lua_pushinteger(L, SECONDS);
    if (!failed) failed = lua_pcall(L, 3, 1, 0);
    printf("%s\n", lua_tostring(L, -1)); /* what became of it, or why it did not run */
    lua_settop(L, 0);
  }
  mplua_shutdown(L);
  lua_close(L);
  return 0;
}
