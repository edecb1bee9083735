/* What a host in C may do: queues and pools from its threads, states in its threads,
 * threads that end, processes that it forks behind the library's back. */
#include "count.h"
#include "mplua.h"
#include "shm/arena.h"
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, ITEMS = 2000 };
#define SOON 20.0 /* seconds: a machine may be loaded */

static void in_threads(int n, void *(*f)(void *), void *arg) {
  pthread_t t[16];
  for (int i = 0; i < n; i++) pthread_create(&t[i], NULL, f, arg);
  for (int i = 0; i < n; i++) pthread_join(t[i], NULL);
}

static int descriptors(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

/* The process is gone within a second or so; a zombie is gone. */
static bool gone(pid_t pid) {
  char path[64], line[512];
  for (int i = 0; i < 150; i++) {
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    if (n <= 0) return true;
    line[n] = 0;
    const char *p = strrchr(line, ')');
    if (p && p[2] == 'Z') return true;
    usleep(10000);
  }
  return false;
}

/* ---- queues ------------------------------------------------------------------------- */

static mplua_queue *queue;
static _Atomic long long sum;
static _Atomic int got;

static void *put_numbers(void *arg) {
  (void)arg;
  for (int i = 1; i <= ITEMS; i++) {
    mplua_value v = mplua_integer(i);
    if (mplua_queue_put_value(queue, &v, SOON) != MPLUA_OK) return NULL;
  }
  return NULL;
}

static void *get_numbers(void *arg) {
  mplua_value *v;
  (void)arg;
  while (mplua_queue_get(queue, &v, SOON) == MPLUA_OK) {
    sum += v->as.integer;
    got++;
    mplua_free(v);
    if (mplua_queue_task_done(queue) != MPLUA_OK) break;
  }
  return NULL;
}

static void *put_and_get(void *arg) {
  pthread_t getters[THREADS];
  for (int i = 0; i < THREADS; i++) pthread_create(&getters[i], NULL, get_numbers, arg);
  in_threads(THREADS, put_numbers, arg);
  CHECK(mplua_queue_join(queue, SOON) == MPLUA_OK);
  CHECK(mplua_queue_shutdown(queue) == MPLUA_OK);
  for (int i = 0; i < THREADS; i++) pthread_join(getters[i], NULL);
  return NULL;
}

static void check_threads(void) {
  running = "threads";
  got = 0;
  sum = 0;
  CHECK(mplua_queue_open(&queue, 64) == MPLUA_OK);
  put_and_get(NULL);
  CHECK(got == THREADS * ITEMS);
  CHECK(sum == THREADS * (long long)ITEMS * (ITEMS + 1) / 2);
  mplua_value v = mplua_integer(1), *out = NULL;
  CHECK(mplua_queue_put_value(queue, &v, 0) == MPLUA_ECLOSED);
  CHECK(mplua_queue_get(queue, &out, 0) == MPLUA_ECLOSED && out == NULL);
  mplua_queue_close(&queue);
  CHECK(queue == NULL);
  mplua_queue_close(&queue);
}

static void check_values(void) {
  running = "values";
  mplua_value *v = NULL;
  CHECK(mplua_queue_open(&queue, 0) == MPLUA_OK);
  mplua_value inner[] = {mplua_integer(1), mplua_number(2.5), mplua_null(), mplua_boolean(1)};
  mplua_value pairs[] = {mplua_string("list"), mplua_list(inner, 4), mplua_integer(-7),
                         mplua_bytes("a\0b", 3), mplua_string("empty"), mplua_list(NULL, 0)};
  mplua_value t = mplua_table(pairs, 3);
  CHECK(mplua_queue_put_value(queue, &t, 0) == MPLUA_OK);
  CHECK(mplua_queue_size(queue) == 1);
  CHECK(mplua_queue_get(queue, &v, 0) == MPLUA_OK);
  CHECK(v->type == MPLUA_TABLE && v->n == 3);
  const mplua_value *list = mplua_field(v, "list");
  CHECK(list && list->type == MPLUA_LIST && list->n == 4);
  CHECK(list && list->as.items[0].as.integer == 1 && list->as.items[1].as.number == 2.5);
  CHECK(list && list->as.items[2].type == MPLUA_NULL && list->as.items[3].as.boolean == 1);
  CHECK(mplua_field(v, "empty")->type == MPLUA_LIST && mplua_field(v, "nothing") == NULL);
  mplua_free(v);

  char *large = malloc(1 << 20);
  memset(large, 'x', 1 << 20);
  CHECK(mplua_queue_put(queue, large, 1 << 20, 0) == MPLUA_OK);
  CHECK(mplua_queue_put(queue, "", 0, 0) == MPLUA_OK);
  CHECK(mplua_queue_get(queue, &v, 0) == MPLUA_OK && v->n == 1 << 20 &&
        memcmp(v->as.string, large, 1 << 20) == 0);
  mplua_free(v);
  CHECK(mplua_queue_get(queue, &v, 0) == MPLUA_OK && v->type == MPLUA_STRING && v->n == 0);
  mplua_free(v);
  free(large);

  mplua_value nil = {.type = MPLUA_NIL}, odd = {.type = (mplua_type)77};
  mplua_value chain[300];
  for (int i = 0; i < 299; i++) chain[i] = mplua_list(&chain[i + 1], 1);
  chain[299] = mplua_integer(1);
  v = NULL;
  CHECK(mplua_queue_put_value(queue, &nil, 0) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_put_value(queue, &odd, 0) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_put_value(queue, &chain[0], 0) == MPLUA_EARGUMENT);
  CHECK(strstr(mplua_errmsg(), "nested") != NULL);
  CHECK(mplua_queue_put_value(queue, NULL, 0) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_get(queue, &v, (double)NAN) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_get(NULL, &v, 0) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_get(queue, &v, 0.01) == MPLUA_ETIMEOUT && v == NULL);
  CHECK(mplua_queue_task_done(queue) == MPLUA_OK); /* three were taken */
  CHECK(mplua_queue_size(queue) == 0);
  mplua_queue_close(&queue);
  CHECK(mplua_queue_open(&queue, 1) == MPLUA_OK);
  CHECK(mplua_queue_put(queue, "a", 1, 0) == MPLUA_OK);
  CHECK(mplua_queue_put(queue, "b", 1, 0.01) == MPLUA_ETIMEOUT);
  mplua_queue_close(&queue);
}

/* Two handles of one queue: closing one leaves the other. */
static void check_handles(void) {
  running = "two handles";
  mplua_queue *other = NULL;
  mplua_value *v;
  CHECK(mplua_queue_open(&queue, 0) == MPLUA_OK);
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  mplua_openlibs(L);
  mplua_queue_push(L, queue);
  CHECK(mplua_queue_from(L, -1, &other) == MPLUA_OK);
  CHECK(mplua_queue_put(queue, "a", 1, 0) == MPLUA_OK && mplua_queue_put(other, "b", 1, 0) == MPLUA_OK);
  mplua_queue_close(&queue);
  CHECK(mplua_queue_size(other) == 2);
  CHECK(mplua_queue_get(other, &v, 0) == MPLUA_OK && strcmp(v->as.string, "a") == 0);
  mplua_free(v);
  lua_close(L);
  CHECK(mplua_queue_size(other) == 1);
  mplua_queue_close(&other);
}

static pthread_key_t late;
static void use_late(void *unused) {
  (void)unused;
  CHECK(mplua_queue_put(queue, "late", 4, 0) == MPLUA_OK);
}
static void *leave_something(void *arg) {
  (void)pthread_setspecific(late, "x");
  CHECK(mplua_queue_put(queue, "soon", 4, 0) == MPLUA_OK);
  return arg;
}

/* A destructor of a thread's own data may use queues: the thread's place is gone by then. */
static void check_destructor(void) {
  running = "destructors";
  CHECK(pthread_key_create(&late, use_late) == 0);
  CHECK(mplua_queue_open(&queue, 0) == MPLUA_OK);
  in_threads(THREADS, leave_something, NULL);
  CHECK(mplua_queue_size(queue) == 2 * THREADS);
  mplua_queue_close(&queue);
  pthread_key_delete(late);
}

static void check_nothing(void) {
  running = "NULL";
  mplua_value *v = NULL, list = mplua_list(NULL, 3), text = mplua_bytes(NULL, 3);
  CHECK(mplua_queue_open(NULL, 0) == MPLUA_EARGUMENT && mplua_pool_open(NULL, NULL) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_open(&queue, 0) == MPLUA_OK);
  CHECK(mplua_queue_put(queue, NULL, 3, 0) == MPLUA_EARGUMENT && mplua_queue_put(queue, NULL, 0, 0) == MPLUA_OK);
  CHECK(mplua_queue_put_value(queue, &list, 0) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_put_value(queue, &text, 0) == MPLUA_EARGUMENT);
  CHECK(mplua_queue_get(queue, NULL, 0) == MPLUA_EARGUMENT && mplua_queue_size(queue) == 1);
  CHECK(mplua_queue_fileno(queue, NULL) == MPLUA_EARGUMENT && mplua_queue_get(queue, &v, 0) == MPLUA_OK);
  mplua_free(v);
  mplua_free(NULL);
  mplua_queue_close(&queue);
  mplua_queue_close(NULL);
  mplua_pool_close(NULL);
}

/* ---- with Lua processes ---------------------------------------------------------------- */

static lua_State *open_lua(void) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  mplua_openlibs(L);
  return L;
}

static bool run_lua(lua_State *L, const char *text, int nargs) {
  if (luaL_loadstring(L, text) != LUA_OK) return false;
  lua_insert(L, -nargs - 1);
  if (lua_pcall(L, nargs, 0, 0) == LUA_OK) return true;
  printf("%s\n", lua_tostring(L, -1));
  return false;
}

static void check_lua(void) {
  running = "Lua processes";
  mplua_queue *back = NULL, *same = NULL;
  mplua_value *v, n = mplua_integer(21);
  CHECK(mplua_queue_open(&queue, 0) == MPLUA_OK);
  lua_State *L = open_lua();
  mplua_queue_push(L, queue);
  CHECK(run_lua(L, "local mp = require 'mp' local q = ... back = mp.Queue() local b = back\n"
                   "mp.Process(function() for x in q:items() do b:put { x * 2, print, q, b } end end):start()\n"
                   "assert(mp.type(q) == 'mp.Queue')", 1));
  lua_getglobal(L, "back");
  CHECK(mplua_queue_from(L, -1, &back) == MPLUA_OK);
  lua_pop(L, 1);
  lua_pushinteger(L, 5);
  CHECK(mplua_queue_from(L, -1, &same) == MPLUA_EARGUMENT && same == NULL);
  lua_pop(L, 1);
  CHECK(mplua_queue_put_value(queue, &n, 0) == MPLUA_OK);
  CHECK(mplua_queue_get(back, &v, SOON) == MPLUA_OK);
  CHECK(v->type == MPLUA_LIST && v->n == 4 && v->as.items[0].as.integer == 42);
  CHECK(v->as.items[1].type == MPLUA_OPAQUE && strcmp(v->as.items[1].as.string, "function") == 0);
  CHECK(v->as.items[2].type == MPLUA_OPAQUE && strcmp(v->as.items[2].as.string, "shared object") == 0);
  mplua_free(v);
  struct pollfd p = {.events = POLLIN};
  CHECK(mplua_queue_fileno(back, &p.fd) == MPLUA_OK);
  CHECK(poll(&p, 1, 0) == 0);
  CHECK(mplua_queue_put_value(queue, &n, 0) == MPLUA_OK);
  CHECK(poll(&p, 1, (int)SOON * 1000) == 1);
  CHECK(mplua_queue_get(back, &v, SOON) == MPLUA_OK);
  mplua_free(v);
  CHECK(mplua_queue_get(back, &v, 0) == MPLUA_ETIMEOUT);
  CHECK(poll(&p, 1, 0) == 0);
  CHECK(mplua_queue_shutdown(queue) == MPLUA_OK);
  mplua_shutdown(L);
  lua_close(L);
  mplua_queue_close(&back);
  mplua_queue_close(&queue);
}

/* States in several threads, opened and closed side by side. */
static void *one_state(void *arg) {
  (void)arg;
  for (int i = 0; i < 2; i++) {
    lua_State *L = open_lua();
    CHECK(run_lua(L, "local mp = require 'mp'\n"
                     "local pool <close> = mp.Pool(2)\n"
                     "local sum = 0\n"
                     "for _, n in ipairs(pool:map(function(n) return 2 * n end, {1, 2, 3, 4})) do sum = sum + n end\n"
                     "assert(sum == 20)\n"
                     "local q = mp.Queue()\n"
                     "local p = mp.Process(function() q:put(mp.getpid()) end)\n"
                     "p:start() assert(q:get(20) == p.pid) assert(p:join(20))\n", 0));
    mplua_shutdown(L);
    lua_close(L);
  }
  return NULL;
}

/* A child of one state must not keep the pipes of another open. */
static void check_pipes(void) {
  running = "pipes of two states";
  lua_State *a = open_lua(), *b = open_lua();
  CHECK(run_lua(a, "mp = require 'mp' x, y = mp.Pipe()", 0));
  CHECK(run_lua(b, "mp = require 'mp' u, v = mp.Pipe()\n"
                   "p = mp.Process(function() u:close() v:recv() end) p:start()", 0));
  CHECK(run_lua(a, "y:close() local what, why = x:recv(5) assert(what == nil and why == 'eof', why)", 0));
  CHECK(run_lua(b, "u:send(1) assert(p:join(20))", 0));
  mplua_shutdown(b);
  lua_close(a);
  lua_close(b);
}

/* gcc 12's address sanitizer does not look after its own allocator at a fork: a child of one
 * thread waits for ever for what another one held. */
#ifdef __SANITIZE_ADDRESS__
#define FORKING_THREADS 1
#else
#define FORKING_THREADS THREADS
#endif

static void check_states(void) {
  running = "states in threads";
  in_threads(FORKING_THREADS, one_state, NULL);
}

/* ---- pools -------------------------------------------------------------------------------- */

static mplua_pool *pool;

static void *open_pool(void *arg) {
  mplua_pool_options o = {.size = sizeof o, .processes = 2, .setup =
    "local mp = require 'mp' function pid() return mp.getpid() end\n"
    "jobs = { twice = function(n) return 2 * n end }\n"
    "function fail() error { code = 5 } end function die() os.exit(9) end"};
  (void)arg;
  CHECK(mplua_pool_open(&pool, &o) == MPLUA_OK);
  return NULL;
}

static void *submit_tasks(void *arg) {
  (void)arg;
  for (int i = 1; i <= 50; i++) {
    mplua_value n = mplua_integer(i);
    CHECK(mplua_pool_call(pool, "jobs.twice", &n, 1, NULL) == MPLUA_OK);
  }
  return NULL;
}

/* A task's result; code that take gave. */
static int outcome(uint64_t want, int *ok, mplua_value **v) {
  uint64_t task;
  int code = mplua_pool_take(pool, &task, ok, v, SOON);
  CHECK(code != MPLUA_OK || task == want);
  return code;
}

static void check_pool(void) {
  running = "pool";
  mplua_value *v = NULL;
  uint64_t task = 0;
  long long total = 0;
  int ok = 5, n = 0;
  in_threads(1, open_pool, NULL); /* the thread that forked the workers ends */
  usleep(50000);
  CHECK(mplua_pool_take(pool, NULL, &ok, &v, 0) == MPLUA_ECLOSED && v == NULL && ok == 5);
  in_threads(THREADS, submit_tasks, NULL);
  CHECK(mplua_pool_pending(pool) == 50 * THREADS);
  struct pollfd p = {mplua_pool_fileno(pool), POLLIN, 0};
  while (mplua_pool_pending(pool) > 0 && poll(&p, 1, (int)SOON * 1000) == 1)
    while (mplua_pool_take(pool, &task, &ok, &v, 0) == MPLUA_OK) {
      CHECK(ok);
      total += v->as.integer;
      n++;
      mplua_free(v);
    }
  CHECK(n == 50 * THREADS && total == THREADS * 2550);
  CHECK(poll(&p, 1, 0) == 0);

  CHECK(mplua_pool_call(pool, "nothing.like.it", NULL, 0, &task) == MPLUA_EARGUMENT);
  CHECK(mplua_pool_run(pool, "x = = 1", NULL, 0, &task) == MPLUA_EARGUMENT);
  CHECK(mplua_pool_call(pool, NULL, NULL, 0, &task) == MPLUA_EARGUMENT);
  CHECK(mplua_pool_run(pool, "local t = ... return #t, 2", &(mplua_value){.type = MPLUA_STRING, .n = 3, .as.string = "abc"}, 1, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && ok && v->as.integer == 3);
  mplua_free(v);
  CHECK(mplua_pool_call(pool, "fail", NULL, 0, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && !ok && v->type == MPLUA_STRING);
  mplua_free(v);
  CHECK(mplua_pool_call(pool, "die", NULL, 0, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && !ok && strstr(v->as.string, "exit code 9"));
  mplua_free(v);
  /* small on the wire, 2^40 tables if each were copied as often as it is seen */
  CHECK(mplua_pool_run(pool, "local t = {1} for _ = 1, 40 do t = {t, t} end return t", NULL, 0, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && ok && v->n == 2);
  CHECK(v->as.items[0].as.items == v->as.items[1].as.items);
  mplua_free(v);
  CHECK(mplua_pool_run(pool, "return nil", NULL, 0, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && ok && v->type == MPLUA_NIL);
  mplua_free(v);
  CHECK(mplua_pool_call(pool, "pid", NULL, 0, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && ok);
  pid_t worker = (pid_t)v->as.integer;
  mplua_free(v);
  CHECK(kill(worker, 0) == 0);
  mplua_pool_close(&pool);
  CHECK(pool == NULL && gone(worker));

  mplua_pool_options bad = {.size = sizeof bad, .setup = "error('no', 0)"};
  CHECK(mplua_pool_open(&pool, &bad) == MPLUA_ELUA && pool == NULL);
  CHECK(strcmp(mplua_errmsg(), "no") == 0);
  bad.size = 3;
  CHECK(mplua_pool_open(&pool, &bad) == MPLUA_EARGUMENT);
}

/* Somebody kills the process that forks the workers: the tasks come to an end, and a loop
 * that only polls hears of it. */
static void check_killed(void) {
  running = "killed";
  mplua_value *v;
  uint64_t task;
  int ok;
  in_threads(1, open_pool, NULL);
  CHECK(mplua_pool_run(pool, "local f = io.open('/proc/self/stat') local s = f:read('a') f:close()\n"
                             "return math.tointeger(s:match('%) %a (%d+)'))", NULL, 0, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && ok);
  pid_t nursery = (pid_t)v->as.integer;
  mplua_free(v);
  CHECK(mplua_pool_run(pool, "require('mp').sleep(60)", NULL, 0, &task) == MPLUA_OK);
  usleep(100000);
  kill(nursery, SIGKILL);
  struct pollfd p = {mplua_pool_fileno(pool), POLLIN, 0};
  int code = MPLUA_ETIMEOUT;
  for (int i = 0; i < 2000 && code == MPLUA_ETIMEOUT && poll(&p, 1, (int)SOON * 1000) == 1; i++) {
    code = mplua_pool_take(pool, NULL, &ok, &v, 0);
    if (code == MPLUA_ETIMEOUT) usleep(1000);
  }
  CHECK(code == MPLUA_OK && !ok && strstr(v->as.string, "signal 9"));
  if (code == MPLUA_OK) mplua_free(v);
  mplua_value n = mplua_integer(4);
  CHECK(mplua_pool_call(pool, "jobs.twice", &n, 1, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && ok && v->as.integer == 8);
  mplua_free(v);
  mplua_pool_close(&pool);
}

/* ---- forks ----------------------------------------------------------------------------- */

static int in_child(int (*f)(void)) {
  int status;
  pid_t pid = fork();
  if (pid == 0) _exit(f());
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int use_all(void) {
  mplua_value *v;
  mplua_pool *other = NULL;
  mplua_queue *q = NULL;
  if (mplua_queue_get(queue, &v, 0) != MPLUA_EFORK) return 1;
  if (mplua_queue_open(&q, 0) != MPLUA_EFORK) return 2;
  if (mplua_pool_take(pool, NULL, NULL, &v, 0) != MPLUA_EFORK) return 3;
  if (mplua_pool_call(pool, "pid", NULL, 0, NULL) != MPLUA_EFORK) return 4;
  if (mplua_pool_open(&other, NULL) != MPLUA_EFORK) return 5;
  mplua_pool_close(&pool); /* does nothing to the workers */
  mplua_queue_close(&queue);
  return 0;
}

static int queue_in_lua_child(lua_State *L) {
  mplua_value *v, n = mplua_integer(6);
  lua_pushboolean(L, mplua_queue_get(queue, &v, SOON) == MPLUA_OK && v->as.integer == 5 &&
                  mplua_queue_put_value(queue, &n, 0) == MPLUA_OK &&
                  mplua_pool_take(pool, NULL, NULL, &v, 0) == MPLUA_EFORK);
  return 1;
}

static void check_forks(void) {
  running = "forks";
  mplua_value n = mplua_integer(5), *v;
  uint64_t task;
  int ok;
  CHECK(mplua_queue_open(&queue, 0) == MPLUA_OK);
  CHECK(mplua_queue_put_value(queue, &n, 0) == MPLUA_OK);
  in_threads(1, open_pool, NULL);
  CHECK(in_child(use_all) == 0);
  CHECK(mplua_pool_call(pool, "pid", NULL, 0, &task) == MPLUA_OK);
  CHECK(outcome(task, &ok, &v) == MPLUA_OK && ok);
  mplua_free(v);
  /* A child of mp's own: queues go on there, pools do not. */
  lua_State *L = open_lua();
  lua_pushcfunction(L, queue_in_lua_child);
  CHECK(run_lua(L, "local mp, f = require 'mp', ...\n"
                   "local p = mp.Process(function() os.exit(f() and 7 or 1) end)\n"
                   "p:start() assert(p:join(20)) assert(p.exitcode == 7)", 1));
  CHECK(mplua_queue_get(queue, &v, SOON) == MPLUA_OK && v->as.integer == 6);
  mplua_free(v);
  mplua_shutdown(L);
  lua_close(L);
  mplua_queue_close(&queue);
  mplua_pool_close(&pool);
}

/* ---- the host is killed; a thread sits in stdin ----------------------------------------- */

static int told[2];

static void *start_child(void *arg) {
  lua_State *L = open_lua(); /* stays open: nobody ends its process */
  (void)arg;
  lua_pushinteger(L, told[1]);
  run_lua(L, "local mp = require 'mp'\n"
             "local p = mp.Process(function() mp.sleep(60) end) p:start()\n"
             "child = p.pid", 1);
  lua_getglobal(L, "child");
  pid_t pid = (pid_t)lua_tointeger(L, -1);
  (void)!write(told[1], &pid, sizeof pid);
  return NULL;
}

/* Whether the child of a thread that ended outlives the thread, but not the process. */
static void check_host_killed(void) {
  running = "the host is killed";
  pid_t child = 0;
  (void)!pipe(told);
  pid_t host = fork();
  if (host == 0) {
    in_threads(1, start_child, NULL);
    pause();
    _exit(0);
  }
  CHECK(read(told[0], &child, sizeof child) == sizeof child && child > 0);
  usleep(200000);
  CHECK(!gone(child));
  kill(host, SIGKILL);
  waitpid(host, NULL, 0);
  CHECK(gone(child));
  close(told[0]);
  close(told[1]);
}

static void *read_stdin(void *arg) {
  (void)arg;
  (void)getchar();
  return NULL;
}

static void check_stdin(void) {
  running = "a thread in stdin";
  int end[2], status;
  (void)!pipe(end);
  pid_t host = fork();
  if (host == 0) {
    pthread_t reader;
    alarm(60);
    dup2(end[0], 0);
    pthread_create(&reader, NULL, read_stdin, NULL);
    usleep(50000);
    lua_State *L = open_lua();
    bool ok = run_lua(L, "local mp = require 'mp' io.stdout:setvbuf 'full'\n"
                         "local p = mp.Process(function() end) p:start() assert(p:join(20)) assert(p.exitcode == 0)", 0);
    _exit(ok ? 0 : 1);
  }
  waitpid(host, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  close(end[0]);
  close(end[1]);
}

static void all(void) {
  check_threads();
  check_values();
  check_handles();
  check_destructor();
  check_nothing();
  check_lua();
  check_states();
  check_pipes();
  check_pool();
  check_killed();
  check_forks();
}

static size_t used(void) {
  lua_State *L = open_lua();
  run_lua(L, "require 'mp' require('mp.core').collect() used = require('mp.core').arena().used", 0);
  lua_getglobal(L, "used");
  size_t n = (size_t)lua_tointeger(L, -1);
  lua_close(L);
  return n;
}

int main(void) {
  check_host_killed(); /* before this process has anything of its own */
  check_stdin();
  all();
  size_t bytes = used();
  int fds = descriptors();
  for (int i = 0; i < 2; i++) all();
  running = "again and again";
  CHECK(used() <= bytes);
  CHECK(descriptors() == fds);
  return report("host_check");
}
