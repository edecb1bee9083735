/* The mplua command. */
#include "heap.h"
#include "opened.h"

void __real_lua_close(lua_State *L);
void __wrap_lua_close(lua_State *L);

/* Stands in for lua_close everywhere in the command, os.exit(code, true) included:
 * in a forked child the finalizers and pending <close> variables of the parent must
 * not act. */
void __wrap_lua_close(lua_State *L) {
  if (!lmp_closing(L)) __real_lua_close(L);
}

int main(int argc, char **argv) { return lmp_command(argc, argv, mp_heap_alloc); }
