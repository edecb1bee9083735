/* Framing and waiting on stream sockets.  See conn.h. */
#include "conn.h"
#include "../os/fd.h"
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define NARROW 4                  /* the short header */
#define SMALL 1024                /* copied behind the header: cheaper than two pieces */
#define KEEP (64 * 1024)          /* a larger buffer is not kept between messages */
#define FIRST_ROOM 512            /* the smallest buffer */
#define STEP (1024 * 1024)        /* what a length alone may allocate */
#define AHEAD (256ull << 20)      /* a blocked send starts no message beyond this */
#define SEND_BUFFER (1024 * 1024) /* asked for; the system's limit is mostly lower */
#define SOON_NS (150 * 1000)      /* a sleep that was shorter was not worth it */
#define LOOK_FULL_US MP_LOOK_US

/* -- opening and closing -- */

void mp_conn_open(struct mp_conn *c, int fd, bool readable, bool writable) {
  memset(c, 0, sizeof *c);
  c->fd = fd;
  c->readable = readable;
  c->writable = writable;
  c->max = UINT64_MAX;
}

int mp_conn_pair(struct mp_conn *a, struct mp_conn *b, bool duplex) {
  int p[2], e, size = SEND_BUFFER;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p) != 0) return errno;
  if ((p[0] = mp_fd_high(p[0])) < 0 || (p[1] = mp_fd_high(p[1])) < 0) goto fail;
  if (!duplex && shutdown(p[0], SHUT_WR) != 0) goto fail;
  (void)setsockopt(p[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  if (duplex) (void)setsockopt(p[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  mp_conn_open(a, p[0], true, duplex);
  mp_conn_open(b, p[1], duplex, true);
  return 0;
fail:
  e = errno;
  mp_fd_close(&p[0]);
  mp_fd_close(&p[1]);
  return e;
}

static void close_fds(struct mp_mail *m) {
  for (uint32_t i = 0; i < m->nfds; i++) mp_fd_close(&m->fds[i]);
  free(m->fds);
  m->fds = NULL;
  m->nfds = 0;
}

/* Ready for the next message; a buffer of the usual size stays. */
static void empty(struct mp_mail *m) {
  unsigned char *data = m->data;
  size_t cap = m->cap;
  close_fds(m);
  if (cap > KEEP) {
    free(data);
    data = NULL;
    cap = 0;
  }
  memset(m, 0, sizeof *m);
  m->data = data;
  m->cap = cap;
}

static void forget_aside(struct mp_conn *c) {
  struct mp_mail *m = c->aside;
  c->ahead -= m->len;
  c->aside = m->next;
  if (c->aside == NULL) c->last = NULL;
  close_fds(m);
  free(m->data);
  free(m);
}

void mp_conn_hang_up(struct mp_conn *c) {
  mp_fd_own(c->fd, 0);
  mp_fd_close(&c->fd);
}

void mp_conn_close(struct mp_conn *c) {
  mp_conn_hang_up(c);
  while (c->aside) forget_aside(c);
  empty(&c->in);
  free(c->in.data);
  c->in.data = NULL;
  c->in.cap = 0;
}

/* -- waiting -- */

/* An attempt that is made again and again while one looks. */
struct attempt {
  struct mp_conn *c;
  uint64_t max;
  int e; /* EAGAIN: not yet */
};

/* Looks, then sleeps until the descriptor has `events`, the slice ends or the
 * deadline comes.  0: a->e says what the attempt gave (EAGAIN: try again).
 * The look gives up for good after some vain tries (mp_look_for halves its time);
 * a sleep that turns out short says that looking would have paid after all. */
static int wait_for(struct mp_look *look, bool (*test)(const void *), struct attempt *a,
                    short events, mp_time deadline) {
  sched_yield(); /* it has just been tested */
  if (mp_look_for(look, test, a)) return 0;
  mp_time start = mp_now();
  int e = mp_fd_wait(a->c->fd, events, deadline);
  if (e == 0 && mp_now() - start < SOON_NS) look->budget_us = LOOK_FULL_US;
  return e;
}

/* -- receiving -- */

/* What a read that brought nothing means. */
static int ended(ssize_t k, const struct mp_mail *m) {
  if (k == 0 || errno == ECONNRESET) return m->nhead > 0 ? EBADMSG : ENODATA;
  return errno == EINTR ? 0 : errno;
}

static void keep_fd(struct mp_mail *m, int fd) {
  int *more = realloc(m->fds, (m->nfds + 1) * sizeof *more);
  if (more) m->fds = more;
  if (more == NULL || (fd = mp_fd_high(fd)) < 0) {
    mp_fd_close(&fd);
    m->cut = true;
  } else {
    m->fds[m->nfds++] = fd;
  }
}

static void keep_fds(struct mp_mail *m, struct msghdr *h) {
  for (struct cmsghdr *k = CMSG_FIRSTHDR(h); k; k = CMSG_NXTHDR(h, k)) {
    if (k->cmsg_level != SOL_SOCKET || k->cmsg_type != SCM_RIGHTS) continue;
    size_t n = (k->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(k) + i * sizeof fd, sizeof fd);
      keep_fd(m, fd);
    }
  }
  if (h->msg_flags & MSG_CTRUNC) m->cut = true;
}

/* Reads up to n bytes of the header; descriptors come with the first of them. */
static ssize_t read_head(struct mp_conn *c, struct mp_mail *m, size_t n) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MP_CONN_FDS * sizeof(int))];
  } control;
  struct iovec v = {m->head + m->nhead, n};
  struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control,
                     .msg_controllen = c->plain ? 0 : sizeof control};
  ssize_t k = recvmsg(c->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (k >= 0 && !c->plain && (h.msg_controllen > 0 || h.msg_flags & MSG_CTRUNC)) keep_fds(m, &h);
  return k;
}

static uint64_t big_endian(const unsigned char *p, int n) {
  uint64_t v = 0;
  for (int i = 0; i < n; i++) v = v << 8 | p[i];
  return v;
}

/* One step towards the length of the message.  0 or errno. */
static int pull_head(struct mp_conn *c, struct mp_mail *m) {
  bool wide = m->nhead >= NARROW && big_endian(m->head, NARROW) == UINT32_MAX;
  size_t want = wide ? MP_CONN_HEAD : NARROW;
  if (m->nhead < want) {
    ssize_t k = read_head(c, m, want - m->nhead);
    if (k <= 0) return ended(k, m);
    m->nhead = (uint8_t)(m->nhead + k);
    return 0;
  }
  uint64_t n = wide ? big_endian(m->head + NARROW, 8) : big_endian(m->head, NARROW);
  if (n > (wide ? (uint64_t)PTRDIFF_MAX : INT32_MAX)) return EPROTO;
  m->len = n;
  m->sized = true;
  return 0;
}

/* Room for at least one byte more. */
static int grow(struct mp_mail *m) {
  size_t room = m->got == 0 ? STEP : m->cap * 2;
  if (room > m->len) room = (size_t)m->len;
  if (room < FIRST_ROOM) room = FIRST_ROOM;
  if (room <= m->cap) return 0;
  unsigned char *data = realloc(m->data, room);
  if (data == NULL) return ENOMEM;
  m->data = data;
  m->cap = room;
  return 0;
}

static int pull_body(struct mp_conn *c, struct mp_mail *m) {
  if (m->got == m->len) {
    m->whole = true;
    return 0;
  }
  if (m->got == m->cap || m->got == 0) {
    int e = grow(m);
    if (e) return e;
  }
  size_t n = (m->cap < m->len ? m->cap : (size_t)m->len) - m->got;
  ssize_t k = recv(c->fd, m->data + m->got, n, MSG_DONTWAIT);
  if (k <= 0) return ended(k, m);
  m->got += (size_t)k;
  return 0;
}

/* Reads what is there of the next message.  0: it is whole; EAGAIN; or an errno
 * that comes again when one tries again. */
static int pull(struct mp_conn *c, uint64_t max) {
  struct mp_mail *m = &c->in;
  int e = 0;
  while (!m->sized && e == 0) e = pull_head(c, m);
  if (m->sized && m->len > (max < c->max ? max : c->max)) return EMSGSIZE;
  while (!m->whole && e == 0) e = pull_body(c, m);
  return e;
}

static bool try_pull(const void *arg) {
  struct attempt *a = (struct attempt *)arg;
  a->e = pull(a->c, a->max);
  return a->e != EAGAIN;
}

int mp_conn_recv(struct mp_conn *c, uint64_t max, mp_time deadline, struct mp_mail **m) {
  struct attempt a = {c, max, 0};
  if (c->aside) {
    *m = c->aside;
    return c->aside->len > max ? EMSGSIZE : 0;
  }
  *m = &c->in;
  if (c->asked && deadline != MP_NEVER && c->look_in.budget_us == LOOK_FULL_US)
    sched_yield(); /* who is to answer may be waiting for this processor */
  c->asked = false;
  while (!try_pull(&a)) {
    if (deadline == MP_NEVER) return ETIMEDOUT;
    int e = wait_for(&c->look_in, try_pull, &a, POLLIN, deadline);
    if (e) return e;
    if (a.e != EAGAIN) break;
  }
  return a.e;
}

void mp_conn_taken(struct mp_conn *c) {
  if (c->aside)
    forget_aside(c);
  else
    empty(&c->in);
}

bool mp_conn_pending(const struct mp_conn *c) { return c->aside || c->in.whole; }

bool mp_conn_fresh(const struct mp_conn *c) { return !c->aside && c->in.nhead == 0; }

static bool try_peek(const void *arg) {
  struct attempt *a = (struct attempt *)arg;
  char byte;
  ssize_t k = recv(a->c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  a->e = k >= 0 || (errno != EAGAIN && errno != EINTR) ? 0 : EAGAIN;
  return a->e == 0;
}

int mp_conn_poll(struct mp_conn *c, mp_time deadline) {
  struct attempt a = {c, 0, 0};
  if (mp_conn_pending(c) || try_peek(&a)) return 0;
  if (deadline == MP_NEVER) return ETIMEDOUT;
  return wait_for(&c->look_in, try_peek, &a, POLLIN, deadline);
}

/* -- sending -- */

/* Writes the frame's header; its length. */
static size_t frame(unsigned char *head, uint64_t n) {
  bool wide = n > INT32_MAX;
  size_t at = wide ? NARROW : 0, end = wide ? MP_CONN_HEAD : NARROW;
  if (wide) memset(head, 0xff, NARROW);
  for (size_t i = end; i > at; i--, n >>= 8) head[i - 1] = (unsigned char)n;
  return end;
}

void mp_conn_post(struct mp_conn *c, const void *pre, size_t npre, const void *data,
                  size_t len) {
  struct mp_post *p = &c->out;
  size_t n = frame(p->head, (uint64_t)npre + len);
  if (npre > 0) memcpy(p->head + n, pre, npre);
  p->nhead = (uint8_t)(n + npre);
  p->data = len > 0 ? data : p->head;
  p->len = len;
  p->off = 0;
  p->fds = NULL;
  p->nfds = 0;
  p->busy = true;
}

void mp_conn_post_fds(struct mp_conn *c, const int *fds, uint32_t n) {
  c->out.fds = fds;
  c->out.nfds = n;
}

bool mp_conn_posted(struct mp_conn *c) {
  struct mp_post *p = &c->out;
  bool torn = p->busy && p->off > 0 && p->off < p->nhead + p->len;
  memset(p, 0, sizeof *p);
  c->asked = true;
  return !torn;
}

static void add_fds(struct msghdr *h, const struct mp_post *p) {
  struct cmsghdr *k = h->msg_control;
  h->msg_controllen = CMSG_SPACE(p->nfds * sizeof(int));
  memset(k, 0, h->msg_controllen);
  k->cmsg_level = SOL_SOCKET;
  k->cmsg_type = SCM_RIGHTS;
  k->cmsg_len = CMSG_LEN(p->nfds * sizeof(int));
  memcpy(CMSG_DATA(k), p->fds, p->nfds * sizeof(int));
}

/* One system call for what is left. */
static ssize_t send_rest(int fd, struct mp_post *p) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MP_CONN_FDS * sizeof(int))];
  } control;
  size_t head = p->off < p->nhead ? p->nhead - p->off : 0;
  size_t past = head > 0 ? 0 : p->off - p->nhead;
  struct iovec v[2] = {{p->head + (p->nhead - head), head},
                       {(void *)(p->data + past), p->len - past}};
  struct msghdr h = {.msg_iov = v, .msg_iovlen = 2};
  if (p->nfds > 0 && p->off == 0) {
    h.msg_control = &control;
    add_fds(&h, p);
  }
  return sendmsg(fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t send_small(int fd, const struct mp_post *p) {
  unsigned char all[MP_CONN_HEAD + MP_CONN_PRE + SMALL];
  memcpy(all, p->head, p->nhead);
  memcpy(all + p->nhead, p->data, p->len);
  return send(fd, all, p->nhead + p->len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Sends what the kernel takes.  0: all is out; EAGAIN; EPIPE; other errno. */
static int push(struct mp_conn *c) {
  struct mp_post *p = &c->out;
  while (p->off < p->nhead + p->len) {
    bool small = p->off == 0 && p->len <= SMALL && p->nfds == 0;
    ssize_t k = small ? send_small(c->fd, p) : send_rest(c->fd, p);
    if (k >= 0)
      p->off += (size_t)k;
    else if (errno != EINTR)
      return errno == ECONNRESET ? EPIPE : errno;
  }
  return 0;
}

static bool try_push(const void *arg) {
  struct attempt *a = (struct attempt *)arg;
  a->e = push(a->c);
  return a->e != EAGAIN;
}

/* Moves the whole message that has arrived to those put aside. */
static bool put_aside(struct mp_conn *c) {
  struct mp_mail *m = malloc(sizeof *m);
  if (m == NULL) return false;
  *m = c->in;
  memset(&c->in, 0, sizeof c->in);
  if (c->last)
    c->last->next = m;
  else
    c->aside = m;
  c->last = m;
  c->ahead += m->len;
  return true;
}

/* While a send is blocked: takes in one message, or what is there of it, lest the
 * other side be blocked as well.  0: something may have come; EAGAIN: nothing more
 * is there; else there is no use in asking for more now (mp_conn_recv will say
 * why). */
static int read_ahead(struct mp_conn *c) {
  if (c->in.whole && !put_aside(c)) return ENOMEM;
  if (c->in.nhead == 0 && c->ahead >= AHEAD) return ENOBUFS;
  int e = pull(c, UINT64_MAX);
  return e == 0 && !put_aside(c) ? ENOMEM : e;
}

static int wait_out(struct mp_conn *c, mp_time deadline, struct attempt *a, bool *deaf) {
  int e = *deaf ? EAGAIN : read_ahead(c);
  if (e == 0) return 0;
  if (e != EAGAIN) *deaf = true;
  return wait_for(&c->look_out, try_push, a, *deaf ? POLLOUT : POLLOUT | POLLIN, deadline);
}

int mp_conn_try(struct mp_conn *c) {
  struct attempt a = {c, 0, 0};
  (void)try_push(&a);
  return a.e;
}

int mp_conn_flush(struct mp_conn *c, mp_time deadline) {
  struct attempt a = {c, 0, 0};
  bool deaf = !c->readable;
  while (!try_push(&a)) {
    bool begun = c->out.off > 0;
    if (!begun && deadline == MP_NEVER) return ETIMEDOUT;
    int e = wait_out(c, begun ? MP_FOREVER : deadline, &a, &deaf);
    if (e == ETIMEDOUT && c->out.off > 0) e = 0; /* begun while one looked */
    if (e) return e;
    if (a.e != EAGAIN) break;
  }
  return a.e;
}
