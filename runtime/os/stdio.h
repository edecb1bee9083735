/* What stdio holds when a process forks: nothing of it may be written twice. */
#ifndef MP_OS_STDIO_H
#define MP_OS_STDIO_H

/* Before a fork: writes what the open files hold.  In a process with other threads a
 * file that another thread uses at the moment (it may be blocked in it for ever) is left
 * as it is. */
void mp_stdio_flush(void);

/* After it, in the child: forgets what is the parent's still: output that was not
 * written, input that was read ahead on stdin. */
void mp_stdio_forget(void);

#endif
