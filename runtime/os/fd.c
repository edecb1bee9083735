/* Descriptors. */
#include "fd.h"
#include "wait.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <unistd.h>

#define LOWEST_FD 10 /* ours stay clear of what shells and scripts number */

/* Numbers from here on are not noted: nobody has so many. */
#define OWNED_MAX 65536
static _Atomic uint32_t owners[OWNED_MAX];
static _Atomic int owned_end; /* no number from here on has an owner */

void mp_fd_own(int fd, uint32_t owner) {
  if (fd < 0 || fd >= OWNED_MAX) return;
  atomic_store_explicit(&owners[fd], owner, memory_order_relaxed);
  int end = atomic_load_explicit(&owned_end, memory_order_relaxed);
  while (owner && end <= fd && !atomic_compare_exchange_weak(&owned_end, &end, fd + 1)) {}
}

void mp_fd_leave(uint32_t owner, uint32_t child) {
  int end = atomic_load_explicit(&owned_end, memory_order_relaxed);
  for (int fd = 0; fd < end; fd++) {
    uint32_t o = atomic_load_explicit(&owners[fd], memory_order_relaxed);
    if (o == 0) continue;
    atomic_store_explicit(&owners[fd], o == owner ? child : 0, memory_order_relaxed);
    if (o != owner) (void)close(fd);
  }
}

void mp_fd_close(int *fd) {
  if (*fd < 0) return;
  int e = errno;
  (void)close(*fd); /* Linux frees the number even on EINTR */
  errno = e;
  *fd = -1;
}

int mp_fd_high(int fd) {
  if (fd < 0 || fd >= LOWEST_FD) return fd;
  int high = fcntl(fd, F_DUPFD_CLOEXEC, LOWEST_FD);
  if (high < 0 && fd > 2) return fd; /* a low limit on descriptors: keep it */
  mp_fd_close(&fd);
  return high;
}

int mp_fd_wait(int fd, short events, mp_time deadline) {
  mp_time now = mp_now(), until = now + MP_SLICE_NS;
  if (deadline < until) until = deadline;
  struct pollfd p = {fd, events, 0};
  int ms = now >= until ? 0 : (int)((until - now + 999999) / 1000000);
  int n = poll(&p, 1, ms);
  if (n > 0) return p.revents & POLLNVAL ? EBADF : 0;
  if (n < 0) return errno;
  return until == deadline ? ETIMEDOUT : EINTR;
}

int mp_fd_write_all(int fd, const void *data, size_t n) {
  for (const char *p = data; n > 0;) {
    ssize_t k = write(fd, p, n);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return errno;
    p += k;
    n -= (size_t)k;
  }
  return 0;
}
