/* Drives marshal where scripts cannot reach: what crosses to another machine, memory
 * that ends at any allocation, finalizers that use marshal while it works, and more
 * messages than generations. */
#include "bind/marshal_private.h"
#include "mplua.h"
#include <stdio.h>
#include <stdlib.h>

static lua_State *L;
static int failed, passed;

#define CHECK(what)                                                                        \
  do {                                                                                     \
    if (what) passed++;                                                                    \
    else {                                                                                 \
      failed++;                                                                            \
      printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #what);                          \
    }                                                                                      \
  } while (0)

/* ---- an allocator that can fail ------------------------------------------------ */

static long allocations, fail_at = -1; /* -1: never */

static void *allocate(void *ud, void *p, size_t old, size_t n) {
  (void)ud, (void)old;
  if (n == 0) {
    free(p);
    return NULL;
  }
  if ((!p || n > old) && fail_at >= 0 && allocations++ >= fail_at) return NULL;
  return realloc(p, n);
}

/* ---- calls that may raise ------------------------------------------------------ */

static unsigned mode;

/* value -> bytes */
static int encode(lua_State *S) {
  struct lmp_pack *p = lmp_pack(S);
  lmp_encode(S, 1, p, mode);
  lua_pushlstring(S, (const char *)p->data, p->len);
  return 1;
}

static int decode(lua_State *S) {
  struct lmp_unpack u = {.mode = mode};
  u.data = (const unsigned char *)lua_tolstring(S, 1, &u.len);
  lmp_decode(S, &u);
  return 1;
}

/* Calls f with the value on top, in its place: the result or the error. */
static int call(lua_CFunction f, unsigned with) {
  mode = with;
  lua_pushcfunction(L, f);
  lua_insert(L, -2);
  return lua_pcall(L, 1, 1, 0);
}

static void push(const char *source) {
  if (luaL_loadstring(L, source) || lua_pcall(L, 0, 1, 0)) {
    printf("%s\n", lua_tostring(L, -1));
    exit(1);
  }
}

/* The result of f is an error with this text; pops it. */
static bool fails(lua_CFunction f, unsigned with, const char *text) {
  bool ok = call(f, with) != LUA_OK && strstr(lua_tostring(L, -1), text) != NULL;
  if (!ok) printf("got: %s\n", luaL_tolstring(L, -1, NULL)), lua_pop(L, 1);
  lua_pop(L, 1);
  return ok;
}

/* The value of `source` comes out of `with` such that `test`, a function of the value
 * sent and the value received, is true. */
static bool crosses(const char *source, unsigned with, const char *test) {
  push(test);
  push(source);
  lua_pushvalue(L, -1);
  bool ok = call(encode, with) == LUA_OK && call(decode, with) == LUA_OK;
  if (!ok) printf("got: %s\n", luaL_tolstring(L, -1, NULL)), lua_pop(L, 1);
  ok = ok && lua_pcall(L, 2, 1, 0) == LUA_OK && lua_toboolean(L, -1);
  lua_settop(L, 0);
  return ok;
}

/* ---- the network --------------------------------------------------------------- */

static const char named[] = "local C = {__index = {}} package.loaded.named = {C = C, f = function() end}";

static void check_network(void) {
  push(named);
  lua_settop(L, 0);
  CHECK(crosses("return {1, 'x', {2.5}}", LMP_NETWORK, "return function(a, b) return #b == 3 end"));
  CHECK(crosses("return setmetatable({}, package.loaded.named.C)", LMP_NETWORK,
                "return function(a, b) return getmetatable(a) == getmetatable(b) end"));
  CHECK(crosses("local C = {} require 'mp'.marshal.register('Reg', C) return {C, setmetatable({}, C)}",
                LMP_NETWORK, "return function(a, b) return b[1] == a[1] and getmetatable(b[2]) == a[1] end"));
  CHECK(crosses("return {f = function() return print end, print}", LMP_NETWORK | LMP_CODE,
                "return function(a, b) return b.f() == print and b[1] == print end"));
  push("return {f = function() end}");
  CHECK(fails(encode, LMP_NETWORK, "cannot marshal a function at value.f: functions do not leave"));
  push("return {print}");
  CHECK(fails(encode, LMP_NETWORK, "cannot marshal a function at value[1]"));
  push("return {g = _G}");
  CHECK(fails(encode, LMP_NETWORK, "cannot marshal the globals table at value.g"));
  push("return {x = setmetatable({}, {})}");
  CHECK(fails(encode, LMP_NETWORK, "cannot marshal a table with a metatable at value.x: its class"));
  push("local mt = {} return {mt, x = setmetatable({}, mt)}");
  CHECK(fails(encode, LMP_NETWORK, "cannot marshal a table with a metatable at value.x: its class"));
  push("return {q = require 'mp'.Queue()}");
  CHECK(fails(encode, LMP_NETWORK, "cannot marshal a mp.Queue at value.q: shared objects do not"));
}

/* What the writer does not write for a network is refused by the reader. */
static void check_hostile(void) {
  static const struct {
    const char *source, *text;
  } cases[] = {
      {"return {print}", "refused without allow_code"},
      {"return {function() end}", "refused without allow_code"},
      {"return {_G}", "refused without allow_code"},
      {"return {string}", "refused without allow_code"},
      {"return {require 'mp'.Queue()}", "malformed"},
      {"return {setmetatable({}, {})}", "a metatable that is no class"},
      {"local t = {} return {t, setmetatable({}, t)}", "a metatable that is no class"},
      {"return setmetatable({}, _G)", "refused without allow_code"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    push(cases[i].source);
    CHECK(call(encode, LMP_STRING) == LUA_OK);
    CHECK(fails(decode, LMP_NETWORK, cases[i].text));
  }
  lua_settop(L, 0);
  /* code of another family never reaches the loader of a member */
  push("return function() end");
  CHECK(call(encode, LMP_FAMILY) == LUA_OK);
  size_t n;
  char *bytes = (char *)lua_tolstring(L, -1, &n);
  bytes[1] ^= 1;
  CHECK(fails(decode, LMP_FAMILY, "a function of another family"));
}

/* ---- memory -------------------------------------------------------------------- */

static const char everything[] =
    "local shared, n = {1, 2, 3}, 1\n"
    "local C = {__index = {}, __call = function() n = n + 1 return n end}\n"
    "local t = {shared, shared, f = function() n = n + 1 return n end, setmetatable({}, C), print}\n"
    "for i = 1, 60 do t[#t + 1] = {id = i, name = 'name' .. i, on = i % 2 == 0} end\n"
    "local d = t for i = 1, 450 do d.d = {i} d = d.d end\n"
    "t.t, t[t] = t, t return t";

/* Tries f on the value on top with memory that ends after k allocations, for all k; in
 * between it works.  How many failed. */
static long exhaust(lua_CFunction f) {
  long tries = 0;
  int status = LUA_ERRMEM;
  for (long k = 0; status != LUA_OK; k += 1 + k / 40) {
    lua_pushvalue(L, -1);
    allocations = 0, fail_at = k;
    status = call(f, LMP_FAMILY);
    fail_at = -1;
    if (status != LUA_OK) {
      tries++;
      CHECK(status == LUA_ERRMEM || strstr(lua_tostring(L, -1), "memory"));
    }
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    CHECK(call(f, LMP_FAMILY) == LUA_OK);
    lua_pop(L, 1);
  }
  return tries;
}

static void check_memory(void) {
  push(everything);
  long e = exhaust(encode);
  CHECK(call(encode, LMP_FAMILY) == LUA_OK);
  long d = exhaust(decode);
  CHECK(d > 50);
  printf("memory ended at %ld points of encoding, %ld of decoding\n", e, d);
  lua_settop(L, 0);
}

/* ---- finalizers ---------------------------------------------------------------- */

/* Every table that decode makes, and every search for names, may run these. */
static const char finalizers[] =
    "local m, runs = require 'mp'.marshal, 0\n"
    "local function again() setmetatable({}, {__gc = function()\n"
    "  runs = runs + 1\n"
    "  package.loaded.fresh = runs % 3 == 0 and {f = function() end} or nil\n"
    "  local t = {runs, {runs}, f = function() return t end} t.t = t\n"
    "  local r = m.decode(m.encode(t), {allow_code = true})\n"
    "  assert(r.t == r and r[2][1] == runs)\n"
    "  if runs < 3000 then again() end\n"
    "end}) end\n"
    "for i = 1, 10 do again() end return function() return runs end";

static void check_finalizers(void) {
  push(finalizers);
  lua_gc(L, LUA_GCINC, 100, 1000, 0);
  push(everything);
  for (int i = 0; i < 100; i++) {
    struct lmp_pack *p = lmp_pack(L);
    memcpy(lmp_room(L, p, 5), "first", 5); /* what lies before a message stays */
    p->len = 5;
    lmp_encode(L, -1, p, LMP_FAMILY);
    CHECK(memcmp(p->data, "first", 5) == 0);
    lua_pushlstring(L, (const char *)p->data + 5, p->len - 5);
    CHECK(call(decode, LMP_FAMILY) == LUA_OK);
    lua_getfield(L, -1, "t");
    CHECK(lua_rawequal(L, -1, -2));
    lua_pop(L, 2);
  }
  lua_settop(L, 1);
  CHECK(lua_pcall(L, 0, 1, 0) == LUA_OK && lua_tointeger(L, -1) > 100);
  printf("%d finalizers ran\n", (int)lua_tointeger(L, -1));
  lua_settop(L, 0);
}

/* Marks of earlier messages do not come to life when generations are used up. */
static void check_generations(void) {
  struct marshal *m = lmp_marshal(L);
  for (uint32_t k = 0; k < 6; k++) {
    m->gen = k < 3 ? UINT32_MAX - 2 + k : k;
    CHECK(crosses("local s = {'a', 'b'} return {s, s, 'a', 'b', {s}}", LMP_FAMILY,
                  "return function(a, b) return b[1] == b[2] and b[5][1] == b[1] and b[1][2] == 'b' and "
                  "b[3] == 'a' end"));
  }
}

/* What a large message needed is given back by the messages after it. */
static void check_trim(void) {
  push("return ('x'):rep(4 << 20)");
  CHECK(call(encode, LMP_FAMILY) == LUA_OK);
  struct lmp_pack *p = &lmp_marshal(L)->pack;
  CHECK(p->cap > 4 << 20);
  for (int i = 0; i < 2; i++) {
    lua_pushinteger(L, 1);
    CHECK(call(encode, LMP_FAMILY) == LUA_OK);
  }
  CHECK(p->cap <= 1 << 20);
  lua_settop(L, 0);
}

int main(void) {
  L = lua_newstate(allocate, NULL);
  if (!L) return 1;
  luaL_openlibs(L);
  mplua_openlibs(L);
  push("require 'mp' local d = require 'mp.core' return d.collect()");
  lua_settop(L, 0);
  check_network();
  check_hostile();
  check_generations();
  check_trim();
  check_memory();
  check_finalizers();
  lua_close(L);
  printf("marshal_check: %d passed, %d failed\n", passed, failed);
  return failed != 0;
}
