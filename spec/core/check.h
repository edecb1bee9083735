/* For checks of the core without Lua: counting, and processes of the family. */
#ifndef CHECK_H
#define CHECK_H
#include "shm/family.h"
#include "count.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static _Thread_local struct mp_member me;
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

#include "../crash/machine.h"

static inline size_t arena_used(void) {
  struct mp_arena_stats s;
  mp_arena_stats(&s, me.word);
  return s.used;
}

#endif
