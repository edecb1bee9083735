/* Lua values to bytes and back. */
#ifndef LMP_MARSHAL_H
#define LMP_MARSHAL_H
#include "lmp.h"

/* Where the bytes go; decides what may cross.
 * FAMILY: a message inside the family: functions, metatables by value, handles.
 * STRING: mp.marshal.encode: as FAMILY, but handles go by serial (nothing keeps the
 *   object alive) and carry the family's nonce, as code does.
 * NETWORK: to another machine: no handles; functions only with LMP_CODE; a metatable
 *   must belong to a class that goes by name.
 * Added to these: LMP_CONNECTIONS: connections may cross (their descriptors are
 *   listed in the message). LMP_CODE: functions are loaded (decode of STRING and
 *   NETWORK refuses them without it). */
enum { LMP_FAMILY = 0, LMP_STRING = 1, LMP_NETWORK = 2, LMP_MODE = 3,
       LMP_CONNECTIONS = 4, LMP_CODE = 8 };

/* An encoded value.  One a state, used again and again; belongs to the state.
 * data..len: the bytes.  refs: the objects that handles in it name, in the order
 * of their indices in the bytes, no object twice; they are alive because the value
 * that was encoded holds them.  fds: descriptors, owned by the connections.
 * data is malloc'd: a caller that keeps the bytes while Lua code may run (the hooks
 * of a blocked send encode too) takes it and leaves NULL, len 0, cap 0.
 * item: which item of a list the value is, for paths in messages; 0: of none. */
struct lmp_pack {
  unsigned char *data;
  size_t len, cap;
  mp_ref *refs;
  uint32_t nrefs, caprefs;
  int *fds;
  uint32_t nfds, capfds;
  lua_Integer item;
};

/* The pack of this state, empty (len 0).  Memory above 1 MiB is given back by the
 * next call. */
struct lmp_pack *lmp_pack(lua_State *L);

/* Room for n more bytes at data + len; raises "not enough memory". */
unsigned char *lmp_room(lua_State *L, struct lmp_pack *p, size_t n);

/* Appends the value at `idx` to `p` (an index there counts objects from p->refs as
 * they are).  Raises what cannot cross, with the path to it: `cannot marshal a
 * thread at value.jobs[3].co`.  Runs no metamethod.  On an error `p` may be used
 * again after it was emptied. */
void lmp_encode(lua_State *L, int idx, struct lmp_pack *p, unsigned mode);

/* What stands before the bytes of a string of n bytes in a FAMILY message that holds
 * nothing else, written to `head`; returns its size, at most 9.  For those who have the
 * bytes where they can be copied from. */
size_t lmp_string_head(unsigned char *head, size_t n);

/* What is decoded.  entries: for every index the reference that this process has
 * registered for the object (decode takes over those that it makes handles of, and
 * leaves UINT32_MAX in their place; the caller drops the others).  fds: the
 * descriptors received (taken over: -1 is left). */
struct lmp_unpack {
  const unsigned char *data;
  size_t len;
  unsigned mode;
  const mp_ref *refs;
  uint32_t *entries;
  uint32_t nrefs;
  int *fds;
  uint32_t nfds;
};

/* Pushes the value; all of the bytes must be used.  Raises on malformed bytes
 * ("marshal: malformed data (…)"), never crashes on them unless LMP_CODE lets code
 * in. `data` must stay where it is during the call; it may lie in shared memory
 * that only this process writes. */
void lmp_decode(lua_State *L, struct lmp_unpack *u);

/* Connections, implemented in lconn.c.
 * lmp_conn_fd: the descriptor of the connection at `idx`, which stays its owner; -1:
 * it is closed.  *flags: 32 bits for the bytes.  *pipe: the object that it belongs
 * to, 0 for none: put it into p->refs as a handle's object (not for NETWORK, where
 * it is left out), and its index into the bytes.  Raises when the connection cannot
 * be sent (a message is half received).
 * lmp_conn_push: pushes a connection for *fd, which it takes over (-1 is left) as
 * soon as it can close it; it may raise before.  pipe: 0 or u->refs[i]; a reference
 * of its own is registered, entries[i] is left as it is (two ends of one pipe may
 * come in one message). */
int lmp_conn_fd(lua_State *L, int idx, unsigned *flags, mp_ref *pipe);
void lmp_conn_push(lua_State *L, int *fd, unsigned flags, mp_ref pipe);

#endif
