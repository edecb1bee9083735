/* How a queue lies in the arena; for queue.c, stream.c, heap.c and watch.c only.
 *
 * FIFO.  The stream lies in chunks that are linked by `next`.  A chunk's `word`
 * (items and bytes in it) is what commits a put; for the first item of a new chunk
 * the store of the old one's `next` is.  `head` (chunk and position) is what commits
 * a get.  `tail`, `puts`, `gets`, `seen` are derived: `puts` is the last chunk's
 * `first` and items, `gets` the head chunk's `first` and the records before the
 * position.  Producers hold put_lock, consumers get_lock; both are taken in the order
 * get_lock, put_lock.  A chunk is freed by the consumer that moved head off it, never
 * while `tail` names it.
 *
 * LIFO and priority queues.  The items lie in a list: `first` and every item's `next`
 * are the truth, one store puts an item in or takes it out.  `prev`, the count and
 * the heap are derived.  Everything is under get_lock.
 *
 * A record in a chunk is 4 bytes of length and flags, then the message:
 *   plain        its bytes
 *   REC_REFS     a count, that many mp_refs, its bytes
 *   REC_RUN      the mp_ref of a RUN block and the length of the message in it, which
 *                begins as with REC_REFS when that is set too
 *
 * A block that is linked by one of these stores is published (LIVE) just after it and
 * taken into the hand (NEW) just before it is unlinked, both under the lock, so that
 * the collector, which holds both locks, finds each block either linked or in the
 * hand of somebody.
 */
#ifndef MP_IPC_QLAYOUT_H
#define MP_IPC_QLAYOUT_H
#include "queue.h"

#define REC_RUN 0x80000000u
#define REC_REFS 0x40000000u
#define REC_LEN 0x3fffffffu
#define REC_HEAD 4u
#define RUN_RECORD (REC_HEAD + 12u)

/* A piece of the stream.  first: items put before its first one; cap: bytes of data;
 * both set once.  next, word: producers, under put_lock.  word: items (32-63), bytes
 * (0-30), and bit 31 when a record in it is not plain. */
struct chunk {
  struct mp_block block;
  uint64_t first;
  uint32_t cap;
  _Atomic uint32_t next;
  _Atomic uint64_t word;
  unsigned char data[];
};
#define WORD_SPECIAL 0x80000000u
#define WORD_BYTES 0x7fffffffu

/* An item of a LIFO or priority queue; data: its references, then its bytes. */
struct item {
  struct mp_block block;
  _Atomic uint32_t next; /* truth */
  uint32_t prev, at;     /* derived: list, place in the heap */
  uint32_t nrefs;
  uint64_t seq;
  double priority;
  size_t len;
  unsigned char data[];
};

struct heap {
  struct mp_block block;
  uint32_t cap, pad;
  mp_ref item[];
};

/* Who is to be rung when an item comes; in a list from queue.watches, under put_lock.
 * state: bit 0 rung, the rest counts how often it was calmed.  word: its process. */
struct watch {
  struct mp_block block;
  _Atomic uint32_t next;
  uint32_t word;
  _Atomic uint32_t state;
  uint32_t nname;
  char name[64];
};

/* Cache lines: what never changes, the producers', the consumers', the joiners'. */
struct mp_queue {
  struct mp_object o;
  uint32_t maxsize;
  _Atomic uint32_t shut;    /* truth; under put_lock (get_lock for lists) */
  _Atomic uint32_t watches; /* truth; under put_lock */
  _Alignas(64) struct mp_lock put_lock;
  _Atomic uint32_t tail;
  _Atomic uint64_t puts;
  uint64_t gets_seen;     /* what a bounded queue's producers know of gets */
  struct mp_waitq readers; /* getters asleep */
  _Atomic uint32_t spare;  /* an empty chunk that a consumer left for a producer */
  _Alignas(64) struct mp_lock get_lock;
  uint32_t seen;           /* the head chunk's bytes, as last read */
  _Atomic uint64_t head;   /* truth: chunk (32-63), position (0-31) */
  _Atomic uint64_t gets;
  struct mp_waitq writers; /* putters asleep, bounded queues only */
  _Atomic uint32_t first;  /* lists: truth */
  _Atomic uint32_t heap;   /* priority queues: derived */
  uint32_t count;          /* lists: derived */
  _Alignas(64) _Atomic uint64_t dones;
  _Atomic uint64_t abandoned;
  _Atomic int64_t carry;
  struct mp_waitq joiners;
  _Alignas(64) struct chunk embedded; /* the first chunk, FIFO only */
};

static inline mp_ref queue_ref(const struct mp_queue *q) { return mp_ref_of(q); }
static inline mp_ref embedded_ref(const struct mp_queue *q) { return mp_ref_of(&q->embedded); }
static inline bool is_list(const struct mp_queue *q) {
  return mp_block_kind(&q->o.block) != MP_KIND_QUEUE;
}
static inline size_t message_bytes(const struct mp_message *m) {
  return m->nhead + m->len + (m->nrefs ? 4 + 4 * (size_t)m->nrefs : 0);
}
/* Copies a message, references first, to `to`. */
void mp_message_copy(void *to, const struct mp_message *m);

/* stream.c: the FIFO's storage.  append: under put_lock; `run`: the RUN block that
 * holds the message, or 0.  0 or ENOMEM.  take: under get_lock. */
void mp_stream_init(struct mp_queue *q, size_t size);
void mp_stream_repair_put(struct mp_queue *q);
void mp_stream_repair_get(struct mp_queue *q);
int mp_stream_append(struct mp_queue *q, const struct mp_message *m, mp_ref run,
                     struct mp_member *me);
/* The next record: its head and the place of its bytes; NULL when there is none. */
const unsigned char *mp_stream_peek(struct mp_queue *q, struct mp_member *me, uint32_t *head);
void mp_stream_consume(struct mp_queue *q, uint32_t head);
void mp_stream_trace(struct mp_queue *q);
void mp_stream_unhand(struct mp_queue *q);
void mp_stream_destroy(struct mp_queue *q, struct mp_member *me);

/* heap.c: the lists' storage, under get_lock. */
void mp_list_repair(struct mp_queue *q);
int mp_list_make(const struct mp_message *m, struct mp_member *me, mp_ref *item);
int mp_list_insert(struct mp_queue *q, mp_ref item, struct mp_member *me);
struct item *mp_list_peek(struct mp_queue *q);
void mp_list_remove(struct mp_queue *q, struct item *i, struct mp_member *me);
void mp_list_trace(struct mp_queue *q);
void mp_list_destroy(struct mp_queue *q, struct mp_member *me);

/* watch.c.  ring: whoever waits; not under a lock. */
/* Once in a process, early. */
void mp_watch_setup(void);
void mp_watch_ring(struct mp_queue *q, struct mp_member *me);
void mp_watch_died(struct mp_queue *q, uint32_t word, struct mp_member *me);
void mp_watch_trace(struct mp_queue *q);
void mp_watch_destroy(struct mp_queue *q, struct mp_member *me);

#endif
