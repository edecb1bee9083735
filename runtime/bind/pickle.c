/* Writing Python's pickles, and mp.bytes. */
#include "pickle.h"
#include <stdint.h>
#include <string.h>

#define DEEPEST 2000 /* tables in one another: each takes room on the C stack */

/* seen: where the table of tables that were written stands (table -> memo number).
 * at: how deep.  path: of the value that is being written, for errors. */
struct writer {
  lua_State *L;
  struct lmp_pack *p;
  int seen, depth;
  uint32_t memos;
  struct step *path;
};

/* A key on the way to a value: an index of Lua's stack. */
struct step {
  struct step *up;
  int key;
};

static void write_value(struct writer *w);

/* Of the strings of mp.bytes: {s}, written as bytes. */
static const char lmp_bytes[] = "mp.bytes";

static bool is_bytes(lua_State *L, int idx) {
  if (!lua_getmetatable(L, idx)) return false;
  luaL_getmetatable(L, lmp_bytes);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same;
}

/* -- errors -- */

static void add_path(struct writer *w, luaL_Buffer *b, const struct step *s) {
  if (s == NULL) return;
  add_path(w, b, s->up);
  if (lua_type(w->L, s->key) == LUA_TSTRING) {
    lua_pushfstring(w->L, ".%s", lua_tostring(w->L, s->key));
  } else {
    luaL_tolstring(w->L, s->key, NULL);
    lua_pushfstring(w->L, "[%s]", lua_tostring(w->L, -1));
    lua_remove(w->L, -2);
  }
  luaL_addvalue(b);
}

static void refuse(struct writer *w, const char *what) {
  luaL_Buffer b;
  int length = 0;
  struct step *s = w->path;
  for (struct step *t = s; t; t = t->up) length++;
  luaL_checkstack(w->L, LUA_MINSTACK, NULL);
  luaL_buffinit(w->L, &b);
  luaL_addstring(&b, "value");
  if (length <= 20) add_path(w, &b, s);
  else luaL_addstring(&b, " (deep inside)");
  luaL_pushresult(&b);
  luaL_error(w->L, "cannot pickle %s at %s", what, lua_tostring(w->L, -1));
}

/* -- bytes -- */

static void put(struct writer *w, const void *data, size_t n) {
  memcpy(lmp_room(w->L, w->p, n), data, n);
  w->p->len += n;
}

static void op(struct writer *w, unsigned char c) { put(w, &c, 1); }

static void op_number(struct writer *w, unsigned char c, uint64_t v, unsigned bytes) {
  unsigned char out[9] = {c};
  for (unsigned i = 0; i < bytes; i++) out[i + 1] = (unsigned char)(v >> (8 * i));
  put(w, out, bytes + 1);
}

/* Whether Python's strict decoder takes it. */
static bool is_utf8(const unsigned char *s, size_t len) {
  for (size_t i = 0; i < len;) {
    unsigned c = s[i++], more, least;
    if (c < 0x80) continue;
    if (c >= 0xc2 && c < 0xe0) { more = 1; least = 0x80; c &= 0x1f; }
    else if (c >= 0xe0 && c < 0xf0) { more = 2; least = 0x800; c &= 0xf; }
    else if (c >= 0xf0 && c < 0xf5) { more = 3; least = 0x10000; c &= 7; }
    else return false;
    if (more > len - i) return false;
    for (; more > 0; more--, i++) {
      if ((s[i] & 0xc0) != 0x80) return false;
      c = c << 6 | (s[i] & 0x3f);
    }
    if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return false;
  }
  return true;
}

static void write_string(struct writer *w, const char *s, size_t len, bool text) {
  if (len < 256) op_number(w, text ? 0x8c : 'C', len, 1);
  else if (len <= UINT32_MAX) op_number(w, text ? 'X' : 'B', len, 4);
  else op_number(w, text ? 0x8d : 0x8e, len, 8);
  put(w, s, len);
}

static void write_integer(struct writer *w, lua_Integer i) {
  if (i >= 0 && i < 256) op_number(w, 'K', (uint64_t)i, 1);
  else if (i >= INT32_MIN && i <= INT32_MAX) op_number(w, 'J', (uint64_t)i, 4);
  else {
    op(w, 0x8a);
    op_number(w, 8, (uint64_t)i, 8); /* its first byte is the length */
  }
}

static void write_float(struct writer *w, double d) {
  uint64_t v;
  unsigned char out[9] = {'G'};
  memcpy(&v, &d, sizeof v);
  for (int i = 0; i < 8; i++) out[i + 1] = (unsigned char)(v >> (56 - 8 * i));
  put(w, out, sizeof out);
}

/* -- tables -- */

/* Whether the table on top has the keys 1 to n and no others; *n: their number. */
static bool is_sequence(lua_State *L, lua_Integer *n) {
  lua_Integer count = 0;
  *n = (lua_Integer)lua_rawlen(L, -1);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    lua_pop(L, 1);
    if (!lua_isinteger(L, -1) || lua_tointeger(L, -1) < 1 || lua_tointeger(L, -1) > *n) {
      lua_pop(L, 1);
      return false;
    }
    count++;
  }
  return count == *n;
}

static void write_list(struct writer *w, lua_Integer n) {
  lua_State *L = w->L;
  struct step s = {w->path, 0};
  if (n == 0) return;
  op(w, '(');
  for (lua_Integer i = 1; i <= n; i++) {
    lua_pushinteger(L, i);
    s.key = lua_gettop(L);
    lua_rawgeti(L, -2, i);
    w->path = &s;
    write_value(w);
    w->path = s.up;
    lua_pop(L, 1);
  }
  op(w, 'e');
}

static void write_dict(struct writer *w) {
  lua_State *L = w->L;
  struct step s = {w->path, 0};
  op(w, '(');
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    s.key = lua_gettop(L) - 1;
    w->path = &s;
    if (lua_type(L, -2) == LUA_TTABLE && !is_bytes(L, -2)) refuse(w, "a table that is a key,");
    lua_pushvalue(L, -2);
    write_value(w);
    write_value(w);
    w->path = s.up;
  }
  op(w, 'u');
}

/* A table that was written already, or the mark that it is from now on. */
static bool known(struct writer *w) {
  lua_State *L = w->L;
  lua_pushvalue(L, -1);
  if (lua_rawget(L, w->seen) != LUA_TNIL) {
    op_number(w, 'j', (uint64_t)lua_tointeger(L, -1), 4);
    lua_pop(L, 1);
    return true;
  }
  lua_pop(L, 1);
  return false;
}

static void write_table(struct writer *w) {
  lua_State *L = w->L;
  lua_Integer n;
  if (known(w)) return;
  if (++w->depth > DEEPEST) refuse(w, "tables nested more than 2000 deep");
  luaL_checkstack(L, 12, "tables are nested too deep");
  bool list = is_sequence(L, &n);
  op(w, list ? ']' : '}');
  op_number(w, 'r', w->memos, 4);
  lua_pushvalue(L, -1);
  lua_pushinteger(L, w->memos++);
  lua_rawset(L, w->seen);
  if (list) write_list(w, n);
  else write_dict(w);
  w->depth--;
}

/* Writes the value on top and pops it. */
static void write_value(struct writer *w) {
  lua_State *L = w->L;
  size_t len;
  const char *s;
  switch (lua_type(L, -1)) {
  case LUA_TBOOLEAN: op(w, lua_toboolean(L, -1) ? 0x88 : 0x89); break;
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1)) write_integer(w, lua_tointeger(L, -1));
    else write_float(w, lua_tonumber(L, -1));
    break;
  case LUA_TSTRING:
    s = lua_tolstring(L, -1, &len);
    write_string(w, s, len, is_utf8((const unsigned char *)s, len));
    break;
  case LUA_TTABLE:
    if (is_bytes(L, -1)) {
      lua_rawgeti(L, -1, 1);
      s = luaL_checklstring(L, -1, &len);
      write_string(w, s, len, false);
      lua_pop(L, 1);
    } else {
      write_table(w);
    }
    break;
  default:
    if (lua_islightuserdata(L, -1) && lua_touserdata(L, -1) == NULL) op(w, 'N');
    else {
      lua_pushfstring(L, "a %s", luaL_typename(L, -1));
      refuse(w, lua_tostring(L, -1));
    }
  }
  lua_pop(L, 1);
}

void lmp_pickle(lua_State *L, int idx, struct lmp_pack *p) {
  static const unsigned char proto[] = {LMP_PICKLE_FIRST, 4};
  idx = lua_absindex(L, idx);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_newtable(L);
  struct writer w = {L, p, lua_gettop(L), 0, 0, NULL};
  put(&w, proto, sizeof proto);
  lua_pushvalue(L, idx);
  write_value(&w);
  op(&w, '.');
  lua_pop(L, 1);
}

/* -- mp.bytes -- */

/*** What connections to Python need.
 * @module bytes */

/*** Bytes for Python, where a string of valid UTF-8 would become a `str`.
 * @function mp.bytes
 * @tparam string s the bytes
 * @return a value that connections of format "pickle" send as `bytes`; `tostring` gives them back
 * @raise when s is no string */
static int bytes(lua_State *L) {
  luaL_checktype(L, 1, LUA_TSTRING);
  lua_createtable(L, 1, 0);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 1);
  luaL_setmetatable(L, lmp_bytes);
  return 1;
}

static int bytes_tostring(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_rawgeti(L, 1, 1);
  return 1;
}

void lmp_open_pickle(lua_State *L) {
  lua_pushcfunction(L, bytes);
  lua_setfield(L, -2, "bytes");
  luaL_newmetatable(L, lmp_bytes);
  lua_pushcfunction(L, bytes_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pop(L, 1);
}
