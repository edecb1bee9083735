/* mplua: processes for Lua 5.4.
 *
 * A host that has a lua_State of its own makes `require "mp"` work in it with
 * mplua_openlibs, and calls mplua_shutdown before lua_close.  A host that wants to
 * be the `mplua` command calls mplua_main.
 *
 *     lua_State *L = luaL_newstate();
 *     luaL_openlibs(L);
 *     mplua_openlibs(L);
 *     luaL_dofile(L, "script.lua");
 *     mplua_shutdown(L);
 *     lua_close(L);
 *
 * The library installs no signal handler and reaps no process that it did not
 * start.  A lua_State is used by one thread at a time, as with Lua itself; several
 * states may use the library at once.
 */
#ifndef MPLUA_H
#define MPLUA_H

#define MPLUA_VERSION "0.1.0"
#define MPLUA_VERSION_MAJOR 0
#define MPLUA_VERSION_MINOR 1
#define MPLUA_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#if LUA_VERSION_NUM != 504
#error "mplua needs Lua 5.4"
#endif

#if defined(__GNUC__)
#define MPLUA_API __attribute__((visibility("default"))) extern
#else
#define MPLUA_API extern
#endif

/* Makes `require "mp"` find the library in L.  Nothing is opened before a script
 * asks for it.  L needs the `package` library by then; the order does not matter.
 * Raises only what Lua raises when memory is short. */
MPLUA_API void mplua_openlibs(lua_State *L);

/* Ends what the script in L has started, as the end of a script does: flushes
 * stdout, terminates daemons, joins the other processes.  Blocks until they ended.
 * Raises nothing; an error on the way goes to lua_warning.  Does nothing when L
 * never required "mp", and in a process that mp did not start.  L can be used
 * afterwards; calling it again joins what was started since. */
MPLUA_API void mplua_shutdown(lua_State *L);

/* The `mplua` command: takes main's arguments, returns the exit status.  argv must
 * end with NULL.  While it runs chunks SIGINT raises "interrupted!" in them; its
 * disposition is the default one afterwards. */
MPLUA_API int mplua_main(int argc, char **argv);

/* What `require "mp"` calls: pushes the table of the library.  The first call in a
 * state makes it, later ones give the same. */
MPLUA_API int luaopen_mp(lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
