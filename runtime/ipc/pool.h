/* A pool of workers, seen from the arena: what each worker has in hand and has done of
 * it, so that whoever finds it dead knows which tasks it had finished, which one it was
 * at, and which ones it had not begun.  Knows nothing of Lua: functions, arguments and
 * results are bytes.
 *
 * The processes.  The owner made the pool; it submits batches to the queue `tasks` and
 * takes reports from the queue `reports`.  The nursery, a child of the owner, forks the
 * workers, reaps and buries them.  Worker i of n writes its own record only.
 *
 * A batch is a message in `tasks`: a struct mp_batch, then `count` marshalled values,
 * one behind the other.  Batch ids are never used again; 0 is none.
 *
 * The claim.  A worker takes a batch under the queue's lock: it stores its number in
 * `taking`, copies the batch's head into its record, stores the id in `claim`, then the
 * queue's head moves, and `taking` is 0 again.  So at every instant a batch is in the
 * queue, or claimed, or its last report is in `reports` (the claim is dropped after that).
 * A worker that is killed between the two stores has a claim on a batch that is still in
 * the queue.  It held the lock, so whoever has the lock next finds it in `taking`, and the
 * batch at the head of the queue: then the claim is void and is dropped, before anything
 * is taken and before anybody is buried.
 *
 * Results.  A worker appends each result to `out` of its record and commits it with one
 * store of `done`.  They go to the owner as a report when the batch ends, when `out` is
 * full, or when the last report was a while ago; then `sent` is stored, then `done`.
 * `done` counts for the report number in `sent` only: it carries the lowest bits of it.
 *
 * Reports are numbered per worker (life and seq, both grow; seq from 0 on in every life).
 * A worker may be killed after a report was put and before `sent` says so; who buries it
 * puts the same one again, with the same number, and so does who buries it once more
 * because the first who did was killed.  The owner passes over every number that it has
 * seen.  Whether a result that was put by itself (`extra`) is in the queue cannot be seen
 * in the record.  So the task that was running is told of with that number (LOST: passed
 * over when the result came), and those behind it with the next one (RETURNED).
 *
 * Getting ready.  A worker is ready when it takes for the first time.  One that ended
 * before that, or was killed before that when MP_POOL_BROKEN_AFTER - 1 before it were
 * too, breaks the pool: FAILED.
 *
 * All functions: `me` the calling member; no mp lock may be held.
 */
#ifndef MP_IPC_POOL_H
#define MP_IPC_POOL_H
#include "queue.h"

#define MP_POOL_OUT 4096        /* bytes of results that wait to be sent, a worker */
#define MP_POOL_CANCELS 1024    /* a job is marked as cancelled at id modulo this */
#define MP_POOL_FUNCTIONS 64    /* functions that a pool keeps */
#define MP_POOL_WORKERS_MAX 4000
#define MP_POOL_BROKEN_AFTER 5  /* so many in a row were killed before they were ready */

/* The head of a batch.  first, count: numbers of its tasks in the job, from 1 on.
 * func, serial: the FUNCTION object with what is to be called.  timeout, grace: of a task,
 * in ns; 0 none.  flags: MP_BATCH_*. */
struct mp_batch {
  uint64_t id, job, first;
  uint32_t count, flags;
  uint64_t serial;
  mp_ref func;
  uint32_t unused;
  int64_t timeout, grace;
  uint64_t seed;
};
enum {
  MP_BATCH_SPREAD = 1, /* an item is a list of arguments (starmap, apply) */
  MP_BATCH_SEEDED = 2  /* every task begins with a random stream of its own */
};

enum mp_worker_state {
  MP_WORKER_NONE,     /* nobody, or buried */
  MP_WORKER_STARTING, /* expected, or not ready yet */
  MP_WORKER_READY,
  MP_WORKER_RETIRED,  /* ends in order */
  MP_WORKER_FAILED    /* has told why it could not get ready */
};

/* A worker's record.  life, state STARTING: the nursery; everything else: the worker
 * while it lives, then who buries it.
 * word: its lock word, pid: its number; 0 until it has come.   life: which one it is of
 * those that had this record, from 1 on.   ready: the last life that got ready.
 * kill_at: when its own timer kills it, CLOCK_MONOTONIC ns, 0 never.
 * claim: truth, a batch's id or 0; batch is valid while it is not 0.
 * sent: reports put (32-63), tasks of the batch that they told of (0-31).
 * done: sent's lowest 16 bits of the report number (48-63), results in `out` (24-47),
 * their bytes (0-23). */
struct mp_worker {
  _Alignas(64) _Atomic uint32_t word;
  _Atomic uint32_t life;
  _Atomic uint32_t state;
  _Atomic int32_t pid;
  _Atomic int64_t kill_at;
  _Atomic uint64_t claim;
  _Atomic uint64_t sent;
  _Atomic uint64_t done;
  _Atomic uint32_t ready;
  struct mp_batch batch;
  unsigned char out[MP_POOL_OUT];
};

/* tasks, reports: the queues, which the pool refers to.  broken: a worker could not get
 * ready; by who tells of it, never 0 again.  taking: the worker that takes (from 1 on),
 * under the lock for taking of `tasks`.  functions: FUNCTION objects that it refers to,
 * under the family lock.  cancelled: ids of jobs, by the owner. */
struct mp_pool {
  struct mp_object o;
  mp_ref tasks, reports;
  uint32_t n;
  _Atomic uint32_t broken;
  _Alignas(64) _Atomic uint32_t taking;
  _Alignas(64) mp_ref functions[MP_POOL_FUNCTIONS];
  _Atomic uint64_t cancelled[MP_POOL_CANCELS];
  struct mp_worker worker[];
};

/* A function, marshalled, and the objects that it refers to.  Never changes.  One that
 * a batch's head names may be gone when the batch is taken, because its job was
 * cancelled: mp_refer_serial(func, serial, …) tells (ESTALE: drop the batch). */
struct mp_function {
  struct mp_object o;
  uint32_t nrefs;
  uint32_t unused;
  uint64_t len;
  mp_ref refs[]; /* then the bytes */
};

enum mp_report_kind {
  MP_REPORT_RESULTS = 1, /* `count` values follow, of tasks first .. first + count - 1 */
  MP_REPORT_LOST,        /* the worker is gone while task `first` was running; count is 1 */
  MP_REPORT_RETURNED,    /* it is gone: tasks first .. first + count - 1 were not begun */
  MP_REPORT_FAILED       /* it could not get ready; a value follows when it said why */
};
/* ns: how long the tasks took, all together (0: not known).  status: exit code, -N for
 * signal N.  pid: 0 when the worker never came. */
enum { MP_REPORT_LAST = 1,    /* nothing more comes of this batch */
       MP_REPORT_OVERDUE = 2  /* LOST: killed because its time was over */ };
struct mp_report {
  uint32_t kind, flags;
  uint32_t worker, life, seq; /* worker: from 0 on */
  int32_t pid, status;
  uint32_t count;
  uint64_t job, first, ns;
};

size_t mp_pool_size(uint32_t n);
struct mp_pool_make { uint32_t n; mp_ref tasks, reports; };
void mp_pool_init(void *pool, void *make); /* for mp_object_make */
void mp_pool_kinds(void);                  /* registers mp_kind_ops of POOL and FUNCTION */

/* ---- the owner ---- */
/* Makes a FUNCTION object of a message (refs and bytes), which the pool keeps in `slot`;
 * what was there goes.  0 or ENOMEM. */
int mp_pool_keep(struct mp_pool *p, uint32_t slot, const struct mp_message *m,
                 struct mp_member *me, mp_ref *func, uint64_t *serial);
static inline void mp_pool_cancel(struct mp_pool *p, uint64_t job) {
  atomic_store_explicit(&p->cancelled[job % MP_POOL_CANCELS], job, memory_order_relaxed);
}
static inline bool mp_pool_cancelled(const struct mp_pool *p, uint64_t job) {
  const _Atomic uint64_t *at = &p->cancelled[job % MP_POOL_CANCELS];
  return atomic_load_explicit(at, memory_order_relaxed) == job;
}

/* ---- a worker ---- */
/* Sets up record i for the calling process. */
void mp_worker_open(struct mp_pool *p, uint32_t i, struct mp_member *me);
/* Takes a batch, whose head is in the record from then on: as mp_queue_get, with the
 * claim.  The bytes begin with the head, too.  The last batch must be done with (`last`).
 * EPIPE: no more tasks.  EBADMSG as there: then mp_worker_take_refs. */
int mp_worker_take(struct mp_pool *p, uint32_t i, struct mp_member *me, mp_time deadline,
                   struct mp_look *look, void *buf, struct mp_got *got, uint32_t *nrefs);
int mp_worker_take_refs(struct mp_pool *p, uint32_t i, struct mp_member *me, void *buf,
                        struct mp_got *got, mp_ref *refs, uint32_t *entries, uint32_t room,
                        uint32_t *nrefs);
/* Appends and commits one result; false: there is no room, send first (a result that does
 * not fit into an empty `out` goes by mp_worker_send with `extra`). */
bool mp_worker_result(struct mp_worker *w, const void *bytes, size_t n);
/* What worker i has committed and not sent, while it is at a long task: the head of a
 * report as it would be sent now, and the results copied to `buf` (MP_POOL_OUT bytes), *len
 * bytes of them.  The same results come again with the report of that number.  False: there
 * are none, or they were sent meanwhile. */
bool mp_pool_glance(const struct mp_pool *p, uint32_t i, struct mp_report *r, void *buf,
                    size_t *len);
/* The results that wait in `out`. */
uint32_t mp_worker_waiting(const struct mp_worker *w);
/* Puts what is in `out` as a report (none when it is empty and not `last`), or without it
 * the one result `extra` (`out` must be empty then; it may have references; its `head` at
 * most MP_EXTRA_HEAD bytes).  ns: since the last report.  last: the batch is done, whether
 * all of its tasks were told of or its job was cancelled; drops the claim after that.
 * 0, ENOMEM, EINTR (nothing was put: call again). */
#define MP_EXTRA_HEAD 16
int mp_worker_send(struct mp_pool *p, uint32_t i, struct mp_member *me,
                   const struct mp_message *extra, uint64_t ns, bool last);
/* The worker ends in order (retired, or no more tasks); what it has claimed and not begun
 * is given back when it is buried. */
void mp_worker_retire(struct mp_pool *p, uint32_t i);
/* Worker i cannot get ready, `why` a value or NULL: puts FAILED, breaks the pool.  Called
 * by the worker, or by the nursery, which could not fork it, between mp_pool_expect and
 * mp_pool_bury.  0, ENOMEM, EINTR as mp_worker_send. */
int mp_worker_failed(struct mp_pool *p, uint32_t i, int status, const struct mp_message *why,
                     struct mp_member *me);

/* ---- the nursery, or the owner when the nursery is dead ---- */
/* Before the fork: a new life in record i (the same one when the last was expected and
 * never buried, because the fork failed). */
void mp_pool_expect(struct mp_pool *p, uint32_t i);
/* Worker i is dead, `status` its exit code or -signal: puts what has to be told of it
 * (results; LOST and RETURNED, when it retired RETURNED only; FAILED, see above), and
 * empties the record.  Nothing when it is empty.  0; ENOMEM: call again later; EINTR: call
 * again. */
int mp_pool_bury(struct mp_pool *p, uint32_t i, int status, struct mp_member *me);
/* A worker could not get ready: no more are to be forked. */
static inline bool mp_pool_broken(const struct mp_pool *p) {
  return atomic_load_explicit(&p->broken, memory_order_acquire) != 0;
}
/* The worker that has record i lives; false before it has come. */
bool mp_pool_worker_alive(struct mp_pool *p, uint32_t i);

#endif
