/* A connection: messages over a stream socket, framed as CPython frames them: the
 * length in 4 bytes, big-endian (or -1 and 8 bytes when it is above 2^31-1), then
 * the bytes.
 *
 * Private to a process.  A message that a time-out or a signal cuts short stays
 * where it was: the next call goes on.  Nothing is read beyond the message asked
 * for, so that a connection can be handed to another process between messages;
 * only a send that is blocked reads ahead (two processes that send to each other
 * at once would wait for each other for ever), and puts whole messages aside.
 *
 * The descriptor stays in blocking mode (its description is shared with forks);
 * each call says MSG_DONTWAIT and waits in slices.
 */
#ifndef MP_IPC_CONN_H
#define MP_IPC_CONN_H
#include "../os/clock.h"
#include "../os/wait.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MP_CONN_FDS 253  /* descriptors a message can carry: the kernel's limit */
#define MP_CONN_PRE 24   /* bytes of a prefix that go before the payload, at most */
#define MP_CONN_HEAD 12  /* the longest frame header */

/* A message that arrives.  head..nhead: its header as far as it is there.  len:
 * valid when `sized`.  data: `got` bytes of it, malloc'd, `cap` of room, which
 * grows as bytes come: a length alone makes nobody allocate.  fds: descriptors that
 * came along, owned.  cut: some did not fit under the limit of open files. */
struct mp_mail {
  struct mp_mail *next;
  uint64_t len;
  unsigned char *data;
  size_t got, cap;
  int *fds;
  uint32_t nfds;
  unsigned char head[MP_CONN_HEAD];
  uint8_t nhead;
  bool sized, whole, cut;
};

/* A message on its way out.  head: the frame's header and the prefix.  data and fds
 * belong to the caller.  off: bytes of head and data that the kernel has. */
struct mp_post {
  const unsigned char *data;
  size_t len, off;
  const int *fds;
  uint32_t nfds;
  uint8_t nhead;
  bool busy;
  unsigned char head[MP_CONN_HEAD + MP_CONN_PRE];
};

/* fd: -1 once closed.  plain: descriptors that come along are dropped.  max: the
 * longest message that is received.  in: the message that is arriving.  asked:
 * something was sent since the last recv: an answer is likely, and not there yet.
 * aside, last, ahead: whole messages that came before `in`, and their bytes. */
struct mp_conn {
  int fd;
  bool readable, writable, plain, asked;
  struct mp_look look_in, look_out;
  uint64_t max;
  struct mp_mail in;
  struct mp_mail *aside, *last;
  uint64_t ahead;
  struct mp_post out;
};

/* Two connected ends; the first only receives and the second only sends when not
 * `duplex`.  Both are filled.  0 or errno. */
int mp_conn_pair(struct mp_conn *a, struct mp_conn *b, bool duplex);

/* Makes a connection of a stream socket, which it owns from now on. */
void mp_conn_open(struct mp_conn *c, int fd, bool readable, bool writable);

/* Closes the descriptor; what has arrived stays. */
void mp_conn_hang_up(struct mp_conn *c);
/* Closes and frees everything.  Idempotent. */
void mp_conn_close(struct mp_conn *c);

/* Gets ready to send: a prefix of `npre` bytes (copied), then `len` bytes of data,
 * which stay the caller's and in place until mp_conn_posted. */
void mp_conn_post(struct mp_conn *c, const void *pre, size_t npre, const void *data,
                  size_t len);
/* Descriptors to go with it. */
void mp_conn_post_fds(struct mp_conn *c, const int *fds, uint32_t n);
/* Sends it.  0: all of it is out.  ETIMEDOUT: nothing is (once the first byte is
 * out the deadline does not count).  EINTR: call again with the same deadline.
 * EPIPE: the other end is closed.  Other errno. */
int mp_conn_flush(struct mp_conn *c, mp_time deadline);
/* The same without any waiting.  EAGAIN: not all of it is out; call again once the
 * descriptor is writable. */
int mp_conn_try(struct mp_conn *c);
/* Forgets the message, sent or not.  False: it was cut in the middle, and the other
 * side will never find the next one: close the connection. */
bool mp_conn_posted(struct mp_conn *c);

/* Receives a message, which stays the next one until mp_conn_taken.  0; EINTR: call
 * again with the same deadline; ETIMEDOUT; ENODATA: the other end is closed;
 * EBADMSG: it was closed inside the message; EMSGSIZE: longer than `max` (*m is
 * filled); EPROTO: not a frame; ENOMEM; other errno. */
int mp_conn_recv(struct mp_conn *c, uint64_t max, mp_time deadline, struct mp_mail **m);
/* Forgets the message; what it still owns is freed. */
void mp_conn_taken(struct mp_conn *c);

/* Waits until recv would have something to do: bytes, a message put aside, or the
 * end.  0, EINTR, ETIMEDOUT or errno. */
int mp_conn_poll(struct mp_conn *c, mp_time deadline);
/* A whole message is in memory: the descriptor need not be readable. */
bool mp_conn_pending(const struct mp_conn *c);
/* Nothing of any message is in memory: the descriptor tells all. */
bool mp_conn_fresh(const struct mp_conn *c);

#endif
