/* What the bindings of locks, semaphores, conditions, events and barriers share. */
#ifndef LMP_SYNC_H
#define LMP_SYNC_H
#include "../ipc/sync.h"
#include "lmp.h"

/* A handle of any of these kinds.  pins: how many guards, withs and waits of process
 * `pinner` need it open; a forked child inherits the number but not the need. */
struct lsync {
  struct lmp_handle h;
  uint32_t pins;
  uint32_t pinner;
  struct mp_look look;
};

#define LSYNC_ID_SIZE 24

static inline int lsync_kind(const struct lsync *s) { return (int)(s->h.tag - lmp_tags); }
static inline struct mp_member *lsync_me(const struct lsync *s) { return s->h.me; }

/* The object's identity, "0x3f80". */
const char *lsync_id(const struct lsync *s, char id[LSYNC_ID_SIZE]);
/* Pushes "mp.Lock (closed)" and returns true if the handle at 1 is closed; raises when
 * there is none of `kind`.  *out: the handle. */
bool lsync_show_closed(lua_State *L, int kind, struct lsync **out);
/* Who holds a lock: "free", "held by 4711", "abandoned".  Raises. */
const char *lsync_holder(lua_State *L, const struct mp_rlock *r);

void lsync_pin(struct lsync *s);
void lsync_unpin(struct lsync *s);

/* Hooks and the dead, where the caller holds nothing.  Raises what they raise, and
 * misuse when a hook closed the handle. */
void lsync_pause(lua_State *L, struct lsync *s);
/* The same where something must be undone first: LUA_OK, or a status with the error
 * pushed.  Wants 3 free stack slots; the handle must be pinned. */
int lsync_try_pause(lua_State *L, struct lsync *s);

/* Raises when a hook that runs inside a wait starts another one. */
void lsync_check_idle(lua_State *L, struct lsync *s);

/* Whatever has acquire.  take: waits, interruptibly; 0, EOWNERDEAD or ETIMEDOUT; raises
 * holding nothing.  give: 0, EPERM (not held) or ERANGE (too many releases); does not
 * raise.  Both for with and guard. */
int lsync_take_lock(lua_State *L, struct lsync *s, mp_time deadline);
int lsync_give_lock(struct lsync *s);
int lsync_take_permit(lua_State *L, struct lsync *s, mp_time deadline);
int lsync_give_permit(struct lsync *s);

/* Raises what a give returned; nothing for 0. */
void lsync_check_given(lua_State *L, int kind, int e);

/* Methods for those kinds. */
int lsync_acquire(lua_State *L, int kind);
int lsync_release(lua_State *L, int kind);
int lsync_with(lua_State *L, int kind);
int lsync_guard(lua_State *L, int kind);
/* Methods for all kinds. */
int lsync_close(lua_State *L, int kind);

/* Registers a type: its metatable, how its handles are made. */
void lsync_type(lua_State *L, int kind, const char *name, int nuv, const luaL_Reg *methods,
                const luaL_Reg *metamethods, lua_CFunction index);

/* Each fills the table on top of the stack with its constructors. */
void lsync_open_lock(lua_State *L);
void lsync_open_semaphore(lua_State *L);
void lsync_open_condition(lua_State *L);
void lsync_open_event(lua_State *L);
void lsync_open_barrier(lua_State *L);

#endif
