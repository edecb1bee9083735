/* What the bindings share: members, handles, errors, pauses.  See lmp.h.
 *
 * The state of a lua_State's part in the family is a userdata in its registry that
 * lives until the state is closed; handles point to it.  A weak table in the registry
 * finds the handle of an object that the state has already, by offset and part.
 */
#include "lmp.h"
#include "../os/guard.h"
#include <errno.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

const char lmp_tags[LMP_KINDS];

static const char member_key[1], handles_key[1], nothing_key[1];

static struct lmp_opener openers[LMP_KINDS];
static const char *const kind_names[LMP_KINDS] = {
    [MP_KIND_QUEUE] = "mp.Queue",         [MP_KIND_LIFO] = "mp.LifoQueue",
    [MP_KIND_PRIORITY] = "mp.PriorityQueue", [MP_KIND_LOCK] = "mp.Lock",
    [MP_KIND_RLOCK] = "mp.RLock",         [MP_KIND_SEMAPHORE] = "mp.Semaphore",
    [MP_KIND_BOUNDED] = "mp.BoundedSemaphore", [MP_KIND_CONDITION] = "mp.Condition",
    [MP_KIND_EVENT] = "mp.Event",         [MP_KIND_BARRIER] = "mp.Barrier",
    [MP_KIND_VALUE] = "mp.Value",         [MP_KIND_ARRAY] = "mp.Array",
    [MP_KIND_STRUCT] = "mp.Struct",       [MP_KIND_POOL] = "mp.Pool",
    [LMP_CONNECTION] = "mp.Connection",   [LMP_GUARD] = "mp.Guard",
    [LMP_BYTES] = "mp.bytes",             [LMP_LAYOUT] = "mp.Layout",
};

const char *lmp_kind_name(int kind) { return kind_names[kind]; }

static pthread_mutex_t openers_lock = PTHREAD_MUTEX_INITIALIZER;
__attribute__((constructor)) static void guard(void) { mp_guard(MP_GUARD_OPENERS, &openers_lock); }

/* Every state sets the same; under a lock, since states may be opened side by side. */
void lmp_opener_set(int kind, const struct lmp_opener *o) {
  pthread_mutex_lock(&openers_lock);
  if (openers[kind].size != o->size) openers[kind] = *o;
  pthread_mutex_unlock(&openers_lock);
}

/* ---- the member ---------------------------------------------------------------- */

static int close_member(lua_State *L) {
  mp_member_close(lua_touserdata(L, 1), -1);
  return 0;
}

struct mp_member *lmp_member_if(lua_State *L) {
  struct mp_member *m = NULL;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, member_key) == LUA_TUSERDATA) m = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return m && m->slot ? m : NULL;
}

static void refuse_fork(lua_State *L) {
  luaL_error(L, "this process was forked by other means than mp: mp cannot be used in it");
}

static struct mp_member *join_family(lua_State *L, const char *name) {
  if (mp_forked_by_others()) refuse_fork(L);
  struct mp_member *m = lua_newuserdatauv(L, sizeof *m, 0);
  memset(m, 0, sizeof *m);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, close_member);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  int e = mp_member_open(m, name);
  if (e == EAGAIN) luaL_error(L, "cannot join the family: it has %d processes already", MP_SLOTS - 1);
  if (e) lmp_fail(L, e, "make the shared memory");
  lua_rawsetp(L, LUA_REGISTRYINDEX, member_key);
  return m;
}

struct mp_member *lmp_member_as(lua_State *L, const char *name) {
  struct mp_member *m = lmp_member_if(L);
  if (!m) m = join_family(L, name);
  if (m->stranger) refuse_fork(L);
  return m;
}

struct mp_member *lmp_member(lua_State *L) { return lmp_member_as(L, "MainProcess"); }

/* ---- types ---------------------------------------------------------------------- */

/* __newindex of the kinds that have no field to set. */
static int no_field(lua_State *L) {
  int kind = lmp_kind(L, 1);
  return luaL_error(L, "field '%s' of %s cannot be set", luaL_tolstring(L, 2, NULL),
                    kind < 0 ? "this object" : kind_names[kind]);
}

void lmp_type(lua_State *L, int kind, const char *name, const luaL_Reg *methods,
              const luaL_Reg *metamethods, lua_CFunction index) {
  (void)name;
  luaL_newmetatable(L, kind_names[kind]);
  lua_pushcfunction(L, no_field);
  lua_setfield(L, -2, "__newindex");
  luaL_setfuncs(L, metamethods, 0);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  if (index) lua_pushcclosure(L, index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

static bool is_mp(const struct lmp_handle *h, size_t size) {
  return h && size >= sizeof *h && h->tag >= lmp_tags && h->tag < lmp_tags + LMP_KINDS;
}

/* The kind of the mp userdata at `idx`, or -1. */
int lmp_kind(lua_State *L, int idx) {
  const struct lmp_handle *h = lua_touserdata(L, idx);
  return is_mp(h, lua_rawlen(L, idx)) ? (int)(h->tag - lmp_tags) : -1;
}

void *lmp_check(lua_State *L, int idx, int kind) {
  struct lmp_handle *h = lmp_test(L, idx, kind);
  if (!h) luaL_typeerror(L, idx, kind_names[kind]);
  if (h->me->stranger) refuse_fork(L);
  if (!h->obj)
    luaL_argerror(L, idx, lua_pushfstring(L, "the %s is closed", kind_names[kind]));
  return h;
}

void *lmp_new(lua_State *L, size_t size, int kind, int nuv) {
  void *p = lua_newuserdatauv(L, size, nuv);
  memset(p, 0, size);
  luaL_setmetatable(L, kind_names[kind]);
  return p;
}

/* ---- handles ----------------------------------------------------------------------- */

static void push_handles(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, handles_key) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, handles_key);
}

static lua_Integer handle_key(mp_ref obj, uint32_t part) {
  return (lua_Integer)((lua_Unsigned)obj << 32 | part);
}

/* The kind of handle that `part` of an object has. */
static int handle_kind(mp_ref obj, uint32_t part) {
  return part == 1 ? MP_KIND_RLOCK : (int)mp_block_kind(mp_at(obj));
}

/* Pushes an empty handle and notes it in the table of handles, which cannot fail
 * any more when the object is there. */
static struct lmp_handle *new_handle(lua_State *L, int kind, size_t size) {
  return lmp_new(L, size, kind, openers[kind].nuv);
}

static void fill(lua_State *L, struct lmp_handle *h, int kind, struct mp_member *me, mp_ref obj,
                 uint32_t entry, uint32_t part) {
  h->me = me;
  h->obj = obj;
  h->entry = entry;
  h->part = part;
  h->tag = &lmp_tags[kind];
  if (openers[kind].opened) openers[kind].opened(L, h);
}

static void note_handle(lua_State *L, mp_ref obj, uint32_t part) {
  push_handles(L);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, handle_key(obj, part));
  lua_pop(L, 1);
}

/* The collector counts a handle's bytes only: tell it of those in the arena. */
static void tell_collector(lua_State *L, size_t bytes) {
  if (bytes > (size_t)1 << 20) bytes = (size_t)1 << 20;
  if (lua_gc(L, LUA_GCISRUNNING)) lua_gc(L, LUA_GCSTEP, (int)((bytes + 1023) / 1024));
}

void *lmp_make(lua_State *L, int kind, size_t size, size_t hsize,
               void (*init)(void *p, void *arg), void *arg) {
  struct mp_member *me = lmp_member(L);
  uint32_t entry;
  mp_ref obj;
  luaL_checkstack(L, 8, NULL);
  tell_collector(L, size);
  struct lmp_handle *h = new_handle(L, kind, hsize);
  int e = mp_object_make(size, (enum mp_kind)kind, me, init, arg, &entry, &obj);
  if (e == ENOMEM) { /* what Lua does not need any more may hold the memory */
    lua_gc(L, LUA_GCCOLLECT);
    mp_collect(me);
    e = mp_object_make(size, (enum mp_kind)kind, me, init, arg, &entry, &obj);
  }
  if (e == ENOMEM) lmp_full(L);
  if (e) lmp_fail(L, e, "make a shared object");
  fill(L, h, kind, me, obj, entry, 0);
  note_handle(L, obj, 0);
  return h;
}

static bool push_known(lua_State *L, mp_ref obj, uint32_t part) {
  push_handles(L);
  lua_rawgeti(L, -1, handle_key(obj, part));
  lua_remove(L, -2);
  struct lmp_handle *h = lua_touserdata(L, -1);
  if (h && h->obj == obj) return true;
  lua_pop(L, 1);
  return false;
}

static void push_new(lua_State *L, struct mp_member *me, mp_ref obj, uint32_t entry,
                     uint32_t part) {
  int kind = handle_kind(obj, part);
  struct lmp_handle *h = new_handle(L, kind, openers[kind].size);
  fill(L, h, kind, me, obj, entry, part);
  note_handle(L, obj, part);
}

void lmp_push_object(lua_State *L, mp_ref obj, uint32_t entry, uint32_t part) {
  struct mp_member *me = lmp_member(L);
  luaL_checkstack(L, 8, NULL);
  if (push_known(L, obj, part)) mp_drop(entry, me);
  else push_new(L, me, obj, entry, part);
}

void lmp_push_sibling(lua_State *L, mp_ref obj, uint32_t part) {
  struct mp_member *me = lmp_member(L);
  uint32_t entry;
  luaL_checkstack(L, 8, NULL);
  if (push_known(L, obj, part)) return;
  int kind = handle_kind(obj, part);
  struct lmp_handle *h = new_handle(L, kind, openers[kind].size);
  int e = mp_refer(obj, me, &entry);
  if (e) lmp_full(L);
  fill(L, h, kind, me, obj, entry, part);
  note_handle(L, obj, part);
}

void lmp_release(lua_State *L, struct lmp_handle *h) {
  (void)L;
  if (!h->tag || !h->obj) return;
  h->obj = 0;
  if (!h->me->stranger && h->me->slot) mp_drop(h->entry, h->me);
}

int lmp_gc(lua_State *L) {
  struct lmp_handle *h = lua_touserdata(L, 1);
  if (is_mp(h, lua_rawlen(L, 1))) lmp_release(L, h);
  return 0;
}

/* ---- time-outs and errors -------------------------------------------------------------- */

mp_time lmp_deadline(lua_State *L, int arg) {
  if (lua_isnoneornil(L, arg)) return MP_FOREVER;
  if (lua_type(L, arg) != LUA_TNUMBER) luaL_typeerror(L, arg, "number of seconds or nil");
  lua_Number s = lua_tonumber(L, arg);
  if (s != s) luaL_argerror(L, arg, "a time-out must not be NaN");
  return mp_deadline(s);
}

int lmp_full(lua_State *L) {
  struct mp_member *me = lmp_member_if(L);
  struct mp_arena_stats s;
  size_t objects = 0;
  if (!me) return luaL_error(L, "shared memory is full");
  mp_arena_stats(&s, me->word);
  for (int k = MP_KIND_QUEUE; k < MP_KIND_OBJECTS; k++) objects += s.blocks[k];
  return luaL_error(L, "shared memory is full (%d MiB of %d MiB used, in %d objects, %d of them "
                    "queues; MPLUA_SHM sets the size)", (int)(s.used >> 20), (int)(s.cap >> 20),
                    (int)objects, (int)(s.blocks[MP_KIND_QUEUE] + s.blocks[MP_KIND_LIFO] +
                                        s.blocks[MP_KIND_PRIORITY]));
}

bool lmp_collect_fds(lua_State *L, int err) {
  if (err != EMFILE && err != ENFILE) return false;
  lua_gc(L, LUA_GCCOLLECT);
  return true;
}

int lmp_fail(lua_State *L, int err, const char *what) {
  return luaL_error(L, "cannot %s: %s", what, mp_error_text(err));
}

/* ---- pauses ------------------------------------------------------------------------------ */

#define SIGNAL_MASK (LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT)

/* A signal handler can set a hook on the state that it knows, the main one.  Such a
 * hook asks for everything and a count of 1; it is moved to the running coroutine,
 * once: left on the main one it would raise there again. */
static void carry_hook(lua_State *L) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_State *main = lua_tothread(L, -1);
  lua_pop(L, 1);
  if (main == L || !lua_gethook(main) || lua_gethookmask(main) != SIGNAL_MASK ||
      lua_gethookcount(main) != 1)
    return;
  lua_sethook(L, lua_gethook(main), SIGNAL_MASK, 1);
  lua_sethook(main, NULL, 0, 0);
}

bool lmp_pause(lua_State *L, struct mp_member *me) {
  if (me) mp_look_around(me);
  luaL_checkstack(L, 4, NULL);
  carry_hook(L);
  if (!lua_gethook(L)) return false;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, nothing_key) != LUA_TFUNCTION) { /* an empty Lua function */
    lua_pop(L, 1);
    if (luaL_loadstring(L, "") != LUA_OK) lua_error(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, nothing_key);
  }
  lua_call(L, 0, 0); /* hooks run at its call and its one line */
  return true;
}

/* ---- mp.core -------------------------------------------------------------------------------- */

/* arena() -> what is in the shared memory: bytes `cap`, `used`, `resident`, number of
 * `objects`, and for each kind of block its number `kinds[name]` and `bytes[name]`. */
static int l_arena(lua_State *L) {
  static const char *const parts[MP_KINDS] = {
      [MP_KIND_PIPE] = "pipe", [MP_KIND_POOL] = "pool", [MP_KIND_FUNCTION] = "function",
      [MP_KIND_CHUNK] = "chunk", [MP_KIND_RUN] = "run",
      [MP_KIND_ITEM] = "item", [MP_KIND_HEAP] = "heap",   [MP_KIND_TICKET] = "ticket",
      [MP_KIND_WATCH] = "watch", [MP_KIND_TABLE] = "table"};
  struct mp_member *me = lmp_member(L);
  struct mp_arena_stats s;
  lua_Integer objects = 0;
  mp_arena_stats(&s, me->word);
  lua_createtable(L, 0, 6);
  lua_createtable(L, 0, 8);
  lua_createtable(L, 0, 8);
  for (int k = MP_KIND_QUEUE; k < MP_KINDS; k++) {
    const char *name = parts[k] ? parts[k] : kind_names[k];
    if (k < MP_KIND_OBJECTS) objects += (lua_Integer)s.blocks[k];
    if (!name || s.blocks[k] == 0) continue;
    lua_pushinteger(L, (lua_Integer)s.blocks[k]);
    lua_setfield(L, -3, name);
    lua_pushinteger(L, (lua_Integer)s.bytes[k]);
    lua_setfield(L, -2, name);
  }
  lua_setfield(L, -3, "bytes");
  lua_setfield(L, -2, "kinds");
  lua_pushinteger(L, (lua_Integer)s.cap);
  lua_setfield(L, -2, "cap");
  lua_pushinteger(L, (lua_Integer)s.used);
  lua_setfield(L, -2, "used");
  lua_pushinteger(L, (lua_Integer)s.resident);
  lua_setfield(L, -2, "resident");
  lua_pushinteger(L, objects);
  lua_setfield(L, -2, "objects");
  return 1;
}

/* core.word(): the lock word of this member, which no other has after it */
static int l_word(lua_State *L) {
  lua_pushinteger(L, lmp_member(L)->word);
  return 1;
}

/* core.alive(word): whether that member lives */
static int l_alive(lua_State *L) {
  lua_pushboolean(L, mp_alive((uint32_t)luaL_checkinteger(L, 1)));
  return 1;
}

/* core.references(handle): how many there are to its object, or more; 1 is never too few */
static int l_references(lua_State *L) {
  struct lmp_handle *h = lua_touserdata(L, 1);
  luaL_argcheck(L, lmp_kind(L, 1) >= 0 && h->obj, 1, "a shared object expected");
  lua_pushinteger(L, mp_references(h->obj, lmp_member(L)));
  return 1;
}

/* core.proxy_key: under which a proxy keeps what it stands for; a function, since these go
 * by name, which no script has for a key */
static int l_proxy_key(lua_State *L) { return luaL_error(L, "this is only a key"); }

/* collect(): counts references anew and frees what nobody refers to. */
static int l_collect(lua_State *L) {
  mp_collect(lmp_member(L));
  return 0;
}

/* core.public(f) -> the function under another identity: that by which messages and
 * tracebacks find its name, which is to be the one in `mp`. */
static int l_public(lua_State *L) {
  lua_CFunction f = lua_tocfunction(L, 1);
  luaL_argexpected(L, f, 1, "C function");
  lua_pushnil(L);
  lua_pushcclosure(L, f, 1);
  return 1;
}

/* kind(x) -> "mp.Queue" and so on for mp's userdata, else nil. */
static int l_kind(lua_State *L) {
  int kind = lmp_kind(L, 1);
  if (kind >= 0) lua_pushstring(L, kind_names[kind]);
  else lua_pushnil(L);
  return 1;
}

/* random_state() -> the state of math.random, a string; random_state(s): sets it.  The
 * library keeps it in a userdata, an upvalue of its functions.  nil where it does not. */
static int l_random_state(lua_State *L) {
  size_t n;
  const char *s = luaL_optlstring(L, 1, NULL, &n);
  lua_settop(L, 1);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, 2, LUA_MATHLIBNAME) != LUA_TTABLE ||
      lua_getfield(L, 3, "random") != LUA_TFUNCTION || !lua_iscfunction(L, 4) ||
      !lua_getupvalue(L, 4, 1) || lua_type(L, 5) != LUA_TUSERDATA)
    return 0;
  size_t size = lua_rawlen(L, 5);
  if (s && n == size) memcpy(lua_touserdata(L, 5), s, n);
  if (s) return 0;
  lua_pushlstring(L, lua_touserdata(L, 5), size);
  return 1;
}

void lmp_open_misc(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"word", l_word}, {"alive", l_alive}, {"references", l_references}, {"proxy_key", l_proxy_key},
      {"arena", l_arena}, {"collect", l_collect}, {"kind", l_kind},
      {"public", l_public},
      {"random_state", l_random_state}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
}
