/* The slow half of the robust lock.
 *
 * The word is the whole truth: who holds the lock, and whether somebody may sleep.
 * A waiter puts the sleepers' bit in and sleeps on the word; whoever got the lock
 * after it had slept takes it with the bit set, because others may sleep still.  An
 * owner that is dead is replaced by one CAS from exactly its word, so that two
 * waiters cannot both take over.  A wake that was given to a process which was then
 * killed is made up for by the next slice of the others.
 */
#include "lock.h"
#include "family.h"

void mp_lock_wake(struct mp_lock *l) { mp_futex_wake(&l->word, 1); }

static bool swap(struct mp_lock *l, uint32_t from, uint32_t to) {
  return atomic_compare_exchange_strong_explicit(&l->word, &from, to, memory_order_seq_cst,
                                                 memory_order_relaxed);
}

/* A dead owner is looked for before the first sleep and after each slice: asking
 * costs far less than a sleep. */
int mp_lock_slow(struct mp_lock *l, uint32_t me, mp_time deadline) {
  uint32_t bit = 0;
  for (;;) {
    uint32_t w = atomic_load_explicit(&l->word, memory_order_relaxed);
    if (w == 0) {
      if (swap(l, 0, me | bit)) return 0;
      continue;
    }
    if (!mp_alive(w & MP_LOCK_OWNER)) {
      if (swap(l, w, me | (w & MP_LOCK_SLEEPERS) | bit)) return EOWNERDEAD;
      continue;
    }
    mp_time now = deadline == MP_NEVER ? 0 : mp_now();
    if (now >= deadline) return ETIMEDOUT;
    if (!(w & MP_LOCK_SLEEPERS)) {
      if (!swap(l, w, w | MP_LOCK_SLEEPERS)) continue;
      w |= MP_LOCK_SLEEPERS;
    }
    mp_time slice = now + MP_SLICE_NS;
    int e = mp_futex_wait(&l->word, w, slice < deadline ? slice : deadline);
    bit = MP_LOCK_SLEEPERS;
    if (e == EINTR) return EINTR;
    if (e != ETIMEDOUT) continue;
    if (slice >= deadline) continue; /* one more look, then ETIMEDOUT */
    if (mp_alive(w & MP_LOCK_OWNER)) return EINTR;
  }
}
