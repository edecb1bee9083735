/* The storage of LIFO and priority queues: a list of items, and for priority queues a
 * binary heap over them.  See qlayout.h.  Lowest priority number first, the earlier
 * put among equals. */
#include "qlayout.h"
#include <errno.h>
#include <string.h>

#define HEAP_FIRST 128 /* bytes; doubles */

static struct item *item_at(mp_ref r) { return mp_at(r); }
static bool ordered(const struct mp_queue *q) {
  return mp_block_kind(&q->o.block) == MP_KIND_PRIORITY;
}
static struct heap *heap_of(struct mp_queue *q) {
  mp_ref r = atomic_load_explicit(&q->heap, memory_order_relaxed);
  return r ? mp_at(r) : NULL;
}

/* ---- the heap: derived ------------------------------------------------------- */

static bool before(mp_ref a, mp_ref b) {
  const struct item *x = item_at(a), *y = item_at(b);
  if (x->priority < y->priority) return true;
  return x->priority == y->priority && x->seq < y->seq;
}

static void place(struct heap *h, uint32_t i, mp_ref r) {
  h->item[i] = r;
  item_at(r)->at = i;
}

static void sift_up(struct heap *h, uint32_t i, mp_ref r) {
  for (; i > 0 && before(r, h->item[(i - 1) / 2]); i = (i - 1) / 2)
    place(h, i, h->item[(i - 1) / 2]);
  place(h, i, r);
}

static void sift_down(struct heap *h, uint32_t n, uint32_t i, mp_ref r) {
  for (uint32_t kid; (kid = 2 * i + 1) < n; i = kid) {
    if (kid + 1 < n && before(h->item[kid + 1], h->item[kid])) kid++;
    if (!before(h->item[kid], r)) break;
    place(h, i, h->item[kid]);
  }
  place(h, i, r);
}

/* Takes the item at place i out of a heap of n. */
static void cut(struct heap *h, uint32_t n, uint32_t i) {
  mp_ref last = h->item[n - 1];
  if (i == n - 1) return;
  sift_down(h, n - 1, i, last);
  if (item_at(last)->at == i) sift_up(h, i, last);
}

/* Makes room for n items.  The new block is in no place but ours until the one store
 * that makes it the heap; the old one is taken in hand before that. */
static int grow(struct mp_queue *q, uint32_t n, struct mp_member *me) {
  struct heap *h = heap_of(q);
  mp_ref r, old = atomic_load_explicit(&q->heap, memory_order_relaxed);
  if (h && n <= h->cap) return 0;
  mp_busy(me);
  int e = mp_alloc(h ? 2 * mp_block_size(old) : HEAP_FIRST, MP_KIND_HEAP, false, me->word, &r);
  if (!e) {
    struct heap *to = mp_at(r);
    to->cap = (uint32_t)((mp_block_size(r) - sizeof *to) / sizeof to->item[0]);
    if (h) memcpy(to->item, h->item, (size_t)q->count * sizeof to->item[0]);
    if (old) mp_adopt(old, me->word);
    atomic_store_explicit(&q->heap, r, memory_order_release);
    mp_publish(r, queue_ref(q));
    mp_free(&old, me->word);
  }
  mp_idle(me);
  return e;
}

/* ---- the list: truth ------------------------------------------------------------ */

/* Everything derived from `first` and `next`. */
void mp_list_repair(struct mp_queue *q) {
  struct heap *h = heap_of(q);
  uint64_t puts = atomic_load_explicit(&q->puts, memory_order_relaxed);
  mp_ref r = atomic_load_explicit(&q->first, memory_order_acquire), prev = 0;
  q->count = 0;
  for (; r; r = atomic_load_explicit(&item_at(r)->next, memory_order_acquire)) {
    struct item *i = item_at(r);
    i->prev = prev;
    prev = r;
    if (i->seq > puts) puts = i->seq;
    if (ordered(q)) sift_up(h, q->count, r); /* there was room before the commit */
    q->count++;
  }
  atomic_store_explicit(&q->puts, puts, memory_order_relaxed);
  atomic_store_explicit(&q->gets, puts - q->count, memory_order_release);
}

int mp_list_make(const struct mp_message *m, struct mp_member *me, mp_ref *out) {
  size_t n = message_bytes(m);
  int e = mp_alloc(offsetof(struct item, data) + n, MP_KIND_ITEM, false, me->word, out);
  if (e) return e;
  struct item *i = item_at(*out);
  i->priority = m->priority;
  i->nrefs = m->nrefs;
  i->len = n;
  i->prev = i->at = 0;
  mp_message_copy(i->data, m);
  return 0;
}

int mp_list_insert(struct mp_queue *q, mp_ref r, struct mp_member *me) {
  struct item *i = item_at(r);
  int e = ordered(q) ? grow(q, q->count + 1, me) : 0;
  if (e) return e;
  mp_ref old = atomic_load_explicit(&q->first, memory_order_relaxed);
  uint64_t puts = atomic_load_explicit(&q->puts, memory_order_relaxed) + 1;
  i->seq = puts;
  atomic_store_explicit(&i->next, old, memory_order_relaxed);
  atomic_store_explicit(&q->first, r, memory_order_release); /* the commit */
  mp_publish(r, queue_ref(q));
  if (old) item_at(old)->prev = r;
  if (ordered(q)) sift_up(heap_of(q), q->count, r);
  q->count++;
  atomic_store_explicit(&q->puts, puts, memory_order_release);
  return 0;
}

struct item *mp_list_peek(struct mp_queue *q) {
  if (q->count == 0) return NULL;
  return item_at(ordered(q) ? heap_of(q)->item[0]
                            : atomic_load_explicit(&q->first, memory_order_relaxed));
}

/* Takes an item out, into the hand of `me`. */
void mp_list_remove(struct mp_queue *q, struct item *i, struct mp_member *me) {
  mp_ref r = mp_ref_of(i), next = atomic_load_explicit(&i->next, memory_order_relaxed);
  mp_adopt(r, me->word);
  _Atomic uint32_t *link = i->prev ? &item_at(i->prev)->next : &q->first;
  atomic_store_explicit(link, next, memory_order_release); /* the commit */
  if (next) item_at(next)->prev = i->prev;
  if (ordered(q)) cut(heap_of(q), q->count, i->at);
  q->count--;
  uint64_t gets = atomic_load_explicit(&q->gets, memory_order_relaxed);
  atomic_store_explicit(&q->gets, gets + 1, memory_order_release);
}

static mp_ref item_ref(const struct item *i, uint32_t k) {
  mp_ref r;
  memcpy(&r, i->data + 4 + 4 * (size_t)k, 4);
  return r;
}

void mp_list_trace(struct mp_queue *q) {
  mp_ref r = atomic_load_explicit(&q->first, memory_order_relaxed);
  for (; r; r = atomic_load_explicit(&item_at(r)->next, memory_order_relaxed)) {
    mp_mark_part(r, queue_ref(q));
    for (uint32_t k = 0; k < item_at(r)->nrefs; k++) mp_mark_object(item_ref(item_at(r), k));
  }
  r = atomic_load_explicit(&q->heap, memory_order_relaxed);
  if (r) mp_mark_part(r, queue_ref(q));
}

void mp_list_destroy(struct mp_queue *q, struct mp_member *me) {
  mp_ref r = atomic_load_explicit(&q->first, memory_order_relaxed);
  mp_ref heap = atomic_load_explicit(&q->heap, memory_order_relaxed);
  while (r) {
    struct item *i = item_at(r);
    mp_ref next = atomic_load_explicit(&i->next, memory_order_relaxed);
    for (uint32_t k = 0; k < i->nrefs; k++) mp_count_down(item_ref(i, k), me);
    mp_free(&r, me->word);
    r = next;
  }
  mp_free(&heap, me->word);
}
