/* What the command, and host/, need of the library beyond mplua.h. */
#ifndef LMP_OPENED_H
#define LMP_OPENED_H
#include "mplua.h"

/* Fills the core table on top with all but processes. */
void lmp_open_objects(lua_State *L);

/* mplua_shutdown as a lua_CFunction, which raises what goes wrong. */
int lmp_shutdown(lua_State *L);

/* Nonzero when this process was forked by mp, so that the state, which is its
 * parent's by right, must not be closed here. */
int lmp_closing(lua_State *L);

/* mplua_main; `alloc`, when not NULL, becomes the state's allocator.  It must be able
 * to go on with blocks that came from malloc. */
int lmp_command(int argc, char **argv, lua_Alloc alloc);

#endif
