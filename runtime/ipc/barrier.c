/* Barriers. */
#include "sync.h"

static uint64_t turn_of(uint64_t cycle, enum mp_barrier_phase p, uint32_t n) {
  return cycle << 32 | (uint64_t)p << 16 | n;
}

/* The turn that opens the cycle after `turn`'s.  No cycle is number 0, so that no turn
 * is. */
static uint64_t after(uint64_t turn, enum mp_barrier_phase p) {
  uint32_t cycle = (uint32_t)(turn >> 32) + 1;
  return turn_of(cycle ? cycle : 1, p, 0);
}

static bool same_cycle(uint64_t a, uint64_t b) { return a >> 32 == b >> 32; }

static void go_to(struct mp_barrier *b, uint64_t turn) {
  atomic_store_explicit(&b->turn, turn, memory_order_seq_cst);
}

void mp_barrier_init(struct mp_barrier *b, uint32_t parties, double limit) {
  atomic_store_explicit(&b->turn, turn_of(1, MP_FILLING, 0), memory_order_relaxed);
  b->parties = parties;
  b->limit = limit;
}

/* ---- breaking -------------------------------------------------------------------------- */

static struct mp_slot *slot_of(uint32_t word) {
  return (struct mp_slot *)(uintptr_t)mp_slot_at(mp_word_slot(word));
}

static uint32_t party(const struct mp_barrier *b, uint32_t i) {
  return atomic_load_explicit(&b->party[i], memory_order_relaxed);
}

/* The second half of a break, from b->next; may be done again from any point on. */
static void finish_break(struct mp_barrier *b) {
  uint64_t turn = mp_barrier_turn(b);
  uint64_t next = atomic_load_explicit(&b->next, memory_order_relaxed);
  if (next == 0) return;
  if (turn != next) {
    uint32_t n = mp_turn_waiting(turn);
    if (mp_turn_phase(turn) == MP_ACTING) n--; /* the last one acts, it does not wait */
    for (uint32_t i = 0; i < n; i++)
      atomic_store_explicit(&slot_of(party(b, i))->wait_state, MP_BROKEN,
                            memory_order_relaxed);
    go_to(b, next);
  }
  atomic_store_explicit(&b->next, 0, memory_order_release);
}

static void break_locked(struct mp_barrier *b, enum mp_barrier_phase phase) {
  atomic_store_explicit(&b->next, after(mp_barrier_turn(b), phase), memory_order_release);
  finish_break(b);
}

static void hold(struct mp_barrier *b, struct mp_member *me) {
  if (!mp_lock_hold(&b->guard, me->word)) return;
  finish_break(b);
  mp_waitq_wake(&b->waiting, INT_MAX); /* the dead may have owed this too */
}

static void let_go(struct mp_barrier *b) {
  mp_lock_release(&b->guard);
  mp_waitq_wake(&b->waiting, INT_MAX);
}

static bool all_live(const struct mp_barrier *b, uint32_t n) {
  while (n > 0 && mp_alive(party(b, n - 1))) n--;
  return n == 0;
}

/* At the end of a slice: does everybody live who is counted on? */
static void check_parties(struct mp_barrier *b, struct mp_member *me, uint64_t cycle) {
  hold(b, me);
  uint64_t turn = mp_barrier_turn(b);
  bool broken = same_cycle(turn, cycle) && !all_live(b, mp_turn_waiting(turn));
  if (broken) break_locked(b, MP_BROKE);
  mp_lock_release(&b->guard);
  if (broken) mp_waitq_wake(&b->waiting, INT_MAX);
}

/* ---- coming, waiting, going ------------------------------------------------------------ */

/* The last one is there: ends the cycle, unless one that came before died waiting. */
static int complete(struct mp_barrier *b, struct mp_member *me, bool action, uint64_t *turn) {
  if (!all_live(b, b->parties - 1)) {
    break_locked(b, MP_BROKE);
    return EPIPE;
  }
  if (!action) {
    go_to(b, after(*turn, MP_FILLING));
    return 0;
  }
  atomic_store_explicit(&b->party[b->parties - 1], me->word, memory_order_relaxed);
  *turn = turn_of(*turn >> 32, MP_ACTING, b->parties);
  go_to(b, *turn);
  return EINPROGRESS;
}

/* Under guard, in phase FILLING. */
static int arrive(struct mp_barrier *b, struct mp_member *me, bool action, uint32_t *place,
                  uint64_t *turn) {
  uint32_t n = mp_turn_waiting(*turn);
  *place = n + 1;
  if (n + 1 == b->parties) return complete(b, me, action, turn);
  atomic_store_explicit(&b->party[n], me->word, memory_order_relaxed);
  atomic_store_explicit(&me->slot->wait_state, MP_WAITING, memory_order_relaxed);
  go_to(b, *turn + 1);
  return 0;
}

int mp_barrier_enter(struct mp_barrier *b, struct mp_member *me, bool action, uint32_t *place,
                     uint64_t *turn) {
  int e;
  hold(b, me);
  *turn = mp_barrier_turn(b);
  switch (mp_turn_phase(*turn)) {
  case MP_FILLING: e = arrive(b, me, action, place, turn); break;
  case MP_ACTING: e = EBUSY; break;
  default: e = EPIPE;
  }
  bool over = !same_cycle(mp_barrier_turn(b), *turn);
  mp_lock_release(&b->guard);
  if (over) mp_waitq_wake(&b->waiting, INT_MAX);
  return e;
}

struct watch {
  const struct mp_barrier *barrier;
  uint64_t turn;
};

static bool cycle_over(const void *p) {
  const struct watch *w = p;
  return !same_cycle(mp_barrier_turn(w->barrier), w->turn);
}

/* The cycle is over: how it went for `me`. */
static int outcome(struct mp_member *me) {
  uint32_t s = atomic_exchange_explicit(&me->slot->wait_state, MP_IDLE, memory_order_acquire);
  return s == MP_BROKEN ? EPIPE : 0;
}

/* Sleeps until the cycle is over: 0, ETIMEDOUT, EINTR. */
static int sleep_out(struct mp_barrier *b, struct mp_member *me, const struct watch *w,
                     mp_time deadline) {
  for (;;) {
    uint32_t seen = mp_waitq_begin(&b->waiting);
    if (cycle_over(w)) return 0;
    int e = mp_waitq_sleep(&b->waiting, seen, deadline);
    if (e == EINTR) check_parties(b, me, w->turn);
    if (cycle_over(w)) return 0;
    if (e) return e;
  }
}

int mp_barrier_sleep(struct mp_barrier *b, struct mp_member *me, uint64_t turn,
                     mp_time deadline, struct mp_look *look) {
  struct watch w = {b, turn};
  int e = 0;
  if (!cycle_over(&w)) {
    if (deadline == MP_NEVER) return ETIMEDOUT;
    if (!mp_look_for(look, cycle_over, &w)) e = sleep_out(b, me, &w, deadline);
  }
  return e ? e : outcome(me);
}

int mp_barrier_idle(struct mp_barrier *b, struct mp_member *me, uint64_t turn,
                    mp_time deadline) {
  struct watch w = {b, turn};
  return sleep_out(b, me, &w, deadline);
}

int mp_barrier_quit(struct mp_barrier *b, struct mp_member *me, uint64_t turn) {
  hold(b, me);
  if (same_cycle(mp_barrier_turn(b), turn)) break_locked(b, MP_BROKE);
  let_go(b);
  return outcome(me);
}

int mp_barrier_acted(struct mp_barrier *b, struct mp_member *me, uint64_t turn, bool ok) {
  hold(b, me);
  bool mine = mp_barrier_turn(b) == turn;
  if (mine && ok) go_to(b, after(turn, MP_FILLING));
  else if (mine) break_locked(b, MP_BROKE);
  let_go(b);
  return mine && ok ? 0 : EPIPE;
}

void mp_barrier_abort(struct mp_barrier *b, struct mp_member *me) {
  hold(b, me);
  if (mp_turn_phase(mp_barrier_turn(b)) != MP_BROKE) break_locked(b, MP_BROKE);
  let_go(b);
}

void mp_barrier_reset(struct mp_barrier *b, struct mp_member *me) {
  hold(b, me);
  break_locked(b, MP_FILLING);
  let_go(b);
}

/* ---- what the family asks -------------------------------------------------------------- */

static void died(mp_ref obj, uint32_t word, struct mp_entry *x, struct mp_member *me) {
  (void)x;
  struct mp_barrier *b = mp_at(obj);
  if (mp_turn_waiting(mp_barrier_turn(b)) == 0 && !mp_lock_mine(&b->guard, word)) return;
  hold(b, me);
  uint32_t n = mp_turn_waiting(mp_barrier_turn(b)), i = 0;
  while (i < n && party(b, i) != word) i++;
  if (i < n) break_locked(b, MP_BROKE);
  let_go(b);
}

const struct mp_kind_ops mp_barrier_ops = {.died = died};
