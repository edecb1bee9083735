/* Opens the library in a lua_State: the core table, made of what bind/ offers, and
 * the Lua modules on top of it, which are built in.
 */
#include "mplua.h"
#include "bind/lmp.h"
#include "embedded.h"
#include "opened.h"
#include <string.h>

/* In the registry: table of the embedded modules that this state has run, by name,
 * and the core.  Kept apart from package.loaded, because programs (test runners, for
 * one) take modules out of there and require them again: a state must not get two
 * of them. */
static const char opened_key[] = "mplua.opened";

static const struct lmp_module *find_module(const char *name) {
  const struct lmp_module *m = lmp_modules;
  while (m->name != NULL && strcmp(m->name, name) != 0) m++;
  return m->name != NULL ? m : NULL;
}

/* Pushes the value of an embedded module, run at the first call.  Modules get their
 * name as argument. */
static void push_module(lua_State *L, const struct lmp_module *m) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, opened_key);
  if (lua_getfield(L, -1, m->name) == LUA_TNIL) {
    lua_pop(L, 1);
    if (luaL_loadbufferx(L, m->text, m->size, m->chunk, "t") != LUA_OK) lua_error(L);
    lua_pushstring(L, m->name);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, m->name);
  }
  lua_remove(L, -2);
}

/* The loader in package.preload of the module that upvalue 1 points to. */
static int load_module(lua_State *L) {
  push_module(L, lua_touserdata(L, lua_upvalueindex(1)));
  return 1;
}

static void offer_modules(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  for (const struct lmp_module *m = lmp_modules; m->name != NULL; m++) {
    if (strcmp(m->name, "mp") == 0) continue;
    lua_pushlightuserdata(L, (void *)m);
    lua_pushcclosure(L, load_module, 1);
    lua_setfield(L, -2, m->name);
  }
  lua_pop(L, 1);
}

void lmp_open_objects(lua_State *L) {
  lmp_open_misc(L);
  lmp_open_text(L);
  lmp_open_marshal(L);
  lmp_open_queue(L);
  lmp_open_pool(L);
  lmp_open_sync(L);
  lmp_open_cell(L);
  lmp_open_conn(L);
  lmp_open_sock(L);
  lmp_open_pickle(L);
}

/* Pushes the core table. */
static void push_core(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, opened_key);
  if (lua_getfield(L, -1, "mp.core") == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushliteral(L, MPLUA_VERSION);
    lua_setfield(L, -2, "version");
    lmp_open_objects(L);
    lmp_open_process(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "mp.core");
  }
  lua_remove(L, -2);
}

int luaopen_mp(lua_State *L) {
  const struct lmp_module *init = find_module("mp");
  luaL_checkversion(L);
  luaL_checkstack(L, 20, "cannot open mp");
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  push_core(L);
  lua_setfield(L, -2, "mp.core");
  offer_modules(L);
  if (init == NULL) return luaL_error(L, "mp was built without its Lua modules");
  push_module(L, init);
  return 1;
}

void mplua_openlibs(lua_State *L) {
  luaL_checkstack(L, 4, "cannot open mp");
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_mp);
  lua_setfield(L, -2, "mp");
  lua_pop(L, 1);
}

int mplua_version(void) { return MPLUA_VERSION_NUM; }

/* Pushes the core's `shutdown`; false, and nothing is pushed, when this state has
 * nothing to shut down. */
static int push_shutdown(lua_State *L) {
  int top = lua_gettop(L);
  if (lua_getfield(L, LUA_REGISTRYINDEX, opened_key) == LUA_TTABLE &&
      lua_getfield(L, -1, "mp.core") == LUA_TTABLE &&
      lua_getfield(L, -1, "shutdown") == LUA_TFUNCTION) {
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
    return 1;
  }
  lua_settop(L, top);
  return 0;
}

int lmp_shutdown(lua_State *L) {
  if (push_shutdown(L)) lua_call(L, 0, 0);
  return 0;
}

void mplua_shutdown(lua_State *L) {
  if (!lua_checkstack(L, 8)) return;
  lua_pushcfunction(L, lmp_shutdown);
  if (lua_pcall(L, 0, 0, 0) == LUA_OK) return;
  lua_warning(L, "mplua_shutdown: ", 1);
  lua_warning(L, lua_isstring(L, -1) ? lua_tostring(L, -1) : "error object", 0);
  lua_pop(L, 1);
}
