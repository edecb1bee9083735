/* Whether a process lives: pidfd first, /proc for who bears the number. */
#include "life.h"
#include "fd.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define START_SLACK_NS 20000000 /* start times are counted in ticks of 10 ms */

int64_t mp_boottime(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* State letter and start time of a process; false when /proc does not tell. */
static bool read_stat(pid_t pid, char *state, int64_t *start) {
  char path[32], line[512];
  unsigned long long ticks;
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *f = fopen(path, "re");
  if (!f) return false;
  size_t n = fread(line, 1, sizeof line - 1, f);
  fclose(f);
  line[n] = 0;
  const char *p = strrchr(line, ')'); /* the name may hold anything */
  if (!p || sscanf(p + 2, "%c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                          "%*d %*d %*d %llu", state, &ticks) != 2)
    return false;
  *start = (int64_t)(ticks * (1000000000ull / (unsigned long long)sysconf(_SC_CLK_TCK)));
  return true;
}

bool mp_process_gone(pid_t pid, int64_t start) {
  if (pid <= 0) return true;
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0 && errno == ESRCH) return true;
  if (fd >= 0) {
    struct pollfd p = {fd, POLLIN, 0};
    bool ended = poll(&p, 1, 0) > 0;
    mp_fd_close(&fd);
    if (ended) return true;
  } else if (kill(pid, 0) != 0 && errno == ESRCH) {
    return true;
  }
  char state;
  int64_t began;
  if (!read_stat(pid, &state, &began)) return false;
  return state == 'Z' || state == 'X' || (start != 0 && began > start + START_SLACK_NS);
}
