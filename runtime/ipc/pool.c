/* Pools: claims, reports, burial.  See pool.h.
 *
 * Truth in a worker's record: `claim`, then `sent` (what the reports of this batch told
 * of), then `done` (what is in `out`).  Every step is prepared first and committed by one
 * store, so that who buries the worker finds it before the step or after it:
 *   take    taking -> batch, sent's low half 0 -> claim -> the queue's head -> taking 0
 *   result  bytes in `out` -> done
 *   send    the report's put -> sent -> done -> after the last one claim 0
 *   bury    reports -> claim 0 -> state NONE
 */
#include "pool.h"
#include <errno.h>
#include <signal.h>
#include <string.h>

#define TOLD UINT64_C(0xffffffff)
#define SEQ_ONE (TOLD + 1)
#define DONE_BYTES UINT64_C(0xffffff)
#define DONE_ONE (DONE_BYTES + 1)
#define DONE_COUNT 0xffffffu
#define TAG_SHIFT 48

_Static_assert(MP_POOL_OUT <= DONE_BYTES, "the bytes in `out` are counted in 24 bits");

static uint64_t load(const _Atomic uint64_t *x) {
  return atomic_load_explicit(x, memory_order_acquire);
}
static void store(_Atomic uint64_t *x, uint64_t to) {
  atomic_store_explicit(x, to, memory_order_release);
}
static void set_state(struct mp_worker *w, enum mp_worker_state s) {
  atomic_store_explicit(&w->state, s, memory_order_release);
}
static uint32_t state_of(const struct mp_worker *w) {
  return atomic_load_explicit(&w->state, memory_order_acquire);
}
static struct mp_queue *tasks(struct mp_pool *p) { return mp_at(p->tasks); }
static struct mp_queue *reports(struct mp_pool *p) { return mp_at(p->reports); }

/* ---- the block ------------------------------------------------------------------------ */

size_t mp_pool_size(uint32_t n) {
  return sizeof(struct mp_pool) + (size_t)n * sizeof(struct mp_worker);
}

void mp_pool_init(void *pool, void *make) {
  struct mp_pool *p = pool;
  const struct mp_pool_make *m = make;
  mp_count_up(m->tasks);
  mp_count_up(m->reports);
  p->tasks = m->tasks;
  p->reports = m->reports;
  p->n = m->n;
}

static void trace_pool(mp_ref obj, struct mp_member *me) {
  const struct mp_pool *p = mp_at(obj);
  (void)me;
  mp_mark_object(p->tasks);
  mp_mark_object(p->reports);
  for (uint32_t i = 0; i < MP_POOL_FUNCTIONS; i++)
    if (p->functions[i]) mp_mark_object(p->functions[i]);
}

static void destroy_pool(mp_ref obj, struct mp_member *me) {
  const struct mp_pool *p = mp_at(obj);
  mp_count_down(p->tasks, me);
  mp_count_down(p->reports, me);
  for (uint32_t i = 0; i < MP_POOL_FUNCTIONS; i++)
    if (p->functions[i]) mp_count_down(p->functions[i], me);
}

static void trace_function(mp_ref obj, struct mp_member *me) {
  const struct mp_function *f = mp_at(obj);
  (void)me;
  for (uint32_t i = 0; i < f->nrefs; i++) mp_mark_object(f->refs[i]);
}

static void destroy_function(mp_ref obj, struct mp_member *me) {
  const struct mp_function *f = mp_at(obj);
  for (uint32_t i = 0; i < f->nrefs; i++) mp_count_down(f->refs[i], me);
}

void mp_pool_kinds(void) {
  static const struct mp_kind_ops pool = {.trace = trace_pool, .destroy = destroy_pool};
  static const struct mp_kind_ops function = {.trace = trace_function,
                                              .destroy = destroy_function};
  mp_kind_set(MP_KIND_POOL, &pool);
  mp_kind_set(MP_KIND_FUNCTION, &function);
}

/* ---- the owner ------------------------------------------------------------------------ */

static void init_function(void *function, void *message) {
  struct mp_function *f = function;
  const struct mp_message *m = message;
  for (uint32_t i = 0; i < m->nrefs; i++) {
    mp_count_up(m->refs[i]);
    f->refs[i] = m->refs[i];
  }
  f->nrefs = m->nrefs;
  f->len = m->nhead + m->len;
  unsigned char *bytes = (unsigned char *)(f->refs + m->nrefs);
  if (m->nhead) memcpy(bytes, m->head, m->nhead);
  if (m->len) memcpy(bytes + m->nhead, m->data, m->len);
}

/* The caller's entry keeps it until the pool does. */
int mp_pool_keep(struct mp_pool *p, uint32_t slot, const struct mp_message *m,
                 struct mp_member *me, mp_ref *func, uint64_t *serial) {
  struct mp_message copy = *m;
  size_t size = sizeof(struct mp_function) + m->nrefs * sizeof(mp_ref) + m->nhead + m->len;
  uint32_t entry;
  mp_ref r;
  int e = mp_object_make(size, MP_KIND_FUNCTION, me, init_function, &copy, &entry, &r);
  if (e == ENOMEM) {
    mp_collect(me);
    e = mp_object_make(size, MP_KIND_FUNCTION, me, init_function, &copy, &entry, &r);
  }
  if (e) return e;
  *func = r;
  *serial = ((struct mp_object *)mp_at(r))->serial;
  mp_family_lock(me);
  mp_ref old = p->functions[slot];
  mp_count_up(r);
  p->functions[slot] = r;
  if (old) mp_count_down(old, me);
  mp_drop_locked(entry, me);
  mp_family_unlock();
  return 0;
}

/* ---- the claim ------------------------------------------------------------------------ */

struct take {
  struct mp_pool *p;
  uint32_t i;
};

/* Under the lock for taking: a worker that was killed while it took has nothing when its
 * batch is the next in the queue still. */
static void settle_taking(struct mp_pool *p, const unsigned char *bytes) {
  uint32_t k = atomic_load_explicit(&p->taking, memory_order_relaxed);
  uint64_t id;
  if (k == 0) return;
  if (bytes) {
    memcpy(&id, bytes, sizeof id);
    if (load(&p->worker[k - 1].claim) == id) store(&p->worker[k - 1].claim, 0);
  }
  atomic_store_explicit(&p->taking, 0, memory_order_release);
}

static void claim(void *arg, const unsigned char *bytes, size_t len) {
  const struct take *t = arg;
  struct mp_worker *w = &t->p->worker[t->i];
  (void)len;
  settle_taking(t->p, bytes);
  atomic_store_explicit(&t->p->taking, t->i + 1, memory_order_relaxed);
  memcpy(&w->batch, bytes, sizeof w->batch);
  store(&w->sent, load(&w->sent) & ~TOLD);
  store(&w->claim, w->batch.id);
}

static void moved(void *arg) {
  const struct take *t = arg;
  atomic_store_explicit(&t->p->taking, 0, memory_order_release);
}

static void settle(void *arg, const unsigned char *bytes, size_t len) {
  (void)len;
  settle_taking(arg, bytes);
}

static void now_ready(struct mp_worker *w) {
  if (state_of(w) != MP_WORKER_STARTING) return;
  atomic_store_explicit(&w->ready, atomic_load_explicit(&w->life, memory_order_relaxed),
                        memory_order_release);
  set_state(w, MP_WORKER_READY);
}

int mp_worker_take(struct mp_pool *p, uint32_t i, struct mp_member *me, mp_time deadline,
                   struct mp_look *look, void *buf, struct mp_got *got, uint32_t *nrefs) {
  struct take t = {p, i};
  struct mp_taker taker = {claim, moved, &t};
  now_ready(&p->worker[i]);
  return mp_queue_claim(tasks(p), me, &taker, deadline, look, buf, got, nrefs);
}

int mp_worker_take_refs(struct mp_pool *p, uint32_t i, struct mp_member *me, void *buf,
                        struct mp_got *got, mp_ref *refs, uint32_t *entries, uint32_t room,
                        uint32_t *nrefs) {
  struct take t = {p, i};
  struct mp_taker taker = {claim, moved, &t};
  return mp_queue_claim_refs(tasks(p), me, &taker, buf, got, refs, entries, room, nrefs);
}

/* ---- results -------------------------------------------------------------------------- */

static uint32_t told_of(const struct mp_worker *w) { return (uint32_t)load(&w->sent); }
static uint32_t next_seq(const struct mp_worker *w) {
  return (uint32_t)(load(&w->sent) >> 32);
}
static uint64_t empty_done(uint32_t seq) { return (uint64_t)seq << TAG_SHIFT; }

/* `done`, as it counts for the next report. */
static uint64_t done_of(const struct mp_worker *w) {
  uint64_t d = load(&w->done), none = empty_done(next_seq(w));
  return d >> TAG_SHIFT == none >> TAG_SHIFT ? d : none;
}
static uint32_t done_count(uint64_t done) { return (uint32_t)(done / DONE_ONE) & DONE_COUNT; }
static size_t done_bytes(uint64_t done) { return (size_t)(done & DONE_BYTES); }

uint32_t mp_worker_waiting(const struct mp_worker *w) { return done_count(done_of(w)); }

bool mp_worker_result(struct mp_worker *w, const void *bytes, size_t n) {
  uint64_t d = done_of(w);
  size_t at = done_bytes(d);
  if (n > MP_POOL_OUT - at) return false;
  memcpy(w->out + at, bytes, n);
  store(&w->done, d + DONE_ONE + n);
  return true;
}

static struct mp_report report_of(const struct mp_pool *p, uint32_t i, uint32_t kind) {
  const struct mp_worker *w = &p->worker[i];
  struct mp_report r = {.kind = kind, .worker = i, .seq = next_seq(w)};
  r.life = atomic_load_explicit(&w->life, memory_order_relaxed);
  r.pid = atomic_load_explicit(&w->pid, memory_order_relaxed);
  return r;
}

/* A report on the batch in hand: `count` tasks from the `at`th on. */
static struct mp_report batch_report(const struct mp_pool *p, uint32_t i, uint32_t kind,
                                     uint32_t at, uint32_t count) {
  const struct mp_batch *b = &p->worker[i].batch;
  struct mp_report r = report_of(p, i, kind);
  r.job = b->job;
  r.first = b->first + at;
  r.count = count;
  return r;
}

/* `out` only grows until `sent` is stored, and the batch stays while `claim` does: what was
 * copied between two looks at both that saw the same is whole. */
bool mp_pool_glance(const struct mp_pool *p, uint32_t i, struct mp_report *r, void *buf,
                    size_t *len) {
  const struct mp_worker *w = &p->worker[i];
  uint64_t claim = load(&w->claim), sent = load(&w->sent), d = done_of(w);
  if (claim == 0 || done_count(d) == 0) return false;
  *r = batch_report(p, i, MP_REPORT_RESULTS, (uint32_t)sent, done_count(d));
  r->seq = (uint32_t)(sent >> 32);
  *len = done_bytes(d);
  memcpy(buf, w->out, *len);
  atomic_thread_fence(memory_order_acquire);
  return load(&w->claim) == claim && load(&w->sent) == sent &&
         d >> TAG_SHIFT == empty_done(r->seq) >> TAG_SHIFT;
}

/* Puts a report and what follows it. */
static int put(struct mp_pool *p, const struct mp_report *r, const struct mp_message *value,
               struct mp_member *me) {
  unsigned char head[sizeof *r + MP_EXTRA_HEAD];
  struct mp_message m = {0};
  if (value) m = *value;
  memcpy(head, r, sizeof *r);
  if (m.nhead) memcpy(head + sizeof *r, m.head, m.nhead);
  m.head = head;
  m.nhead += sizeof *r;
  return mp_queue_put(reports(p), &m, me, MP_FOREVER, NULL);
}

/* Notes that a report was put, and that it told of `count` tasks. */
static void note_sent(struct mp_worker *w, uint32_t count, bool last) {
  uint64_t sent = load(&w->sent), told = last ? w->batch.count : told_of(w) + count;
  store(&w->sent, ((sent & ~TOLD) + SEQ_ONE) | told);
  store(&w->done, empty_done(next_seq(w)));
  if (last) store(&w->claim, 0);
}

int mp_worker_send(struct mp_pool *p, uint32_t i, struct mp_member *me,
                   const struct mp_message *extra, uint64_t ns, bool last) {
  struct mp_worker *w = &p->worker[i];
  uint64_t d = done_of(w);
  struct mp_message out = {.data = w->out, .len = done_bytes(d)};
  uint32_t count = extra ? 1 : done_count(d);
  if (count == 0 && !last) return 0;
  struct mp_report r = batch_report(p, i, MP_REPORT_RESULTS, told_of(w), count);
  r.ns = ns;
  r.flags = last ? MP_REPORT_LAST : 0;
  int e = put(p, &r, extra ? extra : &out, me);
  if (!e) note_sent(w, count, last);
  return e;
}

/* ---- beginning and end of a worker ---------------------------------------------------- */

void mp_worker_open(struct mp_pool *p, uint32_t i, struct mp_member *me) {
  struct mp_worker *w = &p->worker[i];
  atomic_store_explicit(&w->pid, me->pid, memory_order_relaxed);
  atomic_store_explicit(&w->word, me->word, memory_order_release);
}

void mp_worker_retire(struct mp_pool *p, uint32_t i) {
  set_state(&p->worker[i], MP_WORKER_RETIRED);
}

static int put_failed(struct mp_pool *p, uint32_t i, int status, const struct mp_message *why,
                      struct mp_member *me) {
  struct mp_report r = report_of(p, i, MP_REPORT_FAILED);
  r.status = status;
  r.count = why != NULL;
  int e = put(p, &r, why, me);
  if (!e) atomic_store_explicit(&p->broken, 1, memory_order_release);
  return e;
}

int mp_worker_failed(struct mp_pool *p, uint32_t i, int status, const struct mp_message *why,
                     struct mp_member *me) {
  int e = put_failed(p, i, status, why, me);
  if (!e) set_state(&p->worker[i], MP_WORKER_FAILED);
  return e;
}

/* ---- burial --------------------------------------------------------------------------- */

void mp_pool_expect(struct mp_pool *p, uint32_t i) {
  struct mp_worker *w = &p->worker[i];
  if (state_of(w) == MP_WORKER_STARTING) return;
  atomic_fetch_add_explicit(&w->life, 1, memory_order_relaxed);
  atomic_store_explicit(&w->pid, 0, memory_order_relaxed);
  atomic_store_explicit(&w->kill_at, 0, memory_order_relaxed);
  store(&w->sent, 0);
  store(&w->done, 0);
  set_state(w, MP_WORKER_STARTING);
}

bool mp_pool_worker_alive(struct mp_pool *p, uint32_t i) {
  uint32_t word = atomic_load_explicit(&p->worker[i].word, memory_order_acquire);
  return word != 0 && mp_alive(word);
}

/* It never got ready: does that break the pool? */
static bool breaks(const struct mp_worker *w, int status) {
  uint32_t life = atomic_load_explicit(&w->life, memory_order_relaxed);
  uint32_t ready = atomic_load_explicit(&w->ready, memory_order_relaxed);
  return status >= 0 || life - ready >= MP_POOL_BROKEN_AFTER;
}

static bool overdue(const struct mp_worker *w, int status) {
  int64_t at = atomic_load_explicit(&w->kill_at, memory_order_relaxed);
  return at != 0 && status == -SIGKILL && mp_now() >= at;
}

/* Tells of a batch that a dead worker had claimed: its results, the task that it was at,
 * those that it had not begun. */
struct telling {
  struct mp_pool *p;
  struct mp_member *me;
  uint32_t i, seq, at;
  int status;
};

/* The next `count` tasks. */
static int tell(struct telling *t, uint32_t kind, uint32_t count,
                const struct mp_message *value) {
  const struct mp_worker *w = &t->p->worker[t->i];
  struct mp_report r = batch_report(t->p, t->i, kind, t->at, count);
  r.seq = t->seq++;
  r.status = t->status;
  t->at += count;
  if (t->at == w->batch.count) r.flags = MP_REPORT_LAST;
  if (kind == MP_REPORT_LOST && overdue(w, t->status)) r.flags |= MP_REPORT_OVERDUE;
  return put(t->p, &r, value, t->me);
}

static int tell_of_batch(struct mp_pool *p, uint32_t i, int status, struct mp_member *me) {
  const struct mp_worker *w = &p->worker[i];
  struct telling t = {p, me, i, next_seq(w), told_of(w), status};
  uint64_t d = done_of(w);
  struct mp_message out = {.data = w->out, .len = done_bytes(d)};
  uint32_t count = w->batch.count;
  bool retired = state_of(w) == MP_WORKER_RETIRED;
  int e = 0;
  if (done_count(d) > 0) e = tell(&t, MP_REPORT_RESULTS, done_count(d), &out);
  if (!e && t.at < count && !retired) e = tell(&t, MP_REPORT_LOST, 1, NULL);
  if (!e && t.at < count) e = tell(&t, MP_REPORT_RETURNED, count - t.at, NULL);
  return e;
}

int mp_pool_bury(struct mp_pool *p, uint32_t i, int status, struct mp_member *me) {
  struct mp_worker *w = &p->worker[i];
  int e = 0;
  if (state_of(w) == MP_WORKER_NONE) return 0;
  mp_queue_peek(tasks(p), me, settle, p);
  if (load(&w->claim) != 0) e = tell_of_batch(p, i, status, me);
  else if (state_of(w) == MP_WORKER_STARTING && breaks(w, status))
    e = put_failed(p, i, status, NULL, me);
  if (e) return e;
  store(&w->claim, 0);
  atomic_store_explicit(&w->word, 0, memory_order_release);
  set_state(w, MP_WORKER_NONE);
  return 0;
}
