/* Ringing: descriptors that poll readable while a queue has items.
 *
 * Each watcher has a datagram socket with an abstract name that holds the family's
 * nonce; the queue lists the names, and a producer sends an empty datagram to those
 * that were not rung yet.  It sends first and notes it afterwards, so that a producer
 * killed between leaves a ring too many and none too few.  Calming reads the socket
 * whether a ring was noted or not, because of such a one, and counts up: a producer
 * that notes its ring late does so in vain.
 */
#include "../os/fd.h"
#include "qlayout.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RUNG 1u
#define RING_BATCH 16 /* watchers rung between two looks at the list */

static struct watch *watch_at(mp_ref r) { return mp_at(r); }

static socklen_t address(struct sockaddr_un *a, const char *name, uint32_t n) {
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  memcpy(a->sun_path + 1, name, n);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/* False: `from` is no socket. */
static bool ring(int from, const char *name, uint32_t n) {
  struct sockaddr_un a;
  socklen_t len = address(&a, name, n);
  return sendto(from, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&a, len) >= 0 ||
         (errno != EBADF && errno != ENOTSOCK);
}

static void hold_put(struct mp_queue *q, struct mp_member *me) {
  if (mp_lock_hold(&q->put_lock, me->word) && !is_list(q)) mp_stream_repair_put(q);
}

/* What rings come from: open from the start, since who has no descriptor left must ring
 * all the same. A child has its parent's, which bears no name. */
static _Atomic int bell = -1;

void mp_watch_setup(void) {
  int none = -1;
  if (atomic_load(&bell) >= 0) return;
  int fd = mp_fd_high(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd >= 0 && !atomic_compare_exchange_strong(&bell, &none, fd)) mp_fd_close(&fd);
}

/* The list changes under put_lock only; nobody sends while holding it. */
void mp_watch_ring(struct mp_queue *q, struct mp_member *me) {
  struct { mp_ref r; uint32_t state, n; char name[64]; } due[RING_BATCH];
  uint32_t n = 0;
  hold_put(q, me);
  for (mp_ref r = atomic_load(&q->watches); r && n < RING_BATCH; r = atomic_load(&watch_at(r)->next)) {
    struct watch *w = watch_at(r);
    due[n].state = atomic_load(&w->state);
    if (due[n].state & RUNG) continue;
    due[n].r = r;
    due[n].n = w->nname;
    memcpy(due[n++].name, w->name, sizeof w->name);
  }
  mp_lock_release(&q->put_lock);
  if (n == 0) return;
  for (uint32_t i = 0; i < n; i++) {
    if (ring(atomic_load(&bell), due[i].name, due[i].n)) continue;
    atomic_store(&bell, -1); /* a script has closed it, or there was none to be had */
    mp_watch_setup();
    (void)ring(atomic_load(&bell), due[i].name, due[i].n);
  }
  hold_put(q, me);
  for (mp_ref r = atomic_load(&q->watches); r; r = atomic_load(&watch_at(r)->next))
    for (uint32_t i = 0; i < n; i++)
      if (due[i].r == r)
        atomic_compare_exchange_strong(&watch_at(r)->state, &due[i].state, due[i].state | RUNG);
  mp_lock_release(&q->put_lock);
  if (n == RING_BATCH) mp_watch_ring(q, me);
}

static int open_socket(const char *name, uint32_t n, int *fd) {
  struct sockaddr_un a;
  socklen_t len = address(&a, name, n);
  *fd = mp_fd_high(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (*fd < 0) return errno;
  if (bind(*fd, (struct sockaddr *)&a, len) == 0) return 0;
  int e = errno;
  mp_fd_close(fd);
  return e;
}

static uint32_t make_name(char *name, size_t room, const struct mp_member *me) {
  static _Atomic uint32_t counter;
  const unsigned char *x = mp_nonce();
  int n = snprintf(name, room, "mplua-%02x%02x%02x%02x%02x%02x%02x%02x-%x-%x", x[0], x[1], x[2],
                   x[3], x[4], x[5], x[6], x[7], me->word, atomic_fetch_add(&counter, 1));
  return (uint32_t)n;
}

int mp_queue_watch(struct mp_queue *q, struct mp_member *me, struct mp_watcher *w) {
  mp_ref r;
  if (w->fd >= 0 && w->pid == me->pid) return 0;
  mp_queue_unwatch(q, me, w); /* one that was inherited is of no use */
  mp_busy(me);
  int e = mp_alloc_hard(sizeof(struct watch), MP_KIND_WATCH, true, me, &r);
  if (e) goto idle;
  struct watch *x = mp_at(r);
  x->word = me->word;
  x->nname = make_name(x->name, sizeof x->name, me);
  e = open_socket(x->name, x->nname, &w->fd);
  if (e) {
    mp_free(&r, me->word);
    goto idle;
  }
  hold_put(q, me);
  atomic_store(&x->next, atomic_load(&q->watches));
  atomic_store(&q->watches, r);
  mp_publish(r, queue_ref(q));
  mp_lock_release(&q->put_lock);
  w->pid = me->pid;
  w->watch = r;
  if (mp_queue_count(q, me) > 0) mp_watch_ring(q, me);
idle:
  mp_idle(me);
  return e;
}

void mp_queue_calm(struct mp_queue *q, struct mp_member *me, struct mp_watcher *w) {
  char byte;
  bool rung = false;
  if (w->fd < 0 || w->pid != me->pid) return;
  while (recv(w->fd, &byte, 1, MSG_DONTWAIT) > 0) rung = true;
  uint32_t s = atomic_load(&watch_at(w->watch)->state);
  if (!rung && !(s & RUNG)) return;
  atomic_store(&watch_at(w->watch)->state, (s | RUNG) + 1);
  if (mp_queue_count(q, me) > 0) mp_watch_ring(q, me);
}

/* Takes the watches out that `gone` tells. */
static void cut(struct mp_queue *q, struct mp_member *me, bool (*gone)(mp_ref r, uint32_t arg),
                uint32_t arg) {
  mp_busy(me);
  hold_put(q, me);
  _Atomic uint32_t *link = &q->watches;
  for (mp_ref r; (r = atomic_load(link)) != 0;) {
    if (!gone(r, arg)) {
      link = &watch_at(r)->next;
      continue;
    }
    mp_adopt(r, me->word);
    atomic_store(link, atomic_load(&watch_at(r)->next));
    mp_free(&r, me->word);
  }
  mp_lock_release(&q->put_lock);
  mp_idle(me);
}

static bool is_it(mp_ref r, uint32_t arg) { return r == arg; }
static bool is_of(mp_ref r, uint32_t word) { return watch_at(r)->word == word; }

/* Of an inherited one only the descriptor is ours. */
void mp_queue_unwatch(struct mp_queue *q, struct mp_member *me, struct mp_watcher *w) {
  if (w->fd < 0) return;
  if (w->pid == me->pid && w->watch) cut(q, me, is_it, w->watch);
  mp_fd_close(&w->fd);
  w->watch = 0;
}

void mp_watch_died(struct mp_queue *q, uint32_t word, struct mp_member *me) {
  if (atomic_load(&q->watches)) cut(q, me, is_of, word);
}

void mp_watch_trace(struct mp_queue *q) {
  for (mp_ref r = atomic_load(&q->watches); r; r = atomic_load(&watch_at(r)->next))
    mp_mark_part(r, queue_ref(q));
}

void mp_watch_destroy(struct mp_queue *q, struct mp_member *me) {
  for (mp_ref r = atomic_load(&q->watches), next; r; r = next) {
    next = atomic_load(&watch_at(r)->next);
    mp_free(&r, me->word);
  }
}
