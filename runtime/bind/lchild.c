/* The child's side of a start: from the fork to _exit.
 *
 * The child goes on inside the call that forked, on the parent's C stack, and never
 * returns from it: it runs on a coroutine of its own, so that the parent's stack,
 * pending <close> variables and error handlers lie there untouched.
 */
#include "lprocess.h"
#include "../os/fd.h"
#include "../os/stdio.h"
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- Ctrl-C ------------------------------------------------------------------------ */

/* The coroutine of this child, and the main one of its state, which runs nothing in a
 * child, but is where blocked calls look for hooks.  A handler has no argument. */
static lua_State *base_co, *main_co;
static volatile sig_atomic_t interrupted;

static void raise_interrupted(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(base_co, NULL, 0, 0);
  lua_sethook(main_co, NULL, 0, 0);
  if (L != base_co) lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

/* The next Ctrl-C ends the process, in case a C function never comes back. */
static void on_sigint(int sig) {
  const int events = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;
  signal(sig, SIG_DFL);
  interrupted = 1;
  lua_sethook(base_co, raise_interrupted, events, 1);
  lua_sethook(main_co, raise_interrupted, events, 1);
}

static void watch_sigint(void) {
  struct sigaction a;
  interrupted = 0;
  if (sigaction(SIGINT, NULL, &a) == 0 && a.sa_handler == SIG_IGN) return;
  memset(&a, 0, sizeof a);
  a.sa_handler = on_sigint; /* without SA_RESTART: blocked calls are to see it */
  sigemptyset(&a.sa_mask);
  (void)sigaction(SIGINT, &a, NULL);
}

bool lmp_child_interrupted(const char *message) {
  static const char end[] = "interrupted!";
  size_t n = strlen(message), m = sizeof end - 1;
  return interrupted && n >= m && memcmp(message + n - m, end, m) == 0;
}

/* ---- errors ------------------------------------------------------------------------ */

/* The length of a traceback without its last lines, the library's own call of run,
 * which nobody needs. */
static size_t without_own_frames(const char *text, size_t n) {
  static const char own[] = "\n\tmp/process.lua:";
  const char *line;
  while ((line = memrchr(text, '\n', n)) && strncmp(line, own, sizeof own - 1) == 0)
    n = (size_t)(line - text);
  return n;
}

/* What is printed, whole: "Process NAME:", the error, where it was raised. */
int lmp_child_error(lua_State *L) {
  size_t n;
  const char *message = lua_tostring(L, 1);
  if (message && lmp_child_interrupted(message)) return 1;
  if (!message && luaL_callmeta(L, 1, "__tostring")) message = lua_tostring(L, -1);
  if (!message)
    message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  luaL_traceback(L, L, message, 1);
  const char *text = lua_tolstring(L, -1, &n);
  lua_pushliteral(L, "Process ");
  lmp_push_core(L);
  lua_getfield(L, -1, "name");
  lua_remove(L, -2);
  lua_pushliteral(L, ":\n");
  lua_pushlstring(L, text, without_own_frames(text, n));
  lua_pushliteral(L, "\n");
  lua_concat(L, 5);
  return 1;
}

/* An error that has not been through the handler, for want of memory or stack. */
static void print_bare(const char *name, const char *message) {
  struct iovec v[] = {{(char *)"Process ", 8}, {(char *)name, strlen(name)},
                      {(char *)":\n", 2}, {(char *)message, strlen(message)},
                      {(char *)"\n", 1}};
  ssize_t n = writev(STDERR_FILENO, v, 5);
  (void)n;
}

/* Exit code of how the coroutine ended; prints what is to be printed. */
static int settle(struct lmp_start *s, int status) {
  if (status == LUA_OK) return 0;
  const char *message = lua_type(s->co, -1) == LUA_TSTRING ? lua_tostring(s->co, -1)
                                                           : "unknown error";
  if (lmp_child_interrupted(message)) return -SIGINT;
  fflush(stderr);
  if (status == LUA_ERRRUN) (void)mp_fd_write_all(STDERR_FILENO, message, strlen(message));
  else print_bare(s->name, message);
  return 1;
}

/* ---- life -------------------------------------------------------------------------- */

/* A collection writes to every object and so copies every page that is shared with the
 * parent: the child may allocate as much again before it has one. */
static void put_off_collection(lua_State *L) {
  (void)lua_gc(L, LUA_GCSTEP, -lua_gc(L, LUA_GCCOUNT));
}

static void print_trouble(const char *name, const struct mp_trouble *t) {
  char text[128];
  snprintf(text, sizeof text, "cannot %s: %s", t->what, mp_error_text(t->err));
  print_bare(name, text);
}

/* Streams, limits, signals.  Trouble goes to the parent when it listens, else to
 * stderr. */
static void set_up(struct lmp_start *s) {
  mp_birth_signals();
  struct mp_trouble t = mp_birth_apply(&s->birth);
  if (s->told) mp_trouble_tell(s->trouble, &t);
  else if (t.err) print_trouble(s->name, &t);
  if (t.err) {
    mp_member_close(s->member, 1);
    _exit(1);
  }
  mp_stdio_forget();
}

static void adopt(struct lmp_start *s) {
  struct lmp_program *p = s->program;
  p->member = s->member;
  if (s->role != LMP_WORKER) {
    p->parent = s->parent;
    p->parent_word = s->parent_word;
  }
  lmp_program_settle(p);
  base_co = s->co;
  lua_rawgeti(s->L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  main_co = lua_tothread(s->L, -1);
  lua_pop(s->L, 1);
  lua_sethook(main_co, NULL, 0, 0); /* one that a signal had set for the parent */
}

void lmp_child_run(struct lmp_start *s) {
  mp_birth_bind(&s->birth, s->parent, &s->mask);
  mp_fd_leave(s->parent_word, s->member->word);
  set_up(s);
  adopt(s);
  put_off_collection(s->co);
  if (s->role == LMP_PLAIN) watch_sigint();
  else lmp_nursery_signals(s->role, &s->mask);
  (void)pthread_sigmask(SIG_SETMASK, &s->mask, NULL);
  int code = settle(s, lua_pcall(s->co, s->nargs, 0, 2));
  lmp_child_exit(s->program, code);
}

void lmp_child_exit(struct lmp_program *p, int code) {
  if (!lmp_program_end(p, code)) code = -SIGINT;
  fflush(NULL);
  mp_member_close(p->member, code);
  if (code < 0) mp_proc_die(-code);
  _exit(code);
}
