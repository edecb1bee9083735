/* Drives locks, semaphores, conditions, events and barriers without Lua: as processes
 * that work together, that are killed while they hold or wait, and that are killed
 * after every single instruction of an operation. */
#include "ipc/sync.h"
#include "check.h"
#include <pthread.h>

#define SOON (mp_deadline(10)) /* far more than any step needs */

/* Dead, but neither reaped nor buried. */
static void await_death(struct child c) {
  siginfo_t info;
  waitid(P_PID, (id_t)c.pid, &info, WEXITED | WNOWAIT);
}

/* What a binding does: calls the core until it has an answer. */
#define WAIT(call)                                                             \
  __extension__({                                                              \
    int e_;                                                                    \
    while ((e_ = (call)) == EINTR) mp_look_around(&me);                        \
    e_;                                                                        \
  })

/* An object with everything that the checks share. */
struct world {
  mp_ref lock, semaphore, bounded, condition, event, go, barrier;
  _Atomic uint32_t *count;
};

static struct world w;
static uint32_t entries[8];
static _Thread_local uint32_t semaphore_entry;
static int nentries;

struct counted {
  struct mp_rlock_object lock;
  _Atomic uint32_t count[16];
};

static mp_ref make(size_t size, enum mp_kind kind, void (*init)(void *, void *)) {
  mp_ref r = 0;
  uint32_t entry = 0;
  if (mp_object_make(size, kind, &me, init, NULL, &entry, &r) != 0) {
    printf("sync_check: cannot make an object\n");
    exit(1);
  }
  entries[nentries++] = entry;
  if (kind == MP_KIND_SEMAPHORE) semaphore_entry = entry;
  return r;
}

static void init_semaphore(void *p, void *arg) {
  (void)arg;
  mp_semaphore_init(p, 3, MP_SEMAPHORE_MAX);
}
static void init_bounded(void *p, void *arg) {
  (void)arg;
  mp_semaphore_init(p, 1, 1);
}
static void init_condition(void *p, void *arg) {
  (void)arg;
  ((struct mp_condition *)p)->recursive = 1;
}
#define PARTIES 3
static void init_barrier(void *p, void *arg) {
  (void)arg;
  mp_barrier_init(p, PARTIES, -1);
}

static void make_world(void) {
  w.lock = make(sizeof(struct counted), MP_KIND_LOCK, NULL);
  w.semaphore = make(sizeof(struct mp_semaphore), MP_KIND_SEMAPHORE, init_semaphore);
  w.bounded = make(sizeof(struct mp_semaphore), MP_KIND_BOUNDED, init_bounded);
  w.condition = make(sizeof(struct mp_condition), MP_KIND_CONDITION, init_condition);
  w.event = make(sizeof(struct mp_event), MP_KIND_EVENT, NULL);
  w.go = make(sizeof(struct mp_event), MP_KIND_EVENT, NULL);
  w.barrier = make(mp_barrier_size(PARTIES), MP_KIND_BARRIER, init_barrier);
  w.count = ((struct counted *)mp_at(w.lock))->count;
}

static void drop_world(void) {
  struct mp_arena_stats before, after;
  mp_arena_stats(&before, me.word);
  while (nentries > 0) mp_drop(entries[--nentries], &me);
  mp_arena_stats(&after, me.word);
  for (int k = MP_KIND_LOCK; k <= MP_KIND_BARRIER; k++) CHECK(after.blocks[k] == 0);
  CHECK(after.used < before.used);
}

static struct mp_rlock *the_lock(void) { return mp_rlock_at(w.lock); }
static struct mp_semaphore *the_semaphore(void) { return mp_at(w.semaphore); }
static struct mp_condition *the_condition(void) { return mp_at(w.condition); }
static struct mp_barrier *the_barrier(void) { return mp_at(w.barrier); }

static void set_event(mp_ref r) { mp_event_set(mp_at(r)); }
static void await_event(mp_ref r) {
  struct mp_look look = {0};
  CHECK(WAIT(mp_event_wait(mp_at(r), mp_event_turns(mp_at(r)), SOON, &look)) == 0);
}
/* Waits until counter i is n. */
static void await_count(int i, uint32_t n) {
  mp_time end = SOON;
  while (atomic_load(&w.count[i]) != n && mp_now() < end) usleep(200);
  CHECK(atomic_load(&w.count[i]) == n);
}
static void add(int i) { atomic_fetch_add(&w.count[i], 1); }
static void reset_counts(void) {
  for (int i = 0; i < 16; i++) atomic_store(&w.count[i], 0);
  mp_event_clear(mp_at(w.event));
  mp_event_clear(mp_at(w.go));
}

/* ---- locks ----------------------------------------------------------------------------- */

#define ROUNDS 20000

/* The counter is read and written in two steps. */
static void hammer(void) {
  for (int i = 0; i < ROUNDS; i++) {
    int e = WAIT(mp_rlock_take(the_lock(), me.word, SOON));
    CHECK(e == 0);
    uint32_t n = atomic_load_explicit(&w.count[0], memory_order_relaxed);
    atomic_store_explicit(&w.count[0], n + 1, memory_order_relaxed);
    mp_rlock_release(the_lock(), me.word);
  }
}

static void check_exclusion(void) {
  struct child c[4];
  reset_counts();
  for (int i = 0; i < 4; i++) c[i] = start(hammer);
  for (int i = 0; i < 4; i++) CHECK(finish(c[i], 0) == 0);
  CHECK(atomic_load(&w.count[0]) == 4 * ROUNDS);
}

static void hold_lock(void) {
  CHECK(mp_rlock_take(the_lock(), me.word, SOON) == 0);
  CHECK(mp_rlock_take(the_lock(), me.word, SOON) == 0);
  set_event(w.event);
  for (;;) pause();
}

static void check_dead_holder(void) {
  reset_counts();
  struct child c = start(hold_lock);
  await_event(w.event);
  CHECK(WAIT(mp_rlock_take(the_lock(), me.word, mp_deadline(0.05))) == ETIMEDOUT);
  CHECK(mp_rlock_release(the_lock(), me.word) == EPERM);
  kill(c.pid, SIGKILL);
  CHECK(WAIT(mp_rlock_take(the_lock(), me.word, SOON)) == EOWNERDEAD);
  CHECK(the_lock()->count == 1);
  CHECK(mp_rlock_release(the_lock(), me.word) == 0);
  CHECK(mp_rlock_take(the_lock(), me.word, MP_NEVER) == 0);
  CHECK(mp_rlock_release(the_lock(), me.word) == 0);
  finish(c, 0);
}

/* ---- semaphores ------------------------------------------------------------------------ */

static int own(void) {
  struct mp_look look = {0};
  struct mp_entry *x = mp_entry_at(&me, semaphore_entry);
  return WAIT(mp_semaphore_own(the_semaphore(), x, &me, SOON, &look));
}
static int disown(void) {
  return mp_semaphore_disown(the_semaphore(), mp_entry_at(&me, semaphore_entry), &me);
}

static void hold_permits(void) {
  CHECK(own() == 0);
  CHECK(own() == 0);
  CHECK(mp_semaphore_try(the_semaphore()) == 0);
  set_event(w.event);
  for (;;) pause();
}

static void check_semaphore(void) {
  struct mp_look look = {0};
  reset_counts();
  struct child c = start(hold_permits);
  await_event(w.event);
  CHECK(mp_semaphore_value(the_semaphore()) == 0);
  CHECK(WAIT(mp_semaphore_take(the_semaphore(), mp_deadline(0.05), &look)) == ETIMEDOUT);
  CHECK(disown() == EPERM);
  finish(c, SIGKILL);
  CHECK(mp_semaphore_value(the_semaphore()) == 2); /* the bare one has no owner */
  CHECK(mp_semaphore_give(the_semaphore(), 1) == 0);
  CHECK(own() == 0);
  CHECK(disown() == 0);
  CHECK(mp_semaphore_value(the_semaphore()) == 3);
  CHECK(mp_semaphore_give(mp_at(w.bounded), 1) == ERANGE);
  CHECK(mp_semaphore_try(mp_at(w.bounded)) == 0);
  CHECK(mp_semaphore_try(mp_at(w.bounded)) == EAGAIN);
  CHECK(mp_semaphore_give(mp_at(w.bounded), 1) == 0);
}

/* ---- conditions ------------------------------------------------------------------------ */

static int condition_wait(mp_time deadline) {
  struct mp_condition *c = the_condition();
  struct mp_rlock *r = mp_condition_lock(c);
  struct mp_look look = {0};
  mp_condition_enter(c, &me);
  mp_lock_release(&r->lock);
  add(1);
  (void)WAIT(mp_condition_sleep(c, &me, deadline, &look));
  (void)WAIT(mp_lock_take(&r->lock, me.word, MP_FOREVER));
  r->count = 1;
  return mp_condition_leave(c, &me, false);
}

static void lock_condition(void) {
  int e = WAIT(mp_rlock_take(mp_condition_lock(the_condition()), me.word, SOON));
  CHECK(e == 0 || e == EOWNERDEAD);
}
static void unlock_condition(void) {
  CHECK(mp_rlock_release(mp_condition_lock(the_condition()), me.word) == 0);
}

/* Tells by counter 2 that it was notified. */
static void waiter(void) {
  lock_condition();
  bool notified = condition_wait(SOON);
  unlock_condition();
  CHECK(notified);
  if (notified) add(2);
}

static void notify(uint32_t n) {
  lock_condition();
  mp_condition_notify(the_condition(), &me, n);
  unlock_condition();
}

static void check_condition(void) {
  struct child c[4];
  reset_counts();
  lock_condition();
  CHECK(!condition_wait(MP_NEVER));
  CHECK(!condition_wait(mp_deadline(0.02)));
  unlock_condition();
  reset_counts();
  for (int i = 0; i < 4; i++) c[i] = start(waiter);
  await_count(1, 4);
  notify(1);
  await_count(2, 1);
  notify(2);
  await_count(2, 3);
  notify(UINT32_MAX);
  await_count(2, 4);
  for (int i = 0; i < 4; i++) CHECK(finish(c[i], 0) == 0);
  notify(1);
  CHECK(!mp_waits(&me));
}

/* A waiter that was killed, or notified and killed before it could run, does not take
 * the notification with it. */
static void check_dead_waiter(bool notified, bool buried) {
  reset_counts();
  struct child first = start(waiter);
  await_count(1, 1);
  struct child second = start(waiter);
  await_count(1, 2);
  if (notified) {
    kill(first.pid, SIGSTOP);
    notify(1);
    kill(first.pid, SIGKILL);
  } else {
    kill(first.pid, SIGKILL);
    await_death(first);
    notify(1);
  }
  if (buried) finish(first, 0);
  await_count(2, 1);
  CHECK(finish(second, 0) == 0);
  if (!buried) finish(first, 0);
  CHECK(atomic_load(&the_condition()->first) == 0);
}

/* ---- barriers -------------------------------------------------------------------------- */

#define CYCLES 2000

static int pass(mp_time deadline, uint32_t *place) {
  struct mp_look look = {0};
  uint64_t turn;
  int e = mp_barrier_enter(the_barrier(), &me, false, place, &turn);
  if (e || *place == PARTIES) return e;
  e = WAIT(mp_barrier_sleep(the_barrier(), &me, turn, deadline, &look));
  return e == ETIMEDOUT ? mp_barrier_quit(the_barrier(), &me, turn) : e;
}

/* Nobody is more than one cycle ahead. */
static void runner(void) {
  uint32_t place;
  for (uint32_t i = 1; i <= CYCLES; i++) {
    add(0);
    int e = pass(SOON, &place);
    CHECK(e == 0);
    uint32_t n = atomic_load(&w.count[0]);
    CHECK(n >= i * PARTIES && n < (i + 1) * PARTIES);
    if (e) return;
  }
}

static void party(void) {
  uint32_t place;
  add(0);
  CHECK(pass(SOON, &place) == EPIPE);
}

static void await_parties(uint32_t n) {
  mp_time end = SOON;
  while (mp_turn_waiting(mp_barrier_turn(the_barrier())) < n && mp_now() < end) usleep(200);
}

static void check_barrier(void) {
  struct child c[PARTIES];
  uint32_t place;
  reset_counts();
  for (int i = 0; i < PARTIES; i++) c[i] = start(runner);
  for (int i = 0; i < PARTIES; i++) CHECK(finish(c[i], 0) == 0);

  for (int buried = 0; buried < 2; buried++) { /* a party dies */
    reset_counts();
    c[0] = start(party);
    c[1] = start(party);
    await_parties(2);
    kill(c[0].pid, SIGKILL);
    if (buried) finish(c[0], 0);
    CHECK(finish(c[1], 0) == 0);
    if (!buried) finish(c[0], 0);
    CHECK(pass(SOON, &place) == EPIPE);
    mp_barrier_reset(the_barrier(), &me);
  }
  CHECK(pass(mp_deadline(0.02), &place) == EPIPE);
  CHECK(pass(SOON, &place) == EPIPE);
  mp_barrier_reset(the_barrier(), &me);
}

/* The last one finds that one before it died waiting. */
static void check_dead_party(void) {
  struct child c[2];
  uint32_t place;
  for (int i = 0; i < 2; i++) c[i] = start(party);
  await_parties(2);
  for (int i = 0; i < 2; i++) kill(c[i].pid, SIGSTOP);
  for (int i = 0; i < 2; i++) kill(c[i].pid, SIGKILL);
  for (int i = 0; i < 2; i++) await_death(c[i]);
  CHECK(pass(SOON, &place) == EPIPE);
  for (int i = 0; i < 2; i++) finish(c[i], 0);
  mp_barrier_reset(the_barrier(), &me);
}

/* ---- events ---------------------------------------------------------------------------- */

static void check_event(void) {
  struct mp_event *v = mp_at(w.event);
  struct mp_look look = {0};
  reset_counts();
  uint32_t turns = mp_event_turns(v);
  CHECK(WAIT(mp_event_wait(v, turns, MP_NEVER, &look)) == ETIMEDOUT);
  CHECK(WAIT(mp_event_wait(v, turns, mp_deadline(0.02), &look)) == ETIMEDOUT);
  mp_event_set(v);
  mp_event_set(v);
  CHECK(mp_event_wait(v, turns, MP_NEVER, &look) == 0);
  mp_event_clear(v);
  CHECK(mp_event_wait(v, turns, MP_NEVER, &look) == 0); /* it was set meanwhile */
  CHECK(mp_event_wait(v, mp_event_turns(v), MP_NEVER, &look) == ETIMEDOUT);
}

/* ---- as threads, for the thread sanitizer ---------------------------------------------- */

#define TURNS 2000

static void thread_turn(uint32_t i) {
  struct mp_look look = {0};
  uint32_t place;
  CHECK(WAIT(mp_rlock_take(the_lock(), me.word, SOON)) == 0);
  uint32_t n = atomic_load_explicit(&w.count[0], memory_order_relaxed);
  atomic_store_explicit(&w.count[0], n + 1, memory_order_relaxed);
  mp_rlock_release(the_lock(), me.word);
  CHECK(own() == 0);
  CHECK(WAIT(mp_semaphore_take(the_semaphore(), SOON, &look)) == 0);
  CHECK(mp_semaphore_give(the_semaphore(), 1) == 0);
  CHECK(disown() == 0);
  lock_condition();
  mp_condition_notify(the_condition(), &me, 1);
  if (i % 100 == 0) (void)condition_wait(mp_deadline(0.001));
  unlock_condition();
  CHECK(pass(SOON, &place) == 0);
}

static void *thread(void *arg) {
  (void)arg;
  CHECK(mp_member_open(&me, "thread") == 0);
  CHECK(mp_refer(w.semaphore, &me, &semaphore_entry) == 0);
  for (uint32_t i = 0; i < TURNS; i++) thread_turn(i);
  mp_member_close(&me, -1);
  return NULL;
}

/* 4 permits for 3 that take 2 each: they wait for one another, and one always can go
 * on. */
static void check_threads(void) {
  pthread_t t[PARTIES];
  reset_counts();
  CHECK(mp_semaphore_give(the_semaphore(), 1) == 0);
  for (int i = 0; i < PARTIES; i++) CHECK(pthread_create(&t[i], NULL, thread, NULL) == 0);
  for (int i = 0; i < PARTIES; i++) pthread_join(t[i], NULL);
  CHECK(atomic_load(&w.count[0]) == PARTIES * TURNS);
  CHECK(mp_semaphore_try(the_semaphore()) == 0);
  CHECK(mp_semaphore_value(the_semaphore()) == 3);
}

/* ---- killed after every instruction ---------------------------------------------------- */

static void op_semaphore(void) {
  (void)own();
  (void)disown();
}
static void see_semaphore(void) {
  CHECK(own() == 0); /* repairs, when nobody has been buried */
  CHECK(disown() == 0);
  mp_look_around(&me);
  mp_collect(&me);
  CHECK(mp_semaphore_value(the_semaphore()) == 3);
}

/* Enters and leaves with another one in the list, which must be there after it. */
static void op_condition(void) {
  struct mp_condition *c = the_condition();
  mp_condition_enter(c, &me);
  mp_condition_notify(c, &me, 1);
  (void)mp_condition_leave(c, &me, true);
}
static void see_condition(void) {
  struct mp_condition *c = the_condition();
  mp_condition_enter(c, &me);
  mp_condition_notify(c, &me, 1);
  struct mp_look look = {0};
  CHECK(mp_condition_sleep(c, &me, MP_NEVER, &look) == 0);
  CHECK(mp_condition_leave(c, &me, false));
  mp_collect(&me);
  CHECK(atomic_load(&c->first) == 0 && c->last == 0);
}

static void op_barrier(void) {
  uint32_t place;
  uint64_t turn;
  if (mp_barrier_enter(the_barrier(), &me, false, &place, &turn) == 0)
    (void)mp_barrier_quit(the_barrier(), &me, turn);
  mp_barrier_reset(the_barrier(), &me);
}
/* One that comes now is alone, or hears at once that it is broken. */
static void see_barrier(void) {
  struct mp_barrier *b = the_barrier();
  uint32_t place;
  uint64_t turn;
  struct mp_look look = {0};
  int e = mp_barrier_enter(b, &me, false, &place, &turn);
  CHECK(e == 0 || e == EPIPE);
  if (e == 0) {
    mp_collect(&me);
    if (place == 1) CHECK(mp_barrier_sleep(b, &me, turn, MP_NEVER, &look) == ETIMEDOUT);
    else CHECK(mp_barrier_sleep(b, &me, turn, SOON, &look) == EPIPE);
    (void)mp_barrier_quit(b, &me, turn);
  }
  CHECK(!mp_waits(&me));
  mp_collect(&me);
  mp_barrier_reset(b, &me);
  CHECK(mp_barrier_turn(b) << 32 == 0 && atomic_load(&b->next) == 0);
}

static struct mp_event *an_event(void) { return mp_at(w.event); }

static void prepare_event(void) { mp_event_clear(an_event()); }

/* Somebody waits, another one sets it: either may be killed. */
static void op_event_wait(void) {
  struct mp_look look = {0};
  (void)mp_event_wait(an_event(), mp_event_turns(an_event()), mp_deadline(2e-3), &look);
}
static void op_event_set(void) { mp_event_set(an_event()); }

static void see_event(void) {
  struct mp_look look = {0};
  uint32_t turns = mp_event_turns(an_event());
  mp_event_set(an_event());
  CHECK(mp_event_wait(an_event(), turns, SOON, &look) == 0);
  mp_collect(&me);
}

int main(void) {
  if (mp_member_open(&me, "main") != 0) return 1;
  mp_sync_kinds();
  make_world();
  check_exclusion();
  check_dead_holder();
  check_semaphore();
  check_condition();
  check_dead_waiter(false, false);
  check_dead_waiter(false, true);
  check_dead_waiter(true, false);
  check_dead_waiter(true, true);
  check_barrier();
  check_dead_party();
  check_event();
  check_threads();
  crash_all("semaphore", NULL, op_semaphore, see_semaphore);
  crash_all("condition", NULL, op_condition, see_condition);
  crash_all("barrier", NULL, op_barrier, see_barrier);
  crash_all("event, wait", prepare_event, op_event_wait, see_event);
  crash_all("event, set", prepare_event, op_event_set, see_event);
  drop_world();
  mp_member_close(&me, -1);
  return report("sync_check");
}
