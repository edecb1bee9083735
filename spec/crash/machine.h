/* The crash machine: an operation runs in a process of its own, which is killed with SIGKILL
 * after k instructions, for every k; then the object is checked from outside.
 *
 * A first run steps through all of the operation and writes the addresses of its
 * instructions down.  A run to instruction k goes at full speed to a breakpoint, at the last
 * address before k that had not been reached earlier, and steps only from there: the work is
 * as long as the operation and not as its square.  A run that takes another way (the others
 * have left something else in shared memory) steps from the beginning.
 *
 * Included by check.h. */
#ifndef MACHINE_H
#define MACHINE_H
#include <sched.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <time.h>

#if !defined(__x86_64__)
#error "the crash machine knows x86-64 only"
#endif

/* How many kill points of an operation are tried, spread over all of it.
 * MPLUA_KILL_POINTS asks for another number, or "all". */
#define KILL_POINTS 20
/* Points of an operation where a second kill, during the recovery, is tried too. */
#define PAIRS 3
/* Instructions of an operation, at most. */
#define TRACE_MAX (1 << 20)
/* Seconds that a check may take: whoever waits for a dead one waits a slice or two. */
#define PATIENCE 0.5

/* trace[i]: where instruction i is.  anchor[i]: the last one up to i whose address comes
 * there for the first time. */
static struct {
  uintptr_t *trace;
  uint32_t *anchor;
  long n;
} way;

static void (*crash_op)(void);

static inline double crash_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Both on one processor: a step is then a switch, and not a message to another one. */
static inline void crash_pin(void) {
  static bool done;
  cpu_set_t set;
  if (done) return;
  done = true;
  int cpu = sched_getcpu();
  CPU_ZERO(&set);
  CPU_SET(cpu < 0 ? 0 : cpu, &set);
  (void)sched_setaffinity(0, sizeof set, &set);
}

static void traced(void) {
  if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(2);
  raise(SIGSTOP);
  crash_op();
  _exit(0);
}

static inline uintptr_t where(pid_t pid) {
  return (uintptr_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), NULL);
}

/* One instruction; false when it was the process's last. */
static inline bool crash_step(pid_t pid) {
  int status;
  ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
  waitpid(pid, &status, 0);
  return WIFSTOPPED(status);
}

/* Goes on to an address, once; false when the process ends without coming there. */
static inline bool crash_go(pid_t pid, uintptr_t to) {
  int status;
  if (where(pid) == to) return true;
  long word = ptrace(PTRACE_PEEKTEXT, pid, (void *)to, NULL);
  ptrace(PTRACE_POKETEXT, pid, (void *)to, (void *)((word & ~0xffl) | 0xcc));
  ptrace(PTRACE_CONT, pid, NULL, NULL);
  waitpid(pid, &status, 0);
  if (!WIFSTOPPED(status)) return false;
  ptrace(PTRACE_POKETEXT, pid, (void *)to, (void *)word);
  if (WSTOPSIG(status) != SIGTRAP || where(pid) != to + 1) return false;
  ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rip), (void *)to);
  return true;
}

/* Starts the operation, stopped before its first instruction; pid -1: no tracing here. */
static inline struct child crash_begin(void (*op)(void)) {
  int status;
  crash_op = op;
  struct child c = start(traced);
  waitpid(c.pid, &status, 0);
  if (WIFSTOPPED(status)) return c;
  mp_bury(c.word, &me, NULL);
  c.pid = -1;
  return c;
}

static inline void crash_end(struct child c, bool alive, long k) {
  if (alive) {
    kill(c.pid, SIGKILL);
    waitpid(c.pid, NULL, 0);
  }
  if (k % 2) mp_bury(c.word, &me, NULL); /* else whoever comes finds it dead */
}

/* Marks the first visits of a trace: by sorting, since addresses are many. */
static inline int by_address(const void *a, const void *b) {
  uintptr_t x = way.trace[*(const uint32_t *)a], y = way.trace[*(const uint32_t *)b];
  if (x != y) return x < y ? -1 : 1;
  return *(const uint32_t *)a < *(const uint32_t *)b ? -1 : 1;
}

static inline void find_anchors(void) {
  uint32_t *order = malloc((size_t)way.n * sizeof *order);
  if (!order) abort();
  for (long i = 0; i < way.n; i++) order[i] = (uint32_t)i, way.anchor[i] = 0;
  qsort(order, (size_t)way.n, sizeof *order, by_address);
  for (long i = 1; i < way.n; i++)
    if (way.trace[order[i]] != way.trace[order[i - 1]]) way.anchor[order[i]] = order[i];
  for (long i = 1; i < way.n; i++)
    if (way.anchor[i] == 0) way.anchor[i] = way.anchor[i - 1];
  free(order);
}

/* Steps through the operation and writes its way down.  How many instructions it has; -1:
 * no tracing here. */
static inline long crash_trace(void (*op)(void)) {
  if (!way.trace) {
    way.trace = malloc(TRACE_MAX * sizeof *way.trace);
    way.anchor = malloc(TRACE_MAX * sizeof *way.anchor);
    if (!way.trace || !way.anchor) abort();
  }
  way.n = 0;
  struct child c = crash_begin(op);
  if (c.pid < 0) return -1;
  do way.trace[way.n++] = where(c.pid);
  while (crash_step(c.pid) && way.n < TRACE_MAX);
  crash_end(c, way.n == TRACE_MAX, 1);
  find_anchors();
  return way.n;
}

/* Runs op for k instructions in a process of its own; false: it came to its end before. */
static inline bool crash_reach(void (*op)(void), long k, struct child *c) {
  *c = crash_begin(op);
  long from = k < way.n ? (long)way.anchor[k] : 0;
  bool alive = from == 0 || crash_go(c->pid, way.trace[from]);
  for (long i = from; alive && i < k; i++) alive = crash_step(c->pid);
  return alive;
}

/* The same, then kills it. */
static inline void crash(void (*op)(void), long k) {
  struct child c;
  bool alive = crash_reach(op, k, &c);
  crash_end(c, alive, k);
}

/* Inside a string instruction, which is stepped byte by byte: one point in 2,048 is enough. */
static inline bool crash_repeats(long k) {
  return k > 0 && k + 1 < way.n && way.trace[k] == way.trace[k - 1] &&
         way.trace[k] == way.trace[k + 1] && k % 2048 != 0;
}

static inline long wanted_points(long length) {
  const char *s = getenv("MPLUA_KILL_POINTS");
  if (s && strcmp(s, "all") == 0) return length;
  return s && atol(s) > 0 ? atol(s) : KILL_POINTS;
}

/* Whether somebody had to wait longer than for the end of a slice; a machine that was busy
 * elsewhere is asked again. */
static inline bool crash_waits(long k, void (*prepare)(void), void (*op)(void), void (*check)(void)) {
  for (int tries = 0; tries < 3; tries++) {
    if (prepare) prepare();
    crash(op, k);
    double began = crash_now();
    check();
    if (crash_now() - began <= PATIENCE) return false;
  }
  return true;
}

static void recover(void) { mp_collect(&me); }

/* A second kill, of whoever comes after the first one and finds what it left. */
static inline void crash_pairs(void (*prepare)(void), void (*op)(void), void (*check)(void)) {
  static const long second[] = {20, 150, 500, 1000, 2000, 4000};
  long length = way.n;
  for (long i = 1; i <= PAIRS; i++)
    for (size_t j = 0; j < sizeof second / sizeof *second; j++) {
      running_point = -(length * i / (PAIRS + 1) & ~1l); /* even: nobody has buried it */
      if (prepare) prepare();
      crash(op, -running_point);
      way.n = 0; /* this way is not known */
      crash(recover, second[j]);
      way.n = length;
      check();
    }
}

/* prepare(); op in a process that is killed; check(): for `wanted` kill points spread over
 * all of the operation. */
static inline void crash_at(const char *name, long wanted, void (*prepare)(void),
                            void (*op)(void), void (*check)(void)) {
  double began = crash_now();
  int bad = failed;
  running = name;
  running_point = 0;
  crash_pin();
  if (prepare) prepare();
  long length = crash_trace(op), points = 0;
  check();
  if (length < 0) {
    printf("%s: no tracing here, kill points are left out\n", name);
    return;
  }
  if (wanted == 0) wanted = wanted_points(length);
  long step = wanted >= length ? 1 : length / wanted + 1;
  for (long k = step > 1 ? step : 0; k < length; k += step) {
    if (crash_repeats(k)) continue;
    points++;
    running_point = k;
    if (prepare) prepare();
    crash(op, k);
    double checking = crash_now();
    check();
    if (crash_now() - checking > PATIENCE && crash_waits(k, prepare, op, check)) {
      failed++;
      printf("%s: the check after kill point %ld has to wait\n", name, k);
    }
  }
  crash_pairs(prepare, op, check);
  printf("%-36s %7ld kill points of %7ld %4d violations %7.1f s\n", name, points, length,
         failed - bad, crash_now() - began);
  running = "";
  running_point = 0;
}

/* The other way round: op is not killed but stopped after k instructions; look(its process)
 * sees what it has done so far, and may have others go on; then op goes on to its end, and
 * check(). */
static inline void stop_all(const char *name, void (*prepare)(void), void (*op)(void),
                            void (*look)(struct child), void (*check)(void)) {
  double began = crash_now();
  int bad = failed;
  running = name;
  crash_pin();
  prepare();
  long length = crash_trace(op), points = 0;
  check();
  if (length < 0) {
    printf("%s: no tracing here, stops are left out\n", name);
    return;
  }
  long wanted = wanted_points(length), step = wanted >= length ? 1 : length / wanted + 1;
  for (long k = step > 1 ? step : 0; k < length; k += step, points++) {
    if (crash_repeats(k)) continue;
    running_point = k;
    prepare();
    struct child c;
    bool alive = crash_reach(op, k, &c);
    look(c);
    if (alive) ptrace(PTRACE_DETACH, c.pid, NULL, NULL);
    if (alive) waitpid(c.pid, NULL, 0);
    mp_bury(c.word, &me, NULL);
    check();
  }
  printf("%-36s %7ld stops of %7ld %4d violations %7.1f s\n", name, points, length,
         failed - bad, crash_now() - began);
  running = "";
  running_point = 0;
}

/* As many as one asks for by MPLUA_KILL_POINTS. */
static inline void crash_all(const char *name, void (*prepare)(void), void (*op)(void),
                             void (*check)(void)) {
  crash_at(name, 0, prepare, op, check);
}

#endif
