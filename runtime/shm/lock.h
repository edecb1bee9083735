/* Locks that survive their owners: one 32-bit word, 0 when free, else the lock
 * word of the owner (slot and generation) and a bit that says somebody sleeps. */
#ifndef MP_SHM_LOCK_H
#define MP_SHM_LOCK_H
#include "../os/wait.h"
#include <errno.h>

/* A lock word: bits 0-11 slot (1..4095), 12-30 generation of the slot. */
#define MP_LOCK_SLEEPERS 0x80000000u
#define MP_LOCK_OWNER 0x7fffffffu

struct mp_lock {
  _Atomic uint32_t word;
};

int mp_lock_slow(struct mp_lock *l, uint32_t me, mp_time deadline);
void mp_lock_wake(struct mp_lock *l);

/* Takes `l` for `me` by `deadline`.  0; EOWNERDEAD: taken, and its last owner died
 * holding it (repair what it guards); ETIMEDOUT; EINTR (a signal, or the end of a
 * slice: run hooks and call again).  Not recursive: one's own lock is waited for
 * like another's. */
static inline int mp_lock_take(struct mp_lock *l, uint32_t me, mp_time deadline) {
  uint32_t free = 0;
  if (atomic_compare_exchange_strong_explicit(&l->word, &free, me, memory_order_seq_cst,
                                              memory_order_relaxed))
    return 0;
  return mp_lock_slow(l, me, deadline);
}

/* For the short locks inside objects: waits however long it takes, through
 * signals.  True when the last owner died holding it: the caller repairs. */
static inline bool mp_lock_hold(struct mp_lock *l, uint32_t me) {
  int e;
  do e = mp_lock_take(l, me, MP_FOREVER);
  while (e == EINTR);
  return e == EOWNERDEAD;
}

/* A full barrier; wakes one sleeper when there is one. */
static inline void mp_lock_release(struct mp_lock *l) {
  if (atomic_exchange_explicit(&l->word, 0, memory_order_seq_cst) & MP_LOCK_SLEEPERS)
    mp_lock_wake(l);
}

static inline bool mp_lock_mine(const struct mp_lock *l, uint32_t me) {
  return (atomic_load_explicit(&l->word, memory_order_relaxed) & MP_LOCK_OWNER) == me;
}
static inline bool mp_lock_taken(const struct mp_lock *l) {
  return atomic_load_explicit(&l->word, memory_order_acquire) != 0;
}

#endif
