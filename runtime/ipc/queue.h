/* Queues of messages in shared memory: FIFO streams, LIFO and priority queues.
 *
 * All functions: `me` the calling member; no mp lock may be held.  Blocking ones take
 * an absolute deadline and return EINTR at a signal or the end of a slice: run hooks,
 * call again with the same deadline.
 */
#ifndef MP_IPC_QUEUE_H
#define MP_IPC_QUEUE_H
#include "../os/wait.h"
#include "../shm/family.h"

/* Messages up to this size travel inside a queue's chunks; larger ones have a run of
 * pages of their own. */
#define MP_INLINE_MAX 8192

struct mp_queue;

/* A message to put: the objects it refers to, and its bytes in two pieces. */
struct mp_message {
  const void *head, *data;
  size_t nhead, len;
  const mp_ref *refs;
  uint32_t nrefs;
  double priority;
};

/* A message taken.  data: `len` bytes, either in the buffer that the caller gave or
 * in `block`, which is in the caller's hand and goes back with mp_got_done. */
struct mp_got {
  const unsigned char *data;
  size_t len;
  mp_ref block;
};

size_t mp_queue_size(enum mp_kind kind); /* bytes, for mp_object_make */
void mp_queue_init(void *queue, void *maxsize); /* maxsize: uint32_t *, 0 none */
void mp_queue_kinds(void);                      /* registers mp_kind_ops */

/* 0: the message is in.  EAGAIN: still full at the deadline.  EPIPE: shut down.
 * ENOMEM: shared memory is full.  EINTR.  In all cases but the first the queue is as
 * it was.  `look` may be NULL. */
int mp_queue_put(struct mp_queue *q, const struct mp_message *m, struct mp_member *me,
                 mp_time deadline, struct mp_look *look);

/* Puts as many of n messages, in order, as have room at this moment; *done of them went
 * in.  Only messages of at most MP_INLINE_MAX bytes without references.  0, EPIPE or
 * ENOMEM with what went in before. */
int mp_queue_put_batch(struct mp_queue *q, const struct mp_message *m, uint32_t n,
                       struct mp_member *me, uint32_t *done);

/* Takes the next message into `buf` (MP_INLINE_MAX bytes) or a block.  0; EAGAIN:
 * empty at the deadline; EPIPE: shut down and empty; EINTR; EBADMSG: the next one
 * carries references: *nrefs of them, take it with mp_queue_get_refs.  `entry`: the
 * caller's reference to the queue, which counts what is not marked done. */
int mp_queue_get(struct mp_queue *q, struct mp_member *me, uint32_t entry, mp_time deadline,
                 struct mp_look *look, void *buf, struct mp_got *got, uint32_t *nrefs);

/* Takes the next message if it carries at most `room` references, registers them
 * (refs[i], entries[i], *nrefs) and does not wait: EAGAIN when the next message is
 * another one now (call mp_queue_get again).  ENOMEM: it stays in the queue. */
int mp_queue_get_refs(struct mp_queue *q, struct mp_member *me, uint32_t entry, void *buf,
                      struct mp_got *got, mp_ref *refs, uint32_t *entries, uint32_t room,
                      uint32_t *nrefs);

/* For messages that must always be somebody's.  claim: called under the lock with the
 * message's bytes (without its references) before it leaves the queue; moved: after it
 * has.  Both are short, take no lock and do not fail.  When the caller is killed between
 * the two, nobody else has taken a message since that did not call `claim` after. */
struct mp_taker {
  void (*claim)(void *arg, const unsigned char *bytes, size_t len);
  void (*moved)(void *arg);
  void *arg;
};

/* As mp_queue_get and mp_queue_get_refs, with a claim; of a FIFO queue only.  What is
 * taken so does not count for mp_queue_join. */
int mp_queue_claim(struct mp_queue *q, struct mp_member *me, const struct mp_taker *taker,
                   mp_time deadline, struct mp_look *look, void *buf, struct mp_got *got,
                   uint32_t *nrefs);
int mp_queue_claim_refs(struct mp_queue *q, struct mp_member *me, const struct mp_taker *taker,
                        void *buf, struct mp_got *got, mp_ref *refs, uint32_t *entries,
                        uint32_t room, uint32_t *nrefs);

/* Calls fn under the lock for taking with the bytes of the next message of a FIFO queue;
 * NULL, 0 when there is none. */
void mp_queue_peek(struct mp_queue *q, struct mp_member *me,
                   void (*fn)(void *arg, const unsigned char *bytes, size_t len), void *arg);

/* Takes up to `max` messages that lie inside chunks, one behind the other, into
 * `buf` of `size` bytes; lens[i] their lengths.  Does not wait.  Returns how many. */
uint32_t mp_queue_get_batch(struct mp_queue *q, struct mp_member *me, uint32_t entry, void *buf,
                            size_t size, uint32_t *lens, uint32_t max);

void mp_got_done(struct mp_got *got, struct mp_member *me);

uint64_t mp_queue_count(struct mp_queue *q, struct mp_member *me);
uint32_t mp_queue_maxsize(const struct mp_queue *q);
bool mp_queue_is_shut(const struct mp_queue *q);
void mp_queue_shut(struct mp_queue *q, struct mp_member *me);

/* 0, or EINVAL: more often than items were put. */
int mp_queue_task_done(struct mp_queue *q, struct mp_member *me, uint32_t entry);
/* 0: every item put was marked done, or *abandoned (grows) of them were taken by
 * processes that died.  EAGAIN at the deadline, EINTR. */
int mp_queue_join(struct mp_queue *q, struct mp_member *me, mp_time deadline,
                  uint64_t *abandoned);

/* A descriptor that polls readable while items wait (perhaps in vain). */
struct mp_watcher {
  int fd; /* -1: none */
  pid_t pid;
  mp_ref watch;
};
int mp_queue_watch(struct mp_queue *q, struct mp_member *me, struct mp_watcher *w);
/* Call when the queue was seen empty: takes the ring back. */
void mp_queue_calm(struct mp_queue *q, struct mp_member *me, struct mp_watcher *w);
void mp_queue_unwatch(struct mp_queue *q, struct mp_member *me, struct mp_watcher *w);

#endif
