/* For checks of the core without Lua: counting, processes of the family, and kill
 * points: a process that is killed after k instructions of an operation. */
#ifndef CHECK_H
#define CHECK_H
#include "shm/family.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static _Thread_local struct mp_member me;
static _Atomic int failed, passed;
static const char *running = "";
static long running_point;

#define CHECK(what)                                                                        \
  do {                                                                                     \
    if (what) passed++;                                                                    \
    else {                                                                                 \
      failed++;                                                                            \
      printf("%s:%d: not true: %s (%s, kill point %ld)\n", __FILE__, __LINE__, #what,      \
             running, running_point);                                                      \
    }                                                                                      \
  } while (0)

struct child {
  pid_t pid;
  uint32_t word;
};

/* Runs fn in a process of the family. */
static struct child start(void (*fn)(void)) {
  struct child c;
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &old);
  fflush(stdout);
  int e = mp_member_fork(&me, "child", &c.pid, &c.word);
  sigprocmask(SIG_SETMASK, &old, NULL);
  if (e) {
    printf("cannot fork: %s\n", strerror(e));
    exit(1);
  }
  if (c.pid != 0) return c;
  fn();
  mp_member_close(&me, 0);
  fflush(stdout);
  _exit(failed != 0);
}

/* Waits for its end, by itself or killed; 0 when all of its checks were true. */
static inline int finish(struct child c, int signal) {
  int status;
  if (signal) kill(c.pid, signal);
  waitpid(c.pid, &status, 0);
  mp_bury(c.word, &me, NULL);
  return WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status) == signal ? 0 : -1;
}

static void (*crash_op)(void);

static void traced(void) {
  if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(2);
  raise(SIGSTOP);
  crash_op();
  _exit(0);
}

/* Runs op for k instructions in a process of its own, then kills it.  1: it was killed
 * inside, 0: it came to its end, -1: there is no tracing here. */
static inline int crash(void (*op)(void), long k) {
  int status, inside = 1;
  crash_op = op;
  struct child c = start(traced);
  waitpid(c.pid, &status, 0);
  if (!WIFSTOPPED(status)) inside = -1;
  for (long i = 0; inside == 1 && i < k; i++) {
    ptrace(PTRACE_SINGLESTEP, c.pid, NULL, NULL);
    waitpid(c.pid, &status, 0);
    if (!WIFSTOPPED(status)) inside = 0;
  }
  if (WIFSTOPPED(status)) {
    kill(c.pid, SIGKILL);
    waitpid(c.pid, &status, 0);
  }
  if (k % 2) mp_bury(c.word, &me, NULL); /* else whoever comes finds it dead */
  return inside;
}

/* How many kill points of an operation are tried: each costs a process and all the
 * steps to it.  MPLUA_KILL_POINTS asks for more. */
#define KILL_POINTS 20

static inline long wanted_points(void) {
  const char *s = getenv("MPLUA_KILL_POINTS");
  return s && atol(s) > 0 ? atol(s) : KILL_POINTS;
}

/* prepare(); op in a process that is killed; check(): for kill points spread over all
 * of the operation. */
static inline void crash_all(const char *name, void (*prepare)(void), void (*op)(void),
                             void (*check)(void)) {
  long length = 1, points = 0;
  int inside;
  running = name;
  for (;; length *= 2) {
    running_point = length;
    if (prepare) prepare();
    inside = crash(op, length);
    check();
    if (inside <= 0) break;
  }
  if (inside < 0) {
    printf("%s: no tracing here, kill points are left out\n", name);
    return;
  }
  long step = length / wanted_points() + 1;
  for (long k = step; k < length; k += step, points++) {
    running_point = k;
    if (prepare) prepare();
    inside = crash(op, k);
    check();
    if (!inside) break;
  }
  printf("%s: %ld kill points\n", name, points);
  running = "";
  running_point = 0;
}

static inline size_t arena_used(void) {
  struct mp_arena_stats s;
  mp_arena_stats(&s, me.word);
  return s.used;
}

static inline int report(const char *name) {
  printf("%s: %d passed, %d failed\n", name, passed, failed);
  return failed != 0;
}

#endif
