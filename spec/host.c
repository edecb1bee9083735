/* What a host may do behind the library's back, for specs.
 *
 *   local host = package.loadlib(path, "luaopen_host")()
 *   host.fork() -> pid, 0 in the child        host.wait(pid) -> exit code, or nil
 *   host.ignore(signal)  host.default(signal)  host.count(signal): a handler that counts
 *   host.counted() -> how many  host.raise(signal, pid)  host.alarm(seconds)
 *   host.disposition(signal) -> "default", "ignored" or "handler"
 *   host.exit(code): exit(3)
 */
#include <errno.h>
#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t count;

static void counter(int sig) {
  (void)sig;
  count++;
}

static int host_fork(lua_State *L) {
  lua_pushinteger(L, fork());
  return 1;
}

static int host_wait(lua_State *L) {
  int status;
  if (waitpid((pid_t)luaL_checkinteger(L, 1), &status, 0) < 0) return 0;
  lua_pushinteger(L, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
  return 1;
}

static void set(lua_State *L, void (*handler)(int)) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_handler = handler;
  sigaction((int)luaL_checkinteger(L, 1), &a, NULL);
}

static int host_ignore(lua_State *L) {
  set(L, SIG_IGN);
  return 0;
}

static int host_default(lua_State *L) {
  set(L, SIG_DFL);
  return 0;
}

static int host_count(lua_State *L) {
  set(L, counter);
  return 0;
}

static int host_counted(lua_State *L) {
  lua_pushinteger(L, count);
  return 1;
}

static int host_raise(lua_State *L) {
  lua_pushboolean(L, kill((pid_t)luaL_optinteger(L, 2, getpid()),
                          (int)luaL_checkinteger(L, 1)) == 0);
  return 1;
}

/* SIGALRM again and again, every so many seconds; 0 ends it. */
static int host_alarm(lua_State *L) {
  struct itimerval t;
  memset(&t, 0, sizeof t);
  t.it_interval.tv_usec = t.it_value.tv_usec = (suseconds_t)(luaL_checknumber(L, 1) * 1e6);
  setitimer(ITIMER_REAL, &t, NULL);
  return 0;
}

static int host_disposition(lua_State *L) {
  struct sigaction a;
  sigaction((int)luaL_checkinteger(L, 1), NULL, &a);
  lua_pushstring(L, a.sa_handler == SIG_DFL ? "default"
                    : a.sa_handler == SIG_IGN ? "ignored" : "handler");
  return 1;
}

static int host_exit(lua_State *L) { exit((int)luaL_checkinteger(L, 1)); }

int luaopen_host(lua_State *L);

int luaopen_host(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"fork", host_fork}, {"wait", host_wait}, {"ignore", host_ignore},
      {"default", host_default}, {"count", host_count}, {"counted", host_counted},
      {"raise", host_raise}, {"alarm", host_alarm}, {"disposition", host_disposition},
      {"exit", host_exit}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
