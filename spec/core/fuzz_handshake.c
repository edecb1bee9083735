/* Feeds both roles of the handshake with the bytes of a peer that does not know the key, over
 * a real socket, in two parts.  It must come to an end, and never to a peer that is believed.
 *
 * With libFuzzer:   make fuzz
 * By itself:        fuzz_handshake [rounds [seed]]: mutations of what such peers say.
 *
 * An input: a byte of flags (1 the client's role, 2 legacy), a byte that tells where the
 * stream is cut, then the stream, frames and all.
 */
#include "bind/lmp.h"
#include "bind/lsock.h"
#include "fuzz.h"
#include "mplua.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENT = 1, LEGACY = 2, HEAD = 2, LONGEST = 16384 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lua_State *L;

/* begin(conn, client, legacy) starts a handshake as mp.listener does; go_on() lets it go as
 * far as there are bytes: nil when it waits for more, else whether the peer is believed. */
static const char source[] =
    "require 'mp'\n"
    "local auth = require 'mp.auth'\n"
    "local KEY, thread = 'the key', nil\n"
    "local function side_of(conn)\n"
    "  return {\n"
    "    send = function(message) assert(conn:send_bytes(message, 1, -1, 0)) end,\n"
    "    recv = function()\n"
    "      local message, why = conn:recv_bytes(nil, 0)\n"
    "      while why == 'timeout' do\n"
    "        coroutine.yield()\n"
    "        message, why = conn:recv_bytes(nil, 0)\n"
    "      end\n"
    "      assert(message == nil or #message <= 256, 'a long message was taken')\n"
    "      return message or error('gone', 0)\n"
    "    end,\n"
    "  }\n"
    "end\n"
    "function begin(conn, client, legacy)\n"
    "  thread = coroutine.create(function()\n"
    "    local side = side_of(conn)\n"
    "    if client then\n"
    "      return auth.answer(side, KEY, legacy) and auth.deliver(side, KEY, legacy)\n"
    "    end\n"
    "    return auth.deliver(side, KEY, legacy) and auth.answer(side, KEY, legacy)\n"
    "  end)\n"
    "end\n"
    "function go_on()\n"
    "  local ok, good = coroutine.resume(thread)\n"
    "  if not ok and tostring(good):find 'long message' then return true end\n"
    "  if not ok then return false end\n"
    "  if coroutine.status(thread) == 'dead' then return good end\n"
    "end\n";

static void set_up(void) {
  L = luaL_newstate();
  if (!L) abort();
  luaL_openlibs(L);
  mplua_openlibs(L);
  if (luaL_dostring(L, source)) {
    fprintf(stderr, "fuzz_handshake: %s\n", lua_tostring(L, -1));
    abort();
  }
}

/* The end of a pair of sockets becomes a connection, as accept makes one. */
static int push_connection(lua_State *S) {
  lmp_conn_push_network(S, lua_touserdata(S, 1));
  return 1;
}

static void call(int nargs, int nresults) {
  if (lua_pcall(L, nargs, nresults, 0) == LUA_OK) return;
  fprintf(stderr, "fuzz_handshake: %s\n", lua_tostring(L, -1));
  abort();
}

/* Whether the handshake is over; a peer that is believed is what must not be. */
static int go_on(void) {
  lua_getglobal(L, "go_on");
  call(0, 1);
  if (lua_toboolean(L, -1)) {
    fprintf(stderr, "fuzz_handshake: a peer without the key was believed\n");
    abort();
  }
  int over = !lua_isnil(L, -1);
  lua_pop(L, 1);
  return over;
}

static void say(int fd, const uint8_t *data, size_t size) {
  if (size && send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size) return;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static unsigned tick;
  int fds[2];
  if (size < HEAD || size > LONGEST) return 0;
  if (!L) set_up();
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) abort();
  const uint8_t *stream = data + HEAD;
  size_t len = size - HEAD, cut = len * data[1] / 255;
  lua_getglobal(L, "begin");
  lua_pushcfunction(L, push_connection);
  lua_pushlightuserdata(L, &fds[0]);
  call(1, 1);
  lua_pushvalue(L, -1);
  lua_insert(L, 1); /* to be closed */
  lua_pushboolean(L, data[0] & CLIENT);
  lua_pushboolean(L, data[0] & LEGACY);
  call(3, 0);
  say(fds[1], stream, cut);
  int over = go_on();
  say(fds[1], stream + cut, len - cut);
  if (!over) over = go_on();
  shutdown(fds[1], SHUT_WR);
  if (!over) over = go_on();
  if (!over) {
    fprintf(stderr, "fuzz_handshake: it waits for a peer that has gone\n");
    abort();
  }
  lua_getfield(L, 1, "close");
  lua_pushvalue(L, 1);
  call(1, 0);
  lua_settop(L, 0);
  close(fds[1]);
  if (++tick % 1024 == 0) lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

#ifdef FUZZ_MAIN
/* What peers without the key may say: each is one message. */
static const char *const words[] = {
    "#CHALLENGE#{sha256}0123456789012345678901234567890123456789", "#CHALLENGE#01234567890123456789",
    "#CHALLENGE#{md5}0123456789012345678901234567890123456789", "#WELCOME#", "#FAILURE#",
    "{sha256}01234567890123456789012345678901", "0123456789012345", "{md5}0123456789012345",
    "#CHALLENGE#", "{sha3_384}", "{}", "",
};

static size_t frame(uint8_t *out, const char *text) {
  size_t n = strlen(text);
  out[0] = out[1] = 0;
  out[2] = (uint8_t)(n >> 8);
  out[3] = (uint8_t)n;
  memcpy(out + 4, text, n);
  return n + 4;
}

static size_t make(uint8_t *out) {
  size_t n = HEAD;
  out[0] = (uint8_t)rnd(4);
  out[1] = (uint8_t)rnd(256);
  for (uint64_t k = 1 + rnd(4); k > 0; k--)
    n += frame(out + n, words[rnd(sizeof words / sizeof *words)]);
  for (uint64_t k = rnd(4); k > 0; k--) out[HEAD + rnd(n - HEAD)] = (uint8_t)rnd(256);
  return n;
}

int main(int argc, char **argv) {
  static uint8_t bytes[1 << 12];
  long rounds = fuzz_begin(argc, argv);
  for (long i = 0; i < rounds; i++) LLVMFuzzerTestOneInput(bytes, make(bytes));
  printf("fuzz_handshake: %ld rounds\n", rounds);
  if (L) lua_close(L);
  return 0;
}
#endif
