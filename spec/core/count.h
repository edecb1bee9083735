/* Counting what is true. */
#ifndef COUNT_H
#define COUNT_H
#include <stdio.h>

static _Atomic int failed, passed;
static const char *running = "";
static long running_point;

#define CHECK(what)                                                                        \
  do {                                                                                     \
    if (what) passed++;                                                                    \
    else {                                                                                 \
      failed++;                                                                            \
      printf("%s:%d: not true: %s (%s, kill point %ld)\n", __FILE__, __LINE__, #what,      \
             running, running_point);                                                      \
    }                                                                                      \
  } while (0)

static inline int report(const char *name) {
  printf("%s: %d passed, %d failed\n", name, passed, failed);
  return failed != 0;
}

#endif
