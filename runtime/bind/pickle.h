/* Python's pickles, of plain data: None, bool, int, float, str, bytes, list, tuple, dict,
 * set.  Nothing that a pickle names is ever looked up, let alone called. */
#ifndef LMP_PICKLE_H
#define LMP_PICKLE_H
#include "marshal.h"

#define LMP_PICKLE_FIRST 0x80 /* what a pickle of protocol 2 and above begins with */

/* Appends the pickle (protocol 4) of the value at `idx` to `p`.  Raises what Python has
 * nothing for, with the path to it. */
void lmp_pickle(lua_State *L, int idx, struct lmp_pack *p);

/* Pushes the value of a pickle of protocol 2 to 5.  Raises "refused: posix.system" for
 * a global that is no plain data, "pickle: malformed data (…)" for what is no pickle. */
void lmp_unpickle(lua_State *L, const unsigned char *data, size_t len);

#endif
