/* The library's Lua files, as they are built into the binaries. */
#ifndef LMP_EMBEDDED_H
#define LMP_EMBEDDED_H
#include <stddef.h>

struct lmp_module {
  const char *name;  /* "mp", "mp.process" */
  const char *chunk; /* "@mp/process.lua" */
  const char *text;
  size_t size;
};

/* Ends with a NULL name. */
extern const struct lmp_module lmp_modules[];

#endif
