/* Synchronisation: locks, semaphores, conditions, events, barriers.
 *
 * Every function that can wait does so for one slice at most and then returns EINTR,
 * so that its caller can run hooks, look for the dead and call again with the same
 * deadline.  `me` is the calling member.  A death is never waited for: who waits asks
 * at the end of each slice, and burial (the `died` of each kind) asks again.
 */
#ifndef MP_IPC_SYNC_H
#define MP_IPC_SYNC_H
#include "../shm/family.h"
#include <limits.h>

/* ---- Lock and RLock ------------------------------------------------------------
 *
 * lock: the truth.  count: how often the owner holds it, the owner's to read and
 * write; whoever takes the lock sets it, so what a dead owner left does not matter.
 * A plain Lock is the same with a count that stays 1.
 */
struct mp_rlock {
  struct mp_lock lock;
  uint32_t count;
};

/* Lock and RLock objects.  Whatever has a lock as its part 1 (a Value, an Array, a
 * Struct, a Condition) begins like this too: a handle of the part finds it. */
struct mp_rlock_object {
  struct mp_object o;
  struct mp_rlock rlock;
};

static inline struct mp_rlock *mp_rlock_at(mp_ref obj) {
  return &((struct mp_rlock_object *)mp_at(obj))->rlock;
}

/* Takes it once more.  0; EOWNERDEAD: taken, its last owner died holding it; EOVERFLOW:
 * held 2^32-1 times already; ETIMEDOUT; EINTR. */
static inline int mp_rlock_take(struct mp_rlock *r, uint32_t me, mp_time deadline) {
  if (mp_lock_mine(&r->lock, me)) {
    if (r->count == UINT32_MAX) return EOVERFLOW;
    r->count++;
    return 0;
  }
  int e = mp_lock_take(&r->lock, me, deadline);
  if (e == 0 || e == EOWNERDEAD) r->count = 1;
  return e;
}

/* 0, or EPERM when `me` does not hold it. */
static inline int mp_rlock_release(struct mp_rlock *r, uint32_t me) {
  if (!mp_lock_mine(&r->lock, me)) return EPERM;
  if (--r->count == 0) mp_lock_release(&r->lock);
  return 0;
}

/* Looks for a moment for the lock to be free, without taking it: for those who were
 * woken by its owner, who is about to let go. */
void mp_rlock_look(const struct mp_rlock *r, struct mp_look *look);

/* ---- Semaphore -----------------------------------------------------------------
 *
 * state: low half `level`, what bare acquires and releases made of the initial value;
 *   high half `owned`, the permits that with and guard took.  Free are level - owned.
 *   Every change is one CAS of the whole word.
 * guard: held while `owned` and somebody's mp_entry.held change together.
 * dirty: 1 when a holder of guard died: `owned` must be counted anew.  Written under
 *   guard.
 * limit: the most that level - owned may become.  Never changes.
 * waiting: those who wait for a permit.
 *
 * The truth about level is the word.  The truth about owned permits is the entries'
 * `held`, each in the reference set of the member that took them; `owned` is their
 * sum and never below it: a taker raises owned, then held; a giver lowers held, then
 * owned.  One that is killed in between leaves owned too high by one, and the guard
 * locked: whoever gets EOWNERDEAD from the guard, or buries a member that held
 * permits, sums anew.  That can be done any number of times, so that a burial which
 * is cut short itself gives no permit back twice.  Summing reads the sets of others
 * and therefore wants the family lock, which comes before guard: hence `dirty`.
 */
struct mp_semaphore {
  struct mp_object o;
  _Atomic uint64_t state;
  struct mp_lock guard;
  _Atomic uint32_t dirty;
  uint32_t limit;
  struct mp_waitq waiting;
};

#define MP_SEMAPHORE_MAX INT32_MAX

void mp_semaphore_init(struct mp_semaphore *s, uint32_t value, uint32_t limit);
uint32_t mp_semaphore_value(const struct mp_semaphore *s);

/* One permit without an owner.  0 or EAGAIN. */
static inline int mp_semaphore_try(struct mp_semaphore *s) {
  uint64_t w = atomic_load_explicit(&s->state, memory_order_relaxed);
  while ((uint32_t)w > (uint32_t)(w >> 32))
    if (atomic_compare_exchange_weak_explicit(&s->state, &w, w - 1, memory_order_seq_cst,
                                              memory_order_relaxed))
      return 0;
  return EAGAIN;
}

/* The same, waiting.  0, ETIMEDOUT or EINTR. */
int mp_semaphore_take(struct mp_semaphore *s, mp_time deadline, struct mp_look *look);
/* n permits more.  0, or ERANGE (nothing changed) when there would be too many. */
int mp_semaphore_give(struct mp_semaphore *s, uint32_t n);

/* One permit that is noted in the entry `x` of `me` and comes back when `me` dies.  0,
 * ETIMEDOUT or EINTR.  No lock may be held. */
int mp_semaphore_own(struct mp_semaphore *s, struct mp_entry *x, struct mp_member *me,
                     mp_time deadline, struct mp_look *look);
/* After EINTR from a wait for a permit: when permits are owned, buries whoever died in
 * the family, one of them may have owned some.  No lock may be held. */
void mp_semaphore_tend(const struct mp_semaphore *s, struct mp_member *me);
/* Gives it back.  0; EPERM: `x` has none; ERANGE: given back, but bare releases had
 * filled the semaphore already, so that nothing was added. */
int mp_semaphore_disown(struct mp_semaphore *s, struct mp_entry *x, struct mp_member *me);

/* ---- Condition -----------------------------------------------------------------
 *
 * own: the lock that it brings along; part 1.
 * lock: the Lock or RLock that it uses instead, counted as a reference; 0: own.  Set
 *   once, before anybody else knows the condition.
 * recursive: that lock is an RLock.  Never changes after lock was set.
 * guard: for everything below, and for wait_next and wait_state of the slots in the
 *   list.
 * first: lock word of the longest waiting; the slots link on by wait_next (lock words
 *   too), 0 ends the list.  The truth.
 * last: derived from it.
 *
 * A waiter's wait_state is WAITING while it looks, SLEEPING when it must be woken,
 * then NOTIFIED.  notify picks the first that is not NOTIFIED yet and lives, so the
 * notified are always at the front.  A waiter is linked before it lets the lock go and
 * unlinked after it has the lock again: if it is killed anywhere between, it is found
 * in the list, and when it was NOTIFIED, its notification goes to the next: by the
 * next notify, by the others at the end of a slice, or by its burial, which comes
 * before its slot can be another's.
 *
 * Linking and unlinking are one store each (first, or a wait_next); after a death
 * under guard only `last` can be wrong and is found again.  A state is one store.  So
 * every state that a kill leaves is whole: the waiters notified so far are notified.
 */
struct mp_condition {
  struct mp_object o;
  struct mp_rlock own;
  mp_ref lock;
  uint32_t recursive;
  struct mp_lock guard;
  _Atomic uint32_t first;
  uint32_t last;
};

/* wait_state of a slot; IDLE also between waits. */
enum mp_wait_state { MP_IDLE, MP_WAITING, MP_SLEEPING, MP_NOTIFIED, MP_BROKEN };

static inline struct mp_rlock *mp_condition_lock(struct mp_condition *c) {
  return c->lock ? mp_rlock_at(c->lock) : &c->own;
}

/* Makes the condition use `lock`, which the caller refers to.  No lock held. */
void mp_condition_use(struct mp_condition *c, mp_ref lock, bool recursive,
                      struct mp_member *me);

/* Whether the member waits already for a condition or a barrier (a hook that runs
 * inside the wait asks): it has one place in one list. */
static inline bool mp_waits(const struct mp_member *me) {
  return atomic_load_explicit(&me->slot->wait_state, memory_order_relaxed) != MP_IDLE;
}

/* The steps of a wait: enter with the lock held; let the lock go; sleep until 0
 * (notified), ETIMEDOUT or EINTR; take the lock; leave, which tells whether it was
 * notified.  With `pass` the notification goes to the next waiter. */
void mp_condition_enter(struct mp_condition *c, struct mp_member *me);
int mp_condition_sleep(struct mp_condition *c, struct mp_member *me, mp_time deadline,
                       struct mp_look *look);
bool mp_condition_leave(struct mp_condition *c, struct mp_member *me, bool pass);

/* Notifies up to n waiters.  The caller holds the lock. */
void mp_condition_notify(struct mp_condition *c, struct mp_member *me, uint32_t n);

/* ---- Event ---------------------------------------------------------------------
 *
 * turns: odd while set; each set and clear adds one, so that a waiter that comes late
 * still sees that the event was set meanwhile.  The whole truth.
 */
struct mp_event {
  struct mp_object o;
  _Atomic uint32_t turns;
  struct mp_waitq waiting;
};

static inline uint32_t mp_event_turns(const struct mp_event *v) {
  return atomic_load_explicit(&v->turns, memory_order_seq_cst);
}
void mp_event_set(struct mp_event *v);
void mp_event_clear(struct mp_event *v);
/* Waits until it is set or was set after `turns` were seen.  0, ETIMEDOUT, EINTR. */
int mp_event_wait(struct mp_event *v, uint32_t turns, mp_time deadline, struct mp_look *look);

/* ---- Barrier -------------------------------------------------------------------
 *
 * turn: the truth, one word: bits 0-15 how many parties wait, 16-17 the phase, 32-63
 *   the cycle.  Changed under guard only.
 * party: lock words of those that wait, in the order of arrival; valid are as many as
 *   turn says.
 * next: 0, or the turn that a break in progress leads to.  Under guard.
 * guard: for all of it.   parties, limit (the default time-out in seconds, negative
 *   none): never change.
 *
 * A cycle ends by one store to turn: the next cycle, nobody waiting.  Its waiters look
 * at the cycle alone.  Whether it was completed or broken is told by each waiter's own
 * wait_state, since turn may have gone on by many cycles before a waiter looks: who
 * breaks a cycle notes where it leads in `next`, sets the wait_state of all waiters to
 * BROKEN, then stores turn.  Nobody acts on BROKEN before turn has changed.  When the
 * breaker is killed, the next to take guard does the rest from `next`; the waiters
 * take it at the end of each slice, when they ask who of them still lives.  The slots
 * of the waiters are theirs: a dead one's place is not given away before its burial,
 * which ends the cycle.
 *
 * Phase ACTING: all are there, and the last one to arrive, party[parties - 1], runs
 * the action.  It does not wait, so its wait_state is left alone; it learns from turn.
 */
struct mp_barrier {
  struct mp_object o;
  _Atomic uint64_t turn;
  _Atomic uint64_t next;
  double limit;
  struct mp_lock guard;
  uint32_t parties;
  struct mp_waitq waiting;
  _Atomic uint32_t party[];
};

enum mp_barrier_phase { MP_FILLING, MP_ACTING, MP_BROKE };

#define MP_BARRIER_MAX (MP_SLOTS - 1) /* more can never meet */

static inline size_t mp_barrier_size(uint32_t parties) {
  return sizeof(struct mp_barrier) + parties * sizeof(uint32_t);
}
static inline uint64_t mp_barrier_turn(const struct mp_barrier *b) {
  return atomic_load_explicit(&b->turn, memory_order_acquire);
}
static inline uint32_t mp_turn_waiting(uint64_t turn) { return turn & 0xffff; }
static inline enum mp_barrier_phase mp_turn_phase(uint64_t turn) {
  return (enum mp_barrier_phase)(turn >> 16 & 3);
}

void mp_barrier_init(struct mp_barrier *b, uint32_t parties, double limit);

/* Comes to the barrier.  0: `me` is party number *place of the cycle *turn and waits
 * (or, as the last one with no action to run, has passed: *place is b->parties);
 * EINPROGRESS: it is the last one and must run the action, then call
 * mp_barrier_acted; EBUSY: the parties before are in their action, wait with
 * mp_barrier_idle(*turn) and come again; EPIPE: the barrier is broken. */
int mp_barrier_enter(struct mp_barrier *b, struct mp_member *me, bool action, uint32_t *place,
                     uint64_t *turn);
/* Waits for the end of the cycle that was entered.  0: all came; EPIPE: broken;
 * ETIMEDOUT (the caller breaks the cycle by mp_barrier_quit); EINTR. */
int mp_barrier_sleep(struct mp_barrier *b, struct mp_member *me, uint64_t turn,
                     mp_time deadline, struct mp_look *look);
/* Waits until turn is another.  0, ETIMEDOUT, EINTR. */
int mp_barrier_idle(struct mp_barrier *b, struct mp_member *me, uint64_t turn,
                    mp_time deadline);
/* Ends a wait that will not be continued: breaks the cycle if it still goes on.  0: it
 * had been completed before; EPIPE. */
int mp_barrier_quit(struct mp_barrier *b, struct mp_member *me, uint64_t turn);
/* The action has run (or failed).  0, or EPIPE: failed, or broken meanwhile. */
int mp_barrier_acted(struct mp_barrier *b, struct mp_member *me, uint64_t turn, bool ok);
/* Breaks it for those who wait and, until a reset, for all who come. */
void mp_barrier_abort(struct mp_barrier *b, struct mp_member *me);
/* Breaks it for those who wait; it is as new for all who come. */
void mp_barrier_reset(struct mp_barrier *b, struct mp_member *me);

extern const struct mp_kind_ops mp_semaphore_ops, mp_condition_ops, mp_barrier_ops;

/* Tells the family about the kinds of this file.  Idempotent. */
void mp_sync_kinds(void);

#endif
