/* Processes: what a child sets up before it runs, watching and reaping, and what the
 * kernel says about this one.
 */
#ifndef MP_OS_PROC_H
#define MP_OS_PROC_H
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* What a child is born with.
 * detach: it does not die with its parent and has a session of its own.
 * by_thread: another thread than the first one of the parent forks it.
 * stream: descriptors that become its 0, 1 and 2; -1: as the parent's, but /dev/null
 *   for 0.  Above 2, close-on-exec, the parent's to close after the fork.
 * cpus: the processors that it may use, when `pinned`.
 * nice: added to its niceness.   memory: limit of its private memory, 0 none. */
struct mp_birth {
  bool detach, by_thread;
  bool pinned;
  int stream[3];
  int nice;
  size_t memory;
  cpu_set_t cpus;
};

/* What did not work of a birth; `what` is static text ("pin to its processors"). */
struct mp_trouble {
  int err;
  const char *what;
};

/* In the parent: opens `path` for the stream `i` of a child (0: to read; others: to
 * write, emptied) or makes a copy of `fd`.  The descriptor is above 2 and
 * close-on-exec.  0 or errno. */
int mp_birth_open(struct mp_birth *b, int i, const char *path);
int mp_birth_copy(struct mp_birth *b, int i, int fd);
void mp_birth_close(struct mp_birth *b);

/* In the child, first of all: it dies with `parent` unless detached.  Does not return
 * when the parent has died already.  *mask, which the child will have, is changed to let
 * the news of that through. */
void mp_birth_bind(const struct mp_birth *b, pid_t parent, sigset_t *mask);
/* In the child, all signals blocked: every signal that has a handler goes back to its
 * default; what is ignored stays ignored. */
void mp_birth_signals(void);
/* In the child: streams, processors, niceness, memory.  Stops at the first trouble. */
struct mp_trouble mp_birth_apply(const struct mp_birth *b);
/* mp_birth_apply can have trouble that the parent should hear of. */
bool mp_birth_risky(const struct mp_birth *b);

/* A channel for one mp_trouble from child to parent: two descriptors.  0 or errno. */
int mp_trouble_open(int fd[2]);
/* The child's side: says it (err 0: none) and closes. */
void mp_trouble_tell(int fd[2], const struct mp_trouble *t);
/* The parent's side: waits for it and closes; a child that died says EPIPE. */
struct mp_trouble mp_trouble_hear(int fd[2]);

/* Reaps a child that ended, without waiting: 0 and its exit code in *code (-N: signal
 * N ended it); EAGAIN: it runs; ECHILD: it is no child of ours, or was reaped by
 * somebody else or by the kernel (SIGCHLD ignored). */
int mp_proc_reap(pid_t pid, int *code);
/* Some child of this process has ended and was not reaped. */
bool mp_proc_any_ended(void);

/* A descriptor that polls readable when the process ends.  0 or errno. */
int mp_proc_watch(pid_t pid, int *fd);

/* How many processors the calling thread may use; 0 when the kernel does not say. */
int mp_proc_cpus(void);

/* Ends this process by `sig`, so that its parent sees that. Does not return. */
void mp_proc_die(int sig) __attribute__((noreturn));

#endif
