/* What all kinds of synchronisation do alike: waiting so that hooks run, guards, with,
 * closing. */

/*** Guards: what holds a lock or a permit for a scope.
 * @module guard */
#include "lsync.h"
#include <stdio.h>

/* ---- handles --------------------------------------------------------------------------- */

const char *lsync_id(const struct lsync *s, char id[LSYNC_ID_SIZE]) {
  snprintf(id, LSYNC_ID_SIZE, "0x%zx", (size_t)s->h.obj * 16);
  return id;
}

bool lsync_show_closed(lua_State *L, int kind, struct lsync **out) {
  struct lsync *s = lmp_test(L, 1, kind);
  *out = s;
  if (s && s->h.obj == 0) {
    lua_pushfstring(L, "%s (closed)", lmp_kind_name(kind));
    return true;
  }
  lmp_check(L, 1, kind);
  return false;
}

const char *lsync_holder(lua_State *L, const struct mp_rlock *r) {
  uint32_t word = atomic_load_explicit(&r->lock.word, memory_order_relaxed) & MP_LOCK_OWNER;
  if (word == 0) return "free";
  int pid = (int)atomic_load(&mp_slot_at(mp_word_slot(word))->pid);
  return mp_alive(word) ? lua_pushfstring(L, "held by %d", pid) : "abandoned";
}

void lsync_pin(struct lsync *s) {
  uint32_t word = s->h.me->word;
  s->pins = s->pinner == word ? s->pins + 1 : 1;
  s->pinner = word;
}

void lsync_unpin(struct lsync *s) {
  if (s->pinner == s->h.me->word && s->pins > 0) s->pins--;
}

/* close and __close: the lock of a lock that is held stays held, but what a guard, a
 * with or a wait still needs is not taken from under it. */
int lsync_close(lua_State *L, int kind) {
  struct lsync *s = lmp_test(L, 1, kind);
  if (s && !lmp_here(&s->h)) return 0;
  s = lmp_check(L, 1, kind);
  if (s->pins > 0 && s->pinner == s->h.me->word)
    return luaL_error(L, "%s is in use by a guard, a with or a wait: it cannot be closed",
                      lmp_kind_name(kind));
  lmp_release(L, &s->h);
  return 0;
}

void lsync_type(lua_State *L, int kind, const char *name, int nuv, const luaL_Reg *methods,
                const luaL_Reg *metamethods, lua_CFunction index) {
  struct lmp_opener o = {sizeof(struct lsync), nuv, NULL};
  lmp_opener_set(kind, &o);
  lmp_type(L, kind, name, methods, metamethods, index);
}

/* ---- waiting --------------------------------------------------------------------------- */

void lsync_pause(lua_State *L, struct lsync *s) {
  int kind = lsync_kind(s);
  lmp_pause(L, s->h.me);
  if (s->h.obj == 0) luaL_error(L, "%s was closed while waiting for it", lmp_kind_name(kind));
}

static int pause_it(lua_State *L) {
  lmp_pause(L, lua_touserdata(L, 1));
  return 0;
}

int lsync_try_pause(lua_State *L, struct lsync *s) {
  lua_pushcfunction(L, pause_it);
  lua_pushlightuserdata(L, s->h.me);
  return lua_pcall(L, 1, 0, 0);
}

void lsync_check_idle(lua_State *L, struct lsync *s) {
  if (mp_waits(s->h.me))
    luaL_error(L, "%s: a hook cannot wait while the call that it interrupted waits",
               lmp_kind_name(lsync_kind(s)));
}

/* ---- acquire and release --------------------------------------------------------------- */

static int take(lua_State *L, struct lsync *s, mp_time deadline) {
  switch (lsync_kind(s)) {
  case MP_KIND_SEMAPHORE:
  case MP_KIND_BOUNDED: return lsync_take_permit(L, s, deadline);
  default: return lsync_take_lock(L, s, deadline);
  }
}

static int give(struct lsync *s) {
  switch (lsync_kind(s)) {
  case MP_KIND_SEMAPHORE:
  case MP_KIND_BOUNDED: return lsync_give_permit(s);
  default: return lsync_give_lock(s);
  }
}

void lsync_check_given(lua_State *L, int kind, int e) {
  const char *name = lmp_kind_name(kind);
  if (e == EPERM) luaL_error(L, "%s is not held by this process: it cannot be released", name);
  if (e == ERANGE) luaL_error(L, "%s is released more often than it was acquired", name);
}

/* The second result is made before the lock is taken: nothing may fail after. */
int lsync_acquire(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  mp_time deadline = lmp_deadline(L, 2);
  lua_settop(L, 2);
  luaL_checkstack(L, 4, NULL);
  lua_pushboolean(L, 1);
  lua_pushliteral(L, "abandoned");
  int e = lsync_take_lock(L, s, deadline);
  if (e == EOWNERDEAD) return 2;
  lua_pushboolean(L, e == 0);
  return 1;
}

int lsync_release(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  lsync_check_given(L, kind, lsync_give_lock(s));
  return 0;
}

/* ---- guards ---------------------------------------------------------------------------- */

/* What guard() returns, and what with keeps on its stack.  h.obj: not 0 while it holds;
 * of: the handle, its user value; word: who took it, a forked child's copy is void. */
struct lguard {
  struct lmp_handle h;
  struct lsync *of;
  uint32_t word;
};

/* Pushes a guard that holds nothing yet, of the handle at 1. */
static struct lguard *new_guard(lua_State *L, struct lsync *s) {
  struct lguard *g = lmp_new(L, sizeof *g, LMP_GUARD, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  g->of = s;
  g->h.me = s->h.me;
  g->h.tag = &lmp_tags[LMP_GUARD];
  return g;
}

static void guard_begin(struct lguard *g) {
  lsync_pin(g->of);
  g->word = g->h.me->word;
  g->h.obj = g->of->h.obj;
}

/* Releases once, in the process that took it. */
static int guard_end(struct lguard *g) {
  struct lsync *s = g->of;
  if (g->h.obj == 0) return 0;
  g->h.obj = 0;
  if (g->word != s->h.me->word || !lmp_here(&s->h)) return 0;
  lsync_unpin(s);
  return give(s);
}

static struct lguard *check_guard(lua_State *L) {
  struct lguard *g = lmp_test(L, 1, LMP_GUARD);
  if (!g) luaL_typeerror(L, 1, "mp.Guard");
  return g;
}

/* An error on its way out is not hidden by another. */
/*** What `guard` returns.
 * @type Guard */

/*** Gives back what it holds; the second time nothing.  `<close>` calls it, the collector too.
 * @function Guard:close
 * @raise when the lock was released by other means */
static int guard_close(lua_State *L) {
  struct lguard *g = check_guard(L);
  int kind = lsync_kind(g->of), e = guard_end(g);
  if (lua_isnoneornil(L, 2)) lsync_check_given(L, kind, e);
  return 0;
}

static int guard_gc(lua_State *L) {
  struct lguard *g = lmp_test(L, 1, LMP_GUARD);
  if (g) (void)guard_end(g);
  return 0;
}

static int guard_tostring(lua_State *L) {
  struct lguard *g = check_guard(L);
  bool holds = g->h.obj != 0 && g->word == g->h.me->word;
  char id[LSYNC_ID_SIZE];
  if (!holds) lua_pushliteral(L, "mp.Guard (closed)");
  else lua_pushfstring(L, "mp.Guard: %s (of %s)", lsync_id(g->of, id),
                       lmp_kind_name(lsync_kind(g->of)));
  return 1;
}

int lsync_guard(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  mp_time deadline = lmp_deadline(L, 2);
  struct lguard *g = new_guard(L, s);
  int e = take(L, s, deadline);
  if (e == ETIMEDOUT) return lmp_code(L, "timeout");
  guard_begin(g);
  if (e != EOWNERDEAD) return 1;
  lua_pushliteral(L, "abandoned");
  return 2;
}

static int with_end(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  (void)ctx;
  lua_closeslot(L, 2);
  return lua_gettop(L) - 2;
}

/* The guard is a to-be-closed slot: it ends however f is left, by an error, or by the
 * closing of a coroutine in which f had yielded. */
int lsync_with(lua_State *L, int kind) {
  struct lsync *s = lmp_check(L, 1, kind);
  if (lua_type(L, 2) != LUA_TFUNCTION && luaL_getmetafield(L, 2, "__call") == LUA_TNIL)
    return luaL_typeerror(L, 2, "function");
  int args = lua_gettop(L) - 2;
  if (lua_type(L, 2) != LUA_TFUNCTION) {
    lua_pop(L, 1);
    args--;
  }
  struct lguard *g = new_guard(L, s);
  lua_insert(L, 2);
  lua_toclose(L, 2);
  (void)take(L, s, MP_FOREVER);
  guard_begin(g);
  lua_callk(L, args, LUA_MULTRET, 0, with_end);
  return with_end(L, LUA_OK, 0);
}

static const luaL_Reg guard_methods[] = {{"close", guard_close}, {NULL, NULL}};
static const luaL_Reg guard_metamethods[] = {{"__close", guard_close},
                                             {"__gc", guard_gc},
                                             {"__tostring", guard_tostring},
                                             {NULL, NULL}};

void lmp_open_sync(lua_State *L) {
  mp_sync_kinds();
  lmp_type(L, LMP_GUARD, "Guard", guard_methods, guard_metamethods, NULL);
  lsync_open_lock(L);
  lsync_open_semaphore(L);
  lsync_open_condition(L);
  lsync_open_event(L);
  lsync_open_barrier(L);
}
