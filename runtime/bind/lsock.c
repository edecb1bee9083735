/* What mp.Listener and mp.Client need of the kernel: addresses, listening, connecting; and
 * the digests of their handshake. */
#include "lsock.h"
#include "../os/crypto.h"
#include "../os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ADDRESSES 16     /* of one name, that are tried */
#define BUSY_MS 5        /* between two tries to reach a listener whose backlog is full */
#define PRIVATE_MAX 80   /* the longest directory in which a private one is made */
#define NAME_MAX_ 108    /* of AF_UNIX, its end included */

static const char type_name[] = "mp.socket";

/* fd: it listens, or is being connected.  ep: an epoll of fd and of those who are in the
 * handshake.  path: to be removed by `owner`; with `dir`, its directory as well. */
struct sock {
  int fd, ep;
  pid_t owner;
  bool dir;
  char path[NAME_MAX_];
};

struct addresses {
  int n;
  struct {
    socklen_t len;
    union {
      struct sockaddr any;
      struct sockaddr_un un;
      struct sockaddr_storage room;
    };
  } list[ADDRESSES];
};

static struct sock *new_sock(lua_State *L) {
  struct sock *s = lua_newuserdatauv(L, sizeof *s, 0);
  memset(s, 0, sizeof *s);
  s->fd = s->ep = -1;
  s->owner = getpid();
  luaL_setmetatable(L, type_name);
  return s;
}

static struct sock *check(lua_State *L) {
  struct sock *s = luaL_checkudata(L, 1, type_name);
  luaL_argcheck(L, s->fd >= 0, 1, "the socket is closed");
  return s;
}

static int sock_close(lua_State *L) {
  struct sock *s = luaL_checkudata(L, 1, type_name);
  mp_fd_close(&s->fd);
  mp_fd_close(&s->ep);
  if (s->path[0] && s->owner == getpid()) {
    (void)unlink(s->path);
    char *slash = strrchr(s->path, '/');
    if (s->dir && slash) {
      *slash = 0;
      (void)rmdir(s->path);
    }
  }
  s->path[0] = 0;
  return 0;
}

/* core.sock_own(socket): this process removes its path, who made it before does not */
static int sock_own(lua_State *L) {
  check(L)->owner = getpid();
  return 0;
}

/* core.sock_leave(socket): closes it here; another process goes on with it */
static int sock_leave(lua_State *L) {
  struct sock *s = luaL_checkudata(L, 1, type_name);
  s->path[0] = 0;
  return sock_close(L);
}

/* -- addresses -- */

static void add_unix(lua_State *L, struct addresses *a, const char *path, size_t len) {
  struct sockaddr_un *un = &a->list[0].un;
  luaL_argcheck(L, len > 0 && len < sizeof un->sun_path, 2,
                "a path of a socket has 1 to 107 bytes");
  luaL_argcheck(L, path[0] == 0 || strlen(path) == len, 2, "a path with a zero byte in it");
  memset(un, 0, sizeof *un);
  un->sun_family = AF_UNIX;
  memcpy(un->sun_path, path, len);
  a->list[0].len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] != 0));
  a->n = 1;
}

static void add_found(struct addresses *a, const struct addrinfo *found, int family) {
  for (; found && a->n < ADDRESSES; found = found->ai_next) {
    if (found->ai_family != family) continue;
    a->list[a->n].len = found->ai_addrlen;
    memcpy(&a->list[a->n++].room, found->ai_addr, found->ai_addrlen);
  }
}

/* The addresses of argument 1 (a host, or nil) and 2 (its port, or a path), IPv4 first.
 * 0 or getaddrinfo's error. */
static int resolve(lua_State *L, struct addresses *a, bool passive) {
  a->n = 0;
  if (lua_isnoneornil(L, 1)) {
    size_t len;
    const char *path = luaL_checklstring(L, 2, &len);
    add_unix(L, a, path, len);
    return 0;
  }
  char port[16];
  struct addrinfo hints, *found = NULL;
  memset(&hints, 0, sizeof hints);
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  snprintf(port, sizeof port, "%d", (int)luaL_checkinteger(L, 2));
  const char *host = luaL_checkstring(L, 1);
  int e = getaddrinfo(host[0] ? host : passive ? NULL : "localhost", port, &hints, &found);
  if (e && strcasecmp(host, "localhost") == 0) { /* a system without /etc/hosts */
    hints.ai_flags &= ~AI_PASSIVE;
    e = getaddrinfo(NULL, port, &hints, &found);
  }
  if (e) return e;
  add_found(a, found, AF_INET);
  add_found(a, found, AF_INET6);
  freeaddrinfo(found);
  return a->n > 0 ? 0 : EAI_NONAME;
}

/* Pushes an address: host and port, or a path; nothing of a nameless one.  How many. */
static int push_address(lua_State *L, const struct sockaddr *any, socklen_t len) {
  if (any->sa_family == AF_UNIX) {
    const struct sockaddr_un *un = (const void *)any;
    if (len <= offsetof(struct sockaddr_un, sun_path)) return 0;
    size_t n = len - offsetof(struct sockaddr_un, sun_path);
    if (un->sun_path[0]) n = strnlen(un->sun_path, n);
    lua_pushlstring(L, un->sun_path, n);
    return 1;
  }
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getnameinfo(any, len, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return 0;
  lua_pushstring(L, host);
  lua_pushinteger(L, atoi(port));
  return 2;
}

/* "localhost:6000" or the path, for messages. */
static const char *address_text(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    const char *path = lua_tostring(L, 2);
    return path[0] ? path : lua_pushfstring(L, "\\0%s", path + 1);
  }
  return lua_pushfstring(L, "%s:%d", lua_tostring(L, 1), (int)lua_tointeger(L, 2));
}

static void set_up(int fd, int family) {
  int yes = 1;
  if (family == AF_UNIX) return;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
}

/* -- listening -- */

/* A socket of that name is there, but nobody listens any more: what a killed process left. */
static bool stale(const struct sockaddr *any, socklen_t len) {
  struct stat st;
  const struct sockaddr_un *un = (const void *)any;
  if (any->sa_family != AF_UNIX || un->sun_path[0] == 0) return false;
  if (lstat(un->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) return false;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool refused = fd >= 0 && connect(fd, any, len) != 0 && errno == ECONNREFUSED;
  if (fd >= 0) close(fd);
  return refused;
}

static int bind_at(struct sock *s, const struct sockaddr *any, socklen_t len) {
  if (bind(s->fd, any, len) == 0) return 0;
  if (errno != EADDRINUSE || !stale(any, len)) return errno;
  (void)unlink(((const struct sockaddr_un *)(const void *)any)->sun_path);
  return bind(s->fd, any, len) == 0 ? 0 : errno;
}

static int listen_at(struct sock *s, const struct sockaddr *any, socklen_t len, int backlog) {
  int yes = 1;
  s->fd = mp_fd_high(socket(any->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (s->fd < 0) return errno;
  if (any->sa_family != AF_UNIX)
    (void)setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  int e = bind_at(s, any, len);
  if (e == 0 && any->sa_family == AF_UNIX && any->sa_data[0])
    memcpy(s->path, any->sa_data, len - offsetof(struct sockaddr, sa_data));
  if (e == 0 && listen(s->fd, backlog) != 0) e = errno;
  if (e) mp_fd_close(&s->fd);
  return e;
}

static int watch_fd(struct sock *s, int fd) {
  struct epoll_event ev = {.events = EPOLLIN, .data = {.fd = fd}};
  return epoll_ctl(s->ep, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : errno;
}

/* A new epoll, with nothing but the listening socket, under the number of the old one. */
static int open_epoll(struct sock *s) {
  int fd = mp_fd_high(epoll_create1(EPOLL_CLOEXEC)), e = 0;
  if (fd < 0) return errno;
  if (s->ep >= 0) {
    if (dup3(fd, s->ep, O_CLOEXEC) < 0) e = errno;
    close(fd);
  } else {
    s->ep = fd;
  }
  return e ? e : watch_fd(s, s->fd);
}

/* At the first of the addresses that can be had.  0, or errno and nothing is left. */
static int listen_any(struct sock *s, const struct addresses *a, int backlog) {
  int e = EADDRNOTAVAIL;
  for (int i = 0; i < a->n; i++) {
    e = listen_at(s, &a->list[i].any, a->list[i].len, backlog);
    if (e == 0) break;
  }
  if (e || (e = open_epoll(s)) == 0) return e;
  mp_fd_close(&s->fd);
  mp_fd_close(&s->ep);
  if (s->path[0]) (void)unlink(s->path);
  s->path[0] = 0;
  return e;
}

/* A path in a directory of its own that only this user can enter; argument 2 becomes it. */
static void private_path(lua_State *L, char dir[NAME_MAX_]) {
  const char *tmp = getenv("TMPDIR");
  if (tmp == NULL || tmp[0] == 0 || strlen(tmp) > PRIVATE_MAX) tmp = "/tmp";
  snprintf(dir, NAME_MAX_, "%s/mplua-XXXXXX", tmp);
  if (mkdtemp(dir) == NULL) lmp_fail(L, errno, lua_pushfstring(L, "make a directory in %s", tmp));
  lua_settop(L, 3);
  lua_pushfstring(L, "%s/socket", dir);
  lua_replace(L, 2);
}

/* core.sock_listen(host, port, backlog), or (nil, path, backlog), (nil, nil, backlog) for a
 * private path -> socket */
static int sock_listen(lua_State *L) {
  struct addresses a;
  char dir[NAME_MAX_] = "";
  int backlog = (int)luaL_checkinteger(L, 3);
  if (lua_isnil(L, 1) && lua_isnil(L, 2)) private_path(L, dir);
  int bad = resolve(L, &a, true);
  const char *text = address_text(L);
  if (bad) return luaL_error(L, "cannot listen at %s: %s", text, gai_strerror(bad));
  struct sock *s = new_sock(L);
  int e = listen_any(s, &a, backlog);
  if (lmp_collect_fds(L, e)) e = listen_any(s, &a, backlog);
  s->dir = !e && dir[0];
  if (e && dir[0]) (void)rmdir(dir);
  return e ? lmp_fail(L, e, lua_pushfstring(L, "listen at %s", text)) : 1;
}

/* core.sock_address(socket) -> host, port or path */
static int sock_address(lua_State *L) {
  struct sockaddr_storage room;
  socklen_t len = sizeof room;
  if (getsockname(check(L)->fd, (struct sockaddr *)&room, &len) != 0)
    return lmp_fail(L, errno, "read the address of a socket");
  return push_address(L, (struct sockaddr *)&room, len);
}

/* core.sock_fd(socket): readable when somebody connects, or one who is watched says
 * something */
static int sock_fd(lua_State *L) {
  lua_pushinteger(L, check(L)->ep);
  return 1;
}

/* core.sock_renew(socket): nobody is watched any more, closed descriptors included, which
 * the kernel goes on watching while a child that was forked has them open */
static int sock_renew(lua_State *L) {
  int e = open_epoll(check(L));
  return e ? lmp_fail(L, e, "listen") : 0;
}

/* A descriptor; -1 and errno. */
static int accept_one(const struct sock *s, struct sockaddr_storage *room, socklen_t *len) {
  int fd;
  do {
    *len = sizeof *room;
    fd = accept4(s->fd, (struct sockaddr *)room, len, SOCK_CLOEXEC);
  } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
  return fd;
}

/* core.sock_accept(socket) -> connection, host, port; nothing when nobody is there */
static int sock_accept(lua_State *L) {
  struct sockaddr_storage room;
  socklen_t len;
  int fd = accept_one(check(L), &room, &len);
  if (fd < 0 && lmp_collect_fds(L, errno)) fd = accept_one(check(L), &room, &len);
  if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
  if ((fd = mp_fd_high(fd)) < 0) return lmp_fail(L, errno, "accept a connection");
  set_up(fd, room.ss_family);
  struct sock *held = new_sock(L); /* closes it should the next line raise */
  held->fd = fd;
  lmp_conn_push_network(L, &held->fd);
  return 1 + push_address(L, (struct sockaddr *)&room, len);
}

/* core.sock_watch(socket, descriptor, on): that connection is in its handshake, or not any
 * more */
static int sock_watch(lua_State *L) {
  struct sock *s = check(L);
  int fd = (int)luaL_checkinteger(L, 2);
  if (!lua_toboolean(L, 3)) {
    (void)epoll_ctl(s->ep, EPOLL_CTL_DEL, fd, NULL);
    return 0;
  }
  int e = watch_fd(s, fd);
  return e ? lmp_fail(L, e, "watch a connection") : 0;
}

/* -- connecting -- */

/* One try.  0; EAGAIN: the backlog is full; ETIMEDOUT; other errno.  Raises. */
static int try_to_connect(lua_State *L, struct sock *s, const struct sockaddr *any,
                          socklen_t len, mp_time deadline) {
  struct mp_member *me = lmp_member(L);
  socklen_t size = sizeof(int);
  int e;
  s->fd = mp_fd_high(socket(any->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (s->fd < 0) return errno;
  if (connect(s->fd, any, len) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  while ((e = mp_fd_wait(s->fd, POLLOUT, deadline)) == EINTR) lmp_pause(L, me);
  if (e) return e;
  return getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &e, &size) == 0 ? e : errno;
}

static int connect_to(lua_State *L, struct sock *s, const struct sockaddr *any, socklen_t len,
                      mp_time deadline) {
  int e = try_to_connect(L, s, any, len, deadline);
  while (e == EAGAIN && mp_now() < deadline) {
    mp_fd_close(&s->fd);
    (void)poll(NULL, 0, BUSY_MS);
    lmp_pause(L, lmp_member(L));
    e = try_to_connect(L, s, any, len, deadline);
  }
  if (e) mp_fd_close(&s->fd);
  return e == EAGAIN ? ETIMEDOUT : e;
}

/* To the first of the addresses that answers.  0; ECONNREFUSED goes before other errnos. */
static int connect_any(lua_State *L, struct sock *s, const struct addresses *a, mp_time deadline) {
  int e = EHOSTUNREACH;
  for (int i = 0; i < a->n; i++) {
    int why = connect_to(L, s, &a->list[i].any, a->list[i].len, deadline);
    if (why == 0 || e != ECONNREFUSED) e = why;
    if (why == 0 || why == ETIMEDOUT) break;
  }
  return e;
}

static int not_connected(lua_State *L, int e) {
  switch (e) {
  case ECONNREFUSED: return lmp_code(L, "refused");
  case ETIMEDOUT: return lmp_code(L, "timeout");
  case ENOENT: case ENOTDIR: case EHOSTUNREACH: case ENETUNREACH: case ENETDOWN:
  case EADDRNOTAVAIL: case EAFNOSUPPORT: case ECONNRESET: case EHOSTDOWN:
    return lmp_code(L, "unreachable");
  default: return lmp_fail(L, e, lua_pushfstring(L, "connect to %s", address_text(L)));
  }
}

/* core.sock_connect(host, port, timeout), or (nil, path, timeout) -> connection, or nil and
 * "refused", "unreachable" or "timeout" */
static int sock_connect(lua_State *L) {
  struct addresses a;
  mp_time deadline = lmp_deadline(L, 3);
  if (resolve(L, &a, false) != 0) return lmp_code(L, "unreachable");
  struct sock *s = new_sock(L);
  int e = connect_any(L, s, &a, deadline);
  if (lmp_collect_fds(L, e)) e = connect_any(L, s, &a, deadline);
  if (e) return not_connected(L, e);
  (void)fcntl(s->fd, F_SETFL, 0); /* a connection's descriptor blocks */
  set_up(s->fd, a.list[0].any.sa_family);
  lmp_conn_push_network(L, &s->fd);
  return 1;
}

/* -- the handshake's digests -- */

/* core.hmac(digest, key, message) -> string */
static int hmac(lua_State *L) {
  size_t nkey, len, n = 0;
  unsigned char out[MP_DIGEST];
  const char *name = luaL_checkstring(L, 1), *key = luaL_checklstring(L, 2, &nkey);
  const char *message = luaL_checklstring(L, 3, &len);
  switch (mp_hmac(name, key, nkey, message, len, out, &n)) {
  case 0: lua_pushlstring(L, (const char *)out, n); return 1;
  case ENOSYS:
    return luaL_error(L, "a connection with a key needs libcrypto.so.3 (package libssl3)");
  default: return luaL_error(L, "libcrypto has no %s", name);
  }
}

/* core.same(a, b): whether two strings are equal, in constant time */
static int same(lua_State *L) {
  size_t na, nb;
  const char *a = luaL_checklstring(L, 1, &na), *b = luaL_checklstring(L, 2, &nb);
  lua_pushboolean(L, na == nb && mp_same(a, b, na));
  return 1;
}

/* core.random(n) -> n bytes, 256 at most, that nobody can guess */
static int random_bytes(lua_State *L) {
  char out[256];
  lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 0 && n <= (lua_Integer)sizeof out, 1, "0 to 256 bytes");
  int e = mp_random(out, (size_t)n);
  if (e) return lmp_fail(L, e, "get random bytes");
  lua_pushlstring(L, out, (size_t)n);
  return 1;
}

void lmp_open_sock(lua_State *L) {
  static const luaL_Reg functions[] = {
    {"sock_listen", sock_listen}, {"sock_address", sock_address}, {"sock_fd", sock_fd},
    {"sock_renew", sock_renew}, {"sock_accept", sock_accept}, {"sock_watch", sock_watch},
    {"sock_connect", sock_connect}, {"sock_close", sock_close}, {"sock_own", sock_own},
    {"sock_leave", sock_leave}, {"hmac", hmac},
    {"same", same}, {"random", random_bytes}, {NULL, NULL}
  };
  luaL_setfuncs(L, functions, 0);
  luaL_newmetatable(L, type_name);
  lua_pushcfunction(L, sock_close);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
