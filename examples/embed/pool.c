/* pool.c: a host without any Lua of its own gives work to a pool from two threads, and
 * collects the results where it polls.
 *
 *     cc pool.c $(pkg-config --cflags --libs mplua) -lpthread -o pool && ./pool
 */
#include <mplua.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static mplua_pool *pool;

static void must(int code) {
  if (code == MPLUA_OK) return;
  fprintf(stderr, "pool: %s\n", mplua_errmsg());
  exit(1);
}

static void *submit_calls(void *unused) {
  for (int n = 20; n <= 24; n++) {
    mplua_value arg = mplua_integer(n);
    must(mplua_pool_call(pool, "fib", &arg, 1, NULL));
  }
  return unused;
}

static void *submit_text(void *unused) {
  mplua_value args[] = {mplua_string("mplua"), mplua_integer(3)};
  must(mplua_pool_run(pool, "local s, n = ... return 'text: ' .. s:rep(n, '-')", args, 2, NULL));
  must(mplua_pool_run(pool, "error('a task that fails', 0)", NULL, 0, NULL));
  must(mplua_pool_run(pool, "os.exit(3)", NULL, 0, NULL));
  return unused;
}

static void show(int ok, const mplua_value *v, long long *sum) {
  if (ok && v->type == MPLUA_INTEGER) *sum += v->as.integer;
  else if (v->type == MPLUA_STRING) printf("%s: %.40s\n", ok ? "value" : "error", v->as.string);
}

int main(void) {
  mplua_pool_options options = {.size = sizeof options, .processes = 2,
    .setup = "function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end"};
  pthread_t a, b;
  mplua_value *v;
  long long sum = 0;
  int ok, code;
  must(mplua_pool_open(&pool, &options));
  pthread_create(&a, NULL, submit_calls, NULL);
  pthread_create(&b, NULL, submit_text, NULL);
  pthread_join(a, NULL);
  pthread_join(b, NULL);

  struct pollfd fds[] = {{mplua_pool_fileno(pool), POLLIN, 0}};
  while (mplua_pool_pending(pool) > 0 && poll(fds, 1, -1) > 0)
    while ((code = mplua_pool_take(pool, NULL, &ok, &v, 0)) == MPLUA_OK) {
      show(ok, v, &sum);
      mplua_free(v);
    }
  printf("fib(20) to fib(24) together: %lld\n", sum);
  mplua_pool_close(&pool);
  return 0;
}
