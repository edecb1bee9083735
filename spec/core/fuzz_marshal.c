/* Feeds marshal's reader with bytes that nobody wrote.  What it accepts must be a value
 * that can be written and read again; everything else must be an error.
 *
 * With libFuzzer:   clang -fsanitize=fuzzer,address ... fuzz_marshal.c
 * By itself:        fuzz_marshal [rounds [seed]]: random bytes, and mutations of what
 *                   the encoder writes.
 */
#include "bind/marshal.h"
#include "fuzz.h"
#include "mplua.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Values of every kind whose bytes hold no code. */
static const char corpus_source[] =
    "local mp = require 'mp'\n"
    "local shared = {1, 2, 3}\n"
    "local loop = {} loop.loop = loop loop[loop] = shared\n"
    "local Class = {__index = {}} mp.marshal.register('fuzz.Class', Class)\n"
    "package.loaded.fuzzed = {Point = {__index = {}}, Closing = {__index = {}, __gc = type}}\n"
    "local records = {} for i = 1, 40 do\n"
    "  records[i] = {id = i, name = 'item-' .. i, tags = {'a', 'b', i}, on = i % 2 == 0} end\n"
    "local numbers = {} for i = 1, 700 do numbers[i] = i * i * (i % 3 - 1) end\n"
    "local floats = {} for i = 1, 20 do floats[i] = i / 7 end\n"
    "local words = {} for i = 1, 300 do words['k' .. i % 270] = 'v' .. i end\n"
    "local deep = {} for i = 1, 500 do deep = i % 2 == 0 and {deep} or {d = deep, e = i} end\n"
    "queue = mp.Queue()\n"
    "return {42, -70000, 2^53, 'text', ('x'):rep(300), mp.null, {}, shared, {shared, shared},\n"
    "  loop, setmetatable({x = 1}, Class),\n"
    "  setmetatable({1}, package.loaded.fuzzed.Point), {setmetatable({}, {__mode = 'k'})},\n"
    "  records, numbers, floats, words, deep, {1, nil, 3, x = {[1.5] = true}}, queue,\n"
    "  {queue, mp.Condition()}, string, setmetatable({}, package.loaded.fuzzed.Closing)}\n";

static lua_State *L;
static int corpus; /* stack index of the values */

static void fail(const char *what) {
  fprintf(stderr, "fuzz_marshal: %s: %s\n", what, lua_tostring(L, -1));
  abort();
}

static void start(void) {
  L = luaL_newstate();
  if (!L) abort();
  luaL_openlibs(L);
  mplua_openlibs(L);
  if (luaL_loadstring(L, corpus_source) || lua_pcall(L, 0, 1, 0)) fail("corpus");
  corpus = lua_gettop(L);
}

struct job {
  const uint8_t *data;
  size_t size;
  unsigned mode;
};

/* Decodes, writes what came out and reads that. */
static int try_one(lua_State *S) {
  const struct job *job = lua_touserdata(S, 1);
  struct lmp_unpack u = {.data = job->data, .len = job->size, .mode = job->mode};
  lmp_decode(S, &u);
  struct lmp_pack *p = lmp_pack(S);
  lmp_encode(S, -1, p, LMP_STRING);
  lua_pushlstring(S, (const char *)p->data, p->len);
  struct lmp_unpack again = {.mode = LMP_STRING | LMP_CODE};
  again.data = (const unsigned char *)lua_tolstring(S, -1, &again.len);
  lmp_decode(S, &again);
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const unsigned modes[] = {LMP_STRING, LMP_NETWORK, LMP_FAMILY};
  static unsigned tick;
  if (!L) start();
  uint8_t *copy = fuzz_copy(data, size);
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    struct job job = {copy, size, modes[i]};
    if (modes[i] == LMP_FAMILY && size) job.data++, job.size--; /* no magic there */
    int top = lua_gettop(L);
    lua_pushcfunction(L, try_one);
    lua_pushlightuserdata(L, &job);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK && lua_type(L, -1) != LUA_TSTRING) fail("odd error");
    lua_settop(L, top);
  }
  free(copy);
  if (++tick % 1024 == 0) lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

#ifdef FUZZ_MAIN
/* Bytes that mean something, and edges. */
static uint8_t odd_byte(void) {
  static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xbf, 0xff, 0xfe};
  switch (rnd(3)) {
  case 0: return odd[rnd(sizeof odd)];
  case 1: return (uint8_t)(0xc0 + rnd(0x40));
  default: return (uint8_t)rnd(256);
  }
}

static size_t mutate(uint8_t *s, size_t n, size_t cap) {
  for (uint64_t k = 1 + rnd(4); k > 0 && n > 1; k--) {
    size_t at = rnd(n), other = rnd(n), len = 1 + rnd(8);
    switch (rnd(6)) {
    case 0: s[at] ^= (uint8_t)(1u << rnd(8)); break;
    case 1: n = at + 1; break;
    case 2: /* one byte more */
      if (n < cap) memmove(s + at + 1, s + at, n++ - at), s[at] = odd_byte();
      break;
    case 3: /* one less */
      memmove(s + at, s + at + 1, --n - at);
      break;
    case 4: /* a piece from elsewhere */
      if (at + len <= n && other + len <= n) memmove(s + at, s + other, len);
      break;
    default: s[at] = odd_byte();
    }
  }
  return n;
}

static int encode_one(lua_State *S) {
  struct lmp_pack *p = lmp_pack(S);
  lmp_encode(S, 1, p, LMP_STRING);
  lua_pushlstring(S, (const char *)p->data, p->len);
  return 1;
}

/* A value of the corpus as bytes. */
static size_t sample(uint8_t *out, size_t cap) {
  size_t n;
  lua_pushcfunction(L, encode_one);
  lua_rawgeti(L, corpus, 1 + (lua_Integer)rnd((uint64_t)luaL_len(L, corpus)));
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) fail("encode");
  const char *s = lua_tolstring(L, -1, &n);
  if (n > cap) n = cap;
  memcpy(out, s, n);
  lua_pop(L, 1);
  return n;
}

int main(int argc, char **argv) {
  enum { CAP = 1 << 16 };
  static uint8_t bytes[CAP];
  long rounds = fuzz_begin(argc, argv);
  start();
  for (long i = 0; i < rounds; i++) {
    size_t n;
    if (rnd(8) == 0) {
      n = rnd(200);
      for (size_t k = 0; k < n; k++) bytes[k] = odd_byte();
      if (n && rnd(2)) bytes[0] = 0xfa;
    } else
      n = mutate(bytes, sample(bytes, CAP), CAP);
    LLVMFuzzerTestOneInput(bytes, n);
  }
  printf("fuzz_marshal: %ld rounds\n", rounds);
  lua_pushnil(L);
  lua_setglobal(L, "queue");
  lua_close(L);
  return 0;
}
#endif
