/*** Pipes: two connected ends, and connections in general.
 *
 * A connection sends values (`send`, `recv`) or bytes (`send_bytes`, `recv_bytes`).  Those of a
 * pipe connect processes of a family and carry shared objects; those of `mp.Listener` and
 * `mp.Client` connect programs and carry plain data.
 * The end of the stream comes when the last copy of the other end is closed: as in Python, each
 * process closes the end that it does not use.  One end belongs to one process at a time.
 * @module connection */
#include "../ipc/conn.h"
#include "../ipc/pipe.h"
#include "../os/fd.h"
#include "pickle.h"
#include "lsock.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* What a message of send() begins with: no text and no pickle begins so.  VALUE: the
 * encoded value follows; NAMED: the claim of the ticket that holds the objects which
 * the value names, then the value. */
#define VALUE 0xb1
#define NAMED 0xb2
#define NAMED_PRE (1 + sizeof(struct mp_claim))

_Static_assert(NAMED_PRE <= MP_CONN_PRE, "the prefix fits");

/* The flags under which a connection crosses: its directions, which end it is, whether it
 * leads out of the family and how values go then, and from MAX_SHIFT on the longest
 * message: a power of two, then 19 bits by which that is multiplied. */
enum { READABLE = 1, WRITABLE = 2, END_SHIFT = 2, END_MASK = 3, NETWORK = 16, PICKLE = 32,
       CODE = 64, WAYS = NETWORK | PICKLE | CODE, MAX_SHIFT = 8, MAX_BITS = 19 };

/* h.obj: the pipe, h.part: which end of it.  conn.fd is -1 once closed.
 * next, link: its place in the list of the state's open connections; link NULL: it is in
 *   none.  spared: close_connections leaves it open.
 * ways: NETWORK and how its values go.
 * decoding: a received message is being decoded, which may run Lua code (modules
 *   that it names are loaded): its bytes stay where they are meanwhile.
 * The rest belongs to the send in progress: `kept` its bytes, taken from the pack
 * when it blocks; fds copies of the descriptors that go along, so that a hook may
 * close theirs; claim its ticket (0: none). */
struct connection {
  struct lmp_handle h;
  struct mp_conn conn;
  struct connection *next, **link;
  unsigned ways;
  bool spared, decoding;
  unsigned char *kept;
  int *fds;
  uint32_t nfds;
  struct mp_claim claim;
};

/* -- checks -- */

static struct connection *check(lua_State *L) {
  struct connection *c = lmp_test(L, 1, LMP_CONNECTION);
  if (c == NULL || c->h.me->stranger) c = lmp_check(L, 1, LMP_CONNECTION); /* raises */
  luaL_argcheck(L, c->conn.fd >= 0, 1, "the mp.Connection is closed");
  return c;
}

static struct connection *check_readable(lua_State *L) {
  struct connection *c = check(L);
  luaL_argcheck(L, c->conn.readable, 1, "the mp.Connection is write-only");
  if (c->decoding) luaL_error(L, "the connection is in the middle of receiving");
  return c;
}

static struct connection *check_writable(lua_State *L) {
  struct connection *c = check(L);
  luaL_argcheck(L, c->conn.writable, 1, "the mp.Connection is read-only");
  if (c->conn.out.busy) luaL_error(L, "the connection is in the middle of sending");
  return c;
}

/* -- the open ones -- */

static const char list_key; /* in the registry */

/* The head of the list of this state's connections, which lives as long as the state. */
static struct connection **list_of(lua_State *L) {
  struct connection **head;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &list_key) != LUA_TUSERDATA) {
    head = lua_newuserdatauv(L, sizeof *head, 0);
    *head = NULL;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &list_key);
  } else {
    head = lua_touserdata(L, -1);
  }
  lua_pop(L, 1);
  return head;
}

static void enlist(struct connection *c, struct connection **head) {
  mp_fd_own(c->conn.fd, c->h.me->word);
  c->next = *head;
  c->link = head;
  if (c->next) c->next->link = &c->next;
  *head = c;
}

static void delist(struct connection *c) {
  if (c->link == NULL) return;
  *c->link = c->next;
  if (c->next) c->next->link = c->link;
  c->next = NULL;
  c->link = NULL;
}

/*** An end of a pipe, or a connection that `mp.Client` or `Listener:accept` gave.
 * @type Connection */

/*** Whether it is closed.
 * @tfield boolean closed */

/*** Whether one can receive.
 * @tfield boolean readable */

/*** Whether one can send.
 * @tfield boolean writable */

/*** What `send` writes: "marshal", or "pickle" for a Python peer (see `mp.Listener`).
 * @tfield string format */

/* -- closing -- */

/* Idempotent.  A message that is being decoded stays until it is. */
static void shut(lua_State *L, struct connection *c) {
  delist(c);
  if (c->decoding)
    mp_conn_hang_up(&c->conn);
  else
    mp_conn_close(&c->conn);
  lmp_release(L, &c->h);
}

/*** Closes this end.  Idempotent; other calls of a closed connection are errors.
 * @function Connection:close */
static int conn_close(lua_State *L) {
  struct connection *c = lmp_test(L, 1, LMP_CONNECTION);
  if (c == NULL) return luaL_typeerror(L, 1, lmp_kind_name(LMP_CONNECTION));
  shut(L, c);
  return 0;
}

static int conn_gc(lua_State *L) {
  struct connection *c = lmp_test(L, 1, LMP_CONNECTION);
  if (c) shut(L, c);
  return 0;
}

/* -- sending -- */

static int l_pause(lua_State *L) {
  lmp_pause(L, lua_touserdata(L, 1));
  return 0;
}

/* As lmp_pause, but an error is left on the stack. */
static bool pause_safely(lua_State *L, struct mp_member *me) {
  lua_pushcfunction(L, l_pause);
  lua_pushlightuserdata(L, me);
  return lua_pcall(L, 1, 0, 0) == LUA_OK;
}

static void drop_copies(struct connection *c) {
  for (uint32_t i = 0; i < c->nfds; i++) mp_fd_close(&c->fds[i]);
  free(c->fds);
  c->fds = NULL;
  c->nfds = 0;
}

/* Copies of the descriptors that the message lists.  0 or errno. */
static int copy_fds(struct connection *c, const struct lmp_pack *p) {
  if (p->nfds == 0) return 0;
  c->fds = malloc(p->nfds * sizeof *c->fds);
  if (c->fds == NULL) return ENOMEM;
  for (; c->nfds < p->nfds; c->nfds++) {
    int fd = fcntl(p->fds[c->nfds], F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
      int e = errno;
      drop_copies(c);
      return e;
    }
    c->fds[c->nfds] = fd;
  }
  return 0;
}

/* The message is out or given up: what it needed goes. */
static void end_send(lua_State *L, struct connection *c) {
  bool begun = c->conn.out.off > 0, whole = mp_conn_posted(&c->conn);
  if (c->claim.ticket != 0 && !begun && c->h.obj != 0)
    mp_pipe_withdraw(c->h.obj, &c->claim, c->h.me);
  memset(&c->claim, 0, sizeof c->claim);
  drop_copies(c);
  free(c->kept);
  c->kept = NULL;
  if (!whole) shut(L, c);
}

static int flush(struct connection *c, mp_time deadline) {
  mp_label(c->h.me, c->h.obj, MP_WAIT_CONNECTION);
  int e = mp_conn_flush(&c->conn, deadline);
  mp_unlabel(c->h.me);
  return e;
}

/* Sends what was posted.  The bytes of `p` (NULL: they stay by themselves) are taken
 * out of it before any Lua code can use it for something else. */
static int send_posted(lua_State *L, struct connection *c, struct lmp_pack *p,
                       mp_time deadline) {
  int e = flush(c, deadline);
  if (e == EINTR && p) {
    c->kept = p->data;
    p->data = NULL;
    p->len = p->cap = 0;
  }
  while (e == EINTR) {
    if (!pause_safely(L, c->h.me)) {
      end_send(L, c);
      return lua_error(L);
    }
    e = c->conn.fd >= 0 ? flush(c, deadline) : EBADF;
  }
  end_send(L, c);
  switch (e) {
  case 0: lua_pushboolean(L, 1); return 1;
  case ETIMEDOUT: return lmp_code(L, "timeout");
  case EPIPE: return luaL_error(L, "broken pipe");
  case EBADF: return luaL_error(L, "the connection was closed while it was sending");
  default: return lmp_fail(L, e, "send");
  }
}

/* Leaves the ticket of a message that names objects.  0 or ENOMEM. */
static int leave_ticket(struct connection *c, const struct lmp_pack *p) {
  if (p->nrefs == 0) return 0;
  return mp_pipe_leave(c->h.obj, p->refs, p->nrefs, c->h.me, &c->claim);
}

static void post_value(struct connection *c, const struct lmp_pack *p) {
  unsigned char pre[NAMED_PRE];
  bool named = p->nrefs > 0;
  pre[0] = named ? NAMED : VALUE;
  if (named) memcpy(pre + 1, &c->claim, sizeof c->claim);
  mp_conn_post(&c->conn, pre, named ? NAMED_PRE : 1, p->data, p->len);
  mp_conn_post_fds(&c->conn, c->fds, c->nfds);
}

/* How a value is encoded for who is not of the family. */
static unsigned network_mode(const struct connection *c) {
  return LMP_NETWORK | (c->ways & CODE ? LMP_CODE : 0u);
}

/* A value to who is not of the family. */
static int send_out(lua_State *L, struct connection *c, mp_time deadline) {
  struct lmp_pack *p = lmp_pack(L);
  if (c->ways & PICKLE) {
    lmp_pickle(L, 2, p);
    mp_conn_post(&c->conn, NULL, 0, p->data, p->len);
  } else {
    lmp_encode(L, 2, p, network_mode(c));
    post_value(c, p);
  }
  return send_posted(L, c, p, deadline);
}

/* Sends what was posted as far as there is room: true when all of it is out. */
static int push_on(lua_State *L, struct connection *c) {
  int e = mp_conn_try(&c->conn);
  if (e != EAGAIN) end_send(L, c);
  if (e && e != EAGAIN) return lmp_fail(L, e, "send");
  lua_pushboolean(L, e == 0);
  return 1;
}

/* conn_offer(connection, value) -> whether all of it is out; false: conn_go_on, once the
 * descriptor is writable.  For who must not be kept waiting, to who is not of the family. */
static int conn_offer(lua_State *L) {
  struct connection *c = check_writable(L);
  luaL_checkany(L, 2);
  struct lmp_pack *p = lmp_pack(L);
  lmp_encode(L, 2, p, network_mode(c));
  post_value(c, p);
  c->kept = p->data;
  p->data = NULL;
  p->len = p->cap = 0;
  return push_on(L, c);
}

static int conn_go_on(lua_State *L) {
  struct connection *c = check(L);
  luaL_argcheck(L, c->conn.out.busy, 1, "nothing is being sent");
  return push_on(L, c);
}

/* The encoded value at 2, with handles and connections. */
static struct lmp_pack *pack_for_family(lua_State *L) {
  struct lmp_pack *p = lmp_pack(L);
  lmp_encode(L, 2, p, LMP_FAMILY | LMP_CONNECTIONS);
  if (p->nfds > MP_CONN_FDS)
    luaL_error(L, "cannot send %d connections in one message (%d at most)", (int)p->nfds,
               MP_CONN_FDS);
  return p;
}

/*** Sends a value.
 * @function Connection:send
 * @param value anything that can be marshalled, not nil (`mp.null` can be sent)
 * @tparam[opt] number timeout seconds to wait for room; counts until the first byte is out
 * @treturn boolean|nil true; nil when nothing was sent
 * @treturn string|nil "timeout"
 * @raise "broken pipe" when the other end is closed; a value that cannot cross
 * @python `Connection.send`; the time-out is mplua's, and a closed peer is never SIGPIPE */
static int conn_send(lua_State *L) {
  struct connection *c = check_writable(L);
  luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "nil cannot be sent (mp.null can)");
  mp_time deadline = lmp_deadline(L, 3);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (c->ways & NETWORK) return send_out(L, c, deadline);
  struct lmp_pack *p = pack_for_family(L);
  int e = copy_fds(c, p);
  if (lmp_collect_fds(L, e)) {
    c = check_writable(L);
    p = pack_for_family(L); /* finalizers may have used it */
    e = copy_fds(c, p);
  }
  if (e) return lmp_fail(L, e, "send a connection");
  if (leave_ticket(c, p) != 0) {
    drop_copies(c);
    return lmp_full(L);
  }
  post_value(c, p);
  return send_posted(L, c, p, deadline);
}

/* Bounds as string.sub has them, as a 0-based start and a length. */
static size_t slice(lua_State *L, size_t len, size_t *start) {
  lua_Integer n = (lua_Integer)len, i = luaL_optinteger(L, 3, 1);
  lua_Integer j = luaL_optinteger(L, 4, -1);
  if (i < 0) i = i < -n ? 1 : n + i + 1;
  if (i == 0) i = 1;
  if (j < 0) j = j < -n ? 0 : n + j + 1;
  if (j > n) j = n;
  *start = i > j ? 0 : (size_t)i - 1;
  return i > j ? 0 : (size_t)(j - i + 1);
}

/*** Sends bytes as they are, as one message.
 * @function Connection:send_bytes
 * @tparam string s what is sent
 * @tparam[opt=1] integer i first byte, as in string.sub
 * @tparam[opt=-1] integer j last byte
 * @tparam[opt] number timeout seconds to wait for room
 * @treturn boolean|nil true; nil when nothing was sent
 * @treturn string|nil "timeout"
 * @raise as `Connection:send`
 * @python `Connection.send_bytes(buffer, offset, size)`; here first and last byte are given */
static int conn_send_bytes(lua_State *L) {
  struct connection *c = check_writable(L);
  size_t len, start;
  const char *s = luaL_checklstring(L, 2, &len);
  len = slice(L, len, &start);
  mp_time deadline = lmp_deadline(L, 5);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  mp_conn_post(&c->conn, NULL, 0, s + start, len);
  return send_posted(L, c, NULL, deadline);
}

/* -- receiving -- */

static int too_long(lua_State *L, struct connection *c, uint64_t len, uint64_t max) {
  if (c->conn.max < max) max = c->conn.max;
  shut(L, c);
  return luaL_error(L, "message of %I bytes exceeds maxlength %I", (lua_Integer)len,
                    (lua_Integer)max);
}

/* What became of a recv that brought no message. */
static int no_message(lua_State *L, struct connection *c, int e) {
  switch (e) {
  case ETIMEDOUT: return lmp_code(L, "timeout");
  case ENODATA: return lmp_code(L, "eof");
  case EBADMSG: shut(L, c); return luaL_error(L, "truncated message");
  case EPROTO: shut(L, c); return luaL_error(L, "not a message: impossible length");
  case ENOMEM: return luaL_error(L, "not enough memory for the message");
  default: return lmp_fail(L, e, "receive");
  }
}

/* Waits for the next message, which stays the connection's.  NULL: *n results were
 * pushed. */
static struct mp_mail *await(lua_State *L, struct connection *c, uint64_t max,
                             mp_time deadline, int *n) {
  struct mp_mail *m;
  for (;;) {
    mp_label(c->h.me, c->h.obj, MP_WAIT_CONNECTION);
    int e = mp_conn_recv(&c->conn, max, deadline, &m);
    mp_unlabel(c->h.me);
    if (e == 0) return m;
    if (e == EMSGSIZE) {
      *n = too_long(L, c, m->len, max);
      return NULL;
    }
    if (e != EINTR) {
      *n = no_message(L, c, e);
      return NULL;
    }
    lmp_pause(L, c->h.me);
    (void)check_readable(L); /* a hook may have closed it */
  }
}

static int l_decode(lua_State *L) {
  lmp_decode(L, lua_touserdata(L, 1));
  return 1;
}

static int l_unpickle(lua_State *L) {
  const struct lmp_unpack *u = lua_touserdata(L, 1);
  lmp_unpickle(L, u->data, u->len);
  return 1;
}

/* The objects that a message names, registered for this process. */
struct named {
  mp_ref *refs;
  uint32_t *entries;
  uint32_t n;
};

static void drop_named(struct named *o, struct mp_member *me) {
  for (uint32_t i = 0; i < o->n; i++)
    if (o->entries[i] != UINT32_MAX) mp_drop(o->entries[i], me);
  free(o->refs);
  free(o->entries);
  memset(o, 0, sizeof *o);
}

/* Redeems the ticket of the message, whose bytes after the kind are data..len.  0;
 * ESTALE: there is no such ticket; ENOMEM: the message can be received again. */
static int redeem(struct connection *c, const unsigned char *data, size_t len,
                  struct named *o) {
  struct mp_claim claim;
  if (c->h.obj == 0 || len < sizeof claim) return ESTALE;
  memcpy(&claim, data, sizeof claim);
  if (claim.n == 0 || claim.n > len) return ESTALE;
  o->refs = malloc(claim.n * sizeof *o->refs);
  o->entries = malloc(claim.n * sizeof *o->entries);
  int e = ENOMEM;
  if (o->refs && o->entries)
    e = mp_pipe_redeem(c->h.obj, &claim, c->h.me, o->refs, o->entries);
  if (e == 0)
    o->n = claim.n;
  else
    drop_named(o, c->h.me);
  return e;
}

/* Decodes the message and forgets it, whether that fails or not: the next recv gets
 * the next one. */
static int decode(lua_State *L, struct connection *c, const struct mp_mail *m, size_t pre,
                  struct named *o) {
  unsigned mode = c->ways & NETWORK ? network_mode(c) : LMP_FAMILY | LMP_CONNECTIONS;
  struct lmp_unpack u = {m->data + pre, m->got - pre, mode,
                         o->refs, o->entries, o->n, m->fds, m->nfds};
  lua_pushcfunction(L, pre > 0 ? l_decode : l_unpickle);
  lua_pushlightuserdata(L, &u);
  c->decoding = true;
  int status = lua_pcall(L, 1, 1, 0);
  c->decoding = false;
  drop_named(o, c->h.me);
  if (c->conn.fd < 0)
    mp_conn_close(&c->conn); /* by code that ran meanwhile */
  else
    mp_conn_taken(&c->conn);
  return status == LUA_OK ? 1 : lua_error(L);
}

static int refuse(lua_State *L, struct connection *c, const char *why) {
  mp_conn_taken(&c->conn);
  return luaL_error(L, "cannot receive the message: %s", why);
}

static int receive_value(lua_State *L, struct connection *c, mp_time deadline) {
  int n = 0;
  struct named o = {NULL, NULL, 0};
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  struct mp_mail *m = await(L, c, UINT64_MAX, deadline, &n);
  if (m == NULL) return n;
  if (m->cut) return refuse(L, c, "too many open files for its connections");
  if (m->got >= 1 && m->data[0] == VALUE) return decode(L, c, m, 1, &o);
  if (m->got >= 1 && m->data[0] == LMP_PICKLE_FIRST && c->ways & NETWORK)
    return decode(L, c, m, 0, &o);
  if (m->got < 1 || m->data[0] != NAMED || c->ways & NETWORK)
    return refuse(L, c, "it is no Lua value (sent by send_bytes?)");
  int e = redeem(c, m->data + 1, m->got - 1, &o);
  if (e == ENOMEM) return lmp_full(L);
  if (e) return refuse(L, c, "the shared objects in it are gone");
  return decode(L, c, m, NAMED_PRE, &o);
}

/*** Receives a value.
 * @function Connection:recv
 * @tparam[opt] number timeout seconds to wait for one; nil waits for ever, 0 does not wait
 * @return the value; nil when there is none
 * @treturn string|nil "eof" (the other end is closed) or "timeout"
 * @raise "truncated message" when the sender died in the middle of it; the connection
 *   is closed then
 * @python `Connection.recv`, which raises `EOFError` at the end */
static int conn_recv(lua_State *L) {
  struct connection *c = check_readable(L);
  mp_time deadline = lmp_deadline(L, 2);
  return receive_value(L, c, deadline);
}

static int next_message(lua_State *L) {
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(1));
  struct connection *c = check_readable(L);
  return receive_value(L, c, MP_FOREVER);
}

/*** Iterates over the values that arrive, to the end of the stream.
 * @function Connection:messages
 * @treturn function an iterator
 * @usage local mine, its = mp.Pipe()
 * its:send "hello"
 * its:close()
 * for message in mine:messages() do print(message) end --> hello */
static int conn_messages(lua_State *L) {
  (void)check_readable(L);
  lua_settop(L, 1);
  lua_pushcclosure(L, next_message, 1);
  return 1;
}

/*** Receives bytes.
 * @function Connection:recv_bytes
 * @tparam[opt] integer maxlength a longer message is an error and closes the connection
 * @tparam[opt] number timeout seconds to wait for them
 * @treturn string|nil the bytes of one message
 * @treturn string|nil "eof" or "timeout"
 * @raise a message that is longer than `maxlength`; "truncated message"
 * @python `Connection.recv_bytes` */
static int conn_recv_bytes(lua_State *L) {
  struct connection *c = check_readable(L);
  int n = 0;
  lua_Integer max = luaL_optinteger(L, 2, LUA_MAXINTEGER);
  luaL_argcheck(L, max >= 0, 2, "maxlength must not be negative");
  mp_time deadline = lmp_deadline(L, 3);
  struct mp_mail *m = await(L, c, (uint64_t)max, deadline, &n);
  if (m == NULL) return n;
  lua_pushlstring(L, (const char *)m->data, m->got); /* may raise: it can be had again */
  mp_conn_taken(&c->conn);
  return 1;
}

/*** Whether recv would have something to say: a message, a part of one, or the end.
 * @function Connection:poll
 * @tparam[opt=0] number timeout seconds to wait for that
 * @treturn boolean true at the end of the stream, too
 * @python `Connection.poll` */
static int conn_poll(lua_State *L) {
  struct connection *c = check_readable(L);
  mp_time deadline = lua_isnoneornil(L, 2) ? MP_NEVER : lmp_deadline(L, 2);
  int e;
  for (;;) {
    mp_label(c->h.me, c->h.obj, MP_WAIT_CONNECTION);
    e = mp_conn_poll(&c->conn, deadline);
    mp_unlabel(c->h.me);
    if (e != EINTR) break;
    lmp_pause(L, c->h.me);
    (void)check_readable(L);
  }
  if (e != 0 && e != ETIMEDOUT) return lmp_fail(L, e, "poll a connection");
  lua_pushboolean(L, e == 0);
  return 1;
}

/* -- the rest of a connection's face -- */

/*** The descriptor, which stays the connection's: for an event loop.
 * @function Connection:fileno
 * @treturn integer */
static int conn_fileno(lua_State *L) {
  lua_pushinteger(L, check(L)->conn.fd);
  return 1;
}

static int conn_tostring(lua_State *L) {
  struct connection *c = lmp_test(L, 1, LMP_CONNECTION);
  if (c == NULL)
    lua_pushliteral(L, "mp.Connection: (unfinished)");
  else if (c->conn.fd < 0)
    lua_pushfstring(L, "mp.Connection: %p (closed)", lua_topointer(L, 1));
  else
    lua_pushfstring(L, "mp.Connection: %p (open, fd %d%s)", lua_topointer(L, 1), c->conn.fd,
                    !c->conn.writable   ? ", read-only"
                    : !c->conn.readable ? ", write-only"
                                        : "");
  return 1;
}

/* Methods first (the upvalue), then the fields. */
static int conn_index(lua_State *L) {
  struct connection *c = lmp_test(L, 1, LMP_CONNECTION);
  if (c == NULL) return luaL_typeerror(L, 1, lmp_kind_name(LMP_CONNECTION));
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const char *k = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(k, "closed") == 0)
    lua_pushboolean(L, c->conn.fd < 0);
  else if (strcmp(k, "readable") == 0)
    lua_pushboolean(L, c->conn.readable);
  else if (strcmp(k, "writable") == 0)
    lua_pushboolean(L, c->conn.writable);
  else if (strcmp(k, "format") == 0)
    lua_pushstring(L, c->ways & PICKLE ? "pickle" : "marshal");
  return 1; /* else the nil of the methods table */
}

/* -- making and passing on -- */

static void fill(struct connection *c, struct mp_member *me, mp_ref pipe, uint32_t entry,
                 uint32_t end) {
  c->h.me = me;
  c->h.obj = pipe;
  c->h.entry = entry;
  c->h.part = end;
  c->h.tag = &lmp_tags[LMP_CONNECTION];
}

/* The pair of sockets and the pipe in shared memory, or neither.  *full: it is the
 * arena that has no room. */
static int make(struct mp_member *me, bool duplex, struct connection *a, struct connection *b,
                bool *full) {
  uint32_t entries[2];
  mp_ref pipe;
  int e = mp_conn_pair(&a->conn, &b->conn, duplex);
  *full = false;
  if (e) return e;
  e = mp_pipe_make(me, &pipe, entries);
  if (e) {
    mp_conn_close(&a->conn);
    mp_conn_close(&b->conn);
    *full = true;
    return e;
  }
  fill(a, me, pipe, entries[0], 1);
  fill(b, me, pipe, entries[1], 2);
  return 0;
}

/*** @section end */

/*** Makes a pipe: two connected ends.
 * @function mp.Pipe
 * @tparam[opt=true] boolean duplex false: the first only receives, the second only sends
 * @treturn Connection one end
 * @treturn Connection the other
 * @raise too many open files; the shared memory is full
 * @python `multiprocessing.Pipe`
 * @usage local mine, its = mp.Pipe()
 * local p = mp.Process(function()
 *   mine:close()
 *   its:send "hello"
 * end)
 * p:start()
 * its:close()
 * print(mine:recv()) --> hello
 * print(mine:recv()) --> nil	eof */
static int new_pipe(lua_State *L) {
  bool duplex = true, full;
  if (!lua_isnoneornil(L, 1)) {
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    duplex = lua_toboolean(L, 1);
  }
  struct mp_member *me = lmp_member(L);
  struct connection **list = list_of(L);
  struct connection *a = lmp_new(L, sizeof *a, LMP_CONNECTION, 0);
  struct connection *b = lmp_new(L, sizeof *b, LMP_CONNECTION, 0);
  int e = make(me, duplex, a, b, &full);
  if (e == EMFILE || e == ENFILE || e == ENOMEM) { /* garbage may hold what is short */
    lua_gc(L, LUA_GCCOLLECT);
    mp_collect(me);
    e = make(me, duplex, a, b, &full);
  }
  if (e && full) return lmp_full(L);
  if (e) return lmp_fail(L, e, "make a pipe");
  enlist(a, list);
  enlist(b, list);
  return 2;
}

/* The limit of messages in 24 bits, rounded down. */
static unsigned short_max(uint64_t max) {
  unsigned power = 0;
  while (max >> MAX_BITS != 0 && power < 31) {
    max >>= 1;
    power++;
  }
  return power << MAX_BITS | (unsigned)(max & ((1u << MAX_BITS) - 1));
}

static uint64_t long_max(unsigned flags) {
  unsigned max = flags >> MAX_SHIFT;
  return (uint64_t)(max & ((1u << MAX_BITS) - 1)) << (max >> MAX_BITS);
}

int lmp_conn_fd(lua_State *L, int idx, unsigned *flags, mp_ref *pipe) {
  struct connection *c = lmp_test(L, idx, LMP_CONNECTION);
  if (c == NULL || c->conn.fd < 0) return -1;
  if (!mp_conn_fresh(&c->conn) || c->conn.out.busy)
    luaL_error(L, "cannot send a connection in the middle of a message");
  *flags = (c->conn.readable ? READABLE : 0u) | (c->conn.writable ? WRITABLE : 0u) |
           c->h.part << END_SHIFT | c->ways;
  if (c->ways & NETWORK) *flags |= short_max(c->conn.max) << MAX_SHIFT;
  *pipe = c->h.obj;
  return c->conn.fd;
}

void lmp_conn_push(lua_State *L, int *fd, unsigned flags, mp_ref pipe) {
  struct mp_member *me = lmp_member(L);
  uint32_t entry = 0;
  if (*fd < 0 || !(flags & (READABLE | WRITABLE)) ||
      (!(flags & NETWORK) && flags >> END_SHIFT > END_MASK) ||
      (pipe != 0 && mp_block_kind(mp_at(pipe)) != MP_KIND_PIPE))
    luaL_error(L, "marshal: malformed data (connection)");
  struct connection **list = list_of(L);
  struct connection *c = lmp_new(L, sizeof *c, LMP_CONNECTION, 0);
  if (pipe != 0 && mp_refer(pipe, me, &entry) != 0) lmp_full(L);
  mp_conn_open(&c->conn, *fd, flags & READABLE, flags & WRITABLE);
  if (flags & NETWORK) {
    c->conn.max = long_max(flags);
    c->conn.plain = true;
  }
  c->ways = flags & WAYS;
  fill(c, me, pipe, entry, flags >> END_SHIFT & END_MASK);
  enlist(c, list);
  *fd = -1;
}

void lmp_conn_push_network(lua_State *L, int *fd) {
  lmp_conn_push(L, fd, READABLE | WRITABLE | NETWORK | short_max(MP_CONN_HANDSHAKE) << MAX_SHIFT,
                0);
}

/* conn_trust(connection, pickle, code, max): the other side has shown who it is, or need
 * not. */
static int conn_trust(lua_State *L) {
  struct connection *c = check(L);
  c->ways = NETWORK | (lua_toboolean(L, 2) ? PICKLE : 0u) | (lua_toboolean(L, 3) ? CODE : 0u);
  c->conn.max = (uint64_t)luaL_checkinteger(L, 4);
  return 0;
}

/* conn_fd(connection) -> its descriptor, and whether a whole message is in memory
 * already, which the descriptor does not show.  For mp.wait. */
static int conn_fd(lua_State *L) {
  struct connection *c = check_readable(L);
  lua_pushinteger(L, c->conn.fd);
  lua_pushboolean(L, mp_conn_pending(&c->conn));
  return 2;
}

/* any_connections(): whether some connection of this state is open. */
static int any_connections(lua_State *L) {
  lua_pushboolean(L, *list_of(L) != NULL);
  return 1;
}

/* close_connections(spare): closes all that are open but those in the array `spare`.  For
 * a process that has inherited them and must not keep their other ends from the EOF. */
static int close_connections(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer n = luaL_len(L, 1);
  struct connection *c, *next;
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, 1, i);
    if ((c = lmp_test(L, -1, LMP_CONNECTION)) != NULL) c->spared = true;
    lua_pop(L, 1);
  }
  for (c = *list_of(L); c; c = next) {
    next = c->next;
    if (!c->spared) shut(L, c);
    c->spared = false;
  }
  return 0;
}

static const luaL_Reg methods[] = {
    {"send", conn_send},             {"recv", conn_recv},
    {"send_bytes", conn_send_bytes}, {"recv_bytes", conn_recv_bytes},
    {"poll", conn_poll},             {"messages", conn_messages},
    {"fileno", conn_fileno},         {"close", conn_close},
    {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", conn_gc}, {"__close", conn_gc}, {"__tostring", conn_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"Pipe", new_pipe},
                                     {"conn_fd", conn_fd},
                                     {"conn_trust", conn_trust},
                                     {"conn_offer", conn_offer},
                                     {"conn_go_on", conn_go_on},
                                     {"any_connections", any_connections},
                                     {"close_connections", close_connections},
                                     {NULL, NULL}};

void lmp_open_conn(lua_State *L) {
  mp_pipe_setup();
  lmp_type(L, LMP_CONNECTION, "Connection", methods, metamethods, conn_index);
  luaL_setfuncs(L, functions, 0);
}
