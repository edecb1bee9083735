/* Text: the lines of blocks, and how wide a terminal is. */
#include "lmp.h"
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* What an iterator of lines keeps, as upvalues: no userdata, since nothing is owned. */
enum { MORE = 1, KEEP, BLOCK, POSITION, UPVALUES = POSITION };

/* Puts the next block in the place of the one that is read; false: there is none. */
static bool next_block(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(MORE));
  lua_call(L, 0, 1);
  bool there = lua_type(L, -1) == LUA_TSTRING;
  if (!there) {
    lua_pop(L, 1);
    lua_pushliteral(L, "");
  }
  lua_replace(L, lua_upvalueindex(BLOCK));
  return there;
}

static int next_line(lua_State *L) {
  size_t n;
  const char *block = lua_tolstring(L, lua_upvalueindex(BLOCK), &n);
  size_t at = (size_t)lua_tointeger(L, lua_upvalueindex(POSITION));
  while (at >= n) {
    if (!next_block(L)) return 0;
    block = lua_tolstring(L, lua_upvalueindex(BLOCK), &n);
    at = 0;
  }
  const char *end = memchr(block + at, '\n', n - at);
  size_t after = end ? (size_t)(end - block) + 1 : n;
  bool cut = end && !lua_toboolean(L, lua_upvalueindex(KEEP));
  lua_pushinteger(L, (lua_Integer)after);
  lua_replace(L, lua_upvalueindex(POSITION));
  lua_pushlstring(L, block + at, after - at - (cut ? 1 : 0));
  return 1;
}

/* core.lines(more, keep) -> iterator over the lines of the blocks that more() returns,
 * until it returns nil.  A block ends where a line ends.  keep: with their newlines */
static int lines(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, KEEP);
  lua_pushliteral(L, "");
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, next_line, UPVALUES);
  return 1;
}

/* core.columns(fd) -> width of the terminal, 0 when it does not say; nil: no terminal */
static int columns(lua_State *L) {
  struct winsize size;
  int fd = (int)luaL_checkinteger(L, 1);
  if (!isatty(fd)) return 0;
  lua_pushinteger(L, ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0);
  return 1;
}

void lmp_open_text(lua_State *L) {
  static const luaL_Reg functions[] = {{"lines", lines}, {"columns", columns}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
