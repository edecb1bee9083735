/* Queues for the threads of a host.
 *
 * A thread that uses queues has a place: a Lua state that only it uses and nobody sees,
 * with a member of the family.  It goes when the thread ends.  A queue's handle (struct
 * mplua_queue) is a name; what keeps the object alive is an mp.Queue in the keeper, one
 * more state, under a lock, as long as some handle is open.  A place makes an mp.Queue of
 * its own at the first call with a queue, and drops those that the keeper has no more at
 * its next call.  A child has another keeper, which takes in what it uses of its parent's.
 *
 * Lock order: the keeper's lock comes before all of mp's.  It is never held while
 * waiting.
 */
#include "../bind/lprocess.h"
#include "../ipc/queue.h"
#include "../opened.h"
#include "host.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* obj, serial: of the object; in tables of queues it goes by its serial, which never comes
 * again.  pid: the process whose keeper counts this handle. */
struct mplua_queue {
  mp_ref obj;
  uint64_t serial;
  atomic_int pid;
};

/* handles: how many are open; without any the keeper has no state. */
static struct {
  pthread_mutex_t lock;
  lua_State *L;
  pid_t pid;
  long handles;
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

/* In registries: serial -> mp.Queue; in the keeper's also: serial -> its open handles. */
static const char handles_key[1], counts_key[1];

/* ---- states ------------------------------------------------------------------------ */

static int open_state(lua_State *L) {
  luaL_openlibs(L);
  mplua_openlibs(L);
  lua_newtable(L);
  lmp_open_objects(L);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, handles_key);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, counts_key);
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
  if (place == x) place = NULL; /* other destructors of the thread may want one still */
  if (x->L) lua_close(x->L);
  free(x);
}

static void before_fork(void) { pthread_mutex_lock(&keeper.lock); }
static void after_fork(void) { pthread_mutex_unlock(&keeper.lock); }
static void at_end(void) {
  if (place && place->pid == getpid()) leave_place(place);
}

static int key_error;
static void make_key(void) {
  key_error = pthread_key_create(&place_key, leave_place);
  if (!key_error) key_error = pthread_atfork(before_fork, after_fork, after_fork);
  lmp_stay_loaded();
  (void)atexit(at_end); /* the first thread's */
}

/* Before the keeper's lock is taken. */
static void prepare(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  (void)pthread_once(&once, make_key);
}

/* The place of this thread.  In a child the one of its parent is closed: nobody else
 * used it. */
static int find_place(void) {
  if (place && place->pid == getpid()) return MPLUA_OK;
  if (key_error) return lmp_host_fail(MPLUA_ESYSTEM, "cannot make a place for a thread: %s", mp_error_text(key_error));
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
  return code;
}

/* ---- handles ----------------------------------------------------------------------- */

static void push_handles(lua_State *L) { (void)lua_rawgetp(L, LUA_REGISTRYINDEX, handles_key); }

static bool kept(lua_Integer serial) {
  if (!keeper.L || keeper.pid != getpid()) return false;
  push_handles(keeper.L);
  bool there = lua_rawgeti(keeper.L, -1, serial) != LUA_TNIL;
  lua_pop(keeper.L, 2);
  return there;
}

/* Closes and forgets the mp.Queue of a state. */
static void drop_handle(lua_State *L, lua_Integer serial) {
  push_handles(L);
  if (lua_rawgeti(L, -1, serial) == LUA_TUSERDATA && luaL_getmetafield(L, -1, "__close") != LUA_TNIL) {
    lua_pushvalue(L, -2);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  }
  lua_pop(L, 1);
  lua_pushnil(L);
  lua_rawseti(L, -2, serial);
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
    lua_Integer serial = lua_tointeger(L, -2);
    lua_pop(L, 1);
    if (!kept(serial)) drop_handle(L, serial); /* a field may be cleared on the way */
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
  if (lua_rawgeti(L, -1, (lua_Integer)q->serial) == LUA_TNIL) {
    lua_pop(L, 1);
    push_queue(L, q, "HostThread");
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, (lua_Integer)q->serial);
  }
  lua_remove(L, -2);
}

/* Counts one handle more, or less, of a queue; how many there are then. */
static lua_Integer count_handles(lua_State *L, lua_Integer serial, int more) {
  (void)lua_rawgetp(L, LUA_REGISTRYINDEX, counts_key);
  (void)lua_rawgeti(L, -1, serial);
  lua_Integer n = lua_tointeger(L, -1) + more;
  if (n > 0) lua_pushinteger(L, n);
  else lua_pushnil(L);
  lua_rawseti(L, -3, serial);
  lua_pop(L, 2);
  return n;
}

/* queue, its mp.Queue: kept. */
static int keep(lua_State *L) {
  mplua_queue *q = lua_touserdata(L, 1);
  struct lmp_handle *h = lua_touserdata(L, 2);
  q->obj = h->obj;
  q->serial = ((struct mp_object *)mp_at(h->obj))->serial;
  push_handles(L);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, (lua_Integer)q->serial);
  (void)count_handles(L, (lua_Integer)q->serial, 1);
  atomic_store(&q->pid, getpid());
  return 0;
}

/* queue, maxsize: makes a queue. */
static int make(lua_State *L) {
  lua_pushcfunction(L, lmp_new_queue);
  lua_insert(L, 2);
  lua_call(L, 1, 1);
  return keep(L);
}

/* queue: the one that obj and serial name. */
static int take_over(lua_State *L) {
  mplua_queue *q = lua_touserdata(L, 1);
  lua_settop(L, 1);
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

/* Has the keeper take a handle in: a new queue (maxsize >= 0), or the one that it names. */
static int take_in_locked(mplua_queue *q, lua_Integer maxsize) {
  int code = open_keeper();
  if (code) return code;
  lua_State *L = keeper.L;
  lua_pushcfunction(L, maxsize >= 0 ? make : take_over);
  lua_pushlightuserdata(L, q);
  lua_pushinteger(L, maxsize);
  int status = lua_pcall(L, 2, 0, 0);
  if (status != LUA_OK) code = lmp_host_fail_lua(L, status, MPLUA_ESYSTEM);
  else keeper.handles++;
  close_keeper();
  return code;
}

static int new_handle(mplua_queue **out, mp_ref obj, uint64_t serial, lua_Integer maxsize) {
  if (!out) return lmp_host_fail(MPLUA_EARGUMENT, "there is no place for the queue (NULL)");
  mplua_queue *q = calloc(1, sizeof *q);
  if (!q) return lmp_host_fail(MPLUA_EMEMORY, "not enough memory");
  q->obj = obj;
  q->serial = serial;
  prepare();
  pthread_mutex_lock(&keeper.lock);
  int code = take_in_locked(q, maxsize);
  pthread_mutex_unlock(&keeper.lock);
  if (code == MPLUA_OK) *out = q;
  else free(q);
  return code;
}

/* In a child: a handle of its parent's is its own from the first use on. */
static int take_in(mplua_queue *q) {
  int code = MPLUA_OK;
  if (atomic_load(&q->pid) == getpid()) return code;
  pthread_mutex_lock(&keeper.lock);
  if (atomic_load(&q->pid) != getpid()) code = take_in_locked(q, -1);
  pthread_mutex_unlock(&keeper.lock);
  return code;
}

int mplua_queue_open(mplua_queue **out, size_t maxsize) {
  if (maxsize > UINT32_MAX / 2)
    return lmp_host_fail(MPLUA_EARGUMENT, "a queue of %zu items is too large", maxsize);
  return new_handle(out, 0, 0, (lua_Integer)maxsize);
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
  return new_handle(out, h->obj, ((struct mp_object *)mp_at(h->obj))->serial, -1);
}

void mplua_queue_push(lua_State *L, mplua_queue *q) {
  luaL_checkstack(L, 8, NULL);
  if (!q) luaL_error(L, "the queue is NULL");
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
  mplua_queue *q = handle ? *handle : NULL;
  lua_Integer left = 0;
  if (!q) return;
  *handle = NULL;
  prepare();
  pthread_mutex_lock(&keeper.lock);
  if (keeper.L && keeper.pid == getpid() && atomic_load(&q->pid) == keeper.pid) {
    left = count_handles(keeper.L, (lua_Integer)q->serial, -1);
    if (left == 0) drop_handle(keeper.L, (lua_Integer)q->serial);
    keeper.handles--;
    close_keeper();
  }
  pthread_mutex_unlock(&keeper.lock);
  if (left == 0 && place && place->L && place->pid == getpid())
    drop_handle(place->L, (lua_Integer)q->serial);
  atomic_fetch_add_explicit(&closed, 1, memory_order_release);
  free(q);
}

/* ---- calls -------------------------------------------------------------------------- */

/* A call of a method, in the thread's place.  code: how it ended. */
struct call {
  mplua_queue *q;
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
  if (mp_forked_by_others())
    return lmp_host_fail(MPLUA_EFORK, "this process was forked by other means than mp");
  prepare();
  int e = take_in(c->q);
  if (!e) e = find_place();
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
  if (!bytes && n > 0) return lmp_host_fail(MPLUA_EARGUMENT, "the bytes are NULL");
  return run(&c, do_put, MPLUA_EARGUMENT);
}

int mplua_queue_put_value(mplua_queue *q, const mplua_value *v, double timeout) {
  struct call c = {.q = q, .method = "put", .value = v, .timeout = timeout};
  if (!v) return lmp_host_fail(MPLUA_EARGUMENT, "the value is NULL");
  return run(&c, do_put, MPLUA_EARGUMENT);
}

int mplua_queue_get(mplua_queue *q, mplua_value **v, double timeout) {
  struct call c = {.q = q, .method = "get", .timeout = timeout};
  if (!v) return lmp_host_fail(MPLUA_EARGUMENT, "there is no place for the item (NULL)");
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
  if (!fd) return lmp_host_fail(MPLUA_EARGUMENT, "there is no place for the descriptor (NULL)");
  int code = run(&c, do_call, MPLUA_ESYSTEM);
  if (code == MPLUA_OK) *fd = (int)c.number;
  return code;
}
