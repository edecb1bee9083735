/* Small blocks of the command's Lua heap. */
#ifndef MP_SMALL_H
#define MP_SMALL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MP_SMALL_MAX 512 /* bytes */

/* Where small blocks lie, 0 before the first one; what has memory ends at `top`. */
extern struct mp_small_place {
  uintptr_t base, top, end;
} mp_small;

static inline bool mp_is_small(const void *p) {
  return (uintptr_t)p - mp_small.base < mp_small.top - mp_small.base;
}

/* A block of 1 to MP_SMALL_MAX bytes; NULL: there is no room, take another allocator's. */
void *mp_small_alloc(size_t size);
/* Gives it back. */
void mp_small_free(void *p);
/* Bytes that a block of that size has. */
static inline size_t mp_small_room(size_t size) { return (size + 15) & ~(size_t)15; }

#endif
