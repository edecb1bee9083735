/* The monotonic clock. */
#include "clock.h"
#include <time.h>

mp_time mp_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (mp_time)t.tv_sec * 1000000000 + t.tv_nsec;
}

mp_time mp_deadline(double seconds) {
  if (!(seconds > 0)) return MP_NEVER;
  mp_time now = mp_now();
  if (seconds >= (double)(MP_FOREVER - now) / 1e9) return MP_FOREVER;
  return now + (mp_time)(seconds * 1e9);
}
