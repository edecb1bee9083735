/* The prompt: lines are read, through readline or libedit where there is one, joined
 * until they make a chunk, run, and what they return is printed.
 */
#include "prompt.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where lines come from.  read NULL: there is no line editor, or nobody who edits.
 * echo: no terminal shows what is read.  line: the last one, kept here so that it is
 * freed whatever is raised meanwhile. */
static struct {
  bool sought, echo;
  char *(*read)(const char *prompt);
  void (*remember)(const char *line);
  char *line;
  size_t size;
} input;

/* Loaded and not linked: the command starts faster without it. */
static void find_editor(void) {
  static const char *const libraries[] = {"libreadline.so.8", "libedit.so.2"};
  input.sought = true;
  input.echo = !isatty(STDIN_FILENO);
  if (input.echo) return;
  for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
    void *lib = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) continue;
    *(void **)&input.read = dlsym(lib, "readline");
    *(void **)&input.remember = dlsym(lib, "add_history");
    const char **name = dlsym(lib, "rl_readline_name");
    if (name != NULL) *name = "lua"; /* its section in ~/.inputrc */
    if (input.read != NULL && input.remember != NULL) return;
    input.read = NULL;
    dlclose(lib);
  }
}

/* The next line without its newline; NULL at the end of input.  What comes from a file or
 * a pipe is written after the prompt, as readline does in Lua: a session reads the same. */
static const char *next_line(const char *prompt) {
  if (input.read != NULL) {
    free(input.line);
    return input.line = input.read(prompt);
  }
  fputs(prompt, stdout);
  fflush(stdout);
  ssize_t n = getline(&input.line, &input.size, stdin);
  if (n < 0) return NULL;
  if (n > 0 && input.line[n - 1] == '\n') input.line[n - 1] = '\0';
  if (input.echo) puts(input.line);
  return input.line;
}

static void remember(const char *line) {
  if (input.read != NULL && line[0] != '\0') input.remember(line);
}

/* Pushes what _PROMPT (or _PROMPT2) says. */
static const char *push_prompt(lua_State *L, bool first) {
  if (lua_getglobal(L, first ? "_PROMPT" : "_PROMPT2") == LUA_TNIL)
    lua_pushstring(L, first ? "> " : ">> ");
  else
    luaL_tolstring(L, -1, NULL);
  lua_remove(L, -2);
  return lua_tostring(L, -1);
}

/* Pushes the next line; false, and pushes nothing, at the end of input. */
static bool push_line(lua_State *L, bool first) {
  const char *line = next_line(push_prompt(L, first));
  lua_pop(L, 1);
  if (line == NULL) return false;
  if (first && line[0] == '=')
    lua_pushfstring(L, "return %s", line + 1);
  else
    lua_pushstring(L, line);
  return true;
}

static int load(lua_State *L, const char *text, size_t size) {
  return luaL_loadbuffer(L, text, size, "=stdin");
}

/* Loads the line at index 1 as an expression; pops what came of it if it is none.
 * The semicolon makes statements of lines that end with one, as it does in Lua. */
static bool load_expression(lua_State *L) {
  const char *line = lua_tostring(L, 1);
  const char *text = lua_pushfstring(L, "return %s;", line);
  bool ok = load(L, text, strlen(text)) == LUA_OK;
  lua_remove(L, -2);
  if (ok)
    remember(line);
  else
    lua_pop(L, 1);
  return ok;
}

/* The parser ran into the end of the text: more lines may complete it. */
static bool wants_more(lua_State *L, int status) {
  size_t size;
  const char *message = lua_tolstring(L, -1, &size);
  return status == LUA_ERRSYNTAX && size >= 5 && strcmp(message + size - 5, "<eof>") == 0;
}

/* Loads the line at index 1 as statements, with the lines that it takes. */
static int load_statements(lua_State *L) {
  for (;;) {
    size_t size;
    const char *text = lua_tolstring(L, 1, &size);
    int status = load(L, text, size);
    if (!wants_more(L, status) || !push_line(L, false)) {
      remember(text);
      return status;
    }
    lua_remove(L, -2); /* the error */
    lua_pushliteral(L, "\n");
    lua_insert(L, -2);
    lua_concat(L, 3);
  }
}

/* Reads a chunk and pushes it, alone on the stack, or its error; -1 at the end. */
static int read_chunk(lua_State *L) {
  lua_settop(L, 0);
  if (!push_line(L, true)) return -1;
  int status = load_expression(L) ? LUA_OK : load_statements(L);
  lua_remove(L, 1);
  return status;
}

/* Prints all that is on the stack, with the global `print`. */
static void print_results(lua_State *L) {
  int n = lua_gettop(L);
  if (n == 0) return;
  luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
  lua_getglobal(L, "print");
  lua_insert(L, 1);
  if (lua_pcall(L, n, 0, 0) == LUA_OK) return;
  lmp_complain(NULL, lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1)));
}

void lmp_prompt(lua_State *L) {
  int status;
  if (!input.sought) find_editor();
  while ((status = read_chunk(L)) != -1) {
    if (status == LUA_OK) status = lmp_call(L, 0, LUA_MULTRET);
    if (status == LUA_OK)
      print_results(L);
    else
      lmp_complain(NULL, lua_tostring(L, -1));
  }
  lua_settop(L, 0);
  putchar('\n');
  fflush(stdout);
}
