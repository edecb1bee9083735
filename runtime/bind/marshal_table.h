/* The one look inside Lua: does a table's array part reach as far as n?
 *
 * When it does, lua_next from key n visits every other key, and a table is walked
 * without touching its array twice.  The interface cannot tell: lua_rawlen may be a
 * border in the hash part.  All that is read is the size hint in a table's head; it is
 * compared with tables of known sizes before it is trusted, and without it tables are
 * walked in full.
 */
#ifndef LMP_MARSHAL_TABLE_H
#define LMP_MARSHAL_TABLE_H
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

/* The head of a table in Lua 5.4. alimit is never more than the size of the array
 * part. */
struct lmp_table_head {
  void *next;
  unsigned char tt, marked, flags, lsizenode;
  unsigned alimit;
};

/* False when this cannot be said. */
static inline bool lmp_table_reaches(const void *table, uint64_t n) {
  return n <= ((const struct lmp_table_head *)table)->alimit;
}

/* The heads of tables are as above.  May step the collector; 3 slots. */
static inline bool lmp_table_known(lua_State *L) {
#if LUA_VERSION_NUM == 504
  static const int sizes[] = {0, 3, 37, 1000};
  bool known = true;
  for (int i = 0; i < 4 && known; i++) {
    lua_createtable(L, sizes[i], 8);
    const struct lmp_table_head *t = lua_topointer(L, -1);
    known = t->alimit == (unsigned)sizes[i] && t->lsizenode == 3;
    lua_pushboolean(L, 1);
    lua_rawseti(L, -2, 1);
    known = known && t->alimit == (unsigned)sizes[i] && lua_rawlen(L, -1) == 1;
    lua_pop(L, 1);
  }
  return known;
#else
  (void)L;
  return false;
#endif
}
#endif
