/* minimal.c: the smallest host: a Lua state in which require "mp" works.
 *
 *     cc minimal.c $(pkg-config --cflags --libs mplua) -o minimal && ./minimal
 */
#include <mplua.h>
#include <stdio.h>

static const char script[] =
    "local mp = require 'mp'\n"
    "local pool <close> = mp.Pool(2)\n"
    "print(table.concat(pool:map(function(n) return n * n end, { 1, 2, 3 }), ' '))\n";

int main(void) {
  for (int i = 0; i < 2; i++) { /* as often as one likes */
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    mplua_openlibs(L);
    int failed = luaL_dostring(L, script);
    if (failed) fprintf(stderr, "%s\n", lua_tostring(L, -1));
    mplua_shutdown(L);
    lua_close(L);
    if (failed) return 1;
  }
  return 0;
}
