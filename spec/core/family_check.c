/* Births, ends and burials, with whoever does them stopped at every instruction. */
#include "check.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define OBJECTS 3

static struct {
  _Atomic pid_t orphan;
  _Atomic int confirmed, end;
  uint32_t word;
} *shared;

static uint32_t objects[OBJECTS];
static size_t base;

static void nothing(void) {}

/* ---- whoever ends holds no lock when it is gone ----------------------------------- */

static void op_close(void) { mp_member_close(&me, 0); }

static void see_lock(struct child c) {
  struct mp_lock *l = mp_arena_family(); /* the family's page begins with its lock */
  (void)c;
  int e = mp_lock_take(l, me.word, 1);
  CHECK(e == 0 || e == ETIMEDOUT);
  if (e == 0) mp_lock_release(l);
}

static void check_base(void) {
  mp_collect(&me);
  CHECK(arena_used() == base);
}

/* ---- a child that confirms while it is being buried ------------------------------ */

static bool hold;

static void stop_parent(void) {
  if (hold) raise(SIGSTOP);
}

static void stop_child(void) {
  if (!hold) return;
  shared->orphan = getpid();
  raise(SIGSTOP);
}

static void bear_orphan(void) {
  pid_t pid;
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  hold = true;
  if (mp_member_fork(&me, "orphan", &pid, &shared->word) != 0 || pid != 0) _exit(1);
  shared->confirmed = 1;
  while (!shared->end) usleep(200);
  mp_member_close(&me, 0);
  _exit(0);
}

static bool is_stopped(pid_t pid) {
  siginfo_t info = {0};
  return pid > 0 && waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == pid;
}

/* An orphan that was forked and has not confirmed; its parent did not live to note its pid. */
static void prepare_orphan(void) {
  int status;
  shared->orphan = 0;
  shared->confirmed = shared->end = 0;
  struct child parent = start(bear_orphan);
  waitpid(parent.pid, &status, WUNTRACED);
  while (!shared->orphan) usleep(100);
  finish(parent, SIGKILL);
  while (!is_stopped(shared->orphan)) usleep(100); /* ours since its parent died */
}

static void op_bury(void) { mp_bury(shared->word, &me, NULL); }

static bool orphan_ended(void) {
  siginfo_t info = {0};
  return waitid(P_PID, (id_t)shared->orphan, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid != 0;
}

static void confirm_now(struct child c) {
  (void)c;
  kill(shared->orphan, SIGCONT);
  while (!shared->confirmed && !orphan_ended()) usleep(100);
}

/* It confirmed, or it was buried; never both. */
static void check_orphan(void) {
  confirm_now((struct child){0});
  if (shared->confirmed) CHECK(mp_alive(shared->word));
  shared->end = 1;
  waitpid(shared->orphan, NULL, 0);
  mp_bury(shared->word, &me, NULL);
  check_base();
}

int main(void) {
  uint32_t i;
  mp_ref r;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED || mp_member_open(&me, "check") != 0) return 1;
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  pthread_atfork(NULL, stop_parent, stop_child);
  for (i = 0; i < OBJECTS; i++)
    CHECK(mp_object_make(100, MP_KIND_VALUE, &me, NULL, NULL, &objects[i], &r) == 0);
  base = arena_used();
  crash_all("close", nothing, op_close, check_base);
  stop_all("close", nothing, op_close, see_lock, check_base);
  stop_all("bury and confirm", prepare_orphan, op_bury, confirm_now, check_orphan);
  for (i = 0; i < OBJECTS; i++) mp_drop(objects[i], &me);
  mp_member_close(&me, -1);
  return report("family_check");
}
