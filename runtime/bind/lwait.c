/*** Sleeping, and waiting for several descriptors.
 * @module clock */
#include "../ipc/queue.h"
#include "lprocess.h"
#include <errno.h>
#include <poll.h>
#include <time.h>

/*** Seconds on a clock that is never set: for measuring, and for deadlines of one's own.
 * @function mp.monotonic
 * @treturn number
 * @python `time.monotonic` */
static int monotonic(lua_State *L) {
  lua_pushnumber(L, (lua_Number)mp_now() / 1e9);
  return 1;
}

/* The end of the slice that begins now, `deadline` at the latest. */
static mp_time slice_end(mp_time deadline) {
  mp_time end = mp_now() + MP_SLICE_NS;
  return end < deadline ? end : deadline;
}

/* In slices, because a signal that comes just before the kernel's sleep begins would not
 * end it. */
static int sleep_here(lua_State *L) {
  mp_time deadline = mp_deadline(luaL_checknumber(L, 1));
  struct mp_member *m = lmp_member(L);
  while (mp_now() < deadline) {
    mp_time end = slice_end(deadline);
    struct timespec t = {end / 1000000000, end % 1000000000};
    mp_label(m, 0, MP_WAIT_SLEEP);
    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    mp_unlabel(m);
    lmp_pause(L, m);
  }
  return 0;
}

static const char park_key; /* in the registry */

/* core.park_sleep(f): f(seconds) may sleep otherwise, and returns whether it has. */
static int park_sleep(lua_State *L) {
  lua_settop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &park_key);
  return 0;
}

static int after_park(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  (void)ctx;
  return lua_toboolean(L, -1) ? 0 : sleep_here(L);
}

/*** Sleeps.  Ctrl-C ends it with the error "interrupted!".
 * @function mp.sleep
 * @tparam number seconds fractions allowed; 0 or less returns at once
 * @raise NaN
 * @python `time.sleep` */
static int sleep_for(lua_State *L) {
  lua_Number s = luaL_checknumber(L, 1);
  luaL_argcheck(L, s == s, 1, "seconds must not be NaN");
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &park_key) == LUA_TNIL) return sleep_here(L);
  lua_pushvalue(L, 1);
  lua_callk(L, 1, 1, 0, after_park);
  return after_park(L, LUA_OK, 0);
}

/* A slice of poll: its result, or -errno. */
static int poll_slice(struct pollfd *fds, nfds_t n, mp_time deadline) {
  mp_time left = slice_end(deadline) - mp_now();
  struct timespec t = {0, 0};
  if (left > 0) t.tv_nsec = (long)left;
  int r = ppoll(fds, n, &t, NULL);
  return r < 0 ? -errno : r;
}

/* core.poll(fds, timeout) -> array of the indices of those that are readable (or at
 * their end; a negative one, ~fd: writable), in order; empty when the time is over; nil, index:
 * that one is not open */
static int poll_fds(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  mp_time deadline = lmp_deadline(L, 2);
  struct mp_member *m = lmp_member(L);
  lua_Integer n = luaL_len(L, 1);
  struct pollfd *fds = lua_newuserdatauv(L, (size_t)(n > 0 ? n : 1) * sizeof *fds, 0);
  for (lua_Integer i = 0; i < n; i++) {
    lua_rawgeti(L, 1, i + 1);
    int fd = (int)lua_tointeger(L, -1);
    fds[i] = (struct pollfd){fd < 0 ? ~fd : fd, fd < 0 ? POLLOUT : POLLIN, 0};
    lua_pop(L, 1);
  }
  int r;
  for (;;) {
    mp_label(m, 0, MP_WAIT_MANY);
    r = poll_slice(fds, (nfds_t)n, deadline);
    mp_unlabel(m);
    if (r > 0 || (r == 0 && mp_now() >= deadline)) break;
    if (r < 0 && r != -EINTR) return lmp_fail(L, -r, "wait for descriptors");
    lmp_pause(L, m);
  }
  lua_createtable(L, r, 0);
  for (lua_Integer i = 0, at = 0; i < n; i++) {
    if (fds[i].revents & POLLNVAL) {
      lua_pushnil(L);
      lua_pushinteger(L, i + 1);
      return 2;
    }
    if (!fds[i].revents) continue;
    lua_pushinteger(L, i + 1);
    lua_rawseti(L, -2, ++at);
  }
  return 1;
}

/* core.queue_closed(queue): this handle of it was closed */
static int queue_closed(lua_State *L) {
  const struct lmp_handle *h = lua_touserdata(L, 1);
  int kind = lmp_kind(L, 1);
  luaL_argexpected(L, kind >= MP_KIND_QUEUE && kind <= MP_KIND_PRIORITY, 1, "mp.Queue");
  lua_pushboolean(L, h->obj == 0);
  return 1;
}

/* core.queue_over(queue): it was shut down, so that a get does not wait */
static int queue_over(lua_State *L) {
  int kind = lmp_kind(L, 1);
  luaL_argexpected(L, kind >= MP_KIND_QUEUE && kind <= MP_KIND_PRIORITY, 1, "mp.Queue");
  const struct lmp_handle *h = lmp_check(L, 1, kind);
  lua_pushboolean(L, mp_queue_is_shut(mp_at(h->obj)));
  return 1;
}

void lmp_open_wait(lua_State *L) {
  static const luaL_Reg functions[] = {
    {"monotonic", monotonic}, {"sleep", sleep_for},
    {"park_sleep", park_sleep}, {"poll", poll_fds},
    {"queue_over", queue_over}, {"queue_closed", queue_closed}, {NULL, NULL}
  };
  luaL_setfuncs(L, functions, 0);
}
