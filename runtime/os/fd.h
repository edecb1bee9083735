/* Descriptors: close-on-exec from birth, EINTR decided here. */
#ifndef MP_OS_FD_H
#define MP_OS_FD_H
#include "clock.h"
#include <stddef.h>

/* Closes *fd and leaves -1 in it; accepts -1. */
void mp_fd_close(int *fd);

/* Moves a descriptor out of the way of 0, 1 and 2 (a program may have started
 * with its standard streams closed).  Takes `fd`, returns the new one or -1 with
 * errno; `fd` is closed either way unless it is returned. */
int mp_fd_high(int fd);

/* Waits until `fd` has one of `events` (poll's), for one slice at most.  0, EINTR
 * (signal or slice), ETIMEDOUT, or another errno. */
int mp_fd_wait(int fd, short events, mp_time deadline);

/* Writes all of it, through EINTR and short writes.  0 or errno. */
int mp_fd_write_all(int fd, const void *data, size_t n);

/* Descriptors whose other ends wait for their last copy to be closed: pipes.  A host may have
 * several members, and the child of one cannot reach what the others have: it closes that.
 * own: `owner` has it, 0: nobody any more.  leave: in a child of `owner`, which goes on as
 * `child`. */
void mp_fd_own(int fd, uint32_t owner);
void mp_fd_leave(uint32_t owner, uint32_t child);

#endif
