/* A pool's worker: takes batches, calls their function, tells of the results.
 *
 * A whole batch runs inside one pcall; an error in a task ends that, is the result of the
 * task, and the next pcall goes on behind it.  An argument is decoded when its task comes,
 * a result is encoded and committed as soon as it is there: so whoever buries this process
 * knows to the task how far it came.  Reports go when the batch ends, when the record is
 * full, and about every millisecond.
 *
 * No Lua code runs while a report is put: what it is made of lies in the state's pack.
 */
#include "lpool.h"
#include "../os/clock.h"
#include <errno.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Tunables.
 * REPORT_NS: an owner that waits for results of a long batch gets some as often as this.
 * LOOK_NS: the clock is read about as often as this.  It costs a tenth of a short task.
 * A coarse clock, which costs a quarter of that but moves every few milliseconds only,
 * is read after every task: it sees a long one among short ones.
 * LOOK_MAX: the clock is read after so many tasks at the latest.
 * FUNCTIONS: as many as an owner keeps.
 * FULL_WAIT: between two tries while memory is short.  FULL_TRIES: so often a result is
 *   tried when no report waits whose taking could help; FULL_TRIES_BUSY: when tasks wait,
 *   whose end could. */
enum {
  REPORT_NS = 1000 * 1000, LOOK_NS = 50 * 1000, LOOK_MAX = 512,
  FUNCTIONS = MP_POOL_FUNCTIONS,
  FULL_WAIT_NS = 10 * 1000 * 1000, FULL_TRIES = 10, FULL_TRIES_BUSY = 100
};

/* Where a task is when it fails. */
enum phase { ARGUMENTS, RUNNING, RESULT };

/* Slots of core.worker's stack. */
enum { SLOT_POOL = 1, SLOT_FUNCTIONS, SLOT_SEED, SLOT_HANDLER, SLOT_REFS, SLOT_FUNC };

/* A worker's life.
 * left: tasks until it retires.  serials: functions in SLOT_FUNCTIONS, the next one goes to
 * `oldest`.
 * Of the batch b: k: tasks that are over; in: what is left of it, which lies in `got`, or
 * in memory of its own, `copy`; start: where the task in hand begins; dropped: its job was
 * cancelled or is gone; told: the last report was sent.
 * since: when the last report was sent or the batch began; looked: when the clock was read
 * last, with `since_look` tasks since; every: the clock is read after so many.  tick: of the
 * coarse clock. */
struct worker {
  struct lmp_pool *x;
  struct mp_pool *p;
  struct mp_worker *w;
  struct mp_member *me;
  uint32_t i;
  lua_Hook hook;
  int hook_mask, hook_count;
  uint64_t left;
  uint64_t serials[FUNCTIONS];
  uint32_t oldest;
  struct mp_look look;
  struct mp_batch b;
  struct mp_got got;
  void *copy;
  struct lmp_stream in;
  const unsigned char *start;
  uint32_t k;
  enum phase phase;
  bool dropped, told;
  mp_time since, looked;
  uint64_t job;
  uint32_t since_look, every;
  long tick;
};

/* ---- time-outs of tasks ------------------------------------------------------------- */

/* Two timers of this process: one hooks the coroutine that tasks run on, the other kills.
 * A handler has no argument.  started: they run.  armed: a task does that has a time-out. */
static struct {
  timer_t soft, hard;
  pid_t made; /* by this process; a child has no timers */
  bool started;
  lua_State *base, *main;
  struct worker *worker;
  volatile sig_atomic_t armed;
} timing;

static int timeout_signal(void) { return SIGRTMAX - 2; }

static void restore_hook(lua_State *L, const struct worker *w) {
  lua_sethook(L, w->hook, w->hook_mask, w->hook_count);
}

static void raise_timeout(lua_State *L, lua_Debug *ar) {
  (void)ar;
  restore_hook(timing.base, timing.worker);
  lua_sethook(timing.main, NULL, 0, 0);
  if (L != timing.base) lua_sethook(L, NULL, 0, 0);
  lua_pushliteral(L, "task timed out");
  lua_error(L);
}

/* The main coroutine is where blocked calls look for hooks. */
static void on_timeout(int sig) {
  const int events = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;
  (void)sig;
  if (!timing.armed) return;
  timing.armed = 0;
  lua_sethook(timing.base, raise_timeout, events, 1);
  if (timing.main != timing.base) lua_sethook(timing.main, raise_timeout, events, 1);
}

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static int make_timers(void) {
  struct sigaction a;
  struct sigevent soft, hard;
  memset(&a, 0, sizeof a);
  memset(&soft, 0, sizeof soft);
  memset(&hard, 0, sizeof hard);
  a.sa_handler = on_timeout; /* without SA_RESTART: blocked calls are to see it */
  sigemptyset(&a.sa_mask);
  soft.sigev_notify = SIGEV_THREAD_ID;
  soft.sigev_signo = timeout_signal();
  soft.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
  hard.sigev_notify = SIGEV_SIGNAL;
  hard.sigev_signo = SIGKILL;
  if (sigaction(timeout_signal(), &a, NULL) != 0 ||
      timer_create(CLOCK_MONOTONIC, &soft, &timing.soft) != 0)
    return errno;
  if (timer_create(CLOCK_MONOTONIC, &hard, &timing.hard) != 0) {
    int e = errno;
    (void)timer_delete(timing.soft);
    return e;
  }
  timing.made = getpid();
  return 0;
}

/* `at`: 0 stops it. */
static void set_timer(timer_t timer, mp_time at) {
  struct itimerspec t = {{0, 0}, {at / 1000000000, at % 1000000000}};
  (void)timer_settime(timer, TIMER_ABSTIME, &t, NULL);
}

static mp_time later(mp_time t, int64_t ns) { return ns > INT64_MAX - t ? INT64_MAX : t + ns; }

static void start_timers(lua_State *L, struct worker *w) {
  if (timing.made != getpid()) {
    int e = make_timers();
    if (e) lmp_fail(L, e, "make a timer for a task");
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  timing.main = lua_tothread(L, -1);
  lua_pop(L, 1);
  timing.base = L;
  timing.worker = w;
  mp_time soft = later(mp_now(), w->b.timeout), hard = later(soft, w->b.grace);
  if (w->b.grace) {
    atomic_store_explicit(&w->w->kill_at, hard, memory_order_release);
    set_timer(timing.hard, hard);
  }
  timing.started = true;
  timing.armed = 1;
  set_timer(timing.soft, soft);
}

static void stop_timers(struct worker *w) {
  timing.armed = 0;
  if (!timing.started) return;
  timing.started = false;
  set_timer(timing.soft, 0);
  if (w->b.grace) {
    set_timer(timing.hard, 0);
    atomic_store_explicit(&w->w->kill_at, 0, memory_order_release);
  }
  restore_hook(timing.base, w);
  if (timing.main != timing.base) lua_sethook(timing.main, NULL, 0, 0);
}

/* ---- reports ------------------------------------------------------------------------ */

/* So that what a task has printed is out before its result is. */
static void flush_output(void) {
  if (__fpending(stdout) > 0) fflush(stdout);
}

/* Gives back the shared memory that the batch lies in: the result may need it. */
static bool move_batch(struct worker *w) {
  size_t left = (size_t)(w->in.end - w->in.at);
  if (!w->got.block || (w->copy = malloc(left + 1)) == NULL) return false;
  memcpy(w->copy, w->in.at, left);
  w->in.at = w->copy;
  w->in.end = w->in.at + left;
  mp_got_done(&w->got, w->me);
  return true;
}

static void pause_for_memory(struct worker *w) {
  struct timespec t = {0, FULL_WAIT_NS};
  (void)nanosleep(&t, NULL);
  mp_look_around(w->me);
}

/* A result that has been tried so often, while memory was short, will not find any. */
static bool is_hopeless(struct worker *w, int tries) {
  if (mp_queue_count(w->x->reports, w->me) > 0) return false;
  if (mp_queue_count(w->x->tasks, w->me) > 0) return tries > FULL_TRIES_BUSY;
  return tries > FULL_TRIES;
}

/* Sends what is in the record, or `extra`.  While memory is short it waits for the owner
 * to take reports.  0; ENOMEM: `extra` finds no room although none wait. */
static int send(struct worker *w, const struct mp_message *extra, bool last) {
  int e, tries = 0;
  flush_output();
  mp_time now = mp_now();
  uint64_t ns = (uint64_t)(now - w->since);
  while ((e = mp_worker_send(w->p, w->i, w->me, extra, ns, last)) != 0) {
    if (e != ENOMEM) continue; /* EINTR */
    if (extra && is_hopeless(w, ++tries)) return e;
    if (!move_batch(w)) pause_for_memory(w);
  }
  w->since = w->looked = now;
  w->since_look = 0;
  if (last) w->told = true;
  return 0;
}

/* Commits the result of the task in hand: bytes and references of a stream's value.
 * 0, ENOMEM. */
static int put_bytes(struct worker *w, const void *bytes, size_t n, const mp_ref *refs,
                     uint32_t nrefs) {
  bool small = nrefs == 0 && n <= MP_POOL_OUT;
  if (small && mp_worker_result(w->w, bytes, n)) return 0;
  (void)send(w, NULL, false);
  if (small && mp_worker_result(w->w, bytes, n)) return 0;
  struct mp_message m = {.data = bytes, .len = n, .refs = refs, .nrefs = nrefs};
  return send(w, &m, w->k + 1 == w->b.count);
}

static int put_pack(struct worker *w, const struct lmp_pack *p) {
  return put_bytes(w, p->data, p->len, p->refs, p->nrefs);
}

/* The value on top. */
static inline void put_result(lua_State *L, struct worker *w) {
  unsigned char small[LMP_SMALL];
  int top = lua_gettop(L);
  size_t n = lmp_small_to(L, top, small);
  if (n) {
    (void)put_bytes(w, small, n, NULL, 0);
    return;
  }
  struct lmp_pack *p = lmp_pack(L);
  lmp_stream_put(L, top, p);
  if (put_pack(w, p) != 0) lmp_full(L);
}

/* ---- errors ------------------------------------------------------------------------- */

/* Where an error goes. 0 or ENOMEM. */
struct sink {
  int (*put)(void *arg, const void *bytes, size_t n, const mp_ref *refs, uint32_t nrefs);
  void *arg;
};

static int put_as_result(void *arg, const void *bytes, size_t n, const mp_ref *refs,
                         uint32_t nrefs) {
  return put_bytes(arg, bytes, n, refs, nrefs);
}

/* What is told of an error that is too large to be told as it is. */
#define TEXT_MAX 1000

/* [sink, message, traceback, as text]: raises when it does not go. */
static int put_error(lua_State *L) {
  const struct sink *s = lua_touserdata(L, 1);
  luaL_checkstack(L, 8, NULL);
  if (lua_toboolean(L, 4)) {
    size_t n;
    const char *text = luaL_tolstring(L, 2, &n);
    lua_pushlstring(L, text, n < TEXT_MAX ? n : TEXT_MAX);
    lua_replace(L, 2);
  }
  struct lmp_pack *p = lmp_pack(L);
  *lmp_room(L, p, 1) = TAG_FAILED;
  p->len++;
  lmp_stream_put(L, 2, p);
  lmp_stream_put(L, 3, p);
  if (s->put(s->arg, p->data, p->len, p->refs, p->nrefs) != 0) lmp_full(L);
  return 0;
}

/* Puts the error [message, traceback] on top, and pops it: as it is, or its text when it
 * cannot cross, or what type it had. */
static void fail_with(lua_State *L, struct sink *s) {
  unsigned char bytes[LMP_SMALL + 2];
  char text[STR_INLINE + 1];
  int at = lua_gettop(L) - 1;
  for (int as_text = 0; as_text <= 1; as_text++) {
    lua_pushcfunction(L, put_error);
    lua_pushlightuserdata(L, s);
    lua_pushvalue(L, at);
    lua_pushvalue(L, at + 1);
    lua_pushboolean(L, as_text);
    int status = lua_pcall(L, 4, 0, 0);
    if (status == LUA_OK) break;
    lua_pop(L, 1);
    if (!as_text) continue;
    int n = snprintf(text, sizeof text, "(error object is a %s value)", luaL_typename(L, at));
    bytes[0] = TAG_FAILED;
    bytes[1] = (unsigned char)(TAG_STR + n);
    memcpy(bytes + 2, text, (size_t)n);
    bytes[2 + n] = TAG_NIL;
    (void)s->put(s->arg, bytes, (size_t)n + 3, NULL, 0);
  }
  lua_settop(L, at - 1);
}

/* The length of a traceback without the last `own` levels, the library's. */
static size_t without_own_levels(const char *text, size_t n, int own) {
  static const char tail[] = "\n\t(...tail calls...)", gap[] = "\n\t...\t(skipping";
  const char *line;
  while (own > 0 && (line = memrchr(text, '\n', n)) != NULL) {
    if (strncmp(line, gap, sizeof gap - 1) == 0) break;
    if (strncmp(line, tail, sizeof tail - 1) != 0) own--;
    n = (size_t)(line - text);
  }
  return n;
}

/* The message handler.  Upvalues: where the error was raised, nil when not in the task;
 * how many levels are not the task's. */
static int on_error(lua_State *L) {
  size_t n, head = sizeof "stack traceback:" - 1;
  lua_settop(L, 1);
  luaL_traceback(L, L, NULL, 1);
  const char *text = lua_tolstring(L, 2, &n);
  n = without_own_levels(text, n, (int)lua_tointeger(L, lua_upvalueindex(2)));
  if (n > head) lua_pushlstring(L, text, n);
  else lua_pushnil(L);
  lua_replace(L, lua_upvalueindex(1));
  lua_settop(L, 1);
  return 1;
}

/* Pushes what on_error has noted, and forgets it. */
static void push_traceback(lua_State *L) {
  if (!lua_getupvalue(L, SLOT_HANDLER, 1)) lua_pushnil(L);
  lua_pushnil(L);
  lua_setupvalue(L, SLOT_HANDLER, 1);
}

/* ---- tasks -------------------------------------------------------------------------- */

static long coarse_tick(void) {
  struct timespec t;
  (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
  return t.tv_nsec;
}

/* Reads the clock: is it time for a report, and how long do tasks take? */
static void look_at_clock(struct worker *w, long tick) {
  mp_time now = mp_now(), took = now - w->looked;
  uint32_t n = w->since_look;
  w->tick = tick;
  w->looked = now;
  w->since_look = 0;
  if (took < LOOK_NS / 2 && w->every < LOOK_MAX) w->every *= 2;
  else if (took > 2 * LOOK_NS)
    w->every = n * LOOK_NS > took ? (uint32_t)(n * LOOK_NS / took) : 1;
  if (now - w->since >= REPORT_NS && w->k < w->b.count) (void)send(w, NULL, false);
}

static inline void note_task(struct worker *w) {
  w->k++;
  w->left--;
  long tick = coarse_tick();
  if (++w->since_look >= w->every || tick != w->tick) look_at_clock(w, tick);
}

static inline bool wanted(struct worker *w) {
  if (mp_pool_cancelled(w->p, w->b.job)) w->dropped = true;
  return w->k < w->b.count && w->left > 0 && !w->dropped;
}

/* Pushes the arguments of the next task: how many. */
static int push_arguments(lua_State *L, struct worker *w) {
  struct lmp_stream *s = &w->in;
  if (!(w->b.flags & MP_BATCH_SPREAD)) {
    lmp_stream_push(L, s);
    return 1;
  }
  uint32_t n = s->at < s->end ? *s->at++ : 0;
  if (n < LMP_ARGS_TABLE) {
    luaL_checkstack(L, (int)n + LUA_MINSTACK, "too many arguments");
    for (uint32_t i = 0; i < n; i++) lmp_stream_push(L, s);
    return (int)n;
  }
  if (s->end - s->at < 4) luaL_error(L, "marshal: malformed data (arguments)");
  n = get32(s->at);
  s->at += 4;
  lmp_stream_push(L, s);
  int list = lua_gettop(L);
  if (n > INT32_MAX / 2) luaL_error(L, "too many arguments");
  luaL_checkstack(L, (int)n + LUA_MINSTACK, "too many arguments");
  for (uint32_t i = 1; i <= n; i++) lua_rawgeti(L, list, i);
  lua_remove(L, list);
  return (int)n;
}

/* Passes over the arguments of the task that begins at w->start. */
static void skip_arguments(struct worker *w) {
  struct lmp_stream *s = &w->in;
  s->at = w->start;
  uint32_t n = 1;
  if (w->b.flags & MP_BATCH_SPREAD) {
    n = s->at < s->end ? *s->at++ : 0;
    if (n == LMP_ARGS_TABLE) {
      s->at = s->end - s->at < 4 ? s->end : s->at + 4;
      n = 1;
    }
  }
  for (uint32_t i = 0; i < n; i++) lmp_stream_skip(s);
}

/* A random stream of the task's own; math.randomseed is at 3. */
static void seed_task(lua_State *L, const struct worker *w) {
  lua_Integer seed[2];
  lmp_task_seed(w->b.seed, w->b.first + w->k, seed);
  lua_pushvalue(L, 3);
  lua_pushinteger(L, seed[0]);
  lua_pushinteger(L, seed[1]);
  lua_call(L, 2, 0);
}

/* What a task has left behind on the coroutine. */
static inline void clean_up(lua_State *L, struct worker *w) {
  if (w->b.timeout) stop_timers(w);
  if (lua_gethook(L) != w->hook || lua_gethookmask(L) != w->hook_mask) restore_hook(L, w);
}

/* [worker, function, math.randomseed]: runs tasks from w->k on, to the end of the batch or
 * an error. */
static int run_tasks(lua_State *L) {
  struct worker *w = lua_touserdata(L, 1);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  while (wanted(w)) {
    w->phase = ARGUMENTS;
    w->start = w->in.at;
    if (w->b.flags & MP_BATCH_SEEDED) seed_task(L, w);
    lua_pushvalue(L, 2);
    int n = push_arguments(L, w);
    if (w->b.timeout) start_timers(L, w);
    w->phase = RUNNING;
    lua_call(L, n, 1);
    w->phase = RESULT;
    clean_up(L, w);
    put_result(L, w);
    lua_settop(L, 3);
    note_task(w);
  }
  return 0;
}

/* The task in hand failed, the error is on top and goes. */
static void fail_task(lua_State *L, struct worker *w) {
  struct sink s = {put_as_result, w};
  clean_up(L, w);
  if (w->phase == RESULT && lua_type(L, -1) == LUA_TSTRING) {
    lua_pushfstring(L, "%s (result of task %I)", lua_tostring(L, -1),
                    (LUAI_UACINT)(w->b.first + w->k));
    lua_remove(L, -2);
  }
  if (w->phase == ARGUMENTS) skip_arguments(w);
  push_traceback(L);
  fail_with(L, &s);
  note_task(w);
}

/* ---- functions ---------------------------------------------------------------------- */

static int decode(lua_State *L) {
  lmp_decode(L, lua_touserdata(L, 1));
  return 1;
}

int lmp_pool_decode(lua_State *L, struct lmp_unpack *u, struct mp_member *me) {
  lua_pushcfunction(L, decode);
  lua_pushlightuserdata(L, u);
  int status = lua_pcall(L, 1, 1, 0);
  for (uint32_t i = 0; i < u->nrefs; i++)
    if (u->entries[i] != UINT32_MAX) mp_drop(u->entries[i], me);
  return status;
}

/* The objects that a FUNCTION refers to, registered: into a userdata, pushed.  0 or
 * ENOMEM: none is. */
static int refer_all(lua_State *L, const struct mp_function *f, struct mp_member *me,
                     struct lmp_unpack *u) {
  mp_ref *refs = lua_newuserdatauv(L, (size_t)f->nrefs * 2 * sizeof *refs + 1, 0);
  u->refs = f->refs;
  u->entries = refs + f->nrefs;
  for (uint32_t i = 0; i < f->nrefs; i++) {
    int e = mp_refer(f->refs[i], me, &u->entries[i]);
    if (!e) continue;
    while (i-- > 0) mp_drop(u->entries[i], me);
    return e;
  }
  u->nrefs = f->nrefs;
  return 0;
}

/* Pushes the function that lies in the FUNCTION of the batch, or an error: LUA_OK or not.
 * *gone: it is no more, because nobody waits for the job. */
static int load_function(lua_State *L, struct worker *w, bool *gone) {
  struct lmp_unpack u = {.mode = LMP_FAMILY};
  uint32_t entry;
  int e = mp_refer_serial(w->b.func, w->b.serial, w->me, &entry), status = LUA_OK;
  *gone = e == ESTALE;
  if (e) {
    lua_pushliteral(L, "shared memory is full");
    return LUA_ERRRUN;
  }
  const struct mp_function *f = mp_at(w->b.func);
  e = refer_all(L, f, w->me, &u);
  u.data = (const unsigned char *)(f->refs + f->nrefs);
  u.len = (size_t)f->len;
  if (e) lua_pushliteral(L, "shared memory is full");
  else status = lmp_pool_decode(L, &u, w->me);
  mp_drop(entry, w->me);
  lua_remove(L, -2);
  return e ? LUA_ERRRUN : status;
}

/* Keeps the function on top; the oldest one goes. */
static void keep_function(lua_State *L, struct worker *w) {
  uint64_t *place = &w->serials[w->oldest++ % FUNCTIONS];
  if (*place) {
    lua_pushnil(L);
    lua_rawseti(L, SLOT_FUNCTIONS, (lua_Integer)*place);
  }
  *place = w->b.serial;
  lua_pushvalue(L, -1);
  lua_rawseti(L, SLOT_FUNCTIONS, (lua_Integer)w->b.serial);
}

/* Pushes the function of the batch, or an error. */
static int push_function(lua_State *L, struct worker *w, bool *gone) {
  *gone = false;
  if (lua_rawgeti(L, SLOT_FUNCTIONS, (lua_Integer)w->b.serial) != LUA_TNIL) return LUA_OK;
  lua_pop(L, 1);
  int status = load_function(L, w, gone);
  if (status == LUA_OK) keep_function(L, w);
  return status;
}

/* ---- batches ------------------------------------------------------------------------ */

/* The error in SLOT_FUNC, why there is no function, is the end of every task. */
static void fail_all(lua_State *L, struct worker *w) {
  struct sink s = {put_as_result, w};
  while (wanted(w)) {
    lua_pushvalue(L, SLOT_FUNC);
    lua_pushnil(L);
    fail_with(L, &s);
    note_task(w);
  }
}

static void run_all(lua_State *L, struct worker *w) {
  while (w->k < w->b.count && w->left > 0 && !w->dropped) {
    lua_pushcfunction(L, run_tasks);
    lua_pushlightuserdata(L, w);
    lua_pushvalue(L, SLOT_FUNC);
    lua_pushvalue(L, SLOT_SEED);
    if (lua_pcall(L, 3, 0, SLOT_HANDLER) == LUA_OK) return;
    fail_task(L, w);
  }
}

/* Runs the batch that lies in `got`, as far as the worker goes before it retires. */
static void run_batch(lua_State *L, struct worker *w) {
  bool gone;
  memcpy(&w->b, w->got.data, sizeof w->b);
  w->in.at = w->got.data + sizeof w->b;
  w->in.end = w->got.data + w->got.len;
  w->k = 0;
  w->dropped = w->told = false;
  w->phase = ARGUMENTS;
  w->start = w->in.at;
  if (w->b.job != w->job) w->every = 1;
  w->job = w->b.job;
  int status = push_function(L, w, &gone);
  if (gone) w->dropped = true;
  else if (status == LUA_OK) run_all(L, w);
  else fail_all(L, w);
  lua_settop(L, SLOT_FUNC - 1);
  bool done = w->k == w->b.count || w->dropped;
  if (!w->told) (void)send(w, NULL, done);
}

static void read_clock(struct worker *w) {
  w->since = w->looked = mp_now();
  w->since_look = 0;
  w->tick = coarse_tick();
}

/* As mp_worker_take.  When there is no need to wait the batch begins where the last report
 * was sent, and the clock need not be read. */
static int take_next(struct worker *w, void *buf, uint32_t *nrefs) {
  int e = mp_worker_take(w->p, w->i, w->me, MP_NEVER, &w->look, buf, &w->got, nrefs);
  if (e != EAGAIN) return e;
  e = mp_worker_take(w->p, w->i, w->me, MP_FOREVER, &w->look, buf, &w->got, nrefs);
  read_clock(w);
  return e;
}

/* Takes the next batch.  0, EPIPE; EINTR, EAGAIN, ENOMEM: try again. */
static int take(lua_State *L, struct worker *w, void *buf) {
  struct lmp_unpack *u = &w->in.u;
  uint32_t nrefs;
  memset(&w->in, 0, sizeof w->in);
  int e = take_next(w, buf, &nrefs);
  if (e != EBADMSG) return e;
  mp_ref *refs = lua_newuserdatauv(L, (size_t)nrefs * 2 * sizeof *refs, 0);
  u->refs = refs;
  u->entries = refs + nrefs;
  e = mp_worker_take_refs(w->p, w->i, w->me, buf, &w->got, refs, u->entries, nrefs, &u->nrefs);
  lua_replace(L, SLOT_REFS);
  return e;
}

static void give_back(struct worker *w) {
  struct lmp_unpack *u = &w->in.u;
  mp_got_done(&w->got, w->me);
  free(w->copy);
  w->copy = NULL;
  for (uint32_t i = 0; i < u->nrefs; i++)
    if (u->entries[i] != UINT32_MAX) mp_drop(u->entries[i], w->me);
}

/* To the end: "retired" or "over". */
static const char *work(lua_State *L, struct worker *w) {
  unsigned char buf[MP_INLINE_MAX];
  read_clock(w);
  while (w->left > 0) {
    int e = take(L, w, buf);
    if (e == EPIPE) break;
    if (e == ENOMEM) pause_for_memory(w);
    else if (e == EINTR) lmp_pause(L, w->me);
    if (e) continue;
    run_batch(L, w);
    give_back(w);
  }
  mp_worker_retire(w->p, w->i);
  return w->left > 0 ? "over" : "retired";
}

/* ---- what Lua sees ------------------------------------------------------------------ */

/* Levels of this call and below. */
static int count_levels(lua_State *L) {
  lua_Debug ar;
  int n = 0;
  while (lua_getstack(L, n, &ar)) n++;
  return n;
}

static void push_randomseed(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, LUA_MATHLIBNAME) == LUA_TTABLE) lua_getfield(L, -1, "randomseed");
  lua_replace(L, -3);
  lua_pop(L, 1);
}

/* worker(pool, i, maxtasks) -> "retired" | "over" */
static int run_worker(lua_State *L) {
  struct worker w;
  memset(&w, 0, sizeof w);
  w.x = lmp_pool_check(L);
  w.i = lmp_pool_worker(L, w.x, 2);
  w.left = lua_isnoneornil(L, 3) ? UINT64_MAX : (uint64_t)luaL_checkinteger(L, 3);
  luaL_argcheck(L, w.left >= 1, 3, "1 task at least");
  w.p = w.x->p;
  w.w = &w.p->worker[w.i];
  w.me = w.x->me;
  w.hook = lua_gethook(L);
  w.hook_mask = lua_gethookmask(L);
  w.hook_count = lua_gethookcount(L);
  lua_settop(L, SLOT_POOL);
  luaL_checkstack(L, 2 * LUA_MINSTACK, NULL);
  lua_newtable(L);
  push_randomseed(L);
  lua_pushnil(L);
  lua_pushinteger(L, count_levels(L) + 1);
  lua_pushcclosure(L, on_error, 2);
  lua_pushnil(L);
  lua_pushstring(L, work(L, &w));
  return 1;
}

/* worker_open(pool, i): this process is worker i */
static int open_worker(lua_State *L) {
  struct lmp_pool *x = lmp_pool_check(L);
  memset(&timing, 0, sizeof timing);
  mp_worker_open(x->p, lmp_pool_worker(L, x, 2), x->me);
  return 0;
}

struct failing {
  struct lmp_pool *x;
  uint32_t i;
};

static int put_as_failure(void *arg, const void *bytes, size_t n, const mp_ref *refs,
                          uint32_t nrefs) {
  const struct failing *f = arg;
  struct mp_message m = {.data = bytes, .len = n, .refs = refs, .nrefs = nrefs};
  struct timespec t = {0, FULL_WAIT_NS};
  int e, tries = 0;
  while ((e = mp_worker_failed(f->x->p, f->i, EXIT_FAILURE, &m, f->x->me)) != 0) {
    if (e == ENOMEM && ++tries > FULL_TRIES) return e;
    if (e == ENOMEM) (void)nanosleep(&t, NULL);
  }
  return 0;
}

/* worker_failed(pool, i, err, traceback): worker i, this process or one that could not be
 * forked, cannot get ready */
static int fail_worker(lua_State *L) {
  struct failing f = {.x = lmp_pool_check(L)};
  struct sink s = {put_as_failure, &f};
  f.i = lmp_pool_worker(L, f.x, 2);
  lua_settop(L, 4);
  fail_with(L, &s);
  return 0;
}

void lmp_open_worker(lua_State *L) {
  static const luaL_Reg functions[] = {
    {"worker", run_worker}, {"worker_open", open_worker}, {"worker_failed", fail_worker},
    {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
