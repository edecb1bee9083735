/* Drives streams of values (pools): every kind of value there and back, one by one or
 * passed over, errors among them, and bytes that are cut off or wrong anywhere. */
#include "bind/marshal_stream.h"
#include "mplua.h"
#include <stdio.h>
#include <stdlib.h>

static int failed, passed;

#define CHECK(what)                                                                        \
  do {                                                                                     \
    if (what) passed++;                                                                    \
    else {                                                                                 \
      failed++;                                                                            \
      printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #what);                          \
    }                                                                                      \
  } while (0)

/* A table of values, and how many: those whose size changes at a border, and objects. */
static const char values[] =
    "local t, n = {}, 0\n"
    "local function add(v) n = n + 1 t[n] = v end\n"
    "for _, b in ipairs { 0, 127, 128, 255, 256, 65535, 65536, 4294967295, 4294967296 } do\n"
    "  for d = -1, 1 do add(b + d) add(-b + d) add((b + d) * 1.0) end\n"
    "end\n"
    "for _, v in ipairs { math.maxinteger, math.mininteger, 0.5, -0.0, 1 / 0, 1e300 } do add(v) end\n"
    "for _, k in ipairs { 0, 1, 62, 63, 64, 255, 256, 70000 } do add(('s'):rep(k)) end\n"
    "add(nil) add(true) add(false) add(require 'mp'.null) add(nil)\n"
    "local shared = { 1, { 'x', 'x' } }\n"
    "add({}) add({ 1, 2, 3 }) add({ a = shared, b = shared }) add(function() return n end)\n"
    "add(math.floor) add(require 'mp')\n"
    "return t, n\n";

/* 1: the value written, 2: the value read. */
static const char same[] =
    "local a, b = ...\n"
    "local function eq(x, y)\n"
    "  if type(x) == 'function' and x ~= y then return type(y) == 'function' end\n"
    "  if x == y then return math.type(x) == math.type(y) end\n"
    "  if type(x) ~= 'table' or type(y) ~= 'table' then return false end\n"
    "  for k in pairs(x) do if not eq(x[k], y[k]) then return false end end\n"
    "  for k in pairs(y) do if x[k] == nil then return false end end\n"
    "  return true\n"
    "end\n"
    "return eq(a, b)\n";

/* Puts values 1..n of the table at 1, an error (two values of them) before each fifth. */
static int put_all(lua_State *L) {
  struct lmp_pack *p = lmp_pack(L);
  lua_Integer n = luaL_checkinteger(L, 2);
  for (lua_Integer i = 1; i <= n; i++) {
    int times = 1;
    if (i % 5 == 0) {
      *lmp_room(L, p, 1) = TAG_FAILED;
      p->len++;
      times = 3;
    }
    for (; times > 0; times--) {
      lua_rawgeti(L, 1, i);
      lmp_stream_put(L, 3, p);
      lua_settop(L, 2);
    }
  }
  lua_pushlstring(L, (const char *)p->data, p->len);
  return 1;
}

static int push_one(lua_State *L) {
  lmp_stream_push(L, lua_touserdata(L, 1));
  return 1;
}

/* Reads one, which may raise; true when it did not, its value is on top. */
static bool read_one(lua_State *L, struct lmp_stream *s) {
  lua_pushcfunction(L, push_one);
  lua_pushlightuserdata(L, s);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) return true;
  lua_pop(L, 1);
  return false;
}

static bool is_same(lua_State *L, lua_Integer i) {
  CHECK(luaL_loadstring(L, same) == LUA_OK);
  lua_rawgeti(L, 1, i);
  lua_pushvalue(L, -3);
  CHECK(lua_pcall(L, 2, 1, 0) == LUA_OK);
  bool yes = lua_toboolean(L, -1);
  lua_pop(L, 2);
  return yes;
}

/* [values, n, bytes]: reads all, or every `each`th and passes over the others. */
static void check_read(lua_State *L, int each) {
  size_t len;
  const unsigned char *bytes = (const unsigned char *)lua_tolstring(L, 3, &len);
  struct lmp_stream s = {.at = bytes, .end = bytes + len};
  lua_Integer n = lua_tointeger(L, 2);
  for (lua_Integer i = 1; i <= n; i++) {
    CHECK(lmp_stream_failed(&s) == (i % 5 == 0));
    if (lmp_stream_failed(&s)) lmp_stream_skip(&s);
    if (i % each) lmp_stream_skip(&s);
    else CHECK(read_one(L, &s) && is_same(L, i));
  }
  CHECK(s.at == s.end);
}

/* Reads what is there to the end, which is reached. */
static void read_to_end(lua_State *L, const unsigned char *bytes, size_t len, bool skip) {
  struct lmp_stream s = {.at = bytes, .end = bytes + len};
  size_t steps = 0;
  while (s.at < s.end && steps++ <= len) {
    const unsigned char *before = s.at;
    if (skip || lmp_stream_failed(&s)) lmp_stream_skip(&s);
    else if (read_one(L, &s)) lua_pop(L, 1);
    CHECK(s.at > before && s.at <= s.end);
  }
  CHECK(s.at == s.end);
  CHECK(!read_one(L, &s));
}

/* Cut off behind every byte; in a block of its own, so that sanitizers see reads behind
 * the end. */
static void check_cut(lua_State *L) {
  size_t len;
  const char *bytes = lua_tolstring(L, 3, &len);
  for (size_t k = 0; k < len && k < 2000; k++) {
    unsigned char *copy = malloc(k + 1);
    if (!copy) exit(1);
    memcpy(copy, bytes, k);
    copy[k] = 0x7f;
    read_to_end(L, copy, k, k % 2);
    free(copy);
  }
}

/* Every first byte before too few others; code is not among them. */
static void check_wrong(lua_State *L) {
  for (unsigned tag = 0; tag < 256; tag++) {
    unsigned char bytes[4] = {(unsigned char)tag, 0xff, 0xff, 0xff};
    unsigned char *copy = malloc(sizeof bytes);
    if (!copy) exit(1);
    memcpy(copy, bytes, sizeof bytes);
    read_to_end(L, copy, sizeof bytes, false);
    read_to_end(L, copy, sizeof bytes, true);
    free(copy);
  }
}

int main(void) {
  lua_State *L = luaL_newstate();
  if (!L) return 1;
  luaL_openlibs(L);
  mplua_openlibs(L);
  CHECK(luaL_dostring(L, "require 'mp' require 'mp.core'.member()") == LUA_OK);
  CHECK(luaL_dostring(L, values) == LUA_OK);
  lua_pushcfunction(L, put_all);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  CHECK(lua_pcall(L, 2, 1, 0) == LUA_OK);
  check_read(L, 1);
  check_read(L, 3);
  check_cut(L);
  check_wrong(L);
  mplua_shutdown(L);
  lua_close(L);
  printf("stream_check: %d passed, %d failed\n", passed, failed);
  return failed != 0;
}
