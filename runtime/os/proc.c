/* Births, watching and reaping. */
#include "proc.h"
#include "fd.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOWEST_FD 10      /* where fd.c puts ours */
#define CPUS_MAX (1 << 16) /* more processors than any kernel is built for */

/* ---- streams -------------------------------------------------------------------- */

int mp_birth_open(struct mp_birth *b, int i, const char *path) {
  int flags = i == 0 ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC, fd;
  do fd = open(path, flags | O_CLOEXEC, 0666);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) return errno;
  fd = mp_fd_high(fd);
  if (fd < 0) return errno;
  b->stream[i] = fd;
  return 0;
}

int mp_birth_copy(struct mp_birth *b, int i, int fd) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, LOWEST_FD);
  if (copy < 0) return errno == EINVAL ? EMFILE : errno; /* EINVAL: the limit is below 10 */
  b->stream[i] = copy;
  return 0;
}

void mp_birth_close(struct mp_birth *b) {
  for (int i = 0; i < 3; i++) mp_fd_close(&b->stream[i]);
}

/* Where there is no /dev/null, the read end of a pipe that nobody writes reads the
 * same.  Stream 0 is closed first: it may be the last descriptor that is to be had. */
static int put_nothing(void) {
  int end[2];
  (void)close(0);
  if (open("/dev/null", O_RDONLY) == 0) return 0;
  if (pipe(end) != 0) return errno; /* programs that it runs are to have it too */
  mp_fd_close(&end[1]);
  return end[0] == 0 || dup2(end[0], 0) == 0 ? 0 : errno;
}

/* `fd` becomes stream `i`; the copy is not close-on-exec. */
static int put_stream(int fd, int i) {
  if (dup2(fd, i) < 0) return errno;
  (void)close(fd);
  return 0;
}

static int put_streams(const struct mp_birth *b) {
  int e = b->stream[0] < 0 ? put_nothing() : 0;
  for (int i = 0; i < 3 && !e; i++)
    if (b->stream[i] >= 0) e = put_stream(b->stream[i], i);
  return e;
}

/* ---- births ---------------------------------------------------------------------- */

/* The kernel sends the signal of a parent's death when the THREAD that forked ends, and
 * again with each thread that then stands in for it.  The first thread of a process ends
 * with it, nearly always: SIGKILL, which nothing keeps off.  A child of another thread
 * gets a signal that it can look into: is the parent still there? */
#define ORPHAN_SIGNAL (SIGRTMAX - 1)
static pid_t bound_to;

static void on_orphan(int sig) {
  (void)sig;
  if (getppid() != bound_to) (void)kill(getpid(), SIGKILL);
}

static void bind_to_process(pid_t parent, sigset_t *mask) {
  struct sigaction a;
  sigemptyset(&a.sa_mask);
  a.sa_handler = on_orphan;
  a.sa_flags = SA_RESTART;
  bound_to = parent;
  (void)sigaction(ORPHAN_SIGNAL, &a, NULL);
  sigdelset(mask, ORPHAN_SIGNAL);
}

/* The signal is asked for first and the parent looked at then: one that died in between
 * is seen. */
void mp_birth_bind(const struct mp_birth *b, pid_t parent, sigset_t *mask) {
  if (b->detach) {
    (void)setsid();
    return;
  }
  if (b->by_thread) bind_to_process(parent, mask);
  (void)prctl(PR_SET_PDEATHSIG, b->by_thread ? ORPHAN_SIGNAL : SIGKILL);
  if (getppid() != parent) _exit(128 + SIGKILL);
}

void mp_birth_signals(void) {
  struct sigaction a;
  for (int sig = 1; sig < _NSIG; sig++) {
    if (sigaction(sig, NULL, &a) != 0) continue;
    if (!(a.sa_flags & SA_SIGINFO) &&
        (a.sa_handler == SIG_DFL || a.sa_handler == SIG_IGN || a.sa_handler == on_orphan))
      continue;
    a.sa_handler = SIG_DFL;
    a.sa_flags = 0;
    (void)sigaction(sig, &a, NULL);
  }
}

bool mp_birth_risky(const struct mp_birth *b) {
  return b->pinned || b->nice != 0 || b->memory != 0;
}

static int lower(int by) {
  errno = 0; /* -1 is a niceness too */
  return nice(by) == -1 ? errno : 0;
}

static int limit_memory(size_t bytes) {
  struct rlimit r = {bytes, bytes};
  return setrlimit(RLIMIT_DATA, &r) != 0 ? errno : 0;
}

struct mp_trouble mp_birth_apply(const struct mp_birth *b) {
  struct mp_trouble t = {put_streams(b), "set up its standard streams"};
  if (!t.err && b->pinned) {
    t.what = "pin it to its processors";
    if (sched_setaffinity(0, sizeof b->cpus, &b->cpus) != 0) t.err = errno;
  }
  if (!t.err && b->nice) {
    t.what = "change its niceness";
    t.err = lower(b->nice);
  }
  if (!t.err && b->memory) {
    t.what = "limit its memory";
    t.err = limit_memory(b->memory);
  }
  return t;
}

/* ---- trouble ----------------------------------------------------------------------- */

int mp_trouble_open(int fd[2]) {
  if (pipe2(fd, O_CLOEXEC) != 0) return errno;
  for (int i = 0; i < 2; i++)
    if ((fd[i] = mp_fd_high(fd[i])) < 0) {
      int e = errno;
      mp_fd_close(&fd[1 - i]);
      return e;
    }
  return 0;
}

/* Parent and child are one program: a pointer to static text means the same. */
void mp_trouble_tell(int fd[2], const struct mp_trouble *t) {
  (void)mp_fd_write_all(fd[1], t, sizeof *t);
  mp_fd_close(&fd[0]);
  mp_fd_close(&fd[1]);
}

struct mp_trouble mp_trouble_hear(int fd[2]) {
  struct mp_trouble t;
  ssize_t n;
  mp_fd_close(&fd[1]);
  do n = read(fd[0], &t, sizeof t);
  while (n < 0 && errno == EINTR);
  mp_fd_close(&fd[0]);
  if (n != sizeof t) t = (struct mp_trouble){EPIPE, "set it up"};
  return t;
}

/* ---- ends --------------------------------------------------------------------------- */

int mp_proc_reap(pid_t pid, int *code) {
  int status;
  pid_t p = waitpid(pid, &status, WNOHANG);
  if (p == 0) return EAGAIN;
  if (p < 0) return errno;
  *code = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  return 0;
}

bool mp_proc_any_ended(void) {
  siginfo_t info;
  info.si_pid = 0;
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

int mp_proc_watch(pid_t pid, int *fd) {
  int p = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec from birth */
  if (p < 0) return errno;
  p = mp_fd_high(p);
  if (p < 0) return errno;
  *fd = p;
  return 0;
}

void mp_proc_die(int sig) {
  sigset_t set;
  signal(sig, SIG_DFL);
  sigemptyset(&set);
  sigaddset(&set, sig);
  raise(sig);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
  _exit(128 + sig); /* a first process of a container does not die of it */
}

/* The kernel's mask may be larger than cpu_set_t: it says EINVAL then. */
int mp_proc_cpus(void) {
  for (int n = CPU_SETSIZE; n <= CPUS_MAX; n *= 2) {
    cpu_set_t *set = CPU_ALLOC((size_t)n);
    size_t size = CPU_ALLOC_SIZE((size_t)n);
    if (!set) return 0;
    int e = sched_getaffinity(0, size, set) == 0 ? 0 : errno;
    int count = e ? 0 : CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (e != EINVAL) return count;
  }
  return 0;
}
