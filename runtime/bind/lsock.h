/* Sockets between this family and others. */
#ifndef LMP_LSOCK_H
#define LMP_LSOCK_H
#include "lmp.h"

#define MP_CONN_HANDSHAKE 256 /* bytes of a message before the other side is known */

/* Pushes a connection over a socket, which it takes over (-1 is left).  It receives short
 * messages only until conn_trust is called.  In lconn.c. */
void lmp_conn_push_network(lua_State *L, int *fd);

#endif
