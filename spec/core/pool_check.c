/* Drives the core of pools without Lua: workers and buriers that are killed after any
 * instruction.  Whatever happens, every task is told of exactly once: by a result, as
 * lost, or as returned, or its batch is still in the queue. */
#include "ipc/pool.h"
#include "check.h"
#include <errno.h>

#define WORKERS 4
#define MAX_TASKS 4000
#define LARGE 8400 /* bytes: more than a queue's chunk takes */
#define RESULT 1000000

static struct mp_pool *pool;
static uint32_t pool_entry;
static mp_ref pool_ref;
static struct mp_queue *tasks, *reports, *second;
static uint32_t tasks_entry, reports_entry, second_entry;
static mp_ref tasks_ref, reports_ref, second_ref;
static size_t base;
static uint64_t last_id;

/* What the owner knows. */
static struct { uint32_t life, next; } seen[WORKERS];
static struct { int results, lost, returned; } told[MAX_TASKS + 1];
static int fails, fails_with_value, overdue;
static int32_t last_status;
static uint32_t submitted; /* tasks 1 .. submitted */

static uint32_t large[LARGE / 4];

static mp_ref make_queue(uint32_t *entry, struct mp_queue **q) {
  uint32_t none = 0;
  mp_ref r = 0;
  CHECK(mp_object_make(mp_queue_size(MP_KIND_QUEUE), MP_KIND_QUEUE, &me, mp_queue_init, &none,
                       entry, &r) == 0);
  *q = mp_at(r);
  return r;
}

static void make(void) {
  mp_collect(&me);
  base = arena_used();
  memset(seen, 0, sizeof seen);
  memset(told, 0, sizeof told);
  fails = fails_with_value = overdue = 0;
  submitted = 0;
  tasks_ref = make_queue(&tasks_entry, &tasks);
  reports_ref = make_queue(&reports_entry, &reports);
  second_ref = make_queue(&second_entry, &second);
  struct mp_pool_make m = {WORKERS, tasks_ref, reports_ref};
  CHECK(mp_object_make(mp_pool_size(WORKERS), MP_KIND_POOL, &me, mp_pool_init, &m, &pool_entry,
                       &pool_ref) == 0);
  pool = mp_at(pool_ref);
  mp_drop(tasks_entry, &me);
  for (uint32_t i = 0; i < WORKERS; i++) mp_pool_expect(pool, i);
}

static void drop(void) {
  mp_drop(reports_entry, &me);
  mp_drop(pool_entry, &me);
  mp_drop(second_entry, &me);
  mp_collect(&me);
  CHECK(arena_used() == base);
}

/* ---- the owner ------------------------------------------------------------------------ */

enum { PLAIN, REFS = 1, BIG = 2 };

/* A batch of the tasks first .. first + count - 1, whose arguments are their numbers. */
static void submit(uint32_t first, uint32_t count, int how) {
  static uint32_t args[LARGE / 4 + 64];
  struct mp_batch b = {.id = ++last_id, .job = 7, .first = first, .count = count};
  struct mp_message m = {.head = &b, .nhead = sizeof b, .data = args, .len = 4 * count};
  for (uint32_t i = 0; i < count; i++) args[i] = first + i;
  if (how & REFS) m.refs = &second_ref, m.nrefs = 1;
  if (how & BIG) m.len = LARGE;
  CHECK(mp_queue_put(tasks, &m, &me, MP_NEVER, NULL) == 0);
  if (first + count - 1 > submitted) submitted = first + count - 1;
}

/* Small results are the task's number and RESULT, large ones that number all over. */
static void read_results(const struct mp_report *r, const unsigned char *p, size_t len) {
  uint32_t x;
  bool big = r->count == 1 && len == LARGE;
  CHECK(big || len == 4 * (size_t)r->count);
  for (uint32_t i = 0; i < r->count; i++) {
    memcpy(&x, p + 4 * (size_t)i, 4);
    CHECK(x == (big ? 9 : r->first + i + RESULT));
  }
}

static void read_report(const unsigned char *p, size_t len) {
  struct mp_report r;
  memcpy(&r, p, sizeof r);
  if (r.worker >= WORKERS || (r.kind != MP_REPORT_FAILED && r.job != 7)) {
    CHECK(!"a report of this pool");
    return;
  }
  if (r.life < seen[r.worker].life) CHECK(!"reports of one life come before the next one's");
  if (r.life > seen[r.worker].life) seen[r.worker].life = r.life, seen[r.worker].next = 0;
  if (r.seq < seen[r.worker].next) return;
  seen[r.worker].next = r.seq + 1;
  last_status = r.status;
  overdue += (r.flags & MP_REPORT_OVERDUE) != 0;
  if (r.kind == MP_REPORT_FAILED) {
    fails++;
    fails_with_value += r.count == 1 && len > sizeof r;
    return;
  }
  if (r.kind == MP_REPORT_RESULTS) read_results(&r, p + sizeof r, len - sizeof r);
  for (uint64_t k = r.first; k < r.first + r.count; k++) {
    if (k < 1 || k > submitted) {
      CHECK(!"a task that was submitted");
      return;
    }
    told[k].results += r.kind == MP_REPORT_RESULTS;
    told[k].lost += r.kind == MP_REPORT_LOST;
    told[k].returned += r.kind == MP_REPORT_RETURNED;
  }
}

static bool read_one(mp_time deadline) {
  unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  uint32_t n, e1;
  mp_ref r;
  int e = mp_queue_get(reports, &me, reports_entry, deadline, NULL, buf, &got, &n);
  if (e == EBADMSG) {
    e = mp_queue_get_refs(reports, &me, reports_entry, buf, &got, &r, &e1, 1, &n);
    if (!e) mp_drop(e1, &me);
  }
  if (e) return false;
  read_report(got.data, got.len);
  mp_got_done(&got, &me);
  return true;
}

static void read_all(void) {
  while (read_one(MP_NEVER)) {}
}

/* ---- a worker ------------------------------------------------------------------------- */

static uint32_t number; /* the record that this process has */

/* Takes a batch; 0: there is none. */
static uint32_t take(mp_time deadline) {
  static unsigned char buf[MP_INLINE_MAX];
  struct mp_got got;
  uint32_t n, e1;
  mp_ref r;
  int e = mp_worker_take(pool, number, &me, deadline, NULL, buf, &got, &n);
  if (e == EBADMSG) {
    e = mp_worker_take_refs(pool, number, &me, buf, &got, &r, &e1, 1, &n);
    if (!e) mp_drop(e1, &me);
  }
  if (e) return e == EINTR ? UINT32_MAX : 0;
  uint32_t count = pool->worker[number].batch.count;
  mp_got_done(&got, &me);
  return count;
}

static bool result(uint32_t task) {
  uint32_t x = task + RESULT;
  return mp_worker_result(&pool->worker[number], &x, sizeof x);
}

static void send(bool last) { CHECK(mp_worker_send(pool, number, &me, NULL, 5, last) == 0); }

static void send_extra(bool refs, bool last) {
  struct mp_message m = {.data = large, .len = LARGE};
  if (refs) m.refs = &second_ref, m.nrefs = 1;
  CHECK(mp_worker_send(pool, number, &me, &m, 5, last) == 0);
}

static uint32_t task_at(uint32_t i) { return (uint32_t)pool->worker[number].batch.first + i; }

static void run_batch(uint32_t count, bool dawdle) {
  for (uint32_t i = 0; i < count; i++) {
    while (!result(task_at(i))) send(false);
    if (dawdle) usleep(20);
  }
  send(true);
}

/* Another worker, here in this process, does what is in the queue. */
static void do_the_rest(void) {
  uint32_t n;
  number = 1;
  mp_worker_open(pool, 1, &me);
  while ((n = take(MP_NEVER)) != 0) run_batch(n, false);
  mp_worker_retire(pool, 1);
  CHECK(mp_pool_bury(pool, 1, 0, &me) == 0);
  number = 0;
}

/* ---- kill points ---------------------------------------------------------------------- */

/* Every task is told of once; at most `most` were lost. */
static void check_told(int most) {
  int lost = 0;
  for (uint32_t k = 1; k <= submitted; k++) {
    CHECK(told[k].results + told[k].lost + told[k].returned == 1);
    lost += told[k].lost;
  }
  CHECK(lost <= most);
  CHECK(fails == 0 && fails_with_value == 0);
}

/* The burial before or after others went on. */
static void check_worker(void) {
  bool first = running_point / 2 % 2;
  if (first) CHECK(mp_pool_bury(pool, 0, -SIGKILL, &me) == 0);
  do_the_rest();
  CHECK(mp_pool_bury(pool, 0, -SIGKILL, &me) == 0);
  CHECK(mp_pool_bury(pool, 0, -SIGKILL, &me) == 0);
  read_all();
  check_told(1);
  drop();
}

static uint32_t batch_size;
static int batch_how;

static void prepare_batches(void) {
  make();
  for (uint32_t i = 0; i < 3; i++) submit(1 + i * batch_size, batch_size, batch_how);
}
static void op_take(void) {
  mp_worker_open(pool, 0, &me);
  take(MP_NEVER);
}
static void op_take_all(void) {
  uint32_t n;
  mp_worker_open(pool, 0, &me);
  while ((n = take(MP_NEVER)) != 0) run_batch(n, false);
}
static void op_run(void) {
  mp_worker_open(pool, 0, &me);
  run_batch(take(MP_NEVER), false);
}
/* Results one by one, some sent before the batch is over. */
static void op_pieces(void) {
  mp_worker_open(pool, 0, &me);
  uint32_t n = take(MP_NEVER);
  for (uint32_t i = 0; i < n; i++) {
    result(task_at(i));
    if (i % 3 != 2) send(i + 1 == n);
  }
  if (n % 3 == 0) send(true);
}
static bool extra_refs;
/* A large result alone, after others, and at the end. */
static void op_extra(void) {
  mp_worker_open(pool, 0, &me);
  uint32_t n = take(MP_NEVER);
  for (uint32_t i = 0; i < n; i++) {
    if (i % 2) result(task_at(i)), send(i + 1 == n);
    else send_extra(extra_refs, i + 1 == n);
  }
}
static void op_retire(void) {
  mp_worker_open(pool, 0, &me);
  uint32_t n = take(MP_NEVER);
  for (uint32_t i = 0; i < n / 2; i++) result(task_at(i));
  send(n / 2 == n);
  mp_worker_retire(pool, 0);
}

/* The job was cancelled: the rest of its batch is dropped, and what is told of that is
 * told once at most. */
static void op_cancelled(void) {
  mp_worker_open(pool, 0, &me);
  result((take(MP_NEVER), task_at(0)));
  send(true);
  take(MP_NEVER);
  send(true);
}
static void check_cancelled(void) {
  CHECK(mp_pool_bury(pool, 0, -SIGKILL, &me) == 0);
  do_the_rest();
  read_all();
  for (uint32_t k = 1; k <= submitted; k++)
    CHECK(told[k].results + told[k].lost + told[k].returned <= 1);
  CHECK(told[submitted].results == 1);
  drop();
}

static void crash_batches(const char *what, uint32_t size, int how, void (*op)(void),
                          void (*check)(void)) {
  char text[80];
  snprintf(text, sizeof text, "%s, %u task%s%s%s", what, size, size == 1 ? "" : "s",
           how & REFS ? ", with a reference" : "", how & BIG ? ", large" : "");
  batch_size = size;
  batch_how = how;
  crash_all(text, prepare_batches, op, check);
}

/* ---- burial killed and done again ----------------------------------------------------- */

static void (*worker_op)(void);
static int bury_status;

static void work_and_die(void) {
  worker_op();
  raise(SIGKILL);
}
static void half_done(void) {
  mp_worker_open(pool, 0, &me);
  take(MP_NEVER);
  result(task_at(0));
  send(false);
  result(task_at(1));
}
static void nothing_done(void) { op_take(); }
static void large_done(void) {
  mp_worker_open(pool, 0, &me);
  take(MP_NEVER);
  send_extra(true, false);
}
static void retired(void) {
  half_done();
  mp_worker_retire(pool, 0);
}
static void ended(void) { mp_worker_open(pool, 0, &me); }

static void prepare_dead(void) {
  prepare_batches();
  struct child c = start(work_and_die);
  waitpid(c.pid, NULL, 0);
  mp_bury(c.word, &me, NULL);
}
static void op_bury(void) { mp_pool_bury(pool, 0, bury_status, &me); }
static void check_buried(void) {
  CHECK(mp_pool_bury(pool, 0, bury_status, &me) == 0);
  CHECK(pool->worker[0].state == MP_WORKER_NONE && !mp_pool_worker_alive(pool, 0));
  do_the_rest();
  read_all();
  check_told(worker_op != retired);
  if (worker_op == half_done) {
    CHECK(told[1].results == 1 && told[2].results == 1);
    CHECK(told[3].lost == 1 && told[4].returned == 1);
  }
  if (worker_op == nothing_done) CHECK(told[1].lost == 1);
  if (worker_op == large_done) CHECK(told[1].results == 1 && told[2].lost == 1);
  if (worker_op == retired) CHECK(told[2].results == 1 && told[3].returned == 1);
  mp_pool_expect(pool, 0);
  submit(submitted + 1, 2, PLAIN);
  mp_worker_open(pool, 0, &me);
  run_batch(take(MP_NEVER), false);
  read_all();
  CHECK(told[submitted].results == 1);
  drop();
}
static void crash_burial(const char *what, void (*op)(void)) {
  worker_op = op;
  bury_status = -SIGKILL;
  batch_size = 4;
  batch_how = PLAIN;
  crash_all(what, prepare_dead, op_bury, check_buried);
}

/* One that ended before it was ready: told of once. */
static void check_failed(void) {
  CHECK(mp_pool_bury(pool, 0, bury_status, &me) == 0);
  CHECK(mp_pool_broken(pool));
  read_all();
  CHECK(fails == 1 && fails_with_value == 0 && last_status == bury_status);
  drop();
}
static const struct mp_message why = {.data = "why", .len = 3};
static void op_fail(void) {
  mp_worker_open(pool, 0, &me);
  mp_worker_failed(pool, 0, 1, &why, &me);
}
static void prepare_empty(void) { make(); }
static void check_fail(void) {
  CHECK(mp_pool_bury(pool, 0, -SIGKILL, &me) == 0);
  read_all();
  CHECK(fails <= 1 && fails_with_value == fails);
  if (mp_pool_broken(pool)) CHECK(fails == 1);
  drop();
}

/* ---- functions ------------------------------------------------------------------------ */

static uint32_t kept_words[300];

static int keep(uint32_t slot, uint32_t word) {
  for (size_t i = 0; i < 300; i++) kept_words[i] = word;
  struct mp_message m = {.head = &word, .nhead = 4, .data = kept_words,
                         .len = sizeof kept_words, .refs = &second_ref, .nrefs = 1};
  mp_ref f;
  uint64_t serial;
  return mp_pool_keep(pool, slot, &m, &me, &f, &serial);
}

static bool kept(uint32_t slot, uint32_t word) {
  if (!mp_block_valid(pool->functions[slot])) return false;
  const struct mp_function *f = mp_at(pool->functions[slot]);
  const unsigned char *bytes = (const unsigned char *)(f->refs + f->nrefs);
  uint32_t x;
  if (mp_block_kind(&f->o.block) != MP_KIND_FUNCTION || f->nrefs != 1) return false;
  if (f->refs[0] != second_ref || f->len != 4 + sizeof kept_words) return false;
  for (size_t i = 0; i < f->len; i += 4) {
    memcpy(&x, bytes + i, 4);
    if (x != word) return false;
  }
  return true;
}

static void prepare_keep(void) {
  make();
  CHECK(keep(3, 11) == 0);
  CHECK(keep(4, 12) == 0);
}
static void op_keep(void) { keep(3, 13); }
/* Only the functions refer to the second queue. */
static void check_keep(void) {
  mp_drop(second_entry, &me);
  mp_collect(&me);
  CHECK(kept(3, 11) || kept(3, 13));
  CHECK(kept(4, 12));
  CHECK(mp_queue_count(second, &me) == 0);
  CHECK(keep(3, 14) == 0 && kept(3, 14));
  mp_drop(pool_entry, &me);
  mp_drop(reports_entry, &me);
  mp_collect(&me);
  CHECK(arena_used() == base);
}

/* ---- life without kill points --------------------------------------------------------- */

/* Some that are killed before they are ready are nothing; then the pool is broken. */
static void check_never_ready(void) {
  make();
  for (int i = 1; i < MP_POOL_BROKEN_AFTER; i++) {
    CHECK(mp_pool_bury(pool, 0, -SIGSEGV, &me) == 0);
    CHECK(!mp_pool_broken(pool));
    mp_pool_expect(pool, 0);
    mp_pool_expect(pool, 0);
  }
  CHECK(take(MP_NEVER) == 0); /* this one is ready */
  for (int i = 1; i <= MP_POOL_BROKEN_AFTER; i++) {
    CHECK(mp_pool_bury(pool, 0, -SIGSEGV, &me) == 0);
    CHECK(!mp_pool_broken(pool));
    mp_pool_expect(pool, 0);
  }
  CHECK(mp_pool_bury(pool, 0, -SIGSEGV, &me) == 0);
  CHECK(mp_pool_broken(pool));
  read_all();
  CHECK(fails == 1 && last_status == -SIGSEGV);
  drop();
}

static void check_overdue(void) {
  make();
  submit(1, 1, PLAIN);
  CHECK(take(MP_NEVER) == 1);
  pool->worker[0].kill_at = mp_now();
  CHECK(mp_pool_bury(pool, 0, -SIGKILL, &me) == 0);
  read_all();
  CHECK(overdue == 1 && told[1].lost == 1);
  CHECK(!mp_pool_cancelled(pool, 5));
  mp_pool_cancel(pool, 5);
  CHECK(mp_pool_cancelled(pool, 5) && !mp_pool_cancelled(pool, 5 + MP_POOL_CANCELS));
  drop();
}

/* `out` fills up and is sent, and what is in it is sent again when it was not noted. */
static void check_full(void) {
  make();
  submit(1, 2000, PLAIN);
  CHECK(take(MP_NEVER) == 2000);
  uint32_t n = 0;
  while (result(1 + n)) n++;
  CHECK(n == MP_POOL_OUT / 4 && mp_worker_waiting(&pool->worker[0]) == n);
  send(false);
  CHECK(mp_worker_waiting(&pool->worker[0]) == 0);
  send(false);
  read_all();
  CHECK(told[n].results == 1 && told[n + 1].results == 0);
  for (; n < 2000; n++)
    if (!result(1 + n)) CHECK(!"room for the rest");
  send(true);
  read_all();
  check_told(0);
  drop();
}

/* The number of the report in `done` has 16 bits: nothing old counts again. */
static void check_many_reports(void) {
  make();
  struct mp_worker *w = &pool->worker[0];
  submit(1, 1, PLAIN);
  CHECK(take(MP_NEVER) == 1);
  for (uint32_t i = 0; i < 70000; i++) {
    result(1);
    send(true);
    w->claim = w->batch.id;
    w->sent &= ~(uint64_t)UINT32_MAX;
    if (mp_worker_waiting(w) != 0) CHECK(!"empty");
    if (i % 1000 == 0) read_all();
  }
  w->claim = 0;
  read_all();
  CHECK(told[1].results == 70000);
  drop();
}

/* Workers killed at any time under a job: each task is done in the end. */
#define STRESS_TASKS 3000
#define STRESS_KILLS 150

static struct child worker[WORKERS];

static void work(void) {
  uint32_t n;
  mp_worker_open(pool, number, &me);
  for (;;) {
    n = take(mp_deadline(10));
    if (n == 0) break;
    if (n != UINT32_MAX) run_batch(n, true);
  }
  mp_worker_retire(pool, number);
}

static void start_worker(uint32_t i) {
  mp_pool_expect(pool, i);
  number = i;
  worker[i] = start(work);
  number = 0;
}

/* Submits again what did not come to its end; what is left to do. */
static uint32_t again(void) {
  uint32_t left = 0;
  for (uint32_t k = 1; k <= STRESS_TASKS; k++) {
    int n = told[k].results + told[k].lost + told[k].returned;
    if (n > 1) CHECK(!"told of once");
    if (told[k].lost || told[k].returned) {
      memset(&told[k], 0, sizeof told[k]);
      submit(k, 1, k % 3 == 0 ? REFS : PLAIN);
    }
    left += !told[k].results;
  }
  return left;
}

static void check_stress(void) {
  uint32_t kills = 0;
  mp_time end = mp_deadline(60);
  make();
  for (uint32_t k = 1, n = 1; k <= STRESS_TASKS; k += n, n = n % 7 + 1) {
    if (k + n > STRESS_TASKS) n = STRESS_TASKS + 1 - k;
    submit(k, n, k % 5 == 0 ? REFS : PLAIN);
  }
  for (uint32_t i = 0; i < WORKERS; i++) start_worker(i);
  srand(5);
  while (again() > 0 && mp_now() < end) {
    read_one(mp_deadline(0.001));
    read_all();
    if (kills == STRESS_KILLS) continue;
    uint32_t i = (uint32_t)rand() % WORKERS;
    usleep((useconds_t)(rand() % 300));
    finish(worker[i], SIGKILL);
    kills++;
    CHECK(mp_pool_bury(pool, i, -SIGKILL, &me) == 0);
    start_worker(i);
  }
  CHECK(again() == 0);
  mp_queue_shut(tasks, &me);
  for (uint32_t i = 0; i < WORKERS; i++) {
    CHECK(finish(worker[i], 0) == 0);
    CHECK(mp_pool_bury(pool, i, 0, &me) == 0);
  }
  read_all();
  check_told(0);
  printf("workers killed: %u\n", kills);
  drop();
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (mp_member_open(&me, "main") != 0) {
    perror("mp_member_open");
    return 1;
  }
  mp_queue_kinds();
  mp_pool_kinds();
  for (size_t i = 0; i < LARGE / 4; i++) large[i] = 9;
  make(); /* the tables of this member are there from now on */
  mp_drop(reports_entry, &me);
  mp_drop(pool_entry, &me);
  mp_drop(second_entry, &me);
  check_never_ready();
  check_overdue();
  check_full();
  check_many_reports();
  check_stress();
  crash_batches("take", 1, PLAIN, op_take, check_worker);
  crash_batches("take", 5, PLAIN, op_take, check_worker);
  crash_batches("take", 3, REFS, op_take, check_worker);
  crash_batches("take", 3, BIG, op_take, check_worker);
  crash_batches("take", 3, REFS | BIG, op_take, check_worker);
  crash_batches("run", 1, PLAIN, op_run, check_worker);
  crash_batches("run", 4, PLAIN, op_run, check_worker);
  crash_batches("run all", 2, REFS, op_take_all, check_worker);
  crash_batches("results in pieces", 6, PLAIN, op_pieces, check_worker);
  crash_batches("large results", 1, PLAIN, op_extra, check_worker);
  crash_batches("large results", 4, PLAIN, op_extra, check_worker);
  extra_refs = true;
  crash_batches("results with references", 3, PLAIN, op_extra, check_worker);
  crash_batches("retire", 1, PLAIN, op_retire, check_worker);
  crash_batches("retire", 4, PLAIN, op_retire, check_worker);
  crash_batches("cancelled", 3, PLAIN, op_cancelled, check_cancelled);
  crash_burial("bury, half of it done", half_done);
  crash_burial("bury, nothing done", nothing_done);
  crash_burial("bury, a large result sent", large_done);
  crash_burial("bury, retired", retired);
  batch_size = 1;
  worker_op = ended;
  bury_status = 3;
  crash_all("bury, never ready", prepare_dead, op_bury, check_failed);
  crash_all("fail", prepare_empty, op_fail, check_fail);
  crash_all("keep", prepare_keep, op_keep, check_keep);
  return report("pool_check");
}
