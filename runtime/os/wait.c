/* Looking, sleeping and waking.  See wait.h for the protocol. */
#include "wait.h"
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Looking costs the processor at most this long a wait; sleeping and being woken
 * costs about 35 us each way: who looks for as long has lost at most twice what he would
 * have lost by sleeping at once. */
#define LOOK_MAX_US MP_LOOK_US
#define LOOK_MIN_US 2
#define LOOK_YIELDS_A_CLOCK 4 /* yields between two looks at the clock */

int mp_futex_wait(_Atomic uint32_t *word, uint32_t seen, mp_time deadline) {
  struct timespec t = {deadline / 1000000000, deadline % 1000000000};
  long r = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen,
                   deadline == MP_FOREVER ? NULL : &t, NULL,
                   FUTEX_BITSET_MATCH_ANY);
  return r == 0 ? 0 : errno;
}

int mp_futex_wake(_Atomic uint32_t *word, int n) {
  long r = syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
  return r < 0 ? 0 : (int)r;
}

uint32_t mp_waitq_begin(struct mp_waitq *q) {
  uint32_t seen = atomic_load_explicit(&q->seq, memory_order_acquire);
  /* A full barrier: the caller's test comes after it, the waker's look at
   * `asleep` after its own full barrier, so one of the two sees the other. */
  atomic_exchange_explicit(&q->asleep, 1, memory_order_seq_cst);
  return seen;
}

int mp_waitq_sleep(struct mp_waitq *q, uint32_t seen, mp_time deadline) {
  mp_time now = mp_now(), until = now + MP_SLICE_NS;
  if (now >= deadline) return ETIMEDOUT;
  int e = mp_futex_wait(&q->seq, seen, until < deadline ? until : deadline);
  if (e == ETIMEDOUT) return until < deadline ? EINTR : ETIMEDOUT;
  return e == EINTR ? EINTR : 0;
}

/* `asleep` is taken down before seq moves and put up again when a sleeper was
 * found: a waiter that publishes in between keeps its own 1, one that published
 * before either sleeps already (the wake counts it) or sees seq move. */
void mp_waitq_wake_slow(struct mp_waitq *q, int n) {
  atomic_exchange_explicit(&q->asleep, 0, memory_order_seq_cst);
  atomic_fetch_add_explicit(&q->seq, 1, memory_order_seq_cst);
  if (mp_futex_wake(&q->seq, n) >= n)
    atomic_store_explicit(&q->asleep, 1, memory_order_seq_cst);
}

/* Success raises the budget to the full, failure halves it: a partner that
 * answers soon is looked for, one that does not costs next to nothing. */
bool mp_look_for(struct mp_look *look, bool (*test)(const void *), const void *arg) {
  if (look->budget_us == 0) look->budget_us = LOOK_MAX_US;
  mp_time end = mp_now() + look->budget_us * 1000LL;
  do {
    for (int i = 0; i < LOOK_YIELDS_A_CLOCK; i++) {
      if (test(arg)) {
        look->budget_us = LOOK_MAX_US;
        return true;
      }
      sched_yield();
    }
  } while (mp_now() < end);
  look->budget_us = look->budget_us / 2 < LOOK_MIN_US ? LOOK_MIN_US : look->budget_us / 2;
  return test(arg);
}
