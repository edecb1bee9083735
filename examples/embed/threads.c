/* threads.c: four threads feed Lua workers through a queue; the first thread polls the
 * results in its epoll loop.  No thread but the first one has a Lua state in its hands.
 *
 *     cc threads.c $(pkg-config --cflags --libs mplua) -lpthread -o threads && ./threads
 */
#include <mplua.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>

enum { THREADS = 4, JOBS = 250 };

static mplua_queue *jobs, *results;

static const char workers[] =
    "local mp = require 'mp'\n"
    "local jobs, results = ...\n"
    "for i = 1, 2 do\n"
    "  mp.Process(function()\n"
    "    for job in jobs:items() do results:put { thread = job.thread, square = job.n * job.n } end\n"
    "  end):start()\n"
    "end\n";

static void must(int code) {
  if (code == MPLUA_OK) return;
  fprintf(stderr, "threads: %s\n", mplua_errmsg());
  exit(1);
}

static void *feed(void *arg) {
  long thread = *(long *)arg;
  for (long n = 1; n <= JOBS; n++) {
    mplua_value pairs[] = {mplua_string("thread"), mplua_integer(thread),
                           mplua_string("n"), mplua_integer(n)};
    mplua_value job = mplua_table(pairs, 2);
    must(mplua_queue_put_value(jobs, &job, MPLUA_FOREVER));
  }
  return NULL;
}

/* Takes what is there; how many results that were. */
static int drain(long long sums[THREADS]) {
  mplua_value *v;
  int n = 0, code;
  while ((code = mplua_queue_get(results, &v, 0)) == MPLUA_OK) {
    sums[mplua_field(v, "thread")->as.integer] += mplua_field(v, "square")->as.integer;
    mplua_free(v);
    n++;
  }
  if (code != MPLUA_ETIMEOUT) must(code);
  return n;
}

static void poll_results(long long sums[THREADS]) {
  struct epoll_event event = {.events = EPOLLIN};
  int loop = epoll_create1(EPOLL_CLOEXEC), fd, left = THREADS * JOBS;
  must(mplua_queue_fileno(results, &fd));
  epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
  while ((left -= drain(sums)) > 0) /* a real host has more in its loop */
    epoll_wait(loop, &event, 1, -1);
}

int main(void) {
  pthread_t threads[THREADS];
  long numbers[THREADS];
  long long sums[THREADS] = {0};
  must(mplua_queue_open(&jobs, 100));
  must(mplua_queue_open(&results, 0));

  lua_State *L = luaL_newstate(); /* processes first, then threads */
  luaL_openlibs(L);
  mplua_openlibs(L);
  if (luaL_loadstring(L, workers) != LUA_OK) return 1;
  mplua_queue_push(L, jobs);
  mplua_queue_push(L, results);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
    fprintf(stderr, "threads: %s\n", lua_tostring(L, -1));
    return 1;
  }
  for (long i = 0; i < THREADS; i++) {
    numbers[i] = i;
    pthread_create(&threads[i], NULL, feed, &numbers[i]);
  }
  poll_results(sums);
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    printf("thread %d: %lld\n", i, sums[i]);
  }
  must(mplua_queue_shutdown(jobs)); /* the workers end */
  mplua_shutdown(L);
  lua_close(L);
  mplua_queue_close(&jobs);
  mplua_queue_close(&results);
  return 0;
}
