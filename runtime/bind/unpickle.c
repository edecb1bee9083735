/* Reading Python's pickles.
 *
 * The pickle machine's stack is a Lua table, so that nesting has no limit, and so is its
 * memo.  The few globals of which plain data is made stand on the stack as the addresses of
 * their names; none of them may become part of a value.
 */
#include "pickle.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { STACK = 1, MARKS, MEMO, SLOTS = MEMO }; /* places on the Lua stack, from `base` */

enum global { SET, FROZENSET, BYTES, BYTEARRAY, ENCODE, GLOBALS };
static const char *const global_names[GLOBALS] = {"builtins.set", "builtins.frozenset",
  "builtins.bytes", "builtins.bytearray", "_codecs.encode"};

/* n: items on the stack; marks: marks set; memos: entries made by MEMOIZE. */
struct reader {
  lua_State *L;
  const unsigned char *p, *end;
  int base;
  lua_Integer n, marks, memos;
};

static _Noreturn void malformed(struct reader *r, const char *why) {
  luaL_error(r->L, "pickle: malformed data (%s)", why);
  abort();
}

/* -- bytes -- */

static const unsigned char *take(struct reader *r, uint64_t n) {
  const unsigned char *p = r->p;
  if (n > (uint64_t)(r->end - p)) malformed(r, "it ends too early");
  r->p += n;
  return p;
}

static uint64_t number(struct reader *r, unsigned bytes) {
  const unsigned char *p = take(r, bytes);
  uint64_t v = 0;
  for (unsigned i = bytes; i > 0; i--) v = v << 8 | p[i - 1];
  return v;
}

/* A line of text, without its end. */
static const char *line(struct reader *r, size_t *len) {
  const unsigned char *p = r->p, *nl = memchr(p, '\n', (size_t)(r->end - p));
  if (nl == NULL) malformed(r, "a name without an end");
  r->p = nl + 1;
  *len = (size_t)(nl - p);
  return (const char *)p;
}

/* -- the machine's stack -- */

/* Moves the value on top of Lua's stack to the machine's. */
static void push(struct reader *r) { lua_rawseti(r->L, r->base + STACK, ++r->n); }

static lua_Integer bottom(struct reader *r) {
  if (r->marks == 0) return 0;
  lua_rawgeti(r->L, r->base + MARKS, r->marks);
  lua_Integer at = lua_tointeger(r->L, -1);
  lua_pop(r->L, 1);
  return at;
}

/* Copies the item i (1 is the top) to Lua's stack. */
static void peek(struct reader *r, lua_Integer i) {
  if (r->n - bottom(r) < i) malformed(r, "the stack is empty");
  lua_rawgeti(r->L, r->base + STACK, r->n - i + 1);
}

static void drop(struct reader *r, lua_Integer n) {
  for (; n > 0; n--) {
    lua_pushnil(r->L);
    lua_rawseti(r->L, r->base + STACK, r->n--);
  }
}

/* The items above the last mark, which goes: how many there are. */
static lua_Integer unmark(struct reader *r) {
  if (r->marks == 0) malformed(r, "no mark");
  lua_Integer at = bottom(r);
  r->marks--;
  return r->n - at;
}

static const char *global_at(lua_State *L, int idx) {
  if (!lua_islightuserdata(L, idx)) return NULL;
  const void *p = lua_touserdata(L, idx);
  for (int i = 0; i < GLOBALS; i++)
    if (p == &global_names[i]) return global_names[i];
  return NULL;
}

/* The value on top of Lua's stack is about to become part of another. */
static void plain(struct reader *r) {
  const char *name = global_at(r->L, -1);
  if (name) luaL_error(r->L, "refused: %s", name);
}

/* The item i as a part of a value, on Lua's stack. */
static void part(struct reader *r, lua_Integer at) {
  lua_rawgeti(r->L, r->base + STACK, at);
  plain(r);
}

/* -- containers -- */

static void want_table(struct reader *r) {
  if (!lua_istable(r->L, -1)) malformed(r, "items for what holds none");
}

/* The last n items become a table. */
static void gather(struct reader *r, lua_Integer n) {
  lua_createtable(r->L, n < 1 << 20 ? (int)n : 0, 0);
  for (lua_Integer i = 1; i <= n; i++) {
    part(r, r->n - n + i);
    lua_rawseti(r->L, -2, i);
  }
  drop(r, n);
  push(r);
}

static void tuple(struct reader *r, lua_Integer n) {
  if (r->n - bottom(r) < n) malformed(r, "the stack is empty");
  gather(r, n);
}

/* The last n items go to the list below them. */
static void append(struct reader *r, lua_Integer n) {
  peek(r, n + 1);
  want_table(r);
  lua_Integer have = (lua_Integer)lua_rawlen(r->L, -1);
  for (lua_Integer i = 1; i <= n; i++) {
    part(r, r->n - n + i);
    lua_rawseti(r->L, -2, have + i);
  }
  lua_pop(r->L, 1);
  drop(r, n);
}

static void want_key(struct reader *r) {
  lua_Number x = lua_type(r->L, -1) == LUA_TNUMBER ? lua_tonumber(r->L, -1) : 0;
  if (x != x) luaL_error(r->L, "pickle: NaN cannot be a key of a table");
}

/* The last n items, keys and values in turn, go to the dict below them. */
static void set_items(struct reader *r, lua_Integer n) {
  if (n % 2) malformed(r, "a key without a value");
  peek(r, n + 1);
  want_table(r);
  for (lua_Integer i = 1; i < n; i += 2) {
    part(r, r->n - n + i);
    want_key(r);
    part(r, r->n - n + i + 1);
    lua_rawset(r->L, -3);
  }
  lua_pop(r->L, 1);
  drop(r, n);
}

/* Puts `true` for the value on top of Lua's stack into the table below it. */
static void set_member(struct reader *r) {
  plain(r);
  want_key(r);
  lua_pushboolean(r->L, 1);
  lua_rawset(r->L, -3);
}

static void add_items(struct reader *r, lua_Integer n) {
  peek(r, n + 1);
  want_table(r);
  for (lua_Integer i = 1; i <= n; i++) {
    part(r, r->n - n + i);
    set_member(r);
  }
  lua_pop(r->L, 1);
  drop(r, n);
}

static void frozen(struct reader *r, lua_Integer n) {
  lua_newtable(r->L);
  for (lua_Integer i = 1; i <= n; i++) {
    part(r, r->n - n + i);
    set_member(r);
  }
  drop(r, n);
  push(r);
}

/* -- globals -- */

static void push_global(struct reader *r, const char *module, size_t nmodule, const char *name,
                        size_t nname) {
  lua_State *L = r->L;
  if (nmodule == 11 && memcmp(module, "__builtin__", 11) == 0) {
    module = "builtins";
    nmodule = 8;
  }
  for (int i = 0; i < GLOBALS; i++) {
    const char *dot = strchr(global_names[i], '.');
    if ((size_t)(dot - global_names[i]) != nmodule || strlen(dot + 1) != nname ||
        memcmp(global_names[i], module, nmodule) != 0 || memcmp(dot + 1, name, nname) != 0)
      continue;
    lua_pushlightuserdata(L, (void *)&global_names[i]);
    push(r);
    return;
  }
  lua_pushlstring(L, module, nmodule < 200 ? nmodule : 200);
  lua_pushlstring(L, name, nname < 200 ? nname : 200);
  luaL_error(L, "refused: %s.%s", lua_tostring(L, -2), lua_tostring(L, -1));
}

static void stack_global(struct reader *r) {
  size_t nmodule, nname;
  peek(r, 2);
  peek(r, 1);
  if (lua_type(r->L, -1) != LUA_TSTRING || lua_type(r->L, -2) != LUA_TSTRING)
    malformed(r, "a global whose name is no text");
  const char *name = lua_tolstring(r->L, -1, &nname);
  const char *module = lua_tolstring(r->L, -2, &nmodule);
  drop(r, 2);
  push_global(r, module, nmodule, name, nname);
  lua_pop(r->L, 2);
}

/* Text back to the bytes that it stood for, a character each; pushes them. */
static void latin1(struct reader *r, const char *s, size_t len) {
  luaL_Buffer b;
  luaL_buffinit(r->L, &b);
  for (size_t i = 0; i < len; i++) {
    unsigned c = (unsigned char)s[i];
    if (c >= 0x80) {
      if ((c != 0xc2 && c != 0xc3) || i + 1 >= len) malformed(r, "bytes that are no bytes");
      c = (c & 3) << 6 | ((unsigned char)s[++i] & 0x3f);
    }
    luaL_addchar(&b, (char)c);
  }
  luaL_pushresult(&b);
}

/* The arguments are the table on top of Lua's stack; pushes what the bytes are. */
static void make_bytes(struct reader *r) {
  lua_State *L = r->L;
  size_t len;
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  if (n == 0) {
    lua_pushliteral(L, "");
    return;
  }
  lua_rawgeti(L, -1, 1);
  if (lua_type(L, -1) != LUA_TSTRING) malformed(r, "bytes that are no bytes");
  if (n == 1) return;
  const char *s = lua_tolstring(L, -1, &len);
  latin1(r, s, len);
}

static void make_set(struct reader *r) {
  lua_State *L = r->L;
  lua_newtable(L);
  if (lua_rawlen(L, -2) == 0) return;
  lua_rawgeti(L, -2, 1);
  want_table(r);
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  lua_insert(L, -2);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, -2, i);
    set_member(r);
  }
}

/* Calls a global, as Python would say: makes the value that it stands for. */
static void reduce(struct reader *r) {
  lua_State *L = r->L;
  int top = lua_gettop(L);
  peek(r, 2);
  const char *name = global_at(L, -1);
  if (name == NULL) malformed(r, "a call of what is no function");
  peek(r, 1);
  want_table(r);
  if (name == global_names[SET] || name == global_names[FROZENSET]) make_set(r);
  else make_bytes(r);
  drop(r, 2);
  push(r);
  lua_settop(L, top);
}

/* -- the rest -- */

static void push_long(struct reader *r, uint64_t n) {
  const unsigned char *p = take(r, n);
  unsigned char fill = n > 0 && p[n - 1] & 0x80 ? 0xff : 0;
  uint64_t v = fill ? UINT64_MAX : 0;
  while (n > 8 && p[n - 1] == fill) n--;
  if (n > 8 || (n == 8 && (p[7] & 0x80 ? 0xff : 0) != fill))
    luaL_error(r->L, "pickle: an int of more than 64 bits");
  for (uint64_t i = n; i > 0; i--) v = v << 8 | p[i - 1];
  lua_pushinteger(r->L, (lua_Integer)v);
  push(r);
}

static void push_float(struct reader *r) {
  const unsigned char *p = take(r, 8);
  uint64_t v = 0;
  double d;
  for (int i = 0; i < 8; i++) v = v << 8 | p[i];
  memcpy(&d, &v, sizeof d);
  lua_pushnumber(r->L, d);
  push(r);
}

static void push_string(struct reader *r, uint64_t n) {
  const unsigned char *p = take(r, n);
  lua_pushlstring(r->L, (const char *)p, (size_t)n);
  push(r);
}

static void put_memo(struct reader *r, uint64_t i) {
  peek(r, 1);
  lua_rawseti(r->L, r->base + MEMO, (lua_Integer)i);
}

static void get_memo(struct reader *r, uint64_t i) {
  if (lua_rawgeti(r->L, r->base + MEMO, (lua_Integer)i) == LUA_TNIL)
    malformed(r, "it refers to what is not there");
  push(r);
}

static void push_bool(struct reader *r, bool b) {
  lua_pushboolean(r->L, b);
  push(r);
}

static void push_int(struct reader *r, lua_Integer i) {
  lua_pushinteger(r->L, i);
  push(r);
}

static void push_table(struct reader *r) {
  lua_newtable(r->L);
  push(r);
}

static void read_global(struct reader *r) {
  size_t nmodule, nname;
  const char *module = line(r, &nmodule), *name = line(r, &nname);
  push_global(r, module, nmodule, name, nname);
}

/* One operation; false: it was the last.  The letters are CPython's pickletools'. */
static bool step(struct reader *r, unsigned op) {
  switch (op) {
  case 0x80: if (*take(r, 1) > 5) malformed(r, "a protocol above 5"); break; /* PROTO */
  case 0x95: (void)take(r, 8); break;                                        /* FRAME */
  case '.': return false;
  case '(':
    lua_pushinteger(r->L, r->n);
    lua_rawseti(r->L, r->base + MARKS, ++r->marks);
    break;
  case '0': /* POP: a mark goes as an item does */
    if (r->marks > 0 && r->n == bottom(r)) {
      r->marks--;
    } else {
      peek(r, 1);
      lua_pop(r->L, 1);
      drop(r, 1);
    }
    break;
  case '1': drop(r, unmark(r)); break;
  case '2': peek(r, 1); push(r); break;
  case 0x94: put_memo(r, (uint64_t)r->memos++); break;
  case 'q': { uint64_t i = number(r, 1); put_memo(r, i); r->memos++; break; }
  case 'r': { uint64_t i = number(r, 4); put_memo(r, i); r->memos++; break; }
  case 'h': get_memo(r, number(r, 1)); break;
  case 'j': get_memo(r, number(r, 4)); break;
  case 'N': lua_pushlightuserdata(r->L, NULL); push(r); break;
  case 0x88: push_bool(r, true); break;
  case 0x89: push_bool(r, false); break;
  case 'J': push_int(r, (int32_t)number(r, 4)); break;
  case 'K': push_int(r, (lua_Integer)number(r, 1)); break;
  case 'M': push_int(r, (lua_Integer)number(r, 2)); break;
  case 0x8a: push_long(r, number(r, 1)); break;
  case 0x8b: push_long(r, number(r, 4)); break;
  case 'G': push_float(r); break;
  case 'C': case 'U': case 0x8c: push_string(r, number(r, 1)); break;
  case 'B': case 'T': case 'X': push_string(r, number(r, 4)); break;
  case 0x8d: case 0x8e: case 0x96: push_string(r, number(r, 8)); break;
  case ')': case ']': case '}': case 0x8f: push_table(r); break;
  case 0x85: tuple(r, 1); break;
  case 0x86: tuple(r, 2); break;
  case 0x87: tuple(r, 3); break;
  case 't': case 'l': gather(r, unmark(r)); break;
  case 'a': append(r, 1); break;
  case 'e': append(r, unmark(r)); break;
  case 's': set_items(r, 2); break;
  case 'u': set_items(r, unmark(r)); break;
  case 0x90: add_items(r, unmark(r)); break;
  case 0x91: frozen(r, unmark(r)); break;
  case 'c': read_global(r); break;
  case 0x93: stack_global(r); break;
  case 'R': reduce(r); break;
  default:
    luaL_error(r->L, "refused: a pickle of more than plain data (operation %d)", (int)op);
  }
  return true;
}

void lmp_unpickle(lua_State *L, const unsigned char *data, size_t len) {
  struct reader r = {L, data, data + len, lua_gettop(L), 0, 0, 0};
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  for (int i = 0; i < SLOTS; i++) lua_newtable(L);
  if (len < 2 || data[0] != LMP_PICKLE_FIRST || data[1] < 2)
    malformed(&r, "no pickle of protocol 2 to 5");
  while (step(&r, *take(&r, 1))) {}
  if (r.p != r.end) malformed(&r, "bytes behind its end");
  if (r.marks != 0 || r.n != 1) malformed(&r, "not one value");
  peek(&r, 1);
  plain(&r);
  lua_replace(L, r.base + 1);
  lua_settop(L, r.base + 1);
}
