/*** mp.Semaphore and mp.BoundedSemaphore.
 * @module semaphore */
#include "lsync.h"

static struct mp_semaphore *semaphore(const struct lsync *s) { return mp_at(s->h.obj); }

/* ---- waiting --------------------------------------------------------------------------- */

/* Bare when `x` is NULL, else noted in it. */
static int take_once(struct lsync *s, struct mp_entry *x, mp_time deadline) {
  struct mp_member *me = s->h.me;
  mp_label(me, s->h.obj, MP_WAIT_SEMAPHORE);
  int e = x ? mp_semaphore_own(semaphore(s), x, me, deadline, &s->look)
            : mp_semaphore_take(semaphore(s), deadline, &s->look);
  mp_unlabel(me);
  return e;
}

static int take(lua_State *L, struct lsync *s, struct mp_entry *x, mp_time deadline) {
  for (;;) {
    int e = take_once(s, x, deadline);
    if (e != EINTR) return e;
    mp_semaphore_tend(semaphore(s), s->h.me);
    lsync_pause(L, s);
  }
}

int lsync_take_permit(lua_State *L, struct lsync *s, mp_time deadline) {
  return take(L, s, mp_entry_at(s->h.me, s->h.entry), deadline);
}

int lsync_give_permit(struct lsync *s) {
  struct mp_entry *x = mp_entry_at(s->h.me, s->h.entry);
  return mp_semaphore_disown(semaphore(s), x, s->h.me);
}

/* ---- methods --------------------------------------------------------------------------- */

static int acquire(lua_State *L, int kind) {
  struct lsync *s = lmp_test(L, 1, kind);
  bool got = s && lmp_here(&s->h) && lua_isnoneornil(L, 2) &&
             mp_semaphore_try(semaphore(s)) == 0;
  if (!got) {
    s = lmp_check(L, 1, kind);
    got = take(L, s, NULL, lmp_deadline(L, 2)) == 0;
  }
  lua_pushboolean(L, got);
  return 1;
}

static int release(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  lua_Integer n = luaL_optinteger(L, 2, 1);
  luaL_argcheck(L, n >= 1, 2, "number of permits expected, at least 1");
  uint32_t permits = n > MP_SEMAPHORE_MAX ? UINT32_MAX : (uint32_t)n;
  if (mp_semaphore_give(semaphore(s), permits) == 0) return 0;
  if (kind == MP_KIND_SEMAPHORE)
    return luaL_error(L, "mp.Semaphore has a value of at most %d", MP_SEMAPHORE_MAX);
  return luaL_error(L, "mp.BoundedSemaphore is released above its initial value (%d)",
                    (int)semaphore(s)->limit);
}

static int get_value(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  lua_pushinteger(L, mp_semaphore_value(semaphore(s)));
  return 1;
}

static int locked(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  lua_pushboolean(L, mp_semaphore_value(semaphore(s)) == 0);
  return 1;
}

static int show(lua_State *L, int kind) {
  struct lsync *s;
  char id[LSYNC_ID_SIZE];
  if (!lsync_show_closed(L, kind, &s))
    lua_pushfstring(L, "%s: %s (value %d)", lmp_kind_name(kind), lsync_id(s, id),
                    (int)mp_semaphore_value(semaphore(s)));
  return 1;
}

struct setup {
  uint32_t value, limit;
};

static void init(void *p, void *arg) {
  const struct setup *u = arg;
  mp_semaphore_init(p, u->value, u->limit);
}

static int make(lua_State *L, int kind) {
  lua_Integer n = luaL_optinteger(L, 1, 1);
  luaL_argcheck(L, n >= 0 && n <= MP_SEMAPHORE_MAX, 1,
                "initial value expected, from 0 to 2147483647");
  struct setup u = {(uint32_t)n, kind == MP_KIND_BOUNDED ? (uint32_t)n : MP_SEMAPHORE_MAX};
  lmp_make(L, kind, sizeof(struct mp_semaphore), sizeof(struct lsync), init, &u);
  return 1;
}

#define S MP_KIND_SEMAPHORE
/*** A number of permits.
 * @type Semaphore */

/*** Takes a permit.  It has no owner: when this process dies it does not come back, those of `with`
 * and `guard` do.
 * @function Semaphore:acquire
 * @tparam[opt] number timeout seconds to wait for one; nil waits for ever, 0 does not wait
 * @treturn boolean whether one was taken
 * @python `multiprocessing.Semaphore.acquire(block, timeout)` */
static int sem_acquire(lua_State *L) { return acquire(L, S); }
/*** Gives permits back; any process may.
 * @function Semaphore:release
 * @tparam[opt=1] integer n how many
 * @raise above 2147483647
 * @python `multiprocessing.Semaphore.release`, which gives one */
static int sem_release(lua_State *L) { return release(L, S); }
/*** Whether there is no permit left.
 * @function Semaphore:locked
 * @treturn boolean */
static int sem_locked(lua_State *L) { return locked(L, S); }
/*** How many permits are left.
 * @function Semaphore:get_value
 * @treturn integer */
static int sem_get_value(lua_State *L) { return get_value(L, S); }
/*** Calls a function while one holds a permit; given back also when the function fails.
 * @function Semaphore:with
 * @tparam function f what is called
 * @param ... its arguments
 * @return what f returns
 * @raise what f raises */
static int sem_with(lua_State *L) { return lsync_with(L, S); }
/*** Takes a permit for a scope.
 * @function Semaphore:guard
 * @tparam[opt] number timeout seconds to wait for it
 * @treturn Guard|nil what gives it back when it is closed; nil when the time is over
 * @treturn string|nil "timeout", or "abandoned" beside a guard
 * @python `with semaphore:` */
static int sem_guard(lua_State *L) { return lsync_guard(L, S); }
/*** Gives this handle up, not what it stands for; calls of it are errors.  `<close>` does the same.
 * @function Semaphore:close
 * @raise while a guard, a with or a wait needs it */
static int sem_close(lua_State *L) { return lsync_close(L, S); }
static int sem_tostring(lua_State *L) { return show(L, S); }
/*** Makes a semaphore.
 * @function mp.Semaphore
 * @tparam[opt=1] integer n how many permits there are, from 0 to 2147483647
 * @treturn Semaphore
 * @python `multiprocessing.Semaphore`
 * @usage local permits = mp.Semaphore(2)
 * permits:with(function() print(permits:get_value()) end) --> 1
 * print(permits:get_value()) --> 2 */
static int sem_new(lua_State *L) { return make(L, S); }

#define B MP_KIND_BOUNDED
/*** A semaphore whose value never exceeds what it began with.
 * @type BoundedSemaphore */

/*** Takes a permit.  It has no owner: when this process dies it does not come back, those of `with`
 * and `guard` do.
 * @function BoundedSemaphore:acquire
 * @tparam[opt] number timeout seconds to wait for one; nil waits for ever, 0 does not wait
 * @treturn boolean whether one was taken
 * @python `multiprocessing.BoundedSemaphore.acquire(block, timeout)` */
static int bounded_acquire(lua_State *L) { return acquire(L, B); }
/*** Gives permits back; any process may.
 * @function BoundedSemaphore:release
 * @tparam[opt=1] integer n how many
 * @raise above the initial value
 * @python `multiprocessing.BoundedSemaphore.release`, which gives one */
static int bounded_release(lua_State *L) { return release(L, B); }
/*** Whether there is no permit left.
 * @function BoundedSemaphore:locked
 * @treturn boolean */
static int bounded_locked(lua_State *L) { return locked(L, B); }
/*** How many permits are left.
 * @function BoundedSemaphore:get_value
 * @treturn integer */
static int bounded_get_value(lua_State *L) { return get_value(L, B); }
/*** Calls a function while one holds a permit; given back also when the function fails.
 * @function BoundedSemaphore:with
 * @tparam function f what is called
 * @param ... its arguments
 * @return what f returns
 * @raise what f raises */
static int bounded_with(lua_State *L) { return lsync_with(L, B); }
/*** Takes a permit for a scope.
 * @function BoundedSemaphore:guard
 * @tparam[opt] number timeout seconds to wait for it
 * @treturn Guard|nil what gives it back when it is closed; nil when the time is over
 * @treturn string|nil "timeout", or "abandoned" beside a guard
 * @python `with semaphore:` */
static int bounded_guard(lua_State *L) { return lsync_guard(L, B); }
/*** Gives this handle up, not what it stands for; calls of it are errors.  `<close>` does the same.
 * @function BoundedSemaphore:close
 * @raise while a guard, a with or a wait needs it */
static int bounded_close(lua_State *L) { return lsync_close(L, B); }
static int bounded_tostring(lua_State *L) { return show(L, B); }
/*** Makes a semaphore that cannot be released above its initial value.
 * @function mp.BoundedSemaphore
 * @tparam[opt=1] integer n how many permits there are, from 0 to 2147483647
 * @treturn BoundedSemaphore
 * @python `multiprocessing.BoundedSemaphore` */
static int bounded_new(lua_State *L) { return make(L, B); }

static const luaL_Reg sem_methods[] = {
    {"acquire", sem_acquire}, {"release", sem_release},     {"locked", sem_locked},
    {"with", sem_with},       {"get_value", sem_get_value}, {"guard", sem_guard},
    {"close", sem_close},     {NULL, NULL}};
static const luaL_Reg sem_metamethods[] = {
    {"__gc", lmp_gc}, {"__close", sem_close}, {"__tostring", sem_tostring}, {NULL, NULL}};

static const luaL_Reg bounded_methods[] = {
    {"acquire", bounded_acquire},     {"release", bounded_release}, {"locked", bounded_locked},
    {"get_value", bounded_get_value}, {"with", bounded_with},       {"guard", bounded_guard},
    {"close", bounded_close},         {NULL, NULL}};
static const luaL_Reg bounded_metamethods[] = {{"__gc", lmp_gc},
                                               {"__close", bounded_close},
                                               {"__tostring", bounded_tostring},
                                               {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"Semaphore", sem_new}, {"BoundedSemaphore", bounded_new}, {NULL, NULL}};

void lsync_open_semaphore(lua_State *L) {
  lsync_type(L, S, "Semaphore", 0, sem_methods, sem_metamethods, NULL);
  lsync_type(L, B, "BoundedSemaphore", 0, bounded_methods, bounded_metamethods, NULL);
  luaL_setfuncs(L, functions, 0);
}
