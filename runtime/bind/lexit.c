/* The end of a program: every way out of it ends it once.
 *
 * The ways: mplua_shutdown (the command, hosts) calls core.shutdown itself; lua_close
 * comes here by lmp_closing in the command and by the sentinel's finalizer under other
 * hosts; exit(3), hence os.exit, by on_exit.  Only the process and thread that a
 * program belongs to end it: a fork by other means has another pid.
 */
#include "lprocess.h"
#include "../os/guard.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static const char program_key, core_key, sentinel_key; /* in the registry */

static struct lmp_program *programs; /* of this process */
static pthread_mutex_t programs_lock = PTHREAD_MUTEX_INITIALIZER;
__attribute__((constructor)) static void guard(void) { mp_guard(MP_GUARD_PROGRAMS, &programs_lock); }
static pid_t watched;                /* the process that has our exit handler in front */
static pid_t child_pid;              /* this process, when it is a child */

struct lmp_program *lmp_program(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &program_key);
  struct lmp_program *p = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return p;
}

void lmp_push_core(lua_State *L) { lua_rawgetp(L, LUA_REGISTRYINDEX, &core_key); }

static bool here(const struct lmp_program *p) {
  return p->pid == getpid() && pthread_equal(p->thread, pthread_self());
}

/* ---- ending ----------------------------------------------------------------------- */

/* core.shutdown(code). */
static int call_shutdown(lua_State *L) {
  lmp_push_core(L);
  if (lua_getfield(L, -1, "shutdown") != LUA_TFUNCTION) return 0;
  if (lua_tointeger(L, 1) == LMP_NO_CODE) lua_pushnil(L);
  else lua_pushvalue(L, 1);
  lua_call(L, 1, 0);
  return 0;
}

static void complain(const char *message) {
  static const char lead[] = "mp: at the end of the program: ";
  struct iovec v[] = {{(char *)lead, sizeof lead - 1},
                      {(char *)message, strlen(message)}, {(char *)"\n", 1}};
  ssize_t n = writev(STDERR_FILENO, v, 3);
  (void)n;
}

bool lmp_program_end(struct lmp_program *p, int code) {
  lua_State *L = p->end;
  if (p->over) return true;
  p->over = true;
  lua_settop(L, 0);
  lua_pushcfunction(L, call_shutdown);
  lua_pushinteger(L, code);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return true;
  const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "unknown error";
  if (lmp_child_interrupted(message)) return false;
  complain(message);
  return true;
}

/* The first handler that exit(3) runs, since it is the last to be registered.  A main
 * program that ended goes on to the handlers of others. */
static void on_exit_of_process(int status, void *unused) {
  (void)unused;
  struct lmp_program *p = programs;
  while (p && !(p->child && here(p))) p = p->next;
  if (p) lmp_child_exit(p, status & 0xff);
  if (child_pid == getpid()) { /* its state was closed */
    fflush(NULL);
    _exit(status & 0xff);
  }
  for (p = programs; p; p = p->next)
    if (here(p) && !p->hidden) (void)lmp_program_end(p, LMP_NO_CODE);
}

void lmp_program_hide(lua_State *L) { lmp_program(L)->hidden = true; }

int lmp_exit(lua_State *L) {
  if (lua_isboolean(L, 1)) exit(lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE);
  exit((int)luaL_optinteger(L, 1, EXIT_SUCCESS));
}

/* ---- lua_close ---------------------------------------------------------------------- */

static int lowest_level(lua_State *L) {
  lua_Debug ar;
  int none = 1, some = 0;
  while (lua_getstack(L, none, &ar)) none *= 2;
  while (none - some > 1) {
    int middle = some + (none - some) / 2;
    if (lua_getstack(L, middle, &ar)) some = middle;
    else none = middle;
  }
  return some;
}

/* The state is being closed: it calls finalizers on the main coroutine, with nothing
 * below them, and no finalizer that is set from now on. */
static bool is_closing(lua_State *L) {
  lua_Debug ar;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_State *main = lua_tothread(L, -1);
  lua_pop(L, 1);
  return lua_getstack(main, lowest_level(main), &ar) && lua_getinfo(main, "n", &ar) &&
         ar.name && strcmp(ar.name, "__gc") == 0;
}

int lmp_closing(lua_State *L) {
  struct lmp_program *p = lmp_program(L);
  if (!p || !here(p)) return 0;
  if (!p->child) (void)lmp_program_end(p, LMP_NO_CODE);
  return p->child;
}

/* A sentinel that was replaced is garbage like any other. */
static int sentinel_gc(lua_State *L) {
  struct lmp_program **s = lua_touserdata(L, 1);
  if (*s && (*s)->sentinel == s && here(*s)) (void)lmp_program_end(*s, LMP_NO_CODE);
  return 0;
}

/* At the closing of a state the youngest finalizer runs first: what a script has made
 * after the sentinel may be gone when children are joined, which harms nobody, but not
 * the state's membership in the family, nor the handles that an exit hook needs: there is
 * a new sentinel for the first start, and for each hook. */
static void new_sentinel(lua_State *L, struct lmp_program *p) {
  if (p->sentinel && is_closing(L)) return;
  struct lmp_program **s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = p;
  if (luaL_newmetatable(L, "mp.sentinel")) {
    lua_pushcfunction(L, sentinel_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &sentinel_key);
  p->sentinel = s;
}

int lmp_renew_sentinel(lua_State *L) {
  struct lmp_program *p = lmp_program(L);
  if (!p->child) new_sentinel(L, p);
  return 0;
}

/* ---- programs ------------------------------------------------------------------------- */

/* on_exit keeps a pointer into this library: it must stay when a host's lua_close
 * unloads its modules. */
void lmp_stay_loaded(void) {
  Dl_info info;
  if (dladdr(&program_key, &info) && info.dli_fname)
    (void)dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

static void watch_exit(void) {
  if (watched == getpid()) return;
  if (watched == 0) lmp_stay_loaded();
  watched = getpid();
  (void)on_exit(on_exit_of_process, NULL);
}

/* Room for what the library itself calls in a child, so that the stack need not grow
 * there: to ask malloc for a large block is to have it put all the small ones in order,
 * and that is to write to every page shared with the parent.  A collection of the
 * parent's makes stacks small again. */
#define CHILD_STACK 160

/* A coroutine in user value `place`; the one that a child has taken from there and runs
 * on moves to `used`. */
static lua_State *new_coroutine(lua_State *L, int place, int used) {
  if (lua_getiuservalue(L, -1, place) == LUA_TTHREAD) lua_setiuservalue(L, -2, used);
  else lua_pop(L, 1);
  lua_State *co = lua_newthread(L);
  lua_setiuservalue(L, -2, place);
  return co;
}

void lmp_program_prepare(lua_State *L, struct lmp_program *p) {
  if (!p->joined) new_sentinel(L, p);
  p->joined = true;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &program_key);
  if (!p->next_co) p->next_co = new_coroutine(L, LMP_NEXT_CO, LMP_BASE);
  if (!p->next_end) p->next_end = new_coroutine(L, LMP_NEXT_END, LMP_END);
  luaL_checkstack(p->next_co, CHILD_STACK, NULL);
  luaL_checkstack(p->next_end, CHILD_STACK, NULL);
  lua_sethook(p->next_co, lua_gethook(L), lua_gethookmask(L), lua_gethookcount(L));
  lua_pop(L, 1);
}

void lmp_program_settle(struct lmp_program *p) {
  p->next = NULL;
  programs = p;
  p->pid = child_pid = getpid();
  p->thread = pthread_self();
  p->child = true;
  p->over = false;
  p->end = p->next_end;
  p->next_co = p->next_end = NULL;
  watch_exit();
}

static int program_gc(lua_State *L) {
  struct lmp_program *p = lua_touserdata(L, 1);
  pthread_mutex_lock(&programs_lock);
  for (struct lmp_program **x = &programs; *x; x = &(*x)->next)
    if (*x == p) {
      *x = p->next;
      break;
    }
  pthread_mutex_unlock(&programs_lock);
  return 0;
}

void lmp_program_open(lua_State *L) {
  if (is_closing(L)) luaL_error(L, "cannot open mp: the state is being closed");
  struct lmp_program *p = lua_newuserdatauv(L, sizeof *p, LMP_NEXT_END);
  memset(p, 0, sizeof *p);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, program_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  p->end = lua_newthread(L);
  lua_setiuservalue(L, -2, LMP_END);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &program_key);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &core_key);
  new_sentinel(L, p);
  p->pid = getpid();
  p->thread = pthread_self();
  pthread_mutex_lock(&programs_lock);
  p->next = programs;
  programs = p;
  watch_exit();
  pthread_mutex_unlock(&programs_lock);
}
