/* Values of Lua in C, and errors. */
#include "host.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 200     /* C calls; nobody nests deeper by hand */
#define CHUNK_BYTES 480   /* small values take one block of 512 bytes */
#define MESSAGE_BYTES 1024

/* ---- errors --------------------------------------------------------------------- */

static _Thread_local char message[MESSAGE_BYTES];

const char *mplua_errmsg(void) { return message; }

const char *mplua_strerror(int code) {
  static const char *const texts[] = {
      [MPLUA_OK] = "no error", [MPLUA_ETIMEOUT] = "the time is over",
      [MPLUA_ECLOSED] = "closed", [MPLUA_EMEMORY] = "memory is full",
      [MPLUA_EARGUMENT] = "bad argument", [MPLUA_EVALUE] = "the item cannot be read",
      [MPLUA_EFORK] = "made in another process", [MPLUA_ELUA] = "error in Lua code",
      [MPLUA_ESYSTEM] = "the system refused"};
  return code >= 0 && code < (int)(sizeof texts / sizeof *texts) ? texts[code] : "unknown error";
}

int lmp_host_fail(int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  (void)vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return code;
}

int lmp_host_fail_lua(lua_State *L, int status, int code) {
  const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "unknown error";
  if (status == LUA_ERRMEM || strstr(text, "shared memory is full")) code = MPLUA_EMEMORY;
  (void)lmp_host_fail(code, "%s", text);
  lua_pop(L, 1);
  return code;
}

/* ---- to Lua ---------------------------------------------------------------------- */

static void push(lua_State *L, const mplua_value *v, int depth);

static void push_table(lua_State *L, const mplua_value *v, int depth) {
  bool list = v->type == MPLUA_LIST;
  int n = v->n > INT32_MAX ? INT32_MAX : (int)v->n;
  if (depth == DEPTH_MAX) luaL_error(L, "a value that is nested more than %d deep", DEPTH_MAX);
  luaL_checkstack(L, 4, NULL);
  lua_createtable(L, list ? n : 0, list ? 0 : n);
  for (size_t i = 0; i < v->n; i++) {
    if (!v->as.items) luaL_error(L, "a list or table whose items are NULL");
    push(L, list ? &v->as.items[i] : &v->as.items[2 * i], depth + 1);
    if (list) {
      lua_rawseti(L, -2, (lua_Integer)i + 1);
      continue;
    }
    if (lua_isnil(L, -1) || (lua_type(L, -1) == LUA_TNUMBER && !lua_rawequal(L, -1, -1)))
      luaL_error(L, "a table with a key that is nil or NaN");
    push(L, &v->as.items[2 * i + 1], depth + 1);
    lua_rawset(L, -3);
  }
}

static void push(lua_State *L, const mplua_value *v, int depth) {
  switch (v->type) {
  case MPLUA_NIL: lua_pushnil(L); break;
  case MPLUA_NULL: lua_pushlightuserdata(L, NULL); break;
  case MPLUA_BOOLEAN: lua_pushboolean(L, v->as.boolean); break;
  case MPLUA_INTEGER: lua_pushinteger(L, v->as.integer); break;
  case MPLUA_NUMBER: lua_pushnumber(L, v->as.number); break;
  case MPLUA_STRING:
    if (!v->as.string && v->n > 0) luaL_error(L, "a string that is NULL");
    lua_pushlstring(L, v->as.string, v->n);
    break;
  case MPLUA_LIST:
  case MPLUA_TABLE: push_table(L, v, depth); break;
  case MPLUA_OPAQUE: luaL_error(L, "an opaque value (%s) cannot be sent on", v->as.string);
  /* fall through */
  default: luaL_error(L, "a value of no known type (%d)", (int)v->type);
  }
}

void lmp_value_push(lua_State *L, const mplua_value *v) {
  luaL_checkstack(L, 8, NULL);
  push(L, v, 0);
}

/* ---- from Lua -------------------------------------------------------------------- */

/* A value lies in chunks; its root is first in the first one, whose list the others are. */
struct chunk {
  struct chunk *next;
  size_t used, size;
  union {
    mplua_value root;
    max_align_t align;
    char bytes[1];
  } data;
};

/* A table that was read: another that refers to it shares what it came to. */
struct known {
  const void *table;
  mplua_value value;
};

/* path: the tables around the one that is read.  known: those that were read, by address
 * (open addressing, `size` a power of two). */
struct reader {
  lua_State *L;
  struct chunk *first, *last;
  const void *path[DEPTH_MAX];
  int depth;
  struct known *known;
  size_t nknown, size;
};

void mplua_free(mplua_value *v) {
  if (!v) return;
  struct chunk *c = (struct chunk *)(void *)((char *)v - offsetof(struct chunk, data));
  while (c) {
    struct chunk *next = c->next;
    free(c);
    c = next;
  }
}

const mplua_value *mplua_field(const mplua_value *table, const char *key) {
  size_t n = strlen(key);
  if (!table || table->type != MPLUA_TABLE) return NULL;
  for (size_t i = 0; i < table->n; i++) {
    const mplua_value *k = &table->as.items[2 * i];
    if (k->type == MPLUA_STRING && k->n == n && memcmp(k->as.string, key, n) == 0) return k + 1;
  }
  return NULL;
}

static struct chunk *new_chunk(size_t n) {
  size_t size = n > CHUNK_BYTES ? n : CHUNK_BYTES;
  struct chunk *c = malloc(offsetof(struct chunk, data) + size);
  if (!c) return NULL;
  c->next = NULL;
  c->used = 0;
  c->size = size;
  return c;
}

/* Large pieces get a chunk of their own, of just their size. */
static void *room(struct reader *r, size_t n) {
  const size_t align = sizeof(max_align_t);
  n = (n + align - 1) / align * align;
  if (r->last->size - r->last->used < n) {
    struct chunk *c = new_chunk(n);
    if (!c) return NULL;
    c->next = r->first->next;
    r->first->next = c;
    if (n <= CHUNK_BYTES / 4) r->last = c;
    c->used = n;
    return c->data.bytes;
  }
  char *p = r->last->data.bytes + r->last->used;
  r->last->used += n;
  return p;
}

static bool read(struct reader *r, int idx, mplua_value *v);

static bool read_string(struct reader *r, int idx, mplua_value *v) {
  size_t n;
  const char *s = lua_tolstring(r->L, idx, &n);
  char *copy = room(r, n + 1);
  if (!copy) return false;
  memcpy(copy, s, n + 1);
  v->type = MPLUA_STRING;
  v->n = n;
  v->as.string = copy;
  return true;
}

/* The number of pairs; *list: the keys are 1 to that number. */
static size_t measure(lua_State *L, int idx, bool *list) {
  size_t n = (size_t)lua_rawlen(L, idx), count = 0;
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) count++;
  *list = count == n;
  for (size_t i = 1; *list && i <= n; i++) {
    *list = lua_rawgeti(L, idx, (lua_Integer)i) != LUA_TNIL;
    lua_pop(L, 1);
  }
  return count;
}

static void opaque(mplua_value *v, const char *what) {
  v->type = MPLUA_OPAQUE;
  v->n = strlen(what);
  v->as.string = what;
}

static bool read_elements(struct reader *r, int idx, mplua_value *to, size_t n) {
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(r->L, idx, (lua_Integer)i + 1);
    bool ok = read(r, lua_gettop(r->L), &to[i]);
    lua_pop(r->L, 1);
    if (!ok) return false;
  }
  return true;
}

static bool read_pairs(struct reader *r, int idx, mplua_value *to) {
  lua_State *L = r->L;
  size_t i = 0;
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1), i += 2) {
    int top = lua_gettop(L);
    if (read(r, top - 1, &to[i]) && read(r, top, &to[i + 1])) continue;
    lua_pop(L, 2);
    return false;
  }
  return true;
}

static struct known *place_of(struct known *list, size_t size, const void *table) {
  size_t i = (size_t)((uintptr_t)table >> 4) * 0x9e3779b97f4a7c15u >> 32;
  while (list[i & (size - 1)].table && list[i & (size - 1)].table != table) i++;
  return &list[i & (size - 1)];
}

static bool note_known(struct reader *r, const void *table, const mplua_value *v) {
  if (2 * r->nknown >= r->size) {
    size_t size = r->size ? 2 * r->size : 32;
    struct known *list = calloc(size, sizeof *list);
    if (!list) return false;
    for (size_t i = 0; i < r->size; i++)
      if (r->known[i].table) *place_of(list, size, r->known[i].table) = r->known[i];
    free(r->known);
    r->known = list;
    r->size = size;
  }
  *place_of(r->known, r->size, table) = (struct known){table, *v};
  r->nknown++;
  return true;
}

static bool read_table(struct reader *r, int idx, mplua_value *v) {
  const void *self = lua_topointer(r->L, idx);
  bool list;
  for (int i = 0; i < r->depth; i++)
    if (r->path[i] == self) return opaque(v, "table inside itself"), true;
  struct known *k = r->size ? place_of(r->known, r->size, self) : NULL;
  if (k && k->table) return *v = k->value, true;
  if (r->depth == DEPTH_MAX || !lua_checkstack(r->L, 8))
    return opaque(v, "table that is nested too deep"), true;
  size_t n = measure(r->L, idx, &list);
  mplua_value *items = room(r, (list ? n : 2 * n) * sizeof *items);
  if (!items) return false;
  r->path[r->depth++] = self;
  bool ok = list ? read_elements(r, idx, items, n) : read_pairs(r, idx, items);
  r->depth--;
  v->type = list ? MPLUA_LIST : MPLUA_TABLE;
  v->n = n;
  v->as.items = items;
  return ok && (r->depth == 0 || note_known(r, self, v)); /* nothing comes after the outermost */
}

/* The name of the type of a userdata that has one; static text. */
static const char *userdata_name(lua_State *L, int idx) {
  const char *name = "userdata";
  if (luaL_getmetafield(L, idx, "__name") == LUA_TNIL) return name;
  if (lua_type(L, -1) == LUA_TSTRING && strncmp(lua_tostring(L, -1), "mp.", 3) == 0)
    name = "shared object";
  lua_pop(L, 1);
  return name;
}

static bool read(struct reader *r, int idx, mplua_value *v) {
  lua_State *L = r->L;
  v->n = 0;
  v->as.integer = 0;
  switch (lua_type(L, idx)) {
  case LUA_TNIL: v->type = MPLUA_NIL; return true;
  case LUA_TBOOLEAN:
    v->type = MPLUA_BOOLEAN;
    v->as.boolean = lua_toboolean(L, idx);
    return true;
  case LUA_TNUMBER:
    v->type = lua_isinteger(L, idx) ? MPLUA_INTEGER : MPLUA_NUMBER;
    if (v->type == MPLUA_INTEGER) v->as.integer = lua_tointeger(L, idx);
    else v->as.number = lua_tonumber(L, idx);
    return true;
  case LUA_TSTRING: return read_string(r, idx, v);
  case LUA_TTABLE: return read_table(r, idx, v);
  case LUA_TLIGHTUSERDATA:
    if (!lua_touserdata(L, idx)) return v->type = MPLUA_NULL, true;
    return opaque(v, "userdata"), true;
  case LUA_TUSERDATA: return opaque(v, userdata_name(L, idx)), true;
  default: return opaque(v, lua_typename(L, lua_type(L, idx))), true;
  }
}

bool lmp_value_of(lua_State *L, int idx, mplua_value **out) {
  struct reader r = {.L = L};
  if (!lua_checkstack(L, 8)) return false;
  r.first = r.last = new_chunk(sizeof(mplua_value));
  if (!r.first) return false;
  mplua_value *root = room(&r, sizeof *root);
  bool ok = read(&r, lua_absindex(L, idx), root);
  free(r.known);
  if (ok) *out = root;
  else mplua_free(root);
  return ok;
}
