/* What a pool's nursery needs of the kernel: signals that wait for it, which of its children
 * has ended.
 *
 * A nursery takes its signals one by one from sigwaitinfo, so they are blocked in it at all
 * times and no handler ever runs.  A worker begins with the mask that the nursery itself
 * was born with.
 */
#include "../os/clock.h"
#include "lprocess.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

static sigset_t born_with; /* the mask of this process before nursery_begin */

static void own_signals(sigset_t *set) {
  sigemptyset(set);
  sigaddset(set, SIGCHLD);
  sigaddset(set, SIGTERM);
  sigaddset(set, SIGUSR1);
}

/* core.nursery_begin(): from now on SIGCHLD, SIGTERM and SIGUSR1 wait for nursery_wait.
 * SIGCHLD gets its default, because children of who ignores it reap themselves. */
static int nursery_begin(lua_State *L) {
  sigset_t set;
  (void)L;
  own_signals(&set);
  (void)pthread_sigmask(SIG_BLOCK, &set, &born_with);
  signal(SIGCHLD, SIG_DFL);
  lmp_child_hush();
  return 0;
}

/* core.nursery_leave(): in a worker, first of all */
static int nursery_leave(lua_State *L) {
  (void)L;
  lmp_child_hush();
  (void)pthread_sigmask(SIG_SETMASK, &born_with, NULL);
  return 0;
}

/* The next of the nursery's signals; 0: the deadline. */
static int next_signal(mp_time deadline) {
  sigset_t set;
  own_signals(&set);
  for (;;) {
    mp_time left = deadline == MP_FOREVER ? 0 : deadline - mp_now();
    if (left < 0) left = 0;
    struct timespec t = {left / 1000000000, left % 1000000000};
    int sig = deadline == MP_FOREVER ? sigwaitinfo(&set, NULL) : sigtimedwait(&set, NULL, &t);
    if (sig > 0) return sig;
    if (errno == EAGAIN) return 0;
  }
}

/* core.nursery_wait(timeout) -> "child" (one or more have ended), "term" (the pool is
 * terminated), "look" (its owner has changed something); nothing when the time is over */
static int nursery_wait(lua_State *L) {
  mp_time deadline = lmp_deadline(L, 1);
  switch (next_signal(deadline)) {
  case SIGCHLD: lua_pushliteral(L, "child"); return 1;
  case SIGTERM: lua_pushliteral(L, "term"); return 1;
  case SIGUSR1: lua_pushliteral(L, "look"); return 1;
  default: return 0;
  }
}

/* core.nursery_ended() -> the pid of a child that has ended and was not reaped, or
 * nothing.  A signal does not say how many have ended. */
static int nursery_ended(lua_State *L) {
  siginfo_t info;
  info.si_pid = 0;
  if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return 0;
  lua_pushinteger(L, info.si_pid);
  return 1;
}

void lmp_open_nursery(lua_State *L) {
  static const luaL_Reg functions[] = {
    {"nursery_begin", nursery_begin}, {"nursery_leave", nursery_leave},
    {"nursery_wait", nursery_wait}, {"nursery_ended", nursery_ended}, {NULL, NULL}
  };
  luaL_setfuncs(L, functions, 0);
}
