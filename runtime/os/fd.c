/* Descriptors. */
#include "fd.h"
#include "wait.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#define LOWEST_FD 10 /* ours stay clear of what shells and scripts number */

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
