/* Events. */
#include "sync.h"

/* A change is a CAS from the turns that were seen: of several who set an event that is
 * clear, one does, and only that one wakes. */
void mp_event_set(struct mp_event *v) {
  uint32_t t = mp_event_turns(v);
  while (!(t & 1))
    if (atomic_compare_exchange_weak_explicit(&v->turns, &t, t + 1, memory_order_seq_cst,
                                              memory_order_relaxed)) {
      mp_waitq_wake(&v->waiting, INT_MAX);
      return;
    }
}

void mp_event_clear(struct mp_event *v) {
  uint32_t t = mp_event_turns(v);
  while (t & 1)
    if (atomic_compare_exchange_weak_explicit(&v->turns, &t, t + 1, memory_order_seq_cst,
                                              memory_order_relaxed))
      return;
}

struct watch {
  const struct mp_event *event;
  uint32_t turns;
};

static bool was_set(const void *p) {
  const struct watch *w = p;
  uint32_t t = mp_event_turns(w->event);
  return (t & 1) != 0 || t != w->turns;
}

int mp_event_wait(struct mp_event *v, uint32_t turns, mp_time deadline, struct mp_look *look) {
  struct watch w = {v, turns};
  if (was_set(&w)) return 0;
  if (deadline == MP_NEVER) return ETIMEDOUT;
  if (mp_look_for(look, was_set, &w)) return 0;
  for (;;) {
    uint32_t seen = mp_waitq_begin(&v->waiting);
    if (was_set(&w)) return 0;
    int e = mp_waitq_sleep(&v->waiting, seen, deadline);
    if (e) return was_set(&w) ? 0 : e;
  }
}
