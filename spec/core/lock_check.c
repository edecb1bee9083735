/* Locks that somebody else holds, and blocks of every size, with kill points; signals that
 * come all the time. */
#include "ipc/queue.h"
#include "ipc/sync.h"
#include "check.h"
#include <sys/mman.h>

static struct {
  _Atomic int up, end, ready;
  _Atomic long puts, gets, wrong;
  long a, b; /* under the lock */
} *shared;

static mp_ref lock_ref, queue_ref;
static uint32_t lock_entry, queue_entry;
static size_t base;
static size_t block_size;

static struct mp_lock *lock(void) { return &mp_rlock_at(lock_ref)->lock; }

static int take(double seconds) {
  int e;
  do e = mp_lock_take(lock(), me.word, mp_deadline(seconds));
  while (e == EINTR);
  return e;
}

/* ---- locks -------------------------------------------------------------------------- */

static void op_lock(void) {
  int e = take(10);
  if (e == 0 || e == EOWNERDEAD) mp_lock_release(lock());
}

static void op_give_up(void) { (void)take(2e-3); }

static void check_lock(void) {
  int e = take(10);
  CHECK(e == 0 || e == EOWNERDEAD);
  mp_lock_release(lock());
  CHECK(!mp_lock_taken(lock()));
}

static void die_holding(void) {
  (void)take(10);
  shared->up = 1;
  for (;;) pause();
}

static void prepare_dead(void) {
  shared->up = 0;
  struct child c = start(die_holding);
  while (!shared->up) usleep(100);
  kill(c.pid, SIGKILL);
  waitpid(c.pid, NULL, 0);
}

static void prepare_held(void) { CHECK(take(10) == 0); }

static void check_held(void) {
  mp_lock_release(lock());
  check_lock();
}

static struct child holder;

static void hold_a_while(void) {
  (void)take(10);
  shared->up = 1;
  usleep(15000); /* longer than it takes to step to the sleep */
  mp_lock_release(lock());
}

static void prepare_busy(void) {
  shared->up = 0;
  holder = start(hold_a_while);
  while (!shared->up) usleep(50);
}

static void check_busy(void) {
  check_lock();
  CHECK(finish(holder, 0) == 0);
}

/* ---- blocks ------------------------------------------------------------------------- */

static void op_block(void) {
  mp_ref r;
  mp_busy(&me);
  if (mp_alloc(block_size, MP_KIND_RUN, false, me.word, &r) == 0) mp_free(&r, me.word);
  mp_idle(&me);
}

static void check_base(void) {
  mp_collect(&me);
  CHECK(arena_used() == base);
}

static void blocks(void) {
  static const size_t sizes[] = {16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536,
                                 2048, 3072, 4096, 8192, 65536, 1 << 20};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char name[40];
    block_size = sizes[i];
    snprintf(name, sizeof name, "a block of %zu", block_size);
    crash_all(name, NULL, op_block, check_base);
  }
}

/* ---- signals ---------------------------------------------------------------------- */

#define ITEMS 20000
#define LARGE 3000 /* bytes: over the edges of chunks */

static void nothing(int signal) { (void)signal; }

static void count_under_lock(void) {
  int e = take(10);
  if (e != 0) shared->wrong++;
  if (shared->a != shared->b) shared->wrong++;
  shared->a++;
  shared->b++;
  mp_lock_release(lock());
}

static void putting(void) {
  static uint32_t data[LARGE / 4];
  shared->ready++;
  for (uint32_t n = 1; n <= ITEMS; n++) {
    int e;
    struct mp_message m = {.data = data, .len = n % 50 == 0 ? LARGE : 4};
    for (size_t i = 0; i < m.len / 4; i++) data[i] = n;
    do e = mp_queue_put(mp_at(queue_ref), &m, &me, mp_deadline(10), NULL);
    while (e == EINTR);
    if (e) shared->wrong++;
    else shared->puts++;
    if (n % 10 == 0) count_under_lock();
  }
}

static void getting(void) {
  unsigned char buf[MP_INLINE_MAX];
  shared->ready++;
  for (uint32_t n = 1; n <= ITEMS; n++) {
    struct mp_got got;
    uint32_t nrefs, x;
    int e;
    do e = mp_queue_get(mp_at(queue_ref), &me, queue_entry, mp_deadline(10), NULL, buf, &got, &nrefs);
    while (e == EINTR);
    if (e) {
      shared->wrong++;
      continue;
    }
    for (size_t i = 0; i < got.len / 4; i++) {
      memcpy(&x, got.data + 4 * i, 4);
      if (x != n) shared->wrong++;
    }
    mp_got_done(&got, &me);
    shared->gets++;
    if (n % 10 == 0) count_under_lock();
  }
}

static struct child sides[2];

static void storming(void) {
  while (!shared->end) {
    kill(sides[0].pid, SIGUSR1);
    kill(sides[1].pid, SIGUSR1);
    usleep(30);
  }
}

static void storm(enum mp_kind kind, uint32_t bound) {
  struct sigaction a = {.sa_handler = nothing};
  sigaction(SIGUSR1, &a, NULL); /* without SA_RESTART: every wait is interrupted */
  shared->end = shared->ready = 0;
  shared->puts = shared->gets = shared->wrong = shared->a = shared->b = 0;
  running = "storm";
  running_point = bound;
  CHECK(mp_object_make(mp_queue_size(kind), kind, &me, mp_queue_init, &bound, &queue_entry,
                       &queue_ref) == 0);
  sides[0] = start(putting);
  sides[1] = start(getting);
  struct child c = start(storming);
  CHECK(finish(sides[0], 0) == 0);
  CHECK(finish(sides[1], 0) == 0);
  shared->end = 1;
  CHECK(finish(c, 0) == 0);
  CHECK(shared->puts == ITEMS && shared->gets == ITEMS && shared->wrong == 0);
  CHECK(shared->a == 2 * (ITEMS / 10) && shared->a == shared->b);
  mp_drop(queue_entry, &me);
  check_base();
}

int main(void) {
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED || mp_member_open(&me, "check") != 0) return 1;
  CHECK(mp_object_make(sizeof(struct mp_rlock_object), MP_KIND_LOCK, &me, NULL, NULL, &lock_entry,
                       &lock_ref) == 0);
  base = arena_used();
  storm(MP_KIND_QUEUE, 0);
  storm(MP_KIND_QUEUE, 8);
  storm(MP_KIND_QUEUE, 1);
  crash_all("lock", NULL, op_lock, check_lock);
  crash_all("lock of a dead one", prepare_dead, op_lock, check_lock);
  crash_all("lock, held too long", prepare_held, op_give_up, check_held);
  crash_all("lock, held a while", prepare_busy, op_lock, check_busy);
  blocks();
  check_base();
  mp_drop(lock_entry, &me);
  mp_member_close(&me, -1);
  return report("lock_check");
}
