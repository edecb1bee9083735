/* Pools for the threads of a host.
 *
 * A pool has a Lua state of its own, in which an mp.Pool is; the threads of the host take
 * turns in it under a lock, which nobody holds while waiting.  What waits is poll: on an
 * epoll descriptor over the doorbell of the workers' reports, an eventfd that is set while
 * results that have come were not taken, and the process that forks the workers.
 */
#include "../bind/lprocess.h"
#include "../os/clock.h"
#include "../os/fd.h"
#include "../os/wait.h"
#include "host.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define HUNGRY_NS 10000000 /* between two tries while shared memory is full, as in mp/pump.lua */
#define WORKERS_MAX 4000   /* as in mp/pool.lua */

/* lock: for all that follows.  nursery: a pidfd of who forks the workers, number
 * `nurseries`, -1 for none; a copy, since epoll forgets what was closed only when no child
 * has it either, and can be told to only while it is open.  set: the eventfd is.  timer:
 * when to come again although nothing tells, -1 before it is needed.  pending: tasks whose
 * result was not taken. */
struct mplua_pool {
  pid_t pid;
  int epoll;
  pthread_mutex_t lock;
  lua_State *L;
  int event, timer, nursery;
  lua_Integer nurseries;
  bool set;
  uint64_t tasks;
  size_t pending;
};

/* ---- in the pool's state -------------------------------------------------------------- */

enum { HOST = 1 }; /* where the stack has the mp.host */

static void set_field(lua_State *L, const char *name, lua_Integer n) {
  if (n <= 0) return;
  lua_pushinteger(L, n);
  lua_setfield(L, -2, name);
}

/* options, where to note that what fails now is not the host's Lua code: makes the pool,
 * leaves its mp.host. */
static int make(lua_State *L) {
  const mplua_pool_options *o = lua_touserdata(L, 1);
  int *code = lua_touserdata(L, 2);
  luaL_openlibs(L);
  mplua_openlibs(L);
  lua_pushcfunction(L, luaopen_mp);
  lua_call(L, 0, 0);
  lmp_program_hide(L);
  if (o->open) o->open(L, o->arg);
  lua_settop(L, 2);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "mp.host");
  lua_call(L, 1, 1);
  if (o->setup) {
    lua_getfield(L, -1, "setup");
    lua_pushstring(L, o->setup);
    lua_call(L, 1, 0);
  }
  *code = MPLUA_ESYSTEM;
  lua_getfield(L, -1, "new");
  lua_newtable(L);
  set_field(L, "processes", o->processes);
  set_field(L, "retries", o->retries);
  set_field(L, "maxtasksperchild", o->maxtasksperchild);
  if (o->task_timeout > 0) lua_pushnumber(L, o->task_timeout);
  else lua_pushnil(L);
  lua_call(L, 2, 1);
  return 1;
}

/* A call of Host:submit. */
struct task {
  uint64_t number;
  const char *what;
  const mplua_value *args;
  size_t nargs;
  bool text;
};

static int submit(lua_State *L) {
  const struct task *t = lua_touserdata(L, 2);
  if (t->nargs > INT16_MAX) luaL_error(L, "too many arguments");
  luaL_checkstack(L, (int)t->nargs + 8, "too many arguments");
  lua_getfield(L, HOST, "submit");
  lua_pushvalue(L, HOST);
  lua_pushinteger(L, (lua_Integer)t->number);
  lua_pushboolean(L, t->text);
  lua_pushstring(L, t->what);
  for (size_t i = 0; i < t->nargs; i++) lmp_value_push(L, &t->args[i]);
  lua_call(L, 4 + (int)t->nargs, 0);
  return 0;
}

struct result {
  uint64_t number;
  mplua_value *value;
  bool there, ok, more, full;
};

static void call_host(lua_State *L, const char *method, int results) {
  lua_getfield(L, HOST, method);
  lua_pushvalue(L, HOST);
  lua_call(L, 1, results);
}

/* The value is made before the result is taken off the list: when memory is short it
 * stays there. */
static int take(lua_State *L) {
  struct result *r = lua_touserdata(L, 2);
  call_host(L, "look", 1);
  if (!lua_toboolean(L, -1)) return 0;
  lua_getfield(L, HOST, "ready");
  lua_getfield(L, HOST, "first");
  lua_rawget(L, -2);
  lua_getfield(L, -1, "value");
  r->full = !lmp_value_of(L, -1, &r->value);
  if (r->full) return 0;
  call_host(L, "take", 4);
  r->number = (uint64_t)lua_tointeger(L, -4);
  r->ok = lua_toboolean(L, -3);
  r->more = lua_toboolean(L, -1);
  r->there = true;
  return 0;
}

/* Whether results lie in the list. */
static int ready(lua_State *L) {
  bool *some = lua_touserdata(L, 2);
  lua_getfield(L, HOST, "first");
  lua_getfield(L, HOST, "last");
  *some = lua_tointeger(L, -2) <= lua_tointeger(L, -1);
  return 0;
}

struct news {
  int reports, nursery;
  lua_Integer nurseries;
  bool hungry;
};

static int filenos(lua_State *L) {
  struct news *n = lua_touserdata(L, 2);
  call_host(L, "filenos", 4);
  n->reports = (int)lua_tointeger(L, -4);
  n->nursery = (int)lua_tointeger(L, -3);
  n->nurseries = lua_tointeger(L, -2);
  n->hungry = lua_toboolean(L, -1);
  return 0;
}

static int finish(lua_State *L) {
  call_host(L, "close", 0);
  return 0;
}

/* Calls f(mp.host, arg) under the lock. */
static int call(mplua_pool *p, lua_CFunction f, void *arg, int code) {
  lua_State *L = p->L;
  lua_pushcfunction(L, f);
  lua_pushvalue(L, HOST);
  lua_pushlightuserdata(L, arg);
  int status = lua_pcall(L, 2, 0, 0);
  return status == LUA_OK ? MPLUA_OK : lmp_host_fail_lua(L, status, code);
}

/* ---- descriptors ----------------------------------------------------------------------- */

static int watch(mplua_pool *p, int fd) {
  struct epoll_event e = {.events = EPOLLIN};
  if (fd < 0 || epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &e) == 0 || errno == EEXIST) return 0;
  return errno;
}

static void unwatch_nursery(mplua_pool *p) {
  if (p->nursery >= 0) (void)epoll_ctl(p->epoll, EPOLL_CTL_DEL, p->nursery, NULL);
  mp_fd_close(&p->nursery);
}

static int watch_nursery(mplua_pool *p, const struct news *n) {
  if (n->nurseries == p->nurseries) return 0;
  unwatch_nursery(p);
  p->nurseries = n->nurseries;
  p->nursery = n->nursery < 0 ? -1 : fcntl(n->nursery, F_DUPFD_CLOEXEC, 10);
  return watch(p, p->nursery);
}

/* What waits for shared memory is tried again soon; nothing tells when. */
static int set_timer(mplua_pool *p, bool on) {
  struct itimerspec t = {.it_value = {.tv_nsec = on ? HUNGRY_NS : 0}};
  if (p->timer < 0 && !on) return 0;
  if (p->timer < 0) {
    p->timer = mp_fd_high(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (p->timer < 0) return errno;
  }
  (void)timerfd_settime(p->timer, 0, &t, NULL);
  return watch(p, p->timer);
}

static int rewatch(mplua_pool *p) {
  struct news n = {-1, -1, 0, false};
  int code = call(p, filenos, &n, MPLUA_ESYSTEM);
  if (code) return code;
  int e = watch(p, n.reports);
  if (!e) e = watch_nursery(p, &n);
  if (!e) e = set_timer(p, n.hungry);
  return e ? lmp_host_fail(MPLUA_ESYSTEM, "cannot watch a pool: %s", mp_error_text(e)) : MPLUA_OK;
}

/* The eventfd tells of results that lie here. */
static void show(mplua_pool *p, bool more) {
  uint64_t n = 1;
  if (more == p->set) return;
  ssize_t k = more ? write(p->event, &n, sizeof n) : read(p->event, &n, sizeof n);
  if (k == sizeof n) p->set = more;
}

/* ---- opening, closing -------------------------------------------------------------------- */

static void discard(mplua_pool *p) {
  if (p->L) {
    mplua_shutdown(p->L);
    lua_close(p->L);
  }
  unwatch_nursery(p);
  mp_fd_close(&p->timer);
  mp_fd_close(&p->event);
  mp_fd_close(&p->epoll);
  pthread_mutex_destroy(&p->lock);
  free(p);
}

static int open_state(mplua_pool *p, const mplua_pool_options *o) {
  p->L = luaL_newstate();
  if (!p->L) return lmp_host_fail(MPLUA_EMEMORY, "not enough memory for a pool");
  int code = MPLUA_ELUA;
  lua_pushcfunction(p->L, make);
  lua_pushlightuserdata(p->L, (void *)o);
  lua_pushlightuserdata(p->L, &code);
  int status = lua_pcall(p->L, 2, 1, 0);
  return status == LUA_OK ? MPLUA_OK : lmp_host_fail_lua(p->L, status, code);
}

static int open_descriptors(mplua_pool *p) {
  p->epoll = mp_fd_high(epoll_create1(EPOLL_CLOEXEC));
  if (p->epoll >= 0) p->event = mp_fd_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (p->epoll < 0 || p->event < 0 || watch(p, p->event) != 0)
    return lmp_host_fail(MPLUA_ESYSTEM, "cannot make a descriptor for a pool: %s", mp_error_text(errno));
  return rewatch(p);
}

static int check_options(const mplua_pool_options *o) {
  if (o->size < sizeof *o)
    return lmp_host_fail(MPLUA_EARGUMENT, "size of the pool's options is %zu, not sizeof (mplua_pool_options)",
                         o->size);
  if (o->processes < 0 || o->retries < 0 || o->maxtasksperchild < 0 || !(o->task_timeout >= 0))
    return lmp_host_fail(MPLUA_EARGUMENT, "a pool's options must not be negative");
  if (o->processes > WORKERS_MAX)
    return lmp_host_fail(MPLUA_EARGUMENT, "a pool has %d processes at most", WORKERS_MAX);
  if (mp_forked_by_others())
    return lmp_host_fail(MPLUA_EFORK, "this process was forked by other means than mp");
  return MPLUA_OK;
}

int mplua_pool_open(mplua_pool **out, const mplua_pool_options *options) {
  static const mplua_pool_options plain = {.size = sizeof plain};
  const mplua_pool_options *o = options ? options : &plain;
  int code = out ? check_options(o) : lmp_host_fail(MPLUA_EARGUMENT, "there is no place for the pool (NULL)");
  if (code) return code;
  mplua_pool *p = calloc(1, sizeof *p);
  if (!p) return lmp_host_fail(MPLUA_EMEMORY, "not enough memory for a pool");
  p->pid = getpid();
  p->epoll = p->event = p->timer = p->nursery = -1;
  (void)pthread_mutex_init(&p->lock, NULL);
  code = open_state(p, o);
  if (!code) code = open_descriptors(p);
  if (code) discard(p);
  else *out = p;
  return code;
}

void mplua_pool_close(mplua_pool **pool) {
  mplua_pool *p = pool ? *pool : NULL;
  if (pool) *pool = NULL;
  if (!p || p->pid != getpid()) return; /* a child's copy: nothing of it is the child's */
  (void)call(p, finish, NULL, MPLUA_ESYSTEM);
  discard(p);
}

/* ---- tasks --------------------------------------------------------------------------------- */

static int enter(mplua_pool *p) {
  if (!p) return lmp_host_fail(MPLUA_EARGUMENT, "the pool is NULL");
  if (p->pid != getpid())
    return lmp_host_fail(MPLUA_EFORK, "a pool can only be used by the process that made it");
  pthread_mutex_lock(&p->lock);
  return MPLUA_OK;
}

/* A call into the pool may have brought results. */
static void note_ready(mplua_pool *p) {
  bool some = false;
  if (call(p, ready, &some, MPLUA_ESYSTEM) == MPLUA_OK) show(p, some);
}

static int submit_task(mplua_pool *p, struct task *t, uint64_t *task) {
  if (!t->what) return lmp_host_fail(MPLUA_EARGUMENT, "what is to be called is NULL");
  if (!t->args && t->nargs > 0) return lmp_host_fail(MPLUA_EARGUMENT, "the arguments are NULL");
  int code = enter(p);
  if (code) return code;
  t->number = p->tasks + 1;
  code = call(p, submit, t, MPLUA_EARGUMENT);
  if (code == MPLUA_OK) {
    p->tasks = t->number;
    p->pending++;
    if (task) *task = t->number;
  }
  if (code == MPLUA_OK) {
    note_ready(p);
    (void)rewatch(p); /* it may wait for memory */
  }
  pthread_mutex_unlock(&p->lock);
  return code;
}

int mplua_pool_call(mplua_pool *pool, const char *function, const mplua_value *args,
                    size_t nargs, uint64_t *task) {
  struct task t = {.what = function, .args = args, .nargs = nargs};
  return submit_task(pool, &t, task);
}

int mplua_pool_run(mplua_pool *pool, const char *chunk, const mplua_value *args, size_t nargs,
                   uint64_t *task) {
  struct task t = {.what = chunk, .args = args, .nargs = nargs, .text = true};
  return submit_task(pool, &t, task);
}

/* Takes a result that is there. */
static int take_one(mplua_pool *p, struct result *r) {
  int code = enter(p);
  if (code) return code;
  code = call(p, take, r, MPLUA_ESYSTEM);
  if (code == MPLUA_OK && r->full) code = lmp_host_fail(MPLUA_EMEMORY, "not enough memory for a result");
  if (code == MPLUA_OK && !r->there) code = p->pending ? MPLUA_ETIMEOUT : MPLUA_ECLOSED;
  if (r->there) p->pending--;
  if (r->there || code == MPLUA_ECLOSED) show(p, r->more);
  int e = rewatch(p);
  if (e && code == MPLUA_ETIMEOUT) code = e;
  pthread_mutex_unlock(&p->lock);
  return code;
}

/* Until the next look: there is something, or a slice is over. */
static void wait_for_news(mplua_pool *p, mp_time deadline) {
  (void)mp_fd_wait(p->epoll, POLLIN, deadline);
}

int mplua_pool_take(mplua_pool *pool, uint64_t *task, int *ok, mplua_value **v, double timeout) {
  struct result r = {0};
  if (isnan(timeout)) return lmp_host_fail(MPLUA_EARGUMENT, "a time-out must not be NaN");
  mp_time deadline = mp_deadline(timeout);
  int code;
  while ((code = take_one(pool, &r)) == MPLUA_ETIMEOUT && mp_now() < deadline)
    wait_for_news(pool, deadline);
  if (code == MPLUA_ETIMEOUT || code == MPLUA_ECLOSED)
    return lmp_host_fail(code, "%s", code == MPLUA_ECLOSED ? "the pool has no task under way"
                                                           : "no result yet");
  if (code) return code;
  if (task) *task = r.number;
  if (ok) *ok = r.ok;
  if (v) *v = r.value;
  else mplua_free(r.value);
  return MPLUA_OK;
}

int mplua_pool_fileno(mplua_pool *pool) { return pool && pool->pid == getpid() ? pool->epoll : -1; }

size_t mplua_pool_pending(mplua_pool *pool) {
  if (enter(pool) != MPLUA_OK) return 0;
  size_t n = pool->pending;
  pthread_mutex_unlock(&pool->lock);
  return n;
}
