/* Drives queues and the arena without Lua: order, blocking, large items, references,
 * and processes that are killed after any instruction of an operation. */
#include "ipc/queue.h"
#include "check.h"

#define SOON (mp_deadline(10)) /* far more than any step needs */
#define LARGE 8400             /* bytes: an item with a run of its own */
#define MEDIUM 700             /* bytes: the second one needs a new chunk */

static struct mp_queue *queue, *second;
static uint32_t entry, entry2;
static mp_ref ref, ref2;
static size_t base;

static void make(enum mp_kind kind, uint32_t maxsize) {
  CHECK(mp_object_make(mp_queue_size(kind), kind, &me, mp_queue_init, &maxsize, &entry, &ref) == 0);
  queue = mp_at(ref);
}

static void drop(void) { mp_drop(entry, &me); }

/* An item is its number, written all over its bytes. */
static uint32_t data[LARGE / 4];

static void fill(uint32_t number, size_t bytes) {
  for (size_t i = 0; i < bytes / 4; i++) data[i] = number;
}

/* Puts what fill has written. */
static int put_filled(size_t bytes, mp_time deadline) {
  struct mp_message m = {.data = data, .len = bytes / 4 * 4, .priority = data[0] % 7};
  int e;
  do e = mp_queue_put(queue, &m, &me, deadline, NULL);
  while (e == EINTR);
  return e;
}

static int put(uint32_t number, size_t bytes, mp_time deadline) {
  fill(number, bytes);
  return put_filled(bytes, deadline);
}

/* The number of the next item, 0 when there is none; -1 when it is not whole. */
static long get(size_t bytes, mp_time deadline) {
  unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  uint32_t nrefs, first, x;
  int e;
  do e = mp_queue_get(queue, &me, entry, deadline, NULL, buf, &got, &nrefs);
  while (e == EINTR);
  if (e) return 0;
  memcpy(&first, got.data, 4);
  long number = got.len == bytes / 4 * 4 ? (long)first : -1;
  for (size_t i = 0; i < got.len / 4; i++) {
    memcpy(&x, got.data + 4 * i, 4);
    if (x != first) number = -1;
  }
  mp_got_done(&got, &me);
  return number;
}

/* ---- kill points ------------------------------------------------------------------- */

static enum mp_kind kind;
static size_t item_bytes;
static uint32_t before; /* items that are there when the operation begins */

static void prepare(void) {
  mp_collect(&me);
  base = arena_used();
  make(kind, 0);
  for (uint32_t i = 1; i <= before; i++) CHECK(put(i, item_bytes, MP_NEVER) == 0);
  fill(before + 1, item_bytes);
}

/* Everything is back: the queue works, and then nothing of it is left. */
static void settle(void) {
  CHECK(mp_queue_count(queue, &me) == 0);
  CHECK(put(77, item_bytes, MP_NEVER) == 0);
  CHECK(put(77, LARGE, MP_NEVER) == 0);
  bool lifo = kind == MP_KIND_LIFO;
  CHECK(get(lifo ? LARGE : item_bytes, SOON) == 77);
  CHECK(get(lifo ? item_bytes : LARGE, SOON) == 77);
  CHECK(get(item_bytes, MP_NEVER) == 0);
  drop();
  mp_collect(&me);
  CHECK(arena_used() == base);
}

/* Takes n items; all of first..first+n-1 come, in the order of the kind. */
static void expect(uint32_t first, uint32_t n) {
  uint64_t seen = 0;
  for (uint32_t i = 0; i < n; i++) {
    long x = get(item_bytes, MP_NEVER);
    CHECK(x >= (long)first && x < (long)(first + n));
    if (x < (long)first) return;
    CHECK(!(seen >> (x - (long)first) & 1));
    seen |= UINT64_C(1) << (x - (long)first);
    if (kind == MP_KIND_QUEUE) CHECK(x == (long)(first + i));
    if (kind == MP_KIND_LIFO) CHECK(x == (long)(first + n - 1 - i));
  }
}

/* These do nothing but the operation: kill points elsewhere tell nothing. */
static void op_put(void) { put_filled(item_bytes, MP_NEVER); }

static void op_get(void) {
  unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  uint32_t nrefs;
  if (mp_queue_get(queue, &me, entry, MP_NEVER, NULL, buf, &got, &nrefs) == 0)
    mp_got_done(&got, &me);
}

static void check_put(void) {
  uint64_t n = mp_queue_count(queue, &me);
  CHECK(n == before || n == before + 1);
  expect(1, (uint32_t)n);
  settle();
}

static void check_get(void) {
  uint64_t n = mp_queue_count(queue, &me);
  CHECK(n == before || n == before - 1);
  if (kind == MP_KIND_QUEUE) expect(before - (uint32_t)n + 1, (uint32_t)n);
  else if (kind == MP_KIND_LIFO) expect(1, (uint32_t)n);
  else for (uint64_t i = 0; i < n; i++) CHECK(get(item_bytes, MP_NEVER) > 0);
  settle();
}

static void crashes(const char *name, enum mp_kind k, size_t bytes, uint32_t items) {
  char text[64];
  kind = k;
  item_bytes = bytes;
  before = items;
  snprintf(text, sizeof text, "put %s", name);
  crash_all(text, prepare, op_put, check_put);
  snprintf(text, sizeof text, "get %s", name);
  if (items > 0) crash_all(text, prepare, op_get, check_get);
}

/* Two messages whose chunk is exhausted: the get moves on. */
static void prepare_move(void) {
  prepare();
  CHECK(get(item_bytes, MP_NEVER) == 1);
}
static void check_move(void) {
  uint64_t n = mp_queue_count(queue, &me);
  CHECK(n == before - 1 || n == before - 2);
  expect(before - (uint32_t)n + 1, (uint32_t)n);
  settle();
}

/* A message that carries a reference. */
static int put_ref(void) {
  struct mp_message m = {.data = "handle", .len = 6, .refs = &ref2, .nrefs = 1};
  return mp_queue_put(queue, &m, &me, MP_NEVER, NULL);
}
static int get_ref(uint32_t *e) {
  unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  uint32_t n;
  mp_ref r;
  int err = mp_queue_get(queue, &me, entry, MP_NEVER, NULL, buf, &got, &n);
  if (err != EBADMSG) return err ? err : EINVAL;
  err = mp_queue_get_refs(queue, &me, entry, buf, &got, &r, e, 1, &n);
  if (!err) mp_got_done(&got, &me);
  return err;
}
static void prepare_refs(void) {
  uint32_t none = 0;
  mp_collect(&me);
  base = arena_used();
  make(kind, 0);
  CHECK(mp_object_make(mp_queue_size(MP_KIND_QUEUE), MP_KIND_QUEUE, &me, mp_queue_init, &none,
                       &entry2, &ref2) == 0);
  second = mp_at(ref2);
  if (before) CHECK(put_ref() == 0);
}
static void op_put_ref(void) { put_ref(); }
static void op_get_ref(void) {
  uint32_t e;
  get_ref(&e);
}
static void check_refs(void) {
  uint32_t e;
  uint64_t n = mp_queue_count(queue, &me);
  mp_drop(entry2, &me); /* only the message keeps the second queue */
  CHECK(n <= 1);
  if (n == 1) {
    CHECK(get_ref(&e) == 0);
    CHECK(mp_queue_count(second, &me) == 0);
    mp_drop(e, &me);
  }
  CHECK(mp_queue_count(queue, &me) == 0);
  drop();
  mp_collect(&me);
  CHECK(arena_used() == base);
}

/* A collector that is killed while it counts: what it referred to as well is not gone
 * with it. */
static void op_collect(void) { mp_collect(&me); }
static void check_collect(void) {
  mp_collect(&me);
  bool there = mp_block_valid(ref) && mp_block_valid(ref2);
  CHECK(there);
  if (there) check_refs();
}

/* Objects made and dropped. */
static void nothing(void) {
  mp_collect(&me);
  base = arena_used();
}
static void op_object(void) {
  make(MP_KIND_QUEUE, 0);
  drop();
}
static void op_blocks(void) {
  static const size_t sizes[] = {32, 64, 500, 2048, 5000, 70000};
  for (size_t i = 0; i < 6; i++) {
    mp_ref r;
    mp_busy(&me);
    if (mp_alloc(sizes[i], MP_KIND_RUN, sizes[i] < 1000, me.word, &r) == 0) mp_free(&r, me.word);
    mp_idle(&me);
  }
}
static void check_base(void) {
  mp_collect(&me);
  CHECK(arena_used() == base);
  make(MP_KIND_QUEUE, 0);
  CHECK(put(5, LARGE, MP_NEVER) == 0);
  CHECK(get(LARGE, MP_NEVER) == 5);
  drop();
  CHECK(arena_used() == base);
}

/* ---- life without kills ----------------------------------------------------------------- */

#define PRODUCERS 4
#define EACH 20000
static uint32_t producer;

static void produce(void) {
  for (uint32_t i = 0; i < EACH; i++) {
    uint32_t x[2] = {producer, i};
    struct mp_message m = {.data = x, .len = sizeof x};
    int e;
    do e = mp_queue_put(queue, &m, &me, SOON, NULL);
    while (e == EINTR);
    CHECK(e == 0);
  }
}

static void check_order(uint32_t maxsize) {
  struct child c[PRODUCERS];
  uint32_t next[PRODUCERS] = {0}, x[2], nrefs;
  unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  make(MP_KIND_QUEUE, maxsize);
  for (producer = 0; producer < PRODUCERS; producer++) c[producer] = start(produce);
  for (uint32_t i = 0; i < PRODUCERS * EACH; i++) {
    int e;
    do e = mp_queue_get(queue, &me, entry, SOON, NULL, buf, &got, &nrefs);
    while (e == EINTR);
    if (e || got.len != sizeof x) {
      CHECK(e == 0);
      break;
    }
    memcpy(x, got.data, sizeof x);
    if (x[1] != next[x[0]]++) CHECK(!"in order");
  }
  for (int i = 0; i < PRODUCERS; i++) CHECK(finish(c[i], 0) == 0);
  CHECK(mp_queue_count(queue, &me) == 0);
  drop();
}

static void wait_for_item(void) { get(4, SOON); }

/* Readers killed while they wait take nothing with them. */
static void check_killed_readers(void) {
  struct child c[3];
  make(MP_KIND_QUEUE, 0);
  for (int i = 0; i < 3; i++) c[i] = start(wait_for_item);
  usleep(20000);
  finish(c[0], SIGKILL);
  finish(c[1], SIGKILL);
  CHECK(put(1, 4, MP_NEVER) == 0);
  CHECK(finish(c[2], 0) == 0);
  CHECK(mp_queue_count(queue, &me) == 0);
  drop();
}

static void take_and_wait(void) {
  CHECK(get(4, SOON) > 0);
  for (;;) pause();
}

static void check_join(void) {
  uint64_t abandoned;
  make(MP_KIND_QUEUE, 0);
  CHECK(put(1, 4, MP_NEVER) == 0);
  CHECK(put(2, 4, MP_NEVER) == 0);
  struct child c = start(take_and_wait);
  while (mp_queue_count(queue, &me) == 2) usleep(1000);
  CHECK(get(4, SOON) == 2);
  CHECK(mp_queue_task_done(queue, &me, entry) == 0);
  CHECK(mp_queue_join(queue, &me, MP_NEVER, &abandoned) == EAGAIN);
  finish(c, SIGKILL);
  CHECK(mp_queue_join(queue, &me, SOON, &abandoned) == 0);
  CHECK(abandoned == 1);
  CHECK(mp_queue_task_done(queue, &me, entry) == EINVAL);
  drop();
}

/* Growth gives memory back. */
static void check_growth(void) {
  make(MP_KIND_QUEUE, 0);
  for (uint32_t i = 1; i <= 20000; i++) CHECK(put(i, MEDIUM, MP_NEVER) == 0);
  for (uint32_t i = 1; i <= 20000; i++) CHECK(get(MEDIUM, MP_NEVER) == (long)i);
  for (uint32_t i = 1; i <= 500; i++) CHECK(put(i, LARGE, MP_NEVER) == 0);
  for (uint32_t i = 1; i <= 500; i++) CHECK(get(LARGE, MP_NEVER) == (long)i);
  drop();
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (mp_member_open(&me, "main") != 0) {
    perror("mp_member_open");
    return 1;
  }
  mp_queue_kinds();
  make(MP_KIND_QUEUE, 0); /* the tables of this member are there from now on */
  drop();
  base = arena_used();
  check_growth();
  CHECK(arena_used() == base);
  check_order(0);
  check_order(3);
  check_killed_readers();
  check_join();
  CHECK(arena_used() == base);
  crashes("small, empty", MP_KIND_QUEUE, 4, 0);
  crashes("small", MP_KIND_QUEUE, 4, 2);
  crashes("next chunk", MP_KIND_QUEUE, MEDIUM, 1);
  crash_all("get, next chunk", prepare_move, op_get, (before = 2, check_move));
  crashes("large", MP_KIND_QUEUE, LARGE, 1);
  crashes("LIFO", MP_KIND_LIFO, 64, 3);
  crashes("priority", MP_KIND_PRIORITY, 64, 9);
  kind = MP_KIND_QUEUE;
  before = 0;
  crash_all("put a reference", prepare_refs, op_put_ref, check_refs);
  before = 1;
  crash_all("get a reference", prepare_refs, op_get_ref, check_refs);
  crash_all("collect", prepare_refs, op_collect, check_collect);
  crash_all("object", nothing, op_object, check_base);
  crash_all("blocks", nothing, op_blocks, check_base);
  return report("queue_check");
}
