/* Queues: putting, getting, waiting, marking done.  The storage is in stream.c (FIFO)
 * and heap.c (LIFO, priority), ringing in watch.c; qlayout.h has the protocol.
 *
 * A message with references changes their counts, so it is put and taken under the
 * family lock, which comes before a queue's locks and is never held while waiting.
 *
 * What a process has taken and not marked done is in `held` of its entry, written
 * under get_lock together with `gets` and `dones`.  When a process dies, whatever
 * `gets - dones - abandoned` counts beyond the sum of the living's `held` was its:
 * that many are abandoned.  The sum can be taken again at any time, so that nothing
 * is lost when who takes it is killed.  A process that marks what others took has a
 * negative `held`; `carry` keeps it when it goes.
 */
#include "qlayout.h"
#include <errno.h>
#include <limits.h>
#include <string.h>

#define QUEUE_BYTES 1024 /* a FIFO queue with its first chunk */

size_t mp_queue_size(enum mp_kind kind) {
  return kind == MP_KIND_QUEUE ? QUEUE_BYTES : offsetof(struct mp_queue, embedded);
}

void mp_queue_init(void *queue, void *maxsize) {
  struct mp_queue *q = queue;
  q->maxsize = *(uint32_t *)maxsize;
  if (mp_block_kind(&q->o.block) == MP_KIND_QUEUE) mp_stream_init(q, QUEUE_BYTES);
}

/* ---- locks ------------------------------------------------------------------------ */

static void hold_get(struct mp_queue *q, struct mp_member *me) {
  if (!mp_lock_hold(&q->get_lock, me->word)) return;
  if (is_list(q)) mp_list_repair(q);
  else mp_stream_repair_get(q);
}

static void release_get(struct mp_queue *q) { mp_lock_release(&q->get_lock); }

/* The lock that putting takes. */
static void hold_put(struct mp_queue *q, struct mp_member *me) {
  if (is_list(q)) hold_get(q, me);
  else if (mp_lock_hold(&q->put_lock, me->word)) mp_stream_repair_put(q);
}

static void release_put(struct mp_queue *q) {
  mp_lock_release(is_list(q) ? &q->get_lock : &q->put_lock);
}

static uint64_t load(const _Atomic uint64_t *x) {
  return atomic_load_explicit(x, memory_order_acquire);
}

uint32_t mp_queue_maxsize(const struct mp_queue *q) { return q->maxsize; }
bool mp_queue_is_shut(const struct mp_queue *q) {
  return atomic_load_explicit(&q->shut, memory_order_acquire) != 0;
}

/* Exact: while nobody holds a lock, puts and gets are what they should be; else each
 * is read under its lock, which mends what a killed process left. */
uint64_t mp_queue_count(struct mp_queue *q, struct mp_member *me) {
  if (mp_lock_taken(&q->get_lock)) {
    hold_get(q, me);
    release_get(q);
  }
  uint64_t gets = load(&q->gets);
  if (mp_lock_taken(&q->put_lock)) {
    hold_put(q, me);
    release_put(q);
  }
  return load(&q->puts) - gets;
}

/* For looking only.  `puts` of a killed producer stays behind `gets` until somebody
 * takes its lock: that is no item, and to look for it would never end. */
static bool has_items(const void *arg) {
  const struct mp_queue *q = arg;
  uint64_t gets = load(&q->gets);
  return (int64_t)(load(&q->puts) - gets) > 0 || mp_queue_is_shut(q);
}

static bool has_room(const void *arg) {
  const struct mp_queue *q = arg;
  return load(&q->puts) - load(&q->gets) < q->maxsize || mp_queue_is_shut(q);
}

/* ---- putting ------------------------------------------------------------------------ */

/* Under the lock for putting. */
static bool is_full(struct mp_queue *q) {
  if (q->maxsize == 0) return false;
  uint64_t puts = atomic_load_explicit(&q->puts, memory_order_relaxed);
  if (puts - q->gets_seen < q->maxsize) return false;
  q->gets_seen = load(&q->gets);
  return puts - q->gets_seen >= q->maxsize;
}

/* The block that a message needs beside its record: a run when it is large, an item
 * in a list; 0 when it needs none. */
static int make_block(struct mp_queue *q, const struct mp_message *m, struct mp_member *me,
                      mp_ref *out) {
  *out = 0;
  if (is_list(q)) return mp_list_make(m, me, out);
  size_t n = message_bytes(m);
  if (n <= MP_INLINE_MAX) return 0;
  int e = mp_alloc(sizeof(struct mp_block) + n, MP_KIND_RUN, false, me->word, out);
  if (!e) mp_message_copy((struct mp_block *)mp_at(*out) + 1, m);
  return e;
}

/* One try to put.  The block is published just after the commit, under the lock. */
static int put_locked(struct mp_queue *q, const struct mp_message *m, mp_ref block,
                      struct mp_member *me) {
  if (mp_queue_is_shut(q)) return EPIPE;
  if (is_full(q)) return EAGAIN;
  if (is_list(q)) return mp_list_insert(q, block, me);
  int e = mp_stream_append(q, m, block, me);
  if (!e && block) mp_publish(block, queue_ref(q));
  return e;
}

static int try_put(struct mp_queue *q, const struct mp_message *m, mp_ref block,
                   struct mp_member *me) {
  if (m->nrefs) mp_family_lock(me);
  hold_put(q, me);
  for (uint32_t i = 0; i < m->nrefs; i++) mp_count_up(m->refs[i]);
  int e = put_locked(q, m, block, me);
  release_put(q);
  for (uint32_t i = 0; e && i < m->nrefs; i++) mp_count_down(m->refs[i], me);
  if (m->nrefs) mp_family_unlock();
  return e;
}

static void tell_readers(struct mp_queue *q, int n, struct mp_member *me) {
  mp_waitq_wake(&q->readers, n);
  if (atomic_load_explicit(&q->watches, memory_order_acquire)) mp_watch_ring(q, me);
}

/* Waits for room; 0 when it is worth trying again. */
static int wait_room(struct mp_queue *q, struct mp_member *me, mp_time deadline,
                     struct mp_look *look) {
  if (deadline == MP_NEVER) return EAGAIN;
  if (look && mp_look_for(look, has_room, q)) return 0;
  mp_label(me, queue_ref(q), MP_WAIT_PUT);
  uint32_t seen = mp_waitq_begin(&q->writers);
  int e = has_room(q) ? 0 : mp_waitq_sleep(&q->writers, seen, deadline);
  mp_unlabel(me);
  if (e == EINTR) mp_queue_count(q, me); /* a killed consumer's `gets` is mended */
  return e == ETIMEDOUT ? EAGAIN : e;
}

static int put_waiting(struct mp_queue *q, const struct mp_message *m, mp_ref block,
                       struct mp_member *me, mp_time deadline, struct mp_look *look) {
  for (;;) {
    int e = try_put(q, m, block, me);
    if (e != EAGAIN) return e;
    e = wait_room(q, me, deadline, look);
    if (e == EAGAIN && mp_queue_count(q, me) < q->maxsize) return try_put(q, m, block, me);
    if (e) return e;
  }
}

static int put_once(struct mp_queue *q, const struct mp_message *m, struct mp_member *me,
                    mp_time deadline, struct mp_look *look) {
  mp_ref block;
  bool large = is_list(q) || message_bytes(m) > MP_INLINE_MAX;
  if (large) mp_busy(me);
  int e = make_block(q, m, me, &block);
  if (!e) {
    e = put_waiting(q, m, block, me, deadline, look);
    if (e) mp_free(&block, me->word);
  }
  if (large) mp_idle(me);
  return e;
}

int mp_queue_put(struct mp_queue *q, const struct mp_message *m, struct mp_member *me,
                 mp_time deadline, struct mp_look *look) {
  int e = put_once(q, m, me, deadline, look);
  if (e == ENOMEM) {
    mp_collect(me);
    e = put_once(q, m, me, deadline, look);
  }
  if (!e) tell_readers(q, 1, me);
  return e;
}

int mp_queue_put_batch(struct mp_queue *q, const struct mp_message *m, uint32_t n,
                       struct mp_member *me, uint32_t *done) {
  uint32_t i = 0;
  int e = 0;
  hold_put(q, me);
  while (i < n && (e = put_locked(q, &m[i], 0, me)) == 0) i++;
  release_put(q);
  if (i > 0) tell_readers(q, i < INT_MAX ? (int)i : INT_MAX, me);
  *done = i;
  return e == EAGAIN ? 0 : e;
}

void mp_queue_shut(struct mp_queue *q, struct mp_member *me) {
  hold_put(q, me);
  atomic_store_explicit(&q->shut, 1, memory_order_seq_cst);
  release_put(q);
  mp_waitq_wake(&q->writers, INT_MAX);
  tell_readers(q, INT_MAX, me);
}

/* ---- getting -------------------------------------------------------------------------- */

static void note_taken(struct mp_member *me, uint32_t entry) {
  _Atomic int32_t *held = &mp_entry_at(me, entry)->held;
  int32_t n = atomic_load_explicit(held, memory_order_relaxed);
  atomic_store_explicit(held, n + 1, memory_order_release);
}

/* Takes the record at `body`, which has no references or whose references were
 * registered; `skip` bytes of them come before its message. */
static void take_record(struct mp_queue *q, const unsigned char *body, uint32_t head, size_t skip,
                        struct mp_member *me, void *buf, struct mp_got *got) {
  got->block = 0;
  if (head & REC_RUN) {
    uint64_t n;
    memcpy(&got->block, body, 4);
    memcpy(&n, body + 4, 8);
    mp_busy(me);
    mp_adopt(got->block, me->word);
    got->data = (const unsigned char *)mp_at(got->block) + sizeof(struct mp_block) + skip;
    got->len = (size_t)n - skip;
  } else {
    got->len = (head & REC_LEN) - skip;
    got->data = buf;
    memcpy(buf, body + skip, got->len);
  }
  mp_stream_consume(q, head);
}

static void take_item(struct mp_queue *q, struct item *i, struct mp_member *me,
                      struct mp_got *got) {
  size_t skip = i->nrefs ? 4 + 4 * (size_t)i->nrefs : 0;
  mp_busy(me);
  got->block = mp_ref_of(i);
  got->data = i->data + skip;
  got->len = i->len - skip;
  mp_list_remove(q, i, me);
}

void mp_got_done(struct mp_got *got, struct mp_member *me) {
  if (!got->block) return;
  mp_free(&got->block, me->word);
  mp_idle(me);
}

static void tell_writers(struct mp_queue *q, int n) {
  if (q->maxsize) mp_waitq_wake(&q->writers, n);
}

/* The references of the next message: where they are, and how many. */
struct next {
  struct item *item;
  const unsigned char *body, *refs;
  uint32_t head, nrefs;
};

static bool look_next(struct mp_queue *q, struct mp_member *me, struct next *n) {
  mp_ref run;
  n->item = NULL;
  n->nrefs = n->head = 0;
  if (is_list(q)) {
    if (!(n->item = mp_list_peek(q))) return false;
    n->nrefs = n->item->nrefs;
    n->refs = n->item->data + 4;
    return true;
  }
  if (!(n->body = mp_stream_peek(q, me, &n->head))) return false;
  if (!(n->head & REC_REFS)) return true;
  n->refs = n->body;
  if (n->head & REC_RUN) {
    memcpy(&run, n->body, 4);
    n->refs = (const unsigned char *)mp_at(run) + sizeof(struct mp_block);
  }
  memcpy(&n->nrefs, n->refs, 4);
  n->refs += 4;
  return true;
}

/* Compiled once for those with a claim and once for those without, which so pay nothing
 * for it (3 of 62 ns). */
#define BOTH static inline __attribute__((always_inline))

/* Who takes: its entry, which counts what it holds, or a taker with a claim. */
struct by {
  uint32_t entry;
  const struct mp_taker *taker;
};

static void call_claim(const struct next *n, const struct mp_taker *t) {
  const unsigned char *bytes = n->body;
  uint64_t len = n->head & REC_LEN;
  size_t skip = n->nrefs ? 4 + 4 * (size_t)n->nrefs : 0;
  if (n->head & REC_RUN) {
    mp_ref run;
    memcpy(&run, n->body, 4);
    memcpy(&len, n->body + 4, 8);
    bytes = (const unsigned char *)mp_at(run) + sizeof(struct mp_block);
  }
  t->claim(t->arg, bytes + skip, (size_t)len - skip);
}

BOTH void take_next(struct mp_queue *q, const struct next *n, struct mp_member *me,
                    struct by by, void *buf, struct mp_got *got) {
  if (by.taker) call_claim(n, by.taker);
  else note_taken(me, by.entry);
  if (n->item) take_item(q, n->item, me, got);
  else take_record(q, n->body, n->head, n->nrefs ? 4 + 4 * (size_t)n->nrefs : 0, me, buf, got);
  if (by.taker) by.taker->moved(by.taker->arg);
}

BOTH int try_get(struct mp_queue *q, struct mp_member *me, struct by by, void *buf,
                 struct mp_got *got, uint32_t *nrefs) {
  struct next n;
  bool shut = mp_queue_is_shut(q); /* before the look: then nothing comes after it */
  int e = 0;
  hold_get(q, me);
  if (!look_next(q, me, &n)) e = shut ? EPIPE : EAGAIN;
  else if (n.nrefs) e = EBADMSG, *nrefs = n.nrefs;
  else take_next(q, &n, me, by, buf, got);
  release_get(q);
  if (!e) tell_writers(q, 1);
  return e;
}

BOTH int get(struct mp_queue *q, struct mp_member *me, struct by by, mp_time deadline,
             struct mp_look *look, void *buf, struct mp_got *got, uint32_t *nrefs) {
  for (;;) {
    int e = try_get(q, me, by, buf, got, nrefs);
    if (e != EAGAIN || deadline == MP_NEVER) return e;
    if (look && mp_look_for(look, has_items, q)) continue;
    uint32_t seen = mp_waitq_begin(&q->readers);
    e = try_get(q, me, by, buf, got, nrefs);
    if (e != EAGAIN) return e;
    mp_label(me, queue_ref(q), MP_WAIT_GET);
    e = mp_waitq_sleep(&q->readers, seen, deadline);
    mp_unlabel(me);
    if (e == EINTR) return e;
    if (e == ETIMEDOUT) return try_get(q, me, by, buf, got, nrefs);
  }
}

int mp_queue_get(struct mp_queue *q, struct mp_member *me, uint32_t entry, mp_time deadline,
                 struct mp_look *look, void *buf, struct mp_got *got, uint32_t *nrefs) {
  return get(q, me, (struct by){entry, NULL}, deadline, look, buf, got, nrefs);
}

int mp_queue_claim(struct mp_queue *q, struct mp_member *me, const struct mp_taker *taker,
                   mp_time deadline, struct mp_look *look, void *buf, struct mp_got *got,
                   uint32_t *nrefs) {
  return get(q, me, (struct by){0, taker}, deadline, look, buf, got, nrefs);
}

void mp_queue_peek(struct mp_queue *q, struct mp_member *me,
                   void (*fn)(void *arg, const unsigned char *bytes, size_t len), void *arg) {
  struct next n;
  struct mp_taker t = {fn, NULL, arg};
  hold_get(q, me);
  if (look_next(q, me, &n)) call_claim(&n, &t);
  else fn(arg, NULL, 0);
  release_get(q);
}

/* Registers the references of the next message; on failure none is. */
static int register_refs(const struct next *n, struct mp_member *me, mp_ref *refs,
                         uint32_t *entries) {
  for (uint32_t i = 0; i < n->nrefs; i++) {
    memcpy(&refs[i], n->refs + 4 * (size_t)i, 4);
    int e = mp_refer_locked(refs[i], me, &entries[i]);
    if (!e) continue;
    while (i-- > 0) mp_drop_locked(entries[i], me);
    return e;
  }
  return 0;
}

/* Registers first and consumes after: a kill between leaves counts too high, and the
 * family lock with a dead owner, which counts anew. */
static int get_refs(struct mp_queue *q, struct mp_member *me, struct by by, void *buf,
                    struct mp_got *got, mp_ref *refs, uint32_t *entries, uint32_t room,
                    uint32_t *nrefs) {
  struct next n;
  int e = EAGAIN;
  mp_family_lock(me);
  hold_get(q, me);
  if (look_next(q, me, &n) && n.nrefs > 0 && n.nrefs <= room &&
      (e = register_refs(&n, me, refs, entries)) == 0) {
    take_next(q, &n, me, by, buf, got);
    *nrefs = n.nrefs;
  }
  release_get(q);
  for (uint32_t i = 0; !e && i < n.nrefs; i++) mp_count_down(refs[i], me);
  mp_family_unlock();
  if (!e) tell_writers(q, 1);
  return e;
}

int mp_queue_get_refs(struct mp_queue *q, struct mp_member *me, uint32_t entry, void *buf,
                      struct mp_got *got, mp_ref *refs, uint32_t *entries, uint32_t room,
                      uint32_t *nrefs) {
  return get_refs(q, me, (struct by){entry, NULL}, buf, got, refs, entries, room, nrefs);
}

int mp_queue_claim_refs(struct mp_queue *q, struct mp_member *me, const struct mp_taker *taker,
                        void *buf, struct mp_got *got, mp_ref *refs, uint32_t *entries,
                        uint32_t room, uint32_t *nrefs) {
  return get_refs(q, me, (struct by){0, taker}, buf, got, refs, entries, room, nrefs);
}

uint32_t mp_queue_get_batch(struct mp_queue *q, struct mp_member *me, uint32_t entry, void *buf,
                            size_t size, uint32_t *lens, uint32_t max) {
  struct mp_got got;
  struct next n;
  uint32_t i = 0;
  unsigned char *to = buf;
  if (is_list(q)) return 0;
  hold_get(q, me);
  while (i < max && look_next(q, me, &n) && !(n.head & (REC_RUN | REC_REFS)) &&
         (n.head & REC_LEN) <= size) {
    take_next(q, &n, me, (struct by){entry, NULL}, to, &got);
    lens[i++] = (uint32_t)got.len;
    to += got.len;
    size -= got.len;
  }
  release_get(q);
  if (i > 0) tell_writers(q, i < INT_MAX ? (int)i : INT_MAX);
  return i;
}

/* ---- marking done ----------------------------------------------------------------------- */

/* Under get_lock.  `puts` follows the commit: of a producer that was interrupted between
 * the two an item may have been taken, and marked done, that it does not count yet. */
static bool all_done(struct mp_queue *q) {
  uint64_t gets = load(&q->gets), puts = load(&q->puts);
  if ((int64_t)(gets - puts) > 0) puts = gets;
  return load(&q->dones) + load(&q->abandoned) >= puts;
}

int mp_queue_task_done(struct mp_queue *q, struct mp_member *me, uint32_t entry) {
  hold_get(q, me);
  int e = all_done(q) ? EINVAL : 0;
  if (!e) {
    _Atomic int32_t *held = &mp_entry_at(me, entry)->held;
    atomic_fetch_sub_explicit(held, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&q->dones, 1, memory_order_release);
  }
  bool done = all_done(q);
  release_get(q);
  if (!e && done) mp_waitq_wake(&q->joiners, INT_MAX);
  return e;
}

/* Under the family lock.  What is out beyond what the living hold was abandoned. */
static void count_abandoned(struct mp_queue *q, uint32_t but, struct mp_member *me) {
  hold_get(q, me);
  int64_t out = (int64_t)(load(&q->gets) - load(&q->dones) - load(&q->abandoned));
  int64_t lost = out - mp_held_sum(queue_ref(q), but) - atomic_load(&q->carry);
  if (lost > out) lost = out;
  if (lost > 0) atomic_fetch_add_explicit(&q->abandoned, (uint64_t)lost, memory_order_release);
  release_get(q);
  if (lost > 0) mp_waitq_wake(&q->joiners, INT_MAX);
}

static bool joined(struct mp_queue *q, struct mp_member *me, uint64_t *abandoned) {
  hold_get(q, me);
  bool done = all_done(q);
  if (done && !is_list(q) && mp_lock_taken(&q->put_lock)) { /* is something in, not counted? */
    hold_put(q, me);
    release_put(q);
    done = all_done(q);
  }
  *abandoned = load(&q->abandoned);
  release_get(q);
  return done;
}

/* The dead are looked for after each slice, and at the end: a join that does not wait
 * sees them too. */
int mp_queue_join(struct mp_queue *q, struct mp_member *me, mp_time deadline,
                  uint64_t *abandoned) {
  for (;;) {
    uint32_t seen = mp_waitq_begin(&q->joiners);
    if (joined(q, me, abandoned)) return 0;
    mp_label(me, queue_ref(q), MP_WAIT_QUEUE_JOIN);
    int e = mp_waitq_sleep(&q->joiners, seen, deadline);
    mp_unlabel(me);
    if (e != EINTR && e != ETIMEDOUT) continue;
    mp_family_lock(me);
    count_abandoned(q, 0, me);
    mp_family_unlock();
    if (e == EINTR) return EINTR;
    return joined(q, me, abandoned) ? 0 : EAGAIN;
  }
}

/* ---- for the family ------------------------------------------------------------------------ */

static void trace(mp_ref obj, struct mp_member *me) {
  struct mp_queue *q = mp_at(obj);
  hold_get(q, me);
  if (mp_lock_hold(&q->put_lock, me->word) && !is_list(q)) mp_stream_repair_put(q);
  if (is_list(q)) mp_list_trace(q);
  else mp_stream_trace(q);
  mp_watch_trace(q);
  mp_lock_release(&q->put_lock);
  release_get(q);
}

static void destroy(mp_ref obj, struct mp_member *me) {
  struct mp_queue *q = mp_at(obj);
  hold_get(q, me); /* repairs what the dead left */
  if (is_list(q)) mp_list_destroy(q, me);
  else mp_stream_destroy(q, me);
  mp_watch_destroy(q, me);
}

static void unhand(mp_ref obj) {
  struct mp_queue *q = mp_at(obj);
  if (!is_list(q)) mp_stream_unhand(q);
}

static void died(mp_ref obj, uint32_t word, struct mp_entry *entry, struct mp_member *me) {
  struct mp_queue *q = mp_at(obj);
  int32_t held = atomic_load(&entry->held);
  if (held > 0) count_abandoned(q, word, me);
  if (held < 0) {
    atomic_fetch_add(&q->carry, held);
    atomic_store(&entry->held, 0);
  }
  mp_watch_died(q, word, me);
  if (atomic_load(&q->watches) && mp_queue_count(q, me) > 0)
    mp_watch_ring(q, me); /* it may have put an item and not have rung */
}

void mp_queue_kinds(void) {
  static const struct mp_kind_ops ops = {trace, destroy, died, unhand};
  mp_kind_set(MP_KIND_QUEUE, &ops);
  mp_kind_set(MP_KIND_LIFO, &ops);
  mp_kind_set(MP_KIND_PRIORITY, &ops);
  mp_watch_setup();
}
