/* The one way to wait: look a few times, then sleep on a futex in slices.
 *
 * A waiter does
 *     seen = mp_waitq_begin(q);         publish that one waits
 *     if (what it waits for is there)   test again
 *       ...
 *     else mp_waitq_sleep(q, seen, deadline);
 * and whoever makes it true calls mp_waitq_wake(q, n) afterwards.  A wake costs
 * one load while nobody sleeps.  Wakes may be spurious; a wake that went to a
 * process which was then killed is made up for by the slice.
 */
#ifndef MP_OS_WAIT_H
#define MP_OS_WAIT_H
#include "clock.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* No sleep is longer than this: dead owners are noticed, hooks of signals that
 * came just before the sleep run (Ctrl-C has 0.25 s). */
#define MP_SLICE_NS (200 * 1000 * 1000LL)

/* In shared memory.  seq: counts wakes, the futex word; any process.  asleep: 1
 * while somebody may sleep, a hint that is only ever wrong towards 1. */
struct mp_waitq {
  _Atomic uint32_t seq;
  _Atomic uint32_t asleep;
};

/* The longest look, in microseconds: as long as being woken takes. */
#define MP_LOOK_US 35

/* In private memory, one per handle: does looking pay here? */
struct mp_look {
  uint32_t budget_us; /* 0 = not yet set */
};

uint32_t mp_waitq_begin(struct mp_waitq *q);

/* Sleeps until a wake after `seen`, a signal, the end of the slice or the
 * deadline.  0: woken (test again); EINTR: a signal or the end of the slice (let
 * hooks run, look for the dead, test again); ETIMEDOUT: the deadline. */
int mp_waitq_sleep(struct mp_waitq *q, uint32_t seen, mp_time deadline);

void mp_waitq_wake_slow(struct mp_waitq *q, int n);

/* Wakes up to n sleepers (INT_MAX: all).  What they wait for must have been made
 * true before, by a sequentially consistent operation or under a lock that was
 * released before (mp_lock_release is one). */
static inline void mp_waitq_wake(struct mp_waitq *q, int n) {
  if (atomic_load_explicit(&q->asleep, memory_order_seq_cst) != 0)
    mp_waitq_wake_slow(q, n);
}

/* Looks for `test(arg)` with sched_yield between, for a time that is learnt in
 * `look` (at most MP_LOOK_US microseconds); true as soon as the test is. */
bool mp_look_for(struct mp_look *look, bool (*test)(const void *), const void *arg);

/* futex(2) on a word of shared memory: sleeps while *word == seen until
 * `deadline`.  0, EAGAIN (differs already), EINTR or ETIMEDOUT. */
int mp_futex_wait(_Atomic uint32_t *word, uint32_t seen, mp_time deadline);
int mp_futex_wake(_Atomic uint32_t *word, int n);

#endif
