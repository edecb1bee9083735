/* The storage of FIFO queues: a stream of records in chunks.  See qlayout.h. */
#include "qlayout.h"
#include <string.h>

/* Chunks grow fourfold: a queue that holds little costs little, a busy one visits
 * the allocator once in 64 KiB. */
#define CHUNK_FIRST 4096
#define CHUNK_LAST 65536

static struct chunk *chunk_at(mp_ref r) { return mp_at(r); }
static mp_ref head_chunk(uint64_t head) { return (mp_ref)(head >> 32); }

void mp_message_copy(void *to, const struct mp_message *m) {
  unsigned char *p = to;
  if (m->nrefs) {
    memcpy(p, &m->nrefs, 4);
    memcpy(p + 4, m->refs, 4 * (size_t)m->nrefs);
    p += 4 + 4 * (size_t)m->nrefs;
  }
  if (m->nhead) memcpy(p, m->head, m->nhead);
  if (m->len) memcpy(p + m->nhead, m->data, m->len);
}

void mp_stream_init(struct mp_queue *q, size_t size) {
  mp_ref c = embedded_ref(q);
  q->embedded.cap = (uint32_t)(size - offsetof(struct mp_queue, embedded.data));
  atomic_store_explicit(&q->tail, c, memory_order_relaxed);
  atomic_store_explicit(&q->head, (uint64_t)c << 32, memory_order_relaxed);
}

/* A killed producer may have linked a chunk that `tail` does not name yet. */
void mp_stream_repair_put(struct mp_queue *q) {
  mp_ref t = atomic_load_explicit(&q->tail, memory_order_relaxed), next;
  while ((next = atomic_load_explicit(&chunk_at(t)->next, memory_order_acquire)) != 0) t = next;
  atomic_store_explicit(&q->tail, t, memory_order_relaxed);
  uint64_t w = atomic_load_explicit(&chunk_at(t)->word, memory_order_relaxed);
  atomic_store_explicit(&q->puts, chunk_at(t)->first + (w >> 32), memory_order_release);
}

static uint32_t record_head(const unsigned char *rec) {
  uint32_t head;
  memcpy(&head, rec, REC_HEAD);
  return head;
}

static uint32_t record_size(uint32_t head) {
  return head & REC_RUN ? RUN_RECORD : REC_HEAD + (head & REC_LEN);
}

void mp_stream_repair_get(struct mp_queue *q) {
  uint64_t head = atomic_load_explicit(&q->head, memory_order_relaxed), n = 0;
  struct chunk *c = chunk_at(head_chunk(head));
  for (uint32_t at = 0; at < (uint32_t)head; n++) at += record_size(record_head(c->data + at));
  q->seen = (uint32_t)(atomic_load_explicit(&c->word, memory_order_acquire) & WORD_BYTES);
  atomic_store_explicit(&q->gets, c->first + n, memory_order_release);
}

/* ---- putting ------------------------------------------------------------------ */

static void write_record(unsigned char *to, const struct mp_message *m, mp_ref run) {
  uint32_t head = m->nrefs ? REC_REFS : 0;
  size_t len = message_bytes(m);
  if (run) {
    uint64_t n = len;
    head |= REC_RUN;
    memcpy(to + REC_HEAD, &run, 4);
    memcpy(to + REC_HEAD + 4, &n, 8);
  } else {
    head |= (uint32_t)len;
    mp_message_copy(to + REC_HEAD, m);
  }
  memcpy(to, &head, REC_HEAD);
}

/* An empty chunk in the hand of `me`: the spare one, or a new one four times as
 * large as the last. */
static int take_chunk(struct mp_queue *q, uint32_t last_cap, struct mp_member *me, mp_ref *out) {
  mp_ref s = atomic_load_explicit(&q->spare, memory_order_acquire);
  if (s) {
    mp_adopt(s, me->word);
    atomic_store_explicit(&q->spare, 0, memory_order_release);
    *out = s;
    return 0;
  }
  size_t size = CHUNK_FIRST;
  while (size < CHUNK_LAST && size / 2 <= last_cap) size *= 4;
  int e = mp_alloc(size, MP_KIND_CHUNK, false, me->word, out);
  if (e && size > 4 * CHUNK_FIRST) e = mp_alloc(size = 4 * CHUNK_FIRST, MP_KIND_CHUNK, false, me->word, out);
  if (!e) chunk_at(*out)->cap = (uint32_t)(mp_block_size(*out) - offsetof(struct chunk, data));
  return e;
}

static int append_chunk(struct mp_queue *q, struct chunk *last, const struct mp_message *m,
                        mp_ref run, uint32_t size, uint64_t special, struct mp_member *me) {
  mp_ref r;
  uint64_t w = atomic_load_explicit(&last->word, memory_order_relaxed);
  mp_busy(me);
  int e = take_chunk(q, last->cap, me, &r);
  if (!e && chunk_at(r)->cap < size) { /* a spare from when the queue was small */
    mp_free(&r, me->word);
    e = take_chunk(q, CHUNK_LAST, me, &r);
  }
  if (!e) {
    struct chunk *c = chunk_at(r);
    c->first = last->first + (w >> 32);
    atomic_store_explicit(&c->next, 0, memory_order_relaxed);
    write_record(c->data, m, run);
    atomic_store_explicit(&c->word, UINT64_C(1) << 32 | special | size, memory_order_release);
    atomic_store_explicit(&last->next, r, memory_order_release); /* the commit */
    mp_publish(r, queue_ref(q));
    atomic_store_explicit(&q->tail, r, memory_order_release);
    atomic_store_explicit(&q->puts, c->first + 1, memory_order_release);
  }
  mp_idle(me);
  return e;
}

int mp_stream_append(struct mp_queue *q, const struct mp_message *m, mp_ref run,
                     struct mp_member *me) {
  struct chunk *c = chunk_at(atomic_load_explicit(&q->tail, memory_order_relaxed));
  uint64_t w = atomic_load_explicit(&c->word, memory_order_relaxed);
  uint32_t used = (uint32_t)(w & WORD_BYTES);
  uint32_t size = run ? RUN_RECORD : REC_HEAD + (uint32_t)message_bytes(m);
  uint64_t special = run || m->nrefs ? WORD_SPECIAL : w & WORD_SPECIAL;
  if (c->cap - used < size) {
    special = run || m->nrefs ? WORD_SPECIAL : 0;
    return append_chunk(q, c, m, run, size, special, me);
  }
  write_record(c->data + used, m, run);
  uint64_t items = (w >> 32) + 1;
  atomic_store_explicit(&c->word, items << 32 | special | (used + size), memory_order_release);
  atomic_store_explicit(&q->puts, c->first + items, memory_order_release);
  return 0;
}

/* ---- getting -------------------------------------------------------------------- */

/* Moves head from an exhausted chunk to the next, and gives the old one away: to the
 * producers when they have none in reserve, else back to the arena.  As `spare` it
 * stays in our hand until one of them takes it into its own: to publish it would be to
 * write to a block that may be another's already. */
static void next_chunk(struct mp_queue *q, mp_ref old, mp_ref next, struct mp_member *me) {
  uint32_t none = 0;
  if (atomic_load_explicit(&q->tail, memory_order_acquire) == old) {
    /* linked, but not yet named by tail: wait for the producer, or repair its work */
    if (mp_lock_hold(&q->put_lock, me->word)) mp_stream_repair_put(q);
    mp_lock_release(&q->put_lock);
  }
  bool part = old != embedded_ref(q);
  if (part) {
    mp_busy(me);
    mp_adopt(old, me->word);
  }
  q->seen = 0;
  atomic_store_explicit(&q->head, (uint64_t)next << 32, memory_order_release); /* commit */
  if (!part) return;
  if (chunk_at(old)->cap <= CHUNK_LAST / 2 ||
      !atomic_compare_exchange_strong_explicit(&q->spare, &none, old, memory_order_acq_rel,
                                               memory_order_relaxed))
    mp_free(&old, me->word);
  mp_idle(me);
}

static bool more(struct mp_queue *q, struct chunk *c, uint32_t pos) {
  q->seen = (uint32_t)(atomic_load_explicit(&c->word, memory_order_acquire) & WORD_BYTES);
  return pos < q->seen;
}

const unsigned char *mp_stream_peek(struct mp_queue *q, struct mp_member *me, uint32_t *head) {
  for (;;) {
    uint64_t h = atomic_load_explicit(&q->head, memory_order_relaxed);
    struct chunk *c = chunk_at(head_chunk(h));
    uint32_t pos = (uint32_t)h;
    mp_ref next = 0;
    /* No record comes into a chunk once it has a successor: look at the successor
     * first and at the bytes again, then the chunk is done with. */
    bool found = pos < q->seen || more(q, c, pos);
    if (!found) {
      next = atomic_load_explicit(&c->next, memory_order_acquire);
      if (!next) return NULL;
      found = more(q, c, pos);
    }
    if (found) {
      *head = record_head(c->data + pos);
      return c->data + pos + REC_HEAD;
    }
    next_chunk(q, head_chunk(h), next, me);
  }
}

void mp_stream_consume(struct mp_queue *q, uint32_t head) {
  uint64_t h = atomic_load_explicit(&q->head, memory_order_relaxed);
  uint64_t gets = atomic_load_explicit(&q->gets, memory_order_relaxed);
  atomic_store_explicit(&q->head, h + record_size(head), memory_order_release); /* commit */
  atomic_store_explicit(&q->gets, gets + 1, memory_order_release);
}

/* ---- tracing and destruction ------------------------------------------------------- */

/* The references of a record that has some. */
static const unsigned char *record_refs(const unsigned char *body, uint32_t head, uint32_t *n) {
  if (!(head & REC_REFS)) return *n = 0, body;
  if (head & REC_RUN) {
    mp_ref run;
    memcpy(&run, body, 4);
    body = (const unsigned char *)mp_at(run) + sizeof(struct mp_block);
  }
  memcpy(n, body, 4);
  return body + 4;
}

/* Calls fn for every record from the head on whose chunk has special ones. */
static void each_special(struct mp_queue *q,
                         void (*fn)(struct mp_queue *q, const unsigned char *body, uint32_t head,
                                    struct mp_member *me),
                         struct mp_member *me) {
  uint64_t h = atomic_load_explicit(&q->head, memory_order_relaxed);
  uint32_t at = (uint32_t)h;
  for (mp_ref r = head_chunk(h); r; at = 0) {
    struct chunk *c = chunk_at(r);
    uint64_t w = atomic_load_explicit(&c->word, memory_order_relaxed);
    while (w & WORD_SPECIAL && at < (w & WORD_BYTES)) {
      uint32_t head = record_head(c->data + at);
      if (head & (REC_RUN | REC_REFS)) fn(q, c->data + at + REC_HEAD, head, me);
      at += record_size(head);
    }
    r = atomic_load_explicit(&c->next, memory_order_relaxed);
  }
}

static void mark_record(struct mp_queue *q, const unsigned char *body, uint32_t head,
                        struct mp_member *me) {
  uint32_t n;
  mp_ref r;
  (void)me;
  const unsigned char *refs = record_refs(body, head, &n);
  for (uint32_t i = 0; i < n; i++) {
    memcpy(&r, refs + 4 * (size_t)i, 4);
    mp_mark_object(r);
  }
  if (!(head & REC_RUN)) return;
  memcpy(&r, body, 4);
  mp_mark_part(r, queue_ref(q));
}

static void drop_record(struct mp_queue *q, const unsigned char *body, uint32_t head,
                        struct mp_member *me) {
  uint32_t n;
  mp_ref r;
  (void)q;
  const unsigned char *refs = record_refs(body, head, &n);
  for (uint32_t i = 0; i < n; i++) {
    memcpy(&r, refs + 4 * (size_t)i, 4);
    mp_count_down(r, me);
  }
  if (!(head & REC_RUN)) return;
  memcpy(&r, body, 4);
  mp_free(&r, me->word);
}

void mp_stream_trace(struct mp_queue *q) {
  uint64_t h = atomic_load_explicit(&q->head, memory_order_relaxed);
  for (mp_ref r = head_chunk(h); r; r = atomic_load_explicit(&chunk_at(r)->next, memory_order_relaxed))
    if (r != embedded_ref(q)) mp_mark_part(r, queue_ref(q));
  mp_ref spare = atomic_load_explicit(&q->spare, memory_order_relaxed);
  if (spare) mp_mark_part(spare, queue_ref(q));
  each_special(q, mark_record, NULL);
}

/* A swept queue takes its spare chunk with it. */
void mp_stream_unhand(struct mp_queue *q) {
  mp_ref spare = atomic_load_explicit(&q->spare, memory_order_relaxed);
  if (spare) mp_publish(spare, queue_ref(q));
}

void mp_stream_destroy(struct mp_queue *q, struct mp_member *me) {
  each_special(q, drop_record, me);
  mp_ref r = head_chunk(atomic_load_explicit(&q->head, memory_order_relaxed));
  mp_ref spare = atomic_load_explicit(&q->spare, memory_order_relaxed);
  while (r) {
    mp_ref next = atomic_load_explicit(&chunk_at(r)->next, memory_order_relaxed);
    if (r != embedded_ref(q)) mp_free(&r, me->word);
    r = next;
  }
  mp_free(&spare, me->word);
}
