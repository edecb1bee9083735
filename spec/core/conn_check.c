/* Drives connections and the tickets of pipes without Lua: frames byte by byte,
 * hostile lengths, ends in the middle, two processes that send to each other at once,
 * descriptors, and processes killed after every single instruction between a ticket's
 * birth and its end. */
#include "ipc/conn.h"
#include "ipc/pipe.h"
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

/* ---- helpers ------------------------------------------------------------- */

/* A core call with EINTR taken away. */
static int send_all(struct mp_conn *c, const void *pre, size_t npre, const void *data,
                    size_t n, mp_time deadline) {
  int e;
  mp_conn_post(c, pre, npre, data, n);
  do e = mp_conn_flush(c, deadline);
  while (e == EINTR);
  CHECK(mp_conn_posted(c));
  return e;
}

static int receive(struct mp_conn *c, uint64_t max, mp_time deadline, struct mp_mail **m) {
  int e;
  do e = mp_conn_recv(c, max, deadline, m);
  while (e == EINTR);
  return e;
}

#define SOON (mp_deadline(10))
#define NOW MP_NEVER
#define ANY UINT64_MAX

static unsigned char *pattern(size_t n, unsigned seed) {
  unsigned char *p = malloc(n + 1);
  for (size_t i = 0; i < n; i++) p[i] = (unsigned char)(i * 31 + i / 251 + seed);
  return p;
}

static int open_fds(void) {
  int n = 0;
  for (int fd = 0; fd < 1024; fd++) n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

/* ---- frames -------------------------------------------------------------- */

static void check_bytes_on_the_wire(void) {
  static const size_t sizes[] = {0, 1, 1023, 1024, 1025, 16384, 16385};
  struct mp_conn a, b;
  CHECK(mp_conn_pair(&a, &b, true) == 0);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    size_t n = sizes[i];
    unsigned char *p = pattern(n, 1), *got = malloc(n + 7);
    CHECK(send_all(&a, "pre", 3, p, n, SOON) == 0);
    CHECK(recv(b.fd, got, n + 7, MSG_WAITALL) == (ssize_t)n + 7);
    unsigned char head[4] = {0, 0, (unsigned char)((n + 3) >> 8), (unsigned char)(n + 3)};
    CHECK(memcmp(got, head, 4) == 0 && memcmp(got + 4, "pre", 3) == 0);
    CHECK(memcmp(got + 7, p, n) == 0);
    free(p);
    free(got);
  }
  mp_conn_close(&a);
  mp_conn_close(&b);
  CHECK(a.fd == -1 && b.fd == -1);
}

static void check_byte_by_byte(void) {
  static const char frames[] = "\0\0\0\3abc" "\xff\xff\xff\xff\0\0\0\0\0\0\0\2xy" "\0\0\0\0";
  static const struct { size_t end; const char *text; } want[] = {
      {7, "abc"}, {21, "xy"}, {25, ""}};
  struct mp_conn a, b;
  struct mp_mail *m;
  int message = 0;
  CHECK(mp_conn_pair(&a, &b, true) == 0);
  CHECK(mp_conn_fresh(&b));
  for (size_t i = 0; i < sizeof frames - 1; i++) {
    CHECK(receive(&b, ANY, NOW, &m) == ETIMEDOUT);
    CHECK(write(a.fd, frames + i, 1) == 1);
    CHECK(mp_conn_poll(&b, NOW) == 0);
    if (i + 1 < want[message].end) continue;
    CHECK(receive(&b, ANY, NOW, &m) == 0);
    CHECK(m->got == strlen(want[message].text));
    CHECK(memcmp(m->data, want[message].text, m->got) == 0);
    CHECK(mp_conn_pending(&b) && !mp_conn_fresh(&b) && mp_conn_poll(&b, NOW) == 0);
    mp_conn_taken(&b);
    CHECK(!mp_conn_pending(&b) && mp_conn_fresh(&b) && mp_conn_poll(&b, NOW) == ETIMEDOUT);
    message++;
  }
  CHECK(message == 3);
  mp_conn_close(&a);
  CHECK(mp_conn_poll(&b, NOW) == 0);
  CHECK(receive(&b, ANY, NOW, &m) == ENODATA && receive(&b, ANY, SOON, &m) == ENODATA);
  mp_conn_close(&b);
}

/* What is said when exactly these bytes came and then the end. */
static int verdict(const char *bytes, size_t n, uint64_t max, size_t *cap) {
  struct mp_conn a, b;
  struct mp_mail *m;
  CHECK(mp_conn_pair(&a, &b, true) == 0);
  CHECK(write(a.fd, bytes, n) == (ssize_t)n);
  if (cap) CHECK(receive(&b, max, NOW, &m) == ETIMEDOUT);
  if (cap) *cap = b.in.cap;
  mp_conn_close(&a);
  int e = receive(&b, max, SOON, &m);
  CHECK(receive(&b, max, SOON, &m) == e); /* and it is said again */
  mp_conn_close(&b);
  return e;
}

static void check_ends_and_lengths(void) {
  size_t cap = 0;
  CHECK(verdict("", 0, ANY, NULL) == ENODATA);
  CHECK(verdict("\0", 1, ANY, NULL) == EBADMSG);
  CHECK(verdict("\0\0\0\1", 4, ANY, NULL) == EBADMSG);
  CHECK(verdict("\0\0\0\2a", 5, ANY, NULL) == EBADMSG);
  CHECK(verdict("\xff\xff\xff\xff\0", 5, ANY, NULL) == EBADMSG);
  CHECK(verdict("\xff\xff\xff\xfe", 4, ANY, NULL) == EPROTO);
  CHECK(verdict("\x80\0\0\0", 4, ANY, NULL) == EPROTO);
  CHECK(verdict("\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", 12, ANY, NULL) == EPROTO);
  CHECK(verdict("\0\0\0\5", 4, 4, NULL) == EMSGSIZE);
  CHECK(verdict("\x7f\xff\xff\xff!", 5, ANY, &cap) == EBADMSG);
  CHECK(cap <= 1 << 20); /* two gigabytes announced, one byte sent */
  CHECK(verdict("\xff\xff\xff\xff\x0f\0\0\0\0\0\0\0!", 13, ANY, &cap) == EBADMSG);
  CHECK(cap <= 1 << 20);
}

/* ---- waiting ------------------------------------------------------------- */

static void check_full_buffer(void) {
  struct mp_conn a, b;
  struct mp_mail *m;
  unsigned char *p = pattern(300, 2);
  int sent = 0, got = 0;
  CHECK(mp_conn_pair(&a, &b, false) == 0);
  CHECK(a.readable && !a.writable && b.writable && !b.readable);
  while (send_all(&b, NULL, 0, p, 300, NOW) == 0) sent++;
  CHECK(sent > 10);
  mp_time start = mp_now();
  CHECK(send_all(&b, NULL, 0, p, 300, mp_deadline(0.3)) == ETIMEDOUT);
  CHECK(mp_now() - start >= 290000000);
  while (receive(&a, ANY, NOW, &m) == 0) {
    CHECK(m->got == 300 && memcmp(m->data, p, 300) == 0);
    mp_conn_taken(&a);
    got++;
  }
  CHECK(got == sent);
  mp_conn_close(&a);
  CHECK(send_all(&b, NULL, 0, p, 300, SOON) == EPIPE);
  mp_conn_close(&b);
  free(p);
}

#define BIG (4u << 20)
#define EACH 3

static struct mp_conn here, there;

/* Sends all, then receives all: with buffers of a few hundred KiB both sides would
 * wait for ever if neither took in what the other sends. */
static void exchange(struct mp_conn *c, unsigned mine, unsigned theirs) {
  struct mp_mail *m;
  for (unsigned i = 0; i < EACH; i++) {
    unsigned char *p = pattern(BIG + i, mine + i);
    CHECK(send_all(c, NULL, 0, p, BIG + i, mp_deadline(60)) == 0);
    free(p);
  }
  for (unsigned i = 0; i < EACH; i++) {
    unsigned char *p = pattern(BIG + i, theirs + i);
    CHECK(receive(c, ANY, mp_deadline(60), &m) == 0);
    CHECK(m->got == BIG + i && memcmp(m->data, p, m->got) == 0);
    mp_conn_taken(c);
    free(p);
  }
  CHECK(mp_conn_fresh(c) && c->in.cap <= 64 * 1024);
}

static void other_side(void) {
  mp_conn_close(&here);
  exchange(&there, 100, 200);
  mp_conn_close(&there);
}

static void check_both_ways(void) {
  CHECK(mp_conn_pair(&here, &there, true) == 0);
  struct child c = start(other_side);
  mp_conn_close(&there);
  exchange(&here, 200, 100);
  CHECK(finish(c, 0) == 0);
  mp_conn_close(&here);
}

/* ---- descriptors --------------------------------------------------------- */

static void check_descriptors(void) {
  struct mp_conn a, b;
  struct mp_mail *m;
  struct rlimit old, low;
  int base = open_fds(), p[2], fds[2];
  char byte = 0;
  CHECK(mp_conn_pair(&a, &b, true) == 0 && pipe(p) == 0);
  fds[0] = p[1];
  fds[1] = p[0];
  mp_conn_post(&a, NULL, 0, "with", 4);
  mp_conn_post_fds(&a, fds, 2);
  CHECK(mp_conn_flush(&a, SOON) == 0 && mp_conn_posted(&a));
  CHECK(send_all(&a, NULL, 0, "without", 7, SOON) == 0);
  CHECK(receive(&b, ANY, SOON, &m) == 0 && m->nfds == 2 && !m->cut && m->got == 4);
  CHECK(fcntl(m->fds[0], F_GETFD) & FD_CLOEXEC && m->fds[0] > 2);
  CHECK(write(m->fds[0], "!", 1) == 1 && read(m->fds[1], &byte, 1) == 1 && byte == '!');
  mp_conn_taken(&b);
  CHECK(receive(&b, ANY, SOON, &m) == 0 && m->nfds == 0 && m->got == 7);
  mp_conn_taken(&b);
  CHECK(open_fds() == base + 4);
  /* no room for what comes: said, and the message and the stream are whole */
  mp_conn_post(&a, NULL, 0, "with", 4);
  mp_conn_post_fds(&a, fds, 2);
  CHECK(mp_conn_flush(&a, SOON) == 0 && mp_conn_posted(&a));
  getrlimit(RLIMIT_NOFILE, &old);
  low = (struct rlimit){3, old.rlim_max};
  setrlimit(RLIMIT_NOFILE, &low);
  CHECK(receive(&b, ANY, SOON, &m) == 0 && m->cut && m->got == 4);
  setrlimit(RLIMIT_NOFILE, &old);
  mp_conn_taken(&b);
  mp_conn_close(&a);
  CHECK(receive(&b, ANY, SOON, &m) == ENODATA);
  mp_conn_close(&b);
  close(p[0]);
  close(p[1]);
  CHECK(open_fds() == base);
}

/* ---- tickets ------------------------------------------------------------- */

struct object {
  struct mp_object head;
  char rest[100];
};

static size_t blocks(enum mp_kind kind) {
  struct mp_arena_stats s;
  mp_arena_stats(&s, me.word);
  return s.blocks[kind];
}

static mp_ref the_pipe, object[3];
static uint32_t pipe_entry[2], object_entry[3];

static void make_pipe(void) {
  CHECK(mp_pipe_make(&me, &the_pipe, pipe_entry) == 0);
  for (int i = 0; i < 3; i++)
    CHECK(mp_object_make(sizeof(struct object), MP_KIND_VALUE, &me, NULL, NULL,
                         &object_entry[i], &object[i]) == 0);
}

static void drop_objects(void) {
  for (int i = 0; i < 3; i++) mp_drop(object_entry[i], &me);
}

static void drop_pipe(void) {
  for (int i = 0; i < 2; i++) mp_drop(pipe_entry[i], &me);
}

static bool nothing_left(void) {
  return blocks(MP_KIND_PIPE) + blocks(MP_KIND_VALUE) + blocks(MP_KIND_TICKET) == 0;
}

static void check_tickets(void) {
  struct mp_claim first, second, third, wrong;
  mp_ref refs[3];
  uint32_t entries[3];
  make_pipe();
  CHECK(mp_pipe_leave(the_pipe, object, 3, &me, &first) == 0);
  CHECK(mp_pipe_leave(the_pipe, object + 1, 1, &me, &second) == 0);
  CHECK(mp_pipe_leave(the_pipe, object + 2, 1, &me, &third) == 0);
  drop_objects();
  CHECK(blocks(MP_KIND_VALUE) == 3 && blocks(MP_KIND_TICKET) == 3);
  mp_collect(&me);
  CHECK(blocks(MP_KIND_VALUE) == 3 && blocks(MP_KIND_TICKET) == 3);
  wrong = second;
  wrong.number++;
  CHECK(mp_pipe_redeem(the_pipe, &wrong, &me, refs, entries) == ESTALE);
  wrong = second;
  wrong.n = 2;
  CHECK(mp_pipe_redeem(the_pipe, &wrong, &me, refs, entries) == ESTALE);
  wrong.ticket = object[0];
  CHECK(mp_pipe_redeem(the_pipe, &wrong, &me, refs, entries) == ESTALE);
  CHECK(mp_pipe_redeem(the_pipe, &second, &me, refs, entries) == 0 && refs[0] == object[1]);
  CHECK(mp_pipe_redeem(the_pipe, &second, &me, refs + 1, entries + 1) == ESTALE);
  mp_pipe_withdraw(the_pipe, &first, &me);
  CHECK(blocks(MP_KIND_VALUE) == 2 && blocks(MP_KIND_TICKET) == 1);
  mp_drop(entries[0], &me);
  CHECK(blocks(MP_KIND_VALUE) == 1);
  drop_pipe(); /* the last ticket goes with it */
  CHECK(nothing_left());
}

static void check_pipe_in_itself(void) {
  struct mp_claim claim;
  make_pipe();
  drop_objects();
  CHECK(mp_pipe_leave(the_pipe, &the_pipe, 1, &me, &claim) == 0);
  drop_pipe();
  mp_collect(&me);
  CHECK(nothing_left());
}

/* ---- killed at every instruction ----------------------------------------- */

static struct mp_claim left_before;

/* A life of tickets: one left and redeemed, one withdrawn, one of before redeemed. */
static void op_tickets(void) {
  struct mp_claim a, b;
  mp_ref refs[3];
  uint32_t entries[3];
  if (mp_pipe_leave(the_pipe, object, 3, &me, &a) != 0) return;
  if (mp_pipe_leave(the_pipe, object, 2, &me, &b) != 0) return;
  (void)mp_pipe_redeem(the_pipe, &a, &me, refs, entries);
  mp_pipe_withdraw(the_pipe, &b, &me);
  (void)mp_pipe_redeem(the_pipe, &left_before, &me, refs, entries);
}

/* The pipe works, nothing is lost that somebody refers to, nothing else is left. */
static void see_tickets(void) {
  struct mp_claim again;
  mp_ref refs[3];
  uint32_t entries[3];
  if (running_point % 2 == 0) mp_collect(&me); /* nobody has buried it */
  CHECK(blocks(MP_KIND_VALUE) == 3 && blocks(MP_KIND_PIPE) == 1);
  CHECK(mp_pipe_leave(the_pipe, object, 1, &me, &again) == 0);
  CHECK(mp_pipe_redeem(the_pipe, &again, &me, refs, entries) == 0 && refs[0] == object[0]);
  mp_drop(entries[0], &me);
  drop_objects();
  drop_pipe();
  CHECK(nothing_left());
}

static void prepare_tickets(void) {
  make_pipe();
  CHECK(mp_pipe_leave(the_pipe, object, 3, &me, &left_before) == 0);
}

int main(void) {
  int e = mp_member_open(&me, "check");
  if (e) {
    printf("conn_check: no family: %s\n", strerror(e));
    return 1;
  }
  mp_pipe_setup();
  int base = open_fds();
  check_bytes_on_the_wire();
  check_byte_by_byte();
  check_ends_and_lengths();
  check_full_buffer();
  check_both_ways();
  check_descriptors();
  check_tickets();
  check_pipe_in_itself();
  crash_all("tickets", prepare_tickets, op_tickets, see_tickets);
  CHECK(open_fds() == base);
  mp_member_close(&me, -1);
  return report("conn_check");
}
