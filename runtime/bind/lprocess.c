/* Processes: starting, watching, signalling, reaping; what mp/process.lua is made of.
 *
 * A core process ("mp.Process" userdata) is made empty and filled by start.  A child is
 * reaped here and nowhere else, by the process that started it.
 */
#include "lprocess.h"
#include "../os/fd.h"
#include "../os/stdio.h"
#include <errno.h>
#include <lualib.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define PROCESS "mp.Process"
#define CODE_UNKNOWN 255 /* somebody else reaped it, and it left no code */
#define BLIND_WAIT_NS 5000000 /* between looks when there is no descriptor to watch by */

enum state { UNBORN, RUNNING, ENDED };

/* state: of a child.   owner: the process whose child it is; the others have a copy of
 * the userdata that says nothing.  watch: a pidfd, or -1.  shown: the script has seen
 * its number, so it stays open until close.   parent: it is the parent of `owner`. */
struct process {
  enum state state;
  pid_t pid, owner;
  uint32_t word;
  int watch, code;
  bool shown, parent;
};

static struct process *check_process(lua_State *L, int arg) {
  return luaL_checkudata(L, arg, PROCESS);
}

static struct process *push_process(lua_State *L) {
  struct process *p = lua_newuserdatauv(L, sizeof *p, 0);
  memset(p, 0, sizeof *p);
  p->watch = -1;
  luaL_setmetatable(L, PROCESS);
  return p;
}

/* core.process() -> an empty one */
static int new_process(lua_State *L) {
  (void)push_process(L);
  return 1;
}

static int process_gc(lua_State *L) {
  mp_fd_close(&check_process(L, 1)->watch);
  return 0;
}

/* ---- start --------------------------------------------------------------------------- */

static const char *const stream_names[] = {"stdin", "stdout", "stderr"};

static void read_cpus(lua_State *L, int spec, struct mp_birth *b) {
  if (lua_getfield(L, spec, "cpu") != LUA_TNIL) {
    lua_Integer n = luaL_len(L, -1);
    b->pinned = true;
    CPU_ZERO(&b->cpus);
    for (lua_Integer i = 1; i <= n; i++) {
      lua_geti(L, -1, i);
      lua_Integer cpu = lua_tointeger(L, -1);
      if (cpu < 0 || cpu >= CPU_SETSIZE) luaL_error(L, "there is no processor %I", cpu);
      CPU_SET((size_t)cpu, &b->cpus);
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

static void read_limits(lua_State *L, int spec, struct lmp_start *s) {
  struct mp_birth *b = &s->birth;
  lua_getfield(L, spec, "detach");
  b->detach = lua_toboolean(L, -1);
  lua_getfield(L, spec, "nice");
  b->nice = (int)lua_tointeger(L, -1);
  lua_getfield(L, spec, "memory");
  b->memory = (size_t)lua_tointeger(L, -1);
  lua_getfield(L, spec, "role");
  s->role = (enum lmp_role)lua_tointeger(L, -1);
  lua_pop(L, 4);
  read_cpus(L, spec, b);
}

/* The descriptor of a Lua file; a file read from is put back to where the script has
 * read, as far as it can be. */
static int open_file(luaL_Stream *f, struct mp_birth *b, int i) {
  if (!f->closef) return EBADF;
  (void)fflush(f->f);
  return mp_birth_copy(b, i, fileno(f->f));
}

/* One stream of the child.  0 or errno; raises nothing. */
static int open_stream(lua_State *L, int spec, struct mp_birth *b, int i) {
  int e = 0;
  if (lua_getfield(L, spec, stream_names[i]) == LUA_TSTRING) {
    const char *path = lua_tostring(L, -1);
    bool same = i == 2 && lua_getfield(L, spec, "stdout") == LUA_TSTRING &&
                strcmp(lua_tostring(L, -1), path) == 0;
    e = same ? mp_birth_copy(b, i, b->stream[1]) : mp_birth_open(b, i, path);
    if (i == 2) lua_pop(L, 1);
  } else if (lua_touserdata(L, -1)) {
    e = open_file(lua_touserdata(L, -1), b, i);
  }
  lua_pop(L, 1);
  return e;
}

/* All of them, or none and an error. */
static void open_streams(lua_State *L, int spec, const char *name, struct mp_birth *b) {
  for (int i = 0; i < 3; i++) {
    int e = open_stream(L, spec, b, i);
    if (!e) continue;
    mp_birth_close(b);
    lua_getfield(L, spec, stream_names[i]);
    const char *path = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "a file";
    lmp_fail(L, e, lua_pushfstring(L, "open %s as %s of process '%s'", path,
                                   stream_names[i], name));
  }
}

/* Moves the function and the arguments from `first` on to the child's coroutine, while
 * an error can still be raised. */
static void fill_coroutine(lua_State *L, struct lmp_start *s, int first) {
  lmp_program_prepare(L, s->program);
  s->co = s->program->next_co;
  s->nargs = lua_gettop(L) - first;
  lua_settop(s->co, 0); /* what an error has left there */
  luaL_checkstack(s->co, s->nargs + 8, "too many arguments");
  lua_pushthread(L);
  lua_insert(L, first);
  lua_pushcfunction(L, lmp_child_error);
  lua_insert(L, first + 1);
  lua_xmove(L, s->co, s->nargs + 3);
}

/* The fork, between two lines that nothing may interrupt.  0 or errno; in the child it
 * does not return. */
static int start(struct lmp_start *s, pid_t *pid, uint32_t *word) {
  sigset_t all;
  s->told = mp_birth_risky(&s->birth);
  int e = s->told ? mp_trouble_open(s->trouble) : 0;
  if (e) return e;
  mp_stdio_flush();
  s->parent = getpid();
  s->birth.by_thread = gettid() != s->parent;
  s->parent_word = s->member->word;
  sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &s->mask);
  e = mp_member_fork(s->member, s->name, pid, word);
  if (e == 0 && *pid == 0) lmp_child_run(s);
  (void)pthread_sigmask(SIG_SETMASK, &s->mask, NULL);
  if (e && s->told) {
    mp_fd_close(&s->trouble[0]);
    mp_fd_close(&s->trouble[1]);
  }
  return e;
}

/* A child that could not set itself up has exited. */
static struct mp_trouble hear(struct lmp_start *s, pid_t pid, uint32_t word) {
  struct mp_trouble t = {0, NULL};
  int code;
  if (!s->told) return t;
  t = mp_trouble_hear(s->trouble);
  if (!t.err) return t;
  while (mp_proc_reap(pid, &code) == EAGAIN) sched_yield();
  mp_bury(word, s->member, NULL);
  return t;
}

/* Why there is no child: word is 0 when it is for the family. */
static int not_started(lua_State *L, int e, const char *name, uint32_t word) {
  if (word == 0 && e == ENOMEM) return lmp_full(L);
  if (word == 0 && e == EAGAIN)
    return luaL_error(L, "cannot start process '%s': the family has %d processes already", name,
                      MP_SLOTS - 1);
  return lmp_fail(L, e, lua_pushfstring(L, "start process '%s'", name));
}

/* core.start(process, name, spec, f, ...): forks a child that calls f(...) and ends;
 * returns its pid.  spec: what mp/process.lua has checked. */
static int start_process(lua_State *L) {
  struct process *p = check_process(L, 1);
  struct lmp_start s = {.L = L, .name = luaL_checkstring(L, 2), .birth.stream = {-1, -1, -1}};
  pid_t pid;
  uint32_t word = UINT32_MAX;
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TFUNCTION);
  read_limits(L, 3, &s);
  s.member = lmp_member(L);
  s.program = lmp_program(L);
  s.program->thread = pthread_self();
  fill_coroutine(L, &s, 4);
  open_streams(L, 3, s.name, &s.birth);
  int e = start(&s, &pid, &word);
  if (word == 0 && e == ENOMEM) { /* what Lua does not need any more may hold the memory */
    lua_gc(L, LUA_GCCOLLECT);
    e = start(&s, &pid, &word);
  }
  mp_birth_close(&s.birth);
  lua_settop(s.co, 0);
  if (e) return not_started(L, e, s.name, word);
  struct mp_trouble t = hear(&s, pid, word);
  if (t.err)
    return lmp_fail(L, t.err, lua_pushfstring(L, "start process '%s': %s", s.name, t.what));
  p->pid = pid;
  p->word = word;
  p->owner = getpid();
  p->state = RUNNING;
  s.program->over = false; /* somebody has to wait for it, should the end have been */
  lua_pushinteger(L, pid);
  return 1;
}

/* core.word_of(process) -> its lock word */
static int word_of(lua_State *L) {
  lua_pushinteger(L, check_process(L, 1)->word);
  return 1;
}

/* core.parent() -> the process that started this one, nil in a main program */
static int parent_process(lua_State *L) {
  struct lmp_program *program = lmp_program(L);
  if (!program->child) return 0;
  struct process *p = push_process(L);
  p->pid = program->parent;
  p->word = program->parent_word;
  p->owner = program->pid;
  p->state = RUNNING;
  p->parent = true;
  lua_pushinteger(L, p->pid);
  return 2;
}

/* ---- ends ----------------------------------------------------------------------------- */

/* Looks whether it has ended; then everything of it is given back at once. */
static bool ended(struct process *p, struct mp_member *m) {
  int left = -1;
  if (p->state != RUNNING) return p->state == ENDED;
  if (p->parent) {
    if (mp_alive(p->word)) return false;
    p->code = CODE_UNKNOWN;
  } else {
    int e = mp_proc_reap(p->pid, &p->code);
    if (e == EAGAIN) return false;
    mp_bury(p->word, m, &left);
    if (e) p->code = left >= 0 ? left : CODE_UNKNOWN;
  }
  p->state = ENDED;
  if (!p->shown) mp_fd_close(&p->watch);
  return true;
}

/* One slice of waiting: 0 (look again), EINTR, ETIMEDOUT or another errno.  Where no
 * descriptor is to be had one looks again after a while. */
static int wait_slice(struct process *p, mp_time deadline) {
  if (p->watch < 0 && mp_proc_watch(p->pid, &p->watch) != 0) {
    struct timespec t = {0, BLIND_WAIT_NS};
    (void)nanosleep(&t, NULL);
    return mp_now() >= deadline ? ETIMEDOUT : EINTR;
  }
  if (p->parent && !mp_alive(p->word)) return 0; /* its number may be another's by now */
  return mp_fd_wait(p->watch, POLLIN, deadline);
}

/* core.wait(process, timeout) -> exit code, or nothing when it still runs.  It does not
 * look a few times before it sleeps, as other waits do: a process takes longer to end
 * than looking can pay for, and one that yields while it looks stands in the way of it. */
static int wait_process(lua_State *L) {
  struct process *p = check_process(L, 1);
  mp_time deadline = lmp_deadline(L, 2);
  struct mp_member *m = lmp_member(L);
  int e = deadline == MP_NEVER ? ETIMEDOUT : 0;
  luaL_argcheck(L, p->state != UNBORN && p->owner == getpid(), 1, "not a child process");
  while (!ended(p, m)) {
    if (e == ETIMEDOUT) return 0;
    mp_label(m, 0, MP_WAIT_PROCESS);
    e = wait_slice(p, deadline);
    mp_unlabel(m);
    if (e == EINTR) lmp_pause(L, m);
    else if (e && e != ETIMEDOUT) return lmp_fail(L, e, "wait for a process");
  }
  lua_pushinteger(L, p->code);
  return 1;
}

/* core.watch(process, shown) -> a descriptor that polls readable when it has ended.
 * `shown`: it is given to the script and stays open until forget. */
static int watch_process(lua_State *L) {
  struct process *p = check_process(L, 1);
  int e = 0;
  if (p->watch < 0) {
    e = p->state == RUNNING ? mp_proc_watch(p->pid, &p->watch) : ESRCH;
    if (e == ESRCH && (p->watch = mp_fd_high(eventfd(1, EFD_CLOEXEC))) >= 0) e = 0;
    else if (e == ESRCH) e = errno;
  }
  if (e) return lmp_fail(L, e, "watch a process");
  if (lua_toboolean(L, 2)) p->shown = true;
  lua_pushinteger(L, p->watch);
  return 1;
}

/* core.forget(process): closes what start and watch have opened */
static int forget_process(lua_State *L) {
  struct process *p = check_process(L, 1);
  p->shown = false;
  mp_fd_close(&p->watch);
  return 0;
}

/* core.signal(process, number); nothing when it has ended */
static int signal_process(lua_State *L) {
  struct process *p = check_process(L, 1);
  int sig = (int)luaL_checkinteger(L, 2);
  struct mp_member *m = lmp_member(L);
  luaL_argcheck(L, p->state != UNBORN && p->owner == getpid(), 1, "not a child process");
  if (!ended(p, m) && kill(p->pid, sig) != 0 && errno != ESRCH)
    return lmp_fail(L, errno,
                    lua_pushfstring(L, "send signal %d to process %d", sig, (int)p->pid));
  return 0;
}

/* Whether a member that `parent` had started lives.  Those that do not are buried: a child
 * that has not confirmed its slot yet cannot do so any more. */
static bool any_child(uint32_t parent, struct mp_member *m) {
  bool any = false;
  for (uint32_t i = 1; i < mp_slots_used(); i++) {
    const struct mp_slot *s = mp_slot_at(i);
    uint32_t sw = atomic_load_explicit(&s->word, memory_order_acquire);
    uint32_t word = i | (sw >> 3) << 12;
    bool free = (sw & 7) == 0;
    if (free || atomic_load(&s->parent) != parent) continue;
    if (mp_alive(word) || mp_leaving(word)) any = true;
    else mp_bury(word, m, NULL);
  }
  return any;
}

/* core.orphans(process): the process has ended, and children of it live (for the moment
 * that it takes the kernel to end them) */
static int orphans(lua_State *L) {
  struct process *p = check_process(L, 1);
  struct mp_member *m = lmp_member(L);
  luaL_argcheck(L, p->state == ENDED && p->owner == getpid(), 1, "not a child that has ended");
  lua_pushboolean(L, any_child(p->word, m));
  return 1;
}

/* core.any_ended(): some child of this process waits to be reaped */
static int any_ended(lua_State *L) {
  lua_pushboolean(L, mp_proc_any_ended());
  return 1;
}

/* ---- this process ---------------------------------------------------------------------- */

/*** Identity, time and kinds.
 * @module identity */

/*** The number of this process.
 * @function mp.getpid
 * @treturn integer
 * @python `os.getpid` */
static int get_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

/* core.cpus() -> processors that the scheduler lets this process use, nil: unknown */
static int cpus(lua_State *L) {
  int n = mp_proc_cpus();
  if (n <= 0) return 0;
  lua_pushinteger(L, n);
  return 1;
}

/* core.random(n) -> n random bytes, at most 256 */
static int random_bytes(lua_State *L) {
  char bytes[256];
  lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n > 0 && n <= (lua_Integer)sizeof bytes, 1, "out of range");
  if (getrandom(bytes, (size_t)n, 0) != n) return lmp_fail(L, errno, "get random bytes");
  lua_pushlstring(L, bytes, (size_t)n);
  return 1;
}

/* core.write(fd, text): all of it, at once where the kernel can; errors are nobody's */
static int write_text(lua_State *L) {
  size_t n;
  int fd = (int)luaL_checkinteger(L, 1);
  const char *text = luaL_checklstring(L, 2, &n);
  (void)mp_fd_write_all(fd, text, n);
  return 0;
}

/* core.flush(): what stdio holds of stdout */
static int flush(lua_State *L) {
  (void)L;
  fflush(stdout);
  return 0;
}

/* core.member(): joins the family, so that what is misused in a stranger raises */
static int member(lua_State *L) {
  (void)lmp_member(L);
  return 0;
}

/*** The kind of an object of the library, as `io.type` does for files.
 * @function mp.type
 * @param x any value
 * @treturn string|nil "mp.Queue", "mp.Connection", "mp.RemoteError" ...; nil when it is none */
static int type_of(lua_State *L) {
  luaL_checkany(L, 1);
  int kind = lmp_kind(L, 1);
  if (kind >= 0) {
    lua_pushstring(L, lmp_kind_name(kind));
    return 1;
  }
  if (lua_type(L, 1) != LUA_TTABLE || !lua_getmetatable(L, 1)) return 0;
  lua_pushliteral(L, "__mp");
  return lua_rawget(L, -2) == LUA_TSTRING;
}

static const luaL_Reg functions[] = {
  {"process", new_process}, {"start", start_process}, {"parent", parent_process},
  {"word_of", word_of},
  {"wait", wait_process}, {"watch", watch_process}, {"forget", forget_process},
  {"signal", signal_process}, {"orphans", orphans}, {"any_ended", any_ended},
  {"getpid", get_pid},
  {"cpus", cpus}, {"random", random_bytes}, {"write", write_text}, {"flush", flush},
  {"member", member}, {"type", type_of}, {"renew_sentinel", lmp_renew_sentinel}, {NULL, NULL}
};

/* Of the command, where lua_close is wrapped: see main.c. */
extern void __wrap_lua_close(lua_State *L) __attribute__((weak));

void lmp_open_process(lua_State *L) {
  static const luaL_Reg metamethods[] = {{"__gc", process_gc}, {NULL, NULL}};
  luaL_newmetatable(L, PROCESS);
  luaL_setfuncs(L, metamethods, 0);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
  if (!__wrap_lua_close) {
    lua_pushcfunction(L, lmp_exit);
    lua_setfield(L, -2, "exit");
  }
  lmp_open_wait(L);
  lmp_open_inspect(L);
  lmp_open_nursery(L);
  lmp_program_open(L);
}
