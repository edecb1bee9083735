/*** mp.Barrier.
 * @module barrier */

/* The action is user value 1 of the handle; it travels with it. */
#include "lsync.h"
#include <math.h>
#include <string.h>

static struct lsync *check(lua_State *L) { return lmp_check(L, 1, MP_KIND_BARRIER); }
static struct mp_barrier *barrier(const struct lsync *s) { return mp_at(s->h.obj); }

/* ---- waiting --------------------------------------------------------------------------- */

static int result(lua_State *L, int e, uint32_t place) {
  if (e) return lmp_code(L, "broken");
  lua_pushinteger(L, place);
  return 1;
}

/* Waits for the others.  0 or EPIPE; an error of a hook breaks the barrier first. */
static int wait(lua_State *L, struct lsync *s, uint64_t turn, mp_time deadline) {
  struct mp_member *me = s->h.me;
  int e, status = LUA_OK;
  lsync_pin(s);
  do {
    mp_label(me, s->h.obj, MP_WAIT_BARRIER);
    e = mp_barrier_sleep(barrier(s), me, turn, deadline, &s->look);
    mp_unlabel(me);
  } while (e == EINTR && (status = lsync_try_pause(L, s)) == LUA_OK);
  if (e == EINTR || e == ETIMEDOUT) e = mp_barrier_quit(barrier(s), me, turn);
  lsync_unpin(s);
  if (status != LUA_OK) lua_error(L);
  return e;
}

/* Runs the action (on top), as the last one that came. */
static int act(lua_State *L, struct lsync *s, uint64_t turn) {
  lsync_pin(s);
  int status = lua_pcall(L, 0, 0, 0);
  int e = mp_barrier_acted(barrier(s), s->h.me, turn, status == LUA_OK);
  lsync_unpin(s);
  if (status != LUA_OK) lua_error(L);
  return e;
}

/* Comes to the barrier, when those before have left their action behind.  A time-out
 * is as everywhere in a barrier: it breaks it. */
static int enter(lua_State *L, struct lsync *s, bool action, mp_time deadline,
                 uint32_t *place, uint64_t *turn) {
  for (;;) {
    int e = mp_barrier_enter(barrier(s), s->h.me, action, place, turn);
    if (e != EBUSY) return e;
    mp_label(s->h.me, s->h.obj, MP_WAIT_BARRIER);
    e = mp_barrier_idle(barrier(s), s->h.me, *turn, deadline);
    mp_unlabel(s->h.me);
    if (e == ETIMEDOUT) {
      mp_barrier_abort(barrier(s), s->h.me);
      return EPIPE;
    }
    if (e == EINTR) lsync_pause(L, s);
  }
}

static mp_time deadline_of(lua_State *L, struct lsync *s) {
  if (!lua_isnoneornil(L, 2)) return lmp_deadline(L, 2);
  double limit = barrier(s)->limit;
  return isinf(limit) ? MP_FOREVER : mp_deadline(limit);
}

/*** A place where a number of processes wait for each other.  When one of them dies while it waits,
 * the barrier is broken.
 * @type Barrier */

/*** How many processes it takes.
 * @tfield integer parties */

/*** How many wait now.
 * @tfield integer n_waiting */

/*** Whether it is broken.
 * @tfield boolean broken */

/*** Waits until all have come.  A time-out breaks the barrier for all of them.
 * @function Barrier:wait
 * @tparam[opt] number timeout seconds; without one the barrier's own
 * @treturn integer|nil 1 to `parties`, in the order in which they came; another for each of them
 * @treturn string|nil "broken"
 * @raise what the action raises, in the process that ran it: the one that came last
 * @python `multiprocessing.Barrier.wait`, which counts from 0 and raises `BrokenBarrierError` */
static int barrier_wait(lua_State *L) {
  struct lsync *s = check(L);
  mp_time deadline = deadline_of(L, s);
  uint32_t place = 0;
  uint64_t turn;
  luaL_checkstack(L, 8, NULL);
  lsync_check_idle(L, s);
  lua_settop(L, 2);
  bool action = lua_getiuservalue(L, 1, 1) > LUA_TNIL;
  int e = enter(L, s, action, deadline, &place, &turn);
  if (e == EINPROGRESS) e = act(L, s, turn);
  else if (e == 0 && place < barrier(s)->parties) e = wait(L, s, turn, deadline);
  return result(L, e, place);
}

/* ---- the rest -------------------------------------------------------------------------- */

/*** Makes it as new; who waits gets "broken".
 * @function Barrier:reset
 * @python `multiprocessing.Barrier.reset` */
static int barrier_reset(lua_State *L) {
  struct lsync *s = check(L);
  mp_barrier_reset(barrier(s), s->h.me);
  return 0;
}

/*** Breaks it: who waits, and who comes, gets "broken" until `reset`.
 * @function Barrier:abort
 * @python `multiprocessing.Barrier.abort` */
static int barrier_abort(lua_State *L) {
  struct lsync *s = check(L);
  mp_barrier_abort(barrier(s), s->h.me);
  return 0;
}

/*** Gives this handle up, not what it stands for; calls of it are errors.  `<close>` does the same.
 * @function Barrier:close
 * @raise while a wait needs it */
static int barrier_close(lua_State *L) { return lsync_close(L, MP_KIND_BARRIER); }

static bool broken(const struct lsync *s) {
  return mp_turn_phase(mp_barrier_turn(barrier(s))) == MP_BROKE;
}

/* Methods are the first upvalue. */
static int barrier_index(lua_State *L) {
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  int type = lua_rawget(L, lua_upvalueindex(1));
  if (type != LUA_TNIL || lua_type(L, 2) != LUA_TSTRING) return 1;
  static const char *const fields[] = {"parties", "n_waiting", "broken", NULL};
  const char *key = lua_tostring(L, 2);
  int i = 0;
  while (fields[i] && strcmp(fields[i], key) != 0) i++;
  if (!fields[i]) return 1;
  struct lsync *s = check(L);
  if (i == 0) lua_pushinteger(L, barrier(s)->parties);
  else if (i == 1) lua_pushinteger(L, mp_turn_waiting(mp_barrier_turn(barrier(s))));
  else lua_pushboolean(L, broken(s));
  return 1;
}

static int barrier_tostring(lua_State *L) {
  struct lsync *s;
  char id[LSYNC_ID_SIZE];
  if (lsync_show_closed(L, MP_KIND_BARRIER, &s)) return 1;
  if (broken(s)) lua_pushfstring(L, "mp.Barrier: %s (broken)", lsync_id(s, id));
  else lua_pushfstring(L, "mp.Barrier: %s (%d of %d waiting)", lsync_id(s, id),
                       (int)mp_turn_waiting(mp_barrier_turn(barrier(s))),
                       (int)barrier(s)->parties);
  return 1;
}

struct setup {
  uint32_t parties;
  double limit;
};

static void init(void *p, void *arg) {
  const struct setup *u = arg;
  mp_barrier_init(p, u->parties, u->limit);
}

/*** Makes a barrier.
 * @function mp.Barrier
 * @tparam integer parties how many processes it takes, from 1 to 4095
 * @tparam[opt] function action what the last one that comes calls, before all go on
 * @tparam[opt] number timeout seconds that a `wait` without a time-out waits
 * @treturn Barrier
 * @python `multiprocessing.Barrier`
 * @usage local barrier = mp.Barrier(2)
 * mp.Process(function() barrier:wait() end):start()
 * local place = barrier:wait(10)
 * print(place == 1 or place == 2) --> true */
static int barrier_new(lua_State *L) {
  lua_settop(L, 3);
  lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 1 && n <= MP_BARRIER_MAX, 1,
                "number of parties expected, from 1 to 4095");
  if (!lua_isnoneornil(L, 2) && lua_type(L, 2) != LUA_TFUNCTION) {
    if (luaL_getmetafield(L, 2, "__call") == LUA_TNIL) return luaL_typeerror(L, 2, "function");
    lua_pop(L, 1);
  }
  (void)lmp_deadline(L, 3); /* raises what is no time */
  struct setup u = {(uint32_t)n, lua_isnoneornil(L, 3) ? INFINITY : lua_tonumber(L, 3)};
  lmp_make(L, MP_KIND_BARRIER, mp_barrier_size(u.parties), sizeof(struct lsync), init, &u);
  if (!lua_isnoneornil(L, 2)) {
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
  }
  return 1;
}

static const luaL_Reg methods[] = {{"wait", barrier_wait},
                                   {"reset", barrier_reset},
                                   {"abort", barrier_abort},
                                   {"close", barrier_close},
                                   {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__gc", lmp_gc},
                                       {"__close", barrier_close},
                                       {"__tostring", barrier_tostring},
                                       {NULL, NULL}};

void lsync_open_barrier(lua_State *L) {
  lsync_type(L, MP_KIND_BARRIER, "Barrier", 1, methods, metamethods, barrier_index);
  lua_pushcfunction(L, barrier_new);
  lua_setfield(L, -2, "Barrier");
}
