/* Queues for the threads of a host.
 *
 * A thread that uses queues has a place: a Lua state that only it uses and nobody sees,
 * with a member of the family.  It goes when the thread ends.  A queue's handle (struct
 * mplua_queue) is a name; what keeps the object alive is an mp.Queue in the keeper, one
 * more state, under a lock.  A place makes an mp.Queue of its own at the first call with
 * a handle, and drops those whose handles were closed at its next call.
 *
 * Lock order: the keeper's lock comes before all of mp's.  It is never held while
 * waiting.
 */
#include "../bind/lmp.h"
#include "../ipc/queue.h"
#include "host.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* obj, serial: of the object.  id: in tables of handles; never used again.  pid: the
 * process whose keeper has it. */
struct mplua_queue {
  mp_ref obj;
  uint64_t serial;
  lua_Integer id;
  pid_t pid;
};

/* handles: how many the keeper has; without any it has no state. */
static struct {
  pthread_mutex_t lock;
  lua_State *L;
  pid_t pid;
  long handles;
  lua_Integer ids;
} keeper = {.lock = PTHREAD_MUTEX_INITIALIZER};
static atomic_ulong closed; /* handles, so far */

/* seen: `closed`, when the place was last looked through. */
struct place {
  lua_State *L;
  pid_t pid;
  unsigned long seen;
};
static _Thread_local struct place *place;
static pthread_key_t place_key;

static const char handles_key[1];

/* ---- states ------------------------------------------------------------------------ */

static int open_state(lua_State *L) {
  luaL_openlibs(L);
  mplua_openlibs(L);
  lua_newtable(L); /* the core, without processes */
  lmp_open_misc(L);
  lmp_open_text(L);
  lmp_open_marshal(L);
  lmp_open_queue(L);
  lmp_open_pool(L);
  lmp_open_sync(L);
  lmp_open_cell(L);
  lmp_open_conn(L);
  lmp_open_sock(L);
  lmp_open_pickle(L);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, handles_key);
  (void)lmp_member_as(L, lua_tostring(L, 1));
  return 0;
}

static int new_state(const char *name, lua_State **out) {
  lua_State *L = luaL_newstate();
  if (!L) return lmp_host_fail(MPLUA_EMEMORY, "not enough memory for a thread's place");
  lua_pushcfunction(L, open_state);
  lua_pushstring(L, name);
  int status = lua_pcall(L, 1, 0, 0);
  if (status != LUA_OK) {
    int code = lmp_host_fail_lua(L, status, MPLUA_ESYSTEM);
    lua_close(L);
    return code;
  }
  *out = L;
  return MPLUA_OK;
}

static void leave_place(void *p) {
  struct place *x = p;
  if (x->L) lua_close(x->L);
  free(x);
}

static void before_fork(void) { pthread_mutex_lock(&keeper.lock); }
static void after_fork(void) { pthread_mutex_unlock(&keeper.lock); }
static void at_end(void) {
  if (place && place->pid == getpid()) leave_place(place);
  place = NULL;
}

static int key_error;
static void make_key(void) {
  key_error = pthread_key_create(&place_key, leave_place);
  if (!key_error) key_error = pthread_atfork(before_fork, after_fork, after_fork);
  (void)atexit(at_end); /* the first thread's */
}

/* The place of this thread.  In a child the one of its parent is closed: nobody else
 * used it. */
static int find_place(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  (void)pthread_once(&once, make_key);
  if (mp_forked_by_others())
    return lmp_host_fail(MPLUA_EFORK, "this process was forked by other means than mp");
  if (place && place->pid == getpid()) return MPLUA_OK;
  if (key_error) return lmp_host_fail(MPLUA_ESYSTEM, "cannot make a place for a thread: %s", strerror(key_error));
  if (!place && !(place = calloc(1, sizeof *place)))
    return lmp_host_fail(MPLUA_EMEMORY, "not enough memory for a thread's place");
  if (place->L) lua_close(place->L);
  place->L = NULL;
  place->pid = getpid();
  place->seen = atomic_load_explicit(&closed, memory_order_acquire);
  int code = new_state("HostThread", &place->L);
  if (code == MPLUA_OK && pthread_setspecific(place_key, place) != 0)
    code = lmp_host_fail(MPLUA_EMEMORY, "not enough memory for a thread's place");
  if (code == MPLUA_OK) return MPLUA_OK;
  leave_place(place);
  place = NULL;
  return code;
}

/* ---- handles ----------------------------------------------------------------------- */

static void push_handles(lua_State *L) { (void)lua_rawgetp(L, LUA_REGISTRYINDEX, handles_key); }

static bool kept(lua_Integer id) {
  if (!keeper.L || keeper.pid != getpid()) return false;
  push_handles(keeper.L);
  bool there = lua_rawgeti(keeper.L, -1, id) != LUA_TNIL;
  lua_pop(keeper.L, 2);
  return there;
}

/* Closes and forgets the handle on top of the table of handles below it, by its id. */
static void drop_handle(lua_State *L, lua_Integer id) {
  push_handles(L);
  if (lua_rawgeti(L, -1, id) == LUA_TUSERDATA && luaL_getmetafield(L, -1, "__close") != LUA_TNIL) {
    lua_pushvalue(L, -2);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  }
  lua_pop(L, 1);
  lua_pushnil(L);
  lua_rawseti(L, -2, id);
  lua_pop(L, 1);
}

/* What others have closed since: a place need not hold it any more. */
static void sweep_place(void) {
  unsigned long now = atomic_load_explicit(&closed, memory_order_acquire);
  lua_State *L = place->L;
  if (now == place->seen) return;
  place->seen = now;
  pthread_mutex_lock(&keeper.lock);
  push_handles(L);
  for (lua_pushnil(L); lua_next(L, -2);) {
    lua_Integer id = lua_tointeger(L, -2);
    lua_pop(L, 1);
    if (!kept(id)) drop_handle(L, id); /* a field may be cleared on the way */
  }
  lua_pop(L, 1);
  pthread_mutex_unlock(&keeper.lock);
}

/* Pushes the queue, registered for L. */
static void push_queue(lua_State *L, const mplua_queue *q, const char *name) {
  struct mp_member *me = lmp_member_as(L, name);
  uint32_t entry;
  int e = mp_refer_serial(q->obj, q->serial, me, &entry);
  if (e == ESTALE) luaL_error(L, "the queue is gone");
  if (e) lmp_full(L);
  lmp_push_object(L, q->obj, entry, 0);
}

/* Pushes this place's own mp.Queue. */
static void push_own(lua_State *L, const mplua_queue *q) {
  push_handles(L);
  if (lua_rawgeti(L, -1, q->id) == LUA_TNIL) {
    lua_pop(L, 1);
    push_queue(L, q, "HostThread");
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, q->id);
  }
  lua_remove(L, -2);
}

/* [handle on top of keeper's stack] -> noted under an id. */
static int keep(lua_State *L) {
  mplua_queue *q = lua_touserdata(L, 1);
  struct lmp_handle *h = lua_touserdata(L, 2);
  q->obj = h->obj;
  q->serial = ((struct mp_object *)mp_at(h->obj))->serial;
  q->id = ++keeper.ids;
  q->pid = getpid();
  push_handles(L);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, q->id);
  return 0;
}

/* queue, maxsize: makes a queue. */
static int make(lua_State *L) {
  lua_CFunction f = lua_tocfunction(L, 2);
  lua_pushcfunction(L, f);
  lua_pushvalue(L, 3);
  lua_call(L, 1, 1);
  lua_replace(L, 2);
  lua_settop(L, 2);
  return keep(L);
}

/* queue, the same with obj and serial of another's. */
static int take_over(lua_State *L) {
  mplua_queue *q = lua_touserdata(L, 1);
  push_queue(L, q, "HostQueues");
  return keep(L);
}

static int open_keeper(void) {
  if (mp_forked_by_others())
    return lmp_host_fail(MPLUA_EFORK, "this process was forked by other means than mp");
  if (keeper.L && keeper.pid == getpid()) return MPLUA_OK;
  if (keeper.L) lua_close(keeper.L); /* our parent's, as it was at the fork */
  keeper.L = NULL;
  keeper.handles = 0;
  keeper.pid = getpid();
  return new_state("HostQueues", &keeper.L);
}

static void close_keeper(void) {
  if (keeper.handles > 0 || !keeper.L) return;
  lua_close(keeper.L);
  keeper.L = NULL;
}

/* Calls f(queue, f's argument) in the keeper. */
static int in_keeper(mplua_queue **out, const mplua_queue *like, lua_CFunction f,
                     lua_Integer maxsize) {
  mplua_queue *q = calloc(1, sizeof *q);
  if (!q) return lmp_host_fail(MPLUA_EMEMORY, "not enough memory");
  if (like) *q = *like;
  pthread_mutex_lock(&keeper.lock);
  int code = open_keeper();
  if (code == MPLUA_OK) {
    lua_State *L = keeper.L;
    lua_pushcfunction(L, f);
    lua_pushlightuserdata(L, q);
    if (!like) lua_pushcfunction(L, lmp_new_queue);
    if (!like) lua_pushinteger(L, maxsize);
    int status = lua_pcall(L, like ? 1 : 3, 0, 0);
    if (status != LUA_OK) code = lmp_host_fail_lua(L, status, MPLUA_ESYSTEM);
    else keeper.handles++;
    close_keeper();
  }
  pthread_mutex_unlock(&keeper.lock);
  if (code == MPLUA_OK) *out = q;
  else free(q);
  return code;
}

int mplua_queue_open(mplua_queue **out, size_t maxsize) {
  if (maxsize > UINT32_MAX / 2)
    return lmp_host_fail(MPLUA_EARGUMENT, "a queue of %zu items is too large", maxsize);
  return in_keeper(out, NULL, make, (lua_Integer)maxsize);
}

int mplua_queue_from(lua_State *L, int index, mplua_queue **out) {
  int kind = lmp_kind(L, index);
  struct lmp_handle *h = lua_touserdata(L, index);
  if (kind != MP_KIND_QUEUE && kind != MP_KIND_LIFO)
    return lmp_host_fail(MPLUA_EARGUMENT, "mp.Queue expected, got %s",
                         kind >= 0 ? lmp_kind_name(kind) : luaL_typename(L, index));
  if (!h->obj) return lmp_host_fail(MPLUA_EARGUMENT, "the %s is closed", lmp_kind_name(kind));
  if (h->me->stranger)
    return lmp_host_fail(MPLUA_EFORK, "the %s was made in another process", lmp_kind_name(kind));
  mplua_queue like = {.obj = h->obj, .serial = ((struct mp_object *)mp_at(h->obj))->serial};
  return in_keeper(out, &like, take_over, 0);
}

void mplua_queue_push(lua_State *L, mplua_queue *q) {
  luaL_checkstack(L, 8, NULL);
  lua_getfield(L, LUA_REGISTRYINDEX, lmp_kind_name(MP_KIND_QUEUE));
  bool open = lua_istable(L, -1);
  lua_pop(L, 1);
  if (!open) {
    lua_pushcfunction(L, luaopen_mp);
    lua_call(L, 0, 0);
  }
  push_queue(L, q, "MainProcess");
}

void mplua_queue_close(mplua_queue **handle) {
  mplua_queue *q = *handle;
  *handle = NULL;
  if (!q) return;
  pthread_mutex_lock(&keeper.lock);
  if (keeper.L && q->pid == getpid() && keeper.pid == q->pid) {
    drop_handle(keeper.L, q->id);
    keeper.handles--;
    close_keeper();
  }
  pthread_mutex_unlock(&keeper.lock);
  if (place && place->L && place->pid == getpid()) drop_handle(place->L, q->id);
  atomic_fetch_add_explicit(&closed, 1, memory_order_release);
  free(q);
}

/* ---- calls -------------------------------------------------------------------------- */

/* A call of a method, in the thread's place.  code: how it ended. */
struct call {
  const mplua_queue *q;
  const char *method;
  const void *bytes;
  size_t n;
  const mplua_value *value;
  mplua_value *result;
  double timeout;
  lua_Integer number;
  int code;
};

static void push_timeout(lua_State *L, double timeout) {
  if (timeout == HUGE_VAL) lua_pushnil(L);
  else lua_pushnumber(L, timeout);
}

/* What nil, code says. */
static int outcome(lua_State *L, int idx) {
  const char *why = lua_tostring(L, idx);
  return why && strcmp(why, "closed") == 0 ? MPLUA_ECLOSED : MPLUA_ETIMEOUT;
}

static void push_method(lua_State *L, const struct call *c) {
  push_own(L, c->q);
  if (lua_getfield(L, -1, c->method) == LUA_TNIL)
    luaL_error(L, "a queue of this kind has no %s", c->method);
  lua_insert(L, -2);
}

static int do_put(lua_State *L) {
  struct call *c = lua_touserdata(L, 1);
  push_method(L, c);
  if (c->value) lmp_value_push(L, c->value);
  else lua_pushlstring(L, c->bytes, c->n);
  push_timeout(L, c->timeout);
  lua_call(L, 3, 2);
  c->code = lua_isnil(L, -2) ? outcome(L, -1) : MPLUA_OK;
  return 0;
}

static int do_get(lua_State *L) {
  struct call *c = lua_touserdata(L, 1);
  push_method(L, c);
  push_timeout(L, c->timeout);
  lua_call(L, 2, 2);
  if (lua_isnil(L, -2)) c->code = outcome(L, -1);
  else c->code = lmp_value_of(L, -2, &c->result) ? MPLUA_OK : MPLUA_EMEMORY;
  return 0;
}

/* join: whether in time.  Others: their number, if they return one. */
static int do_call(lua_State *L) {
  struct call *c = lua_touserdata(L, 1);
  push_method(L, c);
  push_timeout(L, c->timeout);
  lua_call(L, 2, 1);
  c->code = lua_isboolean(L, -1) && !lua_toboolean(L, -1) ? MPLUA_ETIMEOUT : MPLUA_OK;
  c->number = lua_tointeger(L, -1);
  return 0;
}

static int run(struct call *c, lua_CFunction f, int code) {
  if (!c->q) return lmp_host_fail(MPLUA_EARGUMENT, "the queue is NULL");
  if (isnan(c->timeout)) return lmp_host_fail(MPLUA_EARGUMENT, "a time-out must not be NaN");
  int e = find_place();
  if (e) return e;
  sweep_place();
  lua_State *L = place->L;
  lua_pushcfunction(L, f);
  lua_pushlightuserdata(L, c);
  int status = lua_pcall(L, 1, 0, 0);
  if (status != LUA_OK) return lmp_host_fail_lua(L, status, code);
  if (c->code == MPLUA_OK) return MPLUA_OK;
  return lmp_host_fail(c->code, "%s: %s", c->method, mplua_strerror(c->code));
}

int mplua_queue_put(mplua_queue *q, const void *bytes, size_t n, double timeout) {
  struct call c = {.q = q, .method = "put", .bytes = bytes, .n = n, .timeout = timeout};
  return run(&c, do_put, MPLUA_EARGUMENT);
}

int mplua_queue_put_value(mplua_queue *q, const mplua_value *v, double timeout) {
  struct call c = {.q = q, .method = "put", .value = v, .timeout = timeout};
  if (!v) return lmp_host_fail(MPLUA_EARGUMENT, "the value is NULL");
  return run(&c, do_put, MPLUA_EARGUMENT);
}

int mplua_queue_get(mplua_queue *q, mplua_value **v, double timeout) {
  struct call c = {.q = q, .method = "get", .timeout = timeout};
  int code = run(&c, do_get, MPLUA_EVALUE);
  if (code == MPLUA_OK) *v = c.result;
  return code;
}

size_t mplua_queue_size(mplua_queue *q) {
  struct call c = {.q = q, .method = "qsize"};
  return run(&c, do_call, MPLUA_ESYSTEM) == MPLUA_OK ? (size_t)c.number : 0;
}

int mplua_queue_shutdown(mplua_queue *q) {
  struct call c = {.q = q, .method = "shutdown"};
  return run(&c, do_call, MPLUA_ESYSTEM);
}

int mplua_queue_task_done(mplua_queue *q) {
  struct call c = {.q = q, .method = "task_done"};
  return run(&c, do_call, MPLUA_EARGUMENT);
}

int mplua_queue_join(mplua_queue *q, double timeout) {
  struct call c = {.q = q, .method = "join", .timeout = timeout};
  return run(&c, do_call, MPLUA_ESYSTEM);
}

int mplua_queue_fileno(mplua_queue *q, int *fd) {
  struct call c = {.q = q, .method = "fileno"};
  int code = run(&c, do_call, MPLUA_ESYSTEM);
  if (code == MPLUA_OK) *fd = (int)c.number;
  return code;
}
