/* What a pool's nursery needs of the kernel: signals that wait for it, which of its children
 * has ended.
 *
 * A nursery takes its signals one by one from sigwaitinfo: they are blocked in it from birth
 * on, so that none comes too early, and no handler ever runs.  A worker begins with the
 * mask that the nursery would have had as a plain child.
 */
#include "../os/clock.h"
#include "lpool.h"
#include "lprocess.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

static sigset_t plain_mask; /* of this nursery */

static void own_signals(sigset_t *set) {
  sigemptyset(set);
  sigaddset(set, SIGCHLD);
  sigaddset(set, SIGTERM);
  sigaddset(set, SIGUSR1);
}

static void do_nothing(int sig) { (void)sig; }

/* A handler, and not SIG_IGN: programs that this process runs get Ctrl-C. */
static void hush(void) {
  struct sigaction a;
  if (sigaction(SIGINT, NULL, &a) == 0 && a.sa_handler == SIG_IGN) return;
  memset(&a, 0, sizeof a);
  a.sa_handler = do_nothing;
  a.sa_flags = SA_RESTART;
  sigemptyset(&a.sa_mask);
  (void)sigaction(SIGINT, &a, NULL);
}

/* SIGCHLD gets its default: the children of who ignores it reap themselves. */
void lmp_nursery_signals(enum lmp_role role, sigset_t *mask) {
  sigset_t own;
  hush();
  if (role == LMP_SERVER) return;
  if (role == LMP_WORKER) {
    *mask = plain_mask;
    return;
  }
  plain_mask = *mask;
  own_signals(&own);
  sigorset(mask, mask, &own);
  (void)signal(SIGCHLD, SIG_DFL);
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

/* core.pool_over(pool) -> whether no more tasks can be submitted, whether none waits */
static int pool_over(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  bool shut = mp_queue_is_shut(x->tasks); /* first: what was put before it is counted */
  lua_pushboolean(L, shut);
  lua_pushboolean(L, mp_queue_count(x->tasks, x->me) == 0);
  return 2;
}

void lmp_open_nursery(lua_State *L) {
  static const luaL_Reg functions[] = {
    {"nursery_wait", nursery_wait}, {"nursery_ended", nursery_ended},
    {"pool_over", pool_over}, {NULL, NULL}
  };
  luaL_setfuncs(L, functions, 0);
}
