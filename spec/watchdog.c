/* A watchdog for specs: ends a test that hangs, with an error where that helps, else
 * with the process.
 *
 *   local watchdog = require "watchdog"
 *   watchdog.start(seconds, what)   what: the test's name, for the messages
 *   watchdog.name(what)             gives it another name (and returns it)
 *   watchdog.stop()                 true when the time was over
 *
 * When the time is over, a hook on the main coroutine raises "watchdog: …"; blocked
 * mp calls notice it.  If the test still goes on 10 s later (it runs in another
 * coroutine, in C, or caught the error) the process ends with status 99.  A forked
 * child inherits no timer, hence no watchdog.
 */
#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define GRACE 10 /* seconds between the error and the end */

/* The handler reads these; written while the timer is off. */
static lua_State *guarded;
static char what[256];
static volatile sig_atomic_t barked;

static void set_timer(double seconds) {
  struct itimerval t = {{0, 0}, {0, 0}};
  t.it_value.tv_sec = (time_t)seconds;
  t.it_value.tv_usec = (suseconds_t)((seconds - (double)t.it_value.tv_sec) * 1e6);
  setitimer(ITIMER_REAL, &t, NULL);
}

static void bark(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "watchdog: the test '%s' takes too long", what);
}

static void say(const char *text) {
  ssize_t n = write(STDERR_FILENO, text, strlen(text));
  (void)n;
}

static void on_alarm(int signo) {
  (void)signo;
  if (barked) {
    say("\nwatchdog: the test '");
    say(what);
    say("' hangs; giving up\n");
    _exit(99);
  }
  barked = 1;
  set_timer(GRACE);
  lua_sethook(guarded, bark, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

static int stop(lua_State *L) {
  set_timer(0);
  if (barked && guarded != NULL) lua_sethook(guarded, NULL, 0, 0);
  lua_pushboolean(L, barked);
  barked = 0;
  return 1;
}

static int start(lua_State *L) {
  double seconds = luaL_checknumber(L, 1);
  const char *name = luaL_checkstring(L, 2);
  struct sigaction act = {.sa_handler = on_alarm};
  luaL_argcheck(L, seconds > 0, 1, "must be positive");
  stop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  guarded = lua_tothread(L, -1);
  if (name != what) strncpy(what, name, sizeof what - 1);
  sigemptyset(&act.sa_mask);
  sigaction(SIGALRM, &act, NULL);
  set_timer(seconds);
  return 0;
}

/* The name of the test that runs; changes it first when one is given. */
static int name(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) strncpy(what, luaL_checkstring(L, 1), sizeof what - 1);
  lua_pushstring(L, what);
  return 1;
}

int luaopen_watchdog(lua_State *L);

int luaopen_watchdog(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"start", start}, {"stop", stop}, {"name", name}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
