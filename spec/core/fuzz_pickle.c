/* Feeds the reader of pickles with bytes that nobody wrote.  What it accepts must be a
 * value; if that can be written, what was written must be read.
 *
 * With libFuzzer:   clang -fsanitize=fuzzer,address ... fuzz_pickle.c
 * By itself:        fuzz_pickle [rounds [seed]]: operations in any order, and mutations of
 *                   pickles that Python wrote.
 */
#include "bind/pickle.h"
#include "fuzz.h"
#include "mplua.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lua_State *L;

struct job {
  const uint8_t *data;
  size_t size;
};

static int write_one(lua_State *S) {
  struct lmp_pack *p = lmp_pack(S);
  lmp_pickle(S, 1, p);
  lua_pushlstring(S, (const char *)p->data, p->len);
  return 1;
}

static int try_one(lua_State *S) {
  const struct job *job = lua_touserdata(S, 1);
  lmp_unpickle(S, job->data, job->size);
  if (lua_gettop(S) != 2 || lua_isnil(S, 2)) {
    fprintf(stderr, "fuzz_pickle: not one value\n");
    abort();
  }
  lua_pushcfunction(S, write_one);
  lua_insert(S, 2);
  if (lua_pcall(S, 1, 1, 0) != LUA_OK) return 0; /* too deep, or a table is a key */
  size_t len;
  const char *again = lua_tolstring(S, -1, &len);
  lua_pushnil(S); /* what follows must not raise: tell by this */
  lua_setglobal(S, "written");
  lmp_unpickle(S, (const unsigned char *)again, len);
  lua_pushboolean(S, 1);
  lua_setglobal(S, "written");
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static unsigned tick;
  if (!L) {
    L = luaL_newstate();
    if (!L) abort();
    luaL_openlibs(L);
    mplua_openlibs(L);
  }
  lua_pushboolean(L, 1);
  lua_setglobal(L, "written");
  uint8_t *copy = fuzz_copy(data, size);
  struct job job = {copy, size};
  lua_pushcfunction(L, try_one);
  lua_pushlightuserdata(L, &job);
  int status = lua_pcall(L, 1, 0, 0);
  if (lua_getglobal(L, "written") != LUA_TBOOLEAN || (status && lua_type(L, -2) != LUA_TSTRING)) {
    fprintf(stderr, "fuzz_pickle: %s\n", status ? lua_tostring(L, -2) : "what was written is not read");
    abort();
  }
  lua_settop(L, 0);
  free(copy);
  if (++tick % 1024 == 0) lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

#ifdef FUZZ_MAIN
/* Pickles of protocol 2 to 5, with every operation that plain data needs. */
#define S(x) {x, sizeof x - 1}
static const struct {
  const char *bytes;
  size_t len;
} corpus[] = {
  S("\x80\x04\x95\x10\0\0\0\0\0\0\0]\x94(K\1\x8c\1a\x94}\x94X\2\0\0\0bcK\2se."),
  S("\x80\x02c__builtin__\nset\nq\0]q\1(K\1K\2e\x85q\2Rq\3."),
  S("\x80\x02c_codecs\nencode\nq\0X\4\0\0\0\xc3\xbf\0aq\1X\6\0\0\0latin1q\2\x86q\3Rq\4."),
  S("\x80\x05\x96\3\0\0\0\0\0\0\0abc\x94."),
  S("\x80\x04\x8f\x94(K\5\x8a\3\xff\xff\xff\x90h\0\x86."),
  S("\x80\x03}q\0(K\1G?\xf8\0\0\0\0\0\0\x88NM\0\1J\xff\xff\xff\xff\x89\x87u."),
  S("\x80\x04(K\1K\2\x91\x94\x8c\10builtins\x94\x8c\11frozenset\x94\x93\x94]K\3a\x85R\x86."),
  S("\x80\x04]\x94(h\0h\0e."),
  S("\x80\x03(B\2\0\0\0hiC\1x\x8b\1\0\0\0\5l0N."),
};
#undef S

static const char operations[] =
    "(.012NRabcehjlqrst})]uGJKMXBCTU\x80\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x93\x94\x95\x96";

static size_t make(uint8_t *out, size_t cap) {
  size_t n;
  if (rnd(3) == 0) { /* operations with small arguments */
    n = 2 + rnd(60);
    out[0] = 0x80;
    out[1] = (uint8_t)(2 + rnd(4));
    for (size_t i = 2; i < n; i++)
      out[i] = rnd(4) ? (uint8_t)operations[rnd(sizeof operations - 1)] : (uint8_t)rnd(3);
    out[n - 1] = '.';
    return n;
  }
  size_t which = rnd(sizeof corpus / sizeof *corpus);
  n = corpus[which].len;
  memcpy(out, corpus[which].bytes, n);
  for (uint64_t k = 1 + rnd(4); k > 0; k--) {
    size_t at = 2 + rnd(n - 2);
    if (rnd(4) == 0 && n < cap) {
      memmove(out + at + 1, out + at, n++ - at);
    } else if (rnd(4) == 0 && n > 4) {
      memmove(out + at, out + at + 1, --n - at);
      continue;
    }
    out[at] = rnd(2) ? (uint8_t)operations[rnd(sizeof operations - 1)] : (uint8_t)rnd(256);
  }
  return n;
}

int main(int argc, char **argv) {
  static uint8_t bytes[1 << 12];
  long rounds = fuzz_begin(argc, argv);
  for (long i = 0; i < rounds; i++) LLVMFuzzerTestOneInput(bytes, make(bytes, sizeof bytes));
  printf("fuzz_pickle: %ld rounds\n", rounds);
  if (L) lua_close(L);
  return 0;
}
#endif
