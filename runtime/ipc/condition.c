/* Conditions. */
#include "sync.h"

/* The count goes up before the reference appears, so it is never too low. */
void mp_condition_use(struct mp_condition *c, mp_ref lock, bool recursive,
                      struct mp_member *me) {
  mp_family_lock(me);
  mp_count_up(lock);
  c->recursive = recursive;
  c->lock = lock;
  mp_family_unlock();
}

/* ---- the list of waiters --------------------------------------------------------------- */

static struct mp_slot *slot_of(uint32_t word) {
  return (struct mp_slot *)(uintptr_t)mp_slot_at(mp_word_slot(word));
}

static uint32_t next_of(uint32_t word) {
  return atomic_load_explicit(&slot_of(word)->wait_next, memory_order_relaxed);
}

static uint32_t state_of(uint32_t word) {
  return atomic_load_explicit(&slot_of(word)->wait_state, memory_order_acquire);
}

static uint32_t first_of(const struct mp_condition *c) {
  return atomic_load_explicit(&c->first, memory_order_relaxed);
}

/* Takes guard; after a death in it `last` is found again. */
static void hold(struct mp_condition *c, struct mp_member *me) {
  if (!mp_lock_hold(&c->guard, me->word)) return;
  c->last = first_of(c);
  for (uint32_t w = c->last; w; w = next_of(w)) c->last = w;
}

/* Puts `to` behind `prev` (0: at the front): the one store that changes the list. */
static void link_after(struct mp_condition *c, uint32_t prev, uint32_t to) {
  atomic_store_explicit(prev ? &slot_of(prev)->wait_next : &c->first, to,
                        memory_order_release);
}

static void unlink_after(struct mp_condition *c, uint32_t prev, uint32_t word) {
  link_after(c, prev, next_of(word));
  if (c->last == word) c->last = prev;
}

/* Whether `word` is in the list, and behind whom. */
static bool find(const struct mp_condition *c, uint32_t word, uint32_t *prev) {
  uint32_t w = first_of(c);
  for (*prev = 0; w && w != word; w = next_of(w)) *prev = w;
  return w != 0;
}

/* Notifies the first n that live and are not notified yet.  The dead among those that
 * are passed leave the list. */
static void notify_locked(struct mp_condition *c, uint32_t n) {
  uint32_t prev = 0, next;
  for (uint32_t w = first_of(c); w && n; w = next) {
    next = next_of(w);
    if (state_of(w) == MP_NOTIFIED) {
      prev = w;
    } else if (!mp_alive(w)) {
      unlink_after(c, prev, w);
    } else {
      _Atomic uint32_t *s = &slot_of(w)->wait_state;
      if (atomic_exchange_explicit(s, MP_NOTIFIED, memory_order_seq_cst) == MP_SLEEPING)
        (void)mp_futex_wake(s, 1);
      prev = w;
      n--;
    }
  }
}

/* Takes `word` out.  A notification that it cannot use goes on first: a kill between
 * the two stores makes one wake-up too many, not one too few. */
static void remove_locked(struct mp_condition *c, uint32_t word, bool pass) {
  uint32_t prev;
  if (!find(c, word, &prev)) return;
  if (pass && state_of(word) == MP_NOTIFIED) notify_locked(c, 1);
  if (find(c, word, &prev)) unlink_after(c, prev, word);
}

/* At the end of a slice: a notified waiter that died before it could go on.  The
 * notified are at the front. */
static void relieve(struct mp_condition *c, struct mp_member *me) {
  uint32_t next, w = first_of(c);
  if (!w || w == me->word || state_of(w) != MP_NOTIFIED) return;
  hold(c, me);
  for (w = first_of(c); w && w != me->word && state_of(w) == MP_NOTIFIED; w = next) {
    next = next_of(w);
    if (!mp_alive(w)) remove_locked(c, w, true);
  }
  mp_lock_release(&c->guard);
}

/* ---- waiting and notifying ------------------------------------------------------------- */

void mp_condition_enter(struct mp_condition *c, struct mp_member *me) {
  hold(c, me);
  atomic_store_explicit(&me->slot->wait_next, 0, memory_order_relaxed);
  atomic_store_explicit(&me->slot->wait_state, MP_WAITING, memory_order_relaxed);
  link_after(c, c->last, me->word);
  c->last = me->word;
  mp_lock_release(&c->guard);
}

static bool notified(const void *p) {
  const struct mp_slot *s = p;
  return atomic_load_explicit(&s->wait_state, memory_order_acquire) == MP_NOTIFIED;
}

int mp_condition_sleep(struct mp_condition *c, struct mp_member *me, mp_time deadline,
                       struct mp_look *look) {
  struct mp_slot *s = me->slot;
  uint32_t waiting = MP_WAITING;
  if (notified(s)) return 0;
  if (deadline == MP_NEVER) return ETIMEDOUT;
  if (mp_look_for(look, notified, s)) return 0;
  atomic_compare_exchange_strong(&s->wait_state, &waiting, MP_SLEEPING);
  mp_time now = mp_now(), slice = now + MP_SLICE_NS;
  while (!notified(s)) {
    int e = mp_futex_wait(&s->wait_state, MP_SLEEPING, slice < deadline ? slice : deadline);
    if (notified(s)) return 0;
    if (e == EINTR) return EINTR;
    if (e != ETIMEDOUT) continue;
    relieve(c, me);
    return notified(s) ? 0 : slice < deadline ? EINTR : ETIMEDOUT;
  }
  return 0;
}

bool mp_condition_leave(struct mp_condition *c, struct mp_member *me, bool pass) {
  hold(c, me);
  bool was = notified(me->slot);
  remove_locked(c, me->word, pass);
  atomic_store_explicit(&me->slot->wait_state, MP_IDLE, memory_order_relaxed);
  mp_lock_release(&c->guard);
  return was;
}

void mp_condition_notify(struct mp_condition *c, struct mp_member *me, uint32_t n) {
  if (first_of(c) == 0) return; /* who waits has entered while it held our lock */
  hold(c, me);
  notify_locked(c, n);
  mp_lock_release(&c->guard);
}

/* ---- what the family asks -------------------------------------------------------------- */

static void trace(mp_ref obj, struct mp_member *me) {
  (void)me;
  struct mp_condition *c = mp_at(obj);
  if (c->lock) mp_mark_object(c->lock);
}

static void destroy(mp_ref obj, struct mp_member *me) {
  struct mp_condition *c = mp_at(obj);
  if (c->lock) mp_count_down(c->lock, me);
}

static void died(mp_ref obj, uint32_t word, struct mp_entry *x, struct mp_member *me) {
  (void)x;
  struct mp_condition *c = mp_at(obj);
  if (first_of(c) == 0 && !mp_lock_mine(&c->guard, word)) return;
  hold(c, me);
  remove_locked(c, word, true);
  mp_lock_release(&c->guard);
}

const struct mp_kind_ops mp_condition_ops = {.trace = trace, .destroy = destroy, .died = died};
