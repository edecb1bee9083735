/* Whether a process lives, as the kernel sees it. */
#ifndef MP_OS_LIFE_H
#define MP_OS_LIFE_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Nanoseconds on CLOCK_BOOTTIME, the clock of /proc's start times. */
int64_t mp_boottime(void);

/* The process `pid` that was there at `start` (mp_boottime; 0: any) has ended: a
 * zombie has, and so has one whose number another process bears now. */
bool mp_process_gone(pid_t pid, int64_t start);

#endif
