/* The command: options, scripts, errors, exit status.  Behaves as Lua's own `lua`
 * does, and has -m, -h and --version besides; the prompt is in prompt.c.
 */

/*** The command: `mplua [options] [script [args]]`.
 *
 * It takes what `lua` takes and behaves as `lua` does, and has `mp` inside: `require "mp"` needs no
 * file and no search path.
 *
 * | option | what it does |
 * | --- | --- |
 * | `-e stat` | runs a piece of Lua |
 * | `-i` | the prompt, after the script; it keeps a history |
 * | `-l mod`, `-l g=mod` | requires a module into the global `mod`, or `g` |
 * | `-m mod` | finds a module and runs it as the script |
 * | `-v` | shows the version |
 * | `-E` | ignores environment variables |
 * | `-W` | turns warnings on |
 * | `-h`, `--help` | shows this list |
 * | `--` | no options after this |
 * | `-` | runs what stands on stdin |
 *
 * The exit status is 0; 1 after an error, which is printed with its traceback; or what `os.exit`
 * says. At the end of the script, however it comes, stdout is flushed, pools and daemons are
 * ended, other processes are joined, and managers end last.
 *
 * | environment | what it means |
 * | --- | --- |
 * | `LUA_INIT`, `LUA_PATH`, `LUA_CPATH` (also with `_5_4`) | as for `lua` |
 * | `MPLUA_CPUS` | what `mp.cpu_count` returns |
 * | `MPLUA_SHM` | size of the shared memory, as `512M` (K, M, G); half of the memory without it |
 *
 * @module command */
#include "opened.h"
#include "prompt.h"
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the command line says.  script: index of the script (or of -m's module) in
 * argv, argc when there is none; the options are those before `options_end`. */
struct command {
  const char *name;
  int argc, script, options_end;
  char **argv;
  lua_Alloc alloc;
  bool no_env, interactive, version, version_only, help, ran_option;
  char *module;   /* -m */
  const char *wrong; /* the option that cannot be used */
  bool ok;
};

static const char usage_text[] =
    "usage: %s [options] [script [args]]\n"
    "Available options are:\n"
    "  -e stat   execute string 'stat'\n"
    "  -i        enter interactive mode after executing 'script'\n"
    "  -l mod    require library 'mod' into global 'mod'\n"
    "  -l g=mod  require library 'mod' into global 'g'\n"
    "  -m mod    find module 'mod' and run it as the script\n"
    "  -v        show version information\n"
    "  --version show version information and do nothing else\n"
    "  -E        ignore environment variables\n"
    "  -W        turn warnings on\n"
    "  -h        show this help (also --help)\n"
    "  --        stop handling options\n"
    "  -         stop handling options and execute stdin\n";

static void print_version(void) {
  printf("mplua %s (%s)\n", MPLUA_VERSION, LUA_RELEASE);
  fflush(stdout);
}

/* Errors -----------------------------------------------------------------------*/

void lmp_complain(const char *who, const char *message) {
  fflush(stdout);
  if (who != NULL) fprintf(stderr, "%s: ", who);
  fprintf(stderr, "%s\n", message != NULL ? message : "(error object is not a string)");
  fflush(stderr);
}

/* Prints and pops the error on top when `status` is one; gives `status` back. */
static int report(lua_State *L, const char *who, int status) {
  if (status != LUA_OK) {
    lmp_complain(who, lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  return status;
}

/* Message handler: what the error says, and where it came from. */
static int with_traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  if (message == NULL) {
    if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) return 1;
    message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  }
  luaL_traceback(L, L, message, 1);
  return 1;
}

/* Calls that Ctrl-C ends ----------------------------------------------------------*/

/* The state that a SIGINT is for: the main one.  A handler has no argument. */
static lua_State *volatile running;

static void set_sigint(void (*handler)(int)) {
  struct sigaction act = {.sa_handler = handler};
  sigemptyset(&act.sa_mask);
  sigaction(SIGINT, &act, NULL);
}

static void raise_interrupted(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

/* Lua may be anywhere, so only the hook is set, which is safe in a handler; blocked
 * mp calls look for it.  The next Ctrl-C has its default effect, in case a C
 * function never comes back. */
static void on_sigint(int signo) {
  int events = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;
  (void)signo;
  set_sigint(SIG_DFL);
  lua_sethook(running, raise_interrupted, events, 1);
}

int lmp_call(lua_State *L, int nargs, int nresults) {
  int handler = lua_gettop(L) - nargs;
  lua_pushcfunction(L, with_traceback);
  lua_insert(L, handler);
  running = L;
  set_sigint(on_sigint);
  int status = lua_pcall(L, nargs, nresults, handler);
  set_sigint(SIG_DFL);
  lua_remove(L, handler);
  return status;
}

/* Calls the chunk that a luaL_load… function left (or prints its error). */
static int run_chunk(lua_State *L, const struct command *c, int load_status) {
  int status = load_status;
  if (status == LUA_OK) status = lmp_call(L, 0, 0);
  return report(L, c->name, status);
}

static int run_string(lua_State *L, const struct command *c, const char *text,
                      const char *name) {
  return run_chunk(L, c, luaL_loadbuffer(L, text, strlen(text), name));
}

static int run_file(lua_State *L, const struct command *c, const char *path) {
  return run_chunk(L, c, luaL_loadfile(L, path));
}

/* Reading the command line --------------------------------------------------------*/

/* The text that belongs to the option at *i: what follows in the same word, or the
 * next word, to which *i is moved.  NULL when there is none. */
static char *option_text(const struct command *c, int *i) {
  if (c->argv[*i][2] != '\0') return c->argv[*i] + 2;
  if (*i + 1 >= c->argc) return NULL;
  return c->argv[++*i];
}

/* One option that is a single letter; false when it is none. */
static bool read_flag(struct command *c, const char *word) {
  if (strcmp(word, "--help") == 0) return c->help = true;
  if (strcmp(word, "--version") == 0) return c->version_only = true;
  if (word[2] != '\0') return false;
  switch (word[1]) {
    case 'E': return c->no_env = true;
    case 'W': return true;
    case 'h': return c->help = true;
    case 'v': return c->version = true;
    case 'i': return c->version = c->interactive = true;
    default: return false;
  }
}

/* An option with a text; false when it lacks one. */
static bool read_text_option(struct command *c, int *i) {
  char kind = c->argv[*i][1];
  char *text = option_text(c, i);
  if (text == NULL || (text == c->argv[*i] && text[0] == '-')) return false;
  if (kind == 'e') c->ran_option = true;
  if (kind == 'm') c->module = text;
  return true;
}

/* Finds the script and what is to be done; stops at what cannot be understood. */
static void read_command_line(struct command *c) {
  int i;
  for (i = 1; i < c->argc && c->module == NULL; i++) {
    char *word = c->argv[i];
    if (word[0] != '-' || word[1] == '\0') break;
    if (strcmp(word, "--") == 0) {
      c->options_end = i++;
      c->script = i;
      return;
    }
    if (strchr("elm", word[1]) != NULL) {
      if (!read_text_option(c, &i)) {
        c->wrong = word;
        return;
      }
    } else if (!read_flag(c, word)) {
      c->wrong = word;
      return;
    }
  }
  c->script = c->module != NULL ? i - 1 : i;
  c->options_end = i;
}

static void complain_of_option(const struct command *c) {
  if (strchr("elm", c->wrong[1]) != NULL && c->wrong[1] != '\0')
    fprintf(stderr, "%s: '%s' needs argument\n", c->name, c->wrong);
  else
    fprintf(stderr, "%s: unrecognized option '%s'\n", c->name, c->wrong);
  fprintf(stderr, usage_text, c->name);
  fflush(stderr);
}

/* The global `arg`: the script at 0, its arguments after, the rest of the command
 * line before.  Without a script the command itself is at 0. */
static void set_arg(lua_State *L, const struct command *c) {
  int zero = c->script < c->argc ? c->script : 0;
  lua_createtable(L, c->argc - zero, zero + 1);
  for (int i = 0; i < c->argc; i++) {
    lua_pushstring(L, c->argv[i]);
    lua_rawseti(L, -2, i - zero);
  }
  lua_setglobal(L, "arg");
}

/* Doing what it says --------------------------------------------------------------*/

static int run_environment(lua_State *L, const struct command *c) {
  const char *name = "=LUA_INIT_5_4";
  const char *text = getenv(name + 1);
  if (text == NULL) text = getenv((name = "=LUA_INIT") + 1);
  if (text == NULL) return LUA_OK;
  if (text[0] == '@') return run_file(L, c, text + 1);
  return run_string(L, c, text, name);
}

/* -l: `module`, or `name=module` for a global of another name. */
static int run_require(lua_State *L, const struct command *c, const char *what) {
  const char *equals = strchr(what, '=');
  const char *module = equals != NULL ? equals + 1 : what;
  size_t length = equals != NULL ? (size_t)(equals - what) : strlen(what);
  const char *global = lua_pushlstring(L, what, length);
  lua_getglobal(L, "require");
  lua_pushstring(L, module);
  int status = lmp_call(L, 1, 1);
  if (status == LUA_OK) lua_setglobal(L, global);
  report(L, c->name, status);
  lua_pop(L, 1);
  return status;
}

/* The options that act, in the order in which they were given. */
static int run_options(lua_State *L, const struct command *c) {
  int status = LUA_OK;
  for (int i = 1; i < c->options_end && status == LUA_OK; i++) {
    char kind = c->argv[i][1];
    if (kind == 'W') lua_warning(L, "@on", 0);
    if (strchr("elm", kind) == NULL) continue;
    const char *text = option_text(c, &i);
    if (kind == 'e') status = run_string(L, c, text, "=(command line)");
    if (kind == 'l') status = run_require(L, c, text);
  }
  return status;
}

/* Pushes the arguments that the global `arg` holds now, returns how many. */
static int push_arguments(lua_State *L) {
  if (lua_getglobal(L, "arg") != LUA_TTABLE) return luaL_error(L, "'arg' is not a table");
  int n = (int)luaL_len(L, -1);
  luaL_checkstack(L, n + 3, "too many arguments to script");
  for (int i = 1; i <= n; i++) lua_rawgeti(L, -i, i);
  lua_remove(L, -n - 1);
  return n;
}

/* Pushes the chunk of -m's module and makes arg[0] its file.  lua_CFunction. */
static int load_main_module(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchpath");
  lua_pushvalue(L, 1);
  if (lua_getfield(L, -3, "path") != LUA_TSTRING)
    return luaL_error(L, "'package.path' must be a string");
  lua_call(L, 2, 2);
  if (lua_isnil(L, -2)) {
    const char *tried = lua_tostring(L, -1);
    return luaL_error(L, "module '%s' not found:%s%s", name,
                      tried[0] == '\n' ? "" : "\n\t", tried);
  }
  const char *path = lua_tostring(L, -2);
  if (luaL_loadfile(L, path) != LUA_OK) return lua_error(L);
  if (lua_getglobal(L, "arg") == LUA_TTABLE) {
    lua_pushstring(L, path);
    lua_rawseti(L, -2, 0);
  }
  lua_pop(L, 1);
  return 1;
}

static int load_script(lua_State *L, const struct command *c) {
  if (c->module != NULL) {
    lua_pushcfunction(L, load_main_module);
    lua_pushstring(L, c->module);
    return lua_pcall(L, 1, 1, 0);
  }
  const char *path = c->argv[c->script];
  bool is_stdin = strcmp(path, "-") == 0 && strcmp(c->argv[c->script - 1], "--") != 0;
  return luaL_loadfile(L, is_stdin ? NULL : path);
}

static int run_script(lua_State *L, const struct command *c) {
  int status = load_script(L, c);
  if (status == LUA_OK) {
    int n = push_arguments(L);
    status = lmp_call(L, n, 0);
  }
  return report(L, c->name, status);
}

/* Without a script: a prompt when there is somebody to answer it.  As in Lua, an error
 * in what is read from a pipe is printed and not told by the exit status. */
static void run_stdin(lua_State *L, const struct command *c) {
  if (isatty(STDIN_FILENO)) {
    print_version();
    lmp_prompt(L);
  } else {
    run_file(L, c, NULL);
  }
}

static int run_all(lua_State *L, const struct command *c) {
  int status = c->no_env ? LUA_OK : run_environment(L, c);
  if (status == LUA_OK) status = run_options(L, c);
  if (status == LUA_OK && c->script < c->argc) status = run_script(L, c);
  if (status != LUA_OK) return status;
  if (c->interactive)
    lmp_prompt(L);
  else if (c->script >= c->argc && !c->ran_option && !c->version)
    run_stdin(L, c);
  return LUA_OK;
}

/* The whole command inside a protected call: what is raised here is a failure of
 * the command itself (memory, mostly). */
static int protected_main(lua_State *L) {
  struct command *c = lua_touserdata(L, 1);
  luaL_checkversion(L);
  if (c->version) print_version();
  if (c->no_env) {
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  }
  luaL_openlibs(L);
  mplua_openlibs(L);
  set_arg(L, c);
  lua_gc(L, LUA_GCRESTART);
  lua_gc(L, LUA_GCGEN, 0, 0);
  c->ok = run_all(L, c) == LUA_OK;
  return 0;
}

/* The end of the program: other processes are waited for, and Ctrl-C ends that. */
static bool run_shutdown(lua_State *L, const struct command *c) {
  lua_settop(L, 0);
  lua_pushcfunction(L, lmp_shutdown);
  return report(L, c->name, lmp_call(L, 0, 0)) == LUA_OK;
}

static bool run_state(lua_State *L, struct command *c) {
  if (c->alloc != NULL) lua_setallocf(L, c->alloc, NULL);
  lua_gc(L, LUA_GCSTOP); /* nothing to collect while the libraries are opened */
  lua_pushcfunction(L, protected_main);
  lua_pushlightuserdata(L, c);
  bool ok = report(L, c->name, lua_pcall(L, 1, 0, 0)) == LUA_OK && c->ok;
  if (!run_shutdown(L, c)) ok = false;
  if (!lmp_closing(L)) lua_close(L);
  return ok;
}

int lmp_command(int argc, char **argv, lua_Alloc alloc) {
  struct command c = {.name = "mplua", .argc = argc, .argv = argv, .alloc = alloc};
  if (argc > 0 && argv[0][0] != '\0') c.name = argv[0];
  read_command_line(&c);
  if (c.wrong != NULL) {
    complain_of_option(&c);
    return EXIT_FAILURE;
  }
  if (c.help) {
    printf(usage_text, c.name);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
  }
  if (c.version_only) {
    print_version();
    return EXIT_SUCCESS;
  }
  lua_State *L = luaL_newstate();
  if (L == NULL) {
    lmp_complain(c.name, "cannot create state: not enough memory");
    return EXIT_FAILURE;
  }
  bool ok = run_state(L, &c);
  fflush(stdout);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int mplua_main(int argc, char **argv) { return lmp_command(argc, argv, NULL); }
