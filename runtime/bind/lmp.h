/* What the bindings share: handles of shared objects, time-outs, outcomes, errors
 * and interruptible waits.
 */
#ifndef LMP_H
#define LMP_H
#include "../os/error.h"
#include "../shm/family.h"
#include <lauxlib.h>
#include <lua.h>

/* Every kind of mp userdata, those that name a block of the arena numbered as its
 * mp_kind. */
enum lmp_kind {
  LMP_CONNECTION = MP_KIND_OBJECTS, /* a userdata with descriptors, no block */
  LMP_GUARD,                        /* what guard() returns */
  LMP_BYTES,
  LMP_LAYOUT,
  LMP_KINDS
};

/* The first bytes of every mp userdata.  tag: &lmp_tags[kind], which makes the type
 * check one comparison; set when the userdata is complete.  obj: the object, 0 once
 * closed.  entry: its place in the reference set of `me`.  part: 0, or which part
 * of the object is meant (1: the lock inside a Value, Array or Struct). */
struct lmp_handle {
  const char *tag;
  struct mp_member *me;
  mp_ref obj;
  uint32_t entry;
  uint32_t part;
};

extern const char lmp_tags[LMP_KINDS];

/* The handle at `idx` when it is of `kind`, else NULL.  For hot paths. */
static inline void *lmp_test(lua_State *L, int idx, int kind) {
  struct lmp_handle *h = lua_touserdata(L, idx);
  return h && lua_rawlen(L, idx) >= sizeof *h && h->tag == &lmp_tags[kind] ? h : NULL;
}

/* The handle at `idx`; raises "mp.Queue expected, got …", or for a handle that was
 * closed "mp.Queue is closed", or in a process that some other fork made "… this
 * process was not started by mp". */
void *lmp_check(lua_State *L, int idx, int kind);
#define lmp_here(h) ((h)->obj != 0 && !(h)->me->stranger)

/* The member of this state; joins the family at the first call.  Raises. */
struct mp_member *lmp_member(lua_State *L);
/* The same; `name` is what others see of it if it has to join. */
struct mp_member *lmp_member_as(lua_State *L, const char *name);
/* The same without joining: NULL when this state has not joined. */
struct mp_member *lmp_member_if(lua_State *L);

/* Makes the metatable "mp.<Name>" of a kind: `metamethods` into it, `methods` into
 * its __index table (or, when `index` is not NULL, __index is that function with
 * the methods table as its first upvalue), `__gc` and `__close` are the caller's.
 * Adds __name, and a __newindex that raises unless there is one; __metatable is NOT set.  Leaves nothing on the stack. */
void lmp_type(lua_State *L, int kind, const char *name, const luaL_Reg *methods,
              const luaL_Reg *metamethods, lua_CFunction index);
const char *lmp_kind_name(int kind); /* "mp.Queue" */
/* The kind of the mp userdata at `idx`, or -1. */
int lmp_kind(lua_State *L, int idx);

/* Pushes a userdata of `size` bytes with the metatable of `kind` and `nuv` user
 * values; zeroed, its tag not yet set (so __gc does nothing). */
void *lmp_new(lua_State *L, size_t size, int kind, int nuv);

/* Makes an object and pushes its handle: mp_object_make, then lmp_new.  Raises when
 * memory is short, nothing is left then.  `hsize`: bytes of the userdata. */
void *lmp_make(lua_State *L, int kind, size_t size, size_t hsize,
               void (*init)(void *p, void *arg), void *arg);

/* Pushes the handle of an object that this process has registered as `entry` (a
 * reference that the handle takes over): the handle that the state has already, or
 * a new one.  `part` as in lmp_handle.  For what arrives in messages. */
void lmp_push_object(lua_State *L, mp_ref obj, uint32_t entry, uint32_t part);

/* The same for a part or a sibling of a handle that is held already: registers a
 * reference of its own. */
void lmp_push_sibling(lua_State *L, mp_ref obj, uint32_t part);

/* How a kind's handles are made (bytes of userdata, user values). A kind whose
 * handle needs more than a zeroed tail sets `opened` to fill it. */
struct lmp_opener {
  size_t size;
  int nuv;
  void (*opened)(lua_State *L, struct lmp_handle *h); /* handle on top; may be NULL */
};
void lmp_opener_set(int kind, const struct lmp_opener *o);

/* __gc and close: drops the reference, leaves the handle closed.  Does nothing in a
 * stranger.  Idempotent. */
void lmp_release(lua_State *L, struct lmp_handle *h);
int lmp_gc(lua_State *L);          /* a __gc that calls lmp_release on argument 1 */

/* The deadline of the time-out at `arg`: none or nil MP_FOREVER; not a number or
 * NaN raises. */
mp_time lmp_deadline(lua_State *L, int arg);

/* nil, code */
static inline int lmp_code(lua_State *L, const char *code) {
  lua_pushnil(L);
  lua_pushstring(L, code);
  return 2;
}

/* Whether a collection of garbage, which may hold descriptors, is worth another try.  It runs
 * finalizers: what Lua code may have closed is to be checked again after it. */
bool lmp_collect_fds(lua_State *L, int err);

/* Raises a system failure: "cannot <what>: <strerror>"; ENOMEM of the arena says
 * "shared memory is full (N MiB in M objects)". */
int lmp_fail(lua_State *L, int err, const char *what);
int lmp_full(lua_State *L);

/* After EINTR from a core call, and before the next try: runs the hooks that a
 * signal has set (Ctrl-C's raises "interrupted!"), on the running coroutine even if
 * the main one carries them, and looks around for the dead.  Raises.  Hold
 * nothing.  True when Lua code ran. */
bool lmp_pause(lua_State *L, struct mp_member *me);

/* mp.Queue(maxsize) */
int lmp_new_queue(lua_State *L);

/* luaopen of the parts; each fills the table on top of the stack (mp.core) with its
 * constructors and functions. */
void lmp_open_queue(lua_State *L);
void lmp_open_pool(lua_State *L);
void lmp_open_sync(lua_State *L);
void lmp_open_cell(lua_State *L);
void lmp_open_conn(lua_State *L);
void lmp_open_sock(lua_State *L);
void lmp_open_pickle(lua_State *L);
void lmp_open_process(lua_State *L);
void lmp_open_marshal(lua_State *L);
void lmp_open_misc(lua_State *L);
void lmp_open_text(lua_State *L);

#endif
