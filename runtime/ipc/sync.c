/* What the kinds of synchronisation share. */
#include "sync.h"

static bool is_free(const void *lock) { return !mp_lock_taken(lock); }

void mp_rlock_look(const struct mp_rlock *r, struct mp_look *look) {
  if (mp_lock_taken(&r->lock)) (void)mp_look_for(look, is_free, &r->lock);
}

void mp_sync_kinds(void) {
  mp_kind_set(MP_KIND_SEMAPHORE, &mp_semaphore_ops);
  mp_kind_set(MP_KIND_BOUNDED, &mp_semaphore_ops);
  mp_kind_set(MP_KIND_CONDITION, &mp_condition_ops);
  mp_kind_set(MP_KIND_BARRIER, &mp_barrier_ops);
}
