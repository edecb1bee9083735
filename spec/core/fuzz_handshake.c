/* Feeds both roles of the handshake, as mp.listener and mp.client have them, with the bytes of
 * a peer, frames and all, over a real socket and in pieces.  It must come to an end; who is
 * believed must have given the right answer, of a digest that is taken; no message above the
 * limit may take memory, and no descriptor that comes along may stay.
 *
 * With libFuzzer:   make fuzz
 * By itself:        fuzz_handshake [rounds [seed]]: mutations of what peers say.
 *
 * An input: a byte of flags (below), the length of the first piece, the length of the others
 * (0: all that is left), then the stream.  Key and challenge are always the same, so that an
 * input can hold a whole exchange that is valid; for a stranger both are new and secret.
 */
#include "bind/lmp.h"
#include "bind/lsock.h"
#include "fuzz.h"
#include "mplua.h"
#include <fcntl.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENT = 1, LEGACY = 2, STRANGER = 4, DESCRIPTOR = 8 }; /* flags; the last: one is sent */
enum { HEAD = 3, LONGEST = 16384, PIECES = 64 };

/* What a handshake may take: buffers of connections, and what Lua has not collected yet.  A
 * length alone that is believed takes a megabyte. */
#define ROOM (64 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of every sanitizer; without one it is absent. */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static lua_State *L;
static unsigned believed; /* peers, so far */
static int lowest; /* see lowest_free; 0 until the runtime has opened what it keeps */

/* The lines of Lua that were reached: libFuzzer counts them as it counts the edges in C, which
 * are the same for every line. */
static uint8_t lines[1 << 12] __attribute__((section("__libfuzzer_extra_counters")));

/* begin(conn, client, legacy, stranger) -> the thread of a handshake; go_on() lets it go as far
 * as there are bytes: nil when it waits for more, else whether the peer is believed.  `broken` says
 * what must not have happened.  words: what peers may say.  valid: two inputs that end with
 * the peer being believed. */
static const char source[] =
    "require 'mp'\n"
    "local auth, core = require 'mp.auth', require 'mp.core'\n"
    "local KEY, RANDOM = 'the key', ('R'):rep(40)\n"
    "local LIMIT = 256\n"
    "local digests = {'sha256', 'sha384', 'sha3_256', 'sha3_384'}\n"
    "local thread, key, unknown, proved\n"
    /* The handshakes themselves are local to their modules. */
    "local function inner(f, name, seen)\n"
    "  if seen[f] then return end\n"
    "  seen[f] = true\n"
    "  for i = 1, 255 do\n"
    "    local known, value = debug.getupvalue(f, i)\n"
    "    if not known then return end\n"
    "    if known == name then return value end\n"
    "    local found = type(value) == 'function' and inner(value, name, seen)\n"
    "    if found then return found end\n"
    "  end\n"
    "end\n"
    "local listen = assert(inner(require 'mp.listener'.watch, 'shake_hands', {}))\n"
    "local connect = assert(inner(require 'mp.client'.Client, 'shake_hands', {}))\n"
    "local random = core.random\n"
    "function core.random(n) return unknown and random(n) or RANDOM:sub(1, n) end\n"
    /* What the key answers, put together anew. */
    "local function right(message, response, legacy)\n"
    "  local function is(name, mark)\n"
    "    return response == mark .. core.hmac(name, key, message)\n"
    "  end\n"
    "  if legacy and (is('md5', '') or is('md5', '{md5}')) then return true end\n"
    "  for _, name in ipairs(digests) do if is(name, '{' .. name .. '}') then return true end end\n"
    "  return false\n"
    "end\n"
    "local verify, respond = auth.verify, auth.respond\n"
    "function auth.verify(k, message, response, legacy)\n"
    "  proved = verify(k, message, response, legacy)\n"
    "  if proved ~= right(message, response, legacy) then\n"
    "    broken = proved and 'a wrong answer was taken' or 'the right answer was refused'\n"
    "  end\n"
    "  return proved\n"
    "end\n"
    "function auth.respond(k, message, legacy)\n"
    "  local response = respond(k, message, legacy)\n"
    "  if response and not legacy and response:sub(1, 4) ~= '{sha' then\n"
    "    broken = 'a weak digest of the key was given away'\n"
    "  end\n"
    "  return response\n"
    "end\n"
    "for _, name in ipairs {'deliver', 'answer'} do\n"
    "  local real = auth[name]\n"
    "  auth[name] = function(side, k, legacy)\n"
    "    return real({send = side.send, recv = function()\n"
    "      local message = side.recv()\n"
    "      if #message > LIMIT then broken = 'a long message was taken' end\n"
    "      return message\n"
    "    end}, k, legacy)\n"
    "  end\n"
    "end\n"
    /* A client waits in recv_bytes; here the bytes come when it has yielded. */
    "local function patient(conn)\n"
    "  return {\n"
    "    send_bytes = function(_, ...) return conn:send_bytes(...) end,\n"
    "    recv_bytes = function(_, max)\n"
    "      local message, why = conn:recv_bytes(max, 0)\n"
    "      while why == 'timeout' do\n"
    "        coroutine.yield()\n"
    "        message, why = conn:recv_bytes(max, 0)\n"
    "      end\n"
    "      return message, why\n"
    "    end,\n"
    "  }\n"
    "end\n"
    "function begin(conn, client, legacy, stranger)\n"
    "  unknown, proved, broken = stranger, false, nil\n"
    "  key = stranger and random(32) or KEY\n"
    "  local options = {authkey = key, legacy = legacy}\n"
    "  thread = coroutine.create(function()\n"
    "    if client then return connect(patient(conn), options, math.huge) end\n"
    "    return listen(conn, options)\n"
    "  end)\n"
    "  return thread\n"
    "end\n"
    "function go_on()\n"
    "  local ok, good = coroutine.resume(thread)\n"
    "  if ok and coroutine.status(thread) ~= 'dead' then return nil end\n"
    "  good = ok and good or false\n"
    "  if good and not proved then broken = 'a peer that proved nothing was believed' end\n"
    "  if good and unknown then broken = 'a peer without the key was believed' end\n"
    "  return good\n"
    "end\n"
    "local asked, old = '{sha256}' .. RANDOM, ('R'):rep(20)\n"
    "local function answers(name) return '{' .. name .. '}' .. core.hmac(name, KEY, asked) end\n"
    "words = {'#CHALLENGE#' .. asked, '#CHALLENGE#' .. old, '#CHALLENGE#{md5}' .. RANDOM,\n"
    "  '#CHALLENGE#{sha3_384}' .. RANDOM, '#WELCOME#', '#FAILURE#', '#CHALLENGE#', '{}', '',\n"
    "  answers 'sha256', answers 'sha384', answers 'sha3_256', answers 'md5',\n"
    "  core.hmac('md5', KEY, asked), ('x'):rep(LIMIT), ('x'):rep(LIMIT + 1)}\n"
    "local function exchange(flags, ...)\n"
    "  local input = string.char(flags, 255, 0)\n"
    "  for _, word in ipairs {...} do input = input .. ('>s4'):pack(word) end\n"
    "  return input\n"
    "end\n"
    "valid = {exchange(0, answers 'sha256', words[1], '#WELCOME#'),\n"
    "  exchange(1, words[1], '#WELCOME#', answers 'sha256')}\n";

static void fail(const char *what) {
  fprintf(stderr, "fuzz_handshake: %s\n", what);
  abort();
}

static void call(int nargs, int nresults) {
  if (lua_pcall(L, nargs, nresults, 0) != LUA_OK) fail(lua_tostring(L, -1));
}

static size_t allocated(void) {
  if (__sanitizer_get_current_allocated_bytes) return __sanitizer_get_current_allocated_bytes();
  struct mallinfo2 m = mallinfo2();
  return m.uordblks + m.hblkhd;
}

static void see_line(lua_State *thread, lua_Debug *at) {
  lua_getinfo(thread, "Sl", at);
  size_t i = at->srclen * 256 + (size_t)at->currentline;
  lines[i % sizeof lines]++;
}

/* Whether the handshake is over; aborts if what must hold does not. */
static int go_on(size_t before) {
  lua_getglobal(L, "go_on");
  call(0, 1);
  int over = !lua_isnil(L, -1);
  believed += (unsigned)lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (lua_getglobal(L, "broken") != LUA_TNIL) fail(lua_tostring(L, -1));
  lua_pop(L, 1);
  if (allocated() > before + ROOM) fail("too much memory was taken");
  return over;
}

/* Sends a piece, and with it maybe a descriptor.  A peer may be hung up on. */
static void say(int fd, const uint8_t *data, size_t size, int descriptor) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
  struct iovec v = {(void *)(uintptr_t)data, size};
  struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};
  if (size == 0) return;
  if (descriptor) {
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    h.msg_control = &control;
    h.msg_controllen = sizeof control;
  }
  (void)!sendmsg(fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The peer speaks until the handshake is over or the peer has gone. */
static void converse(int fd, const uint8_t *data, size_t size, size_t before) {
  const uint8_t *stream = data + HEAD, *end = data + size;
  size_t piece = data[1];
  int over = 0;
  for (int i = 0; i < PIECES && stream < end && !over; i++) {
    if (piece > (size_t)(end - stream) || i == PIECES - 1) piece = (size_t)(end - stream);
    say(fd, stream, piece, i == 0 && data[0] & DESCRIPTOR);
    over = go_on(before);
    stream += piece;
    piece = data[2] ? data[2] : (size_t)(end - stream);
  }
  shutdown(fd, SHUT_WR);
  if (!over && !go_on(before)) fail("it waits for a peer that has gone");
}

/* The end of a pair of sockets becomes a connection, as accept makes one. */
static int push_connection(lua_State *S) {
  lmp_conn_push_network(S, lua_touserdata(S, 1));
  return 1;
}

static void begin(int *fd, uint8_t flags) {
  lua_pushcfunction(L, push_connection);
  lua_pushlightuserdata(L, fd);
  call(1, 1); /* stays at 1, to be closed */
  lua_getglobal(L, "begin");
  lua_pushvalue(L, 1);
  lua_pushboolean(L, flags & CLIENT);
  lua_pushboolean(L, flags & LEGACY);
  lua_pushboolean(L, flags & STRANGER);
  call(4, 1);
  lua_sethook(lua_tothread(L, -1), see_line, LUA_MASKLINE, 0);
  lua_pop(L, 1);
}

/* The lowest numbers that are free, of all and of those that the runtime gives (os/fd.c),
 * added: it goes up when a descriptor is left behind. */
static int lowest_free(void) {
  int fd = dup(STDERR_FILENO), high = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
  close(fd);
  close(high);
  return fd + high;
}

/* A handshake that nobody can get through would pass as well. */
static void expect_valid(int i) {
  unsigned before = believed;
  size_t size;
  lua_getglobal(L, "valid");
  lua_rawgeti(L, -1, i);
  const char *text = lua_tolstring(L, -1, &size);
  uint8_t *input = fuzz_copy((const uint8_t *)text, size);
  lua_settop(L, 0);
  LLVMFuzzerTestOneInput(input, size);
  free(input);
  if (believed == before) fail("who knows the key was not believed");
}

static void set_up(void) {
  L = luaL_newstate();
  if (!L) abort();
  luaL_openlibs(L);
  mplua_openlibs(L);
  if (luaL_dostring(L, source)) fail(lua_tostring(L, -1));
  expect_valid(1);
  expect_valid(2);
  lowest = lowest_free();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static unsigned tick;
  int fds[2];
  if (size < HEAD || size > LONGEST) return 0;
  if (!L) set_up();
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) abort();
  uint8_t *copy = fuzz_copy(data, size);
  begin(&fds[0], data[0]);
  converse(fds[1], copy, size, allocated());
  lua_getfield(L, 1, "close");
  lua_pushvalue(L, 1);
  call(1, 0);
  lua_settop(L, 0);
  close(fds[1]);
  free(copy);
  if (lowest && lowest_free() != lowest) fail("a descriptor was left behind");
  if (++tick % 1024 == 0) lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

#ifdef FUZZ_MAIN
static size_t frame(uint8_t *out, const char *text, size_t n) {
  out[0] = out[1] = 0;
  out[2] = (uint8_t)(n >> 8);
  out[3] = (uint8_t)n;
  memcpy(out + 4, text, n);
  return n + 4;
}

/* Words in any order, mostly with bytes changed. */
static size_t make(uint8_t *out) {
  size_t n = HEAD;
  out[0] = (uint8_t)rnd(16);
  out[1] = (uint8_t)rnd(256);
  out[2] = rnd(2) ? 0 : (uint8_t)rnd(256);
  lua_getglobal(L, "words");
  for (uint64_t k = 1 + rnd(4); k > 0; k--) {
    size_t len;
    lua_rawgeti(L, -1, 1 + (lua_Integer)rnd((uint64_t)luaL_len(L, -1)));
    const char *word = lua_tolstring(L, -1, &len);
    n += frame(out + n, word, len);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  for (uint64_t k = rnd(4); k > 0; k--) out[HEAD + rnd(n - HEAD)] = (uint8_t)rnd(256);
  return n;
}

int main(int argc, char **argv) {
  static uint8_t bytes[1 << 12];
  long rounds = fuzz_begin(argc, argv);
  set_up();
  for (long i = 0; i < rounds; i++) LLVMFuzzerTestOneInput(bytes, make(bytes));
  printf("fuzz_handshake: %ld rounds\n", rounds);
  lua_close(L);
  return 0;
}
#endif
