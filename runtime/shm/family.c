/* Slots, births and deaths, and the references between processes and objects.
 *
 * Slots.  A slot's word (state and generation) is the truth.  A lock word names slot
 * and generation, so that what a dead process left behind is never taken for its
 * successor's.  A slot lives while its process does, which is asked of the kernel: a
 * live member holds a POSIX record lock on byte N of the arena's file, which the
 * kernel drops at death, before anybody reaps, and which no child inherits.
 *
 * References.  The truth is the set of entries of each live slot, the reference
 * lists of messages and the references between objects.  `count` in an object's
 * block is a hint that is never too low: up before the reference appears, down after
 * it went.  All of it changes under the family lock only; who takes that lock from a
 * dead owner counts everything anew.
 *
 * Births.  The parent makes the child's slot and a copy of its own set, then forks;
 * the child makes BORN LIVE with one CAS, and exits if it fails: then its parent died
 * and somebody has buried it already.
 */
#include "family.h"
#include "../os/guard.h"
#include "../os/life.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum slot_state { FREE, BORN, LIVE, DONE, DEAD };

#define GENERATIONS 0x7ffffu
#define TABLE_BYTES 1024
#define FIRST_TABLE_BYTES 256

/* The family's page.  lock: the family lock; the rest is under it but for `deaths`
 * and `slots_used`, which are read by anyone. */
struct family {
  struct mp_lock lock;
  uint32_t epoch; /* of the last marking */
  uint64_t serial;
  _Atomic uint32_t slots_used;
  _Atomic uint32_t deaths;
  _Atomic uint32_t first_free; /* no slot below it is free (a hint) */
  uint32_t started;
  unsigned char nonce[16];
};

/* Part of a reference set; the blocks of a set form a list by `next`, which the
 * member alone extends. */
struct table {
  struct mp_block block;
  _Atomic uint32_t next;
  uint32_t n;
  struct mp_entry entry[];
};

_Static_assert(offsetof(struct mp_slot, word) == 0 && offsetof(struct mp_slot, pid) == 4,
               "note_pid takes both at once");

static struct mp_member *members; /* of this process */
static pthread_mutex_t members_lock = PTHREAD_MUTEX_INITIALIZER;
__attribute__((constructor)) static void guard(void) { mp_guard(MP_GUARD_MEMBERS, &members_lock); }
static bool forked_by_others;
static _Thread_local bool our_fork; /* the handlers of a fork run in the thread that forks */
static const struct mp_kind_ops *_Atomic kinds[MP_KIND_OBJECTS];

static struct family *family(void) { return mp_arena_family(); }
static struct mp_slot *slot_at(uint32_t i) { return (struct mp_slot *)mp_arena_slots() + i; }
static struct mp_slot *slot_of(uint32_t word) { return slot_at(mp_word_slot(word)); }
static uint32_t slot_word(enum slot_state s, uint32_t gen) { return (uint32_t)s | gen << 3; }
static uint32_t lock_word(uint32_t slot, uint32_t gen) { return slot | gen << 12; }

const struct mp_slot *mp_slot_at(uint32_t i) { return slot_at(i); }
uint32_t mp_slots_used(void) { return atomic_load(&family()->slots_used); }
bool mp_forked_by_others(void) { return forked_by_others; }
uint32_t mp_deaths(void) { return atomic_load(&family()->deaths); }
const unsigned char *mp_nonce(void) { return family()->nonce; }
void mp_kind_set(enum mp_kind kind, const struct mp_kind_ops *ops) {
  atomic_store_explicit(&kinds[kind], ops, memory_order_relaxed);
}

/* ---- who lives --------------------------------------------------------------- */

static int record_lock(uint32_t slot, short type) {
  struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  return fcntl(mp_arena_fd(), F_SETLK, &f) == 0 ? 0 : errno;
}

static bool record_locked(uint32_t slot) {
  struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  return fcntl(mp_arena_fd(), F_GETLK, &f) != 0 || f.l_type != F_UNLCK;
}

bool mp_alive(uint32_t word) {
  uint32_t i = mp_word_slot(word);
  struct mp_slot *s = slot_at(i);
  uint32_t sw = atomic_load_explicit(&s->word, memory_order_acquire);
  if (i == 0 || (sw >> 3 & GENERATIONS) != word >> 12) return false;
  int32_t pid = atomic_load(&s->pid);
  if ((sw & 7) == BORN && pid == 0) {
    uint32_t parent = atomic_load(&s->parent);
    return parent == 0 || mp_alive(parent);
  }
  if ((sw & 7) != BORN && (sw & 7) != LIVE) return false;
  if (pid == getpid()) return true; /* one's own record locks do not show */
  if ((sw & 7) == LIVE && record_locked(i)) return true;
  return !mp_process_gone(pid, atomic_load(&s->start));
}

bool mp_leaving(uint32_t word) {
  struct mp_slot *s = slot_at(mp_word_slot(word));
  uint32_t sw = atomic_load_explicit(&s->word, memory_order_acquire);
  if ((sw & 7) != DONE || (sw >> 3 & GENERATIONS) != word >> 12) return false;
  return !mp_process_gone(atomic_load(&s->pid), atomic_load(&s->start));
}

/* ---- slots -------------------------------------------------------------------- */

/* A slot in state BORN, its fields empty; 0 when all are taken.  Slots are given back outside
 * the family lock too, so the hint may be wrong. */
static uint32_t take_slot(uint32_t *word) {
  uint32_t from = family()->first_free;
  for (uint32_t k = 0; k < MP_SLOTS - 1; k++) {
    uint32_t i = ((from ? from - 1 : 0) + k) % (MP_SLOTS - 1) + 1;
    struct mp_slot *s = slot_at(i);
    uint32_t old = atomic_load(&s->word), gen = ((old >> 3) + 1) & GENERATIONS;
    if ((old & 7) != FREE) continue;
    if (gen == 0) gen = 1;
    if (!atomic_compare_exchange_strong(&s->word, &old, slot_word(BORN, gen))) continue;
    if (mp_arena_slot_room(i) != 0) {
      atomic_store(&s->word, old);
      return 0;
    }
    uint32_t used = atomic_load(&family()->slots_used);
    while (used <= i && !atomic_compare_exchange_weak(&family()->slots_used, &used, i + 1)) {}
    *word = lock_word(i, gen);
    family()->first_free = i + 1;
    return i;
  }
  return 0;
}

/* Everything is 0 before the slot is free, so that whoever takes it finds it so. */
static void free_slot(uint32_t i) {
  struct mp_slot *s = slot_at(i);
  uint32_t gen = atomic_load(&s->word) >> 3 & GENERATIONS;
  atomic_store(&s->parent, 0);
  atomic_store(&s->pid, 0);
  atomic_store(&s->start, 0);
  atomic_store(&s->refs, 0);
  atomic_store(&s->busy, 0);
  atomic_store(&s->wait_on, 0);
  atomic_store(&s->wait_label, 0);
  atomic_store(&s->wait_next, 0);
  atomic_store(&s->wait_state, 0);
  memset(s->name, 0, sizeof s->name);
  atomic_store(&s->word, slot_word(FREE, gen));
  if (i < family()->first_free) family()->first_free = i;
}

static void set_name(struct mp_slot *s, const char *name) {
  size_t n = strlen(name);
  if (n >= MP_NAME_MAX) n = MP_NAME_MAX - 1;
  memcpy(s->name, name, n);
  s->name[n] = 0;
}

/* ---- entries ------------------------------------------------------------------- */

static uint32_t table_room(uint32_t t) {
  size_t bytes = t == 0 ? FIRST_TABLE_BYTES : TABLE_BYTES;
  return (uint32_t)((bytes - sizeof(struct table)) / sizeof(struct mp_entry));
}

/* The table of an entry; *at becomes its place there. */
static uint32_t table_of(uint32_t entry, uint32_t *at) {
  uint32_t first = table_room(0), room = table_room(1);
  *at = entry < first ? entry : (entry - first) % room;
  return entry < first ? 0 : (entry - first) / room + 1;
}

struct mp_entry *mp_entry_at(struct mp_member *me, uint32_t entry) {
  uint32_t at, t = table_of(entry, &at);
  return &me->tables[t][at];
}

/* The entries that n tables have room for. */
static uint32_t set_room(uint32_t n) {
  return n == 0 ? 0 : table_room(0) + (n - 1) * table_room(1);
}

/* Appends a table to a set of `n` that ends in `last` (0: empty). */
static int add_table(struct mp_slot *s, uint32_t hand, uint32_t me, uint32_t n, mp_ref last,
                     struct mp_entry **entries, mp_ref *out) {
  mp_ref r;
  size_t bytes = n == 0 ? FIRST_TABLE_BYTES : TABLE_BYTES;
  int e = mp_alloc(bytes, MP_KIND_TABLE, true, me, &r);
  if (e) return e;
  struct table *t = mp_at(r);
  t->n = table_room(n);
  mp_adopt(r, hand);
  if (last) atomic_store_explicit(&((struct table *)mp_at(last))->next, r, memory_order_release);
  else atomic_store_explicit(&s->refs, r, memory_order_release);
  *entries = t->entry;
  *out = r;
  return 0;
}

static mp_ref last_table(struct mp_slot *s) {
  mp_ref r = atomic_load(&s->refs), next;
  if (!r) return 0;
  while ((next = atomic_load(&((struct table *)mp_at(r))->next)) != 0) r = next;
  return r;
}

static int grow_set(struct mp_member *m) {
  mp_ref r;
  struct mp_entry **grown = realloc(m->tables, (m->ntables + 1) * sizeof *grown);
  if (!grown) return ENOMEM;
  m->tables = grown;
  uint32_t *live = realloc(m->live, (m->ntables + 1) * sizeof *live);
  if (!live) return ENOMEM;
  m->live = live;
  live[m->ntables] = 0;
  int e = add_table(m->slot, m->word, m->word, m->ntables, last_table(m->slot),
                    &m->tables[m->ntables], &r);
  if (!e) m->ntables++;
  return e;
}

static int take_entry(struct mp_member *m, uint32_t *out) {
  uint32_t at;
  if (m->nspare > 0) {
    *out = m->spare[--m->nspare];
  } else {
    int e = m->fresh == set_room(m->ntables) ? grow_set(m) : 0;
    if (e) return e;
    *out = m->fresh++;
  }
  m->live[table_of(*out, &at)]++;
  return 0;
}

static mp_ref table_ref(struct mp_member *m, uint32_t t) {
  return mp_ref_of((char *)m->tables[t] - offsetof(struct table, entry));
}

/* Gives the empty tables at the end back, all but the first, when they are half of
 * the set or more: so that the spare entries are gone through seldom. */
static void shrink_set(struct mp_member *m) {
  uint32_t keep = m->ntables, n = 0;
  while (keep > 1 && m->live[keep - 1] == 0) keep--;
  if (m->ntables - keep < (m->ntables + 1) / 2) return;
  atomic_store_explicit(&((struct table *)mp_at(table_ref(m, keep - 1)))->next, 0,
                        memory_order_release);
  while (m->ntables > keep) {
    mp_ref r = table_ref(m, --m->ntables);
    mp_free(&r, m->word);
  }
  for (uint32_t i = 0; i < m->nspare; i++)
    if (m->spare[i] < set_room(keep)) m->spare[n++] = m->spare[i];
  m->nspare = n;
  if (m->fresh > set_room(keep)) m->fresh = set_room(keep);
}

/* An entry whose number cannot be noted is lost until the process ends. */
static void note_spare(struct mp_member *m, uint32_t entry) {
  if (m->nspare == m->capspare) {
    uint32_t cap = m->capspare ? 2 * m->capspare : 32;
    uint32_t *grown = realloc(m->spare, cap * sizeof *grown);
    if (!grown) return;
    m->spare = grown;
    m->capspare = cap;
  }
  m->spare[m->nspare++] = entry;
}

static void give_entry(struct mp_member *m, uint32_t entry) {
  uint32_t at, t = table_of(entry, &at);
  note_spare(m, entry);
  if (--m->live[t] == 0 && m->ntables > 1) shrink_set(m);
}

/* ---- counts and destruction ------------------------------------------------------ */

void mp_count_up(mp_ref obj) {
  struct mp_block *b = mp_at(obj);
  atomic_fetch_add_explicit(&b->count, 1, memory_order_relaxed);
}

/* Objects whose count fell to 0 while another is being destroyed wait in a list, so
 * that a queue in a queue in a queue needs no deep stack. */
void mp_count_down(mp_ref obj, struct mp_member *me) {
  static _Thread_local mp_ref waiting;
  static _Thread_local bool destroying;
  struct mp_object *o = mp_at(obj);
  if (atomic_fetch_sub_explicit(&o->block.count, 1, memory_order_relaxed) != 1) return;
  o->link = waiting;
  waiting = obj;
  if (destroying) return;
  destroying = true;
  mp_busy(me);
  while (waiting) {
    mp_ref r = waiting;
    o = mp_at(r);
    waiting = o->link;
    const struct mp_kind_ops *ops = kinds[mp_block_kind(&o->block)];
    if (ops && ops->destroy) ops->destroy(r, me);
    mp_free(&r, me->word);
  }
  mp_idle(me);
  destroying = false;
}

/* ---- references ------------------------------------------------------------------- */

int mp_refer_locked(mp_ref obj, struct mp_member *me, uint32_t *entry) {
  uint32_t i;
  int e = take_entry(me, &i);
  if (e) return e;
  mp_count_up(obj);
  struct mp_entry *x = mp_entry_at(me, i);
  atomic_store_explicit(&x->held, 0, memory_order_relaxed);
  atomic_store_explicit(&x->obj, obj, memory_order_release);
  *entry = i;
  return 0;
}

int mp_refer(mp_ref obj, struct mp_member *me, uint32_t *entry) {
  mp_family_lock(me);
  int e = mp_refer_locked(obj, me, entry);
  mp_family_unlock();
  return e;
}

int mp_refer_serial(mp_ref obj, uint64_t serial, struct mp_member *me, uint32_t *entry) {
  int e = ESTALE;
  mp_family_lock(me);
  struct mp_object *o = mp_at(obj);
  if (mp_block_valid(obj) && mp_block_kind(&o->block) < MP_KIND_OBJECTS &&
      mp_block_state(&o->block) == MP_LIVE && o->serial == serial)
    e = mp_refer_locked(obj, me, entry);
  mp_family_unlock();
  return e;
}

/* The entry goes first: the count may be too high for a moment, never too low. */
void mp_drop_locked(uint32_t entry, struct mp_member *me) {
  struct mp_entry *x = mp_entry_at(me, entry);
  mp_ref obj = atomic_load_explicit(&x->obj, memory_order_relaxed);
  int32_t held = atomic_load_explicit(&x->held, memory_order_relaxed);
  if (!obj) return;
  const struct mp_kind_ops *ops = kinds[mp_block_kind(mp_at(obj))];
  if (held != 0 && ops && ops->died) ops->died(obj, me->word, x, me);
  atomic_store_explicit(&x->obj, 0, memory_order_release);
  atomic_store_explicit(&x->held, 0, memory_order_relaxed);
  give_entry(me, entry);
  mp_count_down(obj, me);
}

void mp_drop(uint32_t entry, struct mp_member *me) {
  mp_family_lock(me);
  mp_drop_locked(entry, me);
  mp_family_unlock();
}

uint32_t mp_references(mp_ref obj, struct mp_member *me) {
  struct mp_block *b = mp_at(obj);
  uint32_t n = atomic_load_explicit(&b->count, memory_order_relaxed);
  if (n > 1) return n;
  mp_family_lock(me); /* somebody may be counting anew */
  n = atomic_load_explicit(&b->count, memory_order_relaxed);
  mp_family_unlock();
  return n;
}

/* Calls fn on every entry of a slot's set that names an object. */
static void each_entry(struct mp_slot *s, void (*fn)(struct mp_entry *x, void *arg), void *arg) {
  mp_ref r = atomic_load_explicit(&s->refs, memory_order_acquire);
  while (r) {
    struct table *t = mp_at(r);
    for (uint32_t i = 0; i < t->n; i++)
      if (atomic_load_explicit(&t->entry[i].obj, memory_order_relaxed)) fn(&t->entry[i], arg);
    r = atomic_load_explicit(&t->next, memory_order_acquire);
  }
}

struct sum {
  mp_ref obj;
  int64_t held;
};

static void add_held(struct mp_entry *x, void *arg) {
  struct sum *s = arg;
  if (atomic_load_explicit(&x->obj, memory_order_relaxed) == s->obj)
    s->held += atomic_load_explicit(&x->held, memory_order_relaxed);
}

int64_t mp_held_sum(mp_ref obj, uint32_t but) {
  struct sum s = {obj, 0};
  for (uint32_t i = 1; i < mp_slots_used(); i++) {
    uint32_t sw = atomic_load(&slot_at(i)->word), gen = sw >> 3 & GENERATIONS;
    if (lock_word(i, gen) != but && ((sw & 7) == LIVE || (sw & 7) == BORN) &&
        mp_alive(lock_word(i, gen)))
      each_entry(slot_at(i), add_held, &s);
  }
  return s.held;
}

int mp_object_make(size_t size, enum mp_kind kind, struct mp_member *me,
                   void (*init)(void *p, void *arg), void *arg, uint32_t *entry, mp_ref *out) {
  mp_ref r = 0;
  uint32_t i;
  mp_family_lock(me);
  mp_busy(me);
  int e = take_entry(me, &i);
  if (!e && (e = mp_alloc(size, kind, true, me->word, &r)) != 0) give_entry(me, i);
  if (!e) {
    struct mp_object *o = mp_at(r);
    o->serial = ++family()->serial;
    if (init) init(o, arg);
    atomic_store_explicit(&o->block.count, 1, memory_order_relaxed);
    mp_publish(r, 0);
    atomic_store_explicit(&mp_entry_at(me, i)->obj, r, memory_order_release);
    *entry = i;
    *out = r;
  }
  mp_idle(me);
  mp_family_unlock();
  return e;
}

/* ---- death ------------------------------------------------------------------------- */

/* counted: the counts are right, an object whose count falls to 0 goes.  Else a
 * collection follows, which counts anew and sweeps. */
struct grave {
  uint32_t word;
  struct mp_member *me;
  bool counted;
};

static void bury_entry(struct mp_entry *x, void *arg) {
  struct grave *g = arg;
  mp_ref obj = atomic_load_explicit(&x->obj, memory_order_relaxed);
  const struct mp_kind_ops *ops = kinds[mp_block_kind(mp_at(obj))];
  if (ops && ops->died) ops->died(obj, g->word, x, g->me);
  atomic_store_explicit(&x->obj, 0, memory_order_release);
  if (g->counted) mp_count_down(obj, g->me);
}

static void free_tables(struct mp_slot *s, struct mp_member *me) {
  mp_ref r = atomic_load(&s->refs);
  while (r) {
    mp_ref next = atomic_load(&((struct table *)mp_at(r))->next);
    atomic_store_explicit(&s->refs, next, memory_order_release);
    mp_adopt(r, me->word);
    mp_free(&r, me->word);
    r = next;
  }
}

/* Gives back what the member of a slot referred to.  Its place in a list of waiters
 * goes with its reference to the list's object (`died`). */
static void give_back(struct mp_slot *s, uint32_t word, struct mp_member *me, bool counted) {
  struct grave g = {word, me, counted};
  mp_busy(me);
  each_entry(s, bury_entry, &g);
  free_tables(s, me);
  mp_idle(me);
}

/* seen: the slot's word when its process was found dead.  One whose parent died may live
 * and confirm at any moment until the word changes; then nothing happens here: false.
 * untidy: set when a collection should follow; NULL: it does. */
static bool bury_locked(uint32_t word, uint32_t seen, struct mp_member *me, bool *untidy) {
  struct mp_slot *s = slot_of(word);
  if (!atomic_compare_exchange_strong(&s->word, &seen, slot_word(DEAD, word >> 12))) return false;
  if (untidy && atomic_load(&s->busy) != 0) *untidy = true;
  atomic_fetch_add(&family()->deaths, 1);
  give_back(s, word, me, untidy != NULL);
  free_slot(mp_word_slot(word));
  return true;
}

/* A child that was never there: its parent could not fork. */
static void bury_unborn(uint32_t word, struct mp_member *me) {
  bool untidy;
  (void)bury_locked(word, slot_word(BORN, word >> 12), me, &untidy);
}

/* Under the family lock: what became of `word`'s slot, buried if it is dead. */
static void settle(uint32_t word, struct mp_member *me, int *exit, bool *untidy) {
  struct mp_slot *s = slot_of(word);
  for (;;) {
    uint32_t sw = atomic_load(&s->word), state = sw & 7;
    if ((sw >> 3 & GENERATIONS) != word >> 12) return;
    if (state == DONE) {
      if (exit) *exit = atomic_load(&s->exit);
      free_slot(mp_word_slot(word));
      return;
    }
    bool dead = state == DEAD || ((state == LIVE || state == BORN) && !mp_alive(word));
    if (!dead || bury_locked(word, sw, me, untidy)) return;
  }
}

static void collect_locked(struct mp_member *me);

void mp_bury(uint32_t word, struct mp_member *me, int *exit) {
  bool untidy = false;
  if (exit) *exit = -1;
  mp_family_lock(me);
  settle(word, me, exit, &untidy);
  if (untidy) collect_locked(me);
  mp_family_unlock();
}

/* A slot that ended in order is its parent's to free, unless that is gone too. */
static bool wants_burial(uint32_t i, uint32_t *word) {
  struct mp_slot *s = slot_at(i);
  uint32_t sw = atomic_load(&s->word);
  *word = lock_word(i, sw >> 3 & GENERATIONS);
  switch (sw & 7) {
  case BORN:
  case LIVE: return !mp_alive(*word);
  case DEAD: return true;
  case DONE: return !mp_alive(atomic_load(&s->parent)) && !mp_leaving(*word);
  default: return false;
  }
}

void mp_look_around(struct mp_member *me) {
  static _Thread_local uint32_t at;
  uint32_t used = mp_slots_used(), word;
  for (int i = 0; i < MP_LOOK_AROUND && used > 1; i++) {
    at = at % (used - 1) + 1;
    if (wants_burial(at, &word)) mp_bury(word, me, NULL);
  }
}

/* ---- collecting ---------------------------------------------------------------------- */

static _Thread_local mp_ref to_trace; /* marked objects, by link */

void mp_mark_object(mp_ref obj) {
  struct mp_object *o = mp_at(obj);
  uint32_t epoch = family()->epoch;
  if (o->block.mark == epoch) {
    mp_count_up(obj);
    return;
  }
  o->block.mark = epoch;
  atomic_store_explicit(&o->block.count, 1, memory_order_relaxed);
  o->link = to_trace;
  to_trace = obj;
}

/* A part that is in use is LIVE and knows its owner, whatever a dead process that had
 * it in hand made of its word. */
void mp_mark_part(mp_ref part, mp_ref owner) {
  struct mp_block *b = mp_at(part);
  b->mark = family()->epoch;
  uint64_t w = atomic_load_explicit(&b->word, memory_order_relaxed);
  if ((w & 3) != MP_LIVE || (mp_ref)(w >> 32) != owner) mp_publish(part, owner);
}

static void mark_entry(struct mp_entry *x, void *arg) {
  (void)arg;
  mp_mark_object(atomic_load_explicit(&x->obj, memory_order_relaxed));
}

static void mark_slot(struct mp_slot *s) {
  for (mp_ref r = atomic_load(&s->refs); r; r = atomic_load(&((struct table *)mp_at(r))->next))
    ((struct mp_block *)mp_at(r))->mark = family()->epoch;
  each_entry(s, mark_entry, NULL);
}

/* The member was not dead when the marking began: those who were have been buried, and
 * nobody is buried while it goes on.  Who died since may have linked what it has in hand
 * to an owner that was traced before; its own burial wants another collection. */
static bool hand_lived(uint32_t hand) {
  uint32_t sw = atomic_load(&slot_of(hand)->word);
  return (sw >> 3 & GENERATIONS) == hand >> 12 && ((sw & 7) == LIVE || (sw & 7) == BORN);
}

/* What is garbage: an object that nobody marked; a part whose owner was not marked;
 * anything unmarked in the hand of a dead process.  A live process may have linked a
 * part after its owner was traced: such a part has a live hand or a marked owner.
 * `arg`: first the parts, whose owners must still be there, then the objects. */
static bool garbage(mp_ref r, void *arg) {
  const bool *parts = arg;
  struct mp_block *b = mp_at(r);
  uint64_t w = atomic_load_explicit(&b->word, memory_order_acquire);
  uint32_t epoch = family()->epoch, high = (uint32_t)(w >> 32);
  bool part = (w >> 2 & 63) >= MP_KIND_OBJECTS;
  if (part != *parts || b->mark == epoch) return false;
  if ((w & 3) == MP_NEW) return !hand_lived(high);
  return !part || ((struct mp_block *)mp_at(high))->mark != epoch;
}

/* Never true: a walk over the objects that will be swept. */
static bool unhand(mp_ref r, void *arg) {
  struct mp_block *b = mp_at(r);
  (void)arg;
  if (mp_block_kind(b) >= MP_KIND_OBJECTS || mp_block_state(b) != MP_LIVE) return false;
  const struct mp_kind_ops *ops = kinds[mp_block_kind(b)];
  if (b->mark != family()->epoch && ops && ops->unhand) ops->unhand(r);
  return false;
}

/* Buries who died meanwhile, then marks from the slots and sweeps.  The burials rely on
 * no count: whoever collected before may have been killed while it counted. */
static void collect_locked(struct mp_member *me) {
  bool parts = true;
  for (uint32_t i = 1, word; i < mp_slots_used(); i++)
    if (wants_burial(i, &word)) settle(word, me, NULL, NULL);
  if (++family()->epoch == 0) family()->epoch = 1;
  to_trace = 0;
  for (uint32_t i = 1; i < mp_slots_used(); i++) {
    uint32_t state = atomic_load(&slot_at(i)->word) & 7;
    if (state == LIVE || state == BORN) mark_slot(slot_at(i));
  }
  while (to_trace) {
    mp_ref r = to_trace;
    struct mp_object *o = mp_at(r);
    to_trace = o->link;
    const struct mp_kind_ops *ops = kinds[mp_block_kind(&o->block)];
    if (ops && ops->trace) ops->trace(r, me);
  }
  mp_arena_each(unhand, NULL, me->word);
  mp_arena_each(garbage, &parts, me->word);
  parts = false;
  mp_arena_each(garbage, &parts, me->word);
}

void mp_family_lock(struct mp_member *me) {
  if (mp_lock_hold(&family()->lock, me->word)) collect_locked(me);
}

void mp_family_unlock(void) { mp_lock_release(&family()->lock); }

void mp_collect(struct mp_member *me) {
  mp_family_lock(me);
  collect_locked(me);
  mp_family_unlock();
}

int mp_alloc_hard(size_t size, enum mp_kind kind, bool zero, struct mp_member *me, mp_ref *out) {
  int e = mp_alloc(size, kind, zero, me->word, out);
  if (e != ENOMEM) return e;
  mp_collect(me);
  return mp_alloc(size, kind, zero, me->word, out);
}

/* ---- joining and leaving ---------------------------------------------------------------- */

/* A fork that is not ours leaves a child that no member of the family knows. */
static void estrange(void) {
  if (our_fork) return;
  forked_by_others = true;
  for (struct mp_member *m = members; m; m = m->next) m->stranger = true;
}

static void watch_forks(void) {
  static bool done;
  if (!done) done = pthread_atfork(NULL, NULL, estrange) == 0;
}

static int start_family_locked(void) {
  int e = mp_arena_open();
  if (e) return e;
  watch_forks();
  if (family()->started) return 0;
  if (getrandom(family()->nonce, sizeof family()->nonce, 0) != sizeof family()->nonce)
    return EIO;
  family()->started = 1;
  return 0;
}

static int start_family(void) {
  pthread_mutex_lock(&members_lock);
  int e = start_family_locked();
  pthread_mutex_unlock(&members_lock);
  return e;
}

static void enlist(struct mp_member *m) {
  pthread_mutex_lock(&members_lock);
  m->next = members;
  members = m;
  pthread_mutex_unlock(&members_lock);
}

static void delist(struct mp_member *m) {
  pthread_mutex_lock(&members_lock);
  for (struct mp_member **p = &members; *p; p = &(*p)->next)
    if (*p == m) {
      *p = m->next;
      break;
    }
  pthread_mutex_unlock(&members_lock);
}

/* Makes the slot of `word` ours: the record lock, then the word, then the rest: the
 * slot may have been buried and be another's by now. */
static int confirm(struct mp_member *m, uint32_t word) {
  struct mp_slot *s = slot_of(word);
  uint32_t born = slot_word(BORN, word >> 12);
  int e = record_lock(mp_word_slot(word), F_WRLCK);
  if (e) return e;
  if (!atomic_compare_exchange_strong(&s->word, &born, slot_word(LIVE, word >> 12)))
    return ESRCH;
  atomic_store(&s->pid, getpid());
  atomic_store(&s->start, mp_boottime());
  m->word = word;
  m->slot = s;
  m->pid = getpid();
  m->stranger = false;
  return 0;
}

int mp_member_open(struct mp_member *m, const char *name) {
  uint32_t word = 0, i;
  memset(m, 0, sizeof *m);
  int e = start_family();
  if (e) return e;
  i = take_slot(&word);
  if (!i) return EAGAIN;
  set_name(slot_at(i), name);
  e = confirm(m, word);
  if (e) {
    free_slot(i);
    return e;
  }
  enlist(m);
  return 0;
}

/* The slot's last state is written when everything was given back, the family lock too (the
 * owner of a lock that is not LIVE would be taken for dead): DONE with the exit code for a
 * parent to read, or FREE. */
void mp_member_close(struct mp_member *m, int exit) {
  if (!m->slot) return;
  if (!m->stranger && m->pid == getpid()) {
    mp_family_lock(m);
    give_back(m->slot, m->word, m, true);
    atomic_store(&m->slot->exit, exit);
    mp_family_unlock();
    if (exit >= 0) {
      atomic_store(&m->slot->word, slot_word(DONE, m->word >> 12));
    } else {
      record_lock(mp_word_slot(m->word), F_UNLCK);
      free_slot(mp_word_slot(m->word));
    }
  }
  delist(m);
  free(m->tables);
  free(m->spare);
  free(m->live);
  memset(m, 0, sizeof *m);
}

/* Copies the reference set of `m` into the slot of `word`. */
static int copy_set(struct mp_member *m, uint32_t word) {
  mp_ref last = 0;
  struct mp_entry *to;
  for (uint32_t t = 0; t < m->ntables; t++) {
    int e = add_table(slot_of(word), word, m->word, t, last, &to, &last);
    if (e) return e;
    for (uint32_t i = 0; i < table_room(t); i++) {
      mp_ref obj = atomic_load_explicit(&m->tables[t][i].obj, memory_order_relaxed);
      if (!obj) continue;
      mp_count_up(obj);
      atomic_store_explicit(&to[i].obj, obj, memory_order_relaxed);
    }
  }
  return 0;
}

static int bear(struct mp_member *m, const char *name, uint32_t *word) {
  mp_family_lock(m);
  uint32_t i = take_slot(word);
  int e = i ? 0 : EAGAIN;
  if (!e) {
    atomic_store(&slot_at(i)->parent, m->word);
    set_name(slot_at(i), name);
    mp_busy(m);
    e = copy_set(m, *word);
    mp_idle(m);
    if (e) bury_unborn(*word, m);
  }
  mp_family_unlock();
  return e;
}

/* In the child: the set's tables are others, their places are the same. */
static int settle_in(struct mp_member *m, uint32_t word) {
  mp_ref r = atomic_load(&slot_of(word)->refs);
  for (uint32_t t = 0; t < m->ntables; t++) {
    struct table *x = mp_at(r);
    m->tables[t] = x->entry;
    r = atomic_load(&x->next);
  }
  for (struct mp_member *o = members; o; o = o->next) o->stranger = o != m;
  return confirm(m, word);
}

/* Notes the pid of a child that has not confirmed.  One exchange of word and pid, which
 * lie in 8 bytes: the child may be gone by now, and its slot another's. */
static void note_pid(struct mp_slot *s, uint32_t word, pid_t pid) {
  struct { uint32_t word; int32_t pid; } from = {slot_word(BORN, word >> 12), 0},
                                         to = {from.word, pid};
  uint64_t a, b;
  memcpy(&a, &from, sizeof a);
  memcpy(&b, &to, sizeof b);
  atomic_compare_exchange_strong((_Atomic uint64_t *)(void *)s, &a, b);
}

int mp_member_fork(struct mp_member *m, const char *name, pid_t *pid, uint32_t *word) {
  int e = bear(m, name, word);
  if (e == EAGAIN || e == ENOMEM) { /* the dead may hold slots and memory */
    mp_collect(m);
    e = bear(m, name, word);
  }
  if (e) {
    *word = 0;
    return e;
  }
  our_fork = true;
  pid_t p = fork();
  e = errno;
  our_fork = false;
  if (p == 0) {
    if (settle_in(m, *word) != 0) _exit(127);
    *pid = 0;
    return 0;
  }
  if (p < 0) {
    mp_family_lock(m);
    bury_unborn(*word, m);
    mp_family_unlock();
    return e;
  }
  note_pid(slot_of(*word), *word, p);
  *pid = p;
  return 0;
}
