/* Time: one clock, one unit. */
#ifndef MP_OS_CLOCK_H
#define MP_OS_CLOCK_H
#include <stdint.h>

/* Nanoseconds on CLOCK_MONOTONIC.  A deadline is an instant of this clock. */
typedef int64_t mp_time;

#define MP_FOREVER INT64_MAX /* the deadline that never comes */
#define MP_NEVER 0           /* the deadline that has passed: do not wait */

mp_time mp_now(void);

/* The deadline `seconds` from now; 0 or less gives MP_NEVER, a number too large
 * for the clock MP_FOREVER.  NaN counts as 0. */
mp_time mp_deadline(double seconds);

#endif
