/*** mp.Condition.
 * @module condition */
#include "lsync.h"

/* A wait that ends by an error, Ctrl-C say, takes the lock again as every wait does,
 * but only for so long: together with the end of the wait this stays below the quarter
 * of a second in which an interrupt must come out. */
#define LAST_TRY_NS (150 * 1000 * 1000LL)

static struct lsync *check(lua_State *L) { return lmp_check(L, 1, MP_KIND_CONDITION); }
static struct mp_condition *condition(const struct lsync *s) { return mp_at(s->h.obj); }

static struct mp_condition *check_held(lua_State *L, struct lsync *s, const char *what) {
  struct mp_condition *c = condition(s);
  if (!mp_lock_mine(&mp_condition_lock(c)->lock, s->h.me->word))
    luaL_error(L, "mp.Condition:%s: the lock of the condition must be held", what);
  return c;
}

/* ---- waiting --------------------------------------------------------------------------- */

/* Sleeps until notified or the deadline.  False when hooks failed: the error is on
 * top. */
static bool sleep_out(lua_State *L, struct lsync *s, mp_time deadline) {
  for (;;) {
    mp_label(s->h.me, s->h.obj, MP_WAIT_CONDITION);
    int e = mp_condition_sleep(condition(s), s->h.me, deadline, &s->look);
    mp_unlabel(s->h.me);
    if (e != EINTR) return true;
    if (lsync_try_pause(L, s) != LUA_OK) return false;
  }
}

/* Takes the lock again.  `*fine` is false when an error is on top already, or becomes
 * false when one is pushed; the lock is then waited for a little longer only. */
static bool retake(lua_State *L, struct lsync *s, bool *fine) {
  struct mp_lock *l = &mp_condition_lock(condition(s))->lock;
  struct mp_member *me = s->h.me;
  mp_time deadline = *fine ? MP_FOREVER : mp_now() + LAST_TRY_NS;
  for (;;) {
    if (mp_lock_mine(l, me->word)) return true; /* a hook took it */
    mp_label(me, s->h.obj, MP_WAIT_LOCK);
    int e = mp_lock_take(l, me->word, deadline);
    mp_unlabel(me);
    if (e != EINTR) return e != ETIMEDOUT;
    if (*fine && lsync_try_pause(L, s) != LUA_OK) {
      *fine = false;
      deadline = mp_now() + LAST_TRY_NS;
    }
  }
}

/* The wait itself; the lock is held, with its count, before and after.  The member is
 * in the list from before it lets the lock go until it has it again. */
static bool wait(lua_State *L, struct lsync *s, mp_time deadline) {
  struct mp_condition *c = condition(s);
  struct mp_rlock *r = mp_condition_lock(c);
  struct mp_member *me = s->h.me;
  uint32_t count = r->count;
  lsync_pin(s);
  mp_condition_enter(c, me);
  mp_lock_release(&r->lock);
  bool fine = sleep_out(L, s, deadline);
  if (fine) mp_rlock_look(r, &s->look);
  if (retake(L, s, &fine)) r->count = count;
  bool notified = mp_condition_leave(c, me, !fine);
  lsync_unpin(s);
  if (!fine) lua_error(L);
  return notified;
}

/*** A condition and its lock.  It has the methods of the lock, and can be waited for.
 * @type Condition */

/*** Lets the lock go, waits to be notified, and takes the lock again.
 * @function Condition:wait
 * @tparam[opt] number timeout seconds; nil waits for ever, 0 does not wait
 * @treturn boolean whether one was notified; the lock is held in either case
 * @raise when this process does not hold the lock
 * @python `multiprocessing.Condition.wait` */
static int condition_wait(lua_State *L) {
  struct lsync *s = check(L);
  mp_time deadline = lmp_deadline(L, 2);
  luaL_checkstack(L, 8, NULL);
  check_held(L, s, "wait");
  lsync_check_idle(L, s);
  lua_pushboolean(L, wait(L, s, deadline));
  return 1;
}

/* Stack: condition, predicate, and how long it may last as a deadline. */
static int wait_for_on(lua_State *L, int status, lua_KContext over) {
  (void)status;
  for (;;) {
    if (lua_toboolean(L, -1) || over) return 1;
    lua_settop(L, 3);
    struct lsync *s = check(L); /* the predicate may have closed it */
    mp_time deadline = lua_tointeger(L, 3);
    check_held(L, s, "wait_for");
    over = deadline == MP_NEVER || !wait(L, s, deadline);
    lua_pushvalue(L, 2);
    lua_callk(L, 0, 1, over, wait_for_on);
  }
}

/*** Waits until a function, called with the lock held, returns something true.
 * @function Condition:wait_for
 * @tparam function predicate called first, and after each wake-up
 * @tparam[opt] number timeout seconds for all of it
 * @return what the predicate returned last
 * @raise when this process does not hold the lock; what the predicate raises
 * @python `multiprocessing.Condition.wait_for` */
static int condition_wait_for(lua_State *L) {
  struct lsync *s = check(L);
  if (lua_type(L, 2) != LUA_TFUNCTION) {
    if (luaL_getmetafield(L, 2, "__call") == LUA_TNIL) return luaL_typeerror(L, 2, "function");
    lua_pop(L, 1);
  }
  mp_time deadline = lmp_deadline(L, 3);
  luaL_checkstack(L, 8, NULL);
  check_held(L, s, "wait_for");
  lsync_check_idle(L, s);
  lua_settop(L, 2);
  lua_pushinteger(L, deadline);
  lua_pushvalue(L, 2);
  lua_callk(L, 0, 1, 0, wait_for_on);
  return wait_for_on(L, LUA_OK, 0);
}

/* ---- notifying ------------------------------------------------------------------------- */

/*** Wakes processes that wait.
 * @function Condition:notify
 * @tparam[opt=1] integer n how many at most
 * @raise when this process does not hold the lock
 * @python `multiprocessing.Condition.notify` */
static int condition_notify(lua_State *L) {
  struct lsync *s = check(L);
  lua_Integer n = luaL_optinteger(L, 2, 1);
  luaL_argcheck(L, n >= 0, 2, "number of waiters expected, not negative");
  struct mp_condition *c = check_held(L, s, "notify");
  mp_condition_notify(c, s->h.me, n > UINT32_MAX ? UINT32_MAX : (uint32_t)n);
  return 0;
}

/*** Wakes all processes that wait.
 * @function Condition:notify_all
 * @raise when this process does not hold the lock
 * @python `multiprocessing.Condition.notify_all` */
static int condition_notify_all(lua_State *L) {
  struct lsync *s = check(L);
  mp_condition_notify(check_held(L, s, "notify_all"), s->h.me, UINT32_MAX);
  return 0;
}

/* ---- the rest -------------------------------------------------------------------------- */

/*** Whether somebody holds its lock.
 * @function Condition:locked
 * @treturn boolean */
static int condition_locked(lua_State *L) {
  lua_pushboolean(L, mp_lock_taken(&mp_condition_lock(condition(check(L)))->lock));
  return 1;
}

static int condition_tostring(lua_State *L) {
  struct lsync *s;
  char id[LSYNC_ID_SIZE];
  if (!lsync_show_closed(L, MP_KIND_CONDITION, &s))
    lua_pushfstring(L, "mp.Condition: %s (%s)", lsync_id(s, id),
                    lsync_holder(L, mp_condition_lock(condition(s))));
  return 1;
}

static void init(void *p, void *arg) {
  (void)arg;
  ((struct mp_condition *)p)->recursive = 1;
}

static struct lsync *check_lock(lua_State *L) {
  if (lua_isnoneornil(L, 1)) return NULL;
  if (lmp_test(L, 1, MP_KIND_LOCK)) return lmp_check(L, 1, MP_KIND_LOCK);
  if (lmp_test(L, 1, MP_KIND_RLOCK)) return lmp_check(L, 1, MP_KIND_RLOCK);
  luaL_typeerror(L, 1, "mp.Lock or mp.RLock");
  return NULL;
}

/*** Makes a condition.
 * @function mp.Condition
 * @tparam[opt] Lock|RLock lock the lock that it uses; without one it makes an RLock
 * @treturn Condition
 * @python `multiprocessing.Condition`
 * @usage local changed, level = mp.Condition(), mp.RawValue("i", 0)
 * local p = mp.Process(function()
 *   changed:with(function()
 *     level.value = 3
 *     changed:notify_all()
 *   end)
 * end)
 * p:start()
 * changed:with(function()
 *   changed:wait_for(function() return level.value >= 3 end)
 * end)
 * print(level.value) --> 3 */
static int condition_new(lua_State *L) {
  struct lsync *lock = check_lock(L);
  struct lsync *s = lmp_make(L, MP_KIND_CONDITION, sizeof(struct mp_condition),
                             sizeof(struct lsync), init, NULL);
  if (lock)
    mp_condition_use(condition(s), lock->h.obj, lsync_kind(lock) == MP_KIND_RLOCK, s->h.me);
  return 1;
}

/*** Takes its lock, as `Lock:acquire` and `RLock:acquire` do.
 * @function Condition:acquire
 * @tparam[opt] number timeout seconds to wait for it
 * @treturn boolean whether it is held now
 * @treturn string|nil "abandoned" when its last holder died with it */
static int condition_acquire(lua_State *L) { return lsync_acquire(L, MP_KIND_CONDITION); }
/*** Gives its lock back.
 * @function Condition:release
 * @raise when this process does not hold it */
static int condition_release(lua_State *L) { return lsync_release(L, MP_KIND_CONDITION); }
/*** Calls a function while its lock is held; given back also when the function fails.
 * @function Condition:with
 * @tparam function f what is called
 * @param ... its arguments
 * @return what f returns
 * @raise what f raises */
static int condition_with(lua_State *L) { return lsync_with(L, MP_KIND_CONDITION); }
/*** Takes it for a scope.
 * @function Condition:guard
 * @tparam[opt] number timeout seconds to wait for it
 * @treturn Guard|nil what gives it back when it is closed; nil when the time is over
 * @treturn string|nil "timeout", or "abandoned" beside a guard
 * @python `with lock:` */
static int condition_guard(lua_State *L) { return lsync_guard(L, MP_KIND_CONDITION); }
/*** Gives this handle up, not what it stands for; calls of it are errors.  `<close>` does the same.
 * @function Condition:close
 * @raise while a guard, a with or a wait needs it */
static int condition_close(lua_State *L) { return lsync_close(L, MP_KIND_CONDITION); }

static const luaL_Reg methods[] = {{"acquire", condition_acquire},
                                   {"release", condition_release},
                                   {"locked", condition_locked},
                                   {"with", condition_with},
                                   {"guard", condition_guard},
                                   {"wait", condition_wait},
                                   {"wait_for", condition_wait_for},
                                   {"notify", condition_notify},
                                   {"notify_all", condition_notify_all},
                                   {"close", condition_close},
                                   {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__gc", lmp_gc},
                                       {"__close", condition_close},
                                       {"__tostring", condition_tostring},
                                       {NULL, NULL}};

void lsync_open_condition(lua_State *L) {
  lsync_type(L, MP_KIND_CONDITION, "Condition", 0, methods, metamethods, NULL);
  lua_pushcfunction(L, condition_new);
  lua_setfield(L, -2, "Condition");
}
