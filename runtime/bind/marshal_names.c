/* Names: which functions, classes and modules the receiver has too.
 *
 * The names are searched when the first table is encoded, and again when a function or
 * a metatable has none and package.loaded has changed since.  A weak table holds
 * object -> name, where a name is the letter that says what it is good for, the
 * module, and for a field of it a zero and the field.  A set of addresses answers
 * "has no name" without asking Lua, for each table of each message.
 */
#include "marshal_private.h"
#include <lualib.h>
#include <stdlib.h>

enum { FOR_VALUE = 'v', FOR_META = 'm' };

/* Where modules are found: package.loaded, and what this library has opened (programs
 * that take modules out of package.loaded must not cut it in two). */
static const char *const places[] = {LUA_LOADED_TABLE, "mplua.opened"};
enum { PLACES = sizeof places / sizeof *places };

/* Searched first, so that string.format is not "mymodule\0format". */
static const char *const standard[] = {
    LUA_GNAME,      LUA_COLIBNAME,   LUA_TABLIBNAME,  LUA_IOLIBNAME, LUA_OSLIBNAME,
    LUA_STRLIBNAME, LUA_UTF8LIBNAME, LUA_MATHLIBNAME, LUA_DBLIBNAME, LUA_LOADLIBNAME, NULL};

/* ---- the set of addresses ------------------------------------------------------ */

static void set_insert(const void **set, size_t cap, const void *p) {
  size_t i = hash_ptr(p) >> 32 & (cap - 1);
  while (set[i] && set[i] != p) i = (i + 1) & (cap - 1);
  set[i] = p;
}

static void set_add(lua_State *L, struct marshal *m, const void *p) {
  if (2 * (m->nnamed + 1) > m->capnamed) {
    size_t cap = m->capnamed ? 2 * m->capnamed : 1024;
    const void **set = calloc(cap, sizeof *set);
    if (!set) luaL_error(L, "not enough memory");
    for (size_t i = 0; i < m->capnamed; i++)
      if (m->named[i]) set_insert(set, cap, m->named[i]);
    free(m->named);
    m->named = set;
    m->capnamed = cap;
  }
  set_insert(m->named, m->capnamed, p);
  m->nnamed++;
}

/* ---- looking up, while encoding ------------------------------------------------ */

/* Pushes t[field] for the table on top, nil when it has none.  A table with a
 * metatable might run code: false, nothing pushed.  (lua_getfield makes the string
 * without a step of the collector, which lua_pushstring would do.) */
static bool push_field(lua_State *L, const char *field) {
  if (lua_getmetatable(L, -1)) {
    lua_pop(L, 1);
    return false;
  }
  lua_getfield(L, -1, field);
  return true;
}

/* The module of this name, or its field, is the object at `idx`. */
static bool found_there(lua_State *L, int place, int idx, const char *module, const char *field) {
  int top = lua_gettop(L);
  bool same = false;
  if (lua_getfield(L, LUA_REGISTRYINDEX, places[place]) == LUA_TTABLE && push_field(L, module)) {
    if (field && lua_istable(L, -1))
      same = !push_field(L, field) || lua_rawequal(L, -1, idx); /* unknown: believe it */
    else
      same = !field && lua_rawequal(L, -1, idx);
  }
  lua_settop(L, top);
  return same;
}

/* What the name says is so still; "module\0field" in `s`, n bytes. */
static bool still_there(lua_State *L, int idx, const char *s, size_t n) {
  size_t module = strlen(s);
  for (int i = 0; i < PLACES; i++)
    if (found_there(L, i, idx, s, module < n ? s + module + 1 : NULL)) return true;
  return false;
}

/* Pushes what a table of the state has for the object at `idx`. */
static bool push_entry(lua_State *L, int uservalue, int idx) {
  lmp_marshal_push(L, uservalue);
  lua_pushvalue(L, idx);
  lua_rawget(L, -2);
  lua_remove(L, -2);
  if (lua_type(L, -1) == LUA_TSTRING) return true;
  lua_pop(L, 1);
  return false;
}

enum lmp_name lmp_name_of(lua_State *L, int idx, const char **name, size_t *len) {
  idx = lua_absindex(L, idx);
  if (push_entry(L, MARSHAL_CLASS_NAMES, idx)) {
    *name = lua_tolstring(L, -1, len);
    return LMP_NAME_REG;
  }
  if (!push_entry(L, MARSHAL_NAMES, idx)) return LMP_NAME_NONE;
  const char *s = lua_tolstring(L, -1, len);
  *name = s + 1;
  --*len;
  if (still_there(L, idx, *name, *len)) return *s == FOR_VALUE ? LMP_NAME_VALUE : LMP_NAME_META;
  lua_pop(L, 1);
  return LMP_NAME_NONE;
}

uint64_t lmp_names_loaded(lua_State *L) {
  uint64_t sum = 0;
  for (int i = 0; i < PLACES; i++) {
    if (lua_getfield(L, LUA_REGISTRYINDEX, places[i]) == LUA_TTABLE)
      for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
        sum += hash_ptr(lua_topointer(L, -2)) ^ hash_ptr(lua_topointer(L, -1)) >> 7;
    lua_pop(L, 1);
  }
  return sum;
}

/* ---- searching ----------------------------------------------------------------- */

/* The search in progress; the stack has at `names` the new table. */
struct search {
  lua_State *L;
  int names;
};

/* Names the object on top unless it has a name. */
static void note(struct search *s, char good_for, const char *module, const char *field,
                 size_t nfield) {
  lua_State *L = s->L;
  luaL_Buffer b;
  lua_pushvalue(L, -1);
  if (lua_rawget(L, s->names) != LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  lua_pushvalue(L, -1);
  luaL_buffinit(L, &b);
  luaL_addchar(&b, good_for);
  luaL_addstring(&b, module);
  if (field) {
    luaL_addchar(&b, '\0');
    luaL_addlstring(&b, field, nfield);
  }
  luaL_pushresult(&b);
  lua_rawset(L, s->names);
}

/* The table on top looks like a class, not like data. */
static bool is_class(lua_State *L) {
  static const char *const marks[] = {"__index", "__name"};
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
    lua_pushstring(L, marks[i]);
    bool there = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 1);
    if (there) return true;
  }
  return false;
}

/* The name at `idx`, when it is one that names can be made of. */
static const char *plain_name(lua_State *L, int idx, size_t *n) {
  if (lua_type(L, idx) != LUA_TSTRING) return NULL;
  const char *s = lua_tolstring(L, idx, n);
  return strlen(s) == *n ? s : NULL;
}

/* What has a name in the module on top.  In _G only what is written in C: the rest
 * belongs to the script, and the receiver may have something else there. */
static void note_fields(struct search *s, const char *module) {
  lua_State *L = s->L;
  bool global = strcmp(module, LUA_GNAME) == 0;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    size_t n;
    const char *field = plain_name(L, -2, &n);
    if (!field) continue;
    if (lua_iscfunction(L, -1) || (!global && lua_isfunction(L, -1)))
      note(s, FOR_VALUE, module, field, n);
    else if (!global && lua_istable(L, -1))
      note(s, is_class(L) ? FOR_VALUE : FOR_META, module, field, n);
  }
}

/* Calls for the modules of a place; they are on top then. */
static void each_module(struct search *s, int place, bool fields) {
  lua_State *L = s->L;
  if (lua_getfield(L, LUA_REGISTRYINDEX, places[place]) == LUA_TTABLE)
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
      size_t n;
      const char *module = plain_name(L, -2, &n);
      if (!module) continue;
      if (!fields && (lua_istable(L, -1) || lua_isfunction(L, -1)))
        note(s, FOR_VALUE, module, NULL, 0);
      else if (fields && lua_istable(L, -1))
        note_fields(s, module);
    }
  lua_pop(L, 1);
}

static void note_standard(struct search *s) {
  lua_State *L = s->L;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (int i = 0; standard[i]; i++) {
    lua_pushstring(L, standard[i]);
    if (lua_rawget(L, -2) == LUA_TTABLE) note_fields(s, standard[i]);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* The addresses of the keys of the table on top, which is popped. */
static void set_add_keys(lua_State *L, struct marshal *m) {
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) set_add(L, m, lua_topointer(L, -2));
  lua_pop(L, 1);
}

void lmp_names_search(lua_State *L, struct marshal *m) {
  luaL_checkstack(L, 20 + LUA_MINSTACK, NULL);
  uint64_t loaded = lmp_names_loaded(L);
  lmp_marshal_push(L, 0);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  struct search s = {L, lua_gettop(L)};
  for (int i = 0; i < PLACES; i++) each_module(&s, i, false);
  note_standard(&s);
  for (int i = 0; i < PLACES; i++) each_module(&s, i, true);
  /* from here on no step of the collector: a finalizer might search too */
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, -3, MARSHAL_NAMES);
  if (m->named) memset(m->named, 0, m->capnamed * sizeof *m->named);
  m->nnamed = 0;
  set_add_keys(L, m);
  lmp_marshal_push(L, MARSHAL_CLASS_NAMES);
  set_add_keys(L, m);
  lua_pop(L, 1);
  m->loaded = loaded;
  m->searched = true;
}

/* ---- finding, while decoding --------------------------------------------------- */

/* For messages: the name as Lua would write it. */
static const char *printable(lua_State *L, const char *name, size_t len) {
  size_t module = strnlen(name, len);
  lua_pushlstring(L, name, module);
  if (module == len) return lua_tostring(L, -1);
  lua_pushliteral(L, ".");
  lua_pushlstring(L, name + module + 1, len - module - 1);
  lua_concat(L, 3);
  return lua_tostring(L, -1);
}

/* Pushes the loaded module that the string on top names, in its place. */
static bool find_loaded(lua_State *L) {
  for (int i = 0; i < PLACES; i++) {
    if (lua_getfield(L, LUA_REGISTRYINDEX, places[i]) == LUA_TTABLE) {
      lua_pushvalue(L, -2);
      if (lua_rawget(L, -2) != LUA_TNIL) {
        lua_replace(L, -3);
        lua_pop(L, 1);
        return true;
      }
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
  return false;
}

static void require_module(lua_State *L, const char *name, size_t len) {
  lua_getglobal(L, "require");
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) return;
  if (lua_type(L, -1) != LUA_TSTRING) lua_error(L);
  const char *why = lua_tostring(L, -1);
  luaL_error(L, "marshal: this data needs %s, which cannot be loaded here: %s",
             printable(L, name, len), why);
}

void lmp_name_find(lua_State *L, const char *name, size_t len, bool load) {
  size_t module = strnlen(name, len);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_pushlstring(L, name, module);
  if (!find_loaded(L)) {
    if (!load)
      luaL_error(L, "marshal: this data needs %s, which is not loaded here",
                 printable(L, name, len));
    require_module(L, name, len);
  }
  if (module == len) return;
  if (lua_istable(L, -1)) {
    lua_pushlstring(L, name + module + 1, len - module - 1);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TNIL && load) { /* a module may load its parts late */
      lua_pop(L, 1);
      lua_gettable(L, -2);
    } else
      lua_replace(L, -2);
    lua_replace(L, -2);
  }
  if (lua_isnil(L, -1) || module == len - 1)
    luaL_error(L, "marshal: there is no %s here", printable(L, name, len));
}

/* ---- mp.marshal.register ------------------------------------------------------- */

/*** Registers classes.
 * @module marshal_names */

/*** Gives a class (a metatable) a name, under which it crosses: its instances have the receiver's
 * class of that name as metatable.  Sender and receiver both register it; modules need not be.
 * @function mp.marshal.register
 * @tparam string name by which the other side knows it
 * @tparam table class the metatable of its instances
 * @raise when another class has the name, or the class another name
 * @usage local Point = {}
 * Point.__index = Point
 * mp.marshal.register("Point", Point)
 * local p = mp.marshal.decode(mp.marshal.encode(setmetatable({ x = 1 }, Point)))
 * print(getmetatable(p) == Point) --> true */
int lmp_marshal_register(lua_State *L) {
  struct marshal *m = lua_touserdata(L, lua_upvalueindex(1));
  if (lua_type(L, 1) != LUA_TSTRING) luaL_typeerror(L, 1, "string");
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_argcheck(L, lua_rawlen(L, 1) > 0, 1, "a class needs a name");
  lua_settop(L, 2);
  lmp_marshal_push(L, MARSHAL_CLASSES);
  lmp_marshal_push(L, MARSHAL_CLASS_NAMES);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, 4) != LUA_TNIL && !lua_rawequal(L, -1, 1))
    return luaL_argerror(L, 2, lua_pushfstring(L, "this class is registered as '%s'",
                                               lua_tostring(L, -1)));
  lua_pushvalue(L, 1);
  if (lua_rawget(L, 3) != LUA_TNIL && !lua_rawequal(L, -1, 2))
    return luaL_argerror(L, 1, lua_pushfstring(L, "another class is registered as '%s'",
                                               lua_tostring(L, 1)));
  lua_settop(L, 4);
  set_add(L, m, lua_topointer(L, 2));
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_rawset(L, 3);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 1);
  lua_rawset(L, 4);
  return 0;
}
