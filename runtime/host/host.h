/* What the parts of the C face of queues and pools share.
 *
 * A host's thread needs no Lua state; the library keeps one for each thread that uses
 * queues, its place, and one for each pool.  So values, functions and shared objects go
 * the one way that they always go, and what is here only calls it.
 */
#ifndef LMP_HOST_H
#define LMP_HOST_H
#include "../mplua.h"
#include <stdbool.h>

/* Notes what went wrong in this thread, and returns the code. */
int lmp_host_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for the error on top of L's stack, which is popped.  status: lua_pcall's;
 * MPLUA_EMEMORY when memory was short, else `code`. */
int lmp_host_fail_lua(lua_State *L, int status, int code);

/* Pushes a value.  Raises when it is nested too deep, or of no known type. */
void lmp_value_push(lua_State *L, const mplua_value *v);
/* Makes a value of the one at idx.  False when memory is short; raises nothing. */
bool lmp_value_of(lua_State *L, int idx, mplua_value **out);

#endif
