/* Semaphores: a counter that anyone may raise, and permits that have an owner. */
#include "sync.h"

static uint32_t level(uint64_t w) { return (uint32_t)w; }
static uint32_t owned(uint64_t w) { return (uint32_t)(w >> 32); }
static uint64_t state(uint32_t lev, uint32_t own) { return (uint64_t)own << 32 | lev; }

static uint64_t load(const struct mp_semaphore *s) {
  return atomic_load_explicit(&s->state, memory_order_seq_cst);
}

static bool swap(struct mp_semaphore *s, uint64_t *from, uint64_t to) {
  return atomic_compare_exchange_weak_explicit(&s->state, from, to, memory_order_seq_cst,
                                               memory_order_relaxed);
}

void mp_semaphore_init(struct mp_semaphore *s, uint32_t value, uint32_t limit) {
  atomic_store_explicit(&s->state, value, memory_order_relaxed);
  s->limit = limit;
}

uint32_t mp_semaphore_value(const struct mp_semaphore *s) {
  uint64_t w = load(s);
  return level(w) - owned(w);
}

static bool any_free(const void *p) { return mp_semaphore_value(p) > 0; }

/* Waits until there seems to be a permit. */
static int await_free(struct mp_semaphore *s, mp_time deadline, struct mp_look *look) {
  if (any_free(s)) return 0;
  if (deadline == MP_NEVER) return ETIMEDOUT;
  if (mp_look_for(look, any_free, s)) return 0;
  uint32_t seen = mp_waitq_begin(&s->waiting);
  return any_free(s) ? 0 : mp_waitq_sleep(&s->waiting, seen, deadline);
}

int mp_semaphore_take(struct mp_semaphore *s, mp_time deadline, struct mp_look *look) {
  while (mp_semaphore_try(s) != 0) {
    int e = await_free(s, deadline, look);
    if (e) return e;
  }
  return 0;
}

int mp_semaphore_give(struct mp_semaphore *s, uint32_t n) {
  uint64_t w = load(s);
  do {
    uint32_t nfree = level(w) - owned(w);
    if (nfree > s->limit || n > s->limit - nfree) return ERANGE;
  } while (!swap(s, &w, w + n));
  mp_waitq_wake(&s->waiting, n > INT_MAX ? INT_MAX : (int)n);
  return 0;
}

/* ---- permits with an owner ------------------------------------------------------------- */

/* Makes `owned` what it should be.  When bare releases took the place of the permits
 * that come back, `level` goes down with them: there are never more than `limit`.
 * True when it had to. */
static bool set_owned(struct mp_semaphore *s, uint32_t own) {
  uint64_t w = load(s), to;
  bool cut;
  do {
    cut = level(w) - own > s->limit;
    to = state(cut ? s->limit + own : level(w), own);
  } while (!swap(s, &w, to));
  return cut;
}

/* Under the family lock and guard. */
static void recount(struct mp_semaphore *s) {
  int64_t sum = mp_held_sum(mp_ref_of(s), 0);
  (void)set_owned(s, sum > 0 ? (uint32_t)sum : 0);
  atomic_store_explicit(&s->dirty, 0, memory_order_relaxed);
}

static bool is_dirty(const struct mp_semaphore *s) {
  return atomic_load_explicit(&s->dirty, memory_order_relaxed) != 0;
}

/* Takes guard, with everything it guards in order.  No lock may be held. */
static void hold(struct mp_semaphore *s, struct mp_member *me) {
  if (mp_lock_hold(&s->guard, me->word))
    atomic_store_explicit(&s->dirty, 1, memory_order_relaxed);
  if (!is_dirty(s)) return;
  mp_lock_release(&s->guard);
  mp_family_lock(me);
  (void)mp_lock_hold(&s->guard, me->word);
  recount(s);
  mp_family_unlock();
  mp_waitq_wake(&s->waiting, INT_MAX);
}

/* `owned` first, then `held`: a kill in between leaves owned too high. */
static int try_own(struct mp_semaphore *s, struct mp_entry *x, struct mp_member *me) {
  int e = EAGAIN;
  hold(s, me);
  uint64_t w = load(s);
  while (level(w) > owned(w))
    if (swap(s, &w, state(level(w), owned(w) + 1))) {
      int32_t held = atomic_load_explicit(&x->held, memory_order_relaxed);
      atomic_store_explicit(&x->held, held + 1, memory_order_release);
      e = 0;
      break;
    }
  mp_lock_release(&s->guard);
  return e;
}

int mp_semaphore_own(struct mp_semaphore *s, struct mp_entry *x, struct mp_member *me,
                     mp_time deadline, struct mp_look *look) {
  for (;;) {
    int e = await_free(s, deadline, look);
    if (e) return e;
    if (try_own(s, x, me) == 0) return 0;
  }
}

/* Each call looks at a few slots; all of them together take less than a millisecond. */
void mp_semaphore_tend(const struct mp_semaphore *s, struct mp_member *me) {
  if (owned(load(s)) == 0) return;
  for (uint32_t seen = 0; seen < mp_slots_used(); seen += MP_LOOK_AROUND) mp_look_around(me);
}

int mp_semaphore_disown(struct mp_semaphore *s, struct mp_entry *x, struct mp_member *me) {
  hold(s, me);
  int32_t held = atomic_load_explicit(&x->held, memory_order_relaxed);
  if (held <= 0) {
    mp_lock_release(&s->guard);
    return EPERM;
  }
  atomic_store_explicit(&x->held, held - 1, memory_order_release);
  bool cut = set_owned(s, owned(load(s)) - 1);
  mp_lock_release(&s->guard);
  mp_waitq_wake(&s->waiting, 1);
  return cut ? ERANGE : 0;
}

/* `held` goes first and the rest follows from it, however often this is cut short.  A
 * member that died holding nothing matters when it left guard behind. */
static void died(mp_ref obj, uint32_t word, struct mp_entry *x, struct mp_member *me) {
  struct mp_semaphore *s = mp_at(obj);
  bool holds = atomic_load_explicit(&x->held, memory_order_relaxed) != 0;
  if (!holds && !is_dirty(s) && !mp_lock_mine(&s->guard, word)) return;
  (void)mp_lock_hold(&s->guard, me->word);
  atomic_store_explicit(&x->held, 0, memory_order_relaxed);
  recount(s);
  mp_lock_release(&s->guard);
  mp_waitq_wake(&s->waiting, INT_MAX);
}

const struct mp_kind_ops mp_semaphore_ops = {.died = died};
