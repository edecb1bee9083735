/* Queues at their edges, with kill points: batches, chunks in reserve, bounds, shutting
 * down, marking done, ringing. */
#include "ipc/qlayout.h"
#include "check.h"
#include <poll.h>

/* Bytes: chunks have room for 2, 8, 32, 32 … of them. */
#define ITEM 2000
#define SMALL 4
#define NUMBERS 100

static struct mp_queue *queue;
static uint32_t entry;
static mp_ref ref;
static size_t base;

static void make(uint32_t maxsize) {
  mp_collect(&me);
  base = arena_used();
  CHECK(mp_object_make(mp_queue_size(MP_KIND_QUEUE), MP_KIND_QUEUE, &me, mp_queue_init, &maxsize,
                       &entry, &ref) == 0);
  queue = mp_at(ref);
}

static void drop(void) {
  mp_drop(entry, &me);
  mp_collect(&me);
  CHECK(arena_used() == base);
}

/* Item n is n all over; made beforehand, so that what is stepped through is the queue. */
static uint32_t item[NUMBERS][ITEM / 4];

static void make_items(void) {
  for (uint32_t n = 0; n < NUMBERS; n++)
    for (size_t i = 0; i < ITEM / 4; i++) item[n][i] = n;
}

static int put(uint32_t number, size_t bytes) {
  struct mp_message m = {.data = item[number], .len = bytes};
  int e;
  do e = mp_queue_put(queue, &m, &me, MP_NEVER, NULL);
  while (e == EINTR);
  return e;
}

/* The number of the next item; 0: none, -1: not whole, -2: shut down. */
static long get(void) {
  unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  uint32_t nrefs, x;
  int e = mp_queue_get(queue, &me, entry, MP_NEVER, NULL, buf, &got, &nrefs);
  if (e) return e == EPIPE ? -2 : 0;
  memcpy(&x, got.data, 4);
  long number = (long)x;
  for (size_t i = 0; i < got.len / 4; i++) {
    memcpy(&x, got.data + 4 * i, 4);
    if ((long)x != number) number = -1;
  }
  mp_got_done(&got, &me);
  return number;
}

/* Takes what is there: all of first..last, in order. */
static void expect(uint32_t first, uint32_t last) {
  for (uint32_t i = first; i <= last; i++) CHECK(get() == (long)i);
  CHECK(mp_queue_count(queue, &me) == 0);
}

static void settle(void) {
  CHECK(get() == 0);
  for (uint32_t i = 1; i <= 50; i++) CHECK(put(i, ITEM) == 0);
  expect(1, 50);
  drop();
}

/* ---- chunks in reserve ----------------------------------------------------------------- */

static uint32_t nputs, ngets;

static void fill(void) {
  make(0);
  for (uint32_t i = 1; i <= nputs; i++) CHECK(put(i, ITEM) == 0);
  for (uint32_t i = 1; i <= ngets; i++) CHECK(get() == (long)i);
}
static void op_get(void) { get(); }
static void op_put(void) { put(nputs + 1, ITEM); }
static void op_both(void) {
  get();
  for (uint32_t i = 1; i <= 5; i++) put(nputs + i, ITEM);
  get();
}
static void check_rest(void) {
  uint32_t n = (uint32_t)mp_queue_count(queue, &me);
  long first = n ? get() : 0;
  CHECK(n == 0 || (first > (long)ngets && first <= (long)ngets + 3));
  if (n > 0) expect((uint32_t)first + 1, (uint32_t)first + n - 1);
  settle();
}

static void crash_fill(const char *name, uint32_t n, uint32_t taken, void (*op)(void)) {
  nputs = n;
  ngets = taken;
  crash_all(name, fill, op, check_rest);
}

/* ---- batches --------------------------------------------------------------------------- */

#define BATCH 6

static void prepare_batch(void) {
  make(0);
  for (uint32_t i = 1; i <= BATCH; i++) CHECK(put(i, ITEM) == 0);
}
static void op_put_batch(void) {
  struct mp_message m[BATCH];
  uint32_t done;
  memset(m, 0, sizeof m);
  for (uint32_t i = 0; i < BATCH; i++) {
    m[i].data = item[BATCH + 1 + i];
    m[i].len = ITEM;
  }
  mp_queue_put_batch(queue, m, BATCH, &me, &done);
}
static void check_put_batch(void) {
  uint64_t n = mp_queue_count(queue, &me);
  CHECK(n >= BATCH && n <= 2 * BATCH);
  expect(1, (uint32_t)n);
  settle();
}
static void op_get_batch(void) {
  static unsigned char buf[16384];
  uint32_t lens[BATCH];
  mp_queue_get_batch(queue, &me, entry, buf, sizeof buf, lens, 4);
}
static void check_get_batch(void) {
  uint64_t n = mp_queue_count(queue, &me);
  CHECK(n >= 2 && n <= BATCH);
  expect(BATCH + 1 - (uint32_t)n, BATCH);
  settle();
}

/* ---- bounds ---------------------------------------------------------------------------- */

static void prepare_full(void) {
  make(2);
  CHECK(put(1, SMALL) == 0);
  CHECK(put(2, SMALL) == 0);
  CHECK(put(3, SMALL) == EAGAIN);
}
static void op_get_put(void) {
  get();
  put(3, SMALL);
}
/* Room is seen at once, whatever the dead one has left undone. */
static void check_full(void) {
  int e = put(9, SMALL);
  uint64_t n = mp_queue_count(queue, &me);
  CHECK(n == 2);
  long x = get(), y = get();
  if (e == 0) CHECK(x == 2 && y == 9);
  else CHECK(e == EAGAIN && ((x == 1 && y == 2) || (x == 2 && y == 3)));
  CHECK(get() == 0);
  CHECK(put(7, SMALL) == 0 && put(8, SMALL) == 0 && put(9, SMALL) == EAGAIN);
  drop();
}

/* ---- shutting down --------------------------------------------------------------------- */

static void prepare_one(void) {
  make(0);
  CHECK(put(1, SMALL) == 0);
}
static void op_shut(void) { mp_queue_shut(queue, &me); }
static void check_shut(void) {
  bool shut = mp_queue_is_shut(queue);
  CHECK(put(2, SMALL) == (shut ? EPIPE : 0));
  CHECK(get() == 1);
  if (!shut) CHECK(get() == 2);
  CHECK(get() == (shut ? -2 : 0));
  drop();
}

/* ---- marking done ---------------------------------------------------------------------- */

static void op_work(void) {
  get();
  mp_queue_task_done(queue, &me, entry);
}
/* Not waiting is enough to learn that the item was abandoned. */
static void check_work(void) {
  uint64_t abandoned;
  if (mp_queue_count(queue, &me) == 1) {
    CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == EAGAIN);
    CHECK(get() == 1);
    CHECK(mp_queue_task_done(queue, &me, entry) == 0);
  }
  CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == 0);
  CHECK(abandoned <= 1);
  CHECK(mp_queue_task_done(queue, &me, entry) == EINVAL);
  CHECK(put(2, SMALL) == 0);
  CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == EAGAIN);
  CHECK(get() == 2);
  CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == EAGAIN);
  CHECK(mp_queue_task_done(queue, &me, entry) == 0);
  CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == 0);
  drop();
}
/* An item that a killed producer has committed and not counted: join sees it, and who
 * takes it may mark it.  (The kill point is two instructions wide: it is made by hand.) */
static void put_uncounted(void) {
  put(1, SMALL);
  mp_lock_hold(&queue->put_lock, me.word);
  atomic_fetch_sub(&queue->puts, 1);
  kill(getpid(), SIGKILL);
}
static void uncounted(bool join_first) {
  uint64_t abandoned;
  running = "an item not counted";
  make(0);
  CHECK(finish(start(put_uncounted), 0) == -1); /* it has killed itself */
  if (join_first) CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == EAGAIN);
  CHECK(get() == 1);
  CHECK(mp_queue_task_done(queue, &me, entry) == 0);
  CHECK(mp_queue_task_done(queue, &me, entry) == EINVAL);
  CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == 0);
  drop();
}

/* What is marked by another than who took it. */
static void prepare_taken(void) {
  prepare_one();
  CHECK(get() == 1);
}
static void op_done(void) { mp_queue_task_done(queue, &me, entry); }
static void check_done(void) {
  uint64_t abandoned;
  int e = mp_queue_task_done(queue, &me, entry);
  CHECK(e == 0 || e == EINVAL);
  CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == 0);
  CHECK(abandoned == 0);
  drop();
}

/* ---- ringing --------------------------------------------------------------------------- */

static struct mp_watcher watcher;

static bool rung(void) {
  struct pollfd p = {watcher.fd, POLLIN, 0};
  return poll(&p, 1, 0) == 1;
}

static void prepare_watch(void) {
  make(0);
  watcher.fd = -1;
  CHECK(mp_queue_watch(queue, &me, &watcher) == 0);
  CHECK(!rung());
}
static void op_ring(void) { put(1, SMALL); }

static void bury_all(void) { mp_collect(&me); }

static void check_ring(void) {
  bury_all();
  if (mp_queue_count(queue, &me) > 0) {
    CHECK(rung());
    CHECK(get() == 1);
  }
  CHECK(get() == 0);
  mp_queue_calm(queue, &me, &watcher);
  CHECK(!rung());
  CHECK(put(2, SMALL) == 0);
  CHECK(rung());
  CHECK(get() == 2);
  mp_queue_unwatch(queue, &me, &watcher);
  drop();
}
static void op_watch(void) {
  struct mp_watcher w = {.fd = -1};
  mp_queue_watch(queue, &me, &w);
  mp_queue_unwatch(queue, &me, &w);
}
static void check_watch(void) {
  bury_all();
  CHECK(put(2, SMALL) == 0);
  CHECK(rung());
  CHECK(get() == 2);
  mp_queue_calm(queue, &me, &watcher);
  CHECK(!rung());
  mp_queue_unwatch(queue, &me, &watcher);
  drop();
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (mp_member_open(&me, "main") != 0) {
    perror("mp_member_open");
    return 1;
  }
  mp_queue_kinds();
  make_items();
  make(0); /* the tables of this member are there from now on */
  mp_drop(entry, &me);
  crash_fill("get, a chunk into reserve", 50, 42, op_get);
  crash_fill("put, a chunk from reserve", 74, 43, op_put);
  crash_fill("get and put", 71, 42, op_both);
  crash_all("put many", prepare_batch, op_put_batch, check_put_batch);
  crash_all("get many", prepare_batch, op_get_batch, check_get_batch);
  /* all points: only one of them had a put say "full" that had put */
  crash_at("a full queue", TRACE_MAX, prepare_full, op_get_put, check_full);
  crash_all("shut", prepare_one, op_shut, check_shut);
  crash_all("get and mark", prepare_one, op_work, check_work);
  uncounted(false);
  uncounted(true);
  crash_all("mark another's", prepare_taken, op_done, check_done);
  crash_all("ring", prepare_watch, op_ring, check_ring);
  crash_all("watch", prepare_watch, op_watch, check_watch);
  return report("queue_ends_check");
}
