/* What is in the shared memory right now, for the person who debugs at night. */
#include "../ipc/sync.h"
#include "lprocess.h"
#include <string.h>

static const char *const states[] = {"free", "born", "live", "done", "dead"};

static const char *const waits[MP_WAITS] = {
    [MP_WAIT_GET] = "get", [MP_WAIT_PUT] = "put", [MP_WAIT_QUEUE_JOIN] = "queue join",
    [MP_WAIT_LOCK] = "lock", [MP_WAIT_SEMAPHORE] = "semaphore",
    [MP_WAIT_CONDITION] = "condition", [MP_WAIT_EVENT] = "event",
    [MP_WAIT_BARRIER] = "barrier", [MP_WAIT_CONNECTION] = "connection",
    [MP_WAIT_PROCESS] = "process", [MP_WAIT_MANY] = "several things",
    [MP_WAIT_SLEEP] = "sleep"};

static void set_integer(lua_State *L, const char *key, lua_Integer n) {
  lua_pushinteger(L, n);
  lua_setfield(L, -2, key);
}

static void set_string(lua_State *L, const char *key, const char *s) {
  lua_pushstring(L, s);
  lua_setfield(L, -2, key);
}

/* core.processes() -> array of { name, pid, state, waits, on }: the members of the family;
 * waits: for what, on: the number of the object (both nil when it runs).  What another one
 * writes meanwhile may be seen half. */
static int l_processes(lua_State *L) {
  lua_Integer at = 0;
  (void)lmp_member(L);
  lua_newtable(L);
  for (uint32_t i = 1; i < mp_slots_used(); i++) {
    struct mp_slot s = {0};
    const struct mp_slot *from = mp_slot_at(i);
    uint32_t state = atomic_load_explicit(&from->word, memory_order_acquire) & 7;
    if (state == 0 || state >= sizeof states / sizeof *states) continue;
    memcpy(s.name, from->name, sizeof s.name);
    s.name[sizeof s.name - 1] = 0;
    uint32_t what = atomic_load_explicit(&from->wait_label, memory_order_relaxed);
    uint32_t on = atomic_load_explicit(&from->wait_on, memory_order_relaxed);
    lua_createtable(L, 0, 5);
    set_string(L, "name", s.name);
    set_integer(L, "pid", atomic_load(&from->pid));
    set_string(L, "state", states[state]);
    if (what != MP_WAIT_NONE && what < MP_WAITS) set_string(L, "waits", waits[what]);
    if (what != MP_WAIT_NONE && on) set_integer(L, "on", on);
    lua_rawseti(L, -2, ++at);
  }
  return 1;
}

#define HELD_MAX 1000

struct held {
  uint32_t n;
  struct { mp_ref obj; enum mp_kind kind; uint32_t owner; } lock[HELD_MAX];
};

/* Objects that begin with a lock (mp_rlock_object), and those that need none of it. */
static bool note_held(mp_ref r, void *arg) {
  struct held *h = arg;
  enum mp_kind k = mp_block_kind(mp_at(r));
  bool locks = k == MP_KIND_LOCK || k == MP_KIND_RLOCK || k == MP_KIND_CONDITION ||
               k == MP_KIND_VALUE || k == MP_KIND_ARRAY || k == MP_KIND_STRUCT;
  if (!locks || mp_block_state(mp_at(r)) != MP_LIVE || h->n == HELD_MAX) return false;
  uint32_t w = atomic_load_explicit(&mp_rlock_at(r)->lock.word, memory_order_relaxed);
  if (!(w & MP_LOCK_OWNER)) return false;
  h->lock[h->n].obj = r;
  h->lock[h->n].kind = k;
  h->lock[h->n++].owner = w & MP_LOCK_OWNER;
  return false;
}

/* core.held() -> array of { object, kind, pid, alive }: locks that somebody holds, 1,000 at
 * most; pid is nil when the owner died and was buried */
static int l_held(lua_State *L) {
  struct mp_member *me = lmp_member(L);
  struct held *h = lua_newuserdatauv(L, sizeof *h, 0);
  h->n = 0;
  mp_arena_each(note_held, h, me->word);
  lua_createtable(L, (int)h->n, 0);
  for (uint32_t i = 0; i < h->n; i++) {
    const struct mp_slot *s = mp_slot_at(mp_word_slot(h->lock[i].owner));
    bool same = (atomic_load(&s->word) >> 3 & 0x7ffff) == h->lock[i].owner >> 12;
    lua_createtable(L, 0, 4);
    set_integer(L, "object", h->lock[i].obj);
    set_string(L, "kind", lmp_kind_name((int)h->lock[i].kind));
    if (same) set_integer(L, "pid", atomic_load(&s->pid));
    lua_pushboolean(L, mp_alive(h->lock[i].owner));
    lua_setfield(L, -2, "alive");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

void lmp_open_inspect(lua_State *L) {
  static const luaL_Reg functions[] = {{"processes", l_processes}, {"held", l_held}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
