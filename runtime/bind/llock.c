/*** Locks, semaphores, conditions, events and barriers between the processes of a family.
 *
 * When the holder of a lock dies, the next `acquire` gets it and returns `true, "abandoned"`:
 * what the lock guards may be half done.  A waiter that is killed takes nobody's wake-up with it.
 * What has `acquire` can be held for a scope, which releases it also when an error leaves the
 * scope: `lock:with(f)` for a function, `local _ <close> = lock:guard()` for a block.
 * @module lock */
#include "lsync.h"

/* The lock that a handle of a Lock, RLock or Condition means. */
static struct mp_rlock *lock_of(const struct lsync *s, bool *recursive) {
  int kind = lsync_kind(s);
  *recursive = kind == MP_KIND_RLOCK;
  if (kind != MP_KIND_CONDITION) return mp_rlock_at(s->h.obj);
  struct mp_condition *c = mp_at(s->h.obj);
  *recursive = c->recursive != 0;
  return mp_condition_lock(c);
}

static int take_once(struct lsync *s, struct mp_rlock *r, bool recursive, mp_time deadline) {
  struct mp_member *me = s->h.me;
  mp_label(me, s->h.obj, MP_WAIT_LOCK);
  int e = recursive ? mp_rlock_take(r, me->word, deadline)
                    : mp_lock_take(&r->lock, me->word, deadline);
  mp_unlabel(me);
  return e;
}

/* A state has one thread: what it holds already nobody could release while it waits. */
int lsync_take_lock(lua_State *L, struct lsync *s, mp_time deadline) {
  bool recursive;
  const char *name = lmp_kind_name(lsync_kind(s));
  struct mp_rlock *r = lock_of(s, &recursive);
  if (!recursive && deadline == MP_FOREVER && mp_lock_mine(&r->lock, s->h.me->word))
    luaL_error(L, "%s is already held by this process: waiting for it would never end", name);
  for (;;) {
    int e = take_once(s, r, recursive, deadline);
    if (e == EOVERFLOW) luaL_error(L, "%s is held too many times", name);
    if (e != EINTR) return e;
    lsync_pause(L, s);
  }
}

int lsync_give_lock(struct lsync *s) {
  bool recursive;
  struct mp_rlock *r = lock_of(s, &recursive);
  uint32_t me = s->h.me->word;
  if (recursive) return mp_rlock_release(r, me);
  if (!mp_lock_mine(&r->lock, me)) return EPERM;
  mp_lock_release(&r->lock);
  return 0;
}

/* ---- the short ways -------------------------------------------------------------------
 * One comparison for the type, one CAS or exchange; all else goes the long way. */

/*** A lock, which only its holder can release.
 * @type Lock */

/*** Takes the lock.
 * @function Lock:acquire
 * @tparam[opt] number timeout seconds to wait for it; nil waits for ever, 0 does not wait
 * @treturn boolean whether it is held now
 * @treturn string|nil "abandoned" when its last holder died with it
 * @raise when it would wait for ever for a lock that this process holds itself
 * @python `multiprocessing.Lock.acquire(block, timeout)`; there the lock of a dead process stays
 *   locked for ever */
static int lock_acquire(lua_State *L) {
  struct lsync *s = lmp_test(L, 1, MP_KIND_LOCK);
  if (s && lmp_here(&s->h) && lua_isnoneornil(L, 2)) {
    uint32_t nobody = 0;
    if (atomic_compare_exchange_strong_explicit(&mp_rlock_at(s->h.obj)->lock.word, &nobody,
                                                s->h.me->word, memory_order_seq_cst,
                                                memory_order_relaxed)) {
      lua_pushboolean(L, 1);
      return 1;
    }
  }
  return lsync_acquire(L, MP_KIND_LOCK);
}

/*** Gives the lock back.
 * @function Lock:release
 * @raise when this process does not hold it
 * @python `multiprocessing.Lock.release`, which anybody may call */
static int lock_release(lua_State *L) {
  struct lsync *s = lmp_test(L, 1, MP_KIND_LOCK);
  if (s && lmp_here(&s->h)) {
    struct mp_lock *l = &mp_rlock_at(s->h.obj)->lock;
    if (mp_lock_mine(l, s->h.me->word)) {
      mp_lock_release(l);
      return 0;
    }
  }
  return lsync_release(L, MP_KIND_LOCK);
}

/*** A lock that its holder can take again; it is free when it was released as often.
 * @type RLock */

/*** Takes the lock, once more if this process holds it.
 * @function RLock:acquire
 * @tparam[opt] number timeout seconds to wait for it; nil waits for ever, 0 does not wait
 * @treturn boolean whether it is held now
 * @treturn string|nil "abandoned" when its last holder died with it
 * @python `multiprocessing.RLock.acquire(block, timeout)` */
static int rlock_acquire(lua_State *L) {
  struct lsync *s = lmp_test(L, 1, MP_KIND_RLOCK);
  if (s && lmp_here(&s->h) && lua_isnoneornil(L, 2)) {
    struct mp_rlock *r = mp_rlock_at(s->h.obj);
    if ((mp_lock_mine(&r->lock, s->h.me->word) || !mp_lock_taken(&r->lock)) &&
        mp_rlock_take(r, s->h.me->word, MP_NEVER) == 0) {
      lua_pushboolean(L, 1);
      return 1;
    }
  }
  return lsync_acquire(L, MP_KIND_RLOCK);
}

/*** Gives the lock back, once.
 * @function RLock:release
 * @raise when this process does not hold it
 * @python `multiprocessing.RLock.release` */
static int rlock_release(lua_State *L) {
  struct lsync *s = lmp_test(L, 1, MP_KIND_RLOCK);
  if (s && lmp_here(&s->h) && mp_rlock_release(mp_rlock_at(s->h.obj), s->h.me->word) == 0)
    return 0;
  return lsync_release(L, MP_KIND_RLOCK);
}

/* ---- the rest -------------------------------------------------------------------------- */

static int locked(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  lua_pushboolean(L, mp_lock_taken(&mp_rlock_at(s->h.obj)->lock));
  return 1;
}

static int show(lua_State *L, int kind) {
  struct lsync *s;
  char id[LSYNC_ID_SIZE];
  if (!lsync_show_closed(L, kind, &s))
    lua_pushfstring(L, "%s: %s (%s)", lmp_kind_name(kind), lsync_id(s, id),
                    lsync_holder(L, mp_rlock_at(s->h.obj)));
  return 1;
}

static int make(lua_State *L, int kind) {
  lmp_make(L, kind, sizeof(struct mp_rlock_object), sizeof(struct lsync), NULL, NULL);
  return 1;
}

/*** Whether somebody holds it.
 * @function Lock:locked
 * @treturn boolean */
static int lock_locked(lua_State *L) { return locked(L, MP_KIND_LOCK); }
/*** Calls a function while it is held; given back also when the function fails.
 * @function Lock:with
 * @tparam function f what is called
 * @param ... its arguments
 * @return what f returns
 * @raise what f raises */
static int lock_with(lua_State *L) { return lsync_with(L, MP_KIND_LOCK); }
/*** Takes it for a scope.
 * @function Lock:guard
 * @tparam[opt] number timeout seconds to wait for it
 * @treturn Guard|nil what gives it back when it is closed; nil when the time is over
 * @treturn string|nil "timeout", or "abandoned" beside a guard
 * @python `with lock:` */
static int lock_guard(lua_State *L) { return lsync_guard(L, MP_KIND_LOCK); }
/*** Gives this handle up, not what it stands for; calls of it are errors.  `<close>` does the same.
 * @function Lock:close
 * @raise while a guard, a with or a wait needs it */
static int lock_close(lua_State *L) { return lsync_close(L, MP_KIND_LOCK); }
static int lock_tostring(lua_State *L) { return show(L, MP_KIND_LOCK); }
/*** Makes a lock.
 * @function mp.Lock
 * @treturn Lock
 * @python `multiprocessing.Lock`; only its holder releases it
 * @usage local lock = mp.Lock()
 * print(lock:with(function(n) return n + 1 end, 41)) --> 42
 * do
 *   local _ <close> = lock:guard()
 *   print(lock:locked()) --> true
 * end
 * print(lock:locked()) --> false */
static int lock_new(lua_State *L) { return make(L, MP_KIND_LOCK); }

/*** Whether somebody holds it.
 * @function RLock:locked
 * @treturn boolean */
static int rlock_locked(lua_State *L) { return locked(L, MP_KIND_RLOCK); }
/*** Calls a function while it is held; given back also when the function fails.
 * @function RLock:with
 * @tparam function f what is called
 * @param ... its arguments
 * @return what f returns
 * @raise what f raises */
static int rlock_with(lua_State *L) { return lsync_with(L, MP_KIND_RLOCK); }
/*** Takes it for a scope.
 * @function RLock:guard
 * @tparam[opt] number timeout seconds to wait for it
 * @treturn Guard|nil what gives it back when it is closed; nil when the time is over
 * @treturn string|nil "timeout", or "abandoned" beside a guard
 * @python `with lock:` */
static int rlock_guard(lua_State *L) { return lsync_guard(L, MP_KIND_RLOCK); }
/*** Gives this handle up, not what it stands for; calls of it are errors.  `<close>` does the same.
 * @function RLock:close
 * @raise while a guard, a with or a wait needs it */
static int rlock_close(lua_State *L) { return lsync_close(L, MP_KIND_RLOCK); }
static int rlock_tostring(lua_State *L) { return show(L, MP_KIND_RLOCK); }
/*** Makes a lock that its holder can take again.
 * @function mp.RLock
 * @treturn RLock
 * @python `multiprocessing.RLock` */
static int rlock_new(lua_State *L) { return make(L, MP_KIND_RLOCK); }

static const luaL_Reg lock_methods[] = {
    {"acquire", lock_acquire}, {"release", lock_release}, {"locked", lock_locked},
    {"with", lock_with},       {"guard", lock_guard},     {"close", lock_close},
    {NULL, NULL}};
static const luaL_Reg lock_metamethods[] = {
    {"__gc", lmp_gc}, {"__close", lock_close}, {"__tostring", lock_tostring}, {NULL, NULL}};

static const luaL_Reg rlock_methods[] = {
    {"acquire", rlock_acquire}, {"release", rlock_release}, {"locked", rlock_locked},
    {"with", rlock_with},       {"guard", rlock_guard},     {"close", rlock_close},
    {NULL, NULL}};
static const luaL_Reg rlock_metamethods[] = {
    {"__gc", lmp_gc}, {"__close", rlock_close}, {"__tostring", rlock_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"Lock", lock_new}, {"RLock", rlock_new}, {NULL, NULL}};

void lsync_open_lock(lua_State *L) {
  lsync_type(L, MP_KIND_LOCK, "Lock", 0, lock_methods, lock_metamethods, NULL);
  lsync_type(L, MP_KIND_RLOCK, "RLock", 0, rlock_methods, rlock_metamethods, NULL);
  luaL_setfuncs(L, functions, 0);
}
